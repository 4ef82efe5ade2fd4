"""Scores: known answers on tables whose scores can be counted by hand."""

import numpy as np
import pandas as pd
import pytest

from moirelib.crystal import match
from moirelib.validation import mask_iou, score_layers, score_particles


def table(layers, shift=0.0):
    n = len(layers)
    return pd.DataFrame({"frame": 0, "layer": layers, "y_nm": 50.0 + shift, "x_nm": 30.0 * (1 + np.arange(n))})


def score(found, truth):
    return score_particles(found, truth, 10.0, (100.0, 300.0))


def test_perfect_tables_score_one_in_either_naming():
    truth = table([1, 1, 2, 2])
    for found in (truth, table([2, 2, 1, 1])):
        s = score(found, truth)
        assert (s["f1"], s["f1_agnostic"], s["assignment"], s["rmse_nm"]) == (1, 1, 1, 0)


def test_one_particle_in_the_wrong_layer():
    s = score(table([1, 1, 1, 2]), table([1, 1, 2, 2]))
    assert s["f1"] == pytest.approx(0.75)
    assert s["f1_agnostic"] == 1
    assert s["assignment"] == pytest.approx(0.75)


def test_everything_in_both_layers_scores_two_thirds():
    truth = table([1, 2, 1, 2])
    both = pd.concat([truth.assign(layer=1), truth.assign(layer=2)], ignore_index=True)
    assert score(both, truth)["f1"] == pytest.approx(2 / 3)


def test_matching_radius_is_three_tenths_of_a_diameter():
    assert score(table([1, 1], 2.9), table([1, 1]))["f1"] == 1
    assert score(table([1, 1], 3.1), table([1, 1]))["f1"] == 0


def test_rmse_is_the_root_mean_square_distance():
    assert score(table([1, 1, 2], 2.0), table([1, 1, 2]))["rmse_nm"] == pytest.approx(2.0)


def test_border_of_half_a_diameter_is_left_out():
    truth = table([1, 1, 1])
    extra = pd.DataFrame({"frame": 0, "layer": 1, "y_nm": [4.0], "x_nm": [50.0]})
    assert score(pd.concat([truth, extra]), truth)["f1"] == 1
    assert score(truth, pd.concat([truth, extra]))["f1"] == 1


def test_matching_pairs_as_many_as_possible():
    i, j = match([[0, 0], [0, 2.0]], [[0, 1.5], [0, 3.4]], 2.0)
    assert sorted(zip(i.tolist(), j.tolist(), strict=True)) == [(0, 0), (1, 1)]


def test_matching_never_makes_a_pair_of_infinite_penalty():
    # The near pair is forbidden; the far one would be out of reach, so one pair is left.
    found, truth = [[0, 0], [0, 3.0]], [[0, 0.1], [0, 1.5]]
    penalty = np.array([[np.inf, 0.0], [0.0, 0.0]])
    i, j = match(found, truth, 2.0, penalty)
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == [(0, 1)]
    i, j = match(found, truth, 2.0, np.full((2, 2), np.inf))
    assert len(i) == len(j) == 0


def test_mask_iou_counts_pixels_and_ignores_names():
    a = np.zeros((1, 2, 10, 10))
    a[0, 0, :5] = 1
    b = np.zeros((1, 2, 10, 10))
    b[0, 1, :4] = 1
    assert mask_iou(a, b) == pytest.approx(4 / 5)
    assert mask_iou((255 * a).astype(np.uint8), b) == pytest.approx(4 / 5)


def test_layers_of_any_number_are_put_into_their_best_order():
    masks = np.eye(3)[:, None, :]  # three layers that cover a pixel each
    assert mask_iou(masks[[2, 0, 1]], masks) == 1


def squares(*sides):
    """A layer stack of one frame with a square of each side length in its own layer."""
    stack = np.zeros((2, 40, 40))
    for k, side in enumerate(sides):
        stack[k, :side, :side] = 1
    return stack


def test_layers_are_named_once_for_particles_and_masks():
    truth, masks = table([1, 1, 2]), squares(10, 20)
    swapped = score_layers(table([2, 2, 1]), squares(20, 10), truth, masks, 10.0, (100.0, 300.0))
    assert (swapped["f1"], swapped["mask_iou"], swapped["mask_accuracy"]) == (1, 1, 1)
    # Particles decide: masks in the other order cost what they cost.
    torn = score_layers(table([2, 2, 1]), squares(10, 20), truth, masks, 10.0, (100.0, 300.0))
    assert torn["f1"] == 1
    assert torn["mask_iou"] == pytest.approx(100 / 400)
    assert torn["mask_accuracy"] == pytest.approx(1 - 2 * 300 / 3200)


def test_masks_name_the_layers_where_particles_do_not_care():
    truth = table([1, 2])
    both = pd.concat([truth.assign(layer=1), truth.assign(layer=2)], ignore_index=True)
    s = score_layers(both, squares(20, 10), truth, squares(10, 20), 10.0, (100.0, 300.0))
    assert s["f1"] == pytest.approx(2 / 3)
    assert s["mask_iou"] == 1


def test_mask_iou_is_averaged_over_layers():
    truth = table([1, 2])
    s = score_layers(truth, squares(10, 0), truth, squares(10, 20), 10.0, (100.0, 300.0))
    assert s["mask_iou"] == pytest.approx(0.5)
