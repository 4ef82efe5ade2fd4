"""How many layers a frame shows: each number is a hypothesis, one is chosen (chapter 7, "Particles")."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from ..crystal.lattice import Lattice, fold_hexagonal
from ..crystal.neighbours import layer_spacings
from .completion import NOTHING_SETTLED, complete, settle_overlaps, split_particles
from .layer_assignment import assign_layers
from .layer_evidence import GRAINS
from .layers_by_points import MAYBE_THREE, THREE, merge_finds, name_by_points
from .particle_fit import FrameFit
from .profile_and_blur import Imaging
from .signed_graph import count_layers_around

FITTED = ["channel", "y", "x", "score", "diameter", "depth", "power", "shown"]


@dataclass(frozen=True)
class LayerCountRules:
    """What decides how many layers a frame shows.

    Origin of each value: S set by hand on simulated scenes of development seeds; R set by hand with parts of the real
    frame of one layer in view.
    """

    fewest: int = 3  # by hand; particles; fewer share too little to fit what particles share
    sure: float = 0.3  # S; score from which a peak of the network is a particle, whatever its neighbours are
    found_twice: float = 0.85  # R; share of sure peaks that a single layer keeps where the network found it twice
    beside: float = 0.9  # R; diameters; unsure peaks of a single layer nearer to a sure one are the same long particle

    # Two layers' lattices so alike that they may be one layer of long particles, each taken for two: both of
    alike_twist: float = 4.0  # S; degrees
    alike_misfit: float = 0.08  # S; difference of the spacings' logarithms


RULES = LayerCountRules()


@dataclass(frozen=True)
class Hypothesis:
    """A frame with a number of layers, and all that follows from it."""

    asked: int | None  # number of layers; None: as many as the lattices show
    fit: FrameFit
    particles: pd.DataFrame  # with ``layer``
    lattices: list[list[Lattice]]  # of each layer, largest grain first
    by_points: bool = False  # whether `layers_by_points` told the layers apart

    @property
    def found(self) -> int:
        """Number of layers that hold particles."""
        return self.particles["layer"].nunique()

    @cached_property
    def alike(self) -> bool:
        """Whether two of its layers differ so little that they may be one of long particles, each taken for two."""
        seen = [
            found[0] for k, found in enumerate(self.lattices, start=1) if found and k in set(self.particles["layer"])
        ]
        return any(
            fold_hexagonal(one.angle - other.angle) < RULES.alike_twist
            and abs(np.log(one.spacing / other.spacing)) < RULES.alike_misfit
            for one, other in itertools.combinations(seen, 2)
        )

    def is_enough(self, more: "Hypothesis") -> bool:
        """Whether it explains the frame as well as one with more particles, each of which must pay for its parameters.

        Then the particles are long one way and many were found twice. Otherwise two layers lie nearly upon each other.
        """
        further = len(more.particles) - len(self.particles)
        return more.fit.gain_over(self.fit) < more.fit.particle_price * further


def choose_hypothesis(hypotheses: list[Hypothesis], given: int | None = None) -> Hypothesis:
    """The fewest layers that explain the frame: more are chosen only where they explain clearly more.

    Layers in general position would have been found by their lattices, so a layer more can only be one that is nearly
    alike, or unlike. A number that is ``given`` needs no evidence.
    """
    chosen, *others = sorted(hypotheses, key=lambda hypothesis: hypothesis.asked or hypothesis.found)
    for more in others:
        likely = more.found > 1 and more.alike != more.by_points  # layers told apart by their points must not be alike
        if more.found == given or (likely and not chosen.is_enough(more)):
            chosen = more
    return chosen


# --- Proposing hypotheses ---


@dataclass(frozen=True)
class SharedByFrames:
    """What the frames of a movie have in common, known from some of them."""

    imaging: Imaging | None = None  # profile, blur and dark level, where known
    layers: int | None = None  # number of layers; None where the frames that were looked at differ
    by_points: bool = False  # whether only `layers_by_points` tells the layers apart
    given: int | None = None  # number of layers that the user gives


def propose_hypotheses(frame, detections, detect_three: Callable, diameter, shared: SharedByFrames) -> list[Hypothesis]:
    """All hypotheses that are worth a fit: what the detections of `locate` suggest, and what is as likely.

    As long as the particles show as many layers as the movie has, that number is kept: decided in every frame anew it
    would flicker, and take twice as long. Layers told apart by their points are tried where lattices show only one, and
    three where the points may show them. ``detect_three`` gives the detections of the network of three layers.
    """
    known = shared.given or (shared.layers or 2 if shared.by_points else 2 if shared.layers == 2 else None)
    if (known or 0) > 2:
        return [fit_hypothesis(frame, detect_three(), diameter, known, shared.imaging, by_points=True)]
    fit = partial(fit_hypothesis, frame, detections, diameter)
    asked = known or count_layers(detections, diameter)
    first = fit(asked, shared.imaging, shared.by_points)
    hypotheses = [first]
    kept = shared.given or shared.by_points or first.found == shared.layers
    if not kept and (asked == 1 or first.alike):
        hypotheses.append(fit(2 if asked == 1 else 1, shared.imaging or first.fit))
    best = choose_hypothesis(hypotheses, shared.given)
    undecided = not (shared.given or shared.imaging)  # in a movie, the frames that it learns from decide
    more, three = count_layers_around(merge_finds(detections, diameter), diameter) if undecided else (False, 0.0)
    if best.found < 2 and (shared.given == 2 or more):
        hypotheses.append(fit(2, best.fit, by_points=True))
    if three > MAYBE_THREE:
        most = fit_hypothesis(frame, detect_three(), diameter, 3, None, by_points=True)
        if count_layers_around(most.particles, diameter)[1] > THREE:
            hypotheses.append(most)
    return hypotheses


def count_layers(detections, diameter) -> int | None:
    """Number of layers that the sure peaks show: two; one that the network found in both channels; None if open."""
    sure = detections[detections["score"] >= RULES.sure]
    particles = assign_layers(sure, diameter)[0]
    if particles["layer"].nunique() == 2:
        return 2
    return 1 if len(particles) < RULES.found_twice * len(sure) else None


def fit_hypothesis(frame, detections, diameter, asked, like, by_points: bool = False) -> Hypothesis:
    """Fit a frame with the number of layers that is asked for (None: open), told apart by lattices or ``by_points``.

    ``like`` is for `FrameFit.start`: another fit of the frame, a known imaging, or None.
    """
    assign: Callable = partial(name_by_points if by_points else assign_layers, diameter=diameter, layers=asked)
    if asked == 1:
        detections = drop_second_peaks(detections, diameter)
    # A particle that the network put into both channels is one until the frame shows two: fitted as two, it would fall
    # apart along whatever the model of a particle does not have.
    single = merge_finds(detections, diameter) if by_points else assign(detections)[0][list(detections)]
    fit = FrameFit.start(frame, single, diameter, like).fit(1)
    if asked != 1:
        fit, single = split_particles(fit, single)
    fit, particles = find_particles(fit, single, assign, search=like is None)
    particles, lattices = assign(particles)
    return Hypothesis(asked, fit, particles, lattices, by_points)


def are_told_by_points(lattices: list[list[Lattice]]) -> bool:
    """Whether there are more than two layers, or two of spacings that `layer_assignment` does not look for."""
    low, high = GRAINS.spacing_range
    return len(lattices) > 2 or all(lattices) and not low < lattices[1][0].spacing / lattices[0][0].spacing < high


def drop_second_peaks(detections, diameter) -> pd.DataFrame:
    """Detections of a single layer: the sure ones, and others that lie upon none of them.

    Long particles, such as columns seen at a slant, have a second, lower peak each.
    """
    sure = detections["score"] >= RULES.sure
    distance = cKDTree(detections.loc[sure, ["y", "x"]]).query(detections[["y", "x"]])[0]  # infinite if none is sure
    return detections[sure | (distance > RULES.beside * diameter)].reset_index(drop=True)


# --- Particles of one hypothesis ---

MOST_ROUNDS = 3  # of completion, two where the imaging is known; by hand: later ones hardly change the particles
SAME_PLACE = 0.3  # diameters, by hand: a particle that moved less in a round is the same
CHANNEL_REACH = 2.2  # spacings: two shells of neighbours, at 1 and 1.73


def find_particles(fit: FrameFit, particles, assign: Callable, search: bool) -> tuple[FrameFit, pd.DataFrame]:
    """Fit and particles of a frame of which only the network's detections are known.

    In each round ``assign`` gives the layers, missing particles are added, false ones removed, overlaps settled. With
    ``search``, what particles share is searched for again once missing and false particles are settled.
    """
    particles, settled = fit.table(particles), NOTHING_SETTLED
    for k in range(MOST_ROUNDS - fit.known):
        known = particles[["y", "x"]].to_numpy()
        particles, _ = assign(particles)
        spacings = layer_spacings(particles[["y", "x"]].to_numpy(), particles["layer"].to_numpy(), fit.model.diameter)
        fit = fit.with_particles(particles, in_rows=True).fit(1)
        particles = complete(fit, fit.table(particles), spacings)
        if len(particles) < RULES.fewest:
            break
        fit = fit.with_particles(particles, in_rows=True)
        fit = fit.search() if search and k == 0 else fit.fit(1)
        # While what particles share is still fitted, what was settled may change.
        before = settled if fit.known else NOTHING_SETTLED
        fit, particles, settled = settle_overlaps(fit, fit.table(particles), spacings, before)
        particles = choose_channels(particles, max(spacings.values()))
        fit = fit.with_particles(particles, in_rows=True).fit(1)
        particles = fit.table(particles).reindex(columns=FITTED)
        moved = cKDTree(known).query(particles[["y", "x"]])[0]
        if len(particles) == len(known) and moved.max() < SAME_PLACE * fit.model.diameter:
            break  # the same particles as before
    return fit, particles


def choose_channels(particles: pd.DataFrame, widest: float) -> pd.DataFrame:
    """Give particles that the network did not see (channel -1) the channel of their layer's particles around them."""
    channel = particles["channel"].to_numpy().copy()
    new = np.flatnonzero(channel < 0)
    yx, layer, known = particles[["y", "x"]].to_numpy(), particles["layer"].to_numpy(), channel >= 0
    for i, near in zip(new, cKDTree(yx).query_ball_point(yx[new], CHANNEL_REACH * widest), strict=True):
        near = [j for j in near if known[j] and layer[j] == layer[i]]
        channel[i] = round(np.mean(channel[near])) if near else 0
    return particles.assign(channel=channel)
