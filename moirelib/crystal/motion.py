"""How a specimen moved from one frame to another, from its particles alone (chapter 7, "Particles").

A shifted lattice looks the same, but for its edges, vacancies and displaced particles. So candidates for the shift come
from the cross-correlation of both frames' particles, and a likelihood chooses.
"""

from dataclasses import dataclass

import numpy as np
from scipy.fft import next_fast_len
from scipy.ndimage import gaussian_filter
from scipy.signal import fftconvolve
from scipy.spatial import cKDTree
from skimage.feature import peak_local_max

from .matching import pair_mutually_nearest
from .neighbours import to_complex, to_points

# Lengths in spacings. Set by hand on simulated movies of development seeds, where no reason is given.
GRID_CELL = 0.06  # of the grid for the cross-correlation: about the scatter of particles about their places
LEAST_OVERLAP = 0.2  # of a frame's height and width; frames that share less are not compared
CANDIDATES = 30  # highest peaks of the cross-correlation that are tried
PAIR_REACH = 0.35  # a particle further from its place is another one; the middle between two is at 0.5
SHARPEST = 0.02  # least scatter of a particle about its place, one sigma along each axis
LEAST_MISSED = 0.02  # share of particles that one of two frames misses, or that came or went between them
ROTATION = 8  # pairs that show a turn and a change of magnification; fewer only a shift
FARTHEST_PAIR = 3.0  # medians of the residuals; pairs further apart do not count for the fit
COMPARABLE = 0.3  # share of the pairs of the best candidate; those with fewer do not show what a wrong shift leaves
FIT_ROUNDS = 3  # of pairing and fitting; more change no pair
DECIDED = 7.0  # log-likelihood by which a motion must beat every other one: odds of 1,000
ABOUT_AS_MUCH = 6.0  # log-likelihood by which another one may beat the expected motion: odds of 400
SIGMAS = 1.5  # of the margin's noise, by which it must exceed that as well
AROUND = 6  # particles nearest to one, whose mean step is taken off its own
SAME_MOTION = 0.3  # shifts nearer than this are one candidate


@dataclass(frozen=True)
class Motion:
    """A similarity of the plane: z = x + iy goes to turn z + shift, in the points' unit; |turn| is a magnification."""

    turn: complex = 1.0 + 0j
    shift: complex = 0j

    def apply(self, points: np.ndarray) -> np.ndarray:
        """Where points (n, 2) in the order (y, x) go."""
        return to_points(self.turn * to_complex(np.reshape(points, (-1, 2))) + self.shift)

    def after(self, first: "Motion") -> "Motion":
        """The motion that makes another one first, then this one."""
        return Motion(self.turn * first.turn, self.turn * first.shift + self.shift)

    def inverse(self) -> "Motion":
        """The way back."""
        return Motion(1 / self.turn, -self.shift / self.turn)


@dataclass(frozen=True)
class MotionEstimate:
    """A motion from one frame to another, and how sure it is."""

    motion: Motion
    matched: float  # share of the particles in view of both frames that were found in both
    margin: float  # log-likelihood by which it beats every other motion
    noise: float  # of the margin, one sigma

    @property
    def decided(self) -> bool:
        """Whether no other motion explains the particles nearly as well."""
        return self.margin > DECIDED + SIGMAS * self.noise


def estimate_motion(
    before: np.ndarray,
    now: np.ndarray,
    spacing: float,
    shape: tuple[float, float],
    expected: Motion | None = None,
    trust: float = 0.0,
) -> MotionEstimate:
    """Estimate how the particles of one frame (n, 2) moved to those of another (m, 2), over up to a frame's width.

    Takes particles of both frames, of all layers or of one; the spacing within a layer; height and width; all in one
    unit. The ``expected`` motion, by default none, is tried as well, and chosen where no other explains clearly more;
    ``trust`` is a log-likelihood by which another one must do so beyond what is enough otherwise.
    """
    expected = Motion() if expected is None else expected
    if min(len(before), len(now)) == 0:
        return MotionEstimate(expected, 0.0, 0.0, 0.0)
    starts = [expected, *(Motion(expected.turn, z) for z in _find_candidates(expected, before, now, spacing))]
    fits = [_match_frames(before, now, start, PAIR_REACH * spacing, shape) for start in starts]
    middle = np.array([[shape[0] / 2, shape[1] / 2]])
    places = np.concatenate([fit.motion.apply(middle) for fit in fits])
    gains = _weigh(fits, SHARPEST * spacing, PAIR_REACH * spacing)
    far = np.hypot(*(places - expected.apply(middle)).T)
    # Long steps are rarer: a prior that falls as the inverse square of the distance.
    scores = np.array([gain.sum() for gain in gains]) - 2 * np.log1p(far / spacing)
    best = int(scores.argmax())
    rivals = scores[np.hypot(*(places - places[best]).T) > SAME_MOTION * spacing]
    margin = float(scores[best] - rivals.max(initial=-np.inf))
    noise = float(np.sqrt(len(gains[best])) * gains[best].std())
    # The one nearest to what was expected, of those that explain about as much.
    chosen = int(np.where(scores >= scores[best] - ABOUT_AS_MUCH - trust, far, np.inf).argmin())
    return MotionEstimate(fits[chosen].motion, 1 - fits[chosen].missed, margin, noise)


def _find_candidates(expected, before, now, spacing) -> np.ndarray:
    """Shifts (complex) at which most particles of both frames coincide, once the expected turn is taken off."""
    turned = to_points(expected.turn * to_complex(before))
    cell, low = GRID_CELL * spacing, np.minimum(turned.min(axis=0), now.min(axis=0))
    size = [next_fast_len(int(n) + 1) for n in (np.maximum(turned.max(axis=0), now.max(axis=0)) - low) / cell]
    grids = []
    for points in (turned, now):
        grid = np.zeros(size)
        np.add.at(grid, tuple(np.floor((points - low) / cell).astype(int).T), 1.0)
        grids.append(grid)
    together = gaussian_filter(fftconvolve(grids[1], grids[0][::-1, ::-1]), 1.0)
    # Chance pairs scatter with the root of the area in which the frames overlap.
    overlap = [np.maximum(n - np.abs(np.arange(2 * n - 1) - (n - 1)), LEAST_OVERLAP * n) / n for n in size]
    together /= np.sqrt(np.outer(*overlap))
    peaks = peak_local_max(together, min_distance=2, num_peaks=CANDIDATES, exclude_border=False)
    return to_complex((peaks - (np.array(size) - 1)) * cell)


@dataclass(frozen=True)
class _Fit:
    """A candidate for the motion, and how well it explains both frames where they overlap; lengths as of the frames."""

    motion: Motion
    scatter: float  # of pairs, one sigma along each axis
    squared: np.ndarray  # (n,) squared distances of pairs
    alone: int  # particles in view of both frames that have no partner

    @property
    def missed(self) -> float:
        """Share of the particles in view of both frames without a partner."""
        return self.alone / max(self.alone + 2 * len(self.squared), 1)


def _match_frames(before, now, start, reach, shape) -> _Fit:
    """Motion by least squares over pairs of nearest particles, from a start."""
    motion = start
    known: tuple[np.ndarray, ...] = ()
    for _ in range(FIT_ROUNDS):
        i, j = pair_mutually_nearest(motion.apply(before), now, reach)
        if not len(i) or np.array_equal((i, j), known):  # the same pairs would give the same motion
            break
        known = i, j
        motion, _ = fit_similarity(to_complex(before[i]), to_complex(now[j]))
    there, back = motion.apply(before), motion.inverse().apply(now)
    i, j = pair_mutually_nearest(there, now, reach)
    inner = [np.all((p > 0) & (p < np.array(shape) - 1), axis=1) for p in (there, back)]
    alone = inner[0].sum() + inner[1].sum() - inner[0][i].sum() - inner[1][j].sum()
    left = _take_waves_off(now[j], there[i] - now[j])
    scatter = np.median(left) / np.sqrt(2 * np.log(2)) if len(left) else reach  # median of a Rayleigh distribution
    return _Fit(motion, float(scatter), left**2, int(alone))


def _take_waves_off(points: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Length (n,) of what is left of steps once those of the nearest particles are taken off.

    Long elastic waves move neighbours alike. They would make the scatter of a shift that leaves a wide overlap larger
    than that of one that leaves a narrow one.
    """
    if len(points) <= AROUND:
        return np.hypot(*steps.T)
    near = cKDTree(points).query(points, AROUND + 1)[1][:, 1:]
    return np.hypot(*(steps - steps[near].mean(axis=1)).T) * np.sqrt(AROUND / (AROUND + 1))


def _weigh(fits: list[_Fit], sharpest: float, reach: float) -> list[np.ndarray]:
    """For each candidate, the log-likelihood ratio of each particle: this candidate against a wrong shift.

    Where frames overlap, a particle is found in both, scattered about its place (Gaussian), or missed in one. How much
    worse a wrong shift is follows from the other candidates, so that a perfect lattice decides nothing. Each candidate
    has its own scatter: narrow overlaps have less of elastic waves.
    """
    pairs = np.array([len(fit.squared) for fit in fits])
    good = [fit for fit, n in zip(fits, pairs, strict=True) if n >= max(COMPARABLE * pairs.max(), 1)]
    if not good:
        return [np.zeros(1)] * len(fits)
    scatter, missed = (np.array([getattr(fit, name) for fit in good]) for name in ("scatter", "missed"))
    wrong = max(np.median(scatter), sharpest)
    least, usual = max(missed.min(), LEAST_MISSED), min(max(np.median(missed), LEAST_MISSED), 1 - LEAST_MISSED)

    def log_density(squared, share: float, std: float) -> np.ndarray:
        """Of a pair: scattered about its place or, if the particle itself is missed, anywhere within reach."""
        own = (1 - share) / (2 * std**2) * np.exp(-0.5 * squared / std**2)
        return np.log(own + share / reach**2)

    gains = []
    for fit in fits:
        own = log_density(fit.squared, least, np.clip(fit.scatter, sharpest, wrong))
        alone = np.full(fit.alone, np.log(least / usual))
        gains.append(np.concatenate([own - log_density(fit.squared, usual, wrong), alone]))
    return gains


def fit_similarity(a: np.ndarray, b: np.ndarray, rotation: int = ROTATION, rigid: bool = False) -> tuple[Motion, float]:
    """Motion that takes points a to b (complex, shape (n,)) by least squares, without outliers; scatter per axis.

    Of fewer points than ``rotation`` a shift only; a rigid motion does not change the magnification.
    """
    jump = b - a
    motion = Motion(1.0 + 0j, np.median(jump.real) + 1j * np.median(jump.imag))
    left = np.abs(b - motion.turn * a - motion.shift)
    for _ in range(FIT_ROUNDS):
        use = left <= max(FARTHEST_PAIR * np.median(left), 1e-9)
        one, other = a[use].mean(), b[use].mean()
        turn = 1.0 + 0j
        if use.sum() >= rotation:
            turn = np.vdot(a[use] - one, b[use] - other)
            size = abs(turn) if rigid else np.sum(np.abs(a[use] - one) ** 2)
            turn = turn / size if size > 0 else 1.0 + 0j
        motion = Motion(complex(turn), complex(other - turn * one))
        left = np.abs(b - motion.turn * a - motion.shift)
    return motion, float(np.median(left) / np.sqrt(2 * np.log(2)))  # median of a Rayleigh distribution
