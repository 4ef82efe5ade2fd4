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
# - write the {term}`permutation-invariant loss`, and train a toy with it
# - judge the shipped {term}`weights` on frames that they were never trained on, and on a real one
#
# Needs chapter 4 for what a library is · CPU · 1 minute (fast), 5 minutes (full) · 1.2 GB
# ```
#
# Chapter 4 made images of which we know the answer: the raw {term}`frame`, and for each {term}`layer` a mask that is 1
# where a particle of that layer covers the pixel. This chapter turns such pairs into a network that gives the two
# masks for a frame it has never seen. The network's output is an intermediate result. {doc}`Chapter 6 <06_decompose>`
# runs it over a movie, and {doc}`chapter 7 <07_particles>` decides from it, from the lattices and from time which
# particle is in which layer.

# %%
import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from moirelib import data, read_movie
from moirelib.library import LibraryConfig, make_library, simulate_frame
from moirelib.optics import clean_image
from moirelib.plot import LAYER_COLORS, show_frame, show_layers
from moirelib.training import TrainingConfig, permutation_loss, train
from moirelib.unet import WORKING_DIAMETER, build_unet, load_weights, normalize, predict, resample

FAST = os.environ.get("MOIRELIB_FAST", "1") != "0"
print("fast mode" if FAST else "full mode", "with PyTorch", torch.__version__)

# %% [markdown]
# ## A U-Net sees the neighbourhood and keeps the detail
#
# To say what covers a pixel, a network needs two things: the surroundings, because a lattice is not visible in one
# particle, and the detail, because outlines are a few pixels wide. A U-Net {cite:p}`ronneberger2015` gets the first by
# halving the image again and again, so that each remaining pixel summarises a growing area, and the second by passing
# the undiminished maps across to the way back up. `build_unet` is MONAI's implementation {cite:p}`cardoso2022`, with
# one input channel and one output channel per layer.

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
optics = {"pixel_size": held_out.pixel_size, "defocus": 200.0, "mean_free_path": 45.0}
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
# A network that is trained with *fixed* channel names gets both answers in its training data, for the same input,
# equally often. Take a pixel that one particle covers. Half of the time the truth is (1, 0), half of the time (0, 1).
# The cheapest answer under cross-entropy is the average (½, ½): **everything in both channels**, and the layers are
# not separated at all. The {term}`permutation-invariant loss`, first used to separate two voices on one recording
# {cite:p}`yu2017`, computes the loss under both namings and counts the smaller. Then each of the two right answers
# costs nothing.

# %% mystnb={"figure": {"caption": "Mean loss of one pixel that one particle covers, against the network's two outputs. Left, fixed names: the minimum (star) is the useless answer of one half in both channels. Right, permutation-invariant: minima at both right answers, and a ridge between them.", "name": "fig-trap"}}
p = np.linspace(0.01, 0.99, 99)
p1, p2 = np.meshgrid(p, p)
named_1 = -np.log(p1) - np.log(1 - p2)  # cross-entropy if the particle is called layer 1
named_2 = -np.log(p2) - np.log(1 - p1)
panels = {
    "fixed names": (named_1 + named_2) / 2,
    "permutation-invariant": np.minimum(named_1, named_2),
}
fig, axes = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained", sharey=True)
for ax, (title, loss) in zip(axes, panels.items(), strict=True):
    shades = ax.contourf(
        p1, p2, loss / 2, levels=np.linspace(0, 2.4, 13), extend="max", cmap="cividis"
    )
    best = np.isclose(loss, loss.min())
    ax.plot(p1[best], p2[best], "*", ms=16, color="white", mec="black", clip_on=False)
    ax.set(title=title, xlabel="output of channel 1", aspect="equal")
axes[0].set_ylabel("output of channel 2")
fig.colorbar(shades, ax=axes, label="loss per channel")
plt.show()

# %% [markdown]
# The trap has not vanished altogether. On the diagonal, where both channels say the same, both losses agree; a network
# starts there, finds the particles first, and separates the layers only when it has left the ridge. Two measures help
# it off. A Dice term, one minus the overlap with the true mask relative to both sizes, makes a particle that appears
# in both channels expensive. And the network starts from random weights, so that its channels are never quite equal.
#
# ## The loss, written out
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
# ## A toy training run
#
# The next cell makes a small library and trains on it with the same function that trained the shipped weights, for a
# few steps only. **It is a toy**: it shows that the loss falls, and its network is good for nothing. PyTorch
# {cite:p}`paszke2019` does the computing; Lightning runs the loop, with checkpoints from which an interrupted run goes
# on.

# %% tags=["remove-output"]
config = replace(TrainingConfig.fast(), steps=30 if FAST else 200)
library_config = replace(LibraryConfig.fast(), images=24 if FAST else 96)
with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
    library = Path(folder) / "library"
    make_library(library, library_config, seed=0, workers=1, progress=False)
    toy = train(library, Path(folder) / "toy.safetensors", config, seed=0, device="cpu")

# %% [markdown]
# `train` returns the model card: what was trained how, on what, how long, and how well. The shipped weights have one as
# well, beside them in `data/`. They were made by two commands:
#
# ```
# moirelib library --out library --images 3000 --size 448 --seed 1
# moirelib train --library library --out data/unet.safetensors --seed 0
# ```

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
# `predict` normalises, pads, tiles large images and returns probabilities. The held-out frame of
# {numref}`fig-unet-input` has its truth; the fair comparison is under the better of the two namings of the *whole*
# frame.

# %%
network = load_weights(device="cpu")


def examine(simulated):
    """Probabilities and true masks of a simulated frame at working size, channels in the better order."""
    diameter_px = simulated.parameters["diameter_nm"] / simulated.pixel_size
    probability = predict(network, to_working_size(simulated.frame, diameter_px))
    masks = resample(simulated.masks, probability.shape[1:]) / 255
    errors = [np.abs(probability[order] - masks).mean() for order in ([0, 1], [1, 0])]
    return (probability if errors[0] <= errors[1] else probability[::-1]), masks


probability, masks = examine(held_out)
pixel_size = held_out.pixel_size * held_out.frame.shape[0] / probability.shape[1]

# %% mystnb={"figure": {"caption": "Held-out simulated frame. Top, the network's two channels; bottom, the true masks of layers 1 (blue) and 2 (orange). Where a channel follows first one lattice and then the other, the network has changed names on the way.", "name": "fig-held-out"}}
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
# its seed, chosen by nobody. "Any layer" scores the union of the channels, so it asks only whether particles were
# found; "frame" uses one naming for the frame; "windows" the better naming in each window of 64 pixels. The gap
# between the last two is what names that change within a frame cost, and "exchanged" is the share of free particles
# with the other name.


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
print("seed        shape   twist    dose       mask IoU: any layer  frame  windows  exchanged")
exams = []
for i in range(8):
    simulated = simulate_frame(LibraryConfig(shape=(384, 384)), seed=(12345, i))
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
    text = f"{p['shape']:6}  {p['twist_deg']:4.1f}°  {p['camera']['dose']:5.0f} e/Å²"
    print(
        f"(12345, {i})  {text}  {scores[0]:20.2f}  {scores[1]:5.2f}  {scores[2]:7.2f}  {np.mean(~right):9.1%}"
    )

# %% mystnb={"figure": {"caption": "Names in the frame chosen above (left) and in the one of the eight with the most exchanged names (right). Each mark is a particle whose centre is not covered by the other layer; blue dots carry their layer's name, orange squares the other's. A patch of orange is a place where the names are exchanged; a single square is an error of the separation.", "name": "fig-swaps"}}
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
# purpose, so that the network learns to answer "nothing certain" rather than to invent.
#
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
    answer = predict(network, to_working_size(part, 30))
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
brighter = predict(network, to_working_size(3.0 * held_out.frame + 1000, diameter_px))
plain = predict(network, to_working_size(held_out.frame, diameter_px))
print(f"greatest change {np.abs(brighter - plain).max():.1e}: rounding of 32-bit numbers")

# %% [markdown]
# ## Summary
#
# - A U-Net joins wide surroundings and fine detail; ours takes particles of one size, so every frame is resampled
#   first.
# - Which layer is called 1 is not in a patch of pixels. A loss that asks for fixed names is minimised by putting
#   everything into both channels; a permutation-invariant loss asks for the separation only.
# - Names that hold in patches are the consequence. They are put right later, from the lattices of all particles.
# - The model card beside the weights says which command made them and how they score on scenes not trained on.
#
# ## In practice
#
# - **Train your own** when your particles look unlike spheres and standing rods. Change the ranges of `LibraryConfig`,
#   make a library as in {doc}`chapter 4 <04_library>`, and train on it; `moirelib decompose --weights` takes the
#   result. On a GPU, `--device auto` finds it.
# - **Watch the validation scores, not the curve.** The curve is taken on augmented crops and falls even when the
#   simulation no longer resembles your images. Only real frames, looked at, tell you that.
# - **It fails** where the image holds no answer: particles that overlap almost completely (a twist near zero), layers
#   so opaque that nothing of the lower one shines through, doses at which you cannot see the particles either. The
#   probabilities there are near one half or the names arbitrary; do not threshold and believe.
# - Particles much smaller or larger than the size given come out as nothing or as rings. Chapter 6 estimates the size
#   by trying.
#
# References are collected in the {doc}`bibliography`.
