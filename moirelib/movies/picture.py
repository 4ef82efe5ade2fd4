"""PNG, JPEG, GIF and other everyday pictures."""

import contextlib
from collections.abc import Generator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence

from .stored import SequentialFrames, StoredImage, require_plausible, stack_frames, to_grey

_GREY_TYPES = {"1": "bool", "L": "uint8", "I;16": "uint16", "I;16B": "uint16", "I": "int32", "F": "float32"}  # Pillow's
_HAVE_ALPHA = ("LA", "La", "RGBA", "RGBa", "PA")


def read_picture(path: Path) -> StoredImage:
    """A picture or an animation, which carry no scale."""
    with Image.open(path) as picture:
        (width, height), n, mode = picture.size, getattr(picture, "n_frames", 1), picture.mode
        milliseconds = picture.info.get("duration", 0) if n > 1 else 0
    dtype = np.dtype(_GREY_TYPES.get(mode, "uint8"))
    require_plausible(path, n, width * height * dtype.itemsize)
    read = SequentialFrames(path, _decode, path.stat().st_mtime) if n > 1 else partial(_read_only, path)
    frames = stack_frames(read, (n, height, width), dtype)
    notes: tuple[str, ...] = ("the alpha channel is left out",) if mode in _HAVE_ALPHA else ()
    if milliseconds:
        notes += ("the frame time is that of playback; pass another one if the movie was recorded faster or slower",)
    return StoredImage(frames, t=(milliseconds, "ms"), colour=mode not in _GREY_TYPES, notes=notes)


def _read_only(path: Path, i: int) -> np.ndarray:
    with contextlib.closing(_decode(path)) as frames:  # the file is not kept open
        return next(frames)


def _decode(path: Path) -> Generator[np.ndarray, None, None]:
    with Image.open(path) as picture:
        mode = picture.mode
        for frame in ImageSequence.Iterator(picture):
            if mode in _GREY_TYPES:
                yield np.asarray(frame.convert(mode) if frame.mode != mode else frame)
            else:
                yield to_grey(np.asarray(frame.convert("RGB")), lossy=picture.format == "JPEG")
