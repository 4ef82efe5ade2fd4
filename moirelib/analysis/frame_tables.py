"""Tables of what each frame holds, and what lasts from frame to frame (chapter 9, "Order and defects")."""

from collections.abc import Collection, Iterable

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ..crystal.mesh import Mesh
from ..crystal.neighbours import spans_plane
from ..tables import layers_by_frame, require_columns
from ..tracking import link_places
from .boundaries import BOUNDARY_COLUMNS
from .defects import DEFECT_COLUMNS, find_defects
from .lattices import LayerFrame
from .moire import fit_moire_of_grains, registry
from .occupancy import Occupancy

FRAME_TABLES = ("lattice", "moire", "defects", "boundaries")
FOUND_COLUMNS = {
    "defects": ["frame", "layer", *DEFECT_COLUMNS, "registry", "coordinate"],
    "boundaries": ["frame", "layer", *BOUNDARY_COLUMNS],
}
LATTICE_COLUMNS = "frame layer grain spacing_nm angle_deg spacing_std_nm angle_std_deg shear psi6 n".split()
MOIRE_COLUMNS = (
    "frame twist_deg period_nm twist_std_deg period_std_nm formula_nm formula_std_nm rotation_deg "
    "offset_y_nm offset_x_nm offset_std_nm n"
).split()
BOUNDARY_ENDS = "y0_nm x0_nm y1_nm x1_nm".split()


def lattice_table(particles: pd.DataFrame) -> pd.DataFrame:
    """Lattices of every grain of every layer and frame; grains are numbered in each frame anew, by falling size.

    The table has ``frame, layer, grain, spacing_nm, angle_deg, spacing_std_nm, angle_std_deg, shear, psi6, n``: angle
    of a row from x towards y (0 to 60 degrees), standard deviations, mean |ψ6| of the grain's particles, particles
    used.
    """
    return tabulate_frames(layers_by_frame(particles), ["lattice"])["lattice"]


def moire_table(particles: pd.DataFrame) -> pd.DataFrame:
    """Twist, offset and Moiré period of the largest grains of layers 1 and 2, in frames where they lie on each other.

    The table has ``frame, twist_deg, period_nm, twist_std_deg, period_std_nm, formula_nm, formula_std_nm, rotation_deg,
    offset_y_nm, offset_x_nm, offset_std_nm, n``: see `Moire`.
    """
    return tabulate_frames(layers_by_frame(particles), ["moire"])["moire"]


def defect_table(particles: pd.DataFrame, other_layer: bool = True) -> pd.DataFrame:
    """Defects of all layers and frames as of `find_defects`; by default with ``registry, coordinate`` of `registry`."""
    table = tabulate_frames(layers_by_frame(particles), ["defects"])["defects"]
    return table if other_layer else table.drop(columns=["registry", "coordinate"])


def boundary_table(particles: pd.DataFrame) -> pd.DataFrame:
    """Grain and twin boundaries of every layer and frame, in straight segments.

    The table has ``frame, layer``; ``kind``, twin where the two sides are mirror images across the boundary with a low
    Σ, else grain; ``y0_nm, x0_nm, y1_nm, x1_nm``, the ends; ``misorientation_deg`` (0 to 30) and ``inclination_deg`` (0
    to 180, from x towards y) with standard deviations; nearest ``sigma`` (1: a low-angle boundary) and the
    misorientation's ``sigma_deviation_deg`` from it; ``asymmetry_deg``, of the boundary from the lattices' mirror line;
    ``mirror_mismatch_nm``, of one lattice from the other's mirror image; ``dislocations``, pairs of five- and
    seven-fold particles along it, their mean ``dislocation_spacing_nm`` (NaN for fewer than two) and Frank's
    ``frank_spacing_nm``, a / (2 sin(θ/2)); the grains' numbers. See Brandon, Acta Metall. 14, 1479 (1966); Read &
    Shockley, Phys. Rev. 78, 275 (1950).
    """
    return tabulate_frames(layers_by_frame(particles), ["boundaries"])["boundaries"]


def tabulate_frames(
    frames: Iterable[tuple[int, dict[int, np.ndarray]]], names: Collection[str] = FRAME_TABLES
) -> dict[str, pd.DataFrame]:
    """Those of `FRAME_TABLES` that are named, of some frames: numbers, and positions (n, 2) of each layer in nm."""
    lattices, moires = [], []
    found: dict[str, list[pd.DataFrame]] = {name: [] for name in FOUND_COLUMNS}
    for frame, positions in frames:
        layers = {layer: LayerFrame(Mesh(points)) for layer, points in positions.items() if spans_plane(points)}
        if "moire" in names and {1, 2} <= set(layers) and (m := fit_moire_of_grains(layers[1], layers[2])):
            errors = m.twist_std, m.period_std, m.formula, m.formula_std
            moires.append((frame, m.twist, m.period, *errors, m.rotation, *m.offset, m.offset_std, m.n))
        for name, layer in layers.items():
            for grain, fit in enumerate(layer.lattices if "lattice" in names else ()):
                if fit is not None:
                    psi6 = float(np.nanmean(np.abs(layer.mesh.psi6[layer.grain == grain])))
                    values = fit.spacing, fit.angle, fit.spacing_std, fit.angle_std
                    lattices.append((frame, name, grain, *values, fit.shear, psi6, fit.n))
            if {"defects", "boundaries"} & set(names):
                one = find_defects(layer)
                defects = one.defects
                if 3 - name in layers:
                    on = registry(defects[["y_nm", "x_nm"]], layers[3 - name])
                    defects = defects.join(on[["registry", "coordinate"]])
                for key, table in (("defects", defects), ("boundaries", one.boundaries)):
                    if len(table):
                        found[key].append(table.assign(frame=frame, layer=name))
    tables = {"lattice": pd.DataFrame(lattices, columns=LATTICE_COLUMNS)}
    tables["moire"] = pd.DataFrame(moires, columns=MOIRE_COLUMNS)
    for key, columns in FOUND_COLUMNS.items():
        whole = pd.concat(found[key], ignore_index=True) if found[key] else pd.DataFrame(columns=columns)
        tables[key] = whole.reindex(columns=columns)
    return {name: tables[name] for name in names}


def follow_defects(
    defects: pd.DataFrame, search_range_nm: float, memory: int = 1, motion: dict[int, Occupancy] | None = None
) -> pd.DataFrame:
    """Link defects of one kind from frame to frame: hops of vacancies, glide and climb of dislocations.

    Dislocations are linked only if their Burgers vectors agree: a spacing of difference counts like a search range. The
    table of `defect_table` comes back with ``defect``, one number per defect over all frames, layers and kinds;
    ``step_y_nm, step_x_nm`` since the frame it was last seen in, ``glide_nm`` and ``climb_nm``, the step's parts along
    and across the Burgers vector (NaN for kinds without).

    A defect may move by the search range, in nm, from frame to frame (1.3 spacings for hops to the next site), and be
    missed for ``memory`` frames. With the ``motion`` of the same movie, steps are those on the layer's own lattice,
    along the axes of the first frame; without, they hold the drift and turn of each layer.
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
    """Points (n, 2) in nm of rows (``frame, layer``), where they would be in the first frame, if motion is known."""
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
