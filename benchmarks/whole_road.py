"""Defects and boundaries through all steps: simulated, rendered, decomposed, analysed.

    python benchmarks/whole_road.py            # some ten minutes on one core
    python benchmarks/whole_road.py --quick    # under 25 seconds

The last line of the output is one JSON object of named numbers: ``road_`` from the positions found in the frames,
``direct_`` from the true positions of the same scenes, ``behind_`` the difference in points (of a hundred), positive
if ``road_`` is worse. The seeds are used only here.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import count

import numpy as np
import pandas as pd
from defects import MARGIN, NOISE, REACH, away, main_boundary, planted, rates, score_points, seen
from families import FAMILIES
from measuring import run
from methods import moirelib_decompose

from moirelib.analysis import LayerDefects, find_defects
from moirelib.crystal import fold_hexagonal, match
from moirelib.simulation import Layer, LibraryConfig, Scene, SimulatedFrame, simulate_frame

SEED = 73009
TWIST = (5.0, 30.0)  # degrees
LONG = 8  # spacings; a shorter boundary does not count
NEAR = 0.25  # spacings; largest distance of a found particle from the true one
ENOUGH = 40  # particles; a layer with fewer finds counts as lost, with all its defects

# --- Scenes ---


def stacked_crystals(spacing: tuple[float, float], twin: bool) -> LibraryConfig:
    """Translucent spheres at the published dose: a boundary across layer 1, dislocations in layer 2, vacancies in both.

    As in `defects`, whose field of 700 nm is what 512 px of the published microscope show. No slow strain, which would
    turn the two grains by more than the 0.1° at which their misorientation is scored.
    """
    spheres = FAMILIES["spheres"]
    lattice = replace(
        spheres.lattice,
        spacing=spacing,
        twist_angle=TWIST,
        position_std=NOISE,
        strain=(0.0, 0.0),
        island=0.0,
        edge=0.0,
        boundary=1.0,
        twin=float(twin),
        dislocations=3.0,
    )
    return replace(spheres, lattice=lattice)


def drawn(config: LibraryConfig, seed) -> SimulatedFrame:
    """The first random scene whose layers are twisted enough everywhere, and its frame.

    Where layer 2 is parallel to a grain of layer 1, a frame does not show in which of the two a particle lies.
    """
    frames = (simulate_frame(config, (*seed, attempt)) for attempt in count())
    return next(image for image in frames if least_twist(image.scene) >= TWIST[0])


def least_twist(scene: Scene) -> float:
    """Smallest twist of layer 2 on the grains of layer 1, for both senses of the second grain; in degrees."""
    base, upper = scene.layers
    turns = [sign * d.misorientation for d in base.defects if d.end is not None for sign in (-1, 1)]
    return min(fold_hexagonal(upper.angle - base.angle - turn) for turn in (0.0, *turns))


def both_ways(config: LibraryConfig, seed) -> list[tuple[Layer, Layer]]:
    """The layers of a scene, with their true particles and with those found in its frame.

    The order of the layers cannot be seen in a frame; the order in which more particles agree counts.
    """
    image = drawn(config, seed)
    _, particles = moirelib_decompose(image.frame, image.pixel_size)
    # Tables count from the middle of the first pixel, scenes from its corner.
    found = [particles.loc[particles["layer"] == k, ["y_nm", "x_nm"]] + image.pixel_size / 2 for k in (1, 2)]
    namings = [
        [(true, with_particles(true, points)) for true, points in zip(image.scene.layers, order, strict=True)]
        for order in (found, found[::-1])
    ]
    return max(namings, key=agreeing)


def with_particles(layer: Layer, points) -> Layer:
    """The layer with other particles (positions only) and the same simulated defects."""
    return Layer(points, np.full(len(points), np.nan), layer.spacing, layer.angle, defects=layer.defects)


def agreeing(pairs) -> int:
    """Number of particles of true layers that are found in the paired layers."""
    return sum(len(match(found.positions, seen(true), NEAR * true.spacing)[0]) for true, found in pairs)


# --- Measurements ---


def analysed(layers) -> dict:
    """Scores for one source of positions: point defects, boundaries and their kinds."""
    scores: dict = {kind: [] for kind in MARGIN}
    rows = []
    for layer in layers:
        found = find_defects(seen(layer)) if len(seen(layer)) >= ENOUGH else None
        for kind, score in point_scores(layer, found).items():
            scores[kind].append(score)
        rows += boundary_rows(layer, found)
    numbers = {f"{kind}_{name}": value for kind, some in scores.items() for name, value in rates(some).items()}
    return numbers | boundary_numbers(rows)


def point_scores(layer: Layer, found: LayerDefects | None) -> dict:
    """Hits, misses and false finds of every kind of point defect, away from boundaries and the border of the field."""
    truth = planted(layer)
    table = truth.iloc[:0] if found is None else found.defects[~found.defects["in_boundary"].astype(bool)]
    scores = {}
    for kind, margin in MARGIN.items():
        counts = partial(away, layer=layer, margin=margin * layer.spacing)
        one, other = table[table["kind"] == kind], truth[truth["kind"] == kind]
        scores[kind] = score_points(one, other, layer.spacing, counts, REACH[kind])
    return scores


def boundary_rows(layer: Layer, found: LayerDefects | None) -> list[tuple]:
    """For each simulated boundary: is it a twin, is it found, is it called a twin of the right Σ; error in degrees."""
    rows = []
    for truth in layer.defects:
        if truth.end is None or np.hypot(*np.subtract(truth.end, truth.position)) < LONG * layer.spacing:
            continue
        segment = None if found is None else main_boundary(found.boundaries, truth, layer.spacing)
        called = segment is not None and segment["kind"] == "twin" and truth.sigma in (0, segment["sigma"])
        error = np.nan if segment is None else abs(segment["misorientation_deg"] - truth.misorientation)
        rows.append((truth.sigma > 0, segment is not None, called, error))
    return rows


def boundary_numbers(rows) -> dict:
    """Shares of all simulated boundaries; one that is not found is neither within 0.1° nor called a twin."""
    table = pd.DataFrame(rows, columns=["twin", "found", "called_twin", "error_deg"])
    twins, plain = table[table["twin"]], table[~table["twin"]]
    return {
        "boundary_recall": table["found"].mean(),
        "boundary_n": len(table),
        "misorientation_median_error_deg": table["error_deg"].median(),
        "misorientation_within_0.1_deg": (table["error_deg"] < 0.1).mean(),
        "twin_recall": twins["called_twin"].mean(),
        "twin_n": len(twins),
        "plain_called_twin": plain["called_twin"].mean(),
        "plain_n": len(plain),
    }


def points_behind(direct: dict, road: dict) -> dict:
    """Loss of each rate with positions from frames, in percentage points."""
    worse_if_lower = [name for name in direct if name.endswith(("precision", "recall", "within_0.1_deg"))]
    behind = {name: 100 * (direct[name] - road[name]) for name in worse_if_lower}
    return behind | {"plain_called_twin": 100 * (road["plain_called_twin"] - direct["plain_called_twin"])}


def measure(quick: bool) -> dict:
    """All numbers by name; NaN if there was nothing to measure."""
    # The quick mode takes one scene with a wide spacing, which has few particles.
    scenes, spacing = (1, (50.0, 50.0)) if quick else (24, (30.0, 40.0))
    configs = [stacked_crystals(spacing, twin=i % 2 == 0) for i in range(scenes)]
    pairs = [pair for i, config in enumerate(configs) for pair in both_ways(config, (SEED, i))]
    direct, road = ([pair[k] for pair in pairs] for k in (0, 1))
    particles = sum(len(seen(layer)) for layer in (*direct, *road))
    lost = sum(len(seen(layer)) < ENOUGH for layer in road)
    numbers = {"road_particle_f1": 2 * agreeing(pairs) / particles, "road_layers_lost": lost}
    direct, road = analysed(direct), analysed(road)
    parts = {"road": road, "direct": direct, "behind": points_behind(direct, road)}
    numbers |= {f"{way}_{name}": value for way, part in parts.items() for name, value in part.items()}
    return {name: float(value) for name, value in numbers.items()}


if __name__ == "__main__":
    run(__doc__, whole_road=measure)
