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
# - run the whole analysis on a movie of your own, by changing one cell
# - check each result, in the order in which errors usually arise
# - save everything for Fiji, a spreadsheet or the next chapters
# - record movies that can be taken apart
#
# Needs only a file · CPU · about 2 minutes for the sample; the first frames of a movie take longest · 1 GB
# ```
#
# This page is a template. Without changes it runs on the simulated movie that ships with moirelib. Open it with one of
# the launch buttons, or from a copy of the repository. Put the path of your file into the next cell, and run all cells
# below unchanged.

# %% tags=["parameters"]
MOVIE = (
    None  # path of a .dm4, .mrc, .tif, .emd, ... file, or a folder of frames; None for the sample
)
PIXEL_SIZE = None  # nm per pixel; None takes it from the file
FRAME_TIME = None  # seconds per frame; None takes it from the file
DIAMETER = None  # approximate particle diameter in nm; None estimates it
LAYERS = None  # how many layers there are, 1 or 2; None finds out
FRAMES = None  # which frames to use, as "0:500" or "::10"; None for all
ROI = None  # which part of the field, as "0:512,0:512" (rows, columns in pixels); None for all
OUT = None  # folder for the results; None for a temporary one

# %%
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import moirelib
from moirelib import data, plot
from moirelib.analysis import analyze, strain_map
from moirelib.crystal import find_lattice
from moirelib.decomposition import choose_device
from moirelib.movies import cut_movie

file = Path(MOVIE) if MOVIE is not None else data.path("sample.tif")
out = (
    Path(OUT)
    if OUT is not None
    else Path(tempfile.mkdtemp(prefix="moirelib-")) / f"{file.stem}_layers"
)
print(f"moirelib {moirelib.__version__}, computing on {choose_device()}, results go to {out.name}")

# %% [markdown]
# ## 1. Is the movie read correctly?
#
# Check the shape, the {term}`pixel size` and the frame time against your notes. All lengths in nm depend on the pixel
# size. If the file contains none, or a wrong one, set `PIXEL_SIZE`.

# %%
movie = moirelib.read_movie(file, pixel_size=PIXEL_SIZE, frame_time=FRAME_TIME)
movie = cut_movie(movie, FRAMES, ROI)
field = np.array(movie.shape[1:]) * movie.pixel_size if movie.pixel_size else None
print(
    f"{movie.name}: {len(movie)} frame(s) of {movie.shape[1]} × {movie.shape[2]} pixels, {movie.data.dtype}"
)
print(f"pixel size {movie.pixel_size} nm, field {field} nm, frame time {movie.frame_time} s")
for note in movie.notes:
    print("note:", note)

# %% mystnb={"figure": {"caption": "First, middle and last frame of the movie. Does the field drift, does the focus change, do layers grow or dissolve?", "name": "fig-your-frames"}}
fig, axes = plt.subplots(1, 3, figsize=(9, 3.3), layout="constrained")
for ax, t in zip(axes, (0, len(movie) // 2, len(movie) - 1), strict=True):
    plot.show_frame(movie.frame(t), movie.pixel_size or 1.0, ax, title=f"frame {t}")

# %% [markdown]
# ## 2. Take it apart
#
# This is one call. For a long movie, set `FRAMES = "0:5"` until everything looks right.

# %%
start = time.perf_counter()
result = moirelib.decompose(movie, diameter=DIAMETER, layers=LAYERS, progress=True)
seconds = time.perf_counter() - start
table, summary = result.particles, result.summary
print(summary["note"])
print(f"{len(table)} particles, {summary['diameter_nm'] or float('nan'):.1f} nm wide (median)")
print(f"{seconds / len(movie):.1f} s per frame")

# %% [markdown]
# Read the note first. Then check the circles: do they lie on the particles, and do they have the same size? If not, the
# size was estimated wrongly. Set `DIAMETER` and run again.

# %% mystnb={"figure": {"caption": "First frame of the movie with the particles found, layer 1 (the one that extends furthest) and layer 2.", "name": "fig-your-split"}}
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
# ## 3. How reliable is the result?
#
# Three columns help. `score` is the height of the peak of the network at the centre of a particle; for a particle that
# was added from the residual of the fit, it is the probability that the particle exists. {term}`layer confidence` is the
# probability that the layer is right (0.5 is a guess). The third is the {term}`localization error` of each coordinate.

# %% mystnb={"figure": {"caption": "Score, layer confidence and position error of all particles of the movie, by layer. Look more closely if there are many low scores, confidences near 0.5 or large errors.", "name": "fig-your-trust"}}
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
# A result that jumps from frame to frame is not reliable. Numbers of particles, spacings and twist should be steady, or
# change only as your specimen does.


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
# With two frames or more, particles are linked to {term}`tracks <track>`; the column `particle` holds the number of the
# track. Vibrations and growth are measured from long tracks.

# %% mystnb={"figure": {"caption": "Left, length of the tracks in frames, by layer. Right, cumulative mean displacement of the particles from frame to frame: the drift of the field.", "name": "fig-your-tracks"}}
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
    print(f"{saved.name:20}{saved.stat().st_size / 1000:10.0f} kB")

# %% [markdown]
# | file | open it with |
# |---|---|
# | `layer_1.tif`, `layer_2.tif` | outlines of the particles of each layer; Fiji: drag and drop; *Image ▸ Color ▸ Merge Channels* overlays them, with the right scale |
# | `particles.csv` | any spreadsheet, `pandas.read_csv`, or Fiji's *File ▸ Import ▸ Table* |
# | `particles.parquet` | the same table with all digits: `pandas.read_parquet` |
# | `summary.json` | any text editor; keep it with your results, since it records how they were made |
#
# One command does all of this without the pictures:
#
# ```
# moirelib decompose my_movie.dm4 --pixel-size 0.52 --diameter 30 --out my_movie_layers
# ```
#
# ## 6. Analyse the lattices
#
# `analyze` runs the measurements of chapters {doc}`8 <08_vibrations>` to {doc}`10 <10_growth>` that the data allow. For
# each table that is not possible, it gives the reason in one line. You must call functions that need a choice yourself:
# normal modes (which particles?), densities of states, orientational twins (which symmetry?).

# %%
found = analyze(table)
for name, rows in found.tables.items():
    print(f"{name:12}{len(rows):6} rows")
for name, why in found.notes.items():
    print(f"{name}: {why}")

# %% mystnb={"figure": {"caption": "Layer 1 in the last frame: local rotation of the lattice at each particle, with defects and, if there are any, boundaries.", "name": "fig-your-defects"}}
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
# One command does the same. It writes all figures, a movie of the tracks and a page for the group meeting,
# `report.html`, to `my_movie_layers/analysis`:
#
# ```
# moirelib analyze my_movie_layers
# ```
#
# ## Record movies that can be taken apart
#
# The recording matters more than any later processing. The most important points, roughly in this order:
#
# - **Field of view.** At least one Moiré period, better three. With {term}`spacing` $a$ and {term}`twist angle`
#   $\theta$ in radians, a period is about $a/\theta$, so about 14 spacings at 4°. Include a margin with only one layer;
#   its certain lattice helps in the overlap.
# - **Magnification.** 12 pixels or more across a particle. Fewer than 8 reduce precision, and fewer than 4 are refused.
#   More than 30 gain nothing and reduce the field of view.
# - **Raw data.** Save the data of the camera in its own format (dm4, mrc, emd), with the calibration. No contrast
#   stretching, no JPEG, no video codec, no scale bar in the image.
# - **Focus.** At focus or slightly under it, and constant. Fringes wider than a third of a particle disturb the fit.
# - **{term}`Dose` per frame.** As much as the specimen tolerates. It is enough if you can see each particle of a single
#   layer in one frame without averaging. Write down the dose rate.
# - **Frame time.** A particle should move less than a quarter of the spacing between frames, besides the common drift.
# - **Thin liquid.** Each {term}`mean free path` of liquid or window costs more contrast than processing can recover.
# - **An empty frame.** One area with liquid and no particles, under the same beam, shows the {term}`amorphous
#   background` and the quality of the camera's reference images.
#
# ## When it does not work
#
# | what you see | probable reason | what to do |
# |---|---|---|
# | `pixel size is missing` | the file contains none (many TIFF exports) | set `PIXEL_SIZE` from the microscope's calibration |
# | "no pixel size is taken from the file" | the header holds a placeholder, such as 1.000 Å, a diffraction unit, or two axes that disagree | set `PIXEL_SIZE` |
# | "the bytes are read as signed" | an MRC file of bytes does not say whether they have a sign | look at a frame: if bright places are dark, export it again with 16 bits |
# | "is in colour", "holds 16-bit colours" | a screenshot, a colour table, an overlay burned into the frames | export the recorded grey data, with 8 or 16 bits |
# | "has 4 dimensions" | channels or slices besides time | save one channel and slice as a stack (t, y, x) |
# | a note that frames are missing or that only a part is read | an OME set or a split recording of which parts lie elsewhere, or that was stopped | put all parts into one folder, without renaming them |
# | "holds 37 whole frames of the 100 that its header announces" | the recording was stopped, or the copy was interrupted | nothing, if it was stopped: whole frames are read. Otherwise copy the file again |
# | "stacks of images of one size are taken for the frames of one movie" | a TIFF file to which stacks were appended | if they are several recordings, save each as a file of its own |
# | frames of two recordings in one movie | numbered files are joined in natural order; `movie.notes` says which | put each recording into a folder of its own |
# | "run pip install 'moirelib[video]'"; times are those of playback | AVI, MP4, MOV, MKV | install it; set `FRAME_TIME` from the recording's log |
# | "is cut or damaged" of a video | the recorder or the copy was interrupted | nothing, if you want its whole frames; otherwise copy it again |
# | "damaged, truncated or not such a file", "is empty", "it holds no whole frame" | a copy that was interrupted, a wrong ending of the name | copy or export it again. Of a cut dm3, dm4 or HDF5 file no frame can be read: sizes are written behind the frames, or the library refuses the file |
# | no `cumulative_dose_e_per_A2` in `motion.csv` | the file does not say the dose (only some MRC files do, and Gatan's whose values are electrons) | `moirelib analyze --dose`, in electrons/Å² per frame |
# | "of the 200 files cannot be read ... left out" | single frames of a folder that are empty or damaged | copy them again; the others keep their places |
# | "is one array of a Zarr store" | the folder of an array was given | give the folder above it |
# | "has no column ..." in `moirelib analyze` | a table of another program, in pixels or with other names | the message lists the columns that were found; rename them, or pass `--pixel-size` |
# | "layers are numbered from 1 on" | a table of another program | add 1 to the column `layer`, or remove particles of no layer |
# | circles much larger or smaller than the particles | size estimated wrongly | set `DIAMETER`; measure one particle on the screen, in nm |
# | circles between the particles | contrast reversed by defocus, or the automatic choice of dark or bright particles was wrong | look at the raw frame; pass `-movie.data.astype(float)` with its pixel size |
# | "no second lattice found in this field of view", but you see two | twist near zero, or a second layer of very few particles | set `LAYERS = 2` and look at both layers; record a larger field if neither convinces |
# | "which particle is in which layer is uncertain" | the field holds less than one Moiré period | record a larger field; use rows with high `layer_confidence` |
# | layer 2 appears in a single-layer movie | strained or polycrystalline base layer, false finds off the lattice | set `LAYERS = 1`, if you know that there is one; otherwise look at `layer_confidence` and `score` |
# | layers exchanged after some frame | few particles in common with the frame before | cut the movie there; compare `by_frame` above |
# | "frames left out" in the note | they are black, saturated, incomplete, copies, only noise or cannot be read | `summary["left_out"]` says which and why; tracks go on across them |
# | a black, white or NaN border; a strip of text under or above the image | alignment; export with an information strip | nothing: both are cut off, and positions still count from the frame's corner |
# | "frames cut at a border or strip" in the note | the above, or frames that were not written to their end | if only a few are cut, look at them (`summary["cut"]`): particles are missing in what was not written |
# | "frames with suspiciously few particles" | the beam was off, a bubble, a lost focus | look at these frames (`summary["doubtful"]`) before you trust growth or defects there |
# | "the specimen may have moved by other lattice vectors" | a jump in a field that one perfect lattice fills | numbers of tracks may change there (`summary["motion_undecided"]`); positions and layers do not |
# | the run was stopped, or the computer went off | | give the same command again: finished frames are not computed again |
# | the run takes hours | you want to look at what it has found | `moirelib analyze my_movie_layers`, or `pandas.read_parquet("my_movie_layers/unfinished")`: the finished frames, without tracks |
# | a movie of many thousand frames takes too long | | `--frames ::10` first; `--roi`; `--scheduler` for a Dask cluster |
# | single particles in the wrong layer | the lattice does not determine the layer there, or a whole grain is in the wrong layer | check `layer_confidence` and the figure of the layers |
# | many tracks of two or three frames | motion above half a particle diameter per frame, or missed particles | record faster (drift is taken off) |
# | position errors of several nm | low dose, defocus, overlaps | average neighbouring frames if nothing moves |
# | memory runs out | frames of 16 megapixels or more | bin by two first; 12 pixels per particle are enough |
#
# ## Exercises
#
# **1.** You want to run this page on the real frame of {doc}`chapter 6 <06_decompose>`. Which lines of the parameter cell
# change?

# %% tags=["hide-cell"]
try:
    answer = f'MOVIE = the path of "{data.fetch("np_lattice_2p593nm.tif").name}", from data.fetch'
except OSError as error:
    answer = f"MOVIE = its path. {error}"
print(answer)
print("Only this line: the file contains its pixel size, and a single frame needs no frame time.")

# %% [markdown]
# **2.** Average all frames of the movie, and decompose the average. Are the errors smaller? What is the effect of drift?

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
    "The average has less noise, but drift and vibration blur the particles. Both change the errors."
)

# %% [markdown]
# ## Summary
#
# - One cell of parameters and one call give four files; one more call runs all analyses.
# - Check in this order: pixel size, note, circles on particles, confidence, steadiness from frame to frame.
# - Field of view, magnification and raw data decide what can be taken apart.
#
# ## In practice
#
# - The limits of each step are listed at the end of its chapter: the network in {doc}`chapter 5 <05_unet>`, the
#   decomposition in {doc}`chapter 6 <06_decompose>`, particles and tracks in {doc}`chapter 7 <07_particles>`.
# - Colab and Binder lose their files when you close them; download the results, or set `OUT` to a mounted folder.
#   Binder has no GPU and 2 GB of memory.
# - If you publish a result, cite the version of moirelib from `summary.json` together with the file of the weights, and
#   the work that the method uses: the network {cite:p}`ronneberger2015`, the loss {cite:p}`yu2017`, belief propagation
#   {cite:p}`pearl1988`, and the tracking {cite:p}`crocker1996`, {cite:p}`allan_trackpy`.
