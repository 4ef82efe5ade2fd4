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
# - draw hundreds of different frames, each with its truth, from one configuration and one {term}`seed`
# - make them in parallel, kill the work halfway, and continue to the same bytes
# - look at the images before training on them
# - film a lattice that vibrates, drifts, turns and grows, and know every {term}`track`
# - find the phonons that were planted in a movie
#
# Needs [chapter 3](03_liquid) · CPU · 40 seconds (fast), five minutes (full) · 1.9 GB (full 3.9 GB)
# ```
#
# A network becomes independent of everything that varies in its training images, and relies on everything that does not.
# So the library varies everything that differs between microscopes, specimens and days, and more widely than a single
# experiment.

# %%
import inspect
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import fields, replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import zarr

from moirelib import data
from moirelib.plot import LAYER_COLORS, show_frame, show_library, show_particles, show_tracks
from moirelib.simulation import (
    SHAPES,
    CameraConfig,
    LatticeConfig,
    LibraryConfig,
    LiquidConfig,
    MovieConfig,
    dynamical_matrix,
    make_library,
    open_library,
    random_scene,
    scene_with_margin,
    simulate_frame,
    simulate_movie,
)

FAST = os.environ.get("MOIRELIB_FAST", "1") != "0"
plt.rcParams["figure.dpi"] = 144
SEED = 4

# %% [markdown]
# ## A configuration is a set of ranges
#
# `LibraryConfig` holds the range of each parameter. A pair is the low and high end of a uniform distribution; sizes and
# doses are uniform in their logarithm. `.fast()` is a toy of 24 images, `.full()` holds 400 images of 512 pixels, and
# `.training()` is the library for the shipped {term}`weights`: more images, and a share of them drawn by the published
# recipe (below). The source lists the ranges with their units:

# %%
listing = re.findall(
    r"^    (\w+): .+ = (.+?)  # (.+)$", inspect.getsource(LibraryConfig), re.MULTILINE
)
for name, default, meaning in listing:
    print(f"{name:15s} {default:18s} {meaning}")

# %% [markdown]
# The ranges of the lattices are in `config.lattice` ([chapter 1](01_lattices)): five shapes of particle, one layer or
# two, twists, islands, strain and defects. The {term}`pixel size` follows from the particle's size in nm and in pixels,
# unless it is given. All later steps resample images so that particles are about a dozen pixels wide. So the size in
# pixels matters to the network.
#
# Two choices are random because the right one differs between microscopes. Half of the images use the multislice table
# of [chapter 2](02_multislice), in which each particle has its own crystal orientation and so its own darkness. In the
# other half all particles share one {term}`mean free path`. Three images in ten are taken through an
# {term}`energy filter`, which removes electrons that lost energy in the liquid. In the others these electrons arrive,
# out of focus ([chapter 3](03_liquid)).
#
# ## One frame is one seed
#
# `simulate_frame` does the steps of chapters 1 to 3 once: specimen, clean image, raw frame. It returns the frame with
# the truth: one mask per {term}`layer`, the particles, and every parameter.

# %%
config = LibraryConfig.fast() if FAST else LibraryConfig.full()
one = simulate_frame(config, seed=(SEED, 6))
print(f"frame {one.frame.shape} {one.frame.dtype}, masks {one.masks.shape} {one.masks.dtype}")
for name, value in one.parameters.items():
    text = ", ".join(value) if isinstance(value, dict) else str(value)
    print(f"{name:18s} {text[:92]}{' ...' * (len(text) > 92)}")

# %% mystnb={"figure": {"caption": "One image of the library and its truth: the raw frame, which is the network's input, and the masks of layers 1 and 2, which it should return.", "name": "fig-one-image"}}
fig, axes = plt.subplots(1, 3, figsize=(9, 3.3), layout="constrained")
show_frame(one.frame, one.pixel_size, axes[0], title="raw frame")
for number, ax in enumerate(axes[1:], start=1):
    show_frame(one.masks[number - 1], one.pixel_size, ax, title=f"mask of layer {number}")
    ax.images[0].set_clim(0, 255)
plt.show()

# %% [markdown]
# ## The ranges include the published recipe
#
# Images like these have been simulated before. A published script {cite:p}`moiresimulation` makes them for films of
# standing gold rods, and states every number: 700 nm on 512 pixels, rods 112.1 nm high, 250 nm of water between two
# windows of 50 nm, 106 electrons/Å² per second for 0.1 s, mean free paths of 35, 185 and 144 nm.
# `LibraryConfig.published()` is that recipe with our parameters. A library without such images would be too narrow, so
# we compare the ranges one by one:

# %%
recipe, wide = LibraryConfig.published(), LibraryConfig.full()
pairs = [
    (entry.name, getattr(narrow, entry.name), getattr(ours, entry.name))
    for narrow, ours in ((recipe.lattice, wide.lattice), (recipe, wide))
    for entry in fields(ours)
]
for name, narrow, ours in pairs:
    is_range = isinstance(ours, tuple) and len(ours) == 2 and isinstance(ours[0], float)
    if is_range and narrow != ours and name != "energies":
        inside = ours[0] <= narrow[0] <= narrow[1] <= ours[1]
        print(f"{name:15s} {narrow!s:18s} {'inside' if inside else 'outside'} {ours}")
diameters_px = [round(nm / recipe.pixel_size) for nm in (27, 42)]
print(f"particles of 27 to 42 nm are {diameters_px[0]} to {diameters_px[1]} pixels wide")

# %% [markdown]
# The ranges are the script's, the physics is that of chapters 2 and 3: we blur the intensity, not the thickness of
# gold, and add readout noise after the camera's blur, not before it.
#
# The recipe's rods are so high that one rod is dark and a second one behind it changes little. The other end of the range
# looks different: small translucent spheres show the layer below. The wide ranges alone would rarely give an image like
# the recipe's. So with the probability `recipe` an image follows the recipe in everything but its number of pixels:

# %%
drawn = LibraryConfig.training()
print(
    f"training library: {drawn.images} images of {drawn.shape[0]} × {drawn.shape[1]} pixels, ",
    end="",
)
print(f"{drawn.recipe:.0%} by the published recipe")

# %% [markdown]
# The same function draws both extremes. We measure the counts at the particles' centres:

# %%
translucent = replace(
    wide,
    lattice=replace(wide.lattice, shapes=("sphere",), spacing=(26.0, 26.0), single_layer=0.0),
    pixel_size=0.9,
    tabulated=0.0,
    mean_free_path=(35.0, 35.0),
    dose=(60.0, 60.0),
)
examples = {
    "published rods": simulate_frame(recipe, seed=(SEED, 0)),
    "translucent spheres": simulate_frame(translucent, seed=(SEED, 3)),
}
for name, image in examples.items():
    counts = image.frame - image.parameters["camera"]["offset"]
    centers = np.concatenate([layer.positions for layer in image.scene.layers])
    y, x = (centers / image.pixel_size).astype(int).T
    seen = (y >= 0) & (x >= 0) & (y < counts.shape[0]) & (x < counts.shape[1])
    y, x = y[seen], x[seen]
    covered = (image.masks[:, y, x] > 0).sum(axis=0)
    open_liquid = counts[image.masks.max(axis=0) == 0].mean()
    one_layer, two_layers = (counts[y, x][covered == n].mean() / open_liquid for n in (1, 2))
    print(
        f"{name:20s} {image.parameters['diameter_nm']:.0f} nm wide: {one_layer:.0%} of the open "
        f"liquid's counts under one layer, {two_layers:.0%} under two"
    )

# %% mystnb={"figure": {"caption": "Two extremes of the library. Left, the published recipe: standing rods, nearly opaque where they overlap. Right, translucent spheres: both layers are visible where they overlap.", "name": "fig-recipe"}}
fig, axes = plt.subplots(1, 2, figsize=(9, 4.7), layout="constrained")
for ax, (name, image) in zip(axes, examples.items(), strict=True):
    show_frame(image.frame, image.pixel_size, ax, title=name)
plt.show()

# %% [markdown]
# ## Many frames are many independent seeds
#
# Image $i$ of a library with seed $s$ is drawn from the pair $(s, i)$. No image depends on another, so they can be
# made in any order by any number of workers. The core of a parallel library is therefore short. In one process:

# %%
torch.set_num_threads(1)  # as in a worker: another number of threads rounds differently
serial = [simulate_frame(config, seed=(SEED, i)) for i in range(12)]
print("counts in the first three frames:", [int(image.frame.sum()) for image in serial[:3]])

# %% [markdown]
# `make_library` gives this work to Dask {cite:p}`rocklin2015` in small batches, here with two processes, and writes each
# image into one chunk of a Zarr store {cite:p}`zarr`. A store is a folder. Compressed chunks are files in it, and any
# part can be read without the rest. With `scheduler="tcp://..."` the same call uses a cluster.

# %%
folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
path = Path(folder.name) / "library"
start = time.perf_counter()
library = make_library(path, config, seed=SEED, workers=2, progress=False)
seconds = time.perf_counter() - start
print(
    f"{config.images} images of {config.shape[0]} × {config.shape[1]} pixels in {seconds:.0f} s: "
    f"{config.images / seconds:.1f} images/s, start of the two processes included"
)
print(f"{sum(f.stat().st_size for f in path.rglob('*') if f.is_file()) / 1e6:.1f} MB on disk")

# %% [markdown]
# The number of workers and the order of work change nothing: image by image, the store holds the results of the loop
# above.

# %%
same = [
    library[name][i].tobytes() == getattr(image, attribute).tobytes()
    for i, image in enumerate(serial)
    for name, attribute in (("frame", "frame"), ("mask", "masks"))
]
print(
    f"{sum(same)} of {len(same)} frames and masks have the same bytes in the store and in the loop"
)

# %% [markdown]
# ## What is stored
#
# | name | shape | what it is |
# |---|---|---|
# | `frame` | (n, y, x) uint16 | raw frames, in counts |
# | `mask` | (n, layer, y, x) uint8 | truth; 255 where a pixel is fully inside a particle, less on its rim |
# | `pixel_size` | (n,) float64 | nm per pixel |
# | `done` | (n,) uint8 | 1 when an image and its truth are complete |
# | `truth/i.json` | | parameters of image `i`, its defects and its particles |
# | attributes | | configuration and seed, which are enough to make it again |

# %%
for name in ("frame", "mask", "pixel_size", "done"):
    print(f"{name:10s} {library[name].shape} {library[name].dtype}")
print("seed", library.attrs["seed"])
truths = [
    json.loads((path / "truth" / f"{i}.json").read_text(encoding="utf-8"))
    for i in range(config.images)
]
print(f"image 0: {len(truths[0]['particles']['layer'])} particles; keys: {', '.join(truths[0])}")

# %% [markdown]
# JSON has neither "not a number" nor infinity. `null` stands for a number that does not exist, such as the twist of
# a single layer, or gold's mean free path where the table was used instead. Infinite numbers are written as `"inf"`.

# %%
for name, missing in (
    ("twist_deg", [t["twist_deg"] is None for t in truths]),
    ("mean_free_path_nm", [t["mean_free_path_nm"] is None for t in truths]),
):
    print(f"{name:18s} null in {sum(missing)} of {len(missing)} images")

# %% [markdown]
# ## Look before you train
#
# A network also learns the errors of a simulation. A few minutes of looking at the images save days. Are there images
# in which you cannot see the particles at all? A few are useful; many teach the network to guess.

# %% mystnb={"figure": {"caption": "Six random images of the library with the true outlines of layer 1 (blue) and layer 2 (orange). Shape, magnification, dose, contrast, blur and background differ from image to image.", "name": "fig-library"}}
show_library(library, count=6, seed=8)
plt.show()

# %% mystnb={"figure": {"caption": "Particle diameter in pixels, dose, twist and shape in the images of this library. So few images leave gaps; the training library has more.", "name": "fig-drawn"}}
columns = {
    "particle diameter (px)": [t["diameter_nm"] / t["pixel_size_nm"] for t in truths],
    "dose (e/Å²)": [t["camera"]["dose"] for t in truths],
    "twist (°)": [t["twist_deg"] for t in truths if t["twist_deg"] is not None],
}
bins = (np.linspace(8, 40, 9), np.geomspace(3, 300, 9), np.linspace(0, 30, 9))
fig, axes = plt.subplots(2, 2, figsize=(8, 4.6), layout="constrained")
for ax, (label, values), edges in zip(axes.flat, columns.items(), bins, strict=False):
    ax.hist(values, edges, color=LAYER_COLORS[0], edgecolor="white")
    ax.set(xlabel=label, ylabel="images")
axes[0, 1].set(xscale="log", xticks=[3, 10, 30, 100, 300], xticklabels=[3, 10, 30, 100, 300])
drawn = [t["shape"] for t in truths]
axes[1, 1].barh(SHAPES, [drawn.count(shape) for shape in SHAPES], color=LAYER_COLORS[0])
axes[1, 1].set(xlabel="images")
axes[1, 1].xaxis.get_major_locator().set_params(integer=True)
plt.show()

# %% [markdown]
# ## A killed run continues to the same bytes
#
# A library of thousands of images takes from minutes to hours, and machines restart. `done` is set only after an image
# and its truth are written. So after a killed run every image in the store is either complete or marked as missing. We
# test it: the command line makes twelve small images in its own process. After a few images we kill it and all
# processes that it started. The signal `SIGKILL`, known as `kill -9`, leaves a process no time to tidy up.

# %%
killed = Path(folder.name) / "killed"
command = "-m moirelib library --fast --images 12 --size 96 --seed 7 --workers 1 --out".split()
run = subprocess.Popen(
    [sys.executable, *command, killed], stderr=subprocess.DEVNULL, start_new_session=True
)
while run.poll() is None and len(list(killed.glob("truth/*.json"))) < 3:  # one may be half done
    time.sleep(0.01)
if os.name == "posix":
    os.killpg(run.pid, signal.SIGKILL)
else:
    run.kill()
run.wait()
done = zarr.open_group(str(killed / "images.zarr"), mode="r")["done"][:]
print(f"killed with {done.sum()} of {done.size} images done; exit code {run.returncode}")
try:
    open_library(killed)
except ValueError as error:
    print(str(error).replace(str(killed), "library"))

# %% [markdown]
# The same command makes only the missing images, and so does the same call of `make_library`. We compare the result with
# a library that was never interrupted, file by file:

# %%
small = replace(LibraryConfig.fast(), images=12, shape=(96, 96))
whole = Path(folder.name) / "whole"
make_library(whole, small, seed=7, workers=1, progress=False)
make_library(killed, small, seed=7, workers=1, progress=False)
files = [f.relative_to(whole) for f in sorted(whole.rglob("*")) if f.is_file()]
same = [(whole / f).read_bytes() == (killed / f).read_bytes() for f in files]
print(f"killed and continued: {sum(same)} of {len(files)} files have the same bytes")

# %% [markdown]
# Another seed or configuration in the same folder would mix two libraries, so it is an error:

# %%
try:
    make_library(path, config, seed=SEED + 1, progress=False)
except ValueError as error:
    print(str(error).replace(str(path), "library"))

# %% [markdown]
# ## Four hundred frames take minutes
#
# Much of the time above was the start of two processes. For a large library the time per image matters:

# %%
start = time.perf_counter()
for i in range(3):
    simulate_frame(LibraryConfig.full(), seed=(SEED, i))
each = (time.perf_counter() - start) / 3
print(f"one image of 512 × 512 pixels: {each:.2f} s in one process")
if FAST:
    print(f"extrapolated, not measured: 400 such images by two processes in {400 * each / 2:.0f} s")
else:
    print(f"measured above: {config.images} such images by two processes in {seconds:.0f} s")

# %% [markdown]
# `make bench-optics` measures it on your machine. `moirelib library` runs the same function from the command line:
#
# ```
# moirelib library --out library --training --seed 1
# ```
#
# Interrupt it with Ctrl-C, and give the same command to continue. `--workers` sets the number of processes, and
# `--scheduler` the address of a Dask scheduler whose workers can write to the folder. `--training` is the preset for the
# shipped weights ([chapter 5](05_unet)). Their card lists seed and ranges of the library that they were trained on, which
# may be narrower than the present ones.

# %% [markdown]
# (simulated-movies)=
# ## Movies with known tracks
#
# A test of motion analysis needs a movie with known motion. `simulate_movie` films a specimen. `MovieConfig` sets the
# motion, and every particle keeps its number from the first frame to the last.
#
# | in `MovieConfig` | what it does |
# |---|---|
# | `spring_constant`, `site_stiffness` | elastic vibrations of each layer, with its phonons ([chapter 1](01_lattices)) |
# | `correlation_time` | how many frames a vibration lasts |
# | `vibration` | independent vibrations, with or instead of the elastic ones |
# | `drift`, `drift_walk` | the specimen moves, steadily and at random |
# | `rotation` | it turns about the middle of the field |
# | `growth`, `detachment` | layers grow or dissolve; particles at a rim leave |
# | `flicker` | the beam's brightness changes |
#
# `scene_with_margin` draws a scene larger than the field, so that drift brings in particles and not the lattice's edge.
# Our field is 200 nm wide and has an island that grows.

# %%
lattice = LatticeConfig.plain(
    shapes=("sphere",),
    diameter_ratio=(0.75, 0.75),
    twist_angle=(9.0, 9.0),
    position_std=(0.01, 0.01),
    strain=(0.01, 0.01),
    island=1.0,
)
spacing, spring_constant = 20.0, 3.0  # nm, kT/nm²
scene = scene_with_margin(
    lattice, (200.0, 200.0), np.random.default_rng(11), margin=40.0, spacing=spacing
)
motion = MovieConfig(
    frames=24,
    spring_constant=spring_constant,
    correlation_time=0.3,
    drift=(0.3, 0.2),  # nm per frame, (y, x)
    drift_walk=0.1,
    rotation=0.1,  # degrees per frame
    growth=((1.0, 1.0), (0.25, 0.95)),  # layer 1 is complete, layer 2 grows
    detachment=0.02,
    flicker=0.03,
)
movie = simulate_movie(
    scene,
    0.8,
    motion,
    seed=(SEED, 1),
    liquid=LiquidConfig(blur=0.8),
    camera=CameraConfig(dose=40.0),
    mean_free_path=40.0,
)
for entry in fields(movie):
    value = getattr(movie, entry.name)
    if entry.name == "parameters":
        print(f"{entry.name:11s} {', '.join(value)}")
    else:
        print(f"{entry.name:11s} {value if np.isscalar(value) else value.shape}")
movie.truth.head(3).round(2)

# %% [markdown]
# `truth` has one row per particle and frame, for particles whose middle is in the field. `sites` holds the rest position
# of each particle, `events` each attachment and detachment with its frame. `drift`, `rotation` and `brightness` have one
# entry per frame and describe the microscope. `parameters` holds all settings, and `movie.save` writes everything beside
# the frames.

# %% mystnb={"figure": {"caption": "Three frames of a simulated movie with the true tracks of layer 1 (blue) and layer 2 (orange) up to each frame. The specimen drifts to the lower right and turns clockwise; on top of that every particle vibrates.", "name": "fig-movie"}}
fig, axes = plt.subplots(1, 3, figsize=(9, 3.25), layout="constrained")
for ax, t in zip(axes, (0, motion.frames // 2, motion.frames - 1), strict=True):
    show_frame(movie.frames[t], movie.pixel_size, ax, title=f"frame {t}")
    show_tracks(movie.truth.query("frame <= @t"), ax, linewidth=1.5)
plt.show()

# %% [markdown]
# The island grows at its rim, as in chapter 1. Every change of the number of particles in a layer is an event, so events
# and tracks must agree:

# %%
island = movie.truth.query("layer == 2")
count = island.groupby("frame").size().to_numpy()
changes = movie.events.query("layer == 2").groupby(["event", "frame"]).size()
attached, detached = (
    changes.loc[kind].reindex(range(motion.frames), fill_value=0).to_numpy()
    for kind in ("attach", "detach")
)
print(
    f"layer 2: {count[0]} particles in the first frame, {attached.sum()} attachments, "
    f"{detached.sum()} detachments, {count[-1]} particles in the last frame"
)
agree = np.array_equal(count, count[0] + np.cumsum(attached - detached))
print("events explain the number of particles in every frame:", agree)

# %% mystnb={"figure": {"caption": "Growth of the island. Left, the last frame: particles of layer 2 that were there from the start (thin) and those that attached later (thick). Right, number of particles in layer 2 (line), and how many attached and detached in each frame (bars).", "name": "fig-movie-growth"}}
fig, axes = plt.subplots(1, 2, figsize=(9, 3.9), width_ratios=(1, 1.15), layout="constrained")
show_frame(movie.frames[-1], movie.pixel_size, axes[0])
last = island[island["frame"] == motion.frames - 1]
new = ~last["particle"].isin(set(island["particle"][island["frame"] == 0]))
show_particles(last[~new], axes[0], movie.pixel_size, linewidths=0.8)
show_particles(last[new], axes[0], movie.pixel_size, linewidths=2.5)
axes[1].plot(count, color="black", label="present")
axes[1].bar(range(motion.frames), attached, color=LAYER_COLORS[1], label="attached")
axes[1].bar(range(motion.frames), -detached, color="0.6", label="detached")
axes[1].axhline(0, color="0.5", lw=0.8)
axes[1].set(xlabel="frame", ylabel="particles of layer 2")
axes[1].legend(frameon=False)
plt.show()

# %% [markdown]
# ## The truth contains the planted phonons
#
# The vibrations of an elastic layer have a known spectrum: the mean squared amplitude of the wave of wave vector
# $\mathbf{q}$ is $kT D^{-1}(\mathbf{q})$, with the {term}`dynamical matrix` $D$ of chapter 1. So a movie can test a
# measurement of phonons. First we test the movie, for which only positions matter, not images. We film a larger crystal
# with pixels of 10 nm, which resolve no particle but cost little; the truth does not depend on the camera.

# %%
field, pixel_size, frames = 600.0, 10.0, 250 if FAST else 2000
crystal = scene_with_margin(
    replace(lattice, single_layer=1.0), (field, field), np.random.default_rng(6), 60.0, spacing
)
shaking = MovieConfig(
    frames=frames,
    spring_constant=spring_constant,
    drift=(9 / frames, -6 / frames),
    drift_walk=3.5 / np.sqrt(frames),
    rotation=3 / frames,
)
filmed = simulate_movie(crystal, pixel_size, shaking, seed=(SEED, 2), mean_free_path=40.0)
table = filmed.truth.pivot(index="frame", columns="particle", values=["y", "x"]).dropna(axis=1)
positions = (np.stack([table["y"], table["x"]], axis=-1) + 0.5) * pixel_size  # from the corner
print(f"{positions.shape[1]} particles are in the field in all {frames} frames")

# %% [markdown]
# In a raw movie, drift and rotation are far larger than vibrations. The truth contains both, so we can remove them
# exactly. A particle of site $\mathbf{r}$ and displacement $\mathbf{u}$ is at
# $R(\mathbf{r} + \mathbf{u} - \mathbf{c}) + \mathbf{c} + \mathbf{d}$: rotation $R$ about the middle $\mathbf{c}$ of the
# field, then drift $\mathbf{d}$.

# %%
middle, t = np.array([field, field]) / 2, np.radians(filmed.rotation)
turn = np.array([[np.cos(t), np.sin(t)], [-np.sin(t), np.cos(t)]])  # (2, 2, frame), of (y, x)
undrifted = positions - filmed.drift[:, None]
unturned = np.einsum("fni,ijf->fnj", undrifted - middle, turn) + middle  # R transposed turns back
steps = {"raw": positions, "drift removed": undrifted, "drift and rotation removed": unturned}
for name, seen in steps.items():
    print(f"{name:27s} rms displacement {np.std(seen - seen.mean(axis=0)):.2f} nm")
sites = filmed.sites.set_index("particle").loc[table["y"].columns, ["y_nm", "x_nm"]].to_numpy()
sites = sites + 0.5 * pixel_size  # from the corner, too
error = np.std(unturned.mean(axis=0) - sites)
print(f"mean positions agree with the true sites to {error:.3f} nm; ", end="")
print(f"expected {np.mean(unturned.std(axis=0)) / np.sqrt(frames):.3f} nm")

# %% [markdown]
# A wave's amplitude is a sum over particles, with a window that hides the field's edges. The rows of particles have three
# equivalent directions, so we average over them.


# %%
def measure_spectrum(positions, wave_numbers, angle):
    """Mean squared amplitude (nm²) of longitudinal and transverse waves along the rows, and its standard error."""
    rest = positions.mean(axis=0)
    u, from_middle = positions - rest, rest - rest.mean(axis=0)
    window = np.prod(np.cos(0.5 * np.pi * from_middle / np.abs(from_middle).max(axis=0)) ** 2, 1)
    power = []
    for row in np.radians(angle + np.array([0, 60, 120])):
        along, across = np.array([[np.sin(row), np.cos(row)], [np.cos(row), -np.sin(row)]])
        waves = window * np.exp(-1j * np.outer(wave_numbers, rest @ along))  # (q, n)
        power.append([np.abs(u @ e @ waves.T) ** 2 for e in (along, across)])
    power = np.array(power).transpose(1, 3, 0, 2).reshape(2, len(wave_numbers), -1)
    power = power / np.sum(window**2)
    return power.mean(axis=-1), power.std(axis=-1) / np.sqrt(power.shape[-1])


angle = crystal.layers[0].angle
wave_numbers = np.linspace(0.1, 1.0, 10) * 4 * np.pi / 3 / spacing  # to the corner of the zone
row = np.radians(angle)
along, across = np.array([[np.sin(row), np.cos(row)], [np.cos(row), -np.sin(row)]])


def predict_spectrum(wave_numbers):
    """The same from the dynamical matrix; the weak site springs are MovieConfig's default."""
    q = wave_numbers[:, None] * along
    inverse = np.linalg.inv(
        dynamical_matrix(q, spacing, angle, spring_constant, 0.02 * spring_constant)
    )
    return np.array([np.einsum("qij,i,j->q", inverse, e, e) for e in (along, across)])


measured, error = measure_spectrum(unturned, wave_numbers, angle)
ratio = measured / predict_spectrum(wave_numbers)
print("measured / planted, longitudinal:", np.round(ratio[0], 2))
print("measured / planted, transverse:  ", np.round(ratio[1], 2))
off = np.mean(error / measured) / np.sqrt(2 * 9)
print(f"without the longest waves: mean ratio {ratio[:, 1:].mean():.3f} ± {off:.3f}")

# %% mystnb={"figure": {"caption": "Mean squared amplitude of waves along the rows of particles, from the truth of a movie with drift and rotation removed (filled, one standard error), with drift alone removed (open), and from the dynamical matrix (lines). Rotation looks like a long transverse wave: the open square at the left is far too high.", "name": "fig-movie-spectrum"}}
fig, ax = plt.subplots(figsize=(6.5, 4), layout="constrained")
fine = np.linspace(wave_numbers[0], wave_numbers[-1], 200)
turning = measure_spectrum(undrifted, wave_numbers, angle)[0]
for k, (kind, marker) in enumerate((("longitudinal", "o"), ("transverse", "s"))):
    color = LAYER_COLORS[k]
    ax.plot(fine, predict_spectrum(fine)[k], color=color)
    ax.errorbar(wave_numbers, measured[k], error[k], fmt=marker, color=color, label=kind)
    ax.plot(wave_numbers, turning[k], marker, color=color, fillstyle="none", ms=9)
ax.set(xlabel="wave number (rad/nm)", ylabel="⟨|u(q)|²⟩ (nm²)", yscale="log")
ax.set_yticks([0.1, 0.3, 1, 3, 10, 30], ["0.1", "0.3", "1", "3", "10", "30"], minor=False)
ax.minorticks_off()
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# The longest wave is 300 nm long, half the field. The window does not separate such waves from their neighbours, and
# some of the stronger transverse waves appear as longitudinal ones. For shorter waves the planted and the measured
# spectrum agree to about a per cent on average. An analysis of images adds its own errors: it must find the particles,
# and determine drift and rotation from the tracks.
#
# ## The shipped sample
#
# A small movie of this kind comes with `moirelib`. `data.sample()` opens it with its truth, without a download, and
# later chapters use it. `moirelib.simulation.make_sample("data")` makes it again, and describes it:

# %%
from moirelib.simulation import make_sample

print(inspect.getdoc(make_sample).partition("\n\n")[2], end="\n\n")
sample, truth = data.sample()
print(f"{len(sample)} frames of {sample.shape[1:]} pixels, {sample.pixel_size:.3f} nm/px")
by_layer = truth.groupby(["layer", "frame"]).size().unstack("layer")
print(
    f"particles of layers 1 and 2: {list(by_layer.iloc[0])} at first, {list(by_layer.iloc[-1])} at last"
)

# %% mystnb={"figure": {"caption": "The shipped sample: its last frame, and the true tracks of all frames on the first.", "name": "fig-sample"}}
fig, axes = plt.subplots(1, 2, figsize=(9, 4.7), layout="constrained")
show_frame(sample.frame(len(sample) - 1), sample.pixel_size, axes[0], title="last frame")
show_frame(sample.frame(0), sample.pixel_size, axes[1], title="first frame and true tracks")
show_tracks(truth, axes[1], linewidth=2)
plt.show()

# %% [markdown]
# ## Exercises
#
# **1.** Your movies all come from one instrument: 25–40 electrons/Å², standing rods. Write a configuration for it and
# draw one frame. What would you lose by training on it alone?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
mine = replace(config, dose=(25.0, 40.0), lattice=LatticeConfig.published())
image = simulate_frame(mine, seed=21)
print(
    f"{image.parameters['shape']}, {image.parameters['camera']['dose']:.0f} e/Å², {image.pixel_size:.2f} nm/px"
)
# A narrower library is easier to learn, and the network would do better on those movies. On the first movie that differs
# it would be sure of its answer, and wrong.

# %% [markdown]
# **2.** How many of 100 images hold a single layer? Draw the specimens without making the images, and compare with
# the configuration.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
rng = np.random.default_rng(22)
scenes = [random_scene(config.lattice, (400.0, 400.0), rng) for _ in range(100)]
single = sum(len(scene.layers[1]) == 0 for scene in scenes)
p = config.lattice.single_layer
print(f"{single} of 100; expected {100 * p:.0f} ± {np.sqrt(100 * p * (1 - p)):.0f}")

# %% [markdown]
# **3.** Which share of the masks' pixels belongs to both layers? A method that gives each pixel to one layer must fail
# in these pixels.

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
masks = library["mask"][:24] > 127  # (image, layer, y, x)
both, any_layer = (masks[:, 0] & masks[:, 1]).sum(), (masks[:, 0] | masks[:, 1]).sum()
print(f"{100 * both / any_layer:.0f} % of the pixels with a particle belong to both layers")

# %% [markdown]
# **4.** Without the truth, the mean displacement of all particles is used as the drift. In the movie of the large
# crystal, how far is that from the true drift? Why is it more than the rms displacement over $\sqrt{n}$?

# %% tags=["hide-cell"] mystnb={"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
estimate = (positions - positions.mean(axis=0)).mean(axis=1)
off = estimate - (filmed.drift - filmed.drift.mean(axis=0))
n, rms = positions.shape[1], np.std(unturned - unturned.mean(axis=0))
print(f"off by {off.std():.3f} nm; rms / √n = {rms / np.sqrt(n):.3f} nm")
everyone = len(crystal.layers[0])
print(
    f"whole crystal, from the site springs: {1 / np.sqrt(everyone * 0.02 * spring_constant):.3f} nm"
)
# Neighbours move together, so n particles count as fewer than n independent ones. The crystal also vibrates as a whole
# against the weak springs to its sites; no analysis can tell that motion from drift.

# %% tags=["remove-cell"]
folder.cleanup()

# %% [markdown]
# ## Summary
#
# - A library follows from ranges and a seed. Image $i$ is drawn from the pair (seed, $i$), so order and number of workers
#   do not matter. The ranges include the published recipe.
# - It holds raw frames, one mask per layer, pixel sizes, and every particle and parameter.
# - A killed run continues where it stopped, and one seed gives the same bytes.
# - `simulate_movie` films a scene that vibrates, drifts, turns and grows, with the true track of every particle. Its
#   vibrations have the spectrum of the dynamical matrix.
#
# ## In practice
#
# - **Ranges are assumptions.** The network has seen nothing outside them. Compare your movie with
#   {numref}`fig-library`. If it looks like none of the images, extend the ranges and train again
#   ([chapter 5](05_unet)).
# - **Same bytes, same versions.** Another version of NumPy, SciPy, PyTorch or `moirelib`, another kind of processor, or
#   another number of threads may round or draw differently. Workers always use one thread. Keep the versions with the
#   library (`constraints.txt` has ours).
# - **A kill is not a power cut.** After one, images that the system had not yet written to disk may be missing although
#   `done` says otherwise.
# - **Local workers are processes.** In a script, put the call under `if __name__ == "__main__":`, as Python's
#   multiprocessing demands on Windows and macOS; notebooks and the command line need nothing.
# - **Truth is geometric.** A mask marks where a particle is, even where the frame does not show it: below an opaque
#   neighbour, or under a shadow. So a perfect score is impossible.
# - **Simulated movies are simple.** The liquid's clouds stand still, the layers do not pull at each other, a layer that
#   grows vibrates as if it were complete, and nothing moves within a frame but for the blur.
#
# Next: [train the network](05_unet).
