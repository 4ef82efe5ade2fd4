"""Order of a layer, without effects of its edge: strain and correlation functions (chapter 9, "Order and defects")."""

import freud
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.ndimage import distance_transform_edt
from scipy.signal import fftconvolve
from scipy.spatial import cKDTree

from ..crystal.lattice import Lattice
from ..crystal.mesh import Mesh, lattices_around, sixth_turns
from ..crystal.neighbours import NEIGHBOUR_REACH, bonds, check_points, freud_system, neighbour_spacing, to_complex
from .lattices import LayerFrame, fit_from_bonds, name_bonds

REGION_CELLS = 8  # per spacing (by hand), of the grid on which the region is drawn
COVERED = 0.6  # spacings (geometry) from a particle that belong to the region: over 1/√3, without gaps inside
EDGE_GAP = 150.0  # degrees without a neighbour (geometry): between 120 beside a vacancy and 180 at a straight edge
FEWEST_REFERENCE_BONDS = 7  # of a grain (by hand) whose mean lattice is a reference


def hexatic_correlation(points: ArrayLike, psi6: ArrayLike, r_max: float, bin_width: float) -> pd.DataFrame:
    """Correlation function g6(r) of the bond-orientational order ψ6 (n,) of points (n, 2), as from `hexatic`.

    The real mean of ψ6*(0) ψ6(r) over pairs of particles, over that of |ψ6|²: near 1 in a crystal, algebraic in a
    hexatic, exponential in a liquid. The table has ``r_nm, g6, pairs``, up to ``r_max`` in bins of ``bin_width``, in
    nm.
    """
    points, psi6 = check_points(points), np.asarray(psi6)
    _refuse_bins(r_max, bin_width)
    known = np.isfinite(psi6)
    if known.sum() < 2:
        return pd.DataFrame({"r_nm": [], "g6": [], "pairs": []})
    box, xyz = freud_system(points[known])
    r_max = min(float(r_max), 0.99 * box.Lx / 2)
    pair = freud.density.CorrelationFunction(bins=max(round(r_max / bin_width), 1), r_max=r_max)
    pair.compute((box, xyz), values=psi6[known])
    mean = pair.correlation.real / np.mean(np.abs(psi6[known]) ** 2)
    table = pd.DataFrame({"r_nm": pair.bin_centers, "g6": mean, "pairs": np.asarray(pair.bin_counts) // 2})
    return table[np.asarray(pair.bin_counts) > 0].reset_index(drop=True)


def radial_distribution(
    points: ArrayLike, r_max: float, bin_width: float, spacing: float | None = None
) -> pd.DataFrame:
    """Radial distribution function g(r) of a layer of any outline: ``r_nm, g, pairs``.

    Pairs at each distance, up to ``r_max`` in bins of ``bin_width``, in nm, over those expected of as many particles
    at random in the region within `COVERED` spacings of a particle, by its autocorrelation.
    """
    points = check_points(points)
    _refuse_bins(r_max, bin_width)
    spacing = neighbour_spacing(points) if spacing is None else spacing
    edges = np.arange(0, r_max + bin_width, bin_width)
    pairs = np.diff(cKDTree(points).count_neighbors(cKDTree(points), np.nextafter(edges, 0))) // 2
    step = spacing / REGION_CELLS
    grid = np.ones(np.ceil((np.ptp(points, axis=0) + 2 * spacing) / step).astype(int), bool)
    grid[tuple(np.rint((points - points.min(axis=0) + spacing) / step).astype(int).T)] = False
    region = (distance_transform_edt(grid) * step < COVERED * spacing).astype(float)
    overlap = fftconvolve(region, region[::-1, ::-1])  # at every displacement, in cells
    far = np.hypot(*((np.indices(overlap.shape) + 1 - np.reshape(region.shape, (2, 1, 1))) * step))
    # The mean over a ring's cells times the ring's exact area, since a cell may be wider than a ring is.
    cells, total = (np.histogram(far, edges, weights=weights)[0] for weights in (None, overlap))
    mean = total / np.maximum(cells, 1)
    expected = 0.5 * len(points) ** 2 * mean * np.pi * np.diff(edges**2) / (region.sum() ** 2 * step**2)
    g = pairs / np.where(expected > 0, expected, np.nan)
    return pd.DataFrame({"r_nm": (edges[1:] + edges[:-1]) / 2, "g": g, "pairs": pairs})


def _refuse_bins(r_max, bin_width) -> None:
    if not (r_max > 0 and bin_width > 0):
        raise ValueError(f"r_max and bin_width must be positive (nm), got {r_max} and {bin_width}")


def edge_particles(points: ArrayLike, spacing: float | None = None) -> np.ndarray:
    """Which particles lie at the edge of their crystal or of the frame, bool, shape (n,).

    An edge particle sees two neighbours in succession `EDGE_GAP` degrees or more apart.
    """
    points = check_points(points)
    spacing = neighbour_spacing(points) if spacing is None else spacing
    pairs = bonds(points, spacing)
    i, j = np.concatenate([pairs, pairs[:, ::-1]]).T
    angle = np.angle(to_complex(points[j] - points[i]))
    order = np.lexsort([angle, i])
    i, angle = i[order], angle[order]
    last = np.append(i[1:] != i[:-1], True)[: len(i)]  # the next neighbour of the last one is the first again
    widest = np.full(len(points), -np.inf)
    np.maximum.at(widest, i, np.where(last, angle[np.searchsorted(i, i)] + 2 * np.pi, np.roll(angle, -1)) - angle)
    return (widest >= np.radians(EDGE_GAP) - 1e-9) | np.isinf(widest)


def strain_map(
    points: ArrayLike | LayerFrame,
    reference: Lattice | None = None,
    spacing: float | None = None,
    grain: ArrayLike | None = None,
) -> pd.DataFrame:
    """Strain and rotation at each particle, from its nearest neighbours; points may be a `LayerFrame`, with its grains.

    Neighbours of the ideal lattice at w are found at q w + p w*; against the reference q₀ the deformation takes z to
    (q/q₀) z + (p/q₀*) z*, exactly. The ``reference`` is an unstrained lattice, by default the mean one of each grain.

    The table has ``y_nm, x_nm, grain``; ``strain_yy, strain_xx, strain_yx``; ``dilatation`` (relative change of area),
    ``shear`` (half the difference of the principal strains), ``rotation_deg`` from x towards y; ``strain_std``, one
    standard deviation of half the dilatation, of ``strain_yx`` and of the rotation in rad (√2 times as much of
    ``strain_yy`` and ``strain_xx``); ``neighbours``; ``edge``. NaN without three neighbours in different directions.
    """
    layer = points if isinstance(points, LayerFrame) else LayerFrame(Mesh(points, spacing), known_grain=grain)
    mesh, grain = layer.mesh, layer.grain
    local = lattices_around(mesh, NEIGHBOUR_REACH, grain)
    table = pd.DataFrame({"y_nm": mesh.points[:, 0], "x_nm": mesh.points[:, 1], "grain": grain})
    q0 = np.full(mesh.n, np.nan + 0j)
    if reference is not None:
        q0[:] = reference.spacing * np.exp(1j * np.radians(reference.angle))
    for name in np.unique(grain[grain >= 0]) if reference is None else ():
        if len((named := name_bonds(mesh, grain == name))[0]) >= FEWEST_REFERENCE_BONDS:
            q0[grain == name] = fit_from_bonds(mesh, *named)[0]
    known = np.isfinite(local.q) & np.isfinite(q0)
    q, p, q0 = (np.where(known, value, 1.0) for value in (local.q, local.p, q0))
    turn = sixth_turns(-np.angle(q), -np.angle(q0))  # to the reference's row
    stretch, shear = q * turn / q0, p * np.conj(turn) / np.conj(q0)
    # The right factor of the polar decomposition: what remains without the rotation.
    rotation = np.angle(stretch)
    shear, mean = shear * np.exp(-1j * rotation), np.abs(stretch) - 1
    table["strain_yy"], table["strain_xx"] = mean - shear.real, mean + shear.real
    table["strain_yx"] = shear.imag
    table["dilatation"] = np.abs(stretch) ** 2 - np.abs(shear) ** 2 - 1
    table["shear"], table["rotation_deg"] = np.abs(shear), np.degrees(rotation)
    scatter = np.nanmedian(local.residual) if np.isfinite(local.residual).any() else np.nan
    table["strain_std"] = scatter * np.sqrt(local.variance) / np.abs(q0)
    table.loc[~known, "strain_yy":"strain_std"] = np.nan
    table["neighbours"], table["edge"] = local.neighbours, edge_particles(mesh.points, mesh.spacing)
    return table
