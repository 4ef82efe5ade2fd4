"""Regions of a frame that can be named two ways (chapter 7, "Particles")."""

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from ..crystal.neighbours import NEIGHBOUR_REACH, SPACING_PER_DIAMETER, connected_groups

REACH = NEIGHBOUR_REACH * SPACING_PER_DIAMETER  # diameters: neighbours of one layer, where no spacing is known


def find_alternatives(particles: pd.DataFrame) -> pd.DataFrame:
    """Particles of regions that can be named two ways: the other layers that they may be in, and how likely.

    Parameters
    ----------
    particles : pandas.DataFrame
        With ``frame, layer, other_layer, layer_confidence, y_nm, x_nm, diameter_nm``; ``other_layer`` is 0 or empty
        outside such regions.

    Returns
    -------
    pandas.DataFrame
        Rows of ``particles`` under their own index: ``frame``, ``region`` (contiguous; from 1 in each frame),
        ``layer``, ``other_layer``, ``probability`` (of the other layer), ``y_nm``, ``x_nm``.
    """
    some = particles[particles["other_layer"].fillna(0) > 0]
    region = pd.Series(0, index=some.index)
    for _, rows in some.groupby("frame"):
        reach = REACH * float(rows["diameter_nm"].median())
        i, j = cKDTree(rows[["y_nm", "x_nm"]]).query_pairs(reach, output_type="ndarray").T
        region[rows.index] = connected_groups(len(rows), i, j) + 1
    some = some.assign(region=region, probability=1 - some["layer_confidence"])
    some["other_layer"] = some["other_layer"].astype(int)
    return some[["frame", "region", "layer", "other_layer", "probability", "y_nm", "x_nm"]]


def list_regions(alternatives: pd.DataFrame) -> list[dict]:
    """One entry for each region: ``frame``, ``region``, ``particles``, its middle in nm, and ``probability``."""
    return [
        {
            "frame": int(frame),
            "region": int(region),
            "particles": len(rows),
            "y_nm": round(float(rows["y_nm"].mean()), 2),
            "x_nm": round(float(rows["x_nm"].mean()), 2),
            "probability": round(float(np.median(rows["probability"])), 3),
        }
        for (frame, region), rows in alternatives.groupby(["frame", "region"])
    ]


def describe_regions(regions: list[dict]) -> str:
    """A sentence about regions of `list_regions`; empty where there are none."""
    if not regions:
        return ""
    count, frames = sum(one["particles"] for one in regions), len({one["frame"] for one in regions})
    where = "a region" if len(regions) == 1 else f"{len(regions)} regions"
    where += f" of {frames} frames" if frames > 1 else ""
    return (
        f"In {where}, of {count} particles in all, the other naming of the layers is nearly as likely (see "
        "undecided_regions, and other_layer in the table)."
    )
