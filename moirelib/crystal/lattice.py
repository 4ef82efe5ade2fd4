"""Hexagonal lattices: Moiré period, coincidence sites (chapter 1), wave vectors and Brillouin zone (chapter 8)."""

from dataclasses import dataclass
from math import gcd

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike


def fold_hexagonal(angle: float) -> float:
    """Smallest equivalent twist of two hexagonal lattices, in degrees between 0 and 30."""
    return float(abs((angle + 30.0) % 60.0 - 30.0))


def unit_vectors(degrees: ArrayLike) -> np.ndarray:
    """Vectors (..., 2) of length 1, (y, x), in directions from x towards y."""
    t = np.radians(degrees)
    return np.stack([np.sin(t), np.cos(t)], axis=-1)


def hexagonal_lattice(spacing: float, angle: float, center: ArrayLike, radius: float) -> np.ndarray:
    """Points (n, 2) of a hexagonal lattice within a circle about one of them, the center (y, x); lengths in nm."""
    n = int(np.ceil(radius / spacing / np.sin(np.pi / 3))) + 1
    i, j = np.meshgrid(np.arange(-n, n + 1), np.arange(-n, n + 1), indexing="ij")
    points = np.stack([i.ravel(), j.ravel()], axis=1) @ (spacing * unit_vectors([angle, angle + 60.0]))
    return points[np.hypot(*points.T) <= radius] + np.asarray(center, float)


@dataclass(frozen=True)
class Lattice:
    """A hexagonal lattice found in a set of points."""

    spacing: float  # in the points' unit
    angle: float  # degrees, of one close-packed row, from x towards y, 0 to 60

    @property
    def wave_vectors(self) -> np.ndarray:
        """Three first-order reciprocal vectors (y, x), 60° apart, shape (3, 2), in radians per unit length."""
        return 4 * np.pi / (np.sqrt(3) * self.spacing) * unit_vectors(self.angle + 30.0 + 60.0 * np.arange(3))


def moire_period(spacing: float, twist_angle: float, other_spacing: float | None = None) -> float:
    """Period of the Moiré pattern of two hexagonal lattices, in nm; ``inf`` for identical lattices.

    a b / √(a² + b² - 2 a b cos θ), for spacings a and b in nm, equal by default, and a twist θ in degrees, folded to
    30°; a / (2 sin(θ/2)) for a = b (Hermann, J. Phys.: Condens. Matter 24, 314210, 2012).
    """
    a, b = spacing, spacing if other_spacing is None else other_spacing
    half = np.sin(np.radians(fold_hexagonal(twist_angle)) / 2)
    difference = np.hypot(a - b, 2 * np.sqrt(a * b) * half)  # the same root, exact for small twists
    return float(a * b / difference) if difference > 0 else float("inf")


def commensurate_angles(max_sigma: int) -> pd.DataFrame:
    """Twists at which two equal hexagonal lattices share a lattice of coincident sites, one in Σ up to ``max_sigma``.

    Turning by θ with cos θ = (m² + 4 m n + n²) / (2 (m² + m n + n²)) brings the vector (n, m) onto (m, n), for coprime
    m > n; Σ = m² + m n + n². Where m - n is a multiple of 3 twists repeat and are left out. Ranganathan, Acta Cryst.
    21, 197 (1966); Shallcross et al., Phys. Rev. B 81, 165105 (2010).

    The table has ``sigma, twist_deg`` (0 to 30), ``m, n``, sorted by Σ. The vector m a₁ + n a₂ is the shortest of the
    coincidence lattice, and the mirror line of a symmetric tilt boundary of this Σ.
    """
    rows = []
    for m in range(2, int(np.sqrt(max_sigma)) + 1):
        for n in range(1, m):
            sigma = m * m + m * n + n * n
            if sigma <= max_sigma and gcd(m, n) == 1 and (m - n) % 3:
                cosine = (m * m + 4 * m * n + n * n) / (2 * sigma)
                rows.append((sigma, fold_hexagonal(np.degrees(np.arccos(cosine))), m, n))
    return pd.DataFrame(sorted(rows), columns=["sigma", "twist_deg", "m", "n"])


def coincidence_period(spacing: float, sigma: int) -> float:
    """Period a √Σ of the coincident sites of two equal hexagonal lattices, in nm."""
    return float(spacing * np.sqrt(sigma))


@dataclass(frozen=True)
class SymmetryPath:
    """Wave vectors along Γ-M-K-Γ of a hexagonal lattice."""

    wave_vectors: np.ndarray  # (m, 2) (q_y, q_x) in radians per nm; Γ itself is left out
    longitudinal: np.ndarray  # (m, 2) (y, x) polarization, exact by mirror symmetry: along Γ-M up to K, then along Γ-K
    distance: np.ndarray  # (m,) along the path from Γ, in radians per nm
    ticks: tuple[float, float, float, float]  # distance of Γ, M, K and Γ
    labels = ("Γ", "M", "K", "Γ")

    def turn(self, degrees: float) -> "SymmetryPath":
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
