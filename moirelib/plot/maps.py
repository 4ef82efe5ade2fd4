"""Maps of a layer: order, strain, registry, displacements, defects, events."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from ..crystal.neighbours import nearest_spacing
from .axes import add_ellipses, choose_color, finish_map, place_points, place_table


def show_displacements(motion: Any, frame: int = 0, ax: Axes | None = None, magnify: float = 10.0) -> Axes:
    """Draw a layer's `moirelib.analysis.Displacements` in the ``frame``-th of its frames as arrows from the sites."""
    ax = ax or plt.gca()
    y, x = motion.sites.T
    v, u = motion.values[frame].T * magnify
    ax.quiver(x, y, u, v, angles="xy", scale_units="xy", scale=1, color=choose_color(motion.layer), width=0.004)
    return finish_map(ax, motion.sites, f"displacements × {magnify:g}")


def show_amplitudes(
    vibrations: pd.DataFrame, ax: Axes | None = None, magnify: float | None = None, **style: Any
) -> Axes:
    """Draw the vibration of every site (`site_vibrations`) as an ellipse of one sigma, coloured by √⟨|u|²⟩/√2 in nm.

    Sites whose amplitude is not above the localization error are dots. By default the mean ellipse becomes a third of
    the spacing wide. ``style`` goes to `EllipseCollection` of matplotlib.
    """
    ax = ax or plt.gca()
    sites = vibrations[["y_nm", "x_nm"]].to_numpy()
    variance = vibrations[["std_y_nm", "std_x_nm"]].to_numpy() ** 2
    known = np.isfinite(variance).all(axis=1)
    ax.plot(*sites[~known, ::-1].T, ".", color="0.6", ms=3)
    yy, xx = variance[known].T
    yx = vibrations["cov_yx_nm2"].to_numpy()[known]
    tensor = np.stack([yy, yx, yx, xx], axis=1).reshape(-1, 2, 2)
    values, vectors = np.linalg.eigh(tensor)
    axes = 2 * np.sqrt(np.maximum(values, 0))  # diameters: minor, major
    if magnify is None:
        magnify = nearest_spacing(sites, otherwise=1.0) / 3 / np.mean(axes) if known.any() else 1.0
    turn = np.degrees(np.arctan2(vectors[:, 0, 1], vectors[:, 1, 1]))
    look = {"cmap": "cividis", "edgecolors": "none", "array": np.sqrt(variance[known].mean(axis=1)), **style}
    add_ellipses(ax, magnify * axes[:, 1], magnify * axes[:, 0], turn, sites[known], **look)
    return finish_map(ax, sites, f"one-sigma ellipses × {magnify:.2g}")


def show_map(
    table: pd.DataFrame,
    values: ArrayLike,
    ax: Axes | None = None,
    pixel_size: float | None = None,
    size_nm: float | None = None,
    label: str = "",
    colorbar: bool = True,
    **style: Any,
) -> Axes:
    """Draw a value for every particle of a table as a coloured disk, in light grey for NaN.

    Disks of the diameter ``size_nm`` touch by default. ``style`` goes to `EllipseCollection` of matplotlib: ``cmap,
    alpha``, or ``clim``, the values of the first and last colour, by default the 2nd and 98th percentile.
    """
    ax, where = place_table(table, ax, pixel_size)
    values = np.ma.masked_invalid(np.asarray(values, float))
    if size_nm is None:
        size_nm = nearest_spacing(table[["y_nm", "x_nm"]], otherwise=1.0)
    width = np.full(len(table), size_nm / (pixel_size or 1.0))
    known = values.compressed()
    look = {"cmap": "cividis", "clim": np.percentile(known, [2, 98]) if known.size else (0, 1), **style}
    look["cmap"] = plt.get_cmap(look["cmap"]).with_extremes(bad="0.85")
    disks = add_ellipses(ax, width, width, 0 * width, where, linewidths=0)
    disks.set(array=values, **look)
    if colorbar:
        ax.figure.colorbar(disks, ax=ax, label=label, shrink=0.8)
    return ax


def show_strain(strain: pd.DataFrame, column: str = "rotation_deg", ax: Axes | None = None, **style: Any) -> Axes:
    """Draw one column of a `moirelib.analysis.strain_map`, zero in the middle of the colours, strains in percent.

    Of ``rotation_deg``, ``dilatation``, ``strain_yy``, ``strain_xx`` and ``strain_yx``. The colours reach to the 98th
    percentile of the magnitude. ``style``: ``pixel_size, clim, size_nm, alpha, colorbar`` of `show_map`.
    """
    degrees = column.endswith("_deg")
    values = strain[column] * (1 if degrees else 100)
    known = np.abs(values[np.isfinite(values)])
    limit = np.percentile(known, 98) if len(known) else 1.0
    label = f"{column.removesuffix('_deg')} / {'degrees' if degrees else '%'}"
    look = {"cmap": "PuOr", "clim": (-limit, limit), "label": label.replace("_", " "), **style}
    return show_map(strain, values, ax, **look)


def show_registry(registry: pd.DataFrame, ax: Axes | None = None, **style: Any) -> Axes:
    """Draw where each particle lies on the other layer (`moirelib.analysis.registry`); ``style`` as of `show_map`."""
    look = {"clim": (-1.5, 3.0), "label": "registry (hollow -1.5, bridge -1, top 3)", **style}
    return show_map(registry, registry["coordinate"], ax, **look)


def show_hexatic(
    points: ArrayLike, psi6: ArrayLike, ax: Axes | None = None, direction: bool = True, **style: Any
) -> Axes:
    """Draw direction (0 to 60 degrees) or magnitude of ψ6 (n,) at points (n, 2) in nm; ``style`` as of `show_map`."""
    table = pd.DataFrame(np.asarray(points, float), columns=["y_nm", "x_nm"])
    psi6 = np.asarray(psi6)
    if direction:
        values = (np.degrees(np.angle(psi6)) / 6) % 60
        look = {"cmap": "twilight", "clim": (0, 60), "label": "direction of rows / degrees"}
    else:
        values, look = np.abs(psi6), {"clim": (0, 1), "label": "|ψ6|"}
    return show_map(table, values, ax, **(look | style))


def show_vectors(
    points: ArrayLike,
    vectors: ArrayLike,
    ax: Axes | None = None,
    pixel_size: float | None = None,
    scale: float = 1.0,
    color: str = "black",
) -> Axes:
    """Draw a vector (n, 2) at every point (n, 2), ``scale`` times as long: displacements, steps, Burgers vectors."""
    ax = ax or plt.gca()
    points, vectors = np.asarray(points, float).reshape(-1, 2), np.asarray(vectors, float).reshape(-1, 2)
    where, length = place_points(points, ax, pixel_size), scale / (pixel_size or 1.0)
    look: dict[str, Any] = {"angles": "xy", "scale_units": "xy", "scale": 1, "color": color, "zorder": 4}
    ax.quiver(*where.T[::-1], *(length * vectors.T[::-1]), **look)
    return ax


#: How defects are drawn: marker, Okabe and Ito's colour, filled or not.
DEFECT_STYLES = {
    "vacancy": ("o", "#000000", False),
    "interstitial": ("P", "#CC79A7", True),
    "dislocation": ("D", "#D55E00", True),
    "disclination": ("*", "#009E73", True),
}


def show_defects(
    defects: pd.DataFrame,
    ax: Axes | None = None,
    pixel_size: float | None = None,
    boundaries: pd.DataFrame | None = None,
    size: float = 36.0,
    legend: bool = True,
) -> Axes:
    """Draw the defects of one layer (`find_defects`): marks, Burgers vectors as arrows, boundaries as lines."""
    ax, where = place_table(defects, ax, pixel_size)
    if boundaries is not None:
        show_boundaries(boundaries, ax, pixel_size)
    for kind, (marker, color, filled) in DEFECT_STYLES.items():
        y, x = where[(defects["kind"] == kind).to_numpy()].T
        if len(y):
            face = color if filled else "none"
            ax.scatter(x, y, size, marker=marker, edgecolors=color, facecolors=face, zorder=5, label=kind)
    lines = defects[defects["kind"] == "dislocation"]
    if len(lines):
        burgers = lines[["burgers_y_nm", "burgers_x_nm"]]
        show_vectors(lines[["y_nm", "x_nm"]], burgers, ax, pixel_size, scale=2.0, color="#D55E00")
    if legend and ax.get_legend_handles_labels()[0]:
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize=8, frameon=False)
    return ax


def show_boundaries(boundaries: pd.DataFrame, ax: Axes | None = None, pixel_size: float | None = None) -> Axes:
    """Draw grain boundaries (dashed, vermilion) and twin boundaries (solid, green) as lines; of `find_defects`."""
    ax, scale = ax or plt.gca(), 1.0 / (pixel_size or 1.0)
    for kind, line, color in (("twin", "-", "#009E73"), ("grain", "--", "#D55E00")):
        rows = boundaries[boundaries["kind"] == kind]
        y, x = (scale * rows[[f"{axis}0_nm", f"{axis}1_nm"]].to_numpy(float).T for axis in "yx")
        for first in ax.plot(x, y, line, color=color, lw=2.2, zorder=4)[:1]:
            first.set_label(f"{kind} boundary")
    return ax


def show_events(events: pd.DataFrame, ax: Axes | None = None, particles: ArrayLike | None = None) -> Axes:
    """Draw where and when particles attached (filled circles) and detached (crosses), coloured by the frame.

    Of `moirelib.analysis.growth_events`; particles (n, 2) in nm, such as the sites of a layer, are grey dots below.
    """
    ax, where = place_table(events, ax, None)
    if particles is not None:
        sites = place_points(np.reshape(np.asarray(particles, float), (-1, 2)), ax, None)
        ax.plot(sites[:, 1], sites[:, 0], ".", color="0.75", ms=4, zorder=1)
    time = events["frame"].to_numpy(float)
    look: dict[str, Any] = {"cmap": "cividis", "vmin": time.min(initial=np.inf), "vmax": time.max(initial=0), "s": 40.0}
    marks = None
    for kind, marker, zorder in (("attachment", "o", 3), ("detachment", "x", 4)):
        some = (events["event"] == kind).to_numpy()
        if some.any():
            y, x = where[some].T
            marks = ax.scatter(x, y, c=time[some], marker=marker, zorder=zorder, label=kind, **look)
    if marks is not None:
        ax.figure.colorbar(marks, ax=ax, label="frame", shrink=0.8)
    return ax
