"""Make the layers of a movie's frames consistent: each particle's track votes (chapter 7, "Particles")."""

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree
from scipy.special import softmax

from ..crystal.matching import pair_mutually_nearest
from ..crystal.motion import Motion
from ..crystal.neighbours import SPACING_PER_DIAMETER, extent, to_complex, to_points
from ..tracking import link_places
from .layer_assignment import CEILING, DOUBLE_REACH, drop_doubles

LAYER_STEP = 0.15  # diameters that a change of layer counts in tracks; by hand: less than `LONGEST_STEP`
LONGEST_STEP = 0.25  # diameters; longest step of a track from frame to frame, motion taken off; by hand
MEMORY = 2  # frames for which a particle may be missed and still keep its track; by hand
NARROWING = 0.8  # factor by which steps are made shorter where particles are crowded; by hand
SAME_PARTICLE = 0.5  # diameters (geometry): a particle further away may be another one
TOUCHING = 6.0  # log-odds against one layer, by hand; tracks that came closer than half a diameter
ROUNDS = 30  # of belief propagation; later ones hardly change anything


def vote(
    tables: list[pd.DataFrame], diameter: float, motion: list[Motion] | None = None
) -> tuple[list[pd.DataFrame], list[np.ndarray]]:
    """Make the layers of a movie's frames consistent: align the layers' names, then let each particle's track vote.

    Particles are followed whatever their layer; the layer only keeps apart particles at one place. Frames share their
    ambiguities, so the votes of one track are not independent: with a correlation of 1/2, n of them count as 2 n/(n +
    1).

    Parameters
    ----------
    tables : list of pandas.DataFrame
        From `assign_layers`, one per frame, in order: ``y, x, score, layer, layer_confidence``.
    diameter : float
        Typical particle diameter, in the unit of ``y, x``; particles are followed over up to a quarter of it.
    motion : list of Motion, optional
        Of the specimen since the first frame, for each frame; none by default.

    Returns
    -------
    tables : list of pandas.DataFrame
        The same rows with ``layer`` and ``layer_confidence`` of the whole track; layer 1 reaches furthest over all
        frames. Of two particles closer than half a diameter in one layer the better is kept.
    names : list of ndarray of int
        Of each frame: which of its layers (from 0) became layer 1, 2 and so on.
    """
    motion = [Motion()] * len(tables) if motion is None else motion
    tables, names = align_names(tables, diameter, motion)
    lengths, layers = [len(table) for table in tables], len(names[0]) if names else 0
    if sum(lengths) == 0:
        return tables, names
    movie = pd.concat(tables, ignore_index=True).assign(frame=np.repeat(range(len(tables)), lengths))
    track = follow_particles(movie, diameter, motion)
    votes, size = np.zeros((track.max() + 1, layers)), np.bincount(track)
    np.add.at(votes, track, read_log_probability(movie, layers))
    votes = keep_apart(votes * (2 / (size + 1))[:, None], track, movie, diameter)[track]
    votes[np.arange(len(movie)), movie["layer"] - 1] += 1e-9  # where all is alike the layer stays
    movie = movie.assign(layer=votes.argmax(axis=1) + 1, layer_confidence=read_confidence(votes, movie))
    movie, ends = movie.drop(columns="frame"), np.cumsum(lengths)
    return [drop_doubles(movie.iloc[e - n : e], diameter) for n, e in zip(lengths, ends, strict=True)], names


def read_confidence(votes, movie) -> np.ndarray:
    """Probability of the likeliest layer."""
    return np.minimum(softmax(votes, axis=1).max(axis=1), max(CEILING, movie["layer_confidence"].max()))


def read_log_probability(table, layers: int) -> np.ndarray:
    """Logarithm of the probability (n, layers) of each layer, from layer and confidence."""
    confidence = np.clip(table["layer_confidence"].to_numpy(float), 1 / layers, CEILING)
    others = (1 - confidence) / max(layers - 1, 1)
    named = table["layer"].to_numpy()[:, None] == np.arange(1, layers + 1)
    return np.log(np.where(named, confidence[:, None], np.maximum(others, 1e-12)[:, None]))


def align_names(tables, diameter, motion) -> tuple[list[pd.DataFrame], list[np.ndarray]]:
    """Give layers the names that most of their particles had in the frame before; layer 1 reaches furthest overall."""
    layers = int(max((table["layer"].max() for table in tables if len(table)), default=1))
    layers = max(layers, 2)  # a single layer has another one, too, in which its particles might be
    names, before = [np.arange(layers) for _ in tables], None  # names[t][new name] = name in the frame
    still = [motion[t].inverse().apply(table[["y", "x"]].to_numpy()) for t, table in enumerate(tables)]
    tables = list(tables)
    for t, table in enumerate(tables):
        if len(table) == 0:
            continue
        if before is not None:
            i, j = pair_mutually_nearest(still[before], still[t], SAME_PARTICLE * diameter)
            probability = [np.exp(read_log_probability(tables[k], layers)) for k in (before, t)]
            names[t] = linear_sum_assignment(-probability[0][i].T @ probability[1][j])[1]
        tables[t], before = rename(table, names[t]), t
    spacing = SPACING_PER_DIAMETER * diameter
    places = [[t.loc[t["layer"] == k, ["y", "x"]].to_numpy() for t in tables] for k in range(1, layers + 1)]
    reach = [sum(extent(yx, spacing) for yx in of_layer) for of_layer in places]
    order = np.argsort(-np.array(reach), kind="stable")
    return [rename(table, order) for table in tables], [name[order] for name in names]


def rename(table: pd.DataFrame, name: np.ndarray) -> pd.DataFrame:
    """The table with layer ``name[k] + 1`` called k + 1."""
    number = np.argsort(name) + 1
    columns = [column for column in ("layer", "other_layer") if column in table]
    return table.assign(**{column: number[table[column] - 1] for column in columns})


def follow_particles(movie, diameter, motion) -> np.ndarray:
    """Number of each row's track. The layer is a third coordinate, so that particles at one place keep apart."""
    place = pd.DataFrame({"frame": movie["frame"], "z": LAYER_STEP * diameter * movie["layer"]})
    back = [one.inverse() for one in motion]
    turn, shift = (np.array([getattr(one, name) for one in back])[movie["frame"]] for name in ("turn", "shift"))
    place["y"], place["x"] = to_points(turn * to_complex(movie[["y", "x"]].to_numpy()) + shift).T
    return link_places(place, LONGEST_STEP * diameter, MEMORY, step=NARROWING).sort_index().to_numpy()


def keep_apart(votes, track, movie, diameter) -> np.ndarray:
    """Votes (tracks, layers), given that tracks closer than half a diameter in any frame are in different layers.

    Belief propagation, damped: each track tells those that it met which layers they are not in.
    """
    yx, near = movie[["y", "x"]].to_numpy(), []
    for rows in movie.groupby("frame").indices.values():
        pairs = cKDTree(yx[rows]).query_pairs(DOUBLE_REACH * diameter, output_type="ndarray")
        near.append(np.sort(track[rows[pairs]], axis=1))
    met = np.unique(np.concatenate(near), axis=0)
    met = met[met[:, 0] != met[:, 1]]
    to, of = np.concatenate([met, met[:, ::-1]]).T
    back = np.r_[len(met) : 2 * len(met), : len(met)]  # the same pair, the other way
    messages, share = np.zeros((len(to), votes.shape[1])), 1 - np.exp(-TOUCHING)
    for _ in range(ROUNDS):
        total = votes.copy()
        np.add.at(total, to, messages)
        told = softmax(total[of] - messages[back], axis=1)
        messages = 0.5 * messages + 0.5 * np.log1p(-share * told)
    total = votes.copy()
    np.add.at(total, to, messages)
    return total
