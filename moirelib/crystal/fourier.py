"""Find the strongest hexagonal lattice in a set of points, by the structure factor (chapter 7, "Particles")."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.fft import rfft2
from scipy.ndimage import map_coordinates

from .lattice import Lattice

SEARCHED = 0.8, 1.25  # of the rough spacing (by hand)
FINEST, COARSEST = 0.004, 0.015  # relative steps of the search in spacing, and in radians (by hand)
PEAK_WIDTH = 0.15  # spacings over the field (by hand): a fraction of a peak's width, which is their ratio
GRID_CELLS = 3  # per spacing (geometry): the grid reaches to 3π = 9.4 rad per spacing, first-order peaks lie at 7.3
SMALLEST_GRID = 128  # cells along an edge (by hand), so that a peak of few points is sampled too
POLISH_STEPS = 6  # Newton steps (by hand); a start within a peak needs fewer
FARTHEST_SPACING = 0.9, 1.1  # of the start (by hand), that polishing may reach: it stays on its peak
LEAST_COVARIANCE = 1e-3  # spacings², added to the points' covariance: points in a row have none across it


def find_lattice(points: np.ndarray, spacing: float, weights: ArrayLike | None = None) -> tuple[Lattice, float]:
    """The strongest hexagonal lattice in a set of points (n, 2), and its strength.

    Spacings from 0.8 to 1.25 times the rough one are tried, with a weight (n,) of each point. The strength is the mean
    structure factor |Σ exp(-iq·r)|²/n at the first-order peaks: about 1 for random points, n for a perfect lattice.
    """
    weights = np.ones(len(points)) if weights is None else np.asarray(weights, float)
    return find_strongest(np.asarray(points, float), weights, SEARCHED[0] * spacing, SEARCHED[1] * spacing)


def find_strongest(
    points: np.ndarray, weights: np.ndarray, low: float, high: float, also: np.ndarray | None = None
) -> tuple[Lattice, float]:
    """The strongest lattice with a spacing between two bounds, and its strength.

    Peaks that cancel between two layers (half a spacing apart) show with other weights: ``also`` holds such.
    """
    power, step = _structure_factor(points, low / GRID_CELLS, weights)
    if also is not None:
        power = power + _structure_factor(points, low / GRID_CELLS, also)[0]
    # Peaks are as wide as the inverse of the field: no need to search finer.
    size = max(np.ptp(points, axis=0).max(), low)
    fine = np.clip(PEAK_WIDTH * low / size, FINEST, COARSEST)
    spacing = np.exp(np.arange(np.log(low), np.log(high), fine))
    angle = np.arange(0, 60, np.degrees(fine))
    best = _find_best_hexagon(power, step, spacing, angle)
    if also is not None and _measure_strength(points, also, best) > _measure_strength(points, weights, best):
        weights = also
    best = polish_lattice(points, weights, best)
    return best, _measure_strength(points, weights, best)


def _structure_factor(points, cell, weights):
    """|Σ w exp(-iq·r)|²/Σw² on half a grid of wave vectors, and the grid's step in radians per unit length."""
    grid = (points - points.min(axis=0)) / cell
    low = np.floor(grid).astype(int)
    n = 1 << int(np.ceil(np.log2(max(2.0 * (low.max() + 2), SMALLEST_GRID))))
    image = np.zeros(n * n)
    for dy, dx in np.ndindex(2, 2):
        share = np.abs(1 - dy - (grid - low)[:, 0]) * np.abs(1 - dx - (grid - low)[:, 1])
        image += np.bincount((low[:, 0] + dy) * n + low[:, 1] + dx, weights * share, n * n)
    power = np.abs(rfft2(image.reshape(n, n))) ** 2 / max(np.sum(weights**2), 1e-12)
    return power, 2 * np.pi / (n * cell)


def _find_best_hexagon(power, step, spacing, angle) -> Lattice:
    a, t = np.meshgrid(spacing, angle, indexing="ij")
    direction = np.radians(t[..., None] + 30.0 + 60.0 * np.arange(3))
    length = 4 * np.pi / (np.sqrt(3) * a[..., None])
    q = np.stack([length * np.sin(direction), length * np.cos(direction)], axis=-1)
    # The geometric mean needs all three peaks; one strong row of points is no lattice. The second-order peaks
    # of perfect points are as strong as the first: the factor a prefers the larger spacing.
    row, column = np.moveaxis(np.where(q[..., 1:] < 0, -q, q) / step, -1, 0)  # power is the same at q and -q
    sampled = map_coordinates(power, [row % len(power), column], order=1, mode="grid-wrap")
    score = a * np.exp(np.mean(np.log(sampled + 1e-9), axis=-1))
    i = np.unravel_index(np.argmax(score), score.shape)
    return Lattice(float(a[i]), float(t[i]))


def polish_lattice(points: np.ndarray, weights: np.ndarray, lattice: Lattice) -> Lattice:
    """Climb to the nearest maximum of the structure factor, summed over the points themselves.

    Newton steps: around a peak |S|² falls like exp(-δq·C·δq), where C is the points' covariance.
    """
    total = np.abs(weights) / np.abs(weights).sum()
    r = points - total @ points
    spread = (total * r.T) @ r + LEAST_COVARIANCE * lattice.spacing**2 * np.eye(2)
    longest = 1 / np.sqrt(np.trace(spread))
    best, turn = lattice, np.exp(-1j * np.radians(60 * np.arange(3)))
    for _ in range(POLISH_STEPS):
        wave = weights[:, None] * np.exp(-1j * r @ lattice.wave_vectors.T)
        up = np.linalg.solve(spread, ((r.T @ wave) / (wave.sum(axis=0) + 1e-12)).imag).T  # (3, 2)
        up *= np.minimum(1, longest / np.maximum(np.hypot(*up.T), 1e-12))[:, None]
        q = np.mean((lattice.wave_vectors + up) @ [1j, 1] * turn)  # one vector that stands for all three
        low, high = (factor * best.spacing for factor in FARTHEST_SPACING)
        spacing = np.clip(4 * np.pi / (np.sqrt(3) * np.abs(q)), low, high)
        lattice = Lattice(float(spacing), float((np.degrees(np.angle(q)) - 30.0) % 60.0))
    return max(best, lattice, key=lambda x: _measure_strength(points, weights, x))


def _measure_strength(points, weights, lattice) -> float:
    """Mean structure factor of the three first-order peaks."""
    wave = np.exp(1j * points @ lattice.wave_vectors.T)
    return float(np.mean(np.abs(weights @ wave) ** 2) / np.sum(weights**2))


def lattice_distance(one: Lattice, other: Lattice) -> float:
    """Distance between nearest first-order wave vectors of two lattices, times the spacing: 7.3 per radian of twist."""
    step = one.wave_vectors[0] - np.concatenate([other.wave_vectors, -other.wave_vectors])
    return float(np.min(np.hypot(*step.T)) * one.spacing)
