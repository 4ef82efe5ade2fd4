"""Hexagonal lattices: spacing, angle, wave vectors (chapter 1, "Lattices")."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


def fold_hexagonal(angle: float) -> float:
    """Smallest equivalent twist of two hexagonal lattices, in degrees between 0 and 30."""
    return float(abs((angle + 30.0) % 60.0 - 30.0))


def hexagonal_lattice(spacing: float, angle: float, center: ArrayLike, radius: float) -> np.ndarray:
    """Points (n, 2) of a hexagonal lattice within a circle about one of them, the center (y, x); lengths in nm."""
    n = int(np.ceil(radius / spacing / np.sin(np.pi / 3))) + 1
    i, j = np.meshgrid(np.arange(-n, n + 1), np.arange(-n, n + 1), indexing="ij")
    t = np.radians([angle, angle + 60.0])
    basis = spacing * np.stack([np.sin(t), np.cos(t)], axis=1)  # rows are (y, x)
    points = np.stack([i.ravel(), j.ravel()], axis=1) @ basis
    return points[np.hypot(*points.T) <= radius] + np.asarray(center, float)


@dataclass(frozen=True)
class Lattice:
    """A hexagonal lattice found in a set of points."""

    spacing: float  # in the points' unit
    angle: float  # degrees, of one close-packed row, from x towards y, 0 to 60

    @property
    def wave_vectors(self) -> np.ndarray:
        """Three first-order reciprocal vectors (y, x), 60° apart, shape (3, 2), in radians per unit length."""
        t = np.radians(self.angle + 30.0 + 60.0 * np.arange(3))
        return 4 * np.pi / (np.sqrt(3) * self.spacing) * np.stack([np.sin(t), np.cos(t)], axis=1)
