"""A simulated twin of the real frame: same pixels, spacing, noise, background and contrast, other random numbers.

Explained in chapter 3, "Liquid", which fits the numbers to the real frame.
"""

from __future__ import annotations

import numpy as np

from .lattice import LatticeConfig, Scene, random_scene
from .liquid import CameraConfig, LiquidConfig, record
from .optics import clean_image

__all__ = ["REAL_PIXEL_SIZE", "REAL_SPACING", "real_frame_lattice", "real_frame_twin"]

#: nm/pixel of the real frame, by its TIFF tag.
REAL_PIXEL_SIZE = 2.5928
#: nm between nearest neighbours of its lattice, measured in chapter 6.
REAL_SPACING = 119.6


def real_frame_lattice() -> LatticeConfig:
    """Lattice of the twin: one layer of prisms, all turned alike, with an edge in the field.

    Prisms, because the real particles' average image is not round: three of the six gaps around it are brighter.
    """
    return LatticeConfig(
        shapes=("prism",),
        spacing=(REAL_SPACING, REAL_SPACING),
        diameter_ratio=(0.6, 0.6),
        height=80.0,
        rounding=(0.1, 0.1),
        aligned=1.0,
        position_std=(0.04, 0.04),
        strain=(0.05, 0.05),
        diameter_std=(0.1, 0.1),
        vacancies=(0.01, 0.01),
        interstitials=(0.0, 0.0),
        dislocations=0.0,
        single_layer=1.0,
        edge=1.0,
        boundary=0.0,
    )


def real_frame_twin(
    seed: int = 0, size: int = 1024, lattice: LatticeConfig | None = None, liquid: LiquidConfig | None = None
) -> tuple[np.ndarray, Scene]:
    """Simulate a twin of the real frame.

    Parameters
    ----------
    seed : int
        Same seed, same bytes.
    size : int
        Edge in pixels of 2.593 nm; the real frame has 1024.
    lattice : LatticeConfig, optional
        `real_frame_lattice` by default.
    liquid : LiquidConfig, optional
        ``LiquidConfig.real_frame()`` by default.

    Returns
    -------
    frame : ndarray, shape (size, size), uint16
        Counts, on the scale of the real frame less 32768.
    scene : Scene
        Its truth.

    Notes
    -----
    The mean free path of the particles is an effective one, fitted to their contrast. Explained in chapter 3, "Liquid".
    """
    rng = np.random.default_rng(seed)
    lattice, liquid = lattice or real_frame_lattice(), liquid or LiquidConfig.real_frame()
    scene = random_scene(lattice, (size * REAL_PIXEL_SIZE,) * 2, rng)
    # Particles of 27 pixels need no finer sampling of the wave than the camera's.
    clean = clean_image(scene, REAL_PIXEL_SIZE, mean_free_path=150.0, oversampling=1)
    return record(clean, REAL_PIXEL_SIZE, liquid, CameraConfig.real_frame(), rng), scene
