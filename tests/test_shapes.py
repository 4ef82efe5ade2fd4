"""Shapes: areas, volumes and facets against geometry, and atoms against the solid that carved them."""

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from moirelib.simulation import (
    SHAPES,
    circumscribed_ratio,
    lattice_constant,
    nanoparticle,
    particle_height,
    particle_thickness,
)

FACETTED = ("cube", "octahedron", "prism")


def thickness_map(shape, diameter=10.0, rotation=0.0, height=12.0, rounding=0.1, pixel=0.02):
    axis = torch.arange(-9 + pixel / 2, 9, pixel)
    return particle_thickness(shape, axis[:, None], axis, diameter, rotation, height, rounding), axis, pixel


def volume(shape, diameter, height, rounding=0.1):
    thickness, _, pixel = thickness_map(shape, diameter, 0.0, height, rounding)
    return float(thickness.double().sum()) * pixel**2


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rounding", [0.05, 0.1, 0.2])
def test_diameter_is_that_of_the_circle_of_equal_projected_area(shape, rounding):
    thickness, _, pixel = thickness_map(shape, rotation=17.0, rounding=rounding)
    assert float((thickness > 0).sum()) * pixel**2 == pytest.approx(np.pi * 25, rel=0.01)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rounding", [0.0, 0.1, 0.2])
def test_circumscribed_circle_just_holds_the_projection(shape, rounding):
    thickness, axis, pixel = thickness_map(shape, rotation=31.0, rounding=rounding)
    farthest = float((torch.hypot(axis[:, None], axis) * (thickness > 0)).max())
    assert 2 * farthest == pytest.approx(10 * circumscribed_ratio(shape, rounding), abs=3 * pixel)


def test_sharp_polygons_have_the_ratios_of_plane_geometry():
    # circumscribed circle over circle of equal area, for a square, a hexagon and a triangle
    expected = {"cube": np.sqrt(np.pi / 2), "octahedron": np.sqrt(2 * np.pi / (3 * np.sqrt(3)))}
    expected["prism"] = np.sqrt(4 * np.pi / (3 * np.sqrt(3)))
    for shape, ratio in expected.items():
        assert circumscribed_ratio(shape) == pytest.approx(ratio)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rounding", [0.05, 0.1, 0.2])
def test_greatest_thickness_is_the_height(shape, rounding):
    thickness, *_ = thickness_map(shape, rounding=rounding)
    assert float(thickness.max()) == pytest.approx(particle_height(shape, 10.0, 12.0, rounding), rel=2e-3)


def test_sphere_is_a_rod_rounded_all_the_way():
    sphere, rod = thickness_map("sphere")[0], thickness_map("rod", height=10.0, rounding=0.5)[0]
    # the rod's wall bulges, but a sphere has no wall left
    np.testing.assert_allclose(rod, sphere, atol=1e-3)


def test_volumes_of_sharp_solids_are_those_of_stereometry():
    side = np.sqrt(np.pi * 25)
    assert volume("cube", 10.0, 0.0, rounding=0.0) == pytest.approx(side**3, rel=0.01)
    assert volume("prism", 10.0, 7.0, rounding=0.0) == pytest.approx(np.pi * 25 * 7, rel=0.01)
    edge = np.sqrt(3) * np.sqrt(np.pi * 25 * 2 / (3 * np.sqrt(3)))  # hexagonal outline of side edge/√3
    assert volume("octahedron", 10.0, 0.0, rounding=0.0) == pytest.approx(np.sqrt(2) / 3 * edge**3, rel=0.01)


@pytest.mark.parametrize("shape", SHAPES)
def test_thickness_is_continuous_finite_and_never_negative(shape):
    jumps = []
    for pixel in (0.02, 0.01):
        axis = torch.arange(-7, 7, pixel)
        row = particle_thickness(shape, torch.full_like(axis, 0.3), axis, 10.0, 23.0, 8.0)
        assert torch.isfinite(row).all()
        assert row.min() == 0
        jumps.append(float(row.diff().abs().max()))
    # at the rim the thickness grows like a square root: half the step, at most 1/√2 of the jump
    assert jumps[1] < 0.8 * jumps[0]
    # the same away from the rim, where slopes are finite
    core = particle_thickness(shape, axis[None] * 0 + 0.1, axis, 10.0, 23.0, 8.0)[0][axis.abs() < 2.0]
    assert float(core.diff().abs().max()) < 0.03


@pytest.mark.parametrize("shape", FACETTED)
def test_rotation_turns_from_x_towards_y(shape):
    rng = np.random.default_rng(0)
    y, x = torch.from_numpy(rng.uniform(-6, 6, (2, 5000)))
    t = np.radians(25.0)
    turned = particle_thickness(shape, y * np.cos(t) + x * np.sin(t), x * np.cos(t) - y * np.sin(t), 10.0, 25.0, 6.0)
    np.testing.assert_allclose(turned, particle_thickness(shape, y, x, 10.0, 0.0, 6.0), atol=2e-3)


def test_every_particle_of_a_batch_has_its_own_size_and_rotation():
    axis = torch.linspace(-8, 8, 81)
    y, x = axis[None, :, None], axis[None, None, :]
    diameters, rotations = torch.tensor([6.0, 9.0, 12.0]), torch.tensor([0.0, 20.0, 50.0])
    for shape in SHAPES:
        batch = particle_thickness(shape, y, x, diameters[:, None, None], rotations[:, None, None], 9.0)
        one = particle_thickness(shape, axis[:, None], axis, 9.0, 20.0, 9.0)
        assert batch.shape == (3, 81, 81)
        assert batch.dtype == torch.float32
        np.testing.assert_allclose(batch[1], one, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("diameter", [4.0, 6.0])
def test_number_of_atoms_times_their_volume_is_the_solids_volume(shape, diameter):
    height = 2 * diameter if shape == "rod" else 0.5 * diameter
    atoms = nanoparticle(shape, diameter, np.random.default_rng(1), height, rotation=20.0)
    per_atom = lattice_constant() ** 3 / 4
    assert len(atoms) * per_atom == pytest.approx(volume(shape, diameter, height), rel=0.03)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_atom_lies_in_the_solid_and_reaches_its_surface(shape):
    rng = np.random.default_rng(2)
    atoms = nanoparticle(shape, 5.0, rng, height=4.0, rotation=35.0)
    x, y, z = (atoms.positions - atoms.cell.lengths() / 2).T / 10
    thickness = particle_thickness(shape, torch.from_numpy(y), torch.from_numpy(x), 5.0, 35.0, 4.0).numpy()
    assert thickness.min() > 0
    if shape != "octahedron":  # its upper and lower facets are turned against each other
        assert np.all(2 * np.abs(z) <= thickness + 1e-3)
    height = particle_height(shape, 5.0, 4.0)
    assert height - 0.5 < np.ptp(z) <= height
    assert cKDTree(atoms.positions).query(atoms.positions, k=2)[0][:, 1].min() == pytest.approx(4.078 / np.sqrt(2))


def planes(atoms, normal):
    """Number of distinct planes of atoms across a direction, and the greatest number of atoms in one."""
    heights = np.sort(atoms.positions @ np.asarray(normal) / np.linalg.norm(normal))
    groups = np.split(heights, np.flatnonzero(np.diff(heights) > 0.1) + 1)
    return len(groups), np.diff([g.mean() for g in groups]).mean()


def test_octahedron_has_eight_111_facets():
    atoms = nanoparticle("octahedron", 5.0, np.random.default_rng(3), rounding=0.0)
    # at rotation 0 the facet under the upper facet's edge faces +y; 70.5° or 109.5° between facets
    for normal in [(0, 0, 1), (0, np.sqrt(8), 1), (np.sqrt(6), -np.sqrt(2), 1), (-np.sqrt(6), -np.sqrt(2), 1)]:
        count, distance = planes(atoms, normal)
        assert distance == pytest.approx(4.078 / np.sqrt(3), rel=1e-4)
        assert count * 0.2354 == pytest.approx(particle_height("octahedron", 5.0, rounding=0.0), abs=0.25)


def test_cube_has_100_facets_and_prism_lies_on_111():
    cube = nanoparticle("cube", 5.0, np.random.default_rng(4), rotation=30.0)
    for normal in [(0, 0, 1), (np.cos(np.pi / 6), 0.5, 0), (-0.5, np.cos(np.pi / 6), 0)]:
        assert planes(cube, normal)[1] == pytest.approx(4.078 / 2, rel=1e-4)
    prism = nanoparticle("prism", 5.0, np.random.default_rng(4), height=3.0)
    assert planes(prism, (0, 0, 1))[1] == pytest.approx(4.078 / np.sqrt(3), rel=1e-4)
    assert planes(prism, (1, 0, 0))[1] == pytest.approx(4.078 / np.sqrt(8), rel=1e-4)  # rows along ⟨110⟩, parallel to x


def test_spheres_and_rods_come_in_random_crystal_orientations_and_facetted_ones_do_not():
    def moments(shape, seed):  # second moments of the nearest neighbours' directions tell orientations apart
        positions = nanoparticle(shape, 3.0, np.random.default_rng(seed), height=4.0).positions
        pairs = cKDTree(positions).query_pairs(3.0, output_type="ndarray")
        steps = positions[pairs[:, 1]] - positions[pairs[:, 0]]
        return np.mean((steps / np.linalg.norm(steps, axis=1, keepdims=True)) ** 4, axis=0)

    assert np.abs(moments("sphere", 0) - moments("sphere", 1)).max() > 0.01
    assert np.abs(moments("rod", 0) - moments("rod", 1)).max() > 0.01
    assert np.abs(moments("cube", 0) - moments("cube", 1)).max() < 0.02


def test_same_seed_gives_the_same_atoms():
    one, other = (nanoparticle("prism", 4.0, np.random.default_rng(5), height=2.0).positions for _ in range(2))
    np.testing.assert_array_equal(one, other)


def test_unusable_shapes_are_refused_in_one_line():
    zero = torch.zeros(1)
    with pytest.raises(ValueError, match="unknown shape 'star'"):
        particle_thickness("star", zero, zero, 5.0)
    with pytest.raises(ValueError, match="needs a height"):
        nanoparticle("rod", 5.0, np.random.default_rng(0))
    with pytest.raises(ValueError, match="between 0 and 0.5"):
        particle_thickness("cube", zero, zero, 5.0, rounding=0.7)
    with pytest.raises(ValueError, match="at least 0.5 nm"):
        nanoparticle("sphere", 0.1, np.random.default_rng(0))
