"""Fit a model of the frame to the frame: all particles at once (chapter 7, "Particles")."""

import itertools
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from ..crystal.neighbours import layer_spacings, rows_of_three
from .image_model import ImageModel, Jacobian, Prediction, sparse_rows
from .particle_prior import BEND, MAD_TO_STD, ParticlePrior
from .profile_and_blur import DEPTH, DIAMETER, SHARED, Imaging
from .soft_thickness import SHARP, half_depth

# Lengths "in diameters" are multiples of the expected diameter. Values without a source were set by hand.

# Where the fit starts.
#: Exponents of common solids seen from the top: plates and standing rods with rounded rims, and spheres.
SOLIDS = (0.05, 0.5)
SOFTS = (0.0, 0.08, 0.16)  # diameters, of the outlines that are tried
LEAST_BLUR = 0.03  # diameters, of the image beside soft outlines at first
LEAST_SOFT = SHARP / 4  # diameters: less is not seen
SOFT_COST = 30.0  # squared residuals by which soft outlines must explain a frame better than sharp, blurred ones
FIRST_LEVEL = 0.9  # of the highest possible dark level: the start that has one
LEAST_LEVEL = 0.05  # medians of the frame; where the highest possible dark level is lower, no such start is needed
FIRST_TAKEN, MOST_TAKEN = 0.7, 0.9  # light that particles take at first: this share of the contrast, at most so much
#: One-sigma spread of y and x (diameters), log diameter and log depth, until it is known from the particles.
FIRST_SPREAD = (0.2, 0.2, 0.1, 0.4)
# Steps of what is shared, of the particles, and of what is shared when a start is tried.
SHARED_STEPS, PARTICLE_STEPS, SEARCH_STEPS = 3, 2, 6

# Gauss-Newton steps. Damping is a share of the normal matrix's diagonal (Levenberg and Marquardt). These values decide
# how fast the fit ends, and hardly where.
GENTLE, FIRM, HARDER = 1e-3, 0.03, 30  # damping of particles' steps: first, at least after a failure, and its growth
PARTICLE_TRIALS = 3  # of one step, each damped more
CG_STEPS, CG_TOLERANCE = 30, 1e-4  # at most, and share of the preconditioned squared gradient at which they end
SHARED_DAMPING, SHARED_HARDER, SHARED_SOFTER = 1e-2, 10, 5  # first; times this after a failure, over this after success
SHARED_TRIALS = 4
SHARED_TOLERANCE = 1e-3  # of the cost; steps that gain less are the last
SOLID_STD = 0.03  # one sigma, how far the exponent of particles may lie from that of a common solid
EXPONENT, SOFT = ([p.name for p in SHARED].index(name) for name in ("exponent", "soft"))
HELD = 1e30  # of the normal matrix's diagonal: holds a parameter

# How regular a crystal is.
WELL_SEEN = 0.02  # spacings, one sigma; particles known better show how regular their crystal is
ENOUGH_SEEN = 20  # rows of these for a median
STRAIGHTEST, CROOKEDEST = 0.012, 0.2  # spacings, scatter of the rows' middles
BENT = 5.0  # standard deviations; rows that are bent more say little (Cauchy's weights)
SAMPLED = 50  # particles for the errors that neighbours add, alike all over the frame; more cost seconds (3fbbcd3)

# Evidence and errors.
ODDEST = 8.0  # most that an unusual size and depth count against a particle, in nats; 12 lost particles (9c0b6d2)
PARTICLE = 0.25  # diameters, standard deviation of a Gaussian about as wide as a particle
THINNEST, DARKEST = 0.5, 1.5  # depths of particles that are looked for, relative to the usual one
STAND_INS = 1.5  # diameters, centre to centre, up to which a particle can stand in for another: they overlap
#: Diameters, centre to centre, up to which particles share errors: by overlapping, and by rows of their own layer.
OVERLAPPING, IN_A_ROW = 1.3, 1.6


@dataclass(frozen=True, eq=False)
class Trial:
    """What came of one start."""

    cost: float
    solid: float  # exponent of the common solid that it was drawn towards
    predicted: Prediction

    def __lt__(self, other: "Trial") -> bool:
        """Whether it explains the frame better, with fewer means."""
        return self._price() < other._price()

    def _price(self) -> float:
        soft = self.predicted.imaging.soft
        return np.inf if 0 < soft < LEAST_SOFT else self.cost + (SOFT_COST if soft else 0.0)


@dataclass(frozen=True, eq=False)
class FrameFit:
    """A frame explained by its particles; each step returns a new fit.

    The model: frame = offset + B · K[Π exp(-depth · (1 - r²/R²)^exponent)], with a smooth background B (cubic splines),
    a blur K (disk, Gaussian and camera), and position, radius R and depth of every particle. Gauss-Newton steps fit in
    turn what is shared and each particle's own parameters.
    """

    model: ImageModel  # the frame, and how residuals are weighed
    predicted: Prediction  # the particles' parameters, and what they predict of the frame
    prior: ParticlePrior  # what is usual for particles, and where these were found
    solid: float = SOLIDS[0]  # exponent of the common solid that the fit prefers
    known: bool = False  # whether ``imaging`` is known from elsewhere and not fitted

    @classmethod
    def start(
        cls, frame: np.ndarray, particles: pd.DataFrame, diameter: float, like: "Imaging | FrameFit | None" = None
    ) -> "FrameFit":
        """The fit of a raw frame (y, x) after a first round; particles are darker than the background.

        ``particles`` hold ``y, x`` (px) and, where known, ``diameter`` (px) and ``depth``; ``diameter`` is the expected
        one (px). What particles share is fitted from the best of several starts or, where there is one, on from the fit
        ``like`` of the same frame. Where it is known from another frame, as an `Imaging`, it is held.
        """
        model = ImageModel.look_at(frame, diameter)
        depth = -np.log1p(-min(FIRST_TAKEN * model.contrast, MOST_TAKEN))
        usual = torch.tensor([np.log(diameter), np.log(depth)], dtype=torch.float32)
        y, x, *own = FIRST_SPREAD
        std, solid, shared = torch.tensor([y * diameter, x * diameter, *own]), SOLIDS[0], like or Imaging()
        if isinstance(shared, FrameFit):
            usual, std, solid, shared = shared.prior.usual, shared.prior.std, shared.solid, shared.imaging
        theta = to_theta(particles, usual)
        model, prior = model.place(theta), ParticlePrior(theta[:, :2].clone(), diameter, usual, std)
        fit = cls(model, model.render(theta, shared), prior, solid, known=isinstance(like, Imaging))
        model = model.weigh(shared)
        if like is not None:
            return fit._fit_round(model)
        # Flat or round particles, and a dark level or none (just below the darkest places), are different minima.
        levels = (0.0, FIRST_LEVEL * model.darkest) if model.darkest > LEAST_LEVEL else (0.0,)
        return fit._choose(model, min(fit._try_starts(model, *(replace(shared, offset=level) for level in levels))))

    @property
    def imaging(self) -> Imaging:
        """What the particles share."""
        return self.predicted.imaging

    @property
    def theta(self) -> torch.Tensor:
        """Each particle's y, x (px), log diameter (px) and log depth, shape (n, 4)."""
        return self.predicted.theta

    def with_particles(self, particles: pd.DataFrame, in_rows: bool = False) -> "FrameFit":
        """The fit with these particles; a missing ``diameter`` or ``depth`` starts at the usual one.

        With ``in_rows`` each particle is expected midway between its neighbours of the same ``layer``.
        """
        theta = to_theta(particles, self.prior.usual)
        model = self.model.place(theta)
        fit = replace(self, model=model, predicted=model.render(theta, self.imaging), prior=self._found_at(theta))
        if not in_rows:
            return fit
        rows, std = fit._measure_rows(particles)
        stiffness = torch.from_numpy(std**-2.0).float()[:, None]
        return replace(fit, prior=replace(fit.prior, rows=torch.from_numpy(rows), stiffness=stiffness))

    def _found_at(self, theta) -> ParticlePrior:
        """The prior of particles that were found at other places."""
        own = self.prior
        return ParticlePrior(theta[:, :2].clone(), own.diameter, own.usual, own.std, own.greatest)

    def among(self, rows: np.ndarray) -> "FrameFit":
        """The fit of some particles (n,), a mask; the others stay as they are, and are no longer in it."""
        chosen = torch.from_numpy(rows)
        theta = self.theta[chosen]
        model = self.model.hold(self.theta[~chosen], self.imaging).place(theta)
        return replace(self, model=model, predicted=self.predicted._replace(theta=theta), prior=self._found_at(theta))

    def with_spread(self, greatest: tuple[float, float]) -> "FrameFit":
        """The fit in which diameters and depths differ by so much at most, one sigma of their logarithms."""
        std = torch.minimum(self.prior.std, torch.tensor([np.inf, np.inf, *greatest]))
        return replace(self, prior=replace(self.prior, greatest=greatest, std=std))

    def _measure_rows(self, particles):
        """Rows of three within each layer, and the scatter of their middles, in pixels."""
        yx, layer = particles[["y", "x"]].to_numpy(), particles["layer"].to_numpy()
        spacings = layer_spacings(yx, layer, self.model.diameter)
        rows, (free, error) = rows_of_three(yx, layer, spacings), self._locate_without_rows()
        bend = free[rows[:, 0]] + free[rows[:, 2]] - 2 * free[rows[:, 1]]
        noise, std = np.sqrt((error[rows] ** 2) @ np.square(BEND)), np.ones(len(rows))
        for k in np.unique(layer):
            mine, spacing = layer[rows[:, 1]] == k, spacings[k]
            # Well located particles show best how regular the crystal is.
            sure = mine & np.all(error[rows] < WELL_SEEN * spacing, axis=1)
            shown = sure if sure.sum() > ENOUGH_SEEN else mine
            if shown.any():
                own = (MAD_TO_STD * np.median(np.abs(bend[shown]))) ** 2 - np.median(noise[shown]) ** 2
                std[mine] = np.clip(np.sqrt(max(own, 0.0)), STRAIGHTEST * spacing, CROOKEDEST * spacing)
        # Rows next to defects are bent more than others and get less weight (Cauchy's weights).
        bent = (bend**2).sum(axis=1) / (std**2 + noise**2)
        # There are more rows than particles: as independent rows they would weigh too much.
        std *= np.sqrt((1 + bent / BENT**2) * max(len(rows) / len(yx), 1.0))
        return rows, std

    def _locate_without_rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions (n, 2) from the frame alone, to first order, and their standard deviations (n,).

        Positions that were fitted with rows would make the rows look too straight.
        """
        prior, residual = self.prior.with_population(self.theta), self.model.residual(self.predicted.image).flatten()
        step, variance = solve_step(self.jacobian, residual, prior, self.theta, GENTLE)
        free = prior.bound(self.theta + step)[:, :2].numpy().astype(float)
        # Neighbours add about the same error everywhere in the frame: a sample of the particles shows it.
        alone, some = variance[:, :2].mean(dim=1).sqrt().numpy(), slice(None, None, max(len(free) // SAMPLED, 1))
        crowded = self._errors(prior, some)[:, :2]
        return free, alone * np.median(np.sqrt((crowded**2).mean(axis=1)) / alone[some])

    def fit(self, rounds: int = 1, shared: bool = True) -> "FrameFit":
        """The fit after more rounds; each fits what is shared, then each particle's own parameters.

        Without ``shared``, what is shared is held, the usual size and depth included.
        """
        fit = self
        for _ in range(rounds):
            if shared:
                fit = fit._fit_round(fit._weigh())
            else:
                fit = fit._fit_own(fit.model.weigh(fit.imaging), fit.predicted, fit.prior)
        return fit

    def search(self) -> "FrameFit":
        """The fit after a round in which what is shared is fitted from several starts, and the best one kept.

        Each common solid, with a sharp outline and with soft ones, whose softness is held at first: from soft outlines
        to a blurred image the cost hardly changes, and the fit would be slow on its way. Due once the particles are
        complete: with particles missing or false, the wrong one may have looked better.
        """
        model = self._weigh().weigh(replace(self.imaging, soft=SOFTS[-1]))  # the same pixels count for all
        trials = self._try_starts(model, *(self._soften(soft) for soft in SOFTS), held=True)
        # The noise so far was that of a fit with the wrong outlines.
        model = replace(model, noise=min(model.block_noise(trial.predicted.image) for trial in trials))
        kinds = itertools.product(SOLIDS, (False, True))
        best = [min(t for t in trials if (t.solid, t.predicted.imaging.soft > 0) == kind) for kind in kinds]
        for _ in range(2):
            best = [self._go_on(model, trial) for trial in best]
        return self._choose(model, min(best))

    def _soften(self, soft: float) -> Imaging:
        """What is shared, with a soft outline instead of as much of the blur."""
        blur = np.sqrt(max(self.imaging.blur**2 - soft**2, LEAST_BLUR**2))
        return replace(self.imaging, soft=soft, blur=float(blur))

    def _weigh(self) -> ImageModel:
        """The model for a round, with the noise that the residual shows; its border is held during the round."""
        model = self.model.weigh(self.imaging)
        return replace(model, noise=model.block_noise(self.predicted.image))

    def _fit_round(self, model) -> "FrameFit":
        predicted = self.predicted if self.known else fit_shared(model, self.predicted, SHARED_STEPS, self.solid)[0]
        return self._end_round(model, predicted, self.solid)

    def _try_starts(self, model, *starts: Imaging, held: bool = False) -> list["Trial"]:
        """Rounds from several starts of what is shared, each with the exponent of each common solid.

        Each trial fits the particles too: their depths can hide a wrong dark level, and their sizes a wrong profile.
        """
        return [
            self._try_start(model, solid, replace(start, exponent=solid), held)
            for solid, start in itertools.product(SOLIDS, starts)
        ]

    def _try_start(self, model, solid: float, start: Imaging, held: bool) -> "Trial":
        """A round from one start of what is shared, with particles as wide at half depth as so far.

        With ``held`` the outline stays as soft as it is.
        """
        model, theta, shared = model.widen(start), self.theta.clone(), self.imaging
        theta[:, 2] += np.log(half_depth(shared.exponent, shared.soft) / half_depth(start.exponent, start.soft))
        predicted, cost = fit_shared(model, model.render(theta, start), SEARCH_STEPS, solid, held)
        return self._go_on(model, Trial(cost, solid, predicted), held)

    def _go_on(self, model, trial: "Trial", held: bool = False) -> "Trial":
        """Another round: each particle's own parameters, then what is shared."""
        model, prior = model.widen(trial.predicted.imaging), self.prior.with_population(trial.predicted.theta)
        predicted, _ = fit_particles(model, trial.predicted, prior, PARTICLE_STEPS)
        predicted, cost = fit_shared(model, predicted, SHARED_STEPS, trial.solid, held)
        return Trial(cost, trial.solid, predicted)

    def _choose(self, model, trial: "Trial") -> "FrameFit":
        """The fit that goes on from a trial."""
        return self._end_round(model.weigh(trial.predicted.imaging), trial.predicted, trial.solid)

    def _end_round(self, model, predicted, solid) -> "FrameFit":
        """The fit with particles fitted to what is shared now, and with their usual size and depth."""
        fit = self._fit_own(model, predicted, self.prior.with_population(predicted.theta))
        return replace(fit, prior=fit.prior.with_population(fit.theta), solid=solid)

    def _fit_own(self, model, predicted, prior) -> "FrameFit":
        """The fit after steps of each particle's own parameters."""
        predicted, prior = fit_particles(model, predicted, prior, PARTICLE_STEPS)
        model = model.place(predicted.theta)
        return replace(self, model=model, predicted=model.render(predicted.theta, predicted.imaging), prior=prior)

    @cached_property
    def residual(self) -> torch.Tensor:
        """Frame minus model over the noise (y, x); 0 at the border."""
        return self.model.residual(self.predicted.image)

    @cached_property
    def jacobian(self) -> Jacobian:
        """Derivatives of the frame by each particle's parameters, over the noise."""
        return self.model.jacobian(self.predicted)

    @cached_property
    def misfit(self) -> float:
        """Variance of the residual over areas as large as a particle, over that of white noise; at least 1.

        Moving liquid and irregular particles leave more than noise, at the scale of a particle.
        """
        width = self.model.diameter * PARTICLE
        wide = gaussian_filter(self.residual.numpy(), width)
        spread = MAD_TO_STD * np.median(np.abs(wide - np.median(wide)))
        return max(float((spread * 2 * np.sqrt(np.pi) * width) ** 2), 1.0)

    def unexplained(self) -> float:
        """Standard deviation of the residual, in medians of the frame, as `ImageModel.block_noise` measures it."""
        return self.model.block_noise(self.predicted.image)

    def table(self, particles: pd.DataFrame) -> pd.DataFrame:
        """The particles of this fit, in their order, with fitted ``y, x, diameter, depth``."""
        own = self.theta.numpy().astype(float)
        return particles.assign(y=own[:, 0], x=own[:, 1], diameter=np.exp(own[:, 2]), depth=np.exp(own[:, 3]))

    def result(self, particles: pd.DataFrame) -> pd.DataFrame:
        """The particles of this fit with fitted parameters and one-sigma errors.

        ``y, x, diameter`` in pixels, of the solid's outline, ``diameter_half_depth`` where a particle is half as thick
        as in its middle, ``depth`` (optical, at the centre), ``opacity`` (fraction of light taken there), and
        ``y_std, x_std, diameter_std, depth_std``.
        """
        std, table = self._errors(self.prior), self.table(particles)
        table["diameter_half_depth"] = table["diameter"] * half_depth(self.imaging.exponent, self.imaging.soft)
        relative = {"diameter_std": std[:, 2] * table["diameter"], "depth_std": std[:, 3] * table["depth"]}
        return table.assign(opacity=-np.expm1(-table["depth"]), y_std=std[:, 0], x_std=std[:, 1], **relative)

    def _errors(self, prior, some=slice(None)) -> np.ndarray:
        """Standard deviations (m, 4) of some particles' parameters."""
        blocks = self.jacobian.blocks()
        # Number of fitted parameters: each counts as far as the prior left it open.
        asked = float((blocks * torch.linalg.inv(blocks + torch.diag_embed(prior.diagonal()))).sum())
        noise = self.model.block_noise(self.predicted.image, asked) / self.model.noise
        reach = (IN_A_ROW if len(prior.rows) else OVERLAPPING) * self.model.diameter
        return noise * np.sqrt(self.jacobian.variances(self.theta[:, :2].numpy(), prior.matrix(), reach, some))

    def evidence(self, candidates: pd.DataFrame | None = None) -> np.ndarray:
        """Gain in log-likelihood (n,) by each particle, with the others held; above 0 favours the particle.

        Natural logarithm, divided by `misfit`. With ``candidates`` (``y, x`` in px) it is of particles of usual size
        and depth that are not in the fit.
        """
        present = candidates is None
        theta = self.theta if candidates is None else to_theta(candidates[["y", "x"]], self.prior.usual)
        windows, index = self._changes(theta, present)
        along, size = (windows * self.residual.flatten()[index]).sum(1), (windows**2).sum(1).clamp(min=1e-12)
        # A particle may be thinner or darker than usual: the best amplitude of a range counts.
        amplitude = torch.ones(()) if present else (along / size).clamp(THINNEST, DARKEST)
        gain = (amplitude * along - 0.5 * amplitude**2 * size).numpy().astype(float) / self.misfit
        return -gain if present else gain

    def _changes(self, theta, present: bool):
        """Change of the frame over the noise by taking away (or adding) each particle, (n, pixels), and its pixels."""
        model = self.model.place(theta)
        depth = model.depths(theta, self.imaging, slopes=False)[3]
        change = torch.expm1(depth if present else -depth)
        change = self.predicted.transmission.flatten()[model.samples] * change
        windows, index = model.blur(change[:, None], self.imaging, self.predicted.background)
        return windows.flatten(1), index.flatten(1)

    def oddness(self) -> np.ndarray:
        """How unusual each particle's size and depth are, (n,): minus a log-probability in nats, at most `ODDEST`."""
        own = (self.theta - self.prior.center)[:, 2:] / self.prior.std[2:]
        return (0.5 * (own**2).sum(dim=1)).clamp(max=ODDEST).numpy().astype(float)

    def replaceable(self, rows: np.ndarray) -> np.ndarray:
        """Log-likelihood (m,) that a particle's neighbours regain by moving and changing after the particle is removed.

        `evidence` minus this tells how much the particle is needed: of two that were fitted to one, neither is.
        ``rows`` (m,) says which of the particles; in the same units as `evidence`, to first order in the changes.
        """
        windows, index = self._changes(self.theta[torch.from_numpy(rows)], present=True)
        columns = self.jacobian.matrix()
        overlap = (columns @ sparse_rows(windows.numpy(), index.numpy(), columns.shape[1]).T).toarray()
        normal = (columns @ columns.T + sparse.diags(self.prior.diagonal().numpy().ravel())).tocsr()
        yx, regained = self.theta[:, :2].numpy(), np.zeros(len(rows))
        near = cKDTree(yx).query_ball_point(yx[rows], STAND_INS * self.model.diameter)
        for k, (i, around) in enumerate(zip(rows, near, strict=True)):
            own = (4 * np.array([j for j in around if j != i], int)[:, None] + np.arange(4)).ravel()
            if own.size:
                part = normal[own][:, own].toarray()
                regained[k] = 0.5 * overlap[own, k] @ np.linalg.solve(part, overlap[own, k])
        return regained / self.misfit


def to_theta(particles: pd.DataFrame, usual: torch.Tensor) -> torch.Tensor:
    """Parameters (n, 4) of particles; where ``diameter`` and ``depth`` are missing, the usual ones (2,)."""
    own = particles.reindex(columns=["y", "x", "diameter", "depth"]).to_numpy(np.float32, copy=True)
    own[:, 2:] = np.log(own[:, 2:])
    own[:, 2:] = np.where(np.isfinite(own[:, 2:]), own[:, 2:], usual.numpy())
    return torch.from_numpy(own)


# --- Steps ---


def solve_step(
    jacobian: Jacobian, residual: torch.Tensor, prior: ParticlePrior, theta: torch.Tensor, damping: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """One damped Gauss-Newton step (n, 4), and the variances (n, 4) of each particle with the others held.

    By conjugate gradients, preconditioned with each particle's own block.
    """
    gradient, blocks = jacobian.transposed(residual) + prior.gradient(theta), jacobian.blocks()
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


def fit_shared(
    model: ImageModel, predicted: Prediction, steps: int, solid: float, held: bool = False
) -> tuple[Prediction, float]:
    """Damped Gauss-Newton steps of what all particles share, their mean size and depth included; also the cost.

    ``solid`` is the exponent of a common solid. A prior pulls the exponent towards this solid, because blur hides the
    profile. With ``held`` the outline stays as soft as it is.

    ``scipy.optimize.least_squares`` would not do: each step has a prior about where the fit stands (`SHARED`), which is
    no residual, and bounds that clip every particle by itself; and it decomposes the matrix of all pixels.
    """

    def cost_of(some: Prediction, residual: torch.Tensor) -> float:
        return float((residual**2).sum()) + ((some.imaging.exponent - solid) / SOLID_STD) ** 2

    damping, residual = SHARED_DAMPING, model.residual(predicted.image)
    cost = cost_of(predicted, residual)
    for _ in range(steps):
        jacobian = model.shared_jacobian(predicted)
        normal = jacobian.T @ jacobian + np.diag(np.array([p.std for p in SHARED]) ** -2.0)
        gradient = jacobian.T @ residual.numpy().ravel().astype(float)
        if held:
            normal[SOFT, SOFT] = HELD
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
