"""Optics, noise and library in numbers: composed images against full-atom multislice, real noise, and speed.

Prints tables and, as its last line, one JSON object. Times are of this machine. QUICK=1 in the environment takes one
pixel size, and 40 library frames to extrapolate 400 from, and stays under a minute on two free cores.
"""

import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from moirelib import data
from moirelib.library import LibraryConfig, make_library
from moirelib.movies import read_movie
from moirelib.optics import clean_image
from moirelib.proof import compare_with_multislice, overlapping_clusters
from moirelib.real_frame import real_frame_twin
from moirelib.scenes import LatticeConfig, random_scene
from moirelib.statistics import noise_autocorrelation

QUICK = os.environ.get("QUICK", "0") == "1"
FIELD, SIZE = 700.0, 512  # nm, px


def main() -> None:
    """Measure everything and print it."""
    result = {}
    comparison = compare()
    worst = comparison.table.groupby("method")["rms_over_std"].max()
    result["relative_rms"], result["relative_rms_library"] = worst["particle"], worst["library"]
    result["relative_rms_table"] = worst["table"]
    result["relative_rms_of_mean"] = comparison.table.query("method == 'particle'")["rms_over_mean"].max()
    result["compose_s"] = compose_seconds()
    full_s = FIELD**2 * comparison.full_s / comparison.area
    result["speedup"] = full_s / result["compose_s"]
    print(f"full-atom multislice: {comparison.area / comparison.full_s:.1f} nm²/s", end="")
    print(f", so {full_s / 3600:.1f} h for {FIELD:.0f} nm (extrapolated by area, for particles of 4 nm)")
    print(f"composing {FIELD:.0f} nm at {SIZE} px: {result['compose_s']:.3f} s")
    result["library_400_s"] = library_seconds()
    note = " (extrapolated from 40)" if QUICK else ""
    print(f"library of 400 frames of 512 px, 2 processes: {result['library_400_s']:.0f} s{note}")
    result["noise_autocorrelation"] = noise()
    print(json.dumps({k: v if isinstance(v, list) else float(f"{v:.4g}") for k, v in result.items()}))


def compare():
    """The two-way comparison, at one camera sampling (quick) or three."""
    sizes = (0.9,) if QUICK else (0.6, 0.9, 1.44)
    comparison = compare_with_multislice(overlapping_clusters(), pixel_sizes=sizes)
    print("RMS difference from full-atom multislice over the image's standard deviation")
    print("(two layers of seven 4 nm spheres; columns: aperture in mrad, defocus in nm)")
    table = comparison.table.pivot_table(
        index=["method", "pixel_size_nm"], columns=["aperture_mrad", "defocus_nm"], values="rms_over_std"
    )
    print(table.round(4).to_string())
    return comparison


def compose_seconds() -> float:
    """Median time to compose one field of the published recipe."""
    scene = random_scene(LatticeConfig.published(), (FIELD, FIELD), np.random.default_rng(3), 48.0)
    times = []
    for _ in range(6):
        start = time.perf_counter()
        clean_image(scene, FIELD / SIZE, defocus=500.0)
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))  # the first call loads the table


def library_seconds() -> float:
    """Time to make a library of 400 frames of 512 px with two local processes; extrapolated from 40 when quick."""
    if not QUICK:
        return make_seconds(400)
    few, more = make_seconds(8), make_seconds(40)  # the difference is free of the processes' start
    return few + (more - few) * (400 - 8) / (40 - 8)


def make_seconds(images: int) -> float:
    """Time to make a library of some frames."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        make_library(Path(folder) / "library", LibraryConfig(images=images), seed=0, workers=2, progress=False)
        return time.perf_counter() - start


def noise() -> list[float]:
    """Autocorrelation of the noise at lags 1 to 3 of a simulated twin of the real frame, beside the real one's."""
    simulated = noise_autocorrelation(real_frame_twin()[0])
    print("autocorrelation of the noise at lags 1, 2, 3, simulated twin:", simulated.round(3))
    try:
        real = read_movie(data.fetch("np_lattice_2p593nm.tif")).frame(0)
        print("autocorrelation of the noise at lags 1, 2, 3, real frame:    ", noise_autocorrelation(real).round(3))
    except OSError as error:
        print("real frame: not at hand;", error)
    return [float(f"{v:.3f}") for v in simulated]


if __name__ == "__main__":
    main()
