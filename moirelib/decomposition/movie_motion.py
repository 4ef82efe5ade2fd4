"""The motion of the specimen and of each layer through a movie (chapter 7, "Particles")."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..crystal.motion import Motion, estimate_motion
from ..crystal.neighbours import typical_spacing

USUAL = 5  # frames over which the usual step is taken; a jump among them is none
TRUST = 50.0  # log-likelihood; a layer moves by lattice vectors of its own only where nothing else is possible
FEWEST = 3  # particles of a layer that show its own motion; fewer move as the specimen does


@dataclass(frozen=True)
class MovieMotion:
    """How the specimen moved; lengths in working pixels."""

    since_first: list[Motion]  # of each frame: takes places of the first frame to its own
    steps: list[Motion]  # of each frame, from the frame before; none for the first
    spacing: float
    undecided: tuple[int, ...] = ()  # frames before which another step explains the particles as well

    @classmethod
    def none(cls, frames: int) -> MovieMotion:
        """No motion at all."""
        return cls([Motion()] * frames, [Motion()] * frames, 1.0)


def measure_motion(
    tables: list[pd.DataFrame], diameter: float, shape: tuple[float, float], progress: bool = False
) -> MovieMotion:
    """Motion of the specimen from the particles of all layers together, found step by step.

    Takes the frames' tables with ``layer``, ``y, x``, the expected diameter, and height and width of the frames, all in
    working px.
    """
    places = [table[["y", "x"]].to_numpy() for table in tables]
    spacings = [typical_spacing(yx, table["layer"], diameter) for yx, table in zip(places, tables, strict=True)]
    spacing = float(np.median(spacings)) if spacings else diameter
    since_first, steps, undecided = follow_steps(places, spacing, shape, None, "motion" if progress else "")
    return MovieMotion(since_first, steps, spacing, undecided)


def take_motion_off(tables, motion: MovieMotion, shape, progress: bool = False) -> list[pd.DataFrame]:
    """The tables with ``y_still, x_still``: where particles would be if their layer had not moved since the start.

    Layers slide on each other: each layer's own steps are looked for near those of the specimen.
    """
    tables = [table.assign(y_still=table["y"], x_still=table["x"]) for table in tables]
    for layer in (1, 2):
        mine = [(table["layer"] == layer).to_numpy() for table in tables]
        places = [table.loc[rows, ["y", "x"]].to_numpy() for table, rows in zip(tables, mine, strict=True)]
        bar = f"motion of layer {layer}" if progress else ""
        since_first = follow_steps(places, motion.spacing, shape, motion.steps, bar)[0]
        for table, rows, yx, moved in zip(tables, mine, places, since_first, strict=True):
            table.loc[rows, ["y_still", "x_still"]] = moved.inverse().apply(yx)
    return tables


def follow_steps(places, spacing, shape, known: list[Motion] | None, bar: str):
    """Motion since the first frame, that from each frame to the next, and the frames before which it is not decided.

    ``places`` are those of the particles of each frame, (n, 2). Steps are expected as ``known`` or, without, as usual
    in the frames before. ``bar`` is the name of the progress bar; none is shown without.
    """
    from tqdm import tqdm

    steps: list[Motion] = []
    undecided, before = [], None
    for t, now in enumerate(tqdm(places, bar, disable=not bar, unit="frame")):
        usual = np.array([step.shift for step in steps[1:][-USUAL:]] or [0j])
        expected = known[t] if known else Motion(1.0 + 0j, complex(np.median(usual.real), np.median(usual.imag)))
        if before is None or min(len(before), len(now)) < FEWEST:
            steps.append(expected if known else Motion())
        else:
            found = estimate_motion(before, now, spacing, shape, expected, TRUST if known else 0.0)
            steps.append(found.motion)
            undecided += [] if found.decided else [t]
        before = now if len(now) >= FEWEST or before is None else steps[-1].apply(before)
    since_first = itertools.accumulate(steps, lambda moved, step: step.after(moved))
    return list(since_first), steps, tuple(undecided)
