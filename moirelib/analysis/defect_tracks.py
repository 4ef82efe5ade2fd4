"""Tables of defects and boundaries, frame by frame, and their tracks.

Explained in chapter 9, "Order and defects".
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import trackpy

from ..crystal.neighbours import spans_plane
from ..tables import layers_by_frame, require_columns
from .boundaries import BOUNDARY_COLUMNS, Tolerance
from .defects import DEFECT_COLUMNS, find_defects
from .moire import registry

__all__ = ["boundary_table", "defect_table", "defect_tables", "follow_boundaries", "follow_defects"]

BOUNDARY_ENDS = "y0_nm x0_nm y1_nm x1_nm".split()


# --- Movies ---


def defect_table(particles: pd.DataFrame, tolerance: Tolerance | None = None, other_layer: bool = True) -> pd.DataFrame:
    """Defects of every layer and frame.

    Parameters
    ----------
    particles : pandas.DataFrame
        ``frame, layer, y_nm, x_nm``.
    tolerance : Tolerance, optional
        What is a grain and what is a twin.
    other_layer : bool
        Add where on the other layer's lattice each defect lies.

    Returns
    -------
    pandas.DataFrame
        ``frame, layer, kind, y_nm, x_nm, burgers_y_nm, burgers_x_nm, in_boundary`` as in `find_defects`, and
        ``registry, coordinate`` as in `moirelib.analysis.registry` with two layers.

    Raises
    ------
    ValueError
        If a column is missing or holds something else than numbers.

    Notes
    -----
    Explained in chapter 9, "Order and defects".
    """
    return defect_tables(particles, tolerance, other_layer)[0]


def boundary_table(particles: pd.DataFrame, tolerance: Tolerance | None = None) -> pd.DataFrame:
    """Grain and twin boundaries of every layer and frame, in straight segments.

    Parameters
    ----------
    particles : pandas.DataFrame
        ``frame, layer, y_nm, x_nm``.
    tolerance : Tolerance, optional
        What is a grain and what is a twin.

    Returns
    -------
    pandas.DataFrame
        ``frame, layer``; ``kind``, twin where the two sides are mirror images across the boundary with a low Σ, else
        grain; ``y0_nm, x0_nm, y1_nm, x1_nm``, the ends; ``misorientation_deg`` (0 to 30) and ``inclination_deg`` (0 to
        180, from x towards y) with standard deviations; nearest ``sigma`` (1: a low-angle boundary) and the
        misorientation's ``sigma_deviation_deg`` from it; ``asymmetry_deg``, of the boundary from the lattices' mirror
        line; ``mirror_mismatch_nm``, of one lattice from the other's mirror image; ``dislocations``, pairs of five- and
        seven-fold particles along it, their mean ``dislocation_spacing_nm`` (NaN for fewer than two) and Frank's
        ``frank_spacing_nm``, a / (2 sin(θ/2)); the grains' numbers.

    Raises
    ------
    ValueError
        If a column is missing or holds something else than numbers.

    References
    ----------
    Brandon, Acta Metall. 14, 1479 (1966); Read & Shockley, Phys. Rev. 78, 275 (1950). Explained in chapter 9, "Order
    and defects".
    """
    return defect_tables(particles, tolerance, False)[1]


def defect_tables(
    particles: pd.DataFrame, tolerance: Tolerance | None = None, other_layer: bool = True
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Defects and boundaries of every layer and frame, in one pass.

    Parameters
    ----------
    particles, tolerance, other_layer
        As for `defect_table`.

    Returns
    -------
    defects, boundaries : pandas.DataFrame
        As from `defect_table` and `boundary_table`.

    Raises
    ------
    ValueError
        If a column is missing or holds something else than numbers.

    Notes
    -----
    Explained in chapter 9, "Order and defects".
    """
    all_defects, all_boundaries = [], []
    for frame, both in layers_by_frame(particles):
        found = {k: find_defects(points, tolerance=tolerance) for k, points in both.items() if spans_plane(points)}
        for layer, analysis in found.items():
            defects = analysis.defects
            if other_layer and 3 - layer in found:
                other = found[3 - layer]
                on = registry(defects[["y_nm", "x_nm"]], both[3 - layer], other.spacing, other.grain)
                defects = defects.assign(registry=on["registry"], coordinate=on["coordinate"])
            all_defects.append(defects.assign(frame=frame, layer=layer))
            all_boundaries.append(analysis.boundaries.assign(frame=frame, layer=layer))
    extra = ["registry", "coordinate"] if other_layer else []
    defects = _joined(all_defects, ["frame", "layer", *DEFECT_COLUMNS, *extra])
    return defects, _joined(all_boundaries, ["frame", "layer", *BOUNDARY_COLUMNS])


def _joined(parts, columns) -> pd.DataFrame:
    parts = [part for part in parts if len(part)]
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
    return table.reindex(columns=columns)


def follow_defects(defects: pd.DataFrame, search_range_nm: float, memory: int = 1, motion=None) -> pd.DataFrame:
    """Link defects of one kind from frame to frame: hops of vacancies, glide and climb of dislocations.

    Parameters
    ----------
    defects : pandas.DataFrame
        From `defect_table`.
    search_range_nm : float
        Farthest that a defect may move from frame to frame, in nm; 1.3 spacings for hops to the next site.
    memory : int
        Frames for which a defect may be missed.
    motion : dict of int to moirelib.analysis.Occupancy, optional
        Of the same movie, from `moirelib.analysis.site_occupancy`: the drift and turn of each layer are taken out.
        Without, steps hold them.

    Returns
    -------
    pandas.DataFrame
        The table with ``defect``, one number per defect over all frames, layers and kinds; ``step_y_nm, step_x_nm``
        since the frame it was last seen in, ``glide_nm`` and ``climb_nm``, the step's parts along and across the
        Burgers vector (NaN for kinds without). With ``motion``, steps are those on the layer's own lattice, along the
        axes of the first frame.

    Raises
    ------
    ValueError
        If a column is missing, or ``motion`` is of another movie.

    Notes
    -----
    Dislocations are linked only if their Burgers vectors agree: it is a third and fourth coordinate, worth a search
    range for every spacing by which it differs. Linked by trackpy (Crocker & Grier, J. Colloid Interface Sci. 179, 298
    (1996)). Explained in chapter 9, "Order and defects".
    """
    require_columns(defects, ["frame", "layer", *DEFECT_COLUMNS[:5]], "the table of defects")
    if defects.empty:
        return defects.assign(defect=0, step_y_nm=np.nan, step_x_nm=np.nan, glide_nm=np.nan, climb_nm=np.nan)
    defects = defects.reset_index(drop=True)
    where, burgers = (defects[c].to_numpy(float) for c in (["y_nm", "x_nm"], ["burgers_y_nm", "burgers_x_nm"]))
    at_rest = _at_rest(defects, where, motion)
    burgers = _at_rest(defects, where + burgers, motion) - at_rest
    rest = pd.DataFrame(np.hstack([at_rest, burgers]), columns=["y", "x", "by", "bx"]).assign(frame=defects["frame"])
    parts = []
    for (_, kind), rows in defects.groupby(["layer", "kind"]):
        place = rest.loc[rows.index, ["frame", "y", "x"]].copy()
        if kind == "dislocation":
            b = rest.loc[rows.index, ["by", "bx"]]
            place[["by", "bx"]] = b * search_range_nm / np.hypot(*b.to_numpy(float).T).mean()
        parts.append((rows, place))
    table = _linked(parts, "defect", search_range_nm, memory)
    rest = rest.loc[table.index]
    step_y, step_x = rest.groupby(table["defect"])[["y", "x"]].diff().to_numpy().T
    length = np.hypot(rest["by"], rest["bx"])
    return table.assign(
        step_y_nm=step_y,
        step_x_nm=step_x,
        glide_nm=(step_y * rest["by"] + step_x * rest["bx"]) / length,
        climb_nm=(step_y * rest["bx"] - step_x * rest["by"]) / length,
    ).reset_index(drop=True)


def _at_rest(table, points, motion) -> np.ndarray:
    """Points (n, 2) of a table's rows where they would be in the first frame, moving with their layers."""
    points = np.array(points, float)
    for (layer, frame), rows in table.groupby(["layer", "frame"]).indices.items():
        own = (motion or {}).get(layer)
        if own is None:
            continue
        row = np.flatnonzero(own.frames == frame)
        if len(row) == 0:
            raise ValueError(f"motion of layer {layer} has no frame {frame}; pass the occupancy of the same movie")
        points[rows] = own.in_first_frame(points[rows], row[0])
    return points


def _linked(parts, name, search_range, memory) -> pd.DataFrame:
    """Rows with a number for everything that trackpy takes for one, sorted by it; parts are pairs of rows and places.

    Crowded places are linked with a shorter range instead of not at all.
    """
    trackpy.quiet()
    tables, number = [], 0
    for rows, place in parts:
        columns = [c for c in place if c != "frame"]
        linked = trackpy.link(place, search_range, memory=memory, pos_columns=columns,
                              adaptive_stop=0.1 * search_range, adaptive_step=0.9)  # fmt: skip
        tables.append(rows.assign(**{name: linked["particle"].reindex(rows.index) + number}))
        number = tables[-1][name].max() + 1
    return pd.concat(tables).sort_values([name, "frame"])


def follow_boundaries(boundaries: pd.DataFrame, search_range_nm: float, memory: int = 1, motion=None) -> pd.DataFrame:
    """Link boundaries from frame to frame, and how far each migrates across itself.

    Parameters
    ----------
    boundaries : pandas.DataFrame
        From `boundary_table`.
    search_range_nm : float
        Farthest that the middle of a segment may move from frame to frame, in nm.
    memory : int
        Frames for which a boundary may be missed.
    motion : dict of int to moirelib.analysis.Occupancy, optional
        As for `follow_defects`.

    Returns
    -------
    pandas.DataFrame
        The table with ``boundary``, one number per boundary, and ``migration_nm``: the step of its middle since the
        frame it was last seen in, to the +90° side of the direction that it had when it was first seen (0 to 180°).

    Raises
    ------
    ValueError
        If a column is missing, or ``motion`` is of another movie.

    Notes
    -----
    Explained in chapter 9, "Order and defects".
    """
    require_columns(boundaries, ["frame", "layer", *BOUNDARY_ENDS], "the table of boundaries")
    if boundaries.empty:
        return boundaries.assign(boundary=0, migration_nm=np.nan)
    boundaries = boundaries.reset_index(drop=True)
    start, end = (_at_rest(boundaries, boundaries[[f"y{k}_nm", f"x{k}_nm"]], motion) for k in "01")
    rest = pd.DataFrame((start + end) / 2, columns=["y", "x"]).assign(frame=boundaries["frame"])
    rest["direction"] = np.arctan2(*(end - start).T) % np.pi
    parts = [(rows, rest.loc[rows.index, ["frame", "y", "x"]]) for _, rows in boundaries.groupby("layer")]
    table = _linked(parts, "boundary", search_range_nm, memory)
    own = rest.loc[table.index].groupby(table["boundary"])
    step = own[["y", "x"]].diff()
    t = own["direction"].transform(lambda angles: np.unwrap(angles, period=np.pi))  # no leap between 180° and 0°
    return table.assign(migration_nm=step["y"] * np.cos(t) - step["x"] * np.sin(t)).reset_index(drop=True)
