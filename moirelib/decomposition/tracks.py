"""Link particles from frame to frame into tracks, layer by layer.

Explained in chapter 7, "Particles".
"""

from __future__ import annotations

import pandas as pd
import trackpy

__all__ = ["link"]


def link(particles: pd.DataFrame, search_range: float, memory: int = 2) -> pd.DataFrame:
    """Link particles into tracks with trackpy, each layer on its own.

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

    References
    ----------
    Crocker & Grier, J. Colloid Interface Sci. 179, 298 (1996). Explained in chapter 7, "Particles".
    """
    particles = particles.assign(particle=-1)
    if particles["frame"].nunique() < 2:
        return particles
    trackpy.quiet()
    next_number, tables = 0, []
    for _, layer in particles.groupby("layer"):
        linked = trackpy.link(
            layer.drop(columns="particle"),
            search_range,
            memory=memory,
            pos_columns=["y", "x"],
            adaptive_stop=0.2 * search_range,  # crowded places are linked with a shorter range instead of not at all
            adaptive_step=0.9,
        )
        lengths = linked.groupby("particle")["frame"].transform("size")
        numbers = linked["particle"].where(lengths > 1)
        linked["particle"] = (pd.factorize(numbers)[0] + next_number).astype(int)
        linked.loc[numbers.isna(), "particle"] = -1
        next_number += numbers.nunique()
        tables.append(linked)
    return pd.concat(tables).sort_values(["frame", "layer", "particle", "y"], ignore_index=True)
