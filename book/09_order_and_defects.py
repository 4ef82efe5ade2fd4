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
# - measure lattice vectors, twist and Moiré period with error bars, without bias from the edge
# - map strain, rotation and registry of each particle
# - find vacancies, interstitials and dislocations (by a Burgers circuit)
# - distinguish a twin boundary from a plain grain boundary
# - follow defects from frame to frame
# - measure drift and turn of each layer, and the mean squared displacement of its particles
#
# Needs chapters 1 and 7 · CPU · 2 minutes (fast; 30 seconds without the real frame) · 0.7 GB
# ```
#
# This chapter needs only positions, from {doc}`chapter 7 <07_particles>` or any other method. We start with simulated
# layers in which every defect is known, and end with a real frame. Each layer is analysed on its own. In the
# projection of both layers, every particle would look out of place.
#
# Crystals of nanoparticles are small, and frames are smaller. Many particles lie at an edge, where neighbours are
# missing because the crystal or the frame ends. The methods below do not mistake an edge for disorder.

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
# ## ψ6: direction and order of the rows
#
# The bonds from a particle to its neighbours have directions $\alpha_k$. In a hexagonal lattice they differ by multiples
# of 60°, so $e^{6i\alpha_k}$ is the same for all of them. Its mean {cite:p}`nelson1979`,
#
# $$ \psi_6 = \frac1n \sum_{k=1}^{n} e^{6i\alpha_k}, $$
#
# the {term}`hexatic order parameter`, has magnitude 1 in a perfect lattice. A sixth of its argument is the direction of
# the rows. The mean runs over the *existing* neighbours, and their choice matters. The *six nearest* of an edge
# particle include second neighbours, whose directions are 30° off. The neighbours by Voronoi cells reach around the
# edge. All particles nearer than half-way to the second shell, at √3 spacings, are a good choice everywhere.


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
psi6, reach = crystal.hexatic(base), crystal.NEIGHBOUR_REACH  # reach in spacings
edge = analysis.edge_particles(base)
six_nearest = cKDTree(base).query(base, k=7)[1][:, 1:]
dy, dx = np.moveaxis(base[six_nearest] - base[:, None], -1, 0)
naive = np.abs(np.exp(6j * np.arctan2(dy, dx)).mean(axis=1))
print(
    f"by hand against freud: {np.nanmax(abs(psi6_by_hand(base, reach * spacing) - psi6)):.1e} at most"
)
for name, values in ((f"within {reach} spacings", np.abs(psi6)), ("six nearest", naive)):
    print(f"{name}: inside {values[~edge].mean():.3f}, at the edge {values[edge].mean():.3f}")

# %% [markdown]
# `crystal.hexatic` passes the bonds to freud {cite:p}`ramasubramani2020`. The correlation function $g_6(r)$ shows how far
# the order reaches. It is the mean of $\psi_6^*(0)\,\psi_6(r)$ over pairs of particles at the distance $r$. It stays
# near 1 in a crystal and decays in a polycrystal over the size of a grain.

# %% mystnb={"figure": {"caption": "Bond-orientational order of layer 1. Left, magnitude of ψ6: the edge is as ordered as the inside; values are lower around a dislocation and an interstitial. Right, correlation function of layer 1 and of two grains turned by 30°, whose ψ6 have opposite signs.", "name": "fig-psi6"}}
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
# The distance to the nearest neighbour is a biased measure of the {term}`spacing`: the nearest of six scattered
# neighbours is closer than the mean. The mean length of the bonds is noisy, because it compares each particle with its
# neighbours only. It is better to *number* all sites, $(m, n)$, from neighbour to neighbour, and to fit all positions
# at once,
#
# $$ \mathbf r_j = \mathbf r_0 + m_j\,\mathbf a_1 + n_j\,\mathbf a_2 + \text{scatter}, $$
#
# since distant particles determine the vectors best. Linear regression gives the vectors and their errors. We compare
# the methods on 100 copies of a perfect lattice with random scatter:


# %%
def fit_by_hand(points, a1, a2):
    """Lattice vectors (2, 2) from a first guess: number the sites, then least squares."""
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
print(f"error bar of fit_lattice ± {claimed.mean():.3f} nm")

# %% [markdown]
# `fit_lattice` follows the most regular bonds first and numbers each site from a neighbour, so slow {term}`strain` does
# not lead to wrong numbers. Around a {term}`dislocation` the numbers depend on the path. Where bonds contradict them,
# the vectors come from the bonds alone, with a larger error. In a bent lattice, residuals of neighbours are
# correlated, and ordinary regression errors would be too small. The errors then come from blocks of particles.
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
# Locally, the lattice may be stretched and turned. For each particle we fit, by least squares, the affine map from the
# ideal neighbours to the observed ones {cite:p}`falk1998`. It is a matrix of four numbers and gives the strain and
# rotation of the surroundings relative to a reference lattice. Three neighbours in different directions are enough, so
# edge particles are measured too, with a larger error.
#
# We test this on a lattice that is bent in a known way.

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
print(f"error bar {np.degrees(strain['strain_std']).median():.2f}° (median)")

# %% mystnb={"figure": {"caption": "Local rotation of the lattice. Top left, a bent lattice; top right, measured against true rotation of the same particles (edge particles orange). Bottom, rotation and dilatation of layer 1 of the scene: the dislocation turns its two sides in opposite directions and compresses the side of its extra row.", "name": "fig-strain"}}
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
# A particle of layer 2 may lie on **top** of a particle of layer 1, over a **bridge** between two, or over a **hollow**
# between three. This is its {term}`registry`. We fit the local lattice of layer 1 to three shells of neighbours and
# evaluate the phases $\varphi_k$ of its three lattice waves at the particle. The sum of their cosines is a continuous
# coordinate: 3 on top, −1 on a bridge, −1.5 in a hollow.
#
# From particle to particle of layer 2, the phases advance by the *difference* of the wave vectors of the two lattices.
# This difference is the wave vector of the Moiré pattern; its wave is long where the twist is small. The gradient of
# the phases therefore measures the period of the {term}`Moiré lattice` from the positions. The formula
# $a/(2\sin(\theta/2))$ predicts it from spacing and twist. The two agree for rigid lattices. Where layers relax
# towards each other, only the measured period is right.

# %%
on_base = registry(layers[1], base)
moire = fit_moire(*layers)
print(f"twist {moire.twist:.3f} ± {moire.twist_std:.3f}° (simulated: 6°)")
print(f"period {moire.period:.1f} ± {moire.period_std:.1f} nm measured, "
      f"{moire.formula:.1f} ± {moire.formula_std:.1f} nm by formula")  # fmt: skip
print(f"a rigid lattice at 6° would have {moire_period(spacing, 6.0):.1f} nm")
print(f"a top site lies {np.hypot(*moire.offset):.1f} ± {moire.offset_std:.1f} nm from the middle")
cell = registry(base.mean(axis=0) + rng.uniform(-150, 150, (2000, 2)), base)  # random places
for name, some in (("particles", on_base), ("area", cell)):
    print(f"{name:10}", some["registry"].value_counts(normalize=True).round(3).to_dict())

# %% [markdown]
# About half of the particles lie on bridges. This is not a preference: there are three bridges and two hollows to each
# site, so bridges have the largest share of the *area*. Only a deviation from these shares is a preference. The period
# also differs from that of a rigid lattice at 6°: the simulated slow strain also turns the lattices a little, and a
# relative rotation $\delta$ changes the period by the fraction $\delta/\theta$. A Moiré pattern magnifies rotation.

# %% mystnb={"figure": {"caption": "Registry of layer 2 on layer 1. Left, particles of layer 2 coloured by their coordinate, over the particles of layer 1 (grey dots). Bright particles lie on top, and the pattern repeats with the Moiré period (bar). Right, ratio of measured period and formula for twisted pairs of rigid lattices with 2 % scatter; error bars, two standard deviations.", "name": "fig-registry"}}
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
# column `registry` gives only the nearest kind of site.
#
# ## Vacancies: empty sites inside the crystal
#
# The lattice around each particle predicts where its six neighbours should be. If several particles predict a site and
# it is empty, it is an empty site. Not every empty site is a {term}`vacancy`: those outside the crystal are not. We
# therefore remove empty sites with fewer than five neighbours of six. Particles and remaining empty sites both count as
# neighbours. The step is repeated until no site is removed. It removes the outside from its edge inwards, since sites
# on the edge of a finite region have four neighbours or fewer. Pairs and clusters of vacancies stay.

# %%
lattice = hexagonal_lattice(1.0, 0.0, (0, 0), 7.0)
inside = np.hypot(*lattice.T) < 4.6
holes = cKDTree(lattice).query([(0, 0), (0, 1), (np.sqrt(0.75), 0.5), (0, -3)])[1]
occupied = inside & ~np.isin(np.arange(len(lattice)), holes)
neighbours = cKDTree(lattice).query_ball_point(lattice, 1.1)
empty = ~occupied
for step in range(10):
    present = np.array([sum(occupied[n] | empty[n]) - 1 for n in neighbours])
    outside = empty & (present < 5)
    print(f"step {step}: {empty.sum()} empty sites, {outside.sum()} of them removed")
    if not outside.any():
        break
    empty &= ~outside

# %% [markdown]
# ## Dislocations: the Burgers circuit
#
# Walk $n$ steps along one row of the crystal, $n$ along another, then the same numbers of steps back. In a perfect
# lattice the walk ends where it started. If it encloses a {term}`dislocation`, it does not close. The gap is the
# {term}`Burgers vector`, and it is the same for every circuit around the dislocation. (Its sign depends on the sense of
# the walk, which is a convention.)


# %%
def walk(points, start, steps):
    """Path of particles: each step goes to the particle nearest to the end of the lattice vector."""
    tree, path = cKDTree(points), [start]
    for step in steps:
        path.append(tree.query(points[path[-1]] + step)[1])
    return points[path]


a1, a2 = row(0.0), row(60.0)
steps = [a1] * 6 + [a2] * 6 + [-a1] * 6 + [-a2] * 6
undistorted = hexagonal_lattice(spacing, 0.0, (0, 0), 300)
core = (a1 + a2) / 3  # between three particles
dislocated = undistorted + dislocation_displacement(undistorted, core, a1)
dislocated = dislocated + rng.normal(0, 0.4, undistorted.shape)
first = cKDTree(dislocated).query(-3 * (a1 + a2))[1]
far = cKDTree(dislocated).query(-3 * (a1 + a2) + 5 * row(120.0))[1]
shorter = [step for k, step in enumerate(steps) if k % 6 < 4]
around, beside = walk(dislocated, first, steps), walk(dislocated, far, shorter)
for name, path in (("around", around), ("beside", beside)):
    print(f"{name} the core: end - start = {(path[-1] - path[0]).round(1)} nm (y, x)")
print(f"simulated: {a1.round(1)}")

# %% [markdown]
# To find an unknown core, use the smallest circuits: those around single triangles of neighbours. Each edge of the
# Delaunay triangulation is assigned the nearest lattice vector, relative to the local direction of the rows. Vacancies
# are filled first, because the long edges around them would be assigned wrongly. In good crystal the three vectors of
# a triangle add up to zero. At a core they do not, and the sum over touching triangles is the Burgers vector. This is
# the dislocation analysis of {cite:t}`stukowski2010` in two dimensions. It does not use the number of neighbours of a
# particle, so edge particles, which have few, cause no false dislocations.
#
# The traditional picture uses the number of neighbours. A dislocation is a pair of a particle with five neighbours and
# one with seven. Each alone would be a {term}`disclination`, a missing or extra wedge of 60°. `find_defects` lists a
# disclination only if no partner is near.

# %% mystnb={"figure": {"caption": "A dislocation. Left, two walks with equal numbers of steps in opposite directions, coloured from dark (start) to bright (end). The walk around the core does not close; the arrow is the Burgers vector. The walk beside the core closes. Right, result of find_defects: five- (blue) and seven-fold (orange) particles, and the core with its Burgers vector (twice its length).", "name": "fig-burgers"}}
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
# ## Defects of a whole layer, compared with the truth
#
# `find_defects` finds all of these in one layer of one frame. The defects of the simulated scene are known:

# %% mystnb={"figure": {"caption": "Defects found in both layers of the scene (marks; Burgers vectors at twice their length) and simulated defects (light rings). No edge of a layer or of the frame is marked as a defect.", "name": "fig-defects-found"}}
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
# With two layers, `defect_table` also gives the registry of each defect on the other layer, and whether a vacancy lies
# under one of its particles (`covered`). The vacancies of layer 2 are
# placed at random, so on average they follow the area shares above. A single scene has too few to show it:

# %%
on_moire = analysis.defect_table(table).replace({"registry": {"": "other layer ends"}})
on_moire.groupby(["layer", "kind"])["registry"].value_counts().unstack(fill_value=0)

# %% [markdown]
# We count defects in more scenes. A margin of one spacing (two for dislocations) along the border of the frame is left
# out, because defects there cannot be recognised. `benchmarks/defects.py` does the same on many more scenes.


# %%
def count_right(count, rng):
    """Numbers of found, simulated and matched defects in single layers with all kinds of defects."""
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
    print(f"{kind}: {planted} simulated, {found} found, {matched} of them right")

# %% [markdown]
# ## Grain boundaries and twins
#
# {term}`Grains <grain>` are contiguous regions with one row direction. A bond is cut where the mean $\psi_6$ on its two
# sides differs in direction by more than 3.5°. The connected regions that remain are grains. Between two grains we fit
# the line that separates their particles best. A boundary has two angles: the {term}`misorientation` of the grains and
# the **inclination** of the line.
#
# A {term}`grain boundary` of a few degrees is a row of dislocations. Each closes a gap of one Burgers vector $b$, so
# their spacing is $b / (2\sin(\theta/2))$. This is Frank's formula, from which Read and Shockley {cite:p}`read1950`
# calculated the energy. It holds for a line across one set of rows. Other lines need two sets of dislocations, which
# are up to 13 % closer. `boundary_table` counts pairs of five- and seven-fold particles, each with one Burgers vector,
# and also gives the formula. A line too short for more than one dislocation is not called a boundary: a single
# dislocation near the corner of the field also turns this corner.

# %% mystnb={"figure": {"caption": "Spacing of the dislocations along symmetric boundaries, counted as pairs of five- and seven-fold particles, against Frank's formula. They agree: the boundary is a row of dislocations, at the largest angles little more than two spacings apart. Inset, the boundary of 8°.", "name": "fig-frank"}}
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
# At a {term}`twin boundary`, one grain is the mirror image of the other *across the boundary*. This requires three
# conditions, and a plain boundary may meet one or two of them by chance:
#
# - the misorientation is that of a low Σ, so that sites coincide on the line ({doc}`chapter 1 <01_lattices>`);
# - the line runs along a mirror line between the rows of the two grains, $\tfrac12(\theta_1+\theta_2)$ up to multiples
#   of 30°;
# - the second lattice coincides with the mirror image of the first, without a shift along the line. This is
#   {term}`coherence`.
#
# The table gives the deviation from each condition: `sigma_deviation_deg`, `asymmetry_deg`, `mirror_mismatch_nm`.
# `Tolerance` holds the largest deviations of a twin. That of the misorientation shrinks with $\sqrt\Sigma$, as in
# Brandon's criterion {cite:p}`brandon1966`.

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
# The boundary `slid` meets all conditions except coherence. One grain was moved along the line by 0.35 spacings and is
# no longer the mirror image of the other, as `mirror_mismatch_nm` shows.

# %% mystnb={"figure": {"caption": "A twin boundary (solid) and three plain grain boundaries (dashed), with the direction of the rows at each particle. The second is the twin with one grain moved along the line. The third has the misorientation of the twin, but its line is not a mirror line.", "name": "fig-boundaries"}}
fig, axes = plt.subplots(2, 2, figsize=(8.5, 7.6), layout="constrained")
for ax, (name, (points, layer_defects)) in zip(axes.flat, analyses.items(), strict=True):
    last = ax in axes[:, 1]
    plot.show_hexatic(points, crystal.hexatic(points), ax, colorbar=last, alpha=0.6)
    plot.show_boundaries(layer_defects.boundaries, ax)
    ax.set(title=name, xlim=(0, 700), ylim=(700, 0))
plt.show()

# %% [markdown]
# Particles that are not round can form twins without a boundary in their lattice: on one lattice, prisms point up in one
# region and down in the next. `orientational_twins` takes the rotation of each particle, measured by other means (the
# fit in this book does not give it). It finds such domains and tests whether a mirror line of the lattice maps one onto
# the other:

# %%
prisms = hexagonal_lattice(spacing, 0.0, (350, 350), 250)
pointing = np.where(prisms[:, 1] < 350, 90.0, -90.0) + rng.normal(0, 2.0, len(prisms))
domain, pairs = analysis.orientational_twins(prisms, pointing, symmetry=3)
print("particles in each domain:", np.bincount(domain[domain >= 0]))
pairs.round(1)

# %% [markdown]
# ## Defects in motion
#
# Defects move: a vacancy hops from site to site, a dislocation glides along its Burgers vector and climbs across it, a
# boundary migrates. `follow_defects` links defects of one kind through the frames with trackpy. Dislocations are linked
# only if their Burgers vectors agree, and each step is split into glide and climb. In this simulation a dislocation
# glides by one spacing per frame, and a vacancy hops.

# %%
rng = np.random.default_rng(4)
path = np.cumsum([(0, 0), (1, 0), (0, 1), (0, 0), (-1, 1), (1, 0)], axis=0) @ [a1, a2] - 4 * a2
frames = []
for t, site in enumerate(path):
    points = undistorted[np.hypot(*(undistorted - site).T) > 1]
    points = points + dislocation_displacement(points, core + (t - 2) * a1 + 3 * a2, a1)
    points = points + rng.normal(0, 0.4, points.shape)
    frames.append(pd.DataFrame(points, columns=["y_nm", "x_nm"]).assign(frame=t, layer=1))
moves = analysis.follow_defects(
    analysis.defect_table(pd.concat(frames, ignore_index=True)), 1.5 * spacing
)
moves["step_nm"] = np.hypot(moves["step_y_nm"], moves["step_x_nm"])
moves[["defect", "kind", "frame", "step_nm", "glide_nm", "climb_nm"]].round(1)

# %% [markdown]
# The neighbours of a vacancy give its position to a fraction of a spacing. The position of a core is less certain: it
# jumps between the triangles around the dislocation from frame to frame, by a part of a spacing along and across the
# Burgers vector. A single step of climb may therefore be noise; only the sum of many steps shows climb.
#
# This crystal does not move. In a movie, layers drift and turn, and carry their defects along. If particles have
# tracks, pass `motion=moirelib.analysis.site_occupancy(table)`, which holds the motion of each layer
# ({doc}`chapter 10 <10_growth>`). Steps are then measured on the lattice of the layer. `moirelib analyze` does so.
#
# `follow_boundaries` links boundaries and gives the distance that each migrates across itself. In this simulation both
# lattices are fixed, and one grows into the other by 12 nm per frame:

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
# ## Drift, turn and mean squared displacement
#
# Stage and sample drift, and a layer turns. `site_occupancy` ({doc}`chapter 10 <10_growth>`) fits the motion of each
# layer to its tracks, robustly against tracks that change particle. `motion_table` lists it: how far the middle of the
# layer has moved since the first frame, and how far the layer has turned. With the dose of a frame, it also lists the
# dose up to then. Motion that the beam causes begins at a dose; other motion begins at a time.
#
# In this simulation, 91 particles vibrate about the sites of layer 1, which drifts and turns. Ten more particles diffuse
# freely on it. They are layer 2, and the drift carries them too.

# %%
rng = np.random.default_rng(6)
frame_count, error, step = (150 if FAST else 1000), 0.8, 0.7  # error and steps in nm, per axis
lattice = hexagonal_lattice(spacing, 10.0, (0, 0), 5 * spacing)
bound = lattice + rng.normal(0, 1.0, (frame_count, *lattice.shape))  # amplitude 1 nm per axis
free = rng.uniform(-90, 90, (10, 2)) + rng.normal(0, step, (frame_count, 10, 2)).cumsum(axis=0)
at = np.concatenate([bound, free], axis=1)
turn = np.radians(rng.normal(0, 0.05, frame_count).cumsum())
shift = rng.normal(0.1, 0.5, (frame_count, 2)).cumsum(axis=0)
z = (at @ [1j, 1]) * np.exp(1j * turn)[:, None] + (shift @ [1j, 1])[:, None]  # x + iy
at = np.stack([z.imag, z.real], axis=-1) + rng.normal(0, error, at.shape)
t, particle = np.indices(z.shape).reshape(2, -1)
tracks = pd.DataFrame({"frame": t, "particle": particle, "layer": 1 + (particle >= len(lattice))})
tracks["y_nm"], tracks["x_nm"] = at.reshape(-1, 2).T
tracks = tracks.assign(y_std_nm=error, x_std_nm=error)
occupancy = analysis.site_occupancy(tracks)
motion = analysis.motion_table(occupancy, dose=5.0)
motion[motion["layer"] == 1].tail(3).round(2)

# %% mystnb={"figure": {"caption": "Drift (left) and turn (right) of layer 1 since the first frame: found (colours) and simulated (black, dashed).", "name": "fig-layer-motion"}}
fig, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
base_motion = motion[motion["layer"] == 1]
for column, color in (("y_nm", plot.LAYER_COLORS[0]), ("x_nm", plot.LAYER_COLORS[1])):
    axes[0].plot(base_motion["frame"], base_motion[column], color=color, label=column[0])
true_turn, true_shift = np.degrees(turn - turn[0]), shift - shift[0]
axes[0].plot(true_shift, "--", color="black", lw=1)
axes[1].plot(base_motion["frame"], base_motion["turn_deg"], color=plot.LAYER_COLORS[0])
axes[1].plot(true_turn, "--", color="black", lw=1)
axes[0].set(xlabel="frame", ylabel="shift / nm")
axes[1].set(xlabel="frame", ylabel="turn / °")
axes[0].legend(frameon=False)
plt.show()

# %% [markdown]
# The {term}`mean squared displacement` (MSD) tells whether particles are held. It is the mean over all particles and all
# pairs of frames that are the same lag apart. For particles that are held at their sites it stays at
# $2(\langle u_y^2\rangle + \langle u_x^2\rangle)$. For particles that diffuse it grows as $4Dt$. Two effects must be
# removed first. The motion of the layer would make every MSD grow. The localization error $\sigma$ adds $4\sigma^2$ at
# every lag, because each of the two positions has it along both axes {cite:p}`savin2005`; on a slowly diffusing particle
# this looks like a fast motion that is confined. `mean_squared_displacement` removes both: the motion is that of
# `site_occupancy`, and $\sigma$ is taken from the error bars of the tracks.

# %% mystnb={"figure": {"caption": "Mean squared displacement of held (layer 1) and free particles (layer 2), with standard errors. Dotted, with the localization error's part. Black, dashed: simulated.", "name": "fig-msd"}}
msd = analysis.mean_squared_displacement(tracks, lags=20, motion=occupancy)
fig, ax = plt.subplots(figsize=(6, 3.8), layout="constrained")
plot.show_msd(msd, ax)
lag = np.arange(1, 21)
ax.plot(lag, np.full(20, 4 * 1.0**2), "--", color="black", lw=1)
ax.plot(
    lag, 2 * step**2 * lag, "--", color="black", lw=1
)  # 4 D t, with steps of variance 2 D per axis and frame
plt.show()

# %% tags=["remove-input"] mystnb={"markdown_format": "myst"}
from IPython.display import Markdown, display

held, diffusing = (msd[msd["layer"] == k].set_index("lag_frames") for k in (1, 2))
first = diffusing.iloc[0]
own = 3 / (2 * len(lattice))
display(
    Markdown(f"""The held particles stay at {held["msd_nm2"].mean():.2f} nm². Simulated are 4.00, of which the fit of drift
and turn takes {own:.1%} away: three of the layer's {2 * len(lattice)} coordinates. The first lag of the free ones gives
$D$ = {first["msd_nm2"] / 4:.2f} ± {first["msd_std_nm2"] / 4:.2f} nm² per frame (simulated: {step**2 / 2:.2f}). With the
error's part it would be {first["msd_raw_nm2"] / 4:.2f}.""")
)

# %% [markdown]
# Motion during the exposure of a frame makes short lags smaller; this part is not removed. Without error bars nothing is
# subtracted, and a note says so. `moirelib analyze` writes both tables, `motion.csv` and `msd.csv`, with a figure each.
#
# ## A real frame
#
# A published real frame of one layer {cite:p}`ou2020` is analysed as in {doc}`chapter 7 <07_particles>`. Its true
# defects are unknown, and its positions are less precise than in our simulations, in particular where the liquid is
# bright.

# %%
try:
    real = moirelib.read_movie(data.fetch("np_lattice_2p593nm.tif"))
except OSError:
    real = None

# %% tags=["remove-input"] mystnb={"markdown_format": "myst"}
if real is None:
    missing = f"""```{{admonition}} The real frame is not at hand
:class: warning
This page was built without it. Left out below: a figure (defects, ψ6 and local rotation of the real frame), and what it
shows. To see it, run the chapter with access to the internet, or save
[the published file]({data.REGISTRY["np_lattice_2p593nm.tif"].url}) as `np_lattice_2p593nm.tif` in a folder and set the
environment variable `MOIRELIB_DATA` to that folder.
```"""
    display(Markdown(missing))

# %%
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

# %% mystnb={"figure": {"caption": "Order and defects of the real frame. Left, defects over the micrograph. Middle, magnitude of ψ6, low where the finds do not form a lattice. Right, local rotation relative to the mean lattice of each grain.", "name": "fig-real-order"}}
if real is not None:
    fig, axes = plt.subplots(1, 3, figsize=(11, 4.1), layout="constrained")
    for ax in axes:
        plot.show_frame(counts, real.pixel_size, ax)
    plot.show_defects(
        layer_defects.defects, axes[0], real.pixel_size, layer_defects.boundaries, size=14
    )
    size = 0.6 * layer_defects.spacing
    plot.show_hexatic(
        points, psi6, axes[1], pixel_size=real.pixel_size, direction=False, size_nm=size
    )
    strain = analysis.strain_map(points, spacing=layer_defects.spacing, grain=layer_defects.grain)
    plot.show_strain(strain, "rotation_deg", axes[2], pixel_size=real.pixel_size, size_nm=size)
    plt.show()

# %% tags=["remove-input"] mystnb={"markdown_format": "myst"}
if real is not None:
    positions = layer_defects.defects[["y_nm", "x_nm"]].to_numpy(float)
    around = cKDTree(points).query_ball_point(positions, reach * layer_defects.spacing)
    mean = np.nanmean(np.abs(psi6))
    low = sum(np.nanmean(np.abs(psi6[near])) < mean for near in around if near)
    if low:
        display(
            Markdown(f"""Around {low} of the {len(positions)} defects, |ψ6| is lower than on average. There, bright
liquid hides the particles, and some finds are not particles. Only defects in the regular part are reliable.""")
        )

# %% [markdown]
# In a single frame, a missed particle looks like a vacancy. Trust a defect only if it stays in place over many frames.
#
# ## Exercises
#
# **1.** How much scatter does the search for vacancies tolerate? Take a perfect lattice, remove 20 particles at random,
# scatter the rest by 3 to 15 % of the spacing, and count the vacancies found and the false finds.

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
# **2.** A circuit around two dislocations with opposite Burgers vectors closes. Check this with `burgers_circuit`, and
# find the radius at which the circuit around one of them begins to include the other.

# %% tags=["hide-cell"]
left, right = core - 4 * a1, core + 4 * a1
both = undistorted + dislocation_displacement(undistorted, left, a1)
both = both + dislocation_displacement(both, right, -a1)
print("around both:", analysis.burgers_circuit(both, core, 7.5 * spacing).round(1))
for radius in (2, 4, 6, 9):
    circuit = analysis.burgers_circuit(both, left, radius * spacing)
    print(f"around the left one, radius {radius} spacings: {circuit.round(1)} nm")
print("their distance is 8 spacings")

# %% [markdown]
# **3.** A random boundary is sometimes symmetric and near a low Σ. Estimate how often a boundary with a random
# misorientation between 5° and 30° and a random inclination is called a twin: first by geometry from `Tolerance`, then
# by simulation.

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
print("a short line has an uncertain inclination, so find_defects allows it a larger deviation")

# %% [markdown]
# ## Summary
#
# - $\psi_6$ over the neighbours nearer than half-way to the second shell works equally well at the edge and inside.
# - Lattice vectors come from numbering all sites and least squares; their errors allow for strain. Twist, offset and
#   {term}`registry` follow. The phases of the registry give the Moiré period independently of the formula.
# - Strain and rotation come from an affine fit to the neighbours of each particle.
# - A vacancy is an empty site with at least five neighbours, where other vacancies count as neighbours.
# - At a dislocation the lattice vectors of triangles do not add up to zero; their sum is the Burgers vector.
# - Boundaries have a misorientation and an inclination; a twin is symmetric, of low Σ, and coherent.
# - The mean squared displacement of held particles is constant, that of free ones grows; drift, turn and localization
#   error must be removed first.
#
# ## In practice
#
# - **A missed particle looks like a vacancy, a false one like an interstitial.** Look at the score of the particles and
#   at several frames before you trust a defect. Within a spacing of the border of the frame no defects are reported.
# - **A vacancy under a particle** of the other layer is `covered` in the table: two particles that nearly coincide look
#   much like one, so such a vacancy may be none. Count those that are not covered, or look at other frames.
# - **A vacancy beside an interstitial** may be missed, and so may the interstitial, because each disturbs the
#   surroundings of the other. If a dislocation absorbs a vacancy, its core moves by a row.
# - **At boundaries**, vacancies and gaps look alike, and dislocations closer than three spacings cannot be separated.
#   `in_boundary` marks both. Describe a large-angle boundary by its line, not by dislocations.
# - **Grains** of fewer than twelve particles and misorientations below 3.5° are not detected. A curved boundary is
#   divided into straight segments of at least four spacings.
# - **Twins by chance**: a few in a hundred random boundaries meet all conditions of a twin. Short boundaries have an
#   uncertain inclination; their asymmetry may be as large as three times `inclination_std_deg`.
# - **The Moiré period** needs an overlap region of about one period; in a smaller region its error is large.
# - **The mean squared displacement** of many frames hides rare events: a few hops among thousands of vibrations. Look
#   at single tracks too. Tracks that change particle look like hops.
# - **Large strain** (beyond some 10 %) moves neighbours out of `crystal.NEIGHBOUR_REACH`.
