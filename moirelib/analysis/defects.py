"""Defects of a layer: vacancies, interstitials, dislocations, disclinations, grain and twin boundaries (chapter 9)."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist
from scipy.stats import circmean

from ..crystal.matching import match
from ..crystal.mesh import ROUNDING, SIXTH_TURN, Mesh, nearest_vector, sixth_turns
from ..crystal.neighbours import connected_groups, to_points
from .boundaries import find_boundaries, in_boundary
from .dislocations import find_rim, locate_dislocations
from .grains import Tolerance, meeting_pairs
from .layer_frame import LayerFrame

DEFECT_COLUMNS = "kind y_nm x_nm burgers_y_nm burgers_x_nm in_boundary".split()  # of a table of defects
REGULAR = 0.13  # spacings of scatter about the lattice around; where there is more, no site is predicted
FREE = 0.55  # spacings from a predicted site within which there is no particle: the site is empty
SAME_SITE = 0.4  # spacings between predictions of one site
TAKEN = 0.5  # spacings from a site within which it is taken
EMPTY = 0.69  # spacings; a vacancy has no particle nearer, not even one that is displaced
FEWEST_AROUND = 5  # neighbours of a vacancy
RINGS = 3  # of empty sites that a hole may be wide
CROWDED = 0.93  # spacings to the nearest neighbour; an interstitial has a nearer one
OFF_SITE = 0.3  # spacings from the sites of the lattice around
INTERSTITIAL_REACH = 1.2, 3.1  # spacings from an interstitial, whose sites are predicted there; nearer is distorted
INTERSTITIAL_VOTES = 6, 0.75, 0.5  # fewest predictions; share of them off site; share of them whose site is taken
PARTNER_REACH = 2.3  # spacings: a five- and a seven-fold particle up to so far apart are one dislocation
RIM_CIRCLE = 0.95  # spacings, radius of the circle of a triangle beyond which it belongs to a hole or a bay of the edge
_HEXAGON = np.exp(1j * SIXTH_TURN * np.arange(6))


@dataclass(frozen=True)
class LayerDefects:
    """What was found in one layer of one frame."""

    defects: pd.DataFrame  # DEFECT_COLUMNS
    boundaries: pd.DataFrame  # BOUNDARY_COLUMNS
    grain: np.ndarray  # (n,) of each particle, -1 where none
    spacing: float  # nm
    coordination: np.ndarray  # (n,) neighbours in the triangulation with vacancies filled; 0 at the rim


def find_defects(points: ArrayLike, tolerance: Tolerance | None = None) -> LayerDefects:
    """All defects of one layer in one frame; ``tolerance`` says what is a grain and what is a twin.

    Vacancies are sites that the lattices around predict and that are empty. They are filled; in the triangulation of
    particles and filled sites every edge is named by the lattice vector it stands for, and where the three of a
    triangle do not add up to zero a dislocation is near (Stukowski & Albe, Modelling Simul. Mater. Sci. Eng. 18, 085001
    (2010), in two dimensions). The sum over such triangles that touch is the Burgers vector.

    ``defects`` of the result has ``kind`` vacancy, interstitial, dislocation or disclination; a disclination is listed
    if it belongs to no dislocation. Burgers vectors (y, x) in nm, NaN for kinds without; the displacement grows by the
    Burgers vector once around the core from x towards y. ``in_boundary`` says that a boundary passes within a spacing
    and a half. ``boundaries``: see `boundary_table`.
    """
    return detect_defects(LayerFrame(Mesh(points), tolerance or Tolerance()))


def detect_defects(layer: LayerFrame) -> LayerDefects:
    """The same as `find_defects`, of a layer that is triangulated already."""
    mesh, grain = layer.mesh, layer.grain
    vacancies = _find_vacancies(layer)
    interstitials = _find_interstitials(layer)
    filled = Mesh(np.concatenate([mesh.points, vacancies]), mesh.spacing) if len(vacancies) else mesh
    cores, burgers = locate_dislocations(filled)
    neighbours = np.bincount(filled.edges.ravel(), minlength=filled.n)
    coordination = np.where(find_rim(filled, RIM_CIRCLE), 0, neighbours)  # also at the rim of bays and holes
    boundaries = find_boundaries(layer, filled, coordination)
    disclinations = _find_disclinations(filled, coordination)
    kinds = {"vacancy": vacancies, "interstitial": interstitials, "dislocation": cores, "disclination": disclinations}
    rows = []
    for kind, where in kinds.items():
        vector = burgers if kind == "dislocation" else np.full(where.shape, np.nan)
        if len(where):
            rows.append(pd.DataFrame(np.hstack([where, vector]), columns=DEFECT_COLUMNS[1:5]).assign(kind=kind))
    defects = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=DEFECT_COLUMNS)
    defects["in_boundary"] = in_boundary(defects[["y_nm", "x_nm"]].to_numpy(float), mesh, grain)
    return LayerDefects(defects[DEFECT_COLUMNS], boundaries, grain, mesh.spacing, coordination[: mesh.n])


def _find_regular(layer) -> np.ndarray:
    """Which particles have a lattice around that predicts sites, shape (n,)."""
    local = layer.surroundings
    return local.good & (np.nan_to_num(local.residual, nan=np.inf) < REGULAR * layer.mesh.spacing)


def _find_vacancies(layer) -> np.ndarray:
    """Empty sites (k, 2) that have at least five of their six neighbours: particles, or empty sites like themselves."""
    mesh, local = layer.mesh, layer.surroundings
    use = _find_regular(layer) & (local.neighbours >= 4)
    if not use.any():
        return np.empty((0, 2))
    tree = cKDTree(mesh.points)
    site, q, p = local.site[use], local.q[use], local.p[use]
    found: tuple[np.ndarray, ...] = (np.empty(0, complex),) * 3
    for _ in range(RINGS):
        site, q, p = find_empty_sites(site, q, p, tree, found[0], mesh.spacing)
        if len(site) == 0:
            break
        found = tuple(map(np.concatenate, zip(found, (site, q, p), strict=True)))
    return to_points(_keep_enclosed(found, tree, mesh.spacing))


def _list_neighbour_sites(site, q, p) -> np.ndarray:
    """Neighbouring sites (n, 6) of each."""
    return site[:, None] + q[:, None] * _HEXAGON + p[:, None] * np.conj(_HEXAGON)


def find_empty_sites(
    site: np.ndarray, q: np.ndarray, p: np.ndarray, tree: cKDTree, known: np.ndarray, spacing: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Neighbouring sites of some without a particle, each once: the mean of what its neighbours predict.

    Takes sites and the lattice around each, complex as in `LocalLattices`, shape (n,), the tree of the particles (y,
    x), and empty sites that are known already (k,); returns the same three of the empty sites, (m,). Lengths in nm.
    """
    predicted = _list_neighbour_sites(site, q, p)
    own = np.broadcast_to(np.arange(len(site))[:, None], predicted.shape)
    free = tree.query(to_points(predicted))[0] > FREE * spacing
    predicted, own = predicted[free], own[free]
    if len(known) and len(predicted):
        new = cKDTree(to_points(known)).query(to_points(predicted))[0] > TAKEN * spacing
        predicted, own = predicted[new], own[new]
    if len(predicted) == 0:
        return (np.empty(0, complex),) * 3
    i, j = cKDTree(to_points(predicted)).query_pairs(SAME_SITE * spacing, output_type="ndarray").T
    name = connected_groups(len(predicted), i, j)
    # Neighbours know their rows up to 60°; one frame for each site's mean.
    first = q[own][np.unique(name, return_index=True)[1]][name]
    turn = sixth_turns(-np.angle(q[own]), -np.angle(first))
    count = np.bincount(name)

    def average(values):
        return (np.bincount(name, values.real) + 1j * np.bincount(name, values.imag)) / count

    return average(predicted), average(q[own] * turn), average(p[own] * np.conj(turn))


def _keep_enclosed(found, tree, spacing) -> np.ndarray:
    """Empty sites left when those with too few neighbours are removed, from outside the crystal inwards; holes stay."""
    site, q, p = found
    if len(site) == 0:
        return site
    around = to_points(_list_neighbour_sites(site, q, p))
    nearest = tree.query(around)[0]
    particles = np.sum(nearest < TAKEN * spacing, axis=1)
    own = cKDTree(to_points(site))
    distance, index = own.query(around)
    also = (distance < TAKEN * spacing) & (nearest >= TAKEN * spacing)
    alive = tree.query(to_points(site))[0] > EMPTY * spacing
    while True:
        count = particles + np.sum(also & alive[np.minimum(index, len(site) - 1)], axis=1)
        keep = alive & (count >= FEWEST_AROUND)
        if (keep == alive).all():
            return site[keep]
        alive = keep


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
    off, taken = (np.bincount(k, x, mesh.n) / np.maximum(count, 1) for x in (np.abs(u - w) > OFF_SITE, taken))
    misfit = np.bincount(k, np.abs(u - w), mesh.n) / np.maximum(count, 1)
    fewest, off_share, taken_share = INTERSTITIAL_VOTES
    chosen = np.flatnonzero((count >= fewest) & (off > off_share) & (taken > taken_share))
    chosen = chosen[np.argsort(-misfit[chosen])]
    kept: list[int] = []
    for c in chosen:  # two particles that share a site are one interstitial
        if all(np.abs(mesh.z[c] - mesh.z[o]) > INTERSTITIAL_REACH[0] * mesh.spacing for o in kept):
            kept.append(int(c))
    return mesh.points[kept].reshape(-1, 2)


def _find_disclinations(mesh, coordination) -> np.ndarray:
    """Particles with five or seven neighbours without a partner of the other kind nearby, away from the rim."""
    charge = np.where(coordination > 0, 6 - coordination, 0)
    plus = np.repeat(np.arange(mesh.n), np.maximum(charge, 0))
    minus = np.repeat(np.arange(mesh.n), np.maximum(-charge, 0))
    i, j = match(mesh.points[plus], mesh.points[minus], PARTNER_REACH * mesh.spacing)
    alone = np.concatenate([np.delete(plus, i), np.delete(minus, j)])
    rim = mesh.points[find_rim(mesh, RIM_CIRCLE)]
    far = cdist(mesh.points[alone], rim).min(axis=1, initial=np.inf) > PARTNER_REACH * mesh.spacing
    return mesh.points[alone[far]].reshape(-1, 2)


def orientational_twins(
    points: ArrayLike, orientation_deg: ArrayLike, symmetry: int, angle: float = 10.0
) -> tuple[np.ndarray, pd.DataFrame]:
    """Domains in which anisotropic particles are turned alike, and which of them are twins of each other.

    Returned are the domain of each particle, 0, 1, ... by falling size, -1 for particles that share their orientation
    with no neighbour; and a table of domains that meet, ``domain0, domain1, turn_deg, mirror_deg, twin``: turn of the
    particles from the first to the second; the row, or line half-way between rows, closest to a mirror line of the two
    orientations, and whether it is one to within ``angle``: a twin of orientation on a common lattice.

    Parameters
    ----------
    orientation_deg : array_like, shape (n,)
        Rotation of each particle in the plane, in degrees from x towards y; NaN where not known.
    symmetry : int
        The outline repeats every 360° / symmetry: 3 for triangular prisms, 4 for cubes.
    angle : float
        Neighbours turned by more than this against each other belong to two domains, in degrees.
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
