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
# (particles)=
# # Find each particle, its layer, its error bar and its track
#
# ```{admonition} In this chapter
# :class: tip
# - read particles off the network's centre channels
# - decide which layer each belongs to, from the lattices that all of them form together, and say how sure that is
# - fit all particles to the frame at once, and let the frame say which are missing and which are none
# - check the error bars and the confidence against the truth
# - let tracks vote, and measure distances in a real frame
#
# Needs chapters 5 and 6 · CPU · 1 minute (fast), 3 minutes (full) · 1.5 GB
# ```
#
# {doc}`Chapter 6 <06_decompose>` called one function. This chapter opens it: the network's centres and the raw frame in,
# particle table out. Each step can be used alone: `locate` finds peaks, `assign_layers` names the layers, `FrameFit` fits
# the frame, `complete` adds and removes particles. `find` runs them in turn, and `vote` joins the frames of a movie.

# %%
import itertools
import os

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.ndimage import map_coordinates
from scipy.spatial import cKDTree

import moirelib
from moirelib import data, plot
from moirelib.crystal import find_lattice, match
from moirelib.decomposition import (
    WORKING_DIAMETER,
    FrameFit,
    assign_layers,
    complete,
    find,
    link,
    load_weights,
    locate,
    predict,
    resample,
    vacant_sites,
    vote,
)
from moirelib.simulation import LatticeConfig, random_scene, truth_table
from moirelib.validation import score_particles

FAST = os.environ.get("MOIRELIB_FAST", "1") != "0"
movie, truth = data.sample()
frames = 4 if FAST else len(movie)
truth = truth[truth["frame"] < frames]
zoom = WORKING_DIAMETER * movie.pixel_size / truth["diameter_nm"].median()
working_shape = [round(n * zoom) for n in movie.shape[1:]]
nm = movie.pixel_size * movie.shape[1] / working_shape[0]  # per working pixel
images = [resample(movie.frame(t), working_shape) for t in range(frames)]
network = load_weights()
centers = [predict(network, image)[1] for image in images]  # of shape (channel, y, x)
print(f"{frames} frames of {working_shape} working pixels, {nm:.3f} nm each")

# %% [markdown]
# ## Particles are peaks of the centre channels
#
# The network was trained to put a peak at each particle's centre ({doc}`chapter 5 <05_unet>`), so finding particles is
# finding maxima. A maximum is known to a pixel; the centre of mass of the peak is better. Pixels within reach go to the
# nearest maximum, as in particle tracking since {cite:t}`crocker1996`. Here we take the peaks that are at least 0.3 high.
# `decompose` starts from much lower ones: a particle that is missed now is hard to make up for, and one too many is
# refuted by the frame further below.

# %%
from scipy.ndimage import maximum_filter


def locate_by_hand(peaks, threshold=0.3, reach=3.0):
    """Maxima of one channel above a threshold, each moved to the centre of mass of its share of pixels."""
    tops = np.argwhere((peaks == maximum_filter(peaks, 7)) & (peaks > threshold))
    pixels = np.argwhere(peaks > 0.02)
    distance, owner = cKDTree(tops).query(pixels)
    near = distance < reach
    weight = peaks[tuple(pixels[near].T)]
    mass = np.bincount(owner[near], weight, len(tops))
    moments = [np.bincount(owner[near], weight * c, len(tops)) for c in pixels[near].T]
    return np.stack(moments, axis=1) / mass[:, None]


located = locate(centers[0], WORKING_DIAMETER, threshold=0.3)
for k in (0, 1):
    by_hand, tested = locate_by_hand(centers[0][k]), located[located["channel"] == k]
    i, j = match(by_hand, tested[["y", "x"]], 1.0)
    apart = np.linalg.norm(by_hand[i] - tested[["y", "x"]].to_numpy()[j], axis=1)
    print(
        f"channel {k + 1}: {len(by_hand)} by hand, {len(tested)} by locate; at most {apart.max():.2f} px apart"
    )

# %% mystnb={"figure": {"caption": "A part of the sample's first frame and of both centre channels, with the particles that locate finds in each. A peak in a channel is a particle; which layer it belongs to is not decided yet, and particles may still be missing.", "name": "fig-locate"}}
fig, axes = plt.subplots(1, 3, figsize=(9, 3.3), layout="constrained")
window = (slice(20, 120), slice(10, 110))
plot.show_frame(images[0][window], nm, axes[0], title="raw frame")
for k, ax in enumerate(axes[1:]):
    ax.imshow(centers[0][k][window], cmap="cividis", vmin=0, vmax=1)
    mine = located[located["channel"] == k]
    ax.plot(mine["x"] - 10, mine["y"] - 20, "+", color="white", mew=1.5)
    ax.set(xlim=(-0.5, 99.5), ylim=(99.5, -0.5), xticks=[], yticks=[])
    ax.set_title(f"centres, channel {k + 1}", fontsize=10)
fig.colorbar(axes[2].images[0], ax=axes, label="height of the peak", shrink=0.8)
plt.show()

# %% [markdown]
# ## Two lattices have two hexagons
#
# The network's channels are named as they please, in each place anew ({doc}`chapter 5 <05_unet>`). The lattices are
# not: whatever happens locally, the particles of one {term}`layer` share their lattice vectors across the field.
# Forget the channels, take all points together, and compute their {term}`structure factor`
#
# $$ S(\mathbf q) = \frac{1}{n}\,\Bigl|\sum_j e^{-i\,\mathbf q\cdot\mathbf r_j}\Bigr|^2 . $$
#
# Random points give about 1 everywhere. A lattice of $n$ points gives up to $n$ at its reciprocal vectors, the nearest
# six of which form a hexagon. Two twisted lattices give two hexagons, the {term}`twist angle` apart.


# %%
def structure_factor(points, q):
    """Of points (n, 2) at wave vectors (..., 2)."""
    return np.abs(np.exp(-1j * q @ points.T).sum(axis=-1)) ** 2 / len(points)


points = located[["y", "x"]].to_numpy() * nm
q_axis = np.linspace(-0.3, 0.3, 161)  # rad/nm
q = np.stack(np.meshgrid(q_axis, q_axis, indexing="ij"), axis=-1)  # (q_y, q_x)
s = structure_factor(points, q)
first, _ = find_lattice(points, spacing=38)
height = structure_factor(points, first.wave_vectors).mean()
print(
    f"strongest lattice: {first.spacing:.2f} nm at {first.angle:.2f}°, S = {height:.0f} for {len(points)} points"
)

# %% [markdown]
# The second lattice hides beside the stronger one. So first find out which points sit on the first: each of its three
# waves has a phase $\varphi_k$, the average over the points, and a point on a lattice site has $\cos(\mathbf
# q_k\cdot\mathbf r-\varphi_k)$ near 1 for all three. The sum is 3 on a site and 0 on average elsewhere. What remains
# shows its own lattice.


# %%
def fit_to(lattice, points, members):
    """How well points sit on the lattice whose phases the members set: 3 on a site, 0 on average."""
    phase = points @ lattice.wave_vectors.T
    mean = np.angle(np.exp(1j * phase[members]).sum(axis=0))
    return np.cos(phase - mean).sum(axis=1)


on_first = fit_to(first, points, np.ones(len(points), bool)) > 1.5
second, _ = find_lattice(points[~on_first], spacing=38)
height = structure_factor(points[~on_first], second.wave_vectors).mean()
twist = abs((second.angle - first.angle + 30) % 60 - 30)
print(
    f"second lattice: {second.spacing:.2f} nm at {second.angle:.2f}°, S = {height:.0f} for {np.sum(~on_first)} points"
)
print(f"twist {twist:.2f}°")

# %% mystnb={"figure": {"caption": "From points to two lattices. Left, every particle found in the first frame, without its channel. Middle, their structure factor; circles mark the hexagons of the first (blue) and the second lattice (orange). Right, each point in the colour of the lattice that it fits better.", "name": "fig-hexagons"}}
fig, axes = plt.subplots(1, 3, figsize=(9.5, 3.5), layout="constrained")
axes[0].plot(points[:, 1], points[:, 0], ".", color="0.3", ms=4)
extent = [q_axis[0], q_axis[-1], q_axis[-1], q_axis[0]]
axes[1].imshow(np.log10(s + 0.1), cmap="cividis", extent=extent)
for lattice, color in zip((first, second), plot.LAYER_COLORS, strict=True):
    hexagon = np.concatenate([lattice.wave_vectors, -lattice.wave_vectors])
    axes[1].scatter(
        hexagon[:, 1], hexagon[:, 0], s=110, facecolors="none", edgecolors="white", linewidths=3
    )
    axes[1].scatter(
        hexagon[:, 1], hexagon[:, 0], s=110, facecolors="none", edgecolors=color, linewidths=1.6
    )
axes[1].set(xlabel="$q_x$ / rad nm$^{-1}$", ylabel="$q_y$ / rad nm$^{-1}$")
better = fit_to(first, points, on_first) > fit_to(second, points, ~on_first)
for yes, color in zip((True, False), plot.LAYER_COLORS, strict=True):
    axes[2].plot(points[better == yes, 1], points[better == yes, 0], ".", color=color, ms=5)
for ax in axes[::2]:
    ax.set(xlabel="x / nm", ylabel="y / nm", aspect="equal", ylim=(540, -15))
plt.show()

# %% [markdown]
# How small a twist can this tell apart? Peaks are as wide as $2\pi$ over the size of the field, so two of them separate
# once the field spans about $1/\theta$ spacings, which is one Moiré period: 14 spacings at 4°.
#
# ## Below that, neighbours still know who they belong to
#
# Two lattices of nearly one direction and spacing have one hexagon. Yet locally they are shifted copies of each other,
# and pairs of particles tell: two that are a lattice vector apart **agree**, they may well be of one layer; two that
# are nearer than particles of one layer can be, or apart by no lattice vector, **disagree**. That makes a graph with
# positive and negative links. The division into two groups that cuts most disagreement and least agreement is nearly
# the sign of the leading eigenvector of its matrix, and the whole idea fits into a few lines. The channels are not
# used:


# %%
def split_by_hand(points, lattice):
    """Group (0 or 1) of each point: sign of the leading eigenvector of agreement between neighbours."""
    i, j = cKDTree(points).query_pairs(2.2 * lattice.spacing, output_type="ndarray").T
    step = points[j] - points[i]
    fit = np.cos(step @ lattice.wave_vectors.T).sum(axis=1)  # 3 for a lattice vector
    agreement = np.where(fit > 1.5, 1.0, -1.0)
    agreement[np.hypot(*step.T) < 0.7 * lattice.spacing] = -3.0
    graph = np.zeros((len(points), len(points)))
    graph[i, j] = graph[j, i] = agreement
    return (np.linalg.eigh(graph)[1][:, -1] > 0).astype(int)


plain = {"boundary": 0, "dislocations": 0, "interstitials": (0, 0), "single_layer": 0}
plain |= {"island": 0, "edge": 0, "strain": (0, 0), "shapes": ("sphere",)}
near_equal = LatticeConfig(twist_angle=(1.5, 1.5), spacing_mismatch=0, offset=(0.4, 0.4), **plain)
scene = random_scene(near_equal, (570.0, 570.0), np.random.default_rng(1), spacing=38.0)
twins = truth_table(scene, pixel_size=1.0)
points_of_twins = twins[["y", "x"]].to_numpy()
one, strength = find_lattice(points_of_twins, spacing=38)
group = split_by_hand(points_of_twins, one)
right = np.mean(group == twins["layer"] - 1)
print(f"one hexagon: {one.spacing:.1f} nm at {one.angle:.1f}°, S = {strength:.0f}")
print(f"split by neighbours: {max(right, 1 - right):.1%} of {len(twins)} in the right layer")

# %% mystnb={"figure": {"caption": "Two layers twisted by 1.5° in a field of 15 spacings, much less than a Moiré period. Left, the truth. Right, the sign of the leading eigenvector of the graph of agreeing and disagreeing neighbours.", "name": "fig-split-graph"}}
fig, axes = plt.subplots(1, 2, figsize=(8, 3.9), layout="constrained", sharey=True)
group = group if right > 0.5 else 1 - group
for ax, values, title in zip(axes, (twins["layer"] - 1, group), ("truth", "split"), strict=True):
    for k, color in enumerate(plot.LAYER_COLORS):
        y, x = points_of_twins[np.asarray(values) == k].T
        ax.plot(x, y, "os"[k], color=color, ms=4)
    ax.set(aspect="equal", xlabel="x / nm", title=title, ylim=(580, -10))
axes[0].set_ylabel("y / nm")
plt.show()

# %% [markdown]
# `assign_layers` uses a softer version of it wherever lattices are within some 4° of each other, and asks one more
# question: may the copies be the two ends of *tilted* columns of one layer, seen twice? Tilt shifts or spreads the ends,
# but does not turn them.
#
# ## Lattices are grains, and grains make layers
#
# A layer may hold more than one lattice: two {term}`grains <grain>` that meet along a line. Then three hexagons
# appear, and a new question: which two of the three are one layer? Where grains lie *over* each other in projection,
# they must be different layers. Where they only *meet*, they are one. `assign_layers`
#
# 1. finds lattices one after another, each in the points that the earlier ones leave unexplained, and splits those that
#    are shifted copies;
# 2. takes contiguous pieces of the points on each as grains;
# 3. puts grains that overlap into different layers and grains that meet into one;
# 4. lets each particle weigh its own evidence, and calls the layer that reaches furthest layer 1.
#
# To watch it without the network's mistakes, we take true positions of a simulated scene with a grain boundary,
# scattered a little, and play the network ourselves: our channels are right in one half of the field and exchanged in
# the other.

# %%
config = LatticeConfig(
    twist_angle=(12, 12),
    boundary=1.0,
    twin=0.0,
    island=1.0,
    edge=0.0,
    single_layer=0.0,
    strain=(0.01, 0.01),
    dislocations=0.0,
    shapes=("rod",),
)
rng = np.random.default_rng(71)
scene = random_scene(config, (700.0, 700.0), rng, spacing=38.0)
answer = truth_table(scene, pixel_size=1.0)
scattered = answer[["y", "x"]] + rng.normal(0, 1.0, (len(answer), 2))
channel = (answer["layer"] - 1).where(answer["x"] < 350, 2 - answer["layer"])
play = scattered.assign(channel=channel, score=1.0)
named, lattices = assign_layers(play, diameter=answer["diameter_nm"].median())
i, j = match(named[["y", "x"]], scattered, 1e-6)
print("grains of layer 1:", [f"{g.spacing:.1f} nm, {g.angle:.1f}°" for g in lattices[0]])
print("grains of layer 2:", [f"{g.spacing:.1f} nm, {g.angle:.1f}°" for g in lattices[1]])
print(
    f"in the right layer: {np.mean(named['layer'].to_numpy()[i] == answer['layer'].to_numpy()[j]):.3f}"
)

# %% mystnb={"figure": {"caption": "From channels to layers in a scene with a grain boundary. Left, the channels, exchanged in the right half. Middle, the grains found, each with its own marker. Right, the layers: grains that meet are one layer, and the one that lies over them is the other.", "name": "fig-grains"}}
fig, axes = plt.subplots(1, 3, figsize=(9.5, 3.6), layout="constrained", sharey=True)
colors = [*plot.LAYER_COLORS, "#009E73", "#CC79A7"]
for ax, column, table in zip(
    axes, ("channel", "grain", "layer"), (play, named, named), strict=True
):
    for n, (value, group) in enumerate(table.groupby(column)):
        number = value if column == "layer" else value + 1
        ax.plot(
            group["x"], group["y"], "os^D"[n], color=colors[n], ms=4, label=f"{column} {number}"
        )
    ax.set(aspect="equal", xlabel="x / nm", ylim=(710, -10))
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, 1.2), ncols=2, fontsize=8, frameon=False)
axes[0].set_ylabel("y / nm")
plt.show()

# %% [markdown]
# Step 3 in plain Python: count the particles of one grain that are nearer to another grain's than one layer allows, and
# take the division of the grains in two that leaves fewest of these conflicts inside a layer. There are few grains, so
# all divisions can be tried.

# %%
grains = [g[["y", "x"]].to_numpy() for _, g in named.groupby("grain")]
near = [[np.sum(cKDTree(h).query(g)[0] < 0.75 * 38) for h in grains] for g in grains]
near = np.array(near) * (1 - np.eye(len(grains), dtype=int))  # a grain is no conflict with itself
for rest in itertools.product((0, 1), repeat=len(grains) - 1):
    layers = np.array([0, *rest])
    conflicts = np.sum(near[layers[:, None] == layers])
    print("layers of the grains", layers + 1, "conflicts", conflicts)

# %% [markdown]
# ## Each particle weighs its evidence
#
# Grains settle the layers of most particles, but not of all: at edges, near {term}`vacancies <vacancy>`, where sites of
# both lattices nearly coincide. So each particle adds up what speaks for layer 1 against layer 2, as logarithms of odds,
# in which independent pieces of evidence add:
#
# | evidence | for layer 1 if |
# |---|---|
# | place | it sits on a site of a grain of layer 1, as its surroundings set the grain's phase; strain is slow and does no harm |
# | presence | grains of layer 1 are what is found around it |
# | channel | it shares its channel with neighbours that are in layer 1; the channel's name itself says nothing |
# | exclusion | a particle too near to it to be in the same layer is in layer 2 |
#
# All of it depends on the layers of the neighbours, which are no better known. Two methods of statistical physics
# handle that. For the first three, every particle looks at its neighbours' *mean* opinion, again and again until
# nothing changes: a **mean field**. For exclusion, a mean is too crude, since a particle would hear its own opinion
# come back from its partner. {term}`Belief propagation <belief propagation>` {cite:p}`pearl1988` sends messages
# instead, each without what came from where it goes. If a particle's other evidence has the log-odds $\lambda$, and
# the log-odds against both being in one layer are $s$, it tells its partner
#
# $$ m = -2\,\operatorname{artanh}\bigl(\tanh(s/2)\,\tanh(\lambda/2)\bigr). $$
#
# In a chain of particles, each too near to the next, one that is sure decides for the others, and less so with every
# step:


# %%
def message(log_odds, strength):
    """What a particle says to one that cannot be in its layer."""
    return -2 * np.arctanh(np.tanh(strength / 2) * np.tanh(log_odds / 2))


log_odds = 4.0  # of layer 1, for the first of the chain; the others know nothing themselves
for k in range(1, 6):
    print(f"particle {k}: probability of layer 1 is {1 / (1 + np.exp(-log_odds)):.3f}")
    log_odds = message(log_odds, strength=3.0)

# %% [markdown]
# ## Is the confidence honest?
#
# The final log-odds become `layer_confidence`, the {term}`layer confidence`. It claims to be a probability, so it can
# be checked: of all particles with a confidence near 0.8, eight in ten should be right. Pieces of evidence that are
# not quite independent make a sum too sure of itself, so two constants of `moirelib.decomposition.Evidence`, a
# temperature and a head start, temper it; `benchmarks/calibrate_confidence.py` fits both on simulated scenes, and the
# head start is kept at half of what it says, to stay modest on harder scenes than those. Here are other
# scenes, from seeds of our own: true positions are scattered, some are lost, some invented, and the channels are
# exchanged in patches and wrong at random.

# %%
from scipy.ndimage import gaussian_filter


def judged(config, seed):
    """Confidence of each particle of a scene, and whether its layer is right (names exchanged at most once)."""
    rng = np.random.default_rng((707, seed))
    side = rng.uniform(8, 25) * 50.0
    table = truth_table(random_scene(config, (side, side), rng, 50.0), pixel_size=1.0)
    table = table[rng.random(len(table)) > 0.03].reset_index(drop=True)
    width = table["diameter_nm"].median()
    points = table[["y", "x"]] + rng.normal(0, 0.03 * width, (len(table), 2))
    patches = gaussian_filter(rng.standard_normal((32, 32)), 2.0)
    swapped = map_coordinates(patches, points.T / 60 + 1, order=1, mode="reflect") > 0
    channel = (table["layer"] == 2) ^ swapped ^ (rng.random(len(table)) < 0.1)
    seen = points.assign(channel=channel.astype(int), score=1.0, truth=table["layer"])
    named, _ = assign_layers(seen, width)
    right = (named["layer"] == named["truth"]).to_numpy()
    right = right if right.mean() >= 0.5 else ~right
    return pd.DataFrame({"confidence": named["layer_confidence"], "right": right})


# %%
small_twist = LatticeConfig(twist_angle=(1.0, 3.0), shapes=("sphere",))
configs = (LatticeConfig(), LatticeConfig.published(), small_twist)
scenes = 8 if FAST else 60
claims = pd.concat([judged(config, i) for config in configs for i in range(scenes)])
edges = [0.5, 0.6, 0.7, 0.8, 0.9, 0.97, 0.995, 1.0]
bins = claims.groupby(pd.cut(claims["confidence"], edges, include_lowest=True), observed=True)
reliability = bins.agg(
    says=("confidence", "mean"), right=("right", "mean"), particles=("right", "size")
)
reliability.round(3)

# %% mystnb={"figure": {"caption": "Reliability diagram: how often a layer is right against how sure it was said to be, with intervals of 95 % as if particles were independent (Wilson). On the dashed line the confidence is honest; below it, it promises too much. The area of a mark goes with its number of particles.", "name": "fig-reliability"}}
fig, ax = plt.subplots(figsize=(5, 4), layout="constrained")
says, right, n = (reliability[c].to_numpy(float) for c in ("says", "right", "particles"))
middle = (right + 1.92 / n) / (1 + 3.84 / n)
half = 1.96 * np.sqrt(right * (1 - right) / n + 0.96 / n**2) / (1 + 3.84 / n)
ax.vlines(says, middle - half, middle + half, color=plot.LAYER_COLORS[0])
ax.scatter(says, right, s=20 + 200 * np.sqrt(n / n.max()), color=plot.LAYER_COLORS[0], alpha=0.7)
ax.plot([0.5, 1], [0.5, 1], "--", color="0.4", label="honest")
ax.set(xlabel="layer_confidence", ylabel="fraction in the right layer", xlim=(0.48, 1.02))
ax.legend(frameon=False, loc="upper left")
plt.show()

# %% [markdown]
# Two things to keep in mind. Errors come in flocks: when a whole grain is put into the wrong layer, all its particles
# are wrong together, whatever each of them claims, so the intervals are too narrow, and confidence is capped at 0.999.
# And 0.5 means what it says: where the image does not decide, the table does not pretend to.
#
# ## A fit of one particle, with its error bar
#
# Peaks of a channel are where the network believes particles to be. The measurement is made on the frame itself,
# by a fit. For one particle on a flat background the model has three parameters, $y$, $x$ and the contrast.
# Gauss–Newton steps solve $(J^\top J)\,\delta = J^\top(\text{data}-\text{model})$, where $J$ holds the derivatives of
# the model; and $\sigma^2(J^\top J)^{-1}$, with the noise $\sigma$ of a pixel, is the covariance of the result. It is
# the error bar.


# %%
def fit_spot(image, y, x, width, sigma, steps=8):
    """Position of one dark Gaussian spot on a flat background of 1, and its standard deviations."""
    rows, columns = np.indices(image.shape)
    contrast = 0.3
    for _ in range(steps):
        spot = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * width**2))
        slope = -contrast * spot / width**2
        jacobian = np.stack([slope * (rows - y), slope * (columns - x), -spot]).reshape(3, -1).T
        normal = jacobian.T @ jacobian
        residual = (image - 1 + contrast * spot).ravel()
        y, x, contrast = (y, x, contrast) + np.linalg.solve(normal, jacobian.T @ residual)
    return (y, x), sigma * np.sqrt(np.diag(np.linalg.inv(normal)))[:2]


# %% [markdown]
# An error bar is a claim: repeat the measurement, and this is how much it will scatter. Repeat it, then, with new
# noise each time:

# %%
rng = np.random.default_rng(7)
rows, columns = np.indices((25, 25))
clean = 1 - 0.4 * np.exp(-((rows - 12.4) ** 2 + (columns - 11.7) ** 2) / (2 * 4.0**2))
fits = [fit_spot(clean + rng.normal(0, 0.15, clean.shape), 12, 12, 4.0, 0.15) for _ in range(400)]
found, claimed = (np.array(x) for x in zip(*fits, strict=True))
print(f"claimed {claimed.mean():.4f} px, observed {np.std(found - [12.4, 11.7]):.4f} px")

# %% [markdown]
# For a model that is right, no unbiased method can do better: this is the {term}`Cramér–Rao bound`
# {cite:p}`mortensen2010`. How it grows with the noise and falls with the number of electrons was worked out for single
# fluorescent molecules first {cite:p}`thompson2002`.
#
# ## The frame fitted as a whole
#
# In a Moiré pattern no particle is alone. Fitted one by one, each would take its neighbour's edge, and the particle
# under it, for its own. `FrameFit` therefore explains the **whole frame** by a {term}`forward model`, all particles of
# both layers together:
#
# $$ I(\mathbf r) = I_0 + B(\mathbf r)\; K * \prod_j \exp\Bigl[-\delta_j\,\bigl(1 - |\mathbf r-\mathbf r_j|^2/R_j^2\bigr)^{e}\Bigr] . $$
#
# Each particle lets a fraction of the light through, a sphere most at its rim, and {term}`transmissions <transmission>` multiply:
# position $\mathbf r_j$, radius $R_j$ and optical depth $\delta_j$ are its own. What all share is fitted as well: the
# exponent $e$ of the profile, 0 for a standing rod or a plate and ½ for a sphere; how much longer particles are one way
# than the other; the blur $K$, of a disk (defocus), a Gaussian and a camera's long tail, with a {term}`coma` that makes
# one side's edge sharper than the other's; the counts $I_0$ without light; and a background $B$ of smooth splines. The
# steps are those of the fit of one spot. Only the matrix is larger, and nearly empty, since distant particles do not
# meet, so conjugate gradients solve it.
#
# Under a strong blur different answers look nearly alike: rods, or spheres 5 % wider; dark particles above a dark level,
# or paler ones without it. From a wrong start the fit ends in the wrong answer, so it starts from each and keeps what
# leaves least unexplained.
#
# Simulated particles have neither coma nor a long side, and the fit finds next to none of either (below, `coma_y` to
# `long_diagonal`). Real ones have both, as the last section shows.

# %%
named, _ = assign_layers(located, WORKING_DIAMETER)
fit = FrameFit.start(images[0], named[["channel", "y", "x", "score"]], WORKING_DIAMETER).fit(
    rounds=2
)
print(f"{len(named)} particles; shared by all: {fit.imaging}")

# %% mystnb={"figure": {"caption": "The first frame and what particles from the network alone explain of it, after two rounds of the fit. Right, what is left over; dark blobs are particles that the network did not find, bright ones are particles that are not there or too wide. Where the network found every particle, only noise is left.", "name": "fig-forward"}}
noise, seen = fit.model.noise, fit.model.frame.numpy()
explained = seen - noise * fit.residual.numpy()
fig, axes = plt.subplots(1, 3, figsize=(9.5, 3.3), layout="constrained")
for ax, image, title in zip(axes, (seen, explained), ("frame", "model"), strict=False):
    plot.show_frame(image, nm, ax, title=title)
    ax.images[0].set_clim(np.percentile(seen, [0.5, 99.5]))
plot.show_frame(fit.residual.numpy(), nm, axes[2], title="frame − model")
limit = np.percentile(np.abs(fit.residual.numpy()), 99.8)
axes[2].images[0].set(cmap="cividis", clim=(-limit, limit))
fig.colorbar(axes[2].images[0], ax=axes, label="residual / σ", shrink=0.8)
plt.show()

# %% [markdown]
# The residual is in units of σ, which is not the pixel noise but the residual's own scatter over a third of a
# particle: it is larger where a camera correlates neighbouring pixels, and where the model leaves something over.
# `FrameFit.result` gives every particle its error bars from the same σ and $(J^\top J)^{-1}$, with what each particle
# owes to the uncertainty of its neighbours.
#
# ## Ask the frame what is missing
#
# The residual says more than where particles are: it says **whether**. For a model with and without a particle, half the
# difference of squared residuals over the noise is the logarithm of how much likelier the frame is with it. On
# the spot from above, with nothing there and with a spot there:


# %%
def gain(image, y, x, width, sigma, contrast=0.4):
    """Log-likelihood that an image gains by a spot of known size and contrast."""
    rows, columns = np.indices(image.shape)
    spot = contrast * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * width**2))
    return np.sum((image - 1) ** 2 - (image - 1 + spot) ** 2) / (2 * sigma**2)


empty = [gain(1 + rng.normal(0, 0.15, clean.shape), 12.4, 11.7, 4.0, 0.15) for _ in range(100)]
there = [gain(clean + rng.normal(0, 0.15, clean.shape), 12.4, 11.7, 4.0, 0.15) for _ in range(100)]
print(
    f"no spot: {np.mean(empty):.0f} ± {np.std(empty):.0f}; spot: {np.mean(there):.0f} ± {np.std(there):.0f}"
)

# %% [markdown]
# `FrameFit.evidence` computes it for all particles, or for places where there might be one. The model is not perfect,
# so it is divided by how much more than noise the residual holds at a particle's size. It is added to the **odds
# before looking**: a site whose six neighbours are all there is probably occupied, a place off every lattice is
# probably not; and for what the network found, its word counts as well. `complete` keeps what has a positive sum, and
# adds the vacant sites and dark blobs that have one. Against a particle counts a size or a depth unlike the others', for
# one particle can always be made up of two thin ones. To see it work, we let `find` (below) find the particles of the
# first frame, take eight out that overlap no other, and put eight in that are not there:

# %%
found = find(images[0], centers[0], WORKING_DIAMETER)
table = found.particles
print("shared by all, once all are found:", found.imaging)
alone = cKDTree(table[["y", "x"]]).query(table[["y", "x"]], k=2)[0][:, 1] > 0.95 * WORKING_DIAMETER
inner = table[alone & table[["y", "x"]].gt(20).all(axis=1) & table[["y", "x"]].lt(190).all(axis=1)]
rng = np.random.default_rng(3)
lost = inner.iloc[rng.choice(len(inner), 8, replace=False)]
invented = lost.assign(
    y=rng.uniform(20, 190, 8), x=rng.uniform(20, 190, 8), score=0.5, lattice_fit=0.0
)
tampered = pd.concat([table.drop(lost.index), invented], ignore_index=True)

# %%
fit = FrameFit.start(images[0], tampered, WORKING_DIAMETER, found.imaging).fit(1)
spacing = 1.3 * WORKING_DIAMETER
again = complete(fit, fit.table(tampered), spacing)

back = cKDTree(again[["y", "x"]]).query(lost[["y", "x"]])[0] < 0.3 * WORKING_DIAMETER
after = fit.table(tampered).iloc[-8:][["y", "x"]]
stayed = cKDTree(again[["y", "x"]]).query(after)[0] < 0.05 * WORKING_DIAMETER
print(f"taken out and found again: {back.sum()} of 8; invented and kept: {stayed.sum()} of 8")

# %% mystnb={"figure": {"caption": "What the frame says, as the log-likelihood it gains by each particle found (blue), and by one at each vacant site of the lattices within the field (orange). Zero is undecided before the odds of the site are added.", "name": "fig-evidence"}}
fit = FrameFit.start(images[0], table, WORKING_DIAMETER, found.imaging).fit(1)
yx, layer = table[["y", "x"]].to_numpy(), table["layer"].to_numpy()
sites = vacant_sites(yx, layer, spacing, (5, 5), np.array(working_shape) - 5)
fig, ax = plt.subplots(figsize=(6.5, 3.2), layout="constrained")
values = {"particles found": fit.evidence(), "vacant sites": fit.evidence(sites)}
bins = np.linspace(-15, 15, 61)
for (name, value), color in zip(values.items(), plot.LAYER_COLORS, strict=True):
    scaled = np.arcsinh(value)
    ax.hist(scaled, bins=bins, color=color, alpha=0.7, label=f"{name}: {len(value)}")
ticks = np.array([-1e4, -100, -10, 0, 10, 100, 1e4])
ax.set_xticks(np.arcsinh(ticks), [f"{t:g}" for t in ticks])
ax.set(xlabel="log-likelihood gained by a particle here", ylabel="places")
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# A site under a particle of the other layer is a harder case: one particle in the frame, or two? When one of two is
# missing, the other slides between them to explain both; when there is one, two that share its darkness explain it as
# well. There both answers are fitted, for all such places at once, and compared (`settle_overlaps`). Of two particles
# nearly upon each other the frame shows no outlines, only that the place is twice as dark; so both answers are judged
# by what was usual before the question was put. For a whole frame, `find` asks so too: where two lattices are nearly
# alike, it fits one layer and two, and takes two only if one leaves much more of the frame unexplained, or needs nearly
# as many particles. In a movie the first frame decides.
#
# ## All together: `find`
#
# Detection, layers and fit help each other. Layers say which sites should hold a particle, the fit says whether they
# do, better positions make better layers. `find` goes round up to three times; in a movie it starts from the frame
# before, and once is enough. Whether there are one or two layers is first decided by the peaks that are sure; weak ones,
# which the network likes to put into both channels, are then only asked which layer they are in. Only where that answer
# is two nearly equal lattices does the frame have the last word, as said above.
#
# At the end everything is fitted twice. Once **without** the lattice: a particle is where the frame says. And once with
# every particle kept near the middle between its neighbours, as far as the crystal is regular; rows that are bent more
# than noise and regularity explain, next to a dislocation, have little say. That fit is the likeliest, and layer movies
# show its outlines. The table of a single image has its positions. In a movie the table holds those without: kept near
# their rows in every frame, particles would seem to vibrate less than they do.
#
# Error bars need the noise, and the residual has less of it than the frame: each fitted number took its share. The error
# bars give it back.

# %%
tables, before = [], None
for image, peaks in zip(images, centers, strict=True):
    before = find(image, peaks, WORKING_DIAMETER, before)
    tables.append(before.particles)


def in_nm(table, t):
    """Positions in pixels of the movie and in nm; pixel centres are at integers in both."""
    scale = nm / movie.pixel_size  # movie pixels per working pixel
    table = table.assign(frame=t, **{c: (table[c] + 0.5) * scale - 0.5 for c in "yx"})
    table = table.assign(**{f"{c}_nm": table[c] * movie.pixel_size for c in "yx"})
    widths = ("y_std", "x_std", "diameter", "diameter_std")
    return table.assign(**{f"{c}_nm": table[c] * nm for c in widths})


# %%
diameter = truth["diameter_nm"].median()
field = np.array(movie.shape[1:]) * movie.pixel_size
true_first = truth[truth["frame"] == 0]
unfitted = dict(y_std=0, x_std=0, diameter=WORKING_DIAMETER, diameter_std=0)
from_network = assign_layers(located.assign(**unfitted), WORKING_DIAMETER)[0]
steps = {
    "network, layers by lattices": in_nm(from_network, 0),
    "find: completed and fitted": in_nm(tables[0], 0),
    "the same, crystal included": in_nm(
        tables[0].assign(y=tables[0]["y_likeliest"], x=tables[0]["x_likeliest"]), 0
    ),
}
pd.DataFrame(
    {k: score_particles(v, true_first, diameter, field) for k, v in steps.items()}
).T.round(3)

# %% [markdown]
# In a frame as clear as this one the crystal adds little; where noise hides a particle, it steadies it.
#
# ## Votes in time
#
# A particle keeps its layer through a movie, so its track may vote. First the *names* are aligned, since in each frame
# layer 1 is the one that reaches furthest there: two frames agree if most particles that are found in both are in the
# same layer in both. Then the log-odds of a track are added up. But frames share their ambiguities, and counting each
# as a new witness would promise too much: with a correlation $c$ between any two, $n$ of them count as $n / (1 +
# (n-1)\,c)$ independent ones, for $c = ½$ as


# %%
def votes(n):
    """How many independent witnesses n frames are worth, at a correlation of one half."""
    return 2 * n / (n + 1)


print({n: round(votes(n), 2) for n in (1, 2, 8, 100)})

# %% [markdown]
# so that a hundred frames are worth not quite two. What votes are good for is a bad frame among good ones. Eight
# frames of two layers; in the third, positions are bad and much is missing; in the sixth the names are exchanged:

# %%
config = LatticeConfig(twist_angle=(6, 6), **plain | {"island": 1.0})
still = random_scene(config, (570.0, 570.0), np.random.default_rng(5), spacing=38.0)
true = truth_table(still, pixel_size=1.0)
width, rng, named_frames = true["diameter_nm"].median(), np.random.default_rng(8), []
for t in range(8):
    scatter, missing = (4.5, 0.3) if t == 2 else (1.0, 0.05)
    seen = true[["y", "x"]] + rng.normal(0, scatter, (len(true), 2))
    wrong = rng.random(len(true)) < 0.15
    seen = seen.assign(channel=(true["layer"] - 1 + wrong) % 2, score=1.0, true=true["layer"])
    seen = seen[rng.random(len(true)) > missing].reset_index(drop=True)
    named = assign_layers(seen, width)[0]
    named_frames.append(named.assign(layer=3 - named["layer"]) if t == 5 else named)
voted, exchanged = vote(named_frames, width)
for name, group in (("each frame alone", named_frames), ("after the vote", voted)):
    print(f"{name:17}", [round(float(np.mean(f["layer"] == f["true"])), 3) for f in group])
print("names exchanged back in frames", np.flatnonzero(exchanged))

# %%
voted, exchanged = vote(tables, WORKING_DIAMETER)
table = pd.concat([in_nm(f, t) for t, f in enumerate(voted)], ignore_index=True)
columns = (
    "frame layer layer_confidence score y_nm x_nm y_std_nm x_std_nm diameter_nm diameter_std_nm"
)
table[columns.split()].round(2).head()

# %% [markdown]
# ## Do the error bars tell the truth?
#
# For a simulation we can ask. Pair found and true particles within 0.3 diameters in the same layer, away from the
# border, and divide each error by its own error bar. If the claims are right, these **z-scores** have a standard
# deviation of 1, and 68 % of them lie between -1 and 1. Larger means too confident, smaller too modest.

# %%
z, errors, claims = [], [], []
for key, found in table.groupby(["frame", "layer"]):
    true = truth[(truth["frame"] == key[0]) & (truth["layer"] == key[1])]
    i, j = match(found[["y_nm", "x_nm"]], true[["y_nm", "x_nm"]], 0.3 * diameter)
    for c in "yx":
        error = found[f"{c}_nm"].to_numpy()[i] - true[f"{c}_nm"].to_numpy()[j]
        claim = found[f"{c}_std_nm"].to_numpy()[i]
        far = true[["y_nm", "x_nm"]].to_numpy()[j]
        inside = np.all(
            (far > diameter) & (far < movie.shape[1] * movie.pixel_size - diameter), axis=1
        )
        errors.append(error[inside])
        claims.append(claim[inside])
errors, claims = np.concatenate(errors), np.concatenate(claims)
z = errors / claims
print(
    f"{len(z)} coordinates: median claim {np.median(claims):.2f} nm, median |error| × 1.48 {1.4826 * np.median(abs(errors)):.2f} nm"
)
print(f"within 1: {np.mean(abs(z) < 1):.1%} (68.3 %), within 2: {np.mean(abs(z) < 2):.1%} (95.4 %)")
print(f"width of the middle of the distribution {1.4826 * np.median(abs(z)):.2f}")

# %% mystnb={"figure": {"caption": "Claimed against true position errors on the sample. Left, histogram of error over claimed error with the standard normal distribution that honest error bars follow. Right, in six groups of equal size from the smallest to the largest claim: the true error of each group, with its own uncertainty, against what was claimed.", "name": "fig-zscores"}}
fig, axes = plt.subplots(1, 2, figsize=(8.5, 3.5), layout="constrained")
axes[0].hist(z, bins=np.arange(-5, 5.1, 0.25), density=True, color=plot.LAYER_COLORS[0], alpha=0.6)
grid = np.linspace(-5, 5, 201)
axes[0].plot(
    grid, np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi), color="black", label="standard normal"
)
axes[0].set(xlabel="error / claimed error", ylabel="density")
axes[0].legend(frameon=False, loc="upper left", fontsize=8)
for group in np.array_split(np.argsort(claims), 6):
    observed = 1.4826 * np.median(np.abs(errors[group]))
    bar = 1.17 * observed / np.sqrt(len(group))  # of a median absolute deviation
    axes[1].errorbar(
        np.median(claims[group]), observed, bar, fmt="o", color=plot.LAYER_COLORS[0], capsize=3
    )
top = 1.1 * max(axes[1].get_xlim()[1], axes[1].get_ylim()[1])
axes[1].plot([0, top], [0, top], "--", color="0.4", label="claim = truth")
axes[1].set(xlabel="claimed error / nm", ylabel="true error / nm", xlim=(0, top), ylim=(0, top))
axes[1].legend(frameon=False)
plt.show()

# %% [markdown]
# A width above 1 shows the model's own mistakes. When the claims are a small part of a pixel, what the model
# does not have, such as a profile that is not quite the particle's, weighs as much as noise, most of all where
# particles overlap. The tails beyond three come from particles whose surroundings the model has wrong: a neighbour
# that was missed, one that is not there, or a layer mistaken. An error bar covers the noise, not mistakes of that
# kind; `score` and `layer_confidence` are there to sort them out.
#
# ## Tracks
#
# A particle keeps its identity from frame to frame. `link` hands each layer to trackpy {cite:p}`allan_trackpy`, which
# joins positions in successive frames so that the total squared displacement is smallest {cite:p}`crocker1996`. The
# one parameter that matters is the search range: larger than any real displacement, and smaller than half the spacing,
# or a particle could be taken for its neighbour.

# %%
half_diameter = 0.5 * diameter / movie.pixel_size
tracks = link(table, search_range=half_diameter)
lengths = tracks[tracks["particle"] >= 0].groupby("particle").size()
print(
    f"{len(lengths)} tracks; {np.mean(lengths == frames):.0%} of them run through all {frames} frames"
)

true_id = np.full(len(tracks), -1)
for key, found in tracks.groupby(["frame", "layer"]):
    true = truth[(truth["frame"] == key[0]) & (truth["layer"] == key[1])]
    i, j = match(found[["y_nm", "x_nm"]], true[["y_nm", "x_nm"]], 0.3 * diameter)
    true_id[found.index[i]] = true["particle"].to_numpy()[j]
known = tracks.assign(true_id=true_id)[(tracks["particle"] >= 0) & (true_id >= 0)]
print(
    f"tracks that follow one true particle: {np.mean(known.groupby('particle')['true_id'].nunique() == 1):.1%}"
)

# %% [markdown]
# In the sample the lattices vibrate elastically, and the specimen drifts and turns a little. The {term}`drift` is what
# all tracks have in common: the mean displacement since the first frame.

# %% mystnb={"figure": {"caption": "Left, tracks that run through the whole sample, displacements from their mean enlarged ten times. Right, mean displacement of these tracks since the first frame, with its standard error, and the true one (lines). What all share is drift; what remains is vibration, a slight rotation and the localization error.", "name": "fig-tracks"}}
full = tracks[tracks["particle"].isin(lengths.index[lengths == frames])]
steps = full.pivot(index="frame", columns="particle", values=["y_nm", "x_nm"])
fig, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
for (_, layer), path in full.groupby(["particle", "layer"]):
    y, x = (path[c].mean() + 10 * (path[c] - path[c].mean()) for c in ("y_nm", "x_nm"))
    axes[0].plot(x, y, color=plot.LAYER_COLORS[layer - 1], lw=0.8)
axes[0].set(xlabel="x / nm", ylabel="y / nm", aspect="equal", xlim=(-5, 530), ylim=(530, -5))
true_steps = truth.pivot(index="frame", columns="particle", values=["y_nm", "x_nm"])
for c, color, marker in (("y_nm", plot.LAYER_COLORS[0], "o"), ("x_nm", plot.LAYER_COLORS[1], "s")):
    moved = steps[c] - steps[c].iloc[0]
    bar = moved.std(axis=1) / np.sqrt(moved.shape[1])
    axes[1].errorbar(
        moved.index, moved.mean(axis=1), bar, fmt=marker, color=color, capsize=3, label=c[0]
    )
    axes[1].plot((true_steps[c] - true_steps[c].iloc[0]).mean(axis=1), color=color)
axes[1].set(xlabel="frame", ylabel="mean displacement / nm")
axes[1].legend(frameon=False)
plt.show()

# %% [markdown]
# ## Distances in a real frame
#
# In the real frame of one layer {cite:p}`ou2020` there is no truth, but there is a lattice to measure. Two pictures of
# it: the distance of each particle to its nearest neighbour, and all pair distances, which in a hexagonal lattice of
# spacing $a$ gather at $a$, $\sqrt3\,a$ and $2a$. Dividing the pair counts by the area of the ring they lie in makes a
# random arrangement flat. Part of the frame is bright, moving liquid without a visible lattice; whatever is found
# there is not on lattice sites, and spreads over all distances. We take a square within the lattice.

# %%
try:
    real = moirelib.read_movie(data.fetch("np_lattice_2p593nm.tif"))
except OSError as error:
    real = None
    print("This section needs the real frame.", error)

if real is not None:
    square = np.s_[420:920, 60:560] if FAST else np.s_[246:954, 46:754]
    counts = real.frame(0)[square].astype(float) - 32768  # the file stores zero as 32768
    result = moirelib.decompose(counts, pixel_size=real.pixel_size, diameter=100)
    base = result.particles[result.particles["layer"] == 1][["y_nm", "x_nm"]].to_numpy()
    nearest = cKDTree(base).query(base, k=2)[0][:, 1]
    pairs = cKDTree(base).sparse_distance_matrix(cKDTree(base), 420, output_type="ndarray")["v"]
    lattice, _ = find_lattice(base, 118)
    print(result.summary["note"])
    print(
        f"{len(base)} particles in layer 1, nearest neighbour at {np.median(nearest):.1f} nm (median)"
    )
    print(
        f"lattice of all: {lattice.spacing:.1f} nm, d10 {lattice.spacing * np.sqrt(3) / 2:.1f} nm"
    )

# %% mystnb={"figure": {"caption": "Distances between the particles of the real frame. Left, nearest neighbours. Right, all pairs per area of the ring, 1 for a random arrangement. Dashed lines stand at a, the square root of 3 times a, and twice a, with the spacing a of the lattice that fits all particles.", "name": "fig-distances"}}
fig, axes = plt.subplots(1, 2, figsize=(8.5, 3.4), layout="constrained")
if real is None:
    for ax in axes:
        ax.text(0.5, 0.5, "the real frame is not at hand", ha="center")
        ax.axis("off")
else:
    axes[0].hist(nearest, bins=np.arange(40, 201, 5), color=plot.LAYER_COLORS[0])
    axes[0].axvline(lattice.spacing, ls="--", color="black")
    axes[0].set(xlabel="nearest neighbour / nm", ylabel="particles")
    edges = np.arange(20, 421, 5.0)
    count, _ = np.histogram(pairs, edges)
    ring = np.pi * (edges[1:] ** 2 - edges[:-1] ** 2)
    centers = (edges[1:] + edges[:-1]) / 2
    axes[1].plot(centers, count / ring / (count.sum() / ring.sum()), color=plot.LAYER_COLORS[0])
    for factor in (1, np.sqrt(3), 2):
        axes[1].axvline(factor * lattice.spacing, ls="--", color="black", lw=0.8)
    axes[1].set(xlabel="pair distance / nm", ylabel="pairs per area, relative", ylim=(0, None))

# %% [markdown]
# ## The mean particle of a real frame
#
# No simulation has everything that a real frame has, so look at what the model leaves over. Noise hides it in one
# particle; in the mean over all, cut out around their fitted centres, it does not.

# %%
if real is not None:
    shape = [round(n * WORKING_DIAMETER * real.pixel_size / 100) for n in counts.shape]
    image, zoom = resample(counts, shape), np.array(shape) / counts.shape
    start = (result.particles[["y", "x"]] + 0.5) * zoom - 0.5
    fit = FrameFit.start(image, start, WORKING_DIAMETER).fit(4)
    shared = fit.imaging
    print(f"long side: {np.exp(np.hypot(shared.long_y, shared.long_diagonal)):.2f} times the short")
    print(f"coma: {np.hypot(shared.coma_y, shared.coma_x):.2f} rad at one period per diameter")

# %% mystnb={"figure": {"caption": "The mean particle of the real frame. Left, cut out of the frame over its background; the contour runs at half its depth. Middle, cut out of the fitted model. Right, what is left over, on a finer scale; the other particles around lie where the lattice puts them.", "name": "fig-mean-particle"}}
fig, axes = plt.subplots(1, 3, figsize=(9.5, 3.2), layout="constrained")
if real is None:
    for ax in axes:
        ax.text(0.5, 0.5, "the real frame is not at hand", ha="center")
        ax.axis("off")
else:
    points = fit.table(start)[["y", "x"]].to_numpy()
    points = points[np.all((points > 14) & (points < np.array(shape) - 15), axis=1)]
    grid = np.indices((25, 25)) - 12
    seen, light, left = (
        t.numpy() for t in (fit.model.frame, fit.predicted.background, fit.residual)
    )
    cuts = [
        np.array([map_coordinates(part, grid + p[:, None, None], order=1) for p in points])
        for part in (seen / light, (seen - fit.model.noise * left) / light)
    ]
    frame_mean, model_mean = (cut.mean(axis=0) for cut in cuts)
    reach = 12.5 * 100 / WORKING_DIAMETER  # nm, of 12.5 working pixels
    panels = {"frame": frame_mean, "model": model_mean, "frame − model": frame_mean - model_mean}
    for ax, (title, panel) in zip(axes, panels.items(), strict=True):
        last = title == "frame − model"
        limits = (-0.06, 0.06) if last else (frame_mean.min(), frame_mean.max())
        shown = ax.imshow(
            panel,
            cmap="cividis" if last else "gray",
            extent=(-reach, reach, reach, -reach),
            clim=limits,
        )
        fig.colorbar(shown, ax=ax, label="counts / background")
        ax.set(title=title, xlabel="nm")
    level = 0.5 * (frame_mean.min() + np.median(frame_mean))
    for ax, panel in zip(axes[:2], (frame_mean, model_mean), strict=True):
        ax.contour(
            grid[1][0] * reach / 12.5,
            grid[0][:, 0] * reach / 12.5,
            panel,
            [level],
            colors="#E69F00",
        )
plt.show()

# %% [markdown]
# A model of round particles with even edges pays for what it cannot show with positions: every particle moves away from
# its bright side; overlapping particles shift by different amounts, or one is fitted as two. Something is left over all
# the same: some gaps between particles are brighter than the model has them, which no ellipse can do. A shape with
# three corners, as of a triangular prism, would.
#
# ## Exercises
#
# **1.** The median distance to the nearest neighbour is smaller than the lattice's spacing. Show with a perfect
# lattice and scattered positions that it must be, and say which of the two numbers to quote.

# %% tags=["hide-cell"]
from moirelib.crystal import hexagonal_lattice

rng = np.random.default_rng(1)
perfect = hexagonal_lattice(118.0, 10.0, (0, 0), 1500.0)
for scatter in (0.0, 5.0, 10.0):
    p = perfect + rng.normal(0, scatter, perfect.shape)
    d = cKDTree(p).query(p, k=2)[0][:, 1]
    print(
        f"scatter {scatter:4.1f} nm: nearest {np.median(d):6.1f} nm, lattice {find_lattice(p, 115)[0].spacing:6.1f} nm"
    )
print(
    "the nearest of six scattered neighbours is a minimum, so it is biased; quote the lattice's spacing"
)

# %% [markdown]
# **2.** How wrong may the network's word be? Give `assign_layers` the true positions of two full layers in a field of
# 15 spacings, exchange the channel of each particle with a probability of 0 to 0.5, and count how many come out in the
# right layer, for twists of 2 and 12 degrees. At 0.5, the channels say nothing.

# %% tags=["hide-cell"]
for twist in (2, 12):
    flat = LatticeConfig(
        twist_angle=(twist, twist),
        boundary=0,
        dislocations=0,
        interstitials=(0, 0),
        island=0,
        edge=0,
        single_layer=0,
        strain=(0, 0),
    )
    answer = truth_table(
        random_scene(flat, (570.0, 570.0), np.random.default_rng(3), spacing=38.0), pixel_size=1.0
    )
    for wrong in (0.0, 0.2, 0.4, 0.5):
        exchanged = np.random.default_rng(4).random(len(answer)) < wrong
        guess = answer[["y", "x"]].assign(channel=(answer["layer"] - 1 + exchanged) % 2, score=1.0)
        named, _ = assign_layers(guess, answer["diameter_nm"].median())
        i, j = match(named[["y", "x"]], answer[["y", "x"]], 1e-6)
        right = np.mean(named["layer"].to_numpy()[i] == answer["layer"].to_numpy()[j])
        print(
            f"twist {twist:2d}°, {wrong:.0%} exchanged: {max(right, 1 - right):.2f} of {len(i)} in the right layer"
        )

# %% [markdown]
# **3.** How much precision does an overlap cost? Compare the claimed errors of the sample's layer 1 particles that
# have a particle of layer 2 within one diameter with those that have none.

# %% tags=["hide-cell"]
rows = []
for _, frame in table.groupby("frame"):
    base, upper = (frame[frame["layer"] == k] for k in (1, 2))
    distance = cKDTree(upper[["y_nm", "x_nm"]]).query(base[["y_nm", "x_nm"]])[0]
    rows.append(
        pd.DataFrame({"overlapped": distance < diameter, "claim": base["y_std_nm"].to_numpy()})
    )
print(pd.concat(rows).groupby("overlapped")["claim"].describe()[["count", "50%"]].round(3))

# %% [markdown]
# ## Summary
#
# - Particles are peaks of the network's centre channels, placed at the centre of mass of their share of them.
# - Two lattices show as two hexagons in the structure factor of all points together, whatever the channels are called.
#   Below a Moiré period in the field, the graph of agreeing and disagreeing neighbours may still split them, but what it
#   says has to be trusted less.
# - Grains that overlap are different layers, grains that meet are one. Then every particle weighs place, presence, channel
#   and exclusions, and its confidence is a probability that can be checked.
# - The whole frame is fitted at once through a forward model. The residual says which particles are missing or too many;
#   the fit gives each particle an error bar that can be tested: on simulations, z-scores should have a width of 1.
# - Tracks vote on layers, but frames that share their ambiguities are not independent witnesses.
#
# ## In practice
#
# - **Look at `layer_confidence` before you look at layers.** Below 0.9 the assignment may be wrong; at 0.5 it is a
#   guess.
# - **It fails** for disordered arrangements, which have no lattice at all, for twists so small that hardly any particles
#   lie apart or too near, and for grains of fewer than eight particles. The note in the summary says when the field
#   holds less than a Moiré period.
# - **A grain in the wrong layer is wrong as a whole.** Two grains of one layer that touch a third in projection by bad
#   luck can be divided wrongly; the figure of the layers shows it at once, `layer_confidence` may not.
# - **Tilted columns of a single layer** look like two layers slightly shifted. Where lattices are that alike, the frame is
#   fitted both ways; it is one layer if most particles were found twice and a second layer explains little more. Two
#   layers that really lie upon each other all over the field can then come out as one, most of all at low doses.
# - **Error bars do not know the model's mistakes**: strongly defocused particles with fringes, cubes or triangles, and
#   particles at the border are fitted with an ellipse's profile all the same.
# - **A search range above half the spacing** makes tracks jump to neighbours, most of all across dropped frames.
#   Remove large drift first.
