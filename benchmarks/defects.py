"""Order and defects compared with simulated truth: lattices, twist, vacancies, dislocations, grain and twin boundaries.

    python benchmarks/defects.py            # a few minutes
    python benchmarks/defects.py --quick    # under 40 seconds

The last line of the output is one JSON object of named numbers. Layers are simulated, scattered, and analysed from
their positions. The seeds are used only here.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
from measuring import run
from scipy.spatial import cKDTree

from moirelib.analysis import find_defects, find_grains, fit_lattice, fit_moire
from moirelib.crystal import hexagonal_lattice, match, moire_period
from moirelib.simulation import Defect, LatticeConfig, Layer, Scene, grain_boundary, random_scene, twin_boundary

SEED = 90210
FIELD = 700.0  # nm
SPACING = 30.0  # nm
NOISE = (0.01, 0.03)  # one-sigma position error per component, in spacings


# --- Truth and scores, also used by whole_road.py ---


def planted(layer: Layer) -> pd.DataFrame:
    """Planted point defects of a layer as a table like that of `moirelib.analysis.find_defects`."""
    rows = [
        (d.kind, *d.position, *(d.burgers if d.kind == "dislocation" else (np.nan, np.nan)))
        for d in layer.defects
        if d.end is None
    ]
    return pd.DataFrame(rows, columns=["kind", "y_nm", "x_nm", "burgers_y_nm", "burgers_x_nm"])


def score_points(found: pd.DataFrame, truth: pd.DataFrame, spacing: float, counts, reach: float = 0.5) -> dict:
    """True positives, misses and false finds of point defects of one kind.

    Parameters
    ----------
    found, truth : pandas.DataFrame
        ``y_nm, x_nm`` and Burgers vectors; a pair counts only if these agree within half a spacing.
    spacing : float
        In nm.
    counts : callable
        Points (n, 2) to bool: positions that count (away from the border of the field and from boundaries).
    reach : float
        Farthest distance of a pair, in spacings.
    """
    points = [table[["y_nm", "x_nm"]].to_numpy(float) for table in (found, truth)]
    vectors = [table[["burgers_y_nm", "burgers_x_nm"]].to_numpy(float) for table in (found, truth)]
    i, j = match(*points, reach * spacing)
    wrong = np.hypot(*(vectors[0][i] - vectors[1][j]).T) > 0.5 * spacing  # False for NaN
    i, j = i[~wrong], j[~wrong]
    seen = np.isin(np.arange(len(points[1])), j)
    right = np.isin(np.arange(len(points[0])), i)
    inside = [counts(p) for p in points]
    return {"tp": int(np.sum(seen & inside[1])), "fn": int(np.sum(~seen & inside[1])),
            "fp": int(np.sum(~right & inside[0]))}  # fmt: skip


def rates(scores) -> dict:
    """Precision and recall of summed scores."""
    tp, fn, fp = (sum(s[k] for s in scores) for k in ("tp", "fn", "fp"))
    return {"precision": tp / max(tp + fp, 1), "recall": tp / max(tp + fn, 1), "n": tp + fn}


def main_boundary(found: pd.DataFrame, truth: Defect, spacing: float) -> pd.Series | None:
    """The longest segment found whose middle lies within two spacings of a planted boundary, or None."""
    start, end = np.array(truth.position), np.array(truth.end)
    along = (end - start) / np.hypot(*(end - start))
    middle = np.stack([found[["y0_nm", "y1_nm"]].mean(axis=1), found[["x0_nm", "x1_nm"]].mean(axis=1)], axis=1)
    across = np.abs((middle - start) @ [along[1], -along[0]]) if len(found) else np.empty(0)
    length = np.hypot(found["y1_nm"] - found["y0_nm"], found["x1_nm"] - found["x0_nm"]).to_numpy()
    length = np.where(across < 2 * spacing, length, 0)
    return found.iloc[length.argmax()] if length.max(initial=0) > 0 else None


# --- Layers ---


def scattered(points, rng, missing: float = 0.0) -> np.ndarray:
    """Positions as measured: some are missing, all have an error."""
    points = points[rng.random(len(points)) >= missing]
    return points + rng.uniform(*NOISE) * SPACING * rng.standard_normal(points.shape)


def single_crystals(count: int, rng):
    """Layers with vacancies, interstitials, dislocations, slow strain and an edge."""
    config = replace(LatticeConfig(), position_std=NOISE, boundary=0.0, dislocations=2.0, single_layer=0.0, layers=1)
    for _ in range(count):
        scene: Scene = random_scene(config, (FIELD, FIELD), rng, SPACING)
        yield scene.layers[0]


def bicrystals(count: int, twin: bool, rng):
    """Positions and truth of layers with one boundary across the field, 1 % of the particles missing."""
    for _ in range(count):
        angle, center = rng.uniform(0, 60), rng.uniform(0.35, 0.65, 2) * FIELD
        if twin:
            points, truth = twin_boundary(SPACING, angle, int(rng.choice([7, 13, 19])), center, FIELD)
        else:
            turn = rng.uniform(5, 30) * rng.choice([-1, 1])
            points, truth = grain_boundary(SPACING, angle, turn, rng.uniform(0, 360), center, FIELD)
        points = points[np.all((points > 0) & (points < FIELD), axis=1)]
        yield scattered(points, rng, missing=0.01), truth


# --- Measurements ---


#: Margin at the border of the field without defects that count, and largest distance of a match, in spacings.
MARGIN = {"vacancy": 1.0, "interstitial": 1.5, "dislocation": 2.0}
REACH = {"vacancy": 0.5, "interstitial": 0.7, "dislocation": 1.5}


def away(points, layer: Layer, margin: float) -> np.ndarray:
    """Which points are a margin (nm) from the field's border and two spacings from the layer's boundaries."""
    inside = np.all((points > margin) & (points < FIELD - margin), axis=1)
    for defect in layer.defects:
        if defect.end is not None and len(points):
            line = np.linspace(defect.position, defect.end, 400)
            inside &= cKDTree(line).query(points)[0] > 2 * layer.spacing
    return inside


def seen(layer: Layer) -> np.ndarray:
    """Positions of the particles whose centres are in the field."""
    return layer.positions[np.all((layer.positions > 0) & (layer.positions < FIELD), axis=1)]


def point_defects(layers) -> dict:
    """Precision and recall of vacancies, dislocations and interstitials away from boundaries."""
    scores: dict = {kind: [] for kind in MARGIN}
    for layer in layers:
        if len(seen(layer)) < 40:
            continue
        found, truth = find_defects(seen(layer)).defects, planted(layer)
        found = found[~found["in_boundary"].astype(bool)]
        for kind, some in scores.items():
            one, other = found[found["kind"] == kind], truth[truth["kind"] == kind]
            margin = MARGIN[kind] * layer.spacing
            counts = partial(away, layer=layer, margin=margin)
            some.append(score_points(one, other, layer.spacing, counts, REACH[kind]))
    return {f"{kind}_{name}": value for kind, some in scores.items() for name, value in rates(some).items()}


def boundaries(count: int, rng) -> dict:
    """Misorientation, twins recognised, plain boundaries called twin."""
    called: dict = {True: [], False: []}
    errors, claims, frank = [], [], []
    for twin in (True, False):
        for points, truth in bicrystals(count, twin, rng):
            found = main_boundary(find_defects(points).boundaries, truth, SPACING)
            right_sigma = found is not None and (not twin or found["sigma"] == truth.sigma)
            called[twin].append(found is not None and found["kind"] == "twin" and right_sigma)
            if found is not None:
                errors.append(found["misorientation_deg"] - truth.misorientation)
                claims.append(found["misorientation_std_deg"])
                if truth.misorientation < 20:
                    frank.append(found["dislocation_spacing_nm"] / found["frank_spacing_nm"])
    errors, claims = np.array(errors), np.array(claims)
    return {
        "boundary_recall": len(errors) / (2 * count),
        "misorientation_rmse_deg": float(np.sqrt(np.mean(errors**2))),
        "misorientation_within_0.1_deg": float(np.mean(np.abs(errors) < 0.1)),
        "misorientation_z": float(np.std(errors / claims)),
        "twin_recall": float(np.mean(called[True])),
        "plain_called_twin": float(np.mean(called[False])),
        "dislocation_spacing_over_frank": float(np.nanmedian(frank)),
    }


def lattices(count: int, rng) -> dict:
    """Errors of spacing, angle, twist and Moiré period, and whether their error bars hold."""
    rows = []
    for _ in range(count):
        angle, twist = rng.uniform(0, 60), rng.uniform(2, 30)
        one, other = SPACING, SPACING * rng.uniform(0.97, 1.03)
        first = hexagonal_lattice(one, angle, (0, 0), 0.5 * FIELD)
        second = hexagonal_lattice(other, angle + twist, rng.uniform(-20, 20, 2), 0.4 * FIELD)
        first, second = (scattered(p, rng, missing=0.02) for p in (first, second))
        fit, moire = fit_lattice(first), fit_moire(first, second)
        turn = (fit.angle - angle + 30) % 60 - 30
        period = moire_period(one, twist, other)
        errors = fit.spacing - one, turn, moire.twist - twist, (moire.period - period) / period
        claims = fit.spacing_std, fit.angle_std, moire.twist_std, moire.period_std / moire.period
        rows.append((*errors, *np.divide(errors, claims)))
    rms = np.sqrt(np.mean(np.square(rows), axis=0))
    names = ["spacing_rmse_nm", "angle_rmse_deg", "twist_rmse_deg", "period_relative_rmse"]
    names += ["spacing_z", "angle_z", "twist_z", "period_z"]
    return dict(zip(names, map(float, rms), strict=True))


def scenes(count: int, rng) -> dict:
    """The same for random scenes with all of it: 5 % scatter, 10 % vacancies, 3 % strain, islands."""
    config = replace(LatticeConfig(), boundary=0.6, twin=0.5, single_layer=0.0)
    layers = [layer for _ in range(count) for layer in random_scene(config, (FIELD, FIELD), rng, SPACING).layers]
    called: dict = {True: [], False: []}
    for layer in layers:
        for defect in layer.defects:
            if defect.end is None or np.hypot(*np.subtract(defect.end, defect.position)) < 8 * layer.spacing:
                continue
            found = main_boundary(find_defects(seen(layer)).boundaries, defect, layer.spacing)
            called[defect.sigma > 0].append(found is not None and found["kind"] == "twin")
    numbers = point_defects(layers)
    numbers |= {"twin_recall": np.mean(called[True]), "plain_called_twin": np.mean(called[False])}
    numbers |= {"twin_n": len(called[True]), "plain_n": len(called[False])}
    return {f"scenes_{name}": value for name, value in numbers.items()}


def perfect_crystals(count: int, rng) -> dict:
    """False finds per layer in crystals without defects, cut off by the field."""
    number = 0
    for _ in range(count):
        points = hexagonal_lattice(SPACING, rng.uniform(0, 60), (FIELD / 2, FIELD / 2), FIELD)
        points = scattered(points[np.all((points > 0) & (points < FIELD), axis=1)], rng)
        number += len(find_defects(points).defects) + find_grains(points).max()
    return {"false_finds_per_perfect_layer": number / count}


def measure(quick: bool) -> dict:
    """All numbers by name."""
    rngs = [np.random.default_rng((SEED, k)) for k in range(5)]
    scale = 1 if quick else 6
    numbers = point_defects(single_crystals(50 * scale, rngs[0]))
    numbers |= boundaries(80 * scale, rngs[1])
    numbers |= lattices(60 * scale, rngs[2])
    numbers |= perfect_crystals(20 * scale, rngs[3])
    numbers |= scenes(15 * scale, rngs[4])
    return {name: float(value) for name, value in numbers.items()}


if __name__ == "__main__":
    run(__doc__, defects=measure)
