"""From atoms to simulated movies and training libraries (part 1 of the book).

Many functions share these parameters; their own docstrings explain the others.

scene, pixel_size : Scene, float
    Layers of particles, numbered from 1; in nm/pixel.
spacing, angle : float
    Nearest-neighbour distance of a lattice, in nm, and direction of a close-packed row, in degrees from x towards y.
wave, sampling : complex ndarray of shape (y, x), float
    Of electrons, normalised to an incident amplitude of 1; in nm.
energy, aperture : float
    Of the electrons, in eV, and semi-angle of the objective aperture, in mrad.
oversampling : int
    Samples of the wave per pixel and axis.
rng, seed : numpy.random.Generator, int or sequence of int
    Source of random numbers. Same seed, same bytes.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
