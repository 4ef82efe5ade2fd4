"""Decide which layer every particle belongs to, and say how sure that is (chapter 7, "Particles").

A points problem: a network says of each two particles whether they lie in one layer, and the graph of these log-odds is
cut into layers. In movies, tracks vote.
"""

from functools import lru_cache

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.spatial import cKDTree
from scipy.special import expit

from ..crystal.fourier import find_strongest
from ..crystal.lattice import Lattice
from ..crystal.matching import pair_mutually_nearest
from ..crystal.neighbours import extent, typical_spacing
from .layer_cut import cut, find_alternatives
from .same_layer import load_same_layer, weigh_pairs

DOUBLE_REACH = 0.5  # diameters (geometry): half-transparent particles of one layer touch, they do not overlap by half
ONE_FIND = 0.12  # diameters; finds in two channels nearer to each other are one particle, until the frame shows two
FEWEST = 8  # particles; fewer show no layers
SHOWN = -100.0  # log-odds that two particles that the frame shows upon each other lie in one layer: never
#: Share of the particles around which the network sees a second and a third layer, from which there is one. On
#: development seeds of `make bench-families`: a second one up to 0.13 in one layer, 0.44 and more in two; a third one
#: up to 0.25 in two, 0.24 and more in three.
SEEN = 0.2, 0.3
TEMPERATURE = 14.0  # log-odds of pairs that count as one: pairs of one particle share their errors
REGION_TEMPERATURE = 40.0  # the same for all pairs between a region and the rest
LEAST_DOUBT = 0.02  # that two layers change places in a region, from which the region is named
CEILING = 0.999  # highest confidence: one grain in a few hundred is in the wrong layer


def merge_finds(detections: pd.DataFrame, diameter: float, reach: float = ONE_FIND) -> pd.DataFrame:
    """One row for each particle that the network found, whatever the channel.

    Parameters
    ----------
    detections : pandas.DataFrame
        From `locate`: ``channel`` (0 or 1), ``y, x`` (px), ``score``.
    diameter : float
        Typical particle diameter, in pixels.
    reach : float
        Finds in two channels that are nearer to each other, in diameters, are one; 0 keeps all.

    Returns
    -------
    pandas.DataFrame
        ``y, x, score``, and ``side``: 1 for a find in the first channel, -1 in the second, 0 for equally high peaks in
        both.
    """
    channel, yx = detections["channel"].to_numpy(), detections[["y", "x"]].to_numpy()
    first, second = np.flatnonzero(channel == 0), np.flatnonzero(channel != 0)
    i, j = pair_mutually_nearest(yx[first], yx[second], reach * diameter)
    i, j = first[i], second[j]
    table = detections.drop(columns="channel").assign(side=np.where(channel == 0, 1.0, -1.0))
    one, other = detections["score"].to_numpy()[i], detections["score"].to_numpy()[j]
    share = one / (one + other)
    middle = share[:, None] * yx[i] + (1 - share)[:, None] * yx[j]
    merged = np.column_stack([middle, np.maximum(one, other), 2 * share - 1])
    table.loc[table.index[i], ["y", "x", "score", "side"]] = merged
    return table.drop(table.index[j]).reset_index(drop=True)


def assign_layers(
    particles: pd.DataFrame, diameter: float, layers: int | None = None
) -> tuple[pd.DataFrame, list[Lattice | None]]:
    """Decide which layer every particle belongs to; layer 1 is the one that reaches furthest.

    Parameters
    ----------
    particles : pandas.DataFrame
        From `locate`, or ``y, x, score`` and what is known of ``side`` (see `merge_finds`), ``diameter``, and
        ``shown`` (bool) of particles that lie upon another one where the fit to the frame has shown two.
    diameter : float
        Typical particle diameter, in the unit of ``y, x``.
    layers : int, optional
        How many layers there are, where that is known; found by default.

    Returns
    -------
    particles : pandas.DataFrame
        With ``layer`` (from 1) and ``layer_confidence`` (probability that the layer is right; 0.5 of two is a guess);
        ``region`` (0: none), ``other_layer`` and ``region_doubt`` of regions where two layers may change places; a
        particle found twice in one layer is kept once.
    lattices : list of Lattice or None
        The largest lattice of each layer.
    """
    if "channel" in particles:
        particles = merge_finds(particles, diameter)
    if len(particles) < FEWEST:
        side = particles["side"].to_numpy() if "side" in particles else np.ones(len(particles))
        table = particles.assign(layer=np.where(side * np.sign(side.sum() or 1) >= 0, 1, 2), layer_confidence=0.5)
        table = table.assign(region=0, other_layer=table["layer"], region_doubt=0.0)
        return table, [None] * int(table["layer"].max() if len(table) else 1)
    yx = particles[["y", "x"]].to_numpy(float)
    graph, counts = draw_graph(particles, diameter)
    layers = count_layers(counts) if layers is None else layers
    named = cut(graph, layers, np.random.default_rng(0)).layer
    judged = judge_names(graph, named, layers)
    spacing = typical_spacing(yx, named, diameter)
    order = np.argsort([-extent(yx[named == k], spacing) for k in range(layers)], kind="stable")
    number = np.argsort(order) + 1
    judged = judged.assign(layer=number[named], other_layer=number[judged["other_layer"]])
    table = drop_doubles(particles.assign(**judged), diameter)
    places = [table.loc[table["layer"] == k, ["y", "x"]].to_numpy(float) for k in range(1, layers + 1)]
    return table, [find_main_lattice(place, diameter) for place in places]


@lru_cache(maxsize=1)
def load_model():
    """The network of points, read once."""
    return load_same_layer()


def draw_graph(particles, diameter) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Log-odds (n, n) that two particles lie in one layer, and probability (n, 3) of 1, 2, 3 layers around each."""
    yx = particles[["y", "x"]].to_numpy(float)
    sizes = particles.get("diameter", pd.Series(np.nan, particles.index)).to_numpy(float)
    usual = np.nanmedian(sizes) if np.isfinite(sizes).any() else diameter
    # The U-Net's channels change places at grain boundaries, where they would decide: they are not asked.
    sizes = np.nan_to_num(sizes / usual, nan=1.0)
    graph, counts = weigh_pairs(load_model(), yx / diameter, sizes, np.zeros(len(yx)))
    shown = particles["shown"].eq(True).to_numpy() if "shown" in particles else np.zeros(len(yx), bool)
    i, j = cKDTree(yx).query_pairs(DOUBLE_REACH * diameter, output_type="ndarray").T
    two = shown[i] & shown[j]
    against = sparse.csr_matrix((np.full(two.sum(), SHOWN), (i[two], j[two])), graph.shape)
    return graph + against + against.T, counts


def count_layers(counts: np.ndarray) -> int:
    """How many layers a frame shows, from the probability (n, 3) of 1, 2 and 3 layers around each particle."""
    beyond = counts[:, ::-1].cumsum(axis=1)[:, ::-1].mean(axis=0)
    return 1 + (int(beyond[2] > SEEN[1]) + 1 if beyond[1] > SEEN[0] else 0)


def judge_names(graph, named: np.ndarray, layers: int) -> pd.DataFrame:
    """Probability that each particle is in the right layer, and the regions that could be named the other way.

    Columns ``layer_confidence``, ``region`` (0: none), ``other_layer`` (from 0) and ``region_doubt``, the probability
    that the two layers change places there.
    """
    n = len(named)
    table = pd.DataFrame({"layer_confidence": np.full(n, CEILING), "region": 0, "other_layer": named})
    table["region_doubt"] = 0.0
    if layers == 1:
        return table
    pull = graph @ np.eye(layers)[named]
    own = pull[np.arange(n), named]
    pull[np.arange(n), named] = -np.inf
    confidence = expit((own - pull.max(axis=1)) / TEMPERATURE)
    for alternative in find_alternatives(graph, named):
        doubt = expit(-alternative.cost / REGION_TEMPERATURE)
        if doubt < LEAST_DOUBT:
            break
        region = alternative.region
        if not table.loc[region, "region"].any():
            a, b = alternative.layers
            table.loc[region, "region"] = table["region"].max() + 1
            table.loc[region, "other_layer"] = a + b - named[region]
            table.loc[region, "region_doubt"] = doubt
            confidence[region] = (1 - doubt) * confidence[region] + doubt * (1 - confidence[region])
    return table.assign(layer_confidence=np.clip(confidence, 1 / layers, CEILING))


CHANCE = 12.0  # minus the logarithm of the probability that random points pass for a lattice
TRIALS = 1.5  # independent lattices that random points offer, per squared spacing of the field
SEARCHED = 0.85, 1.18  # spacings over the usual distance of nearest neighbours


def find_main_lattice(points: np.ndarray, diameter: float) -> Lattice | None:
    """The strongest lattice of a layer's particles; None where they show none."""
    if len(points) < FEWEST:
        return None
    spacing = typical_spacing(points, np.zeros(len(points)), diameter)
    low, high = (factor * spacing for factor in SEARCHED)
    lattice, strength = find_strongest(points, np.ones(len(points)), low, high)
    # In random points the mean strength of three peaks exceeds s with a probability of about exp(-3 s), at each of the
    # places that are searched.
    field = np.ptp(points, axis=0).max() / spacing
    return lattice if strength > (np.log(TRIALS * field**2) + CHANCE) / 3 else None


def drop_doubles(table, diameter) -> pd.DataFrame:
    """Keep the better of two particles of one layer that are closer than half a diameter."""
    keep = np.ones(len(table), bool)
    quality = (table["score"] * table["layer_confidence"]).to_numpy()
    points, layer = table[["y", "x"]].to_numpy(), table["layer"].to_numpy()
    pairs = cKDTree(points).query_pairs(DOUBLE_REACH * diameter, output_type="ndarray")
    pairs = pairs[layer[pairs[:, 0]] == layer[pairs[:, 1]]]
    for i, j in pairs[np.argsort(-quality[pairs].max(axis=1), kind="stable")]:
        if keep[i] and keep[j]:
            keep[i if quality[i] < quality[j] else j] = False
    return (table if keep.all() else table[keep]).reset_index(drop=True)
