"""Cut a graph of particles into layers: the pairs' log-odds say which particles lie in one (chapter 7, "Particles").

A Potts model: of all namings the likeliest has the largest sum of the log-odds within layers.
"""

import igraph
import numpy as np
from scipy import sparse
from scipy.sparse.linalg import eigsh
from scipy.special import softmax

STARTS = 12  # of the mean field, on different leading eigenvectors
COOLING = np.geomspace(1.5, 40, 40)  # inverse temperatures of the mean field
SWEEPS = 30  # of single particles that change their layer


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


def cut(graph: sparse.csr_matrix, layers: int, rng: np.random.Generator) -> np.ndarray:
    """Layer (n,) of each particle, from 0: the naming of largest energy, of those that two solvers find."""
    n = graph.shape[0]
    if layers == 1 or n <= layers:
        return np.zeros(n, int)
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
    return max(found, key=lambda layer: measure_energy(graph, layer))
