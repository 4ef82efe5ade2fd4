"""Growth compared with truth: events of simulated movies, static movies, fronts, site preference, relaxation.

    python benchmarks/growth.py            # a few minutes
    python benchmarks/growth.py --quick    # under 20 seconds

The last line of the output is one JSON object of named numbers. Particle tables are the truth with the
errors of a microscope and a decomposition: vibration, localization error, drift, rotation, missed particles (single
and in runs), false finds at random and at the other layer's particles, broken tracks. The seeds are used only here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from measuring import run

from moirelib.analysis import (
    fit_relaxation,
    front_table,
    front_velocity,
    growth_events,
    registry,
    relative_motion,
    site_occupancy,
    site_preference,
    size_table,
)
from moirelib.crystal import hexagonal_lattice
from moirelib.simulation import LatticeConfig, Layer, growth_schedule, scene_with_margin
from moirelib.tracking import link_particles
from moirelib.validation import score_events

SEED = 41000
FIELD = (560.0, 560.0)  # nm
SPACING = 36.0  # nm


@dataclass(frozen=True)
class Seeing:
    """Errors of microscope and decomposition."""

    error: float = 0.02  # spacings, one-sigma, of localization and vibration together, per component
    miss: float = 0.02  # probability of missing a particle seen before
    miss_again: float = 0.25  # probability of missing it again in the next frame
    false: float = (
        0.01  # false finds per particle and frame: half of them at random, half at the other layer's particles
    )
    false_again: float = 0.25  # probability of the same false find in the next frame
    breaks: float = 0.005  # probability per frame that a track breaks and gets another number
    drift: tuple[float, float] = (0.25, -0.15)  # nm per frame
    walk: float = 0.5  # nm, one-sigma step of a random walk
    rotation: float = 0.01  # degrees per frame


def growing_scene(rng, frames, growth, detachment):
    """Layers, presence of each particle (frames, n), and true events in the coordinates of the first frame."""
    config = LatticeConfig(
        shapes=("sphere",), diameter_ratio=(0.7, 0.8), twist_angle=(2.0, 15.0), island=1.0, edge=0.5, single_layer=0.0,
        boundary=0.2, position_std=(0.005, 0.03), strain=(0.0, 0.01), vacancies=(0.0, 0.05), interstitials=(0.0, 0.0),
    )  # fmt: skip
    scene = scene_with_margin(config, FIELD, rng, 70.0, SPACING)
    presence, truth = [], []
    for number, (layer, (start, end)) in enumerate(zip(scene.layers, growth, strict=True), start=1):
        there, events = growth_schedule(layer, frames, rng, start, end, detachment)
        presence.append(there)
        truth.append(events.assign(layer=number))
    return scene.layers, presence, pd.concat(truth, ignore_index=True)


def motion(frames, seeing, rng):
    """Drift (t, 2) in nm and rotation (t,) in radians about the field's centre."""
    step = np.asarray(seeing.drift) + seeing.walk * rng.standard_normal((frames, 2))
    step[0] = 0
    return np.cumsum(step, axis=0), np.radians(seeing.rotation) * np.arange(frames)


def moved(points, drift, angle):
    """Points (n, 2) of the first frame, moved to another frame."""
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    middle = np.asarray(FIELD) / 2
    return (points - middle) @ turn.T + middle + drift


def runs(there, start, again, rng):
    """Random runs (t, n): one probability to begin, another to continue."""
    happens = np.zeros(there.shape, bool)
    for t in range(len(there)):
        before = happens[t - 1] if t else np.zeros(there.shape[1], bool)
        happens[t] = there[t] & (rng.random(there.shape[1]) < np.where(before, again, start))
    return happens


def particle_table(layers, presence, seeing, rng, relative=None):
    """Tracks as a decomposition would find them, and the simulated motion (drift, rotation).

    ``relative`` adds to layer 2's rotation (t,) in radians, for a twist that relaxes.
    """
    frames = len(presence[0])
    drift, angle = motion(frames, seeing, rng)
    parts, number = [], 0
    for k, (layer, there) in enumerate(zip(layers, presence, strict=True), start=1):
        own = angle + (relative if relative is not None and k == 2 else 0)
        seen = there & ~runs(there, seeing.miss, seeing.miss_again, rng)
        part = number + np.cumsum(rng.random(there.shape) < seeing.breaks, axis=0) * there.shape[1]
        part = part + np.arange(there.shape[1])
        number = part.max(initial=number) + 1
        other = layers[2 - k].positions
        n = max(
            round(0.005 * seeing.false / 0.01 * 2 * frames * there.sum(axis=1).mean() * (1 - seeing.false_again)), 0
        )
        # Each false find has its own position; half of them lie on particles of the other layer.
        places = rng.uniform(-20, np.asarray(FIELD) + 20, (n, 2))
        if len(other):
            places[: n // 2] = other[rng.integers(len(other), size=n // 2)]
        begin, length = rng.integers(frames, size=n), rng.geometric(1 - seeing.false_again, n)
        for t in range(frames):
            now = (begin <= t) & (t < begin + length)
            points = np.concatenate([layer.positions[seen[t]], places[now]])
            points = moved(points, drift[t], own[t]) + seeing.error * SPACING * rng.standard_normal(points.shape)
            names = np.concatenate([part[t][seen[t]], np.full(now.sum(), -1)])
            table = pd.DataFrame(
                {"frame": t, "particle": names, "layer": k, "y_nm": points[:, 0], "x_nm": points[:, 1]}
            )
            parts.append(table[((points > 0) & (points < FIELD)).all(axis=1)])
    return pd.concat(parts, ignore_index=True), drift, angle


def in_view(truth, drift, angle, border):
    """Mask of true events in view and away from the border."""
    t = truth["frame"].to_numpy(int)
    where = [moved(p[None], drift[k], angle[k])[0] for p, k in zip(truth[["y_nm", "x_nm"]].to_numpy(), t, strict=True)]
    where = np.reshape(where, (-1, 2))
    return ((where > border) & (where < np.subtract(FIELD, border))).all(axis=1)


def lasting(truth, frames, least: int = 3) -> np.ndarray:
    """Mask of true events between states of a site that each last at least so many frames."""
    ordered = truth.sort_values(["layer", "particle", "frame"], kind="stable")
    site = ordered.groupby(["layer", "particle"])["frame"]
    before, after = ordered["frame"] - site.shift(1).fillna(0), site.shift(-1).fillna(frames) - ordered["frame"]
    return ((before >= least) & (after >= least)).reindex(truth.index).to_numpy()


def events(count, frames, rng, seeing, detachment, name, road=None) -> dict:
    """Recall and precision of events in growth movies; tracks may be linked again by another method."""
    scores, long, balance = [], [], 0
    for _ in range(count):
        base = (1.0, 1.0) if rng.random() < 0.5 else (0.8, 0.95)
        growth = (base, (rng.uniform(0.1, 0.5), rng.uniform(0.8, 1.0)))
        layers, presence, truth = growing_scene(rng, frames, growth, detachment)
        table, drift, angle = particle_table(layers, presence, seeing, rng)
        occupancy = site_occupancy(table if road is None else road(table), FIELD)
        found = growth_events(occupancy)
        counts = in_view(truth, drift, angle, 0.62 * SPACING)
        scores.append(score_events(found, truth, SPACING / 2, 2, counts))
        long.append(score_events(found, truth, SPACING / 2, 2, counts & lasting(truth, frames)))
        for _, size in size_table(occupancy).groupby("layer"):
            left = size["number"] - size["number"].iloc[0] - size["attached"] + size["detached"] - size["carried"]
            balance = max(balance, int(np.abs(left).max()))
    numbers = pooled(scores) | {"recall_lasting": pooled(long)["recall"], "balance_error": balance}
    return {f"{name}_{key}": value for key, value in numbers.items()}


def pooled(scores) -> dict:
    """Recall and precision over all movies."""
    true, found, matched = (sum(s[k] for s in scores) for k in ("true", "found", "matched"))
    hits = sum(s["recall"] * s["true"] for s in scores)
    square = sum(s["rmse_frames"] ** 2 * s["matched"] for s in scores if s["matched"])
    numbers = {"recall": hits / max(true, 1), "precision": matched / max(found, 1), "n": true}
    return numbers | {"rmse_frames": np.sqrt(square / max(matched, 1))}


def linked(table) -> pd.DataFrame:
    """Particles linked by trackpy, without the true track numbers; 1 px is 1 nm."""
    return link_particles(table.assign(y=table["y_nm"], x=table["x_nm"]), 0.4 * SPACING, 2)


def static(count, frames, rng, seeing) -> dict:
    """Number of events per movie in which nothing attaches or detaches."""
    number = 0
    for _ in range(count):
        layers, presence, _ = growing_scene(rng, frames, ((1.0, 1.0), (1.0, 1.0)), 0.0)
        table = particle_table(layers, presence, seeing, rng)[0]
        number += len(growth_events(table, FIELD))
    return {"static_events_per_movie": number / count}


def pair(rng, radius, twist):
    """A complete base and a round second layer, both perfect."""
    middle = np.asarray(FIELD) / 2
    layers = []
    for angle, size in ((0.0, 420.0), (twist, radius)):
        points = hexagonal_lattice(SPACING, angle, middle + rng.uniform(-0.5, 0.5, 2) * SPACING, size)
        layers.append(Layer(points, np.full(len(points), 0.75 * SPACING), SPACING, angle))
    return layers


def fronts(count, frames, rng, seeing) -> dict:
    """Velocity of the front of a disk whose radius grows at a constant rate."""
    errors, claims = [], []
    for _ in range(count):
        layers = pair(rng, 235.0, rng.uniform(3, 12))
        velocity, start = rng.uniform(0.6, 1.6) * 60 / frames, 110.0
        distance = np.hypot(*(layers[1].positions - np.asarray(FIELD) / 2).T)
        presence = [np.ones((frames, len(layers[0])), bool), distance < start + velocity * np.arange(frames)[:, None]]
        table = particle_table(layers, presence, replace(seeing, drift=(0, 0), walk=0.2), rng)[0]
        front = front_table(site_occupancy(table, FIELD), 6, np.asarray(FIELD) / 2)
        found = front_velocity(front[front["layer"] == 2])
        errors += list((found["velocity_nm_per_s"] - velocity) / velocity)
        claims += list(found["velocity_std_nm_per_s"] / velocity)
    return {
        "front_velocity_bias": np.mean(errors),
        "front_velocity_rmse": np.sqrt(np.mean(np.square(errors))),
        "front_velocity_z": np.sqrt(np.mean(np.square(np.divide(errors, claims)))),
        "front_n": len(errors),
    }


def preference(count, frames, rng, seeing, strength: float = 4.0) -> dict:
    """Share of preferences found at the 5 % level, with one simulated (power) and with none (false alarms)."""
    found: dict = {1.0: [], strength: []}
    ratios = []
    for factor, p_values in found.items():
        for _ in range(count):
            layers = pair(rng, 210.0, rng.uniform(4, 10))
            place = registry(layers[1].positions, layers[0].positions)["registry"]
            weight = np.where(place == "hollow", factor, 1.0)
            there, _ = growth_schedule(layers[1], frames, rng, 0.15, 0.8, 0.0, weight)
            table = particle_table(layers, [np.ones((frames, len(layers[0])), bool), there], seeing, rng)[0]
            test = site_preference(site_occupancy(table, FIELD))
            p_values.append(test.p_value)
            if factor > 1:
                ratios.append(test.table.set_index("registry")["ratio"]["hollow"])
    names = ("preference_false_alarms", "preference_power")
    shares = {name: np.mean(np.array(p) < 0.05) for name, p in zip(names, found.values(), strict=True)}
    return shares | {"preference_hollow_ratio": np.mean(ratios), "preference_n": count}


def relaxation(count, frames, rng, seeing) -> dict:
    """Time constant and amplitude of a twist that relaxes while the island grows, and false alarms without one."""
    errors, claims, right, wrong = [], [], 0, 0
    for _ in range(count):
        for amplitude in (rng.uniform(1.0, 2.0), 0.0):
            layers = pair(rng, 200.0, rng.uniform(4, 10))
            there, _ = growth_schedule(layers[1], frames, rng, 0.3, 0.8)
            time_constant = rng.uniform(0.12, 0.25) * frames
            turn = np.radians(amplitude) * (np.exp(-np.arange(frames) / time_constant) - 1)
            table = particle_table(layers, [np.ones((frames, len(layers[0])), bool), there], seeing, rng, turn)[0]
            twist = relative_motion(site_occupancy(table, FIELD))
            fit = fit_relaxation(twist["frame"], twist["twist_change_deg"], twist["twist_std_deg"])
            if amplitude == 0:
                wrong += fit.supported
            elif fit.supported:
                right += 1
                errors.append((fit.time - time_constant, fit.amplitude - amplitude))
                claims.append((fit.time_std, fit.amplitude_std))
    errors, claims = np.reshape(errors, (-1, 2)), np.reshape(claims, (-1, 2))
    rms = np.sqrt(np.mean((errors / claims) ** 2, axis=0))
    return {
        "relaxation_found": right / count,
        "relaxation_false_alarms": wrong / count,
        "relaxation_time_rmse_frames": np.sqrt(np.mean(errors[:, 0] ** 2)),
        "relaxation_amplitude_rmse_deg": np.sqrt(np.mean(errors[:, 1] ** 2)),
        "relaxation_time_z": rms[0],
        "relaxation_amplitude_z": rms[1],
    }


def measure(quick: bool) -> dict:
    """All numbers by name."""
    rngs = [np.random.default_rng((SEED, k)) for k in range(7)]
    seeing, frames = Seeing(), 100 if quick else 120
    one, some, many = (1, 1, 2) if quick else (6, 12, 40)
    numbers = events(some, frames, rngs[0], seeing, 0.0, "growth")
    numbers |= events(one, frames, rngs[1], seeing, 0.003, "exchange")
    numbers |= events(one, frames, rngs[2], seeing, 0.0, "linked", linked)
    numbers |= static(one, frames, rngs[3], seeing)
    numbers |= fronts(one, frames, rngs[4], seeing)
    numbers |= preference(many, 40, rngs[5], seeing)
    numbers |= relaxation(some if quick else 10, frames, rngs[6], seeing)
    return {name: float(value) for name, value in numbers.items()}


if __name__ == "__main__":
    run(__doc__, growth=measure)
