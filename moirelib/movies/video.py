"""AVI, MP4 and other videos, by the FFmpeg that the package imageio-ffmpeg brings."""

import re
import subprocess
from collections.abc import Generator
from functools import partial
from pathlib import Path

import numpy as np

from .stored import SequentialFrames, StoredImage, UnusableFile, require_plausible, stack_frames, to_grey

_DEEP = re.compile(r"gray1\d|p1\d")  # FFmpeg's names of pixels with more than 8 bits
_VIDEO = re.compile(
    r"Video: .*?, (?P<pixels>\w+)(?=[(,]).*?, (?P<width>\d+)x(?P<height>\d+)\b(.*?, (?P<fps>[\d.]+) fps)?"
)


def read_video(path: Path) -> StoredImage:
    """A grey video, lazily. When it is opened, FFmpeg counts its frames without decoding them."""
    # Copied into nothing, frames are counted and not decoded.
    told = subprocess.run([*_command(path), "-c", "copy", "-f", "null", "-"], capture_output=True, check=False).stderr
    text = told.decode(errors="replace")
    stream, counts = _VIDEO.search(text), re.findall(r"frame=\s*(\d+)", text)
    if stream is None or not counts:
        raise ValueError(text.strip().rpartition("\n")[2] or "no video stream")
    n, height, width = int(counts[-1]), int(stream["height"]), int(stream["width"])
    if n == 0:
        raise UnusableFile(f"{path.name} holds no frames; record or export it again")
    require_plausible(path, n, 3 * width * height)
    shape, frames = (height, width), _decode(path, (height, width, 3), "rgb24")
    for first in frames:
        to_grey(first, lossy=True)
        break
    frames.close()
    decode = partial(_decode, shape=shape, pixels="gray16le" if _DEEP.search(stream["pixels"]) else "gray")
    dtype = np.dtype("uint16" if _DEEP.search(stream["pixels"]) else "uint8")
    stack = stack_frames(SequentialFrames(path, decode, path.stat().st_mtime), (n, *shape), dtype)
    rate = float(stream["fps"] or 0)
    note = "the frame time is that of playback; pass another one if the movie was recorded faster or slower"
    return StoredImage(stack, t=(1 / rate if rate else 0, "s"), notes=(note,))


def _command(path: Path) -> list[str]:
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise UnusableFile(f"{path.name} is a video; run \"pip install 'moirelib[video]'\" to read it") from error
    program = imageio_ffmpeg.get_ffmpeg_exe()
    return [program, "-hide_banner", "-nostdin", "-noautorotate", "-i", str(path.resolve()), "-map", "0:v:0"]


def _decode(path: Path, shape: tuple[int, ...], pixels: str) -> Generator[np.ndarray, None, None]:
    """Frames of `shape` one after the other, in the pixel type that FFmpeg calls `pixels`."""
    # Each stored frame once: FFmpeg would repeat and drop some to keep a steady rate.
    how = ["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", pixels, "-"]
    dtype = np.dtype("<u2" if pixels.endswith("16le") else "u1")
    size = int(np.prod(shape)) * dtype.itemsize
    process = subprocess.Popen([*_command(path), *how], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=size)
    with process:
        try:
            while process.stdout and len(frame := process.stdout.read(size)) == size:
                yield np.frombuffer(frame, dtype).reshape(shape)
        finally:
            process.kill()
