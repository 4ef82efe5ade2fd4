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
# (unet)=
# # Train a network to tell two layers apart
#
# ```{admonition} In this chapter
# :class: tip
# - see what a {term}`U-Net` does to an image, stage by stage
# - see why a small patch cannot tell which layer is "layer 1", and what to ask of the network instead
# - compare three losses: fixed names, a soft minimum and the hard minimum of the {term}`permutation-invariant loss`
# - see why the network also learns particle centres, and how training images are varied
# - train a toy, and test the shipped {term}`weights` on frames they were not trained on
#
# Needs chapter 4 for what a library is · CPU · 1 minute (fast), 3 minutes (full) · 1.6 GB
# ```
#
# Chapter 4 made images with known truth: the raw {term}`frame`, and for each {term}`layer` a mask that is 1
# where a particle of that layer covers the pixel. This chapter trains a network on such pairs. For a new frame it gives
# two masks, and the centres of the particles in each. This output is a start, not the result.
# {doc}`Chapter 6 <06_decompose>` runs the whole method on a movie. {doc}`Chapter 7 <07_particles>` combines the centres
# with the lattices, a fit of the frame and time, and decides where each particle is and in which layer.

# %%
import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from moirelib import data, read_movie
from moirelib.decomposition import (
    CENTER_WIDTH,
    WORKING_DIAMETER,
    LibraryCrops,
    TrainingConfig,
    build_unet,
    load_weights,
    normalize,
    permutation_loss,
    predict,
    resample,
    train,
)
from moirelib.plot import LAYER_COLORS, show_frame, show_layers
from moirelib.simulation import (
    LatticeConfig,
    Lens,
    LibraryConfig,
    clean_image,
    make_library,
    open_library,
    simulate_frame,
    truth_table,
)
from moirelib.validation import score_particles

FAST = os.environ.get("MOIRELIB_FAST", "1") != "0"
print("fast mode" if FAST else "full mode", "with PyTorch", torch.__version__)

# %% [markdown]
# ## A U-Net sees the neighbourhood and keeps the detail
#
# To decide what covers a pixel, a network needs two things. It needs the surroundings, because one particle does not
# show a lattice, and it needs the detail, because outlines are a few pixels wide. A U-Net {cite:p}`ronneberger2015`
# halves the image again and again, so that each pixel summarises a larger area; on the way back up it gets the
# full-size maps through direct connections. `build_unet` uses MONAI's implementation {cite:p}`cardoso2022`, with
# one input channel and two output channels per layer: a mask, and a {term}`centre channel` (explained below). This book
# uses two layers. A second shipped network, trained on from the first one, has channels for three: `decompose` asks it
# where the particles may lie in three layers ({doc}`chapter 7 <07_particles>`).

# %%
torch.manual_seed(0)
model = build_unet().eval()
print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
stages = []
for name, stage in model.named_children():
    stage.register_forward_hook(lambda _, __, out, name=name: stages.append((name, *out.shape[1:])))
image = torch.zeros(1, 1, 128, 128)  # (batch, channel, y, x)
print(tuple(image.shape), "->", tuple(model(image).shape))

# %% [markdown]
# The hooks recorded the output of each stage. Drawn as bars, they show the U that gave the network its name.

# %% mystnb={"figure": {"caption": "Output of each stage of the network for an input of 128 by 128 pixels. The height of a bar is the edge of the maps in pixels, the number above it how many maps there are. Dotted lines are the connections that carry detail across.", "name": "fig-unet-stages"}}
fig, ax = plt.subplots(figsize=(7.5, 3.2), layout="constrained")
names, channels, edges, _ = zip(*stages, strict=True)
ax.bar(range(len(edges)), edges, color=LAYER_COLORS[0], width=0.7)
for i, (c, edge) in enumerate(zip(channels, edges, strict=True)):
    ax.text(i, 1.05 * edge, str(c), ha="center", va="bottom")
for i in range(4):
    ax.plot([i + 0.35, 8 - i - 0.35], [0.85 * edges[i]] * 2, ":", color=LAYER_COLORS[1], lw=2)
ax.set_yscale("log", base=2)
ax.set(
    xticks=range(len(names)),
    yticks=edges[:5],
    yticklabels=edges[:5],
    ylim=(4, 190),
    ylabel="edge / pixels",
)
ax.set_xticklabels(names, rotation=30, ha="right")
plt.show()

# %% [markdown]
# The network halves the image four times, so edges must be multiples of 16; `predict` pads the image where they are not.
#
# ## One network serves every microscope because its input is always the same
#
# The network is trained on particles about `WORKING_DIAMETER` = 12 pixels wide, in images without a unit. Two functions
# bring any frame to this form. `resample` shrinks or enlarges it to that size, and `normalize` removes the brightness
# of the beam and the gain of the camera. `normalize` subtracts the local mean and divides by the local standard
# deviation; a constant added to the variance keeps empty regions from being amplified.

# %%
from scipy.ndimage import gaussian_filter


def normalize_by_hand(image):
    flat = image - image.mean()
    flat = flat - gaussian_filter(flat, 1.4 * WORKING_DIAMETER, truncate=3)
    variance = gaussian_filter(flat**2, 2 * WORKING_DIAMETER, truncate=3)
    return np.clip(flat / np.sqrt(variance + 0.25 * np.mean(flat**2)), -6, 6)


def to_working_size(frame, diameter_px):
    return resample(frame, [round(n * WORKING_DIAMETER / diameter_px) for n in frame.shape])


# %% [markdown]
# We need a frame. The seed (12345, 2) is used by no library, so this frame can serve as a test further down.

# %%
held_out = simulate_frame(LibraryConfig(shape=(384, 384)), seed=(12345, 2))
diameter_px = held_out.parameters["diameter_nm"] / held_out.pixel_size
small = to_working_size(held_out.frame, diameter_px)
same = np.abs(normalize_by_hand(small) - normalize(small)).max()
camera = np.abs(normalize(3 * small + 1000) - normalize(small)).max()
print(f"by hand against moirelib: {same:.1e}; gain 3 and offset 1000: {camera:.1e}")

# %% mystnb={"figure": {"caption": "A simulated frame of two layers as the camera records it (left, in counts) and as the network receives it (right, in local standard deviations). Counts, gain and slow changes of brightness are removed; the lattices stay.", "name": "fig-unet-input"}}
fig, axes = plt.subplots(1, 2, figsize=(8.5, 3.8), layout="constrained")
show_frame(held_out.frame, held_out.pixel_size, axes[0], title="raw frame")
show_frame(
    normalize(small),
    held_out.pixel_size * diameter_px / WORKING_DIAMETER,
    axes[1],
    title="normalised",
)
for ax, label in zip(axes, ("counts", "standard deviations"), strict=True):
    fig.colorbar(ax.images[0], ax=ax, label=label, shrink=0.85)

# %% [markdown]
# ## The name of a layer is not in the pixels
#
# Layer 1 is the {term}`base layer` by definition, but both layers consist of the same particles on the same lattice.
# Exchange the layers along the beam: the transmitted light is the product of the same two factors in the other order.
# Only their distances to the focal plane change. A simulation shows how much:

# %%
bottom, top = held_out.scene.layers
exchanged = replace(held_out.scene, layers=(replace(bottom, z=top.z), replace(top, z=bottom.z)))
optics = {"pixel_size": held_out.pixel_size, "lens": Lens(defocus=200.0), "mean_free_path": 45.0}
pictures = [clean_image(scene, **optics) for scene in (held_out.scene, exchanged)]

# %% mystnb={"figure": {"caption": "The same two lattices in both orders along the beam, without noise, and their difference on the same grey range. Exchanging the layers changes only a small part of the contrast.", "name": "fig-exchanged"}}
fig, axes = plt.subplots(1, 3, figsize=(9, 3.3), layout="constrained")
difference = pictures[1] - pictures[0]
for ax, picture, title in zip(axes, pictures, ("as it was", "layers exchanged"), strict=False):
    show_frame(picture[:160, :160], held_out.pixel_size, ax, title=title)
low, high = axes[0].images[0].get_clim()
show_frame(difference[:160, :160], held_out.pixel_size, axes[2], title="difference")
axes[2].images[0].set_clim(-(high - low) / 2, (high - low) / 2)
print(
    f"standard deviation of the difference / of the image: {difference.std() / pictures[0].std():.3f}"
)

# %% [markdown]
# The small difference comes from the {term}`defocus` and changes sign with it, and the defocus in a liquid cell is not
# known to that accuracy. For a patch of a few particles, the two orders are one image with two right answers.
#
# The obvious training gives each layer a *fixed* channel. Then the training data hold both answers for the same
# input. Take a pixel that one particle covers: the truth is (1, 0) in half of the cases and (0, 1) in the other half.
# Cross-entropy is lowest at the average, (½, ½): **everything in both channels**, at half strength, and the layers are
# not separated at all. The names can be seen only where the edge of a layer is in sight, since layer 1 is the one that
# reaches further.
#
# ## Everything in both channels scores two thirds
#
# The trap is easy to miss because its scores do not look bad. Suppose that all particles are found perfectly, and each
# is put into both layers. Every true particle is found in its layer, so the {term}`recall` is 1. Half of the finds are
# right, so the {term}`precision` is ½. The harmonic mean, the {term}`F1 score`, is 2/3 for any scene:

# %%
true_particles = truth_table(held_out.scene, held_out.pixel_size)
both = pd.concat([true_particles.assign(layer=k) for k in (1, 2)])
nm = held_out.parameters["diameter_nm"], np.array(held_out.frame.shape) * held_out.pixel_size
for name, found in (("truth", true_particles), ("everything in both", both)):
    scores = score_particles(found, true_particles, *nm)
    print(f"{name:20}", {k: round(v, 3) for k, v in scores.items() if k != "rmse_nm"})

# %% [markdown]
# A layer-resolved F1 near 2/3 means that **nothing was separated**. `assignment` is the share of found particles
# in the right layer. It does not fall here: of two finds at one place, one is in the right layer. Never read one score
# alone. {doc}`Chapter 6 <06_decompose>` includes this answer in its comparison, as the lower limit.
#
# ## Three losses compared
#
# There are three ways to treat names in a loss. Let $L_{12}$ be the loss if channels 1 and 2 are called layers 1
# and 2, and $L_{21}$ if they are called the other way round.
#
# - **Fixed names**: take $L_{12}$. Averaged over many images, this is the mean of both.
# - **Soft minimum**: $1 / (1/L_{12} + 1/L_{21})$, as in Gomb-Net, which finds the atoms of twisted bilayers
#   {cite:p}`houston2025`. It is zero when either naming is right.
# - **Hard minimum**: $\min(L_{12}, L_{21})$, the {term}`permutation-invariant loss`, first used to separate two voices in
#   one recording {cite:p}`yu2017`. It is also zero when either naming is right.

# %%
p = np.linspace(0.01, 0.99, 99)
p1, p2 = np.meshgrid(p, p)


def three_losses(p1, p2):
    """Mean cross-entropy of two channels at a pixel covered by one particle, for three losses."""
    named_12 = -(np.log(p1) + np.log(1 - p2)) / 2
    named_21 = -(np.log(p2) + np.log(1 - p1)) / 2
    return {
        "fixed names": (named_12 + named_21) / 2,
        "soft minimum": 1 / (1 / named_12 + 1 / named_21),
        "hard minimum": np.minimum(named_12, named_21),
    }


# %% mystnb={"figure": {"caption": "Loss of one pixel that one particle covers, against the network's two outputs. Stars mark the minima. With fixed names the only minimum is one half in both channels, which is useless; the other two losses have minima at both right answers. Bottom right, a cut from one right answer to the other. In the undecided middle the hard minimum has an edge with a slope on either side; the soft minimum is flat.", "name": "fig-trap"}}
fig, axes = plt.subplots(2, 2, figsize=(8, 6.8), layout="constrained")
for ax, (title, loss) in zip(axes.flat, three_losses(p1, p2).items(), strict=False):
    levels = np.linspace(0, 2.4, 13)
    shades = ax.contourf(p1, p2, loss, levels=levels, extend="max", cmap="cividis")
    best = np.isclose(loss, loss.min())
    ax.plot(p1[best], p2[best], "*", ms=16, color="white", mec="black", clip_on=False)
    ax.set(title=title, xlabel="output of channel 1", ylabel="output of channel 2", aspect="equal")
fig.colorbar(shades, ax=axes[:, 0], label="loss per channel", location="left", shrink=0.6)
for (title, loss), style in zip(three_losses(p, 1 - p).items(), (":", "--", "-"), strict=True):
    axes[1, 1].plot(p, loss, style, lw=2, label=title)
axes[1, 1].set(xlabel="output of channel 1 = 1 − output of channel 2", ylabel="loss per channel")
axes[1, 1].set(title="from one answer to the other", ylim=(0, 1.6))
axes[1, 1].legend(frameon=False, loc="upper center")
plt.show()

# %% [markdown]
# One difficulty is left. Where both channels say the same, neither naming is better. A network starts there: it learns
# to find particles first and separates the layers later. At this point the soft minimum is flat, because its slopes for
# the two namings cancel, and chance decides. The hard minimum has an edge: the naming that is slightly better gets the
# whole slope. Two more measures help. A Dice term (one minus the overlap with the true mask, relative to both sizes)
# makes a particle that appears in both channels expensive. And the random initial weights keep the two channels from
# being exactly equal.
#
# ## The loss, written out: one naming per image, and one per window
#
# Over how large an area must one naming hold? If it must hold over the whole image, the network has to carry the
# name from particle to particle across the field. If each pixel may choose, the network can change names within a
# particle. We average two losses: one over the image, which rewards names that hold as far as the network can see, and
# one over windows of a few particles, where only the separation counts. This is the core, with cross-entropy only:


# %%
def permutation_loss_by_hand(probability, truth, window):
    """Both of shape (2, y, x); the mean over windows of the smaller of two losses."""
    p = np.clip(probability, 1e-6, 1 - 1e-6)
    losses = []
    for named in (truth, truth[::-1]):
        entropy = -(named * np.log(p) + (1 - named) * np.log(1 - p)).mean(axis=0)
        blocks = entropy.reshape(entropy.shape[0] // window, window, -1, window)
        losses.append(blocks.mean(axis=(1, 3)))
    return np.minimum(*losses).mean()


# %% [markdown]
# Four answers for a part of our frame show what the loss rewards. Each answer is nearly certain (0.98).

# %%
truth = (held_out.masks[:, :128, :128] > 127).astype(float)
swapped_half = np.where(np.arange(128) < 64, truth, truth[::-1])
union = np.maximum(*truth)
answers = {
    "right": truth,
    "right, other names": truth[::-1],
    "names change halfway": swapped_half,
    "everything in both channels": np.stack([union, union]),
}
print(f"{'':28}  whole image  windows  moirelib (both, with Dice)")
for name, answer in answers.items():
    soft = 0.02 + 0.96 * answer
    by_hand = [permutation_loss_by_hand(soft, truth, window) for window in (128, 64)]
    tensors = [
        torch.tensor(x, dtype=torch.float32)[None] for x in (np.log(soft / (1 - soft)), truth)
    ]
    print(
        f"{name:28}  {by_hand[0]:11.3f}  {by_hand[1]:7.3f}  {permutation_loss(*tensors, window=64):.3f}"
    )

# %% [markdown]
# The first two rows are equal: names are free. Names that change halfway cost much over the whole image and nothing in
# windows. Everything in both channels is expensive in all columns.
#
# ## Centres separate particles that touch
#
# A mask does not say how many particles it holds: neighbours that touch form one blob. The later steps need
# points. So each layer has a second channel with a peak of height 1 at every particle's centre, as in networks that
# detect objects as points {cite:p}`zhou2019`. The mask and the centres of a layer belong together: they change names
# together, both in the loss and in the output of `predict`. Here is one layer of a frame of large, close particles:

# %%
from scipy.ndimage import label as number_blobs, maximum_filter


def peaks_by_hand(yx, shape):
    """Gaussian peaks at the points (n, 2); where two overlap, the higher value counts."""
    grid = np.stack(np.indices(shape), axis=-1)[:, :, None]
    nearest = np.linalg.norm(grid - yx, axis=-1).min(axis=-1)
    return np.exp(-0.5 * (nearest / CENTER_WIDTH) ** 2)


crowd = LatticeConfig(
    shapes=("sphere",), diameter_ratio=(0.92, 0.92), position_std=(0.05, 0.05), single_layer=0.0
)
crowded = simulate_frame(LibraryConfig(shape=(256, 256), lattice=crowd), seed=(12345, 20))
crowded_px = crowded.parameters["diameter_nm"] / crowded.pixel_size
mask = to_working_size(crowded.masks[0], crowded_px) / 255
table = truth_table(crowded.scene, crowded.pixel_size)
yx = table.loc[table["layer"] == 1, ["y", "x"]].to_numpy()
yx = (yx + 0.5) * WORKING_DIAMETER / crowded_px - 0.5
yx = yx[np.all((yx > -0.5) & (yx < np.array(mask.shape) - 0.5), axis=1)]
peaks = peaks_by_hand(yx, mask.shape)
tops = np.sum((peaks == maximum_filter(peaks, 5)) & (peaks > 0.5))
print(f"{len(yx)} centres, {number_blobs(mask > 0.5)[1]} blobs in the mask, {tops} peaks")

# %% mystnb={"figure": {"caption": "Training targets of one layer: the mask (left), in which neighbours merge, and the centres (right), which stay apart. Dots are the true centres.", "name": "fig-centres"}}
fig, axes = plt.subplots(1, 2, figsize=(7.5, 3.6), layout="constrained")
working_nm = crowded.pixel_size * crowded_px / WORKING_DIAMETER
for ax, image, title in zip(axes, (mask, peaks), ("mask", "centres"), strict=True):
    show_frame(image, working_nm, ax, title=f"{title} of layer 1")
    ax.plot(yx[:, 1], yx[:, 0], ".", color=LAYER_COLORS[1], ms=4)

# %% [markdown]
# The cross-entropy of the centres counts twice, since peaks cover few pixels. Both targets are soft, between 0 and 1.
# The lowest cross-entropy of a soft target is not zero but the target's own entropy. `permutation_loss` subtracts it, so
# zero still means perfect.
#
# ## Augmentation: no crop is seen twice
#
# A library is finite, but its crops can be varied. A crop may be turned, mirrored, zoomed and stretched, since a
# lattice in another direction or under a slight tilt is as good a lattice. It may also be blurred, inverted, made
# noisier or unevenly bright, since microscopes do that too. `LibraryCrops` draws these changes anew for every crop, from
# the seed and the crop's number, and moves masks and centres along. We make a small library and draw six crops of one
# image:

# %% tags=["remove-output"]
config = replace(TrainingConfig.fast(), steps=30 if FAST else 200)
library_config = replace(LibraryConfig.fast(), images=24 if FAST else 96)
folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
library = Path(folder.name) / "library"
make_library(library, library_config, seed=0, workers=1, progress=False)
crops = LibraryCrops(open_library(library), [4], config, seed=0)

# %% mystnb={"figure": {"caption": "Six training crops of one image, normalised, with the true centres of layers 1 (blue) and 2 (orange). Direction, size, stretch, contrast, blur and noise differ; the truth moves along.", "name": "fig-augmentation"}}
fig, axes = plt.subplots(2, 3, figsize=(8.2, 5.6), layout="constrained")
for i, ax in enumerate(axes.flat):
    image, answer = crops[i]
    ax.imshow(image[0], cmap="gray", vmin=-3, vmax=3)
    for k, color in enumerate(LAYER_COLORS):
        top = answer[2 + k].numpy()
        y, x = np.nonzero((top == maximum_filter(top, 5)) & (top > 0.5))
        ax.plot(x, y, "os"[k], color=color, ms=3)
    ax.set(xticks=[], yticks=[], title=f"crop {i} (edge {config.crop} px)")

# %% [markdown]
# A quarter of the training images of the shipped weights follow the published recipe ({doc}`chapter 4 <04_library>`),
# whose standing rods are nearly opaque where they overlap. The others cover the ranges of the library.
#
# ## What the network decides, and what it does not
#
# | the network decides | a patch of pixels does not show | what decides it |
# |---|---|---|
# | where particles are, also under others | which layer is called 1 | the layer that reaches furthest, {doc}`chapter 7 <07_particles>` |
# | which neighbours share a layer | the same names across the whole field | the lattices of all particles together |
# | where centres are, to about a pixel | positions, sizes and their error bars | the fit of the frame |
# | how sure it is: a low peak means "unsure" | whether a faint find is a particle | the likelihood of the frame with and without it |
#
# A network that leaves these questions open can be small, and its output is easier to trust.
#
# ## A toy training run
#
# The next cell trains on the small library for a few steps, with the function behind `moirelib train`. **It is a
# toy**: it shows that the loss falls, but its network is useless. PyTorch {cite:p}`paszke2019` does the computing.
# Lightning runs the loop and writes checkpoints, from which an interrupted run continues.

# %% tags=["remove-output"]
with folder:
    toy = train(library, Path(folder.name) / "toy.safetensors", config, seed=0, device="cpu")

# %% [markdown]
# `train` returns the model card: how the network was trained, on what, for how long, and how good it is. The card of the
# shipped weights lies beside them in `data/`.

# %%
card = json.loads(data.path("unet.json").read_text(encoding="utf-8"))
print(f"{'':18}{'toy':>16}{'shipped':>16}")
for name in ("steps", "batch", "crop", "window"):
    print(f"{name:18}{toy['training'][name]:16}{card['training'][name]:16}")
print(f"{'library images':18}{toy['library']['images']:16}{card['library']['images']:16}")
print(f"{'hours':18}{toy['hours']:16.3f}{card['hours']:16.3f}")
for name, value in card["validation"].items():
    print(f"{name:18}{toy['validation'][name]:16}{value:16}")
print("shipped weights trained on:", card["hardware"], "with PyTorch", card["torch"])
print(f"seeds of the shipped weights: library {card['library']['seed']}, training {card['seed']}")
if "crops" in card:
    print("shipped weights:", card["crops"])
for plan in card["training"].get("earlier_plans", []):
    print(f"until step {plan['until_step']} planned for {plan['planned_steps']} steps")

# %% [markdown]
# Two commands make such weights with these seeds; they use a GPU if there is one. The shipped weights were made by a
# variant of this training on a lent machine, where other processes drew the crops and rounded them as printed; the
# card's hardware and crops are those of that run. To get the same weights again, the code must be the same too, and
# the planned length of the run must not change on the way. The card keeps the commit, the library's whole configuration,
# and earlier plans if there were any.
#
# ```
# moirelib library --training --seed LIBRARY_SEED --out library
# moirelib train --library library --seed TRAINING_SEED --out data/unet.safetensors
# ```

# %% mystnb={"figure": {"caption": "Training loss of the toy and of the shipped weights against the number of optimiser steps, averaged over stretches of the run. Zero would be a perfect separation. The dashed line is measured on whole-size crops of scenes kept out of the training, without the changes of zoom and contrast that make training crops harder.", "name": "fig-curves"}}
fig, ax = plt.subplots(figsize=(6.5, 3.4), layout="constrained")
for name, run, color in (("toy", toy, LAYER_COLORS[1]), ("shipped", card, LAYER_COLORS[0])):
    steps = np.linspace(0, run["training"]["steps"], len(run["curve"]) + 1)[1:]
    ax.plot(steps, run["curve"], color=color, label=name)
ax.axhline(
    card["validation"]["loss"], ls="--", color="0.4", label="shipped, on scenes not trained on"
)
ax.set(xscale="log", xlabel="optimiser steps", ylabel="loss", ylim=(0, None))
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# The scores on the card come from the library's last scenes, which were kept out of the training. `mask_iou` is the
# {term}`IoU` of both predicted masks with the true ones, `pixel_accuracy` the fraction of right pixels in both. Each is
# taken with the better of the two namings of a crop.
#
# ## A test: frames from a seed that was never trained on
#
# `predict` normalises, pads, tiles large images and returns masks and centres. The held-out frame of
# {numref}`fig-unet-input` has a known truth. The fair comparison uses the better of the two namings of the *whole*
# frame.

# %%
network = load_weights(device="cpu")


def examine(simulated):
    """Predicted and true masks of a simulated frame at working size, channels in the better order."""
    diameter_px = simulated.parameters["diameter_nm"] / simulated.pixel_size
    probability, _ = predict(network, to_working_size(simulated.frame, diameter_px))
    masks = np.clip(resample(simulated.masks, probability.shape[1:]) / 255, 0, 1)
    errors = [np.abs(probability[order] - masks).mean() for order in ([0, 1], [1, 0])]
    return (probability if errors[0] <= errors[1] else probability[::-1]), masks


probability, masks = examine(held_out)
pixel_size = held_out.pixel_size * held_out.frame.shape[0] / probability.shape[1]

# %% mystnb={"figure": {"caption": "Held-out simulated frame. Top, the masks in the network's two channels; bottom, the true masks of layers 1 (blue) and 2 (orange). Where a channel follows first one lattice and then the other, the network changed names in between.", "name": "fig-held-out"}}
fig, axes = plt.subplots(2, 3, figsize=(9, 6.2), layout="constrained")
show_frame(held_out.frame, held_out.pixel_size, axes[0, 0], title="raw frame")
axes[1, 0].axis("off")
for row, stack, word in ((0, probability, "channel"), (1, masks, "true layer")):
    for k in (0, 1):
        alone = np.zeros_like(stack)
        alone[k] = stack[k]
        show_layers(alone, pixel_size, axes[row, 1 + k], title=f"{word} {k + 1}")

# %% [markdown]
# We read the channels at the true particle centres. A particle of layer 1 has the right name if channel 1 is the
# stronger one there. Where a particle of the other layer covers the same centre, both channels should respond and the
# comparison says nothing; we leave those particles out.


# %%
def check_names(probability, masks, simulated):
    """Uncovered centres (y, x) of both layers in pixels of the frame, and whether each has its layer's name."""
    points, right = [], []
    zoom = probability.shape[1] / simulated.frame.shape[0]
    for k, layer in enumerate(simulated.scene.layers):
        px = layer.positions / simulated.pixel_size - 0.5
        px = px[np.all((px >= 0) & (px < np.array(simulated.frame.shape) - 1), axis=1)]
        y, x = np.clip(np.rint((px + 0.5) * zoom - 0.5).astype(int).T, 0, probability.shape[1] - 1)
        free = masks[1 - k, y, x] < 0.5
        points.append(px[free])
        right.append((probability[k, y, x] > probability[1 - k, y, x])[free])
    return np.concatenate(points), np.concatenate(right)


# %% [markdown]
# One frame proves little, and we chose this one because its Moiré pattern is easy to see. Here are the first eight
# frames of its seed, not selected, and two of the published recipe. "Any layer" scores the union of the channels: were
# the particles found at all? "Frame" uses one naming for the frame, "windows" the better naming in each window
# of 64 pixels. The gap between these two is the cost of names that change within a frame. "Exchanged" is the share of
# uncovered particles with the other layer's name.


# %%
def iou(predicted, truth):
    return np.sum(predicted & truth) / max(np.sum(predicted | truth), 1)


def iou_in_windows(predicted, truth, window=64):
    """IoU with the better naming in each window; windows count by their number of pixels."""
    shared = total = 0
    for y in range(0, truth.shape[1], window):
        for x in range(0, truth.shape[2], window):
            a, b = (m[:, y : y + window, x : x + window] for m in (predicted, truth))
            namings = [(np.sum(c & b), np.sum(c | b)) for c in (a, a[::-1])]
            best = max(namings, key=lambda s: s[0] / max(s[1], 1))
            shared, total = shared + best[0], total + best[1]
    return shared / max(total, 1)


# %%
print("seed        shape       twist    dose       mask IoU: any layer  frame  windows  exchanged")
exams = []
recipe = replace(LibraryConfig.published(), shape=(384, 384))
for i in range(10):
    ranges = LibraryConfig(shape=(384, 384)) if i < 8 else recipe
    simulated = simulate_frame(ranges, seed=(12345, i))
    soft, soft_truth = examine(simulated)
    points, right = check_names(soft, soft_truth, simulated)
    exams.append((np.mean(~right), i, simulated, points, right))
    answer, truth = soft > 0.5, soft_truth > 0.5
    scores = (
        iou(answer.any(axis=0), truth.any(axis=0)),
        iou(answer, truth),
        iou_in_windows(answer, truth),
    )
    p = simulated.parameters
    twist = "  one" if p["twist_deg"] is None else f"{p['twist_deg']:4.1f}°"
    text = f"{p['shape']:10}  {twist}  {p['camera']['dose']:5.0f} e/Å²"
    columns = f"{scores[0]:20.2f}  {scores[1]:5.2f}  {scores[2]:7.2f}  {np.mean(~right):9.1%}"
    print(f"(12345, {i})  {text}  {columns}{'  recipe' * (i >= 8)}")

# %% mystnb={"figure": {"caption": "Names in the frame chosen above (left) and in the frame of the table with the most exchanged names (right). Each mark is a particle whose centre is not covered by the other layer; blue dots have their layer's name, orange squares the other's. A patch of orange is a region where the names are exchanged; a single square is an error of the separation.", "name": "fig-swaps"}}
fig, axes = plt.subplots(1, 2, figsize=(9.5, 5), layout="constrained")
for ax, exam in zip(axes, (exams[2], max(exams, key=lambda exam: exam[0])), strict=True):
    _, i, simulated, points, right = exam
    show_frame(simulated.frame, simulated.pixel_size, ax, title=f"seed (12345, {i})")
    for yes, marker, label in ((True, "o", "name agrees"), (False, "s", "name exchanged")):
        y, x = points[right == yes].T
        style = {"s": 22, "marker": marker, "edgecolors": "white", "linewidths": 0.5}
        ax.scatter(x, y, color=LAYER_COLORS[0 if yes else 1], label=f"{label}: {len(x)}", **style)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=2, frameon=False)

# %% [markdown]
# Low doses, strong clouds and twists of a few degrees are hard, for a person too. The library contains them on purpose:
# the network should learn to answer "nothing certain" there and not to invent. Where rods are nearly opaque, the pixels
# inside an overlap hold almost nothing about the lower layer. There the outlines and the lattice around have to supply
# it ({doc}`chapter 7 <07_particles>`).
#
# ## A test of the losses
#
# The benchmark of {doc}`chapter 6 <06_decompose>` tests the argument about losses. It trains this network three times
# on the same crops, for the same small number of steps: with cross-entropy and Dice under fixed names, with the
# published soft minimum of Dice, and with our hard minimum. Each network is scored on scenes that none was trained on.
# Its channels count as the layers, under the better naming of the whole frame.

# %%
bench = json.loads(data.path("bench_layers.json").read_text(encoding="utf-8"))


def with_interval(value):
    """Mean, and half the bootstrap interval of 95 % over scenes."""
    return f"{value['mean']:.3f} ± {(value['high'] - value['low']) / 2:.3f}"


def score_table(entries):
    """Table of networks' scores, each with its interval."""
    names = ("f1", "f1_agnostic", "assignment", "mask_iou")
    rows = {k: [with_interval(row[n]) for n in names] for k, row in entries.items()}
    return pd.DataFrame(rows, index=names).T


ablation = bench["ablation"]
print("optimiser steps:", {name: row["steps"] for name, row in ablation.items()})
score_table(ablation)

# %% [markdown]
# Remember the lower limit when you read this table. A network that puts everything into both channels has an F1 near
# 2/3, the same F1 when layers are ignored (half of its finds are false either way), and a perfect `assignment`. The row
# of the soft minimum looks like that: after so few steps it has not separated the layers. The two other losses have a
# higher `f1_agnostic`, so more of their particles stand in one channel only. The table does not decide between
# these two, because every name that changes within the frame counts against the hard minimum, which allows it.
#
# The difference shows in networks that are trained to the end. The next figure shows one scene of the benchmark, the
# first of its family, and the answers of networks trained on the same library for many more steps. Chapter 6 lists
# their training.

# %%
example, about = data.benchmark_example()
print("made by", about["command"], "at commit", about["commit"])
print("particles of the whole frame in layers 1 and 2:", *about["particles"])

# %% mystnb={"figure": {"caption": "A held-out simulated frame, the true layers, and the answers of four networks: layer 1 blue, layer 2 orange, pale green where both channels respond; in brackets the layer-resolved F1 of the whole frame. With fixed names every particle stands in both channels at half strength wherever the edge of layer 2 is out of sight. Two decoders with the soft minimum put everything into both. The network of this chapter separates most particles, though its names may change within the frame.", "name": "fig-naive"}}
TITLES = {
    "published U-Net": "classic U-Net, fixed names",
    "fixed channels": "our network, fixed names",
    "two decoders, soft minimum": "two decoders, soft minimum",
    "moirelib's network alone": "our network, hard minimum",
}
fig, axes = plt.subplots(2, 3, figsize=(9, 6.4), layout="constrained")
show_frame(example["frame"], about["pixel_size"], axes[0, 0], title="raw frame")
show_layers(example["truth"] / 255, about["pixel_size"], axes[0, 1], title="true layers")
for ax, (name, title) in zip(axes.flat[2:], TITLES.items(), strict=True):
    title = f"{title} ({about['scores'][name]['f1']:.2f})"
    show_layers(example[name] / 255, about["pixel_size"], ax, title=title)

# %% [markdown]
# (These networks differ in more than their loss: ours also learns centres, and it saw fewer crops. The table above
# compares the loss alone.) The networks with fixed names fall into the trap of {numref}`fig-trap`: one half in
# both channels is the minimum of their loss. More training helps little, because the patch does not contain the answer.
# The F1 of the whole frame is still above two thirds, because most of its particles lie outside the smaller layer, where
# there is only one layer to name.
#
# The next table covers all scenes of the family "spheres". `f1_agnostic` shows how well a network separates overlapping
# particles; it is highest for ours. The `assignment` of our network alone is lower than the others', because it commits
# itself: a particle that stands in both channels always has one find in the right layer.
# {doc}`Chapter 7 <07_particles>` corrects the names (last row):

# %%
spheres = bench["families"]["spheres"]
score_table({name: spheres[name] for name in (*TITLES, "moirelib")})

# %% [markdown]
# ## A real frame
#
# A simulation can be trusted only as far as the network also works on what it imitates. The real frame used in this book
# is a single layer of standing particles in liquid {cite:p}`ou2020`, published under the MIT licence.
# `moirelib.data.fetch` finds or downloads it. Its particles are about 30 pixels wide, measured by eye on the screen.

# %%
try:
    real = read_movie(data.fetch("np_lattice_2p593nm.tif"))
except OSError:
    real = None

# %% tags=["remove-input"] mystnb={"markdown_format": "myst"}
from IPython.display import Markdown, display

if real is None:
    missing = f"""```{{admonition}} The real frame is not at hand
:class: warning
This page was built without it. A figure is left out here: a part of the real frame, and the sum of the network's two
channels for it. To see it, run the chapter with access to the internet, or save
[the published file]({data.REGISTRY["np_lattice_2p593nm.tif"].url}) as `np_lattice_2p593nm.tif` in a folder and set the
environment variable `MOIRELIB_DATA` to that folder.
```"""
    display(Markdown(missing))

# %% mystnb={"figure": {"caption": "Part of a real liquid-phase TEM frame with one layer, and the network's two channels added up (blue, orange, light where both respond). Without a second lattice the names are arbitrary, and only the sum of the channels has a meaning.", "name": "fig-unet-real"}}
if real is not None:
    part = real.frame(0)[400:800, 250:650]
    answer, _ = predict(network, to_working_size(part, 30))
    part_nm = real.pixel_size * part.shape[0] / answer.shape[1]
    fig, axes = plt.subplots(1, 2, figsize=(8.5, 4.3), layout="constrained")
    show_frame(part, real.pixel_size, axes[0], title="real frame")
    show_layers(answer, part_nm, axes[1], title="both channels")

# %% [markdown]
# ## Exercises
#
# **1.** How far does the network see? The derivative of one output pixel with respect to the input shows on which pixels
# it depends. Compute it for the middle of a 256 × 256 image of noise, and give the radius that holds 95 % of its
# magnitude, in particle diameters.

# %% tags=["hide-cell"]
noise = torch.randn(1, 1, 256, 256, generator=torch.Generator().manual_seed(0), requires_grad=True)
network(noise)[0, 0, 128, 128].backward()
weight = noise.grad[0, 0].abs().numpy()
y, x = np.indices(weight.shape) - 128
radius = np.hypot(y, x).ravel()
order = np.argsort(radius)
share = np.cumsum(weight.ravel()[order]) / weight.sum()
r95 = radius[order][np.searchsorted(share, 0.95)]
print(f"95 % within {r95:.0f} pixels, {r95 / WORKING_DIAMETER:.1f} particle diameters")

# %% [markdown]
# **2.** What is the permutation-invariant loss of a network that gives one half everywhere in both channels? Calculate
# it by hand first (cross-entropy only), then check with `permutation_loss_by_hand`, for two window sizes.

# %% tags=["hide-cell"]
half = np.full((2, 128, 128), 0.5)
truth = (held_out.masks[:, :128, :128] > 127).astype(float)
for window in (128, 64):
    print(f"window {window}: {permutation_loss_by_hand(half, truth, window):.4f}")
print(f"ln 2 = {np.log(2):.4f}")

# %% [markdown]
# **3.** The result must not depend on the camera. Multiply the held-out frame by 3, add 1000, and find the greatest
# change of any probability. Why is it not exactly zero?

# %% tags=["hide-cell"]
brighter, _ = predict(network, to_working_size(3.0 * held_out.frame + 1000, diameter_px))
plain, _ = predict(network, to_working_size(held_out.frame, diameter_px))
print(f"greatest change {np.abs(brighter - plain).max():.1e}: rounding of 32-bit numbers")

# %% [markdown]
# ## Summary
#
# - A U-Net combines wide surroundings and fine detail. Ours expects particles of one size, so every frame is resampled
#   first.
# - A patch of pixels does not show which layer is called 1. A loss with fixed names is lowest for everything in both
#   channels, whose F1 is two thirds. The hard minimum over namings, per image and per window, asks only for the
#   separation. A soft minimum also accepts both namings, but is flat where the network has to decide; our trainings
#   with it did not separate the layers.
# - Centres beside the masks keep touching particles apart. Masks and centres of a layer change names together.
# - As a consequence, names hold only in patches. A later step corrects them with the lattices of all particles.
# - The model card beside the weights gives the command that made them and their scores on scenes not trained on.
#
# ## In practice
#
# - **Train your own** if your particles look unlike those of the library. Change the ranges of `LibraryConfig`,
#   make a library as in {doc}`chapter 4 <04_library>`, and train on it; `moirelib decompose --weights` takes the
#   result. `--device auto` uses a GPU if there is one.
# - **Watch the validation scores, not the curve.** The curve comes from augmented crops and falls even when the
#   simulation no longer resembles your images. Only a look at real frames shows that.
# - **It fails** where the image holds no answer: particles that overlap almost completely (a twist near zero), layers
#   so opaque that nothing of the lower one shines through, doses at which you cannot see the particles either. The
#   probabilities there are near one half, or the names are arbitrary; do not trust a threshold there.
# - Particles much smaller or larger than the given size come out as nothing or as rings. {doc}`Chapter 6
#   <06_decompose>` estimates the size by trial.
# - **Do not read peaks of the centre channels as probabilities.** A low peak is a doubt; the fit of the frame decides
#   whether there is a particle (chapter 7).
#
# References are collected in the {doc}`bibliography`.
