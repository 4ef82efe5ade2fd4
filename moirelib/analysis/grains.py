"""Grains of a layer (chapter 9, "Order and defects")."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.spatial import cKDTree

from ..crystal.mesh import ROUNDING, THREE_SHELLS, Mesh, lattices_around, nearest_vector
from ..crystal.neighbours import check_points, connected_groups, spans_plane, to_complex

BONDS_ACROSS = 12 / (np.pi * np.sqrt(3))  # bonds that a line crosses per spacing, mean over its directions
TURN_REACH = 2.3  # spacings on both sides of a bond over which rows are compared
SMALLEST_CORE = 4  # particles; fewer with no cut bond are no start of a grain
GROWTH_STEPS = 30  # rings of particles that a grain may take in
MEETING_REACH = 4.0  # spacings from where two grains meet: rows there are compared
CONTINUATION = 3.0  # spacings over which a grain's lattice is continued to a particle beside a boundary
CLEARER = 0.05  # spacings by which a particle beside a boundary must lie nearer to the other grain's lattice
LONE = 1.5  # dislocations; a boundary that holds fewer is no boundary


@dataclass(frozen=True)
class Tolerance:
    """How much a boundary may deviate from a coherent twin and still be called one; and what makes a grain."""

    max_sigma: int = 19  # coincident sites sparser than one in so many make no twin
    misorientation: float = 2.2  # degrees / √Σ, from that of the nearest Σ
    asymmetry: float = 2.0  # degrees, or three standard deviations, of the boundary from the lattices' mirror line
    mismatch: float = 0.15  # spacings, of one lattice from the mirror image of the other
    grain_misorientation: float = 3.5  # degrees; rows that turn by more across a line are two grains
    smallest_grain: int = 12  # particles


def find_grains(points: ArrayLike, spacing: float | None = None) -> np.ndarray:
    """Contiguous regions of one orientation: each particle's grain, shape (n,), by falling size from 0; -1 for none.

    An edge between neighbours is cut where the mean ψ6 on its one side, within 2.3 spacings, is turned by more than
    `Tolerance.grain_misorientation` against that on its other side. Slow bending of rows changes little over such a
    distance, a boundary all. Regions grow together from particles without a cut edge, so that neither a lone
    dislocation, which cuts a few edges, nor a single gap in a boundary decides. Regions whose lattices agree where they
    meet are one, and so are those that meet along a line too short to hold more than one dislocation by Frank's formula
    (Phil. Mag. 42, 809 (1951)). Regions of fewer particles than `Tolerance.smallest_grain` are no grain.
    """
    points = check_points(points)
    if len(points) < Tolerance.smallest_grain or not spans_plane(points):
        return np.full(len(points), -1)
    return split_grains(Mesh(points, spacing), Tolerance())


def split_grains(mesh: Mesh, tolerance: Tolerance) -> np.ndarray:
    """The same as `find_grains`, of a layer that is triangulated already."""
    misorientation, smallest = tolerance.grain_misorientation, tolerance.smallest_grain
    near = np.abs(mesh.vector) < 1 + ROUNDING
    i, j = mesh.edges[near].T
    cut = _measure_turns_across(mesh, i, j) > misorientation
    inner = np.bincount(np.concatenate([i[cut], j[cut]]), minlength=mesh.n) == 0
    core = inner[i] & inner[j]
    grain = connected_groups(mesh.n, i[core], j[core])
    grain[~inner] = -1
    grain[np.bincount(grain[grain >= 0], minlength=mesh.n)[grain] < SMALLEST_CORE] = -1
    grain = _grow_grains(mesh, grain, i, j)
    # Grains that meet along a line without a turn of the rows are one.
    grain = _join_grains(mesh, grain, i, j, lambda _, turns, size: np.where(turns > misorientation, np.inf, turns))

    # A boundary holds a dislocation every a / (2 sin(θ/2)). A lone one turns the corner of a field that it cuts off as
    # much as a boundary of that length would. Smaller grains are joined first: splinters must not make a boundary look
    # short. All edges count: those between two grains are often too long for neighbours.
    def rank_lone(bonds, turns, size):
        return np.where(bonds / BONDS_ACROSS * 2 * np.sin(np.radians(turns) / 2) < LONE, size, np.inf)

    grain = _join_grains(mesh, grain, *mesh.edges.T, rank_lone)
    names, count = np.unique(grain[grain >= 0], return_counts=True)
    renamed = np.full(mesh.n, -1)
    for k, largest in enumerate(np.argsort(-count, kind="stable")[: np.sum(count >= smallest)]):
        renamed[grain == names[largest]] = k
    return _reassign_beside_boundaries(mesh, _grow_grains(mesh, renamed, i, j), i, j)


def check_grain(grain: ArrayLike | None, mesh: Mesh) -> np.ndarray:
    """Grain of every particle of a mesh, shape (n,): as given, or found for None."""
    grain = split_grains(mesh, Tolerance()) if grain is None else np.asarray(grain)
    if grain.shape != (mesh.n,):
        raise ValueError(f"{grain.size} grains for {mesh.n} positions; pass one for each")
    return grain


def edges_between(grain: np.ndarray, i: np.ndarray, j: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Those of the edges (i, j) whose ends belong to two grains."""
    met = (grain[i] >= 0) & (grain[j] >= 0) & (grain[i] != grain[j])
    return i[met], j[met]


def meeting_pairs(grain: np.ndarray, i: np.ndarray, j: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of grains that edges (i, j) join, shape (k, 2), the lower number first, and how many edges join each."""
    ends = np.stack([grain[k] for k in edges_between(grain, i, j)], axis=1)
    return np.unique(np.sort(ends, axis=1), axis=0, return_counts=True)


def _measure_turns_across(mesh, i, j) -> np.ndarray:
    """Turn of the rows from one side of each edge to the other, in degrees."""
    psi6, tree = np.nan_to_num(mesh.psi6), cKDTree(mesh.points)
    near = tree.sparse_distance_matrix(tree, TURN_REACH * mesh.spacing, output_type="coo_matrix")
    near = (sparse.csr_array(near) + sparse.eye_array(mesh.n)).tocsr()
    side = []
    for one, other in ((i, j), (j, i)):
        edge, k = near[one].tocoo().coords
        along = np.real(np.conj(mesh.z[other] - mesh.z[one])[edge] * (mesh.z[k] - mesh.z[one][edge]))
        own = along < 0.1 * mesh.spacing**2
        parts = (np.bincount(edge[own], part[k[own]], len(one)) for part in (psi6.real, psi6.imag))
        side.append(to_complex(np.stack([*parts][::-1], axis=1)))
    return np.degrees(np.abs(np.angle(side[0] * np.conj(side[1])))) / 6


def _grow_grains(mesh, grain, i, j) -> np.ndarray:
    """Particles of no grain join the neighbours whose rows are closest to their own bonds, ring by ring."""
    grain = grain.copy()
    i, j = np.concatenate([i, j]), np.concatenate([j, i])
    for _ in range(GROWTH_STEPS):
        next_to = (grain[i] < 0) & (grain[j] >= 0)
        if not next_to.any():
            break
        one, other = i[next_to], j[next_to]
        names, column = np.unique(grain[other], return_inverse=True)
        row = np.array([np.angle(np.nansum(mesh.psi6[grain == name])) / 6 for name in names])
        fits = 1 + np.cos(6 * (np.angle(mesh.z[other] - mesh.z[one]) - row[column]))  # the bond that would be shared
        vote = np.zeros((mesh.n, len(names)))
        np.add.at(vote, (one, column), fits + 0.01)
        reached = np.unique(one)
        grain[reached] = names[vote[reached].argmax(axis=1)]
    return grain


def _reassign_beside_boundaries(mesh, grain, i, j) -> np.ndarray:
    """Particles beside a boundary go to the grain whose lattice, continued from inside, has a site nearer to them."""
    beside = np.unique(edges_between(grain, i, j))
    if len(beside) == 0:
        return grain
    local = lattices_around(mesh, THREE_SHELLS, grain)
    inside = local.good & (grain >= 0)
    inside[beside] = False
    inside = np.flatnonzero(inside)
    near = cKDTree(mesh.points[beside]).sparse_distance_matrix(
        cKDTree(mesh.points[inside]), CONTINUATION * mesh.spacing, output_type="ndarray"
    )
    u = local.place(inside[near["j"]], mesh.z[beside[near["i"]]])
    names = grain.max() + 1
    key = near["i"] * names + grain[inside[near["j"]]]
    count = np.bincount(key, minlength=len(beside) * names).reshape(-1, names)
    misfit = np.bincount(key, np.abs(u - nearest_vector(u)), count.size).reshape(-1, names)
    misfit = np.where(count >= 2, misfit / np.maximum(count, 1), np.inf)
    own = misfit[np.arange(len(beside)), grain[beside]]
    better = misfit.min(axis=1) < own - CLEARER
    grain = grain.copy()
    grain[beside[better]] = misfit.argmin(axis=1)[better]
    return grain


def _join_grains(mesh, grain, i, j, rank: Callable) -> np.ndarray:
    """Join pairs of grains, the lowest rank first, until no rank is finite.

    ``rank`` is a function of the pairs' common bonds, the turns between them in degrees, and their smaller sizes.
    """
    grain = grain.copy()
    while True:
        pairs, bonds = meeting_pairs(grain, i, j)
        turns = np.array([_measure_turn_between(mesh, grain, pair, i, j) for pair in pairs])
        ranks = rank(bonds, turns, np.bincount(grain[grain >= 0])[pairs].min(axis=1))
        if not np.isfinite(ranks).any():
            return grain
        one, other = pairs[ranks.argmin()]
        grain[grain == other] = one


def _measure_turn_between(mesh, grain, pair, i, j) -> float:
    """Turn of the rows of one grain against the other's within four spacings of where they meet, in degrees."""
    between = (np.sort([grain[i], grain[j]], axis=0).T == np.sort(pair)).all(axis=1)
    met = np.concatenate([i[between], j[between]])
    near = cKDTree(mesh.points[met]).query(mesh.points)[0] < MEETING_REACH * mesh.spacing
    near[met] = False  # their ψ6 mixes both grains
    rows = [np.nansum(mesh.psi6[near & (grain == k)]) for k in pair]
    return float(np.degrees(abs(np.angle(rows[0] * np.conj(rows[1])))) / 6)
