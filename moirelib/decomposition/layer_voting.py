"""Make the layers of a movie's frames consistent: each particle's track votes (chapter 7, "Particles")."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree
from scipy.special import softmax

from ..crystal.lattice import Lattice
from ..crystal.matching import pair_mutually_nearest
from ..crystal.motion import Motion
from ..crystal.neighbours import SPACING_PER_DIAMETER, extent
from ..tables import rows_of_frames
from ..tracking import link_places
from .layer_assignment import exclude_pairs, find_better
from .layer_evidence import Evidence
from .signed_graph import DOUBLE_REACH, WORTH_KEEPING

LAYER_STEP = 0.15  # diameters that a change of layer counts in tracks; by hand: less than `VOTING_STEP`
VOTING_STEP = 0.25  # diameters; longest step of a track from frame to frame, motion taken off; by hand
MEMORY = 2  # frames for which a particle may be missed and still keep its track; by hand
MESSAGE_ROUNDS = 30  # of messages between tracks that meet, from none; by hand
NARROWING = 0.8  # factor by which steps are made shorter where particles are crowded; by hand
SAME_PARTICLE = 0.5  # diameters (geometry): a particle further away may be another one


def vote(particles: pd.DataFrame, diameter: float, motion: list[Motion]) -> tuple[pd.DataFrame, np.ndarray]:
    """Make the layers of a movie's frames consistent: align the layers' names, then let each particle's track vote.

    Particles are followed whatever their layer; the layer only keeps apart particles at one place. Frames share their
    ambiguities, so the votes of one track are not independent: with a correlation of 1/2, n of them count as 2 n/(n +
    1). Takes the particles of all frames in one table, with ``frame``, from 0 and in rising order, and the columns of
    `assign_layers`; the typical diameter, of which a particle may move a quarter from frame to frame, in the unit of
    ``y, x``; and, of each frame, the specimen's motion since the first one.

    Gives the table with ``layer`` and ``layer_confidence`` of the whole track, layer 1 reaching furthest over all
    frames, and of two particles closer than half a diameter in one layer the better one; then, for each frame, the new
    numbers of its layers, from 0.
    """
    rows, yx = rows_of_frames(particles["frame"], len(motion)), particles[["y", "x"]].to_numpy()
    still = np.concatenate([moved.inverse().apply(yx[now]) for now, moved in zip(rows, motion, strict=True)])
    renamed = align_names(particles, rows, still, diameter)
    if particles.empty:
        return particles, renamed
    layer = renamed[particles["frame"], particles["layer"] - 1] + 1
    # The layer is a third coordinate, so that particles at one place keep apart.
    still = np.column_stack([particles["frame"], LAYER_STEP * diameter * layer, still])
    still = pd.DataFrame(still, columns=["frame", "z", "y", "x"], copy=False)
    track = link_places(still, VOTING_STEP * diameter, MEMORY, step=NARROWING).to_numpy()
    del still  # of a long movie, this and the table would fill the memory
    confidence = particles["layer_confidence"].to_numpy(float)
    own, count = log_probability(layer, confidence, renamed.shape[1]), np.bincount(track)
    total = np.stack([np.bincount(track, column) for column in own.T], axis=1) * (2 / (count + 1))[:, None]
    own = keep_apart(total, track, yx, rows, diameter)[track]
    tied = np.isclose(own.max(axis=1), own[np.arange(len(own)), layer - 1], rtol=0, atol=1e-9)
    layer = np.where(tied, layer, own.argmax(axis=1) + 1)
    confidence = np.minimum(softmax(own, axis=1).max(axis=1), max(Evidence.ceiling, confidence.max()))
    quality = particles["score"].to_numpy() * confidence
    keep = np.concatenate([find_better(yx[now], layer[now], quality[now], diameter) for now in rows])
    other = rename_others(particles, layer, renamed)
    other[confidence > 1 - WORTH_KEEPING] = 0  # time has decided
    particles = particles.assign(layer=layer, layer_confidence=confidence, other_layer=other)[keep]
    return particles.reset_index(drop=True), renamed


def rename_others(particles, layer, renamed) -> np.ndarray:
    """``other_layer`` (n,) under the layers' numbers; where the other one won the vote, the one before it."""
    frame, other = particles["frame"].to_numpy(), particles["other_layer"].to_numpy(int)
    own, new = (renamed[frame, column - 1] + 1 for column in (particles["layer"].to_numpy(), other))
    return np.where(other == 0, 0, np.where(new == layer, own, new))


def count_layers(particles: pd.DataFrame) -> int:
    """Number of the layers, at least two: of a single one, the second is empty."""
    return max(int(particles["layer"].max()), 2) if len(particles) else 2


def rename_lattices(lattices: list[list[Lattice]], names: Sequence[int]) -> list[list[Lattice]]:
    """Lattices of a frame's layers under the layers' new numbers, from 0."""
    found: list[list[Lattice]] = [[] for _ in names]
    for lattice, name in zip(lattices, names, strict=False):
        found[name] = lattice
    return found


def log_probability(layer: np.ndarray, confidence: np.ndarray, layers: int) -> np.ndarray:
    """Logarithm (n, layers) of the probability of each layer: the others share what the confidence leaves."""
    sure = np.clip(confidence, 1 / layers, Evidence.ceiling)
    own = layer[:, None] == np.arange(1, layers + 1)
    return np.log(np.where(own, sure[:, None], (1 - sure[:, None]) / (layers - 1)))


def align_names(particles, rows: list[slice], still, diameter) -> np.ndarray:
    """New numbers (frames, layers) of each frame's layers: as most particles before had; layer 0 reaches furthest.

    ``still`` (n, 2) is where the particles would be without the motion.
    """
    layers, yx = count_layers(particles), particles[["y", "x"]].to_numpy()
    layer = particles["layer"].to_numpy()
    odds = log_probability(layer, particles["layer_confidence"].to_numpy(float), layers)
    odds -= odds.mean(axis=1, keepdims=True)
    names, before = np.tile(np.arange(layers), (len(rows), 1)), slice(0, 0)
    for t, now in enumerate(rows):
        i, j = pair_mutually_nearest(still[before], still[now], SAME_PARTICLE * diameter)
        names[t] = linear_sum_assignment(odds[now][j].T @ odds[before][i], maximize=True)[1]
        odds[now] = odds[now][:, names[t].argsort()]
        before = now if now.stop > now.start else before
    if len(layer):
        layer = names[particles["frame"], layer - 1]
    spacing = SPACING_PER_DIAMETER * diameter
    reach = np.array([sum(extent(yx[now][layer[now] == k], spacing) for now in rows) for k in range(layers)])
    return (-reach).argsort(kind="stable").argsort()[names]


def keep_apart(own, track, yx, rows: list[slice], diameter) -> np.ndarray:
    """Log-probabilities of tracks, of which those closer than half a diameter in any frame are in different layers."""
    pairs = [track[now][cKDTree(yx[now]).query_pairs(DOUBLE_REACH * diameter, output_type="ndarray")] for now in rows]
    met = np.unique(np.sort(np.concatenate(pairs), axis=1), axis=0)
    met = met[met[:, 0] != met[:, 1]]
    against = np.full(len(met), Evidence.touching)
    return exclude_pairs(own, np.zeros((2, len(met), own.shape[1])), met, against, MESSAGE_ROUNDS)[0]
