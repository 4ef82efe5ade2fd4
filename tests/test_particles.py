"""Particles: detection, the layers, and error bars that mean what they say."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter

from moirelib.lattice import hexagonal_lattice, truth_table
from moirelib.particles import assign_layers, find_lattice, locate, refine
from moirelib.scenes import LatticeConfig, random_scene

D = 12.0


def disks(points, shape, diameter=D, softness=0.8):
    """Disks with soft edges, transmission 1 outside and 0 inside."""
    y, x = np.indices(shape)
    image = np.ones(shape)
    for py, px in points:
        image *= 1 / (1 + np.exp((diameter / 2 - np.hypot(y - py, x - px)) / softness))
    return image


def square_of_points(spacing=16.0, angle=7.0, shape=(160, 160), rng=None, jitter=0.4):
    points = hexagonal_lattice(spacing, angle, np.array(shape) / 2, max(shape))
    points = points[np.all((points > D) & (points < np.array(shape) - D), axis=1)]
    return points + (jitter * rng.standard_normal(points.shape) if rng is not None else 0)


def test_locate_finds_every_disk_once_to_a_tenth_of_a_pixel():
    points = square_of_points(rng=np.random.default_rng(0))
    probability = np.stack([1 - disks(points, (160, 160)), np.zeros((160, 160))])
    found = locate(probability, D)
    assert (found["channel"] == 0).all()
    assert len(found) == len(points)
    distance = np.linalg.norm(found[["y", "x"]].to_numpy()[:, None] - points, axis=2).min(axis=1)
    assert np.sqrt(np.mean(distance**2)) < 0.15


def test_locate_of_nothing_is_an_empty_table():
    found = locate(np.zeros((2, 64, 64)), D)
    assert len(found) == 0
    assert {"channel", "y", "x", "score"} <= set(found)


@pytest.mark.parametrize("angle", [0.0, 13.0, 59.0])
def test_find_lattice_measures_spacing_and_angle(angle):
    points = square_of_points(angle=angle, rng=np.random.default_rng(1), shape=(300, 300))
    lattice, strength = find_lattice(points, 15.0)
    assert lattice.spacing == pytest.approx(16.0, rel=0.001)
    assert abs((lattice.angle - angle + 30) % 60 - 30) < 0.05
    assert strength > 0.5 * len(points)


def test_random_points_hold_no_lattice():
    points = np.random.default_rng(0).uniform(0, 300, (400, 2))
    assert find_lattice(points, 15.0)[1] < 7


def simulated_detections(twist, seed, single=0.0):
    """True points with position noise, misses, false finds, and channels that swap from region to region."""
    rng = np.random.default_rng(seed)
    config = replace(
        LatticeConfig(),
        shapes=("sphere",),
        twist_angle=(twist, twist),
        single_layer=single,
        boundary=0.0,
        dislocations=0.0,
        interstitials=(0.0, 0.0),
    )
    field = (400.0, 400.0)
    truth = truth_table(random_scene(config, field, rng, 16.0), 1.0)
    truth = truth[rng.random(len(truth)) > 0.03]
    points = truth[["y", "x"]].to_numpy() + 0.03 * D * rng.standard_normal((len(truth), 2))
    swap = gaussian_filter(rng.standard_normal((400, 400)), 50) > 0
    index = np.clip(points.round().astype(int), 0, 399)
    channel = (truth["layer"].to_numpy() - 1) ^ swap[index[:, 0], index[:, 1]]
    table = pd.DataFrame({"channel": channel, "y": points[:, 0], "x": points[:, 1], "score": 0.9})
    table["truth"] = truth["layer"].to_numpy()
    n = len(table) // 50
    false = {"channel": rng.integers(0, 2, n), "score": 0.5, "truth": 0}
    false |= {"y": rng.uniform(0, 400, n), "x": rng.uniform(0, 400, n)}
    return pd.concat([table, pd.DataFrame(false)], ignore_index=True)


@pytest.mark.parametrize("twist", [3.5, 8.0, 27.0, 30.0])
def test_lattices_undo_the_networks_local_swaps(twist):
    accuracy = []
    for seed in range(8):
        table, _ = assign_layers(simulated_detections(twist, seed), D)
        real = table[table["truth"] > 0]
        right = np.mean(real["layer"] == real["truth"])
        accuracy.append(max(right, 1 - right))
    assert np.mean(accuracy) > 0.98


def test_one_lattice_is_one_layer_whatever_the_channels_say():
    table, lattices = assign_layers(simulated_detections(5.0, 3, single=1.0), D)
    assert np.mean(table["layer"] == 1) > 0.98
    assert lattices[1] == []


def test_twist_comes_out_of_the_lattices():
    _, (first, second) = assign_layers(simulated_detections(11.0, 1), D)
    assert abs((first[0].angle - second[0].angle + 30) % 60 - 30) == pytest.approx(11.0, abs=0.4)


def test_too_few_particles_are_reported_as_a_guess():
    table = pd.DataFrame({"channel": [0, 0, 1], "y": [5.0, 20, 40], "x": [5.0, 20, 40], "score": 0.9})
    named, lattices = assign_layers(table, D)
    assert (named["layer_confidence"] == 0.5).all()
    assert lattices == [[], []]


def noisy_frame(points, rng, noise, contrast=0.5):
    y, _ = np.indices((160, 160))
    clean = 300 + 0.3 * y
    for point in points:
        clean = clean * (1 - contrast * (1 - disks([point], (160, 160))))
    return clean + noise * rng.standard_normal(clean.shape)


def test_fitted_positions_are_unbiased_and_errors_are_true():
    z, errors = [], []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        points = square_of_points(rng=rng)
        start = pd.DataFrame(points + rng.normal(0, 0.5, points.shape), columns=["y", "x"])
        table = refine(noisy_frame(points, rng, 30.0), start, D)
        error = table[["y", "x"]].to_numpy() - points
        errors.append(error)
        z.append(error / table[["y_std", "x_std"]].to_numpy())
    z, errors = np.concatenate(z), np.concatenate(errors)
    assert np.abs(errors.mean(axis=0)).max() < 4 * errors.std() / np.sqrt(len(errors))
    assert 0.8 < np.std(z) < 1.25
    assert errors.std() < 0.3


def test_fitted_errors_grow_with_the_noise():
    rng = np.random.default_rng(0)
    points = square_of_points(rng=rng)
    start = pd.DataFrame(points, columns=["y", "x"])
    std = [refine(noisy_frame(points, rng, noise), start, D)["y_std"].median() for noise in (10.0, 40.0)]
    assert std[1] / std[0] == pytest.approx(4.0, rel=0.3)


def test_fitted_diameter_follows_the_true_one():
    rng = np.random.default_rng(0)
    points = square_of_points(spacing=20.0, rng=rng)
    start = pd.DataFrame(points, columns=["y", "x"])
    sizes = []
    for diameter in (11.0, 13.0):
        frame = 300 * (0.4 + 0.6 * disks(points, (160, 160), diameter)) + 3 * rng.standard_normal((160, 160))
        sizes.append(refine(frame, start, D)["diameter"].median())
    assert sizes[1] / sizes[0] == pytest.approx(13 / 11, rel=0.05)


def test_a_particle_under_another_is_fitted_too():
    rng = np.random.default_rng(2)
    points = np.array([[60.0, 60.0], [60.0, 67.0], [110.0, 100.0]])
    start = pd.DataFrame(points + 0.5, columns=["y", "x"])
    table = refine(noisy_frame(points, rng, 2.0), start, D)
    assert np.abs(table[["y", "x"]].to_numpy() - points).max() < 0.3


def test_frames_below_zero_are_fitted_as_well():
    rng = np.random.default_rng(0)
    points = square_of_points(rng=rng)
    start = pd.DataFrame(points + 0.4, columns=["y", "x"])
    frame = noisy_frame(points, rng, 10.0)
    for offset in (-1000.0, 30000.0):
        error = refine(frame + offset, start, D)[["y", "x"]].to_numpy() - points
        assert error.std() < 0.2
