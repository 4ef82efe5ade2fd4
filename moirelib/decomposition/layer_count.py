"""Two layers that are nearly alike, or one of long particles: the image decides (chapter 7, "Particles").

How many layers there are is seen from the particles (`layer_assignment`). Only where two are nearly alike, each number
is a hypothesis that is fitted to the frame.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from ..crystal.lattice import Lattice, fold_hexagonal
from ..crystal.neighbours import layer_spacings
from .completion import complete, settle_overlaps
from .layer_assignment import assign_layers, merge_finds
from .particle_fit import FrameFit
from .profile_and_blur import Imaging

FITTED = ["side", "y", "x", "score", "diameter", "depth"]


@dataclass(frozen=True)
class LayerCountRules:
    """What decides whether two layers that are nearly alike are one.

    Origin of each value: S set by hand on simulated scenes of development seeds; R set by hand with parts of the real
    frame of one layer in view.
    """

    sure: float = 0.3  # S; score from which a peak of the network is a particle, whatever its neighbours are
    found_once: float = 0.9  # S; particles over finds, below which each find is tried as a particle
    beside: float = 0.9  # R; diameters; unsure peaks of a single layer nearer to a sure one are the same long particle

    # Two layers' lattices so alike that they may be one layer of long particles, each taken for two: all of
    alike_twist: float = 4.0  # S; degrees
    alike_misfit: float = 0.08  # S; difference of the spacings' logarithms
    alike_distance: float = 0.5  # S; spacings; median distance from a particle to the nearest of the other layer

    # Fewer layers are enough if they have less than this share of the particles and leave less than this times as much
    # of the frame unexplained. Measured: in parts of the real frame of one layer, 0.5 to 0.55 as many particles leave
    # 1.0 to 1.4 times as much, and 0.7 to 0.77 as many 0.9 to 1.0 times. In simulated frames of two layers at twists of
    # 1 to 3°, 0.7 to 0.95 as many leave 1.15 to 1.95 times as much.
    enough: tuple[tuple[float, float], ...] = ((0.7, 1.45), (0.8, 1.07))  # R and S; either pair


@dataclass(frozen=True)
class LayerEvidence:
    """What counts in the choice between hypotheses."""

    particles: int  # how many the hypothesis needs
    unexplained: float  # standard deviation of what it leaves of the frame, as of white noise per pixel
    alike: bool  # two of its layers may be one


@dataclass(frozen=True)
class Hypothesis:
    """A frame with a number of layers, and all that follows from it."""

    asked: int | None  # number of layers; None: as many as the lattices show
    fit: FrameFit
    particles: pd.DataFrame  # with ``layer``
    lattices: list[Lattice | None]  # the main one of each layer
    rules: LayerCountRules

    @property
    def found(self) -> int:
        """Number of layers that hold particles."""
        return self.particles["layer"].nunique()

    @cached_property
    def evidence(self) -> LayerEvidence:
        """The hypothesis' score."""
        alike = has_alike_layers(self.particles, self.lattices, self.rules)
        return LayerEvidence(len(self.particles), self.fit.unexplained(), alike)


def choose_hypothesis(hypotheses: list[Hypothesis]) -> Hypothesis:
    """The fewest layers that explain the frame: more are chosen only where they explain clearly more.

    More layers in general position would have been found by their lattices; here only layers that are nearly alike
    can be an addition.
    """
    chosen, *others = sorted(hypotheses, key=lambda hypothesis: hypothesis.asked or hypothesis.found)
    for more in others:
        if more.evidence.alike and not is_enough(chosen.evidence, more.evidence, chosen.rules):
            chosen = more
    return chosen


def is_enough(fewer: LayerEvidence, more: LayerEvidence, rules: LayerCountRules) -> bool:
    """Whether fewer layers explain a frame as well as more do.

    Then the particles are long one way and many were found twice. Otherwise two layers lie nearly upon each other.
    """
    share, left = fewer.particles / more.particles, fewer.unexplained / more.unexplained
    return any(share < most and left < limit for most, limit in rules.enough)


def has_alike_layers(particles: pd.DataFrame, lattices: list[Lattice | None], rules: LayerCountRules) -> bool:
    """Whether two layers differ so little that they may be one layer of long particles, each taken for two."""
    shown = [(k, found) for k, found in enumerate(lattices, start=1) if found]
    places = {k: group.to_numpy() for k, group in particles.groupby("layer")[["y", "x"]]}
    for (k, one), (m, other) in itertools.combinations(shown, 2):
        if k not in places or m not in places:
            continue
        apart = np.median(cKDTree(places[k]).query(places[m])[0])
        twist, misfit = fold_hexagonal(one.angle - other.angle), abs(np.log(one.spacing / other.spacing))
        if twist < rules.alike_twist and misfit < rules.alike_misfit and apart < rules.alike_distance * one.spacing:
            return True
    return False


# --- Proposing hypotheses ---


@dataclass(frozen=True)
class SharedByFrames:
    """What the frames of a movie have in common, known from some of them."""

    imaging: Imaging  # profile, blur and dark level
    layers: int | None  # number of layers; None where the frames that were looked at differ


def propose_hypotheses(
    frame: np.ndarray,
    detections: pd.DataFrame,
    diameter: float,
    shared: SharedByFrames | None = None,
    layers: int | None = None,
    rules: LayerCountRules | None = None,
) -> list[Hypothesis]:
    """The hypothesis that the network's finds suggest and, where two of its layers are nearly alike, one with fewer.

    Where many are found in both channels, each find is a particle at first: two layers may lie nearly upon each other.
    Where ``layers`` are given, or the movie's number is known, there is one hypothesis: decided in every frame anew
    it would flicker, and take twice as long.
    """
    rules = LayerCountRules() if rules is None else rules
    imaging, usual = (None, None) if shared is None else (shared.imaging, shared.layers)
    known = usual if layers is None else layers
    finds = merge_finds(detections, diameter)
    hypotheses = [fit_hypothesis(frame, finds, diameter, known, imaging, None, rules)]
    if known is None and hypotheses[0].evidence.alike and len(finds) < rules.found_once * len(detections):
        apart = merge_finds(detections, diameter, reach=0.0)
        hypotheses = [fit_hypothesis(frame, apart, diameter, 2, imaging, hypotheses[0].fit, rules)]
    while known is None and (last := hypotheses[-1]).found > 1 and last.evidence.alike:
        hypotheses.append(fit_hypothesis(frame, finds, diameter, last.found - 1, imaging, last.fit, rules))
    return hypotheses


def fit_hypothesis(
    frame,
    finds,
    diameter,
    asked: int | None,
    imaging: Imaging | None,
    like: FrameFit | None,
    rules: LayerCountRules,
) -> Hypothesis:
    """Fit a frame with the number of layers that is asked for (None: open).

    What the particles share is ``imaging`` or, if that is not known, fitted on from the fit ``like``.
    """
    if asked == 1:
        # A particle found twice is one: fitted as two, it would fall apart along whatever the model does not have.
        finds = assign_layers(drop_second_peaks(finds, diameter, rules), diameter, 1)[0][list(finds)]
    fit = FrameFit.start(frame, finds, diameter, imaging, like).fit(2 if imaging is None else 1)
    fit, particles = find_particles(fit, finds, asked)
    particles, lattices = assign_layers(particles, diameter, asked)
    return Hypothesis(asked, fit, particles, lattices, rules)


def drop_second_peaks(finds, diameter, rules) -> pd.DataFrame:
    """Finds of a single layer: the sure ones, and others that lie upon none of them.

    Long particles, such as columns seen at a slant, have a second, lower peak each.
    """
    sure = finds["score"] >= rules.sure
    tree = cKDTree(finds.loc[sure, ["y", "x"]])
    alone = tree.query(finds[["y", "x"]])[0] > rules.beside * diameter if sure.any() else ~sure
    return finds[sure | alone].reset_index(drop=True)


# --- Particles of one hypothesis ---

FEWEST = 3  # particles, by hand; fewer share too little to fit what particles share
MOST_ROUNDS = 3  # of completion, two where the imaging is known; by hand: later ones hardly change the particles
SAME_PLACE = 0.3  # diameters, by hand: a particle that moved less in a round is the same


def find_particles(fit: FrameFit, particles: pd.DataFrame, layers: int | None) -> tuple[FrameFit, pd.DataFrame]:
    """Fit and particles of a frame of which only the network's finds are known; ``layers`` where that is known."""
    particles = fit.table(particles)
    for _ in range(MOST_ROUNDS - fit.known):
        known = particles[["y", "x"]].to_numpy()
        fit, particles, spacings = complete_once(fit, particles, layers)
        if len(particles) < FEWEST:
            break
        fit, particles = settle_overlaps(fit, particles, spacings)
        fit = fit.with_particles(particles, in_rows=True).fit(1)
        particles = fit.table(particles)[[*FITTED, "shown"]]
        moved = cKDTree(known).query(particles[["y", "x"]])[0]
        if len(particles) == len(known) and moved.max() < SAME_PLACE * fit.model.diameter:
            break  # the same particles as before
    return fit, particles


def complete_once(fit, particles, layers) -> tuple[FrameFit, pd.DataFrame, dict[int, float]]:
    """Layers of the particles, then missing particles added and false ones removed, then the fit; and the spacings."""
    diameter = fit.model.diameter
    particles, _ = assign_layers(particles, diameter, layers)
    spacings = layer_spacings(particles[["y", "x"]].to_numpy(), particles["layer"].to_numpy(), diameter)
    fit = fit.with_particles(particles, in_rows=True).fit(1)
    particles = complete(fit, fit.table(particles), spacings)
    if len(particles) >= FEWEST:
        fit = fit.with_particles(particles, in_rows=True).fit(1)
        particles = fit.table(particles)
    return fit, particles, spacings
