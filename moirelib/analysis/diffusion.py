"""Mean squared displacement of each layer's particles (chapter 9, "Order and defects")."""

import numpy as np
import pandas as pd

from ..crystal.neighbours import to_complex
from ..tables import check_particles, require_unique_tracks
from .frame_tables import subtract_motion
from .occupancy import Occupancy

MSD_COLUMNS = "layer lag_frames lag_s msd_nm2 msd_std_nm2 msd_raw_nm2 pairs".split()
TRACKS_AT_ONCE = 64  # so that the memory does not grow with the number of tracks
SHARED_STEPS = 3  # tracks that go on from one frame to the next; the mean step of fewer may be their own motion


def mean_squared_displacement(
    tracks: pd.DataFrame, frame_time: float | None = None, lags: int = 100, motion: dict[int, Occupancy] | None = None
) -> pd.DataFrame:
    """Mean squared displacement of each layer's particles in two dimensions, without the localization error's part.

    Errors σ along each axis add 4σ² at every lag, from both ends of a step (Savin & Doyle, Biophys. J. 88, 623 (2005)).
    This part is taken from the tracks' error bars and subtracted; where there are none, ``attrs["note"]`` says so.
    Motion during the exposure, which makes short lags smaller, is not corrected for. Particles that vibrate about their
    sites reach a constant, twice the variance over both axes; particles that diffuse give 4 D t.

    The table has ``layer, lag_frames``; ``lag_s``, NaN without a frame time; ``msd_nm2``; ``msd_std_nm2``, its standard
    error from the scatter of the tracks (NaN for one track); ``msd_raw_nm2``, with the localization error's part;
    ``pairs`` of positions. Tracks are weighted by their independent steps at that lag (Qian, Sheetz & Elson, Biophys.
    J. 60, 910 (1991), eq. B4), as `trackpy.emsd` does.

    Parameters
    ----------
    tracks, frame_time, lags : pandas.DataFrame, float, int
        Tracks, of which particle -1 is left out; time of a frame in s; largest lag in frames, if the movie is so long.
    motion : dict of int to Occupancy, optional
        Of the same movie: drift and turn of each layer's lattice are removed. From layers that are not in it, by
        default all, the mean step of three or more tracks is removed frame by frame, as `trackpy.subtract_drift` does;
        with it goes 1/n of the independent motion of n particles.
    """
    if lags < 1:
        raise ValueError(f"lags must be 1 or more frames, got {lags}")
    tracks = check_particles(tracks, name="the track table")
    require_unique_tracks(tracks)
    tables, notes = [], []
    for layer, own in tracks[tracks["particle"] >= 0].groupby("layer"):
        own = own.sort_values(["particle", "frame"])
        own["z"] = to_complex(_remove_motion(own, motion))
        error = own.reindex(columns=["y_std_nm", "x_std_nm"]).astype(float).pow(2).sum(axis=1, skipna=False)
        error = error.where(np.isfinite(error))
        if error.isna().all():
            notes.append(f"layer {layer}: no error bars (y_std_nm, x_std_nm), so the localization error's part is left")
        own["error"] = error.fillna(error.mean()).fillna(0.0)  # unknown ones as the others' mean
        tables.append(_average_tracks(*_sum_tracks(own, lags)).assign(layer=int(layer)))
    if not tables or not sum(map(len, tables)):
        raise ValueError("a mean squared displacement needs particles followed over at least 2 frames")
    table = pd.concat(tables, ignore_index=True)
    table["lag_s"] = table["lag_frames"] * (np.nan if frame_time is None else frame_time)
    table = table[MSD_COLUMNS]
    table.attrs["note"] = "\n".join(notes)
    return table


def _remove_motion(own, motion) -> np.ndarray:
    """Positions (n, 2) of one layer's rows, sorted by particle and frame, without the layer's own motion, in nm."""
    points = own[["y_nm", "x_nm"]].to_numpy()
    if own["layer"].iloc[0] in (motion or {}):
        return subtract_motion(own, points, motion)
    frame, step = own["frame"], own[["y_nm", "x_nm"]].diff()
    step[(own["particle"].diff() != 0) | (frame.diff() != 1)] = np.nan
    steps = step.groupby(frame)
    drift = steps.mean().where(steps.count() >= SHARED_STEPS, 0.0).cumsum()
    return points - drift.loc[frame].to_numpy()


def _sum_tracks(own, lags):
    """Mean square step of each track at each lag, its error's part, weight and pairs, each (tracks, lags).

    Rows are sorted by particle and frame; ``error`` is the variance of each position over both axes.
    """
    frames = own.groupby("particle")["frame"].agg(["min", "max"])
    length = (frames["max"] - frames["min"]).to_numpy() + 1.0  # frames from a track's first to its last
    lags = min(lags, int(length.max(initial=1)) - 1)
    square, noise, pairs = np.zeros((3, len(frames), lags))
    track = own["particle"].factorize()[0]
    row = own["frame"].to_numpy() - frames["min"].to_numpy()[track]
    for k in range(0, len(frames), TRACKS_AT_ONCE):
        tracks, some = slice(k, k + TRACKS_AT_ONCE), (track >= k) & (track < k + TRACKS_AT_ONCE)
        at = row[some], track[some] - k  # a row for every frame, a column for every track
        e = np.zeros((at[0].max() + 1, len(length[tracks])))
        z = np.full(e.shape, np.nan + 0j)
        z[at], e[at] = own["z"].to_numpy()[some], own["error"].to_numpy()[some]
        for lag in range(1, min(lags, len(z) - 1) + 1):
            step = z[lag:] - z[:-lag]
            seen = np.isfinite(step)
            square[tracks, lag - 1] = np.sum(np.abs(step) ** 2, axis=0, where=seen)
            noise[tracks, lag - 1] = np.sum(e[lag:] + e[:-lag], axis=0, where=seen)
            pairs[tracks, lag - 1] = seen.sum(axis=0)
    # Independent steps of a diffusing track of n positions: Qian, Sheetz & Elson (1991), eq. B4; 0 beyond its end
    n, lag = length[:, None], np.arange(1.0, lags + 1)
    left = np.maximum(n - lag, 1.0)
    short = 6 * left**2 * lag / np.maximum(4 * n * lag**2 + 2 * n - lag - 5 * lag**3, 1e-9)
    long = 1 / (1 + (left**3 - 4 * left**2 * lag + 5 * lag - n) / (6 * left * lag**2))
    independent = np.where(lag < n, np.where(lag > n / 2, long, short), 0.0)
    return square / np.maximum(pairs, 1), noise / np.maximum(pairs, 1), independent * pairs / left, pairs


def _average_tracks(square, noise, weight, pairs) -> pd.DataFrame:
    """Weighted means over the tracks (tracks, lags) and their standard errors, for lags that some track has."""
    there = np.flatnonzero(pairs.any(axis=0))
    square, noise, weight, pairs = (x[:, there] for x in (square, noise, weight, pairs))
    total, tracks = weight.sum(axis=0), (pairs > 0).sum(axis=0)
    raw, part = (np.sum(weight * x, axis=0) / total for x in (square, noise))
    scatter = np.sqrt(np.sum((weight * (square - noise - raw + part)) ** 2, axis=0)) / total
    with np.errstate(divide="ignore", invalid="ignore"):
        scatter = np.where(tracks > 1, scatter * np.sqrt(tracks / (tracks - 1)), np.nan)
    columns = {"lag_frames": there + 1, "msd_nm2": raw - part, "msd_std_nm2": scatter, "msd_raw_nm2": raw}
    return pd.DataFrame(columns | {"pairs": pairs.sum(axis=0).astype(int)})
