"""Phonons of a layer from the covariance of its displacements: dispersion, elastic constants, normal modes.

Positions are (y, x) in nm, wave vectors in radians per nm, stiffnesses in kT/nm².
Explained in chapter 8, "Vibrations".
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.fft import next_fast_len
from scipy.linalg import eigh
from scipy.optimize import least_squares
from scipy.spatial import cKDTree
from scipy.stats import chi2

from .assignment import Lattice, find_lattice
from .order import find_grains
from .vibrations import (
    Displacements,
    coordination_labels,
    error_variance,
    every_layer,
    site_displacements,
    site_spacing,
    total_variance,
)

__all__ = [
    "ElasticConstants",
    "NormalModes",
    "SpringModel",
    "SymmetryPath",
    "brillouin_zone",
    "density_of_states",
    "dispersion",
    "elastic_constants",
    "fit_springs",
    "largest_grain",
    "localization_bound",
    "normal_modes",
    "phonons",
    "plane_wave_stiffness",
    "symmetry_path",
]


# --- Reciprocal space ---


@dataclass(frozen=True)
class SymmetryPath:
    """Wave vectors along Γ-M-K-Γ of a hexagonal lattice.

    Explained in chapter 8, "Vibrations".

    Parameters
    ----------
    wave_vectors : ndarray, shape (m, 2)
        (q_y, q_x) in radians per nm; Γ itself is left out.
    longitudinal : ndarray, shape (m, 2)
        Unit vector of the longitudinal branch (y, x): the direction Γ-M up to K, the direction Γ-K after it. Mirror
        symmetry makes it an exact polarization.
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

    Notes
    -----
    Explained in chapter 8, "Vibrations".
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

    total: np.ndarray  # (m, 2, 2) in nm², as measured
    motion: np.ndarray  # (m, 2, 2) in nm², localization error and blinking subtracted
    samples: np.ndarray  # (m,) independent complex amplitudes
    realness: np.ndarray  # (m,) 0 for a complex amplitude, 1 for one that is real but for a phase (Γ, M)


_INTERIOR = 7  # sites inside the edge: a hexagon five rows wide. Fewer have no extent for a wave to run over


def _window(motion) -> np.ndarray:
    """Weight of each site: 0 at the layer's edge, 1 deepest inside it, rising as sin²."""
    labels = coordination_labels(motion.sites)
    edge = motion.sites[labels == "edge"]
    if len(edge) == 0 or len(motion.sites) - len(edge) < _INTERIOR:
        raise ValueError(
            f"layer {motion.layer} has no interior ({len(motion.sites)} sites, {len(edge)} of them at its edge); "
            "phonons need an island at least five rows wide"
        )
    depth = cKDTree(edge).query(motion.sites)[0]
    return np.sin(0.5 * np.pi * depth / depth.max()) ** 2


def _spectrum(motion, q, weight) -> _Spectrum:
    """⟨u(q) u†(q)⟩ with u(q) = Σ w u exp(-iq·r) / √Σw²."""
    frames = len(motion.values)
    present = motion.seen / frames
    phase = np.exp(-1j * motion.sites @ q.T) * (weight / present / np.sqrt(np.sum(weight**2)))[:, None]
    u = np.nan_to_num(motion.values)  # no wave but the longest goes with drift and rotation
    amplitude = np.stack([u[..., i] @ phase for i in (0, 1)], axis=-1)  # (t, m, 2)
    samples, kept = _samples(amplitude, motion.creep)
    measured = np.einsum("tma,tmb->mab", amplitude, amplitude.conj()) / frames
    measured = measured / np.sqrt(kept[:, :, None] * kept[:, None, :])
    share = weight**2 / np.sum(weight**2)
    # a particle that blinks scatters like noise; what is white in space is the same at every q
    blinking = share @ ((1 / present - 1)[:, None] * total_variance(motion)[0])
    error, _, note = error_variance(motion)
    if note:
        raise ValueError(f"phonons of layer {motion.layer} need the localization error: {note}")
    realness = np.abs((weight**2) @ np.exp(-2j * motion.sites @ q.T)) / np.sum(weight**2)
    return _Spectrum(measured, measured - np.diag(blinking + share @ error), samples, realness)


def _samples(amplitude, creep):
    """Independent samples of each wave's power (m,), and what is left of it (m, 2) after the sites' means were removed.

    Of a Gaussian process 1 / (1 + 2 Σ |ρ|²) per frame for the power, by the slower polarization, and 1 / (1 + 2 Σ ρ)
    for the mean.
    """
    frames = len(amplitude)
    length = next_fast_len(2 * frames)
    rho = np.fft.ifft(np.abs(np.fft.fft(amplitude, length, axis=0)) ** 2, axis=0)[: max(frames // 4, 2)]
    rho = rho / np.maximum(rho[:1].real, 1e-300)
    connected = np.cumprod(np.abs(rho) ** 2 > 9 / frames, axis=0)  # |ρ|² of independent frames is 1/frames on average
    later = (rho * connected)[1:]
    samples = frames / (1 + 2 * np.sum(np.abs(later) ** 2, axis=0)) - (creep + 1)
    lost = (creep + 1) / frames * (1 + 2 * np.sum(later.real, axis=0))
    return np.maximum(samples.min(axis=1), 1.0), 1 - np.clip(lost, 0, 0.5)


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


def localization_bound(motion: Displacements, confidence: float = 0.95) -> np.ndarray:
    """Largest localization error that the spectrum of a layer's displacements allows.

    Parameters
    ----------
    motion : Displacements
        Of one layer; its localization error is not used.
    confidence : float
        That the error is below the bound.

    Returns
    -------
    ndarray, shape (2,)
        Upper bound along y and x, in nm, of the error's root mean square over the particles.

    Raises
    ------
    ValueError
        If the layer has no interior.

    Notes
    -----
    Errors of different particles are independent, so they add the same to the power of every wave. The wave
    with the least power has at least that. Each power has the interval of chi-square with its independent samples; the
    least upper end of all waves counts, with Bonferroni's correction for having chosen it. No correlation in time is
    needed. Errors shared by neighbours are not bounded. Explained in chapter 8, "Vibrations".
    """
    weight = _window(motion)
    _, _, q = _resolved_waves(motion, weight)
    spectrum = _spectrum(replace(motion, localization_std=np.zeros(motion.sites.shape)), q, weight)
    power = np.einsum("maa->ma", spectrum.motion).real
    degrees = 2 * spectrum.samples / (1 + spectrum.realness**2)
    upper = power * (degrees / chi2.ppf((1 - confidence) / len(q), degrees))[:, None]
    return np.sqrt(upper.min(axis=0))


def _resolved_waves(motion, weight):
    """Lattice of the sites, the window's blur, and the waves of the Brillouin zone (m, 2) that the window resolves."""
    lattice, _ = find_lattice(motion.sites, site_spacing(motion.sites))
    blur = _Blur(motion.sites, weight)
    q = brillouin_zone(lattice.spacing, lattice.angle, blur.divisions(lattice.spacing))
    return lattice, blur, q[np.hypot(*q.T) > blur.shortest]


# --- Springs ---


@dataclass(frozen=True)
class SpringModel:
    """Force constants of an infinite hexagonal lattice, fitted to the spectrum of a layer's displacements.

    Explained in chapter 8, "Vibrations".

    Parameters
    ----------
    spacing : float
        Nearest-neighbour distance, in nm.
    angle : float
        Direction of a close-packed row, in degrees from x towards y.
    site_stiffness : float
        Hold on every particle, of the window or the other layer, in kT/nm².
    central : ndarray, shape (s,)
        Stiffness along the bonds to each shell of neighbours (at 1, √3 and 2 spacings), in kT/nm².
    sideways : ndarray, shape (s,)
        Stiffness across these bonds, in kT/nm².
    covariance : ndarray, shape (1 + 2s, 1 + 2s)
        Of the fit: site_stiffness, then central and sideways of each shell in turn.
    misfit : float
        χ² per degree of freedom; near 1 if the model describes the layer.
    """

    spacing: float
    angle: float
    site_stiffness: float
    central: np.ndarray
    sideways: np.ndarray
    covariance: np.ndarray
    misfit: float

    @property
    def central_std(self) -> np.ndarray:
        """Standard errors of `central`, in kT/nm²."""
        return np.sqrt(np.diag(self.covariance)[1::2])

    def dynamical_matrix(self, wave_vectors) -> np.ndarray:
        """D(q) in kT/nm², shape (..., 2, 2), at wave vectors (..., 2) in radians per nm."""
        parameters = np.concatenate([[self.site_stiffness], np.stack([self.central, self.sideways], axis=1).ravel()])
        return np.tensordot(_spring_basis(wave_vectors, self.spacing, self.angle, len(self.central)), parameters, 1)


def _spring_basis(wave_vectors, spacing, angle, shells) -> np.ndarray:
    """D(q) of unit force constants, (..., 2, 2, 1 + 2 shells)."""
    q = np.asarray(wave_vectors, float)
    terms = [np.broadcast_to(np.eye(2), (*q.shape[:-1], 2, 2))]
    for length, turn in ((1.0, 0.0), (np.sqrt(3), 30.0), (2.0, 0.0))[:shells]:
        t = np.radians(angle + turn + np.array([0.0, 60.0, 120.0]))
        unit = np.stack([np.sin(t), np.cos(t)], axis=1)
        weight = 2 * (1 - np.cos(q @ (length * spacing * unit).T))
        along = np.einsum("...b,bi,bj->...ij", weight, unit, unit)
        terms += [along, weight.sum(axis=-1)[..., None, None] * np.eye(2) - along]
    return np.stack(terms, axis=-1)


def fit_springs(motion: Displacements, shells: int = 2) -> SpringModel:
    """Fit force constants of the lattice (Born and von Kármán) to the spectrum of a layer's displacements.

    Parameters
    ----------
    motion : Displacements
        Of one layer; its sites form one hexagonal grain.
    shells : int
        Shells of neighbours that are bonded, 1 to 3.

    Returns
    -------
    SpringModel

    Raises
    ------
    ValueError
        As `plane_wave_stiffness`, or if no spectrum is left above the localization error, or not 1 to 3 shells.

    Notes
    -----
    The spectrum that the model predicts, blurred by the window as the measured one is, is fitted to the measured one
    all over the Brillouin zone by weighted least squares. The spectrum is not inverted, so noise does no harm, and
    waves longer than the window are left out. Explained in chapter 8, "Vibrations".
    """
    if shells not in (1, 2, 3):
        raise ValueError(f"springs reach over 1, 2 or 3 shells of neighbours, got {shells}")
    weight = _window(motion)
    lattice, blur, q = _resolved_waves(motion, weight)
    spectrum = _spectrum(motion, q, weight)
    typical = np.median(np.trace(spectrum.motion, axis1=1, axis2=2).real) / 2
    if not typical > 0:
        raise ValueError(
            f"the localization error explains all displacements of layer {motion.layer}; no springs to fit"
        )
    basis = _spring_basis(blur.around(q), lattice.spacing, lattice.angle, shells)
    found, covariance, misfit = _fitted(spectrum, blur, basis, 1 / (3 * typical))
    return SpringModel(lattice.spacing, lattice.angle, float(found[0]), found[1::2], found[2::2], covariance, misfit)


def _fitted(spectrum, blur, basis, scale):
    """Force constants (1 + 2 shells,) in kT/nm² near a scale, their covariance, and χ² per degree of freedom."""

    def predicted(parameters):
        return np.einsum("s,msij->mij", blur.power, _inverse(basis @ (scale * parameters)))

    power = np.einsum("maa->ma", spectrum.total).real
    spread = np.sqrt(np.einsum("ma,mb->mab", power, power) / spectrum.samples[:, None, None])
    upper = np.triu_indices(2)

    def residual(parameters):
        difference = ((spectrum.motion - predicted(parameters)) / spread)[:, *upper]
        return np.concatenate([difference.real.ravel(), difference.imag[:, 1]])

    start = np.zeros(basis.shape[-1])
    start[:2] = 0.01, 1.0
    low = np.full(len(start), -np.inf)
    low[:2] = 1e-4, 1e-3
    fit = least_squares(residual, start, bounds=(low, np.inf), x_scale=0.1)
    covariance = np.linalg.pinv(fit.jac.T @ fit.jac) * scale**2
    return fit.x * scale, covariance, float(2 * fit.cost / (len(fit.fun) - len(start)))


def _inverse(matrix) -> np.ndarray:
    """Of real symmetric 2x2 matrices; unstable ones count as very soft."""
    a, b, c = matrix[..., 0, 0], matrix[..., 0, 1], matrix[..., 1, 1]
    determinant = np.maximum(a * c - b * b, 1e-6 * (a + c) ** 2)
    return np.stack([np.stack([c, -b], axis=-1), np.stack([-b, a], axis=-1)], axis=-2) / determinant[..., None, None]


class _Blur:
    """What a window does to the spectrum: an average over neighbouring wave vectors."""

    def __init__(self, sites, weight, half: int = 8):
        center = weight**2 @ sites / np.sum(weight**2)
        size = np.sqrt(weight**2 @ np.sum((sites - center) ** 2, axis=1) / np.sum(weight**2))
        self.shortest = 2.0 / size  # rad/nm; below, leakage from longer waves outweighs what is there
        self.cut = 1.0 / size  # motion of still longer waves went with drift and rotation
        axis = np.linspace(-5 / size, 5 / size, 2 * half + 1)
        self.steps = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
        power = np.abs(np.exp(-1j * self.steps @ (sites - center).T) @ weight) ** 2
        self.power = power / power.sum()

    def divisions(self, spacing) -> int:
        """Of the Brillouin zone, so that neighbouring waves are nearly independent."""
        return int(np.clip(round(6 / (self.shortest * spacing)), 6, 20))

    def around(self, q) -> np.ndarray:
        """Wave vectors that are averaged into each of q, (m, s, 2)."""
        near = q[:, None] + self.steps
        length = np.maximum(np.linalg.norm(near, axis=2, keepdims=True), 1e-12)
        return near * np.maximum(self.cut / length, 1)


@dataclass(frozen=True)
class ElasticConstants:
    """Two-dimensional elastic moduli of a layer, in kT/nm², with standard errors.

    Explained in chapter 8, "Vibrations".

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
    """

    shear: float
    shear_std: float
    longitudinal: float
    longitudinal_std: float
    bulk: float
    bulk_std: float
    poisson_ratio: float
    poisson_ratio_std: float


def elastic_constants(model: SpringModel) -> ElasticConstants:
    """Elastic moduli from the long-wavelength slopes of the dispersion.

    Parameters
    ----------
    model : SpringModel
        Of `fit_springs`.

    Returns
    -------
    ElasticConstants

    Notes
    -----
    For long waves D(q) = s + A M q², with the hold s on every particle, the area A = √3/2 a² of a site, and the modulus
    M = λ + 2μ of longitudinal and μ of transverse waves. Explained in chapter 8, "Vibrations".
    """
    t = np.radians(model.angle)
    along, across = np.array([np.sin(t), np.cos(t)]), np.array([np.cos(t), -np.sin(t)])
    q = 1e-3 / model.spacing * along
    area = np.sqrt(3) / 2 * model.spacing**2
    basis = _spring_basis(q, model.spacing, model.angle, len(model.central)) / (area * (q @ q))
    slopes = np.stack([along @ (basis.T @ along).T, across @ (basis.T @ across).T])  # (branch, parameter)
    slopes[:, 0] = 0  # the hold has no slope
    springs = np.stack([model.central, model.sideways], axis=1).ravel()
    longitudinal, shear = slopes[:, 1:] @ springs
    covariance = slopes @ model.covariance @ slopes.T
    bulk, ratio = longitudinal - shear, 1 - 2 * shear / longitudinal
    change = np.array([2 * shear / longitudinal**2, -2 / longitudinal])  # of Poisson's ratio with the two moduli
    bulk_std = np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    values = (shear, np.sqrt(covariance[1, 1]), longitudinal, np.sqrt(covariance[0, 0]))
    values += (bulk, bulk_std, ratio, np.sqrt(change @ covariance @ change))
    return ElasticConstants(*(float(x) for x in values))


# --- Dispersion ---


def dispersion(
    motion: Displacements,
    path: SymmetryPath | None = None,
    model: SpringModel | None = None,
    symmetric: bool = True,
    smooth: float = 0.35,
) -> pd.DataFrame:
    """Phonon dispersion of a layer along Γ-M-K-Γ.

    Parameters
    ----------
    motion : Displacements
        Of one layer; its sites form one hexagonal grain.
    path : SymmetryPath, optional
        By default along the model's lattice.
    model : SpringModel, optional
        Of `fit_springs`, which is called by default.
    symmetric : bool
        Average over the three paths that hexagonal symmetry makes equal; False for the one path alone.
    smooth : float
        Radius of a circle of wave vectors that are averaged into each, over the inverse spacing; 0 for none. It shrinks
        towards Γ.

    Returns
    -------
    pandas.DataFrame
        ``layer, branch`` (``longitudinal`` or ``transverse``), ``q_y_per_nm, q_x_per_nm`` (rad/nm), ``distance_per_nm``
        along the path, ``stiffness_kt_nm2`` and ``stiffness_std_kt_nm2``, its standard error with a tenth of the
        correction for blur; NaN where the localization error explains all of the power; ``model_kt_nm2``, the fitted
        model's. ``attrs`` holds the ``ticks`` of the path and ``shortest_q_per_nm``, below which waves are longer than
        the window and are not measured: they are NaN.

    Raises
    ------
    ValueError
        As `fit_springs`.

    Notes
    -----
    Localization error is white in space: its variance is subtracted from the power of every wave. The inverse of a
    covariance from few samples is too large; the factor for Gaussian samples is applied, with the number of samples
    that are independent in time. A finite window averages the spectrum over neighbouring q, and since it rises as
    1/q², long waves leak into shorter ones: the ratio of the model's spectrum before and after such averages is
    taken out. Neighbouring points share waves and scatter alike. In a lattice that is not symmetric, by strain or by
    the particles' shape, branches mix: see `plane_wave_stiffness`. Explained in chapter 8, "Vibrations".

    References
    ----------
    Keim, Maret, Herz & von Grünberg, Phys. Rev. Lett. 92, 215504 (2004), for the plane waves.
    """
    weight = _window(motion)
    model = fit_springs(motion) if model is None else model
    path = symmetry_path(model.spacing, model.angle) if path is None else path
    blur = _Blur(motion.sites, weight)
    around = _neighbours(path, smooth / model.spacing)
    turned = [around.turned(60.0 * k) for k in range(3 if symmetric else 1)]
    spectra = [_spectrum(motion, p.wave_vectors, weight) for p in turned]
    count = len(path.wave_vectors)

    def averaged(matrices):  # over the equivalent paths, then over the neighbours of each point
        branches = [_in_branches(x, p) for x, p in zip(matrices, turned, strict=True)]
        return np.mean(branches, axis=0).reshape(count, -1, 2, 2).mean(axis=1)

    total, power = averaged([x.total for x in spectra]), averaged([x.motion for x in spectra])
    realness = spectra[0].realness.reshape(count, -1)[:, 0]
    samples = sum(x.samples for x in spectra).reshape(count, -1).mean(axis=1)
    share = _shared(around.wave_vectors.reshape(count, -1, 2), motion.sites, weight)
    sharp = _diagonal(_in_branches(_inverse(model.dynamical_matrix(path.wave_vectors)), path))
    blurred = _inverse(model.dynamical_matrix(blur.around(around.wave_vectors)))
    blurred = _in_branches(np.einsum("s,msij->mij", blur.power, blurred), around).reshape(count, -1, 2, 2)
    ratio = np.sqrt(sharp / _diagonal(blurred.mean(axis=1)))
    matrix = _inverted(power * ratio[:, :, None] * ratio[:, None, :], samples / share, realness)
    matrix[np.hypot(*path.wave_vectors.T) < blur.shortest] = np.nan
    stiffness = _diagonal(matrix)
    scatter = _diagonal(total) / _diagonal(power) * np.sqrt(share / samples)[:, None]
    scatter = np.hypot(scatter, 0.1 * np.abs(ratio**2 - 1))  # a tenth of the blur's correction may be wrong
    expected = _diagonal(_in_branches(model.dynamical_matrix(path.wave_vectors), path))
    tables = [_branch_table(motion.layer, path, b, stiffness, stiffness * scatter, expected) for b in (0, 1)]
    table = pd.concat(tables, ignore_index=True)
    table.attrs = {"ticks": path.ticks, "shortest_q_per_nm": blur.shortest}
    return table


def largest_grain(motion: Displacements) -> Displacements:
    """The part of a layer's motion that has one lattice, as plane waves need it.

    Parameters
    ----------
    motion : Displacements
        Of one layer.

    Returns
    -------
    Displacements
        Of the sites of the largest grain of `moirelib.order.find_grains`; unchanged where there are not several.

    Notes
    -----
    Explained in chapter 8, "Vibrations".
    """
    grain = find_grains(motion.sites)
    return motion.select(grain == 0) if grain.max(initial=-1) > 0 else motion


def phonons(tracks: pd.DataFrame, **options) -> pd.DataFrame:
    """Phonon dispersion of every layer along Γ-M-K-Γ: the rows of ``phonons.csv``.

    Of a layer with several grains, the largest one's.

    Parameters
    ----------
    tracks : pandas.DataFrame
        As for `moirelib.vibrations.site_displacements`.
    **options
        Of `moirelib.vibrations.site_displacements`: ``localization_std, strain, creep, min_share, drift_window``.

    Returns
    -------
    pandas.DataFrame
        As `dispersion`, one layer after the other. ``attrs["note"]`` has a line for each layer that has none, or only
        those of a part of it; ``attrs["ticks"]`` has each layer's distances of Γ, M, K and Γ.

    Raises
    ------
    ValueError
        If the table is bad, or no layer has enough frames and particles, or a known localization error.

    Notes
    -----
    Explained in chapter 8, "Vibrations".
    """

    def measure(layer):
        motion = site_displacements(tracks, layer, **options)
        grain = largest_grain(motion)
        table, one, all_ = dispersion(grain), len(grain.sites), len(motion.sites)
        if one < all_:
            table.attrs["note"] = f"several grains; phonons of the largest, {one} of {all_} sites"
        return table

    table, attributes = every_layer(tracks, measure)
    table.attrs["ticks"] = {layer: own["ticks"] for layer, own in attributes.items()}
    return table


def _diagonal(matrices) -> np.ndarray:
    return np.einsum("maa->ma", matrices).real


def _neighbours(path, radius) -> SymmetryPath:
    """Each wave vector and six on a circle around it, seven times as many; the circle shrinks towards Γ."""
    t = np.radians(60.0 * np.arange(6))
    ring = np.concatenate([np.zeros((1, 2)), np.stack([np.sin(t), np.cos(t)], axis=1)])
    ring = ring[: 7 if radius > 0 else 1]
    radius = np.minimum(radius, 0.3 * np.linalg.norm(path.wave_vectors, axis=1))
    q = path.wave_vectors[:, None] + radius[:, None, None] * ring
    along = np.repeat(path.longitudinal, len(ring), axis=0)
    return SymmetryPath(q.reshape(-1, 2), along, np.repeat(path.distance, len(ring)), path.ticks)


def _shared(q, sites, weight) -> np.ndarray:
    """Relative variance of the mean power of waves (m, s, 2) under one window, over that of one complex amplitude.

    Powers of Gaussian amplitudes have the covariance |⟨a b*⟩|² + |⟨a b⟩|².
    """
    wave = np.exp(-1j * q @ sites.T) * weight / np.sqrt(np.sum(weight**2))  # (m, s, n)
    overlap = np.abs(wave @ wave.conj().transpose(0, 2, 1)) ** 2 + np.abs(wave @ wave.transpose(0, 2, 1)) ** 2
    return overlap.mean(axis=(1, 2))


def _in_branches(matrices, path) -> np.ndarray:
    """Matrices in (y, x) turned to (longitudinal, transverse)."""
    along = path.longitudinal
    axes = np.stack([along, np.stack([along[:, 1], -along[:, 0]], axis=1)], axis=1)  # (m, branch, 2)
    return np.einsum("mai,mij,mbj->mab", axes, matrices, axes)


def _branch_table(layer, path, branch, stiffness, error, expected) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "layer": layer,
            "branch": ("longitudinal", "transverse")[branch],
            "q_y_per_nm": path.wave_vectors[:, 0],
            "q_x_per_nm": path.wave_vectors[:, 1],
            "distance_per_nm": path.distance,
            "stiffness_kt_nm2": stiffness[:, branch],
            "stiffness_std_kt_nm2": error[:, branch],
            "model_kt_nm2": expected[:, branch],
        }
    )


# --- Normal modes ---


@dataclass(frozen=True)
class NormalModes:
    """Normal modes of a finite layer, from the softest to the stiffest.

    Explained in chapter 8, "Vibrations".

    Parameters
    ----------
    stiffness : ndarray, shape (m,)
        Of the m = 2n - 3 modes other than the layer's own shifts and turn, or of all 2n if these were kept
        (``drift_window``), in kT/nm²; corrected for few frames and localization error; inf where nothing is left.
    stiffness_raw : ndarray, shape (m,)
        The same without the corrections.
    shapes : ndarray, shape (m, n, 2)
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
    eigenvalues spread (Marchenko & Pastur): the softest modes come out too soft, the stiffest too stiff, in first order
    in proportion to 1/T. So eigenvalues of all frames and of halves of the movie are extrapolated to 1/T = 0, and the
    localization error's variance is subtracted from each. The shapes are not corrected: in the middle of the spectrum
    they are mixtures. Explained in chapter 8, "Vibrations".

    References
    ----------
    Henkes, Brito & Dauchot, Soft Matter 8, 6092 (2012); Maggs & Schindler, Europhys. Lett. 109, 48005 (2015).
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
    frame = _inner_coordinates(motion)
    values, vectors = eigh(frame.T @ _covariance(u) @ frame)
    # One after the other: every second frame of a fast film says nearly as much as all of them.
    halves = [eigh(frame.T @ _covariance(part) @ frame, eigvals_only=True) for part in np.array_split(u, 2)]
    halves, vectors = np.mean(halves, axis=0), frame @ vectors
    corrected = np.sort(2 * values - halves)[::-1] - error.mean()
    stiffness = np.where(corrected > 0, 1 / np.where(corrected > 0, corrected, 1), np.inf)
    raw = 1 / np.maximum(values[::-1], 1e-300)
    samples = np.mean(_samples((np.nan_to_num(u) @ vectors)[..., None], motion.creep)[0])
    return NormalModes(stiffness, raw, vectors.T[::-1].reshape(len(values), -1, 2), float(samples / len(values)))


def _inner_coordinates(motion) -> np.ndarray:
    """Orthonormal coordinates (2n, m) without the layer's shifts and turn, unless these were kept."""
    r = motion.sites - motion.sites.mean(axis=0)
    if np.sum(1 - motion.kept) < 2:  # of three degrees of freedom
        return np.eye(2 * len(r))
    rigid = np.concatenate([np.tile(np.eye(2), (len(r), 1)), (r[:, ::-1] * [1, -1]).reshape(-1, 1)], axis=1)
    return np.linalg.qr(rigid, mode="complete")[0][:, 3:]


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
        Middle of each bin, in √kT/nm. In a liquid motion is overdamped and nothing oscillates: ω is a measure of
        stiffness.
    density : ndarray, shape (b,)
        Share of the modes per √kT/nm; its integral is 1.

    Raises
    ------
    ValueError
        If no stiffness is finite and positive.

    Notes
    -----
    Explained in chapter 8, "Vibrations".
    """
    stiffness = np.asarray(stiffness, float).ravel()
    good = np.isfinite(stiffness) & (stiffness > 0)
    if not good.any():
        raise ValueError("a density of states needs modes of finite, positive stiffness, got none")
    weights = None if weights is None else np.asarray(weights, float).ravel()[good]
    density, edges = np.histogram(np.sqrt(stiffness[good]), bins, density=True, weights=weights)
    return 0.5 * (edges[1:] + edges[:-1]), density
