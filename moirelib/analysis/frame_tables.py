"""Tables of what each frame holds: lattices, Moiré, defects, boundaries (chapter 9, "Order and defects")."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from .boundaries import BOUNDARY_COLUMNS
from .defects import DEFECT_COLUMNS, detect_defects
from .layer_frame import layer_frames, triangulate_layers
from .moire import fit_moire_of_grains, place_on

FRAME_TABLES = ("lattice", "moire", "defects", "boundaries")
LATTICE_COLUMNS = "frame layer grain spacing_nm angle_deg spacing_std_nm angle_std_deg shear psi6 n".split()
MOIRE_COLUMNS = (
    "frame twist_deg period_nm twist_std_deg period_std_nm formula_nm formula_std_nm rotation_deg "
    "offset_y_nm offset_x_nm offset_std_nm n"
).split()


def lattice_table(particles: pd.DataFrame) -> pd.DataFrame:
    """Lattices of every grain of every layer and frame; grains are numbered in each frame anew, by falling size.

    The table has ``frame, layer, grain, spacing_nm, angle_deg, spacing_std_nm, angle_std_deg, shear, psi6, n``: angle
    of a row from x towards y (0 to 60 degrees), standard deviations, mean |ψ6| of the grain's particles, particles
    used.
    """
    return _tabulate_lattices(layer_frames(particles))


def _tabulate_lattices(frames) -> pd.DataFrame:
    rows = []
    for frame, layers in frames:
        for name, layer in layers.items():
            for grain, fit in enumerate(layer.lattices):
                if fit is not None:
                    psi6 = float(np.nanmean(np.abs(layer.mesh.psi6[layer.grain == grain])))
                    errors = fit.spacing_std, fit.angle_std
                    rows.append((frame, name, grain, fit.spacing, fit.angle, *errors, fit.shear, psi6, fit.n))
    return pd.DataFrame(rows, columns=LATTICE_COLUMNS)


def moire_table(particles: pd.DataFrame) -> pd.DataFrame:
    """Twist, offset and Moiré period of the largest grains of layers 1 and 2, in frames where they lie on each other.

    The table has ``frame, twist_deg, period_nm, twist_std_deg, period_std_nm, formula_nm, formula_std_nm, rotation_deg,
    offset_y_nm, offset_x_nm, offset_std_nm, n``: see `Moire`.
    """
    return _tabulate_moire(layer_frames(particles))


def _tabulate_moire(frames) -> pd.DataFrame:
    rows = []
    for frame, layers in frames:
        if not {1, 2} <= set(layers):
            continue
        m = fit_moire_of_grains(layers[1], layers[2])
        if m is not None:
            errors = m.twist_std, m.period_std, m.formula, m.formula_std
            rows.append((frame, m.twist, m.period, *errors, m.rotation, *m.offset, m.offset_std, m.n))
    return pd.DataFrame(rows, columns=MOIRE_COLUMNS)


def defect_table(particles: pd.DataFrame, other_layer: bool = True) -> pd.DataFrame:
    """Defects of every layer and frame: ``frame, layer`` and the columns of `find_defects`.

    With ``other_layer`` also ``registry, coordinate`` of each defect on the other layer, as in `registry`.
    """
    return _tabulate_defects(layer_frames(particles), other_layer)[0]


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
    return _tabulate_defects(layer_frames(particles), other_layer=False)[1]


def _tabulate_defects(frames, other_layer=True) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Defects and boundaries."""
    all_defects, all_boundaries = [], []
    for frame, layers in frames:
        for name, layer in layers.items():
            found = detect_defects(layer)
            defects = found.defects
            if other_layer and 3 - name in layers:
                on = place_on(defects[["y_nm", "x_nm"]], layers[3 - name])
                defects = defects.assign(registry=on["registry"], coordinate=on["coordinate"])
            all_defects.append(defects.assign(frame=frame, layer=name))
            all_boundaries.append(found.boundaries.assign(frame=frame, layer=name))
    extra = ["registry", "coordinate"] if other_layer else []
    defects = _concatenate(all_defects, ["frame", "layer", *DEFECT_COLUMNS, *extra])
    return defects, _concatenate(all_boundaries, ["frame", "layer", *BOUNDARY_COLUMNS])


def _concatenate(parts, columns) -> pd.DataFrame:
    parts = [part for part in parts if len(part)]
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
    return table.reindex(columns=columns)


def tabulate_frames(
    frames: Iterable[tuple[int, dict[int, np.ndarray]]], names: Iterable[str] = FRAME_TABLES
) -> dict[str, pd.DataFrame]:
    """Those of `FRAME_TABLES` that are named, of some frames: numbers, and positions (n, 2) of each layer in nm."""
    triangulated = [(frame, triangulate_layers(layers)) for frame, layers in frames]
    tables = {}
    if "lattice" in names:
        tables["lattice"] = _tabulate_lattices(triangulated)
    if "moire" in names:
        tables["moire"] = _tabulate_moire(triangulated)
    if {"defects", "boundaries"} & set(names):
        tables["defects"], tables["boundaries"] = _tabulate_defects(triangulated)
    return tables
