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
# (vibrations)=
# # Measure how nanoparticles vibrate
#
# ```{admonition} In this chapter
# :class: tip
# - remove drift, rotation and slow strain, and know which motion is lost with them
# - separate vibration from localization error, with and without error bars
# - turn amplitudes into spring constants with tested confidence intervals
# - compare bulk, edge and vacancy sites, and the two layers
# - measure phonons, springs and elastic constants from the displacements
# - test the error stated for published trajectories against the tracks themselves
#
# Needs chapter 7, or any table of tracks · CPU · 30 seconds (fast), 1 minute (full) · 0.7 GB
# ```
#
# A particle in a lattice never rests. Collisions with the liquid push it and its neighbours pull it back. The
# amplitude of this motion tells how strongly they pull. {doc}`Chapter 7 <07_particles>` gave every particle a track.
# This chapter turns tracks into physics with two modules: `moirelib.analysis.vibrations`
# treats each particle, `moirelib.analysis.phonons` treats waves.
#
# We start with a simulated crystal whose springs we know. It has a free edge and one {term}`vacancy`. Springs of
# 1.5 kT/nm² connect nearest neighbours, and a weak spring ties each particle to its site, as a support would. The
# thermal displacements are drawn exactly ({doc}`chapter 1 <01_lattices>`). The simulated microscope then adds drift
# and rotation, misses some particles, and locates the others with an error about as large as the vibration.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from moirelib import data, plot
from moirelib.analysis import (
    autocovariance,
    coordination_labels,
    density_of_states,
    dispersion,
    elastic_constants,
    find_normal_modes,
    fit_springs,
    group_vibrations,
    interlayer_correlation,
    layer_vibrations,
    localization_bound,
    localization_from_covariance,
    pn_per_um,
    registry,
    site_displacements,
    site_vibrations,
)
from moirelib.crystal import hexagonal_lattice, symmetry_path
from moirelib.simulation import dynamical_matrix, stiffness_matrix, thermal_displacements

FAST = os.environ.get("MOIRELIB_FAST", "1") != "0"
FRAMES = 600 if FAST else 2000
SPACING, ANGLE, SPRING, HOLD = 40.0, 13.0, 1.5, 0.06  # nm, degrees, kT/nm², kT/nm²


def stage(frames, rng):
    """Drift (t, 1, 2) in nm and rotation matrices (2, 2, t) of the specimen."""
    drift = np.cumsum(rng.normal(0, 1.5, (frames, 1, 2)), axis=0)
    angle = np.radians(np.cumsum(rng.normal(0, 0.02, frames)))
    angle -= angle.mean()  # the mean direction of the lattice stays
    return drift, np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def filmed(sites, u, error, rng, layer=1, specimen=None):
    """Track table of particles displaced by u (t, n, 2), with drift, rotation, misses and error (n,) in nm."""
    drift, turn = specimen or stage(len(u), rng)
    seen = np.einsum("ijt,tnj->tni", turn, sites + u) + drift
    seen = seen + error[:, None] * rng.standard_normal(seen.shape)
    t, k = np.nonzero(rng.random(u.shape[:2]) > 0.05)  # one in twenty is missed
    table = pd.DataFrame({"frame": t, "particle": 10000 * (layer - 1) + k, "layer": layer})
    table[["y_nm", "x_nm"]] = seen[t, k]
    return table.assign(y_std_nm=error[k], x_std_nm=error[k])


rng = np.random.default_rng(8)
sites = hexagonal_lattice(SPACING, ANGLE, (0.0, 0.0), 440.0)
hole = np.argmin(np.hypot(*(sites - [200, 220]).T))
sites = np.delete(sites, hole, axis=0)
u = thermal_displacements(sites, SPACING, SPRING, FRAMES, rng, HOLD)
error = u.std() * rng.uniform(0.6, 1.4, len(sites))
specimen = stage(FRAMES, rng)
tracks = filmed(sites, u, error, rng, specimen=specimen)
print(f"{len(sites)} particles, {FRAMES} frames; vibration {u.std():.2f} nm along each axis")
print(f"localization errors {error.min():.2f} to {error.max():.2f} nm")
tracks.head(3)

# %% [markdown]
# ## Remove the motion of the whole layer
#
# Displacements are measured from the {term}`site`, the place about which a particle moves. But the sites themselves
# move with the specimen. We fit the common motion, a shift and a rotation, to every frame by least squares. For a
# small rotation $\theta$, a particle at $\mathbf r$ moves by $\mathbf d + \theta\,\hat z\times\mathbf r$, which is
# linear in three unknowns:


# %%
def remove_rigid_by_hand(displaced, home):
    """Displacements (n, 2) of sites (n, 2) minus their least-squares shift and small rotation."""
    r = home - home.mean(axis=0)
    one, zero = np.ones(len(r)), np.zeros(len(r))
    columns = [np.stack(c, axis=1).ravel() for c in ((one, zero), (zero, one), (r[:, 1], -r[:, 0]))]
    design = np.stack(columns, axis=1)
    fit = np.linalg.lstsq(design, displaced.ravel(), rcond=None)[0]
    return (displaced.ravel() - design @ fit).reshape(-1, 2)


last = tracks[tracks["frame"] == FRAMES - 1]
home = sites[last["particle"]]
by_hand = remove_rigid_by_hand(last[["y_nm", "x_nm"]].to_numpy() - home, home)
motion = site_displacements(tracks)
tested = motion.values[-1, last["particle"]]
print(
    f"largest displacement before {np.abs(last[['y_nm', 'x_nm']] - home).to_numpy().max():.0f} nm"
)
print(
    f"after, by hand {by_hand.std():.3f} nm, by site_displacements {tested.std():.3f} nm (one sigma)"
)

# %% [markdown]
# `site_displacements` does this without knowing the sites. It alternates two steps until neither changes the result:
# fit the frames to the sites, and average the fitted frames to get the sites. A particle that is missed while the
# specimen drifts therefore does not shift its site. The function allows rotations of any size, and strain that grows
# steadily, for example when the magnification changes slowly. All results are displacements from the sites in nm, NaN
# where a particle was not seen.

# %% mystnb={"figure": {"caption": "Left, the drift that was removed (its error is far below the width of the line). Right, the remaining displacements in one frame, magnified ten times: vibration plus localization error.", "name": "fig-displacements"}}
fig, axes = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
for values, axis, color in zip(motion.drift.T, "yx", plot.LAYER_COLORS, strict=True):
    axes[0].plot(motion.frames, values, color=color, label=axis)
axes[0].set(xlabel="frame", ylabel="drift / nm")
axes[0].legend(frameon=False)
plot.show_displacements(motion, FRAMES - 1, axes[1], magnify=10)
plt.show()

# %% [markdown]
# The three unknowns of each frame take three of its $2n$ degrees of freedom, and the mean over time takes one frame of
# $T$. Both losses are small and known, and are corrected below. One loss cannot be corrected: the crystal as a whole
# also moves thermally, and tracks cannot separate this motion from that of the stage. **Amplitudes are relative to
# the layer.** For our crystal we can compute the difference from the springs:

# %%
stiffness = stiffness_matrix(sites, SPACING, SPRING, HOLD).toarray()
covariance = np.linalg.inv(stiffness)  # kT = 1
r = sites - sites.mean(axis=0)
rigid = np.concatenate(
    [np.tile(np.eye(2), (len(r), 1)), (r[:, ::-1] * [1, -1]).reshape(-1, 1)], axis=1
)
rigid = np.linalg.qr(rigid)[0]
relative = covariance - rigid @ (rigid.T @ covariance)
relative = relative - (relative @ rigid) @ rigid.T
truth = np.diag(relative).reshape(-1, 2) / motion.kept
print(
    f"mean variance, absolute {np.diag(covariance).mean():.3f} nm², relative to the layer {truth.mean():.3f} nm²"
)

# %% [markdown]
# (If the stage is known to move smoothly, `drift_window=51` smooths the fitted drift over 51 frames before it is
# removed, and keeps the fast thermal part. Exercise 1 tries it.)
#
# ## Subtract the localization error
#
# The measured displacement is vibration plus error. The two are independent, so their variances add:
#
# $$ \langle u^2\rangle_\text{measured} = \langle u^2\rangle + \sigma^2 . $$
#
# We subtract the mean squared error bar of each particle from its variance. By {term}`equipartition`, the rest gives a
# spring constant, $k = k_\mathrm BT / \langle u^2\rangle$. It describes the whole surroundings that hold the
# particle, not one bond. This assumes thermal motion; if the beam drives the motion, $k$ is only a measure of
# amplitude. The calculation by hand, and the tested function:

# %%
raw = np.nanvar(motion.values, axis=0, ddof=1)
by_hand = raw / motion.kept - motion.localization_std**2
table = site_vibrations(motion)
corrected = table[["std_y_nm", "std_x_nm"]].to_numpy() ** 2
print(
    f"mean over the layer: raw {raw.mean():.3f}, corrected by hand {by_hand.mean():.3f}, true {truth.mean():.3f} nm²"
)
print(
    f"largest difference between hand and function {np.nanmax(np.abs(by_hand - corrected)):.4f} nm²"
)
table.iloc[:3, :13].round(2)

# %% mystnb={"figure": {"caption": "Measured against true variance of every particle along x. Raw values (orange) are too large by the squared error of each particle. Corrected values (blue) scatter about the truth (line), because the number of frames is finite.", "name": "fig-corrected"}}
fig, ax = plt.subplots(figsize=(5, 4.2), layout="constrained")
ax.plot(truth[:, 1], raw[:, 1], "s", ms=3, color=plot.LAYER_COLORS[1], label="raw")
ax.plot(truth[:, 1], corrected[:, 1], "o", ms=3, color=plot.LAYER_COLORS[0], label="corrected")
span = [0.95 * truth.min(), 1.05 * truth.max()]
ax.plot(span, span, color="black", lw=1, label="truth")
ax.set(xlabel="true variance / nm²", ylabel="measured variance / nm²", ylim=(0, None))
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# ## An interval for each spring constant
#
# A variance from $N$ independent samples follows a chi-square distribution with $N$ degrees of freedom, which gives
# its confidence interval. We subtract the variance of the error from both ends, and $k$ is the inverse:
#
# $$ k_\text{low} = \frac{k_\mathrm BT}{V_\text{high} - \sigma^2}, \qquad
#    k_\text{high} = \frac{k_\mathrm BT}{V_\text{low} - \sigma^2} . $$
#
# If the lower end does not exceed $\sigma^2$, the data agree with no motion at all, and $k_\text{high}$ is infinite.
# This is not a failure of the method: with this error and this number of frames, a stiff particle and a fixed one look
# the same. Intervals can be checked: 95 % of nominal 95 % intervals should hold the truth.

# %%
for axis, true in zip("yx", truth.T, strict=True):
    low, high = table[f"k_{axis}_low_kt_nm2"], table[f"k_{axis}_high_kt_nm2"]
    holds = np.mean((low <= 1 / true) & (1 / true <= high))
    print(
        f"{axis}: {holds:.1%} of the intervals hold the true k; median {low.median():.2f} to {high.median():.2f}"
    )
k = table["k_x_kt_nm2"].median()
print(f"median k_x {k:.2f} kT/nm² = {pn_per_um(k):.0f} pN/µm at 25 °C")

# %% [markdown]
# $N$ equals the number of frames only if the frames are independent. In a fast movie, a particle has hardly moved since
# the last frame. For Gaussian motion with the autocorrelation $\rho_k$, the variance has
# $N = T / (1 + 2\sum_k \rho_k^2)$ independent samples. `site_vibrations` takes $\rho_k$ from the layer's mean
# {term}`autocovariance` and gives $N$ in the column `samples`.
#
# ## Without error bars: estimate the error from the motion
#
# The same correlation can be used. Errors of different frames are independent, but the motion is correlated if the
# movie is fast enough. The error then adds to the autocovariance only at lag 0, as a step above the smooth curve
# through the other lags. {cite:t}`vestergaard2014` used this for free diffusion. `localization_from_covariance`
# extrapolates the curve from lags 1 to 3 to lag 0. We film the same crystal fast and slowly, and drop the error bars:

# %%
smaller = sites[np.hypot(*sites.T) < 250]
films, found = {}, {}
for name, time in (("fast", 2.0), ("slow", 0.0)):
    w = thermal_displacements(smaller, SPACING, SPRING, FRAMES, rng, 0.3, correlation_time=time)
    one_error = np.full(len(smaller), w.std())
    films[name] = site_displacements(
        filmed(smaller, w, one_error, rng).drop(columns=["y_std_nm", "x_std_nm"])
    )
    found[name] = localization_from_covariance(films[name])
    print(f"{name}: true error {one_error[0]:.3f} nm, estimated {found[name].std.round(3)} nm")
    print("  ", found[name].note)

# %% mystnb={"figure": {"caption": "Autocovariance of displacements along y, mean over particles. In the fast movie (blue), the step at lag 0 is the variance of the localization error; the dashed line is the extrapolated variance of the motion. In the slow movie (orange), the step holds all of the variance, both vibration and error.", "name": "fig-autocovariance"}}
fig, ax = plt.subplots(figsize=(5.5, 3.6), layout="constrained")
for (name, film), color, marker in zip(films.items(), plot.LAYER_COLORS, "os", strict=True):
    ax.plot(autocovariance(film, 20)[:, 0], marker + "-", ms=4, color=color, label=f"filmed {name}")
inside = autocovariance(films["fast"])[0, 0] - found["fast"].std[0] ** 2
ax.axhline(inside, ls="--", color="0.4", lw=1)
ax.set(xlabel="lag / frames", ylabel="autocovariance / nm²", ylim=(0, None))
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# In a slow movie, a particle that vibrates by 1 nm and one that is located to 1 nm look the same, in every statistic of
# that particle. No estimator can separate them: the error and all columns that depend on it are NaN, with a note.
# Two upper bounds of the error hold even then. The variance of the motion is at least the covariance at lag 1, so the
# rest bounds the error: this is `largest`. The other bound uses space instead of time, see further below.
#
# ## Amplitude depends on the site
#
# A particle at the edge has fewer springs. `coordination_labels` sorts sites into bulk, edge and next to a vacancy.
# `group_vibrations` averages over any groups, given by a label for each particle, for example its {term}`registry` on
# the other layer (top, bridge, hollow).

# %%
labels = coordination_labels(motion.sites)
groups = group_vibrations(table, dict(zip(table["particle"], labels, strict=True)))
groups["true_variance_nm2"] = pd.Series(truth.mean(axis=1)).groupby(labels).mean()
groups.round(3)

# %% mystnb={"figure": {"caption": "Left, vibration of every site: magnified one-sigma ellipses, coloured by amplitude. Right, mean variance by coordination with standard errors, and the truth (crosses).", "name": "fig-amplitudes"}}
fig, axes = plt.subplots(1, 2, figsize=(9.5, 4.3), layout="constrained", width_ratios=[1.5, 1])
plot.show_amplitudes(table, axes[0])
fig.colorbar(axes[0].collections[-1], ax=axes[0], label="amplitude / nm", shrink=0.8)
x = np.arange(len(groups))
axes[1].errorbar(
    x, groups["variance_nm2"], groups["variance_std_nm2"], fmt="o", color=plot.LAYER_COLORS[0]
)
axes[1].plot(x, groups["true_variance_nm2"], "x", color="black", ms=9)
axes[1].set(
    xticks=x,
    xticklabels=groups.index,
    ylabel="variance / nm²",
    ylim=(0, None),
    xlim=(-0.5, len(x) - 0.5),
)
plt.show()

# %% [markdown]
# The mean of a layer is known much better than the variance of one particle. `layer_vibrations` gives it. Its error
# comes from the scatter of the frame means, since neighbours do not move independently. The function also gives the
# anisotropy, with the probability that isotropic motion shows as much, and two
# {term}`Lindemann parameters <Lindemann parameter>`. `lindemann` is a ratio of lengths, amplitude over spacing.
# `lindemann_relative` is a *squared* ratio of neighbours, as usually defined:
# $\langle|\mathbf u_i - \mathbf u_j|^2\rangle / 2a^2$. It needs no site. A two-dimensional crystal melts at a value of
# about 0.033 {cite:p}`zahn2000`; ours is far below.

# %%
mean = layer_vibrations(motion)
for name in (
    "variance_y_nm2",
    "variance_y_std_nm2",
    "anisotropy",
    "anisotropy_std",
    "isotropy_p",
    "lindemann",
    "lindemann_relative",
):
    print(f"{name:20s} {mean[name]:.4g}")

# %% [markdown]
# ## Do the layers move together?
#
# Two layers in contact should interact. `interlayer_correlation` correlates the displacements of particles of the two
# layers as a function of their distance. Its null distribution comes from shifts of one layer in time: they destroy
# only the relation between the layers. In our simulation, each particle of a second layer, turned by 9°, follows a
# third of the displacement of the nearest particle below it.

# %%
upper = hexagonal_lattice(SPACING, ANGLE + 9, (7.0, -4.0), 220.0)
below = cKDTree(sites).query(upper)[1]
u2 = 0.33 * u[:, below] + 0.9 * thermal_displacements(upper, SPACING, SPRING, FRAMES, rng, 0.3)
upper_tracks = filmed(upper, u2, np.full(len(upper), 0.5), rng, layer=2, specimen=specimen)
second = site_displacements(upper_tracks, layer=2)
edges = np.arange(0, 161, 20)
coupling = interlayer_correlation(motion, second, edges=edges)

one, other = (  # relative to each layer
    np.stack([remove_rigid_by_hand(frame, home) for frame in w])
    for w, home in ((u, sites), (u2, upper))
)
products = np.einsum("tia,tja->ij", one, other) / (2 * FRAMES * one.std() * other.std())
apart = np.linalg.norm(sites[:, None] - upper[None], axis=2)
coupling["truth"] = [
    products[(apart >= a) & (apart < b)].mean() for a, b in zip(edges, edges[1:], strict=False)
]
coupling.round(3)

# %% mystnb={"figure": {"caption": "Correlation of the displacements of particles of the two layers against their distance. Grey, the middle 95 % of the null distribution. Particles on top of each other move together. Distant ones do so too, because neighbours within a layer move together. Crosses, from the simulated displacements.", "name": "fig-interlayer"}}
fig, ax = plt.subplots(figsize=(5.5, 3.4), layout="constrained")
ax.fill_between(
    coupling["distance_nm"],
    coupling["null_low"],
    coupling["null_high"],
    color="0.8",
    label="one layer shifted in time",
)
ax.plot(
    coupling["distance_nm"],
    coupling["correlation"],
    "o-",
    color=plot.LAYER_COLORS[0],
    label="measured",
)
ax.plot(coupling["distance_nm"], coupling["truth"], "x", color="black", ms=8, label="truth")
ax.axhline(0, color="0.5", lw=0.8)
ax.set(xlabel="distance between the particles / nm", ylabel="correlation")
ax.legend(frameon=False)
plt.show()

# %% [markdown]
# We compare the two layers, and then the sites of the upper layer by registry. In this simulation the springs do not
# depend on registry, so the groups should agree within their errors:

# %%
both = {"layer 1": layer_vibrations(motion), "layer 2": layer_vibrations(second)}
names = ["variance_y_nm2", "variance_x_nm2", "anisotropy", "lindemann", "lindemann_relative"]
pd.DataFrame(both).loc[names].astype(float).map("{:.3g}".format)

# %%
place = registry(second.sites, motion.sites)["registry"].to_numpy()
by_place = group_vibrations(site_vibrations(second), place)
extremes = by_place.sort_values("variance_nm2").iloc[[0, -1]]
difference = extremes["variance_nm2"].diff().iloc[-1]
print(
    f"largest difference: {difference / np.hypot(*extremes['variance_std_nm2']):.1f} of its error"
)
by_place.round(3)

# %% [markdown]
# ## Phonons: from particles to waves
#
# Particles are coupled; waves are not. In a lattice, the wave $\mathbf u(\mathbf q) = n^{-1/2}\sum_j \mathbf u_j
# e^{-i\mathbf q\cdot\mathbf r_j}$ has the energy $\tfrac12\,\mathbf u^\dagger D(\mathbf q)\,\mathbf u$,
# with the {term}`dynamical matrix` $D$. By equipartition, its fluctuations give $D$ {cite:p}`keim2004`:
#
# $$ D(\mathbf q) = k_\mathrm BT\,\langle \mathbf u(\mathbf q)\,\mathbf u^\dagger(\mathbf q)\rangle^{-1} . $$
#
# A finite crystal has an edge where particles move more. A window that falls to zero at the edge suppresses it. We
# calculate by hand at M, the middle of a side of the Brillouin zone, where the springs between neighbours give
# stiffnesses of 2 and 6 springs. The movie is from a better camera, with errors of about a fifth of the vibration:

# %%
path = symmetry_path(SPACING, ANGLE, points=28)
m_point = path.wave_vectors[np.isclose(path.distance, path.ticks[1])][0]
sharp = site_displacements(filmed(sites, u, 0.2 * error, rng))
edge = sharp.sites[labels == "edge"]
depth = cKDTree(edge).query(sharp.sites)[0]
window = np.sin(0.5 * np.pi * depth / depth.max()) ** 2
present = sharp.seen / FRAMES
waves = np.nan_to_num(sharp.values).transpose(0, 2, 1) @ (
    window / present * np.exp(-1j * sharp.sites @ m_point)
)
power = np.einsum("ti,tj->ij", waves, waves.conj()) / FRAMES / np.sum(window**2)
# missed particles add noise
blinking = (1 / present - 1) * np.nanvar(sharp.values[..., 0], axis=0)
noise = window**2 @ (sharp.localization_std[:, 0] ** 2 + blinking) / np.sum(window**2)
print("with the error: ", np.linalg.eigvalsh(np.linalg.inv(power)).round(2), "kT/nm²")
print("without:        ", np.linalg.eigvalsh(np.linalg.inv(power - noise * np.eye(2))).round(2))
print(
    "truth:          ",
    np.linalg.eigvalsh(dynamical_matrix(m_point, SPACING, ANGLE, SPRING, HOLD)).round(2),
)

# %% [markdown]
# Localization errors of different particles are independent: *white* in space as in time. They add the same power to
# every wave, so the error is relatively largest for stiff waves, whose own power is small. If it is not subtracted,
# the lattice looks too soft and its dispersion too flat.
#
# `dispersion` measures all waves along Γ–M–K–Γ in one grain (`largest_grain` picks the largest of several). It averages
# over the three paths that are equal by symmetry and over a small circle of waves about each point. It also corrects
# for missed particles, for few frames (the inverse of a sample covariance is too large by $N/(N-2)$ for two complex
# components), and for blur. Blur arises because the window and the circle average over neighbouring $\mathbf q$, so
# that strong long waves leak into weak short ones. Its correction needs a model: `fit_springs` fits force constants of
# two shells of neighbours (Born and von Kármán) to the *blurred* spectrum of the whole Brillouin zone. This fit inverts
# no noisy matrix and is the better estimate where noise is large. The points depend on the model only through the blur
# correction. We apply both to the noisy movie and to the better one:

# %%
springs, branches = {}, {}
for name, film in (("error = vibration", motion), ("error = vibration / 5", sharp)):
    springs[name] = fit_springs(film)
    branches[name] = dispersion(film, path=path, model=springs[name])
    good = branches[name].dropna()
    q = good[["q_y_per_nm", "q_x_per_nm"]].to_numpy()
    exact = np.linalg.eigvalsh(dynamical_matrix(q, SPACING, ANGLE, SPRING, HOLD))
    exact = np.where(good["branch"] == "longitudinal", exact[:, 1], exact[:, 0])
    points, line = (
        np.sqrt(np.mean((good[c] / exact - 1) ** 2)) for c in ("stiffness_kt_nm2", "model_kt_nm2")
    )
    print(
        f"{name}: points within {points:.1%}, fitted springs within {line:.1%} of the dynamical matrix (rms)"
    )
    bond = f"{springs[name].central[0]:.3f} ± {springs[name].central_std[0]:.3f} kT/nm²"
    print(f"   spring between nearest neighbours {bond}, simulated {SPRING}")

# %% mystnb={"figure": {"caption": "Phonon dispersion along Γ–M–K–Γ. Points with standard errors, measured; coloured lines, fitted springs; dashed, the dynamical matrix of the simulated springs. There are no points near Γ, where waves are longer than the window.", "name": "fig-dispersion"}}
fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.9), layout="constrained", sharey=True)
for ax, (name, waves) in zip(axes, branches.items(), strict=True):
    plot.show_dispersion(
        waves, ax, theory=lambda q: dynamical_matrix(q, SPACING, ANGLE, SPRING, HOLD)
    )
    ax.set_title(name, fontsize=10)
axes[1].set_ylabel("")
plt.show()

# %% [markdown]
# ## Elastic constants from long waves
#
# Long waves depend only on the moduli of the layer: $D = s + A\,(\lambda+2\mu)\,q^2$ along $\mathbf q$ and $s +
# A\,\mu\,q^2$ across, with the area $A$ of a site and the spring $s$ to the support. The slopes give two-dimensional
# {term}`elastic constants`. For springs between nearest neighbours, $\lambda = \mu = \tfrac{\sqrt3}{4}k$ (Cauchy's
# relation), and Poisson's ratio is 1/3:

# %%
lame = np.sqrt(3) / 4 * SPRING
expected = [lame, 3 * lame, 2 * lame, 1 / 3]
rows = {}
for name, model in springs.items():
    c = elastic_constants(model)
    rows[name] = [
        f"{getattr(c, x):.3f} ± {getattr(c, x + '_std'):.3f}"
        for x in ("shear", "longitudinal", "bulk", "poisson_ratio")
    ]
pd.DataFrame(
    rows | {"truth": np.round(expected, 3)},
    index=["μ / kT/nm²", "λ+2μ / kT/nm²", "λ+μ / kT/nm²", "Poisson's ratio"],
)

# %% [markdown]
# ## Modes of a crystal that is not periodic
#
# Near edges and defects, plane waves are coupled. The uncoupled coordinates are the {term}`normal modes`: the
# eigenvectors of the covariance of all $2n$ coordinates, with the inverse eigenvalues as stiffnesses. Shifts and
# rotation of the layer were removed with the drift, so $2n - 3$ modes remain, to be estimated from $T$ frames. The
# eigenvalues of a sample spread by about $\sqrt{2n/T}$ to both sides, so the stiffest modes come out too stiff. This
# bias falls as $1/T$. `find_normal_modes` therefore computes the modes from all frames and from halves, and extrapolates to
# $1/T = 0$ {cite:p}`henkes2012,maggs2015`.

# %%
small = hexagonal_lattice(SPACING, ANGLE, (0.0, 0.0), 3.1 * SPACING)
v = thermal_displacements(small, SPACING, SPRING, FRAMES, rng, HOLD)
modes = find_normal_modes(site_displacements(filmed(small, v, np.full(len(small), 0.1), rng)))
exact = np.linalg.inv(stiffness_matrix(small, SPACING, SPRING, HOLD).toarray())
r = small - small.mean(axis=0)
rigid = np.concatenate(
    [np.tile(np.eye(2), (len(r), 1)), (r[:, ::-1] * [1, -1]).reshape(-1, 1)], axis=1
)
inner = np.linalg.qr(rigid, mode="complete")[0][:, 3:]  # all motion except shifts and rotation
exact = 1 / np.linalg.eigvalsh(inner.T @ exact @ inner)[::-1]
upper_half = slice(len(exact) // 2, None)
for name, values in (("all frames", modes.stiffness_raw), ("extrapolated", modes.stiffness)):
    print(
        f"{name:13s} mean error of the stiffer half {np.mean(np.abs(values / exact - 1)[upper_half]):.1%}"
    )

# %% mystnb={"figure": {"caption": "Density of states of a small crystal against the square root of the stiffness. Dashed, the truth; orange, eigenvalues of the sample covariance; blue, extrapolated to infinitely many frames, with the localization error subtracted.", "name": "fig-dos"}}
fig, ax = plt.subplots(figsize=(5.5, 3.4), layout="constrained")
bins = np.linspace(0, 1.15 * np.sqrt(exact[-1]), 13)
series = (
    (modes.stiffness_raw, plot.LAYER_COLORS[1], "all frames", "-"),
    (modes.stiffness, plot.LAYER_COLORS[0], "extrapolated", "-"),
    (exact, "black", "truth", "--"),
)
for values, color, label, style in series:
    ax.stairs(density_of_states(values, bins)[1], bins, color=color, label=label, ls=style)
ax.set(xlabel=r"$\omega$ = √stiffness / (√kT/nm)", ylabel="density of states")
ax.legend(frameon=False)
plt.show()

# %% mystnb={"figure": {"caption": "The three softest modes of this crystal; the length of the arrows is arbitrary. They are sound waves about as long as the crystal: in a soft mode, large parts move together.", "name": "fig-modes"}}
fig, axes = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained")
for ax, shape, value in zip(axes, modes.shapes, modes.stiffness, strict=False):
    ax.plot(small[:, 1], small[:, 0], ".", color="0.7")
    ax.quiver(small[:, 1], small[:, 0], shape[:, 1], shape[:, 0], color="#0072B2", angles="xy")
    ax.set(title=f"{value:.2f} kT/nm²", aspect="equal", xticks=[], yticks=[])
    ax.invert_yaxis()
plt.show()

# %% [markdown]
# ## Published trajectories
#
# Trajectories of hexagonal lattices of gold nanorods and nanoprisms, filmed in liquid, are published with the code of
# {cite:t}`qian2024`, who mapped phonons of nanoparticle lattices with them. The code states a tracking error
# of 1 nm for rods and 5.7 nm for prisms. We test this error. First, the corrected variance must not be negative.
# Second, the error must not exceed two bounds: the bound by time from lag 1 (`largest`, above), and a bound by space.
# Independent errors give every wave the same power, so this power cannot exceed that of the weakest wave
# (`localization_bound`, 95 % confidence).

# %%
try:
    real = {name: site_displacements(data.trajectories(name)) for name in ("rod", "prism")}
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
This page was built without them. Left out below: two tables, a figure (autocovariance and stiffness of the waves of
rods and prisms), and what they say about the stated errors. To see them, run the chapter with access to the internet,
or save {files}, under these names, in a folder and set the environment variable `MOIRELIB_DATA` to that folder.
```""")
    )

# %%
rows = {}
for name, film in real.items():
    bulk = film.select(coordination_labels(film.sites) == "bulk")
    whole, each = layer_vibrations(bulk), site_vibrations(bulk)
    free, bound = localization_from_covariance(film), localization_bound(film)
    bounded = np.isfinite(each[["k_y_high_kt_nm2", "k_x_high_kt_nm2"]].to_numpy()).mean()
    for i, axis in enumerate("yx"):
        rows[f"{name}, {axis}"] = {
            "std raw / nm": whole[f"std_raw_{axis}_nm"],
            "stated error / nm": film.localization_std[0, i],
            "corrected variance / nm²": whole[f"variance_{axis}_nm2"],
            "error at most, by time / nm": free.largest[i],
            "error at most, by space / nm": bound[i],
            "k raw / kT/nm²": 1 / whole[f"std_raw_{axis}_nm"] ** 2,
            "sites with upper bound of k": f"{bounded:.0%}",
        }
tested = pd.DataFrame(rows).transpose().infer_objects()
if real:
    display(tested.round(3))

# %% tags=["remove-input"] mystnb={"markdown_format": "myst"}
if real:
    negative = tested.index[tested["corrected variance / nm²"] < 0]
    above = tested.index[tested["stated error / nm"] > tested["error at most, by space / nm"]]
    display(
        Markdown(f"""With the stated errors, the corrected variance is negative in the rows {", ".join(f"`{row}`" for row in negative)}.
A variance cannot be negative. The stated errors exceed the bound by space in the rows {", ".join(f"`{row}`" for row in above)}. For motion relative to the
lattice, these errors are too large, and the table shows by how much.""")
    )

# %% [markdown]
# The next cell computes other results of this chapter with nothing subtracted. Amplitudes and Lindemann parameters are
# then upper limits. Errors of equal size bring ratios (edge to bulk, one axis to the other) nearer to 1 than they are.
# The edge includes particles whose neighbours lie outside the frame.

# %%
rows = {}
for name in real:
    bare = site_displacements(data.trajectories(name), localization_std=0.0)
    where = coordination_labels(bare.sites)
    whole = layer_vibrations(bare.select(where == "bulk"))
    groups = group_vibrations(site_vibrations(bare), where)["variance_nm2"]
    rows[name] = {
        "Lindemann parameter": whole["lindemann"],
        "of neighbours, squared": whole["lindemann_relative"],
        "anisotropy": whole["anisotropy"],
        "variance at the edge / in bulk": groups.get("edge", np.nan) / groups["bulk"],
    }
if real:
    display(pd.DataFrame(rows).round(4))

# %% mystnb={"figure": {"caption": "Published trajectories. Left, autocovariance as a share of the variance, mean over particles and axes: most of the variance is gone after one frame. Middle and right, stiffness of the waves for a localization error of zero: lower bounds. The horizontal lines are the inverse variance of the stated error; where points lie above them, the stated error exceeds the measured power.", "name": "fig-real-phonons"}}
if real:
    fig, axes = plt.subplots(1, 3, figsize=(11, 3.7), layout="constrained")
    bare, remaining = {}, {}
    for (name, film), color, marker, ax in zip(
        real.items(), plot.LAYER_COLORS, "os", axes[1:], strict=True
    ):
        total = autocovariance(film, 10).mean(axis=1)
        remaining[name] = total[1] / total[0]
        axes[0].plot(total / total[0], marker + "-", ms=4, color=color, label=name)
        uncorrected = site_displacements(data.trajectories(name), localization_std=0.0)
        bare[name] = dispersion(uncorrected).assign(model_kt_nm2=np.nan)  # no curve
        plot.show_dispersion(bare[name], ax)
        ax.axhline(1 / film.localization_std[0, 0] ** 2, color="0.4", lw=1)
        ax.set_title(f"{name}, nothing subtracted", fontsize=10)
    axes[0].set(xlabel="lag / frames", ylabel="autocovariance / variance", ylim=(0, 1.05))
    axes[0].legend(frameon=False)
    plt.show()

# %% tags=["remove-input"] mystnb={"markdown_format": "myst"}
if real:
    by_branch = bare["rod"].groupby("branch")["stiffness_kt_nm2"]
    fall = by_branch.min() / by_branch.max()
    to_m = bare["prism"].dropna(subset="stiffness_kt_nm2")
    to_m = to_m[to_m["distance_per_nm"] <= bare["prism"].attrs["ticks"][1] * 1.001]
    rise = {branch: rows["stiffness_kt_nm2"] for branch, rows in to_m.groupby("branch")}
    rise = {branch: f"{k.min():.3f} to {k.max():.3f} kT/nm²" for branch, k in rise.items()}
    display(
        Markdown(f"""What can be concluded:

- **Rods.** Relative to the lattice, the true amplitude is at most the raw amplitude, so the springs are at least as
  stiff as the raw $k$. Displacements in consecutive frames are almost uncorrelated: {remaining["rod"]:.0%} of the
  variance is left at lag 1. The rest is vibration faster than the frame rate or tracking error; no analysis of these
  tracks can separate the two.
- **Not all of it is error.** Independent errors have the same power at every wave. The measured power falls to
  {fall.min():.0%} and {fall.max():.0%} (the two branches) from the softest waves to the stiffest, as in an elastic
  lattice. The shape of the dispersion is evidence of phonons, or of errors that neighbours share, even where its
  height is not known.
- **Prisms.** The stated 5.7 nm exceeds the measured standard deviation and both bounds. Without a better error, only
  lower bounds of the stiffness remain. One feature cannot come from independent errors: along Γ–M, the
  stiffness of transverse waves changes little ({rise["transverse"]}), while that of longitudinal waves rises
  ({rise["longitudinal"]}). In these transverse waves, close-packed rows slide along themselves, each row nearly on its own. Central springs between
  round neighbours make both branches rise, to 2 and 6 springs at M, so one spring constant fitted to both describes
  neither. (The power of these transverse waves is near the square of the stated error, {1 / 5.7**2:.3f} as an inverse;
  we do not know whether by chance.)
- **What cannot be concluded** is a spring constant with an upper bound, for rods or prisms. It needs repeated images of
  fixed particles at the same dose, error bars from the fit ({{doc}}`chapter 7 <07_particles>`), or a frame rate at
  which consecutive frames are correlated.

Drift and rotation removed from these tracks:""")
    )

# %%
for name, film in real.items():
    whole = layer_vibrations(film)
    print(
        f"{name}: drift up to {np.abs(film.drift).max():.0f} nm, rotation up to {np.abs(film.rotation).max():.1f}°;"
    )
    print(
        f"   jitter of the layer from frame to frame {whole['layer_jitter_y_nm']:.1f} and {whole['layer_jitter_x_nm']:.1f} nm (y, x)"
    )

# %% [markdown]
# ## Exercises
#
# **1.** Let the crystal drift smoothly instead of at random. Show that `drift_window=51` recovers the absolute
# variance, and that it fails for the random drift of `tracks`.

# %% tags=["hide-cell"]
smooth = pd.DataFrame({"frame": tracks["frame"], "particle": tracks["particle"], "layer": 1})
t, p = tracks["frame"].to_numpy(), tracks["particle"].to_numpy()
smooth[["y_nm", "x_nm"]] = sites[p] + u[t, p] + 0.05 * t[:, None] * [1.0, -0.5]
print(f"true absolute variance {np.diag(covariance).mean():.3f} nm²")
for name, table_of, sigma in (("smooth drift", smooth, 0.0), ("random drift", tracks, None)):
    for size in (1, 51):
        film = site_displacements(table_of, localization_std=sigma, drift_window=size)
        mean = layer_vibrations(film)
        print(f"{name}, window {size:2d}: {mean['variance_y_nm2']:.3f} nm²")

# %% [markdown]
# **2.** How many frames does an interval need? For errors of 0, 1 and 2 times the vibration, find the number of
# frames that gives half of the particles an upper bound of $k$. Use independent vibrations of 1 nm.

# %% tags=["hide-cell"]
few = hexagonal_lattice(SPACING, ANGLE, (0.0, 0.0), 4 * SPACING)
for ratio in (0, 1, 2):
    for frames in (10, 20, 40, 80, 160, 320, 640):
        w = (
            few
            + rng.normal(0, 1.0, (frames, len(few), 2))
            + ratio * rng.standard_normal((frames, len(few), 2))
        )
        t, p = (i.ravel() for i in np.indices(w.shape[:2]))
        w = pd.DataFrame(
            {
                "frame": t,
                "particle": p,
                "layer": 1,
                "y_nm": w[..., 0].ravel(),
                "x_nm": w[..., 1].ravel(),
            }
        )
        high = site_vibrations(site_displacements(w, localization_std=float(ratio)))[
            "k_y_high_kt_nm2"
        ]
        if np.isfinite(high).mean() >= 0.5:
            print(f"error {ratio} × vibration: {frames} frames")
            break

# %% [markdown]
# **3.** Are all three Γ–M directions of the prisms soft? Compute the transverse branch along each, without averaging.

# %% tags=["hide-cell"]
if "prism" in real:
    film = site_displacements(data.trajectories("prism"), localization_std=0.0)
    model = fit_springs(film)
    first = symmetry_path(model.spacing, model.angle, 20)
    for turn in (0, 60, 120):
        one = dispersion(film, path=first.turn(turn), model=model, symmetric=False)
        on_gm = one[
            (one["branch"] == "transverse") & (one["distance_per_nm"] <= first.ticks[1] * 1.001)
        ]
        k = on_gm["stiffness_kt_nm2"].dropna()
        print(
            f"Γ–M at {(model.angle + 30 + turn) % 180:5.1f}°: {k.min():.3f} to {k.max():.3f} kT/nm²"
        )
else:
    print("The solution needs the published trajectories.")

# %% [markdown]
# ## Summary
#
# - Drift and rotation are removed frame by frame; amplitudes are relative to the layer.
# - Variances add: the variance of the localization error is subtracted for each particle. Intervals come from
#   chi-square with the number of independent frames. In the simulation they hold the truth about as often as stated, though
#   the error equals the vibration.
# - Without error bars, vibration can be separated from error only if it is correlated from frame to frame. Otherwise
#   there are only two upper bounds of the error: by time and by space.
# - The covariance of waves gives the dispersion; errors are white and can be subtracted. Fitted springs are less noisy
#   than single points, and give elastic constants.
# - A stated error can be tested with the tracks themselves: if the corrected variance is negative, or the error exceeds
#   a bound, it is too large. Spring constants then have only lower bounds.
#
# ## In practice
#
# - **Check the error bars.** Where error and vibration are equal, an error bar wrong by 10 % makes the variance wrong by
#   about 20 %. Image fixed particles, or compare with `localization_bound`.
# - **Correlated errors look like motion.** Two overlapping particles share noise, a moving background shifts all
#   particles around it, and pixel locking follows the drift. None of these errors is white.
# - **Exposure blurs.** A particle that moves during the exposure is averaged, and its variance comes out too small.
# - **Slow motion needs long movies**: at least ten times the relaxation time of the slowest wave. In a shorter movie,
#   sites and strain absorb part of the slow motion, and the variance comes out too small.
# - **Hops are not vibrations.** Intervals assume Gaussian displacements. If a particle changes site, or a track changes
#   particle, the variance is huge and the interval too narrow: look at the map of amplitudes first.
# - **The dispersion** is that of one grain of a hexagonal lattice. It needs an island at least five rows wide, and does
#   not cover waves longer than that.
