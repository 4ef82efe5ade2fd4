"""Train the network that says which particles lie in one layer, on points drawn on the fly (chapter 7).

No image is drawn: points and sizes are what the finder makes of an image, with its faults. Simulated.
"""

import json
import math
import platform
import time
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import nn

from ..crystal.lattice import hexagonal_lattice
from .network import save_weights
from .same_layer import MOST_LAYERS, SameLayer, compare_sizes, find_neighbours, load_same_layer
from .training import describe_commit, rotation

KINDS = ("plain", "unequal", "small twist", "grains", "mixed")
FEWEST_HERE = 4  # particles of a layer among the neighbours: fewer do not count as a layer
RATE, WARM_UP, AVERAGE = 1e-3, 200, 0.998  # learning rate, steps until it is reached, weight of the mean so far
COUNT_WEIGHT = 0.2  # of the number of layers in the loss
FEWEST, NEAR = 6, 2.0  # by hand; particles of a frame; diameters over which a pair's weight in the loss falls to 1/e
DECAY, STEEPEST = 1e-4, 1.0  # by hand; weight decay (AdamW); longest gradient, longer ones are cut
LOGGED = 200  # steps between two points of the curve


@dataclass(frozen=True)
class Points:
    """A frame's particles as a finder would give them, and the truth. Lengths in diameters."""

    places: np.ndarray  # (n, 2)
    layer: np.ndarray  # (n,) from 0; false finds have negative numbers, each its own
    size: np.ndarray  # (n,) diameter over the usual one


def draw_points(rng: np.random.Generator, kind: str | None = None, layers: int | None = None) -> Points:
    """Draw a frame of particles."""
    kind = rng.choice(KINDS) if kind is None else kind
    layers = int(rng.choice([1, 2, 3], p=[0.2, 0.55, 0.25])) if layers is None else layers
    spacing = rng.uniform(1.03, 1.7)
    field = spacing * rng.uniform(4, 9) if rng.random() < 0.2 else spacing * rng.uniform(9, 22)
    angle, sign = rng.uniform(0, 60), rng.choice([-1, 1])
    many = rng.integers(5, 16) if rng.random() < 0.25 else rng.integers(1, 6)
    centres, turns = rng.uniform(-field / 2, field / 2, (many, 2)), rng.uniform(0, 60, many)
    drawn = []
    for k in range(layers):
        differs = k and kind in ("unequal", "mixed")
        ratio = math.exp(rng.uniform(-0.36, 0.36)) if differs else math.exp(rng.normal(0, 0.01))
        own = max(1.0, spacing * ratio)
        # Particles of another spacing are often of another size.
        width = own / spacing * math.exp(rng.normal(0, 0.05)) if differs and rng.random() < 0.5 else 1.0
        own = max(own, 1.02 * width)
        if k:
            angle += sign * (rng.uniform(0.6, 3.5) if kind == "small twist" else rng.uniform(3, 30))
        at, of = np.zeros((1, 2)), np.array([angle])
        if kind == "grains" or (kind == "mixed" and rng.random() < 0.6):
            if rng.random() < 0.3:  # the same pattern of grains, turned: a layer upon a copy of itself
                at, of = centres @ rotation(np.radians(rng.uniform(3, 30))), turns + angle
            elif rng.random() < 0.2:  # all layers turn along the same lines, each by its own angle
                at, of = centres, rng.uniform(0, 60, many)
            else:
                at = rng.uniform(-field / 2, field / 2, (rng.integers(1, many + 1), 2))
                of = rng.uniform(0, 60, len(at))
        places = draw_layer(rng, own, of, at, field)
        if k and rng.random() <= 0.35 and len(places):  # an island instead of a whole layer
            centre, radius = rng.uniform(-0.3, 0.3, 2) * field, max(rng.uniform(0.12, 0.5) * field, 1.8 * own)
            places = places[np.hypot(*(places - centre).T) < radius]
        places = places[rng.random(len(places)) > rng.choice([0, 0.02, 0.05, 0.15])]  # vacancies
        drawn.append((places, np.full(len(places), k), np.full(len(places), width)))
    places, layer, size = (np.concatenate(each) for each in zip(*drawn, strict=True))
    return spoil(rng, places, layer, size, field)


def draw_layer(rng, spacing, degrees, centres, field) -> np.ndarray:
    """Places of a layer of one or more grains, strained, with defects and scatter."""
    points, tree, reach = np.empty((0, 2)), cKDTree(centres), math.sqrt(0.5) * field + 3 * spacing  # to the corners
    for g, turn in enumerate(degrees):
        grain = hexagonal_lattice(spacing, turn, (0, 0), reach)[:, ::-1] + rng.uniform(-spacing, spacing, 2)
        grain = grain[(np.abs(grain) < field / 2 + spacing).all(axis=1)]
        grain = grain[tree.query(grain)[1] == g]
        if len(points) and len(grain):
            grain = grain[cKDTree(points).query(grain)[0] > rng.uniform(0.75, 0.95) * spacing]
        points = np.concatenate([points, grain])
    wave, phase = 2 * np.pi / (field * rng.uniform(0.6, 1.5)), rng.uniform(0, 2 * np.pi, 4)
    x, y = wave * points.T
    shear = np.stack([np.sin(x + phase[0]) + np.sin(y + phase[1]), np.sin(y + phase[2]) + np.sin(x + phase[3])], axis=1)
    scatter = np.full(len(points), rng.uniform(0.005, 0.07))
    if rng.random() < 0.1 and len(points):  # disordered in part
        far = np.hypot(*(points - rng.uniform(-field / 2, field / 2, 2)).T)
        scatter = np.where(far < rng.uniform(0.2, 0.4) * field, rng.uniform(0.08, 0.15), scatter)
    points = points + rng.uniform(0, 0.03) / wave * shear / 2
    return points + spacing * scatter[:, None] * rng.normal(size=points.shape)


def spoil(rng, places, layer, size, field) -> Points:
    """What a finder makes of a frame's particles: misses, false finds and errors."""
    inside = (np.abs(places) < field / 2).all(axis=1)
    places, layer, size = places[inside], layer[inside], size[inside]
    reach = rng.uniform(0.05, 0.35)  # particles nearer to each other are often found as one
    lost, rate = np.zeros(len(places), bool), rng.choice([0.3, 0.6, 0.95])
    for i, j in cKDTree(places).query_pairs(reach, output_type="ndarray") if len(places) > 1 else ():
        if not (lost[i] or lost[j]) and rng.random() < rate:
            lost[j] = True
            places[i] = (places[i] + places[j]) / 2
    keep = ~lost & (rng.random(len(places)) > rng.choice([0, 0.01, 0.03, 0.1]))
    places, layer, size = places[keep], layer[keep], size[keep]
    false = rng.integers(0, max(1, int(rng.choice([0.01, 0.03, 0.08]) * len(places))) + 1)
    wrong = rng.uniform(-field / 2, field / 2, (false, 2))
    places = np.concatenate([places + rng.choice([0.005, 0.02, 0.04]) * rng.normal(size=places.shape), wrong])
    layer = np.concatenate([layer, -1 - np.arange(false)])
    size, known = np.concatenate([size, np.exp(rng.normal(0, 0.2, false))]), rng.random() < 0.7
    size = size * np.exp(rng.uniform(0.01, 0.2) * rng.normal(size=len(size))) if known else np.ones(len(size))
    return Points(places * math.exp(rng.normal(0, 0.08)), layer, size)


def draw_batch(rng, frames: int = 5, each: int = 40):
    """Neighbourhoods of some particles, which neighbours lie in their layer, and how many layers are there."""
    parts: list[tuple] = []
    while len(parts) < frames:
        points = draw_points(rng)
        real = np.flatnonzero(points.layer >= 0)
        if len(real) < FEWEST:
            continue
        own = rng.choice(real, min(each, len(real)), replace=False)
        near, present = find_neighbours(points.places, own)
        step = (points.places[near] - points.places[own][:, None]).astype(np.float32)
        wider = compare_sizes(own, near, points.size)
        same = (points.layer[near] == points.layer[own][:, None]) & present
        around = np.where(present, points.layer[near], -1)
        held = [(around == k).sum(axis=1) + (points.layer[own] == k) >= FEWEST_HERE for k in range(MOST_LAYERS)]
        count = np.clip(np.sum(held, axis=0), 1, MOST_LAYERS) - 1
        parts.append((step, wider, present, same.astype(np.float32), count))
    return [torch.from_numpy(np.concatenate(part)) for part in zip(*parts, strict=True)]


def measure_loss(model, batch):
    """Cross-entropy of pairs, near ones first, and of the number of layers."""
    step, wider, present, same, count = batch
    odds, counts = model(step, wider, present)
    weight = torch.exp(-step.norm(dim=-1) / NEAR) * present
    pairs = nn.functional.binary_cross_entropy_with_logits(odds, same, reduction="none")
    return (pairs * weight).sum() / weight.sum(), nn.functional.cross_entropy(counts, count)


def train_same_layer(
    out: str | PathLike, minutes: float = 85.0, seed: int = 0, start: str | PathLike | None = None, command: str = ""
) -> dict:
    """Train on points drawn on the fly, on one thread; write the weights and, beside them, a card, which it gives.

    The weights are a running mean over some hundred steps. How many steps there are depends on the machine.

    Parameters
    ----------
    out, start : path-like
        Weights to write (``.safetensors``), every `LOGGED` steps; weights to go on from, whose card becomes part of the
        new one.
    minutes, seed, command : float, int, str
        Wall time; seed of weights and points; command line to record on the card.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rng, model = np.random.default_rng(seed), SameLayer() if start is None else load_same_layer(start).train()
    mean = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(AVERAGE))
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=DECAY)
    peak = RATE if start is None else RATE / 2  # half for trained weights, by hand: they are near their best
    out, began = Path(out), time.monotonic()
    losses: list[tuple[float, float]] = []
    while (done := (time.monotonic() - began) / (60 * minutes)) < 1:
        warm = min(1, (len(losses) + 1) / WARM_UP)
        optimizer.param_groups[0]["lr"] = peak * warm * (0.5 + 0.5 * math.cos(math.pi * done))
        pairs, count = measure_loss(model, draw_batch(rng))
        optimizer.zero_grad()
        (pairs + COUNT_WEIGHT * count).backward()
        nn.utils.clip_grad_norm_(model.parameters(), STEEPEST)
        optimizer.step()
        mean.update_parameters(model)
        losses.append((pairs.item(), count.item()))
        if len(losses) % LOGGED == 0:
            told = "pairs {:.4f}, number of layers {:.4f}".format(*np.mean(losses[-LOGGED:], axis=0))
            print(f"{len(losses)} steps: {told}", flush=True)
            save_weights(mean.module, out)
    save_weights(mean.module, out)
    whole = np.reshape(losses[: len(losses) // LOGGED * LOGGED], (-1, LOGGED, 2))
    card = {
        "command": command or f"moirelib.decomposition.train_same_layer({str(out)!r}, {minutes}, {seed})",
        "commit": describe_commit(),
        "seed": seed,
        "minutes": minutes,
        "steps": len(losses),
        "parameters": sum(p.numel() for p in model.parameters()),
        "data": "simulated points, drawn on the fly; no images, nothing real",
        "hardware": f"cpu, 1 thread, {platform.machine()}",
        "torch": torch.__version__,
        "curve": whole.mean(axis=1).round(4).tolist(),
        "started_from": None if start is None else json.loads(Path(start).with_suffix(".json").read_text("utf-8")),
    }
    out.with_suffix(".json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    return card
