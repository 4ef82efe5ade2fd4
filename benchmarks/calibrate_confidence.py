"""Fit the two constants that calibrate `layer_confidence`, and print how often it is right.

Scenes of development seeds; their true positions get the errors of the fit to the frame, or of the network alone.
The two numbers printed first guide those of `moirelib.decomposition.Evidence`, whose head start is held lower: scenes
harder than these would be overclaimed with all of it.
"""

import argparse
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.optimize import minimize
from scipy.special import expit, logit

from moirelib.decomposition import Evidence, assign_layers
from moirelib.simulation import LatticeConfig, random_scene, truth_table

DIAMETER = 12.0  # pixels
CONFIGS = {
    "published recipe": LatticeConfig.published(),
    "library": LatticeConfig(),
    "spheres 3-30°": replace(LatticeConfig(), shapes=("sphere",), twist_angle=(3.0, 30.0)),
    "spheres 1-3°": replace(LatticeConfig(), shapes=("sphere",), twist_angle=(1.0, 3.0)),
    "dense vacancies": replace(LatticeConfig(), vacancies=(0.1, 0.3)),
}


def main() -> None:
    """Collect, fit, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=60, help="scenes of each family (default 60)")
    parser.add_argument("--seed", type=int, default=990, help="first number of the seeds (default 990: development)")
    arguments = parser.parse_args()
    uncalibrated = replace(Evidence(), head_start=0.0, temperature=1.0, ceiling=1 - 1e-9)
    seeds = ((arguments.seed, family, i) for family in range(len(CONFIGS)) for i in range(arguments.scenes))
    table = pd.concat(judged(seed, uncalibrated) for seed in seeds)
    unsure = table[table["confidence"] != 0.5]
    log_odds, right = logit(unsure["confidence"].to_numpy()), unsure["right"].to_numpy()

    def confidence(parameters):
        return np.minimum(expit(parameters[0] + log_odds / parameters[1]), Evidence.ceiling)

    def surprise(parameters):
        return -np.mean(np.log(np.where(right, confidence(parameters), 1 - confidence(parameters))))

    head_start, temperature = best = minimize(surprise, [0.0, 1.0], method="Nelder-Mead").x
    print(f"head_start {head_start:.2f}, temperature {temperature:.2f}")
    calibrated = unsure.assign(confidence=confidence(best))
    edges = [0.5, 0.501, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.995, 1.0]
    bins = calibrated.groupby(pd.cut(calibrated["confidence"], edges, right=False), observed=True)
    columns = {"says": ("confidence", "mean"), "right": ("right", "mean"), "particles": ("right", "size")}
    print(bins.agg(**columns).round(4).to_string())


def judged(seed, evidence) -> pd.DataFrame:
    """Confidence of every true particle of one scene and whether its layer is right (names exchanged once at most)."""
    rng = np.random.default_rng(seed)
    config, side = list(CONFIGS.values())[seed[1]], rng.uniform(10, 30) * 50.0
    scene = random_scene(config, (side, side), rng, 50.0)
    found = disturbed(scene, fitted=seed[2] % 2 == 0, rng=rng)
    named, _ = assign_layers(found, DIAMETER, evidence)
    named = named[named["truth"] > 0]
    right = (named["layer"] == named["truth"]).to_numpy()
    return pd.DataFrame({"confidence": named["layer_confidence"], "right": right if right.mean() >= 0.5 else ~right})


def disturbed(scene, fitted: bool, rng) -> pd.DataFrame:
    """True particles with noise, misses, false finds, and channels that are partly wrong or swapped."""
    noise, missed, false, flipped = (0.015, 0.01, 0.01, 0.05) if fitted else (0.04, 0.04, 0.03, 0.1)
    pixel = float(np.mean(scene.layers[0].diameters)) / DIAMETER
    field, spacing = np.array(scene.field) / pixel, scene.layers[0].spacing / pixel
    truth = truth_table(scene, pixel)
    truth = truth[rng.random(len(truth)) >= missed]
    extra = rng.uniform(0, 1, (rng.binomial(len(truth), false), 2)) * field
    points = np.concatenate([truth[["y", "x"]] + noise * DIAMETER * rng.standard_normal((len(truth), 2)), extra])
    layer = np.concatenate([truth["layer"], np.zeros(len(extra), int)])
    waves = gaussian_filter(rng.standard_normal((40, 40)), 1.6)
    swapped = map_coordinates(waves, points.T / (rng.uniform(6, 10) * spacing / 4) + 4, order=1, mode="reflect") > 0
    channel = (layer == 2) ^ swapped ^ (rng.random(len(layer)) < flipped)
    table = pd.DataFrame({"channel": channel.astype(int), "y": points[:, 0], "x": points[:, 1], "truth": layer})
    return table.assign(score=0.9, shown=False, diameter=np.nan)


if __name__ == "__main__":
    main()
