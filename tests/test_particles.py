"""Particles: detection, and the sites that a lattice expects."""

import numpy as np

from moirelib.lattice import hexagonal_lattice
from moirelib.particles import locate

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
