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
# (your-movie)=
# # Your movie
#
# ```{admonition} In this chapter
# :class: tip
# - run the whole road on a movie of your own, by changing one cell
# - look at each result in the order in which things go wrong
# - save everything for Fiji, a spreadsheet or the next chapters
# - record movies that can be taken apart
#
# Needs nothing but a file · CPU · about 1 minute for the sample; the first frame of a movie takes longest · 1.2 GB
# ```
#
# This page is a template. As it stands it runs on the simulated movie that ships with moirelib. Open it with one of
# the launch buttons, or from a copy of the repository, put the path of your file into the next cell, and run
# everything below unchanged.

# %% tags=["parameters"]
MOVIE = None  # path of a .dm3, .dm4, .mrc, .tif, .emd or .ser file; None for the sample
PIXEL_SIZE = None  # nm per pixel; None takes it from the file
FRAME_TIME = None  # seconds per frame; None takes it from the file
DIAMETER = None  # rough particle diameter in nm; None lets the program find out
FRAMES = None  # how many frames to use, from the first; None for all
OUT = None  # folder for the results; None for a temporary one

# %%
import tempfile
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import moirelib
from moirelib import data, plot
from moirelib.analysis import analyze, strain_map
from moirelib.crystal import find_lattice
from moirelib.decomposition import choose_device

file = Path(MOVIE) if MOVIE is not None else data.path("sample.tif")
out = (
    Path(OUT)
    if OUT is not None
    else Path(tempfile.mkdtemp(prefix="moirelib-")) / f"{file.stem}_layers"
)
print(f"moirelib {moirelib.__version__}, computing on {choose_device()}, results go to {out.name}")

# %% [markdown]
# ## 1. Is it read as you recorded it?
#
# Check the shape, the {term}`pixel size` and the frame time against your notes: everything in nm hangs on the pixel
# size. If the file carries none, or a wrong one, set `PIXEL_SIZE`.

# %%
movie = moirelib.read_movie(file, pixel_size=PIXEL_SIZE, frame_time=FRAME_TIME)
movie = replace(movie, data=movie.data[:FRAMES])
field = np.array(movie.shape[1:]) * movie.pixel_size if movie.pixel_size else None
print(
    f"{movie.name}: {len(movie)} frame(s) of {movie.shape[1]} × {movie.shape[2]} pixels, {movie.data.dtype}"
)
print(f"pixel size {movie.pixel_size} nm, field {field} nm, frame time {movie.frame_time} s")

# %% mystnb={"figure": {"caption": "First, middle and last frame of the movie. Does the field drift, does the focus change, do layers grow or dissolve?", "name": "fig-your-frames"}}
fig, axes = plt.subplots(1, 3, figsize=(9, 3.3), layout="constrained")
for ax, t in zip(axes, (0, len(movie) // 2, len(movie) - 1), strict=True):
    plot.show_frame(movie.frame(t), movie.pixel_size or 1.0, ax, title=f"frame {t}")

# %% [markdown]
# ## 2. Take it apart
#
# One call. For a long movie, set `FRAMES` to 5 or so until everything looks right.

# %%
result = moirelib.decompose(movie, diameter=DIAMETER, progress=True)
table, summary = result.particles, result.summary
print(summary["note"])
print(f"{len(table)} particles, {summary['diameter_nm'] or float('nan'):.1f} nm wide (median)")
print(f"{summary['seconds'] / len(movie):.1f} s per frame")

# %% [markdown]
# Read the note before anything else. Then look: are the circles on the particles, and as large as they are? If not,
# the size was estimated wrongly; set `DIAMETER` and run again.

# %% mystnb={"figure": {"caption": "First frame of the movie with the particles found, layer 1 (the one that reaches furthest) and layer 2.", "name": "fig-your-split"}}
plot.show_split(
    movie.frame(0),
    np.asarray(result.layers[0]),
    movie.pixel_size,
    particles=table[table["frame"] == 0],
)
plt.show()

# %% mystnb={"figure": {"caption": "The middle of the first frame, enlarged. Left, as recorded; right, with the particles of both layers.", "name": "fig-your-zoom"}}
first = table[table["frame"] == 0]
half = int(min(min(movie.shape[1:]) // 2, 5 * (summary["diameter_nm"] or 20) / movie.pixel_size))
y0, x0 = (n // 2 - half for n in movie.shape[1:])
zoom = movie.frame(0)[y0 : y0 + 2 * half, x0 : x0 + 2 * half]
fig, axes = plt.subplots(1, 2, figsize=(8.5, 4.3), layout="constrained")
for ax in axes:
    plot.show_frame(zoom, movie.pixel_size, ax)
plot.show_particles(
    first.assign(y=first["y"] - y0, x=first["x"] - x0), axes[1], movie.pixel_size, linewidths=2
)
plt.show()

# %% [markdown]
# ## 3. How far can it be trusted?
#
# Three columns say so: `score`, the height of the network's peak at a particle's centre or, for a particle that the frame
# asked for, the probability that there is one; {term}`layer confidence`, the probability that the layer is right, 0.5 for
# a guess; and the {term}`localization error` of each coordinate.

# %% mystnb={"figure": {"caption": "Score, layer confidence and position error of all particles of the movie, by layer. A heap of low scores, of confidences near 0.5 or of large errors asks for a closer look.", "name": "fig-your-trust"}}
fig, axes = plt.subplots(1, 3, figsize=(9, 3), layout="constrained")
largest = table["x_std_nm"].quantile(0.95) if len(table) else 1.0
columns = {"score": (0, 1), "layer_confidence": (0.5, 1), "x_std_nm": (0, max(largest, 1e-3))}
for ax, (column, limits) in zip(axes, columns.items(), strict=True):
    for layer, color in enumerate(plot.LAYER_COLORS, start=1):
        values = table.loc[table["layer"] == layer, column]
        ax.hist(
            values,
            bins=np.linspace(*limits, 31),
            histtype="step",
            lw=2,
            color=color,
            label=f"layer {layer}",
        )
    ax.set(xlabel=column + (" / nm" if column.endswith("nm") else ""), ylabel="particles")
axes[0].legend(frameon=False, loc="upper left")
plt.show()

# %% [markdown]
# A result that changes from frame to frame is not one. Numbers of particles, spacings and twist should be steady, or
# change as your specimen does.


# %%
def lattice_of(group):
    """Spacing in nm and angle in degrees of the particles of one layer in one frame."""
    points = group[["y_nm", "x_nm"]].to_numpy()
    guess = summary["spacing_nm"][f"layer_{group['layer'].iloc[0]}"] or 1.3 * summary["diameter_nm"]
    if len(points) < 8:
        return pd.Series({"particles": len(points), "spacing_nm": np.nan, "angle_deg": np.nan})
    lattice, _ = find_lattice(points, guess)
    return pd.Series(
        {"particles": len(points), "spacing_nm": lattice.spacing, "angle_deg": lattice.angle}
    )


rows = [lattice_of(g).rename(key) for key, g in table.groupby(["frame", "layer"])]
by_frame = pd.DataFrame(rows)
by_frame.index = (
    pd.MultiIndex.from_tuples(by_frame.index, names=["frame", "layer"])
    if len(rows)
    else by_frame.index
)
by_frame.unstack("layer").round(2).head(20) if len(rows) else by_frame

# %% [markdown]
# ## 4. Tracks
#
# With two frames or more, particles are linked to {term}`tracks <track>`: the number stands in `particle`. Long tracks
# are what vibrations and growth are measured on.

# %% mystnb={"figure": {"caption": "Left, how many frames each track lasts, by layer. Right, mean displacement of the particles from one frame to the next, added up: the drift of the field.", "name": "fig-your-tracks"}}
linked = table[table["particle"] >= 0].sort_values(["particle", "frame"])
fig, axes = plt.subplots(1, 2, figsize=(8.5, 3.2), layout="constrained")
for layer, color in enumerate(plot.LAYER_COLORS, start=1):
    lengths = linked[linked["layer"] == layer].groupby("particle").size()
    style = {"histtype": "step", "lw": 2, "color": color, "label": f"layer {layer}"}
    axes[0].hist(lengths, bins=np.arange(1.5, len(movie) + 1.6, max(1, len(movie) // 30)), **style)
step = linked.groupby("particle")[["frame", "y_nm", "x_nm"]].diff()
step = step[step["frame"] == 1].assign(frame=linked["frame"])
drift = step.groupby("frame")[["y_nm", "x_nm"]].mean().cumsum()
for column, color, marker in (
    ("y_nm", plot.LAYER_COLORS[0], "o-"),
    ("x_nm", plot.LAYER_COLORS[1], "s--"),
):
    axes[1].plot(drift.index, drift[column], marker, color=color, label=column[0])
axes[0].set(xlabel="frames per track", ylabel="tracks")
axes[1].set(xlabel="frame", ylabel="drift / nm")
for ax in axes:
    ax.legend(frameon=False)

# %% [markdown]
# ## 5. Save

# %%
result.save(out)
for saved in sorted(out.iterdir()):
    print(f"{saved.name:15}{saved.stat().st_size / 1000:10.0f} kB")

# %% [markdown]
# | file | open it with |
# |---|---|
# | `layer_1.tif`, `layer_2.tif` | the particles' outlines, layer by layer; Fiji: drag and drop; *Image ▸ Color ▸ Merge Channels* lays them over each other, with the right scale |
# | `particles.csv` | any spreadsheet, `pandas.read_csv`, or Fiji's *File ▸ Import ▸ Table* |
# | `summary.json` | any text editor; keep it with your results, since it says what made them |
#
# All of this without the pictures is one command:
#
# ```
# moirelib decompose my_movie.dm4 --pixel-size 0.52 --diameter 30 --out my_movie_layers
# ```
#
# ## 6. What is the lattice doing?
#
# `analyze` runs what chapters {doc}`8 <08_vibrations>` to {doc}`10 <10_growth>` measure, as far as the particles support
# it, and says in one line each which tables they do not. Left to you are functions that need a choice: normal modes
# (which particles?), densities of states, twins of orientation (which symmetry?).

# %%
found = analyze(table)
for name, rows in found.tables.items():
    print(f"{name:12}{len(rows):6} rows")
for name, why in found.notes.items():
    print(f"{name}: {why}")

# %% mystnb={"figure": {"caption": "Layer 1 in the last frame: how far the neighbourhood of each particle is turned, with defects and boundaries.", "name": "fig-your-defects"}}
frame = table["frame"].max()
layer = table[(table["frame"] == frame) & (table["layer"] == 1)]
defects, boundaries = (
    t[(t["frame"] == frame) & (t["layer"] == 1)]
    for t in (found.tables["defects"], found.tables["boundaries"])
)
fig, ax = plt.subplots(figsize=(5.8, 4.8), layout="constrained")
plot.show_strain(strain_map(layer[["y_nm", "x_nm"]].to_numpy()), ax=ax)
plot.show_defects(defects, ax, boundaries=boundaries)
plt.show()

# %% [markdown]
# The same as a command, with all figures, a movie of the tracks and one page for the group meeting, `report.html`, in
# `my_movie_layers/analysis`:
#
# ```
# moirelib analyze my_movie_layers
# ```
#
# ## Record movies that can be taken apart
#
# Nothing done afterwards is worth as much as these, roughly in order:
#
# - **Field of view.** At least one Moiré period, better three: with {term}`spacing` $a$ and {term}`twist angle`
#   $\theta$ in radians, a period is about $a/\theta$, so 15 spacings at 4°. Include a margin where only one layer
#   lies; what is certain there helps inside.
# - **Magnification.** 12 pixels or more across a particle. Fewer than 8 cost precision, under 4 are refused; more than
#   30 gain nothing and cost field of view.
# - **Raw data.** Save what the camera gave, in its own format (dm4, mrc, emd), with its calibration. No contrast
#   stretching, no JPEG, no video codec, no scale bar burnt into the image.
# - **Focus.** Near focus or slightly under it, and constant. Fringes wider than a third of a particle mislead the fit.
# - **{term}`Dose` per frame.** As much as the specimen tolerates. If you can see each particle of a single layer in
#   one frame without averaging, it is enough. Write down the dose rate.
# - **Frame time.** A particle should move less than a quarter of the spacing between frames; drift counts.
# - **Thin liquid.** Each {term}`mean free path` of liquid or window costs more contrast than any processing returns.
# - **A frame of nothing.** One area with liquid and no particles, under the same beam, shows the {term}`amorphous
#   background` and whether the camera's reference was good.
#
# ## When it does not work
#
# | what you see | probable reason | what to do |
# |---|---|---|
# | `pixel size is missing` | the file carries none (many TIFF exports) | set `PIXEL_SIZE` from the microscope's calibration |
# | circles much larger or smaller than the particles | size estimated wrongly | set `DIAMETER`; measure one particle on the screen, in nm |
# | circles between the particles | contrast reversed by defocus, or the wrong polarity chosen (dark or bright particles are told apart by themselves) | look at the raw frame; pass `-movie.data.astype(float)` with its pixel size |
# | "no second lattice found in this field of view", and you see two | twist near zero, or a second layer of very few particles | record a larger field; nothing in this image decides |
# | "which particle is in which layer is uncertain" | the field holds less than one Moiré period | record a larger field; use rows of high `layer_confidence` |
# | layer 2 appears in a single-layer movie | strained or polycrystalline base layer, noise off the lattice | look at `layer_confidence` and `score`; drop what is low in both |
# | layers exchanged from a frame on | few particles in common with the frame before: a jump, frames left out | cut the movie there; compare `by_frame` above |
# | single particles in the wrong layer | the lattice does not decide at its place, or a grain is in the wrong layer as a whole | `layer_confidence`, and a look at the figure of the layers |
# | many tracks of two or three frames | motion above half a particle diameter per frame, or missed particles | record faster; remove drift first |
# | position errors of several nm | low dose, defocus, overlaps | average neighbouring frames if nothing moves |
# | memory runs out | frames of 16 megapixels or more | bin by two before: fewer than 12 pixels per particle are not needed |
#
# ## Exercises
#
# **1.** Run this page on the real frame of {doc}`chapter 6 <06_decompose>`: which lines of the parameter cell change?

# %% tags=["hide-cell"]
try:
    answer = f'MOVIE = "{data.fetch("np_lattice_2p593nm.tif").name}", the file that data.fetch returns the path of'
except OSError as error:
    answer = f"MOVIE = its path; {error}"
print(answer)
print("only this one: the file carries its pixel size, and a single frame needs no frame time")

# %% [markdown]
# **2.** Average all frames of the movie, and decompose the average. Are the errors smaller? What if the field drifts?

# %% tags=["hide-cell"]
mean = movie.data.mean(axis=0).compute()
averaged = moirelib.decompose(
    mean, pixel_size=movie.pixel_size, diameter=summary["diameter_nm"]
).particles
for name, rows in (("single frames", table), ("average", averaged)):
    print(
        f"{name:14} median x_std {rows['x_std_nm'].median():.2f} nm, diameter {rows['diameter_nm'].median():.1f} nm"
    )
print(
    "less noise, but drift and vibration smear the particles: the average is only as sharp as the specimen is still"
)

# %% [markdown]
# ## Summary
#
# - One cell of parameters, one call, four files; one more call for all analyses.
# - Look in this order: pixel size, circles on particles, note, confidence, steadiness from frame to frame.
# - Field of view, magnification, raw data: what is not recorded cannot be taken apart.
#
# ## In practice
#
# - The limits of each step stand at the end of its chapter: the network's in {doc}`chapter 5 <05_unet>`, the
#   decomposition's in {doc}`chapter 6 <06_decompose>`, the particles' and tracks' in {doc}`chapter 7 <07_particles>`.
# - Colab and Binder lose their files when you close them; download the results, or set `OUT` to a mounted folder.
#   Binder has no GPU and 2 GB of memory.
# - If you publish a result, cite moirelib's version from `summary.json` together with the file of the weights, and the
#   work that the method rests on: the network {cite:p}`ronneberger2015`, the loss {cite:p}`yu2017`, belief propagation {cite:p}`pearl1988`, the tracking
#   {cite:p}`crocker1996`, {cite:p}`allan_trackpy`.
