"""Layers of unlike lattices, or more than two, told apart from where the particles are (chapter 7, "Particles").

The `signed_graph` alone decides. It is asked where the lattices (`layer_assignment`) show one layer only, and for three
layers.
"""

import numpy as np
import pandas as pd
from scipy.special import softmax

from ..crystal.fourier import find_strongest
from ..crystal.lattice import Lattice
from ..crystal.matching import pair_mutually_nearest
from ..crystal.neighbours import extent, typical_spacing
from .layer_assignment import drop_doubles
from .layer_evidence import GRAINS, Evidence
from .overlapping_grains import strength_by_chance
from .signed_graph import TEMPERATURE, WORTH_KEEPING, draw_graph, find_namings, weigh_doubt

ONE_FIND = 0.12  # diameters; finds in two channels nearer to each other are one particle, until the frame shows two
#: Mean probability of three layers around a particle from which there may be three, and of fitted particles, from which
#: there are. On development seeds: up to 0.06 in two layers; in three layers 0.19 and more where the U-Net of two
#: channels found two thirds of the particles, 0.96 of all particles. In two layers of real particles, of which no model
#: holds quite, 0.19 and 0.89: there the fits decide.
MAYBE_THREE, THREE = 0.12, 0.5


def merge_finds(detections: pd.DataFrame, diameter: float) -> pd.DataFrame:
    """One row for each particle that the network found in several channels: that of the higher peak, in the middle.

    ``detections`` are those of `locate`; ``diameter`` is the typical one, in pixels.
    """
    table = detections[detections["channel"] == 0]
    for channel in range(1, int(detections["channel"].max()) + 1):
        more = detections[detections["channel"] == channel]
        yx, other = (some[["y", "x"]].to_numpy() for some in (table, more))
        i, j = pair_mutually_nearest(yx, other, ONE_FIND * diameter)
        score, rival = table["score"].to_numpy()[i], more["score"].to_numpy()[j]
        share = (score / (score + rival))[:, None]
        higher = np.where(score >= rival, table.index[i], more.index[j])
        lower = np.where(score >= rival, more.index[j], table.index[i])
        table = pd.concat([table, more])
        table.loc[higher, ["y", "x"]] = share * yx[i] + (1 - share) * other[j]
        table = table.drop(lower)
    return table.sort_index().reset_index(drop=True)


def name_by_points(
    particles: pd.DataFrame, diameter: float, layers: int = 2
) -> tuple[pd.DataFrame, list[list[Lattice]]]:
    """Which of some layers every particle belongs to; parameters and results as of `assign_layers`.

    There are no grains, and ``lattices`` are the main ones; ``lattice_fit`` is unknown (NaN).
    """
    particles = particles.assign(grain=-1, lattice_fit=np.nan, other_layer=0)
    if len(particles) < GRAINS.fewest:
        return particles.assign(layer=1, layer_confidence=0.5), [[] for _ in range(layers)]
    yx, (graph, _) = particles[["y", "x"]].to_numpy(float), draw_graph(particles, diameter)
    namings = find_namings(graph, layers, np.random.default_rng(0))
    named = namings[0]
    sure = softmax(graph @ np.eye(layers)[named] / TEMPERATURE, axis=1)[np.arange(len(named)), named]
    doubt, other = weigh_doubt(graph, namings)
    sure = np.minimum(sure, 1 - doubt)
    spacing = typical_spacing(yx, named, diameter)
    reach = np.array([extent(yx[named == k], spacing) for k in range(layers)])
    number = (-reach).argsort(kind="stable").argsort() + 1
    confidence = np.clip(sure, 1 / layers, Evidence.ceiling)
    other = np.where(doubt > WORTH_KEEPING, number[other], 0)
    table = particles.assign(layer=number[named], layer_confidence=confidence, other_layer=other)
    table = drop_doubles(table, diameter)
    places = [table.loc[table["layer"] == k + 1, ["y", "x"]].to_numpy(float) for k in range(layers)]
    return table, [find_main_lattice(place, diameter) for place in places]


def find_main_lattice(points: np.ndarray, diameter: float) -> list[Lattice]:
    """The strongest lattice of a layer's particles, if they show one."""
    if len(points) < GRAINS.fewest:
        return []
    spacing = typical_spacing(points, np.zeros(len(points)), diameter)
    low, high = (factor * spacing for factor in GRAINS.spacing_range)
    lattice, strength = find_strongest(points, np.ones(len(points)), low, high)
    return [lattice] if strength > strength_by_chance(points, spacing) else []
