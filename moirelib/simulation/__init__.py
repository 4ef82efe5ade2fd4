"""From atoms to simulated movies and training libraries (part 1 of the book).

Many functions share parameters: a scene's layers are numbered from 1; ``pixel_size`` is in nm/pixel; ``spacing`` is the
nearest-neighbour distance of a lattice in nm, ``angle`` the direction of a close-packed row in degrees from x towards
y; a ``wave`` is a complex array (y, x), normalised to an incident amplitude of 1, its ``sampling`` in nm; ``energy`` of
the electrons is in eV, ``aperture`` the semi-angle of the objective aperture in mrad; ``oversampling`` counts samples
of the wave per pixel and axis. ``rng`` and ``seed`` (int or sequence of int): same seed, same bytes.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
