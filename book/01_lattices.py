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
# - measure the Moiré period in an image and compare it with its formula; find the twists that repeat exactly
# - draw random specimens of two or more layers with known truth
# - plant dislocations, twin boundaries, vacancies and interstitials
# - let a lattice vibrate as an elastic body, and grow
# - build gold nanoparticles of five shapes, as solids and atom by atom
#
# Needs nothing from other chapters · CPU · 15 seconds (fast), 25 seconds (full) · 0.5 GB (full 0.9 GB)
# ```
#
# This book starts from specimens that we know completely: the position, {term}`layer` and size of each particle, and the
# defects of the lattice. This chapter makes such specimens. Lengths are in nm, angles in degrees, and points are
# `(y, x)`.

# %%
import os
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.spatial import Delaunay, cKDTree

from moirelib.crystal import (
    bonds,
    coincidence_period,
    commensurate_angles,
    fold_hexagonal,
    hexagonal_lattice,
    moire_period,
)
from moirelib.plot import LAYER_COLORS, show_frame, show_particles
from moirelib.simulation import (
    SHAPES,
    LatticeConfig,
    circumscribed_ratio,
    dislocation_displacement,
    dynamical_matrix,
    growth_schedule,
    nanoparticle,
    particle_height,
    particle_thickness,
    random_scene,
    stiffness_matrix,
    thermal_displacements,
    truth_table,
    twin_boundary,
)

FAST = os.environ.get("MOIRELIB_FAST", "1") != "0"
plt.rcParams["figure.dpi"] = 144

# %% [markdown]
# ## Two vectors make a lattice
#
# A hexagonal lattice consists of all sums of whole multiples of two vectors that are equally long and 60° apart. Their
# length is the {term}`spacing` $a$, the distance between nearest neighbours. Gold nanoparticles in liquid-cell
# experiments are some tens of nm apart; here $a$ = 39 nm.

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
# and each point takes up the area $\sqrt{3}a^2/2$. Rows of points are $d_{10} = \sqrt{3}a/2$ apart. Papers often
# quote this distance instead of $a$, so check which of the two a number is.

# %%
points = hexagonal_lattice(spacing, angle, center=(0, 0), radius=1000)
neighbour = cKDTree(points).query(points, k=2)[0][:, 1]
area = np.pi * 1000**2 / len(points)
print(f"nearest neighbour  {neighbour.min():.3f} to {neighbour.max():.3f} nm")
print(f"area per point     {area:.1f} nm², formula {np.sqrt(3) / 2 * spacing**2:.1f} nm²")

# %% [markdown]
# ## A small twist makes a large pattern
#
# Put a second, equal lattice on the first and turn it by the {term}`twist angle` $\theta$. The image is open where
# particles lie on top of each other, and closed where they fill each other's gaps. The two alternate with a period much
# larger than the spacing; the smaller the twist, the larger the period ({numref}`fig-twist`). A projected image is a
# *product*: a beam that passes a particle of layer 1 with {term}`transmission` $T$ and then one of layer 2 keeps $T^2$.
# For now every particle is a disk with $T = 0.5$; [chapter 2](02_multislice) computes the transmission.


# %%
def project_layers(layers, diameter, field, pixel_size, transmission=0.5):
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


def twist_lattices(theta, field, mismatch=1.0):
    """Two lattices about the middle of the field, the second turned by theta degrees and scaled."""
    middle, radius = (field / 2, field / 2), 0.75 * field
    first = hexagonal_lattice(spacing, angle, middle, radius)
    return first, hexagonal_lattice(spacing * mismatch, angle + theta, middle, radius)


# %% mystnb={"figure": {"caption": "Two equal lattices twisted by 4°, 9° and 20°. The orange bar is one Moiré period by the formula: it connects neighbouring rosettes.", "name": "fig-twist"}}
fig, axes = plt.subplots(1, 3, figsize=(8, 3), layout="constrained")
for ax, theta in zip(axes, (4, 9, 20), strict=True):
    field, pixel_size = 900.0, 1.5
    show_frame(
        project_layers(twist_lattices(theta, field), 30.0, field, pixel_size),
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
# $|\mathbf{g}| = 1/d_{10} = 2/(\sqrt{3}a)$. The second is the same set turned by $\theta$. A product in the image is a
# convolution in Fourier space, so the image also holds the *differences* $\mathbf{g}_2 - \mathbf{g}_1$, like the beat
# of two tones. Two vectors of equal length with the angle $\theta$ between them differ by
#
# $$
# |\mathbf{g}_2 - \mathbf{g}_1| = 2\,|\mathbf{g}|\,\sin(\theta/2) .
# $$
#
# The differences also form a hexagon, so the Moiré pattern is a hexagonal lattice too. Its spacing follows from its
# shortest vector as $a$ follows from $|\mathbf{g}|$ {cite:p}`oster1964,hermann2012`:
#
# $$
# L = \frac{2}{\sqrt{3}\,|\mathbf{g}_2 - \mathbf{g}_1|} = \frac{a}{2 \sin(\theta/2)} .
# $$
#
# The {term}`structure factor` of the *positions* contains no product, and it shows no peak at the Moiré frequency. The
# spectrum of the *image* does ({numref}`fig-beat`). This helps to separate layers: the projection makes the beat, and it
# carries no information beyond the two sets of lattice peaks.

# %%
theta, field, pixel_size = 9.0, 1200.0, 2.0
layers = twist_lattices(theta, field)
image = project_layers(layers, 30.0, field, pixel_size)


def power(image):
    """Power spectrum, with a window so that the image's edges make no cross."""
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
# ## The measured period agrees with the formula
#
# The strongest peak well inside the first ring of lattice peaks is the Moiré frequency. A Fourier transform of the
# image gives it to within one pixel of the spectrum, $1/\text{field}$. The same sum on a finer grid around that pixel
# locates the peak much better. The field must hold several periods, so it is larger for smaller twists.


# %%
def measure_period(image, field, pixel_size):
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
        measure_period(project_layers(twist_lattices(theta, field), 30.0, field, 3.0), field, 3.0)
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
# A hexagonal lattice looks the same every 60°, and a twist to the left or to the right gives mirrored patterns of the
# same period. All twists therefore fold into 0° to 30°:

# %%
for difference in (9, -9, 51, 69, 30, 31):
    print(f"{difference:4d}° is a twist of {fold_hexagonal(difference):.0f}°")

# %% [markdown]
# Layers can also differ in spacing. The same difference of two vectors, now of unequal length, gives for spacings $a$
# and $b$ {cite:p}`hermann2012`
#
# $$
# L = \frac{ab}{\sqrt{a^2 + b^2 - 2ab\cos\theta}} .
# $$
#
# Without any twist a difference of 5 % makes a Moiré pattern of $L = 21\,a$. Exercise 1 measures the effect of a
# difference in spacing.

# %%
for theta in (0, 1, 3, 9):
    equal, unequal = moire_period(spacing, theta), moire_period(spacing, theta, 1.05 * spacing)
    print(f"twist {theta}°: L = {equal:5.0f} nm for b = a, {unequal:4.0f} nm for b = 1.05 a")

# %% [markdown]
# ## A few twists repeat exactly
#
# The Moiré pattern looks periodic at every twist, but its rosettes in general differ: the two lattices share only one
# site. At {term}`commensurate twists <commensurate twist>` they share a lattice of sites. The twist brings the lattice
# vector $n\mathbf{a}_1 + m\mathbf{a}_2$ onto $m\mathbf{a}_1 + n\mathbf{a}_2$, a vector of the same length, if
# {cite:p}`shallcross2010`
#
# $$
# \cos\theta = \frac{m^2 + 4mn + n^2}{2\,(m^2 + mn + n^2)} .
# $$
#
# Then one site in $\Sigma = m^2 + mn + n^2$ coincides {cite:p}`ranganathan1966`, and the coincident sites are
# $a\sqrt{\Sigma}$ apart. (If $m - n$ is a multiple of three, $\Sigma$ is a third of this, and the twist repeats another
# one.)

# %%
commensurate_angles(50).round(3)

# %% mystnb={"figure": {"caption": "Left, two lattices at the commensurate twist of 21.79°: one site in Σ = 7 of each coincides (black), and the cell of the coincident sites is the Moiré cell. Right, Moiré period against twist (line) and the period of the coincident sites (points). The two are equal for n = m - 1; for all others the sites' period is longer.", "name": "fig-commensurate"}}
table = commensurate_angles(60 if FAST else 200)
theta = table["twist_deg"][0]
first, second = (hexagonal_lattice(1.0, t, (0, 0), 7.5) for t in (0, theta))
shared = first[cKDTree(second).query(first)[0] < 1e-6]
fig, (left, right) = plt.subplots(
    1, 2, figsize=(8, 3.6), width_ratios=(1, 1.25), layout="constrained"
)
for lattice, color, size in ((first, LAYER_COLORS[0], 60), (second, LAYER_COLORS[1], 25)):
    left.scatter(lattice[:, 1], lattice[:, 0], s=size, facecolors="none", edgecolors=color, lw=1.5)
left.scatter(shared[:, 1], shared[:, 0], s=25, color="black", zorder=3)
cell = shared[np.argsort(np.hypot(*shared.T))][1:7]  # the six shortest vectors, in order of angle:
u, v = cell[np.argsort(np.arctan2(*cell.T))][[2, 3]]
corners = np.array([[0, 0], u, u + v, v, [0, 0]])
left.plot(corners[:, 1], corners[:, 0], color="black", lw=1)
left.set(aspect="equal", xlim=(-5, 5), ylim=(5, -5), xlabel="x / a", ylabel="y / a")
line = np.linspace(4, 30, 300)
right.plot(line, [moire_period(1, t) for t in line], color="0.5", label="Moiré period")
for near, style in ((True, "o"), (False, "s")):
    rows = table[(table["m"] - table["n"] == 1) == near]
    color, name = (LAYER_COLORS[0], "n = m - 1") if near else (LAYER_COLORS[1], "all others")
    right.plot(rows["twist_deg"], np.sqrt(rows["sigma"]), style, color=color, ms=5, label=name)
for row in table[:5].itertuples():
    right.annotate(
        f"Σ{row.sigma}", (row.twist_deg, np.sqrt(row.sigma)), (6, 4), textcoords="offset points"
    )
right.set(xlabel="twist angle (°)", ylabel="period / a", ylim=(0, None))
right.legend(frameon=False, loc="upper right", fontsize=8)
plt.show()

# %% [markdown]
# At a large $\Sigma$ few sites coincide, and it hardly matters whether they do: every small twist has a commensurate one
# close by. A small $\Sigma$ matters where two grains *of one layer* meet.
#
# ## Real layers are not perfect
#
# In an experiment the upper layer is often an {term}`island` on a larger {term}`base layer`. Sites are empty, rows bend,
# particles differ in size, and two {term}`grains <grain>` meet at a line. `LatticeConfig` holds a range for each of
# these (`LatticeConfig.plain` starts without defects and edges), and `random_scene` draws one specimen from them. All
# random numbers come from the generator that you pass: the same seed gives the same specimen.

# %%
config = LatticeConfig.plain(
    shapes=("sphere",),
    diameter_ratio=(0.77, 0.77),  # diameter / spacing
    twist_angle=(9.0, 9.0),
    vacancies=(0.05, 0.05),
    strain=(0.03, 0.03),
    island=1.0,
    edge=1.0,
)
scene = random_scene(config, field=(700.0, 900.0), rng=np.random.default_rng(47), spacing=39.0)
for number, layer in enumerate(scene.layers, start=1):
    print(
        f"layer {number}: {len(layer)} particles, spacing {layer.spacing:.1f} nm, mid-plane at z = {layer.z:.1f} nm"
    )

# %% mystnb={"figure": {"caption": "One random specimen: layer 1 (blue), which has an edge, under an island of layer 2 (orange). Some sites are empty, rows bend and the sizes vary.", "name": "fig-scene"}}
table = truth_table(scene, pixel_size=1.0)
fig, ax = plt.subplots(figsize=(7, 5.6), layout="constrained")
show_particles(table, ax, 1.0, layer=1, facecolors=LAYER_COLORS[0] + "55", linewidths=0.6)
show_particles(table, ax, 1.0, layer=2, linewidths=1.6)
ax.set(xlim=(0, 900), ylim=(700, 0), aspect="equal", xlabel="x (nm)", ylabel="y (nm)")
plt.show()

# %% [markdown]
# `truth_table` lists the particles in the same form as [chapter 7](07_particles) lists those found in an image. So the
# two can be compared row by row.

# %%
table.head(3).round(2)

# %% [markdown]
# A count confirms the share of vacancies. A layer without an edge has one particle per $\sqrt{3}a^2/2$, less the
# {term}`vacancies <vacancy>`; the error bar is the scatter of a random draw.

# %%
fraction, config_full = (
    0.08,
    LatticeConfig(
        island=0,
        edge=0,
        boundary=0,
        single_layer=0,
        vacancies=(0.08, 0.08),
        interstitials=(0, 0),
        dislocations=0,
    ),
)
field = (1500.0, 1500.0)
base = random_scene(config_full, field, np.random.default_rng(4), spacing=20.0).layers[0]
count = np.sum(np.all((base.positions >= 0) & (base.positions < field), axis=1))
sites = field[0] * field[1] / (np.sqrt(3) / 2 * 20.0**2)
error = np.sqrt(fraction * (1 - fraction) / sites)
print(
    f"empty sites: {100 * (1 - count / sites):.2f} %, expected {100 * fraction:.0f} % ± {100 * error:.2f} %"
)

# %% [markdown]
# A stack can have more than two layers. Each further layer has its own twist and shift against the one below, on request
# its own spacing, and lies within the outline of the one below. Three layers make three Moiré patterns, one for every
# pair ({numref}`fig-three`).

# %%
three = replace(config, layers=3, twist_angle=(5.0, 12.0), upper_spacing=(36.0, 42.0), edge=0.0)
stack = random_scene(three, (900.0, 900.0), np.random.default_rng(12), spacing=39.0)
for number, layer in enumerate(stack.layers, start=1):
    print(
        f"layer {number}: {len(layer)} particles, spacing {layer.spacing:.1f} nm, z = {layer.z:.1f} nm"
    )
print("twists against layer 1:", ", ".join(f"{t:.1f}°" for t in stack.twist_angles))

# %% mystnb={"figure": {"caption": "Projected image of three layers: one lattice alone at the edge, two and three of them inside the islands.", "name": "fig-three"}}
fig, ax = plt.subplots(figsize=(5, 5), layout="constrained")
show_frame(project_layers([layer.positions for layer in stack.layers], 30.0, 900.0, 1.5), 1.5, ax)
plt.show()

# %% [markdown]
# ## Defects are part of the truth
#
# A later chapter looks for defects in measured positions. We plant some to test it. An empty site is a
# {term}`vacancy`, a particle between sites an {term}`interstitial`. A row of particles that ends inside the crystal
# makes a {term}`dislocation`. Its {term}`Burgers vector` $\mathbf{b}$ is the gap that remains after a walk around it with
# equal numbers of lattice steps in every direction and back. In an elastic sheet of Poisson ratio $\nu$, with
# $\mathbf{b}$ along $x$ and polar coordinates $(r, \varphi)$ about the core, particles are displaced by
# {cite:p}`anderson2017`
#
# $$
# u_x = \frac{b}{2\pi}\left[\varphi + \frac{1+\nu}{4}\sin 2\varphi\right], \qquad
# u_y = -\frac{b}{2\pi}\left[\frac{1-\nu}{2}\ln\frac{r}{b} + \frac{1+\nu}{4}\cos 2\varphi\right].
# $$
#
# A hexagonal lattice of equal springs has $\nu = 1/3$ {cite:p}`seung1988`. In NumPy:


# %%
def dislocation_field(y, x, b, nu=1 / 3):
    """Displacement (y, x) around a dislocation at the origin with its Burgers vector along x."""
    r, phi = np.hypot(y, x), np.arctan2(y, x)
    along = phi + (1 + nu) / 4 * np.sin(2 * phi)
    across = -(1 - nu) / 2 * np.log(r / b) - (1 + nu) / 4 * np.cos(2 * phi)
    return b / (2 * np.pi) * np.stack([across, along], axis=-1)


perfect = hexagonal_lattice(spacing, 0.0, (0, 0), 700)
core = spacing * np.array([np.sqrt(3) / 6, 0.5])  # in the middle of three particles
dislocated = perfect + dislocation_field(*(perfect - core).T, spacing)
same = perfect + dislocation_displacement(perfect, core, (0, spacing))
print(f"largest difference from moirelib's: {np.abs(dislocated - same).max():.1e} nm")

# %% [markdown]
# The displacement jumps by $\mathbf{b}$ across the half line to the left of the core, but the jump is invisible: a
# lattice shifted by a lattice vector is the same lattice. What remains is one particle with five neighbours beside one
# with seven. Dislocations are found by this pair ({numref}`fig-defects`).
#
# Two {term}`grains <grain>` of different orientation meet at a {term}`grain boundary`. The most regular one is the *twin
# boundary*: the grains are turned by a commensurate twist, the boundary runs along a row of coincident sites, and one
# grain is the mirror image of the other. Particles too close to their own mirror image merge with it on the line.


# %%
def coordination(points):
    """Number of neighbours of each point in the Delaunay triangulation."""
    triangles = Delaunay(points).simplices
    edges = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    edges = np.unique(np.sort(edges, axis=1), axis=0)
    return np.bincount(edges.ravel(), minlength=len(points))


twin, boundary = twin_boundary(spacing, 0.0, 7, (0, 0), 700)
print(f"Σ{boundary.sigma}: misorientation {boundary.misorientation:.2f}°")
print(f"coincident sites every {coincidence_period(spacing, 7):.1f} nm")

pointlike = replace(
    config,
    vacancies=(0.02, 0.02),
    interstitials=(0.008, 0.008),
    strain=(0.0, 0.0),
    position_std=(0.01, 0.01),
    edge=0.0,
)
layer = random_scene(pointlike, (900, 900), np.random.default_rng(15), spacing=39.0).layers[0]
for defect in layer.defects[:4]:
    print(defect.kind, "at", np.round(defect.position, 1))

# %% mystnb={"figure": {"caption": "Particles with five (blue), seven (orange) and six neighbours (grey). Left, a dislocation: the arrow is its Burgers vector. Middle, a Σ7 twin boundary: black dots are coincident sites on the mirror line. Right, vacancies (crosses) and interstitials (triangles) at their places in the truth.", "name": "fig-defects"}}
fig, axes = plt.subplots(1, 3, figsize=(9, 3.4), layout="constrained")
for ax, points, middle, title in zip(
    axes,
    (dislocated, twin, layer.positions),
    (core, (0, 0), (520, 427)),
    ("dislocation", "Σ7 twin boundary", "vacancies, interstitials"),
    strict=True,
):
    half, y, x = 210, *(points - middle).T
    number = coordination(points)
    for which, color in (
        (number == 6, "0.8"),
        (number < 6, LAYER_COLORS[0]),
        (number > 6, LAYER_COLORS[1]),
    ):
        ax.scatter(x[which], y[which], s=42, color=color, edgecolors="0.4", linewidths=0.4)
    ax.set(xlim=(-half, half), ylim=(half, -half), aspect="equal", xlabel="x (nm)", title=title)
axes[0].annotate(
    "", (0.5 * spacing, 0), (-0.5 * spacing, 0), arrowprops={"arrowstyle": "-|>", "lw": 2}
)
line = np.array([boundary.position, boundary.end])
axes[1].plot(line[:, 1], line[:, 0], "--", color="black", lw=0.8)
step = (line[1] - line[0]) / np.hypot(*(line[1] - line[0])) * coincidence_period(spacing, 7)
axes[1].scatter(*(np.arange(-3, 4)[:, None] * step).T[::-1], s=7, color="black", zorder=3)
for kind, marker in (("vacancy", "x"), ("interstitial", "^")):
    listed = np.array([d.position for d in layer.defects if d.kind == kind]) - (520, 427)
    axes[2].scatter(listed[:, 1], listed[:, 0], marker=marker, s=26, color="black", zorder=3)
axes[0].set_ylabel("y (nm)")
plt.show()

# %% [markdown]
# A layer's `defects` list every planted defect: the kind, the position, the Burgers vector of a dislocation, both ends of
# a boundary with its {term}`misorientation` and Σ. The numbers of neighbours alone do not identify a defect: around a
# vacancy or an interstitial there are several pairs of five and seven, whose Burgers vectors cancel.
#
# ## Neighbours vibrate together
#
# Independent motion of the particles is the simplest model, but not a true one: a particle that moves pushes its
# neighbours. We put a spring of constant $k$ on every bond, unstretched in equilibrium. To second order the energy is
# $\tfrac{1}{2}\mathbf{u}^\mathsf{T} K \mathbf{u}$ with $K = k\,B^\mathsf{T}B$, where $B$ maps the displacements of all
# particles to the stretch of all bonds. In thermal equilibrium displacements are Gaussian with the covariance
# $kT K^{-1}$. A Cholesky factor of $K$ draws them:

# %%
sites = hexagonal_lattice(spacing, angle, (0, 0), 120.0)
pairs, spring_constant, site_stiffness = bonds(sites, spacing), 0.5, 0.01  # kT/nm²
unit = (sites[pairs[:, 1]] - sites[pairs[:, 0]]) / spacing
stretch = np.zeros((len(pairs), len(sites), 2))
stretch[np.arange(len(pairs)), pairs[:, 0]] = -unit
stretch[np.arange(len(pairs)), pairs[:, 1]] = unit
stretch = stretch.reshape(len(pairs), -1)  # (bond, 2n)
stiffness = spring_constant * stretch.T @ stretch + site_stiffness * np.eye(2 * len(sites))
factor = np.linalg.cholesky(stiffness)
drawn = np.linalg.solve(factor.T, np.random.default_rng(9).standard_normal((2 * len(sites), 2000)))
same = stiffness_matrix(sites, spacing, spring_constant, site_stiffness).toarray()
print(f"difference from moirelib's stiffness matrix: {np.abs(stiffness - same).max():.1e} kT/nm²")
print(f"rms displacement {drawn.std():.2f} nm")

# %% [markdown]
# The weak `site_stiffness` holds the layer as a whole; without it the crystal would drift away.
# `thermal_displacements` does the same for thousands of particles with a sparse solver. Two displacement fields of
# the same rms displacement look different ({numref}`fig-elastic`): in the elastic one neighbours move together, and
# the distances between them scatter about half as much.

# %%
sites = hexagonal_lattice(spacing, angle, (0, 0), 480.0 if FAST else 700.0)
rng, frames = np.random.default_rng(10), 400 if FAST else 2000
elastic = thermal_displacements(sites, spacing, spring_constant, frames, rng, site_stiffness)
independent = elastic.std() * rng.standard_normal(elastic.shape)
pairs = bonds(sites, spacing)
for name, u in (("independent", independent), ("elastic", elastic)):
    length = np.linalg.norm((sites + u)[:, pairs[:, 1]] - (sites + u)[:, pairs[:, 0]], axis=2)
    print(
        f"{name:11s} rms displacement {u.std():.2f} nm, bond lengths scatter {length.std():.2f} nm"
    )

# %% mystnb={"figure": {"caption": "Displacements of one frame, drawn fifteen times too long: independent (left) and elastic (right), of equal rms.", "name": "fig-elastic"}}
fig, axes = plt.subplots(1, 2, figsize=(8, 4), sharey=True, layout="constrained")
for ax, u, title in zip(
    axes, (independent[0], elastic[0]), ("independent", "elastic"), strict=True
):
    ax.scatter(sites[:, 1], sites[:, 0], s=8, color="0.7")
    ax.quiver(
        *sites.T[::-1],
        *u.T[::-1],
        angles="xy",
        scale_units="xy",
        scale=1 / 15,
        width=0.006,
        color=LAYER_COLORS[0],
    )
    ax.set(xlim=(-250, 250), ylim=(250, -250), aspect="equal", xlabel="x (nm)", title=title)
axes[0].set_ylabel("y (nm)")
plt.show()

# %% [markdown]
# Plane waves make this exact. In an infinite crystal a wave of wave vector $\mathbf{q}$ has the stiffness
# {cite:p}`ashcroft1976`
#
# $$
# D(\mathbf{q}) = 2k \sum_{\text{3 bonds}} (1 - \cos \mathbf{q}\cdot\boldsymbol{\delta})\,
# \hat{\boldsymbol{\delta}}\hat{\boldsymbol{\delta}}^\mathsf{T},
# $$
#
# the {term}`dynamical matrix`, and by equipartition its mean squared amplitude is $kT D^{-1}(\mathbf{q})$. The two
# eigenvalues of $D$ belong to longitudinal and transverse waves; for long waves they differ by a factor of three. So we
# know the spectrum of an elastic layer's movie, and a measurement must reproduce it ({numref}`fig-spectrum`). Particles
# at the edge have fewer bonds and move more; a window hides them.

# %%
t = np.radians(angle)
direction = np.array([np.sin(t), np.cos(t)])  # (y, x), along a close-packed row
across = np.array([direction[1], -direction[0]])
wave_numbers = np.linspace(0.2, 1.0, 9) * 4 * np.pi / 3 / spacing  # up to the corner of the zone
window = np.cos(0.5 * np.pi * np.clip(np.hypot(*sites.T) / np.hypot(*sites.T).max(), 0, 1)) ** 2
waves = window * np.exp(-1j * np.outer(wave_numbers, sites @ direction))  # (q, n)
spectra = {
    (name, kind): np.mean(np.abs(u @ polarization @ waves.T) ** 2, axis=0) / np.sum(window**2)
    for name, u in (("elastic", elastic), ("independent", independent))
    for kind, polarization in (("longitudinal", direction), ("transverse", across))
}

# %% mystnb={"figure": {"caption": "Mean squared amplitude of plane waves along a row of particles: measured in the elastic movie (filled), from the dynamical matrix (lines), and in the movie of independent displacements (open).", "name": "fig-spectrum"}}
fine = np.linspace(wave_numbers[0], wave_numbers[-1], 200)
predicted = np.linalg.inv(
    dynamical_matrix(fine[:, None] * direction, spacing, angle, spring_constant, site_stiffness)
)
fig, ax = plt.subplots(figsize=(6, 3.8), layout="constrained")
for kind, e, color, marker in (
    ("longitudinal", direction, LAYER_COLORS[0], "o"),
    ("transverse", across, LAYER_COLORS[1], "s"),
):
    ax.plot(fine, np.einsum("qij,i,j->q", predicted, e, e), color=color)
    ax.plot(wave_numbers, spectra["elastic", kind], marker, color=color, label=kind)
    ax.plot(wave_numbers, spectra["independent", kind], marker, color=color, fillstyle="none")
ax.set(xlabel="wave number (rad/nm)", ylabel="⟨|u(q)|²⟩ (nm²)", yscale="log")
ax.set_yticks([0.5, 1, 2, 5], ["0.5", "1", "2", "5"], minor=False)
ax.minorticks_off()
ax.legend(frameon=False)
plt.show()
d = np.linalg.inv(
    dynamical_matrix(
        wave_numbers[:, None] * direction, spacing, angle, spring_constant, site_stiffness
    )
)
ratio = spectra["elastic", "transverse"] / np.einsum("qij,i,j->q", d, across, across)
print(f"measured / predicted, transverse: {ratio.mean():.3f} ± {ratio.std() / np.sqrt(9):.3f}")

# %% [markdown]
# With `correlation_time` the displacements follow each other as in a viscous liquid: every mode relaxes at a rate
# proportional to its stiffness, so long waves are slow. The spectrum stays the same.
#
# ## Layers grow at their rim
#
# A particle from the liquid stays where it touches others, at the rim of an {term}`island`. `growth_schedule` gives the
# frames in which each particle of a layer is present. It is an Eden model {cite:p}`eden1961`: a free site with more
# neighbours fills sooner. With `detachment`, particles at the rim may also leave.

# %%
island = scene.layers[1]
present, events = growth_schedule(
    island, frames=40, rng=np.random.default_rng(11), start=0.1, end=0.95, detachment=0.03
)
print(f"{len(events)} events, {np.sum(events['event'] == 'detach')} of them detachments")
events.head(3).round(1)

# %% mystnb={"figure": {"caption": "Growth of an island. Left, every particle coloured by the frame in which it first appears. Right, the number of particles, and how many attach and detach in each frame.", "name": "fig-growth"}}
fig, axes = plt.subplot_mosaic(
    [["map", "number"], ["map", "events"]],
    figsize=(8, 3.6),
    width_ratios=(1.3, 1),
    layout="constrained",
)
first = np.where(present.any(axis=0), present.argmax(axis=0), np.nan)
dots = axes["map"].scatter(*island.positions.T[::-1], s=32, c=first, cmap="cividis")
fig.colorbar(dots, ax=axes["map"], label="first frame")
axes["map"].set(aspect="equal", xlabel="x (nm)", ylabel="y (nm)")
axes["map"].invert_yaxis()
axes["number"].plot(present.sum(axis=1), color="black")
axes["number"].set(ylabel="particles", ylim=(0, None))
for kind, sign, color in (("attach", 1, LAYER_COLORS[0]), ("detach", -1, LAYER_COLORS[1])):
    count = np.bincount(events["frame"][events["event"] == kind], minlength=len(present))
    axes["events"].bar(np.arange(len(present)), sign * count, color=color, label=kind)
axes["events"].set(xlabel="frame", ylabel="per frame", ylim=(-8, 18))
axes["events"].legend(frameon=False, loc="upper left", ncols=2, fontsize=8)
plt.show()

# %% [markdown]
# (shapes)=
# ## One nanoparticle: a solid
#
# Synthesis gives gold spheres, rods, cubes, octahedra and triangular prisms {cite:p}`grzelczak2008`. All have the same
# construction here: a sharp solid, made a little smaller, plus a ball that rolls over it. The ball's radius over the
# diameter is the `rounding` of the edges. The diameter of any shape is its {term}`equivalent diameter`, that of the
# circle of equal projected area; an image gives the same diameter. A convex polygon of area $A$ and perimeter $P$,
# widened by $\rho$, has the area $A + P\rho + \pi\rho^2$ {cite:p}`schneider2013`, so the area is right for any rounding.
# Rods stand along the beam, and octahedra and prisms lie on a triangular facet.

# %%
diameter, height, pixel = 30.0, 40.0, 0.1  # nm; only rods and prisms have a height of their own
axis = torch.arange(-24 + pixel / 2, 24, pixel)
solids = {
    shape: particle_thickness(
        shape, axis[:, None], axis, diameter, height=10.0 if shape == "prism" else height
    ).numpy()
    for shape in SHAPES
}
for shape, thickness in solids.items():
    area = np.sum(thickness > 0) * pixel**2
    print(
        f"{shape:10s} area / (π d²/4) = {area / (np.pi * diameter**2 / 4):.3f}, "
        f"thickness up to {thickness.max():4.1f} nm, corners within {circumscribed_ratio(shape, 0.1):.2f} d"
    )

# %% mystnb={"figure": {"caption": "Thickness of five gold particles of 30 nm along the beam. Below, on the horizontal line through the centre (black) and with sharper edges (orange).", "name": "fig-shapes"}}
fig, axes = plt.subplots(
    2, 5, figsize=(9, 3.6), height_ratios=(1.5, 1), sharex=True, sharey="row", layout="constrained"
)
for (top, bottom), (shape, thickness) in zip(axes.T, solids.items(), strict=True):
    image = top.imshow(thickness, extent=(-24, 24, 24, -24), cmap="cividis", vmin=0, vmax=40)
    top.axhline(0, color="white", lw=0.6, ls=":")
    top.set(title=shape)
    sharp = particle_thickness(
        shape, 0 * axis, axis, diameter, 0.0, 10.0 if shape == "prism" else height, rounding=0.03
    )
    bottom.plot(axis, sharp, color=LAYER_COLORS[1], lw=1)
    bottom.plot(axis, thickness[len(axis) // 2], color="black", lw=1)
    bottom.set(xlabel="x (nm)")
axes[0, 0].set_ylabel("y (nm)")
axes[1, 0].set_ylabel("thickness (nm)")
fig.colorbar(image, ax=axes[0], label="thickness (nm)")
plt.show()

# %% [markdown]
# ## The same nanoparticle, atom by atom
#
# The effect of a particle on the beam depends on its atoms. Gold is face-centred cubic with four atoms in a cube
# of 0.4078 nm. `nanoparticle` cuts the same solids out of such a crystal. A sphere or rod gets a random crystal
# orientation. Facets fix it for the others: a cube has {100} facets, and an octahedron or prism lies on {111}. The
# result is an `Atoms` object of the atomic simulation environment ASE {cite:p}`larsen2017`, whose lengths are in Å. Only
# these objects, and abTEM in the next chapter, have lengths in Å.

# %%
particles = {
    shape: nanoparticle(
        shape, 4.0, np.random.default_rng(5), height=2.0 if shape == "prism" else 6.0
    )
    for shape in SHAPES
}
for shape, atoms in particles.items():
    pair = cKDTree(atoms.positions).query(atoms.positions, k=2)[0][:, 1]
    height = particle_height(shape, 4.0, height=2.0 if shape == "prism" else 6.0)
    print(
        f"{shape:10s} {len(atoms):5d} atoms, {height:.2f} nm high, nearest {pair.min() / 10:.4f} nm"
    )
print(f"a/√2 = {0.4078 / np.sqrt(2):.4f} nm")

# %% mystnb={"figure": {"caption": "Atoms of five gold particles of 4 nm, seen along the beam (above) and from the side (below); brighter atoms are nearer to the viewer.", "name": "fig-atoms"}}
fig, axes = plt.subplots(2, 5, figsize=(9, 3.9), sharex=True, layout="constrained")
for (top, bottom), (shape, atoms) in zip(axes.T, particles.items(), strict=True):
    x, y, z = ((atoms.positions - atoms.cell.lengths() / 2) / 10).T
    for ax, across, depth in ((top, y, z), (bottom, z, y)):
        order = np.argsort(depth)
        ax.scatter(x[order], across[order], s=5, c=depth[order], cmap="cividis", linewidths=0)
        ax.set(aspect="equal", xlim=(-3, 3), ylim=(-3.2, 3.2))
    top.set(title=shape, ylim=(3.2, -3.2))
    bottom.set(xlabel="x (nm)")
axes[0, 0].set_ylabel("y (nm)")
axes[1, 0].set_ylabel("z (nm)")
plt.show()

# %% [markdown]
# The volume predicts the number of atoms; for a sphere $N = \tfrac{\pi}{6} d^3 \cdot 4/a_\text{Au}^3$. Only whole atoms
# fit, so the smallest particles differ from it by up to a tenth, and larger ones by less ({numref}`fig-gold`). Facets lie
# on planes of atoms, so a small facetted particle has one plane more or less; `nanoparticle` tries sixteen positions of
# the crystal and keeps the one nearest to the volume.

# %%
diameters = np.linspace(1.0, 4.0 if FAST else 8.0, 13)
rng = np.random.default_rng(6)
counts = np.array(
    [[len(nanoparticle("sphere", d, rng)) for _ in range(5)] for d in diameters]
)  # (diameter, draw)
expected = np.pi / 6 * diameters**3 * 4 / 0.4078**3

# %% mystnb={"figure": {"caption": "Number of atoms of gold spheres over the number expected from the volume, five random cuts per diameter.", "name": "fig-gold"}}
fig, ax = plt.subplots(figsize=(5, 3), layout="constrained")
ax.axhline(1, color="0.5")
ax.plot(diameters, counts / expected[:, None], "o", ms=4, color=LAYER_COLORS[0])
ax.set(xlabel="diameter (nm)", ylabel="atoms / atoms by volume", ylim=(0.88, 1.08))
plt.show()

# %% [markdown]
# ## Exercises
#
# **1.** Test the formula for two spacings on an image: twist 5°, $b = 1.04\,a$. How much does the difference in spacing
# matter there, and at which twist would it halve the period?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
a, b, theta, field, pixel_size = spacing, 1.04 * spacing, 5.0, 1200.0, 2.0
image = project_layers(twist_lattices(theta, field, mismatch=b / a), 30.0, field, pixel_size)
print(
    f"with mismatch: formula {moire_period(a, theta, b):.0f} nm, "
    f"measured {measure_period(image, field, pixel_size):.0f} nm; without: {moire_period(a, theta):.0f} nm"
)
fine = np.linspace(0.3, 5, 500)
ratio = np.array([moire_period(a, t, b) / moire_period(a, t) for t in fine])
print(f"the mismatch halves the period at a twist of {fine[np.argmin(np.abs(ratio - 0.5))]:.1f}°")

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
    positions = nanoparticle("sphere", diameter, np.random.default_rng(7)).positions
    neighbours = cKDTree(positions).query_ball_point(positions, r=3.3, return_length=True) - 1
    print(
        f"{diameter} nm: {len(positions)} atoms, {100 * np.mean(neighbours < 12):.0f} % with fewer than 12 neighbours"
    )

# %% [markdown]
# **4.** A grain boundary of small misorientation $\theta$ is a wall of dislocations, $h = b/(2\sin(\theta/2))$ apart
# {cite:p}`anderson2017`: the formula of the Moiré period. Put dislocations one above the other, with their Burgers
# vector across the wall, and measure the angle between the rows on both sides. Why is it a little less than by the
# formula?


# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
def row_direction(points):
    """Direction of the close-packed rows in degrees, from the mean of exp(6iφ) over all bonds."""
    pairs = bonds(points, 1.0)
    y, x = (points[pairs[:, 1]] - points[pairs[:, 0]]).T
    return np.degrees(np.angle(np.mean(np.exp(6j * np.arctan2(y, x))))) / 6


crystal = hexagonal_lattice(1.0, 0.0, (0, 0), 60.0)
for rows in (8, 12, 16):  # between one dislocation and the next
    h = rows * np.sqrt(3) / 2
    wall = [np.array([np.sqrt(3) / 6 + k * h, 0.5]) for k in range(-60, 61)]
    points = crystal + sum(dislocation_displacement(crystal, core, (0, 1.0)) for core in wall)
    sides = [
        row_direction(points[(np.abs(crystal[:, 0]) < 20) & (np.abs(crystal[:, 1] - c) < 12)])
        for c in (-24, 24)
    ]
    print(
        f"h = {h:4.1f} a: turned by {abs(sides[1] - sides[0]):.2f}°, "
        f"formula {np.degrees(2 * np.arcsin(0.5 / h)):.2f}°, "
        f"the finite wall fills {np.arctan(60 * h / 24) / (np.pi / 2):.1%} of the view from there"
    )
# The wall is finite: the share that it fills explains the difference.

# %% [markdown]
# **5.** The energy of a harmonic crystal is $kT/2$ for each of its $2n$ modes, and $n$ particles share $3n$
# bonds. How much does the length of a bond scatter, and how does this give the spring constant of a movie?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
# 3n · ½ k <stretch²> = 2n · ½ kT, so <stretch²> = 2 kT / (3 k).
pairs = bonds(sites, spacing)
middle = np.hypot(*(sites[pairs].mean(axis=1) - sites.mean(axis=0)).T) < 250
step = (sites + elastic)[:, pairs[middle, 1]] - (sites + elastic)[:, pairs[middle, 0]]
stretch = np.linalg.norm(step, axis=2) - spacing
print(f"scatter {stretch.std():.3f} nm, formula {np.sqrt(2 / 3 / spring_constant):.3f} nm")
print(f"spring constant {2 / 3 / stretch.var():.2f} kT/nm², planted {spring_constant:.2f} kT/nm²")

# %% [markdown]
# ## Summary
#
# - Two vectors make a lattice; two lattices, twisted by $\theta$, make a Moiré lattice of period
#   $a/(2\sin(\theta/2))$. The formula and an image agree to about a per cent. The pattern repeats exactly only at
#   commensurate twists, with the period $a\sqrt{\Sigma}$.
# - The Moiré peaks are differences of lattice peaks. They appear in the product of two layers, not in the positions.
# - `random_scene` draws specimens of any number of layers with islands, edges, strain and defects from a seed.
#   `truth_table` lists every particle, and each layer's `defects` list every planted defect.
# - A dislocation is a displacement field; a twin boundary is a mirror line of coincident sites.
# - `thermal_displacements` draws vibrations whose spectrum is the inverse of the `dynamical_matrix`;
#   `growth_schedule` gives the frames in which each particle comes and goes.
# - `particle_thickness` gives the thickness of a sphere, rod, cube, octahedron or prism along the beam, and
#   `nanoparticle` the atoms of the same solid.
#
# ## In practice
#
# - **One period, one spacing.** If the layers' spacings differ by $\varepsilon$, the difference matters once
#   $\varepsilon$ is not small against the twist in radians (4 % is 2.3°). Then a period alone does not give the
#   twist; the two sets of lattice peaks do.
# - **The field must hold the pattern.** At a twist of 1° and $a$ = 39 nm one period is 2.2 µm. With less than two
#   periods in the field the spectrum does not give the period.
# - **Near 30°** the period approaches twice the spacing, and the pattern is a quasicrystal rather than a Moiré
#   lattice.
# - **The specimens are models.** In a random scene particles scatter independently about strained sites, strain is two
#   plane waves, and outlines are smooth curves; real edges follow lattice rows. Dislocations and interstitials have
#   the displacements of continuum elasticity; vacancies and boundaries are not relaxed. The springs are central and
#   harmonic, and no particle feels the layer below it.
# - **The particles are models too.** They are single crystals without a ligand shell; real gold spheres often hold
#   twins. Walls parallel to the beam bulge by a quarter of the edges' radius.
#
# Next: [what such a particle does to the electron beam](02_multislice).
