"""Micrographs, layers, particles and tracks."""

from collections.abc import Callable, Sequence
from itertools import cycle
from os import PathLike
from typing import Any, cast

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.animation import FuncAnimation
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from PIL import Image

from ..movies.movie import Movie
from .axes import OUTLINES, add_ellipses, choose_color, finish_image, finish_map


def show_frame(
    frame: ArrayLike, pixel_size: float, ax: Axes | None = None, scale_bar: bool = True, title: str = ""
) -> Axes:
    """Show a micrograph (y, x) in grey, from the 0.5th to the 99.5th percentile, with a scale bar."""
    ax, frame = ax or plt.gca(), np.asarray(frame)
    low, high = np.percentile(frame, [0.5, 99.5])
    high = high if high > low else low + 1
    ax.imshow(frame, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
    return finish_image(ax, frame.shape, pixel_size, scale_bar, title)


def show_layers(
    layers: ArrayLike, pixel_size: float, ax: Axes | None = None, scale_bar: bool = True, title: str = ""
) -> Axes:
    """Show layers (layer, y, x) in their colours, added up: blue, orange, and a light tone where both are.

    Covered fraction or probability: integers from 0 to 255, floats from 0 to 1, or which pixels are covered.
    """
    ax = ax or plt.gca()
    layers = np.asarray(layers)
    layers = np.clip(layers / (1.0 if layers.dtype == bool or layers.dtype.kind == "f" else 255.0), 0, 1)
    colors = np.array([to_rgb(choose_color(number)) for number in range(1, len(layers) + 1)])
    ax.imshow(np.clip(np.tensordot(layers, colors, axes=(0, 0)), 0, 1), interpolation="nearest")
    return finish_image(ax, layers.shape[1:], pixel_size, scale_bar, title)


def show_particles(
    particles: pd.DataFrame,
    ax: Axes | None = None,
    pixel_size: float | None = None,
    layer: int | None = None,
    **style: Any,
) -> Axes:
    """Draw the particles of one frame's table as circles of their diameter, in their layer's colour.

    Without a pixel size they are dots. ``style`` goes to `EllipseCollection` of matplotlib, or to `Axes.scatter`.
    """
    ax = ax or plt.gca()
    for number, rows in particles.groupby("layer"):
        color = choose_color(number)
        if layer not in (None, number):
            continue
        if pixel_size is None:
            ax.scatter(rows["x"], rows["y"], **{"s": 6, "color": color, **style})
        else:
            width = rows["diameter_nm"].to_numpy() / pixel_size
            look = {"edgecolors": color, "facecolors": "none", "linewidths": 1.0, **style}
            add_ellipses(ax, width, width, 0 * width, rows[["y", "x"]].to_numpy(), **look)
    return ax


def show_split(
    frame: ArrayLike,
    layers: ArrayLike,
    pixel_size: float,
    axes: Sequence[Axes] | None = None,
    particles: pd.DataFrame | None = None,
) -> Sequence[Axes]:
    """Show the raw frame, with circles at the particles, and each layer beside it; gives all axes."""
    layers = np.asarray(layers)
    if axes is None:
        count = 1 + len(layers)
        _, axes = plt.subplots(1, count, figsize=(3 * count, 3.3), layout="constrained")
    show_frame(frame, pixel_size, axes[0], title="raw frame")
    if particles is not None:
        show_particles(particles, axes[0], pixel_size)
    for k, ax in enumerate(axes[1:]):
        alone = np.zeros_like(layers)
        alone[k] = layers[k]
        show_layers(alone, pixel_size, ax, title=f"layer {k + 1}")
    return axes


def show_tracks(tracks: pd.DataFrame, ax: Axes | None = None, layer: int | None = None, linewidth: float = 1.0) -> Axes:
    """Draw the path of every particle (``frame, particle, layer, y, x`` in px) as a line, in its layer's colour."""
    ax = ax or plt.gca()
    for number, rows in tracks[tracks["particle"] >= 0].groupby("layer"):
        if layer in (None, number):
            paths = [path[["x", "y"]].to_numpy() for _, path in rows.sort_values("frame").groupby("particle")]
            ax.add_collection(LineCollection(paths, colors=choose_color(number), linewidths=linewidth))
    return ax


def animate_tracks(
    particles: pd.DataFrame, ax: Axes | None = None, movie: Movie | None = None, trail: int = 8
) -> FuncAnimation:
    """Make a movie of particles, their tracks behind them; ``save("tracks.gif", writer="pillow")`` writes a GIF.

    Particles (``frame, particle, layer, y_nm, x_nm``) that are not linked have no track, which reaches back over a
    ``trail`` of frames. Axes are new by default and in nm; a `moirelib.movies.Movie` is shown below the particles.
    """
    ax = plt.subplots(figsize=(5, 5), layout="constrained")[1] if ax is None else ax
    painter = _TrackPainter(particles, ax, movie, trail)
    times = [int(t) for t in np.unique(painter.time)]
    return FuncAnimation(cast("Figure", ax.figure), painter.draw, frames=times, blit=False)


class _TrackPainter:
    """Axes with the particles of all layers, and their tracks behind them."""

    def __init__(self, particles, ax, movie=None, trail=8):
        finish_map(ax, particles[["y_nm", "x_nm"]].to_numpy(float), "")
        self.particles, self.ax, self.movie = particles.sort_values("frame", kind="stable"), ax, movie
        self.time, self.trail = self.particles["frame"].to_numpy(), trail
        if movie is not None:
            if movie.pixel_size is None:
                raise ValueError(f"pixel size is missing from {movie.name}; pass pixel_size=... (nm) to read_movie")
            height, width = np.array(movie.shape[1:]) - 0.5  # pixel centres lie at whole numbers of pixels
            extent = movie.pixel_size * np.array([-0.5, width, height, -0.5])  # nm
            self.picture = ax.imshow(movie.frame(0), cmap="gray", extent=extent, origin="upper")
        self.marks = {}
        for layer in sorted(particles["layer"].unique()):
            color = choose_color(layer)
            dots = ax.plot([], [], ".", ms=4, color=color, label=f"layer {layer}")[0]
            self.marks[layer] = dots, ax.add_collection(LineCollection([], colors=color, linewidths=1))
        # Beside the title, where no particle is hidden
        corner = {"loc": "lower right", "bbox_to_anchor": (1, 1), "borderpad": 0}
        ax.legend(ncols=len(self.marks), fontsize=8, frameon=False, **corner)

    def draw(self, frame: int) -> list[Artist]:
        """Show a frame; gives what changed."""
        title = self.ax.set_title(f"frame {frame}", fontsize=10, loc="left")
        recent = self.particles.iloc[slice(*np.searchsorted(self.time, [frame - self.trail, frame + 1]))]
        for layer, (dots, tails) in self.marks.items():
            rows = recent[recent["layer"] == layer]
            now = rows[rows["frame"] == frame]
            dots.set_data(now["x_nm"], now["y_nm"])
            linked = rows[rows["particle"] >= 0].sort_values("particle", kind="stable")
            ends = np.flatnonzero(np.diff(linked["particle"])) + 1
            tails.set_segments(np.split(linked[["x_nm", "y_nm"]].to_numpy(), ends))
        if self.movie is not None:
            image = self.movie.frame(frame)
            self.picture.set(data=image, clim=np.percentile(image, [0.5, 99.5]))
        dots, tails = zip(*self.marks.values(), strict=True)
        return [title, *tails, *dots]


def write_track_movie(
    particles: pd.DataFrame,
    file: str | PathLike[str],
    frames: ArrayLike | None = None,
    after_frame: Callable[[], object] = lambda: None,
) -> None:
    """Write the same as `animate_tracks` as a GIF, fast: axes and labels are drawn once for all frames.

    Each of ``frames``, by default all that the table holds, is seen for 1/8 s; ``after_frame`` is called after each.
    """
    canvas = FigureCanvasAgg(Figure(figsize=(5, 5), dpi=80, layout="constrained"))
    painter = _TrackPainter(particles, canvas.figure.add_subplot())
    for artist in painter.draw(int(painter.time[0])):
        artist.set_animated(True)  # not part of the background
    canvas.draw()
    background = canvas.copy_from_bbox(canvas.figure.bbox)
    pictures = []
    for frame in np.unique(painter.time if frames is None else frames):
        canvas.restore_region(background)
        for artist in painter.draw(int(frame)):
            painter.ax.draw_artist(artist)
        pictures.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]))
        after_frame()
    pictures[0].save(file, save_all=True, append_images=pictures[1:], duration=125, loop=0)


def show_library(library: Any, axes: Any = None, count: int = 6, seed: int = 0) -> Any:
    """Show random images of an open library with the true outlines of every layer; gives the axes, rows of three."""
    if axes is None:
        rows, columns = -(-count // 3), min(count, 3)
        _, axes = plt.subplots(rows, columns, figsize=(3 * columns, 3.2 * rows), layout="constrained", squeeze=False)
    indices = np.random.default_rng(seed).permutation(library["frame"].shape[0])[:count]
    for ax in np.ravel(axes)[len(indices) :]:
        ax.set_axis_off()
    for ax, i in zip(np.ravel(axes), indices, strict=False):
        show_frame(library["frame"][i], float(library["pixel_size"][i]), ax, title=f"image {i}")
        for mask, color in zip(library["mask"][i], cycle(OUTLINES), strict=False):
            if mask.any():
                ax.contour(mask, [127], colors=color, linewidths=0.9)
    return axes
