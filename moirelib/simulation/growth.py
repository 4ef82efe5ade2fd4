"""The order in which the particles of a scene arrive and leave (chapter 1; chapter 10 measures it)."""

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

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
    preference=None,
) -> tuple[np.ndarray, pd.DataFrame]:
    """When each particle of a layer is there in a movie in which the layer grows or dissolves.

    Growth starts at the middle. A particle attaches where it touches at least one other, with a probability that grows
    as the square of the number it touches: an Eden model (Proc. 4th Berkeley Symp. Math. Stat. Prob. 4, 223 (1961))
    that keeps the rim compact. Particles without a chain of neighbours to the middle never appear, unless all are there
    from the start.

    Returned are the particles that are present, bool of shape (frames, n), and the events: ``frame, particle, event``
    (``attach`` or ``detach``), ``y_nm, x_nm``, in the order in which they happened; ``frame`` is the first in which a
    particle is there, or no longer there.

    Parameters
    ----------
    layer, frames : Layer, int
        The complete layer; length of the movie.
    start, end : float
        Fraction of the layer's particles that are there in the first and the last frame; the number changes evenly.
    detachment : float
        Probability per frame that a particle at the rim leaves again; others attach instead.
    preference : array_like, shape (n,), optional
        How much likelier each particle's site is taken than another with as many neighbours; alike by default.
    """
    if frames < 1 or not (0 <= start <= 1 and 0 <= end <= 1):
        raise ValueError(f"growth needs frames and fractions between 0 and 1, got {frames}, {start} and {end}")
    if preference is not None and (np.shape(preference) != (len(layer),) or np.min(preference, initial=0) < 0):
        raise ValueError(f"preference is one number of 0 or more for each of {len(layer)} particles")
    growing = _Growing(layer, rng, preference)
    if start == 1:  # patches that no chain of neighbours joins are there as well
        growing.present[:] = True
        growing.touching[:] = [len(n) for n in growing.neighbours]
    growing.grow_to(round(start * len(layer)))
    states, events = [growing.present.copy()], []
    for frame in range(1, frames):
        goal = round((start + (end - start) * frame / (frames - 1)) * len(layer))
        left = growing.lose_rim(detachment)
        changes = [*left, *growing.shrink_to(goal), *growing.grow_to(goal, avoid=left)]
        events += [(frame, i) for i in changes]
        states.append(growing.present.copy())
    present, (when, i) = np.array(states), np.array(events, int).reshape(-1, 2).T
    table = pd.DataFrame({"frame": when, "particle": layer.ids[i]})
    table["event"] = np.where(present[when, i], "attach", "detach")
    return present, table.assign(y_nm=layer.positions[i, 0], x_nm=layer.positions[i, 1])


class _Growing:
    """Which particles of a layer are there, and how many neighbours of each."""

    def __init__(self, layer, rng, preference):
        self.rng, self.positions = rng, layer.positions
        self.preference = 1 if preference is None else np.asarray(preference, float)
        pairs = cKDTree(layer.positions).query_pairs(TOUCH * layer.spacing, output_type="ndarray") if len(layer) else []
        self.neighbours = [[] for _ in range(len(layer))]
        for i, j in pairs:
            self.neighbours[i].append(j)
            self.neighbours[j].append(i)
        self.present = np.zeros(len(layer), bool)
        self.touching = np.zeros(len(layer), int)

    def toggle(self, i) -> None:
        """One particle comes or goes."""
        self.present[i] = not self.present[i]
        self.touching[self.neighbours[i]] += 1 if self.present[i] else -1

    def grow_to(self, goal, avoid=()) -> list[int]:
        """Attach one particle after the other; returns their indices."""
        came = []
        while self.present.sum() < goal:
            weight = np.where(self.present, 0.0, self.touching**2 * self.preference)
            weight[list(avoid)] = 0
            if not self.present.any():
                weight[np.argmin(np.hypot(*(self.positions - self.positions.mean(axis=0)).T))] = 1
            if not weight.any():
                break
            came.append(int(self.rng.choice(len(weight), p=weight / weight.sum())))
            self.toggle(came[-1])
        return came

    def shrink_to(self, goal) -> list[int]:
        """Detach particles that touch few others first; returns their indices."""
        gone = []
        while self.present.sum() > goal:
            # a choice that keeps the rim compact: without neighbours 28561 times as likely as with six
            weight = np.where(self.present, (6.5 - np.minimum(self.touching, 6)) ** 4, 0.0)
            gone.append(int(self.rng.choice(len(weight), p=weight / weight.sum())))
            self.toggle(gone[-1])
        return gone

    def lose_rim(self, probability) -> list[int]:
        """Each particle at the rim leaves with this probability; returns the indices."""
        rim = np.flatnonzero(self.present & (self.touching <= RIM))
        gone = rim[self.rng.random(rim.size) < probability] if probability > 0 else rim[:0]
        for i in gone:
            self.toggle(i)
        return gone.tolist()
