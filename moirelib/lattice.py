"""Moiré lattices of nanoparticles: where every particle of every layer sits, and the atoms inside one.

Explained in chapter 1, "Lattices".
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from ase import Atoms
from ase.build import bulk
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

__all__ = [
    "Layer",
    "LatticeConfig",
    "Scene",
    "gold_particle",
    "hexagonal_lattice",
    "moire_period",
    "random_scene",
    "truth_table",
]


@dataclass(frozen=True)
class Layer:
    """One layer of nanoparticles, seen along the beam.

    Parameters
    ----------
    positions : ndarray, shape (n, 2)
        Particle centres as (y, x), in nm.
    diameters : ndarray, shape (n,)
        Lateral diameters, in nm.
    spacing : float
        Nearest-neighbour distance of the ideal lattice, in nm.
    angle : float
        Direction of one close-packed row, in degrees from the x axis towards y.
    z : float
        Height of the layer's mid-plane along the beam, in nm; the beam enters at small z.
    """

    positions: np.ndarray
    diameters: np.ndarray
    spacing: float
    angle: float
    z: float = 0.0

    def __len__(self) -> int:
        return len(self.positions)


@dataclass(frozen=True)
class Scene:
    """Stacked layers of equal particles in a rectangular field of view.

    Parameters
    ----------
    layers : tuple of Layer
        Layer 1 (the base) first.
    field : tuple of float
        Height and width of the field of view, in nm.
    shape : {"sphere", "rod"}
        Particle shape; rods stand along the beam.
    height : float
        Length of a rod along the beam, in nm (not used for spheres).
    """

    layers: tuple[Layer, ...]
    field: tuple[float, float]
    shape: str = "sphere"
    height: float = 0.0

    @property
    def twist_angle(self) -> float:
        """Twist between the first two layers, 0 to 30 degrees (hexagonal symmetry); NaN for a single layer."""
        if len(self.layers) < 2 or len(self.layers[1]) == 0:
            return float("nan")
        return fold_hexagonal(self.layers[1].angle - self.layers[0].angle)


def fold_hexagonal(angle: float) -> float:
    """Smallest equivalent twist of two hexagonal lattices, in degrees between 0 and 30."""
    return float(abs((angle + 30.0) % 60.0 - 30.0))


def moire_period(spacing: float, twist_angle: float) -> float:
    """Period of the Moiré pattern of two equal hexagonal lattices.

    Parameters
    ----------
    spacing : float
        Nearest-neighbour distance a, in nm.
    twist_angle : float
        Twist θ, in degrees.

    Returns
    -------
    float
        a / (2 sin(θ/2)), in nm; ``inf`` at zero twist.

    References
    ----------
    Hermann, J. Phys.: Condens. Matter 24, 314210 (2012). Explained in chapter 1, "Lattices".
    """
    s = 2.0 * np.sin(np.radians(abs(twist_angle)) / 2.0)
    return float(spacing / s) if s > 0 else float("inf")


def hexagonal_lattice(spacing: float, angle: float, center, radius: float) -> np.ndarray:
    """Points of a hexagonal lattice within a circle.

    Parameters
    ----------
    spacing : float
        Nearest-neighbour distance, in nm.
    angle : float
        Direction of a close-packed row, in degrees from x towards y.
    center : array_like, shape (2,)
        One lattice point (y, x), in nm, and the centre of the circle.
    radius : float
        In nm.

    Returns
    -------
    ndarray, shape (n, 2)
        Points as (y, x), in nm.
    """
    n = int(np.ceil(radius / spacing / np.sin(np.pi / 3))) + 1
    i, j = np.meshgrid(np.arange(-n, n + 1), np.arange(-n, n + 1), indexing="ij")
    t = np.radians([angle, angle + 60.0])
    basis = spacing * np.stack([np.sin(t), np.cos(t)], axis=1)  # rows are (y, x)
    points = np.stack([i.ravel(), j.ravel()], axis=1) @ basis
    return points[np.hypot(*points.T) <= radius] + np.asarray(center, float)


@dataclass(frozen=True)
class LatticeConfig:
    """Ranges from which `random_scene` draws a two-layer lattice.

    Pairs are (low, high) of a uniform distribution unless said otherwise.
    """

    shapes: tuple[str, ...] = ("sphere", "rod")
    spacing: tuple[float, float] = (14.0, 55.0)  # nm, log-uniform
    diameter_ratio: tuple[float, float] = (0.55, 0.92)  # diameter / spacing
    rod_height: tuple[float, float] = (1.5, 4.0)  # height / diameter
    twist_angle: tuple[float, float] = (1.0, 30.0)  # degrees
    spacing_mismatch: float = 0.04  # one-sigma relative difference of the second layer's spacing
    gap: tuple[float, float] = (0.0, 5.0)  # nm between the layers' surfaces
    position_std: tuple[float, float] = (0.005, 0.05)  # independent displacement / spacing
    strain: tuple[float, float] = (0.0, 0.03)  # amplitude of a slow strain
    diameter_std: tuple[float, float] = (0.01, 0.06)  # relative
    vacancies: tuple[float, float] = (0.0, 0.1)  # fraction of sites
    single_layer: float = 0.12  # probability of an empty second layer
    island: float = 0.5  # probability that the second layer is an island rather than filling the field
    edge: float = 0.4  # probability that the base layer has an edge inside the field
    boundary: float = 0.2  # probability of a grain boundary in the base layer

    @classmethod
    def published(cls) -> LatticeConfig:
        """Standing gold rods as in published liquid-phase TEM of Moiré lattices: 27–42 nm wide, 40–55 nm apart."""
        return cls(
            shapes=("rod",),
            spacing=(40.0, 55.0),
            diameter_ratio=(0.62, 0.80),
            rod_height=(2.7, 3.9),
            island=1.0,
            boundary=0.5,
            single_layer=0.0,
        )


def random_scene(config: LatticeConfig, field, rng: np.random.Generator, spacing: float | None = None) -> Scene:
    """Draw one scene of two stacked hexagonal layers.

    Parameters
    ----------
    config : LatticeConfig
        Ranges.
    field : tuple of float
        Height and width of the field of view, in nm.
    rng : numpy.random.Generator
        Source of randomness.
    spacing : float, optional
        Nearest-neighbour distance of layer 1 in nm; drawn log-uniformly from the configuration when not given.

    Returns
    -------
    Scene
        Two layers; the second is empty for a single-layer scene.

    Notes
    -----
    Explained in chapter 1, "Lattices".
    """
    low, high = np.log(config.spacing)
    spacing = float(np.exp(rng.uniform(low, high))) if spacing is None else float(spacing)
    ratio = rng.uniform(*config.diameter_ratio)
    shape = str(rng.choice(config.shapes))
    diameter = spacing * ratio
    height = diameter * rng.uniform(*config.rod_height)
    angle = rng.uniform(0.0, 60.0)
    twist = rng.uniform(*config.twist_angle) * rng.choice([-1.0, 1.0])
    # The second layer may be up to three sigma tighter; its particles must still fit beside each other.
    spacing_2 = max(spacing * (1 + config.spacing_mismatch * rng.standard_normal()), 1.04 * diameter)
    z_2 = (height if shape == "rod" else diameter) + rng.uniform(*config.gap)

    base_outline = _random_outline(field, rng, (0.45, 0.9)) if rng.random() < config.edge else None
    grain = _random_grain(field, rng) if rng.random() < config.boundary else None
    base = _random_layer(config, field, spacing, angle, diameter, 0.0, base_outline, grain, rng)
    if rng.random() < config.single_layer:
        top = replace(base, positions=np.empty((0, 2)), diameters=np.empty(0), z=z_2)
    else:
        outline = _random_outline(field, rng, (0.25, 0.5)) if rng.random() < config.island else None
        top = _random_layer(config, field, spacing_2, angle + twist, diameter, z_2, outline, None, rng)
    return Scene((base, top), (float(field[0]), float(field[1])), shape, height)


def _random_layer(config, field, spacing, angle, diameter, z, outline, grain, rng) -> Layer:
    """One hexagonal layer with strain, displacements, vacancies and an outline."""
    center = np.asarray(field) / 2 + rng.uniform(-0.5, 0.5, 2) * spacing
    radius = 0.5 * np.hypot(*field) + 2 * spacing
    points = hexagonal_lattice(spacing, angle, center, radius)
    if grain is not None:
        points = _join_grains(points, hexagonal_lattice(spacing, angle + grain[2], center, radius), grain, diameter)
    points = points + _slow_displacement(points, field, rng.uniform(*config.strain), rng)
    points = points + rng.uniform(*config.position_std) * spacing * rng.standard_normal(points.shape)
    keep = rng.random(len(points)) >= rng.uniform(*config.vacancies)
    keep &= np.all((points > -diameter) & (points < np.asarray(field) + diameter), axis=1)
    if outline is not None:
        keep &= outline(points)
    points = points[keep]
    sizes = diameter * (1 + rng.uniform(*config.diameter_std) * np.clip(rng.standard_normal(len(points)), -2.5, 2.5))
    return Layer(points, sizes, float(spacing), float(angle), float(z))


def _slow_displacement(points, field, strain, rng) -> np.ndarray:
    """A smooth displacement field of the given strain amplitude: two plane waves longer than half the field."""
    size = max(field)
    shift = np.zeros_like(points)
    for _ in range(2):
        q = 2 * np.pi * rng.uniform(-1.0, 1.0, 2) / size
        direction = rng.standard_normal(2)
        direction /= np.linalg.norm(direction)
        wave = np.sin(points @ q + rng.uniform(0, 2 * np.pi))
        shift += 0.5 * strain / max(np.linalg.norm(q), 1 / size) * wave[:, None] * direction
    return shift


def _random_grain(field, rng):
    """A straight grain boundary: a point on it, its normal, and the misorientation in degrees."""
    t = rng.uniform(0, 2 * np.pi)
    point = np.asarray(field) * rng.uniform(0.25, 0.75, 2)
    return point, np.array([np.sin(t), np.cos(t)]), rng.uniform(5.0, 30.0)


def _join_grains(first, second, grain, diameter) -> np.ndarray:
    """Cut two grains along the boundary and drop the second's particles that would overlap the first's."""
    point, normal, _ = grain
    first = first[(first - point) @ normal < 0]
    second = second[(second - point) @ normal >= 0]
    if len(first) and len(second):
        second = second[cKDTree(first).query(second)[0] > diameter]
    return np.concatenate([first, second])


def _random_outline(field, rng, radius):
    """An irregular closed outline; returns a function that tells which points lie inside."""
    center = np.asarray(field) * rng.uniform(0.3, 0.7, 2)
    mean = rng.uniform(*radius) * max(field)
    order = np.arange(2, 7)
    amplitude = 0.25 * rng.standard_normal(order.size) / order
    phase = rng.uniform(0, 2 * np.pi, order.size)

    def inside(points):
        y, x = (np.asarray(points) - center).T
        t = np.arctan2(y, x)[:, None]
        return np.hypot(y, x) < mean * (1 + np.sum(amplitude * np.cos(order * t + phase), axis=1))

    return inside


def truth_table(scene: Scene, pixel_size: float, frame: int = 0):
    """Truth of a scene as a particle table.

    Parameters
    ----------
    scene : Scene
        The scene.
    pixel_size : float
        In nm/pixel; pixel centres sit at integer coordinates, the field's corner at (-0.5, -0.5).
    frame : int
        Written to the ``frame`` column.

    Returns
    -------
    pandas.DataFrame
        ``frame, particle, layer, y, x`` (px), ``y_nm, x_nm, diameter_nm``; particles whose centre is in the field.
    """
    import pandas as pd

    rows, before = [], 0
    for number, layer in enumerate(scene.layers, start=1):
        inside = np.all((layer.positions >= 0) & (layer.positions < scene.field), axis=1)
        px = layer.positions[inside] / pixel_size - 0.5
        particle = before + np.flatnonzero(inside)  # the same in every frame of a movie
        table = pd.DataFrame({"frame": frame, "particle": particle, "layer": number, "y": px[:, 0], "x": px[:, 1]})
        rows.append(table.assign(diameter_nm=layer.diameters[inside]))
        before += len(layer)
    table = pd.concat(rows, ignore_index=True)
    table["y_nm"], table["x_nm"] = table["y"] * pixel_size, table["x"] * pixel_size
    return table[["frame", "particle", "layer", "y", "x", "y_nm", "x_nm", "diameter_nm"]]


def gold_particle(diameter: float, rng: np.random.Generator, vacuum: float = 1.0) -> Atoms:
    """Atoms of one spherical gold nanoparticle in a random crystal orientation.

    Parameters
    ----------
    diameter : float
        In nm.
    rng : numpy.random.Generator
        Draws the orientation, uniformly over rotations.
    vacuum : float
        Empty margin on every side, in nm.

    Returns
    -------
    ase.Atoms
        In Å (ASE's unit), centred in an orthorhombic cell of edge ``diameter + 2 vacuum``.

    Raises
    ------
    ValueError
        If the diameter is below 0.5 nm, less than one unit cell.

    Notes
    -----
    fcc gold, a = 4.078 Å. Explained in chapter 1, "Lattices".
    """
    if not diameter >= 0.5:
        raise ValueError(f"a gold particle needs a diameter of at least 0.5 nm, got {diameter}")
    radius = 5.0 * diameter  # Å
    cell = bulk("Au", "fcc", a=4.078, cubic=True)
    n = int(np.ceil(2 * radius * np.sqrt(3) / 4.078)) + 1
    atoms = cell.repeat((n, n, n))
    points = atoms.positions - atoms.positions.mean(axis=0) + rng.uniform(-2.0, 2.0, 3)
    points = points[np.linalg.norm(points, axis=1) <= radius]
    points = Rotation.random(random_state=rng).apply(points)
    edge = 2 * radius + 20.0 * vacuum
    return Atoms(f"Au{len(points)}", positions=points + edge / 2, cell=[edge] * 3, pbc=False)
