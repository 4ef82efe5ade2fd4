"""TIFF files: ImageJ, OME and the microscope makers' own."""

import math
import struct
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import tifffile
from rsciio import tiff as rsciio_tiff

from .calibration import NANOMETRES, normalize_unit
from .stored import (
    Scale,
    StoredFrames,
    StoredImage,
    UnusableFile,
    choose_largest,
    get_scale,
    read_axes,
    require_size,
    stack_frames,
)


def read_tiff(path: Path) -> StoredImage:
    """The largest series of a TIFF file."""
    with tifffile.TiffFile(path) as tiff:
        best, part = choose_largest(list(tiff.series), lambda series: math.prod(series.shape), path)
        series = tiff.series[best]
        axes = [(axis, n) for axis, n in zip(series.axes, series.shape, strict=True) if axis in "YX" or n > 1]
        n, height, width = (math.prod(n for axis, n in axes if axis not in "YX"), *series.keyframe.shape[-2:])
        needed = _find_size(tiff, series)
        offsets = _find_offsets(series, n)
        pages = tuple(page.offset for page in series.pages if page) if offsets is None else ()
        compression = series.keyframe.compression
        scales = _find_scales(path, tiff, series)
        dtype, byte_order = np.dtype(series.dtype), tiff.byteorder
    require_size(path, needed)
    _check_axes(axes, path.name)
    if offsets is not None:
        frames = StoredFrames(path, offsets, (height, width), dtype.newbyteorder(byte_order))
        return StoredImage(frames.stack(), part=part, **scales)
    if len(pages) != n:
        raise UnusableFile(f"{path.name} has a page layout that is not supported; save it as a plain stack of images")
    _check_compression(path, pages[0], compression)
    return StoredImage(stack_frames(partial(_read_page, path, pages), (n, height, width), dtype), part=part, **scales)


def _check_axes(axes: list[tuple[str, int]], name: str) -> None:
    if axes[0][0] == "S":  # planes of colour; tifffile also writes a movie of 3 or 4 frames so, if not told otherwise
        raise UnusableFile(
            f"{name} is in colour (RGB); if its {axes[0][1]} planes are frames, read it as an array first"
        )
    if any(axis == "S" for axis, _ in axes):
        raise UnusableFile(f"{name} is in colour (RGB); convert it to grey values, best export the original data")
    if len(axes) > 3:
        sizes = ", ".join(f"{axis} {n}" for axis, n in axes)
        raise UnusableFile(f"{name} has {len(axes)} dimensions ({sizes}); save one channel and slice as (t, y, x)")


def _find_size(tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> float:
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
        ends.append(series.dataoffset + math.prod(series.shape) * np.dtype(series.dtype).itemsize)
    return max(ends)


def _find_offsets(series: tifffile.TiffPageSeries, n: int) -> tuple[int, ...] | range | None:
    """Where each frame begins, or None if frames are compressed or in pieces."""
    page = series.keyframe
    if not page.is_final or np.dtype(page.dtype).itemsize * math.prod(page.shape) != page.nbytes:
        return None
    if series.dataoffset is not None:
        return range(series.dataoffset, series.dataoffset + n * page.nbytes, page.nbytes)
    pages = [page for page in series.pages if page]
    if len(pages) != n or not all(_is_one_piece(page) for page in pages):
        return None
    return tuple(page.dataoffsets[0] for page in pages)


def _is_one_piece(page: tifffile.TiffPage | tifffile.TiffFrame) -> bool:
    ends = [offset + count for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)]
    return list(page.dataoffsets[1:]) == ends[:-1]


def _read_page(path: Path, pages: tuple[int, ...], i: int) -> np.ndarray:
    """Decode frame `i`, whose page is described at byte ``pages[i]``; without following the chain of pages to it."""
    with tifffile.TiffFile(path) as tiff:
        tiff.filehandle.seek(pages[i])
        return tifffile.TiffPage(tiff, i).asarray()


def _check_compression(path: Path, page: int, compression: int) -> None:
    try:
        _read_page(path, (page,), 0)
    except Exception as error:
        if "imagecodecs" not in str(error):
            raise
        name = getattr(compression, "name", compression)
        raise UnusableFile(f"{path.name} is compressed ({name}); run 'pip install imagecodecs' to read it") from error


def _find_scales(path: Path, tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> dict[str, Scale]:
    """Scales y, x and t: from ImageJ, OME or the microscope's own tags, else from the resolution in inch or cm."""
    page = series.keyframe
    found: dict[str, Scale] = {}
    if tiff.is_imagej:
        found = _read_imagej_scales(tiff.imagej_metadata or {}, page)
    elif tiff.is_ome:
        found = _read_ome_scales(tiff.ome_metadata or "")
    if not _has_unit(found):
        found |= _read_maker_scales(path, tiff, page)
    if not _has_unit(found):
        found |= _read_print_scales(page)
    return found


def _has_unit(scales: dict[str, Scale]) -> bool:
    return "x" in scales and normalize_unit(scales["x"][1]).lower() not in ("", "pixel", "pixels", "none")


def _read_imagej_scales(metadata: dict, page: tifffile.TiffPage) -> dict[str, Scale]:
    time = (metadata.get("finterval", 0), metadata.get("tunit", "s"))
    y, x = _read_resolution(page)
    return {"y": (y, metadata.get("unit")), "x": (x, metadata.get("unit")), "t": time}


def _read_resolution(page: tifffile.TiffPage) -> tuple[float, float]:
    """Step from pixel to pixel along y and x, in the file's unit; 0 if not given."""
    steps = []
    for tag in ("YResolution", "XResolution"):
        pixels, units = page.tags[tag].value if tag in page.tags else (0, 1)
        steps.append(units / pixels if pixels else 0.0)
    return steps[0], steps[1]


def _read_ome_scales(xml: str) -> dict[str, Scale]:
    pixels = ElementTree.fromstring(xml).find(".//{*}Pixels")
    if pixels is None:
        return {}
    axes = (("y", "PhysicalSizeY", "µm"), ("x", "PhysicalSizeX", "µm"), ("t", "TimeIncrement", "s"))
    return {axis: (pixels.get(key, 0), pixels.get(f"{key}Unit", default)) for axis, key, default in axes}


def _read_maker_scales(path: Path, tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> dict[str, Scale]:
    """Scales in the tags of FEI, Zeiss, TVIPS, Olympus, JEOL or DigitalMicrograph, decoded by RosettaSciIO."""
    maker = page.tags.get("Make")
    jeol = maker is not None and maker.value == "JEOL Ltd."
    if not (tiff.is_fei or tiff.is_sem or tiff.is_tvips or tiff.is_sis or 65003 in page.tags or jeol):
        return {}
    axes = read_axes(rsciio_tiff.file_reader, path)[0]
    return {"y": get_scale(axes[-2]), "x": get_scale(axes[-1])}


def _read_print_scales(page: tifffile.TiffPage) -> dict[str, Scale]:
    unit = {2: "inch", 3: "cm"}.get(int(page.tags["ResolutionUnit"].value) if "ResolutionUnit" in page.tags else 1)
    y, x = _read_resolution(page)
    if unit is None or x * NANOMETRES[unit] > 1000:  # coarser than 1 µm: 72 dpi and the like
        return {}
    return {"y": (y, unit), "x": (x, unit)}
