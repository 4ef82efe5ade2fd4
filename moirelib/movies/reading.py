"""How a file, a folder or an array becomes a movie."""

import os
from dataclasses import replace
from pathlib import Path

import dask.array as da
import numpy as np
from numpy.typing import ArrayLike

from .calibration import FRAME_TIME, PIXEL_SIZE, override_scale
from .folder import find_next_part, is_pattern, read_folder
from .formats import find_format, list_formats
from .movie import Movie, make_movie
from .stored import StoredImage, drop_colours, read_file


def read_movie(path: str | os.PathLike[str], pixel_size: float | None = None, frame_time: float | None = None) -> Movie:
    """Open a movie or a single image (a movie of one frame); its pixels are read later, frame by frame.

    Read are {formats}.

    Of a file with several images, the largest; in a TIFF file, colour previews are left out, and images or stacks of
    one size and type written one after the other are frames. Of a recording that stopped early, whole frames. A focal
    or energy series is read as frames, without a frame time. Where red, green and blue are the same, they are grey;
    alpha is left out. A folder of single frames is a movie, in natural order of the names (1, 2, 10) or, for Gatan's
    OneView (``Hour_00/Minute_00/Second_00/...``), in order of time; so are the numbered parts of one long recording.
    Every other folder is refused with a list of what is in it.

    Not believed are a pixel size of 1.000 Å in an MRC file, which many programs write for "unknown", and a TIFF
    resolution in inch or cm above 1 µm per pixel, which is a print setting (72 dpi). Where only one axis has a scale,
    it is taken for both. What was decided so is told in ``notes`` of the movie. Its ``dose`` comes from the extended
    header that FEI and SerialEM write into MRC files; where the values of a Gatan file are electrons, from its first
    frame.

    Parameters
    ----------
    path : path-like
        A file of the formats above, a folder, or a pattern such as ``folder/run_*.tif`` of files to be joined.
    pixel_size, frame_time : float, optional
        In nm/pixel, and time between frames in s; taken instead of what the file says.

    Raises
    ------
    FileNotFoundError, IsADirectoryError
        If there is no such file, or if a folder holds no movie or several.
    ValueError
        If the file is empty, without a whole frame, not an image, in colour, complex, of too many dimensions or a
        diffraction pattern, if its pixels are not square, if the files of a folder differ, or if a given scale is not
        positive.
    """
    path = Path(path)
    if is_pattern(path) or (path.is_dir() and find_format(path) is None):
        image = read_folder(path)
    else:
        image = read_file(path)
        image = replace(image, notes=image.notes + find_next_part(path, image))
    return make_movie(image, path.resolve().name, pixel_size, frame_time)


if read_movie.__doc__:  # none with python -OO
    read_movie.__doc__ = read_movie.__doc__.replace("{formats}", list_formats("{name} ({extensions})", ",\n    ", "``"))


def as_movie(
    movie: Movie | ArrayLike | da.Array | str | os.PathLike[str],
    pixel_size: float | None = None,
    frame_time: float | None = None,
) -> Movie:
    """Make a `Movie` of a file, another movie, or an array ``(t, y, x)`` or ``(y, x)``; errors as of `read_movie`.

    ``pixel_size`` (nm/pixel) and ``frame_time`` (s) are taken instead of the movie's own. An array whose last axis is 3
    or 4 long holds colours.
    """
    if isinstance(movie, Movie):
        pixel_size = override_scale(movie.pixel_size, pixel_size, PIXEL_SIZE, movie.name)
        frame_time = override_scale(movie.frame_time, frame_time, FRAME_TIME, movie.name)
        return replace(movie, pixel_size=pixel_size, frame_time=frame_time)
    if isinstance(movie, str | os.PathLike):
        return read_movie(movie, pixel_size, frame_time)
    data = movie if isinstance(movie, da.Array) else np.asarray(movie)
    colour = data.ndim in (3, 4) and data.shape[-1] in (3, 4)
    image = StoredImage(drop_colours(data) if colour else data, colour=colour)
    return make_movie(image, "array", pixel_size, frame_time)
