"""How well layers are told apart: `moirelib.decompose` on the scenes of `layer_scenes.py`, family by family.

    python benchmarks/layers_told_apart.py --seeds 0:30 --workers 2     hours
    QUICK=1 python benchmarks/layers_told_apart.py                      one scene of every family, some minutes

Every scene's row is kept in a file of JSON lines under family, simulator, seed and a tag of the code, so a run that was
stopped goes on. ``oracle`` is what would be reached if every find were given its true layer: the gap to it can still be
won. The last line is one JSON object, {family: {simulator: {metric: mean}}}.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import multiprocessing
import os
import re
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from families import real_frame
from layer_scenes import FAMILIES, SEMI_REAL, SIMULATORS, draw_scene
from scipy.spatial import cKDTree

import moirelib
from moirelib.crystal import match
from moirelib.decomposition import WORKING_DIAMETER, load_weights, locate, predict, resample
from moirelib.decomposition.particle_size import estimate_size_and_polarity, find_working_shape
from moirelib.validation import score_particles

METRICS = "f1 f1_agnostic f1_oracle assignment layers true_layers diameter_ratio confidence".split()
METRICS += "recall recall_close false s".split()
CLOSE = 0.15  # diameters, of two true particles that lie nearly upon each other
MATCHING_RADIUS = 0.3  # diameters, of a find from its particle; as in the other benchmarks
TENTHS = 10  # of the stated confidence
FEWEST = 100  # particles in a tenth, for its true share to be known to some 0.03


def main() -> None:
    """Score what is not scored yet; print the table and JSON."""
    args = arguments()
    tag = args.tag or code_tag()
    jobs = [(f, s, k) for k in args.seeds for f in at_hand(args.families) for s in simulators(f, args)]
    rows = read_rows(args.rows, tag)
    run([job for job in jobs if job not in rows or lacks_points(args.points, job)], rows, tag, args)
    rows = [rows[job] for job in jobs if job in rows]
    for family in dict.fromkeys(row["family"] for row in rows):
        print_family([row for row in rows if row["family"] == family])
    print("\nall families")
    print_calibration(rows)
    names = dict.fromkeys((row["family"], row["simulator"]) for row in rows)
    table: dict = {}
    for family, simulator in names:
        own = [row for row in rows if (row["family"], row["simulator"]) == (family, simulator)]
        table.setdefault(family, {})[simulator] = mean_of(own)
    print(json.dumps(table, ensure_ascii=False))


def arguments():
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    quick = os.environ.get("QUICK", "0") == "1"
    parser.add_argument("--quick", action="store_true", default=quick, help="one scene of every family")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=tuple(FAMILIES))
    parser.add_argument("--simulator", choices=SIMULATORS, help="only this one")
    parser.add_argument("--seeds", type=as_range, help="FIRST:END (default 0:30, quick 0:1)")
    parser.add_argument("--workers", type=int, default=2)
    rows = Path(__file__).parents[1] / "_build" / "layers-told-apart.jsonl"
    parser.add_argument("--rows", type=Path, default=rows, help="file of JSON lines where rows are kept")
    parser.add_argument("--tag", help="of the code; a hash of moirelib, weights and scenes by default")
    parser.add_argument("--points", type=Path, help="also write detections, particles and truth as .npz here")
    args = parser.parse_args()
    args.seeds = args.seeds or as_range("0:1" if args.quick else "0:30")
    return args


def at_hand(families) -> list[str]:
    """The families that can be drawn: the semi-real one needs the real frame."""
    families = list(families)
    if SEMI_REAL in families:
        try:
            real_frame()
        except OSError as error:
            print(f"{SEMI_REAL} left out:", error)
            families.remove(SEMI_REAL)
    return families


def as_range(text: str) -> range:
    """FIRST:END as a range."""
    return range(*map(int, text.split(":")))


def simulators(family, args) -> tuple[str, ...]:
    """By which simulators a family is drawn; the semi-real one is a product of real frames."""
    if family == SEMI_REAL:
        return ("product",)
    if args.simulator:
        return (args.simulator,)
    turn = list(FAMILIES).index(family) % len(SIMULATORS)
    return SIMULATORS[turn : turn + 1] if args.quick else SIMULATORS


def code_tag() -> str:
    """Hash of all that a row depends on."""
    package, here = Path(moirelib.__file__).parent, Path(__file__).parent
    files = [*package.rglob("*.py"), *package.parent.glob("data/*.safetensors")]
    files += [here / "layer_scenes.py", here / "families.py", here.parent / "tests" / "beer_lambert.py"]
    return hashlib.sha256(b"".join(f.read_bytes() for f in sorted(files))).hexdigest()[:10]


def read_rows(file: Path, tag: str) -> dict[tuple, dict]:
    """Rows of this code, by family, simulator and seed; a half-written last line is left out."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith("}")]
    return {(row["family"], row["simulator"], row["seed"]): row for row in rows if row["tag"] == tag}


def lacks_points(folder, job) -> bool:
    """Whether points are asked for and not written yet."""
    return folder is not None and not points_file(folder, *job).exists()


def points_file(folder, family, simulator, seed) -> Path:
    """Where a scene's points are written."""
    return Path(folder) / (re.sub(r"[^\w]+", "-", f"{family} {simulator} {seed}") + ".npz")


def run(jobs, rows, tag, args) -> None:
    """Score scenes in worker processes of one thread each; every row is written as it comes."""
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))
    args.rows.parent.mkdir(parents=True, exist_ok=True)
    if args.rows.exists() and not args.rows.read_bytes().endswith(b"\n"):  # a run was stopped while it wrote
        args.rows.write_bytes(args.rows.read_bytes() + b"\n")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.workers, context, torch.set_num_threads, (1,)) as pool:
        futures = {pool.submit(score_scene, *job, args.points): job for job in jobs}
        for future in as_completed(futures):
            row = rows[futures[future]] = future.result() | {"tag": tag}
            with open(args.rows, "a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            said = "  ".join(f"{m} {row[m]:.3f}" for m in METRICS if row[m] is not None)
            print(row["family"], row["simulator"], row["seed"], said, flush=True)


def score_scene(family, simulator, seed, points=None) -> dict:
    """One scene decomposed, given only the pixel size, and scored."""
    problem = draw_scene(family, simulator, seed)
    start, refused = time.perf_counter(), {}
    try:
        result = moirelib.decompose(problem.frame, pixel_size=problem.pixel_size, device="cpu")
        found = result.particles
    except ValueError as error:  # a refused frame counts as one without finds
        found, refused = problem.truth.iloc[:0].assign(layer_confidence=0.0), {"error": str(error)}
    seconds = time.perf_counter() - start
    if points is not None:
        write_points(points_file(points, family, simulator, seed), problem, found, (family, simulator, seed))
    row = {"family": family, "simulator": simulator, "seed": seed, "s": round(seconds, 1)}
    return row | score(found, problem) | refused


def score(found: pd.DataFrame, problem) -> dict:
    """Scores of a particle table against the truth, whatever the numbers of layers."""
    truth, field = problem.truth, np.array(problem.frame.shape) * problem.pixel_size
    options = truth, problem.diameter, field, MATCHING_RADIUS
    scores = score_particles(found, *options)
    i, j, right = match_layers(found, problem)
    told = told_layers(found, truth, i, j)
    at, true_at = (t[["y_nm", "x_nm"]].to_numpy(float).reshape(-1, 2) for t in (found, truth))
    inner, true_inner = (
        np.all(np.abs(p - field / 2) <= field / 2 - problem.diameter / 2, axis=1) for p in (at, true_at)
    )
    close = cKDTree(true_at).query(true_at, k=2)[0][:, 1] < CLOSE * problem.diameter
    seen, counted = np.isin(np.arange(len(truth)), j), true_inner[j]
    stated = found["layer_confidence"].to_numpy()[i]
    tenth = np.minimum((stated * TENTHS).astype(int), TENTHS - 1)
    sums = [np.bincount(tenth[counted], w[counted], TENTHS) for w in (np.ones(len(i)), stated, right.astype(float))]
    return {
        **{name: finite(scores[name]) for name in ("f1", "f1_agnostic", "assignment")},
        "f1_oracle": finite(score_particles(found.assign(layer=told), *options)["f1"]),
        "layers": int(found["layer"].nunique()),
        "true_layers": int(truth["layer"].nunique()),
        "particles": len(truth),
        "diameter_ratio": finite(found["diameter_nm"].median() / problem.diameter),
        "confidence": mean_where(stated, counted),
        "recall": mean_where(seen, true_inner & ~close),
        "recall_close": mean_where(seen, true_inner & close),
        "false": mean_where(~np.isin(np.arange(len(found)), i), inner),
        "tenths": np.round(sums, 4).tolist(),  # particles, sum of what was stated, how many are right
    }


def match_layers(found, problem):
    """Pairs of finds and true particles, and which are in the right layer, under the best naming of the layers."""
    truth, best = problem.truth, None
    at, true_at = (t[["y_nm", "x_nm"]].to_numpy(float).reshape(-1, 2) for t in (found, truth))
    reach = MATCHING_RADIUS * problem.diameter
    numbers = sorted({*found["layer"], *truth["layer"]})
    for order in itertools.permutations(numbers):
        named = found["layer"].map(dict(zip(numbers, order, strict=True))).to_numpy()
        wrong = named[:, None] != truth["layer"].to_numpy()
        i, j = match(at, true_at, reach, reach * wrong)
        right = ~wrong[i, j]
        if best is None or right.sum() > best[2].sum():
            best = i, j, right
    return best


def told_layers(found, truth, i, j) -> np.ndarray:
    """The true layer of every find: of its own particle, or of the nearest where it has none."""
    layer = truth["layer"].to_numpy()
    told = layer[cKDTree(truth[["y_nm", "x_nm"]]).query(found[["y_nm", "x_nm"]].to_numpy().reshape(-1, 2))[1]]
    told[i] = layer[j]
    return told


def write_points(file: Path, problem, found, key) -> None:
    """What the network finds, and finds and truth in the same working pixels, so that naming needs no image fit."""
    model = load_weights(None, "cpu")
    diameter_px, polarity = estimate_size_and_polarity([problem.frame], model, None)
    shape = find_working_shape(problem.frame.shape, diameter_px)
    frame = resample(polarity * problem.frame, shape)
    detections = locate(predict(model, frame)[1], WORKING_DIAMETER)
    zoom = np.array(shape) / problem.frame.shape

    def working(table):
        places = (table[["y", "x"]].to_numpy() + 0.5) * zoom - 0.5
        size = table["diameter_nm"] / problem.pixel_size * np.sqrt(zoom.prod())
        return np.column_stack([places, table["layer"], size])

    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".part.npz")
    np.savez_compressed(
        partial,
        detections=detections[["channel", "y", "x", "score"]].to_numpy(),
        working_diameter=WORKING_DIAMETER,
        estimated_diameter_px=diameter_px,  # of the raw frame
        true_diameter_px=problem.diameter / problem.pixel_size,
        pixel_size=problem.pixel_size,
        polarity=polarity,
        frame=frame.astype(np.float32),
        truth=working(problem.truth),  # y, x, layer, diameter
        particles=np.column_stack([working(found), found["layer_confidence"]]),  # y, x, layer, diameter, confidence
        family=key[0],
        simulator=key[1],
        seed=key[2],
    )
    os.replace(partial, file)


def mean_where(values, mask):
    """Mean of the chosen values; None where there are none."""
    return finite(float(np.mean(values[mask]))) if mask.any() else None


def finite(value):
    """A number for JSON; None for NaN."""
    return float(f"{value:.4g}") if np.isfinite(value) else None


def mean_of(rows) -> dict:
    """Mean of every metric over scenes; of the F1, the worst scene's and the mean of the worst tenth."""
    means = {m: [row[m] for row in rows if row[m] is not None] for m in METRICS}
    means = {m: finite(np.mean(values)) if values else None for m, values in means.items()}
    right_number = np.mean([row["layers"] == row["true_layers"] for row in rows])
    f1 = np.sort([row["f1"] for row in rows])
    worst = {"worst": finite(f1[0]), "worst_tenth": finite(f1[: max(len(f1) // 10, 1)].mean())}
    return means | {"right_number": finite(right_number), **worst, "miscalibration": miscalibration(rows)}


def print_family(rows) -> None:
    """One line for every simulator, with its worst scene."""
    print(f"\n{rows[0]['family']}")
    columns = (*METRICS, "right_number", "worst", "worst_tenth")
    print(f"{'scenes':14s}" + "".join(f"{name:>15s}" for name in columns))
    for simulator in dict.fromkeys(row["simulator"] for row in rows):
        own = [row for row in rows if row["simulator"] == simulator]
        mean, worst = mean_of(own), min(own, key=lambda row: row["f1"])
        cells = ["–" if mean[name] is None else f"{mean[name]:.3f}" for name in columns]
        print(
            f"{simulator + f' {len(own)}':14s}"
            + "".join(f"{cell:>15s}" for cell in cells)
            + f"  (seed {worst['seed']})"
        )
    print_calibration(rows)


def miscalibration(rows):
    """Greatest difference of stated and true share in a tenth that holds enough particles."""
    number, stated, right = np.sum([row["tenths"] for row in rows], axis=0)
    enough = number >= FEWEST
    return finite(np.max(np.abs(stated - right)[enough] / number[enough])) if enough.any() else None


def print_calibration(rows) -> None:
    """Stated and true share of right layers, tenth by tenth of what was stated; in the worst ten scenes too."""
    for name, own in (("all", rows), ("worst ten", sorted(rows, key=lambda row: row["f1"])[:10])):
        number, stated, right = np.sum([row["tenths"] for row in own], axis=0)
        cells = [f"{s / n:.2f}→{r / n:.2f} ({n:.0f})" for n, s, r in zip(number, stated, right, strict=True) if n]
        print(f"stated→true, {name}: " + "  ".join(cells))


if __name__ == "__main__":
    main()
