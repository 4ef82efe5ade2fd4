"""From electron waves to images of lattices: lens, table of transmissions, layers composed to images (chapter 2)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.units import _c, _e, _hplanck, _me
from scipy.fft import next_fast_len
from scipy.ndimage import distance_transform_edt

from .scene import Scene
from .shapes import circumscribed_ratio, particle_thickness

#: Samples of the wave per camera pixel and axis; chapter 2 measures the error that remains.
OVERSAMPLING = 3

THICKNESS_STEP = 0.05  # nm, of the table that thickness is looked up in: rounding errs by 0.1 % of a 35 nm path
MARGINS = 4, 64  # px, least and greatest border around a field; the greatest bounds memory
LEAST_DISK = 0.1  # px, radius; a smaller disk dims the finest detail by less than 1.3 %
LEAST_THICKNESS = 1e-3  # of the largest; less is what a Fourier transform leaves where there is nothing
SAMPLES_AT_ONCE = 8_000_000  # samples of particle windows computed at once: some hundred megabytes


def electron_wavelength(energy: float) -> float:
    """Relativistic electron wavelength in nm (2.508e-3 at 200 keV; Kirkland, Advanced Computing in EM, eq. 2.5)."""
    momentum_squared = 2 * _me * _e * energy * (1 + _e * energy / (2 * _me * _c**2))
    return float(_hplanck / np.sqrt(momentum_squared) * 1e9)


@dataclass(frozen=True)
class Lens:
    """Objective lens, aperture, electron energy: the published recipe's; a chromatic aberration of 1.4 mm is usual."""

    energy: float = 200e3  # eV
    aperture: float = 10.0  # mrad, semi-angle of the objective aperture
    defocus: float = 0.0  # nm, from the mid-plane of the last layer that holds particles; positive is underfocus
    spherical_aberration: float = 1.2  # mm, Cs
    chromatic_aberration: float = 1.4  # mm, Cc
    focal_spread: float = 0.0  # nm, standard deviation

    def __post_init__(self):
        if not (self.energy > 0 and self.aperture > 0 and self.focal_spread >= 0):
            raise ValueError(f"a lens needs a positive energy and aperture and no negative focal spread, got {self}")

    @classmethod
    def ideal(cls, energy: float = energy, aperture: float = aperture, defocus: float = 0.0) -> "Lens":
        """A lens without aberrations; energy in eV, aperture in mrad, defocus in nm."""
        return cls(energy, aperture, defocus, spherical_aberration=0.0, chromatic_aberration=0.0)

    @property
    def wavelength(self) -> float:
        """Of the electrons, in nm."""
        return electron_wavelength(self.energy)

    @property
    def semiangle(self) -> float:
        """Of the aperture, in rad."""
        return 1e-3 * self.aperture

    @property
    def foci(self) -> list[tuple[float, float]]:
        """Defocus (nm) and weight of images whose average stands for the focal spread, by Gauss-Hermite quadrature."""
        nodes = [(0.0, 1.0)] if self.focal_spread == 0 else [(-np.sqrt(3), 1 / 6), (0.0, 2 / 3), (np.sqrt(3), 1 / 6)]
        return [(self.defocus + node * self.focal_spread, weight) for node, weight in nodes]

    def transfer(self, squared_angle: torch.Tensor, defocus: float) -> torch.Tensor:
        """Phase factor exp(iχ), χ = π/λ θ² (Δf - Cs θ²/2), at squared angles θ² in rad² and a defocus Δf in nm."""
        half_cs = 0.5e6 * self.spherical_aberration  # nm
        phase = np.pi / self.wavelength * squared_angle * (defocus - half_cs * squared_angle)
        return torch.polar(torch.ones_like(phase), phase)


@dataclass(frozen=True)
class Transmission:
    """What a material transmits against its thickness along the beam, for several crystal orientations."""

    thickness: np.ndarray  # (n,) nm, from 0, evenly spaced
    wave: np.ndarray  # (orientations, n) complex, mean of the exit wave: what is coherent with the incident plane wave
    intensity: np.ndarray  # (orientations, n) fraction of electrons within the aperture, with those scattered by atoms
    energy: float = Lens.energy  # eV
    aperture: float = Lens.aperture  # mrad, semi-angle of the objective aperture

    @classmethod
    def load(cls, path: Any = None, energy: float = Lens.energy, aperture: float = Lens.aperture) -> "Transmission":
        """Read one energy (eV) and aperture (mrad) of a tabulated file; the shipped one for gold by default."""
        if path is None:
            from ..data import path as data_path

            path = data_path("gold_transmission.npz")
        with np.load(Path(path)) as f:
            energies, apertures = f["energies"].tolist(), f["apertures"].tolist()
            if energy not in energies or aperture not in apertures:
                raise ValueError(
                    f"{path} holds energies {energies} eV and apertures {apertures} mrad, not {energy:g} eV with "
                    f"{aperture:g} mrad; make another table with moirelib.simulation.tabulate_transmission"
                )
            i, j = energies.index(energy), apertures.index(aperture)
            return cls(f["thickness"], f["wave"][i], f["intensity"][i, j], float(energy), float(aperture))

    @property
    def mean_intensity(self) -> np.ndarray:
        """Intensity (n,) averaged over orientations."""
        return self.intensity.mean(axis=0)

    @property
    def phase(self) -> np.ndarray:
        """Phase (n,) of the coherent wave averaged over orientations, in radians."""
        return np.unwrap(np.angle(self.wave), axis=1).mean(axis=0)

    @property
    def phase_per_nm(self) -> float:
        """Phase gained per nm over the first 20 nm of material, in radians (least squares through the origin)."""
        thin = self.thickness <= 20.0
        return float(np.sum(self.thickness[thin] * self.phase[thin]) / np.sum(self.thickness[thin] ** 2))

    def mean_free_path(self, low: float, high: float) -> float:
        """Λ in nm of the exponential exp(-t/Λ) between two thicknesses (nm), for the intensity's average."""
        passed = np.interp([low, high], self.thickness, self.mean_intensity)
        return float((high - low) / np.log(passed[0] / passed[1]))

    def lookup(
        self, mean_free_path: float | None = None, greatest: float = 120.0, step: float = THICKNESS_STEP
    ) -> tuple[np.ndarray, np.ndarray]:
        """Fine tables (orientations, n) against thickness, 0 to the greatest (nm): coherent wave, incoherent remainder.

        Beyond the table they go on as in its last half. A mean free path Λ (nm) replaces the tabulated loss by
        exp(-t/Λ).
        """
        t, half = np.arange(0.0, greatest + 2 * step, step), self.thickness.size // 2

        def extend(rows):
            slope = np.mean(rows[:, -1] - rows[:, half]) / (self.thickness[-1] - self.thickness[half])
            inside = np.stack([np.interp(t, self.thickness, row) for row in rows])
            return inside + slope * np.clip(t - self.thickness[-1], 0, None)

        phase = extend(np.unwrap(np.angle(self.wave), axis=1))
        if mean_free_path is not None:
            wave = np.exp(-t / (2 * mean_free_path) + 1j * phase)
            return wave.astype(np.complex64), np.zeros(wave.shape, np.float32)
        coherent, intensity = np.exp(extend(2 * np.log(np.abs(self.wave)))), np.exp(extend(np.log(self.intensity)))
        wave = np.sqrt(coherent) * np.exp(1j * phase)
        return wave.astype(np.complex64), np.clip(intensity - coherent, 0, None).astype(np.float32)


def layer_thickness(scene: Scene, layer: int, pixel_size: float, oversampling: int = OVERSAMPLING) -> np.ndarray:
    """Thickness of one layer along the beam, in nm: float32 of shape (oversampling · height, oversampling · width)."""
    return _rasterize(scene, layer, pixel_size, oversampling)[0].numpy()


def particle_mask(scene: Scene, layer: int, pixel_size: float, oversampling: int = OVERSAMPLING) -> np.ndarray:
    """Fraction of each pixel that one layer's solids cover, however soft they look; float32 of shape (y, x)."""
    thickness, _ = _rasterize(replace(scene, soft=0.0), layer, pixel_size, oversampling)
    return block_mean((thickness > 0).float(), oversampling).numpy()


def _rasterize(scene: Scene, number: int, pixel_size: float, oversampling: int, device="cpu"):
    """Thickness (nm) of one layer at every fine sample, and the crystal orientation of the particle it belongs to."""
    layer, fine = scene.layers[number - 1], pixel_size / oversampling
    shape = np.array(_pixels(scene, pixel_size)) * oversampling
    largest = float(np.max(layer.diameters, initial=0))
    reach = 0.5 * largest * circumscribed_ratio(scene.shape, scene.rounding) + scene.soft
    width = 2 * int(np.ceil(reach / fine)) + 2  # samples, edge of the square window around a particle
    # Windows that reach into the field lie within a border as wide as one of them.
    middle = layer.positions / fine
    layer = layer.select(np.all((middle > -width / 2) & (middle < shape + width / 2), axis=1))
    rows, columns = (shape + 2 * width).tolist()
    thickness = torch.zeros(rows * columns, device=device)
    orientation = torch.zeros(rows * columns, dtype=torch.int32, device=device)
    # Batches keep memory to some hundred megabytes whatever the number of particles.
    for part in np.array_split(np.arange(len(layer)), 1 + len(layer) * width**2 // SAMPLES_AT_ONCE):
        center = torch.as_tensor(layer.positions[part] / fine, dtype=torch.float64, device=device)
        samples = (torch.floor(center).long() - width // 2 + 1)[:, :, None] + torch.arange(width, device=device)
        y, x = (fine * (samples + 0.5 - center[:, :, None])).float().unbind(1)  # nm, (n, width)
        sizes = np.stack([layer.diameters[part], layer.rotations[part]])[:, :, None, None]
        diameter, turn = torch.as_tensor(sizes, dtype=torch.float32, device=device)
        offsets = y[:, :, None], x[:, None, :]
        t = particle_thickness(scene.shape, *offsets, diameter, turn, scene.height, scene.rounding).flatten()
        row, column = (samples + width).unbind(1)
        index = (row[:, :, None] * columns + column[:, None, :]).flatten()
        thickness.scatter_reduce_(0, index, t, "amax")
        which = torch.as_tensor(layer.orientations[part] % 2**15, dtype=torch.int32, device=device)
        owner = (t > 0) & (thickness[index] == t)
        orientation[index[owner]] = which.repeat_interleave(width**2)[owner]
    inside = slice(width, -width)
    maps = thickness.reshape(rows, columns), orientation.reshape(rows, columns)
    maps = average_thickness(*maps, scene.soft / fine) if scene.soft else maps
    return tuple(each[inside, inside].contiguous() for each in maps)


def average_thickness(thickness, orientation, radius: float):
    """Thickness averaged over a disk of a radius in samples; orientations are those of the nearest particle."""
    nearest = distance_transform_edt((thickness == 0).cpu().numpy(), return_distances=False, return_indices=True)
    row, column = (torch.as_tensor(index, device=thickness.device).long() for index in nearest)
    averaged = _blur_by_disk(thickness, radius)
    ripples = averaged < LEAST_THICKNESS * thickness.max()
    return averaged.where(~ripples, 0), orientation[row, column]


def _pixels(scene, pixel_size) -> tuple[int, int]:
    """Size of the field in whole pixels."""
    shape = tuple(round(f / pixel_size) for f in scene.field)
    if min(shape) < 1:
        raise ValueError(f"a field of {scene.field} nm is smaller than a pixel of {pixel_size} nm")
    return shape


def block_mean(image, n: int):
    """Mean of every n × n samples of an array or tensor."""
    h, w = image.shape
    return image.reshape(h // n, n, w // n, n).mean(axis=(1, 3))


def clean_image(
    scene: Scene,
    pixel_size: float,
    transmission: Transmission | None = None,
    lens: Lens | None = None,
    mean_free_path: float | None = None,
    liquid_mean_free_path: float | None = None,
    oversampling: int = OVERSAMPLING,
    device: str = "cpu",
) -> np.ndarray:
    """Image of a scene without noise: fraction of the incident electrons per pixel, float32 of shape (y, x).

    Each layer multiplies the wave by its transmission, the wave travels on to the next layer, the objective lens adds
    its phase, and the camera adds the electrons of each pixel.

    Transmission and lens are by default gold's shipped table at the lens's energy and aperture, and a lens in focus at
    those of the table. A mean free path (nm) replaces the table's loss; one of the liquid (nm) is what the beam is
    spared along particles, which displace liquid. torch composes on the device.
    """
    for name, path in (("mean_free_path", mean_free_path), ("liquid_mean_free_path", liquid_mean_free_path)):
        if path is not None and not path > 0:
            raise ValueError(f"{name} must be positive (nm), got {path}")
    if lens is None:
        lens = Lens() if transmission is None else Lens(transmission.energy, transmission.aperture)
    transmission, shape = table_for(lens, transmission), _pixels(scene, pixel_size)
    reach = lens.semiangle * (abs(lens.defocus) + 3 * lens.focal_spread) / pixel_size
    margin = int(np.clip(np.ceil(reach), *MARGINS))
    # Fourier transforms are periodic: without a border, defocus would carry electrons from one edge to the other. The
    # border is made wider where that makes the transform fast. Empty layers on top are left out.
    field = tuple(next_fast_len(n + 2 * margin) * pixel_size for n in shape)
    last = max((i for i, layer in enumerate(scene.layers) if len(layer)), default=0)
    moved = tuple(layer.shift((margin * pixel_size, margin * pixel_size)) for layer in scene.layers[: last + 1])
    wide, paths = replace(scene, layers=moved, field=field), (mean_free_path, liquid_mean_free_path)
    numbers = range(1, len(moved) + 1)
    layers = [_layer_transmission(wide, n, pixel_size, oversampling, transmission, paths, device) for n in numbers]
    image = compose(layers, [layer.z for layer in moved], pixel_size, oversampling, lens)
    return image[margin : margin + shape[0], margin : margin + shape[1]].cpu().numpy()


_load_shipped = lru_cache(Transmission.load)


def table_for(lens: Lens, transmission: Transmission | None = None) -> Transmission:
    """The transmission given, if it is for the lens's energy and aperture; gold's shipped one by default."""
    if transmission is None:
        return _load_shipped(energy=lens.energy, aperture=lens.aperture)
    if (transmission.energy, transmission.aperture) != (lens.energy, lens.aperture):
        raise ValueError(
            f"the transmission is for {transmission.energy:g} eV and {transmission.aperture:g} mrad, the lens for "
            f"{lens.energy:g} eV and {lens.aperture:g} mrad; make them the same"
        )
    return transmission


def _layer_transmission(scene, number, pixel_size, oversampling, transmission, paths, device):
    """Coherent transmission and incoherent remainder of one layer at wave sampling, from thickness and table."""
    thickness, orientation = _rasterize(scene, number, pixel_size, oversampling, device)
    (mean_free_path, liquid), step = paths, THICKNESS_STEP
    table = transmission.lookup(mean_free_path, float(thickness.max()), step)
    wave, remainder = (torch.from_numpy(v).to(device) for v in table)
    if liquid is not None:
        spared = torch.exp(step * torch.arange(wave.shape[1], device=device) / liquid)
        wave, remainder = wave * spared.sqrt(), remainder * spared
    index = (orientation % wave.shape[0]).long() * wave.shape[1] + (thickness / step).round_().long()
    covered = thickness > 0
    full_wave = wave.flatten()[index].where(covered, 1)
    return full_wave, remainder.flatten()[index].where(covered, 0) if remainder.any() else None


def compose(
    layers: Sequence[tuple], heights: Sequence[float], pixel_size: float, oversampling: int, lens: Lens
) -> torch.Tensor:
    """Image of stacked layers from their transmissions: fraction of the incident electrons per pixel.

    Layers, in the beam's order, are pairs of tensors (y, x) at wave sampling: coherent transmission, complex, and the
    intensity that it does not carry (None for nothing). Heights are those of their mid-planes in nm; a lens without
    defocus is in focus at the last one. The image is a float32 tensor in the shape of the layers over the oversampling.

    Electrons scattered by more than the wave's grid resolves, yet within the aperture, do not interfere at that
    sampling: they are carried as intensity, attenuated by later layers, and spread over a disk whose radius is the
    aperture times their layer's distance from focus.
    """
    sampling, wave = pixel_size / oversampling, None
    scattered: list[tuple] = []  # intensity that each layer scattered, and its height
    for i, (coherent, remainder) in enumerate(layers):
        passing = _intensity(coherent) if remainder is None else _intensity(coherent) + remainder
        scattered = [(spread * passing, height) for spread, height in scattered]
        if remainder is not None:
            scattered.append((remainder if wave is None else remainder * _intensity(wave), heights[i]))
        wave = coherent if wave is None else wave * coherent
        if i + 1 < len(layers) and heights[i + 1] != heights[i]:
            distance = heights[i + 1] - heights[i]
            phase = -np.pi * distance / lens.wavelength * _squared_angles(wave, sampling, lens.wavelength)
            wave = inverse_fft(torch.polar(torch.ones_like(phase), phase).mul_(torch.fft.fft2(wave)))
    spectrum, angle = torch.fft.fft2(wave), _squared_angles(wave, sampling, lens.wavelength)
    if float(angle.max()) > lens.semiangle**2:
        spectrum = spectrum * (angle <= lens.semiangle**2)
    image = torch.zeros((), device=angle.device)
    for defocus, weight in lens.foci:
        focused = inverse_fft(lens.transfer(angle, defocus).mul_(spectrum))
        image = image + weight * block_mean(_intensity(focused), oversampling)
    for spread, height in scattered:
        radius = lens.semiangle * abs(lens.defocus + height - heights[-1])
        image = image + _blur_by_disk(block_mean(spread, oversampling), radius / pixel_size)
    return image


def _squared_angles(wave, sampling, wavelength):
    """Squared scattering angle, in rad², of every Fourier coefficient."""
    ky, kx = (torch.fft.fftfreq(n, sampling, device=wave.device) * wavelength for n in wave.shape)
    return ky[:, None] ** 2 + kx[None, :] ** 2


def inverse_fft(spectrum):
    """Inverse transform. torch's own scaling is wrong for 2048 × 2048 on some CPUs (pytorch/pytorch issue 169670)."""
    return torch.fft.ifft2(spectrum, norm="forward").div_(spectrum.numel())


def _intensity(wave):
    return wave.real**2 + wave.imag**2


def _blur_by_disk(image, radius: float):
    """Blur by a disk of a radius in pixels; the sum is conserved."""
    if radius < LEAST_DISK:
        return image
    ky, kx = (torch.fft.fftfreq(n, device=image.device) for n in image.shape)
    u = (2 * np.pi * radius * torch.hypot(ky[:, None], kx[None, : image.shape[1] // 2 + 1].abs())).clamp(min=1e-6)
    return torch.fft.irfft2(torch.fft.rfft2(image) * (2 * torch.special.bessel_j1(u) / u), s=image.shape)
