"""Reciprocal space of a hexagonal lattice: symmetry path and Brillouin zone (chapter 8, "Vibrations")."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .lattice import Lattice, unit_vectors


@dataclass(frozen=True)
class SymmetryPath:
    """Wave vectors along Γ-M-K-Γ of a hexagonal lattice."""

    wave_vectors: np.ndarray  # (m, 2) (q_y, q_x) in radians per nm; Γ itself is left out
    longitudinal: np.ndarray  # (m, 2) (y, x) polarization, exact by mirror symmetry: along Γ-M up to K, then along Γ-K
    distance: np.ndarray  # (m,) along the path from Γ, in radians per nm
    ticks: tuple[float, float, float, float]  # distance of Γ, M, K and Γ
    labels = ("Γ", "M", "K", "Γ")

    def turn(self, degrees: float) -> SymmetryPath:
        """The same path turned from x towards y: equivalent by symmetry for multiples of 60°."""
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        matrix = np.array([[c, s], [-s, c]])  # of (y, x)
        return SymmetryPath(self.wave_vectors @ matrix.T, self.longitudinal @ matrix.T, self.distance, self.ticks)


def symmetry_path(spacing: float, angle: float, points: int = 36) -> SymmetryPath:
    """So many wave vectors along Γ-M-K-Γ of a lattice with a spacing in nm, in nearly equal steps over M and K."""
    to_m, to_k = unit_vectors([angle + 30, angle])
    m, k = 2 * np.pi / (np.sqrt(3) * spacing) * to_m, 4 * np.pi / (3 * spacing) * to_k
    lengths = np.linalg.norm([m, k - m, k], axis=1)
    counts = np.maximum(np.round(points * lengths / lengths.sum()).astype(int), 2)
    first = np.arange(1, counts[0] + 1)[:, None] / counts[0] * m
    second = m + np.arange(1, counts[1] + 1)[:, None] / counts[1] * (k - m)
    third = np.arange(counts[2] - 1, 0, -1)[:, None] / counts[2] * k
    q = np.concatenate([first, second, third])
    along = np.repeat([to_m, to_k], [counts[0] + counts[1], counts[2] - 1], axis=0)
    distance = np.cumsum(np.linalg.norm(np.diff(q, axis=0, prepend=[[0.0, 0.0]]), axis=1))
    return SymmetryPath(q, along, distance, (0.0, *np.cumsum(lengths).tolist()))


def brillouin_zone(spacing: float, angle: float, divisions: int = 12) -> np.ndarray:
    """Wave vectors (m, 2) that fill the Brillouin zone evenly, one of each pair q and -q, without Γ.

    (q_y, q_x) in radians per nm, each the shortest of its equivalents; ``divisions`` of each reciprocal lattice vector.
    """
    b = Lattice(spacing, angle).wave_vectors[[0, 2]]
    i, j = (x.ravel() for x in np.meshgrid(np.arange(divisions), np.arange(divisions), indexing="ij"))
    half = (i * divisions + j) <= (-i % divisions) * divisions + (-j % divisions)
    q = np.stack([i, j], axis=1)[half & (i + j > 0)] / divisions @ b
    shifts = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1]), axis=-1).reshape(-1, 2) @ b
    candidates = q[:, None] - shifts
    # On the zone's edge several are equally short: the first of them, not the one that rounding makes the shortest.
    length = np.round(np.linalg.norm(candidates, axis=2) * spacing, 9)
    return candidates[np.arange(len(q)), np.argmin(length, axis=1)]
