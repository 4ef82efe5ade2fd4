"""MRC files."""

import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from rsciio import mrc

from .stored import Scale, StoredFrames, StoredImage, UnusableFile, get_scale, read_axes, require_size, stack_frames

_HEADER = 1024  # bytes
# By mode, as MRC calls the pixel type: http://www.ccpem.ac.uk/mrc_format/mrc2014.php; 101 is IMOD's
_PIXEL_TYPES = {0: "i1", 1: "i2", 2: "f4", 3: "c4", 4: "c8", 6: "u2", 12: "f2", 16: "RGB", 101: "4 bit"}
_IMOD_STAMP, _IMOD_SIGNED, _IMOD_4_BIT = 1146047817, 1, 16  # https://bio3d.colorado.edu/imod/doc/mrc_format.txt
_UNKNOWN_SCALE = 1.0  # Å per pixel; what many programs write who do not know it
_FEI_DOSE, _FEI_PIXEL_SIZE = (6, 92), (14, 156)  # bit in the mask of what is set, and byte, of a FEI extended header
_SERIALEM_DOSE = 32  # bit in the flags of a SerialEM extended header
_SERIALEM_SIZES = {1: 2, 2: 6, 4: 4, 8: 2, 16: 2}  # bytes of what may stand before the dose


def read_mrc(path: Path) -> StoredImage:
    """The images of an MRC file.

    Bytes are signed, as the standard says, unless IMOD's stamp or the header's own maximum says otherwise.
    """
    header = _read_header(path)
    if header.packed:
        row = (header.columns + 1) // 2
        packed = StoredFrames(path, header.list_offsets(row), (header.rows, row), np.dtype("u1"))
        frames = stack_frames(PackedFrames(packed, header.columns), header.shape, np.dtype("u1"))
    else:
        dtype = np.dtype(header.kind).newbyteorder(header.order)
        frames = StoredFrames(
            path, header.list_offsets(header.columns * dtype.itemsize), header.shape[1:], dtype
        ).stack()
    (y, x), scale_note = header.find_scales()
    axes = _read_direct_electron_axes(path)
    if axes and axes[-1]["scale"] != 1:  # RosettaSciIO gives 1 where the text file says nothing
        y, x, scale_note = get_scale(axes[-2]), get_scale(axes[-1]), ""
    time = get_scale(axes[0]) if len(axes) == 3 else (1.0, None)
    return StoredImage(frames, y=y, x=x, t=time, dose=header.find_dose(), notes=header.notes, scale_note=scale_note)


@dataclass(frozen=True)
class PackedFrames:
    """Frames of two pixels in a byte, the first in the lower half; each row begins with a new byte."""

    packed: StoredFrames
    columns: int

    def __call__(self, i: int) -> np.ndarray:
        """Frame `i`."""
        halves = self.packed(i)
        return np.stack([halves & 15, halves >> 4], axis=-1).reshape(len(halves), -1)[:, : self.columns]


@dataclass(frozen=True)
class _Header:
    """What the header says."""

    raw: bytes  # with the first of the extended header
    order: Literal["<", ">"]
    columns: int
    rows: int
    sections: int
    kind: str  # pixel type of NumPy, or "4 bit"
    notes: tuple[str, ...] = ()

    @property
    def packed(self) -> bool:
        return self.kind == "4 bit"

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.sections, self.rows, self.columns

    def unpack(self, kinds: str, offset: int) -> tuple:
        return struct.unpack_from(self.order + kinds, self.raw, offset)

    @property
    def extended(self) -> bytes:
        """Of the extended header what belongs to the first frame, as far as it was read."""
        return self.raw[_HEADER : _HEADER + max(self.unpack("i", 92)[0], 0)]

    def list_offsets(self, row_bytes: int) -> range:
        """Where each frame begins."""
        start, frame = _HEADER + self.unpack("i", 92)[0], self.rows * row_bytes
        return range(start, start + self.sections * frame, max(frame, 1))

    def find_scales(self) -> tuple[tuple[Scale, Scale], str]:
        """Steps in y and x, from the cell (Å) or a FEI extended header (m); and a note if neither has them."""
        grid, cell = self.unpack("2i", 28), self.unpack("2f", 40)
        steps = [length / n if n > 0 and math.isfinite(length) else 0.0 for length, n in zip(cell, grid, strict=True)]
        known = [step if abs(step - _UNKNOWN_SCALE) > 1e-6 and step > 0 else 0.0 for step in steps]
        if any(known):
            return ((known[1], "Å"), (known[0], "Å")), ""
        size = self._read_fei(*_FEI_PIXEL_SIZE)
        if size:
            return ((size, "m"), (size, "m")), ""
        if max(steps) > 0:
            why = "the header says 1.000 Å per pixel, which many programs write when they do not know the pixel size"
        else:
            why = "the header gives no pixel size"
        return ((0.0, "Å"), (0.0, "Å")), why

    def find_dose(self) -> float | None:
        """Dose of the first frame in electrons/Å², from the extended header of FEI or SerialEM."""
        per_square_metre = self._read_fei(*_FEI_DOSE)
        if per_square_metre:
            return per_square_metre * 1e-20
        flags = self.unpack("h", 130)[0] if self.raw[104:108] == b"SERI" else 0
        before = sum(size for flag, size in _SERIALEM_SIZES.items() if flags & flag)
        if not flags & _SERIALEM_DOSE or len(self.extended) < before + 4:
            return None
        (dose,) = self.unpack("f", _HEADER + before)
        return dose if math.isfinite(dose) and dose > 0 else None

    def _read_fei(self, bit: int, offset: int) -> float:
        """A number of the extended header of FEI; 0 where it is not given."""
        if not self.raw[104:107] == b"FEI" or len(self.extended) < offset + 8:
            return 0.0
        (mask,), (number,) = self.unpack("I", _HEADER + 8), self.unpack("d", _HEADER + offset)
        return number if mask >> bit & 1 and math.isfinite(number) and number > 0 else 0.0


def _read_header(path: Path) -> _Header:
    """The header; refuses a file that lacks some of its frames."""
    with path.open("rb") as file:
        raw = file.read(_HEADER + 256)
    if len(raw) < _HEADER:
        raise ValueError("no header")
    order = _find_byte_order(raw)
    columns, rows, sections, mode = struct.unpack_from(f"{order}4i", raw)
    (extended,) = struct.unpack_from(f"{order}i", raw, 92)
    if mode not in _PIXEL_TYPES or min(columns, rows, sections, extended) < 0:
        raise ValueError(f"pixel type {mode}")
    if 0 in (columns, rows, sections):
        size = f"{sections} of {rows} × {columns}"
        raise UnusableFile(f"{path.name} holds no frames ({size}); record or export it again")
    kind = _PIXEL_TYPES[mode]
    if kind[0] in "cR":
        what = "complex numbers (a Fourier transform or a wave)" if kind[0] == "c" else "colours"
        raise UnusableFile(f"{path.name} holds {what}; give the recorded image")
    notes: tuple[str, ...] = ()
    if mode == 0:
        kind, columns, notes = _read_byte_kind(raw, order, columns)
    bits = 4 if kind == "4 bit" else 8 * np.dtype(kind).itemsize
    require_size(path, _HEADER + extended + (columns * bits + 7) // 8 * rows * sections)
    return _Header(raw, order, columns, rows, sections, kind, notes)


def _find_byte_order(raw: bytes) -> Literal["<", ">"]:
    """The order that the machine stamp says; where there is none, that in which the pixel type makes sense."""
    if raw[212:213] in (b"\x11", b"\x44"):
        return ">" if raw[212:213] == b"\x11" else "<"
    return "<" if struct.unpack_from("<i", raw, 12)[0] in _PIXEL_TYPES else ">"


def _read_byte_kind(raw: bytes, order: str, columns: int) -> tuple[str, int, tuple[str, ...]]:
    """Pixel type of mode 0, how many pixels a row has, and what to say about it."""
    stamp, flags = struct.unpack_from(f"{order}2i", raw, 152)
    (highest,) = struct.unpack_from(f"{order}f", raw, 80)
    if stamp == _IMOD_STAMP:
        if flags & _IMOD_4_BIT:
            return "4 bit", 2 * columns, ()
        return "i1" if flags & _IMOD_SIGNED else "u1", columns, ()
    if 127 < highest <= 255:  # no signed byte is above 127
        return "u1", columns, ("the bytes are read as unsigned, as the header gives a maximum above 127",)
    return "i1", columns, ("the bytes are read as signed, as the standard says; the header does not tell",)


def _read_direct_electron_axes(path: Path) -> list[dict]:
    """Axes of a movie of a Direct Electron camera, whose scales stand in a text file beside it."""
    recording = re.match(r"(\d{8}_\d+)_(.*_)?movie\.mrc$", path.name)
    if recording is None or not any(path.parent.glob(f"{recording[1]}_*info.txt")):
        return []
    return read_axes(mrc.file_reader, path)[0]
