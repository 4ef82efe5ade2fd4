"""Write layer movies that Fiji opens with the right scale."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import tifffile

from .calibration import FRAME_TIME, PIXEL_SIZE, positive_or

__all__ = ["LayerMovieWriter", "write_layer_movie"]


# --- Writing layer movies -------------------------------------------------------------------------------------------


class LayerMovieWriter:
    """Writes a layer movie frame by frame into a TIFF file that Fiji opens with the right scale.

    Memory does not grow with the number of frames, which need not be known beforehand. The file appears under its
    name only when it is complete; if the ``with`` block fails, none is left.

    Parameters
    ----------
    path : path-like
        File to write; an older one is replaced.
    pixel_size : float
        In nm/pixel.
    frame_time : float, optional
        Time between frames in s.

    Notes
    -----
    ``tifffile.imread`` and `read_movie` give ``(t, y, x)``, for one frame too. Beyond 4 GB only the first page is
    described in the file, as ImageJ itself does it: Fiji, tifffile and `read_movie` find all frames.

    Examples
    --------
    >>> with LayerMovieWriter("layer_1.tif", pixel_size=2.5) as layer:  # doctest: +SKIP
    ...     for frame in frames:
    ...         layer.write(frame)
    """

    def __init__(self, path: str | os.PathLike, pixel_size: float, frame_time: float | None = None):
        self.path = Path(path)
        name = self.path.name
        if pixel_size is None:
            raise ValueError(f"pixel size is missing for {name}; pass pixel_size=... (nm)")
        self.pixel_size = positive_or(None, pixel_size, PIXEL_SIZE, name)
        self.frame_time = positive_or(None, frame_time, FRAME_TIME, name)
        self._part = self.path.with_name(name + ".part")
        self._tiff: tifffile.TiffWriter | None = None
        self._first: np.ndarray | None = None  # held back until it is known whether a second one comes
        self._shape: tuple[int, ...] | None = None

    def __enter__(self) -> LayerMovieWriter:
        self._tiff = tifffile.TiffWriter(self._part, imagej=True)
        return self

    def write(self, frame: np.ndarray) -> None:
        """Append one frame, a uint8 array (y, x)."""
        frame = np.asarray(frame)
        if frame.dtype != np.uint8 or frame.ndim != 2 or frame.shape != (self._shape or frame.shape):
            raise ValueError(
                f"frames of {self.path.name} must be uint8 (y, x) arrays of one size, "
                f"got {frame.dtype} {frame.shape} after {self._shape}"
            )
        if self._shape is None:
            self._first = frame.copy()
        else:
            self._flush_first()
            self._append(frame)
        self._shape = frame.shape

    def _flush_first(self) -> None:
        if self._first is not None:
            self._append(self._first)
            self._first = None

    def _append(self, frame: np.ndarray) -> None:
        # As (z, c, y, x, s) frames count as time; a bare (y, x) would count as a channel.
        frame = frame[None, None, :, :, None]
        self._tiff.write(frame, contiguous=True, metadata=self._metadata, **self._scale)

    @property
    def _metadata(self) -> dict:
        return {"unit": "nm"} | ({} if self.frame_time is None else {"finterval": self.frame_time})

    @property
    def _scale(self) -> dict:
        return {"resolution": (1 / self.pixel_size, 1 / self.pixel_size), "resolutionunit": 1, "software": False}

    def __exit__(self, kind, error, traceback) -> None:
        single = self._first is not None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # "truncating ImageJ file" above 4 GB: see Notes
                self._tiff.close()
            if kind is None and self._shape is None:
                raise ValueError(f"{self.path.name} would hold no frames; nothing was written")
            if kind is None:
                if single:
                    self._write_single()
                os.replace(self._part, self.path)
        finally:
            self._part.unlink(missing_ok=True)

    def _write_single(self) -> None:
        """Describe one frame twice: to tifffile, which then reads (1, y, x), and to ImageJ, which heeds the last."""
        shape = json.dumps({"shape": [1, *self._shape], "axes": "TYX"})
        imagej = "".join(f"{key}={value}\n" for key, value in {"ImageJ": "1.11a", **self._metadata}.items())
        descriptions = [(270, "s", 0, text, True) for text in (shape, imagej)]
        with tifffile.TiffWriter(self._part, ome=False) as tiff:
            tiff.write(self._first, metadata=None, extratags=descriptions, **self._scale)


def write_layer_movie(
    path: str | os.PathLike, frames: Iterable[np.ndarray], pixel_size: float, frame_time: float | None = None
) -> None:
    """Write a layer movie as a TIFF file that Fiji opens with the right scale.

    Parameters
    ----------
    path : path-like
        File to write; it appears only when it is complete.
    frames : iterable of ndarray of uint8, or array (t, y, x)
        Lazy arrays are computed frame by frame.
    pixel_size : float
        In nm/pixel.
    frame_time : float, optional
        Time between frames in s.

    Raises
    ------
    ValueError
        If there are no frames, if they are not uint8 images of one size, or if the pixel size is not positive.
    OSError
        If the file cannot be written.

    See Also
    --------
    LayerMovieWriter : the same for frames that come one at a time.
    """
    with LayerMovieWriter(path, pixel_size, frame_time) as movie:
        for frame in frames:
            movie.write(frame)
