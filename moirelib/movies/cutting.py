"""Take a part of a movie: some of its frames, a part of the field of view."""

import re
from dataclasses import replace

from .movie import Movie


def cut_movie(movie: Movie, frames: str | None = None, roi: str | None = None) -> Movie:
    """A movie of some frames and of a part of the field of view; the file is not read.

    Parameters
    ----------
    movie : Movie
        The whole movie.
    frames : str, optional
        ``"A:B"`` or ``"A:B:STEP"``: from frame A up to but not including B, every STEP-th; numbers may be left out.
    roi : str, optional
        ``"Y0:Y1,X0:X1"`` in pixels, from the first up to but not including the last.

    Returns
    -------
    Movie
        Its frames count from 0, its positions from the part's corner; time and dose of a frame include skipped ones.
    """
    data, frame_time, dose, name = movie.data, movie.frame_time, movie.dose, movie.name
    if frames is not None:
        part = _parse_range(frames, len(movie), "frames", name)
        data, name = data[part], f"{name} frames {frames}"
        step = part.step or 1
        frame_time, dose = (None if one is None else one * step for one in (frame_time, dose))
    if roi is not None:
        sides = roi.split(",")
        if len(sides) != 2:
            raise ValueError(f"a region is Y0:Y1,X0:X1 in pixels, got {roi}")
        y, x = (_parse_range(side, n, "pixels", name) for side, n in zip(sides, movie.shape[1:], strict=True))
        data, name = data[:, y, x], f"{name} pixels {roi}"
    return replace(movie, data=data, frame_time=frame_time, dose=dose, name=name)


def _parse_range(text: str, size: int, what: str, name: str) -> slice:
    """A range in Python's manner; ValueError unless it rises and holds something."""
    if not re.fullmatch(r"\s*\d*\s*:\s*\d*\s*(:\s*[1-9]\d*\s*)?", text):
        raise ValueError(f"{what} are given as A:B or A:B:STEP in whole numbers from 0, got {text}")
    part = slice(*(int(number) if number.strip() else None for number in text.split(":")))
    if len(range(size)[part]) == 0:
        raise ValueError(f"{text} holds none of the {size} {what} of {name}")
    return part
