"""The particles of a frame, their neighbours, and what each piece of evidence on a layer is worth.

Explained in chapter 7, "Particles".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.spatial import cKDTree

from ..crystal.fourier import find_strongest
from ..crystal.neighbours import extent

__all__ = ["Evidence"]


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


class Surroundings:
    """The particles, who is near whom, and what follows from that alone. Lengths in pixels."""

    def __init__(self, particles, diameter, evidence, two_layers=False):
        self.two_layers = two_layers  # known: nothing is taken for one layer seen twice
        self.points = particles[["y", "x"]].to_numpy(float)
        self.n, self.evidence, self.diameter = len(particles), evidence, diameter
        channel = particles["channel"].to_numpy()
        self.sign = np.where(channel == 0, 1.0, -1.0)
        self.lattice = find_strongest(self.points, np.ones(self.n), diameter, 2.2 * diameter, self.sign)[0]
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


def lattice_evidence(members, lattices, s) -> tuple[np.ndarray, np.ndarray]:
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
        density = site_density(fit, np.clip(0.8 / scatter, 2.0, s.evidence.sharpness))
        odds[:, g] = (1 - s.evidence.off_lattice) * density + s.evidence.off_lattice
    return odds, fits


def site_density(fit, sharpness):
    """Density exp(β fit) over the lattice's cell, 1 on average; good for β above 1.5."""
    return np.exp(-sharpness * (3 - fit)) * sharpness * 2 * np.sqrt(3) * np.pi


def grain_presence(members, s) -> np.ndarray:
    """Share of each grain among the particles around each particle (n, grains): grains are contiguous."""
    return (s.near @ members + 0.01) / (s.near_sum[:, None] + 0.01 * members.shape[1])
