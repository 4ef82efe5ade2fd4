"""The formats that moirelib reads: one list, from which the documentation is made as well."""

from pathlib import Path
from typing import NamedTuple


class Format(NamedTuple):
    """A file format."""

    extensions: tuple[str, ...]
    name: str  # in messages: "movie.dm4 cannot be read as NAME: ..."
    maker: str  # who writes such files
    reader: str  # MODULE.FUNCTION beside this module; loaded when such a file is read


FORMATS = (  # CONTRIBUTING.md says how to add one
    Format((".dm3", ".dm4"), "Gatan DigitalMicrograph", "Gatan", "hierarchical.read_dm"),
    Format((".dm5",), "Gatan DigitalMicrograph 5", "Gatan", "hierarchical.read_dm5"),
    Format((".mrc", ".mrcs"), "MRC", "FEI, SerialEM, Relion, Direct Electron", "mrc.read_mrc"),
    Format((".tif", ".tiff"), "TIFF", "ImageJ, OME, microscope makers", "tiff.read_tiff"),
    Format((".emd", ".de5"), "EMD", "Velox, Berkeley, Direct Electron", "hierarchical.read_emd"),
    Format((".ser",), "TIA .ser", "FEI TIA", "ser.read_ser"),
    Format((".emi",), "TIA .emi", "FEI TIA", "ser.read_emi"),  # leads to the .ser files beside it
    Format((".tvips",), "TVIPS", "TVIPS", "tvips.read_tvips"),
    Format((".hspy", ".zspy"), "HyperSpy", "HyperSpy", "hierarchical.read_hyperspy"),
    Format((".zarr",), "OME-Zarr", "OME", "hierarchical.read_ome_zarr"),
    Format((".png", ".jpg", ".jpeg", ".bmp", ".gif"), "a picture", "screenshots", "pictures.read_picture"),
    Format((".avi", ".mp4", ".mov", ".mkv"), "a video", "ImageJ, screen recorders", "pictures.read_video"),
)
_ZARR_FILES = ("zarr.json", ".zgroup", ".zattrs", ".zarray")  # one of them is in every folder that is a Zarr store


def list_formats(line: str = "{extensions} ({name})", joiner: str = ", ", quote: str = "") -> str:
    """All formats as text: `line` with the fields of each `Format`, extensions between `quote` signs."""
    fields = (f._asdict() | {"extensions": ", ".join(f"{quote}{e}{quote}" for e in f.extensions)} for f in FORMATS)
    return joiner.join(line.format(**each) for each in fields)


def find_format(path: Path) -> Format | None:
    """The format of a file, or of a folder that is a Zarr store; None for an unknown one."""
    suffix = path.suffix.lower()
    if path.is_dir() and suffix != ".zspy":
        suffix = ".zarr" if suffix == ".zarr" or any((path / file).is_file() for file in _ZARR_FILES) else ""
    return next((known for known in FORMATS if suffix in known.extensions), None)
