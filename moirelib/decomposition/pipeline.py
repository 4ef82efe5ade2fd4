"""From a movie to one movie per layer and a table of every particle.

Explained in chapter 6, "Decompose".
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import dask.array as da
import numpy as np
import pandas as pd
import torch

from ..data import weights_path
from ..movies.movie import Movie
from ..movies.reading import as_movie
from ..movies.writing import write_layer_movie
from ..output import output_folder
from .frame import LIKELIEST, Found, find
from .layers import twist_note
from .network import WORKING_DIAMETER, choose_device, load_weights, predict, resample
from .rendering import lazy_layers
from .size import check_diameter, check_pixel_size, estimate_size_and_polarity, working_shape
from .tracks import link
from .voting import vote

__all__ = ["COLUMNS", "Decomposition", "decompose"]


#: Columns of the particle table, in the order of ``particles.csv``.
COLUMNS = (
    "frame particle layer y x y_nm x_nm y_std_nm x_std_nm diameter_nm diameter_std_nm score layer_confidence".split()
)


@dataclass(frozen=True)
class Decomposition:
    """A movie taken apart.

    Attributes
    ----------
    layers : dask.array.Array, shape (t, 2, y, x), uint8
        Covered fraction of every pixel by the particles of layers 1 and 2, 0 to 255; drawn where it is looked at.
    particles : pandas.DataFrame
        One row per particle, layer and frame; lengths in nm, ``y`` and ``x`` in pixels.
    summary : dict
        What was run and what came out, as in ``summary.json``.
    movie : Movie
        The input.
    """

    layers: da.Array
    particles: pd.DataFrame
    summary: dict
    movie: Movie

    def save(self, folder) -> None:
        """Write ``layer_1.tif``, ``layer_2.tif``, ``particles.csv`` and ``summary.json``, all or none of them.

        Raises
        ------
        OSError
            If the folder cannot be written.
        """
        with output_folder(folder) as partial:
            self.write(partial)

    def write(self, folder: Path) -> None:
        """Write the four files into an existing folder."""
        for k in (1, 2):
            images = (np.asarray(self.layers[t, k - 1]) for t in range(len(self.movie)))
            path = Path(folder) / f"layer_{k}.tif"
            write_layer_movie(path, images, self.movie.pixel_size, self.movie.frame_time)
        self.particles.to_csv(Path(folder) / "particles.csv", index=False, float_format="%.6g", lineterminator="\n")
        text = json.dumps(self.summary, indent=1)
        (Path(folder) / "summary.json").write_text(text + "\n", encoding="utf-8")


def decompose(
    movie,
    pixel_size: float | None = None,
    frame_time: float | None = None,
    diameter: float | None = None,
    weights=None,
    device: str = "auto",
    progress: bool = False,
) -> Decomposition:
    """Take a movie of a Moiré lattice apart, layer by layer.

    Parameters
    ----------
    movie : Movie, array_like or path-like
        A movie from `read_movie`, a file, or an array of shape (t, y, x) or (y, x).
    pixel_size : float, optional
        In nm/pixel; needed where the movie does not carry it.
    frame_time : float, optional
        In s.
    diameter : float, optional
        Rough particle diameter in nm; estimated from up to three frames when not given.
    weights : path-like, optional
        Network weights; the shipped ones by default.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Decomposition
        ``layers`` (t, 2, y, x), ``particles``, ``summary``.

    Raises
    ------
    ValueError
        If the pixel size is missing or absurd, the particles are under 4 pixels wide, a frame holds NaN or is
        constant, or the weights are not of two layers.

    Notes
    -----
    Explained in chapter 6, "Decompose".
    """
    from tqdm import tqdm

    start = time.time()
    movie = as_movie(movie, pixel_size, frame_time)
    check_pixel_size(movie, diameter)
    model = load_weights(weights, device)
    _check_layers(model, weights)
    diameter_px, polarity = estimate_size_and_polarity(
        movie, model, None if diameter is None else diameter / movie.pixel_size
    )
    check_diameter(diameter_px, movie)
    working = working_shape(movie.shape[1:], diameter_px)
    found = []
    with tqdm(total=len(movie), disable=not progress, desc="decompose", unit="frame") as bar:
        for some in _find_all(movie, model, working, polarity):
            found += some
            bar.update(len(some))
    tables, lattices = [f.particles for f in found], [f.lattices for f in found]
    tables, exchanged = vote(tables, WORKING_DIAMETER)
    lattices = [found[::-1] if other else found for found, other in zip(lattices, exchanged, strict=True)]
    particles = pd.concat([table.assign(frame=t) for t, table in enumerate(tables)], ignore_index=True)
    layers = lazy_layers(particles, working, movie.shape)
    if len(movie) == 1:
        # In a movie each frame's positions must be its own, or vibrations would be smoothed away and time could not
        # average the noise; alone, a frame is read best together with the crystal's regularity.
        particles = particles.assign(**{c: particles[f"{c}_likeliest"] for c in LIKELIEST})
    table = _native_table(particles, working, movie.shape[1:], movie.pixel_size)
    if len(table):
        table = link(table, 0.5 * diameter_px)
    summary = _summarize(movie, table, lattices, _working_pixel_size(working, movie), weights, device)
    summary["seconds"] = round(time.time() - start, 2)
    return Decomposition(layers, table[COLUMNS], summary, movie)


AT_ONCE = 4  # frames that build on the same earlier one, whatever the number of threads


def _find_all(movie, model, working, polarity) -> Iterator[list[Found]]:
    """Particles of all frames, some frames at a time: the first alone, then `AT_ONCE` of them side by side."""
    threads, before = torch.get_num_threads(), None

    def find_in(frame):
        image = resample(polarity * frame, working)
        return find(image, predict(model, image)[1], WORKING_DIAMETER, before)

    # One thread for each of several frames is faster than several threads for each frame.
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            for start in (0, *range(1, len(movie), AT_ONCE)):
                frames = [movie.frame(t) for t in range(start, min(start + AT_ONCE, len(movie)) if start else 1)]
                some = [find_in(frames[0])] if start == 0 else list(pool.map(find_in, frames))
                before = some[-1]
                yield some
        finally:
            torch.set_num_threads(threads)


def _check_layers(model, weights) -> None:
    """Refuse networks of other than two layers, whose channels `moirelib.decomposition.layers` could not name."""
    layers = model.final_conv.out_channels // 2
    if layers != 2:
        raise ValueError(f"{weights} is a network of {layers} layers; decompose takes two apart: pass weights of two")


def _working_pixel_size(working, movie) -> float:
    """Size of a working pixel in nm; the two axes differ by rounding only."""
    return movie.pixel_size * np.sqrt(np.prod(movie.shape[1:]) / np.prod(working))


def _native_table(particles, working, native, pixel_size) -> pd.DataFrame:
    """From working pixels to the frame's pixels and nm, for particles centred in the frame.

    Both put pixel centres at integer coordinates.
    """
    zoom_y, zoom_x = working[0] / native[0], working[1] / native[1]
    inside = particles["y"].between(-0.5, working[0] - 0.5) & particles["x"].between(-0.5, working[1] - 0.5)
    particles = particles[inside]
    y, x = (particles["y"] + 0.5) / zoom_y - 0.5, (particles["x"] + 0.5) / zoom_x - 0.5
    nm = pixel_size / np.sqrt(zoom_y * zoom_x)
    return particles.assign(
        particle=-1,
        y=y,
        x=x,
        y_nm=y * pixel_size,
        x_nm=x * pixel_size,
        y_std_nm=particles["y_std"] * nm,
        x_std_nm=particles["x_std"] * nm,
        diameter_nm=particles["diameter"] * nm,
        diameter_std_nm=particles["diameter_std"] * nm,
    )


def _summarize(movie, table, lattices, nm, weights, device) -> dict:
    """What goes into ``summary.json``."""
    from .. import __version__

    path = Path(weights) if weights is not None else weights_path()
    spacing = [_median([f[k][0].spacing * nm for f in lattices if f[k]]) for k in (0, 1)]
    twist = _median([_twist(f[0][0], f[1][0]) for f in lattices if f[0] and f[1]])
    counts = {f"layer_{k}": int((table["layer"] == k).sum()) for k in (1, 2)}
    return {
        "moirelib": __version__,
        "movie": movie.name,
        "frames": len(movie),
        "shape_px": list(movie.shape[1:]),
        "pixel_size_nm": movie.pixel_size,
        "frame_time_s": movie.frame_time,
        "weights": {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()},
        "device": str(choose_device(device)),
        "particles": counts,
        "diameter_nm": _median(table["diameter_nm"]) if len(table) else None,
        "working_pixel_size_nm": float(nm),
        "spacing_nm": {"layer_1": spacing[0], "layer_2": spacing[1]},
        "twist_deg": twist,
        "note": _note(counts, spacing, twist, lattices, np.array(movie.shape[1:]) * movie.pixel_size / nm),
    }


def _median(values):
    return round(float(np.median(values)), 4) if len(values) else None


def _twist(first, second) -> float:
    from ..crystal.lattice import fold_hexagonal

    return fold_hexagonal(second.angle - first.angle)


def _note(counts, spacing, twist, lattices, field) -> str:
    """One line that says what was found and how far it can be trusted; ``field`` in working pixels."""
    total = sum(counts.values())
    if total == 0:
        return "No particles found."
    if spacing[0] is None:
        return "No lattice found: layers are the network's word alone (layer_confidence 0.5)."
    if counts["layer_2"] < 0.03 * total:
        return f"One layer, spacing {spacing[0]:.1f} nm: no second lattice found in this field of view."
    if spacing[1] is None:
        upper = counts["layer_2"]
        return (
            f"One layer, spacing {spacing[0]:.1f} nm, and {upper} particles upon it that show no lattice of their own."
        )
    note = f"Two layers, spacings {spacing[0]:.1f} and {spacing[1]:.1f} nm, twist {twist:.2f}°."
    doubts = [twist_note(f[0][0], f[1][0], field) for f in lattices if f[0] and f[1]]
    return f"{note} {sorted(doubts)[len(doubts) // 2]}".strip()  # what most frames say
