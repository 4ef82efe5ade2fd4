"""How precisely sizes and places are measured: moirelib beside trackpy, the network's masks and Gaussian fits.

    python benchmarks/precision.py              an hour
    QUICK=1 python benchmarks/precision.py      one small scene of every family and simulator

Simulated scenes of two layers of like particles, in two simulators that share no code: moirelib's own (multislice,
liquid, camera) and the tests' Beer-Lambert one. The bound is that of `moirelib.validation.cramer_rao_bound`: all
positions and diameters of the scene unknown at once. Errors are along one axis, of particles away from the border.
The last line is one JSON object.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import trackpy
from measuring import run
from scipy.ndimage import gaussian_filter

import moirelib
from moirelib.crystal import match
from moirelib.decomposition import WORKING_DIAMETER, load_weights, locate, predict, resample
from moirelib.simulation import (
    CameraConfig,
    LatticeConfig,
    Lens,
    LiquidConfig,
    camera_mtf,
    clean_image,
    expected_electrons,
    liquid_background,
    particle_mask,
    random_scene,
    record,
)
from moirelib.validation import cramer_rao_bound

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import beer_lambert

SEED = 40  # first number of every scene's seed
PIXEL_SIZE = 1.367  # nm, of the published recipe
SOFT = (8.0, 10.0)  # px, radius of the published recipe's disk
SIZE, QUICK_SIZE, SCENES = 384, 224, 5  # px, px, scenes of a family
TWIST = (5.0, 25.0)  # degrees
ALONE = 1.0  # diameters to the nearest other particle, from which one counts as alone
FAMILIES = ("soft rods", "blurred rods", "spheres", "spheres, a third of the dose")
METHODS = ("moirelib", "trackpy", "mask", "gaussian")


@dataclass(frozen=True)
class Scene:
    """One frame, its truth, and what a simulator expects of particles at other places. Lengths in px."""

    frame: np.ndarray  # (y, x)
    masks: np.ndarray  # (2, y, x), covered share of each pixel
    truth: pd.DataFrame  # layer, y, x, diameter of all particles that show in the frame
    expect: Callable[[np.ndarray, np.ndarray], np.ndarray]
    readout: float  # electrons
    mtf: Callable[[np.ndarray], np.ndarray] | None = None


def measure(quick: bool) -> dict:
    """Scores of every family in both simulators."""
    numbers: dict = {}
    for family in FAMILIES:
        for name, draw in (("ours", draw_ours), ("beer_lambert", draw_beer_lambert)):
            size, scenes = (QUICK_SIZE, 1) if quick else (SIZE, SCENES)
            rows = [score(draw(family, np.random.default_rng((SEED, k)), size)) for k in range(scenes)]
            numbers |= {f"{family} {name} {key}": float(np.mean([row[key] for row in rows])) for key in rows[0]}
    return numbers


def draw_beer_lambert(family: str, rng, size: int) -> Scene:
    """A scene of the tests' simulator."""
    rods, diameter = family.endswith("rods"), rng.uniform(24.0, 34.0)
    shape, absorption = ("rod", rng.uniform(1.0, 2.0)) if rods else ("sphere", 1.0)
    soft = rng.uniform(*SOFT) if family == "soft rods" else 0.0
    blur = {"soft rods": 0.02, "blurred rods": 0.12}.get(family, 0.06)
    electrons, readout = 260.0 / (3 if family.endswith("dose") else 1), 5.0
    specimen = beer_lambert.make_specimen(rng, size, diameter / 0.72, diameter, rng.uniform(*TWIST), 0.02, 0.03, True)
    light, layer = beer_lambert.slow_light(rng, size, 0.15), np.repeat([1, 2], [len(points) for points in specimen])

    def expect(positions, diameters):
        samples, passed = 4, 0.0
        for k in (1, 2):
            own = layer == k
            height = beer_lambert.thickness_map(positions[own], diameters[own], shape, size, samples)
            passed = passed + absorption * height / (diameter if shape == "sphere" else 1.0)
        if soft:
            passed = beer_lambert.average_over_disk(passed, soft * samples)
        seen = gaussian_filter(np.exp(-passed), blur * diameter * samples)
        return electrons * light * seen.reshape(size, samples, size, samples).mean(axis=(1, 3))

    points, widths = np.concatenate(specimen), np.full(len(layer), diameter)
    frame = rng.poisson(expect(points, widths)) + readout * rng.standard_normal((size, size))
    masks = np.stack([beer_lambert.thickness_map(some, diameter, shape, size, 4) > 0 for some in specimen])
    masks = masks.reshape(2, size, 4, size, 4).mean(axis=(2, 4))
    truth = pd.DataFrame(points, columns=["y", "x"]).assign(layer=layer, diameter=widths)
    return Scene(frame, masks, truth, expect, readout)


def draw_ours(family: str, rng, size: int) -> Scene:
    """A scene of moirelib's simulator, with the published microscope and camera."""
    if family.endswith("rods"):
        config = replace(LatticeConfig.published(), twist_angle=TWIST)
    else:
        config = replace(LatticeConfig(), shapes=("sphere",), spacing=(40.0, 55.0), diameter_ratio=(0.65, 0.8))
        config = replace(config, twist_angle=TWIST, single_layer=0.0)
    specimen = random_scene(config, (size * PIXEL_SIZE,) * 2, rng)
    disk, soft = PIXEL_SIZE * rng.uniform(*SOFT), family == "soft rods"
    specimen = replace(specimen, soft=disk if soft else 0.0)
    liquid = replace(LiquidConfig.published(), disk_blur=disk if family == "blurred rods" else 0.0, blur=2.0)
    camera, lens = CameraConfig.published(), Lens()
    camera = replace(camera, dose=camera.dose / (3 if family.endswith("dose") else 1))
    background = liquid_background((size, size), PIXEL_SIZE, liquid, rng)
    counts = np.cumsum([len(layer) for layer in specimen.layers])[:-1]

    def clean(positions, diameters):
        parts = zip(specimen.layers, np.split(positions, counts), np.split(diameters, counts), strict=True)
        layers = tuple(
            replace(one, positions=(at + 0.5) * PIXEL_SIZE, diameters=d * PIXEL_SIZE) for one, at, d in parts
        )
        return clean_image(replace(specimen, layers=layers), PIXEL_SIZE, None, lens, 35.0, liquid.liquid_mean_free_path)

    def expect(positions, diameters):
        return expected_electrons(clean(positions, diameters), PIXEL_SIZE, liquid, camera, background)

    points = np.concatenate([layer.positions for layer in specimen.layers]) / PIXEL_SIZE - 0.5
    widths = np.concatenate([layer.diameters for layer in specimen.layers]) / PIXEL_SIZE
    frame = record(clean(points, widths), PIXEL_SIZE, liquid, camera, rng, background)
    masks = np.stack([particle_mask(specimen, k, PIXEL_SIZE) for k in (1, 2)])
    layer = np.repeat([1, 2], [len(one) for one in specimen.layers])
    truth = pd.DataFrame(points, columns=["y", "x"]).assign(layer=layer, diameter=widths)
    return Scene(frame, masks, truth, expect, camera.readout_noise, lambda k: camera_mtf(k, camera.mtf))


def score(scene: Scene) -> dict:
    """Errors of every method, over the bound, and of our sizes and outlines."""
    truth, size = scene.truth, scene.frame.shape[0]
    diameter = float(truth["diameter"].median())
    shows = truth[["y", "x"]].apply(lambda c: c.between(-diameter, size + diameter)).all(axis=1)
    bound = cramer_rao_bound(scene.expect, truth[["y", "x"]], truth["diameter"], scene.readout, scene.mtf, reach=1.2)[
        ["y_std", "x_std"]
    ].mean(axis=1)
    truth = truth.assign(bound=bound)[shows]
    start = time.perf_counter()
    result = moirelib.decompose(scene.frame, pixel_size=1.0, device="cpu")
    seconds = time.perf_counter() - start
    ours = result.particles
    inner = truth[["y", "x"]].apply(lambda c: c.between(diameter / 2, size - diameter / 2)).all(axis=1).to_numpy()
    row: dict = {"particles": int(inner.sum()), "seconds": seconds}
    for name in METHODS:
        found = ours if name == "moirelib" else find_by(name, scene, diameter)
        i, j = match(found[["y", "x"]], truth[["y", "x"]], 0.3 * diameter)
        i, j = i[inner[j]], j[inner[j]]
        error = found[["y", "x"]].to_numpy()[i] - truth[["y", "x"]].to_numpy()[j]
        each = np.sqrt((error**2).mean(axis=1))
        row |= {
            f"{name} found": len(i) / inner.sum(),
            f"{name} rmse_px": float(np.sqrt((error**2).mean())),
            f"{name} rmse_over_bound": float(np.median(each / truth["bound"].to_numpy()[j])) / np.sqrt(np.log(2)),
        }
        if name == "moirelib":
            std = ours[["y_std_nm", "x_std_nm"]].to_numpy()[i]
            z = np.abs(error / std)
            row["moirelib z"] = float(np.median(z) / 0.6745)
            ratio = ours["diameter_nm"].to_numpy()[i] / truth["diameter"].to_numpy()[j]
            row["moirelib diameter_bias"] = float(np.median(ratio)) - 1
    iou, accuracy = score_masks(result, scene)
    return row | {"moirelib mask_iou": iou, "moirelib pixel_accuracy": accuracy}


def score_masks(result, scene) -> tuple[float, float]:
    """Intersection over union of the layer movies with the true masks, and share of right pixels."""
    drawn = np.asarray(result.layers[0])[:2] / 255 > 0.5
    scores = []
    for order in ((0, 1), (1, 0)):
        true, own = scene.masks > 0.5, drawn[list(order)]
        scores.append(((true & own).sum() / (true | own).sum(), (true == own).mean()))
    return max(scores)


def find_by(name: str, scene: Scene, diameter: float) -> pd.DataFrame:
    """Places ``y, x`` (px) by another method; particles are dark."""
    dark = scene.frame.max() - scene.frame.astype(float)
    size = 2 * int(diameter / 2) + 1
    if name == "mask":
        zoom = WORKING_DIAMETER / diameter
        shape = [round(n * zoom) for n in scene.frame.shape]
        _, centers = predict(load_weights(device="cpu"), resample(scene.frame.astype(np.float32), shape))
        found = locate(centers, WORKING_DIAMETER)
        zooms = np.array(shape) / scene.frame.shape
        return pd.DataFrame((found[["y", "x"]].to_numpy() + 0.5) / zooms - 0.5, columns=["y", "x"])
    trackpy.quiet()
    found = trackpy.locate(dark, size, separation=0.4 * diameter)
    if name == "trackpy":
        return found
    start = found[["y", "x"]].assign(size=diameter / 4, signal=np.ptp(dark) / 2, background=np.median(dark))
    fitted = trackpy.refine_leastsq(start, dark, size, fit_function="gauss", param_mode={"size": "const"})
    return fitted.dropna(subset=["y", "x"])


if __name__ == "__main__":
    run(__doc__, precision=measure)
