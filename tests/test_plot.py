"""Figures: they draw where they are told, and the scale bar is as long as it says."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from moirelib import plot
from moirelib.plot.axes import choose_color


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
    table = pd.DataFrame({"layer": [1, 2, 3], "y": [5.0, 9, 1], "x": [6.0, 3, 1], "diameter_nm": [4.0, 8, 2]})
    plot.show_particles(table, ax, pixel_size=2.0)
    assert [c.get_widths()[0] for c in ax.collections] == [2.0, 4.0, 1.0]
    plot.show_particles(table, ax, layer=2)
    np.testing.assert_array_equal(ax.collections[-1].get_offsets(), [[3.0, 9.0]])


def test_split_shows_one_layer_per_panel():
    layers = np.zeros((2, 8, 8), np.uint8)
    layers[0] = 255
    axes = plot.show_split(np.random.default_rng(0).normal(size=(8, 8)), layers, 1.0)
    assert axes[1].images[0].get_array().max() > 0.4
    assert axes[2].images[0].get_array().max() == 0
    plt.close(axes[0].figure)


def test_three_layers_have_three_colours_and_panels(ax):
    layers = np.zeros((3, 8, 8), bool)
    layers[2, :, :4] = True
    plot.show_layers(layers, 1.0, ax)
    np.testing.assert_allclose(ax.images[0].get_array()[0, 0], to_rgb(choose_color(3)), atol=1e-6)
    axes = plot.show_split(np.random.default_rng(0).normal(size=(8, 8)), layers, 1.0)
    assert len(axes) == 4
    plt.close(axes[0].figure)


def test_tracks_are_paths_in_the_order_of_frames(ax):
    rows = {"frame": [1, 0, 0, 2], "particle": [7, 7, 8, 7], "layer": [1, 1, 2, 1]}
    table = pd.DataFrame({**rows, "y": [2.0, 1.0, 5.0, 4.0], "x": [3.0, 0.0, 6.0, 9.0]})
    plot.show_tracks(table, ax)
    first, second = ax.collections
    np.testing.assert_array_equal(first.get_segments()[0], [[0, 1], [3, 2], [9, 4]])
    for lines, color in zip((first, second), plot.LAYER_COLORS, strict=True):
        np.testing.assert_allclose(lines.get_colors()[0, :3], to_rgb(color))
    plot.show_tracks(table, ax, layer=2)
    assert len(ax.collections) == 3


@pytest.fixture
def three_layers():
    """A library of five images in which layer k is a square of its own."""
    masks = np.zeros((5, 3, 40, 40), np.uint8)
    for k in range(3):
        masks[:, k, 5 + 10 * k : 12 + 10 * k, 5:12] = 255
    frames = np.random.default_rng(0).integers(90, 110, (5, 40, 40))
    return {"frame": frames, "mask": masks, "pixel_size": np.ones(5)}


def test_library_shows_every_layer_in_a_colour_of_its_own(three_layers):
    axes = plot.show_library(three_layers)
    shown = [ax for ax in axes.flat if ax.images]
    assert len(shown) == 5
    assert not axes.flat[5].axison
    assert sorted(ax.get_title() for ax in shown) == [f"image {i}" for i in range(5)]
    for ax in shown:
        assert len({tuple(c.get_edgecolor()[0]) for c in ax.collections}) == 3
    plt.close(axes.flat[0].figure)


def test_library_is_drawn_into_given_axes(ax, three_layers):
    assert plot.show_library(three_layers, ax, count=1) is ax
    assert len(ax.images) == 1


@pytest.fixture
def map_table():
    rows = {"y_nm": [0.0, 0.0, 20.0], "x_nm": [0.0, 20.0, 10.0], "rotation_deg": [-1.0, 0.0, 2.0]}
    return pd.DataFrame({**rows, "strain_yy": [0.01, np.nan, -0.02], "coordinate": [3.0, -1.0, -1.5]})


def test_a_map_colours_disks_of_a_spacing_at_their_particles(ax, map_table):
    assert plot.show_map(map_table, map_table["rotation_deg"], ax, pixel_size=2.0, clim=(-1, 2)) is ax
    (disks,) = ax.collections
    np.testing.assert_allclose(disks.get_offsets(), map_table[["x_nm", "y_nm"]] / 2.0)
    assert disks.get_widths() == pytest.approx([10.0] * 3)
    assert disks.get_clim() == (-1, 2)
    assert len(ax.figure.axes) == 2  # with its colour bar


def test_strain_is_in_percent_with_zero_in_the_middle_and_unknown_in_grey(ax, map_table):
    plot.show_strain(map_table, "strain_yy", ax)
    (disks,) = ax.collections
    low, high = disks.get_clim()
    assert low == -high
    assert 1.0 < high <= 2.0
    disks.update_scalarmappable()
    np.testing.assert_allclose(disks.get_facecolors()[1, :3], [0.85] * 3)
    assert ax.yaxis_inverted()


def test_registry_spans_from_hollow_to_top(ax, map_table):
    plot.show_registry(map_table, ax, colorbar=False)
    assert ax.collections[0].get_clim() == (-1.5, 3.0)


def test_hexatic_shows_the_direction_of_rows(ax):
    points = np.array([[0.0, 0.0], [0.0, 20.0]])
    plot.show_hexatic(points, np.exp(6j * np.radians([10.0, 70.0])), ax)  # 60° apart: the same rows
    np.testing.assert_allclose(ax.collections[0].get_array(), [10.0, 10.0])
    plot.show_hexatic(points, np.array([0.5, 1j]), ax, direction=False)
    np.testing.assert_allclose(ax.collections[1].get_array(), [0.5, 1.0])


def test_vectors_are_as_long_as_they_are_times_the_scale(ax):
    plot.show_vectors([[10.0, 20.0]], [[2.0, -1.0]], ax, pixel_size=2.0, scale=3.0)
    (arrows,) = ax.collections
    np.testing.assert_allclose([arrows.U[0], arrows.V[0]], [-1.5, 3.0])
    np.testing.assert_allclose(arrows.get_offsets()[0], [10.0, 5.0])


def test_defects_have_a_mark_for_each_kind_and_boundaries_a_line(ax):
    nan = np.nan
    rows = [("vacancy", 1.0, 2.0, nan, nan), ("dislocation", 5.0, 6.0, 0.0, 20.0), ("vacancy", 9.0, 9.0, nan, nan)]
    defects = pd.DataFrame(rows, columns=["kind", "y_nm", "x_nm", "burgers_y_nm", "burgers_x_nm"])
    lines = [("twin", 0.0, 0.0, 10.0, 20.0), ("grain", 5.0, 0.0, 5.0, 20.0), ("grain", 7.0, 0.0, 7.0, 20.0)]
    boundaries = pd.DataFrame(lines, columns=["kind", "y0_nm", "x0_nm", "y1_nm", "x1_nm"])
    assert plot.show_defects(defects, ax, boundaries=boundaries) is ax
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["twin boundary", "grain boundary", "vacancy", "dislocation"]
    assert [line.get_linestyle() for line in ax.lines] == ["-", "--", "--"]
    marks = next(c for c in ax.collections if c.get_label() == "vacancy")
    np.testing.assert_allclose(marks.get_offsets(), [[2, 1], [9, 9]])


def test_no_defects_are_drawn_without_complaint(ax):
    empty = pd.DataFrame(columns=["kind", "y_nm", "x_nm", "burgers_y_nm", "burgers_x_nm"])
    assert plot.show_defects(empty, ax) is ax
    assert ax.get_legend() is None


def test_movie_of_tracks_is_written_with_all_frames_and_particles(ax, tmp_path):
    rng = np.random.default_rng(5)
    sites = rng.uniform(20, 180, (12, 2))
    rows = [
        pd.DataFrame(sites + t, columns=["y_nm", "x_nm"]).assign(frame=t, particle=range(12), layer=[1] * 8 + [2] * 4)
        for t in range(5)
    ]
    animation = plot.animate_tracks(pd.concat(rows, ignore_index=True), ax, trail=2)
    animation.save(tmp_path / "tracks.gif", writer="pillow", dpi=40)
    with Image.open(tmp_path / "tracks.gif") as gif:
        assert gif.n_frames == 5
    # The last frame stays drawn: 8 + 4 dots where the particles are, and tracks of the last three frames.
    dots = [np.column_stack(line.get_data())[:, ::-1] for line in ax.lines if len(line.get_xdata())]
    assert sorted(map(len, dots)) == [4, 8]
    np.testing.assert_allclose(np.sort(np.concatenate(dots), axis=0), np.sort(sites + 4, axis=0))
    paths = [p for collection in ax.collections for p in collection.get_segments()]
    assert [len(p) for p in paths] == [3] * 12
