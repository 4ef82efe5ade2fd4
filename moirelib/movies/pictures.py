"""Everyday pictures, animations and videos: files whose frames can only be decoded one after the other."""

import itertools
import re
import subprocess
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence

from .stored import StoredImage, UnusableFile, require_plausible, stack_frames, to_grey

_GREY_TYPES = {"1": "bool", "L": "uint8", "I;16": "uint16", "I;16B": "uint16", "I": "int32", "F": "float32"}  # Pillow's
_HAVE_ALPHA = ("LA", "La", "RGBA", "RGBa", "PA")
_PLAYBACK = "the frame time is that of playback; pass another one if the movie was recorded faster or slower"
_DEEP = re.compile(r"gray1\d|p1\d")  # FFmpeg's names of pixels with more than 8 bits
_CUT = re.compile("Packet corrupt|partial file|ended prematurely")  # FFmpeg's words for it
_HOW = ("-noautorotate", "-fflags", "+discardcorrupt")  # frames as they were stored, whole ones only
_VIDEO = re.compile(
    r"Video: .*?, (?P<pixels>\w+)(?=[(,]).*?, (?P<width>\d+)x(?P<height>\d+)\b(.*?, (?P<fps>[\d.]+) fps)?"
)

_running: dict[tuple, tuple[int, Iterator[np.ndarray]]] = {}  # of this process: where each decoder stands
_MOST_RUNNING = 4  # decoders kept open
_lock = threading.Lock()


def _read_decoded(path: Path, decode: Callable[..., Iterator[np.ndarray]], how: tuple, i: int) -> np.ndarray:
    """Frame `i` of `decode(path, *how)`: those in rising order are decoded once, an earlier one starts it again."""
    key = (path, decode, how, path.stat().st_mtime_ns)  # another file of this name does not go on where this one stood
    with _lock:
        following, frames = _running.pop(key, (0, None))
        if frames is None or i < following:
            following, frames = 0, decode(path, *how)
        frame = next(itertools.islice(frames, i - following, None), None)
        if frame is None:
            raise ValueError("the file ends before this frame")
        while len(_running) >= _MOST_RUNNING:
            _running.pop(next(iter(_running)))
        _running[key] = (i + 1, frames)
    return frame


def read_picture(path: Path) -> StoredImage:
    """A picture or an animation, which carry no scale."""
    with Image.open(path) as picture:
        (width, height), n, mode = picture.size, getattr(picture, "n_frames", 1), picture.mode
        if picture.format == "PNG" and mode not in _GREY_TYPES and np.fromfile(path, np.uint8, 1, offset=24)[0] == 16:
            raise UnusableFile(f"{path.name} holds 16-bit colours; save it as a 16-bit grey PNG or TIFF")
        milliseconds = picture.info.get("duration", 0) if n > 1 else 0
    shape, dtype = (n, height, width), np.dtype(_GREY_TYPES.get(mode, "uint8"))
    require_plausible(path, n, width * height * dtype.itemsize)
    read = partial(_read_decoded, path, decode_picture, ()) if n > 1 else partial(_read_only, path)
    frames = stack_frames(read, shape, dtype)
    notes: tuple[str, ...] = ("the alpha channel is left out",) if mode in _HAVE_ALPHA else ()
    notes += (_PLAYBACK,) if milliseconds else ()
    return StoredImage(frames, t=(milliseconds, "ms"), colour=mode not in _GREY_TYPES, notes=notes)


def _read_only(path, i) -> np.ndarray:
    with closing(decode_picture(path)) as frames:  # the file is not kept open
        return next(frames)


def decode_picture(path: Path) -> Generator[np.ndarray, None, None]:
    """Frames (y, x) one after the other."""
    with Image.open(path) as picture:
        mode = picture.mode
        for frame in ImageSequence.Iterator(picture):
            if mode in _GREY_TYPES:
                yield np.asarray(frame.convert(mode) if frame.mode != mode else frame)
            else:
                yield to_grey(np.asarray(frame.convert("RGB")), lossy=picture.format == "JPEG")


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
    with closing(decode_video(path, (height, width, 3), "rgb24")) as frames:
        for first in itertools.islice(frames, 1):
            to_grey(first, lossy=True)
    pixels, dtype = ("gray16le", "uint16") if _DEEP.search(stream["pixels"]) else ("gray", "uint8")
    cut = (f"{path.name} is cut or damaged: {n} whole frames are read, the rest is not",) if _CUT.search(text) else ()
    rate, read = float(stream["fps"] or 0), partial(_read_decoded, path, decode_video, ((height, width), pixels))
    stack = stack_frames(read, (n, height, width), np.dtype(dtype))
    return StoredImage(stack, t=(1 / rate if rate else 0, "s"), notes=(*cut, _PLAYBACK))


def _command(path: Path) -> list[str]:
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise UnusableFile(f"{path.name} is a video; run \"pip install 'moirelib[video]'\" to read it") from error
    program = imageio_ffmpeg.get_ffmpeg_exe()
    return [program, "-hide_banner", "-nostdin", *_HOW, "-i", str(path.resolve()), "-map", "0:v:0"]


def decode_video(path: Path, shape: tuple[int, ...], pixels: str) -> Generator[np.ndarray, None, None]:
    """Frames of `shape` one after the other, in the pixel type that FFmpeg calls `pixels`."""
    # Each stored frame once: FFmpeg would repeat and drop some to keep a steady rate.
    how = ["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", pixels, "-"]
    dtype = np.dtype("<u2" if pixels.endswith("16le") else "u1")
    size = int(np.prod(shape)) * dtype.itemsize
    with subprocess.Popen([*_command(path), *how], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            while process.stdout and len(frame := process.stdout.read(size)) == size:
                yield np.frombuffer(frame, dtype).reshape(shape)
        finally:
            process.kill()
