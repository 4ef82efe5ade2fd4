"""Shapes of gold nanoparticles: the thickness that the beam meets, and the atoms of the same solid (chapter 1).

Every solid is a sharp one, made smaller, plus a ball that rounds its edges (a Minkowski sum).
"""

from functools import lru_cache

import numpy as np
import torch
from ase import Atoms
from ase.data import atomic_numbers, reference_states
from scipy.spatial.transform import Rotation

VACUUM = 1.0  # nm, empty margin on every side of a particle's atoms
SMALLEST = 0.5  # nm, diameter of a particle: little more than one unit cell
FEW_PLANES = 10.0  # nm, diameter below which the position of the planes matters
POSITIONS = 16  # of the planes that are tried there

#: Every shape has a name here; sphere and rod are round, the others have flat facets.
SHAPES = ("sphere", "rod", "cube", "octahedron", "prism")

# Regular polygon of side s that each facetted shape shows to the beam: area / s², perimeter / s, circumradius / s.
_POLYGONS = {
    "cube": (1.0, 4.0, np.sqrt(0.5)),
    "octahedron": (1.5 * np.sqrt(3), 6.0, 1.0),
    "prism": (0.25 * np.sqrt(3), 3.0, 1 / np.sqrt(3)),
}


def lattice_constant(material: str = "Au") -> float:
    """Edge of the cubic cell of an fcc metal, in nm (gold 0.4078 nm; others from ASE's reference states)."""
    state: dict | None = reference_states[atomic_numbers[material]] if material in atomic_numbers else None
    if not state or state.get("symmetry") != "fcc":
        raise ValueError(f"{material!r} is not the symbol of an fcc metal, such as Au, Ag, Pt, Pd, Cu or Al")
    return 0.4078 if material == "Au" else state["a"] / 10


def _core_side(shape: str, rounding: float) -> float:
    """Side of the polygon before rounding, over the diameter: with its rounded border it has the area π d²/4."""
    area, perimeter, _ = _POLYGONS[shape]
    # Steiner's formula for a convex polygon widened by ρ: A s² + P s ρ + π ρ² = π d²/4
    b, c = perimeter * rounding, np.pi * (rounding**2 - 0.25)
    return float((np.sqrt(b * b - 4 * area * c) - b) / (2 * area))


def _check(shape: str, height: float, rounding: float) -> None:
    if shape not in SHAPES:
        raise ValueError(f"unknown shape {shape!r}; choose one of {', '.join(SHAPES)}")
    if shape in ("rod", "prism") and not height > 0:
        raise ValueError(f"a {shape} needs a height along the beam; pass height=... (nm)")
    most = 0.45 if shape == "octahedron" else 0.5  # an octahedron rounded all the way is better called a sphere
    if not 0 <= rounding <= most:
        raise ValueError(f"rounding of a {shape} is a radius over the diameter, between 0 and {most}, got {rounding}")


def circumscribed_ratio(shape: str, rounding: float = 0.0) -> float:
    """Diameter of the smallest circle around a particle's projection, over its equivalent diameter."""
    _check(shape, 1.0, rounding)
    if shape not in _POLYGONS:
        return 1.0
    return 2 * (_core_side(shape, rounding) * _POLYGONS[shape][2] + rounding)


def particle_height(shape: str, diameter: float, height: float = 0.0, rounding: float = 0.1) -> float:
    """Extent along the beam in nm: a sphere's diameter, a cube's edge, an octahedron's facets, or ``height``."""
    _check(shape, height, rounding)
    if shape == "sphere":
        return diameter
    if shape in ("rod", "prism"):
        return height
    side = _core_side(shape, rounding)
    core = side if shape == "cube" else np.sqrt(2) * side  # opposite facets of an octahedron of edge √3 s
    return float(diameter * (core + 2 * rounding))


def particle_thickness(
    shape: str,
    y: torch.Tensor,
    x: torch.Tensor,
    diameter: torch.Tensor | float,
    rotation: torch.Tensor | float = 0.0,
    height: float = 0.0,
    rounding: float = 0.1,
) -> torch.Tensor:
    """Thickness of a particle along the beam in nm, 0 outside it: float32 on the device of ``y``.

    Takes offsets from the centre (y, x) and the equivalent circular diameter of the projection (area π d²/4) as tensors
    in nm; the rotation in the plane in degrees from x towards y; the height of rods and prisms in nm; and the radius of
    rounded edges over the diameter, 0 to 0.5 (octahedra 0.45). Rods stand along the beam, cubes on a facet, octahedra
    and prisms on a triangular one. At 0 degrees a cube's facets face x and y, and one edge of an octahedron's or a
    prism's upper facet is parallel to x. Walls along the beam bulge a little, so that the thickness is continuous.
    """
    _check(shape, height, rounding)
    y, x = y.float(), x.float()
    diameter, rotation = (torch.as_tensor(v, dtype=torch.float32, device=y.device) for v in (diameter, rotation))
    if shape == "sphere":
        return (0.25 * diameter**2 - y * y - x * x).clamp_(min=0).sqrt_().mul_(2)
    if shape == "rod":
        r = (y * y + x * x).sqrt_()
        return _rounded_wall(r - (0.5 - rounding) * diameter, diameter, height, rounding)
    cos, sin = torch.cos(torch.deg2rad(rotation)), torch.sin(torch.deg2rad(rotation))
    along, across = x * cos + y * sin, y * cos - x * sin
    if shape == "octahedron":  # its rounded surface has many pieces
        table, half = _octahedron_table(rounding)
        grid = torch.stack(torch.broadcast_tensors(along / (half * diameter), across / (half * diameter)), dim=-1)
        table, at = table.to(grid.device)[None, None], grid.reshape(1, 1, -1, 2)
        sampled = torch.nn.functional.grid_sample(table, at, align_corners=True, padding_mode="zeros")
        return sampled.reshape(grid.shape[:-1]) * diameter
    side = _core_side(shape, rounding) * diameter
    if shape == "cube":
        distance = torch.hypot((along.abs() - side / 2).clamp_(min=0), (across.abs() - side / 2).clamp_(min=0))
        return _rounded_wall(distance, diameter, side + 2 * rounding * diameter, rounding)
    return _rounded_wall(_triangle_distance(along, across, side), diameter, height, rounding)


def _rounded_wall(distance, diameter, height, rounding: float):
    """Thickness of an upright solid at a distance (nm) from its sharp core; its rims are quarter circles."""
    height = torch.as_tensor(height, dtype=torch.float32, device=distance.device)
    if rounding == 0:
        return height * (distance <= 0)
    rim, u = torch.minimum(rounding * diameter, 0.5 * height), (distance / (rounding * diameter)).clamp_(0, 1)
    wall = (1 - (4 * u - 3).clamp_(min=0).square_()).sqrt_()  # the outer quarter of the rim, down to the middle
    return (height - 2 * rim) * wall + 2 * rim * (1 - u * u).sqrt_()


def _triangle_distance(along, across, side):
    """Distance to an equilateral triangle about the origin, one edge parallel to `along` on its negative side."""
    k = np.sqrt(3.0)
    u, v = along.abs() - side / 2, across + side / (2 * k)
    # The triangle's three corners are equivalent: fold the plane onto the one sixth that faces the lower edge.
    fold = u + k * v > 0
    u, v = torch.where(fold, (u - k * v) / 2, u), torch.where(fold, (-k * u - v) / 2, v)
    u = u - torch.minimum(u.clamp(max=0), u * 0).maximum(-side)
    return torch.where(v < 0, torch.hypot(u, v), 0.0)


@lru_cache(maxsize=16)
def _octahedron_table(rounding: float):
    """Thickness of an octahedron of diameter 1 on a square grid, and the grid's half width."""
    half = 0.5 * circumscribed_ratio("octahedron", rounding) * 1.01
    axis = np.linspace(-half, half, 513)
    top = _octahedron_top(axis[:, None], axis[None, :], _core_side("octahedron", rounding), rounding)
    thickness = top + top[::-1, ::-1]  # inversion symmetry: the lower surface is the upper one, turned by 180°
    return torch.from_numpy(np.maximum(thickness, 0).astype(np.float32)), half


def _octahedron_top(y, x, side: float, radius: float) -> np.ndarray:
    """Upper surface of an octahedron (edge √3 side) plus a ball, above its middle; minus infinity outside."""
    t = np.radians([30.0, 150.0, 270.0])
    upper = np.stack([side * np.cos(t), side * np.sin(t), np.full(3, side / np.sqrt(2))], axis=1)  # (x, y, z)
    lower, top = -upper, np.full(np.broadcast_shapes(np.shape(y), np.shape(x)), -np.inf)
    for face in [upper] + [np.array([upper[i], upper[i - 1], lower[i - 2]]) for i in range(3)]:
        top = np.maximum(top, _face_top(y, x, face, radius))
    for i in range(3):  # the lower facet's edges are hidden below
        for end in (upper[i - 1], lower[i - 1], lower[i - 2]):
            top = np.maximum(top, _edge_top(y, x, upper[i], end, radius))
    return top


def _face_top(y, x, corners, radius) -> np.ndarray:
    """A facet moved outwards by the ball's radius, above the projection of the facet's own points."""
    normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
    normal = normal / np.linalg.norm(normal) * np.sign(normal[2])
    foot_x, foot_y = x - radius * normal[0], y - radius * normal[1]
    z = corners[0, 2] - ((foot_x - corners[0, 0]) * normal[0] + (foot_y - corners[0, 1]) * normal[1]) / normal[2]
    turns = []
    for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        turns.append((b[0] - a[0]) * (foot_y - a[1]) - (b[1] - a[1]) * (foot_x - a[0]))
    inside = (np.minimum.reduce(turns) >= 0) | (np.maximum.reduce(turns) <= 0)
    return np.where(inside, z + radius * normal[2], -np.inf)


def _edge_top(y, x, start, end, radius) -> np.ndarray:
    """Upper surface of the ball swept along an edge, its ends included."""
    length = np.hypot(*(end - start)[:2])
    ex, ey = (end - start)[:2] / length
    slope, along = (end - start)[2] / length, (x - start[0]) * ex + (y - start[1]) * ey
    reach = radius**2 - (y - start[1]) ** 2 - (x - start[0]) ** 2 + along**2  # squared half chord of the ball's path
    # the ball that reaches highest above a point lies a little up the edge from it
    ball = np.clip(along + np.sqrt(np.maximum(reach, 0)) * slope / np.hypot(1, slope), 0, length)
    cap = reach - (along - ball) ** 2
    return np.where(cap >= 0, start[2] + slope * ball + np.sqrt(np.maximum(cap, 0)), -np.inf)


def nanoparticle(
    shape: str,
    diameter: float,
    rng: np.random.Generator,
    height: float = 0.0,
    rotation: float = 0.0,
    rounding: float = 0.1,
    material: str = "Au",
) -> Atoms:
    """Atoms of one nanoparticle of an fcc metal, carved by the same solid as `particle_thickness`, in Å, as ASE wants.

    Spheres and rods are cut from a crystal in a random orientation. Cubes have {100} facets; octahedra and prisms lie
    on {111}, with the edges of the upper facet along ⟨110⟩. Where the solid's centre lies in the crystal's cell is
    random; in facetted particles of few planes (`FEW_PLANES`) the best of some positions by the number of atoms.

    The solid's centre is in the middle of an orthorhombic cell, the beam along z. The cell is the circumscribed
    circle's diameter wide and the particle's height deep, plus a nanometre on every side.
    """
    _check(shape, height, rounding)
    if not diameter >= SMALLEST:
        raise ValueError(f"a gold particle needs a diameter of at least {SMALLEST} nm, got {diameter}")
    width = diameter * circumscribed_ratio(shape, rounding)
    size = np.array([width, width, particle_height(shape, diameter, height, rounding)])
    crystal = lattice_constant(material) * _crystal_axes(shape, rotation, rng)
    axis = ((torch.arange(400) + 0.5) / 400 - 0.5) * width
    thickness = particle_thickness(shape, axis[:, None], axis, diameter, 0.0, height, rounding)
    volume = float(thickness.sum(dtype=torch.float64)) * (width / 400) ** 2  # nm³
    wanted, cuts = volume / (lattice_constant(material) ** 3 / 4), []
    for _ in range(POSITIONS if shape in _POLYGONS and diameter < FEW_PLANES else 1):
        points = _lattice_points(crystal, size, rng.random(3))
        cuts.append(points[_inside(shape, points, diameter, height, rotation, rounding)])
    points, cell = min(cuts, key=lambda p: abs(len(p) - wanted)), 10 * (size + 2 * VACUUM)
    return Atoms(f"{material}{len(points)}", positions=10 * points + cell / 2, cell=cell, pbc=False)


def _crystal_axes(shape, rotation, rng) -> np.ndarray:
    """Primitive vectors of an fcc crystal in the microscope's frame, one (x, y, z) per row, over the cell's edge."""
    primitive = 0.5 * np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    if shape in ("sphere", "rod"):
        return Rotation.random(random_state=rng).apply(primitive)
    if shape != "cube":  # rows: the crystal directions that point along x, y and z
        axes = np.array([[1.0, -1.0, 0.0], [1.0, 1.0, -2.0], [1.0, 1.0, 1.0]])
        primitive = primitive @ (axes / np.linalg.norm(axes, axis=1, keepdims=True)).T
    return Rotation.from_euler("z", rotation, degrees=True).apply(primitive)


def _lattice_points(vectors, size, offset) -> np.ndarray:
    """All points of a lattice in a box about the origin, (n, 3); `offset` in units of the vectors."""
    turns = 2 - np.argmax(np.abs(vectors[:, 2]))  # the steepest vector comes last: points lie in columns along the beam
    vectors, offset = np.roll(vectors, turns, axis=0), np.roll(offset, turns)
    corners = np.stack(np.meshgrid(*np.outer([-0.5, 0.5], size).T), axis=-1).reshape(-1, 3) @ np.linalg.inv(vectors)
    low, high = np.floor(corners.min(axis=0)), np.ceil(corners.max(axis=0))
    i, j, k = (np.arange(a, b + 1) for a, b in zip(low, high, strict=True))
    found = []
    for plane in i + offset[0]:
        foot = plane * vectors[0] + (j + offset[1])[:, None] * vectors[1] + offset[2] * vectors[2]
        points = foot[:, None] + k[:, None] * vectors[2]
        found.append(points[np.all(np.abs(points) <= size / 2, axis=-1)])
    return np.concatenate(found)


def _inside(shape, points, diameter, height, rotation, rounding) -> np.ndarray:
    """Which points (x, y, z) about the centre lie in the solid."""
    x, y, z = points.T
    if shape == "octahedron":
        t = np.radians(rotation)
        u, v = (x * np.cos(t) + y * np.sin(t)) / diameter, (y * np.cos(t) - x * np.sin(t)) / diameter
        side = _core_side(shape, rounding)
        top, bottom = (_octahedron_top(s * v, s * u, side, rounding) for s in (1, -1))
        return (z <= diameter * top) & (z >= -diameter * bottom)
    y, x = torch.from_numpy(y), torch.from_numpy(x)
    return 2 * np.abs(z) <= particle_thickness(shape, y, x, diameter, rotation, height, rounding).numpy() - 1e-9
