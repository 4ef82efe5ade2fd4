"""Make the layers of a movie's frames consistent: each particle's track votes (chapter 7, "Particles")."""

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree
from scipy.special import expit, logit

from ..crystal.matching import pair_mutually_nearest
from ..crystal.motion import Motion
from ..crystal.neighbours import SPACING_PER_DIAMETER, extent
from ..tables import rows_of_frames
from ..tracking import link_places
from .layer_assignment import DOUBLE_REACH, exclude_pairs, find_better
from .layer_evidence import Evidence

LAYER_STEP = 0.15  # diameters that a change of layer counts in tracks; by hand: less than `VOTING_STEP`
VOTING_STEP = 0.25  # diameters; longest step of a track from frame to frame, motion taken off; by hand
MEMORY = 2  # frames for which a particle may be missed and still keep its track; by hand
MESSAGE_ROUNDS = 30  # of messages between tracks that meet, from none; by hand
NARROWING = 0.8  # factor by which steps are made shorter where particles are crowded; by hand
SAME_PARTICLE = 0.5  # diameters (geometry): a particle further away may be another one


def vote(particles: pd.DataFrame, diameter: float, motion: list[Motion]) -> tuple[pd.DataFrame, list[bool]]:
    """Make the layers of a movie's frames consistent: align the layers' names, then let each particle's track vote.

    Particles are followed whatever their layer; the layer only keeps apart particles at one place. Frames share their
    ambiguities, so the votes of one track are not independent: with a correlation of 1/2, n of them count as 2 n/(n +
    1). Takes the particles of all frames in one table, with ``frame``, from 0 and in rising order, and the columns of
    `assign_layers`; the typical diameter, of which a particle may move a quarter from frame to frame, in the unit of
    ``y, x``; and, of each frame, the specimen's motion since the first one.

    Gives the table with ``layer`` and ``layer_confidence`` of the whole track, layer 1 reaching furthest over all
    frames, and of two particles closer than half a diameter in one layer the better one; then, which frames' layers
    (and so their lattices) exchanged their names.
    """
    rows, yx = rows_of_frames(particles["frame"], len(motion)), particles[["y", "x"]].to_numpy()
    still = np.concatenate([moved.inverse().apply(yx[now]) for now, moved in zip(rows, motion, strict=True)])
    layer, exchanged = align_names(particles, rows, still, diameter)
    if particles.empty:
        return particles, exchanged
    # The layer is a third coordinate, so that particles at one place keep apart.
    still = np.column_stack([particles["frame"], LAYER_STEP * diameter * layer, still])
    still = pd.DataFrame(still, columns=["frame", "z", "y", "x"], copy=False)
    track = link_places(still, VOTING_STEP * diameter, MEMORY, step=NARROWING).to_numpy()
    del still  # of a long movie, this and the table would fill the memory
    confidence = particles["layer_confidence"].to_numpy(float)
    total = np.bincount(track, read_log_odds(layer, confidence)) * 2 / (np.bincount(track) + 1)
    log_odds = keep_apart(total, track, yx, rows, diameter)[track]
    layer = np.where(log_odds == 0, layer, np.where(log_odds > 0, 1, 2))
    confidence = np.minimum(expit(np.abs(log_odds)), max(Evidence.ceiling, confidence.max()))
    quality = particles["score"].to_numpy() * confidence
    keep = np.concatenate([find_better(yx[now], layer[now], quality[now], diameter) for now in rows])
    particles = particles[keep].assign(layer=layer[keep], layer_confidence=confidence[keep])
    return particles.reset_index(drop=True), exchanged


def read_log_odds(layer: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """Log-odds of layer 1."""
    return np.where(layer == 1, 1.0, -1.0) * logit(np.clip(confidence, 0.5, Evidence.ceiling))


def align_names(particles, rows: list[slice], still, diameter) -> tuple[np.ndarray, list[bool]]:
    """Exchange layer names in frames where most particles change their layer; layer 1 reaches furthest overall.

    ``still`` (n, 2) is where the particles would be without the motion. Gives the layers (n,), and the frames that
    exchanged them.
    """
    layer, yx = particles["layer"].to_numpy(copy=True), particles[["y", "x"]].to_numpy()
    log_odds = read_log_odds(layer, particles["layer_confidence"].to_numpy(float))
    exchanged, before = [False] * len(rows), slice(0, 0)
    for t, now in enumerate(rows):
        i, j = pair_mutually_nearest(still[before], still[now], SAME_PARTICLE * diameter)
        if np.sum(log_odds[before][i] * log_odds[now][j]) < 0:
            exchanged[t], layer[now], log_odds[now] = True, 3 - layer[now], -log_odds[now]
        before = now if now.stop > now.start else before
    spacing = SPACING_PER_DIAMETER * diameter
    reach = [sum(extent(yx[now][layer[now] == k], spacing) for now in rows) for k in (1, 2)]
    return (3 - layer, [not one for one in exchanged]) if reach[1] > reach[0] else (layer, exchanged)


def keep_apart(log_odds, track, yx, rows: list[slice], diameter) -> np.ndarray:
    """Log-odds of tracks, given that tracks closer than half a diameter in any frame are in different layers."""
    pairs = [track[now][cKDTree(yx[now]).query_pairs(DOUBLE_REACH * diameter, output_type="ndarray")] for now in rows]
    met = np.unique(np.sort(np.concatenate(pairs), axis=1), axis=0)
    met = met[met[:, 0] != met[:, 1]]
    against = np.full(len(met), Evidence.touching)
    return exclude_pairs(log_odds, np.zeros((2, len(met))), met, against, MESSAGE_ROUNDS)[0]
