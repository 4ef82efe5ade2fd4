"""Growth: only attachment and detachment give events, no other change in a movie does."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from moirelib import plot
from moirelib.analysis import (
    defect_numbers,
    fit_relaxation,
    front_table,
    front_velocity,
    growth_events,
    growth_rate,
    registry,
    relative_motion,
    site_occupancy,
    site_preference,
    size_table,
)
from moirelib.analysis.growth import _test_choices
from moirelib.crystal import hexagonal_lattice
from moirelib.simulation import Layer, growth_schedule
from moirelib.validation import score_events

A, SIZE, FRAMES = 20.0, 300.0, 50  # nm, nm, frames
FIELD, CENTER = (SIZE, SIZE), np.array([SIZE / 2, SIZE / 2])


def crystal(radius, angle=5.0):
    points = hexagonal_lattice(A, angle, CENTER, radius)
    return Layer(points, np.full(len(points), 15.0), A, angle)


def table_of(positions, presence, layer=1, first=0):
    """Perfect tracks: positions (n, 2) or (t, n, 2), presence (t, n)."""
    t, k = np.nonzero(presence)
    points = positions[t, k] if np.ndim(positions) == 3 else positions[k]
    return pd.DataFrame({"frame": t, "particle": first + k, "layer": layer, "y_nm": points[:, 0], "x_nm": points[:, 1]})


def seen(table, miss=0.03, false=0.01, noise=0.4, seed=0):
    """Tracks with misses, false finds and noise, cut off by the field."""
    rng = np.random.default_rng(seed)
    table = table[rng.random(len(table)) > miss]
    n = rng.poisson(false * len(table))
    some = table.iloc[rng.integers(len(table), size=n)]
    wrong = some.assign(particle=-1, y_nm=rng.uniform(0, SIZE, n), x_nm=rng.uniform(0, SIZE, n))
    table = pd.concat([table, wrong], ignore_index=True)
    table[["y_nm", "x_nm"]] += noise * rng.standard_normal((len(table), 2))
    return table[table[["y_nm", "x_nm"]].ge(0).all(axis=1) & table[["y_nm", "x_nm"]].le(SIZE).all(axis=1)]


@pytest.fixture(scope="module")
def movie():
    """A base that stays, an island that grows and loses particles; tracks as seen, truth, occupancy."""
    base, island = crystal(230.0), crystal(110.0, 13.0)
    there, truth = growth_schedule(island, FRAMES, np.random.default_rng(5), 0.3, 0.9, 0.002)
    tables = [
        table_of(base.positions, np.ones((FRAMES, len(base)), bool)),
        table_of(island.positions, there, 2, 1000),
    ]
    table = seen(pd.concat(tables, ignore_index=True))
    return table, truth.assign(layer=2), there, site_occupancy(table, FIELD)


def test_events_of_a_growing_island_are_found(movie):
    _, truth, _, occupancy = movie
    score = score_events(growth_events(occupancy), truth, A / 2, 2, truth["frame"].between(2, FRAMES - 3))
    assert score["true"] > 50
    assert score["recall"] >= 0.93
    assert score["precision"] >= 0.95


def test_a_static_crystal_with_misses_and_false_finds_has_no_events():
    whole = crystal(100.0)
    table = table_of(whole.positions, np.ones((FRAMES, len(whole)), bool))
    for seed in range(3):
        assert len(growth_events(seen(table, 0.03, 0.02, seed=seed), FIELD)) == 0


def test_the_rim_of_an_island_counts_where_the_field_is_unknown():
    island = crystal(90.0)
    there, truth = growth_schedule(island, FRAMES, np.random.default_rng(3), 0.6, 1.0)
    table = table_of(island.positions, there)
    score = score_events(growth_events(table), truth.assign(layer=1), A / 2, 2, truth["frame"].between(2, FRAMES - 3))
    assert score["recall"] >= 0.97
    assert score["precision"] >= 0.97


def test_particles_cut_off_by_an_unknown_field_do_not_come_and_go_with_the_drift():
    whole = crystal(260.0)
    walk = np.cumsum(np.random.default_rng(0).normal(0, 1.5, (FRAMES, 1, 2)), axis=0)
    table = seen(table_of(whole.positions + walk, np.ones((FRAMES, len(whole)), bool)), 0.0, 0.0)
    assert len(growth_events(table)) <= 2


def test_final_less_initial_number_is_attachments_less_detachments(movie):
    table, _, there, occupancy = movie
    events = growth_events(occupancy)
    for layer, sizes in size_table(occupancy).groupby("layer"):
        kinds = events.loc[events["layer"] == layer, "event"].value_counts()
        change = sizes["number"].iloc[-1] - sizes["number"].iloc[0]
        carried = sizes["carried"].iloc[-1]  # none of the island; a border site of the base may be jolted out of view
        assert change == kinds.get("attachment", 0) - kinds.get("detachment", 0) + carried
        assert carried == 0 or layer == 1
    sizes = size_table(occupancy).query("layer == 2")
    assert np.abs(sizes["number"].to_numpy() - there.sum(axis=1)).max() <= 2
    assert events["layer"].eq(2).any()


def test_free_edge_sites_are_those_around_the_island_filled_later_or_never():
    sites = crystal(3.1 * A).positions  # a hexagon of 37 sites, with 24 around it
    table = table_of(sites, np.ones((6, len(sites)), bool))
    sizes = size_table(site_occupancy(seen(table, miss=0, false=0), FIELD))
    assert (sizes["free_edge_sites"] == 24).all()


def test_drift_carries_particles_through_the_field_without_events():
    whole = crystal(260.0)
    drift = np.arange(FRAMES)[:, None, None] * [1.5, -1.0]  # 75 and 50 nm: several rows leave and enter
    table = seen(table_of(whole.positions + drift, np.ones((FRAMES, len(whole)), bool)))
    occupancy = site_occupancy(table, FIELD)
    assert len(growth_events(occupancy)) == 0
    assert (~occupancy[1].visible).any(axis=0).sum() > 30
    np.testing.assert_allclose(occupancy[1].drift[-1], [73.5, -49.0], atol=1.0)
    sizes = size_table(occupancy)
    balance = sizes["number"] - sizes["number"].iloc[0] - sizes["attached"] + sizes["detached"] - sizes["carried"]
    assert not balance.any()


def test_rotation_of_the_stage_makes_no_events():
    whole = crystal(120.0)
    t = np.radians(0.4 * np.arange(FRAMES))  # the edge moves by 2.5 spacings
    turn = np.moveaxis(np.array([[np.cos(t), np.sin(t)], [-np.sin(t), np.cos(t)]]), -1, 0)
    moved = np.einsum("tij,nj->tni", turn, whole.positions - CENTER) + CENTER
    occupancy = site_occupancy(seen(table_of(moved, np.ones((FRAMES, len(whole)), bool))), FIELD)
    assert len(growth_events(occupancy)) == 0
    assert occupancy[1].rotation[-1] == pytest.approx(0.4 * (FRAMES - 1), abs=0.3)


def test_broken_and_missing_tracks_make_no_events():
    whole = crystal(100.0)
    table = seen(table_of(whole.positions, np.ones((FRAMES, len(whole)), bool)))
    broken = table.assign(particle=np.where(table["particle"] < 0, -1, table["particle"] + 500 * (table["frame"] // 7)))
    assert len(growth_events(broken, FIELD)) == 0
    assert len(growth_events(table.assign(particle=-1), FIELD)) == 0


def test_one_particle_that_leaves_and_returns_is_one_detachment_and_one_attachment():
    whole = crystal(90.0)
    there = np.ones((FRAMES, len(whole)), bool)
    rim = int(np.argmax(whole.positions @ [1, 0]))
    there[20:38, rim] = False
    events = growth_events(seen(table_of(whole.positions, there), 0.0, 0.0), FIELD)
    assert list(events["event"]) == ["detachment", "attachment"]
    assert list(events["frame"]) == [20, 38]
    assert list(events["particle"]) == [rim, rim]
    np.testing.assert_allclose(events[["y_nm", "x_nm"]], np.tile(whole.positions[rim], (2, 1)), atol=0.6)


def test_coordination_counts_the_neighbours_and_registry_the_place_on_the_other_layer():
    base = crystal(95.0, 0.0)
    a1, a2 = A * np.array([0.0, 1.0]), A * np.array([np.sqrt(0.75), 0.5])
    places = {"top": 0 * a1, "bridge": a1 / 2, "hollow": (a1 + a2) / 3}
    for place, shift in places.items():
        second = hexagonal_lattice(A, 0.0, CENTER + shift, 55.0)
        there = np.ones((20, len(second)), bool)
        center = np.argmin(np.hypot(*(second - second.mean(axis=0)).T))
        there[:9, center] = False
        tables = table_of(base.positions, np.ones((20, len(base)), bool)), table_of(second, there, 2, 900)
        events = growth_events(seen(pd.concat(tables, ignore_index=True), 0.0, 0.0), FIELD)
        assert events[["frame", "coordination", "registry"]].to_numpy().tolist() == [[9, 6, place]]


def test_rate_interval_is_the_exact_one_of_a_poisson_count():
    events = pd.DataFrame({"frame": [5, 6, 9], "layer": 2, "event": "attachment"})
    rates = growth_rate(events, np.arange(11), frame_time=0.5).set_index("event")
    assert rates.loc["attachment", "rate"] == pytest.approx(3 / 5)
    np.testing.assert_allclose(
        rates.loc["attachment", ["low", "high"]].to_numpy(float) * 5, [0.6187, 8.7673], atol=1e-4
    )
    np.testing.assert_allclose(rates.loc["detachment", ["low", "high"]].to_numpy(float) * 5, [0, 3.6889], atol=1e-4)


def test_no_events_leave_an_upper_bound_of_the_rate():
    none = pd.DataFrame(columns=["frame", "layer", "event"])
    rates = growth_rate(none, np.arange(11), layers=[1, 2]).set_index(["layer", "event"])
    assert len(rates) == 6
    assert (rates["count"] == 0).all()
    np.testing.assert_allclose(
        rates.loc[(2, "attachment"), ["low", "high"]].to_numpy(float) * 10, [0, 3.6889], atol=1e-4
    )
    assert growth_rate(none, np.arange(11)).empty


def test_front_of_a_disk_moves_as_fast_as_its_radius():
    whole, velocity = crystal(115.0), 0.8
    radius = 50.0 + velocity * np.arange(FRAMES)
    there = np.hypot(*(whole.positions - CENTER).T) < radius[:, None]
    table = seen(table_of(whole.positions, there))
    fronts = front_table(site_occupancy(table, FIELD), 6, CENTER)
    found = front_velocity(fronts, frame_time=0.5)
    pd.testing.assert_frame_equal(found, front_velocity(fronts.iloc[::-1], frame_time=0.5))  # rows in any order
    mean, error = found["velocity_nm_per_s"].mean(), found["velocity_std_nm_per_s"].mean() / np.sqrt(6)
    assert len(found) == 6
    assert mean == pytest.approx(velocity / 0.5, abs=3 * error)
    assert error < 0.25 * velocity / 0.5


def test_front_that_left_the_field_has_no_place():
    whole = crystal(260.0)
    occupancy = site_occupancy(seen(table_of(whole.positions, np.ones((FRAMES, len(whole)), bool))), FIELD)
    assert front_table(occupancy)["radius_nm"].isna().all()


@pytest.mark.parametrize(("factor", "expected"), [(8.0, True), (1.0, False)])
def test_planted_preference_for_hollow_sites_is_told_from_none(factor, expected):
    base, island = crystal(230.0), crystal(130.0, 13.0)
    place = registry(island.positions, base.positions)["registry"]
    weight = np.where(place == "hollow", factor, 1.0)
    there, _ = growth_schedule(island, 30, np.random.default_rng(3), 0.2, 0.75, 0.0, weight)
    tables = table_of(base.positions, np.ones((30, len(base)), bool)), table_of(island.positions, there, 2, 2000)
    found = site_preference(site_occupancy(seen(pd.concat(tables, ignore_index=True)), FIELD))
    assert found.events > 30
    assert found.table["attached"].sum() == pytest.approx(found.table["expected"].sum())
    assert (found.p_value < 0.01) == expected
    assert (found.table.set_index("registry").loc["hollow", "low"] > 1) == expected


def test_test_choices_has_uniform_p_values_without_preference():
    rng = np.random.default_rng(0)
    p = []
    for _ in range(200):
        chance = rng.dirichlet([2, 2, 2], 30)
        pick = (rng.random(30)[:, None] > np.cumsum(chance, axis=1)[:, :-1]).sum(axis=1)
        p.append(_test_choices(np.eye(3)[pick], chance, 400, rng)[1])
    assert 0.02 <= np.mean(np.array(p) < 0.1) <= 0.18
    assert np.mean(p) == pytest.approx(0.5, abs=0.08)


def test_relaxation_is_recovered_and_not_invented():
    rng, t = np.random.default_rng(2), np.arange(80.0)
    z, invented = [], 0
    for _ in range(20):
        noise = 0.1 * rng.standard_normal(80)
        fit = fit_relaxation(t, 6.0 + 1.5 * np.exp(-t / 12) + noise)
        assert fit.supported
        z.append(
            ((fit.final - 6) / fit.final_std, (fit.amplitude - 1.5) / fit.amplitude_std, (fit.time - 12) / fit.time_std)
        )
        walk = np.cumsum(noise)
        invented += fit_relaxation(t, 6.0 + noise).supported + fit_relaxation(t, 6.0 + 0.01 * t + noise).supported
        assert np.isnan(fit_relaxation(t[:5], walk[:5]).time)
    assert invented <= 1
    np.testing.assert_allclose(np.sqrt(np.mean(np.square(z), axis=0)), 1.0, atol=0.45)


def test_relaxation_does_not_depend_on_the_order_of_the_values():
    rng, t = np.random.default_rng(4), np.arange(80.0)
    values = 6.0 + 1.5 * np.exp(-t / 12) + 0.05 * np.convolve(rng.standard_normal(82), np.ones(3), "valid")
    shuffled = rng.permutation(80)
    assert fit_relaxation(t[shuffled], values[shuffled]) == fit_relaxation(t, values)


def test_two_times_support_no_relaxation():
    fit = fit_relaxation([0, 0, 0, 0, 1, 1, 1, 1], [1, 1.1, 0.9, 1, 2, 2.1, 1.9, 2])
    assert not fit.supported
    assert fit.final == pytest.approx(1.5)


def test_a_layer_that_turns_on_the_other_is_followed():
    base, island = crystal(230.0), crystal(110.0, 13.0)
    turn = np.radians(1.5) * (np.exp(-np.arange(FRAMES) / 12) - 1)
    matrix = np.moveaxis(np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]), -1, 0)
    moved = np.einsum("tij,nj->tni", matrix, island.positions - CENTER) + CENTER
    tables = (
        table_of(base.positions, np.ones((FRAMES, len(base)), bool)),
        table_of(moved, np.ones((FRAMES, len(island)), bool), 2, 2000),
    )
    motion = relative_motion(site_occupancy(seen(pd.concat(tables, ignore_index=True)), FIELD))
    np.testing.assert_allclose(motion["twist_change_deg"], np.degrees(turn), atol=0.25)  # 0.04° each
    assert np.abs(motion[["offset_y_nm", "offset_x_nm"]].to_numpy()).max() < 0.6
    step = np.diff(motion["twist_change_deg"] - np.degrees(turn)).std() / np.sqrt(2)
    assert motion["twist_std_deg"].mean() == pytest.approx(step, rel=0.4)
    fit = fit_relaxation(motion["frame"], motion["twist_change_deg"], motion["twist_std_deg"])
    assert fit.supported
    assert fit.time == pytest.approx(12, abs=2)


def test_frames_without_defects_count_as_none():
    particles = pd.DataFrame({"frame": [0, 0, 1], "layer": 1})
    defects = pd.DataFrame({"frame": [0], "layer": [1], "kind": ["vacancy"]})
    table = defect_numbers(defects, particles).query("kind == 'vacancy'")
    assert table["number"].tolist() == [1, 0]
    assert table["per_particle"].tolist() == [0.5, 0.0]


def test_figures_draw_into_their_axes(movie):
    occupancy = movie[3]
    events = growth_events(occupancy)
    fronts = front_table(occupancy).query("layer == 2")
    _, axes = plt.subplots(1, 3)
    assert plot.show_sizes(size_table(occupancy), axes[0]) is axes[0]
    assert [len(line.get_xdata()) for line in axes[0].lines] == [FRAMES, FRAMES]
    assert plot.show_events(events, axes[1], occupancy[2].sites) is axes[1]
    assert sum(len(marks.get_offsets()) for marks in axes[1].collections) == len(events)
    assert plot.show_fronts(fronts, axes[2], every=20) is axes[2]
    assert len(axes[2].collections[0].get_segments()) == 3
    plt.close("all")


def test_bad_input_gives_one_clear_line(movie):
    table = movie[0]
    cases = [
        (lambda: growth_events(table.drop(columns="particle")), "no column particle"),
        (lambda: growth_events(table[table["frame"] < 2]), "at least 3 frames"),
        (lambda: growth_events(table.assign(y_nm=np.nan)), "y_nm in data row 1 is not a number"),
        (lambda: growth_events(table, (300.0,)), "height and width"),
        (lambda: growth_rate(pd.DataFrame(columns=["frame", "layer", "event"]), [1]), "at least two frames"),
        (lambda: site_preference({}), "both layers"),
        (lambda: relative_motion({}), "layers 1 and 2"),
        (lambda: front_table(movie[3], 2), "at least 3 directions"),
        (lambda: front_table(movie[3], center=(1.0, 2.0, 3.0)), r"center is \(y, x\)"),
        (lambda: front_velocity(pd.DataFrame({"frame": [0]})), "fronts has no column layer"),
        (lambda: defect_numbers(pd.DataFrame({"frame": [0]}), table), "defects has no column layer, kind"),
        (lambda: score_events(movie[1], table, 1.0), "true events has no column event"),
        (lambda: fit_relaxation([np.nan], [1.0]), "finite values"),
        (lambda: fit_relaxation([1, 2], [1]), "as many"),
        (lambda: growth_schedule(crystal(50.0), 5, np.random.default_rng(0), preference=[1.0]), "for each of"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message) as error:
            call()
        assert "\n" not in str(error.value)


def test_a_table_with_few_particles_has_no_layer():
    table = pd.DataFrame({"frame": [0, 1, 2], "particle": 0, "layer": 1, "y_nm": 5.0, "x_nm": 5.0})
    assert site_occupancy(table) == {}
    assert len(growth_events(table)) == 0
