"""Decide which layer every particle belongs to, and say how sure that is (chapter 7, "Particles")."""

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree
from scipy.special import expit, logit, softmax

from ..crystal.lattice import Lattice
from ..crystal.neighbours import extent
from .layer_evidence import GRAINS, Evidence, Surroundings, weigh_grains
from .overlapping_grains import Grain, add_loose_layer, assign_grains, find_overlapping_grains, join_similar_grains
from .signed_graph import DOUBLE_REACH, WORTH_KEEPING

# Rounds, by hand: of all evidence; of pairs, whose messages go on from call to call; of the share of double finds.
EVIDENCE_ROUNDS, PAIR_ROUNDS, SHARE_ROUNDS = 10, 5, 10
DAMPING = 0.5  # of messages, by hand: kept share, against oscillation


def assign_layers(
    particles: pd.DataFrame, diameter: float, evidence: Evidence | None = None, layers: int | None = None
) -> tuple[pd.DataFrame, list[list[Lattice]]]:
    """Decide which layer every particle belongs to; layer 1 is the one that reaches furthest.

    The network separates the layers locally, but its two channels may change places from region to region. Lattices do
    not: they are found in all particles together, and contiguous grains on them. Grains that overlap in projection go
    to different layers, grains that only meet go to the same one. Then four kinds of evidence decide for each particle:
    its fit to each grain's lattice around it, the grains of its neighbours, their channels, and neighbours that are too
    near to be in the same layer. Small fields, and twists whose Moiré period is longer than the field, leave less; see
    `moirelib.decomposition.twist_note`.

    ``particles`` have ``channel`` (0 or 1), ``y, x, score``; ``diameter``, NaN where it was not fitted; ``shown``,
    whether the fit to the frame has shown that one lies upon another, False before. ``diameter`` is the typical one, in
    the unit of ``y, x``. ``layers`` says how many there are, 1 or 2, where that is known or to be tried.

    Gives the particles with ``layer`` (1 or 2), ``grain`` (-1 where none), ``layer_confidence`` (probability that the
    layer is right; 0.5 is a guess), ``other_layer`` (that of a whole region that can be named two ways; 0 elsewhere)
    and ``lattice_fit`` (3 on a site of its grain, 0 on average), of which one found twice in one layer is kept once;
    and the lattices of layer 1 and of layer 2, largest grain first.
    """
    particles, grains = particles.assign(other_layer=0), list[Grain]()
    if len(particles) >= GRAINS.fewest:
        around = Surroundings(particles, diameter, evidence or Evidence())
        grains = find_overlapping_grains(around)
    if not grains:  # too few particles for a lattice: their channels, with the confidence of a guess
        first = particles["channel"].isin(particles["channel"].value_counts().index[:1]) | (layers == 1)
        table = particles.assign(layer=np.where(first, 1, 2), grain=-1, layer_confidence=0.5, lattice_fit=0.0)
        return drop_doubles(table, diameter), [[], []]
    doubt = np.zeros(len(particles))  # that the grain is in the other layer
    if layers != 1:
        grains, doubt = assign_grains(grains, particles, around, two=layers == 2)
    grains = join_similar_grains(grains, around)
    if layers != 1 and not any(grain.layer for grain in grains):
        grains = add_loose_layer(grains, around)
    order = [0, 1]
    if not any(grain.layer for grain in grains):
        table = tabulate_one_layer(particles, grains, around)
    else:
        probability, grain, fit, odds = weigh_evidence(grains, around)
        second = probability.argmax(axis=1) == 1
        if extent(around.positions[second], around.spacing) > extent(around.positions[~second], around.spacing):
            order = [1, 0]
        table = tabulate_two_layers(particles, probability[:, order], grain, fit, odds, doubt, around)
    by_size = sorted(grains, key=lambda grain: -grain.members.sum())
    lattices = [[grain.lattice for grain in by_size if grain.layer == k and grain.lattice] for k in order]
    return drop_doubles(table, diameter), lattices


def weigh_evidence(grains: list[Grain], around: Surroundings, rounds: int = EVIDENCE_ROUNDS):
    """Weigh all evidence on every particle until it agrees with its neighbours (mean field).

    Gives the probability (n, 2) of either layer and, (n,), the likeliest grain, the fit to its lattice, and the odds of
    sitting on a site of it here, against lying anywhere.
    """
    lattices = [grain.lattice for grain in grains]
    members = np.stack([grain.members for grain in grains], axis=1)
    layers = np.array([[grain.layer == 0, grain.layer == 1] for grain in grains], float)
    probability = members @ layers
    messages = np.zeros((2, len(around.crowded_pairs), 2))
    for _ in range(rounds):
        before = probability
        here, odds, fit = weigh_grains(members, lattices, around)
        in_layer = here @ layers + 1e-12
        half = 0.5 * (np.log(in_layer[:, 0] / in_layer[:, 1]) + weigh_channels(probability, around))
        own = np.stack([half, -half], axis=1)
        own, messages = exclude_pairs(own, messages, around.crowded_pairs, around.crowded_odds)
        probability = softmax(own, axis=1)
        posterior = here / (in_layer @ layers.T) * (probability @ layers.T)
        # Particles that sit on no site do not count for the lattices.
        members = posterior * (1 - around.evidence.off_lattice / odds)
        if np.abs(probability - before).max() < around.evidence.converged:
            break
    grain = (posterior * layers.T[probability.argmax(axis=1)]).argmax(axis=1)  # the likeliest of the likelier layer
    rows = np.arange(around.count)
    return probability, grain, fit[rows, grain], here[rows, grain]


def weigh_channels(probability, around) -> np.ndarray:
    """Log-odds of the first layer from the channels of the particles around and the layers they are in."""
    sign, evidence = around.channel_sign, around.evidence
    agreement = around.grain_weights @ (sign * (probability[:, 0] - probability[:, 1]))
    agreement = agreement / (around.grain_weight_sum + evidence.channel_doubt)
    return sign * 2 * np.arctanh(evidence.channel * agreement)


def exclude_pairs(own, messages, pairs, strength, rounds: int = PAIR_ROUNDS) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities (n, layers), given pairs (m, 2) that are unlikely to be in one layer (belief propagation).

    ``strength`` (m,) is the log-odds against one layer. Messages (2, m, layers) go both ways along every pair, damped;
    those of the last call are the start of the next.
    """
    (i, j), n, against = pairs.T, len(own), -np.expm1(-strength)[:, None]

    def collect() -> np.ndarray:
        columns = zip(*messages.transpose(0, 2, 1), strict=True)
        return own + np.stack([np.bincount(i, a, n) + np.bincount(j, b, n) for a, b in columns], axis=1)

    for _ in range(rounds):
        total = collect()
        back = np.stack([total[j] - messages[1], total[i] - messages[0]])
        messages = DAMPING * messages + (1 - DAMPING) * np.log1p(-against * softmax(back, axis=-1))
    return collect(), messages


def tabulate_two_layers(particles, probability, grain, fit, odds, doubt, around: Surroundings) -> pd.DataFrame:
    """The table of two layers, without the second finds of particles that were found twice."""
    evidence, layer = around.evidence, probability.argmax(axis=1) + 1
    log_odds = np.abs(logit(np.clip(probability[:, 0], 1e-9, 1 - 1e-9)))
    confidence = expit(evidence.head_start + log_odds / evidence.temperature)
    confidence = np.clip(np.minimum(confidence, 1 - doubt), 0.5, evidence.ceiling)
    other = np.where(doubt > WORTH_KEEPING, 3 - layer, 0)
    table = particles.assign(layer=layer, grain=grain, lattice_fit=fit, layer_confidence=confidence, other_layer=other)
    first, second = around.double_finds.T
    poorer = np.where(odds[first] < odds[second], first, second)
    return table.drop(table.index[poorer[~judge_doubles(evidence.double_odds * odds[poorer])]])


def judge_doubles(odds) -> np.ndarray:
    """Which double finds are two particles, one in each layer; their share is learnt from all of them."""
    share = 0.5
    for _ in range(SHARE_ROUNDS):
        real = share * odds / (share * odds + 1 - share)
        share = (real.sum() + 1) / (len(odds) + 2)
    return real > 0.5 if len(odds) else np.empty(0, bool)


def tabulate_one_layer(particles, grains: list[Grain], around: Surroundings) -> pd.DataFrame:
    """The table of a single layer; where particles lie too near to others there might be two."""
    crowded = np.bincount(around.crowded_pairs.ravel(), minlength=around.count) > 0
    fits = np.stack([around.fit(grain.members, grain.lattice) for grain in grains], axis=1)
    confidence = np.where(crowded, around.evidence.crowded_confidence, around.evidence.ceiling)
    return particles.assign(layer=1, grain=fits.argmax(1), layer_confidence=confidence, lattice_fit=fits.max(1))


def drop_doubles(table, diameter) -> pd.DataFrame:
    """Keep the better of two particles of one layer that are closer than half a diameter."""
    quality = (table["score"] * table["layer_confidence"]).to_numpy()
    keep = find_better(table[["y", "x"]].to_numpy(), table["layer"].to_numpy(), quality, diameter)
    return (table if keep.all() else table[keep]).reset_index(drop=True)


def find_better(points, layer, quality, diameter) -> np.ndarray:
    """Whether each particle is kept (n,), where of two that one layer cannot hold the one of better quality is."""
    keep = np.ones(len(points), bool)
    pairs = cKDTree(points).query_pairs(DOUBLE_REACH * diameter, output_type="ndarray")
    pairs = pairs[layer[pairs[:, 0]] == layer[pairs[:, 1]]]
    for i, j in pairs[np.argsort(-quality[pairs].max(axis=1), kind="stable")]:
        if keep[i] and keep[j]:
            keep[i if quality[i] < quality[j] else j] = False
    return keep
