"""Long movies: memory, runs that are killed, and what a second process gains; `make bench-movies` runs it in full.

    python benchmarks/long_movies.py [FRAMES]   5,000 frames, or so many

Simulated small frames of two layers stand in for large ones: the way of a frame through the program is the same; 200
large ones are decomposed beside them. The movie lies on disk and is read frame by frame. The command runs in a process
of its own, in which memory is looked at.
The last line is one JSON object of named numbers.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import beer_lambert  # noqa: E402

SEED = 20261130
EDGE, SPACING, DIAMETER, TWIST = 28, 12.0, 8.4, 12.0  # px, px, px, degrees: some 12 particles
PIXEL_SIZE = 2.0  # nm
LARGE_EDGE, LARGE_SCALE = 512, 4  # px; larger than the particles of small frames: some 230
FRAMES, LARGE_FRAMES, CLUSTER_FRAMES = 5000, 200, 60
AFTER = 100  # frames, after which memory is to be flat
KILLS = 3  # and one before them
LEFT = 300  # frames, in which the kills are
KEPT = "unfinished"  # folder of finished frames, in that of the results
PATIENCE = 0.5  # s between two looks at a process


def write_movie(path: Path, frames: int, edge: int, rng: np.random.Generator, scale: float = 1) -> Path:
    """A simulated movie on disk, written frame by frame: two layers that drift slowly and vibrate."""
    from moirelib.movies import write_layer_movie

    spacing, diameter, pixel_size = scale * SPACING, scale * DIAMETER, PIXEL_SIZE / scale
    layers = beer_lambert.make_specimen(rng, edge, spacing, diameter, TWIST, 0.01, 0.0, False, edge + 2 * diameter)
    light = beer_lambert.slow_light(rng, edge, 0.1)

    def film():
        for t in range(frames):
            drift = 0.5 * edge * np.array([np.sin(t / 50), np.cos(t / 70)])
            now = [points + drift + 0.02 * spacing * rng.standard_normal(points.shape) for points in layers]
            seen = beer_lambert.expose(rng, now, diameter, edge, "sphere", 0.9, 0.06, 120.0, 1.5, light)[0]
            yield np.clip(seen, 0, 255).astype(np.uint8)

    write_layer_movie(path, film(), pixel_size, 0.1)
    return path


def list_finished(folder: Path) -> list[Path]:
    """Files of the frames that are kept; at its end the command deletes them."""
    try:
        return [file for file in folder.iterdir() if re.fullmatch(r"frame-\d+\.parquet", file.name)]
    except FileNotFoundError:
        return []


class Run:
    """`moirelib decompose` of a movie in a process of its own."""

    def __init__(self, movie: Path, out: Path):
        command = [sys.executable, "-m", "moirelib", "decompose", str(movie), "--out", str(out), "--device", "cpu"]
        command += ["--diameter", str(DIAMETER * PIXEL_SIZE)]
        self.kept, self.memory = out / KEPT, []
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def wait(self, finished: float = np.inf) -> None:
        """Wait until so many frames are finished, or for the end; memory (MB) is looked at meanwhile."""
        process = psutil.Process(self.process.pid)
        while self.process.poll() is None:
            done = len(list_finished(self.kept))
            try:
                self.memory.append((done, process.memory_info().rss / 1e6))
            except psutil.NoSuchProcess:
                break
            if done >= finished:
                return
            time.sleep(PATIENCE)
        if self.process.wait() != 0:
            raise RuntimeError(f"the command failed ({self.process.returncode})")

    def kill(self) -> None:
        """End it at once, as by SIGKILL."""
        self.process.kill()
        self.process.wait()


def measure_memory_and_kills(frames: int, edge: int) -> dict:
    """One movie run to its end, and again from what a kill shortly before its end leaves, with more kills after it."""
    left = min(LEFT, frames // 2)
    with tempfile.TemporaryDirectory() as folder:
        movie = write_movie(Path(folder, "movie.tif"), frames, edge, np.random.default_rng(SEED))
        whole, killed = Path(folder, "whole"), Path(folder, "killed")
        numbers = measure_memory(movie, whole, frames, frames - left, killed)
        again = kill_and_go_on(movie, killed, frames, left)
        names = sorted({file.name for out in (whole, killed) for file in out.iterdir()})
        differ = [name for name in names if read_bytes(whole / name) != read_bytes(killed / name)]
    return numbers | {
        "killed_times": 1 + KILLS,
        "killed_files": len(names),
        "killed_files_that_differ": len(differ),
        "killed_frames_computed_again": again,
    }


def measure_large(frames: int) -> dict:
    """Memory of a movie of large frames, at most."""
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng((SEED, 3))
        movie = write_movie(Path(folder, "movie.tif"), frames, LARGE_EDGE, rng, LARGE_SCALE)
        run = Run(movie, Path(folder, "out"))
        run.wait()
    done, memory = np.array(run.memory).T
    first = memory[int(np.argmax(done >= 2))]
    return {"large_frames": frames, "large_mb_at_frame_2": float(first), "large_peak_mb": float(memory.max())}


def measure_memory(movie: Path, out: Path, frames: int, copied_at: int, copy: Path) -> dict:
    """Memory after `AFTER` frames, when the last one is computed, and at most, through the last steps.

    When ``copied_at`` frames are finished, the folder is copied: that is what SIGKILL leaves at that moment.
    """
    run, start = Run(movie, out), time.perf_counter()
    run.wait(copied_at)
    shutil.copytree(run.kept, copy / KEPT)
    run.wait()
    seconds = time.perf_counter() - start
    rows = sum(1 for _ in Path(out, "particles.csv").open()) - 1
    done, memory = np.array(run.memory).T  # in the order of time: at its end the command deletes the finished frames
    after = min(AFTER, frames // 2)
    begun, finished = (int(np.argmax(done >= n)) for n in (after, min(frames, done.max())))
    at, end, highest = float(memory[begun]), float(memory[finished]), float(memory.max())
    return {
        "long_frames": frames,
        "long_particles": rows,
        "long_s_per_frame": seconds / frames,
        f"long_mb_at_frame_{after}": at,
        "long_mb_at_last_frame": end,
        "long_growth": end / at - 1,
        "long_peak_mb": highest,  # through the last steps
        "long_peak_growth": highest / at - 1,
    }


def kill_and_go_on(movie: Path, out: Path, frames: int, left: int) -> int:
    """Go on with the last frames through `KILLS` kills; finished frames that were computed again."""
    again = 0
    for k in range(KILLS):
        before = {file: file.stat().st_mtime_ns for file in list_finished(out / KEPT)}
        run = Run(movie, out)
        run.wait(frames - left + left * (k + 1) // (KILLS + 1))
        run.kill()
        again += sum(file.stat().st_mtime_ns != when for file, when in before.items())
    Run(movie, out).wait()
    return again


def read_bytes(file: Path) -> bytes | None:
    """Bytes of a file; None where it is not there."""
    return file.read_bytes() if file.is_file() else None


def measure_processes(frames: int, edge: int) -> dict:
    """How many times as fast two processes of a Dask cluster are as one; a quiet machine is needed."""
    from dask.distributed import LocalCluster

    from moirelib import decompose, read_movie

    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        path = write_movie(Path(folder, "movie.tif"), frames, edge, np.random.default_rng((SEED, 2)))
        movie = read_movie(path)
        for workers in (1, 2):
            with LocalCluster(
                n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=":0"
            ) as cluster:
                where = {"diameter": DIAMETER * PIXEL_SIZE, "device": cluster.scheduler_address}
                decompose(movie.data[: 4 * workers], PIXEL_SIZE, **where)  # until all workers have loaded all
                start = time.perf_counter()
                decompose(movie, **where)
                seconds.append(time.perf_counter() - start)
    return {
        "cluster_frames": frames,
        "cluster_one_process_s": seconds[0],
        "cluster_two_processes_s": seconds[1],
        "cluster_two_over_one": seconds[0] / seconds[1],
    }


def measure(frames: int = FRAMES) -> dict:
    """All numbers by name."""
    parts = {
        "memory and kills": lambda: measure_memory_and_kills(frames, EDGE),
        "large frames": lambda: measure_large(min(LARGE_FRAMES, frames)),
        "processes": lambda: measure_processes(min(CLUSTER_FRAMES, frames), EDGE),
    }
    numbers: dict = {}
    for name, part in parts.items():
        numbers |= part()
        print(f"long movies: {name} done", file=sys.stderr)
    return numbers


if __name__ == "__main__":
    found = measure(*map(int, sys.argv[1:]))
    for key, value in found.items():
        print(f"  {key:40} {value:.4g}")
    print(json.dumps(found))
