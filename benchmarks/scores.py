"""Score `moirelib decompose` as it ships: sample, simulated scenes with unused seeds, real frame.

Prints a table and, as its last line, the same as JSON. Times are of this machine.
"""

import argparse
import json
import time

import numpy as np

import moirelib
from moirelib import data
from moirelib.simulation import LibraryConfig, simulate_frame, truth_table
from moirelib.validation import mask_iou, score_particles

SEED = 31415


def main() -> None:
    """Score every family and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=12, help="scenes of each simulated family (default 12)")
    scenes = parser.parse_args().scenes
    rows = {"sample": sample()}
    rows["library ranges"] = average(library_scene(i) for i in range(scenes))
    rows["published recipe"] = average(published_scene(i) for i in range(scenes))
    for name, row in rows.items():
        print(f"{name:17s}", "  ".join(f"{key} {value:.3f}" for key, value in row.items()))
    try:
        rows["real frame"] = real_frame()
        print(f"{'real frame':17s}", "  ".join(f"{key} {value:.3f}" for key, value in rows["real frame"].items()))
    except OSError as error:
        print("real frame: not at hand;", error)
    print(json.dumps(rows))


def score(movie, truth, masks, pixel_size) -> dict:
    """Decompose and score one movie."""
    start = time.perf_counter()
    result = moirelib.decompose(movie, pixel_size=pixel_size)
    seconds = time.perf_counter() - start
    field = np.array(result.movie.shape[1:]) * pixel_size
    row = score_particles(result.particles, truth, truth["diameter_nm"].median(), field)
    row["mask_iou"] = mask_iou(np.asarray(result.layers), masks)
    row["s_per_frame"] = seconds / len(result.movie)
    return row


def average(rows) -> dict:
    """Mean of every column over scenes."""
    rows = list(rows)
    return {key: float(np.nanmean([row[key] for row in rows])) for key in rows[0]}


def sample() -> dict:
    """The shipped movie; its masks are disks of the true diameters."""
    movie, truth = data.sample()
    masks = np.zeros((len(movie), 2, *movie.shape[1:]), np.uint8)
    y, x = np.indices(movie.shape[1:])
    for p in truth.itertuples():
        radius = p.diameter_nm / movie.pixel_size / 2
        masks[p.frame, p.layer - 1][np.hypot(y - p.y, x - p.x) < radius] = 255
    return score(movie, truth, masks, movie.pixel_size)


def library_scene(i) -> dict:
    """One frame from the ranges of the training library, including its lowest doses and contrasts."""
    return simulated_scene(LibraryConfig(shape=(448, 448)), (SEED, i))


def published_scene(i) -> dict:
    """Standing rods as in the published recipe: 700 nm at 512 px, 10.6 e/Å², nearly opaque overlaps, disk blur."""
    return simulated_scene(LibraryConfig.published(), (SEED, 1, i))


def simulated_scene(config, seed) -> dict:
    """One frame of a library, scored as a movie of its own."""
    image = simulate_frame(config, seed)
    truth = truth_table(image.scene, image.pixel_size)
    return score(image.frame, truth, image.masks[None], image.pixel_size)


def real_frame() -> dict:
    """Checks without truth: one layer, and the distance of lattice rows (102 to 104 nm expected)."""
    movie = moirelib.read_movie(data.fetch("np_lattice_2p593nm.tif"))
    start = time.perf_counter()
    result = moirelib.decompose(movie)
    return {
        "in_layer_1": float(np.mean(result.particles["layer"] == 1)),
        "particles": len(result.particles),
        "d10_nm": result.summary["spacing_nm"]["layer_1"] * np.sqrt(3) / 2,
        "s_per_frame": time.perf_counter() - start,
    }


if __name__ == "__main__":
    main()
