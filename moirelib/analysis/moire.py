"""How two layers lie on each other: registry of every particle, twist, Moiré period and offset (chapter 9)."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.ndimage import maximum_filter
from scipy.spatial import cKDTree

from ..crystal.lattice import moire_period
from ..crystal.mesh import SIXTH_TURN, Mesh, nearest_vector, sixth_turns
from ..crystal.neighbours import NEIGHBOUR_REACH, check_points, spans_plane, to_complex, to_points
from .lattices import LayerFrame, sum_by_blocks

#: Coordinate of the three kinds of places on a hexagonal lattice: the sum of the cosines of its three waves.
REGISTRY = {"top": 3.0, "bridge": -1.0, "hollow": -1.5}
ON_LAYER = 0.8  # spacings (by hand); a point lies on the other layer where a particle of it is this near,
COVERING = 3  # or where it has so many neighbours (by hand): on a vacancy
FEWEST_ON_LAYER = 6  # particles of a Moiré lattice, and of a layer that others lie on (by hand)
_PLACES = np.array(
    [0, *(0.5 * np.exp(1j * SIXTH_TURN * np.arange(6))), *(np.exp(1j * SIXTH_TURN * (np.arange(6) + 0.5)) / np.sqrt(3))]
)
_TURNS = np.exp(1j * SIXTH_TURN * np.arange(3))
_WAVES = 4 * np.pi / np.sqrt(3) * np.exp(1j * SIXTH_TURN * (np.arange(3) + 0.5))
LARGEST_WAVE = 4.0  # rad per spacing (geometry): steeper phases turn by more than 180° from particle to particle
WAVE_STEP = 1.2  # rad over the layer's size (by hand): a peak of the periodogram is some 2π wide
SECOND_PEAK = 0.75  # of the highest (by hand); lower peaks are no candidates
PHASE_BLOCK = 4.0  # spacings (by hand); phases farther apart count as independent
REFINEMENTS = 6  # linearised least-squares steps (by hand); later ones change nothing


def registry(
    points: ArrayLike, other: ArrayLike | LayerFrame, spacing: float | None = None, grain: ArrayLike | None = None
) -> pd.DataFrame:
    """Where on the other layer's lattice each point lies, of particles of one layer or defects (n, 2), in nm.

    ``spacing`` and ``grain`` are those of ``other`` (m, 2), which may also be a `LayerFrame` that has both. The table
    has ``y_nm, x_nm``; ``registry`` (top, bridge or hollow, the nearest; empty where the other layer is not there);
    ``coordinate``, the sum of the cosines of the other lattice's three waves, as in `REGISTRY`; ``offset_y_nm,
    offset_x_nm`` from its nearest site; ``other_grain``, that site's grain, -1 where there is none.
    """
    if isinstance(other, LayerFrame):
        layer: LayerFrame | None = other
    else:
        there = check_points(np.reshape(other, (-1, 2)))
        layer = LayerFrame(Mesh(there, spacing), known_grain=grain) if spans_plane(there) else None
    points = check_points(np.reshape(points, (-1, 2)))
    u, offset, grain = _place_in_cells(points, layer)
    place = np.abs(u[:, None] - _PLACES).argmin(axis=1)
    name = np.where(place == 0, "top", np.where(place < 7, "bridge", "hollow")).astype(object)
    name[~np.isfinite(u)] = ""
    coordinate = np.cos(np.real(np.conj(_WAVES) * u[:, None])).sum(axis=1)
    table = pd.DataFrame({"y_nm": points[:, 0], "x_nm": points[:, 1], "registry": name, "coordinate": coordinate})
    return table.assign(offset_y_nm=offset.imag, offset_x_nm=offset.real, other_grain=grain)


def find_facing_layer(layer: int, layers: Iterable[int]) -> int | None:
    """The layer that a layer lies on: the next one below, above for the lowest; None for a layer alone."""
    others = [k for k in layers if k != layer]
    return max((k for k in others if k < layer), default=min(others, default=None))


def _place_in_cells(points, other):
    """Place of points in the other layer's cell, in spacings along its rows, in nm, and its grain; NaN, -1 for none."""
    nowhere = np.full(len(points), complex(np.nan, np.nan))
    if other is None or other.mesh.n < FEWEST_ON_LAYER or len(points) == 0 or not other.surroundings.good.any():
        return nowhere, nowhere, np.full(len(points), -1)
    mesh, grain, local = other.mesh, other.grain, other.surroundings
    use = np.flatnonzero(local.good)
    tree = cKDTree(mesh.points[use])
    distance, nearest = tree.query(points)
    nearest = use[nearest]
    covered = distance < ON_LAYER * mesh.spacing
    covered |= tree.query_ball_point(points, NEIGHBOUR_REACH * mesh.spacing, return_length=True) >= COVERING
    q, p, u = local.q[nearest], local.p[nearest], local.place(nearest, to_complex(points))
    u = np.where(covered, u - nearest_vector(u), np.nan)
    # One frame for all particles of a grain, so that places can be compared
    row = np.zeros(mesh.n)
    for name in np.unique(grain):
        row[grain == name] = np.angle(np.nansum(mesh.psi6[grain == name])) / 6
    offset = q * u + p * np.conj(u)
    return u * sixth_turns(np.angle(q), row[nearest]), offset, np.where(covered, grain[nearest], -1)


@dataclass(frozen=True)
class Moire:
    """How two lattices lie on each other, measured."""

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


def fit_moire(first: ArrayLike, second: ArrayLike) -> Moire:
    """Twist, offset and Moiré period of two layers, measured from the registry of their particles.

    Takes positions (y, x) in nm, shapes (n, 2) and (m, 2), of one grain of each layer. The period comes from the
    gradient of the registry's phases along the second layer; the formula takes the same number from spacings and angles
    of the two fitted lattices. The two differ where one layer gave way to the other.
    """
    one, other = (LayerFrame(mesh, known_grain=np.zeros(mesh.n, int)) for mesh in (Mesh(first), Mesh(second)))
    moire = fit_moire_of_grains(one, other)
    if moire is None:
        raise ValueError("a Moiré lattice needs two lattices and at least 6 particles of the second on the first")
    return moire


def fit_moire_of_grains(first: LayerFrame, second: LayerFrame) -> Moire | None:
    """Moiré of the largest grain with a lattice of each layer; None where there is none or they do not overlap."""
    if first.main_lattice is None or second.main_lattice is None:
        return None
    (base_grain, one), (grain, other) = first.main_lattice, second.main_lattice
    base, points = first.of_grain(base_grain), second.mesh.points[second.grain == grain]
    u, _, on_grain = _place_in_cells(points, base)
    on = on_grain == 0
    if on.sum() < FEWEST_ON_LAYER:
        return None
    z, u = to_complex(points[on]), u[on]
    phase = np.real(np.conj(_WAVES) * u[:, None])
    k, constants, (k_variance, variance) = _fit_phase_gradient(z - z.mean(), phase, base.mesh.spacing)
    period = 4 * np.pi / np.sqrt(3) / np.abs(k)
    rotation = (other.angle - one.angle + 30) % 60 - 30
    twist_std = float(np.hypot(one.angle_std, other.angle_std))
    # Period from spacings and twist, and its error by small changes of each
    values = np.array([one.spacing, other.angle - one.angle, other.spacing])
    steps = np.diag([one.spacing_std, max(twist_std, 1e-12), other.spacing_std])
    changes = [(moire_period(*(values + step)) - moire_period(*(values - step))) / 2 for step in steps]
    return Moire(
        twist=float(abs(rotation)),
        twist_std=twist_std,
        rotation=float(rotation),
        period=float(period),
        period_std=float(period * np.sqrt(k_variance) / np.abs(k)),
        angle=float((np.degrees(np.angle(k)) + 30) % 60),  # rows lie between the waves
        formula=moire_period(*values),
        formula_std=float(np.linalg.norm(changes)),
        offset=to_points(_find_top(k, constants)),
        offset_std=float(np.sqrt(variance * 2 / 3) / np.abs(k)),
        center=to_points(z.mean()),
        n=int(on.sum()),
    )


def _fit_phase_gradient(z, phase, spacing):
    """Wave vector k and constants of the phases φ_j = Re(k* exp(-iπj/3) z) + c_j, modulo 2π; variances of both."""
    size = max(np.ptp(z.real), np.ptp(z.imag), spacing)
    axis = np.arange(-LARGEST_WAVE / spacing, LARGEST_WAVE / spacing, WAVE_STEP / size)
    power, design = np.zeros((len(axis), len(axis))), np.zeros((3, len(z), 5))
    for j in range(3):
        local = np.conj(_TURNS[j]) * z
        wave = np.exp(-1j * np.outer(axis, local.imag)) * np.exp(1j * phase[:, j])
        power += np.abs(wave @ np.exp(-1j * np.outer(local.real, axis)))
        design[j, :, 0], design[j, :, 1], design[j, :, 2 + j] = local.real, local.imag, 1
    # On the sites of a lattice a wave and its sums with the lattice's own waves are one: the longest counts.
    peaks = np.argwhere((power == maximum_filter(power, 5)) & (power > SECOND_PEAK * power.max()))
    waves = axis[peaks[:, 1]] + 1j * axis[peaks[:, 0]]
    near = waves[np.abs(waves) < np.abs(waves).min() + 2 * (axis[1] - axis[0])]
    design = design.reshape(-1, 5)
    k, constants, left = min((_refine_wave(wave, z, phase, design) for wave in near), key=lambda x: abs(x[0]))
    inverse = np.linalg.inv(design.T @ design)
    # Of a particle's three phases two are independent; neighbours share the error of the first layer's lattice.
    variance = 1.5 * np.sum(left**2) / max(len(left) - 5, 1) * np.diag(inverse)
    blocks = sum_by_blocks(np.tile(z, 3), PHASE_BLOCK * spacing, design, inverse, left)
    if blocks is not None:
        variance = np.maximum(variance, np.sum(blocks**2, axis=0))
    return k, constants, (variance[:2].mean(), variance[2:].mean())


def _refine_wave(k, z, phase, design):
    """Wave vector, constants and residual phases (3n,) after least squares from a start on the right peak."""
    for _ in range(REFINEMENTS):
        model = np.stack([np.real(np.conj(k * t) * z) for t in _TURNS], axis=1)
        constants = np.angle(np.exp(1j * (phase - model)).sum(axis=0))
        left = np.angle(np.exp(1j * (phase - model - constants))).T.ravel()
        change = np.linalg.lstsq(design, left, rcond=None)[0]
        k, constants = k + change[0] + 1j * change[1], constants + change[2:]
    return k, constants, left


def _find_top(k, constants) -> complex:
    """The place nearest to the origin at which all three phases are zero."""
    waves = k * _TURNS
    # Any two of the three phases fix it up to a vector of the Moiré lattice; least squares over all would mix periods.
    matrix = np.stack([waves[:2].real, waves[:2].imag], axis=1)
    grid = np.stack(np.meshgrid(*[np.arange(-3, 4)] * 2), axis=-1).reshape(-1, 2)
    choices = np.linalg.solve(matrix, (2 * np.pi * grid - constants[:2]).T)
    return complex(*choices[:, np.hypot(*choices).argmin()])
