"""The thickness of particles whose outline is soft: tilted, wobbling or rounded ones (chapter 7, "Particles")."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import expit, gamma, j0, j1, jv

#: Softness of an outline, in squared radii: its sigmoid rises from 10 to 90 % over 4.4 times this, which is one sample
#: of half a pixel at the working radius of 6 pixels (2 · 0.5 / 6 = 0.17).
EDGE = 0.04
SHARP = 0.1  # radii; a disk narrower than this, about half a working pixel, softens nothing that is seen
WAVE_STEP, WAVES = 0.05, 4000  # 1/radii: wave numbers up to 200, a wavelength of 0.03 radii
STEP = 5e-4  # of exponent and softness, for differences
FARTHEST, SAMPLES = 2.3, 1024  # radii, and samples in squared radii: a disk as large as the particle ends at 2


class SoftThickness(NamedTuple):
    """Thickness over squared distance, both relative to the solid's, and its derivatives, in a table."""

    values: torch.Tensor  # (SAMPLES, 4): thickness, its derivatives by squared distance, exponent and ``soft``
    edge: float  # squared distance where it ends
    edge_by_soft: float

    def look_up(self, rho2: torch.Tensor, slopes: bool = True) -> tuple[torch.Tensor, ...]:
        """Each column at these squared distances, by linear interpolation; the first alone without ``slopes``."""
        values = self.values if slopes else self.values[:, :1]
        at = (rho2 * ((SAMPLES - 1) / FARTHEST**2)).clamp(max=SAMPLES - 1.001)
        low = at.long()
        share = (at - low)[..., None]
        return ((1 - share) * values[low] + share * values[low + 1]).unbind(-1)


@lru_cache(maxsize=8)
def soften(exponent: float, soft: float) -> SoftThickness:
    """The thickness (1 - ρ²)^exponent, averaged over a disk of standard deviation ``soft`` diameters along one axis.

    Under `SHARP` it goes over into the sharp one, whose outline the sampling of the frame softens.
    """
    here, edge = tabulate(exponent, soft)
    by_exponent = (tabulate(exponent + STEP, soft)[0] - tabulate(exponent - STEP, soft)[0]) / (2 * STEP)
    (softer, farther), (sharper, nearer) = tabulate(exponent, soft + STEP), tabulate(exponent, max(soft - STEP, 0.0))
    by_soft, edge_by_soft = (softer - sharper) / (2 * STEP), (farther - nearer) / (2 * STEP)
    by_rho2 = np.gradient(here, FARTHEST**2 / (SAMPLES - 1))
    table = np.stack([here, by_rho2, by_exponent, by_soft], axis=1)
    return SoftThickness(torch.from_numpy(table.astype(np.float32)), edge, edge_by_soft)


def half_depth(exponent: float, soft: float) -> float:
    """Diameter at which particles are half as thick as in the middle, over that of the solid's outline."""
    thickness, edge = tabulate(exponent, soft)
    rho2 = np.linspace(0, FARTHEST**2, SAMPLES)
    thickness = thickness * expit((edge - rho2) / EDGE)
    return float(np.sqrt(np.interp(-0.5 * thickness[0], -thickness, rho2)))  # it falls from the middle outwards


def tabulate(exponent, soft) -> tuple[np.ndarray, float]:
    """Thickness at the table's distances, and the squared distance where it ends."""
    rho2 = np.linspace(0, FARTHEST**2, SAMPLES)
    u = 1 - rho2
    sharp = (0.5 * (np.sqrt(u * u + EDGE * EDGE) + u)).clip(1e-6) ** exponent
    radius = 4 * soft  # a disk of radius r has the variance r²/4 along one axis; two radii make a diameter
    share = min(radius / SHARP, 1.0)
    share = share * share * (3 - 2 * share)
    if share == 0:
        return sharp, 1.0
    k, waves = hankel()
    solid = 2**exponent * gamma(exponent + 1) * jv(exponent + 1, k) / k ** (exponent + 1)
    disk = 2 * j1(k * radius) / (k * radius)
    # The midpoint rule misses a constant, to second order in its step.
    averaged = waves @ (solid * disk) - WAVE_STEP**2 / 24 / (2 * (exponent + 1))
    return (1 - share) * sharp + share * averaged.clip(0), (1 + share * radius) ** 2


@lru_cache(maxsize=1)
def hankel() -> tuple[np.ndarray, np.ndarray]:
    """Wave numbers, and the matrix of the Hankel transform from these to the table's distances."""
    k = WAVE_STEP * (np.arange(WAVES) + 0.5)
    return k, WAVE_STEP * k * j0(np.sqrt(np.linspace(0, FARTHEST**2, SAMPLES))[:, None] * k)
