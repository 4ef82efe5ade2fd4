"""Pair the members of two sets, one to one."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

__all__ = ["assign_pairs", "match", "match_nearest"]


def assign_pairs(cost: np.ndarray, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As many allowed pairs as can be made, at the least total cost (Hungarian algorithm).

    Parameters
    ----------
    cost : ndarray, shape (n, m)
        Not negative, in any one unit.
    allowed : ndarray of bool, shape (n, m)
        Which pairs may be made.

    Returns
    -------
    i, j : ndarray of int
        Row and column of every pair.
    """
    # A pair that is not allowed costs more than all allowed ones together: it is made only when nothing else is left.
    never = (np.max(cost, initial=0.0, where=allowed) + 1) * (sum(cost.shape) + 1)
    i, j = linear_sum_assignment(np.where(allowed, cost, never))
    return i[allowed[i, j]], j[allowed[i, j]]


def match(found, truth, reach: float, penalty: float | np.ndarray = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Pair found with true positions, one to one.

    Parameters
    ----------
    found, truth : array_like, shape (n, 2) and (m, 2)
        Positions, in any one unit.
    reach : float
        Farthest distance of a pair, in the same unit.
    penalty : float or ndarray, shape (n, m)
        Added to the distance of pairs within reach, to prefer some.

    Returns
    -------
    i, j : ndarray of int
        Indices into ``found`` and ``truth`` of as many pairs within reach as can be made, at the least total distance.
    """
    distance = cdist(np.reshape(found, (-1, 2)), np.reshape(truth, (-1, 2)))
    return assign_pairs(distance + penalty, distance <= reach)


def match_nearest(one: np.ndarray, other: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices into two sets of points (n, 2) of the pairs within reach that are each other's nearest."""
    if min(len(one), len(other)) == 0:
        return np.empty(0, int), np.empty(0, int)
    distance, there = cKDTree(other).query(one)
    back = cKDTree(one).query(other)[1]
    i = np.flatnonzero((distance < reach) & (back[there] == np.arange(len(one))))
    return i, there[i]
