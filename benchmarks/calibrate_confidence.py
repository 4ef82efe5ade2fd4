"""Fit the two temperatures that calibrate `layer_confidence`, and print how often it is right.

    python benchmarks/calibrate_confidence.py

Simulated points from seeds that were not trained on, of every kind; the number of layers is given. The temperatures are
those of `moirelib.decomposition.layer_assignment`: the first for single particles, the second for regions in which two
layers change places.
"""

import argparse

import numpy as np
import pandas as pd
import torch
from scipy.optimize import linear_sum_assignment, minimize_scalar
from scipy.special import expit

from moirelib.decomposition import cut, draw_points, find_alternatives, load_same_layer, weigh_pairs
from moirelib.decomposition.layer_assignment import REGION_TEMPERATURE, TEMPERATURE
from moirelib.decomposition.same_layer_training import KINDS

SEED = 990
EDGES = [0.5, 0.6, 0.7, 0.8, 0.9, 0.97, 0.99, 1.0]


def main() -> None:
    """Fit, compare with the values in use, and print the reliability of both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=12, help="of each kind and number of layers (default 12)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, particles, regions = load_same_layer(), [], []
    for number, kind in enumerate(KINDS):
        for layers in (2, 3):
            for seed in range(arguments.scenes):
                one, many = judge(model, kind, layers, (SEED, number, layers, seed))
                particles.append(one)
                regions += many
    table = pd.concat(particles, ignore_index=True)
    costs = pd.DataFrame(regions, columns=["cost", "exchanged"])
    single = fit_temperature(table["margin"], table["right"])
    region = fit_temperature(costs["cost"], ~costs["exchanged"].astype(bool))
    print(f"temperatures: {single:.1f} for particles, {region:.1f} for regions")
    print(f"in use: {TEMPERATURE} and {REGION_TEMPERATURE}")
    print(f"{len(table)} particles, {table['right'].mean():.4f} right")
    print(f"{len(costs)} regions, {costs['exchanged'].mean():.4f} exchanged")
    table["says"] = expit(table["margin"] / TEMPERATURE)
    bins = table.groupby(pd.cut(table["says"], EDGES), observed=True)
    print(bins.agg(says=("says", "mean"), right=("right", "mean"), particles=("right", "size")).round(3).to_string())


def judge(model, kind: str, layers: int, seed) -> tuple[pd.DataFrame, list[tuple[float, bool]]]:
    """Margin of every particle and whether it is right; cost of every region and whether its layers changed places."""
    points = draw_points(np.random.default_rng(seed), kind, layers)
    graph, _ = weigh_pairs(model, points.places, points.size, points.channel)
    named = cut(graph, layers, np.random.default_rng(0)).layer
    real = points.layer >= 0
    together = np.zeros((layers, layers))
    np.add.at(together, (named[real], points.layer[real]), 1)
    name = linear_sum_assignment(-together)[1]
    right = name[named] == points.layer
    pull = graph @ np.eye(layers)[named]
    own = pull[np.arange(len(named)), named]
    pull[np.arange(len(named)), named] = -np.inf
    table = pd.DataFrame({"kind": kind, "margin": own - pull.max(axis=1), "right": right})[real]
    regions, seen = [], np.zeros(len(named), bool)
    for one in find_alternatives(graph, named):
        inside = one.region & real
        if not (one.region & seen).any() and inside.any():
            swapped = name[np.where(named == one.layers[0], *one.layers[::-1])] == points.layer
            exchanged = bool(swapped[inside].mean() > 0.5)
            regions.append((one.cost, exchanged))
            seen |= one.region
            if exchanged:  # all wrong together: the region's temperature is fitted to these
                table = table[~one.region[table.index]]
    return table, regions


def fit_temperature(margin, right) -> float:
    """Temperature at which expit(margin / temperature) is the likeliest probability of being right."""
    margin, right = np.asarray(margin, float), np.asarray(right, float)

    def surprise(log_temperature):
        probability = np.clip(expit(margin / np.exp(log_temperature)), 1e-4, 1 - 1e-4)
        return -np.mean(right * np.log(probability) + (1 - right) * np.log(1 - probability))

    return float(np.exp(minimize_scalar(surprise, bounds=(0.0, 7.0), method="bounded").x))


if __name__ == "__main__":
    main()
