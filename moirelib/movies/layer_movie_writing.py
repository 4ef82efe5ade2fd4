"""Write layer movies that Fiji opens with the right scale."""

import itertools
import json
import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from .calibration import FRAME_TIME, PIXEL_SIZE, override_scale


def write_layer_movie(
    path: str | os.PathLike[str],
    frames: Iterable[np.ndarray],
    pixel_size: float | None,
    frame_time: float | None = None,
) -> None:
    """Write a layer movie, frame by frame, as a TIFF file that Fiji opens with the right scale.

    ``tifffile.imread`` and `read_movie` give ``(t, y, x)``, for one frame too. Beyond 4 GB only the first page is
    described in the file, as ImageJ itself does it: Fiji, tifffile and `read_movie` find all frames. An older file is
    replaced; the new one appears only when it is complete.

    Frames are uint8, each (y, x), or an array (t, y, x); of a generator or a lazy array no more than a few are held in
    memory. Pixel size is in nm/pixel; the time between frames, in s, may be left out.
    """
    path = Path(path)
    pixel_size = override_scale(None, pixel_size, PIXEL_SIZE, path.name)
    frame_time = override_scale(None, frame_time, FRAME_TIME, path.name)
    if pixel_size is None:
        raise ValueError(f"pixel size is missing for {path.name}; pass pixel_size=... (nm)")
    images = _check_frames(frames, path.name)
    first = list(itertools.islice(images, 2))
    if not first:
        raise ValueError(f"{path.name} would hold no frames; nothing was written")
    alone, size = len(first) == 1, first[0].shape
    images = itertools.chain(first, images)
    del first  # or the first frames would stay in memory
    units: dict[str, Any] = {"unit": "nm"} | ({} if frame_time is None else {"finterval": frame_time})
    tags: dict[str, Any] = {"resolution": (1 / pixel_size, 1 / pixel_size), "resolutionunit": 1, "software": False}
    if alone:
        # Described to ImageJ alone, tifffile would read it as (y, x). In this order, as ImageJ heeds the last one.
        shape = (1, *size)
        for_tifffile = json.dumps({"shape": shape, "axes": "TYX"})
        for_imagej = tifffile.imagej_description((1, 1, 1, *size, 1), **units)
        tags |= {"metadata": None, "extratags": [(270, "s", 0, text, True) for text in (for_tifffile, for_imagej)]}
    else:
        # As (z, c, y, x, s) frames count as time; a bare (y, x) would count as a slice.
        shape = (1, 1, *size, 1)
        tags["metadata"] = units
    part = path.with_name(path.name + ".part")
    try:
        with warnings.catch_warnings(), tifffile.TiffWriter(part, imagej=not alone) as tiff:
            warnings.filterwarnings("ignore", ".*truncating ImageJ file")  # beyond 4 GB: see above
            for image in images:
                tiff.write(image.reshape(shape), contiguous=True, **tags)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _check_frames(frames: Iterable[np.ndarray], name: str) -> Iterator[np.ndarray]:
    """Pass frames on, and refuse one that is not uint8 or of another size."""
    shape = None
    for image in map(np.asarray, frames):
        if image.dtype != np.uint8 or image.ndim != 2 or image.shape != (shape or image.shape):
            got = f"got {image.dtype} {image.shape} after {shape}"
            raise ValueError(f"frames of {name} must be uint8 (y, x) arrays of one size, {got}")
        shape = image.shape
        yield image
