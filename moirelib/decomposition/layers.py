"""Decide which layer every particle belongs to, and say how sure that is.

A points problem: lattices are found in all particles together, contiguous grains on them, and layers from how the
grains lie over each other; then every particle weighs its evidence. In movies, tracks vote.

Explained in chapter 7, "Particles".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree
from scipy.special import expit, logit

from ..crystal.lattice import Lattice, fold_hexagonal, moire_period
from .evidence import Evidence, Surroundings, grain_presence, lattice_evidence
from .grains import add_loose_layer, find_overlapping_grains, join_similar_grains, layers_of_grains

__all__ = ["assign_layers", "twist_note"]


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
    surroundings = Surroundings(particles, diameter, evidence, two_layers=layers == 2)
    grains = find_overlapping_grains(surroundings)
    if not grains:
        return _name_by_channel(particles), [[], []]
    layer = np.zeros(len(grains), int) if layers == 1 else layers_of_grains(grains, surroundings)
    grains, layer = join_similar_grains(grains, layer, surroundings)
    if not layer.any() and layers != 1:
        grains, layer = add_loose_layer(grains, surroundings)
    if not layer.any():
        table = _one_layer(particles, grains, surroundings)
    else:
        settled = _settle(grains, layer, surroundings)
        if surroundings.extent(settled.of == 1) > surroundings.extent(settled.of == 0):
            layer, settled = 1 - layer, settled.swapped()
        table = _two_layers(particles, settled, surroundings)
    by_size = np.argsort([-g.members.sum() for g in grains], kind="stable")
    found = [[grains[g].lattice for g in by_size if layer[g] == k and grains[g].lattice] for k in (0, 1)]
    return drop_doubles(table, diameter), found


def _name_by_channel(particles) -> pd.DataFrame:
    """Too few particles for a lattice: the channel is all there is to go by, and confidence says so."""
    count = particles["channel"].value_counts()
    first = count.index[0] if len(count) else 0
    layer = np.where(particles["channel"] == first, 1, 2)
    table = particles.assign(layer=layer, grain=-1, layer_confidence=0.5, lattice_fit=0.0)
    return table.reset_index(drop=True)


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
        odds, fit = lattice_evidence(members, lattices, s)
        here = grain_presence(members, s) * odds  # (n, grains)
        in_layer = here @ layers + 1e-12
        log_odds = np.log(in_layer[:, 0] / in_layer[:, 1]) + _channel_evidence(probability, s)
        log_odds, messages = exclude_pairs(log_odds, messages, s.i[s.exclusive], s.j[s.exclusive], s.exclusion)
        probability = np.stack([expit(log_odds), expit(-log_odds)], axis=1)
        posterior = here / (in_layer @ layers.T) * (probability @ layers.T)
        members = posterior * (1 - s.evidence.off_lattice / odds)  # who sits on no site has no say
        if np.abs(probability - before).max() < 0.02:
            break
    grain = (posterior * layers.T[probability.argmax(axis=1)]).argmax(axis=1)  # the likeliest of the likelier layer
    rows = np.arange(s.n)
    return _Settled(probability, grain, fit[rows, grain], here[rows, grain])


def _channel_evidence(probability, s) -> np.ndarray:
    """Log-odds of the first layer from the channel: it says what it says for the particles around."""
    around = (s.near @ (s.sign * (probability[:, 0] - probability[:, 1]))) / (s.near_sum + 1.0)
    return s.sign * 2 * np.arctanh(s.evidence.channel * around)


def exclude_pairs(log_odds, messages, i, j, strength, rounds: int = 5) -> tuple[np.ndarray, np.ndarray]:
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


def drop_doubles(table, diameter) -> pd.DataFrame:
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
