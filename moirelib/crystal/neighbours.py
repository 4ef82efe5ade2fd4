"""Neighbours in a set of points: spacing, bonds, rows, bond order (chapter 9, "Order and defects")."""

from collections.abc import Mapping

import freud
import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.spatial import Delaunay, cKDTree

NEIGHBOUR_REACH = 1.35  # spacings (geometry): about half-way between first neighbours at 1 and second ones at √3
SPACING_PER_DIAMETER = 1.35  # by hand: a guess where no lattice was measured yet
LONG_EDGE = 1.3  # medians (by hand); longer edges of a triangulation run along the rim or across holes
ENOUGH_FOR_SPACING = 7  # particles (geometry): one and its six neighbours
UNLIKE_SPACING = 0.1  # logarithm of a ratio (by hand); layers whose spacings differ less are measured together
OPPOSITE = 0.25  # spacings (by hand) between a particle and the place opposite to a neighbour: still one row


def neighbour_spacing(points: ArrayLike) -> float:
    """Spacing of a lattice of noisy points (n, 2): the median edge of the Delaunay triangulation, without long edges.

    Long edges run along the rim and across holes. ValueError of fewer than four points, or if all lie on a line.
    """
    points = require_plane(points)
    triangles = Delaunay(points).simplices
    edges = np.unique(np.sort(triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1), axis=0)
    length = np.hypot(*(points[edges[:, 0]] - points[edges[:, 1]]).T)
    for _ in range(3):
        length = length[length < LONG_EDGE * np.median(length)]
    return float(np.median(length))


def nearest_spacing(points: np.ndarray, layer: np.ndarray | None = None, otherwise: float | None = None) -> float:
    """Median distance of points (n, 2) to their nearest neighbour, of the same layer where layers (n,) are given.

    For mean positions, as noise makes it smaller, or as a scale. Of fewer than two points ``otherwise``, or ValueError.
    """
    points = np.asarray(points, float)
    groups = [points] if layer is None else [points[layer == k] for k in np.unique(layer)]
    distances = [cKDTree(group).query(group, k=2)[0][:, 1] for group in groups if len(group) > 1]
    if distances:
        return float(np.median(np.concatenate(distances)))
    if otherwise is None:
        raise ValueError(f"a spacing needs at least 2 points, got {len(points)}; pass spacing=... (nm)")
    return otherwise


def spans_plane(points: np.ndarray) -> bool:
    """Whether points (n, 2) suffice for a spacing and a triangulation: four that do not lie on a line."""
    return len(points) >= 4 and np.linalg.matrix_rank(points - points.mean(axis=0), 1e-9 * np.ptp(points)) == 2


def require_plane(points: ArrayLike) -> np.ndarray:
    """Positions as of `check_points`; ValueError where they do not span a plane."""
    points = check_points(points)
    if not spans_plane(points):
        raise ValueError(f"a spacing needs at least 4 particles that do not lie on a line, got {len(points)}")
    return points


def check_points(points: ArrayLike) -> np.ndarray:
    """Positions (y, x) as an array of finite floats, shape (n, 2)."""
    points = np.asarray(points, float)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"positions must have the shape (n, 2), in the order (y, x), got {points.shape}")
    if not np.isfinite(points).all():
        raise ValueError(f"{np.sum(~np.isfinite(points).all(axis=1))} positions are not finite; drop them first")
    return points


def to_complex(points: np.ndarray) -> np.ndarray:
    """Points (n, 2) in the order (y, x) as x + iy, whose argument is an angle from x towards y."""
    return points[:, 1] + 1j * points[:, 0]


def to_points(z: complex | np.ndarray) -> np.ndarray:
    """Complex numbers x + iy as (y, x), shape (..., 2)."""
    return np.stack([np.imag(z), np.real(z)], axis=-1)


def freud_system(points: np.ndarray) -> tuple[freud.box.Box, np.ndarray]:
    """Points (n, 2) as freud wants them: (n, 3) in (x, y, z), in a periodic box that nothing reaches around."""
    xyz = np.zeros((len(points), 3))
    xyz[:, :2] = (points - points.mean(axis=0))[:, ::-1]
    return freud.box.Box.square(float(3 * np.ptp(points, axis=0).max() + 1)), xyz


def hexatic(points: ArrayLike, spacing: float | None = None) -> np.ndarray:
    """Bond-orientational order ψ6 (n,) of each particle over the neighbours that it has, within `NEIGHBOUR_REACH`.

    The mean of exp(6iα) over the neighbours' directions α, from x towards y; NaN with fewer than two neighbours. Its
    magnitude is 1 in a perfect lattice, also at an edge; a sixth of its argument is the direction of a row. Nelson &
    Halperin, Phys. Rev. B 19, 2457 (1979); by freud (Comput. Phys. Commun. 254, 107275 (2020)).
    """
    points = check_points(points)
    if len(points) < 2:
        return np.full(len(points), np.nan + 0j)
    spacing = neighbour_spacing(points) if spacing is None else spacing
    pairs = bonds(points, spacing)
    both = np.concatenate([pairs, pairs[:, ::-1]])
    i, j = both[np.lexsort(both.T[::-1])].T
    box, xyz = freud_system(points)
    near = freud.locality.NeighborList.from_arrays(len(xyz), len(xyz), i, j, xyz[j] - xyz[i])
    psi6 = freud.order.Hexatic(k=6).compute((box, xyz), neighbors=near).particle_order.astype(complex)
    psi6[np.bincount(i, minlength=len(points)) < 2] = np.nan
    return psi6


def connected_groups(n: int, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Number of the group (n,) that each of n things belongs to, where i and j (m,) name those that are joined."""
    return connected_components(sparse.coo_array((np.ones(len(i)), (i, j)), shape=(n, n)), directed=False)[1]


def adjacency(positions: np.ndarray, spacing: float, reach: float = NEIGHBOUR_REACH) -> sparse.csr_array:
    """Which positions (n, 2) are `bonds` apart: sparse ones, shape (n, n)."""
    i, j = bonds(positions, spacing, reach).T
    return sparse.csr_array((np.ones(2 * len(i)), (np.r_[i, j], np.r_[j, i])), shape=(len(positions),) * 2)


def bonds(positions: ArrayLike, spacing: float, reach: float = NEIGHBOUR_REACH) -> np.ndarray:
    """Pairs (m, 2) of neighbours within so many spacings, as indices, the smaller one first."""
    positions = np.asarray(positions, float)
    if len(positions) == 0:
        return np.empty((0, 2), int)
    return np.sort(cKDTree(positions).query_pairs(reach * spacing, output_type="ndarray"), axis=1)


def typical_spacing(yx: np.ndarray, layer: np.ndarray, diameter: float) -> float:
    """`nearest_spacing` within layers; estimated from the diameter where no layer has two particles."""
    return nearest_spacing(yx, layer, otherwise=SPACING_PER_DIAMETER * diameter)


Spacings = float | Mapping[int, float]  #: of all layers, or of each layer


def spacing_of(spacings: Spacings, layer) -> float:
    """The spacing of a layer."""
    return spacings[layer] if isinstance(spacings, Mapping) else spacings


def layer_spacings(yx: np.ndarray, layer: np.ndarray, diameter: float) -> dict[int, float]:
    """Spacing of each layer: the common one, or its own where they differ by more than 10 %."""
    usual, of = typical_spacing(yx, layer, diameter), {}
    for k in np.unique(layer):
        points = yx[layer == k]
        own = nearest_spacing(points) if len(points) >= ENOUGH_FOR_SPACING else usual
        of[int(k)] = own if abs(np.log(own / usual)) > UNLIKE_SPACING else usual
    return of


def rows_of_three(yx: np.ndarray, layer: np.ndarray, spacings: Spacings) -> np.ndarray:
    """Indices (m, 3) of a neighbour, a particle and the neighbour opposite, all of one layer."""
    rows = [np.empty((0, 3), int)]
    for k in np.unique(layer):
        mine, spacing = np.flatnonzero(layer == k), spacing_of(spacings, k)
        pairs = bonds(yx[mine], spacing)
        middle, end = np.r_[pairs[:, 0], pairs[:, 1]], np.r_[pairs[:, 1], pairs[:, 0]]
        opposite = 2 * yx[mine[middle]] - yx[mine[end]]
        distance, other = cKDTree(yx[mine]).query(opposite) if len(middle) else (np.empty(0), np.empty(0, int))
        row = np.stack([end, middle, other], axis=1)[(distance < OPPOSITE * spacing) & (end < other)]
        rows.append(mine[row])
    return np.concatenate(rows)


def extent(points: np.ndarray, spacing: float) -> float:
    """Area covered by points, each counting a disk of one spacing; in units of the spacing squared."""
    if len(points) == 0:
        return 0.0
    return float(len(np.unique(np.rint(np.asarray(points) / spacing).astype(int), axis=0)))
