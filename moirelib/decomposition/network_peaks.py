"""Peaks in the network's output are particles (chapter 7, "Particles")."""

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree
from skimage.feature import peak_local_max

# Set by hand on simulated scenes of development seeds; lengths in diameters.
LOWEST_PEAK = 0.08  # height, where a particle that the network is sure of reaches 1
SMOOTHING = 1 / 20  # standard deviation: less than half of the network's own peak width
SEPARATION = 0.3  # of two peaks of one channel
REACH = 0.35  # of a peak: pixels that count for its centre
FLOOR = 0.02  # height of pixels that count


def locate(centers: np.ndarray, diameter: float, threshold: float = LOWEST_PEAK) -> pd.DataFrame:
    """Find particles in the network's output: ``channel`` (0-based), ``y, x`` (px) and ``score`` (height, 0 to 1).

    Parameters
    ----------
    centers : ndarray, shape (channels, y, x)
        Peaks at particle centres, from `moirelib.decomposition.predict`.
    diameter : float
        Expected particle diameter, in pixels of ``centers``.
    threshold : float
        Lowest height of a peak. Low by default: false peaks are removed later by the fit to the frame
        (`moirelib.decomposition.complete`), missed particles are harder to add.
    """
    tables = []
    for channel, peaks in enumerate(centers):
        yx = peak_local_max(
            gaussian_filter(peaks, SMOOTHING * diameter, mode="nearest"),
            min_distance=max(int(SEPARATION * diameter), 1),
            threshold_abs=threshold,
            exclude_border=False,
        )
        score = peaks[tuple(yx.T)]
        yx = measure_centroids(peaks, yx, REACH * diameter)
        tables.append(pd.DataFrame({"channel": channel, "y": yx[:, 0], "x": yx[:, 1], "score": score}))
    return pd.concat(tables, ignore_index=True)


def measure_centroids(image, yx, reach) -> np.ndarray:
    """Centre of mass of each particle's share of an image: the pixels within reach and nearest to it."""
    if len(yx) == 0:
        return yx.astype(float)
    covered = np.argwhere(image > FLOOR)
    distance, owner = cKDTree(yx).query(covered, distance_upper_bound=reach)
    near = np.isfinite(distance)
    covered, owner = covered[near], owner[near]
    weight = image[tuple(covered.T)]
    mass = np.bincount(owner, weight, len(yx))
    return np.stack([np.bincount(owner, weight * c, len(yx)) / mass for c in covered.T], axis=1)
