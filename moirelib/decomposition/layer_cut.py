"""Cut a graph of particles into layers: the pairs' log-odds say which particles lie in one (chapter 7, "Particles").

A Potts model: of all namings the likeliest has the largest sum of the log-odds within layers.
"""

import itertools
from dataclasses import dataclass

import igraph
import numpy as np
from scipy import sparse
from scipy.sparse.linalg import eigsh
from scipy.special import softmax

SMALLEST_REGION = 6  # particles, and
SMALLEST_SHARE = 0.02  # of all particles: smaller regions are no other way to name a frame
DEEPEST = 3  # bisections after each other
STARTS = 12  # of the mean field, on different leading eigenvectors
COOLING = np.geomspace(1.5, 40, 40)  # inverse temperatures of the mean field
SWEEPS = 30  # of single particles that change their layer


@dataclass(frozen=True)
class Cut:
    """Particles named by layer.

    Attributes
    ----------
    layer : ndarray of int, shape (n,)
        From 0.
    energy : float
        Sum of the log-odds within layers.
    """

    layer: np.ndarray
    energy: float


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
            start, end = graph.indptr[k : k + 2]
            of = layer[graph.indices[start:end]]
            layer[k] = np.bincount(of, graph.data[start:end], layers).argmax()
    return layer


def cool(graph, layers: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Namings by a mean field that is cooled, from several starts on the leading eigenvectors."""
    n = graph.shape[0]
    scale = sparse.diags(1 / np.sqrt(np.asarray(abs(graph).sum(axis=1)).ravel() + 1))
    normed = (scale @ graph @ scale).tocsr()
    if n > 4 * layers + 8:
        vectors = eigsh(normed, k=layers + 2, which="LA", v0=np.ones(n))[1]
    else:
        vectors = np.linalg.eigh(normed.toarray())[1][:, -layers - 2 :]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True) + 1e-9
    found = []
    for _ in range(STARTS):
        x = softmax(4 * vectors @ vectors[rng.choice(n, layers, replace=False)].T, axis=1)
        for cold in COOLING:
            x = softmax(cold * (normed @ x), axis=1)
        found.append(x.argmax(axis=1))
    return found


def cut(graph: sparse.csr_matrix, layers: int, rng: np.random.Generator) -> Cut:
    """The naming of largest energy, of those that two solvers find."""
    n = graph.shape[0]
    if layers == 1 or n <= layers:
        layer = np.zeros(n, int)
        return Cut(layer, measure_energy(graph, layer))
    groups = find_groups(graph)
    inside = sparse.csr_matrix((np.ones(n), (np.arange(n), groups)))
    between = (inside.T @ graph @ inside).tolil()
    between.setdiag(0)
    between = between.tocsr()
    starts = cool(graph, layers, rng)
    if inside.shape[1] > layers:
        starts += [settle(between, layer, layers)[groups] for layer in cool(between, layers, rng)]
    else:
        starts.append(groups)
    found = [settle(graph, start, layers) for start in starts]
    energies = [measure_energy(graph, layer) for layer in found]
    best = int(np.argmax(energies))
    return Cut(found[best], energies[best])


@dataclass(frozen=True)
class Alternative:
    """Another way to name a frame: two layers change places in a region.

    Attributes
    ----------
    region : ndarray of bool, shape (n,)
        Particles of the two layers that lie there.
    layers : tuple of int
        The two layers, from 0.
    cost : float
        By how much the sum of the log-odds is smaller than that of the best naming.
    """

    region: np.ndarray
    layers: tuple[int, int]
    cost: float


def find_alternatives(graph: sparse.csr_matrix, layer: np.ndarray) -> list[Alternative]:
    """Regions in which two layers could change places, the cheapest first.

    The pairs' log-odds, with the sign that the best naming gives them, make a graph of agreement. A region that little
    agreement ties to the rest can be named the other way (spectral bisection, each half again).
    """
    found = []
    for a, b in itertools.combinations(range(layer.max(initial=0) + 1), 2):
        both = np.flatnonzero((layer == a) | (layer == b))
        part = graph[both][:, both].tocoo()
        sign = np.where(layer[both[part.row]] == layer[both[part.col]], 1.0, -1.0)
        agreement = sparse.csr_matrix((sign * part.data, (part.row, part.col)), part.shape)
        for region, cost in bisect(agreement, np.arange(len(both)), DEEPEST):
            mask = np.zeros(len(layer), bool)
            mask[both[region]] = True
            found.append(Alternative(mask, (a, b), cost))
    return sorted(found, key=lambda one: one.cost)


def bisect(agreement, own: np.ndarray, depth: int) -> list[tuple[np.ndarray, float]]:
    """Regions of some particles that are weakly tied to all others, and how strongly they are."""
    n = agreement.shape[0]
    fewest = max(SMALLEST_REGION, int(SMALLEST_SHARE * n))
    if depth == 0 or len(own) < 2 * fewest:
        return []
    order, at = find_weakest_cut(agreement[own][:, own], fewest)
    halves, regions = (own[order[:at]], own[order[at:]]), []
    # At the top both halves are the same alternative: that all others change places is no other way to name a frame.
    for half in halves if len(own) < n else [min(halves, key=len)]:
        inside = np.zeros(n)
        inside[half] = 1
        regions.append((half, float(inside @ (agreement @ (1 - inside)))))
    return regions + [found for half in halves for found in bisect(agreement, half, depth - 1)]


def find_weakest_cut(agreement, fewest: int) -> tuple[np.ndarray, int]:
    """An order of the particles along the graph, and after how many of them a cut severs the least agreement."""
    n = agreement.shape[0]
    weight = agreement.maximum(0) + 1e-6 * sparse.eye(n)
    total = np.asarray(weight.sum(axis=1)).ravel()
    scale = sparse.diags(1 / np.sqrt(total))
    second = eigsh((scale @ weight @ scale).tocsr(), k=2, which="LA", v0=np.ones(n))[1][:, 0]
    order = np.argsort(second / np.sqrt(total))
    rank = np.argsort(order)
    pairs = sparse.triu(agreement, 1).tocoo()
    first, last = np.sort(np.stack([rank[pairs.row], rank[pairs.col]]), axis=0)
    severed = np.cumsum(np.bincount(first, pairs.data, n) - np.bincount(last, pairs.data, n))
    return order, int(np.argmin(severed[fewest - 1 : n - fewest])) + fewest
