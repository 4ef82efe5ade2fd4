"""Order of a layer: grains, lattice vectors, strain, and correlation functions.

Positions in, numbers with errors out. Nothing here calls a particle disordered for the neighbours that the edge of its
crystal, or of the frame, took from it. How two layers lie on each other is in `moirelib.moire`.

Explained in chapter 9, "Order and defects".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import freud
import numpy as np
import pandas as pd
from scipy import sparse
from scipy.ndimage import distance_transform_edt
from scipy.signal import fftconvolve
from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree
from scipy.spatial import cKDTree

from .elastic import bonds
from .mesh import (
    REACH,
    SIXTH_TURN,
    THREE_SHELLS,
    Mesh,
    checked_points,
    connected_groups,
    freud_system,
    hexatic,
    nearest_vector,
    neighbour_spacing,
    sixth_turns,
    spans_plane,
    to_complex,
    to_points,
)
from .tables import layers_by_frame

__all__ = [
    "LatticeFit",
    "LocalLattices",
    "checked_grain",
    "edge_particles",
    "find_grains",
    "fit_lattice",
    "fit_members",
    "grain_fits",
    "grains_of",
    "hexatic",
    "hexatic_correlation",
    "lattice_table",
    "lattices_around",
    "local_lattices",
    "neighbour_spacing",
    "radial_distribution",
    "strain_map",
]


#: Bonds of a hexagonal lattice that a line crosses per spacing, mean over its directions.
BONDS_ACROSS = 12 / (np.pi * np.sqrt(3))

# --- Correlation functions and the edge ---


def hexatic_correlation(points, psi6, r_max: float, bin_width: float) -> pd.DataFrame:
    """Correlation function g6(r) of the bond-orientational order.

    Parameters
    ----------
    points : array_like, shape (n, 2)
        (y, x) in nm.
    psi6 : array_like of complex, shape (n,)
        From `hexatic`; particles with NaN are left out.
    r_max, bin_width : float
        Largest distance and width of its bins, in nm.

    Returns
    -------
    pandas.DataFrame
        ``r_nm, g6, pairs``: the mean of ψ6*(0) ψ6(r) over pairs of particles, real part, normalised by the mean of
        |ψ6|². It stays near 1 in a crystal, decays algebraically in a hexatic, exponentially in a liquid. Being a mean
        over the pairs there are, it needs no correction for the edge.

    Raises
    ------
    ValueError
        If positions are not finite, or distances not positive.

    Notes
    -----
    Explained in chapter 9, "Order and defects".
    """
    points, psi6 = checked_points(points), np.asarray(psi6)
    _refuse_bins(r_max, bin_width)
    known = np.isfinite(psi6)
    if known.sum() < 2:
        return pd.DataFrame({"r_nm": [], "g6": [], "pairs": []})
    box, xyz = freud_system(points[known])
    r_max = min(float(r_max), 0.99 * box.Lx / 2)
    bins = max(round(r_max / bin_width), 1)
    pair = freud.density.CorrelationFunction(bins=bins, r_max=r_max)
    pair.compute((box, xyz), values=psi6[known])
    mean = pair.correlation.real / np.mean(np.abs(psi6[known]) ** 2)
    there = np.asarray(pair.bin_counts) > 0
    table = pd.DataFrame({"r_nm": pair.bin_centers, "g6": mean, "pairs": np.asarray(pair.bin_counts) // 2})
    return table[there].reset_index(drop=True)


def radial_distribution(points, r_max: float, bin_width: float, spacing: float | None = None) -> pd.DataFrame:
    """Radial distribution function g(r) of a layer of any outline.

    Parameters
    ----------
    points : array_like, shape (n, 2)
        (y, x) in nm.
    r_max, bin_width : float
        Largest distance and width of its bins, in nm.
    spacing : float, optional
        Nearest-neighbour distance, in nm; measured by default.

    Returns
    -------
    pandas.DataFrame
        ``r_nm, g, pairs``: pairs at each distance over those expected of as many particles strewn at random over the
        same region.

    Raises
    ------
    ValueError
        If positions are not finite or too few for a spacing, or distances not positive.

    Notes
    -----
    The region is what lies within 0.6 spacings of a particle. Its autocorrelation says how many pairs of its points
    there are at each distance, which corrects for edges of any shape. Explained in chapter 9, "Order and defects".
    """
    points = checked_points(points)
    _refuse_bins(r_max, bin_width)
    spacing = neighbour_spacing(points) if spacing is None else spacing
    edges = np.arange(0, r_max + bin_width, bin_width)
    distance = cKDTree(points).sparse_distance_matrix(cKDTree(points), edges[-1], output_type="ndarray")
    i, j, r = (distance[name] for name in ("i", "j", "v"))
    pairs = np.histogram(r[i < j], edges)[0]
    step = spacing / 8
    shape = np.ceil((np.ptp(points, axis=0) + 2 * spacing) / step).astype(int)
    grid = np.ones(shape, bool)
    grid[tuple(np.rint((points - points.min(axis=0) + spacing) / step).astype(int).T)] = False
    region = (distance_transform_edt(grid) * step < 0.6 * spacing).astype(float)
    overlap = fftconvolve(region, region[::-1, ::-1])  # at every displacement, in cells
    middle = np.array(region.shape) - 1
    far = np.hypot(*((np.indices(overlap.shape) - middle[:, None, None]) * step))
    # The mean over a ring's cells times the ring's exact area, since a cell may be wider than a ring is.
    index = np.digitize(far.ravel(), edges) - 1
    use = index < len(pairs)
    cells = np.bincount(index[use], minlength=len(pairs))
    mean = np.bincount(index[use], overlap.ravel()[use], len(pairs)) / np.maximum(cells, 1)
    expected = 0.5 * len(points) ** 2 * mean * np.pi * np.diff(edges**2) / (region.sum() ** 2 * step**2)
    g = pairs / np.where(expected > 0, expected, np.nan)
    return pd.DataFrame({"r_nm": (edges[1:] + edges[:-1]) / 2, "g": g, "pairs": pairs})


def _refuse_bins(r_max, bin_width) -> None:
    if not (r_max > 0 and bin_width > 0):
        raise ValueError(f"r_max and bin_width must be positive (nm), got {r_max} and {bin_width}")


def edge_particles(points, spacing: float | None = None) -> np.ndarray:
    """Which particles lie at the edge of their crystal or of the frame.

    Parameters
    ----------
    points : array_like, shape (n, 2)
        (y, x) in nm.
    spacing : float, optional
        Nearest-neighbour distance, in nm; measured by default.

    Returns
    -------
    ndarray of bool, shape (n,)
        True where two neighbours in succession are 150° or more apart as seen from the particle: 180° at a straight
        edge, 60° inside and 120° beside a single vacancy.

    Raises
    ------
    ValueError
        If positions are not finite, or too few to measure the spacing.

    Notes
    -----
    Explained in chapter 9, "Order and defects".
    """
    points = checked_points(points)
    spacing = neighbour_spacing(points) if spacing is None else spacing
    pairs = bonds(points, spacing)
    i, j = np.concatenate([pairs, pairs[:, ::-1]]).T
    angle = np.angle(to_complex(points[j] - points[i]))
    order = np.lexsort([angle, i])
    i, angle = i[order], angle[order]
    count = np.bincount(i, minlength=len(points))
    first = np.concatenate([[0], np.cumsum(count)])[:-1]
    following = np.arange(len(i)) + 1
    last = (first + count - 1)[count > 0]
    following[last] = first[count > 0]
    gap = (angle[following] - angle) % (2 * np.pi) if len(i) else angle
    gap[count[i] == 1] = 2 * np.pi
    widest = np.full(len(points), 2 * np.pi)
    widest[count > 0] = np.maximum.reduceat(gap, first[count > 0]) if len(i) else 0
    return widest >= np.radians(150) - 1e-9


# --- Grains ---


def find_grains(points, spacing: float | None = None, misorientation: float = 3.5, smallest: int = 12) -> np.ndarray:
    """Contiguous regions of one orientation.

    Parameters
    ----------
    points : array_like, shape (n, 2)
        (y, x) in nm, of one layer in one frame.
    spacing : float, optional
        Nearest-neighbour distance, in nm; measured by default.
    misorientation : float
        Rows on both sides of a boundary differ by more than this, in degrees.
    smallest : int
        Regions of fewer particles are no grain.

    Returns
    -------
    ndarray of int, shape (n,)
        0, 1, ... by falling size; -1 for particles of no grain.

    Raises
    ------
    ValueError
        If positions are not finite.

    Notes
    -----
    An edge between neighbours is cut where the mean ψ6 on its one side, within 2.3 spacings, is turned against that on
    its other side. Slow bending of rows changes little over such a distance, a boundary all. Regions grow together from
    particles without a cut edge, so that neither a lone dislocation, which cuts a few edges, nor a single gap in a
    boundary decides. Regions whose lattices agree where they meet are one, and so are those that meet along a line too
    short to hold more than one dislocation by Frank's formula (Phil. Mag. 42, 809 (1951)). Explained in chapter 9,
    "Order and defects".
    """
    points = checked_points(points)
    if len(points) < smallest or not spans_plane(points):
        return np.full(len(points), -1)
    return grains_of(Mesh(points, spacing), misorientation, smallest)


def grains_of(mesh: Mesh, misorientation: float = 3.5, smallest: int = 12) -> np.ndarray:
    """The same as `find_grains`, of a layer that is triangulated already."""
    good = np.abs(mesh.vector) < 1.1
    i, j = mesh.edges[good].T
    cut = _turn_across(mesh, i, j) > misorientation
    inner = np.bincount(np.concatenate([i[cut], j[cut]]), minlength=mesh.n) == 0
    core = inner[i] & inner[j]
    grain = connected_groups(mesh.n, i[core], j[core])
    grain[~inner] = -1
    grain[np.isin(grain, np.flatnonzero(np.bincount(grain[grain >= 0], minlength=1) < 4))] = -1
    grain = _grown(mesh, grain, i, j)
    grain = _joined(mesh, grain, i, j, misorientation)
    grain = _joined_across_lone_dislocations(mesh, grain)
    names, count = np.unique(grain[grain >= 0], return_counts=True)
    renamed = np.full(mesh.n, -1)
    for k, name in enumerate(names[np.argsort(-count, kind="stable")]):
        if np.sum(grain == name) >= smallest:
            renamed[grain == name] = k
    return _sharpened(mesh, _grown(mesh, renamed, i, j), i, j)


def checked_grain(grain, mesh: Mesh) -> np.ndarray:
    """Grain of every particle of a mesh, shape (n,): as given, or found for None.

    Raises
    ------
    ValueError
        If there is not one grain for every particle.
    """
    grain = grains_of(mesh) if grain is None else np.asarray(grain)
    if grain.shape != (mesh.n,):
        raise ValueError(f"{grain.size} grains for {mesh.n} positions; pass one for each")
    return grain


def _turn_across(mesh, i, j, reach: float = 2.3) -> np.ndarray:
    """Turn of the rows from one side of each edge to the other, in degrees."""
    psi6, tree = np.nan_to_num(mesh.psi6), cKDTree(mesh.points)
    near = tree.sparse_distance_matrix(tree, reach * mesh.spacing, output_type="coo_matrix")
    near = (sparse.csr_array(near) + sparse.eye_array(mesh.n)).tocsr()
    side = []
    for one, other in ((i, j), (j, i)):
        start, count = near.indptr[one], np.diff(near.indptr)[one]
        edge = np.repeat(np.arange(len(one)), count)
        k = near.indices[np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(start, count)]
        along = np.real(np.conj(mesh.z[other] - mesh.z[one])[edge] * (mesh.z[k] - mesh.z[one][edge]))
        own = along < 0.1 * mesh.spacing**2
        side.append(np.bincount(edge[own], psi6[k[own]].real, len(one)) + 1j * np.bincount(
            edge[own], psi6[k[own]].imag, len(one)
        ))  # fmt: skip
    return np.degrees(np.abs(np.angle(side[0] * np.conj(side[1])))) / 6


def _grown(mesh, grain, i, j) -> np.ndarray:
    """Particles of no grain join the neighbours whose rows are closest to their own bonds, ring by ring."""
    grain = grain.copy()
    i, j = np.concatenate([i, j]), np.concatenate([j, i])
    for _ in range(30):
        next_to = (grain[i] < 0) & (grain[j] >= 0)
        if not next_to.any():
            break
        one, other = i[next_to], j[next_to]
        names = np.unique(grain[other])
        vote = np.zeros((mesh.n, len(names)))
        column = np.searchsorted(names, grain[other])
        for k, name in enumerate(names):
            row = np.angle(mesh.psi6[(grain == name) & np.isfinite(mesh.psi6)].sum()) / 6
            fits = 1 + np.cos(6 * (np.angle(mesh.z[other] - mesh.z[one]) - row))  # the bond that would be shared
            np.add.at(vote[:, k], one, np.where(column == k, fits + 0.01, 0.0))
        reached = np.unique(one)
        grain[reached] = names[vote[reached].argmax(axis=1)]
    return grain


def _sharpened(mesh, grain, i, j) -> np.ndarray:
    """Particles beside a boundary go to the grain whose lattice, continued from inside, has a site nearer to them."""
    met = (grain[i] >= 0) & (grain[j] >= 0) & (grain[i] != grain[j])
    beside = np.unique([i[met], j[met]])
    if len(beside) == 0:
        return grain
    local = lattices_around(mesh, THREE_SHELLS, grain)
    inside = local.good & (grain >= 0)
    inside[beside] = False
    inside = np.flatnonzero(inside)
    near = cKDTree(mesh.points[beside]).sparse_distance_matrix(
        cKDTree(mesh.points[inside]), 3.0 * mesh.spacing, output_type="ndarray"
    )
    u = local.place(inside[near["j"]], mesh.z[beside[near["i"]]])
    names = grain.max() + 1
    key = near["i"] * names + grain[inside[near["j"]]]
    count = np.bincount(key, minlength=len(beside) * names).reshape(-1, names)
    misfit = np.bincount(key, np.abs(u - nearest_vector(u)), count.size).reshape(-1, names)
    misfit = np.where(count >= 2, misfit / np.maximum(count, 1), np.inf)
    own = misfit[np.arange(len(beside)), grain[beside]]
    better = misfit.min(axis=1) < own - 0.05
    grain = grain.copy()
    grain[beside[better]] = misfit.argmin(axis=1)[better]
    return grain


def _joined(mesh, grain, i, j, misorientation) -> np.ndarray:
    """Grains that meet along a line without a turn of the rows are one."""
    grain = grain.copy()
    while True:
        met = (grain[i] >= 0) & (grain[j] >= 0) & (grain[i] != grain[j])
        pairs = np.unique(np.sort(np.stack([grain[i[met]], grain[j[met]]], axis=1), axis=1), axis=0)
        turns = [(_turn_between(mesh, grain, *pair, i, j), tuple(pair)) for pair in pairs]
        if not turns or min(turns)[0] > misorientation:
            return grain
        one, other = min(turns)[1]
        grain[grain == other] = one


def _joined_across_lone_dislocations(mesh, grain, least: float = 1.5) -> np.ndarray:
    """Grains are one if the boundary between them is too short to hold more than one dislocation.

    A boundary holds one every a / (2 sin(θ/2)) (Frank's formula). A lone dislocation turns the corner of a field that
    it cuts off as much as a boundary of that length would. Smaller grains are asked first, so that splinters along a
    boundary do not make it look short.
    """
    grain = grain.copy()
    i, j = mesh.edges.T  # all of them: those between two grains are often too long for neighbours
    while True:
        met = (grain[i] >= 0) & (grain[j] >= 0) & (grain[i] != grain[j])
        both = np.sort(np.stack([grain[i[met]], grain[j[met]]], axis=1), axis=1)
        pairs, bonds = np.unique(both, axis=0, return_counts=True)
        turns = np.radians([_turn_between(mesh, grain, *pair, i, j) for pair in pairs])
        held = bonds / BONDS_ACROSS * 2 * np.sin(turns / 2)
        lone = pairs[held < least]
        if len(lone) == 0:
            return grain
        one, other = lone[np.bincount(grain[grain >= 0])[lone].min(axis=1).argmin()]
        grain[grain == other] = one


def _turn_between(mesh, grain, one, other, i, j) -> float:
    """Turn of the rows of one grain against the other's within four spacings of where they meet, in degrees."""
    met = np.concatenate([i, j])[
        np.tile(np.sort([grain[i], grain[j]], axis=0).T == sorted((one, other)), (2, 1)).all(1)
    ]
    near = cKDTree(mesh.points[met]).query(mesh.points)[0] < 4 * mesh.spacing
    near[met] = False  # bonds across the boundary say nothing
    rows = [np.nansum(mesh.psi6[near & (grain == k)]) for k in (one, other)]
    return float(np.degrees(abs(np.angle(rows[0] * np.conj(rows[1])))) / 6)


# --- One lattice of many particles ---


@dataclass(frozen=True)
class LatticeFit:
    """A lattice fitted to the positions of a grain by least squares.

    Site (m, n) lies at origin + m a₁ + n a₂. Explained in chapter 9, "Order and defects".
    """

    origin: np.ndarray  # (y, x) of site (0, 0), nm
    vectors: np.ndarray  # a₁ and a₂, 60° apart before strain, rows (y, x), nm
    spacing: float  # nm, of the unstrained hexagonal lattice nearest to it
    angle: float  # degrees, of one close-packed row, from x towards y, 0 to 60
    spacing_std: float  # nm
    angle_std: float  # degrees
    vector_std: float  # nm, of each component of a₁ and a₂
    origin_std: float  # nm, of each component of the particles' mean position
    residual_std: float  # nm, scatter of particles about their sites, per component
    shear: float  # largest strain without change of area
    n: int  # particles used
    index: np.ndarray  # (n_points, 2) m and n of each particle, NaN where it has none


def fit_lattice(points, spacing: float | None = None) -> LatticeFit:
    """Lattice vectors of a grain with their errors, by least squares over all its sites.

    Parameters
    ----------
    points : array_like, shape (n, 2)
        (y, x) in nm, of one grain.
    spacing : float, optional
        Rough nearest-neighbour distance, in nm; measured by default.

    Returns
    -------
    LatticeFit
        Errors are one standard deviation.

    Raises
    ------
    ValueError
        If fewer than six particles belong to one piece of lattice.

    Notes
    -----
    Particles are numbered by walking from neighbour to neighbour, over the most regular bonds first, which neither slow
    strain nor the edge disturbs; then origin and vectors follow from linear regression of the positions on the numbers.
    Where residuals are not independent, as under slow strain, the errors are those of blocks of five spacings that are
    (a cluster-robust covariance [1]_), so that they do not promise too much. Around a dislocation numbers depend on the
    way; where bonds contradict them, vectors come from the bonds alone, which costs precision.

    References
    ----------
    .. [1] Cameron & Miller, J. Human Resources 50, 317 (2015).

    Explained in chapter 9, "Order and defects".
    """
    mesh = Mesh(points, spacing)
    fit = fit_members(mesh, np.ones(mesh.n, bool))
    if fit is None:
        raise ValueError(f"a lattice needs at least 6 particles in one piece; the {mesh.n} given form none")
    return fit


def fit_members(mesh: Mesh, members: np.ndarray) -> LatticeFit | None:
    """Fit of those particles (mask, shape (n,)) of a mesh that form a grain; None if fewer than six hang together."""
    named = _named_bonds(mesh, members)
    site = _site_numbers(mesh, *named)
    known = np.isfinite(site)
    for last in (False, False, True):  # without those that sit on no site
        if known.sum() < 6:
            return None
        coefficients, inverse, residual, center = _regress(mesh.z[known], site[known])
        scatter = 1.4826 * np.median(np.abs(residual.view(float)))
        keep = np.abs(residual) < max(5 * scatter, 0.05 * mesh.spacing)
        if keep.all() or last:
            break
        known[np.flatnonzero(known)[~keep]] = False
    q, p, errors = _from_sites(mesh.z[known], site[known] - center, coefficients, inverse, residual)
    if _torn(site, *named):  # by dislocations: numbers depend on the way, bonds do not
        q, p, errors = _from_bonds(mesh, *named)
    return _described(site, known, coefficients[0], q, p, errors, residual, center)


def _named_bonds(mesh, members):
    """Indices of bonds (i, j) between members, their lattice vectors in one frame, and misfits, in spacings."""
    i, j = mesh.edges.T
    use = members[i] & members[j] & (np.abs(np.abs(mesh.vector) - 1) < 0.1)
    row = np.angle(np.nansum(mesh.psi6[members])) / 6
    return i[use], j[use], mesh.vector[use] * sixth_turns(mesh.frame[use], row), mesh.misfit[use]


def _site_numbers(mesh, i, j, vector, misfit) -> np.ndarray:
    """Lattice vector (complex, in units of the spacing) of every site from one of them; NaN where no bond leads."""
    site = np.full(mesh.n, np.nan + 0j)
    if len(i) == 0:
        return site
    tree = minimum_spanning_tree(sparse.coo_array((misfit + 1e-3, (i, j)), shape=(mesh.n, mesh.n)))
    label = connected_components(tree, directed=False)[1]
    largest = np.flatnonzero(label == np.bincount(label).argmax())
    start = largest[np.abs(mesh.z[largest] - mesh.z[largest].mean()).argmin()]
    order, before = breadth_first_order(tree, start, directed=False)
    step = sparse.coo_array((np.concatenate([vector, -vector]), (np.concatenate([i, j]), np.concatenate([j, i]))))
    step = sparse.csr_array((step.data, (step.row, step.col)), shape=(mesh.n, mesh.n))
    site[start] = 0
    along = np.asarray(step[before[order[1:]], order[1:]]).ravel()
    for k, value in zip(order[1:], along, strict=True):
        site[k] = site[before[k]] + value
    return site


def _regress(z, site):
    """Least squares of z = c + q w + p w*, with w from the mean site: q is spacing and direction, p the shear."""
    center = site.mean()
    w = site - center
    design = np.stack([np.ones_like(w), w, np.conj(w)], axis=1)
    inverse = np.linalg.pinv(np.conj(design.T) @ design)
    coefficients = inverse @ (np.conj(design.T) @ z)
    return coefficients, inverse, z - design @ coefficients, center


def _torn(site, i, j, vector, misfit, least: int = 3) -> bool:
    """Whether good bonds contradict the numbers of the sites: there is a dislocation."""
    good = (misfit < 0.25) & np.isfinite(site[i]) & np.isfinite(site[j])
    return bool(np.sum(np.abs(site[j] - site[i] - vector)[good] > 0.5) >= least)


def _from_sites(z, w, coefficients, inverse, residual):
    """Spacing and row, shear, and their errors, from numbered sites w."""
    design = np.stack([np.ones_like(w), w, np.conj(w)], axis=1)
    return *coefficients[1:], _errors(z, design, inverse, residual, coefficients[1], column=1)


def _from_bonds(mesh, i, j, vector, misfit):
    """The same from the bonds between neighbours alone: the mean of the lattices around all particles."""
    good = misfit < 0.3
    i, j, w = i[good], j[good], vector[good]
    design, step = np.stack([w, np.conj(w)], axis=1), mesh.z[j] - mesh.z[i]
    inverse = np.linalg.pinv(np.conj(design.T) @ design)
    q, p = inverse @ (np.conj(design.T) @ step)
    residual = step - q * w - p * np.conj(w)
    return q, p, _errors((mesh.z[i] + mesh.z[j]) / 2, design, inverse, residual, q, column=0)


def _errors(z, design, inverse, residual, q, column):
    """Standard deviations of q along itself and across it, and of a component of a lattice vector."""
    n, parameters = design.shape
    variance = np.sum(np.abs(residual) ** 2) / max(2 * (n - parameters), 1)  # per component
    plain = np.sqrt(variance * inverse[column, column].real)
    component = np.sqrt(variance * (inverse[column, column] + inverse[column + 1, column + 1]).real)
    block = np.floor(np.stack([z.real, z.imag]) / (5 * np.abs(q)))
    name = np.unique(block, axis=1, return_inverse=True)[1].ravel()
    blocks = name.max() + 1
    if blocks < 8:
        return plain, plain, component
    score = np.zeros((blocks, parameters), complex)
    np.add.at(score, name, np.conj(design) * residual[:, None])
    half = np.sqrt(blocks / (blocks - 3)) * score @ inverse.T
    ahead = half[:, column] * np.exp(-1j * np.angle(q))
    radial, tangential = (np.sqrt(np.sum(part**2)) for part in (ahead.real, ahead.imag))
    if max(radial, tangential) < 1.5 * plain:  # as good as independent; few blocks would only add their own scatter
        return plain, plain, component
    both = np.sqrt(np.sum(np.abs(half[:, column:]) ** 2) / 2)
    return max(radial, plain), max(tangential, plain), max(both, component)


def _described(site, known, c, q, p, errors, residual, center) -> LatticeFit:
    basis = np.array([1, np.exp(1j * SIXTH_TURN)])
    second = site.imag / np.sin(SIXTH_TURN)
    index = np.stack([site.real - second / 2, second], axis=1)
    index[~known] = np.nan
    n = int(known.sum())
    scatter = float(np.sqrt(np.sum(np.abs(residual) ** 2) / max(2 * n - 6, 1)))
    radial, tangential, component = map(float, errors)
    return LatticeFit(
        origin=to_points(c - q * center - p * np.conj(center)),
        vectors=to_points(q * basis + p * np.conj(basis)),
        spacing=float(np.abs(q)),
        angle=float(np.degrees(np.angle(q)) % 60),
        spacing_std=radial,
        angle_std=float(np.degrees(tangential / np.abs(q))),
        vector_std=component,
        origin_std=scatter / np.sqrt(n),
        residual_std=scatter,
        shear=float(np.abs(p / q)),
        n=n,
        index=np.rint(index),
    )


# --- The lattice around each particle ---


@dataclass(frozen=True)
class LocalLattices:
    """The lattice around each particle: neighbours lie at site + q w + p w*, for lattice vectors w.

    Complex numbers are x + iy in nm. Explained in chapter 9, "Order and defects".
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

    def place(self, i, z) -> np.ndarray:
        """Points z (x + iy, nm) in the lattices around particles i, in lattice vectors from their sites."""
        q, p, step = self.q[i], self.p[i], z - self.site[i]
        # The inverse of u → q u + p u*
        return (np.conj(q) * step - p * np.conj(step)) / (np.abs(q) ** 2 - np.abs(p) ** 2)


def local_lattices(points, spacing: float | None = None, reach: float = REACH, grain=None) -> LocalLattices:
    """Affine fit of a hexagonal lattice to the neighbours of each particle.

    Parameters
    ----------
    points : array_like, shape (n, 2)
        (y, x) in nm.
    spacing : float, optional
        Nearest-neighbour distance, in nm; measured by default.
    reach : float
        Neighbours within so many spacings are used: 1.35 for the first shell, 2.15 for three.
    grain : array_like of int, shape (n,), optional
        Only neighbours of the same grain are used.

    Returns
    -------
    LocalLattices
        NaN where fewer than three neighbours in different directions are near.

    Raises
    ------
    ValueError
        If positions are not finite, fewer than four, or all on a line, or there is not one grain for each.

    Notes
    -----
    Neighbours farther than 0.3 spacings from a lattice site as the particle sees it are left out. Falk & Langer, Phys.
    Rev. E 57, 7192 (1998) for the fit. Explained in chapter 9, "Order and defects".
    """
    mesh = Mesh(points, spacing)
    return lattices_around(mesh, reach, None if grain is None else checked_grain(grain, mesh))


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
    near = (np.abs(step - w) < 0.3) & ((w != 0) | (i == j))
    i, j, w = i[near], j[near], w[near] * np.exp(1j * angle[i[near]])
    design = np.stack([np.ones_like(w), w, np.conj(w)], axis=1)  # (pairs, 3)
    normal = np.zeros((n, 3, 3), complex)
    right = np.zeros((n, 3), complex)
    np.add.at(normal, i, np.conj(design)[:, :, None] * design[:, None, :])
    np.add.at(right, i, np.conj(design) * (z[j] - z[i])[:, None])
    count = np.bincount(i, minlength=n) - 1
    solvable = (count >= 3) & (np.linalg.cond(np.where(np.isfinite(normal), normal, 0) + 1e-12 * np.eye(3)) < 1e3)
    inverse = np.full((n, 3, 3), np.nan + 0j)
    inverse[solvable] = np.linalg.inv(normal[solvable])
    c, q, p = np.einsum("nab,nb->an", inverse, right)
    left = z[j] - z[i] - c[i] - q[i] * w - p[i] * np.conj(w)
    squares = np.bincount(i, np.abs(np.nan_to_num(left)) ** 2, n)
    turn = np.exp(1j * angle)
    return LocalLattices(
        site=z + c,
        q=q * turn,
        p=p / turn,
        residual=np.where(solvable, np.sqrt(squares / np.maximum(2 * (count + 1) - 6, 1)), np.nan),
        neighbours=count,
        variance=inverse[:, 1, 1].real,
    )


def strain_map(
    points, reference: LatticeFit | None = None, spacing: float | None = None, grain=None, reach: float = REACH
) -> pd.DataFrame:
    """Strain and rotation at each particle, from its neighbours.

    Parameters
    ----------
    points : array_like, shape (n, 2)
        (y, x) in nm, of one layer in one frame.
    reference : LatticeFit, optional
        The unstrained lattice (its spacing and angle); by default the mean of the lattices around all particles of
        each grain.
    spacing : float, optional
        Nearest-neighbour distance, in nm; measured by default.
    grain : array_like of int, shape (n,), optional
        Grain of each particle; found by default.
    reach : float
        Neighbours within so many spacings are used.

    Returns
    -------
    pandas.DataFrame
        ``y_nm, x_nm, grain``; ``strain_yy, strain_xx, strain_yx``; ``dilatation`` (relative change of area), ``shear``
        (half the difference of the principal strains), ``rotation_deg`` from x towards y; ``strain_std``, one standard
        deviation of half the dilatation, of ``strain_yx`` and of the rotation in rad (√2 times as much of ``strain_yy``
        and ``strain_xx``), from the scatter of the neighbours about the fit (the layer's median scatter, for all alike
        but for their numbers of neighbours); ``neighbours``; ``edge``. NaN without three neighbours in different
        directions.

    Raises
    ------
    ValueError
        If positions are not finite, fewer than four, or all on a line, or there is not one grain for each.

    Notes
    -----
    Neighbours of the ideal lattice at w are found at q w + p w*; against the reference q₀ the deformation takes z to
    (q/q₀) z + (p/q₀*) z*, exactly. The polar angle of the first factor is the rotation. Edge particles are fitted to
    the neighbours they have. Explained in chapter 9, "Order and defects".
    """
    mesh = Mesh(points, spacing)
    grain = checked_grain(grain, mesh)
    local = lattices_around(mesh, reach, grain)
    table = pd.DataFrame({"y_nm": mesh.points[:, 0], "x_nm": mesh.points[:, 1], "grain": grain})
    q0 = np.full(mesh.n, np.nan + 0j)
    for name in np.unique(grain[grain >= 0]) if reference is None else [None]:
        members = np.ones(mesh.n, bool) if name is None else grain == name
        if reference is not None:
            q0[members] = reference.spacing * np.exp(1j * np.radians(reference.angle))
        elif len((named := _named_bonds(mesh, members))[0]) > 6:
            q0[members] = _from_bonds(mesh, *named)[0]
    known = np.isfinite(local.q) & np.isfinite(q0)
    q, p, q0 = (np.where(known, value, 1.0) for value in (local.q, local.p, q0))
    turn = sixth_turns(-np.angle(q), -np.angle(q0))  # to the reference's row
    stretch, shear = q * turn / q0, p * np.conj(turn) / np.conj(q0)
    # The right factor of the polar decomposition: what remains without the rotation.
    rotation = np.angle(stretch)
    shear = shear * np.exp(-1j * rotation)
    mean = np.abs(stretch) - 1
    table["strain_yy"], table["strain_xx"] = mean - shear.real, mean + shear.real
    table["strain_yx"] = shear.imag
    table["dilatation"] = np.abs(stretch) ** 2 - np.abs(shear) ** 2 - 1
    table["shear"], table["rotation_deg"] = np.abs(shear), np.degrees(rotation)
    scatter = np.nanmedian(local.residual) if np.isfinite(local.residual).any() else np.nan
    table["strain_std"] = scatter * np.sqrt(local.variance) / np.abs(q0)
    table.loc[~known, "strain_yy":"strain_std"] = np.nan
    table["neighbours"], table["edge"] = local.neighbours, edge_particles(mesh.points, mesh.spacing)
    return table


# --- Tables of a movie ---


def lattice_table(particles: pd.DataFrame) -> pd.DataFrame:
    """Lattices of every grain of every layer and frame.

    Parameters
    ----------
    particles : pandas.DataFrame
        ``frame, layer, y_nm, x_nm``.

    Returns
    -------
    pandas.DataFrame
        ``frame, layer, grain, spacing_nm, angle_deg, spacing_std_nm, angle_std_deg, shear, psi6, n``: angle of a row
        from x towards y (0 to 60 degrees), standard deviations, mean |ψ6| of the grain's particles, particles used.
        Grains are numbered in each frame anew, by falling size.

    Raises
    ------
    ValueError
        If a column is missing or holds something else than numbers.

    Notes
    -----
    Explained in chapter 9, "Order and defects".
    """
    rows = []
    for frame, layers in layers_by_frame(particles):
        for layer, points in layers.items():
            for grain, mesh, members, fit in grain_fits(points):
                psi6 = float(np.nanmean(np.abs(mesh.psi6[members])))
                rows.append((frame, layer, grain, fit.spacing, fit.angle, fit.spacing_std, fit.angle_std, fit.shear,
                             psi6, fit.n))  # fmt: skip
    columns = "frame layer grain spacing_nm angle_deg spacing_std_nm angle_std_deg shear psi6 n"
    return pd.DataFrame(rows, columns=columns.split())


def grain_fits(points: np.ndarray) -> Iterator[tuple[int, Mesh, np.ndarray, LatticeFit]]:
    """Number, mesh, members (mask, shape (n,)) and fit of every grain of points (n, 2) that has a lattice."""
    if not spans_plane(points):
        return
    mesh = Mesh(points)
    grain = grains_of(mesh)
    for name in range(grain.max() + 1):
        fit = fit_members(mesh, grain == name)
        if fit is not None:
            yield name, mesh, grain == name, fit
