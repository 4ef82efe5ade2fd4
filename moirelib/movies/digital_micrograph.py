"""Gatan dm3, dm4 and dm5 files."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from rsciio import digitalmicrograph

from .hierarchical import choose_array, open_store, read_array
from .stored import StoredImage, choose_largest, drop_colours, get_scale


def read_dm(path: Path) -> StoredImage:
    """The largest image of a dm3 or dm4 file."""
    images = [signal for signal in _read_signals(path) if signal["data"].ndim >= 2]
    best, part = choose_largest(images, lambda signal: signal["data"].size, path)
    data, axes = images[best]["data"], images[best]["axes"]
    time = get_scale(axes[0]) if data.ndim == 3 else (1.0, None)
    colour = data.dtype.names is not None
    if colour:
        data = drop_colours(np.stack([data[name] for name in "RGB"], axis=-1))
    return StoredImage(data, y=get_scale(axes[-2]), x=get_scale(axes[-1]), t=time, part=part, colour=colour)


def _read_signals(path: Path) -> list[dict]:
    try:
        # Pieces of many whole frames: cheap, as they are memory maps until someone looks into them.
        return digitalmicrograph.file_reader(str(path), lazy=True, chunks={0: "auto"})
    except ValueError as error:
        if "RGBA" not in str(error):
            raise
        return digitalmicrograph.file_reader(str(path))  # colour cannot be read lazily


def read_dm5(path: Path) -> StoredImage:
    """The largest image of a dm5 file: the tags of a dm4 file in HDF5, where the first image is a thumbnail."""
    with open_store(path) as store:
        names = [f"ImageList/{image}/ImageData/Data" for image in store["ImageList"]]
    name, part = choose_array(path, names[1:] or names)
    with open_store(path) as store:
        dimensions = store[name].parent.get("Calibrations/Dimension") or {}
        n = store[name].ndim
        # Gatan counts axes from x on; what is missing there has no scale.
        attributes = [dict(dimensions[f"[{i}]"].attrs) if f"[{i}]" in dimensions else {} for i in reversed(range(n))]
    axes = [{"scale": a.get("Scale", 1.0), "units": _decode(a.get("Units"))} for a in attributes]
    return replace(read_array(path, name, axes), part=part)


def _decode(text: str | bytes | None) -> str | None:
    return text.decode(errors="replace") if isinstance(text, bytes) else text
