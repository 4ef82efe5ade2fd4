"""Lattices: geometry against formulas, and the atoms of one particle."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial import cKDTree

from moirelib.lattice import (
    LatticeConfig,
    gold_particle,
    hexagonal_lattice,
    moire_period,
    random_scene,
    truth_table,
)

FIELD = (400.0, 500.0)


def nearest(points):
    return cKDTree(points).query(points, k=2)[0][:, 1]


def test_hexagonal_lattice_has_six_neighbours_at_the_spacing():
    points = hexagonal_lattice(20.0, 17.0, (0, 0), 200.0)
    inner = points[np.hypot(*points.T) < 150]
    counts = cKDTree(points).query_ball_point(inner, 20.01, return_length=True) - 1
    assert np.all(counts == 6)
    np.testing.assert_allclose(nearest(points), 20.0, rtol=1e-9)


def test_hexagonal_lattice_angle_is_that_of_a_close_packed_row():
    points = hexagonal_lattice(20.0, 17.0, (0, 0), 60.0)
    along_row = 20.0 * np.array([np.sin(np.radians(17.0)), np.cos(np.radians(17.0))])
    assert np.min(np.linalg.norm(points - along_row, axis=1)) < 1e-9


def test_number_density_matches_cell_area():
    points = hexagonal_lattice(5.0, 3.0, (0, 0), 200.0)
    assert len(points) == pytest.approx(np.pi * 200**2 / (5.0**2 * np.sqrt(3) / 2), rel=0.01)


@pytest.mark.parametrize("twist", [2.0, 5.0, 15.0])
def test_moire_period_is_the_inverse_of_the_difference_wave_vector(twist):
    spacing = 20.0
    q = 4 * np.pi / (np.sqrt(3) * spacing)
    a, b = (q * np.array([np.cos(t), np.sin(t)]) for t in (0.0, np.radians(twist)))
    from_waves = 4 * np.pi / np.sqrt(3) / np.linalg.norm(a - b)
    assert moire_period(spacing, twist) == pytest.approx(from_waves)


def test_moire_period_diverges_without_twist():
    assert moire_period(20.0, 0.0) == float("inf")


def test_scene_is_reproducible_and_seed_dependent():
    scenes = [random_scene(LatticeConfig(), FIELD, np.random.default_rng(s)) for s in (1, 1, 2)]
    np.testing.assert_array_equal(scenes[0].layers[0].positions, scenes[1].layers[0].positions)
    assert scenes[0].layers[0].spacing != scenes[2].layers[0].spacing


@pytest.mark.parametrize("seed", range(8))
def test_particles_of_one_layer_do_not_overlap(seed):
    config = replace(LatticeConfig(), position_std=(0.0, 0.0), strain=(0.0, 0.0), boundary=1.0)
    for layer in random_scene(config, FIELD, np.random.default_rng(seed)).layers:
        if len(layer) > 1:
            assert nearest(layer.positions).min() > 0.999 * layer.diameters.mean() * 0.9


def test_twist_angle_of_a_scene_is_the_one_asked_for():
    config = replace(LatticeConfig(), twist_angle=(7.0, 7.0), single_layer=0.0)
    assert random_scene(config, FIELD, np.random.default_rng(3)).twist_angle == pytest.approx(7.0)


def test_single_layer_scene_has_an_empty_second_layer():
    scene = random_scene(replace(LatticeConfig(), single_layer=1.0), FIELD, np.random.default_rng(0))
    assert len(scene.layers[0]) > 10
    assert len(scene.layers[1]) == 0
    assert np.isnan(scene.twist_angle)


def test_truth_table_counts_particles_in_the_field_and_uses_pixel_centres():
    scene = random_scene(LatticeConfig(), FIELD, np.random.default_rng(5))
    table = truth_table(scene, 2.0)
    inside = sum(int(np.all((p.positions >= 0) & (p.positions < FIELD), axis=1).sum()) for p in scene.layers)
    assert len(table) == inside
    assert table["y"].min() >= -0.5
    assert table["x"].max() < FIELD[1] / 2.0 - 0.5
    np.testing.assert_allclose(table["y_nm"], 2.0 * table["y"])


def test_gold_particle_has_bulk_density_and_neighbour_distance():
    atoms = gold_particle(4.0, np.random.default_rng(0))
    expected = 4 / 3 * np.pi * 20.0**3 / (4.078**3 / 4)  # Å³ per atom of fcc gold
    assert len(atoms) == pytest.approx(expected, rel=0.03)
    assert nearest(atoms.positions).min() == pytest.approx(4.078 / np.sqrt(2), rel=1e-6)
    assert np.linalg.norm(atoms.positions - atoms.cell.lengths() / 2, axis=1).max() <= 20.0 + 1e-9


def test_gold_particle_smaller_than_a_cell_is_refused():
    with pytest.raises(ValueError, match="at least 0.5 nm"):
        gold_particle(0.1, np.random.default_rng(0))
