"""How much longer a decomposition takes beside other busy programs: seconds, and times the quiet run. JSON last.

python benchmarks/busy.py     # QUICK=1: two frames of the sample instead of all
"""

import json
import multiprocessing
import os
import time

import numpy as np

import moirelib

AIM = 2.5  # times the quiet run, beside two busy processes on two cores; a fair share would be 2


def keep_busy() -> None:
    """Use one core until stopped."""
    while True:
        pass


def seconds_beside(busy, frames, pixel_size):
    """Seconds of a decomposition beside a number of busy processes."""
    others = [multiprocessing.Process(target=keep_busy, daemon=True) for _ in range(busy)]
    for process in others:
        process.start()
    start = time.perf_counter()
    moirelib.decompose(frames, pixel_size=pixel_size)
    seconds = time.perf_counter() - start
    for process in others:
        process.terminate()
        process.join()
    return seconds


def main() -> None:
    """Measure and print."""
    movie, _ = moirelib.data.sample()
    count = 2 if os.environ.get("QUICK") == "1" else len(movie)
    frames = np.stack([movie.frame(t) for t in range(count)])
    seconds_beside(0, frames[:1, :128, :128], movie.pixel_size)  # loads weights and libraries
    seconds = {busy: round(seconds_beside(busy, frames, movie.pixel_size), 1) for busy in (0, 1, 2)}
    for busy, value in seconds.items():
        print(f"beside {busy} busy processes: {value:6.1f} s, {value / seconds[0]:.2f} times the quiet run")
    ratio = seconds[2] / seconds[0]
    kept = "kept" if ratio <= AIM else "missed"
    print(f"{os.cpu_count()} cores; the aim of {AIM} beside two is {kept} by {abs(AIM - ratio):.2f}")
    result = {"frames": count, "cores": os.cpu_count(), "seconds": seconds, "ratio_beside_two": round(ratio, 2)}
    print(json.dumps(result))


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    main()
