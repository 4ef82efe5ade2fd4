"""Figures and one self-contained page of an analysis (chapter 11, "Your movie")."""

import base64
import html
import io
from collections.abc import Iterator
from os import PathLike
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from scipy.stats import circmean

from .. import plot
from ..crystal.neighbours import spans_plane
from .correlations import strain_map
from .grains import find_grains
from .moire import registry
from .pipeline import TABLES, Analysis

TITLES = {
    "lattice": "Lattices",
    "moire": "Moiré",
    "defects": "Point defects and dislocations",
    "boundaries": "Grain and twin boundaries",
    "vibrations": "Vibrations",
    "phonons": "Phonons",
    "growth": "Growth",
}

#: Names of all files that an analysis may write.
WRITTEN = (
    *(f"{name}.csv" for name in TABLES),
    *("report.html", "tracks.gif", "registry.png", "moire.png", "defect_number.png", "growth.png"),
    *(f"{name}_[0-9].png" for name in ("layer", "vibrations", "phonons")),
)
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
img { max-width: 100%; height: auto; } figcaption { color: #555; } figure { margin: 1rem 0; }
table { border-collapse: collapse; display: block; overflow-x: auto; } td, th { padding: .2rem .8rem .2rem 0; }
th { text-align: left; border-bottom: 1px solid #999; } .note { border-left: 4px solid #E69F00; padding-left: .8rem; }
"""
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>{style}</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""


def write_analysis(analysis: Analysis, folder: str | PathLike, name: str = "", movie: bool = True) -> None:
    """Write tables, figures and ``report.html`` into an existing folder; ``name`` says what was analysed.

    With ``movie``, and where there are several frames, also ``tracks.gif``.
    """
    folder = Path(folder)
    analysis.write(folder)
    drawn = []
    for file, section, caption, fig in figures(analysis):
        content = io.BytesIO()
        fig.savefig(content, format="png", dpi=110)
        plt.close(fig)
        (folder / f"{file}.png").write_bytes(content.getvalue())
        drawn.append((section, caption, content.getvalue()))
    if movie and analysis.particles["frame"].nunique() > 1:
        animation = plot.animate_tracks(analysis.particles)
        animation.save(folder / "tracks.gif", writer="pillow", fps=8, dpi=80)
        plt.close("all")
    (folder / "report.html").write_text(render_report(analysis, drawn, name), encoding="utf-8")


def figures(analysis: Analysis) -> Iterator[tuple[str, str, str, Figure]]:
    """Draw what there is to see: file name, table it belongs to, caption, and figure, which the caller closes."""
    yield from _draw_maps(analysis)
    if len(analysis.tables.get("moire", ())) > 1:
        yield "moire", "moire", "Twist and Moiré period in every frame, with error bars.", _draw_moire(analysis)
    if analysis.particles["frame"].nunique() > 1:
        caption = (
            "Defects found in every frame. A particle that is missed in a frame looks like a vacancy of that frame."
        )
        yield "defect_number", "defects", caption, _draw_defect_number(analysis)
    for layer, table in _split_layers(analysis.tables.get("vibrations")):
        fig, ax = plt.subplots(figsize=(6, 5), layout="constrained")
        plot.show_amplitudes(table, ax)
        fig.colorbar(ax.collections[-1], ax=ax, label="amplitude / nm")
        caption = f"Layer {layer}: vibration of every site; dots: not above the localization error."
        yield f"vibrations_{layer}", "vibrations", caption, fig
    for layer, table in _split_layers(analysis.tables.get("phonons")):
        fig, ax = plt.subplots(figsize=(6, 4), layout="constrained")
        table.attrs["ticks"] = analysis.tables["phonons"].attrs["ticks"][layer]
        plot.show_dispersion(table, ax)
        caption = f"Layer {layer}: stiffness of plane waves along Γ-M-K-Γ (points) and of fitted springs (lines)."
        yield f"phonons_{layer}", "phonons", caption, fig
    if "growth" in analysis.tables:
        caption = (
            "Left, taken sites of each layer, frame by frame. Right, where particles came and went, among all sites, "
            "as they lay in the first frame."
        )
        yield "growth", "growth", caption, _draw_growth(analysis)


def _split_layers(table):
    """Pairs of layer and its rows."""
    return [] if table is None else list(table.groupby("layer"))


def _draw_maps(analysis):
    """The last frame, seen in several ways: particles and defects, rotation, registry."""
    last = analysis.particles["frame"].max()
    frame = analysis.particles[analysis.particles["frame"] == last]
    here = {k: t[t["frame"] == last] for k, t in analysis.tables.items() if k in ("defects", "boundaries")}
    for layer, rows in frame.groupby("layer"):
        points = rows[["y_nm", "x_nm"]].to_numpy(float)
        if len(points) < 8 or not spans_plane(points):
            continue
        defects, boundaries = (here[k][here[k]["layer"] == layer] for k in ("defects", "boundaries"))
        fig, axes = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
        grain = find_grains(points)
        plot.show_map(rows, grain, axes[0], cmap="Pastel2", clim=(-0.5, 7.5), colorbar=False)
        plot.show_defects(defects, axes[0], boundaries=boundaries)
        plot.show_strain(strain_map(points, grain=grain), ax=axes[1])
        caption = f"Layer {layer}, frame {last}. Left: grains, defects, boundaries. Right: local rotation in degrees."
        yield f"layer_{layer}", "defects", caption, fig
    layers = dict(list(frame.groupby("layer")))
    if "moire" in analysis.tables and {1, 2} <= set(layers):
        fig, ax = plt.subplots(figsize=(6, 5), layout="constrained")
        upper, lower = (layers[k][["y_nm", "x_nm"]] for k in (2, 1))
        plot.show_registry(registry(upper, lower), ax)
        yield "registry", "moire", f"Where each particle of layer 2 lies on layer 1, frame {last}: the Moiré.", fig


def _draw_moire(analysis) -> Figure:
    table = analysis.tables["moire"]
    fig, axes = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
    for ax, name, unit in zip(axes, ("twist", "period"), ("deg", "nm"), strict=True):
        ax.errorbar(table["frame"], table[f"{name}_{unit}"], table[f"{name}_std_{unit}"], fmt="o", ms=3)
        ax.set(xlabel="frame", ylabel={"twist": "twist / °", "period": "Moiré period / nm"}[name])
    return fig


def _draw_defect_number(analysis) -> Figure:
    fig, ax = plt.subplots(figsize=(6, 3.5), layout="constrained")
    frames = np.unique(analysis.particles["frame"])
    for (layer, kind), rows in analysis.tables["defects"].groupby(["layer", "kind"]):
        number = rows.groupby("frame").size().reindex(frames, fill_value=0)
        ax.plot(frames, number, marker="os"[(layer - 1) % 2], ms=3, label=f"{kind}, layer {layer}")
    ax.set(xlabel="frame", ylabel="number", ylim=(0, None))
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=8, frameon=False)
    return fig


def _draw_growth(analysis) -> Figure:
    fig, axes = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    if analysis.sizes is not None:
        plot.show_sizes(analysis.sizes, axes[0])
    sites = [one.sites for one in analysis.occupancy.values()]
    plot.show_events(analysis.tables["growth"], axes[1], np.concatenate(sites) if sites else None)
    return fig


def render_report(analysis: Analysis, drawn: list[tuple[str, str, bytes]], name: str = "") -> str:
    """One self-contained HTML page of an analysis; `drawn` has section, caption and PNG of every figure."""
    frames = analysis.particles["frame"].nunique()
    number = analysis.particles.groupby("layer").size() / frames
    counts = ", ".join(f"{n:.0f} in layer {layer}" for layer, n in number.items())
    parts = [f"<p>{frames} frame(s); particles in each: {counts}.</p>"]
    for section in TABLES:
        parts.append(f"<h2>{TITLES[section]}</h2>")
        if section in analysis.notes:
            parts.append(f'<p class="note">{html.escape(analysis.notes[section])}</p>')
        if section in analysis.tables:
            table = analysis.tables[section]
            parts.append("<p>None found.</p>" if table.empty else _render_table(SUMMARIES[section](table)))
        for title, table in analysis.summaries.get(section, {}).items():
            parts += [f"<h3>{html.escape(title)}</h3>", _render_table(table)]
        parts += [_render_figure(caption, png) for where, caption, png in drawn if where == section]
    title = html.escape(f"Analysis of {name}" if name else "Analysis")
    return PAGE.format(title=title, style=STYLE, body="\n".join(parts))


def _render_figure(caption, png) -> str:
    data, caption = base64.b64encode(png).decode("ascii"), html.escape(caption)
    image = f'<img alt="{caption}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _render_table(table) -> str:
    return table.to_html(index=False, border=0, float_format=lambda v: f"{v:.4g}", na_rep="–")


def _summarise_lattices(table):
    """Over the frames, of the largest grain of each layer: medians, and the mean direction of its rows."""
    largest = table.sort_values("n").groupby(["frame", "layer"]).tail(1)
    grains = table.groupby(["layer", "frame"]).size().groupby("layer").median()
    summary = largest.groupby("layer")[["spacing_nm", "spacing_std_nm", "angle_std_deg"]].median()
    angle = largest.groupby("layer")["angle_deg"].agg(circmean, high=60)  # 59.9° and 0.1° are neighbours
    return summary.assign(angle_deg=angle, grains=grains).reset_index()


def _count_by(columns):
    """How many rows of each kind there are in a frame, on average, and in all."""

    def count(table):
        summary = table.groupby(columns).size().rename("in all frames").reset_index()
        return summary.assign(**{"per frame with any": summary["in all frames"] / table["frame"].nunique()})

    return count


def _summarise_vibrations(table):
    """Medians over the sites of each layer, spring constants with their intervals."""
    columns = ["std_raw_y_nm", "std_raw_x_nm", "std_y_nm", "std_x_nm"]
    columns += [f"k_{axis}_{end}kt_nm2" for axis in "yx" for end in ("", "low_", "high_")]
    return table.groupby("layer")[columns].median().reset_index()


SUMMARIES = {
    "lattice": _summarise_lattices,
    "moire": lambda table: table[["twist_deg", "twist_std_deg", "period_nm", "period_std_nm"]].median().to_frame().T,
    "defects": _count_by(["layer", "kind"]),
    "boundaries": _count_by(["layer", "kind"]),
    "vibrations": _summarise_vibrations,
    "phonons": lambda table: table.groupby(["layer", "branch"])["stiffness_kt_nm2"].agg(["min", "max"]).reset_index(),
    "growth": lambda table: table.groupby(["layer", "event"]).size().rename("events").reset_index(),
}
