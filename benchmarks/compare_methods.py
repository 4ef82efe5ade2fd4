"""Separation of two layers: moirelib and other methods on the same scenes, in one run.

    make bench-layers            everything: all families and methods, sweeps, a movie; hours
    QUICK=1 make bench-layers    moirelib and Bragg filtering on a few scenes of every family; minutes

Scenes run in two processes of one thread each; seconds per frame are measured there, on this machine. Every result is
kept in `_build/bench-layers/results` under a hash of what it depends on, so an interrupted run continues; delete the
folder to measure all times again. A network that is not trained yet is trained first, which takes hours: see
`networks.py`. The last line is one JSON object, {family: {method: {metric: mean}}}.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import platform
import re
import subprocess
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import networks
import numpy as np
import torch
from families import FAMILIES, SWEEPS, make_problem, real_frame
from methods import (
    bragg_filtering,
    everything_in_both,
    fit_told_all_particles,
    fit_told_all_particles_and_sizes,
    moirelib_decompose,
    trackpy_true_lattices,
)
from scipy.stats import bootstrap
from tqdm import tqdm

import moirelib
from moirelib.data import weights_path
from moirelib.decomposition import load_weights
from moirelib.simulation import CameraConfig, LibraryConfig, LiquidConfig, MovieConfig, random_scene, simulate_movie
from moirelib.validation import score_layers, score_particles

SEED = 27182
METRICS = "f1", "f1_agnostic", "assignment", "mask_accuracy", "mask_iou", "rmse_nm", "s_per_frame"
OURS, TOLD, TOLD_SIZES = "moirelib", "fit told all particles", "fit told all particles and sizes"
ALONE = "moirelib's network alone"


def network_alone(frame, pixel_size, diameter, truth=None, weights=None):
    """Our network used like the others: its channels are the layers, without lattices and without the fit."""
    return networks.decompose_with(own_network(weights), frame, pixel_size, diameter)


@cache
def own_network(weights):
    """Our network, read once."""
    return load_weights(weights, "cpu")


METHODS = {
    OURS: moirelib_decompose,
    ALONE: network_alone,
    "Bragg filtering": bragg_filtering,
    "trackpy + true lattices": trackpy_true_lattices,
    "everything in both": everything_in_both,
    TOLD: fit_told_all_particles,
    TOLD_SIZES: fit_told_all_particles_and_sizes,
    **{name: networks.Decomposer(name) for name in networks.NETWORKS},
}
ABLATION = "fixed channels", "soft minimum", "hard minimum"  # one network, three losses, without lattices or fit
QUICK_METHODS = OURS, "Bragg filtering"
SWEEP_METHODS = OURS, "Bragg filtering", "trackpy + true lattices", "published U-Net"


@dataclass(frozen=True)
class Cell:
    """Scenes that are averaged: a family, or one value of a sweep."""

    name: str
    config: LibraryConfig | None
    number: int  # part of every scene's seed
    methods: tuple[str, ...]
    scenes: int


def main() -> None:
    """Run all requested parts, print tables and JSON."""
    args = arguments()
    load_weights(args.weights)  # wrong weights fail here, not in each scene
    before, commit = earlier(args.out, args.seed, args.scenes) if args.out and not args.quick else {}, head()
    names = QUICK_METHODS if args.quick else tuple(args.methods or METHODS)
    if not args.quick:
        prepare_networks(names, args)
    families = family_cells(names, args) if "families" in args.parts else []
    sweeps = sweep_cells(names, args.scenes, args.sweeps) if "sweeps" in args.parts and not args.quick else []
    rows = run(families + sweeps, args)
    table = {cell.name: {m: average(rows[cell.name, m]) for m in names} for cell in families}
    print_table(table, rows, names, args)
    result = {
        "families": table,
        "sweeps": tabulate_sweeps(sweeps, rows),
        "methods": {name: describe(name, args.weights) for name in names},
    }
    if "spheres" in table and set(ABLATION) <= set(names):
        result |= ablation(table)
    if families and OURS in names and set(args.families) == set(FAMILIES):
        if real := score_real_frame(args.weights, quick=args.quick):
            result["real_frame"] = real
        if not args.quick:
            result["movie_s_per_frame"], result["movie_f1"] = film(args.seed, args.weights)
    if args.out and not args.quick:
        write(args.out, united(before, stamped(result, commit, args)))
    print(last_line(table))


def arguments():
    """Read the command line; QUICK=1 in the environment is --quick."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    quick = os.environ.get("QUICK", "0") == "1"
    parser.add_argument("--quick", action="store_true", default=quick, help="moirelib and Bragg filtering, few scenes")
    parser.add_argument("--scenes", type=int, help="scenes of each family and cell (default 30, quick 2)")
    parser.add_argument("--seed", type=int, default=SEED, help=f"default {SEED}; use 990 while developing")
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="only these")
    parts = "families", "sweeps"
    parser.add_argument(
        "--parts", nargs="+", choices=parts, default=parts, help="families (with real frame and movie) or sweeps alone"
    )
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=tuple(FAMILIES), help="only these families")
    parser.add_argument("--sweeps", nargs="+", choices=SWEEPS, default=tuple(SWEEPS), help="only these sweeps")
    parser.add_argument("--weights", help="moirelib's weights instead of the shipped ones")
    parser.add_argument("--library", default=networks.BUILD / "library", help="to train missing networks on")
    parser.add_argument("--hours", type=float, default=6.0, help="longest training of one missing network")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--out",
        type=Path,
        help="JSON file of a full run, data/bench_layers.json for the book; what it says of other methods and parts of "
        "the same scenes stays, with the commit that scored them",
    )
    args = parser.parse_args()
    if args.quick and args.parts != parts:
        parser.error("--parts is for full runs; --quick takes a few scenes of every family")
    args.scenes = args.scenes or (2 if args.quick else 30)
    return args


def prepare_networks(names, args) -> None:
    """Train what has no weights yet."""
    for name in names:
        if name in networks.NETWORKS and not networks.weights_file(name).exists():
            print(f"{name}: no weights; training for up to {args.hours:g} h", flush=True)
            networks.train(name, args.library, networks.TrainingConfig.full().steps, args.hours)


def real_frame_at_hand() -> bool:
    """Whether the semi-real family can be made; says so if not."""
    try:
        real_frame()
    except OSError as error:
        print("semi-real Moiré and real frame left out:", error)
        return False
    return True


def family_cells(names, args) -> list[Cell]:
    """One cell for every requested family that can be made."""
    cells = [Cell(f, c, k, names, args.scenes) for k, (f, c) in enumerate(FAMILIES.items(), 1) if f in args.families]
    return [cell for cell in cells if cell.config is not None or real_frame_at_hand()]


def sweep_cells(names, scenes, sweeps=tuple(SWEEPS)) -> list[Cell]:
    """One cell for every value of every requested sweep; its number does not depend on the others."""
    methods = tuple(m for m in SWEEP_METHODS if m in names)
    values = [(what, value, config) for what, sweep in SWEEPS.items() for value, config in sweep.items()]
    cells = enumerate(values, 101)
    return [Cell(f"{w}={v:g}", config, k, methods, scenes) for k, (w, v, config) in cells if w in sweeps]


def run(cells, args) -> dict[tuple[str, str], list[dict]]:
    """Rows of every cell and method, scene by scene: from the cache, or from the worker processes."""
    jobs = [(cell, i, args.seed, args.weights) for cell in cells for i in range(cell.scenes)]
    rows = {(cell.name, m): [None] * cell.scenes for cell in cells for m in cell.methods}
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.workers, context, torch.set_num_threads, (1,)) as pool:
        futures = {pool.submit(score_scene, *job): job for job in jobs}
        for future in tqdm(as_completed(futures), total=len(jobs), desc="scenes", unit="scene"):
            cell, index = futures[future][:2]
            for method, row in future.result().items():
                rows[cell.name, method][index] = row
    return rows


def score_scene(cell: Cell, index: int, seed: int, weights=None) -> dict[str, dict]:
    """Scores of all methods on one scene; made only where at least one is not in the cache."""
    files = {m: cache_file(cell, index, seed, m, weights) for m in cell.methods}
    problem, rows = None, {}
    for method, file in files.items():
        with contextlib.suppress(OSError, ValueError):
            rows[method] = json.loads(file.read_text(encoding="utf-8"))
            continue
        problem = problem or make_problem(cell.name, cell.config, seed, cell.number, index)
        rows[method] = score(METHODS[method], problem, **({"weights": weights} if method in (OURS, ALONE) else {}))
        if "error" not in rows[method]:
            write(file, rows[method])
    return rows


def score(solve, problem, **options) -> dict:
    """One method on one scene."""
    start, refused = time.perf_counter(), {}
    try:
        masks, particles = solve(problem.frame, problem.pixel_size, problem.diameter, problem.truth, **options)
    except ValueError as error:  # a refused frame counts as one without finds
        masks, particles, refused = np.zeros(problem.masks.shape), problem.truth.iloc[:0], {"error": str(error)}
        print(f"{solve}: {error}", flush=True)
    seconds = time.perf_counter() - start
    field = np.array(problem.frame.shape) * problem.pixel_size
    scores = score_layers(particles.assign(frame=0), masks, problem.truth, problem.masks, problem.diameter, field)
    return scores | refused | {"s_per_frame": seconds}


def cache_file(cell, index, seed, method, weights) -> Path:
    """File of a row, named by a hash of everything that it depends on."""
    state = f"{seed} {cell.number} {index} {cell.config!r} {code(method, weights)}"
    name = re.sub(r"\W+", "-", f"{method} {cell.name} {index} ") + hashlib.sha256(state.encode()).hexdigest()[:16]
    return networks.BUILD / "results" / f"{name}.json"


#: Packages that the scores of every method depend on, and the modules of a network without what follows it.
GROUND = {"crystal", "movies", "simulation", "validation"}
NETWORK = {"network", "training"}


@cache
def code(method, weights) -> str:
    """Hash of the sources and weights that a method's rows depend on."""
    package, here = Path(moirelib.__file__).parent, Path(__file__).parent
    ours, network = method in (OURS, TOLD, TOLD_SIZES), method in (ALONE, *networks.NETWORKS)

    def matters(file):
        stage = file.relative_to(package).parts[0]
        return stage in GROUND or stage == "decomposition" and (ours or network and file.stem in NETWORK)

    files = [f for f in sorted(package.rglob("*.py")) if matters(f)]
    files += [here / "families.py", here / "methods.py"]
    if method in (OURS, ALONE):
        files.append(Path(weights or weights_path()))
    if method == ALONE:
        files.append(here / "networks.py")
    if method in networks.NETWORKS:
        files += [here / "networks.py", networks.weights_file(method)]
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()


def write(file: Path, content: dict) -> None:
    """Write JSON atomically; NaN is written as null."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{os.getpid()}")
    text = json.dumps(content, indent=1, ensure_ascii=False, default=str)
    partial.write_text(re.sub(r"\bNaN\b", "null", text) + "\n", encoding="utf-8")
    os.replace(partial, file)


def average(rows) -> dict[str, dict]:
    """Mean of every metric and its bootstrap interval of 95 % over scenes; None where no scene has a value."""
    return {metric: mean_interval([row[metric] for row in rows]) for metric in METRICS}


def mean_interval(values) -> dict:
    """Mean, and the percentile interval of 2000 resampled means."""
    x = np.array([np.nan if v is None else v for v in values], float)
    x = x[np.isfinite(x)]
    if x.size == 0:
        return {"mean": None, "low": None, "high": None}
    low = high = x.mean()
    if x.size > 1 and np.ptp(x) > 0:
        rng = np.random.default_rng(0)
        interval = bootstrap((x,), np.mean, n_resamples=2000, method="percentile", rng=rng).confidence_interval
        low, high = interval.low, interval.high
    return {key: float(f"{v:.4g}") for key, v in zip(("mean", "low", "high"), (x.mean(), low, high), strict=True)}


def print_table(table, rows, names, args) -> None:
    """One block per family: methods by metrics, each mean with its interval."""
    for family, by_method in table.items():
        scenes = len(next(rows[family, m] for m in by_method))
        print(f"\n{family} ({scenes} scenes, seed {args.seed}; 95 % intervals)")
        print(f"{'':34s}" + "".join(f"{m:>22s}" for m in METRICS))
        for method, row in by_method.items():
            print(f"{method:34s}" + "".join(f"{cell_text(row[m]):>22s}" for m in METRICS))
    print()
    for method in names:
        about = describe(method, args.weights)
        seen = f", trained on {about['training']['images']:,} crops" if about.get("training") else ""
        print(f"{method}: {about['parameters']:,} parameters{seen}")


def last_line(table) -> str:
    """{family: {method: {metric: mean}}} as JSON in one line."""
    means = {f: {m: {k: v["mean"] for k, v in row.items()} for m, row in by.items()} for f, by in table.items()}
    return json.dumps(means, allow_nan=False, ensure_ascii=False)


def cell_text(value) -> str:
    """Mean and interval of one metric."""
    if value["mean"] is None:
        return "–"
    return "{mean:.3f} ({low:.3f}–{high:.3f})".format(**value)


def describe(method, weights=None) -> dict:
    """Parameters of a method and, of a trained network, what its card says."""
    if method not in (OURS, ALONE, *networks.NETWORKS):
        return {"parameters": 0}
    ours = method in (OURS, ALONE)
    weights = Path(weights or weights_path()) if ours else networks.weights_file(method)
    network = networks.NETWORKS["hard minimum" if ours else method]
    about = {"parameters": network.parameters, "sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}
    if (file := weights.with_suffix(".json")).exists():
        card = json.loads(file.read_text(encoding="utf-8"))
        steps = card.get("steps", card["training"]["steps"])  # of a training cut short, those that it took
        seen = {"steps": steps, "images": steps * card["training"]["batch"]}
        about["training"] = seen | {k: card[k] for k in ("hours", "seed", "hardware")}
    return about


def ablation(table) -> dict:
    """Scores on the spheres of the same network trained with three losses; nothing if the training differed."""
    steps = {name: describe(name).get("training", {}).get("steps") for name in ABLATION}
    if len(set(steps.values())) > 1:
        print("no ablation: its networks were trained for", steps, "steps")
        return {}
    return {"ablation": {name: table["spheres"][name] | {"steps": steps[name]} for name in ABLATION}}


def tabulate_sweeps(cells, rows) -> dict:
    """{what: {value: {method: {metric: {mean, low, high}}}}}."""
    out = {}
    for cell in cells:
        what, value = cell.name.split("=")
        out.setdefault(what, {})[value] = {m: average(rows[cell.name, m]) for m in cell.methods}
    return out


def score_real_frame(weights, quick=False) -> dict | None:
    """Score without truth: share of the particles of the single-layer frame (or part) in one layer."""
    try:
        movie = real_frame()
    except OSError:
        return None
    frame, name = (movie.frame(0)[:512, :512], "part of the real frame") if quick else (movie.frame(0), "real frame")
    start = time.perf_counter()
    particles = moirelib.decompose(frame, pixel_size=movie.pixel_size, weights=weights).particles
    one_layer = particles["layer"].value_counts(normalize=True).max()
    row = {"in_one_layer": float(one_layer), "particles": len(particles), "s": time.perf_counter() - start}
    print(f"{name}:", "  ".join(f"{key} {value:.4g}" for key, value in row.items()))
    return row


def film(seed, weights) -> tuple[float, float]:
    """Seconds per frame and F1 of a movie of 20 frames of 512 px on all cores, layer movies included."""
    rng, config = np.random.default_rng((seed, 0)), FAMILIES["spheres"]
    pixel_size, size = config.pixel_size, config.shape[0]
    scene = random_scene(config.lattice, (size * pixel_size,) * 2, rng)
    liquid = replace(LiquidConfig.published(), disk_blur=0.0, blur=1.0)
    conditions = {"liquid": liquid, "camera": CameraConfig.published(), "mean_free_path": 35.0}
    movie = simulate_movie(scene, pixel_size, MovieConfig(frames=20, vibration=1.0), (seed, 0), **conditions)
    torch.set_num_threads(os.cpu_count())
    start = time.perf_counter()
    result = moirelib.decompose(movie.frames, pixel_size=pixel_size, weights=weights)
    for t in range(len(movie.frames)):
        np.asarray(result.layers[t])
    seconds = (time.perf_counter() - start) / len(movie.frames)
    diameter = movie.truth["diameter_nm"].median()
    f1 = score_particles(result.particles, movie.truth, diameter, (size * pixel_size,) * 2)["f1"]
    print(f"movie of 20 frames of {size} px: {seconds:.2f} s per frame, layer-resolved F1 {f1:.3f}")
    return float(f"{seconds:.3g}"), float(f"{f1:.4g}")


def head() -> str | None:
    """Commit of the checkout, with a plus sign where files differ from it."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=12", "--dirty=+"]
    return subprocess.run(git, capture_output=True, text=True).stdout.strip() or None


def stamped(result, commit, args) -> dict:
    """The result with settings and machine. Each row has its commit, since methods and parts may be run separately."""
    stamp = {"commit": commit}
    about = {
        "command": "benchmarks/compare_methods.py",
        "seed": args.seed,
        "scenes": args.scenes,
        "metrics": METRICS,
        "hardware": f"{args.workers} processes of one thread, {platform.machine()}, {os.cpu_count()} cores",
    }
    families = {f: {m: row | stamp for m, row in by.items()} for f, by in result["families"].items()}
    sweeps = {
        what: {value: {m: row | stamp for m, row in by.items()} for value, by in sweep.items()}
        for what, sweep in result["sweeps"].items()
    }
    alone = {m: row | stamp for m, row in result.get("ablation", {}).items()}
    return about | result | {"families": families, "sweeps": sweeps} | ({"ablation": alone} if alone else {})


def earlier(file, seed, scenes) -> dict:
    """Earlier content of the file; raises if it is of other scenes, whose results would be lost."""
    if not file.exists():
        return {}
    before = json.loads(file.read_text(encoding="utf-8"))
    if (before["seed"], before["scenes"]) != (seed, scenes):
        raise ValueError(
            f"{file} holds results of seed {before['seed']}, {before['scenes']} scenes; choose another --out"
        )
    return before


def united(before, now):
    """Nested dictionaries as one; where both have a value, the later one's."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return now
    return before | {key: united(before.get(key), value) for key, value in now.items()}


if __name__ == "__main__":
    main()
