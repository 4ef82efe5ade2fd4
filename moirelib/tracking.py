"""Link places from frame to frame, with trackpy: particles, defects, boundaries (chapter 7, "Particles")."""

import numpy as np
import pandas as pd
import trackpy


def link_places(
    places: pd.DataFrame, search_range: float, memory: int, narrowest: float = 0.2, step: float = 0.9
) -> pd.Series:
    """Number of the track, from 0, of each place (Crocker & Grier, J. Colloid Interface Sci. 179, 298, 1996).

    Every column of ``places`` but ``frame`` is a coordinate, in any one unit. The index names each row once; the result
    has it too, sorted by frame. A place may move by ``search_range`` from frame to frame, in that unit, and be missed
    for ``memory`` frames. Crowded places are linked with a shorter range instead of not at all: shortened by the factor
    ``step``, down to ``narrowest`` times ``search_range``.
    """
    trackpy.quiet()
    linked = trackpy.link(
        places,
        search_range,
        pos_columns=[c for c in places if c != "frame"],
        memory=memory,
        adaptive_stop=narrowest * search_range,
        adaptive_step=step,
        link_strategy="recursive",  # numba's would first be compiled, which takes 55 MB and some seconds
    )
    return linked["particle"]


def link_particles(
    particles: pd.DataFrame, search_range: float, memory: int = 2, places: tuple[str, str] = ("y", "x")
) -> pd.DataFrame:
    """Link particles into tracks, each layer on its own.

    Takes a table with ``frame, layer, y`` and the columns ``places`` to follow particles in: where they are, or
    where they would be if nothing had moved. Range and memory are as of `link_places`, the range below half the
    spacing, or links are ambiguous. The result has ``particle``: one number per track, unique over all layers; -1 where
    a particle was seen in one frame only.
    """
    particles = particles.reset_index(drop=True)
    number = np.full(len(particles), -1)
    if particles["frame"].nunique() < 2:
        return particles.assign(particle=number)
    layers = particles.groupby("layer").indices.values()
    tracks = pd.concat(link_places(particles.loc[rows, ["frame", *places]], search_range, memory) for rows in layers)
    same = tracks.groupby([particles.loc[tracks.index, "layer"], tracks])
    number[tracks.index] = pd.factorize(same.ngroup().where(same.transform("size") > 1))[0]  # -1 where seen once
    return particles.assign(particle=number).sort_values(["frame", "layer", "particle", "y"], ignore_index=True)
