"""Grains of a layer, lattices of grains and of surroundings; a layer of a frame with all of them (chapter 9)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree
from scipy.spatial import cKDTree

from ..crystal.lattice import Lattice
from ..crystal.mesh import (
    ROUNDING,
    SIXTH_TURN,
    THREE_SHELLS,
    LocalLattices,
    Mesh,
    lattices_around,
    nearest_vector,
    sixth_turns,
)
from ..crystal.neighbours import NEIGHBOUR_REACH, check_points, connected_groups, spans_plane, to_complex, to_points

BONDS_ACROSS = 12 / (np.pi * np.sqrt(3))  # bonds that a line crosses per spacing, mean over its directions
# By hand where no reason is given, on crystals of known grains and dislocations.
TURN_REACH = 2.3  # spacings on both sides of a bond over which rows are compared
OWN_SIDE = 0.1  # spacings ahead of a bond's end, up to which a particle lies on its side
SMALLEST_CORE = 4  # particles; fewer with no cut bond are no start of a grain
GROWTH_STEPS = 30  # rings of particles that a grain may take in
LEAST_VOTE = 0.01  # of a neighbour whose rows do not fit, where the best fit counts 2
MEETING_REACH = 4.0  # spacings from where two grains meet: rows there are compared
CONTINUATION = 3.0  # spacings over which a grain's lattice is continued to a particle beside a boundary
CONTINUED = 2  # predictions at least, of a lattice that is continued
CLEARER = 0.05  # spacings by which a particle beside a boundary must lie nearer to the other grain's lattice
LONE = 1.5  # dislocations; a boundary that holds fewer is no boundary
FEWEST_OF_LATTICE = 6  # particles: twice the three complex numbers that are fitted
FARTHEST_OF_SITE = 5.0  # standard deviations of the residuals; farther particles sit on no site
CLOSE = 0.05  # spacings; nearer particles sit on their site in any case
MAD_TO_STD = 1.4826  # standard deviation / median of |x|, of a Gaussian (`particle_prior` rounds it to 1.48)
GOOD_BOND = 0.3  # spacings between a bond and the lattice vector it is named by
SURE_BOND = 0.25  # spacings; bonds this good are right about the numbers of their sites
CONTRADICTIONS = 3  # sure bonds that contradict the numbers of their sites: a dislocation
LEAST_MISFIT = 1e-3  # spacings, added to each bond's: among perfect bonds short ways are taken
ERROR_BLOCK = 5.0  # spacings; residuals farther apart count as independent
FEWEST_BLOCKS = 8  # fewer do not give a variance of their own
CORRELATED = 1.5  # ratio of the blocks' error to that of independent residuals, above which residuals are not


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

    An edge between neighbours is cut where the mean ψ6 on its two sides turns by more than
    `Tolerance.grain_misorientation`: slow bending changes little over such a distance, a boundary all. Regions are
    joined whose lattices agree where they meet, or that meet along a line too short for two dislocations by Frank's
    formula (Phil. Mag. 42, 809 (1951)). Those smaller than `Tolerance.smallest_grain` are no grain.
    """
    points = check_points(points)
    if len(points) < Tolerance.smallest_grain or not spans_plane(points):
        return np.full(len(points), -1)
    return LayerFrame(Mesh(points, spacing)).grain


def _split_grains(mesh, tolerance) -> np.ndarray:
    """Grains of a layer that is triangulated already: see `find_grains`."""
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

    # A boundary holds a dislocation every a / (2 sin(θ/2)). Smaller grains are joined first: splinters must not make a
    # boundary look short. All edges count: those between two grains are often too long for neighbours.
    def rank_lone(bonds, turns, size):
        return np.where(bonds / BONDS_ACROSS * 2 * np.sin(np.radians(turns) / 2) < LONE, size, np.inf)

    grain = _join_grains(mesh, grain, mesh.edges[:, 0], mesh.edges[:, 1], rank_lone)
    names, count = np.unique(grain[grain >= 0], return_counts=True)
    renamed = np.full(mesh.n, -1)
    for k, largest in enumerate(np.argsort(-count, kind="stable")[: np.sum(count >= smallest)]):
        renamed[grain == names[largest]] = k
    return _reassign_beside_boundaries(mesh, _grow_grains(mesh, renamed, i, j), i, j)


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
        own = along < OWN_SIDE * mesh.spacing**2
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
        np.add.at(vote, (one, column), fits + LEAST_VOTE)
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
    misfit = np.where(count >= CONTINUED, misfit / np.maximum(count, 1), np.inf)
    own = misfit[np.arange(len(beside)), grain[beside]]
    better = misfit.min(axis=1) < own - CLEARER
    grain = grain.copy()
    grain[beside[better]] = misfit.argmin(axis=1)[better]
    return grain


def _join_grains(mesh, grain, i, j, rank: Callable) -> np.ndarray:
    """Join grains, the pair of lowest rank(bonds, turns in degrees, smaller size) first, until no rank is finite."""
    grain = grain.copy()
    while True:
        pairs, bonds = meeting_pairs(grain, i, j)
        turns = []
        for pair in pairs:  # of the rows, within four spacings of where two grains meet
            between = (np.sort([grain[i], grain[j]], axis=0).T == pair).all(axis=1)
            met = np.concatenate([i[between], j[between]])
            near = cKDTree(mesh.points[met]).query(mesh.points)[0] < MEETING_REACH * mesh.spacing
            near[met] = False  # their ψ6 mixes both grains
            one, other = (np.nansum(mesh.psi6[near & (grain == k)]) for k in pair)
            turns.append(np.degrees(abs(np.angle(one * np.conj(other)))) / 6)
        ranks = rank(bonds, np.array(turns), np.bincount(grain[grain >= 0])[pairs].min(axis=1))
        if not np.isfinite(ranks).any():
            return grain
        one, other = pairs[ranks.argmin()]
        grain[grain == other] = one


@dataclass(frozen=True)
class LatticeFit(Lattice):
    """A lattice fitted to the positions of a grain by least squares; its spacing (nm) and angle are without strain."""

    origin: np.ndarray  # (y, x) of site (0, 0), nm
    vectors: np.ndarray  # a₁ and a₂, 60° apart before strain, rows (y, x), nm
    spacing_std: float  # nm
    angle_std: float  # degrees
    residual_std: float  # nm, scatter of particles about their sites, per component
    shear: float  # largest strain without change of area
    n: int  # particles used
    index: np.ndarray  # (n_points, 2) m and n of each particle, at origin + m a₁ + n a₂; NaN where it has none


def fit_lattice(points: ArrayLike) -> LatticeFit:
    """Lattice vectors of a grain (n, 2), in nm, with their errors, by least squares over all its sites.

    Particles are numbered from neighbour to neighbour; vectors follow from regression of positions on numbers. Under
    slow strain the errors are those of independent blocks (Cameron & Miller, J. Human Resources 50, 317 (2015)). Around
    a dislocation, where bonds contradict the numbers, vectors come from the bonds alone: less precise.
    """
    mesh = Mesh(points)
    fit = fit_members(mesh, np.ones(mesh.n, bool))
    if fit is None:
        raise ValueError(f"a lattice needs at least 6 particles in one piece; the {mesh.n} given form none")
    return fit


def fit_members(mesh: Mesh, members: np.ndarray) -> LatticeFit | None:
    """Fit of those particles (mask, shape (n,)) of a mesh that form a grain; None if fewer than six hang together."""
    named = name_bonds(mesh, members)
    site = _number_sites(mesh, *named)
    known = np.isfinite(site)
    for last in (False, False, True):  # without those that sit on no site
        if known.sum() < FEWEST_OF_LATTICE:
            return None
        center = site[known].mean()
        w = site[known] - center
        design = np.stack([np.ones_like(w), w, np.conj(w)], axis=1)
        inverse = np.linalg.pinv(np.conj(design.T) @ design)
        # z = c + q w + p w*: q is spacing and direction, p the shear
        c, q, p = coefficients = inverse @ (np.conj(design.T) @ mesh.z[known])
        residual = mesh.z[known] - design @ coefficients
        scatter = MAD_TO_STD * np.median(np.abs(residual.view(float)))
        keep = np.abs(residual) < max(FARTHEST_OF_SITE * scatter, CLOSE * mesh.spacing)
        if keep.all() or last:
            break
        known[np.flatnonzero(known)[~keep]] = False
    errors = _estimate_errors(mesh.z[known], design, inverse, residual, q, column=1)
    i, j, vector, misfit = named
    sure = (misfit < SURE_BOND) & np.isfinite(site[i]) & np.isfinite(site[j])
    if np.sum(np.abs(site[j] - site[i] - vector)[sure] > 0.5) >= CONTRADICTIONS:
        # Numbers depend on the way around a dislocation, bonds do not.
        q, p, errors = fit_from_bonds(mesh, *named)
    basis, second = np.array([1, np.exp(1j * SIXTH_TURN)]), site.imag / np.sin(SIXTH_TURN)
    n, (radial, tangential) = int(known.sum()), map(float, errors)
    return LatticeFit(
        origin=to_points(c - q * center - p * np.conj(center)),
        vectors=to_points(q * basis + p * np.conj(basis)),
        spacing=float(np.abs(q)),
        angle=float(np.degrees(np.angle(q)) % 60),
        spacing_std=radial,
        angle_std=float(np.degrees(tangential / np.abs(q))),
        residual_std=float(np.sqrt(np.sum(np.abs(residual) ** 2) / max(2 * n - 6, 1))),
        shear=float(np.abs(p / q)),
        n=n,
        index=np.rint(np.where(known[:, None], np.stack([site.real - second / 2, second], axis=1), np.nan)),
    )


def name_bonds(mesh: Mesh, members: np.ndarray):
    """Indices of bonds (i, j) between members, their lattice vectors in one frame, and misfits, in spacings."""
    i, j = mesh.edges.T
    use = members[i] & members[j] & (np.abs(np.abs(mesh.vector) - 1) < ROUNDING)
    row = np.angle(np.nansum(mesh.psi6[members])) / 6
    return i[use], j[use], mesh.vector[use] * sixth_turns(mesh.frame[use], row), mesh.misfit[use]


def _number_sites(mesh, i, j, vector, misfit) -> np.ndarray:
    """Lattice vector (complex, in units of the spacing) of every site from one of them; NaN where no bond leads."""
    site = np.full(mesh.n, np.nan + 0j)
    if len(i) == 0:
        return site
    tree = minimum_spanning_tree(sparse.coo_array((misfit + LEAST_MISFIT, (i, j)), shape=(mesh.n, mesh.n)))
    label = connected_components(tree, directed=False)[1]
    largest = np.flatnonzero(label == np.bincount(label).argmax())
    start = largest[np.abs(mesh.z[largest] - mesh.z[largest].mean()).argmin()]
    order, before = breadth_first_order(tree, start, directed=False)
    step = sparse.csr_array((np.r_[vector, -vector], (np.r_[i, j], np.r_[j, i])), shape=(mesh.n, mesh.n))
    site[start] = 0
    along = np.asarray(step[before[order[1:]], order[1:]]).ravel()
    for k, value in zip(order[1:], along, strict=True):
        site[k] = site[before[k]] + value
    return site


def fit_from_bonds(mesh: Mesh, i: np.ndarray, j: np.ndarray, vector: np.ndarray, misfit: np.ndarray):
    """Spacing and row, shear, and their errors from the bonds alone: the mean of the lattices around all particles."""
    good = misfit < GOOD_BOND
    i, j, w = i[good], j[good], vector[good]
    design, step = np.stack([w, np.conj(w)], axis=1), mesh.z[j] - mesh.z[i]
    inverse = np.linalg.pinv(np.conj(design.T) @ design)
    q, p = inverse @ (np.conj(design.T) @ step)
    residual = step - q * w - p * np.conj(w)
    return q, p, _estimate_errors((mesh.z[i] + mesh.z[j]) / 2, design, inverse, residual, q, column=0)


def _estimate_errors(z, design, inverse, residual, q, column):
    """Standard deviations of q along itself and across it."""
    n, parameters = design.shape
    variance = np.sum(np.abs(residual) ** 2) / max(2 * (n - parameters), 1)  # per component
    plain = np.sqrt(variance * inverse[column, column].real)
    blocks = sum_by_blocks(z, ERROR_BLOCK * np.abs(q), design, inverse, residual)
    if blocks is None:
        return plain, plain
    ahead = blocks[:, column] * np.exp(-1j * np.angle(q))
    radial, tangential = np.linalg.norm(ahead.real), np.linalg.norm(ahead.imag)
    if max(radial, tangential) < CORRELATED * plain:  # few blocks would only add their own scatter
        return plain, plain
    return max(radial, plain), max(tangential, plain)


def sum_by_blocks(z, size, design, inverse, residual) -> np.ndarray | None:
    """What residuals (n,) of square blocks change in a linear fit, (blocks, parameters); None for too few blocks."""
    block = np.floor(np.stack([z.real, z.imag]) / size)
    name = np.unique(block, axis=1, return_inverse=True)[1].ravel()
    blocks = name.max() + 1
    if blocks < FEWEST_BLOCKS:
        return None
    score = np.zeros((blocks, design.shape[1]), design.dtype)
    np.add.at(score, name, np.conj(design) * residual[:, None])
    return np.sqrt(blocks / (blocks - 3)) * score @ inverse.T


def local_lattices(
    points: ArrayLike, spacing: float | None = None, reach: float = NEIGHBOUR_REACH, grain: ArrayLike | None = None
) -> LocalLattices:
    """Affine fit of a hexagonal lattice to each particle's neighbours within ``reach`` spacings, of the same ``grain``.

    `NEIGHBOUR_REACH` takes the first shell of neighbours, `THREE_SHELLS` three. NaN where fewer than three neighbours
    in different directions are near. Falk & Langer, Phys. Rev. E 57, 7192 (1998).
    """
    mesh = Mesh(points, spacing)
    return lattices_around(mesh, reach, None if grain is None else LayerFrame(mesh, known_grain=grain).grain)


@dataclass(frozen=True, eq=False)
class LayerFrame:
    """One layer in one frame: ``LayerFrame(Mesh(points))``. Defects and Moiré are measured from it."""

    mesh: Mesh
    tolerance: Tolerance = Tolerance()
    known_grain: ArrayLike | None = None  # (n,) grain of each particle, where it need not be found

    @cached_property
    def grain(self) -> np.ndarray:
        """Grain of each particle, shape (n,): 0, 1, ... by falling size, -1 for none."""
        if self.known_grain is None:
            return _split_grains(self.mesh, self.tolerance)
        grain = np.asarray(self.known_grain)
        if grain.shape != (self.mesh.n,):
            raise ValueError(f"{grain.size} grains for {self.mesh.n} positions; pass one for each")
        return grain

    @cached_property
    def lattices(self) -> list[LatticeFit | None]:
        """Lattice of each grain, by number; None where too few particles hang together."""
        return [fit_members(self.mesh, self.grain == k) for k in range(self.grain.max(initial=-1) + 1)]

    @property
    def main_lattice(self) -> tuple[int, LatticeFit] | None:
        """Number and lattice of the largest grain that has one."""
        return next(((k, fit) for k, fit in enumerate(self.lattices) if fit is not None), None)

    @cached_property
    def surroundings(self) -> LocalLattices:
        """Lattice around each particle, from three shells of neighbours of its own grain."""
        return lattices_around(self.mesh, THREE_SHELLS, self.grain)

    def of_grain(self, number: int) -> "LayerFrame":
        """The same particles with one grain only, which becomes number 0."""
        alone = np.where(self.grain == number, 0, -1)
        return self if np.array_equal(alone, self.grain) else LayerFrame(self.mesh, self.tolerance, alone)
