"""Link places from frame to frame, with trackpy: particles, defects, boundaries (chapter 7, "Particles")."""

import numpy as np
import pandas as pd
import trackpy

from .tables import rows_of_frames


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
    places = places.sort_values("frame", kind="stable")
    frame, at = places["frame"].to_numpy(), places.drop(columns="frame").to_numpy(float)
    rows = rows_of_frames(frame - frame[0], int(frame[-1] - frame[0]) + 1)
    linked = trackpy.link_iter(  # `trackpy.link` takes several times the memory
        enumerate(at[now] for now in rows),
        search_range,
        memory=memory,
        adaptive_stop=narrowest * search_range,
        adaptive_step=step,
        link_strategy="recursive",  # numba's would first be compiled, which takes 55 MB and some seconds
    )
    return pd.Series(np.concatenate([np.array(numbers, int) for _, numbers in linked]), places.index)


def link_particles(
    particles: pd.DataFrame, search_range: float, memory: int = 2, places: tuple[str, str] = ("y", "x")
) -> pd.DataFrame:
    """Link particles into tracks, each layer on its own.

    Takes a table with ``frame, layer, y`` and the columns ``places`` to follow particles in: where they are, or
    where they would be if nothing had moved. Range and memory are as of `link_places`, the range below half the
    spacing, or links are ambiguous. The result has ``particle``: one number per track, unique over all layers; -1 where
    a particle was seen in one frame only.
    """
    number = number_tracks(particles.reset_index(drop=True)[["frame", "layer", *places]], search_range, memory)
    return particles.assign(particle=number).sort_values(["frame", "layer", "particle", "y"], ignore_index=True)


def number_tracks(places: pd.DataFrame, search_range: float, memory: int = 2) -> np.ndarray:
    """Numbers (n,) of the tracks as of `link_particles`; index of ``places`` from 0."""
    number = np.full(len(places), -1)
    if places["frame"].nunique() > 1:
        for rows in places.groupby("layer").indices.values():
            track = link_places(places.iloc[rows].drop(columns="layer"), search_range, memory)
            own = pd.factorize(track.where(np.bincount(track)[track] > 1))[0]  # -1 where seen once
            number[track.index] = np.where(own < 0, -1, own + number.max() + 1)
    return number
