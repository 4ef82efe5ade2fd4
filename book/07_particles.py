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
# - read particles off the network's output
# - decide which layer each belongs to, from the lattices that all of them form together
# - fit all particles to the frame at once, and check the error bars against the truth
# - link particles into tracks
# - measure distances in a real frame
#
# Needs chapters 5 and 6 · CPU · 1 minute · 1.3 GB
# ```
#
# {doc}`Chapter 6 <06_decompose>` called one function. This chapter opens it: network output in, particle table out. The
# steps are `locate`, `assign_layers`, `refine` and `link`, and each can be used alone.

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import moirelib
from moirelib import data, plot
from moirelib.lattice import truth_table
from moirelib.particles import assign_layers, find_lattice, locate, refine
from moirelib.scenes import LatticeConfig, random_scene
from moirelib.scoring import match
from moirelib.tracks import link
from moirelib.unet import WORKING_DIAMETER, load_weights, predict, resample

movie, truth = data.sample()
zoom = WORKING_DIAMETER * movie.pixel_size / truth["diameter_nm"].median()
working_shape = [round(n * zoom) for n in movie.shape[1:]]
nm = movie.pixel_size * movie.shape[1] / working_shape[0]  # per working pixel
images = [resample(movie.frame(t), working_shape) for t in range(len(movie))]
network = load_weights()
probability = [predict(network, image) for image in images]  # of shape (layer, y, x)
print(f"{len(images)} frames of {working_shape} working pixels, {nm:.3f} nm each")

# %% [markdown]
# ## Particles are peaks of the probability
#
# Where particles touch, their probabilities merge into one blob. A blur as wide as a particle, subtracted from a
# narrower one, makes each centre a peak again: a band-pass filter, as in particle tracking since
# {cite:t}`crocker1996`. The peak tells particles apart, to a pixel. The position is better taken from all pixels: each
# goes to the nearest peak, and each particle is placed at the centre of mass of its share. Two soft disks that touch
# show that it works:


# %%
def centroids(probability, peaks, reach):
    """Centre of mass of the pixels nearer to each peak (n, 2) than to any other, and within reach."""
    pixels = np.argwhere(probability > 0.05)
    distance = np.linalg.norm(pixels[:, None] - peaks, axis=-1)
    owner = np.where(distance.min(axis=1) < reach, distance.argmin(axis=1), -1)
    weight = probability[tuple(pixels.T)]
    return np.array(
        [
            np.average(pixels[owner == k], axis=0, weights=weight[owner == k])
            for k in range(len(peaks))
        ]
    )


grid = np.indices((25, 35)).reshape(2, -1).T
centers = np.array([[12.3, 10.4], [12.6, 22.7]])
disks = [1 / (1 + np.exp((np.linalg.norm(grid - c, axis=1) - 6) / 0.4)) for c in centers]
blob = np.maximum(*disks).reshape(25, 35)
print("found", centroids(blob, np.rint(centers), 8.4).round(2).tolist(), "truth", centers.tolist())

# %% mystnb={"figure": {"caption": "A part of the sample's first frame and of both channels of the network's output, with the particles that locate finds in each. A peak in a channel is a particle; which layer it belongs to is not decided yet.", "name": "fig-locate"}}
located = locate(probability[0], WORKING_DIAMETER)
fig, axes = plt.subplots(1, 3, figsize=(9, 3.3), layout="constrained")
window = (slice(20, 120), slice(10, 110))
plot.show_frame(images[0][window], nm, axes[0], title="raw frame")
for k, ax in enumerate(axes[1:]):
    ax.imshow(probability[0][k][window], cmap="cividis", vmin=0, vmax=1)
    mine = located[located["channel"] == k]
    ax.plot(mine["x"] - 10, mine["y"] - 20, "+", color="white", mew=2)
    ax.set(xlim=(-0.5, 99.5), ylim=(99.5, -0.5), xticks=[], yticks=[], title=f"channel {k + 1}")
fig.colorbar(axes[2].images[0], ax=axes, label="probability", shrink=0.8)
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
# How small a twist can this tell apart? Peaks are as wide as $2\pi$ over the size of the field, so two of them
# separate once the field spans about $1/\theta$ spacings: 15 for a twist of 4°.
#
# ## Lattices are grains, and grains make layers
#
# A layer may hold more than one lattice: two {term}`grains <grain>` that meet along a line. Then three hexagons
# appear, and a new question: which two of the three are one layer? Where grains lie *over* each other in projection,
# they must be different layers. Where they only *meet*, they are one. `assign_layers` puts all of this together:
#
# 1. find lattices one after another, each in the points that the earlier ones leave unexplained;
# 2. let each point choose, by its fit to the phases of its *surroundings* (strain is slow and does no harm there) and
#    by the network's word on which neighbours share its channel, until nothing changes;
# 3. put grains that overlap into different layers and grains that meet into one;
# 4. call the layer that reaches furthest layer 1.
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
# `layer_confidence` is the final membership of the chosen layer. Where the lattices do not tell, it stays near 0.5:
# with a twist near zero, with a single particle far from the others, with fewer than eight particles. Then the
# channel's name is all there is, and the table says so.
#
# ## A fit of one particle, with its error bar
#
# Peaks of a probability are where the network believes particles to be. The measurement is made on the frame itself,
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
# ## All particles at once
#
# In a Moiré pattern no particle is alone. Fitted one by one, each would take its neighbour's edge, and the particle
# under it, for its own. `refine` therefore fits **all** particles of both layers together: a smooth background times
# the {term}`transmission` of each particle, $I = B \prod_j (1 - o_j\,p(\mathbf r - \mathbf r_j))$, with position,
# diameter and opacity $o_j$ of each, and one profile $p$ for all that is fitted as well, between a standing rod and a
# sphere. The matrix is the same as above, only larger and nearly empty, and the error bars contain what each particle
# owes to the uncertainty of its neighbours.


# %%
def particles_of(t):
    """The road of one frame: located, named, fitted; positions in pixels of the movie and in nm."""
    named, _ = assign_layers(locate(probability[t], WORKING_DIAMETER), WORKING_DIAMETER)
    table = refine(images[t], named, WORKING_DIAMETER)
    scale = (
        nm / movie.pixel_size
    )  # movie pixels per working pixel; pixel centres are at integers in both
    table = table.assign(
        frame=t, y=(table["y"] + 0.5) * scale - 0.5, x=(table["x"] + 0.5) * scale - 0.5
    )
    return table.assign(
        **{f"{c}_nm": table[c] * movie.pixel_size for c in "yx"},
        **{f"{c}_nm": table[c] * nm for c in ("y_std", "x_std", "diameter", "diameter_std")},
    )


table = pd.concat([particles_of(t) for t in range(len(movie))], ignore_index=True)
table[
    ["frame", "layer", "y_nm", "x_nm", "y_std_nm", "x_std_nm", "diameter_nm", "diameter_std_nm"]
].round(2).head()

# %% [markdown]
# ## Do the error bars tell the truth?
#
# For a simulation we can ask. Pair found and true particles within 0.3 diameters in the same layer, away from the
# border, and divide each error by its own error bar. If the claims are right, these **z-scores** have a standard
# deviation of 1, and 68 % of them lie between -1 and 1. Larger means too confident, smaller too modest.

# %%
diameter = truth["diameter_nm"].median()
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
# The tails beyond three come from particles whose surroundings the model has wrong: a neighbour that was missed, one
# that is not there, or a layer mistaken. An error bar covers the noise, not mistakes of that kind; `score` and
# `layer_confidence` are there to sort them out.
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
    f"{len(lengths)} tracks; {np.mean(lengths == len(movie)):.0%} of them run through all {len(movie)} frames"
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
full = tracks[tracks["particle"].isin(lengths.index[lengths == len(movie)])]
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
# there is not on lattice sites, and spreads over all distances.

# %%
from scipy.spatial import cKDTree

try:
    real = moirelib.read_movie(data.fetch("np_lattice_2p593nm.tif"))
except OSError as error:
    real = None
    print("This section needs the real frame.", error)

if real is not None:
    result = moirelib.decompose(real, diameter=78)
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
# ## Exercises
#
# **1.** The median distance to the nearest neighbour is smaller than the lattice's spacing. Show with a perfect
# lattice and scattered positions that it must be, and say which of the two numbers to quote.

# %% tags=["hide-cell"]
from moirelib.lattice import hexagonal_lattice

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
# - Particles are peaks of the band-passed probability, placed at the centre of mass of their share of it.
# - Two lattices show as two hexagons in the structure factor of all points together, whatever the channels are called.
#   Grains that overlap are different layers, grains that meet are one.
# - All particles are fitted to the raw frame together, and each has an error bar that can be tested: on simulations,
#   z-scores should have a width of 1.
# - What the fit cannot locate well is left out, unless it sits on a site of its lattice: `decompose` calls
#   `discard_doubtful` for that.
# - Tracks are linked layer by layer; what all share is drift.
#
# ## In practice
#
# - **Look at `layer_confidence` before you look at layers.** Below 0.9 the assignment may be wrong; at 0.5 it is a
#   guess.
# - **It fails** at twists near 0°, where two lattices have one hexagon, in fields of less than about $1/\theta$
#   spacings, and for disordered arrangements, which have no lattice at all. Small grains, of fewer than eight
#   particles, are not found.
# - **Two grains turned by the same angle** on both sides of a boundary can be mistaken for the upper layer if they
#   overlap it in projection by bad luck; the figure of the layers shows it at once.
# - **Error bars do not know the model's mistakes**: strongly defocused particles with fringes, cubes or triangles, and
#   particles at the border are fitted with a round profile all the same.
# - **A search range above half the spacing** makes tracks jump to neighbours, most of all across dropped frames.
#   Remove large drift first.
