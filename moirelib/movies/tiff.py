"""TIFF files: ImageJ, OME and the microscope makers' own."""

import math
import re
import struct
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import dask.array as da
import numpy as np
import tifffile
from rsciio import tiff as rsciio_tiff

from .calibration import NANOMETRES, normalize_unit
from .stored import (
    ColourError,
    Scale,
    StoredFrames,
    StoredImage,
    UnusableFile,
    choose_largest,
    get_scale,
    read_axes,
    require_plausible,
    require_size,
    stack_frames,
    to_grey,
)

_GREY_SHARE = 4  # times smaller than the colour images of a file: a grey image is their thumbnail, not the data


def read_tiff(path: Path) -> StoredImage:
    """The largest movie of a TIFF file.

    Grey images go before colour ones, which are previews. Images of one size and type that were written one after the
    other are the frames of one movie. Of an OME set, all files that lie beside this one.
    """
    with tifffile.TiffFile(path) as tiff:
        root, notes = _find_ome_root(path, tiff)
        if root is not None:
            return read_tiff(root)
        whole = _follow_pages(path, tiff)
        every = list(tiff.series)
        chosen, part = _choose_movie(every, path)
        first, page = chosen[0], chosen[0].keyframe
        axes = _check_axes(chosen, path.name)
        n = math.prod(size for axis, size in axes if axis not in "YXS")
        where = _find_pages(chosen, n)
        sizes = _find_sizes(path, tiff, chosen) if whole else {path: math.inf}
        show, palette_notes = _choose_display(tiff, page, path.name)
        require_plausible(path, min(n, len(where.offsets)), page.nbytes)
        scales = _find_scales(path, tiff, page, every.index(first), len(every))
        dtype, byte_order, compression = np.dtype(first.dtype), tiff.byteorder, page.compression
        (height, width), colours = (page.shape[page.axes.index(axis)] for axis in "YX"), page.axes.find("S")
    for file, size in sizes.items():
        require_size(file, size)
    if where.data:
        frames = StoredFrames(where.paths, where.offsets, (height, width), dtype.newbyteorder(byte_order)).stack()
    else:
        _check_compression(where, compression, path.name)
        shape = (len(where.offsets), height, width)
        frames = stack_frames(partial(_read_page, where, colours), shape, dtype)
    frames = frames if show is None else da.map_blocks(show, frames, dtype=dtype)
    several = tuple(dict.fromkeys(where.paths)) if isinstance(where.paths, tuple) else ()
    notes += palette_notes + where.describe_missing(n)
    if len(chosen) > 1:
        notes += (f"{len(chosen)} images of one size are taken for the frames of one movie",)
    notes += ("the alpha channel is left out",) if colours >= 0 and page.shape[colours] in (2, 4) else ()
    y, x, t = (scales.get(axis, (1.0, None)) for axis in "yxt")
    return StoredImage(frames, y, x, t, part, colours >= 0, notes=notes, files=several)


def _find_ome_root(path: Path, tiff: tifffile.TiffFile) -> tuple[Path | None, tuple[str, ...]]:
    """The file that describes the OME set to which this one belongs, if another does, or a note that it is missing."""
    told = re.search(r'<(?:\w+:)?BinaryOnly[^>]*MetadataFile="([^"]+)"', tiff.ome_metadata or "")
    if told is None:
        return None, ()
    root = path.with_name(Path(told[1]).name)
    if root.is_file() and root != path and root.suffix.lower() in (".tif", ".tiff"):
        return root, ()
    return None, (f"only the frames in this part are read: {root.name}, which describes the set, is not beside it",)


# --- Which images are the movie ---------------------------------------------------------------------------------------


def _choose_movie(every: list[tifffile.TiffPageSeries], path: Path) -> tuple[list[tifffile.TiffPageSeries], str]:
    """The series that together are the largest movie, and which of the file's movies it is."""
    colours = [series for series in every if dict(zip(series.axes, series.shape, strict=True)).get("S", 1) > 2]
    preview = max((_count_pixels(series) for series in colours), default=0)
    grey = [series for series in every if series not in colours and _GREY_SHARE * _count_pixels(series) >= preview]
    movies: dict[object, list[tifffile.TiffPageSeries]] = {}
    for series in grey or every:
        page = series.keyframe
        single = math.prod(series.shape) == math.prod(page.shape)
        movies.setdefault((page.shape, page.dtype, page.photometric) if single else len(movies), []).append(series)
    best, part = choose_largest(list(movies.values()), lambda movie: sum(math.prod(s.shape) for s in movie), path)
    return list(movies.values())[best], part


def _count_pixels(series: tifffile.TiffPageSeries) -> int:
    page = series.keyframe
    return page.imagewidth * page.imagelength


def _check_axes(chosen: list[tifffile.TiffPageSeries], name: str) -> list[tuple[str, int]]:
    """Axes of the movie with their sizes; those of size 1 but y and x are left out."""
    series = chosen[0]
    axes = [(axis, n) for axis, n in zip(series.axes, series.shape, strict=True) if axis in "YX" or n > 1]
    others = [(axis, n) for axis, n in axes if axis not in "YXS"]
    if len(others) > 1:
        sizes = ", ".join(f"{axis} {n}" for axis, n in axes)
        raise UnusableFile(f"{name} has {len(axes)} dimensions ({sizes}); save one channel and slice as (t, y, x)")
    return [("T", len(chosen)), *axes] if len(chosen) > 1 else axes


_LOSSY = (tifffile.COMPRESSION.OJPEG, tifffile.COMPRESSION.JPEG)


class _Pages(NamedTuple):
    """Where the frames lie."""

    paths: Path | tuple[Path, ...]  # file of all frames, or of each
    offsets: Sequence[int]  # of the pixels where `data`, else of the description of the page
    data: bool  # frames lie as they are, neither compressed nor in pieces nor in colour
    there: Sequence[int]  # which of the announced frames the file holds

    def describe_missing(self, n: int) -> tuple[str, ...]:
        """A note if frames are missing of the `n` that the file announces."""
        if len(self.there) >= n:
            return ()
        missing = sorted(set(range(n)) - set(self.there))
        runs = np.split(missing, np.flatnonzero(np.diff(missing) > 1) + 1)
        listed = ", ".join(f"{run[0]}" if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs[:5])
        return (
            f"{len(self.there)} of the {n} frames that the file announces are there; left out: "
            f"{listed}{', ...' if len(runs) > 5 else ''} (counted from 0)",
        )


def _find_pages(chosen: list[tifffile.TiffPageSeries], n: int) -> _Pages:
    """Find every frame that is there."""
    series, page = chosen[0], chosen[0].keyframe
    file = Path(page.parent.filehandle.path)
    raw = page.is_final and page.axes == "YX" and np.dtype(page.dtype).itemsize * math.prod(page.shape) == page.nbytes
    if raw and len(chosen) == 1 and series.dataoffset is not None:
        return _Pages(file, range(series.dataoffset, series.dataoffset + n * page.nbytes, page.nbytes), True, range(n))
    pages = [(i, page) for i, page in enumerate(page for series in chosen for page in series.pages) if page]
    if len(pages) > n or (len(chosen) == 1 and len(series.pages) != n) or page.axes.strip("S") != "YX":
        raise UnusableFile(f"{file.name} has a page layout that is not supported; save it as a plain stack of images")
    there = [i for i, _ in pages]
    files = tuple(Path(page.parent.filehandle.path) for _, page in pages)
    paths = file if all(other == file for other in files) else files
    if raw and all(_is_one_piece(page) for _, page in pages):
        return _Pages(paths, tuple(page.dataoffsets[0] for _, page in pages), True, there)
    return _Pages(paths, tuple(page.offset for _, page in pages), False, there)


def _is_one_piece(page: tifffile.TiffPage | tifffile.TiffFrame) -> bool:
    ends = [offset + count for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)]
    return len(ends) > 0 and list(page.dataoffsets[1:]) == ends[:-1]


def _follow_pages(path: Path, tiff: tifffile.TiffFile) -> bool:
    """Whether the chain of pages comes to its end; refuses a circle, which tifffile would follow for minutes."""
    layout, file, seen = tiff.tiff, tiff.filehandle, set()
    page = tiff.pages.first.offset
    while page:
        if page in seen:
            raise UnusableFile(f"{path.name} is damaged: its pages lead in a circle; copy or export it again")
        seen.add(page)
        try:
            file.seek(page)
            (tags,) = struct.unpack(layout.tagnoformat, file.read(layout.tagnosize))
            file.seek(page + layout.tagnosize + tags * layout.tagsize)
            (page,) = struct.unpack(layout.offsetformat, file.read(layout.offsetsize))
        except (struct.error, ValueError):  # beyond the end of the file
            return False
    return True


def _find_sizes(path: Path, tiff: tifffile.TiffFile, chosen: list[tifffile.TiffPageSeries]) -> dict[Path, float]:
    """How long each file must be to hold all that it promises."""
    series = chosen[0]
    promised = (tiff.imagej_metadata or {}).get("images", 1)
    if promised > math.prod(series.shape) // math.prod(series.keyframe.shape):
        return {path: math.inf}
    sizes: dict[Path, float] = {}
    for page in (page for series in chosen for page in series.pages if page):
        file = Path(page.parent.filehandle.path)
        ends = [sum(end) for end in zip(page.dataoffsets, page.databytecounts, strict=True)]
        sizes[file] = max(sizes.get(file, 0), *ends)
    if series.dataoffset is not None:
        end = series.dataoffset + math.prod(series.shape) * np.dtype(series.dtype).itemsize
        sizes[path] = max(sizes.get(path, 0), end)
    return sizes


# --- Pixels -----------------------------------------------------------------------------------------------------------


_reading = threading.local()
tifffile.logger().addFilter(lambda record: not getattr(_reading, "frame", False))  # a line for each frame is too much


def _read_page(where: _Pages, colours: int, i: int) -> np.ndarray:
    """Decode frame `i`, without following the chain of pages to it; `colours` is their axis, or -1."""
    _reading.frame = True
    try:
        with tifffile.TiffFile(where.paths if isinstance(where.paths, Path) else where.paths[i]) as tiff:
            tiff.filehandle.seek(where.offsets[i])
            page = tifffile.TiffPage(tiff, i)
            image = page.asarray()
    finally:
        _reading.frame = False
    try:
        return image if colours < 0 else to_grey(image, colours, lossy=page.compression in _LOSSY)
    except ColourError as error:
        if colours > 0:
            raise
        # tifffile writes a movie of 3 or 4 frames so, if not told otherwise
        raise ColourError(f"{error}; if its {len(image)} planes are frames, save them as a plain stack") from error


def _check_compression(where: _Pages, compression: int, name: str) -> None:
    try:
        _read_page(where, -1, 0)
    except Exception as error:
        if "imagecodecs" not in str(error):
            raise
        kind = getattr(compression, "name", compression)
        raise UnusableFile(f"{name} is compressed ({kind}); run 'pip install imagecodecs' to read it") from error


def _choose_display(
    tiff: tifffile.TiffFile, page: tifffile.TiffPage, name: str
) -> tuple[Callable[[np.ndarray], np.ndarray] | None, tuple[str, ...]]:
    """How stored numbers become grey values, bright where the picture is bright; None where they are these already."""
    if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and not tiff.is_imagej and np.dtype(page.dtype).kind == "u":
        return np.invert, ()  # 0 is white; ImageJ stores what it recorded and displays it so
    if page.photometric != tifffile.PHOTOMETRIC.PALETTE or page.colormap is None:
        return None, ()
    if (page.colormap == page.colormap[0]).all() and page.dtype == np.uint8:
        table = (page.colormap[0] >> 8).astype(np.uint8)
        return None if np.array_equal(table, np.arange(len(table))) else partial(np.take, table), ()
    if tiff.is_imagej:
        return None, ("the colours of the palette are left out: ImageJ stores the recorded grey values beneath",)
    raise UnusableFile(f"{name} is in colour (palette); export the original grey data, or convert it to grey values")


# --- Scales -----------------------------------------------------------------------------------------------------------


def _find_scales(
    path: Path, tiff: tifffile.TiffFile, page: tifffile.TiffPage, index: int, images: int
) -> dict[str, Scale]:
    """Scales y, x and t: from ImageJ, OME or the microscope's own tags, else from the resolution in inch or cm.

    The image is number `index` of the file's `images`.
    """
    found: dict[str, Scale] = {}
    if tiff.is_imagej:
        found = _read_imagej_scales(tiff.imagej_metadata or {}, page)
    elif tiff.is_ome:
        found = _read_ome_scales(tiff.ome_metadata or "", index, images)
    if not _has_unit(found):
        found |= _read_maker_scales(path, tiff, page, index, images)
    if not _has_unit(found):
        found |= _read_print_scales(page)
    return found


def _has_unit(scales: dict[str, Scale]) -> bool:
    return any(normalize_unit(scales[axis][1]).lower() in NANOMETRES for axis in "yx" if axis in scales)


def _read_imagej_scales(metadata: dict, page: tifffile.TiffPage) -> dict[str, Scale]:
    time = (metadata.get("finterval", 0), metadata.get("tunit", "s"))
    y, x = _read_resolution(page)
    return {"y": (y, metadata.get("yunit", metadata.get("unit"))), "x": (x, metadata.get("unit")), "t": time}


def _read_resolution(page: tifffile.TiffPage) -> tuple[float, float]:
    """Step from pixel to pixel along y and x, in the file's unit; 0 if not given."""
    steps = []
    for tag in ("YResolution", "XResolution"):
        pixels, units = page.tags[tag].value if tag in page.tags else (0, 1)
        steps.append(units / pixels if pixels else 0.0)
    return steps[0], steps[1]


def _read_ome_scales(xml: str, index: int, images: int) -> dict[str, Scale]:
    every = ElementTree.fromstring(xml).findall(".//{*}Pixels")
    if not every:
        return {}
    pixels = every[index if len(every) == images else 0]
    axes = (("y", "PhysicalSizeY", "µm"), ("x", "PhysicalSizeX", "µm"), ("t", "TimeIncrement", "s"))
    return {axis: (pixels.get(key, 0), pixels.get(f"{key}Unit", default)) for axis, key, default in axes}


def _read_maker_scales(
    path: Path, tiff: tifffile.TiffFile, page: tifffile.TiffPage, index: int, images: int
) -> dict[str, Scale]:
    """Scales in the tags of FEI, Zeiss, TVIPS, Olympus, JEOL or DigitalMicrograph, decoded by RosettaSciIO."""
    jeol = any("Make" in p.tags and p.tags["Make"].value == "JEOL Ltd." for p in (page, tiff.pages.first))
    if not (tiff.is_fei or tiff.is_sem or tiff.is_tvips or tiff.is_sis or 65003 in page.tags or jeol):
        return {}
    every = read_axes(rsciio_tiff.file_reader, path)
    axes = every[index if len(every) == images else 0]
    return {"y": get_scale(axes[-2]), "x": get_scale(axes[-1])}


def _read_print_scales(page: tifffile.TiffPage) -> dict[str, Scale]:
    unit = {2: "inch", 3: "cm"}.get(int(page.tags["ResolutionUnit"].value) if "ResolutionUnit" in page.tags else 1)
    y, x = _read_resolution(page)
    if unit is None or max(y, x) * NANOMETRES[unit] > 1000:  # coarser than 1 µm: 72 dpi and the like
        return {}
    return {"y": (y, unit), "x": (x, unit)}
