"""Gauss-Newton steps of all particles and what they share, together (chapter 7, "Particles")."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from scipy import sparse
from scipy.linalg import cho_solve_banded, cholesky_banded
from scipy.optimize import lsq_linear
from scipy.sparse.csgraph import reverse_cuthill_mckee

from .image_model import ALIKE, OWN, ImageModel, Prediction
from .particle_prior import ParticlePrior
from .profile_and_blur import IMAGING, SHARED

# Damping is a share of the normal matrix's diagonal (Levenberg and Marquardt). These values, set by hand, decide how
# fast the fit ends, and hardly where.
GENTLE, FIRM, HARDER, SOFTER = 1e-3, 0.03, 30, 5  # first; at least after a failure; times this; over this after success
TRIALS = 5  # of one step, each damped more
TOLERANCE = 1e-4  # of the cost; steps that gain less are the last
SLIGHT = 1e-6  # damping where none is due: keeps the matrix positive in spite of rounding
TINY = 1e-12  # of the largest curvature
AT_BOUND = 1e-3  # of a parameter's range
SOLID_STD = 0.03  # one sigma, how far the exponent of particles may lie from that of a common solid
EXPONENT = [p.name for p in SHARED].index("exponent")
EVERYTHING = tuple(range(len(SHARED)))


class NormalEquations:
    """Least squares for a step of particles' own parameters and of what they share, about a prediction.

    The normal matrix of the particles is nearly empty, as only neighbours overlap. It is factorized, and what is shared
    follows from the Schur complement.
    """

    def __init__(self, model: ImageModel, predicted: Prediction, prior: ParticlePrior, solid: float, free):
        self.predicted, self.prior, self.free = predicted, prior, list(free)
        jacobian, columns = model.linearise(predicted) if self.free else (model.jacobian(predicted), None)
        rows = jacobian.matrix().astype(float)
        self.own, self.regular = rows @ rows.T, prior.matrix()
        self.blocks = jacobian.blocks()
        gradient = jacobian.gradient + prior.gradient(predicted.theta)
        self.gradient = gradient.numpy().astype(float).ravel()
        if columns is not None:
            self.shared, self.mixed = columns.T @ columns, rows @ columns[:, self.free]
            self.steady = np.array([p.std for p in SHARED]) ** -2.0
            self.steady[EXPONENT] += SOLID_STD**-2
            self.shared_gradient = columns.T @ model.residual(predicted.image).numpy().ravel().astype(float)
            self.shared_gradient[EXPONENT] += (solid - predicted.imaging.exponent) / SOLID_STD**2

    def _factorize(self, damping: float) -> Callable[[np.ndarray], np.ndarray]:
        """A function that solves the particles' normal equations.

        Ordered so that neighbours are near to each other, the matrix is a band.
        """
        matrix = (self.own + damping * sparse.diags(self.own.diagonal()) + self.regular).tocsr()
        order = reverse_cuthill_mckee(matrix, symmetric_mode=True)
        entries = matrix[order][:, order].tocoo()
        below = entries.row - entries.col
        bands = np.zeros((below.max() + 1, len(order)))
        bands[below[below >= 0], entries.col[below >= 0]] = entries.data[below >= 0]
        factor = cholesky_banded(bands, lower=True)

        def solve(wanted: np.ndarray) -> np.ndarray:
            found = np.empty_like(wanted)
            found[order] = cho_solve_banded((factor, True), wanted[order])
            return found

        return solve

    def solve(self, damping: float, greatest_offset: float) -> tuple[np.ndarray, np.ndarray]:
        """Steps (n, k) of the particles, beside their mean, and of `SHARED`; what is shared stays within its bounds."""
        solve = self._factorize(damping)
        step, shared = solve(self.gradient), np.zeros(len(SHARED))
        if self.free:
            answers = solve(self.mixed)
            here = np.ix_(self.free, self.free)
            complement = (self.shared + np.diag(damping * np.diag(self.shared) + self.steady))[here]
            complement -= self.mixed.T @ answers
            gradient = self.shared_gradient[self.free] - self.mixed.T @ step
            sizes, axes = np.linalg.eigh(complement)
            root = np.sqrt(sizes.clip(TINY * sizes.max()))  # not negative by rounding
            bounds = self._bounds(greatest_offset)[self.free].T
            shared[self.free] = lsq_linear(root[:, None] * axes.T, axes.T @ gradient / root, bounds).x
            step = step - answers @ shared[self.free]
        return step.reshape(len(self.blocks), -1), shared

    def _bounds(self, greatest_offset) -> np.ndarray:
        """Least and greatest step of each of `SHARED`."""
        bounds = np.full((len(SHARED), 2), [-np.inf, np.inf])
        for k, p in enumerate(SHARED):
            if p in IMAGING:
                upper = min(p.upper, greatest_offset) if p.name == "offset" else p.upper
                bounds[k] = np.array([p.lower, upper]) - getattr(self.predicted.imaging, p.name)
        return bounds + [-1e-9, 1e-9]  # not of no width

    def variance_by_shared(self) -> np.ndarray:
        """Variances (n, k) that particles' parameters have because what they share is not known exactly.

        What is shared may lie anywhere within its bounds; what lies at a bound is taken to be there.
        """
        answers = self._factorize(SLIGHT)(self.mixed)
        range_of = np.array([p.upper - p.lower if p in IMAGING else np.inf for p in SHARED])
        bounds = self._bounds(np.inf)
        loose = np.flatnonzero(np.abs(bounds).min(axis=1) > AT_BOUND * np.minimum(range_of, 1.0))
        complement = (self.shared - self.mixed.T @ answers + np.diag(range_of**-2.0))[np.ix_(loose, loose)]
        change = -answers.reshape(*self.blocks.shape[:2], len(SHARED))
        for k, p in itertools.product(range(2, self.blocks.shape[1]), range(len(SHARED))):
            change[:, k, p] += OWN[k] == SHARED[p].name  # particles' own are measured from the mean
        change = change[:, :, loose]
        return np.einsum("nki,ij,nkj->nk", change, np.linalg.pinv(complement, hermitian=True), change)

    def variance(self, damping: float) -> torch.Tensor:
        """Variances (n, k) of each particle's parameters, all others held."""
        diagonal = self.prior.diagonal() + damping * self.blocks.diagonal(dim1=1, dim2=2)
        return torch.linalg.inv(self.blocks + torch.diag_embed(diagonal)).diagonal(dim1=1, dim2=2)


def fit_jointly(
    model: ImageModel,
    predicted: Prediction,
    prior: ParticlePrior,
    steps: int,
    solid: float = 0.0,
    free: Sequence[int] = EVERYTHING,
) -> tuple[Prediction, ParticlePrior]:
    """Damped Gauss-Newton steps of all particles and of those of `SHARED` that are ``free``; also the prior.

    ``solid`` is the exponent of a common solid. A prior pulls the exponent towards this solid, because blur hides the
    profile. The mean size and depth are shared: the prior's usual ones follow.

    ``scipy.optimize.least_squares`` would not do: each step has a prior about where the fit stands (`SHARED`), which is
    no residual, and bounds that clip every particle by itself.
    """

    def cost_of(some: Prediction, usual: ParticlePrior) -> float:
        cost = model.cost(some) + usual.cost(some.theta)
        return cost + (((some.imaging.exponent - solid) / SOLID_STD) ** 2 if free else 0.0)

    damping, used, cost = GENTLE, GENTLE, cost_of(predicted, prior)
    for _ in range(steps):
        model = model.widen(predicted.imaging)
        equations = NormalEquations(model, predicted, prior, solid, free)
        for _ in range(TRIALS):
            trial, usual = move(model, equations, damping)
            trial_cost = cost_of(trial, usual)
            if trial_cost < cost:
                break
            damping = max(damping * HARDER, FIRM)
        else:
            break
        predicted, prior, used, damping = trial, usual, damping, damping / SOFTER
        converged, cost = cost - trial_cost < TOLERANCE * cost, trial_cost
        if converged:
            break
    return predicted, replace(prior, variance=equations.variance(used))


def move(model: ImageModel, equations: NormalEquations, damping: float) -> tuple[Prediction, ParticlePrior]:
    """What the model predicts after a step, and the prior with the usual size and depth after it."""
    predicted, prior = equations.predicted, equations.prior
    step, shared = equations.solve(damping, model.darkest)
    named = {p.name: float(value) for p, value in zip(SHARED, shared, strict=True)}
    mean = torch.tensor([named["diameter"], named["depth"]], dtype=torch.float32)
    prior = replace(prior, usual=prior.usual + mean)
    theta = predicted.theta + torch.from_numpy(step).float()
    theta[:, 2:ALIKE] += mean
    return model.render(prior.bound(theta), predicted.imaging.add_step(named, model.darkest)), prior
