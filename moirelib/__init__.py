"""Take Moiré lattices of nanoparticles apart, layer by layer.

>>> import moirelib
>>> movie = moirelib.read_movie("my_movie.dm4")  # doctest: +SKIP
>>> result = moirelib.decompose(movie)  # doctest: +SKIP
>>> result.save("my_movie_layers")  # doctest: +SKIP
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

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
    if name in _HOME:
        value = getattr(import_module(f".{_HOME[name]}", __name__), name)
        # `moirelib.decompose` is the function, also after the module of the same name was imported.
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
