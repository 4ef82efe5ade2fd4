"""A movie: frames, pixel size, frame time."""

from dataclasses import dataclass

import dask.array as da
import numpy as np

from .calibration import FRAME_TIME, PIXEL_SIZE, SECONDS, convert_scale, find_pixel_size, override_scale
from .stored import StoredImage, describe_error


@dataclass(frozen=True, eq=False)  # two lazy movies cannot be compared without reading both
class Movie:
    """A movie that is read from its file only where someone looks at it."""

    data: da.Array  # (t, y, x) as recorded (any real integer or float type, native byte order), one frame a chunk
    pixel_size: float | None  # nm/pixel; None where the file does not carry it
    frame_time: float | None  # s, from one frame to the next; None where the file does not carry it
    name: str  # file name, or "array"; in a file of several images, also which one it is

    def __len__(self) -> int:
        return self.data.shape[0]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of frames, rows and columns."""
        return self.data.shape

    def frame(self, i: int) -> np.ndarray:
        """Frame `i` as a float32 array (y, x), read now.

        ValueError if it holds NaN or infinite values, or the same value everywhere; OSError if it cannot be read any
        more.
        """
        lazy = self.data[i]
        try:
            # In this thread: one frame is one read, and the caller may itself be a Dask task.
            image = lazy.compute(scheduler="synchronous")
        except Exception as error:  # each decoder raises its own errors on damaged data
            raise OSError(f"frame {i} of {self.name} cannot be read ({describe_error(error)})") from error
        return _check_frame(image, self.name, i)


def _check_frame(image: np.ndarray, name: str, i: int) -> np.ndarray:
    """Give `image` as float32, and refuse one in which nothing can be seen."""
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite and is refused below
        image = np.asarray(image, dtype=np.float32)
    if not np.isfinite(image).all():
        raise ValueError(f"frame {i} of {name} holds NaN or infinite values; replace them or leave this frame out")
    if image.min() == image.max():
        raise ValueError(f"frame {i} of {name} is constant (every pixel is {image.flat[0]:g}); leave this frame out")
    return image


def make_movie(
    image: StoredImage, name: str, pixel_size: float | None = None, frame_time: float | None = None
) -> Movie:
    """Make a movie of what a reader found in a file; given scales override those of the file."""
    name = f"{name} {image.part}".strip()
    stored = find_pixel_size(image, name) if pixel_size is None else None
    return Movie(
        _make_stack(image.data, name),
        override_scale(stored, pixel_size, PIXEL_SIZE, name),
        override_scale(convert_scale(*image.t, SECONDS), frame_time, FRAME_TIME, name),
        name,
    )


def _make_stack(data: da.Array | np.ndarray, name: str) -> da.Array:
    """Give `data` as (t, y, x) in native byte order, one frame a chunk; refuse what is not a grey movie."""
    if data.dtype.names or (data.ndim >= 3 and data.shape[-1] in (3, 4)):
        raise ValueError(f"{name} is in colour (RGB); convert it to grey values, best export the original data")
    if data.dtype.kind == "c":
        raise ValueError(f"{name} holds complex numbers (a Fourier transform or a wave); give the recorded image")
    if data.dtype.kind not in "iufb":
        raise ValueError(f"{name} holds {data.dtype} values; real numbers are needed")
    if data.ndim > 3:
        data = data.reshape([n for n in data.shape[:-2] if n != 1] + list(data.shape[-2:]))
    if data.ndim not in (2, 3):
        shape = " × ".join(map(str, data.shape))
        raise ValueError(f"{name} has {data.ndim} dimensions ({shape}); give one stack (t, y, x) or one image (y, x)")
    if 0 in data.shape:
        raise ValueError(f"{name} holds no frames (its shape is {data.shape}); record or export it again")
    data = data[None] if data.ndim == 2 else data
    # Without a name, or Dask would read all of the array to make one.
    lazy = data if isinstance(data, da.Array) else da.from_array(data, chunks=(1, -1, -1), name=False)
    wanted = np.dtype(np.uint8) if lazy.dtype.kind == "b" else lazy.dtype.newbyteorder("=")
    return lazy.rechunk((1, -1, -1)).astype(wanted, copy=False)
