"""Curves: phonon dispersion and growth."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from .axes import LAYER_COLORS, OUTLINES, choose_axes, choose_color, place_table

if TYPE_CHECKING:
    from ..crystal.brillouin import SymmetryPath


def show_dispersion(
    phonons: pd.DataFrame,
    ax: Axes | None = None,
    theory: Callable[[np.ndarray], np.ndarray] | None = None,
    path: SymmetryPath | None = None,
) -> Axes:
    """Draw a phonon dispersion along Γ-M-K-Γ, with its fit and a theory.

    Parameters
    ----------
    phonons : pandas.DataFrame
        Of `moirelib.analysis.dispersion`.
    theory : callable, optional
        Gives D(q), shape (m, 2, 2) in kT/nm², for wave vectors (m, 2); its two stiffnesses are drawn in black.
    path : moirelib.crystal.SymmetryPath, optional
        Where the theory is drawn; at the table's wave vectors by default.
    """
    ax = choose_axes(ax)
    for branch, color, marker in zip(("longitudinal", "transverse"), LAYER_COLORS, "os", strict=True):
        rows = phonons[phonons["branch"] == branch]
        distance, stiffness, error = rows["distance_per_nm"], rows["stiffness_kt_nm2"], rows["stiffness_std_kt_nm2"]
        ax.errorbar(distance, stiffness, error, fmt=marker, ms=3.5, color=color, lw=1, label=branch)
        if "model_kt_nm2" in rows:
            ax.plot(distance, rows["model_kt_nm2"], color=color, lw=1.2)
    if theory is not None:
        q = phonons[phonons["branch"] == "longitudinal"]
        wave_vectors = q[["q_y_per_nm", "q_x_per_nm"]].to_numpy() if path is None else path.wave_vectors
        distance = q["distance_per_nm"] if path is None else path.distance
        lines = ax.plot(distance, np.linalg.eigvalsh(theory(wave_vectors)), "--", color="black", lw=1)
        lines[0].set_label("theory")
    ticks = phonons.attrs.get("ticks", ())
    for tick in ticks:
        ax.axvline(tick, color="0.8", lw=0.8, zorder=0)
    if ticks:
        ax.set(xticks=ticks, xticklabels=["Γ", "M", "K", "Γ"], xlim=(0, ticks[-1]))
    ax.set(xlabel="wave vector", ylabel="stiffness / (kT/nm²)", ylim=(0, None))
    ax.legend(frameon=False, fontsize=8)
    return ax


def show_msd(msd: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the mean squared displacement of every layer against the lag, with standard errors.

    Of `moirelib.analysis.mean_squared_displacement`; dotted, with the localization error's part. The lag is in frames
    where its time is not known.
    """
    ax = choose_axes(ax)
    known = msd["lag_s"].notna().all()
    for layer, rows in msd.groupby("layer"):
        lag, color = rows["lag_s" if known else "lag_frames"], choose_color(layer)
        ax.errorbar(
            lag, rows["msd_nm2"], rows["msd_std_nm2"], fmt="o-", ms=3, lw=1, color=color, label=f"layer {layer}"
        )
        ax.plot(lag, rows["msd_raw_nm2"], ":", color=color, lw=1)
    ax.set(xlabel="lag / s" if known else "lag / frames", ylabel="mean squared displacement / nm²", ylim=(0, None))
    ax.legend(frameon=False, fontsize=8)
    return ax


def show_sizes(
    sizes: pd.DataFrame, ax: Axes | None = None, frame_time: float | None = None, column: str = "number"
) -> Axes:
    """Draw the size of every layer against time.

    Of `moirelib.analysis.size_table`: its ``column`` ``number``, ``area_nm2`` or ``radius_nm``. Without a
    ``frame_time``, in s, time is in frames.
    """
    ax = choose_axes(ax)
    for (layer, rows), color in zip(sizes.groupby("layer"), cycle(OUTLINES)):
        ax.plot(rows["frame"] * (frame_time or 1), rows[column], color=color, label=f"layer {layer}")
    names = {"number": "particles", "area_nm2": "area / nm²", "radius_nm": "radius / nm"}
    ax.set(xlabel="time / s" if frame_time else "frame", ylabel=names.get(column, column), ylim=(0, None))
    if len(sizes):
        ax.legend(frameon=False, fontsize=8)
    return ax


def show_fronts(fronts: pd.DataFrame, ax: Axes | None = None, every: int = 10, colorbar: bool = True) -> Axes:
    """Draw the front of a layer in every n-th frame as a closed line, coloured by the frame.

    Of one layer's `moirelib.analysis.front_table`. The line has gaps where the front is out of view.
    """
    ax, _ = place_table(fronts, ax, None)
    lines, time = [], np.unique(fronts["frame"])[::every]
    for frame in time:
        ring = fronts.loc[fronts["frame"] == frame].sort_values("direction_deg")[["x_nm", "y_nm"]].to_numpy(float)
        lines.append(np.concatenate([ring, ring[:1]]))
    drawn = LineCollection(lines, array=time.astype(float), cmap="cividis", linewidths=1.6)
    ax.add_collection(drawn)
    if colorbar and len(time) > 1:
        ax.figure.colorbar(drawn, ax=ax, label="frame", shrink=0.8)
    return ax
