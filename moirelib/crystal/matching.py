"""Pair the points of two sets."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

__all__ = ["match", "unpaired"]


def unpaired(plus: np.ndarray, minus: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Which of two sets of points (n, 2) have no partner of the other within reach, in the closest pairing of all."""
    alone = np.ones(len(plus), bool), np.ones(len(minus), bool)
    if len(plus) and len(minus):
        distance = cdist(plus, minus)
        i, j = linear_sum_assignment(np.where(distance < reach, distance, 1e3 * reach))
        near = distance[i, j] < reach
        alone[0][i[near]], alone[1][j[near]] = False, False
    return alone


def match(found, truth, reach: float, penalty=0.0) -> tuple[np.ndarray, np.ndarray]:
    """Pair found with true positions, one to one (Hungarian algorithm).

    Parameters
    ----------
    found, truth : array_like, shape (n, 2) and (m, 2)
        Positions, in any one unit.
    reach : float
        Farthest distance of a pair, in the same unit.
    penalty : float or ndarray, shape (n, m)
        Added to the distance of pairs within reach, to prefer some; ``inf`` for pairs that must not be made.

    Returns
    -------
    i, j : ndarray of int
        Indices into ``found`` and ``truth`` of as many pairs within reach as can be made, at the least total distance.
    """
    found, truth = np.reshape(found, (-1, 2)), np.reshape(truth, (-1, 2))
    distance = cdist(found, truth)
    allowed = (distance <= reach) & np.isfinite(penalty)
    # A pair out of reach costs more than all pairs within it together, so it is only made when nothing else is left.
    largest = np.max(penalty, initial=0.0, where=np.isfinite(penalty))
    never = (reach + largest) * (len(found) + len(truth) + 1)
    i, j = linear_sum_assignment(np.where(allowed, distance + penalty, never))
    made = allowed[i, j]
    return i[made], j[made]
