"""Read a movie of any usual microscope format lazily, and write layer movies that Fiji opens with the right scale.

Gatan ``.dm3``/``.dm4``, ``.mrc``, EMD (Velox and Berkeley) and the scales that microscopes write into TIFF files are
decoded by RosettaSciIO. Where it would load a whole movie to give one frame (TIFF, TIA ``.ser``) or cut its pieces
across frames (EMD), the pixels are read here, frame by frame; its calibration is kept.

Lengths are nm, times s; a movie is ``(t, y, x)``. Every complaint is one line that says what, where and what to do.
"""

import contextlib
import gc
import glob
import json
import logging
import math
import os
import re
import struct
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import dask.array as da
import h5py
import numpy as np
import tifffile
from rsciio import digitalmicrograph, emd, mrc
from rsciio import tiff as rsciio_tiff

__all__ = ["LayerMovieWriter", "Movie", "as_movie", "checked_frame", "read_movie", "write_layer_movie"]


@dataclass(frozen=True, eq=False)  # two lazy movies cannot be compared without reading both
class Movie:
    """A movie that is read from its file only where someone looks at it.

    Attributes
    ----------
    data : dask.array.Array, shape (t, y, x)
        The pixels as recorded (any real integer or float type, in native byte order), one frame a chunk.
    pixel_size : float or None
        In nm/pixel; ``None`` where the file does not carry it.
    frame_time : float or None
        Time from one frame to the next, in s; ``None`` where the file does not carry it.
    name : str
        File name, or ``"array"``; in a file of several images, also which one it is.
    """

    data: da.Array
    pixel_size: float | None
    frame_time: float | None
    name: str

    def __len__(self) -> int:
        return self.data.shape[0]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of frames, rows and columns."""
        return self.data.shape

    def frame(self, i: int) -> np.ndarray:
        """Frame `i` as a float32 array (y, x), read now.

        Raises
        ------
        ValueError
            If it holds NaN or infinite values, or the same value everywhere.
        OSError
            If it cannot be read from its file any more.
        """
        lazy = self.data[i]
        try:
            # In this thread: one frame is one read, and the caller may itself be a Dask task.
            image = lazy.compute(scheduler="synchronous")
        except Exception as error:  # every decoder fails in its own way on damaged data
            raise OSError(f"frame {i} of {self.name} cannot be read ({_reason(error)})") from error
        return checked_frame(image, self.name, i)


def checked_frame(image: np.ndarray, name: str, i: int) -> np.ndarray:
    """`image` as float32, if something can be seen in it.

    Parameters
    ----------
    image : ndarray, shape (y, x)
    name : str
        Name of the movie, for the message.
    i : int
        Number of the frame, for the message.

    Returns
    -------
    ndarray of float32, shape (y, x)

    Raises
    ------
    ValueError
        If `image` holds NaN or infinite values, or the same value everywhere.
    """
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf and is reported as such
        image = np.asarray(image, dtype=np.float32)
    if not np.isfinite(image).all():
        raise ValueError(f"frame {i} of {name} holds NaN or infinite values; replace them or leave this frame out")
    if image.min() == image.max():
        raise ValueError(f"frame {i} of {name} is constant (every pixel is {image.flat[0]:g}); leave this frame out")
    return image


def read_movie(path: str | os.PathLike, pixel_size: float | None = None, frame_time: float | None = None) -> Movie:
    """Open a movie or a single image; its pixels are read later, frame by frame.

    Parameters
    ----------
    path : path-like
        A ``.dm3``, ``.dm4``, ``.mrc``, ``.tif``, ``.emd``, ``.ser``, ``.emi``, ``.png`` or ``.jpg`` file.
    pixel_size : float, optional
        In nm/pixel; taken instead of what the file says.
    frame_time : float, optional
        Time between frames in s; taken instead of what the file says.

    Returns
    -------
    Movie
        A single image is a movie of one frame. Of a file with several images, the largest.

    Raises
    ------
    FileNotFoundError, IsADirectoryError
        If there is no such file.
    ValueError
        If the file is empty, truncated, not an image, in colour, complex or of too many dimensions, if it is a
        diffraction pattern, if its pixels are not square, or if `pixel_size` or `frame_time` is not positive.

    Notes
    -----
    A stack whose axis is not time (a focal or energy series) is read as frames, without a frame time. A TIFF
    resolution in inch or cm counts as a calibration only below 1 µm per pixel; above, it is a print setting (72 dpi).
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the movie file in it")
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path.name} has an unknown format; supported are {', '.join(_READERS)}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path.name} is empty (0 bytes); copy or export it again")
    return _movie(reader(path), path.name, pixel_size, frame_time)


def as_movie(movie, pixel_size: float | None = None, frame_time: float | None = None) -> Movie:
    """Whatever was given as a movie, as a `Movie`.

    Parameters
    ----------
    movie : Movie, array-like, dask.array.Array or path-like
        Arrays are ``(t, y, x)``, or ``(y, x)`` for one frame.
    pixel_size : float, optional
        In nm/pixel; taken instead of the movie's own.
    frame_time : float, optional
        In s; taken instead of the movie's own.

    Returns
    -------
    Movie

    Raises
    ------
    ValueError
        As `read_movie`.
    """
    if isinstance(movie, Movie):
        return replace(
            movie,
            pixel_size=_positive_or(movie.pixel_size, pixel_size, _PIXEL_SIZE, movie.name),
            frame_time=_positive_or(movie.frame_time, frame_time, _FRAME_TIME, movie.name),
        )
    if isinstance(movie, str | os.PathLike):
        return read_movie(movie, pixel_size, frame_time)
    data = movie if isinstance(movie, da.Array) else np.asarray(movie)
    return _movie(_Image(data), "array", pixel_size, frame_time)


# --- From what a file holds to a Movie ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Image:
    """One image or stack as its file describes it; scales are (size of a step, unit)."""

    data: da.Array | np.ndarray  # (t, y, x) or (y, x)
    y: tuple[float, str | None] = (1.0, None)
    x: tuple[float, str | None] = (1.0, None)
    t: tuple[float, str | None] = (1.0, None)
    part: str = ""  # "[2 of 3]" in a file of several images


def _movie(image: _Image, name: str, pixel_size: float | None, frame_time: float | None) -> Movie:
    name = f"{name} {image.part}".strip()
    if pixel_size is None:
        pixel_size = _pixel_size(image, name)
    else:
        pixel_size = _positive_or(None, pixel_size, _PIXEL_SIZE, name)
    frame_time = _positive_or(_scaled(*image.t, _SECONDS), frame_time, _FRAME_TIME, name)
    return Movie(_frames(image.data, name), pixel_size, frame_time, name)


def _frames(data: da.Array | np.ndarray, name: str) -> da.Array:
    """Check that `data` is a grey movie and give it as (t, y, x), native, one frame a chunk."""
    if data.dtype.names or (data.ndim >= 3 and data.shape[-1] in (3, 4)):
        raise ValueError(f"{name} is in colour (RGB); convert it to grey values, best export the original data")
    if data.dtype.kind == "c":
        raise ValueError(f"{name} holds complex numbers (a Fourier transform or a wave); give the recorded image")
    if data.dtype.kind not in "iufb":
        raise ValueError(f"{name} holds {data.dtype} values; real numbers are needed")
    if data.ndim > 3:
        data = data.reshape([n for n in data.shape[:-2] if n != 1] + list(data.shape[-2:]))
    if data.ndim not in (2, 3):
        shape = " × ".join(map(str, data.shape))
        raise ValueError(f"{name} has {data.ndim} dimensions ({shape}); give one stack (t, y, x) or one image (y, x)")
    if 0 in data.shape:
        raise ValueError(f"{name} holds no frames (its shape is {data.shape}); record or export it again")
    data = data[None] if data.ndim == 2 else data
    if not isinstance(data, da.Array):
        data = da.from_array(data, chunks=(1, -1, -1), name=False)  # a name by content would read all of it
    wanted = np.dtype(np.uint8) if data.dtype.kind == "b" else data.dtype.newbyteorder("=")
    return data.rechunk((1, -1, -1)).astype(wanted, copy=False)


_NANOMETRES = {
    **dict.fromkeys(("nm", "nanometer", "nanometers", "nanometre"), 1.0),
    **dict.fromkeys(("å", "a", "ang", "angstrom", "angstroms", "ångström"), 0.1),
    **dict.fromkeys(("µm", "um", "micron", "microns", "micrometer", "micrometers", "micrometre"), 1e3),
    **dict.fromkeys(("pm", "picometer"), 1e-3),
    **dict.fromkeys(("m", "meter", "meters", "metre"), 1e9),
    **{"mm": 1e6, "cm": 1e7, "inch": 2.54e7, "in": 2.54e7},
}
_SECONDS = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("ms", "msec", "millisecond", "milliseconds"), 1e-3),
    **dict.fromkeys(("µs", "us", "usec", "microsecond", "microseconds"), 1e-6),
    **dict.fromkeys(("min", "minute", "minutes"), 60.0),
    **{"ns": 1e-9, "h": 3600.0, "hour": 3600.0},
}
_RECIPROCAL = re.compile(r"^1\s*/|\^\s*-\s*1|⁻¹|\brad\b|mrad")


def _scaled(scale, unit: str | None, factors: dict[str, float]) -> float | None:
    """`scale` in nm or s, or None if it or its unit says nothing."""
    factor = factors.get(_plain_unit(unit).lower())
    try:
        value = float(scale) * factor
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) and value > 0 else None


def _plain_unit(unit) -> str:
    # ImageJ escapes the micro sign; there are two of them in Unicode, and two ways to write the Å.
    unit = str(unit or "").strip().strip("\x00").replace("\\u00B5", "µ").replace("\\u00b5", "µ")
    return unit.replace("\u03bc", "µ").replace("\u212b", "Å")


def _pixel_size(image: _Image, name: str) -> float | None:
    if any(_RECIPROCAL.search(_plain_unit(unit)) for _, unit in (image.y, image.x)):
        raise ValueError(
            f"{name} is a diffraction pattern (its pixels are in {_plain_unit(image.x[1])}); give an image, "
            "or pass pixel_size=... (nm) if this is wrong"
        )
    y, x = (_scaled(*axis, _NANOMETRES) for axis in (image.y, image.x))
    if y is None or x is None:
        return None
    if abs(y - x) > 0.01 * max(y, x):
        raise ValueError(
            f"the pixels of {name} are not square ({y:.4g} nm high, {x:.4g} nm wide); "
            "resample it, or pass pixel_size=... (nm) if this is wrong"
        )
    return (y + x) / 2


_PIXEL_SIZE = ("pixel size", "nm/pixel", "pixel_size=... (nm)")
_FRAME_TIME = ("frame time", "seconds", "frame_time=... (s)")


def _positive_or(default: float | None, value, quantity: tuple[str, str, str], name: str) -> float | None:
    """`value` as a positive float, `default` where it is None."""
    if value is None:
        return default
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        what, unit, remedy = quantity
        raise ValueError(f"{what} must be a positive number of {unit}, got {value} for {name}; pass {remedy}")
    return number


# --- Helpers of the readers -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def _decoding(path: Path, kind: str):
    """Turn whatever a decoder throws at a bad file into one line, and keep it from talking."""
    loggers = [logging.getLogger(name) for name in ("tifffile", "rsciio")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except PermissionError:
        raise
    except Exception as error:  # struct.error, KeyError, IndexError, ...: every decoder fails in its own way
        raise ValueError(
            f"{path.name} cannot be read as {kind}: damaged, truncated or not such a file ({_reason(error)})"
        ) from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."


def _require_size(path: Path, size: int) -> None:
    if path.stat().st_size < size:
        raise ValueError(f"{path.name} is truncated: it ends before its last frame; copy or export it again")


def _lazy_stack(read_frame: Callable[[int], np.ndarray], shape: tuple[int, int, int], dtype: np.dtype) -> da.Array:
    """Dask array of frames, each read from the file when it is asked for."""
    n, height, width = shape
    if 0 in shape:
        return da.empty(shape, dtype=dtype)
    return da.map_blocks(
        _read_block,
        read_frame=read_frame,
        chunks=((1,) * n, (height,), (width,)),
        dtype=dtype,
        meta=np.empty((0, 0, 0), dtype),
    )


def _read_block(read_frame: Callable[[int], np.ndarray], block_id=None) -> np.ndarray:
    return read_frame(block_id[0])[None]


@dataclass(frozen=True)
class _StoredFrames:
    """Reads frame `i` of those that lie uncompressed at `offsets` in a file."""

    path: Path
    offsets: tuple[int, ...] | range
    shape: tuple[int, int]
    dtype: np.dtype  # as stored, byte order included

    def __call__(self, i: int) -> np.ndarray:
        count = self.shape[0] * self.shape[1]
        frame = np.fromfile(self.path, self.dtype, count, offset=self.offsets[i]).reshape(self.shape)
        return frame.astype(self.dtype.newbyteorder("="), copy=False)

    def movie(self) -> da.Array:
        """All of them, lazily."""
        return _lazy_stack(self, (len(self.offsets), *self.shape), self.dtype.newbyteorder("="))


def _largest(images: list, size: Callable, path: Path) -> tuple[int, str]:
    """Index of the largest image, and "[2 of 3]" if there are several."""
    if not images:
        raise ValueError(f"{path.name} holds no image")
    best = max(range(len(images)), key=lambda i: size(images[i]))
    return best, f"[{best + 1} of {len(images)}]" if len(images) > 1 else ""


def _axes_only(read: Callable[..., list[dict]], path: Path, **options) -> list[list[dict]]:
    """Axes of each image according to a reader of RosettaSciIO, without its pixels."""
    try:
        return [signal["axes"] for signal in read(str(path), lazy=True, **options)]
    finally:
        gc.collect()  # the reader leaves the file open, in a reference cycle; on Windows nobody could replace it


def _scale(axis: dict) -> tuple[float, str | None]:
    return axis.get("scale", 1.0), axis.get("units")


# --- Gatan DigitalMicrograph ----------------------------------------------------------------------------------------


def _read_dm(path: Path) -> _Image:
    with _decoding(path, "Gatan DigitalMicrograph"):
        signals = _dm_signals(path)
    images = [signal for signal in signals if signal["data"].ndim >= 2]
    best, part = _largest(images, lambda signal: signal["data"].size, path)
    data, axes = images[best]["data"], images[best]["axes"]
    time = _scale(axes[0]) if data.ndim == 3 else (1.0, None)
    return _Image(data, y=_scale(axes[-2]), x=_scale(axes[-1]), t=time, part=part)


def _dm_signals(path: Path) -> list[dict]:
    try:
        # Pieces of many whole frames: cheap, as they are memory maps until someone looks into them.
        return digitalmicrograph.file_reader(str(path), lazy=True, chunks={0: "auto"})
    except ValueError as error:
        if "RGBA" not in str(error):
            raise
        return digitalmicrograph.file_reader(str(path))  # colour cannot be read lazily; it is turned down later


# --- MRC ------------------------------------------------------------------------------------------------------------

_MRC_ITEM_SIZE = {0: 1, 1: 2, 2: 4, 4: 8, 6: 2, 12: 2}  # mode: bytes per pixel


def _read_mrc(path: Path) -> _Image:
    byte_order = _check_mrc_header(path)
    with _decoding(path, "MRC"):
        signal = mrc.file_reader(str(path), lazy=True, endianness=byte_order, chunks={0: "auto"})[0]
    data, axes = signal["data"], signal["axes"]
    if byte_order == ">":  # RosettaSciIO heeds it in the header only
        data = data.map_blocks(np.ndarray.byteswap)
    time = _scale(axes[0]) if data.ndim == 3 else (1.0, None)
    return _Image(data, y=_scale(axes[-2]), x=_scale(axes[-1]), t=time)


def _check_mrc_header(path: Path) -> str:
    """Byte order of the file, after checking that all of its frames are there."""
    with _decoding(path, "MRC"), path.open("rb") as file:
        header = file.read(1024)
        byte_order = ">" if header[212:214] == b"\x11\x11" else "<"
        columns, rows, sections, mode = struct.unpack_from(f"{byte_order}4i", header)
        (extended,) = struct.unpack_from(f"{byte_order}i", header, 92)
        if len(header) < 1024 or mode not in _MRC_ITEM_SIZE or min(columns, rows, sections, extended) < 0:
            raise ValueError(f"pixel type {mode}")
    if 0 in (columns, rows, sections):
        raise ValueError(f"{path.name} holds no frames ({sections} of {rows} × {columns}); record or export it again")
    _require_size(path, 1024 + extended + columns * rows * sections * _MRC_ITEM_SIZE[mode])
    return byte_order


# --- EMD (HDF5): Velox and Berkeley ---------------------------------------------------------------------------------


def _read_emd(path: Path) -> _Image:
    with _decoding(path, "EMD"):
        images = list(_emd_images(path).items())
    best, part = _largest(images, lambda image: math.prod(image[1]), path)
    name, shape = images[best]
    if 0 in shape:
        raise ValueError(f"{path.name} holds no frames (its shape is {shape}); record or export it again")
    if len(shape) > 3:
        raise ValueError(f"{path.name} has {len(shape)} dimensions {shape}; give a stack of images (t, y, x)")
    with _decoding(path, "EMD"):
        axes = _velox_axes(path, name) if name.startswith(_VELOX_IMAGES) else _berkeley_axes(path, name)
    stack = _stack_axis(axes) if len(axes) == 3 else None
    plane = [i for i in range(len(axes)) if i != stack]
    if str(axes[plane[0]]["name"]).lower() in ("x", "width"):
        plane.reverse()
    y, x = (_scale(axes[i]) for i in plane)
    time = (1.0, None) if stack is None else _scale(axes[stack])
    return _Image(_hdf5_frames(path, name, stack, tuple(plane)), y=y, x=x, t=time, part=part)


_VELOX_IMAGES = "Data/Image"


def _emd_images(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the images and stacks in the file, by name."""
    names: list[str] = []
    with h5py.File(path, "r") as file:
        if _VELOX_IMAGES in file:
            names.extend(f"{_VELOX_IMAGES}/{key}/Data" for key in file[_VELOX_IMAGES])
        else:
            file.visititems(lambda name, item: names.append(name) if _is_berkeley(item) else None)
        return {name: file[name].shape for name in names if file[name].dtype.kind in "iufb" and file[name].ndim > 1}


def _is_berkeley(item: h5py.Dataset | h5py.Group) -> bool:
    """Whether this is a dataset called data... in a group marked as EMD."""
    is_data = isinstance(item, h5py.Dataset) and item.name.rsplit("/", 1)[-1].startswith("data")
    return is_data and bool(item.parent.attrs.get("emd_group_type"))


def _velox_axes(path: Path, name: str) -> list[dict]:
    """Axes as stored: y, x, frame. RosettaSciIO gives frame, y, x, and leaves out an only frame."""
    images = _axes_only(emd.file_reader, path, select_type="images")
    with h5py.File(path, "r") as file:
        index = list(file[_VELOX_IMAGES]).index(name.split("/")[2])
    axes = images[index]
    frame = axes[0] if len(axes) == 3 else {"name": "time", "navigate": True}
    return [*axes[-2:], frame]


def _berkeley_axes(path: Path, name: str) -> list[dict]:
    """Axes as stored. RosettaSciIO turns their order round, unless the file counts them from dim0."""
    axes = _axes_only(emd.file_reader, path, dataset_path=[name])[0]
    with h5py.File(path, "r") as file:
        as_stored = "dim0" in file[name].parent or name.endswith("/datacube")
    return axes if as_stored else axes[::-1]


def _stack_axis(axes: list[dict]) -> int:
    """Index of the axis along which the frames lie: the one marked so, in time, or neither x nor y; else the first."""
    names = [str(axis.get("name")).lower() for axis in axes]
    for candidates in (
        [i for i, axis in enumerate(axes) if axis.get("navigate")],
        [i for i, axis in enumerate(axes) if _plain_unit(axis.get("units")).lower() in _SECONDS],
        [i for i, name in enumerate(names) if name in ("t", "time", "frame", "frames")],
        [i for i, name in enumerate(names) if name not in ("x", "y", "width", "height")],
    ):
        if len(candidates) == 1:
            return candidates[0]
    return 0


def _hdf5_frames(path: Path, name: str, stack: int | None, plane: tuple[int, int]) -> da.Array:
    with h5py.File(path, "r") as file:
        shape, dtype = file[name].shape, file[name].dtype
    n = 1 if stack is None else shape[stack]
    read = partial(_read_hdf5_frame, path, name, stack, plane[0] > plane[1])
    return _lazy_stack(read, (n, shape[plane[0]], shape[plane[1]]), dtype)


def _read_hdf5_frame(path: Path, name: str, stack: int | None, transpose: bool, i: int) -> np.ndarray:
    with h5py.File(path, "r") as file:
        dataset = file[name]
        where = tuple(i if axis == stack else slice(None) for axis in range(dataset.ndim))
        frame = dataset[where]
    return frame.T if transpose else frame


# --- TIA .ser -------------------------------------------------------------------------------------------------------

_SER_TYPES = {1: "<u1", 2: "<u2", 3: "<u4", 4: "<i1", 5: "<i2", 6: "<i4", 7: "<f4", 8: "<f8", 9: "<c8", 10: "<c16"}
_SER_IMAGES = 0x4122
_SER_ELEMENT = struct.Struct("<ddiddiHII")  # offset, step and reference pixel in x; in y; data type; width, height


def _read_ser(path: Path) -> _Image:
    """RosettaSciIO loads all of a .ser even when lazy, so the few fields needed are read here."""
    with _decoding(path, "TIA .ser"), path.open("rb") as file:
        offsets = _ser_offsets(file)
        if offsets:
            file.seek(offsets[0])
            _, dx, _, _, dy, _, kind, width, height = _SER_ELEMENT.unpack(file.read(_SER_ELEMENT.size))
            dtype = np.dtype(_SER_TYPES[kind])
    if not offsets:
        raise ValueError(f"{path.name} holds no frames; record or export it again")
    starts = tuple(offset + _SER_ELEMENT.size for offset in offsets)
    _require_size(path, max(starts) + width * height * dtype.itemsize)
    data = _StoredFrames(path, starts, (height, width), dtype).movie()[:, ::-1]  # the lowest row is stored first
    unit = "1/m" if _tia_diffraction(path) else "m"
    return _Image(data, y=(dy, unit), x=(dx, unit))


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


def _read_emi(path: Path) -> _Image:
    series = sorted(path.parent.glob(f"{glob.escape(path.stem)}_[0-9]*.ser"))
    if not series:
        raise ValueError(f"{path.name} needs its data files {path.stem}_1.ser, ... beside it; copy them there")
    best, part = _largest(series, lambda ser: ser.stat().st_size, path)
    return replace(_read_ser(series[best]), part=part)


# --- TIFF -----------------------------------------------------------------------------------------------------------


def _read_tiff(path: Path) -> _Image:
    with _decoding(path, "TIFF"), tifffile.TiffFile(path) as tiff:
        best, part = _largest(list(tiff.series), lambda series: math.prod(series.shape), path)
        series = tiff.series[best]
        axes = [(axis, n) for axis, n in zip(series.axes, series.shape, strict=True) if axis in "YX" or n > 1]
        n, height, width = (math.prod(n for axis, n in axes if axis not in "YX"), *series.keyframe.shape[-2:])
        needed = _tiff_size(tiff, series)
        stored = _tiff_offsets(tiff, series, n)
        indices = tuple(page.index for page in series.pages) if stored is None else ()
        compression = series.keyframe.compression
        calibration = _tiff_calibration(path, tiff, series)
    _require_size(path, needed)
    _check_tiff_axes(axes, path.name)
    dtype = np.dtype(series.dtype)
    if stored is not None:
        frames = _StoredFrames(path, stored, (height, width), dtype.newbyteorder(tiff.byteorder))
        return _Image(frames.movie(), part=part, **calibration)
    if len(indices) != n:
        raise ValueError(f"{path.name} has a page layout that is not supported; save it as a plain stack of images")
    _check_compression(path, indices[0], compression)
    return _Image(_lazy_stack(partial(_read_page, path, indices), (n, height, width), dtype), part=part, **calibration)


def _check_tiff_axes(axes: list[tuple[str, int]], name: str) -> None:
    if axes[0][0] == "S":  # planes of colour; tifffile also writes a movie of 3 or 4 frames so, if not told otherwise
        raise ValueError(f"{name} is in colour (RGB); if its {axes[0][1]} planes are frames, read it as an array first")
    if any(axis == "S" for axis, _ in axes):
        raise ValueError(f"{name} is in colour (RGB); convert it to grey values, best export the original data")
    if len(axes) > 3:
        sizes = ", ".join(f"{axis} {n}" for axis, n in axes)
        raise ValueError(f"{name} has {len(axes)} dimensions ({sizes}); save one channel and slice as (t, y, x)")


def _tiff_size(tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> float:
    """How long the file must be to hold all that it promises; infinite if its chain of pages is broken."""
    last = tiff.pages[-1]
    tiff.filehandle.seek(last.offset)
    layout = tiff.tiff
    (tags,) = struct.unpack(layout.tagnoformat, tiff.filehandle.read(layout.tagnosize))
    tiff.filehandle.seek(last.offset + layout.tagnosize + tags * layout.tagsize)
    (following,) = struct.unpack(layout.offsetformat, tiff.filehandle.read(layout.offsetsize))
    promised = (tiff.imagej_metadata or {}).get("images", 1)
    if following or promised > math.prod(series.shape) // math.prod(series.keyframe.shape):
        return math.inf
    pages = [page for page in series.pages if page]
    ends = [sum(end) for page in pages for end in zip(page.dataoffsets, page.databytecounts, strict=True)]
    if series.dataoffset is not None:
        ends.append(series.dataoffset + math.prod(series.shape) * series.dtype.itemsize)
    return max(ends)


def _tiff_offsets(tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries, n: int) -> tuple[int, ...] | range | None:
    """Where each frame begins, or None if frames are compressed or in pieces."""
    page = series.keyframe
    if not page.is_final or page.dtype.itemsize * math.prod(page.shape) != page.nbytes:
        return None
    if series.dataoffset is not None:
        return range(series.dataoffset, series.dataoffset + n * page.nbytes, page.nbytes)
    if len(series.pages) != n or not all(page and _in_one_piece(page) for page in series.pages):
        return None
    return tuple(page.dataoffsets[0] for page in series.pages)


def _in_one_piece(page: tifffile.TiffPage | tifffile.TiffFrame) -> bool:
    ends = [offset + count for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)]
    return list(page.dataoffsets[1:]) == ends[:-1]


def _read_page(path: Path, indices: tuple[int, ...], i: int) -> np.ndarray:
    with tifffile.TiffFile(path) as tiff:
        return tiff.pages[indices[i]].asarray()


def _check_compression(path: Path, index: int, compression: int) -> None:
    try:
        with _decoding(path, "TIFF"):
            _read_page(path, (index,), 0)
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        name = getattr(compression, "name", compression)
        raise ValueError(f"{path.name} is compressed ({name}); run 'pip install imagecodecs' to read it") from error


def _tiff_calibration(path: Path, tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> dict[str, tuple]:
    """Scales y, x and t: from ImageJ, OME or the microscope's own tags, else from the resolution in inch or cm."""
    page = series.keyframe
    found: dict[str, tuple] = {}
    if tiff.is_imagej:
        found = _imagej_scales(tiff.imagej_metadata or {}, page)
    elif tiff.is_ome:
        found = _ome_scales(tiff.ome_metadata)
    if not _has_unit(found):
        found |= _maker_scales(path, tiff, page)
    if not _has_unit(found):
        found |= _resolution_scales(page)
    return found


def _has_unit(scales: dict[str, tuple]) -> bool:
    return "x" in scales and _plain_unit(scales["x"][1]).lower() not in ("", "pixel", "pixels", "none")


def _imagej_scales(metadata: dict, page: tifffile.TiffPage) -> dict[str, tuple]:
    time = (metadata.get("finterval", 0), metadata.get("tunit", "s"))
    y, x = _resolution(page)
    return {"y": (y, metadata.get("unit")), "x": (x, metadata.get("unit")), "t": time}


def _resolution(page: tifffile.TiffPage) -> tuple[float, float]:
    """Step from pixel to pixel along y and x, in the file's unit; 0 if not given."""
    steps = []
    for tag in ("YResolution", "XResolution"):
        pixels, units = page.tags[tag].value if tag in page.tags else (0, 1)
        steps.append(units / pixels if pixels else 0.0)
    return steps[0], steps[1]


def _ome_scales(xml: str) -> dict[str, tuple]:
    pixels = ElementTree.fromstring(xml).find(".//{*}Pixels")
    if pixels is None:
        return {}
    return {
        axis: (pixels.get(key, 0), pixels.get(f"{key}Unit", default))
        for axis, key, default in (
            ("y", "PhysicalSizeY", "µm"),
            ("x", "PhysicalSizeX", "µm"),
            ("t", "TimeIncrement", "s"),
        )
    }


def _maker_scales(path: Path, tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> dict[str, tuple]:
    """Scales in the tags of FEI, Zeiss, TVIPS, Olympus, JEOL or DigitalMicrograph, decoded by RosettaSciIO."""
    maker = page.tags.get("Make")
    jeol = maker is not None and maker.value == "JEOL Ltd."
    if not (tiff.is_fei or tiff.is_sem or tiff.is_tvips or tiff.is_sis or 65003 in page.tags or jeol):
        return {}
    axes = _axes_only(rsciio_tiff.file_reader, path)[0]
    return {"y": _scale(axes[-2]), "x": _scale(axes[-1])}


def _resolution_scales(page: tifffile.TiffPage) -> dict[str, tuple]:
    unit = {2: "inch", 3: "cm"}.get(int(page.tags["ResolutionUnit"].value) if "ResolutionUnit" in page.tags else 1)
    y, x = _resolution(page)
    if unit is None or x * _NANOMETRES[unit] > 1000:  # coarser than 1 µm: 72 dpi and the like
        return {}
    return {"y": (y, unit), "x": (x, unit)}


# --- PNG, JPEG ------------------------------------------------------------------------------------------------------


def _read_picture(path: Path) -> _Image:
    from skimage.io import imread  # slow to import, seldom needed

    with _decoding(path, "a picture"):
        return _Image(imread(path))


_READERS: dict[str, Callable[[Path], _Image]] = {
    ".dm3": _read_dm,
    ".dm4": _read_dm,
    ".mrc": _read_mrc,
    ".mrcs": _read_mrc,
    ".tif": _read_tiff,
    ".tiff": _read_tiff,
    ".emd": _read_emd,
    ".ser": _read_ser,
    ".emi": _read_emi,
    ".png": _read_picture,
    ".jpg": _read_picture,
    ".jpeg": _read_picture,
}


# --- Writing layer movies -------------------------------------------------------------------------------------------


class LayerMovieWriter:
    """Writes a layer movie frame by frame into a TIFF file that Fiji opens with the right scale.

    Memory does not grow with the number of frames, which need not be known beforehand. The file appears under its
    name only when it is complete; if the ``with`` block fails, none is left.

    Parameters
    ----------
    path : path-like
        File to write; an older one is replaced.
    pixel_size : float
        In nm/pixel.
    frame_time : float, optional
        Time between frames in s.

    Notes
    -----
    ``tifffile.imread`` and `read_movie` give ``(t, y, x)``, for one frame too. Beyond 4 GB only the first page is
    described in the file, as ImageJ itself does it: Fiji, tifffile and `read_movie` find all frames.

    Examples
    --------
    >>> with LayerMovieWriter("layer_1.tif", pixel_size=2.5) as layer:  # doctest: +SKIP
    ...     for frame in frames:
    ...         layer.write(frame)
    """

    def __init__(self, path: str | os.PathLike, pixel_size: float, frame_time: float | None = None):
        self.path = Path(path)
        name = self.path.name
        if pixel_size is None:
            raise ValueError(f"pixel size is missing for {name}; pass pixel_size=... (nm)")
        self.pixel_size = _positive_or(None, pixel_size, _PIXEL_SIZE, name)
        self.frame_time = _positive_or(None, frame_time, _FRAME_TIME, name)
        self._part = self.path.with_name(name + ".part")
        self._tiff: tifffile.TiffWriter | None = None
        self._first: np.ndarray | None = None  # held back until it is known whether a second one comes
        self._shape: tuple[int, ...] | None = None

    def __enter__(self) -> "LayerMovieWriter":
        self._tiff = tifffile.TiffWriter(self._part, imagej=True)
        return self

    def write(self, frame: np.ndarray) -> None:
        """Append one frame, a uint8 array (y, x)."""
        frame = np.asarray(frame)
        if frame.dtype != np.uint8 or frame.ndim != 2 or frame.shape != (self._shape or frame.shape):
            raise ValueError(
                f"frames of {self.path.name} must be uint8 (y, x) arrays of one size, "
                f"got {frame.dtype} {frame.shape} after {self._shape}"
            )
        if self._shape is None:
            self._first = frame.copy()
        else:
            self._flush_first()
            self._append(frame)
        self._shape = frame.shape

    def _flush_first(self) -> None:
        if self._first is not None:
            self._append(self._first)
            self._first = None

    def _append(self, frame: np.ndarray) -> None:
        # As (z, c, y, x, s) frames count as time; a bare (y, x) would count as a channel.
        frame = frame[None, None, :, :, None]
        self._tiff.write(frame, contiguous=True, metadata=self._metadata, **self._scale)

    @property
    def _metadata(self) -> dict:
        return {"unit": "nm"} | ({} if self.frame_time is None else {"finterval": self.frame_time})

    @property
    def _scale(self) -> dict:
        return {"resolution": (1 / self.pixel_size, 1 / self.pixel_size), "resolutionunit": 1, "software": False}

    def __exit__(self, kind, error, traceback) -> None:
        single = self._first is not None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # "truncating ImageJ file" above 4 GB: see Notes
                self._tiff.close()
            if kind is None and self._shape is None:
                raise ValueError(f"{self.path.name} would hold no frames; nothing was written")
            if kind is None:
                if single:
                    self._write_single()
                os.replace(self._part, self.path)
        finally:
            self._part.unlink(missing_ok=True)

    def _write_single(self) -> None:
        """Describe one frame twice: to tifffile, which then reads (1, y, x), and to ImageJ, which heeds the last."""
        shape = json.dumps({"shape": [1, *self._shape], "axes": "TYX"})
        imagej = "".join(f"{key}={value}\n" for key, value in {"ImageJ": "1.11a", **self._metadata}.items())
        descriptions = [(270, "s", 0, text, True) for text in (shape, imagej)]
        with tifffile.TiffWriter(self._part, ome=False) as tiff:
            tiff.write(self._first, metadata=None, extratags=descriptions, **self._scale)


def write_layer_movie(
    path: str | os.PathLike, frames: Iterable[np.ndarray], pixel_size: float, frame_time: float | None = None
) -> None:
    """Write a layer movie as a TIFF file that Fiji opens with the right scale.

    Parameters
    ----------
    path : path-like
        File to write; it appears only when it is complete.
    frames : iterable of ndarray of uint8, or array (t, y, x)
        Lazy arrays are computed frame by frame.
    pixel_size : float
        In nm/pixel.
    frame_time : float, optional
        Time between frames in s.

    Raises
    ------
    ValueError
        If there are no frames, if they are not uint8 images of one size, or if the pixel size is not positive.
    OSError
        If the file cannot be written.

    See Also
    --------
    LayerMovieWriter : the same for frames that come one at a time.
    """
    with LayerMovieWriter(path, pixel_size, frame_time) as movie:
        for frame in frames:
            movie.write(frame)
