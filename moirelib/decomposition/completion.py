"""Add the particles that a frame asks for and its lattices expect; remove those that it does not bear out.

Explained in chapter 7, "Particles".
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree
from skimage.feature import peak_local_max

from .fit import FrameFit

__all__ = ["complete", "settle_overlaps", "site_odds", "vacant_sites"]


#: Logarithm of the odds that a lattice site with 0 to 6 neighbours in its layer holds a particle, before looking.
SITE_ODDS = (-6.0, -3.0, -1.5, 0.0, 1.5, 2.5, 3.0)
OFF_SITE_ODDS = -6.0  # of a place that no lattice predicts
CLOUD_LIMIT = 6.5  # most that the frame says for one there; leaves those that the network saw at 0.4 or higher
UPON = 0.35  # spacings, or half a diameter if that is less; of two particles found nearer, the second is asked for
DOUBTFUL_ODDS = 3.0  # particles expected less than this are asked whether those around them can stand in for them


def vacant_sites(yx: np.ndarray, layer: np.ndarray, spacing: float, low, high) -> pd.DataFrame:
    """Places where a layer's lattice goes on but no particle was found.

    Parameters
    ----------
    yx : ndarray, shape (n, 2)
        Particles.
    layer : ndarray, shape (n,)
        Their layers.
    spacing : float
        Nearest-neighbour distance.
    low, high : array_like, shape (2,)
        Corners of the region to look in.

    Returns
    -------
    pandas.DataFrame
        ``layer, y, x``: each site once, at the mean of what its neighbours predict: a row of two particles goes on as
        far beyond its end as they are apart.
    """
    tables = [pd.DataFrame({"layer": np.empty(0, int), "y": np.empty(0), "x": np.empty(0)})]
    for k in np.unique(layer):
        mine = yx[layer == k]
        tree = cKDTree(mine)
        pairs = tree.query_pairs(1.3 * spacing, output_type="ndarray")
        one, other = mine[pairs[:, 0]], mine[pairs[:, 1]]
        ahead = np.concatenate([2 * other - one, 2 * one - other])
        ahead = ahead[np.all((ahead > low) & (ahead < high), axis=1)]
        if len(ahead) == 0:
            continue
        ahead = ahead[tree.query(ahead)[0] > 0.6 * spacing]
        sites = _merged(ahead, 0.35 * spacing)
        sites = sites[tree.query(sites)[0] > 0.6 * spacing] if len(sites) else sites
        tables.append(pd.DataFrame({"layer": k, "y": sites[:, 0], "x": sites[:, 1]}))
    return pd.concat(tables, ignore_index=True)


def _merged(points, reach) -> np.ndarray:
    """Means of groups of points, each group within ``reach`` of its most crowded point."""
    if len(points) == 0:
        return points
    near = cKDTree(points).query_ball_point(points, reach)
    free, means = np.ones(len(points), bool), []
    for i in sorted(range(len(points)), key=lambda i: -len(near[i])):
        if free[i]:
            group = [j for j in near[i] if free[j]]
            means.append(points[group].mean(axis=0))
            free[group] = False
    return np.array(means)


def site_odds(sites, site_layer, yx, layer, spacing) -> np.ndarray:
    """Log-odds that a site holds a particle, by how many of its neighbours in its layer are there."""
    odds = np.empty(len(sites))
    for k in np.unique(site_layer):
        tree, here = cKDTree(yx[layer == k].reshape(-1, 2)), site_layer == k
        shell = np.array([len(near) for near in tree.query_ball_point(sites[here], 1.35 * spacing)])
        itself = np.array([len(near) for near in tree.query_ball_point(sites[here], 0.4 * spacing)])
        odds[here] = np.array(SITE_ODDS)[np.clip(shell - itself, 0, 6)]
    return odds


def complete(fit, particles: pd.DataFrame, spacing: float) -> pd.DataFrame:
    """Decide by the frame which particles are missing and which are none.

    Parameters
    ----------
    fit : moirelib.decomposition.FrameFit
        The fitted model of the frame.
    particles : pandas.DataFrame
        Its particles, row by row, with ``layer`` and ``lattice_fit``.
    spacing : float
        Nearest-neighbour distance, in pixels.

    Returns
    -------
    pandas.DataFrame
        What remains, then what is new (``channel`` -1, ``score`` the posterior probability).
    """
    yx, layer = particles[["y", "x"]].to_numpy(), particles["layer"].to_numpy()
    on_site = (particles["lattice_fit"] > 1.0).to_numpy()
    odds = np.where(on_site, site_odds(yx, layer, yx, layer, spacing), OFF_SITE_ODDS)
    # What the network said counts too: logarithm of the odds of its score, not counted beyond one in fifty.
    said = np.clip(particles["score"].to_numpy(), 0.02, 0.98)
    expected, gain = odds + np.log(said / (1 - said)), fit.evidence() - fit.oddness()
    doubtful = np.flatnonzero((expected < DOUBTFUL_ODDS) & (expected + gain > 0))
    if len(doubtful):
        gain[doubtful] -= fit.replaceable(doubtful)
    # Clouds darken a frame as particles do: away from a crystal the frame's word counts so far and no further.
    if on_site.mean() > 0.5:
        gain = np.where(on_site, gain, np.minimum(gain, CLOUD_LIMIT))
    # Stains and the feet of clouds are wide but faint.
    faint = particles["depth"] < 0.4 * particles["depth"].median()
    kept = particles[~(_least_needed(expected + gain, yx, 0.75 * fit.model.diameter) | faint)]
    sites = _sites(fit, kept, spacing)
    blobs = _dark_blobs(fit)
    sites = pd.concat([sites, blobs[lattice_distance(blobs, sites) > 0.4 * spacing]], ignore_index=True)
    # Under or over another particle the frame is asked otherwise, see `settle_overlaps`.
    sites = sites[lattice_distance(sites, kept) > 0.5 * fit.model.diameter]
    if len(sites):
        sites["odds"] += fit.evidence(sites)
    return _with(kept, sites[sites["odds"] > 0])


def _least_needed(posterior, yx, reach) -> np.ndarray:
    """Which particles go: those with negative log-odds, but of several within reach of each other only the worst.

    Each may be a stand-in for the others: once it is gone, they are needed.
    """
    goes = np.zeros(len(yx), bool)
    tree = cKDTree(yx)
    for i in np.argsort(posterior):
        if posterior[i] >= 0:
            break
        goes[i] = not goes[tree.query_ball_point(yx[i], reach)].any()
    return goes


def settle_overlaps(fit: FrameFit, particles: pd.DataFrame, spacing: float) -> tuple[FrameFit, pd.DataFrame]:
    """Decide between one particle and two wherever two of different layers lie upon each other, or could.

    Asked is for the less expected of two that were found, and for a vacant site of one layer under or over a particle
    of the other. Both answers are fitted to the frame, for all such places at once, and the squared residuals around
    each place decide together with the odds that its lattice gives and with how usual the particles' sizes and depths
    would be: one particle can be made up of two, but of two thin ones.

    Parameters and returns as for `complete`; particles of places where there are two are marked as ``shown``.
    """
    reach = 0.5 * fit.model.diameter
    sites = _sites(fit, particles, spacing)
    vacant = sites[(lattice_distance(sites, particles) < reach) & (sites["odds"] > -2)].reset_index(drop=True)
    second, first, odds = _seconds(particles, min(UPON * spacing, reach), spacing)
    if len(vacant) + len(second) == 0:
        return fit, particles.assign(shown=False)
    single, double, asked = _both_answers(particles, second, first, vacant)
    places = double[asked]
    single.loc[lattice_distance(single, places) < reach, ["diameter", "depth"]] = np.nan
    trial, squares, odd, fits = fit, [], [], []
    for table in (single, double):
        trial = trial.with_particles(table, in_rows=True).fit(2, shared=False)
        squares.append(gaussian_filter(trial.residual.numpy().astype(float) ** 2, 0.4 * trial.model.diameter))
        fits.append(trial.table(table))
        near = cKDTree(fits[-1][["y", "x"]]).query_ball_point(places[["y", "x"]], reach)
        odd.append(np.array([trial.oddness()[some].sum() for some in near]))
    area = 2 * np.pi * (0.4 * fit.model.diameter) ** 2  # a Gaussian of height 1 over the residuals around a place
    at = np.clip(np.rint(places[["y", "x"]]).to_numpy(int), 0, np.array(fit.model.shape) - 1)
    gain = 0.5 * area / trial.misfit * (squares[0] - squares[1])[tuple(at.T)]
    two = np.r_[odds, vacant["odds"]] + gain + odd[0] - odd[1] > 0
    # Each particle that was not asked for stays as the answer at the nearest place has it.
    distance, nearest = cKDTree(places[["y", "x"]]).query(fits[0][["y", "x"]])
    alone = (distance < reach) & ~two[nearest]
    others = fits[1][~asked].reset_index(drop=True)
    others[alone] = fits[0][alone]
    table = pd.concat([others, fits[1][asked][two]], ignore_index=True)
    return trial, table.assign(shown=np.r_[(distance < reach) & two[nearest], np.ones(two.sum(), bool)])


def _both_answers(particles, second, first, vacant) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray]:
    """Particles without and with those asked for, and which rows are asked for.

    Beside a vacant site that is taken after all, the particle that was found stands for both: it starts as far to the
    other side.
    """
    yx = particles[["y", "x"]].to_numpy()
    double, asked = _with(particles, vacant), np.r_[np.zeros(len(particles), bool), np.ones(len(vacant), bool)]
    asked[second] = True
    single, apart = particles[~asked[: len(particles)]].reset_index(drop=True), yx.copy()
    lone = np.setdiff1d(np.arange(len(particles)), np.r_[first, second])
    if len(vacant) and len(lone):
        site = vacant[["y", "x"]].to_numpy()
        beside = lone[cKDTree(yx[lone]).query(site)[1]]
        shift = yx[beside] - site
        near = np.hypot(*shift.T) < cKDTree(yx).query(site)[0] + 1e-9  # nearer than any of a pair
        apart[beside[near]] = yx[beside[near]] + shift[near]
    double.loc[: len(particles) - 1, ["y", "x"]] = apart
    return single, double, asked


def _seconds(particles, reach, spacing) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of two particles of different layers within reach of each other, the less expected, its partner, and its odds."""
    yx, layer = particles[["y", "x"]].to_numpy(), particles["layer"].to_numpy()
    odds = site_odds(yx, layer, yx, layer, spacing)
    distance, nearest = cKDTree(yx).query(yx, k=2)
    distance, nearest = distance[:, 1], nearest[:, 1]
    mutual = (nearest[nearest] == np.arange(len(yx))) & (layer[nearest] != layer) & (distance < reach)
    order = np.lexsort((-particles["score"].to_numpy(), -odds)).argsort()  # of two alike, the lower score
    second = np.flatnonzero(mutual & (order > order[nearest]))
    return second, nearest[second], odds[second]


def _sites(fit, particles, spacing) -> pd.DataFrame:
    """Vacant sites in and just beyond the frame, with the odds their neighbours give."""
    yx, layer = particles[["y", "x"]].to_numpy(), particles["layer"].to_numpy()
    margin = 0.45 * fit.model.diameter
    sites = vacant_sites(yx, layer, spacing, np.full(2, -0.5 - margin), np.array(fit.model.shape) - 0.5 + margin)
    odds = site_odds(sites[["y", "x"]].to_numpy(), sites["layer"].to_numpy(), yx, layer, spacing)
    return sites.assign(odds=odds)


def _with(particles, new) -> pd.DataFrame:
    """Particles and new ones after them."""
    new = new.assign(channel=-1, score=1 / (1 + np.exp(-new["odds"].clip(-50, 50))))
    return pd.concat([particles, new.drop(columns="odds")], ignore_index=True)


def lattice_distance(points, others) -> np.ndarray:
    """From each point to the nearest of the others."""
    if len(points) == 0 or len(others) == 0:
        return np.full(len(points), np.inf)
    return cKDTree(others[["y", "x"]]).query(points[["y", "x"]])[0]


def _dark_blobs(fit) -> pd.DataFrame:
    """Where the frame is darker than the model over about a particle's area."""
    diameter = fit.model.diameter
    dark = gaussian_filter(-fit.residual.numpy(), diameter / 4)
    yx = peak_local_max(dark, min_distance=max(int(diameter / 2), 1), threshold_abs=0.3, exclude_border=False)
    return pd.DataFrame({"layer": 1, "y": yx[:, 0].astype(float), "x": yx[:, 1].astype(float), "odds": OFF_SITE_ODDS})
