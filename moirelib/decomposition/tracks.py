"""Link particles from frame to frame into tracks, layer by layer.

Explained in chapter 7, "Particles".
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..tracking import link_places

__all__ = ["link"]


def link(particles: pd.DataFrame, search_range: float, memory: int = 2) -> pd.DataFrame:
    """Link particles into tracks, each layer on its own.

    Parameters
    ----------
    particles : pandas.DataFrame
        With ``frame, layer, y, x`` (px).
    search_range : float
        Farthest a particle may move from frame to frame, in pixels; below half the spacing, or links are ambiguous.
    memory : int
        Frames for which a particle may be missed and still keep its number.

    Returns
    -------
    pandas.DataFrame
        The table with ``particle``: one number per track, unique over both layers; -1 where a particle was seen in
        one frame only.
    """
    particles = particles.assign(particle=-1).reset_index(drop=True)
    if particles["frame"].nunique() < 2:
        return particles
    next_number, tables = 0, []
    for _, layer in particles.groupby("layer"):
        track = link_places(layer[["frame", "y", "x"]], search_range, memory)
        numbers = track.where(track.map(track.value_counts()) > 1)
        found = pd.factorize(numbers)[0]  # -1 for a track of one frame
        tables.append(layer.loc[track.index].assign(particle=np.where(found < 0, -1, found + next_number)))
        next_number += numbers.nunique()
    return pd.concat(tables).sort_values(["frame", "layer", "particle", "y"], ignore_index=True)
