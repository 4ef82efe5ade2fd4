"""Two layers of unlike lattices, told apart from where the particles are (chapter 7, "Particles").

A network says of each two neighbours whether they lie in one layer, and the graph of these log-odds is cut in two. It
knows no common spacing. It is asked where the lattices (`layer_assignment`) show one layer only.
"""

from functools import lru_cache

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.spatial import cKDTree
from scipy.special import expit

from ..crystal.fourier import find_strongest
from ..crystal.lattice import Lattice
from ..crystal.matching import pair_mutually_nearest
from ..crystal.neighbours import extent, typical_spacing
from .layer_assignment import DOUBLE_REACH, drop_doubles
from .layer_cut import cut
from .layer_evidence import Evidence, GrainSettings
from .overlapping_grains import strength_by_chance
from .same_layer import load_same_layer, weigh_pairs

ONE_FIND = 0.12  # diameters; finds in two channels nearer to each other are one particle, until the frame shows two
GRAINS = GrainSettings()  # of lattices
SHOWN = -100.0  # log-odds that two particles that the frame shows upon each other lie in one layer: never
#: Share of the particles around which the network sees a second layer, from which there is one. On development seeds of
#: `make bench-families`: up to 0.13 in one layer, 0.44 and more in two.
SEEN = 0.2
TEMPERATURE = 19.0  # log-odds of pairs that count as one, as they share errors (benchmarks/calibrate_cut.py)


def merge_finds(detections: pd.DataFrame, diameter: float) -> pd.DataFrame:
    """One row for each particle that the network found in both channels: that of the higher peak, in the middle.

    ``detections`` are those of `locate`; ``diameter`` is the typical one, in pixels.
    """
    channel, yx = detections["channel"].to_numpy(), detections[["y", "x"]].to_numpy()
    first, second = np.flatnonzero(channel == 0), np.flatnonzero(channel != 0)
    i, j = pair_mutually_nearest(yx[first], yx[second], ONE_FIND * diameter)
    i, j = first[i], second[j]
    score = detections["score"].to_numpy()
    higher, lower = np.where(score[i] >= score[j], i, j), np.where(score[i] >= score[j], j, i)
    share = score[i] / (score[i] + score[j])
    table = detections.copy()
    table.loc[table.index[higher], ["y", "x"]] = share[:, None] * yx[i] + (1 - share)[:, None] * yx[j]
    return table.drop(table.index[lower]).reset_index(drop=True)


def show_two_layers(particles: pd.DataFrame, diameter: float) -> bool:
    """Whether the network sees two layers around a good part of the particles."""
    return len(particles) >= GRAINS.fewest and 1 - draw_graph(particles, diameter)[1][:, 0].mean() > SEEN


def name_two_layers(particles: pd.DataFrame, diameter: float) -> tuple[pd.DataFrame, list[list[Lattice]]]:
    """Which of two layers every particle belongs to; parameters and results as of `assign_layers`.

    There are no grains, and ``lattices`` are the main ones; without ``lattice_fit``, rows say who is on a site.
    """
    if len(particles) < GRAINS.fewest:
        return particles.assign(layer=1, grain=-1, layer_confidence=0.5), [[], []]
    yx, (graph, _) = particles[["y", "x"]].to_numpy(float), draw_graph(particles, diameter)
    named = cut(graph, 2, np.random.default_rng(0))
    pull = graph @ np.where(named == 0, 1.0, -1.0)  # towards the first side
    confidence = np.clip(expit(np.where(named == 0, pull, -pull) / TEMPERATURE), 0.5, Evidence.ceiling)
    spacing = typical_spacing(yx, named, diameter)
    if extent(yx[named == 1], spacing) > extent(yx[named == 0], spacing):
        named = 1 - named
    table = drop_doubles(particles.assign(layer=named + 1, grain=-1, layer_confidence=confidence), diameter)
    places = [table.loc[table["layer"] == k, ["y", "x"]].to_numpy(float) for k in (1, 2)]
    return table, [find_main_lattice(place, diameter) for place in places]


@lru_cache(maxsize=1)
def load_model():
    """The network of points, read once."""
    return load_same_layer()


def draw_graph(particles, diameter) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Log-odds (n, n) that two particles lie in one layer, and probability (n, 3) of 1, 2, 3 layers around each.

    The U-Net's channels change places at grain boundaries, where they would decide: they are not asked.
    """
    yx = particles[["y", "x"]].to_numpy(float)
    sizes = particles.get("diameter", pd.Series(np.nan, particles.index)).to_numpy(float)
    usual = np.nanmedian(sizes) if np.isfinite(sizes).any() else diameter
    sizes = np.nan_to_num(sizes / usual, nan=1.0)
    graph, counts = weigh_pairs(load_model(), yx / diameter, sizes, np.zeros(len(yx)))
    shown = particles["shown"].eq(True).to_numpy() if "shown" in particles else np.zeros(len(yx), bool)
    i, j = cKDTree(yx).query_pairs(DOUBLE_REACH * diameter, output_type="ndarray").T
    two = shown[i] & shown[j]
    against = sparse.csr_matrix((np.full(two.sum(), SHOWN), (i[two], j[two])), graph.shape)
    return graph + against + against.T, counts


def find_main_lattice(points: np.ndarray, diameter: float) -> list[Lattice]:
    """The strongest lattice of a layer's particles, if they show one."""
    if len(points) < GRAINS.fewest:
        return []
    spacing = typical_spacing(points, np.zeros(len(points)), diameter)
    low, high = (factor * spacing for factor in GRAINS.spacing_range)
    lattice, strength = find_strongest(points, np.ones(len(points)), low, high)
    return [lattice] if strength > strength_by_chance(points, spacing, GRAINS) else []
