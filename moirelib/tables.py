"""Tables of particles: one check of what every analysis takes in (chapter 7, "Particles")."""

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd

PARTICLE_COLUMNS = ("frame", "layer", "y_nm", "x_nm")  # what an analysis of single frames needs; lengths in nm
#: What an analysis of motion needs; ``particle`` is the track's number, -1 where there is none.
TRACK_COLUMNS = ("frame", "particle", "layer", "y_nm", "x_nm")


def require_columns(table: pd.DataFrame, columns: Iterable[str], name: str) -> None:
    """Raise ValueError if a table, called `name` in the message, lacks one of some columns."""
    columns = list(columns)
    missing = [c for c in columns if c not in table]
    if missing:
        raise ValueError(f"{name} has no column {', '.join(missing)}; needed are {', '.join(columns)} (lengths in nm)")


def check_particles(
    table: pd.DataFrame, columns: Iterable[str] = TRACK_COLUMNS, name: str = "the particle table"
) -> pd.DataFrame:
    """A particle table whose columns are there and hold finite numbers; else ValueError.

    ``columns`` are `PARTICLE_COLUMNS` or `TRACK_COLUMNS`; ``name`` says in the message what the table is. The same rows
    and columns come back; ``frame``, ``particle`` and ``layer`` are integers, positions floats.
    """
    columns = list(columns)
    require_columns(table, columns, name)
    numbers = {c: pd.to_numeric(table[c], errors="coerce") for c in columns}
    known = [np.isfinite(numbers[c].to_numpy(float)) for c in columns]
    if bad := [(int(good.argmin()), column) for column, good in enumerate(known) if not good.all()]:
        row, column = min(bad)
        raise ValueError(f"{name}: {columns[column]} in data row {row + 1} is not a number; correct or remove that row")
    whole = [c for c in columns if c in ("frame", "particle", "layer")]
    if any(np.any(numbers[c].to_numpy() % 1) for c in whole) or (numbers["frame"] < 0).any():
        raise ValueError(f"{name}: {', '.join(whole)} must be whole numbers, frames from 0 on; number them anew")
    types = {c: np.dtype(int if c in whole else float) for c in columns}
    return table.assign(**{c: numbers[c].astype(types[c]) for c in columns if table[c].dtype != types[c]})


def require_unique_tracks(tracks: pd.DataFrame) -> None:
    """Raise ValueError if a track is in two places of a frame; particle -1, of no track, may be."""
    frame, layer, particle = (tracks[c].to_numpy() for c in ("frame", "layer", "particle"))
    for k in np.unique(layer):
        own = (layer == k) & (particle >= 0)
        names = np.sort(frame[own].astype(int) * (particle.max() + 1) + particle[own])
        if len(twice := names[1:][names[1:] == names[:-1]]):
            at, number = divmod(int(twice[0]), int(particle.max()) + 1)
            raise ValueError(f"particle {number} of layer {k} stands twice in frame {at}; link the tracks again")


def layers_by_frame(particles: pd.DataFrame) -> Iterator[tuple[int, dict[int, np.ndarray]]]:
    """Frame number, and positions (n, 2) of each layer in it as (y, x) in nm, in rising order of the frames."""
    for frame, rows in check_particles(particles, PARTICLE_COLUMNS).groupby("frame"):
        yield int(frame), {int(k): own[["y_nm", "x_nm"]].to_numpy() for k, own in rows.groupby("layer")}
