"""HyperSpy's own files: .hspy (HDF5) and .zspy (Zarr)."""

from dataclasses import replace
from pathlib import Path

from .hierarchical import choose_array, open_store, read_array
from .stored import StoredImage


def read_hyperspy(path: Path) -> StoredImage:
    """The largest signal of a HyperSpy file. Its axes are read here: RosettaSciIO would keep the file open."""
    with open_store(path) as store:
        names = [f"Experiments/{name}/data" for name in store["Experiments"] if "data" in store["Experiments"][name]]
    name, part = choose_array(path, names)
    with open_store(path) as store:
        group = store[name.removesuffix("/data")]
        axes = [dict(group[f"axis-{i}"].attrs) for i in range(group["data"].ndim)]
    # HyperSpy stores the units of an axis without one as a mark.
    axes = [axis | {"units": None if axis.get("units") == "_None_" else axis.get("units")} for axis in axes]
    return replace(read_array(path, name, axes), part=part)
