"""Tables of particles: read from any usual text file, and one check of what every analysis takes in (chapter 7)."""

import codecs
import csv
import re
import warnings
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from .units import NANOMETRES, normalize_unit

PARTICLE_COLUMNS = ("frame", "layer", "y_nm", "x_nm")  # what an analysis of single frames needs; lengths in nm
#: What an analysis of motion needs; ``particle`` is the track's number, -1 where there is none.
TRACK_COLUMNS = ("frame", "particle", "layer", "y_nm", "x_nm")


def require_columns(table: pd.DataFrame, columns: Iterable[str], name: str) -> None:
    """Raise ValueError if a table, called `name` in the message, lacks one of some columns."""
    columns = list(columns)
    if missing := [c for c in columns if c not in table]:
        separated = table.attrs.get("separated", "")
        raise ValueError(
            f"{name} has no column {', '.join(missing)}; needed are {', '.join(columns)} (lengths in nm), "
            f"found are {', '.join(map(str, table.columns)) or 'none'}{separated}; rename or add columns"
        )


def check_particles(
    table: pd.DataFrame, columns: Iterable[str] = TRACK_COLUMNS, name: str = "the particle table"
) -> pd.DataFrame:
    """A particle table whose columns are there and hold finite numbers; else ValueError.

    ``columns`` are `PARTICLE_COLUMNS` or `TRACK_COLUMNS`; ``name`` says in the message what the table is. The same rows
    and columns come back; ``frame``, ``particle`` and ``layer`` are integers, positions floats.
    """
    columns = list(columns)
    require_columns(table, columns, name)
    numbers = {c: pd.to_numeric(table[c], errors="coerce") for c in columns}
    known = [np.isfinite(numbers[c].to_numpy(float)) for c in columns]
    if bad := [(int(good.argmin()), column) for column, good in enumerate(known) if not good.all()]:
        row, column = min(bad)
        raise ValueError(f"{name}: {columns[column]} in data row {row + 1} is not a number; correct or remove that row")
    whole = [c for c in columns if c in ("frame", "particle", "layer")]
    if any(np.any(numbers[c].to_numpy() % 1) for c in whole) or (numbers["frame"] < 0).any():
        raise ValueError(f"{name}: {', '.join(whole)} must be whole numbers, frames from 0 on; number them anew")
    if "layer" in columns and len(table) and (lowest := int(numbers["layer"].min())) < 1:
        raise ValueError(f"{name}: layers are numbered from 1 on, and one is {lowest}; add 1 or remove its rows")
    if large := [c for c in whole if (numbers[c].abs() >= (MOST_FRAMES if c == "frame" else 2**53)).any()]:
        raise ValueError(f"{name}: {', '.join(large)} holds a number that cannot be; correct it or number them anew")
    types = {c: np.dtype(int if c in whole else float) for c in columns}
    return table.assign(**{c: numbers[c].astype(types[c]) for c in columns if table[c].dtype != types[c]})


def require_unique_tracks(tracks: pd.DataFrame) -> None:
    """Raise ValueError if a track is in two places of a frame; particle -1, of no track, may be."""
    names = tracks.loc[tracks["particle"] >= 0, ["frame", "layer", "particle"]]
    if (twice := names.duplicated()).any():
        frame, layer, particle = names[twice].iloc[0]
        raise ValueError(f"particle {particle} of layer {layer} stands twice in frame {frame}; link the tracks again")


def layers_by_frame(particles: pd.DataFrame) -> Iterator[tuple[int, dict[int, np.ndarray]]]:
    """Frame number, and positions (n, 2) of each layer in it as (y, x) in nm, in rising order of the frames."""
    for frame, rows in check_particles(particles, PARTICLE_COLUMNS).groupby("frame"):
        yield int(frame), {int(k): own[["y_nm", "x_nm"]].to_numpy() for k, own in rows.groupby("layer")}


def rows_of_frames(frame: ArrayLike, frames: int) -> list[slice]:
    """Rows of each of so many frames, from 0 on, in a table of rising ``frame``."""
    return [slice(*ends) for ends in pairwise(np.searchsorted(frame, np.arange(frames + 1)).tolist())]


MOST_FRAMES = 10**7  # by hand: a day at 100 frames a second; analyses make room for all frames up to the last one
_SEPARATORS = {"\t": "tabs", ";": "semicolons", ",": "commas", "|": "bars", r"\s+": "spaces"}
_HEAD = 65536  # bytes that are looked at to tell how a table is written
_HEADER_ROWS = 4  # most that a header has: TrackMate writes names, long names, short names and units
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(e[+-]?\d+)?", re.IGNORECASE)
_LENGTHS = {"y_nm", "x_nm", "y", "x", "position_y", "position_x"}
_NUMBER = re.compile(r"[+-]?(\d+[.,]?\d*|[.,]\d+)(e[+-]?\d+)?", re.IGNORECASE)


def read_particle_table(file: Path, pixel_size: float | None = None) -> pd.DataFrame:
    """Read particles from a file: a table of moirelib, Parquet, or text that TrackMate or trackpy exported.

    Columns may be separated by commas, semicolons, tabs, bars or spaces, decimals by points or commas; the text may be
    UTF-8, UTF-16 or Latin-1. Capital letters in the names of columns do not matter, and ``Y (nm)`` is ``y_nm``. Where
    lengths are in pixels (``y, x``), as trackpy has them, `pixel_size` makes them nm; such a table, and one of
    TrackMate, has one layer, and a particle without a track is number -1.

    `pixel_size` is in nm/pixel. ValueError if the file is no table, or gives lengths in a unit that is not known.
    """
    if file.suffix.lower() == ".parquet":
        return _fill_tracks(pd.read_parquet(file))
    encoding, how, skip, units = _find_layout(file)
    table = _read_rows(file, encoding, how, skip)
    text = [table[c].astype(str) for c in _LENGTHS & set(table.select_dtypes(exclude="number"))]
    if how["sep"] != "," and any(cells.str.fullmatch(_DECIMAL_COMMA).any() for cells in text):
        table = _read_rows(file, encoding, how | {"decimal": ","}, skip)
    table.attrs["separated"] = f" (separated by {_SEPARATORS[how['sep']]})"
    unit, lacks_nm = None, not {"y_nm", "x_nm"} <= set(table)
    if lacks_nm and {"position_y", "position_x"} <= set(table):
        table = table.rename(columns={"track_id": "particle", "position_y": "y", "position_x": "x"})
        unit = normalize_unit(units.get("position_x")).lower()
    elif lacks_nm and {"frame", "y", "x"} <= set(table):
        unit = "pixel"
    if unit is not None:
        scale = _find_scale(unit, file.name, pixel_size)
        for axis in "yx":
            table[f"{axis}_nm"] = pd.to_numeric(table[axis], errors="coerce") * scale
        table = table.assign(**{c: v for c, v in {"particle": -1, "layer": 1}.items() if c not in table})
    return _fill_tracks(table)


def _fill_tracks(table: pd.DataFrame) -> pd.DataFrame:
    """The same with -1 where there is no number of a track."""
    if "particle" not in table:
        return table
    tracks = table["particle"]
    tracks = tracks if pd.api.types.is_numeric_dtype(tracks) else tracks.astype(object)  # text takes no number
    return table.assign(particle=tracks.where(tracks.notna(), -1))


def _find_scale(unit: str, name: str, pixel_size: float | None) -> float:
    """Nanometres in the unit of the positions: pixels, or what the last row of TrackMate's header says."""
    if unit in NANOMETRES:
        return NANOMETRES[unit]
    if unit not in ("pixel", "pixels", "px"):
        raise ValueError(
            f"{name} does not say in which unit POSITION_X is; export it with all rows of the header, or name the "
            "columns y_nm and x_nm and give lengths in nm"
        )
    if pixel_size is None:
        raise ValueError(
            f"{name} gives positions in pixels (y, x); say how large a pixel is, by --pixel-size NM on the command "
            "line or pixel_size=... in read_particles"
        )
    return pixel_size


def _find_layout(file: Path) -> tuple[str, dict, int, dict[str, str]]:
    """Encoding, how pandas reads it, lines before the numbers, and units by name where the header has them."""
    with file.open("rb") as stream:
        head = stream.read(_HEAD)
    if head[:4] in (b"PK\x03\x04", b"\xd0\xcf\x11\xe0"):
        raise ValueError(f"{file} is a spreadsheet, not a text file; save it as CSV")
    encoding = _find_encoding(head)
    lines = re.split(r"\r\n|\r|\n", head.decode(encoding, errors="replace"))
    start = next((i for i, line in enumerate(lines) if _is_header(line)), None)
    if start is None:
        raise ValueError(f"{file} is not a table: it is empty; write it as comma-separated values")
    header = re.sub(r"^\s*#\s*", "", lines[start]).lstrip(" ")
    bare = re.sub(r'"[^"]*"', "", header)  # without what stands in quotes
    separator = max("\t;,|", key=bare.count)
    separator = separator if separator in bare else r"\s+"
    names = [re.sub(r"[\s\[\](),;.]+", "_", cell.lower()).strip("_") for cell in _split(header, separator)]
    if twice := [name for name in names if name and names.count(name) > 1]:
        raise ValueError(f"{file} has two columns {twice[0]}; rename or remove one")
    rows = [_split(line, separator) for line in lines[start + 1 : start + 100]]
    above = next((i for i, row in enumerate(rows[:_HEADER_ROWS]) if any(_NUMBER.fullmatch(cell) for cell in row)), 0)
    units = dict(zip(names, (cell.strip("()") for cell in rows[above - 1]), strict=False)) if above else {}
    widest = max((len(row) for row in rows[above:] if any(row[len(names) :])), default=len(names))
    if widest > len(names):
        raise ValueError(
            f"{file} has {widest} fields in a row, but {len(names)} names of columns, separated by "
            f"{_SEPARATORS[separator]}; if decimals have commas, separate columns by semicolons"
        )
    # A row may end with a separator: names for what is empty behind it.
    names = [name or f"unnamed_{i}" for i, name in enumerate([*names, ""])]
    how = {"sep": separator, "names": names, "header": None, "index_col": False}
    return encoding, how, start + 1 + above, units


def _find_encoding(head: bytes) -> str:
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    if b"\0" in head[:200]:  # every other byte of Latin letters in UTF-16
        return "utf-16-be" if head[:1] == b"\0" else "utf-16-le"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # it may end within a letter
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8-sig"


def _is_header(line: str) -> bool:
    """Whether a line is neither empty, nor a remark, nor the separator that Excel wants to be told."""
    bare = line.strip().lower()
    return bool(bare) and not bare.startswith("sep=") and (not bare.startswith("#") or "frame" in bare)


def _split(line: str, separator: str) -> list[str]:
    """Cells of a row; one in quotes may hold the separator."""
    spaces = separator == r"\s+"
    rows = csv.reader([" ".join(line.split()) if spaces else line], delimiter=" " if spaces else separator)
    return [cell.strip(" \"'\t\r") for cell in next(rows, [])]


def _read_rows(file: Path, encoding: str, how: dict, skip: int) -> pd.DataFrame:
    try:
        with warnings.catch_warnings(), file.open(encoding=encoding) as stream:
            warnings.simplefilter("ignore", pd.errors.DtypeWarning)
            for _ in range(skip):  # here, as pandas loses count where lines end in the manner of old Macs
                stream.readline()
            return pd.read_csv(stream, skipinitialspace=True, **how)[how["names"][:-1]]
    except UnicodeDecodeError:
        return _read_rows(file, "latin-1", how, skip)  # in which every byte is a letter
    except pd.errors.EmptyDataError:
        return pd.DataFrame(columns=how["names"][:-1])
    except (pd.errors.ParserError, pd.errors.ParserWarning, ValueError, OverflowError) as error:
        why = " ".join(str(error).split())
        raise ValueError(f"{file} is not a table: {why}; write it as comma-separated values") from error
