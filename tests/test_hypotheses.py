"""Particles: detection in the network's output."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.spatial import cKDTree

from moirelib.crystal import Lattice, hexagonal_lattice
from moirelib.decomposition import CENTER_WIDTH, Hypothesis, LayerCountRules, choose_hypothesis, locate
from moirelib.decomposition.hypotheses import LayerEvidence, is_enough

D = 12.0


def disks(points, shape, diameter=D, softness=0.8):
    """Disks with soft edges, transmission 1 outside and 0 inside."""
    y, x = np.indices(shape)
    image = np.ones(shape)
    for py, px in points:
        image *= 1 / (1 + np.exp((diameter / 2 - np.hypot(y - py, x - px)) / softness))
    return image


def square_of_points(spacing=16.0, angle=7.0, shape=(160, 160), rng=None, jitter=0.4):
    points = hexagonal_lattice(spacing, angle, np.array(shape) / 2, max(shape))
    points = points[np.all((points > D) & (points < np.array(shape) - D), axis=1)]
    return points + (jitter * rng.standard_normal(points.shape) if rng is not None else 0)


def peaks_at(points, shape=(160, 160), height=1.0):
    """The network's mark of a particle: a peak of standard deviation `CENTER_WIDTH` at its centre."""
    y, x = np.indices(shape)
    image = np.zeros(shape)
    for py, px in np.reshape(points, (-1, 2)):
        image = np.maximum(image, height * np.exp(-0.5 * ((y - py) ** 2 + (x - px) ** 2) / CENTER_WIDTH**2))
    return image


def errors_of(found, points):
    """Vectors from the nearest true point to what was found."""
    return found[["y", "x"]].to_numpy() - points[cKDTree(points).query(found[["y", "x"]])[1]]


def test_every_particle_is_found_once_and_in_its_channel():
    points, others = square_of_points(rng=np.random.default_rng(0)), square_of_points(17.0, 30.0)
    found = locate(np.stack([peaks_at(points), peaks_at(others)]), D)
    for channel, truth in enumerate((points, others)):
        mine = found[found["channel"] == channel]
        assert len(mine) == len(truth)
        assert np.hypot(*errors_of(mine, truth).T).max() < 0.3


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.5, 0.75])
def test_positions_have_no_preference_for_whole_pixels(fraction):
    points = np.rint(square_of_points()) + fraction
    errors = errors_of(locate(peaks_at(points)[None], D), points)
    assert np.abs(errors.mean(axis=0)).max() < 0.03


def test_positions_stay_unbiased_where_the_network_is_unsure():
    rng = np.random.default_rng(0)
    points = square_of_points(rng=rng)
    unsure = np.clip(peaks_at(points, height=0.6) + 0.05 * rng.standard_normal((160, 160)), 0, 1)
    found = locate(unsure[None], D, threshold=0.3)
    errors = errors_of(found, points)
    assert len(found) == len(points)
    assert np.abs(errors.mean(axis=0)).max() < 4 * errors.std() / np.sqrt(len(errors))
    assert errors.std() < 0.3
    assert found["score"].mean() == pytest.approx(0.6, abs=0.1)


def test_score_is_the_height_of_the_peak_and_low_peaks_are_not_counted():
    image = np.maximum(peaks_at([[40.0, 40.0]], height=0.8), peaks_at([[80.0, 90.0]], height=0.4))
    found = locate(image[None], D, threshold=0.2).sort_values("y")
    assert found["score"].tolist() == pytest.approx([0.8, 0.4])
    assert len(locate(image[None], D, threshold=0.6)) == 1


def test_touching_particles_of_one_layer_stay_two():
    points = np.array([[80.0, 74.0], [80.0, 86.0]])  # a diameter apart
    found = locate(peaks_at(points)[None], D)
    assert len(found) == 2
    assert np.abs(errors_of(found, points)).max() < 0.1


def test_particles_at_the_border_are_found():
    found = locate(peaks_at([[0.0, 60.0], [159.0, 100.0]])[None], D)
    assert len(found) == 2
    np.testing.assert_allclose(found.sort_values("y")["x"], [60.0, 100.0], atol=0.1)


def test_locate_of_nothing_is_an_empty_table():
    found = locate(np.zeros((2, 64, 64)), D)
    assert len(found) == 0
    assert {"channel", "y", "x", "score"} <= set(found)


@pytest.mark.parametrize(
    ("fewer", "left", "one_layer"),
    [
        (0.517, 1.422, True),  # a part of the real frame of one layer
        (0.548, 0.983, True),  # others
        (0.725, 0.996, True),
        (0.736, 0.880, True),
        (0.761, 0.969, True),
        (0.711, 1.653, False),  # two simulated layers at twists of 1 to 3°
        (0.742, 1.197, False),
        (0.832, 1.154, False),
        (0.929, 1.164, False),
        (0.853, 1.0, False),  # two, at a spacing misfit of 7 %
    ],
)
def test_one_layer_of_long_particles_is_told_from_two_layers(fewer, left, one_layer):
    # Particles and unexplained variation of fits with one layer over those with two, as measured.
    one, two = LayerEvidence(round(1000 * fewer), left, False), LayerEvidence(1000, 1.0, True)
    assert is_enough(one, two, LayerCountRules()) is one_layer


def layers_at(angles, unexplained, found=0.0):
    """Layers upon each other, one for each angle; of the upper ones only the share ``found`` of the particles."""
    tables = [pd.DataFrame(square_of_points(angle=angle), columns=["y", "x"]) for angle in angles]
    tables = [table if k == 0 else table.iloc[: int(found * len(table))] for k, table in enumerate(tables)]
    particles = pd.concat([table.assign(layer=k) for k, table in enumerate(tables, start=1)], ignore_index=True)
    lattices = [[Lattice(16.0, angle)] for angle in angles]
    fit = SimpleNamespace(unexplained=lambda: unexplained)
    return Hypothesis(len(angles), fit, particles, lattices, LayerCountRules())


@pytest.mark.parametrize(
    ("angles", "shares", "unexplained", "layers"),
    [
        ([7.0], [0.0], [1.0], 1),  # nothing to choose between
        ([7.0, 8.0], [0.0, 1.0], [1.9, 1.0], 2),  # one layer leaves nearly twice as much of the frame
        ([7.0, 8.0], [0.0, 0.9], [1.2, 1.0], 1),  # one layer needs half the particles and leaves hardly more
        ([7.0, 8.0, 9.0], [0.0, 1.0, 1.0], [3.2, 1.9, 1.0], 3),  # each layer explains clearly more
        ([7.0, 8.0, 9.0], [0.0, 1.0, 0.8], [1.9, 1.0, 1.0], 2),  # the third explains nothing
    ],
)
def test_the_fewest_layers_that_explain_the_frame_are_chosen(angles, shares, unexplained, layers):
    hypotheses = [
        layers_at(angles[: k + 1], left, share) for k, (share, left) in enumerate(zip(shares, unexplained, strict=True))
    ]
    assert choose_hypothesis(hypotheses[::-1]).asked == layers


def test_a_second_layer_that_is_not_alike_is_no_alternative_to_one():
    # In general position its lattice would have shown; here it is an artefact of asking for two.
    one, two = layers_at([7.0], 1.9), layers_at([7.0, 25.0], 1.0, found=1.0)
    assert choose_hypothesis([two, one]) is one
