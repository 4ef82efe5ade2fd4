"""Tables of what each frame holds: lattices, Moiré, defects, boundaries (chapter 9, "Order and defects")."""

from collections.abc import Collection, Iterable

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from ..crystal.mesh import Mesh
from ..crystal.neighbours import spans_plane
from ..tables import layers_by_frame
from .boundaries import BOUNDARY_COLUMNS
from .defects import DEFECT_COLUMNS, LayerDefects, find_defects
from .lattices import LayerFrame
from .moire import find_facing_layer, fit_moire_of_grains, registry

COVERED = 0.07  # spacings (by hand), a tenth of a usual diameter: an odd particle may be two that are this near
FRAME_TABLES = ("lattice", "moire", "defects", "boundaries")
FOUND_COLUMNS = {
    "defects": ["frame", "layer", *DEFECT_COLUMNS, "registry", "coordinate", "covered"],
    "boundaries": ["frame", "layer", *BOUNDARY_COLUMNS],
}
LATTICE_COLUMNS = "frame layer grain spacing_nm angle_deg spacing_std_nm angle_std_deg shear psi6 n".split()
MOIRE_COLUMNS = (
    "frame twist_deg period_nm twist_std_deg period_std_nm formula_nm formula_std_nm rotation_deg "
    "offset_y_nm offset_x_nm offset_std_nm n"
).split()


def lattice_table(particles: pd.DataFrame) -> pd.DataFrame:
    """Lattices of every grain of every layer and frame; grains are numbered in each frame anew, by falling size.

    The table has ``frame, layer, grain, spacing_nm, angle_deg`` (of a row, 0 to 60, from x towards y),
    ``spacing_std_nm, angle_std_deg, shear, psi6`` (mean |ψ6|) and ``n``, the particles used.
    """
    return tabulate_frames(layers_by_frame(particles), ["lattice"])["lattice"]


def moire_table(particles: pd.DataFrame) -> pd.DataFrame:
    """Twist, offset and Moiré period of the largest grains of layers 1 and 2, in frames where they lie on each other.

    The table has `MOIRE_COLUMNS`: see `Moire`.
    """
    return tabulate_frames(layers_by_frame(particles), ["moire"])["moire"]


def defect_table(particles: pd.DataFrame, other_layer: bool = True) -> pd.DataFrame:
    """Defects of all layers and frames as of `find_defects`; by default also where they are on other layers.

    ``registry, coordinate`` are those of `registry`; ``covered`` says of a vacancy whether a particle of another layer
    lies upon its site: one particle is then hardly told from two, and the vacancy may be none.
    """
    table = tabulate_frames(layers_by_frame(particles), ["defects"])["defects"]
    return table if other_layer else table.drop(columns=["registry", "coordinate", "covered"])


def boundary_table(particles: pd.DataFrame) -> pd.DataFrame:
    """Grain and twin boundaries of every layer and frame, in straight segments.

    The table has ``frame, layer``; ``kind``, twin where the two sides are mirror images across the boundary with a low
    Σ, else grain; ``y0_nm, x0_nm, y1_nm, x1_nm``, the ends; ``misorientation_deg`` (0 to 30) and ``inclination_deg`` (0
    to 180, from x towards y) with standard deviations; nearest ``sigma`` (1: a low-angle boundary; Brandon, Acta
    Metall. 14, 1479 (1966)) and the misorientation's ``sigma_deviation_deg`` from it; ``asymmetry_deg``, of the
    boundary from the lattices' mirror line; ``mirror_mismatch_nm``, of one lattice from the other's mirror image;
    ``dislocations``, pairs of five- and seven-fold particles along it, their mean ``dislocation_spacing_nm`` and
    Frank's ``frank_spacing_nm``, a / (2 sin(θ/2)) (Read & Shockley, Phys. Rev. 78, 275 (1950)); the grains' numbers.
    """
    return tabulate_frames(layers_by_frame(particles), ["boundaries"])["boundaries"]


def _are_covered(found: LayerDefects, others: list[np.ndarray]) -> np.ndarray:
    """Which defects of a layer are vacancies upon which a particle of other layers lies, positions (m, 2) in nm."""
    where, vacancy = found.defects[["y_nm", "x_nm"]].to_numpy(float), found.defects["kind"].to_numpy() == "vacancy"
    above = cKDTree(np.concatenate([np.empty((0, 2)), *others]))
    return vacancy & (above.query(where)[0] < COVERED * found.spacing)


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
                others = [points for other, points in positions.items() if other != name]
                defects = one.defects.assign(covered=_are_covered(one, others))
                if (facing := find_facing_layer(name, layers)) is not None:
                    on = registry(defects[["y_nm", "x_nm"]], layers[facing])
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
