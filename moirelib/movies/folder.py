"""Folders: single frames and the parts of one recording, joined to one movie."""

import bisect
import functools
import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np

from ..units import NANOMETRES, convert_scale
from .formats import find_format, list_formats
from .movie import make_stack
from .stored import StoredImage, read_file, stack_frames

_OURS = {
    "particles.csv",
    "summary.json",
    "particles.parquet",
    "layer_1.tif",
    "layer_2.tif",
    "layer_3.tif",
}  # that moirelib writes
_ONEVIEW = re.compile(r"Hour_(\d+).*Minute_(\d+).*Second_(\d+)", re.I | re.S)  # in a folder's or a file's name
_LISTED = 5  # movies that a message lists
_ALIKE = ("pixels", "values", "nm per pixel")  # what must be the same in all files that are joined
_KEPT = 4  # files that are kept open


def is_pattern(path: Path) -> bool:
    """Whether a path names several files by ``*`` or ``?``."""
    return any(sign in str(path) for sign in "*?") and not path.exists()


def read_folder(folder: Path) -> StoredImage:
    """The movie that the files of a folder, or those that match a pattern, are together; errors as of `read_movie`."""
    files = _list_files(folder)
    parts: list[dict[str, Any]] = []
    unreadable: list[ValueError] = []
    for path in files:
        try:
            image = read_file(path)
        except ValueError as error:
            unreadable.append(error)
            continue
        if not parts:
            first = image
        if path == files[0] and {each.resolve() for each in files} <= {each.resolve() for each in (path, *first.files)}:
            return first  # a single movie, or a set that its own format holds together
        parts.append(_describe(path, image))
    frames = {part["path"]: part["frames"] for part in parts}
    if unreadable and max(frames.values(), default=2) > 1:  # how many frames it held is not known
        raise unreadable[0]
    counts = [frames.get(path, 1) for path in files]
    if not is_pattern(folder) and max(counts) > 1 and not _is_one_recording(parts):
        listed = ", ".join("{path.name} ({frames} × {pixels})".format(**part) for part in parts[:_LISTED])
        listed = f"{len(parts)} movies: {listed}{', ...' if len(parts) > _LISTED else ''}"
        raise IsADirectoryError(f"{folder} holds {listed}; give one of them, or join some by a pattern")
    for what in _ALIKE:
        usual = Counter(part[what] for part in parts).most_common(1)[0][0]
        odd = next((part for part in parts if part[what] != usual), None)
        if odd is not None:
            raise ValueError(
                f"{odd['path'].name} has {odd[what]} {what}, the other files {usual}; take it out of the folder, "
                "or give a pattern that leaves it out"
            )
    read = functools.partial(_read_joined, tuple(files), tuple(itertools.accumulate(counts, initial=0)))
    like = make_stack(first.data, parts[0]["path"].name)
    data = stack_frames(read, (sum(counts), *like.shape[1:]), like.dtype)
    time = first.t if max(counts) > 1 else (_find_frame_time(files) or 0, "s")
    notes = dict.fromkeys(note for part in parts for note in part["notes"])
    if unreadable:
        why = f"{len(unreadable)} of the {len(files)} files cannot be read ({unreadable[0]})"
        notes[f"{why}; their frames keep their places and are left out"] = None
    notes[f"{len(files)} files are joined to one movie, {files[0].name} first and {files[-1].name} last"] = None
    return replace(first, data=data, t=time, part="", notes=tuple(notes), files=tuple(files))


def _describe(path: Path, image: StoredImage) -> dict[str, Any]:
    """Number of frames and notes of a file, and in words its size, type and scale."""
    data = image.data if image.data.ndim == 3 else make_stack(image.data, path.name)
    step, pixels = convert_scale(*image.x, NANOMETRES), "{1} × {2}".format(*data.shape)
    told = (pixels, str(data.dtype.newbyteorder("=")), "no" if step is None else f"{step:.4g}")
    return {"path": path, "frames": len(data), "notes": image.notes} | dict(zip(_ALIKE, told, strict=True))


def _read_joined(files: Sequence[Path], starts: Sequence[int], i: int) -> np.ndarray:
    """Frame `i` of several files; `starts` counts the frames before each. A file is opened when it is needed."""
    k = bisect.bisect_right(starts, i) - 1
    return _open(files[k], files[k].stat().st_mtime_ns)[i - starts[k]].compute(scheduler="synchronous")


@functools.lru_cache(maxsize=_KEPT)
def _open(path: Path, _changed: int) -> da.Array:
    return make_stack(read_file(path).data, path.name)


def _list_files(folder: Path) -> list[Path]:
    """The readable files in natural order; those of the folder itself or, if it has none, of its sub-folders."""
    if is_pattern(folder):
        base = folder.parent
        found = [path for path in base.glob(folder.name) if find_format(path)]
        if not found:
            raise FileNotFoundError(f"no movie or picture matches {folder}; check the folder and the pattern")
        return sorted(found, key=lambda path: _natural_order(path, base))
    if len(_OURS & {path.name for path in folder.iterdir()}) > 1:
        raise IsADirectoryError(f"{folder} holds results of moirelib; give the movie that they were made of")
    for listing in (folder.iterdir(), folder.rglob("*")):
        found = [path for path in listing if find_format(path) and not path.name.startswith(".")]
        kinds = Counter(path.suffix.lower() for path in found)
        if kinds.keys() == {".ser", ".emi"}:  # of one recording; the images are in the .ser file
            found, kinds = [path for path in found if path.suffix.lower() == ".ser"], Counter({".ser": 1})
        if len({find_format(path) for path in found}) > 1:
            several = ", ".join(f"{n} {extension}" for extension, n in kinds.items())
            choice = f"{folder}/*{next(iter(kinds))}"
            raise IsADirectoryError(f"{folder} holds files of several kinds ({several}); give one, or '{choice}'")
        if found:
            return sorted(found, key=lambda path: _natural_order(path, folder))
    raise IsADirectoryError(f"{folder} is a folder without a movie; give a file or a folder of {list_formats()}")


def _natural_order(path: Path, base: Path) -> tuple:
    """Sorting key in which 2 comes before 10, and a time that OneView wrote before everything else."""
    name = path.relative_to(base).as_posix()
    pieces = re.split(r"(\d+)", name.removesuffix("".join(path.suffixes)).lower())  # "run" before "run-1"
    return _read_second(name) or 0, [(int(p), "") if p.isdigit() else (-1, p) for p in pieces], name


def _read_second(name: str) -> int | None:
    """Second of the recording that OneView wrote into the names of folders or files."""
    told = _ONEVIEW.search(name)
    return None if told is None else 3600 * int(told[1]) + 60 * int(told[2]) + int(told[3])


def _find_frame_time(files: Sequence[Path]) -> float | None:
    """Seconds from frame to frame, from how many frames OneView wrote in each second; the outer ones are cut off."""
    seconds = [second for path in files if (second := _read_second(path.as_posix())) is not None]
    if len(seconds) < len(files) or len(set(seconds)) < 3:
        return None
    inner = sorted(set(seconds))[1:]
    return (inner[-1] - inner[0]) / sum(inner[0] <= second < inner[-1] for second in seconds)


def _split_number(path: Path) -> tuple[str, int]:
    """A file's name without its last number, and that number; the first part of a recording may have none."""
    stem, _, rest = path.name.partition(".")
    told = re.fullmatch(r"(.*?)[_\-. ]?(\d+)", stem)
    return (f"{told[1]}.{rest}".lower(), int(told[2])) if told else (path.name.lower(), 0)


def _is_one_recording(parts: Sequence[dict]) -> bool:
    """Whether files are numbered one after the other and all full but the last, as programs split long recordings."""
    split = [_split_number(part["path"]) for part in parts]
    if parts[0]["path"].name.lower() == split[-1][0]:  # "run2.tif", "run2_1.tif"
        split[0] = (split[-1][0], 0)
    names, numbers = zip(*split, strict=True)
    counts = [part["frames"] for part in parts]
    in_order = all(b - a == 1 for a, b in itertools.pairwise(numbers)) and numbers[0] in (0, 1)
    full = set(counts[:-1]) == {counts[0]} and counts[-1] <= counts[0]
    return in_order and full and len(set(names)) == 1 and len({part["pixels"] for part in parts}) == 1


def find_next_part(path: Path, image: StoredImage) -> tuple[str, ...]:
    """A note if another file beside a movie may be its next part."""
    if image.files or image.data.ndim < 3 or len(image.data) < 2 or not path.is_file() or path.name in _OURS:
        return ()
    name, number = _split_number(path)
    for other in path.parent.iterdir():
        if other.suffix == path.suffix and _split_number(other) == (name, number + 1):
            note = f"{other.name} beside it is not read; if it is the next part of a split recording, give the folder"
            return (note,)
    return ()
