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
# (decompose)=
# # Take a movie apart
#
# ```{admonition} In this chapter
# :class: tip
# - open a movie without loading it into memory
# - split it into one movie per layer and a table of particles, with one call
# - score the result against the truth of a simulation, and see what each score means and what it misses
# - decompose a real frame of one layer, and a real frame made into two layers
# - compare with other methods, from Fourier filtering to other networks
# - save everything, and do the same from the command line and in Fiji
#
# Needs chapter 5 for the network · CPU · 5 minutes (fast), 7 minutes (full) · 1.3 GB
# ```

# %%
import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter

import moirelib
from moirelib import data, plot
from moirelib.crystal import match
from moirelib.decomposition import WORKING_DIAMETER, load_weights, predict, resample
from moirelib.decomposition.particle_size import measure_fit
from moirelib.validation import score_layers, score_particles

FAST = os.environ.get("MOIRELIB_FAST", "1") != "0"

# %% [markdown]
# ## A movie is opened, not loaded
#
# `read_movie` reads Gatan dm3 and dm4, MRC, TIFF, EMD and SER files, most of them with RosettaSciIO
# {cite:p}`rosettasciio`, and takes the {term}`pixel size` and the time between frames from the file. The pixels stay
# on disk, behind a Dask array {cite:p}`rocklin2015`, until you use a frame, so a movie may be larger than the memory.
# Our first movie ships with moirelib. It is simulated, so its truth is known: one row for each particle,
# {term}`layer` and {term}`frame`.

# %%
movie, truth = data.sample()
if FAST:  # its first frames are enough to see how it goes
    movie, truth = replace(movie, data=movie.data[:2]), truth[truth["frame"] < 2]
print(
    movie.name,
    movie.shape,
    movie.data.dtype,
    f"{movie.pixel_size} nm/pixel, {movie.frame_time} s/frame",
)
print(
    type(movie.data).__name__,
    "of",
    movie.data.nbytes // 1000,
    "kB, chunks of",
    movie.data.chunksize,
)
truth.head(3)

# %% [markdown]
# ## The steps for one frame
#
# `decompose` treats every frame in the same steps. Each step has its own chapter or section; this chapter shows
# all of them once:
#
# 1. **Size and polarity.** The network expects particles of one size; the program tries several magnifications.
# 2. **Network.** It gives the particles and their centres in two channels without names
#    ({doc}`chapter 5 <05_unet>`).
# 3. **Layers.** The lattices of all centres, the overlaps of their grains, and the evidence of each particle decide
#    which particle is in which layer ({doc}`chapter 7 <07_particles>`).
# 4. **Fit.** All particles are fitted to the frame at once. The fit measures positions, sizes and error bars, and
#    finds missing and surplus particles. Steps 3 and 4 are repeated up to three times.
# 5. **Votes.** In a movie, the track of each particle votes on its layer.
# 6. **Layer movies** are drawn from the table.
#
# Steps 1 and 2 are short enough to do by hand. We resample a frame until its particles are about 12 pixels wide, and
# the network gives masks and centres:

# %%
frame = movie.frame(0)
diameter_px = truth["diameter_nm"].median() / movie.pixel_size
network = load_weights()


def at_working_size(frame, diameter_px):
    return resample(frame, [round(n * WORKING_DIAMETER / diameter_px) for n in frame.shape])


small = at_working_size(frame, diameter_px)
masks, centers = predict(network, small)
print(frame.shape, "->", small.shape, "->", masks.shape, "and", centers.shape)

# %% mystnb={"figure": {"caption": "First frame of the sample, and the masks in the two channels of the network's output. They separate the layers as far as the network can. Channel 1 need not be layer 1; it may be in one place and not in another.", "name": "fig-channels"}}
plot.show_split(frame, resample(np.clip(masks, 0, 1), frame.shape), movie.pixel_size)
plt.gcf().axes[1].set_title("channel 1", fontsize=10)
plt.gcf().axes[2].set_title("channel 2", fontsize=10)
plt.show()

# %% [markdown]
# ## The network finds the particle size
#
# The program does not know how wide the particles are. But at a wrong magnification the network is unsure of what it
# finds, or its finds do not match the frame. At the right one, two things come together: many finds have a high score,
# and the masks lie where the frame is dark. We measure the first by the sum of the cubed scores, which hardly counts
# the unsure ones, over the square root of the number of finds. We measure the second by the correlation of masks and
# darkness at the frame's own sampling, which is the same for all magnifications. The product of both rates a diameter.
# As the network knows dark particles only, the program tries the inverted frame as well.

# %%
trials = np.geomspace(5, 80, 14)
ratings = {}
for polarity, name in ((1, "dark particles"), (-1, "bright particles")):
    ratings[name] = [measure_fit(polarity * frame, network, d, trials[-1]) for d in trials]
print(
    f"best of the trials {trials[np.argmax(ratings['dark particles'])]:.1f} px, true {diameter_px:.1f} px"
)

# %% mystnb={"figure": {"caption": "How well trial diameters suit the first frame of the sample, whose particles are dark; the dashed line is the true diameter. decompose takes the highest rating of both curves, which gives diameter and polarity, and corrects the diameter twice by the size of what the network finds there.", "name": "fig-plausibility"}}
fig, ax = plt.subplots(figsize=(5.5, 3), layout="constrained")
for (name, rating), color, marker in zip(ratings.items(), plot.LAYER_COLORS, "os", strict=False):
    ax.plot(trials, rating, marker + "-", color=color, label=name)
ax.axvline(diameter_px, ls="--", color="black")
ax.set(xscale="log", xlabel="trial diameter / pixels", ylabel="rating")
ax.set_xticks([5, 10, 20, 40, 80], ["5", "10", "20", "40", "80"], minor=False)
ax.minorticks_off()
ax.legend()
plt.show()

# %% [markdown]
# Where small particles lie among large ones, the large ones alone may give the best rating. So `decompose` also fits
# some hundred particles in the middle of the frame ({doc}`chapter 7 <07_particles>`): where these come out much smaller
# than the diameter they were looked for with, it looks again for particles of their size.
#
# ## One call does the rest

# %%
result = moirelib.decompose(movie)
print(json.dumps(result.summary, indent=1, ensure_ascii=False))

# %% [markdown]
# `result.layers` has the shape `(t, layer, y, x)` and values from 0 to 255: the fraction of each pixel that a particle of
# the layer covers. It is not the network's mask. The outline of every particle in the table is drawn into its layer, so
# layer movies and table hold the same particles. (In a movie, the outline stands at the likeliest position within the
# crystal, see {doc}`chapter 7 <07_particles>`.) Layer 1 is always the {term}`base layer`. The movies are lazy like
# the input: an image is drawn when you look at it.

# %% mystnb={"figure": {"caption": "The same frame taken apart: raw frame with the particles found, layer 1 (blue) and layer 2 (orange). Circles have the fitted diameters.", "name": "fig-split"}}
first = result.particles[result.particles["frame"] == 0]
plot.show_split(frame, np.asarray(result.layers[0]), movie.pixel_size, particles=first)
plt.show()

# %%
drawn = np.asarray(result.layers[0])
at = first[["y", "x"]].round().astype(int).clip(0, np.array(frame.shape) - 1, axis=1).to_numpy()
own, other = (drawn[k, at[:, 0], at[:, 1]] for k in (first["layer"] - 1, 2 - first["layer"]))
print(f"centres covered in their own layer: {np.mean(own > 127):.1%}")
print(f"and by a particle of the other layer as well: {np.mean(other > 127):.1%}")

# %% [markdown]
# `result.particles` is the measurement: a table with positions in pixels and nm, their standard deviations, diameters,
# and two numbers that say how sure they are. `score` is the height of the peak in the network's centre channel; for a
# particle that only the fit found, it is the probability that the particle exists. {term}`Layer confidence <layer
# confidence>` (`layer_confidence`) is the probability that the layer is right: 0.5 is a guess. `particle` is the number
# of the {term}`track`, -1 for a particle that was seen only once. `other_layer` is 0 but in regions that can be named two
# ways as a whole: there it is the layer of the second naming ({doc}`chapter 7 <07_particles>`). `aspect_ratio` is a
# particle's long axis over its short one, and `orientation_deg` the long axis' direction, from x towards y.

# %%
result.particles.round(2).sample(5, random_state=0)

# %% [markdown]
# ## How good is it?
#
# A score needs a rule for what counts as found. We match found and true particles one to one, at most 0.3 diameters
# apart, with the smallest total distance (the Hungarian algorithm {cite:p}`kuhn1955`). Particles within half a diameter
# of the border do not count. The pairs give {term}`precision`, {term}`recall` and their harmonic mean, the
# {term}`F1 score`. Here it is in plain NumPy, for one frame, with layers ignored. (moirelib's own score prefers pairs
# within one layer where two particles lie on top of each other, so the two may differ slightly at the border.)


# %%
def f1_by_hand(found, true, diameter, field):
    """F1 with layers ignored, of positions (n, 2) in nm."""
    i, j = match(found, true, 0.3 * diameter)

    def inside(p):
        return np.all((p >= diameter / 2) & (p <= field - diameter / 2), axis=1)

    pairs = inside(true[j]).sum()
    missed = inside(true).sum() - pairs
    false = inside(np.delete(found, i, axis=0)).sum()
    return pairs / (pairs + 0.5 * (missed + false))


diameter = truth["diameter_nm"].median()
field = np.array(movie.shape[1:]) * movie.pixel_size
true_first = truth[truth["frame"] == 0]
positions = [table[["y_nm", "x_nm"]].to_numpy() for table in (first, true_first)]
print(f"by hand {f1_by_hand(*positions, diameter, field):.4f}")
print(f"moirelib {score_particles(first, true_first, diameter, field)['f1_agnostic']:.4f}")

# %% [markdown]
# The most important number is *layer-resolved*: a particle counts only if it is found in its own layer. `assignment` is
# the fraction of the found particles in the right layer, and `rmse_nm` the {term}`RMSE` of their positions. The
# layer images are scored by the {term}`IoU` with the true masks, which we draw from the truth as disks, and by the
# accuracy, the fraction of right pixels. The choice of layer 1 may be a convention; so the names may be
# exchanged once for the whole movie, for particles and images alike.


# %%
def draw_masks(table, shape, pixel_size):
    """Disks of each layer's particles, (layer, y, x) of 0 or 255."""
    masks = np.zeros((2, *shape), np.uint8)
    y, x = np.indices(shape)
    for p in table.itertuples():
        r = p.diameter_nm / pixel_size / 2
        window = tuple(slice(max(int(c - r), 0), int(c + r) + 2) for c in (p.y, p.x))
        inside = np.hypot(y[window] - p.y, x[window] - p.x) <= r
        masks[(p.layer - 1, *window)][inside] = 255
    return masks


scale = movie.shape[1:], movie.pixel_size
true_masks = np.stack([draw_masks(t, *scale) for _, t in truth.groupby("frame")])

# %% [markdown]
# Every score has a weakness, so we score three more answers: nothing at all; the truth without its second
# layer; and every true particle in both layers, the trap of {doc}`chapter 5 <05_unet>`.

# %%
one_layer = truth[truth["layer"] == 1]
both = pd.concat([truth.assign(layer=k) for k in (1, 2)])
union = true_masks.max(axis=1, keepdims=True).repeat(2, axis=1)
answers = {
    "moirelib": (result.particles, np.asarray(result.layers)),
    "nothing": (truth.iloc[:0], np.zeros_like(true_masks)),
    "layer 1 of the truth": (one_layer, true_masks * np.uint8([1, 0])[:, None, None]),
    "truth, in both layers": (both, union),
}
rows = {
    name: score_layers(found, layers, truth, true_masks, diameter, field)
    for name, (found, layers) in answers.items()
}
pd.DataFrame(rows).T.round(3)

# %% [markdown]
# Pixel accuracy favours empty answers, because most pixels of most layers are empty. `assignment` looks only at
# the particles found, so it does not see that one is missing or there twice. The layer-resolved F1 is lower for all
# three. But it weighs layers by their number of particles, so a missing small second layer costs little. Quote it
# together with the mask IoU, which is averaged over layers, and use the other scores to see *where* something fails.

# %% mystnb={"figure": {"caption": "Right and wrong particles in the sample's first frame. Filled circles are found in their own layer (blue and orange); crosses are true particles that were missed or given to the other layer; black squares are particles that do not exist. Marks at the border are shown but do not count in the scores.", "name": "fig-errors"}}
fig, ax = plt.subplots(figsize=(5.6, 5), layout="constrained")
plot.show_frame(frame, movie.pixel_size, ax)
for k, color in enumerate(plot.LAYER_COLORS, start=1):
    found, true = (t[t["layer"] == k] for t in (first, true_first))
    i, j = match(found[["y_nm", "x_nm"]], true[["y_nm", "x_nm"]], 0.3 * diameter)
    good, missed, false = found.iloc[i], true.drop(true.index[j]), found.drop(found.index[i])
    ax.scatter(
        good["x"],
        good["y"],
        s=22,
        color=color,
        edgecolors="white",
        label=f"layer {k}, right: {len(good)}",
    )
    ax.scatter(
        missed["x"],
        missed["y"],
        s=45,
        marker="x",
        color=color,
        lw=2,
        label=f"missed: {len(missed)}",
    )
    ax.scatter(
        false["x"],
        false["y"],
        s=22,
        marker="s",
        color="black",
        edgecolors=color,
        label=f"false: {len(false)}",
    )
ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=2, frameon=False)
plt.show()

# %% [markdown]
# ## A real frame
#
# The real frame used in this book shows one layer of standing particles, with an uneven beam, bright and dark liquid
# and correlated noise {cite:p}`ou2020`. A single layer is a hard test for a program that separates two, because the
# program must report one layer. `fetch` takes the file from the folder named by `MOIRELIB_DATA`, or downloads it.

# %%
try:
    real = moirelib.read_movie(data.fetch("np_lattice_2p593nm.tif"))
    counts = real.frame(0).astype(float) - 32768  # the file stores zero counts as 32768
except OSError:
    real = None

# %% tags=["remove-input"] mystnb={"markdown_format": "myst"}
from IPython.display import Markdown, display

if real is None:
    missing = f"""```{{admonition}} The real frame is not at hand
:class: warning
This page was built without it. Two figures and their numbers are left out: the particles found in the real frame, with
their lattice compared with the frame's Fourier transform, and a Moiré made from the real frame and taken apart. To see
them, run the chapter with access to the internet, or save
[the published file]({data.REGISTRY["np_lattice_2p593nm.tif"].url}) as `np_lattice_2p593nm.tif` in a folder and set the
environment variable `MOIRELIB_DATA` to that folder.
```"""
    display(Markdown(missing))

# %%
if real is not None:
    shown = counts[420:920, 60:560] if FAST else counts  # fast: within the lattice
    taken_apart = moirelib.decompose(shown, pixel_size=real.pixel_size)
    table, summary = taken_apart.particles, taken_apart.summary
    print(f"{len(table)} particles, {np.mean(table['layer'] == 1):.1%} of them in layer 1")
    print(summary["note"])

# %% mystnb={"figure": {"caption": "Real liquid-phase TEM frame of one layer, and the particles found in it: blue in layer 1, orange in layer 2. Right, a part of it enlarged.", "name": "fig-real-particles"}}
if real is not None:
    fig, axes = plt.subplots(1, 2, figsize=(9.5, 4.8), layout="constrained")
    plot.show_frame(shown, real.pixel_size, axes[0])
    plot.show_particles(table, axes[0], real.pixel_size)
    start = len(shown) // 2 - 100
    enlarged = shown[start : start + 200, start : start + 200]
    plot.show_frame(enlarged, real.pixel_size, axes[1])
    near = table.assign(y=table["y"] - start, x=table["x"] - start)
    plot.show_particles(near, axes[1], real.pixel_size, linewidths=2)

# %% [markdown]
# The lattice gives a check that needs no truth. The distance between neighbouring lattice rows, $d_{10}$, is $\sqrt 3/2$
# {term}`spacings <spacing>`. The first ring of Bragg peaks in the frame's Fourier transform lies at its inverse, and the
# Fourier transform does not depend on the particles found:


# %%
def first_ring(frame, pixel_size, between):
    """Period (nm) of a frame's strongest ring of Fourier components with periods between two values (nm)."""
    flat = frame / gaussian_filter(frame, 75) - 1
    power = np.abs(np.fft.fft2(flat * np.outer(*(np.hanning(n) for n in frame.shape)))) ** 2
    q = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n, pixel_size) for n in frame.shape), indexing="ij"))
    ring = (q > 1 / between[1]) & (q < 1 / between[0])
    peaks = power[ring] ** 2  # squared, so that the background between the peaks hardly counts
    return 1 / np.average(q[ring], weights=peaks)


if real is not None:
    spacing = summary["spacing_nm"]["layer_1"]
    if spacing is None:
        print("no lattice found")
    else:
        print(
            f"spacing {spacing:.1f} nm, d10 {spacing * np.sqrt(3) / 2:.1f} nm from the particles, "
            f"{first_ring(shown, real.pixel_size, (85, 130)):.1f} nm from the Fourier transform"
        )
    print(
        f"fitted diameter {table['diameter_nm'].median():.1f} nm, median position error "
        f"{table[['y_std_nm', 'x_std_nm']].stack().median():.1f} nm"
    )

# %% [markdown]
# ## A real frame made into two layers
#
# Nobody knows the truth of a real Moiré frame. But we can make one with known truth from a real single layer: divide
# the frame by its smooth background, so that the {term}`transmission` of each particle remains, turn a copy of it, and
# multiply. Transmissions of thin layers multiply, so the product is the image of two such layers; its background,
# noise and particles are real. We call it a {term}`semi-real Moiré`. The turned copy is smoothed a little; otherwise its
# noise would count twice.
#
# The division gives the transmission only if counts are zero without light; therefore we subtracted the offset above. In
# NumPy and SciPy the idea takes four lines, here for the square of the frame that holds most of the lattice:

# %%
from scipy.ndimage import rotate

if real is not None:
    corner, edge, size = ((0, 0), 500, 350) if FAST else ((246, 46), 708, 500)
    part = shown[corner[0] : corner[0] + edge, corner[1] : corner[1] + edge]
    middle = slice((edge - size) // 2, (edge + size) // 2)  # which the turned copy fills
    background = gaussian_filter(part, 75)
    layer = part / background
    turned = rotate(gaussian_filter(layer, 5), -15, reshape=False, order=1, mode="nearest")
    product = (layer * turned * background)[middle, middle]

# %%
if real is not None:
    moire = moirelib.semi_real_moire(part, 30, twist_angle=15, size=size)
    inner = (slice(50, -50),) * 2
    agreement = np.corrcoef(moire.frame[inner].ravel(), product[inner].ravel())[0, 1]
    split = moirelib.decompose(moire.frame, pixel_size=real.pixel_size)
    print(f"correlation with the four lines {agreement:.3f}")
    print(split.summary["note"])

# %% [markdown]
# Its truth is as good as the decomposition of the single layer: the particles found there lie in layer 1, and, turned by
# the known angle, in layer 2. (The image does not show which layer is the first; the better of the two namings
# counts. The benchmark below takes its truth from an independent method.)

# %%
if real is not None:
    source = table[["y", "x"]].to_numpy() - corner - moire.origin
    known = pd.concat(
        [
            pd.DataFrame(points, columns=["y", "x"]).assign(layer=k, frame=0)
            for k, points in ((1, source), (2, moire.turn(source)))
        ]
    )
    known = known[
        (known[["y", "x"]] > -0.5).all(axis=1) & (known[["y", "x"]] < size - 0.5).all(axis=1)
    ]
    known = known.assign(y_nm=known["y"] * real.pixel_size, x_nm=known["x"] * real.pixel_size)
    width = table["diameter_nm"].median()
    semi = score_particles(split.particles, known, width, (size * real.pixel_size,) * 2)
    print(pd.Series(semi).round(3).to_string())

# %% mystnb={"figure": {"caption": "Semi-real Moiré, twist 15°. Top, the product and the two real transmissions that made it. Bottom, the product with the particles found, and the two layers that moirelib gives. Layers are named by their extent, which is equal here, so the layers of the two rows may be exchanged.", "name": "fig-semi-real"}}
if real is not None:
    fig, axes = plt.subplots(2, 3, figsize=(9, 6.2), layout="constrained")
    panels = [moire.frame, *(gaussian_filter(t, 3) for t in moire.transmissions)]
    for ax, panel, title in zip(
        axes[0], panels, ("semi-real Moiré", "known layer", "known layer, turned"), strict=True
    ):
        plot.show_frame(panel, real.pixel_size, ax, title=title)
    plot.show_split(
        moire.frame, np.asarray(split.layers[0]), real.pixel_size, axes[1], split.particles
    )
    axes[1, 0].set_title("particles found", fontsize=10)

# %% [markdown]
# ## Against other methods
#
# One method alone proves little. The benchmark takes the same scenes apart with several methods, in one run. Its scenes
# come from seeds that no network was trained on, in families: the published recipe of standing rods, translucent spheres,
# the same spheres at a third of the dose, at twists of 1 to 3 degrees, with many vacancies, behind clouds, other shapes,
# and semi-real Moirés. The methods are
#
# - **moirelib**, which is told only the pixel size;
# - **Bragg filtering**, the usual way by hand: pick the two hexagons of Bragg peaks in the Fourier transform, filter,
#   and take the maxima of both filtered images;
# - **trackpy + true lattices**: particles found by trackpy {cite:p}`allan_trackpy`, each given to the layer of the nearest
#   true particle. No real method knows this layer; the row shows the limit of trackpy's detection;
# - **everything in both**: trackpy's finds in both layers, the lower limit;
# - **fit told all particles**: moirelib's fit of the frame, started from the true particles in their true layers. It
#   shows the limit of the fit when no particle is missed and no layer is wrong. It is a yardstick, not a strict bound:
#   a fit that had to find its particles may end slightly above or below it;
# - **networks**, trained on our library and used as such networks are, with their channels taken as layers: *published
#   U-Net*, a classic one of 31 million parameters with fixed channel names, as in published work on liquid-phase TEM;
#   *two decoders, soft minimum*, similar to Gomb-Net {cite:p}`houston2025`; moirelib's own architecture with
#   *fixed channels*, and, trained for a short time only, with the *soft minimum* and the *hard minimum*; and
#   **moirelib's network alone**, the shipped weights without the lattices and the fit.
#
# All methods but moirelib also get the true diameter. The truth of the semi-real Moirés is what trackpy finds in the
# single layer. Their scenes are crops of one frame, so their intervals say little about other frames. Their true masks
# are cut at half the mean particle's depth, while fitted outlines go to its foot; so moirelib has the lowest mask scores
# there. These scenes are not new to moirelib either, since some rules of the fit were set with that frame in view.
#
# The benchmark wrote everything below to a file; each method was run at the commit printed here. The seconds come from
# separate runs, some of them beside other work; compare them by orders of magnitude only.
# {doc}`appendix_benchmarks` has a shorter table, and says what it does not show.

# %%
bench = json.loads(data.path("bench_layers.json").read_text(encoding="utf-8"))
print(f"{bench['scenes']} scenes of each family, seed {bench['seed']}")
print("seconds measured on", bench["hardware"])
parts = {"families": bench["families"]} | bench["sweeps"]  # of families, of twists, of doses, …
commits = {}
for part, cells in parts.items():
    for method, row in (item for cell in cells.values() for item in cell.items()):
        commits.setdefault((part, row["commit"]), set()).add(method)
for (part, commit), methods in commits.items():
    print(f"{part} scored at commit {commit}:", ", ".join(sorted(methods)))
# Not a method: it shows further down how much of the limit is due to sizes.
CEILING = "fit told all particles and sizes"
sized = {family: methods.pop(CEILING, None) for family, methods in bench["families"].items()}


def with_interval(value):
    """Mean, and half the bootstrap interval of 95 % over scenes."""
    if value is None or value["mean"] is None:
        return "–"
    return f"{value['mean']:.3f} ± {(value['high'] - value['low']) / 2:.3f}"


rows = {
    family: {method: with_interval(row.get("f1")) for method, row in methods.items()}
    for family, methods in bench["families"].items()
}
pd.DataFrame(rows).transpose()

# %% [markdown]
# The table shows the layer-resolved F1, ± half an interval of 95 % over scenes. Here are other scores, as plain means
# over the families, and the result for the whole real frame of one layer:

# %%
METRICS = ("f1", "f1_agnostic", "assignment", "mask_accuracy", "mask_iou", "rmse_nm", "s_per_frame")
long = [
    {"method": method, "family": family, **{m: (row.get(m) or {}).get("mean") for m in METRICS}}
    for family, methods in bench["families"].items()
    for method, row in methods.items()
]
means = pd.DataFrame(long).set_index(["method", "family"]).astype(float)
if whole := bench.get("real_frame"):  # missing if the benchmark ran without the real frame
    share, seconds = whole["in_one_layer"], whole["s"]
    print(f"real frame: {whole['particles']} particles, {share:.1%} in one layer, {seconds:.0f} s")
means.groupby("method", sort=False).mean().round(3)

# %% [markdown]
# The next table shows how much each network saw in training, and on which machine. The amounts differ: most of the other
# networks saw nearly twice as many images as moirelib's. The short trainings with the soft and the hard minimum, made
# for chapter 5, saw far fewer. All weights together are too large for this repository. Where they are missing,
# `make bench-layers` trains each network anew, for as many steps as moirelib's, and scores those.

# %%
learned = {
    name: about.get("training", {}) | {"parameters": f"{about['parameters']:,}"}
    for name, about in bench["methods"].items()
    if about["parameters"]
}
COLUMNS = ["parameters", "steps", "images", "hours", "hardware"]
pd.DataFrame(learned, index=COLUMNS).transpose()

# %% [markdown]
# How much could better detection and better layer assignment gain? Compare moirelib's layer images with those of
# the same fit started from all true particles in their true layers. Where the two are close, the outlines limit the
# score, not missing particles or wrong layers. The last column of each score, where it was measured, draws disks of
# the true diameters at the fitted positions. For spheres and rods, position noise alone causes the rest of the gap;
# better sizes would not close it. (Our aims were a mask IoU of 0.95 for the first two families and 0.92 at a third of
# the dose, and a pixel accuracy of 0.985, 0.98 and 0.97.)

# %%
SHOWN = ["mask_accuracy", "mask_iou"]
pairs = means.loc[["moirelib", "fit told all particles"], SHOWN].unstack("method")
for metric in SHOWN:
    pairs[metric, CEILING] = [row and row[metric]["mean"] for row in map(sized.get, pairs.index)]
pairs = pairs.reindex(list(bench["families"]))[SHOWN].astype(float)
pairs.round(3).astype(object).fillna("–")


# %%
def draw_methods(ax, cells, metric="f1"):
    """Plot each method's metric with its interval; cells are {key: {method: {metric: ...}}}."""
    methods = list(dict.fromkeys(m for row in bench["families"].values() for m in row))
    colors = (
        "#0072B2",
        "#E69F00",
        "#009E73",
        "#999999",
        "#CC79A7",
        "#D55E00",
        "#56B4E9",
        "#000000",
        "#F0E442",
        "#882255",
        "#44AA99",
    )
    numeric = all(isinstance(key, float) for key in cells)
    for n, method in enumerate(methods):
        found = [
            (k, key, row.get(method, {}).get(metric)) for k, (key, row) in enumerate(cells.items())
        ]
        found = [(k, key, v) for k, key, v in found if v and v["mean"] is not None]
        if not found:
            continue
        x = [key if numeric else k + 0.08 * (n - (len(methods) - 1) / 2) for k, key, _ in found]
        mean, low, high = np.array([[v["mean"], v["low"], v["high"]] for *_, v in found]).T
        bars = np.abs([mean - low, high - mean])
        style = {"fmt": "-" * numeric + "os^Dv<>PXhp"[n % len(colors)], "ms": 4, "capsize": 2}
        ax.errorbar(x, mean, bars, color=colors[n % len(colors)], label=method, **style)
    ax.axhline(2 / 3, ls=":", color="0.5")
    ax.set(ylabel="layer-resolved F1", ylim=(0, 1.02))


# %% mystnb={"figure": {"caption": "Layer-resolved F1. Top, all methods, by family of scenes; bottom, four of them, on spheres against twist angle, dose and width of the field. Bars are intervals of 95 % over scenes. The dotted line, 2/3, is everything in both layers with perfect detection. The method of that name may lie above it, because a find near particles of both layers counts in both.", "name": "fig-methods"}}
SWEEPS = {
    "twist_deg": "twist angle / degrees",
    "dose": "dose / (e/Å² per frame)",
    "field_px": "field / px",
}
fig, axes = plt.subplot_mosaic(
    [["families"] * 3, list(SWEEPS)], figsize=(9, 7.5), layout="constrained", height_ratios=(1.3, 1)
)
draw_methods(axes["families"], bench["families"])
axes["families"].set_xticks(
    range(len(bench["families"])), bench["families"], rotation=20, ha="right"
)
for k in range(1, len(bench["families"])):
    axes["families"].axvline(k - 0.5, color="0.85", lw=0.8, zorder=0)
axes["families"].legend(frameon=False, ncols=3, loc="lower left", fontsize=8)
for name, label in SWEEPS.items():
    values = dict(sorted((float(k), v) for k, v in bench["sweeps"][name].items()))
    draw_methods(axes[name], values)
    axes[name].set_xscale("linear" if name == "twist_deg" else "log")
    if name != "twist_deg":
        axes[name].set_xticks(list(values), [f"{v:g}" for v in values])
        axes[name].minorticks_off()
    axes[name].set(xlabel=label, ylabel="layer-resolved F1" if name == "twist_deg" else None)
plt.show()

# %% [markdown]
# How to read it: a method that finds particles but not layers lies near the dotted line, or below it if its detection
# fails too. The distance between `f1_agnostic` and `f1` is the loss by particles given to the wrong layer. Particles
# given to both layers lower both scores alike. At small twists Bragg filtering loses most: its two sets of peaks overlap
# once a Moiré period no longer fits into the field. moirelib's mean at 1 and 2 degrees comes from mostly right frames
# and a few in which whole regions went to the other layer; `layer_confidence` does not see all of these.
#
# What makes the difference? moirelib's network alone and moirelib differ by the lattices and the fit. The network sees
# a few spacings around a particle; where it is not sure, both channels respond at half strength. The lattices use the
# whole field and decide which half is right. The fit then tests every missing and every surplus particle against the
# frame. One scene shows it:

# %% mystnb={"figure": {"caption": "A part of a held-out simulated frame (the one of {numref}`fig-naive`), its true layers, and the layers found by four methods; in brackets the layer-resolved F1 of the whole frame. Layer 1 blue, layer 2 orange, pale green where both have a particle.", "name": "fig-example"}}
example, about = data.benchmark_example()
seen = {
    f"{name} ({about['scores'][name]['f1']:.2f})": example[name]
    for name in ("published U-Net", "moirelib's network alone", "Bragg filtering", "moirelib")
}
fig, axes = plt.subplots(2, 3, figsize=(9, 6.4), layout="constrained")
plot.show_frame(example["frame"], about["pixel_size"], axes[0, 0], title="raw frame")
for ax, (title, masks_of) in zip(
    axes.flat[1:], ({"true layers": example["truth"]} | seen).items(), strict=True
):
    plot.show_layers(masks_of / 255, about["pixel_size"], ax, title=title)

# %% [markdown]
# ## Wrong input is reported in one line
#
# With wrong input the program stops before anything is written. One line says what was wrong, where, and what to do.
# On the command line it is the only line, and the exit code is 2.

# %%
bad_inputs = {
    "no pixel size": lambda: moirelib.decompose(frame),
    "particles too small": lambda: moirelib.decompose(frame, pixel_size=1000),
    "a frame of NaN": lambda: moirelib.decompose(
        np.where(frame > 300, np.nan, frame), pixel_size=movie.pixel_size
    ),
    "no such file": lambda: moirelib.read_movie("my_movie.dm4"),
}
for name, call in bad_inputs.items():
    try:
        call()
    except (ValueError, OSError) as error:
        print(f"{name}: {type(error).__name__}: {error}")

# %% [markdown]
# ## Save, and open in Fiji
#
# `save` writes four files, or none if something fails on the way. The layer movies are TIFF files that carry the scale
# and the frame time; `read_movie` confirms it.

# %%
with tempfile.TemporaryDirectory() as folder:
    result.save(Path(folder) / "sample_layers")
    for file in sorted((Path(folder) / "sample_layers").iterdir()):
        print(f"{file.name:15}{file.stat().st_size / 1000:8.0f} kB")
    again = moirelib.read_movie(Path(folder) / "sample_layers" / "layer_1.tif")
    print(again.shape, again.pixel_size, "nm/pixel", again.frame_time, "s/frame")

# %% [markdown]
# The same from the command line, for a file that carries its pixel size and for one that does not:
#
# ```
# moirelib decompose my_movie.dm4 --out my_movie_layers
# moirelib decompose my_movie.tif --pixel-size 0.52 --out my_movie_layers
# ```
#
# In Fiji, open `layer_1.tif` and `layer_2.tif` by drag and drop: *Analyze ▸ Set Scale* shows the nm, and *Image ▸
# Color ▸ Merge Channels* lays them over each other. `particles.csv` opens in any spreadsheet, and in Fiji with *File ▸
# Import ▸ Table*.
#
# ## Exercises
#
# **1.** Less {term}`dose`. Binomial thinning of a frame's counts gives the frame at a lower dose, apart from the
# noise of the camera itself. The sample's camera adds an offset of 100 and gives one count per electron. Keep all, a
# tenth, a hundredth and a thousandth of the electrons in a part of its first frame, and compare the scores. Which
# scores fall first?

# %% tags=["hide-cell"]
rng = np.random.default_rng(6)
edge = 150 if FAST else frame.shape[0]
electrons = np.clip(frame[:edge, :edge] - 100.0, 0, None).astype(int)
part = true_first[true_first[["y", "x"]].lt(edge - 0.5).all(axis=1)]
for share in (1, 0.1, 0.01, 0.001):
    thinned = rng.binomial(electrons, share)
    found = moirelib.decompose(thinned, pixel_size=movie.pixel_size, diameter=diameter).particles
    scores = score_particles(found, part, diameter, (edge * movie.pixel_size,) * 2)
    print(f"{share:5g}", {k: round(v, 3) for k, v in scores.items()})

# %% [markdown]
# **2.** A wrong pixel size. What happens to the positions in nm and to the diameters if you give 1.5 nm instead of the
# movie's pixel size? Can the program notice it?

# %% tags=["hide-cell"]
wrong = moirelib.decompose(frame[:192, :192], pixel_size=1.5).summary
for name in ("spacing_nm", "diameter_nm"):  # a corner's diameter is less certain than its spacing
    print(f"{name:12} {wrong[name]} instead of {result.summary[name]}")
ratio = 1.5 / movie.pixel_size
print(f"all lengths grow by {ratio:.3f}: only someone who knows the particles can notice")

# %% [markdown]
# **3.** In which frame of the sample is the fraction of confident particles (`layer_confidence` above 0.9) lowest? Are
# confident particles more often right?

# %% tags=["hide-cell"]
confident = result.particles["layer_confidence"] > 0.9
print(confident.groupby(result.particles["frame"]).mean().round(3).to_string())
for name, part in (
    ("confident", result.particles[confident]),
    ("others", result.particles[~confident]),
):
    if len(part):
        right = score_particles(part, truth, diameter, field)["assignment"]
        print(f"{name}: {len(part)}, in the right layer: {right:.3f}")
    else:
        print(f"{name}: none in this movie")

# %% [markdown]
# ## Summary
#
# - `read_movie` opens all usual formats lazily; `decompose` returns lazy layer movies, a particle table and a summary.
# - The network finds the particle size; the lattices of all particles and the fit of the frame give layers, positions
#   and sizes. The layer movies are drawn from the table and agree with it.
# - Layer-resolved F1, assignment, mask accuracy, mask IoU and position RMSE answer different questions, and most of them
#   can be fooled. Quote the first for the whole and the others to show where it fails. Everything in both layers scores
#   2/3.
# - A real frame of one layer and a semi-real Moiré test the method on real pixels. This page shows both only if the real
#   frame was at hand when it was built.
#
# ## In practice
#
# - **Give the diameter** (`diameter=`, `--diameter`) if the estimate in `summary.json` is wrong. The estimate uses the
#   central part of three frames (first, middle and last); clouds, a large empty middle or two sizes of
#   particles mislead it.
# - **Give the number of layers** (`layers=`, `--layers`) if you know it. Then no other number is tried.
# - **Read the note in the summary first.** It says whether there is a second lattice, and whether the field holds a
#   Moiré period. With less than one period in view, positions are still good, but layers are a guess.
# - **Slanted columns look like two layers.** In the real frame most columns look elongated, and the network sees two
#   ends of one column. The ends of columns form lattices without a twist; two layers usually have one. Where two
#   lattices are that similar, the frame is fitted with one layer and with two, and the second layer is kept only if it
#   explains much more. So two real layers that coincide almost everywhere may be reported as one.
# - **Twists near 0° or 30°** with equal spacings are hard: at 30°, {term}`grains <grain>` turned either way look
#   alike; near 0°, the two lattices share one set of peaks.
# - **The semi-real Moiré is easier than a real one** in one respect: a real second layer is out of focus by its height,
#   and electrons scattered by two layers do not simply multiply.
# - **One to three frames take longest.** They show what all particles share, profile and blur. The other frames are
#   fitted with these values held fixed, each by itself. Memory holds a few frames and the table, however long the movie.
# - **Layer movies show outlines, not probabilities.** The table says how sure each particle is. Particles that are not
#   round are drawn as disks of the same area.
