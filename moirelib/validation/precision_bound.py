"""How precisely a frame's particles can be measured at all (chapter 7, "Particles")."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.spatial import cKDTree

STEP = 0.02  # diameters; half the step of central differences
REACH = 1.2  # diameters from a particle's middle up to which it changes the image, blur included


def cramer_rao_bound(
    expect: Callable[[np.ndarray, np.ndarray], np.ndarray],
    positions: ArrayLike,
    diameters: ArrayLike,
    readout: float = 0.0,
    mtf: Callable[[np.ndarray], np.ndarray] | None = None,
    shared: Sequence[np.ndarray] = (),
    reach: float = REACH,
) -> pd.DataFrame:
    """Least standard deviations ``y_std, x_std, diameter_std`` (px) of unbiased estimates from one frame.

    All positions and diameters are unknown at once, as is what all particles share: one information matrix, whose
    inverse holds the bounds (den Dekker et al., Ultramicroscopy 104, 83 (2005)). Neighbours that overlap make a bound
    larger. Particles at the border are bounded by what is left of their image.

    Parameters
    ----------
    expect : callable
        Of any simulator: expected electrons (y, x) of the image of particles at positions (n, 2) with diameters (n,),
        in pixels.
    positions, diameters : array_like
        Of the particles, shape (n, 2) as y and x, and (n,), in pixels.
    readout : float
        Standard deviation of the noise that adds to that of Poisson counts, in electrons.
    mtf : callable, optional
        Of the camera, over the frequency in cycles per pixel: blurs electrons before the readout noise is added. Where
        counts differ over the frame, their mean decides how much each frequency tells.
    shared : sequence of ndarray
        Derivatives (y, x) of the expected electrons by numbers that all particles share and that are unknown too.
    reach : float
        Diameters from its middle, up to which a particle changes the image.

    Returns
    -------
    pandas.DataFrame
        A row for each particle; infinite where the frame tells nothing.
    """
    positions, diameters = np.asarray(positions, float), np.asarray(diameters, float)
    if positions.shape != (len(diameters), 2):
        raise ValueError(f"positions must be (n, 2) and diameters (n,), got {positions.shape} and {diameters.shape}")
    expected = np.maximum(expect(positions, diameters), 1e-9)
    weight = 1 / np.sqrt(expected + readout**2)
    transfer = whiten(expected.shape, expected.mean(), readout, mtf)

    def weigh(change):
        return weight * np.fft.irfft2(np.fft.rfft2(change) * transfer, s=change.shape)

    rows = differentiate(expect, weigh, positions, diameters, reach)
    rows = sparse.vstack([rows, *(sparse.csr_matrix(weigh(one).reshape(1, -1)) for one in shared)])
    information = (rows @ rows.T).toarray()
    seen = np.diag(information) > 1e-12 * np.diag(information).max(initial=0)
    variance = np.full(len(information), np.inf)
    variance[seen] = np.diag(np.linalg.pinv(information[np.ix_(seen, seen)], hermitian=True))
    std = np.sqrt(variance[: 3 * len(diameters)]).reshape(-1, 3)
    return pd.DataFrame(std, columns=["y_std", "x_std", "diameter_std"])


def whiten(shape, mean: float, readout: float, mtf) -> np.ndarray:
    """Share of the information that each frequency of ``rfft2`` keeps, as an amplitude; 1 without a camera's blur."""
    if mtf is None:
        return np.ones(1)
    k = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1]))
    passed = mtf(k) ** 2
    return np.sqrt(passed * (mean + readout**2) / (mean * passed + readout**2))


def differentiate(expect, weigh, positions, diameters, reach: float) -> sparse.csr_matrix:
    """Weighed derivatives (3 n, pixels) of the expected electrons by y, x and diameter of each particle.

    Particles too far apart to change the same pixels are moved at once: a frame of hundreds takes some hundred images.
    """
    far = reach * diameters.max(initial=0)
    group, size = color_apart(positions, 2 * far), STEP * np.median(diameters)
    pixels = np.moveaxis(np.indices(weigh(expect(positions, diameters)).shape), 0, -1).reshape(-1, 2)
    rows = sparse.csr_matrix((3 * len(diameters), len(pixels)))
    for g in range(group.max(initial=-1) + 1):
        moved = np.flatnonzero(group == g)
        distance, owner = cKDTree(positions[moved]).query(pixels, distance_upper_bound=far)
        near = np.flatnonzero(np.isfinite(distance))
        for k in range(3):
            step = np.zeros((len(diameters), 3))
            step[moved, k] = size
            images = [expect(positions + s * step[:, :2], diameters + s * step[:, 2]) for s in (1, -1)]
            change = weigh((images[0] - images[1]) / (2 * size)).ravel()[near]
            rows += sparse.csr_matrix((change, (3 * moved[owner[near]] + k, near)), rows.shape)
    return rows


def color_apart(positions, distance) -> np.ndarray:
    """A number for each point, such that no two points of one number are nearer to each other than a distance."""
    near = cKDTree(positions).query_ball_point(positions, distance)
    color = np.full(len(positions), -1)
    for i in np.argsort([-len(some) for some in near]):
        taken = set(color[near[i]].tolist())
        color[i] = next(c for c in range(len(positions) + 1) if c not in taken)
    return color
