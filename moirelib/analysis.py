"""Run every analysis that a particle table supports: what ``moirelib analyze`` does.

Explained in chapter 11, "Your movie".
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from .defects import defect_tables
from .growth import growth_events
from .moire import moire_table
from .order import lattice_table
from .phonons import phonons
from .tables import TRACK_COLUMNS, checked_particles
from .vibrations import vibrations

__all__ = ["NEEDED", "TABLES", "Analysis", "analyze", "field_of_view", "read_particles"]

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
    """

    particles: pd.DataFrame
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

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
    _try(result, "vibrations", lambda: vibrations(tracks))
    _try(result, "phonons", lambda: phonons(tracks))
    _try(result, "growth", lambda: growth_events(particles, field_nm))
    return result


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
