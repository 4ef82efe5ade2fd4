"""Random scenes: stacked lattices with the defects, outlines and scatter that real ones have (chapter 1)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from ..crystal.lattice import hexagonal_lattice
from ..crystal.neighbours import NEIGHBOUR_REACH
from .defects import (
    dilatation_displacement,
    direction_along,
    dislocation_displacement,
    far_from,
    grain_boundary,
    twin_boundary,
)
from .scene import Defect, Layer, Scene, as_pair
from .shapes import circumscribed_ratio, particle_height

# Choices that keep particles apart and scenes varied; none is measured.
MEAN_FILL = 0.96  # spacings, greatest circumscribed diameter of a layer's mean particle
FILL = 0.98  # spacings, greatest circumscribed diameter of any particle
UPPER_ROOM = 1.04  # circumscribed diameters, least spacing of an upper layer
BASE_RADIUS = 0.45, 0.9  # mean radius of a base layer's outline over the field's longer side
ISLAND_RADIUS = 0.25, 0.5  # the same of an island's outline
OUTLINE_MIDDLE = 0.3, 0.7  # fields, the middle of an outline
MIDDLE_INSIDE = 0.6  # the middle lies within the outline below made smaller by this factor
OUTLINE_WAVES = np.arange(2, 7)  # around an outline; the standard deviation of each is 0.25 over its number
STEP_BACK = 0.9  # an upper layer's outline over the one below, so that every particle has others under it
ROW_SCATTER = 4.0  # degrees, standard deviation of aligned particles' rotation from their rows
SIZE_CUT = 2.5  # standard deviations, where the distribution of sizes ends
MISORIENTATION = 5.0, 30.0  # degrees, of grains; smaller ones are rows of dislocations
BOUNDARY_MIDDLE = 0.25, 0.75  # fields, a point of a boundary
DEFECT_DISTANCE = 4.0  # spacings, between planted defects if there is room
DEFECT_BORDER = 1.5  # spacings, from a planted defect to the field's border
CRYSTAL_MARGIN = 5.0  # spacings, of a crystal beyond the field, so that no displacement shows its edge
INNER_NEIGHBOURS = 5  # at least, of a site that may be a vacancy: elsewhere it would be the edge
MOVES = 10  # times that particles too close to each other move apart
DEFECT_OUTLINE = 0.85  # a planted defect lies within the layer's outline made smaller by this factor


def fix(**values: float) -> dict[str, Any]:
    """Ranges of a configuration that hold one value each."""
    return {name: (value, value) for name, value in values.items()}


@dataclass(frozen=True)
class LatticeConfig:
    """Ranges of `random_scene`, wide by default; pairs are (low, high), uniform if none is named."""

    shapes: tuple[str, ...] = ("sphere", "rod", "cube", "octahedron", "prism")  # round ones seven times in ten
    spacing: tuple[float, float] = (14.0, 55.0)  # nm, log-uniform
    diameter_ratio: tuple[float, float] = (0.49, 0.92)  # diameter / spacing; less where corners would touch
    diameter: tuple[float, float] | None = None  # nm; replaces the ratio
    rod_height: tuple[float, float] = (1.5, 4.2)  # height / diameter
    prism_height: tuple[float, float] = (0.2, 0.8)  # height / diameter
    height: float | None = None  # nm, of rods and prisms; replaces the two ratios
    rounding: tuple[float, float] = (0.05, 0.2)  # radius of rounded edges / diameter
    aligned: float = 0.5  # probability that a layer's particles are turned with its rows, not each its own way
    layers: int = 2
    twist_angle: tuple[float, float] = (1.0, 30.0)  # degrees, of each layer against the one below, either way
    offset: tuple[float, float] = (0.0, 1.0)  # lateral shift / spacing of each layer against the one below
    spacing_mismatch: float = 0.04  # one-sigma relative difference of an upper layer's spacing
    upper_spacing: tuple[float, float] | None = None  # nm, drawn for each upper layer; replaces the mismatch
    gap: tuple[float, float] = (0.0, 5.0)  # nm between the layers' surfaces
    position_std: tuple[float, float] = (0.005, 0.05)  # independent displacement / spacing
    strain: tuple[float, float] = (0.0, 0.03)  # amplitude of a slow strain
    diameter_std: tuple[float, float] = (0.01, 0.06)  # relative
    vacancies: tuple[float, float] = (0.0, 0.1)  # fraction of sites
    interstitials: tuple[float, float] = (0.0, 0.004)  # fraction of sites
    dislocations: float = 0.3  # mean number in the field of a layer without a boundary (Poisson)
    single_layer: float = 0.12  # probability that all layers but the base are empty
    two_layers: float = 0.0  # probability that, of the other scenes, only two layers hold particles
    island: float = 0.5  # probability that an upper layer is an island rather than as large as the layer below
    edge: float = 0.4  # probability that the base layer has an edge inside the field
    boundary: float = 0.3  # probability of a boundary between two grains in the base layer
    twin: float = 1 / 3  # share of the boundaries that are twin boundaries
    twin_sigmas: tuple[int, ...] = (7, 13, 19)

    @classmethod
    def plain(cls, **changes: Any) -> "LatticeConfig":
        """Two layers that fill the field, without point defects, dislocations, boundaries and edges; and changes."""
        nothing = {"vacancies": (0.0, 0.0), "interstitials": (0.0, 0.0), "dislocations": 0.0, "boundary": 0.0}
        return cls(**{**nothing, "single_layer": 0.0, "island": 0.0, "edge": 0.0, **changes})

    @classmethod
    def published(cls) -> "LatticeConfig":
        """Standing gold rods as in published liquid-phase TEM of Moiré lattices, in islands and grains."""
        rods: dict = {"shapes": ("rod",), "spacing": (40.0, 55.0), "diameter": (27.0, 42.0), "height": 112.1}
        return cls(**rods, island=1.0, boundary=0.5, single_layer=0.0)


# Shares in a library with every shape, a choice: facetted particles are harder to outline, but rarer in practice.
_SHARES = {"sphere": 0.35, "rod": 0.35, "cube": 0.1, "octahedron": 0.1, "prism": 0.1}


def _fill_field(points, scale: float = 1.0) -> np.ndarray:
    """The outline of a layer without an edge: all points (n, 2) lie inside."""
    return np.ones(len(points), bool)


def random_scene(
    config: LatticeConfig, field: Sequence[float], rng: np.random.Generator, spacing: float | None = None
) -> Scene:
    """Draw one scene of stacked hexagonal layers, each within the outline of the one below.

    It has ``config.layers`` layers; all but the first are empty for a single-layer scene. The circumscribed circles of
    a layer's particles never overlap: those too close move apart, and become smaller where there is no room. Defects
    that were planted in the field are listed in each layer, where they are in the strained crystal before independent
    displacements. ``field`` is (height, width) in nm, ``spacing`` that of layer 1, by default drawn.
    """
    if config.layers < 1:
        raise ValueError(f"a scene needs at least 1 layer, got {config.layers}")
    low, high = np.log(config.spacing)
    spacing = float(np.exp(rng.uniform(low, high))) if spacing is None else float(spacing)
    field = (float(field[0]), float(field[1]))
    shape, diameter, height, rounding = _random_particle(config, spacing, rng)
    size = diameter, circumscribed_ratio(shape, rounding)
    center = np.asarray(field) / 2 + rng.uniform(-0.5, 0.5, 2) * spacing
    lattice = spacing, rng.uniform(0.0, 60.0), center
    outline = _random_outline(field, rng, BASE_RADIUS, _fill_field) if rng.random() < config.edge else _fill_field
    filled = 1 if rng.random() < config.single_layer else config.layers
    filled = 2 if filled > 2 and config.two_layers and rng.random() < config.two_layers else filled
    layers = [_random_layer(config, field, size, lattice, outline, True, rng)]
    for k in range(1, config.layers):
        lattice, island = _upper_lattice(config, lattice, size, rng), rng.random() < config.island
        outline = _random_outline(field, rng, ISLAND_RADIUS, outline) if island else _step_back(outline)
        layer = _random_layer(config, field, size, lattice, outline, False, rng)
        z = layers[-1].z + particle_height(shape, diameter, height, rounding) + rng.uniform(*config.gap)
        layers.append(replace(layer.select(np.zeros(0, int)), z=z, defects=()) if k >= filled else replace(layer, z=z))
    return Scene(tuple(layers), field, shape, height, rounding)


def _random_particle(config, spacing, rng) -> tuple[str, float, float, float]:
    """Shape, mean diameter, height (nm) and rounding that the particles of a scene have in common."""
    share = np.array([_SHARES[shape] for shape in config.shapes])
    shape, rounding = str(rng.choice(config.shapes, p=share / share.sum())), float(rng.uniform(*config.rounding))
    scale, sizes = (spacing, config.diameter_ratio) if config.diameter is None else (1, config.diameter)
    diameter = scale * rng.uniform(*sizes)
    diameter = float(min(diameter, MEAN_FILL * spacing / circumscribed_ratio(shape, rounding)))
    ratios = rng.uniform(*config.rod_height), rng.uniform(*config.prism_height)
    height = diameter * ratios[shape == "prism"] if config.height is None else config.height
    return shape, diameter, float(height), rounding


def _upper_lattice(config, lattice, size, rng) -> tuple[float, float, np.ndarray]:
    """The next layer's lattice, by that of the layer below: another spacing (nm), angle and origin."""
    below, angle, center = lattice
    twist = rng.uniform(*config.twist_angle) * rng.choice([-1.0, 1.0])
    if config.upper_spacing is None:
        spacing = below * (1 + config.spacing_mismatch * rng.standard_normal())
    else:
        spacing = rng.uniform(*config.upper_spacing)
    spacing = max(spacing, UPPER_ROOM * size[0] * size[1])  # particles fit beside each other
    direction = rng.uniform(0, 2 * np.pi)
    shift = rng.uniform(*config.offset) * below * np.array([np.sin(direction), np.cos(direction)])
    return float(spacing), angle + twist, center + shift


def _step_back(below):
    """The outline of a layer as large as the one below, less one row."""
    return lambda points, scale=1.0: below(points, STEP_BACK * scale)


def _random_outline(field, rng, radius, below):
    """Draw an irregular closed outline within the one below: which points (n, 2) lie in it, made larger by a scale."""
    for _ in range(50):
        center = np.asarray(field) * rng.uniform(*OUTLINE_MIDDLE, 2)
        if below(center[None], MIDDLE_INSIDE)[0]:
            break
    amplitude = 0.25 * rng.standard_normal(OUTLINE_WAVES.size) / OUTLINE_WAVES
    phase, mean_radius = rng.uniform(0, 2 * np.pi, OUTLINE_WAVES.size), rng.uniform(*radius) * max(field)

    def contains(points, scale=1.0):
        y, x = (points - center).T
        waves = np.cos(OUTLINE_WAVES * np.arctan2(y, x)[:, None] + phase) @ amplitude
        return below(points, STEP_BACK * scale) & (np.hypot(y, x) < scale * mean_radius * (1 + waves))

    return contains


def _random_layer(config, field, size, lattice, outline, base, rng) -> Layer:
    """One layer: ideal crystal, boundary or dislocations, interstitials, strain, outline, vacancies, displacements."""
    (diameter, corners), (spacing, _, _) = size, lattice
    crystal = _random_crystal(config, field, lattice, base, rng)
    sites = len(crystal)
    for _ in range(0 if crystal.defects else rng.poisson(config.dislocations)):
        crystal = _plant_dislocation(crystal, _random_site(crystal, field, outline, rng), rng)
    per_field = field[0] * field[1] / (np.sqrt(0.75) * spacing**2)
    for _ in range(rng.poisson(rng.uniform(*config.interstitials) * per_field)):
        crystal = _plant_interstitial(crystal, _random_site(crystal, field, outline, rng))
    crystal = crystal.displace(_slow_displacement(field, rng.uniform(*config.strain), rng))
    crystal = crystal.select(outline(crystal.positions))
    fraction, points = rng.uniform(*config.vacancies), crystal.positions
    neighbours = cKDTree(points).query_ball_point(points, NEIGHBOUR_REACH * spacing, return_length=True) - 1
    empty = (rng.random(len(points)) < fraction) & (neighbours >= INNER_NEIGHBOURS) & (crystal.ids < sites)
    vacancies = [Defect("vacancy", as_pair(point)) for point in points[empty]]
    defects = [_clip(defect, field, outline) for defect in (*crystal.defects, *vacancies)]
    crystal = crystal.select(~empty & _in_field(points, field, diameter))
    n, points = len(crystal), crystal.positions
    points = points + rng.uniform(*config.position_std) * spacing * rng.standard_normal(points.shape)
    scatter = rng.uniform(*config.diameter_std) * np.clip(rng.standard_normal(n), -SIZE_CUT, SIZE_CUT)
    sizes, aligned = np.minimum(diameter * (1 + scatter), FILL * spacing / corners), rng.random() < config.aligned
    rotations = crystal.rotations + ROW_SCATTER * rng.standard_normal(n) if aligned else rng.uniform(0, 360, n)
    orientations, planted = rng.integers(0, 2**15, n), tuple(defect for defect in defects if defect)
    own = {"ids": None, "rotations": rotations, "orientations": orientations, "defects": planted}
    points, sizes = _separate(points, sizes, corners)
    return replace(crystal, positions=points, diameters=sizes, **own)


def _hollow(points, at) -> np.ndarray:
    """Corners (3, 2) of a triangle of neighbours near a point."""
    near = points[cKDTree(points).query(at, k=8)[1]]
    third = np.argmin(np.hypot(*(near[2:] - near[0]).T) + np.hypot(*(near[2:] - near[1]).T))
    return near[[0, 1, 2 + third]]


def _plant_dislocation(crystal, point, rng) -> Layer:
    """An edge dislocation near a point, with its Burgers vector along one of the three rows, either way."""
    one, other, apex = _hollow(crystal.positions, point)[rng.permutation(3)]
    core, burgers = (one + other + apex) / 3, (other - one) * crystal.spacing / np.hypot(*(other - one))
    if (apex - core) @ [burgers[1], -burgers[0]] < 0:  # the extra half row begins at the apex: the looser core
        burgers = -burgers
    moved = crystal.displace(lambda points: dislocation_displacement(points, core, burgers))
    return replace(moved, defects=(*moved.defects, Defect("dislocation", as_pair(core), burgers=as_pair(burgers))))


def _plant_interstitial(crystal, point) -> Layer:
    """One more particle in the hollow nearest to a point, the last of the layer; its neighbours make room."""
    site = _hollow(crystal.positions, point).mean(axis=0)
    moved = crystal.displace(lambda points: dilatation_displacement(points, site, np.sqrt(0.75) * crystal.spacing**2))
    points, turn = np.vstack([moved.positions, site]), moved.rotations[cKDTree(moved.positions).query(site)[1]]
    defects = (*moved.defects, Defect("interstitial", as_pair(site)))
    return _as_crystal(points, np.append(moved.rotations, turn), crystal.spacing, crystal.angle, defects)


def _as_crystal(points, rotations, spacing, angle, defects=()) -> Layer:
    """A layer in the making: its rotations are the direction of the rows, its diameters not known yet."""
    return Layer(points, np.zeros(len(points)), spacing, float(angle), rotations=rotations, defects=tuple(defects))


def _random_crystal(config, field, lattice, base, rng) -> Layer:
    """A single crystal, or two grains that meet at a boundary, on a disk larger than the field."""
    spacing, angle, center = lattice
    radius = 0.5 * np.hypot(*field) + CRYSTAL_MARGIN * spacing
    if not base or rng.random() >= config.boundary:
        points = hexagonal_lattice(spacing, angle, center, radius)
        return _as_crystal(points, np.full(len(points), angle), spacing, angle)
    shift = (np.asarray(field) * rng.uniform(*BOUNDARY_MIDDLE, 2)) - center
    center, radius = center + shift, radius + np.hypot(*shift)
    if rng.random() >= config.twin:
        misorientation, inclination = rng.uniform(*MISORIENTATION) * rng.choice([-1.0, 1.0]), rng.uniform(0, 360)
        points, defect = grain_boundary(spacing, angle, misorientation, inclination, center, radius)
    else:
        points, defect = twin_boundary(spacing, angle, int(rng.choice(config.twin_sigmas)), center, radius)
        start, end = np.array([defect.position, defect.end])
        inclination = np.degrees(np.arctan2(*(end - start)))
        misorientation = 2 * (inclination - angle)
    second = (points - center) @ direction_along(inclination)[1] > 1e-6 * spacing
    return _as_crystal(points, np.where(second, angle + misorientation, angle), spacing, angle, [defect])


def _random_site(crystal, field, outline, rng) -> np.ndarray:
    """A point (y, x) well inside the field and the layer, and far from other defects if there is one."""
    points, spacing = crystal.positions, crystal.spacing
    inside = _in_field(points, field, -DEFECT_BORDER * spacing) & outline(points, DEFECT_OUTLINE)
    choices = points[inside] if inside.any() else points
    taken = [np.linspace(d.position, d.end or d.position, 100 if d.end else 1) for d in crystal.defects]
    if taken:
        free = far_from(choices, np.concatenate(taken), DEFECT_DISTANCE * spacing)
        choices = choices[free] if free.any() else choices
    return choices[rng.integers(len(choices))] + 0.1 * spacing * rng.standard_normal(2)


def _slow_displacement(field, strain, rng):
    """A smooth displacement field of the given strain amplitude: two plane waves longer than half the field."""
    q, direction = 2 * np.pi * rng.uniform(-1.0, 1.0, (2, 2)) / max(field), rng.standard_normal((2, 2))
    phase, size = rng.uniform(0, 2 * np.pi, 2), 0.5 * strain / np.maximum(np.linalg.norm(q, axis=1), 1 / max(field))
    direction *= (size / np.linalg.norm(direction, axis=1))[:, None]
    return lambda points: np.sin(points @ q.T + phase) @ direction


def _in_field(points, field, margin=0.0) -> np.ndarray:
    """Which points lie in the field widened by a margin."""
    return np.all((points > -margin) & (points < np.asarray(field) + margin), axis=1)


def _clip(defect: Defect, field, outline) -> Defect | None:
    """The part of a defect in the field and the layer's outline, or None."""
    line = np.linspace(defect.position, defect.end or defect.position, 2000 if defect.end else 1)
    line = line[_in_field(line, field) & outline(line)]
    if len(line) == 0:
        return None
    return replace(defect, position=as_pair(line[0]), end=as_pair(line[-1]) if defect.end else None)


def _separate(points, diameters, corners) -> tuple[np.ndarray, np.ndarray]:
    """Move particles apart, then make them smaller, until their circles (`corners` × diameter) do not overlap."""
    if len(points) == 0:
        return points, diameters
    circles, scale = corners * diameters, np.ones(len(points))
    for move in range(MOVES + 1):
        i, j = cKDTree(points).query_pairs(circles.max(), output_type="ndarray").T
        step = points[j] - points[i]
        distance, touch = np.hypot(*step.T), 0.5 * (circles[i] + circles[j])
        if move < MOVES:
            push = 0.5 * (np.maximum(touch / np.maximum(distance, 1e-9) - 1, 0))[:, None] * step
            np.add.at(points, j, push)
            np.add.at(points, i, -push)
    np.minimum.at(scale, np.concatenate([i, j]), np.minimum(np.tile(distance / touch, 2), 1))
    return points, diameters * scale
