"""Add particles that the lattices expect and the frame shows; remove others (chapter 7, "Particles")."""

from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree
from skimage.feature import peak_local_max

from ..crystal.neighbours import NEIGHBOUR_REACH, Spacings, spacing_of
from .image_model import OWN, ROUND
from .particle_fit import STAND_INS, FrameFit
from .particle_prior import LEAST_SPREAD


@dataclass(frozen=True)
class CompletionSettings:
    """Thresholds of `complete` and `settle_overlaps`; values without a source were set by hand.

    Odds are natural logarithms. Diameters are multiples of the expected diameter of the fit.
    """

    #: That a lattice site with 0 to 6 neighbours in its layer holds a particle, before looking.
    site_odds: tuple[float, ...] = (-6.0, -3.0, -1.5, 0.0, 1.5, 2.5, 3.0)
    off_site_odds: float = -6.0  # the same of a place that no lattice predicts
    on_site: float = 1.0  # lattice fit (3 on a site, 0 on average) from which a particle counts as on a site
    trust: float = 0.02  # the network's score counts as a probability between this and 1 minus this: odds of 1 in 50
    doubtful: float = 3.0  # odds; particles expected less are tested: can those around them stand in for them?
    crystal: float = 0.5  # share of particles on sites from which others may be clouds
    cloud_limit: float = 6.5  # most that the frame counts for one of these; keeps those of score 0.4: 6 + ln(0.6 / 0.4)
    faint: float = 0.4  # of the median depth; fainter ones are stains or the feet of clouds
    rivals: float = 0.75  # diameters; of unlikely particles this near to each other only the worst goes at once
    # Places for new particles.
    border: float = 0.45  # diameters beyond the frame: particles there still darken it
    blob_width: float = 0.25  # diameters, standard deviation of a Gaussian about as wide as a particle
    blob_height: float = 0.3  # noise per pixel, of the mean over a blob
    blob_distance: float = 0.5  # diameters between two blobs
    new_distance: float = 0.4  # spacings from a vacant site, within which a blob is the same place
    # Two particles at one place.
    overlap: float = 0.5  # diameters; nearer places are tested as one particle or two
    found_overlap: float = 0.35  # spacings; the same for two that were both found, if that is less
    least_odds: float = -2.0  # of a vacant site that is tested: two neighbours are too few
    apart: float = 2.5  # diameters between places that are tested at once
    same: float = 0.1  # diameters; what has moved less since a place was tested is as it was then
    place_width: float = 0.4  # diameters, standard deviation of the Gaussian that weighs squared residuals
    # One particle that is two, whatever the lattices say. On development seeds of `make bench-families`.
    large: float = 1.3  # usual volumes (depth × squared diameter), from which a particle is tested
    halves_apart: float = 0.36  # diameters between the two at the start
    directions: int = 3  # in which they are laid out; the fit turns them
    sigma: float = 0.16  # share of particles, the smallest, that lie more than one sigma below the median
    split_rounds: int = 6


SETTINGS = CompletionSettings()
FORM = list(OWN[2:ROUND])  # of what a particle has of its own, all but its place

# Geometry of a hexagonal lattice, in spacings; second neighbours are √3 = 1.73 away.
ROW = 1.3  # two particles of a layer this near form a row
VACANT = 0.6  # a site is vacant without a particle of its layer this near
SAME_SITE = 0.35  # predictions this near are of one site
ON_SITE, ROWS = 0.25, 2  # a particle this near to where so many rows go on is on a site
ITSELF = 0.4  # a particle this near is on the site, not beside it


def vacant_sites(
    yx: np.ndarray, layer: np.ndarray, spacings: Spacings, low: np.ndarray, high: np.ndarray
) -> pd.DataFrame:
    """Places ``layer, y, x`` where a layer's lattice goes on but no particle was found, and their `site_odds`.

    Each site is given once, at the mean of what its neighbours predict: a row of two particles goes on as far beyond
    its end as they are apart. Takes particles (n, 2) and their layers (n,), the nearest-neighbour distance (of each
    layer where they differ) and the corners (y, x) of the region to look in, all in one unit.
    """
    tables = [pd.DataFrame({"layer": np.empty(0, int), "y": np.empty(0), "x": np.empty(0)})]
    for k in np.unique(layer):
        mine, spacing = yx[layer == k], spacing_of(spacings, k)
        tree = cKDTree(mine)
        ahead = continue_rows(mine, tree, spacing)
        ahead = ahead[np.all((ahead > low) & (ahead < high), axis=1)]
        ahead = ahead[tree.query(ahead)[0] > VACANT * spacing]
        sites = merge_near(ahead, SAME_SITE * spacing)
        sites = sites[tree.query(sites)[0] > VACANT * spacing]
        tables.append(pd.DataFrame({"layer": k, "y": sites[:, 0], "x": sites[:, 1]}))
    sites = pd.concat(tables, ignore_index=True)
    return sites.assign(odds=site_odds(sites[["y", "x"]].to_numpy(), sites["layer"].to_numpy(), yx, layer, spacings))


def continue_rows(points, tree, spacing) -> np.ndarray:
    """Where each row of two particles goes on, at both of its ends."""
    pairs = tree.query_pairs(ROW * spacing, output_type="ndarray")
    one, other = points[pairs[:, 0]], points[pairs[:, 1]]
    return np.concatenate([2 * other - one, 2 * one - other])


def lie_on_sites(yx: np.ndarray, layer: np.ndarray, spacings: Spacings) -> np.ndarray:
    """Which particles lie where at least two rows of two others of their layer go on."""
    on_site = np.zeros(len(yx), bool)
    for k in np.unique(layer):
        mine = layer == k
        tree = cKDTree(yx[mine])
        ahead = continue_rows(yx[mine], tree, spacing_of(spacings, k))
        near = cKDTree(ahead).query_ball_point(yx[mine], ON_SITE * spacing_of(spacings, k), return_length=True)
        on_site[mine] = near >= ROWS
    return on_site


def merge_near(points, reach) -> np.ndarray:
    """Means of groups of points, each group within ``reach`` of its most crowded point."""
    near = cKDTree(points).query_ball_point(points, reach)
    free, means = np.ones(len(points), bool), []
    for i in sorted(range(len(points)), key=lambda i: -len(near[i])):
        if free[i]:
            group = [j for j in near[i] if free[j]]
            means.append(points[group].mean(axis=0))
            free[group] = False
    return np.reshape(means, (-1, 2))


def site_odds(
    sites: np.ndarray, site_layer: np.ndarray, yx: np.ndarray, layer: np.ndarray, spacings: Spacings
) -> np.ndarray:
    """Log-odds that a site holds a particle, by how many of its neighbours in its layer are there."""
    odds = np.empty(len(sites))
    for k in np.unique(site_layer):
        tree, here, spacing = cKDTree(yx[layer == k].reshape(-1, 2)), site_layer == k, spacing_of(spacings, k)
        shell = tree.query_ball_point(sites[here], NEIGHBOUR_REACH * spacing, return_length=True)
        itself = tree.query_ball_point(sites[here], ITSELF * spacing, return_length=True)
        odds[here] = np.array(SETTINGS.site_odds)[np.clip(shell - itself, 0, 6)]
    return odds


def complete(fit: FrameFit, particles: pd.DataFrame, spacings: Spacings) -> pd.DataFrame:
    """Decide by the frame which particles are missing and which are false.

    Takes the fit, its particles row by row, with ``layer`` and ``lattice_fit`` (NaN where rows say who is on a site),
    and the nearest-neighbour distance (of each layer where they differ) in pixels. What remains comes first, then what
    is new (``channel`` -1, ``score`` the posterior probability).
    """
    s, diameter = SETTINGS, fit.model.diameter
    yx, layer = particles[["y", "x"]].to_numpy(), particles["layer"].to_numpy()
    lattice_fit = particles["lattice_fit"].to_numpy()
    on_site = np.where(np.isnan(lattice_fit), lie_on_sites(yx, layer, spacings), lattice_fit > s.on_site)
    nearest = min((spacing_of(spacings, k) for k in layer), default=diameter)
    odds = np.where(on_site, site_odds(yx, layer, yx, layer, spacings), s.off_site_odds)
    score = np.clip(particles["score"].to_numpy(), s.trust, 1 - s.trust)
    expected, gain = odds + np.log(score / (1 - score)), fit.evidence() - fit.oddness()
    doubtful = np.flatnonzero((expected < s.doubtful) & (expected + gain > 0))
    if len(doubtful):
        gain[doubtful] -= fit.replaceable(doubtful)
    # Clouds darken a frame as particles do: away from a crystal the frame counts up to a limit.
    if on_site.mean() > s.crystal:
        gain = np.where(on_site, gain, np.minimum(gain, s.cloud_limit))
    faint = particles["depth"] < s.faint * particles["depth"].median()
    kept = particles[~(choose_worst(expected + gain, yx, s.rivals * diameter) | faint)]
    sites, blobs = find_sites(fit, kept, spacings), find_dark_blobs(fit)
    sites = pd.concat([sites, blobs[nearest_distance(blobs, sites) > s.new_distance * nearest]], ignore_index=True)
    # Under or over another particle the test is another one: `settle_overlaps`.
    sites = sites[nearest_distance(sites, kept) > s.overlap * diameter]
    if len(sites):
        sites["odds"] += fit.evidence(sites)
    return append(kept, sites[sites["odds"] > 0])


def choose_worst(posterior, yx, reach) -> np.ndarray:
    """Which particles go: those with negative log-odds, but of several within reach of each other only the worst.

    Each may be a stand-in for the others: once it is gone, they are needed.
    """
    goes, tree = np.zeros(len(yx), bool), cKDTree(yx)
    for i in np.argsort(posterior):
        if posterior[i] >= 0:
            break
        goes[i] = not goes[tree.query_ball_point(yx[i], reach)].any()
    return goes


@dataclass(frozen=True)
class Settled:
    """Places where it was decided whether they hold one particle or two, and all particles at that time."""

    places: np.ndarray = field(default_factory=partial(np.empty, (0, 2)))  # (n, 2), px
    odds: np.ndarray = field(default_factory=partial(np.empty, 0))  # (n,), before looking
    particles: np.ndarray = field(default_factory=partial(np.empty, (0, 2)))  # (m, 2), px

    def holds(self, places: np.ndarray, odds: np.ndarray, particles: np.ndarray, diameter: float) -> np.ndarray:
        """Which places (k, 2) need no other test: of the same odds, and nothing around them has changed."""
        same = SETTINGS.same * diameter
        trees = cKDTree(self.particles), cKDTree(particles)
        moved = [yx[tree.query(yx)[0] > same] for yx, tree in zip((particles, self.particles), trees, strict=True)]
        distance, nearest = cKDTree(self.places).query(places)
        asked = distance < same
        asked[asked] = self.odds[nearest[asked]] == odds[asked]
        return asked & (cKDTree(np.concatenate(moved)).query(places)[0] > SETTINGS.apart * diameter)


NOTHING_SETTLED = Settled()


def settle_overlaps(
    fit: FrameFit, particles: pd.DataFrame, spacings: Spacings, before: Settled = NOTHING_SETTLED
) -> tuple[FrameFit, pd.DataFrame, Settled]:
    """Decide between one particle and two wherever two of different layers overlap closely, or could.

    It tests close pairs of finds, and vacant sites under or over a particle, each against what stands; places far apart
    at once, so that what is wrongly taken away or added at one does not speak at the next one. The squared residuals
    around each place decide, with the odds of its lattice and how usual the sizes and depths would be: two thin
    particles can make up one.

    Parameters are those of `complete`, and what was settled before: it is not asked again. Gives the fit to go on from,
    the particles, of which ``shown`` marks those of places where there are two, and what is settled now.
    """
    s, diameter = SETTINGS, fit.model.diameter
    reach, sites = s.overlap * diameter, find_sites(fit, particles, spacings)
    tested = (nearest_distance(sites, particles) < reach) & (sites["odds"] > s.least_odds)
    vacant = sites[tested].reset_index(drop=True)
    nearer = min(s.found_overlap * min((spacing_of(spacings, k) for k in particles["layer"]), default=diameter), reach)
    second, first, odds = find_seconds(particles, nearer, spacings)
    yx = particles[["y", "x"]].to_numpy()
    places = np.concatenate([yx[second], vacant[["y", "x"]].to_numpy()])
    settled = Settled(places, np.concatenate([odds, vacant["odds"]]), yx)
    known = before.holds(settled.places, settled.odds, yx, diameter)
    particles = particles.assign(shown=find_near(particles, yx[second[known[: len(second)]]], reach))
    asked, vacant_asked = np.split(~known, [len(second)])
    second, first, odds = second[asked], first[asked], odds[asked]
    vacant = vacant[vacant_asked].reset_index(drop=True)
    if len(vacant) + len(second) == 0:
        return fit, particles, settled
    fit = fit.fit(1, shared=False)
    particles = fit.table(particles)
    yx, apart = particles[["y", "x"]].to_numpy(), s.apart * diameter
    for group in far_apart(yx[second], apart):
        pair, places = (first[group], second[group]), yx[second[group]]
        fewer = particles.drop(index=pair[1])
        fewer.loc[pair[0], ["y", "x"]] = 0.5 * (yx[pair[0]] + yx[pair[1]])  # one stands for both
        fewer.loc[find_near(fewer, places, reach), FORM] = np.nan
        one, fewer = try_answer(fit, particles, fewer, places)
        both = odds[group] + sum(compare_answers(one, fit, places)) > 0
        particles = take_over(particles, fewer, find_near(fewer, places[~both], reach)).drop(index=pair[1][~both])
        particles.loc[find_near(particles, places[both], reach), "shown"] = True
        fit = fit.with_particles(particles)
    particles = particles.reset_index(drop=True)
    for group in far_apart(vacant[["y", "x"]].to_numpy(), apart):
        asked, count = vacant.loc[group], len(particles)
        places = asked[["y", "x"]].to_numpy()
        two, more = try_answer(fit, particles, lay_out_seconds(particles, asked), places)
        holds = asked["odds"].to_numpy() + sum(compare_answers(fit, two, places)) > 0
        more = more.assign(shown=True)
        particles = take_over(particles, more, find_near(more, places[holds], reach) & (more.index < count))
        particles = pd.concat([particles, more[more.index >= count][holds]], ignore_index=True)
        fit = fit.with_particles(particles)
    return fit, particles, settled


def try_answer(
    fit: FrameFit, particles: pd.DataFrame, answer: pd.DataFrame, places: np.ndarray
) -> tuple[FrameFit, pd.DataFrame]:
    """Another answer for some places (n, 2), fitted, and its particles around them; all other particles are held.

    Particles of ``answer`` that are among those of the fit have the same index; new ones come after.
    """
    near = find_near(particles, places, STAND_INS * fit.model.diameter)
    around = answer[answer.index.isin(particles.index[near]) | (answer.index > particles.index[-1])]
    tried = fit.among(near).with_particles(around).fit(2, shared=False)
    return tried, tried.table(around)


def find_near(particles: pd.DataFrame, places: np.ndarray, reach: float) -> np.ndarray:
    """Which particles lie within reach of a place."""
    return cKDTree(places).query(particles[["y", "x"]])[0] < reach


def take_over(particles: pd.DataFrame, others: pd.DataFrame, chosen: np.ndarray) -> pd.DataFrame:
    """Particles in which some, by their index, are as among others."""
    particles, index = particles.copy(), others.index[chosen]
    particles.loc[index] = others.loc[index]
    return particles


def far_apart(places: np.ndarray, distance: float) -> list[np.ndarray]:
    """Groups of places, by their rows, in each of which all are at least so far apart."""
    group = np.full(len(places), -1)
    for i, near in enumerate(cKDTree(places).query_ball_point(places, distance)):
        group[i] = min(set(range(len(near) + 1)) - set(group[near]))
    return [np.flatnonzero(group == k) for k in range(group.max(initial=-1) + 1)]


def split_particles(fit: FrameFit, particles: pd.DataFrame) -> tuple[FrameFit, pd.DataFrame]:
    """Decide between one particle and two wherever one takes clearly more light than usual; no lattice is asked.

    Both answers are fitted to the frame, as in `settle_overlaps`; particles beside them that are not needed go. The
    second one must pay for its parameters (`FrameFit.particle_price`). Takes the fit and its particles, row by row;
    ``shown`` marks the two of each that was split.
    """
    s, spread, kept = SETTINGS, fit.prior.greatest, np.empty((0, 2))
    fit, reach = fit.with_spread(spread_below(fit.table(particles))), s.rivals * fit.model.diameter
    for _ in range(s.split_rounds):
        table, usual = fit.table(particles), np.exp(fit.prior.usual.numpy())
        yx, volume = table[["y", "x"]].to_numpy(), table["depth"] / usual[1] * (table["diameter"] / usual[0]) ** 2
        asked_before = cKDTree(kept).query(yx)[0] < s.found_overlap * fit.model.diameter  # infinite if none
        large = np.flatnonzero((volume > s.large) & ~asked_before)
        gain, halves = try_halves(fit, table, large)
        two = gain > fit.particle_price
        if not two.any():
            break
        kept = np.concatenate([kept, yx[large[~two]]])
        table = put_halves(table, large[two], halves[:, two])
        fit = fit.with_particles(table).fit(1)
        particles = fit.table(table)
        yx, shown = particles[["y", "x"]].to_numpy(), particles["shown"].to_numpy(bool)
        beside = np.flatnonzero(cKDTree(yx[shown]).query(yx)[0] < reach)
        needed = (fit.evidence() - fit.oddness())[beside] - fit.replaceable(beside) + s.off_site_odds
        goes = beside[choose_worst(needed, yx[beside], reach)]
        particles = particles.drop(index=goes).reset_index(drop=True)
        fit = fit.with_particles(particles)
    return fit.with_spread(spread).fit(1), particles


def spread_below(particles: pd.DataFrame) -> tuple[float, float]:
    """Spread of log diameter and log depth, one sigma, below their medians: two taken for one lie above."""
    logs = np.log(particles[["diameter", "depth"]].to_numpy())
    below = np.median(logs, axis=0) - np.quantile(logs, SETTINGS.sigma, axis=0)
    diameter, depth = np.maximum(below, LEAST_SPREAD[:2]).tolist()
    return diameter, depth


def try_halves(fit: FrameFit, particles, large) -> tuple[np.ndarray, np.ndarray]:
    """Log-likelihood (m,) by which two usual particles explain the frame better than some one, and the two, (2, m, k).

    ``large`` (m,) are rows of the fit's particles. The two, with the k of `OWN` that are fitted, are those of the best
    of several directions in which they started.
    """
    columns = list(OWN[: fit.theta.shape[1]])
    gain, halves = np.full(len(large), -np.inf), np.empty((2, len(large), len(columns)))
    if len(large) == 0:
        return gain, halves
    yx = particles[["y", "x"]].to_numpy()
    around = cKDTree(yx[large]).query(yx)[0] < STAND_INS * fit.model.diameter
    own, large = particles.loc[around, columns].to_numpy(), np.cumsum(around)[large] - 1
    start = fit.among(around).with_particles(particles[around]).fit(1, shared=False)
    one = start.fit(2, shared=False)  # as often as the two: what is fitted longer explains more
    for turn in np.pi * np.arange(SETTINGS.directions) / SETTINGS.directions:
        step = 0.5 * SETTINGS.halves_apart * fit.model.diameter * np.array([np.sin(turn), np.cos(turn)])
        laid_out, second = own.copy(), np.full((len(large), len(columns)), np.nan)
        laid_out[large], second[:, :2] = np.nan, own[large, :2] + step
        laid_out[large, :2] = own[large, :2] - step
        both = pd.DataFrame(np.concatenate([laid_out, second]), columns=columns)
        two = start.with_particles(both).fit(2, shared=False)
        # Sizes do not count: what is usual is known from the same finds, of which many may be two.
        found, fitted = compare_answers(one, two, own[large, :2])[0], two.table(both).to_numpy()
        better = found > gain
        gain[better] = found[better]
        halves[:, better] = np.stack([fitted[large], fitted[len(own) :]])[:, better]
    return gain, halves


def put_halves(particles: pd.DataFrame, rows, halves) -> pd.DataFrame:
    """The table in which two particles, with the first k of `OWN` (2, m, k), stand for one in each of some rows."""
    columns = list(OWN[: halves.shape[2]])
    own, shown = particles[columns].to_numpy(copy=True), particles["shown"].to_numpy(bool, copy=True)
    own[rows], shown[rows] = halves[0], True
    table = particles.assign(shown=shown, **dict(zip(columns, own.T, strict=True)))
    second = table.iloc[rows].assign(**dict(zip(columns, halves[1].T, strict=True)))
    second = second.assign(channel=1 - second["channel"])  # the other one of two
    return pd.concat([table, second], ignore_index=True)


def compare_answers(one: FrameFit, two: FrameFit, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much better than the first the second fit of a frame is around each place (n, 2), as log-likelihoods (n,).

    First how well it explains the frame, then how usual its sizes and depths are.
    """
    width, reach = SETTINGS.place_width * one.model.diameter, SETTINGS.overlap * one.model.diameter
    at = tuple(np.clip(np.rint(places).astype(int), 0, np.array(one.model.shape) - 1).T)
    squares, odd = [], []
    for fit in (one, two):
        squares.append(gaussian_filter(fit.residual.numpy().astype(float) ** 2, width)[at])
        near, oddness = cKDTree(fit.theta[:, :2].numpy().astype(float)).query_ball_point(places, reach), fit.oddness()
        odd.append(np.array([oddness[some].sum() for some in near]))
    area = 2 * np.pi * width**2  # a Gaussian of height 1 over the residuals around a place
    return 0.5 * area / two.misfit * (squares[0] - squares[1]), odd[0] - odd[1]


def lay_out_seconds(particles, vacant) -> pd.DataFrame:
    """Particles, and after them vacant sites that are tested.

    Beside a vacant site that holds a particle after all, the particle that was found stands for both: it starts as far
    to the other side, with the usual profile.
    """
    laid_out, yx, site = append(particles, vacant), particles[["y", "x"]].to_numpy(), vacant[["y", "x"]].to_numpy()
    beside = cKDTree(yx).query(site)[1]
    lone = ~particles["shown"].to_numpy(bool)[beside]
    laid_out.loc[beside[lone], ["y", "x"]] = 2 * yx[beside[lone]] - site[lone]
    laid_out.loc[beside[lone], "power"] = np.nan
    return laid_out


def find_seconds(particles, reach, spacings) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of two particles of different layers within reach of each other, the less likely, its partner, and its odds."""
    yx, layer = particles[["y", "x"]].to_numpy(), particles["layer"].to_numpy()
    odds = site_odds(yx, layer, yx, layer, spacings)
    distance, nearest = cKDTree(yx).query(yx, k=2)
    distance, nearest = distance[:, 1], nearest[:, 1]
    mutual = (nearest[nearest] == np.arange(len(yx))) & (layer[nearest] != layer) & (distance < reach)
    order = np.lexsort((-particles["score"].to_numpy(), -odds)).argsort()  # of two alike, the lower score
    second = np.flatnonzero(mutual & (order > order[nearest]))
    return second, nearest[second], odds[second]


def find_sites(fit, particles, spacings) -> pd.DataFrame:
    """Vacant sites in and just beyond the frame, with the odds their neighbours give."""
    yx, layer = particles[["y", "x"]].to_numpy(), particles["layer"].to_numpy()
    margin = SETTINGS.border * fit.model.diameter
    return vacant_sites(yx, layer, spacings, np.full(2, -0.5 - margin), np.array(fit.model.shape) - 0.5 + margin)


def find_dark_blobs(fit) -> pd.DataFrame:
    """Where the frame is darker than the model over about a particle's area."""
    diameter = fit.model.diameter
    dark = gaussian_filter(-fit.residual.numpy(), diameter * SETTINGS.blob_width)
    apart = max(int(diameter * SETTINGS.blob_distance), 1)
    yx = peak_local_max(dark, min_distance=apart, threshold_abs=SETTINGS.blob_height, exclude_border=False)
    return pd.DataFrame(yx.astype(float), columns=["y", "x"]).assign(layer=1, odds=SETTINGS.off_site_odds)


def append(particles, new) -> pd.DataFrame:
    """Particles and new ones after them."""
    new = new.assign(channel=-1, score=1 / (1 + np.exp(-new["odds"].clip(-50, 50))), shown=False)
    return pd.concat([particles, new.drop(columns="odds")], ignore_index=True)


def nearest_distance(points, others) -> np.ndarray:
    """From each point to the nearest of the others."""
    return cKDTree(others[["y", "x"]]).query(points[["y", "x"]])[0]
