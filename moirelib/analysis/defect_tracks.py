"""Follow defects and boundaries from frame to frame (chapter 9, "Order and defects")."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ..tables import require_columns
from ..tracking import link_places
from .defects import DEFECT_COLUMNS
from .occupancy import Occupancy

BOUNDARY_ENDS = "y0_nm x0_nm y1_nm x1_nm".split()


def follow_defects(
    defects: pd.DataFrame, search_range_nm: float, memory: int = 1, motion: dict[int, Occupancy] | None = None
) -> pd.DataFrame:
    """Link defects of one kind from frame to frame: hops of vacancies, glide and climb of dislocations.

    Dislocations are linked only if their Burgers vectors agree: it is a third and fourth coordinate, worth a search
    range for every spacing by which it differs. The table of `defect_table` comes back with ``defect``, one number per
    defect over all frames, layers and kinds; ``step_y_nm, step_x_nm`` since the frame it was last seen in, ``glide_nm``
    and ``climb_nm``, the step's parts along and across the Burgers vector (NaN for kinds without).

    Parameters
    ----------
    search_range_nm, memory : float, int
        Farthest that a defect may move from frame to frame, in nm: 1.3 spacings for hops to the next site; and number
        of frames for which it may be missed.
    motion : dict of int to Occupancy, optional
        Of the same movie: steps are those on the layer's own lattice, along the axes of the first frame. Without, steps
        hold the drift and turn of each layer.
    """
    require_columns(defects, ["frame", "layer", *DEFECT_COLUMNS[:5]], "the table of defects")
    if defects.empty:
        return defects.assign(defect=0, step_y_nm=np.nan, step_x_nm=np.nan, glide_nm=np.nan, climb_nm=np.nan)
    defects = defects.reset_index(drop=True)
    where, burgers = (defects[c].to_numpy(float) for c in (["y_nm", "x_nm"], ["burgers_y_nm", "burgers_x_nm"]))
    at_rest = subtract_motion(defects, where, motion)
    burgers = subtract_motion(defects, where + burgers, motion) - at_rest
    rest = pd.DataFrame(np.hstack([at_rest, burgers]), columns=["y", "x", "by", "bx"]).assign(frame=defects["frame"])
    parts = []
    for (_, kind), rows in defects.groupby(["layer", "kind"]):
        place = rest.loc[rows.index].copy()
        if kind == "dislocation":
            place[["by", "bx"]] *= search_range_nm / np.hypot(place["by"], place["bx"]).mean()
        parts.append(place if kind == "dislocation" else place[["frame", "y", "x"]])
    table = _number_tracks(defects, parts, "defect", search_range_nm, memory)
    rest = rest.loc[table.index]
    y, x = (rest.groupby(table["defect"])[axis].diff() for axis in "yx")
    length = np.hypot(rest["by"], rest["bx"])
    glide, climb = (y * rest["by"] + x * rest["bx"]) / length, (y * rest["bx"] - x * rest["by"]) / length
    return table.assign(step_y_nm=y, step_x_nm=x, glide_nm=glide, climb_nm=climb).reset_index(drop=True)


def subtract_motion(table: pd.DataFrame, points: ArrayLike, motion: dict[int, Occupancy] | None) -> np.ndarray:
    """Points (n, 2) in nm, of a table's rows (``frame, layer``), where they would be in the first frame.

    Rows of a layer that is not in ``motion`` stay where they are.
    """
    points = np.array(points, float)
    for layer, rows in table.groupby("layer").indices.items():
        own = (motion or {}).get(layer)
        if own is None:
            continue
        frame = table["frame"].to_numpy()[rows]
        row = np.minimum(np.searchsorted(own.frames, frame), len(own.frames) - 1)
        if (wrong := own.frames[row] != frame).any():
            raise ValueError(
                f"motion of layer {layer} has no frame {frame[wrong][0]}; pass the occupancy of the same movie"
            )
        points[rows] = own.in_first_frame(points[rows], row)
    return points


def _number_tracks(table, parts, name, search_range, memory) -> pd.DataFrame:
    """A table with a number for each track, sorted by it; places of each part are linked among themselves."""
    number = pd.Series(0, table.index)
    for place in parts:
        number[place.index] = link_places(place, search_range, memory, narrowest=0.1) + number.max() + 1
    return table.assign(**{name: number - 1}).sort_values([name, "frame"])


def follow_boundaries(
    boundaries: pd.DataFrame, search_range_nm: float, memory: int = 1, motion: dict[int, Occupancy] | None = None
) -> pd.DataFrame:
    """Link boundaries of `boundary_table` from frame to frame, and how far each migrates across itself.

    Parameters are as for `follow_defects`; it is the middle of a segment that moves. The table comes back with
    ``boundary``, one number per boundary, and ``migration_nm``: the step of its middle since the frame it was last seen
    in, to the +90° side of the direction that it had when it was first seen (0 to 180°).
    """
    require_columns(boundaries, ["frame", "layer", *BOUNDARY_ENDS], "the table of boundaries")
    if boundaries.empty:
        return boundaries.assign(boundary=0, migration_nm=np.nan)
    boundaries = boundaries.reset_index(drop=True)
    start, end = (subtract_motion(boundaries, boundaries[[f"y{k}_nm", f"x{k}_nm"]], motion) for k in "01")
    rest = pd.DataFrame((start + end) / 2, columns=["y", "x"]).assign(frame=boundaries["frame"])
    rest["direction"] = np.arctan2(*(end - start).T) % np.pi
    parts = [places for _, places in rest[["frame", "y", "x"]].groupby(boundaries["layer"])]
    table = _number_tracks(boundaries, parts, "boundary", search_range_nm, memory)
    own = rest.loc[table.index].groupby(table["boundary"])
    step = own[["y", "x"]].diff()
    t = own["direction"].transform(lambda angles: np.unwrap(angles, period=np.pi))  # no leap between 180° and 0°
    return table.assign(migration_nm=step["y"] * np.cos(t) - step["x"] * np.sin(t)).reset_index(drop=True)
