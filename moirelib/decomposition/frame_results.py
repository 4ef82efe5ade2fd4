"""Keep what was found in each frame, so that a run that was stopped goes on (chapter 11, "Your movie")."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd

from ..crystal.lattice import Lattice
from .frame import Found
from .profile_and_blur import Imaging

#: Columns of `Found.particles` that are needed once all frames are computed.
NEEDED = (
    "layer y x diameter y_std x_std diameter_std score layer_confidence y_likeliest x_likeliest diameter_likeliest"
).split()


class FrameResults:
    """What was found in each frame, in one file per frame of a folder; without a folder, files go with this object.

    Files appear whole or not at all. A folder of another ``recipe`` (all that results depend on, as JSON holds it) is
    emptied first.
    """

    def __init__(self, folder: str | os.PathLike[str] | None, recipe: dict):
        if folder is None:
            self._kept_until_the_end = tempfile.TemporaryDirectory()
            self.folder = Path(self._kept_until_the_end.name)
            return
        self.folder = Path(folder)
        text, file = json.dumps(recipe, indent=1, sort_keys=True), self.folder / "recipe.json"
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(file, lambda part: part.write_text(text, encoding="utf-8"))

    def has(self, name: str) -> bool:
        """Whether something was kept under a name."""
        return (self.folder / f"{name}.npz").is_file()

    def get(self, name: str) -> Found:
        """What was kept under a name."""
        return read_found(self.folder / f"{name}.npz")

    def put(self, name: str, found: Found) -> None:
        """Keep what was found."""
        write_whole(self.folder / f"{name}.npz", lambda part: write_found(part, found))


def share_table(frames: Iterable[Found]) -> list[Found]:
    """The same frames; their particles, of which the columns `NEEDED` are kept, are parts of one table.

    Thousands of tables take several times the memory.
    """
    numbers, rest, none = [], [], pd.DataFrame()
    for found in frames:
        numbers.append(found.particles.reindex(columns=NEEDED).to_numpy(float))
        rest.append(replace(found, particles=none))
    ends = np.cumsum([0, *map(len, numbers)])
    table = pd.DataFrame(np.concatenate(numbers), columns=NEEDED)
    table = table.assign(layer=table["layer"].astype(int))
    return [replace(found, particles=table.iloc[slice(*ends[t : t + 2])]) for t, found in enumerate(rest)]


def write_whole(path: Path, write) -> None:
    """Let ``write`` make a file under another name, and give it its name when it is complete."""
    part = path.with_name(f"{path.stem}.part{path.suffix}")
    write(part)
    os.replace(part, path)


def write_found(path: Path, found: Found) -> None:
    """Write what was found in a frame."""
    imaging = np.array(list(asdict(found.imaging).values()) if found.imaging else [], float)
    lattices = [(k, one.spacing, one.angle) for k, layer in enumerate(found.lattices) for one in layer]
    # A column without a row has no type of its own, and objects cannot be read again.
    table = found.particles.astype(dict.fromkeys(found.particles.select_dtypes(object), float))
    columns = {f"column {name}": table[name].to_numpy() for name in table}
    columns |= {"why": np.array(found.why), "cut": np.array(found.cut)}
    np.savez(path, imaging=imaging, lattices=np.array(lattices, float).reshape(-1, 3), **columns)


def read_found(path: Path) -> Found:
    """Read what `write_found` wrote; the same to the last bit."""
    with np.load(path) as file:
        columns = {name.removeprefix("column "): file[name] for name in file.files if name.startswith("column ")}
        lattices = [[Lattice(*row[1:].tolist()) for row in file["lattices"] if row[0] == k] for k in (0, 1)]
        imaging = Imaging(*file["imaging"].tolist()) if len(file["imaging"]) else None
        return Found(pd.DataFrame(columns), lattices, imaging, str(file["why"]), str(file["cut"]))
