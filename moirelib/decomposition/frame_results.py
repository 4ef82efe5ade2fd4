"""Keep what was found in each frame, so that a run that was stopped goes on (chapter 11, "Your movie")."""

import json
import os
import shutil
import tempfile
from array import array
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from ..crystal.lattice import Lattice
from .frame import LIKELIEST, Found
from .particle_fit import SHAPE
from .profile_and_blur import Imaging

#: Columns of `Found.particles` that are needed once all frames are computed.
KEPT = ["layer", "layer_confidence", "other_layer", "score", "diameter_std", "diameter_half_depth", *LIKELIEST]
KEPT += [f"{column}_likeliest" for column in LIKELIEST] + SHAPE
SHOWN = ["frame", "y_nm", "x_nm", "diameter_nm"]  # for whoever looks at the files of a run that goes on


class FrameResults:
    """What was found in each frame, in one file per frame of a folder; without a folder, files go with this object.

    Files appear whole or not at all. A folder of another ``recipe`` (all that results depend on, as JSON holds it) is
    emptied first. `pandas.read_parquet` of the folder gives the particles so far: it skips names that begin with _.
    """

    def __init__(self, folder: str | os.PathLike[str] | None, recipe: dict):
        if folder is None:
            self._kept_until_the_end = tempfile.TemporaryDirectory()
            self.folder = Path(self._kept_until_the_end.name)
            return
        self.folder = Path(folder)
        text, file = json.dumps(recipe, indent=1, sort_keys=True), self.folder / "_recipe.json"
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(file, lambda part: part.write_text(text, encoding="utf-8"))

    def has(self, name: str) -> bool:
        """Whether something was kept under a name."""
        return (self.folder / f"{name}.parquet").is_file()

    def get(self, name: str) -> Found:
        """What was kept under a name."""
        return read_found(self.folder / f"{name}.parquet")

    def drop_unreadable(self, names: Iterable[str]) -> list[int]:
        """Forget what cannot be read, as after a power cut: it is computed again. Particles of each of the others."""
        counts = []
        for name in filter(self.has, names):
            try:
                counts.append(len(self.get(name).particles))
            except (ValueError, OSError, KeyError, TypeError):
                (self.folder / f"{name}.parquet").unlink()
        return counts

    def put(self, name: str, found: Found) -> None:
        """Keep what was found under a name, which ends with the number of the frame."""
        found = replace(found, particles=found.particles.assign(frame=float(name[-6:])))
        write_whole(self.folder / f"{name}.parquet", lambda part: write_found(part, found))


@dataclass(frozen=True)
class FoundInFrames:
    """What was found in all frames of a movie, in one table: thousands of tables take several times the memory."""

    particles: pd.DataFrame  # ``frame``, in rising order, and the columns `KEPT`
    lattices: list[list[list[Lattice]]]  # of each frame and layer, largest grain first
    why: list[str]  # why a frame was left out; empty where it was not
    cut: list[str]  # what of a frame was cut off

    @classmethod
    def join(cls, frames: Iterable[Found]) -> "FoundInFrames":
        """Gather the frames of a movie, in their order."""
        numbers, rest = array("d"), []  # grows in place: of a long movie, two copies would fill the memory
        for found in frames:
            numbers.frombytes(found.particles.reindex(columns=KEPT).to_numpy(float).tobytes())
            rest.append((len(found.particles), found.lattices, found.why, found.cut))
        counts, lattices, why, cut = map(list, zip(*rest, strict=True))
        table = pd.DataFrame(np.frombuffer(numbers).reshape(-1, len(KEPT)), columns=KEPT, copy=False)
        frame = np.repeat(np.arange(len(counts)), counts)
        whole = {name: table[name].astype(int) for name in ("layer", "other_layer")}
        return cls(table.assign(**whole, frame=frame), lattices, why, cut)

    @property
    def used(self) -> np.ndarray:
        """Numbers of the frames that were not left out."""
        return np.flatnonzero([not why for why in self.why])

    @property
    def counts(self) -> np.ndarray:
        """Particles of every frame."""
        return np.bincount(self.particles["frame"], minlength=len(self.why))

    def leave_out(self, why: dict[int, str]) -> "FoundInFrames":
        """The same without the particles of some frames, by the reasons for it."""
        particles = self.particles[~self.particles["frame"].isin(list(why))]
        lattices, said, cut = list(self.lattices), list(self.why), list(self.cut)
        for t, reason in why.items():
            lattices[t], said[t], cut[t] = [[], []], reason, ""
        return FoundInFrames(particles, lattices, said, cut)


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` make a file under another name, and give it its name when it is complete."""
    part = path.with_name(f"_{path.name}")
    write(part)
    os.replace(part, path)


def write_found(path: Path, found: Found) -> None:
    """Write what was found in a frame: a table of its particles and, in the table's metadata as JSON, the rest."""
    table = found.particles.reindex(columns=[*KEPT, *SHOWN]).astype(float).astype({"layer": int, "other_layer": int})
    imaging = None if found.imaging is None else asdict(found.imaging)
    lattices = [[asdict(one) for one in layer] for layer in found.lattices]
    rest = {"imaging": imaging, "lattices": lattices, "why": found.why, "cut": found.cut}
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    metadata = arrow.schema.metadata | {b"found": json.dumps(rest, default=float)}
    parquet.write_table(arrow.replace_schema_metadata(metadata), path)


def read_found(path: Path) -> Found:
    """Read what `write_found` wrote; the same to the last bit."""
    with open(path, "rb") as raw:  # or Windows could not delete it
        arrow = parquet.ParquetFile(raw).read()
    rest = json.loads(arrow.schema.metadata[b"found"])
    lattices = [[Lattice(**one) for one in layer] for layer in rest["lattices"]]
    imaging = Imaging(**rest["imaging"]) if rest["imaging"] else None
    return Found(arrow.to_pandas()[[*KEPT, *SHOWN]], lattices, imaging, rest["why"], rest["cut"])
