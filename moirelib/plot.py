"""Figures. Every function draws into ``ax`` and returns it; lengths are drawn in nm.

Used in every chapter.
"""

from __future__ import annotations

from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle

__all__ = [
    "LAYER_COLORS",
    "animate_tracks",
    "show_amplitudes",
    "show_boundaries",
    "show_defects",
    "show_dispersion",
    "show_displacements",
    "show_events",
    "show_frame",
    "show_fronts",
    "show_hexatic",
    "show_layers",
    "show_library",
    "show_map",
    "show_particles",
    "show_registry",
    "show_sizes",
    "show_split",
    "show_strain",
    "show_tracks",
    "show_vectors",
]

#: Layer 1 and layer 2 in figures: Okabe and Ito's blue and orange, told apart by colour-blind readers too.
LAYER_COLORS = ("#0072B2", "#E69F00")
_OUTLINES = (*LAYER_COLORS, "#009E73", "#CC79A7")  # with Okabe and Ito's green and purple for layers 3 and 4


def show_frame(frame, pixel_size: float, ax=None, scale_bar: bool = True, title: str = ""):
    """Show a micrograph in grey with a scale bar.

    Parameters
    ----------
    frame : array_like, shape (y, x)
        Grey range from the 0.5th to the 99.5th percentile.
    pixel_size : float
        In nm/pixel.
    ax : matplotlib.axes.Axes, optional
        Drawn into; the current axes by default.
    scale_bar : bool
        Draw a scale bar of a round length near a fifth of the width.
    title : str
        Title above the image.

    Returns
    -------
    matplotlib.axes.Axes
    """
    ax = plt.gca() if ax is None else ax
    low, high = np.percentile(frame, [0.5, 99.5])
    high = high if high > low else low + 1
    ax.imshow(frame, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
    return _dress(ax, np.shape(frame), pixel_size, scale_bar, title)


def show_layers(layers, pixel_size: float, ax=None, scale_bar: bool = True, title: str = ""):
    """Show two layers in their colours, added up: blue, orange, and light where both are.

    Parameters
    ----------
    layers : array_like, shape (2, y, x)
        Covered fraction or probability: integers from 0 to 255, or floats from 0 to 1.
    pixel_size, ax, scale_bar, title
        As in `show_frame`.

    Returns
    -------
    matplotlib.axes.Axes
    """
    from matplotlib.colors import to_rgb

    ax = plt.gca() if ax is None else ax
    layers = np.asarray(layers)
    layers = layers.astype(float) if layers.dtype == bool else layers
    layers = np.clip(layers / (1.0 if np.issubdtype(layers.dtype, np.floating) else 255.0), 0, 1)
    colors = np.array([to_rgb(c) for c in LAYER_COLORS])
    ax.imshow(np.clip(np.tensordot(layers, colors, axes=(0, 0)), 0, 1), interpolation="nearest")
    return _dress(ax, layers.shape[1:], pixel_size, scale_bar, title)


def show_particles(particles, ax=None, pixel_size: float | None = None, layer: int | None = None, **style):
    """Draw particles of a table as circles of their diameter, in their layer's colour.

    Parameters
    ----------
    particles : pandas.DataFrame
        One frame: ``layer, y, x`` (px) and ``diameter_nm``.
    ax : matplotlib.axes.Axes, optional
        Drawn over what it shows, in pixels.
    pixel_size : float, optional
        In nm/pixel; without it particles are dots.
    layer : int, optional
        Only this layer.
    **style
        Of `matplotlib.collections.EllipseCollection`, or of `Axes.scatter` for dots.

    Returns
    -------
    matplotlib.axes.Axes
    """
    from matplotlib.collections import EllipseCollection

    ax = plt.gca() if ax is None else ax
    for number, color in enumerate(LAYER_COLORS, start=1):
        rows = particles[particles["layer"] == number]
        if rows.empty or layer not in (None, number):
            continue
        if pixel_size is None:
            ax.scatter(rows["x"], rows["y"], **{"s": 6, "color": color, **style})
            continue
        width = rows["diameter_nm"].to_numpy() / pixel_size
        centers = rows[["x", "y"]].to_numpy()
        look = {"edgecolors": color, "facecolors": "none", "linewidths": 1.0, **style}
        circles = EllipseCollection(
            width, width, 0 * width, units="xy", offsets=centers, offset_transform=ax.transData, **look
        )
        ax.add_collection(circles)
    return ax


def show_split(frame, layers, pixel_size: float, axes=None, particles=None):
    """Raw frame, layer 1 and layer 2 side by side: the picture of what moirelib does.

    Parameters
    ----------
    frame : array_like, shape (y, x)
        Raw frame.
    layers : array_like, shape (2, y, x)
        Layer images.
    pixel_size : float
        In nm/pixel.
    axes : sequence of three matplotlib.axes.Axes, optional
        A new row of three by default.
    particles : pandas.DataFrame, optional
        Circles to draw on the raw frame.

    Returns
    -------
    sequence of matplotlib.axes.Axes
    """
    if axes is None:
        _, axes = plt.subplots(1, 3, figsize=(9, 3.3), layout="constrained")
    show_frame(frame, pixel_size, axes[0], title="raw frame")
    if particles is not None:
        show_particles(particles, axes[0], pixel_size)
    layers = np.asarray(layers)
    for k, ax in enumerate(axes[1:]):
        alone = np.zeros_like(layers)
        alone[k] = layers[k]
        show_layers(alone, pixel_size, ax, title=f"layer {k + 1}")
    return axes


def show_tracks(tracks, ax=None, layer: int | None = None, linewidth: float = 1.0):
    """Draw the path of every particle of a table as a line, in its layer's colour.

    Parameters
    ----------
    tracks : pandas.DataFrame
        ``frame, particle, layer, y, x`` (px): true tracks, or those of `moirelib.tracks.link`.
    ax : matplotlib.axes.Axes, optional
        Drawn over what it shows, in pixels.
    layer : int, optional
        Only this layer.
    linewidth : float
        In points.

    Returns
    -------
    matplotlib.axes.Axes
    """
    from matplotlib.collections import LineCollection

    ax = plt.gca() if ax is None else ax
    for number, rows in tracks[tracks["particle"] >= 0].groupby("layer"):
        if layer in (None, number):
            paths = [path[["x", "y"]].to_numpy() for _, path in rows.sort_values("frame").groupby("particle")]
            ax.add_collection(
                LineCollection(paths, colors=_OUTLINES[(number - 1) % len(_OUTLINES)], linewidths=linewidth)
            )
    return ax


def animate_tracks(particles, ax=None, movie=None, trail: int = 8):
    """Movie of both layers' particles in their colours, each drawing its track behind it.

    Parameters
    ----------
    particles : pandas.DataFrame
        ``frame, particle, layer, y_nm, x_nm``; particles that are not linked (-1) have no track.
    ax : matplotlib.axes.Axes, optional
        Drawn into; new axes by default. Both axes in nm, y downwards.
    movie : moirelib.movies.Movie, optional
        Shown below the particles, with its pixel size.
    trail : int
        Frames that a track reaches back.

    Returns
    -------
    matplotlib.animation.FuncAnimation
        ``save("tracks.gif", writer="pillow")`` writes a GIF, ``save("tracks.mp4")`` a movie where ffmpeg is installed.
    """
    from matplotlib.animation import FuncAnimation
    from matplotlib.collections import LineCollection

    ax = plt.subplots(figsize=(5, 5), layout="constrained")[1] if ax is None else ax
    _dress_map(ax, particles[["y_nm", "x_nm"]].to_numpy(float), "")
    picture = None if movie is None else ax.imshow(movie.frame(0), cmap="gray", extent=_extent(movie), origin="upper")
    layers = sorted(particles["layer"].unique())
    colors = [_OUTLINES[(k - 1) % len(_OUTLINES)] for k in layers]
    dots = [ax.plot([], [], ".", ms=4, color=c, label=f"layer {k}")[0] for k, c in zip(layers, colors, strict=True)]
    tails = [ax.add_collection(LineCollection([], colors=c, linewidths=1)) for c in colors]
    # Beside the title, where no particle is hidden
    ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=len(layers), fontsize=8, frameon=False, borderpad=0)

    def draw(frame):
        ax.set_title(f"frame {frame}", fontsize=10, loc="left")
        recent = particles[particles["frame"].between(frame - trail, frame)]
        for layer, dot, tail in zip(layers, dots, tails, strict=True):
            rows = recent[recent["layer"] == layer]
            now = rows[rows["frame"] == frame]
            dot.set_data(now["x_nm"], now["y_nm"])
            linked = rows[rows["particle"] >= 0].sort_values("frame")
            tail.set_segments([t[["x_nm", "y_nm"]].to_numpy() for _, t in linked.groupby("particle")])
        if picture is not None:
            image = movie.frame(frame)
            picture.set(data=image, clim=np.percentile(image, [0.5, 99.5]))
        return [*dots, *tails]

    return FuncAnimation(ax.figure, draw, frames=[int(t) for t in np.unique(particles["frame"])], blit=False)


def _extent(movie):
    """Of a movie's frames in nm, for imshow: pixel centres lie at whole numbers of pixels."""
    height, width = movie.shape[1:]
    return tuple(movie.pixel_size * e for e in (-0.5, width - 0.5, height - 0.5, -0.5))


def show_displacements(motion, frame: int = 0, ax=None, magnify: float = 10.0):
    """Draw the displacements of a layer's particles in one frame as arrows from their sites.

    Parameters
    ----------
    motion : moirelib.vibrations.Displacements
        Of one layer.
    frame : int
        Index into ``motion.frames``.
    ax : matplotlib.axes.Axes, optional
        Drawn into; the current axes by default. Both axes in nm, y downwards.
    magnify : float
        Arrows are this many times as long as the displacements.

    Returns
    -------
    matplotlib.axes.Axes
    """
    ax = plt.gca() if ax is None else ax
    y, x = motion.sites.T
    v, u = motion.values[frame].T * magnify
    color = _OUTLINES[(motion.layer - 1) % len(_OUTLINES)]
    ax.quiver(x, y, u, v, angles="xy", scale_units="xy", scale=1, color=color, width=0.004)
    return _dress_map(ax, motion.sites, f"displacements × {magnify:g}")


def show_amplitudes(vibrations, ax=None, magnify: float | None = None, **style):
    """Draw the vibration of every site as an ellipse of one sigma along and across, coloured by its amplitude.

    Parameters
    ----------
    vibrations : pandas.DataFrame
        Of `moirelib.vibrations.site_vibrations`: ``y_nm, x_nm, std_y_nm, std_x_nm, cov_yx_nm2``.
    ax : matplotlib.axes.Axes, optional
        Drawn into; the current axes by default. Both axes in nm, y downwards.
    magnify : float, optional
        Of the ellipses; by default the mean one becomes a third of the spacing wide.
    **style
        Of `matplotlib.collections.EllipseCollection`, such as ``cmap, clim``.

    Returns
    -------
    matplotlib.axes.Axes
        Its last collection can be given a colour bar: √⟨|u|²⟩/√2 in nm. Sites whose amplitude is not above the
        localization error are dots.
    """
    from matplotlib.collections import EllipseCollection
    from scipy.spatial import cKDTree

    ax = plt.gca() if ax is None else ax
    sites = vibrations[["y_nm", "x_nm"]].to_numpy()
    variance = vibrations[["std_y_nm", "std_x_nm"]].to_numpy() ** 2
    known = np.isfinite(variance).all(axis=1)
    ax.plot(*sites[~known, ::-1].T, ".", color="0.6", ms=3)
    tensor = np.zeros((known.sum(), 2, 2))
    tensor[:, [0, 1], [0, 1]] = variance[known]
    tensor[:, 0, 1] = tensor[:, 1, 0] = vibrations["cov_yx_nm2"].to_numpy()[known]
    values, vectors = np.linalg.eigh(tensor)
    axes = 2 * np.sqrt(np.maximum(values, 0))  # diameters: minor, major
    if magnify is None:
        spacing = np.median(cKDTree(sites).query(sites, k=2)[0][:, 1]) if len(sites) > 1 else 1.0
        magnify = spacing / 3 / np.mean(axes) if known.any() else 1.0
    turn = np.degrees(np.arctan2(vectors[:, 0, 1], vectors[:, 1, 1]))
    look = {"cmap": "cividis", "edgecolors": "none", **style}
    ellipses = EllipseCollection(
        magnify * axes[:, 1],
        magnify * axes[:, 0],
        turn,
        units="xy",
        offsets=sites[known, ::-1],
        offset_transform=ax.transData,
        array=np.sqrt(variance[known].mean(axis=1)),
        **look,
    )
    ax.add_collection(ellipses)
    return _dress_map(ax, sites, f"one-sigma ellipses × {magnify:.2g}")


def show_dispersion(phonons, ax=None, theory=None, path=None):
    """Draw a phonon dispersion along Γ-M-K-Γ, with its fit and a theory.

    Parameters
    ----------
    phonons : pandas.DataFrame
        Of `moirelib.phonons.dispersion`.
    ax : matplotlib.axes.Axes, optional
        Drawn into; the current axes by default.
    theory : callable, optional
        Gives D(q), shape (m, 2, 2) in kT/nm², for wave vectors (m, 2); its two stiffnesses are drawn in black.
    path : moirelib.phonons.SymmetryPath, optional
        Where the theory is drawn; at the table's wave vectors by default.

    Returns
    -------
    matplotlib.axes.Axes
    """
    ax = plt.gca() if ax is None else ax
    for branch, color, marker in zip(("longitudinal", "transverse"), LAYER_COLORS, "os", strict=True):
        rows = phonons[phonons["branch"] == branch]
        distance, stiffness = rows["distance_per_nm"], rows["stiffness_kt_nm2"]
        error = rows["stiffness_std_kt_nm2"]
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


def _dress_map(ax, sites, title):
    """Equal axes in nm around the sites, y downwards as in an image."""
    low, high = sites.min(axis=0), sites.max(axis=0)
    rim = 0.05 * max(high - low)
    ax.set(xlim=(low[1] - rim, high[1] + rim), ylim=(high[0] + rim, low[0] - rim), aspect="equal")
    ax.set(xlabel="x / nm", ylabel="y / nm")
    ax.set_title(title, fontsize=10)
    return ax


def show_library(library, axes=None, count: int = 6, seed: int = 0):
    """Show random images of a library with the true outlines of every layer.

    Parameters
    ----------
    library : zarr.Group
        From `moirelib.library.open_library`.
    axes : matplotlib.axes.Axes or sequence of them, optional
        Rows of three by default. Axes without an image are blanked.
    count : int
        Number of images.
    seed : int
        Which images; each one's number is its title.

    Returns
    -------
    sequence of matplotlib.axes.Axes
    """
    if axes is None:
        rows, columns = -(-count // 3), min(count, 3)
        _, axes = plt.subplots(rows, columns, figsize=(3 * columns, 3.2 * rows), layout="constrained", squeeze=False)
    indices = np.random.default_rng(seed).permutation(library["frame"].shape[0])[:count]
    for ax in np.ravel(axes)[len(indices) :]:
        ax.set_axis_off()
    for ax, i in zip(np.ravel(axes), indices, strict=False):
        show_frame(library["frame"][i], float(library["pixel_size"][i]), ax, title=f"image {i}")
        for mask, color in zip(library["mask"][i], cycle(_OUTLINES), strict=False):
            if mask.any():
                ax.contour(mask, [127], colors=color, linewidths=0.9)
    return axes


# --- Order and defects: over a micrograph with its pixel size, or on axes in nm without one ---


def show_map(
    table,
    values,
    ax=None,
    pixel_size=None,
    size_nm=None,
    cmap="cividis",
    limits=None,
    label="",
    colorbar=True,
    alpha=1.0,
):
    """Draw a value for every particle as a coloured disk.

    Parameters
    ----------
    table : pandas.DataFrame
        ``y_nm, x_nm``.
    values : array_like, shape (n,)
        NaN is drawn in light grey.
    ax : matplotlib.axes.Axes, optional
        The current axes by default.
    pixel_size : float, optional
        In nm/pixel, where ``ax`` shows a micrograph; without it the axes are in nm, with y downwards.
    size_nm : float, optional
        Diameter of the disks; by default the distance of nearest neighbours, so that they touch.
    cmap : str
        Colour map.
    limits : tuple of float, optional
        Values of the first and the last colour; the 2nd and 98th percentile by default.
    label : str
        Of the colour bar.
    colorbar : bool
        Draw a colour bar.
    alpha : float
        Opacity.

    Returns
    -------
    matplotlib.axes.Axes
    """
    from matplotlib.collections import EllipseCollection

    ax, where = _placed(table, ax, pixel_size)
    values = np.ma.masked_invalid(np.asarray(values, float))
    if size_nm is None:
        size_nm = _neighbour_distance(table)
    width = np.full(len(table), size_nm / (pixel_size or 1.0))
    disks = EllipseCollection(
        width, width, 0 * width, units="xy", offsets=where[:, ::-1], offset_transform=ax.transData, linewidths=0
    )
    colors = plt.get_cmap(cmap).with_extremes(bad="0.85")
    disks.set(array=values, cmap=colors, alpha=alpha)
    known = values.compressed()
    disks.set_clim(*(limits or (np.percentile(known, [2, 98]) if known.size else (0, 1))))
    ax.add_collection(disks)
    if colorbar:
        ax.figure.colorbar(disks, ax=ax, label=label, shrink=0.8)
    return ax


def _placed(table, ax, pixel_size):
    """Axes, and the places of a table's rows in them (n, 2) as (y, x)."""
    ax = plt.gca() if ax is None else ax
    where = table[["y_nm", "x_nm"]].to_numpy(float)
    return ax, _in_axes(where, ax, pixel_size)


def _in_axes(where, ax, pixel_size):
    """Lengths in nm as pixels of what the axes show; or in nm, on axes made for that."""
    if pixel_size is not None:
        return where / pixel_size
    if not ax.has_data():
        ax.set(aspect="equal", xlabel="x / nm", ylabel="y / nm")
        ax.invert_yaxis()
    known = where[np.isfinite(where).all(axis=1)]
    if len(known):
        ax.update_datalim(known[:, ::-1])
        ax.autoscale_view()
    return where


def _neighbour_distance(table) -> float:
    from scipy.spatial import cKDTree

    points = table[["y_nm", "x_nm"]].to_numpy(float)
    return float(np.median(cKDTree(points).query(points, k=2)[0][:, 1])) if len(points) > 1 else 1.0


def show_strain(strain, column: str = "rotation_deg", ax=None, pixel_size=None, limit=None, **style):
    """Draw one column of a strain map, zero in the middle of the colours.

    Parameters
    ----------
    strain : pandas.DataFrame
        From `moirelib.order.strain_map`.
    column : str
        ``rotation_deg``, ``dilatation``, ``strain_yy``, ``strain_xx`` or ``strain_yx``; strains are drawn in percent.
    ax, pixel_size
        As in `show_map`.
    limit : float, optional
        Largest value of the colours, in degrees or percent; the 98th percentile of the magnitude by default.
    **style
        ``size_nm``, ``alpha`` and ``colorbar`` of `show_map`.

    Returns
    -------
    matplotlib.axes.Axes
    """
    degrees = column.endswith("_deg")
    values = strain[column] * (1 if degrees else 100)
    known = np.abs(values[np.isfinite(values)])
    limit = (np.percentile(known, 98) if len(known) else 1.0) if limit is None else limit
    label = f"{column.removesuffix('_deg')} / {'degrees' if degrees else '%'}"
    look = {"cmap": "PuOr", "limits": (-limit, limit), "label": label.replace("_", " "), **style}
    return show_map(strain, values, ax, pixel_size, **look)


def show_registry(registry, ax=None, pixel_size=None, **style):
    """Draw where on the other layer each particle lies: the Moiré pattern, particle by particle.

    Parameters
    ----------
    registry : pandas.DataFrame
        From `moirelib.moire.registry`.
    ax, pixel_size
        As in `show_map`.
    **style
        ``size_nm``, ``alpha`` and ``colorbar`` of `show_map`.

    Returns
    -------
    matplotlib.axes.Axes
    """
    look = {"limits": (-1.5, 3.0), "label": "registry (hollow -1.5, bridge -1, top 3)", **style}
    return show_map(registry, registry["coordinate"], ax, pixel_size, **look)


def show_hexatic(points, psi6, ax=None, pixel_size=None, direction: bool = True, **style):
    """Draw ψ6: its direction as colour (which row direction, cyclic) or its magnitude.

    Parameters
    ----------
    points : array_like, shape (n, 2)
        (y, x) in nm.
    psi6 : array_like of complex, shape (n,)
        From `moirelib.order.hexatic`.
    ax, pixel_size
        As in `show_map`.
    direction : bool
        Draw the direction of the rows, 0 to 60 degrees; otherwise the magnitude.
    **style
        ``size_nm``, ``alpha`` and ``colorbar`` of `show_map`.

    Returns
    -------
    matplotlib.axes.Axes
    """
    import pandas as pd

    table = pd.DataFrame(np.asarray(points, float), columns=["y_nm", "x_nm"])
    psi6 = np.asarray(psi6)
    if direction:
        values = (np.degrees(np.angle(psi6)) / 6) % 60
        look = {"cmap": "twilight", "limits": (0, 60), "label": "direction of rows / degrees"}
    else:
        values, look = np.abs(psi6), {"limits": (0, 1), "label": "|ψ6|"}
    return show_map(table, values, ax, pixel_size, **(look | style))


def show_vectors(points, vectors, ax=None, pixel_size=None, scale: float = 1.0, color="black", unit_nm=None):
    """Draw a vector at every point: displacements, steps, Burgers vectors.

    Parameters
    ----------
    points, vectors : array_like, shape (n, 2)
        (y, x) in nm. Vectors start at their points.
    ax, pixel_size
        As in `show_map`.
    scale : float
        Arrows are so many times longer than the vectors.
    color : color
        Of the arrows.
    unit_nm : float, optional
        Draw a key of this length, in nm, above the axes.

    Returns
    -------
    matplotlib.axes.Axes
    """
    ax = plt.gca() if ax is None else ax
    points, vectors = np.asarray(points, float).reshape(-1, 2), np.asarray(vectors, float).reshape(-1, 2)
    where, length = _in_axes(points, ax, pixel_size), scale / (pixel_size or 1.0)
    arrows = ax.quiver(
        *where.T[::-1], *(length * vectors.T[::-1]), angles="xy", scale_units="xy", scale=1, color=color, zorder=4
    )
    if unit_nm is not None:
        key = f"{unit_nm:g} nm" + ("" if scale == 1 else f" (drawn {scale:g} times)")
        ax.quiverkey(arrows, 0.85, 1.04, unit_nm * length, key, labelpos="W", coordinates="axes")
    return ax


#: How defects are drawn: marker, Okabe and Ito's colour, filled or not.
DEFECT_STYLES = {
    "vacancy": ("o", "#000000", False),
    "interstitial": ("P", "#CC79A7", True),
    "dislocation": ("D", "#D55E00", True),
    "disclination": ("*", "#009E73", True),
}


def show_defects(defects, ax=None, pixel_size=None, boundaries=None, size: float = 36.0, legend: bool = True):
    """Draw the defects of one layer: a mark for each kind, Burgers vectors as arrows, boundaries as lines.

    Parameters
    ----------
    defects : pandas.DataFrame
        ``kind, y_nm, x_nm, burgers_y_nm, burgers_x_nm`` from `moirelib.defects.find_defects`.
    ax, pixel_size
        As in `show_map`.
    boundaries : pandas.DataFrame, optional
        ``kind, y0_nm, x0_nm, y1_nm, x1_nm``: grain boundaries are drawn dashed, twin boundaries solid.
    size : float
        Of the marks, in points squared.
    legend : bool
        Draw a legend above the axes.

    Returns
    -------
    matplotlib.axes.Axes
    """
    ax, where = _placed(defects, ax, pixel_size)
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


def show_boundaries(boundaries, ax=None, pixel_size=None):
    """Draw grain boundaries (dashed, vermilion) and twin boundaries (solid, green) as lines.

    Parameters
    ----------
    boundaries : pandas.DataFrame
        ``kind, y0_nm, x0_nm, y1_nm, x1_nm`` from `moirelib.defects.find_defects`.
    ax, pixel_size
        As in `show_map`.

    Returns
    -------
    matplotlib.axes.Axes
    """
    ax, scale = plt.gca() if ax is None else ax, 1.0 / (pixel_size or 1.0)
    seen = set()
    for row in boundaries.itertuples():
        twin = row.kind == "twin"
        label = None if row.kind in seen else f"{row.kind} boundary"
        seen.add(row.kind)
        y, x = scale * np.array([row.y0_nm, row.y1_nm]), scale * np.array([row.x0_nm, row.x1_nm])
        ax.plot(x, y, "-" if twin else "--", color="#009E73" if twin else "#D55E00", lw=2.2, label=label, zorder=4)
    return ax


def _dress(ax, shape, pixel_size, scale_bar, title):
    """Title, no ticks, scale bar."""
    ax.set(xticks=[], yticks=[], xlim=(-0.5, shape[1] - 0.5), ylim=(shape[0] - 0.5, -0.5))
    if title:
        ax.set_title(title, fontsize=10)
    if scale_bar:
        _scale_bar(ax, shape, pixel_size)
    return ax


def _scale_bar(ax, shape, pixel_size) -> None:
    """A white bar of 1, 2 or 5 times a power of ten nm with its length, in a dark corner box."""
    goal = 0.22 * shape[1] * pixel_size
    power = 10.0 ** np.floor(np.log10(goal))
    length = max(m for m in (1, 2, 5) if m * power <= goal) * power
    x, y, width = 0.06 * shape[1], 0.955 * shape[0], length / pixel_size
    box = {"facecolor": "black", "alpha": 0.6, "edgecolor": "none", "zorder": 3}
    ax.add_patch(Rectangle((0.03 * shape[1], 0.85 * shape[0]), width + 0.06 * shape[1], 0.125 * shape[0], **box))
    bar = Rectangle((x, y - 0.018 * shape[0]), width, 0.018 * shape[0], color="white", linewidth=0, zorder=4)
    ax.add_patch(bar)
    label = f"{length:g} nm"
    ax.text(x + width / 2, y - 0.028 * shape[0], label, color="white", ha="center", va="bottom", fontsize=8, zorder=4)


# --- Growth ---


def show_sizes(sizes, ax=None, frame_time: float | None = None, column: str = "number"):
    """Draw the size of every layer against time.

    Parameters
    ----------
    sizes : pandas.DataFrame
        From `moirelib.growth.size_table`.
    ax : matplotlib.axes.Axes, optional
        The current axes by default.
    frame_time : float, optional
        In s; without it time is in frames.
    column : str
        ``number``, ``area_nm2`` or ``radius_nm``.

    Returns
    -------
    matplotlib.axes.Axes
    """
    ax = plt.gca() if ax is None else ax
    for (layer, rows), color in zip(sizes.groupby("layer"), cycle(_OUTLINES)):
        ax.plot(rows["frame"] * (frame_time or 1), rows[column], color=color, label=f"layer {layer}")
    names = {"number": "particles", "area_nm2": "area / nm²", "radius_nm": "radius / nm"}
    ax.set(xlabel="time / s" if frame_time else "frame", ylabel=names.get(column, column), ylim=(0, None))
    if len(sizes):
        ax.legend(frameon=False, fontsize=8)
    return ax


def show_events(events, ax=None, particles=None, frames=None, size: float = 40.0, colorbar: bool = True):
    """Draw where and when particles attached (filled circles) and detached (crosses), coloured by the frame.

    Parameters
    ----------
    events : pandas.DataFrame
        ``frame, event, y_nm, x_nm`` from `moirelib.growth.growth_events`.
    ax : matplotlib.axes.Axes, optional
        The current axes by default.
    particles : array_like, shape (n, 2), optional
        (y, x) in nm, drawn as grey dots below: the sites of a layer.
    frames : tuple of int, optional
        Frames of the first and the last colour; those of the first and last event by default.
    size : float
        Of the marks, in points squared.
    colorbar : bool
        Draw a colour bar.

    Returns
    -------
    matplotlib.axes.Axes
    """
    ax, where = _placed(events, ax, None)
    if particles is not None:
        sites = _in_axes(np.reshape(np.asarray(particles, float), (-1, 2)), ax, None)
        ax.plot(sites[:, 1], sites[:, 0], ".", color="0.75", ms=4, zorder=1)
    time = events["frame"].to_numpy(float)
    low, high = frames or ((time.min(), time.max()) if len(time) else (0, 1))
    look = {"cmap": "cividis", "vmin": low, "vmax": high, "s": size}
    marks = None
    for kind, marker, zorder in (("attachment", "o", 3), ("detachment", "x", 4)):
        some = (events["event"] == kind).to_numpy()
        if some.any():
            marks = ax.scatter(*where[some].T[::-1], c=time[some], marker=marker, zorder=zorder, label=kind, **look)
    if colorbar and marks is not None:
        ax.figure.colorbar(marks, ax=ax, label="frame", shrink=0.8)
    return ax


def show_fronts(fronts, ax=None, every: int = 10, colorbar: bool = True):
    """Draw the front of a layer as closed lines, one for every so many frames, coloured by the frame.

    Parameters
    ----------
    fronts : pandas.DataFrame
        Of one layer, from `moirelib.growth.front_table`. Directions in which the front is out of view break the line.
    ax : matplotlib.axes.Axes, optional
        The current axes by default.
    every : int
        Frames from line to line.
    colorbar : bool
        Draw a colour bar.

    Returns
    -------
    matplotlib.axes.Axes
    """
    from matplotlib.collections import LineCollection

    ax, _ = _placed(fronts, ax, None)
    lines, time = [], np.unique(fronts["frame"])[::every]
    for frame in time:
        ring = fronts.loc[fronts["frame"] == frame].sort_values("direction_deg")[["x_nm", "y_nm"]].to_numpy(float)
        lines.append(np.concatenate([ring, ring[:1]]))
    drawn = LineCollection(lines, array=time.astype(float), cmap="cividis", linewidths=1.6)
    ax.add_collection(drawn)
    if colorbar and len(time) > 1:
        ax.figure.colorbar(drawn, ax=ax, label="frame", shrink=0.8)
    return ax
