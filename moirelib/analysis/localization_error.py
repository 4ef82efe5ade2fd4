"""Tell motion from localization error by how displacements correlate in time (chapter 8, "Vibrations")."""

from dataclasses import dataclass, replace

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft

from .displacements import AXES, Displacements

SHARE_OF_MOVIE = 4  # lags up to the movie's length over this are used
LARGEST_LOSS = 0.25  # of the variance, by estimating the sites; slower motion is not resolved by the movie
NO_LONGER_CORRELATED = 0.05  # of the covariance of lag 1; below it, or below the noise, lags do not count
KNOWN_SHARE, KNOWN_SIGMA = 0.2, 4.0  # least covariance of lag 1, over the variance and over its error, to infer lag 0
BLOCKS = 10  # of the movie, left out one at a time (jackknife)


def autocovariance(motion: Displacements, lags: int | None = None) -> np.ndarray:
    """Covariance of displacements some frames apart, mean over the particles, (lags + 1, 2) along y and x in nm².

    ``lags`` is the largest lag in equally spaced frames, a quarter of the movie by default. Lag 0 holds the
    localization error's variance as well. What removing the sites' means took is put back.
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
    """Autocovariance about the true sites, and the share of the variance (2,) that estimating the sites takes.

    The mean of T frames scatters by (1/T)(c_0 + 2 Σ c_k), which is missing from every lag.
    """
    restored, falloff = covariance.copy(), 1 - np.arange(len(covariance)) / frames
    for _ in range(10):
        correlated = np.where(_find_connected_lags(restored, frames, creep), restored, 0)
        lost = (creep + 1) / frames * (correlated[0] + 2 * np.sum(falloff[1:, None] * correlated[1:], axis=0))
        lost = np.clip(lost, 0, LARGEST_LOSS * covariance[0])
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

    Errors of different frames are independent, so they add to the variance (lag 0) and to no other lag of the
    autocovariance. Motion is correlated, so it is continued from lags 1 to 3 to lag 0 as an exponential whose rate
    may change with time; the difference to the measured variance is the error's. Where
    lag 1 keeps less than a fifth of the variance, or less than four times its own error, motion is too fast for the
    frame rate to tell it from localization error, and the result is NaN. Only an average over the layer is estimated.
    Vestergaard, Blainey & Flyvbjerg, Phys. Rev. E 89, 022726 (2014), for free diffusion.
    """
    full = autocovariance(motion)
    if len(full) < 4:
        unknown = np.full(2, np.nan)
        return Localization(unknown, unknown, unknown, "too few frames for the autocovariance")
    blocks = np.array_split(np.arange(len(motion.values)), BLOCKS)
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
        value, *left = _continue_to_zero(np.vstack([full[None, :4, axis], parts[..., axis]]), weights)
        estimate[axis] = full[0, axis] - np.clip(value, 0, full[0, axis])
        # half of what the curvature adds to the continuation counts as error
        linear = full[1, axis] ** 2 / full[2, axis] if full[2, axis] > 0 else full[1, axis]
        error[axis] = np.hypot(_jackknife(np.array(left)), 0.5 * abs(value - linear))
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
    return np.sqrt((1 - 1 / BLOCKS) * np.sum((parts - parts.mean(axis=0)) ** 2, axis=0))


def _continue_to_zero(covariance, weights) -> np.ndarray:
    """Lag 0 of the motion from lags 1 to 3 of autocovariances (k, 4): a log-polynomial with these weights."""
    return np.exp(np.log(np.maximum(covariance[:, 1:4], 1e-300)) @ weights)


def error_variance(motion: Displacements) -> tuple[np.ndarray, np.ndarray, str]:
    """Localization error's variance (n, 2) and its standard error (2,), in nm², and a note: given, or estimated."""
    if motion.localization_std is not None:
        return motion.localization_std**2, np.zeros(2), ""
    found = localization_from_covariance(motion)
    return np.broadcast_to(found.std**2, motion.sites.shape), found.variance_std, found.note


def total_variance(motion: Displacements) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Variance (n, 2) of motion and error in nm², its independent samples (n, 2), covariance (n,) of y and x in nm²."""
    frames, seen = len(motion.values), motion.seen[:, None]
    restored, share = restore_mean(pool_covariance(motion), frames, motion.creep)
    kept = motion.kept * (1 - np.minimum(share * frames / seen, 0.6))
    total = np.nanmean(motion.values**2, axis=0) / kept
    samples = seen * share_of_independent_samples(restored, frames) - (motion.creep + 1)
    covariance = np.nanmean(motion.values[..., 0] * motion.values[..., 1], axis=0)
    return total, np.maximum(samples, 1.0), covariance / np.sqrt(kept.prod(axis=1))
