"""Moiré lattices of nanoparticles: where every particle of every layer sits, defects and growth included.

Explained in chapter 1, "Lattices".
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import gcd

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from .shapes import circumscribed_ratio, particle_height

__all__ = [
    "Defect",
    "LatticeConfig",
    "Layer",
    "Scene",
    "coincidence_period",
    "commensurate_angles",
    "dilatation_displacement",
    "dislocation_displacement",
    "fold_hexagonal",
    "grain_boundary",
    "growth_schedule",
    "hexagonal_lattice",
    "moire_period",
    "random_scene",
    "truth_table",
    "twin_boundary",
]


@dataclass(frozen=True)
class Defect:
    """One defect that was planted in a layer: the truth that measured defects are compared with.

    Parameters
    ----------
    kind : {"vacancy", "interstitial", "dislocation", "grain boundary", "twin boundary"}
        What it is.
    position : tuple of float
        (y, x) in nm: the empty site, the extra particle, the dislocation's core, or one end of the boundary.
    burgers : tuple of float
        Burgers vector of a dislocation, (y, x) in nm.
    end : tuple of float, optional
        (y, x) in nm, the boundary's other end.
    misorientation : float
        Between the grains on both sides of a boundary, in degrees from 0 to 30.
    sigma : int
        Reciprocal density of coincident sites Σ of a twin boundary; 0 for all else.
    """

    kind: str
    position: tuple[float, float]
    burgers: tuple[float, float] = (0.0, 0.0)
    end: tuple[float, float] | None = None
    misorientation: float = float("nan")
    sigma: int = 0


@dataclass(frozen=True)
class Layer:
    """One layer of nanoparticles, seen along the beam.

    Parameters
    ----------
    positions : ndarray, shape (n, 2)
        Particle centres as (y, x), in nm.
    diameters : ndarray, shape (n,)
        Equivalent circular diameters of the projections, in nm.
    spacing : float
        Nearest-neighbour distance of the ideal lattice, in nm.
    angle : float
        Direction of one close-packed row, in degrees from the x axis towards y.
    z : float
        Height of the layer's mid-plane along the beam, in nm; the beam enters at small z.
    ids : ndarray of int, shape (n,), optional
        Number of each particle, unique in a scene and kept through a movie; 0, 1, ... by default.
    rotations : ndarray, shape (n,), optional
        Each particle's rotation in the plane, in degrees from x towards y; 0 by default.
    orientations : ndarray of int, shape (n,), optional
        Which of the tabulated crystal orientations each particle has (taken modulo their number); 0 by default.
    defects : tuple of Defect
        Defects planted in the layer.

    Raises
    ------
    ValueError
        If an array is not as long as the positions.
    """

    positions: np.ndarray
    diameters: np.ndarray
    spacing: float
    angle: float
    z: float = 0.0
    ids: np.ndarray | None = None
    rotations: np.ndarray | None = None
    orientations: np.ndarray | None = None
    defects: tuple[Defect, ...] = ()

    def __post_init__(self):
        n = len(self.positions)
        defaults = {"ids": np.arange(n), "rotations": np.zeros(n), "orientations": np.zeros(n, int)}
        for name, default in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, default)
        for name in ("diameters", *defaults):
            if len(getattr(self, name)) != n:
                raise ValueError(
                    f"{len(getattr(self, name))} {name} for {n} positions; Layer.select keeps them in step"
                )

    def __len__(self) -> int:
        return len(self.positions)

    def select(self, keep) -> Layer:
        """The particles chosen by a boolean mask or an index array; defects and lattice stay as they are."""
        keep = np.asarray(keep)
        arrays = ("positions", "diameters", "ids", "rotations", "orientations")
        return replace(self, **{name: getattr(self, name)[keep] for name in arrays})

    def shifted(self, by) -> Layer:
        """The layer moved by (y, x) nm, its planted defects with it."""
        y, x = (float(v) for v in by)
        defects = tuple(
            replace(
                d,
                position=(d.position[0] + y, d.position[1] + x),
                end=None if d.end is None else (d.end[0] + y, d.end[1] + x),
            )
            for d in self.defects
        )
        return replace(self, positions=self.positions + (y, x), defects=defects)


@dataclass(frozen=True)
class Scene:
    """Stacked layers of particles of one shape in a rectangular field of view.

    Parameters
    ----------
    layers : tuple of Layer
        Layer 1 (the base) first; any number of them. Where two layers use the same ids, those of the upper one are
        shifted.
    field : tuple of float
        Height and width of the field of view, in nm.
    shape : str
        One of `moirelib.shapes.SHAPES`.
    height : float
        Height of rods and prisms along the beam, in nm (not used for the other shapes).
    rounding : float
        Radius of the particles' rounded edges over their diameter.
    """

    layers: tuple[Layer, ...]
    field: tuple[float, float]
    shape: str = "sphere"
    height: float = 0.0
    rounding: float = 0.1

    def __post_init__(self):
        layers, used = [], np.empty(0, int)
        for layer in self.layers:
            if np.isin(layer.ids, used).any():
                layer = replace(layer, ids=layer.ids - layer.ids.min() + used.max() + 1)
            layers.append(layer)
            used = np.concatenate([used, layer.ids])
        object.__setattr__(self, "layers", tuple(layers))

    @property
    def twist_angles(self) -> tuple[float, ...]:
        """Twist of layers 2, 3, ... against layer 1, 0 to 30 degrees (hexagonal symmetry); NaN for an empty layer."""
        base, *others = self.layers
        return tuple(fold_hexagonal(o.angle - base.angle) if len(o) else float("nan") for o in others)

    @property
    def twist_angle(self) -> float:
        """Twist between the first two layers, 0 to 30 degrees (hexagonal symmetry); NaN for a single layer."""
        return self.twist_angles[0] if len(self.layers) > 1 else float("nan")


def fold_hexagonal(angle: float) -> float:
    """Smallest equivalent twist of two hexagonal lattices, in degrees between 0 and 30."""
    return float(abs((angle + 30.0) % 60.0 - 30.0))


def moire_period(spacing: float, twist_angle: float, other_spacing: float | None = None) -> float:
    """Period of the Moiré pattern of two hexagonal lattices.

    Parameters
    ----------
    spacing : float
        Nearest-neighbour distance a of one lattice, in nm.
    twist_angle : float
        Twist θ, in degrees; equivalent twists (60° apart) give one period.
    other_spacing : float, optional
        Nearest-neighbour distance b of the other lattice, in nm; equal by default.

    Returns
    -------
    float
        a b / √(a² + b² - 2 a b cos θ), in nm, which is a / (2 sin(θ/2)) for a = b; ``inf`` for identical lattices.

    References
    ----------
    Hermann, J. Phys.: Condens. Matter 24, 314210 (2012). Explained in chapter 1, "Lattices".
    """
    a, b = spacing, spacing if other_spacing is None else other_spacing
    half = np.sin(np.radians(fold_hexagonal(twist_angle)) / 2)
    difference = np.hypot(a - b, 2 * np.sqrt(a * b) * half)  # the same root, exact for small twists
    return float(a * b / difference) if difference > 0 else float("inf")


def commensurate_angles(max_sigma: int) -> pd.DataFrame:
    """Twists at which two equal hexagonal lattices share a lattice of coincident sites.

    Parameters
    ----------
    max_sigma : int
        Largest Σ: one site in Σ coincides.

    Returns
    -------
    pandas.DataFrame
        ``sigma, twist_deg`` (0 to 30) and the whole numbers ``m, n``, sorted by Σ. The vector m a₁ + n a₂ is the
        shortest of the coincidence lattice, and the mirror line of a symmetric tilt boundary of this Σ.

    Notes
    -----
    Turning by θ with cos θ = (m² + 4 m n + n²) / (2 (m² + m n + n²)) brings the vector (n, m) onto (m, n). For
    coprime m > n, Σ = m² + m n + n², or a third of it where m - n is a multiple of 3; the latter repeat twists that
    the former give, and are left out. Explained in chapter 1, "Lattices".

    References
    ----------
    Ranganathan, Acta Cryst. 21, 197 (1966); Shallcross et al., Phys. Rev. B 81, 165105 (2010).
    """
    rows = []
    for m in range(2, int(np.sqrt(max_sigma)) + 1):
        for n in range(1, m):
            sigma = m * m + m * n + n * n
            if sigma <= max_sigma and gcd(m, n) == 1 and (m - n) % 3:
                cosine = (m * m + 4 * m * n + n * n) / (2 * sigma)
                rows.append((sigma, fold_hexagonal(np.degrees(np.arccos(cosine))), m, n))
    return pd.DataFrame(sorted(rows), columns=["sigma", "twist_deg", "m", "n"])


def coincidence_period(spacing: float, sigma: int) -> float:
    """Period a √Σ of the coincident sites of two equal hexagonal lattices, in nm; `spacing` in nm."""
    return float(spacing * np.sqrt(sigma))


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


def dislocation_displacement(points, core, burgers, poisson_ratio: float = 1 / 3) -> np.ndarray:
    """Displacement around an edge dislocation in a two-dimensional isotropic crystal.

    Added to a perfect lattice whose core lies between two rows, with a Burgers vector of one spacing along them, it
    leaves one particle with five and one with seven neighbours.

    Parameters
    ----------
    points : array_like, shape (n, 2)
        (y, x) in nm.
    core : array_like, shape (2,)
        (y, x) in nm; no point may lie there.
    burgers : array_like, shape (2,)
        Burgers vector b, (y, x) in nm: the displacement grows by b once around the core, from x towards y.
    poisson_ratio : float
        In two dimensions; 1/3 for a hexagonal lattice of equal springs between nearest neighbours.

    Returns
    -------
    ndarray, shape (n, 2)
        (y, x) in nm. It jumps by b across the half line from the core towards -b; a lattice does not notice.

    References
    ----------
    Anderson, Hirth and Lothe, Theory of Dislocations (2017), section 3.4, with ν/(1 - ν) as the two-dimensional
    ratio; Seung and Nelson, Phys. Rev. A 38, 1005 (1988). Explained in chapter 1, "Lattices".
    """
    burgers = np.asarray(burgers, float)
    b = np.hypot(*burgers)
    along, across = burgers / b, np.array([burgers[1], -burgers[0]]) / b
    r = np.asarray(points, float) - core
    x, y = r @ along, r @ across
    r2 = x * x + y * y
    glide = np.arctan2(y, x) + (1 + poisson_ratio) / 2 * x * y / r2
    climb = -(1 - poisson_ratio) / 4 * np.log(r2 / b**2) - (1 + poisson_ratio) / 4 * (x * x - y * y) / r2
    return b / (2 * np.pi) * (glide[:, None] * along + climb[:, None] * across)


def dilatation_displacement(points, center, area: float) -> np.ndarray:
    """Displacement that makes room for a given area at a point of a two-dimensional crystal: area / (2π r), outwards.

    Parameters
    ----------
    points : array_like, shape (n, 2)
        (y, x) in nm.
    center : array_like, shape (2,)
        (y, x) in nm.
    area : float
        In nm²; one cell (√3/2 a²) for an interstitial.

    Returns
    -------
    ndarray, shape (n, 2)
        (y, x) in nm. Without compression anywhere but at the centre. Explained in chapter 1, "Lattices".
    """
    r = np.asarray(points, float) - center
    return area / (2 * np.pi) * r / np.sum(r * r, axis=1, keepdims=True)


def grain_boundary(
    spacing: float, angle: float, misorientation: float, inclination: float, center, radius: float, closest=None
) -> tuple[np.ndarray, Defect]:
    """Two grains of one lattice that meet at a straight line.

    Parameters
    ----------
    spacing : float
        Nearest-neighbour distance, in nm.
    angle : float
        Direction of a close-packed row of the first grain, in degrees from x towards y.
    misorientation : float
        How much the second grain is turned, in degrees from x towards y.
    inclination : float
        Direction of the boundary, in degrees from x towards y. The second grain lies to its +90° side.
    center : array_like, shape (2,)
        A point (y, x) of the boundary and of both lattices, in nm, and the centre of the circle.
    radius : float
        Of the circle that is filled, in nm.
    closest : float, optional
        Particles of the second grain nearer than this to one of the first are left out, in nm; 0.8 spacings by
        default.

    Returns
    -------
    points : ndarray, shape (n, 2)
        (y, x) in nm.
    defect : Defect
        The boundary.

    Notes
    -----
    Explained in chapter 1, "Lattices".
    """
    line, normal = _line(inclination)
    first = hexagonal_lattice(spacing, angle, center, radius)
    second = hexagonal_lattice(spacing, angle + misorientation, center, radius)
    first = first[(first - center) @ normal < 1e-6 * spacing]
    second = second[(second - center) @ normal > 1e-6 * spacing]
    second = second[_apart(second, first, 0.8 * spacing if closest is None else closest)]
    ends = np.asarray(center) + np.outer([-radius, radius], line)
    turn = fold_hexagonal(misorientation)
    defect = Defect("grain boundary", _pair(ends[0]), end=_pair(ends[1]), misorientation=turn)
    return np.concatenate([first, second]), defect


def twin_boundary(
    spacing: float, angle: float, sigma: int, center, radius: float, closest=None
) -> tuple[np.ndarray, Defect]:
    """A symmetric tilt boundary: one grain is the mirror image of the other across a line of coincident sites.

    Parameters
    ----------
    spacing : float
        Nearest-neighbour distance, in nm.
    angle : float
        Direction of a close-packed row of the first grain, in degrees from x towards y. The boundary runs along its
        lattice vector (m, n) of `commensurate_angles`.
    sigma : int
        Reciprocal density of coincident sites Σ: 7, 13, 19, ...
    center : array_like, shape (2,)
        A coincident site (y, x) on the boundary, in nm, and the centre of the circle.
    radius : float
        Of the circle that is filled, in nm.
    closest : float, optional
        A particle nearer than this to its own mirror image is merged with it on the line, in nm; 0.8 spacings by
        default. Coincident sites on the line, a √Σ apart, are there once.

    Returns
    -------
    points : ndarray, shape (n, 2)
        (y, x) in nm.
    defect : Defect
        The boundary.

    Raises
    ------
    ValueError
        If there is no such Σ.

    Notes
    -----
    Explained in chapter 1, "Lattices".
    """
    found = commensurate_angles(sigma).query("sigma == @sigma")
    if found.empty:
        known = ", ".join(map(str, commensurate_angles(max(sigma, 50))["sigma"].unique()))
        raise ValueError(f"a hexagonal lattice has no twin boundary of Σ {sigma}; Σ is one of {known}, ...")
    _, twist, m, n = found.iloc[0]
    closest = 0.8 * spacing if closest is None else closest
    line, normal = _line(angle + np.degrees(np.arctan2(np.sqrt(3) / 2 * n, m + n / 2)))
    points = hexagonal_lattice(spacing, angle, (0.0, 0.0), radius)
    along, depth = points @ line, -(points @ normal)
    near = np.flatnonzero((depth > -1e-6 * spacing) & (2 * depth < closest))
    near = near[np.lexsort((along[near], np.round(depth[near] / spacing, 6)))]  # coincident sites come first
    on_line = _thinned(along[near], closest)[:, None] * line
    first = points[2 * depth >= closest]
    first = first[_apart(first, on_line, closest)]
    mirrored = first - 2 * (first @ normal)[:, None] * normal
    ends = np.asarray(center) + np.outer([-radius, radius], line)
    defect = Defect("twin boundary", _pair(ends[0]), end=_pair(ends[1]), misorientation=float(twist), sigma=int(sigma))
    return np.concatenate([first, on_line, mirrored]) + np.asarray(center, float), defect


def _line(inclination):
    """Unit vectors (y, x) along a line and to its +90° side."""
    t = np.radians(inclination)
    return np.array([np.sin(t), np.cos(t)]), np.array([np.cos(t), -np.sin(t)])


def _pair(point) -> tuple[float, float]:
    return float(point[0]), float(point[1])


def _apart(points, others, closest) -> np.ndarray:
    """Which points are at least `closest` from every other one."""
    if len(points) == 0 or len(others) == 0:
        return np.ones(len(points), bool)
    return cKDTree(others).query(points)[0] >= closest * (1 - 1e-9)


def _thinned(values, closest) -> np.ndarray:
    """Positions on a line, in the order given, without those too close to an earlier one."""
    kept = []
    for value in values:
        if all(abs(value - k) >= closest for k in kept):
            kept.append(value)
    return np.array(kept)


@dataclass(frozen=True)
class LatticeConfig:
    """Ranges from which `random_scene` draws stacked layers.

    Pairs are (low, high) of a uniform distribution unless said otherwise.
    """

    shapes: tuple[str, ...] = ("sphere", "rod", "cube", "octahedron", "prism")  # round ones seven times in ten
    spacing: tuple[float, float] = (14.0, 55.0)  # nm, log-uniform
    diameter_ratio: tuple[float, float] = (0.55, 0.92)  # diameter / spacing; less where corners would touch
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
    island: float = 0.5  # probability that an upper layer is an island rather than as large as the layer below
    edge: float = 0.4  # probability that the base layer has an edge inside the field
    boundary: float = 0.3  # probability of a boundary between two grains in the base layer
    twin: float = 1 / 3  # share of the boundaries that are twin boundaries
    twin_sigmas: tuple[int, ...] = (7, 13, 19)

    @classmethod
    def published(cls) -> LatticeConfig:
        """Standing gold rods as in published liquid-phase TEM of Moiré lattices.

        112.1 nm high, 27 to 42 nm wide and 40 to 55 nm apart, in islands and grains.
        """
        return cls(
            shapes=("rod",),
            spacing=(40.0, 55.0),
            diameter_ratio=(0.675, 0.764),
            height=112.1,
            island=1.0,
            boundary=0.5,
            single_layer=0.0,
        )


# Of ten images of a library with every shape; facetted particles are the harder to outline but the rarer in practice.
_SHARES = {"sphere": 0.35, "rod": 0.35, "cube": 0.1, "octahedron": 0.1, "prism": 0.1}


def random_scene(config: LatticeConfig, field, rng: np.random.Generator, spacing: float | None = None) -> Scene:
    """Draw one scene of stacked hexagonal layers.

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
        ``config.layers`` layers; all but the first are empty for a single-layer scene. Each lies within the outline
        of the one below. Planted defects whose position is in the field are listed in each layer.

    Notes
    -----
    Circles around the corners of a layer's particles never overlap: particles that displacements brought too close
    are pushed apart, and made smaller where there is no room. Defects are listed where they are in the strained
    crystal, before independent displacements. Explained in chapter 1, "Lattices".
    """
    low, high = np.log(config.spacing)
    spacing = float(np.exp(rng.uniform(low, high))) if spacing is None else float(spacing)
    field = (float(field[0]), float(field[1]))
    particle = _random_particle(config, spacing, rng)
    center = np.asarray(field) / 2 + rng.uniform(-0.5, 0.5, 2) * spacing
    lattice = _Lattice(spacing, rng.uniform(0.0, 60.0), center)
    outline = _random_outline(field, rng, (0.45, 0.9)) if rng.random() < config.edge else _Outline()
    single = rng.random() < config.single_layer
    layers = [_random_layer(config, field, particle, lattice, outline, True, rng)]
    for _ in range(config.layers - 1):
        lattice = _upper_lattice(config, lattice, particle, rng)
        island = rng.random() < config.island
        outline = _random_outline(field, rng, (0.25, 0.5), outline) if island else _Outline(below=outline)
        layer = _random_layer(config, field, particle, lattice, outline, False, rng)
        z = layers[-1].z + particle.depth + rng.uniform(*config.gap)
        layers.append(replace(layer.select(np.zeros(0, int)), z=z, defects=()) if single else replace(layer, z=z))
    return Scene(tuple(layers), field, particle.shape, particle.height, particle.rounding)


@dataclass(frozen=True)
class _Particle:
    """What the particles of a scene have in common; lengths in nm."""

    shape: str
    diameter: float
    height: float
    rounding: float

    @property
    def depth(self) -> float:
        """Extent along the beam."""
        return particle_height(self.shape, self.diameter, self.height, self.rounding)

    @property
    def corners(self) -> float:
        """Circumscribed circle / diameter."""
        return circumscribed_ratio(self.shape, self.rounding)


def _random_particle(config, spacing, rng) -> _Particle:
    share = np.array([_SHARES[shape] for shape in config.shapes])
    shape = str(rng.choice(config.shapes, p=share / share.sum()))
    rounding = float(rng.uniform(*config.rounding))
    ratio = min(rng.uniform(*config.diameter_ratio), 0.96 / circumscribed_ratio(shape, rounding))
    diameter = float(spacing * ratio)
    ratios = rng.uniform(*config.rod_height), rng.uniform(*config.prism_height)
    height = diameter * ratios[shape == "prism"] if config.height is None else config.height
    return _Particle(shape, diameter, float(height), rounding)


@dataclass(frozen=True)
class _Lattice:
    """An ideal hexagonal lattice: nm, degrees, one of its points."""

    spacing: float
    angle: float
    center: np.ndarray


def _upper_lattice(config, below, particle, rng) -> _Lattice:
    """The next layer's lattice: twisted, shifted, of its own spacing."""
    twist = rng.uniform(*config.twist_angle) * rng.choice([-1.0, 1.0])
    if config.upper_spacing is None:
        spacing = below.spacing * (1 + config.spacing_mismatch * rng.standard_normal())
    else:
        spacing = rng.uniform(*config.upper_spacing)
    spacing = max(spacing, 1.04 * particle.diameter * particle.corners)  # particles must still fit beside each other
    direction = rng.uniform(0, 2 * np.pi)
    shift = rng.uniform(*config.offset) * below.spacing * np.array([np.sin(direction), np.cos(direction)])
    return _Lattice(float(spacing), below.angle + twist, below.center + shift)


@dataclass(frozen=True)
class _Outline:
    """An irregular closed outline within the one of the layer below; without a radius, no outline of its own."""

    center: np.ndarray | None = None  # (y, x) nm
    radius: float = np.inf  # nm, mean
    amplitude: np.ndarray | None = None  # relative, of two to six waves around
    phase: np.ndarray | None = None
    below: _Outline | None = None

    def contains(self, points, scale: float = 1.0) -> np.ndarray:
        """Which points (n, 2) lie inside, with the outline's radius scaled."""
        points = np.asarray(points)
        inside = np.ones(len(points), bool)
        if self.below is not None:  # a tenth narrower, so that every particle has others under it
            inside &= self.below.contains(points, 0.9 * scale)
        if self.center is not None:
            y, x = (points - self.center).T
            waves = np.cos(np.arange(2, 7) * np.arctan2(y, x)[:, None] + self.phase) @ self.amplitude
            inside &= np.hypot(y, x) < scale * self.radius * (1 + waves)
        return inside


def _random_outline(field, rng, radius, below=None) -> _Outline:
    """Mean radius as a fraction of the field's longer side; the middle well inside the outline below."""
    for _ in range(50):
        center = np.asarray(field) * rng.uniform(0.3, 0.7, 2)
        if below is None or below.contains(center[None], 0.6)[0]:
            break
    amplitude = 0.25 * rng.standard_normal(5) / np.arange(2, 7)
    phase = rng.uniform(0, 2 * np.pi, 5)
    return _Outline(center, rng.uniform(*radius) * max(field), amplitude, phase, below)


def _random_layer(config, field, particle, lattice, outline, base, rng) -> Layer:
    """One layer: ideal crystal, boundary or dislocations, interstitials, strain, outline, vacancies, displacements."""
    crystal = _random_crystal(config, field, lattice, base, rng)
    for _ in range(0 if crystal.defects else rng.poisson(config.dislocations)):
        crystal.plant_dislocation(_random_site(crystal, field, outline, rng), rng)
    per_field = field[0] * field[1] / (np.sqrt(0.75) * lattice.spacing**2)
    for _ in range(rng.poisson(rng.uniform(*config.interstitials) * per_field)):
        crystal.plant_interstitial(_random_site(crystal, field, outline, rng))
    crystal.displace(_slow_displacement(field, rng.uniform(*config.strain), rng))
    crystal.keep(outline.contains(crystal.points))
    crystal.plant_vacancies(rng.uniform(*config.vacancies), rng)
    crystal.keep(_within(crystal.points, field, particle.diameter))
    defects = [d for d in (_clipped(d, field, outline) for d in crystal.defects) if d is not None]
    n, points = len(crystal.points), crystal.points
    points = points + rng.uniform(*config.position_std) * lattice.spacing * rng.standard_normal(points.shape)
    sizes = particle.diameter * (1 + rng.uniform(*config.diameter_std) * np.clip(rng.standard_normal(n), -2.5, 2.5))
    sizes = np.minimum(sizes, 0.98 * lattice.spacing / particle.corners)
    aligned = rng.random() < config.aligned
    rotations = crystal.angles + 4.0 * rng.standard_normal(n) if aligned else rng.uniform(0, 360, n)
    return Layer(
        *_without_overlap(points, sizes, particle.corners),
        lattice.spacing,
        float(lattice.angle),
        rotations=rotations,
        orientations=rng.integers(0, 2**15, n),
        defects=tuple(defects),
    )


class _Crystal:
    """A crystal while defects are planted in it: its points, and where its defects are by now."""

    def __init__(self, points, angles, spacing, defects=()):
        self.points, self.angles, self.spacing = points, angles, spacing  # nm, row direction in degrees, nm
        self.defects = list(defects)
        self.extra = np.zeros(len(points), bool)  # interstitials

    def displace(self, displacement) -> None:
        """Move points and defects by a function of the position."""
        self.points = self.points + displacement(self.points)
        for i, defect in enumerate(self.defects):
            ends = np.array([defect.position] + ([defect.end] if defect.end else []))
            ends = ends + displacement(ends)
            self.defects[i] = replace(defect, position=_pair(ends[0]), end=_pair(ends[1]) if defect.end else None)

    def keep(self, mask) -> None:
        """Drop all other points."""
        self.points, self.angles, self.extra = self.points[mask], self.angles[mask], self.extra[mask]

    def hollow(self, point) -> np.ndarray:
        """Corners (3, 2) of a triangle of neighbours near a point."""
        near = self.points[cKDTree(self.points).query(point, k=8)[1]]
        second = near[1]
        third = near[2:][np.argmin(np.hypot(*(near[2:] - near[0]).T) + np.hypot(*(near[2:] - second).T))]
        return np.array([near[0], second, third])

    def plant_dislocation(self, point, rng) -> None:
        """An edge dislocation near a point, with its Burgers vector along one of the three rows, either way."""
        one, other, apex = self.hollow(point)[rng.permutation(3)]
        core = (one + other + apex) / 3
        burgers = (other - one) * self.spacing / np.hypot(*(other - one))
        if (apex - core) @ [burgers[1], -burgers[0]] < 0:  # the extra half row begins at the apex: the looser core
            burgers = -burgers
        self.displace(lambda points: dislocation_displacement(points, core, burgers))
        self.defects.append(Defect("dislocation", _pair(core), burgers=_pair(burgers)))

    def plant_interstitial(self, point) -> None:
        """One more particle in the hollow nearest to a point; its neighbours make room."""
        site = self.hollow(point).mean(axis=0)
        self.displace(lambda points: dilatation_displacement(points, site, np.sqrt(0.75) * self.spacing**2))
        angle = self.angles[cKDTree(self.points).query(site)[1]]
        self.points, self.angles = np.vstack([self.points, site]), np.append(self.angles, angle)
        self.extra = np.append(self.extra, True)
        self.defects.append(Defect("interstitial", _pair(site)))

    def plant_vacancies(self, fraction, rng) -> None:
        """Empty a fraction of the sites that have neighbours on all sides."""
        counts = cKDTree(self.points).query_ball_point(self.points, 1.35 * self.spacing, return_length=True) - 1
        empty = (rng.random(len(self.points)) < fraction) & (counts >= 5) & ~self.extra
        self.defects += [Defect("vacancy", _pair(point)) for point in self.points[empty]]
        self.keep(~empty)


def _random_crystal(config, field, lattice, base, rng) -> _Crystal:
    """A single crystal, or two grains that meet at a boundary, on a disk larger than the field."""
    spacing, angle, radius = lattice.spacing, lattice.angle, 0.5 * np.hypot(*field) + 5 * lattice.spacing
    if not base or rng.random() >= config.boundary:
        points = hexagonal_lattice(spacing, angle, lattice.center, radius)
        return _Crystal(points, np.full(len(points), angle), spacing)
    shift = (np.asarray(field) * rng.uniform(0.25, 0.75, 2)) - lattice.center
    center, radius = lattice.center + shift, radius + np.hypot(*shift)
    if rng.random() >= config.twin:
        misorientation, inclination = rng.uniform(5.0, 30.0) * rng.choice([-1.0, 1.0]), rng.uniform(0, 360)
        points, defect = grain_boundary(spacing, angle, misorientation, inclination, center, radius)
    else:
        points, defect = twin_boundary(spacing, angle, int(rng.choice(config.twin_sigmas)), center, radius)
        start, end = np.array([defect.position, defect.end])
        inclination = np.degrees(np.arctan2(*(end - start)))
        misorientation = 2 * (inclination - angle)
    second = (points - center) @ _line(inclination)[1] > 1e-6 * spacing
    return _Crystal(points, np.where(second, angle + misorientation, angle), spacing, [defect])


def _random_site(crystal, field, outline, rng) -> np.ndarray:
    """A point (y, x) well inside the field and the layer, and four spacings from other defects if there is one."""
    inside = _within(crystal.points, field, -1.5 * crystal.spacing)
    inside &= outline.contains(crystal.points, 0.85)
    choices = crystal.points[inside] if inside.any() else crystal.points
    taken = [np.linspace(d.position, d.end or d.position, 100 if d.end else 1) for d in crystal.defects]
    if taken:
        free = _apart(choices, np.concatenate(taken), 4 * crystal.spacing)
        choices = choices[free] if free.any() else choices
    return choices[rng.integers(len(choices))] + 0.1 * crystal.spacing * rng.standard_normal(2)


def _slow_displacement(field, strain, rng):
    """A smooth displacement field of the given strain amplitude: two plane waves longer than half the field."""
    q = 2 * np.pi * rng.uniform(-1.0, 1.0, (2, 2)) / max(field)
    direction = rng.standard_normal((2, 2))
    phase = rng.uniform(0, 2 * np.pi, 2)
    size = 0.5 * strain / np.maximum(np.linalg.norm(q, axis=1), 1 / max(field))
    direction *= (size / np.linalg.norm(direction, axis=1))[:, None]
    return lambda points: np.sin(points @ q.T + phase) @ direction


def _within(points, field, margin=0.0) -> np.ndarray:
    """Which points lie in the field widened by a margin."""
    return np.all((points > -margin) & (points < np.asarray(field) + margin), axis=1)


def _clipped(defect: Defect, field, outline) -> Defect | None:
    """The part of a defect in the field and the layer's outline, or None."""
    line = np.linspace(defect.position, defect.end or defect.position, 2000 if defect.end else 1)
    line = line[_within(line, field) & outline.contains(line)]
    if len(line) == 0:
        return None
    return replace(defect, position=_pair(line[0]), end=_pair(line[-1]) if defect.end else None)


def _without_overlap(points, diameters, corners, rounds: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Positions and diameters of particles whose circumscribed circles (`corners` × diameter) do not overlap.

    Each pair moves apart by half its overlap, a few times over; what overlap is left makes both particles smaller.
    """
    points = np.array(points)
    reach = corners * diameters.max(initial=0)
    for _ in range(rounds):
        i, j, step, distance, touch = _close_pairs(points, corners * diameters, reach)
        push = 0.5 * (np.maximum(touch / np.maximum(distance, 1e-9) - 1, 0))[:, None] * step
        np.add.at(points, j, push)
        np.add.at(points, i, -push)
    i, j, _, distance, touch = _close_pairs(points, corners * diameters, reach)
    scale = np.ones(len(points))
    for k in (i, j):
        np.minimum.at(scale, k, np.minimum(distance / touch, 1))
    return points, diameters * scale


def _close_pairs(points, diameters, reach):
    """Indices of pairs of circles, the step from one to the other, its length, and the length at which they touch."""
    i, j = cKDTree(points).query_pairs(reach, output_type="ndarray").T if len(points) else np.empty((2, 0), int)
    step = points[j] - points[i]
    return i, j, step, np.hypot(*step.T), 0.5 * (diameters[i] + diameters[j])


def growth_schedule(
    layer: Layer, frames: int, rng: np.random.Generator, start: float = 0.2, end: float = 1.0, detachment: float = 0.0
) -> tuple[np.ndarray, pd.DataFrame]:
    """When each particle of a layer is there in a movie in which the layer grows or dissolves.

    Parameters
    ----------
    layer : Layer
        The complete layer.
    frames : int
        Length of the movie.
    rng : numpy.random.Generator
        Source of randomness.
    start, end : float
        Fraction of the layer's particles that are there in the first and the last frame; the number changes evenly.
    detachment : float
        Probability per frame that a particle at the rim leaves again; others attach instead.

    Returns
    -------
    present : ndarray of bool, shape (frames, n)
        In the layer's order.
    events : pandas.DataFrame
        ``frame, particle, event`` (``attach`` or ``detach``), ``y_nm, x_nm``, in the order in which they happened;
        ``frame`` is the first in which a particle is there, or no longer there.

    Raises
    ------
    ValueError
        If a fraction is not between 0 and 1 or there is no frame.

    Notes
    -----
    Growth starts at the middle. A particle attaches where it touches at least one that is there, the more likely the
    more it touches (as the square of their number), an Eden model [1]_ that keeps the rim compact. Particles that
    no chain of neighbours joins to the middle never appear. Explained in chapter 1, "Lattices".

    References
    ----------
    .. [1] Eden, Proc. 4th Berkeley Symp. Math. Stat. Prob. 4, 223 (1961).
    """
    if frames < 1 or not (0 <= start <= 1 and 0 <= end <= 1):
        raise ValueError(f"growth needs frames and fractions between 0 and 1, got {frames}, {start} and {end}")
    growing = _Growing(layer, rng)
    growing.grow_to(round(start * len(layer)))
    present, events = [growing.present.copy()], []
    for frame in range(1, frames):
        goal = round((start + (end - start) * frame / (frames - 1)) * len(layer))
        left = growing.lose_rim(detachment)
        changes = [*left, *growing.shrink_to(goal), *growing.grow_to(goal, avoid=left)]
        events += [(frame, i) for i in changes]
        present.append(growing.present.copy())
    frame, i = np.array(events, int).reshape(-1, 2).T
    present = np.array(present)
    table = pd.DataFrame({"frame": frame, "particle": layer.ids[i]})
    table["event"] = np.where(present[frame, i], "attach", "detach")
    return present, table.assign(y_nm=layer.positions[i, 0], x_nm=layer.positions[i, 1])


class _Growing:
    """Which particles of a layer are there, and how many neighbours of each."""

    def __init__(self, layer, rng):
        self.rng, self.positions = rng, layer.positions
        pairs = cKDTree(layer.positions).query_pairs(1.4 * layer.spacing, output_type="ndarray") if len(layer) else []
        self.neighbours = [[] for _ in range(len(layer))]
        for i, j in pairs:
            self.neighbours[i].append(j)
            self.neighbours[j].append(i)
        self.present = np.zeros(len(layer), bool)
        self.touching = np.zeros(len(layer), int)

    def toggle(self, i) -> None:
        """One particle comes or goes."""
        self.present[i] = not self.present[i]
        self.touching[self.neighbours[i]] += 1 if self.present[i] else -1

    def grow_to(self, goal, avoid=()) -> list[int]:
        """Attach one particle after the other; returns their indices."""
        came = []
        while self.present.sum() < goal:
            weight = np.where(self.present, 0.0, self.touching**2)
            weight[list(avoid)] = 0
            if not self.present.any():
                weight[np.argmin(np.hypot(*(self.positions - self.positions.mean(axis=0)).T))] = 1
            if not weight.any():
                break
            came.append(int(self.rng.choice(len(weight), p=weight / weight.sum())))
            self.toggle(came[-1])
        return came

    def shrink_to(self, goal) -> list[int]:
        """Detach particles that touch few others first; returns their indices."""
        gone = []
        while self.present.sum() > goal:
            weight = np.where(self.present, (6.5 - np.minimum(self.touching, 6)) ** 4, 0.0)
            gone.append(int(self.rng.choice(len(weight), p=weight / weight.sum())))
            self.toggle(gone[-1])
        return gone

    def lose_rim(self, probability) -> list[int]:
        """Each particle with at most four neighbours leaves with a probability; returns the indices."""
        rim = np.flatnonzero(self.present & (self.touching <= 4))
        gone = rim[self.rng.random(rim.size) < probability] if probability > 0 else rim[:0]
        for i in gone:
            self.toggle(i)
        return gone.tolist()


def truth_table(scene: Scene, pixel_size: float, frame: int = 0) -> pd.DataFrame:
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
    rows = []
    for number, layer in enumerate(scene.layers, start=1):
        inside = np.all((layer.positions >= 0) & (layer.positions < scene.field), axis=1)
        px = layer.positions[inside] / pixel_size - 0.5
        ids = layer.ids[inside]  # the same in every frame of a movie
        table = pd.DataFrame({"frame": frame, "particle": ids, "layer": number, "y": px[:, 0], "x": px[:, 1]})
        rows.append(table.assign(diameter_nm=layer.diameters[inside]))
    table = pd.concat(rows, ignore_index=True)
    table["y_nm"], table["x_nm"] = table["y"] * pixel_size, table["x"] * pixel_size
    return table[["frame", "particle", "layer", "y", "x", "y_nm", "x_nm", "diameter_nm"]]


def gold_particle(diameter, rng, vacuum=1.0):
    """Deprecated: use `moirelib.shapes.nanoparticle`."""
    from .shapes import nanoparticle

    return nanoparticle("sphere", diameter, rng, vacuum=vacuum)
