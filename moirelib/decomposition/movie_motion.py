"""The motion of the specimen and of each layer through a movie (chapter 7, "Particles")."""

import itertools
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..crystal.motion import Motion, estimate_motion
from ..crystal.neighbours import typical_spacing
from ..tables import rows_of_frames

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
    def none(cls, frames: int) -> "MovieMotion":
        """No motion at all."""
        return cls([Motion()] * frames, [Motion()] * frames, 1.0)


def measure_motion(
    particles: pd.DataFrame, frames: int, diameter: float, shape: tuple[float, float], progress: bool = False
) -> MovieMotion:
    """Motion of the specimen from the particles of all layers together, found step by step.

    Takes the particles of so many frames, in one table with ``frame``, from 0 and in rising order, ``layer``, ``y, x``;
    the expected diameter, and height and width of the frames, all in working px.
    """
    rows, yx = rows_of_frames(particles["frame"], frames), particles[["y", "x"]].to_numpy()
    layer = particles["layer"].to_numpy()
    spacing = float(np.median([typical_spacing(yx[now], layer[now], diameter) for now in rows]))
    places = [yx[now] for now in rows]
    since_first, steps, undecided = follow_steps(places, spacing, shape, None, "motion" if progress else "")
    return MovieMotion(since_first, steps, spacing, undecided)


def take_motion_off(particles: pd.DataFrame, motion: MovieMotion, shape, progress: bool = False) -> pd.DataFrame:
    """The table with ``y_still, x_still``: where particles would be if their layer had not moved since the start.

    Layers slide on each other: each layer's own steps are looked for near those of the specimen.
    """
    yx = particles[["y", "x"]].to_numpy()
    still = yx.copy()
    for layer, mine in particles.groupby("layer").indices.items():
        frames = rows_of_frames(particles["frame"].to_numpy()[mine], len(motion.steps))
        places = [yx[mine[now]] for now in frames]
        bar = f"motion of layer {layer}" if progress else ""
        since_first = follow_steps(places, motion.spacing, shape, motion.steps, bar)[0]
        still[mine] = np.concatenate([moved.inverse().apply(p) for p, moved in zip(places, since_first, strict=True)])
    return particles.assign(y_still=still[:, 0], x_still=still[:, 1])


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
