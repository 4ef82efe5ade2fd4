"""Layers: lattices name them where the network does not, movies vote, and confidence is what it says."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree
from scipy.special import expit, logit, softmax

from moirelib.crystal import Lattice, Motion, extent, find_lattice, fold_hexagonal, hexagonal_lattice, moire_period
from moirelib.decomposition import Evidence, assign_layers, measure_motion, twist_note, vote
from moirelib.decomposition.layer_assignment import exclude_pairs
from moirelib.decomposition.layer_evidence import Surroundings
from moirelib.decomposition.overlapping_grains import split_in_two
from moirelib.simulation import LatticeConfig, grain_boundary, random_scene, truth_table, twin_boundary

D, SPACING = 12.0, 16.0
TWO_LAYERS = replace(
    LatticeConfig(),
    shapes=("sphere",),
    single_layer=0.0,
    boundary=0.0,
    dislocations=0.0,
    interstitials=(0.0, 0.0),
)


def crystal(angle, field=300.0, radius=None, spacing=SPACING):
    """Points of a lattice in a square field, all over it or within a radius of its middle."""
    points = hexagonal_lattice(spacing, angle, (field / 2, field / 2), field if radius is None else radius)
    return points[np.all((points > 0) & (points < field - 1), axis=1)]


def detections(points, layer, rng, field=400, noise=0.03, missed=0.03, false=0.02, flipped=0.0):
    """True points with position noise, misses, false finds, and channels that swap from region to region.

    ``noise`` is in diameters; ``flipped`` is the share of particles in the wrong channel for no reason.
    """
    found = rng.random(len(points)) >= missed
    layer = np.asarray(layer)[found]
    points = points[found] + noise * D * rng.standard_normal((len(layer), 2))
    swapped = gaussian_filter(rng.standard_normal((field, field)), 50) > 0
    index = np.clip(points.round().astype(int), 0, field - 1)
    channel = (layer == 2) ^ swapped[index[:, 0], index[:, 1]] ^ (rng.random(len(layer)) < flipped)
    table = pd.DataFrame({"channel": channel.astype(int), "y": points[:, 0], "x": points[:, 1], "score": 0.9})
    n = int(false * len(table))
    nothing = {"channel": rng.integers(0, 2, n), "score": 0.5, "truth": 0}
    nothing |= {"y": rng.uniform(0, field, n), "x": rng.uniform(0, field, n)}
    table = pd.concat([table.assign(truth=layer), pd.DataFrame(nothing)], ignore_index=True)
    return table.assign(shown=False, diameter=np.nan)


def detections_of_scene(config, seed, field=400, **mistakes):
    rng = np.random.default_rng(seed)
    truth = truth_table(random_scene(config, (field, field), rng, SPACING), 1.0)
    return detections(truth[["y", "x"]].to_numpy(), truth["layer"].to_numpy(), rng, field, **mistakes)


def right(table):
    """Which true particles are in their layer, with the names exchanged if most say so."""
    real = table[table["truth"] > 0]
    same = (real["layer"] == real["truth"]).to_numpy()
    return same if same.mean() >= 0.5 else ~same


# --- Lattices in a set of points ---


@pytest.mark.parametrize("angle", [0.0, 13.0, 59.0])
def test_find_lattice_measures_spacing_and_angle(angle):
    points = crystal(angle)
    points = points + 0.4 * np.random.default_rng(1).standard_normal(points.shape)
    lattice, strength = find_lattice(points, 15.0)
    assert lattice.spacing == pytest.approx(16.0, rel=0.001)
    assert fold_hexagonal(lattice.angle - angle) < 0.05
    # Debye-Waller: |<exp(iq·u)>|² = exp(-q²σ²) with q = 4π/(√3 a) of n points.
    debye_waller = np.exp(-((4 * np.pi / np.sqrt(3) / 16.0 * 0.4) ** 2))
    assert strength / len(points) == pytest.approx(debye_waller, abs=0.03)


def test_wave_vectors_are_reciprocal_to_the_lattice():
    lattice = Lattice(16.0, 13.0)
    phase = hexagonal_lattice(16.0, 13.0, (0, 0), 100.0) @ lattice.wave_vectors.T / (2 * np.pi)
    np.testing.assert_allclose(phase, np.rint(phase), atol=1e-9)


def test_random_points_hold_no_lattice():
    for seed in range(5):
        points = np.random.default_rng(seed).uniform(0, 300, (400, 2))
        assert find_lattice(points, 15.0)[1] < 7  # a lattice of 400 points: up to 400


def test_weights_choose_between_two_lattices():
    one, other = crystal(5.0), crystal(18.0)
    both, first = np.concatenate([one, other]), np.r_[np.ones(len(one)), np.zeros(len(other))]
    for weights, angle in ((first, 5.0), (1 - first, 18.0)):
        assert fold_hexagonal(find_lattice(both, SPACING, weights)[0].angle - angle) < 0.05


# --- Layers of one frame ---


def mean_accuracy(twist, **change):
    config = replace(TWO_LAYERS, twist_angle=(twist, twist), **change)
    return np.mean([right(assign_layers(detections_of_scene(config, seed), D)[0]).mean() for seed in range(8)])


@pytest.mark.parametrize("twist", [3.5, 8.0, 27.0, 30.0])
def test_lattices_undo_the_networks_local_swaps(twist):
    assert mean_accuracy(twist) > 0.98


@pytest.mark.parametrize("mismatch", [0.04, 0.0])
def test_layers_come_apart_in_a_field_smaller_than_the_moire_period(mismatch):
    assert moire_period(SPACING, 1.5) > 1.5 * 400
    assert mean_accuracy(1.5, spacing_mismatch=mismatch) > 0.98  # measured: 0.999 and 0.998


def test_one_lattice_is_one_layer_whatever_the_channels_say():
    for seed in range(4):
        found = detections_of_scene(replace(TWO_LAYERS, single_layer=1.0), seed)
        table, lattices = assign_layers(found, D)
        assert (table["layer"] == 1).all()
        assert len(lattices[0]) == 1
        assert lattices[1] == []


def test_twist_and_spacings_come_out_of_the_lattices():
    rng = np.random.default_rng(0)
    base, upper = crystal(20.0, 400.0), crystal(31.0, 400.0, radius=150.0, spacing=15.4)
    layer = np.r_[np.ones(len(base), int), np.full(len(upper), 2)]
    _, (first, second) = assign_layers(detections(np.concatenate([base, upper]), layer, rng), D)
    assert fold_hexagonal(second[0].angle - first[0].angle) == pytest.approx(11.0, abs=0.1)
    assert (first[0].spacing, second[0].spacing) == pytest.approx((16.0, 15.4), rel=0.003)


def test_too_few_particles_are_reported_as_a_guess():
    table = pd.DataFrame({"channel": [0, 0, 1], "y": [5.0, 20, 40], "x": [5.0, 20, 40], "score": 0.9, "shown": False})
    named, lattices = assign_layers(table, D)
    assert (named["layer_confidence"] == 0.5).all()
    assert named["layer"].tolist() == [1, 1, 2]
    assert lattices == [[], []]
    assert len(assign_layers(table.iloc[:0], D)[0]) == 0


@pytest.mark.parametrize("boundary", [12.0, 27.0, "twin"])
def test_grains_that_meet_without_overlap_are_one_layer(boundary):
    for seed in range(3):
        rng = np.random.default_rng(seed)
        row, line = rng.uniform(0, 60), rng.uniform(0, 180)
        if boundary == "twin":
            points, defect = twin_boundary(SPACING, row, 7, (200.0, 200.0), 300.0)
        else:
            points, defect = grain_boundary(SPACING, row, boundary, line, (200.0, 200.0), 300.0)
        points = points[np.all((points > 0) & (points < 399), axis=1)]
        table, lattices = assign_layers(detections(points, np.ones(len(points), int), rng), D)
        assert (table["layer"] == 1).all()
        assert lattices[1] == []
        one, other = lattices[0]
        assert fold_hexagonal(one.angle - other.angle) == pytest.approx(defect.misorientation, abs=0.3)
        assert table["grain"].nunique() == 2


def test_the_same_grains_are_two_layers_where_they_overlap():
    rng = np.random.default_rng(0)
    left, right_one = crystal(5.0, 400.0), crystal(32.0, 400.0)
    points = np.concatenate([left[left[:, 1] < 250], right_one[right_one[:, 1] > 150]])
    layer = np.r_[np.ones(np.sum(left[:, 1] < 250), int), np.full(np.sum(right_one[:, 1] > 150), 2)]
    table, lattices = assign_layers(detections(points, layer, rng), D)
    assert right(table).mean() > 0.98
    assert [len(found) for found in lattices] == [1, 1]


def patchwork(rng, angles, field):
    """A layer of grains: every point is of the lattice of the nearest of some random centres."""
    centers = cKDTree(rng.uniform(0, field, (len(angles), 2)))
    return np.concatenate([p[centers.query(p)[1] == k] for k, p in enumerate(crystal(a, field) for a in angles)])


def test_many_grains_in_both_layers_come_apart():
    """Lattices of both layers fit some particles, so grains hold particles of both; counting overlaps misled.

    In one patchwork of five, two grains upon each other are nearly parallel, and where grains of both layers end
    together nothing tells which goes on in which.
    """
    shares, grains = [], []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        layers = [patchwork(rng, rng.uniform(0, 60, rng.integers(3, 5)), 300.0) for _ in range(2)]
        layer = np.repeat([1, 2], [len(points) for points in layers])
        named, lattices = assign_layers(detections(np.concatenate(layers), layer, rng, 300, false=0.0), D)
        right = np.mean(named["layer"] == named["truth"])
        shares.append(max(right, 1 - right))
        grains.append(min(len(found) for found in lattices))
    assert np.median(grains) > 1
    assert np.median(shares) > 0.99
    assert np.mean(shares) > 0.95


def test_what_can_be_named_two_ways_is_in_doubt():
    """Two pieces of two layers with a gap between them: nothing says which layer of one piece is which of the other."""
    rng = np.random.default_rng(5)
    angles = (0.0, 14.0), (25.0, 41.0)  # of each piece's layers
    pieces = [crystal(a, 240.0) + (0, 300.0 * side) for side, pair in enumerate(angles) for a in pair]
    layer = np.repeat([1, 2, 1, 2], [len(points) for points in pieces])
    found = pd.DataFrame(np.concatenate(pieces), columns=["y", "x"]).assign(truth=layer)
    found[["y", "x"]] += 0.02 * D * rng.standard_normal((len(found), 2))
    found = found.assign(channel=found["truth"] - 1, score=0.9, shown=False, diameter=np.nan)
    named, _ = assign_layers(found, D)
    piece = named.groupby(named["x"] > 270)
    sure = piece["layer_confidence"].median()
    assert sure.min() < 0.6


def test_an_island_is_layer_2_and_the_base_layer_1():
    config = replace(TWO_LAYERS, twist_angle=(5.0, 30.0), island=1.0, edge=0.0)
    for seed in range(6):
        found = detections_of_scene(config, seed)
        for table in (found, found.assign(channel=1 - found["channel"])):
            named = assign_layers(table, D)[0].query("truth > 0")
            assert np.mean(named["layer"] == named["truth"]) > 0.98  # by name, not up to an exchange


def test_the_base_is_layer_1_though_its_grains_are_each_smaller_than_the_island():
    for seed in range(3):
        rng = np.random.default_rng(seed)
        base, _ = grain_boundary(SPACING, 5.0, 25.0, rng.uniform(0, 180), (200.0, 200.0), 300.0)
        base = base[np.all((base > 0) & (base < 399), axis=1)]
        island = crystal(17.0, 400.0, radius=165.0)
        layer = np.r_[np.ones(len(base), int), np.full(len(island), 2)]
        named, lattices = assign_layers(detections(np.concatenate([base, island]), layer, rng), D)
        real = named[named["truth"] > 0]
        assert len(base) / 2 < len(island) < len(base)
        assert np.mean(real["layer"] == real["truth"]) > 0.98
        assert [len(found) for found in lattices] == [2, 1]


def test_extent_is_an_area_and_does_not_count_particles_twice():
    points = crystal(7.0, 300.0)
    # One particle for every √3/2 of a squared spacing, a disk of one spacing each: all of the field is covered.
    assert extent(points, SPACING) == pytest.approx((300.0 / SPACING) ** 2, rel=0.15)
    assert extent(np.concatenate([points, points]), SPACING) == extent(points, SPACING)
    assert extent(points[:0], SPACING) == 0


def found_twice(table, chosen):
    """The table with second finds of some particles in the other channel."""
    second = table[chosen].assign(channel=1 - table["channel"][chosen], y=table["y"][chosen] + 0.4)
    return pd.concat([table, second], ignore_index=True)


def test_a_particle_found_in_both_channels_is_kept_once():
    rng = np.random.default_rng(0)
    points = crystal(7.0)
    found = detections(points, np.ones(len(points), int), rng, 300, missed=0.0, false=0.0)
    table, _ = assign_layers(found_twice(found, rng.random(len(found)) < 0.25), D)
    assert len(table) == len(points)


def test_particles_on_top_of_each_other_are_kept_twice_and_others_once():
    rng = np.random.default_rng(0)
    base, island = crystal(7.0), crystal(15.0, radius=100.0)  # the two lattices share their middle
    layer = np.r_[np.ones(len(base), int), np.full(len(island), 2)]
    found = detections(np.concatenate([base, island]), layer, rng, 300, noise=0.02, missed=0.0, false=0.0)
    found["channel"] = layer - 1
    beside = np.hypot(found["y"] - 150, found["x"] - 150) > 115  # of the island: one particle, whatever was found
    twice = beside & (rng.random(len(found)) < 0.4)
    table, _ = assign_layers(found_twice(found, twice), D)
    middle = np.hypot(table["y"] - 150, table["x"] - 150) < 3
    assert sorted(table.loc[middle, "layer"]) == [1, 2]
    assert len(found) <= len(table) < len(found) + 0.1 * twice.sum()


# --- Confidence ---


@pytest.fixture(scope="module")
def judged():
    """Confidence of the particles of small, difficult scenes, and which are in their layer."""
    config, tables = replace(LatticeConfig(), shapes=("sphere",), twist_angle=(1.0, 30.0)), []
    for seed in range(40):
        field = int(np.random.default_rng(seed).uniform(140, 240))
        found = detections_of_scene(config, seed, field, noise=0.08, missed=0.05, false=0.03, flipped=0.2)
        named, _ = assign_layers(found, D)
        real = named[named["truth"] > 0]
        tables.append(pd.DataFrame({"says": real["layer_confidence"], "right": right(named)}))
    return pd.concat(tables, ignore_index=True)


def test_who_is_said_to_be_sure_is_right(judged):
    assert 0.5 < np.mean(judged["says"] >= 0.9) < 0.97  # some are sure, some are not
    assert judged["right"][judged["says"] >= 0.9].mean() >= 0.9


def test_confidence_does_not_overclaim(judged):
    assert judged["says"].between(0.5, 0.999).all()
    bins = judged.groupby(pd.cut(judged["says"], [0.499, 0.7, 0.8, 0.9, 0.97, 1.0]), observed=True)
    bins = bins.agg(says=("says", "mean"), right=("right", "mean"), n=("right", "size"))
    assert len(bins) == 5
    assert bins["n"].min() > 100
    assert (bins["right"] > bins["says"] - 0.06).all(), bins
    assert judged["says"].mean() == pytest.approx(judged["right"].mean(), abs=0.02)  # nor does it hide what is known


def test_mistakes_are_where_confidence_is_low(judged):
    sure = judged["says"] > 0.97
    assert (1 - judged["right"][~sure].mean()) > 5 * (1 - judged["right"][sure].mean())


# --- Movies ---


def movie(frames=6, wrong=0.05, confidence=0.9, drift=(0.0, 0.0), exchanged=(), seed=0):
    """Particles of a base all over the field and an island, with a share of the particles in the wrong layer."""
    rng = np.random.default_rng(seed)
    base = crystal(7.0, 320.0) - 60.0  # reaches beyond the field of 200, which drifts over it
    island = hexagonal_lattice(SPACING, 19.0, (100.0, 100.0), 60.0)
    points, truth = np.concatenate([base, island]), np.r_[np.ones(len(base), int), np.full(len(island), 2)]
    tables = []
    for t in range(frames):
        here = points + t * np.asarray(drift) + 0.03 * D * rng.standard_normal(points.shape)
        seen = np.flatnonzero(np.all((here > 0) & (here < 200), axis=1))
        layer = np.where(rng.random(len(seen)) < wrong, 3 - truth[seen], truth[seen])
        layer = 3 - layer if t in exchanged else layer
        table = pd.DataFrame({"frame": t, "y": here[seen, 0], "x": here[seen, 1], "score": 0.9, "layer": layer})
        tables.append(table.assign(layer_confidence=confidence, other_layer=0, truth=truth[seen], identity=seen))
    return pd.concat(tables, ignore_index=True)


def wrong_share(table):
    return np.mean(table["layer"] != table["truth"])


def rest(frames):
    return [Motion()] * frames


def follow(table, frames):
    return measure_motion(table, frames, D, (200, 200)).since_first


@pytest.mark.parametrize("exchanged", [(), (1, 4), (0, 1, 2, 4)])
def test_names_are_aligned_over_frames(exchanged):
    voted, said = vote(movie(exchanged=exchanged), D, rest(6))
    assert (said[:, 0] == 1).tolist() == [t in exchanged for t in range(6)]
    assert wrong_share(voted) < 0.01


def test_names_of_three_layers_are_aligned_over_frames():
    table, orders = movie(wrong=0.0), list(itertools.permutations((1, 2, 3)))
    third = table[table["layer"] == 1].assign(layer=3, truth=3)
    third["y"] += 0.4 * SPACING
    third = third[np.hypot(third["y"] - 60, third["x"] - 130) < 35]
    table = pd.concat([table, third], ignore_index=True).sort_values("frame", kind="stable", ignore_index=True)
    named = np.array(orders)[table["frame"], table["layer"] - 1]
    voted, said = vote(table.assign(layer=named), D, rest(6))
    assert wrong_share(voted) == 0
    assert [tuple(names.argsort() + 1) for names in said] == orders


@pytest.mark.parametrize("layers", [2, 3])
def test_two_particles_that_exclude_each_other_have_the_exact_probabilities(layers):
    own, strength = np.log(np.random.default_rng(layers).dirichlet(np.ones(layers), 2)), 2.5
    both = np.exp(own[0])[:, None] * np.exp(own[1]) * np.exp(-strength * np.eye(layers))
    start = np.zeros((2, 1, layers))
    found = softmax(exclude_pairs(own, start, np.array([[0, 1]]), np.array([strength]), 60)[0], axis=1)
    np.testing.assert_allclose(found[0], both.sum(axis=1) / both.sum(), rtol=1e-9)
    np.testing.assert_allclose(found[1], both.sum(axis=0) / both.sum(), rtol=1e-9)


@pytest.mark.parametrize("drift", [(0.0, 0.0), (5.0, 2.0)])
def test_a_mistake_in_one_frame_is_corrected_by_the_track(drift):
    table = movie(wrong=0.0, drift=drift)
    seen = table.groupby("identity")["frame"].transform("size")
    alone = table.index[(table["frame"] == 3) & (seen == 6)][::9]
    table.loc[alone, "layer"] = 3 - table.loc[alone, "layer"]
    assert wrong_share(table) > 0.005
    assert wrong_share(vote(table, D, follow(table, 6))[0]) == 0


def test_a_drifting_movie_is_followed_over_more_than_a_spacing():
    table = movie(frames=10, drift=(5.0, 2.0), exchanged=(3, 7))
    voted, said = vote(table, D, follow(table, 10))
    assert (said[:, 0] == 1).tolist() == [t in (3, 7) for t in range(10)]
    assert wrong_share(voted) < 0.3 * wrong_share(movie(frames=10, drift=(5.0, 2.0)))


@pytest.mark.parametrize("empty", [0, 2, 5])
def test_empty_frames_are_survived(empty):
    table = movie(wrong=0.0, exchanged=(3,))
    table = table[table["frame"] != empty]
    voted, _ = vote(table, D, rest(6))
    assert np.bincount(voted["frame"]).tolist() == np.bincount(table["frame"]).tolist()
    assert wrong_share(voted) == 0


def test_a_movie_without_particles_stays_empty():
    voted, said = vote(movie().iloc[:0], D, rest(2))
    assert len(voted) == 0
    assert said.tolist() == [[0, 1], [0, 1]]


def test_votes_of_one_track_share_their_ambiguities():
    # n votes with a correlation of 1/2 count as 2 n / (n + 1): never more than two.
    for frames in (1, 5, 20):
        points = crystal(7.0, 200.0)
        table = pd.DataFrame({"y": points[:, 0], "x": points[:, 1], "score": 0.9, "layer": 1, "layer_confidence": 0.8})
        table["other_layer"] = 0
        table = pd.concat([table.assign(frame=t) for t in range(frames)], ignore_index=True)
        voted, _ = vote(table, D, rest(frames))
        expected = expit(logit(0.8) * 2 * frames / (frames + 1))
        np.testing.assert_allclose(voted["layer_confidence"], expected, rtol=1e-6)


def test_another_naming_survives_the_vote_until_time_decides():
    table = movie(frames=3, wrong=0.0, confidence=0.6, exchanged=(1,))
    doubted = (table["x"] > 150) & (table["truth"] == 1)
    table["other_layer"] = np.where(doubted, 3 - table["layer"], 0)
    voted, _ = vote(table, D, rest(3))
    region = (voted["x"] > 150) & (voted["truth"] == 1)
    assert wrong_share(voted) == 0
    assert region.sum() > 20
    np.testing.assert_array_equal(voted["other_layer"], np.where(region, 2, 0))
    # One frame has it the wrong way round: the vote takes its other naming, and keeps what it said.
    table = movie(frames=3, wrong=0.0, confidence=0.6)
    turned = doubted_in(table, 1)
    table["layer"] = np.where(turned, 3 - table["layer"], table["layer"])
    table["other_layer"] = np.where(turned, 3 - table["layer"], 0)
    voted, _ = vote(table, D, rest(3))
    assert wrong_share(voted) < 0.005  # one at the border is in one frame only
    right = voted[voted["layer"] == voted["truth"]]
    np.testing.assert_array_equal(right["other_layer"], np.where(doubted_in(right, 1), 2, 0))
    # Frames that agree leave no doubt.
    table = movie(frames=3, wrong=0.0, confidence=0.85).assign(other_layer=lambda t: 3 - t["layer"])
    voted, _ = vote(table, D, rest(3))
    followed = voted.groupby("identity")["frame"].transform("size") == 3
    assert followed.mean() > 0.9
    assert (voted.loc[followed, "other_layer"] == 0).all()
    assert (voted.loc[~followed, "other_layer"] > 0).any()


def doubted_in(table, frame):
    return (table["frame"] == frame) & (table["x"] > 150) & (table["truth"] == 1)


def test_layer_1_reaches_furthest_over_the_whole_movie():
    voted, said = vote(movie(wrong=0.0, exchanged=range(6)), D, rest(6))
    assert said.tolist() == [[1, 0]] * 6
    assert wrong_share(voted) == 0


# --- What the field allows to say ---


def test_twist_note_speaks_where_the_moire_period_is_longer_than_the_field():
    base = Lattice(16.0, 10.0)
    longest = np.degrees(2 * np.arcsin(16.0 / (2 * 480.0)))  # twist whose period is the field's height
    assert twist_note(base, Lattice(16.0, 10.0 + 1.01 * longest), (480.0, 900.0)) == ""
    note = twist_note(base, Lattice(16.0, 10.0 - 0.99 * longest), (480.0, 900.0))
    assert "1.9°" in note
    assert "30 spacings" in note
    assert "longer than the field" in note


def test_twist_note_knows_symmetry_and_mismatch():
    base = Lattice(16.0, 10.0)
    assert "0.0°" in twist_note(base, Lattice(16.0, 70.0), (480.0, 480.0))  # 60° are no twist
    assert twist_note(base, Lattice(17.0, 10.0), (480.0, 480.0)) == ""  # 16 × 17 / 1 = 272


def test_particles_too_far_apart_to_tell_copies_are_left_whole():
    points = crystal(10.0, 400.0)
    table = detections(points, np.ones(len(points)), np.random.default_rng(0), missed=0.0, false=0.0)
    around = Surroundings(table, D, Evidence())
    member = np.zeros(len(points), bool)
    for i, near in enumerate(around.positions):
        member[i] = not np.any(np.hypot(*(around.positions[member] - near).T) < 3 * SPACING)
    assert member.sum() > 30
    side, agreement_cut = split_in_two(member, [around.lattice], around)
    assert not side.any()
    assert agreement_cut == 0
