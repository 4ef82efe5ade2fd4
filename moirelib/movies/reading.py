"""The formats that moirelib reads, and how a file or an array becomes a movie."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import dask.array as da
import numpy as np
from numpy.typing import ArrayLike

from .calibration import FRAME_TIME, PIXEL_SIZE, override_scale
from .digital_micrograph import read_dm
from .emd import read_emd
from .movie import Movie, make_movie
from .mrc import read_mrc
from .picture import read_picture
from .ser import read_emi, read_ser
from .stored import StoredImage, explain_errors
from .tiff import read_tiff


class Format(NamedTuple):
    """A file format."""

    extensions: tuple[str, ...]
    name: str  # in messages: "movie.dm4 cannot be read as NAME: ..."
    maker: str  # who writes such files
    read: Callable[[Path], StoredImage]


# All formats that moirelib reads. To add one:
#   1. Write a module beside this one with a function that takes a path and returns a `StoredImage`: lazy pixels and,
#      for y, x and t, the step and its unit as the file gives them. mrc.py is a short example. Whatever the decoder
#      raises becomes one line for the user; raise `UnusableFile` where you can say better what is wrong, and call
#      `require_size`, so that a truncated file is told apart when it is opened.
#   2. List it here, and its extensions in the docstring of `read_movie` and in the help of ``moirelib decompose``.
#   3. Let ``write_any`` of tests/movie_files.py write a small valid file, and name it in TIMED or UNTIMED there; the
#      tests of every format then include it.
FORMATS = (
    Format((".dm3", ".dm4"), "Gatan DigitalMicrograph", "Gatan", read_dm),
    Format((".mrc", ".mrcs"), "MRC", "FEI, SerialEM, Relion", read_mrc),
    Format((".tif", ".tiff"), "TIFF", "ImageJ, OME, microscope makers", read_tiff),
    Format((".emd",), "EMD", "Velox, Berkeley", read_emd),
    Format((".ser",), "TIA .ser", "FEI TIA", read_ser),
    Format((".emi",), "TIA .emi", "FEI TIA", read_emi),  # leads to the .ser files beside it
    Format((".png", ".jpg", ".jpeg"), "a picture", "screenshots", read_picture),
)


def read_movie(path: str | os.PathLike[str], pixel_size: float | None = None, frame_time: float | None = None) -> Movie:
    """Open a movie or a single image (a movie of one frame); its pixels are read later, frame by frame.

    Of a file with several images, the largest. A stack whose axis is not time (a focal or energy series) is read as
    frames, without a frame time. A TIFF resolution in inch or cm counts as a calibration only below 1 µm per pixel;
    above, it is a print setting (72 dpi).

    Parameters
    ----------
    path : path-like
        A ``.dm3``, ``.dm4``, ``.mrc``, ``.tif``, ``.emd``, ``.ser``, ``.emi``, ``.png`` or ``.jpg`` file.
    pixel_size, frame_time : float, optional
        In nm/pixel, and time between frames in s; taken instead of what the file says.

    Raises
    ------
    FileNotFoundError, IsADirectoryError
        If there is no such file.
    ValueError
        If the file is empty, truncated, not an image, in colour, complex or of too many dimensions, if it is a
        diffraction pattern, if its pixels are not square, or if `pixel_size` or `frame_time` is not positive.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the movie file in it")
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}")
    kind = next((known for known in FORMATS if path.suffix.lower() in known.extensions), None)
    if kind is None:
        supported = "; ".join(f"{', '.join(known.extensions)} ({known.maker})" for known in FORMATS)
        raise ValueError(f"{path.name} has an unknown format; supported are {supported}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path.name} is empty (0 bytes); copy or export it again")
    with explain_errors(path, kind.name):
        image = kind.read(path)
    return make_movie(image, path.name, pixel_size, frame_time)


def as_movie(
    movie: Movie | ArrayLike | da.Array | str | os.PathLike[str],
    pixel_size: float | None = None,
    frame_time: float | None = None,
) -> Movie:
    """Make a `Movie` of a file, another movie, or an array ``(t, y, x)`` or ``(y, x)``; errors as of `read_movie`.

    ``pixel_size`` (nm/pixel) and ``frame_time`` (s) are taken instead of the movie's own.
    """
    if isinstance(movie, Movie):
        pixel_size = override_scale(movie.pixel_size, pixel_size, PIXEL_SIZE, movie.name)
        frame_time = override_scale(movie.frame_time, frame_time, FRAME_TIME, movie.name)
        return replace(movie, pixel_size=pixel_size, frame_time=frame_time)
    if isinstance(movie, str | os.PathLike):
        return read_movie(movie, pixel_size, frame_time)
    data = movie if isinstance(movie, da.Array) else np.asarray(movie)
    return make_movie(StoredImage(data), "array", pixel_size, frame_time)
