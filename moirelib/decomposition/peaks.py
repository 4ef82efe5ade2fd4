"""Peaks in the network's output are particles.

Explained in chapter 7, "Particles".
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree
from skimage.feature import peak_local_max

__all__ = ["locate"]


def locate(centers: np.ndarray, diameter: float, threshold: float = 0.08) -> pd.DataFrame:
    """Find particles in the network's output.

    Parameters
    ----------
    centers : ndarray, shape (channels, y, x)
        Peaks at particle centres, from `moirelib.decomposition.predict`.
    diameter : float
        Expected particle diameter, in pixels of ``centers``.
    threshold : float
        Lowest height of a peak. Low by default: what is missed here is harder to make up for than what is found too
        much, which the frame refutes (`moirelib.decomposition.complete`).

    Returns
    -------
    pandas.DataFrame
        ``channel`` (0-based), ``y, x`` (px, to a fraction of a pixel), ``score`` (height of the peak, 0 to 1).

    Notes
    -----
    Explained in chapter 7, "Particles".
    """
    tables = []
    for channel, peaks in enumerate(centers):
        yx = peak_local_max(
            gaussian_filter(peaks, diameter / 20, mode="nearest"),
            min_distance=max(int(0.3 * diameter), 1),
            threshold_abs=threshold,
            exclude_border=False,
        )
        score = peaks[tuple(yx.T)]
        yx = _centroids(peaks, yx, 0.35 * diameter)
        tables.append(pd.DataFrame({"channel": channel, "y": yx[:, 0], "x": yx[:, 1], "score": score}))
    return pd.concat(tables, ignore_index=True)


def _centroids(image, yx, reach) -> np.ndarray:
    """Centre of mass of each particle's share of an image: the pixels within reach and nearest to it."""
    if len(yx) == 0:
        return yx.astype(float)
    covered = np.argwhere(image > 0.02)
    distance, owner = cKDTree(yx).query(covered, distance_upper_bound=reach)
    near = np.isfinite(distance)
    covered, owner = covered[near], owner[near]
    weight = image[tuple(covered.T)]
    mass = np.bincount(owner, weight, len(yx))
    return np.stack([np.bincount(owner, weight * c, len(yx)) / mass for c in covered.T], axis=1)
