"""Scenes that are hard to take apart, by two simulators that share no code; nothing was ever trained on them.

A `Specimen` says in numbers what a family's scene holds. Each simulator makes points and image of it by itself: ours
(`moirelib.simulation`: waves, lens, liquid, camera) and the tests' (`tests/beer_lambert.py`: Beer-Lambert's law).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from families import SEMI_REAL, make_problem
from scipy.spatial import cKDTree

from moirelib.crystal import hexagonal_lattice
from moirelib.simulation import CameraConfig, Layer, Lens, LiquidConfig, MovieConfig, Scene, simulate_movie

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import beer_lambert  # noqa: E402

__all__ = ["FAMILIES", "SIMULATORS", "Problem", "Specimen", "draw_scene", "draw_specimen"]

PIXEL_SIZE = 1.367  # nm, of the published recipe
SEED = 16180  # of all scenes; training libraries have other seeds
LEAST_LOCAL_TWIST = 2.0  # degrees, between grains of two layers where no small twist is asked for
SHAPES = "sphere", "sphere", "rod"  # rods stand; two scenes of three show spheres
SIMULATORS = "ours", "beer-lambert"


@dataclass(frozen=True)
class Sheet:
    """What one layer is like; lengths in px."""

    spacing: float
    diameter: float
    angles: tuple[float, ...]  # degrees, a row's direction in each grain
    vacancies: float = 0.02  # empty fraction of the sites
    strain: float = 0.2  # spacings, by which a slow displacement differs over the field
    jitter: float = 0.02  # standard deviation / spacing
    scatter: float = 0.02  # of the diameters, relative standard deviation
    island: float | None = None  # mean radius / size of the field; None: all over


@dataclass(frozen=True)
class Specimen:
    """What a scene holds."""

    size: int  # px, edge of the field
    sheets: tuple[Sheet, ...]  # the base first
    shape: str = "sphere"
    absorption: float = 1.0  # of one particle's middle


@dataclass(frozen=True)
class Problem:
    """One frame to take apart, and its truth."""

    frame: np.ndarray  # (y, x) float32, particles dark
    pixel_size: float  # nm
    truth: pd.DataFrame  # frame, layer, y, x, diameter (px), y_nm, x_nm, diameter_nm
    diameter: float  # nm, median of the true ones


def draw_scene(family: str, simulator: str, seed: int) -> Problem:
    """One scene of a family.

    Raises
    ------
    OSError
        If the semi-real family's frame is not at hand.
    """
    if family == SEMI_REAL:
        made = make_problem(SEMI_REAL, None, SEED, 1 + list(FAMILIES).index(family), seed)
        frame, truth, nm = made.frame, made.truth, made.pixel_size
        truth = truth.assign(diameter=truth["diameter_nm"] / nm)
    else:
        rng = np.random.default_rng((SEED, 1 + list(FAMILIES).index(family), SIMULATORS.index(simulator), seed))
        specimen, nm = draw_specimen(family, rng), PIXEL_SIZE
        frame, truth = (image_ours if simulator == "ours" else image_beer_lambert)(specimen, rng)
        truth = truth.assign(frame=0, y_nm=truth["y"] * nm, x_nm=truth["x"] * nm, diameter_nm=truth["diameter"] * nm)
    return Problem(np.asarray(frame, np.float32), nm, truth, float(truth["diameter_nm"].median()))


def draw_specimen(family: str, rng: np.random.Generator) -> Specimen:
    """What a scene of a simulated family holds: the family's own numbers, then what varies in all of them."""
    specimen = FAMILIES[family](rng)
    jitter, scatter = rng.uniform(0.005, 0.04), rng.uniform(0.01, 0.05)
    return replace(specimen, sheets=tuple(replace(s, jitter=jitter, scatter=scatter) for s in specimen.sheets))


def two_layers(rng, spacings, diameters, twist, size=384, **changes) -> Specimen:
    """Two layers all over the field, or the upper one an island in one scene of four."""
    angle, sign = rng.uniform(0, 60), rng.choice([-1.0, 1.0])
    turns = (angle,), (angle + sign * twist,)
    islands = None, rng.uniform(0.25, 0.45) if rng.random() < 0.25 else None
    sheets = [
        Sheet(*numbers, vacancies=rng.uniform(0, 0.05), island=island)
        for *numbers, island in zip(spacings, diameters, turns, islands, strict=True)
    ]
    return Specimen(size, tuple(sheets), **{"absorption": rng.uniform(0.6, 1.3)} | changes)


def alike(rng, spacing, fill=(0.55, 0.85), mismatch=0.02):
    """Spacings and diameters of two layers of the same particles, their spacings nearly the same."""
    diameter = spacing * rng.uniform(*fill)
    other = max(spacing * (1 + mismatch * rng.standard_normal()), 1.08 * diameter)
    return (spacing, other), (diameter, diameter)


def unequal_spacings(rng, twist=(3.0, 30.0)) -> Specimen:
    """The same particles at distances that differ by 15 to 35 %."""
    small = rng.uniform(20, 30)
    spacings = rng.permutation([small, small * rng.uniform(1.15, 1.35)])
    diameter = small * rng.uniform(0.6, 0.9)
    return two_layers(rng, spacings, (diameter, diameter), rng.uniform(*twist))


def unequal_sizes(rng) -> Specimen:
    """Particles of one layer a third larger, their distances with them."""
    small, fill = rng.uniform(20, 30), rng.uniform(0.6, 0.85)
    large = small * 4 / 3 * rng.uniform(0.95, 1.05)
    order = rng.permutation(2)
    spacings, diameters = np.array([small, large])[order], fill * small * np.array([1, 4 / 3])[order]
    return two_layers(rng, spacings, diameters, rng.uniform(3, 30))


def small_twist(rng, size=448) -> Specimen:
    """Twists under 2.5°; the field holds at least one Moiré period."""
    twist = rng.uniform(0.8, 2.5)
    for _ in range(1000):
        spacings, diameters = alike(rng, rng.uniform(15, 20), (0.6, 0.85))
        waves = [np.exp(1j * t) / s for t, s in zip((0, np.radians(twist)), spacings, strict=True)]
        if 1 / abs(waves[0] - waves[1]) <= size:
            break
    return replace(two_layers(rng, spacings, diameters, twist, size), shape=rng.choice(SHAPES))


def grains(rng) -> Specimen:
    """Two to four grains in each of two layers; the rows of no two overlapping grains are nearly parallel."""
    spacings, diameters = alike(rng, rng.uniform(22, 32))
    specimen = two_layers(rng, spacings, diameters, 0.0)
    while True:
        turns = [rng.uniform(0, 60, rng.integers(2, 5)) for _ in range(2)]
        apart = np.subtract.outer(*turns) % 60
        if np.minimum(apart, 60 - apart).min() > LEAST_LOCAL_TWIST:
            break
    sheets = [replace(s, angles=tuple(t), island=None) for s, t in zip(specimen.sheets, turns, strict=True)]
    return replace(specimen, sheets=tuple(sheets), shape=rng.choice(SHAPES))


def vacancies_and_strain(rng) -> Specimen:
    """15 % of the sites empty, and a slow displacement of half a spacing over the field."""
    specimen = two_layers(rng, *alike(rng, rng.uniform(22, 32)), rng.uniform(3, 30))
    sheets = tuple(replace(sheet, vacancies=0.15, strain=0.5) for sheet in specimen.sheets)
    return replace(specimen, sheets=sheets, shape=rng.choice(SHAPES))


def three_layers(rng) -> Specimen:
    """Three translucent layers, each turned by at least 6° against both others."""
    spacing, fill = rng.uniform(22, 32), rng.uniform(0.55, 0.8)
    while True:
        angles = rng.uniform(0, 60, 3)
        apart = np.abs(np.subtract.outer(angles, angles))[np.triu_indices(3, 1)]
        if np.minimum(apart, 60 - apart).min() >= 6:
            break
    spacings = np.maximum(spacing * (1 + 0.02 * rng.standard_normal(3)), 1.08 * fill * spacing)
    sheets = [Sheet(s, fill * spacing, (a,), rng.uniform(0, 0.05)) for s, a in zip(spacings, angles, strict=True)]
    return Specimen(384, tuple(sheets), absorption=rng.uniform(0.35, 0.7))


def small_particles(rng) -> Specimen:
    """Particles 6 to 8 px wide."""
    return two_layers(rng, *sized(rng, rng.uniform(6, 8)), rng.uniform(3, 30), size=256)


def large_particles(rng) -> Specimen:
    """Particles 60 to 90 px wide in a field of four to six spacings."""
    spacings, diameters = sized(rng, rng.uniform(60, 90))
    specimen = two_layers(rng, spacings, diameters, rng.uniform(3, 30), size=int(spacings[0] * rng.uniform(4, 6)))
    return replace(specimen, sheets=tuple(replace(sheet, island=None) for sheet in specimen.sheets))


def sized(rng, diameter):
    """Spacings and diameters of two layers of particles of a given diameter."""
    spacing = diameter / rng.uniform(0.6, 0.85)
    return (spacing, max(spacing * (1 + 0.02 * rng.standard_normal()), 1.08 * diameter)), (diameter, diameter)


def one_layer(rng) -> Specimen:
    """A single layer, in every other scene of two to four grains."""
    (spacing, _), (diameter, _) = alike(rng, rng.uniform(22, 32))
    turns = rng.uniform(0, 60, rng.integers(2, 5) if rng.random() < 0.5 else 1)
    sheet = Sheet(spacing, diameter, tuple(turns), rng.uniform(0, 0.05))
    return Specimen(384, (sheet,), rng.choice(SHAPES), rng.uniform(0.6, 1.3))


def islands(rng) -> Specimen:
    """An upper layer of some ten to hundred particles."""
    specimen = two_layers(rng, *alike(rng, rng.uniform(22, 32)), rng.uniform(3, 30))
    base, upper = specimen.sheets
    return replace(specimen, sheets=(base, replace(upper, island=rng.uniform(0.1, 0.3))), shape=rng.choice(SHAPES))


#: Name -> what draws its numbers. Their order is part of every scene's seed: only append, never insert.
FAMILIES = {
    "unequal spacings": unequal_spacings,
    "unequal spacings, twist 3-10°": lambda rng: unequal_spacings(rng, (3.0, 10.0)),
    "unequal sizes": unequal_sizes,
    "small twist": small_twist,
    "grains": grains,
    "vacancies and strain": vacancies_and_strain,
    "three layers": three_layers,
    "small particles": small_particles,
    "large particles": large_particles,
    "one layer": one_layer,
    "islands": islands,
    SEMI_REAL: None,
}


def image_beer_lambert(specimen: Specimen, rng) -> tuple[np.ndarray, pd.DataFrame]:
    """Frame (y, x) and truth by the tests' simulator."""
    sheets = [beer_lambert.Sheet(**vars(sheet)) for sheet in specimen.sheets]
    image = beer_lambert.simulate_stack(
        rng,
        specimen.size,
        sheets,
        specimen.shape,
        specimen.absorption,
        blur=rng.uniform(0.04, 0.12),
        electrons=np.exp(rng.uniform(*np.log([60.0, 400.0]))),
        readout=rng.uniform(0, 3),
        background=rng.uniform(0, 0.2),
    )
    y, x = image.positions.T
    return image.frame, pd.DataFrame({"layer": image.layers, "y": y, "x": x, "diameter": image.diameters})


ROD_HEIGHT = 2.5  # diameters
DOSE = 5.0, 25.0  # electrons/Å², about the published 10.6
TOUCH = 0.99  # of the distance to the nearest particle of the layer, greatest diameter


def image_ours(specimen: Specimen, rng) -> tuple[np.ndarray, pd.DataFrame]:
    """Frame (y, x) and truth by moirelib's simulator, with the published liquid and camera."""
    layers = [draw_layer(sheet, specimen.size, rng) for sheet in specimen.sheets]
    diameter = PIXEL_SIZE * float(np.mean([sheet.diameter for sheet in specimen.sheets]))
    tall = ROD_HEIGHT if specimen.shape == "rod" else 1.0
    z = 0.0
    for number, sheet in enumerate(specimen.sheets):
        height = tall * PIXEL_SIZE * sheet.diameter
        layers[number] = replace(layers[number], z=z + height / 2)
        z += height + rng.uniform(0, 5)
    field = (specimen.size * PIXEL_SIZE,) * 2
    scene = Scene(tuple(layers), field, str(specimen.shape), height=tall * diameter)
    liquid = replace(
        LiquidConfig.published(),
        lens=Lens(defocus=diameter * rng.uniform(-3, 6)),
        water=1.1 * max(scene.depth, 230.0),
        clouds=rng.choice([0.0, rng.uniform(0, 0.15)]),
        blur=diameter * rng.uniform(0, 0.1),
        disk_blur=0.0,
    )
    camera = replace(CameraConfig.published(), dose=np.exp(rng.uniform(*np.log(DOSE))))
    path = tall * diameter / specimen.absorption
    filmed = simulate_movie(scene, PIXEL_SIZE, MovieConfig(frames=1), int(rng.integers(2**31)), liquid, camera, path)
    table = filmed.truth.assign(diameter=filmed.truth["diameter_nm"] / PIXEL_SIZE)
    return filmed.frames[0], table[["layer", "y", "x", "diameter"]]


def draw_layer(sheet: Sheet, size: int, rng) -> Layer:
    """One layer, in nm: a lattice in the cell of every grain, then vacancies, an island's outline, strain, scatter."""
    spacing, diameter, field = PIXEL_SIZE * sheet.spacing, PIXEL_SIZE * sheet.diameter, PIXEL_SIZE * size
    reach = field + 3 * spacing
    cells = cKDTree(rng.uniform(0, field, (len(sheet.angles), 2)))
    points = np.empty((0, 2))
    for number, angle in enumerate(sheet.angles):
        grain = hexagonal_lattice(spacing, angle, field / 2 + rng.uniform(-0.5, 0.5, 2) * spacing, reach)
        grain = grain[cells.query(grain)[1] == number]
        if len(points):
            grain = grain[cKDTree(points).query(grain)[0] > max(0.85 * spacing, 1.03 * diameter)]
        points = np.concatenate([points, grain])
    points = points[np.all((points > -2 * spacing) & (points < field + 2 * spacing), axis=1)]
    points = points[rng.random(len(points)) > sheet.vacancies]
    if sheet.island is not None:
        y, x = (points - field * rng.uniform(0.35, 0.65, 2)).T
        waves = np.cos(np.outer(np.arctan2(y, x), (2, 3, 5)) + rng.uniform(0, 2 * np.pi, 3)) @ (0.12, 0.08, 0.05)
        points = points[np.hypot(y, x) < sheet.island * field * (1 + waves)]
    angle = rng.uniform(0, 2 * np.pi)
    phase = np.pi * points @ [np.sin(angle), np.cos(angle)] / (field * rng.uniform(0.8, 1.6))
    points = points + 0.5 * sheet.strain * spacing * np.sin(phase[:, None] + rng.uniform(0, 2 * np.pi, 2))
    points = points + sheet.jitter * spacing * rng.standard_normal(points.shape)
    sizes = diameter * (1 + sheet.scatter * np.clip(rng.standard_normal(len(points)), -2.5, 2.5))
    room = cKDTree(points).query(points, k=2)[0][:, 1]  # particles of one layer do not overlap
    return Layer(points, np.minimum(sizes, TOUCH * room), spacing, float(sheet.angles[0]))
