"""What particles of a frame share: form, the microscope's blur, the dark level (chapter 7, "Particles")."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch


class SharedParameter(NamedTuple):
    """One number that all particles of a frame share.

    ``derivative`` says how its derivative is taken: "profile" by a formula in the particles' windows; "stretch" and
    "transfer" by a difference of size ``step`` of the stretch matrix or of the transfer function; "level" is 1.
    ``std`` is the size of a usual step of the fit, one sigma.
    """

    name: str
    unit: str
    lower: float
    upper: float
    std: float  # in the same unit, but a logarithm for diameter and depth, which are fitted as logarithms
    derivative: str
    step: float = np.nan


#: In the order of the fit's step. Bounds keep values physical. Standard deviations steady a step where the frame does
#: not determine it; they are about where the fit stands, so they slow the fit but do not move its result. Difference
#: steps are some hundred times smaller. All were set by hand.
SHARED = (
    SharedParameter("diameter", "expected diameters", 0.6, 1.5, 0.2, "profile"),
    SharedParameter("depth", "1", 0.02, 6.0, 1.0, "profile"),  # darker particles look the same: exp(-6) = 0.2 %
    SharedParameter("exponent", "1", 0.02, 0.6, 0.3, "profile"),
    SharedParameter("soft", "diameters", 0.0, 0.25, 0.05, "profile"),
    SharedParameter("blur", "diameters", 0.02, 0.5, 0.2, "transfer", 5e-4),
    SharedParameter("disk", "share of variance", 0.0, 1.0, 0.5, "transfer", 5e-3),
    SharedParameter("tail", "diameters", 0.0, 0.3, 0.03, "transfer", 5e-4),
    SharedParameter("offset", "medians of the frame", -0.5, 0.95, 0.3, "level"),
    SharedParameter("coma_y", "rad", -1.0, 1.0, 0.2, "transfer", 2e-3),
    SharedParameter("coma_x", "rad", -1.0, 1.0, 0.2, "transfer", 2e-3),
    SharedParameter("long_y", "logarithm of a ratio", -0.6, 0.6, 0.1, "stretch", 0.01),
    SharedParameter("long_diagonal", "logarithm of a ratio", -0.6, 0.6, 0.1, "stretch", 0.01),
)
DIAMETER, DEPTH, *IMAGING = SHARED

GAUSSIAN_REACH = 3.0  # standard deviations of a Gaussian blur beyond which it carries next to no light (0.3 %)
DISK_REACH = 2.0  # the same for a disk, which ends there: its radius is 2 standard deviations along one axis


def select(derivative: str) -> list[SharedParameter]:
    """Shared parameters whose derivative is taken in this way, in the table's order."""
    return [p for p in SHARED if p.derivative == derivative]


def stretch_matrix(long_y: torch.Tensor, long_diagonal: torch.Tensor) -> torch.Tensor:
    """Elements yy, yx and xx, (3, ...), of the matrix of determinant 1 that makes a circle of a particle's ellipse.

    The ellipse's extent along y is exp(``long_y``) times that along x; ``long_diagonal`` is the same for the diagonals.
    """
    size = torch.hypot(long_y, long_diagonal)
    along = torch.sinh(size.clamp(min=1e-6)) / size.clamp(min=1e-6)
    return torch.stack([torch.cosh(size) - along * long_y, -along * long_diagonal, torch.cosh(size) + along * long_y])


@dataclass(frozen=True)
class Imaging:
    """What all particles of a frame share: their form, how the microscope blurs it, and the dark level."""

    exponent: float = 0.25  # of (1 - r²/R²) in the thickness: 0 a standing rod or plate, 0.5 a sphere
    soft: float = 0.0  # standard deviation, along one axis, of the disk that softens the thickness / diameter
    blur: float = 0.12  # standard deviation of the blur along one axis / diameter
    disk: float = 0.3  # share of the blur's variance that is a disk's (defocus); the rest is Gaussian
    tail: float = 0.03  # decay length of the long-tailed blur of cameras, exp(-length × wave number) / diameter
    offset: float = 0.0  # counts without light / median of the frame
    coma_y: float = 0.0  # of a pattern that repeats every diameter, in radians of phase: one side's edge is sharper
    coma_x: float = 0.0
    long_y: float = 0.0  # logarithm of the particles' extent along y over that along x
    long_diagonal: float = 0.0  # the same along the diagonals, y = x over y = -x
    powers: float = 0.0  # spread of the logarithms of the particles' powers of thickness; 0: one profile for all

    def add_step(self, step: Mapping[str, float], greatest_offset: float = np.inf) -> "Imaging":
        """Parameters after a step, within their bounds in `SHARED`; the offset also stays below ``greatest_offset``."""
        values = {p.name: float(np.clip(getattr(self, p.name) + step[p.name], p.lower, p.upper)) for p in IMAGING}
        values["offset"] = min(values["offset"], greatest_offset)
        return replace(self, **values)

    def transfer(self, shape: tuple[int, int], diameter: float) -> torch.Tensor:
        """Transfer function of the blur on the frequencies of ``rfft2`` of an image (y, x); ``diameter`` in pixels."""
        ky, kx = torch.fft.fftfreq(shape[0]), torch.fft.rfftfreq(shape[1])
        q2 = (2 * np.pi) ** 2 * (ky[:, None] ** 2 + kx[None, :] ** 2)
        variance = (self.blur * diameter) ** 2
        soft = torch.exp(-0.5 * (1 - self.disk) * variance * q2 - self.tail * diameter * torch.sqrt(q2))
        u = torch.sqrt(4 * self.disk * variance * q2).clamp(min=1e-3)  # a disk of radius R has the variance R²/4
        # Third order in the wave number: it moves no centre of mass.
        phase = (diameter / (2 * np.pi)) ** 2 * q2 * diameter * (self.coma_y * ky[:, None] + self.coma_x * kx[None, :])
        return soft * 2 * torch.special.bessel_j1(u) / u * torch.polar(torch.ones_like(phase), phase)

    def reach(self, diameter: float) -> int:
        """Pixels that the blur carries light across, all but its far tail."""
        width = (GAUSSIAN_REACH - (GAUSSIAN_REACH - DISK_REACH) * self.disk) * self.blur
        return int(np.ceil((width + 0.5 * np.hypot(self.coma_y, self.coma_x)) * diameter)) + 1
