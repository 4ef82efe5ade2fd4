"""Defects: simulated ones are found, conserved sums hold, and edges are not defects."""

import numpy as np
import pandas as pd
import pytest
from scipy.spatial import cKDTree

from moirelib.analysis import (
    Tolerance,
    boundary_table,
    burgers_circuit,
    defect_table,
    find_defects,
    follow_boundaries,
    follow_defects,
    orientational_twins,
    site_occupancy,
)
from moirelib.analysis.moire import find_facing_layer
from moirelib.crystal import commensurate_angles, hexagonal_lattice
from moirelib.simulation import dilatation_displacement, dislocation_displacement, grain_boundary, twin_boundary

A = 20.0  # nm
CENTER = np.array([300.0, 280.0])
ANGLE = 7.0


def unit(degrees):
    """Unit vector (y, x) along a direction from x towards y."""
    return np.array([np.sin(np.radians(degrees)), np.cos(np.radians(degrees))])


def noisy(points, noise=0.5, seed=0):
    return points + noise * np.random.default_rng(seed).standard_normal(np.shape(points))


def crystal(radius=200.0, angle=ANGLE):
    return hexagonal_lattice(A, angle, CENTER, radius)


def sites(*steps, angle=ANGLE):
    """Lattice sites m a₁ + n a₂ from the centre."""
    return CENTER + np.array(steps, float) @ (A * np.stack([unit(angle), unit(angle + 60)]))


def without(points, places):
    return points[cKDTree(places).query(points)[0] > 1e-6]


def of_kind(analysis, kind):
    return analysis.defects.query("kind == @kind")[["y_nm", "x_nm"]].to_numpy(float)


def turned(points, degrees):
    t = np.radians(degrees)
    y, x = np.asarray(points).T
    return np.stack([y * np.cos(t) + x * np.sin(t), x * np.cos(t) - y * np.sin(t)], axis=1)


def hollow(step=(0, 0), up=True):
    """Middle of the triangle of neighbours at a site, above or below the row along a₁."""
    corner = [(0, 0), (1, 0), (0, 1)] if up else [(0, 0), (1, 0), (1, -1)]
    return sites(*(np.add(step, c) for c in corner)).mean(axis=0)


def with_dislocations(points, *planted):
    for core, burgers in planted:
        points = points + dislocation_displacement(points, core, burgers)
    return points


# --- crystals without defects ---


@pytest.mark.parametrize("angle", [0.0, 13.0, 30.0])
@pytest.mark.parametrize("cut", ["circle", "frame", "island"])
def test_a_perfect_finite_crystal_has_no_defects(angle, cut):
    points = hexagonal_lattice(A, angle, CENTER, 300.0)
    y, x = (points - CENTER).T
    outline = {
        "circle": np.hypot(y, x) < 190.0,
        "frame": (np.abs(y) < 170) & (np.abs(x) < 210),
        "island": np.hypot(y, x) < 150 * (1 + 0.25 * np.cos(3 * np.arctan2(y, x) + 0.4)),
    }[cut]
    for seed in range(3):
        found = find_defects(noisy(points[outline], 0.03 * A, seed))
        assert found.defects.empty
        assert found.boundaries.empty
        assert (found.grain == 0).all()


# --- vacancies and interstitials ---


@pytest.mark.parametrize(
    "holes",
    [
        [(0, 0)],
        [(0, 0), (1, 0)],
        [(0, 0), (1, 0), (0, 1)],
        [(0, 0), (1, 0), (2, 0), (3, 0)],
        [(0, 0), (1, 0), (0, 1), (-1, 1), (-1, 0), (0, -1), (1, -1)],
        [(0, 0), (2, 0), (-3, 5), (4, -6), (-6, 1)],
    ],
    ids=["one", "pair", "triangle", "row", "hexagon", "scattered"],
)
def test_vacancies_are_found_alone_and_in_clusters(holes):
    places = sites(*holes)
    found = find_defects(noisy(without(crystal(), places), 0.02 * A))
    vacancies = of_kind(found, "vacancy")
    assert len(vacancies) == len(places) == len(found.defects)
    assert cKDTree(vacancies).query(places)[0].max() < 0.15 * A
    assert found.defects[["burgers_y_nm", "burgers_x_nm"]].isna().all(axis=None)


def test_a_vacancy_next_to_the_edge_is_one_and_a_notch_in_the_edge_is_none():
    points = hexagonal_lattice(A, 0.0, CENTER, 300.0)
    points = points[np.abs(points - CENTER).max(axis=1) < 150]
    rows = np.unique(points[:, 0].round(6))
    second, first = (points[np.isclose(points[:, 0], rows[k])] for k in (1, 0))
    inner, notch = second[len(second) // 2], first[len(first) // 2]
    assert len(of_kind(find_defects(without(points, inner[None])), "vacancy")) == 1
    assert find_defects(without(points, notch[None])).defects.empty


def test_a_hole_of_many_sites_is_no_heap_of_vacancies():
    points = crystal()
    found = find_defects(points[np.hypot(*(points - CENTER).T) > 5.2 * A])
    assert found.defects.empty


def test_an_interstitial_is_found_and_brings_no_other_defect():
    for seed, up in enumerate((True, False)):
        site = hollow((1, 0), up)
        points = crystal() + dilatation_displacement(crystal(), site, np.sqrt(0.75) * A * A)
        found = find_defects(noisy(np.vstack([points, site]), 0.02 * A, seed))
        assert found.defects["kind"].tolist() == ["interstitial"]
        assert np.hypot(*(of_kind(found, "interstitial")[0] - site)) < 0.2 * A


# --- dislocations ---


@pytest.mark.parametrize("row", range(6))
def test_a_dislocation_is_found_with_its_burgers_vector(row):
    burgers = A * unit(ANGLE + 60 * row)
    core = hollow((0, 0), True) if row % 2 == 0 else hollow((0, 0), False)
    for seed in range(4):
        found = find_defects(noisy(with_dislocations(crystal(), (core, burgers)), 0.02 * A, seed))
        (one,) = found.defects.itertuples()
        assert one.kind == "dislocation"
        assert np.hypot(one.y_nm - core[0], one.x_nm - core[1]) < 0.8 * A
        np.testing.assert_allclose([one.burgers_y_nm, one.burgers_x_nm], burgers, atol=0.06 * A)


def test_the_burgers_vector_turns_with_the_crystal_and_changes_sign_in_a_mirror():
    burgers = A * unit(ANGLE + 60)
    points = noisy(with_dislocations(crystal(), (hollow(), burgers)), 0.02 * A)
    columns = ["y_nm", "x_nm", "burgers_y_nm", "burgers_x_nm"]
    where = find_defects(points).defects[columns].to_numpy(float)[0]
    for turn in (100.0, *np.arange(20.0, 26.1, 0.75)):  # rows at 30° have two names
        moved = find_defects(turned(points, turn) + 50).defects[columns].to_numpy(float)[0]
        np.testing.assert_allclose(moved[:2], turned(where[None, :2], turn)[0] + 50, atol=1e-3)
        np.testing.assert_allclose(moved[2:], turned(where[None, 2:], turn)[0], atol=1e-3)
    # In a mirror the circuit runs the other way.
    mirrored = find_defects(points * [1, -1]).defects[columns].to_numpy(float)[0]
    np.testing.assert_allclose(mirrored, where * [1, -1, -1, 1], atol=1e-3)


def test_burgers_vectors_in_a_region_add_up_to_the_circuit_around_it():
    one, other = A * unit(ANGLE), A * unit(ANGLE + 120)
    planted = (sites((-4, 0))[0] + hollow() - CENTER, one), (sites((4, 0))[0] + hollow() - CENTER, other)
    points = noisy(with_dislocations(crystal(240.0), *planted), 0.02 * A)
    found = find_defects(points).defects
    where = found[["y_nm", "x_nm"]].to_numpy(float)
    vectors = found[["burgers_y_nm", "burgers_x_nm"]].to_numpy(float)
    assert len(found) == 2
    for center, radius, expected in (
        (planted[0][0], 3.2 * A, one),
        (planted[1][0], 3.2 * A, other),
        (CENTER, 8.5 * A, one + other),
        (CENTER + 7 * A * unit(ANGLE + 90), 3.5 * A, 0 * one),
    ):
        circuit = burgers_circuit(points, center, radius)
        inside = np.hypot(*(where - center).T) < radius
        np.testing.assert_allclose(circuit, vectors[inside].sum(axis=0), atol=0.12 * A)
        np.testing.assert_allclose(circuit, expected, atol=0.12 * A)
    with pytest.raises(ValueError, match="no triangle of neighbours lies within 1 nm"):
        burgers_circuit(points, (5000.0, 0.0), 1.0)


def test_a_circuit_around_a_hole_counts_what_the_hole_hides():
    burgers, rng = A * unit(ANGLE), np.random.default_rng(0)
    hidden, open_ = CENTER + [-90.0, 0.0], CENTER + [70.0, 0.0]
    points = with_dislocations(crystal(260.0), (hidden, burgers), (open_, burgers))
    points = points[np.hypot(*(points - hidden).T) > 2.6 * A]
    for seed in range(6):  # for any order of the particles
        shuffled = noisy(rng.permutation(points), 0.2, seed)
        np.testing.assert_allclose(burgers_circuit(shuffled, CENTER, 8.6 * A), 2 * burgers, atol=0.3 * A)


def test_a_circuit_around_two_pieces_is_refused():
    points = crystal()
    parted = points[np.abs(points[:, 1] - CENTER[1]) > 35.0]
    with pytest.raises(ValueError, match="fall into 2 pieces"):
        burgers_circuit(parted, CENTER, 5 * A, A)


def test_vacancies_beside_a_dislocation_do_not_hide_it():
    core, burgers = hollow(), A * unit(ANGLE)
    holes = sites((5, 0), (-4, 2), (2, -5))
    points = with_dislocations(without(crystal(), holes), (core, burgers))
    found = find_defects(noisy(points, 0.02 * A)).defects
    assert sorted(found["kind"]) == ["dislocation"] + 3 * ["vacancy"]


# --- disclinations ---


def cone(folds, radius=5.0):
    """A crystal with one particle of `folds` neighbours: that many sixths of a lattice, bent to a full circle."""
    points = hexagonal_lattice(1.0, 0.0, (0.0, 0.0), radius)
    y, x = points.T
    angle, distance = np.degrees(np.arctan2(y, x)) % 360, np.hypot(y, x)
    sixth = (angle > -1e-6) & (angle < 60 - 1e-6) & (distance > 0.5)
    t = np.radians(angle[sixth] * 6 / folds)[:, None] + 2 * np.pi / folds * np.arange(folds)
    r = distance[sixth][:, None] * np.sqrt(folds / 6)
    around = np.stack([(r * np.sin(t)).ravel(), (r * np.cos(t)).ravel()], axis=1)
    return A * np.vstack([[[0.0, 0.0]], around]) + CENTER


@pytest.mark.parametrize("folds", [5, 7])
def test_a_disclination_stands_alone_in_the_middle_of_a_cone(folds):
    found = find_defects(noisy(cone(folds), 0.2))
    assert found.defects["kind"].tolist() == ["disclination"]
    np.testing.assert_allclose(of_kind(found, "disclination")[0], CENTER, atol=0.1 * A)
    assert found.coordination[0] == folds


@pytest.mark.parametrize("folds", [5, 6, 7])
def test_disclination_charges_add_up_to_eulers_relation(folds):
    points = noisy(cone(folds), 0.2)
    charge = 6 - find_defects(points).coordination
    inner = np.hypot(*(points - CENTER).T) < 3.4 * A
    assert charge[inner].sum() == 6 - folds  # the charge that corresponds to the Gaussian curvature of the cone
    points = noisy(with_dislocations(crystal(), (hollow(), A * unit(ANGLE))), 0.3)
    inner = np.hypot(*(points - CENTER).T) < 120
    charge = 6 - find_defects(points).coordination[inner]
    assert charge.sum() == 0  # a dislocation is a neutral pair
    assert sorted(charge[charge != 0]) == [-1, 1]


# --- boundaries ---


def boundary(points, tolerance=None):
    table = find_defects(points, tolerance=tolerance).boundaries
    length = np.hypot(table["y1_nm"] - table["y0_nm"], table["x1_nm"] - table["x0_nm"])
    return table.iloc[int(length.argmax())]


@pytest.mark.parametrize(("turn", "inclination"), [(6.0, 20.0), (-11.0, 75.0), (17.0, 130.0), (28.5, 160.0)])
def test_a_grain_boundary_has_its_misorientation_and_inclination(turn, inclination):
    points, truth = grain_boundary(A, ANGLE, turn, inclination, CENTER, 240.0)
    found = boundary(noisy(points, 0.02 * A))
    assert found["kind"] == "grain"
    assert found["misorientation_deg"] == pytest.approx(truth.misorientation, abs=0.1)
    assert abs((found["inclination_deg"] - inclination + 90) % 180 - 90) < 3.0
    ends = found[["y0_nm", "x0_nm"]], found[["y1_nm", "x1_nm"]]
    across = [(np.array(e, float) - CENTER) @ unit(inclination + 90) for e in ends]
    assert np.abs(across).max() < 0.8 * A
    assert np.hypot(*(np.array(ends[0], float) - np.array(ends[1], float))) > 0.88 * 480.0


@pytest.mark.parametrize("sigma", [7, 13, 19])
def test_a_twin_boundary_is_recognised_with_its_sigma_and_plane(sigma):
    for seed in range(3):
        points, truth = twin_boundary(A, ANGLE + 11 * seed, sigma, CENTER, 240.0)
        found = boundary(noisy(points, 0.02 * A, seed))
        line = np.subtract(truth.end, truth.position)
        inclination = np.degrees(np.arctan2(*line))
        assert found["kind"] == "twin"
        assert found["sigma"] == sigma
        assert abs(found["sigma_deviation_deg"]) < 0.1
        assert abs((found["inclination_deg"] - inclination + 90) % 180 - 90) < 2.5
        assert found["mirror_mismatch_nm"] < 0.1 * A


def test_a_twin_is_coherent_all_along_also_where_no_sites_coincide():
    points, _ = twin_boundary(A, 0.0, 13, CENTER, 320.0)
    for cut in np.arange(100.0, 141.0, 8.0):  # the middle of the remaining boundary moves
        found = boundary(points[points[:, 1] > CENTER[1] - cut])
        assert found["kind"] == "twin"
        assert found["mirror_mismatch_nm"] < 0.02 * A
    side = (points - CENTER) @ unit(found["inclination_deg"] + 90) > 1.0
    slid = points + side[:, None] * (A * np.sqrt(13) / 52 * unit(found["inclination_deg"]))
    mismatch = boundary(slid)["mirror_mismatch_nm"]
    assert mismatch == pytest.approx(A * np.sqrt(13) / 52, rel=0.3)  # half the smallest of its periods


def test_only_a_coherent_mirror_image_is_a_twin():
    twist = float(commensurate_angles(7)["twist_deg"].iloc[0])
    bisector = ANGLE + twist / 2
    kinds = {}
    cases = {
        "mirror": (twist, bisector, 0.0),
        "asymmetric": (twist, bisector + 13.0, 0.0),
        "not Σ 7": (twist - 3.0, bisector - 1.5, 0.0),
        "slid": (twist, bisector, 0.5),
    }
    for name, (turn, inclination, slide) in cases.items():
        points, _ = grain_boundary(A, ANGLE, turn, inclination, CENTER, 240.0)
        second = (points - CENTER) @ unit(inclination + 90) > 1e-6
        # Half the spacing of lattice points projected on the line (a √7 / 14) destroys the mirror image.
        points = points + second[:, None] * (slide * A * np.sqrt(7) / 14 * unit(inclination))
        kinds[name] = boundary(noisy(points, 0.01 * A), Tolerance(mismatch=0.04))["kind"]
    assert kinds == {"mirror": "twin", "asymmetric": "grain", "not Σ 7": "grain", "slid": "grain"}


@pytest.mark.parametrize("turn", [5.0, 7.0, 10.0])
def test_dislocations_of_a_low_angle_boundary_obey_franks_formula(turn):
    inclination = ANGLE + turn / 2 + 30.0  # symmetric, across the rows: one set of dislocations
    points, _ = grain_boundary(A, ANGLE, turn, inclination, CENTER, 300.0, closest=0.6 * A)
    found = find_defects(noisy(points, 0.01 * A))
    row = boundary(noisy(points, 0.01 * A))
    frank = A / (2 * np.sin(np.radians(turn) / 2))
    assert row["frank_spacing_nm"] == pytest.approx(frank, rel=0.02)
    assert row["dislocation_spacing_nm"] == pytest.approx(frank, rel=0.15)
    # The Burgers vectors along a length add up to the gap that the rotation opens.
    lines = found.defects.query("kind == 'dislocation'")
    along = (lines[["y_nm", "x_nm"]].to_numpy(float) - CENTER) @ unit(inclination)
    total = lines[["burgers_y_nm", "burgers_x_nm"]].to_numpy(float)[np.abs(along) < 225].sum(axis=0)
    assert np.hypot(*total) == pytest.approx(2 * np.sin(np.radians(turn) / 2) * 450, abs=1.1 * A)
    assert abs(total @ unit(inclination)) < 0.2 * np.hypot(*total)  # across the boundary
    assert lines["in_boundary"].all()


def test_a_boundary_moves_and_turns_with_the_crystal():
    points = noisy(twin_boundary(A, ANGLE, 7, CENTER, 220.0)[0], 0.02 * A)
    before, after = boundary(points), boundary(turned(points, 40.0) - 300)
    mirrored = boundary(points * [-1, 1])
    for name in ("kind", "sigma"):
        assert before[name] == after[name] == mirrored[name]
    for other in (after, mirrored):
        assert other["misorientation_deg"] == pytest.approx(before["misorientation_deg"], abs=1e-6)
        assert other["mirror_mismatch_nm"] == pytest.approx(before["mirror_mismatch_nm"], abs=0.02)
    assert (after["inclination_deg"] - before["inclination_deg"]) % 180 == pytest.approx(40.0, abs=1e-3)
    assert (mirrored["inclination_deg"] + before["inclination_deg"] + 90) % 180 == pytest.approx(90.0, abs=1e-3)


# --- tables and movies ---


def table(points, frame=0, layer=1):
    return pd.DataFrame(points, columns=["y_nm", "x_nm"]).assign(frame=frame, layer=layer)


def test_defects_know_where_they_are_on_the_other_layer():
    hole = sites((0, 0))
    first = without(crystal(), hole)
    second = hexagonal_lattice(A, ANGLE + 8.0, hollow(), 150.0)  # layer 2 has a site over a hollow of layer 1
    second = without(second, hollow()[None])
    found = defect_table(pd.concat([table(first), table(second, layer=2), table(first, 1)], ignore_index=True))
    assert found["kind"].tolist() == 3 * ["vacancy"]
    assert found[["frame", "layer"]].to_numpy().tolist() == [[0, 1], [0, 2], [1, 1]]
    assert found["registry"][1] == "hollow"
    assert found["coordinate"][1] == pytest.approx(-1.5, abs=1e-3)
    assert found["registry"].isna()[2]  # no second layer in that frame
    expected = "frame layer kind y_nm x_nm burgers_y_nm burgers_x_nm in_boundary registry coordinate covered"
    assert found.columns.tolist() == expected.split()


def test_a_vacancy_under_a_particle_of_another_layer_is_marked():
    # Two particles that nearly coincide look like one: the other one's site may be taken after all.
    first = without(crystal(), sites((0, 0), (3, 1)))
    second = crystal()[np.hypot(*(crystal() - sites((0, 0))[0]).T) < 1.5 * A] + 0.03 * A
    both = pd.concat([table(first), table(second, layer=2)], ignore_index=True)
    found = defect_table(both)
    found = found[(found["layer"] == 1) & (found["kind"] == "vacancy")]
    near = np.hypot(*(found[["y_nm", "x_nm"]].to_numpy(float) - sites((0, 0))[0]).T) < A / 2
    assert len(found) == 2
    assert near.sum() == 1
    assert found["covered"].tolist() == near.tolist()
    assert not defect_table(table(first))["covered"].any()


@pytest.mark.parametrize(
    ("layer", "layers", "facing"), [(1, [1, 2], 2), (2, [1, 2], 1), (3, [1, 2, 3], 2), (1, [1], None)]
)
def test_a_layer_faces_the_next_one_below_and_the_lowest_the_next_one_above(layer, layers, facing):
    assert find_facing_layer(layer, layers) == facing


def test_tables_are_empty_where_there_is_nothing_and_say_what_is_missing():
    none = pd.concat([table(crystal()), table(crystal()[:3], layer=2)], ignore_index=True)
    assert defect_table(none).empty
    assert boundary_table(none).empty
    assert {"misorientation_deg", "sigma"} <= set(boundary_table(none).columns)
    with pytest.raises(ValueError, match="no column y_nm"):
        defect_table(none.drop(columns="y_nm"))
    with pytest.raises(ValueError, match="at least 4 particles"):
        find_defects(crystal()[:3])
    with pytest.raises(ValueError, match="table of defects has no column kind"):
        follow_defects(defect_table(none).drop(columns="kind"), A)
    with pytest.raises(ValueError, match="table of boundaries has no column y0_nm"):
        follow_boundaries(boundary_table(none).drop(columns="y0_nm"), A)


def test_hops_of_a_vacancy_are_followed_site_by_site():
    path = [(0, 0), (0, 0), (1, 0), (1, 1), (1, 1)]
    frames = [table(noisy(without(crystal(), sites(p, (-6, 2))), 0.3, k), k) for k, p in enumerate(path)]
    moves = follow_defects(defect_table(pd.concat(frames, ignore_index=True)), 1.3 * A)
    assert moves["defect"].nunique() == 2
    hops = moves.assign(step=np.hypot(moves["step_y_nm"], moves["step_x_nm"])).query("step > 10")
    assert hops["frame"].tolist() == [2, 3]
    np.testing.assert_allclose(hops["step"], A, atol=2.0)
    assert hops["defect"].nunique() == 1
    assert moves["glide_nm"].isna().all()


def test_the_order_of_the_rows_does_not_matter_to_what_is_followed():
    path = [(0, 0), (0, 0), (1, 0), (1, 1), (1, 1)]
    frames = [table(noisy(without(crystal(), sites(p, (-6, 2))), 0.3, k), k) for k, p in enumerate(path)]
    defects = defect_table(pd.concat(frames, ignore_index=True))
    moves, shuffled = (follow_defects(t, 1.3 * A) for t in (defects, defects.sample(frac=1, random_state=0)))
    places = ["frame", "y_nm", "x_nm"]
    both = moves.merge(shuffled, on=places, suffixes=("", "_shuffled"))
    assert len(both) == len(moves) == 10
    np.testing.assert_allclose(both["step_y_nm"], both["step_y_nm_shuffled"])
    np.testing.assert_allclose(both["step_x_nm"], both["step_x_nm_shuffled"])


def test_tables_of_frames_that_were_analysed_one_by_one_are_followed():
    frames = [defect_table(table(without(crystal(), sites((0, 0), (-6, 2))), k)) for k in range(3)]
    moves = follow_defects(pd.concat(frames), A)  # every frame's rows have the index 0 and 1
    assert moves.groupby("defect")["frame"].apply(list).tolist() == [[0, 1, 2]] * 2


def test_a_dislocation_that_glides_moves_along_its_burgers_vector():
    burgers = A * unit(ANGLE)
    frames = [
        table(noisy(with_dislocations(crystal(), (sites((k, 0))[0] + hollow() - CENTER, burgers)), 0.2, k), k)
        for k in range(4)
    ]
    moves = follow_defects(defect_table(pd.concat(frames, ignore_index=True)), 1.6 * A)
    assert moves["kind"].tolist() == 4 * ["dislocation"]
    assert moves["defect"].nunique() == 1
    np.testing.assert_allclose(moves["glide_nm"][1:], A, atol=0.35 * A)
    assert moves["climb_nm"][1:].abs().max() < 0.3 * A


def test_a_migrating_boundary_is_followed_across_itself():
    frames = []
    for k in range(3):
        points, _ = grain_boundary(A, ANGLE, 20.0, 60.0, CENTER + 10.0 * k * unit(150.0), 200.0)
        frames.append(table(noisy(points, 0.3, k), k))
    moves = follow_boundaries(boundary_table(pd.concat(frames, ignore_index=True)), 2 * A)
    assert moves["boundary"].nunique() == 1
    # The lattice of the second grain is fixed, so the boundary moves row by row; only the sum is even.
    assert np.abs(moves["migration_nm"].iloc[1:]).sum() == pytest.approx(20.0, abs=6.0)
    assert follow_boundaries(moves.iloc[:0], A).empty
    assert follow_defects(defect_table(table(crystal())), A).empty


def test_the_sign_of_a_migration_does_not_turn_where_inclinations_go_from_180_to_0_degrees():
    tilt = np.array([0.4, -0.3, 0.5, -0.6, 0.2, -0.2])  # degrees about the x axis
    slope = 50 * np.tan(np.radians(tilt))
    rows = {"frame": np.arange(6), "layer": 1, "kind": "grain", "inclination_deg": tilt % 180}
    rows |= {"y0_nm": 5.0 * np.arange(6) - slope, "x0_nm": 0.0, "y1_nm": 5.0 * np.arange(6) + slope, "x1_nm": 100.0}
    moves = follow_boundaries(pd.DataFrame(rows), 20.0)
    np.testing.assert_allclose(moves["migration_nm"][1:], 5.0, rtol=1e-3)


def test_the_motion_of_the_layer_is_no_motion_of_its_defects():
    perfect = with_dislocations(without(crystal(), sites((-6, 2))), (hollow() - [0.0, 4 * A], A * unit(ANGLE)))
    frames = []
    for t in range(6):  # 3 nm and half a degree per frame
        seen = noisy(turned(perfect - CENTER, 0.5 * t) + CENTER + [2.4 * t, 1.8 * t], 0.1, t)
        frames.append(table(seen, t).assign(particle=np.arange(len(seen))))
    film = pd.concat(frames, ignore_index=True)
    found = defect_table(film)
    still, carried = (follow_defects(found, A, motion=m) for m in (site_occupancy(film), None))
    assert sorted(still.groupby("defect").size()) == [6, 6]
    step = np.hypot(still["step_y_nm"], still["step_x_nm"])
    assert step[still["kind"] == "vacancy"].max() < 0.3
    assert np.hypot(carried["step_y_nm"], carried["step_x_nm"])[carried["kind"] == "vacancy"].min() > 2.0
    core = still[still["kind"] == "dislocation"]
    assert core["glide_nm"].sum() == pytest.approx(0.0, abs=0.4 * A)  # it jumps between the triangles of its core
    later = found.assign(frame=found["frame"] + 100)
    with pytest.raises(ValueError, match="has no frame 10"):
        follow_defects(later, A, motion=site_occupancy(film))


# --- particles with a direction ---


def test_prisms_that_point_up_and_down_on_one_lattice_are_orientational_twins():
    points = crystal()
    side = (points - CENTER) @ unit(ANGLE + 90) > 1.0
    rng = np.random.default_rng(0)
    prisms = np.where(side, ANGLE + 30, ANGLE + 90) + 2.0 * rng.standard_normal(len(points))
    domain, pairs = orientational_twins(points, prisms, symmetry=3)
    assert len(np.unique(domain)) == 2
    assert len(np.unique(domain[side])) == 1
    assert pairs["twin"].tolist() == [True]
    assert abs(pairs["turn_deg"][0]) == pytest.approx(60.0, abs=1.0)
    lopsided = np.where(side, ANGLE + 30, ANGLE + 30 + 37.0)
    assert orientational_twins(points, lopsided, symmetry=3, angle=5.0)[1]["twin"].tolist() == [False]
    alike = orientational_twins(points, np.full(len(points), 12.0), symmetry=3)
    assert (alike[0] == 0).all()
    assert alike[1].empty
    with pytest.raises(ValueError, match="1 orientations for"):
        orientational_twins(points, [1.0], symmetry=3)
    with pytest.raises(ValueError, match="symmetry must be 1 or more"):
        orientational_twins(points, prisms, symmetry=0)
