"""Read a file of any format; what readers give, and what they share: lazy frames, plain errors for damaged files."""

import contextlib
import gc
import importlib
import itertools
import logging
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import dask.array as da
import numpy as np

from .formats import find_format, list_formats

MOST_COMPRESSION = 1032  # times; the limit of deflate (zlib's documentation), which only an empty frame comes near
COLOUR_TOLERANCE = 5  # of 255; lossy compression changes grey values that much from colour to colour
Scale = tuple[Any, str | None]  # size of a step and its unit, as the file gives them
Item = TypeVar("Item")
_counting = threading.Lock()
_inside: list[int] = []  # threads that read a file; warnings and logs are silenced for all threads at once
_restore = contextlib.ExitStack()  # what the last of them undoes


@dataclass(frozen=True)
class StoredImage:
    """One image or stack as its file describes it."""

    data: da.Array | np.ndarray  # (t, y, x) or (y, x)
    y: Scale = (1.0, None)
    x: Scale = (1.0, None)
    t: Scale = (1.0, None)
    part: str = ""  # "[2 of 3]" in a file of several images
    colour: bool = False  # stored as colours; whether they are shades of grey is seen when a frame is read
    dose: float | None = None  # electrons/Å² in each frame, where the file says so
    intensity: tuple[float, float] | None = None  # of no electron, and electrons for each step above, where it says so
    notes: tuple[str, ...] = ()  # what the user should know, each a sentence
    scale_note: str = ""  # the same about the pixel size; left out when the user gives one
    files: tuple[Path, ...] = ()  # all files that the frames lie in, where there are several


class UnusableFile(Exception):
    """A reader understood the file, but it holds no movie; the message names the file and says what to do."""


class ColourError(ValueError):
    """A frame is really in colour; the message goes behind the name of the file."""


def read_file(path: Path) -> StoredImage:
    """What the reader of its format finds in a file; every error is one line, as of `read_movie`."""
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}")
    kind = find_format(path)
    if kind is None:
        supported = list_formats("{extensions} ({maker})", "; ")
        raise ValueError(f"{path.name} has an unknown format; supported are {supported}: export it as one of these")
    if path.is_file() and path.stat().st_size == 0:
        raise ValueError(f"{path.name} is empty (0 bytes); copy or export it again")
    module, function = kind.reader.split(".")
    read = getattr(importlib.import_module(f".{module}", __package__), function)
    with silence():
        try:
            return read(path)
        except PermissionError:
            raise
        except UnusableFile as error:
            raise ValueError(str(error)) from error.__cause__
        except ColourError as error:
            raise ValueError(f"{path.name} {error}") from error
        except Exception as error:  # struct.error, KeyError, IndexError, ...: each decoder raises its own
            why = f"damaged, truncated or not such a file ({describe_error(error)}); copy or export it again"
            raise ValueError(f"{path.name} cannot be read as {kind.name}: {why}") from error


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """No warnings and logs of libraries that read files, in all threads, until the last of them has left."""
    with _counting:
        if not _inside:
            _restore.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            for logger in map(logging.getLogger, ("tifffile", "rsciio")):
                _restore.callback(logger.setLevel, logger.level)
                logger.setLevel(logging.CRITICAL + 1)
        _inside.append(threading.get_ident())
    try:
        yield
    finally:
        with _counting:
            _inside.pop()
            if not _inside:
                _restore.close()


def describe_error(error: Exception) -> str:
    """An error's message in one line of at most 160 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."


def describe_stop(path: Path, whole: int, announced: int | None) -> tuple[str, ...]:
    """A note if a file stops before the last of the frames that it announces (None: unknown how many); refuses none."""
    if whole == 0:
        raise UnusableFile(f"{path.name} is truncated: it holds no whole frame; copy or export it again")
    told = "" if announced is None else f" of the {announced} that its header announces"
    frames = "1 whole frame" if whole == 1 else f"{whole} whole frames"
    return () if whole == announced else (f"{path.name} holds {frames}{told}; the rest is not read",)


def require_plausible(path: Path, frames: int, frame_bytes: float) -> None:
    """Refuse a file, or a Zarr store, that promises more than compression can hold: damage could ask for all memory."""
    sizes = itertools.accumulate(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")))
    if all(frames > size or frame_bytes > MOST_COMPRESSION * size for size in sizes):  # of as few files as will do
        raise UnusableFile(f"{path.name} is damaged: it promises more than it can hold; copy or export it again")


def stack_frames(read_frame: Callable[[int], np.ndarray], shape: tuple[int, int, int], dtype: np.dtype) -> da.Array:
    """Dask array of frames (t, y, x); each is read from the file when someone looks at it."""
    n, height, width = shape
    if 0 in shape:
        return da.empty(shape, dtype=dtype)
    chunks, empty = ((1,) * n, (height,), (width,)), np.empty((0, 0, 0), dtype)
    return da.map_blocks(_read_block, read_frame=read_frame, chunks=chunks, dtype=dtype, meta=empty)


def _read_block(read_frame: Callable[[int], np.ndarray], block_id: tuple[int, ...]) -> np.ndarray:
    return read_frame(block_id[0])[None]


def make_lazy(data: da.Array | np.ndarray) -> da.Array:
    """A Dask array of an array, one piece for each step along its first axis."""
    # Without a name, or Dask would read all of the array to make one.
    return data if isinstance(data, da.Array) else da.from_array(data, chunks=(1, *[-1] * (data.ndim - 1)), name=False)


def stack_stored(
    path: Path | Sequence[Path], offsets: Sequence[int], shape: tuple[int, int], dtype: np.dtype
) -> da.Array:
    """Frames that lie uncompressed, lazily: `path` of all or of each, `offsets` in bytes, `dtype` as stored."""
    read = partial(read_stored, path, offsets, shape, dtype)
    return stack_frames(read, (len(offsets), *shape), dtype.newbyteorder("="))


def read_stored(path, offsets, shape, dtype, i: int) -> np.ndarray:
    """Frame `i` of `stack_stored`."""
    path = path if isinstance(path, Path) else path[i]
    frame = np.fromfile(path, dtype, shape[0] * shape[1], offset=offsets[i]).reshape(shape)
    return frame.astype(dtype.newbyteorder("="), copy=False)


def to_grey(frame: np.ndarray, axis: int = -1, lossy: bool = False) -> np.ndarray:
    """Grey values of a frame whose colours lie along `axis`: grey, grey and alpha, RGB, or RGB and alpha.

    Alpha is dropped. ColourError if red, green and blue differ; a little if the frame was compressed with losses.
    """
    channels = np.moveaxis(frame, axis, 0)
    if len(channels) < 3:
        return channels[0]
    colours = channels[:3]
    highest, lowest = colours.max(axis=0), colours.min(axis=0)
    if np.any(highest - lowest > COLOUR_TOLERANCE if lossy else highest != lowest):
        raise ColourError(
            "is in colour (RGB): red, green and blue differ; export the original grey data, or convert it to grey"
        )
    return colours[1]  # green, which lossy compression keeps best


def drop_colours(data: da.Array | np.ndarray) -> da.Array:
    """Grey values of an array whose last axis holds 3 or 4 colours, lazily; each image is one piece."""
    lazy = make_lazy(data[None] if data.ndim == 3 else data).rechunk((1, -1, -1, -1))
    return lazy.map_blocks(to_grey, drop_axis=3, dtype=lazy.dtype)


def choose_largest(images: Sequence[Item], size: Callable[[Item], int], path: Path) -> tuple[Item, str]:
    """The largest image, and "[2 of 3]" if there are several."""
    if not images:
        raise UnusableFile(f"{path.name} holds no image; give a file with a movie or a picture")
    best = max(range(len(images)), key=lambda i: size(images[i]))
    return images[best], f"[{best + 1} of {len(images)}]" if len(images) > 1 else ""


def read_axes(read: Callable[..., list[dict]], path: Path, **options: Any) -> list[list[dict]]:
    """Axes of each image according to a reader of RosettaSciIO, without its pixels."""
    try:
        return [signal["axes"] for signal in read(str(path), lazy=True, **options)]
    finally:
        gc.collect()  # the reader leaves the file open, in a reference cycle; on Windows nobody could replace it


def get_scale(axis: dict) -> Scale:
    """Scale and unit of an axis of RosettaSciIO."""
    return axis.get("scale", 1.0), axis.get("units")
