"""Gatan dm3 and dm4 files."""

from pathlib import Path

from rsciio import digitalmicrograph

from .stored import StoredImage, choose_largest, get_scale


def read_dm(path: Path) -> StoredImage:
    """The largest image of a dm3 or dm4 file."""
    images = [signal for signal in _read_signals(path) if signal["data"].ndim >= 2]
    best, part = choose_largest(images, lambda signal: signal["data"].size, path)
    data, axes = images[best]["data"], images[best]["axes"]
    time = get_scale(axes[0]) if data.ndim == 3 else (1.0, None)
    return StoredImage(data, y=get_scale(axes[-2]), x=get_scale(axes[-1]), t=time, part=part)


def _read_signals(path: Path) -> list[dict]:
    try:
        # Pieces of many whole frames: cheap, as they are memory maps until someone looks into them.
        return digitalmicrograph.file_reader(str(path), lazy=True, chunks={0: "auto"})
    except ValueError as error:
        if "RGBA" not in str(error):
            raise
        return digitalmicrograph.file_reader(str(path))  # colour cannot be read lazily; make_movie refuses it
