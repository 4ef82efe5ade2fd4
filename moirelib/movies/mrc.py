"""MRC files."""

import struct
from pathlib import Path

import numpy as np
from rsciio import mrc

from .stored import StoredImage, UnusableFile, get_scale, require_size

_BYTES_PER_PIXEL = {0: 1, 1: 2, 2: 4, 4: 8, 6: 2, 12: 2}  # by mode, as MRC calls the pixel type


def read_mrc(path: Path) -> StoredImage:
    """The images of an MRC file."""
    byte_order = _check_header(path)
    signal = mrc.file_reader(str(path), lazy=True, endianness=byte_order, chunks={0: "auto"})[0]
    data, axes = signal["data"], signal["axes"]
    if byte_order == ">":  # RosettaSciIO heeds it in the header only
        data = data.map_blocks(np.ndarray.byteswap)
    time = get_scale(axes[0]) if data.ndim == 3 else (1.0, None)
    return StoredImage(data, y=get_scale(axes[-2]), x=get_scale(axes[-1]), t=time)


def _check_header(path: Path) -> str:
    """Byte order of the file; refuses a file that lacks some of its frames."""
    with path.open("rb") as file:
        header = file.read(1024)
    byte_order = ">" if header[212:214] == b"\x11\x11" else "<"
    columns, rows, sections, mode = struct.unpack_from(f"{byte_order}4i", header)
    (extended,) = struct.unpack_from(f"{byte_order}i", header, 92)
    if len(header) < 1024 or mode not in _BYTES_PER_PIXEL or min(columns, rows, sections, extended) < 0:
        raise ValueError(f"pixel type {mode}")
    if 0 in (columns, rows, sections):
        size = f"{sections} of {rows} × {columns}"
        raise UnusableFile(f"{path.name} holds no frames ({size}); record or export it again")
    require_size(path, 1024 + extended + columns * rows * sections * _BYTES_PER_PIXEL[mode])
    return byte_order
