"""Figures and one self-contained page of an analysis (chapter 11, "Your movie")."""

import base64
import html
import io
from collections.abc import Collection, Iterator
from functools import partial
from os import PathLike
from pathlib import Path
from string import Template

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import circmean

from .. import plot
from ..crystal.mesh import Mesh
from ..crystal.neighbours import spans_plane
from ..plot.axes import choose_color
from .correlations import strain_map
from .lattices import LayerFrame
from .moire import registry
from .pipeline import Analysis, choose_tables

_render_table = partial(pd.DataFrame.to_html, index=False, border=0, float_format="{:.4g}".format, na_rep="–")
FEWEST_ON_MAP = 8  # particles (by hand): a map of fewer shows nothing
MAPS = {"moire": ["registry"], "defects": ["layer_[0-9]"]}  # of the last frame
MOVIE_FRAMES = 200  # of tracks.gif, at most: 25 seconds


def name_files(only: Collection[str] | None = None) -> list[str]:
    """Patterns of all files that an analysis, or one of only some tables, may write."""
    tables = choose_tables(only)
    drawn = [[*MAPS.get(name, ()), DRAWN[name][0]] for name in tables if name in DRAWN]
    files = [f"{name}.csv" for name in tables] + [f"{file}.png" for files in drawn for file in files]
    return [*files, "report.html", *(["tracks.gif"] if only is None else [])]


def write_analysis(
    analysis: Analysis, folder: str | PathLike, name: str = "", movie: bool = True, progress: bool = False
) -> None:
    """Write tables, figures and ``report.html`` into an existing folder; ``name`` says what was analysed.

    With ``movie``, and where there are several frames, also ``tracks.gif``; with ``progress``, a bar is shown.
    """
    folder, drawn = Path(folder), []
    analysis.write(folder)
    with analysis.stage("figures", None, "figure", progress) as bar:
        for file, section, caption, fig in figures(analysis):
            content = io.BytesIO()
            fig.savefig(content, format="png", dpi=110)
            plt.close(fig)
            (folder / f"{file}.png").write_bytes(content.getvalue())
            drawn.append((section, caption, content.getvalue()))
            bar.update()
    frames = np.unique(analysis.particles["frame"])
    if movie and len(frames) > 1:
        shown = frames[np.unique(np.linspace(0, len(frames) - 1, MOVIE_FRAMES).round().astype(int))]
        if len(shown) < len(frames):
            analysis.notes["tracks.gif"] = f"shows {len(shown)} of the {len(frames)} frames, evenly chosen"
        with analysis.stage("tracks.gif", len(shown), "frame", progress) as bar:
            plot.write_track_movie(analysis.particles, folder / "tracks.gif", shown, bar.update)
    (folder / "report.html").write_text(render_report(analysis, drawn, name), encoding="utf-8")


def figures(analysis: Analysis) -> Iterator[tuple[str, str, str, Figure]]:
    """Draw what there is to see: file name, table it belongs to, caption, and figure, which the caller closes."""
    yield from _draw_maps(analysis)
    several = {"moire": len(analysis.tables.get("moire", ())) > 1}
    several["defects"] = analysis.particles["frame"].nunique() > 1
    for section, (file, panels, size, draw) in DRAWN.items():
        if section not in analysis.tables or not several.get(section, True):
            continue
        table = analysis.tables[section]
        for layer, rows in table.groupby("layer") if file.endswith("[0-9]") else [(0, table)]:
            fig, axes = plt.subplots(1, panels, figsize=size, layout="constrained")
            caption = draw(analysis, rows, axes)
            yield file.replace("[0-9]", str(layer)), section, caption, fig


def _draw_maps(analysis):
    """The last frame, seen in several ways: particles and defects, rotation, registry."""
    last = analysis.particles["frame"].max()
    frame = analysis.particles[analysis.particles["frame"] == last]
    places = {layer: rows[["y_nm", "x_nm"]] for layer, rows in frame.groupby("layer")}
    layers = {layer: LayerFrame(Mesh(points)) for layer, points in places.items() if spans_plane(points.to_numpy())}
    kinds = "defects", "boundaries"
    here = {k: analysis.tables[k][analysis.tables[k]["frame"] == last] for k in kinds if k in analysis.tables}
    for layer, own in layers.items() if "defects" in here else ():
        if own.mesh.n < FEWEST_ON_MAP:
            continue
        defects, boundaries = (here[k][here[k]["layer"] == layer] if k in here else None for k in kinds)
        fig, axes = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
        plot.show_map(places[layer], own.grain, axes[0], cmap="Pastel2", clim=(-0.5, 7.5), colorbar=False)
        plot.show_defects(defects, axes[0], boundaries=boundaries)
        plot.show_strain(strain_map(own), ax=axes[1])
        caption = f"Layer {layer}, frame {last}. Left: grains, defects, boundaries. Right: local rotation in degrees."
        yield f"layer_{layer}", "defects", caption, fig
    if "moire" in analysis.tables and {1, 2} <= set(layers):
        fig, ax = plt.subplots(figsize=(6, 5), layout="constrained")
        plot.show_registry(registry(places[2], layers[1]), ax)
        yield "registry", "moire", f"Where each particle of layer 2 lies on layer 1, frame {last}: the Moiré.", fig


# Each draws a table on the axes of its figure, and returns the caption.


def _draw_moire(analysis, table, axes) -> str:
    for ax, name, unit in zip(axes, ("twist", "period"), ("deg", "nm"), strict=True):
        ax.errorbar(table["frame"], table[f"{name}_{unit}"], table[f"{name}_std_{unit}"], fmt="o", ms=3)
        ax.set(xlabel="frame", ylabel={"twist": "twist / °", "period": "Moiré period / nm"}[name])
    return "Twist and Moiré period in every frame, with error bars."


def _draw_motion(analysis, table, axes) -> str:
    for layer, rows in table.groupby("layer"):
        color = choose_color(layer)
        for axis, style in (("y", "-"), ("x", "--")):
            axes[0].plot(rows["frame"], rows[f"{axis}_nm"], style, color=color, lw=1, label=f"{axis}, layer {layer}")
        axes[1].plot(rows["frame"], rows["turn_deg"], color=color, lw=1, label=f"layer {layer}")
    for ax, label in zip(axes, ("shift / nm", "turn / °"), strict=True):
        ax.set(xlabel="frame", ylabel=label)
        ax.legend(fontsize=8, frameon=False)
    return "Shift of each layer's middle and its turn since the first frame."


def _draw_defect_number(analysis, table, ax) -> str:
    frames = np.unique(analysis.particles["frame"])
    for (layer, kind), rows in table.groupby(["layer", "kind"]):
        number = rows.groupby("frame").size().reindex(frames, fill_value=0)
        ax.plot(frames, number, marker="os"[(layer - 1) % 2], ms=3, label=f"{kind}, layer {layer}")
    ax.set(xlabel="frame", ylabel="number", ylim=(0, None))
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=8, frameon=False)
    covered = int(table["covered"].sum())
    caption = "Defects found in every frame. A particle that is missed in a frame looks like a vacancy of that frame."
    return caption + (f" Of the vacancies, {covered} lie under a particle of another layer." if covered else "")


def _draw_displacement(analysis, table, ax) -> str:
    plot.show_msd(table, ax)
    return "Mean squared displacement without the layer's motion and, where known, the localization error's part."


def _draw_amplitudes(analysis, table, ax) -> str:
    plot.show_amplitudes(table, ax)
    ax.figure.colorbar(ax.collections[-1], ax=ax, label="amplitude / nm")
    return f"Layer {table['layer'].iloc[0]}: vibration of every site; dots: not above the localization error."


def _draw_dispersion(analysis, table, ax) -> str:
    layer = table["layer"].iloc[0]
    table.attrs["ticks"] = analysis.tables["phonons"].attrs["ticks"][layer]
    plot.show_dispersion(table, ax)
    return f"Layer {layer}: stiffness of plane waves along Γ-M-K-Γ (points) and of fitted springs (lines)."


def _draw_growth(analysis, table, axes) -> str:
    if analysis.sizes is not None:
        plot.show_sizes(analysis.sizes, axes[0])
    sites = [one.sites for one in analysis.occupancy.values()]
    plot.show_events(table, axes[1], np.concatenate(sites) if sites else None)
    return (
        "Left, taken sites of each layer, frame by frame. Right, where particles came and went, among all sites, "
        "as they lay in the first frame."
    )


# Of each table: its figure's file, one for each layer where it ends with a number, panels, size in inches
DRAWN = {
    "moire": ("moire", 2, (10, 3.5), _draw_moire),
    "defects": ("defect_number", 1, (6, 3.5), _draw_defect_number),
    "motion": ("motion", 2, (10, 3.5), _draw_motion),
    "msd": ("msd", 1, (6, 4), _draw_displacement),
    "vibrations": ("vibrations_[0-9]", 1, (6, 5), _draw_amplitudes),
    "phonons": ("phonons_[0-9]", 1, (6, 4), _draw_dispersion),
    "growth": ("growth", 2, (11, 4.4), _draw_growth),
}


def render_report(analysis: Analysis, drawn: list[tuple[str, str, bytes]], name: str = "") -> str:
    """One self-contained HTML page of an analysis; `drawn` has section, caption and PNG of every figure."""
    frames, escape = analysis.particles["frame"].nunique(), html.escape
    number = analysis.particles.groupby("layer").size() / frames
    counts = ", ".join(f"{n:.0f} in layer {layer}" for layer, n in number.items())
    parts = [f"<p>{frames} frame(s); particles in each: {counts}.</p>"]
    if "tracks.gif" in analysis.notes:
        parts.append(f"<p>tracks.gif: {escape(analysis.notes['tracks.gif'])}.</p>")
    for section, (heading, summarise) in SECTIONS.items():
        if section not in analysis.tables and section not in analysis.notes:
            continue  # not asked for
        parts.append(f"<h2>{heading}</h2>")
        if section in analysis.notes:
            parts.append(f'<p class="note">{escape(analysis.notes[section])}</p>')
        if section in analysis.tables:
            table = analysis.tables[section]
            parts.append("<p>None found.</p>" if table.empty else _render_table(summarise(table)))
        for title, table in analysis.summaries.get(section, {}).items():
            parts += [f"<h3>{escape(title)}</h3>", _render_table(table)]
        for caption, png in [(escape(caption), png) for where, caption, png in drawn if where == section]:
            image = f'<img alt="{caption}" src="data:image/png;base64,{base64.b64encode(png).decode("ascii")}">'
            parts.append(f"<figure>{image}<figcaption>{caption}</figcaption></figure>")
    title = escape(f"Analysis of {name}" if name else "Analysis")
    page = Path(__file__).with_name("report.html").read_text(encoding="utf-8")
    return Template(page).substitute(title=title, body="\n".join(parts))


def _summarise_lattices(table):
    """Over the frames, of the largest grain of each layer: medians, and the mean direction of its rows."""
    largest = table.sort_values("n").groupby(["frame", "layer"]).tail(1)
    grains = table.groupby(["layer", "frame"]).size().groupby("layer").median()
    summary = largest.groupby("layer")[["spacing_nm", "spacing_std_nm", "angle_std_deg"]].median()
    angle = largest.groupby("layer")["angle_deg"].agg(circmean, high=60)  # 59.9° and 0.1° are neighbours
    return summary.assign(angle_deg=angle, grains=grains).reset_index()


def _count_kinds(table):
    """How many rows of each kind there are in a frame, on average, and in all."""
    summary = table.groupby(["layer", "kind"]).size().rename("in all frames").reset_index()
    return summary.assign(**{"per frame with any": summary["in all frames"] / table["frame"].nunique()})


def _summarise_motion(table):
    """Of each layer: where it is and how far it has turned at the end, median step per frame, and the dose."""
    layers = table.groupby("layer")
    summary, step = layers.last().drop(columns="frame"), np.hypot(layers["y_nm"].diff(), layers["x_nm"].diff())
    summary.insert(3, "median step / nm", step.groupby(table["layer"]).median())
    return summary.reset_index()


def _summarise_displacement(table):
    """The first lag, the last, and one in between, of each layer."""
    return table.groupby("layer", group_keys=False)[list(table)].apply(lambda own: own.iloc[[0, len(own) // 2, -1]])


def _summarise_vibrations(table):
    """Medians over the sites of each layer, spring constants with their intervals."""
    columns = ["std_raw_y_nm", "std_raw_x_nm", "std_y_nm", "std_x_nm"]
    columns += [f"k_{axis}_{end}kt_nm2" for axis in "yx" for end in ("", "low_", "high_")]
    return table.groupby("layer")[columns].median().reset_index()


# Of each table, its heading in the report, and what is shown of it there
SECTIONS = {
    "lattice": ("Lattices", _summarise_lattices),
    "moire": ("Moiré", lambda t: t[["twist_deg", "twist_std_deg", "period_nm", "period_std_nm"]].median().to_frame().T),
    "defects": ("Point defects and dislocations", _count_kinds),
    "boundaries": ("Grain and twin boundaries", _count_kinds),
    "motion": ("Drift and turn", _summarise_motion),
    "msd": ("Mean squared displacement", _summarise_displacement),
    "vibrations": ("Vibrations", _summarise_vibrations),
    "phonons": ("Phonons", lambda t: t.groupby(["layer", "branch"]).stiffness_kt_nm2.agg(["min", "max"]).reset_index()),
    "growth": ("Growth", lambda t: t.groupby(["layer", "event"]).size().rename("events").reset_index()),
}
