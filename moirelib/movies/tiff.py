"""TIFF files: ImageJ, OME and the microscope makers' own."""

import itertools
import math
import re
import struct
import threading
from collections.abc import Callable, Sequence
from functools import partial
from operator import add
from pathlib import Path
from xml.etree import ElementTree

import dask.array as da
import numpy as np
import tifffile
from rsciio import tiff as rsciio_tiff

from ..units import NANOMETRES, normalize_unit
from . import stored
from .stored import ColourError, Scale, StoredImage, UnusableFile

_GREY_SHARE = 4  # times smaller than the colour images of a file: a grey image is their thumbnail, not the data
_LOSSY = (tifffile.COMPRESSION.OJPEG, tifffile.COMPRESSION.JPEG)
_IMAGEJ_AXES = ("frames", "slices", "channels")
Movie = list[tifffile.TiffPageSeries]  # series that together are one movie


def read_tiff(path: Path) -> StoredImage:
    """The largest movie of a TIFF file.

    Grey images go before colour ones, which are previews. Images and stacks of one size, type and scale that were
    written one after the other are one movie, but not the images of an OME file, which are of several places. Of an OME
    set, all files that lie beside this one.
    """
    chain, size = _follow_pages(path), path.stat().st_size
    # To tifffile the file ends where its last page is cut off; it cannot read a part of one.
    with tifffile.TiffFile(path, size=min(chain[-1] or size, size)) as tiff:
        notes: list[str] = []
        if told := re.search(r'<(?:\w+:)?BinaryOnly[^>]*MetadataFile="([^"]+)"', tiff.ome_metadata or ""):
            root = path.with_name(Path(told[1]).name)
            if root.is_file() and root != path and root.suffix.lower() in (".tif", ".tiff"):
                return read_tiff(root)
            notes += [f"only the frames in this part are read: {root.name}, which describes the set, is not beside it"]
        every = list(tiff.series)
        chosen, part = _choose_movie(every, path)
        page = chosen[0].keyframe
        paths, offsets, raw, missing = _find_frames(path, chosen, chain, _read_count(tiff, chosen[0], path.name))
        show, palette_notes = _choose_display(tiff, page, path.name)
        stored.require_plausible(path, len(offsets), page.nbytes)
        y, x, t = _find_scales(path, tiff, page, every.index(chosen[0]), len(every))
        dtype, colours = np.dtype(chosen[0].dtype), page.axes.find("S")
        height, width = (page.shape[page.axes.index(axis)] for axis in "YX")
        if raw:
            frames = stored.stack_stored(paths, offsets, (height, width), dtype.newbyteorder(tiff.byteorder))
        else:
            _read_page(paths, offsets, -1, 0)  # to know now whether it can be decompressed
            read = partial(_read_page, paths, offsets, colours)
            frames = stored.stack_frames(read, (len(offsets), height, width), dtype)
    frames = frames if show is None else da.map_blocks(show, frames, dtype=dtype)
    notes += [*palette_notes, *missing]
    if len(chosen) > 1 and len(offsets) > 1:
        what = f"{len(offsets)} images" if len(offsets) <= len(chosen) else f"{len(chosen)} stacks of images"
        notes.append(f"{what} of one size are taken for the frames of one movie")
    elif part:
        notes.append(f"the file holds several images or stacks, of which one is read: {part}")
    elif not missing and len(chain) - 1 > len(offsets):
        notes.append(f"the file holds {len(chain) - 1} images but announces {len(offsets)}; the others are not read")
    if colours >= 0 and page.shape[colours] in (2, 4):
        notes.append("the alpha channel is left out")
    files = tuple(dict.fromkeys(paths)) if isinstance(paths, tuple) else ()
    return StoredImage(frames, y, x, t, part, colours >= 0, notes=tuple(notes), files=files)


def _choose_movie(every: Movie, path: Path) -> tuple[Movie, str]:
    """The series that together are the largest movie, and which of the file's movies it is."""

    def count_pixels(series):
        return series.keyframe.imagewidth * series.keyframe.imagelength

    colour = [series for series in every if dict(zip(series.axes, series.shape, strict=True)).get("S", 1) > 2]
    preview = max(map(count_pixels, colour), default=0)
    grey = [series for series in every if series not in colour and _GREY_SHARE * count_pixels(series) >= preview]
    movies: dict[object, Movie] = {}
    for series in grey or every:
        page = series.keyframe
        place = len(movies) if series.kind == "ome" and math.prod(series.shape) > math.prod(page.shape) else None
        movies.setdefault((page.shape, page.dtype, page.photometric, place), []).append(series)
    apart: list[Movie] = []
    for movie in movies.values():
        apart += [movie] if _share_scale(movie) else [[series] for series in movie]
    return stored.choose_largest(apart, lambda movie: sum(math.prod(s.shape) for s in movie), path)


def _share_scale(movie: Movie) -> bool:
    """Whether no two series say that their pixels have different sizes; 0 and 1 say nothing."""
    steps = zip(*(_read_resolution(series.keyframe) for series in movie), strict=True)
    told = [[step for step in axis if step not in (0, 1)] for axis in steps]
    return all(max(axis) <= 1.01 * min(axis) for axis in told if axis)


def _count_frames(axes: Sequence[tuple[str, int]], name: str) -> int:
    """Number of frames along axes of some lengths; refuses more than one axis beside y, x and colours."""
    axes = [(axis, n) for axis, n in axes if axis in "YX" or n > 1]
    stacks = [n for axis, n in axes if axis not in "YXS"]
    if len(stacks) > 1:
        sizes = ", ".join(f"{axis} {n}" for axis, n in axes)
        raise UnusableFile(f"{name} has {len(axes)} dimensions ({sizes}); save one channel and slice as (t, y, x)")
    return math.prod(stacks)


def _read_count(tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries, name: str) -> int:
    """Number of frames that ImageJ or OME announces where `series` does not follow it; 1 for none."""
    if series.kind in ("imagej", "ome"):
        return 1
    told = (tiff.imagej_metadata or {}) | dict(re.findall(r'\bSize([TZC])="(\d+)"', tiff.ome_metadata or ""))
    axes = [(axis, int(told.get(axis, told.get(key, 1)))) for axis, key in zip("TZC", _IMAGEJ_AXES, strict=True)]
    axes[2] = ("C", axes[2][1] // series.keyframe.samplesperpixel)  # colours are no frames
    return max(_count_frames(axes, name), told.get("images", 1))


def _find_frames(
    path: Path, chosen: Movie, chain: Sequence[int], announced: int
) -> tuple[Path | tuple[Path, ...], Sequence[int], bool, tuple[str, ...]]:
    """Find every whole frame of a movie; `chain` is what `_follow_pages` found, `announced` what `_read_count` did.

    Given are the file of all frames, or of each; where they begin in it; whether they are raw: one after the other,
    neither compressed nor in colour, else their page begins there; and a note if some are missing.
    """
    page, bits = chosen[0].keyframe, 8 * np.dtype(chosen[0].dtype).itemsize
    raw = page.axes == "YX" and page.bitspersample == bits and all(s.dataoffset is not None for s in chosen)
    counts = [_count_frames(list(zip(s.axes, s.shape, strict=True)), path.name) for s in chosen]
    if raw and chain[-1] > (start := chosen[-1].dataoffset or 0):  # the pages that are lost lay behind all pixels
        counts[-1] = max(counts[-1], (min(place for place in chain if place > start) - start) // page.nbytes)
    n = max(announced, sum(counts))
    if not raw or len(chain) == 2:  # of raw frames, one page may stand for all
        counts[-1] += n - sum(counts)
    found: list[tuple[int, Path, int]] = []  # number, file and offset of each frame
    for first, count, series in zip(itertools.accumulate(counts, initial=0), counts, chosen, strict=False):
        file = series.keyframe.parent.filehandle
        whole = range(series.dataoffset or 0, file.size - page.nbytes + 1, page.nbytes)[:count]
        pages = [(Path(file.path), offset) for offset in whole] if raw else _list_pages(path, series, count)
        found += [(first + i, *each) for i, each in enumerate(pages) if each]
    there, paths, places = zip(*found, strict=True) if found else [()] * 3
    offsets: Sequence[int] = whole if raw and len(chosen) == 1 else places  # short, as it travels with every frame
    known = not chain[-1] or announced > 1 or chosen[0].kind in ("ome", "imagej") or len(chain) <= n
    missing = stored.describe_stop(path, len(there), n if known else None)
    missing = _describe_missing(there, n) if chosen[0].kind == "ome" else missing
    return paths[0] if set(paths) == {paths[0]} else paths, offsets, raw, missing


def _list_pages(path: Path, series: tifffile.TiffPageSeries, n: int) -> list[tuple[Path, int] | None]:
    """File and offset of each page of a series of `n`, None where it is missing; without what is cut off at the end."""
    pages = list(series.pages)
    if len(pages) > n or (series.dataoffset is not None and len(pages) < n) or series.keyframe.axes.strip("S") != "YX":
        raise UnusableFile(f"{path.name} has a page layout that is not supported; save it as a plain stack of images")
    while pages and not (pages[-1] and _is_whole(pages[-1])):
        pages.pop()
    return [page and (Path(page.parent.filehandle.path), page.offset) for page in pages]


def _is_whole(page: tifffile.TiffPage | tifffile.TiffFrame) -> bool:
    """Whether a page's pixels end before its file does."""
    return max(map(add, page.dataoffsets, page.databytecounts), default=math.inf) <= page.parent.filehandle.size


def _describe_missing(there: Sequence[int], n: int) -> tuple[str, ...]:
    """A note if of `n` frames that an OME set announces some are not there."""
    gaps = [(a + 1, b - 1) for a, b in itertools.pairwise([-1, *there, n]) if b - a > 1]
    listed = ", ".join(f"{a}" if a == b else f"{a} to {b}" for a, b in gaps[:5]) + (", ..." if len(gaps) > 5 else "")
    told = f"{len(there)} of the {n} frames that the file announces are there; left out: {listed} (counted from 0)"
    return (told,) if gaps else ()


def _follow_pages(path: Path) -> list[int]:
    """Where each page begins, then 0; without the 0 if the last one is cut off. tifffile would run in a circle."""
    places = dict[int, None]()
    with tifffile.TiffFile(path) as tiff:
        layout, file, page = tiff.tiff, tiff.filehandle, tiff.pages.first.offset
        while page:
            if page in places:
                raise UnusableFile(f"{path.name} is damaged: its pages lead in a circle; copy or export it again")
            places[page] = None
            try:
                file.seek(page)
                (tags,) = struct.unpack(layout.tagnoformat, file.read(layout.tagnosize))
                file.seek(page + layout.tagnosize + tags * layout.tagsize)
                (page,) = struct.unpack(layout.offsetformat, file.read(layout.offsetsize))
            except (struct.error, ValueError):  # beyond the end of the file
                return list(places)
    return [*places, 0]


_reading = threading.local()
tifffile.logger().addFilter(lambda record: not getattr(_reading, "frame", False))  # a line for each frame is too much


def _read_page(paths, offsets, colours: int, i: int) -> np.ndarray:
    """Decode frame `i`, without following the chain of pages to it; `colours` is their axis, or -1."""
    _reading.frame = True
    try:
        with tifffile.TiffFile(paths if isinstance(paths, Path) else paths[i]) as tiff:
            tiff.filehandle.seek(offsets[i])
            page = tifffile.TiffPage(tiff, i)
            image = page.asarray()
    except Exception as error:
        if "imagecodecs" not in str(error):
            raise
        why = f"is compressed ({getattr(page.compression, 'name', page.compression)})"
        raise UnusableFile(f"{tiff.filename} {why}; run 'pip install imagecodecs' to read it") from error
    finally:
        _reading.frame = False
    try:
        return image if colours < 0 else stored.to_grey(image, colours, lossy=page.compression in _LOSSY)
    except ColourError as error:
        if colours > 0:
            raise
        # tifffile writes a movie of 3 or 4 frames so, if not told otherwise
        raise ColourError(f"{error}; if its {len(image)} planes are frames, save them as a plain stack") from error


def _choose_display(tiff, page, name: str) -> tuple[Callable[[np.ndarray], np.ndarray] | None, tuple[str, ...]]:
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


def _find_scales(path, tiff: tifffile.TiffFile, page: tifffile.TiffPage, index: int, images: int) -> list[Scale]:
    """Scales y, x and t of image `index` of a file's `images`: of ImageJ, OME, the microscope, else in inch or cm."""
    found: dict[str, Scale] = {}
    if tiff.is_imagej:
        (y, x), about = _read_resolution(page), tiff.imagej_metadata or {}
        found = {"y": (y, about.get("yunit", about.get("unit"))), "x": (x, about.get("unit"))}
        found["t"] = (about.get("finterval", 0), about.get("tunit", "s"))
    elif tiff.is_ome and (every := ElementTree.fromstring(tiff.ome_metadata or "").findall(".//{*}Pixels")):
        pixels = every[index if len(every) == images else 0]
        keys = (("y", "PhysicalSizeY", "µm"), ("x", "PhysicalSizeX", "µm"), ("t", "TimeIncrement", "s"))
        found = {axis: (pixels.get(key, 0), pixels.get(f"{key}Unit", unit)) for axis, key, unit in keys}
    # FEI, Zeiss, TVIPS, Olympus, DigitalMicrograph and JEOL have tags of their own, which RosettaSciIO decodes.
    made = tiff.is_fei or tiff.is_sem or tiff.is_tvips or tiff.is_sis or 65003 in page.tags
    jeol = any("Make" in p.tags and p.tags["Make"].value == "JEOL Ltd." for p in (page, tiff.pages.first))
    if not _has_unit(found) and (made or jeol):
        images_axes = stored.read_axes(rsciio_tiff.file_reader, path)
        axes = images_axes[index if len(images_axes) == images else 0]
        found |= {"y": stored.get_scale(axes[-2]), "x": stored.get_scale(axes[-1])}
    if not _has_unit(found):
        unit = {2: "inch", 3: "cm"}.get(int(page.tags["ResolutionUnit"].value) if "ResolutionUnit" in page.tags else 1)
        y, x = _read_resolution(page)
        found |= {"y": (y, unit), "x": (x, unit)} if unit else {}
    return [found.get(axis, (1.0, None)) for axis in "yxt"]


def _has_unit(scales: dict[str, Scale]) -> bool:
    return any(normalize_unit(scales[axis][1]).lower() in NANOMETRES for axis in "yx" if axis in scales)


def _read_resolution(page: tifffile.TiffPage) -> tuple[float, float]:
    """Step from pixel to pixel along y and x, in the file's unit; 0 if not given."""
    tags = (page.tags[tag].value if tag in page.tags else (0, 1) for tag in ("YResolution", "XResolution"))
    y, x = (units / pixels if pixels else 0.0 for pixels, units in tags)
    return y, x
