"""Data that ships with moirelib, and real data that is downloaded from where it was published.

The sample movie with its truth, the weights and the transmission table are our own and ship with moirelib. Real data
belongs to others: each entry of `REGISTRY` names the owner and the licence, and `fetch` downloads the file from an
address pinned to a commit and checks its SHA-256. `fetch` looks first into the folder named by the environment
variable ``MOIRELIB_DATA``, so everything works offline.
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
    package = Path(__file__).resolve().parent
    installed = package / "_data"
    return installed if installed.is_dir() else package.parent / "data"


def path(name: str) -> Path:
    """Path of a shipped file, such as ``"sample.tif"``; FileNotFoundError if it is not there."""
    file = data_dir() / name
    if not file.exists():
        raise FileNotFoundError(f"{name} is missing from {data_dir()}, moirelib's data folder; reinstall moirelib")
    return file


def weights_path() -> Path:
    """Path of the shipped network weights."""
    return path("unet.safetensors")


def sample() -> tuple[Movie, pd.DataFrame]:
    """Open the shipped simulated movie and the truth that it was made from.

    The truth has one row per particle and frame: ``frame, particle, layer, y, x`` (px), ``y_nm, x_nm, diameter_nm``.
    """
    return read_movie(path("sample.tif")), pd.read_csv(path("sample_truth.csv"))


def benchmark_example() -> tuple[dict, dict]:
    """One held-out simulated scene of the layer benchmark, and the layers that several methods see in it.

    Returns
    -------
    images : dict of str to ndarray
        ``frame`` (y, x) in counts; ``truth`` and, by the methods' names, masks (2, y, x) uint8, 255 = covered.
    about : dict
        ``pixel_size`` (nm), ``seed``, ``particles`` of each layer, ``scores`` of each method over the whole frame,
        the ``command`` that made it and its ``commit``.
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


_GITHUB = "https://raw.githubusercontent.com"
_PHONONS = f"{_GITHUB}/chenlabUIUC/Phonon-mapping-nanoscopy/51dea91ca059b16994be7e35411856dc4e20752b"
_GATAN = f"{_GITHUB}/hyperspy/rosettasciio/78aea9d0a57528a36a6cdd731e0aa32d44bea37c/rsciio/tests/data/digitalmicrograph"
# Licence and source of several files
_TRAJECTORIES = (
    "MIT, © 2023 chenlabUIUC",
    "Tracked centres of a vibrating lattice, particle × (x, y) × frame, nm; chenlabUIUC, Phonon-mapping-nanoscopy",
)
_READER_TEST = ("GPL-3.0", "Small Gatan data, to test the reader; RosettaSciIO test data")
REGISTRY: dict[str, RealData] = {
    "np_lattice_2p593nm.tif": RealData(
        f"{_GITHUB}/chenlabUIUC/particle-identification/f800ca98a5cbbeeb81161fc2e380797468431f28/SAMPLE_0001.tif",
        "b1eb849740bd93518b4c7a9e115584f36f9d24ffd45e27657f82ee97e85c7702",
        "MIT, © 2020 chenlabUIUC",
        "One liquid-phase TEM frame of a nanoparticle lattice, one layer, 2.593 nm/px; "
        "Ou et al., Nat. Commun. 11, 4555 (2020)",
    ),
    "trajectories_Rod_raw.mat": RealData(
        f"{_PHONONS}/Mode%20analysis/Data%20raw/Rod_raw.mat",
        "571c040895f7127a18f78493b5286037406c39adf48417b160974815995d4f1b",
        *_TRAJECTORIES,
    ),
    "trajectories_Prism_raw.mat": RealData(
        f"{_PHONONS}/Mode%20analysis/Data%20raw/Prism_raw.mat",
        "373525a45e2c0b15ddfb3e9b95918e40a090593a6e17b290b58a5321ec6d349f",
        *_TRAJECTORIES,
    ),
    "gatan_image.dm3": RealData(
        f"{_GATAN}/2D/test_STEM_image.dm3",
        "fcba806af75bc3c2e50e7d7b0626cba545c1464f39e99c8922b225b0b0b0224c",
        *_READER_TEST,
    ),
    "gatan_image.dm4": RealData(
        f"{_GATAN}/2D/test-MonarcCL_mono-image.dm4",
        "4ea04a10ad46595de79a20c283555f299dd07b4667f6112b44db1699f28993b6",
        *_READER_TEST,
    ),
    "gatan_stack.dm4": RealData(
        f"{_GATAN}/3D/EELS_SI.dm4",
        "f9b8203f384cc355437594b649d4ea3a12cddeb231ebb65508a841a379fa171a",
        *_READER_TEST,
    ),
    "GNR1-56-middle-099.tif": RealData(
        f"{_GITHUB}/lanceyao-research/Moire_pattern_segmentation/74dc9770c56b74a1b94c7b3135660338d6d30722"
        "/data_example/GNR1-56-middle-099.tif",
        None,
        "MIT",
        "A published Moiré frame of nanoparticles; lanceyao-research, Moire_pattern_segmentation",
    ),
}


def fetch(name: str) -> Path:
    """Find a real data file of `REGISTRY`: in ``MOIRELIB_DATA``, else in the cache, else download it into the cache.

    ValueError if a file is not what was published (its SHA-256 differs); OSError if it is neither at hand nor can be
    downloaded.
    """
    entry = REGISTRY.get(name)
    if entry is None:
        raise ValueError(f"no real data file is called {name!r}; there are {', '.join(REGISTRY)}")
    folder = os.environ.get("MOIRELIB_DATA")
    if folder and (Path(folder) / name).is_file():
        return _check_hash(Path(folder) / name, entry)
    return _download(name, entry)


#: Tracking error that the authors state for their trajectories, in nm.
_TRACKING_ERROR = {"rod": 1.0, "prism": 5.7}


def trajectories(name: str) -> pd.DataFrame:
    """Published trajectories of vibrating particles in a hexagonal lattice, as a track table.

    Parameters
    ----------
    name : str
        ``"rod"`` (standing rods, 271 particles, 137 frames) or ``"prism"`` (prisms, 91 particles, 47 frames).

    Returns
    -------
    pandas.DataFrame
        ``frame, particle, layer`` (1), ``y_nm, x_nm`` and, as ``y_std_nm, x_std_nm``, the tracking error that the
        authors state: 1 nm (rod) and 5.7 nm (prism). Drift and rotation are not removed.
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


def _check_hash(file: Path, entry: RealData) -> Path:
    if entry.sha256 is not None and pooch.file_hash(file) != entry.sha256:
        raise ValueError(f"{file} is not the published file (its SHA-256 differs); delete it or fetch it again")
    return file


def _download(name: str, entry: RealData) -> Path:
    cache = pooch.create(
        path=pooch.os_cache("moirelib"),
        base_url="",
        registry={name: None if entry.sha256 is None else f"sha256:{entry.sha256}"},
        urls={name: entry.url},
    )
    try:
        return Path(cache.fetch(name))
    except ValueError as error:
        raise ValueError(f"{entry.url} is not the published file any more (its SHA-256 differs)") from error
    except Exception as error:  # requests' own exceptions, or none of them at all without a network
        raise OSError(
            f"{name} is not in the folder named by MOIRELIB_DATA and cannot be downloaded; "
            f"put it there (it is published at {entry.url})"
        ) from error
