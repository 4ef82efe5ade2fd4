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
# - follow an electron wave through one gold particle, slice by slice and atom by atom
# - see how many electrons pass a gold crystal of any thickness, and why that is not one exponential
# - compose images of whole lattices from a table of transmissions
# - compare the composed image with full-atom multislice of the same scene, and time both
# - check that no electron is lost on the way
#
# Needs [chapter 1](01_lattices) · CPU · 50 seconds (fast), 100 seconds (full) · 1.1 GB (full 1.6 GB)
# ```
#
# A 700 nm field with two layers of 30 nm particles holds some six hundred million gold atoms, too many to simulate
# atom by atom for every image. This chapter computes single crystals once with all their atoms, and composes images of
# lattices from the results. It also measures how much such an image differs from a simulation of all atoms.

# %%
import os
import time
from dataclasses import replace

import abtem
import matplotlib.pyplot as plt
import numpy as np
from ase.lattice.cubic import FaceCenteredCubic
from numpy.fft import fft2, ifft2

from moirelib.plot import LAYER_COLORS, show_frame
from moirelib.simulation import (
    OVERSAMPLING,
    LatticeConfig,
    Lens,
    Transmission,
    clean_image,
    compose_wave,
    crystal_slab,
    electron_wavelength,
    exit_waves,
    fresnel_propagate,
    layer_thickness,
    nanoparticle,
    particle_exit_wave,
    particle_mask,
    particle_transmission,
    random_scene,
    through_lens,
    vibrate,
)
from moirelib.validation import compare_with_multislice, overlapping_clusters

FAST = os.environ.get("MOIRELIB_FAST", "1") != "0"
plt.rcParams["figure.dpi"] = 144
ENERGY = 200e3  # eV

# %% [markdown]
# ## Electrons are fast and their waves are short
#
# At the {term}`beam energy` of 200 keV an electron moves at 70 % of the speed of light, so its wavelength needs
# relativity: $\lambda = hc / \sqrt{E\,(E + 2mc^2)}$ {cite:p}`kirkland2020`. The result, 2.5 pm, is about a hundredth of
# the distance between gold atoms.

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
# The positive nuclei speed the electron up. In a slice so thin that the wave does not spread inside it, this only
# advances the phase by $\sigma$ times the slice's {term}`projected potential`. Then the wave propagates through empty
# space to the next slice. {term}`Multislice <multislice>` repeats these two steps {cite:p}`cowley1957`. abTEM
# {cite:p}`madsen2021` computes the potential from tabulated atoms {cite:p}`lobato2014`.
#
# Atoms vibrate. An electron passes in far less time than a vibration takes, so it meets atoms at rest, each displaced
# from its site. The next electron meets another such snapshot: {term}`frozen phonons` {cite:p}`loane1991`. `vibrate`
# draws one. At room temperature the root-mean-square displacement of a gold atom is 8.9 pm along each axis
# {cite:p}`gao1999`.

# %%
diameter, sampling = (3.0 if FAST else 5.0), 0.01  # nm
rng = np.random.default_rng(1)
particle = nanoparticle("sphere", diameter, rng)
atoms = vibrate(particle, rng)
potential = abtem.Potential(
    atoms,
    sampling=10 * sampling,  # abTEM takes Å
    slice_thickness=2.0,
    parametrization="lobato",
).build(lazy=False)
slices = potential.array  # (slice, x, y), volt·Å
print(f"{len(atoms)} atoms, {len(slices)} slices of {slices.shape[1]} × {slices.shape[2]} samples")

# %% [markdown]
# The loop below is the whole algorithm. `limit` removes the highest frequencies, which the discrete transform would fold
# back onto low ones. `aperture` blocks all electrons that the objective {term}`aperture` blocks, here those scattered
# beyond 10 mrad.

# %%
wavelength, n = electron_wavelength(ENERGY), slices.shape[1]
# interaction constant, in radians per volt·nm
sigma = 2 * np.pi / (wavelength * ENERGY) * (ENERGY + mc2) / (ENERGY + 2 * mc2)
k = np.fft.fftfreq(n, sampling)
k = np.hypot(k[:, None], k[None, :])  # 1/nm
limit = k < 2 / 3 * 0.5 / sampling
step = atoms.cell.lengths()[2] / 10 / len(slices)  # nm
propagator = limit * np.exp(-1j * np.pi * wavelength * step * k**2)

wave = np.ones((n, n), complex)
for projected in slices:
    wave = ifft2(fft2(wave * np.exp(1j * sigma * projected / 10)) * propagator)  # /10: to volt·nm

aperture = wavelength * k < 10e-3
by_hand = ifft2(fft2(wave) * aperture).T  # abTEM indexes (x, y), this book (y, x)

# %% [markdown]
# `particle_exit_wave` does the same with abTEM, with lengths in nm; both agree. An image is the average over the
# snapshots that its electrons met. A second snapshot of the same particle shows how many are needed. The two differ in
# atomic detail, but little in pixels of half a nanometre. For such images one snapshot is enough.

# %%
exit_wave = particle_exit_wave(atoms, ENERGY, aperture=10.0, sampling=sampling)
difference = np.sqrt(np.mean(np.abs(by_hand - exit_wave) ** 2))
print(f"abTEM against the loop: {difference:.1e} r.m.s.")
again = particle_exit_wave(vibrate(particle, rng), ENERGY, aperture=10.0, sampling=sampling)
intensity, other = np.abs(exit_wave) ** 2, np.abs(again) ** 2
for size in (1, 50):  # samples of 0.01 nm
    blocks = (n // size, size, n // size, size)
    a, b = (image.reshape(blocks).mean(axis=(1, 3)) for image in (intensity, other))
    ratio = np.std(a - b) / np.sqrt(2) / a.std()
    print(
        f"snapshots scatter by {100 * ratio:4.1f} % of the contrast in {size * sampling} nm pixels"
    )

# %% mystnb={"figure": {"caption": "Exit wave of one gold sphere behind a 10 mrad aperture. Left, intensity: dark where electrons were scattered out of the aperture. Right, phase: it grows with thickness. Both show the crystal in its random orientation. The ripples outside come from the aperture's sharp edge.", "name": "fig-exit-wave"}}
fig, axes = plt.subplots(1, 2, figsize=(8, 3.7), layout="constrained")
for ax, values, cmap, label in zip(
    axes,
    (intensity, np.angle(exit_wave)),
    ("gray", "cividis"),
    ("intensity (fraction of incident)", "phase (rad)"),
    strict=True,
):
    show_frame(values, sampling, ax)
    ax.images[0].set(cmap=cmap, clim=(values.min(), values.max()))
    fig.colorbar(ax.images[0], ax=ax, label=label, shrink=0.85)
plt.show()

# %% [markdown]
# ## A crystal passes electrons back and forth
#
# The share of the beam that passes a particle depends on its thickness. So we send a wave through a slab and keep the
# wave at every nanometre. `crystal_slab` fills a box with gold in a random crystal orientation. Two properties of each
# wave matter: its *mean*, which is the rest of the incident plane wave, and the *intensity within the aperture*, which
# includes electrons scattered by less than the aperture's angle. We picked the two orientations below by hand.

# %%
depths = np.arange(1, 31 if FAST else 81)  # nm
angle = 1e3 * wavelength * np.fft.fftfreq(240, 0.0125)  # mrad
angle = np.hypot(angle[:, None], angle)
slabs = {}
for name, seed in (("ordinary", 1), ("near a Bragg angle", 5)):
    rng = np.random.default_rng(seed)
    slab = vibrate(crystal_slab(width=3.0, thickness=float(depths[-1]), rng=rng), rng)
    waves = exit_waves(slab, ENERGY, sampling=0.0125, slices=5 * depths - 1)  # slices of 0.2 nm
    power = np.abs(fft2(waves) / waves[0].size) ** 2  # fraction of the electrons per angle
    within = [power[:, angle <= a].sum(axis=1) for a in (5.0, 10.0, 20.0)]
    slabs[name] = power[:, 0, 0], np.stack(within)  # angle zero is the mean wave
    print(f"{name}: {len(slab)} atoms, {within[1][11]:.2f} within 10 mrad behind 12 nm")
del waves, power

# %% [markdown]
# The two orientations differ greatly ({numref}`fig-slab`). Crystal planes near their Bragg angle diffract the beam, and
# then diffract the diffracted beam back: the two waves beat {cite:p}`williams2009`. This is
# {term}`dynamical diffraction`. At the exact angle the period is the {term}`extinction distance`
# $\xi = \pi / \sigma |V_g|$, with the potential's Fourier coefficient $V_g$. For gold's (111) planes it follows from one
# unit cell, seen along $[\bar{1}10]$. We also compute the angles of the first reflections, $\lambda / d$ for planes $d$
# apart:

# %%
cell = FaceCenteredCubic("Au", directions=[[0, 0, 1], [1, 1, 0], [-1, 1, 0]], latticeconstant=4.078)
potential = abtem.Potential(cell, sampling=0.05, slice_thickness=1.5, parametrization="lobato")
projected = potential.build(lazy=False).array.sum(axis=0) / 10  # (x, y), volt·nm
coefficients = np.abs(fft2(projected)) / projected.size / (cell.cell.lengths()[2] / 10)  # volt
extinction = np.pi / (sigma * coefficients[1, 1])
print(
    f"extinction distance of (111): {extinction:.1f} nm, so half of it is {extinction / 2:.1f} nm"
)
dip = depths[np.argmin(slabs["near a Bragg angle"][0][:20])]
print(f"the slab near a Bragg angle is darkest at {dip} nm")
for planes, spacing in (("111", 0.2355), ("200", 0.2039), ("220", 0.1442)):
    leaves = [1e3 * electron_wavelength(e) / spacing for e in (200e3, 300e3)]
    print(f"({planes}) leaves at {leaves[0]:.2f} mrad (200 keV), {leaves[1]:.2f} mrad (300 keV)")

# %% mystnb={"figure": {"caption": "Fraction of the electrons that passes a gold slab against its thickness, in two crystal orientations at 200 keV: the incident wave (black) and the intensity within three apertures. Near a Bragg angle the beam turns into a diffracted one and back; an aperture of 20 mrad passes both.", "name": "fig-slab"}}
fig, axes = plt.subplots(1, 2, figsize=(8, 3.5), sharey=True, layout="constrained")
for ax, (name, (mean, within)) in zip(axes, slabs.items(), strict=True):
    ax.plot(depths, mean, "k--", lw=1, label="incident wave")
    for passed, semiangle, shade in zip(within, (5, 10, 20), (0.75, 0.5, 0.0), strict=True):
        ax.plot(depths, passed, color=plt.get_cmap("viridis")(shade), label=f"{semiangle} mrad")
    ax.set(title=name, xlabel="thickness (nm)", ylim=(0, 1))
axes[0].set_ylabel("fraction of the electrons")
axes[0].legend(frameon=False, loc="lower left", title="within")
plt.show()

# %% [markdown]
# (transmission)=
# ## Gold's transmission is not one exponential
#
# `Transmission.load` reads the shipped table: 32 random orientations, each with its own snapshot, every nanometre to
# 120 nm, at 200 and 300 keV behind 5, 10 and 20 mrad. `moirelib.simulation.tabulate_transmission` makes it again in about
# 12 minutes on two quiet cores.

# %%
gold = Transmission.load(energy=200e3, aperture=10.0)
print(f"{gold.wave.shape[0]} orientations, {gold.thickness[0]:.0f} to {gold.thickness[-1]:.0f} nm")
spread = gold.intensity.std(axis=0)
for low, high in ((0, 5), (5, 20), (20, 120), (0, 112)):
    print(f"{low:3d} to {high:3d} nm: Λ = {gold.mean_free_path(low, high):4.1f} nm")
for t in (4, 10, 20, 30, 60):
    print(f"{t:2d} nm: {gold.mean_intensity[t]:.2f} ± {spread[t]:.2f} between orientations")

# %% mystnb={"figure": {"caption": "Intensity that passes gold. Left, 200 keV and 10 mrad: every orientation (grey), their mean (blue) and exponentials over 0 to 5, 5 to 20 and 20 to 120 nm (dashed, with their mean free paths); dotted, 35 nm as in published simulations. Right, the mean for every tabulated energy and aperture. The scale is logarithmic, so an exponential would be a straight line.", "name": "fig-transmission"}}
fig, (left, right) = plt.subplots(1, 2, figsize=(8, 3.8), sharey=True, layout="constrained")
left.plot(gold.thickness, gold.intensity.T, color="0.75", lw=0.6)
left.plot(gold.thickness, gold.mean_intensity, color=LAYER_COLORS[0], lw=2.5)
for low, high, end in ((0, 5, 35), (5, 20, 70), (20, 120, 120)):
    t = np.array([low, end])
    start = np.interp(low, gold.thickness, gold.mean_intensity)
    scale = gold.mean_free_path(low, high)
    left.plot(t, start * np.exp(-(t - low) / scale), "--", color="black", lw=1)
    left.text(
        end, 0.95 * start * np.exp(-(end - low) / scale), f"{scale:.0f} nm", va="top", ha="right"
    )
left.plot(gold.thickness, np.exp(-gold.thickness / 35), ":", color=LAYER_COLORS[1], lw=2)
left.text(106, 0.05, "35 nm", color=LAYER_COLORS[1], ha="right", va="top")
left.set(
    xlabel="thickness (nm)", ylabel="intensity within the aperture", yscale="log", ylim=(0.02, 1.05)
)
for energy, line in ((200e3, "-"), (300e3, "--")):
    for semiangle, shade in ((5.0, 0.75), (10.0, 0.5), (20.0, 0.0)):
        table = Transmission.load(energy=energy, aperture=semiangle)
        label = f"{energy / 1e3:.0f} keV, {semiangle:.0f} mrad"
        right.plot(
            table.thickness,
            table.mean_intensity,
            line,
            color=plt.get_cmap("viridis")(shade),
            label=label,
        )
right.set(xlabel="thickness (nm)")
right.legend(frameon=False, fontsize=9, loc="lower left")
for ax in (left, right):
    ax.set_yticks([0.02, 0.05, 0.1, 0.2, 0.5, 1], ["0.02", "0.05", "0.1", "0.2", "0.5", "1"])
plt.show()

# %% [markdown]
# The mean free path $\Lambda$ grows with thickness ({numref}`fig-transmission`), for three reasons. A thin crystal
# diffracts a little at all its planes, whatever their angle, because the Bragg condition is sharp only in a thick one. A
# thick crystal diffracts at few planes, and the diffracted electrons partly come back. And where dark orientations pass
# almost nothing, the mean consists of the bright ones.
#
# The other differences depend mostly on whether the aperture passes the first reflections. At 300 keV (111) and (200)
# leave within 10 mrad. So the curve for 10 mrad at 300 keV lies near the one for 20 mrad at 200 keV.
#
# Published simulations of such movies use one exponential with $\Lambda$ = 35 nm, from a stated range of 20 to 85 nm
# {cite:p}`moiresimulation`. It describes *inelastic* scattering, which the table leaves out. In turn it leaves out
# electrons that are scattered elastically beyond the aperture. Over the 112 nm of their rods the two compare as follows:

# %%
elastic = gold.mean_free_path(0, 112)
print(f"elastic loss of the table over 112 nm: Λ = {elastic:.0f} nm")
print(f"with an inelastic loss of 35 nm as well: Λ = {1 / (1 / elastic + 1 / 35):.0f} nm")

# %% [markdown]
# The second number holds with an energy filter. Without one, most electrons that lost energy still reach the camera,
# blurred. `clean_image` takes the table by default and any `mean_free_path` in its place. The library of
# [chapter 4](04_library) draws from both, so that the network does not rely on either.
#
# **Particles of one layer differ in darkness.** The spread between orientations at 20 nm is about a third of the mean.
# A sphere's outline does not show its orientation. In a random scene each particle therefore has a random one:
# `Layer.orientations` is its row in the table.
#
# ## The phase has an independent check
#
# To first order the phase per nm is $\sigma V_0$ with the mean inner potential $V_0$, the average of the potential
# over the crystal's volume. It needs no wave: it is the unit cell's coefficient of order zero.

# %%
print(f"mean inner potential {coefficients[0, 0]:.1f} V: {sigma * coefficients[0, 0]:.3f} rad/nm")
print(f"multislice, averaged over orientations: {gold.phase_per_nm:.3f} rad/nm")

# %% [markdown]
# The two agree to about a tenth. Multislice gives less because gold is not a weak scatterer: close to a nucleus the
# phase advances so far that this part of the wave is out of phase with the rest, and adds less to the mean.
#
# ## From one particle to a lattice
#
# A camera pixel of 1.4 nm is more than a hundred times wider than the samples that atoms need. So images of lattices
# are composed on a coarser grid, with three samples per pixel and axis (`OVERSAMPLING`). The steps, layer by layer:
#
# 1. Compute the thickness of gold above every sample.
# 2. Look up in the table the coherent wave and a *remainder*: intensity that passes the aperture but is not in that
#    wave, because atoms scattered it by angles too large for the grid.
# 3. Propagate the wave across the gap and multiply it by the next layer. The second layer also dims the remainder of
#    the first, and adds a remainder of its own from the wave that arrives.
# 4. Behind the last layer, the lens adds the phases of {term}`defocus` and spherical aberration, and the camera adds up
#    the electrons of each pixel.
#
# The specimen is a base layer of 30 nm spheres under an island, twisted by 9°.

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
pixels, pixel_size = 240, 1.367  # nm
scene = random_scene(config, (pixels * pixel_size,) * 2, np.random.default_rng(2), spacing=39.0)
gold_above = [layer_thickness(scene, number, pixel_size, OVERSAMPLING) for number in (1, 2)]  # nm
print(f"{sum(map(len, scene.layers))} particles, {gold_above[0].shape[0]} samples across")

# %% [markdown]
# The steps in NumPy, for particles that all have the first orientation of the table, in focus:

# %%
one = replace(gold, wave=gold.wave[:1], intensity=gold.intensity[:1])
step, coarse = 0.05, pixel_size / OVERSAMPLING  # nm
wave_table, remainder_table = (rows[0] for rows in one.lookup(greatest=40.0, step=step))
first, second = (np.rint(t / step).astype(int) for t in gold_above)

wave, scattered = wave_table[first], remainder_table[first]
wave = fresnel_propagate(wave, scene.layers[1].z - scene.layers[0].z, coarse, wavelength)
dimmed = np.abs(wave_table[second]) ** 2 + remainder_table[second]
scattered = scattered * dimmed + remainder_table[second] * np.abs(wave) ** 2
wave = wave * wave_table[second]

arrived = np.abs(through_lens(wave, coarse, Lens(ENERGY))) ** 2 + scattered
by_hand = arrived.reshape(pixels, OVERSAMPLING, pixels, OVERSAMPLING).mean(axis=(1, 3))
composed = clean_image(scene, pixel_size, one)
difference = (by_hand - composed)[4:-4, 4:-4]  # the steps above wrap round the field's border
print(f"by hand and clean_image differ by {np.abs(difference).max():.1e} at most")
print(
    f"electrons in the wave {np.mean(np.abs(wave) ** 2):.3f}, in the remainder {scattered.mean():.4f}"
)

# %% mystnb={"figure": {"caption": "Composing an image of 30 nm spheres. Left, the thickness of gold in both layers together. Middle, the image with one orientation for all particles. Right, with random orientations: some particles are much darker than others, and rings in a few mark where a sphere is half an extinction distance thick.", "name": "fig-compose"}}
fig, axes = plt.subplots(1, 3, figsize=(9, 3.1), layout="constrained")
show_frame(sum(gold_above), coarse, axes[0], title="thickness")
axes[0].images[0].set(cmap="cividis", clim=(0, 60))
fig.colorbar(axes[0].images[0], ax=axes[0], label="gold (nm)", shrink=0.8)
show_frame(composed, pixel_size, axes[1], title="one orientation")
show_frame(clean_image(scene, pixel_size), pixel_size, axes[2], title="random orientations")
for ax in axes[1:]:
    ax.images[0].set_clim(0, 1.1)
fig.colorbar(axes[2].images[0], ax=axes[1:], label="fraction passed", shrink=0.8)
plt.show()

# %% [markdown]
# The remainder is small behind 10 mrad, which stops gold's reflections at 200 keV, and large behind 20 mrad. It must not
# be dropped, because these electrons reach the camera. In focus they arrive where they left, and particles look more
# transparent. Out of focus an electron scattered by the angle $\beta$ arrives $\beta\,\Delta f$ away. So the remainder
# spreads over a disk of radius aperture × defocus: a veil, also over the gaps. The difference of an image with the
# remainder and one without shows it:

# %%
wide = Transmission.load(energy=200e3, aperture=20.0)
bare = replace(wide, intensity=np.abs(wide.wave) ** 2)  # the coherent wave alone
gold_on_pixel = particle_mask(scene, 1, pixel_size) + particle_mask(scene, 2, pixel_size)
for focus in (0.0, 2000.0):
    lens = Lens(aperture=20.0, defocus=focus)
    veil = clean_image(scene, pixel_size, wide, lens) - clean_image(scene, pixel_size, bare, lens)
    print(f"defocus {focus:4.0f} nm: remainder {veil.mean():.3f} of the beam", end="")
    print(f", {veil[gold_on_pixel > 1.9].mean():.3f} in overlaps", end="")
    print(f", {veil[gold_on_pixel == 0].mean():.3f} in gaps")

# %% mystnb={"figure": {"caption": "One scene, imaged in six ways. The loss decides whether an overlap still passes electrons. Displaced water brightens particles a little, a wider aperture passes diffracted electrons, and defocus puts fringes on edges.", "name": "fig-clean"}}
fig, axes = plt.subplots(2, 3, figsize=(9, 6), layout="constrained")
far = Lens(aperture=20.0, defocus=2000.0)
choices = (
    ("table, 10 mrad", {}),
    ("Λ = 35 nm", {"mean_free_path": 35.0}),
    ("Λ = 35 nm, water displaced", {"mean_free_path": 35.0, "liquid_mean_free_path": 185.0}),
    ("table, 10 mrad, 2 µm underfocus", {"lens": Lens(defocus=2000.0)}),
    ("table, 20 mrad", {"transmission": wide}),
    ("table, 20 mrad, 2 µm underfocus", {"transmission": wide, "lens": far}),
)
for ax, (title, options) in zip(axes.flat, choices, strict=True):
    show_frame(clean_image(scene, pixel_size, **options), pixel_size, ax, title=title)
    ax.images[0].set_clim(0, 1.2)
fig.colorbar(axes[0, 2].images[0], ax=axes, label="fraction passed", shrink=0.6)
plt.show()

# %% [markdown]
# Two effects are invisible at this sampling. Between the layers a wave spreads by about $\sqrt{\lambda z}$, much less
# than a pixel. And a lens whose focus fluctuates ({term}`focal spread`) averages images that hardly differ:

# %%
gap = scene.layers[1].z - scene.layers[0].z
steady = clean_image(scene, pixel_size, lens=Lens(defocus=500.0))
change = clean_image(scene, pixel_size, lens=Lens(defocus=500.0, focal_spread=20.0)) - steady
print(f"√(λz) = {np.sqrt(wavelength * gap):.2f} nm for the {gap:.0f} nm between the layers")
print(f"focal spread of 20 nm: {100 * change.std() / steady.std():.2f} % of the image's contrast")

# %% [markdown]
# (proof)=
# ## Proof: the same scene atom by atom
#
# A scene of a few small particles can be computed from all its atoms at once. The result is the truth for a composed
# image. Two steps of composing can go wrong, and we test them one at a time.
#
# **From atoms to particles.** Propagated back to the particle's mid-plane, an exit wave becomes a transmission: a
# factor that multiplies the incident wave. For a plane wave this is exact by construction. A particle in the second
# layer meets a wave that the first has modulated, and that wave changes on its way through the particle. It helps to
# cut the particle into parts and to multiply the wave by each part at that part's height. The `planes` of
# `particle_transmission` do this. With more planes the result comes closer to multislice of both. Two spheres, one above
# the other, show how many are needed. Their images are sampled finer than a camera samples, to see the largest error:

# %%
rng = np.random.default_rng(0)
centers = [(2.6, 2.6, 2.5), (3.4, 3.2, 6.5)]  # (y, x, z) in nm
spheres = []
for y, x, z in centers:
    sphere = vibrate(nanoparticle("sphere", 3.0, rng), rng)
    sphere.positions += 10 * np.array([x, y, z]) - sphere.cell.lengths() / 2
    spheres.append(sphere)
both = spheres[0] + spheres[1]
both.set_cell([60, 60, 90])  # Å
fine = 0.0125  # nm
truth = exit_waves(both, ENERGY, fine)[0]
truth = fresnel_propagate(truth, 6.5 - 9.0, fine, wavelength)  # back to the second mid-plane


def form_image(wave, defocus):
    """Image behind 10 mrad in pixels of 0.125 nm."""
    image = np.abs(through_lens(wave, fine, Lens.ideal(ENERGY, 10.0, defocus))) ** 2
    return image.reshape(48, 10, 48, 10).mean(axis=(1, 3))


# %%
planes, foci = (1, 2, 3, 5, 15), (0.0, 200.0, 1000.0)
errors = np.zeros((len(planes), len(foci)))
for i, count in enumerate(planes):
    stamps = [
        [particle_transmission(sphere, center, (3.0, 3.0), ENERGY, fine, planes=p)]
        for sphere, center, p in zip(spheres, centers, (1, count), strict=True)
    ]
    wave = compose_wave(stamps, truth.shape, fine, ENERGY)
    for j, focus in enumerate(foci):
        error = form_image(wave, focus) - form_image(truth, focus)
        errors[i, j] = np.sqrt(np.mean(error**2)) / form_image(truth, focus).std()
    print(f"{count:2d} planes:", *(f"{100 * e:5.2f} %" for e in errors[i]))

# %% mystnb={"figure": {"caption": "Two spheres composed from single ones, against multislice of both: r.m.s. difference over the image's standard deviation, by the number of planes in the second sphere.", "name": "fig-planes"}}
fig, ax = plt.subplots(figsize=(5.5, 3.3), layout="constrained")
for error, focus, marker in zip(errors.T, foci, "osD", strict=True):
    ax.plot(
        planes,
        100 * error,
        marker + "-",
        color=plt.get_cmap("viridis")(focus / 1250),
        label=f"{focus:.0f} nm",
    )
ax.set(xlabel="planes of the second sphere", ylabel="difference (%)", ylim=(0, None))
ax.set_xticks(planes)
ax.legend(frameon=False, title="defocus")
plt.show()

# %% [markdown]
# **From particles to the library.** The library composes at camera sampling, with one plane per particle.
# `compare_with_multislice` tests this on two overlapping clusters of seven spheres. It computes every image four ways
# from the same atoms:
#
# - `full`: all atoms, the truth;
# - `particle`: each particle's own transmission at atomic sampling, five planes in the second layer;
# - `library`: the same particles reduced to camera sampling, wave and remainder, and composed as `clean_image` does;
# - `table`: `clean_image` with the table's average over orientations, which takes the spheres' shape but not their
#   crystal orientations.
#
# The spheres are 3 nm wide in the fast mode of this page and 4 nm in the full one.

# %%
if FAST:
    clusters, sizes, fine = overlapping_clusters(3.0, field=14.4), (0.6, 0.9), 0.0125
else:
    clusters, sizes, fine = overlapping_clusters(4.0), (0.6, 0.9, 1.44), 0.01
comparison = compare_with_multislice(clusters, sizes, sampling=fine)
columns = ["aperture_mrad", "defocus_nm"]
table = comparison.table.pivot_table("rms_over_std", ["method", "pixel_size_nm"], columns)
print(f"{sum(map(len, clusters.layers))} spheres of {clusters.layers[0].diameters[0]:.0f} nm")
(100 * table.astype(float)).round(1)  # %, over the image's standard deviation

# %% mystnb={"figure": {"caption": "Two clusters of seven gold spheres behind 10 mrad, in focus. Above, the image from all atoms and the three composed ones; below, their differences from it, ten times enlarged for the first two. In the last difference whole particles stand out, brighter or darker than the average orientation.", "name": "fig-proof"}}
key = (sizes[0], 10.0, 0.0)
truth = comparison.images["full", *key]
fig, axes = plt.subplots(2, 4, figsize=(9, 4.6), layout="constrained")
show_frame(truth, sizes[0], axes[0, 0], title="all atoms")
axes[1, 0].axis("off")
for (top, bottom), name, factor in zip(
    axes.T[1:], ("particle", "library", "table"), (10, 10, 1), strict=True
):
    image = comparison.images[name, *key]
    show_frame(image, sizes[0], top, title=name)
    show_frame(factor * (image - truth), sizes[0], bottom, title=f"difference × {factor}")
    bottom.images[0].set(cmap="RdBu_r", clim=(-0.3, 0.3))
for ax in axes[0]:
    ax.images[0].set_clim(truth.min(), truth.max())
fig.colorbar(axes[0, 3].images[0], ax=axes[0], label="fraction passed", shrink=0.9)
fig.colorbar(axes[1, 3].images[0], ax=axes[1], label="difference", shrink=0.9)
plt.show()

# %%
worst = comparison.table.groupby("method")["rms_over_std"].max()
for name in ("particle", "library", "table"):
    print(f"{name:9s} {100 * worst[name]:4.1f} % of the standard deviation at worst")

# %% [markdown]
# Composing from particles is nearly exact, and composing at camera sampling costs a few per cent. The table's
# difference has another cause and is not an error of composing. The contrast of a particle depends on the orientation of
# its crystal, which its shape does not show. No table can know this, so the library draws the orientation at random: a
# network trained on it learns that particles of one layer differ in darkness.
#
# `make bench-optics` prints the same table for 4 nm spheres at three pixel sizes, as this page does in full mode.
#
# ## Thousands of times faster
#
# The cost of full-atom multislice is proportional to the area, so the time for the small scene gives the time for a
# whole field. This extrapolation is cautious: two layers of rods are some twenty times deeper than these clusters, and
# the cost is also proportional to the depth. Composing is timed on the field itself, with the published recipe: 700 nm
# at 512 pixels, standing rods.

# %%
field, size = 700.0, 512  # nm, pixels
rods = random_scene(LatticeConfig.published(), (field, field), np.random.default_rng(3), 48.0)
seconds = []
for _ in range(4):
    start = time.perf_counter()
    clean_image(rods, field / size, lens=Lens(defocus=500.0))
    seconds.append(time.perf_counter() - start)
compose_s = np.median(seconds[1:])  # the first call warms up
full_s = field**2 * comparison.full_s / comparison.area
print(f"all atoms: {comparison.area / comparison.full_s:.0f} nm²/s here, so", end=" ")
print(f"{full_s / 3600:.1f} h for {field:.0f} nm (extrapolated by area)")
print(f"composed:  {compose_s:.2f} s, {full_s / compose_s:,.0f} times faster")

# %% [markdown]
# ## No electron is lost
#
# Propagation multiplies the wave's Fourier transform by $\exp(-i\pi\lambda z k^2)$. That factor has magnitude 1, so
# the number of electrons cannot change. And a propagated Gaussian spot must widen as
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
# `clean_image` composes in torch, on the CPU or a GPU, in single precision. With any lens, all electrons that passed the
# aperture must arrive, including those of the remainder. We keep the particles in the middle, whose electrons do not
# leave the field. The check is useful: on some CPUs torch's own inverse Fourier transform scales a grid of 2048 × 2048
# wrongly, which `compose` works around.

# %%
middle = np.array(scene.field) / 2
few = [layer.select(np.hypot(*(layer.positions - middle).T) < 90.0) for layer in scene.layers]
few = replace(scene, layers=tuple(few))
for semiangle in (10.0, 20.0):
    table = Transmission.load(aperture=semiangle)
    total = clean_image(few, pixel_size, table, Lens.ideal(aperture=semiangle)).mean(dtype=float)
    for options in ({"defocus": 2000.0}, {"spherical_aberration": 5.0}, {"focal_spread": 100.0}):
        lens = Lens(aperture=semiangle, **options)
        other = clean_image(few, pixel_size, table, lens).mean(dtype=float)
        setting = ", ".join(f"{name} {value:g}" for name, value in options.items())
        print(f"{semiangle:.0f} mrad, {setting}: {other / total - 1:+.0e} of {total:.3f}")

# %% [markdown]
# ## Exercises
#
# **1.** Which share of the intensity inside the particle's outline is missing behind apertures of 5, 10 and 40 mrad?
# Predict the order before you run it.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
# A smaller aperture blocks more. Gold's first reflection, (111), leaves at 10.65 mrad: just outside a 10 mrad
# aperture, far inside one of 40 mrad.
rng = np.random.default_rng(8)
small = vibrate(nanoparticle("sphere", 2.5, rng), rng)
wave = exit_waves(small, ENERGY)[0]  # sampled at 0.01 nm
axis = 0.01 * (np.arange(wave.shape[0]) - wave.shape[0] / 2)
inside = np.hypot(axis[:, None], axis[None, :]) < 1.25
for semiangle in (5.0, 10.0, 40.0):
    intensity = np.abs(through_lens(wave, 0.01, Lens.ideal(ENERGY, semiangle))) ** 2
    print(f"{semiangle:4.0f} mrad: {100 * (1 - intensity[inside].mean()):.1f} % missing")

# %% [markdown]
# **2.** Could focus tell the two layers apart? Exchange the heights of layers 1 and 2 at a defocus of 1 µm, compute how
# much the image changes, and compare it with the {term}`shot noise` of 1,000 electrons per pixel.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
lower, upper = scene.layers
swapped = replace(scene, layers=(replace(upper, z=lower.z), replace(lower, z=upper.z)))
change = clean_image(swapped, pixel_size, lens=Lens(defocus=1000.0))
change = change - clean_image(scene, pixel_size, lens=Lens(defocus=1000.0))
print(f"change {np.sqrt(np.mean(change**2)):.4f} r.m.s. of the open beam", end="")
print(f", shot noise {1 / np.sqrt(1000):.4f}")
# The change is far below the noise of one pixel: one frame practically does not show depth. Lattices and outlines must
# tell which particle is in which layer, not focus.

# %% [markdown]
# **3.** From which particle diameter on does the overlap of two particles, at their centres, pass fewer than one
# electron in a hundred? Compare the table, a mean free path of 35 nm, and the exponential of the table's first 5 nm.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
# Two centres are 2d of gold: exp(-2d/Λ) = 0.01, so d = Λ ln(100)/2. Behind the table's two particles, whose
# orientations are independent, the mean is the product of the means.
for scale in (gold.mean_free_path(0, 5), 35.0):
    print(f"Λ = {scale:.1f} nm: {scale * np.log(100) / 2:.0f} nm")
wave, remainder = gold.lookup(greatest=200.0, step=0.1)
passed = np.mean(np.abs(wave) ** 2 + remainder, axis=0) ** 2
print(f"table: {0.1 * np.argmax(passed < 0.01):.0f} nm, on average over orientations", end="")
print(f"; beyond {gold.thickness[-1]:.0f} nm it is extrapolated")
# The first nanometres do not predict the overlap of large particles.

# %% [markdown]
# **4.** Do the rows of the table differ as much as particles do? Compute atom by atom how much of the beam each of several
# 3 nm spheres removes, and compare mean and scatter with those of `clean_image` for the 32 rows.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
# Both mean and scatter should agree within their errors, although a row was computed for a flat slab.
from moirelib.simulation import Layer, Scene

rng = np.random.default_rng(9)
atomic = []
for _ in range(8 if FAST else 48):
    atoms = vibrate(nanoparticle("sphere", 3.0, rng), rng)
    intensity = np.abs(particle_exit_wave(atoms, ENERGY, 10.0, sampling=0.0125)) ** 2
    atomic.append(np.sum(1 - intensity) * 0.0125**2)  # nm² of the beam
drawn = []
for row in range(32):
    layer = Layer(np.array([[2.5, 2.5]]), np.array([3.0]), 4.0, 0.0, orientations=np.array([row]))
    drawn.append(np.sum(1 - clean_image(Scene((layer,), (5.0, 5.0)), 0.25)) * 0.25**2)
for name, values in (("atom by atom", atomic), ("table", drawn)):
    error = np.std(values) / np.sqrt(len(values))
    print(f"{name:12s} {np.mean(values):.2f} ± {error:.2f} nm², scatter {np.std(values):.2f} nm²")

# %% [markdown]
# ## Summary
#
# - Multislice alternates a phase from each slice's potential and a propagation to the next; the ten-line loop agrees
#   with abTEM.
# - Gold's transmission does not fall as one exponential: diffracted waves beat, and orientations differ. The shipped
#   table holds 32 orientations to 120 nm at two energies and three apertures.
# - An image of a lattice is composed at camera sampling: a product of layers, with phase, propagation and lens, plus
#   the intensity that the grid cannot hold as a wave.
# - An image composed from its own particles differs from full-atom multislice by about a per cent of its contrast, at
#   camera sampling by a few per cent. It is computed thousands of times faster.
# - Propagation and lens conserve electrons.
#
# ## In practice
#
# - **The loss decides the difficulty.** Where overlaps still pass electrons, they show both particles. Where overlaps are
#   opaque, only outlines and neighbours help. The case depends on aperture, energy, thickness and particle size.
# - **A particle's darkness does not give its thickness.** The transmissions of two equal particles can differ by more
#   than a factor of two ({numref}`fig-transmission`).
# - **No inelastic scattering in gold.** It blurs and, with an energy filter, removes electrons; only its effect in
#   the liquid is modelled, in [chapter 3](03_liquid).
# - **Orientations are random for every shape.** Facets would fix the crystal's orientation: a cube on its facet is seen
#   along [001], where many planes diffract at once. `nanoparticle` includes this, `clean_image` does not.
# - **A row is a slab.** Where the thickness changes fast, at a sphere's rim, neighbouring rays of one crystal
#   exchange electrons, and the table does not. Twins inside a particle, bent crystals and tilts during a movie are
#   left out as well: a row stays with its particle.
# - **A Bragg beam out of focus is a displaced ghost** of its particle in one direction, not a disk of light. Behind an
#   aperture that holds reflections, and far from focus, expect the composed image to be wrong there.
# - **The proof holds for its conditions:** small spheres, pixels of 0.6 to 1.44 nm (full mode), defocus to 1 µm. For
#   other conditions run `compare_with_multislice` on your own scene of spheres.
# - **Another material, energy or aperture** needs another table: `moirelib.simulation.tabulate_transmission` for gold,
#   and its source for the rest.
#
# Next: [liquid, windows, dose and camera](03_liquid).
