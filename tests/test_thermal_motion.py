"""The elastic crystal: equipartition, sound, and its spectrum against the dynamical matrix."""

import numpy as np
import pytest

from moirelib.crystal import bonds, hexagonal_lattice
from moirelib.simulation import dynamical_matrix, stiffness_matrix, thermal_displacements

SPACING, ANGLE, SPRING = 20.0, 13.0, 2.0


@pytest.fixture(scope="module")
def crystal():
    return hexagonal_lattice(SPACING, ANGLE, (0.0, 0.0), 200.0)


def row_vectors():
    t = np.radians([ANGLE, ANGLE + 60])
    return SPACING * np.stack([np.sin(t), np.cos(t)], axis=1)


def test_inner_particles_have_six_bonds(crystal):
    pairs = bonds(crystal, SPACING)
    count = np.bincount(pairs.ravel(), minlength=len(crystal))
    assert np.all(count[np.hypot(*crystal.T) < 170] == 6)
    np.testing.assert_allclose(np.linalg.norm(crystal[pairs[:, 0]] - crystal[pairs[:, 1]], axis=1), SPACING)


def test_moving_or_turning_the_whole_crystal_costs_nothing(crystal):
    stiffness = stiffness_matrix(crystal, SPACING, SPRING)
    turn = np.stack([crystal[:, 1], -crystal[:, 0]], axis=1)
    for rigid in (np.tile([1.0, 0.0], len(crystal)), np.tile([0.0, 1.0], len(crystal)), turn.ravel()):
        assert np.abs(stiffness @ rigid).max() < 1e-9 * np.abs(rigid).max()


def test_stiffness_is_the_second_derivative_of_the_springs_energy():
    rng = np.random.default_rng(0)
    sites = hexagonal_lattice(SPACING, ANGLE, (0.0, 0.0), 45.0)
    pairs = bonds(sites, SPACING)

    def energy(u):
        step = (sites + u)[pairs[:, 1]] - (sites + u)[pairs[:, 0]]
        return 0.5 * SPRING * np.sum((np.linalg.norm(step, axis=1) - SPACING) ** 2)

    u = 1e-4 * rng.standard_normal(sites.shape)
    harmonic = 0.5 * u.ravel() @ (stiffness_matrix(sites, SPACING, SPRING) @ u.ravel())
    assert energy(u) == pytest.approx(harmonic, rel=1e-4)


def periodic_stiffness(n):
    """Stiffness matrix of n x n particles on a torus, and their sites."""
    i, j = (k.ravel() for k in np.meshgrid(np.arange(n), np.arange(n), indexing="ij"))
    sites = np.stack([i, j], axis=1) @ row_vectors()
    stiffness = np.zeros((n * n, 2, n * n, 2))
    for di, dj in ((1, 0), (0, 1), (1, -1)):
        unit = np.array([di, dj]) @ row_vectors() / SPACING
        other = (i + di) % n * n + (j + dj) % n
        for a, b, sign in (
            (i * n + j, i * n + j, 1),
            (other, other, 1),
            (i * n + j, other, -1),
            (other, i * n + j, -1),
        ):
            for p, q in zip(a, b, strict=True):
                stiffness[p, :, q, :] += sign * SPRING * np.outer(unit, unit)
    return stiffness.reshape(2 * n * n, 2 * n * n), sites


def reciprocal_vectors():
    return 2 * np.pi * np.linalg.inv(row_vectors()).T


def test_dynamical_matrix_is_the_stiffness_of_plane_waves_on_a_torus():
    n = 7
    stiffness, sites = periodic_stiffness(n)
    for h, k in ((1, 0), (2, 3), (0, 3), (5, 1)):
        q = np.array([h, k]) @ reciprocal_vectors() / n
        wave = np.exp(1j * sites @ q)
        for direction in np.eye(2):
            force = stiffness @ (wave[:, None] * direction).ravel()
            expected = wave[:, None] * (dynamical_matrix(q, SPACING, ANGLE, SPRING) @ direction)
            np.testing.assert_allclose(force, expected.ravel(), atol=1e-9)


def test_bulk_of_the_stiffness_matrix_agrees_with_the_dynamical_matrix(crystal):
    q = np.array([0.05, -0.11])
    wave = np.exp(1j * crystal @ q)[:, None] * np.array([0.3, 1.0])
    force = (stiffness_matrix(crystal, SPACING, SPRING, 0.1) @ wave.ravel()).reshape(-1, 2)
    expected = np.exp(1j * crystal @ q)[:, None] * (dynamical_matrix(q, SPACING, ANGLE, SPRING, 0.1) @ [0.3, 1.0])
    inside = np.hypot(*crystal.T) < 170
    np.testing.assert_allclose(force[inside], expected[inside], atol=1e-9)


@pytest.mark.parametrize("direction", [0.0, 17.0, 30.0])
def test_long_longitudinal_waves_are_root_three_times_as_fast_as_transverse_ones(direction):
    t = np.radians(ANGLE + direction)
    q = 1e-3 / SPACING * np.array([np.sin(t), np.cos(t)])
    values, vectors = np.linalg.eigh(dynamical_matrix(q, SPACING, ANGLE, SPRING))
    assert np.sqrt(values[1] / values[0]) == pytest.approx(np.sqrt(3), rel=1e-5)
    assert abs(vectors[:, 1] @ q) / np.linalg.norm(q) == pytest.approx(1, abs=1e-4)  # the faster one is longitudinal
    # Lamé constants of this crystal are equal: λ = μ = √3/4 k, per area √3/2 a²
    assert values[0] == pytest.approx(3 / 8 * SPRING * SPACING**2 * (q @ q), rel=1e-5)


def test_energy_is_half_a_kt_per_mode(crystal):
    frames = 400
    u = thermal_displacements(crystal, SPACING, SPRING, frames, np.random.default_rng(1), site_stiffness=0.04)
    u = u.reshape(frames, -1)
    energy = 0.5 * np.einsum("ti,it->t", u, stiffness_matrix(crystal, SPACING, SPRING, 0.04) @ u.T)
    modes = u.shape[1]
    error = np.sqrt(modes / 2 / frames)  # the energy of one frame scatters by √(modes/2)
    assert abs(energy.mean() - modes / 2) < 4 * error
    assert energy.std() == pytest.approx(np.sqrt(modes / 2), rel=0.15)


def test_covariance_is_the_inverse_of_the_stiffness():
    sites = hexagonal_lattice(SPACING, ANGLE, (0.0, 0.0), 25.0)
    exact = np.linalg.inv(stiffness_matrix(sites, SPACING, SPRING, 0.5).toarray())
    scale = np.sqrt(np.outer(np.diag(exact), np.diag(exact)))
    for correlation_time in (0.0, 0.3):
        u = thermal_displacements(sites, SPACING, SPRING, 20000, np.random.default_rng(2), 0.5, correlation_time)
        u = u.reshape(len(u), -1)
        assert np.abs((u.T @ u / len(u) - exact) / scale).max() < 0.06


def test_spectrum_of_a_movie_agrees_with_the_dynamical_matrix():
    """Interior of a finite crystal: a window hides the free edge, whose particles move more."""
    sites = hexagonal_lattice(SPACING, ANGLE, (0.0, 0.0), 320.0)
    frames, site_stiffness = 1500, 0.04
    u = thermal_displacements(sites, SPACING, SPRING, frames, np.random.default_rng(3), site_stiffness)
    window = np.cos(0.5 * np.pi * np.clip(np.hypot(*sites.T) / 300.0, 0, 1)) ** 2
    for h, k in ((0.25, 0.0), (0.5, 0.0), (1 / 3, 1 / 3), (0.2, 0.35)):
        q = np.array([h, k]) @ reciprocal_vectors()
        amplitude = np.einsum("n,tni->ti", window * np.exp(-1j * sites @ q), u)
        measured = np.einsum("ti,tj->ij", amplitude, amplitude.conj()) / frames / np.sum(window**2)
        expected = np.linalg.inv(dynamical_matrix(q, SPACING, ANGLE, SPRING, site_stiffness))
        # a complex Gaussian amplitude: each power scatters by itself / √frames; the window blurs q by another 2 %
        scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
        assert np.abs((measured - expected) / scale).max() < 4 / np.sqrt(frames) + 0.02


def test_mean_squared_stretch_of_a_bond_is_two_thirds_kt_over_its_spring_constant(crystal):
    u = thermal_displacements(crystal, SPACING, SPRING, 300, np.random.default_rng(4), site_stiffness=1e-3)
    pairs = bonds(crystal, SPACING)
    inside = np.hypot(*crystal[pairs].mean(axis=1).T) < 150
    step = crystal[pairs[:, 1]] - crystal[pairs[:, 0]]
    stretch = np.einsum("tmi,mi->tm", u[:, pairs[:, 1]] - u[:, pairs[:, 0]], step / SPACING)
    # n kT of elastic energy (2n modes) over 3n equal bonds
    assert np.mean(stretch[:, inside] ** 2) == pytest.approx(2 / 3 / SPRING, rel=0.03)


def test_modes_relax_at_a_rate_in_proportion_to_their_stiffness():
    sites = hexagonal_lattice(SPACING, ANGLE, (0.0, 0.0), 45.0)
    values, modes = np.linalg.eigh(stiffness_matrix(sites, SPACING, SPRING, 0.2).toarray())
    u = thermal_displacements(sites, SPACING, SPRING, 30000, np.random.default_rng(5), 0.2, correlation_time=2.0)
    amplitude = u.reshape(len(u), -1) @ modes
    correlation = np.mean(amplitude[1:] * amplitude[:-1], axis=0) / np.mean(amplitude**2, axis=0)
    np.testing.assert_allclose(correlation, np.exp(-values / (3 * SPRING + 0.2) / 2.0), atol=0.03)


def test_same_seed_gives_the_same_movie_and_a_loose_crystal_is_refused(crystal):
    one, other = (thermal_displacements(crystal, SPACING, SPRING, 2, np.random.default_rng(6)) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="must be positive"):
        thermal_displacements(crystal, SPACING, SPRING, 2, np.random.default_rng(6), site_stiffness=0.0)
