"""Optics, noise and library in numbers: composed images against full-atom multislice, real noise, and speed.

Prints tables and, as its last line, one JSON object. Times are of this machine. QUICK=1 in the environment takes one
pixel size, a coarser wave and 24 library frames to extrapolate 400 from, and stays under a minute on two free cores.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from moirelib import data
from moirelib.movies import read_movie
from moirelib.simulation import LatticeConfig, Lens, LibraryConfig, clean_image, make_library, random_scene
from moirelib.validation import (
    REAL_PIXEL_SIZE,
    REAL_SPACING,
    compare_with_multislice,
    frame_statistics,
    noise_autocorrelation,
    overlapping_clusters,
    real_frame_twin,
)

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
    note = " (extrapolated from 24)" if QUICK else ""
    print(f"library of 400 frames of 512 px, 2 processes: {result['library_400_s']:.0f} s{note}")
    if not QUICK:
        result["restart_identical"] = restart()
    result["noise_autocorrelation"] = twin()
    print(json.dumps({k: v if isinstance(v, (list, bool)) else float(f"{v:.4g}") for k, v in result.items()}))


def compare():
    """The two-way comparison, at one camera sampling (quick) or three."""
    sizes = (0.9,) if QUICK else (0.6, 0.9, 1.44)
    comparison = compare_with_multislice(overlapping_clusters(), sizes, sampling=0.0125 if QUICK else 0.01)
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
        clean_image(scene, FIELD / SIZE, lens=Lens(defocus=500.0))
        times.append(time.perf_counter() - start)
    return float(np.median(times[1:]))  # the first call loads the table


def library_seconds() -> float:
    """Time to make a library of 400 frames of 512 px with two local processes; extrapolated from 24 when quick."""
    if not QUICK:
        return make_seconds(400)
    few, more = make_seconds(8), make_seconds(24)  # the difference does not contain the start of the processes
    return few + (more - few) * (400 - 8) / (24 - 8)


def make_seconds(images: int) -> float:
    """Time to make a library of some frames."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        make_library(Path(folder) / "library", LibraryConfig(images=images), seed=0, workers=2, progress=False)
        return time.perf_counter() - start


def restart() -> bool:
    """Kill the process group of a library, continue it, and compare all arrays with an uninterrupted library."""
    config = replace(LibraryConfig.fast(), images=24, shape=(128, 128))
    command = [sys.executable, "-m", "moirelib", "library", "--fast", "--images", "24", "--size", "128", "--out"]
    with tempfile.TemporaryDirectory() as folder:
        killed, whole = Path(folder) / "killed", Path(folder) / "whole"
        run = subprocess.Popen([*command, str(killed)], stderr=subprocess.DEVNULL, start_new_session=True)
        while run.poll() is None and len(list(killed.glob("truth/*.json"))) < 4:
            time.sleep(0.01)
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        done = len(list(killed.glob("truth/*.json")))
        libraries = [make_library(path, config, seed=0, progress=False) for path in (killed, whole)]
        same = all(np.array_equal(*(library[name][:] for library in libraries)) for name in ("frame", "mask"))
    print(f"library killed after {done} of 24 images and continued: {'the same bytes' if same else 'DIFFERENT'}")
    return bool(same)


def twin() -> list[float]:
    """Print numbers of a simulated twin beside those of the real frame; returns its noise autocorrelation."""
    simulated, _ = real_frame_twin()
    spacing = REAL_SPACING / REAL_PIXEL_SIZE
    table = {"simulated twin": frame_statistics(simulated, spacing, np.s_[350:862, 60:572])}
    try:
        real = read_movie(data.fetch("np_lattice_2p593nm.tif")).frame(0).astype(float) - 32768
        table["real"] = frame_statistics(real, spacing, np.s_[400:912, 100:612])
    except OSError as error:
        print("real frame: not at hand;", error)
    print(pd.DataFrame(table).round(3).to_string())
    return [float(f"{v:.3f}") for v in noise_autocorrelation(simulated)]


if __name__ == "__main__":
    main()
