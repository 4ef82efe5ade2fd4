"""The signed graph of a frame's particles, and its cut into layers (chapter 7, "Particles").

A network says of each two neighbours whether they lie in one layer, and the graph of these log-odds is cut into layers.
This is a Potts model: the likeliest assignment has the largest sum of log-odds within layers. The network knows no
lattice and no common spacing.
"""

from functools import lru_cache

import igraph
import numpy as np
import pandas as pd
from scipy import sparse
from scipy.optimize import linear_sum_assignment
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import eigsh
from scipy.spatial import cKDTree
from scipy.special import expit, softmax

from .layer_evidence import GRAINS
from .same_layer import load_same_layer, weigh_pairs

#: Diameters (geometry): half-transparent particles of one layer touch, they do not overlap by half.
DOUBLE_REACH = 0.5
SHOWN = -100.0  # log-odds that two particles that the frame shows upon each other lie in one layer: never
#: Share of the particles around which the network sees a second layer, from which there is one. On development seeds of
#: `make bench-families`: up to 0.13 in one layer, 0.44 and more in two.
SEEN = 0.2
#: Probability from which another layer is kept beside the likeliest one: 1 in 10, by choice.
WORTH_KEEPING = 0.1
TEMPERATURE = 17.0  # log-odds of pairs that count as one, as they share errors (benchmarks/calibrate_cut.py)
COOLING = np.geomspace(1.5, 40, 40)  # inverse temperatures of the mean field
START_SHARPNESS = 4  # inverse temperature of a start: how clearly it follows the eigenvectors; by hand
STARTS, SWEEPS = 12, 30  # of the mean field, on different eigenvectors; of single particles that change their layer
DENSE = 4, 8  # times the layers, and more: up to so many particles have all eigenvectors computed; by hand

load_model = lru_cache(maxsize=1)(load_same_layer)  # the network of points, read once


def draw_graph(particles, diameter) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Log-odds (n, n) that two particles lie in one layer, and probability (n, 3) of 1, 2, 3 layers around each.

    The U-Net's channels change places at grain boundaries, where they would decide: they are not asked.
    """
    yx = particles[["y", "x"]].to_numpy(float)
    sizes = (particles["diameter"] / particles["diameter"].median()).fillna(1.0).to_numpy()
    graph, counts = weigh_pairs(load_model(), yx / diameter, sizes)
    pairs = cKDTree(yx).query_pairs(DOUBLE_REACH * diameter, output_type="ndarray")
    i, j = pairs[particles["shown"].to_numpy(bool)[pairs].all(axis=1)].T
    against = sparse.csr_matrix((np.full(len(i), SHOWN), (i, j)), graph.shape)
    return graph + against + against.T, counts


def count_layers_around(particles: pd.DataFrame, diameter: float) -> tuple[bool, float]:
    """Whether the network sees more than one layer around a good part of the particles; how much three layers."""
    if len(particles) < GRAINS.fewest:
        return False, 0.0
    one, _, three = draw_graph(particles, diameter)[1].mean(axis=0)
    return 1 - one > SEEN, float(three)


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


def find_namings(graph: sparse.csr_matrix, layers: int, rng: np.random.Generator) -> np.ndarray:
    """Namings (k, n) of the particles by layers from 0, that of largest energy first.

    They are the best that two solvers find from several starts. Each calls its layers as the first one does.
    """
    n = graph.shape[0]
    if layers == 1 or n <= layers:
        return np.zeros((1, n), int)
    groups = find_groups(graph)
    inside = sparse.csr_matrix((np.ones(n), (np.arange(n), groups)))
    between = (inside.T @ graph @ inside).tolil()
    between.setdiag(0)
    between, starts = between.tocsr(), cool(graph, layers, rng)
    if inside.shape[1] > layers:
        starts += [settle(between, layer, layers)[groups] for layer in cool(between, layers, rng)]
    else:
        starts.append(groups)
    found = sorted((settle(graph, start, layers) for start in starts), key=lambda layer: -measure_energy(graph, layer))
    one = np.eye(layers)
    same = [linear_sum_assignment(one[naming].T @ one[found[0]], maximize=True)[1] for naming in found]
    return np.array([names[naming] for names, naming in zip(same, found, strict=True)])


def weigh_doubt(graph: sparse.csr_matrix, namings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probability (n,) that a particle is not in the layer that the first of some namings says; where it is then.

    Where another naming differs, each contiguous region may be named either way: its odds are those of the energy. The
    other layer (n,), from 0, is that of the likeliest other naming.
    """
    best, every, doubt = namings[0], np.arange(graph.shape[0]), np.zeros(graph.shape[0])
    otherwise = best.copy()
    one = np.eye(namings.max() + 1)
    pull = graph @ one[best]
    for other in np.unique(namings[1:], axis=0):
        moved = np.flatnonzero(other != best)
        within = graph[moved][:, moved]
        _, region = connected_components(within, directed=False)
        # What all lose by moving one by one, and what pairs that move together lose less.
        alone = (pull[every, best] - pull[every, other])[moved]
        change = one[other[moved]] - one[best[moved]]
        together = 0.5 * (change * (within @ change)).sum(axis=1)
        loss = np.bincount(region, alone - together)
        own = expit(-loss[region] / TEMPERATURE)
        likelier = own > doubt[moved]
        doubt[moved[likelier]], otherwise[moved[likelier]] = own[likelier], other[moved[likelier]]
    return doubt, otherwise


def cut(graph: sparse.csr_matrix, layers: int, rng: np.random.Generator) -> np.ndarray:
    """Layer (n,) of each particle, from 0: the naming of largest energy that is found."""
    return find_namings(graph, layers, rng)[0]
