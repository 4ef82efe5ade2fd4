"""Find every particle, decide its layer, and fit its position and size to the raw frame.

Three steps, each a function: `locate` reads particles off the network's output, `assign_layers` decides which layer
each belongs to, `refine` fits all of them to the frame at once and returns error bars.

Explained in chapter 7, "Particles".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.fft import fft2
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.optimize import minimize
from scipy.sparse.linalg import cg
from scipy.spatial import cKDTree
from scipy.special import expit
from skimage.feature import peak_local_max

__all__ = ["Lattice", "assign_layers", "discard_doubtful", "extent", "find_lattice", "locate", "refine"]


def locate(probability: np.ndarray, diameter: float, threshold: float = 0.4) -> pd.DataFrame:
    """Find particles in the network's output.

    Parameters
    ----------
    probability : ndarray, shape (channels, y, x)
        Particle probability.
    diameter : float
        Expected particle diameter, in pixels of ``probability``.
    threshold : float
        Lowest mean probability over a particle's core.

    Returns
    -------
    pandas.DataFrame
        ``channel`` (0-based), ``y, x`` (px, to a fraction of a pixel), ``score`` (mean probability over the core).

    Notes
    -----
    Explained in chapter 7, "Particles".
    """
    tables = []
    for channel, p in enumerate(probability):
        core = gaussian_filter(p, diameter / 5, mode="nearest")
        # A band-pass as wide as one particle: touching particles become separate peaks.
        peaks = core - gaussian_filter(p, diameter / 2, mode="nearest")
        yx = peak_local_max(peaks, min_distance=max(int(0.45 * diameter), 1), threshold_abs=0.02, exclude_border=False)
        yx = yx[core[tuple(yx.T)] >= threshold]
        score = core[tuple(yx.T)]
        yx = _centroids(p, yx, 0.7 * diameter)
        tables.append(pd.DataFrame({"channel": channel, "y": yx[:, 0], "x": yx[:, 1], "score": score}))
    return pd.concat(tables, ignore_index=True)


def _centroids(probability, yx, reach) -> np.ndarray:
    """Centre of mass of each particle's share of the probability: the pixels nearer to it than to any other."""
    if len(yx) == 0:
        return yx.astype(float)
    covered = np.argwhere(probability > 0.05)
    distance, owner = cKDTree(yx).query(covered, distance_upper_bound=reach)
    near = np.isfinite(distance)
    covered, owner = covered[near], owner[near]
    weight = probability[tuple(covered.T)]
    mass = np.bincount(owner, weight, len(yx))
    return np.stack([np.bincount(owner, weight * c, len(yx)) / mass for c in covered.T], axis=1)


@dataclass(frozen=True)
class Lattice:
    """A hexagonal lattice found in a set of points."""

    spacing: float  # in the points' unit
    angle: float  # degrees, of one close-packed row, from x towards y, 0 to 60

    @property
    def wave_vectors(self) -> np.ndarray:
        """Three first-order reciprocal vectors (y, x), 60° apart, shape (3, 2), in radians per unit length."""
        t = np.radians(self.angle + 30.0 + 60.0 * np.arange(3))
        return 4 * np.pi / (np.sqrt(3) * self.spacing) * np.stack([np.sin(t), np.cos(t)], axis=1)


def find_lattice(points: np.ndarray, spacing: float, weights=None) -> tuple[Lattice, float]:
    """The strongest hexagonal lattice in a set of points.

    Parameters
    ----------
    points : ndarray, shape (n, 2)
        (y, x).
    spacing : float
        Rough nearest-neighbour distance; searched from 0.8 to 1.25 times that.
    weights : ndarray, shape (n,), optional
        Weight of each point.

    Returns
    -------
    lattice : Lattice
        Best spacing and angle.
    strength : float
        Mean structure factor of its first-order peaks: about 1 for random points, up to n for a perfect lattice.

    Notes
    -----
    The structure factor |Σ exp(-iq·r)|²/n comes from a fast Fourier transform of the points. Explained in chapter 7.
    """
    weights = np.ones(len(points)) if weights is None else np.asarray(weights, float)
    power, step = _structure_factor(points, spacing / 4, weights)
    ratio = np.exp(np.linspace(np.log(0.8), np.log(1.25), 91))
    angle = np.arange(0, 60, 0.25)
    best = _best_hexagon(power, step, spacing * ratio, angle)
    return _polish(points, weights, best)


def _polish(points, weights, lattice) -> tuple[Lattice, float]:
    """Climb to the exact maximum of the structure factor, summed over the points themselves."""

    def power(parameters):
        wave = np.exp(1j * points @ Lattice(*parameters).wave_vectors.T)
        return np.mean(np.abs(weights @ wave) ** 2) / np.sum(weights**2)

    start = np.array([lattice.spacing, lattice.angle])
    size = max(np.ptp(points, axis=0).max(), lattice.spacing)
    # A peak is as wide as the field's inverse: first steps of a fifth of that.
    step = 0.2 * lattice.spacing / size * np.array([lattice.spacing, np.degrees(1.0)])
    simplex = start + np.array([[0, 0], [step[0], 0], [0, step[1]]])
    best = minimize(
        lambda x: -power(x), start, method="Nelder-Mead", options={"initial_simplex": simplex, "xatol": 1e-5}
    )
    spacing, angle = best.x
    return Lattice(float(spacing), float(angle % 60.0)), float(-best.fun)


def _structure_factor(points, cell, weights):
    """|Σ w exp(-iq·r)|²/Σw² on a grid of wave vectors, and the grid's step in radians per unit length."""
    grid = (points - points.min(axis=0)) / cell
    low = np.floor(grid).astype(int)
    n = 1 << int(np.ceil(np.log2(max(2.5 * (low.max() + 2), 128))))
    image = np.zeros((n, n))
    for dy in (0, 1):
        for dx in (0, 1):
            share = np.abs(1 - dy - (grid - low)[:, 0]) * np.abs(1 - dx - (grid - low)[:, 1])
            np.add.at(image, (low[:, 0] + dy, low[:, 1] + dx), weights * share)
    return np.abs(fft2(image)) ** 2 / max(np.sum(weights**2), 1e-12), 2 * np.pi / (n * cell)


def _sample_power(power, step, q):
    """Interpolate the (periodic) structure factor at wave vectors q, shape (..., 2)."""
    return map_coordinates(power, np.moveaxis(q / step, -1, 0), order=1, mode="grid-wrap")


def _best_hexagon(power, step, spacing, angle) -> Lattice:
    a, t = np.meshgrid(spacing, angle, indexing="ij")
    direction = np.radians(t[..., None] + 30.0 + 60.0 * np.arange(3))
    length = 4 * np.pi / (np.sqrt(3) * a[..., None])
    q = np.stack([length * np.sin(direction), length * np.cos(direction)], axis=-1)
    # The geometric mean asks for all three peaks; one strong row of points is no lattice.
    score = np.exp(np.mean(np.log(_sample_power(power, step, q) + 1e-9), axis=-1))
    i = np.unravel_index(np.argmax(score), score.shape)
    return Lattice(float(a[i]), float(t[i]))


def assign_layers(particles: pd.DataFrame, diameter: float) -> tuple[pd.DataFrame, list[list[Lattice]]]:
    """Decide which layer every particle belongs to.

    The network separates the layers locally, but its channel names may swap from place to place. The lattices do
    not: grains are found as hexagonal lattices in all points together; each particle goes to the lattice whose local
    phase it fits, helped by the network's word on which neighbours share a layer; grains that overlap in projection
    go to different layers, grains that only meet to the same one. Layer 1 is the one that reaches furthest.

    Parameters
    ----------
    particles : pandas.DataFrame
        From `locate`: ``channel, y, x, score``.
    diameter : float
        Particle diameter, in the same unit as ``y, x``.

    Returns
    -------
    particles : pandas.DataFrame
        With ``layer`` (1 or 2), ``grain`` (-1 where none) and ``layer_confidence`` (0.5 is a guess); a particle found
        twice in one layer is kept once.
    lattices : list of list of Lattice
        The lattices of layer 1 and of layer 2, largest grain first.

    Notes
    -----
    Explained in chapter 7, "Particles".
    """
    first, partner = _doubles(particles, 0.3 * diameter)
    single = particles.drop(partner)
    single.loc[first, ["y", "x"]] = 0.5 * (
        particles.loc[first, ["y", "x"]].to_numpy() + particles.loc[partner, ["y", "x"]].to_numpy()
    )
    points = single[["y", "x"]].to_numpy()
    if len(points) < 8:
        return _name_by_channel(single), [[], []]
    spacing = _typical_spacing(particles, points, diameter)
    kernel = _proximity(points, 6.0 * spacing)
    lattices, fit = _find_grains(points, spacing, kernel)
    if len(lattices) == 1 and np.ptp(points, axis=0).max() < 12 * spacing:
        lattices, fit = _grains_of_channels(points, single["channel"].to_numpy(), spacing, kernel) or (lattices, fit)
    if not lattices:
        return _name_by_channel(single), [[], []]
    pairs = _channel_pairs(points, single["channel"].to_numpy(), ~single.index.isin(first), 2.2 * spacing)
    membership, fit = _settle(points, fit, lattices, pairs, kernel)
    grain = membership.argmax(axis=1)
    layer_of_grain = _layers_of_grains(points, grain, fit, spacing)
    if extent(points[layer_of_grain[grain] == 1], spacing) > extent(points[layer_of_grain[grain] == 0], spacing):
        layer_of_grain = 1 - layer_of_grain
    in_layer = np.stack([membership[:, layer_of_grain == k].sum(axis=1) for k in (0, 1)], axis=1)
    table = single.assign(layer=in_layer.argmax(axis=1) + 1, grain=grain, layer_confidence=in_layer.max(axis=1))
    table["lattice_fit"] = fit.max(axis=1)
    table = _restore_doubles(table, particles, first, partner, fit, layer_of_grain, spacing)
    by_size = np.argsort(-np.bincount(grain, minlength=len(lattices)), kind="stable")
    found = [[lattices[g] for g in by_size if layer_of_grain[g] == k] for k in (0, 1)]
    return _drop_doubles(table, diameter), found


def _doubles(particles, reach):
    """Index labels of particles seen in both channels at one place: mutual nearest neighbours within ``reach``.

    Either two particles lie exactly on top of each other, or one particle was put into both channels; the pixels
    alone do not tell which.
    """
    groups = [particles[particles["channel"] == k] for k in (0, 1)]
    if any(len(g) == 0 for g in groups):
        return particles.index[:0], particles.index[:0]
    trees = [cKDTree(g[["y", "x"]]) for g in groups]
    distance, there = trees[1].query(trees[0].data)
    back = trees[0].query(trees[1].data)[1]
    mutual = (distance < reach) & (back[there] == np.arange(len(groups[0])))
    return groups[0].index[mutual], groups[1].index[there[mutual]]


def _restore_doubles(table, particles, first, partner, fit, layer_of_grain, spacing) -> pd.DataFrame:
    """Give a double back its second particle where the other layer's lattice has a site there too."""
    place = table.index.get_indexer(first)
    layer = table["layer"].to_numpy()
    other_fit = np.full(len(first), -3.0)
    for g, k in enumerate(layer_of_grain):
        other = layer[place] != k + 1
        other_fit[other] = np.maximum(other_fit[other], fit[place[other], g])
    real = other_fit > 1.2
    table.loc[first, ["y", "x"]] = particles.loc[first, ["y", "x"]]
    added = particles.loc[partner[real]].assign(
        layer=3 - layer[place[real]], grain=-1, layer_confidence=expit(2 * other_fit[real]), lattice_fit=other_fit[real]
    )
    table = pd.concat([table, added])
    # Which of the two channels is which layer: as around them, where particles stand alone.
    alone = table.drop(first).drop(partner[real])
    if len(alone) and real.any():
        same = np.where((alone["channel"] == 0) == (alone["layer"] == 1), 1.0, -1.0)
        near = cKDTree(alone[["y", "x"]]).query_ball_point(particles.loc[first[real], ["y", "x"]], 3 * spacing)
        straight = np.array([same[i].sum() >= 0 for i in near])
        table.loc[first[real], "layer"] = np.where(straight, 1, 2)
        table.loc[partner[real], "layer"] = np.where(straight, 2, 1)
    return table


def _name_by_channel(particles) -> pd.DataFrame:
    """Too few particles for a lattice: the channel is all there is to go by, and confidence says so."""
    count = particles["channel"].value_counts()
    first = count.index[0] if len(count) else 0
    layer = np.where(particles["channel"] == first, 1, 2)
    return particles.assign(layer=layer, grain=-1, layer_confidence=0.5, lattice_fit=0.0)


def _typical_spacing(particles, points, diameter) -> float:
    """Nearest-neighbour distance: the median within channels, or what the particle size suggests.

    Where channels mix the layers the first is too small; the one that finds the stronger lattice is taken.
    """
    distances = [np.empty(0)]
    for _, group in particles.groupby("channel"):
        if len(group) > 3:
            own = group[["y", "x"]].to_numpy()
            distances.append(cKDTree(own).query(own, k=2)[0][:, 1])
    distance = np.concatenate(distances)
    distance = distance[distance > 0.6 * diameter]
    candidates = [1.35 * diameter] + ([float(np.median(distance))] if len(distance) else [])
    return max(candidates, key=lambda spacing: find_lattice(points, spacing)[1])


def _find_grains(points, spacing, kernel, most: int = 4) -> tuple[list[Lattice], np.ndarray]:
    """Lattices one after the other, each in the points the earlier ones leave unexplained, and the fit to each."""
    lattices, fits = [], []
    free = np.ones(len(points), bool)
    while free.sum() >= 8 and len(lattices) < most:
        lattice, strength = find_lattice(points[free], spacing)
        mine = free & (_local_fit(points, free.astype(float), lattice, kernel) > 1.5)
        # Random points reach a structure factor of about 7 by chance somewhere, and a fit above 1.5 in one of seven.
        if strength < 7 or mine.sum() < max(8, 0.03 * len(points), 0.3 * free.sum()):
            break
        fit = _local_fit(points, mine.astype(float), lattice, kernel)
        lattices.append(lattice)
        fits.append(fit)
        free &= fit < 1.2
    return lattices, np.array(fits).T


def _grains_of_channels(points, channel, spacing, kernel):
    """One lattice in each channel, and the fit to both; None if either channel holds none.

    In a field of a few spacings two lattices look like one in all points together, but the network's names do not
    swap within its own view.
    """
    lattices, fits = [], []
    for k in (0, 1):
        mine = channel == k
        lattice, strength = find_lattice(points[mine], spacing) if mine.sum() >= 8 else (None, 0.0)
        if strength < max(5.0, 0.3 * mine.sum()):
            return None
        lattices.append(lattice)
        fits.append(_local_fit(points, mine.astype(float), lattice, kernel))
    return lattices, np.array(fits).T


def _proximity(points, width):
    """Gaussian weights between points (sparse, zero on the diagonal); ``width`` is the standard deviation."""
    tree = cKDTree(points)
    near = tree.sparse_distance_matrix(tree, 2.2 * width, output_type="coo_matrix")
    weight = np.exp(-0.5 * (near.data / width) ** 2) * (near.row != near.col)
    return sparse.csr_matrix((weight, (near.row, near.col)), shape=near.shape)


def _local_fit(points, weights, lattice, kernel) -> np.ndarray:
    """How well each point sits on the lattice that its weighted surroundings form: 3 on a site, 0 on average.

    The lattice's phase is averaged over the surroundings only, so slow strain does no harm; a point has no say in its
    own phase.
    """
    angle = points @ lattice.wave_vectors.T  # (n, 3)
    c, s = np.cos(angle), np.sin(angle)
    field = kernel @ (np.concatenate([c, s], axis=1) * np.reshape(weights, (-1, 1)))
    fc, fs = field[:, :3], field[:, 3:]
    return np.sum((fc * c + fs * s) / np.maximum(np.hypot(fc, fs), 1e-9), axis=1)


def _channel_pairs(points, channel, known, reach):
    """What the network says of neighbours: +1 for the same channel, -1 for different ones (sparse, symmetric)."""
    pairs = cKDTree(points).query_pairs(reach, output_type="ndarray")
    pairs = pairs[known[pairs].all(axis=1)]
    same = np.where(channel[pairs[:, 0]] == channel[pairs[:, 1]], 1.0, -1.0)
    i, j = np.r_[pairs[:, 0], pairs[:, 1]], np.r_[pairs[:, 1], pairs[:, 0]]
    return sparse.csr_matrix((np.r_[same, same], (i, j)), shape=(len(points), len(points)))


def _settle(points, fit, lattices, pairs, kernel, rounds: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Memberships (n, grains) that agree with the lattices' phases and with the network on neighbours (mean field).

    Returns them with the fit of every point to every lattice.
    """
    membership = _softmax(2.0 * fit)
    if len(lattices) == 1:
        return 0.5 + 0.5 * expit(2.0 * fit), fit
    count = np.maximum(np.asarray(np.abs(pairs).sum(axis=1)), 1).reshape(-1, 1)
    for turn in range(rounds):
        fit = np.stack(
            [_local_fit(points, m, lat, kernel) for m, lat in zip(membership.T, lattices, strict=True)], axis=1
        )
        neighbours = pairs @ (membership - membership.mean(axis=1, keepdims=True)) / count
        membership = _softmax(2.0 * fit + min(turn, 4) * 2.0 * neighbours)
    return membership, fit


def _softmax(x) -> np.ndarray:
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def _layers_of_grains(points, grain, fit, spacing) -> np.ndarray:
    """Layer (0 or 1) of each grain: largest first, each into the layer it overlaps less.

    Only points that sit well on their own lattice have a say, so stray finds make no layer.
    """
    count = fit.shape[1]
    layer = np.zeros(count, int)
    members = [points[(grain == g) & (fit[:, g] > 1.5)] for g in range(count)]
    order = sorted(range(count), key=lambda g: -len(members[g]))
    for position, g in enumerate(order[1:], start=1):
        overlap = [0.0, 0.0]
        for other in order[:position]:
            overlap[layer[other]] += _overlap(members[g], members[other], spacing)
        layer[g] = int(overlap[0] > overlap[1] and overlap[0] > 0.33)
    return layer


def _overlap(mine, others, spacing) -> float:
    """Fraction of points with one of the others between 0.35 and 0.75 spacings away.

    Within one layer particles are farther apart, and an elongated particle taken for two is nearer to itself. Of two
    twisted lattices that share an area half the points or more count (0.56 if every offset is equally likely); the
    others lie almost on top of each other.
    """
    if len(mine) == 0 or len(others) == 0:
        return 0.0
    distance = cKDTree(others).query(mine)[0] / spacing
    return float(np.mean((distance > 0.35) & (distance < 0.75)))


def extent(points, spacing) -> float:
    """Area covered by points, each counting a disk of one spacing; in units of the spacing squared."""
    if len(points) == 0:
        return 0.0
    cells = np.unique(np.rint(points / spacing).astype(int), axis=0)
    return float(len(cells))


def _drop_doubles(table, diameter) -> pd.DataFrame:
    """Keep the better of two particles that one layer cannot hold both: closer than half a diameter."""
    drop = np.zeros(len(table), bool)
    quality = (table["score"] * table["layer_confidence"]).to_numpy()
    for layer in (1, 2):
        index = np.flatnonzero(table["layer"] == layer)
        if len(index) > 1:
            pairs = cKDTree(table[["y", "x"]].to_numpy()[index]).query_pairs(0.5 * diameter, output_type="ndarray")
            for i, j in index[pairs]:
                drop[i if quality[i] < quality[j] else j] = True
    return table[~drop].reset_index(drop=True)


def refine(frame: np.ndarray, particles: pd.DataFrame, diameter: float, iterations: int = 8) -> pd.DataFrame:
    """Fit position, diameter and opacity of all particles to the frame at once.

    The frame is a smooth background times every particle's transmission, overlaps included. All parameters are
    solved together (damped Gauss-Newton on a sparse system), so a particle under another is fitted as well as the
    light through both allows, and the errors carry what they owe to their neighbours.

    Parameters
    ----------
    frame : ndarray, shape (y, x)
        Raw frame; the particles are about ``diameter`` pixels wide.
    particles : pandas.DataFrame
        With ``y, x`` in pixels of the frame.
    diameter : float
        Expected diameter, in pixels.
    iterations : int
        Most Gauss-Newton steps.

    Returns
    -------
    pandas.DataFrame
        The particles with refined ``y, x``, and ``diameter``, ``opacity`` (fraction of light taken at the centre),
        ``y_std, x_std, diameter_std`` (one sigma, px).

    Notes
    -----
    A particle's profile is a softened (1 - r²/R²)^p: p near 0 is a standing rod, 0.5 a sphere; softness and p are
    fitted, one pair for all particles. Errors are the Gauss-Newton covariance, scaled by the residual's variance
    over a third of a particle, which holds the camera's correlated noise. Explained in chapter 7, "Particles".
    """
    if particles.empty:
        return particles.assign(diameter=0.0, opacity=0.0, y_std=0.0, x_std=0.0, diameter_std=0.0)
    model = _FrameModel(frame, particles[["y", "x"]].to_numpy(), diameter)
    theta, damping = model.start, 1e-2
    cost = model.cost(theta)
    for _ in range(iterations):
        normal, gradient = model.normal_equations(theta)
        damped = normal + damping * sparse.diags(normal.diagonal())
        step, _ = cg(damped, gradient, rtol=1e-3, maxiter=60, M=sparse.diags(1 / damped.diagonal()))
        trial = model.bound(theta + step)
        trial_cost = model.cost(trial)
        if trial_cost >= cost:
            damping *= 10
            continue
        converged = cost - trial_cost < 1e-4 * cost
        theta, cost, damping = trial, trial_cost, damping / 5
        if converged:
            break
    return model.table(theta, particles)


def discard_doubtful(particles: pd.DataFrame, diameter: float) -> pd.DataFrame:
    """Leave out finds that the frame itself does not bear out.

    Parameters
    ----------
    particles : pandas.DataFrame
        From `refine`, after `assign_layers`.
    diameter : float
        Expected diameter, in the unit of ``y`` and ``x``.

    Returns
    -------
    pandas.DataFrame
        Particles that are dark where most are dark, and that are either located to
        better than a 24th of a diameter, or found by the network on a site of their lattice and located to a sixth.

    Notes
    -----
    A bump of noise that is fitted as a particle has a large position error, because error and significance are one
    number. Explained in chapter 7, "Particles".
    """
    if particles.empty:
        return particles
    same_sign = np.sign(particles["opacity"]) == np.sign(particles["opacity"].median())
    error = np.hypot(particles["y_std"], particles["x_std"]) / np.sqrt(2)
    located = error < diameter / 24
    expected = (error < diameter / 6) & (particles["lattice_fit"] > 1.5) & (particles["score"] > 0.6)
    return particles[same_sign & (located | expected)].reset_index(drop=True)


class _FrameModel:
    """Smooth background × particle transmissions, its derivatives, and the way from parameters to a table.

    The parameter vector holds y, x, log diameter and opacity of every particle, particle by particle, then log
    softness and log exponent of the common profile.
    """

    prior_std = (0.2, 0.2, 0.15, 0.3)  # of y, x (diameters), log diameter, opacity
    shape_prior_std = (0.7, 0.7)  # of log softness, log exponent

    def __init__(self, frame, points, diameter):
        frame = np.asarray(frame, dtype=float)
        smooth = gaussian_filter(frame, diameter / 4)
        low, high = np.percentile(smooth, [1, 90])
        # Transmissions multiply counts above the dark level; a frame below zero has lost that level and gets one.
        self.frame = frame if low > 0 else frame - low + 0.5 * (high - low)
        contrast = (high - low) / (high if low > 0 else 1.5 * (high - low) + 1e-30)
        self.diameter, self.points, self.n = diameter, points, len(points)
        half = int(np.ceil(0.85 * diameter))
        dy, dx = np.mgrid[-half : half + 1, -half : half + 1].reshape(2, -1)
        self.yy = np.rint(points[:, :1]).astype(int) + dy
        self.xx = np.rint(points[:, 1:]).astype(int) + dx
        height, width = frame.shape
        self.inside = (self.yy >= 0) & (self.yy < height) & (self.xx >= 0) & (self.xx < width)
        self.pixel = np.where(self.inside, self.yy * width + self.xx, 0)
        own = np.column_stack([points, np.full(self.n, np.log(diameter)), np.full(self.n, 0.7 * contrast)])
        self.start = np.concatenate([own.ravel(), np.log([0.25, 0.35])])
        self.scale = np.r_[np.tile(np.array(self.prior_std) * [diameter, diameter, 1, 1], self.n), self.shape_prior_std]
        self.noise = max(_noise_std(self.frame), 1e-6 * (high - low) + 1e-30)

    def _profiles(self, theta):
        """Each particle's profile on its window, and its derivative by squared distance over squared radius."""
        y, x, log_d, _ = theta[:-2].reshape(-1, 4).T[:, :, None]
        softness, exponent = np.exp(theta[-2:])
        rho2 = ((self.yy - y) ** 2 + (self.xx - x) ** 2) * 4 * np.exp(-2 * log_d)
        u = (1 - rho2) / softness
        g = softness * np.logaddexp(0, u)
        top = softness * np.logaddexp(0, 1 / softness)
        profile = np.where(self.inside, (g / top) ** exponent, 0.0)
        return profile, -exponent * profile * expit(u) / np.maximum(g, 1e-300), rho2

    def _image(self, theta, profile):
        """Background, transmission of all particles, and each particle's own transmission on its window."""
        opacity = theta[3:-2:4, None]
        own = 1 - opacity * profile
        log_t = np.bincount(self.pixel.ravel(), np.log(own).ravel() * self.inside.ravel(), self.frame.size)
        t = np.exp(log_t).reshape(self.frame.shape)
        sigma = 2.0 * self.diameter
        background = gaussian_filter(self.frame * t, sigma) / gaussian_filter(t * t, sigma)
        return background, t, own

    def cost(self, theta) -> float:
        """Sum of squared residuals over the noise variance, plus the weak prior's share."""
        background, t, _ = self._image(theta, self._profiles(theta)[0])
        prior = np.sum(((theta - self.start) / self.scale) ** 2)
        return float(np.sum((self.frame - background * t) ** 2) / self.noise**2 + prior)

    def normal_equations(self, theta):
        """Gauss-Newton matrix (sparse) and gradient, the background held where it is."""
        profile, slope, rho2 = self._profiles(theta)
        background, t, own = self._image(theta, profile)
        y, x, log_d, opacity = theta[:-2].reshape(-1, 4).T[:, :, None]
        through = (
            -(background * t).ravel()[self.pixel] / own * self.inside / self.noise
        )  # d image / d (opacity·profile)
        by_distance = through * opacity * slope
        inverse = 8 * np.exp(-2 * log_d)
        columns = np.stack(
            [-by_distance * inverse * (self.yy - y), -by_distance * inverse * (self.xx - x), -2 * by_distance * rho2]
            + [through * profile],
            axis=1,
        )
        rows = np.broadcast_to(self.pixel[:, None], columns.shape)
        index = np.broadcast_to(np.arange(4 * self.n).reshape(-1, 4, 1), columns.shape)
        local = sparse.csr_matrix((columns.ravel(), (rows.ravel(), index.ravel())), (self.frame.size, 4 * self.n))
        image = background * t
        shape = (
            np.stack([(self._render(theta, k, background) - image).ravel() for k in (-2, -1)], 1) / 1e-3 / self.noise
        )
        jacobian = sparse.hstack([local, sparse.csr_matrix(shape)]).tocsr()
        normal = (jacobian.T @ jacobian + sparse.diags(self.scale**-2)).tocsr()
        residual = (self.frame - image).ravel() / self.noise
        return normal, jacobian.T @ residual - (theta - self.start) / self.scale**2

    def _render(self, theta, k, background):
        """The image after a small step in parameter ``k``, the background held."""
        moved = theta.copy()
        moved[k] += 1e-3
        return background * self._image(moved, self._profiles(moved)[0])[1]

    def bound(self, theta):
        """Keep opacities below full blackness and particles within half a diameter of where they were found."""
        theta = theta.copy()
        own = theta[:-2].reshape(-1, 4)
        reach = 0.5 * self.diameter
        own[:, :2] = np.clip(own[:, :2], self.points - reach, self.points + reach)
        own[:, 2] = np.clip(own[:, 2], np.log(0.5 * self.diameter), np.log(1.6 * self.diameter))
        own[:, 3] = np.clip(own[:, 3], -3.0, 0.98)
        theta[-2:] = np.clip(theta[-2:], np.log([0.03, 0.05]), np.log([3.0, 2.0]))
        return theta

    def table(self, theta, particles) -> pd.DataFrame:
        """Parameters and one-sigma errors as columns."""
        own = theta[:-2].reshape(-1, 4)
        normal, _ = self.normal_equations(theta)
        std = np.sqrt(_local_variances(normal, own[:, :2], 1.3 * self.diameter)) * self._noise_factor(theta)
        diameter = np.exp(own[:, 2])
        values = {"y": own[:, 0], "x": own[:, 1], "diameter": diameter, "opacity": own[:, 3]}
        errors = {"y_std": std[:, 0], "x_std": std[:, 1], "diameter_std": std[:, 2] * diameter}
        return particles.assign(**values, **errors)

    def _noise_factor(self, theta) -> float:
        """Standard deviation of the residual at the scale of a third of a particle, over the assumed white noise."""
        background, t, _ = self._image(theta, self._profiles(theta)[0])
        b = max(int(round(self.diameter / 3)), 1)
        residual = (self.frame - background * t)[: self.frame.shape[0] // b * b, : self.frame.shape[1] // b * b]
        blocks = residual.reshape(residual.shape[0] // b, b, -1, b).mean(axis=(1, 3))
        return float(b * blocks.std() / self.noise)


def _noise_std(frame) -> float:
    """Pixel noise from the smallest details: median absolute second difference along both diagonals."""
    d = frame[1:, 1:] - frame[1:, :-1] - frame[:-1, 1:] + frame[:-1, :-1]
    return float(np.median(np.abs(d)) / 0.6745 / 2)


def _local_variances(normal, points, reach) -> np.ndarray:
    """Variances of each particle's four parameters with its neighbours' left free and all others held, (n, 4)."""
    normal = normal.tocsr()
    out = np.empty((len(points), 4))
    for i, near in enumerate(cKDTree(points).query_ball_point(points, reach)):
        near = np.r_[i, [j for j in near if j != i]].astype(int)
        index = (4 * near[:, None] + np.arange(4)).ravel()
        out[i] = np.diag(np.linalg.inv(normal[index][:, index].toarray()))[:4]
    return out
