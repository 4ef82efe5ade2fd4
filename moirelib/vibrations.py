"""From tracks to vibrations: displacements from the sites, amplitudes without the localization error, spring constants.

Positions and displacements are (y, x) in nm, spring constants in kT/nm². Phonons are in `moirelib.phonons`.
Explained in chapter 8, "Vibrations".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.fft import irfft, next_fast_len, rfft
from scipy.signal import savgol_coeffs, savgol_filter
from scipy.spatial import cKDTree
from scipy.stats import chi2, norm

from .elastic import bonds
from .tables import checked_particles, require_unique_tracks

__all__ = [
    "Displacements",
    "Localization",
    "autocovariance",
    "coordination_labels",
    "error_variance",
    "every_layer",
    "group_vibrations",
    "interlayer_correlation",
    "layer_vibrations",
    "localization_from_covariance",
    "pn_per_um",
    "site_displacements",
    "site_spacing",
    "site_vibrations",
    "total_variance",
    "vibrations",
]

#: Fewer frames than this give no amplitude worth its error bar.
MIN_FRAMES = 10
_AXES = ("y", "x")


# --- Displacements ---


@dataclass(frozen=True)
class Displacements:
    """Motion of one layer's particles about their sites, without the layer's own motion.

    Explained in chapter 8, "Vibrations".

    Parameters
    ----------
    layer : int
        Number of the layer.
    particles : ndarray of int, shape (n,)
        Track numbers.
    frames : ndarray of int, shape (t,)
        Frame numbers.
    sites : ndarray, shape (n, 2)
        Where each particle rests (y, x) at the mean position and orientation of the layer, in nm.
    values : ndarray, shape (t, n, 2)
        Displacements from the sites (y, x) in nm; NaN where a particle was not seen.
    localization_std : ndarray, shape (n, 2), or None
        Root mean square of the error bars, in nm; None where none are known.
    kept : ndarray, shape (n, 2)
        Share of an independent displacement's variance that is left after the layer's motion was removed.
    drift : ndarray, shape (t, 2)
        Motion of the layer's centre (y, x) that was removed, zero on average, in nm.
    rotation : ndarray, shape (t,)
        Rotation that was removed, from x towards y, zero on average, in degrees.
    creep : int
        Degree of the polynomial in time that was removed from each site; 0 is its mean.
    """

    layer: int
    particles: np.ndarray
    frames: np.ndarray
    sites: np.ndarray
    values: np.ndarray
    localization_std: np.ndarray | None
    kept: np.ndarray
    drift: np.ndarray
    rotation: np.ndarray
    creep: int = 0

    @property
    def seen(self) -> np.ndarray:
        """Frames in which each particle was seen, shape (n,)."""
        return np.isfinite(self.values[..., 0]).sum(axis=0)

    def select(self, keep) -> Displacements:
        """Only some particles: a mask or indices, shape (n,). ValueError if none is left."""
        error = self.localization_std
        if len(self.particles[keep]) == 0:
            raise ValueError(f"the selection leaves no particle of layer {self.layer}; select at least one")
        return replace(
            self,
            particles=self.particles[keep],
            sites=self.sites[keep],
            values=self.values[:, keep],
            localization_std=None if error is None else error[keep],
            kept=self.kept[keep],
        )


def site_displacements(
    tracks: pd.DataFrame,
    layer: int = 1,
    localization_std=None,
    strain: int | None = 1,
    creep: int = 0,
    min_share: float = 0.5,
    drift_window: int = 1,
) -> Displacements:
    """Displacements of a layer's particles from their sites, with drift, rotation and slow strain removed.

    Parameters
    ----------
    tracks : pandas.DataFrame
        ``frame, particle, layer, y_nm, x_nm`` and, if known, ``y_std_nm, x_std_nm``; particle -1 is left out.
    layer : int
        Number of the layer.
    localization_std : float or (float, float), optional
        One-sigma localization error (y, x) of every particle, in nm; by default the table's.
    strain : int, optional
        Degree of the polynomial in time that the layer's uniform strain follows (1: grows steadily); None removes none.
    creep : int
        Degree of the polynomial in time that every site follows; 0 is a site at rest.
    min_share : float
        Particles seen in fewer than this share of the frames are left out.
    drift_window : int
        Frames over which drift and rotation are smoothed (by a parabola through as many frames) before they are
        removed; 1 removes all of it, frame by frame.

    Returns
    -------
    Displacements

    Raises
    ------
    ValueError
        If a column is missing or holds something else than numbers, a particle stands twice in a frame, or fewer than
        10 frames or 3 particles are left.

    Notes
    -----
    Drift and rotation are fitted to every frame by least squares, to the particles seen in it, in turn with the sites
    until neither changes, so that missing frames do not pull sites along. Of the strain only what is slow is removed,
    since uniform strain of a small crystal vibrates too. With a `drift_window` of 1, thermal motion of the layer as a
    whole is taken for drift, and amplitudes are those relative to the layer. A longer window keeps it, but is right
    only where the stage moves smoothly over so many frames. Explained in chapter 8, "Vibrations".
    """
    frames, particles, points, error = _arrays(tracks, layer, min_share)
    seen = np.isfinite(points[..., 0])
    sites = np.nanmean(points - np.nanmean(points, axis=1, keepdims=True), axis=0)
    sites += np.nanmean(points, axis=(0, 1)) - sites.mean(axis=0)
    for _ in range(100):
        aligned, drift, angle = _aligned(points, seen, sites, drift_window)
        if strain is not None:
            aligned = aligned - _slow_strain(aligned - sites, sites, seen, strain)
        path = _slow_path(aligned, seen, creep)
        moved = np.abs(path.mean(axis=0) - sites).max()
        sites = path.mean(axis=0)
        if moved < 1e-5:
            break
    if localization_std is not None:
        error = np.broadcast_to(np.asarray(localization_std, float), sites.shape).copy()
    values = np.where(seen[..., None], aligned - path, np.nan)
    kept = 1 - _leverage(sites, seen) * _smoothing(drift_window, len(frames))[1]
    return Displacements(layer, particles, frames, sites, values, error, kept, drift, np.degrees(angle), creep)


def _arrays(tracks, layer, min_share):
    """Frames, particles, positions (t, n, 2) and mean error bars (n, 2) of a layer's tracks."""
    rows = checked_particles(tracks, name="the track table")
    rows = rows[(rows["layer"] == layer) & (rows["particle"] >= 0)]
    require_unique_tracks(rows)
    frames, row = np.unique(rows["frame"], return_inverse=True)
    _refuse_few_frames(layer, len(frames))
    count = rows.groupby("particle")["frame"].transform("size")
    row, rows = row[count >= min_share * len(frames)], rows[count >= min_share * len(frames)]
    particles, column = np.unique(rows["particle"], return_inverse=True)
    if len(particles) < 3:
        raise ValueError(
            f"layer {layer} has {len(particles)} particles seen in {min_share:.0%} of the frames; removing drift and "
            "rotation needs at least 3, so link with more memory or lower min_share"
        )
    points = np.full((len(frames), len(particles), 2), np.nan)
    points[row, column] = rows[["y_nm", "x_nm"]]
    seen = np.isfinite(points[..., 0])
    some = seen.sum(axis=1) >= 3  # a rotation needs more than two
    _refuse_few_frames(layer, some.sum(), " of at least 3 particles")
    left = seen[some].any(axis=0)
    error = None
    if {"y_std_nm", "x_std_nm"} <= set(rows):
        squares = (rows[["y_std_nm", "x_std_nm"]] ** 2).groupby(column).mean().to_numpy()[left]
        error = np.sqrt(squares) if np.isfinite(squares).all() else None
    return frames[some], particles[left], points[np.ix_(some, left)], error


def _refuse_few_frames(layer, number, what="") -> None:
    if number < MIN_FRAMES:
        raise ValueError(
            f"layer {layer} has tracks{what} in {number} frames; vibrations need at least {MIN_FRAMES}, so pass a "
            "longer movie or link its particles"
        )


def _aligned(points, seen, sites, window):
    """Points turned and shifted onto the sites frame by frame, the shift (t, 2) and the angle (t,) in radians."""
    weight = seen / seen.sum(axis=1, keepdims=True)
    points = np.where(seen[..., None], points, 0.0)
    center, home = np.einsum("tn,tni->ti", weight, points), weight @ sites
    p, s = points - center[:, None], (sites - home[:, None]) * seen[..., None]
    dot = np.einsum("tni,tni->t", p, s)
    cross = np.einsum("tn,tn->t", p[..., 0], s[..., 1]) - np.einsum("tn,tn->t", p[..., 1], s[..., 0])
    smooth = _smoothing(window, len(points))[0]
    angle = smooth(np.unwrap(np.arctan2(cross, dot)))  # from x towards y
    angle = angle - angle.mean()
    c, n = np.cos(angle), np.sin(angle)
    turn = np.stack([np.stack([c, n], axis=-1), np.stack([-n, c], axis=-1)], axis=1)  # of (y, x), site to frame
    middle = sites.mean(axis=0)
    drift = smooth(center - np.einsum("tij,tj->ti", turn, home - middle) - middle)
    mean = drift.mean(axis=0)
    aligned = np.einsum("tji,tnj->tni", turn, points - (middle + drift)[:, None]) + middle + mean
    return np.where(seen[..., None], aligned, np.nan), drift - mean, angle


def _smoothing(window, frames):
    """Function that smooths a series by a running parabola, and the share of white noise's variance that it follows."""
    window = min(window, frames)
    window -= 1 - window % 2  # odd
    if window < 5:
        return (lambda series: series), 1.0
    center = savgol_coeffs(window, 2)[window // 2]
    return (lambda series: savgol_filter(series, window, 2, axis=0)), center


def _slow_strain(residual, sites, seen, degree):
    """Uniform symmetric strain, a polynomial in time, times the position: what it moves each particle by."""
    residual = np.where(seen[..., None], residual, 0.0)
    home = (seen @ sites) / seen.sum(axis=1, keepdims=True)
    r = (sites - home[:, None]) * seen[..., None]
    gradient = np.einsum("tni,tnj->tij", residual, r) @ np.linalg.pinv(np.einsum("tni,tnj->tij", r, r))
    gradient = 0.5 * (gradient + gradient.transpose(0, 2, 1))
    gradient = gradient - gradient.mean(axis=0)  # the mean strain belongs to the sites
    basis = _legendre(len(seen), degree)
    slow = basis @ np.linalg.lstsq(basis, gradient.reshape(len(seen), 4), rcond=None)[0]
    return np.einsum("tij,tnj->tni", slow.reshape(-1, 2, 2), r)


def _legendre(frames, degree):
    """Polynomials in time (t, degree + 1), of a degree that so many frames can bear."""
    return np.polynomial.legendre.legvander(np.linspace(-1, 1, frames), min(degree, frames // 5))


def _slow_path(points, seen, degree):
    """Polynomial in time through the frames in which each particle was seen, (t, n, 2)."""
    if degree == 0:
        return np.broadcast_to(np.nanmean(points, axis=0), points.shape)
    basis = _legendre(len(points), degree)
    normal = np.einsum("tn,ta,tb->nab", seen.astype(float), basis, basis)
    right = np.einsum("tni,ta->nai", np.where(seen[..., None], points, 0.0), basis)
    return np.einsum("ta,nai->tni", basis, np.linalg.pinv(normal) @ right)


def _leverage(sites, seen):
    """Share of each particle's and axis' own displacement in the fit of drift and rotation, mean over its frames."""
    count = seen.sum(axis=1, keepdims=True)
    r = sites - ((seen @ sites) / count)[:, None]
    square = np.sum(r**2 * seen[..., None], axis=(1, 2))[:, None]
    # a rotation moves a particle along y in proportion to its x
    share = 1 / count[..., None] + r[..., ::-1] ** 2 / square[..., None]
    return np.sum(share * seen[..., None], axis=0) / seen.sum(axis=0)[:, None]


# --- Correlation in time ---


def autocovariance(motion: Displacements, lags: int | None = None) -> np.ndarray:
    """Covariance of displacements that are some frames apart, averaged over the layer's particles.

    Parameters
    ----------
    motion : Displacements
        Of one layer. Frames are taken as equally spaced.
    lags : int, optional
        Largest lag, in frames; a quarter of the movie by default.

    Returns
    -------
    ndarray, shape (lags + 1, 2)
        Along y and x, in nm². Lag 0 holds the localization error's variance as well. What removing the sites' means
        took is put back.

    Raises
    ------
    ValueError
        If the largest lag is not positive.

    Notes
    -----
    Explained in chapter 8, "Vibrations".
    """
    if lags is not None and lags < 1:
        raise ValueError(f"lags must be 1 or more frames, got {lags}")
    return _mean_restored(_pooled_covariance(motion, lags), len(motion.values), motion.creep)[0]


def _pooled_covariance(motion, lags=None):
    """Autocovariance (lags + 1, 2) about the estimated sites, over all pairs of frames of all particles, in nm²."""
    seen = np.isfinite(motion.values)
    frames = len(seen)
    lags = min(max(frames // 4, 2) if lags is None else lags, frames - 2)
    scaled = np.where(seen, motion.values, 0.0) / np.sqrt(motion.kept)
    products, pairs = _correlation(scaled, lags), _correlation(seen.astype(float), lags)
    return products / np.maximum(pairs, 1)


def _correlation(z, lags):
    """Sum over t and particles of z(t) z(t + lag), shape (lags + 1, 2)."""
    length = next_fast_len(len(z) + lags + 1, real=True)
    power = sum(np.abs(rfft(block, length, axis=0)) ** 2 for block in np.moveaxis(z, 1, 0))
    return irfft(power, length, axis=0)[: lags + 1]


def _mean_restored(covariance, frames, creep):
    """Autocovariance about the true sites, and the share of the variance (2,) that estimating the sites takes.

    The mean of T frames scatters by (1/T)(c_0 + 2 Σ c_k), which is missing from every lag.
    """
    restored, falloff = covariance.copy(), 1 - np.arange(len(covariance)) / frames
    for _ in range(10):
        correlated = np.where(_connected(restored, frames, creep), restored, 0)
        lost = (creep + 1) / frames * (correlated[0] + 2 * np.sum(falloff[1:, None] * correlated[1:], axis=0))
        lost = np.clip(lost, 0, 0.25 * covariance[0])  # motion slower than that is not resolved by the movie
        restored = covariance + lost
    return restored, lost / np.maximum(restored[0], 1e-300)


def _connected(covariance, frames, creep=0):
    """Lags before the autocovariance first falls to 5 % of that of lag 1, or to noise."""
    floor = np.maximum(0.05 * np.abs(covariance[1]), 0.05 * covariance[0] / np.sqrt(frames))
    below = np.concatenate([np.zeros((1, 2), bool), covariance[1:] <= floor])
    below |= (np.arange(len(covariance)) > frames / (4 * (creep + 1)))[:, None]
    return np.cumsum(below, axis=0) == 0


def _independent_share(covariance, frames):
    """Independent samples of the variance per frame (2,): 1 / (1 + 2 Σ ρ²), for a Gaussian process."""
    rho = np.where(_connected(covariance, frames), covariance, 0) / np.maximum(covariance[0], 1e-300)
    falloff = 1 - np.arange(1, len(rho)) / frames
    return 1 / (1 + 2 * np.sum(falloff[:, None] * rho[1:] ** 2, axis=0))


@dataclass(frozen=True)
class Localization:
    """Localization error that a layer's own motion shows.

    Explained in chapter 8, "Vibrations".

    Parameters
    ----------
    std : ndarray, shape (2,)
        One-sigma error along y and x, in nm, averaged over the layer; NaN where frames do not tell.
    variance_std : ndarray, shape (2,)
        Standard error of its square, in nm²; NaN where frames do not tell.
    largest : ndarray, shape (2,)
        Largest error, in nm, that the frames allow in any case: motion has at least the covariance of lag 1.
    note : str
        Why not, or a warning; empty otherwise.
    """

    std: np.ndarray
    variance_std: np.ndarray
    largest: np.ndarray
    note: str = ""


def localization_from_covariance(motion: Displacements) -> Localization:
    """Estimate the localization error from the frame-to-frame covariance of displacements.

    Parameters
    ----------
    motion : Displacements
        Of one layer.

    Returns
    -------
    Localization

    Notes
    -----
    Errors of different frames are independent, so they add to the variance (lag 0) and to no other lag of the
    autocovariance. Motion is correlated, so it is continued from lags 1 to 3 to lag 0 as an exponential whose rate
    may change with time; the difference to the measured variance is the error's. Where
    lag 1 keeps less than a fifth of the variance, or less than four times its own error, motion is too fast for the
    frame rate to tell it from localization error, and the result is NaN. Only an average over the layer is estimated.
    Explained in chapter 8, "Vibrations".

    References
    ----------
    Vestergaard, Blainey & Flyvbjerg, Phys. Rev. E 89, 022726 (2014), for free diffusion.
    """
    full = autocovariance(motion)
    blocks = np.array_split(np.arange(len(motion.values)), 10)
    # Leaving out one tenth of the movie at a time; NaN keeps the lags right.
    parts = np.stack([_pooled_covariance(_without(motion, block), min(3, len(full) - 1)) for block in blocks])
    spread = np.sqrt(0.9 * np.sum((parts - parts.mean(axis=0)) ** 2, axis=0))
    if len(full) < 4:
        return Localization(*np.full((3, 2), np.nan), "too few frames for the autocovariance")
    known = (full[1] > 0.2 * full[0]) & (full[1] > 4 * spread[1])
    estimate, error = np.full((2, 2), np.nan)
    offset = full[:4] - _pooled_covariance(motion, 3)
    for axis in np.flatnonzero(known):
        value, used = _continued(full[:4, axis], spread[:, axis])
        left = [_continued((p + offset)[:, axis], spread[:, axis], used)[0] for p in parts]
        motion_variance = np.clip(value, 0, full[0, axis])
        estimate[axis] = full[0, axis] - motion_variance
        statistical = np.sqrt(0.9 * np.sum((np.array(left) - np.mean(left)) ** 2))
        # the share of the continuation that its own curvature added is as uncertain as it is large
        linear = full[1, axis] ** 2 / full[2, axis] if full[2, axis] > 0 else full[1, axis]
        error[axis] = np.hypot(statistical, 0.5 * abs(value - linear))
    note = ""
    if not known.all():
        axes = " and ".join(a for a, k in zip(_AXES, known, strict=True) if not k)
        note = (
            f"along {axes}, displacements are hardly correlated from frame to frame, so vibration and localization "
            "error cannot be told apart; give error bars (y_std_nm, x_std_nm) or film faster"
        )
    largest = np.sqrt(np.maximum(full[0] - np.maximum(full[1], 0), 0))
    return Localization(np.sqrt(estimate), error, largest, note)


def _without(motion, frames):
    values = motion.values.copy()
    values[frames] = np.nan
    return replace(motion, values=values)


def _continued(covariance, spread, terms=None):
    """Lag 0 of the motion from lags 1 to 3, by log-polynomials; the curvature only where it is significant."""
    c = np.asarray(covariance[1:4], float)
    if terms is None:
        good = c > 4 * spread[1:4]
        terms = 1 + int(good[1]) + int(good[1] and good[2])
    log = np.log(np.maximum(c, 1e-300))
    weights = {1: [1.0, 0, 0], 2: [2.0, -1, 0], 3: [3.0, -3, 1]}[terms]
    return float(np.exp(np.dot(weights, log))), terms


# --- Amplitudes and spring constants ---


def pn_per_um(spring_constant: float | np.ndarray, temperature: float = 298.15) -> float | np.ndarray:
    """Convert a spring constant from kT/nm² to pN/µm.

    Parameters
    ----------
    spring_constant : float or ndarray
        In kT/nm².
    temperature : float
        In kelvin.

    Returns
    -------
    float or ndarray
        In pN/µm.

    Examples
    --------
    >>> round(pn_per_um(1.0))
    4116

    Notes
    -----
    Explained in chapter 8, "Vibrations".
    """
    return spring_constant * 1.380649e-23 * temperature * 1e24  # J/nm² = 10¹⁸ N/m = 10²⁴ pN/µm


def site_vibrations(motion: Displacements, confidence: float = 0.95) -> pd.DataFrame:
    """Amplitude and spring constant of every site, along y and x, with the localization error's part subtracted.

    Parameters
    ----------
    motion : Displacements
        Of one layer. Without error bars the localization error is estimated (`localization_from_covariance`).
    confidence : float
        Of the intervals.

    Returns
    -------
    pandas.DataFrame
        One row per particle: ``particle, layer, y_nm, x_nm, frames``; then for each axis, here y: ``std_raw_y_nm`` as
        measured, ``localization_y_nm``, ``std_y_nm`` of the motion alone (NaN where the error explains all of it), its
        interval ``std_y_low_nm, std_y_high_nm``, ``k_y_kt_nm2`` = kT/variance with ``k_y_low_kt_nm2, k_y_high_kt_nm2``;
        ``cov_yx_nm2`` of the two axes and ``samples``, the number of independent ones. ``attrs["note"]`` says what is
        missing.

    Raises
    ------
    ValueError
        If `confidence` is not between 0 and 1.

    Notes
    -----
    The variance is that of independent motion: removed drift and rotation and the estimated mean are corrected for. The
    interval of the total variance is the one of chi-square with the effective number of independent samples; the
    error's variance is then taken from its ends. Where the lower end is not positive, the upper bound of k is infinite:
    the motion may be zero. Intervals suppose Gaussian displacements and error bars that are right and independent from
    frame to frame. Explained in chapter 8, "Vibrations".
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    error, error_spread, note = error_variance(motion)
    total, samples, covariance = total_variance(motion)
    low, high = _variance_interval(total, samples, confidence)
    z = norm.ppf(0.5 + confidence / 2)
    variance = total - error
    # interval of a difference from the intervals of its terms (MOVER)
    low = variance - np.hypot(total - low, z * error_spread)
    high = variance + np.hypot(high - total, z * error_spread)
    table = pd.DataFrame({"particle": motion.particles, "layer": motion.layer})
    table["y_nm"], table["x_nm"] = motion.sites.T
    table["frames"] = motion.seen
    for i, a in enumerate(_AXES):
        table[f"std_raw_{a}_nm"] = np.sqrt(total[:, i])
        table[f"localization_{a}_nm"] = np.sqrt(error[:, i])
        table[f"std_{a}_nm"] = _root(variance[:, i])
        table[f"std_{a}_low_nm"] = np.sqrt(np.maximum(low[:, i], 0))
        table[f"std_{a}_high_nm"] = np.sqrt(np.maximum(high[:, i], 0))
        table[f"k_{a}_kt_nm2"] = _stiffness(variance[:, i])
        table[f"k_{a}_low_kt_nm2"] = _stiffness(high[:, i])
        table[f"k_{a}_high_kt_nm2"] = _stiffness(low[:, i])
    unknown = np.isnan(error)
    for i, a in enumerate(_AXES):
        columns = [c for c in table if f"_{a}_" in c and c.startswith(("std", "k")) and "raw" not in c]
        table.loc[unknown[:, i], columns] = np.nan
    table["cov_yx_nm2"] = covariance
    table["samples"] = samples.min(axis=1)
    table.attrs["note"] = note
    return table


def error_variance(motion: Displacements) -> tuple[np.ndarray, np.ndarray, str]:
    """Localization error's variance (n, 2) and its standard error (2,), in nm², and a note: given, or estimated."""
    if motion.localization_std is not None:
        return motion.localization_std**2, np.zeros(2), ""
    found = localization_from_covariance(motion)
    return np.broadcast_to(found.std**2, motion.sites.shape), found.variance_std, found.note


def total_variance(motion: Displacements) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Variance (n, 2) of motion and error in nm², its independent samples (n, 2), covariance (n,) of y and x in nm²."""
    frames, seen = len(motion.values), motion.seen[:, None]
    restored, share = _mean_restored(_pooled_covariance(motion), frames, motion.creep)
    kept = motion.kept * (1 - np.minimum(share * frames / seen, 0.6))
    total = np.nanmean(motion.values**2, axis=0) / kept
    samples = seen * _independent_share(restored, frames) - (motion.creep + 1)
    covariance = np.nanmean(motion.values[..., 0] * motion.values[..., 1], axis=0)
    return total, np.maximum(samples, 1.0), covariance / np.sqrt(kept.prod(axis=1))


def _variance_interval(variance, samples, confidence):
    """Interval of a variance from so many independent Gaussian samples (chi-square)."""
    tail = 0.5 * (1 - confidence)
    return variance * samples / chi2.ppf(1 - tail, samples), variance * samples / chi2.ppf(tail, samples)


def _root(variance):
    return np.sqrt(np.where(variance > 0, variance, np.nan))


def _stiffness(variance):
    """Equipartition: ½ k⟨u²⟩ = ½ kT."""
    return np.where(
        variance > 0, 1 / np.where(variance > 0, variance, 1.0), np.where(np.isnan(variance), np.nan, np.inf)
    )


def vibrations(tracks: pd.DataFrame, confidence: float = 0.95, **options) -> pd.DataFrame:
    """Amplitude and spring constant of every particle of every layer: the rows of ``vibrations.csv``.

    Parameters
    ----------
    tracks : pandas.DataFrame
        As for `site_displacements`.
    confidence : float
        Of the intervals.
    **options
        Of `site_displacements`: ``localization_std, strain, creep, min_share, drift_window``.

    Returns
    -------
    pandas.DataFrame
        As `site_vibrations`. ``attrs["note"]`` has a line for each layer that allows less, or nothing at all.

    Raises
    ------
    ValueError
        If the table is bad, or no layer has enough frames and particles.

    Notes
    -----
    Explained in chapter 8, "Vibrations".
    """
    return every_layer(tracks, lambda k: site_vibrations(site_displacements(tracks, k, **options), confidence))[0]


def every_layer(tracks: pd.DataFrame, measure: Callable[[int], pd.DataFrame]) -> tuple[pd.DataFrame, dict[int, dict]]:
    """One table of all layers that allow one.

    Parameters
    ----------
    tracks : pandas.DataFrame
        As for `site_displacements`.
    measure : callable
        Takes the number of a layer and gives its table, or raises ValueError where the layer does not allow one.
        ``attrs["note"]`` of the table may say what limits it.

    Returns
    -------
    table : pandas.DataFrame
        The tables, one after the other. ``attrs["note"]`` has a line for each layer that allows less, or nothing at
        all.
    attributes : dict of int to dict
        The other attributes of each layer's table.

    Raises
    ------
    ValueError
        If the table is bad, or no layer allows one of its own: the first layer's reason.

    Notes
    -----
    Explained in chapter 8, "Vibrations".
    """
    tracks = checked_particles(tracks, name="the track table")
    tables, notes, attributes = [], [], {}
    for layer in sorted(tracks["layer"].unique()):
        try:
            table = measure(layer)
        except ValueError as error:
            notes.append(str(error))
            continue
        if table.attrs.get("note"):
            notes.append(f"layer {layer}: {table.attrs['note']}")
        tables.append(table)
        attributes[layer], table.attrs = {k: v for k, v in table.attrs.items() if k != "note"}, {}
    if not tables:
        raise ValueError(notes[0] if notes else "the table holds no tracks; link particles first")
    result = pd.concat(tables, ignore_index=True)
    result.attrs = {"note": "\n".join(notes)}
    return result, attributes


# --- A layer as a whole ---


def layer_vibrations(motion: Displacements, spacing: float | None = None) -> dict:
    """Mean amplitude, anisotropy and Lindemann parameters of a layer.

    Parameters
    ----------
    motion : Displacements
        Of one layer, or of some of its particles (`Displacements.select`).
    spacing : float, optional
        Nearest-neighbour distance, in nm; the median one of the sites by default.

    Returns
    -------
    dict
        ``variance_y_nm2, variance_x_nm2`` (mean over the sites, error's part subtracted) and the same with ``_std``;
        ``std_raw_y_nm, std_raw_x_nm, std_y_nm, std_x_nm, k_y_kt_nm2, k_x_kt_nm2`` from it; ``anisotropy``, the ratio of
        the largest to the smallest mean variance over directions, ``anisotropy_std``, ``major_axis_deg`` from x towards
        y and ``isotropy_p``, the probability of so much anisotropy in isotropic motion; ``lindemann`` = √⟨|u|²⟩ / a;
        ``lindemann_relative`` = ⟨|u_i - u_j|²⟩ / (2a²) of nearest neighbours; ``layer_jitter_y_nm, layer_jitter_x_nm``,
        fast motion of the layer as a whole that was removed as drift: stage and heat together; ``independent_frames``;
        ``note``.

    Raises
    ------
    ValueError
        If there is one particle only, and no spacing given.

    Notes
    -----
    Standard errors come from the scatter of the frames' means, with their correlation in time, since
    neighbours in one frame do not move independently. In two dimensions the mean amplitude grows with the crystal's
    size; the relative Lindemann parameter does not, and melting is near 0.033 (Zahn & Maret, Phys. Rev. Lett. 85, 3656
    (2000)). Explained in chapter 8, "Vibrations".
    """
    error, error_spread, note = error_variance(motion)
    total, _, _ = total_variance(motion)
    raw, mean_error = total.mean(axis=0), error.mean(axis=0)
    variance = raw - mean_error
    tensor, spread, frames = _mean_tensor(motion, total)  # yy, xx, yx
    tensor[:2] -= mean_error
    spread_total = np.hypot(np.sqrt(np.diag(spread))[:2], error_spread)
    spread = spread + np.diag([*np.nan_to_num(error_spread**2), 0.0])
    a = site_spacing(motion.sites) if spacing is None else spacing
    result = {f"variance_{x}_nm2": variance[i] for i, x in enumerate(_AXES)}
    result |= {f"variance_{x}_std_nm2": spread_total[i] for i, x in enumerate(_AXES)}
    result |= {f"std_raw_{x}_nm": np.sqrt(raw[i]) for i, x in enumerate(_AXES)}
    result |= {f"std_{x}_nm": _root(variance[i]) for i, x in enumerate(_AXES)}
    result |= {f"k_{x}_kt_nm2": _stiffness(variance[i]) for i, x in enumerate(_AXES)}
    result |= _anisotropy(tensor, spread)
    result |= {f"layer_jitter_{x}_nm": v for x, v in zip(_AXES, _jitter(motion.drift), strict=True)}
    result["lindemann"] = _root(variance.sum()) / a
    result["lindemann_relative"] = (_relative_variance(motion, a) - 2 * mean_error.sum()) / (2 * a**2)
    result = {key: float(value) for key, value in result.items()}
    return result | {"independent_frames": frames, "note": note}


def _mean_tensor(motion, total):
    """Mean over sites of (u_y², u_x², u_y u_x), its covariance (3, 3) from frame to frame, and independent frames."""
    u = motion.values / np.sqrt(motion.kept)
    per_frame = np.nanmean(np.stack([u[..., 0] ** 2, u[..., 1] ** 2, u[..., 0] * u[..., 1]], axis=-1), axis=1)
    mean = per_frame.mean(axis=0)
    scale = np.sqrt(total.mean(axis=0) / mean[:2])  # puts back what the mean over time took
    factor = np.array([scale[0] ** 2, scale[1] ** 2, scale.prod()])
    independent = min(_independent_frames(x) for x in per_frame.T)
    restored = _mean_restored(_pooled_covariance(motion), len(u), motion.creep)[0]
    independent = min(independent, len(u) * _independent_share(restored, len(u)).min())
    spread = np.cov(per_frame.T) / independent
    return mean * factor, spread * np.outer(factor, factor), float(independent)


def _independent_frames(series):
    """Frames / (1 + 2 Σ ρ), summed up to the first lag at which ρ falls below twice its own noise."""
    x = series - series.mean()
    length = next_fast_len(2 * len(x), real=True)
    rho = irfft(np.abs(rfft(x, length)) ** 2, length)[: len(x) // 4 + 2]
    rho = rho / max(rho[0], 1e-300)
    below = np.flatnonzero(rho < 2 / np.sqrt(len(x)))
    end = below[0] if len(below) else len(rho)
    return float(len(x) / (1 + 2 * rho[1:end].sum()))


def _jitter(drift):
    """Standard deviation of the layer's own motion about a running parabola of 15 frames, (2,)."""
    smooth, share = _smoothing(15, len(drift))
    return np.sqrt(np.mean((drift - smooth(drift)) ** 2, axis=0) / (1 - min(share, 0.9)))


def _anisotropy(tensor, spread) -> dict:
    """Principal axes of the mean variance, from the two components that are zero for isotropic motion."""
    trace = tensor[0] + tensor[1]
    parts = np.array([tensor[1] - tensor[0], 2 * tensor[2]])  # xx - yy and 2 xy turn by twice the angle
    mix = np.array([[-1.0, 1, 0], [0, 0, 2]])
    cov = mix @ spread @ mix.T
    size = np.hypot(*parts)
    ratio = (trace + size) / (trace - size) if trace > size else np.nan
    along = parts / max(size, 1e-300)
    error = 2 * np.sqrt(max(along @ cov @ along, 0)) * trace / (trace - size) ** 2 if trace > size else np.nan
    return {
        "anisotropy": ratio,
        "anisotropy_std": error,
        "major_axis_deg": np.degrees(0.5 * np.arctan2(parts[1], parts[0])),
        "isotropy_p": np.exp(-0.5 * parts @ np.linalg.pinv(cov) @ parts) if np.isfinite(trace) else np.nan,
    }


def site_spacing(sites: np.ndarray) -> float:
    """Median distance of sites (n, 2) to their nearest neighbours, in nm. ValueError for fewer than two."""
    if len(sites) < 2:
        raise ValueError(f"a spacing needs at least 2 sites, got {len(sites)}; pass spacing=... (nm)")
    return float(np.median(cKDTree(sites).query(sites, k=2)[0][:, 1]))


def _relative_variance(motion, spacing) -> float:
    """⟨|u_i - u_j|²⟩ over bonds, in nm², mean over time restored as for uncorrelated frames."""
    i, j = bonds(motion.sites, spacing).T
    if len(i) == 0:
        return np.nan
    frames, total, count = len(motion.values), 0.0, 0
    for part in np.array_split(np.arange(len(i)), len(i) // 1000 + 1):  # a long movie of all bonds fills the memory
        relative = motion.values[:, i[part]] - motion.values[:, j[part]]
        total, count = total + np.nansum(relative**2), count + np.isfinite(relative[..., 0]).sum()
    return float(total / max(count, 1) * frames / (frames - motion.creep - 1))


# --- Groups of sites ---


def coordination_labels(sites, spacing: float | None = None) -> np.ndarray:
    """Say of every site whether it is in the bulk, next to a vacancy, or at the edge.

    Parameters
    ----------
    sites : ndarray, shape (n, 2)
        (y, x) of one layer, in nm.
    spacing : float, optional
        Nearest-neighbour distance, in nm; the median one by default.

    Returns
    -------
    ndarray of str, shape (n,)
        ``bulk`` (six neighbours), ``vacancy`` (a neighbour is missing and its place is enclosed by at least four other
        particles) or ``edge``.

    Notes
    -----
    The border of the field of view counts as edge: what is behind it is not seen. Explained in chapter 8, "Vibrations".
    """
    sites = np.asarray(sites, float)
    if len(sites) < 2:
        return np.full(len(sites), "edge")
    a = site_spacing(sites) if spacing is None else spacing
    tree = cKDTree(sites)
    neighbours = tree.query_ball_point(sites, 1.35 * a)
    labels = np.full(len(sites), "bulk", dtype="<U7")
    for i, near in enumerate(neighbours):
        near = [j for j in near if j != i]
        if len(near) >= 6:
            continue
        holes = 2 * sites[i] - sites[near]  # opposite a neighbour there should be one
        holes = [h for h in holes if tree.query(h)[0] > 0.5 * a] if near else []
        enclosed = [len(tree.query_ball_point(h, 1.35 * a)) >= 5 for h in holes]
        labels[i] = "vacancy" if holes and all(enclosed) else "edge"
    return labels


def group_vibrations(table: pd.DataFrame, labels) -> pd.DataFrame:
    """Mean amplitude of groups of sites: by coordination, or by registry on the other layer.

    Parameters
    ----------
    table : pandas.DataFrame
        Of `site_vibrations` or `vibrations`.
    labels : mapping of particle to str, or array_like, shape (n,)
        Group of each particle: ``bulk``, ``edge``, ``vacancy``, ``top``, ``bridge``, ``hollow``, or any other.
        Particles without a label are left out.

    Returns
    -------
    pandas.DataFrame
        Indexed by group: ``sites, variance_nm2`` (mean over sites and both axes, error's part subtracted),
        ``variance_std_nm2`` from the scatter of its sites, ``std_nm, k_kt_nm2``.

    Notes
    -----
    The standard error supposes that sites scatter independently; soft waves shared by a whole group make it too small.
    Explained in chapter 8, "Vibrations".
    """
    group = table["particle"].map(labels) if hasattr(labels, "keys") else pd.Series(np.asarray(labels), table.index)
    total = 0.5 * (table["std_raw_y_nm"] ** 2 + table["std_raw_x_nm"] ** 2)
    variance = total - 0.5 * (table["localization_y_nm"] ** 2 + table["localization_x_nm"] ** 2)
    grouped = variance.groupby(group.rename("group"))
    result = pd.DataFrame({"sites": grouped.size(), "variance_nm2": grouped.mean()})
    result["variance_std_nm2"] = grouped.std() / np.sqrt(result["sites"])
    result["std_nm"] = _root(result["variance_nm2"])
    result["k_kt_nm2"] = _stiffness(result["variance_nm2"].to_numpy())
    return result


# --- Between layers ---


def interlayer_correlation(
    one: Displacements, other: Displacements, edges=None, seed: int = 0, shuffles: int = 100
) -> pd.DataFrame:
    """Correlation of displacements of two layers' particles, by their distance.

    Parameters
    ----------
    one, other : Displacements
        Of the two layers.
    edges : array_like, shape (b + 1,), optional
        Edges of the distance bins, in nm; from 0 to 3 spacings in steps of half a spacing by default.
    seed : int
        Of the shuffles.
    shuffles : int
        Number of shuffles of the null.

    Returns
    -------
    pandas.DataFrame
        One row per bin: ``distance_nm``, ``pairs``, ``correlation`` (1 if both always move alike, 0 if independently),
        ``null_low, null_high``: the middle 95 % of it when the other layer's frames are shifted in time.

    Raises
    ------
    ValueError
        If the layers share fewer than 10 frames, or there is no shuffle.

    Notes
    -----
    Localization error is taken from the variances in the denominator; in the products of different particles it
    averages out. Where a layer's error is not known, nothing is taken, and the correlation is too small. Each layer's
    own drift and rotation are gone: layers that move as wholes against each other show nothing here, and far particles
    of small layers (n) are anticorrelated by about 1/n. Errors of two overlapping particles may be correlated, and look
    like motion. Explained in chapter 8, "Vibrations".
    """
    frames, i, j = np.intersect1d(one.frames, other.frames, return_indices=True)
    if len(frames) < MIN_FRAMES:
        raise ValueError(f"the layers share {len(frames)} frames; their correlation needs at least {MIN_FRAMES}")
    if shuffles < 1:
        raise ValueError(f"the null needs at least 1 shuffle, got {shuffles}")
    edges = site_spacing(one.sites) * np.arange(0, 3.01, 0.5) if edges is None else np.asarray(edges, float)
    pairs = cKDTree(one.sites).sparse_distance_matrix(cKDTree(other.sites), edges[-1], output_type="ndarray")
    weights = [pairs[(pairs["v"] >= low) & (pairs["v"] < high)] for low, high in zip(edges, edges[1:], strict=False)]
    moved = [rfft(_scaled(m, k), axis=0) for m, k in ((one, i), (other, j))]
    seen = [rfft(np.isfinite(m.values[k]).astype(float), axis=0) for m, k in ((one, i), (other, j))]
    rng = np.random.default_rng(seed)
    # a shift in time keeps the correlation of each layer and breaks that between them
    shifts = [0, *rng.integers(len(frames) // 10, len(frames) - len(frames) // 10, shuffles)]
    rows = []
    for k, bin_pairs in enumerate(weights):
        sums, seen_together = (_lagged_sums(*both, bin_pairs, len(frames))[shifts] for both in (moved, seen))
        product = np.where(seen_together > 0.5, sums, np.nan) / seen_together  # NaN for pairs never seen together
        low, high = np.quantile(product[1:], [0.025, 0.975])
        rows.append((0.5 * (edges[k] + edges[k + 1]), len(bin_pairs), product[0], low, high))
    return pd.DataFrame(rows, columns=["distance_nm", "pairs", "correlation", "null_low", "null_high"])


def _scaled(motion, frames):
    """Displacements per one-sigma amplitude of the motion alone, mean over the layer; 0 where not seen."""
    error, _, _ = error_variance(motion)
    total, _, _ = total_variance(motion)
    variance = (total - np.nan_to_num(error)).mean()
    return np.nan_to_num(motion.values[frames]) / np.sqrt(variance if variance > 0 else np.nan)


def _lagged_sums(one, other, pairs, frames):
    """Sum over pairs, axes and frames of one(t) other(t + shift), for every cyclic shift, from their spectra."""
    if len(pairs) == 0:
        return np.full(frames, np.nan)
    spectrum = np.zeros(len(one), complex)
    for part in np.array_split(pairs, len(pairs) // 1000 + 1):
        spectrum += np.einsum("fpi,fpi->f", one[:, part["i"]].conj(), other[:, part["j"]])
    return irfft(spectrum, frames)
