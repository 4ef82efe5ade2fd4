"""Displacement fields of dislocations and point defects; grain and twin boundaries (chapter 1)."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree

from ..crystal.lattice import commensurate_angles, fold_hexagonal, hexagonal_lattice
from .scene import Defect, as_pair

CLOSEST_PARTICLES = 0.8  # spacings: nearer particles of two grains would overlap; a choice
ON_LINE = 1e-6  # spacings: rounding error of a site on a boundary


def dislocation_displacement(
    points: ArrayLike, core: ArrayLike, burgers: ArrayLike, poisson_ratio: float = 1 / 3
) -> np.ndarray:
    """Displacement around an edge dislocation in a two-dimensional isotropic crystal, (y, x) in nm, shape (n, 2).

    It grows by the Burgers vector b once around the core, from x towards y, and jumps by b across the half line from
    the core towards -b. No point may lie on the core. Poisson's ratio, in two dimensions, is 1/3 for equal springs
    between nearest neighbours. Anderson, Hirth and Lothe, Theory of Dislocations (2017), section 3.4, with ν/(1 - ν) as
    the two-dimensional ratio; Seung and Nelson, Phys. Rev. A 38, 1005 (1988).
    """
    burgers = np.asarray(burgers, float)
    b = np.hypot(*burgers)
    along, across, r = burgers / b, np.array([burgers[1], -burgers[0]]) / b, np.asarray(points, float) - core
    x, y = r @ along, r @ across
    r2 = x * x + y * y
    glide = np.arctan2(y, x) + (1 + poisson_ratio) / 2 * x * y / r2
    climb = -(1 - poisson_ratio) / 4 * np.log(r2 / b**2) - (1 + poisson_ratio) / 4 * (x * x - y * y) / r2
    return b / (2 * np.pi) * (glide[:, None] * along + climb[:, None] * across)


def dilatation_displacement(points: ArrayLike, center: ArrayLike, area: float) -> np.ndarray:
    """Displacement (n, 2) that makes room for an area at a point of a two-dimensional crystal: area / (2π r), outwards.

    In nm and nm², without compression anywhere but at the centre; one cell (√3/2 a²) makes room for an interstitial.
    """
    r = np.asarray(points, float) - center
    return area / (2 * np.pi) * r / np.sum(r * r, axis=1, keepdims=True)


def grain_boundary(
    spacing: float,
    angle: float,
    misorientation: float,
    inclination: float,
    center: ArrayLike,
    radius: float,
    closest: float | None = None,
) -> tuple[np.ndarray, Defect]:
    """Two grains of one lattice that meet at a straight line: points (y, x) in nm, shape (n, 2), and the boundary.

    The first grain has the angle, the second is turned by the misorientation and lies to the +90° side of the boundary,
    which runs along the inclination, all in degrees from x towards y. The centre (y, x) is a point of both lattices, of
    the boundary, and of the circle (radius in nm) that is filled. Particles of the second grain nearer than ``closest``
    (nm, 0.8 spacings by default) to one of the first are left out.
    """
    line, normal = direction_along(inclination)
    first, second = (hexagonal_lattice(spacing, angle + turn, center, radius) for turn in (0.0, misorientation))
    first = first[(first - center) @ normal < ON_LINE * spacing]
    second = second[(second - center) @ normal > ON_LINE * spacing]
    second = second[far_from(second, first, CLOSEST_PARTICLES * spacing if closest is None else closest)]
    boundary = _boundary("grain boundary", center, radius * line, fold_hexagonal(misorientation))
    return np.concatenate([first, second]), boundary


def twin_boundary(
    spacing: float, angle: float, sigma: int, center: ArrayLike, radius: float
) -> tuple[np.ndarray, Defect]:
    """A symmetric tilt boundary: one grain is the mirror image of the other across a line of coincident sites.

    Points and defect as of `grain_boundary`; the centre is a coincident site. The boundary runs along the vector (m, n)
    of `commensurate_angles`, for a Σ of 7, 13, 19, ... A particle nearer than 0.8 spacings to its own mirror image is
    merged with it, so that coincident sites on the line, a √Σ apart, are there once.
    """
    found = commensurate_angles(sigma).query("sigma == @sigma")
    if found.empty:
        known = ", ".join(map(str, commensurate_angles(max(sigma, 50))["sigma"].unique()))
        raise ValueError(f"a hexagonal lattice has no twin boundary of Σ {sigma}; Σ is one of {known}, ...")
    _, twist, m, n = found.iloc[0]
    closest = CLOSEST_PARTICLES * spacing
    line, normal = direction_along(angle + np.degrees(np.arctan2(np.sqrt(3) / 2 * n, m + n / 2)))
    points = hexagonal_lattice(spacing, angle, (0.0, 0.0), radius)
    along, depth = points @ line, -(points @ normal)
    near = np.flatnonzero((depth > -ON_LINE * spacing) & (2 * depth < closest))
    near = near[np.lexsort((along[near], np.round(depth[near] / spacing, 6)))]  # coincident sites come first
    kept: list[float] = []
    for value in along[near]:
        if all(abs(value - k) >= closest for k in kept):
            kept.append(value)
    on_line, first = np.outer(kept, line), points[2 * depth >= closest]
    first = first[far_from(first, on_line, closest)]
    mirrored = first - 2 * (first @ normal)[:, None] * normal
    boundary = _boundary("twin boundary", center, radius * line, float(twist), int(sigma))
    return np.concatenate([first, on_line, mirrored]) + np.asarray(center, float), boundary


def _boundary(kind, center, half, misorientation, sigma=0) -> Defect:
    """A straight boundary through a centre; half its length (y, x) in nm."""
    start, end = (as_pair(np.asarray(center) + step) for step in (-half, half))
    return Defect(kind, start, end=end, misorientation=misorientation, sigma=sigma)


def direction_along(inclination):
    """Unit vectors (y, x) along a line and to its +90° side."""
    t = np.radians(inclination)
    return np.array([np.sin(t), np.cos(t)]), np.array([np.cos(t), -np.sin(t)])


def far_from(points, others, closest) -> np.ndarray:
    """Which points are at least `closest` from every other one."""
    if len(points) == 0 or len(others) == 0:
        return np.ones(len(points), bool)
    return cKDTree(others).query(points)[0] >= closest * (1 - 1e-9)
