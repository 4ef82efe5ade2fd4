"""Gatan dm3 and dm4 files."""

from pathlib import Path

import numpy as np
from rsciio import digitalmicrograph

from .stored import StoredImage, choose_largest, drop_colours, get_scale


def read_dm(path: Path) -> StoredImage:
    """The largest image of a dm3 or dm4 file."""
    try:
        # Pieces of many whole frames: cheap, as they are memory maps until someone looks into them.
        signals = digitalmicrograph.file_reader(str(path), lazy=True, chunks={0: "auto"})
    except ValueError as error:
        if "RGBA" not in str(error):
            raise
        signals = digitalmicrograph.file_reader(str(path))  # colour cannot be read lazily
    images = [signal for signal in signals if signal["data"].ndim >= 2]
    signal, part = choose_largest(images, lambda signal: signal["data"].size, path)
    data, axes = signal["data"], signal["axes"]
    time = get_scale(axes[0]) if data.ndim == 3 else (1.0, None)
    colour = data.dtype.names is not None
    if colour:
        data = drop_colours(np.stack([data[name] for name in "RGB"], axis=-1))
    return StoredImage(data, get_scale(axes[-2]), get_scale(axes[-1]), time, part, colour)
