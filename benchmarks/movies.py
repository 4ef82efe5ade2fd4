"""Movies that move: layers, tracks and defects of drifting movies against still ones, in two simulators.

    make bench-movies            20 frames, three movies of each simulator
    QUICK=1 make bench-movies    3 frames of a smaller field, one movie of each

Both movies of a pair show the same specimen without defects and without growth; the moving one drifts by half a spacing
a frame and jumps by three spacings (quick: two) once. Then follow, without QUICK=1, pairs in which an island grows and
pairs of elastic layers, long enough to show phonons; what `moirelib analyze` costs (`analysis_pace.py`); and, without
QUICK=1, long movies (`long_movies.py`). The last line is one JSON object of named numbers.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import analysis_pace
import long_movies
import numpy as np
import pandas as pd
from measuring import run

import moirelib
from moirelib.crystal import match
from moirelib.simulation import (
    LatticeConfig,
    MovieConfig,
    scene_with_margin,
    simulate_movie,
    thermal_displacements,
)
from moirelib.validation import score_events, score_particles

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import beer_lambert  # noqa: E402

SEED = 4242
SIZE, QUICK_SIZE, PIXEL_SIZE = 288, 192, 1.6  # pixels, pixels, nm
SPACING, DIAMETER = 24.0, 16.8  # pixels
DRIFT, JUMP, QUICK_JUMP = 0.5, 3.0, 2.0  # spacings a frame, spacings, spacings
VIBRATION = 0.02  # spacings
GROWTH, GROWTH_FRAMES, ISLAND = (0.8, 1.0), 12, 0.3  # share of layer 2 at first and last; of the field, its radius
SPRING, PHONON_FRAMES, PHONON_SIZE = 1.5, 160, 224  # kT/nm², of elastic layers; frames, pixels


def measure_motion(quick: bool) -> dict:
    """Scores of still and of moving movies."""
    frames, movies, size, jump = (3, 1, QUICK_SIZE, QUICK_JUMP) if quick else (20, 3, SIZE, JUMP)
    numbers: dict = {}
    for name, film in (("abtem", film_ours), ("beer_lambert", film_other)):
        rows = [score_pair(film, np.random.default_rng((SEED, k)), frames, size, jump) for k in range(movies)]
        numbers |= {f"{name}_{key}": float(np.mean([row[key] for row in rows])) for key in rows[0]}
    return numbers


def score_pair(film, rng, frames: int, size: int, jump: float) -> dict:
    """Scores of a still and a moving movie of one specimen."""
    seed, twist, direction = int(rng.integers(2**31)), rng.uniform(8, 24), rng.uniform(0, 2 * np.pi)
    drift = DRIFT * SPACING * np.array([np.sin(direction), np.cos(direction)])
    shifts = drift * np.arange(frames)[:, None]
    shifts[frames // 2 :] += rng.choice([-1.0, 1.0], 2) * jump * SPACING / np.sqrt(2)
    scores = {}
    for kind, path in (("still", 0 * shifts), ("moving", shifts)):
        images, truth, _ = film(seed, twist, path, size)
        scores |= {f"{kind}_{key}": value for key, value in score_movie(images, truth).items()}
    ratio = scores["moving_vibration_nm"] / scores["still_vibration_nm"]
    return scores | {"f1_lost": scores["still_f1"] - scores["moving_f1"], "vibration_moving_over_still": ratio}


def measure_growth(quick: bool) -> dict:
    """Events of an island that grows in the middle of the field, in still and in moving movies.

    The specimen drifts there and back. Events count where the site is in view for some frames before and after.
    """
    numbers: dict = {}
    if quick:
        return numbers
    frames, away = np.arange(GROWTH_FRAMES)[:, None], GROWTH_FRAMES // 2
    path = DRIFT * SPACING * (away / 2 - abs(frames - away)) * [[0.8, 0.6]]
    path[away + 3 :] += JUMP * SPACING / np.sqrt(2)
    for name, film in (("abtem", film_ours), ("beer_lambert", film_other)):
        for kind, shifts in (("still", 0 * path), ("moving", path - path[0])):
            images, truth, events = film(SEED + 1, 12.0, shifts, SIZE, growth=True)
            found = moirelib.decompose(images, pixel_size=PIXEL_SIZE, device="cpu").particles
            field = np.array(images.shape[1:]) * PIXEL_SIZE
            table = moirelib.analyze(found, field).tables["growth"]
            scores = score_events(table, events, SPACING * PIXEL_SIZE / 2, counts=see_events(events, shifts, field))
            numbers |= {f"growth_{name}_{kind}_{key}": scores[key] for key in ("recall", "precision", "true")}
    return numbers


def see_events(events, shifts, field) -> np.ndarray:
    """Whether the sites of events are well in view, from two frames before to two frames after them."""
    seen = np.ones(len(events), bool)
    for k in range(-2, 3):
        t = np.clip(events["frame"] + k, 0, len(shifts) - 1)
        place = events[["y_nm", "x_nm"]].to_numpy() + PIXEL_SIZE * shifts[t]
        seen &= np.all((place > SPACING * PIXEL_SIZE) & (place < field - SPACING * PIXEL_SIZE), axis=1)
    return seen


def measure_phonons(quick: bool) -> dict:
    """Shear modulus of elastic layers over the planted one, mean of both layers, in still and in moving movies."""
    numbers: dict = {}
    if quick:
        return numbers
    planted = np.sqrt(3) / 4 * SPRING  # of springs between nearest neighbours
    step = np.random.default_rng((SEED, 9)).uniform(-DRIFT, DRIFT, (PHONON_FRAMES, 2)) * SPACING
    for name, film in (("abtem", film_ours), ("beer_lambert", film_other)):
        for kind, shifts in (("still", 0 * step), ("moving", step - step[0])):
            images = film(SEED + 2, 12.0, shifts, PHONON_SIZE, elastic=True, reach=np.ptp(step, axis=0).max())[0]
            found = moirelib.decompose(images, pixel_size=PIXEL_SIZE, device="cpu").particles
            analysis = moirelib.analyze(found, np.array(images.shape[1:]) * PIXEL_SIZE)
            tables = analysis.summaries.get("phonons", {})
            moduli = pd.concat(tables) if tables else pd.DataFrame({"shear": [np.nan], "shear_std": [np.nan]})
            key = f"phonons_{name}_{kind}_shear_over_planted"
            numbers[key] = moduli["shear"].mean() / planted
            numbers[f"{key}_std"] = np.sqrt((moduli["shear_std"] ** 2).sum()) / len(moduli) / planted
    return numbers


def film_ours(seed, twist, shifts, size, growth=False, elastic=False, reach=0.0):
    """A movie of moirelib's simulator, its truth with ``y_nm, x_nm``, and its events.

    The specimen is one that may move by ``reach`` (px), or further, as ``shifts`` ask for.
    """
    config = LatticeConfig.plain(
        shapes=("sphere",),
        diameter_ratio=(DIAMETER / SPACING,) * 2,
        twist_angle=(twist, twist),
        position_std=(0.01, 0.01),
        strain=(0.0, 0.0),
        island=float(growth),
    )
    rng = np.random.default_rng((seed, 1))
    margin = PIXEL_SIZE * (max(np.abs(shifts).max(), reach) + 2 * SPACING)
    scene = scene_with_margin(config, (size * PIXEL_SIZE,) * 2, rng, margin, spacing=SPACING * PIXEL_SIZE)
    steps = tuple((t, *(PIXEL_SIZE * step)) for t, step in enumerate(np.diff(shifts, axis=0), start=1))
    movie = MovieConfig(len(shifts), vibration=VIBRATION * SPACING * PIXEL_SIZE, jumps=steps)
    movie = replace(movie, growth=((1.0, 1.0), GROWTH)) if growth else movie
    movie = replace(movie, vibration=0.0, spring_constant=SPRING) if elastic else movie
    filmed = simulate_movie(scene, PIXEL_SIZE, movie, (seed, 2))
    return filmed.frames, filmed.truth, filmed.events


def film_other(seed, twist, shifts, size, growth=False, elastic=False, reach=0.0):
    """A movie of the tests' simulator, which shares no code with moirelib, its truth and its events."""
    rng, grown = np.random.default_rng((seed, 3)), []

    def arrive(points):
        """The first frame of each particle: from the middle outwards, within a disk; others never come."""
        away = np.hypot(*(points - size / 2).T)
        rank = away.argsort().argsort() / (away < ISLAND * size).sum()
        frame = np.clip(np.ceil((rank - GROWTH[0]) / (GROWTH[1] - GROWTH[0]) * (len(shifts) - 1)), 0, None)
        frame[away >= ISLAND * size] = np.inf
        new = (frame > 0) & np.isfinite(frame)
        grown.append(np.column_stack([frame[new], PIXEL_SIZE * points[new]]))
        return frame

    def displace(points):
        """Thermal displacements; only the images come from the other simulator."""
        nm = thermal_displacements(PIXEL_SIZE * points, PIXEL_SIZE * SPACING, SPRING, len(shifts), rng)
        return nm / PIXEL_SIZE

    options = {"arrival": arrive if growth else None, "displace": displace if elastic else None, "reach": reach}
    images, truth = beer_lambert.simulate_movie(rng, shifts, size, SPACING, DIAMETER, twist, **options)
    table = pd.DataFrame(truth, columns=["frame", "particle", "layer", "y", "x"])
    events = pd.DataFrame(grown[0] if grown else np.empty((0, 3)), columns=["frame", "y_nm", "x_nm"])
    events = events.astype({"frame": int}).assign(layer=2, event="attach")
    return images, table.assign(y_nm=table["y"] * PIXEL_SIZE, x_nm=table["x"] * PIXEL_SIZE), events


def score_movie(images, truth) -> dict:
    """Layers, tracks, and the defects and growth events that are none."""
    result = moirelib.decompose(images, pixel_size=PIXEL_SIZE, device="cpu")
    field, found = np.array(images.shape[1:]) * PIXEL_SIZE, result.particles
    analysis = moirelib.analyze(found, field)
    defects, events = analysis.tables["defects"], analysis.tables.get("growth", ())
    covered = defects["covered"].astype(bool)
    f1 = score_particles(found, truth, DIAMETER * PIXEL_SIZE, field)["f1"]
    return {
        "f1": f1,
        **score_tracks(found, truth, field),
        "defects": int((~covered).sum()),
        "covered_vacancies": int(covered.sum()),
        "events": len(events),
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
        growth=measure_growth,
        phonons=measure_phonons,
        analysis=analysis_pace.measure,
        long=lambda quick: {} if quick else long_movies.measure(),
    )
