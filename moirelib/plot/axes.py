"""What figures share: colours of the layers, axes in nm or pixels, scale bars."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.patches import Rectangle

#: Layer 1 and layer 2 in figures: Okabe and Ito's blue and orange, which colour-blind readers can tell apart.
LAYER_COLORS = ("#0072B2", "#E69F00")
OUTLINES = (*LAYER_COLORS, "#009E73", "#CC79A7")  # with Okabe and Ito's green and purple for layers 3 and 4


def choose_color(layer: int) -> str:
    """Colour of a layer, counted from 1."""
    return OUTLINES[(layer - 1) % len(OUTLINES)]


def place_table(table: pd.DataFrame, ax: Axes | None, pixel_size: float | None) -> tuple[Axes, np.ndarray]:
    """Axes, and the places (n, 2) of a table's rows in them as (y, x)."""
    ax = ax or plt.gca()
    return ax, place_points(table[["y_nm", "x_nm"]].to_numpy(float), ax, pixel_size)


def place_points(points: np.ndarray, ax: Axes, pixel_size: float | None) -> np.ndarray:
    """Points in nm as pixels of a micrograph in `ax`; or in nm, on axes made for that, without a pixel size."""
    if pixel_size is not None:
        return points / pixel_size
    if not ax.has_data():
        ax.set(aspect="equal", xlabel="x / nm", ylabel="y / nm")
        ax.invert_yaxis()
    known = points[np.isfinite(points).all(axis=1)]
    if len(known):
        ax.update_datalim(known[:, ::-1])
        ax.autoscale_view()
    return points


def add_ellipses(ax: Axes, width, height, turn, yx: np.ndarray, **style: Any) -> EllipseCollection:
    """Add ellipses of these axes and turn (degrees) at places (n, 2), in the axes' unit."""
    places: dict[str, Any] = {"units": "xy", "offsets": yx[:, ::-1], "offset_transform": ax.transData}
    ellipses = EllipseCollection(width, height, turn, **places, **style)
    ax.add_collection(ellipses)
    return ellipses


def finish_map(ax: Axes, sites: np.ndarray, title: str) -> Axes:
    """Set equal axes in nm around the sites (n, 2), y downwards as in an image."""
    low, high = sites.min(axis=0), sites.max(axis=0)
    rim = 0.05 * max(high - low)
    ax.set(xlim=(low[1] - rim, high[1] + rim), ylim=(high[0] + rim, low[0] - rim), aspect="equal")
    ax.set(xlabel="x / nm", ylabel="y / nm")
    ax.set_title(title, fontsize=10)
    return ax


def finish_image(ax: Axes, shape: tuple[int, ...], pixel_size: float, scale_bar: bool, title: str) -> Axes:
    """Set the limits of an image (y, x), its title and scale bar; remove the ticks."""
    ax.set(xticks=[], yticks=[], xlim=(-0.5, shape[1] - 0.5), ylim=(shape[0] - 0.5, -0.5))
    if title:
        ax.set_title(title, fontsize=10)
    if not scale_bar:
        return ax
    # A white bar with its length, 1, 2 or 5 times a power of ten nm, in a dark box in the corner
    height, width = shape
    goal = 0.22 * width * pixel_size
    power = 10.0 ** np.floor(np.log10(goal))
    length = max(m for m in (1, 2, 5) if m * power <= goal) * power
    x, y, long, high = 0.06 * width, 0.955 * height, length / pixel_size, 0.018 * height
    box = Rectangle((0.03 * width, 0.85 * height), long + 0.06 * width, 0.125 * height, facecolor="black", alpha=0.6)
    ax.add_patch(box).set(edgecolor="none", zorder=3)
    ax.add_patch(Rectangle((x, y - high), long, high, color="white", linewidth=0, zorder=4))
    style: dict[str, Any] = {"color": "white", "ha": "center", "va": "bottom", "fontsize": 8, "zorder": 4}
    ax.text(x + long / 2, y - 0.028 * height, f"{length:g} nm", **style)
    return ax
