"""Find every particle of a frame: detections, layers, what is missing, the final fit (chapter 7, "Particles")."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from ..crystal.lattice import Lattice
from ..crystal.neighbours import layer_spacings
from .completion import complete, settle_overlaps
from .layer_assignment import assign_layers, merge_finds
from .network_peaks import locate
from .particle_fit import FrameFit
from .profile_and_blur import Imaging

LIKELIEST = ["y", "x", "diameter", "y_std", "x_std"]
FEWEST = 3  # particles, by hand; fewer share too little to fit what particles share
SURE = 0.3  # by hand on simulated scenes; score from which a peak of the network is a particle
NOISE = 0.25  # by hand on simulated noise: where fewer of the peaks are sure, unsure ones are noise
ALONE = 20.0  # log-likelihood that a particle without a lattice must add; in simulated noise, peaks reach some 10
MOST_ROUNDS = 3  # of completion, two where the imaging is known; by hand: later ones hardly change the particles
SAME_PLACE = 0.3  # diameters, by hand: a particle that moved less in a round is the same
FITTED = ["side", "y", "x", "score", "diameter", "depth"]


@dataclass(frozen=True)
class SharedByFrames:
    """What the frames of a movie have in common, known from some of them."""

    imaging: Imaging  # profile, blur and dark level
    layers: int | None  # number of layers; None where the frames that were looked at differ


@dataclass(frozen=True)
class Found:
    """All particles of a frame, fitted to the frame alone; ``…_likeliest``: to the frame and the crystal's regularity.

    Attributes
    ----------
    particles : pandas.DataFrame
        ``layer`` (from 1), ``layer_confidence``, ``score``; ``y, x, diameter`` (px),
        ``opacity``, ``depth``, one-sigma errors ``y_std, x_std, diameter_std, depth_std``; and ``y_likeliest,
        x_likeliest, diameter_likeliest, y_std_likeliest, x_std_likeliest`` (px).
    lattices : list of Lattice or None
        The main lattice of each layer.
    imaging : Imaging or None
        What the particles share: profile, blur, dark level; None where there are too few particles to measure it.
    why : str
        Why the frame was left out; empty where it was not.
    """

    particles: pd.DataFrame
    lattices: list[Lattice | None]
    imaging: Imaging | None
    why: str = ""


def find(
    frame: np.ndarray,
    centers: np.ndarray,
    diameter: float,
    shared: SharedByFrames | None = None,
    layers: int | None = None,
) -> Found:
    """Find, assign and fit all particles of a frame.

    Detection, layers and fit help each other: layers say which sites should hold a particle, the fit says whether they
    do, and better positions make better layers. Up to three rounds are made.

    Parameters
    ----------
    frame : ndarray, shape (y, x)
        Raw frame at working sampling; particles darker than the background.
    centers : ndarray, shape (channels, y, x)
        Peaks at particle centres, from `moirelib.decomposition.predict`.
    diameter : float
        Expected particle diameter, in pixels.
    shared : SharedByFrames, optional
        What is known of the frame from others of its movie; its particles are its own.
    layers : int, optional
        Number of layers where it is given.
    """
    finds = merge_finds(drop_noise(locate(centers, diameter)), diameter)
    if len(finds) < FEWEST:
        return find_single_particles(frame, finds, diameter)
    imaging, usual = (None, None) if shared is None else (shared.imaging, shared.layers)
    layers = usual if layers is None else layers
    fit = FrameFit.start(frame, finds, diameter, imaging).fit(2 if imaging is None else 1)
    fit, particles = find_particles(fit, finds, layers)
    if len(particles) < FEWEST:
        return find_single_particles(frame, particles, diameter)
    particles, lattices = assign_layers(particles, diameter, layers)
    return fit_finally(fit, particles, lattices)


def drop_noise(detections: pd.DataFrame) -> pd.DataFrame:
    """Detections without weak peaks where next to nothing is sure: there they are noise."""
    sure = detections["score"] >= SURE
    return detections[sure].reset_index(drop=True) if sure.mean() < NOISE else detections


def find_particles(fit: FrameFit, particles: pd.DataFrame, layers: int | None) -> tuple[FrameFit, pd.DataFrame]:
    """Fit and particles of a frame of which only the network's finds are known; ``layers`` where that is known."""
    particles = fit.table(particles)
    for _ in range(MOST_ROUNDS - fit.known):
        known = particles[["y", "x"]].to_numpy()
        fit, particles, spacings = complete_once(fit, particles, layers)
        if len(particles) < FEWEST:
            break
        fit, particles = settle_overlaps(fit, particles, spacings)
        fit = fit.with_particles(particles, in_rows=True).fit(1)
        particles = fit.table(particles)[[*FITTED, "shown"]]
        moved = cKDTree(known).query(particles[["y", "x"]])[0]
        if len(particles) == len(known) and moved.max() < SAME_PLACE * fit.model.diameter:
            break  # the same particles as before
    return fit, particles


def complete_once(fit, particles, layers) -> tuple[FrameFit, pd.DataFrame, dict[int, float]]:
    """Layers of the particles, then missing particles added and false ones removed, then the fit; and the spacings."""
    diameter = fit.model.diameter
    particles, _ = assign_layers(particles, diameter, layers)
    spacings = layer_spacings(particles[["y", "x"]].to_numpy(), particles["layer"].to_numpy(), diameter)
    fit = fit.with_particles(particles, in_rows=True).fit(1)
    particles = complete(fit, fit.table(particles), spacings)
    if len(particles) >= FEWEST:
        fit = fit.with_particles(particles, in_rows=True).fit(1)
        particles = fit.table(particles)
    return fit, particles, spacings


def fit_finally(fit: FrameFit, particles: pd.DataFrame, lattices: list[Lattice | None]) -> Found:
    """Fit every particle to the frame alone, then to the frame and the rows of its layer."""
    free = fit.with_particles(particles).fit(1)
    particles = free.result(particles)
    in_rows = free.with_particles(particles, in_rows=True).fit(1, shared=False)
    return Found(add_likeliest(particles, in_rows.result(particles)), lattices, in_rows.imaging)


def add_likeliest(particles: pd.DataFrame, likeliest: pd.DataFrame) -> pd.DataFrame:
    """The table with the columns `LIKELIEST` of another fit of the same particles."""
    return particles.assign(**{f"{name}_likeliest": likeliest[name].to_numpy() for name in LIKELIEST})


def find_single_particles(frame, detections, diameter) -> Found:
    """One or two particles, or none: without a lattice, only those that the frame clearly shows are kept."""
    particles = assign_layers(detections, diameter)[0]
    while len(particles):
        fit = FrameFit.start(frame, particles, diameter).fit(3)
        clear = fit.evidence() > ALONE
        if clear.all():
            particles = fit.result(particles)
            break
        particles = particles[clear].reset_index(drop=True)
    else:
        fitted = ("diameter", "depth", "opacity", "y_std", "x_std", "diameter_std", "depth_std")
        particles = particles.assign(**dict.fromkeys(fitted, 0.0))
    return Found(add_likeliest(particles, particles), [], None)
