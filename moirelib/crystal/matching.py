"""Pair the members of two sets, one to one (Hungarian algorithm)."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist


def assign_pairs(cost: np.ndarray, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of as many ``allowed`` pairs (n, m) as can be made, at the least total ``cost`` (n, m) ≥ 0."""
    # A pair that is not allowed costs more than all allowed ones together: it is made only when nothing else is left.
    never = (np.max(cost, initial=0.0, where=allowed) + 1) * (sum(cost.shape) + 1)
    i, j = linear_sum_assignment(np.where(allowed, cost, never))
    return i[allowed[i, j]], j[allowed[i, j]]


def match(
    found: ArrayLike, truth: ArrayLike, reach: float, penalty: float | np.ndarray = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Pair found (n, 2) with true positions (m, 2), one to one: indices of as many pairs as can be made.

    Pairs are no farther apart than ``reach``, and at the least total distance; a ``penalty`` (n, m) is added to the
    distance of pairs within reach, to prefer some: ``inf`` for pairs that must not be made.
    """
    distance = cdist(np.reshape(found, (-1, 2)), np.reshape(truth, (-1, 2)))
    return assign_pairs(distance + penalty, (distance <= reach) & np.isfinite(penalty))


def pair_mutually_nearest(one: np.ndarray, other: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices of points (n, 2) and (m, 2) that are each other's nearest, and nearer than `reach` in their unit."""
    if len(one) == 0 or len(other) == 0:
        return np.zeros(0, int), np.zeros(0, int)
    distance, nearest = cKDTree(other).query(one)
    back = cKDTree(one).query(other)[1]
    i = np.flatnonzero((distance < reach) & (back[nearest] == np.arange(len(one))))
    return i, nearest[i]
