"""Sites of a growing layer, and which of them are taken in every frame (chapter 10).

Tracks break, particles are missed, false finds come and go: growth is read from *sites*, places of a layer's lattice.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.ndimage import find_objects, gaussian_filter, label
from scipy.spatial import cKDTree
from skimage.feature import peak_local_max
from skimage.morphology import disk

from ..crystal.matching import pair_mutually_nearest
from ..crystal.motion import Motion, fit_similarity
from ..crystal.neighbours import ENOUGH_FOR_SPACING, adjacency, neighbour_spacing, spans_plane, to_complex, to_points
from ..tables import check_particles, require_unique_tracks
from .lattices import find_grains

# All by hand where no reason is given, on simulated movies of development seeds.
FILLED = 0.93  # share of a rectangle that particles cover where the field's edges cut them off
ROWS_AT_ONCE = 100_000  # of a table, in a tree; all of a long movie would fill the memory
FULLEST_FRAMES = 5  # frames of each layer in which the spacing is measured
SHARED_TRACKS = 3  # tracks in two frames that give a motion; without, particles that are each other's nearest
OWN_MOTION = 12  # particles of a layer whose motion is its own; fewer move as all particles do
RIGID: dict = {"rotation": 6, "rigid": True}  # particles that show a rotation, fewer only a shift; no magnification
SITE_REACH = 0.4  # spacings from a site within which a position belongs to it
CUT_OFF = 0.6  # spacings: particles this near to the field's edge are cut off
PILE_CELLS = 12  # of the grid per spacing on which positions pile up
PILE_BLUR, PILE = 0.1, 0.5  # spacings: smoothing of that grid, and radius of one pile (half-way to the next)
PILE_ROUNDS = 2  # of assigning positions to sites, and sites to the mean of their positions
MOTION_ROUNDS = 3  # of sites from positions without motion, and motion from positions at their sites
TRUSTED_SITE = 3  # finds of a site that says how the layer moved
RATES_CONVERGED, MOST_RATE_ROUNDS = 0.02, 20  # relative change of the rates at which estimation ends, or rounds
FIRST_RATES = {"miss": 0.05, "miss_again": 0.2, "false": 0.005, "false_again": 0.1}  # from which estimation starts
USUAL_RATES = {"miss": 0.03, "miss_again": 0.1, "false": 0.003, "false_again": 0.1}  # of the prior
LARGEST_RATES = {"miss": 0.3, "miss_again": 0.6, "false": 0.1, "false_again": 0.5}  # above, frames are of no use
FIRST_CHANGE, USUAL_CHANGE, FASTEST_CHANGE = 2e-3, 1e-3, 0.2  # attachments or detachments of a site per frame
LEAST_RATE = 1e-5  # of anything, so that no history is impossible
PRIOR_COUNTS = 50  # counts of a prior at usual rates, added to those observed


@dataclass(frozen=True)
class Occupancy:
    """Which sites of one layer are taken in every frame."""

    layer: int  # number of the layer
    frames: np.ndarray  # (t,) frame numbers
    sites: np.ndarray  # (n, 2) (y, x) in nm, where each site is in the first frame
    occupied: np.ndarray  # (t, n) the likeliest history of each site; where it was not in view, as before or after
    visible: np.ndarray  # (t, n) whether the site is in view, away from the border
    seen: np.ndarray  # (t, n) whether a particle was found there
    particles: np.ndarray  # (t, n) track number of what was found, -1 for none
    turn: np.ndarray  # (t,) motion of the layer since the first frame: z = x + iy becomes turn z + shift, in nm
    shift: np.ndarray  # (t,) in nm
    spacing: float  # nearest-neighbour distance, in nm
    field: tuple  # least and largest (y, x) in view, in nm
    border: float  # width of the strip along the field's edge in which nothing is said, in nm
    # estimated probabilities: ``miss`` of a particle and ``false`` of an empty site, ``_again`` after a frame in which
    # it was seen wrong; ``taken`` in the first frame, ``attach`` and ``detach`` per frame, of sites with 0, 1 to 2, 3
    # to 4, and 5 or more taken neighbours
    rates: dict
    scatter: float = float("nan")  # nm, one sigma of finds about their sites, per axis: motion and localization error

    @cached_property
    def grain(self) -> np.ndarray:
        """Grain of each site, shape (n,)."""
        return find_grains(self.sites, self.spacing)

    @property
    def drift(self) -> np.ndarray:
        """Motion (y, x) of the middle of the sites since the first frame, in nm, shape (t, 2)."""
        middle = to_complex(self.sites).mean() if len(self.sites) else 0.0
        return to_points(self.turn * middle + self.shift - middle)

    @property
    def rotation(self) -> np.ndarray:
        """Rotation since the first frame from x towards y, in degrees, shape (t,)."""
        return np.degrees(np.unwrap(np.angle(self.turn)))

    def in_frame(self, points: ArrayLike, row: int | np.ndarray) -> np.ndarray:
        """Where points (n, 2) of the first frame are in the frame of a row, or each of its own row, in nm."""
        return to_points(self.turn[row] * to_complex(np.reshape(points, (-1, 2))) + self.shift[row])

    def in_first_frame(self, points: ArrayLike, row: int | np.ndarray) -> np.ndarray:
        """The reverse of `in_frame`: where points of later frames would be in the first, moving with the layer."""
        return to_points((to_complex(np.reshape(points, (-1, 2))) - self.shift[row]) * np.conj(self.turn[row]))

    def in_view(self, points: ArrayLike, row: int, border: float | None = None) -> np.ndarray:
        """Which points (n, 2) of the first frame are in view in the frame of a row, away from the border."""
        border = self.border if border is None else border
        where = self.in_frame(points, row)
        return ((where >= np.add(self.field[0], border)) & (where <= np.subtract(self.field[1], border))).all(axis=-1)


def site_occupancy(
    particles: pd.DataFrame,
    field_nm: ArrayLike | None = None,
    border_nm: float | None = None,
    min_frames: int = 3,
    after_layer: Callable[[], object] = lambda: None,
) -> dict[int, Occupancy]:
    """Find each layer's sites, and decide for every frame which are taken: an `Occupancy` per layer that has one.

    Motion from frame to frame comes from tracks that both frames share; positions without it pile up at the sites. A
    hidden Markov model (Rabiner, Proc. IEEE 77, 257 (1989)) with two states, taken and empty, has its rates estimated
    from all sites of a layer (Baum-Welch), and the likeliest history of every site found (Viterbi). Misses may depend
    on whether the particle was missed before, changes on how many neighbours are there. Tracks may be broken. What was
    there, or missing, for fewer than ``min_frames`` is a false find, or a miss. ``after_layer`` is called after each.

    The field of view is (height, width) in nm, by default the extent of all particles: where they fill it, it is taken
    for the field; else the crystal ends within it. Nothing is said in a strip along the field's edge, ``border_nm``
    wide; 0.6 spacings by default, and none around a crystal that ends within an unknown field.
    """
    table = check_particles(particles)
    require_unique_tracks(table)
    frames, row = np.unique(table["frame"], return_inverse=True)
    if len(frames) < 3:
        raise ValueError(f"growth needs at least 3 frames, got {len(frames)}; pass a longer movie")
    if min_frames < 1:
        raise ValueError(f"min_frames must be 1 or more, got {min_frames}")
    z = table["x_nm"].to_numpy() + 1j * table["y_nm"].to_numpy()
    table = table[["layer", "particle"]].assign(row=row, z=z)
    field = extent = (z.imag.min(), z.real.min()), (z.imag.max(), z.real.max())
    if field_nm is not None:
        size = np.asarray(field_nm, float)
        if size.shape != (2,) or not (size > 0).all():
            raise ValueError(f"field_nm is height and width in nm, got {field_nm}")
        field = (0.0, 0.0), tuple(size)
    whole, found = _measure_steps(table, len(frames), _measure_spacing(table), None), {}
    for layer in np.unique(table["layer"]):
        rows = table[table["layer"] == layer]
        spacing = _measure_spacing(rows)
        if spacing is None:
            continue
        open_border = field_nm is None and not _fills_rectangle(z, extent, spacing)
        usual = -spacing if open_border else CUT_OFF * spacing
        border = usual if border_nm is None else float(border_nm)
        steps = _measure_steps(rows, len(frames), spacing, whole)
        motion = list(accumulate(steps, lambda before, step: step.after(before), initial=Motion()))
        found[int(layer)] = _measure_layer(int(layer), rows, frames, motion, spacing, field, border, min_frames)
        after_layer()
    return found


def _fills_rectangle(z, extent, spacing) -> bool:
    """Whether particles fill the rectangle around them, as they do where the field's edges cut them off."""
    axes = (np.arange(a, b + 1e-9, spacing) for a, b in zip(*extent, strict=True))
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    nearest = np.full(len(grid), np.inf)
    for k in range(0, len(z), ROWS_AT_ONCE):
        nearest = np.minimum(nearest, cKDTree(to_points(z[k : k + ROWS_AT_ONCE])).query(grid)[0])
    return bool(np.mean(nearest < spacing) > FILLED)


def _measure_spacing(rows) -> float | None:
    """Median over a few of the fullest frames of the spacing in nm; None where no frame has a lattice."""
    values = []
    for _, own in rows.groupby("layer"):
        for frame in own["row"].value_counts().index[:FULLEST_FRAMES]:
            points = to_points(own["z"].to_numpy()[own["row"] == frame])
            if len(points) >= ENOUGH_FOR_SPACING and spans_plane(points):
                values.append(neighbour_spacing(points))
    return float(np.median(values)) if values else None


def _measure_steps(rows, count, spacing, fallback) -> list[Motion]:
    """Motion from each of so many frames to the next; the fallback's where a layer shares too few tracks."""
    row, z, track = (rows[name].to_numpy() for name in ("row", "z", "particle"))
    # One number for each track of each layer, which other programs' tables may share; own ones for what has no track
    name = np.where(track < 0, -1 - np.arange(len(track)), rows["layer"].to_numpy() * (track.max() + 1) + track)
    order = np.argsort(row, kind="stable")
    steps: list[Motion] = []
    for one, other in pairwise(np.split(order, np.searchsorted(row[order], np.arange(1, count)))):
        _, i, j = np.intersect1d(name[one], name[other], assume_unique=True, return_indices=True)
        if len(i) < SHARED_TRACKS:
            i = j = np.empty(0, int)
            if spacing is not None:
                i, j = pair_mutually_nearest(to_points(z[one]), to_points(z[other]), SITE_REACH * spacing)
        if fallback is not None and len(i) < OWN_MOTION:
            steps.append(fallback[len(steps)])
        else:
            steps.append(fit_similarity(z[one][i], z[other][j], **RIGID)[0] if len(i) else Motion())
    return steps


def _measure_layer(layer, rows, frames, motion, spacing, field, border, min_frames) -> Occupancy:
    """Sites and histories of a layer, from its rows and its motion by tracks since the first frame."""
    row, z, track = rows["row"].to_numpy(), rows["z"].to_numpy(), rows["particle"].to_numpy(int)
    turn, shift = (np.array([getattr(step, name) for step in motion]) for name in ("turn", "shift"))
    for _ in range(MOTION_ROUNDS):
        sites, of = _find_sites((z - shift[row]) * np.conj(turn[row]), spacing)
        count = np.bincount(of[of >= 0], minlength=len(sites))
        trusted = np.flatnonzero((of >= 0) & (count[of] >= TRUSTED_SITE))
        trusted = trusted[np.argsort(row[trusted], kind="stable")]
        for t, use in enumerate(np.split(trusted, np.searchsorted(row[trusted], np.arange(1, len(frames))))):
            if len(use) >= OWN_MOTION:
                own, _ = fit_similarity(sites[of[use]], z[use], **RIGID)
                turn[t], shift[t] = own.turn, own.shift
    # Sites and motion relative to the first frame
    sites, turn, shift = turn[0] * sites + shift[0], turn * np.conj(turn[0]), shift - turn * np.conj(turn[0]) * shift[0]
    distance = np.abs((z - shift[row]) * np.conj(turn[row]) - sites[of])
    seen, tracks = np.zeros((len(frames), len(sites)), bool), np.full((len(frames), len(sites)), -1)
    order = np.argsort(-distance)  # the nearest is written last
    order = order[of[order] >= 0]
    seen[row[order], of[order]], tracks[row[order], of[order]] = True, track[order]
    enough = seen.sum(axis=0) >= min(min_frames, 2)
    seen, tracks = seen[:, enough], tracks[:, enough]
    scatter = np.median(distance[of >= 0]) / np.sqrt(2 * np.log(2))  # of a Rayleigh distribution
    moved: tuple = (turn, shift, spacing, field, border, {}, float(scatter))
    blank = Occupancy(layer, frames, to_points(sites[enough]), seen, seen, seen, tracks, *moved)
    visible = np.array([blank.in_view(blank.sites, t) for t in range(len(frames))]).reshape(seen.shape)
    visible &= np.isin(np.arange(len(frames)), row)[:, None]
    occupied, rates = _estimate_histories(seen, visible, blank.sites, spacing, min_frames)
    ever = occupied.any(axis=0)
    histories = {"occupied": occupied, "visible": visible, "seen": seen, "particles": tracks}
    histories = {name: history[:, ever] for name, history in histories.items()}
    return replace(blank, sites=blank.sites[ever], rates=rates, **histories)


def _find_sites(rest, spacing):
    """Where positions without motion (complex) pile up, and which pile each belongs to, -1 for none."""
    step, low = spacing / PILE_CELLS, np.array([rest.real.min(), rest.imag.min()]) - spacing
    column, line = ((np.stack([rest.real, rest.imag], axis=1) - low) / step).astype(int).T
    shape = np.array([column.max(), line.max()]) + 1 + int(spacing / step)
    heap = np.bincount(column * shape[1] + line, minlength=shape.prod()).reshape(shape).astype(float)
    heap = gaussian_filter(heap, PILE_BLUR * spacing / step, mode="constant")
    # A disk: the corners of a square would reach the flank of a higher neighbouring pile
    reach = round(PILE * spacing / step)
    peaks = peak_local_max(
        heap, footprint=disk(reach), min_distance=reach, p_norm=2, threshold_abs=1e-9, exclude_border=False
    )  # min_distance separates peaks of equal height
    sites = (peaks + 0.5) @ [1, 1j] * step + low @ [1, 1j]
    for _ in range(PILE_ROUNDS):
        distance, of = cKDTree(to_points(sites)).query(to_points(rest))
        of = np.where(distance < SITE_REACH * spacing, of, -1)
        count = np.bincount(of[of >= 0], minlength=len(sites))
        total = [np.bincount(of[of >= 0], part[of >= 0], len(sites)) for part in (rest.real, rest.imag)]
        sites = np.where(count > 0, (total[0] + 1j * total[1]) / np.maximum(count, 1), sites)
    return sites, of


def _estimate_histories(seen, visible, sites, spacing, min_frames):
    """Whether each site is taken in each frame (t, n), and the estimated rates."""
    changes = {"attach": np.full(4, FIRST_CHANGE), "detach": np.full(4, FIRST_CHANGE)}
    rates: dict = {**FIRST_RATES, "taken": np.full(4, 0.5), **changes}
    if seen.shape[1] == 0:
        return seen, rates
    # Code of each observation: 2 (what was seen before) + what is seen now; 4 + now at first; 6 out of view
    context, near = np.where(visible, np.int8(4) + seen, np.int8(6)), adjacency(sites, spacing).astype(np.int8)
    again = visible[1:] & visible[:-1]
    context[1:][again] = (np.int8(2) * seen[:-1] + seen[1:])[again]
    state, old = seen, None
    for _ in range(MOST_RATE_ROUNDS):
        group = _group_by_neighbours(state, near)
        odds, rates = _update_rates(context, group, rates)
        state = odds > 1
        new = np.log(np.concatenate([np.ravel(v) for v in rates.values()]))
        if old is not None and np.abs(new - old).max() < RATES_CONVERGED:
            break
        old = new
    path = _find_likeliest_path(context, _group_by_neighbours(state, near), rates)
    return _drop_short_runs(path, visible, seen, min_frames), rates


def _group_by_neighbours(taken, near) -> np.ndarray:
    """Of each step (t - 1, n): 0 for no taken neighbour before or after it, 1 for one or two, 2 for up to four, 3."""
    count = (near @ taken.T.astype(np.int8)).T
    most = np.maximum(count[1:], count[:-1])
    return (most > 0).astype(np.int8) + (most > 2) + (most > 4)


def _observation_odds(rates) -> np.ndarray:
    """How much likelier each code of an observation is at a taken site than at an empty one, (7,)."""
    m, again, f, f_again = (rates[k] for k in ("miss", "miss_again", "false", "false_again"))
    missed, false = m / (m + 1 - again), f / (f + 1 - f_again)  # whatever was before
    empty = [1 - f, f, 1 - f_again, f_again, 1 - false, false, 1.0]
    taken = [again, 1 - again, m, 1 - m, missed, 1 - missed, 1.0]
    return np.array(taken) / np.array(empty)


def _update_rates(context, group, rates) -> tuple[np.ndarray, dict]:
    """Odds (t, n) that each site is taken, and rates from expected counts and a prior of `PRIOR_COUNTS`, within bounds.

    The odds of the past run forward, those of the future backward; their product counts.
    """
    seen_odds, attach, detach = _observation_odds(rates), rates["attach"], rates["detach"]
    stay, free = 1 - detach, 1 - attach
    odds = np.empty(context.shape)
    odds[0] = (rates["taken"] / (1 - rates["taken"]))[group[0]] * seen_odds[context[0]]
    for t in range(1, len(odds)):
        g, before = group[t - 1], odds[t - 1]
        odds[t] = (before * stay[g] + attach[g]) / (before * detach[g] + free[g]) * seen_odds[context[t]]
    # Observations; transitions by group: attached, left empty, detached, kept
    observed, jumps, taken, later = np.zeros((2, 7)), np.zeros((4, 4)), np.empty(0), 1.0
    for t in range(len(odds) - 1, -1, -1):
        after, past = taken, odds[t].copy()
        odds[t] *= later
        taken = odds[t] / (1 + odds[t])
        observed += [np.bincount(context[t], part, 7) for part in (1 - taken, taken)]
        if t + 1 < len(odds):  # a site that is taken in the next frame was empty, or taken, in this one
            g = group[t]
            came = after * attach[g] / (attach[g] + past * stay[g])
            kept = after - came
            jumps += [np.bincount(g, part, 4) for part in (came, 1 - taken - came, taken - kept, kept)]
        if t > 0:
            g, now = group[t - 1], seen_odds[context[t]] * later
            later = (detach[g] + stay[g] * now) / (free[g] + attach[g] * now)
    begun = [np.bincount(group[0], part, 4) for part in (1 - taken, taken)]

    def share(counts, guess, most, weight=PRIOR_COUNTS):
        return np.clip((counts[0] + weight * guess) / (counts[0] + counts[1] + weight), LEAST_RATE, most)

    empty, taken = observed
    counts = {"miss": taken[2:4], "miss_again": taken[:2], "false": empty[1::-1], "false_again": empty[3:1:-1]}
    new: dict = {name: float(share(n, USUAL_RATES[name], LARGEST_RATES[name])) for name, n in counts.items()}
    new |= {name: share(jumps[k : k + 2], USUAL_CHANGE, FASTEST_CHANGE) for name, k in (("attach", 0), ("detach", 2))}
    return odds, new | {"taken": share(begun[::-1], 0.5, 0.999, 1)}


def _find_likeliest_path(context, group, rates) -> np.ndarray:
    """The likeliest sequence of states (t, n)."""
    seen_odds, attach, detach = (np.log(x) for x in (_observation_odds(rates), rates["attach"], rates["detach"]))
    stay, free = np.log(1 - rates["detach"]), np.log(1 - rates["attach"])
    odds = np.log(rates["taken"] / (1 - rates["taken"]))[group[0]] + seen_odds[context[0]]
    from_taken = np.empty((len(context), 2, context.shape[1]), bool)  # the better way into empty, and into taken
    for t in range(1, len(context)):
        g = group[t - 1]
        left, stayed = odds + detach[g], odds + stay[g]
        from_taken[t] = left > free[g], stayed > attach[g]
        odds = np.maximum(stayed, attach[g]) - np.maximum(left, free[g]) + seen_odds[context[t]]
    path = np.empty(context.shape, bool)
    path[-1] = odds > 0
    for t in range(len(context) - 1, 0, -1):
        path[t - 1] = np.where(path[t], from_taken[t, 1], from_taken[t, 0])
    return path


def _drop_short_runs(path, visible, seen, min_frames) -> np.ndarray:
    """Histories without visits and absences that are too short; at the ends of what was seen, two frames suffice."""
    path = path.copy()
    for k in np.flatnonzero(visible.any(axis=0)):
        history = path[visible[:, k], k]
        for state in (True, False):  # visits first, so that two false finds around a gap do not count as one
            for (run,) in find_objects(label(history == state)[0]):
                start, end = run.start, run.stop
                inside = start > 0 and end < len(history)
                if end - start < (min_frames if inside else min(2, min_frames)) and end - start < len(history):
                    history[start:end] = not state
        path[visible[:, k], k] = history
    # Out of view, as last seen; before, as first seen; on the border only, taken if mostly seen
    known = pd.DataFrame(np.where(visible, path, np.nan)).ffill().bfill()
    return known.fillna(pd.Series(seen.mean(axis=0) > 0.5, dtype=float)).to_numpy(bool)


def subtract_motion(table: pd.DataFrame, points: ArrayLike, motion: dict[int, Occupancy] | None) -> np.ndarray:
    """Points (n, 2) in nm of rows (``frame, layer``), where they would be in the first frame, if motion is known."""
    points = np.array(points, float)
    for layer, rows in table.groupby("layer").indices.items():
        own = (motion or {}).get(layer)
        if own is None:
            continue
        frame = table["frame"].to_numpy()[rows]
        row = np.minimum(np.searchsorted(own.frames, frame), len(own.frames) - 1)
        if (wrong := own.frames[row] != frame).any():
            raise ValueError(f"motion of layer {layer} has no frame {frame[wrong][0]}; pass that of the same movie")
        points[rows] = own.in_first_frame(points[rows], row)
    return points
