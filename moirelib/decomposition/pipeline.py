"""From a movie to one movie per layer and a table of every particle (chapter 6, "Decompose")."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import dask.array as da
import numpy as np
import pandas as pd
import torch

from ..crystal.lattice import Lattice
from ..movies.movie import Movie
from ..movies.reading import as_movie
from ..movies.writing import write_layer_movie
from ..output import output_folder
from ..tracking import link_particles
from .frame import LIKELIEST, Found, find
from .layer_images import draw_layers
from .layer_voting import vote
from .network import WORKING_DIAMETER, load_weights, predict, resample
from .particle_size import check_diameter, check_pixel_size, estimate_size_and_polarity, find_working_shape
from .summary import keep_going, summarize

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
        folder = Path(folder)
        for k in (1, 2):
            images = (np.asarray(self.layers[t, k - 1]) for t in range(len(self.movie)))
            write_layer_movie(folder / f"layer_{k}.tif", images, self.movie.pixel_size, self.movie.frame_time)
        self.particles.to_csv(folder / "particles.csv", index=False, float_format="%.6g", lineterminator="\n")
        text = json.dumps(self.summary, indent=1)
        (folder / "summary.json").write_text(text + "\n", encoding="utf-8")


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
    Once all frames are computed no error loses them: a step that fails then (tracks, twist ...) is left out, with a
    warning and a line in ``summary["problems"]`` and ``summary["note"]``.
    """
    start = time.time()
    problems: list[str] = []  # what failed after the last frame
    movie = as_movie(movie, pixel_size, frame_time)
    check_pixel_size(movie, diameter)
    model = load_weights(weights, device)
    check_layers(model, weights)
    diameter_px = None if diameter is None else diameter / movie.pixel_size
    diameter_px, polarity = estimate_size_and_polarity(movie, model, diameter_px)
    check_diameter(diameter_px, movie)
    working = find_working_shape(movie.shape[1:], diameter_px)
    frames = find_in_all_frames(movie, model, working, polarity, progress)
    particles, lattices = vote_on_layers(frames, problems)
    layers = draw_layers(particles, working, movie.shape)
    table = convert_to_nm(particles, working, movie)
    table = link_tracks(table, LONGEST_STEP * diameter_px, problems)
    summary = summarize(movie, table, lattices, measure_working_pixel(working, movie), weights, device, problems)
    summary["seconds"] = round(time.time() - start, 2)
    return Decomposition(layers, table[COLUMNS], summary, movie)


LONGEST_STEP = 0.5  # diameters between frames (geometry): less than half the spacing of touching particles
AT_ONCE = 4  # frames that build on the same earlier one, whatever the number of threads


def find_in_all_frames(movie, model, working, polarity, progress) -> list[Found]:
    """Particles of all frames: of the first alone, then of `AT_ONCE` frames side by side."""
    from tqdm import tqdm

    found: list[Found] = []
    threads, before = torch.get_num_threads(), None

    def find_in(frame):
        image = resample(polarity * frame, working)
        return find(image, predict(model, image)[1], WORKING_DIAMETER, before)

    # One thread for each of several frames is faster than several threads for each frame.
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    with pool, tqdm(total=len(movie), disable=not progress, desc="decompose", unit="frame") as bar:
        try:
            while len(found) < len(movie):
                count = min(AT_ONCE, len(movie) - len(found)) if found else 1
                frames = [movie.frame(len(found) + k) for k in range(count)]
                found += pool.map(find_in, frames) if found else [find_in(frames[0])]
                before = found[-1]
                bar.update(count)
        finally:
            torch.set_num_threads(threads)
    return found


def check_layers(model, weights) -> None:
    """Refuse networks of other than two layers: `layer_assignment` knows two channels."""
    layers = model.final_conv.out_channels // 2
    if layers != 2:
        raise ValueError(f"{weights} is a network of {layers} layers; decompose takes two apart: pass weights of two")


def vote_on_layers(found: list[Found], problems: list[str]) -> tuple[pd.DataFrame, list[list[list[Lattice]]]]:
    """Particles (with ``frame``) and lattices of all frames, their layers made consistent over the movie.

    If the vote fails, layers are as each frame has them.
    """
    tables = [frame.particles for frame in found]
    lost = "The layers are those of each frame by itself, not made consistent over the movie"
    as_found = tables, [False] * len(found)
    tables, exchanged = keep_going(problems, lost, as_found, lambda: vote(tables, WORKING_DIAMETER))
    lattices = [frame.lattices[::-1] if swap else frame.lattices for frame, swap in zip(found, exchanged, strict=True)]
    return pd.concat([table.assign(frame=t) for t, table in enumerate(tables)], ignore_index=True), lattices


def link_tracks(table: pd.DataFrame, search_range: float, problems: list[str]) -> pd.DataFrame:
    """The table with ``particle``; -1 throughout if linking fails."""
    lost = "The particles are not linked from frame to frame"
    return keep_going(problems, lost, table, lambda: link_particles(table, search_range)) if len(table) else table


def measure_working_pixel(working, movie) -> float:
    """Size of a working pixel in nm; the two axes differ by rounding only."""
    return movie.pixel_size * np.sqrt(np.prod(movie.shape[1:]) / np.prod(working))


def convert_to_nm(particles: pd.DataFrame, working, movie) -> pd.DataFrame:
    """From working pixels to the frame's pixels and nm, for particles centred in the frame.

    Both put pixel centres at integer coordinates.
    """
    if len(movie) == 1:
        # In a movie each frame's positions must be its own, or vibrations would be smoothed away and time could not
        # average the noise. A single frame is best fitted together with the crystal's regularity.
        particles = particles.assign(**{name: particles[f"{name}_likeliest"] for name in LIKELIEST})
    native, nm = movie.shape[1:], measure_working_pixel(working, movie)
    inside = particles["y"].between(-0.5, working[0] - 0.5) & particles["x"].between(-0.5, working[1] - 0.5)
    particles = particles[inside]
    y, x = ((particles[c] + 0.5) / (working[k] / native[k]) - 0.5 for k, c in enumerate("yx"))
    return particles.assign(
        particle=-1,
        y=y,
        x=x,
        y_nm=y * movie.pixel_size,
        x_nm=x * movie.pixel_size,
        **{f"{name}_nm": particles[name] * nm for name in ("y_std", "x_std", "diameter", "diameter_std")},
    )
