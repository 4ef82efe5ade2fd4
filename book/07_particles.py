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
# - find particles in the network's centre channels
# - decide which layer each particle belongs to, from the lattices of all particles, and say how sure that is
# - fit all particles to the frame at once, and use the fit to find missing and false particles
# - check the error bars and the confidence against the truth
# - let tracks vote, and measure distances in a real frame
#
# Needs chapters 5 and 6 · CPU · 3 minutes (fast), 3 minutes (full) · 1.0 GB
# ```
#
# {doc}`Chapter 6 <06_decompose>` called one function. This chapter shows its steps, from the network's centres and the
# raw frame to the particle table. Each step can be used alone: `locate` finds peaks, `assign_layers` assigns the layers,
# `FrameFit` fits the frame, `complete` adds and removes particles. `find` runs them in turn, and `vote` combines
# the frames of a movie.

# %%
import itertools
import os

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown, display
from scipy.ndimage import map_coordinates
from scipy.spatial import cKDTree

import moirelib
from moirelib import data, plot
from moirelib.crystal import Motion, estimate_motion, find_lattice, hexagonal_lattice, match
from moirelib.decomposition import (
    WORKING_DIAMETER,
    FrameFit,
    SharedByFrames,
    assign_layers,
    complete,
    find,
    load_weights,
    locate,
    predict,
    resample,
    vacant_sites,
    vote,
)
from moirelib.decomposition.completion import try_halves
from moirelib.decomposition.layers_by_points import name_by_points
from moirelib.decomposition.signed_graph import cut, draw_graph, measure_energy
from moirelib.decomposition.soft_thickness import soften
from moirelib.simulation import LatticeConfig, random_scene, truth_table
from moirelib.tracking import link_particles
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
# The network was trained to put a peak at each particle's centre ({doc}`chapter 5 <05_unet>`), so we look for
# maxima. A maximum gives the position to a pixel; the centre of mass of the peak is better. Each pixel within reach
# belongs to the nearest maximum, as in particle tracking since {cite:t}`crocker1996`. Here we take peaks of a height
# of at least 0.3. `decompose` starts from much lower ones: a particle missed now is hard to recover, while the fit of
# the frame (below) can remove a false one.

# %%
from scipy.ndimage import maximum_filter


def locate_by_hand(peaks, threshold=0.3, reach=3.0):
    """Maxima of one channel above a threshold, each moved to the centre of mass of its pixels."""
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

# %% mystnb={"figure": {"caption": "A part of the sample's first frame and of both centre channels, with the particles that locate finds in each. Each peak is a particle; its layer is not decided yet, and particles may still be missing.", "name": "fig-locate"}}
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
# The names of the network's channels are arbitrary and may change from place to place ({doc}`chapter 5 <05_unet>`). The
# lattices do not change: the particles of one {term}`layer` share their lattice vectors across the field.
# So ignore the channels, take all points together, and compute their {term}`structure factor`
#
# $$ S(\mathbf q) = \frac{1}{n}\,\Bigl|\sum_j e^{-i\,\mathbf q\cdot\mathbf r_j}\Bigr|^2 . $$
#
# Random points give about 1 everywhere. A lattice of $n$ points gives up to $n$ at its reciprocal vectors; the six
# shortest form a hexagon. Two twisted lattices give two hexagons, turned by the {term}`twist angle`.


# %%
def structure_factor(points, q):
    """Structure factor of points (n, 2) at wave vectors (..., 2)."""
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
# The stronger lattice hides the second one. So first find out which points sit on the first lattice. Each of its three
# waves has a phase $\varphi_k$, the average over the points. For a point on a lattice site, $\cos(\mathbf
# q_k\cdot\mathbf r-\varphi_k)$ is near 1 for all three waves. The sum is 3 on a site and 0 on average elsewhere. The
# remaining points show their own lattice.


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
# How small a twist can this method separate? The width of a peak is $2\pi$ divided by the size of the field. So two
# peaks separate once the field spans about $1/\theta$ spacings, which is one Moiré period: 14 spacings at 4°.
#
# ## Smaller twists: neighbours show who belongs together
#
# Two lattices of nearly the same direction and spacing give one hexagon. But locally they are shifted copies of each
# other, and pairs of particles show it. Two particles that are a lattice vector apart **agree**: they may be in one layer.
# Two that are closer than particles of one layer can be, or whose distance is no lattice vector, **disagree**. This
# gives a graph with positive and negative links. We want two groups that cut most disagreement and least agreement. The
# sign of the leading eigenvector of the graph's matrix gives nearly this division, in a few lines and without the
# channels:


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
# `assign_layers` uses a softer version of this graph wherever two lattices are within about 4° of each other. Another
# explanation is possible there: the copies may be the two ends of *tilted* columns of one layer, seen twice. The points
# do not decide between the two; the frame does, further down.
#
# ## Lattices consist of grains, and grains form layers
#
# A layer may hold more than one lattice: two {term}`grains <grain>` that meet along a line. Then three hexagons
# appear. Which two of the three lattices form one layer? Grains that lie *over* each other in projection
# must be different layers. Grains that only *meet* are one layer. `assign_layers`
#
# 1. finds lattices one after another, each in the points that no earlier lattice explains, and splits shifted copies;
# 2. takes contiguous pieces of the points of each lattice as grains;
# 3. puts grains that overlap into different layers and grains that meet into one (a cut, see below);
# 4. weighs the evidence of each particle, and calls the layer that reaches furthest layer 1.
#
# To see this without the network's mistakes, we take the true positions of a simulated scene with a grain boundary and
# scatter them a little. We make the channels ourselves: they are right in one half of the field and exchanged in the
# other.

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
play = scattered.assign(channel=channel, score=1.0, shown=False, diameter=np.nan)
named, lattices = assign_layers(play, diameter=answer["diameter_nm"].median())
i, j = match(named[["y", "x"]], scattered, 1e-6)
print("grains of layer 1:", [f"{g.spacing:.1f} nm, {g.angle:.1f}°" for g in lattices[0]])
print("grains of layer 2:", [f"{g.spacing:.1f} nm, {g.angle:.1f}°" for g in lattices[1]])
print(
    f"in the right layer: {np.mean(named['layer'].to_numpy()[i] == answer['layer'].to_numpy()[j]):.3f}"
)

# %% mystnb={"figure": {"caption": "From channels to layers in a scene with a grain boundary. Left, the channels, exchanged in the right half. Middle, the grains found, each with its own marker. Right, the layers: grains that meet are one layer, and the grain that overlaps them is the other.", "name": "fig-grains"}}
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
# Step 3 by hand: count the particles of one grain that are closer to particles of another grain than one layer
# allows. Divide the grains into two layers so that the fewest of these conflicts remain inside a layer. There are few
# grains, so we can try all divisions.

# %%
grains = [g[["y", "x"]].to_numpy() for _, g in named.groupby("grain")]
near = [[np.sum(cKDTree(h).query(g)[0] < 0.75 * 38) for h in grains] for g in grains]
near = np.array(near) * (1 - np.eye(len(grains), dtype=int))  # a grain is no conflict with itself
for rest in itertools.product((0, 1), repeat=len(grains) - 1):
    layers = np.array([0, *rest])
    conflicts = np.sum(near[layers[:, None] == layers])
    print("layers of the grains", layers + 1, "conflicts", conflicts)

# %% [markdown]
# This count fails where a grain itself is wrong: near boundaries, lattices of both layers fit some particles, and a piece
# may hold particles of both. So pairs of particles are asked instead.
#
# ## A graph that is learned, and its cut
#
# `split_by_hand` knew the lattice, and so which steps agree. A small network needs no lattice. It saw points of
# simulated scenes (one to three layers, other spacings, grains, strain, vacancies, missed and false finds) and says,
# for each two of 64 neighbours, the **log-odds** that they lie in one layer. Log-odds of pairs make a signed graph
# again. An assignment to layers is worth the sum of the log-odds of all pairs within layers, its **energy**; the
# likeliest one has the largest. This is a **Potts model** of statistical physics, and finding its best state a cut of
# the graph. No local view can do it: one pair says little, and only all pairs together name the layers the same way
# over the whole field.
#
# Here are three layers, one of another spacing:

# %%
rng = np.random.default_rng(5)
sheets = (40.0, 3.0, 290.0), (40.0, 13.0, 300.0), (46.0, 24.0, 313.0)  # spacing, direction, place
stack = [hexagonal_lattice(a, angle, (place, 300.0), 900.0) for a, angle, place in sheets]
stack = [p[np.all((p > 0) & (p < 600), axis=1)] for p in stack]
in_layer = np.repeat([1, 2, 3], [len(p) for p in stack])
stack = pd.DataFrame(
    np.concatenate(stack) + rng.normal(0, 1, (len(in_layer), 2)), columns=["y", "x"]
)
stack = stack.assign(shown=False, diameter=28.0)
graph, around = draw_graph(stack, diameter=28.0)
cuts = {k: cut(graph, k, rng) for k in (1, 2, 3)}
for k, named in cuts.items():
    print(f"cut into {k}: energy {measure_energy(graph, named):.0f}")
print("layers seen around a particle, mean probability of 1, 2, 3:", around.mean(axis=0).round(2))
best = [np.bincount(in_layer[cuts[3] == k]).max() for k in range(3)]
print(f"in the right layer: {sum(best) / len(stack):.3f}")

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Three layers told apart from points alone. Left, log-odds of one particle (star) with its neighbours: blue ones probably lie in its layer. Middle and right, the best cut into two and into three; only the cut into three shows three lattices.", "name": "fig-cut"}}
fig, axes = plt.subplots(1, 3, figsize=(10, 3.6), layout="constrained", sharey=True)
star = np.hypot(*(stack[["y", "x"]] - 300).to_numpy().T).argmin()
odds = graph[star].toarray()[0]
axes[0].plot(stack["x"], stack["y"], ".", color="0.8", ms=4)
asked = stack[odds != 0]
dots = axes[0].scatter(
    asked["x"], asked["y"], c=odds[odds != 0], s=22, cmap="RdBu", vmin=-4, vmax=4, zorder=3
)
axes[0].plot(stack["x"][star], stack["y"][star], "k*", ms=10)
axes[0].set(title="log-odds with one particle", ylabel="y / nm")
fig.colorbar(dots, ax=axes[0], shrink=0.75, label="log-odds")
for ax, k in zip(axes[1:], (2, 3), strict=True):
    for n in range(k):
        own = stack[cuts[k] == n]
        ax.plot(own["x"], own["y"], "os^"[n], color=colors[n], ms=4)
    ax.set_title(f"cut into {k}")
for ax in axes:
    ax.set(xlabel="x / nm", aspect="equal", xlim=(150, 450), ylim=(450, 150))
plt.show()

# %% [markdown]
# `assign_layers` takes this cut to put more than two grains into layers, and parts a grain through which the cut runs;
# then the lattices weigh each particle, as follows. Layers of other spacings, or three of them, are named by the cut
# alone (`moirelib.decomposition.layers_by_points`). Two solvers look for the best cut: one contracts pairs that agree,
# one cools a mean field from several starts.
#
# ## Each particle weighs its evidence
#
# The grains decide the layers of most particles, but not of all: not at edges, near {term}`vacancies <vacancy>`, or where
# sites of both lattices nearly coincide. So we add up the evidence of each particle for layer 1 against layer 2, as
# log-odds; independent pieces of evidence add:
#
# | evidence | for layer 1 if |
# |---|---|
# | place | the particle sits on a site of a grain of layer 1. The particles around set the grain's phase, so slow strain does no harm |
# | presence | the particles around it belong to grains of layer 1 |
# | channel | it shares its channel with neighbours in layer 1; the name of the channel does not matter |
# | exclusion | a particle too close to be in the same layer is in layer 2 |
#
# All of this depends on the layers of the neighbours, which are equally uncertain. Two methods of statistical physics
# solve this. For the first three, every particle uses the *mean* of its neighbours' probabilities, again and again until
# nothing changes: a **mean field**. For exclusion a mean is too crude, because a particle's own probability would come
# back to it from its partner. {term}`Belief propagation <belief propagation>` {cite:p}`pearl1988` sends messages
# instead; a message leaves out what came from its receiver. Let $\lambda$ be the log-odds of a particle from its other
# evidence, and $s$ the log-odds against both being in one layer. Then the message to the partner is
#
# $$ m = -2\,\operatorname{artanh}\bigl(\tanh(s/2)\,\tanh(\lambda/2)\bigr). $$
#
# In a chain of particles, each too close to the next, one particle of known layer decides the others, less strongly with
# every step:


# %%
def message(log_odds, strength):
    """Message of a particle to one that cannot be in its layer."""
    return -2 * np.arctanh(np.tanh(strength / 2) * np.tanh(log_odds / 2))


log_odds = 4.0  # of layer 1, for the first of the chain; the others have no evidence of their own
for k in range(1, 6):
    print(f"particle {k}: probability of layer 1 is {1 / (1 + np.exp(-log_odds)):.3f}")
    log_odds = message(log_odds, strength=3.0)

# %% [markdown]
# ## Is the confidence right?
#
# The final log-odds give `layer_confidence`, the {term}`layer confidence`. It is meant as a probability, so we can
# check it: of all particles with a confidence near 0.8, eight in ten should be right. Pieces of evidence that are
# not quite independent make the sum too large. Two constants of `moirelib.decomposition.Evidence`, a temperature and a
# head start, correct this. `benchmarks/calibrate_confidence.py` fits both on simulated scenes; we use only half of the
# fitted head start, to stay careful on harder scenes. Here we test other scenes with their own seeds: true positions are
# scattered, some particles are removed, and the channels are exchanged in patches and wrong at random.

# %%
from scipy.ndimage import gaussian_filter


def judge_scene(config, seed):
    """Confidence of each particle of a scene, and whether its layer is right (one exchange of names allowed)."""
    rng = np.random.default_rng((707, seed))
    side = rng.uniform(8, 25) * 50.0
    table = truth_table(random_scene(config, (side, side), rng, 50.0), pixel_size=1.0)
    table = table[rng.random(len(table)) > 0.03].reset_index(drop=True)
    width = table["diameter_nm"].median()
    points = table[["y", "x"]] + rng.normal(0, 0.03 * width, (len(table), 2))
    patches = gaussian_filter(rng.standard_normal((32, 32)), 2.0)
    swapped = map_coordinates(patches, points.T / 60 + 1, order=1, mode="reflect") > 0
    channel = (table["layer"] == 2) ^ swapped ^ (rng.random(len(table)) < 0.1)
    seen = points.assign(
        channel=channel.astype(int), score=1.0, shown=False, diameter=np.nan, truth=table["layer"]
    )
    named, _ = assign_layers(seen, width)
    right = (named["layer"] == named["truth"]).to_numpy()
    right = right if right.mean() >= 0.5 else ~right
    return pd.DataFrame({"confidence": named["layer_confidence"], "right": right})


# %%
small_twist = LatticeConfig(twist_angle=(1.0, 3.0), shapes=("sphere",))
configs = (LatticeConfig(), LatticeConfig.published(), small_twist)
scenes = 8 if FAST else 60
claims = pd.concat([judge_scene(config, i) for config in configs for i in range(scenes)])
edges = [0.5, 0.6, 0.7, 0.8, 0.9, 0.97, 0.995, 1.0]
bins = claims.groupby(pd.cut(claims["confidence"], edges, include_lowest=True), observed=True)
reliability = bins.agg(
    says=("confidence", "mean"), right=("right", "mean"), particles=("right", "size")
)
reliability.round(3)

# %% mystnb={"figure": {"caption": "Reliability diagram: the fraction of particles in the right layer against their confidence, with 95 % intervals that assume independent particles (Wilson). On the dashed line the confidence is right; below it, the confidence is too high. Larger marks hold more particles.", "name": "fig-reliability"}}
fig, ax = plt.subplots(figsize=(5, 4), layout="constrained")
says, right, n = (reliability[c].to_numpy(float) for c in ("says", "right", "particles"))
middle = (right + 1.92 / n) / (1 + 3.84 / n)
half = 1.96 * np.sqrt(right * (1 - right) / n + 0.96 / n**2) / (1 + 3.84 / n)
ax.vlines(says, middle - half, middle + half, color=plot.LAYER_COLORS[0])
ax.scatter(says, right, s=20 + 200 * np.sqrt(n / n.max()), color=plot.LAYER_COLORS[0], alpha=0.7)
ax.plot([0.5, 1], [0.5, 1], "--", color="0.4", label="confidence = fraction right")
ax.set(xlabel="layer_confidence", ylabel="fraction in the right layer", xlim=(0.48, 1.02))
ax.legend(frameon=False, loc="upper left")
plt.show()

# %% [markdown]
# Keep two things in mind. Errors come in groups: when a whole grain is put into the wrong layer, all its particles
# are wrong together, whatever their confidence. So the intervals are too narrow, and confidence is capped at 0.999.
# And 0.5 means that the image does not decide the layer.
#
# ## What positions cannot decide
#
# Some questions have no answer in the positions. Two pieces of a specimen lie beside each other; each has two layers,
# and all four lattices are turned differently. Within a piece the lattices show which particles belong together. But
# which layer of the right piece goes with layer 1 of the left one? No lattice and no overlap crosses the gap, so both
# namings are worth nearly the same energy. `find_namings` keeps all good cuts it met, and `weigh_doubt` compares them
# region by region: all particles of a region share the doubt, and get the layer of the other naming as `other_layer`.

# %%
rng = np.random.default_rng(2)
sheets = [(3, 0, 250, 1), (13, 0, 250, 2), (27, 350, 600, 1), (41, 350, 600, 2)]
pieces = []
for angle, low, high, layer in sheets:
    p = hexagonal_lattice(40.0, angle, rng.uniform(280, 320, 2), 900.0)
    p = p[(p[:, 0] > 0) & (p[:, 0] < 600) & (p[:, 1] > low) & (p[:, 1] < high)]
    p += rng.normal(0, 1, p.shape)
    pieces.append(pd.DataFrame({"y": p[:, 0], "x": p[:, 1], "truth": layer}))
pieces = pd.concat(pieces, ignore_index=True)
pieces = pieces.assign(channel=0, score=1.0, shown=False, diameter=28.0)
named, _ = name_by_points(pieces, 28.0)
named["piece"] = np.where(named["x"] < 300, "left", "right")
named["right layer"] = named["layer"] == named["truth"]
columns = ["layer_confidence", "other_layer", "right layer"]
named.assign(other_layer=named["other_layer"] > 0).groupby("piece")[columns].mean().round(3)

# %% tags=["hide-input"] mystnb={"figure": {"caption": "Two pieces that nothing joins. Left and right, the two namings: both divide each piece rightly, and no position tells which of the two is true. `result.alternatives` keeps the second one.", "name": "fig-two-ways"}}
fig, axes = plt.subplots(1, 2, figsize=(7.5, 3.9), layout="constrained", sharey=True)
otherwise = named["layer"].where(named["other_layer"] == 0, named["other_layer"])
for ax, layer, title in zip(
    axes, (named["layer"], otherwise), ("layer", "other_layer"), strict=True
):
    for k in (1, 2):
        own = named[layer == k]
        ax.plot(
            own["x"],
            own["y"],
            "os"[k - 1],
            color=plot.LAYER_COLORS[k - 1],
            ms=3.5,
            label=f"layer {k}",
        )
    ax.set(title=title, xlabel="x / nm", aspect="equal", xlim=(0, 600), ylim=(600, 0))
axes[0].set_ylabel("y / nm")
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
plt.show()

# %% [markdown]
# The summary of a decomposition lists such regions (`undecided_regions`), with their place and how likely the other
# naming is. Whoever knows more, from an earlier frame or from how the specimen grew, can choose it:
# `table["layer"] = table["layer"].where(table["other_layer"] == 0, table["other_layer"])` takes the other naming of all
# regions. In a movie the votes of all frames count first, and regions that they decide are listed no more.
#
# The doubt is only as good as the evidence. Where grain boundaries of both layers lie upon each other, the network of
# points prefers one of the two namings by more than the positions say, and may be sure and wrong.
#
# ## A fit of one particle, with its error bar
#
# The peaks of a channel are the network's estimate of the positions. The measurement is a fit of the frame itself. For
# one particle on a flat background the model has three parameters, $y$, $x$ and the contrast.
# Gauss–Newton steps solve $(J^\top J)\,\delta = J^\top(\text{data}-\text{model})$, where $J$ holds the derivatives of
# the model. With the noise $\sigma$ of a pixel, $\sigma^2(J^\top J)^{-1}$ is the covariance of the result; it gives
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
# An error bar predicts how much repeated measurements scatter. So repeat the measurement, with new noise each time:

# %%
rng = np.random.default_rng(7)
rows, columns = np.indices((25, 25))
clean = 1 - 0.4 * np.exp(-((rows - 12.4) ** 2 + (columns - 11.7) ** 2) / (2 * 4.0**2))
fits = [fit_spot(clean + rng.normal(0, 0.15, clean.shape), 12, 12, 4.0, 0.15) for _ in range(400)]
found, claimed = (np.array(x) for x in zip(*fits, strict=True))
print(f"claimed {claimed.mean():.4f} px, observed {np.std(found - [12.4, 11.7]):.4f} px")

# %% [markdown]
# If the model is right, no unbiased method can do better: this is the {term}`Cramér–Rao bound`
# {cite:p}`mortensen2010`. Its dependence on the noise and on the number of detected quanta was worked out first for
# single fluorescent molecules {cite:p}`thompson2002`.
#
# ## The frame fitted as a whole
#
# In a Moiré pattern the particles overlap. If each were fitted alone, the edges of its neighbours and the particle
# under it would shift the fit. So `FrameFit` describes the **whole frame** by a {term}`forward model`, all particles of
# both layers together:
#
# $$ I(\mathbf r) = I_0 + B(\mathbf r)\; K * \prod_j \exp\Bigl[-\delta_j\,\bigl(1 - |\mathbf r-\mathbf r_j|^2/R_j^2\bigr)^{e}\Bigr] . $$
#
# Each particle transmits a fraction of the light, a sphere most at its rim, and {term}`transmissions <transmission>`
# multiply. Each particle has its own position $\mathbf r_j$, radius $R_j$ and optical depth $\delta_j$. All particles
# share, and the fit determines: the exponent $e$ of the profile (0 for a standing rod or a plate, ½ for a sphere); how
# soft the outline is (below); how much longer particles are in one direction; the blur $K$, made of a disk (defocus), a Gaussian and a camera's long tail,
# with a {term}`coma` that makes one side's edge sharper than the other's; the counts $I_0$ without light; and a
# background $B$ of smooth splines. The steps are those of the fit of one spot. Only the matrix is larger. It is nearly
# empty, since distant particles do not overlap, so it is factorized quickly. What all particles share has a full
# column each; the particles are eliminated first (the Schur complement is what is left), and one step moves both. To fit
# them in turn would be slow: a wider blur with smaller particles looks nearly the same, and each would wait for the other.
#
# Under a strong blur, different parameters give nearly the same image: rods, or slightly wider spheres; dark particles
# above a dark level, or paler ones without it. From a wrong start the fit ends in the wrong answer. So `FrameFit.start`
# makes the first round from each of them and keeps the result with the smallest residual. `FrameFit.search` tries rods and
# spheres again, once the particles are complete, and both of them with soft outlines as well.
#
# One profile for all is not always enough. A crystal that diffracts strongly darkens fast with thickness, and then hardly
# any more ([chapter 2](02_multislice)): it looks flatter than a sphere, and as two faint spheres it would fit better than
# as one. So `FrameFit.search` also tries particles whose optical depth goes with a **power** of the thickness, each with
# its own, $\delta_j\,(1 - |\mathbf r-\mathbf r_j|^2/R_j^2)^{e\,p_j}$. The powers $p_j$ are kept where they raise the
# likelihood by more than as many parameters would by chance (Schwarz's criterion, below); then all frames of the movie
# have them.
#
# Simulated particles have neither coma nor a longer side, and the fit finds almost none of either (`coma_y` to
# `long_diagonal` below). Real particles may have both; the last section measures them.

# %%
named, _ = assign_layers(located, WORKING_DIAMETER)
fit = FrameFit.start(images[0], named[["y", "x"]], WORKING_DIAMETER).fit(rounds=1)
print(f"{len(named)} particles; shared by all: {fit.imaging}")

# %% mystnb={"figure": {"caption": "The first frame and its model after two rounds of the fit, with the particles of the network alone. Right, the residual: dark blobs are particles that the network did not find, bright blobs are false or too wide particles. Where the network found every particle, only noise is left.", "name": "fig-forward"}}
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
# ## A soft outline is not a blurred image
#
# Particles that are tilted, wobble during the exposure or have rounded edges get thinner towards their outline. Their
# *thickness* is soft. Defocus and motion blur the *image* instead. One particle alone looks nearly the same either way:
# who takes the one for the other measures diameters up to a third too large. Where particles overlap, the two differ,
# since light falls exponentially with thickness: two soft rims upon each other take more light than a blur would
# show. So `FrameFit` averages the thickness over a disk, whose width all particles share, apart from the blur $K$.

# %% mystnb={"figure": {"caption": "A standing rod whose thickness is averaged over a disk of 0.45 radii, and a sharp rod seen through a blur of the image. Left, the thickness. Middle, the light that passes one rod: the blur was chosen for both to look alike. Right, the light that passes two rods upon each other: with the same blur, the outlines differ.", "name": "fig-soft"}}
r = np.linspace(-1.8, 1.8, 361)
softened = soften(0.02, 0.45 / 4).look_up(torch.from_numpy(r**2))[0].numpy()
kernel = np.exp(-0.5 * (r / 0.235) ** 2)
fig, axes = plt.subplots(1, 3, figsize=(9.5, 2.8), layout="constrained")
for thickness, name, blurred in (
    (softened, "soft outline", False),
    (np.abs(r) < 1, "blurred image", True),
):
    axes[0].plot(r, thickness, label=name)
    for ax, depth in zip(axes[1:], (1.5, 3.0), strict=True):
        light = np.exp(-depth * thickness)
        light = 1 - np.convolve(1 - light, kernel / kernel.sum(), mode="same") if blurred else light
        ax.plot(r, light, label=name)
for ax, title in zip(
    axes, ("thickness", "light through one rod", "light through two rods"), strict=True
):
    ax.set(title=title, xlabel="distance / radii", ylim=(-0.05, 1.1))
axes[0].legend(fontsize=8, loc="lower center")
plt.show()

# %% [markdown]
# `diameter_nm` is that of the solid's outline. `diameter_half_depth_nm` is where a particle is half as thick as in its
# middle. They are the same for a standing rod; a sphere is half as thick at 0.87 of its diameter. Compare the second one
# with sizes that were measured at half height in an image. Where a soft outline explains the frame hardly better than a
# blur, the sharp one is taken.
#
# Last, each particle becomes an ellipse of its own (`FrameFit.with_shapes`): `aspect_ratio` and `orientation_deg`, with
# errors. How far they may differ from each other is learned from them, as their sizes are. Nearly round ones have no
# direction: `orientation_std_deg` is large then. Two more parameters for each particle cost precision, so positions and
# diameters are those of ellipses only where these pay for their parameters by Schwarz's criterion (below).
#
# The residual is in units of σ. This σ is not the pixel noise but the residual's own scatter over a third of a
# particle. It is larger where the camera correlates neighbouring pixels, and where the model misses something.
# `FrameFit.result` computes the error bars from the same σ and $(J^\top J)^{-1}$; they include the uncertainty of the
# neighbours.
#
# ## Use the residual to find missing particles
#
# The residual shows not only where particles are but **whether** they are there. Compare the model with and without a
# particle: half the difference of the squared residuals, divided by the variance of the noise, is the gain in
# log-likelihood. Here for the spot from above, without a spot and with one:


# %%
def gain(image, y, x, width, sigma, contrast=0.4):
    """Gain in log-likelihood of an image by a spot of known size and contrast."""
    rows, columns = np.indices(image.shape)
    spot = contrast * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * width**2))
    return np.sum((image - 1) ** 2 - (image - 1 + spot) ** 2) / (2 * sigma**2)


empty = [gain(1 + rng.normal(0, 0.15, clean.shape), 12.4, 11.7, 4.0, 0.15) for _ in range(100)]
there = [gain(clean + rng.normal(0, 0.15, clean.shape), 12.4, 11.7, 4.0, 0.15) for _ in range(100)]
print(
    f"no spot: {np.mean(empty):.0f} ± {np.std(empty):.0f}; spot: {np.mean(there):.0f} ± {np.std(there):.0f}"
)

# %% [markdown]
# `FrameFit.evidence` computes this gain for all particles, or for places where there might be one. The model is not
# perfect, so the gain is divided by the ratio of the residual to pure noise at a particle's size. Then the **prior odds**
# are added: a site whose six neighbours are all there is probably occupied, a place off every lattice is
# probably not. For a particle found by the network, its score counts as well. `complete` keeps particles with a positive
# sum, and adds vacant sites and dark blobs with one. An unusual size or depth counts against a particle, because
# two thin particles can always imitate one. To test it, we let `find` (below) find the particles of the first frame,
# remove eight that overlap no other, and add eight that do not exist:

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
fit = FrameFit.start(images[0], tampered, WORKING_DIAMETER, found.imaging)
spacing = 1.3 * WORKING_DIAMETER
again = complete(fit, fit.table(tampered), spacing)

back = cKDTree(again[["y", "x"]]).query(lost[["y", "x"]])[0] < 0.3 * WORKING_DIAMETER
after = fit.table(tampered).iloc[-8:][["y", "x"]]
stayed = cKDTree(again[["y", "x"]]).query(after)[0] < 0.05 * WORKING_DIAMETER
print(f"taken out and found again: {back.sum()} of 8; invented and kept: {stayed.sum()} of 8")

# %% mystnb={"figure": {"caption": "Gain in log-likelihood by each particle found (blue), and by a particle at each vacant site of the lattices within the field (orange). At zero the frame is undecided; the prior odds of the site are not included.", "name": "fig-evidence"}}
fit = FrameFit.start(images[0], table, WORKING_DIAMETER, found.imaging)
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
# A site under a particle of the other layer is harder: one particle or two? If one of two is missing in the model,
# the other moves between them and explains both. If there is only one, two particles that share its darkness explain it
# as well. `settle_overlaps` fits the other answer, for places far apart at once, and compares it with what stands. Where
# two particles nearly coincide, the frame shows no outlines, only that the place is twice as dark. So the sizes and
# depths of both answers are compared with the usual ones, taken before the test. `find` makes the same comparison for a whole frame. Where two
# lattices are nearly alike, it fits one layer and two. It takes two only if every further particle explains more than
# its four parameters explain by chance, by the criterion of the next section. In a movie the frames that the blur is
# learnt from decide.
#
# ## One particle or two, before any lattice
#
# Where two particles lie nearly upon each other the network often finds one. As long as it is one, no lattice can be
# right about it. So `find` asks the frame before any lattice: a particle that takes clearly more light than usual is
# fitted as one particle of any size, and as two usual ones laid out in several directions. Two count if they explain
# the frame better by more than what four more parameters explain by chance (Schwarz's criterion). Scanning
# transmission microscopy counts the atoms of overlapping columns by such a rule {cite:p}`fatermans2018`. Is a single,
# larger particle taken for two?

# %%
rng = np.random.default_rng(8)
places = np.array([(y, x) for y in 20 + 24 * np.arange(8) for x in 20 + 24 * np.arange(8)], float)
apart, turn = np.linspace(0.05, 0.4, 16), rng.uniform(0, np.pi, 16)  # of pairs, in diameters
step = 0.5 * WORKING_DIAMETER * apart[:, None] * np.stack([np.sin(turn), np.cos(turn)], axis=1)
true = np.concatenate([places[16:], places[:16] - step, places[:16] + step])
size = WORKING_DIAMETER * np.exp(0.03 * rng.standard_normal(len(true)))
size[:8] *= np.linspace(1.1, 1.5, 8)  # single particles, larger and larger
grid = np.indices((208, 208)).reshape(2, -1).T
depth = np.zeros(len(grid))
for place, width in zip(true, size, strict=True):
    depth += 0.6 * np.sqrt(np.clip(1 - 4 * np.sum((grid - place) ** 2, axis=1) / width**2, 0, None))
picture = rng.poisson(400 * np.exp(-depth).reshape(208, 208)) / 400
taken_for_one = pd.DataFrame(places, columns=["y", "x"])
fit = FrameFit.start(picture, taken_for_one, WORKING_DIAMETER).fit(2)
gain_of_two, _ = try_halves(fit, fit.table(taken_for_one), np.arange(32))

# %% tags=["hide-input"] mystnb={"figure": {"caption": "One particle or two? Left, a simulated frame: two rows of pairs at growing distance, a row of single particles that become larger, and usual ones. Right, the log-likelihood by which two particles explain the frame better than one: above the dashed line two are taken.", "name": "fig-one-or-two"}}
fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
axes[0].imshow(picture, cmap="gray")
axes[0].set(xlabel="x / working px", ylabel="y / working px", ylim=(104, -0.5))
kinds = {
    "pair, at growing distance": slice(0, 16),
    "one, larger and larger": slice(16, 24),
    "one, usual": slice(24, 32),
}
for (name, rows), marker, color in zip(kinds.items(), "os^", colors, strict=False):
    axes[1].plot(
        np.linspace(0, 1, rows.stop - rows.start),
        gain_of_two[rows],
        marker,
        color=color,
        label=name,
    )
axes[1].axhline(6, ls="--", color="0.4")
axes[1].set(
    xlabel="place in its row, from left to right", ylabel="log-likelihood for two", xticks=[]
)
axes[1].legend(frameon=False, loc="center right")
plt.show()

# %% [markdown]
# ## All together: `find`
#
# Detection, layers and fit help each other. The layers predict which sites should hold a particle, the fit tests
# it, and better positions give better layers. `find` repeats these steps up to three times. In a movie the profile and the
# blur of the particles are learnt from a few frames. Every other frame is then fitted by itself, with what was learnt
# held fixed. So frames can be computed in any order, and a mistake in one frame does not spread. The certain peaks decide whether there are one or two layers. Weak peaks, which
# the network often puts into both channels, only get a layer. The fit of the frame decides only where the peaks give two
# nearly equal lattices (see above).
#
# At the end everything is fitted twice. The first fit is **without** the lattice: only the frame decides the
# positions. The second keeps every particle near the middle between its neighbours, as far as the crystal is regular;
# rows that bend more than noise and regularity explain, next to a dislocation, count little. This second fit is
# the likeliest, and layer movies show its outlines. The table of a single image has its positions. The table of a movie
# has the positions of the first fit: otherwise particles would seem to vibrate less than they do.
#
# Error bars need the noise. The residual is smaller than the noise, because each fitted number removes a part of it. The
# error bars are corrected for this.

# %%
first = find(images[0], centers[0], WORKING_DIAMETER)
shared = SharedByFrames(first.imaging, layers=first.particles["layer"].nunique())
tables = [
    find(image, peaks, WORKING_DIAMETER, shared).particles.assign(frame=t)
    for t, (image, peaks) in enumerate(zip(images, centers, strict=True))
]


def in_nm(table):
    """Positions in pixels of the movie and in nm; pixel centres are at integers in both."""
    scale = nm / movie.pixel_size  # movie pixels per working pixel
    table = table.assign(**{c: (table[c] + 0.5) * scale - 0.5 for c in "yx"})
    table = table.assign(**{f"{c}_nm": table[c] * movie.pixel_size for c in "yx"})
    widths = ("y_std", "x_std", "diameter", "diameter_std")
    return table.assign(**{f"{c}_nm": table[c] * nm for c in widths})


# %%
diameter = truth["diameter_nm"].median()
field = np.array(movie.shape[1:]) * movie.pixel_size
true_first = truth[truth["frame"] == 0]
unfitted = dict(y_std=0, x_std=0, diameter=WORKING_DIAMETER, diameter_std=0)
from_network = assign_layers(located.assign(frame=0, **unfitted), WORKING_DIAMETER)[0]
steps = {
    "network, layers by lattices": in_nm(from_network),
    "find: completed and fitted": in_nm(tables[0]),
    "the same, crystal included": in_nm(
        tables[0].assign(y=tables[0]["y_likeliest"], x=tables[0]["x_likeliest"])
    ),
}
scored = pd.DataFrame(
    {k: score_particles(v, true_first, diameter, field) for k, v in steps.items()}
).T
scored.round(3)

# %% tags=["remove-input"] mystnb={"markdown_format": "myst"}
error, f1 = (scored[name].to_numpy() for name in ("rmse_nm", "f1"))
change = "higher" if f1[1] > f1[0] else "lower"
Markdown(
    f"The fit's position error is {error[1] / error[0]:.0%} of the network's, and its F1 {change} by "
    f"{abs(f1[1] - f1[0]):.3f}. In a frame as clear as this one the crystal adds little; it helps more where noise hides "
    "a particle."
)

# %% [markdown]
# ## The specimen moves
#
# Every liquid-cell movie drifts, and stages jump. Before particles are followed, the motion is taken off. A single
# lattice makes this hard: shifted by one of its own vectors it looks the same. Two layers at a twist share no vector, so
# only the true shift brings all particles to their places at once. `estimate_motion` takes the highest peaks of the
# cross-correlation of both frames' particles as candidates. It fits each of them by least squares (shift, turn,
# magnification). Then it compares their likelihoods in the part that both frames show. Here is a jump of three
# spacings, with positions scattered by 3 % of a spacing and one particle in twenty missed:

# %% mystnb={"figure": {"caption": "How far the cross-correlation of two frames' particles rises for each shift. Left, one layer: the peaks of the lattice are equally high, and nothing says which of them is the true shift (circle). Right, two layers at a twist of 14.5°: the true shift alone brings both lattices to their places.", "name": "fig-motion"}}
fig, axes = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
rng, jump = np.random.default_rng(3), np.array([40.0, -25.0])
grids = [hexagonal_lattice(16.0, angle, (0.0, 0.0), 500.0) for angle in (4.0, 18.5)]
for ax, layers in zip(axes, (1, 2), strict=True):
    specimen = np.concatenate(grids[:layers])
    views = []
    for moved in (0 * jump, jump):
        seen = specimen + moved + 0.5 * rng.standard_normal(specimen.shape)
        seen = seen[rng.random(len(seen)) > 0.05]
        views.append(seen[np.abs(seen).max(axis=1) < 144])
    steps = (views[1][None] - views[0][:, None]).reshape(-1, 2)
    counts, y, x = np.histogram2d(*steps.T, bins=np.arange(-60, 61, 1.0))
    ax.imshow(counts, extent=(x[0], x[-1], y[-1], y[0]), cmap="magma")
    ax.plot(jump[1], jump[0], "o", mfc="none", color="white", ms=14)
    ax.set(xlabel="shift along x / px", ylabel="shift along y / px", title=f"{layers} layer(s)")
    estimate = estimate_motion(*(view + 144 for view in views), 16.0, (288, 288))
    z = estimate.motion.turn * (144 + 144j) + estimate.motion.shift - (144 + 144j)
    print(
        f"{layers} layer(s): shift ({z.imag:.1f}, {z.real:.1f}) px, "
        + ("decided" if estimate.decided else "not decided")
    )
plt.show()

# %% [markdown]
# Where nothing decides, the shift nearest to the usual drift is taken, and `summary["motion_undecided"]` names the
# frame. Later each layer is followed by itself, since layers slide on each other.
#
# ## Votes in time
#
# A particle keeps its layer through a movie, so its track may vote. First the *names* are aligned, since layer 1 is
# chosen in each frame anew. Two frames agree if most particles found in both are in the same layer in both. Then
# the log-odds of a track are added up. But frames share the same ambiguities, so they are not independent. With a
# correlation $c$ between any two frames, $n$ frames count as $n / (1 + (n-1)\,c)$ independent ones. For $c = ½$:


# %%
def independent_frames(n):
    """Number of independent frames that n frames are worth, at a correlation of one half."""
    return 2 * n / (n + 1)


print({n: round(independent_frames(n), 2) for n in (1, 2, 8, 100)})

# %% [markdown]
# So a hundred frames are worth almost two. Votes help most with a bad frame among good ones. Here are eight
# frames of two layers. In the third frame, positions are bad and many particles are missing; in the sixth the names are
# exchanged:

# %%
config = LatticeConfig(twist_angle=(6, 6), **plain | {"island": 1.0})
still = random_scene(config, (570.0, 570.0), np.random.default_rng(5), spacing=38.0)
true = truth_table(still, pixel_size=1.0)
width, rng, named_frames = true["diameter_nm"].median(), np.random.default_rng(8), []
for t in range(8):
    scatter, missing = (4.5, 0.3) if t == 2 else (1.0, 0.05)
    seen = true[["y", "x"]] + rng.normal(0, scatter, (len(true), 2))
    wrong = rng.random(len(true)) < 0.15
    channel = (true["layer"] - 1 + wrong) % 2
    seen = seen.assign(channel=channel, score=1.0, shown=False, diameter=np.nan, true=true["layer"])
    seen = seen[rng.random(len(true)) > missing].reset_index(drop=True)
    named = assign_layers(seen, width)[0].assign(frame=t)
    named_frames.append(named.assign(layer=3 - named["layer"]) if t == 5 else named)
named = pd.concat(named_frames, ignore_index=True)
voted, exchanged = vote(named, width, [Motion()] * 8)  # in a specimen at rest
for name, group in (("each frame alone", named), ("after the vote", voted)):
    right = (group["layer"] == group["true"]).groupby(group["frame"]).mean()
    print(f"{name:17}", right.round(3).to_list())
print("names exchanged back in frames", np.flatnonzero(exchanged))

# %%
together = pd.concat(tables, ignore_index=True)
table = in_nm(vote(together, WORKING_DIAMETER, [Motion()] * frames)[0])
columns = (
    "frame layer layer_confidence score y_nm x_nm y_std_nm x_std_nm diameter_nm diameter_std_nm"
)
table[columns.split()].round(2).head()

# %% [markdown]
# ## Are the error bars right?
#
# A simulation can answer this. Pair found and true particles within 0.3 diameters in the same layer, away from the
# border, and divide each error by its own error bar. If the error bars are right, these **z-scores** have a standard
# deviation of 1, and 68 % of them lie between -1 and 1. A larger value means that the error bars are too small, a smaller
# one that they are too large.

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

# %% mystnb={"figure": {"caption": "Claimed against true position errors on the sample. Left, histogram of error over claimed error, with the standard normal distribution expected for right error bars. Right, six groups of equal size, from the smallest to the largest claim: the true error of each group, with its own uncertainty, against the claimed error.", "name": "fig-zscores"}}
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
# A width above 1 would show mistakes of the model. When the claimed errors are a small part of a pixel, a
# profile that differs slightly from the particle's matters as much as noise, most of all where particles overlap. The
# tails beyond three come from particles with a mistake next to them: a missed neighbour, a false one, or a wrong layer.
# An error bar covers noise, not such mistakes; use `score` and `layer_confidence` to sort these particles out.
#
# ## Tracks
#
# A particle keeps its identity from frame to frame. `link_particles` passes each layer to trackpy {cite:p}`allan_trackpy`, which
# joins positions in successive frames so that the total squared displacement is smallest {cite:p}`crocker1996`. The
# important parameter is the search range: larger than any real displacement, and smaller than half the spacing, so that
# no particle is taken for its neighbour.

# %%
half_diameter = 0.5 * diameter / movie.pixel_size
tracks = link_particles(table, search_range=half_diameter)
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
# In the sample the lattices vibrate elastically, and the specimen drifts and turns a little. The {term}`drift` is common
# to all tracks: it is their mean displacement since the first frame.

# %% mystnb={"figure": {"caption": "Left, tracks that run through all frames used here, displacements from their mean enlarged ten times. Right, mean displacement of these tracks since the first frame, with its standard error, and the true one (lines). The common part is drift; the rest is vibration, a slight rotation and the localization error.", "name": "fig-tracks"}}
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
# The real frame of one layer {cite:p}`ou2020` has no known truth, but a lattice to measure. We look at two
# distributions: the distance of each particle to its nearest neighbour, and all pair distances. In a hexagonal lattice of
# spacing $a$ the pair distances gather at $a$, $\sqrt3\,a$ and $2a$. We divide the pair counts by the area of their
# ring, so a random arrangement is flat. Part of the frame is bright, moving liquid without a visible lattice; finds
# there are not on lattice sites and spread over all distances. We take a square within the lattice.

# %%
try:
    real = moirelib.read_movie(data.fetch("np_lattice_2p593nm.tif"))
except OSError:
    real = None

# %% tags=["remove-input"] mystnb={"markdown_format": "myst"}
if real is None:
    missing = f"""```{{admonition}} The real frame is not at hand
:class: warning
This page was built without it. Two figures and their numbers are left out in this and the next section: the distances
between the particles of the real frame, and its mean particle compared with the fitted model. To see them, run the
chapter with access to the internet, or save
[the published file]({data.REGISTRY["np_lattice_2p593nm.tif"].url}) as `np_lattice_2p593nm.tif` in a folder and set the
environment variable `MOIRELIB_DATA` to that folder.
```"""
    display(Markdown(missing))

# %%
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
if real is not None:
    fig, axes = plt.subplots(1, 2, figsize=(8.5, 3.4), layout="constrained")
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
# No simulation has everything that a real frame has, so we look at the residual of the model. In one particle noise
# hides it; in the mean over all particles, cut out around their fitted centres, it becomes visible.

# %%
if real is not None:
    shape = [round(n * WORKING_DIAMETER * real.pixel_size / 100) for n in counts.shape]
    image, zoom = resample(counts, shape), np.array(shape) / counts.shape
    start = (result.particles[["y", "x"]] + 0.5) * zoom - 0.5
    fit = FrameFit.start(image, start, WORKING_DIAMETER).fit(2).search()
    shared = fit.imaging
    print(f"long side: {np.exp(np.hypot(shared.long_y, shared.long_diagonal)):.2f} times the short")
    print(f"coma: {np.hypot(shared.coma_y, shared.coma_x):.2f} rad at one period per diameter")

# %% mystnb={"figure": {"caption": "The mean particle of the real frame. Left, cut out of the frame, divided by its background; the contour runs at half its depth. Middle, the same from the fitted model. Right, the residual, on a finer scale; the other particles around lie where the lattice puts them. Some gaps between particles are brighter in the frame than in the model.", "name": "fig-mean-particle"}}
if real is not None:
    points = fit.table(start)[["y", "x"]].to_numpy()
    points = points[np.all((points > 14) & (points < np.array(shape) - 15), axis=1)]
    grid = np.indices((25, 25)) - 12
    light, left = fit.predicted.background.numpy(), fit.residual.numpy()
    seen = fit.model.frame.numpy()
    cuts = [
        np.array([map_coordinates(part, grid + p[:, None, None], order=1) for p in points])
        for part in (seen / light, (seen - fit.model.noise * left) / light)
    ]
    frame_mean, model_mean = (cut.mean(axis=0) for cut in cuts)
    reach = 12.5 * 100 / WORKING_DIAMETER  # nm, of 12.5 working pixels
    panels = {"frame": frame_mean, "model": model_mean, "frame − model": frame_mean - model_mean}
    fig, axes = plt.subplots(1, 3, figsize=(9.5, 3.2), layout="constrained")
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
# A model of round particles with symmetric edges would shift positions to fit what it does not contain: every particle
# would move away from its bright side, overlapping particles by different amounts, and one particle might be fitted as
# two. Therefore the model has a longer side and a coma. An ellipse still cannot describe every shape: where gaps between
# particles are brighter than in the model, a shape with three corners, such as a triangular prism, would fit better.
#
# ## Exercises
#
# **1.** The median distance to the nearest neighbour is smaller than the lattice's spacing. Show with a perfect
# lattice and scattered positions that it must be, and say which of the two numbers to quote.

# %% tags=["hide-cell"]
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
# **2.** How wrong may the channels be? Give `assign_layers` the true positions of two full layers in a field of
# 15 spacings, exchange the channel of each particle with a probability of 0 to 0.5, and count how many end up in the
# right layer, for twists of 2 and 12 degrees. At 0.5, the channels hold no information.

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
        channel = (answer["layer"] - 1 + exchanged) % 2
        guess = answer[["y", "x"]].assign(channel=channel, score=1.0, shown=False, diameter=np.nan)
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
# - Particles are peaks of the network's centre channels, placed at the peak's centre of mass.
# - Two lattices show as two hexagons in the structure factor of all points together, independent of the channels.
#   If the field holds less than a Moiré period, the graph of agreeing and disagreeing neighbours may still split them,
#   but its result is less certain.
# - Grains that overlap are different layers; grains that meet are one. A learned graph of pairs, cut into layers, says
#   which is which, for two layers or three. Then each particle's evidence (place, presence, channel, exclusion) is added
#   up, and the result is a probability that can be checked.
# - Whether a dark spot is one particle or two is asked of the frame before any lattice.
# - A forward model fits the whole frame at once. The residual shows missing and false particles. The fit gives each
#   particle an error bar, which simulations test: z-scores should have a width of 1.
# - Tracks vote on layers, but frames with the same ambiguities are not independent.
#
# ## In practice
#
# - **Look at `layer_confidence` before you look at layers.** Below 0.9 the assignment may be wrong; at 0.5 it is a
#   guess.
# - **It fails** for disordered arrangements without a lattice, for twists so small that almost all particles of the two
#   layers coincide, and for grains of fewer than eight particles. The note in the summary says when the field holds less
#   than a Moiré period.
# - **A grain in the wrong layer is wrong as a whole.** Two grains of one layer that both touch a third in projection may
#   be split by mistake. The figure of the layers shows this at once; `layer_confidence` may not.
# - **Two layers of unlike lattices** show no second hexagon near the first one's spacing. Where the lattices say "one layer"
#   but the network of points sees two around the particles, its graph is cut in two and both answers are fitted to the
#   frame. Where it sees three, a U-Net with three channels finds the particles, and three layers are fitted as well; they
#   are taken only if they explain the frame better.
# - **Tilted columns of a single layer** look like two layers slightly shifted. Where two lattices are that similar, the
#   frame is fitted with one layer and with two. The answer is one layer if a second one does not pay for its particles.
#   So two real layers that coincide over the whole field may be reported as one, most of all at low doses.
# - **Error bars do not include mistakes of the model**: strongly defocused particles with fringes, cubes or triangles,
#   and particles at the border are also fitted with an ellipse's profile.
# - **A search range above half the spacing** lets tracks jump to neighbours, most of all across dropped frames.
#   `decompose` takes the motion off first; with `link_particles` you do it yourself.
