"""Run every analysis that a particle table supports: what ``moirelib analyze`` does (chapter 11, "Your movie")."""

import contextlib
import json
import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from tqdm import tqdm

from ..tables import TRACK_COLUMNS, check_particles, layers_by_frame, read_particle_table
from .defects import follow_boundaries, follow_defects
from .displacements import ERROR_BARS, coordination_labels, mean_squared_displacement, site_displacements
from .frame_tables import FRAME_TABLES, tabulate_frames
from .growth import front_table, front_velocity, growth_events, growth_rate, site_preference, size_table
from .layer_motion import fit_relaxation, motion_table, relative_motion
from .moire import find_facing_layer, registry
from .occupancy import Occupancy, site_occupancy
from .phonons import SpringModel, elastic_constants, fit_springs, measure_phonons
from .vibrations import group_vibrations, interlayer_correlation, layer_vibrations, measure_every_layer, site_vibrations

NEEDED = TRACK_COLUMNS  # that a table must have
USED = (*NEEDED, *ERROR_BARS)
#: Tables in the order of the report; each is written as NAME.csv.
TABLES = (*FRAME_TABLES, "motion", "msd", "vibrations", "phonons", "growth")
ON_SITES = {"defects", "boundaries", "motion", "msd", "growth"}  # these need the motion of each layer's lattice
LAYER_NUMBERS = [f"variance_{axis}{kind}_nm2" for axis in "yx" for kind in ("", "_std")]
LAYER_NUMBERS += ["anisotropy", "anisotropy_std", "isotropy_p", "lindemann", "lindemann_relative"]
LASTING = 3  # frames; a defect of fewer may be a particle that was missed
DEFECT_REACH, BOUNDARY_REACH = 1.2, 2.0  # spacings that a defect or boundary may move from frame to frame
LONGEST = 10  # boundaries listed
FRAMES_AT_ONCE = 8  # analysed by one call: progress shows in steps of so many
ROWS_PER_PROCESS = 100_000  # of the table, some ten seconds; for fewer, another process takes longer to start


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
    seconds: dict[str, float] = field(default_factory=dict)  # that each stage took

    def write(self, folder: str | PathLike) -> None:
        """Write each table as NAME.csv into an existing folder."""
        for name, table in self.tables.items():
            table.to_csv(Path(folder) / f"{name}.csv", index=False, float_format="%.6g", lineterminator="\n")

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None, unit: str = "step", show: bool = False) -> Iterator[tqdm]:
        """Measure the time of a stage, with a bar over so many units of work if wanted; None where unknown."""
        start = time.perf_counter()
        try:
            with tqdm(total=total, desc=name, unit=unit, disable=not show) as bar:
                yield bar
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def read_particles(folder: str | PathLike, pixel_size: float | None = None) -> pd.DataFrame:
    """Read and check ``particles.csv`` of a decomposition's folder, or of any other.

    Also the only other table in a folder, or a file by its name, as `moirelib.tables.read_particle_table` takes it,
    with the columns `NEEDED`; or, where a decomposition still runs, its finished frames, without tracks. A table in
    pixels needs `pixel_size` (nm/pixel), unless ``summary.json`` in the folder has it. OSError if there is no such
    file, ValueError if it is no table of particles.
    """
    file = Path(folder)
    if not file.is_file() and (file / "particles.csv").is_file():
        file = file / "particles.csv"
    elif finished := sorted(file.glob("unfinished/frame-*.parquet")):
        return _check_not_empty(pd.concat(map(pd.read_parquet, finished)).assign(particle=-1), str(file))
    elif not file.is_file():
        others = [f for f in file.glob("*") if f.suffix.lower() in (".csv", ".tsv", ".txt")]
        if len(others) != 1:
            held = f" (it holds {', '.join(sorted(f.name for f in others)[:5])})" if others else ""
            raise FileNotFoundError(f"no particles.csv in {file}{held}; name a folder that moirelib decompose wrote")
        file = others[0]
    stored = _read_summary(file.parent).get("pixel_size_nm") if pixel_size is None else pixel_size
    return _check_not_empty(read_particle_table(file, stored), str(file))


def _check_not_empty(table, name) -> pd.DataFrame:
    table = check_particles(table, NEEDED, name)
    if table.empty:
        raise ValueError(f"{name} holds no particles; decompose a movie with particles in it")
    return table


def read_recording(folder: str | PathLike) -> dict[str, Any]:
    """What ``summary.json`` in a folder says of the recording, as `analyze` takes it; None where it does not say.

    ``field_nm``, height and width of the frames; ``frame_time`` in s; ``dose`` in electrons/Å² per frame.
    """
    summary, known = _read_summary(Path(folder)), dict[str, Any](field_nm=None)
    with contextlib.suppress(ValueError, KeyError, TypeError):
        height, width = (float(n) * float(summary["pixel_size_nm"]) for n in summary["shape_px"])
        known["field_nm"] = height, width
    for name, key in (("frame_time", "frame_time_s"), ("dose", "dose_e_per_A2")):
        value = summary.get(key)
        known[name] = float(value) if isinstance(value, int | float) and value > 0 else None
    return known


def _read_summary(folder: Path) -> dict:
    """What ``summary.json`` says; nothing where there is none."""
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return summary if isinstance(summary, dict) else {}


def choose_tables(only: Collection[str] | None) -> list[str]:
    """Names of the wanted tables in the order of `TABLES`, all for None; ValueError of a name that is not there."""
    if unknown := [name for name in only or () if name not in TABLES]:
        raise ValueError(f"no analysis is called {', '.join(unknown)}; there are {', '.join(TABLES)}")
    return [name for name in TABLES if only is None or name in only]


def analyze(
    particles: pd.DataFrame,
    field_nm: ArrayLike | None = None,
    progress: bool = False,
    only: Collection[str] | None = None,
    workers: int = 1,
    frame_time: float | None = None,
    dose: float | None = None,
) -> Analysis:
    """Vibrations, phonons, lattices, Moiré, defects, boundaries, motion and growth of a particle table.

    The table has the columns `NEEDED`, and ``y_std_nm, x_std_nm`` where known. What it does not allow is left out, with
    a note. The field of view is (height, width) in nm: what drift carries over its edges has not grown. ``only`` names
    the wanted tables, all `TABLES` by default. ``progress`` shows a bar for each stage; so many ``workers`` (processes)
    share the frames. ``frame_time`` is in s, ``dose`` in e/Å² per frame.
    """
    names, result = choose_tables(only), Analysis(_check_not_empty(particles, "the table"))
    stage = partial(result.stage, show=progress)
    _add_frame_tables(result, names, stage, workers)
    tracks = result.particles.reindex(columns=USED)  # error bars that are not known become NaN
    tracks = tracks[tracks["particle"] >= 0]
    frames = result.particles["frame"].nunique()
    if frames < 2 or tracks.empty:
        why = "one frame" if frames < 2 else "no linked particles"
        followed = [name for name in names if name not in FRAME_TABLES]
        result.notes |= dict.fromkeys(followed, f"needs particles followed over several frames; here is {why} only")
    else:
        if ON_SITES & set(names):
            with stage("sites", result.particles["layer"].nunique(), "layer") as bar:
                try:
                    result.occupancy = site_occupancy(result.particles, field_nm, after_layer=bar.update)
                except ValueError as error:
                    result.notes |= {name: str(error) for name in ("motion", "growth") if name in names}
        for name, steps in _list_steps(result, tracks, frame_time, dose).items():
            if name not in names:
                continue
            with stage(name, len(steps)) as bar:
                for title, compute in steps.items():
                    try:
                        table = compute()
                        if title and len(table):
                            result.summaries.setdefault(name, {})[title] = table
                        elif not title:
                            result.tables[name] = table
                            if table.attrs.get("note"):
                                result.notes[name] = " ".join(table.attrs["note"].split("\n"))
                    except ValueError as error:
                        if not title:  # the report goes without a summary
                            result.notes.setdefault(name, str(error))
                    bar.update()
    result.tables = {name: result.tables[name] for name in names if name in result.tables}
    return result


def _add_frame_tables(result, names, stage, workers) -> None:
    """Lattices, Moiré and defects: each frame on its own."""
    wanted = [name for name in FRAME_TABLES if name in names]
    if {"defects", "boundaries"} & set(wanted) and "lattice" not in wanted:
        wanted.append("lattice")  # its spacing says how far a defect may move
    if not wanted:
        return
    number, parts = result.particles["frame"].nunique(), []
    with stage("frames", number, "frame") as bar:
        useful = min(workers, len(result.particles) // ROWS_PER_PROCESS)
        for tables in _tabulate_batches(result.particles, wanted, useful):
            parts.append(tables)
            bar.update(min(FRAMES_AT_ONCE, number - bar.n))
    for name in wanted:
        filled = [tables[name] for tables in parts if len(tables[name])]
        result.tables[name] = pd.concat(filled, ignore_index=True) if filled else parts[0][name]
    if "lattice" in names and result.tables["lattice"].empty:
        result.notes["lattice"] = "no lattice: too few particles of one layer beside each other"
    if "moire" in names and result.tables["moire"].empty:
        del result.tables["moire"]
        result.notes["moire"] = "needs two layers with a lattice each that lie upon each other"


def _tabulate_batches(particles, names, workers) -> Iterator[dict[str, pd.DataFrame]]:
    """Tables of some frames at a time, in order, by this process or by several others."""
    frames = layers_by_frame(particles)
    batches = iter(lambda: list(islice(frames, FRAMES_AT_ONCE)), [])
    tabulate = partial(tabulate_frames, names=names)
    if workers < 2:
        yield from map(tabulate, batches)
        return
    context = multiprocessing.get_context("spawn")  # a forked process may hang in a library's threads
    ignore = signal.SIGINT, signal.SIG_IGN  # Ctrl-C reaches all processes; the first one ends the others
    with ProcessPoolExecutor(workers, context, signal.signal, ignore) as pool:
        waiting: deque = deque()  # a few only: the tables of a long movie would fill the memory
        for batch in batches:
            waiting.append(pool.submit(tabulate, batch))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        yield from (left.result() for left in waiting)


def _list_steps(result, tracks, frame_time, dose) -> dict[str, dict[str, Callable[[], pd.DataFrame]]]:
    """What to compute in each stage, by title; "" is the stage's own table, the others are summaries of it."""
    occupancy, springs = result.occupancy, dict[int, SpringModel]()
    motion_of = cache(partial(site_displacements, tracks))

    @cache
    def known():
        """Displacements by layer, where the tracks allow them; the notes give the reason where they do not."""
        motions = {}
        for layer in sorted(tracks["layer"].unique()):
            with contextlib.suppress(ValueError):
                motions[layer] = motion_of(layer)
        return motions

    def label_by_registry(motion):
        other = known()[find_facing_layer(motion.layer, known())]
        return registry(motion.sites, other.sites)["registry"].replace("", np.nan).to_numpy()

    def fit_once(grain):
        return springs.setdefault(grain.layer, fit_springs(grain))

    return {
        "motion": {"": lambda: motion_table(occupancy, dose)},
        "msd": {"": lambda: mean_squared_displacement(tracks, frame_time, motion=occupancy)},
        "vibrations": {
            "": lambda: measure_every_layer(tracks, lambda layer: site_vibrations(motion_of(layer))),
            "Layers as a whole": lambda: pd.DataFrame(
                [{"layer": layer} | layer_vibrations(motion) for layer, motion in known().items()],
                columns=["layer", *LAYER_NUMBERS],
            ),
            "By coordination": lambda: _group_amplitudes(known(), lambda motion: coordination_labels(motion.sites)),
            "By place on the other layer": lambda: (
                _group_amplitudes(known(), label_by_registry) if len(known()) > 1 else pd.DataFrame()
            ),
            "Correlation of the two layers' displacements, by distance": lambda: (
                interlayer_correlation(known()[1], known()[2]) if {1, 2} <= set(known()) else pd.DataFrame()
            ),
        },
        "phonons": {
            "": lambda: measure_phonons(tracks, motion_of, fit_once),
            "Elastic constants in kT/nm², and Poisson's ratio": lambda: pd.DataFrame(
                [{"layer": layer} | asdict(elastic_constants(model)) for layer, model in springs.items()]
            ),
        },
        "growth": {} if "growth" in result.notes else _list_growth_steps(result),
        "defects": {"Followed through the frames": lambda: _summarise_defects(result)},
        "boundaries": {"Followed through the frames": lambda: _summarise_boundaries(result)},
    }


def _list_growth_steps(result) -> dict[str, Callable[[], pd.DataFrame]]:
    occupancy, frames = result.occupancy, result.particles["frame"].unique()
    per_frame = {f"velocity_{kind}nm_per_s": f"velocity_{kind}nm_per_frame" for kind in ("", "std_")}

    def measure():
        result.sizes = size_table(occupancy)
        return growth_events(occupancy)

    def measure_rates():
        events = result.tables.get("growth", pd.DataFrame())  # without columns: refused as too little to go by
        return growth_rate(events, frames, layers=sorted(occupancy))

    def measure_preference():
        preference = site_preference(occupancy)  # nothing to say where no attachment had a choice
        return preference.table.assign(p_value=preference.p_value) if preference.events else pd.DataFrame()

    return {
        "": measure,
        "Rates per frame": measure_rates,
        "Velocity of the front, nm per frame": lambda: front_velocity(front_table(occupancy)).rename(columns=per_frame),
        "Attachments of layer 2 by registry": measure_preference,
        "Turning and sliding of layer 2 on layer 1": lambda: _measure_relaxation(occupancy),
    }


def _group_amplitudes(motions, label) -> pd.DataFrame:
    """Amplitudes of every layer's sites by what ``label`` gives for its displacements; sites without are left out."""
    tables = [
        group_vibrations(site_vibrations(motion), label(motion)).reset_index().assign(layer=layer)
        for layer, motion in motions.items()
    ]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _measure_relaxation(occupancy) -> pd.DataFrame:
    """Twist and both components of the offset: change over the movie, and the exponential where there is one."""
    motion, rows = relative_motion(occupancy), []
    for name, error in (("twist_change_deg", "twist_std_deg"), *((f"offset_{a}_nm", "offset_std_nm") for a in "yx")):
        fit = fit_relaxation(motion["frame"], motion[name], motion[error])
        change, supported = motion[name].iloc[-1] - motion[name].iloc[0], "yes" if fit.supported else "not supported"
        rows.append((name, change, supported, fit.amplitude, fit.amplitude_std, fit.time, fit.time_std))
    columns = "of change exponential amplitude amplitude_std time_frames time_std_frames"
    return pd.DataFrame(rows, columns=columns.split())


def _summarise_defects(result) -> pd.DataFrame:
    """Of every kind of defect, how many last, for how long and how far they move on their layer's own lattice."""
    spacing = result.tables["lattice"]["spacing_nm"].median()
    paths = follow_defects(result.tables["defects"], DEFECT_REACH * spacing, motion=result.occupancy)
    step = np.hypot(paths["step_y_nm"], paths["step_x_nm"])
    each = paths.assign(moved=step > 0.5 * spacing).groupby(["layer", "kind", "defect"])
    each = each.agg({"frame": "nunique", "moved": "sum", "glide_nm": "sum", "climb_nm": "sum"}).reset_index()
    farthest = ["farthest_glide_nm", "farthest_climb_nm"]
    each[farthest] = each[["glide_nm", "climb_nm"]].abs().where(each["kind"] == "dislocation")
    lasting = each[each["frame"] >= LASTING].groupby(["layer", "kind"])
    summary = pd.DataFrame({f"seen_in_{LASTING}_frames_or_more": lasting.size()})
    summary["longest_frames"] = lasting["frame"].max()
    summary["steps_beyond_half_a_spacing"] = lasting["moved"].sum()
    return summary.join(lasting[farthest].max()).reset_index()


def _summarise_boundaries(result) -> pd.DataFrame:
    """The boundaries that are seen in most frames: what they are, and how far they migrate."""
    spacing = result.tables["lattice"]["spacing_nm"].median()
    paths = follow_boundaries(result.tables["boundaries"], BOUNDARY_REACH * spacing, motion=result.occupancy)

    def usual(values):
        return values.mode().iloc[0]

    how = {"frame": "nunique", "kind": usual, "misorientation_deg": "median", "sigma": usual}
    how |= dict.fromkeys("sigma_deviation_deg asymmetry_deg dislocation_spacing_nm frank_spacing_nm".split(), "median")
    each = paths.groupby(["layer", "boundary"]).agg(how | {"migration_nm": "sum"}).rename(columns={"frame": "frames"})
    lasting = each[each["frames"] >= LASTING].reset_index().drop(columns="boundary")
    return lasting.sort_values(["layer", "frames"], ascending=[True, False]).head(LONGEST)
