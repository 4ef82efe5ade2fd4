"""TVIPS recordings: numbered .tvips files, the first of which describes the frames."""

import itertools
import re
from pathlib import Path

import numpy as np

from .stored import StoredFrames, StoredImage, UnusableFile

# The fields that are needed, of those that RosettaSciIO's reader names
_HEADER = np.dtype(
    {
        "names": ["size", "version", "width", "height", "bits", "pixel_size", "frame_header"],
        "formats": ["<u4"] * 7,
        "offsets": [0, 4, 8, 12, 16, 36, 48],
        "itemsize": 256,
    }
)
_FRAME = np.dtype({"names": ["seconds", "milliseconds"], "formats": ["<u4"] * 2, "offsets": [4, 8], "itemsize": 12})
_COARSEST = 1000  # nm per pixel; as for TIFF files
_DIFFRACTION = 2  # the microscope's mode, at byte 24 of a frame's header


def read_tvips(path: Path) -> StoredImage:
    """The frames of all parts of a recording."""
    told = re.fullmatch(r"(.*_)(\d{3})(\.tvips)", path.name, re.IGNORECASE)
    if told is None or int(told[2]):
        raise UnusableFile(f"{path.name} is not the first part of a recording; give the one that ends in _000.tvips")
    header = np.fromfile(path, _HEADER, 1)[0]
    frame_header = 12 if header["version"] == 1 else int(header["frame_header"])
    shape, dtype = (int(header["height"]), int(header["width"])), np.dtype(f"<u{int(header['bits']) // 8}")
    frame = frame_header + shape[0] * shape[1] * dtype.itemsize
    if header["version"] not in (1, 2) or 0 in shape or frame_header < _FRAME.itemsize:
        raise ValueError("no TVIPS header")
    files: list[Path] = []
    offsets: list[int] = []
    for number in itertools.count():
        part = path.with_name(f"{told[1]}{number:03d}{told[3]}")
        if not part.is_file():
            break
        start = 0 if number else int(header["size"])
        starts = range(start + frame_header, part.stat().st_size - (frame - frame_header) + 1, frame)
        files += [part] * len(starts)
        offsets += starts
    if not files:
        raise UnusableFile(f"{path.name} is truncated: it holds no whole frame; copy or export it again")
    unit, time = _read_frame_headers(files, [offset - frame_header for offset in offsets], frame_header)
    data = StoredFrames(tuple(files), tuple(offsets), shape, dtype).stack()
    nm, why = int(header["pixel_size"]), ""
    if nm > _COARSEST:
        nm, why = 0, f"the header says {nm} nm, which are the pixels of the camera itself"
    parts = tuple(dict.fromkeys(files))
    return StoredImage(data, y=(nm, unit), x=(nm, unit), t=(time, "s"), scale_note=why, files=parts)


def _read_frame_headers(files: list[Path], headers: list[int], size: int) -> tuple[str, float]:
    """Unit of the pixel size, and the mean time between frames in s."""
    first, last = (np.fromfile(files[i], _FRAME, 1, offset=headers[i])[0] for i in (0, -1))
    mode = np.fromfile(files[0], "<u4", 1, offset=headers[0] + 24)[0] if size >= 28 else 0
    seconds = [float(stamp["seconds"]) + float(stamp["milliseconds"]) / 1000 for stamp in (first, last)]
    return "1/nm" if mode == _DIFFRACTION else "nm", (seconds[1] - seconds[0]) / max(len(files) - 1, 1)
