"""Phonons of a layer from the covariance of its displacements: dispersion, normal modes, density of states.

Positions are (y, x) in nm, wave vectors in radians per nm, stiffnesses in kT/nm². Chapter 8.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.linalg import eigh

from ..crystal.brillouin import SymmetryPath, symmetry_path
from .displacements import Displacements, site_displacements
from .grains import find_grains
from .localization_error import error_variance
from .springs import (
    Blur,
    SpringModel,
    displacement_spectrum,
    edge_window,
    fit_springs,
    independent_samples,
    invert_covariance,
    safe_inverse,
)
from .vibrations import measure_every_layer

DOUBT = 0.1  # share of the correction for blur that may be wrong
SMOOTH = 0.35  # over the spacing: radius of the circle of wave vectors that are averaged into each,
LARGEST_CIRCLE = 0.3  # but no more of the distance from Γ


def dispersion(
    motion: Displacements, path: SymmetryPath | None = None, model: SpringModel | None = None, symmetric: bool = True
) -> pd.DataFrame:
    """Phonon dispersion of a layer along Γ-M-K-Γ.

    Plane waves as in Keim, Maret, Herz & von Grünberg, Phys. Rev. Lett. 92, 215504 (2004). Localization error is white
    in space: its variance is subtracted from the power of every wave. The inverse of a covariance from few samples is
    too large; the factor for Gaussian samples is applied, with the number of samples that are independent in time. A
    finite window averages the spectrum over neighbouring q, and since it rises as 1/q², long waves leak into shorter
    ones: the ratio of the model's spectrum before and after such averages is taken out. Neighbouring points share waves
    and scatter alike. In a lattice that is not symmetric, by strain or by the particles' shape, branches mix: see
    `plane_wave_stiffness`.

    The table has ``layer, branch`` (``longitudinal`` or ``transverse``), ``q_y_per_nm, q_x_per_nm`` (rad/nm),
    ``distance_per_nm`` along the path, ``stiffness_kt_nm2`` and ``stiffness_std_kt_nm2``, its standard error with a
    tenth of the correction for blur; NaN where the localization error explains all of the power; ``model_kt_nm2``, the
    fitted model's. ``attrs`` holds the ``ticks`` of the path and ``shortest_q_per_nm``, below which waves are longer
    than the window and are not measured: they are NaN.

    Parameters
    ----------
    motion : Displacements
        Of one layer, whose sites form one hexagonal grain.
    path : SymmetryPath, optional
        By default along the model's lattice.
    model : SpringModel, optional
        Of `fit_springs`, which is called by default.
    symmetric : bool
        Average over the three paths that hexagonal symmetry makes equal; False for the one path alone.
    """
    weight = edge_window(motion)
    model = fit_springs(motion) if model is None else model
    path = symmetry_path(model.spacing, model.angle) if path is None else path
    blur = Blur(motion.sites, weight)
    around = _add_surrounding_waves(path, SMOOTH / model.spacing)
    turned = [around.turn(60.0 * k) for k in range(3 if symmetric else 1)]
    spectra = [displacement_spectrum(motion, p.wave_vectors, weight) for p in turned]
    q = path.wave_vectors
    count = len(q)

    def average(matrices):  # over the equivalent paths, then over the neighbours of each point
        branches = [_turn_to_branches(x, p) for x, p in zip(matrices, turned, strict=True)]
        return np.mean(branches, axis=0).reshape(count, -1, 2, 2).mean(axis=1)

    total, power = average([x.total for x in spectra]), average([x.motion for x in spectra])
    realness = spectra[0].realness.reshape(count, -1)[:, 0]
    samples = np.sum([x.samples for x in spectra], axis=0).reshape(count, -1).mean(axis=1)
    share = _share_of_common_waves(around.wave_vectors.reshape(count, -1, 2), motion.sites, weight)
    expected = model.dynamical_matrix(q)
    blurred = safe_inverse(model.dynamical_matrix(blur.around(around.wave_vectors)))
    blurred = _turn_to_branches(np.einsum("s,msij->mij", blur.power, blurred), around).reshape(count, -1, 2, 2)
    ratio = np.sqrt(_diagonal(_turn_to_branches(safe_inverse(expected), path)) / _diagonal(blurred.mean(axis=1)))
    matrix = invert_covariance(power * ratio[:, :, None] * ratio[:, None, :], samples / share, realness)
    matrix[np.hypot(*q.T) < blur.shortest] = np.nan
    stiffness = _diagonal(matrix)
    scatter = _diagonal(total) / _diagonal(power) * np.sqrt(share / samples)[:, None]
    scatter = np.hypot(scatter, DOUBT * np.abs(ratio**2 - 1))
    table = pd.DataFrame({"layer": motion.layer, "branch": np.repeat(["longitudinal", "transverse"], count)})
    table["q_y_per_nm"], table["q_x_per_nm"] = np.tile(q.T, 2)
    table["distance_per_nm"] = np.tile(path.distance, 2)
    table["stiffness_kt_nm2"], table["stiffness_std_kt_nm2"] = stiffness.T.ravel(), (stiffness * scatter).T.ravel()
    table["model_kt_nm2"] = _diagonal(_turn_to_branches(expected, path)).T.ravel()
    table.attrs = {"ticks": path.ticks, "shortest_q_per_nm": blur.shortest}
    return table


def largest_grain(motion: Displacements) -> Displacements:
    """Motion of the largest grain alone, as plane waves need one lattice; unchanged where there are not several."""
    grain = find_grains(motion.sites)
    return motion.select(grain == 0) if grain.max(initial=-1) > 0 else motion


def measure_phonons(tracks: pd.DataFrame, **options) -> pd.DataFrame:
    """Phonon dispersion of every layer along Γ-M-K-Γ: the rows of ``phonons.csv``.

    Takes tracks and options as `site_displacements` does and gives what `dispersion` does, one layer after the other;
    of a layer with several grains, the largest one's. ``attrs["note"]`` has a line for each layer that has none, or
    only those of a part of it; ``attrs["ticks"]`` has each layer's distances of Γ, M, K and Γ.
    """
    return tabulate_phonons(tracks, lambda layer: site_displacements(tracks, layer, **options))


def tabulate_phonons(
    tracks: pd.DataFrame,
    displacements: Callable[[int], Displacements],
    springs: Callable[[Displacements], SpringModel] = fit_springs,
) -> pd.DataFrame:
    """The same as `measure_phonons`, from what gives a layer's displacements and, of its largest grain, the springs."""

    def measure(layer):
        motion = displacements(layer)
        grain = largest_grain(motion)
        table, one, all_ = dispersion(grain, model=springs(grain)), len(grain.sites), len(motion.sites)
        if one < all_:
            table.attrs["note"] = f"several grains; phonons of the largest, {one} of {all_} sites"
        return table

    table, attributes = measure_every_layer(tracks, measure)
    table.attrs["ticks"] = {layer: own["ticks"] for layer, own in attributes.items()}
    return table


def _diagonal(matrices) -> np.ndarray:
    return np.einsum("maa->ma", matrices).real


def _add_surrounding_waves(path, radius) -> SymmetryPath:
    """Each wave vector and six on a circle around it, seven times as many; the circle shrinks towards Γ."""
    t = np.radians(60.0 * np.arange(6))
    ring = np.concatenate([np.zeros((1, 2)), np.stack([np.sin(t), np.cos(t)], axis=1)])
    radius = np.minimum(radius, LARGEST_CIRCLE * np.linalg.norm(path.wave_vectors, axis=1))
    q = path.wave_vectors[:, None] + radius[:, None, None] * ring
    along = np.repeat(path.longitudinal, len(ring), axis=0)
    return SymmetryPath(q.reshape(-1, 2), along, np.repeat(path.distance, len(ring)), path.ticks)


def _share_of_common_waves(q, sites, weight) -> np.ndarray:
    """Relative variance of the mean power of waves (m, s, 2) under one window, over that of one complex amplitude.

    Powers of Gaussian amplitudes have the covariance |⟨a b*⟩|² + |⟨a b⟩|².
    """
    wave = np.exp(-1j * q @ sites.T) * weight / np.sqrt(np.sum(weight**2))  # (m, s, n)
    overlap = np.abs(wave @ wave.conj().transpose(0, 2, 1)) ** 2 + np.abs(wave @ wave.transpose(0, 2, 1)) ** 2
    return overlap.mean(axis=(1, 2))


def _turn_to_branches(matrices, path) -> np.ndarray:
    """Matrices in (y, x) turned to (longitudinal, transverse)."""
    along = path.longitudinal
    axes = np.stack([along, np.stack([along[:, 1], -along[:, 0]], axis=1)], axis=1)  # (m, branch, 2)
    return np.einsum("mai,mij,mbj->mab", axes, matrices, axes)


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

    def covariance(some):
        """Of all coordinates (2n, 2n), each pair over the frames in which both were seen; without rigid motion."""
        seen = np.isfinite(some)
        centered = np.where(seen, some - np.nanmean(some, axis=0), 0.0)
        pairs = seen.astype(np.float32).T @ seen.astype(np.float32)
        return frame.T @ (centered.T @ centered / np.maximum(pairs - 1, 1)) @ frame

    values, vectors = eigh(covariance(u))
    # One after the other: every second frame of a fast film says nearly as much as all of them.
    halves = np.mean([eigh(covariance(part), eigvals_only=True) for part in np.array_split(u, 2)], axis=0)
    vectors = frame @ vectors
    corrected = np.sort(2 * values - halves)[::-1] - error.mean()
    with np.errstate(divide="ignore"):
        stiffness = 1 / np.maximum(corrected, 0.0)
    raw = 1 / np.maximum(values[::-1], 1e-300)
    samples = np.mean(independent_samples((np.nan_to_num(u) @ vectors)[..., None], motion.creep)[0])
    return NormalModes(stiffness, raw, vectors.T[::-1].reshape(len(values), -1, 2), float(samples / len(values)))


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
