"""Stiffness of plane waves, springs between particles, and elastic constants (chapter 8, "Vibrations")."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.fft import next_fast_len
from scipy.optimize import least_squares
from scipy.spatial import cKDTree
from scipy.stats import chi2

from ..crystal.brillouin import brillouin_zone
from ..crystal.fourier import find_lattice
from ..crystal.lattice import Lattice
from ..crystal.neighbours import nearest_spacing
from .displacements import Displacements, coordination_labels
from .localization_error import error_variance, total_variance

INTERIOR = 7  # sites inside the edge: a hexagon five rows wide. Fewer have no extent for a wave to run over
CONNECTED = 9.0  # times the noise of |ρ|²: correlation in time is followed while it is above (three sigma)
LARGEST_LOSS = 0.5  # of a wave's power, by removing the sites' means
SHORTEST_WAVE = 2.0  # rad over the window's size; below, leakage from longer waves outweighs what is there
LONGEST_WAVE = 1.0  # rad over the window's size; motion of still longer waves went with drift and rotation
WAVES_AT_ONCE = 64  # all waves of a long movie would fill the memory
CONFIDENCE = 0.95  # of the bound of the localization error
BLUR_REACH = 5.0  # rad over the window's size: the window's spectrum is negligible beyond


@dataclass(frozen=True)
class _Spectrum:
    """Spectrum of plane waves under a window, before it is inverted."""

    total: np.ndarray  # (m, 2, 2) in nm², as measured
    motion: np.ndarray  # (m, 2, 2) in nm², localization error and blinking subtracted
    samples: np.ndarray  # (m,) independent complex amplitudes
    realness: np.ndarray  # (m,) 0 for a complex amplitude, 1 for one that is real but for a phase (Γ, M)


def edge_window(motion: Displacements) -> np.ndarray:
    """Weight of each site: 0 at the layer's edge, 1 deepest inside it, rising as sin²."""
    labels = coordination_labels(motion.sites)
    edge = motion.sites[labels == "edge"]
    if len(edge) == 0 or len(motion.sites) - len(edge) < INTERIOR:
        raise ValueError(
            f"layer {motion.layer} has no interior ({len(motion.sites)} sites, {len(edge)} of them at its edge); "
            "phonons need an island at least five rows wide"
        )
    depth = cKDTree(edge).query(motion.sites)[0]
    return np.sin(0.5 * np.pi * depth / depth.max()) ** 2


def displacement_spectrum(motion: Displacements, q: np.ndarray, weight: np.ndarray) -> _Spectrum:
    """⟨u(q) u†(q)⟩ with u(q) = Σ w u exp(-iq·r) / √Σw²."""
    frames = len(motion.values)
    present = motion.seen / frames
    phase = np.exp(-1j * motion.sites @ q.T) * (weight / present / np.sqrt(np.sum(weight**2)))[:, None]
    # Removing drift and rotation changes only the longest waves
    u = np.ascontiguousarray(np.moveaxis(np.nan_to_num(motion.values), -1, 0))
    samples, measured = np.empty(len(q)), np.empty((len(q), 2, 2), complex)
    for k in range(0, len(q), WAVES_AT_ONCE):
        some = slice(k, k + WAVES_AT_ONCE)
        amplitude = np.moveaxis(u @ phase[:, some].real + 1j * (u @ phase[:, some].imag), 0, -1)  # (t, m, 2)
        samples[some], kept = independent_samples(amplitude, motion.creep)
        power = np.einsum("tma,tmb->mab", amplitude, amplitude.conj()) / frames
        measured[some] = power / np.sqrt(kept[:, :, None] * kept[:, None, :])
    share = weight**2 / np.sum(weight**2)
    # a particle that is missed in some frames adds noise, equal at every q
    blinking = share @ ((1 / present - 1)[:, None] * total_variance(motion)[0])
    error, _, note = error_variance(motion)
    if note:
        raise ValueError(f"phonons of layer {motion.layer} need the localization error: {note}")
    realness = np.abs((weight**2) @ np.exp(-2j * motion.sites @ q.T)) / np.sum(weight**2)
    return _Spectrum(measured, measured - np.diag(blinking + share @ error), samples, realness)


def independent_samples(amplitude: np.ndarray, creep: int):
    """Independent samples of each wave's power (m,), and what is left of it (m, 2) after the sites' means were removed.

    Per frame 1 / (1 + 2 Σ |ρ|²) for the power, by the slower polarization, and 1 / (1 + 2 Σ ρ) for the mean.
    """
    frames = len(amplitude)
    length = next_fast_len(2 * frames)
    rho = np.fft.ifft(np.abs(np.fft.fft(amplitude, length, axis=0)) ** 2, axis=0)[: max(frames // 4, 2)]
    rho = rho / np.maximum(rho[:1].real, 1e-300)
    noise = 1 / frames  # mean |ρ|² of independent frames
    connected = np.cumprod(np.abs(rho) ** 2 > CONNECTED * noise, axis=0)
    later = (rho * connected)[1:]
    samples = frames / (1 + 2 * np.sum(np.abs(later) ** 2, axis=0)) - (creep + 1)
    lost = (creep + 1) / frames * (1 + 2 * np.sum(later.real, axis=0))
    return np.maximum(samples.min(axis=1), 1.0), 1 - np.clip(lost, 0, LARGEST_LOSS)


def plane_wave_stiffness(motion: Displacements, wave_vectors: ArrayLike) -> np.ndarray:
    """Dynamical matrix of a layer, from the spectrum of its displacements, at wave vectors (m, 2) in radians per nm.

    D(q) = ⟨u(q) u†(q)⟩⁻¹ in kT/nm², shape (m, 2, 2), (y, x) order; NaN where the localization error explains all that
    was measured. A window that falls to zero at the layer's edge keeps its softer particles out; it blurs q: see
    `dispersion`. Keim, Maret, Herz & von Grünberg, Phys. Rev. Lett. 92, 215504 (2004).
    """
    spectrum = displacement_spectrum(motion, np.asarray(wave_vectors, float), edge_window(motion))
    return invert_covariance(spectrum.motion, spectrum.samples, spectrum.realness)


def invert_covariance(matrix: np.ndarray, samples: np.ndarray, realness: np.ndarray) -> np.ndarray:
    """Inverse of sample covariances, unbiased: of N complex samples in 2 dimensions it is too large by N/(N - 2)."""
    values = np.linalg.eigvalsh(matrix)
    good = values[:, 0] > 1e-12 * np.abs(values[:, 1])
    result = np.full(matrix.shape, np.nan, complex)
    bias = np.clip(1 - (2 + realness) / samples, 0, 1)  # N/(N - 3) for real ones (Wishart)
    result[good] = np.linalg.inv(matrix[good]) * bias[good, None, None]
    return result


def localization_bound(motion: Displacements) -> np.ndarray:
    """Largest localization error that the spectrum of a layer's displacements allows, with a confidence of 95 %.

    Upper bound of the error's root mean square over the particles, along y and x in nm, shape (2,). The localization
    error that the displacements come with is not used. Errors of different particles are independent, so they add the
    same to the power of every wave. The wave with the least power has at least that. Each power has the interval of
    chi-square with its independent samples; the least upper end of all waves counts, with Bonferroni's correction for
    having chosen it. No correlation in time is needed. Errors shared by neighbours are not bounded.
    """
    weight = edge_window(motion)
    _, _, q = _select_resolved_waves(motion, weight)
    spectrum = displacement_spectrum(replace(motion, localization_std=np.zeros(motion.sites.shape)), q, weight)
    power = np.einsum("maa->ma", spectrum.motion).real
    degrees = 2 * spectrum.samples / (1 + spectrum.realness**2)
    upper = power * (degrees / chi2.ppf((1 - CONFIDENCE) / len(q), degrees))[:, None]
    return np.sqrt(upper.min(axis=0))


def _select_resolved_waves(motion, weight):
    """Lattice of the sites, the window's blur, and the waves of the Brillouin zone (m, 2) that the window resolves."""
    lattice, _ = find_lattice(motion.sites, nearest_spacing(motion.sites))
    blur = Blur(motion.sites, weight)
    q = brillouin_zone(lattice.spacing, lattice.angle, blur.divisions(lattice.spacing))
    return lattice, blur, q[np.hypot(*q.T) > blur.shortest]


@dataclass(frozen=True)
class SpringModel(Lattice):
    """Force constants of an infinite hexagonal lattice, fitted to the spectrum of a layer's displacements."""

    site_stiffness: float  # spring that holds each particle in place (window or other layer), in kT/nm²
    central: np.ndarray  # (s,) stiffness along the bonds to each shell (at 1, √3 and 2 spacings), in kT/nm²
    sideways: np.ndarray  # (s,) stiffness across these bonds, in kT/nm²
    covariance: np.ndarray  # (1 + 2s, 1 + 2s): site_stiffness, then central and sideways of each shell in turn
    misfit: float  # χ² per degree of freedom; near 1 if the model describes the layer

    @property
    def central_std(self) -> np.ndarray:
        """Standard errors of `central`, in kT/nm²."""
        return np.sqrt(np.diag(self.covariance)[1::2])

    def dynamical_matrix(self, wave_vectors: ArrayLike) -> np.ndarray:
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

    Its sites form one hexagonal grain. ``shells`` of neighbours are bonded, 1 to 3.
    The spectrum that the model predicts, blurred by the window as the measured one is, is fitted to the measured one
    all over the Brillouin zone by weighted least squares. The spectrum is not inverted, so noise does no harm, and
    waves longer than the window are left out.
    """
    if shells not in (1, 2, 3):
        raise ValueError(f"springs reach over 1, 2 or 3 shells of neighbours, got {shells}")
    weight = edge_window(motion)
    lattice, blur, q = _select_resolved_waves(motion, weight)
    spectrum = displacement_spectrum(motion, q, weight)
    typical = np.median(np.trace(spectrum.motion, axis1=1, axis2=2).real) / 2
    if not typical > 0:
        raise ValueError(
            f"the localization error explains all displacements of layer {motion.layer}; no springs to fit"
        )
    scale = 1 / (3 * typical)  # kT/nm²
    basis = _spring_basis(blur.around(q), lattice.spacing, lattice.angle, shells)
    power = np.einsum("maa->ma", spectrum.total).real
    spread = np.sqrt(np.einsum("ma,mb->mab", power, power) / spectrum.samples[:, None, None])

    def residual(parameters):
        predicted = np.einsum("s,msij->mij", blur.power, safe_inverse(basis @ (scale * parameters)))
        difference = ((spectrum.motion - predicted) / spread)[:, *np.triu_indices(2)]
        return np.concatenate([difference.real.ravel(), difference.imag[:, 1]])

    start, low = np.zeros(1 + 2 * shells), np.full(1 + 2 * shells, -np.inf)
    start[:2], low[:2] = (0.01, 1.0), (1e-4, 1e-3)
    fit = least_squares(residual, start, bounds=(low, np.inf), x_scale=0.1)
    covariance = np.linalg.pinv(fit.jac.T @ fit.jac) * scale**2
    found, misfit = fit.x * scale, float(2 * fit.cost / (len(fit.fun) - len(start)))
    return SpringModel(lattice.spacing, lattice.angle, float(found[0]), found[1::2], found[2::2], covariance, misfit)


def safe_inverse(matrix: np.ndarray) -> np.ndarray:
    """Of real symmetric 2x2 matrices; unstable ones count as very soft."""
    a, b, c = matrix[..., 0, 0], matrix[..., 0, 1], matrix[..., 1, 1]
    determinant = np.maximum(a * c - b * b, 1e-6 * (a + c) ** 2)
    return np.stack([np.stack([c, -b], axis=-1), np.stack([-b, a], axis=-1)], axis=-2) / determinant[..., None, None]


class Blur:
    """What a window does to the spectrum: an average over neighbouring wave vectors."""

    def __init__(self, sites, weight):
        center = weight**2 @ sites / np.sum(weight**2)
        size = np.sqrt(weight**2 @ np.sum((sites - center) ** 2, axis=1) / np.sum(weight**2))
        self.shortest = SHORTEST_WAVE / size
        self.cut = LONGEST_WAVE / size
        axis = np.linspace(-BLUR_REACH / size, BLUR_REACH / size, 17)
        self.steps = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
        power = np.abs(np.exp(-1j * self.steps @ (sites - center).T) @ weight) ** 2
        self.power = power / power.sum()

    def divisions(self, spacing: float) -> int:
        """Of the Brillouin zone, so that neighbouring waves are nearly independent."""
        return int(np.clip(round(6 / (self.shortest * spacing)), 6, 20))

    def around(self, q: np.ndarray) -> np.ndarray:
        """Wave vectors that are averaged into each of q, (m, s, 2)."""
        near = q[:, None] + self.steps
        length = np.maximum(np.linalg.norm(near, axis=2, keepdims=True), 1e-12)
        return near * np.maximum(self.cut / length, 1)


@dataclass(frozen=True)
class ElasticConstants:
    """Two-dimensional elastic moduli of a layer, in kT/nm², with standard errors."""

    shear: float  # μ, from the transverse branch
    shear_std: float
    longitudinal: float  # λ + 2μ, from the longitudinal branch
    longitudinal_std: float
    bulk: float  # λ + μ
    bulk_std: float
    poisson_ratio: float  # λ / (λ + 2μ), between -1 and 1 in 2D; 1/3 for central springs between nearest neighbours
    poisson_ratio_std: float


def elastic_constants(model: SpringModel) -> ElasticConstants:
    """Elastic moduli from the long-wavelength slopes of the dispersion of a model that `fit_springs` gave.

    For long waves D(q) = s + A M q², with the hold s on every particle, the area A = √3/2 a² of a site, and the modulus
    M = λ + 2μ of longitudinal and μ of transverse waves.
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
    bulk_variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    errors = np.sqrt([covariance[1, 1], covariance[0, 0], bulk_variance, change @ covariance @ change])
    fields = zip((shear, longitudinal, bulk, ratio), errors, strict=True)
    return ElasticConstants(*(float(number) for field in fields for number in field))
