"""From a clean image to a raw frame: liquid, windows, uneven beam, dose and camera.

Explained in chapter 3, "Liquid".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.fft import irfft2, rfft2, rfftfreq
from scipy.ndimage import gaussian_filter, zoom
from scipy.special import j1

__all__ = ["CameraConfig", "LiquidConfig", "camera_mtf", "liquid_background", "record"]


@dataclass(frozen=True)
class LiquidConfig:
    """What lies around the particles, and the beam that lights it.

    Mean free paths are the values used by published simulations of liquid-phase TEM of Moiré lattices.
    """

    water: float = 250.0  # nm, thickness of the liquid
    windows: float = 100.0  # nm, both silicon nitride windows together
    water_mean_free_path: float = 185.0  # nm
    window_mean_free_path: float = 144.0  # nm
    beam: float = 0.2  # relative fall of the beam across the field
    shadow: float = 0.0  # depth of a shadow from one side, 0 to 1
    clouds: float = 0.05  # relative standard deviation of slow bright and dark clouds in the liquid
    cloud_size: float = 60.0  # nm, standard deviation of their Gaussian correlation
    blur: float = 1.0  # nm, Gaussian blur from energy loss in the liquid, drift and particle motion
    disk_blur: float = 0.0  # nm, radius of a disk blur (the published recipe's)

    @property
    def mean_transmission(self) -> float:
        """Fraction of electrons that pass liquid and windows."""
        return float(np.exp(-self.water / self.water_mean_free_path - self.windows / self.window_mean_free_path))


@dataclass(frozen=True)
class CameraConfig:
    """Dose and detector."""

    dose: float = 10.6  # electrons/Å² and frame on the specimen
    mtf: tuple[float, float, float] = (0.81, 0.62, 0.28)  # at 0.1, 0.2 and 0.5 cycles/pixel
    readout_noise: float = 20.0  # electrons, standard deviation
    gain: float = 1.0  # counts per electron
    offset: float = 100.0  # counts


def camera_mtf(frequency, values=(0.81, 0.62, 0.28)) -> np.ndarray:
    """Modulation transfer function of the camera.

    Parameters
    ----------
    frequency : array_like
        In cycles per pixel.
    values : tuple of float
        At 0.1, 0.2 and 0.5 cycles per pixel.

    Returns
    -------
    ndarray
        Monotone: straight lines in log MTF through (0, 1) and the three values, continued beyond 0.5.
    """
    f = np.asarray(frequency, dtype=float)
    known, log = np.array([0.0, 0.1, 0.2, 0.5]), np.log([1.0, *values])
    beyond = log[-1] + (log[-1] - log[-2]) / 0.3 * (f - 0.5)
    return np.exp(np.where(f > 0.5, beyond, np.interp(f, known, log)))


def liquid_background(shape, pixel_size: float, liquid: LiquidConfig, rng: np.random.Generator) -> np.ndarray:
    """Smooth intensity without particles: beam, shadow, clouds, and the loss in liquid and windows.

    Parameters
    ----------
    shape : tuple of int
        (y, x) in pixels.
    pixel_size : float
        In nm/pixel.
    liquid : LiquidConfig
        Parameters.
    rng : numpy.random.Generator
        Draws beam centre, shadow side and clouds.

    Returns
    -------
    ndarray, shape (y, x), float32
        Fraction of the incident electrons.
    """
    y, x = (np.linspace(-0.5, 0.5, n, dtype=np.float32) for n in shape)
    cy, cx = rng.uniform(-0.5, 0.5, 2)
    beam = np.exp(-liquid.beam * ((y[:, None] - cy) ** 2 + (x[None, :] - cx) ** 2))
    t = rng.uniform(0, 2 * np.pi)
    along = y[:, None] * np.sin(t) + x[None, :] * np.cos(t) - rng.uniform(-0.6, -0.2)
    shade = 1 - liquid.shadow / (1 + np.exp(along / rng.uniform(0.03, 0.15)))
    clouds = np.exp(liquid.clouds * _gaussian_field(shape, liquid.cloud_size / pixel_size, rng))
    return (liquid.mean_transmission * beam * shade * clouds).astype(np.float32)


def _gaussian_field(shape, sigma, rng) -> np.ndarray:
    """Gaussian random field of unit variance and correlation length ``sigma`` pixels, drawn on a coarse grid."""
    step = max(int(sigma / 4), 1)
    coarse = tuple(int(np.ceil(n / step)) + 2 for n in shape)
    margin = int(np.ceil(3 * sigma / step))
    noise = rng.standard_normal(tuple(n + 2 * margin for n in coarse))
    field = gaussian_filter(noise, sigma / step)[margin : margin + coarse[0], margin : margin + coarse[1]]
    field = field * (2 * np.sqrt(np.pi) * max(sigma / step, 0.28))
    return zoom(field, step, order=1)[: shape[0], : shape[1]] if step > 1 else field[: shape[0], : shape[1]]


def record(
    clean: np.ndarray,
    pixel_size: float,
    liquid: LiquidConfig,
    camera: CameraConfig,
    rng: np.random.Generator,
    background: np.ndarray | None = None,
) -> np.ndarray:
    """Record a raw camera frame of a clean image.

    Parameters
    ----------
    clean : ndarray, shape (y, x)
        Fraction of electrons that pass the particles.
    pixel_size : float
        In nm/pixel.
    liquid : LiquidConfig
        Liquid, windows and beam.
    camera : CameraConfig
        Dose and detector.
    rng : numpy.random.Generator
        Source of the background's shape and of all noise.
    background : ndarray, shape (y, x), optional
        A background from `liquid_background`, to keep it for the frames of a movie; a new one by default.

    Returns
    -------
    ndarray, shape (y, x), uint16
        Counts. Poisson noise comes before the camera's MTF, readout noise after it.

    Notes
    -----
    Explained in chapter 3, "Liquid".
    """
    background = liquid_background(clean.shape, pixel_size, liquid, rng) if background is None else background
    blurred = _filter(clean * background, lambda k: _optical_transfer(k / pixel_size, liquid))
    electrons = rng.poisson(np.clip(blurred, 0, None) * camera.dose * (10 * pixel_size) ** 2)
    detected = _filter(electrons, lambda k: camera_mtf(k, camera.mtf))
    detected += camera.readout_noise * rng.standard_normal(clean.shape)
    return np.clip(np.rint(camera.gain * detected + camera.offset), 0, 65535).astype(np.uint16)


def _optical_transfer(k, liquid) -> np.ndarray:
    """Transfer function of the Gaussian and the disk blur at spatial frequency k (1/nm)."""
    transfer = np.exp(-2 * (np.pi * liquid.blur * k) ** 2)
    if liquid.disk_blur > 0:
        u = np.maximum(2 * np.pi * liquid.disk_blur * k, 1e-9)
        transfer = transfer * 2 * j1(u) / u
    return transfer


def _filter(image, transfer, margin: int = 16) -> np.ndarray:
    """Apply a transfer function of the frequency in cycles/pixel; mirrored margins keep opposite edges apart."""
    padded = np.pad(image, margin, mode="reflect")
    k = np.hypot(np.fft.fftfreq(padded.shape[0])[:, None], rfftfreq(padded.shape[1])[None, :])
    filtered = irfft2(rfft2(padded) * transfer(k), s=padded.shape)
    return filtered[margin:-margin, margin:-margin]
