"""Find every particle of a frame: detections, hypotheses, the best one, its final fit (chapter 7, "Particles")."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..crystal.lattice import Lattice
from .layer_assignment import assign_layers
from .layer_count import LayerCountRules, SharedByFrames, choose_hypothesis, propose_hypotheses
from .network import locate
from .particle_fit import SHAPE, FrameFit
from .profile_and_blur import Imaging

LIKELIEST = ["y", "x", "diameter", "y_std", "x_std"]
NOISE = 0.25  # by hand on simulated noise: where a smaller share of the peaks is sure, unsure ones are noise
UNKNOWN = SharedByFrames()
LEAST_EVIDENCE = 20.0  # log-likelihood that a particle without a lattice must add; peaks of simulated noise reach 10


@dataclass(frozen=True)
class Found:
    """All particles of a frame, fitted to the frame alone; ``…_likeliest``: to the frame and the crystal's regularity.

    ``particles`` holds ``layer`` (from 1), ``grain``, ``layer_confidence``, ``other_layer``, ``lattice_fit``,
    ``score``; ``y, x, diameter, diameter_half_depth`` (px), ``opacity``, ``depth``, one-sigma errors ``y_std, x_std,
    diameter_std, depth_std``; and ``y_likeliest, x_likeliest, diameter_likeliest, y_std_likeliest, x_std_likeliest``.
    """

    particles: pd.DataFrame
    lattices: list[list[Lattice]]  # of each layer, largest grain first
    imaging: Imaging | None  # profile, blur and dark level that particles share; None where too few show them
    why: str = ""  # why the frame was left out; empty where it was not
    cut: str = ""  # what of the frame holds no image and was cut off


def find(
    frame: np.ndarray,
    centers: np.ndarray,
    diameter: float,
    shared: SharedByFrames = UNKNOWN,
    look_for_three: Callable[[], np.ndarray] | None = None,
) -> Found:
    """Find, assign and fit all particles of a frame.

    Detection, layers and fit help each other: layers say which sites should hold a particle, the fit says whether they
    do, and better positions make better layers. Up to three rounds are made. Where two layers are nearly alike, the
    frame is fitted with one layer as well, and the better hypothesis is chosen. Takes a raw frame (y, x) at working
    sampling, particles darker than the background, the peaks of `predict`, the expected diameter (px), and what is
    known from other frames of the movie; the particles are its own. ``look_for_three`` gives the peaks of a network of
    three layers; without, they are those of ``centers``.
    """
    detections = detect(centers, diameter)
    if len(detections) < LayerCountRules.fewest:
        return find_single_particles(frame, detections, diameter, shared)

    def detect_three() -> pd.DataFrame:
        return detect(centers if look_for_three is None else look_for_three(), diameter)

    best = choose_hypothesis(propose_hypotheses(frame, detections, detect_three, diameter, shared), shared.given)
    if len(best.particles) < LayerCountRules.fewest:
        return find_single_particles(frame, best.particles, diameter, shared)
    free = best.fit.with_particles(best.particles).fit(1)
    shaped = free.with_shapes().fit(2)
    particles = shaped.result(best.particles)
    # Two more parameters make a shape; where shapes do not pay, particles are better located as round ones.
    if shaped.gain_over(free) > 2 * free.parameter_price * len(particles):
        free = shaped
    else:
        particles = free.result(best.particles).join(particles[SHAPE])
    in_rows = free.with_particles(particles, in_rows=True).fit(1, shared=False)
    likeliest = in_rows.result(particles)[LIKELIEST].add_suffix("_likeliest")
    return Found(particles.join(likeliest), best.lattices, in_rows.imaging)


def detect(centers: np.ndarray, diameter: float) -> pd.DataFrame:
    """Detections of `locate`; only the sure ones where hardly any is."""
    detections = locate(centers, diameter)
    sure = detections["score"] >= LayerCountRules.sure
    return detections[sure].reset_index(drop=True) if sure.mean() < NOISE else detections


def find_single_particles(frame, detections, diameter, shared) -> Found:
    """One or two particles, or none: without a lattice, only those that the frame clearly shows are kept."""
    particles = assign_layers(detections, diameter, layers=shared.given)[0]
    while len(particles):
        fit = FrameFit.start(frame, particles, diameter).fit(2)
        clear = fit.evidence() > LEAST_EVIDENCE
        if clear.all():
            particles = fit.result(particles)
            break
        particles = particles[clear].reset_index(drop=True)
    else:
        fitted = ("diameter", "diameter_half_depth", "depth", "opacity", "y_std", "x_std", "diameter_std", "depth_std")
        particles = particles.assign(**dict.fromkeys(fitted, 0.0))
    return Found(particles.join(particles[LIKELIEST].add_suffix("_likeliest")), [[], []], None)
