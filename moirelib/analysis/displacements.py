"""From tracks to displacements without drift, their localization error and mean square (chapters 8 and 9)."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.fft import irfft, next_fast_len, rfft
from scipy.signal import savgol_coeffs, savgol_filter
from scipy.spatial import cKDTree

from ..crystal.neighbours import NEIGHBOUR_REACH, nearest_spacing, to_complex, to_points
from ..tables import check_particles, require_unique_tracks
from .occupancy import Occupancy, subtract_motion

# By hand where no reason is given.
MIN_FRAMES = 10  # fewer give no amplitude worth its error bar
MIN_PARTICLES = 3  # in a frame; two always fit a turned and shifted frame
SITES_AT_REST, MOST_SITE_ROUNDS = 1e-5, 100  # nm; sites have converged when they move by less, or after so many rounds
FRAMES_PER_DEGREE = 5  # of a polynomial in time; a higher degree would follow the vibrations
SHORTEST_PARABOLA = 5  # frames; a parabola through three follows every point
AXES = ("y", "x")
ERROR_BARS = ["y_std_nm", "x_std_nm"]  # columns of a table, one sigma of each position, where they are known
FREE_PLACE = 0.5  # spacings; a place with no particle nearer is free
ENCLOSED = 5  # particles around a free place that make it a vacancy
SHARE_OF_MOVIE = 4  # lags up to the movie's length over this are used
LARGEST_SITE_LOSS = 0.25  # of the variance, by estimating the sites; slower motion is not resolved by the movie
LARGEST_PARTICLE_LOSS = 0.6  # the same of one particle, which is seen in few frames
RESTORE_ROUNDS = 10  # of lost covariance and the covariance that it was lost of
NO_LONGER_CORRELATED = 0.05  # of the covariance of lag 1; below it, or below the noise, lags do not count
KNOWN_SHARE, KNOWN_SIGMA = 0.2, 4.0  # least covariance of lag 1, over the variance and over its error, to infer lag 0
CURVATURE_DOUBT = 0.5  # of what the curvature adds to the continuation to lag 0: its error
JACKKNIFE_BLOCKS = 10  # of the movie, left out one at a time
MSD_COLUMNS = "layer lag_frames lag_s msd_nm2 msd_std_nm2 msd_raw_nm2 pairs".split()
TRACKS_AT_ONCE = 64  # so that the memory does not grow with the number of tracks
TRACKS_FOR_DRIFT = 3  # that go on from one frame to the next; the mean step of fewer may be their own motion


@dataclass(frozen=True)
class Displacements:
    """Motion of one layer's particles about their sites, without the layer's own motion."""

    layer: int  # number of the layer
    particles: np.ndarray  # (n,) track numbers
    frames: np.ndarray  # (t,) frame numbers
    sites: np.ndarray  # (n, 2) (y, x) in nm where each particle rests, at the layer's mean position and orientation
    values: np.ndarray  # (t, n, 2) displacements from the sites (y, x) in nm; NaN where a particle was not seen
    localization_std: np.ndarray | None  # (n, 2) root mean square of the error bars, in nm; None where none are known
    kept: np.ndarray  # (n, 2) share of an independent displacement's variance left when the layer's motion is removed
    drift: np.ndarray  # (t, 2) motion of the layer's centre (y, x) that was removed, zero on average, in nm
    rotation: np.ndarray  # (t,) rotation that was removed, from x towards y, zero on average, in degrees
    creep: int = 0  # degree of the polynomial in time that was removed from each site; 0 is its mean

    @property
    def seen(self) -> np.ndarray:
        """Frames in which each particle was seen, shape (n,)."""
        return np.isfinite(self.values[..., 0]).sum(axis=0)

    def select(self, keep: np.ndarray) -> "Displacements":
        """Only some particles: a mask or indices, shape (n,). ValueError if none is left."""
        if len(self.particles[keep]) == 0:
            raise ValueError(f"the selection leaves no particle of layer {self.layer}; select at least one")
        known = [] if self.localization_std is None else ["localization_std"]
        chosen = {name: getattr(self, name)[keep] for name in ("particles", "sites", "kept", *known)}
        return replace(self, values=self.values[:, keep], **chosen)


def site_displacements(
    tracks: pd.DataFrame,
    layer: int = 1,
    localization_std: ArrayLike | None = None,
    strain: int | None = 1,
    creep: int = 0,
    min_share: float = 0.5,
    drift_window: int = 1,
) -> Displacements:
    """Displacements of a layer's particles from their sites, with drift, rotation and slow strain removed.

    Drift and rotation are fitted to every frame by least squares, in turn with the sites, so that missing frames do not
    pull sites along. Left out are particle -1 and what is seen in fewer than ``min_share`` of the frames. The one-sigma
    ``localization_std`` in nm, one number or (y, x), replaces the table's.

    ``strain`` and ``creep`` are the degrees of the polynomials in time that the layer's uniform strain follows (1:
    grows steadily; None removes none), and every site (0: at rest). A ``drift_window`` of 1 removes thermal motion of
    the layer as a whole as well; a longer one, in frames, keeps it where the stage moves smoothly.
    """
    frames, particles, z, error = _arrange_tracks(tracks, layer, min_share)
    seen = np.isfinite(z)
    sites = np.nanmean(z - np.nanmean(z, axis=1, keepdims=True), axis=0)
    sites += np.nanmean(z) - sites.mean()
    for _ in range(MOST_SITE_ROUNDS):
        aligned, drift, angle = _align_frames(z, seen, sites, drift_window)
        if strain is not None:
            _remove_slow_strain(aligned, seen, sites, strain)
        path = _fit_slow_path(aligned, seen, creep)
        moved = np.abs(to_points(path.mean(axis=0) - sites)).max()
        sites = path.mean(axis=0)
        if moved < SITES_AT_REST:
            break
    if localization_std is not None:
        error = np.broadcast_to(np.asarray(localization_std, float), (len(sites), 2)).copy()
    values, sites = to_points(aligned - path), to_points(sites)
    kept = 1 - _rigid_motion_leverage(sites, seen) * make_smoother(drift_window, len(frames))[1]
    return Displacements(layer, particles, frames, sites, values, error, kept, drift, np.degrees(angle), creep)


def _arrange_tracks(tracks, layer, min_share):
    """Frames, particles, positions x + iy (t, n) in nm and mean error bars (n, 2) of a layer's tracks."""
    tracks = check_particles(tracks, name="the track table")
    tracks = tracks[(tracks["layer"] == layer) & (tracks["particle"] >= 0)]
    require_unique_tracks(tracks)
    frames = tracks["frame"].nunique()
    _refuse_few_frames(layer, frames)
    count = tracks["particle"].value_counts()
    often = count.index[count >= min_share * frames]
    if len(often) < MIN_PARTICLES:
        raise ValueError(
            f"layer {layer} has {len(often)} particles seen in {min_share:.0%} of the frames; removing drift and "
            f"rotation needs at least {MIN_PARTICLES}, so link with more memory or lower min_share"
        )
    tracks = tracks[tracks["particle"].isin(often)]
    x, y = (tracks.pivot(index="frame", columns="particle", values=name) for name in ("x_nm", "y_nm"))
    z = x.to_numpy() + 1j * y.to_numpy()
    some = np.isfinite(z).sum(axis=1) >= MIN_PARTICLES
    _refuse_few_frames(layer, some.sum(), f" of at least {MIN_PARTICLES} particles")
    left = np.isfinite(z[some]).any(axis=0)
    error = np.sqrt(_square_errors(tracks).groupby(tracks["particle"]).mean().to_numpy())[left]
    known = np.isfinite(error).all()
    return x.index.to_numpy()[some], x.columns.to_numpy()[left], z[np.ix_(some, left)], error if known else None


def _square_errors(tracks) -> pd.DataFrame:
    """Variance of each position in nm² by the table's error bars; NaN where they are not known."""
    squares = tracks.reindex(columns=ERROR_BARS).astype(float) ** 2
    return squares.where(np.isfinite(squares))


def _refuse_few_frames(layer, number, what="") -> None:
    if number < MIN_FRAMES:
        raise ValueError(
            f"layer {layer} has tracks{what} in {number} frames; vibrations need at least {MIN_FRAMES}, so pass a "
            "longer movie or link its particles"
        )


def _align_frames(z, seen, sites, window):
    """Points (t, n) turned and shifted onto the sites (n,), the shift (t, 2), and the angle (t,) in radians."""
    count, middle, there = seen.sum(axis=1), sites.mean(), np.where(seen, z - sites.mean(), 0.0)
    center, home = there.sum(axis=1) / count, seen @ (sites - middle) / count
    turned = there @ np.conj(sites - middle) - count * np.conj(home) * center  # sum of conj(s - home) (z - center)
    smooth = make_smoother(window, len(z))[0]
    angle = smooth(np.unwrap(np.angle(turned)))  # from x towards y
    angle = angle - angle.mean()
    turn = np.exp(1j * angle)
    drift = smooth(to_points(center - turn * home))
    shift = to_complex(drift)
    aligned = (z - (middle + shift)[:, None]) * np.conj(turn)[:, None] + middle + shift.mean()
    return aligned, drift - drift.mean(axis=0), angle


def make_smoother(window: int, frames: int):
    """Function that smooths a series by a running parabola, and the share of white noise's variance that it follows."""
    window = min(window, frames)
    window -= 1 - window % 2  # odd
    if window < SHORTEST_PARABOLA:
        return (lambda series: series), 1.0
    center = savgol_coeffs(window, 2)[window // 2]
    return (lambda series: savgol_filter(series, window, 2, axis=0)), center


def _remove_slow_strain(aligned, seen, sites, degree) -> None:
    """Take uniform symmetric strain, a polynomial in time, out of points (t, n): r becomes r + a r + b r*, a real."""
    strain = np.empty((len(seen), 2), complex)
    for t, there in enumerate(seen):
        r = sites[there] - sites[there].mean()
        design = np.stack([r, np.conj(r)], axis=1)
        strain[t] = np.linalg.lstsq(design, aligned[t, there] - sites[there], rcond=None)[0]
    strain = strain - strain.mean(axis=0)  # the mean strain belongs to the sites
    basis = _legendre_basis(len(seen), degree)
    a, b = (basis @ np.linalg.lstsq(basis, part, rcond=None)[0] for part in (strain[:, 0].real, strain[:, 1]))
    for t, there in enumerate(seen):
        r = sites - sites[there].mean()
        aligned[t] -= a[t] * r + b[t] * np.conj(r)


def _legendre_basis(frames, degree):
    """Polynomials in time (t, degree + 1), of a lower degree where frames are few."""
    return np.polynomial.legendre.legvander(np.linspace(-1, 1, frames), min(degree, frames // FRAMES_PER_DEGREE))


def _fit_slow_path(z, seen, degree):
    """Polynomial in time through the frames in which each particle was seen, (t, n)."""
    if degree == 0:
        return np.broadcast_to(np.nanmean(z, axis=0), z.shape)
    basis = _legendre_basis(len(z), degree)
    normal = np.einsum("tn,ta,tb->nab", seen.astype(float), basis, basis)
    right = np.where(seen, z, 0.0).T @ basis
    return basis @ np.einsum("nab,nb->an", np.linalg.pinv(normal), right)


def _rigid_motion_leverage(sites, seen):
    """Share of each particle's and axis' own displacement in the fit of drift and rotation, mean over its frames."""
    total = np.zeros(sites.shape)
    for there in seen:
        r = sites[there] - sites[there].mean(axis=0)
        # a rotation moves a particle along y in proportion to its x
        total[there] += 1 / len(r) + r[:, ::-1] ** 2 / np.sum(r**2)
    return total / seen.sum(axis=0)[:, None]


def coordination_labels(sites: ArrayLike) -> np.ndarray:
    """Say of every site (n, 2), in nm, whether it is in the bulk, next to a vacancy, or at the edge; str, shape (n,).

    ``bulk`` has six neighbours; at a ``vacancy`` one is missing whose place four others or more enclose; else ``edge``.
    """
    sites = np.asarray(sites, float)
    if len(sites) < 2:
        return np.full(len(sites), "edge")
    a, tree = nearest_spacing(sites), cKDTree(sites)
    labels = np.full(len(sites), "bulk", dtype="<U7")
    for i, near in enumerate(tree.query_ball_point(sites, NEIGHBOUR_REACH * a)):  # itself included
        if len(near) <= 6:
            holes = 2 * sites[i] - sites[near]  # opposite a neighbour there should be one
            holes = holes[tree.query(holes)[0] > FREE_PLACE * a]
            enclosed = [len(around) >= ENCLOSED for around in tree.query_ball_point(holes, NEIGHBOUR_REACH * a)]
            labels[i] = "vacancy" if enclosed and all(enclosed) else "edge"
    return labels


def autocovariance(motion: Displacements, lags: int | None = None) -> np.ndarray:
    """Covariance of displacements some frames apart, mean over the particles, (lags + 1, 2) along y and x in nm².

    ``lags`` is the largest lag, a quarter of the movie by default. Lag 0 holds the localization error's variance too.
    """
    if lags is not None and lags < 1:
        raise ValueError(f"lags must be 1 or more frames, got {lags}")
    return restore_mean(pool_covariance(motion, lags), len(motion.values), motion.creep)[0]


def pool_covariance(motion: Displacements, lags: int | None = None):
    """Autocovariance (lags + 1, 2) about the estimated sites, over all pairs of frames of all particles, in nm²."""
    seen = np.isfinite(motion.values)
    frames = len(seen)
    lags = min(max(frames // SHARE_OF_MOVIE, 2) if lags is None else lags, frames - 2)
    length = next_fast_len(frames + lags + 1, real=True)

    def correlate(z):
        """Sum over t and particles of z(t) z(t + lag), shape (lags + 1, 2)."""
        power = sum(np.abs(rfft(block, length, axis=0)) ** 2 for block in np.moveaxis(z, 1, 0))
        return irfft(power, length, axis=0)[: lags + 1]

    products = correlate(np.where(seen, motion.values, 0.0) / np.sqrt(motion.kept))
    return products / np.maximum(correlate(seen.astype(float)), 1)


def restore_mean(covariance: np.ndarray, frames: int, creep: int):
    """Autocovariance about the true sites, and the share (2,) of variance lost by estimating them."""
    # The estimate of a site, the mean of T frames, scatters by (c_0 + 2 Σ c_k (1 - k/T)) / T.
    restored, falloff = covariance.copy(), 1 - np.arange(len(covariance)) / frames
    for _ in range(RESTORE_ROUNDS):
        correlated = np.where(_find_connected_lags(restored, frames, creep), restored, 0)
        lost = (creep + 1) / frames * (correlated[0] + 2 * np.sum(falloff[1:, None] * correlated[1:], axis=0))
        lost = np.clip(lost, 0, LARGEST_SITE_LOSS * covariance[0])
        restored = covariance + lost
    return restored, lost / np.maximum(restored[0], 1e-300)


def _find_connected_lags(covariance, frames, creep=0):
    """Lags before the autocovariance first falls to 5 % of that of lag 1, or to noise."""
    low = NO_LONGER_CORRELATED
    floor = np.maximum(low * np.abs(covariance[1]), low * covariance[0] / np.sqrt(frames))
    below = np.concatenate([np.zeros((1, 2), bool), covariance[1:] <= floor])
    below |= (np.arange(len(covariance)) > frames / (SHARE_OF_MOVIE * (creep + 1)))[:, None]
    return np.cumsum(below, axis=0) == 0


def share_of_independent_samples(covariance: np.ndarray, frames: int):
    """Independent samples of the variance per frame (2,): 1 / (1 + 2 Σ ρ²), for a Gaussian process."""
    rho = np.where(_find_connected_lags(covariance, frames), covariance, 0) / np.maximum(covariance[0], 1e-300)
    falloff = 1 - np.arange(1, len(rho)) / frames
    return 1 / (1 + 2 * np.sum(falloff[:, None] * rho[1:] ** 2, axis=0))


@dataclass(frozen=True)
class Localization:
    """Localization error that a layer's own motion shows."""

    std: np.ndarray  # (2,) one-sigma error along y and x, in nm, mean of the layer; NaN where it cannot be estimated
    variance_std: np.ndarray  # (2,) standard error of its square, in nm²; NaN where it cannot be estimated
    largest: np.ndarray  # (2,) largest error, in nm, that the frames allow: motion has at least the covariance of lag 1
    note: str = ""  # why it cannot be estimated, or a warning; else empty


def localization_from_covariance(motion: Displacements) -> Localization:
    """Estimate the localization error from the frame-to-frame covariance of displacements.

    Errors are independent from frame to frame, so they add to lag 0 only; motion is correlated, so its lags 1 to 3 are
    continued to lag 0. NaN where motion is too fast for the frame rate. Only an average over the layer is estimated.
    For free diffusion: Vestergaard, Blainey & Flyvbjerg, Phys. Rev. E 89, 022726 (2014).
    """
    full = autocovariance(motion)
    if len(full) < 4:
        unknown = np.full(2, np.nan)
        return Localization(unknown, unknown, unknown, "too few frames for the autocovariance")
    blocks = np.array_split(np.arange(len(motion.values)), JACKKNIFE_BLOCKS)
    # NaN instead of the frames left out keeps the lags right.
    left_out = (np.isin(np.arange(len(motion.values)), block)[:, None, None] for block in blocks)
    motions = (replace(motion, values=np.where(gone, np.nan, motion.values)) for gone in left_out)
    parts = np.stack([pool_covariance(some, 3) for some in motions])
    spread = _jackknife(parts)
    known = (full[1] > KNOWN_SHARE * full[0]) & (full[1] > KNOWN_SIGMA * spread[1])
    estimate, error = np.full((2, 2), np.nan)
    parts = parts + full[:4] - pool_covariance(motion, 3)
    for axis in np.flatnonzero(known):
        # the curvature of the continuation only where it is significant
        sure = full[2:4, axis] > KNOWN_SIGMA * spread[2:4, axis]
        weights = [[1.0, 0, 0], [2.0, -1, 0], [3.0, -3, 1]][int(sure[0]) + int(sure.all())]
        lags = np.vstack([full[None, 1:4, axis], parts[:, 1:4, axis]])
        value, *left = np.exp(np.log(np.maximum(lags, 1e-300)) @ weights)
        estimate[axis] = full[0, axis] - np.clip(value, 0, full[0, axis])
        linear = full[1, axis] ** 2 / full[2, axis] if full[2, axis] > 0 else full[1, axis]
        error[axis] = np.hypot(_jackknife(np.array(left)), CURVATURE_DOUBT * abs(value - linear))
    note = ""
    if not known.all():
        axes = " and ".join(a for a, k in zip(AXES, known, strict=True) if not k)
        note = (
            f"along {axes}, displacements are hardly correlated from frame to frame, so vibration and localization "
            "error cannot be told apart; give error bars (y_std_nm, x_std_nm) or film faster"
        )
    largest = np.sqrt(np.maximum(full[0] - np.maximum(full[1], 0), 0))
    return Localization(np.sqrt(estimate), error, largest, note)


def _jackknife(parts) -> np.ndarray:
    """Standard error of an estimate from those with one block left out each (blocks, ...)."""
    return np.sqrt((1 - 1 / JACKKNIFE_BLOCKS) * np.sum((parts - parts.mean(axis=0)) ** 2, axis=0))


def error_variance(motion: Displacements) -> tuple[np.ndarray, np.ndarray, str]:
    """Localization error's variance (n, 2) and its standard error (2,), in nm², and a note: given, or estimated."""
    if motion.localization_std is not None:
        return motion.localization_std**2, np.zeros(2), ""
    found = localization_from_covariance(motion)
    return np.broadcast_to(found.std**2, motion.sites.shape), found.variance_std, found.note


def require_error(motion: Displacements, what: str) -> np.ndarray:
    """Localization error's variance (n, 2) in nm²; ValueError where what is asked for needs it and it is not known."""
    error, _, note = error_variance(motion)
    if note:
        raise ValueError(f"{what} of layer {motion.layer} need the localization error: {note}")
    return error


def total_variance(motion: Displacements) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Variance (n, 2) of motion and error in nm², its independent samples (n, 2), covariance (n,) of y and x in nm²."""
    frames, seen = len(motion.values), motion.seen[:, None]
    restored, share = restore_mean(pool_covariance(motion), frames, motion.creep)
    kept = motion.kept * (1 - np.minimum(share * frames / seen, LARGEST_PARTICLE_LOSS))
    total = np.nanmean(motion.values**2, axis=0) / kept
    samples = seen * share_of_independent_samples(restored, frames) - (motion.creep + 1)
    covariance = np.nanmean(motion.values[..., 0] * motion.values[..., 1], axis=0)
    return total, np.maximum(samples, 1.0), covariance / np.sqrt(kept.prod(axis=1))


def mean_squared_displacement(
    tracks: pd.DataFrame, frame_time: float | None = None, lags: int = 100, motion: dict[int, Occupancy] | None = None
) -> pd.DataFrame:
    """Mean squared displacement of each layer's particles in two dimensions, without the localization error's part.

    Errors σ along each axis add 4σ² at every lag (Savin & Doyle, Biophys. J. 88, 623 (2005)); this part is subtracted
    where the tracks have error bars, else ``attrs["note"]`` says so. Motion during the exposure makes short lags
    smaller. Particles that vibrate about their sites reach a constant; particles that diffuse give 4 D t.

    The table has ``layer, lag_frames``, up to ``lags``; ``lag_s``, NaN without a frame time; ``msd_nm2``;
    ``msd_std_nm2``, its standard error from the scatter of the tracks (NaN for one track); ``msd_raw_nm2``, with the
    localization error's part; ``pairs`` of positions. Tracks, other than -1, are weighted by their independent steps
    (Qian, Sheetz & Elson, Biophys. J. 60, 910 (1991), eq. B4), as `trackpy.emsd` does.

    The ``motion`` of each layer's lattice in the same movie is removed. Without it, the mean step of three or more
    tracks is, as `trackpy.subtract_drift` does; with it goes 1/n of the independent motion of n particles.
    """
    if lags < 1:
        raise ValueError(f"lags must be 1 or more frames, got {lags}")
    tracks = check_particles(tracks, name="the track table")
    require_unique_tracks(tracks)
    tables, notes = [], []
    for layer, own in tracks[tracks["particle"] >= 0].groupby("layer"):
        own = own.sort_values(["particle", "frame"])
        points, frame = own[["y_nm", "x_nm"]], own["frame"]
        if layer in (motion or {}):
            own["z"] = to_complex(subtract_motion(own, points, motion))
        else:  # the mean step of the layer's tracks is taken for its motion
            step = points.diff().where((own["particle"].diff() == 0) & (frame.diff() == 1)).groupby(frame)
            drift = step.mean().where(step.count() >= TRACKS_FOR_DRIFT, 0.0).cumsum()
            own["z"] = to_complex(points.to_numpy() - drift.loc[frame].to_numpy())
        error = _square_errors(own).sum(axis=1, skipna=False)
        if error.isna().all():
            notes.append(f"layer {layer}: no error bars (y_std_nm, x_std_nm), so the localization error's part is left")
        own["error"] = error.fillna(error.mean()).fillna(0.0)  # unknown ones as the others' mean
        tables.append(_average_tracks(own, lags).assign(layer=int(layer)))
    if not tables or not sum(map(len, tables)):
        raise ValueError("a mean squared displacement needs particles followed over at least 2 frames")
    table = pd.concat(tables, ignore_index=True)
    table["lag_s"] = table["lag_frames"] * (np.nan if frame_time is None else frame_time)
    table = table[MSD_COLUMNS]
    table.attrs["note"] = "\n".join(notes)
    return table


def _average_tracks(own, lags) -> pd.DataFrame:
    """Weighted means over the tracks, of rows sorted by particle and frame; ``error`` is a variance over both axes."""
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
    n, delay = length[:, None], np.arange(1.0, lags + 1)
    left = np.maximum(n - delay, 1.0)
    short = 6 * left**2 * delay / np.maximum(4 * n * delay**2 + 2 * n - delay - 5 * delay**3, 1e-9)
    long = 1 / (1 + (left**3 - 4 * left**2 * delay + 5 * delay - n) / (6 * left * delay**2))
    independent = np.where(delay < n, np.where(delay > n / 2, long, short), 0.0)
    weight = independent * pairs / left
    square, noise = square / np.maximum(pairs, 1), noise / np.maximum(pairs, 1)
    there = np.flatnonzero(pairs.any(axis=0))
    square, noise, weight, pairs = (x[:, there] for x in (square, noise, weight, pairs))
    total, count = weight.sum(axis=0), (pairs > 0).sum(axis=0)
    raw, part = (np.sum(weight * x, axis=0) / total for x in (square, noise))
    scatter = np.sqrt(np.sum((weight * (square - noise - raw + part)) ** 2, axis=0)) / total
    with np.errstate(divide="ignore", invalid="ignore"):
        scatter = np.where(count > 1, scatter * np.sqrt(count / (count - 1)), np.nan)
    columns = {"lag_frames": there + 1, "msd_nm2": raw - part, "msd_std_nm2": scatter, "msd_raw_nm2": raw}
    return pd.DataFrame(columns | {"pairs": pairs.sum(axis=0).astype(int)})
