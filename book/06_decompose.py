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
# - open a movie without loading it
# - split it into one movie per layer and a table of particles, with one call
# - score the result against the truth of a simulation, and learn what each score means
# - run a real frame of one layer, and a real frame made into two
# - save everything, and do the same from the command line and in Fiji
#
# Needs chapter 5 for the network · CPU · 1 minute · 1.3 GB
# ```

# %%
import json
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import moirelib
from moirelib import data, plot
from moirelib.scoring import mask_iou, match, score_particles
from moirelib.unet import WORKING_DIAMETER, load_weights, predict, resample

# %% [markdown]
# ## A movie is opened, not loaded
#
# `read_movie` reads Gatan dm3 and dm4, MRC, TIFF, EMD and SER files, most of them through RosettaSciIO
# {cite:p}`rosettasciio`, and takes the {term}`pixel size` and the time between frames from the file. The pixels stay
# on disk, behind a Dask array {cite:p}`rocklin2015`, until a frame is asked for; a movie larger than the memory is no
# problem. Our first movie ships with moirelib. It is simulated, and its truth comes with it: one row for each
# particle, {term}`layer` and {term}`frame`.

# %%
movie, truth = data.sample()
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
# ## The core: resize, predict
#
# Chapter 5's network knows particles about 12 pixels wide. So a frame is resampled until its particles have that size,
# and the network gives two probabilities for each pixel. That is all there is to the core:

# %%
frame = movie.frame(0)
diameter_px = truth["diameter_nm"].median() / movie.pixel_size
small = resample(frame, [round(n * WORKING_DIAMETER / diameter_px) for n in frame.shape])
network = load_weights()
channels = predict(network, small)
print(frame.shape, "->", small.shape, "->", channels.shape)

# %% mystnb={"figure": {"caption": "First frame of the sample, and the two channels of the network's output. They separate the layers, but channel 1 need not be layer 1, and may be so in one place and not in another.", "name": "fig-channels"}}
plot.show_split(frame, resample(channels, frame.shape), movie.pixel_size)
plt.gcf().axes[1].set_title("channel 1", fontsize=10)
plt.gcf().axes[2].set_title("channel 2", fontsize=10)
plt.show()

# %% [markdown]
# What remains is to find the size when nobody tells it, to find each particle, to decide its layer and to fit its
# position. The size is found by asking the network: at the right magnification, what it finds explains the image best.
# The rest is {doc}`chapter 7 <07_particles>`. `decompose` does all of it, frame by frame:

# %%
result = moirelib.decompose(movie)
print(json.dumps(result.summary, indent=1, ensure_ascii=False))

# %% [markdown]
# `result.layers` is `(t, layer, y, x)` with probabilities from 0 to 255, and lazy like the movie: an image is computed
# when you look at it. The network's channels are already exchanged where the lattices say so, so that layer 1 is the
# {term}`base layer` everywhere.

# %% mystnb={"figure": {"caption": "The same frame taken apart: raw frame with the particles found, layer 1 (blue) and layer 2 (orange). Circles have the fitted diameters.", "name": "fig-split"}}
first = result.particles[result.particles["frame"] == 0]
plot.show_split(frame, np.asarray(result.layers[0]), movie.pixel_size, particles=first)
plt.show()

# %% [markdown]
# `result.particles` is the measurement: a table with positions in pixels and nm, their standard deviations, diameters
# and two numbers about trust. `score` is the mean probability over the particle's core, and {term}`layer confidence`
# runs from 0.5, a guess, to 1. `particle` is the number of its {term}`track`, -1 where it was seen only once.

# %%
result.particles.round(2).sample(5, random_state=0)

# %% [markdown]
# ## How good is it?
#
# A score needs a rule for what counts as found. Ours: pairs of found and true particles are made one to one, at most
# 0.3 diameters apart, so that the total distance is smallest (the Hungarian algorithm {cite:p}`kuhn1955`); particles
# within half a diameter of the border do not count. From the pairs follow {term}`precision`, {term}`recall` and their
# harmonic mean, the {term}`F1 score`. In plain NumPy, for one frame and with layers ignored:


# %%
def f1_by_hand(found, true, diameter, field):
    """Positions (n, 2) in nm."""
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
# The number that matters is *layer-resolved*: a particle counts only if it is found in its own layer. `assignment` is
# the fraction of the particles found that are in the right one, and `rmse_nm` the {term}`RMSE` of their positions. For
# the layer images there is the {term}`IoU` with the true masks, which we draw from the truth as disks.


# %%
def draw_masks(table, shape, pixel_size):
    """Disks of each layer's particles, (layer, y, x) of bool."""
    masks = np.zeros((2, *shape), bool)
    y, x = np.indices(shape)
    for p in table.itertuples():
        r = p.diameter_nm / pixel_size / 2
        window = tuple(slice(max(int(c - r), 0), int(c + r) + 2) for c in (p.y, p.x))
        masks[(p.layer - 1, *window)] |= np.hypot(y[window] - p.y, x[window] - p.x) <= r
    return masks


scores = score_particles(result.particles, truth, diameter, field)
true_masks = np.stack(
    [draw_masks(t, movie.shape[1:], movie.pixel_size) for _, t in truth.groupby("frame")]
)
scores["mask_iou"] = mask_iou(np.asarray(result.layers), true_masks.astype(np.uint8) * 255)
print(pd.Series(scores).round(3).to_string())

# %% mystnb={"figure": {"caption": "Which particles of the sample's first frame are right. Filled circles are found in their own layer (blue and orange); crosses are true particles that were missed or given to the other layer, black squares are particles that are not there. Marks at the border are shown, but do not count in the scores.", "name": "fig-errors"}}
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
# and correlated noise {cite:p}`ou2020`. A single layer is a severe test of a program that separates two: it must say
# so. It is fetched from where it was published, or found in the folder named by `MOIRELIB_DATA`; without either, this
# section only says that it is missing.

# %%
try:
    real = moirelib.read_movie(data.fetch("np_lattice_2p593nm.tif"))
except OSError as error:
    real = None
    print("This section needs the real frame.", error)

if real is not None:
    taken_apart = moirelib.decompose(real)
    table, summary = taken_apart.particles, taken_apart.summary
    print(f"{len(table)} particles, {np.mean(table['layer'] == 1):.1%} of them in layer 1")
    print(summary["note"])

# %% mystnb={"figure": {"caption": "Real liquid-phase TEM frame of one layer, and the particles found in it: blue in layer 1, orange in layer 2. Right, a part of it enlarged.", "name": "fig-real-particles"}}
fig, axes = plt.subplots(1, 2, figsize=(9.5, 4.8), layout="constrained")
if real is None:
    for ax in axes:
        ax.text(0.5, 0.5, "the real frame is not at hand", ha="center")
        ax.axis("off")
else:
    plot.show_frame(real.frame(0), real.pixel_size, axes[0])
    plot.show_particles(table, axes[0], real.pixel_size)
    plot.show_frame(real.frame(0)[400:800, 250:650], real.pixel_size, axes[1])
    near = table.assign(y=table["y"] - 400, x=table["x"] - 250)
    plot.show_particles(near, axes[1], real.pixel_size, linewidths=2)

# %% [markdown]
# The lattice gives a check that needs no truth. Measured independently from the same frame, the distance between
# neighbouring lattice rows $d_{10}$ is 102 to 104 nm. Rows are $\sqrt 3/2$ {term}`spacings <spacing>` apart:

# %%
if real is not None:
    spacing = summary["spacing_nm"]["layer_1"]
    if spacing is None:
        print("no lattice found")
    else:
        print(
            f"spacing {spacing:.1f} nm, d10 {spacing * np.sqrt(3) / 2:.1f} nm (102 to 104 nm expected)"
        )
    print(
        f"fitted diameter {table['diameter_nm'].median():.1f} nm, median position error "
        f"{table[['y_std_nm', 'x_std_nm']].to_numpy().mean():.1f} nm"
    )

# %% [markdown]
# ## A real frame made into two layers
#
# Of a real Moiré frame nobody knows the truth. But a real single layer can be made into one of which we do: divide the
# frame by its smooth background, so that each particle's {term}`transmission` remains, turn a copy of it, and
# multiply. Transmissions of thin layers multiply, so the product is what two such layers would give; its background,
# noise and particles are real. We call it a {term}`semi-real Moiré`. The turned copy is smoothed a little, or its
# noise would count twice.
#
# In NumPy and SciPy the idea is four lines, here about the point (600, 400) in the middle of the lattice:

# %%
from scipy.ndimage import gaussian_filter, rotate

if real is not None:
    square = real.frame(0)[600 - 354 : 600 + 354, 400 - 354 : 400 + 354]
    background = gaussian_filter(square, 75)
    layer = square / background
    turned = rotate(gaussian_filter(layer, 5), -15, reshape=False, order=1, mode="nearest")
    product = (layer * turned * background)[
        104:604, 104:604
    ]  # the middle, which the turned copy fills

# %%
if real is not None:
    moire = moirelib.semi_real_moire(real.frame(0), 30, twist_angle=15, size=500, center=(600, 400))
    inner = (slice(50, -50),) * 2
    agreement = np.corrcoef(moire.frame[inner].ravel(), product[inner].ravel())[0, 1]
    split = moirelib.decompose(moire.frame, pixel_size=real.pixel_size)
    print(f"correlation with the four lines {agreement:.3f}")
    print(split.summary["note"])

# %% [markdown]
# Its truth is as good as the decomposition of the single layer: particles found there lie in layer 1, and, turned by
# the known angle, in layer 2. (That layer 1 is the first of the two is not in the image; the better of the two namings
# counts.)

# %%
if real is not None:
    source = table[["y", "x"]].to_numpy() - moire.origin
    known = pd.concat(
        [
            pd.DataFrame(points, columns=["y", "x"]).assign(layer=k, frame=0)
            for k, points in ((1, source), (2, moire.turn(source)))
        ]
    )
    known = known[(known[["y", "x"]] > -0.5).all(axis=1) & (known[["y", "x"]] < 499.5).all(axis=1)]
    known = known.assign(y_nm=known["y"] * real.pixel_size, x_nm=known["x"] * real.pixel_size)
    size = table["diameter_nm"].median()
    semi = score_particles(split.particles, known, size, np.array([500, 500]) * real.pixel_size)
    print(pd.Series(semi).round(3).to_string())

# %% mystnb={"figure": {"caption": "Semi-real Moiré, twist 15°. Top, the product and the two real transmissions that made it. Bottom, the product with the particles found, and the two layers that moirelib gives. Layers are named by their extent, which is equal here, so bottom and top may be exchanged.", "name": "fig-semi-real"}}
fig, axes = plt.subplots(2, 3, figsize=(9, 6.2), layout="constrained")
if real is None:
    for ax in axes.flat:
        ax.axis("off")
    axes[0, 1].text(0.5, 0.5, "the real frame is not at hand", ha="center")
else:
    panels = [moire.frame, *(gaussian_filter(t, 3) for t in moire.transmissions)]
    for ax, panel, title in zip(
        axes[0], panels, ("semi-real Moiré", "known layer", "known layer, turned"), strict=True
    ):
        plot.show_frame(panel, real.pixel_size, ax, title=title)
    plot.show_split(
        moire.frame, np.asarray(split.layers[0]), real.pixel_size, axes[1], split.particles
    )

# %% [markdown]
# ## What cannot work says so in one line
#
# Wrong input stops at once, before anything is written, with one line that says what was wrong, where, and what to do.
# On the command line it is the only line, and the exit code is 2.

# %%
bad_inputs = {
    "no pixel size": lambda: moirelib.decompose(frame),
    "particles too small": lambda: moirelib.decompose(frame, pixel_size=1000),
    "a frame of NaN": lambda: moirelib.decompose(
        np.where(frame > 300, np.nan, frame), pixel_size=1.367
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
# `save` writes four files, or none if something goes wrong on the way. The layer movies are TIFF files with the scale
# and the frame time in them, which a look with `read_movie` confirms.

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
# **1.** Less {term}`dose`. Thinning a frame's counts binomially is what a lower dose would have given, apart from the noise of
# the camera itself. The sample's camera adds an offset of 100 and gives one count per electron. Keep a half and a quarter of the
# electrons of its first frame, and watch the scores.

# %% tags=["hide-cell"]
rng = np.random.default_rng(6)
for share in (1.0, 0.5, 0.25):
    electrons = np.clip(frame - 100, 0, None).astype(int)
    thinned = rng.binomial(electrons, share)
    found = moirelib.decompose(thinned, pixel_size=movie.pixel_size, diameter=diameter).particles
    print(
        share,
        {k: round(v, 3) for k, v in score_particles(found, true_first, diameter, field).items()},
    )

# %% [markdown]
# **2.** A wrong pixel size. What happens to the positions in nm and to the diameters if 1.5 nm is given in place of
# 1.367? Does the program have a way to notice?

# %% tags=["hide-cell"]
wrong = moirelib.decompose(frame, pixel_size=1.5)
print(
    f"median diameter {wrong.particles['diameter_nm'].median():.1f} nm instead of {first['diameter_nm'].median():.1f} nm"
)
print(
    "all lengths grow by",
    round(1.5 / movie.pixel_size, 3),
    "- only someone who knows the particles can notice",
)

# %% [markdown]
# **3.** In which frames of the sample, if any, does the fraction of confident particles (`layer_confidence` above 0.9)
# fall furthest? And are confident particles more often right?

# %% tags=["hide-cell"]
confident = result.particles["layer_confidence"] > 0.9
print(confident.groupby(result.particles["frame"]).mean().round(3).to_string())
for name, part in (
    ("confident", result.particles[confident]),
    ("others", result.particles[~confident]),
):
    print(
        name,
        len(part),
        "in the right layer:",
        round(score_particles(part, truth, diameter, field)["assignment"], 3),
    )

# %% [markdown]
# ## Summary
#
# - `read_movie` opens any usual format lazily; `decompose` returns lazy layer movies, a particle table and a summary.
# - The core is a resize and a network; sizes, layer names and positions come from looking at all particles together.
# - Layer-resolved F1, assignment, mask IoU and position RMSE answer different questions. Quote the first for the
#   whole, the others to say where it fails.
# - A real single layer comes back as one layer, or the summary says otherwise; a semi-real Moiré tests two layers on
#   real pixels.
#
# ## In practice
#
# - **Give the diameter** (`diameter=`, `--diameter`) if the estimate in `summary.json` is wrong. It is made on the
#   middle of the first, the middle and the last frame; clouds, a large empty middle or two sizes of particles mislead it.
# - **Read the note in the summary first.** It says whether a second lattice was found, and whether the field holds a
#   Moiré period. With less than one period in view, positions are still good, and layers are a guess.
# - **Twists near 0° or 30°** with equal spacings leave little to tell the lattices apart: at 30°, {term}`grains
#   <grain>` turned either way look alike; near 0°, the two lattices have one set of peaks.
# - **The semi-real Moiré is easier than reality** in one respect: real second layers are out of focus by their height,
#   and electrons that two layers scatter do not simply multiply.
# - Movies are processed frame by frame, at a second or a few per frame on a CPU; the network's output is kept in a
#   temporary folder until the result is deleted, one byte per working pixel and layer.
