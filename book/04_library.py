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
# (library)=
# # Make a training library
#
# ```{admonition} In this chapter
# :class: tip
# - draw hundreds of different frames, each with its truth, from one configuration and one seed
# - make them in parallel, and go on after an interruption
# - check that one seed gives the same bytes again
# - look at what was drawn before training on it
#
# Needs [chapter 3](03_liquid) · CPU · 20 seconds (fast), five minutes (full) · 0.8 GB
# ```
#
# A network learns what varies in its training images, and takes for granted what does not. The library therefore
# varies everything that varies from one microscope, specimen and day to the next, and more widely than any one
# experiment does.

# %%
import json
import os
import tempfile
import time
from dataclasses import fields
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import zarr

from moirelib.library import LibraryConfig, make_library, open_library, simulate_frame
from moirelib.plot import LAYER_COLORS, show_frame, show_library

FAST = os.environ.get("MOIRELIB_FAST", "1") != "0"
plt.rcParams["figure.dpi"] = 144
SEED = 4

# %% [markdown]
# ## A configuration is a set of ranges
#
# `LibraryConfig` says from which range each parameter is drawn. A pair is the low and high end of a uniform
# distribution; sizes and doses, which span decades, are uniform in their logarithm. `.fast()` is a toy of 24 images,
# `.full()` holds 400 images of 512 pixels, and `.training()` is what the shipped {term}`weights` were trained on.

# %%
config = LibraryConfig.fast() if FAST else LibraryConfig.full()
for entry in fields(config):
    if entry.name != "lattice":
        print(f"{entry.name:16s} {getattr(config, entry.name)}")

# %% [markdown]
# The ranges of the lattices themselves stand in `config.lattice` ([chapter 1](01_lattices)). The {term}`pixel size`
# is not in the list: it follows from the particle's size in nm and in pixels. All later work resamples images so that
# particles are about a dozen pixels wide, so that size in pixels is what matters to the network.
#
# ## One frame is one seed
#
# `simulate_frame` walks the road of chapters 1 to 3 once: specimen, clean image, raw frame. It returns the frame with
# the truth: one mask per {term}`layer`, the particles, and every parameter drawn. (`None` as the mean free path of
# gold stands for the multislice table of [chapter 2](02_multislice); a fifth of the images use it.)

# %%
one = simulate_frame(config, seed=(SEED, 16))
print(f"frame {one.frame.shape} {one.frame.dtype}, masks {one.masks.shape} {one.masks.dtype}")
for name in (
    "pixel_size_nm",
    "shape",
    "twist_deg",
    "spacing_nm",
    "defocus_nm",
    "mean_free_path_nm",
):
    print(f"{name:18s} {one.parameters[name]}")

# %% mystnb={"figure": {"caption": "One image of the library and its truth: the raw frame that the network sees, and the masks of layers 1 and 2 that it should return.", "name": "fig-one-image"}}
fig, axes = plt.subplots(1, 3, figsize=(8, 3), layout="constrained")
show_frame(one.frame, one.pixel_size, axes[0], title="raw frame")
for number, ax in enumerate(axes[1:], start=1):
    show_frame(one.masks[number - 1], one.pixel_size, ax, title=f"mask of layer {number}")
    ax.images[0].set_clim(0, 255)
plt.show()

# %% [markdown]
# ## Many frames are many independent seeds
#
# Image $i$ of a library with seed $s$ is drawn from the pair $(s, i)$. No image depends on another, so they can be
# made in any order by any number of workers. The core of a parallel library is therefore short. In one process:

# %%
serial = [simulate_frame(config, seed=(SEED, i)) for i in range(3)]
print("counts in the first three frames:", [int(image.frame.sum()) for image in serial])

# %% [markdown]
# `make_library` hands such work to Dask {cite:p}`rocklin2015`, in batches of eight images, to two processes here, and
# writes each image into one chunk of a Zarr store {cite:p}`zarr`. A store is a folder; compressed chunks are files in
# it, and any part can be read without the rest. With `scheduler="tcp://..."` the same call uses a cluster.

# %%
folder = tempfile.TemporaryDirectory()
path = Path(folder.name) / "library"
start = time.perf_counter()
library = make_library(path, config, seed=SEED, workers=2, progress=False)
seconds = time.perf_counter() - start
print(f"{config.images} images of {config.shape[0]} × {config.shape[1]} pixels in {seconds:.0f} s")
print(f"{sum(f.stat().st_size for f in path.rglob('*') if f.is_file()) / 1e6:.1f} MB on disk")

# %% [markdown]
# The order of work left no trace: image by image, the store holds what the loop above made.

# %%
for i, image in enumerate(serial):
    assert np.array_equal(library["frame"][i], image.frame)
    assert np.array_equal(library["mask"][i], image.masks)
print("the first three images equal those made in one process, byte for byte")

# %% [markdown]
# ## What is stored
#
# | name | shape | what it is |
# |---|---|---|
# | `frame` | (n, y, x) uint16 | raw frames, in counts |
# | `mask` | (n, layer, y, x) uint8 | truth; 255 where a pixel is fully inside a particle, less on its rim |
# | `pixel_size` | (n,) float64 | nm per pixel |
# | `done` | (n,) uint8 | 1 once an image and its truth are complete |
# | `truth/i.json` | | parameters of image `i` and its particles |
# | attributes | | configuration and seed: all that is needed to make it again |

# %%
for name in ("frame", "mask", "pixel_size", "done"):
    print(f"{name:10s} {library[name].shape} {library[name].dtype}")
print("seed", library.attrs["seed"])
truth = json.loads((path / "truth" / "0.json").read_text(encoding="utf-8"))
print(f"image 0: {len(truth['particles']['layer'])} particles; keys: {', '.join(truth)}")

# %% [markdown]
# ## Look before you train
#
# Errors in a simulation are learned faithfully. A few minutes spent on looking at what was drawn save days. Are there
# images in which you cannot see the particles at all? A few are useful; many teach the network to guess.

# %% mystnb={"figure": {"caption": "Six random images of the library with the true outlines of layer 1 (blue) and layer 2 (orange). Magnification, dose, contrast, blur and background differ from image to image.", "name": "fig-library"}}
show_library(library, count=6, seed=1)
plt.show()

# %% mystnb={"figure": {"caption": "What was drawn: particle diameter in pixels, dose, and twist of the images of this library. Few images leave gaps; the training library has more.", "name": "fig-drawn"}}
truths = [
    json.loads(file.read_text(encoding="utf-8")) for file in sorted((path / "truth").glob("*.json"))
]
columns = {
    "particle diameter (px)": [t["diameter_nm"] / t["pixel_size_nm"] for t in truths],
    "dose (e/Å²)": [t["camera"]["dose"] for t in truths],
    "twist (°)": [t["twist_deg"] for t in truths],
}
fig, axes = plt.subplots(1, 3, figsize=(8, 2.6), layout="constrained")
for ax, (label, values) in zip(axes, columns.items(), strict=True):
    values = np.array(values, float)
    values = values[np.isfinite(values)]  # a single layer has no twist
    if label.startswith("dose"):
        ax.set_xscale("log")
    bins = (
        np.geomspace(3, 300, 9)
        if label.startswith("dose")
        else np.linspace(*((8, 40) if "px" in label else (0, 30)), 9)
    )
    ax.hist(values, bins, color=LAYER_COLORS[0], edgecolor="white")
    ax.set(xlabel=label, ylabel="images" if ax is axes[0] else "")
plt.show()

# %% [markdown]
# ## Interrupted work goes on
#
# A library of thousands of images takes from minutes to hours, and machines restart. Because `done` is set only after
# an image and its truth are written, a killed run leaves a store in which every image is either complete or marked as
# missing. We make such a store by hand: we erase eight images and their marks.

# %%
before = library["frame"][8:16], library["mask"][8:16]
half_done = zarr.open_group(str(path / "images.zarr"), mode="r+")
half_done["done"][8:16] = 0
half_done["frame"][8:16] = 0
half_done["mask"][8:16] = 0
try:
    open_library(path)
except ValueError as error:
    print(str(error).replace(str(path), "library"))

# %% [markdown]
# The same call as before makes only what is missing, and the result is the same to the last byte:

# %%
start = time.perf_counter()
library = make_library(path, config, seed=SEED, workers=2, progress=False)
print(f"8 images in {time.perf_counter() - start:.0f} s")
same = np.array_equal(before[0], library["frame"][8:16]) and np.array_equal(
    before[1], library["mask"][8:16]
)
print("same bytes as before:", same)

# %% [markdown]
# Another seed or configuration in the same folder would mix two libraries, so it is refused:

# %%
try:
    make_library(path, config, seed=SEED + 1, progress=False)
except ValueError as error:
    print(str(error).replace(str(path), "library"))

# %% [markdown]
# ## The full library
#
# On the command line the same function is `moirelib library`. The shipped weights ([chapter 5](05_unet)) were trained
# on the library that this command makes:
#
# ```
# moirelib library --out library --images 3000 --size 448 --seed 1
# ```
#
# Interrupt it with Ctrl-C and give the same command to go on. `--workers` sets the number of processes, and
# `--scheduler` the address of a Dask scheduler whose workers see the folder. Ours took 20 minutes with two workers on
# two cores.

# %% [markdown]
# ## Exercises
#
# **1.** Your movies all come from one instrument: 25–40 electrons/Å², standing rods. Write a configuration for it and
# draw one frame. What would you lose by training on it alone?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
from dataclasses import replace

from moirelib.lattice import LatticeConfig

mine = replace(config, dose=(25.0, 40.0), lattice=LatticeConfig.published())
image = simulate_frame(mine, seed=21)
print(
    f"{image.parameters['shape']}, {image.parameters['camera']['dose']:.0f} e/Å², {image.pixel_size:.2f} nm/px"
)
# A narrower library is easier to learn, and the network would do better on those movies. It would also be sure of
# itself, and wrong, on the first movie that differs.

# %% [markdown]
# **2.** How many of 100 images hold a single layer? Draw the specimens without making the images, and compare with
# the configuration.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
from moirelib.lattice import random_scene

rng = np.random.default_rng(22)
scenes = [random_scene(config.lattice, (400.0, 400.0), rng) for _ in range(100)]
single = sum(len(scene.layers[1]) == 0 for scene in scenes)
p = config.lattice.single_layer
print(f"{single} of 100; expected {100 * p:.0f} ± {np.sqrt(100 * p * (1 - p)):.0f}")

# %% [markdown]
# **3.** What share of the masks' pixels belongs to both layers? It is in these pixels that a method giving each pixel
# to one layer must fail.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
masks = library["mask"][:24] > 127  # (image, layer, y, x)
both, any_layer = (masks[:, 0] & masks[:, 1]).sum(), (masks[:, 0] | masks[:, 1]).sum()
print(f"{100 * both / any_layer:.0f} % of the pixels that hold a particle hold one of each layer")

# %% tags=["remove-cell"]
folder.cleanup()

# %% [markdown]
# ## Summary
#
# - A library is ranges plus a seed; image $i$ is drawn from the pair (seed, $i$), so order and number of workers do
#   not matter.
# - It holds raw frames, one mask per layer, pixel sizes, and every particle and parameter.
# - An interrupted run goes on where it stopped, and one seed gives the same bytes.
#
# ## In practice
#
# - **Ranges are assumptions.** What lies outside them the network has never seen. Compare your movie with
#   {numref}`fig-library`; if it looks like none of the images, extend the ranges and train again
#   ([chapter 5](05_unet)).
# - **Same bytes, same versions.** Another version of NumPy, SciPy or `moirelib` may round or draw differently. Keep
#   the versions with the library (`constraints.txt` has ours).
# - **Local workers are processes.** In a script, put the call under `if __name__ == "__main__":`, as Python's
#   multiprocessing demands on Windows and macOS; notebooks and the command line need nothing.
# - **Truth is geometric.** A mask marks where a particle is, also where the frame shows nothing of it: below an
#   opaque neighbour, or under a shadow. Some of what is asked cannot be seen.
#
# Next: [train the network](05_unet).
