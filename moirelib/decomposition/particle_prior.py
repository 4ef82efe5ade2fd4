"""What is known of a frame's particles before the fit (chapter 7, "Particles")."""

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from scipy import sparse
from scipy.spatial import cKDTree

from .profile_and_blur import DEPTH, DIAMETER

# Values without a source were set by hand.

MAD_TO_STD = 1.48  # standard deviation / median of |x|, of a Gaussian; 1.4826, rounded
FARTHEST_MOVE = 0.5  # diameters that the fit may move a particle
OVERLAPS_NONE = 0.85  # diameters to the nearest other particle from which on one overlaps none
MANY_ALONE = 1 / 3  # of the particles; in two layers nearly upon each other a few are alone: two taken for one
#: Least and greatest spread of log diameter and log depth: particles of one frame are neither equal nor arbitrary.
LEAST_SPREAD, GREATEST_SPREAD = (0.01, 0.02), (0.12, 0.6)
#: Neighbours in a row of three, and their weights in the second difference that is 0 in a straight, even row.
BEND = (1.0, -2.0, 1.0)


@dataclass(frozen=True, eq=False)
class ParticlePrior:
    """A particle is near where it was found and of a usual size and depth.

    With rows (m, 3) of particles, also: the middle one of each row lies midway between the others, as in a crystal.
    """

    start: torch.Tensor  # (n, 2), px
    diameter: float  # px, expected
    usual: torch.Tensor  # (2,), log diameter (px) and log depth
    std: torch.Tensor  # (4,), of y, x (px), log diameter and log depth
    greatest: tuple[float, float] = GREATEST_SPREAD  # of log diameter and log depth
    rows: torch.Tensor = field(default_factory=lambda: torch.empty(0, 3, dtype=torch.long))
    stiffness: torch.Tensor = field(default_factory=lambda: torch.empty(0, 1))  # (m, 1), 1/px², of the rows
    variance: torch.Tensor = field(default_factory=lambda: torch.empty(0, 4))  # (n, 4), as left open by the last step

    def with_population(self, theta: torch.Tensor) -> "ParticlePrior":
        """Sizes and depths as usual among these particles (n, 4).

        Particles that overlap no other count, if they are many: one that was taken for two must not count twice.
        The spread is of what was fitted, and what the last step left open adds to it (expectation maximisation).
        """
        yx = theta[:, :2].numpy()
        alone = torch.from_numpy(cKDTree(yx).query(yx, k=2)[0][:, 1] > OVERLAPS_NONE * self.diameter)
        if alone.float().mean() < MANY_ALONE:
            alone = torch.ones_like(alone)
        middle = theta[alone, 2:].median(dim=0).values
        if not len(self.variance):
            return replace(self, usual=middle)
        spread = MAD_TO_STD * (theta[alone, 2:] - middle).abs().median(dim=0).values
        spread = torch.sqrt(spread**2 + self.variance[alone, 2:].median(dim=0).values)
        spread = torch.minimum(torch.maximum(spread, torch.tensor(LEAST_SPREAD)), torch.tensor(self.greatest))
        return replace(self, usual=middle, std=torch.cat([self.std[:2], spread]))

    @property
    def center(self) -> torch.Tensor:
        """The likeliest particles (n, 4)."""
        return torch.cat([self.start, self.usual.expand(len(self.start), 2)], dim=1)

    def cost(self, theta) -> float:
        """Minus twice the logarithm of the prior probability, but for a constant."""
        own = (((theta - self.center) / self.std) ** 2).sum()
        return float(own + (self.stiffness * self._bend(theta) ** 2).sum())

    def gradient(self, theta) -> torch.Tensor:
        """Downhill gradient (n, 4) of half the cost."""
        return -(theta - self.center) / self.std**2 - self.apply_rows(theta)

    def apply_rows(self, x) -> torch.Tensor:
        """The rows' share of the normal matrix, applied to (n, 4)."""
        out, bend = torch.zeros_like(x), self.stiffness * self._bend(x)
        for k, factor in zip(self.rows.T, BEND, strict=True):
            out[:, :2].index_add_(0, k, factor * bend)
        return out

    def diagonal(self) -> torch.Tensor:
        """Of the prior's normal matrix, (n, 4)."""
        out = (self.std**-2).repeat(len(self.start), 1)
        for k, factor in zip(self.rows.T, BEND, strict=True):
            out[:, :2].index_add_(0, k, factor**2 * self.stiffness.expand(len(k), 2))
        return out

    def matrix(self) -> sparse.csr_matrix:
        """The prior's normal matrix, (4 n, 4 n)."""
        n, m = len(self.start), len(self.rows)
        index = (4 * self.rows.numpy()[:, None, :] + np.arange(2)[:, None]).ravel()  # row, axis, particle
        pointer = np.arange(0, 6 * m + 1, 3)
        bends = sparse.csr_matrix((np.tile(BEND, 2 * m), index, pointer), (2 * m, 4 * n))
        weight = sparse.diags(np.repeat(self.stiffness.numpy().ravel(), 2))
        return sparse.diags(np.tile(self.std.numpy() ** -2.0, n)) + bends.T @ weight @ bends

    def _bend(self, x):
        one, middle, other = (x[k, :2] for k in self.rows.T)
        return one + other - 2 * middle

    def bound(self, theta) -> torch.Tensor:
        """Particles no further than half a diameter from where they were found, and of a plausible size and depth."""
        reach = FARTHEST_MOVE * self.diameter
        yx = torch.minimum(torch.maximum(theta[:, :2], self.start - reach), self.start + reach)
        smallest, largest = DIAMETER.lower * self.diameter, DIAMETER.upper * self.diameter
        log_d = theta[:, 2:3].clamp(float(np.log(smallest)), float(np.log(largest)))
        log_depth = theta[:, 3:].clamp(float(np.log(DEPTH.lower)), float(np.log(DEPTH.upper)))
        return torch.cat([yx, log_d, log_depth], dim=1)
