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
# (order-and-defects)=
# # Measure order, find defects
#
# ```{admonition} In this chapter
# :class: tip
# - measure lattice vectors, twist and Moiré period with error bars, without harm from the edge
# - map strain, rotation, and where on the other layer each particle lies
# - find vacancies, interstitials and dislocations, the latter by a Burgers circuit
# - tell a twin boundary from a plain grain boundary
# - follow defects from frame to frame
#
# Needs chapters 1 and 7 · CPU · 1 minute · 1 GB
# ```
#
# Positions are all that this chapter needs: those of {doc}`chapter 7 <07_particles>`, or of any other method. First
# positions come from simulated layers whose every defect is known; at the end, from a real frame. Everything is done
# layer by layer, which is what the layers were separated for: in the projection of both, every particle would look
# out of place.
#
# Crystals of nanoparticles are small, and frames are smaller. A good part of all particles lies at an edge, where
# neighbours are missing because the crystal, or the frame, ends. Each method below is chosen so that an edge is not
# mistaken for disorder.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

import moirelib
from moirelib import analysis, crystal, data, plot
from moirelib.analysis import fit_moire, registry
from moirelib.crystal import commensurate_angles, hexagonal_lattice, match, moire_period
from moirelib.simulation import (
    LatticeConfig,
    dislocation_displacement,
    grain_boundary,
    random_scene,
    twin_boundary,
)

FAST = os.environ.get("MOIRELIB_FAST", "1") != "0"
field, spacing = (700.0, 700.0), 30.0  # nm
config = LatticeConfig(
    shapes=("rod",),
    twist_angle=(6, 6),
    spacing_mismatch=0.0,
    boundary=0.0,
    island=1.0,
    edge=1.0,
    single_layer=0.0,
    strain=(0.004, 0.004),
    vacancies=(0.02, 0.02),
    dislocations=1.0,
    position_std=(0.015, 0.015),
)
scene = random_scene(config, field, np.random.default_rng(922), spacing)
layers = []
for layer in scene.layers:
    inside = np.all((layer.positions > 0) & (layer.positions < field), axis=1)
    layers.append(layer.positions[inside])
print([f"layer {k}: {len(points)} particles" for k, points in enumerate(layers, start=1)])

# %% [markdown]
# ## ψ6: which way rows run, and how well
#
# The bonds from a particle to its neighbours have directions $\alpha_k$. In a hexagonal lattice they differ by multiples
# of 60°, so that $e^{6i\alpha_k}$ is the same for all of them. Its mean {cite:p}`nelson1979`,
#
# $$ \psi_6 = \frac1n \sum_{k=1}^{n} e^{6i\alpha_k}, $$
#
# the {term}`hexatic order parameter`, has magnitude 1 in a perfect lattice, and a sixth of its argument is the
# direction of the rows. The mean is over the neighbours *that there are*. It matters how they are chosen: the *six
# nearest* of an edge particle include second neighbours, 30° off, and those of a Voronoi cell reach around the edge.
# Particles within 1.35 spacings, half-way to the second shell, are right everywhere.


# %%
def psi6_by_hand(points, reach):
    """Mean of exp(6iα) over the neighbours within reach."""
    i, j = cKDTree(points).query_pairs(reach, output_type="ndarray").T
    i, j = np.concatenate([i, j]), np.concatenate([j, i])
    dy, dx = (points[j] - points[i]).T
    bond = np.exp(6j * np.arctan2(dy, dx))
    total = np.bincount(i, bond.real, len(points)) + 1j * np.bincount(i, bond.imag, len(points))
    return total / np.bincount(i, minlength=len(points))


base = layers[0]
psi6 = crystal.hexatic(base)
edge = analysis.edge_particles(base)
six_nearest = cKDTree(base).query(base, k=7)[1][:, 1:]
dy, dx = np.moveaxis(base[six_nearest] - base[:, None], -1, 0)
naive = np.abs(np.exp(6j * np.arctan2(dy, dx)).mean(axis=1))
print(
    f"by hand and by freud: {np.nanmax(abs(psi6_by_hand(base, 1.35 * spacing) - psi6)):.1e} apart"
)
for name, values in (("within 1.35 spacings", np.abs(psi6)), ("six nearest", naive)):
    print(f"{name}: inside {values[~edge].mean():.3f}, at the edge {values[edge].mean():.3f}")

# %% [markdown]
# `crystal.hexatic` hands the bonds to freud {cite:p}`ramasubramani2020`. How far does the order reach? The correlation
# function $g_6(r)$ is the mean of $\psi_6^*(0)\,\psi_6(r)$ over pairs of particles $r$ apart. It stays up in a crystal,
# and falls off in a polycrystal over the size of a grain.

# %% mystnb={"figure": {"caption": "Bond-orientational order of layer 1. Left, magnitude of ψ6: the edge is as ordered as the inside; lower values surround a dislocation and an interstitial. Right, its correlation function, beside that of two grains 30° apart, which have opposite ψ6.", "name": "fig-psi6"}}
fig, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
plot.show_hexatic(base, psi6, axes[0], direction=False)
grains, _ = grain_boundary(spacing, 5.0, 30.0, 90.0, (350, 350), 350)
grains = grains + np.random.default_rng(0).normal(0, 0.45, grains.shape)
for points, name, color in zip(
    (base, grains), ("layer 1", "two grains"), plot.LAYER_COLORS, strict=True
):
    g6 = analysis.hexatic_correlation(points, crystal.hexatic(points), r_max=500, bin_width=30)
    axes[1].plot(g6["r_nm"], g6["g6"], color=color, label=name)
axes[1].set(xlabel="r / nm", ylabel="$g_6$", ylim=(-1.05, 1.05))
axes[1].axhline(0, color="0.7", lw=0.8)
axes[1].legend(frameon=False)
plt.show()

# %% [markdown]
# ## Number the sites, then fit
#
# The distance to the nearest neighbour is a poor measure of the {term}`spacing`: the nearest of six scattered
# neighbours is nearer than the mean. And the mean over bonds uses each particle against its neighbours only. Far better
# is to *number* all sites, $(m, n)$, walking from neighbour to neighbour, and to fit all positions at once,
#
# $$ \mathbf r_j = \mathbf r_0 + m_j\,\mathbf a_1 + n_j\,\mathbf a_2 + \text{scatter}, $$
#
# since distant particles have a long lever. Linear regression gives the vectors and their errors. Here on a perfect
# lattice with scatter, repeated, so that one sees the errors at work:


# %%
def fit_by_hand(points, a1, a2):
    """Lattice vectors (2, 2) from a rough guess: number the sites, then least squares."""
    start = points[np.hypot(*(points - points.mean(axis=0)).T).argmin()]
    index = np.rint((points - start) @ np.linalg.inv([a1, a2]))
    design = np.column_stack([np.ones(len(points)), index])
    return np.linalg.lstsq(design, points, rcond=None)[0][1:]


def row(degrees, length=spacing):
    """Vector (y, x) along a direction from x towards y."""
    return length * np.array([np.sin(np.radians(degrees)), np.cos(np.radians(degrees))])


rng = np.random.default_rng(1)
perfect = hexagonal_lattice(spacing, 12.0, (350, 350), 250)
rows = []
for _ in range(100):
    seen = perfect + rng.normal(0, 0.9, perfect.shape)
    nearest = cKDTree(seen).query(seen, k=2)[0][:, 1].mean()
    fit = analysis.fit_lattice(seen)
    by_hand = np.hypot(*fit_by_hand(seen, row(12.0), row(72.0))[0])
    rows.append((nearest, by_hand, fit.spacing, fit.spacing_std))
nearest, by_hand, fitted, claimed = np.array(rows).T
for name, values in (("nearest neighbour", nearest), ("by hand", by_hand), ("fit_lattice", fitted)):
    print(f"{name:18} {values.mean():.3f} ± {values.std():.3f} nm (truth {spacing:.3f})")
print(f"fit_lattice claims ± {claimed.mean():.3f} nm")

# %% [markdown]
# `fit_lattice` walks over the most regular bonds first and never rounds far from a numbered site, so slow {term}`strain`
# does not derail it. Around a {term}`dislocation` the numbers depend on the way; where bonds contradict them, the vectors
# come from the bonds alone, with a larger error. Where the lattice is bent, residuals of neighbours are alike, and a
# regression that takes them for independent would promise too much. Then the errors come from blocks of particles.
#
# In the simulated scene each layer is one grain, and the {term}`twist angle` is the difference of the angles:

# %%
table = pd.concat(
    [
        pd.DataFrame(points, columns=["y_nm", "x_nm"]).assign(frame=0, layer=k)
        for k, points in enumerate(layers, start=1)
    ],
    ignore_index=True,
)
analysis.lattice_table(table).round(3)

# %% [markdown]
# ## Strain and rotation around each particle
#
# Locally, the lattice may be stretched and turned. For each particle, the affine map that takes the ideal neighbours to
# the real ones in the sense of least squares {cite:p}`falk1998` is a matrix of four numbers; against a reference
# lattice it says by how much the surroundings are strained and rotated. Three neighbours in different directions
# suffice, so edge particles are measured too, with a larger error.
#
# To see whether it works we bend a lattice in a known way and compare.

# %%
bent = hexagonal_lattice(spacing, 0.0, (350, 350), 480)
bend = 2 * np.pi / 700  # rad/nm
u = 5.0 * np.stack([np.sin(bend * bent[:, 1]), 0 * bent[:, 1]], axis=1)  # rows become waves
bent = (bent + u)[np.all((bent > 0) & (bent < 700), axis=1)]
bent = bent + rng.normal(0, 0.15, bent.shape)
strain = analysis.strain_map(bent)
slope = 5.0 * bend * np.cos(bend * bent[:, 1])  # ∂u_y/∂x: half of it is rotation, half shear
error = strain["rotation_deg"] - np.degrees(slope / 2)
print(f"rotation: true up to ±{np.degrees(slope / 2).max():.2f}°, error {error.std():.2f}°")
print(f"claimed error {np.degrees(strain['strain_std']).median():.2f}° (median)")

# %% mystnb={"figure": {"caption": "Local rotation of the lattice. Top left, a bent lattice; top right, measured against true rotation of the same particles, edge included (orange). Bottom, layer 1 of the scene: the dislocation turns its surroundings one way on one side and the other way on the other, and compresses the side of its extra row.", "name": "fig-strain"}}
fig, axes = plt.subplots(2, 2, figsize=(8.5, 7), layout="constrained")
plot.show_strain(strain, "rotation_deg", axes[0, 0])
for at_edge, color in zip((False, True), plot.LAYER_COLORS, strict=True):
    some = strain["edge"] == at_edge
    axes[0, 1].plot(
        np.degrees(slope / 2)[some], strain["rotation_deg"][some], ".", color=color, ms=4
    )
axes[0, 1].plot([-1.3, 1.3], [-1.3, 1.3], color="black", lw=0.8)
axes[0, 1].set(xlabel="true rotation / degrees", ylabel="measured / degrees")
strain = analysis.strain_map(base)
for ax, column in zip(axes[1], ("rotation_deg", "dilatation"), strict=True):
    plot.show_strain(strain, column, ax)
plt.show()

# %% [markdown]
# ## Registry: the Moiré pattern, particle by particle
#
# Where does a particle of layer 2 lie on the lattice of layer 1: on **top** of a particle, over a **bridge** between two,
# or over a **hollow** between three? That is its {term}`registry`. Take the lattice of layer 1 around the place, fitted
# to three shells of neighbours, and ask for the phases $\varphi_k$ of its three waves there. The sum of their cosines
# is a continuous coordinate, 3 on top, −1 on a bridge, −1.5 in a hollow.
#
# From particle to particle of layer 2 the phases advance by the *difference* of the two lattices' waves. That is a wave
# itself, long where the twist is small: the Moiré pattern. So the gradient of the phases measures the period of the
# {term}`Moiré lattice` from where particles really are. The formula $a/(2\sin(\theta/2))$ predicts it from spacing and
# twist. The two agree for rigid lattices; where layers relaxed towards each other, only the first knows.

# %%
on_base = registry(layers[1], base)
moire = fit_moire(*layers)
print(f"twist {moire.twist:.3f} ± {moire.twist_std:.3f}° (planted: 6°)")
print(f"period {moire.period:.1f} ± {moire.period_std:.1f} nm measured, "
      f"{moire.formula:.1f} ± {moire.formula_std:.1f} nm by formula")  # fmt: skip
print(f"a top place {np.hypot(*moire.offset):.1f} ± {moire.offset_std:.1f} nm from the middle")
cell = registry(base.mean(axis=0) + rng.uniform(-150, 150, (2000, 2)), base)  # places anywhere
for name, some in (("particles", on_base), ("area", cell)):
    print(f"{name:10}", some["registry"].value_counts(normalize=True).round(3).to_dict())

# %% [markdown]
# Two things may surprise. About half of the particles lie on bridges: not that they like it there, but there are
# three bridges to each site and two hollows, so bridges have the largest share of the *area*. A preference is a
# deviation from that. And the period is not quite the one of 6°: the slow strain that was planted also turns the lattices
# a little, and a turn of one against the other by $\delta$ changes the period by a share $\delta/\theta$. A Moiré is a
# magnifying glass for rotation.

# %% mystnb={"figure": {"caption": "Registry of layer 2 on layer 1. Left, each particle of layer 2 in the colour of its coordinate, over the particles of layer 1 (grey dots); bright ones lie on top, and the pattern repeats with the Moiré period (bar). Right, measured period over the formula's for twisted pairs of lattices with 2 % scatter and two standard deviations as error bars.", "name": "fig-registry"}}
fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.9), layout="constrained", width_ratios=(1.2, 1))
axes[0].plot(base[:, 1], base[:, 0], ".", color="0.6", ms=3)
plot.show_registry(on_base, axes[0])
start = moire.center + moire.offset
end = start + row(moire.angle, moire.period)
axes[0].plot(*np.transpose([start, end])[::-1], color="#D55E00", lw=3)
axes[0].set(xlabel="x / nm", ylabel="y / nm", aspect="equal", xlim=(0, 700), ylim=(700, 0))
for twist in np.linspace(2, 28, 14):
    pair = [
        hexagonal_lattice(spacing, a, (350, 350), 300)
        + rng.normal(0, 0.6, (len(hexagonal_lattice(spacing, a, (350, 350), 300)), 2))
        for a in (0.0, twist)
    ]
    found = fit_moire(*pair)
    ratio = moire_period(spacing, twist)
    axes[1].errorbar(
        twist,
        found.period / ratio,
        2 * found.period_std / ratio,
        fmt="o",
        color=plot.LAYER_COLORS[0],
    )
axes[1].axhline(1, color="black", lw=0.8)
axes[1].set(xlabel="twist / degrees", ylabel="period, measured / formula")
plt.show()

# %% [markdown]
# At a {term}`commensurate twist`, one particle in Σ lies *exactly* on top, if the lattices share a site at all. The
# column `registry` says only which kind of place is nearest.
#
# ## Vacancies: sites that neighbours expect
#
# Around each particle the lattice says where its six neighbours should be. A place that several particles expect to be
# occupied, and that is empty, is an empty site. Not every empty site is a {term}`vacancy`: the outside of the crystal
# is full of them. So empty sites with fewer than five of six neighbours are struck out, where an empty site that is
# still in the list counts as a neighbour as well; then again, until none goes. The outside is eaten away from its edge,
# since sites on the edge of anything finite have four neighbours or fewer; pairs and clusters of vacancies stay.

# %%
lattice = hexagonal_lattice(1.0, 0.0, (0, 0), 7.0)
inside = np.hypot(*lattice.T) < 4.6
holes = cKDTree(lattice).query([(0, 0), (0, 1), (np.sqrt(0.75), 0.5), (0, -3)])[1]
occupied = inside & ~np.isin(np.arange(len(lattice)), holes)
neighbours = cKDTree(lattice).query_ball_point(lattice, 1.1)
empty = ~occupied
for step in range(10):
    present = np.array([sum(occupied[n] | empty[n]) - 1 for n in neighbours])
    struck = empty & (present < 5)
    print(f"step {step}: {empty.sum()} empty sites, {struck.sum()} of them struck out")
    if not struck.any():
        break
    empty &= ~struck

# %% [markdown]
# ## Dislocations: walk around them
#
# Walk in the crystal $n$ steps along one row, $n$ along another, then back the same numbers of steps. In a perfect lattice
# you are where you started. If the walk encloses a {term}`dislocation` you are not, and what is missing is its
# {term}`Burgers vector`, whatever the circuit: it is a property of what is inside. (Its sign depends on the sense of the
# walk, a convention that has to be kept.)


# %%
def walk(points, start, steps):
    """Path of particles, each the nearest to one lattice vector from the last one."""
    tree, path = cKDTree(points), [start]
    for step in steps:
        path.append(tree.query(points[path[-1]] + step)[1])
    return points[path]


a1, a2 = row(0.0), row(60.0)
steps = [a1] * 6 + [a2] * 6 + [-a1] * 6 + [-a2] * 6
crystal = hexagonal_lattice(spacing, 0.0, (0, 0), 300)
core = (a1 + a2) / 3  # between three particles
dislocated = crystal + dislocation_displacement(crystal, core, a1)
dislocated = dislocated + rng.normal(0, 0.4, crystal.shape)
first = cKDTree(dislocated).query(-3 * (a1 + a2))[1]
far = cKDTree(dislocated).query(-3 * (a1 + a2) + 5 * row(120.0))[1]
shorter = [step for k, step in enumerate(steps) if k % 6 < 4]
around, beside = walk(dislocated, first, steps), walk(dislocated, far, shorter)
for name, path in (("around", around), ("beside", beside)):
    print(f"{name} the core: end - start = {(path[-1] - path[0]).round(1)} nm (y, x)")
print(f"planted: {a1.round(1)}")

# %% [markdown]
# Where is the core, if one does not know? Make all circuits small: those around single triangles of neighbours. Each edge
# of the Delaunay triangulation stands for a lattice vector, the nearest one in the frame of the rows around it; vacancies
# have been filled before, so that their rings of long edges do no harm. In good crystal the three edges of a triangle
# add up to zero. Where they do not, a core is; and triangles that touch add up to its Burgers vector. This is the
# dislocation analysis of {cite:t}`stukowski2010` in two dimensions. It says nothing of how many neighbours a particle
# has, so it is not confused by particles at the edge, which have few.
#
# The traditional picture is the number of neighbours. A dislocation is a pair of a particle with five and one with seven;
# each alone would be a {term}`disclination`, a wedge of 60° too few or too many. `find_defects` lists a disclination
# only if no partner is near.

# %% mystnb={"figure": {"caption": "A dislocation. Left, two walks of equal numbers of steps forth and back, in order of colour from dark to bright: the one around the core does not close, and the arrow that is missing is the Burgers vector; the one beside it does. Right, what find_defects sees: five- (blue) and seven-fold (orange) particles, the core with its Burgers vector (drawn twice as long).", "name": "fig-burgers"}}
fig, axes = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
found = analysis.find_defects(dislocated)
for ax in axes:
    ax.plot(dislocated[:, 1], dislocated[:, 0], ".", color="0.7", ms=4)
    ax.set(aspect="equal", xlim=(-210, 210), ylim=(210, -210), xlabel="x / nm", ylabel="y / nm")
for path in (around, beside):
    axes[0].plot(path[:, 1], path[:, 0], color="0.3", lw=1)
    axes[0].scatter(path[:, 1], path[:, 0], c=np.arange(len(path)), cmap="cividis", s=22, zorder=3)
plot.show_vectors(around[:1], around[-1:] - around[:1], axes[0], color="#D55E00")
for count, color in ((5, plot.LAYER_COLORS[0]), (7, plot.LAYER_COLORS[1])):
    y, x = dislocated[found.coordination == count].T
    axes[1].scatter(x, y, s=60, color=color, zorder=3)
plot.show_defects(found.defects, axes[1], legend=False)
plt.show()

# %% [markdown]
# ## The whole layer, against what was planted
#
# `find_defects` does all of it for one layer of one frame. On layer 1 of the scene, the planted defects are known:

# %% mystnb={"figure": {"caption": "Defects found in both layers of the scene (marks; Burgers vectors twice as long) and those planted (light rings). Edges of layers and of the frame carry no marks.", "name": "fig-defects-found"}}
fig, axes = plt.subplots(1, 2, figsize=(9.5, 5.0), layout="constrained")
for k, (layer, points, ax) in enumerate(zip(scene.layers, layers, axes, strict=True), start=1):
    layer_defects = analysis.find_defects(points)
    ax.plot(points[:, 1], points[:, 0], ".", color=plot.LAYER_COLORS[k - 1], ms=3)
    for d in layer.defects:
        ax.plot(d.position[1], d.position[0], "o", ms=13, mfc="none", mec="0.6", mew=1.5)
    plot.show_defects(layer_defects.defects, ax)
    ax.set(aspect="equal", xlabel="x / nm", ylabel="y / nm", xlim=(0, 700), ylim=(700, 0))
plt.show()

# %% [markdown]
# With two layers, `defect_table` also says where on the other layer each defect sits. Vacancies of layer 2 were planted
# anywhere; do they follow the areas above?

# %%
on_moire = analysis.defect_table(table).replace({"registry": {"": "other layer ends"}})
on_moire.groupby(["layer", "kind"])["registry"].value_counts().unstack(fill_value=0)

# %% [markdown]
# One scene proves little. Here are more, counted by kind, away from the frame's border by a spacing (two for
# dislocations), where even the truth cannot be recognised. `benchmarks/defects.py` does the same on many more.


# %%
def count_right(count, rng):
    """Found, planted and matched defects of single layers with everything in them."""
    everything = LatticeConfig(
        layers=1, boundary=0.0, single_layer=0.0, dislocations=2.0, position_std=(0.01, 0.03)
    )
    tally = {kind: np.zeros(3, int) for kind in ("vacancy", "dislocation")}
    for _ in range(count):
        layer = random_scene(everything, field, rng, spacing).layers[0]
        points = layer.positions[np.all((layer.positions > 0) & (layer.positions < 700), axis=1)]
        table = analysis.find_defects(points).defects
        for kind, margin in (("vacancy", spacing), ("dislocation", 2 * spacing)):
            found = table.loc[table["kind"] == kind, ["y_nm", "x_nm"]].to_numpy(float)
            true = np.reshape([d.position for d in layer.defects if d.kind == kind], (-1, 2))
            i, j = match(found, true, margin)
            inner = [np.all((p > margin) & (p < 700 - margin), axis=1) for p in (found, true)]
            tally[kind] += [inner[0].sum(), inner[1].sum(), inner[1][j].sum()]
    return tally


tally = count_right(15 if FAST else 100, np.random.default_rng(99))
for kind, (found, planted, matched) in tally.items():
    print(f"{kind}: {planted} planted, {found} found, {matched} of them right")

# %% [markdown]
# ## Grain boundaries, and which of them are twins
#
# {term}`Grains <grain>` are contiguous regions of one row direction. Where the mean $\psi_6$ on one side of a bond is
# turned by more than 3.5° against that on its other side, the bond is cut; regions that stay together are grains, and
# between two of them a line is fitted that parts their particles best. It has two angles: the {term}`misorientation`
# of the grains, and its own **inclination**.
#
# A {term}`grain boundary` of a few degrees is a row of dislocations. Each closes a gap of one Burgers vector $b$ that
# the turn opens, so they are $b / (2\sin(\theta/2))$ apart: Frank's formula, from which Read and Shockley
# {cite:p}`read1950` calculated the energy. It holds for a line across one set of rows. Along other lines two sets of
# dislocations share the work, and stand up to 13 % closer. `boundary_table` counts pairs of five- and seven-fold
# particles, each with one Burgers vector, and puts the formula beside it. A line too short to hold more than one is no
# boundary: a lone dislocation turns the corner of a field that it cuts off just as much.

# %% mystnb={"figure": {"caption": "Spacing of the dislocations along symmetric boundaries, counted as pairs of five- and seven-fold particles, against Frank's formula. They agree: the boundary is a row of dislocations, at the largest angles hardly more than two spacings apart. Inset, one of 8°.", "name": "fig-frank"}}
fig, ax = plt.subplots(figsize=(6.2, 3.9), layout="constrained")
angles = np.arange(5.0, 25.0, 1.5)
for theta in angles:
    points, _ = grain_boundary(spacing, 0.0, theta, 30 + theta / 2, (0, 0), 600, 0.6 * spacing)
    points = points + rng.normal(0, 0.3, points.shape)
    found = analysis.find_defects(points)
    longest = found.boundaries.iloc[0]
    ax.plot(theta, longest["dislocation_spacing_nm"], "o", color=plot.LAYER_COLORS[0])
    if theta == 8.0:
        inset = ax.inset_axes([0.42, 0.4, 0.56, 0.58])
        inset.plot(points[:, 1], points[:, 0], ".", color="0.7", ms=2)
        cores = found.defects[found.defects["kind"] == "dislocation"]
        plot.show_defects(cores, inset, size=12, legend=False)
        inset.set(xlim=(-250, 250), ylim=(320, -320), xticks=[], yticks=[], aspect="equal")
ax.plot(angles, spacing / (2 * np.sin(np.radians(angles) / 2)), color="black", label="Frank")
ax.set(xlabel="misorientation / degrees", ylabel="dislocation spacing / nm", ylim=(0, None))
ax.legend(frameon=False, loc="lower left")
plt.show()

# %% [markdown]
# A {term}`twin boundary` is special: one grain is the mirror image of the other *across the boundary*. That takes three
# things, and a plain boundary may have one or two of them by chance:
#
# - the misorientation is that of a low Σ, or no sites would coincide on the line ({doc}`chapter 1 <01_lattices>`);
# - the line runs along the mirror line between the two grains' rows, $\tfrac12(\theta_1+\theta_2)$ up to multiples of 30°;
# - the second lattice lies *where* the mirror image of the first is, not slid along the line. That is
#   {term}`coherence`.
#
# The table holds how far each boundary is from each: `sigma_deviation_deg`, `asymmetry_deg`, `mirror_mismatch_nm`.
# `Tolerance` says how far a twin may be; the misorientation's tolerance shrinks with $\sqrt\Sigma$, as in Brandon's
# criterion {cite:p}`brandon1966`.

# %%
twist7 = float(commensurate_angles(7)["twist_deg"].iloc[0])
twin, line = twin_boundary(spacing, 5.0, 7, (350, 350), 480)
along = np.subtract(line.end, line.position)
along = along / np.hypot(*along)
beyond = (twin - 350) @ [along[1], -along[0]] > 0.1 * spacing  # one grain
cases = {
    "twin": twin,
    "slid": twin + 0.35 * spacing * beyond[:, None] * along,
    "asymmetric": grain_boundary(spacing, 5.0, twist7, 60.0, (350, 350), 480)[0],
    "random": grain_boundary(spacing, 5.0, 16.0, 25.0, (350, 350), 480)[0],
}
analyses, rows = {}, []
for name, points in cases.items():
    points = points[np.all((points > 0) & (points < 700), axis=1)]
    points = points + rng.normal(0, 0.6, points.shape)
    analyses[name] = points, analysis.find_defects(points)
    rows.append(analyses[name][1].boundaries.iloc[0].rename(name))
columns = (
    "kind misorientation_deg misorientation_std_deg inclination_deg sigma "
    "sigma_deviation_deg asymmetry_deg mirror_mismatch_nm"
).split()
pd.DataFrame(rows)[columns].infer_objects().round(3).transpose()

# %% [markdown]
# The slid one has everything that a twin has but coherence: one grain was moved along the line by 0.35 spacings, and
# is no longer the other's mirror image about this line, as `mirror_mismatch_nm` shows.

# %% mystnb={"figure": {"caption": "A twin boundary (solid) and three plain grain boundaries (dashed), with the direction of the rows at each particle. The second is the twin with one grain slid along the line. The third has the misorientation of the twin, but its line is no mirror line.", "name": "fig-boundaries"}}
fig, axes = plt.subplots(2, 2, figsize=(8.5, 7.6), layout="constrained")
for ax, (name, (points, layer_defects)) in zip(axes.flat, analyses.items(), strict=True):
    last = ax in axes[:, 1]
    plot.show_hexatic(points, crystal.hexatic(points), ax, colorbar=last, alpha=0.6)
    plot.show_boundaries(layer_defects.boundaries, ax)
    ax.set(title=name, xlim=(0, 700), ylim=(700, 0))
plt.show()

# %% [markdown]
# Particles that are not round may make twins without any boundary in their lattice: prisms that point up in one region
# and down in the next, on one and the same lattice. `orientational_twins` takes each particle's own rotation, however
# it was measured (this book's fit gives none), and finds such domains and whether a mirror line of the lattice takes
# one into the other:

# %%
prisms = hexagonal_lattice(spacing, 0.0, (350, 350), 250)
pointing = np.where(prisms[:, 1] < 350, 90.0, -90.0) + rng.normal(0, 2.0, len(prisms))
domain, pairs = analysis.orientational_twins(prisms, pointing, symmetry=3)
print("particles in each domain:", np.bincount(domain[domain >= 0]))
pairs.round(1)

# %% [markdown]
# ## Defects in motion
#
# A defect that moves is a story: a vacancy hops from site to site, a dislocation glides along its Burgers vector and
# climbs across it, a boundary migrates. `follow_defects` links defects of one kind through the frames with trackpy,
# dislocations only to those with their own Burgers vector, and splits each step into glide and climb. Here a
# dislocation glides through a crystal by a spacing in each frame, and a vacancy hops.

# %%
rng = np.random.default_rng(4)
path = np.cumsum([(0, 0), (1, 0), (0, 1), (0, 0), (-1, 1), (1, 0)], axis=0) @ [a1, a2] - 4 * a2
frames = []
for t, site in enumerate(path):
    points = crystal[np.hypot(*(crystal - site).T) > 1]
    points = points + dislocation_displacement(points, core + (t - 2) * a1 + 3 * a2, a1)
    points = points + rng.normal(0, 0.4, points.shape)
    frames.append(pd.DataFrame(points, columns=["y_nm", "x_nm"]).assign(frame=t, layer=1))
moves = analysis.follow_defects(
    analysis.defect_table(pd.concat(frames, ignore_index=True)), 1.5 * spacing
)
moves["step_nm"] = np.hypot(moves["step_y_nm"], moves["step_x_nm"])
moves[["defect", "kind", "frame", "step_nm", "glide_nm", "climb_nm"]].round(1)

# %% [markdown]
# A vacancy is known to a fraction of a spacing, as its neighbours show the site. A core is a matter of triangles, three
# of which share the strain of a dislocation; its place jumps among them from frame to frame, by a part of a spacing
# along and across. Take single steps of climb for that, and the sum of many for climb.
#
# This crystal lies still. A film drifts and turns, and carries its defects along. Where particles have tracks, pass
# `motion=moirelib.analysis.site_occupancy(table)`, which knows how each layer moved ({doc}`chapter 10 <10_growth>`):
# steps are then those on the layer's own lattice. `moirelib analyze` does so.
#
# `follow_boundaries` does the same for boundaries, and says how far each migrates across itself. Here both lattices stay
# where they are, and one grows into the other by 12 nm a frame:

# %%
normal = row(25.0 + 90.0, 1.0)
grains = [hexagonal_lattice(spacing, angle, (350, 350), 480) for angle in (5.0, 21.0)]
frames = []
for t in range(5):
    first = grains[0][(grains[0] - 350) @ normal < 12.0 * t]
    second = grains[1][(grains[1] - 350) @ normal > 12.0 * t]
    second = second[cKDTree(first).query(second)[0] > 0.8 * spacing]
    points = np.concatenate([first, second])
    points = points[np.all((points > 0) & (points < 700), axis=1)]
    points = points + rng.normal(0, 0.4, points.shape)
    frames.append(pd.DataFrame(points, columns=["y_nm", "x_nm"]).assign(frame=t, layer=1))
lines = analysis.boundary_table(pd.concat(frames, ignore_index=True))
lines = analysis.follow_boundaries(lines, 2 * spacing)
columns = ["boundary", "frame", "misorientation_deg", "inclination_deg", "migration_nm"]
lines[columns].round(1)

# %% [markdown]
# ## A real frame
#
# Now the real frame of one layer {cite:p}`ou2020`, taken apart as in {doc}`chapter 7 <07_particles>`. There is no truth,
# and positions are worse than in our simulations, the more so where the liquid is bright. What can be said?

# %%
try:
    real = moirelib.read_movie(data.fetch("np_lattice_2p593nm.tif"))
except OSError as error:
    real = None
    print("This section needs the real frame.", error)

if real is not None:
    square = np.s_[420:920, 60:560] if FAST else np.s_[246:954, 46:754]
    counts = real.frame(0)[square].astype(float) - 32768  # the file stores zero as 32768
    result = moirelib.decompose(counts, pixel_size=real.pixel_size, diameter=100)
    table = result.particles
    points = table.loc[table["layer"] == 1, ["y_nm", "x_nm"]].to_numpy()
    layer_defects = analysis.find_defects(points)
    psi6 = crystal.hexatic(points, layer_defects.spacing)
    print(result.summary["note"])
    print(f"{len(points)} particles, |ψ6| {np.nanmean(np.abs(psi6)):.2f} on average")
    print(analysis.lattice_table(table[table["layer"] == 1]).round(2).to_string(index=False))
    print(layer_defects.defects["kind"].value_counts().to_dict())

# %% mystnb={"figure": {"caption": "Order and defects of the real frame. Left, defects over the micrograph. Middle, magnitude of ψ6: low where what was found is no lattice. Right, local rotation against the mean lattice of each grain.", "name": "fig-real-order"}}
fig, axes = plt.subplots(1, 3, figsize=(11, 4.1), layout="constrained")
if real is None:
    for ax in axes:
        ax.text(0.5, 0.5, "the real frame is not at hand", ha="center")
        ax.axis("off")
else:
    for ax in axes:
        plot.show_frame(counts, real.pixel_size, ax)
    plot.show_defects(
        layer_defects.defects, axes[0], real.pixel_size, layer_defects.boundaries, size=14
    )
    size = 0.6 * layer_defects.spacing
    plot.show_hexatic(points, psi6, axes[1], real.pixel_size, direction=False, size_nm=size)
    strain = analysis.strain_map(points, spacing=layer_defects.spacing, grain=layer_defects.grain)
    plot.show_strain(strain, "rotation_deg", axes[2], real.pixel_size, size_nm=size)
plt.show()

# %% [markdown]
# The spacing is that of chapter 7, with an error bar. Of the defects one should believe those that lie in the regular
# part. Most marks lie where ψ6 is low: there bright liquid hides the particles, some finds are not particles, and a
# missed particle would look like a vacancy. A defect that stays in place over many frames is one; a defect of a single
# frame is a suspicion.
#
# ## Exercises
#
# **1.** How much scatter does the search for vacancies stand? Take a perfect lattice, remove 20 particles at random,
# scatter the rest by 3 to 15 % of the spacing, and count how many are found and how many finds are false.

# %% tags=["hide-cell"]
rng = np.random.default_rng(11)
full = hexagonal_lattice(spacing, 3.0, (350, 350), 300)
inner = np.flatnonzero(np.hypot(*(full - 350).T) < 250)
for scatter in (0.03, 0.06, 0.09, 0.12, 0.15):
    removed = rng.choice(inner, 20, replace=False)
    points = np.delete(full, removed, axis=0)
    points = points + scatter * spacing * rng.standard_normal(points.shape)
    found = analysis.find_defects(points).defects
    found = found.loc[found["kind"] == "vacancy", ["y_nm", "x_nm"]].to_numpy(float)
    right = len(match(found, full[removed], 0.5 * spacing)[0])
    print(f"scatter {scatter:.0%}: {right} of 20 found, {len(found) - right} false")

# %% [markdown]
# **2.** Two dislocations with opposite Burgers vectors make a circuit around both that closes. Check it with
# `burgers_circuit`, and find the radius at which the circuit around one of them begins to include the other.

# %% tags=["hide-cell"]
left, right = core - 4 * a1, core + 4 * a1
both = crystal + dislocation_displacement(crystal, left, a1)
both = both + dislocation_displacement(both, right, -a1)
print("around both:", analysis.burgers_circuit(both, core, 7.5 * spacing).round(1))
for radius in (2, 4, 6, 9):
    circuit = analysis.burgers_circuit(both, left, radius * spacing)
    print(f"around the left one, radius {radius} spacings: {circuit.round(1)} nm")
print("they are 8 spacings apart")

# %% [markdown]
# **3.** A random boundary is now and then symmetric and near a low Σ. Estimate how often a boundary with a random
# misorientation between 5° and 30° and a random inclination is called a twin: by geometry from `Tolerance`, then by
# trying.

# %% tags=["hide-cell"]
rng = np.random.default_rng(12)
limits = analysis.Tolerance()
low = commensurate_angles(limits.max_sigma)
share = sum(2 * limits.misorientation / np.sqrt(s) for s in low["sigma"]) / 25
share *= 2 * limits.asymmetry / 30  # mirror lines are 30° apart
print(f"misorientation and symmetry right by chance: {share:.1%}")
called = 0
trials = 60 if FAST else 400
for _ in range(trials):
    turn, inclination = rng.uniform(5, 30), rng.uniform(0, 180)
    points, _ = grain_boundary(spacing, rng.uniform(0, 60), turn, inclination, (0, 0), 300)
    found = analysis.find_defects(points + rng.normal(0, 0.6, points.shape)).boundaries
    called += bool((found["kind"] == "twin").any())
print(f"called twins: {called} of {trials}")

# %% [markdown]
# ## Summary
#
# - $\psi_6$ over the neighbours within 1.35 spacings is as good at the edge as inside.
# - Lattice vectors come from numbering all sites and least squares; their errors allow for strain. Twist, offset and
#   {term}`registry` follow, and the Moiré period is measured from the registry's phases, apart from the formula.
# - Strain and rotation are an affine fit to each particle's neighbours.
# - A vacancy is an empty site with five neighbours or more, empty ones of its kind included; the outside is none.
# - Triangles whose lattice vectors do not add up mark dislocations, and their sum is the Burgers vector.
# - Boundaries have a misorientation and an inclination; a twin is symmetric, of low Σ, and coherent.
#
# ## In practice
#
# - **A missed particle is a vacancy, a false one an interstitial.** Positions decide: look at the score of the particles
#   and at several frames before you believe a defect. Within a spacing of the frame's border nothing is said.
# - **A vacancy beside an interstitial** may be missed, as may an interstitial beside a vacancy; two defects that touch
#   make one another's surroundings irregular. A dislocation that has swallowed a vacancy lies a row further.
# - **At boundaries** vacancies and gaps look alike, and dislocations closer than three spacings have no identity of their
#   own; `in_boundary` marks both, and large-angle boundaries are described by their line, not by dislocations.
# - **Grains** of fewer than twelve particles, and misorientations below 3.5°, are not seen. A curved boundary is
#   divided into straight segments of at least four spacings.
# - **Twins by chance**: a few in a hundred random boundaries satisfy all conditions of a twin. Short boundaries have an
#   uncertain inclination, `inclination_std_deg`, and are given the benefit of three standard deviations.
# - **The Moiré period** needs a region of overlap that holds about one period; in a smaller one its error says so.
# - **Large strain** (beyond some 10 %) puts neighbours out of reach of 1.35 spacings.
