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
# (growth)=
# # Watch layers grow
#
# ```{admonition} In this chapter
# :class: tip
# - distinguish attachment and detachment from missed particles
# - measure sizes, rates and fronts, each with its error
# - test whether the second layer prefers certain sites of the first
# - follow the relaxation of twist and offset, and the number of defects
#
# Needs chapter 7, or any table of tracks · CPU · 45 seconds (fast), 80 seconds (full) · 0.4 GB
# ```
#
# Particles from the liquid attach to the edge of a layer, and sometimes detach again. In this chapter, each
# {term}`attachment` becomes one row of a table. The difficulty is that a movie is full of apparent events: particles
# are missed for a frame or two, liquid looks like a particle, tracks break and continue under another number, and drift
# carries whole rows in and out of view.
#
# The data of this book contain no real movie of growth. We therefore use a simulated one, in which every event is known.
# Real tracks of a crystal that does not grow serve as a control at the end. The last section shows the steps for your
# own movie.

# %%
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Image

from moirelib import analysis, data, plot, validation
from moirelib.analysis import (
    defect_table,
    fit_relaxation,
    moire_table,
    registry,
    relative_motion,
    site_occupancy,
)
from moirelib.crystal import hexagonal_lattice
from moirelib.simulation import Layer, growth_schedule

FAST = os.environ.get("MOIRELIB_FAST", "1") != "0"
FRAMES, FRAME_TIME = (80 if FAST else 160), 0.5  # frames, s
SPACING, FIELD = 30.0, (420.0, 420.0)  # nm
MIDDLE = np.array(FIELD) / 2
DRIFT = np.array([0.35, -0.2])  # nm per frame

# %% [markdown]
# ## A movie of growth
#
# The simulation has a complete base and an island on it. The island grows from about a sixth of its sites by the Eden
# model of {doc}`chapter 1 <01_lattices>` {cite:p}`eden1961`. Hollow sites of the base have six times the attachment
# weight of others. While the island grows, it rotates on the base towards a twist of 7°.

# %%
rng = np.random.default_rng(1010)
base, island = (
    Layer(points, np.full(len(points), 22.0), SPACING, angle)
    for angle, points in (
        (0.0, hexagonal_lattice(SPACING, 0.0, MIDDLE + [4, 9], 330.0)),
        (7.0, hexagonal_lattice(SPACING, 7.0, MIDDLE, 170.0)),
    )
)
on_base = registry(island.positions, base.positions)["registry"]
weight = np.where(on_base == "hollow", 6.0, 1.0)
there, truth = growth_schedule(island, FRAMES, rng, 0.16, 0.75, 0.0015, weight)
truth = truth.assign(layer=2)
t = np.arange(FRAMES)
extra_twist = 1.6 * np.exp(-t / (0.15 * FRAMES))  # degrees, relaxes to 0
print(f"{len(base)} and {len(island)} sites; {truth['event'].value_counts().to_dict()}")


def turned(points, degrees):
    """Points turned about the middle of the field, from x towards y."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return (points - MIDDLE) @ np.array([[c, s], [-s, c]]).T + MIDDLE


# Where the sites are in the first frame
truth[["y_nm", "x_nm"]] = turned(truth[["y_nm", "x_nm"]].to_numpy(), extra_twist[0])

# %% [markdown]
# A decomposition does not find this movie perfectly. We simulate its errors: one particle in 40 is missed, and a missed
# particle is missed again in the next frame with a probability of a quarter. One find in a hundred is false. Positions
# have an error of 0.6 nm, both layers drift, and each track breaks about once in a hundred frames.


# %%
def as_found(layer, number, present, twist):
    """Table of finds of one layer, with misses, false finds, drift and position errors."""
    parts, missed = [], np.zeros(len(layer), bool)
    track = np.cumsum(rng.random(present.shape) < 0.01, axis=0) * 10000 + np.arange(len(layer))
    for frame in range(len(present)):
        missed = rng.random(len(layer)) < np.where(missed, 0.25, 0.02)
        seen = present[frame] & ~missed
        points = turned(layer.positions, twist[frame])[seen] + frame * DRIFT
        false = rng.uniform(0, FIELD[0], (rng.poisson(0.01 * len(points)), 2))
        names = np.r_[track[frame][seen] + 5000 * number, np.full(len(false), -1)]
        points = np.r_[points, false]
        points = points + rng.normal(0, 0.6, points.shape)
        found = pd.DataFrame(points, columns=["y_nm", "x_nm"])
        parts.append(found.assign(frame=frame, particle=names, layer=number))
    table = pd.concat(parts, ignore_index=True)
    return table[
        table[["y_nm", "x_nm"]].ge(0).all(axis=1) & table[["y_nm", "x_nm"]].le(FIELD[0]).all(axis=1)
    ]


tracks = pd.concat(
    [
        as_found(base, 1, np.ones((FRAMES, len(base)), bool), 0 * t),
        as_found(island, 2, there, extra_twist),
    ],
    ignore_index=True,
)
ends = tracks[tracks["particle"] >= 0].groupby("particle")["frame"].agg(["min", "max"])
inside = (ends["min"] > 0).sum() + (ends["max"] < FRAMES - 1).sum()
print(f"{len(tracks)} finds; tracks begin or end {inside} times within the movie")
print(f"true events: {len(truth)}")

# %% [markdown]
# `plot.animate_tracks` makes a movie of such a table. It shows both layers in their colours, each particle with its
# track, and draws them over the micrographs if `movie=` is given. `save` writes a GIF, or an MP4 if ffmpeg is
# installed. The figure shows every fifth frame:

# %% mystnb={"figure": {"caption": "Simulated finds, every fifth frame: base blue, island orange, with tracks of the last twenty frames. Both layers drift down and to the left, the island grows, and at first it rotates on the base.", "name": "fig-growth-movie"}}
fig, ax = plt.subplots(figsize=(4.6, 4.6), layout="constrained")
animation = plot.animate_tracks(tracks[tracks["frame"] % 5 == 0], ax, trail=20)
with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "tracks.gif"
    animation.save(file, writer="pillow", fps=4, dpi=80)
    content = file.read_bytes()
plt.close(fig)
Image(content, format="gif", alt="Particles of both layers, each with its track behind it")

# %% [markdown]
# If we counted the ends of tracks, we would count breaks. Instead we test whether each *site* is taken. Tracks are used
# only for the motion of a layer from one frame to the next, because consecutive frames share many of them. With this
# motion subtracted, the finds of the whole movie cluster at the sites. A false find is a cluster of one.
#
# ## The most likely history of a site
#
# The record of a site is a sequence of *seen* and *not seen*. The site is taken ($s=1$) or empty ($s=0$) and seldom
# changes: with probability $a$ per frame from empty to taken, and $d$ from taken to empty. A taken site is missed with
# probability $m$, and an empty one shows a false find with probability $f$. This is a {term}`hidden Markov model`
# {cite:p}`rabiner1989`. The most likely history maximises
#
# $$ \prod_t P(s_t \mid s_{t-1})\; P(o_t \mid s_t) $$
#
# over all $2^T$ histories. It can be built frame by frame: the best history that ends in a state depends only on the
# best histories that end one frame earlier (Viterbi's algorithm):


# %%
def likeliest_history(seen, a=0.01, d=0.001, m=0.03, f=0.01):
    """Viterbi's algorithm for one site, (t,) of 0 and 1."""
    step = np.log([[1 - a, a], [d, 1 - d]])
    chance = np.log([[1 - f, f], [m, 1 - m]])[:, np.asarray(seen, int)]  # (state, t)
    score, back = np.log([0.5, 0.5]) + chance[:, 0], []
    for now in chance.T[1:]:
        ways = score[:, None] + step
        back.append(ways.argmax(axis=0))
        score = ways.max(axis=0) + now
    path = [int(score.argmax())]
    for choice in back[::-1]:
        path.append(int(choice[path[-1]]))
    return path[::-1]


for record in ("000100000111101111111", "111111101111111111111", "111110000000100000000"):
    print(record, "seen")
    print("".join(map(str, likeliest_history([int(c) for c in record]))), "taken\n")

# %% [markdown]
# A single find in an empty period is a false find, and a gap in a taken period is a miss. Four probabilities decide
# between the explanations. `site_occupancy` estimates them from the movie, from all sites of a layer together (the
# Baum-Welch algorithm), with two refinements. Misses come in runs, so the probability of a miss depends on whether the
# particle was missed before. And $a$ and $d$ depend on the number of neighbours, so a gap is more likely a detachment at
# the edge than inside. One threshold remains: changes that last less than `min_frames`, three by default, are ignored.

# %%
occupancy = site_occupancy(tracks, field_nm=FIELD)
for layer, one in occupancy.items():
    rates = {k: np.round(v, 3).tolist() for k, v in one.rates.items() if k != "taken"}
    print(f"layer {layer}: {len(one.sites)} sites, {rates}")
print(f"drift at the end {occupancy[1].drift[-1].round(2)} nm, true {(FRAMES - 1) * DRIFT}")

# %% mystnb={"figure": {"caption": "Records of the sites that were taken during the movie, in the order of attachment. The colours compare the find with the most likely history: white, an empty site; grey, a particle that was found; blue, a missed particle; orange, a false find at an empty site (rare, since most false finds lie far from any site). White to the right of grey, if any, is a detachment.", "name": "fig-occupancy"}}
from matplotlib.colors import ListedColormap

two = occupancy[2]
changed = np.flatnonzero(two.occupied.any(axis=0) & ~two.occupied[0])
changed = changed[np.argsort(two.occupied[:, changed].argmax(axis=0))]
kind = 2 * two.occupied[:, changed] + two.seen[:, changed]
colors = ListedColormap(["white", "#D55E00", "#56B4E9", "0.4"])
fig, ax = plt.subplots(figsize=(8, 3.8), layout="constrained")
ax.imshow(kind.T, aspect="auto", cmap=colors, vmin=0, vmax=3, interpolation="none")
ax.set(xlabel="frame", ylabel="site")
plt.show()

# %% [markdown]
# ## Events
#
# If a history changes while the site is in view, a particle attached or detached. No events are reported near the
# border, and particles that drift in or out of view are not events. We compare with the truth: an event is correct if it
# has the right kind and lies within half a {term}`spacing` and two frames:

# %%
events = analysis.growth_events(occupancy)
score = validation.score_events(events, truth, reach_nm=SPACING / 2, frames=2)
print({k: round(v, 3) for k, v in score.items()})
events[["frame", "layer", "event", "particle", "y_nm", "x_nm", "coordination", "registry"]].head(
    4
).round(1)

# %% [markdown]
# Some events cannot be found by any method. A change in the first or last frame rests on a single image, and a particle
# that leaves for one or two frames looks like a miss. `min_frames` sets this resolution in time. Events at the border
# count as missed here, too. `benchmarks/growth.py` gives recall and precision for several hundred events, with and
# without detachment, and separately for events that last.

# %% mystnb={"figure": {"caption": "Left, all events of the island over its sites, coloured by frame: attachments (disks) and detachments (crosses). The island grows outwards. Right, the front every tenth frame; each radius is that of a sector with the area of its particles. Sectors that leave the view have no front.", "name": "fig-events"}}
fronts = analysis.front_table(occupancy, directions=8)
fronts = fronts[fronts["layer"] == 2]
fig, axes = plt.subplots(1, 2, figsize=(9.5, 4.2), layout="constrained")
plot.show_events(events[events["layer"] == 2], axes[0], two.sites)
plot.show_fronts(fronts, axes[1], every=10)
for ax in axes:
    ax.set(xlim=(20, 400), ylim=(400, 20))
plt.show()

# %% [markdown]
# ## Size, rate, front
#
# `size_table` keeps a balance for every layer: the number in view equals the first number plus attached, minus detached,
# plus the number carried in by drift. The balance closes exactly.
#
# Events are counts. $N$ events in a time $T$ give a rate $N/T$ with a Poisson interval that is exact also for small $N$
# {cite:p}`garwood1936`. The {term}`front` has a radius along each direction. It is the radius of a sector with the area
# of its particles, $r^2=\sqrt3\,a^2N/\varphi$. Attachments are random, so the front moves as a random walk with drift.
# Its velocity comes from the two end points, since the error of a straight line through all frames would be too small.

# %%
sizes = analysis.size_table(occupancy)
left = sizes["number"] - sizes["attached"] + sizes["detached"] - sizes["carried"]
print("balance closes:", bool((left.groupby(sizes["layer"]).nunique() == 1).all()))
rates = analysis.growth_rate(events[events["layer"] == 2], two.frames, FRAME_TIME, windows=2)
velocity = analysis.front_velocity(fronts, FRAME_TIME)
print(rates.round(2).to_string(index=False))
came = (truth["event"] == "attach").sum()
print(f"simulated attachments: {came / (FRAMES * FRAME_TIME):.2f} /s over the whole movie")
print(velocity.round(2).to_string(index=False))

# %% mystnb={"figure": {"caption": "Left, particles of the two layers in view. The true number of the island is dashed; the steps of layer 1 are rows that drift across the border. Right, velocity of the front by direction, with one standard deviation.", "name": "fig-sizes"}}
fig, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
plot.show_sizes(sizes, axes[0], FRAME_TIME)
axes[0].plot(t * FRAME_TIME, there.sum(axis=1), "--", color="black", lw=0.9)
axes[1].errorbar(
    velocity["direction_deg"],
    velocity["velocity_nm_per_s"],
    velocity["velocity_std_nm_per_s"],
    fmt="o",
    color=plot.LAYER_COLORS[1],
)
axes[1].axhline(0, color="0.7", lw=0.8)
axes[1].set(xlabel="direction / degrees", ylabel="velocity / (nm/s)")
plt.show()

# %% [markdown]
# ## Does the second layer prefer sites?
#
# The number of attachments at hollow sites alone does not show a preference. It must be compared with the number of
# available sites: the free ones at the edge at that moment. Only sites with the same number of neighbours are compared;
# otherwise a preference for kinks could look like one for hollows. Each attachment is thus a choice among equivalent
# sites {cite:p}`mcfadden1974`. If $p_{ek}$ is the share of registry $k$ among the sites available to event $e$, the
# number expected without preference is $\sum_e p_{ek}$. A chi-square statistic compares the numbers, and its p-value
# comes from random draws of the choices.

# %%
preference = analysis.site_preference(occupancy)
print(
    f"{preference.events} choices, chi-square {preference.statistic:.1f}, p = {preference.p_value:.4f}"
)
hollow = preference.table.set_index("registry").loc["hollow"]
share = hollow["expected"] / preference.events
print(f"ratio for hollows by the formula below: {6 / (1 + share * (6 - 1)):.1f}")
preference.table.round(2)

# %% [markdown]
# Hollows were simulated with a weight of six. The ratio of attached to expected is smaller: for a share $p$ of the
# available sites, a weight $w$ gives $w / (1 + p\,(w - 1))$. The ratio shows *whether* there is a preference, and its
# interval how certain it is. The ratios of the other sites fall below 1 only because the shares add up to one.
#
# ## Relaxation
#
# The island rotated while it grew. Two functions measure this. `moire_table` gives the twist in each frame from the two
# lattices. `relative_motion` follows the rotation and sliding of one layer on the other from its particles. It also
# counts whole lattice vectors, which the Moiré pattern alone does not show. An exponential is fitted only if Akaike's
# criterion {cite:p}`hurvich1989` clearly prefers it to a constant and a line. Otherwise `supported` is False, and there
# is no time constant to report.

# %%
every = 2 if FAST else 1
moire = moire_table(tracks[tracks["frame"] % every == 0])
motion = relative_motion(occupancy)
by_twist = fit_relaxation(moire["frame"], moire["rotation_deg"], moire["twist_std_deg"])
by_motion = fit_relaxation(motion["frame"], motion["twist_change_deg"], motion["twist_std_deg"])
offset = fit_relaxation(motion["frame"], motion["offset_x_nm"], motion["offset_std_nm"])
print(f"simulated: 1.6° over {0.15 * FRAMES:.1f} frames")
for name, fit in (("twist", by_twist), ("relative rotation", by_motion)):
    print(f"{name}: {fit.amplitude:.2f} ± {fit.amplitude_std:.2f}°, "
          f"{fit.time:.1f} ± {fit.time_std:.1f} frames")  # fmt: skip
print(f"offset along x: {motion['offset_x_nm'].iloc[0] - motion['offset_x_nm'].iloc[-1]:.2f} nm, "
      f"exponential supported: {offset.supported}")  # fmt: skip

# %% [markdown]
# The offset can change too, though no sliding was simulated. The island rotates about the middle of the field, but the
# middle of the grown island lies elsewhere and moves with the rotation. A rotation about a distant pivot is a rotation
# plus a slide, and the size of the slide depends on the reference point.

# %% mystnb={"figure": {"caption": "Left, twist of the island in each frame (points), with the fitted (line) and the simulated relaxation (dashed); early frames have few particles and large errors. Right, vacancies found in the two layers, mostly single missed particles inside the crystal.", "name": "fig-relaxation"}}
fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.5), layout="constrained")
axes[0].errorbar(
    moire["frame"], moire["rotation_deg"], moire["twist_std_deg"], fmt=".", color="0.6", zorder=1
)
axes[0].plot(t, by_twist.at(t, moire["frame"].iloc[0]), color="#D55E00", lw=2)
axes[0].plot(t, 7.0 + extra_twist, "--", color="black", lw=1)
axes[0].set(xlabel="frame", ylabel="twist / degrees")
some = tracks[tracks["frame"] % (8 if FAST else 4) == 0]
numbers = analysis.defect_numbers(defect_table(some, other_layer=False), some)
for layer, color in zip((1, 2), plot.LAYER_COLORS, strict=True):
    vacancies = numbers[(numbers["kind"] == "vacancy") & (numbers["layer"] == layer)]
    axes[1].plot(vacancies["frame"], vacancies["number"], "o-", color=color, label=f"layer {layer}")
axes[1].set(xlabel="frame", ylabel="vacancies", ylim=(0, None))
axes[1].legend(frameon=False)
plt.show()

# %% [markdown]
# The right panel is a warning. No particle was removed from the base, but vacancies are found: the particles missed in
# that frame. Do not trust defects of a single frame. Before you count them, replace the finds by the taken sites. The
# next cell does this for the base:

# %%
one = occupancy[1]
filled = pd.concat(
    [
        pd.DataFrame(one.in_frame(one.sites[one.occupied[k]], k), columns=["y_nm", "x_nm"]).assign(
            frame=one.frames[k], layer=1
        )
        for k in range(0, FRAMES, 8 if FAST else 4)
    ],
    ignore_index=True,
)
numbers = analysis.defect_numbers(defect_table(filled, other_layer=False), filled)
print(numbers.groupby("kind")["number"].mean().to_dict(), "per frame, from taken sites")

# %% [markdown]
# ## A control: real tracks without growth
#
# No public movie of a growing Moiré lattice comes with its events. Real tracks allow the opposite test. In the published
# trajectories of {doc}`chapter 8 <08_vibrations>` {cite:p}`qian2024`, every particle is followed from the first frame to
# the last, while it vibrates and the lattice drifts. Any event found there is an error.

# %%
try:
    real = {name: data.trajectories(name) for name in ("rod", "prism")}
except OSError:
    real = {}

# %% tags=["remove-input"] mystnb={"markdown_format": "myst"}
from IPython.display import Markdown, display

if not real:
    files = " and ".join(
        f"[trajectories_{name}_raw.mat]({data.REGISTRY[f'trajectories_{name}_raw.mat'].url})"
        for name in ("Rod", "Prism")
    )
    display(
        Markdown(f"""```{{admonition}} The published trajectories are not at hand
:class: warning
This page was built without them. Left out below: the numbers of events found in them, as published and with 3 % of the
finds removed. To see them, run the chapter with access to the internet, or save {files}, under these names, in a folder
and set the environment variable `MOIRELIB_DATA` to that folder.
```""")
    )

# %%
for name, published in real.items():
    found = site_occupancy(published)
    thinned = published[np.random.default_rng(3).random(len(published)) > 0.03]
    for what, some in (("as published", published), ("3 % of the finds removed", thinned)):
        number = len(analysis.growth_events(some))
        print(f"{name}, {what}: {len(found[1].sites)} sites, {number} events")

# %% [markdown]
# ## With your own movie
#
# Decompose it and link the particles as in {doc}`chapter 7 <07_particles>`. Then you need three lines:
#
# ```python
# tracks = pd.read_csv("particles.csv")                     # frame, particle, layer, y_nm, x_nm
# occupancy = site_occupancy(tracks, field_nm=(height, width))
# analysis.growth_events(occupancy).to_csv("growth.csv", index=False)
# ```
#
# Give the size of the field, so that particles that drift across its border do not count as growth. Without it, the
# function assumes that a layer which fills a rectangle is cut off by the field, and that any other layer ends within
# it. Then look at `occupancy[2].rates`. If `miss` is above 0.1 or `false` above 0.02, the decomposition is too poor for
# reliable events. Check ten events by eye, at `y_frame_nm, x_frame_nm`, before you trust the rest.
#
# ## Exercises
#
# **1.** How do more misses change the score? Drop another 0, 5, 10 and 20 % of the rows at random.

# %% tags=["hide-cell"]
for dropped in (0.0, 0.05, 0.1, 0.2):
    fewer = tracks[np.random.default_rng(1).random(len(tracks)) > dropped]
    score = validation.score_events(analysis.growth_events(fewer, FIELD), truth, SPACING / 2)
    print(
        f"{dropped:.0%} dropped: recall {score['recall']:.3f}, precision {score['precision']:.3f}"
    )

# %% [markdown]
# **2.** Does the test find a preference where there is none? Grow the island with equal weights, and compare the
# p-values of a few movies with that above.

# %% tags=["hide-cell"]
short = FRAMES // 2
for seed in range(3):
    rng = np.random.default_rng(50 + seed)
    plain, _ = growth_schedule(island, short, rng, 0.16, 0.75)
    found = pd.concat(
        [
            as_found(base, 1, np.ones((short, len(base)), bool), 0 * t),
            as_found(island, 2, plain, 0 * t),
        ],
        ignore_index=True,
    )
    test = analysis.site_preference(site_occupancy(found, FIELD))
    print(f"movie {seed}: p = {test.p_value:.2f}")

# %% [markdown]
# **3.** The number of attachments per time and free edge site is a rate constant of the surface; the growth rate of a
# whole island is not. Calculate both in four windows. This simulation adds particles at a constant rate. Which of the
# two must then change?

# %% tags=["hide-cell"]
rates = analysis.growth_rate(events[events["layer"] == 2], two.frames, FRAME_TIME, windows=4)
rates = rates[rates["event"] == "attachment"]
edge = sizes[sizes["layer"] == 2].set_index("frame")["free_edge_sites"]
for row in rates.itertuples():
    free = edge[(edge.index >= row.frame_start) & (edge.index < row.frame_end)].mean()
    print(f"{row.rate:.2f} /s in all, {row.rate / free:.3f} /s per free edge site")
print("the edge gets longer, so the rate per free edge site falls")

# %% [markdown]
# ## Summary
#
# - Growth is measured at sites, not from ends of tracks. Motion is removed first; the finds then cluster at the sites.
# - A hidden Markov model decides between misses and detachments, and between false finds and attachments. Its
#   probabilities are estimated from the movie.
# - Numbers balance: first number + attached − detached + carried in by drift.
# - Rates have Poisson intervals; front velocities have the error of a random walk.
# - Preference is tested, event by event, against the free edge sites with the same number of neighbours.
# - A relaxation time is reported only if an exponential fits better than a constant and a line.
#
# ## In practice
#
# - **Resolution in time.** A visit or an absence shorter than `min_frames` is not detected, nor is a change in the first
#   or last frame. Long runs of misses at the edge look like a detachment and an attachment.
# - **Wrong layers.** If the decomposition puts a particle in the wrong layer for several frames, it appears as a
#   detachment in one layer and an attachment in the other. Look for pairs of events at one place and time.
# - **Hops.** A particle that hops to a free site gives a detachment and an attachment.
# - **One motion per layer.** The model moves and rotates a layer as a whole. Grains that rotate on their own, and strain
#   that moves sites by more than 0.4 spacings during the movie, blur the sites.
# - **Fast drift.** Tracks must continue from frame to frame; above half a spacing per frame they break.
# - **Free sites** next to the layer are those that its lattice predicts one row ahead, whether filled later or never.
# - **Simulation only.** The scores here and in the benchmark are of simulated tables with the stated misses and false
#   finds. A real movie of growth with known events was not available.
