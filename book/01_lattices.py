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
# (lattices)=
# # Build a Moiré lattice
#
# ```{admonition} In this chapter
# :class: tip
# - build a hexagonal lattice from two vectors, and a {term}`Moiré lattice` from two hexagonal ones
# - measure the Moiré period in an image and compare it with its formula
# - draw random specimens with islands, vacancies and strain, whose truth is known
# - build one gold nanoparticle atom by atom
#
# Needs nothing from other chapters · CPU · 10 seconds (fast), 20 seconds (full) · 0.4 GB
# ```
#
# Everything in this book starts from a specimen that we know completely: where each particle sits, in which
# {term}`layer`, and how large it is. This chapter makes such specimens. Lengths are in nm, angles in degrees, and
# points are `(y, x)`.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np
from scipy.spatial import cKDTree

from moirelib.lattice import (
    LatticeConfig,
    fold_hexagonal,
    gold_particle,
    hexagonal_lattice,
    moire_period,
    random_scene,
    truth_table,
)
from moirelib.plot import LAYER_COLORS, show_frame, show_particles

FAST = os.environ.get("MOIRELIB_FAST", "1") != "0"
plt.rcParams["figure.dpi"] = 144

# %% [markdown]
# ## Two vectors make a lattice
#
# A hexagonal lattice is every sum of whole multiples of two vectors that are equally long and 60° apart. Their length
# is the {term}`spacing` $a$, the distance between nearest neighbours. Gold nanoparticles in the experiments that this
# book follows are some tens of nm apart; here $a$ = 39 nm.

# %%
spacing, angle = 39.0, 12.0
t = np.radians([angle, angle + 60.0])
basis = spacing * np.stack([np.sin(t), np.cos(t)], axis=1)  # rows are the vectors, as (y, x)
i, j = np.meshgrid(np.arange(-6, 7), np.arange(-6, 7), indexing="ij")
points = np.stack([i.ravel(), j.ravel()], axis=1) @ basis  # (n, 2)

# %% mystnb={"figure": {"caption": "A hexagonal lattice, 39 nm between neighbours, and the two vectors that make it. The distance between rows, marked at the right, is shorter than the spacing.", "name": "fig-lattice-vectors"}}
fig, ax = plt.subplots(figsize=(5, 4.2), layout="constrained")
ax.scatter(points[:, 1], points[:, 0], s=70, color="0.7")
for vector, name in zip(basis, ("$\\mathbf{a}_1$", "$\\mathbf{a}_2$"), strict=True):
    ax.annotate(
        "",
        vector[::-1],
        (0, 0),
        arrowprops={"arrowstyle": "-|>", "color": LAYER_COLORS[0], "lw": 2},
    )
    ax.text(*(0.55 * vector[::-1] + [4, -9]), name, color=LAYER_COLORS[0], fontsize=13)
row = spacing * np.sqrt(3) / 2 * np.array([np.cos(t[0]), -np.sin(t[0])])  # across the rows, (y, x)
start = 2 * basis[0]
ax.annotate(
    "",
    (start + row)[::-1],
    start[::-1],
    arrowprops={"arrowstyle": "<->", "color": LAYER_COLORS[1], "lw": 2},
)
ax.text(*((start + 0.5 * row)[::-1] + [4, 3]), "$d_{10}$", color=LAYER_COLORS[1], fontsize=13)
ax.set(xlim=(-115, 115), ylim=(95, -95), aspect="equal", xlabel="x (nm)", ylabel="y (nm)")
plt.show()

# %% [markdown]
# `hexagonal_lattice` does the same within a circle. Two numbers check it: every point's nearest neighbour is at $a$,
# and each point takes up the area $\sqrt{3}a^2/2$. Rows of points are $d_{10} = \sqrt{3}a/2$ apart; papers often
# quote this distance instead of $a$, so always ask which one a number is.

# %%
points = hexagonal_lattice(spacing, angle, center=(0, 0), radius=1000)
neighbour = cKDTree(points).query(points, k=2)[0][:, 1]
area = np.pi * 1000**2 / len(points)
print(f"nearest neighbour  {neighbour.min():.3f} to {neighbour.max():.3f} nm")
print(f"area per point     {area:.1f} nm², formula {np.sqrt(3) / 2 * spacing**2:.1f} nm²")

# %% [markdown]
# ## A small twist makes a large pattern
#
# Lay a second, equal lattice over the first and turn it by the {term}`twist angle` $\theta$. Where particles lie on
# top of each other the picture is open; where they fill each other's gaps it is closed. These places alternate with a
# period far larger than the spacing, and the smaller the twist, the larger the period ({numref}`fig-twist`). A
# projected image is a *product*: a beam that passes a particle of layer 1 with {term}`transmission` $T$ and then one
# of layer 2 keeps $T^2$. For now every particle is a disk with $T = 0.5$; [chapter 2](02_multislice) replaces it by
# physics.


# %%
def projected(layers, diameter, field, pixel_size, transmission=0.5):
    """Product of the layers' transmissions, (y, x)."""
    axis = (np.arange(round(field / pixel_size)) + 0.5) * pixel_size
    centers = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1)
    image = np.ones((axis.size, axis.size))
    for layer in layers:
        distance = cKDTree(layer).query(centers)[0]
        # an edge one pixel wide, so that the image changes smoothly with the lattice
        image *= 1 - (1 - transmission) * np.clip(
            (diameter / 2 - distance) / pixel_size + 0.5, 0, 1
        )
    return image


def twisted(theta, field, mismatch=1.0):
    """Two lattices about the middle of the field, the second turned by theta degrees and scaled."""
    middle, radius = (field / 2, field / 2), 0.75 * field
    first = hexagonal_lattice(spacing, angle, middle, radius)
    return first, hexagonal_lattice(spacing * mismatch, angle + theta, middle, radius)


# %% mystnb={"figure": {"caption": "Two equal lattices twisted by 4°, 9° and 20°. The orange bar is one Moiré period as the formula gives it: it spans the distance between neighbouring rosettes.", "name": "fig-twist"}}
fig, axes = plt.subplots(1, 3, figsize=(8, 3), layout="constrained")
for ax, theta in zip(axes, (4, 9, 20), strict=True):
    field, pixel_size = 900.0, 1.5
    show_frame(
        projected(twisted(theta, field), 30.0, field, pixel_size),
        pixel_size,
        ax,
        title=f"twist {theta}°",
    )
    # rosettes lie along the direction half-way between the two lattices' rows, turned by 30°
    direction = np.radians(angle + theta / 2 + 30)
    step = (
        moire_period(spacing, theta) / pixel_size * np.array([np.cos(direction), np.sin(direction)])
    )
    middle = np.full(2, field / pixel_size / 2 - 0.5)
    ax.plot(*np.transpose([middle, middle + step]), color=LAYER_COLORS[1], lw=3, marker="o", ms=4)
plt.show()

# %% [markdown]
# ## The period is a beat
#
# In Fourier space the first lattice is a set of peaks at $\mathbf{g}$, six of them at
# $|\mathbf{g}| = 1/d_{10} = 2/(\sqrt{3}a)$, and the second is the same set turned by $\theta$. A product in the image
# is a convolution in Fourier space, so the image also holds the *differences* $\mathbf{g}_2 - \mathbf{g}_1$, as two
# tones beat. Two vectors of equal length with the angle $\theta$ between them differ by
#
# $$
# |\mathbf{g}_2 - \mathbf{g}_1| = 2\,|\mathbf{g}|\,\sin(\theta/2) .
# $$
#
# The differences again form a hexagon, so the Moiré pattern is itself a hexagonal lattice, and its spacing follows
# from its shortest vector as $a$ follows from $|\mathbf{g}|$ {cite:p}`oster1964,hermann2012`:
#
# $$
# L = \frac{2}{\sqrt{3}\,|\mathbf{g}_2 - \mathbf{g}_1|} = \frac{a}{2 \sin(\theta/2)} .
# $$
#
# The {term}`structure factor` of the *positions* knows nothing of the product, and indeed shows no peak at the Moiré
# frequency. The spectrum of the *image* does ({numref}`fig-beat`). For separating layers this is good news: the beat
# is made by the projection and carries nothing that the two sets of lattice peaks do not carry.

# %%
theta, field, pixel_size = 9.0, 1200.0, 2.0
layers = twisted(theta, field)
image = projected(layers, 30.0, field, pixel_size)


def power(image):
    """Power spectrum, windowed so that the image's edges make no cross."""
    window = np.hanning(image.shape[0])[:, None] * np.hanning(image.shape[1])
    return np.abs(np.fft.fftshift(np.fft.fft2((image - image.mean()) * window))) ** 2


inside = [p[np.all((p > 0) & (p < field), axis=1)] for p in layers]
dots = np.zeros(image.shape)
np.add.at(dots, tuple((np.concatenate(inside) / pixel_size).astype(int).T), 1.0)

# %% mystnb={"figure": {"caption": "Left, structure factor of the positions of both layers: two sixfold sets of peaks, 9° apart, and nothing near the centre. Right, spectrum of the projected image: six more peaks, circled where the formula puts them.", "name": "fig-beat"}}
g = 2 / (np.sqrt(3) * spacing)
k_moire = 2 / (np.sqrt(3) * moire_period(spacing, theta))
fig, axes = plt.subplots(1, 2, figsize=(8, 4), sharey=True, layout="constrained")
half = 0.5 / pixel_size
for ax, source, title in zip(axes, (dots, image), ("positions", "projected image"), strict=True):
    spectrum = np.log10(power(source))
    low, high = np.percentile(spectrum, [60, 99.98])
    ax.imshow(spectrum, extent=(-half, half, half, -half), cmap="cividis", vmin=low, vmax=high)
    ax.set(xlim=(-0.05, 0.05), ylim=(0.05, -0.05), xlabel="$k_x$ (1/nm)", title=title)
t = np.radians(angle + theta / 2 + 60 * np.arange(6))
axes[1].scatter(
    k_moire * np.cos(t), k_moire * np.sin(t), s=160, facecolors="none", edgecolors="white", lw=1.5
)
axes[0].set_ylabel("$k_y$ (1/nm)")
plt.show()

# %% [markdown]
# ## Measured, the period agrees with the formula
#
# The strongest peak well inside the first ring of lattice peaks is the Moiré frequency. A Fourier transform of the
# image gives it to within one pixel of the spectrum, $1/\text{field}$; evaluating the same sum on a finer grid around
# that pixel locates the peak far better. The field must hold several periods, so it grows as the twist shrinks.


# %%
def measured_period(image, field, pixel_size):
    """Moiré period in nm from the strongest peak inside half the lattice frequency."""
    spectrum, n = power(image), image.shape[0]
    k = np.fft.fftshift(np.fft.fftfreq(n, pixel_size))
    radius = np.hypot(k[:, None], k)
    spectrum[(radius < 2 / field) | (radius > 0.5 * g)] = 0
    peak = np.array([k[m] for m in np.unravel_index(spectrum.argmax(), spectrum.shape)])
    fine = np.linspace(-1, 1, 41) / field
    position, window = (np.arange(n) + 0.5) * pixel_size, np.hanning(n)
    waves = [window * np.exp(-2j * np.pi * np.outer(c + fine, position)) for c in peak]
    amplitude = np.abs(
        waves[0] @ (image - image.mean()) @ waves[1].T
    )  # one sum per axis: the waves separate
    best = np.unravel_index(amplitude.argmax(), amplitude.shape)
    return 2 / (np.sqrt(3) * np.hypot(*(peak + fine[list(best)])))


# %%
twists = np.array([3, 4.5, 6, 9, 12, 18, 24]) if FAST else np.arange(2.0, 25.0)
predicted = np.array([moire_period(spacing, theta) for theta in twists])
fields = np.maximum(1200.0, np.round(5 * predicted))  # at least five periods
measured = np.array(
    [
        measured_period(projected(twisted(theta, field), 30.0, field, 3.0), field, 3.0)
        for theta, field in zip(twists, fields, strict=True)
    ]
)
print(f"largest disagreement: {100 * np.abs(measured / predicted - 1).max():.2f} %")

# %% mystnb={"figure": {"caption": "Moiré period against twist: the formula (line) and what the spectrum of the projected image gives (points). Below, their relative difference.", "name": "fig-period"}}
fig, (top, bottom) = plt.subplots(
    2, 1, figsize=(6, 4.5), sharex=True, height_ratios=(3, 1.2), layout="constrained"
)
line = np.linspace(2.5, 26, 200)
top.plot(
    line, [moire_period(spacing, t) for t in line], color="0.5", label=r"$a\,/\,(2 \sin(\theta/2))$"
)
top.plot(twists, measured, "o", color=LAYER_COLORS[0], label="measured in the image")
top.set(
    ylabel="Moiré period (nm)",
    yscale="log",
    yticks=[100, 200, 500],
    yticklabels=["100", "200", "500"],
)
top.legend(frameon=False)
bottom.axhline(0, color="0.5")
bottom.plot(twists, 100 * (measured / predicted - 1), "o", color=LAYER_COLORS[0])
bottom.set(xlabel="twist angle (°)", ylabel="difference (%)", ylim=(-2, 2))
plt.show()

# %% [markdown]
# A hexagonal lattice looks the same every 60°, and turning one way or the other gives mirrored patterns with one
# period. All twists therefore fold into 0° to 30°:

# %%
for difference in (9, -9, 51, 69, 30, 31):
    print(f"{difference:4d}° is a twist of {fold_hexagonal(difference):.0f}°")

# %% [markdown]
# ## Real layers are not perfect
#
# In an experiment the upper layer is often an {term}`island` on a larger {term}`base layer`, sites are empty, rows
# bend, particles differ in size, and two {term}`grains <grain>` meet at a line. `LatticeConfig` holds a range for
# each of these, and `random_scene` draws one specimen from them. All randomness comes from the generator that you
# pass: the same seed gives the same specimen.

# %%
config = LatticeConfig(
    shapes=("sphere",),
    diameter_ratio=(0.77, 0.77),  # diameter / spacing
    twist_angle=(9.0, 9.0),
    vacancies=(0.05, 0.05),
    strain=(0.03, 0.03),
    island=1.0,
    edge=1.0,
    boundary=0.0,
    single_layer=0.0,
)
scene = random_scene(config, field=(700.0, 900.0), rng=np.random.default_rng(3), spacing=39.0)
for number, layer in enumerate(scene.layers, start=1):
    print(
        f"layer {number}: {len(layer)} particles, spacing {layer.spacing:.1f} nm, mid-plane at z = {layer.z:.1f} nm"
    )

# %% mystnb={"figure": {"caption": "One random specimen: layer 1 (blue), which has an edge, under an island of layer 2 (orange). Sites are empty, rows bend and the sizes vary.", "name": "fig-scene"}}
table = truth_table(scene, pixel_size=1.0)
fig, ax = plt.subplots(figsize=(7, 5.6), layout="constrained")
show_particles(table, ax, 1.0, layer=1, facecolors=LAYER_COLORS[0] + "55", linewidths=0.6)
show_particles(table, ax, 1.0, layer=2, linewidths=1.6)
ax.set(xlim=(0, 900), ylim=(700, 0), aspect="equal", xlabel="x (nm)", ylabel="y (nm)")
plt.show()

# %% [markdown]
# `truth_table` lists the particles in the form in which [chapter 7](07_particles) will list those found in an image,
# so that the two can be compared row by row.

# %%
table.head(3).round(2)

# %% [markdown]
# The numbers asked for come back when they are measured. A layer without an edge has one particle per
# $\sqrt{3}a^2/2$, less the {term}`vacancies <vacancy>`; the error bar is the scatter of a random draw.

# %%
fraction, config_full = (
    0.08,
    LatticeConfig(island=0, edge=0, boundary=0, single_layer=0, vacancies=(0.08, 0.08)),
)
field = (1500.0, 1500.0)
base = random_scene(config_full, field, np.random.default_rng(4), spacing=20.0).layers[0]
count = np.sum(np.all((base.positions >= 0) & (base.positions < field), axis=1))
sites = field[0] * field[1] / (np.sqrt(3) / 2 * 20.0**2)
error = np.sqrt(fraction * (1 - fraction) / sites)
print(
    f"empty sites: {100 * (1 - count / sites):.2f} %, asked for {100 * fraction:.0f} % ± {100 * error:.2f} %"
)

# %% [markdown]
# ## One nanoparticle, atom by atom
#
# To find out what a particle does to the beam we need its atoms. Gold is face-centred cubic with four atoms in a cube
# of 0.4078 nm. `gold_particle` cuts a sphere out of such a crystal and turns it to a random orientation. It returns
# the `Atoms` object of the atomic simulation environment ASE {cite:p}`larsen2017`, whose lengths are in Å: this, and
# abTEM in the next chapter, are the only places in the project where Å appear as lengths.

# %%
atoms = gold_particle(3.0, np.random.default_rng(5))
pair = cKDTree(atoms.positions).query(atoms.positions, k=2)[0][:, 1]
print(atoms)
print(f"nearest atoms {pair.min() / 10:.4f} nm apart; a/√2 = {0.4078 / np.sqrt(2):.4f} nm")

# %% [markdown]
# The volume gives the number of atoms in advance, $N = \tfrac{\pi}{6} d^3 \cdot 4/a_\text{Au}^3$. Because only whole
# atoms fit, a small particle misses it by a few per cent, and the difference shrinks as the particle grows.

# %%
diameters = np.linspace(1.0, 4.0 if FAST else 8.0, 13)
rng = np.random.default_rng(6)
counts = np.array(
    [[len(gold_particle(d, rng)) for _ in range(5)] for d in diameters]
)  # (diameter, draw)
expected = np.pi / 6 * diameters**3 * 4 / 0.4078**3

# %% mystnb={"figure": {"caption": "Left, a gold particle of 3 nm seen along the beam, brighter atoms nearer to the viewer. Right, number of atoms over the number that the volume gives, five random cuts per diameter.", "name": "fig-gold"}}
fig, (left, right) = plt.subplots(
    1, 2, figsize=(8, 3.5), width_ratios=(1, 1.3), layout="constrained"
)
x, y, z = atoms.positions[np.argsort(atoms.positions[:, 2])].T / 10
left.scatter(x, y, s=26, c=z, cmap="cividis", edgecolors="black", linewidths=0.3)
left.set(aspect="equal", xlabel="x (nm)", ylabel="y (nm)")
right.axhline(1, color="0.5")
right.plot(diameters, counts / expected[:, None], "o", ms=4, color=LAYER_COLORS[0])
right.set(xlabel="diameter (nm)", ylabel="atoms / atoms by volume", ylim=(0.88, 1.08))
plt.show()

# %% [markdown]
# ## Exercises
#
# **1.** Two layers of one batch of particles can differ in spacing: say $b = 1.04\,a$. Derive the Moiré period for
# spacings $a$ and $b$ and a twist $\theta$ from the difference of two vectors of unequal length, and test it on an
# image twisted by 5°. How much does the mismatch matter there?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
# The law of cosines for |g2 - g1| with |g1| = 2/(√3 a) and |g2| = 2/(√3 b) gives
# L = a b / sqrt(a² + b² - 2 a b cos θ), which is a/(2 sin(θ/2)) for b = a.
a, b, theta, field, pixel_size = spacing, 1.04 * spacing, 5.0, 1200.0, 2.0
formula = a * b / np.sqrt(a**2 + b**2 - 2 * a * b * np.cos(np.radians(theta)))
image = projected(twisted(theta, field, mismatch=b / a), 30.0, field, pixel_size)
print(
    f"with mismatch: formula {formula:.0f} nm, measured {measured_period(image, field, pixel_size):.0f} nm"
)
print(f"without:       {moire_period(spacing, theta):.0f} nm")

# %% [markdown]
# **2.** At which twist is the Moiré period ten spacings? How many Moiré cells does a square field of 700 nm then hold
# for $a$ = 39 nm?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
theta = np.degrees(2 * np.arcsin(1 / 20))
period = moire_period(spacing, theta)
cells = 700**2 / (np.sqrt(3) / 2 * period**2)
print(f"twist {theta:.2f}°, period {period:.0f} nm, {cells:.1f} Moiré cells in the field")

# %% [markdown]
# **3.** Which share of the atoms of a 3 nm particle lies at its surface, and of a 1.5 nm particle? An atom inside the
# crystal has twelve nearest neighbours.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
for diameter in (1.5, 3.0):
    positions = gold_particle(diameter, np.random.default_rng(7)).positions
    neighbours = cKDTree(positions).query_ball_point(positions, r=3.3, return_length=True) - 1
    print(
        f"{diameter} nm: {len(positions)} atoms, {100 * np.mean(neighbours < 12):.0f} % with fewer than 12 neighbours"
    )

# %% [markdown]
# ## Summary
#
# - Two vectors make a lattice; two lattices, twisted by $\theta$, make a Moiré lattice of period
#   $a/(2\sin(\theta/2))$. The formula and an image agree to about a per cent.
# - The Moiré peaks are differences of lattice peaks. They appear in the product of two layers, not in the positions.
# - `random_scene` draws specimens with islands, edges, vacancies, strain and grain boundaries from a seed;
#   `truth_table` lists every particle.
# - `gold_particle` gives the atoms of one particle, in a random orientation.
#
# ## In practice
#
# - **The formula needs one spacing.** If the layers' spacings differ by $\varepsilon$, the mismatch matters once
#   $\varepsilon$ is not small against the twist in radians (4 % is 2.3°). A period alone then does not give the
#   twist; the two sets of lattice peaks do.
# - **The field must hold the pattern.** At a twist of 1° and $a$ = 39 nm one period is 2.2 µm. With less than two
#   periods in the field, do not try to read it from the spectrum.
# - **Near 30°** the period approaches twice the spacing, and the pattern is a quasicrystal rather than a Moiré
#   lattice.
# - **The specimens are models.** Particles move independently about strained sites, strain is two plane waves, and
#   outlines are smooth curves. Real edges follow lattice rows, and particles relax around vacancies and boundaries.
#   Gold particles are spheres cut from one crystal; real ones have facets, twins and a ligand shell.
#
# Next: [what such a particle does to the electron beam](02_multislice).
