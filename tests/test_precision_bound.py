"""The bound on precision: known cases, and that neighbours count."""

import numpy as np
import pytest

from moirelib.validation import cramer_rao_bound
from moirelib.validation.precision_bound import color_apart

PHOTONS, WIDTH = 900.0, 3.0


def spots(positions, diameters, shape=(60, 80), background=1e-6):
    """Gaussian spots whose standard deviation is a quarter of their diameter, on next to no background."""
    y, x = np.indices(shape)
    image = np.full(shape, background)
    for (cy, cx), d in zip(positions, diameters, strict=True):
        s = d / 4
        image = image + PHOTONS / (2 * np.pi * s**2) * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * s**2))
    return image


def test_a_lone_spot_is_known_to_its_width_over_the_root_of_its_counts():
    bound = cramer_rao_bound(spots, [[30.0, 40.0]], [4 * WIDTH], reach=2.0)
    assert bound[["y_std", "x_std"]].to_numpy() == pytest.approx(WIDTH / np.sqrt(PHOTONS), rel=0.01)
    # Of a Gaussian of unknown width, the width is known to half of that along two axes together.
    assert bound["diameter_std"].to_numpy() == pytest.approx(4 * WIDTH / (2 * np.sqrt(PHOTONS)), rel=0.01)


def test_spots_that_overlap_none_do_not_count_for_each_other():
    alone = cramer_rao_bound(spots, [[30.0, 20.0]], [12.0])
    both = cramer_rao_bound(spots, [[30.0, 20.0], [30.0, 65.0]], [12.0, 12.0])
    assert both.iloc[0].to_numpy() == pytest.approx(alone.iloc[0].to_numpy(), rel=1e-3)


def test_a_spot_upon_another_is_known_less_well():
    bounds = [
        cramer_rao_bound(spots, [[30.0, 40.0], [30.0, 40.0 + d]], [12.0, 12.0], reach=2.0)["x_std"].mean()
        for d in (30.0, 6.0, 1.5)
    ]
    assert bounds[0] < bounds[1] < bounds[2]
    assert bounds[2] > 2.5 * bounds[0]


def test_readout_noise_and_what_is_shared_and_unknown_raise_the_bound():
    at, wide = [[30.0, 40.0], [30.0, 20.0]], [12.0, 12.0]
    known = cramer_rao_bound(spots, at, wide)
    noisy = cramer_rao_bound(spots, at, wide, readout=5.0)
    assert (noisy > known).all().all()
    step = (spots(at, np.add(wide, 0.1)) - spots(at, np.subtract(wide, 0.1))) / 0.2  # all diameters at once
    unsure = cramer_rao_bound(spots, at, wide, shared=[0.9 * step + 0.1 * spots(at, wide)])
    assert (unsure["diameter_std"] > 1.01 * known["diameter_std"]).all()


def test_an_image_beyond_the_frame_tells_nothing():
    bound = cramer_rao_bound(spots, [[30.0, 40.0], [30.0, 400.0]], [12.0, 12.0])
    assert np.isfinite(bound.iloc[0]).all()
    assert np.isinf(bound.iloc[1]).all()


def test_points_of_one_colour_are_apart():
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 100, (200, 2))
    color = color_apart(points, 12.0)
    for c in range(color.max() + 1):
        some = points[color == c]
        distance = np.hypot(*(some[:, None] - some).transpose(2, 0, 1)) + 1e9 * np.eye(len(some))
        assert distance.min() > 12.0
    assert color.max() < 25


def test_positions_and_diameters_must_fit():
    with pytest.raises(ValueError, match=r"positions must be \(n, 2\)"):
        cramer_rao_bound(spots, [[1.0, 2.0, 3.0]], [4.0])


def test_a_cameras_blur_costs_nothing_without_readout_noise_and_much_with_it():
    at, wide = [[30.0, 40.0]], [8.0]

    def bound(readout, mtf):
        return cramer_rao_bound(spots, at, wide, readout=readout, mtf=mtf, reach=2.5)["x_std"].iloc[0]

    def blur(k):
        return np.exp(-4 * k)

    assert bound(0.0, blur) == pytest.approx(bound(0.0, None), rel=0.03)
    assert bound(10.0, blur) > 1.2 * bound(10.0, None)
