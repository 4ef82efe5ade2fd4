"""The network of points: what it is shown, what it says, how it is trained."""

import json

import numpy as np
import pytest
import torch

from moirelib.decomposition import SameLayer, draw_points, load_same_layer, train_same_layer, weigh_pairs
from moirelib.decomposition.same_layer import CERTAIN, NEIGHBOURS, compare_sizes, find_neighbours
from moirelib.decomposition.same_layer_training import KINDS, draw_batch


def test_neighbours_are_the_nearest_and_not_the_particle_itself():
    points = np.random.default_rng(0).uniform(0, 20, (200, 2))
    points[7] = points[8]  # two particles at one place
    near, present = find_neighbours(points)
    assert near.shape == (200, NEIGHBOURS)
    assert present.all()
    assert not (near == np.arange(200)[:, None]).any()
    distance = np.hypot(*np.moveaxis(points[near] - points[:, None], 2, 0))
    np.testing.assert_allclose(distance, np.sort(distance, axis=1))


@pytest.mark.parametrize("n", [2, 10, NEIGHBOURS, NEIGHBOURS + 1])
def test_fewer_neighbours_than_there_is_room_for_are_marked_absent(n):
    points = np.random.default_rng(n).uniform(0, 20, (n, 2))
    near, present = find_neighbours(points)
    assert (present.sum(axis=1) == min(n - 1, NEIGHBOURS)).all()
    graph, counts = weigh_pairs(load_same_layer(), points, np.ones(n))
    assert graph.shape == (n, n)
    assert np.isfinite(graph.data).all()
    np.testing.assert_allclose(counts.sum(axis=1), 1, rtol=1e-5)


def test_absent_neighbours_do_not_count():
    model = SameLayer().eval()
    points = np.random.default_rng(1).uniform(0, 8, (20, 2))
    near, present = find_neighbours(points)
    step = torch.from_numpy((points[near] - points[:, None]).astype(np.float32))
    wider = torch.from_numpy(compare_sizes(np.arange(20), near, np.ones(20)))
    with torch.no_grad():
        odds, _ = model(step, wider, torch.from_numpy(present))
        odds_of_few, _ = model(step[:, :19], wider[:, :19], torch.from_numpy(present)[:, :19])
    np.testing.assert_allclose(odds[:, :19], odds_of_few, atol=1e-4)


def test_log_odds_are_symmetric_and_limited():
    points = draw_points(np.random.default_rng(2), "plain", 2)
    graph, _ = weigh_pairs(load_same_layer(), points.places, points.size)
    assert abs(graph - graph.T).max() < 1e-12
    assert abs(graph).max() <= CERTAIN
    assert graph.diagonal().sum() == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_scenes_hold_the_layers_asked_for(kind, layers):
    for seed in range(5):
        points = draw_points(np.random.default_rng(seed), kind, layers)
        n = len(points.places)
        assert points.layer.max() == layers - 1
        assert len(points.layer) == len(points.size) == n
        false = points.layer[points.layer < 0]
        assert len(np.unique(false)) == len(false) <= max(0.1 * n, 1)


def test_a_batch_says_who_lies_in_one_layer():
    step, wider, present, same, count = draw_batch(np.random.default_rng(3), frames=2, each=10)
    assert step.shape == (20, NEIGHBOURS, 2)
    assert wider.shape == (20, NEIGHBOURS)
    assert not same[~present].any()
    assert set(count.tolist()) <= {0, 1, 2}
    assert 0.2 < same[present].mean() <= 1


def test_the_shipped_weights_know_more_than_chance_on_scenes_that_were_not_trained_on():
    model, right, n = load_same_layer(), 0, 0
    for seed in range(4):
        points = draw_points(np.random.default_rng((77, seed)), "unequal", 2)
        graph, counts = weigh_pairs(model, points.places, points.size)
        pairs = graph.tocoo()
        real = (points.layer[pairs.row] >= 0) & (points.layer[pairs.col] >= 0)
        same = points.layer[pairs.row] == points.layer[pairs.col]
        right, n = right + np.sum(((pairs.data > 0) == same)[real]), n + real.sum()
    assert right / n > 0.8  # measured: 0.84; false finds and far pairs say little


def test_training_writes_weights_and_a_card(tmp_path):
    out = tmp_path / "points.safetensors"
    card = train_same_layer(out, minutes=0.02, seed=1)
    assert json.loads(out.with_suffix(".json").read_text("utf-8")) == card
    assert card["steps"] > 0
    assert "simulated" in card["data"]
    assert sum(p.numel() for p in load_same_layer(out).parameters()) == card["parameters"]
