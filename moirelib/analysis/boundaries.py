"""Grain and twin boundaries of a layer: straight segments, what they part, and whether they are coherent twins.

Explained in chapter 9, "Order and defects".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.spatial import cKDTree

from ..crystal.lattice import commensurate_angles, fold_hexagonal
from ..crystal.matching import unpaired
from ..crystal.mesh import Mesh, nearest_vector
from ..crystal.neighbours import connected_groups, to_complex, to_points
from .lattices import LatticeFit, fit_members

__all__ = ["BOUNDARY_COLUMNS", "Tolerance", "find_boundaries", "in_boundary"]


#: Columns of a table of boundaries.
BOUNDARY_COLUMNS = (
    "kind y0_nm x0_nm y1_nm x1_nm misorientation_deg inclination_deg sigma misorientation_std_deg inclination_std_deg "
    "sigma_deviation_deg asymmetry_deg mirror_mismatch_nm dislocations dislocation_spacing_nm frank_spacing_nm "
    "grain0 grain1"
).split()


@dataclass(frozen=True)
class Tolerance:
    """How much a boundary may deviate from a coherent twin and still be called one; and what makes a grain.

    Explained in chapter 9, "Order and defects".
    """

    max_sigma: int = 19  # coincident sites sparser than one in so many make no twin
    misorientation: float = 2.2  # degrees / √Σ, from that of the nearest Σ
    asymmetry: float = 2.0  # degrees, or three standard deviations, of the boundary from the lattices' mirror line
    mismatch: float = 0.15  # spacings, of one lattice from the mirror image of the other
    grain_misorientation: float = 3.5  # degrees; rows that turn by more across a line are two grains
    smallest_grain: int = 12  # particles


def in_boundary(where: np.ndarray, mesh: Mesh, grain: np.ndarray) -> np.ndarray:
    """Which places (k, 2), in nm, have bonds between two grains within a spacing and a half; bool, shape (k,)."""
    i, j = _across(mesh, grain)
    if len(i) == 0 or len(where) == 0:
        return np.zeros(len(where), bool)
    middle = (mesh.points[i] + mesh.points[j]) / 2
    return cKDTree(middle).query(where)[0] < 1.5 * mesh.spacing


def _across(mesh, grain):
    """Edges of the triangulation between two grains."""
    i, j = mesh.edges.T
    met = (grain[i] >= 0) & (grain[j] >= 0) & (grain[i] != grain[j])
    return i[met], j[met]


def find_boundaries(
    mesh: Mesh, grain: np.ndarray, filled: Mesh, coordination: np.ndarray, tolerance: Tolerance
) -> pd.DataFrame:
    """Straight segments of the boundaries between the grains of one layer in one frame.

    Parameters
    ----------
    mesh : Mesh
        The layer's particles.
    grain : ndarray of int, shape (n,)
        Grain of each, from `moirelib.analysis.grains_of`.
    filled : Mesh
        Particles and vacancies.
    coordination : ndarray of int, shape (n_filled,)
        Neighbours in the triangulation of ``filled``; 0 at its rim.
    tolerance : Tolerance
        What is a twin.

    Returns
    -------
    pandas.DataFrame
        `BOUNDARY_COLUMNS`, as `moirelib.analysis.boundary_table` describes them.

    Notes
    -----
    Explained in chapter 9, "Order and defects".
    """
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
    i, j = cKDTree(to_points(middle)).query_pairs(2.2 * spacing, output_type="ndarray").T
    name = connected_groups(len(middle), i, j)
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
    near = cKDTree(to_points(middle)).query(mesh.points)[0] < 2.2 * mesh.spacing
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
    (y0, x0), (y1, x1) = to_points(np.array([segment.start, segment.end])).tolist()
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
    whole = fit_members(mesh, members)
    along, across = segment.seen(mesh.z)
    beside = members & (np.abs(across) < reach * mesh.spacing)
    beside &= np.abs(along) < segment.length / 2 + 3 * mesh.spacing
    part = fit_members(mesh, beside) if 40 <= beside.sum() < 0.8 * members.sum() else None
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
    site = _site_near(middle, one)
    image = middle + axis**2 * np.conj(site - middle)
    shift = np.linspace(-slack, slack, 71) * spacing
    image = image + 2j * axis * shift
    u = (image - _site_near(middle, other)) / q
    return float(np.min(np.abs(u - nearest_vector(u))) * other.spacing)


def _site_near(z, lattice) -> complex:
    """Site of a lattice close to a point, in the x + iy plane, in nm."""
    origin, *vectors = to_complex(np.stack([lattice.origin, *lattice.vectors]))
    vectors = np.array(vectors)
    matrix = np.stack([vectors.real, vectors.imag])
    step = z - origin
    m, n = np.rint(np.linalg.solve(matrix, [step.real, step.imag]))
    return origin + m * vectors[0] + n * vectors[1]


def _spacing_of_dislocations(segment, mesh, coordination, misorientation) -> dict:
    """Pairs of a five- and a seven-fold particle along a boundary, their spacing, and that of Frank's formula in nm."""
    along, across = segment.seen(mesh.z)
    close = (np.abs(across) < 1.6 * mesh.spacing) & (np.abs(along) < segment.length / 2)
    five, seven = (np.flatnonzero(close & (coordination == k)) for k in (5, 7))
    paired = five[~unpaired(mesh.points[five], mesh.points[seven], 1.5 * mesh.spacing)[0]]
    half = np.sin(np.radians(misorientation) / 2)
    return {
        "dislocations": len(paired),
        "dislocation_spacing_nm": float(np.ptp(along[paired]) / (len(paired) - 1)) if len(paired) > 1 else np.nan,
        "frank_spacing_nm": mesh.spacing / (2 * half) if half > 0 else np.inf,
    }
