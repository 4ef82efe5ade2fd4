"""Files of named arrays in groups: Gatan dm3 and dm4; in HDF5 and Zarr, EMD, dm5, HyperSpy and OME-Zarr."""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from rsciio import digitalmicrograph, emd

from ..units import SECONDS, normalize_unit
from . import stored
from .stored import Scale, StoredImage, UnusableFile

_VELOX_IMAGES, _EMD = "Data/Image", "emd_group_type"
_ELECTRONS = ("e-", "e", "electrons", "Electrons")  # units of Gatan's values where the camera's gain is known
_DEEPEST = 3  # groups in groups of an OME-Zarr store: row, column and field of a plate, the deepest that OME describes


@contextlib.contextmanager
def open_store(path: Path) -> Iterator[Any]:
    """An HDF5 file, or a Zarr store as a folder or a zip file, opened to be read; both are used in the same way."""
    if path.is_file() and h5py.is_hdf5(path):
        with h5py.File(path, "r") as file:
            yield file
        return
    import zarr

    store = zarr.storage.ZipStore(path, mode="r") if path.is_file() else zarr.storage.LocalStore(path, read_only=True)
    with contextlib.closing(store):
        yield zarr.open_group(store, mode="r")


def _choose_array(path: Path, store: Any, names: Sequence[str], kinds: str = "iufbc") -> tuple[Any, str]:
    """The largest of the arrays `names` with numbers of `kinds` and at least two axes, and which of them it is."""
    images = [array for array in map(store.__getitem__, names) if array.ndim > 1 and array.dtype.kind in kinds]
    array, part = stored.choose_largest(images, lambda array: math.prod(array.shape), path)
    if 0 in array.shape:
        raise UnusableFile(f"{path.name} holds no frames (its shape is {array.shape}); record or export it again")
    return array, part


def _read_array(path: Path, array: Any, scales: Sequence[Scale], part: str = "") -> StoredImage:
    """An array as an image; `scales` are those of its axes. Axes of length 1 are left out, but the last two."""
    keep = [i for i in range(array.ndim) if array.shape[i] > 1 or i >= array.ndim - 2]
    if len(keep) > 3:
        sizes = " × ".join(str(array.shape[i]) for i in keep)
        raise UnusableFile(f"{path.name} has {len(keep)} dimensions ({sizes}); export a stack of images (t, y, x)")
    return _stack_array(path, array, scales, keep[0] if len(keep) == 3 else None, (keep[-2], keep[-1]), part)


def _stack_array(path, array, scales, stack: int | None, plane: tuple[int, int], part: str) -> StoredImage:
    """Frames of an array, lazily: `stack` and `plane` are the axes that hold t and (y, x)."""
    n, frame = 1 if stack is None else array.shape[stack], tuple(array.shape[axis] for axis in plane)
    stored.require_plausible(path, n, frame[0] * frame[1] * array.dtype.itemsize)
    # Where frames are not there, HDF5 would fill up with zeros.
    if isinstance(array, h5py.Dataset) and array.chunks is None and array.id.get_storage_size() < array.nbytes:
        raise UnusableFile(f"{path.name} is truncated: it ends before its last frame; copy or export it again")
    read, time = partial(_read_frame, path, array.name.strip("/"), stack, plane), (1.0, None)
    frames = stored.stack_frames(read, (n, *frame), array.dtype)
    return StoredImage(frames, scales[plane[0]], scales[plane[1]], time if stack is None else scales[stack], part)


def _read_frame(path, name, stack, plane, i) -> np.ndarray:
    with open_store(path) as store:
        array = store[name]
        where = [i if axis == stack else slice(None) if axis in plane else 0 for axis in range(array.ndim)]
        frame = np.asarray(array[tuple(where)])
    return frame.T if plane[0] > plane[1] else frame


def read_emd(path: Path) -> StoredImage:
    """The largest image of a Velox or Berkeley EMD file."""
    with h5py.File(path, "r") as file:
        if velox := _VELOX_IMAGES in file:
            names = [f"{_VELOX_IMAGES}/{key}/Data" for key in file[_VELOX_IMAGES]]
        else:  # Berkeley's images are datasets called data... in groups marked as EMD
            every: list[str] = []
            file.visit(every.append)
            data = [name for name in every if name.rsplit("/", 1)[-1].startswith("data")]
            names = [name for name in data if hasattr(file[name], "dtype") and file[name].parent.attrs.get(_EMD)]
        array, part = _choose_array(path, file, names, "iufb")
        if array.ndim > 3:
            raise UnusableFile(
                f"{path.name} has {array.ndim} dimensions {array.shape}; give a stack of images (t, y, x)"
            )
        name = array.name.strip("/")
        if velox:
            # Stored are y, x, frame. RosettaSciIO gives frame, y, x, and leaves out an only frame.
            images = stored.read_axes(emd.file_reader, path, select_type="images")
            axes = images[list(file[_VELOX_IMAGES]).index(name.split("/")[2])]
            axes = [*axes[-2:], axes[0] if len(axes) == 3 else {"name": "time", "navigate": True}]
        else:
            # RosettaSciIO turns their order round, unless the file counts them from dim0.
            axes = stored.read_axes(emd.file_reader, path, dataset_path=[name])[0]
            axes = axes if "dim0" in array.parent or name.endswith("/datacube") else axes[::-1]
        stack = _find_stack_axis(axes) if len(axes) == 3 else None
        y, x = (i for i in range(len(axes)) if i != stack)
        if str(axes[y]["name"]).lower() in ("x", "width"):
            y, x = x, y
        return _stack_array(path, array, [stored.get_scale(axis) for axis in axes], stack, (y, x), part)


def _find_stack_axis(axes: list[dict]) -> int:
    """Index of the axis along which the frames lie: the one marked so, in time, or neither x nor y; else the first."""
    names = [str(axis.get("name")).lower() for axis in axes]
    for candidates in (
        [i for i, axis in enumerate(axes) if axis.get("navigate")],
        [i for i, axis in enumerate(axes) if normalize_unit(axis.get("units")).lower() in SECONDS],
        [i for i, name in enumerate(names) if name in ("t", "time", "frame", "frames")],
        [i for i, name in enumerate(names) if name not in ("x", "y", "width", "height")],
    ):
        if len(candidates) == 1:
            return candidates[0]
    return 0


def read_dm5(path: Path) -> StoredImage:
    """The largest image of a dm5 file: the tags of a dm4 file in HDF5, where the first image is a thumbnail."""
    with open_store(path) as store:
        names = [f"ImageList/{image}/ImageData/Data" for image in store["ImageList"]]
        array, part = _choose_array(path, store, names[1:] or names)
        dimensions = array.parent.get("Calibrations/Dimension") or {}
        scales: list[Scale] = []
        for i in reversed(range(array.ndim)):  # Gatan counts axes from x on; what is missing there has no scale
            attributes = dimensions[f"[{i}]"].attrs if f"[{i}]" in dimensions else {}
            unit = attributes.get("Units")
            unit = unit.decode(errors="replace") if isinstance(unit, bytes) else unit
            scales.append((attributes.get("Scale", 1.0), unit))
        brightness = array.parent.get("Calibrations/Brightness")
        intensity = _find_intensity({} if brightness is None else brightness.attrs)
        return replace(_read_array(path, array, scales, part), intensity=intensity)


def read_hyperspy(path: Path) -> StoredImage:
    """The largest signal of a HyperSpy file. Its axes are read here: RosettaSciIO would keep the file open."""
    with open_store(path) as store:
        groups = store["Experiments"]
        array, part = _choose_array(path, groups, [f"{name}/data" for name in groups if "data" in groups[name]])
        group = store[array.name.strip("/").removesuffix("/data")]
        axes = (group[f"axis-{i}"].attrs for i in range(array.ndim))
        # HyperSpy stores the units of an axis without one as a mark.
        scales = [(step, None if unit == "_None_" else unit) for step, unit in map(stored.get_scale, axes)]
        return _read_array(path, array, scales, part)


def read_ome_zarr(path: Path) -> StoredImage:
    """The finest resolution of the largest image of an OME-Zarr store (versions 0.1 to 0.5) or of the groups in it."""
    import zarr

    if isinstance(zarr.open(path, mode="r"), zarr.Array):
        raise UnusableFile(f"{path.name} is one array of a Zarr store; give the folder above it, which describes it")
    with open_store(path) as store:
        images: dict[str, dict] = {}
        for name, group in [("", store), *store.members(max_depth=_DEEPEST)]:
            attributes = dict(group.attrs)
            for image in attributes.get("ome", attributes).get("multiscales", ())[:1]:
                images[f"{name}/{image['datasets'][0]['path']}".strip("/")] = image
        if not images:
            raise UnusableFile(f"{path.name} is no OME-Zarr image; give a store whose attributes list multiscales")
        array, part = _choose_array(path, store, list(images))
        image = images[array.name.strip("/")]
        # Version 0.3 has only names of axes, earlier ones always the same five.
        axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in image.get("axes", "tczyx")]
        scales = [1.0] * len(axes)
        first = image["datasets"][0]
        for change in (*image.get("coordinateTransformations", ()), *first.get("coordinateTransformations", ())):
            scales = [a * b for a, b in zip(scales, change.get("scale", [1.0] * len(scales)), strict=True)]
        return _read_array(path, array, [(a, axis.get("unit")) for a, axis in zip(scales, axes, strict=True)], part)


def read_dm(path: Path) -> StoredImage:
    """The largest image of a dm3 or dm4 file."""
    try:
        # Pieces of many whole frames: cheap, as they are memory maps until someone looks into them.
        signals = digitalmicrograph.file_reader(str(path), lazy=True, chunks={0: "auto"})
    except ValueError as error:
        if "RGBA" not in str(error):
            raise
        signals = digitalmicrograph.file_reader(str(path))  # colour cannot be read lazily
    images = [signal for signal in signals if signal["data"].ndim >= 2]
    signal, part = stored.choose_largest(images, lambda signal: signal["data"].size, path)
    data, axes = signal["data"], signal["axes"]
    time = stored.get_scale(axes[0]) if data.ndim == 3 else (1.0, None)
    colour = data.dtype.names is not None
    if colour:
        data = stored.drop_colours(np.stack([data[name] for name in "RGB"], axis=-1))
    described = signal["original_metadata"]["ImageList"]["TagGroup0"]["ImageData"]
    intensity = _find_intensity(described.get("Calibrations", {}).get("Brightness", {}))
    image = StoredImage(data, stored.get_scale(axes[-2]), stored.get_scale(axes[-1]), time, part, colour)
    return replace(image, intensity=intensity)


def _find_intensity(brightness: Mapping[str, Any]) -> tuple[float, float] | None:
    """Value of no electron, and electrons for each step above it, where Gatan's values are counts of electrons."""
    unit = brightness.get("Units", "")
    unit = unit.decode(errors="replace") if isinstance(unit, bytes) else unit
    if not isinstance(unit, str) or unit.strip() not in _ELECTRONS:
        return None
    origin, step = float(brightness.get("Origin", 0.0)), float(brightness.get("Scale", 1.0))
    return (origin, step) if math.isfinite(origin) and math.isfinite(step) and step > 0 else None
