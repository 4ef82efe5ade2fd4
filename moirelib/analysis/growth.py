"""Growth: when particles attach and detach, how layers and fronts grow, which sites are preferred (chapter 10)."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree
from scipy.stats import chi2

from ..crystal.mesh import THREE_SHELLS
from ..crystal.neighbours import adjacency, spans_plane, to_complex, to_points
from ..tables import require_columns
from .defects import find_empty_sites
from .lattices import local_lattices
from .moire import FEWEST_ON_LAYER, REGISTRY, find_facing_layer, registry
from .occupancy import Occupancy, site_occupancy

COUNT_CONFIDENCE = 0.95  # of the intervals of counts
EVENT_COLUMNS = "frame layer event particle y_nm x_nm coordination registry coordinate y_frame_nm x_frame_nm".split()
DRAWS = 5000  # of the exact test: p-values of 0.05 come out within 0.003
MIDDLE = 0.3  # spacings from the centre (by hand); a particle there is shared by all sectors
FEWEST_FOR_CENTER = 3  # sites taken from the start, whose middle is the centre
FEWEST_FOR_VELOCITY = 3  # frames: two always lie on a line


def growth_events(particles: pd.DataFrame | dict, field_nm: ArrayLike | None = None) -> pd.DataFrame:
    """Attachments and detachments of particles, with coordination and registry at the time.

    Takes particles and field as `site_occupancy` does, or what it returned. A hop to a free site is a detachment there
    and an attachment here. What drift carries in or out of view makes no event.

    The table has ``frame``, the first with, or without, the particle; ``layer``; ``event``, attachment or detachment;
    ``particle``, the track seen there longest (-1 for none); ``y_nm, x_nm``, the site in the first frame;
    ``coordination``, taken neighbours; ``registry, coordinate`` as in `registry`; ``y_frame_nm, x_frame_nm``, in that
    frame.
    """
    occupancy = particles if isinstance(particles, dict) else site_occupancy(particles, field_nm)
    tables = [pd.DataFrame(columns=EVENT_COLUMNS)]
    for one in occupancy.values():
        t, k = _find_changes(one)
        came = one.occupied[t, k]
        coordination = adjacency(one.sites, one.spacing) @ one.occupied.T.astype(int)  # (n, t)
        kind = np.where(came, "attachment", "detachment")
        table = pd.DataFrame({"frame": one.frames[t], "layer": one.layer, "event": kind, "particle": -1})
        for event, (row, site) in enumerate(zip(t, k, strict=True)):
            edges = np.flatnonzero(np.diff(one.occupied[:, site], prepend=2, append=2))
            run = np.searchsorted(edges, row) - (not came[event])
            tracks, count = np.unique(one.particles[edges[run] : edges[run + 1], site], return_counts=True)
            if tracks[-1] >= 0:
                table.loc[event, "particle"] = tracks[np.where(tracks >= 0, count, 0).argmax()]
        table[["y_nm", "x_nm"]] = one.sites[k]
        table["coordination"] = coordination[k, t - ~came].astype(int)
        table["registry"], table["coordinate"] = _find_registry(one, occupancy, t, one.sites[k])
        table[["y_frame_nm", "x_frame_nm"]] = one.in_frame(one.sites[k], t)
        tables.append(table)
    table = pd.concat([t for t in tables if len(t)] or tables[:1], ignore_index=True)
    return table.sort_values(["frame", "layer"], kind="stable", ignore_index=True)


def _find_changes(one: Occupancy) -> tuple[np.ndarray, np.ndarray]:
    """Rows and sites at which something changes from one frame to the next, both in view."""
    t, k = np.nonzero((one.occupied[1:] != one.occupied[:-1]) & one.visible[1:] & one.visible[:-1])
    return t + 1, k


def _find_registry(one, occupancy, rows, points) -> tuple[np.ndarray, np.ndarray]:
    """Registry and coordinate on the other layer of points (n, 2) of the first frame, each at its own row's time."""
    name, coordinate = np.full(len(points), "", object), np.full(len(points), np.nan)
    facing = find_facing_layer(one.layer, occupancy)
    if facing is None:
        return name, coordinate
    other = occupancy[facing]
    for row in np.unique(rows):
        some, there = np.flatnonzero(rows == row), other.occupied[row]
        if there.sum() >= FEWEST_ON_LAYER:
            base = other.in_frame(other.sites[there], row)
            on = registry(one.in_frame(points[some], row), base, other.spacing, other.grain[there])
            name[some], coordinate[some] = on["registry"], on["coordinate"]
    return name, coordinate


def size_table(occupancy: dict[int, Occupancy]) -> pd.DataFrame:
    """Size of every layer in every frame, with its balance: number = first number + attached - detached + carried.

    The table has ``frame, layer``; ``number`` of taken sites in view; ``area_nm2``, number times the lattice cell √3/2
    a²; ``radius_nm`` of a disk of that area; ``attached, detached``, events so far; ``carried``, net number that drift
    carried into view; ``free_edge_sites``, free places in view with a taken neighbour.
    """
    columns = "frame layer number area_nm2 radius_nm attached detached carried free_edge_sites".split()
    tables = [pd.DataFrame(columns=columns)]
    for layer, one in occupancy.items():
        number = np.sum(one.occupied & one.visible, axis=1)
        area = number * np.sqrt(0.75) * one.spacing**2
        table = pd.DataFrame({"frame": one.frames, "layer": layer, "number": number, "area_nm2": area})
        table["radius_nm"] = np.sqrt(area / np.pi)
        t, k = _find_changes(one)
        for name, kind in (("attached", True), ("detached", False)):
            table[name] = np.bincount(t[one.occupied[t, k] == kind], minlength=len(number)).cumsum()
        table["carried"] = number - number[0] - table["attached"] + table["detached"]
        table["free_edge_sites"] = 0
        if spans_plane(one.sites):
            table["free_edge_sites"] = _find_free_places(one)[2].sum(axis=1)
        tables.append(table)
    return pd.concat(tables[1:] or tables, ignore_index=True)


def _find_free_places(one) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sites and, after them, lattice sites around (n, 2); taken neighbours, and which are free beside some (t, n)."""
    local = local_lattices(one.sites, one.spacing, THREE_SHELLS)
    around = np.stack([local.site, local.q, local.p])[:, local.good]
    empty = find_empty_sites(around, cKDTree(one.sites), np.empty(0), one.spacing)[0]
    places = np.concatenate([one.sites, to_points(empty)])
    there = np.zeros((len(one.frames), len(places)), bool)
    there[:, : len(one.sites)] = one.occupied
    touching = (adjacency(places, one.spacing) @ there.T.astype(float)).T
    view = np.stack([one.in_view(places, row) for row in range(len(there))])
    return places, touching, ~there & view & (touching > 0)


def growth_rate(
    events: pd.DataFrame,
    frames: ArrayLike,
    frame_time: float = 1.0,
    windows: int = 1,
    layers: Iterable[int] | None = None,
) -> pd.DataFrame:
    """Attachments and detachments per time, with exact Poisson intervals (Garwood, Biometrika 28, 437 (1936)).

    The table has ``layer, event, frame_start, frame_end, count, rate, low, high``; rates in 1/s, with 95 % intervals.
    Rows with event net have the difference, with a normal interval from the sum of the two counts.

    Takes `growth_events`; all frame numbers; the layers, by default those with an event (others have an upper bound);
    the time of a frame in s, 1 for rates per frame; and the number of equal windows.
    """
    require_columns(events, ["frame", "layer", "event"], "the table of events")
    frames = np.unique(np.asarray(frames))
    if len(frames) < 2 or not 1 <= windows <= len(frames) - 1:
        raise ValueError(f"rates need at least two frames and a frame per window, got {len(frames)} and {windows}")
    edges = np.linspace(frames[0], frames[-1], windows + 1)
    rows = []
    for layer in np.unique(events["layer"]) if layers is None else layers:
        for start, end in zip(edges[:-1], edges[1:], strict=True):
            here = events[(events["layer"] == layer) & (events["frame"] > start) & (events["frame"] <= end)]
            came, left = (int((here["event"] == kind).sum()) for kind in ("attachment", "detachment"))
            spread = np.sqrt(chi2.ppf(COUNT_CONFIDENCE, 1) * max(came + left, 1))
            intervals = {"attachment": (came, *poisson_interval(came)), "detachment": (left, *poisson_interval(left))}
            intervals["net"] = came - left, came - left - spread, came - left + spread
            for kind, interval in intervals.items():
                rates = (number / ((end - start) * frame_time) for number in interval)
                rows.append((layer, kind, start, end, interval[0], *rates))
    return pd.DataFrame(rows, columns="layer event frame_start frame_end count rate low high".split())


def poisson_interval(count: int) -> tuple[float, float]:
    """Exact (Garwood) interval of a Poisson mean."""
    tail = (1 - COUNT_CONFIDENCE) / 2
    low = chi2.ppf(tail, 2 * count) / 2 if count > 0 else 0.0
    return float(low), float(chi2.ppf(1 - tail, 2 * count + 2) / 2)


def front_table(occupancy: dict[int, Occupancy], directions: int = 8, center: ArrayLike | None = None) -> pd.DataFrame:
    """How far the edge of each layer is from its centre, along several directions.

    The radius is that of a sector with the area of its particles: r² = √3 a² N / φ, for N of them and its angle φ. The
    table has ``frame, layer, direction_deg``, from x towards y; ``radius_nm, y_nm, x_nm``, the front's place in the
    first frame's coordinates, NaN where that edge is not in view; ``number`` of particles in the sector. The centre (y,
    x), in nm in the first frame, is by default the middle of the sites that are taken from the start, or of all.
    """
    if directions < 3:
        raise ValueError(f"fronts need at least 3 directions, got {directions}")
    if center is not None and np.shape(center) != (2,):
        raise ValueError(f"center is (y, x) in nm, got {center}")
    tables = [pd.DataFrame(columns="frame layer direction_deg radius_nm y_nm x_nm number".split())]
    width = 2 * np.pi / directions
    angle = width * np.arange(directions)
    away = np.stack([np.sin(angle), np.cos(angle)], axis=1)
    for one in (one for one in occupancy.values() if len(one.sites)):
        first = one.sites[one.occupied[0]] if one.occupied[0].sum() >= FEWEST_FOR_CENTER else one.sites
        start = first.mean(axis=0) if center is None else np.asarray(center, float)
        step = to_complex(one.sites - start)
        sector = np.rint(np.angle(step) / width).astype(int) % directions
        middle = np.abs(step)[:, None] < MIDDLE * one.spacing
        number = one.occupied @ np.where(middle, 1 / directions, sector[:, None] == np.arange(directions))
        radius = np.sqrt(np.sqrt(3) * one.spacing**2 * number / width)
        place = start + radius[:, :, None] * away
        # The front is seen only if there is room for one more row before the border
        seen = np.array([one.in_view(ends, t) for t, ends in enumerate(place + one.spacing * away)]).ravel()
        table = pd.DataFrame({"frame": np.repeat(one.frames, directions), "layer": one.layer})
        table["direction_deg"] = np.tile(np.degrees(angle), len(one.frames))
        table["radius_nm"], (table["y_nm"], table["x_nm"]) = radius.ravel(), place.reshape(-1, 2).T
        table.loc[~seen, ["radius_nm", "y_nm", "x_nm"]] = np.nan
        tables.append(table.assign(number=number.ravel()))
    return pd.concat(tables[1:] or tables, ignore_index=True)


def front_velocity(fronts: pd.DataFrame, frame_time: float = 1.0) -> pd.DataFrame:
    """Mean velocity of the front along every direction, from `front_table` and the time of a frame in s (1: per frame).

    The ends of the front's way tell the velocity, the steps' scatter its error. The table has ``layer, direction_deg,
    velocity_nm_per_s, velocity_std_nm_per_s, frame_start, frame_end``: first and last of its three or more frames in
    view.
    """
    require_columns(fronts, ["frame", "layer", "direction_deg", "radius_nm"], "the table of fronts")
    rows = []
    seen = fronts.dropna(subset=["radius_nm"]).sort_values("frame", kind="stable")
    for direction, table in seen.groupby(["layer", "direction_deg"]):
        frame, radius = table[["frame", "radius_nm"]].to_numpy(float).T
        if len(frame) < FEWEST_FOR_VELOCITY:
            continue
        time = (frame[-1] - frame[0]) * frame_time
        velocity = (radius[-1] - radius[0]) / time
        left = np.diff(radius) - velocity * frame_time * np.diff(frame)
        spread = np.sqrt(np.sum(left**2) * len(left) / (len(left) - 1)) / time
        rows.append((*direction, velocity, spread, frame[0], frame[-1]))
    columns = "layer direction_deg velocity_nm_per_s velocity_std_nm_per_s frame_start frame_end"
    return pd.DataFrame(rows, columns=columns.split())


def defect_numbers(defects: pd.DataFrame, particles: pd.DataFrame) -> pd.DataFrame:
    """Number of defects of every kind, layer and frame: ``frame, layer, kind, number, particles, per_particle``.

    Takes a `defect_table` and the particles they were found among, which name frames without any defect.
    """
    key = ["frame", "layer", "kind"]
    require_columns(defects, key, "the table of defects")
    require_columns(particles, key[:2], "the particle table")
    kinds = pd.DataFrame({"kind": ["vacancy", "interstitial", "dislocation", "disclination"]})
    size = particles.groupby(key[:2]).size().rename("particles").reset_index().merge(kinds, how="cross")
    number = defects.groupby(key).size().reindex(pd.MultiIndex.from_frame(size[key]), fill_value=0).to_numpy(int)
    return size[key].assign(number=number, particles=size["particles"], per_particle=number / size["particles"])


@dataclass(frozen=True)
class SitePreference:
    """Whether attachment depends on registry."""

    table: pd.DataFrame  # registry, attached, expected, expected_std, ratio, low, high, share_free, share_layer
    statistic: float  # chi-square of attached against expected
    p_value: float  # exact, by drawing as many attachments without preference; NaN where none had a choice
    events: int  # attachments that count


def site_preference(occupancy: dict[int, Occupancy]) -> SitePreference:
    """Test whether particles of layer 2 attach more often on top, bridge or hollow sites than free edge sites offer.

    Each attachment is one choice among the free lattice sites, also those never filled, that had as many taken
    neighbours in the frame before: a conditional test (McFadden, in Frontiers in Econometrics, ed. Zarembka, 105
    (1974)), which takes no preference for well coordinated sites for one.

    ``table`` of the result has ``registry`` on layer 1; ``attached``, counted; ``expected, expected_std``, without
    preference; their ``ratio`` with a 95 % interval (``low, high``); ``share_free``, share of the registry among all
    free edge sites on offer; ``share_layer``, among all sites of the layer.
    """
    if not {1, 2} <= set(occupancy):
        raise ValueError(f"a preference needs both layers, got {sorted(occupancy)}; pass the occupancy of two")
    one, kinds = occupancy[2], list(REGISTRY)
    chosen, chance, offered = _list_choices(one, occupancy, kinds)
    attached, expected = chosen.sum(axis=0), chance.sum(axis=0)
    statistic, p_value = _test_choices(chosen, chance, DRAWS, np.random.default_rng(0))
    everywhere, _ = _find_registry(one, occupancy, np.full(len(one.sites), len(one.frames) - 1), one.sites)
    share = np.array([(everywhere == kind).sum() for kind in kinds]) / max((everywhere != "").sum(), 1)
    table = pd.DataFrame({"registry": kinds, "attached": attached.astype(int), "expected": expected})
    table["expected_std"] = np.sqrt(np.sum(chance * (1 - chance), axis=0))
    with np.errstate(divide="ignore", invalid="ignore"):
        table["ratio"] = attached / expected
        table["low"], table["high"] = np.array([poisson_interval(int(n)) for n in attached]).T / expected
    table = table.assign(share_free=offered / max(offered.sum(), 1), share_layer=share)
    return SitePreference(table, statistic, p_value, len(chosen))


def _list_choices(one, occupancy, kinds):
    """Of every attachment: what was chosen (m, 3), its chance without preference (m, 3); all that was on offer (3,)."""
    places, taken, free_places = _find_free_places(one)
    rows, k = _find_changes(one)
    came = one.occupied[rows, k]
    rows, k = rows[came], k[came]
    chosen, chance, offered = [], [], np.zeros(len(kinds))
    for row in np.unique(rows):
        free = np.flatnonzero(free_places[row - 1] & one.in_view(places, row))
        touching = taken[row - 1, free]
        on, _ = _find_registry(one, occupancy, np.full(len(free), row), places[free])
        is_kind = np.stack([on == kind for kind in kinds], axis=1).astype(float)
        offered += is_kind.sum(axis=0)
        for event in k[rows == row]:
            own, like = free == event, (touching == taken[row - 1, event]) & (on != "")
            if like.sum() > 1 and (own & like).any():
                chosen.append(is_kind[own][0])
                chance.append(is_kind[like].mean(axis=0))
    return np.reshape(chosen, (-1, len(kinds))), np.reshape(chance, (-1, len(kinds))), offered


def _test_choices(chosen, chance, draws, rng) -> tuple[float, float]:
    """Score test of a conditional choice: (observed - expected) in units of its covariance; p by drawing choices."""
    covariance = np.diag(chance.sum(axis=0)) - chance.T @ chance
    if np.abs(covariance).max() < 1e-9:  # no attachment had a choice
        return np.nan, np.nan
    inverse, left = np.linalg.pinv(covariance, rcond=1e-9), np.sum(chosen - chance, axis=0)
    statistic = float(left @ inverse @ left)
    edge = np.cumsum(chance, axis=1)[:, None, :-1]
    pick = (rng.random((len(chance), draws))[:, :, None] > edge).sum(axis=-1)
    counts = np.stack([(pick == kind).sum(axis=0) for kind in range(chance.shape[1])], axis=1) - chance.sum(axis=0)
    drawn = np.einsum("di,ij,dj->d", counts, inverse, counts)
    return statistic, float((1 + np.sum(drawn >= statistic - 1e-9)) / (draws + 1))
