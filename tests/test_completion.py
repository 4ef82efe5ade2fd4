"""Completion: the lattice expects, the frame decides."""

import numpy as np
import pandas as pd
import pytest
from drawn_frames import D, disks, rendered
from scipy.spatial import cKDTree

from moirelib.crystal import hexagonal_lattice
from moirelib.decomposition import (
    CompletionSettings,
    FrameFit,
    Imaging,
    assign_layers,
    complete,
    completion,
    settle_overlaps,
    site_odds,
    vacant_sites,
)
from moirelib.decomposition.completion import split_particles

SHAPE, MIDDLE = (160, 160), np.array([79.5, 79.5])
FIELD = (np.zeros(2), np.array(SHAPE) - 1.0)


def nearest(points, others):
    """Distance of each point to the nearest of the others."""
    return cKDTree(np.reshape(others, (-1, 2))).query(np.reshape(points, (-1, 2)))[0]


# --- Sites ---


def test_a_perfect_lattice_has_no_vacant_site():
    points = hexagonal_lattice(16.0, 7.0, MIDDLE, 160.0)
    assert len(vacant_sites(points, np.ones(len(points)), 16.0, *FIELD)) == 0


def test_a_removed_particle_leaves_one_vacant_site_where_it_was():
    rng = np.random.default_rng(0)
    points = hexagonal_lattice(16.0, 7.0, MIDDLE, 160.0)
    # A strain of 2 % bends rows; particles are displaced on top of that.
    points = points * [1.02, 0.98] + 0.3 * rng.standard_normal(points.shape)
    removed = np.argmin(np.hypot(*(points - [60.0, 90.0]).T))
    sites = vacant_sites(np.delete(points, removed, axis=0), np.ones(len(points) - 1), 16.0, *FIELD)
    assert len(sites) == 1
    assert sites["layer"].tolist() == [1]
    # Six rows predict it, each with the scatter √(2² + 1) · 0.3 px of its particles.
    assert nearest(points[removed], sites[["y", "x"]])[0] < 3 * np.sqrt(5 / 6) * 0.3


def test_each_layer_has_its_own_vacant_sites():
    one, other = hexagonal_lattice(16.0, 7.0, MIDDLE, 160.0), hexagonal_lattice(16.0, 20.0, MIDDLE + 5, 160.0)
    gone = [np.argmin(np.hypot(*(points - place).T)) for points, place in ((one, [50, 50]), (other, [100, 90]))]
    left = [np.delete(points, g, axis=0) for points, g in zip((one, other), gone, strict=True)]
    layer = np.repeat([1, 2], [len(points) for points in left])
    sites = vacant_sites(np.concatenate(left), layer, 16.0, *FIELD).sort_values("layer")
    assert sites["layer"].tolist() == [1, 2]
    np.testing.assert_allclose(sites[["y", "x"]], [one[gone[0]], other[gone[1]]], atol=1e-6)


def test_a_lattice_goes_on_beyond_its_rim_by_one_row():
    ideal = hexagonal_lattice(16.0, 7.0, MIDDLE, 100.0)
    flake = hexagonal_lattice(16.0, 7.0, MIDDLE, 40.0)
    sites = vacant_sites(flake, np.ones(len(flake)), 16.0, *FIELD)[["y", "x"]].to_numpy()
    outside = ideal[nearest(ideal, flake) > 1]
    on_a_row = cKDTree(flake).query_ball_point(outside, 16.1, return_length=True) >= 2
    assert nearest(sites, ideal).max() < 1e-6  # on sites only
    assert len(np.unique(sites.round(3), axis=0)) == len(sites)  # each of them once
    assert nearest(outside[on_a_row], sites).max() < 1e-6  # and every one that touches two particles


def test_sites_become_likelier_with_every_neighbour():
    shell = hexagonal_lattice(16.0, 7.0, MIDDLE, 16.5)
    shell = shell[np.hypot(*(shell - MIDDLE).T) > 1]
    far = MIDDLE + [40.0, 0.0]
    odds = [
        site_odds(MIDDLE[None], np.array([1]), np.concatenate([shell[:n], [far]]), np.ones(n + 1), 16.0)[0]
        for n in range(7)
    ]
    assert (np.diff(odds) > 0).all()
    assert odds == list(CompletionSettings().site_odds)


def test_neighbours_in_the_other_layer_and_the_particle_itself_do_not_count():
    points = hexagonal_lattice(16.0, 7.0, MIDDLE, 16.5)
    inner = np.argmin(np.hypot(*(points - MIDDLE).T))
    layer = np.where(np.arange(len(points)) == inner, 1, 2)
    assert site_odds(points[[inner]], np.array([1]), points, layer, 16.0)[0] == CompletionSettings().site_odds[0]
    assert (
        site_odds(points[[inner]], np.array([2]), points, np.full(7, 2), 16.0)[0] == CompletionSettings().site_odds[6]
    )


# --- What the frame says ---


def frame_of(points, rng, noise=10.0, contrast=0.5):
    """Particles that take half of the light, 300 counts and more towards the bottom."""
    frame = 300 + 0.3 * np.indices(SHAPE)[0]
    for point in points:
        frame = frame * (1 - contrast * (1 - disks([point], SHAPE)))
    return frame + noise * rng.standard_normal(SHAPE)


def table_of(points, layer=1, lattice_fit=3.0, score=0.9):
    table = pd.DataFrame({"channel": layer - 1, "layer": layer, "y": points[:, 0], "x": points[:, 1]})
    return table.assign(score=score, lattice_fit=lattice_fit, shown=False, diameter=np.nan)


def completed(frame, table, spacing=16.0, step=complete):
    fit = FrameFit.start(frame, table, D).fit()
    done = step(fit, fit.table(table), spacing)
    return done[1] if step is settle_overlaps else done


def in_frame(table):
    """Particles whose centre the frame holds; it cannot say much of those beyond its border."""
    yx = table[["y", "x"]].to_numpy()
    return yx[np.all((yx > 0) & (yx < 159), axis=1)]


@pytest.fixture(params=[0, 1, 2])
def half_covered(request):
    """A crystal that ends in the field's right half, with one vacant site; and two of its particles."""
    rng = np.random.default_rng(request.param)
    points = hexagonal_lattice(16.0, 7.0, MIDDLE, 160.0)
    points = points[np.all((points > -4) & (points < 163), axis=1) & (points[:, 1] < 110)]
    points = points + 0.3 * rng.standard_normal(points.shape)
    inner = np.flatnonzero(np.all((points > 30) & (points < [130, 85]), axis=1))
    vacant, missing = rng.choice(inner, 2, replace=False)
    there = np.delete(points, vacant, axis=0)
    return frame_of(there, rng), there, points[missing], points[vacant]


def test_a_particle_that_was_overlooked_is_added(half_covered):
    frame, there, missing, _ = half_covered
    done = completed(frame, table_of(there[nearest(there, missing) > 1]))
    new = done[done["channel"] == -1]
    new = new[nearest(new[["y", "x"]], there) < 5]
    assert nearest(missing, new[["y", "x"]])[0] < 1.0
    assert new["score"].min() > 0.99
    assert set(new["layer"]) == {1}
    assert nearest(there[np.all((there > 0) & (there < 159), axis=1)], done[["y", "x"]]).max() < 2


def test_a_vacancy_is_not_filled(half_covered):
    frame, there, _, vacant = half_covered
    assert len(vacant_sites(there, np.ones(len(there)), 16.0, vacant - 3, vacant + 3)) == 1  # although it is a site
    done = completed(frame, table_of(there))
    assert nearest(vacant, done[["y", "x"]])[0] > 8
    assert nearest(in_frame(done), there).max() < 2  # nor is anything put where the crystal has ended


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_false_particle_on_a_vacant_site_is_removed(seed):
    rng = np.random.default_rng(seed)
    points = hexagonal_lattice(16.0, 7.0, MIDDLE, 160.0)
    points = points[np.all((points > -4) & (points < 163), axis=1)]
    points = points + 0.3 * rng.standard_normal(points.shape)
    vacant = rng.choice(np.flatnonzero(np.all((points > 35) & (points < 125), axis=1)))
    there = np.delete(points, vacant, axis=0)
    done = completed(frame_of(there, rng), table_of(points))  # the lattice and the network are for it
    assert nearest(points[vacant], done[["y", "x"]])[0] > 10
    assert nearest(there[np.all((there > 0) & (there < 159), axis=1)], done[["y", "x"]]).max() < 2


@pytest.mark.parametrize("noise", [3.0, 10.0])
def test_the_frame_speaks_against_a_false_particle_that_is_dark_enough_for_one(noise):
    rng = np.random.default_rng(0)
    points = hexagonal_lattice(16.0, 7.0, MIDDLE, 160.0)
    points = points[np.all((points > -4) & (points < 163), axis=1)]
    vacant = np.argmin(np.hypot(*(points - [80, 65]).T))
    there = pd.DataFrame(np.delete(points, vacant, axis=0), columns=["y", "x"]).assign(diameter=D, depth=0.8)
    known = Imaging(0.5, blur=0.1, disk=0.2, tail=0.0)
    fit = FrameFit.start(rendered(there, known, rng, noise), table_of(points), D, known).fit()
    table = fit.table(table_of(points))
    assert table["depth"][vacant] > 0.4 * table["depth"].median()  # so that its faintness does not decide
    assert nearest(points[vacant], complete(fit, table, 16.0)[["y", "x"]])[0] > 10


def test_a_false_particle_in_the_open_is_removed(half_covered):
    frame, there, _, _ = half_covered
    nothing = np.array([80.0, 140.0])
    table = pd.concat([table_of(there), table_of(nothing[None], lattice_fit=0.0)], ignore_index=True)
    done = completed(frame, table)
    assert nearest(nothing, done[["y", "x"]])[0] > 10
    assert nearest(there[np.all((there > 0) & (there < 159), axis=1)], done[["y", "x"]]).max() < 2


def test_a_particle_on_no_site_is_kept_where_the_frame_shows_it(half_covered):
    frame, there, _, _ = half_covered
    adatom = np.array([80.0, 140.0])
    frame = frame * (1 - 0.5 * (1 - disks([adatom], SHAPE)))
    asked = pd.concat([table_of(there), table_of(adatom[None], lattice_fit=0.0, score=0.4)], ignore_index=True)
    assert nearest(adatom, completed(frame, asked)[["y", "x"]])[0] < 1
    found = completed(frame, table_of(there))  # and found where the network did not see it
    assert nearest(adatom, found[["y", "x"]])[0] < 2


def overlapping(seed, there, contrast):
    """A frame of two layers, and a site of the upper one over a particle of the lower: taken, or vacant."""
    rng = np.random.default_rng(seed)
    base = hexagonal_lattice(18.0, 7.0, MIDDLE, 160.0)
    base = base[np.all((base > -4) & (base < 163), axis=1)]
    island = hexagonal_lattice(18.0, 22.0, MIDDLE + rng.uniform(-5, 5, 2), 55.0)
    base, island = (points + 0.2 * rng.standard_normal(points.shape) for points in (base, island))
    distance = nearest(island, base)
    k = np.flatnonzero((distance > 2) & (distance < 5) & (np.hypot(*(island - MIDDLE).T) < 40))[0]
    rest = np.delete(island, k, axis=0)
    frame = frame_of(np.concatenate([base, island if there else rest]), rng, contrast=contrast)
    return frame, pd.concat([table_of(base), table_of(rest, 2)], ignore_index=True), island[k]


@pytest.mark.parametrize(("seed", "contrast"), [(0, 0.35), pytest.param(1, 0.7, marks=pytest.mark.slow)])
def test_a_site_over_a_particle_is_filled_only_where_the_frame_shows_two(seed, contrast):
    for there in (True, False):
        frame, table, site = overlapping(seed, there, contrast)
        assert nearest(site, table.loc[table["layer"] == 1, ["y", "x"]])[0] < D / 2
        done = completed(frame, table, 18.0, settle_overlaps)
        assert len(done) == len(table) + there
        upper = done.loc[done["layer"] == 2, ["y", "x"]]
        assert (nearest(site, upper)[0] < 0.6) if there else (nearest(site, upper)[0] > 12)


def test_one_particle_is_taken_for_two_only_where_the_frame_shows_two():
    """No lattice is asked: pairs found as one come apart, particles that are only larger do not."""
    rng = np.random.default_rng(4)
    places = np.array([(y, x) for y in 16.0 + 21 * np.arange(7) for x in 16.0 + 21 * np.arange(7)])
    apart, turn = np.linspace(0.05, 0.4, 7), rng.uniform(0, np.pi, 7)
    step = 0.5 * D * apart[:, None] * np.stack([np.sin(turn), np.cos(turn)], axis=1)
    points = np.concatenate([places[7:], places[:7] - step, places[:7] + step])
    size = np.where(np.arange(len(points)) < 7, 1.25, 1.0) * D * np.exp(0.03 * rng.standard_normal(len(points)))
    frame = np.full(SHAPE, 300.0)
    for point, width in zip(points, size, strict=True):
        frame *= 1 - 0.5 * (1 - disks([point], SHAPE, width))
    frame, seen = frame + 10 * rng.standard_normal(SHAPE), table_of(places)
    _, done = split_particles(FrameFit.start(frame, seen, D).fit(1), seen)
    assert len(done) == len(points)
    assert done["shown"].sum() == 14
    assert nearest(points, done[["y", "x"]]).max() < 0.25 * D


@pytest.mark.parametrize(("seed", "contrast"), [(0, 0.35), pytest.param(1, 0.7, marks=pytest.mark.slow)])
def test_two_found_upon_each_other_stay_two_only_where_the_frame_shows_two(seed, contrast):
    for there in (True, False):
        frame, table, site = overlapping(seed, there, contrast)
        table = pd.concat([table, table_of(site[None], 2)], ignore_index=True)
        done = completed(frame, table, 18.0, settle_overlaps)
        assert len(done) == len(table) - (not there)
        upper = done.loc[done["layer"] == 2, ["y", "x"]]
        assert (nearest(site, upper)[0] < 0.6) if there else (nearest(site, upper)[0] > 12)


def test_what_was_settled_is_not_asked_again_until_something_changes(monkeypatch):
    tried = []
    try_answer = completion.try_answer
    monkeypatch.setattr(completion, "try_answer", lambda *given: tried.append(len(given[3])) or try_answer(*given))
    frame, table, site = overlapping(0, False, 0.35)
    fit = FrameFit.start(frame, table, D).fit()
    fit, particles, settled = settle_overlaps(fit, fit.table(table), 18.0)
    assert tried
    asked = len(tried)
    again = settle_overlaps(fit, particles, 18.0, settled)[1]
    assert len(tried) == asked
    np.testing.assert_allclose(again[["y", "x"]], particles[["y", "x"]])
    changed = particles.drop(index=nearest(particles[["y", "x"]], site).argsort()[1])  # beside the site
    settle_overlaps(fit.with_particles(changed), changed.reset_index(drop=True), 18.0, settled)
    assert len(tried) > asked


def test_one_for_two_is_unusual_even_where_most_are_asked_for():
    # Three quarters of the base lie nearly under an island. Were sizes and depths compared with those of the answer
    # that is on trial, the dark ones would be the usual ones.
    rng = np.random.default_rng(5)
    base = hexagonal_lattice(18.0, 7.0, MIDDLE, 160.0)
    base = base[np.all((base > -4) & (base < 163), axis=1)]
    island = hexagonal_lattice(18.0, 7.0, MIDDLE, 80.0) + [0.6, 0.6]
    table = pd.concat([table_of(base), table_of(island, 2)], ignore_index=True)
    fit = FrameFit.start(frame_of(np.concatenate([base, island]), rng), table, D).fit(2)
    dark = nearest(base, island) < 2
    assert dark.mean() > 0.6
    inside = np.all((base > D) & (base < 159 - D), axis=1)  # at the border the frame says less of depths
    odd = fit.with_particles(table_of(base), in_rows=True).fit(2, shared=False).oddness()
    assert np.all(odd[dark & inside] > 6)
    assert np.median(odd[~dark]) < 2


def test_one_particle_found_as_two_on_both_sides_of_it_becomes_one():
    # Over a vacancy of the upper layer the two slide apart until the upper one is near its own site.
    frame, table, site = overlapping(0, False, 0.35)
    lower = table.index[(table["layer"] == 1)][nearest(table.loc[table["layer"] == 1, ["y", "x"]], site).argmin()]
    along = site - table.loc[lower, ["y", "x"]].to_numpy(float)
    along *= 0.4 * D / np.hypot(*along)
    table.loc[lower, ["y", "x"]] -= 0.5 * along
    half = table_of(table.loc[[lower], ["y", "x"]].to_numpy(float) + along, 2)
    done = completed(frame, pd.concat([table, half], ignore_index=True), 18.0, settle_overlaps)
    assert len(done) == len(table)
    assert not done.loc[nearest(done[["y", "x"]], site) < 0.5 * D, "shown"].any()


def test_two_that_the_frame_has_shown_are_both_kept_when_layers_are_named():
    frame, table, site = overlapping(0, True, 0.35)
    done = completed(frame, table, 18.0, settle_overlaps)
    here = nearest(done[["y", "x"]], site) < 0.5 * D
    assert done.loc[here, "shown"].tolist() == [True, True]
    # Known badly, the upper one is by its place none of its lattice, and would be dropped as a second find.
    upper = done.index[here & (done["layer"] == 2)]
    done.loc[upper, ["y", "x"]] = done.loc[here & (done["layer"] == 1), ["y", "x"]].to_numpy() + [1.0, -1.0]
    done["channel"] = done["layer"] - 1
    named = [assign_layers(t, D)[0] for t in (done, done.assign(shown=False))]
    assert len(named[0]) == len(done)
    assert len(named[1]) == len(done) - 1
