# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# (liquid)=
# # Record the image through liquid
#
# ```{admonition} In this chapter
# :class: tip
# - put liquid, windows, an uneven beam and clouds around the particles
# - compute the blur of electrons that lost energy
# - turn intensity into electrons, and electrons into camera counts, with noise in the right order
# - measure a camera's gain, MTF and noise from one frame
# - simulate a twin of a real frame and compare the two in pictures and in numbers
#
# Needs [chapter 2](02_multislice) · CPU · 30 seconds (fast), 45 seconds (full) · 1 GB
# ```
#
# The clean image of chapter 2 is what an ideal microscope would see in vacuum. A raw {term}`frame` from a
# {term}`liquid cell` is much harder to read {cite:p}`ross2015`, and a network trained on clean images fails on it. So the
# simulation must contain everything that disturbs a raw frame. Each of its numbers comes from a source or from a fit
# to one real frame; a table near the end lists them all.

# %%
import os
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from abtem.parametrizations import LobatoParametrization
from scipy.ndimage import convolve, gaussian_filter
from scipy.optimize import curve_fit
from scipy.special import j1
from scipy.stats import poisson

from moirelib.data import fetch
from moirelib.movies import read_movie
from moirelib.plot import LAYER_COLORS, show_frame
from moirelib.simulation import (
    CameraConfig,
    LatticeConfig,
    Lens,
    LiquidConfig,
    brightness_flicker,
    camera_mtf,
    chromatic_blur,
    clean_image,
    elastic_mean_free_path,
    electron_wavelength,
    liquid_background,
    optical_transfer,
    random_scene,
    record,
)
from moirelib.validation import (
    REAL_PIXEL_SIZE,
    REAL_SPACING,
    average_particle,
    background_spectrum,
    frame_statistics,
    noise_autocorrelation,
    noise_spectra,
    particle_contrast,
    real_frame_lattice,
    real_frame_twin,
)

FAST = os.environ.get("MOIRELIB_FAST", "1") != "0"
plt.rcParams["figure.dpi"] = 144
SIZE = 320 if FAST else 640  # pixels
BLUE, ORANGE = LAYER_COLORS

# %% [markdown]
# ## Two things happen to an electron in liquid
#
# **Atoms scatter it elastically.** An electron scattered beyond the objective {term}`aperture` is lost. How often this
# happens follows from the scattering factors $f$ that multislice uses, too {cite:p}`lobato2014`. The cross-section of an
# atom is the integral of $\gamma^2 |f|^2$ over all angles beyond the aperture. The {term}`mean free path` is the inverse
# of cross-section times number density.

# %%
angle = np.geomspace(10e-3, 0.5, 2000)  # rad, from a 10 mrad aperture outwards
gamma = 1 + 200e3 / 510999


def lost_cross_section(symbol):
    """Cross-section of one atom in Å² for scattering beyond 10 mrad at 200 keV."""
    k = 0.1 * angle / electron_wavelength(200e3)  # 1/Å
    f = LobatoParametrization().scattering_factor(symbol)(k**2)  # Å
    return gamma**2 * np.trapezoid(2 * np.pi * angle * f**2, angle)


water = 0.602214 * 1.00 / 18.015 * (2 * lost_cross_section("H") + lost_cross_section("O"))  # 1/Å
nitride = 0.602214 * 3.17 / 140.28 * (3 * lost_cross_section("Si") + 4 * lost_cross_section("N"))
for name, inverse in (("water", water), ("silicon nitride", nitride)):
    formula = elastic_mean_free_path(name, energy=200e3, aperture=10.0)
    print(f"{name}: {0.1 / inverse:.0f} nm to elastic loss; moirelib's formula {formula:.0f} nm")

# %% [markdown]
# `elastic_mean_free_path` is Lenz's simple formula {cite:p}`lenz1954` with two constants per material from such
# integrals. It also holds at other energies and apertures: within 5 % for 5 and 10 mrad at 200 and 300 keV (tested). For
# 20 mrad its result is up to a quarter too long in silicon nitride.
#
# **It loses energy.** Such an electron goes on almost straight, passes the aperture and arrives, but the lens focuses it
# in another plane. Published simulations of such movies use 185 nm in water and 144 nm in silicon nitride as the mean
# free path to a loss {cite:p}`moiresimulation`. We compare with the formula of Malis, Cheng and Egerton
# {cite:p}`malis1988`, which was fitted to measurements on eleven solids:
#
# $$
# \Lambda = \frac{106\, F\, (E / E_m)}{\ln(2 \beta E / E_m)}, \quad F = \frac{1 + E/1022}{(1 + E/511)^2}, \quad
# E_m = 7.6\, Z^{0.36}
# $$
#
# with $E$ in keV, the collection angle $\beta$ in mrad, and $Z$ averaged with weights $Z^{0.3}$.


# %%
def malis(composition, energy=200.0, collection=10.0):
    """Inelastic mean free path in nm of a material {Z: atoms per formula}."""
    weight = {z: n * z**0.3 for z, n in composition.items()}
    loss = 7.6 * (sum(z * w for z, w in weight.items()) / sum(weight.values())) ** 0.36
    factor = (1 + energy / 1022) / (1 + energy / 511) ** 2
    return 106 * factor * (energy / loss) / np.log(2 * collection * energy / loss)


print(f"water           {malis({1: 2, 8: 1}):.0f} nm by the formula, 185 nm published")
print(f"silicon nitride {malis({14: 3, 7: 4}):.0f} nm by the formula, 144 nm published")
print(f"gold            {malis({79: 1}):.0f} nm by the formula, 35 nm (20 to 85 nm) published")

# %% [markdown]
# Water and silicon nitride agree; for gold the formula gives twice the published value, though within its range.
# Values measured for water in a liquid cell are far from such models {cite:p}`yesibolati2020`, so these numbers are
# good to a factor of two at best.
#
# Both losses are exponential, and the transmissions of materials in a row multiply. Which electrons count depends on the
# microscope. Behind an {term}`energy filter` only electrons without a loss count (`zero_loss=True`). The published recipe
# does the same: it keeps $\exp(-t / \Lambda)$ with the inelastic paths only. Without a filter, as in nearly all movies,
# the other electrons arrive as well; that is moirelib's default.

# %%
liquid, published = LiquidConfig(), LiquidConfig.published()
losses = 250.0 / 185.0 + 100.0 / 144.0
print(f"an electron loses energy {losses:.2f} times on average; {np.exp(-losses):.3f} never do")
print(f"published recipe    {published.mean_transmission:.3f} of the electrons count")
print(
    f"without a filter    {liquid.mean_transmission:.3f}, "
    f"by hand {np.exp(-10 * 250 * water - 10 * 100 * nitride):.3f}"
)

# %% [markdown]
# The camera sees only the product of dose and transmission. So a frame alone cannot tell a thin cell at low dose from a
# thick one at high dose.
#
# **Particles displace liquid.** A rod of 112 nm takes the place of 112 nm of water, and the beam is spared the water's
# loss: the particle's own transmission is multiplied by $\exp(+t / \Lambda)$. `clean_image` does this when it gets
# `liquid_mean_free_path`, which every `LiquidConfig` computes.

# %%
for name, settings in (("published", published), ("no filter", liquid)):
    path = settings.liquid_mean_free_path
    print(f"{name}: Λ = {path:3.0f} nm, a 112.1 nm rod brightens by {np.exp(112.1 / path):.2f}")

lattice = LatticeConfig(
    shapes=("sphere",),
    diameter_ratio=(0.77, 0.77),
    twist_angle=(9.0, 9.0),
    island=1,
    edge=0,
    boundary=0,
    dislocations=0,
    single_layer=0,
)
pixel_size = 1.367  # nm
scene = random_scene(lattice, (SIZE * pixel_size,) * 2, np.random.default_rng(2), spacing=39.0)
clean = clean_image(
    scene,
    pixel_size,
    lens=Lens(defocus=200.0),
    mean_free_path=35.0,
    liquid_mean_free_path=liquid.liquid_mean_free_path,
)

# %% [markdown]
# ## Lost energy becomes blur
#
# A lens bends slower electrons more: {term}`chromatic aberration`. An electron that lost $\Delta E$ of its energy $E$
# is out of focus by $C_c\, \Delta E / E$ times a relativistic factor. With rays up to the aperture's angle $\alpha$ a
# point becomes a disk of radius {cite:p}`reimer2008`
#
# $$
# r = \alpha\, C_c\, \frac{\Delta E}{E}\, \frac{1 + E / mc^2}{1 + E / 2mc^2} .
# $$
#
# The most frequent loss in water is about 22 eV, where its loss function has a broad maximum {cite:p}`hayashi2000`. With
# $C_c$ = 1.4 mm, usual for the objective lens of a 200 kV microscope, and 10 mrad:

# %%
relativistic = (1 + 200 / 511) / (1 + 200 / 1022)
by_hand = 10e-3 * 1.4e6 * 22 / 200e3 * relativistic  # nm
print(f"one loss: a disk of {by_hand:.2f} nm radius; chromatic_blur says {chromatic_blur():.2f} nm")
print(f"share of electrons with at least one loss: {1 - np.exp(-losses):.2f}")

# %% [markdown]
# The number of losses $n$ has a Poisson distribution; its mean $\bar n$ was printed above. One focuses the microscope on
# the image as it is, so electrons with the *mean* loss are in focus. Electrons with $n$ losses fill a disk of radius
# $|n - \bar n|\, r$. The Fourier transform of a disk is $2 J_1(u)/u$, and the blur's transfer function is the average
# over $n$. The model fills the aperture evenly and so gives an upper limit: most electrons leave the particles at
# smaller angles.

# %%
k = np.linspace(1e-6, 0.2, 200)  # 1/nm
transfer = np.zeros_like(k)
for n in range(20):
    u = np.maximum(2 * np.pi * k * abs(n - losses) * by_hand, 1e-9)
    transfer += poisson.pmf(n, losses) * 2 * j1(u) / u
moirelib_transfer = optical_transfer(k, LiquidConfig(blur=0.0))
print(
    f"by hand and optical_transfer differ by {np.abs(transfer - moirelib_transfer).max():.1e} at most"
)

# %% mystnb={"figure": {"caption": "Blur by electrons that lost energy: contrast kept at each spatial frequency, for three thicknesses of water between two 50 nm windows and with an energy filter. Orange, the blur of the published recipe, a disk of nine pixels of 1.367 nm.", "name": "fig-chromatic"}}
fig, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
for thickness, shade in ((100, "#9ecae1"), (250, "#4292c6"), (500, "#084594")):
    curve = optical_transfer(k, LiquidConfig(water=thickness, blur=0.0))
    ax.plot(k, curve, color=shade, label=f"{thickness} nm of water")
ax.plot(
    k, optical_transfer(k, LiquidConfig(zero_loss=True, blur=0.0)), "k--", label="energy filter"
)
ax.plot(k, optical_transfer(k, published), color=ORANGE, label="published disk blur")
ax.axhline(0, color="0.8", lw=1)
ax.set(xlabel="spatial frequency (1/nm)", ylabel="contrast kept", xlim=(0, 0.2))
fig.legend(loc="outside right center", frameon=False, fontsize=9)
plt.show()

# %% [markdown]
# For particles of 10 nm and more this blur is small. The published disk blurs far more; most of that must be defocus and
# motion. `LiquidConfig` has a Gaussian `blur` and a `disk_blur` for them. The Gaussian's default of 1 nm comes from
# published tracks of gold rods, `trajectories_Rod_raw.mat` (see `moirelib.data`): they scatter by 1.25 nm about their
# sites, and their authors give 1 nm as the tracking error.
#
# ## Nothing is evenly bright
#
# The beam is brightest in its middle. An aperture or the cell's edge may cast a shadow. Windows bulge, so the liquid's
# thickness changes across the field. The liquid's density varies slowly. Together they make the
# {term}`amorphous background` ({numref}`fig-background`). It changes the grey level by as much as a particle does, but
# over longer distances, and only this tells the two apart.
#
# The published recipe draws a Gaussian beam $\exp(-b\, r^2)$, with $r$ in units of the field, $b = 4 / (2 + |x|)$ and
# $x$ normal with a standard deviation of 3 {cite:p}`moiresimulation`. Half of these $b$ are below 1, and none exceeds 2.
# `beam` is 1 by default. With a `wedge` of 0.5 the water's thickness changes across the field by half of its mean.

# %% mystnb={"figure": {"caption": "Background without particles: an uneven beam; a shadow from one side; a wedge of liquid behind an energy filter; clouds in the liquid; everything together. Grey is scaled to each panel; the numbers are its darkest and brightest fraction of the incident electrons.", "name": "fig-background"}}
even = {"beam": 0.0, "clouds": 0.0}
panels = (
    ("beam", LiquidConfig(**{**even, "beam": 1.0})),
    ("shadow", LiquidConfig(**even, shadow=0.6)),
    ("wedge", LiquidConfig(**even, wedge=0.5, zero_loss=True)),
    ("clouds", LiquidConfig(beam=0.0)),
    ("together", LiquidConfig(shadow=0.6, wedge=0.5)),
)
fig, axes = plt.subplots(1, 5, figsize=(9.4, 2.4), layout="constrained")
for ax, (title, settings) in zip(axes, panels, strict=True):
    background = liquid_background((SIZE, SIZE), 3.0, settings, np.random.default_rng(8))
    span = f"{background.min():.2f} to {background.max():.2f}"
    show_frame(background, 3.0, ax, title=f"{title}\n{span}")
plt.show()

# %% [markdown]
# Clouds are a random field: the logarithm of their brightness is Gaussian, and their {term}`power spectrum` is
#
# $$
# P(k) \propto \left(1 + (2 \pi s k)^2 / p\right)^{-p} ,
# $$
#
# which is flat for structures much larger than the `cloud_size` $s$ and falls as $k^{-2p}$ for finer ones. A fit below
# gives strength and size.
#
# ## Count electrons first, blur second
#
# The order of the remaining steps decides how the noise looks:
#
# 1. Optics blur the *intensity*: energy loss in the liquid, and motion during the exposure.
# 2. Electrons arrive one by one. A pixel that expects $N$ electrons counts a Poisson number, which scatters by
#    $\sqrt{N}$: {term}`shot noise`. $N$ is the intensity times the {term}`dose` times the pixel's area.
# 3. The camera spreads each electron's signal over neighbouring pixels: its {term}`MTF` blurs image *and noise*.
# 4. Reading out adds {term}`readout noise`, independent in every pixel.
# 5. Electronics multiply by the gain, add an offset, round, and stop at saturation.
#
# In NumPy, with Fourier transforms for the two blurs:

# %%
rng = np.random.default_rng(11)
camera = CameraConfig(dose=10.6)  # electrons/Å²
k = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.fftfreq(SIZE)[None, :])  # cycles/pixel


def blur(image, transfer):
    """Multiply an image's Fourier transform by a transfer function."""
    return np.fft.ifft2(np.fft.fft2(image) * transfer).real


background = liquid_background(clean.shape, pixel_size, liquid, rng)
intensity = blur(clean * background, optical_transfer(k / pixel_size, liquid))
area = (10 * pixel_size) ** 2  # Å² per pixel
electrons = rng.poisson(intensity * camera.dose * area)
counts = blur(electrons, camera_mtf(k, camera.mtf))
counts += camera.readout_noise * rng.standard_normal(clean.shape)
counts = np.rint(camera.gain * counts + camera.offset)
frame_by_hand = np.clip(counts, 0, camera.saturation).astype(np.uint16)

# %% [markdown]
# `record` does the same. It also mirrors the image at its edges, so that opposite edges do not blur into each other, and
# adds the camera's faulty pixels.

# %%
frame = record(clean, pixel_size, liquid, camera, np.random.default_rng(11))
for name, image in (("by hand", frame_by_hand), ("record", frame)):
    print(f"{name:8s} mean {image.mean():.1f}, standard deviation {image.std():.1f} counts")

# %% mystnb={"figure": {"caption": "One scene on its way to the camera: the clean image, then raw frames at four doses. The library draws from 3 to 300 e/Å². At the lowest dose here about 50 electrons per pixel pass the open liquid, and readout noise adds to their shot noise.", "name": "fig-dose"}}
fig, axes = plt.subplots(1, 5, figsize=(9.4, 2.3), layout="constrained")
show_frame(clean, pixel_size, axes[0], title="clean")
for ax, dose in zip(axes[1:], (300.0, 10.6, 3.0, 0.7), strict=True):
    frame = record(clean, pixel_size, liquid, CameraConfig(dose=dose), np.random.default_rng(11))
    show_frame(frame, pixel_size, ax, title=f"{dose:g} e/Å²")
plt.show()

# %% [markdown]
# **A movie needs more.** Hot and dead pixels belong to the camera, so they stay in place (`pixel_seed`). A tracker can
# mistake them for particles that do not move. The beam flickers: `brightness_flicker` gives one factor per frame, which
# `record` takes. Drift and rotation change the particles' positions before the image is made;
# [chapter 4](04_library) does that.

# %%
faulty = CameraConfig(
    dose=300.0, hot_pixels=2e-4, dead_pixels=2e-4, hot_signal=50_000.0, pixel_seed=1
)
flicker = brightness_flicker(8, std=0.03, correlation=3.0, rng=np.random.default_rng(1))
rng = np.random.default_rng(2)
movie = np.stack([record(clean, pixel_size, liquid, faulty, rng, background, b) for b in flicker])
print("mean of each frame over the first:", np.round(movie.mean(axis=(1, 2)) / movie[0].mean(), 3))
print("the beam's factors:               ", np.round(flicker / flicker[0], 3))
dark = (movie < 300).all(axis=0)
bright = (movie > np.percentile(movie, 99.9)).all(axis=0)
print(f"pixels dark in every frame: {dark.sum()}, bright in every frame: {bright.sum()}")
expected = 2e-4 * clean.size
print(
    f"expected of each: {expected:.0f} ± {np.sqrt(expected):.0f}; weak hot pixels do not stand out"
)

# %% [markdown]
# ## The noise follows its formulas
#
# **Before the camera the variance equals the mean.** We switch the camera's blur and readout off, record flat images
# at several doses, and compare. With the camera on, blur averages neighbouring electrons and lowers the variance. The
# MTF $M$ says by how much: each frequency $\mathbf{k}$ keeps $M^2(\mathbf{k})$ of its power, so
#
# $$
# \mathrm{var} = N \int M^2(\mathbf{k})\, d^2k + \sigma_\mathrm{readout}^2 .
# $$

# %%
flat = np.ones((256, 256))
still = LiquidConfig(water=0, windows=0, beam=0, clouds=0, blur=0)
k = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.fftfreq(256)[None, :])
kept = np.mean(camera_mtf(k) ** 2)  # the integral over all frequencies
doses = np.array([0.5, 1, 2, 5, 10, 20, 50])
moments = {}
for name, settings in {
    "ideal": {"mtf": (1, 1, 1), "readout_noise": 0},
    "usual": {"readout_noise": 20},
}.items():
    rngs = [np.random.default_rng((3, i)) for i in range(len(doses))]
    frames = [
        record(flat, 1.0, still, CameraConfig(dose=d, dead_pixels=0, **settings), r)
        for d, r in zip(doses, rngs, strict=True)
    ]
    moments[name] = np.array([(f.mean() - 100, f.var()) for f in frames])  # 100: the offset
ratio = moments["ideal"][:, 1] / moments["ideal"][:, 0]
print("ideal camera, variance / mean:   ", np.round(ratio, 3))
ratio = moments["usual"][:, 1] / (kept * moments["usual"][:, 0] + 20**2)
print("usual camera, variance / formula:", np.round(ratio, 3))
print(f"statistical error of a ratio: about {np.sqrt(2 / flat.size):.3f}")

# %% mystnb={"figure": {"caption": "Variance of a pixel against its mean. An ideal camera follows variance = mean; the usual one blurs the noise to a smaller variance and adds the readout's. Lines: formulas. Points: recorded flat frames.", "name": "fig-variance"}}
fig, ax = plt.subplots(figsize=(5.5, 3.6), layout="constrained")
mean = np.geomspace(40, 6000, 100)
ax.loglog(mean, mean, color=BLUE, label="variance = mean")
ax.loglog(mean, kept * mean + 20**2, color=ORANGE, label=f"{kept:.2f} × mean + 20²")
ax.plot(*moments["ideal"].T, "o", color=BLUE, label="without MTF and readout")
ax.plot(*moments["usual"].T, "s", color=ORANGE, label="with both")
ax.set(xlabel="mean (electrons per pixel)", ylabel="variance (electrons²)")
ax.legend(frameon=False, fontsize=9)
plt.show()

# %% [markdown]
# **After the camera neighbouring pixels are correlated.** White noise through $M$ has the power spectrum $M^2$, and
# the autocorrelation is its Fourier transform. Readout noise adds only to the value at distance zero. An analysis
# that takes pixels for independent gives error bars that are too small.

# %%
camera = CameraConfig(dose=20.0, dead_pixels=0, hot_pixels=0)
noise = record(flat, 1.0, still, camera, np.random.default_rng(5)).astype(float)
mean_electrons = camera.dose * 100.0  # a pixel of 1 nm is 100 Å²
spectrum = np.abs(np.fft.fft2(noise - noise.mean())) ** 2 / noise.size
measured = np.fft.ifft2(spectrum).real  # autocovariance, (dy, dx)
predicted = np.fft.ifft2(mean_electrons * camera_mtf(k) ** 2 + camera.readout_noise**2).real

# %% mystnb={"figure": {"caption": "Autocorrelation of the noise against distance: measured on a recorded flat frame (points, one standard error) and predicted from the MTF (line). Noise without MTF would be zero everywhere but at distance 0.", "name": "fig-autocorrelation"}}
lags = np.arange(8)
along = 0.5 * (measured[0, lags] + measured[lags, 0]) / measured[0, 0]
error = np.sqrt(np.sum((predicted / predicted[0, 0]) ** 2) / noise.size / 2)
fig, ax = plt.subplots(figsize=(5.5, 3.4), layout="constrained")
ax.axhline(0, color="0.8", lw=1)
ax.plot(lags, predicted[0, lags] / predicted[0, 0], color="0.4", label="from the MTF")
ax.errorbar(lags, along, error, fmt="o", color=BLUE, label="measured")
ax.set(xlabel="distance (pixels)", ylabel="autocorrelation")
ax.legend(frameon=False)
plt.show()
difference = np.abs(along - predicted[0, lags] / predicted[0, 0]).max()
print(f"largest difference {difference:.4f}, standard error {error:.4f}")

# %% [markdown]
# ## One frame shows what its camera does
#
# The real frame used in this book shows one layer of a nanoparticle lattice in liquid, particles standing in columns,
# 2.593 nm per pixel {cite:p}`ou2020`. Its counts are stored with 32768 added. `moirelib.data.fetch` looks for it in the
# folder named by `MOIRELIB_DATA`, then in a cache, and otherwise downloads it from where it was published.

# %% mystnb={"markdown_format": "myst"}
from IPython.display import Markdown, display

from moirelib.data import REGISTRY

try:
    counts = np.asarray(read_movie(fetch("np_lattice_2p593nm.tif")).frame(0), float) - 32768
    NAME, IS_REAL = "real frame", True
    interior = np.s_[400:912, 100:612]  # particles everywhere
except OSError:
    counts = real_frame_twin(46)[0].astype(float)
    NAME, IS_REAL = "simulated stand-in", False
    interior = np.s_[380:892, 250:762]
    missing = f"""```{{admonition}} The real frame is not at hand
:class: warning
This page was built without it. The measurements below use a **simulated stand-in**, made with the numbers that were
fitted to the real frame. Three figures with numbers that compare the real frame with its simulated twin are left out.
To see them, run the chapter with access to the internet, or save
[the published file]({REGISTRY["np_lattice_2p593nm.tif"].url}) as `np_lattice_2p593nm.tif` in a folder and set the
environment variable `MOIRELIB_DATA` to that folder.
```"""
    display(Markdown(missing))
print(f"{NAME}: {counts.shape} pixels, {counts.mean():.0f} ± {counts.std():.0f} counts")

# %% [markdown]
# **Gain, MTF, offset and readout noise** need no calibration frames, because the frame holds bright and dark liquid.
# We cut the frame into tiles of 32 pixels and take the power spectrum of each. The power at one frequency grows with the
# tile's mean {cite:p}`vulovic2010,grob2013`. Shot noise of mean $N$ electrons gives $g^2 M^2 N$ at gain $g$, and $N$ is
# (mean − offset) / $g$, so
#
# $$
# P(k) = g\, M^2(k)\, (\text{mean} - \text{offset}) + g^2 \sigma_\mathrm{readout}^2 :
# $$
#
# This is a straight line at each frequency, steeper where the MTF is greater. Specimen structure disturbs mostly
# frequencies below 0.12 cycles per pixel, which we leave out.

# %%
mean, k, power = noise_spectra(counts, tile=32)
edges = np.arange(0.12, 0.70, 0.04)
bands = [(k >= low) & (k < low + 0.04) for low in edges]
cycles = np.array([k[band].mean() for band in bands])
lines = [np.polyfit(mean, power[:, band].mean(axis=1), 1) for band in bands]
slope, intercept = np.transpose(lines)


def log_slope(frequency, gain, at_0p2, at_0p5):
    """Logarithm of gain · MTF²; the MTF at 0.1 cycles/pixel is the published one."""
    return np.log(gain * camera_mtf(frequency, (0.81, at_0p2, at_0p5)) ** 2)


(gain, at_0p2, at_0p5), covariance = curve_fit(log_slope, cycles, np.log(slope), (20, 0.6, 0.3))
error = np.sqrt(np.diag(covariance))
print(f"gain {gain:.0f} ± {error[0]:.0f} counts per electron")
print(f"MTF at 0.2: {at_0p2:.2f} ± {error[1]:.2f}, at 0.5: {at_0p5:.2f} ± {error[2]:.2f}")
fine = cycles > 0.2
(minus_offset, readout), covariance = np.polyfit(slope[fine], intercept[fine], 1, cov=True)
error = np.sqrt(np.diag(covariance))
print(f"offset {-minus_offset:.0f} ± {error[0]:.0f} counts")
print(f"readout variance {readout:.0f} ± {error[1]:.0f} counts², ", end="")
print(f"at most {np.sqrt(max(readout + error[1], 0)) / gain:.1f} electrons")
print(f"mean electrons per pixel: {(counts.mean() + minus_offset) / gain:.1f}")

# %% mystnb={"figure": {"caption": "A camera measured on one frame. Left: power of the noise in 1024 tiles against their mean, at three frequencies, with straight lines. They meet the axis near zero, so nearly all noise is shot noise. Right: the lines' slopes against frequency, the fitted gain times MTF squared, and the published MTF scaled to the same gain.", "name": "fig-camera"}}
fig, axes = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
for i, color in ((1, BLUE), (5, "#009E73"), (10, ORANGE)):
    axes[0].plot(mean, power[:, bands[i]].mean(axis=1), ".", ms=2, color=color, alpha=0.5)
    x = np.array([0, mean.max()])
    axes[0].plot(x, np.polyval(lines[i], x), color=color, label=f"{cycles[i]:.2f} cycles/pixel")
axes[0].set(
    xlabel="mean of a tile (counts)", ylabel="noise power (counts²)", xlim=0, ylim=(0, 6000)
)
axes[0].legend(frameon=False, fontsize=9)
f = np.linspace(0.02, 0.7, 100)
axes[1].semilogy(cycles, slope, "o", color=BLUE, label="slopes")
fitted = gain * camera_mtf(f, (0.81, at_0p2, at_0p5)) ** 2
axes[1].semilogy(f, fitted, color=BLUE, label="fit")
axes[1].semilogy(f, gain * camera_mtf(f) ** 2, "--", color="0.5", label="published MTF")
axes[1].set(xlabel="spatial frequency (cycles/pixel)", ylabel="slope (counts)")
axes[1].legend(frameon=False, fontsize=9)
plt.show()

# %% [markdown]
# Three things follow:
#
# - The noise is shot noise at every frequency. Readout adds a fraction of an electron; the published recipe has 20 to 40.
# - Its spectrum falls like the published MTF (0.62 and 0.28) or a little faster: a scintillator and fibre optics spread
#   each electron over a few pixels.
# - The "electrons" are *effective* ones. The signal differs from one electron to the next, which adds noise as if there
#   were fewer electrons. Gain and dose contain this.
#
# Below 0.1 cycles per pixel the specimen hides the noise. There the gain rests on the published MTF of 0.81, and
# exercise 4 shows how uncertain this makes it.
#
# **Faulty pixels** differ from their eight neighbours by far more than noise can.

# %%
neighbours = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]]) / 8
local = np.maximum(gaussian_filter(counts, 3) + minus_offset, 10)
outlier = (counts - convolve(counts, neighbours)) / np.sqrt(local)
outlier /= 1.4826 * np.median(np.abs(outlier - np.median(outlier)))  # in standard deviations
for name, found in (("hot", outlier > 10), ("dead", outlier < -10)):
    excess = (counts - convolve(counts, neighbours))[found] / gain
    print(
        f"{name} pixels: {found.sum()} in {counts.size}",
        *(f"off by {e:.0f} e" for e in excess),
        sep=", ",
    )

# %% [markdown]
# The real frame has one of each in a million pixels; the camera's software has probably mended the others. These are the
# defaults of `CameraConfig`; the library draws up to two in ten thousand.
#
# **The autocorrelation of the noise** depends on the definition of noise. Here we subtract a Gaussian average of 5 pixels
# from the frame and call the rest noise. The autocorrelation is taken over the whole frame along both axes
# (`noise_autocorrelation`); the first row of the table shows it at distances of 1, 2 and 3 pixels. What would other
# cameras give at the same number of electrons?

# %%
smooth = (gaussian_filter(counts, 4) - 20) / 28  # electrons per pixel: the frame without its noise
rows = {NAME: noise_autocorrelation(counts)}
for name, mtf, readout_noise in (
    ("no MTF", (1.0, 1.0, 1.0), 0.0),
    ("published MTF, readout 20 e", (0.81, 0.62, 0.28), 20.0),
    ("published MTF, readout 2 e", (0.81, 0.62, 0.28), 2.0),
    ("published MTF, no readout", (0.81, 0.62, 0.28), 0.0),
    ("fitted MTF, no readout", (0.81, 0.50, 0.25), 0.0),
):
    camera = CameraConfig(dose=0.01, mtf=mtf, readout_noise=readout_noise, gain=28.0, offset=2000.0)
    frame = record(
        smooth, 1.0, still, camera, np.random.default_rng(0), background=np.ones_like(smooth)
    )
    rows[name] = noise_autocorrelation(frame)
pd.DataFrame(rows, index=["1 px", "2 px", "3 px"]).T.round(3)

# %% [markdown]
# Readout noise is white, so it dilutes the correlation. Readout noise of 20 electrons would hide the shot noise of so few
# electrons completely. Without readout noise, the published MTF comes close and the fitted one closer. Two other
# explanations are excluded. Readout noise comes after the MTF, so it is not correlated. And in an image resampled by
# interpolation the noise power would fall to nothing towards the Nyquist frequency, which it does not do here.
#
# ## One frame shows what its liquid does
#
# **Clouds.** `background_spectrum` takes the *median* of the power on each ring of frequencies, which ignores the
# lattice's sharp reflections. Below 1/140 nm the clouds dominate. We fit their formula plus a constant for everything
# else:

# %%
frequency, power = background_spectrum(counts, REAL_PIXEL_SIZE)
slow = frequency < 0.008


def log_clouds(k, strength, size, floor, exponent=4.0):
    """Logarithm of the clouds' power spectrum, nm²."""
    x2 = (2 * np.pi * size * k) ** 2
    area = 4 * np.pi * size**2 * (exponent - 1) / exponent  # makes the integral strength²
    return np.log(strength**2 * area * (1 + x2 / exponent) ** -exponent + abs(floor))


for exponent in (2.5, 4.0, 8.0):
    formula = partial(log_clouds, exponent=exponent)
    fit, covariance = curve_fit(formula, frequency[slow], np.log(power[slow]), (0.15, 130.0, 5.0))
    misfit = np.sqrt(np.mean((formula(frequency[slow], *fit) - np.log(power[slow])) ** 2))
    error = np.sqrt(np.diag(covariance))
    print(
        f"exponent {exponent:3.1f}: strength {fit[0]:.2f} ± {error[0]:.2f}, "
        f"size {fit[1]:.0f} ± {error[1]:.0f} nm, misfit {misfit:.2f}"
    )
settings = LiquidConfig.real_frame()
print(
    f"taken from the real frame: exponent {settings.cloud_exponent:.1f}, "
    f"strength {settings.clouds:.2f}, size {settings.cloud_size:.0f} nm"
)

# %% [markdown]
# A larger exponent fits with a smaller size, so one frame does not determine both. We take an exponent of 4. One frame
# holds only a few clouds, so another frame with the same clouds can give another strength and size.
#
# **Particles.** We divide the frame by its local brightness and average around every dark spot. This gives the mean
# particle ({numref}`fig-particle`). It is about half as long again along a close-packed row as across. In the real frame
# three of the six gaps around it are brighter than the other three. Columns of particles that lean along a row explain
# the elongation; triangles that all point the same way explain the gaps. `real_frame_twin` has both: columns of three
# prisms. The elongation gives the lean of the columns, and the contrast gives the blur of the edges:

# %%
px = REAL_SPACING / REAL_PIXEL_SIZE  # spacing in pixels


def elongation(image):
    """Length over width of the mean particle, from the second moments of its darkness."""
    particle, _ = average_particle(image, px)
    y, x = np.indices(particle.shape) - particle.shape[0] // 2
    darkness = np.clip(1 - particle, 0, None) * (np.hypot(y, x) < 0.45 * px)
    moments = np.linalg.eigvalsh(np.cov(y.ravel(), x.ravel(), aweights=darkness.ravel()))
    return np.sqrt(moments[1] / moments[0])


endless = LatticeConfig(**{**vars(real_frame_lattice()), "edge": 0.0})  # particles everywhere
scan = {}
for lean, width in ((0, 23), (24, 23), (48, 23), (72, 23), (48, 16), (48, 30)):
    even = LiquidConfig(clouds=0, beam=0, blur=width)
    image, _ = real_frame_twin(1, size=512, lattice=endless, liquid=even, lean=lean)
    scan[f"lean {lean} nm, blur {width} nm"] = (elongation(image), particle_contrast(image, px))
scan[NAME] = (elongation(counts[interior]), particle_contrast(counts[interior], px))
pd.DataFrame(scan, index=["elongation", "contrast"]).T.round(2)

# %% mystnb={"figure": {"caption": "The mean particle and its six neighbours on one grey scale: in the frame at hand, which the title names; then simulated as upright spheres, upright prisms and leaning columns of prisms. The lattices have different directions. Compare the length of the particle and the gaps around it.", "name": "fig-particle"}}
even = LiquidConfig(clouds=0, beam=0, blur=14)
spheres = {**vars(endless), "shapes": ("sphere",), "diameter_ratio": (0.72, 0.72)}
prisms = {**vars(endless), "diameter_ratio": (0.6, 0.6)}
upright = {"size": 512, "liquid": even, "lean": 0, "mean_free_path": 150.0}
images = {
    NAME: counts[interior],
    "spheres": real_frame_twin(1, lattice=LatticeConfig(**spheres), **upright)[0],
    "prisms": real_frame_twin(1, lattice=LatticeConfig(**prisms), **upright)[0],
    "leaning columns": real_frame_twin(1, size=512, lattice=endless)[0],
}
fig, axes = plt.subplots(1, 4, figsize=(9, 2.6), layout="constrained")
for ax, (name, image) in zip(axes, images.items(), strict=True):
    show_frame(average_particle(image, px)[0], REAL_PIXEL_SIZE, ax, title=name)
    ax.images[0].set_clim(0.7, 1.2)
plt.show()

# %% [markdown]
# We take a lean of 48 nm and a blur of 23 nm. These two and the particles' mean free path of 40 nm are *effective*
# numbers. Unequal particles within one column, motion and defocus also soften an edge, and one frame does not tell them
# apart.
#
# ## A simulated twin of the real frame
#
# `real_frame_twin` puts everything together: one layer of columns 119.6 nm apart with an edge in the field, the clouds,
# a shadow from one side, and the fitted camera. It uses nothing else of the real frame: lattice direction, outline and
# clouds are random. We chose this one of sixty seeds because its layer ends inside the field, like the real one. The
# spectrum below is an average over this and the next seeds.

# %%
twin, _ = real_frame_twin(60)
twin_interior = np.s_[350:862, 60:572]
camera = CameraConfig.real_frame()
print(f"clouds {settings.clouds}, {settings.cloud_size:g} nm, shadow {settings.shadow}")
print(f"dose {camera.dose} e/Å², {settings.mean_transmission:.2f} of it through liquid and windows")

# %% mystnb={"figure": {"caption": "The real frame (left; Ou et al. 2020) beside its simulated twin (right), each at its own grey range from 0.5 to 99.5 %.", "name": "fig-real"}}
if IS_REAL:
    fig, axes = plt.subplots(1, 2, figsize=(9, 4.7), layout="constrained")
    show_frame(counts, REAL_PIXEL_SIZE, axes[0], title=NAME)
    show_frame(twin, REAL_PIXEL_SIZE, axes[1], title="simulated twin")
    plt.show()

# %% mystnb={"figure": {"caption": "The grain of the noise: 100 × 100 pixels of each frame, on one grey scale, every pixel visible. Grain spreads over two to three pixels in both.", "name": "fig-grain"}}
if IS_REAL:
    fig, axes = plt.subplots(1, 2, figsize=(9, 4.7), layout="constrained")
    patches = ((counts[440:540, 180:280], NAME), (twin[340:440, 540:640], "simulated twin"))
    for ax, (patch, title) in zip(axes, patches, strict=True):
        show_frame(patch, REAL_PIXEL_SIZE, ax, title=title)
        ax.images[0].set_clim(60, 360)
    plt.show()

# %% tags=["remove-input"] mystnb={"markdown_format": "myst"}
if IS_REAL:
    display(Markdown("Similar pictures are a weak test, so we compare numbers."))
else:
    missing = """```{admonition} The comparison is left out
:class: warning
With the real frame at hand, this place shows it beside its twin, the grain of both, and their statistics and spectra in
numbers. Below is the simulated twin alone.
```"""
    display(Markdown(missing))
    fig, ax = plt.subplots(figsize=(4.5, 4.7), layout="constrained")
    show_frame(twin, REAL_PIXEL_SIZE, ax, title="simulated twin")
    plt.show()

# %%
if IS_REAL:
    table = pd.DataFrame(
        {
            NAME: frame_statistics(counts, px, interior),
            "twin": frame_statistics(twin, px, twin_interior),
        }
    )
    table["twin / real"] = table["twin"] / table[NAME]
    display(table.round(3))

# %%
if IS_REAL:
    frequency, real_power = background_spectrum(counts, REAL_PIXEL_SIZE)
    seeds = range(60, 66 if FAST else 76)
    spectra = [background_spectrum(real_frame_twin(s)[0], REAL_PIXEL_SIZE)[1] for s in seeds]
    # geometric mean: the power at one ring scatters by a factor
    typical = np.exp(np.mean(np.log(spectra), axis=0))
    ratio = typical / real_power
    spectrum_factor = np.exp(np.abs(np.log(ratio)).max())
    print(f"power of {len(spectra)} twins over the real frame's, by frequency:")
    print(np.round(ratio, 2))

# %% mystnb={"figure": {"caption": "Left: histograms of all pixels of the real frame and its twin. Right: power of the relative intensity against spatial frequency, without the lattice; the band spans the simulated twins. The lowest frequencies come from a dozen samples of one frame, so there the band is wide.", "name": "fig-numbers"}}
if IS_REAL:
    fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    bins, step = np.arange(0, 480, 8), {"histtype": "step", "lw": 1.6}
    axes[0].hist(counts.ravel(), bins, color=BLUE, alpha=0.4, density=True, label=NAME)
    axes[0].hist(twin.ravel(), bins, color=ORANGE, density=True, label="simulated twin", **step)
    axes[0].set(xlabel="counts", ylabel="share of pixels per count")
    axes[0].legend(frameon=False)
    axes[1].loglog(frequency, real_power, "o-", ms=4, color=BLUE, label=NAME)
    axes[1].loglog(frequency, typical, color=ORANGE, label=f"{len(spectra)} twins")
    band = {"color": ORANGE, "alpha": 0.3, "lw": 0}
    axes[1].fill_between(frequency, np.min(spectra, axis=0), np.max(spectra, axis=0), **band)
    axes[1].set(xlabel="spatial frequency (1/nm)", ylabel="power (nm²)")
    axes[1].legend(frameon=False)
    plt.show()

# %% tags=["remove-input"] mystnb={"markdown_format": "myst"}
if IS_REAL:
    agreement = (table["twin / real"] - 1).abs()
    grain = table.filter(like="autocorrelation", axis=0)
    text = f"""The mean, the standard deviation and the quantiles agree to about {100 * agreement[:9].max():.0f} %,
the particles' contrast to {100 * agreement["particle contrast"]:.0f} %, the noise correlation to
{(grain["twin"] - grain[NAME]).abs().max():.2f}, and the spectrum to a factor of {spectrum_factor:.2f} over
{np.log10(real_power.max() / real_power.min()):.0f} decades of power. The pictures also show what the twin lacks: sharp
fronts and residue in the liquid, rows that bend, columns whose lean changes across the field, and gaps as bright as the
real ones."""
    display(Markdown(text))

# %% [markdown]
# ## Where every default comes from
#
# | setting | default | source |
# |---|---|---|
# | `water`, `windows` | 250 nm, 2 × 50 nm | published recipe {cite:p}`moiresimulation` |
# | `water_mean_free_path`, `window_mean_free_path` | 185, 144 nm | published recipe; formula above: 177, 137 nm; scaled by it to other energies |
# | elastic paths | 707, 177 nm | scattering factors beyond 10 mrad, above |
# | `Lens`: `energy`, `aperture` | 200 keV, 10 mrad | the table of [chapter 2](02_multislice) |
# | `energy_loss` | 22 eV | loss function of water {cite:p}`hayashi2000` |
# | `Lens`: `chromatic_aberration` | 1.4 mm | usual for a 200 kV objective lens, 1 to 2 mm {cite:p}`williams2009` |
# | `beam` | 1 | median of the published recipe |
# | `wedge`, `shadow` | 0 | none unless asked for; the library draws them |
# | `clouds`, `cloud_size`, `cloud_exponent` | 0.14, 140 nm, 4 | fitted to the real frame |
# | `blur` | 1 nm | vibration in published tracks of rods, at most |
# | `disk_blur` | 0 | the published recipe has 8 to 10 pixels of 1.367 nm |
# | `dose` | 10.6 e/Å² | published recipe: 106 e/Å²/s, 0.1 s per frame |
# | `mtf` | 0.81, 0.62, 0.28 | published simulation's; the fit to the real frame is a fifth lower at 0.2, a tenth at 0.5 |
# | `readout_noise` | 20 e | published recipe, 20 to 40 e; the real frame has hardly any |
# | `gain`, `offset` | 1, 100 | counts are electrons; five standard deviations of readout noise stay above zero |
# | `saturation` | 65535 | 16 bits |
# | `hot_pixels`, `dead_pixels`, `hot_signal` | 10⁻⁶, 10⁻⁶, 15 e | the real frame |
#
# `LiquidConfig.published()` and `CameraConfig.published()` are the published Moiré recipe, `real_frame()` the fits of
# this page. One difference to the published program is intended: it adds readout noise *before* the MTF, so its readout
# noise is correlated like shot noise. moirelib adds it after the MTF, as a camera does.

# %% mystnb={"figure": {"caption": "The published recipe: standing gold rods, 112.1 nm high, in two layers, at 700 nm and 512 pixels, 10.6 e/Å². Overlaps are nearly opaque.", "name": "fig-published"}}
rods = random_scene(LatticeConfig.published(), (700.0, 700.0), np.random.default_rng(3))
recipe = LiquidConfig.published()
clean_rods = clean_image(
    rods,
    700 / 512,
    mean_free_path=35.0,
    liquid_mean_free_path=recipe.liquid_mean_free_path,
    oversampling=2,
)
raw = record(clean_rods, 700 / 512, recipe, CameraConfig.published(), np.random.default_rng(4))
fig, axes = plt.subplots(1, 2, figsize=(8, 4.2), layout="constrained")
show_frame(clean_rods, 700 / 512, axes[0], title="clean, in focus")
show_frame(raw, 700 / 512, axes[1], title="raw frame")
plt.show()

# %% [markdown]
# ## Exercises
#
# **1.** The liquid swells from 250 to 500 nm. By which factor must the dose rise to keep the number of electrons per
# pixel, with and without an energy filter? What is still lost?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
for zero_loss in (False, True):
    thin, thick = (LiquidConfig(water=w, zero_loss=zero_loss) for w in (250.0, 500.0))
    factor = thin.mean_transmission / thick.mean_transmission
    sharp = [float(optical_transfer(0.05, c)) for c in (thin, thick)]
    print(f"filter {zero_loss}: dose × {factor:.2f}, ", end="")
    print(f"contrast kept at 20 nm: {sharp[0]:.2f} and {sharp[1]:.2f}")
# Without a filter the dose rises by less than half, but fine contrast falls, and no dose brings it back.

# %% [markdown]
# **2.** You average $n$ frames of a specimen that does not move. How does the noise fall? Test it for 16 frames on
# the flat image.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
rng = np.random.default_rng(12)
stack = np.stack([record(flat, 1.0, still, CameraConfig(), rng) for _ in range(16)]).astype(float)
one, averaged = stack[0].std(), stack.mean(axis=0).std()
print(
    f"one frame {one:.1f} counts, 16 averaged {averaged:.2f}: a factor of {one / averaged:.2f}; expected √16 = 4"
)
# In a real movie the particles vibrate and the liquid moves, so averaging also blurs.

# %% [markdown]
# **3.** Put the noise in the wrong place: blur the intensity with the {term}`MTF` first, then draw Poisson numbers.
# What happens to the correlation between neighbours, and what would a network trained on such frames do with a real one?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
k = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.fftfreq(256)[None, :])
intensity = np.full((256, 256), mean_electrons)
wrong = np.random.default_rng(13).poisson(blur(intensity, camera_mtf(k))).astype(float)
wrong -= wrong.mean()
neighbours = np.mean(wrong[:, 1:] * wrong[:, :-1]) / np.mean(wrong**2)
print(
    f"correlation of neighbours: {neighbours:.3f} in the wrong order, {along[1]:.3f} in the right one"
)
# White noise vanishes in an average over a few pixels; correlated grain does not. A network trained on white noise would
# take such grain for structure.

# %% [markdown]
# **4.** Check the fit of the camera on a frame whose camera is known: run the steps of {numref}`fig-camera` on the
# twin. Are gain, MTF and offset right within their errors?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
mean, _, power = noise_spectra(twin, tile=32)
lines = [np.polyfit(mean, power[:, band].mean(axis=1), 1) for band in bands]
slope, intercept = np.transpose(lines)
(gain, at_0p2, at_0p5), covariance = curve_fit(log_slope, cycles, np.log(slope), (20, 0.6, 0.3))
error = np.sqrt(np.diag(covariance))
truth = CameraConfig.real_frame()
print(f"gain {gain:.1f} ± {error[0]:.1f}, true {truth.gain:g}")
print(f"MTF {at_0p2:.2f} ± {error[1]:.2f}, {at_0p5:.2f} ± {error[2]:.2f}, true {truth.mtf[1:]}")
print(f"offset {-np.polyfit(slope[fine], intercept[fine], 1)[0]:.0f}, true {truth.offset:g}")
excess = slope / (truth.gain * camera_mtf(cycles, truth.mtf) ** 2) - 1
print(
    f"slopes too high by {excess[:2].mean():.0%} in the lowest two bands, else {excess[2:].mean():.0%}"
)
# No: the gain is too high and the MTF too low, by more than their errors. These count only the scatter of the points
# about the curve. The lattice adds power to the lowest bands, and the fixed MTF of 0.81 turns this into a higher gain.

# %% [markdown]
# ## Summary
#
# - Elastic scattering beyond the aperture removes electrons; energy losses blur those that arrive. An energy filter, and
#   the published recipe, also remove electrons that lost energy: an eighth of the electrons is left instead of two
#   fifths.
# - Beam, shadow, wedge and clouds change the grey level as much as particles do, but over longer distances.
# - Poisson noise comes before the camera's MTF and readout noise after it. The variance and the autocorrelation of
#   recorded frames follow the formulas.
# - Bright and dark parts of one frame together give the camera's gain, MTF, offset and readout noise.

# %% tags=["remove-input"] mystnb={"markdown_format": "myst"}
if IS_REAL:
    summary = f"""A twin simulated with the fitted numbers matches the real frame: statistics to about
  {100 * agreement[:9].max():.0f} %, contrast to {100 * agreement["particle contrast"]:.0f} %, the spectrum to a factor of
  {spectrum_factor:.2f}."""
else:
    summary = """`real_frame_twin` simulates a frame with these numbers. This page was built without the real frame, so
  it does not show how well the two agree."""
display(Markdown(f"- {summary}"))

# %% [markdown]
# ## In practice
#
# - **Measure your camera.** The fit above needs one frame with bright and dark parts; a beam-stop image also gives the
#   MTF below 0.1 cycles per pixel. The spectrum of the noise is not exactly the MTF squared; it may fall more slowly
#   {cite:p}`vulovic2010`.
# - **Counts are not always electrons.** Gain, binning, compression and display scaling change the variance. In a movie
#   exported to 8 bits the variance no longer follows from the mean.
# - **One real frame is one real frame.** Clouds, shadow and contrast of other cells and days differ. The
#   [library](04_library) draws from ranges around these numbers.
# - **Clouds are Gaussian random fields.** Real liquid has fronts, bubbles and residue with sharp edges, as in the
#   right part of the real frame. The training library has no such edges.
# - **Chromatic blur is the same everywhere.** It ignores the depth of the particle, the energy loss in gold, and the
#   stronger blur in thicker parts of a wedge {cite:p}`dejonge2011`.
# - **Particles stand still during a frame**, apart from the blur.
#
# Next: [thousands of such frames with their truth](04_library).
