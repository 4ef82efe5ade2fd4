"""One scene of the layer benchmark, taken apart by several methods, for the pictures of chapters 5 and 6.

    python benchmarks/example.py --out data/bench_example.npz

The scene is the first of its family, not a selected one. The file holds a part of the frame, the true masks
and those of every method, in the layer order that fits the whole frame better, and, in ``about``, the scene and the
scores as JSON; `moirelib.data.benchmark_example` reads it. Networks have to be trained first: see `networks.py`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from compare_methods import ALONE, METHODS, OURS, SEED, head
from families import FAMILIES, make_problem

from moirelib.validation import score_layers

FAMILY, INDEX = "spheres", 0
SHOWN = "published U-Net", "two decoders, soft minimum", "fixed channels", ALONE, "Bragg filtering", OURS
PART = slice(128, 384)  # px along both axes


def named(masks, truth) -> np.ndarray:
    """Masks in the layer order that overlaps more with the true ones."""
    return max((masks, masks[::-1]), key=lambda order: float(np.sum(order * (truth > 0))))


def make_example() -> dict:
    """Arrays of the file; masks are uint8, 255 = covered."""
    number = list(FAMILIES).index(FAMILY) + 1
    problem = make_problem(FAMILY, FAMILIES[FAMILY], SEED, number, INDEX)
    field = np.array(problem.frame.shape) * problem.pixel_size
    arrays, scores = {"frame": problem.frame[PART, PART], "truth": problem.masks[:, PART, PART]}, {}
    for method in SHOWN:
        masks, particles = METHODS[method](problem.frame, problem.pixel_size, problem.diameter, problem.truth)
        found = particles.assign(frame=0)
        scores[method] = score_layers(found, masks, problem.truth, problem.masks, problem.diameter, field)
        part = named(masks, problem.masks)[:, PART, PART]
        arrays[method] = np.rint(255 * np.clip(part, 0, 1)).astype(np.uint8)
        print(f"{method}: F1 {scores[method]['f1']:.3f}, mask IoU {scores[method]['mask_iou']:.3f}", flush=True)
    about = {"family": FAMILY, "seed": (SEED, number, INDEX), "pixel_size": problem.pixel_size, "scores": scores}
    about["particles"] = problem.truth["layer"].value_counts().sort_index().tolist()
    arrays["about"] = np.array(json.dumps(about | {"command": "benchmarks/example.py", "commit": head()}))
    return arrays


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="data/bench_example.npz for the book")
    out = parser.parse_args().out
    np.savez_compressed(out, **make_example())
    print(f"{out}: {out.stat().st_size / 1000:.0f} kB")
