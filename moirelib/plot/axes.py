"""What figures share: colours of the layers, axes, scale bars."""

from __future__ import annotations

import numpy as np
from matplotlib.patches import Rectangle

__all__ = ["LAYER_COLORS"]


#: Layer 1 and layer 2 in figures: Okabe and Ito's blue and orange, told apart by colour-blind readers too.
LAYER_COLORS = ("#0072B2", "#E69F00")
OUTLINES = (*LAYER_COLORS, "#009E73", "#CC79A7")  # with Okabe and Ito's green and purple for layers 3 and 4


def dress_map(ax, sites, title):
    """Equal axes in nm around the sites, y downwards as in an image."""
    low, high = sites.min(axis=0), sites.max(axis=0)
    rim = 0.05 * max(high - low)
    ax.set(xlim=(low[1] - rim, high[1] + rim), ylim=(high[0] + rim, low[0] - rim), aspect="equal")
    ax.set(xlabel="x / nm", ylabel="y / nm")
    ax.set_title(title, fontsize=10)
    return ax


def dress(ax, shape, pixel_size, scale_bar, title):
    """Title, no ticks, scale bar."""
    ax.set(xticks=[], yticks=[], xlim=(-0.5, shape[1] - 0.5), ylim=(shape[0] - 0.5, -0.5))
    if title:
        ax.set_title(title, fontsize=10)
    if scale_bar:
        _scale_bar(ax, shape, pixel_size)
    return ax


def _scale_bar(ax, shape, pixel_size) -> None:
    """A white bar of 1, 2 or 5 times a power of ten nm with its length, in a dark corner box."""
    goal = 0.22 * shape[1] * pixel_size
    power = 10.0 ** np.floor(np.log10(goal))
    length = max(m for m in (1, 2, 5) if m * power <= goal) * power
    x, y, width = 0.06 * shape[1], 0.955 * shape[0], length / pixel_size
    box = {"facecolor": "black", "alpha": 0.6, "edgecolor": "none", "zorder": 3}
    ax.add_patch(Rectangle((0.03 * shape[1], 0.85 * shape[0]), width + 0.06 * shape[1], 0.125 * shape[0], **box))
    bar = Rectangle((x, y - 0.018 * shape[0]), width, 0.018 * shape[0], color="white", linewidth=0, zorder=4)
    ax.add_patch(bar)
    label = f"{length:g} nm"
    ax.text(x + width / 2, y - 0.028 * shape[0], label, color="white", ha="center", va="bottom", fontsize=8, zorder=4)
