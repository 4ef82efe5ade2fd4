"""Two hexagonal lattices upon each other: Moiré period and coincidence sites (chapter 1, "Lattices")."""

from math import gcd

import numpy as np
import pandas as pd

from .lattice import fold_hexagonal


def moire_period(spacing: float, twist_angle: float, other_spacing: float | None = None) -> float:
    """Period of the Moiré pattern of two hexagonal lattices, in nm; ``inf`` for identical lattices.

    a b / √(a² + b² - 2 a b cos θ), for spacings a and b in nm, equal by default, and a twist θ in degrees; for a = b it
    is a / (2 sin(θ/2)) (Hermann, J. Phys.: Condens. Matter 24, 314210, 2012). Equivalent twists, 60° apart, give one
    period.
    """
    a, b = spacing, spacing if other_spacing is None else other_spacing
    half = np.sin(np.radians(fold_hexagonal(twist_angle)) / 2)
    difference = np.hypot(a - b, 2 * np.sqrt(a * b) * half)  # the same root, exact for small twists
    return float(a * b / difference) if difference > 0 else float("inf")


def commensurate_angles(max_sigma: int) -> pd.DataFrame:
    """Twists at which two equal hexagonal lattices share a lattice of coincident sites, one in Σ up to ``max_sigma``.

    Turning by θ with cos θ = (m² + 4 m n + n²) / (2 (m² + m n + n²)) brings the vector (n, m) onto (m, n). For coprime
    m > n, Σ = m² + m n + n², or a third of it where m - n is a multiple of 3; the latter repeat twists that the former
    give, and are left out. Ranganathan, Acta Cryst. 21, 197 (1966); Shallcross et al., Phys. Rev. B 81, 165105 (2010).

    The table has ``sigma, twist_deg`` (0 to 30) and the whole numbers ``m, n``, sorted by Σ. The vector m a₁ + n a₂ is
    the shortest of the coincidence lattice, and the mirror line of a symmetric tilt boundary of this Σ.
    """
    rows = []
    for m in range(2, int(np.sqrt(max_sigma)) + 1):
        for n in range(1, m):
            sigma = m * m + m * n + n * n
            if sigma <= max_sigma and gcd(m, n) == 1 and (m - n) % 3:
                cosine = (m * m + 4 * m * n + n * n) / (2 * sigma)
                rows.append((sigma, fold_hexagonal(np.degrees(np.arccos(cosine))), m, n))
    return pd.DataFrame(sorted(rows), columns=["sigma", "twist_deg", "m", "n"])


def coincidence_period(spacing: float, sigma: int) -> float:
    """Period a √Σ of the coincident sites of two equal hexagonal lattices, in nm."""
    return float(spacing * np.sqrt(sigma))
