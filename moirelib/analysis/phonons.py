"""Phonons from the covariance of displacements: (y, x) in nm, waves in rad/nm, stiffness in kT/nm² (chapter 8)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.fft import next_fast_len
from scipy.linalg import eigh
from scipy.optimize import least_squares
from scipy.spatial import cKDTree
from scipy.stats import chi2

from ..crystal.fourier import find_lattice
from ..crystal.lattice import Lattice, SymmetryPath, brillouin_zone, symmetry_path, unit_vectors
from ..crystal.neighbours import nearest_spacing
from .displacements import Displacements, coordination_labels, require_error, site_displacements, total_variance
from .lattices import find_grains
from .vibrations import measure_every_layer

INTERIOR = 7  # sites inside the edge: a hexagon five rows wide. Fewer have no extent for a wave to run over
CONNECTED = 9.0  # times the noise of |ρ|²: correlation in time is followed while it is above (three sigma)
LARGEST_WAVE_LOSS = 0.5  # of a wave's power, by removing the sites' means (by hand)
SHORTEST_WAVE = 2.0  # rad over the window's size; below, leakage from longer waves outweighs what is there
LONGEST_WAVE = 1.0  # rad over the window's size; motion of still longer waves went with drift and rotation
WAVES_AT_ONCE = 64  # all waves of a long movie would fill the memory
BOUND_CONFIDENCE = 0.95  # of the bound of the localization error
SHELLS = (1.0, 0.0), (np.sqrt(3), 30.0), (2.0, 0.0)  # bonds to shells of neighbours: spacings, degrees from a row
BLUR_REACH, BLUR_STEPS = 5.0, 17  # rad over the window's size: its spectrum is negligible beyond; samples along an axis
WAVES_PER_WINDOW, DIVISIONS = 6, (6, 20)  # of the zone, in shortest waves along a row, within these bounds (by hand)
BLUR_DOUBT = 0.1  # share of the correction for blur that may be wrong (by hand)
SMOOTH = 0.35  # rad over the spacing (by hand): radius of the circle of wave vectors that are averaged into each,
LARGEST_SMOOTH = 0.3  # but no more of the distance from Γ (by hand)
FIRST_SPRINGS, LEAST_SPRINGS = (0.01, 1.0), (1e-4, 1e-3)  # hold and nearest neighbours, in typical stiffnesses


class _Window:
    """Weights of a layer's sites, and what they do to the spectrum: an average over neighbouring wave vectors."""

    def __init__(self, motion: Displacements):
        """The weight is 0 at the layer's edge and 1 deepest inside it, rising as sin²."""
        sites = motion.sites
        edge = sites[coordination_labels(sites) == "edge"]
        if len(edge) == 0 or len(sites) - len(edge) < INTERIOR:
            raise ValueError(
                f"layer {motion.layer} has no interior ({len(sites)} sites, {len(edge)} of them at its edge); "
                "phonons need an island at least five rows wide"
            )
        depth = cKDTree(edge).query(sites)[0]
        self.weight = np.sin(0.5 * np.pi * depth / depth.max()) ** 2
        share = self.weight**2 / np.sum(self.weight**2)
        r = sites - share @ sites
        size = np.sqrt(share @ np.sum(r**2, axis=1))
        self.shortest, self.cut = SHORTEST_WAVE / size, LONGEST_WAVE / size
        axis = np.linspace(-BLUR_REACH / size, BLUR_REACH / size, BLUR_STEPS)
        self.steps = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
        power = np.abs(np.exp(-1j * self.steps @ r.T) @ self.weight) ** 2
        self.power = power / power.sum()
        self.sites = sites

    def around(self, q: np.ndarray) -> np.ndarray:
        """Wave vectors that are averaged into each of q, (m, s, 2)."""
        near = q[:, None] + self.steps
        length = np.maximum(np.linalg.norm(near, axis=2, keepdims=True), 1e-12)
        return near * np.maximum(self.cut / length, 1)

    def resolved_waves(self) -> tuple[Lattice, np.ndarray]:
        """Lattice of the sites, and nearly independent waves of its Brillouin zone (m, 2) that the window resolves."""
        lattice, _ = find_lattice(self.sites, nearest_spacing(self.sites))
        divisions = int(np.clip(round(WAVES_PER_WINDOW / (self.shortest * lattice.spacing)), *DIVISIONS))
        q = brillouin_zone(lattice.spacing, lattice.angle, divisions)
        return lattice, q[np.hypot(*q.T) > self.shortest]


def _measure_spectrum(motion: Displacements, q: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, ...]:
    """⟨u(q) u†(q)⟩ with u(q) = Σ w u exp(-iq·r) / √Σw², (m, 2, 2) in nm², also without localization error and blinking.

    Then, each (m,), independent amplitudes; and 0 where they are complex, 1 where real but for a phase (Γ, M).
    """
    frames = len(motion.values)
    present = motion.seen / frames
    phase = np.exp(-1j * motion.sites @ q.T) * (weight / present / np.sqrt(np.sum(weight**2)))[:, None]
    # Removing drift and rotation changes only the longest waves
    u = np.ascontiguousarray(np.moveaxis(np.nan_to_num(motion.values), -1, 0))
    samples, measured = np.empty(len(q)), np.empty((len(q), 2, 2), complex)
    for k in range(0, len(q), WAVES_AT_ONCE):
        some = slice(k, k + WAVES_AT_ONCE)
        amplitude = np.moveaxis(u @ phase[:, some].real + 1j * (u @ phase[:, some].imag), 0, -1)  # (t, m, 2)
        samples[some], kept = _count_independent_samples(amplitude, motion.creep)
        power = np.einsum("tma,tmb->mab", amplitude, amplitude.conj()) / frames
        measured[some] = power / np.sqrt(kept[:, :, None] * kept[:, None, :])
    share = weight**2 / np.sum(weight**2)
    # a particle that is missed in some frames adds noise, equal at every q
    blinking = share @ ((1 / present - 1)[:, None] * total_variance(motion)[0])
    noise = np.diag(blinking + share @ require_error(motion, "phonons"))
    return measured, measured - noise, samples, np.abs(share @ np.exp(-2j * motion.sites @ q.T))


def _count_independent_samples(amplitude: np.ndarray, creep: int):
    """Independent samples of each wave's power (m,), and what removing the sites' means left of it (m, 2)."""
    frames = len(amplitude)
    length = next_fast_len(2 * frames)
    rho = np.fft.ifft(np.abs(np.fft.fft(amplitude, length, axis=0)) ** 2, axis=0)[: max(frames // 4, 2)]
    rho = rho / np.maximum(rho[:1].real, 1e-300)
    connected = np.cumprod(np.abs(rho) ** 2 > CONNECTED / frames, axis=0)  # mean |ρ|² of independent frames: 1/frames
    later = (rho * connected)[1:]
    # Per frame 1 / (1 + 2 Σ |ρ|²) for the power, by the slower polarization, and 1 / (1 + 2 Σ ρ) for the mean
    samples = frames / (1 + 2 * np.sum(np.abs(later) ** 2, axis=0)) - (creep + 1)
    lost = (creep + 1) / frames * (1 + 2 * np.sum(later.real, axis=0))
    return np.maximum(samples.min(axis=1), 1.0), 1 - np.clip(lost, 0, LARGEST_WAVE_LOSS)


def plane_wave_stiffness(motion: Displacements, wave_vectors: ArrayLike) -> np.ndarray:
    """Dynamical matrix of a layer, from the spectrum of its displacements, at wave vectors (m, 2) in radians per nm.

    D(q) = ⟨u(q) u†(q)⟩⁻¹ in kT/nm², shape (m, 2, 2), (y, x) order; NaN where the localization error explains all that
    was measured. A window keeps the edge's softer particles out, but blurs q: see `dispersion`.
    """
    return _invert_covariance(*_measure_spectrum(motion, np.asarray(wave_vectors, float), _Window(motion).weight)[1:])


def _invert_covariance(matrix: np.ndarray, samples: np.ndarray, realness: np.ndarray) -> np.ndarray:
    """Inverse of sample covariances, unbiased: of N complex samples in 2 dimensions it is too large by N/(N - 2)."""
    values = np.linalg.eigvalsh(matrix)
    good = values[:, 0] > 1e-12 * np.abs(values[:, 1])
    bias = np.clip(1 - (2 + realness) / samples, 0, 1)  # N/(N - 3) for real ones (Wishart)
    safe = np.where(good[:, None, None], matrix, np.eye(2))
    return np.linalg.inv(safe) * np.where(good, bias, np.nan)[:, None, None]


def localization_bound(motion: Displacements) -> np.ndarray:
    """Largest localization error that the spectrum of a layer's displacements allows, with a confidence of 95 %.

    Upper bound of the error's root mean square over the particles, along y and x in nm, shape (2,): errors add the same
    to the power of every wave, also of the weakest (with Bonferroni's correction). Errors shared by neighbours are not
    bounded.
    """
    window = _Window(motion)
    _, q = window.resolved_waves()
    without = replace(motion, localization_std=np.zeros(motion.sites.shape))
    _, power, samples, realness = _measure_spectrum(without, q, window.weight)
    degrees = 2 * samples / (1 + realness**2)
    upper = _diagonal(power) * (degrees / chi2.ppf((1 - BOUND_CONFIDENCE) / len(q), degrees))[:, None]
    return np.sqrt(upper.min(axis=0))


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
    for length, turn in SHELLS[:shells]:
        unit = unit_vectors(angle + turn + np.array([0.0, 60.0, 120.0]))
        weight = 2 * (1 - np.cos(q @ (length * spacing * unit).T))
        along = np.einsum("...b,bi,bj->...ij", weight, unit, unit)
        terms += [along, weight.sum(axis=-1)[..., None, None] * np.eye(2) - along]
    return np.stack(terms, axis=-1)


def fit_springs(motion: Displacements, shells: int = 2) -> SpringModel:
    """Fit force constants of the lattice (Born and von Kármán) to the spectrum of a layer's displacements.

    The sites form one hexagonal grain; 1 to 3 ``shells`` of neighbours are bonded. The model's spectrum, blurred by the
    window, is fitted to the measured one for all waves of the Brillouin zone that the window resolves.
    """
    if shells not in (1, 2, 3):
        raise ValueError(f"springs reach over 1, 2 or 3 shells of neighbours, got {shells}")
    window = _Window(motion)
    lattice, q = window.resolved_waves()
    total, measured, samples, _ = _measure_spectrum(motion, q, window.weight)
    typical = np.median(_diagonal(measured).sum(axis=1)) / 2
    if not typical > 0:
        raise ValueError(f"the localization error explains all motion of layer {motion.layer}; no springs to fit")
    scale = 1 / (3 * typical)  # kT/nm²
    basis, power = _spring_basis(window.around(q), lattice.spacing, lattice.angle, shells), _diagonal(total)
    spread = np.sqrt(np.einsum("ma,mb->mab", power, power) / samples[:, None, None])

    def residual(parameters):
        predicted = np.einsum("s,msij->mij", window.power, _invert_safely(basis @ (scale * parameters)))
        difference = ((measured - predicted) / spread)[:, *np.triu_indices(2)]
        return np.concatenate([difference.real.ravel(), difference.imag[:, 1]])

    start, low = np.zeros(1 + 2 * shells), np.full(1 + 2 * shells, -np.inf)
    start[:2], low[:2] = FIRST_SPRINGS, LEAST_SPRINGS
    fit = least_squares(residual, start, bounds=(low, np.inf), x_scale=0.1)
    covariance = np.linalg.pinv(fit.jac.T @ fit.jac) * scale**2
    found, misfit = fit.x * scale, float(2 * fit.cost / (len(fit.fun) - len(start)))
    return SpringModel(lattice.spacing, lattice.angle, float(found[0]), found[1::2], found[2::2], covariance, misfit)


def _invert_safely(matrix: np.ndarray) -> np.ndarray:
    """Of real symmetric 2x2 matrices; unstable ones count as very soft."""
    a, b, c = matrix[..., 0, 0], matrix[..., 0, 1], matrix[..., 1, 1]
    determinant = np.maximum(a * c - b * b, 1e-6 * (a + c) ** 2)
    return np.stack([np.stack([c, -b], axis=-1), np.stack([-b, a], axis=-1)], axis=-2) / determinant[..., None, None]


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
    # Sums over a shell's three bonds at angles θ to q: cos⁴θ gives 9/8, cos²θ sin²θ 3/8, times the squared length
    shell = np.array([[9.0, 3.0], [3.0, 9.0]]) / 8 / np.sqrt(0.75)  # (branch, central and sideways)
    slopes = np.hstack([shell * length**2 for length, _ in SHELLS[: len(model.central)]])
    longitudinal, shear = slopes @ np.stack([model.central, model.sideways], axis=1).ravel()
    covariance = slopes @ model.covariance[1:, 1:] @ slopes.T  # the hold has no slope
    # Change of shear, longitudinal, bulk modulus and Poisson's ratio with the two
    change = np.array([[0, 1], [1, 0], [1, -1], [2 * shear / longitudinal**2, -2 / longitudinal]])
    errors = np.sqrt(np.einsum("ki,ij,kj->k", change, covariance, change))
    values = shear, longitudinal, longitudinal - shear, 1 - 2 * shear / longitudinal
    return ElasticConstants(*np.stack([values, errors], axis=1).ravel().tolist())


def dispersion(
    motion: Displacements, path: SymmetryPath | None = None, model: SpringModel | None = None, symmetric: bool = True
) -> pd.DataFrame:
    """Phonon dispersion of a layer along Γ-M-K-Γ.

    Keim, Maret, Herz & von Grünberg, Phys. Rev. Lett. 92, 215504 (2004); without the localization error's variance, and
    corrected for few independent samples and for the window, which averages over neighbouring q. Neighbouring points
    scatter alike. Branches mix where strain or shape break the symmetry: see `plane_wave_stiffness`.

    The table has ``layer, branch`` (``longitudinal`` or ``transverse``), ``q_y_per_nm, q_x_per_nm`` (rad/nm),
    ``distance_per_nm`` along the path; ``stiffness_kt_nm2`` and ``stiffness_std_kt_nm2``, its standard error with a
    tenth of the correction for blur, NaN for waves longer than the window (``attrs["shortest_q_per_nm"]``) and where
    the localization error explains all of the power; ``model_kt_nm2``, the fitted model's. ``attrs["ticks"]`` are the
    distances of Γ, M, K and Γ.

    The sites form one grain, by default with its path and springs. ``symmetric`` averages over equivalent paths.
    """
    window, model = _Window(motion), fit_springs(motion) if model is None else model
    path = symmetry_path(model.spacing, model.angle) if path is None else path
    around = _add_surrounding_waves(path, SMOOTH / model.spacing)
    turned = [around.turn(60.0 * k) for k in range(3 if symmetric else 1)]
    spectra, q = [_measure_spectrum(motion, p.wave_vectors, window.weight) for p in turned], path.wave_vectors
    count = len(q)

    def average(matrices):  # over the equivalent paths, then over the neighbours of each point
        branches = [_turn_to_branches(x, p) for x, p in zip(matrices, turned, strict=True)]
        return np.mean(branches, axis=0).reshape(count, -1, 2, 2).mean(axis=1)

    total, power, samples, realness = zip(*spectra, strict=True)
    total, power, realness = average(total), average(power), realness[0].reshape(count, -1)[:, 0]
    samples = np.sum(samples, axis=0).reshape(count, -1).mean(axis=1)
    # Variance of the mean power of waves under one window, over that of one: Gaussian amplitudes a, b have powers of
    # the covariance |⟨a b*⟩|² + |⟨a b⟩|²
    wave = np.exp(-1j * around.wave_vectors.reshape(count, -1, 2) @ motion.sites.T) * window.weight  # (m, s, n)
    overlap = sum(np.abs(wave @ other.transpose(0, 2, 1)) ** 2 for other in (wave.conj(), wave))
    share, expected = overlap.mean(axis=(1, 2)) / np.sum(window.weight**2) ** 2, model.dynamical_matrix(q)
    blurred = _invert_safely(model.dynamical_matrix(window.around(around.wave_vectors)))
    blurred = _turn_to_branches(np.einsum("s,msij->mij", window.power, blurred), around).reshape(count, -1, 2, 2)
    ratio = np.sqrt(_diagonal(_turn_to_branches(_invert_safely(expected), path)) / _diagonal(blurred.mean(axis=1)))
    matrix = _invert_covariance(power * ratio[:, :, None] * ratio[:, None, :], samples / share, realness)
    matrix[np.hypot(*q.T) < window.shortest] = np.nan
    stiffness, scatter = _diagonal(matrix), _diagonal(total) / _diagonal(power) * np.sqrt(share / samples)[:, None]
    scatter = np.hypot(scatter, BLUR_DOUBT * np.abs(ratio**2 - 1))
    table = pd.DataFrame({"layer": motion.layer, "branch": np.repeat(["longitudinal", "transverse"], count)})
    table["q_y_per_nm"], table["q_x_per_nm"] = np.tile(q.T, 2)
    table["distance_per_nm"] = np.tile(path.distance, 2)
    table["stiffness_kt_nm2"], table["stiffness_std_kt_nm2"] = stiffness.T.ravel(), (stiffness * scatter).T.ravel()
    table["model_kt_nm2"] = _diagonal(_turn_to_branches(expected, path)).T.ravel()
    table.attrs = {"ticks": path.ticks, "shortest_q_per_nm": window.shortest}
    return table


def largest_grain(motion: Displacements) -> Displacements:
    """Motion of the largest grain alone, as plane waves need one lattice; unchanged where there are not several."""
    grain = find_grains(motion.sites)
    return motion.select(grain == 0) if grain.max(initial=-1) > 0 else motion


def measure_phonons(
    tracks: pd.DataFrame,
    displacements: Callable[[int], Displacements] | None = None,
    springs: Callable[[Displacements], SpringModel] = fit_springs,
    **options: Any,
) -> pd.DataFrame:
    """Phonon dispersion of every layer along Γ-M-K-Γ: the rows of ``phonons.csv``.

    Takes tracks and options as `site_displacements` does and gives `dispersion` of each layer's largest grain. What
    gives displacements and springs can be replaced. ``attrs`` has a note on layers without, and the ticks.
    """
    ticks = {}

    def measure(layer):
        motion = displacements(layer) if displacements else site_displacements(tracks, layer, **options)
        grain = largest_grain(motion)
        table = dispersion(grain, model=springs(grain))
        ticks[layer] = table.attrs["ticks"]
        if len(grain.sites) < len(motion.sites):
            sites = f"{len(grain.sites)} of {len(motion.sites)} sites"
            table.attrs["note"] = f"several grains; phonons of the largest, {sites}"
        return table

    table = measure_every_layer(tracks, measure)
    table.attrs["ticks"] = ticks
    return table


def _diagonal(matrices) -> np.ndarray:
    return np.einsum("maa->ma", matrices).real


def _add_surrounding_waves(path, radius) -> SymmetryPath:
    """Each wave vector and six on a circle around it, seven times as many; the circle shrinks towards Γ."""
    ring = np.concatenate([np.zeros((1, 2)), unit_vectors(60.0 * np.arange(6))])
    radius = np.minimum(radius, LARGEST_SMOOTH * np.linalg.norm(path.wave_vectors, axis=1))
    q = path.wave_vectors[:, None] + radius[:, None, None] * ring
    along = np.repeat(path.longitudinal, len(ring), axis=0)
    return SymmetryPath(q.reshape(-1, 2), along, np.repeat(path.distance, len(ring)), path.ticks)


def _turn_to_branches(matrices, path) -> np.ndarray:
    """Matrices in (y, x) turned to (longitudinal, transverse)."""
    along = path.longitudinal
    axes = np.stack([along, np.stack([along[:, 1], -along[:, 0]], axis=1)], axis=1)  # (m, branch, 2)
    return np.einsum("mai,mij,mbj->mab", axes, matrices, axes)


@dataclass(frozen=True)
class NormalModes:
    """Normal modes of a finite layer, from the softest to the stiffest."""

    # (m,) in kT/nm², corrected for few frames and localization error, inf where nothing is left; m = 2n - 3, or 2n
    # where the layer's own shifts and turn were kept (``drift_window``)
    stiffness: np.ndarray
    stiffness_raw: np.ndarray  # (m,) the same without the corrections
    shapes: np.ndarray  # (m, n, 2) unit vectors of each mode (y, x), of the sample covariance
    frames_per_mode: float  # independent frames over modes: below about 3, only the softest modes mean anything


def find_normal_modes(motion: Displacements) -> NormalModes:
    """Normal modes of a layer, or of some of its particles (`Displacements.select`), from their displacements.

    Stiffnesses are inverse eigenvalues of the covariance matrix, extrapolated to infinitely many frames and without the
    localization error's variance. Shapes are not corrected: in the middle of the spectrum they are mixtures. Henkes,
    Brito & Dauchot, Soft Matter 8, 6092 (2012); Maggs & Schindler, Europhys. Lett. 109, 48005 (2015).
    """
    u = motion.values.reshape(len(motion.values), -1)
    frames, modes = u.shape
    if frames < modes:
        raise ValueError(f"{frames} frames cannot give {modes} normal modes; film more, or select fewer particles")
    error = require_error(motion, "normal modes")
    frame, r = np.eye(modes), motion.sites - motion.sites.mean(axis=0)
    if np.sum(1 - motion.kept) >= 2:  # of three degrees of freedom: the layer's shifts and turn are gone
        rigid = np.concatenate([np.tile(np.eye(2), (len(r), 1)), (r[:, ::-1] * [1, -1]).reshape(-1, 1)], axis=1)
        frame = np.linalg.qr(rigid, mode="complete")[0][:, 3:]

    def covariance(some):  # without rigid motion; each pair of coordinates over the frames in which both were seen
        seen = np.isfinite(some)
        centered = np.where(seen, some - np.nanmean(some, axis=0), 0.0)
        pairs = seen.astype(np.float32).T @ seen.astype(np.float32)
        return frame.T @ (centered.T @ centered / np.maximum(pairs - 1, 1)) @ frame

    values, vectors = eigh(covariance(u))
    # One after the other: every second frame of a fast film says nearly as much as all of them.
    halves = np.mean([eigh(covariance(part), eigvals_only=True) for part in np.array_split(u, 2)], axis=0)
    vectors, corrected = frame @ vectors, np.sort(2 * values - halves)[::-1] - error.mean()
    with np.errstate(divide="ignore"):
        stiffness = 1 / np.maximum(corrected, 0.0)
    raw = 1 / np.maximum(values[::-1], 1e-300)
    samples = np.mean(_count_independent_samples((np.nan_to_num(u) @ vectors)[..., None], motion.creep)[0])
    return NormalModes(stiffness, raw, vectors.T[::-1].reshape(len(values), -1, 2), float(samples / len(values)))


def density_of_states(stiffness: ArrayLike, bins: int | ArrayLike = 20) -> tuple[np.ndarray, np.ndarray]:
    """Density of vibrational states over ω = √(stiffness), the frequency of a particle of unit mass; its integral is 1.

    Takes stiffnesses in kT/nm² of normal modes or of waves of a `brillouin_zone`, and bins: their number, or edges in
    √kT/nm. Returns their middles and the density, shape (b,). Motion in a liquid is overdamped.
    """
    stiffness = np.asarray(stiffness, float).ravel()
    known = stiffness[np.isfinite(stiffness) & (stiffness > 0)]
    if len(known) == 0:
        raise ValueError("a density of states needs modes of finite, positive stiffness, got none")
    density, edges = np.histogram(np.sqrt(known), bins, density=True)
    return 0.5 * (edges[1:] + edges[:-1]), density
