"""The particles of a frame, their neighbours, and what evidence on a layer is worth (chapter 7, "Particles")."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.spatial import cKDTree

from ..crystal.fourier import find_strongest
from ..crystal.matching import pair_mutually_nearest


@dataclass(frozen=True)
class GrainSettings:
    """What counts as a lattice, a grain, and a second layer.

    Origin of each value: G geometry of the hexagonal lattice; S set by hand on simulated scenes of development seeds;
    R set by hand with the real frame of one layer in view. No calibration command exists for S and R.
    """

    # Lattices. The fit to a lattice is 3 on a site and 1.5 at 0.2 spacings from it.
    fewest: int = 8  # S; particles of a lattice, a grain or a copy
    lattices: int = 4  # S; most lattices, found one after the other
    chance: float = 12.0  # S; minus the logarithm of the probability that random points pass for a lattice
    trials: float = 1.5  # S; independent lattices that random points offer, per squared spacing of the field
    spacing_range: tuple[float, float] = (0.85, 1.18)  # S; spacings of further lattices over that of the strongest
    on_site: float = 1.5  # G; fit of particles that lie on a lattice, within 0.2 spacings
    explained: float = 1.2  # S; fit of particles that a further lattice need not explain
    in_grain: float = 1.0  # S; fit of particles that a grain is made of
    smallest_lattice: float = 0.03  # S; share of all particles on the smallest lattice or copy
    smallest_rest: float = 0.3  # S; share of the unexplained particles that a further lattice must explain
    smallest_grain: float = 0.02  # S; share of all particles in the smallest grain
    member: float = 0.2  # S; weight from which a particle is a member of a lattice
    contact: float = 1.6  # G; spacings: neighbours in a grain are 1 apart, second neighbours 1.73
    sharing_rounds: int = 3  # S; after which the members of overlapping copies hardly change

    # Lattices so alike that they are one, in `lattice_distance`: 7.3 times the twist in radians.
    alike: float = 0.5  # S; 4°: their waves do not tell them apart within a few spacings
    same: float = 0.35  # S; 2.5°: pieces of one grain; the phase is fitted locally anyway

    # Copies of one lattice: a signed graph of pairs.
    pair_reach: float = 2.6  # G; spacings: the first three shells lie at 1, 1.73 and 2, the fourth at 2.65
    pair_sharpness: float = 4.0  # S; inverse variance of the phase of a step between two particles, 1/rad²
    pair_limit: float = 2.0  # S; largest agreement of a pair, log-odds
    pair_decay: float = 2.0  # S; spacings at which a pair counts half
    pair_background: float = 0.1  # S; density of steps that follow no lattice, over that of a uniform one
    excluded: float = 0.7  # S; spacings; a nearer pair is in two copies
    excluded_agreement: float = -3.0  # S; log-odds of such a pair
    channel_agreement: float = 0.4  # S; log-odds for a pair in one channel, against one in two
    channel_reach: float = 2.0  # S; spacings up to which channels are compared
    sharpening: float = 4.0  # S; steepness with which a division of the graph spreads
    spreading_rounds: int = 10  # by hand; in which a division of the graph spreads
    on_side: float = 0.5  # by hand; membership (0 to 1) from which a particle counts for the size of a part
    deepest: int = 2  # S; a copy is split at most this often again

    # Layers of grains.
    too_near: float = 0.75  # G; spacings: one layer holds no two particles nearer
    apart: float = 0.35  # G; spacings; of two layers in general position 56 % of the pairs are further: 1 - 0.35² 2π/√3
    resolved: float = 0.3  # S; share of the smaller layer's particles that lie too near to others for one layer
    pairs_apart: float = 0.3  # R; share of particles in too near pairs that are `apart`; no single layer has so many

    # A second layer too small to show a lattice.
    loose: int = 5  # S; fewest particles, and
    loose_share: float = 0.1  # S; their smallest share of all
    loose_apart: float = 0.6  # S; share of them further than `apart` from the first layer's particles


GRAINS = GrainSettings()


@dataclass(frozen=True)
class Evidence:
    """What each piece of evidence on a particle's layer is worth.

    Values without another source are set by hand on simulated scenes of development seeds.
    """

    # Log-odds against one layer for two particles near each other:
    touching: float = 6.0  # nearer than ``touch_limit``
    crowded: float = 3.0  # nearer than ``crowd_limit``; at most interstitials are
    shown: float = 12.0  # nearer than ``shown_limit``, and the fit to the frame has shown that they are two
    touch_limit: float = 0.8  # diameters (mean of both)
    crowd_limit: tuple[float, float] = (0.88, 0.7)  # diameters, spacings; either
    shown_limit: float = 0.6  # diameters
    double_limit: float = 0.3  # diameters; finds in both channels nearer than this may be one particle found twice
    diameter_range: tuple[float, float] = (0.7, 1.3)  # typical diameters to which measured ones are limited

    # Surroundings of a particle: Gaussian weights, cut off at ``cutoff`` standard deviations.
    reach: float = 2.25  # spacings, standard deviation of the surroundings that set a lattice's local phase
    contiguity: float = 1.4  # spacings, the same of those that say which grains are here
    cutoff: float = 2.2  # weights below 9 % of the largest are left out
    spacing_range: tuple[float, float] = (1.0, 2.2)  # diameters: of touching particles to twice as far apart

    # Lattices.
    strain: float = 0.025  # expected slow change of a grain's spacing and direction
    phase_variance: float = 0.13  # rad²; a scatter of 5 % of a spacing, (4π/√3 · 0.05)²
    off_lattice: float = 0.05  # share of particles that sit on no site: interstitials, cores, false finds
    sharpness: tuple[float, float] = (2.0, 15.0)  # inverse phase variance, 1/rad²; 15: a scatter of 3 % of a spacing
    sharpness_share: float = 0.8  # of the inverse of the measured scatter, which leaves particles off the sites out
    scatter: tuple[float, float] = (0.2, 4.0)  # expected scatter, 3 minus the fit, and the particles that it stands for
    presence: float = 0.01  # weight of every grain where no particle is near

    # Channels.
    channel: float = 0.9  # agreement with its neighbours' channels that a particle's own channel is trusted to
    channel_doubt: float = 1.0  # summed weight of the neighbours at which their channels count half
    double_odds: float = 2.0  # of two particles at one place, over the odds that the poorer of the finds has by itself

    converged: float = 0.02  # largest change of a probability at which the rounds end

    # The side that the evidence favours is right more often than close evidence says, in log-odds, and less often than
    # strong evidence says. benchmarks/calibrate_confidence.py fits 1.0 and 1.3; scenes harder than its own would be
    # given too much confidence with so large a head start.
    head_start: float = 0.5
    temperature: float = 1.3
    ceiling: float = 0.999  # highest confidence: one grain in a few hundred is in the wrong layer
    crowded_confidence: float = 0.8  # of a particle of a single layer that lies too near to another one


class Surroundings:
    """The particles of a frame, who is near whom, and what follows from that alone. Lengths in pixels."""

    def __init__(self, particles: pd.DataFrame, diameter: float, evidence: Evidence):
        self.evidence, self.diameter = evidence, diameter
        self.positions, self.count = particles[["y", "x"]].to_numpy(float), len(particles)
        self.channel_sign = np.where(particles["channel"] == 0, 1.0, -1.0)  # (n,), of the network's two channels
        low, high = (limit * diameter for limit in evidence.spacing_range)
        # The strongest lattice in all particles together.
        self.lattice = find_strongest(self.positions, np.ones(self.count), low, high, self.channel_sign)[0]
        self.spacing = self.lattice.spacing
        tree = cKDTree(self.positions)
        # Pairs (m, 2) within the reach of the evidence, and their distances.
        self.pairs = tree.query_pairs(evidence.cutoff * evidence.reach * self.spacing, output_type="ndarray")
        self.pair_distance = np.hypot(*(self.positions[self.pairs[:, 0]] - self.positions[self.pairs[:, 1]]).T)
        # What neighbours count (n, n) for a lattice's local phase, and for which grain is here; 0 on the diagonal.
        self.phase_weights = self._weigh_neighbours(evidence.reach)
        self.grain_weights = self._weigh_neighbours(evidence.contiguity)
        self.grain_weight_sum = np.asarray(self.grain_weights.sum(axis=1)).ravel()
        shown = particles["shown"].to_numpy(bool)
        self.crowded_pairs, self.crowded_odds = self._find_crowded_pairs(particles, shown)
        # Pairs (d, 2) found in both channels at one place: two particles, or one found twice; not those shown as two.
        first, second = (np.flatnonzero(self.channel_sign == sign) for sign in (1, -1))
        reach = evidence.double_limit * diameter
        i, j = pair_mutually_nearest(self.positions[first], self.positions[second], reach)
        doubles = np.stack([first[i], second[j]], axis=1)
        self.double_finds = doubles[~shown[doubles].all(axis=1)]

    def _weigh_neighbours(self, width):
        """Gaussian weights by distance, ``width`` in spacings."""
        near = self.pair_distance < self.evidence.cutoff * width * self.spacing
        weight = np.exp(-0.5 * (self.pair_distance[near] / (width * self.spacing)) ** 2)
        return self.symmetric_matrix(weight, self.pairs[near])

    def symmetric_matrix(self, values, pairs) -> sparse.csr_matrix:
        """Sparse matrix (n, n) from one value per pair."""
        index = np.concatenate([pairs, pairs[:, ::-1]]).T
        return sparse.csr_matrix((np.concatenate([values, values]), index), shape=(self.count, self.count))

    def _find_crowded_pairs(self, particles, shown):
        """Pairs too near for one layer, and the log-odds against it."""
        evidence, diameter, distance = self.evidence, self.diameter, self.pair_distance
        least, most = (limit * diameter for limit in evidence.diameter_range)
        diameters = particles["diameter"].fillna(diameter).clip(least, most).to_numpy()
        touch = 0.5 * (diameters[self.pairs[:, 0]] + diameters[self.pairs[:, 1]])
        of_diameters, of_spacings = evidence.crowd_limit
        crowded = (distance < of_diameters * touch) | (distance < of_spacings * self.spacing)
        odds = np.where(distance < evidence.touch_limit * touch, evidence.touching, evidence.crowded)
        two = shown[self.pairs].all(axis=1) & (distance < evidence.shown_limit * diameter)
        return self.pairs[crowded], np.where(two, evidence.shown, odds)[crowded]

    def fit(self, weights, lattice) -> np.ndarray:
        """How well each particle sits on the lattice that its weighted surroundings form: 3 on a site, 0 on average.

        The surroundings give the phases of two of the lattice's waves at each particle: a plane is fitted to the waves
        (local linear regression), so that neither slow strain nor a one-sided neighbourhood does harm. A particle does
        not count for its own phase.
        """
        c = np.exp(1j * self.positions @ lattice.wave_vectors[:2].T)
        wave = np.concatenate([c.real, c.imag], axis=1)  # (n, 4)
        y, x = (self.positions - self.positions.mean(axis=0)).T[:, :, None] / self.spacing
        moments = np.concatenate([np.ones_like(y), y, x, y * y, y * x, x * x, wave, wave * y, wave * x], axis=1)
        sums = self.phase_weights @ (weights[:, None] * moments)
        s, sy, sx, syy, syx, sxx, *rest = np.split(sums, [1, 2, 3, 4, 5, 6, 10, 14], axis=1)
        # From sums about the field's middle to sums about each particle. A ridge limits the slope to the strain.
        ridge = self.evidence.phase_variance / (4 * np.pi / np.sqrt(3) * self.evidence.strain) ** 2
        syy, sxx = syy - 2 * y * sy + y * y * s + ridge, sxx - 2 * x * sx + x * x * s + ridge
        syx = syx - y * sx - x * sy + y * x * s
        sy, sx = sy - y * s, sx - x * s
        value, slope_y, slope_x = rest[0], rest[1] - y * rest[0], rest[2] - x * rest[0]
        det = syy * sxx - syx**2
        value = value - (sxx * sy - syx * sx) / det * slope_y - (syy * sx - syx * sy) / det * slope_x
        z = value[:, :2] + 1j * value[:, 2:]
        z = z / np.maximum(np.abs(z), 1e-12)  # no division by zero where no neighbour is near
        c = c * np.conj(z)
        # The third wave vector is the second minus the first.
        return c.real.sum(axis=1) + (c[:, 1] * np.conj(c[:, 0])).real


def weigh_grains(members, lattices, around: Surroundings) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How likely each particle is in each grain, the likelihood of its place alone, and its fit; all (n, grains).

    The first is the second times the grain's share of the particles around: grains are contiguous. The likelihood is
    that against lying anywhere: on a lattice places follow exp(β fit), the bell curve of a periodic variable; β comes
    from the members' scatter.
    """
    evidence = around.evidence
    expected, worth = evidence.scatter
    fits, odds = np.zeros((around.count, len(lattices))), np.ones((around.count, len(lattices)))
    for g, lattice in enumerate(lattices):
        if lattice is None:  # anywhere
            continue
        fits[:, g] = fit = around.fit(members[:, g], lattice)
        on_site = members[:, g] * (fit > GRAINS.on_site)
        scatter = (np.sum(on_site * (3 - fit)) + expected * worth) / (on_site.sum() + worth)
        density = site_density(fit, np.clip(evidence.sharpness_share / scatter, *evidence.sharpness))
        odds[:, g] = (1 - evidence.off_lattice) * density + evidence.off_lattice
    share = around.grain_weights @ members + evidence.presence
    share /= around.grain_weight_sum[:, None] + evidence.presence * members.shape[1]
    return share * odds, odds, fits


def site_density(fit, sharpness):
    """Density exp(β fit) over the lattice's cell, 1 on average; good for a sharpness β above 1.5."""
    return np.exp(-sharpness * (3 - fit)) * sharpness * 2 * np.sqrt(3) * np.pi
