"""Moiré lattices of nanoparticles: layers, scenes, and the geometry of hexagonal lattices and their defects.

Explained in chapter 1, "Lattices".
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from math import gcd

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from .shapes import particle_height

__all__ = [
    "Defect",
    "Layer",
    "Scene",
    "coincidence_period",
    "commensurate_angles",
    "dilatation_displacement",
    "dislocation_displacement",
    "finite",
    "fold_hexagonal",
    "grain_boundary",
    "hexagonal_lattice",
    "moire_period",
    "truth_parameters",
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
        object.__setattr__(self, "positions", np.asarray(self.positions, float).reshape(-1, 2))
        n = len(self.positions)
        defaults = {"ids": np.arange(n), "rotations": np.zeros(n), "orientations": np.zeros(n, int)}
        for name, default in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, default)
        for name in ("diameters", *defaults):
            object.__setattr__(self, name, np.asarray(getattr(self, name)))
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
        if len(self.layers) == 0:
            raise ValueError("a scene needs at least one layer, which may be empty")
        layers, used = [], np.empty(0, int)
        for layer in self.layers:
            if np.isin(layer.ids, used).any():
                layer = replace(layer, ids=layer.ids - layer.ids.min() + used.max() + 1)
            layers.append(layer)
            used = np.concatenate([used, layer.ids])
        object.__setattr__(self, "layers", tuple(layers))

    @property
    def depth(self) -> float:
        """Extent along the beam, from the base's lower to the highest particles' upper surface, in nm."""
        there = [layer for layer in self.layers if len(layer)]
        if not there:
            return 0.0
        largest = max(float(layer.diameters.max()) for layer in there)
        return there[-1].z - there[0].z + particle_height(self.shape, largest, self.height, self.rounding)

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


def truth_parameters(scene: Scene, pixel_size: float) -> dict:
    """Truth of a scene beside its particles, for the records of libraries and movies.

    Parameters
    ----------
    scene : Scene
        The scene.
    pixel_size : float
        In nm/pixel; planted defects are counted from the middle of the first pixel, as in `truth_table`.

    Returns
    -------
    dict
        Pixel size, shape, height, rounding, twist; spacing, row angle, height and planted defects by layer. Lengths
        in nm, angles in degrees.
    """
    middle = (-pixel_size / 2, -pixel_size / 2)
    return {
        "pixel_size_nm": float(pixel_size),
        "shape": scene.shape,
        "height_nm": scene.height,
        "rounding": scene.rounding,
        "twist_deg": scene.twist_angle,
        "spacing_nm": [layer.spacing for layer in scene.layers],
        "angle_deg": [layer.angle for layer in scene.layers],
        "z_nm": [layer.z for layer in scene.layers],
        "defects": [[asdict(d) for d in layer.shifted(middle).defects] for layer in scene.layers],
    }


def finite(value):
    """Truth as JSON can hold it: NaN (a single layer's twist) becomes null, infinity the text "inf"."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None if np.isnan(value) else str(value)
    return value
