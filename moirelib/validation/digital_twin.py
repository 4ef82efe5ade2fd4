"""A simulated twin of the real frame: same pixels, spacing, noise and contrast, other random numbers (chapter 3)."""

from dataclasses import replace

import numpy as np

from ..simulation.camera import CameraConfig, record
from ..simulation.defects import direction_along
from ..simulation.liquid import LiquidConfig
from ..simulation.optics import clean_image
from ..simulation.random_scenes import LatticeConfig, fix, random_scene
from ..simulation.scene import Scene

REAL_PIXEL_SIZE = 2.5928  # nm/pixel of the real frame, by its TIFF tag
REAL_SPACING = 119.6  # nm between nearest neighbours of its lattice, measured in chapter 6


def real_frame_lattice() -> LatticeConfig:
    """Lattice of the twin: one layer of columns of prisms, all turned alike, with an edge in the field."""
    ranges = fix(spacing=REAL_SPACING, diameter_ratio=0.5, rounding=0.03, position_std=0.04, strain=0.05)
    ranges |= fix(diameter_std=0.04, vacancies=0.0, interstitials=0.0)
    chances: dict = {"aligned": 1.0, "dislocations": 0.0, "single_layer": 1.0, "edge": 1.0, "boundary": 0.0}
    return LatticeConfig(**ranges, **chances, shapes=("prism",), height=80.0)


def leaning_columns(scene: Scene, lean: float, particles: int = 3) -> Scene:
    """Replace every prism or rod of a scene's only layer by a column of thinner ones, a layer each, that leans.

    ``lean``, in nm along a row, is the distance of a column's upper from its lower end; its middle and height stay.
    """
    base, height = scene.layers[0], scene.height / particles
    row, _ = direction_along(base.angle)
    step, steps = lean / max(particles - 1, 1) * row, np.arange(particles) - (particles - 1) / 2
    at = [(base.positions + i * step, base.z + i * height) for i in steps.tolist()]
    return replace(scene, layers=tuple(replace(base, positions=p, z=z) for p, z in at), height=height)


def real_frame_twin(
    seed: int = 60,
    size: int = 1024,
    lattice: LatticeConfig | None = None,
    liquid: LiquidConfig | None = None,
    lean: float = 48.0,
    mean_free_path: float = 40.0,
) -> tuple[np.ndarray, Scene]:
    """Simulate a twin of the real frame: counts (size, size) uint16, on its scale less 32768, and its true scene.

    The scene holds the middle of every column in layer 1. Pixels are 2.593 nm. Lattice and liquid are by default
    `real_frame_lattice` and ``LiquidConfig.real_frame()``. Columns lean by nm; their mean free path is fitted to the
    contrast.
    """
    rng = np.random.default_rng(seed)
    lattice, liquid = lattice or real_frame_lattice(), liquid or LiquidConfig.real_frame()
    scene = random_scene(lattice, (size * REAL_PIXEL_SIZE,) * 2, rng)
    columns = leaning_columns(scene, lean) if lean > 0 else scene
    # Particles of 23 pixels need no finer sampling of the wave than the camera's.
    clean = clean_image(columns, REAL_PIXEL_SIZE, mean_free_path=mean_free_path, oversampling=1)
    return record(clean, REAL_PIXEL_SIZE, liquid, CameraConfig.real_frame(), rng), scene
