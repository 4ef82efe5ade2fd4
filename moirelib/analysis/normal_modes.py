"""Normal modes of a layer and their density of states (chapter 8, "Vibrations")."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import eigh

from .displacements import Displacements
from .localization_error import error_variance
from .springs import independent_samples


@dataclass(frozen=True)
class NormalModes:
    """Normal modes of a finite layer, from the softest to the stiffest."""

    # (m,) of the m = 2n - 3 modes other than the layer's own shifts and turn, or of all 2n if these were kept
    # (``drift_window``), in kT/nm²; corrected for few frames and localization error; inf where nothing is left
    stiffness: np.ndarray
    stiffness_raw: np.ndarray  # (m,) the same without the corrections
    shapes: np.ndarray  # (m, n, 2) unit vectors of each mode (y, x), of the sample covariance
    frames_per_mode: float  # independent frames over modes: below about 3, only the softest modes mean anything


def find_normal_modes(motion: Displacements) -> NormalModes:
    """Normal modes of a layer, or of some of its particles (`Displacements.select`), from their displacements.

    The stiffnesses are the inverse eigenvalues of the covariance matrix. From a finite number T of frames its
    eigenvalues spread (Marchenko & Pastur): the softest modes come out too soft, the stiffest too stiff, in first order
    in proportion to 1/T. So eigenvalues of all frames and of halves of the movie are extrapolated to 1/T = 0, and the
    localization error's variance is subtracted from each. The shapes are not corrected: in the middle of the spectrum
    they are mixtures. Henkes, Brito & Dauchot, Soft Matter 8, 6092 (2012); Maggs & Schindler, Europhys. Lett. 109,
    48005 (2015).
    """
    u = motion.values.reshape(len(motion.values), -1)
    frames, modes = u.shape
    if frames < modes:
        raise ValueError(
            f"{frames} frames cannot give {modes} normal modes; film more frames or select fewer particles "
            "(Displacements.select)"
        )
    error, _, note = error_variance(motion)
    if note:
        raise ValueError(f"normal modes of layer {motion.layer} need the localization error: {note}")
    frame, r = np.eye(modes), motion.sites - motion.sites.mean(axis=0)
    if np.sum(1 - motion.kept) >= 2:  # of three degrees of freedom: the layer's shifts and turn are gone
        rigid = np.concatenate([np.tile(np.eye(2), (len(r), 1)), (r[:, ::-1] * [1, -1]).reshape(-1, 1)], axis=1)
        frame = np.linalg.qr(rigid, mode="complete")[0][:, 3:]
    values, vectors = eigh(frame.T @ _covariance(u) @ frame)
    # One after the other: every second frame of a fast film says nearly as much as all of them.
    halves = [eigh(frame.T @ _covariance(part) @ frame, eigvals_only=True) for part in np.array_split(u, 2)]
    halves, vectors = np.mean(halves, axis=0), frame @ vectors
    corrected = np.sort(2 * values - halves)[::-1] - error.mean()
    with np.errstate(divide="ignore"):
        stiffness = 1 / np.maximum(corrected, 0.0)
    raw = 1 / np.maximum(values[::-1], 1e-300)
    samples = np.mean(independent_samples((np.nan_to_num(u) @ vectors)[..., None], motion.creep)[0])
    return NormalModes(stiffness, raw, vectors.T[::-1].reshape(len(values), -1, 2), float(samples / len(values)))


def _covariance(u) -> np.ndarray:
    """Covariance (2n, 2n) of all coordinates, each pair over the frames in which both were seen."""
    seen = np.isfinite(u)
    centered = np.where(seen, u - np.nanmean(u, axis=0), 0.0)
    pairs = seen.astype(np.float32).T @ seen.astype(np.float32)
    return centered.T @ centered / np.maximum(pairs - 1, 1)


def density_of_states(stiffness: ArrayLike, bins: int | ArrayLike = 20) -> tuple[np.ndarray, np.ndarray]:
    """Density of vibrational states over ω = √(stiffness), the frequency of a particle of unit mass; its integral is 1.

    Takes stiffnesses in kT/nm² of normal modes, or of waves that fill the Brillouin zone (`brillouin_zone`); what is
    not finite and positive is left out. ``bins`` is their number, or their edges in √kT/nm. Returns the middles of the
    bins, in √kT/nm, and the density, shape (b,). In a liquid motion is overdamped: ω is a measure of stiffness.
    """
    stiffness = np.asarray(stiffness, float).ravel()
    good = np.isfinite(stiffness) & (stiffness > 0)
    if not good.any():
        raise ValueError("a density of states needs modes of finite, positive stiffness, got none")
    density, edges = np.histogram(np.sqrt(stiffness[good]), bins, density=True)
    return 0.5 * (edges[1:] + edges[:-1]), density
