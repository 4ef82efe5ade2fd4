"""Order of a layer: grains, lattice vectors, strain, bond order, and how two layers lie on each other.

Positions in, numbers with errors out. Nothing here calls a particle disordered for the neighbours that the edge of its
crystal, or of the frame, took from it.

Explained in chapter 9, "Order and defects".
"""

from __future__ import annotations

from dataclasses import dataclass

import freud
import numpy as np
import pandas as pd
from scipy import sparse
from scipy.ndimage import distance_transform_edt, maximum_filter
from scipy.signal import fftconvolve
from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree
from scipy.spatial import Delaunay, cKDTree

from .elastic import bonds
from .lattice import moire_period

__all__ = [
    "LatticeFit",
    "LocalLattices",
    "Moire",
    "edge_particles",
    "find_grains",
    "fit_lattice",
    "fit_moire",
    "hexatic",
    "hexatic_correlation",
    "lattice_table",
    "local_lattices",
    "moire_table",
    "neighbour_spacing",
    "radial_distribution",
    "registry",
    "strain_map",
]

REACH = 1.35  # spacings: half-way between the first neighbours at 1 and the second at √3
_SIXTH = np.pi / 3


# --- Neighbours and bond order ---


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
    points = _points(points)
    if not _enough(points):
        raise ValueError(f"a spacing needs at least 4 particles that do not lie on a line, got {len(points)}")
    triangles = Delaunay(points).simplices
    edges = np.unique(np.sort(triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1), axis=0)
    length = np.hypot(*(points[edges[:, 0]] - points[edges[:, 1]]).T)
    for _ in range(3):
        length = length[length < 1.3 * np.median(length)]
    return float(np.median(length))


def _enough(points) -> bool:
    """Whether points suffice for a spacing: four that do not lie on a line."""
    return len(points) >= 4 and np.linalg.matrix_rank(points - points.mean(axis=0), 1e-9 * np.ptp(points)) == 2


def _points(points) -> np.ndarray:
    points = np.asarray(points, float)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"positions must have the shape (n, 2), in the order (y, x), got {points.shape}")
    if not np.isfinite(points).all():
        raise ValueError(f"{np.sum(~np.isfinite(points).all(axis=1))} positions are not finite; drop them first")
    return points


def _complex(points) -> np.ndarray:
    """Points (n, 2) in the order (y, x) as x + iy, whose argument is an angle from x towards y."""
    return points[:, 1] + 1j * points[:, 0]


def _pairs(z) -> np.ndarray:
    """Complex numbers x + iy as (y, x), shape (..., 2)."""
    return np.stack([np.imag(z), np.real(z)], axis=-1)


def _in_freud(points):
    """Points as freud wants them: in a periodic box too wide for anything to reach around it."""
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

    References
    ----------
    Nelson & Halperin, Phys. Rev. B 19, 2457 (1979). Computed by freud (Ramasubramani et al., Comput. Phys. Commun. 254,
    107275 (2020)). Explained in chapter 9, "Order and defects".
    """
    points = _points(points)
    if len(points) < 2:
        return np.full(len(points), np.nan + 0j)
    spacing = neighbour_spacing(points) if spacing is None else spacing
    pairs = bonds(points, spacing)
    both = np.concatenate([pairs, pairs[:, ::-1]])
    both = both[np.lexsort(both.T[::-1])]
    box, xyz = _in_freud(points)
    vectors = xyz[both[:, 1]] - xyz[both[:, 0]]
    near = freud.locality.NeighborList.from_arrays(len(xyz), len(xyz), both[:, 0], both[:, 1], vectors)
    psi6 = freud.order.Hexatic(k=6).compute((box, xyz), neighbors=near).particle_order.astype(complex)
    psi6[np.bincount(both[:, 0], minlength=len(points)) < 2] = np.nan
    return psi6


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

    Notes
    -----
    Explained in chapter 9, "Order and defects".
    """
    points, psi6 = _points(points), np.asarray(psi6)
    known = np.isfinite(psi6)
    if known.sum() < 2:
        return pd.DataFrame({"r_nm": [], "g6": [], "pairs": []})
    box, xyz = _in_freud(points[known])
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

    Notes
    -----
    The region is what lies within 0.6 spacings of a particle. Its autocorrelation says how many pairs of its points
    there are at each distance, which corrects for edges of any shape. Explained in chapter 9, "Order and defects".
    """
    points = _points(points)
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

    Notes
    -----
    Explained in chapter 9, "Order and defects".
    """
    points = _points(points)
    spacing = neighbour_spacing(points) if spacing is None else spacing
    pairs = bonds(points, spacing)
    i, j = np.concatenate([pairs, pairs[:, ::-1]]).T
    angle = np.angle(_complex(points[j] - points[i]))
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


# --- The triangulation, its edges named by the lattice vectors they stand for ---


def _round(w) -> np.ndarray:
    """Nearest point of the hexagonal lattice 1, exp(iπ/3) to complex numbers."""
    n = w.imag / np.sin(_SIXTH)
    m = w.real - n / 2
    m0, n0 = np.floor(m), np.floor(n)
    corner = np.stack([(m0 + i) + (n0 + j) * np.exp(1j * _SIXTH) for i in (0, 1) for j in (0, 1)])
    return np.take_along_axis(corner, np.abs(corner - w).argmin(axis=0)[None], axis=0)[0]


def _turns(angle, reference) -> np.ndarray:
    """Multiples of 60° that bring angles nearest to a reference, as factors by which lattice vectors are multiplied."""
    return np.exp(1j * _SIXTH * np.rint((angle - reference) / _SIXTH))


class _Mesh:
    """Delaunay triangulation of a layer without its thin rim, with a lattice vector for every edge.

    Lattice vectors are complex: whole multiples of 1 and exp(iπ/3) in units of the spacing, in a frame turned with the
    rows around. Frames are known up to 60°, so vectors are only compared after `_turns`.
    """

    def __init__(self, points, spacing=None, psi6=None):
        self.points = _points(points)
        self.spacing = neighbour_spacing(self.points) if spacing is None else float(spacing)
        self.z, self.n = _complex(self.points), len(self.points)
        self.psi6 = hexatic(self.points, self.spacing) if psi6 is None else psi6
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
        i, j = self.edges.T if len(self.edges) else np.empty((2, 0), int)
        frame = np.angle(self.smooth[i] + self.smooth[j]) / 6
        step = (self.z[j] - self.z[i]) / (self.spacing * np.exp(1j * frame))
        vector = _round(step)
        return vector, frame, np.abs(step - vector)

    def closures(self):
        """Sum of each triangle's three lattice vectors, and the frame it is in: zero in good crystal (m,)."""
        index, sign = self.of_triangle
        frame = np.angle(self.smooth[self.triangles].sum(axis=1)) / 6
        vector = sign * self.vector[index] * _turns(self.frame[index], frame[:, None])
        return vector.sum(axis=1), frame


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

    Notes
    -----
    An edge between neighbours is cut where the mean ψ6 on its one side, within 2.3 spacings, is turned against that on
    its other side. Slow bending of rows changes little over such a distance, a boundary all. Regions grow together from
    particles without a cut edge, so that neither a lone dislocation, which cuts a few edges, nor a single gap in a
    boundary decides. Regions whose lattices agree where they meet are one. Explained in chapter 9, "Order and defects".
    """
    points = _points(points)
    if len(points) < max(smallest, 4):
        return np.full(len(points), -1)
    return _grains_of(_Mesh(points, spacing), misorientation, smallest)


def _grains_of(mesh, misorientation: float = 3.5, smallest: int = 12) -> np.ndarray:
    good = np.abs(mesh.vector) < 1.1
    i, j = mesh.edges[good].T
    cut = _turn_across(mesh, i, j) > misorientation
    inner = np.bincount(np.concatenate([i[cut], j[cut]]), minlength=mesh.n) == 0
    core = inner[i] & inner[j]
    grain = _components(mesh.n, i[core], j[core])
    grain[~inner] = -1
    grain[np.isin(grain, np.flatnonzero(np.bincount(grain[grain >= 0], minlength=1) < 4))] = -1
    grain = _grown(mesh, grain, i, j)
    grain = _joined(mesh, grain, i, j, misorientation)
    names, count = np.unique(grain[grain >= 0], return_counts=True)
    renamed = np.full(mesh.n, -1)
    for k, name in enumerate(names[np.argsort(-count, kind="stable")]):
        if np.sum(grain == name) >= smallest:
            renamed[grain == name] = k
    return _sharpened(mesh, _grown(mesh, renamed, i, j), i, j)


def _components(n, i, j) -> np.ndarray:
    return connected_components(sparse.coo_array((np.ones(len(i)), (i, j)), shape=(n, n)), directed=False)[1]


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
        open_ = (grain[i] < 0) & (grain[j] >= 0)
        if not open_.any():
            break
        one, other = i[open_], j[open_]
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
    local = _local_fit(mesh.points, mesh.spacing, mesh.angle, 2.15, grain)
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
    misfit = np.bincount(key, np.abs(u - _round(u)), count.size).reshape(-1, names)
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
    mesh = _Mesh(points, spacing)
    fit = _fit_mesh(mesh, np.ones(mesh.n, bool))
    if fit is None:
        raise ValueError(f"a lattice needs at least 6 particles in one piece; the {mesh.n} given form none")
    return fit


def _fit_mesh(mesh, members) -> LatticeFit | None:
    """Fit of those particles of a mesh that belong to a grain; None where fewer than six hang together."""
    bonds_ = _named_bonds(mesh, members)
    site = _site_numbers(mesh, *bonds_)
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
    if _torn(site, *bonds_):  # by dislocations: numbers depend on the way, bonds do not
        q, p, errors = _from_bonds(mesh, *bonds_)
    return _described(site, known, coefficients[0], q, p, errors, residual, center)


def _named_bonds(mesh, members):
    """Indices of bonds (i, j) between members, their lattice vectors in one frame, and misfits, in spacings."""
    i, j = mesh.edges.T if len(mesh.edges) else np.empty((2, 0), int)
    use = members[i] & members[j] & (np.abs(np.abs(mesh.vector) - 1) < 0.1)
    row = np.angle(np.nansum(mesh.psi6[members])) / 6
    return i[use], j[use], mesh.vector[use] * _turns(mesh.frame[use], row), mesh.misfit[use]


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
    basis = np.array([1, np.exp(1j * _SIXTH)])
    second = site.imag / np.sin(_SIXTH)
    index = np.stack([site.real - second / 2, second], axis=1)
    index[~known] = np.nan
    n = int(known.sum())
    scatter = float(np.sqrt(np.sum(np.abs(residual) ** 2) / max(2 * n - 6, 1)))
    radial, tangential, component = map(float, errors)
    return LatticeFit(
        origin=_pairs(c - q * center - p * np.conj(center)),
        vectors=_pairs(q * basis + p * np.conj(basis)),
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

    Notes
    -----
    Neighbours farther than 0.3 spacings from a lattice site as the particle sees it are left out. Falk & Langer, Phys.
    Rev. E 57, 7192 (1998) for the fit. Explained in chapter 9, "Order and defects".
    """
    mesh = _Mesh(points, spacing)
    return _local_fit(mesh.points, mesh.spacing, mesh.angle, reach, grain)


def _local_fit(points, spacing, angle, reach, grain=None) -> LocalLattices:
    z, n = _complex(points), len(points)
    i, j = cKDTree(points).query_pairs(reach * spacing, output_type="ndarray").T if n else np.empty((2, 0), int)
    i, j = np.concatenate([i, j, np.arange(n)]), np.concatenate([j, i, np.arange(n)])
    if grain is not None:
        grain = np.asarray(grain)
        same = grain[i] == grain[j]
        i, j = i[same], j[same]
    step = (z[j] - z[i]) / (spacing * np.exp(1j * angle[i]))
    w = _round(step)
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
        (half the difference of the principal strains), ``rotation_deg`` from x towards y; ``strain_std`` from the
        scatter of the neighbours about the fit (the layer's median scatter, for all alike but for their numbers of
        neighbours); ``neighbours``; ``edge``. NaN without three neighbours in different directions.

    Notes
    -----
    Neighbours of the ideal lattice at w are found at q w + p w*; against the reference q₀ the deformation takes z to
    (q/q₀) z + (p/q₀*) z*, exactly. The polar angle of the first factor is the rotation. Edge particles are fitted to
    the neighbours they have. Explained in chapter 9, "Order and defects".
    """
    mesh = _Mesh(points, spacing)
    grain = _grains_of(mesh) if grain is None else np.asarray(grain)
    local = _local_fit(mesh.points, mesh.spacing, mesh.angle, reach, grain)
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
    turn = _turns(-np.angle(q), -np.angle(q0))  # to the reference's row
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


# --- One layer on the other ---

#: Coordinate of the three kinds of places on a hexagonal lattice: the sum of the cosines of its three waves.
REGISTRY = {"top": 3.0, "bridge": -1.0, "hollow": -1.5}
_PLACES = np.array(
    [0, *(0.5 * np.exp(1j * _SIXTH * np.arange(6))), *(np.exp(1j * _SIXTH * (np.arange(6) + 0.5)) / np.sqrt(3))]
)
_WAVES = 4 * np.pi / np.sqrt(3) * np.exp(1j * _SIXTH * (np.arange(3) + 0.5))


def registry(points, other, spacing: float | None = None, grain=None) -> pd.DataFrame:
    """Where on the other layer's lattice each point lies.

    Parameters
    ----------
    points : array_like, shape (n, 2)
        (y, x) in nm: particles of one layer, or defects.
    other : array_like, shape (m, 2)
        Particles of the other layer.
    spacing : float, optional
        Nearest-neighbour distance of the other layer, in nm; measured by default.
    grain : array_like of int, shape (m,), optional
        Grain of the other layer's particles; found by default.

    Returns
    -------
    pandas.DataFrame
        ``y_nm, x_nm``; ``registry`` (top, bridge or hollow, whichever is nearest in the cell; empty where the other
        layer is not there); ``coordinate``, the sum of the cosines of the other lattice's three waves, 3 on top, -1 on
        a bridge, -1.5 in a hollow; ``offset_y_nm, offset_x_nm`` from the nearest site of the other lattice;
        ``other_grain``, that site's grain.

    Notes
    -----
    The lattice is the one around: an affine fit over three shells of the nearest particle of the other layer, whose own
    displacement is averaged out. Explained in chapter 9, "Order and defects".
    """
    points, other = np.asarray(points, float).reshape(-1, 2), np.asarray(other, float).reshape(-1, 2)
    columns = {"y_nm": points[:, 0], "x_nm": points[:, 1]}
    if len(other) < 6 or len(points) == 0:
        empty = np.full(len(points), np.nan)
        columns |= {"registry": "", "coordinate": empty, "offset_y_nm": empty, "offset_x_nm": empty}
        return pd.DataFrame(columns).assign(other_grain=-1)
    mesh = _Mesh(other, spacing)
    grain = _grains_of(mesh) if grain is None else np.asarray(grain)
    u, offset, nearest = _registry(points, mesh, grain)
    coordinate = np.cos(np.real(np.conj(_WAVES) * u[:, None])).sum(axis=1)
    place = np.abs(u[:, None] - _PLACES).argmin(axis=1)
    name = np.where(place == 0, "top", np.where(place < 7, "bridge", "hollow")).astype(object)
    name[~np.isfinite(u)] = ""
    y, x = _pairs(offset).T
    table = pd.DataFrame(columns | {"registry": name, "coordinate": coordinate, "offset_y_nm": y, "offset_x_nm": x})
    return table.assign(other_grain=np.where(np.isfinite(u), grain[nearest], -1))


def _registry(points, mesh, grain):
    """Place of points in the cell of the lattice around (complex, in spacings and its rows' frame), in nm, and whose.

    NaN where no particle of the other layer is within 0.8 spacings, unless three are within 1.35: a vacancy.
    """
    local = _local_fit(mesh.points, mesh.spacing, mesh.angle, 2.15, grain)
    z = _complex(points)
    use = np.flatnonzero(local.good)
    if len(use) == 0:
        nowhere = np.full(len(z), np.nan + 0j)
        return nowhere, nowhere, np.zeros(len(z), int)
    tree = cKDTree(mesh.points[use])
    distance, nearest = tree.query(points)
    nearest = use[nearest]
    covered = distance < 0.8 * mesh.spacing
    covered |= tree.query_ball_point(points, REACH * mesh.spacing, return_length=True) >= 3
    q, p, u = local.q[nearest], local.p[nearest], local.place(nearest, z)
    u = np.where(covered, u - _round(u), np.nan)
    # One frame for all particles of a grain, so that places can be compared
    row = np.zeros(mesh.n)
    for name in np.unique(grain):
        row[grain == name] = np.angle(np.nansum(mesh.psi6[grain == name])) / 6
    offset = q * u + p * np.conj(u)
    return u * _turns(np.angle(q), row[nearest]), offset, nearest


@dataclass(frozen=True)
class Moire:
    """How two lattices lie on each other, measured. Explained in chapter 9, "Order and defects"."""

    twist: float  # degrees, 0 to 30
    twist_std: float  # degrees
    rotation: float  # degrees, -30 to 30: of the second lattice against the first, from x towards y
    period: float  # nm, from the particles' registry
    period_std: float  # nm
    angle: float  # degrees, 0 to 60, direction of a row of the Moiré lattice, from x towards y
    formula: float  # nm, period from spacings and twist
    formula_std: float  # nm
    offset: np.ndarray  # (y, x) nm, of the nearest top place from `center`
    offset_std: float  # nm, per component
    center: np.ndarray  # (y, x) nm, middle of the particles that were used
    n: int  # particles used


def fit_moire(first, second) -> Moire:
    """Twist, offset and Moiré period of two layers, measured from the registry of their particles.

    Parameters
    ----------
    first, second : array_like, shape (n, 2) and (m, 2)
        (y, x) in nm, of one grain of each layer.

    Returns
    -------
    Moire
        Errors are one standard deviation.

    Raises
    ------
    ValueError
        If fewer than six particles of the second layer lie on the first.

    Notes
    -----
    Each particle of the second layer has three phases, those of the waves of the first layer's lattice around it. Along
    the second layer they advance by the difference of the two lattices' waves, whose gradient is found by a
    periodogram and refined by least squares; the period is 4π/√3 over its length. The formula takes the same number
    from the spacings and angles of the two fitted lattices; the two agree for rigid lattices, and differ where one
    gave way to the other. Explained in chapter 9, "Order and defects".
    """
    meshes = _Mesh(first), _Mesh(second)
    members = [np.ones(mesh.n, bool) for mesh in meshes]
    moire = _fit_moire(meshes, members, [_fit_mesh(mesh, m) for mesh, m in zip(meshes, members, strict=True)])
    if moire is None:
        raise ValueError("a Moiré lattice needs two lattices and at least 6 particles of the second on the first")
    return moire


def _fit_moire(meshes, members, fits) -> Moire | None:
    one, other = fits
    if one is None or other is None:
        return None
    mesh, grain = meshes[0], np.where(members[0], 0, -1)
    points = meshes[1].points[members[1]]
    u, _, nearest = _registry(points, mesh, grain)
    on = np.isfinite(u) & (grain[nearest] == 0)
    if on.sum() < 6:
        return None
    z, u = _complex(points[on]), u[on]
    middle = z.mean()
    phase = np.real(np.conj(_WAVES) * u[:, None])
    k, constants, variance = _phase_gradient(z - middle, phase, mesh.spacing)
    period = 4 * np.pi / np.sqrt(3) / np.abs(k)
    top = _top(k, constants)
    rotation = (other.angle - one.angle + 30) % 60 - 30
    twist_std = float(np.hypot(one.angle_std, other.angle_std))
    formula, formula_std = _formula(one, other, twist_std)
    k_std = np.sqrt(variance[0])
    offset_std = float(np.sqrt(variance[1]) * np.sqrt(2 / 3) / np.abs(k))
    return Moire(
        twist=float(abs(rotation)),
        twist_std=twist_std,
        rotation=float(rotation),
        period=float(period),
        period_std=float(period * k_std / np.abs(k)),
        angle=float((np.degrees(np.angle(k)) + 30) % 60),  # rows lie between the waves
        formula=formula,
        formula_std=formula_std,
        offset=_pairs(top),
        offset_std=offset_std,
        center=_pairs(middle),
        n=int(on.sum()),
    )


def _phase_gradient(z, phase, spacing):
    """Wave vector k whose turns by 60° are the gradients of the three phases; constants; variances of both.

    Phases are φ_j = Re(k* exp(-iπj/3) z) + c_j, modulo 2π.
    """
    turn = np.exp(1j * _SIXTH * np.arange(3))
    size = max(np.ptp(z.real), np.ptp(z.imag), spacing)
    axis = np.arange(-4.0 / spacing, 4.0 / spacing, 1.2 / size)
    power = np.zeros((len(axis), len(axis)))
    for j in range(3):
        local = np.conj(turn[j]) * z
        wave = np.exp(-1j * np.outer(axis, local.imag)) * np.exp(1j * phase[:, j])
        power += np.abs(wave @ np.exp(-1j * np.outer(local.real, axis)))
    # On the sites of a lattice a wave and its sums with the lattice's own waves are one: the longest counts.
    peaks = np.argwhere((power == maximum_filter(power, 5)) & (power > 0.75 * power.max()))
    waves = axis[peaks[:, 1]] + 1j * axis[peaks[:, 0]]
    design = np.zeros((3 * len(z), 5))
    for j in range(3):
        rows, local = slice(j * len(z), (j + 1) * len(z)), np.conj(turn[j]) * z
        design[rows, 0], design[rows, 1], design[rows, 2 + j] = local.real, local.imag, 1
    near = waves[np.abs(waves) < np.abs(waves).min() + 2 * (axis[1] - axis[0])]
    k, constants, left = min((_refined(wave, z, phase, design) for wave in near), key=lambda x: abs(x[0]))
    inverse = np.linalg.inv(design.T @ design)
    # Of a particle's three phases two are independent; and neighbours share what the first layer's lattice is off by.
    plain = 1.5 * np.sum(left**2) / max(3 * len(z) - 5, 1) * np.diag(inverse)
    block = np.floor(np.stack([z.real, z.imag]) / (4 * spacing))
    name = np.unique(block, axis=1, return_inverse=True)[1].ravel()
    score = np.zeros((name.max() + 1, 5))
    np.add.at(score, np.tile(name, 3), design * left.T.reshape(-1, 1))
    shared = np.sum((score @ inverse) ** 2, axis=0) * len(score) / max(len(score) - 3, 1)
    use = plain if len(score) < 8 else np.maximum(plain, shared)
    return k, constants, (use[:2].mean(), use[2:].mean())


def _refined(k, z, phase, design):
    """Wave vector, constants and residual phases after least squares from a start on the right peak."""
    turn = np.exp(1j * _SIXTH * np.arange(3))
    for _ in range(6):
        model = np.stack([np.real(np.conj(k * t) * z) for t in turn], axis=1)
        constants = np.angle(np.exp(1j * (phase - model)).sum(axis=0))
        left = np.angle(np.exp(1j * (phase - model - constants)))
        change = np.linalg.lstsq(design, left.T.ravel(), rcond=None)[0]
        k, constants = k + change[0] + 1j * change[1], constants + change[2:]
    return k, constants, left


def _top(k, constants) -> complex:
    """The place nearest to the origin at which all three phases are zero."""
    turn = np.exp(1j * _SIXTH * np.arange(3))
    waves = k * turn
    # Any two of the three phases fix it up to a vector of the Moiré lattice; least squares over all would mix periods.
    matrix = np.stack([waves[:2].real, waves[:2].imag], axis=1)
    vectors = np.linalg.inv(matrix) * 2 * np.pi
    start = np.linalg.solve(matrix, -constants[:2])
    grid = np.stack(np.meshgrid(*[np.arange(-3, 4)] * 2), axis=-1).reshape(-1, 2)
    choices = start + grid @ vectors.T
    x, y = choices[np.hypot(*choices.T).argmin()]
    return complex(x, y)


def _formula(one, other, twist_std):
    """Period from spacings and twist, and its error by small changes of each."""
    values = np.array([one.spacing, other.angle - one.angle, other.spacing])
    errors = np.array([one.spacing_std, max(twist_std, 1e-12), other.spacing_std])
    period = moire_period(*values)
    changes = []
    for k in range(3):
        up, down = values.copy(), values.copy()
        up[k], down[k] = up[k] + errors[k], down[k] - errors[k]
        changes.append((moire_period(*up) - moire_period(*down)) / 2)
    return float(period), float(np.hypot(np.hypot(*changes[:2]), changes[2]))


# --- Tables of a movie ---


def _layers_of(particles, columns=("frame", "layer", "y_nm", "x_nm")):
    """Frame, layer and positions of every layer of every frame."""
    missing = [c for c in columns if c not in particles]
    if missing:
        raise ValueError(f"the particle table has no column {', '.join(missing)}; it needs {', '.join(columns)}")
    for (frame, layer), rows in particles.groupby(["frame", "layer"]):
        rows = rows[np.isfinite(rows[["y_nm", "x_nm"]]).all(axis=1)]
        yield int(frame), int(layer), rows


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

    Notes
    -----
    Explained in chapter 9, "Order and defects".
    """
    rows = []
    for frame, layer, table in _layers_of(particles):
        for grain, mesh, members, fit in _grain_fits(table[["y_nm", "x_nm"]].to_numpy(float)):
            psi6 = float(np.nanmean(np.abs(mesh.psi6[members])))
            rows.append((frame, layer, grain, fit.spacing, fit.angle, fit.spacing_std, fit.angle_std, fit.shear, psi6,
                         fit.n))  # fmt: skip
    columns = "frame layer grain spacing_nm angle_deg spacing_std_nm angle_std_deg shear psi6 n"
    return pd.DataFrame(rows, columns=columns.split())


def _grain_fits(points):
    """Number, mesh, members and fit of every grain that has a lattice."""
    if not _enough(points):
        return
    mesh = _Mesh(points)
    grain = _grains_of(mesh)
    for name in range(grain.max() + 1):
        fit = _fit_mesh(mesh, grain == name)
        if fit is not None:
            yield name, mesh, grain == name, fit


def moire_table(particles: pd.DataFrame) -> pd.DataFrame:
    """Twist, offset and Moiré period of the two layers in every frame.

    Parameters
    ----------
    particles : pandas.DataFrame
        ``frame, layer, y_nm, x_nm``, layers 1 and 2.

    Returns
    -------
    pandas.DataFrame
        ``frame, twist_deg, period_nm, twist_std_deg, period_std_nm, formula_nm, formula_std_nm, rotation_deg,
        offset_y_nm, offset_x_nm, offset_std_nm, n``: see `Moire`. The largest grain of each layer is taken; frames
        without two lattices on each other have no row.

    Notes
    -----
    Explained in chapter 9, "Order and defects".
    """
    layers = {}
    for frame, layer, table in _layers_of(particles):
        layers.setdefault(frame, {})[layer] = table[["y_nm", "x_nm"]].to_numpy(float)
    rows = []
    for frame, both in layers.items():
        largest = [next(_grain_fits(both[k]), None) for k in (1, 2) if k in both]
        if len(largest) < 2 or None in largest:
            continue
        _, meshes, members, fits = zip(*largest, strict=True)
        m = _fit_moire(meshes, members, fits)
        if m is None:  # the layers do not overlap
            continue
        rows.append((frame, m.twist, m.period, m.twist_std, m.period_std, m.formula, m.formula_std, m.rotation,
                     *m.offset, m.offset_std, m.n))  # fmt: skip
    columns = (
        "frame twist_deg period_nm twist_std_deg period_std_nm formula_nm formula_std_nm rotation_deg "
        "offset_y_nm offset_x_nm offset_std_nm n"
    )
    return pd.DataFrame(rows, columns=columns.split())
