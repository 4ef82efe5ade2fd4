"""TIFF files: ImageJ, OME and the microscope makers' own."""

import math
import re
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import dask.array as da
import numpy as np
import tifffile
from rsciio import tiff as rsciio_tiff

from . import stored
from .calibration import NANOMETRES, normalize_unit
from .stored import ColourError, Scale, StoredImage, UnusableFile

_GREY_SHARE = 4  # times smaller than the colour images of a file: a grey image is their thumbnail, not the data
_LOSSY = (tifffile.COMPRESSION.OJPEG, tifffile.COMPRESSION.JPEG)
Movie = list[tifffile.TiffPageSeries]  # series that together are one movie


def read_tiff(path: Path) -> StoredImage:
    """The largest movie of a TIFF file.

    Grey images go before colour ones, which are previews. Images of one size and type that were written one after the
    other are the frames of one movie. Of an OME set, all files that lie beside this one.
    """
    with tifffile.TiffFile(path) as tiff:
        notes: list[str] = []
        if told := re.search(r'<(?:\w+:)?BinaryOnly[^>]*MetadataFile="([^"]+)"', tiff.ome_metadata or ""):
            root = path.with_name(Path(told[1]).name)
            if root.is_file() and root != path and root.suffix.lower() in (".tif", ".tiff"):
                return read_tiff(root)
            notes += [f"only the frames in this part are read: {root.name}, which describes the set, is not beside it"]
        (intact, pages), every = _follow_pages(path, tiff), list(tiff.series)
        chosen, part = _choose_movie(every, path)
        page, n = chosen[0].keyframe, _count_frames(chosen, path.name)
        paths, offsets, there, raw = _find_pages(chosen, n)
        show, palette_notes = _choose_display(tiff, page, path.name)
        stored.require_plausible(path, min(n, len(offsets)), page.nbytes)
        y, x, t = _find_scales(path, tiff, page, every.index(chosen[0]), len(every))
        _require_whole(path, tiff, chosen, intact)
        dtype, colours = np.dtype(chosen[0].dtype), page.axes.find("S")
        height, width = (page.shape[page.axes.index(axis)] for axis in "YX")
        if raw:
            frames = stored.stack_stored(paths, offsets, (height, width), dtype.newbyteorder(tiff.byteorder))
        else:
            _read_page(paths, offsets, -1, 0)  # to know now whether it can be decompressed
            read = partial(_read_page, paths, offsets, colours)
            frames = stored.stack_frames(read, (len(offsets), height, width), dtype)
    frames = frames if show is None else da.map_blocks(show, frames, dtype=dtype)
    notes += [*palette_notes, *_describe_missing(there, n)]
    if len(chosen) > 1:
        notes.append(f"{len(chosen)} images of one size are taken for the frames of one movie")
    elif part:
        notes.append(f"the file holds several images or stacks, of which one is read: {part}")
    elif pages > n:
        notes.append(f"the file holds {pages} images but announces {n}; the others are not read")
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
        single = math.prod(series.shape) == math.prod(page.shape)
        movies.setdefault((page.shape, page.dtype, page.photometric) if single else len(movies), []).append(series)
    return stored.choose_largest(list(movies.values()), lambda movie: sum(math.prod(s.shape) for s in movie), path)


def _count_frames(chosen: Movie, name: str) -> int:
    """Number of frames that the file announces; refuses more than one axis beside y, x and colours."""
    axes = [(axis, n) for axis, n in zip(chosen[0].axes, chosen[0].shape, strict=True) if axis in "YX" or n > 1]
    stacks = [n for axis, n in axes if axis not in "YXS"]
    if len(stacks) > 1:
        sizes = ", ".join(f"{axis} {n}" for axis, n in axes)
        raise UnusableFile(f"{name} has {len(axes)} dimensions ({sizes}); save one channel and slice as (t, y, x)")
    return math.prod(stacks) * len(chosen)


def _find_pages(chosen: Movie, n: int) -> tuple[Path | tuple[Path, ...], Sequence[int], Sequence[int], bool]:
    """Find every frame that is there, of `n` that the file announces.

    Given are the file of all frames, or of each; where they begin in it; which of the announced ones they are; and
    whether they are raw: as they are, neither compressed nor in pieces nor in colour. Else their page begins there.
    """
    series, page = chosen[0], chosen[0].keyframe
    file = Path(page.parent.filehandle.path)
    raw = page.is_final and page.axes == "YX" and np.dtype(page.dtype).itemsize * math.prod(page.shape) == page.nbytes
    if raw and len(chosen) == 1 and series.dataoffset is not None:
        return file, range(series.dataoffset, series.dataoffset + n * page.nbytes, page.nbytes), range(n), True
    pages = [(i, page) for i, page in enumerate(page for series in chosen for page in series.pages) if page]
    if len(pages) > n or (len(chosen) == 1 and len(series.pages) != n) or page.axes.strip("S") != "YX":
        raise UnusableFile(f"{file.name} has a page layout that is not supported; save it as a plain stack of images")
    files = tuple(Path(page.parent.filehandle.path) for _, page in pages)
    for _, each in pages:  # in one piece, or in pieces one after the other
        raw = raw and len(each.dataoffsets) > 0 and list(each.dataoffsets[1:]) == _list_ends(each)[:-1]
    offsets = tuple(page.dataoffsets[0] if raw else page.offset for _, page in pages)
    return file if set(files) == {file} else files, offsets, [i for i, _ in pages], raw


def _list_ends(page: tifffile.TiffPage | tifffile.TiffFrame) -> list[int]:
    """Where each piece of a page's pixels ends, in bytes."""
    return [offset + count for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)]


def _describe_missing(there: Sequence[int], n: int) -> Iterator[str]:
    """A note if the file holds less than the `n` frames that it announces."""
    if len(there) < n:
        missing = sorted(set(range(n)) - set(there))
        runs = np.split(missing, np.flatnonzero(np.diff(missing) > 1) + 1)
        listed = ", ".join(f"{run[0]}" if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs[:5])
        listed += ", ..." if len(runs) > 5 else ""
        yield f"{len(there)} of the {n} frames that the file announces are there; left out: {listed} (counted from 0)"


def _follow_pages(path: Path, tiff: tifffile.TiffFile) -> tuple[bool, int]:
    """Whether the chain of pages comes to its end, and their number; refuses a circle, which tifffile would follow."""
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
            return False, len(seen)
    return True, len(seen)


def _require_whole(path: Path, tiff: tifffile.TiffFile, chosen: Movie, intact: bool) -> None:
    """Refuse a movie of which a file ends before its last frame; `intact` is what `_follow_pages` found."""
    series = chosen[0]
    pixels = math.prod(series.shape)
    if not intact or (tiff.imagej_metadata or {}).get("images", 1) > pixels // math.prod(series.keyframe.shape):
        stored.require_size(path, math.inf)
    end = 0 if series.dataoffset is None else series.dataoffset + pixels * np.dtype(series.dtype).itemsize
    sizes = {path: end}
    for page in (page for series in chosen for page in series.pages if page):
        file = Path(page.parent.filehandle.path)
        sizes[file] = max(sizes.get(file, 0), *_list_ends(page))
    for file, size in sizes.items():
        stored.require_size(file, size)


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
        if unit is not None and max(y, x) * NANOMETRES[unit] <= 1000:  # coarser than 1 µm are 72 dpi and the like
            found |= {"y": (y, unit), "x": (x, unit)}
    return [found.get(axis, (1.0, None)) for axis in "yxt"]


def _has_unit(scales: dict[str, Scale]) -> bool:
    return any(normalize_unit(scales[axis][1]).lower() in NANOMETRES for axis in "yx" if axis in scales)


def _read_resolution(page: tifffile.TiffPage) -> tuple[float, float]:
    """Step from pixel to pixel along y and x, in the file's unit; 0 if not given."""
    tags = (page.tags[tag].value if tag in page.tags else (0, 1) for tag in ("YResolution", "XResolution"))
    y, x = (units / pixels if pixels else 0.0 for pixels, units in tags)
    return y, x
