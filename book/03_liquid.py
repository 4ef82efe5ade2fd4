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
# - put liquid, windows, an uneven beam and moving clouds around the particles
# - turn intensity into electrons, and electrons into camera counts, with noise in the right order
# - check the noise: variance equals mean before the camera, correlated after it
# - set a simulated frame beside a real one
#
# Needs [chapter 2](02_multislice) · CPU · 5 seconds (fast), 10 seconds (full) · 0.3 GB
# ```
#
# The clean image of chapter 2 is what an ideal microscope would see in vacuum. A raw {term}`frame` from a
# {term}`liquid cell` differs in every respect that makes it hard to read {cite:p}`ross2015`, and a network trained on
# clean images fails on raw ones.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

from moirelib.data import fetch
from moirelib.lattice import LatticeConfig, random_scene
from moirelib.liquid import CameraConfig, LiquidConfig, camera_mtf, liquid_background, record
from moirelib.movies import read_movie
from moirelib.optics import clean_image
from moirelib.plot import LAYER_COLORS, show_frame

FAST = os.environ.get("MOIRELIB_FAST", "1") != "0"
plt.rcParams["figure.dpi"] = 144
SIZE = 320 if FAST else 640  # pixels

# %% [markdown]
# The specimen is a base layer of 30 nm spheres under an island, twisted by 9°.

# %%
lattice = LatticeConfig(
    shapes=("sphere",),
    diameter_ratio=(0.77, 0.77),
    twist_angle=(9.0, 9.0),
    island=1,
    edge=0,
    boundary=0,
    single_layer=0,
)
pixel_size = 1.367  # nm
scene = random_scene(lattice, (SIZE * pixel_size,) * 2, np.random.default_rng(2), spacing=39.0)
clean = clean_image(scene, pixel_size, defocus=200.0, mean_free_path=35.0)

# %% [markdown]
# ## Liquid and windows take electrons away
#
# An electron that loses energy or is scattered far in the liquid or in the windows no longer carries a sharp image.
# What remains falls exponentially with thickness over the {term}`mean free path`; two materials in a row multiply.
# `LiquidConfig` holds thicknesses and mean free paths (185 nm in water, 144 nm in silicon nitride: values used in
# published simulations of such movies).

# %%
liquid = LiquidConfig(water=250.0, windows=100.0)
by_hand = np.exp(-250.0 / 185.0) * np.exp(-100.0 / 144.0)
print(
    f"{100 * liquid.mean_transmission:.1f} % of the electrons are left; by hand {100 * by_hand:.1f} %"
)

# %% [markdown]
# ## Nothing is evenly bright
#
# The beam is brighter in its middle, an aperture or the cell's edge may cast a shadow, and the liquid's thickness and
# contents vary slowly. This is the {term}`amorphous background` ({numref}`fig-background`). It changes the grey level
# by as much as a particle does, but over longer distances, and that is the only thing that tells the two apart.

# %% mystnb={"figure": {"caption": "Background without particles: an uneven beam; a shadow from one side; clouds in the liquid; everything together. Grey is scaled to each panel.", "name": "fig-background"}}
base = {"beam": 0.0, "shadow": 0.0, "clouds": 0.0}
panels = (
    ("beam", LiquidConfig(**{**base, "beam": 1.0})),
    ("shadow", LiquidConfig(**{**base, "shadow": 0.6})),
    ("clouds", LiquidConfig(**{**base, "clouds": 0.15, "cloud_size": 60.0})),
    ("together", LiquidConfig(beam=1.0, shadow=0.6, clouds=0.15)),
)
fig, axes = plt.subplots(1, 4, figsize=(8, 2.4), layout="constrained")
for ax, (title, settings) in zip(axes, panels, strict=True):
    background = liquid_background((SIZE, SIZE), pixel_size, settings, np.random.default_rng(7))
    show_frame(
        background,
        pixel_size,
        ax,
        title=f"{title}\n{background.min():.2f} to {background.max():.2f}",
    )
plt.show()

# %% [markdown]
# ## Count electrons first, blur second
#
# The order of the remaining steps decides what noise looks like:
#
# 1. Optics blur the *intensity*: energy loss in the liquid, and motion during the exposure.
# 2. Electrons arrive one by one. A pixel of mean $N$ counts a Poisson number, which scatters by $\sqrt{N}$:
#    {term}`shot noise`. The mean is the {term}`dose` times the pixel's area.
# 3. The camera spreads each electron's signal over neighbouring pixels: its {term}`MTF` blurs image *and noise*.
# 4. Reading out adds noise once more, independent in every pixel.
#
# In NumPy, with Fourier transforms for the two blurs:

# %%
rng = np.random.default_rng(11)
camera = CameraConfig(dose=10.6)  # electrons/Å²
k = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.fftfreq(SIZE)[None, :])  # cycles/pixel
optics = np.exp(
    -2 * (np.pi * liquid.blur / pixel_size * k) ** 2
)  # a Gaussian of standard deviation `blur`


def blur(image, transfer):
    """Multiply an image's Fourier transform by a transfer function."""
    return np.fft.ifft2(np.fft.fft2(image) * transfer).real


background = liquid_background(clean.shape, pixel_size, liquid, rng)
intensity = blur(clean * background, optics)
area = (10 * pixel_size) ** 2  # Å² per pixel
electrons = rng.poisson(intensity * camera.dose * area)
counts = blur(electrons, camera_mtf(k, camera.mtf))
counts += camera.readout_noise * rng.standard_normal(clean.shape)
counts = np.rint(camera.gain * counts + camera.offset)
frame_by_hand = np.clip(counts, 0, 65535).astype(np.uint16)

# %% [markdown]
# `record` does the same, and mirrors the image at its edges so that opposite edges do not blur into each other.

# %%
frame = record(clean, pixel_size, liquid, camera, np.random.default_rng(11))
print(
    f"by hand   mean {frame_by_hand.mean():.1f}, standard deviation {frame_by_hand.std():.1f} counts"
)
print(f"record    mean {frame.mean():.1f}, standard deviation {frame.std():.1f} counts")

# %% mystnb={"figure": {"caption": "One scene on its way to the camera: the clean image, then raw frames at three doses. At the lowest, 12 electrons arrive per pixel of the open liquid, and the noise hides the particles.", "name": "fig-dose"}}
fig, axes = plt.subplots(1, 4, figsize=(8, 2.4), layout="constrained")
show_frame(clean, pixel_size, axes[0], title="clean")
for ax, dose in zip(axes[1:], (100.0, 10.6, 0.5), strict=True):
    frame = record(clean, pixel_size, liquid, CameraConfig(dose=dose), np.random.default_rng(11))
    show_frame(frame, pixel_size, ax, title=f"{dose:g} e/Å²")
plt.show()

# %% [markdown]
# ## The noise obeys its laws
#
# **Before the camera the variance equals the mean.** We switch the camera's blur and readout off, record flat images
# at several doses, and compare. With the camera on, the variance falls below the mean: blurring averages neighbouring
# electrons. By how much follows from the MTF $M$: each frequency $\mathbf{k}$ keeps $M^2(\mathbf{k})$ of its power,
# so
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
    "real": {"readout_noise": 20},
}.items():
    rngs = [np.random.default_rng((3, i)) for i in range(len(doses))]
    frames = [
        record(flat, 1.0, still, CameraConfig(dose=d, **settings), r)
        for d, r in zip(doses, rngs, strict=True)
    ]
    moments[name] = np.array(
        [(f.mean() - 100, f.var()) for f in frames]
    )  # 100 is the camera's offset
print(
    "ideal camera, variance / mean:", np.round(moments["ideal"][:, 1] / moments["ideal"][:, 0], 3)
)
formula = kept * moments["real"][:, 0] + 20**2
print("real camera, variance / formula:", np.round(moments["real"][:, 1] / formula, 3))
print(f"statistical error of a ratio: about {np.sqrt(2 / flat.size):.3f}")

# %% mystnb={"figure": {"caption": "Variance of a pixel against its mean. An ideal camera follows variance = mean; the real one blurs the noise to a smaller variance and adds the readout's. Lines: formulas. Points: recorded flat frames.", "name": "fig-variance"}}
fig, ax = plt.subplots(figsize=(5.5, 3.6), layout="constrained")
mean = np.geomspace(40, 6000, 100)
ax.loglog(mean, mean, color=LAYER_COLORS[0], label="variance = mean")
ax.loglog(mean, kept * mean + 20**2, color=LAYER_COLORS[1], label=f"{kept:.2f} × mean + 20²")
ax.plot(*moments["ideal"].T, "o", color=LAYER_COLORS[0], label="without MTF and readout")
ax.plot(*moments["real"].T, "s", color=LAYER_COLORS[1], label="with both")
ax.set(xlabel="mean (electrons per pixel)", ylabel="variance (electrons²)")
ax.legend(frameon=False, fontsize=9)
plt.show()

# %% [markdown]
# **After the camera neighbouring pixels are correlated.** White noise through $M$ has the power spectrum $M^2$, and
# the autocorrelation is its Fourier transform; readout noise only adds to the value at distance zero. An analysis
# that takes pixels for independent will call its error bars smaller than they are.

# %%
camera = CameraConfig(dose=20.0)
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
ax.errorbar(lags, along, error, fmt="o", color=LAYER_COLORS[0], label="measured")
ax.set(xlabel="distance (pixels)", ylabel="autocorrelation")
ax.legend(frameon=False)
plt.show()
print(
    f"largest difference {np.abs(along - predicted[0, lags] / predicted[0, 0]).max():.4f}, standard error {error:.4f}"
)

# %% [markdown]
# ## Beside a real frame
#
# The real frame below shows one layer of a nanoparticle lattice in liquid {cite:p}`ou2020`, 2.593 nm per pixel.
# `moirelib.data.fetch` looks for it in the folder named by `MOIRELIB_DATA`, then in a cache, and downloads it from
# where it was published otherwise. Without a network the page says so and goes on.

# %%
try:
    movie = read_movie(fetch("np_lattice_2p593nm.tif"))
    real = movie.frame(0)[400:912, 100:612]
    real_pixel_size = movie.pixel_size
except OSError:
    real, real_pixel_size = None, 2.593
    print("The real frame is not at hand, so only the simulated one is shown.")

# %% [markdown]
# The simulated frame has the same spacing (118 nm) and pixel size. Dose, clouds and blur were set by eye, not fitted.

# %%
lattice = LatticeConfig(
    shapes=("sphere",),
    diameter_ratio=(0.72, 0.72),
    position_std=(0.03, 0.03),
    single_layer=1,
    edge=0,
    boundary=0,
)
one_layer = random_scene(
    lattice, (512 * real_pixel_size,) * 2, np.random.default_rng(5), spacing=118.0
)
vacuum = clean_image(one_layer, real_pixel_size, defocus=500.0, mean_free_path=150.0)
cell = LiquidConfig(water=300, clouds=0.06, cloud_size=150.0, beam=0.5, blur=10.0)
simulated = record(
    vacuum,
    real_pixel_size,
    cell,
    CameraConfig(dose=0.13, readout_noise=0.3),
    np.random.default_rng(6),
)

# %% mystnb={"figure": {"caption": "A real frame (left; Ou et al. 2020) beside a simulated one (right) of the same spacing, pixel size and kind of background.", "name": "fig-real"}}
fig, axes = plt.subplots(1, 2, figsize=(8, 4.2), layout="constrained")
if real is None:
    axes[0].text(
        0.5, 0.5, "real frame not at hand", ha="center", va="center", transform=axes[0].transAxes
    )
    axes[0].set_axis_off()
else:
    show_frame(real, real_pixel_size, axes[0], title="real")
show_frame(simulated, real_pixel_size, axes[1], title="simulated")
plt.show()


# %% [markdown]
# Looking alike is a weak test. A stronger one compares the power at each spatial frequency, here in units of the
# lattice peak, so that neither gain nor offset of the camera matters. The lattice peaks should stand at one place,
# and the noise at high frequency should be as strong against them and fall as the {term}`MTF` makes it fall.


# %%
def radial_spectrum(image, pixel_size):
    """Power spectrum averaged over directions, in units of its peak near the lattice's frequency."""
    window = np.hanning(image.shape[0])[:, None] * np.hanning(image.shape[1])
    power = np.abs(np.fft.fft2((image - np.mean(image)) * window)) ** 2
    k = np.hypot(np.fft.fftfreq(image.shape[0])[:, None], np.fft.fftfreq(image.shape[1])[None, :])
    rings = np.round(k * image.shape[0]).astype(int).ravel()
    mean = np.bincount(rings, power.ravel()) / np.bincount(rings)
    ring = np.arange(2, image.shape[0] // 2)
    frequency = ring / (image.shape[0] * pixel_size)  # 1/nm
    lattice_peak = mean[ring][(frequency > 0.008) & (frequency < 0.012)].max()
    return frequency, mean[ring] / lattice_peak


# %% mystnb={"figure": {"caption": "Power against spatial frequency of the frames above, in units of the lattice peak. The dotted line is the frequency of the lattice rows, 1/102 nm.", "name": "fig-spectra"}}
fig, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
for name, image, color in (
    ("real", real, LAYER_COLORS[0]),
    ("simulated", simulated, LAYER_COLORS[1]),
):
    if image is not None:
        ax.loglog(*radial_spectrum(image, real_pixel_size), color=color, label=name)
ax.axvline(1 / (np.sqrt(3) / 2 * 118), color="0.5", ls=":")
ax.set(xlabel="spatial frequency (1/nm)", ylabel="power (lattice peak = 1)")
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# With the real frame at hand: the lattice peaks stand at one frequency. The dose was chosen so that the noise is
# equally strong; with little readout noise it then falls with nearly the same slope, which speaks for the MTF. The
# finer peaks differ: the real frame has a strong one at $\sqrt{3}$ times the first frequency, where our simulated one
# has almost none. Their strengths depend on the particles' shape and profile, and the real particles are not our
# spheres.
#
# ## Exercises
#
# **1.** The liquid swells from 250 to 500 nm. By which factor must the dose rise to keep the number of electrons per
# pixel?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
thin, thick = LiquidConfig(water=250.0), LiquidConfig(water=500.0)
print(
    f"factor {thin.mean_transmission / thick.mean_transmission:.2f} = exp(250/185) = {np.exp(250 / 185):.2f}"
)

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
# On a real movie the particles vibrate and the liquid moves, so averaging blurs what it cleans.

# %% [markdown]
# **3.** Put the noise in the wrong place: blur the intensity with the {term}`MTF` first, then draw Poisson numbers.
# What happens to the correlation between neighbours, and how would a network trained on such frames see a real one?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
intensity = np.full((256, 256), mean_electrons)
wrong = np.random.default_rng(13).poisson(blur(intensity, camera_mtf(k))).astype(float)
wrong -= wrong.mean()
neighbours = np.mean(wrong[:, 1:] * wrong[:, :-1]) / np.mean(wrong**2)
print(
    f"correlation of neighbours: {neighbours:.3f} in the wrong order, {along[1]:.3f} in the right one"
)
# White noise can be averaged away over a few pixels; real, correlated grain cannot. A network trained on white noise
# would take such grain for structure.

# %% [markdown]
# ## Summary
#
# - Liquid and windows let through $\exp(-\sum t_i / \Lambda_i)$, about an eighth of the electrons for 250 nm of water
#   and 100 nm of silicon nitride.
# - Beam, shadow and clouds change the grey level as much as particles do, but slowly.
# - Poisson noise comes before the camera's MTF and readout noise after it. The variance and the autocorrelation of
#   recorded frames follow the formulas.
# - `record` does all of it, from a seed.
#
# ## In practice
#
# - **Measure your camera.** The MTF here is a curve through three published numbers at 0.1, 0.2 and 0.5 cycles per
#   pixel. A beam-stop image gives your own; a flat frame gives gain and readout noise as in {numref}`fig-variance`.
# - **Counts are not always electrons.** Gain, binning, compression and display scaling change the variance; a movie
#   exported to 8 bits has lost its noise law.
# - **Inelastic scattering is a blur here**, one Gaussian (or disk) of given width. A real energy-loss tail also
#   depends on depth and lens.
# - **Clouds are Gaussian random fields.** Real liquid has fronts, bubbles and residue with sharp edges, as in the
#   right part of the full real frame. Such edges are not in the training library.
# - **Particles stand still during a frame**, apart from the blur.
#
# Next: [thousands of such frames with their truth](04_library).
