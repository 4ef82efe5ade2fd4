"""Link places from frame to frame, with trackpy: particles, defects, boundaries.

Explained in chapter 7, "Particles".
"""

from __future__ import annotations

import pandas as pd
import trackpy

__all__ = ["link_places"]


def link_places(
    places: pd.DataFrame, search_range: float, memory: int, narrowest: float = 0.2, step: float = 0.9
) -> pd.Series:
    """Number of the track that each place belongs to.

    Parameters
    ----------
    places : pandas.DataFrame
        ``frame``; every other column is a coordinate, in any one unit. The index names each row once.
    search_range : float
        Farthest a place may move from frame to frame, in the coordinates' unit.
    memory : int
        Frames for which a place may be missed and still keep its number.
    narrowest : float
        Crowded places are linked with a shorter range instead of not at all: down to this share of ``search_range``.
    step : float
        Factor by which the range is made shorter.

    Returns
    -------
    pandas.Series of int
        From 0, with the index of the places, sorted by frame.

    References
    ----------
    Crocker & Grier, J. Colloid Interface Sci. 179, 298 (1996).
    """
    trackpy.quiet()
    linked = trackpy.link(
        places,
        search_range,
        memory=memory,
        pos_columns=[c for c in places if c != "frame"],
        adaptive_stop=narrowest * search_range,
        adaptive_step=step,
    )
    return linked["particle"]
