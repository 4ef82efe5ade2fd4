"""Figures: they draw where they are told, and the scale bar is as long as it says."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from moirelib import plot


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


@pytest.mark.parametrize("pixel_size", [0.1, 1.367, 2.593])
def test_scale_bar_is_as_long_as_it_says(ax, pixel_size):
    image = np.random.default_rng(0).normal(size=(200, 300))
    assert plot.show_frame(image, pixel_size, ax) is ax
    length = float(ax.texts[0].get_text().removesuffix(" nm"))
    bar = ax.patches[-1].get_width()
    assert bar * pixel_size == pytest.approx(length)
    assert 0.05 < bar / 300 < 0.25


def test_layers_are_drawn_in_their_colours(ax):
    layers = np.zeros((2, 8, 8), np.uint8)
    layers[0, :, :4] = layers[1, :, 4:] = 255
    plot.show_layers(layers, 1.0, ax, scale_bar=False)
    shown = ax.images[0].get_array()
    for x, color in zip((0, 7), plot.LAYER_COLORS, strict=True):
        np.testing.assert_allclose(shown[0, x], to_rgb(color), atol=1e-6)


def test_particles_are_circles_of_their_diameter(ax):
    table = pd.DataFrame({"layer": [1, 2], "y": [5.0, 9.0], "x": [6.0, 3.0], "diameter_nm": [4.0, 8.0]})
    plot.show_particles(table, ax, pixel_size=2.0)
    assert [c.get_widths()[0] for c in ax.collections] == [2.0, 4.0]
    plot.show_particles(table, ax, layer=2)
    np.testing.assert_array_equal(ax.collections[-1].get_offsets(), [[3.0, 9.0]])


def test_split_shows_one_layer_per_panel():
    layers = np.zeros((2, 8, 8), np.uint8)
    layers[0] = 255
    axes = plot.show_split(np.random.default_rng(0).normal(size=(8, 8)), layers, 1.0)
    assert axes[1].images[0].get_array().max() > 0.4
    assert axes[2].images[0].get_array().max() == 0
    plt.close(axes[0].figure)
