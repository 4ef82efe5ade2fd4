"""Grain and twin boundaries of a layer: straight segments, what they part, which are coherent twins (chapter 9)."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.spatial import cKDTree

from ..crystal.lattice import commensurate_angles, fold_hexagonal
from ..crystal.matching import match
from ..crystal.mesh import Mesh, nearest_vector
from ..crystal.neighbours import connected_groups, to_complex, to_points
from .lattices import LatticeFit, LayerFrame, edges_between, fit_members, meeting_pairs

BOUNDARY_COLUMNS = (
    "kind y0_nm x0_nm y1_nm x1_nm misorientation_deg inclination_deg sigma misorientation_std_deg inclination_std_deg "
    "sigma_deviation_deg asymmetry_deg mirror_mismatch_nm dislocations dislocation_spacing_nm frank_spacing_nm "
    "grain0 grain1"
).split()

# Lengths in spacings. By hand where no reason is given, on boundaries of known angle and sigma.
BESIDE = 1.5  # a defect nearer to the bonds between two grains belongs to their boundary
GAP = 2.2  # between bonds of one boundary; also how far particles beside a boundary are used to place it
SHORTEST = 4.0  # a shorter boundary has no direction
STRAIGHT_WITHIN, STRAIGHT_SHARE = 1.1, 0.9  # that this share of a straight segment's bonds stay within
MOST_DIVISIONS = 3  # of a bent boundary, each into two
MIDDLE_PART = 0.35  # of a segment's length to both sides of its middle, where it may be divided
FEWEST_LINE_BONDS = 4  # of a segment
LINE_WIDTH = 0.25  # over which one grain gives way to the other
LINE_PRIOR = 1e-3  # of the fit's two parameters, inverse variance over two: separated grains fix the line no better
LATTICE_REACH = 10.0  # beside a boundary, in which a bent grain has a lattice of its own there
LATTICE_OVERHANG = 3.0  # beyond the ends of a boundary, the same
FEWEST_BESIDE = 40  # particles of such a lattice
LARGEST_PART = 0.8  # of a grain; a larger part beside the boundary is the grain
SIGNIFICANT = 3.0  # standard deviations of a turn, and of an inclination
MIRROR_SLACK, MIRROR_LINES = 0.35, 71  # that the mirror line may lie beside the fitted boundary; tried every 0.01
LARGEST_SIGMA = 50  # reciprocal densities of coincident sites that are looked up
CORE_REACH = 1.6  # from a boundary, within which its dislocations lie
CORE_SIZE = 1.5  # farthest that the five- and the seven-fold particle of one dislocation are apart


def in_boundary(where: np.ndarray, mesh: Mesh, grain: np.ndarray) -> np.ndarray:
    """Which places (k, 2), in nm, have bonds between two grains within a spacing and a half; bool, shape (k,)."""
    i, j = edges_between(grain, *mesh.edges.T)
    if len(i) == 0 or len(where) == 0:
        return np.zeros(len(where), bool)
    middle = (mesh.points[i] + mesh.points[j]) / 2
    return cKDTree(middle).query(where)[0] < BESIDE * mesh.spacing


def find_boundaries(layer: LayerFrame, filled: Mesh, coordination: np.ndarray) -> pd.DataFrame:
    """Boundaries as in `boundary_table`, with the mesh of filled vacancies and neighbours in it (0 at the rim)."""
    mesh, grain = layer.mesh, layer.grain
    i, j = edges_between(grain, *mesh.edges.T)
    rows = []
    for one, other in meeting_pairs(grain, i, j)[0]:
        between = (np.minimum(grain[i], grain[j]) == one) & (np.maximum(grain[i], grain[j]) == other)
        middle = (mesh.z[i[between]] + mesh.z[j[between]]) / 2
        p, q = cKDTree(to_points(middle)).query_pairs(GAP * mesh.spacing, output_type="ndarray").T
        piece = connected_groups(len(middle), p, q)
        for k in range(piece.max() + 1):
            for line in _split_where_bent(middle[piece == k], mesh, grain == one, grain == other):
                rows += _describe_segment(line, layer, (one, other), filled, coordination)
    return pd.DataFrame(rows, columns=BOUNDARY_COLUMNS)


@dataclass(frozen=True)
class _Segment:
    """A straight piece of boundary; complex numbers are x + iy in nm."""

    middle: complex
    direction: complex  # of magnitude 1
    length: float  # nm
    inclination_std: float  # degrees

    def seen(self, z: np.ndarray):
        """Points as distance along the segment from its middle and across it, to its +90° side."""
        local = (z - self.middle) / self.direction
        return local.real, local.imag


def _split_where_bent(middle, mesh, one, other, divisions: int = MOST_DIVISIONS):
    """Straight segments of a piece of boundary: divided where it bends."""
    if len(middle) < FEWEST_LINE_BONDS:
        return
    segment = _fit_line(middle, mesh, one, other)
    if segment.length < SHORTEST * mesh.spacing:
        return
    along, across = segment.seen(middle)
    bent = np.quantile(np.abs(across), STRAIGHT_SHARE) > STRAIGHT_WITHIN * mesh.spacing
    if bent and divisions > 0 and segment.length > 2 * SHORTEST * mesh.spacing:
        inner = np.abs(along) < MIDDLE_PART * segment.length
        at = along[inner][np.abs(across[inner]).argmax()] if inner.any() else 0.0
        for half in (middle[along <= at], middle[along > at]):
            yield from _split_where_bent(half, mesh, one, other, divisions - 1)
        return
    yield segment


def _fit_line(middle, mesh, one, other):
    """The line that best parts the particles of two grains (logistic regression with a fixed width)."""
    center = middle.mean()
    axes = np.linalg.eigh(np.cov(np.stack([middle.real, middle.imag])))[1]
    start = np.arctan2(axes[1, 1], axes[0, 1])
    near = cKDTree(to_points(middle)).query(mesh.points)[0] < GAP * mesh.spacing
    z = np.concatenate([mesh.z[near & one], mesh.z[near & other]]) - center
    side = np.concatenate([-np.ones(np.sum(near & one)), np.ones(np.sum(near & other))])
    width, reach = LINE_WIDTH * mesh.spacing, max(np.ptp(np.real(middle * np.exp(-1j * start))) / 2, mesh.spacing)
    if np.mean(side * np.imag(z * np.exp(-1j * start))) < 0:
        start += np.pi  # the second grain lies to the +90° side

    def loss(x):
        depth = np.imag(z * np.exp(-1j * (start + x[0] * width / reach))) / width - x[1]
        return np.logaddexp(0, -side * depth).sum() + LINE_PRIOR * x @ x

    best = minimize(loss, np.zeros(2), method="BFGS")
    angle, shift = start + best.x[0] * width / reach, best.x[1] * width
    std = np.degrees(np.sqrt(best.hess_inv[0, 0]) * width / reach)
    line = np.exp(1j * angle)
    along = np.real((middle - center) / line)
    middle = center + line * (1j * shift + (along.min() + along.max()) / 2)
    return _Segment(middle, line, float(np.ptp(along)), float(std))


def _describe_segment(segment, layer, pair, filled, coordination) -> list[dict]:
    """A row of the table; none where a grain is too small for a lattice."""
    tolerance, spacing = layer.tolerance, layer.mesh.spacing
    one, other = (_fit_lattice_beside(segment, layer, k) for k in pair)
    if one is None or other is None:
        return []
    turn = fold_hexagonal(other.angle - one.angle)
    # The nearest Σ, weighed by √Σ as in Brandon's criterion
    known = commensurate_angles(LARGEST_SIGMA)
    sigmas, deviations = np.append(1, known["sigma"]), turn - np.append(0.0, known["twist_deg"])
    best = np.argmin(np.abs(deviations) * np.sqrt(sigmas))
    sigma, deviation = int(sigmas[best]), float(deviations[best])
    inclination = np.degrees(np.angle(segment.direction)) % 180
    asymmetry = (inclination - (one.angle + other.angle) / 2 + 15) % 30 - 15
    mismatch = _measure_mirror_mismatch(segment.middle, one, other, inclination - asymmetry, spacing)
    twin = (
        1 < sigma <= tolerance.max_sigma
        and abs(deviation) <= tolerance.misorientation / np.sqrt(sigma)
        and abs(asymmetry) <= max(tolerance.asymmetry, SIGNIFICANT * segment.inclination_std)
        and mismatch <= tolerance.mismatch * spacing
    )
    # Dislocations are pairs of a five- and a seven-fold particle along the boundary
    along, across = segment.seen(filled.z)
    close = (np.abs(across) < CORE_REACH * spacing) & (np.abs(along) < segment.length / 2)
    five, seven = (np.flatnonzero(close & (coordination == k)) for k in (5, 7))
    paired = five[match(filled.points[five], filled.points[seven], CORE_SIZE * spacing)[0]]
    half, frank = segment.direction * segment.length / 2, 2 * np.sin(np.radians(turn) / 2)
    ends = to_points(np.array([segment.middle - half, segment.middle + half])).ravel().tolist()
    row = dict(zip(BOUNDARY_COLUMNS[1:5], ends, strict=True)) | {
        "kind": "twin" if twin else "grain",
        "misorientation_deg": turn,
        "inclination_deg": float(inclination),
        "sigma": sigma,
        "misorientation_std_deg": float(np.hypot(one.angle_std, other.angle_std)),
        "inclination_std_deg": segment.inclination_std,
        "sigma_deviation_deg": deviation,
        "asymmetry_deg": float(asymmetry),
        "mirror_mismatch_nm": mismatch,
        "dislocations": len(paired),
        "dislocation_spacing_nm": float(np.ptp(along[paired]) / (len(paired) - 1)) if len(paired) > 1 else np.nan,
        "frank_spacing_nm": spacing / frank if frank > 0 else np.inf,
        "grain0": int(pair[0]),
        "grain1": int(pair[1]),
    }
    return [row]


def _fit_lattice_beside(segment, layer, grain) -> LatticeFit | None:
    """Lattice of a grain: of all of it, or of its part beside the boundary where that is turned against the rest."""
    whole, mesh, members = layer.lattices[grain], layer.mesh, layer.grain == grain
    along, across = segment.seen(mesh.z)
    beside = members & (np.abs(across) < LATTICE_REACH * mesh.spacing)
    beside &= np.abs(along) < segment.length / 2 + LATTICE_OVERHANG * mesh.spacing
    part = fit_members(mesh, beside) if FEWEST_BESIDE <= beside.sum() < LARGEST_PART * members.sum() else None
    if whole is None or part is None:
        return whole
    bend = (part.angle - whole.angle + 30) % 60 - 30
    return part if abs(bend) > SIGNIFICANT * np.hypot(part.angle_std, whole.angle_std) else whole


def _measure_mirror_mismatch(middle, one, other, mirror, spacing) -> float:
    """Distance of the second lattice from the mirror image of the first, in nm; best line within `MIRROR_SLACK`."""
    axis = np.exp(1j * np.radians(mirror))
    place, sites = to_points(middle), []
    for lattice in (one, other):  # those closest to the middle
        steps = np.linalg.solve(lattice.vectors.T, place - lattice.origin)
        sites.append(to_complex((lattice.origin + np.rint(steps) @ lattice.vectors)[None])[0])
    site, other_site = sites
    image = middle + axis**2 * np.conj(site - middle)
    images = image + 2j * axis * np.linspace(-MIRROR_SLACK, MIRROR_SLACK, MIRROR_LINES) * spacing
    u = (images - other_site) / (other.spacing * np.exp(1j * np.radians(other.angle)))  # in the cell of the second
    return float(np.min(np.abs(u - nearest_vector(u))) * other.spacing)
