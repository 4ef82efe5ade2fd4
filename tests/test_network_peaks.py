"""Particles: detection in the network's output."""

import numpy as np
import pytest
from drawn_frames import D, square_of_points
from scipy.spatial import cKDTree

from moirelib.decomposition import CENTER_WIDTH, locate


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
