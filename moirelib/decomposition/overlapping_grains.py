"""Lattices and grains in the particles of both layers together (chapter 7, "Particles")."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import eigsh
from scipy.spatial import cKDTree

from ..crystal.fourier import find_strongest, lattice_distance, polish_lattice
from ..crystal.lattice import Lattice
from ..crystal.neighbours import connected_groups
from .layer_evidence import GRAINS, Surroundings, site_density, weigh_grains
from .signed_graph import draw_graph, find_namings, weigh_doubt


@dataclass(frozen=True)
class Grain:
    """A lattice and the particles on it."""

    lattice: Lattice | None  # None: particles of a second layer that show no lattice
    members: np.ndarray  # (n,) weights, 0 to 1
    layer: int = 0  # 0 or 1


def find_overlapping_grains(around: Surroundings) -> list[Grain]:
    """Contiguous grains, the largest first, each a lattice and the particles on it."""
    groups = group_alike(find_lattices(around), lambda a, b: lattice_distance(a.lattice, b.lattice) < GRAINS.alike)
    # Of lattices that may overlap, shifted copies of one lattice are told apart.
    copies = [copy for group in groups for copy in split_copies(group, around)]
    if not copies:  # two layers half a spacing apart cancel each other's waves
        copies = split_copies([Grain(around.lattice, np.ones(around.count))], around)
        if len(copies) < 2:
            return []
    members = np.stack([copy.members for copy in copies], axis=1)
    lattices = [copy.lattice for copy in copies if copy.lattice]  # every copy has one
    for _ in range(GRAINS.sharing_rounds):
        weight, odds, fit = weigh_grains(members, lattices, around)
        members = weight / weight.sum(axis=1, keepdims=True) * (1 - around.evidence.off_lattice / odds)
    label = members.argmax(axis=1)
    grains = []
    for g, piece in find_pieces(label, fit[np.arange(around.count), label] > GRAINS.in_grain, around):
        lattice = polish_lattice(around.positions[piece], np.ones(len(piece)), lattices[g])
        grains.append(Grain(lattice, _mark(piece, around.count)))
    return sorted(grains, key=lambda grain: -grain.members.sum())


def find_lattices(around) -> list[Grain]:
    """Lattices one after the other, each in the particles that the earlier ones leave unexplained."""
    found: list[Grain] = []
    free = np.ones(around.count, bool)
    chance = strength_by_chance(around.positions, around.spacing)
    low, high = (factor * around.spacing for factor in GRAINS.spacing_range)
    while free.sum() >= GRAINS.fewest and len(found) < GRAINS.lattices:
        lattice, strength = find_strongest(around.positions[free], np.ones(free.sum()), low, high)
        mine = free & (around.fit(free.astype(float), lattice) > GRAINS.on_site)
        fewest = GRAINS.fewest, GRAINS.smallest_lattice * around.count, GRAINS.smallest_rest * free.sum()
        if strength < chance or mine.sum() < max(fewest):
            break
        on_lattice = around.fit(mine.astype(float), lattice) > GRAINS.explained
        found.append(Grain(lattice, (free & on_lattice).astype(float)))
        free &= ~on_lattice
    return found


def strength_by_chance(points, spacing: float) -> float:
    """Strength up to which random points pass for a lattice.

    The mean strength of three of their peaks exceeds s with a probability of about exp(-3 s), at each of the places
    that are searched.
    """
    field = np.ptp(points, axis=0).max() / spacing
    return (np.log(GRAINS.trials * field**2) + GRAINS.chance) / 3


def group_alike(items: Sequence, alike: Callable) -> list[list]:
    """Groups of items that are like the first of their group."""
    groups: list[list] = []
    for item in items:
        group = next((group for group in groups if alike(group[0], item)), None)
        if group is None:
            groups.append(group := [])
        group.append(item)
    return groups


def split_copies(group: list[Grain], around, depth: int = 0) -> list[Grain]:
    """Split a group's particles where they are several shifted copies of nearly one lattice.

    Neighbours a lattice vector apart belong together, others do not: the leading eigenvector of that signed graph is
    the best split in two, to be made if it cuts more disagreement than agreement. Each part may be split again.
    """
    member = np.sum([grain.members for grain in group], axis=0) > GRAINS.member
    whole = replace(group[0], members=member.astype(float))
    side, agreement_cut = split_in_two(member, [grain.lattice for grain in group], around)
    parts = [np.maximum(sign * side, 0) for sign in (1, -1)]
    fewest = max(GRAINS.fewest, GRAINS.smallest_lattice * around.count)
    if min(np.sum(part > GRAINS.on_side) for part in parts) < fewest or agreement_cut > 0:
        return [whole]
    copies = [replace(whole, members=part) for part in parts]
    if depth == GRAINS.deepest:
        return copies
    return [copy for half in copies for copy in split_copies([half], around, depth + 1)]


def split_in_two(member, lattices, around) -> tuple[np.ndarray, float]:
    """Side (-1 to 1; 0 for particles that are no members) in the best split in two, and the agreement it cuts."""
    side, graph = np.zeros(around.count), compare_pairs(member, lattices, around)
    if graph.count_nonzero() == 0 or graph.shape[0] < 2 * GRAINS.fewest:  # strewn or few: nothing to split by
        return side, 0.0
    # Normalized by the pairs of each particle, and 1, so that a particle with hardly any does not count much.
    scale = sparse.diags(1 / np.sqrt(np.asarray(abs(graph).sum(axis=1)).ravel() + 1.0))
    normal = scale @ graph @ scale
    start = 1 + 0.1 * np.cos(np.arange(graph.shape[0]))  # any fixed vector: the same result every time
    first, second = eigsh(normal, k=2, which="LA", tol=1e-3, v0=start)[1].T[::-1]
    # Domains that hardly touch can be combined either way: the best of four starts.
    trials = [spread_division(normal, v, GRAINS.sharpening) for v in (first, second, first + second, first - second)]
    side[member] = vector = max(trials, key=lambda v: v @ graph @ v)
    return side, float((vector > 0) @ graph @ (vector < 0))


def compare_pairs(member, lattices, around) -> sparse.csr_matrix:
    """Log-odds (members, members) that two particles belong to one copy rather than to two."""
    near = member[around.pairs].all(axis=1) & (around.pair_distance < GRAINS.pair_reach * around.spacing)
    pairs, d = around.pairs[near], around.pair_distance[near] / around.spacing
    i, j = pairs.T
    step = around.positions[j] - around.positions[i]
    fit = np.max([np.cos(step @ lattice.wave_vectors.T).sum(axis=1) for lattice in lattices], axis=0)
    # Half the pairs are a lattice vector apart, the other half lie anywhere.
    agreement = np.log(0.5 * site_density(fit, GRAINS.pair_sharpness) + GRAINS.pair_background)
    agreement = np.clip(agreement, -GRAINS.pair_limit, GRAINS.pair_limit) / (1 + (d / GRAINS.pair_decay) ** 2)
    agreement[d < GRAINS.excluded] = GRAINS.excluded_agreement
    same_channel = around.channel_sign[i] * around.channel_sign[j]
    agreement += GRAINS.channel_agreement * same_channel * (d < GRAINS.channel_reach)
    return around.symmetric_matrix(agreement, pairs)[member][:, member]


def spread_division(graph, vector, steepness, rounds: int = GRAINS.spreading_rounds) -> np.ndarray:
    """Let a division of a signed graph spread from where it is clear to where it is not; -1 to 1."""
    vector = vector / np.sqrt(np.mean(vector**2))
    for _ in range(rounds):
        vector = np.tanh(steepness * (graph @ vector))
    return vector


def find_pieces(label, sure, around) -> Iterator[tuple[int, np.ndarray]]:
    """Contiguous pieces of the particles of each label: pairs (label, indices), small ones left out."""
    i, j = around.pairs.T
    touching = around.pair_distance < GRAINS.contact * around.spacing
    same = touching & (label[i] == label[j]) & sure[i] & sure[j]
    piece = connected_groups(around.count, i[same], j[same])
    for g in range(label.max() + 1):
        own = np.flatnonzero((label == g) & sure)
        for number, size in zip(*np.unique(piece[own], return_counts=True), strict=True):
            if size >= max(GRAINS.fewest, GRAINS.smallest_grain * around.count):
                yield g, own[piece[own] == number]


def assign_grains(grains: list[Grain], particles, around: Surroundings, two: bool) -> tuple[list[Grain], np.ndarray]:
    """The grains in layers, and the probability (n,) that a particle's grain is in another one.

    Two grains are in one each; of more, the cut of the `signed_graph` says which belong together. A grain that runs
    through both sides of the cut is parted. One layer is enough where few particles of a second one would lie too near
    to others for one layer, unless there are known to be ``two``.
    """
    members = np.stack([np.full(around.count, 0.5), *(grain.members for grain in grains)], axis=1)
    label = members.argmax(axis=1) - 1  # of each particle's grain; -1: none
    parted, side, doubt = grains, np.maximum(label, 0), np.zeros(around.count)
    if len(grains) > 2:
        graph = draw_graph(particles, around.diameter)[0]
        namings = find_namings(graph, 2, np.random.default_rng(0))
        side, own_doubt, parted = namings[0], weigh_doubt(graph, namings)[0], []
        for k, piece in find_pieces(2 * np.maximum(label, 0) + side, label >= 0, around):
            parted.append(Grain(grains[k // 2].lattice, _mark(piece, around.count), int(k % 2)))
            doubt[piece] = np.median(own_doubt[piece])
    elif len(grains) == 2:
        parted = [grains[0], replace(grains[1], layer=1)]
    if len({grain.layer for grain in parted}) < 2:
        return grains, np.zeros(around.count)
    small, large = sorted((around.positions[(label >= 0) & (side == k)] for k in (0, 1)), key=len)
    crowded = np.mean(cKDTree(large).query(small)[0] < GRAINS.too_near * around.spacing)
    return (parted, doubt) if two or crowded > GRAINS.resolved else (grains, np.zeros(around.count))


def _mark(indices, count: int) -> np.ndarray:
    """Weights (n,) that are 1 for some particles."""
    return np.isin(np.arange(count), indices).astype(float)


def join_similar_grains(grains: list[Grain], around) -> list[Grain]:
    """Pieces of one layer with nearly one lattice become one grain; its phase is fitted locally anyway."""

    def alike(one, other):
        return one.layer == other.layer and lattice_distance(one.lattice, other.lattice) < GRAINS.same

    joined = []
    for group in group_alike(grains, alike):
        members = np.sum([grain.members for grain in group], axis=0)
        lattice = polish_lattice(around.positions, members, group[0].lattice)
        joined.append(Grain(lattice, members, group[0].layer))
    return joined


def add_loose_layer(grains: list[Grain], around: Surroundings) -> list[Grain]:
    """A second layer too small to show a lattice: particles off the first one's sites and too near to those on them."""
    fit = np.max([around.fit(grain.members, grain.lattice) for grain in grains], axis=0)
    on_site = around.positions[fit > GRAINS.on_site]
    if len(on_site) == 0:
        return grains
    distance = cKDTree(on_site).query(around.positions)[0] / around.spacing
    loose = (fit < GRAINS.in_grain) & (distance < GRAINS.too_near)
    few = loose.sum() < max(GRAINS.loose, GRAINS.loose_share * around.count)
    nearest = cKDTree(around.positions).query(around.positions, k=2)[0][:, 1] / around.spacing
    apart = nearest[nearest < GRAINS.too_near] > GRAINS.apart
    merged = not len(apart) or np.mean(apart) < GRAINS.pairs_apart
    if few or merged or np.mean(distance[loose] > GRAINS.apart) < GRAINS.loose_apart:
        return grains
    return [*grains, Grain(None, loose.astype(float), layer=1)]
