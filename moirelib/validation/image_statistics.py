"""A frame's noise, background and contrast in numbers, to compare simulated with real frames (chapter 3).

Images (y, x) are in counts; ``spacing`` is the distance of nearest neighbours, in pixels.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.ndimage import gaussian_filter
from skimage.feature import peak_local_max
from skimage.util import view_as_blocks

SPECTRUM_RINGS = 18  # in Fourier space, over which a spectrum is averaged


def noise_autocorrelation(image: ArrayLike, lags: Sequence[int] = (1, 2, 3), smoothing: float = 5.0) -> np.ndarray:
    """Autocorrelation of the noise of one frame at some lags in pixels, mean over both axes; 1 is perfect correlation.

    Noise is what a Gaussian average (``smoothing`` pixels) leaves; white noise gives -0.01, as the average contains it.
    """
    image = np.asarray(image, dtype=float)
    noise = image - gaussian_filter(image, smoothing)
    noise -= noise.mean()
    pairs = [0.5 * (np.mean(noise[n:] * noise[:-n]) + np.mean(noise[:, n:] * noise[:, :-n])) for n in lags]
    return np.array(pairs) / np.mean(noise**2)


def noise_spectra(image: ArrayLike, tile: int = 32) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean counts (n,) of every square tile of a frame, frequencies, and power spectrum (n, tile, tile) of its noise.

    At frequencies that the specimen does not reach, electron counting gives gain · MTF² · (mean - offset). Frequencies
    (tile, tile) are in cycles per pixel, the power in counts² per pixel: that of white noise is its variance.
    """
    image = np.asarray(image, dtype=float)
    whole = image[: image.shape[0] // tile * tile, : image.shape[1] // tile * tile]
    tiles = view_as_blocks(whole, (tile, tile)).reshape(-1, tile * tile)
    y, x = np.mgrid[-1 : 1 : tile * 1j, -1 : 1 : tile * 1j]
    surface = np.stack([np.ones_like(y), y, x, y * x, y * y, x * x]).reshape(6, -1).T
    noise = (tiles - tiles @ np.linalg.pinv(surface).T @ surface.T).reshape(-1, tile, tile)
    window = np.outer(np.hanning(tile), np.hanning(tile))
    power, k = np.abs(np.fft.fft2(noise * window)) ** 2 / np.sum(window**2), np.fft.fftfreq(tile)
    return tiles.mean(axis=1), np.hypot(k[:, None], k[None, :]), power


def background_spectrum(image: ArrayLike, pixel_size: float) -> tuple[np.ndarray, np.ndarray]:
    """Power spectrum of everything in a frame but its lattice, in rings of equal width in log frequency, by nm/pixel.

    A lattice does not change a ring's *median*, which is ln 2 of the mean power of a random field; the result is
    divided by that. Rings of fewer than ten samples are left out. Frequencies (n,) in 1/nm are geometric means; the
    power (n,), in nm², is that of the relative intensity: its integral is the variance of image / mean.
    """
    image = np.asarray(image, dtype=float)
    window = np.outer(*(np.hanning(n) for n in image.shape))
    relative = image / np.sum(image * window) * window.sum() - 1
    power = np.abs(np.fft.rfft2(relative * window)) ** 2 / np.sum(window**2) * pixel_size**2
    k = np.hypot(np.fft.fftfreq(image.shape[0], pixel_size)[:, None], np.fft.rfftfreq(image.shape[1], pixel_size))
    # The window mixes each frequency with its two neighbours, and the lowest with the mean that was subtracted.
    edges = np.geomspace(1.6 / (min(image.shape) * pixel_size), 0.5 / pixel_size, SPECTRUM_RINGS + 1)
    rings = np.digitize(k, edges) == np.arange(1, SPECTRUM_RINGS + 1)[:, None, None]
    members = rings[np.count_nonzero(rings, axis=(1, 2)) >= 10]
    frequency = [np.exp(np.log(k[m]).mean()) for m in members]
    return np.array(frequency), np.array([np.median(power[m]) for m in members]) / np.log(2)


def average_particle(image: ArrayLike, spacing: float) -> tuple[np.ndarray, int]:
    """Mean image of a dark particle and its surroundings, and the number of particles.

    The image is (2 n + 1, 2 n + 1), where n is the spacing rounded to pixels, over the mean brightness around.
    Particles are the dark spots at least 0.6 spacings apart and a spacing from the border.
    """
    image, n = np.asarray(image, dtype=float), round(spacing)
    smooth = gaussian_filter(image, 0.1 * spacing) - gaussian_filter(image, 0.5 * spacing)
    found = peak_local_max(-smooth, min_distance=int(0.6 * spacing), exclude_border=n)
    if len(found) == 0:
        raise ValueError(f"no dark spots {spacing:.0f} pixels apart in an image of {image.shape}")
    relative = image / gaussian_filter(image, spacing)
    return np.mean([relative[y - n : y + n + 1, x - n : x + n + 1] for y, x in found], axis=0), len(found)


def particle_contrast(image: ArrayLike, spacing: float) -> float:
    """How much darker particles are than the liquid between them: 1 - I(particle) / I(between).

    Means of the `average_particle` within 0.1 spacings of its centre and in the ring from 0.45 to 0.55 spacings.
    """
    particle, _ = average_particle(image, spacing)
    n = particle.shape[0] // 2
    r = np.hypot(*np.mgrid[-n : n + 1, -n : n + 1]) / spacing
    return float(1 - particle[r < 0.1].mean() / particle[np.abs(r - 0.5) < 0.05].mean())


def frame_statistics(image: ArrayLike, spacing: float, region: tuple[slice, slice] = np.s_[:, :]) -> dict[str, float]:
    """Mean, quantiles, noise of a frame, and the contrast in a ``region`` (slices) that particles fill."""
    image = np.asarray(image, dtype=float)
    quantiles = (1, 5, 25, 50, 75, 95, 99)
    return {
        "mean": float(image.mean()),
        "standard deviation": float(image.std()),
        **{f"quantile {q} %": float(v) for q, v in zip(quantiles, np.percentile(image, quantiles), strict=True)},
        **{f"autocorrelation {n}": float(v) for n, v in enumerate(noise_autocorrelation(image), start=1)},
        "particle contrast": particle_contrast(image[region], spacing),
    }
