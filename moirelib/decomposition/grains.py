"""Lattices and grains in the particles of both layers together.

Explained in chapter 7, "Particles".
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import eigsh
from scipy.spatial import cKDTree

from ..crystal.fourier import find_strongest, lattice_distance, polish_lattice
from ..crystal.lattice import Lattice
from .evidence import Surroundings, grain_presence, lattice_evidence, site_density

SMALLEST_COPY = 8  # particles; fewer are no copy of a lattice


@dataclass
class _Grain:
    """A lattice and the particles on it."""

    lattice: Lattice
    members: np.ndarray  # (n,) weights, 0 to 1
    family: int  # the same for copies that look like one layer seen twice


# --- Grains ---


def find_overlapping_grains(s: Surroundings) -> list[_Grain]:
    """Contiguous grains, each a lattice and the particles on it."""
    copies = [copy for group in _alike(_explain(s)) for copy in _copies(group, s)]
    if not copies:  # two layers half a spacing apart cancel each other's waves
        copies = _copies([_Grain(s.lattice, np.ones(s.n), 0)], s)
        copies = copies if len(copies) > 1 else []
    if not copies:
        return []
    members = np.stack([copy.members for copy in copies], axis=1)
    for _ in range(3):
        odds, fit = lattice_evidence(members, [copy.lattice for copy in copies], s)
        weight = grain_presence(members, s) * odds
        members = weight / weight.sum(axis=1, keepdims=True) * (1 - s.evidence.off_lattice / odds)
    label = members.argmax(axis=1)
    grains = []
    for g, piece in _pieces(label, fit[np.arange(s.n), label] > 1.0, s):
        lattice = polish_lattice(s.points[piece], np.ones(len(piece)), copies[g].lattice)
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
        lattice, strength = find_strongest(s.points[free], np.ones(free.sum()), 0.85 * s.spacing, 1.18 * s.spacing)
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
            if lattice_distance(group[0].lattice, grain.lattice) < 0.5:
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
    agreement = np.clip(np.log(0.5 * site_density(fit, 4.0) + 0.1), -2, 2) / (1 + d**2 / 4)
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


def layers_of_grains(grains, s) -> np.ndarray:
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


def join_similar_grains(grains, layer, s) -> tuple[list[_Grain], np.ndarray]:
    """Pieces of one layer with nearly one lattice (within some 2.5°) become one grain; its phase is local anyway."""
    groups = []
    for g, grain in enumerate(grains):
        for group in groups:
            if layer[group[0]] == layer[g] and lattice_distance(grains[group[0]].lattice, grain.lattice) < 0.35:
                group.append(g)
                break
        else:
            groups.append([g])
    joined = []
    for group in groups:
        members = np.sum([grains[g].members for g in group], axis=0)
        joined.append(
            _Grain(polish_lattice(s.points, members, grains[group[0]].lattice), members, grains[group[0]].family)
        )
    return joined, layer[[group[0] for group in groups]]


def add_loose_layer(grains, s) -> tuple[list[_Grain], np.ndarray]:
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
