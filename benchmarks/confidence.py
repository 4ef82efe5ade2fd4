"""How often `layer_confidence` is right, on simulated frames that moirelib takes apart itself.

    python benchmarks/confidence.py

Scenes of the benchmark's simulated families, from seeds of their own. Every found particle that lies within 0.3
diameters of a true one counts; names may be exchanged once a frame.
"""

import argparse
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

import pandas as pd
import torch
from families import FAMILIES, make_problem
from tqdm import tqdm

import moirelib
from moirelib.crystal import match

SEED = 31415
EDGES = [0.5, 0.7, 0.9, 0.99, 1.0]
SUMS = {"says": ("confidence", "mean"), "right": ("right", "mean"), "particles": ("right", "size")}


def main() -> None:
    """Take scenes apart in two processes; print the confidence of their particles and how often the layer is right."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=6, help="of each family (default 6)")
    parser.add_argument("--seed", type=int, default=SEED, help=f"default {SEED}; use 990 while developing")
    arguments = parser.parse_args()
    simulated = [name for name, config in FAMILIES.items() if config is not None]
    jobs = [(arguments.seed, name, i) for i in range(arguments.scenes) for name in simulated]
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(2, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        futures = [pool.submit(judged, *job) for job in jobs]
        tables = [future.result() for future in tqdm(as_completed(futures), total=len(jobs), unit="scene")]
    table = pd.concat(tables)
    bins = pd.cut(table["confidence"], EDGES, right=False)  # never 1, see `Evidence.ceiling`
    print(table.groupby(bins, observed=True).agg(**SUMS).round(4).to_string())
    print("\nparticles with a confidence of 0.9 or more:")
    sure = table[table["confidence"] >= 0.9]
    print(sure.groupby("family", sort=False).agg(**SUMS).reindex(simulated).round(4).to_string())
    shares = sure.groupby(["family", "scene"])["right"].mean()
    print(f"\nframes where less than nine of ten of these are right: {(shares < 0.9).sum()} of {len(shares)}")


def judged(seed: int, family: str, index: int) -> pd.DataFrame:
    """Confidence of every matched particle of one frame, and whether its layer is right."""
    number = list(FAMILIES).index(family) + 1
    problem = make_problem(family, FAMILIES[family], seed, number, index)
    found = moirelib.decompose(problem.frame, pixel_size=problem.pixel_size).particles
    truth, reach = problem.truth, 0.3 * problem.diameter
    best = None
    for named in (found["layer"], 3 - found["layer"]):
        # Of two true particles in reach, the one of the same layer is taken.
        other = named.to_numpy()[:, None] != truth["layer"].to_numpy()
        i, j = match(found[["y_nm", "x_nm"]], truth[["y_nm", "x_nm"]], reach, reach * other)
        right = ~other[i, j]
        if best is None or right.sum() > best["right"].sum():
            confidence = found["layer_confidence"].to_numpy()[i]
            best = pd.DataFrame({"family": family, "scene": index, "confidence": confidence, "right": right})
    return best


if __name__ == "__main__":
    main()
