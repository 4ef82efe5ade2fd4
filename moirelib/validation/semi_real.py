"""A Moiré image with known layers, made of a real single-layer frame (chapter 6)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.ndimage import gaussian_filter, map_coordinates


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
