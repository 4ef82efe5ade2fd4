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
# - understand why no network can know which layer is "layer 1" from a small patch, and what to ask it instead
# - compare three losses: fixed names, a soft minimum and the hard minimum of the {term}`permutation-invariant loss`
# - see why centres are asked for beside masks, and through which augmentations a training image passes
# - train a toy, and judge the shipped {term}`weights` on frames that they were never trained on, and on a real one
#
# Needs chapter 4 for what a library is · CPU · 1 minute (fast), 5 minutes (full) · 1.6 GB
# ```
#
# Chapter 4 made images of which we know the answer: the raw {term}`frame`, and for each {term}`layer` a mask that is 1
# where a particle of that layer covers the pixel. This chapter turns such pairs into a network that gives two masks,
# and the centres of the particles in each, for a frame it has never seen. The network's output is a beginning, not the
# result. {doc}`Chapter 6 <06_decompose>` runs the whole method over a movie, and {doc}`chapter 7 <07_particles>`
# decides from the centres, the lattices, the frame itself and time which particle is where and in which layer.

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
    TrainingConfig,
    build_unet,
    load_weights,
    normalize,
    permutation_loss,
    predict,
    resample,
    train,
)
from moirelib.decomposition.training import LibraryCrops
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
# To say what covers a pixel, a network needs two things: the surroundings, because a lattice is not visible in one
# particle, and the detail, because outlines are a few pixels wide. A U-Net {cite:p}`ronneberger2015` gets the first by
# halving the image again and again, so that each remaining pixel summarises a growing area, and the second by passing
# the undiminished maps across to the way back up. `build_unet` is MONAI's implementation {cite:p}`cardoso2022`, with
# one input channel and two output channels per layer: a mask, and a {term}`centre channel` of which more below. Two
# layers are the rule in this book; from a library of three, `train` makes a network of three, for work of your own with
# its channels: `decompose` takes two.

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
# The hooks wrote down what leaves each stage. Drawn as bars, the letter that gave the network its name appears.

# %% mystnb={"figure": {"caption": "What leaves each stage of the network for an input of 128 by 128 pixels. The bars' height is the edge of the maps, the number above them how many maps there are. Dotted lines are the connections that carry detail across.", "name": "fig-unet-stages"}}
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
# With four halvings, edges must be multiples of 16; `predict` pads where they are not.
#
# ## One network serves every microscope because its input is always the same
#
# The network is trained for particles about `WORKING_DIAMETER` = 12 pixels wide, on images without unit. Two steps
# take any frame there: `resample` shrinks or enlarges it to that size, and `normalize` removes what depends on the
# beam and the camera. The second is three lines: subtract the local mean, divide by the local standard deviation, and
# do not blow up regions that hold nothing.

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
# We need a frame. This one is drawn from the seed (12345, 2), which no library uses, so that it can serve as an
# examination further down.

# %%
held_out = simulate_frame(LibraryConfig(shape=(384, 384)), seed=(12345, 2))
diameter_px = held_out.parameters["diameter_nm"] / held_out.pixel_size
small = to_working_size(held_out.frame, diameter_px)
same = np.abs(normalize_by_hand(small) - normalize(small)).max()
camera = np.abs(normalize(3 * small + 1000) - normalize(small)).max()
print(f"by hand against moirelib: {same:.1e}; gain 3 and offset 1000: {camera:.1e}")

# %% mystnb={"figure": {"caption": "A simulated frame of two layers as the camera gives it (left, in counts) and as the network gets it (right, in local standard deviations). Counts, gain and slow changes of brightness are gone; the lattices stay.", "name": "fig-unet-input"}}
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
# Layer 1 is the {term}`base layer` by definition, but the two layers are the same particles on the same lattice.
# Exchange them along the beam, and the transmitted light is the product of the same two factors in the other order.
# Only the distance to the focal plane changes. Simulate it:

# %%
bottom, top = held_out.scene.layers
exchanged = replace(held_out.scene, layers=(replace(bottom, z=top.z), replace(top, z=bottom.z)))
optics = {"pixel_size": held_out.pixel_size, "lens": Lens(defocus=200.0), "mean_free_path": 45.0}
pictures = [clean_image(scene, **optics) for scene in (held_out.scene, exchanged)]

# %% mystnb={"figure": {"caption": "The same two lattices in both orders along the beam, without noise, and the difference on the same grey range. What the exchange of the layers changes is a small part of the contrast.", "name": "fig-exchanged"}}
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
# What little differs comes from the {term}`defocus` and changes sign with it, and the defocus of a liquid cell is not
# known to that accuracy. To a patch of a few particles, the two orders are one image with two right answers.
#
# A network that is trained with *fixed* channel names, the obvious thing to do with two masks, gets both answers in its
# training data for the same input. Take a pixel that one particle covers. Half of the time the truth is (1, 0), half of
# the time (0, 1). The cheapest answer under cross-entropy is the average (½, ½): **everything in both channels**, at
# half strength, and the layers are not separated at all. Only where the end of a layer is in sight can the names be
# seen, since layer 1 is the one that reaches further.
#
# ## Everything in both channels scores two thirds
#
# The trap is treacherous because its scores do not look bad. Suppose that all particles are found perfectly, and each is
# put into both layers. Then every true particle is found in its layer, so the {term}`recall` is 1, and half of what is
# found is right, so the {term}`precision` is ½. Their harmonic mean, the {term}`F1 score`, is 2/3, whatever the scene:

# %%
true_particles = truth_table(held_out.scene, held_out.pixel_size)
both = pd.concat([true_particles.assign(layer=k) for k in (1, 2)])
nm = held_out.parameters["diameter_nm"], np.array(held_out.frame.shape) * held_out.pixel_size
for name, found in (("truth", true_particles), ("everything in both", both)):
    scores = score_particles(found, true_particles, *nm)
    print(f"{name:20}", {k: round(v, 3) for k, v in scores.items() if k != "rmse_nm"})

# %% [markdown]
# A layer-resolved F1 near 0.667 says that **nothing was separated**. `assignment`, the share of found particles in the
# right layer, does not even notice: of two finds at one place, one is in the right layer. No score should be read alone;
# {doc}`chapter 6 <06_decompose>` keeps this answer among the methods it compares as the floor.
#
# ## Three losses, one landscape
#
# There are three ways to deal with names in a loss. Let $L_{12}$ be the loss if channels 1 and 2 are called layers 1
# and 2, and $L_{21}$ if they are called the other way round.
#
# - **Fixed names**: take $L_{12}$. Over many images, one gets the mean of both.
# - **Soft minimum**: $1 / (1/L_{12} + 1/L_{21})$, as in Gomb-Net, which finds the atoms of twisted bilayers
#   {cite:p}`houston2025`. It is zero when either naming is right.
# - **Hard minimum**: $\min(L_{12}, L_{21})$, the {term}`permutation-invariant loss`, first used to separate two voices on
#   one recording {cite:p}`yu2017`. Also zero when either is right.

# %%
p = np.linspace(0.01, 0.99, 99)
p1, p2 = np.meshgrid(p, p)


def three_losses(p1, p2):
    """Mean cross-entropy of two channels at a pixel that one particle covers, under three rules."""
    named_12 = -(np.log(p1) + np.log(1 - p2)) / 2
    named_21 = -(np.log(p2) + np.log(1 - p1)) / 2
    return {
        "fixed names": (named_12 + named_21) / 2,
        "soft minimum": 1 / (1 / named_12 + 1 / named_21),
        "hard minimum": np.minimum(named_12, named_21),
    }


# %% mystnb={"figure": {"caption": "Loss of one pixel that one particle covers, against the network's two outputs. Stars mark the minima. With fixed names the only one is the useless answer of one half in both channels; the other two have minima at both right answers. Bottom right, the cut from one right answer to the other: at the undecided middle the hard minimum has an edge and pushes to either side at once, the soft minimum is flat.", "name": "fig-trap"}}
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
# The trap has not vanished altogether. Where both channels say the same, no naming is better than the other; a network
# starts there, finds the particles first, and separates the layers only when it has left the ridge. There the soft
# minimum is flat: its slopes for the two namings cancel, and small accidents must decide. The hard minimum has an edge:
# whichever naming is ahead by a hair gets the whole slope. Two more measures help off the ridge. A Dice term, one minus
# the overlap with the true mask relative to both sizes, makes a particle that appears in both channels expensive. And
# the network starts from random weights, which keeps the two channels from being exactly equal.
#
# ## The loss, written out: one naming per image, and one per window
#
# How large may the area be over which one naming has to hold? Over the whole image, the network would have to carry the
# name from particle to particle across the field. Over single pixels, the network could change names within a particle.
# We take the average of two: the image, which rewards names that hold as far as the network can see, and windows of a
# few particles, in which the separation counts and nothing else. Here is the core, with cross-entropy only:


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
# Four answers to a piece of our frame show what it rewards. Each is nearly certain of what it says (0.98).

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
# The first two rows are equal: names are free. A change of names halfway costs much over the whole image and nothing in
# windows. Everything in both channels is expensive everywhere.
#
# ## Centres say where one particle ends and the next begins
#
# A mask does not say how many particles it holds: where neighbours touch, it is one blob. What the later steps need is
# points. So each layer has a second channel, with a peak of height 1 at every particle's centre, as in detectors of
# objects as points {cite:p}`zhou2019`. Masks and centres of a layer belong together: both change names at once, in the
# loss and in what `predict` returns. For one layer of a frame of large, close particles:

# %%
from scipy.ndimage import label as number_blobs, maximum_filter


def peaks_by_hand(yx, shape):
    """Gaussian peaks at the points (n, 2); where two meet, the higher counts."""
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

# %% mystnb={"figure": {"caption": "What the network is asked for in one layer: the mask (left), in which neighbours run together, and the centres (right), which stay apart. Dots are the true centres.", "name": "fig-centres"}}
fig, axes = plt.subplots(1, 2, figsize=(7.5, 3.6), layout="constrained")
working_nm = crowded.pixel_size * crowded_px / WORKING_DIAMETER
for ax, image, title in zip(axes, (mask, peaks), ("mask", "centres"), strict=True):
    show_frame(image, working_nm, ax, title=f"{title} of layer 1")
    ax.plot(yx[:, 1], yx[:, 0], ".", color=LAYER_COLORS[1], ms=4)

# %% [markdown]
# The centres' cross-entropy counts twice, since peaks cover few pixels. Both truths are soft, between 0 and 1, and the
# lowest cross-entropy of a soft truth is not zero but its own entropy. `permutation_loss` takes that off, so that zero
# still means perfect.
#
# ## Augmentation: no crop is seen twice
#
# A library is finite, but a crop of it may be turned, mirrored, zoomed and stretched, since a lattice in another
# direction or under a slight tilt is as good a lattice; and it may be blurred, inverted, made noisier or unevenly
# bright, since microscopes do that too. `LibraryCrops` draws all this anew for every crop, from the seed and the
# crop's number, and moves masks and centres along. We make a small library, and draw six crops of one image:

# %% tags=["remove-output"]
config = replace(TrainingConfig.fast(), steps=30 if FAST else 200)
library_config = replace(LibraryConfig.fast(), images=24 if FAST else 96)
folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
library = Path(folder.name) / "library"
make_library(library, library_config, seed=0, workers=1, progress=False)
crops = LibraryCrops(open_library(library), [4], config, seed=0)

# %% mystnb={"figure": {"caption": "Six of the crops in which a network in training meets one image, normalised, with the true centres of layers 1 (blue) and 2 (orange). Direction, size, stretch, contrast, blur and noise differ; the answer moves along.", "name": "fig-augmentation"}}
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
# A quarter of the images that the shipped weights learn from follow the published recipe
# ({doc}`chapter 4 <04_library>`), whose standing rods are nearly opaque where they overlap; the rest spread over
# everything else.
#
# ## What is asked of the network, and what is not
#
# | asked | not asked, because the pixels of a patch do not say | who decides it |
# |---|---|---|
# | where particles are, also under others | which layer is called 1 | the layer that reaches furthest, {doc}`chapter 7 <07_particles>` |
# | which neighbours share a layer | the same names across the whole field | the lattices of all particles together |
# | where centres are, to about a pixel | positions, sizes and their error bars | the fit to the frame |
# | to answer "unsure" with a low peak | whether a faint find is a particle | the frame, asked again with the lattice in mind |
#
# A network that leaves these questions open can be small, and what it says is easier to trust.
#
# ## A toy training run
#
# The next cell trains on the small library with the function behind `moirelib train`, for a few steps only. **It is a toy**: it shows that the loss falls, and its network is good for nothing. PyTorch
# {cite:p}`paszke2019` does the computing; Lightning runs the loop, with checkpoints from which an interrupted run goes
# on.

# %% tags=["remove-output"]
with folder:
    toy = train(library, Path(folder.name) / "toy.safetensors", config, seed=0, device="cpu")

# %% [markdown]
# `train` returns the model card: what was trained how, on what, how long, and how well. The shipped weights have one as
# well, beside them in `data/`.

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
# Two commands make such weights, with these seeds; a GPU is used if there is one. (The run of the shipped weights was a
# variant of that training on a lent machine, where other processes drew the crops and rounded them as printed; what the
# card says of hardware and crops comes from there.) For the same weights, the code has to be the same as well, and the length of the run never changed on the way; the
# card keeps the commit, the library's whole configuration, and earlier plans where there were any.
#
# ```
# moirelib library --training --seed LIBRARY_SEED --out library
# moirelib train --library library --seed TRAINING_SEED --out data/unet.safetensors
# ```

# %% mystnb={"figure": {"caption": "Training loss of the toy and of the shipped weights against the number of optimiser steps, as means over stretches of the run. Zero would be a perfect separation. The dashed line is taken on whole-size crops of kept-out scenes, without the changes of zoom and contrast that make training crops harder.", "name": "fig-curves"}}
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
# The scores on the card are taken on the library's last scenes, which were kept out of the training: `mask_iou` is the
# {term}`IoU` of both predicted masks with the true ones, `pixel_accuracy` the fraction of right pixels in both, each
# under the better of the two namings of a crop.
#
# ## An examination: frames from a seed that was never trained on
#
# `predict` normalises, pads, tiles large images and returns masks and centres. The held-out frame of
# {numref}`fig-unet-input` has its truth; the fair comparison is under the better of the two namings of the *whole*
# frame.

# %%
network = load_weights(device="cpu")


def examine(simulated):
    """Masks, found and true, of a simulated frame at working size, channels in the better order."""
    diameter_px = simulated.parameters["diameter_nm"] / simulated.pixel_size
    probability, _ = predict(network, to_working_size(simulated.frame, diameter_px))
    masks = np.clip(resample(simulated.masks, probability.shape[1:]) / 255, 0, 1)
    errors = [np.abs(probability[order] - masks).mean() for order in ([0, 1], [1, 0])]
    return (probability if errors[0] <= errors[1] else probability[::-1]), masks


probability, masks = examine(held_out)
pixel_size = held_out.pixel_size * held_out.frame.shape[0] / probability.shape[1]

# %% mystnb={"figure": {"caption": "Held-out simulated frame. Top, the masks in the network's two channels; bottom, the true masks of layers 1 (blue) and 2 (orange). Where a channel follows first one lattice and then the other, the network has changed names on the way.", "name": "fig-held-out"}}
fig, axes = plt.subplots(2, 3, figsize=(9, 6.2), layout="constrained")
show_frame(held_out.frame, held_out.pixel_size, axes[0, 0], title="raw frame")
axes[1, 0].axis("off")
for row, stack, word in ((0, probability, "channel"), (1, masks, "true layer")):
    for k in (0, 1):
        alone = np.zeros_like(stack)
        alone[k] = stack[k]
        show_layers(alone, pixel_size, axes[row, 1 + k], title=f"{word} {k + 1}")

# %% [markdown]
# Read at the true particle centres, the channels show what the loss allowed: names that hold as far as the network
# could carry them. A particle of layer 1 carries its name if channel 1 is the stronger one there. Where a particle of
# the other layer covers the same centre, both channels should answer, and the comparison says nothing; those are left
# out.


# %%
def follows(probability, masks, simulated):
    """Free centres (y, x) of both layers in pixels of the frame, and whether each carries its layer's name."""
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
# One frame proves little, and we chose this one because its Moiré pattern is easy to see. Here are the first eight of
# its seed, chosen by nobody, and two of the published recipe. "Any layer" scores the union of the channels, so it asks
# only whether particles were found; "frame" uses one naming for the frame; "windows" the better naming in each window
# of 64 pixels. The gap between the last two is what names that change within a frame cost, and "exchanged" is the
# share of free particles with the other name.


# %%
def iou(predicted, truth):
    return np.sum(predicted & truth) / max(np.sum(predicted | truth), 1)


def iou_in_windows(predicted, truth, window=64):
    """Each window's union weighs as much as it has pixels."""
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
    points, right = follows(soft, soft_truth, simulated)
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

# %% mystnb={"figure": {"caption": "Names in the frame chosen above (left) and in the one of the table with the most exchanged names (right). Each mark is a particle whose centre is not covered by the other layer; blue dots carry their layer's name, orange squares the other's. A patch of orange is a place where the names are exchanged; a single square is an error of the separation.", "name": "fig-swaps"}}
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
# Low doses, strong clouds and twists of a few degrees are hard, as they are for a person: the library holds them on
# purpose, so that the network learns to answer "nothing certain" rather than to invent. And where rods are nearly
# opaque, the pixels inside an overlap hold next to nothing about the lower layer; what is missing there has to come
# from the outlines and from the lattice that goes on, which is work for {doc}`chapter 7 <07_particles>`.
#
# ## What the losses make of it
#
# The argument about losses can be put to the test. The benchmark of {doc}`chapter 6 <06_decompose>` trains this network
# three times on the same crops, for the same small number of steps: with cross-entropy and Dice under fixed names, with
# the published soft minimum of Dice, and with our hard minimum. Each is scored on scenes that none was trained on, its
# channels taken for the layers as they are, under the better naming of the whole frame.

# %%
ORDER = "python benchmarks/layers.py --out data/bench_layers.json"
try:
    bench = json.loads(data.path("bench_layers.json").read_text(encoding="utf-8"))
except FileNotFoundError:
    bench = {}
    print(f"This table is not here yet; it comes from the benchmark: {ORDER}")


def with_interval(value):
    """Mean, and half the bootstrap interval of 95 % over scenes."""
    return f"{value['mean']:.3f} ± {(value['high'] - value['low']) / 2:.3f}"


def compared(entries):
    """Table of networks' scores, each with its interval."""
    names = ("f1", "f1_agnostic", "assignment", "mask_iou")
    rows = {k: [with_interval(row[n]) for n in names] for k, row in entries.items()}
    return pd.DataFrame(rows, index=names).T


ablation = bench.get("ablation", {})
print("optimiser steps:", {name: row["steps"] for name, row in ablation.items()})
compared(ablation) if ablation else None

# %% [markdown]
# Remember the floor when you read it. A network that puts everything into both channels has an F1 near 2/3, the same
# when layers are ignored (half of its finds are false either way), and a perfect `assignment`. That is the soft
# minimum's row: after so few steps it has not left the ridge. Under the two other losses `f1_agnostic` is higher, so
# particles stand in one channel more often. Between these two the table decides nothing, since it charges the hard
# minimum for every name that changes within the frame, which is what the loss leaves open.
#
# The difference shows when such networks are trained to the end. The next picture holds one scene of the benchmark, the
# first of its family, and the answers of networks trained on the same library for many more steps. The cards of all are
# in chapter 6.

# %%
example, about = data.benchmark_example()
print("made by", about["command"], "at commit", about["commit"])
print("particles of the whole frame in layers 1 and 2:", *about["particles"])

# %% mystnb={"figure": {"caption": "A held-out simulated frame, the true layers, and what networks make of it, layer 1 blue, layer 2 orange, pale green where both channels answer; in brackets the layer-resolved F1 of the whole frame. With fixed names every particle stands in both channels at half strength, wherever the end of layer 2 is out of sight. Two decoders with the soft minimum put everything into both. The network of this chapter separates the layers, though its names may change within the frame.", "name": "fig-naive"}}
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
# (These networks differ in more than their loss: ours also learns centres, and was shown fewer crops. For the loss alone
# see the table above.) With fixed names, it is the trap of {numref}`fig-trap` as a trained network shows it: one half in
# both channels is what it was asked for. More training can help little where the answer is not in the patch. That the whole
# frame's F1 is far above two thirds has another reason: most of its particles lie outside the smaller layer, where there
# is only one layer to name.
#
# Over all thirty scenes of spheres, `f1_agnostic` says how well networks separate what lies upon each other. Ours is the
# one that does. `assignment` is lower than the others', since it commits itself: a particle that stands in both channels
# always counts as named rightly in one of them. Its names are put right in {doc}`chapter 7 <07_particles>`:

# %%
spheres = bench.get("families", {}).get("spheres", {})
alone = {name: spheres[name] for name in (*TITLES, "moirelib") if name in spheres}
compared(alone) if alone else None

# %% [markdown]
# ## A real frame
#
# Simulations can only be trusted as far as the network also works on what they imitate. The real frame is a single
# layer of standing particles in liquid {cite:p}`ou2020`, published under the MIT licence; `moirelib.data.fetch` finds
# or downloads it. Its particles are about 30 pixels wide, as one sees by measuring a few on the screen.

# %%
try:
    real = read_movie(data.fetch("np_lattice_2p593nm.tif"))
except OSError as error:
    real = None
    print("This part needs the real frame.", error)

# %% mystnb={"figure": {"caption": "Part of a real liquid-phase TEM frame with one layer, and the network's two channels added up (blue, orange, light where both answer). Without a second lattice, names have nothing to hold on to, and only the sum of the channels has a meaning.", "name": "fig-unet-real"}}
fig, axes = plt.subplots(1, 2, figsize=(8.5, 4.3), layout="constrained")
if real is None:
    for ax in axes:
        ax.text(0.5, 0.5, "the real frame is not at hand", ha="center")
        ax.axis("off")
else:
    part = real.frame(0)[400:800, 250:650]
    answer, _ = predict(network, to_working_size(part, 30))
    show_frame(part, real.pixel_size, axes[0], title="real frame")
    show_layers(
        answer, real.pixel_size * part.shape[0] / answer.shape[1], axes[1], title="both channels"
    )

# %% [markdown]
# ## Exercises
#
# **1.** How far does the network see? The derivative of one output pixel with respect to the input tells which pixels
# it depends on. Compute it for the middle of a 256 × 256 image of noise, and give the radius that holds 95 % of its
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
# **2.** What is the permutation-invariant loss of a network that gives one half everywhere in both channels? Find it by
# hand first (cross-entropy only), then check with `permutation_loss_by_hand`, for two window sizes.

# %% tags=["hide-cell"]
half = np.full((2, 128, 128), 0.5)
truth = (held_out.masks[:, :128, :128] > 127).astype(float)
print(
    [round(permutation_loss_by_hand(half, truth, window), 4) for window in (128, 64)],
    "ln 2 =",
    round(np.log(2), 4),
)

# %% [markdown]
# **3.** The network must not care about the camera. Multiply the held-out frame by 3, add 1000, and find the greatest
# change of any probability. Why is it not exactly zero?

# %% tags=["hide-cell"]
brighter, _ = predict(network, to_working_size(3.0 * held_out.frame + 1000, diameter_px))
plain, _ = predict(network, to_working_size(held_out.frame, diameter_px))
print(f"greatest change {np.abs(brighter - plain).max():.1e}: rounding of 32-bit numbers")

# %% [markdown]
# ## Summary
#
# - A U-Net joins wide surroundings and fine detail; ours takes particles of one size, so every frame is resampled
#   first.
# - Which layer is called 1 is not in a patch of pixels. A loss that asks for fixed names is minimised by putting
#   everything into both channels, and scores an F1 of two thirds with it. The hard minimum over namings, per image and
#   per window, asks for the separation only. A soft minimum also accepts both names, but is flat where the network has
#   to decide, and our trainings with it stayed there.
# - Centres beside the masks keep touching particles apart. Masks and centres of a layer change names together.
# - Names that hold in patches are the consequence. They are put right later, from the lattices of all particles.
# - The model card beside the weights says which command made them and how they score on scenes not trained on.
#
# ## In practice
#
# - **Train your own** when your particles look unlike those of the library. Change the ranges of `LibraryConfig`,
#   make a library as in {doc}`chapter 4 <04_library>`, and train on it; `moirelib decompose --weights` takes the
#   result. On a GPU, `--device auto` finds it.
# - **Watch the validation scores, not the curve.** The curve is taken on augmented crops and falls even when the
#   simulation no longer resembles your images. Only real frames, looked at, tell you that.
# - **It fails** where the image holds no answer: particles that overlap almost completely (a twist near zero), layers
#   so opaque that nothing of the lower one shines through, doses at which you cannot see the particles either. The
#   probabilities there are near one half or the names arbitrary; do not threshold and believe.
# - Particles much smaller or larger than the size given come out as nothing or as rings. {doc}`Chapter 6
#   <06_decompose>` estimates the size by trying.
# - **Peaks of the centre channels are not probabilities to count with.** A low peak is a doubt; whether there is a
#   particle is decided by the frame, in chapter 7.
#
# References are collected in the {doc}`bibliography`.
