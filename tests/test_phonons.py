"""Phonons from displacements: against the dynamical matrix, Cauchy's relation, and the crystal's own normal modes."""

import numpy as np
import pandas as pd
import pytest

from moirelib import plot
from moirelib.analysis import (
    SpringModel,
    density_of_states,
    dispersion,
    elastic_constants,
    find_normal_modes,
    fit_springs,
    localization_bound,
    measure_phonons,
    plane_wave_stiffness,
    site_displacements,
)
from moirelib.crystal import brillouin_zone, hexagonal_lattice, symmetry_path
from moirelib.simulation import dynamical_matrix, stiffness_matrix, thermal_displacements

SPACING, ANGLE, SPRING, HOLD = 20.0, 13.0, 2.0, 0.08
LAME = np.sqrt(3) / 4 * SPRING  # λ = μ of springs between nearest neighbours (Cauchy)


def movie(radius, frames, seed, error=0.0, missing=0.0, correlation_time=0.0):
    """Displacements of an elastic crystal, seen through drift, localization error (in vibrations) and dropouts."""
    rng, sites = np.random.default_rng(seed), hexagonal_lattice(SPACING, ANGLE, (0.0, 0.0), radius)
    u = thermal_displacements(sites, SPACING, SPRING, frames, rng, HOLD, correlation_time)
    error = error * u.std() + 1e-9
    seen = sites + u + np.cumsum(rng.normal(0, 1, (frames, 1, 2)), axis=0) + error * rng.standard_normal(u.shape)
    t, k = np.nonzero(rng.random(u.shape[:2]) >= missing)
    table = pd.DataFrame({"frame": t, "particle": k, "layer": 1, "y_nm": seen[t, k, 0], "x_nm": seen[t, k, 1]})
    return site_displacements(table, localization_std=error)


def truth(waves):
    values = np.linalg.eigvalsh(dynamical_matrix(waves[["q_y_per_nm", "q_x_per_nm"]], SPACING, ANGLE, SPRING, HOLD))
    return np.where(waves["branch"] == "longitudinal", values[:, 1], values[:, 0])


@pytest.fixture(scope="module")
def large():
    return movie(240.0, 2000, 1)


@pytest.fixture(scope="module")
def springs(large):
    return fit_springs(large)


def test_path_visits_the_symmetry_points():
    path = symmetry_path(SPACING, ANGLE, 30)
    at = dict(
        zip(
            path.labels[1:3], (path.wave_vectors[np.isclose(path.distance, t)][0] for t in path.ticks[1:3]), strict=True
        )
    )
    stiffness = {name: np.linalg.eigvalsh(dynamical_matrix(q, SPACING, ANGLE, SPRING)) for name, q in at.items()}
    np.testing.assert_allclose(stiffness["M"], [2 * SPRING, 6 * SPRING])
    np.testing.assert_allclose(stiffness["K"], [4.5 * SPRING, 4.5 * SPRING])
    # mirror symmetry: the longitudinal axis is an exact polarization all along
    matrices = dynamical_matrix(path.wave_vectors, SPACING, ANGLE, SPRING)
    across = np.stack([path.longitudinal[:, 1], -path.longitudinal[:, 0]], axis=1)
    np.testing.assert_allclose(np.einsum("mi,mij,mj->m", across, matrices, path.longitudinal), 0, atol=1e-12)


def test_waves_of_the_brillouin_zone_carry_the_trace_of_the_crystal():
    """The mean over the zone of D(q) is the self-term: six bonds of k, half along each axis."""
    q = brillouin_zone(SPACING, ANGLE, 13)
    assert len(q) == (13**2 - 1) // 2
    assert np.hypot(*q.T).max() <= 4 * np.pi / (3 * SPACING) * (1 + 1e-9)
    full = np.concatenate([dynamical_matrix(q, SPACING, ANGLE, SPRING)] * 2 + [np.zeros((1, 2, 2))])
    np.testing.assert_allclose(full.mean(axis=0), 3 * SPRING * np.eye(2), atol=1e-9)


def test_dispersion_agrees_with_the_dynamical_matrix(large, springs):
    waves = dispersion(large, model=springs)
    assert waves["stiffness_kt_nm2"].isna().sum() < 0.2 * len(waves)  # only waves longer than the window
    waves = waves.dropna()
    relative = waves["stiffness_kt_nm2"] / truth(waves) - 1
    assert np.sqrt(np.mean(relative**2)) < 0.025
    assert np.abs(relative).max() < 0.08  # 3.5 standard errors of the best of 60 points
    score = (waves["stiffness_kt_nm2"] - truth(waves)) / waves["stiffness_std_kt_nm2"]
    assert 0.7 < np.sqrt(np.mean(score**2)) < 1.4
    assert np.abs(waves["model_kt_nm2"] / truth(waves) - 1).max() < 0.05


def test_springs_and_elastic_constants_are_recovered(springs):
    model = springs
    assert model.spacing == pytest.approx(SPACING, rel=1e-3)
    assert model.central[0] == pytest.approx(SPRING, rel=0.03)
    assert abs(model.central[1]) < 5 * model.central_std[1]  # no springs between second neighbours
    assert 0.4 < model.misfit < 1.3
    found = elastic_constants(model)
    assert found.shear == pytest.approx(LAME, rel=0.05)
    assert found.longitudinal == pytest.approx(3 * LAME, rel=0.05)
    assert found.bulk == pytest.approx(2 * LAME, rel=0.05)
    assert found.poisson_ratio == pytest.approx(1 / 3, abs=0.05)
    assert found.shear_std < 0.03 * LAME


def test_noise_as_large_as_the_vibration_biases_no_wave():
    motion = movie(240.0, 1000, 3, error=1.0, missing=0.1)
    waves = dispersion(motion).dropna()
    score = (waves["stiffness_kt_nm2"] - truth(waves)) / waves["stiffness_std_kt_nm2"]
    assert 0.6 < np.sqrt(np.mean(score**2)) < 1.5
    assert np.sqrt(np.mean((waves["model_kt_nm2"] / truth(waves) - 1) ** 2)) < 0.05
    # left in, the noise would soften the stiffest waves severalfold
    ignored = plane_wave_stiffness(site_free_of_error(motion), waves[["q_y_per_nm", "q_x_per_nm"]].to_numpy())
    stiff = truth(waves) > 4 * SPRING
    assert np.median(np.linalg.eigvalsh(ignored)[stiff, 1] / truth(waves)[stiff]) < 0.5


def site_free_of_error(motion):
    from dataclasses import replace

    return replace(motion, localization_std=np.zeros_like(motion.localization_std))


def test_the_weakest_wave_bounds_the_localization_error():
    """M's longitudinal wave, of stiffness 6 k, has the least power: kT/6k above the error's."""
    for seed, error in ((11, 1.0), (12, 0.3)):
        motion = movie(180.0, 1000, seed, error=error)
        true = motion.localization_std[0, 0]
        bound = localization_bound(motion)
        assert np.all(bound > true)
        assert np.all(bound < 1.15 * np.hypot(true, np.sqrt(1 / (5 * SPRING))))


def test_correlated_frames_widen_the_errors_and_bias_nothing():
    motion = movie(130.0, 800, 4, correlation_time=1.0)
    waves = dispersion(motion).dropna()
    score = (waves["stiffness_kt_nm2"] - truth(waves)) / waves["stiffness_std_kt_nm2"]
    assert 0.6 < np.sqrt(np.mean(score**2)) < 1.5


def test_few_frames_leave_the_mean_inverse_covariance_unbiased():
    """Of N Gaussian samples of p = 2 complex numbers, the inverse covariance is too large by N/(N - p)."""
    q = brillouin_zone(SPACING, ANGLE, 8)
    q = q[np.hypot(*q.T) > 0.12]
    motion = movie(150.0, 12, 5)
    ratios = []
    for seed in range(5, 25):
        motion = movie(150.0, 12, seed)
        found = np.trace(plane_wave_stiffness(motion, q), axis1=1, axis2=2).real
        ratios.append(np.mean(found / np.trace(dynamical_matrix(q, SPACING, ANGLE, SPRING, HOLD), axis1=1, axis2=2)))
    assert np.mean(ratios) == pytest.approx(1, abs=0.06)  # without the factor 1.2


def test_elastic_constants_of_known_springs():
    """Second neighbours at √3 a with springs k₂ add √3/4 · 3 k₂ to both Lamé constants, and Cauchy's relation stays."""
    model = SpringModel(SPACING, ANGLE, 0.3, np.array([2.0, 0.5]), np.zeros(2), np.zeros((5, 5)), 1.0)
    found = elastic_constants(model)
    expected = np.sqrt(3) / 4 * (2.0 + 3 * 0.5)
    assert found.shear == pytest.approx(expected, rel=1e-4)
    assert found.poisson_ratio == pytest.approx(1 / 3, abs=1e-4)
    first = SpringModel(SPACING, ANGLE, HOLD, np.array([SPRING]), np.zeros(1), np.zeros((3, 3)), 1.0)
    q = np.random.default_rng(6).normal(0, 0.1, (7, 2))
    np.testing.assert_allclose(first.dynamical_matrix(q), dynamical_matrix(q, SPACING, ANGLE, SPRING, HOLD))


def test_normal_modes_of_a_small_crystal():
    rng, sites = np.random.default_rng(7), hexagonal_lattice(SPACING, ANGLE, (0.0, 0.0), 65.0)
    u = thermal_displacements(sites, SPACING, SPRING, 1200, rng, 0.2)
    t, k = (i.ravel() for i in np.indices(u.shape[:2]))
    table = pd.DataFrame({"frame": t, "particle": k, "layer": 1})
    table["y_nm"], table["x_nm"] = (sites + u).reshape(-1, 2).T
    found = find_normal_modes(site_displacements(table, localization_std=0.0, drift_window=51))
    exact = np.linalg.eigvalsh(stiffness_matrix(sites, SPACING, SPRING, 0.2).toarray())
    half = slice(len(exact) // 2, None)
    error = np.mean(np.abs(found.stiffness / exact - 1)[half])
    assert error < 0.05
    assert error < 0.5 * np.mean(np.abs(found.stiffness_raw / exact - 1)[half])
    np.testing.assert_allclose(np.linalg.norm(found.shapes, axis=(1, 2)), 1)
    np.testing.assert_allclose(found.stiffness[:5], exact[:5], rtol=0.2)
    frequency, density = density_of_states(found.stiffness, bins=12)
    assert np.sum(density) * (frequency[1] - frequency[0]) == pytest.approx(1)


def test_normal_modes_of_a_film_too_fast_for_its_frames_to_be_independent():
    sites = hexagonal_lattice(SPACING, ANGLE, (0.0, 0.0), 45.0)
    exact = np.linalg.eigvalsh(stiffness_matrix(sites, SPACING, SPRING, 0.2).toarray())
    half = slice(len(exact) // 2, None)
    errors = []
    for seed in range(3):
        rng = np.random.default_rng((7, seed))
        u = thermal_displacements(sites, SPACING, SPRING, 1000, rng, 0.2, correlation_time=2.0)
        t, k = (i.ravel() for i in np.indices(u.shape[:2]))
        table = pd.DataFrame({"frame": t, "particle": k, "layer": 1})
        table["y_nm"], table["x_nm"] = (sites + u).reshape(-1, 2).T
        found = find_normal_modes(site_displacements(table, localization_std=0.0, drift_window=51))
        errors.append([np.mean((s / exact - 1)[half]) for s in (found.stiffness, found.stiffness_raw)])
    corrected, raw = np.mean(errors, axis=0)
    assert raw > 0.07  # the fewer independent frames, the more
    assert abs(corrected) < 0.4 * raw


def test_phonons_of_a_layer_with_two_grains_are_those_of_the_larger_and_say_so():
    rng = np.random.default_rng(8)
    small, sites = (hexagonal_lattice(SPACING, angle, (0.0, 0.0), 170.0) for angle in (ANGLE + 18.0, ANGLE))
    parts = [sites[sites[:, 0] < 60.0], small[small[:, 0] > 60.0 + 0.6 * SPACING]]
    u = [thermal_displacements(part, SPACING, SPRING, 300, rng, HOLD) for part in parts]
    seen = np.concatenate([part + v for part, v in zip(parts, u, strict=True)], axis=1)
    t, k = (i.ravel() for i in np.indices(seen.shape[:2]))
    table = pd.DataFrame({"frame": t, "particle": k, "layer": 1}).assign(y_std_nm=1e-9, x_std_nm=1e-9)
    table["y_nm"], table["x_nm"] = seen.reshape(-1, 2).T
    waves = measure_phonons(table)
    assert f"of {len(seen[0])} sites" in waves.attrs["note"]
    inner = waves.dropna()
    exact = truth(inner)
    assert np.sqrt(np.mean((inner["stiffness_kt_nm2"] / exact - 1) ** 2)) < 0.15
    assert not measure_phonons(table[table["particle"] < len(parts[0])]).attrs["note"]


def test_too_little_is_refused_in_one_line():
    few = movie(60.0, 40, 8)
    with pytest.raises(ValueError, match="40 frames cannot give"):
        find_normal_modes(few)
    with pytest.raises(ValueError, match="no interior"):
        dispersion(few.select(few.sites[:, 0] > 40))
    hexagon = movie(1.05 * SPACING, 40, 8)  # of seven, whose one inner site has no extent
    for measure in (localization_bound, fit_springs, dispersion):
        with pytest.raises(ValueError, match="7 sites, 6 of them at its edge"):
            measure(hexagon)
    for shells in (0, 4):
        with pytest.raises(ValueError, match="1, 2 or 3 shells"):
            fit_springs(few, shells)
    with pytest.raises(ValueError, match="finite, positive stiffness"):
        density_of_states([np.inf, np.nan, -1.0])
    unknown = site_displacements_without_error()
    with pytest.raises(ValueError, match="cannot be told apart"):
        dispersion(unknown)


def site_displacements_without_error():
    rng, sites = np.random.default_rng(9), hexagonal_lattice(SPACING, ANGLE, (0.0, 0.0), 90.0)
    u = rng.standard_normal((50, len(sites), 2))
    t, k = (i.ravel() for i in np.indices(u.shape[:2]))
    table = pd.DataFrame({"frame": t, "particle": k, "layer": 1})
    table["y_nm"], table["x_nm"] = (sites + u).reshape(-1, 2).T
    return site_displacements(table)


def test_every_layer_has_its_branches_in_one_table():
    rng, sites = np.random.default_rng(13), hexagonal_lattice(SPACING, ANGLE, (0.0, 0.0), 110.0)
    tables = []
    for layer, stiff in ((1, 1.0), (2, 3.0)):
        u = thermal_displacements(sites, SPACING, stiff * SPRING, 300, rng, HOLD)
        t, k = (i.ravel() for i in np.indices(u.shape[:2]))
        table = pd.DataFrame({"frame": t, "particle": k + 1000 * layer, "layer": layer})
        table["y_nm"], table["x_nm"] = (sites + u).reshape(-1, 2).T
        tables.append(table)
    tracks = pd.concat([*tables, tables[0].head(5).assign(layer=3)])
    waves = measure_phonons(tracks, localization_std=0.0)
    agreed = {"layer", "branch", "q_y_per_nm", "q_x_per_nm", "stiffness_kt_nm2"}
    assert agreed <= set(waves)
    assert "layer 3" in waves.attrs["note"]
    highest = waves.groupby(["layer", "branch"])["stiffness_kt_nm2"].max()
    assert highest[2, "longitudinal"] / highest[1, "longitudinal"] == pytest.approx(3, rel=0.15)
    assert highest[1, "longitudinal"] == pytest.approx(6 * SPRING, rel=0.1)


def test_dispersion_is_drawn_with_its_theory():
    import matplotlib.pyplot as plt

    _, ax = plt.subplots()
    waves = dispersion(movie(90.0, 100, 14), path=symmetry_path(SPACING, ANGLE, 12))
    assert plot.show_dispersion(waves, ax, theory=lambda q: dynamical_matrix(q, SPACING, ANGLE, SPRING, HOLD)) is ax
    assert [label.get_text() for label in ax.get_xticklabels()] == ["Γ", "M", "K", "Γ"]
    black = [line for line in ax.lines if line.get_linestyle() == "--"]
    np.testing.assert_allclose(black[1].get_ydata().max(), 6 * SPRING + HOLD, rtol=1e-6)
    plt.close()
