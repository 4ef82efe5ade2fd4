"""Fit a model of the frame to the frame: all particles at once (chapter 7, "Particles")."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from ..crystal.neighbours import layer_spacings, rows_of_three
from .image_model import ALIKE, OWN, ROUND, ImageModel, Jacobian, Prediction, sparse_rows
from .joint_steps import EVERYTHING, GENTLE, SOLID_STD, NormalEquations, fit_jointly
from .particle_prior import BEND, GREATEST_SPREAD, MAD_TO_STD, ParticlePrior
from .profile_and_blur import SHARED, Imaging
from .soft_thickness import SHARP, half_depth

# Lengths "in diameters" are multiples of the expected diameter. Values without a source were set by hand.

# Where the fit starts.
#: Exponents of common solids seen from the top: plates and standing rods with rounded rims, and spheres.
SOLIDS = (0.05, 0.5)
SOFTS = (0.0, 0.08, 0.16)  # diameters, of the outlines that are tried
LEAST_BLUR = 0.03  # diameters, of the image beside soft outlines at first
ENOUGH = 120  # particles of a part of the frame in which starts are tried
LEAST_SOFT = SHARP / 4  # diameters: less is not seen
SOFT_COST = 30.0  # squared residuals by which soft outlines must explain a frame better than sharp, blurred ones
FIRST_LEVEL = 0.9  # of the highest possible dark level: the start that has one
LEAST_LEVEL = 0.05  # medians of the frame; where the highest possible dark level is lower, no such start is needed
FIRST_TAKEN, MOST_TAKEN = 0.7, 0.9  # light that particles take at first: this share of the contrast, at most so much
#: One-sigma spread of y and x (diameters), log diameter, log depth, log power and lengths, until it is known from the
#: particles.
FIRST_SPREAD = (0.2, 0.2, 0.1, 0.4, 0.1, 0.1, 0.1)
HELD = 1e-5  # spread of log powers that are all 1
ALL_BUT_SOFT = tuple(k for k, p in enumerate(SHARED) if p.name != "soft")
SEARCH_ROUNDS = 2  # after the first one
HOPEFUL = 1.5  # times the least cost of a trial; others are given up
STEPS, SEARCH_STEPS = 3, 6  # of a round, and of one in which a start is tried

#: Columns of shapes.
SHAPE = ["aspect_ratio", "aspect_ratio_std", "orientation_deg", "orientation_std_deg"]

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
class FrameFit:
    """A frame explained by its particles; each step returns a new fit.

    The model: frame = offset + B · K[Π exp(-depth · (1 - r²/R²)^exponent)], with a smooth background B (cubic splines),
    a blur K (disk, Gaussian and camera), and position, radius R and depth of every particle. Gauss-Newton steps fit
    what is shared and each particle's own parameters together. Where profiles differ (`Imaging.powers`), the
    exponent of each particle is multiplied by a power of its own.
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
        y, x, *own = FIRST_SPREAD[:ALIKE]
        std, solid, shared = torch.tensor([y * diameter, x * diameter, *own]), SOLIDS[0], like or Imaging()
        if isinstance(shared, FrameFit):
            usual, std, solid, shared = shared.prior.usual, shared.prior.std[:ROUND], shared.solid, shared.imaging
        elif shared.powers:
            std = torch.cat([std, torch.tensor([shared.powers])])
        theta = to_theta(particles, usual, len(std))
        model, prior = model.place(theta), ParticlePrior(theta[:, :2].clone(), diameter, usual, std)
        fit = cls(model, model.render(theta, shared), prior, solid, known=isinstance(like, Imaging))
        if like is not None:
            return fit.fit()
        # Flat or round particles, and a dark level or none (just below the darkest places), are different minima.
        levels = (0.0, FIRST_LEVEL * model.darkest) if model.darkest > LEAST_LEVEL else (0.0,)
        part, rows = fit._take_part()
        part = replace(part, model=part.model.weigh(shared))
        trials = part._try_starts(*(replace(shared, offset=level) for level in levels))
        return fit._go_on_from(min(trials, key=FrameFit._price), part, rows)

    @property
    def imaging(self) -> Imaging:
        """What the particles share."""
        return self.predicted.imaging

    @property
    def theta(self) -> torch.Tensor:
        """Each particle's own parameters (n, k), as in `ImageModel`."""
        return self.predicted.theta

    def with_shapes(self) -> "FrameFit":
        """The fit in which each particle is an ellipse of its own; profiles are alike if they were."""
        size, depth, power, *lengths = GREATEST_SPREAD
        return self._with_columns(len(OWN)).with_spread((size, depth, power if self.imaging.powers else HELD, *lengths))

    def _with_columns(self, columns: int) -> "FrameFit":
        """The fit of so many of `OWN`, at least as many as now."""
        more = FIRST_SPREAD[len(self.prior.std) : columns]
        theta = torch.nn.functional.pad(self.theta, (0, len(more)))
        std = torch.cat([self.prior.std, torch.tensor(more)])
        prior = replace(self.prior, std=std, variance=torch.empty(0, columns))
        return replace(self, predicted=self.predicted._replace(theta=theta), prior=prior)

    def with_particles(self, particles: pd.DataFrame, in_rows: bool = False) -> "FrameFit":
        """The fit with these particles; a missing ``diameter`` or ``depth`` starts at the usual one.

        With ``in_rows`` each particle is expected midway between its neighbours of the same ``layer``.
        """
        theta = to_theta(particles, self.prior.usual, self.theta.shape[1])
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

    def with_spread(self, greatest: tuple[float, ...]) -> "FrameFit":
        """The fit in which diameters, depths and so on differ by so much at most, one sigma."""
        greatest = (*greatest, *GREATEST_SPREAD[len(greatest) :])
        std = torch.minimum(self.prior.std, torch.tensor([np.inf, np.inf, *greatest])[: len(self.prior.std)])
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
        prior = self.prior.with_population(self.theta)
        equations = NormalEquations(self.model, self.predicted, prior, self.solid, free=())
        step = torch.from_numpy(equations.solve(GENTLE, 0.0)[0]).float()
        free = prior.bound(self.theta + step)[:, :2].numpy().astype(float)
        # Neighbours add about the same error everywhere in the frame: a sample of the particles shows it.
        alone, some = (
            equations.variance(GENTLE)[:, :2].mean(dim=1).sqrt().numpy(),
            slice(None, None, max(len(free) // SAMPLED, 1)),
        )
        crowded = self._errors(prior, some)[:, :2]
        return free, alone * np.median(np.sqrt((crowded**2).mean(axis=1)) / alone[some])

    def fit(self, rounds: int = 1, shared: bool = True) -> "FrameFit":
        """The fit after more rounds; each fits what is shared and each particle's own parameters, together.

        Without ``shared``, what is shared is held, the usual size and depth included.
        """
        fit = self
        for _ in range(rounds):
            if shared:
                fit = fit._weigh()._fit_round(STEPS, fit._free())._learn()
            else:
                fit = fit._weigh()._fit_round(STEPS, ())
        return fit

    def search(self) -> "FrameFit":
        """The fit after a round in which what is shared is fitted from several starts, and the best one kept.

        Each common solid, with a sharp outline and with soft ones, whose softness is held at first: from soft outlines
        to a blurred image the cost hardly changes, and the fit would be slow on its way. Due once the particles are
        complete: with particles missing or false, the wrong one may have looked better. Then the same with a profile of
        its own for each particle; these are kept where they pay for themselves (`parameter_price`).
        """
        part, rows = self._take_part()
        softest = replace(self.imaging, soft=SOFTS[-1])  # the same pixels count for all
        part = replace(part, model=part.model.weigh(softest))
        best = part._search_from(SOFTS)
        alike = [soft for soft in SOFTS if (soft > 0) == (best.imaging.soft > 0)]
        free = part._with_columns(ROUND)
        own = free._search_from(alike)
        if own.gain_over(best) < self.parameter_price * len(part.theta):
            return self._go_on_from(best, part, rows)
        fit = self._with_columns(ROUND)._go_on_from(own, free, rows)
        imaging = replace(fit.imaging, powers=float(fit.prior.std[ALIKE]))
        return replace(fit, predicted=fit.predicted._replace(imaging=imaging))

    def _search_from(self, softs: Sequence[float]) -> "FrameFit":
        """The best of the fits that start from each common solid with outlines of each softness."""
        trials = self._try_starts(*(self._soften(soft) for soft in softs))
        kinds = list(itertools.product(SOLIDS, (False, True)))
        for _ in range(SEARCH_ROUNDS):
            # The noise so far was that of a fit with the wrong outlines.
            noise = min(trial.unexplained() for trial in trials)
            trials = [replace(trial, model=replace(trial.model, noise=noise)) for trial in trials]
            alike = [[t for t in trials if (t.solid, t.imaging.soft > 0) == kind] for kind in kinds]
            best = [min(some, key=FrameFit._price) for some in alike if some]
            limit = HOPEFUL * min(trial._price() for trial in best)
            hopeful = [trial._know_usual() for trial in best if trial._price() <= limit]
            trials = [trial._fit_round(SEARCH_STEPS, trial._free()) for trial in hopeful]
        return min(trials, key=FrameFit._price)

    def _price(self) -> float:
        """How badly the frame is explained, in squared residuals, and with how many means."""
        soft, bent = self.imaging.soft, (self.imaging.exponent - self.solid) / SOLID_STD
        cost = self.model.cost(self.predicted) + bent**2
        return np.inf if 0 < soft < LEAST_SOFT else cost + (SOFT_COST if soft else 0.0)

    def _take_part(self) -> tuple["FrameFit", np.ndarray]:
        """The fit of a part of the frame that shows what particles share, and which particles it holds.

        The part lies around the middle of all particles and has some `ENOUGH` of them.
        """
        yx = self.theta[:, :2].numpy()
        middle = np.median(yx, axis=0)
        nearest = np.sort(np.abs(yx - middle).max(axis=1))
        half = np.full(2, nearest[ENOUGH] if len(yx) > ENOUGH else np.inf)
        corner = np.floor((middle - half).clip(0)).astype(int)
        end = np.ceil(np.minimum(middle + half, self.model.shape)).astype(int)
        rows = np.all((yx > corner - self.model.pad) & (yx < end + self.model.pad), axis=1)
        theta = self.theta[torch.from_numpy(rows)].clone()
        theta[:, :2] -= torch.from_numpy(corner)
        model = self.model.crop(tuple(corner), tuple(end)).place(theta)
        predicted = model.render(theta, self.imaging)
        return replace(self, model=model, predicted=predicted, prior=self._found_at(theta)), rows

    def _soften(self, soft: float) -> Imaging:
        """What is shared, with a soft outline instead of as much of the blur."""
        blur = np.sqrt(max(self.imaging.blur**2 - soft**2, LEAST_BLUR**2))
        return replace(self.imaging, soft=soft, blur=float(blur))

    def _free(self) -> tuple[int, ...]:
        """Which of `SHARED` are fitted; a sharp outline stays sharp: the search tries soft ones."""
        return () if self.known else EVERYTHING if self.imaging.soft else ALL_BUT_SOFT

    def _weigh(self) -> "FrameFit":
        """The fit for a round: the border that does not count is held during it."""
        return replace(self, model=self.model.weigh(self.imaging))

    def _fit_round(self, steps: int, free: Sequence[int]) -> "FrameFit":
        """The fit after steps of the particles and of those of `SHARED` that are ``free``."""
        predicted, prior = fit_jointly(self.model, self.predicted, self.prior, steps, self.solid, free)
        model = self.model.widen(predicted.imaging).place(predicted.theta)
        return replace(self, model=model, predicted=model.render(predicted.theta, predicted.imaging), prior=prior)

    def _learn(self) -> "FrameFit":
        """The fit with the noise that its residual shows, and with sizes and depths as usual among its particles.

        Due after a round, not before: new particles leave residuals that the next steps take away.
        """
        return replace(self._know_usual(), model=replace(self.model, noise=self.unexplained()))

    def _know_usual(self) -> "FrameFit":
        """The fit with the usual size and depth, and their spread, as among its particles."""
        return replace(self, prior=self.prior.with_population(self.theta))

    def _try_starts(self, *starts: Imaging) -> list["FrameFit"]:
        """Rounds from several starts of what is shared, each with the exponent of each common solid.

        Outlines stay as soft as they are; particles start as wide at half depth as they are. They are fitted too: their
        depths can hide a wrong dark level, and their sizes a wrong profile.
        """
        trials = []
        for solid, start in itertools.product(SOLIDS, starts):
            start, model, theta = replace(start, exponent=solid), self.model.widen(start), self.theta.clone()
            before, after = (half_depth(shared.exponent, shared.soft) for shared in (self.imaging, start))
            theta[:, 2] += np.log(before / after)
            trial = replace(self, model=model, predicted=model.render(theta, start), solid=solid)
            trials.append(trial._know_usual()._fit_round(SEARCH_STEPS, ALL_BUT_SOFT))
        return trials

    def _go_on_from(self, trial: "FrameFit", part: "FrameFit", rows: np.ndarray) -> "FrameFit":
        """The fit that goes on from a trial in a part of the frame; sizes and depths change everywhere as there."""
        change, theta, inside = trial.theta - part.theta, self.theta.clone(), torch.from_numpy(rows)
        theta[:, 2:] += change[:, 2:].median(dim=0).values
        theta[inside] = self.theta[inside] + change
        model = replace(self.model.weigh(trial.imaging), noise=trial.model.noise)
        fit = replace(self, model=model, predicted=model.render(theta, trial.imaging), solid=trial.solid)
        return fit._know_usual()._fit_round(STEPS, fit._free())._learn()

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

    @property
    def parameter_price(self) -> float:
        """Log-likelihood that one more parameter of a particle must gain to pay for itself, by the particle's pixels.

        By Schwarz (Ann. Stat. 6, 461, 1978); scanning transmission microscopy counts overlapping columns by such a rule
        (Fatermans et al., Phys. Rev. Lett. 121, 056101, 2018).
        """
        return 0.5 * np.log(np.pi / 4 * self.model.diameter**2)

    @property
    def particle_price(self) -> float:
        """Log-likelihood that one more particle must gain to pay for its parameters."""
        return self.parameter_price * self.theta.shape[1]

    def gain_over(self, other: "FrameFit") -> float:
        """Log-likelihood by which this fit explains the frame better than another one does, where both count."""
        margin = max(self.model.margin, other.model.margin)
        inner = slice(margin, -margin or None)
        one, two = (fit.residual[inner, inner] * fit.model.noise for fit in (self, other))
        return 0.5 * float((two**2 - one**2).sum()) / (self.model.noise**2 * self.misfit)

    def unexplained(self) -> float:
        """Standard deviation of the residual, in medians of the frame, as `ImageModel.block_noise` measures it."""
        return self.model.block_noise(self.predicted.image)

    def table(self, particles: pd.DataFrame) -> pd.DataFrame:
        """The particles of this fit, in their order, with fitted ``y, x, diameter, depth``."""
        own = self.theta.numpy().astype(float)
        own[:, 2:ROUND] = np.exp(own[:, 2:ROUND])
        return particles.assign(**dict(zip(OWN, own.T, strict=False)))

    def result(self, particles: pd.DataFrame) -> pd.DataFrame:
        """The particles of this fit with fitted parameters and one-sigma errors.

        ``y, x, diameter`` in pixels, of the solid's outline, ``diameter_half_depth`` where a particle is half as thick
        as in its middle, ``depth`` (optical, at the centre), ``opacity`` (fraction of light taken there), and
        ``y_std, x_std, diameter_std, depth_std``; these hold what all particles of the frame have in common as well:
        where blur and solid are hardly told apart, all diameters may be wrong together. With shapes, also
        ``aspect_ratio``, the long axis over the short one, ``orientation_deg`` of the long axis (from x towards y, 0 to
        180), and the errors ``aspect_ratio_std`` and ``orientation_std_deg``.
        """
        std, table = np.hypot(self._errors(self.prior), self._shared_errors()), self.table(particles)
        table["diameter_half_depth"] = table["diameter"] * half_depth(self.imaging.exponent, self.imaging.soft)
        relative = {"diameter_std": std[:, 2] * table["diameter"], "depth_std": std[:, 3] * table["depth"]}
        table = table.assign(opacity=-np.expm1(-table["depth"]), y_std=std[:, 0], x_std=std[:, 1], **relative)
        return table if std.shape[1] <= ROUND else self._describe_shapes(table, std[:, ROUND:])

    def _describe_shapes(self, table, std) -> pd.DataFrame:
        """The table with each particle's ellipse, from ``long_y`` and ``long_diagonal`` and their errors (n, 2)."""
        along = np.array([self.imaging.long_y, self.imaging.long_diagonal]) + table[list(OWN[ROUND:])].to_numpy()
        size, error = np.hypot(*along.T), np.sqrt((std**2).mean(axis=1))
        orientation = np.degrees(0.5 * np.arctan2(along[:, 1], -along[:, 0])) % 180
        uncertain = np.degrees(error / (2 * np.maximum(size, error)))
        table = table.assign(aspect_ratio=np.exp(size), aspect_ratio_std=np.exp(size) * error)
        return table.assign(orientation_deg=orientation, orientation_std_deg=uncertain)

    def _errors(self, prior, some=slice(None)) -> np.ndarray:
        """Standard deviations (m, k) of some particles' parameters."""
        blocks = self.jacobian.blocks()
        # Number of fitted parameters: each counts as far as the prior left it open.
        asked = float((blocks * torch.linalg.inv(blocks + torch.diag_embed(prior.diagonal()))).sum())
        noise = self.model.block_noise(self.predicted.image, asked) / self.model.noise
        reach = (IN_A_ROW if len(prior.rows) else OVERLAPPING) * self.model.diameter
        return noise * np.sqrt(self.jacobian.variances(self.theta[:, :2].numpy(), prior.matrix(), reach, some))

    def _shared_errors(self) -> np.ndarray:
        """Standard deviations (n, k) from what particles share, as well as a frame like this one shows it."""
        equations = NormalEquations(self.model, self.predicted, self.prior, self.solid, EVERYTHING)
        return self.unexplained() / self.model.noise * np.sqrt(equations.variance_by_shared())

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
        yx, regained, size = self.theta[:, :2].numpy(), np.zeros(len(rows)), self.theta.shape[1]
        near = cKDTree(yx).query_ball_point(yx[rows], STAND_INS * self.model.diameter)
        for k, (i, around) in enumerate(zip(rows, near, strict=True)):
            own = (size * np.array([j for j in around if j != i], int)[:, None] + np.arange(size)).ravel()
            if own.size:
                part = normal[own][:, own].toarray()
                regained[k] = 0.5 * overlap[own, k] @ np.linalg.solve(part, overlap[own, k])
        return regained / self.misfit


def to_theta(particles: pd.DataFrame, usual: torch.Tensor, columns: int = ALIKE) -> torch.Tensor:
    """The first of `OWN` (n, columns) of particles; missing diameters and depths are the ``usual`` ones (2,).

    Missing powers are 1, missing lengths those that all share.
    """
    own = particles.reindex(columns=list(OWN[:columns])).to_numpy(np.float32, copy=True)
    own[:, 2:ROUND] = np.log(own[:, 2:ROUND])
    known = np.concatenate([usual.numpy(), np.zeros(columns - ALIKE, np.float32)])
    own[:, 2:] = np.where(np.isfinite(own[:, 2:]), own[:, 2:], known)
    return torch.from_numpy(own)
