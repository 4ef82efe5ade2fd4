"""Curves: phonon dispersion and growth."""

from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from .axes import LAYER_COLORS, choose_color, place_table


def show_dispersion(
    phonons: pd.DataFrame, ax: Axes | None = None, theory: Callable[[np.ndarray], np.ndarray] | None = None
) -> Axes:
    """Draw a phonon dispersion of `moirelib.analysis.dispersion` along Γ-M-K-Γ, with its fit.

    A ``theory`` gives D(q), (m, 2, 2) in kT/nm², at wave vectors (m, 2); its two stiffnesses are drawn in black.
    """
    ax = ax or plt.gca()
    for branch, color, marker in zip(("longitudinal", "transverse"), LAYER_COLORS, "os", strict=True):
        rows = phonons[phonons["branch"] == branch]
        distance, stiffness, error = rows["distance_per_nm"], rows["stiffness_kt_nm2"], rows["stiffness_std_kt_nm2"]
        ax.errorbar(distance, stiffness, error, fmt=marker, ms=3.5, color=color, lw=1, label=branch)
        ax.plot(distance, rows["model_kt_nm2"], color=color, lw=1.2)
    if theory is not None:
        q = phonons[phonons["branch"] == "longitudinal"]
        stiffness = np.linalg.eigvalsh(theory(q[["q_y_per_nm", "q_x_per_nm"]].to_numpy()))
        ax.plot(q["distance_per_nm"], stiffness, "--", color="black", lw=1)[0].set_label("theory")
    ticks = phonons.attrs.get("ticks", ())
    for tick in ticks:
        ax.axvline(tick, color="0.8", lw=0.8, zorder=0)
    if ticks:
        ax.set(xticks=ticks, xticklabels=["Γ", "M", "K", "Γ"], xlim=(0, ticks[-1]))
    ax.set(xlabel="wave vector", ylabel="stiffness / (kT/nm²)", ylim=(0, None))
    ax.legend(frameon=False, fontsize=8)
    return ax


def show_msd(msd: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw every layer's mean squared displacement with its error; dotted, with the localization error's part."""
    ax = ax or plt.gca()
    known = msd["lag_s"].notna().all()
    for layer, rows in msd.groupby("layer"):
        lag, color = rows["lag_s" if known else "lag_frames"], choose_color(layer)
        style: dict[str, Any] = {"ms": 3, "lw": 1, "color": color, "label": f"layer {layer}"}
        ax.errorbar(lag, rows["msd_nm2"], rows["msd_std_nm2"], fmt="o-", **style)
        ax.plot(lag, rows["msd_raw_nm2"], ":", color=color, lw=1)
    ax.set(xlabel="lag / s" if known else "lag / frames", ylabel="mean squared displacement / nm²", ylim=(0, None))
    ax.legend(frameon=False, fontsize=8)
    return ax


def show_sizes(sizes: pd.DataFrame, ax: Axes | None = None, frame_time: float | None = None) -> Axes:
    """Draw the number of every layer's particles (`size_table`) against time: in frames without ``frame_time`` in s."""
    ax = ax or plt.gca()
    for layer, rows in sizes.groupby("layer"):
        time = rows["frame"] * (frame_time or 1)
        ax.plot(time, rows["number"], color=choose_color(layer), label=f"layer {layer}")
    ax.set(xlabel="time / s" if frame_time else "frame", ylabel="particles", ylim=(0, None))
    if len(sizes):
        ax.legend(frameon=False, fontsize=8)
    return ax


def show_fronts(fronts: pd.DataFrame, ax: Axes | None = None, every: int = 10) -> Axes:
    """Draw one layer's front (`front_table`) in every n-th frame, coloured by the frame, with gaps out of view."""
    ax, _ = place_table(fronts, ax, None)
    lines, time = [], np.unique(fronts["frame"])[::every]
    for frame in time:
        ring = fronts.loc[fronts["frame"] == frame].sort_values("direction_deg")[["x_nm", "y_nm"]].to_numpy(float)
        lines.append(np.concatenate([ring, ring[:1]]))
    drawn = LineCollection(lines, array=time.astype(float), cmap="cividis", linewidths=1.6)
    ax.add_collection(drawn)
    if len(time) > 1:
        ax.figure.colorbar(drawn, ax=ax, label="frame", shrink=0.8)
    return ax
