"""The training library: simulated frames with their truth, in one Zarr store.

Explained in chapter 4, "Library".
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from .lattice import LatticeConfig, Scene, random_scene, truth_table
from .liquid import CameraConfig, LiquidConfig, liquid_background, record
from .optics import Transmission, clean_image, particle_mask

__all__ = ["LibraryConfig", "make_library", "make_sample", "open_library", "simulate_frame"]


@dataclass(frozen=True)
class LibraryConfig:
    """Ranges of a training library; pairs are (low, high) of a uniform distribution unless said otherwise."""

    images: int = 400
    shape: tuple[int, int] = (512, 512)  # pixels
    diameter_px: tuple[float, float] = (12.0, 34.0)  # particle diameter in pixels, log-uniform; sets the pixel size
    lattice: LatticeConfig = field(default_factory=LatticeConfig)
    dose: tuple[float, float] = (3.0, 300.0)  # electrons/Å² and frame, log-uniform
    mean_free_path: tuple[float, float] = (20.0, 85.0)  # nm, of gold; a fifth of the images use the multislice table
    defocus: tuple[float, float] = (-1000.0, 2000.0)  # nm
    blur: tuple[float, float] = (0.02, 0.3)  # optical blur's standard deviation / particle diameter
    disk_blur: tuple[float, float] = (0.0, 0.35)  # disk radius / particle diameter, in a third of the images
    water: tuple[float, float] = (100.0, 500.0)  # nm
    clouds: tuple[float, float] = (0.0, 0.25)  # relative, in half of the images
    cloud_size: tuple[float, float] = (0.8, 5.0)  # standard deviation / spacing
    beam: tuple[float, float] = (0.0, 1.0)
    shadow: tuple[float, float] = (0.2, 0.8)  # in a fifth of the images
    readout_noise: tuple[float, float] = (5.0, 40.0)  # electrons

    def __post_init__(self):
        if self.images < 1 or min(self.shape) < 32:
            raise ValueError(f"a library needs at least 1 image of 32 pixels, got {self.images} of {self.shape}")

    @classmethod
    def fast(cls) -> LibraryConfig:
        """A few small images, for the book's fast mode."""
        return cls(images=24, shape=(256, 256))

    @classmethod
    def full(cls) -> LibraryConfig:
        """As many images as published work trained on."""
        return cls()

    @classmethod
    def training(cls) -> LibraryConfig:
        """What the shipped weights were trained on."""
        return cls(images=3000, shape=(448, 448))


@dataclass(frozen=True)
class SimulatedFrame:
    """One image of a library with its truth."""

    frame: np.ndarray  # (y, x) uint16, counts
    masks: np.ndarray  # (layer, y, x) uint8, 255 = pixel fully covered
    scene: Scene
    pixel_size: float  # nm/pixel
    parameters: dict


def simulate_frame(config: LibraryConfig, seed, transmission: Transmission | None = None) -> SimulatedFrame:
    """Simulate one frame of the library, from lattice to camera.

    Parameters
    ----------
    config : LibraryConfig
        Ranges.
    seed : int or sequence of int
        Same seed, same bytes.
    transmission : Transmission, optional
        Gold's shipped table by default.

    Returns
    -------
    SimulatedFrame
        Raw frame, masks, scene and the parameters drawn.
    """
    rng = np.random.default_rng(seed)
    transmission = Transmission.load() if transmission is None else transmission
    spacing = np.exp(rng.uniform(*np.log(config.lattice.spacing)))
    diameter_px = np.exp(rng.uniform(*np.log(config.diameter_px)))
    pixel_size = float(spacing * np.mean(config.lattice.diameter_ratio) / diameter_px)
    scene = random_scene(config.lattice, tuple(n * pixel_size for n in config.shape), rng, spacing)
    diameter = float(np.mean(scene.layers[0].diameters)) if len(scene.layers[0]) else spacing * 0.7
    liquid, camera = _random_conditions(config, spacing, diameter, rng)
    path = None if rng.random() < 0.2 else float(rng.uniform(*config.mean_free_path))
    defocus = float(rng.uniform(*config.defocus))
    clean = clean_image(scene, pixel_size, transmission, defocus, path)
    frame = record(clean, pixel_size, liquid, camera, rng)
    masks = [particle_mask(scene, n + 1, pixel_size) for n in range(len(scene.layers))]
    parameters = {
        "pixel_size_nm": pixel_size,
        "shape": scene.shape,
        "height_nm": scene.height,
        "twist_deg": scene.twist_angle,
        "spacing_nm": [layer.spacing for layer in scene.layers],
        "diameter_nm": diameter,
        "defocus_nm": defocus,
        "mean_free_path_nm": path,
        "liquid": asdict(liquid),
        "camera": asdict(camera),
    }
    return SimulatedFrame(frame, np.rint(255 * np.stack(masks)).astype(np.uint8), scene, pixel_size, parameters)


def _random_conditions(config, spacing, diameter, rng) -> tuple[LiquidConfig, CameraConfig]:
    liquid = LiquidConfig(
        water=rng.uniform(*config.water),
        beam=rng.uniform(*config.beam),
        shadow=rng.uniform(*config.shadow) if rng.random() < 0.2 else 0.0,
        clouds=rng.uniform(*config.clouds) if rng.random() < 0.5 else 0.0,
        cloud_size=spacing * rng.uniform(*config.cloud_size),
        blur=diameter * rng.uniform(*config.blur),
        disk_blur=diameter * rng.uniform(*config.disk_blur) if rng.random() < 0.33 else 0.0,
    )
    # Small particles are filmed at high magnification, where a camera pixel receives few electrons at a given dose.
    dose = float(np.exp(rng.uniform(*np.log(config.dose))))
    return liquid, CameraConfig(dose=dose, readout_noise=rng.uniform(*config.readout_noise))


def make_library(
    path,
    config: LibraryConfig | None = None,
    seed: int = 0,
    workers: int = 2,
    scheduler: str | None = None,
    progress: bool = True,
):
    """Simulate a library into a Zarr store, in parallel; an interrupted run goes on where it stopped.

    Parameters
    ----------
    path : path-like
        Folder of the library. A half-finished one of the same configuration and seed is continued.
    config : LibraryConfig, optional
        ``LibraryConfig.full()`` by default.
    seed : int
        Image ``i`` is drawn from the seed pair ``(seed, i)``, whatever the number of workers.
    workers : int
        Local processes (Dask).
    scheduler : str, optional
        Address of a Dask scheduler whose workers see ``path``; used instead of local processes.
    progress : bool
        Show a progress bar.

    Returns
    -------
    zarr.Group
        ``images.zarr`` in the folder, with arrays ``frame`` (n, y, x) uint16, ``mask`` (n, layer, y, x) uint8,
        ``pixel_size`` (n,) in nm, ``done`` (n,); ``truth/i.json`` beside it holds each image's parameters and
        particles.

    Raises
    ------
    ValueError
        If the store was made with another configuration or seed.
    """
    from dask.distributed import Client, LocalCluster, as_completed
    from tqdm import tqdm

    config = LibraryConfig.full() if config is None else config
    group = _create_store(Path(path), config, seed)
    missing = np.flatnonzero(np.asarray(group["done"][:]) == 0).tolist()
    batches = [missing[i : i + 8] for i in range(0, len(missing), 8)]
    with contextlib.ExitStack() as stack:
        address = scheduler or stack.enter_context(
            LocalCluster(workers, threads_per_worker=1, dashboard_address=None, processes=workers > 1)
        )
        client = stack.enter_context(Client(address))
        bar = stack.enter_context(tqdm(total=len(missing), disable=not progress, desc="library", unit="image"))
        jobs = [client.submit(_write_images, str(path), batch, config, seed, pure=False) for batch in batches]
        for job in as_completed(jobs):
            bar.update(job.result())
    return open_library(path)


def open_library(path):
    """Open a finished library for reading.

    Raises
    ------
    ValueError
        If the folder holds no library, or an unfinished one.
    """
    import zarr

    try:
        group = zarr.open_group(str(Path(path) / "images.zarr"), mode="r")
        done = np.asarray(group["done"][:])
    except (KeyError, OSError) as error:
        raise ValueError(f"{path} is not a moirelib library; make one with moirelib library --out {path}") from error
    if not done.all():
        raise ValueError(f"{path} holds {int(done.sum())} of {done.size} images; run moirelib library again to finish")
    return group


def _create_store(path: Path, config: LibraryConfig, seed: int):
    import zarr

    recipe = json.loads(json.dumps({"config": asdict(config), "seed": seed}))
    if (path / "images.zarr" / "done" / "zarr.json").exists():  # made last
        group = zarr.open_group(str(path / "images.zarr"), mode="r+")
        if dict(group.attrs) != recipe:
            raise ValueError(f"{path} was made with another configuration or seed; choose another folder")
        return group
    n, shape = config.images, tuple(config.shape)
    path.mkdir(parents=True, exist_ok=True)
    group = zarr.open_group(str(path / "images.zarr"), mode="w")
    group.create_array("frame", shape=(n, *shape), chunks=(1, *shape), dtype="uint16")
    group.create_array("mask", shape=(n, 2, *shape), chunks=(1, 2, *shape), dtype="uint8")
    group.create_array("pixel_size", shape=(n,), chunks=(1,), dtype="float64")
    (path / "truth").mkdir(exist_ok=True)
    group.attrs.update(recipe)
    group.create_array("done", shape=(n,), chunks=(1,), dtype="uint8")
    return group


def _write_images(path, indices, config, seed) -> int:
    """Simulate and store some images; ``done`` is set last, so a killed run never counts half an image."""
    import zarr

    group = zarr.open_group(str(Path(path) / "images.zarr"), mode="r+")
    transmission = Transmission.load()
    for i in indices:
        image = simulate_frame(config, (seed, i), transmission)
        group["frame"][i], group["mask"][i], group["pixel_size"][i] = image.frame, image.masks, image.pixel_size
        truth = {**image.parameters, "particles": truth_table(image.scene, image.pixel_size).to_dict("list")}
        (Path(path) / "truth" / f"{i}.json").write_text(json.dumps(truth), encoding="utf-8")
        group["done"][i] = 1
    return len(indices)


def make_sample(folder, seed: int = 2027, frames: int = 6, size: int = 384) -> None:
    """Remake the shipped sample: a short simulated movie of two twisted layers, and its truth.

    Parameters
    ----------
    folder : path-like
        Existing folder; ``sample.tif`` and ``sample_truth.csv`` are written into it.
    seed : int
        No library is drawn from this seed.
    frames : int
        Length of the movie.
    size : int
        Edge of a frame, in pixels of 1.367 nm.

    Notes
    -----
    Gold spheres of 30 nm, 39 nm apart, twisted by 9°, at 10.6 e/Å² per frame; every particle vibrates independently
    by 0.8 nm and the specimen drifts. Explained in chapter 4, "Library".
    """
    import pandas as pd
    import tifffile

    pixel_size, rng = 1.367, np.random.default_rng((seed, 1))
    lattice = LatticeConfig(
        shapes=("sphere",),
        diameter_ratio=(0.77, 0.77),
        twist_angle=(9.0, 9.0),
        position_std=(0.01, 0.01),
        strain=(0.01, 0.01),
        vacancies=(0.03, 0.03),
        island=1.0,
        edge=0.0,
        single_layer=0.0,
        boundary=0.0,
    )
    scene = random_scene(lattice, (size * pixel_size,) * 2, rng, spacing=39.0)
    liquid, camera = LiquidConfig(blur=2.0, clouds=0.08), CameraConfig()
    background = liquid_background((size, size), pixel_size, liquid, rng)
    movie, truth = [], []
    for t in range(frames):
        drift = np.array([0.9, -0.6]) * t
        moved = [
            replace(layer, positions=layer.positions + drift + 0.8 * rng.standard_normal(layer.positions.shape))
            for layer in scene.layers
        ]
        now = replace(scene, layers=tuple(moved))
        clean = clean_image(now, pixel_size, defocus=200.0, mean_free_path=45.0)
        movie.append(record(clean, pixel_size, liquid, camera, rng, background))
        truth.append(truth_table(now, pixel_size, t))
    tifffile.imwrite(
        Path(folder) / "sample.tif",
        np.stack(movie),
        imagej=True,
        resolution=(1 / pixel_size, 1 / pixel_size),
        metadata={"axes": "TYX", "unit": "nm", "finterval": 0.5},
    )
    pd.concat(truth).to_csv(Path(folder) / "sample_truth.csv", index=False, float_format="%.4f", lineterminator="\n")
