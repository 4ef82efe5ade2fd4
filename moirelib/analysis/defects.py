"""Defects of a layer, and how they and boundaries move: vacancies, interstitials, dislocations, twins (chapter 9)."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist
from scipy.stats import circmean

from ..crystal.matching import match
from ..crystal.mesh import ROUNDING, SIXTH_TURN, Mesh, nearest_vector, sixth_turns
from ..crystal.neighbours import connected_groups, to_complex, to_points
from ..tables import require_columns
from ..tracking import link_places
from .boundaries import find_boundaries, in_boundary
from .lattices import LayerFrame, Tolerance, meeting_pairs
from .occupancy import Occupancy, subtract_motion

DEFECT_COLUMNS = "kind y_nm x_nm burgers_y_nm burgers_x_nm in_boundary".split()  # of a table of defects
BOUNDARY_ENDS = "y0_nm x0_nm y1_nm x1_nm".split()
# Lengths in spacings. By hand where no reason is given, on crystals with planted defects.
REGULAR = 0.13  # scatter about the lattice around; where there is more, no site is predicted
FEWEST_FOR_SITE = 4  # neighbours of a particle whose lattice predicts sites
FREE_SITE = 0.55  # from a predicted site, within which there is no particle: the site is empty
SAME_EMPTY_SITE = 0.4  # between predictions of one site
TAKEN = 0.5  # from a site, within which it is taken
EMPTY = 0.69  # a vacancy has no particle nearer, not even one that is displaced
FEWEST_AROUND = 5  # neighbours of a vacancy
HOLE_RINGS = 3  # of empty sites that a hole may be wide
CROWDED = 0.93  # to the nearest neighbour; an interstitial has a nearer one
OFF_SITE = 0.3  # from the sites of the lattice around
INTERSTITIAL_REACH = 1.2, 3.1  # from an interstitial, whose sites are predicted there; nearer is distorted
INTERSTITIAL_VOTES = 6, 0.75, 0.5  # fewest predictions; share of them off site; share of them whose site is taken
NOT_ZERO = 0.5  # lattice vectors are whole numbers: half of one tells a sum from zero
PARTNER_REACH = 2.3  # a five- and a seven-fold particle up to so far apart are one dislocation
RIM_CIRCLE = 0.95  # radius of the circle of a triangle, beyond which it belongs to a hole (1) or a bay of the edge
CORE_RING = 1.2, 3.2  # around a core, where the rows' direction is measured
_HEXAGON = np.exp(1j * SIXTH_TURN * np.arange(6))


@dataclass(frozen=True)
class LayerDefects:
    """What was found in one layer of one frame."""

    defects: pd.DataFrame  # DEFECT_COLUMNS
    boundaries: pd.DataFrame  # BOUNDARY_COLUMNS
    grain: np.ndarray  # (n,) of each particle, -1 where none
    spacing: float  # nm
    coordination: np.ndarray  # (n,) neighbours in the triangulation with vacancies filled; 0 at the rim


def find_defects(points: ArrayLike | LayerFrame, tolerance: Tolerance | None = None) -> LayerDefects:
    """All defects of one layer in one frame; ``tolerance`` says what is a grain and what is a twin.

    Takes positions, or a `LayerFrame`, which has a tolerance of its own. Vacancies are empty sites that the lattices
    around predict; the sum of the lattice vectors around triangles that touch is a Burgers vector (Stukowski & Albe,
    Modelling Simul. Mater. Sci. Eng. 18, 085001 (2010)).

    ``defects`` of the result has ``kind`` vacancy, interstitial, dislocation, or disclination that belongs to no
    dislocation; Burgers vectors (y, x) in nm, by which the displacement grows once around the core from x towards y,
    else NaN; ``in_boundary``, within 1.5 spacings of a boundary. ``boundaries``: see `boundary_table`.
    """
    layer = points if isinstance(points, LayerFrame) else LayerFrame(Mesh(points), tolerance or Tolerance())
    mesh, grain = layer.mesh, layer.grain
    vacancies, interstitials = _find_vacancies(layer), _find_interstitials(layer)
    filled = Mesh(np.concatenate([mesh.points, vacancies]), mesh.spacing) if len(vacancies) else mesh
    cores, burgers = _locate_dislocations(filled)
    neighbours = np.bincount(filled.edges.ravel(), minlength=filled.n)
    coordination = np.where(_find_rim(filled, RIM_CIRCLE), 0, neighbours)  # also at the rim of bays and holes
    boundaries = find_boundaries(layer, filled, coordination)
    disclinations = _find_disclinations(filled, coordination)
    kinds = {"vacancy": vacancies, "interstitial": interstitials, "dislocation": cores, "disclination": disclinations}
    where, kind = np.concatenate([*kinds.values()]), np.repeat([*kinds], [len(found) for found in kinds.values()])
    vector = np.full(where.shape, np.nan)
    vector[kind == "dislocation"] = burgers
    defects = pd.DataFrame(np.hstack([where, vector]), columns=DEFECT_COLUMNS[1:5])
    defects.insert(0, "kind", kind.astype(object))
    defects["in_boundary"] = in_boundary(where, mesh, grain)
    return LayerDefects(defects, boundaries, grain, mesh.spacing, coordination[: mesh.n])


def _find_regular(layer) -> np.ndarray:
    """Which particles have a lattice around that predicts sites, shape (n,)."""
    local = layer.surroundings
    return local.good & (np.nan_to_num(local.residual, nan=np.inf) < REGULAR * layer.mesh.spacing)


def _find_vacancies(layer) -> np.ndarray:
    """Empty sites (k, 2) that have at least five of their six neighbours: particles, or empty sites like themselves."""
    mesh, local, tree = layer.mesh, layer.surroundings, cKDTree(layer.mesh.points)
    use = _find_regular(layer) & (local.neighbours >= FEWEST_FOR_SITE)
    ring = np.stack([local.site, local.q, local.p])[:, use]
    found = ring[:, :0]
    for _ in range(HOLE_RINGS):
        ring = find_empty_sites(ring, tree, found[0], mesh.spacing)
        found = np.hstack([found, ring])
    if found.shape[1] == 0:
        return np.empty((0, 2))
    site, around = to_points(found[0]), to_points(_list_neighbour_sites(*found))
    nearest = tree.query(around)[0]
    particles = np.sum(nearest < TAKEN * mesh.spacing, axis=1)
    distance, index = cKDTree(site).query(around)
    also = (distance < TAKEN * mesh.spacing) & (nearest >= TAKEN * mesh.spacing)
    keep = tree.query(site)[0] > EMPTY * mesh.spacing
    left = len(site) + 1
    while keep.sum() < left:  # those with too few neighbours go, from outside the crystal inwards; holes stay
        left = keep.sum()
        keep &= particles + np.sum(also & keep[np.minimum(index, len(site) - 1)], axis=1) >= FEWEST_AROUND
    return site[keep]


def _list_neighbour_sites(site, q, p) -> np.ndarray:
    """Neighbouring sites (n, 6) of each."""
    return site[:, None] + q[:, None] * _HEXAGON + p[:, None] * np.conj(_HEXAGON)


def find_empty_sites(around: np.ndarray, tree: cKDTree, known: np.ndarray, spacing: float) -> np.ndarray:
    """Neighbouring sites of some that are empty, each once: the mean of what its neighbours predict.

    Takes sites, q and p (3, n) of the lattice around, as in `LocalLattices`, the tree of the particles, and known empty
    sites; returns the same three of the new ones, (3, m). Lengths in nm.
    """
    _, q, p = around
    predicted = _list_neighbour_sites(*around)
    own = np.broadcast_to(np.arange(len(q))[:, None], predicted.shape)
    free = tree.query(to_points(predicted))[0] > FREE_SITE * spacing
    if len(known):
        free &= cKDTree(to_points(known)).query(to_points(predicted))[0] > TAKEN * spacing
    predicted, own = predicted[free], own[free]
    if len(predicted) == 0:
        return np.empty((3, 0), complex)
    i, j = cKDTree(to_points(predicted)).query_pairs(SAME_EMPTY_SITE * spacing, output_type="ndarray").T
    name = connected_groups(len(predicted), i, j)
    # Neighbours know their rows up to 60°; one frame for each site's mean.
    first = q[own][np.unique(name, return_index=True)[1]][name]
    turn = sixth_turns(-np.angle(q[own]), -np.angle(first))

    def average(values):
        return (np.bincount(name, values.real) + 1j * np.bincount(name, values.imag)) / np.bincount(name)

    return np.stack([average(predicted), average(q[own] * turn), average(p[own] * np.conj(turn))])


def _find_interstitials(layer) -> np.ndarray:
    """Particles (k, 2) that lie between the sites of the lattice around, all of which are taken."""
    mesh, local, use = layer.mesh, layer.surroundings, np.flatnonzero(_find_regular(layer))
    tree = cKDTree(mesh.points)
    crowded = np.flatnonzero(tree.query(mesh.points, k=2)[0][:, 1] < CROWDED * mesh.spacing)
    if len(use) < 3 or len(crowded) == 0:
        return np.empty((0, 2))
    near = cKDTree(mesh.points[crowded]).sparse_distance_matrix(
        cKDTree(mesh.points[use]), INTERSTITIAL_REACH[1] * mesh.spacing, output_type="ndarray"
    )
    near = near[near["v"] > INTERSTITIAL_REACH[0] * mesh.spacing]
    k, i = crowded[near["i"]], use[near["j"]]
    q, p, u = local.q[i], local.p[i], local.place(i, mesh.z[k])
    w = nearest_vector(u)
    site = to_points(local.site[i] + q * w + p * np.conj(w))
    distance, nearest = tree.query(site, k=2)
    taken = np.where(nearest[:, 0] == k, distance[:, 1], distance[:, 0]) < TAKEN * mesh.spacing
    count = np.bincount(k, minlength=mesh.n)
    shares = (np.abs(u - w) > OFF_SITE, taken, np.abs(u - w))
    off, taken, misfit = (np.bincount(k, x, mesh.n) / np.maximum(count, 1) for x in shares)
    fewest, off_share, taken_share = INTERSTITIAL_VOTES
    chosen = np.flatnonzero((count >= fewest) & (off > off_share) & (taken > taken_share))
    chosen = chosen[np.argsort(-misfit[chosen])]
    kept: list[int] = []
    for c in chosen:  # two particles that share a site are one interstitial
        if all(np.abs(mesh.z[c] - mesh.z[o]) > INTERSTITIAL_REACH[0] * mesh.spacing for o in kept):
            kept.append(int(c))
    return mesh.points[kept].reshape(-1, 2)


def _find_rim(mesh: Mesh, reach: float = np.inf) -> np.ndarray:
    """Which particles lie on the edge of the triangles whose circles have a radius within reach, in spacings."""
    triangles = mesh.radius < reach * mesh.spacing
    count = np.bincount(mesh.of_triangle[0][triangles].ravel(), minlength=len(mesh.edges))
    rim = np.ones(mesh.n, bool)
    rim[mesh.triangles[triangles]] = False
    rim[mesh.edges[count == 1]] = True
    return rim


def _locate_dislocations(mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    """Cores and Burgers vectors (k, 2), in nm, from the triangles whose lattice vectors do not add up to zero."""
    closure, frame = mesh.closures()
    rim, cores, vectors = _find_rim(mesh), [], []

    def sum_closures(triangles):
        """Burgers vector in lattice vectors, minus the sum of the closures; and the row, in rad."""
        row = np.angle(mesh.smooth[np.unique(mesh.triangles[triangles])].sum()) / 6
        return -np.sum(closure[triangles] * sixth_turns(frame[triangles], row)), row

    for group in _group_triangles(np.flatnonzero(np.abs(closure) > NOT_ZERO), mesh.triangles):
        size = np.abs(sum_closures(group)[0])
        if rim[mesh.triangles[group]].any() or size < NOT_ZERO:
            continue
        # several dislocations where the Burgers vector is not the shortest and edges divide the group
        for part in [group] if np.abs(size - 1) <= ROUNDING else _group_triangles(group, mesh.of_triangle[0]):
            vector, row = sum_closures(part)
            if np.abs(vector) > NOT_ZERO:
                center = mesh.z[mesh.triangles[part]].mean()
                # The row around the core, where the rotation that it causes averages out
                distance = np.abs(mesh.z - center) / mesh.spacing
                ring = (distance > CORE_RING[0]) & (distance < CORE_RING[1]) & np.isfinite(mesh.psi6)
                if ring.any():
                    around = np.angle(mesh.psi6[ring].sum()) / 6
                    row = around + SIXTH_TURN * np.rint((row - around) / SIXTH_TURN)
                cores.append(to_points(center))
                vectors.append(to_points(vector * mesh.spacing * np.exp(1j * row)))
    return np.reshape(cores, (-1, 2)), np.reshape(vectors, (-1, 2))


def _group_triangles(triangles, items) -> list[np.ndarray]:
    """Those triangles together that share items, such as their corners or edges (k, 3) by number."""
    used = np.unique(items[triangles], return_inverse=True)[1].reshape(-1, 3)
    m, count = len(used), used.max(initial=-1) + 1
    name = connected_groups(m + count, np.repeat(np.arange(m), 3), m + used.ravel())[:m]
    return [triangles[name == k] for k in np.unique(name)]


def _find_disclinations(mesh, coordination) -> np.ndarray:
    """Particles with five or seven neighbours without a partner of the other kind nearby, away from the rim."""
    charge = np.where(coordination > 0, 6 - coordination, 0)
    plus = np.repeat(np.arange(mesh.n), np.maximum(charge, 0))
    minus = np.repeat(np.arange(mesh.n), np.maximum(-charge, 0))
    i, j = match(mesh.points[plus], mesh.points[minus], PARTNER_REACH * mesh.spacing)
    alone = np.concatenate([np.delete(plus, i), np.delete(minus, j)])
    rim = mesh.points[_find_rim(mesh, RIM_CIRCLE)]
    far = cdist(mesh.points[alone], rim).min(axis=1, initial=np.inf) > PARTNER_REACH * mesh.spacing
    return mesh.points[alone[far]].reshape(-1, 2)


def burgers_circuit(points: ArrayLike, center: ArrayLike, radius: float, spacing: float | None = None) -> np.ndarray:
    """Sum (y, x) of all Burgers vectors within a circle about ``center``, in nm, along the rows at the circuit's start.

    The circuit follows the outer edge of the triangles whose centres lie within ``radius``, in nm; it may enclose a
    hole, but no net disclination. ValueError if no triangle lies inside, or those inside do not hang together.
    """
    mesh = Mesh(points, spacing)
    middle = mesh.z[mesh.triangles].mean(axis=1) if len(mesh.triangles) else np.empty(0, complex)
    center = np.asarray(center, float)
    inside = np.flatnonzero(np.abs(middle - to_complex(np.reshape(center, (1, 2)))[0]) < radius)
    if len(inside) == 0:
        raise ValueError(f"no triangle of neighbours lies within {radius:g} nm of {np.round(center, 1).tolist()}")
    run = [tuple(edge) for edge in mesh.triangles[inside][:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2).tolist()]
    ahead, inner = dict[int, list](), {(b, a) for a, b in run}  # along the outer edge, in the triangles' sense
    for a, b in (edge for edge in run if edge not in inner):
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
            outer.append(loop)
    if len(outer) != 1:
        raise ValueError(f"the particles within the circle fall into {len(outer)} pieces; take another circle")
    name = {tuple(edge): k for k, edge in enumerate(mesh.edges.tolist())}
    total, row = 0j, mesh.angle[outer[0][0]]
    first = row
    for here, there in pairwise(outer[0]):
        k = name[min(here, there), max(here, there)]
        sign = 1 if here < there else -1
        total += sign * mesh.vector[k] * sixth_turns(mesh.frame[k], row)
        row = mesh.angle[there] + SIXTH_TURN * np.rint((row - mesh.angle[there]) / SIXTH_TURN)
    return to_points(-total * mesh.spacing * np.exp(1j * first))


def orientational_twins(
    points: ArrayLike, orientation_deg: ArrayLike, symmetry: int, angle: float = 10.0
) -> tuple[np.ndarray, pd.DataFrame]:
    """Domains in which anisotropic particles are turned alike, and which of them are twins of each other.

    Returned are the domain of each particle, by falling size from 0, -1 for particles that share their orientation with
    no neighbour; and a table of domains that meet, ``domain0, domain1, turn_deg, mirror_deg, twin``: turn of the
    particles from the first to the second; the row, or line half-way between rows, closest to a mirror line of the two
    orientations, and whether it is one to within ``angle``: a twin of orientation on a common lattice.

    Orientations (n,) are in degrees from x towards y; NaN where not known. The outline repeats every 360° / symmetry: 3
    for triangular prisms, 4 for cubes. Neighbours turned by more than ``angle`` degrees belong to two domains.
    """
    mesh, turn = Mesh(points), np.asarray(orientation_deg, float)
    if turn.shape != (mesh.n,):
        raise ValueError(f"{turn.size} orientations for {mesh.n} positions; pass one for each")
    if not symmetry >= 1:
        raise ValueError(f"symmetry must be 1 or more: the outline repeats every 360°/symmetry, got {symmetry}")
    period = 360.0 / symmetry
    i, j = mesh.edges[np.abs(np.abs(mesh.vector) - 1) < ROUNDING].T
    alike = np.abs((turn[i] - turn[j] + period / 2) % period - period / 2) < angle
    name = connected_groups(mesh.n, i[alike], j[alike])
    count = np.bincount(name)
    order = np.argsort(-count, kind="stable")
    rank = np.where(count[order] > 1, np.arange(len(order)), -1)
    domain = rank[np.argsort(order)][name]
    domain[~np.isfinite(turn)] = -1
    row = np.degrees(np.angle(np.nansum(mesh.psi6))) / 6
    rows = []
    for one, other in meeting_pairs(domain, i, j)[0]:
        first, second = (circmean(turn[domain == k], period, nan_policy="omit") for k in (one, other))
        mirror = (first + second) / 2  # mirror lines of the two outlines repeat every half a period
        lines = row + 30.0 * np.arange(6)  # mirror lines of the lattice
        off = (mirror - lines + period / 4) % (period / 2) - period / 4
        best = np.abs(off).argmin()
        rows.append((one, other, (second - first + period / 2) % period - period / 2, lines[best] % 180,
                     abs(off[best]) < angle))  # fmt: skip
    return domain, pd.DataFrame(rows, columns=["domain0", "domain1", "turn_deg", "mirror_deg", "twin"])


def follow_defects(
    defects: pd.DataFrame, search_range_nm: float, memory: int = 1, motion: dict[int, Occupancy] | None = None
) -> pd.DataFrame:
    """Link defects of one kind from frame to frame: hops of vacancies, glide and climb of dislocations.

    Dislocations are linked only if their Burgers vectors agree: a spacing of difference counts like a search range. The
    table of `defect_table` comes back with ``defect``, a number for each; ``step_y_nm, step_x_nm`` since the frame it
    was last seen in; ``glide_nm`` and ``climb_nm``, the step's parts along and across the Burgers vector (else NaN).

    A defect may move by the search range from frame to frame (1.3 spacings for hops to the next site), and be missed
    for ``memory`` frames. With the ``motion`` of the same movie, steps are those on the layer's own lattice, along the
    axes of the first frame; without, they hold the drift and turn of each layer.
    """
    require_columns(defects, ["frame", "layer", *DEFECT_COLUMNS[:5]], "the table of defects")
    if defects.empty:
        return defects.assign(defect=0, step_y_nm=np.nan, step_x_nm=np.nan, glide_nm=np.nan, climb_nm=np.nan)
    defects = defects.reset_index(drop=True)
    where, burgers = (defects[c].to_numpy(float) for c in (["y_nm", "x_nm"], ["burgers_y_nm", "burgers_x_nm"]))
    at_rest = subtract_motion(defects, where, motion)
    burgers = subtract_motion(defects, where + burgers, motion) - at_rest
    rest = pd.DataFrame(np.hstack([at_rest, burgers]), columns=["y", "x", "by", "bx"]).assign(frame=defects["frame"])
    parts = []
    for (_, kind), rows in defects.groupby(["layer", "kind"]):
        place = rest.loc[rows.index].copy()
        if kind == "dislocation":
            place[["by", "bx"]] *= search_range_nm / np.hypot(place["by"], place["bx"]).mean()
        parts.append(place if kind == "dislocation" else place[["frame", "y", "x"]])
    table = _number_tracks(defects, parts, "defect", search_range_nm, memory)
    rest = rest.loc[table.index]
    y, x = (rest.groupby(table["defect"])[axis].diff() for axis in "yx")
    length = np.hypot(rest["by"], rest["bx"])
    glide, climb = (y * rest["by"] + x * rest["bx"]) / length, (y * rest["bx"] - x * rest["by"]) / length
    return table.assign(step_y_nm=y, step_x_nm=x, glide_nm=glide, climb_nm=climb).reset_index(drop=True)


def _number_tracks(table, parts, name, search_range, memory) -> pd.DataFrame:
    """A table with a number for each track, sorted by it; places of each part are linked among themselves."""
    number = pd.Series(0, table.index)
    for place in parts:
        track = link_places(place, search_range, memory, narrowest=0.1)  # sorted by frame
        number[track.index] = track + number.max() + 1
    return table.assign(**{name: number - 1}).sort_values([name, "frame"])


def follow_boundaries(
    boundaries: pd.DataFrame, search_range_nm: float, memory: int = 1, motion: dict[int, Occupancy] | None = None
) -> pd.DataFrame:
    """Link boundaries of `boundary_table` from frame to frame, and how far each migrates across itself.

    Parameters are as for `follow_defects`; it is the middle of a segment that moves. The table comes back with
    ``boundary``, one number per boundary, and ``migration_nm``: the step of its middle since the frame it was last seen
    in, to the +90° side of the direction that it had when it was first seen (0 to 180°).
    """
    require_columns(boundaries, ["frame", "layer", *BOUNDARY_ENDS], "the table of boundaries")
    if boundaries.empty:
        return boundaries.assign(boundary=0, migration_nm=np.nan)
    boundaries = boundaries.reset_index(drop=True)
    start, end = (subtract_motion(boundaries, boundaries[[f"y{k}_nm", f"x{k}_nm"]], motion) for k in "01")
    rest = pd.DataFrame((start + end) / 2, columns=["y", "x"]).assign(frame=boundaries["frame"])
    rest["direction"] = np.arctan2(*(end - start).T) % np.pi
    parts = [places for _, places in rest[["frame", "y", "x"]].groupby(boundaries["layer"])]
    table = _number_tracks(boundaries, parts, "boundary", search_range_nm, memory)
    own = rest.loc[table.index].groupby(table["boundary"])
    step = own[["y", "x"]].diff()
    t = own["direction"].transform(lambda angles: np.unwrap(angles, period=np.pi))  # no leap between 180° and 0°
    return table.assign(migration_nm=step["y"] * np.cos(t) - step["x"] * np.sin(t)).reset_index(drop=True)
