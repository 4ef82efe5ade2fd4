"""MRC files."""

import math
import re
import struct
from functools import partial
from pathlib import Path

import numpy as np
from rsciio import mrc

from . import stored
from .stored import Scale, StoredImage, UnusableFile

_HEADER = 1024  # bytes
# Of the header: columns, rows, sections and mode; grid in x and y; cell in x and y, in Å; highest value; size of the
# extended header; flags of SerialEM; stamp and flags of IMOD
_FIELDS = "4i12x2i4x2f32xf8xi34xh20x2i"
# By mode, as MRC calls the pixel type: http://www.ccpem.ac.uk/mrc_format/mrc2014.php; 101 is IMOD's
_PIXEL_TYPES = {0: "i1", 1: "i2", 2: "f4", 3: "c4", 4: "c8", 6: "u2", 12: "f2", 16: "RGB", 101: "4 bit"}
_IMOD_STAMP, _IMOD_SIGNED, _IMOD_4_BIT = 1146047817, 1, 16  # https://bio3d.colorado.edu/imod/doc/mrc_format.txt
_UNKNOWN_SCALE = 1.0  # Å per pixel; what many programs write who do not know it
_FEI_DOSE, _FEI_PIXEL_SIZE = (6, 92), (14, 156)  # bit in the mask of what is set, and byte, of a FEI extended header
_SERIALEM_DOSE = 32  # bit in the flags of a SerialEM extended header
_SERIALEM_SIZES = {1: 2, 2: 6, 4: 4, 8: 2, 16: 2}  # bytes of what may stand before the dose


def read_mrc(path: Path) -> StoredImage:
    """The images of an MRC file; bytes are signed unless IMOD's stamp or the header's own maximum says otherwise."""
    with path.open("rb") as file:
        raw = file.read(_HEADER + 256)  # with the first of the extended header
    if len(raw) < _HEADER:
        raise ValueError("no header")
    # The machine stamp says the byte order; where there is none, the one in which the pixel type makes sense.
    little = raw[212] == 0x44 or (raw[212] != 0x11 and struct.unpack_from("<i", raw, 12)[0] in _PIXEL_TYPES)
    order = "<" if little else ">"
    fields = struct.unpack_from(order + _FIELDS, raw)
    columns, rows, sections, mode, *cell, highest, extended, serialem, stamp, flags = fields
    if mode not in _PIXEL_TYPES or min(columns, rows, sections, extended) < 0:
        raise ValueError(f"pixel type {mode}")
    if 0 in (columns, rows, sections):
        size = f"{sections} of {rows} × {columns}"
        raise UnusableFile(f"{path.name} holds no frames ({size}); record or export it again")
    kind = _PIXEL_TYPES[mode]
    if kind[0] in "cR":
        what = "complex numbers (a Fourier transform or a wave)" if kind[0] == "c" else "colours"
        raise UnusableFile(f"{path.name} holds {what}; give the recorded image")
    kind, notes = _find_byte_kind(stamp, flags, highest) if mode == 0 else (kind, ())
    columns *= 2 if mode == 0 and kind == "4 bit" else 1
    dtype = np.dtype(order + ("u1" if kind == "4 bit" else kind))
    width = (columns + 1) // 2 if kind == "4 bit" else columns
    start, frame = _HEADER + extended, rows * width * dtype.itemsize
    offsets = range(start, start + sections * frame, frame)
    offsets = offsets[: max(path.stat().st_size - start, 0) // frame]
    notes += stored.describe_stop(path, len(offsets), sections)
    if kind == "4 bit":
        unpack = partial(_unpack_frame, partial(stored.read_stored, path, offsets, (rows, width), dtype), columns)
        frames = stored.stack_frames(unpack, (len(offsets), rows, columns), dtype)
    else:
        frames = stored.stack_stored(path, offsets, (rows, columns), dtype)
    own = raw[_HEADER : _HEADER + extended]  # of the extended header what belongs to the first frame
    read_fei = partial(_read_fei, own if raw[104:107] == b"FEI" else b"", order)
    dose = read_fei(*_FEI_DOSE) * 1e-20 or _read_serialem_dose(serialem, own if raw[104:108] == b"SERI" else b"", order)
    (y, x), why = _find_scales(cell, read_fei(*_FEI_PIXEL_SIZE))
    # The scales of a movie of a Direct Electron camera stand in a text file beside it.
    recording = re.match(r"(\d{8}_\d+)_(.*_)?movie\.mrc$", path.name)
    described = recording is not None and any(path.parent.glob(f"{recording[1]}_*info.txt"))
    axes = stored.read_axes(mrc.file_reader, path)[0] if described else []
    if axes and axes[-1]["scale"] != 1:  # RosettaSciIO gives 1 where the text file says nothing
        y, x, why = stored.get_scale(axes[-2]), stored.get_scale(axes[-1]), ""
    time = stored.get_scale(axes[0]) if len(axes) == 3 else (1.0, None)
    return StoredImage(frames, y, x, time, dose=dose, notes=notes, scale_note=why)


def _find_byte_kind(stamp: int, flags: int, highest: float) -> tuple[str, tuple[str, ...]]:
    """Pixel type of mode 0, and what to say about it."""
    if stamp == _IMOD_STAMP:
        return "4 bit" if flags & _IMOD_4_BIT else "i1" if flags & _IMOD_SIGNED else "u1", ()
    if 127 < highest <= 255:  # no signed byte is above 127
        return "u1", ("the bytes are read as unsigned, as the header gives a maximum above 127",)
    return "i1", ("the bytes are read as signed, as the standard says; the header does not tell",)


def _unpack_frame(read, columns, i) -> np.ndarray:
    """Frame `i` of two pixels in a byte, the first in the lower half; each row begins with a new byte."""
    halves = read(i)
    return np.stack([halves & 15, halves >> 4], axis=-1).reshape(len(halves), -1)[:, :columns]


def _find_scales(cell: list, fei: float) -> tuple[tuple[Scale, Scale], str]:
    """Steps in y and x, from grid and cell (Å) or the extended header of FEI (m); and a note if neither has them."""
    lengths = zip(cell[2:], cell[:2], strict=True)
    steps = [length / n if n > 0 and math.isfinite(length) else 0.0 for length, n in lengths]
    x, y = (step if abs(step - _UNKNOWN_SCALE) > 1e-6 and step > 0 else 0.0 for step in steps)
    if x or y or fei:
        return ((y, "Å"), (x, "Å")) if x or y else ((fei, "m"), (fei, "m")), ""
    unknown = "says 1.000 Å per pixel, which many programs write when they do not know the pixel size"
    return ((0.0, "Å"), (0.0, "Å")), f"the header {unknown if max(steps) > 0 else 'gives no pixel size'}"


def _read_fei(extended: bytes, order: str, bit: int, byte: int) -> float:
    """A number of the extended header of FEI; 0 where it is not given."""
    if len(extended) < byte + 8:
        return 0.0
    (mask,), (number,) = struct.unpack_from(f"{order}I", extended, 8), struct.unpack_from(f"{order}d", extended, byte)
    return number if mask >> bit & 1 and math.isfinite(number) and number > 0 else 0.0


def _read_serialem_dose(flags: int, extended: bytes, order: str) -> float | None:
    """Dose of the first frame in electrons/Å², from the extended header of SerialEM."""
    before = sum(size for flag, size in _SERIALEM_SIZES.items() if flags & flag)
    if not flags & _SERIALEM_DOSE or len(extended) < before + 4:
        return None
    (dose,) = struct.unpack_from(f"{order}f", extended, before)
    return dose if math.isfinite(dose) and dose > 0 else None
