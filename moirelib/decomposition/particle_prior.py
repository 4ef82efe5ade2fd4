"""What is known of a frame's particles before the fit (chapter 7, "Particles")."""

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from scipy import sparse
from scipy.spatial import cKDTree

from .image_model import ALIKE, ROUND
from .profile_and_blur import DEPTH, DIAMETER, select

# Values without a source were set by hand.

MAD_TO_STD = 1.48  # standard deviation / median of |x|, of a Gaussian; 1.4826, rounded
FARTHEST_MOVE = 0.5  # diameters that the fit may move a particle
OVERLAPS_NONE = 0.85  # diameters to the nearest other particle from which on one overlaps none
ENOUGH_ALONE = 20  # particles for a median that is known to a quarter of their spread
MANY_ALONE = 1 / 3  # of the particles; these are right where they and those that overlap others do not agree
AGREE = 0.15  # of two logarithms of volumes (depth × squared diameter): more than the model's mistakes
#: Least and greatest spread of log diameter, log depth, log power and how long particles are: those of one frame are
#: neither equal nor arbitrary.
LEAST_SPREAD, GREATEST_SPREAD = (0.01, 0.02, 0.02, 0.01, 0.01), (0.12, 0.6, 0.3, 0.3, 0.3)
MOST_POWER = 1.0  # of log powers, either way
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
    std: torch.Tensor  # (k,), of a particle's own parameters, as in ``theta`` of `ImageModel`
    greatest: tuple[float, ...] = GREATEST_SPREAD  # of all but y and x
    rows: torch.Tensor = field(default_factory=lambda: torch.empty(0, 3, dtype=torch.long))
    stiffness: torch.Tensor = field(default_factory=lambda: torch.empty(0, 1))  # (m, 1), 1/px², of the rows
    variance: torch.Tensor = field(default_factory=lambda: torch.empty(0, 4))  # (n, k), as left open by the last step

    def with_population(self, theta: torch.Tensor) -> "ParticlePrior":
        """Sizes and depths as usual among these particles (n, k), and how much all they have of their own is spread.

        Particles that overlap no other count, if there are enough: one that was taken for two must not count twice. But
        few that are larger than the rest are two taken for one, as in layers nearly upon each other. The spread is of
        what was fitted, and what the last step left open adds to it (expectation maximisation).
        """
        yx = theta[:, :2].numpy()
        alone = torch.from_numpy(cKDTree(yx).query(yx, k=2)[0][:, 1] > OVERLAPS_NONE * self.diameter)
        volume = theta[:, 3] + 2 * theta[:, 2]
        larger = volume[alone].median() - volume[~alone].median() > AGREE  # not where one of them is empty
        if alone.sum() < ENOUGH_ALONE or (larger and alone.float().mean() < MANY_ALONE):
            alone = torch.ones_like(alone)
        middle = theta[alone, 2:].median(dim=0).values
        if not len(self.variance):
            return replace(self, usual=middle[:2])
        spread = MAD_TO_STD * (theta[alone, 2:] - middle).abs().median(dim=0).values
        spread = torch.sqrt(spread**2 + self.variance[alone, 2:].median(dim=0).values)
        least, greatest = (torch.tensor(some[: len(spread)]) for some in (LEAST_SPREAD, self.greatest))
        spread = torch.minimum(torch.maximum(spread, least), greatest)
        return replace(self, usual=middle[:2], std=torch.cat([self.std[:2], spread]))

    @property
    def center(self) -> torch.Tensor:
        """The likeliest particles (n, k)."""
        own = torch.cat([self.usual, torch.zeros(len(self.std) - ALIKE)])
        return torch.cat([self.start, own.expand(len(self.start), len(own))], dim=1)

    def cost(self, theta) -> float:
        """Minus twice the logarithm of the prior probability, but for a constant."""
        own = (((theta - self.center) / self.std) ** 2).sum()
        return float(own + (self.stiffness * self._bend(theta) ** 2).sum())

    def gradient(self, theta) -> torch.Tensor:
        """Downhill gradient (n, k) of half the cost."""
        return -(theta - self.center) / self.std**2 - self.apply_rows(theta)

    def apply_rows(self, x) -> torch.Tensor:
        """The rows' share of the normal matrix, applied to (n, k)."""
        out, bend = torch.zeros_like(x), self.stiffness * self._bend(x)
        for k, factor in zip(self.rows.T, BEND, strict=True):
            out[:, :2].index_add_(0, k, factor * bend)
        return out

    def diagonal(self) -> torch.Tensor:
        """Of the prior's normal matrix, (n, k)."""
        out = (self.std**-2).repeat(len(self.start), 1)
        for k, factor in zip(self.rows.T, BEND, strict=True):
            out[:, :2].index_add_(0, k, factor**2 * self.stiffness.expand(len(k), 2))
        return out

    def matrix(self) -> sparse.csr_matrix:
        """The prior's normal matrix, (k n, k n)."""
        n, m, own = len(self.start), len(self.rows), len(self.std)
        index = (own * self.rows.numpy()[:, None, :] + np.arange(2)[:, None]).ravel()  # row, axis, particle
        pointer = np.arange(0, 6 * m + 1, 3)
        bends = sparse.csr_matrix((np.tile(BEND, 2 * m), index, pointer), (2 * m, own * n))
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
        log_depth = theta[:, 3:4].clamp(float(np.log(DEPTH.lower)), float(np.log(DEPTH.upper)))
        power, longest = theta[:, ALIKE:ROUND].clamp(-MOST_POWER, MOST_POWER), select("stretch")[0]
        long = theta[:, ROUND:].clamp(longest.lower, longest.upper)
        return torch.cat([yx, log_d, log_depth, power, long], dim=1)
