"""How two layers lie on each other: registry of every particle, twist, Moiré period and offset with their errors.

Explained in chapter 9, "Order and defects".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.ndimage import maximum_filter
from scipy.spatial import cKDTree

from ..crystal.lattice import moire_period
from ..crystal.mesh import REACH, SIXTH_TURN, THREE_SHELLS, Mesh, lattices_around, nearest_vector, sixth_turns
from ..crystal.neighbours import checked_points, spans_plane, to_complex, to_points
from ..tables import layers_by_frame
from .grains import checked_grain
from .lattices import fit_members, grain_fits

__all__ = ["Moire", "REGISTRY", "fit_moire", "moire_table", "registry"]


# --- Registry ---

#: Coordinate of the three kinds of places on a hexagonal lattice: the sum of the cosines of its three waves.
REGISTRY = {"top": 3.0, "bridge": -1.0, "hollow": -1.5}
_PLACES = np.array(
    [0, *(0.5 * np.exp(1j * SIXTH_TURN * np.arange(6))), *(np.exp(1j * SIXTH_TURN * (np.arange(6) + 0.5)) / np.sqrt(3))]
)
_WAVES = 4 * np.pi / np.sqrt(3) * np.exp(1j * SIXTH_TURN * (np.arange(3) + 0.5))


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
        ``other_grain``, that site's grain, -1 where the other layer is not there.

    Raises
    ------
    ValueError
        If positions are not finite, or there is not one grain for each of the other layer's particles.

    Notes
    -----
    The lattice is the one around: an affine fit over three shells of the nearest particle of the other layer, whose own
    displacement is averaged out. Explained in chapter 9, "Order and defects".
    """
    points, other = (checked_points(np.reshape(p, (-1, 2))) for p in (points, other))
    columns = {"y_nm": points[:, 0], "x_nm": points[:, 1]}
    if len(other) < 6 or not spans_plane(other) or len(points) == 0:
        empty = np.full(len(points), np.nan)
        columns |= {"registry": "", "coordinate": empty, "offset_y_nm": empty, "offset_x_nm": empty}
        return pd.DataFrame(columns).assign(other_grain=-1)
    mesh = Mesh(other, spacing)
    grain = checked_grain(grain, mesh)
    u, offset, nearest = _registry(points, mesh, grain)
    coordinate = np.cos(np.real(np.conj(_WAVES) * u[:, None])).sum(axis=1)
    place = np.abs(u[:, None] - _PLACES).argmin(axis=1)
    name = np.where(place == 0, "top", np.where(place < 7, "bridge", "hollow")).astype(object)
    name[~np.isfinite(u)] = ""
    y, x = to_points(offset).T
    table = pd.DataFrame(columns | {"registry": name, "coordinate": coordinate, "offset_y_nm": y, "offset_x_nm": x})
    return table.assign(other_grain=np.where(np.isfinite(u), grain[nearest], -1))


def _registry(points, mesh, grain):
    """Place of points in the cell of the lattice around (complex, in spacings and its rows' frame), in nm, and whose.

    NaN where no particle of the other layer is within 0.8 spacings, unless three are within 1.35: a vacancy.
    """
    local = lattices_around(mesh, THREE_SHELLS, grain)
    z = to_complex(points)
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
    u = np.where(covered, u - nearest_vector(u), np.nan)
    # One frame for all particles of a grain, so that places can be compared
    row = np.zeros(mesh.n)
    for name in np.unique(grain):
        row[grain == name] = np.angle(np.nansum(mesh.psi6[grain == name])) / 6
    offset = q * u + p * np.conj(u)
    return u * sixth_turns(np.angle(q), row[nearest]), offset, nearest


# --- Twist, period and offset ---


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
        If positions are not finite, or fewer than six particles of the second layer lie on the first.

    Notes
    -----
    Each particle of the second layer has three phases, those of the waves of the first layer's lattice around it. Along
    the second layer they advance by the difference of the two lattices' waves, whose gradient is found by a
    periodogram and refined by least squares; the period is 4π/√3 over its length. The formula takes the same number
    from the spacings and angles of the two fitted lattices; the two agree for rigid lattices, and differ where one
    gave way to the other. Explained in chapter 9, "Order and defects".
    """
    meshes = Mesh(first), Mesh(second)
    members = [np.ones(mesh.n, bool) for mesh in meshes]
    moire = _fit_moire(meshes, members, [fit_members(mesh, m) for mesh, m in zip(meshes, members, strict=True)])
    if moire is None:
        raise ValueError("a Moiré lattice needs two lattices and at least 6 particles of the second on the first")
    return moire


def _fit_moire(meshes, members, fits) -> Moire | None:
    """Moiré of two lattices, of some members of two meshes; None where they do not overlap."""
    one, other = fits
    if one is None or other is None:
        return None
    mesh, grain = meshes[0], np.where(members[0], 0, -1)
    points = meshes[1].points[members[1]]
    u, _, nearest = _registry(points, mesh, grain)
    on = np.isfinite(u) & (grain[nearest] == 0)
    if on.sum() < 6:
        return None
    z, u = to_complex(points[on]), u[on]
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
        offset=to_points(top),
        offset_std=offset_std,
        center=to_points(middle),
        n=int(on.sum()),
    )


def _phase_gradient(z, phase, spacing):
    """Wave vector k whose turns by 60° are the gradients of the three phases; constants; variances of both.

    Phases are φ_j = Re(k* exp(-iπj/3) z) + c_j, modulo 2π.
    """
    turn = np.exp(1j * SIXTH_TURN * np.arange(3))
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
    turn = np.exp(1j * SIXTH_TURN * np.arange(3))
    for _ in range(6):
        model = np.stack([np.real(np.conj(k * t) * z) for t in turn], axis=1)
        constants = np.angle(np.exp(1j * (phase - model)).sum(axis=0))
        left = np.angle(np.exp(1j * (phase - model - constants)))
        change = np.linalg.lstsq(design, left.T.ravel(), rcond=None)[0]
        k, constants = k + change[0] + 1j * change[1], constants + change[2:]
    return k, constants, left


def _top(k, constants) -> complex:
    """The place nearest to the origin at which all three phases are zero."""
    turn = np.exp(1j * SIXTH_TURN * np.arange(3))
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


# --- A movie ---


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

    Raises
    ------
    ValueError
        If a column is missing or holds something else than numbers.

    Notes
    -----
    Explained in chapter 9, "Order and defects".
    """
    rows = []
    for frame, both in layers_by_frame(particles):
        largest = [next(grain_fits(both[k]), None) for k in (1, 2) if k in both]
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
