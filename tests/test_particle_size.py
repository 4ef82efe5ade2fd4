"""The particle diameter that a movie is looked at with, where none is given."""

import numpy as np
import pytest
from beer_lambert import simulate_movie

from moirelib.decomposition.network import load_weights
from moirelib.decomposition.particle_size import shrink_to_fit


@pytest.fixture(scope="module")
def frame():
    return simulate_movie(np.random.default_rng(3), np.zeros((1, 2)), 224, 24.0, 16.8, 12.0)[0][0]


@pytest.mark.parametrize("wrong", [1.4, 1.5])
def test_a_diameter_much_too_large_becomes_that_of_the_fitted_particles(frame, wrong):
    assert shrink_to_fit(frame, load_weights(), wrong * 16.8) == pytest.approx(16.8, rel=0.08)


@pytest.mark.parametrize("near", [0.8, 1.0, 1.05])
def test_a_diameter_that_is_nearly_right_or_small_stays(frame, near):
    assert shrink_to_fit(frame, load_weights(), near * 16.8) == near * 16.8


def test_a_diameter_stays_where_few_particles_are_seen():
    rng = np.random.default_rng(0)
    assert shrink_to_fit(1000 + 30 * rng.standard_normal((96, 96)), load_weights(), 30.0) == 30.0
