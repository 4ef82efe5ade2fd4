"""From atoms to electron waves: multislice of one nanoparticle, reused to image whole lattices.

Explained in chapter 2, "Multislice".
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase.units import _c, _e, _hplanck, _me
from scipy.fft import fft2, fftfreq, ifft2

from .lattice import Scene, gold_particle

__all__ = [
    "Transmission",
    "clean_image",
    "electron_wavelength",
    "fresnel_propagate",
    "layer_thickness",
    "particle_exit_wave",
    "particle_mask",
    "transmission_table",
]


def electron_wavelength(energy: float) -> float:
    """Relativistic electron wavelength.

    Parameters
    ----------
    energy : float
        In eV.

    Returns
    -------
    float
        In nm (2.508e-3 at 200 keV).

    References
    ----------
    Kirkland, Advanced Computing in Electron Microscopy, eq. 2.5. Explained in chapter 2.
    """
    momentum_squared = 2 * _me * _e * energy * (1 + _e * energy / (2 * _me * _c**2))
    return float(_hplanck / np.sqrt(momentum_squared) * 1e9)


def particle_exit_wave(atoms, energy: float = 200e3, aperture: float = 10.0, sampling: float = 0.1):
    """Full-atom multislice of one particle behind an objective aperture (abTEM).

    Parameters
    ----------
    atoms : ase.Atoms
        One particle in its cell, in Å.
    energy : float
        In eV.
    aperture : float
        Objective aperture's semi-angle, in mrad.
    sampling : float
        Of the wave, in Å (abTEM's unit).

    Returns
    -------
    ndarray, shape (y, x), complex64
        Exit wave normalised to an incident amplitude of 1.

    References
    ----------
    Madsen & Susi, Open Res. Europe 1, 24 (2021). Explained in chapter 2, "Multislice".
    """
    import abtem

    potential = abtem.Potential(atoms, sampling=sampling, slice_thickness=2.0, parametrization="lobato")
    wave = abtem.PlaneWave(energy=energy).multislice(potential)
    wave = wave.apply_ctf(abtem.CTF(energy=energy, semiangle_cutoff=aperture, soft=False))
    return np.asarray(wave.compute(progress_bar=False).array).T  # abTEM indexes (x, y)


@dataclass(frozen=True)
class Transmission:
    """Complex transmission of a material against its thickness along the beam.

    Parameters
    ----------
    thickness : ndarray, shape (n,)
        In nm, from 0.
    amplitude : ndarray, shape (n,)
        Square root of the intensity that passes the objective aperture.
    phase : ndarray, shape (n,)
        In radians.
    intensity_std : ndarray, shape (n,)
        Spread of the intensity over crystal orientations.
    energy : float
        In eV.
    aperture : float
        In mrad.
    """

    thickness: np.ndarray
    amplitude: np.ndarray
    phase: np.ndarray
    intensity_std: np.ndarray
    energy: float
    aperture: float

    @property
    def mean_free_path(self) -> float:
        """Λ in nm of the best exponential exp(-t/Λ) through the intensity."""
        t, intensity = self.thickness[1:], self.amplitude[1:] ** 2
        return float(-np.sum(t * t) / np.sum(t * np.log(intensity)))

    @property
    def phase_per_nm(self) -> float:
        """Phase gained per nm of material, in radians (least squares through the origin)."""
        return float(np.sum(self.thickness * self.phase) / np.sum(self.thickness**2))

    def __call__(self, thickness, mean_free_path: float | None = None):
        """Intensity and phase at a thickness in nm; beyond the table both laws go on as fitted.

        ``mean_free_path`` (nm) replaces the table's elastic loss, for materials and apertures quoted that way.
        """
        t = np.asarray(thickness, dtype=float)
        if mean_free_path is None:
            last = self.thickness[-1]
            table = np.interp(t, self.thickness, self.amplitude**2)
            intensity = table * np.exp(-np.clip(t - last, 0, None) / self.mean_free_path)
        else:
            intensity = np.exp(-t / mean_free_path)
        return intensity, self.phase_per_nm * t

    def save(self, path) -> None:
        """Write the table as ``.npz``."""
        np.savez_compressed(path, **self.__dict__)

    @classmethod
    def load(cls, path=None) -> Transmission:
        """Read a table; the shipped one for gold when no path is given."""
        if path is None:
            from .data import path as data_path

            path = data_path("gold_transmission.npz")
        with np.load(Path(path)) as f:
            values = {k: f[k] for k in f.files}
        return cls(**{k: v if v.ndim else float(v) for k, v in values.items()})


def transmission_table(
    diameter: float = 6.0, orientations: int = 8, seed: int = 0, energy: float = 200e3, aperture: float = 10.0
) -> Transmission:
    """Tabulate gold's transmission against thickness from full-atom multislice of spherical particles.

    Every pixel of a sphere's exit wave has a known thickness of gold above it, so one sphere holds all thicknesses up
    to its diameter; orientations are averaged.

    Parameters
    ----------
    diameter : float
        In nm; also the table's greatest thickness.
    orientations : int
        Number of random crystal orientations.
    seed : int
        Seed of the orientations.
    energy : float
        In eV.
    aperture : float
        In mrad.

    Returns
    -------
    Transmission
        In steps of about a quarter nanometre.

    Notes
    -----
    Explained in chapter 2, "Multislice". Made by ``moirelib transmission``.
    """
    rng = np.random.default_rng(seed)
    edges = np.linspace(0, diameter, int(4 * diameter) + 1)
    intensity, phase = [], []
    for _ in range(orientations):
        wave = particle_exit_wave(gold_particle(diameter, rng), energy, aperture)
        thickness = _sphere_thickness(wave.shape, diameter, (diameter + 2.0) / wave.shape[0])
        bins = np.digitize(thickness[thickness > 0], edges[1:-1])
        count = np.bincount(bins, minlength=edges.size - 1)
        inside = wave[thickness > 0] / wave[thickness == 0].mean()
        intensity.append(np.bincount(bins, np.abs(inside) ** 2, edges.size - 1) / count)
        mean = np.bincount(bins, inside.real, edges.size - 1) + 1j * np.bincount(bins, inside.imag, edges.size - 1)
        phase.append(np.unwrap(np.angle(mean)))
    centers = np.r_[0, 0.5 * (edges[1:] + edges[:-1])]
    intensity = np.asarray(intensity)
    return Transmission(
        thickness=centers,
        amplitude=np.r_[1, np.sqrt(intensity.mean(axis=0))],
        phase=np.r_[0, np.mean(phase, axis=0)],
        intensity_std=np.r_[0, intensity.std(axis=0)],
        energy=float(energy),
        aperture=float(aperture),
    )


def _sphere_thickness(shape, diameter, pixel_size) -> np.ndarray:
    """Thickness in nm of a sphere centred in a cell whose corner is the first sample."""
    y, x = (pixel_size * (np.arange(n) - n / 2) for n in shape)
    return 2 * np.sqrt(np.clip((diameter / 2) ** 2 - y[:, None] ** 2 - x[None, :] ** 2, 0, None))


def layer_thickness(scene: Scene, layer: int, pixel_size: float, oversampling: int = 3) -> np.ndarray:
    """Thickness of one layer along the beam on a fine grid.

    Parameters
    ----------
    scene : Scene
        The scene.
    layer : int
        Layer number, from 1.
    pixel_size : float
        In nm/pixel.
    oversampling : int
        Fine samples per pixel and axis.

    Returns
    -------
    ndarray, shape (oversampling · height, oversampling · width)
        In nm.
    """
    fine = pixel_size / oversampling
    shape = tuple(round(f / pixel_size) * oversampling for f in scene.field)
    out = np.zeros(shape, dtype=np.float32)
    for (y, x), d in zip(scene.layers[layer - 1].positions, scene.layers[layer - 1].diameters, strict=True):
        window, r2 = _particle_window(y, x, d, fine, shape)
        if scene.shape == "sphere":
            t = d * np.sqrt(np.clip(1 - r2, 0, None))
        else:  # a rod with rounded rims: the eighth power keeps the top flat to within a tenth of the radius
            t = scene.height * np.sqrt(np.clip(1 - r2**4, 0, None))
        np.maximum(out[window], t, out=out[window])
    return out


def particle_mask(scene: Scene, layer: int, pixel_size: float, oversampling: int = 3) -> np.ndarray:
    """Fraction of each pixel covered by one layer's particles, float32 of shape (y, x); parameters as above."""
    fine = layer_thickness(scene, layer, pixel_size, oversampling) > 0
    return _block_mean(fine.astype(np.float32), oversampling)


def _particle_window(y, x, diameter, fine, shape):
    """Slices around a particle and the squared distance from its centre over its squared radius."""
    radius = diameter / 2
    slices, squares = [], []
    for c, n in zip((y, x), shape, strict=True):
        low, high = max(int((c - radius) / fine) - 1, 0), min(int((c + radius) / fine) + 2, n)
        slices.append(slice(low, max(high, low)))
        squares.append((((np.arange(low, max(high, low)) + 0.5) * fine - c) / radius) ** 2)
    return tuple(slices), squares[0][:, None] + squares[1][None, :]


def _block_mean(image, n) -> np.ndarray:
    h, w = image.shape
    return image.reshape(h // n, n, w // n, n).mean(axis=(1, 3))


def fresnel_propagate(wave: np.ndarray, distance: float, pixel_size: float, wavelength: float) -> np.ndarray:
    """Free-space propagation in the Fresnel approximation.

    Parameters
    ----------
    wave : ndarray, shape (y, x)
        Complex wave.
    distance : float
        In nm, along the beam.
    pixel_size : float
        In nm/pixel.
    wavelength : float
        In nm.

    Returns
    -------
    ndarray, shape (y, x)
        exp(-iπλz k²) applied in Fourier space; intensity is conserved.
    """
    if distance == 0:
        return wave
    ky, kx = (fftfreq(n, pixel_size).astype(np.float32) for n in wave.shape)
    k2 = ky[:, None] ** 2 + kx[None, :] ** 2
    return ifft2(fft2(wave) * np.exp(-1j * np.float32(np.pi * wavelength * distance) * k2))


def clean_image(
    scene: Scene,
    pixel_size: float,
    transmission: Transmission | None = None,
    defocus: float = 0.0,
    mean_free_path: float | None = None,
) -> np.ndarray:
    """Image of a scene in vacuum, without noise: fraction of the incident electrons per pixel.

    Each layer multiplies the wave by its transmission, the wave travels on to the next layer, and the objective lens
    adds its defocus.

    Parameters
    ----------
    scene : Scene
        The scene.
    pixel_size : float
        In nm/pixel.
    transmission : Transmission, optional
        Gold's shipped table by default.
    defocus : float
        In nm; positive is underfocus.
    mean_free_path : float, optional
        Replaces the table's elastic loss, in nm.

    Returns
    -------
    ndarray, shape (y, x), float32
        1 where nothing is in the way.

    Notes
    -----
    Within a pixel intensities are averaged (the camera adds electrons, not amplitudes). Explained in chapter 2.
    """
    transmission = Transmission.load() if transmission is None else transmission
    wavelength = electron_wavelength(transmission.energy)
    wave, z = np.ones((), np.complex64), scene.layers[0].z
    for number, layer in enumerate(scene.layers, start=1):
        wave = wave * _layer_transmission(scene, number, pixel_size, transmission, mean_free_path)
        after = scene.layers[number].z if number < len(scene.layers) else z
        if len(layer) and after != z:
            wave = fresnel_propagate(wave, after - z, pixel_size, wavelength)
        z = after
    wave = fresnel_propagate(wave, -defocus, pixel_size, wavelength)
    return (np.abs(wave) ** 2).astype(np.float32)


def _layer_transmission(scene, number, pixel_size, transmission, mean_free_path) -> np.ndarray:
    """One layer's transmission at camera sampling: mean intensity of each pixel, phase of its mean thickness."""
    fine = layer_thickness(scene, number, pixel_size)
    intensity, _ = transmission(fine, mean_free_path)
    amplitude = np.sqrt(_block_mean(intensity, 3))
    return (amplitude * np.exp(1j * transmission.phase_per_nm * _block_mean(fine, 3))).astype(np.complex64)
