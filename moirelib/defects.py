"""Defects of a layer: vacancies, interstitials, dislocations, disclinations, grain and twin boundaries.

All from the positions of one layer in one frame; defects are then followed through the frames.

Explained in chapter 9, "Order and defects".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import trackpy
from scipy.spatial import cKDTree

from .boundaries import BOUNDARY_COLUMNS, Tolerance, find_boundaries, in_boundary
from .mesh import (
    SIXTH_TURN,
    THREE_SHELLS,
    Mesh,
    connected_groups,
    nearest_vector,
    sixth_turns,
    spans_plane,
    to_complex,
    to_points,
    unpaired,
)
from .moire import registry
from .order import grains_of, lattices_around
from .tables import layers_by_frame, require_columns

__all__ = [
    "LayerDefects",
    "Tolerance",
    "boundary_table",
    "burgers_circuit",
    "defect_table",
    "defect_tables",
    "empty_sites",
    "find_defects",
    "follow_boundaries",
    "follow_defects",
    "orientational_twins",
]

#: Columns of a table of defects.
DEFECT_COLUMNS = "kind y_nm x_nm burgers_y_nm burgers_x_nm in_boundary".split()
_ENDS = "y0_nm x0_nm y1_nm x1_nm".split()


@dataclass(frozen=True)
class LayerDefects:
    """What was found in one layer of one frame. Explained in chapter 9, "Order and defects"."""

    defects: pd.DataFrame  # DEFECT_COLUMNS
    boundaries: pd.DataFrame  # BOUNDARY_COLUMNS
    grain: np.ndarray  # (n,) of each particle, -1 where none
    spacing: float  # nm
    coordination: np.ndarray  # (n,) neighbours in the triangulation with vacancies filled; 0 at the rim


def find_defects(points, spacing: float | None = None, tolerance: Tolerance | None = None) -> LayerDefects:
    """All defects of one layer in one frame.

    Parameters
    ----------
    points : array_like, shape (n, 2)
        (y, x) in nm.
    spacing : float, optional
        Nearest-neighbour distance, in nm; measured by default.
    tolerance : Tolerance, optional
        What is a grain and what is a twin.

    Returns
    -------
    LayerDefects
        ``defects``: ``kind`` vacancy, interstitial, dislocation or disclination; a disclination is listed if it belongs
        to no dislocation. Burgers vectors (y, x) in nm, NaN for kinds without; the displacement grows by the Burgers
        vector once around the core from x towards y. ``in_boundary`` says that a boundary passes within a spacing and
        a half. ``boundaries``: see `boundary_table`.

    Raises
    ------
    ValueError
        If there are fewer than four particles, all on a line, or positions are not finite.

    Notes
    -----
    Vacancies are sites that the lattices around predict and that are empty. They are filled; in the triangulation of
    particles and filled sites every edge is named by the lattice vector it stands for, and where the three of a
    triangle do not add up to zero a dislocation is near (Stukowski & Albe, Modelling Simul. Mater. Sci. Eng. 18, 085001
    (2010), in two dimensions). The sum over such triangles that touch is the Burgers vector. Explained in chapter 9,
    "Order and defects".
    """
    tolerance = Tolerance() if tolerance is None else tolerance
    mesh = Mesh(points, spacing)
    grain = grains_of(mesh, tolerance.grain_misorientation, tolerance.smallest_grain)
    vacancies = _vacancies(mesh, grain)
    interstitials = _interstitials(mesh, grain)
    filled = Mesh(np.concatenate([mesh.points, vacancies]), mesh.spacing) if len(vacancies) else mesh
    cores, burgers = _dislocations(filled)
    coordination = _coordination(filled)
    boundaries = find_boundaries(mesh, grain, filled, coordination, tolerance)
    disclinations = _disclinations(filled, coordination, cores, interstitials)
    nan = np.full((max(map(len, (vacancies, interstitials, disclinations))), 2), np.nan)
    groups = {
        "vacancy": (vacancies, nan),
        "interstitial": (interstitials, nan),
        "dislocation": (cores, burgers),
        "disclination": (disclinations, nan),
    }
    rows = [
        pd.DataFrame(np.hstack([where, b[: len(where)]]), columns=DEFECT_COLUMNS[1:5]).assign(kind=kind)
        for kind, (where, b) in groups.items()
        if len(where)
    ]
    defects = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=DEFECT_COLUMNS)
    defects["in_boundary"] = in_boundary(defects[["y_nm", "x_nm"]].to_numpy(float), mesh, grain)
    return LayerDefects(defects[DEFECT_COLUMNS], boundaries, grain, mesh.spacing, coordination[: mesh.n])


# --- Vacancies and interstitials ---


def _vacancies(mesh, grain) -> np.ndarray:
    """Empty sites (k, 2) that have at least five of their six neighbours: particles, or empty sites like themselves."""
    local = lattices_around(mesh, THREE_SHELLS, grain)
    use = local.good & (local.neighbours >= 4) & (np.nan_to_num(local.residual, nan=np.inf) < 0.13 * mesh.spacing)
    if not use.any():
        return np.empty((0, 2))
    tree = cKDTree(mesh.points)
    site, q, p = local.site[use], local.q[use], local.p[use]
    found = (np.empty(0, complex),) * 3
    for _ in range(3):  # from ring to ring, into holes of several sites
        site, q, p = empty_sites(site, q, p, tree, found[0], mesh.spacing)
        if len(site) == 0:
            break
        found = tuple(np.concatenate([a, b]) for a, b in zip(found, (site, q, p), strict=True))
    return to_points(_enclosed(*found, tree, mesh.spacing))


_HEXAGON = np.exp(1j * SIXTH_TURN * np.arange(6))


def _six(site, q, p) -> np.ndarray:
    """Neighbouring sites (n, 6) of each."""
    return site[:, None] + q[:, None] * _HEXAGON + p[:, None] * np.conj(_HEXAGON)


def empty_sites(
    site: np.ndarray, q: np.ndarray, p: np.ndarray, tree: cKDTree, known: np.ndarray, spacing: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Neighbouring sites of some without a particle, each once: the mean of what its neighbours predict.

    Parameters
    ----------
    site, q, p : ndarray of complex, shape (n,)
        Sites and the lattice around each, as in `moirelib.order.LocalLattices`, in nm.
    tree : scipy.spatial.cKDTree
        Of the particles (y, x), in nm.
    known : ndarray of complex, shape (k,)
        Empty sites that are not to be named again.
    spacing : float
        Nearest-neighbour distance, in nm.

    Returns
    -------
    site, q, p : ndarray of complex, shape (m,)
        The empty sites, and the lattice around each.

    Notes
    -----
    Explained in chapter 9, "Order and defects".
    """
    predicted = _six(site, q, p)
    own = np.broadcast_to(np.arange(len(site))[:, None], predicted.shape)
    free = tree.query(to_points(predicted))[0] > 0.55 * spacing
    predicted, own = predicted[free], own[free]
    if len(known) and len(predicted):
        new = cKDTree(to_points(known)).query(to_points(predicted))[0] > 0.5 * spacing
        predicted, own = predicted[new], own[new]
    if len(predicted) == 0:
        return (np.empty(0, complex),) * 3
    i, j = cKDTree(to_points(predicted)).query_pairs(0.4 * spacing, output_type="ndarray").T
    name = connected_groups(len(predicted), i, j)
    # Neighbours know their rows up to 60°; one frame for each site's mean.
    first = q[own][np.unique(name, return_index=True)[1]][name]
    turn = sixth_turns(-np.angle(q[own]), -np.angle(first))
    values = predicted, q[own] * turn, p[own] * np.conj(turn)
    count = np.bincount(name)
    return tuple((np.bincount(name, v.real) + 1j * np.bincount(name, v.imag)) / count for v in values)


def _enclosed(site, q, p, tree, spacing, least: int = 5) -> np.ndarray:
    """What remains of empty sites when those with too few neighbours are struck out, again and again.

    The outside of the crystal is eaten away from its own edge; holes inside stay.
    """
    if len(site) == 0:
        return site
    around = to_points(_six(site, q, p))
    particles = np.sum(tree.query(around)[0] < 0.5 * spacing, axis=1)
    own = cKDTree(to_points(site))
    distance, index = own.query(around)
    also = (distance < 0.5 * spacing) & (tree.query(around)[0] >= 0.5 * spacing)
    alive = tree.query(to_points(site))[0] > 0.69 * spacing
    while True:
        count = particles + np.sum(also & alive[np.minimum(index, len(site) - 1)], axis=1)
        keep = alive & (count >= least)
        if (keep == alive).all():
            return site[keep]
        alive = keep


def _interstitials(mesh, grain) -> np.ndarray:
    """Particles (k, 2) that lie between the sites of the lattice around, all of which are taken."""
    local = lattices_around(mesh, THREE_SHELLS, grain)
    use = np.flatnonzero(local.good & (np.nan_to_num(local.residual, nan=np.inf) < 0.13 * mesh.spacing))
    tree = cKDTree(mesh.points)
    crowded = np.flatnonzero(tree.query(mesh.points, k=2)[0][:, 1] < 0.93 * mesh.spacing)
    if len(use) < 3 or len(crowded) == 0:
        return np.empty((0, 2))
    near = cKDTree(mesh.points[crowded]).sparse_distance_matrix(
        cKDTree(mesh.points[use]), 3.1 * mesh.spacing, output_type="ndarray"
    )
    near = near[near["v"] > 1.2 * mesh.spacing]  # those nearer gave way
    k, i = crowded[near["i"]], use[near["j"]]
    q, p, u = local.q[i], local.p[i], local.place(i, mesh.z[k])
    w = nearest_vector(u)
    site = to_points(local.site[i] + q * w + p * np.conj(w))
    distance, nearest = tree.query(site, k=2)
    taken = np.where(nearest[:, 0] == k, distance[:, 1], distance[:, 0]) < 0.5 * mesh.spacing
    count = np.bincount(k, minlength=mesh.n)
    off, taken = (np.bincount(k, x, mesh.n) / np.maximum(count, 1) for x in (np.abs(u - w) > 0.3, taken))
    misfit = np.bincount(k, np.abs(u - w), mesh.n) / np.maximum(count, 1)
    chosen = np.flatnonzero((count >= 6) & (off > 0.75) & (taken > 0.5))
    chosen = chosen[np.argsort(-misfit[chosen])]
    kept: list[int] = []
    for c in chosen:  # two that share a site are one too many
        if all(np.abs(mesh.z[c] - mesh.z[o]) > 1.2 * mesh.spacing for o in kept):
            kept.append(int(c))
    return mesh.points[kept].reshape(-1, 2)


# --- Dislocations and disclinations ---


def _rim(mesh, reach: float = np.inf) -> np.ndarray:
    """Which particles lie on the edge of the triangles whose circles have a radius within reach, in spacings."""
    triangles = mesh.radius < reach * mesh.spacing
    count = np.bincount(mesh.of_triangle[0][triangles].ravel(), minlength=len(mesh.edges))
    rim = np.ones(mesh.n, bool)
    rim[mesh.triangles[triangles]] = False
    rim[mesh.edges[count == 1]] = True
    return rim


def _coordination(mesh) -> np.ndarray:
    """Number of neighbours in the triangulation; 0 on its rim, which neither bays of the edge nor holes belong to."""
    count = np.bincount(mesh.edges.ravel(), minlength=mesh.n)
    return np.where(_rim(mesh, 0.95), 0, count)


def _dislocations(mesh) -> tuple[np.ndarray, np.ndarray]:
    """Cores and Burgers vectors (k, 2), in nm."""
    closure, frame = mesh.closures()
    bad = np.flatnonzero(np.abs(closure) > 0.5)
    if len(bad) == 0:
        return np.empty((0, 2)), np.empty((0, 2))
    name = _touching(mesh.triangles[bad], mesh.n)
    rim = _rim(mesh)
    cores, vectors = [], []
    for k in range(name.max() + 1):
        triangles = bad[name == k]
        corners = np.unique(mesh.triangles[triangles])
        total = _sum(closure[triangles], frame[triangles], mesh, corners)
        if rim[corners].any() or np.abs(total[0]) < 0.5:
            continue
        for part in _parts(mesh, triangles, closure, frame, total):
            cores.append(part[0])
            vectors.append(part[1])
    return np.reshape(cores, (-1, 2)), np.reshape(vectors, (-1, 2))


def _touching(triangles, n) -> np.ndarray:
    """Number of the group of triangles, joined by their corners, that each belongs to."""
    m = len(triangles)
    i = np.repeat(np.arange(m), 3)
    name = connected_groups(m + n, i, m + triangles.ravel())[:m]
    return np.unique(name, return_inverse=True)[1]


def _sum(closure, frame, mesh, corners):
    """Burgers vector of some triangles in lattice vectors, and the lattice's q around them in nm.

    A circuit in the sense of the triangles is short of its start by minus the sum of the ideal steps.
    """
    row = np.angle(mesh.smooth[corners].sum()) / 6
    return -np.sum(closure * sixth_turns(frame, row)), row


def _parts(mesh, triangles, closure, frame, total):
    """One dislocation, or several where a group's Burgers vector is not the shortest and edges divide it."""
    b, row = total
    if np.abs(np.abs(b) - 1) > 0.1:
        single = _by_edges(mesh, triangles)
        parts = [triangles[single == k] for k in range(single.max() + 1)]
        sums = [_sum(closure[t], frame[t], mesh, np.unique(mesh.triangles[t])) for t in parts]
        parts = [(t, s) for t, s in zip(parts, sums, strict=True) if np.abs(s[0]) > 0.5]
    else:
        parts = [(triangles, total)]
    for some, (vector, angle) in parts:
        center = mesh.z[mesh.triangles[some]].mean()
        yield to_points(center), to_points(vector * mesh.spacing * np.exp(1j * _row_around(mesh, center, angle)))


def _by_edges(mesh, triangles) -> np.ndarray:
    """Number of the group, joined by common edges, of each triangle."""
    edges = mesh.of_triangle[0][triangles]
    used = np.unique(edges, return_inverse=True)[1].reshape(edges.shape)
    m = len(triangles)
    name = connected_groups(m + used.max() + 1, np.repeat(np.arange(m), 3), m + used.ravel())[:m]
    return np.unique(name, return_inverse=True)[1]


def _row_around(mesh, center, near) -> float:
    """Row direction in a ring around a core, where the rotation that it causes averages out; next to a given one."""
    distance = np.abs(mesh.z - center)
    ring = (distance > 1.2 * mesh.spacing) & (distance < 3.2 * mesh.spacing) & np.isfinite(mesh.psi6)
    if not ring.any():
        return near
    row = np.angle(mesh.psi6[ring].sum()) / 6
    return row + SIXTH_TURN * np.rint((near - row) / SIXTH_TURN)


def burgers_circuit(points, center, radius: float, spacing: float | None = None) -> np.ndarray:
    """Sum of all Burgers vectors within a circle, from a circuit around it.

    Parameters
    ----------
    points : array_like, shape (n, 2)
        (y, x) in nm, of one layer in one frame.
    center : array_like, shape (2,)
        (y, x) in nm.
    radius : float
        In nm. The circuit follows the outer edge of the triangles whose centres lie inside; it may enclose a hole.
    spacing : float, optional
        Nearest-neighbour distance, in nm; measured by default.

    Returns
    -------
    ndarray, shape (2,)
        Burgers vector (y, x) in nm, along the rows at the circuit's start.

    Raises
    ------
    ValueError
        If no triangle lies inside, or those inside do not hang together.

    Notes
    -----
    The frame of the lattice vectors is carried along the circuit from step to step, so it may turn by more than 30° on
    the way. With a net disclination inside it does not come back to itself, and there is no Burgers vector. Explained
    in chapter 9, "Order and defects".
    """
    mesh = Mesh(points, spacing)
    middle = mesh.z[mesh.triangles].mean(axis=1) if len(mesh.triangles) else np.empty(0, complex)
    inside = np.flatnonzero(np.abs(middle - to_complex(np.reshape(center, (1, 2)).astype(float))[0]) < radius)
    if len(inside) == 0:
        raise ValueError(f"no triangle of neighbours lies within {radius:g} nm of {np.round(center, 1).tolist()}")
    outline = _outline(mesh, inside)
    name = {tuple(edge): k for k, edge in enumerate(mesh.edges.tolist())}
    total, row = 0j, mesh.angle[outline[0]]
    first = row
    for here, there in zip(outline, outline[1:] + outline[:1], strict=True):
        k = name[min(here, there), max(here, there)]
        sign = 1 if here < there else -1
        total += sign * mesh.vector[k] * sixth_turns(mesh.frame[k], row)
        row = mesh.angle[there] + SIXTH_TURN * np.rint((row - mesh.angle[there]) / SIXTH_TURN)
    return to_points(-total * mesh.spacing * np.exp(1j * first))


def _outline(mesh, triangles) -> list[int]:
    """Particles along the outer edge of some triangles, in the triangles' sense."""
    run = [tuple(edge) for edge in mesh.triangles[triangles][:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2).tolist()]
    ahead: dict = {}
    back = {(b, a) for a, b in run}
    for a, b in run:
        if (a, b) not in back:
            ahead.setdefault(a, []).append(b)
    outer = []
    while ahead:
        loop = [next(iter(ahead))]
        while loop[-1] in ahead:
            here = loop[-1]
            loop.append(ahead[here].pop())
            if not ahead[here]:
                del ahead[here]
        z = mesh.z[loop]
        if np.sum(np.imag(np.conj(z[:-1]) * z[1:])) > 0:  # twice the area; the edge of a hole runs the other way
            outer.append(loop[:-1])
    if len(outer) != 1:
        raise ValueError(f"the particles within the circle fall into {len(outer)} pieces; take another circle")
    return outer[0]


def _disclinations(mesh, coordination, cores, interstitials) -> np.ndarray:
    """Particles with five or seven neighbours that no partner of the other kind is near, away from the rim."""
    charge = np.where(coordination > 0, 6 - coordination, 0)
    plus = np.repeat(np.arange(mesh.n), np.maximum(charge, 0))
    minus = np.repeat(np.arange(mesh.n), np.maximum(-charge, 0))
    alone = np.concatenate(unpaired(mesh.points[plus], mesh.points[minus], 2.3 * mesh.spacing))
    alone = np.concatenate([plus, minus])[alone.astype(bool)]
    rim = mesh.points[_rim(mesh, 0.95)]
    far = cKDTree(rim).query(mesh.points[alone])[0] > 2.3 * mesh.spacing if len(rim) else np.ones(len(alone), bool)
    return mesh.points[alone[far]].reshape(-1, 2)


# --- Particles with a direction ---


def orientational_twins(
    points, orientation_deg, symmetry: int, spacing: float | None = None, angle: float = 10.0
) -> tuple[np.ndarray, pd.DataFrame]:
    """Domains in which anisotropic particles are turned alike, and which of them are twins of each other.

    Parameters
    ----------
    points : array_like, shape (n, 2)
        (y, x) in nm, of one layer in one frame.
    orientation_deg : array_like, shape (n,)
        Rotation of each particle in the plane, in degrees from x towards y; NaN where not known.
    symmetry : int
        The outline repeats every 360° / symmetry: 3 for triangular prisms, 4 for cubes.
    spacing : float, optional
        Nearest-neighbour distance, in nm; measured by default.
    angle : float
        Neighbours turned by more than this against each other belong to two domains, in degrees.

    Returns
    -------
    domain : ndarray of int, shape (n,)
        0, 1, ... by falling size, -1 for particles that share their orientation with no neighbour.
    pairs : pandas.DataFrame
        ``domain0, domain1, turn_deg, mirror_deg, twin``: domains that meet; turn of the particles from the first to the
        second; the row, or line half-way between rows, closest to a mirror line of the two orientations, and whether
        it is one to within ``angle``: a twin of orientation on a common lattice.

    Raises
    ------
    ValueError
        If there is not one orientation for every point, or the symmetry is not positive.

    Notes
    -----
    Explained in chapter 9, "Order and defects".
    """
    mesh, turn = Mesh(points, spacing), np.asarray(orientation_deg, float)
    if turn.shape != (mesh.n,):
        raise ValueError(f"{turn.size} orientations for {mesh.n} positions; pass one for each")
    if not symmetry >= 1:
        raise ValueError(f"symmetry must be 1 or more: the outline repeats every 360°/symmetry, got {symmetry}")
    period = 360.0 / symmetry
    i, j = mesh.edges[np.abs(np.abs(mesh.vector) - 1) < 0.1].T
    alike = np.abs((turn[i] - turn[j] + period / 2) % period - period / 2) < angle
    name = connected_groups(mesh.n, i[alike], j[alike])
    count = np.bincount(name)
    order = np.argsort(-count, kind="stable")
    rank = np.where(count[order] > 1, np.arange(len(order)), -1)
    domain = rank[np.argsort(order)][name]
    domain[~np.isfinite(turn)] = -1
    met = (domain[i] >= 0) & (domain[j] >= 0) & (domain[i] != domain[j])
    pairs = np.unique(np.sort(np.stack([domain[i[met]], domain[j[met]]], axis=1), axis=1), axis=0)
    row = np.degrees(np.angle(np.nansum(mesh.psi6))) / 6
    rows = []
    for one, other in pairs:
        first, second = (_mean_angle(turn[domain == k], period) for k in (one, other))
        mirror = (first + second) / 2  # mirror lines of the two outlines repeat every half a period
        lines = row + 30.0 * np.arange(6)  # mirror lines of the lattice
        off = (mirror - lines + period / 4) % (period / 2) - period / 4
        best = np.abs(off).argmin()
        rows.append((one, other, (second - first + period / 2) % period - period / 2, lines[best] % 180,
                     abs(off[best]) < angle))  # fmt: skip
    return domain, pd.DataFrame(rows, columns=["domain0", "domain1", "turn_deg", "mirror_deg", "twin"])


def _mean_angle(angles, period) -> float:
    wave = np.exp(2j * np.pi * angles[np.isfinite(angles)] / period)
    return float(np.angle(wave.mean()) * period / (2 * np.pi))


# --- Movies ---


def defect_table(particles: pd.DataFrame, tolerance: Tolerance | None = None, other_layer: bool = True) -> pd.DataFrame:
    """Defects of every layer and frame.

    Parameters
    ----------
    particles : pandas.DataFrame
        ``frame, layer, y_nm, x_nm``.
    tolerance : Tolerance, optional
        What is a grain and what is a twin.
    other_layer : bool
        Add where on the other layer's lattice each defect lies.

    Returns
    -------
    pandas.DataFrame
        ``frame, layer, kind, y_nm, x_nm, burgers_y_nm, burgers_x_nm, in_boundary`` as in `find_defects`, and
        ``registry, coordinate`` as in `moirelib.moire.registry` with two layers.

    Raises
    ------
    ValueError
        If a column is missing or holds something else than numbers.

    Notes
    -----
    Explained in chapter 9, "Order and defects".
    """
    return defect_tables(particles, tolerance, other_layer)[0]


def boundary_table(particles: pd.DataFrame, tolerance: Tolerance | None = None) -> pd.DataFrame:
    """Grain and twin boundaries of every layer and frame, in straight segments.

    Parameters
    ----------
    particles : pandas.DataFrame
        ``frame, layer, y_nm, x_nm``.
    tolerance : Tolerance, optional
        What is a grain and what is a twin.

    Returns
    -------
    pandas.DataFrame
        ``frame, layer``; ``kind``, twin where the two sides are mirror images across the boundary with a low Σ, else
        grain; ``y0_nm, x0_nm, y1_nm, x1_nm``, the ends; ``misorientation_deg`` (0 to 30) and ``inclination_deg`` (0 to
        180, from x towards y) with standard deviations; nearest ``sigma`` (1: a low-angle boundary) and the
        misorientation's ``sigma_deviation_deg`` from it; ``asymmetry_deg``, of the boundary from the lattices' mirror
        line; ``mirror_mismatch_nm``, of one lattice from the other's mirror image; ``dislocations``, pairs of five- and
        seven-fold particles along it, their mean ``dislocation_spacing_nm`` (NaN for fewer than two) and Frank's
        ``frank_spacing_nm``, a / (2 sin(θ/2)); the grains' numbers.

    Raises
    ------
    ValueError
        If a column is missing or holds something else than numbers.

    References
    ----------
    Brandon, Acta Metall. 14, 1479 (1966); Read & Shockley, Phys. Rev. 78, 275 (1950). Explained in chapter 9, "Order
    and defects".
    """
    return defect_tables(particles, tolerance, False)[1]


def defect_tables(
    particles: pd.DataFrame, tolerance: Tolerance | None = None, other_layer: bool = True
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Defects and boundaries of every layer and frame, in one pass.

    Parameters
    ----------
    particles, tolerance, other_layer
        As for `defect_table`.

    Returns
    -------
    defects, boundaries : pandas.DataFrame
        As from `defect_table` and `boundary_table`.

    Raises
    ------
    ValueError
        If a column is missing or holds something else than numbers.

    Notes
    -----
    Explained in chapter 9, "Order and defects".
    """
    all_defects, all_boundaries = [], []
    for frame, both in layers_by_frame(particles):
        found = {k: find_defects(points, tolerance=tolerance) for k, points in both.items() if spans_plane(points)}
        for layer, analysis in found.items():
            defects = analysis.defects
            if other_layer and 3 - layer in found:
                other = found[3 - layer]
                on = registry(defects[["y_nm", "x_nm"]], both[3 - layer], other.spacing, other.grain)
                defects = defects.assign(registry=on["registry"], coordinate=on["coordinate"])
            all_defects.append(defects.assign(frame=frame, layer=layer))
            all_boundaries.append(analysis.boundaries.assign(frame=frame, layer=layer))
    extra = ["registry", "coordinate"] if other_layer else []
    defects = _joined(all_defects, ["frame", "layer", *DEFECT_COLUMNS, *extra])
    return defects, _joined(all_boundaries, ["frame", "layer", *BOUNDARY_COLUMNS])


def _joined(parts, columns) -> pd.DataFrame:
    parts = [part for part in parts if len(part)]
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
    return table.reindex(columns=columns)


def follow_defects(defects: pd.DataFrame, search_range_nm: float, memory: int = 1, motion=None) -> pd.DataFrame:
    """Link defects of one kind from frame to frame: hops of vacancies, glide and climb of dislocations.

    Parameters
    ----------
    defects : pandas.DataFrame
        From `defect_table`.
    search_range_nm : float
        Farthest that a defect may move from frame to frame, in nm; 1.3 spacings for hops to the next site.
    memory : int
        Frames for which a defect may be missed.
    motion : dict of int to moirelib.occupancy.Occupancy, optional
        Of the same movie, from `moirelib.occupancy.site_occupancy`: the drift and turn of each layer are taken out.
        Without, steps hold them.

    Returns
    -------
    pandas.DataFrame
        The table with ``defect``, one number per defect over all frames, layers and kinds; ``step_y_nm, step_x_nm``
        since the frame it was last seen in, ``glide_nm`` and ``climb_nm``, the step's parts along and across the
        Burgers vector (NaN for kinds without). With ``motion``, steps are those on the layer's own lattice, along the
        axes of the first frame.

    Raises
    ------
    ValueError
        If a column is missing, or ``motion`` is of another movie.

    Notes
    -----
    Dislocations are linked only if their Burgers vectors agree: it is a third and fourth coordinate, worth a search
    range for every spacing by which it differs. Linked by trackpy (Crocker & Grier, J. Colloid Interface Sci. 179, 298
    (1996)). Explained in chapter 9, "Order and defects".
    """
    require_columns(defects, ["frame", "layer", *DEFECT_COLUMNS[:5]], "the table of defects")
    if defects.empty:
        return defects.assign(defect=0, step_y_nm=np.nan, step_x_nm=np.nan, glide_nm=np.nan, climb_nm=np.nan)
    defects = defects.reset_index(drop=True)
    where, burgers = (defects[c].to_numpy(float) for c in (["y_nm", "x_nm"], ["burgers_y_nm", "burgers_x_nm"]))
    at_rest = _at_rest(defects, where, motion)
    burgers = _at_rest(defects, where + burgers, motion) - at_rest
    rest = pd.DataFrame(np.hstack([at_rest, burgers]), columns=["y", "x", "by", "bx"]).assign(frame=defects["frame"])
    parts = []
    for (_, kind), rows in defects.groupby(["layer", "kind"]):
        place = rest.loc[rows.index, ["frame", "y", "x"]].copy()
        if kind == "dislocation":
            b = rest.loc[rows.index, ["by", "bx"]]
            place[["by", "bx"]] = b * search_range_nm / np.hypot(*b.to_numpy(float).T).mean()
        parts.append((rows, place))
    table = _linked(parts, "defect", search_range_nm, memory)
    rest = rest.loc[table.index]
    step_y, step_x = rest.groupby(table["defect"])[["y", "x"]].diff().to_numpy().T
    length = np.hypot(rest["by"], rest["bx"])
    return table.assign(
        step_y_nm=step_y,
        step_x_nm=step_x,
        glide_nm=(step_y * rest["by"] + step_x * rest["bx"]) / length,
        climb_nm=(step_y * rest["bx"] - step_x * rest["by"]) / length,
    ).reset_index(drop=True)


def _at_rest(table, points, motion) -> np.ndarray:
    """Points (n, 2) of a table's rows where they would be in the first frame, moving with their layers."""
    points = np.array(points, float)
    for (layer, frame), rows in table.groupby(["layer", "frame"]).indices.items():
        own = (motion or {}).get(layer)
        if own is None:
            continue
        row = np.flatnonzero(own.frames == frame)
        if len(row) == 0:
            raise ValueError(f"motion of layer {layer} has no frame {frame}; pass the occupancy of the same movie")
        points[rows] = own.in_first_frame(points[rows], row[0])
    return points


def _linked(parts, name, search_range, memory) -> pd.DataFrame:
    """Rows with a number for everything that trackpy takes for one, sorted by it; parts are pairs of rows and places.

    Crowded places are linked with a shorter range instead of not at all.
    """
    trackpy.quiet()
    tables, number = [], 0
    for rows, place in parts:
        columns = [c for c in place if c != "frame"]
        linked = trackpy.link(place, search_range, memory=memory, pos_columns=columns,
                              adaptive_stop=0.1 * search_range, adaptive_step=0.9)  # fmt: skip
        tables.append(rows.assign(**{name: linked["particle"].reindex(rows.index) + number}))
        number = tables[-1][name].max() + 1
    return pd.concat(tables).sort_values([name, "frame"])


def follow_boundaries(boundaries: pd.DataFrame, search_range_nm: float, memory: int = 1, motion=None) -> pd.DataFrame:
    """Link boundaries from frame to frame, and how far each migrates across itself.

    Parameters
    ----------
    boundaries : pandas.DataFrame
        From `boundary_table`.
    search_range_nm : float
        Farthest that the middle of a segment may move from frame to frame, in nm.
    memory : int
        Frames for which a boundary may be missed.
    motion : dict of int to moirelib.occupancy.Occupancy, optional
        As for `follow_defects`.

    Returns
    -------
    pandas.DataFrame
        The table with ``boundary``, one number per boundary, and ``migration_nm``: the step of its middle since the
        frame it was last seen in, to the +90° side of the direction that it had when it was first seen (0 to 180°).

    Raises
    ------
    ValueError
        If a column is missing, or ``motion`` is of another movie.

    Notes
    -----
    Explained in chapter 9, "Order and defects".
    """
    require_columns(boundaries, ["frame", "layer", *_ENDS], "the table of boundaries")
    if boundaries.empty:
        return boundaries.assign(boundary=0, migration_nm=np.nan)
    boundaries = boundaries.reset_index(drop=True)
    start, end = (_at_rest(boundaries, boundaries[[f"y{k}_nm", f"x{k}_nm"]], motion) for k in "01")
    rest = pd.DataFrame((start + end) / 2, columns=["y", "x"]).assign(frame=boundaries["frame"])
    rest["direction"] = np.arctan2(*(end - start).T) % np.pi
    parts = [(rows, rest.loc[rows.index, ["frame", "y", "x"]]) for _, rows in boundaries.groupby("layer")]
    table = _linked(parts, "boundary", search_range_nm, memory)
    own = rest.loc[table.index].groupby(table["boundary"])
    step = own[["y", "x"]].diff()
    t = own["direction"].transform(lambda angles: np.unwrap(angles, period=np.pi))  # no leap between 180° and 0°
    return table.assign(migration_nm=step["y"] * np.cos(t) - step["x"] * np.sin(t)).reset_index(drop=True)
