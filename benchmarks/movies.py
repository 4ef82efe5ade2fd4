"""Movies that move: layers, tracks and defects of drifting movies against still ones, in two simulators.

    make bench-movies            20 frames, three movies of each simulator
    QUICK=1 make bench-movies    4 frames of a smaller field, one movie of each

Both movies of a pair show the same specimen without defects and without growth; the moving one drifts by half a spacing
a frame and jumps by three spacings once. Then follows what `moirelib analyze` costs (`analysis_pace.py`) and, not with
QUICK=1, long movies (`long_movies.py`). The last line is one JSON object of named numbers.
"""

from __future__ import annotations

import sys
from pathlib import Path

import analysis_pace
import long_movies
import numpy as np
import pandas as pd
from measuring import run

import moirelib
from moirelib.crystal import match
from moirelib.simulation import LatticeConfig, MovieConfig, scene_with_margin, simulate_movie
from moirelib.validation import score_particles

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import beer_lambert  # noqa: E402

SEED = 4242
SIZE, QUICK_SIZE, PIXEL_SIZE = 288, 224, 1.6  # pixels, pixels, nm
SPACING, DIAMETER = 24.0, 16.8  # pixels
DRIFT, JUMP = 0.5, 3.0  # spacings a frame, spacings


def measure_motion(quick: bool) -> dict:
    """Scores of still and of moving movies."""
    frames, movies, size = (4, 1, QUICK_SIZE) if quick else (20, 3, SIZE)
    numbers: dict = {}
    for name, film in (("abtem", film_ours), ("beer_lambert", film_other)):
        rows = [score_pair(film, np.random.default_rng((SEED, k)), frames, size) for k in range(movies)]
        numbers |= {f"{name}_{key}": float(np.mean([row[key] for row in rows])) for key in rows[0]}
    return numbers


def score_pair(film, rng, frames: int, size: int) -> dict:
    """Scores of a still and a moving movie of one specimen."""
    seed, twist, direction = int(rng.integers(2**31)), rng.uniform(8, 24), rng.uniform(0, 2 * np.pi)
    drift = DRIFT * SPACING * np.array([np.sin(direction), np.cos(direction)])
    shifts = drift * np.arange(frames)[:, None]
    shifts[frames // 2 :] += rng.choice([-1.0, 1.0], 2) * JUMP * SPACING / np.sqrt(2)
    scores = {}
    for kind, path in (("still", 0 * shifts), ("moving", shifts)):
        images, truth = film(seed, twist, path, size)
        scores |= {f"{kind}_{key}": value for key, value in score_movie(images, truth).items()}
    ratio = scores["moving_vibration_nm"] / scores["still_vibration_nm"]
    return scores | {"f1_lost": scores["still_f1"] - scores["moving_f1"], "vibration_moving_over_still": ratio}


def film_ours(seed, twist, shifts, size):
    """A movie of moirelib's simulator, and its truth with ``y_nm, x_nm``."""
    config = LatticeConfig.plain(
        shapes=("sphere",),
        diameter_ratio=(DIAMETER / SPACING,) * 2,
        twist_angle=(twist, twist),
        position_std=(0.01, 0.01),
        strain=(0.0, 0.0),
    )
    rng = np.random.default_rng((seed, 1))
    margin = PIXEL_SIZE * (np.abs(shifts).max() + 2 * SPACING)
    scene = scene_with_margin(config, (size * PIXEL_SIZE,) * 2, rng, margin, spacing=SPACING * PIXEL_SIZE)
    steps = [(t, *(PIXEL_SIZE * step)) for t, step in enumerate(np.diff(shifts, axis=0), start=1)]
    movie = MovieConfig(frames=len(shifts), vibration=0.02 * SPACING * PIXEL_SIZE, jumps=tuple(steps))
    filmed = simulate_movie(scene, PIXEL_SIZE, movie, (seed, 2))
    return filmed.frames, filmed.truth


def film_other(seed, twist, shifts, size):
    """A movie of the tests' simulator, which shares no code with moirelib, and its truth."""
    images, truth = beer_lambert.simulate_movie(
        np.random.default_rng((seed, 3)), shifts, size, SPACING, DIAMETER, twist
    )
    table = pd.DataFrame(truth, columns=["frame", "particle", "layer", "y", "x"])
    return images, table.assign(y_nm=table["y"] * PIXEL_SIZE, x_nm=table["x"] * PIXEL_SIZE)


def score_movie(images, truth) -> dict:
    """Layers, tracks, and the defects and growth events that are none."""
    result = moirelib.decompose(images, pixel_size=PIXEL_SIZE, device="cpu")
    field, found = np.array(images.shape[1:]) * PIXEL_SIZE, result.particles
    analysis = moirelib.analyze(found, field)
    tables = {name: analysis.tables.get(name, ()) for name in ("defects", "growth")}
    f1 = score_particles(found, truth, DIAMETER * PIXEL_SIZE, field)["f1"]
    return {
        "f1": f1,
        **score_tracks(found, truth, field),
        "defects": len(tables["defects"]),
        "events": len(tables["growth"]),
        "vibration_nm": measure_vibration(analysis),
    }


def measure_vibration(analysis) -> float:
    """Standard deviation of the displacements along one axis, mean over the layers; NaN where a movie is too short."""
    layers = analysis.summaries.get("vibrations", {}).get("Layers as a whole", pd.DataFrame())
    return float(np.sqrt(layers.filter(regex="variance_._nm2").mean().mean()))


def score_tracks(found, truth, field) -> dict:
    """Share of particles in view whose track is whole, and exchanges of numbers in 10,000 particle-frames."""
    return max(
        (name_tracks(found.assign(layer=layer), truth, field) for layer in (found["layer"], 3 - found["layer"])),
        key=lambda score: score["whole_tracks"],
    )


def name_tracks(found, truth, field) -> dict:
    """The same, given which layer is which."""
    border, reach, named = DIAMETER * PIXEL_SIZE / 2, 0.3 * DIAMETER * PIXEL_SIZE, []
    for (t, layer), there in truth.groupby(["frame", "layer"]):
        here = found[(found["frame"] == t) & (found["layer"] == layer)]
        i, j = match(here[["y_nm", "x_nm"]], there[["y_nm", "x_nm"]], reach)
        number = np.full(len(there), -1)
        number[j] = here["particle"].to_numpy()[i]
        inner = np.all((there[["y_nm", "x_nm"]] > border) & (there[["y_nm", "x_nm"]] < field - border), axis=1)
        named.append(there.assign(found=number)[inner])
    table = pd.concat(named, ignore_index=True).sort_values(["particle", "frame"])
    # A particle that leaves the view and comes back is another one.
    visit = ((table["particle"].diff() != 0) | (table["frame"].diff() != 1)).cumsum()
    each = table.assign(visit=visit).groupby("visit")["found"]
    whole = each.nunique().eq(1) & each.min().ge(0)
    before = table["found"].shift().where(visit.eq(visit.shift()), -1)
    swaps = ((before >= 0) & (table["found"] >= 0) & (before != table["found"])).sum()
    long = each.size() > 1
    return {"whole_tracks": float(whole[long].mean()), "swaps_in_10000": 1e4 * float(swaps) / len(table)}


if __name__ == "__main__":
    run(
        __doc__,
        motion=measure_motion,
        analysis=analysis_pace.measure,
        long=lambda quick: {} if quick else long_movies.measure(),
    )
