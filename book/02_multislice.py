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
# (multislice)=
# # Send electrons through gold
#
# ```{admonition} In this chapter
# :class: tip
# - follow an electron wave through one atomistic gold particle, slice by slice
# - read the transmission of gold against its thickness off that one particle
# - compose images of whole lattices from it
# - propagate and defocus a wave, and check that no electron is lost
#
# Needs [chapter 1](01_lattices) · CPU · 10 seconds (fast), 20 seconds (full) · 0.8 GB
# ```
#
# A 700 nm field with two layers of 30 nm particles holds some six hundred million gold atoms: too many to simulate
# atom by atom. One small particle is not. This chapter simulates one with full atomic detail and reuses what it
# teaches for images of lattices.

# %%
import os

import abtem
import matplotlib.pyplot as plt
import numpy as np
from numpy.fft import fft2, ifft2

from moirelib.lattice import LatticeConfig, gold_particle, random_scene
from moirelib.optics import (
    Transmission,
    clean_image,
    electron_wavelength,
    fresnel_propagate,
    layer_thickness,
    particle_exit_wave,
)
from moirelib.plot import LAYER_COLORS, show_frame

FAST = os.environ.get("MOIRELIB_FAST", "1") != "0"
plt.rcParams["figure.dpi"] = 144
ENERGY = 200e3  # eV

# %% [markdown]
# ## Electrons are fast and their waves are short
#
# At the {term}`beam energy` of 200 keV an electron moves at 70 % of the speed of light, so its wavelength needs
# relativity: $\lambda = hc / \sqrt{E\,(E + 2mc^2)}$ {cite:p}`kirkland2020`. At 2.5 pm it is a hundredth of the
# distance between gold atoms.

# %%
hc, mc2 = 1239.84198, 510998.95  # eV·nm, eV
for energy in (80e3, 200e3, 300e3):
    by_hand = hc / np.sqrt(energy * (energy + 2 * mc2))
    slow = hc / np.sqrt(energy * 2 * mc2)
    print(f"{energy / 1e3:.0f} keV: {1e3 * electron_wavelength(energy):.4f} pm", end="")
    print(f"   by hand {1e3 * by_hand:.4f} pm   without relativity {1e3 * slow:.4f} pm")

# %% [markdown]
# ## Multislice: delay, propagate, repeat
#
# The positive nuclei speed the electron up. In a slice thin enough that the wave does not spread inside it, this only
# advances the phase, by $\sigma$ times the slice's {term}`projected potential`; then the wave propagates through
# empty space to the next slice. These two steps, repeated, are {term}`multislice` {cite:p}`cowley1957`. abTEM
# {cite:p}`madsen2021` computes the potential from tabulated atoms {cite:p}`lobato2014`, in Å and volts.

# %%
diameter = 3.0 if FAST else 6.0  # nm
atoms = gold_particle(diameter, np.random.default_rng(1))
sampling = 0.1  # Å
potential = abtem.Potential(atoms, sampling=sampling, slice_thickness=2.0, parametrization="lobato")
potential = potential.build(lazy=False)
slices = potential.array / 10  # (slice, x, y), volt·nm
print(
    f"{len(atoms)} gold atoms, {slices.shape[0]} slices of {slices.shape[1]} × {slices.shape[2]} samples"
)

# %% [markdown]
# The whole algorithm is the loop below. `limit` cuts the highest frequencies, which the discrete transform would fold
# back onto low ones; `aperture` blocks what the objective {term}`aperture` blocks, here everything scattered beyond
# 10 mrad.

# %%
wavelength, n, pixel = electron_wavelength(ENERGY), slices.shape[1], sampling / 10  # nm
# interaction constant, in radians per volt·nm
sigma = 2 * np.pi / (wavelength * ENERGY) * (ENERGY + mc2) / (ENERGY + 2 * mc2)
k = np.fft.fftfreq(n, pixel)
k = np.hypot(k[:, None], k[None, :])  # 1/nm
limit = k < 2 / 3 * 0.5 / pixel
# each slice is 0.2 nm thick
propagator = limit * np.exp(-1j * np.pi * wavelength * 0.2 * k**2)

wave = np.ones((n, n), complex)
for projected in slices:
    wave = ifft2(fft2(wave * np.exp(1j * sigma * projected)) * propagator)

aperture = wavelength * k < 10e-3
by_hand = ifft2(fft2(wave) * aperture).T  # abTEM indexes (x, y), this book (y, x)

# %% [markdown]
# `particle_exit_wave` lets abTEM do all of it, with anti-aliasing and parallel computing done properly. Both agree:

# %%
exit_wave = particle_exit_wave(atoms, energy=ENERGY, aperture=10.0, sampling=sampling)
difference = np.abs(by_hand - exit_wave)
print(
    f"difference from abTEM: {difference.max():.1e} at most, {np.sqrt(np.mean(difference**2)):.1e} r.m.s."
)

# %% mystnb={"figure": {"caption": "Exit wave of one gold sphere behind a 10 mrad aperture. Left, intensity: dark where electrons were scattered out of the aperture. Right, phase: it grows with thickness. The crystal in its random orientation shows in both; the ripples outside come from the aperture's sharp edge.", "name": "fig-exit-wave"}}
fig, axes = plt.subplots(1, 2, figsize=(8, 3.7), layout="constrained")
for ax, values, cmap, label in zip(
    axes,
    (np.abs(exit_wave) ** 2, np.angle(exit_wave)),
    ("gray", "cividis"),
    ("intensity (fraction of incident)", "phase (rad)"),
    strict=True,
):
    show_frame(values, pixel, ax)
    ax.images[0].set(cmap=cmap, clim=(values.min(), values.max()))
    fig.colorbar(ax.images[0], ax=ax, label=label, shrink=0.85)
plt.show()

# %% [markdown]
# ## One sphere holds every thickness
#
# At the distance $r$ from the centre of a sphere of diameter $d$ the electron crosses $t = 2\sqrt{d^2/4 - r^2}$ of
# gold. Sorting the pixels of one exit wave by $t$ therefore gives the {term}`transmission` at every thickness up to
# $d$.

# %%
axis = pixel * (np.arange(n) - n / 2)
thickness = 2 * np.sqrt(
    np.clip((diameter / 2) ** 2 - axis[:, None] ** 2 - axis[None, :] ** 2, 0, None)
)
edges = np.linspace(0, diameter, int(4 * diameter) + 1)
bins = [
    (thickness > low) & (thickness <= high) for low, high in zip(edges[:-1], edges[1:], strict=True)
]
reference = exit_wave[thickness == 0].mean()
one_intensity = np.array([np.mean(np.abs(exit_wave[b] / reference) ** 2) for b in bins])
one_phase = np.array([np.angle(np.mean(exit_wave[b] / reference)) for b in bins])
one_thickness = 0.5 * (edges[:-1] + edges[1:])

# %% [markdown]
# A crystal scatters strongly when its planes happen to stand at the Bragg angle, so one particle is not typical
# ({numref}`fig-transmission`). `transmission_table` averages eight spheres of 6 nm in random orientations; its result
# is shipped and `moirelib transmission` remakes it in a minute or two.

# %%
gold = Transmission.load()
print(
    f"shipped table: to {gold.thickness[-1]:.1f} nm, {gold.energy / 1e3:.0f} keV, {gold.aperture:.0f} mrad"
)
print(f"mean free path of the fitted exponential  {gold.mean_free_path:.1f} nm")
print(f"phase per nm of gold                      {gold.phase_per_nm:.3f} rad")

# %% mystnb={"figure": {"caption": "Transmission of gold against thickness: the shipped average over orientations (blue, band: one standard deviation between orientations), this page's single sphere (orange), and two exponentials.", "name": "fig-transmission"}}
fig, (left, right) = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained")
intensity = gold.amplitude**2
low, high = intensity - gold.intensity_std, intensity + gold.intensity_std
left.fill_between(gold.thickness, low, high, color=LAYER_COLORS[0], alpha=0.2, lw=0)
left.plot(gold.thickness, intensity, color=LAYER_COLORS[0], label="8 orientations")
left.plot(one_thickness, one_intensity, "o", ms=4, color=LAYER_COLORS[1], label="one sphere")
t = np.linspace(0, 6, 50)
left.plot(
    t,
    np.exp(-t / gold.mean_free_path),
    "k--",
    lw=1,
    label=f"exp(−t / {gold.mean_free_path:.1f} nm)",
)
left.plot(t, np.exp(-t / 35), "k:", lw=1, label="exp(−t / 35 nm)")
left.set(xlabel="thickness (nm)", ylabel="intensity through aperture", ylim=(0, 1.1))
left.legend(frameon=False, fontsize=8, loc="lower left")
right.plot(gold.thickness, gold.phase, color=LAYER_COLORS[0], label="8 orientations")
right.plot(one_thickness, one_phase, "o", ms=4, color=LAYER_COLORS[1], label="one sphere")
right.plot(t, gold.phase_per_nm * t, "k--", lw=1, label=f"{gold.phase_per_nm:.3f} rad/nm")
right.set(xlabel="thickness (nm)", ylabel="phase (rad)")
right.legend(frameon=False, fontsize=8)
plt.show()

# %% [markdown]
# The phase has an independent check. To first order it is $\sigma V_0 t$ with the mean inner potential $V_0$, the
# average of the potential over the crystal's volume, which needs no wave at all:

# %%
volume = len(atoms) * 0.4078**3 / 4  # nm³
mean_inner_potential = slices.sum() * pixel**2 / volume
print(
    f"mean inner potential {mean_inner_potential:.1f} V, so {sigma * mean_inner_potential:.3f} rad/nm to first order"
)
print(f"multislice, averaged over orientations: {gold.phase_per_nm:.3f} rad/nm")

# %% [markdown]
# The two agree to about a tenth. Multislice gives less because gold is not a weak scatterer: what leaves the
# aperture, and what is scattered twice, no longer adds to the direct beam's phase.
#
# ```{admonition} How far the table reaches
# :class: warning
# The table ends at 6 nm. Beyond it `moirelib` continues both laws: an exponential with the fitted
# {term}`mean free path`, and a phase that grows in proportion. For particles of 20–60 nm that is an extrapolation, and
# this version of the book does not yet prove it against full-atom multislice of a large particle. The exponential is
# also *elastic loss at a 10 mrad aperture*; published simulations of such movies used 35 nm for gold instead.
# `clean_image` takes `mean_free_path` (nm) to replace the table's loss, and the training library of
# [chapter 4](04_library) draws it at random, from 20 to 85 nm, so that the network learns to do without knowing it.
# ```
#
# ## From one particle to a lattice
#
# A camera pixel of 1.4 nm is more than a hundred times wider than the samples that atoms need, so images of lattices
# are composed at camera sampling. The recipe for each layer is: thickness of gold above every point; transmission of
# that thickness; average within the pixel, because the camera adds electrons.

# %%
config = LatticeConfig(
    shapes=("sphere",),
    diameter_ratio=(0.77, 0.77),
    twist_angle=(9.0, 9.0),
    island=1,
    edge=0,
    boundary=0,
    single_layer=0,
)
pixel_size = 1.367  # nm
scene = random_scene(
    config, field=(320 * pixel_size, 320 * pixel_size), rng=np.random.default_rng(2), spacing=39.0
)

gold_above = [
    layer_thickness(scene, number, pixel_size, oversampling=3) for number in (1, 2)
]  # nm, finer grid
passed = [gold(t, mean_free_path=35.0)[0] for t in gold_above]
passed = [fine.reshape(320, 3, 320, 3).mean(axis=(1, 3)) for fine in passed]
product = passed[0] * passed[1]  # (y, x), fraction of the electrons

# %% mystnb={"figure": {"caption": "Composing an image: transmission of layer 1 (with vacancies), of the island that is layer 2, and their product.", "name": "fig-compose"}}
fig, axes = plt.subplots(1, 3, figsize=(8, 3), layout="constrained")
for ax, image, title in zip(
    axes, (*passed, product), ("layer 1", "layer 2", "layer 1 × layer 2"), strict=True
):
    show_frame(image, pixel_size, ax, title=title)
    ax.images[0].set_clim(0, 1)
fig.colorbar(axes[2].images[0], ax=axes, label="fraction passed", shrink=0.8)
plt.show()

# %% [markdown]
# `clean_image` does this with complex waves: it multiplies by amplitude *and* phase, propagates from one layer to the
# next and adds the lens's {term}`defocus`. Without defocus the result is nearly the product, because 30 nm is too
# short a way for the wave to spread over a pixel: detail smears over about $\sqrt{\lambda z}$ = 0.3 nm.

# %%
in_focus = clean_image(scene, pixel_size, mean_free_path=35.0)
print(f"√(λz) = {np.sqrt(wavelength * (scene.layers[1].z - scene.layers[0].z)):.2f} nm")
print(f"clean image − product: {np.sqrt(np.mean((in_focus - product) ** 2)):.4f} r.m.s.")

# %% mystnb={"figure": {"caption": "One scene, imaged in focus with the elastic loss of the multislice table, with a mean free path of 35 nm, and 2 µm underfocus. The loss decides whether an overlap still passes electrons; the defocus puts fringes on edges.", "name": "fig-clean"}}
fig, axes = plt.subplots(1, 3, figsize=(8, 3), layout="constrained")
choices = (
    ("table (Λ = 12.8 nm)", {}),
    ("Λ = 35 nm", {"mean_free_path": 35.0}),
    ("Λ = 35 nm, 2 µm underfocus", {"mean_free_path": 35.0, "defocus": 2000.0}),
)
for ax, (title, options) in zip(axes, choices, strict=True):
    show_frame(clean_image(scene, pixel_size, **options), pixel_size, ax, title=title)
    ax.images[0].set_clim(0, 1.2)
fig.colorbar(axes[2].images[0], ax=axes, label="fraction passed", shrink=0.8)
plt.show()

# %% [markdown]
# ## Propagation loses no electron
#
# `fresnel_propagate` multiplies the wave's Fourier transform by $\exp(-i\pi\lambda z k^2)$. That factor has magnitude
# 1, so the number of electrons cannot change; and a propagated Gaussian spot must widen as
# $w(z) = w_0\sqrt{1 + (z\lambda/\pi w_0^2)^2}$, the textbook result for any wave. Both hold:

# %%
size, w0 = 512, 3.0  # samples of 0.25 nm; nm
y = 0.25 * (np.arange(size) - size / 2)
spot = np.exp(-(y[:, None] ** 2 + y[None, :] ** 2) / w0**2).astype(complex)
distances = np.linspace(0, 30000, 13)  # nm
widths, totals = [], []
for z in distances:
    intensity = np.abs(fresnel_propagate(spot, z, 0.25, wavelength)) ** 2
    totals.append(intensity.sum())
    widths.append(2 * np.sqrt(np.sum(intensity.sum(axis=0) * y**2) / totals[-1]))
expected = w0 * np.sqrt(1 + (distances * wavelength / (np.pi * w0**2)) ** 2)
print(f"electrons: {np.max(np.abs(np.array(totals) / totals[0] - 1)):.1e} lost or gained at most")
print(f"width:     {np.max(np.abs(np.array(widths) / expected - 1)):.1e} from the formula at most")

# %% mystnb={"figure": {"caption": "Width of a propagated Gaussian spot: computed with fresnel_propagate (points) and by the formula (line).", "name": "fig-gaussian"}}
fig, ax = plt.subplots(figsize=(5, 3), layout="constrained")
ax.plot(distances / 1e3, expected, color="0.5", label="formula")
ax.plot(distances / 1e3, widths, "o", color=LAYER_COLORS[0], label="propagated")
ax.set(xlabel="distance (µm)", ylabel="width w (nm)", ylim=(0, None))
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# ## Exercises
#
# **1.** Which part of the intensity inside the particle's outline is missing behind apertures of 5, 10 and 40 mrad?
# Predict the order before you run it.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
# A smaller aperture blocks more. Gold's first reflection, (111) at 1/0.2355 nm, leaves at λ/d = 10.65 mrad: just
# outside a 10 mrad aperture, far inside one of 40 mrad.
small = gold_particle(2.5, np.random.default_rng(8))
for semiangle in (5.0, 10.0, 40.0):
    intensity = np.abs(particle_exit_wave(small, ENERGY, semiangle)) ** 2
    axis = 0.01 * (np.arange(intensity.shape[0]) - intensity.shape[0] / 2)
    inside = np.hypot(axis[:, None], axis[None, :]) < 1.25
    print(f"{semiangle:4.0f} mrad: {100 * (1 - intensity[inside].mean()):.1f} % missing")

# %% [markdown]
# **2.** Could focus tell the two layers apart? Compute how much the image changes when layer 1 lies upstream of layer
# 2 or the other way round, at a defocus of 1 µm, and compare it with the {term}`shot noise` of 1,000 electrons per
# pixel.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
from dataclasses import replace

first, second = scene.layers
swapped = replace(scene, layers=(replace(second, z=first.z), replace(first, z=second.z)))
change = clean_image(swapped, pixel_size, defocus=1000.0, mean_free_path=35.0)
change = change - clean_image(scene, pixel_size, defocus=1000.0, mean_free_path=35.0)
print(
    f"change {np.sqrt(np.mean(change**2)):.4f} r.m.s., shot noise {1 / np.sqrt(1000):.4f} of the open beam"
)
# Far below the noise of one pixel: within one frame, depth is practically invisible. Which particle is in which
# layer has to come from lattices and outlines, not from focus.

# %% [markdown]
# **3.** At which particle diameter does the overlap of two particles, at their centres, pass fewer than one electron
# in a hundred, for the table's mean free path and for 35 nm?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
# Two centres are 2d of gold: exp(-2d/Λ) = 0.01, so d = Λ ln(100)/2.
for free_path in (gold.mean_free_path, 35.0):
    d = free_path * np.log(100) / 2
    print(
        f"Λ = {free_path:.1f} nm: {d:.0f} nm; check {gold(2 * d, mean_free_path=free_path)[0]:.3f}"
    )

# %% [markdown]
# ## Summary
#
# - Multislice alternates a phase from each slice's potential and a propagation to the next; the ten-line loop agrees
#   with abTEM.
# - One sphere's exit wave gives the transmission at every thickness; the average over orientations is the shipped
#   table.
# - Images of lattices are composed at camera sampling from that table: a product of layers, with phase, propagation
#   and defocus.
# - Propagation conserves electrons, and a Gaussian spot widens as theory says.
#
# ## In practice
#
# - **The loss decides the difficulty.** Where overlaps still pass electrons both particles can be seen in them; where
#   overlaps are opaque only outlines and neighbours tell. Which case yours is depends on aperture, energy, thickness
#   and particle size.
# - **Orientation matters.** At 5 nm the intensity scatters by more than a quarter between orientations (one standard
#   deviation). Real particles of one layer therefore differ in darkness, more than the simulation, which uses the
#   mean.
# - **No inelastic scattering in gold.** It blurs and, with an energy filter, removes electrons; only its effect in
#   the liquid is modelled, in [chapter 3](03_liquid).
# - **The thin end of the table is soft.** At the rim a particle is a few atoms thick and the aperture spreads each
#   atom over $\lambda/\alpha$ = 0.25 nm, so the first points show the blurred outline as much as thickness.
# - **Not proven yet:** the composed image against full-atom multislice of a whole scene, and the continuation beyond
#   6 nm.
#
# Next: [liquid, windows, dose and camera](03_liquid).
