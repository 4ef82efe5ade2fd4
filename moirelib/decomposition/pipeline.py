"""From a movie to one movie per layer and a table of every particle (chapter 6, "Decompose")."""

import json
from dataclasses import dataclass, replace
from os import PathLike

import dask.array as da
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ..movies.layer_movie_writing import write_layer_movie
from ..movies.movie import Movie
from ..movies.reading import as_movie
from ..output import output_folder
from ..tracking import number_tracks
from .all_frames import FrameJob, describe_run, find_in_all_frames, look_at
from .alternatives import find_alternatives
from .frame import LIKELIEST
from .frame_checks import leave_noise_out
from .frame_results import FoundInFrames, FrameResults
from .layer_count import SharedByFrames
from .layer_voting import count_layers, rename_lattices, vote
from .movie_motion import MovieMotion, measure_motion, take_motion_off
from .network import WORKING_DIAMETER, load_weights
from .particle_fit import SHAPE
from .particle_size import check_diameter, check_pixel_size, estimate_size_and_polarity, find_working_shape
from .summary import describe_frames, keep_going, summarize

#: Columns of the particle table, in the order of ``particles.csv``.
COLUMNS = "frame particle layer y x y_nm x_nm y_std_nm x_std_nm diameter_nm diameter_std_nm".split()
COLUMNS += ["diameter_half_depth_nm", *SHAPE, "score", "layer_confidence", "other_layer"]

TRACK_STEP = 0.5  # diameters between frames, motion taken off (geometry): less than half the spacing if they touch


@dataclass(frozen=True)
class Decomposition:
    """A movie taken apart.

    Attributes
    ----------
    layers : dask.array.Array, shape (t, n, y, x), uint8
        Covered fraction of every pixel by the particles of layers 1, 2 and perhaps 3, 0 to 255; drawn where it is
        looked at.
    particles : pandas.DataFrame
        One row per particle, layer and frame; lengths in nm, ``y`` and ``x`` in pixels; ``particle``, the number of its
        track, is -1 where it has none, and empty in ``particles.csv``.
    summary : dict
        What was run and what came out, as in ``summary.json``.
    movie : Movie
        The input.
    """

    layers: da.Array
    particles: pd.DataFrame
    summary: dict
    movie: Movie

    @property
    def alternatives(self) -> pd.DataFrame:
        """Particles of regions that can be named two ways, with the other layer of each: see `find_alternatives`."""
        return find_alternatives(self.particles)

    def to_atoms(self, gap: float | None = None) -> list:
        """Sites in three dimensions, one `ase.Atoms` per frame; ``gap`` between layers in nm, see `to_atoms`."""
        from .atoms import to_atoms

        return to_atoms(self.particles, gap)

    def save(self, folder: str | PathLike[str]) -> None:
        """Write ``layer_1.tif`` and so on, ``particles.csv`` and ``summary.json``, all or none of them.

        ``particles.parquet`` holds the same table with all digits. OSError if the folder cannot be written.
        """
        with output_folder(folder) as partial:
            for k in range(self.layers.shape[1]):
                images = (np.asarray(self.layers[t, k]) for t in range(len(self.movie)))
                write_layer_movie(partial / f"layer_{k + 1}.tif", images, self.movie.pixel_size, self.movie.frame_time)
            # Empty, not -1, where a particle is in no track: trackpy would take -1 for one track of many particles.
            number = self.particles["particle"].astype("Int64")
            table = self.particles.assign(particle=number.mask(number < 0))
            table.to_csv(partial / "particles.csv", index=False, float_format="%.6g", lineterminator="\n")
            table.to_parquet(partial / "particles.parquet", index=False)
            text = json.dumps(self.summary, indent=1)
            (partial / "summary.json").write_text(text + "\n", encoding="utf-8")


def decompose(
    movie: Movie | ArrayLike | da.Array | str | PathLike[str],
    pixel_size: float | None = None,
    diameter: float | None = None,
    layers: int | None = None,
    weights: str | PathLike[str] | None = None,
    device: str = "auto",
    progress: bool = False,
    checkpoint: str | PathLike[str] | None = None,
) -> Decomposition:
    """Take a movie of a Moiré lattice apart, layer by layer.

    Parameters
    ----------
    movie : Movie, array_like or path-like
        A movie from `read_movie`, a file, or an array of shape (t, y, x) or (y, x).
    pixel_size : float, optional
        In nm/pixel; needed where the movie does not carry it.
    diameter : float, optional
        Rough particle diameter in nm; estimated from up to three frames when not given.
    layers : int, optional
        How many layers there are, 1, 2 or 3; each frame shows how many when not given.
    weights : path-like, optional
        Network weights, of two or of three layers; the shipped ones by default, as for the other number.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``; or the address of a Dask scheduler, such as
        ``"tcp://host:8786"``, whose workers then find the particles.
    progress : bool
        Show a progress bar.
    checkpoint : path-like, optional
        Folder in which each finished frame is kept: the same call goes on where it was stopped. Without, frames of a
        movie lie in a temporary folder until the end.

    Returns
    -------
    Decomposition
        ``layers`` (t, 2 or 3, y, x), ``particles``, ``summary``.

    Raises
    ------
    ValueError
        If the pixel size is missing or absurd, the particles are under 4 pixels wide, no frame holds an image, there
        are to be more than three layers, or the weights are of another number.

    Notes
    -----
    Frames that hold no image of their own (black, saturated, incomplete, copied, only noise, unreadable) are left out
    and listed in ``summary["left_out"]``, frames that lost a border or strip in ``summary["cut"]``. Once all frames are
    computed no error loses them: a step that fails then (tracks, twist ...) is left out, with a warning and a line in
    ``summary["problems"]`` and ``summary["note"]``.
    """
    problems: list[str] = []  # what failed after the last frame
    movie = as_movie(movie, pixel_size)
    if layers not in (None, 1, 2, 3):
        raise ValueError(f"layers is {layers}: up to three are taken apart; pass 1, 2 or 3, or leave it out")
    scheduler, device = (device, "auto") if "://" in device else (None, device)
    pixel_size = check_pixel_size(movie, diameter)
    model = load_weights(weights, device)
    channels = len(model.state_dict()["final_conv.bias"]) // 2
    if channels not in (2, 3):
        raise ValueError(f"{weights} is a network of {channels} layers; decompose takes weights of two or three")
    own = {channels: None if weights is None else str(weights)}
    model = model if channels == 2 else load_weights(None, device)
    diameter_px = None if diameter is None else diameter / pixel_size
    diameter_px, polarity = estimate_size_and_polarity(look_at(movie), model, diameter_px)
    check_diameter(diameter_px, movie)
    working = find_working_shape(movie.shape[1:], diameter_px)
    shared, size = SharedByFrames(given=layers), movie.shape[1:]
    job = FrameJob(own.get(2), device, polarity, size, working, (0, 0), shared, pixel_size, own.get(3))
    results = FrameResults(checkpoint, describe_run(movie, job))
    found = leave_noise_out(find_in_all_frames(movie, job, results, scheduler, progress))
    left_out = [{"frame": t, "why": why} for t, why in enumerate(found.why) if why]
    cut = [{"frame": t, "cut": said} for t, said in enumerate(found.cut) if said]
    counts = dict(zip(found.used.tolist(), found.counts[found.used].tolist(), strict=True))
    particles, lattices, motion = follow_layers(found, working, problems, progress and len(movie) > 1)
    del found  # from here on, one table is held
    drawn = draw_layers(particles, working, movie.shape, count_layers(particles))
    # Size of a working pixel in nm; the two axes differ by rounding only.
    nm = movie.pixel_size * np.sqrt(np.prod(movie.shape[1:]) / np.prod(working))
    particles = convert_to_nm(particles, working, movie, nm)
    particles = link_tracks(particles, TRACK_STEP * WORKING_DIAMETER, problems)
    given = {"layers": layers, "diameter_nm": diameter}
    summary = summarize(movie, particles, lattices, nm, given, weights, device, problems)
    lost = "What was left out is not listed"
    summary |= keep_going(problems, lost, {}, lambda: describe_frames(left_out, cut, counts, motion, summary["note"]))
    return Decomposition(drawn, particles, summary, movie)


def follow_layers(found: FoundInFrames, working, problems: list[str], progress: bool):
    """Particles of all frames, their layers made consistent over the movie; lattices of every frame; the motion.

    Particles have ``frame`` and ``y_still, x_still``, where they would be if their layer had not moved since the first
    frame (working px). If the motion or the vote fails, frames are as they were found.
    """
    used = found.used
    frames = len(used)
    particles = found.particles.assign(frame=np.searchsorted(used, found.particles["frame"]))  # without gaps
    still, lost = MovieMotion.none(frames), "The specimen's motion is not taken off"
    diameter = WORKING_DIAMETER
    motion = keep_going(problems, lost, still, lambda: measure_motion(particles, frames, diameter, working, progress))
    lost = "The layers are those of each frame by itself, not made consistent over the movie"
    as_found = particles, [range(count_layers(particles))] * frames
    voted, renamed = keep_going(problems, lost, as_found, lambda: vote(particles, diameter, motion.since_first))
    lattices = [rename_lattices(found.lattices[t], names) for t, names in zip(used, renamed, strict=True)]
    lost, unmoved = "The motion of each layer is not taken off", voted.assign(y_still=voted["y"], x_still=voted["x"])
    voted = keep_going(problems, lost, unmoved, lambda: take_motion_off(voted, motion, working, progress))
    undecided = tuple(used[list(motion.undecided)].tolist())
    return voted.assign(frame=used[voted["frame"]]), lattices, replace(motion, undecided=undecided)


def link_tracks(table: pd.DataFrame, search_range: float, problems: list[str]) -> pd.DataFrame:
    """The table's `COLUMNS`, ``particle`` numbered by tracks and sorted by them; left out frames break no track.

    The table itself is used up, column by column: of a long movie, two would fill the memory.
    """
    still = table[["layer", "y_still", "x_still"]].reset_index(drop=True)
    still["frame"] = np.unique(table["frame"], return_inverse=True)[1]
    lost = "The particles are not linked from frame to frame"
    table["particle"] = keep_going(problems, lost, -1, lambda: number_tracks(still, search_range))
    order = np.lexsort([table[name] for name in ("y", "particle", "layer", "frame")])
    return pd.DataFrame({name: table.pop(name).to_numpy()[order] for name in COLUMNS}, copy=False)


def convert_to_nm(particles: pd.DataFrame, working, movie, nm: float) -> pd.DataFrame:
    """From working pixels of ``nm`` each to the frame's pixels and nm, for particles centred in the frame."""
    if len(movie) == 1:
        # In a movie each frame's positions must be its own, or vibrations would be smoothed away and time could not
        # average the noise. A single frame is best fitted together with the crystal's regularity.
        particles = particles.assign(**{name: particles[f"{name}_likeliest"] for name in LIKELIEST})
    inside = particles["y"].between(-0.5, working[0] - 0.5) & particles["x"].between(-0.5, working[1] - 0.5)
    own = {c: values[inside].to_numpy() for c, values in particles.items() if not c.endswith("_likeliest")}
    lengths = ("y_std", "x_std", "diameter", "diameter_std", "diameter_half_depth")
    own |= {f"{name}_nm": own.pop(name) * nm for name in lengths}
    for k, axis in enumerate("yx"):
        own[axis] = (own[axis] + 0.5) / (working[k] / movie.shape[1 + k]) - 0.5
        own[f"{axis}_nm"] = own[axis] * movie.pixel_size
    return pd.DataFrame(own, copy=False)  # nothing of the wider table is held


def draw_layers(particles: pd.DataFrame, working, shape, layers: int = 2) -> da.Array:
    """Layer movies (t, n, y, x), each image drawn when it is looked at; parameters as for `render_layer`."""
    outlines = [*(f"{name}_likeliest" for name in ("y", "x", "diameter")), "aspect_ratio", "orientation_deg"]
    particles = particles.reindex(columns=["frame", "layer", *outlines]).copy()  # a view would hold the table
    rows = particles.groupby(["frame", "layer"]).indices

    def draw_block(block_id=None):
        t, k = block_id[:2]
        return render_layer(particles.iloc[rows.get((t, k + 1), [])], working, shape[1:])[None, None]

    return da.map_blocks(draw_block, chunks=((1,) * shape[0], (1,) * layers, (shape[1],), (shape[2],)), dtype=np.uint8)


def render_layer(particles: pd.DataFrame, working, shape) -> np.ndarray:
    """Image (y, x) that agrees with the particle table: every particle's outline.

    ``particles`` holds ``y_likeliest, x_likeliest, diameter_likeliest`` in working pixels, ``aspect_ratio`` and
    ``orientation_deg`` (empty where no shape is known); ``working`` and ``shape`` are (y, x) of the working frame and
    of the result. Covered fraction of each pixel, 0 to 255 (uint8).
    """
    out, zoom = np.zeros(shape, np.float32), np.array(shape) / np.array(working)
    yx = (particles[["y_likeliest", "x_likeliest"]].to_numpy() + 0.5) * zoom - 0.5
    radius = 0.5 * particles["diameter_likeliest"].to_numpy() * np.sqrt(zoom.prod())
    root = np.sqrt(particles["aspect_ratio"].fillna(1.0).to_numpy())
    turn = np.radians(particles["orientation_deg"].fillna(0.0).to_numpy())
    for (y, x), along, across, angle in zip(yx, radius * root, radius / root, turn, strict=True):
        rows, columns = (
            np.arange(max(int(c - along) - 1, 0), min(int(c + along) + 3, n))
            for c, n in zip((y, x), shape, strict=True)
        )
        if rows.size and columns.size:
            y, x = rows[:, None] - y, columns - x
            u, v = (x * np.cos(angle) + y * np.sin(angle)) / along, (y * np.cos(angle) - x * np.sin(angle)) / across
            # Distance to the ellipse, to first order.
            distance = np.hypot(u, v).clip(1e-6)
            covered = np.clip(0.5 + (1 - distance) * distance / np.hypot(u / along, v / across).clip(1e-9), 0, 1)
            window = out[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            np.maximum(window, covered, out=window)
    return np.rint(255 * out).astype(np.uint8)
