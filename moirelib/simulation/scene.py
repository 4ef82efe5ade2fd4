"""Scenes: stacked layers of nanoparticles with their defects, and the truth of what an image holds (chapter 1)."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ..crystal.lattice import fold_hexagonal
from .shapes import particle_height


@dataclass(frozen=True)
class Defect:
    """One defect that was planted in a layer: the truth that measured defects are compared with."""

    kind: str  # vacancy, interstitial, dislocation, grain boundary or twin boundary
    position: tuple[float, float]  # (y, x) nm: the empty site, extra particle, core, or one end of the boundary
    burgers: tuple[float, float] = (0.0, 0.0)  # (y, x) nm, Burgers vector of a dislocation
    end: tuple[float, float] | None = None  # (y, x) nm, the boundary's other end
    misorientation: float = float("nan")  # degrees from 0 to 30, between the grains on both sides of a boundary
    sigma: int = 0  # reciprocal density of coincident sites Σ of a twin boundary; 0 for all else


@dataclass(frozen=True)
class Layer:
    """One layer of nanoparticles, seen along the beam; arrays are as long as the positions."""

    positions: np.ndarray  # (n, 2) nm, particle centres as (y, x)
    diameters: np.ndarray  # (n,) nm, equivalent circular diameters of the projections
    spacing: float  # nm, nearest-neighbour distance of the ideal lattice
    angle: float  # degrees, direction of one close-packed row from the x axis towards y
    z: float = 0.0  # nm, height of the layer's mid-plane along the beam; the beam enters at small z
    ids: np.ndarray = None  # type: ignore[assignment]  # (n,) unique in a scene, kept through a movie; 0, 1, ...
    rotations: np.ndarray = None  # type: ignore[assignment]  # (n,) degrees in the plane, from x towards y; 0
    orientations: np.ndarray = None  # type: ignore[assignment]  # (n,) rows of the transmission's table, modulo; 0
    defects: tuple[Defect, ...] = ()  # planted

    def __post_init__(self):
        object.__setattr__(self, "positions", np.asarray(self.positions, float).reshape(-1, 2))
        n = len(self.positions)
        defaults = {"ids": np.arange(n), "rotations": np.zeros(n), "orientations": np.zeros(n, int)}
        for name in ("diameters", *defaults):
            values = np.asarray(defaults[name] if getattr(self, name) is None else getattr(self, name))
            if len(values) != n:
                raise ValueError(f"{len(values)} {name} for {n} positions; Layer.select keeps them in step")
            object.__setattr__(self, name, values)

    def __len__(self) -> int:
        return len(self.positions)

    def select(self, keep: ArrayLike) -> "Layer":
        """The particles chosen by a boolean mask or an index array; defects and lattice stay as they are."""
        arrays = ("positions", "diameters", "ids", "rotations", "orientations")
        return replace(self, **{name: getattr(self, name)[np.asarray(keep)] for name in arrays})

    def displace(self, displacement: Callable[[np.ndarray], np.ndarray]) -> "Layer":
        """The layer with particles and planted defects moved by a function of the position, (n, 2) to (n, 2) nm."""
        defects = []
        for defect in self.defects:
            ends = np.array([end for end in (defect.position, defect.end) if end])
            start, *end = (as_pair(point) for point in ends + displacement(ends))
            defects.append(replace(defect, position=start, end=end[0] if end else None))
        return replace(self, positions=self.positions + displacement(self.positions), defects=tuple(defects))

    def shift(self, by: ArrayLike) -> "Layer":
        """The layer moved by (y, x) nm, its planted defects with it."""
        return self.displace(lambda points: np.asarray(by, float))


def as_pair(point) -> tuple[float, float]:
    """A point as a tuple of two floats."""
    return float(point[0]), float(point[1])


@dataclass(frozen=True)
class Scene:
    """Stacked layers of particles of one shape in a rectangular field of view; no two particles have one id."""

    layers: tuple[Layer, ...]  # layer 1 (the base) first; any number of them
    field: tuple[float, float]  # nm, height and width
    shape: str = "sphere"  # one of `SHAPES`
    height: float = 0.0  # nm along the beam, of rods and prisms (not used for the other shapes)
    rounding: float = 0.1  # radius of the particles' rounded edges over their diameter
    soft: float = 0.0  # nm, radius of a disk that the thickness is averaged over: particles that are tilted or wobble

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


def truth_table(scene: Scene, pixel_size: float, frame: int = 0) -> pd.DataFrame:
    """Truth of a scene as a particle table of all particles whose centre is in the field.

    It has ``frame, particle, layer, y, x`` (px), ``y_nm, x_nm, diameter_nm``; the field's corner is at -0.5 pixels.
    """
    rows = []
    for number, layer in enumerate(scene.layers, start=1):
        seen = layer.select(np.all((layer.positions >= 0) & (layer.positions < scene.field), axis=1))
        y, x = seen.positions.T / pixel_size - 0.5
        table = pd.DataFrame({"frame": frame, "particle": seen.ids, "layer": number, "y": y, "x": x})
        rows.append(table.assign(y_nm=y * pixel_size, x_nm=x * pixel_size, diameter_nm=seen.diameters))
    return pd.concat(rows, ignore_index=True)


def truth_parameters(scene: Scene, pixel_size: float) -> dict:
    """Truth beside particles, in nm and degrees, for records; defects count from the middle of the first pixel."""
    planted = [layer.shift((-pixel_size / 2, -pixel_size / 2)).defects for layer in scene.layers]
    return {
        "pixel_size_nm": float(pixel_size),
        "shape": scene.shape,
        "height_nm": scene.height,
        "rounding": scene.rounding,
        "twist_deg": scene.twist_angle,
        "spacing_nm": [layer.spacing for layer in scene.layers],
        "angle_deg": [layer.angle for layer in scene.layers],
        "z_nm": [layer.z for layer in scene.layers],
        "defects": [[asdict(defect) for defect in defects] for defects in planted],
    }


def finite(value: Any) -> Any:
    """Truth as JSON can hold it: NaN (a single layer's twist) becomes null, infinity the text "inf"."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None if np.isnan(value) else str(value)
    return value
