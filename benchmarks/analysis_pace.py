"""What `moirelib analyze` costs: seconds of each stage, frames a second, and peak memory against the movie's length.

    python benchmarks/analysis_pace.py          2,500 and 5,000 frames of some 600 particles; some ten minutes
    QUICK=1 python benchmarks/analysis_pace.py  100 and 200 frames of some 150 particles

The tables are simulated: two twisted layers that vibrate, drift, turn and grow, with missed particles and broken
tracks. Each length is analysed as by the command, in a process of its own. A stage whose cost per frame is constant
takes as many times as long as there are more frames: the growth printed is 1. In full, both lengths fill tracks.gif
with its 200 frames. The last line is one JSON object of named numbers.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from measuring import run

SEED = 20261129
SPACING, SPRING, ERROR = 10.0, 3.0, 0.2  # nm, kT/nm², nm
MISSED, BROKEN = 0.02, 0.0001  # share of particles missed in a frame; probability per frame that a track breaks
ATTACHED = 0.1  # share of layer 2 that arrives during the movie
FULL, QUICK = ((2500, 5000), 600), ((40, 80), 150)  # frames, particles
WORKERS = 2


def simulate_tracks(frames: int, particles: int, rng: np.random.Generator) -> pd.DataFrame:
    """Tracks of two layers as a decomposition writes them, simulated."""
    from moirelib.crystal import hexagonal_lattice
    from moirelib.simulation import thermal_displacements

    drift = np.cumsum(rng.normal(0, 0.03 * SPACING, (frames, 2)), axis=0)
    turn = np.radians(np.cumsum(rng.normal(0, 0.003, frames)))
    tables, first = [], 0
    for layer, angle, share in ((1, 5.0, 0.55), (2, 14.0, 0.45)):
        radius = SPACING * np.sqrt(share * particles * np.sqrt(0.75) / np.pi)
        sites = hexagonal_lattice(SPACING, angle, (0.0, 0.0), radius)
        seen = rng.random((frames, len(sites))) >= MISSED
        if layer == 2:
            outer = np.argsort(-np.hypot(*sites.T))[: round(ATTACHED * len(sites))]
            arrival = rng.integers(1, frames, len(outer))
            seen[:, outer] &= np.arange(frames)[:, None] >= arrival
        number = np.cumsum(rng.random(seen.shape) < BROKEN, axis=0) * len(sites) + np.arange(len(sites)) + first
        first = number.max() + 1
        at = sites + thermal_displacements(sites, SPACING, SPRING, frames, rng)
        at += ERROR * rng.standard_normal(at.shape)
        z = (at[..., 1] + 1j * at[..., 0]) * np.exp(1j * turn)[:, None] + (drift @ [1j, 1])[:, None]
        t, k = np.nonzero(seen)
        columns = {"frame": t, "particle": number[t, k], "layer": layer, "y_nm": z.imag[t, k], "x_nm": z.real[t, k]}
        tables.append(pd.DataFrame(columns).assign(y_std_nm=ERROR, x_std_nm=ERROR))
    return pd.concat(tables).sort_values(["frame", "layer", "particle"], ignore_index=True)


def write_tracks(folder: str, frames: int, particles: int, results: multiprocessing.Queue) -> None:
    """Write a simulated movie's ``particles.csv`` and ``summary.json``; put the number of rows into a queue."""
    table = simulate_tracks(frames, particles, np.random.default_rng((SEED, frames)))
    table.to_csv(Path(folder) / "particles.csv", index=False, float_format="%.5g")
    (Path(folder) / "summary.json").write_text(json.dumps({"frame_time_s": 0.1, "dose_e_per_A2": 2.0}))
    results.put(len(table))


def measure_command(folder: str, workers: int, results: multiprocessing.Queue) -> None:
    """Analyse a folder as the command does; put seconds of each stage, and peak memory in MB, into a queue."""
    from moirelib.analysis import analyze, read_particles, read_recording, write_analysis

    start = time.perf_counter()
    particles = read_particles(folder)
    reading = time.perf_counter() - start
    analysis = analyze(particles, progress=True, workers=workers, **read_recording(folder))
    out = Path(folder) / "analysis"
    out.mkdir()
    write_analysis(analysis, out, "simulated", progress=True)
    unit = 1024**2 if sys.platform == "darwin" else 1024  # of ru_maxrss, per MB
    peaks = {
        name: resource.getrusage(who).ru_maxrss / unit
        for name, who in (("peak_mb", resource.RUSAGE_SELF), ("worker_peak_mb", resource.RUSAGE_CHILDREN))
    }
    used = os.times()
    cpu = used.user + used.system + used.children_user + used.children_system
    seconds = {"read": reading, **analysis.seconds}
    table = particles.memory_usage(deep=True).sum() / 1e6
    results.put({"seconds": seconds, "total_s": time.perf_counter() - start, "cpu_s": cpu, "table_mb": table, **peaks})


def run_alone(function: Callable, *arguments: Any) -> Any:
    """What a function puts into the queue that is its last argument, from a process of its own."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=function, args=(*arguments, results))
    process.start()
    result = results.get()
    process.join()
    return result


def measure(quick: bool) -> dict[str, float]:
    """All numbers by name."""
    lengths, particles = QUICK if quick else FULL
    numbers: dict[str, float] = {}
    found = []
    for frames in lengths:
        with tempfile.TemporaryDirectory() as folder:
            run_alone(write_tracks, folder, frames, particles)
            found.append(run_alone(measure_command, folder, WORKERS))
        numbers |= {f"pace_{frames}_frames_{key}": value for key, value in found[-1].items() if key != "seconds"}
    short, long = found
    more = lengths[1] / lengths[0]
    for stage, seconds in long["seconds"].items():
        growth = seconds / short["seconds"][stage] / more
        numbers |= {f"pace_{stage}_s": seconds, f"pace_{stage}_growth_per_frame": growth}
    grown = lengths[1] - lengths[0]
    numbers["pace_frames_per_s"] = lengths[1] / long["total_s"]
    numbers["pace_peak_growth_kb_per_frame"] = 1e3 * (long["peak_mb"] - short["peak_mb"]) / grown
    numbers["pace_table_kb_per_frame"] = 1e3 * long["table_mb"] / lengths[1]
    return numbers


def main() -> None:
    """Measure, print, and all of it as JSON in the last line."""
    run(__doc__, analysis_pace=measure)


if __name__ == "__main__":
    main()
