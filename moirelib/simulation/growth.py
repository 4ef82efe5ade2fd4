"""The order in which the particles of a scene arrive and leave (chapter 1; chapter 10 measures it)."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ..crystal.neighbours import adjacency
from .scene import Layer

TOUCH = 1.4  # spacings, farthest centre of a particle that another touches
RIM = 4  # neighbours, at most, of a particle at the rim


def growth_schedule(
    layer: Layer,
    frames: int,
    rng: np.random.Generator,
    start: float = 0.2,
    end: float = 1.0,
    detachment: float = 0.0,
    preference: ArrayLike | None = None,
) -> tuple[np.ndarray, pd.DataFrame]:
    """When each particle of a layer is there in a movie in which the layer grows or dissolves.

    Growth starts at the middle. A particle attaches where it touches at least one other, with a probability that grows
    as the square of the number it touches: an Eden model (Proc. 4th Berkeley Symp. Math. Stat. Prob. 4, 223 (1961))
    that keeps the rim compact. Particles without a chain of neighbours to the middle never appear.

    The fraction ``start`` of the layer is there in the first frame, ``end`` in the last; the number changes evenly. A
    particle at the rim leaves again with the probability ``detachment`` per frame. ``preference`` (n,) says how much
    likelier each site is taken than another with as many neighbours.

    Returned are the particles that are present, bool of shape (frames, n), and the events in their order: ``frame,
    particle, event`` (``attach`` or ``detach``), ``y_nm, x_nm``; ``frame`` is the first with, or without, the particle.
    """
    if frames < 1 or not (0 <= start <= 1 and 0 <= end <= 1):
        raise ValueError(f"growth needs frames and fractions between 0 and 1, got {frames}, {start} and {end}")
    if preference is not None and (np.shape(preference) != (len(layer),) or np.min(preference, initial=0) < 0):
        raise ValueError(f"preference is one number of 0 or more for each of {len(layer)} particles")
    n, preference = len(layer), 1 if preference is None else np.asarray(preference, float)
    middle = np.hypot(*(layer.positions - layer.positions.mean(axis=0)).T) if n else np.empty(0)
    touches = adjacency(layer.positions, layer.spacing, TOUCH)
    present = np.full(n, start == 1)  # then patches that no chain of neighbours joins are there as well
    states, events = [], []
    for frame in range(frames):
        rim = np.flatnonzero(present & (touches @ present <= RIM))
        left = rim[rng.random(rim.size) < detachment].tolist() if frame and detachment > 0 else []
        present[left] = False
        changes, goal = list(left), round((start + (end - start) * frame / max(frames - 1, 1)) * n)
        while present.sum() != goal:
            touching = touches @ present
            if present.sum() > goal:
                # a choice that keeps the rim compact: without neighbours 28561 times as likely as with six
                weight = np.where(present, (6.5 - np.minimum(touching, 6)) ** 4, 0.0)
            else:
                weight = np.where(present, 0.0, touching**2 * preference)
                weight[left] = 0
                if not present.any():
                    weight[middle.argmin()] = 1
                if not weight.any():
                    break
            changes.append(int(rng.choice(n, p=weight / weight.sum())))
            present[changes[-1]] ^= True
        events += [(frame, i) for i in changes] if frame else []
        states.append(present.copy())
    when, i = np.array(events, int).reshape(-1, 2).T
    table = pd.DataFrame({"frame": when, "particle": layer.ids[i]})
    table["event"] = np.where(np.array(states)[when, i], "attach", "detach")
    return np.array(states), table.assign(y_nm=layer.positions[i, 0], x_nm=layer.positions[i, 1])
