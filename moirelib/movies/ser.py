"""TIA ser files."""

from __future__ import annotations

import glob
import re
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np

from .stored import StoredFrames, StoredImage, decoding, largest_signal, require_size

# --- TIA .ser -------------------------------------------------------------------------------------------------------

_SER_TYPES = {1: "<u1", 2: "<u2", 3: "<u4", 4: "<i1", 5: "<i2", 6: "<i4", 7: "<f4", 8: "<f8", 9: "<c8", 10: "<c16"}
_SER_IMAGES = 0x4122
_SER_ELEMENT = struct.Struct("<ddiddiHII")  # offset, step and reference pixel in x; in y; data type; width, height


def read_ser(path: Path) -> StoredImage:
    """RosettaSciIO loads all of a .ser even when lazy, so the few fields needed are read here."""
    with decoding(path, "TIA .ser"), path.open("rb") as file:
        offsets = _ser_offsets(file)
        if offsets:
            file.seek(offsets[0])
            _, dx, _, _, dy, _, kind, width, height = _SER_ELEMENT.unpack(file.read(_SER_ELEMENT.size))
            dtype = np.dtype(_SER_TYPES[kind])
    if not offsets:
        raise ValueError(f"{path.name} holds no frames; record or export it again")
    starts = tuple(offset + _SER_ELEMENT.size for offset in offsets)
    require_size(path, max(starts) + width * height * dtype.itemsize)
    data = StoredFrames(path, starts, (height, width), dtype).movie()[:, ::-1]  # the lowest row is stored first
    unit = "1/m" if _tia_diffraction(path) else "m"
    return StoredImage(data, y=(dy, unit), x=(dx, unit))


def _ser_offsets(file) -> tuple[int, ...]:
    """Where each recorded image begins."""
    order, series, version, kind, _, _, valid = struct.unpack("<HHHIIII", file.read(22))
    if (order, series) != (0x4949, 0x0197):
        raise ValueError("no TIA series")
    if kind != _SER_IMAGES:
        raise ValueError("spectra, not images")
    word = "I" if version <= 0x210 else "Q"
    (table,) = struct.unpack(f"<{word}", file.read(struct.calcsize(word)))
    file.seek(table)
    return struct.unpack(f"<{valid}{word}", file.read(valid * struct.calcsize(word)))


def _tia_diffraction(path: Path) -> bool:
    """Whether the .emi file that belongs to a .ser says that the microscope was in diffraction mode."""
    emi = path.with_name(re.sub(r"_\d+$", "", path.stem) + ".emi")
    if not emi.is_file():
        return False
    return b"Diffraction" in b"".join(re.findall(rb"<Label>Mode</Label>\s*<Value>([^<]*)", emi.read_bytes()))


def read_emi(path: Path) -> StoredImage:
    """The series that belongs to an .emi file."""
    series = sorted(path.parent.glob(f"{glob.escape(path.stem)}_[0-9]*.ser"))
    if not series:
        raise ValueError(f"{path.name} needs its data files {path.stem}_1.ser, ... beside it; copy them there")
    best, part = largest_signal(series, lambda ser: ser.stat().st_size, path)
    return replace(read_ser(series[best]), part=part)
