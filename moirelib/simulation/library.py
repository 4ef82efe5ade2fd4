"""The training library: simulated frames with their truth, in one Zarr store (chapter 4)."""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from os import PathLike
from pathlib import Path

import numpy as np
import torch
import zarr
from tqdm import tqdm

from .camera import CameraConfig, record
from .liquid import LiquidConfig
from .optics import Lens, clean_image, particle_mask
from .random_scenes import LatticeConfig, fix, random_scene
from .scene import Scene, finite, truth_parameters, truth_table

EMPTY_RATIO = 0.7  # diameter over spacing, for what is scaled by the diameter where layer 1 is empty
PEDESTAL = 5.0  # standard deviations of readout noise that the offset keeps above zero
GREATEST_OFFSET = 0.3  # of saturation; the rest is for the signal
IMAGES_PER_JOB = 4  # by hand: enough that starting a job costs little
WORKER_ENVIRONMENT = {f"{name}_NUM_THREADS": 1 for name in ("OMP", "MKL", "OPENBLAS")}


@dataclass(frozen=True)
class LibraryConfig:
    """Ranges of a library that includes the published recipe; pairs are (low, high), uniform if not said."""

    images: int = 400
    shape: tuple[int, int] = (512, 512)  # pixels
    lattice: LatticeConfig = field(default_factory=LatticeConfig)
    diameter_px: tuple[float, float] = (12.0, 34.0)  # pixels, log-uniform, of a particle of mean diameter ratio
    pixel_size: float | None = None  # nm/pixel; replaces diameter_px
    energies: tuple[float, ...] = (200e3, 300e3)  # eV, one of them
    apertures: tuple[float, ...] = (5.0, 10.0, 20.0)  # mrad, one of them
    tabulated: float = 0.5  # probability of gold's tabulated loss, which differs from particle to particle
    mean_free_path: tuple[float, float] = (20.0, 85.0)  # nm, of gold, in the other images
    defocus: tuple[float, float] = (-1000.0, 2000.0)  # nm
    spherical_aberration: tuple[float, float] = (0.0, 2.7)  # mm
    dose: tuple[float, float] = (3.0, 300.0)  # electrons/Å² and frame, log-uniform
    zero_loss: float = 0.3  # probability of an energy filter's image, as the published recipe simulates
    elastic_loss: bool = True  # liquid and windows also scatter electrons beyond the aperture
    water: tuple[float, float] = (100.0, 500.0)  # nm
    wedge: tuple[float, float] = (0.0, 0.6)  # relative change of the water's thickness across the field
    blur: tuple[float, float] = (0.0, 0.3)  # optical blur's standard deviation / particle diameter
    disk_blur: tuple[float, float] = (0.0, 0.5)  # disk radius / particle diameter
    disk_radius: tuple[float, float] | None = None  # pixels; replaces disk_blur
    disk_blurred: float = 0.33  # probability of a disk blur
    soft: tuple[float, float] = (0.0, 0.25)  # radius of the disk that softens thickness / particle diameter
    softened: float = 0.0  # probability of soft outlines
    clouds: tuple[float, float] = (0.0, 0.25)  # relative standard deviation
    clouded: float = 0.5  # probability of clouds
    cloud_size: tuple[float, float] = (0.8, 5.0)  # standard deviation / spacing
    beam: tuple[float, float] = (0.0, 1.5)  # fall of the beam, see LiquidConfig
    shadow: tuple[float, float] = (0.2, 0.8)  # depth
    shadowed: float = 0.2  # probability of a shadow
    mtf_power: tuple[float, float] = (0.4, 1.3)  # exponent of the published camera's MTF; direct detectors are sharper
    readout_noise: tuple[float, float] = (0.0, 40.0)  # electrons
    saturation: tuple[float, ...] = (4095.0, 16383.0, 65535.0)  # counts, one of them
    exposure: tuple[float, float] = (0.02, 0.5)  # mean counts / saturation, log-uniform; sets the gain
    gain: float = 30.0  # counts per electron, at most
    offset: tuple[float, float] = (0.0, 0.05)  # of saturation
    hot_pixels: tuple[float, float] = (0.0, 2e-4)  # fraction
    dead_pixels: tuple[float, float] = (0.0, 2e-4)  # fraction
    recipe: float = 0.0  # probability that an image follows `published` in all but its number of pixels

    def __post_init__(self):
        if self.images < 1 or min(self.shape) < 32:
            raise ValueError(f"a library needs at least 1 image of 32 pixels, got {self.images} of {self.shape}")

    @classmethod
    def fast(cls) -> "LibraryConfig":
        """A few small images, for the book's fast mode."""
        return cls(images=24, shape=(256, 256))

    @classmethod
    def full(cls) -> "LibraryConfig":
        """As many images as published work trained on."""
        return cls()

    @classmethod
    def training(cls, layers: int = 2) -> "LibraryConfig":
        """What the shipped weights were trained on; those of three layers on some scenes of one and two as well."""
        if layers == 2:
            return cls(images=4000, shape=(448, 448), recipe=0.25)
        lattice = LatticeConfig(layers=layers, single_layer=0.1, two_layers=0.3, island=0.3, edge=0.2)
        return cls(images=1200, shape=(320, 320), lattice=lattice)

    @classmethod
    def published(cls) -> "LibraryConfig":
        """The recipe of published simulations of liquid-phase TEM of Moiré lattices: 700 nm at 512 pixels."""
        ranges = fix(mean_free_path=35.0, defocus=0.0, spherical_aberration=Lens.spherical_aberration, dose=10.6)
        ranges |= fix(water=250.0, wedge=0.0, blur=0.0, beam=1.0, mtf_power=1.0, exposure=0.5, offset=0.0)
        ranges |= {"disk_radius": (8.0, 10.0), "readout_noise": (20.0, 40.0)}
        ranges |= {"energies": (Lens.energy,), "apertures": (Lens.aperture,), "saturation": (65535.0,)}
        chances: dict = {"tabulated": 0.0, "zero_loss": 1.0, "disk_blurred": 1.0, "clouded": 0.0, "shadowed": 0.0}
        lattice = LatticeConfig.published()
        return cls(**ranges, **chances, lattice=lattice, pixel_size=1.367, elastic_loss=False, gain=10.7)


@dataclass(frozen=True)
class SimulatedFrame:
    """One image of a library with its truth."""

    frame: np.ndarray  # (y, x) uint16, counts
    masks: np.ndarray  # (layer, y, x) uint8, 255 = pixel fully covered
    scene: Scene
    pixel_size: float  # nm/pixel
    parameters: dict


def simulate_frame(config: LibraryConfig, seed: int | Sequence[int]) -> SimulatedFrame:
    """Simulate one frame of the library, from lattice to camera; same seed, same bytes."""
    rng = np.random.default_rng(seed)
    if config.recipe and rng.random() < config.recipe:
        config = replace(LibraryConfig.published(), shape=config.shape)
    spacing, pixel_size = np.exp(rng.uniform(*np.log(config.lattice.spacing))), config.pixel_size
    if pixel_size is None:
        diameter_px = np.exp(rng.uniform(*np.log(config.diameter_px)))
        pixel_size = spacing * np.mean(config.lattice.diameter_ratio) / diameter_px
    pixel_size = float(pixel_size)
    scene = random_scene(config.lattice, tuple(n * pixel_size for n in config.shape), rng, spacing)
    diameter = float(np.mean(scene.layers[0].diameters)) if len(scene.layers[0]) else spacing * EMPTY_RATIO
    if config.softened and rng.random() < config.softened:
        scene = replace(scene, soft=diameter * rng.uniform(*config.soft))
    energy, aperture = float(rng.choice(config.energies)), float(rng.choice(config.apertures))
    path = None if rng.random() < config.tabulated else float(rng.uniform(*config.mean_free_path))
    defocus, spherical = float(rng.uniform(*config.defocus)), float(rng.uniform(*config.spherical_aberration))
    lens = Lens(energy, aperture, defocus, spherical)
    liquid = _random_liquid(config, lens, spacing, diameter, scene.depth, pixel_size, rng)
    camera = _random_camera(config, liquid, pixel_size, rng)
    clean = clean_image(scene, pixel_size, None, lens, path, liquid.liquid_mean_free_path)
    frame = record(clean, pixel_size, liquid, camera, rng)
    masks = [particle_mask(scene, n + 1, pixel_size) for n in range(len(scene.layers))]
    parameters = truth_parameters(scene, pixel_size)
    parameters |= {"diameter_nm": diameter, "soft_nm": scene.soft, "energy_eV": energy, "aperture_mrad": aperture}
    parameters |= {"defocus_nm": defocus, "spherical_aberration_mm": spherical, "mean_free_path_nm": path}
    parameters |= {"liquid": liquid.parameters(), "camera": asdict(camera)}
    return SimulatedFrame(frame, np.rint(255 * np.stack(masks)).astype(np.uint8), scene, pixel_size, parameters)


def _random_liquid(config, lens, spacing, diameter, depth, pixel_size, rng) -> LiquidConfig:
    zero_loss, wedge = bool(rng.random() < config.zero_loss), rng.uniform(*config.wedge)
    liquid = replace(
        LiquidConfig() if config.elastic_loss else LiquidConfig.published(),
        lens=lens,
        zero_loss=zero_loss,
        water=max(rng.uniform(*config.water), depth / (1 - wedge / 2)),  # the particles are all in the liquid
        wedge=wedge,
        wedge_angle=rng.uniform(0, 360),
        beam=rng.uniform(*config.beam),
        shadow=rng.uniform(*config.shadow) if rng.random() < config.shadowed else 0.0,
        clouds=rng.uniform(*config.clouds) if rng.random() < config.clouded else 0.0,
        cloud_size=spacing * rng.uniform(*config.cloud_size),
        blur=diameter * rng.uniform(*config.blur),
        disk_blur=0.0,
    )
    if rng.random() >= config.disk_blurred:
        return liquid
    unit, radius = (diameter, config.disk_blur) if config.disk_radius is None else (pixel_size, config.disk_radius)
    return replace(liquid, disk_blur=unit * rng.uniform(*radius))


def _random_camera(config, liquid, pixel_size, rng) -> CameraConfig:
    # Small particles are filmed at high magnification, where a camera pixel receives few electrons at a given dose.
    dose = float(np.exp(rng.uniform(*np.log(config.dose))))
    electrons = dose * (10 * pixel_size) ** 2 * liquid.mean_transmission
    saturation, exposure = float(rng.choice(config.saturation)), float(np.exp(rng.uniform(*np.log(config.exposure))))
    gain = min(config.gain, exposure * saturation / electrons)
    noise, power = rng.uniform(*config.readout_noise), rng.uniform(*config.mtf_power)
    fine, finer, finest = CameraConfig.published().mtf
    return CameraConfig(
        dose=dose,
        mtf=(float(fine**power), float(finer**power), float(finest**power)),
        readout_noise=noise,
        gain=gain,
        offset=min(rng.uniform(*config.offset) * saturation + PEDESTAL * noise * gain, GREATEST_OFFSET * saturation),
        saturation=saturation,
        hot_pixels=rng.uniform(*config.hot_pixels),
        dead_pixels=rng.uniform(*config.dead_pixels),
        pixel_seed=int(rng.integers(2**31)),
    )


def make_library(
    path: str | PathLike[str],
    config: LibraryConfig | None = None,
    seed: int = 0,
    workers: int = 2,
    scheduler: str | None = None,
    progress: bool = True,
) -> zarr.Group:
    """Simulate a library into a Zarr store, in parallel; an interrupted run goes on where it stopped.

    The group that comes back is ``images.zarr`` in the folder ``path``, with arrays ``frame`` (n, y, x) uint16,
    ``mask`` (n, layer, y, x) uint8, ``pixel_size`` (n,) in nm, ``done`` (n,); ``truth/i.json`` beside it holds each
    image's parameters and particles. Image i is drawn from (seed, i), whatever the number of workers: local processes
    (Dask), or those of the Dask ``scheduler`` at an address, which see ``path``.
    """
    import dask
    from dask.distributed import Client, LocalCluster, as_completed

    config = LibraryConfig.full() if config is None else config
    group = _create_store(Path(path), config, seed)
    missing = np.flatnonzero(np.asarray(group["done"][:]) == 0).tolist()
    batches = [missing[i : i + IMAGES_PER_JOB] for i in range(0, len(missing), IMAGES_PER_JOB)]
    local = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": ":0", "processes": workers > 1}
    with (
        # Dask would have workers return every array's memory to the system at once, which halves their speed.
        dask.config.set({"distributed.nanny.pre-spawn-environ": WORKER_ENVIRONMENT}),
        contextlib.nullcontext(scheduler) if scheduler else LocalCluster(**local) as address,
        Client(address) as client,
        tqdm(total=len(missing), disable=not progress, desc="library", unit="image") as bar,
    ):
        jobs = [client.submit(_write_images, str(path), batch, config, seed, pure=False) for batch in batches]
        for job in as_completed(jobs):
            bar.update(job.result())
    return open_library(path)


def open_library(path: str | PathLike[str]) -> zarr.Group:
    """Open a finished library for reading; a ValueError says what is missing in the folder."""
    try:
        group = zarr.open_group(str(Path(path) / "images.zarr"), mode="r")
        done = np.asarray(group["done"][:])  # type: ignore[index]  # an array
    except (KeyError, OSError) as error:
        raise ValueError(f"{path} is not a moirelib library; make one with moirelib library --out {path}") from error
    if not done.all():
        raise ValueError(f"{path} holds {int(done.sum())} of {done.size} images; run moirelib library again to finish")
    return group


def _create_store(path: Path, config: LibraryConfig, seed: int):
    recipe = json.loads(json.dumps({"config": asdict(config), "seed": seed}))
    if (path / "images.zarr" / "done" / "zarr.json").exists():  # made last
        group = zarr.open_group(str(path / "images.zarr"), mode="r+")
        if dict(group.attrs) != recipe:
            raise ValueError(f"{path} was made with another configuration or seed; choose another folder")
        return group
    (path / "truth").mkdir(parents=True, exist_ok=True)
    group = zarr.open_group(str(path / "images.zarr"), mode="w")
    group.attrs.update(recipe)
    image, masks = tuple(config.shape), (config.lattice.layers, *config.shape)
    arrays = {
        "frame": (image, "uint16"),
        "mask": (masks, "uint8"),
        "pixel_size": ((), "float64"),
        "done": ((), "uint8"),
    }
    for name, (shape, dtype) in arrays.items():
        group.create_array(name, shape=(config.images, *shape), chunks=(1, *shape), dtype=dtype)
    return group


def _write_images(path, indices, config, seed) -> int:
    """Simulate and store some images; ``done`` is set last, so a killed run never counts half an image."""
    group, threads = zarr.open_group(str(Path(path) / "images.zarr"), mode="r+"), torch.get_num_threads()
    torch.set_num_threads(1)  # one process per core is faster than several threads in each
    try:
        for i in indices:
            image = simulate_frame(config, (seed, i))
            group["frame"][i], group["mask"][i], group["pixel_size"][i] = image.frame, image.masks, image.pixel_size
            particles = truth_table(image.scene, image.pixel_size).to_dict("list")
            truth = {"seed": [seed, i], **image.parameters, "particles": particles}
            text = json.dumps(finite(truth), allow_nan=False)
            (Path(path) / "truth" / f"{i}.json").write_text(text, encoding="utf-8")
            group["done"][i] = 1
    finally:
        torch.set_num_threads(threads)
    return len(indices)
