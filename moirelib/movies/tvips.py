"""TVIPS recordings: numbered .tvips files, the first of which describes the frames."""

import itertools
import re
import struct
from pathlib import Path

import numpy as np

from ..units import COARSEST
from .stored import StoredImage, UnusableFile, describe_stop, stack_stored

_HEADER = struct.Struct("<5I16xI8xI")  # size, version, width, height, bits; pixel size; size of a frame's header
_FRAME = struct.Struct("<4x2I")  # seconds and milliseconds
_DIFFRACTION = 2  # the microscope's mode, at byte 24 of a frame's header


def read_tvips(path: Path) -> StoredImage:
    """The frames of all parts of a recording."""
    told = re.fullmatch(r"(.*_)(\d{3})(\.tvips)", path.name, re.IGNORECASE)
    if told is None or int(told[2]):
        raise UnusableFile(f"{path.name} is not the first part of a recording; give the one that ends in _000.tvips")
    size, version, width, height, bits, nm, frame_header = _HEADER.unpack(_read(path, 0, _HEADER.size))
    frame_header = 12 if version == 1 else frame_header
    dtype = np.dtype(f"<u{bits // 8}")
    pixels = width * height * dtype.itemsize
    if version not in (1, 2) or 0 in (width, height) or frame_header < _FRAME.size:
        raise ValueError("no TVIPS header")
    files: list[Path] = []
    headers: list[int] = []  # where that of each frame begins, in bytes
    parts = (path.with_name(f"{told[1]}{number:03d}{told[3]}") for number in itertools.count())
    rest = 0  # bytes behind the last whole frame of a part
    for number, part in enumerate(itertools.takewhile(Path.is_file, parts)):
        end, begin = part.stat().st_size, 0 if number else size
        starts = range(begin, end - frame_header - pixels + 1, frame_header + pixels)
        files += [part] * len(starts)
        headers += starts
        rest += end - begin - len(starts) * (frame_header + pixels)
    notes = describe_stop(path, len(files), None if rest else len(files))
    first, last = (_FRAME.unpack(_read(files[i], headers[i], _FRAME.size)) for i in (0, -1))
    time = (last[0] - first[0] + (last[1] - first[1]) / 1000) / max(len(files) - 1, 1)
    mode = struct.unpack("<I", _read(files[0], headers[0] + 24, 4))[0] if frame_header >= 28 else 0
    unit, why = "1/nm" if mode == _DIFFRACTION else "nm", ""
    if nm > COARSEST:
        nm, why = 0, f"the header says {nm} nm, which are the pixels of the camera itself"
    offsets = tuple(header + frame_header for header in headers)
    data, used = stack_stored(tuple(files), offsets, (height, width), dtype), tuple(dict.fromkeys(files))
    return StoredImage(data, (nm, unit), (nm, unit), (time, "s"), notes=notes, scale_note=why, files=used)


def _read(path: Path, start: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(size)
