"""Lattices: geometry against formulas, planted defects against what defines them, growth."""

from dataclasses import fields, replace

import numpy as np
import pytest
from scipy.spatial import Delaunay, cKDTree

from moirelib.crystal import coincidence_period, commensurate_angles, hexagonal_lattice, moire_period
from moirelib.simulation import (
    SHAPES,
    LatticeConfig,
    Layer,
    Scene,
    circumscribed_ratio,
    dilatation_displacement,
    dislocation_displacement,
    grain_boundary,
    growth_schedule,
    random_scene,
    stiffness_matrix,
    truth_table,
    twin_boundary,
)

FIELD = (400.0, 500.0)
#: Nothing random but the lattices themselves.
IDEAL = LatticeConfig.plain(position_std=(0.0, 0.0), strain=(0.0, 0.0), diameter_std=(0.0, 0.0))


def nearest(points):
    return cKDTree(points).query(points, k=2)[0][:, 1]


def draw(seed=0, spacing=20.0, field=FIELD, **changes):
    return random_scene(replace(IDEAL, **changes), field, np.random.default_rng(seed), spacing)


def within(points, margin=0.0):
    return np.all((points > -margin) & (points < np.array(FIELD) + margin), axis=1)


def coordination(points):
    """Number of neighbours of each point in the Delaunay triangulation."""
    triangles = Delaunay(points).simplices
    edges = np.unique(
        np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])), axis=0
    )
    return np.bincount(edges.ravel(), minlength=len(points))


def row_direction(points, spacing):
    """Direction of close-packed rows in degrees, modulo 60, from the mean of exp(6iφ) over bonds."""
    pairs = cKDTree(points).query_pairs(1.2 * spacing, output_type="ndarray")
    y, x = (points[pairs[:, 1]] - points[pairs[:, 0]]).T
    return np.degrees(np.angle(np.mean(np.exp(6j * np.arctan2(y, x))))) / 6


def difference(angle, other):
    return abs((angle - other + 30) % 60 - 30)


class Line:
    """The straight line of a boundary, from one end to the other."""

    def __init__(self, defect):
        step = np.subtract(defect.end, defect.position)
        self.length = np.hypot(*step)
        self.along = step / self.length
        self.normal = np.array([self.along[1], -self.along[0]])
        self.start = np.array(defect.position)

    def depth(self, points):
        return (points - self.start) @ self.normal


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


def test_moire_period_of_two_spacings_is_the_inverse_of_the_difference_wave_vector():
    a, b, twist = 20.0, 21.3, np.radians(4.0)
    first, second = (4 * np.pi / (np.sqrt(3) * s) * np.array([np.cos(t), np.sin(t)]) for s, t in ((a, 0), (b, twist)))
    expected = 4 * np.pi / np.sqrt(3) / np.linalg.norm(first - second)
    assert moire_period(a, 4.0, b) == pytest.approx(expected)
    assert moire_period(b, 4.0, a) == pytest.approx(expected)
    assert moire_period(20.0, 0.0, 21.0) == pytest.approx(20.0 * 21.0)


def test_twists_sixty_degrees_apart_give_one_moire_period():
    assert moire_period(20.0, 51.0) == pytest.approx(moire_period(20.0, 9.0))
    assert moire_period(20.0, 60.0) == float("inf")


def test_commensurate_angles_are_those_of_coincidence_lattices():
    table = commensurate_angles(50).set_index("sigma")["twist_deg"]
    assert list(table.index) == [7, 13, 19, 31, 37, 43, 49]  # primes of the form 3k + 1, and the square of 7
    expected = {7: 21.787, 13: 27.796, 19: 13.174, 31: 17.897, 37: 9.430}
    for sigma, twist in expected.items():
        assert table[sigma] == pytest.approx(twist, abs=1e-3)


def test_one_site_in_sigma_coincides_at_a_commensurate_twist():
    for sigma, twist in commensurate_angles(100)[["sigma", "twist_deg"]].itertuples(index=False):
        first, second = (hexagonal_lattice(1.0, t, (0, 0), 60.0) for t in (0.0, twist))
        shared = first[cKDTree(second).query(first)[0] < 1e-6]
        assert len(shared) == pytest.approx(len(first) / sigma, rel=0.1)
        assert nearest(shared).min() == pytest.approx(coincidence_period(1.0, sigma))


def test_no_site_but_one_coincides_near_a_commensurate_twist():
    first, second = (hexagonal_lattice(1.0, t, (0, 0), 60.0) for t in (0.0, 21.9))
    assert np.sum(cKDTree(second).query(first)[0] < 1e-6) == 1


def test_scene_is_reproducible_and_seed_dependent():
    scenes = [random_scene(LatticeConfig(), FIELD, np.random.default_rng(s)) for s in (1, 1, 2)]
    np.testing.assert_array_equal(scenes[0].layers[0].positions, scenes[1].layers[0].positions)
    assert scenes[0].layers[0].spacing != scenes[2].layers[0].spacing


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(4))
def test_circles_around_the_corners_of_one_layers_particles_do_not_overlap(shape, seed):
    config = LatticeConfig(shapes=(shape,), boundary=0.5, twin=0.5, dislocations=2.0)
    scene = random_scene(config, FIELD, np.random.default_rng(seed), 20.0)
    for layer in scene.layers:
        radii = 0.5 * layer.diameters * circumscribed_ratio(shape, scene.rounding)
        for i, j in cKDTree(layer.positions).query_pairs(25.0) if len(layer) else ():
            assert np.hypot(*(layer.positions[i] - layer.positions[j])) > radii[i] + radii[j] - 1e-6
        # the sizes asked for are kept but where there is no room
        assert len(layer) == 0 or np.median(layer.diameters) > 0.45 * layer.spacing


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


def test_shape_of_a_scene_is_round_seven_times_in_ten():
    shapes = [draw(seed, 60.0, (200.0, 200.0)).shape for seed in range(400)]
    assert set(shapes) == set(SHAPES)
    share = np.mean([shape in ("sphere", "rod") for shape in shapes])
    assert abs(share - 0.7) < 4 * np.sqrt(0.7 * 0.3 / 400)


def test_published_recipe_lies_inside_the_default_ranges():
    published, ranges = LatticeConfig.published(), LatticeConfig()
    assert set(published.shapes) <= set(ranges.shapes)
    for field in fields(LatticeConfig):
        inner, outer = getattr(published, field.name), getattr(ranges, field.name)
        if isinstance(outer, tuple) and field.name != "shapes":
            assert outer[0] <= inner[0]
            assert inner[-1] <= outer[-1]
    for seed in range(20):
        scene = random_scene(published, (700.0, 700.0), np.random.default_rng(seed))
        ratio = scene.height / np.median(scene.layers[0].diameters)
        assert scene.height == 112.1
        assert ranges.rod_height[0] <= ratio <= ranges.rod_height[1]


def test_any_number_of_layers_stack_along_the_beam_with_their_own_lattices():
    scene = draw(1, layers=4, twist_angle=(7.0, 7.0), upper_spacing=(22.0, 24.0), gap=(2.0, 2.0), shapes=("sphere",))
    assert len(scene.layers) == 4
    diameter = scene.layers[0].diameters[0]
    np.testing.assert_allclose(np.diff([layer.z for layer in scene.layers]), diameter + 2.0)
    assert all(22.0 <= layer.spacing <= 24.0 for layer in scene.layers[1:])
    assert len(scene.twist_angles) == 3
    assert scene.twist_angles[0] == pytest.approx(7.0) == scene.twist_angle
    for layer in scene.layers:
        assert difference(row_direction(layer.positions, layer.spacing), layer.angle) < 1e-6


def test_without_offset_the_lattices_share_a_site_and_with_it_they_do_not():
    options = {"twist_angle": (11.0, 11.0), "spacing_mismatch": 0.0}
    together, apart = (draw(2, offset=(shift, shift), **options).layers for shift in (0.0, 0.5))
    assert cKDTree(together[0].positions).query(together[1].positions)[0].min() < 1e-9
    site = together[0].positions[cKDTree(together[1].positions).query(together[0].positions)[0].argmin()]
    other = apart[1].positions
    # the same draws but for the shift of half a spacing
    moved = np.linalg.norm(other - site, axis=1).min()
    assert moved == pytest.approx(0.5 * apart[0].spacing, rel=1e-6)


def test_upper_layer_lies_on_the_base():
    for seed in range(6):
        base, top = draw(seed, edge=1.0, island=seed % 2, twist_angle=(9.0, 9.0)).layers
        inside = np.all((top.positions > 0) & (top.positions < FIELD), axis=1)
        assert inside.sum() > 5
        below = cKDTree(base.positions).query(top.positions[inside])[0]
        assert below.max() < 0.7 * base.spacing  # a hollow of the base is a/√3 from its particles


def test_ids_are_unique_in_a_scene_and_stay_with_their_particles():
    one = Layer(np.zeros((3, 2)), np.ones(3), 20.0, 0.0)
    scene = Scene((one, one, one.select([2, 0])), (10.0, 10.0))
    ids = np.concatenate([layer.ids for layer in scene.layers])
    assert len(set(ids.tolist())) == ids.size
    scene = draw(3, vacancies=(0.1, 0.1))
    odd = Scene(tuple(layer.select(layer.ids % 2 == 1) for layer in scene.layers), FIELD)
    before, after = truth_table(scene, 1.0).set_index("particle"), truth_table(odd, 1.0).set_index("particle")
    assert np.all(after.index % 2 == 1)
    np.testing.assert_array_equal(after[["y_nm", "layer"]], before.loc[after.index, ["y_nm", "layer"]])


def test_select_keeps_all_arrays_in_step_and_wrong_lengths_are_refused():
    layer = draw(4, aligned=0.0).layers[0]
    chosen = layer.select(layer.rotations > 90.0)
    for name in ("positions", "diameters", "ids", "rotations", "orientations"):
        np.testing.assert_array_equal(getattr(chosen, name), getattr(layer, name)[layer.rotations > 90.0])
    with pytest.raises(ValueError, match="2 rotations for 3 positions"):
        Layer(np.zeros((3, 2)), np.ones(3), 20.0, 0.0, rotations=np.zeros(2))


def test_orientations_are_spread_over_any_table():
    rows = np.concatenate([layer.orientations for layer in draw(5).layers]) % 5
    assert np.bincount(rows, minlength=5).min() > 0.1 * rows.size


def test_aligned_particles_turn_with_their_rows_and_free_ones_do_not():
    def spread(aligned):
        layer = draw(6, aligned=aligned, shapes=("cube",)).layers[0]
        return np.std((layer.rotations - layer.angle + 180) % 360 - 180)

    assert 3.0 < spread(1.0) < 5.0
    assert spread(0.0) > 60.0


def test_vacancies_are_listed_where_a_site_is_empty_and_nowhere_else():
    full, empty = (draw(7, vacancies=(share, share), shapes=("sphere",)).layers[0] for share in (0.0, 0.08))
    vacancies = np.array([d.position for d in empty.defects])
    inside = np.all((full.positions > 0) & (full.positions < FIELD), axis=1).sum()
    assert len(vacancies) == pytest.approx(0.08 * inside, abs=4 * np.sqrt(0.08 * inside))
    assert cKDTree(full.positions).query(vacancies)[0].max() < 1e-9  # each at a site ...
    assert cKDTree(empty.positions).query(vacancies)[0].min() > 0.99 * full.spacing  # ... that is empty


def test_an_interstitial_is_listed_where_it_is_and_its_neighbours_make_room():
    layer = draw(8, interstitials=(0.004, 0.004), field=(800.0, 800.0), shapes=("rod",)).layers[0]
    kinds = {d.kind for d in layer.defects}
    assert kinds == {"interstitial"}
    sites = np.array([d.position for d in layer.defects])
    distance = cKDTree(layer.positions).query(sites, k=2)[0]
    assert distance[:, 0].max() < 0.1 * layer.spacing  # hard cores may push it a little
    assert distance[:, 1].min() > 0.7 * layer.spacing
    expected = 0.004 * 800**2 / (np.sqrt(0.75) * 20.0**2)
    assert abs(len(sites) - expected) < 4 * np.sqrt(expected)


def test_an_interstitial_opens_the_area_of_one_cell_without_compression():
    cell = np.sqrt(0.75) * 20.0**2
    t = np.linspace(0, 2 * np.pi, 1000, endpoint=False)
    ring = 150.0 * np.stack([np.sin(t), np.cos(t)], axis=1)
    outward = np.sum(dilatation_displacement(ring, (0.0, 0.0), cell) * ring, axis=1) / 150.0
    assert outward.mean() * 2 * np.pi * 150.0 == pytest.approx(cell)
    steps = np.array([[1e-3, 0], [-1e-3, 0], [0, 1e-3], [0, -1e-3]])
    u = dilatation_displacement(np.array([30.0, 40.0]) + steps, (0.0, 0.0), cell)
    assert (u[0, 0] - u[1, 0] + u[2, 1] - u[3, 1]) / 2e-3 == pytest.approx(0, abs=1e-6)


def test_displacement_grows_by_the_burgers_vector_around_a_dislocation():
    burgers = np.array([6.0, 8.0])
    along = burgers / 10.0
    across = np.array([along[1], -along[0]])
    t = np.linspace(-np.pi + 1e-9, np.pi - 1e-9, 2000)  # from the cut once around, from x towards y
    ring = 40.0 * (np.cos(t)[:, None] * along + np.sin(t)[:, None] * across)
    u = dislocation_displacement(ring + [5.0, 7.0], (5.0, 7.0), burgers)
    np.testing.assert_allclose(u[-1] - u[0], burgers, atol=1e-6)
    assert np.linalg.norm(np.diff(u, axis=0), axis=1).max() < 0.05  # smooth all the way
    y, x = along * 1.0, across * 1.0  # right-handed in the image: x to y is from along to across
    assert y[1] * x[0] - y[0] * x[1] > 0


def test_a_dislocation_is_in_elastic_equilibrium_with_a_poisson_ratio_of_a_third():
    spacing, burgers = 1.0, np.array([0.0, 1.0])
    points = hexagonal_lattice(spacing, 0.0, (0.0, 0.0), 40.0)
    core = points[np.hypot(*points.T).argmin()] + [np.sqrt(3) / 6, 0.5]
    r = points - core
    # away from the edge, the core and the cut, where the springs join particles of shifted rows
    ring = (np.hypot(*r.T) > 10) & (np.hypot(*r.T) < 25) & ~((np.abs(r[:, 0]) < 2) & (r[:, 1] < 0))
    forces = []
    for ratio in (1 / 3, 0.1):
        u = dislocation_displacement(points, core, burgers, ratio)
        force = stiffness_matrix(points, spacing, 1.0) @ u.ravel()
        forces.append(np.abs(force.reshape(-1, 2)[ring]).max())
    assert forces[0] < 2e-4
    assert forces[1] > 5 * forces[0]


@pytest.mark.parametrize("seed", range(6))
def test_a_dislocation_has_one_particle_with_five_and_one_with_seven_neighbours(seed):
    scenes = (draw((seed, k), dislocations=1.0, shapes=("sphere",), diameter_ratio=(0.6, 0.6)) for k in range(50))
    layer = next(
        one
        for scene in scenes
        for one in scene.layers
        if len(one.defects) == 1 and within(np.array([one.defects[0].position]), -60.0)[0]
    )
    (defect,) = layer.defects
    assert defect.kind == "dislocation"
    assert np.hypot(*defect.burgers) == pytest.approx(layer.spacing)
    counts = coordination(layer.positions)
    wrong = within(layer.positions, -25.0) & (counts != 6)  # without the triangulation's rim
    assert sorted(counts[wrong]) == [5, 7]
    assert np.hypot(*(layer.positions[wrong] - defect.position).T).max() < layer.spacing
    # the seven-fold particle lies where the extra half row ends, across the Burgers vector from the five-fold one
    five, seven = (layer.positions[wrong & (counts == n)][0] for n in (5, 7))
    assert abs((five - seven) @ defect.burgers) < 0.5 * np.linalg.norm(five - seven) * layer.spacing


def test_grains_meet_at_the_boundary_with_the_misorientation_asked_for():
    points, defect = grain_boundary(20.0, 5.0, 17.0, 70.0, (100.0, 200.0), 300.0)
    line = Line(defect)
    depth = line.depth(points)
    first, second = (row_direction(points[side], 20.0) for side in (depth < -20, depth > 20))
    assert difference(first, 5.0) < 1e-6
    assert difference(second, 22.0) < 1e-6
    assert defect.misorientation == pytest.approx(17.0)
    assert difference(np.degrees(np.arctan2(*line.along)), 70.0) < 1e-6
    assert nearest(points).min() > 0.8 * 20.0 - 1e-9
    assert np.abs(line.depth(np.array([[100.0, 200.0]]))).max() < 1e-9


@pytest.mark.parametrize("sigma", [7, 13, 19, 31])
def test_twin_boundary_is_a_mirror_line_of_coincident_sites(sigma):
    center = np.array([50.0, -30.0])
    points, defect = twin_boundary(20.0, 9.0, sigma, center, 500.0)
    line = Line(defect)
    depth = line.depth(points)
    mirrored = points - 2 * depth[:, None] * line.normal
    assert cKDTree(points).query(mirrored)[0].max() < 1e-9
    first, second = (row_direction(points[side], 20.0) for side in (depth < -20, depth > 20))
    assert difference(first, 9.0) < 1e-6
    assert difference(first, second) == pytest.approx(defect.misorientation, abs=1e-6)
    table = commensurate_angles(sigma).set_index("sigma")
    assert defect.misorientation == pytest.approx(table.loc[sigma, "twist_deg"])
    on_line = np.sort((points[np.abs(depth) < 1e-9] - center) @ line.along)
    for k in range(-3, 4):  # coincident sites are there, once
        assert np.sum(np.abs(on_line - k * coincidence_period(20.0, sigma)) < 1e-6) == 1
    assert nearest(points).min() > 0.8 * 20.0
    strip = np.abs((points - center) @ line.along) < 300
    density = np.sum(strip & (np.abs(depth) < 100)) / np.sum(strip & (depth > 150) & (depth < 350))
    assert density == pytest.approx(1.0, rel=0.06)  # neither a gap nor a crowd


def test_a_sigma_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="no twin boundary of Σ 9; Σ is one of 7, 13, 19"):
        twin_boundary(20.0, 0.0, 9, (0.0, 0.0), 100.0)


@pytest.mark.parametrize(("twin", "kind"), [(0.0, "grain boundary"), (1.0, "twin boundary")])
def test_a_scene_lists_the_part_of_its_boundary_that_is_in_the_field(twin, kind):
    for seed in range(4):
        base, top = draw(seed, boundary=1.0, twin=twin, shapes=("sphere",)).layers
        (defect,) = base.defects
        assert defect.kind == kind
        assert (defect.sigma > 0) == (kind == "twin boundary")
        assert top.defects == ()
        ends = np.array([defect.position, defect.end])
        assert np.all((ends > -1e-6) & (ends < np.array(FIELD) + 1e-6))
        line = Line(defect)
        depth = line.depth(base.positions)
        sides = [row_direction(base.positions[side], 20.0) for side in (depth < -30, depth > 30)]
        assert difference(*sides) == pytest.approx(defect.misorientation, abs=1e-6)


def test_only_what_is_in_the_layer_is_listed():
    for seed in range(6):
        base = draw(seed, boundary=1.0, edge=1.0).layers[0]
        for defect in base.defects:
            assert cKDTree(base.positions).query([defect.position, defect.end])[0].max() < 1.5 * base.spacing
    empty = draw(0, single_layer=1.0, vacancies=(0.1, 0.1)).layers[1]
    assert len(empty) == 0
    assert empty.defects == ()


def test_strain_moves_defects_with_the_crystal():
    layer = draw(9, strain=(0.03, 0.03), vacancies=(0.05, 0.05), shapes=("sphere",), diameter_ratio=(0.6, 0.6)).layers[
        0
    ]
    vacancies = np.array([d.position for d in layer.defects if d.kind == "vacancy"])
    inner = vacancies[np.all((vacancies > 30) & (vacancies < np.array(FIELD) - 30), axis=1)]
    lonely = inner[nearest(inner) > 45.0]
    near = cKDTree(layer.positions).query(lonely, k=6)
    assert np.all(np.abs(near[0] / 20.0 - 1) < 0.06)
    # each in the middle of its six neighbours, to the strain's own variation
    assert np.abs(layer.positions[near[1]].mean(axis=1) - lonely).max() < 0.2


@pytest.fixture(scope="module")
def island():
    positions = hexagonal_lattice(20.0, 7.0, (300.0, 300.0), 200.0)
    return Layer(positions, np.full(len(positions), 15.0), 20.0, 7.0, ids=np.arange(len(positions)) + 1000)


@pytest.mark.parametrize(("start", "end", "detachment"), [(0.1, 1.0, 0.0), (0.3, 0.7, 0.1), (0.8, 0.2, 0.0)])
def test_replayed_events_give_the_presence_and_every_arrival_touches_the_island(island, start, end, detachment):
    present, events = growth_schedule(island, 12, np.random.default_rng(0), start, end, detachment)
    assert present.shape == (12, len(island))
    expected = np.round(np.linspace(start, end, 12) * len(island))
    assert np.abs(present.sum(axis=1) - expected).max() <= 1
    now, tree = present[0].copy(), cKDTree(island.positions)
    for frame in range(1, 12):
        for event in events[events["frame"] == frame].itertuples():
            i = event.particle - 1000
            np.testing.assert_array_equal([event.y_nm, event.x_nm], island.positions[i])
            assert now[i] == (event.event == "detach")
            if event.event == "attach":
                others = [j for j in tree.query_ball_point(island.positions[i], 20.1) if j != i]
                assert now[others].any()
            now[i] = not now[i]
        np.testing.assert_array_equal(now, present[frame])
    assert (events["event"] == "detach").any() == (detachment > 0 or end < start)


def test_growth_keeps_the_island_compact_and_in_one_piece(island):
    present, _ = growth_schedule(island, 2, np.random.default_rng(1), 0.5, 0.5)
    there = island.positions[present[0]]
    assert np.isin(cKDTree(there).query_ball_point(there, 20.1, return_length=True) - 1, [0]).sum() == 0
    area = len(there) * np.sqrt(0.75) * 20.0**2
    assert np.hypot(*(there - there.mean(axis=0)).T).max() < 1.5 * np.sqrt(area / np.pi)


def test_growth_is_reproducible_and_impossible_fractions_are_refused(island):
    one, other = (growth_schedule(island, 5, np.random.default_rng(2), 0.2, 0.9, 0.05)[0] for _ in range(2))
    np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="fractions between 0 and 1"):
        growth_schedule(island, 5, np.random.default_rng(2), 0.2, 1.2)
