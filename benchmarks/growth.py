"""Growth against truth: events of simulated movies, static movies, fronts, site preference, relaxation.

    python benchmarks/growth.py            # a few minutes
    python benchmarks/growth.py --quick    # under 20 seconds

The last line of the output is one JSON object of named numbers. Particle tables are made from the truth by what a
microscope and a decomposition do to it: vibration, localization error, drift, rotation, missed particles (single and in
runs), false finds at random and at the other layer's particles, broken tracks. The seeds are used for nothing else.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from moirelib.growth import (
    fit_relaxation,
    front_table,
    front_velocity,
    growth_events,
    relative_motion,
    score_events,
    site_occupancy,
    site_preference,
    size_table,
)
from moirelib.lattice import Layer, hexagonal_lattice
from moirelib.order import registry
from moirelib.scenes import LatticeConfig, growth_schedule
from moirelib.simulation import scene_with_margin

SEED = 41000
FIELD = (560.0, 560.0)  # nm
SPACING = 36.0  # nm


@dataclass(frozen=True)
class Seeing:
    """What comes between the particles and their table."""

    error: float = 0.02  # spacings, one-sigma, of localization and vibration together, per component
    miss: float = 0.02  # probability of missing a particle seen before
    miss_again: float = 0.25  # of missing it again
    false: float = (
        0.01  # false finds per particle and frame: half of them at random, half at the other layer's particles
    )
    false_again: float = 0.25  # of the same false find in the next frame
    breaks: float = 0.005  # probability per frame that a track goes on under another number
    drift: tuple[float, float] = (0.25, -0.15)  # nm per frame
    walk: float = 0.5  # nm, one-sigma step of a random walk
    rotation: float = 0.01  # degrees per frame


def growing_scene(rng, frames, growth, detachment):
    """Layers, whether each particle is there (frames, n), and true events in the coordinates of the first frame."""
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
    """Points (n, 2) of the first frame in another."""
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    middle = np.asarray(FIELD) / 2
    return (points - middle) @ turn.T + middle + drift


def runs(there, start, again, rng):
    """Random events (t, n) that go on with another probability than they begin."""
    happens = np.zeros(there.shape, bool)
    for t in range(len(there)):
        before = happens[t - 1] if t else np.zeros(there.shape[1], bool)
        happens[t] = there[t] & (rng.random(there.shape[1]) < np.where(before, again, start))
    return happens


def particle_table(layers, presence, seeing, rng, relative=None):
    """Tracks as a decomposition would find them; and the motion (drift, rotation) they were seen through.

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
        # Each false find has a place of its own; half of them are particles of the other layer.
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
    """Which true events happen in view, away from the border."""
    t = truth["frame"].to_numpy(int)
    where = [moved(p[None], drift[k], angle[k])[0] for p, k in zip(truth[["y_nm", "x_nm"]].to_numpy(), t, strict=True)]
    where = np.reshape(where, (-1, 2))
    return ((where > border) & (where < np.subtract(FIELD, border))).all(axis=1)


def one_movie(rng, frames, seeing, detachment):
    """Found and true events of one movie, which true ones are in view, and the occupancy."""
    growth = ((1.0, 1.0) if rng.random() < 0.5 else (0.8, 0.95), (rng.uniform(0.1, 0.5), rng.uniform(0.8, 1.0)))
    layers, presence, truth = growing_scene(rng, frames, growth, detachment)
    table, drift, angle = particle_table(layers, presence, seeing, rng)
    occupancy = site_occupancy(table, FIELD)
    return growth_events(occupancy), truth, in_view(truth, drift, angle, 0.62 * SPACING), occupancy, presence


def pooled(scores) -> dict:
    """Recall and precision over all movies."""
    true, found = (sum(s[k] for s in scores) for k in ("true", "found"))
    hits = sum(s["recall"] * s["true"] for s in scores)
    matched = sum(s["matched"] for s in scores)
    square = sum(s["rmse_frames"] ** 2 * s["matched"] for s in scores if s["matched"])
    return {
        "recall": hits / max(true, 1),
        "precision": matched / max(found, 1),
        "n": true,
        "rmse_frames": np.sqrt(square / max(matched, 1)),
    }


def events(count, frames, rng, seeing, detachment, name) -> dict:
    """Recall and precision of events in growth movies."""
    scores, balance = [], 0
    for _ in range(count):
        found, truth, counts, occupancy, _ = one_movie(rng, frames, seeing, detachment)
        scores.append(score_events(found, truth, SPACING / 2, 2, counts))
        for _, size in size_table(occupancy).groupby("layer"):
            first = size["number"].iloc[0]
            left = size["number"] - first - size["attached"] + size["detached"] - size["carried"]
            balance = max(balance, int(np.abs(left).max()))
    return {f"{name}_{k}": v for k, v in pooled(scores).items()} | {f"{name}_balance_error": balance}
