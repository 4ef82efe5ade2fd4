"""Elastic vibrations: a harmonic crystal of nanoparticles with springs between nearest neighbours (chapter 1)."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import eigh
from scipy.sparse import coo_array, csc_array, eye_array, vstack
from scipy.sparse.linalg import splu

from ..crystal.lattice import unit_vectors
from ..crystal.neighbours import bonds


def stiffness_matrix(
    positions: ArrayLike, spacing: float, spring_constant: float, site_stiffness: float = 0.0
) -> csc_array:
    """Second derivatives of the elastic energy in kT/nm², shape (2n, 2n): E = ½ uᵀ K u with u = y0, x0, y1, x1, ...

    Every spring is unstretched at the sites (n, 2), (y, x) in nm. Springs of bonds and to the sites are in kT/nm².
    """
    stretch = _stretch_matrix(positions, spacing)
    return csc_array(spring_constant * (stretch.T @ stretch) + site_stiffness * eye_array(stretch.shape[1]))


def _stretch_matrix(positions, spacing) -> csc_array:
    """Maps displacements (2n) to the lengthening of each bond (m), to first order."""
    positions = np.asarray(positions, float)
    pairs = bonds(positions, spacing)
    step = positions[pairs[:, 1]] - positions[pairs[:, 0]]
    unit, row = step / np.linalg.norm(step, axis=1, keepdims=True), np.repeat(np.arange(len(pairs)), 4)
    column = (2 * pairs[:, :, None] + [0, 1]).reshape(-1)  # y and x of the first particle, then of the second
    value = np.concatenate([-unit, unit], axis=1).reshape(-1)
    return csc_array(coo_array((value, (row, column)), shape=(len(pairs), 2 * len(positions))))


def thermal_displacements(
    positions: np.ndarray,
    spacing: float,
    spring_constant: float,
    frames: int,
    rng: np.random.Generator,
    site_stiffness: float | None = None,
    correlation_time: float = 0.0,
) -> np.ndarray:
    """Draw displacements (y, x) of an elastic crystal in thermal equilibrium, in nm, shape (frames, n, 2).

    They are Gaussian with the inverse of the `stiffness_matrix` as covariance. A weak spring from every particle to its
    site (``site_stiffness``, by default 0.02 spring constants) holds the crystal as a whole, and loose particles.

    With a ``correlation_time`` every vibration mode of stiffness λ decays as exp(-t/τ) with τ in proportion to 1/λ:
    overdamped motion in a liquid, without hydrodynamic interactions. The time, in frames, is τ of one particle whose
    neighbours are held (λ = 3 spring constants plus the site's); 0 draws every frame anew. It needs all modes: 6
    seconds for 1500 particles on one core, where independent frames take milliseconds.
    """
    site_stiffness = 0.02 * spring_constant if site_stiffness is None else site_stiffness
    if not (spring_constant > 0 and site_stiffness > 0):
        got = f"{spring_constant}, {site_stiffness}"
        raise ValueError(f"spring constant and site stiffness must be positive (kT/nm²), got {got}")
    stiffness = stiffness_matrix(positions, spacing, spring_constant, site_stiffness)
    if correlation_time > 0:  # an Ornstein-Uhlenbeck process of every mode, in equilibrium from the first frame on
        eigenvalues, modes = eigh(stiffness.toarray(), driver="evd", overwrite_a=True)
        memory = np.exp(-eigenvalues / ((3 * spring_constant + site_stiffness) * correlation_time))
        # Noise is drawn per particle: eigenvectors come out with another sign or mixture on another machine.
        amplitudes = rng.standard_normal((frames, len(eigenvalues))) @ modes
        for t in range(1, frames):
            amplitudes[t] = memory * amplitudes[t - 1] + np.sqrt(1 - memory**2) * amplitudes[t]
        drawn = (amplitudes / np.sqrt(eigenvalues)) @ modes.T
    else:
        # Forces of independent unit noise on every spring have the covariance K; K⁻¹ of them has K⁻¹ K K⁻¹ = K⁻¹.
        sites = np.sqrt(site_stiffness) * eye_array(stiffness.shape[0])
        springs = vstack([np.sqrt(spring_constant) * _stretch_matrix(positions, spacing), sites], format="csc")
        noise = rng.standard_normal((frames, springs.shape[0]))
        drawn = splu(stiffness).solve(springs.T @ noise.T).T if len(positions) else np.empty((frames, 0))
    return drawn.reshape(frames, len(positions), 2)


def dynamical_matrix(
    wave_vectors: ArrayLike, spacing: float, angle: float, spring_constant: float, site_stiffness: float = 0.0
) -> np.ndarray:
    """Stiffness of plane waves in an infinite hexagonal crystal of springs between nearest neighbours.

    D(q) in kT/nm², shape (..., 2, 2) in (y, x) order, at wave vectors (..., 2) in radians per nm: the inverse of the
    spectrum ⟨u_i(q) u_j*(q)⟩ of thermal displacements, u(q) = Σ u exp(-i q·r) / √n. Ashcroft and Mermin (1976), chapter
    22.
    """
    unit = unit_vectors(angle + np.array([0.0, 60.0, 120.0]))  # one of each pair of opposite neighbours
    phase = np.asarray(wave_vectors, float) @ (spacing * unit).T  # (..., 3)
    weight = 2 * spring_constant * (1 - np.cos(phase))
    return np.einsum("...b,bi,bj->...ij", weight, unit, unit) + site_stiffness * np.eye(2)
