"""Make the layers of a movie's frames consistent: each particle's track votes (chapter 7, "Particles")."""

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree
from scipy.special import expit, logit

from ..crystal.matching import pair_mutually_nearest
from ..crystal.motion import Motion
from ..crystal.neighbours import SPACING_PER_DIAMETER, extent
from ..tracking import link_places
from .layer_assignment import DOUBLE_REACH, drop_doubles, exclude_pairs
from .layer_evidence import Evidence

LAYER_STEP = 0.15  # diameters that a change of layer counts in tracks; by hand: less than `LONGEST_STEP`
LONGEST_STEP = 0.25  # diameters; longest step of a track from frame to frame, motion taken off; by hand
MEMORY = 2  # frames for which a particle may be missed and still keep its track; by hand
ROUNDS = 30  # of messages between tracks that meet, from none; by hand
NARROWING = 0.8  # factor by which steps are made shorter where particles are crowded; by hand
SAME_PARTICLE = 0.5  # diameters (geometry): a particle further away may be another one


def vote(
    tables: list[pd.DataFrame], diameter: float, motion: list[Motion] | None = None
) -> tuple[list[pd.DataFrame], list[bool]]:
    """Make the layers of a movie's frames consistent: align the layers' names, then let each particle's track vote.

    Particles are followed whatever their layer; the layer only keeps apart particles at one place. Frames share their
    ambiguities, so the votes of one track are not independent: with a correlation of 1/2, n of them count as 2 n/(n +
    1). Takes the tables of `assign_layers`, one per frame; the typical diameter, of which a particle may move a quarter
    from frame to frame, in the unit of ``y, x``; and the specimen's motion since the first frame, none by default.

    Gives the same rows with ``layer`` and ``layer_confidence`` of the whole track, layer 1 reaching furthest over all
    frames, ``grain`` -1 where the track has another layer than the frame, and of two particles closer than half a
    diameter in one layer the better one; then, which frames' layers (and so their lattices) exchanged their names.
    """
    motion = [Motion()] * len(tables) if motion is None else motion
    still = [one.inverse().apply(table[["y", "x"]].to_numpy()) for one, table in zip(motion, tables, strict=True)]
    tables, exchanged = align_names(tables, still, diameter)
    lengths = [len(table) for table in tables]
    if sum(lengths) == 0:
        return tables, exchanged
    movie = pd.concat(tables, ignore_index=True).assign(frame=np.repeat(range(len(tables)), lengths))
    # The layer is a third coordinate, so that particles at one place keep apart.
    place = pd.DataFrame({"frame": movie["frame"], "z": LAYER_STEP * diameter * movie["layer"]})
    place["y"], place["x"] = np.concatenate(still).T
    track = link_places(place, LONGEST_STEP * diameter, MEMORY, step=NARROWING).sort_index().to_numpy()
    size = np.bincount(track)
    total = np.bincount(track, read_log_odds(movie)) * 2 / (size + 1)
    log_odds = keep_apart(total, track, movie, diameter)[track]
    layer = np.where(log_odds == 0, movie["layer"], np.where(log_odds > 0, 1, 2))
    confidence = np.minimum(expit(np.abs(log_odds)), max(Evidence.ceiling, movie["layer_confidence"].max()))
    if "grain" in movie:
        movie["grain"] = movie["grain"].where(layer == movie["layer"], -1)
    movie = movie.assign(layer=layer, layer_confidence=confidence).drop(columns="frame")
    ends = np.cumsum(lengths)
    return [drop_doubles(movie.iloc[e - n : e], diameter) for n, e in zip(lengths, ends, strict=True)], exchanged


def read_log_odds(table) -> np.ndarray:
    """Log-odds of layer 1, from layer and confidence."""
    confidence = np.clip(table["layer_confidence"].to_numpy(float), 0.5, Evidence.ceiling)
    return np.where(table["layer"] == 1, 1.0, -1.0) * logit(confidence)


def align_names(tables, still, diameter) -> tuple[list[pd.DataFrame], list[bool]]:
    """Exchange layer names in frames where most particles change their layer; layer 1 reaches furthest overall.

    ``still`` (n, 2) is where the particles of each frame would be without the motion.
    """
    tables, exchanged, before = list(tables), [False] * len(tables), None
    for t, table in enumerate(tables):
        if len(table) == 0:
            continue
        if before is not None:
            i, j = pair_mutually_nearest(still[before], still[t], SAME_PARTICLE * diameter)
            exchanged[t] = bool(np.sum(read_log_odds(tables[before])[i] * read_log_odds(table)[j]) < 0)
        tables[t], before = table.assign(layer=3 - table["layer"]) if exchanged[t] else table, t
    spacing = SPACING_PER_DIAMETER * diameter
    reach = [sum(extent(t.loc[t["layer"] == k, ["y", "x"]].to_numpy(), spacing) for t in tables) for k in (1, 2)]
    if reach[1] > reach[0]:
        tables = [table.assign(layer=3 - table["layer"]) for table in tables]
        exchanged = [not e for e in exchanged]
    return tables, exchanged


def keep_apart(log_odds, track, movie, diameter) -> np.ndarray:
    """Log-odds of tracks, given that tracks closer than half a diameter in any frame are in different layers."""
    yx, near = movie[["y", "x"]].to_numpy(), []
    for rows in movie.groupby("frame").indices.values():
        pairs = cKDTree(yx[rows]).query_pairs(DOUBLE_REACH * diameter, output_type="ndarray")
        near.append(np.sort(track[rows[pairs]], axis=1))
    met = np.unique(np.concatenate(near), axis=0)
    met = met[met[:, 0] != met[:, 1]]
    return exclude_pairs(log_odds, np.zeros((2, len(met))), met, np.full(len(met), Evidence.touching), ROUNDS)[0]
