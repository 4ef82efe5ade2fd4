"""Layers of unlike lattices, or more than two, told apart from where the particles are (chapter 7, "Particles").

A network says of each two neighbours whether they lie in one layer, and the graph of these log-odds is cut into layers.
This is a Potts model: the likeliest assignment has the largest sum of log-odds within layers. The network knows no
common spacing. It is asked where the lattices (`layer_assignment`) show one layer only, and for three layers.
"""

from functools import lru_cache

import igraph
import numpy as np
import pandas as pd
from scipy import sparse
from scipy.sparse.linalg import eigsh
from scipy.spatial import cKDTree
from scipy.special import softmax

from ..crystal.fourier import find_strongest
from ..crystal.lattice import Lattice
from ..crystal.matching import pair_mutually_nearest
from ..crystal.neighbours import extent, typical_spacing
from .layer_assignment import DOUBLE_REACH, drop_doubles
from .layer_evidence import GRAINS, Evidence
from .overlapping_grains import strength_by_chance
from .same_layer import load_same_layer, weigh_pairs

ONE_FIND = 0.12  # diameters; finds in two channels nearer to each other are one particle, until the frame shows two
SHOWN = -100.0  # log-odds that two particles that the frame shows upon each other lie in one layer: never
#: Share of the particles around which the network sees a second layer, from which there is one. On development seeds of
#: `make bench-families`: up to 0.13 in one layer, 0.44 and more in two.
SEEN = 0.2
#: Mean probability of three layers around a particle from which there may be three, and of fitted particles, from which
#: there are. On development seeds: up to 0.06 in two layers; in three layers 0.19 and more where the U-Net of two
#: channels found two thirds of the particles, 0.96 of all particles.
MAYBE_THREE, THREE = 0.12, 0.5
TEMPERATURE = 19.0  # log-odds of pairs that count as one, as they share errors (benchmarks/calibrate_cut.py)
COOLING = np.geomspace(1.5, 40, 40)  # inverse temperatures of the mean field
START_SHARPNESS = 4  # inverse temperature of a start: how clearly it follows the eigenvectors; by hand
STARTS, SWEEPS = 12, 30  # of the mean field, on different eigenvectors; of single particles that change their layer
DENSE = 4, 8  # times the layers, and more: up to so many particles have all eigenvectors computed; by hand

load_model = lru_cache(maxsize=1)(load_same_layer)  # the network of points, read once


def merge_finds(detections: pd.DataFrame, diameter: float) -> pd.DataFrame:
    """One row for each particle that the network found in several channels: that of the higher peak, in the middle.

    ``detections`` are those of `locate`; ``diameter`` is the typical one, in pixels.
    """
    table = detections[detections["channel"] == 0]
    for channel in range(1, int(detections["channel"].max()) + 1):
        more = detections[detections["channel"] == channel]
        yx, other = (some[["y", "x"]].to_numpy() for some in (table, more))
        i, j = pair_mutually_nearest(yx, other, ONE_FIND * diameter)
        score, rival = table["score"].to_numpy()[i], more["score"].to_numpy()[j]
        share = (score / (score + rival))[:, None]
        higher = np.where(score >= rival, table.index[i], more.index[j])
        lower = np.where(score >= rival, more.index[j], table.index[i])
        table = pd.concat([table, more])
        table.loc[higher, ["y", "x"]] = share * yx[i] + (1 - share) * other[j]
        table = table.drop(lower)
    return table.sort_index().reset_index(drop=True)


def count_layers_around(particles: pd.DataFrame, diameter: float) -> tuple[bool, float]:
    """Whether the network sees more than one layer around a good part of the particles; how much three layers."""
    if len(particles) < GRAINS.fewest:
        return False, 0.0
    one, _, three = draw_graph(particles, diameter)[1].mean(axis=0)
    return 1 - one > SEEN, float(three)


def name_by_points(
    particles: pd.DataFrame, diameter: float, layers: int = 2
) -> tuple[pd.DataFrame, list[list[Lattice]]]:
    """Which of some layers every particle belongs to; parameters and results as of `assign_layers`.

    There are no grains, and ``lattices`` are the main ones; ``lattice_fit`` is unknown (NaN).
    """
    particles = particles.assign(grain=-1, lattice_fit=np.nan)
    if len(particles) < GRAINS.fewest:
        return particles.assign(layer=1, layer_confidence=0.5), [[] for _ in range(layers)]
    yx, (graph, _) = particles[["y", "x"]].to_numpy(float), draw_graph(particles, diameter)
    named = cut(graph, layers, np.random.default_rng(0))
    sure = softmax(graph @ np.eye(layers)[named] / TEMPERATURE, axis=1)[np.arange(len(named)), named]
    spacing = typical_spacing(yx, named, diameter)
    reach = np.array([extent(yx[named == k], spacing) for k in range(layers)])
    named = (-reach).argsort(kind="stable").argsort()[named]
    confidence = np.clip(sure, 1 / layers, Evidence.ceiling)
    table = drop_doubles(particles.assign(layer=named + 1, layer_confidence=confidence), diameter)
    places = [table.loc[table["layer"] == k + 1, ["y", "x"]].to_numpy(float) for k in range(layers)]
    return table, [find_main_lattice(place, diameter) for place in places]


def draw_graph(particles, diameter) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Log-odds (n, n) that two particles lie in one layer, and probability (n, 3) of 1, 2, 3 layers around each.

    The U-Net's channels change places at grain boundaries, where they would decide: they are not asked.
    """
    yx = particles[["y", "x"]].to_numpy(float)
    sizes = (particles["diameter"] / particles["diameter"].median()).fillna(1.0).to_numpy()
    graph, counts = weigh_pairs(load_model(), yx / diameter, sizes, np.zeros(len(yx)))
    pairs = cKDTree(yx).query_pairs(DOUBLE_REACH * diameter, output_type="ndarray")
    i, j = pairs[particles["shown"].to_numpy(bool)[pairs].all(axis=1)].T
    against = sparse.csr_matrix((np.full(len(i), SHOWN), (i, j)), graph.shape)
    return graph + against + against.T, counts


def find_main_lattice(points: np.ndarray, diameter: float) -> list[Lattice]:
    """The strongest lattice of a layer's particles, if they show one."""
    if len(points) < GRAINS.fewest:
        return []
    spacing = typical_spacing(points, np.zeros(len(points)), diameter)
    low, high = (factor * spacing for factor in GRAINS.spacing_range)
    lattice, strength = find_strongest(points, np.ones(len(points)), low, high)
    return [lattice] if strength > strength_by_chance(points, spacing) else []


def find_groups(graph: sparse.csr_matrix) -> np.ndarray:
    """Group of each particle, such that the sum of the log-odds within groups is largest (multicut).

    Their number is free. Traag et al., Scientific Reports (2019), at resolution 0.
    """
    pairs = sparse.triu(graph, 1).tocoo()
    network = igraph.Graph(graph.shape[0], np.stack([pairs.row, pairs.col], axis=1))
    found = network.community_leiden("CPM", weights=pairs.data, resolution=0.0, n_iterations=-1)
    return np.array(found.membership)


def measure_energy(graph, layer) -> float:
    """Sum of the log-odds within layers."""
    one = np.eye(layer.max(initial=0) + 1)[layer]
    return float((one * (graph @ one)).sum() / 2)


def settle(graph, layer, layers: int) -> np.ndarray:
    """Single particles change their layer while that raises the energy."""
    layer, every = layer.copy(), np.arange(len(layer))
    for _ in range(SWEEPS):
        pull = graph @ np.eye(layers)[layer]
        wrong = np.flatnonzero(pull.max(axis=1) > pull[every, layer] + 1e-9)
        if not len(wrong):
            break
        for k in wrong:
            row = slice(*graph.indptr[k : k + 2])
            layer[k] = np.bincount(layer[graph.indices[row]], graph.data[row], layers).argmax()
    return layer


def cool(graph, layers: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Namings by a mean field that is cooled, from several starts on the leading eigenvectors."""
    n = graph.shape[0]
    scale = sparse.diags(1 / np.sqrt(np.asarray(abs(graph).sum(axis=1)).ravel() + 1))
    normed = (scale @ graph @ scale).tocsr()
    if n > DENSE[0] * layers + DENSE[1]:
        vectors = eigsh(normed, k=layers + 2, which="LA", v0=np.ones(n))[1]
    else:
        vectors = np.linalg.eigh(normed.toarray())[1][:, -layers - 2 :]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True) + 1e-9
    found = []
    for _ in range(STARTS):
        x = softmax(START_SHARPNESS * vectors @ vectors[rng.choice(n, layers, replace=False)].T, axis=1)
        for cold in COOLING:
            x = softmax(cold * (normed @ x), axis=1)
        found.append(x.argmax(axis=1))
    return found


def cut(graph: sparse.csr_matrix, layers: int, rng: np.random.Generator) -> np.ndarray:
    """Layer (n,) of each particle, from 0: the naming of largest energy, of those that two solvers find."""
    n = graph.shape[0]
    if layers == 1 or n <= layers:
        return np.zeros(n, int)
    groups = find_groups(graph)
    inside = sparse.csr_matrix((np.ones(n), (np.arange(n), groups)))
    between = (inside.T @ graph @ inside).tolil()
    between.setdiag(0)
    between, starts = between.tocsr(), cool(graph, layers, rng)
    if inside.shape[1] > layers:
        starts += [settle(between, layer, layers)[groups] for layer in cool(between, layers, rng)]
    else:
        starts.append(groups)
    return max((settle(graph, start, layers) for start in starts), key=lambda layer: measure_energy(graph, layer))
