"""Growth: when particles attach and detach, how layers and their fronts grow, what sites they prefer.

Tracks break, particles are missed, false finds come and go. Growth is therefore read from *sites*: places of a layer's
lattice that a particle may take, and whether each is taken, frame by frame.

Explained in chapter 10, "Growth".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter
from scipy.optimize import curve_fit, linear_sum_assignment
from scipy.sparse import csr_array
from scipy.spatial import cKDTree
from scipy.stats import chi2
from skimage.feature import peak_local_max
from skimage.morphology import disk

from .defects import _empty_sites
from .order import REACH, REGISTRY, _complex, _enough, _pairs, find_grains, local_lattices, neighbour_spacing, registry

__all__ = [
    "Occupancy",
    "Relaxation",
    "SitePreference",
    "defect_numbers",
    "fit_relaxation",
    "front_table",
    "front_velocity",
    "growth_events",
    "growth_rate",
    "relative_motion",
    "score_events",
    "site_occupancy",
    "site_preference",
    "size_table",
]

EVENT_COLUMNS = "frame layer event particle y_nm x_nm coordination registry coordinate y_frame_nm x_frame_nm".split()
_NEED = ["frame", "particle", "layer", "y_nm", "x_nm"]


# --- Sites and whether they are taken ---


@dataclass(frozen=True)
class Occupancy:
    """Which sites of one layer are taken in every frame.

    Parameters
    ----------
    layer : int
        Number of the layer.
    frames : ndarray of int, shape (t,)
        Frame numbers.
    sites : ndarray, shape (n, 2)
        (y, x) in nm, where each site is in the first frame.
    occupied : ndarray of bool, shape (t, n)
        The likeliest history of each site; where it was not in view, as before or after.
    visible : ndarray of bool, shape (t, n)
        Whether the site is in view, away from the border.
    seen : ndarray of bool, shape (t, n)
        Whether a particle was found there.
    particles : ndarray of int, shape (t, n)
        Track number of what was found, -1 for none.
    turn, shift : ndarray of complex, shape (t,)
        Motion of the layer since the first frame: z = x + iy becomes turn z + shift, in nm.
    spacing : float
        Nearest-neighbour distance, in nm.
    field : tuple of tuple of float
        Least and largest (y, x) in view, in nm.
    border : float
        Width of the strip along the field's edge in which nothing is said, in nm.
    rates : dict
        Estimated probabilities: ``miss`` and ``false`` of a particle or an empty site after a frame in which it was
        seen right, ``miss_again`` and ``false_again`` after one in which it was not; ``taken`` of a site in the first
        frame; ``attach`` and ``detach`` of a site per frame; these three are arrays for sites with 0, 1 to 2, 3 to 4,
        and 5 or more taken neighbours.
    scatter : float
        One-sigma distance of finds from their sites along each axis, in nm: vibration and localization error.
    """

    layer: int
    frames: np.ndarray
    sites: np.ndarray
    occupied: np.ndarray
    visible: np.ndarray
    seen: np.ndarray
    particles: np.ndarray
    turn: np.ndarray
    shift: np.ndarray
    spacing: float
    field: tuple
    border: float
    rates: dict
    scatter: float = float("nan")

    @property
    def drift(self) -> np.ndarray:
        """Motion (y, x) of the middle of the sites since the first frame, in nm, shape (t, 2)."""
        middle = _complex(self.sites).mean() if len(self.sites) else 0.0
        return _pairs(self.turn * middle + self.shift - middle)

    @property
    def rotation(self) -> np.ndarray:
        """Rotation since the first frame from x towards y, in degrees, shape (t,)."""
        return np.degrees(np.unwrap(np.angle(self.turn)))

    def in_frame(self, points, row: int) -> np.ndarray:
        """Where points (n, 2) of the first frame are in the frame of a row, in nm."""
        return _pairs(self.turn[row] * _complex(np.reshape(points, (-1, 2))) + self.shift[row])

    def in_view(self, points, row: int, border: float | None = None) -> np.ndarray:
        """Which points (n, 2) of the first frame are in view in the frame of a row, away from the border."""
        border = self.border if border is None else border
        where = self.in_frame(points, row)
        return ((where >= np.add(self.field[0], border)) & (where <= np.subtract(self.field[1], border))).all(axis=-1)


def site_occupancy(
    particles: pd.DataFrame, field_nm=None, border_nm: float | None = None, min_frames: int = 3
) -> dict[int, Occupancy]:
    """Find each layer's sites, and decide for every frame which are taken.

    Parameters
    ----------
    particles : pandas.DataFrame
        ``frame, particle, layer, y_nm, x_nm``; particle is the track's number, -1 where there is none. Tracks may be
        broken and continued under other numbers.
    field_nm : tuple of float, optional
        Height and width of the field of view, in nm. By default the extent of all particles: where they fill it, it is
        taken for the field; where they leave corners free, the crystal ends within the field.
    border_nm : float, optional
        Width of the strip along the field's edge in which nothing is said, in nm; 0.6 spacings by default, and none
        around a crystal that ends within an unknown field.
    min_frames : int
        What was there, or missing, for fewer frames is a false find, or a miss.

    Returns
    -------
    dict
        An `Occupancy` per layer that has one.

    Raises
    ------
    ValueError
        If columns are missing, positions are not finite, or there are fewer than 3 frames.

    Notes
    -----
    Motion from frame to frame comes from tracks that both frames share; positions without it pile up at the sites.
    A hidden Markov model [1]_ with two states, taken and empty, then has its probabilities of misses, false finds,
    attachment and detachment estimated from all sites of a layer by the Baum-Welch algorithm, and the likeliest
    history of every site found by Viterbi's. Misses may depend on whether the particle was missed before: they come
    in runs. Attachment and detachment depend on how many neighbours are there, so that a gap is more readily believed
    at the rim than inside. Explained in chapter 10, "Growth".

    References
    ----------
    .. [1] Rabiner, Proc. IEEE 77, 257 (1989).
    """
    table = _checked(particles)
    frames = np.unique(table["frame"])
    if len(frames) < 3:
        raise ValueError(f"growth needs at least 3 frames, got {len(frames)}")
    if min_frames < 1:
        raise ValueError(f"min_frames must be 1 or more, got {min_frames}")
    table = table.assign(row=np.searchsorted(frames, table["frame"]), z=_complex(table[["y_nm", "x_nm"]].to_numpy()))
    positions = table[["y_nm", "x_nm"]].to_numpy(float)
    field = _field(positions, field_nm)
    whole = _steps(table, len(frames), _typical_spacing(table), None)
    found = {}
    for layer, rows in table.groupby("layer"):
        spacing = _typical_spacing(rows)
        if spacing is None:
            continue
        open_border = field_nm is None and not _filled(positions, spacing)
        usual = -spacing if open_border else 0.6 * spacing
        border = usual if border_nm is None else float(border_nm)
        motion = _accumulated(_steps(rows, len(frames), spacing, whole))
        found[int(layer)] = _layer_occupancy(int(layer), rows, frames, motion, spacing, field, border, min_frames)
    return found


def _checked(particles) -> pd.DataFrame:
    missing = [c for c in _NEED if c not in particles]
    if missing:
        raise ValueError(
            f"the particle table has no column {', '.join(missing)}; growth needs {', '.join(_NEED)}, as from "
            "moirelib.tracks.link"
        )
    table = particles[_NEED].reset_index(drop=True)
    bad = ~np.isfinite(table[["y_nm", "x_nm"]].to_numpy(float)).all(axis=1)
    if bad.any():
        raise ValueError(f"{bad.sum()} positions are not finite; drop them first")
    return table


def _field(positions, field_nm):
    if field_nm is None:
        return tuple(positions.min(axis=0)), tuple(positions.max(axis=0))
    field = np.asarray(field_nm, float)
    if field.shape != (2,) or not (field > 0).all():
        raise ValueError(f"field_nm is height and width in nm, got {field_nm}")
    return (0.0, 0.0), tuple(field)


def _filled(positions, spacing, least: float = 0.93) -> bool:
    """Whether particles fill the rectangle around them, as they do where the field's edges cut them off."""
    low, high = positions.min(axis=0), positions.max(axis=0)
    axes = (np.arange(a, b + 1e-9, spacing) for a, b in zip(low, high, strict=True))
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    return bool(np.mean(cKDTree(positions).query(grid)[0] < spacing) > least)


def _typical_spacing(rows) -> float | None:
    """Median over a few of the fullest frames of the spacing in nm; None where no frame has a lattice."""
    values = []
    for _, layer in rows.groupby("layer"):
        for frame in layer["frame"].value_counts().index[:5]:
            points = layer.loc[layer["frame"] == frame, ["y_nm", "x_nm"]].to_numpy(float)
            if len(points) >= 7 and _enough(points):
                values.append(neighbour_spacing(points))
    return float(np.median(values)) if values else None


# --- Motion of the specimen: z in one frame is turn z + shift in another, complex numbers x + iy ---


def _steps(rows, count, spacing, fallback):
    """Turn and shift (count - 1,) from each frame to the next; the fallback's where a layer shares too few tracks."""
    turns, shifts = np.ones(count, complex)[1:], np.zeros(count, complex)[1:]
    by_row = {row: table for row, table in rows.groupby("row")}
    for k in range(count - 1):
        pair = _shared(by_row.get(k), by_row.get(k + 1), spacing)
        if fallback is not None and len(pair[0]) < 12:
            turns[k], shifts[k] = fallback[0][k], fallback[1][k]
        elif len(pair[0]):
            turns[k], shifts[k] = _rigid(*pair)
    return turns, shifts


def _shared(one, other, spacing):
    """Positions of tracks in both frames; without three, of particles that are each other's nearest."""
    none = (np.zeros(0, complex),) * 2
    if one is None or other is None:
        return none
    both = one[one["particle"] >= 0].merge(other[other["particle"] >= 0], on=["layer", "particle"])
    if len(both) >= 3:
        return both["z_x"].to_numpy(), both["z_y"].to_numpy()
    if spacing is None:
        return none
    a, b = one["z"].to_numpy(), other["z"].to_numpy()
    i, j = _mutual(_pairs(a), _pairs(b), 0.4 * spacing)
    return a[i], b[j]


def _mutual(one, other, reach):
    """Indices of points that are each other's nearest within reach."""
    if len(one) == 0 or len(other) == 0:
        return np.zeros(0, int), np.zeros(0, int)
    distance, nearest = cKDTree(other).query(one)
    back = cKDTree(one).query(other)[1]
    i = np.flatnonzero((distance < reach) & (back[nearest] == np.arange(len(one))))
    return i, nearest[i]


def _rigid(a, b):
    """Turn and shift that take a to b by least squares, without tracks that changed particle; for few, a shift."""
    jump = b - a
    middle = np.median(jump.real) + 1j * np.median(jump.imag)
    left = np.abs(jump - middle)
    turn, shift = 1.0 + 0j, middle
    for _ in range(3):
        use = left <= max(3 * np.median(left), 1e-9)
        ca, cb = a[use].mean(), b[use].mean()
        if use.sum() >= 6:
            turn = np.sum(np.conj(a[use] - ca) * (b[use] - cb))
            turn = turn / abs(turn) if abs(turn) > 0 else 1.0 + 0j
        shift = cb - turn * ca
        left = np.abs(b - turn * a - shift)
    return turn, shift


def _accumulated(steps):
    """Turn and shift (t,) since the first frame."""
    turn, shift = [1.0 + 0j], [0j]
    for t, s in zip(*steps, strict=True):
        shift.append(t * shift[-1] + s)
        turn.append(t * turn[-1])
    return np.array(turn), np.array(shift)


# --- One layer ---


def _layer_occupancy(layer, rows, frames, motion, spacing, field, border, min_frames) -> Occupancy:
    row, z, track = rows["row"].to_numpy(), rows["z"].to_numpy(), rows["particle"].to_numpy(int)
    turn, shift = motion
    for _ in range(3):  # sites from positions without motion, motion from positions at their sites
        rest = (z - shift[row]) * np.conj(turn[row])
        sites, of = _sites(rest, spacing)
        turn, shift = _onto_sites(z, row, sites, of, turn, shift)
    # Everything is told where it is in the first frame
    sites, turn, shift = turn[0] * sites + shift[0], turn * np.conj(turn[0]), shift - turn * np.conj(turn[0]) * shift[0]
    rest = (z - shift[row]) * np.conj(turn[row])
    seen, tracks = _observed(rest, row, track, sites, of, len(frames))
    enough = seen.sum(axis=0) >= min(min_frames, 2)
    seen, tracks = seen[:, enough], tracks[:, enough]
    blank = Occupancy(
        layer, frames, _pairs(sites[enough]), seen, seen, seen, tracks, turn, shift, spacing, field, border, {}
    )
    visible = np.array([blank.in_view(blank.sites, t) for t in range(len(frames))]).reshape(seen.shape)
    visible &= np.isin(np.arange(len(frames)), row)[:, None]
    occupied, rates = _histories(seen, visible, blank.sites, spacing, min_frames)
    ever = occupied.any(axis=0)
    return Occupancy(
        layer,
        frames,
        blank.sites[ever],
        occupied[:, ever],
        visible[:, ever],
        seen[:, ever],
        tracks[:, ever],
        turn,
        shift,
        spacing,
        field,
        border,
        rates,
        float(np.median(np.abs(rest - sites[of])[of >= 0]) / np.sqrt(2 * np.log(2))),  # of a Rayleigh distribution
    )


def _sites(rest, spacing):
    """Where positions without motion (complex) pile up, and which pile each belongs to, -1 for none."""
    step = spacing / 12
    low = np.array([rest.real.min(), rest.imag.min()]) - spacing
    index = np.floor((np.stack([rest.real, rest.imag], axis=1) - low) / step).astype(int)
    heap = np.zeros(index.max(axis=0) + 1 + int(spacing / step))
    np.add.at(heap, tuple(index.T), 1.0)
    heap = gaussian_filter(heap, 0.1 * spacing / step, mode="constant")
    # A disk: in the corners of a square the flank of a neighbour that is there longer would be the higher
    reach = round(0.5 * spacing / step)
    peaks = peak_local_max(
        heap, footprint=disk(reach), min_distance=reach, p_norm=2, threshold_abs=1e-9, exclude_border=False
    )  # the distance again, for peaks of equal height
    sites = (peaks + 0.5) @ [1, 1j] * step + low @ [1, 1j]
    for _ in range(2):
        distance, of = cKDTree(_pairs(sites)).query(_pairs(rest))
        of = np.where(distance < 0.4 * spacing, of, -1)
        count = np.bincount(of[of >= 0], minlength=len(sites))
        total = [np.bincount(of[of >= 0], part[of >= 0], len(sites)) for part in (rest.real, rest.imag)]
        sites = np.where(count > 0, (total[0] + 1j * total[1]) / np.maximum(count, 1), sites)
    return sites, of


def _onto_sites(z, row, sites, of, turn, shift):
    """Motion again, now from the sites to the positions of each frame that has at least 12 of them."""
    turn, shift = turn.copy(), shift.copy()
    count = np.bincount(of[of >= 0], minlength=len(sites))
    trusted = np.flatnonzero((of >= 0) & (count[of] >= 3))
    trusted = trusted[np.argsort(row[trusted], kind="stable")]
    for t, use in enumerate(np.split(trusted, np.searchsorted(row[trusted], np.arange(1, len(turn))))):
        if len(use) >= 12:
            turn[t], shift[t] = _rigid(sites[of[use]], z[use])
    return turn, shift


def _observed(rest, row, track, sites, of, count):
    """Whether each site was seen in each frame, and the track of what is nearest to it."""
    order = np.argsort(-np.abs(rest - sites[of]))  # the nearest is written last
    order = order[of[order] >= 0]
    seen, tracks = np.zeros((count, len(sites)), bool), np.full((count, len(sites)), -1)
    seen[row[order], of[order]] = True
    tracks[row[order], of[order]] = track[order]
    return seen, tracks


# --- The likeliest history of a site ---

_MISS, _MISS_AGAIN, _FALSE, _FALSE_AGAIN = 0.3, 0.6, 0.1, 0.5  # more than that is no observation of anything


def _histories(seen, visible, sites, spacing, min_frames, iterations: int = 20):
    """Whether each site is taken in each frame (t, n), and the estimated rates."""
    rates = {"miss": 0.05, "miss_again": 0.2, "false": 0.005, "false_again": 0.1}
    rates |= {"taken": np.full(4, 0.5), "attach": np.full(4, 2e-3), "detach": np.full(4, 2e-3)}
    if seen.shape[1] == 0:
        return seen, rates
    context, near = _context(seen, visible), _adjacency(sites, spacing)
    state, old = seen, None
    for _ in range(iterations):
        group = _group(state, near)
        posterior, jumps = _forward_backward(_emission(context, rates), *_chances(group, rates))
        rates = _updated(context, posterior, jumps, group[0])
        state = posterior[..., 1] > 0.5
        new = np.log(np.concatenate([np.ravel(v) for v in rates.values()]))
        if old is not None and np.abs(new - old).max() < 0.02:
            break
        old = new
    path = _viterbi(_emission(context, rates), *_chances(_group(state, near), rates))
    return _without_short(path, visible, seen, min_frames), rates


def _context(seen, visible) -> np.ndarray:
    """Code of each observation (t, n): 2 (what was seen before) + what is seen now; 4 + now at first; 6 out of view."""
    code = np.where(visible, 4 + seen, 6)
    again = visible[1:] & visible[:-1]
    code[1:][again] = (2 * seen[:-1] + seen[1:])[again]
    return code


def _adjacency(sites, spacing):
    """Which sites are neighbours, sparse (n, n)."""
    i, j = cKDTree(sites).query_pairs(REACH * spacing, output_type="ndarray").T
    return csr_array((np.ones(2 * len(i)), (np.r_[i, j], np.r_[j, i])), shape=(len(sites),) * 2)


def _group(taken, near) -> np.ndarray:
    """Of each step (t - 1, n): 0 for no taken neighbour before or after it, 1 for one or two, 2 for up to four, 3."""
    count = (near @ taken.T.astype(float)).T
    return np.digitize(np.maximum(count[1:], count[:-1]), [0.5, 2.5, 4.5])


def _emission(context, rates) -> np.ndarray:
    """Probability of each observation if the site is empty or taken, (t, n, 2)."""
    m, again, f, f_again = (rates[k] for k in ("miss", "miss_again", "false", "false_again"))
    missed, false = m / (m + 1 - again), f / (f + 1 - f_again)  # whatever was before
    empty = [1 - f, f, 1 - f_again, f_again, 1 - false, false, 1.0]
    taken = [again, 1 - again, m, 1 - m, missed, 1 - missed, 1.0]
    return np.stack([np.array(empty)[context], np.array(taken)[context]], axis=-1)


def _chances(group, rates):
    """Probability of each state at first (n, 2), and of each step (t - 1, n, 2, 2) from empty and taken to either."""
    a, d = rates["attach"], rates["detach"]
    step = np.moveaxis(np.array([[1 - a, a], [d, 1 - d]]), -1, 0)
    taken = rates["taken"][group[0]]
    return np.stack([1 - taken, taken], axis=1), step[group], group


def _forward_backward(emission, first, step, group):
    """Posterior probability of the states (t, n, 2), and expected number of transitions by group (4, 2, 2)."""
    forward, backward = np.empty_like(emission), np.ones_like(emission)
    forward[0] = first * emission[0] / np.sum(first * emission[0], axis=1, keepdims=True)
    for t in range(1, len(emission)):
        now = np.einsum("ni,nij->nj", forward[t - 1], step[t - 1]) * emission[t]
        forward[t] = now / now.sum(axis=-1, keepdims=True)
    jumps = np.zeros((4, 2, 2))
    for t in range(len(emission) - 1, 0, -1):
        ahead = emission[t] * backward[t]
        joint = forward[t - 1][:, :, None] * step[t - 1] * ahead[:, None, :]
        np.add.at(jumps, group[t - 1], joint / joint.sum(axis=(1, 2), keepdims=True))
        before = np.einsum("nij,nj->ni", step[t - 1], ahead)
        backward[t - 1] = before / before.sum(axis=-1, keepdims=True)
    posterior = forward * backward
    return posterior / posterior.sum(axis=-1, keepdims=True), jumps


def _updated(context, posterior, jumps, first) -> dict:
    """Rates from expected counts, with some made-up counts, so that none is 0 or beyond what makes sense."""
    empty, taken = (np.bincount(context.ravel(), posterior[..., k].ravel(), 7) for k in (0, 1))

    def share(part, rest, guess, most, weight=50):
        return np.clip((part + weight * guess) / (part + rest + weight), 1e-5, most)

    begun = [np.bincount(first, posterior[0, :, k], 4) for k in (0, 1)]
    return {
        "miss": float(share(taken[2], taken[3], 0.03, _MISS)),
        "miss_again": float(share(taken[0], taken[1], 0.1, _MISS_AGAIN)),
        "false": float(share(empty[1], empty[0], 0.003, _FALSE)),
        "false_again": float(share(empty[3], empty[2], 0.1, _FALSE_AGAIN)),
        "taken": share(begun[1], begun[0], 0.5, 0.999, 1),
        "attach": share(jumps[:, 0, 1], jumps[:, 0, 0], 1e-3, 0.2),
        "detach": share(jumps[:, 1, 0], jumps[:, 1, 1], 1e-3, 0.2),
    }


def _viterbi(emission, first, step, _) -> np.ndarray:
    """The likeliest sequence of states (t, n)."""
    log_step, score = np.log(step), np.log(emission[0] * first)
    back = np.empty((len(emission), emission.shape[1], 2), np.int8)
    for t in range(1, len(emission)):
        ways = score[:, :, None] + log_step[t - 1]
        back[t] = ways.argmax(axis=1)
        score = ways.max(axis=1) + np.log(emission[t])
    path = np.empty(emission.shape[:2], bool)
    path[-1] = score.argmax(axis=-1)
    for t in range(len(emission) - 1, 0, -1):
        path[t - 1] = np.take_along_axis(back[t], path[t][:, None].astype(int), axis=1)[:, 0]
    return path


def _without_short(path, visible, seen, min_frames) -> np.ndarray:
    """Histories without visits and absences that are too short; at the ends of what was seen, two frames suffice."""
    path = path.copy()
    for k in range(path.shape[1]):
        rows = np.flatnonzero(visible[:, k])
        if len(rows) == 0:  # the border only: taken if mostly seen
            path[:, k] = seen[:, k].mean() > 0.5
            continue
        history = path[rows, k]
        for state in (True, False):  # visits first: two false finds around a gap do not make one
            for start, end in _runs(history, state):
                inside = start > 0 and end < len(history)
                if end - start < (min_frames if inside else min(2, min_frames)) and end - start < len(history):
                    history[start:end] = not state
        path[rows, k] = history
        # Out of view, as last seen; before, as first seen
        last = np.maximum.accumulate(np.where(visible[:, k], np.arange(len(path)), -1))
        path[:, k] = path[np.where(last < 0, rows[0], last), k]
    return path


def _runs(history, state):
    """Start and end of each run of a state."""
    edge = np.diff(np.concatenate([[False], history == state, [False]]).astype(int))
    return zip(np.flatnonzero(edge == 1), np.flatnonzero(edge == -1), strict=True)


# --- Events ---


def growth_events(
    particles: pd.DataFrame | dict, field_nm=None, border_nm: float | None = None, min_frames: int = 3
) -> pd.DataFrame:
    """Attachments and detachments of particles, with coordination and registry at the time.

    Parameters
    ----------
    particles : pandas.DataFrame or dict
        Tracks as for `site_occupancy`, or what it returned (the other parameters then have no effect).
    field_nm, border_nm, min_frames
        As for `site_occupancy`.

    Returns
    -------
    pandas.DataFrame
        ``frame``, the first in which the particle is there, or no longer there; ``layer``; ``event``, attachment or
        detachment; ``particle``, the track seen there longest after attachment, or before detachment (-1 for none);
        ``y_nm, x_nm``, where the site is in the first frame; ``coordination``, taken neighbour sites in the layer
        just after attachment or before detachment; ``registry`` (top, bridge, hollow, or empty where the other layer
        is not) and ``coordinate`` on the other layer as in `moirelib.order.registry`; ``y_frame_nm, x_frame_nm``,
        where the site is in the event's own frame.

    Raises
    ------
    ValueError
        As `site_occupancy`.

    Notes
    -----
    A particle that hops to a free site is a detachment there and an attachment here. What drift carries in or out of
    view makes no event. Explained in chapter 10, "Growth".
    """
    occupancy = _occupancy(particles, field_nm, border_nm, min_frames)
    tables = [_layer_events(one, occupancy) for one in occupancy.values()]
    table = pd.concat([t for t in tables if len(t)] or [pd.DataFrame(columns=EVENT_COLUMNS)], ignore_index=True)
    return table.sort_values(["frame", "layer"], kind="stable", ignore_index=True)[EVENT_COLUMNS]


def _occupancy(particles, *options) -> dict[int, Occupancy]:
    return particles if isinstance(particles, dict) else site_occupancy(particles, *options)


def _changes(one) -> tuple[np.ndarray, np.ndarray]:
    """Rows and sites at which something changes from one frame to the next, both in view."""
    t, k = np.nonzero((one.occupied[1:] != one.occupied[:-1]) & one.visible[1:] & one.visible[:-1])
    return t + 1, k


def _layer_events(one, occupancy) -> pd.DataFrame:
    t, k = _changes(one)
    came = one.occupied[t, k]
    neighbours = _neighbours(one.sites, one.sites[k], one.spacing)
    there = [one.occupied[row - (not up)] for row, up in zip(t, came, strict=True)]
    table = pd.DataFrame(
        {
            "frame": one.frames[t],
            "layer": one.layer,
            "event": np.where(came, "attachment", "detachment"),
            "particle": [_track(one, *event) for event in zip(t, k, came, strict=True)],
            "y_nm": one.sites[k, 0],
            "x_nm": one.sites[k, 1],
            "coordination": [int(s[n].sum()) for s, n in zip(there, neighbours, strict=True)],
        }
    )
    on = _registry_of(one, occupancy, t, one.sites[k])
    table["registry"], table["coordinate"] = on["registry"].to_numpy(object), on["coordinate"].to_numpy(float)
    where = [one.in_frame(site, row)[0] for row, site in zip(t, one.sites[k], strict=True)]
    table[["y_frame_nm", "x_frame_nm"]] = np.reshape(where, (-1, 2))
    return table


def _neighbours(sites, points, spacing) -> list[np.ndarray]:
    """Indices of the sites around each point, not the one at it."""
    if len(points) == 0:
        return []
    near = cKDTree(sites).query_ball_point(points, REACH * spacing)
    return [
        np.array([j for j in some if np.hypot(*(sites[j] - point)) > 0.3 * spacing], int)
        for some, point in zip(near, points, strict=True)
    ]


def _track(one, row, site, came) -> int:
    """The track seen longest at a site after attachment, or before detachment."""
    same = one.occupied[:, site] == one.occupied[row if came else row - 1, site]
    after = np.flatnonzero(~same[row:])
    before = np.flatnonzero(~same[:row])
    span = (
        slice(row, row + after[0] if len(after) else None) if came else slice(before[-1] + 1 if len(before) else 0, row)
    )
    tracks = one.particles[span, site]
    numbers, count = np.unique(tracks[tracks >= 0], return_counts=True)
    return int(numbers[count.argmax()]) if len(numbers) else -1


def _registry_of(one, occupancy, rows, points) -> pd.DataFrame:
    """Registry on the other layer of points of the first frame, each at its own row's time."""
    columns = ["registry", "coordinate"]
    table = pd.DataFrame({"registry": "", "coordinate": np.nan}, index=range(len(points)), dtype=object)
    other = occupancy.get(3 - one.layer)
    if other is None or len(points) == 0 or len(other.sites) < 6:
        return table
    grain = find_grains(other.sites, other.spacing)
    for row in np.unique(rows):
        some, there = np.flatnonzero(rows == row), other.occupied[row]
        if there.sum() < 6:
            continue
        base = other.in_frame(other.sites[there], row)
        on = registry(one.in_frame(points[some], row), base, other.spacing, grain[there])
        table.loc[some, columns] = on[columns].to_numpy(object)
    return table


# --- Size, rate and front ---


def size_table(occupancy: dict[int, Occupancy]) -> pd.DataFrame:
    """Size of every layer in every frame, with its balance.

    Parameters
    ----------
    occupancy : dict
        From `site_occupancy`.

    Returns
    -------
    pandas.DataFrame
        ``frame, layer``; ``number`` of taken sites in view; ``area_nm2``, number times the lattice cell √3/2 a²;
        ``radius_nm`` of a disk of that area; ``attached, detached``, events so far; ``carried``, net number that drift
        carried into view so far; ``free_edge_sites``, known empty sites in view with a taken neighbour.

    Notes
    -----
    In every frame number = first number + attached - detached + carried. Explained in chapter 10, "Growth".
    """
    tables = []
    for layer, one in occupancy.items():
        there, view = one.occupied, one.visible
        both = view[1:] & view[:-1]
        attached = np.sum(both & there[1:] & ~there[:-1], axis=1)
        detached = np.sum(both & ~there[1:] & there[:-1], axis=1)
        carried = np.sum(view[1:] & ~view[:-1] & there[1:], axis=1) - np.sum(~view[1:] & view[:-1] & there[:-1], axis=1)
        number = np.sum(there & view, axis=1)
        area = number * np.sqrt(0.75) * one.spacing**2
        table = pd.DataFrame({"frame": one.frames, "layer": layer, "number": number, "area_nm2": area})
        table["radius_nm"] = np.sqrt(area / np.pi)
        for name, steps in (("attached", attached), ("detached", detached), ("carried", carried)):
            table[name] = np.concatenate([[0], np.cumsum(steps)])
        table["free_edge_sites"] = _free_edge_sites(one).sum(axis=1)
        tables.append(table)
    columns = "frame layer number area_nm2 radius_nm attached detached carried free_edge_sites".split()
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def _free_edge_sites(one) -> np.ndarray:
    """Empty sites (t, n) in view that have a taken neighbour."""
    pairs = cKDTree(one.sites).query_pairs(REACH * one.spacing, output_type="ndarray") if len(one.sites) else []
    touching = np.zeros(one.occupied.shape, int)
    for i, j in pairs:
        touching[:, i] += one.occupied[:, j]
        touching[:, j] += one.occupied[:, i]
    return ~one.occupied & one.visible & (touching > 0)


def growth_rate(
    events: pd.DataFrame, frames, frame_time: float = 1.0, windows: int = 1, confidence: float = 0.95
) -> pd.DataFrame:
    """Attachments and detachments per time, with exact Poisson intervals.

    Parameters
    ----------
    events : pandas.DataFrame
        From `growth_events`.
    frames : array_like of int, shape (t,)
        All frame numbers, of frames without events as well.
    frame_time : float
        In s; 1 gives rates per frame.
    windows : int
        Into how many windows of equal length the movie is divided.
    confidence : float
        Of the interval.

    Returns
    -------
    pandas.DataFrame
        ``layer, event, frame_start, frame_end, count, rate, low, high``; rates in 1/s. Rows with event net have the
        difference, with a normal interval from the sum of the two counts. A window begins where the one before ended.

    Raises
    ------
    ValueError
        If there are fewer than two frames or windows do not fit in.

    References
    ----------
    Garwood, Biometrika 28, 437 (1936), for the interval. Explained in chapter 10, "Growth".
    """
    frames = np.unique(np.asarray(frames))
    if len(frames) < 2 or not 1 <= windows <= len(frames) - 1:
        raise ValueError(f"rates need at least two frames and a frame per window, got {len(frames)} and {windows}")
    edges = np.linspace(frames[0], frames[-1], windows + 1)
    rows = []
    for layer in np.unique(events["layer"]):
        for start, end in zip(edges[:-1], edges[1:], strict=True):
            here = events[(events["layer"] == layer) & (events["frame"] > start) & (events["frame"] <= end)]
            time = (end - start) * frame_time
            counts = [int((here["event"] == kind).sum()) for kind in ("attachment", "detachment")]
            for kind, count in zip(("attachment", "detachment"), counts, strict=True):
                low, high = _poisson_interval(count, confidence)
                rows.append((layer, kind, start, end, count, count / time, low / time, high / time))
            net, spread = counts[0] - counts[1], np.sqrt(chi2.ppf(confidence, 1) * max(sum(counts), 1))
            rows.append((layer, "net", start, end, net, net / time, (net - spread) / time, (net + spread) / time))
    return pd.DataFrame(rows, columns="layer event frame_start frame_end count rate low high".split())


def _poisson_interval(count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact (Garwood) interval of a Poisson mean."""
    tail = (1 - confidence) / 2
    low = chi2.ppf(tail, 2 * count) / 2 if count > 0 else 0.0
    return float(low), float(chi2.ppf(1 - tail, 2 * count + 2) / 2)


def front_table(occupancy: dict[int, Occupancy], directions: int = 8, center=None) -> pd.DataFrame:
    """How far the edge of each layer is from its centre, along several directions.

    Parameters
    ----------
    occupancy : dict
        From `site_occupancy`.
    directions : int
        Number of sectors; the first one is centred on x, the next lies towards y.
    center : array_like, shape (2,), optional
        (y, x) in nm in the first frame; by default the middle of the sites that are taken from the start, or of all.

    Returns
    -------
    pandas.DataFrame
        ``frame, layer, direction_deg, radius_nm, y_nm, x_nm, number``: the radius of a sector with the area of the
        particles in it, NaN where that edge is not in view; the front's place in the first frame's coordinates; the
        number of particles in the sector.

    Notes
    -----
    With φ the sector's angle and N its particles, r² = √3 a² N / φ. One particle moves it by √3 a²/(2φr), so that
    single particles do not make the front jump as the outermost one would. Explained in chapter 10, "Growth".
    """
    if directions < 3:
        raise ValueError(f"fronts need at least 3 directions, got {directions}")
    columns = "frame layer direction_deg radius_nm y_nm x_nm number".split()
    tables = [_layer_fronts(one, directions, center) for one in occupancy.values() if len(one.sites)]
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)


def _layer_fronts(one, directions, center) -> pd.DataFrame:
    first = one.sites[one.occupied[0]] if one.occupied[0].sum() >= 3 else one.sites
    center = first.mean(axis=0) if center is None else np.asarray(center, float)
    width = 2 * np.pi / directions
    step = _complex(one.sites - center)
    sector = np.rint(np.angle(step) / width).astype(int) % directions
    sector[np.abs(step) < 0.3 * one.spacing] = -1  # the middle particle is shared by all
    number = np.stack([np.sum(one.occupied & (sector == k), axis=1) for k in range(directions)], axis=1).astype(float)
    number += np.sum(one.occupied & (sector == -1), axis=1)[:, None] / directions
    radius = np.sqrt(np.sqrt(3) * one.spacing**2 * number / width)
    angle = width * np.arange(directions)
    away = np.stack([np.sin(angle), np.cos(angle)], axis=1)
    place = center + radius[:, :, None] * away
    # The front is seen only if there is room for one more row before the border
    beyond = place + one.spacing * away
    seen = np.array([one.in_view(beyond[t], t) for t in range(len(one.frames))])
    radius = np.where(seen, radius, np.nan)
    t, k = np.indices(radius.shape)
    return pd.DataFrame(
        {
            "frame": one.frames[t.ravel()],
            "layer": one.layer,
            "direction_deg": np.degrees(angle)[k.ravel()],
            "radius_nm": radius.ravel(),
            "y_nm": np.where(seen, place[..., 0], np.nan).ravel(),
            "x_nm": np.where(seen, place[..., 1], np.nan).ravel(),
            "number": number.ravel(),
        }
    )


def front_velocity(fronts: pd.DataFrame, frame_time: float = 1.0) -> pd.DataFrame:
    """Mean velocity of the front along every direction.

    Parameters
    ----------
    fronts : pandas.DataFrame
        From `front_table`.
    frame_time : float
        In s; 1 gives velocities per frame.

    Returns
    -------
    pandas.DataFrame
        ``layer, direction_deg, velocity_nm_per_s, velocity_std_nm_per_s, frame_start, frame_end``: from the first to
        the last frame in which the front is in view.

    Notes
    -----
    Arrivals are random, so the front's way is a random walk with drift, of which only the ends tell the velocity: a
    straight line fitted through all frames would claim a smaller error than it has. The error is that of the steps'
    scatter. Explained in chapter 10, "Growth".
    """
    rows = []
    for (layer, direction), table in fronts.dropna(subset=["radius_nm"]).groupby(["layer", "direction_deg"]):
        frame, radius = table["frame"].to_numpy(float), table["radius_nm"].to_numpy(float)
        if len(frame) < 3:
            continue
        time = (frame[-1] - frame[0]) * frame_time
        velocity = (radius[-1] - radius[0]) / time
        left = np.diff(radius) - velocity * frame_time * np.diff(frame)
        spread = np.sqrt(np.sum(left**2) * len(left) / max(len(left) - 1, 1)) / time
        rows.append((layer, direction, velocity, spread, frame[0], frame[-1]))
    columns = "layer direction_deg velocity_nm_per_s velocity_std_nm_per_s frame_start frame_end"
    return pd.DataFrame(rows, columns=columns.split())


# --- Do particles prefer sites? ---


@dataclass(frozen=True)
class SitePreference:
    """Whether attachment depends on registry. Explained in chapter 10, "Growth"."""

    table: pd.DataFrame  # registry, attached, expected, expected_std, ratio, low, high, share_free, share_layer
    statistic: float  # chi-square of attached against expected
    p_value: float  # exact, by drawing as many attachments without preference
    events: int  # attachments that count


def site_preference(
    occupancy: dict[int, Occupancy], layer: int = 2, draws: int = 5000, seed: int = 0, confidence: float = 0.95
) -> SitePreference:
    """Test whether particles attach more often on top, bridge or hollow sites than free edge sites offer.

    Parameters
    ----------
    occupancy : dict
        From `site_occupancy`, of two layers.
    layer : int
        The layer that grows; registry is on the other.
    draws : int
        Drawn attachments for the exact test.
    seed : int
        Of the draws.
    confidence : float
        Of the intervals of the ratio.

    Returns
    -------
    SitePreference
        ``table``: ``registry``; ``attached``, counted; ``expected`` and its standard deviation, without preference;
        their ``ratio`` with an interval (``low, high``); ``share_free``, share of the registry among all free edge
        sites on offer; ``share_layer``, among all sites of the layer. ``p_value``, the chance of so large a chi-square
        without preference; NaN without any attachment that had a choice.

    Raises
    ------
    ValueError
        If one of the layers is missing.

    Notes
    -----
    Each attachment is one choice among the free lattice sites that had as many taken neighbours in the frame before,
    whether or not the movie ever fills them: a conditional (matched) test [1]_. So a preference for well
    coordinated sites, which has nothing to do with the other layer, is not taken for one. Explained in chapter 10,
    "Growth".

    References
    ----------
    .. [1] McFadden, in Frontiers in Econometrics, ed. Zarembka, 105 (1974).
    """
    if layer not in occupancy or 3 - layer not in occupancy:
        raise ValueError(f"a preference needs both layers, got {sorted(occupancy)}")
    one, kinds = occupancy[layer], list(REGISTRY)
    chosen, chance, offered = _choices(one, occupancy, kinds)
    attached, expected = chosen.sum(axis=0), chance.sum(axis=0)
    spread = np.sqrt(np.sum(chance * (1 - chance), axis=0))
    statistic, p_value = _matched_test(chosen, chance, draws, np.random.default_rng(seed))
    with np.errstate(divide="ignore", invalid="ignore"):
        interval = np.array([_poisson_interval(int(n), confidence) for n in attached]) / expected[:, None]
        ratio = attached / expected
    last = len(one.frames) - 1
    everywhere = _registry_of(one, occupancy, np.full(len(one.sites), last), one.sites)["registry"]
    share = np.array([(everywhere == kind).sum() for kind in kinds]) / max((everywhere != "").sum(), 1)
    table = pd.DataFrame({"registry": kinds, "attached": attached.astype(int), "expected": expected})
    table = table.assign(expected_std=spread, ratio=ratio, low=interval[:, 0], high=interval[:, 1])
    table = table.assign(share_free=offered / max(offered.sum(), 1), share_layer=share)
    return SitePreference(table, statistic, p_value, len(chosen))


def _choices(one, occupancy, kinds):
    """Of every attachment: what was chosen (m, 3), its chance without preference (m, 3); all that was on offer (3,)."""
    places, site = _possible_sites(one)
    pairs = cKDTree(places).query_pairs(REACH * one.spacing, output_type="ndarray")
    rows, k = _changes(one)
    came = one.occupied[rows, k]
    rows, k = rows[came], k[came]
    chosen, chance, offered = [], [], np.zeros(len(kinds))
    for row in np.unique(rows):
        there = np.zeros(len(places), bool)
        there[: len(site)] = one.occupied[row - 1]
        touching = np.bincount(pairs[:, 0], there[pairs[:, 1]], len(places))
        touching += np.bincount(pairs[:, 1], there[pairs[:, 0]], len(places))
        free = np.flatnonzero(~there & (touching > 0) & one.in_view(places, row) & one.in_view(places, row - 1))
        on = _registry_of(one, occupancy, np.full(len(free), row), places[free])["registry"].to_numpy(object)
        is_kind = np.stack([on == kind for kind in kinds], axis=1).astype(float)
        offered += is_kind.sum(axis=0)
        for event in k[rows == row]:
            own, like = free == event, (touching[free] == touching[event]) & (on != "")
            if like.sum() > 1 and (own & like).any():
                chosen.append(is_kind[own][0])
                chance.append(is_kind[like].mean(axis=0))
    return np.reshape(chosen, (-1, len(kinds))), np.reshape(chance, (-1, len(kinds))), offered


def _possible_sites(one) -> tuple[np.ndarray, np.ndarray]:
    """The layer's sites and, after them, the empty lattice sites around; and the indices of the former."""
    local = local_lattices(one.sites, one.spacing, 2.15)
    use = local.good
    tree, none = cKDTree(one.sites), np.empty(0, complex)
    around, _, _ = _empty_sites(local.site[use], local.q[use], local.p[use], tree, none, one.spacing)
    return np.concatenate([one.sites, _pairs(around)]), np.arange(len(one.sites))


def _matched_test(chosen, chance, draws, rng) -> tuple[float, float]:
    """Score test of a conditional choice: (observed - expected) in units of its covariance; p by drawing choices."""
    if len(chosen) == 0:
        return np.nan, np.nan
    covariance = np.diag(chance.sum(axis=0)) - chance.T @ chance
    inverse = np.linalg.pinv(covariance, rcond=1e-9)
    if np.abs(covariance).max() < 1e-9:  # no attachment had a choice
        return np.nan, np.nan
    left = np.sum(chosen - chance, axis=0)
    statistic = float(left @ inverse @ left)
    edge = np.cumsum(chance, axis=1)[:, None, :-1]
    pick = (rng.random((len(chance), draws))[:, :, None] > edge).sum(axis=-1)
    counts = np.stack([(pick == kind).sum(axis=0) for kind in range(chance.shape[1])], axis=1) - chance.sum(axis=0)
    drawn = np.einsum("di,ij,dj->d", counts, inverse, counts)
    return statistic, float((1 + np.sum(drawn >= statistic - 1e-9)) / (draws + 1))


# --- Relaxation ---


def relative_motion(occupancy: dict[int, Occupancy]) -> pd.DataFrame:
    """Motion of layer 2 against layer 1 since the first frame.

    Parameters
    ----------
    occupancy : dict
        From `site_occupancy`, of layers 1 and 2.

    Returns
    -------
    pandas.DataFrame
        ``frame, twist_change_deg`` (rotation of layer 2 against layer 1, from x towards y) and ``offset_y_nm,
        offset_x_nm``, how far the middle of layer 2 has slid on layer 1, along the axes of the first frame; one
        standard deviation of each frame, ``twist_std_deg, offset_std_nm`` (huge where nothing was seen).

    Raises
    ------
    ValueError
        If one of the layers is missing.

    Notes
    -----
    The offset of a Moiré lattice is only known up to one of its lattice vectors and depends on where the island's
    middle is; sliding is neither. It is zero where one layer had fewer than twelve particles, since then both are taken
    to move alike. Explained in chapter 10, "Growth".
    """
    if not {1, 2} <= set(occupancy):
        raise ValueError(f"relative motion needs layers 1 and 2, got {sorted(occupancy)}")
    one, two = occupancy[1], occupancy[2]
    middle = _complex(two.sites).mean()
    at = (two.turn * middle + two.shift - one.shift) * np.conj(one.turn)  # as layer 1 sees it
    y, x = _pairs(at - middle).T
    twist = np.degrees(np.unwrap(np.angle(two.turn * np.conj(one.turn))))
    table = pd.DataFrame({"frame": one.frames, "twist_change_deg": twist, "offset_y_nm": y, "offset_x_nm": x})
    twist_std, offset_std = np.sqrt(_motion_variance(one, middle) + _motion_variance(two, middle))
    return table.assign(twist_std_deg=np.degrees(twist_std), offset_std_nm=offset_std)


def _motion_variance(one, middle) -> np.ndarray:
    """Variances of each frame's rotation, in rad², and shift of a point along an axis, in nm², (2, t)."""
    step = _complex(one.sites)
    count = np.maximum(one.seen.sum(axis=1), 1e-9)
    center = one.seen @ step / count
    square = np.sum(one.seen * np.abs(step - center[:, None]) ** 2, axis=1)
    turn = 1 / np.maximum(square, 1e-300)
    shift = 1 / count + 0.5 * np.abs(center - middle) ** 2 * turn
    return one.scatter**2 * np.stack([turn, shift])


@dataclass(frozen=True)
class Relaxation:
    """Exponential approach to a final value, y = final + amplitude exp(-(t - first t)/time).

    Where ``supported`` is False, the data do not show one: ``final`` is the mean, and amplitude and time are NaN.
    Explained in chapter 10, "Growth".
    """

    supported: bool
    final: float
    final_std: float
    amplitude: float
    amplitude_std: float
    time: float
    time_std: float
    evidence: float  # by how much Akaike's criterion prefers the exponential to the better of constant and line

    def at(self, t, start: float = 0.0) -> np.ndarray:
        """The fitted value at times t, in the units of the fit; ``start`` is the first time of the data."""
        t = np.asarray(t, float)
        if not self.supported:
            return np.full(t.shape, self.final)
        return self.final + self.amplitude * np.exp(-(t - start) / self.time)


def fit_relaxation(t, values, std=None, evidence: float = 6.0) -> Relaxation:
    """Fit an exponential relaxation where the data support one.

    Parameters
    ----------
    t, values : array_like, shape (n,)
        Time in any unit, and twist, offset or any other quantity. NaN are left out.
    std : array_like, shape (n,), optional
        Relative weights as standard deviations; equal by default. The errors come from the scatter.
    evidence : float
        By how much the corrected Akaike criterion must prefer the exponential to a constant and to a straight line.

    Returns
    -------
    Relaxation
        Not supported where the evidence is too small, the time constant is longer than the data or not known to
        within half of itself, or there are fewer than 8 values.

    Raises
    ------
    ValueError
        If the arrays differ in length or nothing is finite.

    Notes
    -----
    One standard deviation each; where residuals of successive times are alike, errors are larger by
    sqrt((1 + r)/(1 - r)) for their correlation r. Explained in chapter 10, "Growth".

    References
    ----------
    Hurvich & Tsai, Biometrika 76, 297 (1989).
    """
    t, values = np.asarray(t, float), np.asarray(values, float)
    std = np.ones_like(values) if std is None else np.asarray(std, float)
    if not t.shape == values.shape == std.shape:
        raise ValueError(f"times, values and errors must be as many, got {t.shape}, {values.shape} and {std.shape}")
    good = np.isfinite(t) & np.isfinite(values) & np.isfinite(std) & (std > 0)
    t, y, std = t[good] - np.min(t[good], initial=np.inf), values[good], std[good]
    if len(y) == 0:
        raise ValueError("a relaxation needs finite values")
    mean, mean_std = _mean(y, std)
    none = Relaxation(False, mean, mean_std, np.nan, np.nan, np.nan, np.nan, -np.inf)
    if len(y) < 8 or np.ptp(t) == 0:
        return none
    best = _exponential(t, y, std)
    if best is None:
        return none
    value, error, left = best
    plain = [np.polyval(np.polyfit(t, y, degree, w=1 / std), t) for degree in (0, 1)]
    n = len(y) / _inflation(left) ** 2  # independent values, as the best model leaves them
    criteria = [_akaike((y - line) / std, k, n) for line, k in zip(plain, (2, 3), strict=True)]
    gain = float(min(criteria) - _akaike(left, 4, n))
    supported = gain > evidence and value[2] < np.ptp(t) and error[2] < 0.5 * value[2]
    if not supported:
        return Relaxation(False, mean, mean_std, np.nan, np.nan, np.nan, np.nan, gain)
    pairs = [float(v) for both in zip(value, error, strict=True) for v in both]
    return Relaxation(True, *pairs, gain)


def _exponential(t, y, std):
    """Final value, amplitude and time constant, their errors, and residuals; None if the fit fails."""

    def model(t, final, amplitude, log_time):
        return final + amplitude * np.exp(-t / np.exp(log_time))

    few, fits = max(len(y) // 8, 2), []
    for share in (0.1, 0.3):
        start = (y[-few:].mean(), y[:few].mean() - y[-few:].mean(), np.log(share * np.ptp(t)))
        low, high = np.log(0.2 * np.median(np.diff(np.unique(t)))), np.log(20 * np.ptp(t))
        try:
            bounds = ([-np.inf, -np.inf, low], [np.inf, np.inf, high])
            value, covariance = curve_fit(model, t, y, start, std, bounds=bounds, max_nfev=2000)
        except RuntimeError:
            continue
        left = (y - model(t, *value)) / std
        fits.append((np.sum(left**2), value, covariance, left))
    if not fits:
        return None
    _, value, covariance, left = min(fits, key=lambda fit: fit[0])
    error = np.sqrt(np.diag(covariance)) * _inflation(left)
    time = np.exp(value[2])
    return (value[0], value[1], time), (error[0], error[1], error[2] * time), left


def _akaike(left, parameters, n) -> float:
    """Corrected criterion of residuals with unknown scatter, n of them independent."""
    return float(n * np.log(max(np.mean(left**2), 1e-300)) + 2 * parameters * n / max(n - parameters - 1, 1))


def _inflation(left) -> float:
    """Factor of the errors for residuals correlated from one time to the next."""
    power = np.sum(left**2)
    r = float(np.clip(np.sum(left[1:] * left[:-1]) / power, 0, 0.9)) if power > 0 else 0.0
    return float(np.sqrt((1 + r) / (1 - r)))


def _mean(y, std) -> tuple[float, float]:
    weight = std**-2.0 / np.sum(std**-2.0)
    mean = float(weight @ y)
    spread = np.sqrt(weight @ (y - mean) ** 2 * np.sum(weight**2)) * _inflation((y - mean) / std)
    return mean, float(spread)


def defect_numbers(defects: pd.DataFrame, particles: pd.DataFrame) -> pd.DataFrame:
    """Number of defects of every kind, layer and frame.

    Parameters
    ----------
    defects : pandas.DataFrame
        ``frame, layer, kind`` from `moirelib.defects.defect_table`.
    particles : pandas.DataFrame
        ``frame, layer`` of the particles they were found among, which names frames without any defect.

    Returns
    -------
    pandas.DataFrame
        ``frame, layer, kind, number, particles, per_particle``.

    Notes
    -----
    Explained in chapter 10, "Growth".
    """
    size = particles.groupby(["frame", "layer"]).size().rename("particles").reset_index()
    kinds = pd.DataFrame({"kind": ["vacancy", "interstitial", "dislocation", "disclination"]})
    count = defects.groupby(["frame", "layer", "kind"]).size().rename("number").reset_index()
    if len(count) == 0:
        count = pd.DataFrame({"frame": [0], "layer": [0], "kind": [""], "number": [0]}).iloc[:0]
    table = size.merge(kinds, how="cross").merge(count, how="left", on=["frame", "layer", "kind"])
    table["number"] = table["number"].fillna(0).astype(int)
    table["per_particle"] = table["number"] / table["particles"]
    return table[["frame", "layer", "kind", "number", "particles", "per_particle"]]


# --- Against a truth ---


def score_events(
    found: pd.DataFrame, truth: pd.DataFrame, reach_nm: float, frames: int = 2, counts=None
) -> dict[str, float]:
    """Recall and precision of events against a simulation's truth.

    Parameters
    ----------
    found, truth : pandas.DataFrame
        ``frame, layer, event, y_nm, x_nm``, positions in the first frame. The truth's attach and detach are
        understood.
    reach_nm : float
        Farthest distance of a pair, in nm; half a spacing.
    frames : int
        Farthest distance in time.
    counts : array_like of bool, optional
        Which true events count for the recall, those in view. All may be found without harm to the precision.

    Returns
    -------
    dict
        ``recall, precision, true, found, matched, rmse_frames``.

    Notes
    -----
    Pairs are one to one, of one layer and kind. Explained in chapter 10, "Growth".
    """
    names = {"attach": "attachment", "detach": "detachment"}
    kind = truth["event"].replace(names).to_numpy(str)
    counts = np.ones(len(truth), bool) if counts is None else np.asarray(counts, bool)
    if len(found) == 0 or len(truth) == 0:
        numbers = {"recall": 0.0 if counts.any() else 1.0, "precision": 0.0 if len(found) else 1.0}
        return numbers | {"true": int(counts.sum()), "found": len(found), "matched": 0, "rmse_frames": np.nan}
    same = found["event"].to_numpy(str)[:, None] == kind
    same &= found["layer"].to_numpy()[:, None] == truth["layer"].to_numpy()
    late = found["frame"].to_numpy(int)[:, None] - truth["frame"].to_numpy(int)
    step = found[["y_nm", "x_nm"]].to_numpy(float)[:, None] - truth[["y_nm", "x_nm"]].to_numpy(float)
    distance = np.hypot(*np.moveaxis(step, -1, 0))
    allowed = same & (np.abs(late) <= frames) & (distance <= reach_nm)
    cost = distance / reach_nm + np.abs(late) / (frames + 1)
    i, j = linear_sum_assignment(np.where(allowed, cost, 3.0 * sum(allowed.shape)))
    i, j = i[allowed[i, j]], j[allowed[i, j]]
    hit = np.isin(np.arange(len(truth)), j)
    return {
        "recall": float(hit[counts].mean()) if counts.any() else 1.0,
        "precision": len(i) / len(found),
        "true": int(counts.sum()),
        "found": len(found),
        "matched": len(i),
        "rmse_frames": float(np.sqrt(np.mean(late[i, j] ** 2.0))) if len(i) else np.nan,
    }
