"""Read a movie of any usual microscope format lazily."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import dask.array as da
import numpy as np

from .calibration import FRAME_TIME, PIXEL_SIZE, positive_or
from .digital_micrograph import read_dm
from .emd import read_emd
from .movie import Movie, make_movie
from .mrc import read_mrc
from .ser import read_emi, read_ser
from .stored import StoredImage
from .tiff import read_picture, read_tiff

__all__ = ["as_movie", "read_movie"]


def read_movie(path: str | os.PathLike, pixel_size: float | None = None, frame_time: float | None = None) -> Movie:
    """Open a movie or a single image; its pixels are read later, frame by frame.

    Parameters
    ----------
    path : path-like
        A ``.dm3``, ``.dm4``, ``.mrc``, ``.tif``, ``.emd``, ``.ser``, ``.emi``, ``.png`` or ``.jpg`` file.
    pixel_size : float, optional
        In nm/pixel; taken instead of what the file says.
    frame_time : float, optional
        Time between frames in s; taken instead of what the file says.

    Returns
    -------
    Movie
        A single image is a movie of one frame. Of a file with several images, the largest.

    Raises
    ------
    FileNotFoundError, IsADirectoryError
        If there is no such file.
    ValueError
        If the file is empty, truncated, not an image, in colour, complex or of too many dimensions, if it is a
        diffraction pattern, if its pixels are not square, or if `pixel_size` or `frame_time` is not positive.

    Notes
    -----
    A stack whose axis is not time (a focal or energy series) is read as frames, without a frame time. A TIFF
    resolution in inch or cm counts as a calibration only below 1 µm per pixel; above, it is a print setting (72 dpi).
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the movie file in it")
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path.name} has an unknown format; supported are {', '.join(_READERS)}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path.name} is empty (0 bytes); copy or export it again")
    return make_movie(reader(path), path.name, pixel_size, frame_time)


def as_movie(movie, pixel_size: float | None = None, frame_time: float | None = None) -> Movie:
    """Whatever was given as a movie, as a `Movie`.

    Parameters
    ----------
    movie : Movie, array-like, dask.array.Array or path-like
        Arrays are ``(t, y, x)``, or ``(y, x)`` for one frame.
    pixel_size : float, optional
        In nm/pixel; taken instead of the movie's own.
    frame_time : float, optional
        In s; taken instead of the movie's own.

    Returns
    -------
    Movie

    Raises
    ------
    ValueError
        As `read_movie`.
    """
    if isinstance(movie, Movie):
        return replace(
            movie,
            pixel_size=positive_or(movie.pixel_size, pixel_size, PIXEL_SIZE, movie.name),
            frame_time=positive_or(movie.frame_time, frame_time, FRAME_TIME, movie.name),
        )
    if isinstance(movie, str | os.PathLike):
        return read_movie(movie, pixel_size, frame_time)
    data = movie if isinstance(movie, da.Array) else np.asarray(movie)
    return make_movie(StoredImage(data), "array", pixel_size, frame_time)


_READERS: dict[str, Callable[[Path], StoredImage]] = {
    ".dm3": read_dm,
    ".dm4": read_dm,
    ".mrc": read_mrc,
    ".mrcs": read_mrc,
    ".tif": read_tiff,
    ".tiff": read_tiff,
    ".emd": read_emd,
    ".ser": read_ser,
    ".emi": read_emi,
    ".png": read_picture,
    ".jpg": read_picture,
    ".jpeg": read_picture,
}
