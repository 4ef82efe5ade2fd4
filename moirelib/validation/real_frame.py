"""Images with a known answer after a real frame: its simulated twin (chapter 3), and products of it (chapter 6)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.ndimage import gaussian_filter, map_coordinates

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


@dataclass(frozen=True)
class SemiRealMoire:
    """Two layers with a known answer, made of a real single-layer frame."""

    frame: np.ndarray  # (y, x) float32, the product times the real background
    transmissions: np.ndarray  # (2, y, x) float32, each layer alone
    origin: tuple[int, int]  # (y, x) in the source frame of this frame's first pixel
    twist_angle: float  # degrees, from layer 1 to layer 2
    pivot: tuple[float, float]  # (y, x) in this frame; layer 2 is layer 1's source turned about it

    def turn(self, points: ArrayLike) -> np.ndarray:
        """Where points (y, x) of the source, in this frame's pixels, lie in the turned layer."""
        t = np.radians(self.twist_angle)
        y, x = (np.asarray(points, float) - self.pivot).T
        return np.stack([y * np.cos(t) + x * np.sin(t), x * np.cos(t) - y * np.sin(t)], axis=1) + self.pivot


def semi_real_moire(
    frame: np.ndarray,
    diameter: float,
    twist_angle: float = 15.0,
    size: int | None = None,
    center: Sequence[int] | None = None,
) -> SemiRealMoire:
    """Multiply a real single-layer frame without offset with its turned copy: known layers, real background and noise.

    The copy is smoothed over a sixth of a diameter (pixels), so that the product keeps the noise of one exposure. The
    edge of the result, in pixels, is by default the largest that every twist fills; its middle the frame's.
    """
    frame = np.asarray(frame, dtype=np.float32)
    center = tuple(n // 2 for n in frame.shape) if center is None else tuple(int(c) for c in center)
    room = min(min(c, n - 1 - c) for c, n in zip(center, frame.shape, strict=True))
    size = int(np.sqrt(2) * room) if size is None else int(size)
    if size / 2 * np.sqrt(2) > room + 1 or size < 8:
        most = int(2**0.5 * room)
        raise ValueError(f"a turned square of {size} pixels about {center} leaves the frame; at most {most}")
    background = gaussian_filter(frame, 2.5 * diameter)
    transmission = frame / background
    origin = center[0] - size // 2, center[1] - size // 2
    window = tuple(slice(o, o + size) for o in origin)
    t, pivot = np.radians(twist_angle), (float(size // 2),) * 2
    y, x = np.indices((size, size)) - pivot[0]
    back = [y * np.cos(t) - x * np.sin(t) + center[0], x * np.cos(t) + y * np.sin(t) + center[1]]
    turned = map_coordinates(gaussian_filter(transmission, diameter / 6), back, order=1, mode="nearest")
    layers = np.stack([transmission[window], turned])
    return SemiRealMoire(layers.prod(axis=0) * background[window], layers, origin, float(twist_angle), pivot)
