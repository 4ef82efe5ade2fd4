"""Take Moiré lattices of nanoparticles apart, layer by layer.

>>> import moirelib
>>> movie = moirelib.read_movie("my_movie.dm4")  # doctest: +SKIP
>>> result = moirelib.decompose(movie)  # doctest: +SKIP
>>> result.save("my_movie_layers")  # doctest: +SKIP

``__init__.pyi`` lists the public names, a line each. They are loaded when they are first used: torch and abTEM take
seconds, and ``moirelib --help`` needs neither.
"""

from importlib.metadata import PackageNotFoundError, version

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

try:
    __version__ = version("moirelib")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
