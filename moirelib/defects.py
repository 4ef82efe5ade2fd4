"""Defects of a layer: vacancies, interstitials, dislocations, disclinations, grain and twin boundaries.

All from the positions of one layer in one frame; defects are then followed through the frames.

Explained in chapter 9, "Order and defects".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import trackpy
from scipy.optimize import linear_sum_assignment, minimize
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from .lattice import commensurate_angles, fold_hexagonal
from .order import (
    _SIXTH,
    LatticeFit,
    _complex,
    _components,
    _enough,
    _fit_mesh,
    _grains_of,
    _layers_of,
    _local_fit,
    _Mesh,
    _pairs,
    _round,
    _turns,
    registry,
)

__all__ = [
    "Analysis",
    "Tolerance",
    "boundary_table",
    "burgers_circuit",
    "defect_table",
    "defect_tables",
    "find_defects",
    "follow_boundaries",
    "follow_defects",
    "orientational_twins",
]

DEFECT_COLUMNS = "kind y_nm x_nm burgers_y_nm burgers_x_nm in_boundary".split()
BOUNDARY_COLUMNS = (
    "kind y0_nm x0_nm y1_nm x1_nm misorientation_deg inclination_deg sigma misorientation_std_deg inclination_std_deg "
    "sigma_deviation_deg asymmetry_deg mirror_mismatch_nm dislocations dislocation_spacing_nm frank_spacing_nm "
    "grain0 grain1"
).split()


@dataclass(frozen=True)
class Tolerance:
    """How much a boundary may deviate from a coherent twin and still be called one; and what makes a grain."""

    max_sigma: int = 19  # coincident sites sparser than one in so many make no twin
    misorientation: float = 2.2  # degrees / √Σ, from that of the nearest Σ
    asymmetry: float = 2.0  # degrees, or three standard deviations, of the boundary from the lattices' mirror line
    mismatch: float = 0.15  # spacings, of one lattice from the mirror image of the other
    grain_misorientation: float = 3.5  # degrees; rows that turn by more across a line are two grains
    smallest_grain: int = 12  # particles


@dataclass(frozen=True)
class Analysis:
    """What was found in one layer of one frame."""

    defects: pd.DataFrame  # kind, y_nm, x_nm, burgers_y_nm, burgers_x_nm, in_boundary
    boundaries: pd.DataFrame  # kind, ends, misorientation, inclination, sigma, errors and deviations
    grain: np.ndarray  # (n,) of each particle, -1 where none
    spacing: float  # nm
    coordination: np.ndarray  # (n,) neighbours in the triangulation with vacancies filled; 0 at the rim


def find_defects(points, spacing: float | None = None, tolerance: Tolerance | None = None) -> Analysis:
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
    Analysis
        ``defects``: ``kind`` vacancy, interstitial, dislocation or disclination; a disclination is listed if it belongs
        to no dislocation. Burgers vectors (y, x) in nm, NaN for kinds without; the displacement grows by the Burgers
        vector once around the core from x towards y. ``in_boundary`` says that a boundary passes within a spacing and
        a half. ``boundaries``: see `boundary_table`.

    Raises
    ------
    ValueError
        If there are fewer than four particles or their positions are not finite.

    Notes
    -----
    Vacancies are sites that the lattices around predict and that are empty. They are filled; in the triangulation of
    particles and filled sites every edge is named by the lattice vector it stands for, and where the three of a
    triangle do not add up to zero a dislocation is near (Stukowski & Albe, Modelling Simul. Mater. Sci. Eng. 18, 085001
    (2010), in two dimensions). The sum over such triangles that touch is the Burgers vector. Explained in chapter 9,
    "Order and defects".
    """
    tolerance = Tolerance() if tolerance is None else tolerance
    mesh = _Mesh(points, spacing)
    grain = _grains_of(mesh, tolerance.grain_misorientation, tolerance.smallest_grain)
    vacancies = _vacancies(mesh, grain)
    interstitials = _interstitials(mesh, grain)
    filled = _Mesh(np.concatenate([mesh.points, vacancies]), mesh.spacing) if len(vacancies) else mesh
    cores, burgers = _dislocations(filled)
    coordination = _coordination(filled)
    boundaries = _boundaries(mesh, grain, filled, coordination, tolerance)
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
    defects["in_boundary"] = _in_boundary(defects[["y_nm", "x_nm"]].to_numpy(float), mesh, grain)
    return Analysis(defects[DEFECT_COLUMNS], boundaries, grain, mesh.spacing, coordination[: mesh.n])


# --- Vacancies and interstitials ---


def _vacancies(mesh, grain) -> np.ndarray:
    """Empty sites (k, 2) that have at least five of their six neighbours: particles, or empty sites like themselves."""
    local = _local_fit(mesh.points, mesh.spacing, mesh.angle, 2.15, grain)
    use = local.good & (local.neighbours >= 4) & (np.nan_to_num(local.residual, nan=np.inf) < 0.13 * mesh.spacing)
    if not use.any():
        return np.empty((0, 2))
    tree = cKDTree(mesh.points)
    site, q, p = local.site[use], local.q[use], local.p[use]
    found = (np.empty(0, complex),) * 3
    for _ in range(3):  # from ring to ring, into holes of several sites
        site, q, p = _empty_sites(site, q, p, tree, found[0], mesh.spacing)
        if len(site) == 0:
            break
        found = tuple(np.concatenate([a, b]) for a, b in zip(found, (site, q, p), strict=True))
    return _pairs(_enclosed(*found, tree, mesh.spacing))


_HEXAGON = np.exp(1j * _SIXTH * np.arange(6))


def _six(site, q, p) -> np.ndarray:
    """Neighbouring sites (n, 6) of each."""
    return site[:, None] + q[:, None] * _HEXAGON + p[:, None] * np.conj(_HEXAGON)


def _empty_sites(site, q, p, tree, known, spacing):
    """Neighbouring sites without a particle, each once: the mean of what its neighbours predict."""
    predicted = _six(site, q, p)
    own = np.broadcast_to(np.arange(len(site))[:, None], predicted.shape)
    free = tree.query(_pairs(predicted))[0] > 0.55 * spacing
    predicted, own = predicted[free], own[free]
    if len(known) and len(predicted):
        new = cKDTree(_pairs(known)).query(_pairs(predicted))[0] > 0.5 * spacing
        predicted, own = predicted[new], own[new]
    if len(predicted) == 0:
        return (np.empty(0, complex),) * 3
    i, j = cKDTree(_pairs(predicted)).query_pairs(0.4 * spacing, output_type="ndarray").T
    name = _components(len(predicted), i, j)
    # Neighbours know their rows up to 60°; one frame for each site's mean.
    first = q[own][np.unique(name, return_index=True)[1]][name]
    turn = _turns(-np.angle(q[own]), -np.angle(first))
    values = predicted, q[own] * turn, p[own] * np.conj(turn)
    count = np.bincount(name)
    return tuple((np.bincount(name, v.real) + 1j * np.bincount(name, v.imag)) / count for v in values)


def _enclosed(site, q, p, tree, spacing, least: int = 5) -> np.ndarray:
    """What remains of empty sites when those with too few neighbours are struck out, again and again.

    The outside of the crystal is eaten away from its own edge; holes inside stay.
    """
    if len(site) == 0:
        return site
    around = _pairs(_six(site, q, p))
    particles = np.sum(tree.query(around)[0] < 0.5 * spacing, axis=1)
    own = cKDTree(_pairs(site))
    distance, index = own.query(around)
    also = (distance < 0.5 * spacing) & (tree.query(around)[0] >= 0.5 * spacing)
    alive = tree.query(_pairs(site))[0] > 0.69 * spacing
    while True:
        count = particles + np.sum(also & alive[np.minimum(index, len(site) - 1)], axis=1)
        keep = alive & (count >= least)
        if (keep == alive).all():
            return site[keep]
        alive = keep


def _interstitials(mesh, grain) -> np.ndarray:
    """Particles (k, 2) that lie between the sites of the lattice around, all of which are taken."""
    local = _local_fit(mesh.points, mesh.spacing, mesh.angle, 2.15, grain)
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
    w = _round(u)
    site = _pairs(local.site[i] + q * w + p * np.conj(w))
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
    name = _components(m + n, i, m + triangles.ravel())[:m]
    return np.unique(name, return_inverse=True)[1]


def _sum(closure, frame, mesh, corners):
    """Burgers vector of some triangles in lattice vectors, and the lattice's q around them in nm.

    A circuit in the sense of the triangles is short of its start by minus the sum of the ideal steps.
    """
    row = np.angle(mesh.smooth[corners].sum()) / 6
    return -np.sum(closure * _turns(frame, row)), row


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
        yield _pairs(center), _pairs(vector * mesh.spacing * np.exp(1j * _row_around(mesh, center, angle)))


def _by_edges(mesh, triangles) -> np.ndarray:
    """Number of the group, joined by common edges, of each triangle."""
    edges = mesh.of_triangle[0][triangles]
    used = np.unique(edges, return_inverse=True)[1].reshape(edges.shape)
    m = len(triangles)
    name = _components(m + used.max() + 1, np.repeat(np.arange(m), 3), m + used.ravel())[:m]
    return np.unique(name, return_inverse=True)[1]


def _row_around(mesh, center, near) -> float:
    """Row direction in a ring around a core, where the rotation that it causes averages out; next to a given one."""
    distance = np.abs(mesh.z - center)
    ring = (distance > 1.2 * mesh.spacing) & (distance < 3.2 * mesh.spacing) & np.isfinite(mesh.psi6)
    if not ring.any():
        return near
    row = np.angle(mesh.psi6[ring].sum()) / 6
    return row + _SIXTH * np.rint((near - row) / _SIXTH)


def burgers_circuit(points, center, radius: float, spacing: float | None = None) -> np.ndarray:
    """Sum of all Burgers vectors within a circle, from a circuit around it.

    Parameters
    ----------
    points : array_like, shape (n, 2)
        (y, x) in nm, of one layer in one frame.
    center : array_like, shape (2,)
        (y, x) in nm.
    radius : float
        In nm. The circuit follows the edge of the triangles whose centres lie inside.
    spacing : float, optional
        Nearest-neighbour distance, in nm; measured by default.

    Returns
    -------
    ndarray, shape (2,)
        Burgers vector (y, x) in nm, along the rows at the circuit's start.

    Raises
    ------
    ValueError
        If fewer than one triangle lies inside.

    Notes
    -----
    The frame of the lattice vectors is carried along the circuit from step to step, so it may turn by more than 30° on
    the way. With a net disclination inside it does not come back to itself, and there is no Burgers vector. Explained
    in chapter 9, "Order and defects".
    """
    mesh = _Mesh(points, spacing)
    middle = mesh.z[mesh.triangles].mean(axis=1) if len(mesh.triangles) else np.empty(0, complex)
    inside = np.flatnonzero(np.abs(middle - _complex(np.reshape(center, (1, 2)).astype(float))[0]) < radius)
    if len(inside) == 0:
        raise ValueError(f"no triangle of neighbours lies within {radius:g} nm of {tuple(np.round(center, 1))}")
    run = mesh.triangles[inside][:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
    back = {(b, a) for a, b in run.tolist()}
    following = {a: b for a, b in run.tolist() if (a, b) not in back}
    name = {tuple(edge): k for k, edge in enumerate(mesh.edges.tolist())}
    start = here = next(iter(following))
    total, row = 0j, mesh.angle[start]
    first = row
    for _ in range(len(following)):
        there = following[here]
        k = name[min(here, there), max(here, there)]
        sign = 1 if here < there else -1
        total += sign * mesh.vector[k] * _turns(mesh.frame[k], row)
        row = mesh.angle[there] + _SIXTH * np.rint((row - mesh.angle[there]) / _SIXTH)
        here = there
        if here == start:
            break
    return _pairs(-total * mesh.spacing * np.exp(1j * first))


def _disclinations(mesh, coordination, cores, interstitials) -> np.ndarray:
    """Particles with five or seven neighbours that no partner of the other kind is near, away from the rim."""
    charge = np.where(coordination > 0, 6 - coordination, 0)
    plus = np.repeat(np.arange(mesh.n), np.maximum(charge, 0))
    minus = np.repeat(np.arange(mesh.n), np.maximum(-charge, 0))
    alone = np.concatenate(_unpaired(mesh.points[plus], mesh.points[minus], 2.3 * mesh.spacing))
    alone = np.concatenate([plus, minus])[alone.astype(bool)]
    rim = mesh.points[_rim(mesh, 0.95)]
    far = cKDTree(rim).query(mesh.points[alone])[0] > 2.3 * mesh.spacing if len(rim) else np.ones(len(alone), bool)
    return mesh.points[alone[far]].reshape(-1, 2)


def _unpaired(plus, minus, reach):
    """Which of two sets have no partner of the other within reach, in the pairing of least total distance."""
    alone = np.ones(len(plus), bool), np.ones(len(minus), bool)
    if len(plus) and len(minus):
        distance = cdist(plus, minus)
        i, j = linear_sum_assignment(np.where(distance < reach, distance, 1e3 * reach))
        near = distance[i, j] < reach
        alone[0][i[near]], alone[1][j[near]] = False, False
    return alone


# --- Boundaries ---


def _in_boundary(where, mesh, grain) -> np.ndarray:
    """Which places have bonds between two grains within a spacing and a half."""
    i, j = _across(mesh, grain)
    if len(i) == 0 or len(where) == 0:
        return np.zeros(len(where), bool)
    middle = (mesh.points[i] + mesh.points[j]) / 2
    return cKDTree(middle).query(where)[0] < 1.5 * mesh.spacing


def _across(mesh, grain):
    """Edges of the triangulation between two grains."""
    i, j = mesh.edges.T if len(mesh.edges) else np.empty((2, 0), int)
    met = (grain[i] >= 0) & (grain[j] >= 0) & (grain[i] != grain[j])
    return i[met], j[met]


def _boundaries(mesh, grain, filled, coordination, tolerance) -> pd.DataFrame:
    i, j = _across(mesh, grain)
    pairs = np.unique(np.sort(np.stack([grain[i], grain[j]], axis=1), axis=1), axis=0) if len(i) else []
    rows = []
    for one, other in pairs:
        between = (np.minimum(grain[i], grain[j]) == one) & (np.maximum(grain[i], grain[j]) == other)
        middle = (mesh.z[i[between]] + mesh.z[j[between]]) / 2
        for piece in _pieces(middle, mesh.spacing):
            for line in _straight(piece, mesh, grain == one, grain == other):
                row = _described(line, mesh, grain, (one, other), tolerance)
                if row is not None:
                    rows.append(row | _spacing_of_dislocations(line, filled, coordination, row["misorientation_deg"]))
    return pd.DataFrame(rows, columns=BOUNDARY_COLUMNS)


def _pieces(middle, spacing):
    """Groups of a boundary's points that hang together."""
    i, j = cKDTree(_pairs(middle)).query_pairs(2.2 * spacing, output_type="ndarray").T
    name = _components(len(middle), i, j)
    return [middle[name == k] for k in range(name.max() + 1)]


@dataclass(frozen=True)
class _Segment:
    """A straight piece of boundary; complex numbers are x + iy in nm."""

    start: complex
    end: complex
    inclination_std: float  # degrees

    @property
    def length(self) -> float:
        return abs(self.end - self.start)

    @property
    def direction(self) -> complex:
        return (self.end - self.start) / self.length

    def seen(self, z):
        """Points as distance along the segment from its middle and across it, to its +90° side."""
        local = (z - (self.start + self.end) / 2) / self.direction
        return local.real, local.imag


def _straight(middle, mesh, one, other, depth: int = 3):
    """Straight segments of a piece of boundary: divided where it bends."""
    if len(middle) < 4:
        return
    segment = _fitted_line(middle, mesh, one, other)
    if segment is None or segment.length < 4 * mesh.spacing:
        return
    along, across = segment.seen(middle)
    bent = np.quantile(np.abs(across), 0.9) > 1.1 * mesh.spacing
    if bent and depth > 0 and segment.length > 8 * mesh.spacing:
        inner = np.abs(along) < 0.35 * segment.length
        at = along[inner][np.abs(across[inner]).argmax()] if inner.any() else 0.0
        for half in (middle[along <= at], middle[along > at]):
            yield from _straight(half, mesh, one, other, depth - 1)
        return
    yield segment


def _fitted_line(middle, mesh, one, other):
    """The line that best parts the particles of two grains (logistic regression with a fixed width)."""
    center = middle.mean()
    axes = np.linalg.eigh(np.cov(np.stack([middle.real, middle.imag])))[1]
    start = np.arctan2(axes[1, 1], axes[0, 1])
    near = cKDTree(_pairs(middle)).query(mesh.points)[0] < 2.2 * mesh.spacing
    z = np.concatenate([mesh.z[near & one], mesh.z[near & other]]) - center
    side = np.concatenate([-np.ones(np.sum(near & one)), np.ones(np.sum(near & other))])
    if len(np.unique(side)) < 2:
        return None
    width, reach = 0.25 * mesh.spacing, max(np.ptp(np.real(middle * np.exp(-1j * start))) / 2, mesh.spacing)
    if np.mean(side * np.imag(z * np.exp(-1j * start))) < 0:
        start += np.pi  # the second grain lies to the +90° side

    def loss(x):
        depth = np.imag(z * np.exp(-1j * (start + x[0] * width / reach))) / width - x[1]
        return np.logaddexp(0, -side * depth).sum() + 1e-3 * x @ x

    best = minimize(loss, np.zeros(2), method="BFGS")
    angle, shift = start + best.x[0] * width / reach, best.x[1] * width
    std = np.degrees(np.sqrt(best.hess_inv[0, 0]) * width / reach)
    line = np.exp(1j * angle)
    along = np.real((middle - center) / line)
    origin = center + 1j * line * shift
    return _Segment(origin + along.min() * line, origin + along.max() * line, float(std))


def _described(segment, mesh, grain, pair, tolerance) -> dict | None:
    """A row of the table; None where a grain is too small for a lattice."""
    one, other = (_lattice_beside(segment, mesh, grain == k) for k in pair)
    if one is None or other is None:
        return None
    turn = fold_hexagonal(other.angle - one.angle)
    sigma, deviation = _nearest_sigma(turn)
    inclination = np.degrees(np.angle(segment.direction)) % 180
    mirror = (one.angle + other.angle) / 2
    asymmetry = (inclination - mirror + 15) % 30 - 15
    mismatch = _mirror_mismatch(segment, one, other, inclination - asymmetry, mesh.spacing)
    twin = (
        1 < sigma <= tolerance.max_sigma
        and abs(deviation) <= tolerance.misorientation / np.sqrt(sigma)
        and abs(asymmetry) <= max(tolerance.asymmetry, 3 * segment.inclination_std)
        and mismatch <= tolerance.mismatch * mesh.spacing
    )
    (y0, x0), (y1, x1) = _pairs(np.array([segment.start, segment.end])).tolist()
    return {
        "kind": "twin" if twin else "grain",
        "y0_nm": y0,
        "x0_nm": x0,
        "y1_nm": y1,
        "x1_nm": x1,
        "misorientation_deg": turn,
        "inclination_deg": float(inclination),
        "sigma": sigma,
        "misorientation_std_deg": float(np.hypot(one.angle_std, other.angle_std)),
        "inclination_std_deg": segment.inclination_std,
        "sigma_deviation_deg": deviation,
        "asymmetry_deg": float(asymmetry),
        "mirror_mismatch_nm": mismatch,
        "grain0": int(pair[0]),
        "grain1": int(pair[1]),
    }


def _lattice_beside(segment, mesh, members, reach: float = 10.0) -> LatticeFit | None:
    """Lattice of a grain: of all of it, or of its part beside the boundary where that is turned against the rest."""
    whole = _fit_mesh(mesh, members)
    along, across = segment.seen(mesh.z)
    beside = members & (np.abs(across) < reach * mesh.spacing)
    beside &= np.abs(along) < segment.length / 2 + 3 * mesh.spacing
    part = _fit_mesh(mesh, beside) if 40 <= beside.sum() < 0.8 * members.sum() else None
    if whole is None or part is None:
        return whole
    bend = (part.angle - whole.angle + 30) % 60 - 30
    return part if abs(bend) > 3 * np.hypot(part.angle_std, whole.angle_std) else whole


def _nearest_sigma(misorientation, max_sigma: int = 50) -> tuple[int, float]:
    """Σ whose misorientation is nearest, weighed by √Σ as in Brandon's criterion, and the deviation in degrees."""
    known = commensurate_angles(max_sigma)
    sigma = np.append(1, known["sigma"].to_numpy())
    deviation = misorientation - np.append(0.0, known["twist_deg"].to_numpy())
    best = np.argmin(np.abs(deviation) * np.sqrt(sigma))
    return int(sigma[best]), float(deviation[best])


def _mirror_mismatch(segment, one, other, mirror, spacing, slack: float = 0.35) -> float:
    """Distance of the second lattice from the mirror image of the first, at the middle of the boundary, in nm.

    The mirror line may lie up to `slack` spacings from the fitted boundary; the best place counts.
    """
    axis = np.exp(1j * np.radians(mirror))
    middle = (segment.start + segment.end) / 2
    q = other.spacing * np.exp(1j * np.radians(other.angle))
    # The site of the first lattice next to the middle, and where its images lie in the cell of the second
    vectors, origin = one.vectors[:, 1] + 1j * one.vectors[:, 0], one.origin[1] + 1j * one.origin[0]
    site = _site_near(middle, origin, vectors)
    image = middle + axis**2 * np.conj(site - middle)
    shift = np.linspace(-slack, slack, 71) * spacing
    image = image + 2j * axis * shift
    vectors, origin = other.vectors[:, 1] + 1j * other.vectors[:, 0], other.origin[1] + 1j * other.origin[0]
    start = _site_near(middle, origin, vectors)
    u = (image - start) / q
    return float(np.min(np.abs(u - _round(u))) * other.spacing)


def _site_near(z, origin, vectors) -> complex:
    """Lattice site close to a point, in the x + iy plane."""
    matrix = np.stack([vectors.real, vectors.imag])
    step = z - origin
    m, n = np.rint(np.linalg.solve(matrix, [step.real, step.imag]))
    return origin + m * vectors[0] + n * vectors[1]


def _spacing_of_dislocations(segment, mesh, coordination, misorientation) -> dict:
    """Pairs of a five- and a seven-fold particle along a boundary, their spacing, and that of Frank's formula in nm."""
    along, across = segment.seen(mesh.z)
    close = (np.abs(across) < 1.6 * mesh.spacing) & (np.abs(along) < segment.length / 2)
    five, seven = (np.flatnonzero(close & (coordination == k)) for k in (5, 7))
    paired = five[~_unpaired(mesh.points[five], mesh.points[seven], 1.5 * mesh.spacing)[0]]
    half = np.sin(np.radians(misorientation) / 2)
    return {
        "dislocations": len(paired),
        "dislocation_spacing_nm": float(np.ptp(along[paired]) / (len(paired) - 1)) if len(paired) > 1 else np.nan,
        "frank_spacing_nm": mesh.spacing / (2 * half) if half > 0 else np.inf,
    }


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
        If there is not one orientation for every point.

    Notes
    -----
    Explained in chapter 9, "Order and defects".
    """
    mesh, turn = _Mesh(points, spacing), np.asarray(orientation_deg, float)
    if turn.shape != (mesh.n,):
        raise ValueError(f"{turn.size} orientations for {mesh.n} positions")
    period = 360.0 / symmetry
    i, j = mesh.edges[np.abs(np.abs(mesh.vector) - 1) < 0.1].T
    alike = np.abs((turn[i] - turn[j] + period / 2) % period - period / 2) < angle
    name = _components(mesh.n, i[alike], j[alike])
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
        ``registry, coordinate`` as in `moirelib.order.registry` with two layers.

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

    Notes
    -----
    Explained in chapter 9, "Order and defects".
    """
    layers: dict = {}
    for frame, layer, rows in _layers_of(particles):
        layers.setdefault(frame, {})[layer] = rows[["y_nm", "x_nm"]].to_numpy(float)
    all_defects, all_boundaries = [], []
    for frame, both in layers.items():
        found = {}
        for layer, points in both.items():
            if _enough(points):
                found[layer] = find_defects(points, tolerance=tolerance)
        for layer, analysis in found.items():
            defects = analysis.defects
            if other_layer and 3 - layer in found:
                other = found[3 - layer]
                on = registry(defects[["y_nm", "x_nm"]], both[3 - layer], other.spacing, other.grain)
                defects = defects.assign(registry=on["registry"], coordinate=on["coordinate"])
            key = {"frame": frame, "layer": layer}
            all_defects.append(_keyed(defects, key))
            all_boundaries.append(_keyed(analysis.boundaries, key))
    extra = ["registry", "coordinate"] if other_layer else []
    defects = _joined(all_defects, ["frame", "layer", *DEFECT_COLUMNS, *extra])
    return defects, _joined(all_boundaries, ["frame", "layer", *BOUNDARY_COLUMNS])


def _keyed(table, key) -> pd.DataFrame:
    table = table.reset_index(drop=True)
    for position, (name, value) in enumerate(key.items()):
        table.insert(position, name, value)
    return table


def _joined(parts, columns) -> pd.DataFrame:
    parts = [part for part in parts if len(part)]
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
    return table.reindex(columns=columns)


def follow_defects(defects: pd.DataFrame, search_range_nm: float, memory: int = 1) -> pd.DataFrame:
    """Link defects of one kind from frame to frame: hops of vacancies, glide and climb of dislocations.

    Parameters
    ----------
    defects : pandas.DataFrame
        From `defect_table`.
    search_range_nm : float
        Farthest that a defect may move from frame to frame, in nm; 1.3 spacings for hops to the next site.
    memory : int
        Frames for which a defect may be missed.

    Returns
    -------
    pandas.DataFrame
        The table with ``defect``, one number per defect over all frames, layers and kinds; ``step_y_nm, step_x_nm``
        since the frame it was last seen in, ``glide_nm`` and ``climb_nm``, the step's parts along and across the
        Burgers vector (NaN for kinds without).

    Notes
    -----
    Dislocations are linked only if their Burgers vectors agree: it is a third and fourth coordinate, worth a search
    range for every spacing by which it differs. Linked by trackpy (Crocker & Grier, J. Colloid Interface Sci. 179, 298
    (1996)). Explained in chapter 9, "Order and defects".
    """
    trackpy.quiet()
    parts, number = [], 0
    for (_, kind), rows in defects.groupby(["layer", "kind"]):
        place = rows[["frame", "y_nm", "x_nm"]].copy()
        columns = ["y_nm", "x_nm"]
        if kind == "dislocation":
            b = rows[["burgers_y_nm", "burgers_x_nm"]]
            place[["by", "bx"]] = b * search_range_nm / np.hypot(*b.to_numpy(float).T).mean()
            columns += ["by", "bx"]
        linked = trackpy.link(place, search_range_nm, memory=memory, pos_columns=columns, adaptive_stop=0.1
                              * search_range_nm, adaptive_step=0.9)  # fmt: skip
        parts.append(rows.assign(defect=linked["particle"].reindex(rows.index) + number))
        number = parts[-1]["defect"].max() + 1
    if not parts:
        return defects.assign(defect=0, step_y_nm=np.nan, step_x_nm=np.nan, glide_nm=np.nan, climb_nm=np.nan)
    table = pd.concat(parts).sort_values(["defect", "frame"], ignore_index=True)
    step = table.groupby("defect")[["y_nm", "x_nm"]].diff()
    table["step_y_nm"], table["step_x_nm"] = step["y_nm"], step["x_nm"]
    b = table[["burgers_y_nm", "burgers_x_nm"]].to_numpy(float)
    b = b / np.hypot(*b.T)[:, None]
    table["glide_nm"] = step["y_nm"] * b[:, 0] + step["x_nm"] * b[:, 1]
    table["climb_nm"] = step["y_nm"] * b[:, 1] - step["x_nm"] * b[:, 0]
    return table


def follow_boundaries(boundaries: pd.DataFrame, search_range_nm: float, memory: int = 1) -> pd.DataFrame:
    """Link boundaries from frame to frame, and how far each migrates across itself.

    Parameters
    ----------
    boundaries : pandas.DataFrame
        From `boundary_table`.
    search_range_nm : float
        Farthest that the middle of a segment may move from frame to frame, in nm.
    memory : int
        Frames for which a boundary may be missed.

    Returns
    -------
    pandas.DataFrame
        The table with ``boundary``, one number per boundary, and ``migration_nm``: the step of its middle since the
        frame it was last seen in, to the +90° side of its direction.

    Notes
    -----
    Explained in chapter 9, "Order and defects".
    """
    trackpy.quiet()
    parts, number = [], 0
    for _, rows in boundaries.groupby("layer"):
        place = pd.DataFrame({"frame": rows["frame"]})
        place["y"], place["x"] = (rows[[f"{c}0_nm", f"{c}1_nm"]].mean(axis=1) for c in "yx")
        linked = trackpy.link(place, search_range_nm, memory=memory, pos_columns=["y", "x"])
        parts.append(rows.assign(boundary=linked["particle"].reindex(rows.index) + number))
        number = parts[-1]["boundary"].max() + 1
    if not parts:
        return boundaries.assign(boundary=0, migration_nm=np.nan)
    table = pd.concat(parts).sort_values(["boundary", "frame"], ignore_index=True)
    middle = pd.DataFrame({c: table[[f"{c}0_nm", f"{c}1_nm"]].mean(axis=1) for c in "yx"})
    step = middle.groupby(table["boundary"]).diff()
    t = np.radians(table["inclination_deg"])
    return table.assign(migration_nm=step["y"] * np.cos(t) - step["x"] * np.sin(t))
