"""Liquid and windows: loss of electrons, blur by loss of energy, background, flicker of the beam (chapter 3)."""

from dataclasses import asdict, dataclass

import numpy as np
from ase.units import _c, _e, _me
from numpy.typing import ArrayLike
from scipy.fft import irfft2, next_fast_len, rfft2
from scipy.ndimage import zoom
from scipy.special import j1
from scipy.stats import poisson

from .optics import Lens

_REST_ENERGY = _me * _c**2 / _e  # of the electron, eV

# Of the background, chosen by eye and not measured; lengths in fields of view.
BEAM_CENTER = 0.15  # greatest distance of the beam's centre from the field's middle, along each axis
SHADOW_EDGE = -0.6, -0.2  # position of a shadow's edge, from the field's middle
SHADOW_WIDTH = 0.03, 0.15  # of the edge
CLOUD_SAMPLES = 6  # of the coarse grid that clouds are drawn on, per standard deviation of their size


@dataclass(frozen=True)
class LiquidConfig:
    """What electrons meet beside the particles: liquid, windows, the lens behind them, and the beam's profile.

    Atoms of liquid and windows scatter an electron beyond the aperture, so that it is lost, or it loses energy and
    arrives blurred; each kind has its mean free path. Behind an energy filter (``zero_loss``) the second kind is lost
    too. Chapter 3 derives the defaults: thicknesses, inelastic mean free paths and beam from the published recipe
    (lanceyao-research, Moire_pattern_segmentation, image_simulation.m); energy loss from the loss function of water
    (Hayashi et al., PNAS 97, 6264 (2000)); clouds from the real frame; blur from published vibrations.
    """

    water: float = 250.0  # nm, mean thickness of the liquid
    wedge: float = 0.0  # relative change of the water's thickness across the field
    wedge_angle: float | None = None  # degrees from x towards y, the way the water thickens; drawn when None
    windows: float = 100.0  # nm, both silicon nitride windows together
    water_mean_free_path: float = 185.0  # nm, to a loss of energy at 200 keV; scaled to the beam's energy
    window_mean_free_path: float = 144.0  # nm, to a loss of energy at 200 keV, likewise
    water_elastic_path: float | None = None  # nm, to scattering beyond the aperture; `elastic_mean_free_path` when None
    window_elastic_path: float | None = None  # nm, the same for the windows
    zero_loss: bool = False  # only electrons that lost no energy count: an energy filter, and the published recipe
    lens: Lens = Lens()  # energy and aperture decide the losses; movies and libraries are imaged with all of it
    energy_loss: float = 22.0  # eV, mean of one loss
    beam: float = 1.0  # exponent of the Gaussian beam at one field's width from its centre
    shadow: float = 0.0  # depth of a shadow from one side, 0 to 1
    clouds: float = 0.14  # relative standard deviation of slow bright and dark clouds in the liquid
    cloud_size: float = 140.0  # nm, standard deviation of the Gaussian that the clouds' correlation begins like
    cloud_exponent: float = 4.0  # of the clouds' power spectrum; inf makes it Gaussian, without fine structure
    blur: float = 1.0  # nm, Gaussian blur that remains: motion during the exposure
    disk_blur: float = 0.0  # nm, radius of a disk blur (the published recipe's, for being out of focus)

    def __post_init__(self):
        for name in ("water", "windows", "beam", "clouds", "blur", "disk_blur"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} of a liquid must be 0 or more, got {getattr(self, name)}")
        for name in ("water_mean_free_path", "window_mean_free_path", "water_elastic_path", "window_elastic_path"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"{name} of a liquid must be positive, got {getattr(self, name)}")
        if not 0 <= self.shadow <= 1:
            raise ValueError(f"shadow is a depth between 0 and 1, got {self.shadow}")
        if not -2 <= self.wedge <= 2:
            raise ValueError(f"a wedge beyond -2 to 2 leaves less than no water at one side, got {self.wedge}")

    @classmethod
    def published(cls) -> "LiquidConfig":
        """The published Moiré recipe: 250 nm of water, 2 × 50 nm of SiNx, a disk blur of 9 pixels of 1.367 nm."""
        elastic: dict = {"water_elastic_path": np.inf, "window_elastic_path": np.inf}
        return cls(**elastic, zero_loss=True, clouds=0.0, blur=0.0, disk_blur=9 * 1.367)

    @classmethod
    def real_frame(cls) -> "LiquidConfig":
        """Fitted to the real frame of chapter 3."""
        return cls(shadow=0.55, beam=0.2, blur=23.0)

    @property
    def liquid_mean_free_path(self) -> float:
        """Thickness of liquid, in nm, that takes all but 1/e of the electrons; infinite where none are lost."""
        loss = self._loss_per_nm("water", self.water_elastic_path, self.water_mean_free_path)
        return 1 / loss if loss else np.inf

    @property
    def mean_transmission(self) -> float:
        """Fraction of the electrons that liquid and windows let through to the camera, at the mean thickness."""
        window_loss = self._loss_per_nm("silicon nitride", self.window_elastic_path, self.window_mean_free_path)
        return float(np.exp(-self.water / self.liquid_mean_free_path - self.windows * window_loss))

    def _loss_per_nm(self, material, elastic, inelastic) -> float:
        """Electrons lost per nm of a material, by its elastic and inelastic mean free paths (nm)."""
        if elastic is None:
            elastic = elastic_mean_free_path(material, self.lens.energy, self.lens.aperture)
        return 1 / elastic + self.zero_loss / (_inelastic_scale(self.lens.energy) * inelastic)

    @property
    def energy_losses(self) -> float:
        """Mean number of times that an electron loses energy on its way; its number is Poisson distributed."""
        losses = self.water / self.water_mean_free_path + self.windows / self.window_mean_free_path
        return losses / _inelastic_scale(self.lens.energy)

    def parameters(self) -> dict:
        """All numbers by name, for the records of libraries and movies; of the lens, those that the liquid needs."""
        numbers: dict = {}
        for name, value in asdict(self).items():
            needed = ("energy", "aperture", "chromatic_aberration")
            numbers |= {key: value[key] for key in needed} if name == "lens" else {name: value}
        return numbers


#: Mean free path to any elastic scattering in nm, and the angle in mrad beyond which half of it goes, at 200 keV:
#: from Lobato's scattering factors for H2O at 1.00 g/cm³ and Si3N4 at 3.17 g/cm³ (chapter 3).
_ELASTIC = {"water": (481.0, 14.6), "silicon nitride": (94.7, 10.7)}


def _inelastic_scale(energy: float) -> float:
    """Inelastic mean free paths at an energy (eV) over those at 200 keV: F E / ln(2 β E / E_m).

    F = (1 + E/1022) / (1 + E/511)² with E in keV; mean loss of water E_m, 16 eV; aperture β, 10 mrad (Malis et al., J.
    Electron Microsc. Tech. 8, 193 (1988)).
    """
    e = np.array([energy, 200e3]) / 1e3  # keV
    path, usual = (1 + e / 1022) / (1 + e / 511) ** 2 * e / np.log(2 * 10.0 * e / 16.0)
    return float(path / usual)


def elastic_mean_free_path(material: str, energy: float = Lens.energy, aperture: float = Lens.aperture) -> float:
    """Mean free path to elastic scattering beyond the objective aperture in "water" or "silicon nitride", in nm.

    Λ (1 + (aperture / θ)²), where Λ grows as the square of the electron's speed and θ as its wavelength (Lenz, Z.
    Naturforsch. A 9, 185 (1954); numbers of Lobato and Van Dyck, Acta Cryst. A 70, 636 (2014)).
    """
    if material not in _ELASTIC:
        raise ValueError(f"no scattering factors for {material!r}; choose one of {', '.join(_ELASTIC)}")
    path, angle = _ELASTIC[material]
    gamma, reference = 1 + energy / _REST_ENERGY, 1 + 200e3 / _REST_ENERGY
    speed = (1 - gamma**-2) / (1 - reference**-2)
    momentum = np.sqrt((gamma**2 - 1) / (reference**2 - 1))  # the wavelength is its inverse
    return float(path * speed * (1 + (aperture / angle * momentum) ** 2))


def chromatic_blur(energy_loss: float = 22.0, lens: Lens | None = None) -> float:
    """Radius, in nm, of the disk into which the lens spreads electrons that lost energy (eV), against those in focus.

    α Cc (ΔE / E) (1 + E / m c²) / (1 + E / 2 m c²) (Reimer and Kohl, Transmission Electron Microscopy (2008), 2.3).
    """
    lens = lens or Lens()
    relativistic = (1 + lens.energy / _REST_ENERGY) / (1 + lens.energy / (2 * _REST_ENERGY))
    return float(lens.semiangle * 1e6 * lens.chromatic_aberration * energy_loss / lens.energy * relativistic)


def optical_transfer(frequency: ArrayLike, liquid: LiquidConfig) -> np.ndarray:
    """Transfer function of all blur before the camera, at frequencies in 1/nm; 1 at 0: no electron is lost.

    Electrons with n losses of energy (Poisson) fill a disk of radius |n - mean| times `chromatic_blur` of one loss.
    """
    k = np.asarray(frequency, dtype=float)

    def disk(radius):  # Fourier transform of a disk of unit area
        u = np.maximum(2 * np.pi * radius * k, 1e-9)
        return 2 * j1(u) / u

    transfer = np.exp(-2 * (np.pi * liquid.blur * k) ** 2) * disk(liquid.disk_blur)
    mean = 0.0 if liquid.zero_loss else liquid.energy_losses
    if mean == 0:
        return transfer
    radius = chromatic_blur(liquid.energy_loss, liquid.lens)
    losses = np.arange(int(mean + 8 * np.sqrt(mean)) + 8)  # beyond eight standard deviations nothing is left
    share = poisson.pmf(losses, mean)
    return transfer * sum(p * disk(abs(n - mean) * radius) for n, p in zip(losses, share, strict=True))


def blur_reach(liquid: LiquidConfig) -> float:
    """How far blur carries electrons, in nm: four standard deviations of motion, the disk, two energy losses."""
    losses = 0.0 if liquid.zero_loss else 2 * np.sqrt(liquid.energy_losses) + 1
    return 4 * liquid.blur + liquid.disk_blur + losses * chromatic_blur(liquid.energy_loss, liquid.lens)


def liquid_background(
    shape: tuple[int, int], pixel_size: float, liquid: LiquidConfig, rng: np.random.Generator
) -> np.ndarray:
    """Smooth intensity without particles: beam, shadow, clouds, and the loss in liquid and windows.

    Fraction of the incident electrons, float32. Beam, shadow side, wedge direction and clouds are drawn at random.
    """
    y, x = (np.linspace(-0.5, 0.5, n, dtype=np.float32) for n in shape)
    y, x = y[:, None], x[None, :]
    cy, cx = rng.uniform(-BEAM_CENTER, BEAM_CENTER, 2)
    exponent, t = -liquid.beam * ((y - cy) ** 2 + (x - cx) ** 2), rng.uniform(0, 2 * np.pi)
    along = y * np.float32(np.sin(t)) + x * np.float32(np.cos(t)) - rng.uniform(*SHADOW_EDGE)
    shade = 1 - liquid.shadow / (1 + np.exp(along / rng.uniform(*SHADOW_WIDTH)))
    drawn = rng.uniform(0, 360)  # drawn in any case, so that a chosen direction leaves the clouds as they are
    w = np.radians(drawn if liquid.wedge_angle is None else liquid.wedge_angle)
    thicker = (y * np.sin(w) + x * np.cos(w)) / (abs(np.sin(w)) + abs(np.cos(w)))  # -1/2 to 1/2 across the field
    exponent = exponent - liquid.wedge * liquid.water / liquid.liquid_mean_free_path * thicker
    field = _cloud_field(shape, liquid.cloud_size / pixel_size, liquid.cloud_exponent, rng)
    clouds = np.exp((exponent + liquid.clouds * field).astype(np.float32))
    return (liquid.mean_transmission * shade * clouds).astype(np.float32)


def _cloud_field(shape, size, exponent, rng) -> np.ndarray:
    """Random field of unit variance with power (1 + (2 π size k)² / exponent)^-exponent, drawn on a coarse grid.

    A Matérn field: Gaussian for a great exponent, with a power law k^(-2 exponent) at high k for a small one.
    """
    step = max(int(size / CLOUD_SAMPLES), 1)
    coarse = tuple(int(np.ceil(n / step)) + 2 for n in shape)
    # The Fourier transform is periodic; a margin keeps opposite edges of the field apart.
    padded = tuple(next_fast_len(n + int(np.ceil(4 * size / step)), real=True) for n in coarse)
    k = np.hypot(np.fft.fftfreq(padded[0])[:, None], np.fft.fftfreq(padded[1])[None, :])
    x2 = (2 * np.pi * size / step * k) ** 2
    power = np.exp(-x2) if np.isinf(exponent) else (1 + x2 / exponent) ** -exponent
    amplitude = np.sqrt(power / power.mean())[:, : padded[1] // 2 + 1]
    field = irfft2(rfft2(rng.standard_normal(padded)) * amplitude, s=padded)[: coarse[0], : coarse[1]]
    return (zoom(field, step, order=1) if step > 1 else field)[: shape[0], : shape[1]]


def brightness_flicker(frames: int, std: float, correlation: float = 0.0, *, rng: np.random.Generator) -> np.ndarray:
    """Brightness of the beam in each frame of a movie: positive factors of mean 1, shape (frames,).

    The exponential of a first-order autoregressive process of relative standard deviation ``std``, whose correlation
    falls to 1/e after so many frames; 0 for independent frames.
    """
    keep = np.exp(-1 / correlation) if correlation > 0 else 0.0
    z = rng.standard_normal(frames)
    for t in range(1, frames):
        z[t] = keep * z[t - 1] + np.sqrt(1 - keep**2) * z[t]
    sigma = np.sqrt(np.log1p(std**2))  # of the logarithm
    return np.exp(sigma * z - sigma**2 / 2)
