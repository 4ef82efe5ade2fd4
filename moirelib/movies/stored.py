"""Frames in a file, read one by one when they are looked at; errors of damaged files."""

from __future__ import annotations

import contextlib
import gc
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import dask.array as da
import numpy as np

# --- From what a file holds to a Movie ------------------------------------------------------------------------------


@dataclass(frozen=True)
class StoredImage:
    """One image or stack as its file describes it; scales are (size of a step, unit)."""

    data: da.Array | np.ndarray  # (t, y, x) or (y, x)
    y: tuple[float, str | None] = (1.0, None)
    x: tuple[float, str | None] = (1.0, None)
    t: tuple[float, str | None] = (1.0, None)
    part: str = ""  # "[2 of 3]" in a file of several images


# --- Helpers of the readers -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def decoding(path: Path, kind: str):
    """Turn whatever a decoder throws at a bad file into one line, and keep it from talking."""
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
    except Exception as error:  # struct.error, KeyError, IndexError, ...: every decoder fails in its own way
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


def require_size(path: Path, size: int) -> None:
    """Refuse a file that ends before its last frame."""
    if path.stat().st_size < size:
        raise ValueError(f"{path.name} is truncated: it ends before its last frame; copy or export it again")


def lazy_stack(read_frame: Callable[[int], np.ndarray], shape: tuple[int, int, int], dtype: np.dtype) -> da.Array:
    """Dask array of frames, each read from the file when it is asked for."""
    n, height, width = shape
    if 0 in shape:
        return da.empty(shape, dtype=dtype)
    return da.map_blocks(
        _read_block,
        read_frame=read_frame,
        chunks=((1,) * n, (height,), (width,)),
        dtype=dtype,
        meta=np.empty((0, 0, 0), dtype),
    )


def _read_block(read_frame: Callable[[int], np.ndarray], block_id=None) -> np.ndarray:
    return read_frame(block_id[0])[None]


@dataclass(frozen=True)
class StoredFrames:
    """Reads frame `i` of those that lie uncompressed at `offsets` in a file."""

    path: Path
    offsets: tuple[int, ...] | range
    shape: tuple[int, int]
    dtype: np.dtype  # as stored, byte order included

    def __call__(self, i: int) -> np.ndarray:
        """Frame `i`."""
        count = self.shape[0] * self.shape[1]
        frame = np.fromfile(self.path, self.dtype, count, offset=self.offsets[i]).reshape(self.shape)
        return frame.astype(self.dtype.newbyteorder("="), copy=False)

    def movie(self) -> da.Array:
        """All of them, lazily."""
        return lazy_stack(self, (len(self.offsets), *self.shape), self.dtype.newbyteorder("="))


def largest_signal(images: list, size: Callable, path: Path) -> tuple[int, str]:
    """Index of the largest image, and "[2 of 3]" if there are several."""
    if not images:
        raise ValueError(f"{path.name} holds no image")
    best = max(range(len(images)), key=lambda i: size(images[i]))
    return best, f"[{best + 1} of {len(images)}]" if len(images) > 1 else ""


def axes_only(read: Callable[..., list[dict]], path: Path, **options) -> list[list[dict]]:
    """Axes of each image according to a reader of RosettaSciIO, without its pixels."""
    try:
        return [signal["axes"] for signal in read(str(path), lazy=True, **options)]
    finally:
        gc.collect()  # the reader leaves the file open, in a reference cycle; on Windows nobody could replace it


def axis_scale(axis: dict) -> tuple[float, str | None]:
    """Scale and unit of an axis of RosettaSciIO."""
    return axis.get("scale", 1.0), axis.get("units")
