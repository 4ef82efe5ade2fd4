"""The camera: dose, counting noise, modulation transfer, readout noise, hot and dead pixels (chapter 3)."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy.fft import irfft2, next_fast_len, rfft2, rfftfreq

from .liquid import LiquidConfig, blur_reach, liquid_background, optical_transfer

FILTER_MARGIN = 16  # px that a frame is mirrored by before filtering: the camera's point spread is narrower


@dataclass(frozen=True)
class CameraConfig:
    """Dose and detector: the published recipe's, with hot and dead pixels of the real frame of chapter 3.

    By default counts are electrons on a pedestal that keeps five standard deviations of readout noise above zero.
    """

    dose: float = 10.6  # electrons/Å² and frame on the specimen
    mtf: tuple[float, float, float] = (0.81, 0.62, 0.28)  # at 0.1, 0.2 and 0.5 cycles/pixel
    readout_noise: float = 20.0  # electrons, standard deviation
    gain: float = 1.0  # counts per electron
    offset: float = 100.0  # counts
    saturation: float = 65535.0  # counts, the greatest that is stored
    hot_pixels: float = 1e-6  # fraction of the pixels
    hot_signal: float = 15.0  # electrons, mean of the exponential distribution of what a hot pixel adds
    dead_pixels: float = 1e-6  # fraction of the pixels, which see no electrons
    pixel_seed: int = 0  # of the positions of hot and dead pixels: the camera's, so they stay through a movie

    def __post_init__(self):
        for name in ("dose", "readout_noise", "hot_pixels", "dead_pixels"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} of a camera must be 0 or more, got {getattr(self, name)}")
        if not min(self.mtf) > 0:
            raise ValueError(f"an MTF is positive, got {self.mtf}")
        if self.hot_pixels > 1 or self.dead_pixels > 1:
            raise ValueError(f"hot and dead pixels are fractions, got {self.hot_pixels} and {self.dead_pixels}")
        if not 0 < self.saturation <= 65535:
            raise ValueError(f"saturation must fit into 16 bits, 1 to 65535 counts, got {self.saturation}")

    @classmethod
    def published(cls) -> "CameraConfig":
        """The published Moiré recipe: 10.6 e/Å² per frame, 20 to 40 e of readout noise (here 30), 10.7 counts per e."""
        return cls(readout_noise=30.0, gain=10.7)

    @classmethod
    def real_frame(cls) -> "CameraConfig":
        """Fitted to the real frame of chapter 3: seven electrons per pixel and hardly any readout noise."""
        return cls(dose=0.034, mtf=(0.81, 0.5, 0.25), readout_noise=0.1, gain=28.0, offset=20.0)


def camera_mtf(frequency: ArrayLike, values: tuple[float, float, float] = (0.81, 0.62, 0.28)) -> np.ndarray:
    """Modulation transfer function of the camera, in cycles/pixel; ``values`` are those at 0.1, 0.2 and 0.5.

    Monotone: straight lines in log MTF through (0, 1) and the three values, continued beyond 0.5.
    """
    f = np.asarray(frequency, dtype=float)
    known, log = np.array([0.0, 0.1, 0.2, 0.5]), np.log([1.0, *values])
    beyond = log[-1] + (log[-1] - log[-2]) / 0.3 * (f - 0.5)
    return np.exp(np.where(f > 0.5, beyond, np.interp(f, known, log)))


def record(
    clean: np.ndarray,
    pixel_size: float,
    liquid: LiquidConfig,
    camera: CameraConfig,
    rng: np.random.Generator,
    background: np.ndarray | None = None,
    brightness: float = 1.0,
) -> np.ndarray:
    """Record a raw camera frame of a clean image (fraction of electrons that pass): counts, uint16 of shape (y, x).

    Poisson noise comes before the camera's MTF, readout noise after it. A movie keeps its `liquid_background`; by
    default a new one is drawn. The brightness of the beam is relative to the dose (`brightness_flicker`).
    """
    background = liquid_background(clean.shape, pixel_size, liquid, rng) if background is None else background
    electrons = rng.poisson(expected_electrons(clean, pixel_size, liquid, camera, background, brightness))
    detected = _filter(electrons.astype(np.float32), lambda k: camera_mtf(k, camera.mtf))
    hot, signal, dead = _defective_pixels(clean.shape, camera)
    detected.flat[hot] += signal
    detected.flat[dead] = 0
    detected += camera.readout_noise * rng.standard_normal(clean.shape, dtype=np.float32)
    return np.clip(np.rint(camera.gain * detected + camera.offset), 0, camera.saturation).astype(np.uint16)


def expected_electrons(
    clean: np.ndarray,
    pixel_size: float,
    liquid: LiquidConfig,
    camera: CameraConfig,
    background: np.ndarray,
    brightness: float = 1.0,
) -> np.ndarray:
    """Mean number of electrons that reach each of the camera's pixels, (y, x); parameters as of `record`."""
    margin = int(min(blur_reach(liquid) / pixel_size, max(clean.shape))) + FILTER_MARGIN
    blurred = _filter(clean * background, lambda k: optical_transfer(k / pixel_size, liquid), margin)
    area = (10 * pixel_size) ** 2  # Å² per pixel
    return np.clip(blurred, 0, None) * (brightness * camera.dose * area)


@lru_cache(maxsize=8)
def _defective_pixels(shape, camera):
    """Flat indices of hot pixels, the electrons each adds to a frame, and flat indices of dead ones."""
    rng, pixels = np.random.default_rng(camera.pixel_seed), shape[0] * shape[1]
    hot = rng.permutation(pixels)[: rng.binomial(pixels, camera.hot_pixels)]
    dead = rng.permutation(pixels)[: rng.binomial(pixels, camera.dead_pixels)]
    return hot, rng.exponential(camera.hot_signal, hot.size), dead


def _filter(image, transfer, margin: int = FILTER_MARGIN) -> np.ndarray:
    """Apply a transfer function of the frequency in cycles/pixel; mirrored margins keep opposite edges apart."""
    sizes = [next_fast_len(n + 2 * margin, real=True) for n in image.shape]
    spare = [size - n for size, n in zip(sizes, image.shape, strict=True)]
    padded = np.pad(image, [(n // 2, n - n // 2) for n in spare], mode="reflect")
    k = np.hypot(np.fft.fftfreq(padded.shape[0])[:, None], rfftfreq(padded.shape[1])[None, :]).astype(np.float32)
    knots = np.linspace(0, 0.75, 1500)  # a transfer function is smooth: tabulate it once, up to the corner at 0.71
    table = np.interp(k, knots, transfer(knots)).astype(np.float32)
    filtered = irfft2(rfft2(padded) * table, s=padded.shape)
    return filtered[tuple(slice(n // 2, n // 2 + size) for n, size in zip(spare, image.shape, strict=True))]
