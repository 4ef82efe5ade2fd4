"""The scenes of the layer benchmark: simulated families, and real frames multiplied with themselves.

Every scene is drawn from the seed (benchmark seed, number of its family or cell, index); the training libraries have
other seeds, so no scene was ever trained on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pandas as pd
import trackpy
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial import cKDTree

from moirelib import data
from moirelib.movies import read_movie
from moirelib.simulation import LatticeConfig, LibraryConfig, simulate_frame, truth_table
from moirelib.validation import semi_real_moire

__all__ = ["FAMILIES", "SWEEPS", "Problem", "make_problem", "real_frame"]

SEMI_REAL = "semi-real Moiré"
TWIST = (3.0, 30.0)  # degrees, if a family gives no other
SEMI_REAL_TWIST = (6.0, 30.0)  # degrees; below, its field of 11 spacings is smaller than one Moiré period


@dataclass(frozen=True)
class Problem:
    """One frame to take apart, and its truth."""

    frame: np.ndarray  # (y, x)
    pixel_size: float  # nm
    masks: np.ndarray  # (2, y, x) uint8, 255 = covered
    truth: pd.DataFrame  # frame, layer, y_nm, x_nm, and more
    diameter: float  # nm, median of the true ones


def _published(**lattice) -> LibraryConfig:
    """Standing rods: nearly opaque overlaps, disk blur, islands, a grain boundary in half the base layers."""
    base = LibraryConfig.published()
    return replace(base, lattice=replace(base.lattice, twist_angle=TWIST, **lattice))


def _spheres(dose: float = 10.6, shape=(512, 512), **lattice) -> LibraryConfig:
    """Translucent spheres under the published microscope and camera, in focus but for an optical blur.

    Gold at a mean free path of 35 nm: a sphere of 16 to 42 nm lets 30 to 60 % of the electrons through its middle.
    """
    config = replace(
        LatticeConfig(),
        **{"shapes": ("sphere",), "spacing": (30.0, 50.0), "diameter_ratio": (0.55, 0.85)}
        | {"twist_angle": TWIST, "single_layer": 0.0, "boundary": 0.5}
        | lattice,
    )
    recipe = LibraryConfig.published()
    return replace(recipe, lattice=config, shape=shape, dose=(dose, dose), blur=(0.0, 0.1), disk_blurred=0.0)


#: Name -> configuration; the semi-real family has none. Their order gives their numbers: only append, never insert.
FAMILIES: dict[str, LibraryConfig | None] = {
    "published recipe": _published(),
    "spheres": _spheres(),
    "spheres, a third of the dose": _spheres(dose=3.5),
    "twist 1-3°": _spheres(twist_angle=(1.0, 3.0)),
    "dense vacancies": _spheres(vacancies=(0.15, 0.3)),
    "clouds": replace(_spheres(), clouded=1.0, clouds=(0.15, 0.3)),
    "other shapes": _spheres(shapes=("cube", "octahedron", "prism")),
    SEMI_REAL: None,
}

#: Varied quantity -> its value -> configuration; everything else as for spheres.
SWEEPS: dict[str, dict[float, LibraryConfig]] = {
    "twist_deg": {t: _spheres(twist_angle=(t, t)) for t in (1.0, 2.0, 4.0, 6.0, 10.0, 15.0, 20.0, 30.0)},
    "dose": {d: _spheres(dose=d) for d in (1.0, 3.5, 10.6, 35.0)},
    "field_px": {n: _spheres(shape=(n, n)) for n in (128, 256, 512)},
}


def make_problem(name: str, config: LibraryConfig | None, seed: int, number: int, index: int) -> Problem:
    """Scene ``index`` of a family or of a sweep's cell.

    Parameters
    ----------
    name : str
        Only the semi-real family is made by its name.
    config : LibraryConfig or None
        What to simulate.
    seed, number, index : int
        Seed of the benchmark, number of the family or cell, scene.

    Raises
    ------
    OSError
        If the semi-real family's frame is not at hand.
    """
    if name == SEMI_REAL:
        return _semi_real(np.random.default_rng((seed, number, index)))
    image = simulate_frame(config, (seed, number, index))
    truth = truth_table(image.scene, image.pixel_size)
    return Problem(image.frame, image.pixel_size, image.masks, truth, float(truth["diameter_nm"].median()))


def real_frame():
    """The real frame as a movie; raises OSError if it is not at hand."""
    return read_movie(data.fetch("np_lattice_2p593nm.tif"))


CENTERS = (420, 640), (363, 430)  # rows and columns of the real frame: the square around them is mostly lattice


def _semi_real(rng, size: int = 512) -> Problem:
    """The real frame multiplied with a turned copy of itself; twist, direction and centre are random."""
    movie, frame, points, diameter, mask = _real_truth()
    twist = rng.uniform(*SEMI_REAL_TWIST) * rng.choice([-1.0, 1.0])
    moire = semi_real_moire(frame, diameter, twist, size, center=[int(rng.integers(*r)) for r in CENTERS])
    layers = [points - moire.origin, moire.turn(points - moire.origin)]
    # Pixels of the turned layer are looked up at their origin, so the angle has the opposite sign.
    back = replace(moire, twist_angle=-twist).turn(np.indices((size, size)).reshape(2, -1).T) + moire.origin
    masks = [mask[tuple(slice(o, o + size) for o in moire.origin)]]
    masks.append(map_coordinates(mask, back.T, order=0).reshape(size, size))
    tables = [pd.DataFrame({"frame": 0, "layer": k + 1, "y": p[:, 0], "x": p[:, 1]}) for k, p in enumerate(layers)]
    truth = pd.concat(tables, ignore_index=True)
    truth = truth[truth[["y", "x"]].ge(-0.5).all(axis=1) & truth[["y", "x"]].lt(size - 0.5).all(axis=1)]
    nm = movie.pixel_size
    truth = truth.assign(y_nm=truth["y"] * nm, x_nm=truth["x"] * nm, diameter_nm=diameter * nm)
    return Problem(moire.frame, nm, np.stack(masks), truth.reset_index(drop=True), diameter * nm)


@lru_cache(maxsize=1)
def _real_truth():
    """The real frame without its offset, and positions and mean outline of its particles from an independent method.

    These are trackpy's finds that are dark enough and have three neighbours at the distance of the lattice. By eye,
    these are nearly all particles of the lattice and very few others. The mask of each particle is the mean of all
    particles, cut at half its depth.
    """
    movie = real_frame()
    frame = movie.frame(0).astype(float) - 32768
    darkness = 1 - gaussian_filter(frame, 1.5) / gaussian_filter(frame, 75)
    trackpy.quiet()
    found = trackpy.locate(1000 * darkness.clip(-1, 1), 31, minmass=0, separation=26)
    points = found.loc[found["mass"] > 0.5 * found["mass"].median(), ["y", "x"]].to_numpy()
    tree = cKDTree(points)
    neighbours = tree.query_ball_point(points, 62, return_length=True) - tree.query_ball_point(
        points, 32, return_length=True
    )
    points = points[neighbours >= 3]
    outline = _mean_outline(darkness, points, 26)
    mask = np.zeros(frame.shape, np.uint8)
    for y, x in np.rint(points).astype(int):
        y0, x0 = max(26 - y, 0), max(26 - x, 0)
        part = mask[max(y - 26, 0) : y + 27, max(x - 26, 0) : x + 27]
        part[outline[y0 : y0 + part.shape[0], x0 : x0 + part.shape[1]]] = 255
    return movie, frame, points, 2 * np.sqrt(outline.sum() / np.pi), mask


def _mean_outline(darkness, points, reach) -> np.ndarray:
    """Mask of the mean particle: at least half as dark as its middle, relative to the level between particles."""
    inner = points[np.all((points > reach + 1) & (points < np.array(darkness.shape) - reach - 2), axis=1)]
    grid = np.indices((2 * reach + 1, 2 * reach + 1)) - reach
    patches = [map_coordinates(darkness, grid + p[:, None, None], order=1) for p in inner]
    mean, distance = np.mean(patches, axis=0), np.hypot(*grid)
    level = np.median(mean[(distance > 22) & (distance < 25)])
    return (mean > 0.5 * (mean[reach, reach] + level)) & (distance < 23)
