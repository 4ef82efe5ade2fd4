"""Particles cut into layers: a graph of log-odds that two particles lie in one."""

import numpy as np
import pytest
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.special import expit

from moirelib.decomposition.signed_graph import TEMPERATURE, cut, find_groups, measure_energy, settle, weigh_doubt


def planted(rng, layers, n=150, links=20, noise=1.5, patches=None):
    """A graph of particles of known layers: each is linked to some others; links between patches are few."""
    true = rng.integers(0, layers, n)
    patch = np.zeros(n, int) if patches is None else patches
    i, j = rng.integers(0, n, (2, n * links))
    kept = (i != j) & ((patch[i] == patch[j]) | (rng.random(len(i)) < 0.02))
    i, j = i[kept], j[kept]
    odds = np.where(true[i] == true[j], 1.0, -1.0) + noise * rng.normal(size=len(i))
    graph = sparse.coo_matrix((odds, (i, j)), (n, n)).tocsr()
    return true, (graph + graph.T) / 2


def share_alike(one, other):
    """Share of pairs of particles of which both namings say the same."""
    return np.mean((one[:, None] == one) == (other[:, None] == other))


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_planted_layers_are_found(layers):
    for seed in range(3):
        true, graph = planted(np.random.default_rng(seed), layers)
        found = cut(graph, layers, np.random.default_rng(0))
        assert share_alike(found, true) > 0.97
        assert measure_energy(graph, found) >= measure_energy(graph, settle(graph, true, layers)) - 1e-9


def test_the_cut_is_the_same_every_time():
    _, graph = planted(np.random.default_rng(0), 3)
    one, two = (cut(graph, 3, np.random.default_rng(0)) for _ in range(2))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_few_particles_are_cut_too(n):
    graph = sparse.csr_matrix(np.ones((n, n)) - np.eye(n))
    assert len(cut(graph, 2, np.random.default_rng(0))) == n


def test_groups_need_no_number():
    for layers in (1, 2, 3):
        true, graph = planted(np.random.default_rng(layers), layers, noise=0.5)
        assert share_alike(find_groups(graph), true) > 0.95


def test_doubt_is_the_odds_of_the_energies():
    """Of a region that may be named otherwise, all particles have the probability that its energy gives."""
    rng = np.random.default_rng(0)
    weights = np.triu(rng.normal(0, 3, (40, 40)) * (rng.random((40, 40)) < 0.2), 1)
    graph = sparse.csr_matrix(weights + weights.T)
    first = rng.integers(0, 3, 40)
    other = np.where(np.arange(40) < 9, (first + 1) % 3, first)
    doubt, otherwise = weigh_doubt(graph, np.array([first, other]))
    region = connected_components(graph[:9][:, :9], directed=False)[1]
    for k in np.unique(region):
        moved = np.flatnonzero(region == k)
        named = first.copy()
        named[moved] = other[moved]
        gain = measure_energy(graph, named) - measure_energy(graph, first)
        np.testing.assert_allclose(doubt[moved], expit(gain / TEMPERATURE))
    assert (doubt[9:] == 0).all()
    np.testing.assert_array_equal(otherwise, other)
