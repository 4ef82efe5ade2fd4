"""Motion from particles alone: shifts beyond a spacing, turns, and what a perfect lattice cannot tell."""

import numpy as np
import pandas as pd
import pytest

from moirelib.crystal import Motion, estimate_motion, hexagonal_lattice
from moirelib.decomposition import measure_motion
from moirelib.decomposition.movie_motion import follow_steps, take_motion_off
from moirelib.simulation import thermal_displacements

SPACING, SHAPE = 16.0, (288.0, 288.0)
MIDDLE = np.array([[144.0, 144.0]])


def specimen(rng, angles=(7.0, 21.5), vacancies=0.0):
    """Layers of one spacing, much larger than the field; by default far from a twist at which many sites coincide."""
    layers = [hexagonal_lattice(SPACING, angle, (144.0, 144.0), 500.0) for angle in angles]
    return [points[rng.random(len(points)) >= vacancies] for points in layers]


def view(layers, motion, rng, scatter=0.03):
    """What a frame shows of a moved specimen; one particle in fifty is missed."""
    points = motion.apply(np.concatenate(layers))
    points = points + scatter * SPACING * rng.standard_normal(points.shape)
    return points[np.all((points > 0) & (points < np.array(SHAPE) - 1), axis=1) & (rng.random(len(points)) > 0.02)]


@pytest.mark.parametrize("shift", [(0.0, 0.0), (8.0, -5.0), (48.0, 20.0), (-70.0, 60.0)])
@pytest.mark.parametrize("turn", [1.0, 1.005 * np.exp(1j * np.radians(0.4))])
def test_two_layers_show_how_far_they_moved(shift, turn):
    rng = np.random.default_rng(1)
    layers = specimen(rng)
    about = complex(144, 144)
    true = Motion(turn, complex(shift[1], shift[0]) + about - turn * about)
    found = estimate_motion(view(layers, Motion(), rng), view(layers, true, rng), SPACING, SHAPE)
    assert found.decided or np.hypot(*shift) > 3 * SPACING
    assert np.abs(found.motion.apply(MIDDLE) - true.apply(MIDDLE)).max() < 0.02 * SPACING
    assert found.motion.turn == pytest.approx(turn, abs=1e-3)
    assert found.matched > 0.9


def test_a_perfect_lattice_decides_nothing_and_the_expected_motion_is_taken():
    rng = np.random.default_rng(2)
    layers = specimen(rng, angles=(7.0,))
    frames = view(layers, Motion(), rng), view(layers, Motion(shift=complex(47.0, 30.0)), rng)
    found = estimate_motion(*frames, SPACING, SHAPE)
    assert not found.decided
    assert np.hypot(*(found.motion.apply(MIDDLE) - MIDDLE)[0]) < SPACING
    expected = Motion(shift=complex(46.0, 31.0))
    found = estimate_motion(*frames, SPACING, SHAPE, expected)
    assert np.hypot(*(found.motion.apply(MIDDLE) - expected.apply(MIDDLE))[0]) < 0.2 * SPACING


def test_vacancies_decide_for_a_single_lattice():
    rng = np.random.default_rng(3)
    layers, true = specimen(rng, angles=(7.0,), vacancies=0.1), Motion(shift=complex(47.0, 30.0))
    found = estimate_motion(view(layers, Motion(), rng), view(layers, true, rng), SPACING, SHAPE)
    assert found.decided
    assert np.abs(found.motion.apply(MIDDLE) - true.apply(MIDDLE)).max() < 0.02 * SPACING


def test_elastic_layers_show_random_steps():
    """Long waves scatter the pairs of a wide overlap, and a Moiré period brings both layers nearly upon themselves."""
    rng = np.random.default_rng(205)
    shifts = rng.uniform(-0.5, 0.5, (16, 2)) * SPACING
    nm = 38.4 / SPACING  # at 1.5 kT/nm² of a spring, some 0.04 spacings
    layers = [hexagonal_lattice(SPACING, angle, (72.0, 72.0), 200.0) for angle in (7.0, 17.0)]
    waves = [thermal_displacements(nm * p, nm * SPACING, 1.5, len(shifts), rng) / nm for p in layers]
    places = []
    for t, shift in enumerate(shifts):
        points = shift + np.concatenate([p + wave[t] for p, wave in zip(layers, waves, strict=True)])
        points += 0.01 * SPACING * rng.standard_normal(points.shape)
        places.append(points[np.all((points > 0) & (points < 144), axis=1)])
    _, steps, undecided = follow_steps(places, SPACING, (144.0, 144.0), None, "")
    moved = np.array([step.apply(MIDDLE / 2)[0] - MIDDLE[0] / 2 for step in steps[1:]])
    assert np.hypot(*(moved - np.diff(shifts, axis=0)).T).max() < 0.3 * SPACING
    assert len(undecided) <= 2


def test_motions_add_up_and_go_back():
    one, other = Motion(1.01 * np.exp(0.02j), 3 - 2j), Motion(np.exp(-0.1j), 1 + 5j)
    points = np.array([[3.0, 4.0], [-1.0, 7.0]])
    np.testing.assert_allclose(other.after(one).apply(points), other.apply(one.apply(points)))
    np.testing.assert_allclose(one.inverse().apply(one.apply(points)), points)


def make_movie(rng, steps, slide=(0.0, 0.0), empty=()):
    """Particles of all frames of a specimen whose layer 2 also slides on layer 1."""
    layers, frames = specimen(rng), []
    for t, shift in enumerate(np.cumsum(steps, axis=0)):
        seen = []
        for k, points in enumerate(layers, start=1):
            moved = shift + (t * np.array(slide) if k == 2 else 0)
            here = view([points], Motion(shift=complex(moved[1], moved[0])), rng)
            seen.append(pd.DataFrame({"frame": t, "layer": k, "y": here[:, 0], "x": here[:, 1]}))
        frames += seen if t not in empty else []
    return pd.concat(frames, ignore_index=True)


def test_motion_adds_up_over_a_movie_with_a_jump_and_an_empty_frame():
    steps = np.array([(0.0, 0.0), (7.0, 3.0), (7.0, 3.0), (-45.0, 20.0), (7.0, 3.0)])
    movie = make_movie(np.random.default_rng(4), steps, empty=(2,))
    motion = measure_motion(movie, len(steps), 12.0, SHAPE)
    assert motion.undecided == ()
    for t, shift in enumerate(np.cumsum(steps, axis=0)):
        if t != 2:
            moved = motion.since_first[t].apply(MIDDLE) - MIDDLE
            np.testing.assert_allclose(moved[0], shift, atol=0.03 * SPACING)


def test_a_layer_that_slides_on_the_other_rests_once_its_own_motion_is_off():
    steps = np.array([(0.0, 0.0), *[(7.0, 3.0)] * 5])
    movie = make_movie(np.random.default_rng(5), steps, slide=(0.4, -0.3))
    movie = take_motion_off(movie, measure_motion(movie, len(steps), 12.0, SHAPE), SHAPE)
    for layer in (1, 2):
        mine = movie[movie["layer"] == layer]
        first, last = (mine.loc[mine["frame"] == t, ["y_still", "x_still"]].to_numpy() for t in (0, 5))
        apart = np.abs(first[:, None] - last[None]).max(axis=2).min(axis=1)
        inner = np.all((first > 60) & (first < 228), axis=1)
        assert np.quantile(apart[inner], 0.9) < 0.12 * SPACING
