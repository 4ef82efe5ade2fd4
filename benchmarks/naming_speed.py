"""What it costs to tell layers apart, by the number of particles: network, points and cut, lattices; without the fit.

    python benchmarks/naming_speed.py

Two twisted layers with jitter and vacancies, at working sampling; seconds on two threads, and the exponent with which
the cost grows from each number to the next. The last line is the same as JSON.
"""

import json
import time

import numpy as np
import pandas as pd
import torch

from moirelib.crystal import hexagonal_lattice
from moirelib.decomposition import WORKING_DIAMETER, load_weights, predict
from moirelib.decomposition.layer_assignment import assign_layers
from moirelib.decomposition.signed_graph import draw_graph, find_namings, weigh_doubt

NUMBERS = 500, 1000, 2000, 5000, 10000
SPACING, TWIST, JITTER, VACANCIES = 1.35 * WORKING_DIAMETER, 11.0, 0.02, 0.03


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(2)
    model, rows, before = load_weights(device="cpu"), {}, None
    measure(model, NUMBERS[0])  # what is loaded once does not count
    for n in NUMBERS:
        row = rows[n] = measure(model, n)
        row["total_s"] = sum(row.values())
        said = "  ".join(f"{name} {value:.3g}" for name, value in row.items())
        if before:
            said += f"  grows with n to the power of {np.log(row['total_s'] / before[1]) / np.log(n / before[0]):.2f}"
        print(f"{n} particles: {said}", flush=True)
        before = n, row["total_s"]
    print(json.dumps(rows))


def measure(model, n: int) -> dict[str, float]:
    """Seconds of every step."""
    rng = np.random.default_rng(n)
    size = np.sqrt(n / 2 / (1 - VACANCIES) * np.sqrt(3) / 2) * SPACING
    layers = [hexagonal_lattice(SPACING, k * TWIST, (size / 2, size / 2), size) for k in (0, 1)]
    points = np.concatenate(layers)
    points = points[np.all((points > 0) & (points < size), axis=1) & (rng.random(len(points)) > VACANCIES)]
    points += JITTER * SPACING * rng.standard_normal(points.shape)
    table = pd.DataFrame({"y": points[:, 0], "x": points[:, 1], "diameter": np.nan, "score": 0.9, "shown": False})
    table["channel"] = rng.integers(0, 2, len(table))
    frame, seconds = rng.normal(1, 0.1, (round(size),) * 2).astype(np.float32), {}

    def timed(name, step):
        start = time.perf_counter()
        result = step()
        seconds[f"{name}_s"] = time.perf_counter() - start
        return result

    timed("network", lambda: predict(model, frame))
    graph = timed("points", lambda: draw_graph(table, WORKING_DIAMETER)[0])
    namings = timed("cut", lambda: find_namings(graph, 2, np.random.default_rng(0)))
    timed("doubt", lambda: weigh_doubt(graph, namings))
    timed("lattices", lambda: assign_layers(table, WORKING_DIAMETER, layers=2))
    return seconds


if __name__ == "__main__":
    main()
