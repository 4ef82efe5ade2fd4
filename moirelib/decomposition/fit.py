"""Fit every particle to the frame at once, through a model of how the frame came about.

Explained in chapter 7, "Particles".
"""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from ..crystal.neighbours import rows_of_three, typical_spacing
from .image_model import DEEPEST, OPTICAL, ImageModel, Imaging, block_mean, sparse_rows

__all__ = ["FrameFit", "refine"]

ODDEST = 8.0  # most that an unusual size and depth count against a particle, as a logarithm of odds
BENT = 5.0  # standard deviations; rows of particles that are bent more than this say little


class _Prior:
    """What is known of a particle before looking: near where it was found, of a size and depth like the others'.

    With rows (m, 3) of particles, also that the middle one of each lies midway between the others, as in a crystal, to
    within ``rows_std`` (m,) pixels.
    """

    def __init__(self, start, diameter, rows=None, rows_std=None):
        self.start, self.diameter = start, diameter
        self.rows = torch.empty(0, 3, dtype=torch.long) if rows is None else torch.from_numpy(rows)
        std = np.empty(0) if rows_std is None else rows_std
        self.stiffness = torch.from_numpy(std**-2.0).float()[:, None]
        self.variance = torch.empty(0, 4)  # what the last fit left open, one particle at a time

    def set_population(self, theta):
        """Take median and spread of size and depth from the particles themselves.

        The spread is of what was fitted, and what the fit leaves open adds to it (expectation maximisation).
        """
        alone = self._alone(theta)
        middle = theta[alone, 2:].median(dim=0).values
        spread = 1.48 * (theta[alone, 2:] - middle).abs().median(dim=0).values
        self.center = torch.cat([self.start, middle.expand(len(theta), 2)], dim=1)
        if len(self.variance):
            spread = torch.sqrt(spread**2 + self.variance[alone, 2:].median(dim=0).values)
            spread = torch.minimum(torch.maximum(spread, torch.tensor([0.01, 0.02])), torch.tensor([0.12, 0.6]))
            self.std = torch.cat([self.std[:2], spread])

    def hold_population(self, usual, std):
        """Sizes and depths are about ``usual`` (2,) to within ``std`` (4,), whatever the particles themselves say."""
        self.center, self.std = torch.cat([self.start, usual.expand(len(self.start), 2)], dim=1), std

    def _alone(self, theta):
        """Particles that overlap no other, if there are enough: one that was taken for two must not count twice."""
        yx = theta[:, :2].numpy()
        nearest = cKDTree(yx).query(yx, k=2)[0][:, 1]
        alone = torch.from_numpy(nearest > 0.85 * self.diameter)
        return alone if alone.sum() >= 20 else torch.ones_like(alone)

    def cost(self, theta) -> float:
        """Minus twice the logarithm of the prior probability, but for a constant."""
        own = (((theta - self.center) / self.std) ** 2).sum()
        return float(own + (self.stiffness * self._bend(theta) ** 2).sum())

    def gradient(self, theta):
        """Downhill gradient (n, 4) of half the cost."""
        return -(theta - self.center) / self.std**2 - self.rows_normal(theta)

    def rows_normal(self, x):
        """The rows' share of the normal matrix, applied to (n, 4)."""
        out, bend = torch.zeros_like(x), self.stiffness * self._bend(x)
        for k, factor in zip(self.rows.T, (1.0, -2.0, 1.0), strict=True):
            out[:, :2].index_add_(0, k, factor * bend)
        return out

    def diagonal(self):
        """Of the prior's normal matrix, (n, 4)."""
        out = (self.std**-2).repeat(len(self.start), 1)
        for k, factor in zip(self.rows.T, (1.0, 4.0, 1.0), strict=True):
            out[:, :2].index_add_(0, k, factor * self.stiffness.expand(len(k), 2))
        return out

    def matrix(self) -> sparse.csr_matrix:
        """The prior's normal matrix, (4 n, 4 n)."""
        n, m = len(self.start), len(self.rows)
        index = (4 * self.rows.numpy()[:, None, :] + np.arange(2)[:, None]).ravel()  # row, axis, particle
        pointer = np.arange(0, 6 * m + 1, 3)
        bends = sparse.csr_matrix((np.tile([1.0, -2.0, 1.0], 2 * m), index, pointer), (2 * m, 4 * n))
        weight = sparse.diags(np.repeat(self.stiffness.numpy().ravel(), 2))
        return sparse.diags(np.tile(self.std.numpy() ** -2.0, n)) + bends.T @ weight @ bends

    def _bend(self, x):
        one, middle, other = (x[k, :2] for k in self.rows.T)
        return one + other - 2 * middle

    def bound(self, theta):
        """Particles stay within half a diameter of where they were found, and of a plausible size."""
        reach = 0.5 * self.diameter
        yx = torch.minimum(torch.maximum(theta[:, :2], self.start - reach), self.start + reach)
        log_d = theta[:, 2:3].clamp(float(np.log(0.6 * self.diameter)), float(np.log(1.5 * self.diameter)))
        return torch.cat([yx, log_d, theta[:, 3:].clamp(float(np.log(0.02)), float(np.log(DEEPEST)))], dim=1)


def _solve(jacobian, residual, prior, theta, damping, steps=30):
    """One damped Gauss-Newton step by conjugate gradients, preconditioned with each particle's own block."""
    gradient = jacobian.transposed(residual) + prior.gradient(theta)
    blocks = jacobian.blocks()
    own = prior.std**-2 + damping * torch.diagonal(blocks, dim1=1, dim2=2)
    inverse = torch.linalg.inv(blocks + torch.diag_embed(prior.diagonal() + damping * blocks.diagonal(dim1=1, dim2=2)))
    prior.variance = inverse.diagonal(dim1=1, dim2=2)
    x, r = torch.zeros_like(gradient), gradient
    z = p = (inverse @ r[:, :, None])[:, :, 0]
    rz = first = (r * z).sum()
    for _ in range(steps):
        q = jacobian.transposed(jacobian.forward(p)) + own * p + prior.rows_normal(p)
        alpha = rz / (p * q).sum().clamp(min=1e-30)
        x, r = x + alpha * p, r - alpha * q
        z = (inverse @ r[:, :, None])[:, :, 0]
        rz, old = (r * z).sum(), rz
        if rz < 1e-4 * first:
            break
        p = z + rz / old * p
    return x


def _fit_particles(model, theta, imaging, prior, steps):
    """Damped Gauss-Newton steps of all particles' own parameters."""
    damping, cost = 1e-3, model.cost(theta, imaging) + prior.cost(theta)
    for _ in range(steps):
        jacobian, image = model.jacobian(theta, imaging)
        residual = model.residual(image).flatten()
        for _ in range(3):
            trial = prior.bound(theta + _solve(jacobian, residual, prior, theta, damping))
            trial_cost = model.cost(trial, imaging) + prior.cost(trial)
            if trial_cost < cost:
                break
            damping = max(damping * 30, 0.03)
        else:
            break
        theta, cost = trial, trial_cost
    return theta


#: Exponents of common solids seen from the top, plates and standing rods with rounded rims, and spheres; and how far
#: a particle's may lie from them.
SOLIDS, SOLID_STD = (0.05, 0.5), 0.03

#: Flat and round particles, and a dark level or none, are different valleys of the cost: rounds of the fit that look
#: into all of them, and then once more at both forms.
LOOK_AROUND = 0, 3

#: One-sigma steps that what is shared may be expected to take: log diameter, log depth, then `Imaging`'s parameters.
SHARED_STD = (0.2, 1.0, 0.3, 0.2, 0.5, 0.03, 0.3, 0.2, 0.2, 0.1, 0.1)


def _fit_shared(model, theta, imaging, steps, solid):
    """Gauss-Newton on what all particles share, their mean size and depth included.

    ``solid`` is the exponent of a common solid: blur hides much of the profile, and what the frame does not contradict
    is taken to be one. Also returns the cost.
    """
    damping, image = 1e-2, model.image(theta, imaging)[0]
    residual = model.residual(image)
    cost = float((residual**2).sum()) + ((imaging.exponent - solid) / SOLID_STD) ** 2
    for _ in range(steps):
        jacobian = _shared_jacobian(model, theta, imaging)
        normal = jacobian.T @ jacobian + np.diag(np.array(SHARED_STD) ** -2.0)
        gradient = jacobian.T @ residual.numpy().ravel().astype(float)
        normal[2, 2] += SOLID_STD**-2
        gradient[2] += (solid - imaging.exponent) / SOLID_STD**2
        for _ in range(4):
            step = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), gradient)
            trial = _shifted(model, theta, imaging, step)
            trial_residual = model.residual(model.image(*trial)[0])
            trial_cost = float((trial_residual**2).sum()) + ((trial[1].exponent - solid) / SOLID_STD) ** 2
            if trial_cost < cost:
                break
            damping *= 10
        else:
            break
        (theta, imaging), residual, damping = trial, trial_residual, damping / 5
        converged, cost = cost - trial_cost < 1e-3 * cost, trial_cost
        if converged:
            break
    return theta, imaging, cost


def _shared_jacobian(model, theta, imaging) -> np.ndarray:
    """Derivatives (pixels, 11) of the frame over the noise by what is shared; the background follows."""
    waves = torch.fft.rfft2(block_mean(model.changes_of_form(theta, imaging)))
    shape = tuple(n + 2 * model.pad for n in model.shape)
    transfer = imaging.transfer(shape, model.diameter)
    by_optics = [
        (replace(imaging, **{name: getattr(imaging, name) + step}).transfer(shape, model.diameter) - transfer) / step
        for name, step in OPTICAL.items()
    ]
    waves = torch.cat([waves * transfer, waves[:1] * torch.stack(by_optics)])
    images = torch.fft.irfft2(waves, s=shape)[:, model.pad : -model.pad, model.pad : -model.pad]
    t, changes = images[0], images[1:]
    _, background = model.image(theta, imaging)
    answers = model.background.answer(model.frame - imaging.offset, t, background, changes)
    columns = torch.cat([background * changes + t * answers[:-1], 1 + t * answers[-1:]])
    # Size, depth, exponent and elongation were followed by the blur and the dark level.
    columns = columns[[0, 1, 2, 5, 6, 7, 10, 8, 9, 3, 4]] * model.counted() / model.noise
    return columns.flatten(1).T.numpy().astype(float)


def _shifted(model, theta, imaging, step):
    """All particles and `Imaging` after a step of what is shared."""
    moved = theta + torch.tensor([0.0, 0.0, *step[:2]], dtype=torch.float32)
    moved[:, 2:] = torch.minimum(moved[:, 2:], torch.tensor([1.5 * model.diameter, DEEPEST]).log())
    return moved, imaging.moved(step[2:], model.darkest)


class FrameFit:
    """A frame explained by its particles.

    Parameters
    ----------
    frame : ndarray, shape (y, x)
        Raw frame in which particles are dark and about ``diameter`` pixels wide.
    particles : pandas.DataFrame
        ``y, x`` (px); what else there is of ``diameter`` (px), ``depth`` and ``layer`` is used as well.
    diameter : float
        Expected diameter, in pixels.
    imaging : Imaging, optional
        What particles share, when known from another frame; fitted otherwise.
    like : FrameFit, optional
        Another fit of the same frame, from which what particles share is fitted on; of no account with ``imaging``.

    Notes
    -----
    The model: frame = offset + B · K[Π exp(-depth · (1 - r²/R²)^exponent)], with a smooth background B (cubic
    splines), a blur K (disk, Gaussian and camera), and position, radius R and depth of every particle. All are fitted
    by Gauss-Newton steps, in turn what is shared and what is each particle's own. Explained in chapter 7.
    """

    def __init__(
        self,
        frame,
        particles: pd.DataFrame,
        diameter: float,
        imaging: Imaging | None = None,
        like: FrameFit | None = None,
    ):
        self.model = ImageModel(frame, diameter)
        depth = -np.log1p(-min(0.7 * self.model.contrast, 0.9))
        self.usual = torch.tensor([np.log(diameter), np.log(depth)], dtype=torch.float32)
        self.known, self.imaging = imaging is not None, imaging or Imaging()
        self.spread = torch.tensor([0.2 * diameter, 0.2 * diameter, 0.1, 0.4])
        self.solid, self.looks, self.rounds = SOLIDS[0], LOOK_AROUND, 0
        if like is not None and not self.known:
            self.imaging, self.usual, self.spread = like.imaging, like.usual, like.spread
            self.solid, self.looks = like.solid, ()
        self.take(particles)

    def take(self, particles: pd.DataFrame) -> FrameFit:
        """Go on with these particles; where ``diameter`` and ``depth`` are missing, with the usual ones.

        Where ``layer`` is given, particles are expected to lie in rows with their neighbours of that layer.
        """
        own = particles.reindex(columns=["y", "x", "diameter", "depth"]).to_numpy(np.float32, copy=True)
        own[:, 2:] = np.log(own[:, 2:])
        own[:, 2:] = np.where(np.isfinite(own[:, 2:]), own[:, 2:], self.usual.numpy())
        self.theta = torch.from_numpy(own)
        self.model.place(self.theta)
        rows = self._rows(particles) if "layer" in particles and self.rounds else ()
        self.prior = _Prior(self.theta[:, :2].clone(), self.model.diameter, *rows)
        self.prior.std = self.spread
        return self

    def _rows(self, particles):
        """Rows of three within each layer, and how far their middles usually lie off, in pixels."""
        yx, layer = particles[["y", "x"]].to_numpy(), particles["layer"].to_numpy()
        spacing = typical_spacing(yx, layer, self.model.diameter)
        rows, (free, error) = rows_of_three(yx, layer, spacing), self._without_rows()
        bend = free[rows[:, 0]] + free[rows[:, 2]] - 2 * free[rows[:, 1]]
        noise = np.sqrt((error[rows] ** 2) @ [1.0, 4.0, 1.0])
        std = np.ones(len(rows))
        for k in np.unique(layer):
            mine = layer[rows[:, 1]] == k
            # Particles that the frame locates well show best how regular the crystal is.
            sure = mine & np.all(error[rows] < 0.02 * spacing, axis=1)
            shown = sure if sure.sum() > 20 else mine
            if shown.any():
                own = (1.48 * np.median(np.abs(bend[shown]))) ** 2 - np.median(noise[shown]) ** 2
                std[mine] = np.clip(np.sqrt(max(own, 0.0)), 0.012 * spacing, 0.2 * spacing)
        # Next to defects rows are bent more than elsewhere; there they say little (Cauchy's weights).
        bent = (bend**2).sum(axis=1) / (std**2 + noise**2)
        # There are more rows than particles to bend them: taken for independent, they would ask for too much.
        std *= np.sqrt((1 + bent / BENT**2) * max(len(rows) / len(yx), 1.0))
        return rows, std

    def _without_rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the frame alone would have the particles (n, 2), to first order, and their standard deviations (n,).

        Rows seem straighter than they are where they have pulled on their particles already.
        """
        prior = _Prior(self.theta[:, :2].clone(), self.model.diameter)
        prior.std = self.spread
        prior.set_population(self.theta)
        jacobian, image = self.model.jacobian(self.theta, self.imaging)
        step = _solve(jacobian, self.model.residual(image).flatten(), prior, self.theta, 1e-3)
        free = prior.bound(self.theta + step)[:, :2].numpy().astype(float)
        # What neighbours add to the errors is alike all over the frame; some fifty particles show it.
        alone, some = prior.variance[:, :2].mean(dim=1).sqrt().numpy(), slice(None, None, max(len(free) // 50, 1))
        crowded = self._errors(jacobian, image, prior, some)[:, :2]
        return free, alone * np.median(np.sqrt((crowded**2).mean(axis=1)) / alone[some])

    def put(self, particles: pd.DataFrame) -> pd.DataFrame:
        """The particles that were taken, in their order, with fitted ``y, x, diameter, depth``."""
        own = self.theta.numpy().astype(float)
        return particles.assign(y=own[:, 0], x=own[:, 1], diameter=np.exp(own[:, 2]), depth=np.exp(own[:, 3]))

    def fit(self, rounds: int = 1, shared: bool = True) -> FrameFit:
        """Alternate between what is shared (unless told not to) and what is each particle's own.

        What is usual for sizes and depths counts as shared.
        """
        model = self.model
        for _ in range(rounds):
            model.margin = int(np.ceil(self.imaging.blur * model.diameter))  # held: costs must count the same pixels
            if shared:
                self._fit_shared()
                self.prior.set_population(self.theta)
            else:
                self.prior.hold_population(self.usual, self.spread)
            self.theta = _fit_particles(model, self.theta, self.imaging, self.prior, 2)
            model.place(self.theta)
            if shared:
                self.prior.set_population(self.theta)
                self.spread = self.prior.std
                self.usual = self.prior.center[0, 2:]
                self.rounds += 1
        self.transmission = model.transmission(self.theta, self.imaging)
        image, self.background = model.image(self.theta, self.imaging, self.transmission)
        self.residual = model.residual(image)
        self.misfit = self._misfit()
        return self

    def unexplained(self) -> float:
        """Standard deviation of what the model, as it is now, leaves of the frame, as of white noise per pixel.

        In medians of the frame, at the scale of a third of a particle.
        """
        return self.model.block_noise(self.model.image(self.theta, self.imaging)[0])

    def _misfit(self) -> float:
        """Variance of the residual over areas as large as a particle, over that of white noise; at least 1.

        Liquid that moves and particles that are not quite round leave more than noise, and of a particle's size.
        """
        width = self.model.diameter / 4
        wide = gaussian_filter(self.residual.numpy(), width)
        spread = 1.48 * np.median(np.abs(wide - np.median(wide)))
        return max(float((spread * 2 * np.sqrt(np.pi) * width) ** 2), 1.0)

    def _fit_shared(self):
        model = self.model
        if self.rounds:
            model.noise = model.block_noise(model.image(self.theta, self.imaging)[0])
        if self.known:
            return
        if self.rounds not in self.looks:
            self.theta, self.imaging, _ = _fit_shared(model, self.theta, self.imaging, 3, self.solid)
            return
        # A dark level starts at none and just below the darkest places; later it is known.
        lit = self.rounds == 0 and model.darkest > 0.05
        offsets = (self.imaging.offset, 0.9 * model.darkest) if lit else (self.imaging.offset,)
        starts = [(solid, replace(self.imaging, exponent=solid, offset=o)) for solid in SOLIDS for o in offsets]
        found = [self._look_into(*start) for start in starts]
        self.theta, self.imaging, _, self.solid = min(found, key=lambda one: one[2])

    def _look_into(self, solid, imaging):
        """Where a fit from this start leads: particles, imaging, the cost, and the solid.

        Particles take part: with depths of their own they hide a wrong dark level, and with sizes a wrong profile.
        """
        prior = copy.copy(self.prior)
        theta, imaging, _ = _fit_shared(self.model, self.theta, imaging, 6, solid)
        prior.set_population(theta)
        theta = _fit_particles(self.model, theta, imaging, prior, 2)
        return *_fit_shared(self.model, theta, imaging, 3, solid), solid

    def evidence(self, candidates: pd.DataFrame | None = None) -> np.ndarray:
        """Log-likelihood that the frame gains by each particle, the others as they are.

        Parameters
        ----------
        candidates : pandas.DataFrame, optional
            ``y, x`` (px) of particles that are not in the fit, taken to be like the others; by default those that are.

        Returns
        -------
        ndarray, shape (n,)
            Natural logarithm, divided by how much more than noise the model leaves at a particle's size; above 0 the
            frame speaks for the particle.
        """
        present = candidates is None
        theta = self.theta
        if not present:
            yx = torch.from_numpy(candidates[["y", "x"]].to_numpy(np.float32, copy=True))
            theta = torch.cat([yx, self.usual.expand(len(yx), 2)], dim=1)
        windows, index = self._changes(theta, present)
        along = (windows * self.residual.flatten()[index]).sum(1)
        size = (windows**2).sum(1).clamp(min=1e-12)
        # Some particles are thinner or darker than most: the best of a range of amplitudes counts.
        amplitude = torch.ones(()) if present else (along / size).clamp(0.5, 1.5)
        gain = (amplitude * along - 0.5 * amplitude**2 * size).numpy().astype(float) / self.misfit
        return -gain if present else gain

    def _changes(self, theta, present: bool):
        """Change of the frame over the noise by taking away (or adding) each particle, (n, pixels), and its pixels."""
        other = copy.copy(self.model)
        other.place(theta)
        depth = other.depths(theta, self.imaging, slopes=False)[3]
        change = self.transmission.flatten()[other.index] * torch.expm1(depth if present else -depth)
        windows, index = other.blurred(change[:, None], self.imaging, self.background)
        return windows.flatten(1), index.flatten(1)

    def oddness(self) -> np.ndarray:
        """How improbable each particle's size and depth are among the others', (n,): a logarithm, at most `ODDEST`."""
        own = (self.theta - self.prior.center)[:, 2:] / self.prior.std[2:]
        return (0.5 * (own**2).sum(dim=1)).clamp(max=ODDEST).numpy().astype(float)

    def replaceable(self, rows: np.ndarray) -> np.ndarray:
        """Log-likelihood that the particles around a particle regain by moving and changing once it is taken away.

        What `evidence` says for a particle, less this, is how much the frame needs it: of two fitted where there is
        one, neither is needed.

        Parameters
        ----------
        rows : ndarray of int, shape (m,)
            Which of the particles.

        Returns
        -------
        ndarray, shape (m,)
            Natural logarithm, in the same units as `evidence`; to first order in the changes.
        """
        windows, index = self._changes(self.theta[torch.from_numpy(rows)], present=True)
        columns = self.model.jacobian(self.theta, self.imaging)[0].matrix()
        overlap = (columns @ sparse_rows(windows.numpy(), index.numpy(), columns.shape[1]).T).toarray()
        normal = (columns @ columns.T + sparse.diags(self.prior.diagonal().numpy().ravel())).tocsr()
        yx = self.theta[:, :2].numpy()
        regained = np.zeros(len(rows))
        near = cKDTree(yx).query_ball_point(yx[rows], 1.5 * self.model.diameter)
        for k, (i, around) in enumerate(zip(rows, near, strict=True)):
            own = (4 * np.array([j for j in around if j != i], int)[:, None] + np.arange(4)).ravel()
            if own.size:
                part = normal[own][:, own].toarray()
                regained[k] = 0.5 * overlap[own, k] @ np.linalg.solve(part, overlap[own, k])
        return regained / self.misfit

    def _errors(self, jacobian, image, prior, some=slice(None)) -> np.ndarray:
        """Standard deviations (m, 4) of some particles' parameters."""
        blocks = jacobian.blocks()
        # How many numbers the frame was asked for: each counts as far as it was not known before.
        asked = float((blocks * torch.linalg.inv(blocks + torch.diag_embed(prior.diagonal()))).sum())
        noise = self.model.block_noise(image, asked) / self.model.noise
        reach = (1.6 if len(prior.rows) else 1.3) * self.model.diameter  # rows tie a particle to its own layer's
        return noise * np.sqrt(jacobian.variances(self.theta[:, :2].numpy(), prior.matrix(), reach, some))

    def result(self, particles: pd.DataFrame) -> pd.DataFrame:
        """The particles that were taken with fitted parameters and one-sigma errors.

        ``y, x, diameter`` in pixels, ``depth`` (optical, at the centre), ``opacity`` (fraction of light taken there),
        and ``y_std, x_std, diameter_std, depth_std``.
        """
        std = self._errors(*self.model.jacobian(self.theta, self.imaging), self.prior)
        table = self.put(particles)
        relative = {"diameter_std": std[:, 2] * table["diameter"], "depth_std": std[:, 3] * table["depth"]}
        return table.assign(opacity=-np.expm1(-table["depth"]), y_std=std[:, 0], x_std=std[:, 1], **relative)


def refine(
    frame: np.ndarray, particles: pd.DataFrame, diameter: float, imaging: Imaging | None = None, rounds: int = 3
) -> pd.DataFrame:
    """Fit position, diameter and optical depth of all particles to the frame at once.

    Parameters
    ----------
    frame, particles, diameter, imaging
        As for `FrameFit`; a ``layer`` column is not used: every particle is where the frame says, not its lattice.
    rounds : int
        Rounds of the fit.

    Returns
    -------
    pandas.DataFrame
        The particles with the columns of `FrameFit.result`.

    Notes
    -----
    Errors are the Gauss-Newton covariance, scaled by the residual's variance over a third of a particle, which holds
    the camera's correlated noise. Explained in chapter 7, "Particles".
    """
    if particles.empty:
        names = ("diameter", "depth", "opacity", "y_std", "x_std", "diameter_std", "depth_std")
        return particles.assign(**dict.fromkeys(names, 0.0))
    fit = FrameFit(frame, particles.drop(columns="layer", errors="ignore"), diameter, imaging)
    return fit.fit(rounds).result(particles)
