"""Run every analysis that a particle table supports: what ``moirelib analyze`` does (chapter 11, "Your movie")."""

import contextlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from os import PathLike
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ..tables import TRACK_COLUMNS, check_particles, read_particle_table
from .defect_tracks import follow_boundaries, follow_defects
from .displacements import Displacements, coordination_labels, site_displacements
from .frame_tables import tabulate_frame
from .growth import front_table, front_velocity, growth_events, growth_rate, size_table
from .layer_frame import layer_frames
from .moire import registry
from .occupancy import Occupancy, site_occupancy
from .phonons import largest_grain, measure_phonons
from .relaxation import fit_relaxation, relative_motion
from .site_preference import site_preference
from .springs import elastic_constants, fit_springs
from .vibrations import group_vibrations, interlayer_correlation, layer_vibrations, measure_vibrations, site_vibrations

NEEDED = TRACK_COLUMNS  # that a table must have
#: Tables in the order of the report; each is written as NAME.csv.
TABLES = ("lattice", "moire", "defects", "boundaries", "vibrations", "phonons", "growth")
LAYER_NUMBERS = [f"variance_{axis}{kind}_nm2" for axis in "yx" for kind in ("", "_std")]
LAYER_NUMBERS += ["anisotropy", "anisotropy_std", "isotropy_p", "lindemann", "lindemann_relative"]
LASTING = 3  # frames; a defect of fewer may be a particle that was missed
DEFECT_REACH, BOUNDARY_REACH = 1.2, 2.0  # spacings that a defect or boundary may move from frame to frame
LONGEST = 10  # boundaries listed


@dataclass
class Analysis:
    """Everything that was found, and what the data did not allow."""

    particles: pd.DataFrame  # the input
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)  # by the names in `TABLES` that the data support
    notes: dict[str, str] = field(default_factory=dict)  # by the same names: why a table is missing or what limits it
    # by the same names, and then by title: what the report says besides, of whole layers
    summaries: dict[str, dict[str, pd.DataFrame]] = field(default_factory=dict)
    sizes: pd.DataFrame | None = None  # of `moirelib.analysis.size_table`
    occupancy: dict[int, Occupancy] = field(default_factory=dict)  # sites of each layer, and how it moved

    def write(self, folder: str | PathLike) -> None:
        """Write each table as NAME.csv into an existing folder."""
        for name, table in self.tables.items():
            table.to_csv(Path(folder) / f"{name}.csv", index=False, float_format="%.6g", lineterminator="\n")


def read_particles(folder: str | PathLike, pixel_size: float | None = None) -> pd.DataFrame:
    """Read and check ``particles.csv`` of a decomposition's folder, or of any other.

    Also the only other table in a folder, or a file by its name: how it may be written, and what TrackMate and trackpy
    export, says `moirelib.tables.read_particle_table`. Needed are the columns `NEEDED`; lengths in nm, ``frame`` from
    0, ``particle`` -1 or empty where unlinked. A table in pixels needs `pixel_size` (nm/pixel), unless
    ``summary.json`` in the folder has it. OSError if there is no such file, ValueError if it is no table of particles.
    """
    file = _find_table(Path(folder))
    stored = _read_summary(file.parent).get("pixel_size_nm") if pixel_size is None else pixel_size
    return _check_not_empty(read_particle_table(file, stored), str(file))


def _find_table(folder: Path) -> Path:
    if folder.is_file():
        return folder
    if (folder / "particles.csv").is_file():
        return folder / "particles.csv"
    others = [f for f in folder.glob("*") if f.suffix.lower() in (".csv", ".tsv", ".txt")]
    if len(others) != 1:
        held = f" (it holds {', '.join(sorted(f.name for f in others)[:5])})" if others else ""
        raise FileNotFoundError(f"no particles.csv in {folder}{held}; name a folder that moirelib decompose wrote")
    return others[0]


def _check_not_empty(table, name) -> pd.DataFrame:
    table = check_particles(table, NEEDED, name)
    if table.empty:
        raise ValueError(f"{name} holds no particles; decompose a movie with particles in it")
    return table


def analyze(particles: pd.DataFrame, field_nm: ArrayLike | None = None, progress: bool = False) -> Analysis:
    """Vibrations, phonons, lattices, Moiré, defects, boundaries and growth of a particle table, as far as it allows.

    Parameters
    ----------
    particles : pandas.DataFrame
        At least `NEEDED`; also ``y_std_nm, x_std_nm`` where known.
    field_nm : tuple of float, optional
        Height and width of the field of view, in nm: what drift carries over its edges has not grown.
    progress : bool
        Show a progress bar over the frames.
    """
    particles = _check_not_empty(particles, "the table")
    result = Analysis(particles)
    _add_frame_tables(result, progress)
    tracks = particles[particles["particle"] >= 0]
    frames = particles["frame"].nunique()
    if frames < 2 or tracks.empty:
        why = "one frame" if frames < 2 else "no linked particles"
        for name in ("vibrations", "phonons", "growth"):
            result.notes[name] = f"needs particles followed over several frames; here is {why} only"
        return result
    _add_table(result, "vibrations", lambda: measure_vibrations(tracks))
    _add_table(result, "phonons", lambda: measure_phonons(tracks))
    _add_table(result, "growth", lambda: _measure_growth(result, field_nm))
    _add_summaries(result, tracks)
    return result


def _measure_growth(result, field_nm) -> pd.DataFrame:
    """Table of events; sizes and summaries of growth are added to the result."""
    result.occupancy = occupancy = site_occupancy(result.particles, field_nm)
    events, result.sizes = growth_events(occupancy), size_table(occupancy)
    add, frames = partial(_add_summary, result, "growth"), result.particles["frame"].unique()
    add("Rates per frame", partial(growth_rate, events, frames, layers=sorted(occupancy)))
    per_frame = {f"velocity_{kind}nm_per_s": f"velocity_{kind}nm_per_frame" for kind in ("", "std_")}
    add("Velocity of the front, nm per frame", lambda: front_velocity(front_table(occupancy)).rename(columns=per_frame))
    add("Attachments of layer 2 by registry", _measure_preference, occupancy)
    add("Turning and sliding of layer 2 on layer 1", _measure_relaxation, occupancy)
    return events


def _measure_preference(occupancy) -> pd.DataFrame:
    """Attached against expected without preference; nothing where no attachment had a choice."""
    preference = site_preference(occupancy)
    return preference.table.assign(p_value=preference.p_value) if preference.events else preference.table.iloc[:0]


def _measure_relaxation(occupancy) -> pd.DataFrame:
    """Twist and both components of the offset: change over the movie, and the exponential where there is one."""
    motion, rows = relative_motion(occupancy), []
    errors = {"twist_change_deg": "twist_std_deg", "offset_y_nm": "offset_std_nm", "offset_x_nm": "offset_std_nm"}
    for name, error in errors.items():
        fit = fit_relaxation(motion["frame"], motion[name], motion[error])
        row = {"of": name, "change": motion[name].iloc[-1] - motion[name].iloc[0]}
        row |= {"exponential": "yes" if fit.supported else "not supported", "amplitude": fit.amplitude}
        row |= {"amplitude_std": fit.amplitude_std, "time_frames": fit.time, "time_std_frames": fit.time_std}
        rows.append(row)
    return pd.DataFrame(rows)


def _add_summaries(result, tracks) -> None:
    """Numbers of whole layers: vibrations, elastic constants, defects that last."""
    motions = {}
    for layer in sorted(tracks["layer"].unique()):
        with contextlib.suppress(ValueError):  # the notes already give the reason
            motions[layer] = site_displacements(tracks, layer)
    add = partial(_add_summary, result)
    add("vibrations", "Layers as a whole", _summarise_layers, motions)
    add("vibrations", "By coordination", _group_amplitudes, motions, lambda m: coordination_labels(m.sites))
    if {1, 2} <= set(motions):
        both = {layer: motions[layer] for layer in (1, 2)}
        places = partial(_label_by_registry, both)
        add("vibrations", "By place on the other layer", _group_amplitudes, both, places)
        title = "Correlation of the two layers' displacements, by distance"
        add("vibrations", title, interlayer_correlation, *both.values())
    add("phonons", "Elastic constants in kT/nm², and Poisson's ratio", _measure_elastic_constants, motions)
    spacing = result.tables["lattice"]["spacing_nm"].median()
    add("defects", "Followed through the frames", _summarise_defects, result, spacing)
    add("boundaries", "Followed through the frames", _summarise_boundaries, result, spacing)


def _add_summary(result, section, title, compute: Callable[..., pd.DataFrame], *arguments) -> None:
    """Add a summary; where the data do not allow it, the report goes without."""
    with contextlib.suppress(ValueError):
        table = compute(*arguments)
        if len(table):
            result.summaries.setdefault(section, {})[title] = table


def _summarise_layers(motions) -> pd.DataFrame:
    rows = [{"layer": layer} | layer_vibrations(motion) for layer, motion in motions.items()]
    return pd.DataFrame(rows, columns=["layer", *LAYER_NUMBERS])


def _group_amplitudes(motions, labels: Callable[[Displacements], np.ndarray]) -> pd.DataFrame:
    """Amplitudes of every layer's sites by their labels."""
    tables = [
        group_vibrations(site_vibrations(motion), labels(motion)).reset_index().assign(layer=layer)
        for layer, motion in motions.items()
    ]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _label_by_registry(motions, motion) -> np.ndarray:
    """Registry of a layer's sites on the other layer's, NaN where that is not there."""
    return registry(motion.sites, motions[3 - motion.layer].sites)["registry"].replace("", np.nan).to_numpy()


def _measure_elastic_constants(motions) -> pd.DataFrame:
    rows = []
    for layer, motion in motions.items():
        with contextlib.suppress(ValueError):
            rows.append({"layer": layer} | asdict(elastic_constants(fit_springs(largest_grain(motion)))))
    return pd.DataFrame(rows)


def _summarise_defects(result, spacing) -> pd.DataFrame:
    """Of every kind of defect, how many last, for how long and how far they move on their layer's own lattice."""
    paths = follow_defects(result.tables["defects"], DEFECT_REACH * spacing, motion=result.occupancy)
    step = np.hypot(paths["step_y_nm"], paths["step_x_nm"])
    each = paths.assign(moved=step > 0.5 * spacing).groupby(["layer", "kind", "defect"])
    each = each.agg(
        frames=("frame", "nunique"), moves=("moved", "sum"), glide=("glide_nm", "sum"), climb=("climb_nm", "sum")
    ).reset_index()
    lasting = each[each["frames"] >= LASTING].groupby(["layer", "kind"])
    summary = pd.DataFrame(
        {
            f"seen_in_{LASTING}_frames_or_more": lasting.size(),
            "longest_frames": lasting["frames"].max(),
            "steps_beyond_half_a_spacing": lasting["moves"].sum(),
            "farthest_glide_nm": lasting["glide"].agg(lambda v: v.abs().max()),
            "farthest_climb_nm": lasting["climb"].agg(lambda v: v.abs().max()),
        }
    ).reset_index()
    other = summary["kind"] != "dislocation"
    return summary.assign(**{c: summary[c].mask(other) for c in ("farthest_glide_nm", "farthest_climb_nm")})


def _summarise_boundaries(result, spacing) -> pd.DataFrame:
    """The boundaries that are seen in most frames: what they are, and how far they migrate."""
    paths = follow_boundaries(result.tables["boundaries"], BOUNDARY_REACH * spacing, motion=result.occupancy)
    each = paths.groupby(["layer", "boundary"]).agg(
        frames=("frame", "nunique"),
        kind=("kind", lambda v: v.mode().iloc[0]),
        misorientation_deg=("misorientation_deg", "median"),
        sigma=("sigma", lambda v: v.mode().iloc[0]),
        sigma_deviation_deg=("sigma_deviation_deg", "median"),
        asymmetry_deg=("asymmetry_deg", "median"),
        dislocation_spacing_nm=("dislocation_spacing_nm", "median"),
        frank_spacing_nm=("frank_spacing_nm", "median"),
        migration_nm=("migration_nm", "sum"),
    )
    lasting = each[each["frames"] >= LASTING].reset_index().drop(columns="boundary")
    return lasting.sort_values(["layer", "frames"], ascending=[True, False]).head(LONGEST)


def _add_frame_tables(result, progress) -> None:
    """Lattices, Moiré and defects: each frame on its own."""
    from tqdm import tqdm

    look = {"total": result.particles["frame"].nunique(), "desc": "analyze", "unit": "frame"}
    frames = tqdm(layer_frames(result.particles), disable=not progress, **look)
    found = [tabulate_frame(frame, layers) for frame, layers in frames]
    for name in found[0]:
        filled = [tables[name] for tables in found if len(tables[name])]
        result.tables[name] = pd.concat(filled, ignore_index=True) if filled else found[0][name]
    if result.tables["lattice"].empty:
        result.notes["lattice"] = "no lattice: too few particles of one layer beside each other"
    if result.tables["moire"].empty:
        del result.tables["moire"]
        result.notes["moire"] = "needs two layers with a lattice each that lie upon each other"


def _add_table(result, name, compute: Callable[[], pd.DataFrame]) -> None:
    """Keep a table, or the line that says why there is none."""
    try:
        table = compute()
    except ValueError as error:
        result.notes[name] = str(error)
        return
    result.tables[name] = table
    if table.attrs.get("note"):
        result.notes[name] = " ".join(table.attrs["note"].split("\n"))


def field_of_view(folder: str | PathLike) -> tuple[float, float] | None:
    """Height and width of the frames, in nm, from ``summary.json`` in a folder; None where it does not say."""
    summary = _read_summary(Path(folder))
    try:
        height, width = (float(n) * float(summary["pixel_size_nm"]) for n in summary["shape_px"])
    except (ValueError, KeyError, TypeError):
        return None
    return height, width


def _read_summary(folder: Path) -> dict:
    """What ``summary.json`` says; nothing where there is none."""
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return summary if isinstance(summary, dict) else {}
