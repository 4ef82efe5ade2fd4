"""Velox and Berkeley EMD files."""

import math
from pathlib import Path

import h5py
from rsciio import emd

from .calibration import SECONDS, normalize_unit
from .hierarchical import stack_array
from .stored import StoredImage, UnusableFile, choose_largest, get_scale, read_axes

_VELOX_IMAGES = "Data/Image"


def read_emd(path: Path) -> StoredImage:
    """The largest image of an EMD file."""
    images = list(_list_images(path).items())
    best, part = choose_largest(images, lambda image: math.prod(image[1]), path)
    name, shape = images[best]
    if 0 in shape:
        raise UnusableFile(f"{path.name} holds no frames (its shape is {shape}); record or export it again")
    if len(shape) > 3:
        raise UnusableFile(f"{path.name} has {len(shape)} dimensions {shape}; give a stack of images (t, y, x)")
    axes = _read_velox_axes(path, name) if name.startswith(_VELOX_IMAGES) else _read_berkeley_axes(path, name)
    stack = _find_stack_axis(axes) if len(axes) == 3 else None
    plane = [i for i in range(len(axes)) if i != stack]
    if str(axes[plane[0]]["name"]).lower() in ("x", "width"):
        plane.reverse()
    y, x = (get_scale(axes[i]) for i in plane)
    time = (1.0, None) if stack is None else get_scale(axes[stack])
    return StoredImage(stack_array(path, name, stack, (plane[0], plane[1])), y=y, x=x, t=time, part=part)


def _list_images(path: Path) -> dict[str, tuple[int, ...]]:
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


def _read_velox_axes(path: Path, name: str) -> list[dict]:
    """Axes as stored: y, x, frame. RosettaSciIO gives frame, y, x, and leaves out an only frame."""
    images = read_axes(emd.file_reader, path, select_type="images")
    with h5py.File(path, "r") as file:
        index = list(file[_VELOX_IMAGES]).index(name.split("/")[2])
    axes = images[index]
    frame = axes[0] if len(axes) == 3 else {"name": "time", "navigate": True}
    return [*axes[-2:], frame]


def _read_berkeley_axes(path: Path, name: str) -> list[dict]:
    """Axes as stored. RosettaSciIO turns their order round, unless the file counts them from dim0."""
    axes = read_axes(emd.file_reader, path, dataset_path=[name])[0]
    with h5py.File(path, "r") as file:
        as_stored = "dim0" in file[name].parent or name.endswith("/datacube")
    return axes if as_stored else axes[::-1]


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
