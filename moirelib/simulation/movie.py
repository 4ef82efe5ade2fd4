"""Simulated movies with their truth: tracks, vibrations, drift, growth (chapter 4)."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path

import numpy as np
import pandas as pd

from .camera import CameraConfig, record
from .growth import growth_schedule
from .liquid import LiquidConfig, brightness_flicker, liquid_background
from .optics import Lens, Transmission, clean_image, table_for
from .random_scenes import LatticeConfig, fix, random_scene
from .scene import Scene, finite, truth_parameters, truth_table
from .thermal_motion import thermal_displacements


@dataclass(frozen=True)
class MovieConfig:
    """What moves in a simulated movie, and how."""

    frames: int = 20
    frame_time: float = 0.5  # s
    vibration: float = 0.0  # nm, one-sigma displacement along each axis, independent for every particle and frame
    spring_constant: float | None = None  # kT/nm², of the bonds of an elastic lattice; adds its phonons
    site_stiffness: float | None = None  # kT/nm², of a weak spring to every site; 0.02 spring constants by default
    correlation_time: float = 0.0  # frames, of elastic vibrations; 0 draws each frame anew
    drift: tuple[float, float] = (0.0, 0.0)  # nm per frame (y, x)
    drift_walk: float = 0.0  # nm, one-sigma step of a random walk added to the drift, along each axis
    jumps: tuple[tuple[int, float, float], ...] = ()  # before which frame the stage jumps, and how far (y, x), nm
    rotation: float = 0.0  # degrees per frame about the field's centre, from x towards y
    growth: tuple[tuple[float, float], ...] | None = None  # per layer, fraction there in the first and last frame
    detachment: float = 0.0  # probability per frame that a particle at a layer's rim leaves again
    flicker: float = 0.0  # relative standard deviation of the beam's brightness

    def __post_init__(self):
        if int(self.frames) != self.frames or self.frames < 1:
            raise ValueError(f"a movie needs a whole number of frames, at least 1, got {self.frames}")
        for name in ("vibration", "drift_walk", "flicker", "correlation_time"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} of a movie must be 0 or more, got {getattr(self, name)}")
        if not all(0 < frame < self.frames for frame, *_ in self.jumps):
            raise ValueError(f"jumps of this movie lie before frames 1 to {self.frames - 1}, got {self.jumps}")
        if not 0 <= self.detachment <= 1:
            raise ValueError(f"detachment is a probability, got {self.detachment}")


@dataclass(frozen=True)
class SimulatedMovie:
    """A movie and everything that is true about it."""

    frames: np.ndarray  # (t, y, x) uint16, counts
    pixel_size: float  # nm/pixel
    frame_time: float  # s
    truth: pd.DataFrame  # `truth_table` of every frame; ``particle`` names one particle throughout
    sites: pd.DataFrame  # particle, layer, y_nm, x_nm: where each rests, in the specimen at the first frame
    events: pd.DataFrame  # frame, layer, particle, event (attach or detach), y_nm, x_nm
    drift: np.ndarray  # (t, 2) nm, (y, x) of the specimen since the first frame
    rotation: np.ndarray  # (t,) degrees, of the specimen since the first frame
    brightness: np.ndarray  # (t,) of the beam, 1 on average
    parameters: dict  # seed, movie, liquid, camera, lens, lattices and planted defects (in nm, as in the truth)

    def save(self, folder: str | PathLike[str], name: str) -> None:
        """Write ``name.tif`` with its calibration, ``name_truth.csv, name_sites.csv, name_events.csv, name.json``."""
        import tifffile

        metadata, resolution = {"axes": "TYX", "unit": "nm", "finterval": self.frame_time}, (1 / self.pixel_size,) * 2
        file = Path(folder) / f"{name}.tif"
        tifffile.imwrite(file, self.frames, imagej=True, resolution=resolution, metadata=metadata)
        for table, kind in ((self.truth, "truth"), (self.sites, "sites"), (self.events, "events")):
            table.to_csv(Path(folder) / f"{name}_{kind}.csv", index=False, float_format="%.4f", lineterminator="\n")
        motion = {"drift_nm": self.drift, "rotation_deg": self.rotation, "brightness": self.brightness}
        motion = {key: np.round(values, 6).tolist() for key, values in motion.items()}
        text = json.dumps(finite({**self.parameters, **motion}), allow_nan=False, indent=1)
        (Path(folder) / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def scene_with_margin(
    config: LatticeConfig, field: Sequence[float], rng: np.random.Generator, margin: float, spacing: float | None = None
) -> Scene:
    """Draw a scene whose lattices reach beyond the field by a margin (nm), so that drift brings new particles in.

    The scene's field is ``field``; positions outside it are negative or larger. Planted defects move along.
    """
    large = random_scene(config, tuple(f + 2 * margin for f in field), rng, spacing)
    layers = tuple(layer.shift((-margin, -margin)) for layer in large.layers)
    return replace(large, layers=layers, field=(float(field[0]), float(field[1])))


def simulate_movie(
    scene: Scene,
    pixel_size: float,
    config: MovieConfig,
    seed: int | Sequence[int],
    liquid: LiquidConfig | None = None,
    camera: CameraConfig | None = None,
    mean_free_path: float | None = None,
    transmission: Transmission | None = None,
) -> SimulatedMovie:
    """Film a scene whose particles vibrate, drift, rotate, attach and detach.

    The scene holds where every particle rests (`scene_with_margin` for one that may drift). An elastic layer that grows
    vibrates as the complete layer would. The background stays as it is. Liquid, with the lens, and camera are by
    default those of their classes; mean free path (nm) and transmission as for `clean_image`.
    """
    rng = np.random.default_rng(seed)
    liquid, camera = liquid or LiquidConfig(), camera or CameraConfig()
    table, liquid_path = table_for(liquid.lens, transmission), _liquid_path(scene, liquid)
    present, sites, events = _schedule_growth(scene, config, pixel_size, rng)
    displacements = [_displacements(layer, config, rng) for layer in scene.layers]
    steps = np.asarray(config.drift) + config.drift_walk * rng.standard_normal((config.frames, 2))
    for frame, *jump in config.jumps:
        steps[frame] += jump
    drift = np.concatenate([np.zeros((1, 2)), np.cumsum(steps[1:], axis=0)])
    rotation = config.rotation * np.arange(config.frames)
    brightness = brightness_flicker(config.frames, config.flicker, rng=rng)
    shape = round(scene.field[0] / pixel_size), round(scene.field[1] / pixel_size)
    background = liquid_background(shape, pixel_size, liquid, rng)
    frames, truth = np.empty((config.frames, *shape), np.uint16), []
    for t in range(config.frames):
        now = _move(scene, [d[t] for d in displacements], drift[t], rotation[t], [p[t] for p in present])
        clean = clean_image(now, pixel_size, table, liquid.lens, mean_free_path, liquid_path)
        frames[t] = record(clean, pixel_size, liquid, camera, rng, background, brightness[t])
        truth.append(truth_table(now, pixel_size, t))
    tables = pd.concat(truth, ignore_index=True), sites, events
    lens = liquid.lens
    optics: dict = {"defocus": lens.defocus, "mean_free_path": mean_free_path, "liquid_mean_free_path": liquid_path}
    optics |= {"spherical_aberration": lens.spherical_aberration, "focal_spread": lens.focal_spread}
    parameters = {"seed": seed, **truth_parameters(scene, pixel_size), "movie": asdict(config)}
    parameters |= {"liquid": liquid.parameters(), "camera": asdict(camera), "optics": optics}
    motion = drift, rotation, brightness
    return SimulatedMovie(frames, float(pixel_size), config.frame_time, *tables, *motion, parameters)


def _liquid_path(scene, liquid) -> float | None:
    """Mean free path of the liquid that particles displace; None in vacuum."""
    if liquid.water == 0:
        return None
    if scene.depth > liquid.water * (1 - abs(liquid.wedge) / 2):
        raise ValueError(
            f"particles of {scene.depth:.0f} nm along the beam do not fit into {liquid.water:.0f} nm of water with a "
            f"wedge of {liquid.wedge:g}; make the water thicker"
        )
    return liquid.liquid_mean_free_path


def _schedule_growth(scene, config, pixel_size, rng):
    """Which particles each frame has, by layer; tables of sites and events, from the middle of the first pixel."""
    growth = config.growth or ((1.0, 1.0),) * len(scene.layers)
    if len(growth) != len(scene.layers):
        raise ValueError(f"growth needs one (start, end) per layer: {len(scene.layers)}, got {len(growth)}")
    there, sites, events = [], [], []
    for number, (layer, (start, end)) in enumerate(zip(scene.layers, growth, strict=True), start=1):
        layer = layer.shift((-0.5 * pixel_size, -0.5 * pixel_size))
        y, x = layer.positions.T
        sites.append(pd.DataFrame({"particle": layer.ids, "layer": number, "y_nm": y, "x_nm": x}))
        present, changes = growth_schedule(layer, config.frames, rng, start, end, config.detachment)
        there.append(present)
        events.append(changes.assign(layer=number)[["frame", "layer", *changes.columns[1:]]])
    ordered = pd.concat(events).sort_values(["frame", "layer"], kind="stable", ignore_index=True)
    return there, pd.concat(sites, ignore_index=True), ordered


def _displacements(layer, c, rng) -> np.ndarray:
    """Of every particle from its site, (frames, n, 2) in nm, by the configuration c."""
    moved = c.vibration * rng.standard_normal((c.frames, len(layer), 2))
    if c.spring_constant is not None and len(layer):
        at, spacing, springs = layer.positions, layer.spacing, (c.site_stiffness, c.correlation_time)
        moved += thermal_displacements(at, spacing, c.spring_constant, c.frames, rng, *springs)
    return moved


def _move(scene, displacements, drift, rotation, present) -> Scene:
    """The scene in one frame: displaced, turned about the field's centre, drifted, without absent particles."""
    t, center = np.radians(rotation), np.asarray(scene.field) / 2
    turn = np.array([[np.cos(t), np.sin(t)], [-np.sin(t), np.cos(t)]])  # of (y, x) from x towards y
    layers = []
    for layer, displacement, there in zip(scene.layers, displacements, present, strict=True):
        at = (layer.positions + displacement - center) @ turn.T + center + drift
        turned = replace(layer, positions=at, rotations=layer.rotations + rotation, angle=layer.angle + rotation)
        layers.append(turned.select(there))
    return replace(scene, layers=tuple(layers))


def make_sample(folder: str | PathLike[str], seed: int = 2028) -> SimulatedMovie:
    """Remake the shipped sample in a folder: a short simulated movie of two twisted layers, and its truth.

    Gold spheres of 30 nm, 39 nm apart, twisted by 9°, at 10.6 e/Å² per frame. Both layers are elastic; the island that
    is layer 2 grows while the specimen drifts and turns a little. No library is drawn from this seed.
    """
    rng, pixel_size = np.random.default_rng((seed, 1)), 1.367
    ranges = fix(diameter_ratio=0.77, twist_angle=9.0, position_std=0.01, strain=0.01, vacancies=0.03)
    lattice = LatticeConfig.plain(**ranges, shapes=("sphere",), island=1.0)
    scene = scene_with_margin(lattice, (384 * pixel_size,) * 2, rng, 40.0, spacing=39.0)
    motion: dict = {"drift": (0.9, -0.6), "drift_walk": 0.2, "rotation": 0.02, "flicker": 0.01}
    config = MovieConfig(8, spring_constant=2.5, correlation_time=0.3, growth=((1.0, 1.0), (0.9, 1.0)), **motion)
    liquid = LiquidConfig(blur=2.0, clouds=0.08, lens=Lens(defocus=200.0))
    movie = simulate_movie(scene, pixel_size, config, (seed, 2), liquid, mean_free_path=45.0)
    movie.save(folder, "sample")
    return movie
