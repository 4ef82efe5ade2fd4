"""Lattices of grains and of every particle's surroundings; a layer of a frame with all of them (chapter 9)."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree

from ..crystal.lattice import Lattice
from ..crystal.mesh import ROUNDING, SIXTH_TURN, THREE_SHELLS, LocalLattices, Mesh, lattices_around, sixth_turns
from ..crystal.neighbours import REACH, spans_plane, to_points
from ..tables import layers_by_frame
from .grains import Tolerance, check_grain, split_grains

FEWEST = 6  # particles of a lattice: twice the three complex numbers that are fitted
OUTLIER = 5.0  # standard deviations of the residuals; farther particles sit on no site
CLOSE = 0.05  # spacings; nearer particles are never outliers
GOOD_BOND = 0.3  # spacings between a bond and the lattice vector it is named by
SURE_BOND = 0.25  # spacings; bonds this good are right about the numbers of their sites
CONTRADICTIONS = 3  # sure bonds that contradict the numbers of their sites: a dislocation
BLOCK = 5.0  # spacings; residuals farther apart count as independent
FEWEST_BLOCKS = 8  # fewer do not give a variance of their own
CORRELATED = 1.5  # ratio of the blocks' error to that of independent residuals, above which residuals are not


@dataclass(frozen=True)
class LatticeFit(Lattice):
    """A lattice fitted to the positions of a grain by least squares; its spacing in nm, and angle, are without strain.

    Site (m, n) lies at origin + m a₁ + n a₂.
    """

    origin: np.ndarray  # (y, x) of site (0, 0), nm
    vectors: np.ndarray  # a₁ and a₂, 60° apart before strain, rows (y, x), nm
    spacing_std: float  # nm
    angle_std: float  # degrees
    residual_std: float  # nm, scatter of particles about their sites, per component
    shear: float  # largest strain without change of area
    n: int  # particles used
    index: np.ndarray  # (n_points, 2) m and n of each particle, NaN where it has none


def fit_lattice(points: ArrayLike) -> LatticeFit:
    """Lattice vectors of a grain (n, 2), in nm, with their errors, by least squares over all its sites.

    Particles are numbered by walking from neighbour to neighbour, over the most regular bonds first, which neither slow
    strain nor the edge disturbs; then origin and vectors follow from linear regression of the positions on the numbers.
    Where residuals are not independent, as under slow strain, the errors are those of blocks of five spacings that are:
    a cluster-robust covariance (Cameron & Miller, J. Human Resources 50, 317 (2015)). Around a dislocation numbers
    depend on the way; where bonds contradict them, vectors come from the bonds alone, which costs precision.
    """
    mesh = Mesh(points)
    fit = fit_members(mesh, np.ones(mesh.n, bool))
    if fit is None:
        raise ValueError(f"a lattice needs at least 6 particles in one piece; the {mesh.n} given form none")
    return fit


def fit_members(mesh: Mesh, members: np.ndarray) -> LatticeFit | None:
    """Fit of those particles (mask, shape (n,)) of a mesh that form a grain; None if fewer than six hang together."""
    named = name_bonds(mesh, members)
    site = _number_sites(mesh, *named)
    known = np.isfinite(site)
    for last in (False, False, True):  # without those that sit on no site
        if known.sum() < FEWEST:
            return None
        center = site[known].mean()
        w = site[known] - center
        design = np.stack([np.ones_like(w), w, np.conj(w)], axis=1)
        inverse = np.linalg.pinv(np.conj(design.T) @ design)
        # z = c + q w + p w*: q is spacing and direction, p the shear
        c, q, p = coefficients = inverse @ (np.conj(design.T) @ mesh.z[known])
        residual = mesh.z[known] - design @ coefficients
        scatter = 1.4826 * np.median(np.abs(residual.view(float)))  # standard deviation of a Gaussian
        keep = np.abs(residual) < max(OUTLIER * scatter, CLOSE * mesh.spacing)
        if keep.all() or last:
            break
        known[np.flatnonzero(known)[~keep]] = False
    errors = _estimate_errors(mesh.z[known], design, inverse, residual, q, column=1)
    i, j, vector, misfit = named
    sure = (misfit < SURE_BOND) & np.isfinite(site[i]) & np.isfinite(site[j])
    if np.sum(np.abs(site[j] - site[i] - vector)[sure] > 0.5) >= CONTRADICTIONS:
        # Numbers depend on the way around a dislocation, bonds do not.
        q, p, errors = fit_from_bonds(mesh, *named)
    return _describe_fit(site, known, (c, q, p), errors, residual, center)


def name_bonds(mesh: Mesh, members: np.ndarray):
    """Indices of bonds (i, j) between members, their lattice vectors in one frame, and misfits, in spacings."""
    i, j = mesh.edges.T
    use = members[i] & members[j] & (np.abs(np.abs(mesh.vector) - 1) < ROUNDING)
    row = np.angle(np.nansum(mesh.psi6[members])) / 6
    return i[use], j[use], mesh.vector[use] * sixth_turns(mesh.frame[use], row), mesh.misfit[use]


def _number_sites(mesh, i, j, vector, misfit) -> np.ndarray:
    """Lattice vector (complex, in units of the spacing) of every site from one of them; NaN where no bond leads."""
    site = np.full(mesh.n, np.nan + 0j)
    if len(i) == 0:
        return site
    tree = minimum_spanning_tree(sparse.coo_array((misfit + 1e-3, (i, j)), shape=(mesh.n, mesh.n)))
    label = connected_components(tree, directed=False)[1]
    largest = np.flatnonzero(label == np.bincount(label).argmax())
    start = largest[np.abs(mesh.z[largest] - mesh.z[largest].mean()).argmin()]
    order, before = breadth_first_order(tree, start, directed=False)
    step = sparse.csr_array((np.r_[vector, -vector], (np.r_[i, j], np.r_[j, i])), shape=(mesh.n, mesh.n))
    site[start] = 0
    along = np.asarray(step[before[order[1:]], order[1:]]).ravel()
    for k, value in zip(order[1:], along, strict=True):
        site[k] = site[before[k]] + value
    return site


def fit_from_bonds(mesh: Mesh, i: np.ndarray, j: np.ndarray, vector: np.ndarray, misfit: np.ndarray):
    """Spacing and row, shear, and their errors from the bonds alone: the mean of the lattices around all particles."""
    good = misfit < GOOD_BOND
    i, j, w = i[good], j[good], vector[good]
    design, step = np.stack([w, np.conj(w)], axis=1), mesh.z[j] - mesh.z[i]
    inverse = np.linalg.pinv(np.conj(design.T) @ design)
    q, p = inverse @ (np.conj(design.T) @ step)
    residual = step - q * w - p * np.conj(w)
    return q, p, _estimate_errors((mesh.z[i] + mesh.z[j]) / 2, design, inverse, residual, q, column=0)


def _estimate_errors(z, design, inverse, residual, q, column):
    """Standard deviations of q along itself and across it."""
    n, parameters = design.shape
    variance = np.sum(np.abs(residual) ** 2) / max(2 * (n - parameters), 1)  # per component
    plain = np.sqrt(variance * inverse[column, column].real)
    blocks = sum_by_blocks(z, BLOCK * np.abs(q), design, inverse, residual)
    if blocks is None:
        return plain, plain
    ahead = blocks[:, column] * np.exp(-1j * np.angle(q))
    radial, tangential = np.linalg.norm(ahead.real), np.linalg.norm(ahead.imag)
    if max(radial, tangential) < CORRELATED * plain:  # few blocks would only add their own scatter
        return plain, plain
    return max(radial, plain), max(tangential, plain)


def sum_by_blocks(z, size, design, inverse, residual) -> np.ndarray | None:
    """Deviation (blocks, parameters) that the residuals of each block cause in a linear fit; None for too few blocks.

    Residuals (n,) are at z = x + iy, in square blocks of some size; residuals of different blocks are independent.
    """
    block = np.floor(np.stack([z.real, z.imag]) / size)
    name = np.unique(block, axis=1, return_inverse=True)[1].ravel()
    blocks = name.max() + 1
    if blocks < FEWEST_BLOCKS:
        return None
    score = np.zeros((blocks, design.shape[1]), design.dtype)
    np.add.at(score, name, np.conj(design) * residual[:, None])
    return np.sqrt(blocks / (blocks - 3)) * score @ inverse.T


def _describe_fit(site, known, coefficients, errors, residual, center) -> LatticeFit:
    c, q, p = coefficients
    basis = np.array([1, np.exp(1j * SIXTH_TURN)])
    second = site.imag / np.sin(SIXTH_TURN)
    n, (radial, tangential) = int(known.sum()), map(float, errors)
    return LatticeFit(
        origin=to_points(c - q * center - p * np.conj(center)),
        vectors=to_points(q * basis + p * np.conj(basis)),
        spacing=float(np.abs(q)),
        angle=float(np.degrees(np.angle(q)) % 60),
        spacing_std=radial,
        angle_std=float(np.degrees(tangential / np.abs(q))),
        residual_std=float(np.sqrt(np.sum(np.abs(residual) ** 2) / max(2 * n - 6, 1))),
        shear=float(np.abs(p / q)),
        n=n,
        index=np.rint(np.where(known[:, None], np.stack([site.real - second / 2, second], axis=1), np.nan)),
    )


def local_lattices(
    points: ArrayLike, spacing: float | None = None, reach: float = REACH, grain: ArrayLike | None = None
) -> LocalLattices:
    """Affine fit of a hexagonal lattice to each particle's neighbours within ``reach`` spacings, of the same ``grain``.

    A reach of 1.35 takes the first shell of neighbours, 2.15 three. NaN where fewer than three neighbours in different
    directions are near. Neighbours farther than 0.3 spacings from a lattice site as the particle sees it are left out.
    Falk & Langer, Phys. Rev. E 57, 7192 (1998) for the fit.
    """
    mesh = Mesh(points, spacing)
    return lattices_around(mesh, reach, None if grain is None else check_grain(grain, mesh))


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
