"""Particle diameter and polarity of a movie, and whether they can be right (chapter 6, "Decompose")."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from ..crystal.fourier import find_lattice
from ..crystal.neighbours import SPACING_PER_DIAMETER
from .network import BACKGROUND, WORKING_DIAMETER, locate, measure_shares, normalize, predict, resample

#: Particles outside this range of diameters, in nm, are no nanoparticles: the pixel size must be wrong.
PLAUSIBLE_DIAMETER = (0.5, 500.0)
SMALLEST_DIAMETER = 4.0  # pixels; smaller particles show too little of their outline


@dataclass(frozen=True)
class SizeSearch:
    """How the diameter is searched for. All values set by hand on simulated scenes of development seeds."""

    step: float = 0.18  # logarithm of the ratio of two diameters that are tried; the network allows for some 10 %
    across: float = 3  # particles along the frame's shorter side, at least
    widest: float = 1.2  # smallest diameters that the search spans at least
    view: int = 224  # working pixels; side of the part of a frame that is looked at: some ten spacings
    smoothing: float = 1.0  # working pixels, of the frame
    fewest: int = 8  # particles of a lattice; fewer count as so many at random
    sure: float = 0.5  # mean score of the finds from which the network sees particles well
    much_larger: float = 1.4  # ratio of two diameters, from which the larger one is believed
    as_dark: float = 0.85  # least correlation of the larger one, over that of the smaller one
    corrections: int = 2  # by the size of what the network finds
    correction: tuple[float, float] = (0.7, 1.4)  # limits of each
    worse: float = 0.5  # a corrected diameter that suits less than this much as well is refused


SEARCH = SizeSearch()


def check_pixel_size(movie, diameter) -> float:
    """The pixel size; a missing one is refused, and one at which no nanoparticle could be resolved."""
    if movie.pixel_size is None:
        raise ValueError(f"pixel size is missing from {movie.name}; pass pixel_size=... (nm) or --pixel-size NM")
    if diameter is not None and not (np.isfinite(diameter) and diameter > 0):
        raise ValueError(f"diameter must be a positive number of nm, got {diameter}")
    largest = PLAUSIBLE_DIAMETER[1] if diameter is None else diameter
    if largest / movie.pixel_size < SMALLEST_DIAMETER:
        raise ValueError(
            f"at {movie.pixel_size:g} nm/pixel a particle of {largest:g} nm is under {SMALLEST_DIAMETER:g} pixels wide "
            f"in {movie.name}; check the pixel size (nm per pixel)"
        )
    return movie.pixel_size


def check_diameter(diameter_px, movie) -> None:
    """Refuse a diameter that does not fit the frames or that no nanoparticle has."""
    nm = diameter_px * movie.pixel_size
    if diameter_px > min(movie.shape[1:]):
        raise ValueError(
            f"a particle of {nm:.3g} nm is larger than the frames of {movie.name}; check the diameter (nm)"
        )
    if diameter_px < SMALLEST_DIAMETER:
        raise ValueError(
            f"particles in {movie.name} are about {diameter_px:.1f} pixels wide; at least {SMALLEST_DIAMETER:g} are "
            "needed; record at higher magnification"
        )
    if not PLAUSIBLE_DIAMETER[0] <= nm <= PLAUSIBLE_DIAMETER[1]:
        raise ValueError(
            f"at {movie.pixel_size:g} nm/pixel the particles in {movie.name} would be {nm:.3g} nm wide, no "
            "nanoparticles; check the pixel size (nm per pixel)"
        )


def estimate_size_and_polarity(frames: list[np.ndarray], model, diameter_px) -> tuple[float, float]:
    """Particle diameter in pixels and polarity (1 for dark particles, -1 for bright) from some frames of a movie."""
    trials = []
    for frame in frames:
        d = estimate_diameter(frame, model) if diameter_px is None else diameter_px
        trials += [(measure_fit(sign * frame, model, d), d, sign) for sign in (1.0, -1.0)]
    return max(trials, key=lambda trial: trial[0].significance)[1:]


def estimate_diameter(frame: np.ndarray, model: torch.nn.Module) -> float:
    """Particle diameter in pixels of a raw frame (y, x), from what a network finds at several magnifications.

    The network knows particles of `WORKING_DIAMETER` pixels. At a magnification near the right one, what it finds
    correlates best with the image's darkness (or brightness) and forms the strongest lattice. The size of what it finds
    there corrects the rest, unless the corrected diameter suits the frame much less: the network sees too little of
    very dark or defocused particles.
    """
    largest = max(min(frame.shape) / SEARCH.across, SEARCH.widest * SMALLEST_DIAMETER)
    trials = np.geomspace(SMALLEST_DIAMETER, largest, 2 + int(np.log(largest / SMALLEST_DIAMETER) / SEARCH.step))
    fits = [measure_fit(frame, model, d) for d in trials]
    found, fit = settle_diameter(frame, model, trials, fits, "significance")
    if max(one.sure for one in fits) < SEARCH.sure:
        return found
    # Small diameters are judged by more of the frame, which makes them more significant than large ones.
    larger, other = settle_diameter(frame, model, trials, fits, "suits")
    as_dark = abs(other.correlation) > SEARCH.as_dark * abs(fit.correlation)
    return larger if as_dark and larger > SEARCH.much_larger * found else found


def settle_diameter(frame, model, trials, fits, name: str) -> "tuple[float, DiameterFit]":
    """The diameter that is rated highest, corrected; ``name`` is that of the rating in `DiameterFit`."""
    ratings = [getattr(fit, name) for fit in fits]
    best = int(np.argmax(np.abs(ratings)))
    polarity, corrected = np.sign(ratings[best]), trials[best]
    for _ in range(SEARCH.corrections):  # by the size of what the network finds
        measured = measure_diameter(*predict(model, crop_middle(polarity * frame, corrected)))
        if measured is None:
            break
        corrected *= np.clip(measured / WORKING_DIAMETER, *SEARCH.correction)
    again = measure_fit(polarity * frame, model, corrected)
    if getattr(again, name) < SEARCH.worse * abs(ratings[best]):
        return float(trials[best]), fits[best]
    return float(corrected), again


def crop_middle(frame, diameter) -> np.ndarray:
    """The middle of a frame at the sampling that a diameter asks for."""
    image = resample(frame, find_working_shape(frame.shape, diameter))
    starts = (max((n - SEARCH.view) // 2, 0) for n in image.shape)
    return image[tuple(slice(start, start + SEARCH.view) for start in starts)]


class DiameterFit(NamedTuple):
    """How well a diameter suits a frame; negative where the particles are bright."""

    sure: float  # mean score of what the network finds
    correlation: float  # of what it finds with the frame's darkness (Fisher's z)
    suits: float  # product of the correlation, ``sure`` and the order of the finds
    significance: float  # of the correlation, times the root of the strength of the lattice that the finds form


def measure_fit(frame, model, diameter) -> DiameterFit:
    """How well a diameter suits a frame."""
    image = crop_middle(frame, diameter)
    masks, centers = predict(model, image)
    found = masks.sum(axis=0)
    found = found - gaussian_filter(found, BACKGROUND * WORKING_DIAMETER)  # as `normalize` does to the frame
    dark = -normalize(gaussian_filter(image, SEARCH.smoothing))
    correlation = np.mean(found * dark) / np.sqrt(np.mean(found**2) * np.mean(dark**2) + 1e-12)
    z, finds = np.arctanh(np.clip(correlation, -0.9999, 0.9999)), locate(centers, WORKING_DIAMETER)
    points, strength, order = finds[["y", "x"]].to_numpy(), 1.0, 1 / SEARCH.fewest
    if len(points) >= SEARCH.fewest:
        strength = find_lattice(points, SPACING_PER_DIAMETER * WORKING_DIAMETER)[1]
        order = strength / len(points)  # 1 in a perfect lattice
    sure = float(finds["score"].mean()) if len(points) else 0.0
    return DiameterFit(sure, float(z), float(z * sure * np.sqrt(order)), float(z * np.sqrt(image.size * strength)))


def measure_diameter(masks, centers) -> float | None:
    """Median diameter, in working pixels, of disks as large as each particle's share of its channel's mask."""
    found, far_edge = locate(centers, WORKING_DIAMETER), np.array(masks.shape[1:]) - WORKING_DIAMETER
    inner = ((found[["y", "x"]] > WORKING_DIAMETER) & (found[["y", "x"]] < far_edge)).all(axis=1)
    areas: list[float] = []
    for channel, group in found.groupby("channel"):
        share, _ = measure_shares(masks[channel], group[["y", "x"]].to_numpy(), WORKING_DIAMETER, floor=0.0)
        areas.extend(share[inner[group.index]])
    return float(np.sqrt(4 / np.pi * np.median(areas))) if areas else None


def find_working_shape(shape, diameter_px) -> tuple[int, int]:
    """Shape at which particles are `WORKING_DIAMETER` pixels wide, the same zoom on both axes to a pixel."""
    zoom = WORKING_DIAMETER / diameter_px
    height, width = (max(int(round(n * zoom)), 4) for n in shape)
    return height, width
