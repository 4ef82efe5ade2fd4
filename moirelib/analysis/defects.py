"""Defects of a layer: vacancies, interstitials, dislocations, disclinations, grain and twin boundaries.

All from the positions of one layer in one frame; defects are then followed through the frames.

Explained in chapter 9, "Order and defects".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from ..crystal.matching import unpaired
from ..crystal.mesh import SIXTH_TURN, THREE_SHELLS, Mesh, lattices_around, nearest_vector, sixth_turns
from ..crystal.neighbours import connected_groups, to_points
from .boundaries import Tolerance, find_boundaries, in_boundary
from .dislocations import locate_dislocations, rim_particles
from .grains import grains_of

__all__ = ["LayerDefects", "empty_sites", "find_defects", "orientational_twins"]


#: Columns of a table of defects.
DEFECT_COLUMNS = "kind y_nm x_nm burgers_y_nm burgers_x_nm in_boundary".split()


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
    cores, burgers = locate_dislocations(filled)
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
        Sites and the lattice around each, as in `moirelib.crystal.LocalLattices`, in nm.
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


def _coordination(mesh) -> np.ndarray:
    """Number of neighbours in the triangulation; 0 on its rim, which neither bays of the edge nor holes belong to."""
    count = np.bincount(mesh.edges.ravel(), minlength=mesh.n)
    return np.where(rim_particles(mesh, 0.95), 0, count)


def _disclinations(mesh, coordination, cores, interstitials) -> np.ndarray:
    """Particles with five or seven neighbours that no partner of the other kind is near, away from the rim."""
    charge = np.where(coordination > 0, 6 - coordination, 0)
    plus = np.repeat(np.arange(mesh.n), np.maximum(charge, 0))
    minus = np.repeat(np.arange(mesh.n), np.maximum(-charge, 0))
    alone = np.concatenate(unpaired(mesh.points[plus], mesh.points[minus], 2.3 * mesh.spacing))
    alone = np.concatenate([plus, minus])[alone.astype(bool)]
    rim = mesh.points[rim_particles(mesh, 0.95)]
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
