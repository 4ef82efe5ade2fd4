"""The decomposition on images of another simulator, so that no habit of our own goes unnoticed."""

import beer_lambert
import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter

from moirelib.crystal import match
from moirelib.decomposition import decompose
from moirelib.validation import score_layers, score_particles

pytestmark = pytest.mark.slow

PIXEL_SIZE = 1.2  # nm

SCENES = {
    "translucent spheres": {"twist": 12.0, "absorption": 0.9},
    "spheres, small twist": {"twist": 8.0, "island": False},
    "dark rods": {"twist": 25.0, "shape": "rod", "absorption": 1.4, "ratio": 0.65, "blur": 0.12},
    "inverted contrast": {"twist": 18.0, "inverted": True},
    "higher magnification": {"twist": 15.0, "spacing": 38.0, "electrons": 60.0, "size": 448},
}


@pytest.fixture(scope="module")
def scenes():
    """Every scene with its decomposition, made when first asked for."""
    done = {}

    def get(name):
        if name not in done:
            number = list(SCENES).index(name)
            image = beer_lambert.simulate(np.random.default_rng((4, number)), **SCENES[name])
            done[name] = image, decompose(image.frame, pixel_size=PIXEL_SIZE, device="cpu")
        return done[name]

    return get


def diameter(name):
    """True diameter in nm."""
    spacing, ratio = (SCENES[name].get(key, default) for key, default in (("spacing", 26.0), ("ratio", 0.7)))
    return spacing * ratio * PIXEL_SIZE


@pytest.mark.parametrize("name", SCENES)
def test_layers_come_apart(scenes, name):
    image, result = scenes(name)
    nm = image.positions * PIXEL_SIZE
    truth = pd.DataFrame({"frame": 0, "layer": image.layers, "y_nm": nm[:, 0], "x_nm": nm[:, 1]})
    field = np.array(image.frame.shape) * PIXEL_SIZE
    layers = np.asarray(result.layers)
    scores = score_layers(result.particles, layers, truth, image.masks[None], diameter(name), field)
    assert scores["f1"] > 0.99
    assert scores["mask_accuracy"] > 0.985
    assert scores["mask_iou"] > 0.97


def test_positions_are_unbiased_to_a_tenth_of_a_pixel(scenes):
    # Half a pixel of difference between two conventions would show as an offset of 0.5.
    offsets = []
    for name in ("translucent spheres", "dark rods", "higher magnification"):
        image, result = scenes(name)
        found = result.particles[["y", "x"]].to_numpy()
        i, j = match(found, image.positions, 0.3 * diameter(name) / PIXEL_SIZE)
        offsets.append(found[i] - image.positions[j])
    offsets = np.concatenate(offsets)
    assert len(offsets) > 500
    assert np.all(np.abs(offsets.mean(axis=0)) < 0.1)


def test_diameters_are_those_of_the_particles(scenes):
    for name in SCENES:
        assert scenes(name)[1].summary["diameter_nm"] == pytest.approx(diameter(name), rel=0.015)


@pytest.mark.parametrize("seed", [5, 9])
def test_two_layers_nearly_upon_each_other_stay_two(seed):
    # Over the whole frame each particle has one of the other layer within half a diameter.
    rng, size, spacing, width = np.random.default_rng(seed), 288, 24.0, 17.0
    passed, layers = 0.0, []
    for angle, origin in ((20.0, (144.0, 144.0)), (22.0, (146.0, 145.0))):
        points = beer_lambert.hexagonal_points(spacing, angle, origin, size, 2 * width)
        layers.append(points + 0.5 * rng.standard_normal(points.shape))
        passed = passed + 1.4 * beer_lambert.thickness_map(layers[-1], width, "sphere", size) / width
    light = gaussian_filter(np.exp(-passed), 4.0).reshape(size, 4, size, 4).mean(axis=(1, 3))
    frame = rng.poisson(120 * light) + 1.5 * rng.standard_normal(light.shape)
    nm = np.concatenate(layers) * PIXEL_SIZE
    truth = pd.DataFrame(
        {"frame": 0, "layer": np.repeat([1, 2], list(map(len, layers))), "y_nm": nm[:, 0], "x_nm": nm[:, 1]}
    )
    particles = decompose(frame, pixel_size=PIXEL_SIZE, device="cpu").particles
    assert score_particles(particles, truth, width * PIXEL_SIZE, (size * PIXEL_SIZE,) * 2)["f1"] > 0.99
