"""A triangulation of a layer whose edges are named by lattice vectors (chapter 9, "Order and defects")."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import Delaunay, cKDTree

from .neighbours import bonds, hexatic, neighbour_spacing, require_plane, to_complex

THREE_SHELLS = 2.15  # spacings (geometry): beyond the third neighbours at 2, before the fourth at √7
SIXTH_TURN = np.pi / 3  # rad: what a hexagonal lattice may be turned by without a change
ROUNDING = 0.1  # spacings; lattice vectors are whole numbers of spacings, so this only absorbs rounding
LARGEST_CIRCUMRADIUS = 1.35  # spacings (by hand), of a triangle: 1 around a vacancy; more along the rim, in holes
NEIGHBOUR_OFF_SITE = 0.3  # spacings (by hand) from its lattice site; farther ones belong to another lattice
WELL_CONDITIONED = 1e3  # condition number of a fit to neighbours (by hand); more for neighbours in a single row


def nearest_vector(w: np.ndarray) -> np.ndarray:
    """Nearest point of the hexagonal lattice 1, exp(iπ/3) to complex numbers (...), in spacings."""
    n = w.imag / np.sin(SIXTH_TURN)
    m = w.real - n / 2
    m0, n0 = np.floor(m), np.floor(n)
    corner = np.stack([(m0 + i) + (n0 + j) * np.exp(1j * SIXTH_TURN) for i in (0, 1) for j in (0, 1)])
    return np.take_along_axis(corner, np.abs(corner - w).argmin(axis=0)[None], axis=0)[0]


def sixth_turns(angle: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Multiples of 60° that bring angles (rad) nearest to a reference, as factors of complex lattice vectors."""
    return np.exp(1j * SIXTH_TURN * np.rint((angle - reference) / SIXTH_TURN))


class Mesh:
    """Delaunay triangulation of a layer without its thin rim, with a lattice vector for every edge.

    Lattice vectors are complex: whole multiples of 1 and exp(iπ/3) in units of the spacing, in a frame turned with the
    rows around. Frames are known up to 60°, so vectors are only compared after `sixth_turns`. Points are of one layer
    in one frame, in nm, and the spacing measured by default.

    Attributes
    ----------
    points, z : ndarray, shape (n, 2) and (n,)
        Positions in nm, as (y, x) and as x + iy.
    psi6, smooth, angle : ndarray, shape (n,)
        Bond order, and its sum over each particle and its neighbours; row direction in rad from x towards y, up to 60°.
    triangles, radius : ndarray, shape (k, 3) and (k,)
        Corners of each triangle in the sense from x towards y, and radius of the circle through them in nm.
    edges, of_triangle : ndarray, shape (m, 2), and pair of (k, 3)
        Ends of every edge, smaller index first; number and sense (1 or -1) of each triangle's edges.
    vector, frame, misfit : ndarray, shape (m,)
        Lattice vector of each edge, the row direction (rad) it is counted from, and its distance from it in spacings.
    """

    def __init__(self, points: ArrayLike, spacing: float | None = None) -> None:
        self.points = require_plane(points)
        self.spacing = neighbour_spacing(self.points) if spacing is None else float(spacing)
        self.z, self.n = to_complex(self.points), len(self.points)
        self.psi6 = hexatic(self.points, self.spacing)
        self.smooth = np.nan_to_num(self.psi6)
        i, j = bonds(self.points, self.spacing).T
        np.add.at(self.smooth, np.r_[i, j], self.smooth[np.r_[j, i]])
        self.angle = np.angle(self.smooth) / 6
        corners = Delaunay(self.points).simplices
        a, b, c = self.z[corners].T
        area = 0.5 * np.imag(np.conj(b - a) * (c - a))
        corners[area < 0] = corners[area < 0][:, ::-1]
        radius = np.abs(a - b) * np.abs(b - c) * np.abs(c - a) / np.maximum(4 * np.abs(area), 1e-12)
        inner = radius < LARGEST_CIRCUMRADIUS * self.spacing
        self.triangles, self.radius = corners[inner], radius[inner]
        ends = self.triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
        self.edges, index = np.unique(np.sort(ends, axis=1), axis=0, return_inverse=True)
        self.of_triangle = index.reshape(-1, 3), np.where(ends[:, 0] < ends[:, 1], 1, -1).reshape(-1, 3)
        i, j = self.edges.T
        self.frame = np.angle(self.smooth[i] + self.smooth[j]) / 6
        step = (self.z[j] - self.z[i]) / (self.spacing * np.exp(1j * self.frame))
        self.vector = nearest_vector(step)
        self.misfit = np.abs(step - self.vector)

    def closures(self) -> tuple[np.ndarray, np.ndarray]:
        """Sum (k,) of each triangle's three lattice vectors, zero in good crystal, and the frame (k,) it is in, rad."""
        index, sign = self.of_triangle
        frame = np.angle(self.smooth[self.triangles].sum(axis=1)) / 6
        vector = sign * self.vector[index] * sixth_turns(self.frame[index], frame[:, None])
        return vector.sum(axis=1), frame


@dataclass(frozen=True)
class LocalLattices:
    """The lattice around each particle: neighbours lie at site + q w + p w*, for lattice vectors w.

    Complex numbers are x + iy in nm.
    """

    site: np.ndarray  # (n,) where the lattice around would have the particle
    q: np.ndarray  # (n,) spacing and row direction
    p: np.ndarray  # (n,) shear
    residual: np.ndarray  # (n,) nm, scatter of the neighbours about the fit, per component
    neighbours: np.ndarray  # (n,) used
    variance: np.ndarray  # (n,) of q, per unit variance of a position's component

    @property
    def good(self) -> np.ndarray:
        """Where at least three neighbours in different directions were found."""
        return np.isfinite(self.q)

    def place(self, i: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Points z (x + iy, nm) in the lattices around particles i, in lattice vectors from their sites."""
        q, p, step = self.q[i], self.p[i], z - self.site[i]
        # The inverse of u → q u + p u*
        return (np.conj(q) * step - p * np.conj(step)) / (np.abs(q) ** 2 - np.abs(p) ** 2)


def lattices_around(mesh: Mesh, reach: float, grain: np.ndarray | None = None) -> LocalLattices:
    """The same as `local_lattices`, of a layer that is triangulated already; reach in spacings."""
    z, n, spacing, angle = mesh.z, mesh.n, mesh.spacing, mesh.angle
    i, j = cKDTree(mesh.points).query_pairs(reach * spacing, output_type="ndarray").T
    i, j = np.concatenate([i, j, np.arange(n)]), np.concatenate([j, i, np.arange(n)])
    if grain is not None:
        same = grain[i] == grain[j]
        i, j = i[same], j[same]
    step = (z[j] - z[i]) / (spacing * np.exp(1j * angle[i]))
    w = nearest_vector(step)
    near = (np.abs(step - w) < NEIGHBOUR_OFF_SITE) & ((w != 0) | (i == j))
    i, j, w = i[near], j[near], w[near] * np.exp(1j * angle[i[near]])
    design = np.stack([np.ones_like(w), w, np.conj(w)], axis=1)  # (pairs, 3)
    normal, right = np.zeros((n, 3, 3), complex), np.zeros((n, 3), complex)
    np.add.at(normal, i, np.conj(design)[:, :, None] * design[:, None, :])
    np.add.at(right, i, np.conj(design) * (z[j] - z[i])[:, None])
    count = np.bincount(i, minlength=n) - 1
    condition = np.linalg.cond(np.where(np.isfinite(normal), normal, 0) + 1e-12 * np.eye(3))
    solvable, inverse = (count >= 3) & (condition < WELL_CONDITIONED), np.full((n, 3, 3), np.nan + 0j)
    inverse[solvable] = np.linalg.inv(normal[solvable])
    c, q, p = np.einsum("nab,nb->an", inverse, right)
    left = z[j] - z[i] - c[i] - q[i] * w - p[i] * np.conj(w)
    squares = np.bincount(i, np.abs(np.nan_to_num(left)) ** 2, n)
    residual = np.where(solvable, np.sqrt(squares / np.maximum(2 * (count + 1) - 6, 1)), np.nan)
    turn = np.exp(1j * angle)
    return LocalLattices(z + c, q * turn, p / turn, residual, neighbours=count, variance=inverse[:, 1, 1].real)
