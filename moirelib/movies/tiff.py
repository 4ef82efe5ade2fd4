"""TIFF files: ImageJ, OME and the microscope makers' own."""

from __future__ import annotations

import math
import struct
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import tifffile
from rsciio import tiff as rsciio_tiff

from .calibration import NANOMETRES, plain_unit
from .stored import StoredFrames, StoredImage, axes_only, axis_scale, decoding, largest_signal, lazy_stack, require_size

# --- TIFF -----------------------------------------------------------------------------------------------------------


def read_tiff(path: Path) -> StoredImage:
    """The largest series of a TIFF file."""
    with decoding(path, "TIFF"), tifffile.TiffFile(path) as tiff:
        best, part = largest_signal(list(tiff.series), lambda series: math.prod(series.shape), path)
        series = tiff.series[best]
        axes = [(axis, n) for axis, n in zip(series.axes, series.shape, strict=True) if axis in "YX" or n > 1]
        n, height, width = (math.prod(n for axis, n in axes if axis not in "YX"), *series.keyframe.shape[-2:])
        needed = _tiff_size(tiff, series)
        stored = _tiff_offsets(tiff, series, n)
        indices = tuple(page.index for page in series.pages) if stored is None else ()
        compression = series.keyframe.compression
        calibration = _tiff_calibration(path, tiff, series)
    require_size(path, needed)
    _check_tiff_axes(axes, path.name)
    dtype = np.dtype(series.dtype)
    if stored is not None:
        frames = StoredFrames(path, stored, (height, width), dtype.newbyteorder(tiff.byteorder))
        return StoredImage(frames.movie(), part=part, **calibration)
    if len(indices) != n:
        raise ValueError(f"{path.name} has a page layout that is not supported; save it as a plain stack of images")
    _check_compression(path, indices[0], compression)
    return StoredImage(
        lazy_stack(partial(_read_page, path, indices), (n, height, width), dtype), part=part, **calibration
    )


def _check_tiff_axes(axes: list[tuple[str, int]], name: str) -> None:
    if axes[0][0] == "S":  # planes of colour; tifffile also writes a movie of 3 or 4 frames so, if not told otherwise
        raise ValueError(f"{name} is in colour (RGB); if its {axes[0][1]} planes are frames, read it as an array first")
    if any(axis == "S" for axis, _ in axes):
        raise ValueError(f"{name} is in colour (RGB); convert it to grey values, best export the original data")
    if len(axes) > 3:
        sizes = ", ".join(f"{axis} {n}" for axis, n in axes)
        raise ValueError(f"{name} has {len(axes)} dimensions ({sizes}); save one channel and slice as (t, y, x)")


def _tiff_size(tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> float:
    """How long the file must be to hold all that it promises; infinite if its chain of pages is broken."""
    last = tiff.pages[-1]
    tiff.filehandle.seek(last.offset)
    layout = tiff.tiff
    (tags,) = struct.unpack(layout.tagnoformat, tiff.filehandle.read(layout.tagnosize))
    tiff.filehandle.seek(last.offset + layout.tagnosize + tags * layout.tagsize)
    (following,) = struct.unpack(layout.offsetformat, tiff.filehandle.read(layout.offsetsize))
    promised = (tiff.imagej_metadata or {}).get("images", 1)
    if following or promised > math.prod(series.shape) // math.prod(series.keyframe.shape):
        return math.inf
    pages = [page for page in series.pages if page]
    ends = [sum(end) for page in pages for end in zip(page.dataoffsets, page.databytecounts, strict=True)]
    if series.dataoffset is not None:
        ends.append(series.dataoffset + math.prod(series.shape) * series.dtype.itemsize)
    return max(ends)


def _tiff_offsets(tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries, n: int) -> tuple[int, ...] | range | None:
    """Where each frame begins, or None if frames are compressed or in pieces."""
    page = series.keyframe
    if not page.is_final or page.dtype.itemsize * math.prod(page.shape) != page.nbytes:
        return None
    if series.dataoffset is not None:
        return range(series.dataoffset, series.dataoffset + n * page.nbytes, page.nbytes)
    if len(series.pages) != n or not all(page and _in_one_piece(page) for page in series.pages):
        return None
    return tuple(page.dataoffsets[0] for page in series.pages)


def _in_one_piece(page: tifffile.TiffPage | tifffile.TiffFrame) -> bool:
    ends = [offset + count for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)]
    return list(page.dataoffsets[1:]) == ends[:-1]


def _read_page(path: Path, indices: tuple[int, ...], i: int) -> np.ndarray:
    with tifffile.TiffFile(path) as tiff:
        return tiff.pages[indices[i]].asarray()


def _check_compression(path: Path, index: int, compression: int) -> None:
    try:
        with decoding(path, "TIFF"):
            _read_page(path, (index,), 0)
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        name = getattr(compression, "name", compression)
        raise ValueError(f"{path.name} is compressed ({name}); run 'pip install imagecodecs' to read it") from error


def _tiff_calibration(path: Path, tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> dict[str, tuple]:
    """Scales y, x and t: from ImageJ, OME or the microscope's own tags, else from the resolution in inch or cm."""
    page = series.keyframe
    found: dict[str, tuple] = {}
    if tiff.is_imagej:
        found = _imagej_scales(tiff.imagej_metadata or {}, page)
    elif tiff.is_ome:
        found = _ome_scales(tiff.ome_metadata)
    if not _has_unit(found):
        found |= _maker_scales(path, tiff, page)
    if not _has_unit(found):
        found |= _resolution_scales(page)
    return found


def _has_unit(scales: dict[str, tuple]) -> bool:
    return "x" in scales and plain_unit(scales["x"][1]).lower() not in ("", "pixel", "pixels", "none")


def _imagej_scales(metadata: dict, page: tifffile.TiffPage) -> dict[str, tuple]:
    time = (metadata.get("finterval", 0), metadata.get("tunit", "s"))
    y, x = _resolution(page)
    return {"y": (y, metadata.get("unit")), "x": (x, metadata.get("unit")), "t": time}


def _resolution(page: tifffile.TiffPage) -> tuple[float, float]:
    """Step from pixel to pixel along y and x, in the file's unit; 0 if not given."""
    steps = []
    for tag in ("YResolution", "XResolution"):
        pixels, units = page.tags[tag].value if tag in page.tags else (0, 1)
        steps.append(units / pixels if pixels else 0.0)
    return steps[0], steps[1]


def _ome_scales(xml: str) -> dict[str, tuple]:
    pixels = ElementTree.fromstring(xml).find(".//{*}Pixels")
    if pixels is None:
        return {}
    return {
        axis: (pixels.get(key, 0), pixels.get(f"{key}Unit", default))
        for axis, key, default in (
            ("y", "PhysicalSizeY", "µm"),
            ("x", "PhysicalSizeX", "µm"),
            ("t", "TimeIncrement", "s"),
        )
    }


def _maker_scales(path: Path, tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> dict[str, tuple]:
    """Scales in the tags of FEI, Zeiss, TVIPS, Olympus, JEOL or DigitalMicrograph, decoded by RosettaSciIO."""
    maker = page.tags.get("Make")
    jeol = maker is not None and maker.value == "JEOL Ltd."
    if not (tiff.is_fei or tiff.is_sem or tiff.is_tvips or tiff.is_sis or 65003 in page.tags or jeol):
        return {}
    axes = axes_only(rsciio_tiff.file_reader, path)[0]
    return {"y": axis_scale(axes[-2]), "x": axis_scale(axes[-1])}


def _resolution_scales(page: tifffile.TiffPage) -> dict[str, tuple]:
    unit = {2: "inch", 3: "cm"}.get(int(page.tags["ResolutionUnit"].value) if "ResolutionUnit" in page.tags else 1)
    y, x = _resolution(page)
    if unit is None or x * NANOMETRES[unit] > 1000:  # coarser than 1 µm: 72 dpi and the like
        return {}
    return {"y": (y, unit), "x": (x, unit)}


# --- PNG, JPEG ------------------------------------------------------------------------------------------------------


def read_picture(path: Path) -> StoredImage:
    """A PNG, JPEG or other everyday picture."""
    from skimage.io import imread  # slow to import, seldom needed

    with decoding(path, "a picture"):
        return StoredImage(imread(path))
