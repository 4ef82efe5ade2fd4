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
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial import cKDTree

from .assignment import find_lattice, twist_note, vote
from .data import weights_path
from .movies import LayerMovieWriter, Movie, as_movie
from .output import output_folder
from .particles import LIKELIEST, Found, find, locate
from .tracks import link
from .unet import WORKING_DIAMETER, choose_device, load_weights, normalize, predict, resample

__all__ = [
    "COLUMNS",
    "Decomposition",
    "SemiRealMoire",
    "decompose",
    "estimate_diameter",
    "semi_real_moire",
]

#: Columns of the particle table, in the order of ``particles.csv``.
COLUMNS = (
    "frame particle layer y x y_nm x_nm y_std_nm x_std_nm diameter_nm diameter_std_nm score layer_confidence".split()
)
#: Particles outside this range of diameters, in nm, are no nanoparticles: the pixel size must be wrong.
PLAUSIBLE_DIAMETER = (0.5, 500.0)
SMALLEST_DIAMETER = 4.0  # pixels


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
        scale = self.movie.pixel_size, self.movie.frame_time
        writers = [LayerMovieWriter(Path(folder) / f"layer_{k}.tif", *scale) for k in (1, 2)]
        with writers[0], writers[1]:
            for t in range(len(self.movie)):
                for writer, image in zip(writers, np.asarray(self.layers[t]), strict=True):
                    writer.write(image)
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
    _check_pixel_size(movie, diameter)
    model = load_weights(weights, device)
    _check_layers(model, weights)
    diameter_px, polarity = _look_around(movie, model, None if diameter is None else diameter / movie.pixel_size)
    _check_diameter(diameter_px, movie)
    working = _working_shape(movie.shape[1:], diameter_px)
    found = []
    with tqdm(total=len(movie), disable=not progress, desc="decompose", unit="frame") as bar:
        for some in _find_all(movie, model, working, polarity):
            found += some
            bar.update(len(some))
    tables, lattices = [f.particles for f in found], [f.lattices for f in found]
    tables, exchanged = vote(tables, WORKING_DIAMETER)
    lattices = [found[::-1] if other else found for found, other in zip(lattices, exchanged, strict=True)]
    particles = pd.concat([table.assign(frame=t) for t, table in enumerate(tables)], ignore_index=True)
    layers = _lazy_layers(particles, working, movie.shape)
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
    """Refuse networks of other than two layers, whose channels `moirelib.assignment` could not name."""
    layers = model.final_conv.out_channels // 2
    if layers != 2:
        raise ValueError(f"{weights} is a network of {layers} layers; decompose takes two apart: pass weights of two")


def _check_pixel_size(movie, diameter) -> None:
    """Refuse a missing pixel size, and one at which no nanoparticle could be resolved."""
    if movie.pixel_size is None:
        raise ValueError(f"pixel size is missing from {movie.name}; pass pixel_size=... (nm) or --pixel-size NM")
    if diameter is not None and not (np.isfinite(diameter) and diameter > 0):
        raise ValueError(f"diameter must be a positive number of nm, got {diameter}")
    largest = PLAUSIBLE_DIAMETER[1] if diameter is None else diameter
    if largest / movie.pixel_size < SMALLEST_DIAMETER:
        raise ValueError(
            f"at {movie.pixel_size:g} nm/pixel a particle of {largest:g} nm is under {SMALLEST_DIAMETER:g} pixels wide "
            f"in {movie.name}; check the pixel size (nm per pixel)"
        )


def _check_diameter(diameter_px, movie) -> None:
    nm = diameter_px * movie.pixel_size
    if diameter_px > min(movie.shape[1:]):
        raise ValueError(
            f"a particle of {nm:.3g} nm is larger than the frames of {movie.name}; check the diameter (nm)"
        )
    if diameter_px < SMALLEST_DIAMETER:
        raise ValueError(
            f"particles in {movie.name} are about {diameter_px:.1f} pixels wide; at least {SMALLEST_DIAMETER:g} are "
            "needed; record at higher magnification"
        )
    if not PLAUSIBLE_DIAMETER[0] <= nm <= PLAUSIBLE_DIAMETER[1]:
        raise ValueError(
            f"at {movie.pixel_size:g} nm/pixel the particles in {movie.name} would be {nm:.3g} nm wide, no "
            "nanoparticles; check the pixel size (nm per pixel)"
        )


def _look_around(movie, model, diameter_px) -> tuple[float, float]:
    """Particle diameter in pixels and polarity (1 for dark particles, -1 for bright) from frames all over the movie."""
    frames = [movie.frame(t) for t in sorted({0, len(movie) // 2, len(movie) - 1})]
    best = (-np.inf, 0.0, 1.0)
    for frame in frames:
        d = estimate_diameter(frame, model) if diameter_px is None else diameter_px
        trials = [(_plausibility(sign * frame, model, d), d, sign) for sign in (1.0, -1.0)]
        best = max(best, *trials)
    return best[1:]


def estimate_diameter(frame: np.ndarray, model) -> float:
    """Particle diameter of a frame, in pixels, by asking the network at several magnifications.

    Parameters
    ----------
    frame : ndarray, shape (y, x)
        Raw frame.
    model : torch.nn.Module
        From `moirelib.unet.load_weights`.

    Returns
    -------
    float
        In pixels.

    Notes
    -----
    The network knows particles of `WORKING_DIAMETER` pixels. At a magnification near the right one, what it finds
    explains the image's darkness (or brightness) best and forms the strongest lattice; there the size of what it finds
    corrects the rest, unless the corrected diameter suits the frame much less: of very dark or defocused particles the
    network sees too little. Explained in chapter 6, "Decompose".
    """
    largest = max(min(frame.shape) / 3, 1.2 * SMALLEST_DIAMETER)
    trials = np.geomspace(SMALLEST_DIAMETER, largest, 2 + int(np.log(largest / SMALLEST_DIAMETER) / 0.18))
    suits = np.array([_plausibility(frame, model, d) for d in trials])
    best = int(np.argmax(np.abs(suits)))
    polarity = np.sign(suits[best])
    corrected = _corrected(polarity * frame, model, trials[best])
    spoiled = _plausibility(polarity * frame, model, corrected) < 0.5 * abs(suits[best])
    return float(trials[best] if spoiled else corrected)


def _corrected(frame, model, diameter) -> float:
    """Diameter corrected by the size of what the network finds at it."""
    for _ in range(2):
        measured = _measured_diameter(*predict(model, _middle(frame, diameter)))
        if measured is None:
            break
        diameter *= np.clip(measured / WORKING_DIAMETER, 0.7, 1.4)
    return diameter


def _middle(frame, diameter, view: int = 224) -> np.ndarray:
    """The middle of a frame at the sampling that a diameter asks for."""
    image = resample(frame, _working_shape(frame.shape, diameter))
    window = (slice(max((n - view) // 2, 0), max((n - view) // 2, 0) + view) for n in image.shape)
    return image[tuple(window)]


def _plausibility(frame, model, diameter) -> float:
    """How well a diameter suits: significance (Fisher's z) of the finds' correlation with darkness × lattice strength.

    Negative where the finds are bright.
    """
    image = _middle(frame, diameter)
    masks, centers = predict(model, image)
    found = masks.sum(axis=0)
    found = found - gaussian_filter(found, 1.4 * WORKING_DIAMETER)
    dark = -normalize(gaussian_filter(image, 1.0))
    correlation = np.mean(found * dark) / np.sqrt(np.mean(found**2) * np.mean(dark**2) + 1e-12)
    points = locate(centers, WORKING_DIAMETER)[["y", "x"]].to_numpy()
    strength = find_lattice(points, 1.35 * WORKING_DIAMETER)[1] if len(points) >= 8 else 1.0
    return float(np.arctanh(np.clip(correlation, -0.9999, 0.9999)) * np.sqrt(image.size * strength))


def _measured_diameter(masks, centers) -> float | None:
    """Median diameter, in working pixels, of a disk as large as each particle's share of its channel's mask."""
    found = locate(centers, WORKING_DIAMETER)
    far_edge = np.array(masks.shape[1:]) - WORKING_DIAMETER
    inner = ((found[["y", "x"]] > WORKING_DIAMETER) & (found[["y", "x"]] < far_edge)).all(axis=1)
    grid = np.stack(np.indices(masks.shape[1:]), axis=-1).reshape(-1, 2)
    areas = [np.empty(0)]
    for channel, group in found.groupby("channel"):
        distance, index = cKDTree(group[["y", "x"]]).query(grid, distance_upper_bound=WORKING_DIAMETER)
        near = np.isfinite(distance)
        share = np.bincount(index[near], masks[channel].ravel()[near], len(group))
        areas.append(share[inner[group.index]])
    areas = np.concatenate(areas)
    return float(np.sqrt(4 / np.pi * np.median(areas))) if len(areas) else None


def _working_shape(shape, diameter_px) -> tuple[int, int]:
    """Shape at which particles are `WORKING_DIAMETER` pixels wide, the same zoom on both axes to a pixel."""
    zoom = WORKING_DIAMETER / diameter_px
    return tuple(max(int(round(n * zoom)), 4) for n in shape)


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


def _lazy_layers(particles, working, shape) -> da.Array:
    """Layer movies that are rendered frame by frame when looked at."""
    by_frame = dict(list(particles.groupby("frame")))
    empty = particles.iloc[:0]

    def block(block_id=None):
        t = block_id[0]
        return render_layers(by_frame.get(t, empty), working, shape[1:])[None]

    return da.map_blocks(block, chunks=((1,) * shape[0], (2,), (shape[1],), (shape[2],)), dtype=np.uint8)


def render_layers(particles: pd.DataFrame, working, shape) -> np.ndarray:
    """Layer images that agree with the particle table: every particle's outline in its own layer.

    Parameters
    ----------
    particles : pandas.DataFrame
        ``layer, y_likeliest, x_likeliest, diameter_likeliest`` in working pixels.
    working, shape : tuple of int
        (y, x) of the working frame and of the result.

    Returns
    -------
    ndarray, shape (2, y, x), uint8
        Covered fraction of each pixel, 0 to 255, to a twentieth of a pixel.
    """
    out = np.zeros((2, *shape), np.float32)
    zoom = np.array(shape) / np.array(working)
    yx = (particles[["y_likeliest", "x_likeliest"]].to_numpy() + 0.5) * zoom - 0.5
    radius = 0.5 * particles["diameter_likeliest"].to_numpy() * np.sqrt(zoom.prod())
    for (y, x), r, k in zip(yx, radius, particles["layer"].to_numpy(), strict=True):
        rows, columns = (
            np.arange(max(int(c - r) - 1, 0), min(int(c + r) + 3, n)) for c, n in zip((y, x), shape, strict=True)
        )
        if rows.size and columns.size:
            covered = np.clip(r + 0.5 - np.hypot(rows[:, None] - y, columns - x), 0, 1)
            window = out[k - 1, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            np.maximum(window, covered, out=window)
    return np.rint(255 * out).astype(np.uint8)


def _summarize(movie, table, lattices, nm, weights, device) -> dict:
    """What goes into ``summary.json``."""
    from . import __version__

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
    from .lattice import fold_hexagonal

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


@dataclass(frozen=True)
class SemiRealMoire:
    """Two layers with a known answer, made of a real single-layer frame."""

    frame: np.ndarray  # (y, x) float32, the product times the real background
    transmissions: np.ndarray  # (2, y, x) float32, each layer alone
    origin: tuple[int, int]  # (y, x) in the source frame of this frame's first pixel
    twist_angle: float  # degrees, from layer 1 to layer 2
    pivot: tuple[float, float]  # (y, x) in this frame; layer 2 is layer 1's source turned about it

    def turn(self, points) -> np.ndarray:
        """Where points (y, x) of the source, in this frame's pixels, lie in the turned layer."""
        t = np.radians(self.twist_angle)
        y, x = (np.asarray(points, float) - self.pivot).T
        return np.stack([y * np.cos(t) + x * np.sin(t), x * np.cos(t) - y * np.sin(t)], axis=1) + self.pivot


def semi_real_moire(
    frame: np.ndarray, diameter: float, twist_angle: float = 15.0, size: int | None = None, center=None
) -> SemiRealMoire:
    """Multiply a real single-layer frame with a turned copy of itself: known layers, real background and noise.

    Parameters
    ----------
    frame : ndarray, shape (y, x)
        Real frame of one layer, any offset removed.
    diameter : float
        Particle diameter, in pixels; sets how smooth the background and the turned copy are.
    twist_angle : float
        In degrees, from x towards y.
    size : int, optional
        Edge of the result in pixels; the largest that every twist fills by default.
    center : tuple of int, optional
        (y, x) of the source pixel at the middle of the result; the frame's middle by default.

    Returns
    -------
    SemiRealMoire
        The frame, both transmissions, and how layer 2's particles follow from layer 1's.

    Raises
    ------
    ValueError
        If the turned copy would not fill the result.

    Notes
    -----
    The turned copy is smoothed over a sixth of a diameter, so that the product keeps the noise of one exposure.
    Explained in chapter 6, "Decompose".
    """
    frame = np.asarray(frame, dtype=np.float32)
    center = tuple(n // 2 for n in frame.shape) if center is None else tuple(int(c) for c in center)
    room = min(min(c, n - 1 - c) for c, n in zip(center, frame.shape, strict=True))
    size = int(np.sqrt(2) * room) if size is None else int(size)
    if size / 2 * np.sqrt(2) > room + 1 or size < 8:
        raise ValueError(
            f"a turned square of {size} pixels about {center} leaves the frame; at most {int(2**0.5 * room)}"
        )
    background = gaussian_filter(frame, 2.5 * diameter)
    transmission = frame / background
    origin = tuple(c - size // 2 for c in center)
    window = tuple(slice(o, o + size) for o in origin)
    pivot = tuple(float(c - o) for c, o in zip(center, origin, strict=True))
    t = np.radians(twist_angle)
    y, x = np.indices((size, size)) - np.reshape(pivot, (2, 1, 1))
    back = [y * np.cos(t) - x * np.sin(t) + center[0], x * np.cos(t) + y * np.sin(t) + center[1]]
    turned = map_coordinates(gaussian_filter(transmission, diameter / 6), back, order=1, mode="nearest")
    layers = np.stack([transmission[window], turned])
    return SemiRealMoire(layers.prod(axis=0) * background[window], layers, origin, float(twist_angle), pivot)
