"""Data that ships with moirelib, and real data that is downloaded from where it was published.

The sample movie with its truth, the weights and the transmission table are our own and ship with moirelib. Real data
belongs to others: ``real_data.json`` names owner and licence of each file, and `fetch` downloads it from an address
pinned to a commit and checks its SHA-256. `fetch` looks first into the folder named by the environment variable
``MOIRELIB_DATA``, so everything works offline.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pooch

from .movies.movie import Movie
from .movies.reading import read_movie


def data_dir() -> Path:
    """Folder of the shipped data: inside the installed package, or ``data/`` of a checkout."""
    installed = Path(__file__).resolve().with_name("_data")
    return installed if installed.is_dir() else installed.parents[1] / "data"


def path(name: str) -> Path:
    """Path of a shipped file, such as ``"sample.tif"``; FileNotFoundError if it is not there."""
    file = data_dir() / name
    if not file.exists():
        raise FileNotFoundError(f"{name} is missing from {data_dir()}, moirelib's data folder; reinstall moirelib")
    return file


def weights_path(layers: int = 2) -> Path:
    """Path of the shipped weights of the network for up to two, or for three layers."""
    return path("unet.safetensors" if layers < 3 else "unet_three.safetensors")


def sample() -> tuple[Movie, pd.DataFrame]:
    """Open the shipped simulated movie and the truth that it was made from.

    The truth has one row per particle and frame: ``frame, particle, layer, y, x`` (px), ``y_nm, x_nm, diameter_nm``.
    """
    return read_movie(path("sample.tif")), pd.read_csv(path("sample_truth.csv"))


def benchmark_example() -> tuple[dict, dict]:
    """One held-out simulated scene of the layer benchmark, and the layers that several methods see in it.

    First images by name: ``frame`` (y, x) in counts; ``truth`` and, by the methods' names, masks (2, y, x) uint8, 255 =
    covered. Then what they are: ``pixel_size`` (nm), ``seed``, ``particles`` of each layer, ``scores`` of each method
    over the whole frame, the ``command`` that made it and its ``commit``.
    """
    with np.load(path("bench_example.npz")) as file:
        images = dict(file)
    return images, json.loads(str(images.pop("about")))


@dataclass(frozen=True)
class RealData:
    """A published file: its address, its SHA-256, its owner."""

    url: str  # pinned to a commit
    sha256: str | None  # None where we never had the file, so it cannot be checked
    licence: str
    source: str  # what it is and what to cite


_ENTRIES = json.loads(Path(__file__).with_name("real_data.json").read_text(encoding="utf-8"))
REGISTRY: dict[str, RealData] = {name: RealData(**entry) for name, entry in _ENTRIES.items()}


def fetch(name: str) -> Path:
    """Find a real data file of `REGISTRY`: in ``MOIRELIB_DATA``, else in the cache, else download it into the cache.

    ValueError if a file is not what was published (its SHA-256 differs); OSError if it is neither at hand nor can be
    downloaded.
    """
    entry = REGISTRY.get(name)
    if entry is None:
        raise ValueError(f"no real data file is called {name!r}; there are {', '.join(REGISTRY)}")
    folder = os.environ.get("MOIRELIB_DATA")
    if folder and (file := Path(folder, name)).is_file():
        if entry.sha256 is not None and pooch.file_hash(file) != entry.sha256:
            raise ValueError(f"{file} is not the published file (its SHA-256 differs); delete it or fetch it again")
        return file
    known = None if entry.sha256 is None else f"sha256:{entry.sha256}"
    try:
        return Path(pooch.retrieve(entry.url, known, name, pooch.os_cache("moirelib")))
    except ValueError as error:
        raise ValueError(f"{entry.url} is not the published file any more (its SHA-256 differs)") from error
    except Exception as error:  # requests' own exceptions, or none of them at all without a network
        raise OSError(
            f"{name} is not in the folder named by MOIRELIB_DATA and cannot be downloaded; "
            f"put it there (it is published at {entry.url})"
        ) from error


#: Tracking error that the authors state for their trajectories, in nm.
_TRACKING_ERROR = {"rod": 1.0, "prism": 5.7}


def trajectories(name: str) -> pd.DataFrame:
    """Published trajectories of vibrating particles in a hexagonal lattice, as a track table.

    `name` is ``"rod"`` (standing rods, 271 particles, 137 frames) or ``"prism"`` (prisms, 91 particles, 47 frames).
    Columns are ``frame, particle, layer`` (1), ``y_nm, x_nm`` and, as ``y_std_nm, x_std_nm``, the tracking error that
    the authors state: 1 nm (rod) and 5.7 nm (prism). Drift and rotation are not removed.
    """
    from scipy.io import loadmat

    if name not in _TRACKING_ERROR:
        raise ValueError(f"no published trajectories are called {name!r}; there are {', '.join(_TRACKING_ERROR)}")
    points = loadmat(fetch(f"trajectories_{name.capitalize()}_raw.mat"))["pos"].astype(float)
    particles, _, frames = points.shape  # in the file: particle × (x, y) × frame
    frame, particle = (i.ravel() for i in np.indices((frames, particles)))
    x, y = points.transpose(1, 2, 0).reshape(2, -1)
    error = _TRACKING_ERROR[name]
    table = {"frame": frame, "particle": particle, "layer": 1, "y_nm": y, "x_nm": x}
    return pd.DataFrame({**table, "y_std_nm": error, "x_std_nm": error})
