"""One layer in one frame, with its triangulation, grains and lattices, each computed once (chapter 9)."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ..crystal.mesh import THREE_SHELLS, LocalLattices, Mesh, lattices_around
from ..crystal.neighbours import spans_plane
from ..tables import layers_by_frame
from .grains import Tolerance, check_grain, split_grains
from .lattices import LatticeFit, fit_members


@dataclass(frozen=True, eq=False)
class LayerFrame:
    """One layer in one frame: ``LayerFrame(Mesh(points))``. Defects and Moiré are measured from it."""

    mesh: Mesh
    tolerance: Tolerance = Tolerance()
    known_grain: ArrayLike | None = None  # (n,) grain of each particle, where it need not be found

    @cached_property
    def grain(self) -> np.ndarray:
        """Grain of each particle, shape (n,): 0, 1, ... by falling size, -1 for none."""
        if self.known_grain is not None:
            return check_grain(self.known_grain, self.mesh)
        return split_grains(self.mesh, self.tolerance)

    @cached_property
    def lattices(self) -> list[LatticeFit | None]:
        """Lattice of each grain, by number; None where too few particles hang together."""
        return [fit_members(self.mesh, self.grain == k) for k in range(self.grain.max(initial=-1) + 1)]

    @property
    def main_lattice(self) -> tuple[int, LatticeFit] | None:
        """Number and lattice of the largest grain that has one."""
        return next(((k, fit) for k, fit in enumerate(self.lattices) if fit is not None), None)

    @cached_property
    def surroundings(self) -> LocalLattices:
        """Lattice around each particle, from three shells of neighbours of its own grain."""
        return lattices_around(self.mesh, THREE_SHELLS, self.grain)

    def of_grain(self, number: int) -> "LayerFrame":
        """The same particles with one grain only, which becomes number 0."""
        alone = np.where(self.grain == number, 0, -1)
        return self if np.array_equal(alone, self.grain) else LayerFrame(self.mesh, self.tolerance, alone)


def layer_frames(particles: pd.DataFrame) -> Iterator[tuple[int, dict[int, LayerFrame]]]:
    """Every frame's number and layers, in rising order of the frames, without layers that `triangulate` leaves out."""
    return ((frame, triangulate_layers(layers)) for frame, layers in layers_by_frame(particles))


def triangulate_layers(layers: dict[int, np.ndarray]) -> dict[int, LayerFrame]:
    """Each layer of a frame, from positions (n, 2) in nm; those without four particles off a line are left out."""
    return {k: LayerFrame(Mesh(points)) for k, points in layers.items() if spans_plane(points)}
