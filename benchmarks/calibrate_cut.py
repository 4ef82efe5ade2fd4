"""Fit the temperature that calibrates the confidence of `signed_graph`; print how often it is right.

    python benchmarks/calibrate_cut.py

Simulated points of two layers from seeds that were not trained on, of every kind.
"""

import argparse

import numpy as np
import pandas as pd
import torch
from scipy.optimize import minimize_scalar
from scipy.special import expit

from moirelib.decomposition import cut, draw_points, load_same_layer, weigh_pairs
from moirelib.decomposition.same_layer_training import KINDS
from moirelib.decomposition.signed_graph import TEMPERATURE

SEED = 990
EDGES = [0.5, 0.6, 0.7, 0.8, 0.9, 0.97, 0.99, 1.0]


def main() -> None:
    """Fit, compare with the value in use, and print its reliability."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=12, help="of each kind (default 12)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = load_same_layer()
    seeds = [(SEED, number, k) for number in range(len(KINDS)) for k in range(arguments.scenes)]
    table = pd.concat([judge(model, KINDS[seed[1]], seed) for seed in seeds], ignore_index=True)
    print(f"temperature {fit_temperature(table['margin'], table['right']):.1f}, in use {TEMPERATURE}")
    print(f"{len(table)} particles, {table['right'].mean():.4f} right")
    table["says"] = expit(table["margin"] / TEMPERATURE)
    bins = table.groupby(pd.cut(table["says"], EDGES), observed=True)
    print(bins.agg(says=("says", "mean"), right=("right", "mean"), particles=("right", "size")).round(3).to_string())


def judge(model, kind: str, seed) -> pd.DataFrame:
    """Margin of every particle, and whether it is in its layer (names may be exchanged)."""
    points = draw_points(np.random.default_rng(seed), kind, 2)
    graph, _ = weigh_pairs(model, points.places, points.size)
    named = cut(graph, 2, np.random.default_rng(0))
    pull, right = graph @ np.where(named == 0, 1.0, -1.0), named == points.layer
    real = points.layer >= 0
    right = right if right[real].mean() >= 0.5 else ~right
    return pd.DataFrame({"margin": np.where(named == 0, pull, -pull), "right": right})[real]


def fit_temperature(margin, right) -> float:
    """Temperature at which expit(margin / temperature) is the likeliest probability of being right."""
    margin, right = np.asarray(margin, float), np.asarray(right, float)

    def surprise(log_temperature):
        probability = np.clip(expit(margin / np.exp(log_temperature)), 1e-4, 1 - 1e-4)
        return -np.mean(right * np.log(probability) + (1 - right) * np.log(1 - probability))

    return float(np.exp(minimize_scalar(surprise, bounds=(0.0, 7.0), method="bounded").x))


if __name__ == "__main__":
    main()
