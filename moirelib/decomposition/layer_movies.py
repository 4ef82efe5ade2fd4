"""Draw layer movies from the particle table (chapter 6, "Decompose")."""

import dask.array as da
import numpy as np
import pandas as pd


def draw_layers(particles: pd.DataFrame, working, shape) -> da.Array:
    """Layer movies (t, 2, y, x) that are drawn frame by frame when looked at; parameters as for `render_layers`."""
    by_frame = dict(list(particles.groupby("frame")))
    empty = particles.iloc[:0]

    def draw_block(block_id=None):
        t = block_id[0]
        return render_layers(by_frame.get(t, empty), working, shape[1:])[None]

    return da.map_blocks(draw_block, chunks=((1,) * shape[0], (2,), (shape[1],), (shape[2],)), dtype=np.uint8)


def render_layers(particles: pd.DataFrame, working, shape) -> np.ndarray:
    """Layer images (2, y, x) that agree with the particle table: every particle's outline in its own layer.

    ``particles`` holds ``layer, y_likeliest, x_likeliest, diameter_likeliest`` in working pixels; ``working`` and
    ``shape`` are (y, x) of the working frame and of the result. Covered fraction of each pixel, 0 to 255 (uint8).
    """
    out = np.zeros((2, *shape), np.float32)
    zoom = np.array(shape) / np.array(working)
    yx = (particles[["y_likeliest", "x_likeliest"]].to_numpy() + 0.5) * zoom - 0.5
    radius = 0.5 * particles["diameter_likeliest"].to_numpy() * np.sqrt(zoom.prod())
    for (y, x), r, k in zip(yx, radius, particles["layer"].to_numpy(), strict=True):
        rows, columns = (
            np.arange(max(int(c - r) - 1, 0), min(int(c + r) + 3, n)) for c, n in zip((y, x), shape, strict=True)
        )
        if rows.size and columns.size:
            covered = np.clip(r + 0.5 - np.hypot(rows[:, None] - y, columns - x), 0, 1)
            window = out[k - 1, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            np.maximum(window, covered, out=window)
    return np.rint(255 * out).astype(np.uint8)
