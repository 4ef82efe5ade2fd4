"""Steps that fit a frame: of each particle's own parameters, and of what all share (chapter 7, "Particles")."""

from dataclasses import replace

import numpy as np
import torch

from .image_model import ImageModel, Jacobian, Prediction
from .particle_prior import ParticlePrior
from .profile_and_blur import DEPTH, DIAMETER, SHARED

# Damping is a share of the normal matrix's diagonal (Levenberg and Marquardt). Values without a source were set by
# hand: they decide how fast the fit ends, and hardly where.

GENTLE, FIRM, HARDER = 1e-3, 0.03, 30  # damping of particles' steps: first, at least after a failure, and its growth
PARTICLE_TRIALS = 3  # of one step, each damped more
CG_STEPS, CG_TOLERANCE = 30, 1e-4  # at most, and share of the preconditioned squared gradient at which they end
SHARED_DAMPING, SHARED_HARDER, SHARED_SOFTER = 1e-2, 10, 5  # first; times this after a failure, over this after success
SHARED_TRIALS = 4
SHARED_TOLERANCE = 1e-3  # of the cost; steps that gain less are the last

SOLID_STD = 0.03  # one sigma, how far the exponent of particles may lie from that of a common solid
EXPONENT = [p.name for p in SHARED].index("exponent")


def solve_step(
    jacobian: Jacobian, residual: torch.Tensor, prior: ParticlePrior, theta: torch.Tensor, damping: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """One damped Gauss-Newton step (n, 4), and the variances (n, 4) of each particle with the others held.

    By conjugate gradients, preconditioned with each particle's own block.
    """
    gradient = jacobian.transposed(residual) + prior.gradient(theta)
    blocks = jacobian.blocks()
    own = prior.std**-2 + damping * torch.diagonal(blocks, dim1=1, dim2=2)
    inverse = torch.linalg.inv(blocks + torch.diag_embed(prior.diagonal() + damping * blocks.diagonal(dim1=1, dim2=2)))
    x, r = torch.zeros_like(gradient), gradient
    z = p = (inverse @ r[:, :, None])[:, :, 0]
    rz = first = (r * z).sum()
    for _ in range(CG_STEPS):
        q = jacobian.transposed(jacobian.forward(p)) + own * p + prior.apply_rows(p)
        alpha = rz / (p * q).sum().clamp(min=1e-30)
        x, r = x + alpha * p, r - alpha * q
        z = (inverse @ r[:, :, None])[:, :, 0]
        rz, old = (r * z).sum(), rz
        if rz < CG_TOLERANCE * first:
            break
        p = z + rz / old * p
    return x, inverse.diagonal(dim1=1, dim2=2)


def fit_particles(
    model: ImageModel, predicted: Prediction, prior: ParticlePrior, steps: int
) -> tuple[Prediction, ParticlePrior]:
    """Damped Gauss-Newton steps of all particles' own parameters; the prior then knows the variances of the last."""

    def cost_of(some: Prediction) -> float:
        return float((model.residual(some.image) ** 2).sum()) + prior.cost(some.theta)

    damping, cost = GENTLE, cost_of(predicted)
    for _ in range(steps):
        jacobian, residual = model.jacobian(predicted), model.residual(predicted.image).flatten()
        for _ in range(PARTICLE_TRIALS):
            step, variance = solve_step(jacobian, residual, prior, predicted.theta, damping)
            prior = replace(prior, variance=variance)
            trial = model.render(prior.bound(predicted.theta + step), predicted.imaging)
            trial_cost = cost_of(trial)
            if trial_cost < cost:
                break
            damping = max(damping * HARDER, FIRM)
        else:
            break
        predicted, cost = trial, trial_cost
    return predicted, prior


def fit_shared(model: ImageModel, predicted: Prediction, steps: int, solid: float) -> tuple[Prediction, float]:
    """Damped Gauss-Newton steps of what all particles share, their mean size and depth included; also the cost.

    ``solid`` is the exponent of a common solid: blur hides much of the profile, and what the frame does not contradict
    is taken to be one.

    Notes
    -----
    ``scipy.optimize.least_squares`` solves another problem: each step here has a prior about where the fit stands
    (`SHARED`), which is no residual, and ends at bounds that clip every particle by itself. It would also decompose
    the matrix of all pixels where the 11 × 11 normal matrix is enough.
    """

    def cost_of(some: Prediction, residual: torch.Tensor) -> float:
        return float((residual**2).sum()) + ((some.imaging.exponent - solid) / SOLID_STD) ** 2

    damping, residual = SHARED_DAMPING, model.residual(predicted.image)
    cost = cost_of(predicted, residual)
    for _ in range(steps):
        jacobian = model.shared_jacobian(predicted)
        normal = jacobian.T @ jacobian + np.diag(np.array([p.std for p in SHARED]) ** -2.0)
        gradient = jacobian.T @ residual.numpy().ravel().astype(float)
        normal[EXPONENT, EXPONENT] += SOLID_STD**-2
        gradient[EXPONENT] += (solid - predicted.imaging.exponent) / SOLID_STD**2
        for _ in range(SHARED_TRIALS):
            step = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), gradient)
            trial = move_shared(model, predicted, step)
            trial_residual = model.residual(trial.image)
            trial_cost = cost_of(trial, trial_residual)
            if trial_cost < cost:
                break
            damping *= SHARED_HARDER
        else:
            break
        predicted, residual, damping = trial, trial_residual, damping / SHARED_SOFTER
        converged, cost = cost - trial_cost < SHARED_TOLERANCE * cost, trial_cost
        if converged:
            break
    return predicted, cost


def move_shared(model: ImageModel, predicted: Prediction, step: np.ndarray) -> Prediction:
    """What the model predicts after a step of `SHARED`."""
    named = {p.name: float(value) for p, value in zip(SHARED, step, strict=True)}
    theta = predicted.theta + torch.tensor([0.0, 0.0, named["diameter"], named["depth"]], dtype=torch.float32)
    largest = torch.tensor([DIAMETER.upper * model.diameter, DEPTH.upper]).log()
    theta[:, 2:] = torch.minimum(theta[:, 2:], largest)
    return model.render(theta, predicted.imaging.add_step(named, model.darkest))
