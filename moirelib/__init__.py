"""Take Moiré lattices of nanoparticles apart, layer by layer.

>>> import moirelib
>>> movie = moirelib.read_movie("my_movie.dm4")  # doctest: +SKIP
>>> result = moirelib.decompose(movie)  # doctest: +SKIP
>>> result.save("my_movie_layers")  # doctest: +SKIP
"""

import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

try:
    __version__ = version("moirelib")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

# Loaded on first use: torch and abTEM take seconds, and `moirelib --help` needs neither.
_HOME = {
    "Movie": "movies",
    "read_movie": "movies",
    "Decomposition": "decompose",
    "decompose": "decompose",
    "semi_real_moire": "decompose",
}

__all__ = ["Decomposition", "Movie", "__version__", "decompose", "read_movie", "semi_real_moire"]


def __getattr__(name):
    """Import the public functions when they are first used."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


class _Package(ModuleType):
    """Keeps `moirelib.decompose` the function when the module of the same name is imported."""

    def __setattr__(self, name, value):
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
