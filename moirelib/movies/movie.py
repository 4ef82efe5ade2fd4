"""A movie: frames, pixel size, frame time; and a part of one."""

import contextlib
import re
from dataclasses import dataclass, replace

import dask.array as da
import numpy as np

from ..units import SECONDS, convert_scale
from .calibration import FRAME_TIME, PIXEL_SIZE, find_pixel_size, override_scale
from .stored import ColourError, StoredImage, describe_error, make_lazy

COUNTED_DOSE = "the dose is that of the electrons that the camera counted in the first frame"


@dataclass(frozen=True, eq=False)  # two lazy movies cannot be compared without reading both
class Movie:
    """A movie that is read from its file only where someone looks at it."""

    data: da.Array  # (t, y, x) as recorded (any real integer or float type, native byte order), one frame a chunk
    pixel_size: float | None  # nm/pixel; None where the file does not carry it
    frame_time: float | None  # s, from one frame to the next; None where the file does not carry it
    name: str  # file name, or "array"; in a file of several images, also which one it is
    dose: float | None = None  # electrons/Å² in each frame; None where the file does not carry it
    notes: tuple[str, ...] = ()  # what was found out about the file and is worth knowing, each a sentence

    def __len__(self) -> int:
        return self.data.shape[0]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of frames, rows and columns."""
        return self.data.shape

    def frame(self, i: int) -> np.ndarray:
        """Frame `i` as a float32 array (y, x), read now.

        Rows and columns of NaN at its edges, as alignment leaves them, get its lowest value. ValueError if it holds
        other NaN or infinite values, or the same value everywhere; OSError if it cannot be read any more.
        """
        lazy, what = self.data[i], f"frame {i} of {self.name}"
        try:
            # In this thread: one frame is one read, and the caller may itself be a Dask task.
            image = lazy.compute(scheduler="synchronous")
        except Exception as error:  # each decoder raises its own errors on damaged data
            raise OSError(f"{what} cannot be read ({describe_error(error)}); leave this frame out") from error
        if image.shape != self.shape[1:]:
            sizes = " instead of ".join(" × ".join(map(str, shape)) for shape in (image.shape, self.shape[1:]))
            raise OSError(f"{what} cannot be read (it has {sizes} pixels); leave this frame out")
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite and is refused below
            image = np.asarray(image, dtype=np.float32)
        known = ~np.isnan(image)
        if known.any() and not known.all():
            rows, columns = (np.flatnonzero(known.any(axis=axis)) for axis in (1, 0))
            border = np.ones(image.shape, bool)
            border[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = False
            image = np.where(border, image[known].min(), image)
        if not np.isfinite(image).all():
            raise ValueError(f"{what} holds NaN or infinite values; replace them or leave this frame out")
        if image.min() == image.max():
            raise ValueError(f"{what} is constant (every pixel is {image.flat[0]:g}); leave this frame out")
        return image


def make_movie(
    image: StoredImage, name: str, pixel_size: float | None = None, frame_time: float | None = None
) -> Movie:
    """Make a movie of what a reader found in a file; given scales override those of the file."""
    name = f"{name} {image.part}".strip()
    stored, notes = find_pixel_size(image, name) if pixel_size is None else (None, ())
    data = make_stack(image.data, name)
    if image.colour:
        try:  # in the first frame; whether the others are grey is seen when they are read
            data[0].compute(scheduler="synchronous")
        except ColourError as error:
            raise ValueError(f"{name} {error}") from error
        except Exception as error:  # one frame of many is only left out
            if len(data) == 1:
                raise ValueError(f"{name} cannot be read ({describe_error(error)}); copy or export it again") from error
    pixel_size = override_scale(stored, pixel_size, PIXEL_SIZE, name)
    frame_time = override_scale(convert_scale(*image.t, SECONDS), frame_time, FRAME_TIME, name)
    movie = Movie(data, pixel_size, frame_time, name, image.dose, (*image.notes, *notes))
    if image.intensity is None or pixel_size is None:
        return movie
    with contextlib.suppress(OSError, ValueError):  # of a first frame that cannot be used; it is left out later
        origin, electrons = image.intensity
        dose = electrons * (float(movie.frame(0).mean(dtype=float)) - origin) / (10 * pixel_size) ** 2
        if dose > 0:
            movie = replace(movie, dose=dose, notes=(*movie.notes, COUNTED_DOSE))
    return movie


def make_stack(data: da.Array | np.ndarray, name: str) -> da.Array:
    """Give `data` as (t, y, x) in native byte order, one frame a chunk; refuse what is not a grey movie."""
    if data.dtype.kind == "c":
        raise ValueError(f"{name} holds complex numbers (a Fourier transform or a wave); give the recorded image")
    if data.dtype.kind not in "iufb":
        raise ValueError(f"{name} holds {data.dtype} values; real numbers are needed, export it again as grey values")
    if data.ndim > 3:
        data = data.reshape([n for n in data.shape[:-2] if n != 1] + list(data.shape[-2:]))
    if data.ndim not in (2, 3):
        shape = " × ".join(map(str, data.shape))
        raise ValueError(f"{name} has {data.ndim} dimensions ({shape}); give one stack (t, y, x) or one image (y, x)")
    if 0 in data.shape:
        raise ValueError(f"{name} holds no frames (its shape is {data.shape}); record or export it again")
    lazy = make_lazy(data[None] if data.ndim == 2 else data)
    wanted = np.dtype(np.uint8) if lazy.dtype.kind == "b" else lazy.dtype.newbyteorder("=")
    return lazy.rechunk((1, -1, -1)).astype(wanted, copy=False)


def cut_movie(movie: Movie, frames: str | None = None, roi: str | None = None) -> Movie:
    """A movie of some frames and of a part of the field of view; the file is not read.

    Its frames count from 0, its positions from the part's corner; time and dose of a frame include skipped ones.
    ``frames`` is ``"A:B"`` or ``"A:B:STEP"``: from A up to but not including B, every STEP-th; numbers may be left out.
    ``roi`` is ``"Y0:Y1,X0:X1"`` in pixels, from the first up to but not including the last.
    """
    if frames is not None:
        part = _parse_range(frames, len(movie), "frames", movie.name)
        time, dose = (None if one is None else one * (part.step or 1) for one in (movie.frame_time, movie.dose))
        name = f"{movie.name} frames {frames}"
        movie = replace(movie, data=movie.data[part], frame_time=time, dose=dose, name=name)
    if roi is not None:
        sides = roi.split(",")
        if len(sides) != 2:
            raise ValueError(f"a region is Y0:Y1,X0:X1 in pixels, got {roi}")
        y, x = (_parse_range(side, n, "pixels", movie.name) for side, n in zip(sides, movie.shape[1:], strict=True))
        movie = replace(movie, data=movie.data[:, y, x], name=f"{movie.name} pixels {roi}")
    return movie


def _parse_range(text: str, size: int, what: str, name: str) -> slice:
    """A range in Python's manner; ValueError unless it rises and holds something."""
    if not re.fullmatch(r"\s*\d*\s*:\s*\d*\s*(:\s*[1-9]\d*\s*)?", text):
        raise ValueError(f"{what} are given as A:B or A:B:STEP in whole numbers from 0, got {text}")
    part = slice(*(int(number) if number.strip() else None for number in text.split(":")))
    if len(range(size)[part]) == 0:
        raise ValueError(f"{text} holds none of the {size} {what} of {name}")
    return part
