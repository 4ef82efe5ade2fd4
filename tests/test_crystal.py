"""Crystal geometry holds for any lattice: symmetry, duality, invariance, one-to-one matching."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays

from moirelib.crystal import (
    Lattice,
    assign_pairs,
    fold_hexagonal,
    hexagonal_lattice,
    hexatic,
    match,
    moire_period,
    nearest_spacing,
    nearest_vector,
    neighbour_spacing,
    to_complex,
    to_points,
)
from moirelib.crystal.neighbours import typical_spacing

quick = settings(max_examples=50, derandomize=True, deadline=None)
ANGLES = st.floats(-360.0, 360.0)
SPACINGS = st.floats(5.0, 100.0)  # nm
PLACES = arrays(float, st.tuples(st.integers(0, 8), st.just(2)), elements=st.floats(0.0, 100.0))


def moved(points, angle, shift):
    """Turned from x towards y, and shifted."""
    return to_points(to_complex(points) * np.exp(1j * np.radians(angle))) + shift


@quick
@given(ANGLES, st.integers(-5, 5))
def test_twists_are_equal_that_differ_by_a_sixth_of_a_turn_or_in_sign(angle, sixths):
    folded = fold_hexagonal(angle)
    assert 0 <= folded <= 30
    assert fold_hexagonal(angle + 60 * sixths) == pytest.approx(folded, abs=1e-9)
    assert fold_hexagonal(-angle) == pytest.approx(folded, abs=1e-9)


@quick
@given(SPACINGS, SPACINGS, ANGLES)
def test_moire_period_does_not_depend_on_which_layer_is_first(one, other, twist):
    period = moire_period(one, twist, other)
    assert period == pytest.approx(moire_period(other, -twist, one), rel=1e-9)
    # The reciprocal lattice vectors' difference has the length of the Moiré lattice's own.
    first, second = (Lattice(a, t).wave_vectors[0] for a, t in ((one, 0.0), (other, fold_hexagonal(twist))))
    length = np.hypot(*(first - second))
    assert length == pytest.approx(4 * np.pi / (np.sqrt(3) * period), rel=1e-6, abs=1e-9)


@quick
@given(SPACINGS, ANGLES, st.integers(-3, 3), st.integers(-3, 3))
def test_wave_vectors_turn_by_whole_periods_along_lattice_vectors(spacing, angle, m, n):
    t = np.radians([angle, angle + 60])
    vector = spacing * np.array([m, n]) @ np.stack([np.sin(t), np.cos(t)], axis=1)
    turns = Lattice(spacing, angle).wave_vectors @ vector / (2 * np.pi)
    assert turns == pytest.approx(np.rint(turns), abs=1e-9)


@quick
@given(PLACES, PLACES, st.floats(1.0, 80.0))
def test_matching_is_one_to_one_within_reach_and_as_large_as_can_be(found, truth, reach):
    i, j = match(found, truth, reach)
    assert len(set(i)) == len(i)
    assert len(set(j)) == len(j)
    assert (np.hypot(*(found[i] - truth[j]).T) <= reach).all()
    left, right = np.delete(found, i, axis=0), np.delete(truth, j, axis=0)
    assert (np.hypot(*np.moveaxis(left[:, None] - right, -1, 0)) > reach).all()
    back = match(truth, found, reach)
    assert len(back[0]) == len(i)
    lengths = [np.hypot(*(a[k] - b[n]).T).sum() for a, b, k, n in ((found, truth, i, j), (truth, found, *back))]
    assert lengths[0] == pytest.approx(lengths[1])


def test_a_pair_that_is_not_allowed_is_never_made():
    cost = np.array([[0.0, 5.0], [1.0, 0.0]])
    i, j = assign_pairs(cost, np.array([[False, True], [True, True]]))
    assert (i.tolist(), j.tolist()) == ([0, 1], [1, 0])
    assert assign_pairs(cost, np.zeros((2, 2), bool))[0].size == 0


@quick
@given(SPACINGS, ANGLES, ANGLES, arrays(float, 2, elements=st.floats(-1e3, 1e3)), st.integers(0, 100))
def test_spacing_and_bond_order_do_not_depend_on_the_frame_of_reference(spacing, angle, turn, shift, seed):
    points = hexagonal_lattice(spacing, angle, (0.0, 0.0), 4.3 * spacing)
    points += 0.03 * spacing * np.random.default_rng(seed).standard_normal(points.shape)
    other = moved(points, turn, shift)
    assert neighbour_spacing(other) == pytest.approx(neighbour_spacing(points), rel=1e-9)
    assert nearest_spacing(other) == pytest.approx(nearest_spacing(points), rel=1e-9)
    psi6 = hexatic(points, spacing) * np.exp(6j * np.radians(turn))
    assert hexatic(other, spacing) == pytest.approx(psi6, abs=1e-4)  # freud computes in single precision
    assert (np.abs(psi6) > 0.8).all()


@quick
@given(SPACINGS, ANGLES)
def test_all_spacings_agree_in_a_perfect_lattice(spacing, angle):
    points = hexagonal_lattice(spacing, angle, (3.0, -7.0), 4.3 * spacing)
    assert neighbour_spacing(points) == pytest.approx(spacing)
    assert nearest_spacing(points) == pytest.approx(spacing)
    assert typical_spacing(points, np.ones(len(points), int), 0.0) == pytest.approx(spacing)
    assert nearest_spacing(points[:1], otherwise=3.0) == 3.0  # a particle alone has no neighbour


@quick
@given(arrays(complex, 20, elements=st.complex_numbers(max_magnitude=20.0, allow_nan=False)))
def test_nearest_lattice_vector_is_nearer_than_any_other(w):
    nearest = nearest_vector(w)
    m, n = np.meshgrid(np.arange(-1, 2), np.arange(-1, 2))
    around = nearest[:, None] + (m + n * np.exp(1j * np.pi / 3)).ravel()
    assert (np.abs(w - nearest) <= np.abs(w[:, None] - around).min(axis=1) + 1e-9).all()
