"""Particles as sites in three dimensions, for OVITO and ASE (chapter 11, "Your movie")."""

import numpy as np
import pandas as pd
from ase import Atoms

NM_TO_ANGSTROM = 10.0  # ASE counts in Å


def to_atoms(particles: pd.DataFrame, gap: float | None = None) -> list[Atoms]:
    """One site per particle, one `ase.Atoms` per frame.

    ``particles`` have ``frame, layer, y_nm, x_nm, diameter_nm`` and, where known, ``particle`` and
    ``layer_confidence``. ``gap`` is the height of a layer over the next lower one, in nm; by default the median
    diameter, as of spheres that are stacked on top of each other. Which of two layers is on top no image shows: layer 1
    is put at the bottom. ValueError if there are no particles, or the gap is not positive or not known.

    Positions (x, y, z) are in Å, as ASE has them, with the y axis up: y is minus ``y_nm``. Arrays are ``layer``,
    ``diameter`` (Å), ``particle`` (-1: in no track) and ``layer_confidence``.
    """
    if len(particles) == 0:
        raise ValueError("there are no particles to export")
    if gap is None and "diameter_nm" not in particles:
        raise ValueError("the particles have no column diameter_nm, so the gap between layers must be given, in nm")
    gap = float(particles["diameter_nm"].median()) if gap is None else gap
    if not gap > 0:
        raise ValueError(f"the gap between layers must be a positive number of nm, got {gap}")
    frames = []
    for frame, table in particles.groupby("frame"):
        height = (table["layer"].to_numpy() - 1) * gap
        places = np.column_stack([table["x_nm"], -table["y_nm"], height])
        atoms = Atoms("X" * len(table), positions=NM_TO_ANGSTROM * places, pbc=False)
        atoms.info["frame"] = int(frame)
        atoms.set_array("layer", table["layer"].to_numpy(int))
        if "diameter_nm" in table:
            atoms.set_array("diameter", NM_TO_ANGSTROM * table["diameter_nm"].to_numpy(float))
        if "particle" in table:
            atoms.set_array("particle", table["particle"].fillna(-1).to_numpy(int))
        if "layer_confidence" in table:
            atoms.set_array("layer_confidence", table["layer_confidence"].to_numpy(float))
        frames.append(atoms)
    return frames
