"""OME-Zarr, the image format of the Open Microscopy Environment for Zarr stores."""

from pathlib import Path

from .hierarchical import open_store, read_array
from .stored import StoredImage, UnusableFile


def read_ome_zarr(path: Path) -> StoredImage:
    """The finest resolution of the first image of an OME-Zarr store (versions 0.4 and 0.5)."""
    with open_store(path) as store:
        attributes = dict(store.attrs)
    described = attributes.get("ome", attributes).get("multiscales")
    if not described:
        raise UnusableFile(f"{path.name} is no OME-Zarr image; give a store whose attributes list multiscales")
    first = described[0]["datasets"][0]
    changes = (*described[0].get("coordinateTransformations", ()), *first.get("coordinateTransformations", ()))
    scales = [1.0] * len(described[0]["axes"])
    for change in changes:
        scales = [a * b for a, b in zip(scales, change.get("scale", [1.0] * len(scales)), strict=True)]
    axes = [
        {"scale": scale, "units": axis.get("unit")} for scale, axis in zip(scales, described[0]["axes"], strict=True)
    ]
    return read_array(path, first["path"], axes)
