"""Frames in HDF5 files and Zarr stores, which hold named arrays in groups."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.array as da
import h5py
import numpy as np

from .stored import StoredImage, UnusableFile, choose_largest, get_scale, require_plausible, stack_frames


@contextlib.contextmanager
def open_store(path: Path) -> Iterator[Any]:
    """An HDF5 file, or a Zarr store as a folder or a zip file, opened to be read; both are used in the same way."""
    if path.is_file() and h5py.is_hdf5(path):
        with h5py.File(path, "r") as file:
            yield file
        return
    import zarr

    store = zarr.storage.ZipStore(path, mode="r") if path.is_file() else zarr.storage.LocalStore(path, read_only=True)
    try:
        yield zarr.open_group(store, mode="r")
    finally:
        store.close()


def read_array(path: Path, name: str, axes: Sequence[dict]) -> StoredImage:
    """Array `name` of a store as an image; `axes` are as of RosettaSciIO, in the order in which it is stored.

    Axes of length 1 are left out, but the last two.
    """
    shape = _check_shape(path, name)
    keep = [i for i in range(len(shape)) if shape[i] > 1 or i >= len(shape) - 2]
    if len(keep) > 3:
        sizes = " × ".join(str(shape[i]) for i in keep)
        raise UnusableFile(f"{path.name} has {len(keep)} dimensions ({sizes}); export a stack of images (t, y, x)")
    t, (y, x) = keep[0] if len(keep) == 3 else None, keep[-2:]
    time = (1.0, None) if t is None else get_scale(axes[t])
    return StoredImage(stack_array(path, name, t, (y, x)), y=get_scale(axes[y]), x=get_scale(axes[x]), t=time)


def _check_shape(path: Path, name: str) -> tuple[int, ...]:
    with open_store(path) as store:
        shape = store[name].shape
    if 0 in shape:
        raise UnusableFile(f"{path.name} holds no frames (its shape is {shape}); record or export it again")
    return shape


def stack_array(path: Path, name: str, stack: int | None, plane: tuple[int, int]) -> da.Array:
    """Frames of array `name`, lazily: `stack` and `plane` are the axes that hold t and (y, x)."""
    with open_store(path) as store:
        array = store[name]
        shape, dtype = array.shape, array.dtype
        n, frame = 1 if stack is None else shape[stack], (shape[plane[0]], shape[plane[1]])
        if isinstance(array, h5py.Dataset):
            _check_stored(path, array, n, frame[0] * frame[1] * dtype.itemsize)
    return stack_frames(ArrayFrames(path, name, stack, plane), (n, *frame), dtype)


def _check_stored(path: Path, array: h5py.Dataset, n: int, frame_bytes: int) -> None:
    """Refuse an array that is not there as a whole: HDF5 would fill it up with zeros."""
    require_plausible(path, n, frame_bytes)
    if array.chunks is None and array.id.get_storage_size() < array.nbytes:
        raise UnusableFile(f"{path.name} is truncated: it ends before its last frame; copy or export it again")


@dataclass(frozen=True)
class ArrayFrames:
    """Frames along one axis of an array in a store."""

    path: Path
    name: str
    stack: int | None  # axis along which the frames lie; None for a single one
    plane: tuple[int, int]  # axes of y and x

    def __call__(self, i: int) -> np.ndarray:
        """Frame `i`."""
        with open_store(self.path) as store:
            array = store[self.name]
            where = [
                i if axis == self.stack else slice(None) if axis in self.plane else 0 for axis in range(array.ndim)
            ]
            frame = np.asarray(array[tuple(where)])
        return frame.T if self.plane[0] > self.plane[1] else frame


def choose_array(path: Path, names: Sequence[str]) -> tuple[str, str]:
    """The largest of the arrays `names` with numbers and at least two axes, and which of them it is."""
    with open_store(path) as store:
        images = [name for name in names if store[name].ndim > 1 and store[name].dtype.kind in "iufbc"]
        sizes = [int(np.prod(store[name].shape, dtype=float)) for name in images]
    best, part = choose_largest(images, lambda name: sizes[images.index(name)], path)
    return images[best], part
