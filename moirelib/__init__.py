"""Take Moiré lattices of nanoparticles apart, layer by layer.

>>> import moirelib
>>> movie = moirelib.read_movie("my_movie.dm4")  # doctest: +SKIP
>>> result = moirelib.decompose(movie)  # doctest: +SKIP
>>> result.save("my_movie_layers")  # doctest: +SKIP

``__init__.pyi`` lists the public names, a line each. They are loaded when they are first used: torch and abTEM take
seconds, and ``moirelib --help`` needs neither.
"""

import os
from importlib.metadata import PackageNotFoundError, version

import lazy_loader

# OpenMP's threads sleep while they wait for each other. By default they spin; on cores that other programs use as well,
# a spinning thread takes the time of the one it waits for, and the fit took ten times as long. This has to be set
# before PyTorch is loaded. A value that the user has set stays.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

try:
    __version__ = version("moirelib")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
