"""Run every analysis that a particle table supports: what ``moirelib analyze`` does.

Explained in chapter 11, "Your movie".
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from ..tables import TRACK_COLUMNS, checked_particles
from .defect_tracks import defect_tables, follow_boundaries, follow_defects
from .displacements import Displacements, coordination_labels, site_displacements
from .growth import front_table, front_velocity, growth_events, growth_rate, size_table
from .lattices import lattice_table
from .moire import moire_table, registry
from .occupancy import Occupancy, site_occupancy
from .phonons import largest_grain, measure_phonons
from .preference import site_preference
from .relaxation import fit_relaxation, relative_motion
from .springs import elastic_constants, fit_springs
from .vibrations import group_vibrations, interlayer_correlation, layer_vibrations, measure_vibrations, site_vibrations

__all__ = ["Analysis", "NEEDED", "TABLES", "analyze", "field_of_view", "read_particles"]


#: Columns that a table must have.
NEEDED = TRACK_COLUMNS

#: Tables in the order of the report; each is written as NAME.csv.
TABLES = ("lattice", "moire", "defects", "boundaries", "vibrations", "phonons", "growth")


@dataclass
class Analysis:
    """Everything that was found, and what the data did not allow.

    Explained in chapter 11, "Your movie".

    Attributes
    ----------
    particles : pandas.DataFrame
        The input.
    tables : dict of str to pandas.DataFrame
        By the names in `TABLES`; those that the data do not support are missing.
    notes : dict of str to str
        By the same names, one line each: why a table is missing or what limits it.
    summaries : dict of str to dict of str to pandas.DataFrame
        By the same names, and then by title: what the report says besides, of whole layers.
    sizes : pandas.DataFrame, optional
        Of `moirelib.analysis.size_table`.
    occupancy : dict of int to moirelib.analysis.Occupancy
        Sites of each layer, and how it moved.
    """

    particles: pd.DataFrame
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    summaries: dict[str, dict[str, pd.DataFrame]] = field(default_factory=dict)
    sizes: pd.DataFrame | None = None
    occupancy: dict[int, Occupancy] = field(default_factory=dict)

    def write(self, folder) -> None:
        """Write each table as NAME.csv into an existing folder."""
        for name, table in self.tables.items():
            table.to_csv(Path(folder) / f"{name}.csv", index=False, float_format="%.6g", lineterminator="\n")


def read_particles(folder) -> pd.DataFrame:
    """Read and check ``particles.csv`` of a decomposition's folder, or of any other.

    Parameters
    ----------
    folder : path-like
        Holds ``particles.csv`` with at least `NEEDED`; lengths in nm, ``frame`` from 0, ``particle`` -1 where unlinked.

    Returns
    -------
    pandas.DataFrame
        With integer ``frame, particle, layer``.

    Raises
    ------
    OSError
        If there is no such file.
    ValueError
        If it is no table of particles: a column is missing or holds something else than numbers.

    Notes
    -----
    Explained in chapter 11, "Your movie".
    """
    file = Path(folder) / "particles.csv"
    if not file.is_file():
        raise FileNotFoundError(f"no particles.csv in {folder}; name a folder that moirelib decompose wrote")
    try:
        table = pd.read_csv(file)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not a table: {error}; write it as comma-separated values") from error
    return _checked(table, str(file))


def _checked(table, name) -> pd.DataFrame:
    table = checked_particles(table, NEEDED, name)
    if table.empty:
        raise ValueError(f"{name} holds no particles; decompose a movie with particles in it")
    return table


def analyze(particles: pd.DataFrame, field_nm=None, progress: bool = False) -> Analysis:
    """Vibrations, phonons, lattices, Moiré, defects, boundaries and growth of a particle table, as far as it allows.

    Parameters
    ----------
    particles : pandas.DataFrame
        At least `NEEDED`; also ``y_std_nm, x_std_nm`` where known.
    field_nm : tuple of float, optional
        Height and width of the field of view, in nm: what drift carries over its edges has not grown.
    progress : bool
        Show a progress bar over the frames.

    Returns
    -------
    Analysis
        Tables, and notes on what is missing.

    Raises
    ------
    ValueError
        If a column is missing or holds something else than numbers.

    Notes
    -----
    Explained in chapter 11, "Your movie".
    """
    particles = _checked(particles, "the table")
    result = Analysis(particles)
    _frame_by_frame(result, progress)
    tracks = particles[particles["particle"] >= 0]
    frames = particles["frame"].nunique()
    if frames < 2 or tracks.empty:
        why = "one frame" if frames < 2 else "no linked particles"
        for name in ("vibrations", "phonons", "growth"):
            result.notes[name] = f"needs particles followed over several frames; here is {why} only"
        return result
    _try(result, "vibrations", lambda: measure_vibrations(tracks))
    _try(result, "phonons", lambda: measure_phonons(tracks))
    _try(result, "growth", lambda: _growth(result, field_nm))
    _summarise(result, tracks)
    return result


def _growth(result, field_nm) -> pd.DataFrame:
    """Events; what else the occupancy of sites says is kept beside them."""
    result.occupancy = occupancy = site_occupancy(result.particles, field_nm)
    events, result.sizes = growth_events(occupancy), size_table(occupancy)
    frames = result.particles["frame"].unique()
    _keep(result, "growth", "Rates per frame", lambda: growth_rate(events, frames, layers=sorted(occupancy)))
    _keep(result, "growth", "Velocity of the front, nm per frame", lambda: _fronts(occupancy))
    _keep(result, "growth", "Attachments of layer 2 by registry", lambda: _preference(occupancy))
    _keep(result, "growth", "Turning and sliding of layer 2 on layer 1", lambda: _relaxation(occupancy))
    return events


def _fronts(occupancy) -> pd.DataFrame:
    table = front_velocity(front_table(occupancy))
    names = {"velocity_nm_per_s": "velocity_nm_per_frame", "velocity_std_nm_per_s": "velocity_std_nm_per_frame"}
    return table.rename(columns=names)


def _preference(occupancy) -> pd.DataFrame:
    """Attached against expected without preference; nothing where no attachment had a choice."""
    preference = site_preference(occupancy)
    return preference.table.assign(p_value=preference.p_value) if preference.events else preference.table.iloc[:0]


def _relaxation(occupancy) -> pd.DataFrame:
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


def _summarise(result, tracks) -> None:
    """Numbers of whole layers: vibrations, elastic constants, defects that last."""
    motions = {}
    for layer in sorted(tracks["layer"].unique()):
        with contextlib.suppress(ValueError):  # the notes say already why a layer has none
            motions[layer] = site_displacements(tracks, layer)
    _keep(result, "vibrations", "Layers as a whole", lambda: _layers(motions))
    _keep(result, "vibrations", "By coordination", lambda: _grouped(motions, lambda m: coordination_labels(m.sites)))
    if {1, 2} <= set(motions):
        both, title = {k: motions[k] for k in (1, 2)}, "By place on the other layer"
        _keep(result, "vibrations", title, lambda: _grouped(both, lambda m: _registered(m, both[3 - m.layer])))
        title = "Correlation of the two layers' displacements, by distance"
        _keep(result, "vibrations", title, lambda: interlayer_correlation(motions[1], motions[2]))
    _keep(result, "phonons", "Elastic constants in kT/nm², and Poisson's ratio", lambda: _elastic(motions))
    spacing = result.tables["lattice"]["spacing_nm"].median()
    _keep(result, "defects", "Followed through the frames", lambda: _followed(result, spacing))
    _keep(result, "boundaries", "Followed through the frames", lambda: _followed_boundaries(result, spacing))


def _keep(result, section, title, compute: Callable[[], pd.DataFrame]) -> None:
    """Add a summary; where the data do not allow it, the report goes without."""
    with contextlib.suppress(ValueError):
        table = compute()
        if len(table):
            result.summaries.setdefault(section, {})[title] = table


LAYER_NUMBERS = [f"variance_{axis}{kind}_nm2" for axis in "yx" for kind in ("", "_std")]
LAYER_NUMBERS += ["anisotropy", "anisotropy_std", "isotropy_p", "lindemann", "lindemann_relative"]


def _layers(motions) -> pd.DataFrame:
    rows = [{"layer": layer} | layer_vibrations(motion) for layer, motion in motions.items()]
    return pd.DataFrame(rows, columns=["layer", *LAYER_NUMBERS])


def _grouped(motions, labels: Callable[[Displacements], np.ndarray]) -> pd.DataFrame:
    """Amplitudes of every layer's sites by their labels."""
    tables = [
        group_vibrations(site_vibrations(motion), labels(motion)).reset_index().assign(layer=layer)
        for layer, motion in motions.items()
    ]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _registered(motion, other) -> np.ndarray:
    """Registry of a layer's sites on the other layer's, NaN where that is not there."""
    return registry(motion.sites, other.sites)["registry"].replace("", np.nan).to_numpy()


def _elastic(motions) -> pd.DataFrame:
    rows = []
    for layer, motion in motions.items():
        with contextlib.suppress(ValueError):
            rows.append({"layer": layer} | asdict(elastic_constants(fit_springs(largest_grain(motion)))))
    return pd.DataFrame(rows)


LASTING = 3  # frames; a defect of fewer may be a particle that was missed


def _followed(result, spacing) -> pd.DataFrame:
    """Of every kind of defect, how many last, for how long and how far they move on their layer's own lattice."""
    paths = follow_defects(result.tables["defects"], 1.2 * spacing, motion=result.occupancy)
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


LONGEST = 10  # boundaries listed


def _followed_boundaries(result, spacing) -> pd.DataFrame:
    """The boundaries that are seen in most frames: what they are, and how far they migrate."""
    paths = follow_boundaries(result.tables["boundaries"], 2 * spacing, motion=result.occupancy)
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


def _frame_by_frame(result, progress) -> None:
    """Lattices, Moiré and defects: each frame on its own."""
    from tqdm import tqdm

    parts = {name: [] for name in ("lattice", "moire", "defects", "boundaries")}
    groups = result.particles.groupby("frame")
    for _, frame in tqdm(groups, total=len(groups), disable=not progress, desc="analyze", unit="frame"):
        tables = lattice_table(frame), moire_table(frame), *defect_tables(frame)
        for name, table in zip(parts, tables, strict=True):
            parts[name].append(table)
    for name, tables in parts.items():
        filled = [table for table in tables if len(table)]
        result.tables[name] = pd.concat(filled, ignore_index=True) if filled else tables[0]
    if result.tables["lattice"].empty:
        result.notes["lattice"] = "no lattice: too few particles of one layer beside each other"
    if result.tables["moire"].empty:
        del result.tables["moire"]
        result.notes["moire"] = "needs two layers with a lattice each that lie upon each other"


def _try(result, name, compute: Callable[[], pd.DataFrame]) -> None:
    """Keep a table, or the line that says why there is none."""
    try:
        table = compute()
    except ValueError as error:
        result.notes[name] = str(error)
        return
    result.tables[name] = table
    if table.attrs.get("note"):
        result.notes[name] = " ".join(table.attrs["note"].split("\n"))


def field_of_view(folder) -> tuple[float, float] | None:
    """Height and width of the frames, in nm, from ``summary.json`` of a decomposition; None where it does not say.

    Parameters
    ----------
    folder : path-like
        Where ``summary.json`` may be.

    Returns
    -------
    tuple of float or None

    Notes
    -----
    Explained in chapter 11, "Your movie".
    """
    try:
        summary = json.loads((Path(folder) / "summary.json").read_text(encoding="utf-8"))
        height, width = (float(n) * float(summary["pixel_size_nm"]) for n in summary["shape_px"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return height, width
