"""Draw layer movies from the particle table (chapter 6, "Decompose")."""

import dask.array as da
import numpy as np
import pandas as pd


def draw_layers(particles: pd.DataFrame, working, shape, layers: int) -> da.Array:
    """Layer movies (t, layers, y, x), each image drawn when it is looked at; parameters as for `render_layer`."""
    outlines = particles[[f"{name}_likeliest" for name in ("y", "x", "diameter")]]
    rows = particles.reset_index().groupby(["frame", "layer"]).indices

    def draw_block(block_id=None):
        t, k = block_id[:2]
        return render_layer(outlines.iloc[rows.get((t, k + 1), [])], working, shape[1:])[None, None]

    return da.map_blocks(draw_block, chunks=((1,) * shape[0], (1,) * layers, (shape[1],), (shape[2],)), dtype=np.uint8)


def render_layer(particles: pd.DataFrame, working, shape) -> np.ndarray:
    """Image (y, x) that agrees with the particle table: every particle's outline.

    ``particles`` holds ``y_likeliest, x_likeliest, diameter_likeliest`` in working pixels; ``working`` and ``shape``
    are (y, x) of the working frame and of the result. Covered fraction of each pixel, 0 to 255 (uint8).
    """
    out = np.zeros(shape, np.float32)
    zoom = np.array(shape) / np.array(working)
    yx = (particles[["y_likeliest", "x_likeliest"]].to_numpy() + 0.5) * zoom - 0.5
    radius = 0.5 * particles["diameter_likeliest"].to_numpy() * np.sqrt(zoom.prod())
    for (y, x), r in zip(yx, radius, strict=True):
        rows, columns = (
            np.arange(max(int(c - r) - 1, 0), min(int(c + r) + 3, n)) for c, n in zip((y, x), shape, strict=True)
        )
        if rows.size and columns.size:
            covered = np.clip(r + 0.5 - np.hypot(rows[:, None] - y, columns - x), 0, 1)
            window = out[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            np.maximum(window, covered, out=window)
    return np.rint(255 * out).astype(np.uint8)
