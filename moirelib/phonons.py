"""Phonons of a layer from the covariance of its displacements: dispersion, elastic constants, normal modes.

Positions are (y, x) in nm, wave vectors in radians per nm, stiffnesses in kT/nm².
Explained in chapter 8, "Vibrations".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.fft import next_fast_len
from scipy.linalg import eigh
from scipy.spatial import cKDTree

from .assignment import Lattice, find_lattice
from .vibrations import Displacements, _error_variance, _spacing, _total_variance, coordination_labels

__all__ = [
    "ElasticConstants",
    "NormalModes",
    "SymmetryPath",
    "brillouin_zone",
    "density_of_states",
    "dispersion",
    "elastic_constants",
    "normal_modes",
    "plane_wave_stiffness",
    "symmetry_path",
]


# --- Reciprocal space ---


@dataclass(frozen=True)
class SymmetryPath:
    """Wave vectors along Γ-M-K-Γ of a hexagonal lattice.

    Parameters
    ----------
    wave_vectors : ndarray, shape (m, 2)
        (q_y, q_x) in radians per nm; Γ itself is left out.
    longitudinal : ndarray, shape (m, 2)
        Unit vector of the longitudinal branch (y, x): the direction Γ-M up to K, the direction Γ-K after it. Mirror symmetry
        makes it an exact polarization.
    distance : ndarray, shape (m,)
        Along the path from Γ, in radians per nm.
    ticks : tuple of float
        Distance of Γ, M, K and Γ.
    """

    wave_vectors: np.ndarray
    longitudinal: np.ndarray
    distance: np.ndarray
    ticks: tuple[float, float, float, float]

    labels = ("Γ", "M", "K", "Γ")

    def turned(self, degrees: float) -> SymmetryPath:
        """The same path turned from x towards y: equivalent by symmetry for multiples of 60°."""
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        turn = np.array([[c, s], [-s, c]])  # of (y, x)
        return SymmetryPath(self.wave_vectors @ turn.T, self.longitudinal @ turn.T, self.distance, self.ticks)


def symmetry_path(spacing: float, angle: float, points: int = 36) -> SymmetryPath:
    """Wave vectors along Γ-M-K-Γ.

    Parameters
    ----------
    spacing : float
        Nearest-neighbour distance, in nm.
    angle : float
        Direction of a close-packed row, in degrees from x towards y.
    points : int
        Number of wave vectors, M and K among them, in nearly equal steps.

    Returns
    -------
    SymmetryPath

    Notes
    -----
    Explained in chapter 8, "Vibrations".
    """

    def toward(degrees):
        return np.array([np.sin(np.radians(degrees)), np.cos(np.radians(degrees))])

    m = 2 * np.pi / (np.sqrt(3) * spacing) * toward(angle + 30)
    k = 4 * np.pi / (3 * spacing) * toward(angle)
    lengths = np.linalg.norm([m, k - m, k], axis=1)
    counts = np.maximum(np.round(points * lengths / lengths.sum()).astype(int), 2)
    first = np.arange(1, counts[0] + 1)[:, None] / counts[0] * m
    second = m + np.arange(1, counts[1] + 1)[:, None] / counts[1] * (k - m)
    third = np.arange(counts[2] - 1, 0, -1)[:, None] / counts[2] * k
    q = np.concatenate([first, second, third])
    along = np.repeat([toward(angle + 30), toward(angle)], [counts[0] + counts[1], counts[2] - 1], axis=0)
    distance = np.cumsum(np.linalg.norm(np.diff(q, axis=0, prepend=[[0.0, 0.0]]), axis=1))
    return SymmetryPath(q, along, distance, (0.0, *np.cumsum(lengths).tolist()))


def brillouin_zone(spacing: float, angle: float, divisions: int = 12) -> np.ndarray:
    """Wave vectors that fill the Brillouin zone evenly, one of each pair q and -q, without Γ.

    Parameters
    ----------
    spacing : float
        Nearest-neighbour distance, in nm.
    angle : float
        Direction of a close-packed row, in degrees from x towards y.
    divisions : int
        Of each reciprocal lattice vector.

    Returns
    -------
    ndarray, shape (m, 2)
        (q_y, q_x) in radians per nm, each the shortest of its equivalents.
    """
    b = Lattice(spacing, angle).wave_vectors[[0, 2]]
    i, j = (x.ravel() for x in np.meshgrid(np.arange(divisions), np.arange(divisions), indexing="ij"))
    half = (i * divisions + j) <= (-i % divisions) * divisions + (-j % divisions)
    q = np.stack([i, j], axis=1)[half & (i + j > 0)] / divisions @ b
    shifts = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1]), axis=-1).reshape(-1, 2) @ b
    candidates = q[:, None] - shifts
    return candidates[np.arange(len(q)), np.argmin(np.linalg.norm(candidates, axis=2), axis=1)]


# --- Spectrum of plane waves ---


@dataclass(frozen=True)
class _Spectrum:
    """Spectrum of plane waves under a window, before it is inverted."""

    total: np.ndarray  # (m, 2, 2) in nm², with the localization error
    motion: np.ndarray  # (m, 2, 2) in nm², without
    samples: np.ndarray  # (m,) independent complex amplitudes
    realness: np.ndarray  # (m,) 0 for a complex amplitude, 1 for one that is real but for a phase (Γ, M)


def _window(motion) -> np.ndarray:
    """Weight of each site: 0 at the layer's edge, 1 deepest inside it, rising as sin²."""
    labels = coordination_labels(motion.sites)
    edge = motion.sites[labels == "edge"]
    if len(edge) == 0 or len(edge) == len(motion.sites):
        raise ValueError(
            f"layer {motion.layer} has no interior ({len(motion.sites)} sites, {len(edge)} of them at its edge); phonons "
            "need an island at least five rows wide"
        )
    depth = cKDTree(edge).query(motion.sites)[0]
    return np.sin(0.5 * np.pi * depth / depth.max()) ** 2


def _spectrum(motion, q, weight) -> _Spectrum:
    """⟨u(q) u†(q)⟩ with u(q) = Σ w u exp(-iq·r) / √Σw²."""
    frames = len(motion.values)
    present = motion.seen / frames
    phase = np.exp(-1j * motion.sites @ q.T) * (weight / present / np.sqrt(np.sum(weight**2)))[:, None]
    u = np.nan_to_num(motion.values) / np.sqrt(motion.kept)
    amplitude = np.stack([u[..., i] @ phase for i in (0, 1)], axis=-1)  # (t, m, 2)
    total_variance, _, _ = _total_variance(motion)
    # removing the sites' means took a share of the motion: of each wave as much as of the average displacement
    restored = total_variance.mean(axis=0) / (np.nanmean(motion.values**2, axis=0) / motion.kept).mean(axis=0)
    measured = np.einsum("tma,tmb->mab", amplitude, amplitude.conj()) / frames * np.sqrt(np.outer(restored, restored))
    share = weight**2 / np.sum(weight**2)
    # a particle that blinks scatters like noise; what is white in space is the same at every q
    blinking = share @ ((1 / present - 1)[:, None] * total_variance)
    error, _, note = _error_variance(motion)
    if note:
        raise ValueError(f"phonons of layer {motion.layer} need the localization error: {note}")
    measured = measured - np.diag(blinking)
    realness = np.abs((weight**2) @ np.exp(-2j * motion.sites @ q.T)) / np.sum(weight**2)
    return _Spectrum(measured, measured - np.diag(share @ error), _samples(amplitude), realness)


def _samples(amplitude) -> np.ndarray:
    """Independent samples of each wave's power: frames / (1 + 2 Σ |ρ|²), by the slower polarization."""
    frames = len(amplitude)
    length = next_fast_len(2 * frames)
    power = np.abs(np.fft.fft(amplitude, length, axis=0)) ** 2
    rho = np.fft.ifft(power, axis=0)[: max(frames // 4, 2)]
    rho = np.abs(rho / rho[:1]) ** 2
    above = np.cumprod(rho > 9 / frames, axis=0)  # |ρ|² of independent frames is 1/frames on average
    return (frames / (1 + 2 * np.sum((rho * above)[1:], axis=0))).min(axis=1)


def plane_wave_stiffness(motion: Displacements, wave_vectors) -> np.ndarray:
    """Dynamical matrix of a layer at any wave vectors, from the spectrum of its displacements.

    Parameters
    ----------
    motion : Displacements
        Of one layer.
    wave_vectors : array_like, shape (m, 2)
        (q_y, q_x) in radians per nm.

    Returns
    -------
    ndarray, shape (m, 2, 2)
        D(q) = ⟨u(q) u†(q)⟩⁻¹ in kT/nm², (y, x) order; NaN where the localization error explains all that was measured.

    Raises
    ------
    ValueError
        If the layer has no interior, or the localization error is neither given nor to be estimated.

    Notes
    -----
    A window that falls to zero at the layer's edge keeps its softer particles out. It blurs q: see `dispersion`.
    Explained in chapter 8, "Vibrations".

    References
    ----------
    Keim, Maret, Herz & von Grünberg, Phys. Rev. Lett. 92, 215504 (2004).
    """
    spectrum = _spectrum(motion, np.asarray(wave_vectors, float), _window(motion))
    return _inverted(spectrum.motion, spectrum.samples, spectrum.realness)


def _inverted(matrix, samples, realness) -> np.ndarray:
    """Inverse of sample covariances, unbiased: of N complex samples in 2 dimensions it is too large by N/(N - 2)."""
    values = np.linalg.eigvalsh(matrix)
    good = values[:, 0] > 1e-12 * np.abs(values[:, 1])
    result = np.full(matrix.shape, np.nan, complex)
    bias = np.clip(1 - (2 + realness) / samples, 0, 1)  # N/(N - 3) for real ones (Wishart)
    result[good] = np.linalg.inv(matrix[good]) * bias[good, None, None]
    return result


# --- Dispersion ---


def dispersion(
    motion: Displacements, path: SymmetryPath | None = None, symmetric: bool = True, unblur: bool = True
) -> pd.DataFrame:
    """Phonon dispersion of a layer along Γ-M-K-Γ: the rows of ``phonons.csv``.

    Parameters
    ----------
    motion : Displacements
        Of one layer; its sites form one hexagonal grain.
    path : SymmetryPath, optional
        By default along the lattice that fits the sites best.
    symmetric : bool
        Average over the three paths that hexagonal symmetry makes equal; False for the one path alone.
    unblur : bool
        Correct for the blur of q by the finite window.

    Returns
    -------
    pandas.DataFrame
        ``layer, branch`` (``longitudinal`` or ``transverse``), ``q_y_per_nm, q_x_per_nm`` (rad/nm), ``distance_per_nm`` along the
        path, ``stiffness_kt_nm2`` and ``stiffness_std_kt_nm2``, its standard error; NaN where the localization error
        explains all of the power. ``attrs`` holds ``spacing_nm``, ``angle_deg``, ``ticks`` and ``shortest_q_per_nm``, below which
        waves are longer than the window and the stiffness is not to be trusted.

    Raises
    ------
    ValueError
        As `plane_wave_stiffness`.

    Notes
    -----
    Localization error is white in space: its variance is subtracted from the power of every wave. The
    inverse of a covariance from few samples is too large; the factor for Gaussian samples is applied, with the number of
    samples that are independent in time. A window of finite width averages the spectrum over neighbouring q; since it rises
    as 1/q², long waves leak into shorter ones. How much is computed from the window and a smooth fit to the long-wave part of the
    dispersion itself, twice in turn. In a lattice that is not symmetric, by strain or by the particles' shape,
    branches mix off the symmetry directions: see `plane_wave_stiffness`.
    Explained in chapter 8, "Vibrations".

    References
    ----------
    Keim, Maret, Herz & von Grünberg, Phys. Rev. Lett. 92, 215504 (2004), for the plane waves.
    """
    weight = _window(motion)
    lattice, _ = find_lattice(motion.sites, _spacing(motion.sites))
    path = symmetry_path(lattice.spacing, lattice.angle) if path is None else path
    turned = [path.turned(60.0 * k) for k in range(3 if symmetric else 1)]
    spectra = [_spectrum(motion, p.wave_vectors, weight) for p in turned]
    total, power = (
        _averaged([_in_branches(getattr(s, x), p) for s, p in zip(spectra, turned, strict=True)])
        for x in ("total", "motion")
    )
    samples = np.sum([s.samples for s in spectra], axis=0)
    realness = spectra[0].realness
    relative = np.stack([total[:, b, b].real / power[:, b, b].real for b in (0, 1)], axis=1)
    relative *= np.sqrt((1 + realness**2) / samples)[:, None]
    blur = _Blur(motion.sites, weight)
    correction = np.ones((len(path.wave_vectors), 2))
    for _ in range(3 if unblur else 1):
        sharp = power / np.sqrt(correction[:, :, None] * correction[:, None, :])
        matrix = _inverted(sharp, samples, realness)
        stiffness = np.stack([matrix[:, b, b].real for b in (0, 1)], axis=1)
        if unblur:
            fits = [_long_waves(path, stiffness[:, b], relative[:, b], lattice.spacing, blur.shortest) for b in (0, 1)]
            correction = blur.factors(path, fits, lattice.spacing)
    table = _phonon_table(motion.layer, path, stiffness, np.abs(stiffness * relative))
    table.attrs = {
        "spacing_nm": lattice.spacing,
        "angle_deg": lattice.angle,
        "ticks": path.ticks,
        "shortest_q_per_nm": blur.shortest,
    }
    return table


def _in_branches(matrices, path) -> np.ndarray:
    """Matrices in (y, x) turned to (longitudinal, transverse)."""
    along = path.longitudinal
    axes = np.stack([along, np.stack([along[:, 1], -along[:, 0]], axis=1)], axis=1)  # (m, branch, 2)
    return np.einsum("mai,mij,mbj->mab", axes, matrices, axes)


def _averaged(matrices) -> np.ndarray:
    return np.mean(matrices, axis=0)


def _phonon_table(layer, path, stiffness, error) -> pd.DataFrame:
    tables = []
    for b, branch in enumerate(("longitudinal", "transverse")):
        tables.append(
            pd.DataFrame(
                {
                    "layer": layer,
                    "branch": branch,
                    "q_y_per_nm": path.wave_vectors[:, 0],
                    "q_x_per_nm": path.wave_vectors[:, 1],
                    "distance_per_nm": path.distance,
                    "stiffness_kt_nm2": stiffness[:, b],
                    "stiffness_std_kt_nm2": error[:, b],
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def _curve(q, spacing) -> np.ndarray:
    """(4/3)(2/a)² sin²(√3 q a / 4): q² for long waves, flat at M; waves beyond M count as M."""
    phase = np.minimum(np.sqrt(3) / 4 * spacing * np.asarray(q), np.pi / 2)
    return 16 / (3 * spacing**2) * np.sin(phase) ** 2


def _long_waves(path, stiffness, relative, spacing, shortest, longest=0.75):
    """Weighted fit D = s + c x + d x² with x ≈ q² to waves up to a share of Γ-M; coefficients and their covariance."""
    q = np.linalg.norm(path.wave_vectors, axis=1)
    use = np.isfinite(stiffness) & (stiffness > 0) & np.isfinite(relative) & (relative > 0) & (relative < 1)
    use &= (q > shortest) & (q < longest * 2 * np.pi / (np.sqrt(3) * spacing))
    if use.sum() < 4:
        return np.full(3, np.nan), np.full((3, 3), np.nan)
    x = _curve(q[use], spacing)
    design = np.stack([np.ones_like(x), x, x**2], axis=1)
    weight = 1 / (relative[use] * stiffness[use])
    normal = (design * weight[:, None] ** 2).T @ design
    covariance = np.linalg.pinv(normal, rcond=1e-14, hermitian=True)
    return covariance @ ((design * weight[:, None] ** 2).T @ stiffness[use]), covariance


class _Blur:
    """What a window does to the spectrum of long waves."""

    def __init__(self, sites, weight, half: int = 14):
        center = weight**2 @ sites / np.sum(weight**2)
        size = np.sqrt(weight**2 @ np.sum((sites - center) ** 2, axis=1) / np.sum(weight**2))
        self.shortest = 2.0 / size  # in rad/nm: leakage from longer waves outweighs what is there
        axis = np.linspace(-7 / size, 7 / size, 2 * half + 1)
        self.steps = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
        power = np.abs(np.exp(-1j * self.steps @ (sites - center).T) @ weight) ** 2
        self.power = power / power.sum()
        self.cut = 1.0 / size  # motion of longer waves went with drift and rotation

    def factors(self, path, fits, spacing) -> np.ndarray:
        """Blurred over sharp spectrum of each wave vector and branch, (m, 2)."""
        coefficients = [c for c, _ in fits]
        if not np.isfinite(coefficients).all():
            return np.ones((len(path.wave_vectors), 2))
        q = path.wave_vectors[:, None] + self.steps  # (m, s, 2)
        length = np.maximum(np.linalg.norm(q, axis=2), 1e-12)
        x = _curve(np.maximum(length, self.cut), spacing)
        power = [1 / np.maximum(c[0] + c[1] * x + c[2] * x**2, 1e-3 * c[1] * x) for c in coefficients]
        cosine = np.einsum("msi,mi->ms", q, path.longitudinal) / length
        blurred = [cosine**2 * power[0] + (1 - cosine**2) * power[1], (1 - cosine**2) * power[0] + cosine**2 * power[1]]
        at = np.linalg.norm(path.wave_vectors, axis=1)
        x = _curve(at, spacing)
        # the direction of q itself is the longitudinal axis only on Γ-M and Γ-K; the fit holds there, and blur only matters there
        inside = at < 0.9 * 2 * np.pi / (np.sqrt(3) * spacing)
        sharp = np.stack([1 / np.maximum(c[0] + c[1] * x + c[2] * x**2, 1e-3 * c[1] * x) for c in coefficients], axis=1)
        ratio = np.stack([b @ self.power for b in blurred], axis=1) / sharp
        return np.where(inside[:, None] & np.isfinite(ratio) & (ratio > 0), ratio, 1.0)


# --- Elastic constants ---


@dataclass(frozen=True)
class ElasticConstants:
    """Two-dimensional elastic moduli of a layer, in kT/nm², with standard errors.

    Parameters
    ----------
    shear, shear_std : float
        μ, from the transverse branch.
    longitudinal, longitudinal_std : float
        λ + 2μ, from the longitudinal branch.
    bulk, bulk_std : float
        λ + μ.
    poisson_ratio, poisson_ratio_std : float
        λ / (λ + 2μ), between -1 and 1 in two dimensions; 1/3 for central springs between nearest neighbours.
    site_stiffness, site_stiffness_std : float
        What is left of the stiffness at q = 0, mean of both branches: the hold of the window or the other layer on every
        particle, in kT/nm².
    """

    shear: float
    shear_std: float
    longitudinal: float
    longitudinal_std: float
    bulk: float
    bulk_std: float
    poisson_ratio: float
    poisson_ratio_std: float
    site_stiffness: float
    site_stiffness_std: float


def elastic_constants(phonons: pd.DataFrame, spacing: float | None = None) -> ElasticConstants:
    """Elastic moduli from the long-wavelength slopes of a dispersion.

    Parameters
    ----------
    phonons : pandas.DataFrame
        Of `dispersion`.
    spacing : float, optional
        Nearest-neighbour distance, in nm; by default as `dispersion` noted it.

    Returns
    -------
    ElasticConstants

    Raises
    ------
    ValueError
        If the spacing is not known, or fewer than four wave vectors of a branch are long waves that were measured.

    Notes
    -----
    D(q) = s + A M q² + ..., with the area A = √3/2 a² of a site, M = λ + 2μ for longitudinal and μ for
    transverse waves, and a hold s on every particle. Both branches are fitted in x(q), which is q² for long waves and flat at M, to
    second order, up to three quarters of Γ-M. Neighbouring wave vectors share a window and are not independent; the errors are
    widened by the number of them that fall in one. Explained in chapter 8, "Vibrations".
    """
    spacing = phonons.attrs.get("spacing_nm") if spacing is None else spacing
    if spacing is None:
        raise ValueError("the table does not say the lattice's spacing; pass spacing=... (nm)")
    shortest = phonons.attrs.get("shortest_q_per_nm", 0.0)
    values, errors = [], []
    for branch in ("longitudinal", "transverse"):
        rows = phonons[phonons["branch"] == branch]
        q = rows[["q_y_per_nm", "q_x_per_nm"]].to_numpy()
        path = SymmetryPath(q, q, rows["distance_per_nm"].to_numpy(), (0.0, 0.0, 0.0, 0.0))
        stiffness = rows["stiffness_kt_nm2"].to_numpy()
        relative = rows["stiffness_std_kt_nm2"].to_numpy() / stiffness
        fit, covariance = _long_waves(path, stiffness, relative, spacing, shortest)
        if not np.isfinite(fit).all():
            raise ValueError(
                f"too few {branch} waves between {shortest:.3g} and {2.7 / spacing:.3g} rad/nm were measured for a slope; film a larger "
                "crystal or more frames"
            )
        step = np.median(np.diff(np.sort(np.linalg.norm(q, axis=1))))
        crowded = max(1.0, shortest / max(2 * step, 1e-12))
        values.append(fit)
        errors.append(np.sqrt(np.diag(covariance) * crowded))
    area = np.sqrt(3) / 2 * spacing**2
    (s1, m1, _), (s2, m2, _) = values
    (e1, d1, _), (e2, d2, _) = errors
    m1, m2, d1, d2 = (x / area for x in (m1, m2, d1, d2))
    ratio = 1 - 2 * m2 / m1
    ratio_std = 2 * m2 / m1 * np.hypot(d1 / m1, d2 / m2)
    hold = np.average([s1, s2], weights=[e1**-2, e2**-2])
    hold_std = (e1**-2 + e2**-2) ** -0.5
    return ElasticConstants(
        *(float(x) for x in (m2, d2, m1, d1, m1 - m2, np.hypot(d1, d2), ratio, ratio_std, hold, hold_std))
    )


# --- Normal modes ---


@dataclass(frozen=True)
class NormalModes:
    """Normal modes of a finite layer, from the softest to the stiffest.

    Parameters
    ----------
    stiffness : ndarray, shape (2n,)
        In kT/nm², corrected for few frames and localization error; inf where nothing is left.
    stiffness_raw : ndarray, shape (2n,)
        The same without the corrections.
    shapes : ndarray, shape (2n, n, 2)
        Unit vectors of each mode (y, x), of the sample covariance.
    frames_per_mode : float
        Independent frames over the number of modes: below about 3, only the softest modes mean anything.
    """

    stiffness: np.ndarray
    stiffness_raw: np.ndarray
    shapes: np.ndarray
    frames_per_mode: float


def normal_modes(motion: Displacements) -> NormalModes:
    """Normal modes of a layer from the covariance of all its displacements.

    Parameters
    ----------
    motion : Displacements
        Of one layer, or of some of its particles (`Displacements.select`).

    Returns
    -------
    NormalModes

    Raises
    ------
    ValueError
        If there are fewer frames than coordinates (2n), or the localization error is not known.

    Notes
    -----
    The stiffnesses are the inverse eigenvalues of the covariance matrix. From a finite number T of frames its
    eigenvalues spread (Marchenko & Pastur): the softest modes come out too soft, the stiffest too stiff, in first order in
    proportion to 1/T. So eigenvalues of all frames and of halves of the movie are extrapolated to 1/T = 0, and the
    localization error's variance is subtracted from each. The shapes are not corrected: in the middle of the
    spectrum they are mixtures. Explained in chapter 8, "Vibrations".

    References
    ----------
    Henkes, Brito & Dauchot, Soft Matter 8, 6092 (2012); Maggs & Schindler, Europhys. Lett. 109, 48005 (2015).
    """
    u = motion.values / np.sqrt(motion.kept)
    u = u.reshape(len(u), -1)
    frames, modes = u.shape
    if frames < modes:
        raise ValueError(
            f"{frames} frames cannot give {modes} normal modes; film more frames or select fewer particles "
            "(Displacements.select)"
        )
    error, _, note = _error_variance(motion)
    if note:
        raise ValueError(f"normal modes of layer {motion.layer} need the localization error: {note}")
    values, vectors = eigh(_covariance(u))
    halves = np.mean([eigh(_covariance(part), eigvals_only=True) for part in (u[::2], u[1::2])], axis=0)
    corrected = np.sort(2 * values - halves)[::-1] - error.mean()
    stiffness = np.where(corrected > 0, 1 / np.where(corrected > 0, corrected, 1), np.inf)
    raw = 1 / np.maximum(values[::-1], 1e-300)
    samples = frames * _samples(u[:, None, :].mean(axis=2, keepdims=True))[0] / frames
    return NormalModes(stiffness, raw, vectors.T[::-1].reshape(modes, -1, 2), samples / modes)


def _covariance(u) -> np.ndarray:
    """Covariance (2n, 2n) of all coordinates, each pair over the frames in which both were seen."""
    seen = np.isfinite(u)
    centered = np.where(seen, u - np.nanmean(u, axis=0), 0.0)
    pairs = seen.astype(np.float32).T @ seen.astype(np.float32)
    return centered.T @ centered / np.maximum(pairs - 1, 1)


def density_of_states(stiffness, bins=20, weights=None) -> tuple[np.ndarray, np.ndarray]:
    """Density of vibrational states over ω = √(stiffness): the frequency of a particle of unit mass.

    Parameters
    ----------
    stiffness : array_like
        Of normal modes, or of waves that fill the Brillouin zone (`brillouin_zone`), in kT/nm²; what is not finite and
        positive is left out.
    bins : int or array_like
        Number or edges of bins, in √kT/nm.
    weights : array_like, optional
        Of each mode.

    Returns
    -------
    frequency : ndarray, shape (b,)
        Middle of each bin, in √kT/nm. In a liquid motion is overdamped and nothing oscillates: ω is a measure of stiffness.
    density : ndarray, shape (b,)
        Share of the modes per √kT/nm; its integral is 1.

    Notes
    -----
    Explained in chapter 8, "Vibrations".
    """
    stiffness = np.asarray(stiffness, float).ravel()
    good = np.isfinite(stiffness) & (stiffness > 0)
    weights = None if weights is None else np.asarray(weights, float).ravel()[good]
    density, edges = np.histogram(np.sqrt(stiffness[good]), bins, density=True, weights=weights)
    return 0.5 * (edges[1:] + edges[:-1]), density
