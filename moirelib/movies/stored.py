"""What a reader gives, and what readers share: lazy frames, and plain errors for damaged files."""

import contextlib
import gc
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import dask.array as da
import numpy as np

Scale = tuple[Any, str | None]  # size of a step and its unit, as the file gives them
Item = TypeVar("Item")


@dataclass(frozen=True)
class StoredImage:
    """One image or stack as its file describes it."""

    data: da.Array | np.ndarray  # (t, y, x) or (y, x)
    y: Scale = (1.0, None)
    x: Scale = (1.0, None)
    t: Scale = (1.0, None)
    part: str = ""  # "[2 of 3]" in a file of several images


# --- Errors -----------------------------------------------------------------------------------------------------------


class UnusableFile(Exception):
    """A reader understood the file, but it holds no movie; the message names the file and says what to do."""


@contextlib.contextmanager
def explain_errors(path: Path, kind: str) -> Iterator[None]:
    """Turn every error of a decoder into a ValueError of one line, and silence its warnings and log."""
    loggers = [logging.getLogger(name) for name in ("tifffile", "rsciio")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except PermissionError:
        raise
    except UnusableFile as error:
        raise ValueError(str(error)) from error.__cause__
    except Exception as error:  # struct.error, KeyError, IndexError, ...: each decoder raises its own
        raise ValueError(
            f"{path.name} cannot be read as {kind}: damaged, truncated or not such a file ({describe_error(error)})"
        ) from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def describe_error(error: Exception) -> str:
    """An error's message in one line of at most 160 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."


def require_size(path: Path, size: float) -> None:
    """Refuse a file that ends before its last frame."""
    if path.stat().st_size < size:
        raise UnusableFile(f"{path.name} is truncated: it ends before its last frame; copy or export it again")


# --- Frames -----------------------------------------------------------------------------------------------------------


def stack_frames(read_frame: Callable[[int], np.ndarray], shape: tuple[int, int, int], dtype: np.dtype) -> da.Array:
    """Dask array of frames (t, y, x); each is read from the file when someone looks at it."""
    n, height, width = shape
    if 0 in shape:
        return da.empty(shape, dtype=dtype)
    chunks, empty = ((1,) * n, (height,), (width,)), np.empty((0, 0, 0), dtype)
    return da.map_blocks(_read_block, read_frame=read_frame, chunks=chunks, dtype=dtype, meta=empty)


def _read_block(read_frame: Callable[[int], np.ndarray], block_id: tuple[int, ...]) -> np.ndarray:
    return read_frame(block_id[0])[None]


@dataclass(frozen=True)
class StoredFrames:
    """Frames that lie uncompressed in a file; calling it with `i` reads frame `i`."""

    path: Path
    offsets: Sequence[int]  # where each frame begins, in bytes
    shape: tuple[int, int]  # (y, x)
    dtype: np.dtype  # as stored, byte order included

    def __call__(self, i: int) -> np.ndarray:
        """Frame `i`."""
        count = self.shape[0] * self.shape[1]
        frame = np.fromfile(self.path, self.dtype, count, offset=self.offsets[i]).reshape(self.shape)
        return frame.astype(self.dtype.newbyteorder("="), copy=False)

    def stack(self) -> da.Array:
        """All frames, lazily."""
        return stack_frames(self, (len(self.offsets), *self.shape), self.dtype.newbyteorder("="))


# --- Files of several images, and RosettaSciIO ------------------------------------------------------------------------


def choose_largest(images: Sequence[Item], size: Callable[[Item], int], path: Path) -> tuple[int, str]:
    """Index of the largest image, and "[2 of 3]" if there are several."""
    if not images:
        raise UnusableFile(f"{path.name} holds no image")
    best = max(range(len(images)), key=lambda i: size(images[i]))
    return best, f"[{best + 1} of {len(images)}]" if len(images) > 1 else ""


def read_axes(read: Callable[..., list[dict]], path: Path, **options: Any) -> list[list[dict]]:
    """Axes of each image according to a reader of RosettaSciIO, without its pixels."""
    try:
        return [signal["axes"] for signal in read(str(path), lazy=True, **options)]
    finally:
        gc.collect()  # the reader leaves the file open, in a reference cycle; on Windows nobody could replace it


def get_scale(axis: dict) -> Scale:
    """Scale and unit of an axis of RosettaSciIO."""
    return axis.get("scale", 1.0), axis.get("units")
