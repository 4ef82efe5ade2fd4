"""Neighbours in a layer: spacing, bond order, and a triangulation whose edges are named by lattice vectors.

What order, Moiré, defects and growth all start from. Points are arrays (n, 2) of (y, x) in nm outside, complex numbers
x + iy inside, whose argument is an angle from x towards y.

Explained in chapter 9, "Order and defects".
"""

from __future__ import annotations

import freud
import numpy as np
from scipy import sparse
from scipy.optimize import linear_sum_assignment
from scipy.sparse.csgraph import connected_components
from scipy.spatial import Delaunay
from scipy.spatial.distance import cdist

from .elastic import bonds

__all__ = [
    "REACH",
    "SIXTH_TURN",
    "THREE_SHELLS",
    "Mesh",
    "checked_points",
    "connected_groups",
    "freud_system",
    "hexatic",
    "nearest_vector",
    "neighbour_spacing",
    "sixth_turns",
    "spans_plane",
    "to_complex",
    "to_points",
    "unpaired",
]

REACH = 1.35  # spacings: half-way between the first neighbours at 1 and the second at √3
THREE_SHELLS = 2.15  # spacings: beyond the third neighbours at 2
SIXTH_TURN = np.pi / 3  # rad: what a hexagonal lattice may be turned by without a change
_FLAT = "a spacing needs at least 4 particles that do not lie on a line, got {}"


def neighbour_spacing(points) -> float:
    """Typical distance of nearest neighbours.

    Parameters
    ----------
    points : array_like, shape (n, 2)
        (y, x) in nm.

    Returns
    -------
    float
        In nm: the middle of the edges of the Delaunay triangulation, without the long ones along the rim and across
        holes. Scattered positions do not make it smaller, as they do the distance to the nearest neighbour.

    Raises
    ------
    ValueError
        If there are fewer than four points, or all lie on a line.

    Notes
    -----
    Explained in chapter 9, "Order and defects".
    """
    points = checked_points(points)
    if not spans_plane(points):
        raise ValueError(_FLAT.format(len(points)))
    triangles = Delaunay(points).simplices
    edges = np.unique(np.sort(triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1), axis=0)
    length = np.hypot(*(points[edges[:, 0]] - points[edges[:, 1]]).T)
    for _ in range(3):
        length = length[length < 1.3 * np.median(length)]
    return float(np.median(length))


def spans_plane(points: np.ndarray) -> bool:
    """Whether points (n, 2) suffice for a spacing and a triangulation: four that do not lie on a line."""
    return len(points) >= 4 and np.linalg.matrix_rank(points - points.mean(axis=0), 1e-9 * np.ptp(points)) == 2


def checked_points(points) -> np.ndarray:
    """Positions (y, x) as an array of finite floats, shape (n, 2).

    Raises
    ------
    ValueError
        If they have another shape or are not finite.
    """
    points = np.asarray(points, float)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"positions must have the shape (n, 2), in the order (y, x), got {points.shape}")
    if not np.isfinite(points).all():
        raise ValueError(f"{np.sum(~np.isfinite(points).all(axis=1))} positions are not finite; drop them first")
    return points


def to_complex(points: np.ndarray) -> np.ndarray:
    """Points (n, 2) in the order (y, x) as x + iy, whose argument is an angle from x towards y."""
    return points[:, 1] + 1j * points[:, 0]


def to_points(z) -> np.ndarray:
    """Complex numbers x + iy as (y, x), shape (..., 2)."""
    return np.stack([np.imag(z), np.real(z)], axis=-1)


# --- Bond order ---


def freud_system(points: np.ndarray) -> tuple[freud.box.Box, np.ndarray]:
    """Points (n, 2) as freud wants them: (n, 3) in (x, y, z), in a periodic box that nothing reaches around."""
    xyz = np.zeros((len(points), 3))
    xyz[:, :2] = (points - points.mean(axis=0))[:, ::-1]
    return freud.box.Box.square(float(3 * np.ptp(points, axis=0).max() + 1)), xyz


def hexatic(points, spacing: float | None = None) -> np.ndarray:
    """Bond-orientational order ψ6 of each particle over the neighbours that it has.

    Parameters
    ----------
    points : array_like, shape (n, 2)
        (y, x) in nm.
    spacing : float, optional
        Nearest-neighbour distance, in nm; measured by default. Particles within 1.35 of it are neighbours.

    Returns
    -------
    ndarray of complex, shape (n,)
        The mean of exp(6iα) over the directions α of the neighbours, from x towards y. Its magnitude is 1 in a perfect
        lattice, at a straight edge and beside a vacancy alike; a sixth of its argument is the direction of a row. NaN
        with fewer than two neighbours.

    Raises
    ------
    ValueError
        If positions are not finite, or too few to measure the spacing: fewer than four, or all on a line.

    References
    ----------
    Nelson & Halperin, Phys. Rev. B 19, 2457 (1979). Computed by freud (Ramasubramani et al., Comput. Phys. Commun. 254,
    107275 (2020)). Explained in chapter 9, "Order and defects".
    """
    points = checked_points(points)
    if len(points) < 2:
        return np.full(len(points), np.nan + 0j)
    spacing = neighbour_spacing(points) if spacing is None else spacing
    pairs = bonds(points, spacing)
    both = np.concatenate([pairs, pairs[:, ::-1]])
    both = both[np.lexsort(both.T[::-1])]
    box, xyz = freud_system(points)
    vectors = xyz[both[:, 1]] - xyz[both[:, 0]]
    near = freud.locality.NeighborList.from_arrays(len(xyz), len(xyz), both[:, 0], both[:, 1], vectors)
    psi6 = freud.order.Hexatic(k=6).compute((box, xyz), neighbors=near).particle_order.astype(complex)
    psi6[np.bincount(both[:, 0], minlength=len(points)) < 2] = np.nan
    return psi6


# --- The triangulation, its edges named by the lattice vectors they stand for ---


def nearest_vector(w: np.ndarray) -> np.ndarray:
    """Nearest point of the hexagonal lattice 1, exp(iπ/3) to complex numbers (...), in spacings."""
    n = w.imag / np.sin(SIXTH_TURN)
    m = w.real - n / 2
    m0, n0 = np.floor(m), np.floor(n)
    corner = np.stack([(m0 + i) + (n0 + j) * np.exp(1j * SIXTH_TURN) for i in (0, 1) for j in (0, 1)])
    return np.take_along_axis(corner, np.abs(corner - w).argmin(axis=0)[None], axis=0)[0]


def sixth_turns(angle, reference) -> np.ndarray:
    """Multiples of 60° that bring angles (rad) nearest to a reference, as factors of complex lattice vectors."""
    return np.exp(1j * SIXTH_TURN * np.rint((angle - reference) / SIXTH_TURN))


class Mesh:
    """Delaunay triangulation of a layer without its thin rim, with a lattice vector for every edge.

    Lattice vectors are complex: whole multiples of 1 and exp(iπ/3) in units of the spacing, in a frame turned with the
    rows around. Frames are known up to 60°, so vectors are only compared after `sixth_turns`.

    Parameters
    ----------
    points : array_like, shape (n, 2)
        (y, x) in nm, of one layer in one frame.
    spacing : float, optional
        Nearest-neighbour distance, in nm; measured by default.

    Attributes
    ----------
    points, z : ndarray, shape (n, 2) and (n,)
        Positions in nm, as (y, x) and as x + iy.
    psi6, smooth : ndarray of complex, shape (n,)
        Bond order, and its sum over each particle and its neighbours.
    angle : ndarray, shape (n,)
        Row direction around each particle, in rad from x towards y, up to 60°.
    triangles, radius : ndarray, shape (k, 3) and (k,)
        Corners of each triangle in the sense from x towards y, and radius of the circle through them in nm.
    edges, of_triangle : ndarray, shape (m, 2), and pair of (k, 3)
        Ends of every edge, smaller index first; number and sense (1 or -1) of each triangle's edges.
    vector, frame, misfit : ndarray, shape (m,)
        Lattice vector of each edge, the row direction (rad) it is counted from, and its distance from it in spacings.

    Raises
    ------
    ValueError
        If positions are not finite, fewer than four, or all on a line.

    Notes
    -----
    Explained in chapter 9, "Order and defects".
    """

    def __init__(self, points, spacing: float | None = None):
        self.points = checked_points(points)
        if not spans_plane(self.points):
            raise ValueError(_FLAT.format(len(self.points)))
        self.spacing = neighbour_spacing(self.points) if spacing is None else float(spacing)
        self.z, self.n = to_complex(self.points), len(self.points)
        self.psi6 = hexatic(self.points, self.spacing)
        self.smooth = self._smoothed(np.nan_to_num(self.psi6))
        self.angle = np.angle(self.smooth) / 6
        self.triangles = self._triangulate()
        self.edges, self.of_triangle = self._edges()
        self.vector, self.frame, self.misfit = self._named()

    def _smoothed(self, psi6):
        i, j = bonds(self.points, self.spacing).T
        total = psi6.copy()
        np.add.at(total, i, psi6[j])
        np.add.at(total, j, psi6[i])
        return total

    def _triangulate(self):
        """Corners in the sense from x towards y. A vacancy's triangles have a radius of a spacing, the rim's more."""
        corners = Delaunay(self.points).simplices
        a, b, c = self.z[corners].T
        area = 0.5 * np.imag(np.conj(b - a) * (c - a))
        radius = np.abs(a - b) * np.abs(b - c) * np.abs(c - a) / np.maximum(4 * np.abs(area), 1e-12)
        corners[area < 0] = corners[area < 0][:, ::-1]
        keep = radius < 1.35 * self.spacing
        self.radius = radius[keep]
        return corners[keep]

    def _edges(self):
        """Every edge once, smaller index first; and the three of each triangle, negative where run backwards."""
        run = self.triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
        edges, index = np.unique(np.sort(run, axis=1), axis=0, return_inverse=True)
        sign = np.where(run[:, 0] < run[:, 1], 1, -1)
        return edges, (index.reshape(-1, 3), sign.reshape(-1, 3))

    def _named(self):
        i, j = self.edges.T
        frame = np.angle(self.smooth[i] + self.smooth[j]) / 6
        step = (self.z[j] - self.z[i]) / (self.spacing * np.exp(1j * frame))
        vector = nearest_vector(step)
        return vector, frame, np.abs(step - vector)

    def closures(self) -> tuple[np.ndarray, np.ndarray]:
        """Sum (k,) of each triangle's three lattice vectors, zero in good crystal, and the frame (k,) it is in, rad."""
        index, sign = self.of_triangle
        frame = np.angle(self.smooth[self.triangles].sum(axis=1)) / 6
        vector = sign * self.vector[index] * sixth_turns(self.frame[index], frame[:, None])
        return vector.sum(axis=1), frame


def connected_groups(n: int, i, j) -> np.ndarray:
    """Number of the group (n,) that each of n things belongs to, where i and j (m,) name those that are joined."""
    return connected_components(sparse.coo_array((np.ones(len(i)), (i, j)), shape=(n, n)), directed=False)[1]


def unpaired(plus: np.ndarray, minus: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Which of two sets of points (n, 2) have no partner of the other within reach, in the closest pairing of all."""
    alone = np.ones(len(plus), bool), np.ones(len(minus), bool)
    if len(plus) and len(minus):
        distance = cdist(plus, minus)
        i, j = linear_sum_assignment(np.where(distance < reach, distance, 1e3 * reach))
        near = distance[i, j] < reach
        alone[0][i[near]], alone[1][j[near]] = False, False
    return alone
