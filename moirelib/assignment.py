"""Decide which layer every particle belongs to, and say how sure that is.

A points problem: lattices are found in all particles together, contiguous grains on them, and layers from how the
grains lie over each other; then every particle weighs its evidence. In movies, tracks vote.

Explained in chapter 7, "Particles".
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pandas as pd
import trackpy
from scipy import sparse
from scipy.fft import rfft2
from scipy.ndimage import map_coordinates
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import eigsh
from scipy.spatial import cKDTree
from scipy.special import expit, logit

from .lattice import fold_hexagonal, moire_period

__all__ = ["Evidence", "Lattice", "assign_layers", "extent", "find_lattice", "twist_note", "vote"]

SMALLEST_COPY = 8  # particles; fewer are no copy of a lattice


@dataclass(frozen=True)
class Evidence:
    """What each piece of evidence on a particle's layer is worth."""

    touching: float = 6.0  # log-odds against one layer for two particles nearer than 0.8 diameters
    crowded: float = 3.0  # the same for two nearer than 0.7 spacings or 0.88 diameters: at most interstitials are
    shown: float = 12.0  # the same for two upon each other that the frame has been asked about
    reach: float = 2.25  # spacings, standard deviation of the surroundings that set a lattice's local phase
    contiguity: float = 1.4  # spacings, of the surroundings that say which grains are here
    strain: float = 0.025  # expected slow change of a grain's spacing and direction
    off_lattice: float = 0.05  # share of particles that sit on no site: interstitials, cores, false finds
    sharpness: float = 15.0  # largest inverse variance of a phase, 1/rad² (a scatter of 3 % of a spacing)
    channel: float = 0.9  # agreement with its neighbours' channels that a particle's own channel is trusted to
    # The side that the evidence favours is right more often than close evidence says, in log-odds, and less often than
    # strong evidence says. benchmarks/calibrate_confidence.py fits 1.0 and 1.3; harder scenes than its own would be
    # overclaimed with so large a head start.
    head_start: float = 0.5
    temperature: float = 1.3
    ceiling: float = 0.999  # highest confidence: one grain in a few hundred is in the wrong layer


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


# --- Lattices in a set of points ---


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
    return _strongest(np.asarray(points, float), weights, 0.8 * spacing, 1.25 * spacing)


def _strongest(points, weights, low, high, also=None) -> tuple[Lattice, float]:
    """The strongest lattice with a spacing between two bounds, and its strength.

    Peaks that cancel between two layers (half a spacing apart) show with other weights: ``also`` holds such.
    """
    power, step = _structure_factor(points, low / 3, weights)
    if also is not None:
        power = power + _structure_factor(points, low / 3, also)[0]
    # Peaks are as wide as the inverse of the field: no need to search finer.
    size = max(np.ptp(points, axis=0).max(), low)
    fine = np.clip(0.15 * low / size, 0.004, 0.015)
    spacing = np.exp(np.arange(np.log(low), np.log(high), fine))
    angle = np.arange(0, 60, np.degrees(fine))
    best = _best_hexagon(power, step, spacing, angle)
    if also is not None and _strength(points, also, best) > _strength(points, weights, best):
        weights = also
    best = _polish(points, weights, best)
    return best, _strength(points, weights, best)


def _structure_factor(points, cell, weights):
    """|Σ w exp(-iq·r)|²/Σw² on half a grid of wave vectors, and the grid's step in radians per unit length."""
    grid = (points - points.min(axis=0)) / cell
    low = np.floor(grid).astype(int)
    n = 1 << int(np.ceil(np.log2(max(2.0 * (low.max() + 2), 128))))
    image = np.zeros(n * n)
    for dy in (0, 1):
        for dx in (0, 1):
            share = np.abs(1 - dy - (grid - low)[:, 0]) * np.abs(1 - dx - (grid - low)[:, 1])
            image += np.bincount((low[:, 0] + dy) * n + low[:, 1] + dx, weights * share, n * n)
    power = np.abs(rfft2(image.reshape(n, n))) ** 2 / max(np.sum(weights**2), 1e-12)
    return power, 2 * np.pi / (n * cell)


def _best_hexagon(power, step, spacing, angle) -> Lattice:
    a, t = np.meshgrid(spacing, angle, indexing="ij")
    direction = np.radians(t[..., None] + 30.0 + 60.0 * np.arange(3))
    length = 4 * np.pi / (np.sqrt(3) * a[..., None])
    q = np.stack([length * np.sin(direction), length * np.cos(direction)], axis=-1)
    # The geometric mean asks for all three peaks; one strong row of points is no lattice. The second-order peaks
    # of perfect points are as strong as the first: the factor a prefers the larger spacing.
    score = a * np.exp(np.mean(np.log(_sample_power(power, step, q) + 1e-9), axis=-1))
    i = np.unravel_index(np.argmax(score), score.shape)
    return Lattice(float(a[i]), float(t[i]))


def _sample_power(power, step, q):
    """Interpolate the structure factor, the same at q and -q, at wave vectors q, shape (..., 2)."""
    q = np.where(q[..., 1:] < 0, -q, q) / step
    return map_coordinates(power, [q[..., 0] % len(power), q[..., 1]], order=1, mode="grid-wrap")


def _polish(points, weights, lattice, steps: int = 6) -> Lattice:
    """Climb to the nearest maximum of the structure factor, summed over the points themselves.

    Newton steps: around a peak |S|² falls like exp(-δq·C·δq), where C is the points' covariance.
    """
    total = np.abs(weights) / np.abs(weights).sum()
    r = points - total @ points
    spread = (total * r.T) @ r + 1e-3 * lattice.spacing**2 * np.eye(2)
    longest = 1 / np.sqrt(np.trace(spread))
    best, turn = lattice, np.exp(-1j * np.radians(60 * np.arange(3)))
    for _ in range(steps):
        wave = weights[:, None] * np.exp(-1j * r @ lattice.wave_vectors.T)
        up = np.linalg.solve(spread, ((r.T @ wave) / (wave.sum(axis=0) + 1e-12)).imag).T  # (3, 2)
        up *= np.minimum(1, longest / np.maximum(np.hypot(*up.T), 1e-12))[:, None]
        q = np.mean((lattice.wave_vectors + up) @ [1j, 1] * turn)  # one vector that stands for all three
        spacing = np.clip(4 * np.pi / (np.sqrt(3) * np.abs(q)), 0.9 * best.spacing, 1.1 * best.spacing)
        lattice = Lattice(float(spacing), float((np.degrees(np.angle(q)) - 30.0) % 60.0))
    return max(best, lattice, key=lambda x: _strength(points, weights, x))


def _strength(points, weights, lattice) -> float:
    """Mean structure factor of the three first-order peaks."""
    wave = np.exp(1j * points @ lattice.wave_vectors.T)
    return float(np.mean(np.abs(weights @ wave) ** 2) / np.sum(weights**2))


def _distance(one: Lattice, other: Lattice) -> float:
    """Of two lattices' first-order wave vectors, times the spacing: about 7.3 times the twist in radians."""
    step = one.wave_vectors[0] - np.concatenate([other.wave_vectors, -other.wave_vectors])
    return float(np.min(np.hypot(*step.T)) * one.spacing)


# --- Layers of one frame ---


def assign_layers(
    particles: pd.DataFrame, diameter: float, evidence: Evidence | None = None, layers: int | None = None
) -> tuple[pd.DataFrame, list[list[Lattice]]]:
    """Decide which layer every particle belongs to.

    The network separates the layers locally, but its channel names may swap from place to place. The lattices do
    not: they are found in all particles together, contiguous grains on them; grains that overlap in projection go to
    different layers, grains that only meet to the same one. Then each particle weighs four kinds of evidence: its fit
    to each grain's lattice around it, which grains its neighbours belong to, which of them share its channel, and
    which are too near to be in the same layer. Layer 1 is the one that reaches furthest.

    Parameters
    ----------
    particles : pandas.DataFrame
        ``channel`` (0 or 1), ``y, x, score``; ``diameter`` of each particle where it was fitted; ``shown`` (bool) of
        particles that lie upon another one and are known, from the frame, to be two.
    diameter : float
        Typical particle diameter, in the unit of ``y, x``.
    evidence : Evidence, optional
        Weights of the evidence.
    layers : int, optional
        How many layers there are, where that is known from elsewhere.

    Returns
    -------
    particles : pandas.DataFrame
        With ``layer`` (1 or 2), ``grain`` (-1 where none), ``layer_confidence`` (probability that the layer is right;
        0.5 is a guess) and ``lattice_fit`` (3 on a site of its grain, 0 on average); a particle found twice in one
        layer is kept once.
    lattices : list of list of Lattice
        The lattices of layer 1 and of layer 2, largest grain first.

    Notes
    -----
    Fields of a few spacings, and twists whose Moiré period is longer than the field, leave less to go by; see
    `twist_note`. Explained in chapter 7, "Particles".
    """
    evidence = Evidence() if evidence is None else evidence
    if len(particles) < 8:
        return _name_by_channel(particles), [[], []]
    surroundings = _Surroundings(particles, diameter, evidence, two_layers=layers == 2)
    grains = _find_grains(surroundings)
    if not grains:
        return _name_by_channel(particles), [[], []]
    layer = np.zeros(len(grains), int) if layers == 1 else _layers_of_grains(grains, surroundings)
    grains, layer = _join_alike(grains, layer, surroundings)
    if not layer.any() and layers != 1:
        grains, layer = _with_loose_layer(grains, surroundings)
    if not layer.any():
        table = _one_layer(particles, grains, surroundings)
    else:
        settled = _settle(grains, layer, surroundings)
        if surroundings.extent(settled.of == 1) > surroundings.extent(settled.of == 0):
            layer, settled = 1 - layer, settled.swapped()
        table = _two_layers(particles, settled, surroundings)
    by_size = np.argsort([-g.members.sum() for g in grains], kind="stable")
    found = [[grains[g].lattice for g in by_size if layer[g] == k and grains[g].lattice] for k in (0, 1)]
    return _drop_doubles(table, diameter), found


def _name_by_channel(particles) -> pd.DataFrame:
    """Too few particles for a lattice: the channel is all there is to go by, and confidence says so."""
    count = particles["channel"].value_counts()
    first = count.index[0] if len(count) else 0
    layer = np.where(particles["channel"] == first, 1, 2)
    table = particles.assign(layer=layer, grain=-1, layer_confidence=0.5, lattice_fit=0.0)
    return table.reset_index(drop=True)


class _Surroundings:
    """The particles, who is near whom, and what follows from that alone. Lengths in pixels."""

    def __init__(self, particles, diameter, evidence, two_layers=False):
        self.two_layers = two_layers  # known: nothing is taken for one layer seen twice
        self.points = particles[["y", "x"]].to_numpy(float)
        self.n, self.evidence, self.diameter = len(particles), evidence, diameter
        channel = particles["channel"].to_numpy()
        self.sign = np.where(channel == 0, 1.0, -1.0)
        self.lattice = _strongest(self.points, np.ones(self.n), diameter, 2.2 * diameter, self.sign)[0]
        self.spacing = self.lattice.spacing
        tree = cKDTree(self.points)
        pairs = tree.query_pairs(2.2 * evidence.reach * self.spacing, output_type="ndarray")
        self.i, self.j = pairs.T
        self.distance = np.hypot(*(self.points[self.i] - self.points[self.j]).T)
        self.kernel = self._weights(evidence.reach)
        self.near = self._weights(evidence.contiguity)
        self.near_sum = np.asarray(self.near.sum(axis=1)).ravel()
        sizes = particles.get("diameter", pd.Series(diameter, particles.index)).fillna(diameter)
        sizes = sizes.clip(0.7 * diameter, 1.3 * diameter)
        touch = 0.5 * (sizes.to_numpy()[self.i] + sizes.to_numpy()[self.j])
        self.exclusive = (self.distance < 0.88 * touch) | (self.distance < 0.7 * self.spacing)
        exclusion = np.where(self.distance < 0.8 * touch, evidence.touching, evidence.crowded)
        shown = particles["shown"].eq(True).to_numpy() if "shown" in particles else np.zeros(self.n, bool)
        self.shown = shown[self.i] & shown[self.j] & (self.distance < 0.6 * diameter)
        self.exclusion = np.where(self.shown, evidence.shown, exclusion)[self.exclusive]
        self.first, self.second = self._doubles(channel, 0.3 * diameter, shown)
        nearest = tree.query(self.points, k=2)[0][:, 1] / self.spacing
        self.far = np.mean(nearest[nearest < 0.75] > 0.35) if np.any(nearest < 0.75) else 0.0

    def _weights(self, width):
        """Gaussian weights between particles (sparse, zero on the diagonal), by distance in spacings."""
        near = self.distance < 2.2 * width * self.spacing
        weight = np.exp(-0.5 * (self.distance[near] / (width * self.spacing)) ** 2)
        return self.symmetric(weight, self.i[near], self.j[near])

    def symmetric(self, value, i, j):
        """Sparse symmetric matrix from one value per pair."""
        index = np.concatenate([i, j]), np.concatenate([j, i])
        return sparse.csr_matrix((np.concatenate([value, value]), index), shape=(self.n, self.n))

    def _doubles(self, channel, reach, shown):
        """Indices of pairs found in both channels at one place: mutual nearest neighbours within ``reach``.

        Either two particles lie exactly on top of each other, or one was put into both channels; the network alone
        does not tell which. Pairs that the frame has shown to be two are none.
        """
        index = [np.flatnonzero(channel == k) for k in (0, 1)]
        if min(map(len, index)) == 0:
            return np.empty((2, 0), int)
        trees = [cKDTree(self.points[i]) for i in index]
        distance, there = trees[1].query(trees[0].data)
        back = trees[0].query(trees[1].data)[1]
        mutual = (distance < reach) & (back[there] == np.arange(len(index[0])))
        mutual &= ~(shown[index[0]] & shown[index[1][there]])
        return index[0][mutual], index[1][there[mutual]]

    def extent(self, mask) -> float:
        return extent(self.points[mask], self.spacing)

    def phases(self, weights, lattice) -> np.ndarray:
        """Phase factors (n, 2) of two of a lattice's waves at each particle, from its weighted surroundings.

        A plane fitted to the waves around each particle (local linear regression), so that neither slow strain nor a
        one-sided neighbourhood does harm; a particle has no say in its own phase.
        """
        wave = np.exp(1j * self.points @ lattice.wave_vectors[:2].T)
        wave = np.concatenate([wave.real, wave.imag], axis=1)  # (n, 4)
        y, x = (self.points - self.points.mean(axis=0)).T[:, :, None] / self.spacing
        moments = np.concatenate([np.ones_like(y), y, x, y * y, y * x, x * x, wave, wave * y, wave * x], axis=1)
        sums = self.kernel @ (weights[:, None] * moments)
        s, sy, sx, syy, syx, sxx, *rest = np.split(sums, [1, 2, 3, 4, 5, 6, 10, 14], axis=1)
        # From sums about the field's middle to sums about each particle; a ridge holds the slope to the strain.
        ridge = 0.13 / (4 * np.pi / np.sqrt(3) * self.evidence.strain) ** 2
        syy, sxx = syy - 2 * y * sy + y * y * s + ridge, sxx - 2 * x * sx + x * x * s + ridge
        syx = syx - y * sx - x * sy + y * x * s
        sy, sx = sy - y * s, sx - x * s
        value, slope_y, slope_x = rest[0], rest[1] - y * rest[0], rest[2] - x * rest[0]
        det = syy * sxx - syx**2
        value = value - (sxx * sy - syx * sx) / det * slope_y - (syy * sx - syx * sy) / det * slope_x
        z = value[:, :2] + 1j * value[:, 2:]
        return z / np.maximum(np.abs(z), 1e-12)

    def fit(self, weights, lattice) -> np.ndarray:
        """How well each particle sits on the lattice that its weighted surroundings form: 3 on a site, 0 on average."""
        c = np.exp(1j * self.points @ lattice.wave_vectors[:2].T) * np.conj(self.phases(weights, lattice))
        # The third wave vector is the second minus the first.
        return c.real.sum(axis=1) + (c[:, 1] * np.conj(c[:, 0])).real


@dataclass
class _Grain:
    """A lattice and the particles on it."""

    lattice: Lattice
    members: np.ndarray  # (n,) weights, 0 to 1
    family: int  # the same for copies that look like one layer seen twice


# --- Grains ---


def _find_grains(s: _Surroundings) -> list[_Grain]:
    """Contiguous grains, each a lattice and the particles on it."""
    copies = [copy for group in _alike(_explain(s)) for copy in _copies(group, s)]
    if not copies:  # two layers half a spacing apart cancel each other's waves
        copies = _copies([_Grain(s.lattice, np.ones(s.n), 0)], s)
        copies = copies if len(copies) > 1 else []
    if not copies:
        return []
    members = np.stack([copy.members for copy in copies], axis=1)
    for _ in range(3):
        odds, fit = _lattice_evidence(members, [copy.lattice for copy in copies], s)
        weight = _presence(members, s) * odds
        members = weight / weight.sum(axis=1, keepdims=True) * (1 - s.evidence.off_lattice / odds)
    label = members.argmax(axis=1)
    grains = []
    for g, piece in _pieces(label, fit[np.arange(s.n), label] > 1.0, s):
        lattice = _polish(s.points[piece], np.ones(len(piece)), copies[g].lattice)
        mask = np.zeros(s.n)
        mask[piece] = 1.0
        grains.append(_Grain(lattice, mask, copies[g].family))
    return sorted(grains, key=lambda g: -g.members.sum())[:8]


def _explain(s) -> list[_Grain]:
    """Lattices one after the other, each in the particles that the earlier ones leave unexplained."""
    found, free = [], np.ones(s.n, bool)
    # The largest structure factor that random points reach by chance grows with the number of places searched.
    chance = (np.log(1.5 * (np.ptp(s.points, axis=0).max() / s.spacing) ** 2) + 12) / 3
    while free.sum() >= 8 and len(found) < 4:
        lattice, strength = _strongest(s.points[free], np.ones(free.sum()), 0.85 * s.spacing, 1.18 * s.spacing)
        mine = free & (s.fit(free.astype(float), lattice) > 1.5)
        if strength < chance or mine.sum() < max(8, 0.03 * s.n, 0.3 * free.sum()):
            break
        on_lattice = s.fit(mine.astype(float), lattice) > 1.2
        found.append(_Grain(lattice, (free & on_lattice).astype(float), len(found)))
        free &= ~on_lattice
    return found


def _alike(found) -> list[list[_Grain]]:
    """Groups of lattices so nearly the same (within some 4°) that their waves do not tell them apart locally."""
    groups = []
    for grain in found:
        for group in groups:
            if _distance(group[0].lattice, grain.lattice) < 0.5:
                group.append(grain)
                break
        else:
            groups.append([grain])
    return groups


def _copies(group, s, depth: int = 0) -> list[_Grain]:
    """Split a group's particles where they are several shifted copies of nearly one lattice.

    Neighbours a lattice vector apart belong together, others do not: the leading eigenvector of that signed graph is
    the best split in two, to be made if it cuts more disagreement than agreement. Each part may be split again.
    """
    member = np.sum([g.members for g in group], axis=0) > 0.2
    whole = _Grain(group[0].lattice, member.astype(float), group[0].family)
    side, agreement_cut = _split(member, [g.lattice for g in group], s)
    parts = [np.maximum(sign * side, 0) for sign in (1, -1)]
    if min(np.sum(part > 0.5) for part in parts) < max(SMALLEST_COPY, 0.03 * s.n) or agreement_cut > 0:
        return [whole]
    twins = depth == 0 and not s.two_layers and _look_like_twins(s.points[member], s.spacing)
    lattice = group[0].lattice
    halves = [_Grain(lattice, part, whole.family) for part in parts]
    if depth < 2:
        halves = [
            copy for half in halves for copy in _copies([_Grain(lattice, half.members, whole.family)], s, depth + 1)
        ]
    if depth == 0 and not twins:
        for number, half in enumerate(halves):
            half.family = -(100 * (whole.family + 1) + number)  # each a family of its own
    return halves


def _split(member, lattices, s) -> tuple[np.ndarray, float]:
    """Side (-1 to 1; 0 for particles that are no members) in the best split in two, and the agreement it cuts."""
    pair = member[s.i] & member[s.j] & (s.distance < 2.6 * s.spacing)
    i, j, d = s.i[pair], s.j[pair], s.distance[pair] / s.spacing
    step = s.points[j] - s.points[i]
    fit = np.max([np.cos(step @ lattice.wave_vectors.T).sum(axis=1) for lattice in lattices], axis=0)
    # Half the pairs a lattice vector apart, the other half anywhere.
    agreement = np.clip(np.log(0.5 * _site_density(fit, 4.0) + 0.1), -2, 2) / (1 + d**2 / 4)
    agreement[d < 0.7] = -3.0
    agreement += 0.4 * s.sign[i] * s.sign[j] * (d < 2)
    graph = s.symmetric(agreement, i, j)[member][:, member]
    if graph.count_nonzero() == 0 or graph.shape[0] < 2 * SMALLEST_COPY:  # strewn or few: nothing to split by
        return np.zeros(s.n), 0.0
    scale = sparse.diags(1 / np.sqrt(np.asarray(abs(graph).sum(axis=1)).ravel() + 1.0))
    normal = scale @ graph @ scale
    start = 1 + 0.1 * np.cos(np.arange(graph.shape[0]))
    first, second = eigsh(normal, k=2, which="LA", tol=1e-3, v0=start)[1].T[::-1]
    # Domains that hardly touch can be combined either way: the best of four starts.
    trials = [_spread(normal, v) for v in (first, second, first + second, first - second)]
    vector = max(trials, key=lambda v: v @ graph @ v)
    side = np.zeros(s.n)
    side[member] = vector
    return side, float((vector > 0) @ graph @ (vector < 0))


def _spread(graph, vector, rounds: int = 10) -> np.ndarray:
    """Let a division of a signed graph spread from where it is clear to where it is not; -1 to 1."""
    vector = vector / np.sqrt(np.mean(vector**2))
    for _ in range(rounds):
        vector = np.tanh(4.0 * (graph @ vector))
    return vector


def _look_like_twins(points, spacing) -> bool:
    """Whether copies of a lattice may be one layer seen twice, as the two ends of tilted columns.

    Tilt shifts the ends against each other, or spreads them, by less than half a spacing; it does not turn them. Of
    two layers in general position every second pair is more than 0.35 spacings apart, and they are turned.
    """
    distance, partner = (column[:, 1] for column in cKDTree(points).query(points, k=2))
    close = distance < 0.75 * spacing
    if close.any() and np.mean(distance[close] > 0.35 * spacing) > 0.42:
        return False
    # Nearer ones are mostly one particle found in both channels, and know of no turn.
    mutual = partner[partner] == np.arange(len(points))
    one = np.flatnonzero(mutual & (distance > 0.12 * spacing) & (distance < 0.5 * spacing))
    one = one[one < partner[one]]
    if len(one) < 8:
        return True
    turn, error = _turn_between(points[one], points[partner[one]])
    return bool(abs(turn) < max(0.4, 3.5 * error))


def _turn_between(ends, other_ends) -> tuple[float, float]:
    """Angle by which the ends of pairs are turned against each other, up to its sign, and its error; in degrees.

    Which end is which is not known. The step z from one to the other, as a complex number, is linear in the place ζ:
    z = ± (z0 + α ζ + β ζ*), and the imaginary part of α is the turn. The square of z has no sign and is fitted first.
    """
    step, place = (c[:, 1] + 1j * c[:, 0] for c in (other_ends - ends, 0.5 * (ends + other_ends)))
    place = place - place.mean()
    scale = np.abs(place).max()
    place = place / scale
    design = np.stack([np.ones_like(place), place, place.conj()], axis=1)
    squares = np.concatenate([design**2, design * np.roll(design, -1, axis=1)], axis=1)
    root = np.sqrt(np.linalg.lstsq(squares, step**2, rcond=None)[0][:3] + 0j)
    trials = [root * sign for sign in ([1, 1, 1], [1, 1, -1], [1, -1, 1], [1, -1, -1])]
    model = min(trials, key=lambda m: np.sum(np.abs(step**2 - (design @ m) ** 2)))
    for _ in range(5):
        sign = np.where((step * np.conj(design @ model)).real < 0, -1, 1)
        model = np.linalg.lstsq(design, sign * step, rcond=None)[0]
    variance = np.sum(np.abs(sign * step - design @ model) ** 2) / max(2 * len(step) - 6, 1)
    error = np.sqrt(variance * np.linalg.inv(design.conj().T @ design)[1, 1].real)
    return float(np.degrees(model[1].imag / scale)), float(np.degrees(error / scale))


def _pieces(label, sure, s):
    """Contiguous pieces of the particles of each label: pairs (label, indices), small ones left out."""
    same = (s.distance < 1.6 * s.spacing) & (label[s.i] == label[s.j]) & sure[s.i] & sure[s.j]
    graph = s.symmetric(np.ones(same.sum()), s.i[same], s.j[same])
    piece = connected_components(graph, directed=False)[1]
    for g in range(label.max() + 1):
        own = np.flatnonzero((label == g) & sure)
        for number, size in zip(*np.unique(piece[own], return_counts=True), strict=True):
            if size >= max(8, 0.02 * s.n):
                yield g, own[piece[own] == number]


# --- Layers of grains ---


def _layers_of_grains(grains, s) -> np.ndarray:
    """Layer (0 or 1) of each grain: the fewest particles too near to others of their layer, or upon nothing.

    All ways to colour the grains are compared. One layer is enough where two would part little but twins.
    """
    k, label = len(grains), _labels(grains)
    size = np.bincount(label[label >= 0], minlength=k)
    over = np.stack([_too_near(s.points, s.points[label == g], s.spacing) for g in range(k)], axis=1)  # (n, k)
    conflicts, weight = np.zeros((2, k, k))
    for g, h in itertools.combinations(range(k), 2):
        small, large = (g, h) if size[g] < size[h] else (h, g)
        conflicts[g, h] = np.sum(over[label == small, large])
        weight[g, h] = 0.3 if grains[g].family == grains[h].family else 1.0

    def cost(layer):
        upper = layer == (size @ layer < size @ (1 - layer))
        unsupported = np.sum(np.isin(label, np.flatnonzero(upper)) & ~over[:, ~upper].any(axis=1))
        same = np.sum(weight * conflicts * (layer[:, None] == layer))
        return same + 0.1 * size @ upper + 0.5 * unsupported

    colourings = (np.array((0, *rest)) for rest in itertools.product((0, 1), repeat=k - 1))
    layer = min((c for c in colourings if c.any()), key=cost, default=np.zeros(k, int))
    parted = conflicts * (layer[:, None] != layer)
    enough = parted.sum() > 0.3 * min(size @ layer, size @ (1 - layer))
    proper = np.sum(weight * parted) > (0.4 if s.far > 0.3 else 0.75) * parted.sum()
    return layer if s.two_layers or (enough and proper) else np.zeros(k, int)


def _labels(grains) -> np.ndarray:
    """Which grain (-1: none) each particle is in."""
    members = np.stack([np.full(len(grains[0].members), 0.5), *(g.members for g in grains)], axis=1)
    return members.argmax(axis=1) - 1


def _too_near(points, others, spacing) -> np.ndarray:
    """Which points lie too near to any of the others for one layer to hold both."""
    return cKDTree(others).query(points)[0] < 0.75 * spacing


def _join_alike(grains, layer, s) -> tuple[list[_Grain], np.ndarray]:
    """Pieces of one layer with nearly one lattice (within some 2.5°) become one grain; its phase is local anyway."""
    groups = []
    for g, grain in enumerate(grains):
        for group in groups:
            if layer[group[0]] == layer[g] and _distance(grains[group[0]].lattice, grain.lattice) < 0.35:
                group.append(g)
                break
        else:
            groups.append([g])
    joined = []
    for group in groups:
        members = np.sum([grains[g].members for g in group], axis=0)
        joined.append(_Grain(_polish(s.points, members, grains[group[0]].lattice), members, grains[group[0]].family))
    return joined, layer[[group[0] for group in groups]]


def _with_loose_layer(grains, s) -> tuple[list[_Grain], np.ndarray]:
    """A second layer too small to show a lattice: particles off the first one's sites and too near to those on them."""
    fit = np.max([s.fit(grain.members, grain.lattice) for grain in grains], axis=0)
    distance = (
        cKDTree(s.points[fit > 1.5]).query(s.points)[0] / s.spacing if np.any(fit > 1.5) else np.full(s.n, np.inf)
    )
    loose = (fit < 1.0) & (distance < 0.75)
    if s.far < 0.3 or loose.sum() < max(5, 0.1 * s.n) or np.mean(distance[loose] > 0.35) < 0.6:
        return grains, np.zeros(len(grains), int)
    layer = np.append(np.zeros(len(grains), int), 1)
    return [*grains, _Grain(None, loose.astype(float), -1)], layer


# --- Particles ---


@dataclass(frozen=True)
class _Settled:
    """The outcome of weighing all evidence."""

    probability: np.ndarray  # (n, 2) of either layer
    grain: np.ndarray  # (n,) the likeliest
    fit: np.ndarray  # (n,) to that grain's lattice
    odds: np.ndarray  # (n,) of sitting on a site of that grain here, against lying anywhere

    @property
    def of(self) -> np.ndarray:
        """The likelier layer (0 or 1)."""
        return self.probability.argmax(axis=1)

    def swapped(self) -> _Settled:
        return _Settled(self.probability[:, ::-1], self.grain, self.fit, self.odds)


def _settle(grains, layer, s, rounds: int = 10) -> _Settled:
    """Weigh all evidence on every particle until it agrees with its neighbours (mean field)."""
    lattices = [grain.lattice for grain in grains]
    members = np.stack([grain.members for grain in grains], axis=1)
    layers = np.stack([layer == 0, layer == 1], axis=1).astype(float)
    probability = members @ layers
    messages = np.zeros((2, len(s.exclusion)))
    for _ in range(rounds):
        before = probability
        odds, fit = _lattice_evidence(members, lattices, s)
        here = _presence(members, s) * odds  # (n, grains)
        in_layer = here @ layers + 1e-12
        log_odds = np.log(in_layer[:, 0] / in_layer[:, 1]) + _channel_evidence(probability, s)
        log_odds, messages = _exclude(log_odds, messages, s.i[s.exclusive], s.j[s.exclusive], s.exclusion)
        probability = np.stack([expit(log_odds), expit(-log_odds)], axis=1)
        posterior = here / (in_layer @ layers.T) * (probability @ layers.T)
        members = posterior * (1 - s.evidence.off_lattice / odds)  # who sits on no site has no say
        if np.abs(probability - before).max() < 0.02:
            break
    grain = (posterior * layers.T[probability.argmax(axis=1)]).argmax(axis=1)  # the likeliest of the likelier layer
    rows = np.arange(s.n)
    return _Settled(probability, grain, fit[rows, grain], here[rows, grain])


def _lattice_evidence(members, lattices, s) -> tuple[np.ndarray, np.ndarray]:
    """Likelihood of each particle's place if it belongs to each grain, against lying anywhere; and its fit (n, grains).

    On a lattice places follow exp(β fit), the bell curve of a periodic variable; β comes from the members' scatter.
    """
    fits, odds = np.zeros((s.n, len(lattices))), np.ones((s.n, len(lattices)))
    for g, lattice in enumerate(lattices):
        if lattice is None:  # anywhere
            continue
        fits[:, g] = fit = s.fit(members[:, g], lattice)
        on_site = members[:, g] * (fit > 1.5)
        scatter = (np.sum(on_site * (3 - fit)) + 0.8) / (on_site.sum() + 4)
        density = _site_density(fit, np.clip(0.8 / scatter, 2.0, s.evidence.sharpness))
        odds[:, g] = (1 - s.evidence.off_lattice) * density + s.evidence.off_lattice
    return odds, fits


def _site_density(fit, sharpness):
    """Density exp(β fit) over the lattice's cell, 1 on average; good for β above 1.5."""
    return np.exp(-sharpness * (3 - fit)) * sharpness * 2 * np.sqrt(3) * np.pi


def _presence(members, s) -> np.ndarray:
    """Share of each grain among the particles around each particle (n, grains): grains are contiguous."""
    return (s.near @ members + 0.01) / (s.near_sum[:, None] + 0.01 * members.shape[1])


def _channel_evidence(probability, s) -> np.ndarray:
    """Log-odds of the first layer from the channel: it says what it says for the particles around."""
    around = (s.near @ (s.sign * (probability[:, 0] - probability[:, 1]))) / (s.near_sum + 1.0)
    return s.sign * 2 * np.arctanh(s.evidence.channel * around)


def _exclude(log_odds, messages, i, j, strength, rounds: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Log-odds of the first layer after pairs that exclude each other have been heard (belief propagation).

    Messages go both ways along every pair, damped; those of the last call are the start of the next.
    """
    n, against = len(log_odds), -np.tanh(strength / 2)
    for _ in range(rounds):
        total = log_odds + np.bincount(i, messages[0], n) + np.bincount(j, messages[1], n)
        back = np.stack([total[j] - messages[1], total[i] - messages[0]])
        messages = 0.5 * messages + np.arctanh(against * np.tanh(np.clip(back, -30, 30) / 2))
    return log_odds + np.bincount(i, messages[0], n) + np.bincount(j, messages[1], n), messages


# --- Tables ---


def _two_layers(particles, settled, s) -> pd.DataFrame:
    """The table, without the second finds of particles that were found twice."""
    log_odds = np.abs(logit(np.clip(settled.probability[:, 0], 1e-9, 1 - 1e-9)))
    confidence = expit(s.evidence.head_start + log_odds / s.evidence.temperature)
    table = particles.assign(layer=settled.of + 1, grain=settled.grain, lattice_fit=settled.fit)
    table["layer_confidence"] = np.minimum(confidence, s.evidence.ceiling)
    poorer = np.where(settled.odds[s.first] < settled.odds[s.second], s.first, s.second)
    return table.drop(table.index[poorer[~_two_particles(2 * settled.odds[poorer])]])


def _two_particles(odds) -> np.ndarray:
    """Which doubles are two particles, one in each layer; how often they are is learnt from all of them."""
    share = 0.5
    for _ in range(10):
        real = share * odds / (share * odds + 1 - share)
        share = (real.sum() + 1) / (len(odds) + 2)
    return real > 0.5 if len(odds) else np.empty(0, bool)


def _one_layer(particles, grains, s) -> pd.DataFrame:
    """The table of a single layer; where particles lie too near to others it might have been two."""
    crowded = np.bincount(np.concatenate([s.i[s.exclusive], s.j[s.exclusive]]), minlength=s.n) > 0
    fits = np.stack([s.fit(grain.members, grain.lattice) for grain in grains], axis=1)
    confidence = np.where(crowded, 0.8, s.evidence.ceiling)
    return particles.assign(
        layer=1, grain=fits.argmax(axis=1), layer_confidence=confidence, lattice_fit=fits.max(axis=1)
    )


def _drop_doubles(table, diameter) -> pd.DataFrame:
    """Keep the best of particles that one layer cannot hold together: closer than half a diameter."""
    keep = np.ones(len(table), bool)
    quality = (table["score"] * table["layer_confidence"]).to_numpy()
    points, layer = table[["y", "x"]].to_numpy(), table["layer"].to_numpy()
    pairs = cKDTree(points).query_pairs(0.5 * diameter, output_type="ndarray") if len(points) else np.empty((0, 2), int)
    pairs = pairs[layer[pairs[:, 0]] == layer[pairs[:, 1]]]
    for i, j in pairs[np.argsort(-quality[pairs].max(axis=1), kind="stable")]:
        if keep[i] and keep[j]:
            keep[i if quality[i] < quality[j] else j] = False
    return table[keep].reset_index(drop=True)


def extent(points, spacing: float) -> float:
    """Area covered by points, each counting a disk of one spacing; in units of the spacing squared."""
    if len(points) == 0:
        return 0.0
    return float(len(np.unique(np.rint(np.asarray(points) / spacing).astype(int), axis=0)))


# --- Movies ---


def vote(tables: list[pd.DataFrame], diameter: float) -> tuple[list[pd.DataFrame], list[bool]]:
    """Make the layers of a movie's frames consistent: names are aligned, then each particle's track votes.

    Parameters
    ----------
    tables : list of pandas.DataFrame
        From `assign_layers`, one per frame, in order: ``y, x, score, layer, layer_confidence``.
    diameter : float
        Typical particle diameter, in the unit of ``y, x``; particles are followed over up to a quarter of it.

    Returns
    -------
    tables : list of pandas.DataFrame
        The same rows with ``layer`` and ``layer_confidence`` of the whole track; layer 1 reaches furthest over all
        frames. ``grain`` is -1 where the track overruled the frame. Of two particles that would come to lie closer
        than half a diameter in one layer the better is kept.
    exchanged : list of bool
        Frames whose layers were named the other way round; their lattices change places too.

    Notes
    -----
    Particles are followed whatever their layer, which only keeps coincident ones apart. The votes of one track are
    not independent, since frames share their ambiguities: with a correlation of 1/2, n of them count as 2 n/(n + 1).
    Explained in chapter 7, "Particles".
    """
    tables, exchanged = _aligned(tables, diameter)
    lengths = [len(table) for table in tables]
    if sum(lengths) == 0:
        return tables, exchanged
    movie = pd.concat([table.assign(frame=t) for t, table in enumerate(tables)], ignore_index=True)
    track = _tracks(movie, diameter)
    size = np.bincount(track)
    total = np.bincount(track, _log_odds(movie)) * 2 / (size + 1)
    log_odds = _keep_apart(total, track, movie, diameter)[track]
    layer = np.where(log_odds == 0, movie["layer"], np.where(log_odds > 0, 1, 2))
    confidence = np.minimum(expit(np.abs(log_odds)), max(Evidence.ceiling, movie["layer_confidence"].max()))
    if "grain" in movie:
        movie["grain"] = movie["grain"].where(layer == movie["layer"], -1)
    movie = movie.assign(layer=layer, layer_confidence=confidence)
    ends = np.cumsum(lengths)
    voted = [movie.iloc[e - n : e].drop(columns="frame") for n, e in zip(lengths, ends, strict=True)]
    return [_drop_doubles(frame, diameter) for frame in voted], exchanged


def _log_odds(table) -> np.ndarray:
    """Of layer 1, from layer and confidence."""
    confidence = np.clip(table["layer_confidence"].to_numpy(float), 0.5, 0.999)
    return np.where(table["layer"] == 1, 1.0, -1.0) * logit(confidence)


def _aligned(tables, diameter) -> tuple[list[pd.DataFrame], list[bool]]:
    """Frames with their layers' names exchanged where most particles say so; layer 1 reaches furthest in all frames."""
    tables, exchanged, before = list(tables), [False] * len(tables), None
    for t, table in enumerate(tables):
        if len(table) == 0:
            continue
        if before is not None:
            i, j = _same_particles(before, table, diameter)
            exchanged[t] = bool(np.sum(_log_odds(before)[i] * _log_odds(table)[j]) < 0)
        before = tables[t] = table.assign(layer=3 - table["layer"]) if exchanged[t] else table
    spacing = 1.35 * diameter
    reach = [sum(extent(t.loc[t["layer"] == k, ["y", "x"]].to_numpy(), spacing) for t in tables) for k in (1, 2)]
    if reach[1] > reach[0]:
        tables = [table.assign(layer=3 - table["layer"]) for table in tables]
        exchanged = [not e for e in exchanged]
    return tables, exchanged


def _same_particles(before, now, diameter):
    """Indices of particles of two frames that are mutual nearest neighbours, a common drift allowed for."""
    one, other = before[["y", "x"]].to_numpy(), now[["y", "x"]].to_numpy()
    drift = np.zeros(2)
    for _ in range(3):
        distance, j = cKDTree(other).query(one + drift)
        back = cKDTree(one + drift).query(other)[1]
        i = np.flatnonzero((back[j] == np.arange(len(one))) & (distance < 0.5 * diameter))
        drift = np.median(other[j[i]] - one[i], axis=0) if len(i) else drift
    return i, j[i]


def _tracks(movie, diameter) -> np.ndarray:
    """Number of each row's track. The layer is a third coordinate, worth 0.15 diameters."""
    trackpy.quiet()
    place = pd.DataFrame({"frame": movie["frame"], "z": 0.15 * diameter * movie["layer"]})
    drift = _drift(movie, diameter)[movie["frame"]]
    place["y"], place["x"] = (movie[["y", "x"]].to_numpy() - drift).T
    linked = trackpy.link(
        place, 0.25 * diameter, memory=2, pos_columns=["z", "y", "x"], adaptive_stop=0.05 * diameter, adaptive_step=0.8
    )
    return linked["particle"].sort_index().to_numpy()


def _drift(movie, diameter) -> np.ndarray:
    """Common shift (y, x) of each frame since the first, shape (frames, 2)."""
    frames = [frame for _, frame in movie.groupby("frame")]
    drift = np.zeros((movie["frame"].max() + 1, 2))
    for before, now in itertools.pairwise(frames):
        i, j = _same_particles(before, now, diameter)
        step = now[["y", "x"]].to_numpy()[j] - before[["y", "x"]].to_numpy()[i]
        t0, t = before["frame"].iat[0], now["frame"].iat[0]
        drift[t:] = drift[t0] + (np.median(step, axis=0) if len(step) else 0.0)
    return drift


def _keep_apart(log_odds, track, movie, diameter) -> np.ndarray:
    """Log-odds of tracks after those that come closer than half a diameter have been put into different layers."""
    met = [np.empty((0, 2), int)]
    for rows in movie.groupby("frame").indices.values():
        pairs = cKDTree(movie[["y", "x"]].to_numpy()[rows]).query_pairs(0.5 * diameter, output_type="ndarray")
        met.append(np.sort(track[rows[pairs]], axis=1))
    met = np.unique(np.concatenate(met), axis=0)
    met = met[met[:, 0] != met[:, 1]]
    messages = np.zeros((2, len(met)))
    strength = np.full(len(met), Evidence.touching)
    return _exclude(log_odds, messages, *met.T, strength, rounds=30)[0]


def twist_note(first: Lattice | None, second: Lattice | None, field) -> str:
    """What the field of view allows to say about two layers.

    Parameters
    ----------
    first, second : Lattice or None
        The largest lattice of each layer; None where there is none.
    field : tuple of float
        Height and width of the field of view, in the lattices' unit.

    Returns
    -------
    str
        Empty where the layers are told apart well; otherwise one or two sentences saying why not.

    Notes
    -----
    Two lattices are told apart by their waves alone once the field holds a Moiré period; in a smaller one, by which
    particles exclude each other and by the network. Explained in chapter 7, "Particles".
    """
    if first is None or second is None:
        return "No second lattice found: one layer, or two that this field of view does not tell apart."
    period = moire_period(first.spacing, second.angle - first.angle, second.spacing)
    view = min(field)
    if period <= view:
        return ""
    twist = fold_hexagonal(second.angle - first.angle)
    return (
        f"At a twist of {twist:.1f}° the Moiré period ({period / first.spacing:.0f} spacings) is longer than the field "
        f"of view ({view / first.spacing:.0f} spacings): which particle is in which layer is uncertain."
    )
