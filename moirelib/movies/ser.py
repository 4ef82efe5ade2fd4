"""TIA ser and emi files."""

import glob
import itertools
import re
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np

from .stored import StoredImage, UnusableFile, choose_largest, describe_stop, stack_stored

_PIXEL_TYPES = {1: "<u1", 2: "<u2", 3: "<u4", 4: "<i1", 5: "<i2", 6: "<i4", 7: "<f4", 8: "<f8", 9: "<c8", 10: "<c16"}
_IMAGES = 0x4122
_ELEMENT = struct.Struct("<ddiddiHII")  # offset, step and reference pixel in x; in y; data type; width, height


def read_ser(path: Path) -> StoredImage:
    """The images of a .ser file. RosettaSciIO loads all of it even when lazy; the few fields needed are read here."""
    with path.open("rb") as file:
        order, series, version, content, _, _, valid = struct.unpack("<HHHIIII", file.read(22))
        if (order, series) != (0x4949, 0x0197):
            raise ValueError("no TIA series")
        if content != _IMAGES:
            raise ValueError("spectra, not images")
        word = "I" if version <= 0x210 else "Q"
        (table,) = struct.unpack(f"<{word}", file.read(struct.calcsize(word)))
        size = valid * struct.calcsize(word)
        if table + size > path.stat().st_size:  # Python sets memory aside for all that is to be read
            describe_stop(path, 0, valid)  # raises
        file.seek(table)
        offsets = struct.unpack(f"<{valid}{word}", file.read(size))
        if not offsets:
            raise UnusableFile(f"{path.name} holds no frames; record or export it again")
        file.seek(offsets[0])
        _, dx, _, _, dy, _, kind, width, height = _ELEMENT.unpack(file.read(_ELEMENT.size))
    dtype = np.dtype(_PIXEL_TYPES[kind])
    last = path.stat().st_size - width * height * dtype.itemsize  # where a frame may begin
    places = (offset + _ELEMENT.size for offset in offsets)
    starts = tuple(itertools.takewhile(lambda start: _ELEMENT.size < start <= last, places))
    notes = describe_stop(path, len(starts), valid)
    data = stack_stored(path, starts, (height, width), dtype)[:, ::-1]  # the lowest row is stored first
    emi = path.with_name(re.sub(r"_\d+$", "", path.stem) + ".emi")  # says whether this is a diffraction pattern
    told = re.findall(rb"<Label>Mode</Label>\s*<Value>([^<]*)", emi.read_bytes()) if emi.is_file() else []
    unit = "1/m" if b"Diffraction" in b"".join(told) else "m"
    return StoredImage(data, y=(dy, unit), x=(dx, unit), notes=notes)


def read_emi(path: Path) -> StoredImage:
    """The largest series that belongs to an .emi file."""
    series = sorted(path.parent.glob(f"{glob.escape(path.stem)}_[0-9]*.ser"))
    if not series:
        raise UnusableFile(f"{path.name} needs its data files {path.stem}_1.ser, ... beside it; copy them there")
    largest, part = choose_largest(series, lambda ser: ser.stat().st_size, path)
    return replace(read_ser(largest), part=part)
