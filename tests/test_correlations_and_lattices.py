"""Order: lattices, strain, registry and Moiré period against simulated values, also at edges."""

import numpy as np
import pandas as pd
import pytest

from moirelib.analysis import (
    REGISTRY,
    edge_particles,
    find_grains,
    fit_lattice,
    fit_moire,
    hexatic_correlation,
    lattice_table,
    local_lattices,
    moire_table,
    radial_distribution,
    registry,
    strain_map,
)
from moirelib.analysis.frame_tables import tabulate_frames
from moirelib.crystal import (
    Mesh,
    coincidence_period,
    commensurate_angles,
    hexagonal_lattice,
    hexatic,
    moire_period,
    neighbour_spacing,
)
from moirelib.simulation import dislocation_displacement, grain_boundary, twin_boundary
from moirelib.tables import layers_by_frame

A = 20.0  # nm
CENTER = (300.0, 280.0)


def crystal(angle=7.0, radius=200.0, noise=0.0, seed=0, center=CENTER, spacing=A):
    points = hexagonal_lattice(spacing, angle, center, radius)
    return points + noise * np.random.default_rng(seed).standard_normal(points.shape)


def turned(points, degrees, about=CENTER):
    """Turned from x towards y."""
    t = np.radians(degrees)
    y, x = (np.asarray(points) - about).T
    return np.stack([y * np.cos(t) + x * np.sin(t), x * np.cos(t) - y * np.sin(t)], axis=1) + about


def off(angle, other, period=60.0):
    return abs((angle - other + period / 2) % period - period / 2)


def pair(twist, offset=(0.0, 0.0), other_spacing=A, radius=180.0, noise=0.0):
    first = crystal(4.0, radius + 60, noise, 1)
    return first, crystal(4.0 + twist, radius, noise, 2, np.add(CENTER, offset), other_spacing)


# --- neighbours and bonds ---


@pytest.mark.parametrize("noise", [0.0, 0.6, 1.2])
def test_spacing_is_not_made_smaller_by_scatter(noise):
    assert neighbour_spacing(crystal(noise=noise)) == pytest.approx(A, rel=0.004)


def test_psi6_is_one_at_the_edge_and_beside_a_vacancy_and_points_along_the_rows():
    points = crystal(11.0)
    points = np.delete(points, np.hypot(*(points - CENTER).T).argmin(), axis=0)
    psi6 = hexatic(points)
    np.testing.assert_allclose(np.abs(psi6), 1.0, atol=1e-5)
    assert np.max(off(np.degrees(np.angle(psi6)) / 6, 11.0)) < 1e-3


def test_psi6_turns_with_the_crystal_and_is_small_in_a_random_arrangement():
    points = crystal(noise=0.5)
    turn = hexatic(turned(points, 5.0)) / hexatic(points)
    np.testing.assert_allclose(turn, np.exp(6j * np.radians(5.0)), atol=1e-4)
    random = np.random.default_rng(0).uniform(0, 400, (600, 2))
    assert np.nanmean(np.abs(hexatic(random, spacing=17.0))) < 0.6
    assert np.isnan(hexatic(np.array([[0.0, 0.0], [0.0, 500.0]]), A)).all()


def test_g6_stays_in_a_crystal_and_falls_across_a_boundary():
    one = crystal(noise=0.5)
    two, _ = grain_boundary(A, 0.0, 30.0, 90.0, CENTER, 200.0)
    far = [hexatic_correlation(p, hexatic(p), 250.0, 10.0).query("r_nm > 200")["g6"].mean() for p in (one, two)]
    assert far[0] > 0.95
    assert far[1] < 0.0  # grains 30° apart have opposite ψ6


def test_random_points_have_a_flat_distribution_function_up_to_any_edge():
    rng = np.random.default_rng(3)
    points = rng.uniform(-200, 200, (4000, 2))
    points = points[(np.hypot(*points.T) < 200) & ((points[:, 0] > 0) | (points[:, 1] > 0))]
    g = radial_distribution(points, 250.0, 10.0, spacing=12.0)
    assert np.abs(g["g"][1:] - 1).max() < 0.05


def test_distribution_function_peaks_at_the_shells_of_the_lattice():
    g = radial_distribution(crystal(noise=0.3), 45.0, 1.0)
    peaks = [g.loc[g["g"].where((g["r_nm"] - r).abs() < 2.5).idxmax(), "r_nm"] for r in (A, np.sqrt(3) * A, 2 * A)]
    np.testing.assert_allclose(peaks, [A, np.sqrt(3) * A, 2 * A], atol=0.8)
    gaps = g.query("5 < r_nm < 17 or 23 < r_nm < 31")["g"]
    assert gaps.max() < 0.01


def test_edge_particles_are_those_of_the_rim_and_not_those_around_a_vacancy():
    points = crystal(0.0, 300.0)
    y, x = np.abs(points - CENTER).T
    points = points[(y < 120) & (x < 160)]
    y, x = np.abs(points - CENTER).T
    rim, inner = y > y.max() - 1e-6, (y < 120 - A) & (x < 160 - A)  # close-packed rows above and below
    holed = np.delete(points, np.hypot(*(points - CENTER).T).argmin(), axis=0)
    edge = edge_particles(points)
    assert edge[rim].all()
    assert not edge[inner].any()
    assert edge_particles(holed).sum() == edge.sum()
    assert edge_particles(np.array([[0.0, 0.0], [0.0, A], [0.0, 9 * A]]), A).all()


# --- grains and lattices ---


@pytest.mark.parametrize("angle", [0.0, 17.0, 59.0])
def test_lattice_vectors_are_recovered_exactly_from_a_perfect_crystal(angle):
    fit = fit_lattice(crystal(angle))
    assert fit.spacing == pytest.approx(A, abs=1e-9)
    assert off(fit.angle, angle) < 1e-9
    np.testing.assert_allclose(np.hypot(*fit.vectors.T), A, atol=1e-9)
    assert fit.vectors[0] @ fit.vectors[1] == pytest.approx(A * A / 2)
    points = crystal(angle)
    np.testing.assert_allclose(fit.origin + fit.index @ fit.vectors, points, atol=1e-8)


def test_error_bars_of_lattices_are_honest():
    fits = [fit_lattice(crystal(noise=0.6, seed=k, radius=120.0)) for k in range(150)]
    z = np.array([((f.spacing - A) / f.spacing_std, (f.angle - 7.0) / f.angle_std) for f in fits])
    assert np.all(np.abs(z.std(axis=0) - 1) < 0.2)
    assert np.all(np.abs(z.mean(axis=0)) < 0.3)
    assert np.mean([f.residual_std for f in fits]) == pytest.approx(0.6, rel=0.05)


def test_errors_grow_where_the_lattice_is_bent():
    points = crystal(noise=0.2)
    bent = points + 3.0 * np.sin((points[:, :1] - 100) / 60.0) * [0.0, 1.0]
    assert fit_lattice(bent).angle_std > 4 * fit_lattice(points).angle_std


@pytest.mark.parametrize("turn", [5.0, 12.0, 21.0, 30.0])
def test_two_grains_are_found_with_their_misorientation(turn):
    points, truth = grain_boundary(A, 3.0, turn, 40.0, CENTER, 230.0)
    points = points + 0.5 * np.random.default_rng(1).standard_normal(points.shape)
    grain = find_grains(points)
    normal = [np.cos(np.radians(40.0)), -np.sin(np.radians(40.0))]
    side = ((points - CENTER) @ normal > 0).astype(int)
    assert grain.max() == 1
    assert max(np.mean(grain == side), np.mean(grain == 1 - side)) > 0.96
    angles = lattice_table(pd.DataFrame(points, columns=["y_nm", "x_nm"]).assign(frame=0, layer=1))["angle_deg"]
    assert off(abs(angles[0] - angles[1]), turn) < 0.1


def test_particles_beside_a_boundary_belong_to_the_lattice_they_sit_on():
    wrong = []
    for seed in range(12):
        turn, inclination = 8.0 + 2 * seed, 25.0 * seed
        points, _ = grain_boundary(A, 3.0, turn, inclination, CENTER, 200.0)
        normal = [np.cos(np.radians(inclination)), -np.sin(np.radians(inclination))]
        side = ((points - CENTER) @ normal > 1e-6).astype(int)
        grain = find_grains(points + 0.3 * np.random.default_rng(seed).standard_normal(points.shape))
        wrong.append(min(np.sum(grain != side), np.sum(grain != 1 - side)))
    assert np.mean(wrong) < 0.5  # of some 360 particles; sites of both lattices may coincide


def test_a_dislocation_does_not_turn_the_mean_lattice():
    core = np.array(CENTER) + [63.0, -41.0]
    crystals = crystal(0.0, noise=0.2)
    burgers = A * np.array([np.sin(np.radians(60.0)), np.cos(np.radians(60.0))])
    points = crystals + dislocation_displacement(crystals, core, burgers)
    fit = fit_lattice(points)
    rows = np.degrees(np.angle(np.nansum(hexatic(points)))) / 6
    assert off(fit.angle, rows) < 0.1
    assert off(fit.angle, rows) < fit.angle_std
    assert fit.angle_std > 3 * fit_lattice(crystals).angle_std


@pytest.mark.parametrize("toward_edge", [80.0, 100.0])
def test_a_lone_dislocation_does_not_cut_a_corner_off(toward_edge):
    square = crystal(0.0, radius=300.0, noise=0.3)
    for seed in range(24):  # every direction of the Burgers vector, at several places beside a corner
        core = np.array(CENTER) + toward_edge + np.random.default_rng(seed).uniform(-10, 10, 2)
        t = np.radians(60.0 * seed)
        points = square + dislocation_displacement(square, core, A * np.array([np.sin(t), np.cos(t)]))
        points = points[np.all(np.abs(points - CENTER) < 150.0, axis=1)]
        assert find_grains(points).max() == 0


def test_slow_bending_strain_and_a_missing_tenth_do_not_divide_a_crystal():
    rng = np.random.default_rng(5)
    points = crystal(noise=0.6)
    points = points + 4.0 * np.sin((points[:, ::-1] - 100) / 110.0)  # rows bend by ±2°
    assert find_grains(points[rng.random(len(points)) > 0.1]).max() == 0


def test_too_few_particles_are_no_grain_and_no_lattice():
    assert (find_grains(crystal(radius=25.0)) == -1).all()
    with pytest.raises(ValueError, match="at least 6 particles in one piece"):
        fit_lattice(crystal(radius=20.5)[:5])
    with pytest.raises(ValueError, match="at least 4 particles that do not lie on a line"):
        neighbour_spacing(np.stack([np.arange(9.0), np.zeros(9)], axis=1))
    with pytest.raises(ValueError, match=r"shape \(n, 2\)"):
        hexatic(np.zeros((4, 3)))
    with pytest.raises(ValueError, match="1 positions are not finite"):
        fit_lattice(np.array([[0.0, np.nan], [1.0, 2.0], [3.0, 1.0], [0.0, 1.0]]))
    with pytest.raises(ValueError, match="no column layer"):
        lattice_table(pd.DataFrame({"frame": [0], "y_nm": [0.0], "x_nm": [0.0]}))


def test_particles_on_a_line_are_no_grain_and_cover_nothing():
    line = CENTER + np.arange(20.0)[:, None] * [0.0, A]
    for spacing in (None, A):
        assert (find_grains(line, spacing) == -1).all()
        assert (registry(crystal(), line, spacing)["registry"] == "").all()
        with pytest.raises(ValueError, match="do not lie on a line"):
            strain_map(line, spacing=spacing)


def test_what_cannot_be_meant_is_refused():
    points = crystal(radius=60.0)
    for call in (
        registry,
        lambda p, q, grain: strain_map(q, grain=grain),
        lambda p, q, grain: local_lattices(q, grain=grain),
    ):
        with pytest.raises(ValueError, match=f"2 grains for {len(points)} positions"):
            call(points, points, grain=[0, 1])
    for call in (
        lambda r, w: radial_distribution(points, r, w),
        lambda r, w: hexatic_correlation(points, hexatic(points), r, w),
    ):
        for r_max, bin_width in ((50.0, 0.0), (-1.0, 5.0)):
            with pytest.raises(ValueError, match="must be positive"):
                call(r_max, bin_width)
    with pytest.raises(ValueError, match="1 positions are not finite"):
        registry(points[:1] * np.nan, points)


# --- strain ---


def test_uniform_strain_and_rotation_are_recovered_everywhere_edge_included():
    points = crystal()
    reference = fit_lattice(points)
    t, e = np.radians(1.5), np.array([[0.02, 0.004], [0.004, -0.01]])  # (y, x)
    rotate = np.array([[np.cos(t), np.sin(t)], [-np.sin(t), np.cos(t)]])  # x towards y
    moved = (points - CENTER) @ (np.eye(2) + e).T @ rotate.T + CENTER
    found = strain_map(moved, reference).dropna()
    assert len(found) > 0.98 * len(points)
    assert found["edge"].sum() > 30
    for name, value in (("strain_yy", 0.02), ("strain_xx", -0.01), ("strain_yx", 0.004), ("rotation_deg", 1.5)):
        np.testing.assert_allclose(found[name], value, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(found["dilatation"], np.linalg.det(np.eye(2) + e) - 1, atol=1e-6)


def test_strain_is_counted_from_each_grains_own_lattice():
    points, _ = grain_boundary(A, 3.0, 12.0, 40.0, CENTER, 230.0)
    found = strain_map(points)
    assert found["rotation_deg"].abs().max() < 0.5
    assert found["shear"].max() < 0.01


def test_error_of_strain_is_honest_away_from_the_edge():
    found = pd.concat([strain_map(crystal(noise=0.4, seed=k)) for k in range(4, 10)])
    inner = found[found["neighbours"] == 6]
    expected = inner["strain_std"].mean()
    one = {"rotation_deg": 180 / np.pi, "dilatation": 2.0, "strain_yx": 1.0}
    for name, factor in (one | {"strain_yy": np.sqrt(2), "strain_xx": np.sqrt(2)}).items():
        assert inner[name].std() / (factor * expected) == pytest.approx(1, abs=0.12), name


def test_local_lattices_need_neighbours_in_different_directions():
    row = np.stack([np.zeros(8), A * np.arange(8)], axis=1)
    other = crystal(0.0, 60.0, center=(400.0, 400.0))
    local = local_lattices(np.concatenate([row, other]), A)
    assert not local.good[:8].any()
    assert local.good[8:].all()
    np.testing.assert_allclose(np.abs(local.q[8:]), A, atol=1e-6)


# --- two layers ---


@pytest.mark.parametrize("sigma", [7, 13, 19])
def test_commensurate_twist_has_the_moire_and_coincidence_periods_of_geometry(sigma):
    table = commensurate_angles(sigma).set_index("sigma")
    twist = float(table.loc[sigma, "twist_deg"])
    assert twist == pytest.approx({7: 21.787, 13: 27.796, 19: 13.174}[sigma], abs=1e-3)
    first, second = pair(twist)
    moire = fit_moire(first, second)
    assert moire.twist == pytest.approx(twist, abs=1e-6)
    assert moire.period == pytest.approx(A / (2 * np.sin(np.radians(twist) / 2)), rel=1e-6)
    on = registry(second, first)
    top = second[on["coordinate"].to_numpy() > 3 - 1e-6]
    assert len(top) / len(second) == pytest.approx(1 / sigma, rel=0.25)  # one site in Σ coincides
    assert neighbour_spacing(top) == pytest.approx(coincidence_period(A, sigma), rel=1e-6)


@pytest.mark.parametrize(("twist", "other"), [(3.0, A), (-8.0, A), (16.0, 20.6), (28.0, 19.5), (0.0, 21.5)])
def test_measured_moire_period_agrees_with_the_formula(twist, other):
    first, second = pair(twist, (3.0, -5.0), other, noise=0.3)
    moire = fit_moire(first, second)
    expected = moire_period(A, twist, other)
    assert moire.formula == pytest.approx(expected, abs=4 * moire.formula_std)
    assert moire.period == pytest.approx(expected, abs=4 * moire.period_std)
    assert moire.period_std < 0.02 * expected
    assert off(moire.rotation, twist) < 4 * moire.twist_std


def test_a_layer_that_gave_way_shows_in_the_period_only_where_it_is_measured():
    # Where the rows of layer 2 follow those of layer 1, the local twist is smaller than that of the mean lattices.
    first, second = pair(4.0, radius=240.0)
    middle = np.hypot(*(second - CENTER).T) < 90.0
    second = np.where(middle[:, None], turned(second, -1.0), second)
    local = fit_moire(first, second[middle])
    assert local.twist == pytest.approx(3.0, abs=0.01)
    assert local.period == pytest.approx(moire_period(A, 3.0), rel=0.02)


def test_offset_points_to_a_place_where_the_lattices_coincide():
    first, second = pair(6.0, (4.0, -7.0))
    moire = fit_moire(first, second)
    place = moire.center + moire.offset
    fits = [fit_lattice(p) for p in (first, second)]
    # A top position of the Moiré lattice need not be a site, but both lattices have the same phase there.
    phases = []
    for fit, turn in zip(fits, (0.0, moire.rotation), strict=True):
        t = np.radians(fits[0].angle + turn + 30 + 60 * np.arange(3))
        wave = 4 * np.pi / np.sqrt(3) / fit.spacing * np.stack([np.sin(t), np.cos(t)], axis=1)
        phases.append(wave @ (place - fit.origin))
    np.testing.assert_allclose(np.exp(1j * (phases[0] - phases[1])), 1, atol=1e-6)


def test_registry_of_the_high_symmetry_places():
    first = crystal(0.0)
    row, diagonal = np.array([0.0, A]), A * np.array([np.sin(np.pi / 3), np.cos(np.pi / 3)])
    places = {"top": 0 * row, "bridge": diagonal / 2, "hollow": (row + diagonal) / 3}
    points = np.array([CENTER + shift for shift in places.values()])
    found = registry(points, first)
    assert found["registry"].tolist() == list(places)
    np.testing.assert_allclose(found["coordinate"], [REGISTRY[name] for name in places], atol=1e-9)
    np.testing.assert_allclose(np.hypot(found["offset_y_nm"], found["offset_x_nm"]), [0, A / 2, A / np.sqrt(3)])


def test_registry_offset_leads_from_the_nearest_site_to_the_point():
    first = crystal(23.0)
    points = first[::7] + [3.0, -1.5]
    inner = np.hypot(*(points - CENTER).T) < 170.0
    found = registry(points[inner], first)
    np.testing.assert_allclose(found["offset_y_nm"], 3.0, atol=1e-9)
    np.testing.assert_allclose(found["offset_x_nm"], -1.5, atol=1e-9)


def test_registry_is_not_known_beyond_the_other_layer_but_over_its_vacancies():
    first = crystal()
    hole = np.hypot(*(first - CENTER).T).argmin()
    over = registry(np.array([first[hole], (300.0, 700.0)]), np.delete(first, hole, axis=0))
    assert over["registry"].tolist() == ["top", ""]
    assert np.isnan(over["coordinate"][1])
    assert (registry(first, first[:3])["registry"] == "").all()


def test_registry_moves_and_turns_with_both_layers():
    first, second = pair(9.0, (2.0, 3.0), noise=0.3)
    before = registry(second, first)["coordinate"]
    after = registry(turned(second, 37.0) + 5, turned(first, 37.0) + 5)["coordinate"]
    mirrored = registry(second * [1, -1], first * [1, -1])["coordinate"]
    np.testing.assert_allclose(after, before, atol=1e-6)
    np.testing.assert_allclose(mirrored, before, atol=1e-6)


def test_tables_of_a_movie_have_a_row_for_each_layer_and_frame():
    rows = []
    for frame in range(3):
        for layer, points in enumerate(pair(5.0 + frame, noise=0.3), start=1):
            if (frame, layer) != (2, 2):  # no second layer in the last frame
                rows.append(pd.DataFrame(points, columns=["y_nm", "x_nm"]).assign(frame=frame, layer=layer))
    particles = pd.concat(rows, ignore_index=True)
    lattices, moire = lattice_table(particles), moire_table(particles)
    assert lattices[["frame", "layer"]].to_numpy().tolist() == [[0, 1], [0, 2], [1, 1], [1, 2], [2, 1]]
    assert (lattices["grain"] == 0).all()
    assert moire["frame"].tolist() == [0, 1]
    np.testing.assert_allclose(moire["twist_deg"], [5.0, 6.0], atol=0.1)
    one = particles.query("frame == 1")
    fit = fit_lattice(one.query("layer == 1")[["y_nm", "x_nm"]].to_numpy())
    assert lattices.query("frame == 1 and layer == 1")["spacing_nm"].item() == pytest.approx(fit.spacing)
    empty = particles.iloc[:0]
    assert lattice_table(empty).empty
    assert moire_table(empty).empty


def test_a_layer_with_a_twin_boundary_has_two_rows_a_sigma_angle_apart():
    points, truth = twin_boundary(A, 10.0, 7, CENTER, 230.0)
    table = lattice_table(pd.DataFrame(points, columns=["y_nm", "x_nm"]).assign(frame=0, layer=1))
    assert table["grain"].tolist() == [0, 1]
    assert off(*table["angle_deg"]) == pytest.approx(truth.misorientation, abs=0.02)


def test_all_tables_of_a_frame_share_one_triangulation_of_each_layer(monkeypatch):
    made, build = [], Mesh.__init__
    monkeypatch.setattr(Mesh, "__init__", lambda mesh, *given: (made.append(mesh), build(mesh, *given))[1])
    layers = crystal(7.0), crystal(16.0, radius=120.0)
    tables = [pd.DataFrame({"layer": k, "y_nm": p[:, 0], "x_nm": p[:, 1]}) for k, p in enumerate(layers, start=1)]
    found = tabulate_frames(layers_by_frame(pd.concat(tables, ignore_index=True).assign(frame=3)))
    assert len(made) == 2
    assert found["lattice"]["spacing_nm"].to_numpy() == pytest.approx(A)
    assert found["moire"]["twist_deg"].to_numpy() == pytest.approx(9.0)
    assert found["defects"].empty
    assert found["boundaries"].empty
