"""Frames that tests of finding and fitting draw themselves: disks on hexagonal lattices, in pixels."""

from dataclasses import replace

import numpy as np
import torch

from moirelib.crystal import hexagonal_lattice
from moirelib.decomposition.image_model import ROUND, ImageModel
from moirelib.decomposition.particle_fit import to_theta

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


def rendered(particles, imaging, rng=None, noise=3.0, shape=(160, 160)):
    """A frame of the fit's own model: 300 counts of light, more at one side, with noise where a generator is given."""
    theta = to_theta(particles, torch.zeros(2), ROUND)
    model = ImageModel.look_at(np.full(shape, 300.0) + np.arange(shape[1]), D).place(theta)
    model = replace(model, frame=model.frame / model.frame.mean())
    drawn = model.render(theta, imaging)
    transmission = (drawn.image - imaging.offset) / drawn.background
    clean = 300 * (imaging.offset + model.frame * transmission).numpy()
    return clean if rng is None else clean + noise * rng.standard_normal(shape)
