"""Particle diameter and polarity of a movie, and whether they can be right (chapter 6, "Decompose")."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from .layers_by_points import merge_finds
from .network import WORKING_DIAMETER, locate, measure_shares, predict, resample
from .particle_fit import FrameFit

#: Particles outside this range of diameters, in nm, are no nanoparticles: the pixel size must be wrong.
PLAUSIBLE_DIAMETER = (0.5, 500.0)
SMALLEST_DIAMETER = 4.0  # pixels; smaller particles show too little of their outline


@dataclass(frozen=True)
class SizeSearch:
    """How the diameter is searched for. All values set by hand on simulated scenes of development seeds."""

    step: float = 0.3  # logarithm of the ratio of two diameters that are tried; the network allows for some 20 %
    across: float = 3  # particles along the frame's shorter side, at least
    widest: float = 1.2  # smallest diameters that the search spans at least
    view: int = 224  # working pixels; side of the part of a frame that is looked at: some ten spacings
    smoothing: float = 0.7  # pixels, of the frame
    corrections: int = 2  # by the size of what the network finds
    correction: tuple[float, float] = (0.7, 1.4)  # limits of each
    worse: float = 0.5  # a corrected diameter that suits less than this much as well is refused
    smaller: float = 0.85  # of the diameter, under which particles that were fitted are too small for it
    shrinks: int = 4  # at most
    fitted: int = 144  # working pixels; side of the part of a frame that is fitted: some hundred particles
    enough: int = 20  # particles in it, whose size counts


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
    """Particle diameter in pixels and polarity (1 for dark particles, -1 for bright) from some frames of a movie.

    The frame counts in which the network sees particles best. ``diameter_px`` is the given diameter, or None.
    """
    found = [(*estimate_diameter(frame, model, diameter_px), frame) for frame in frames]
    diameter, polarity, _, frame = max(found, key=lambda one: one[2])
    return (diameter if diameter_px else shrink_to_fit(polarity * frame, model, diameter)), polarity


def shrink_to_fit(frame, model, diameter) -> float:
    """The diameter, or that of the particles as fitted to the frame where this is much less.

    Of large particles among small ones, and of clusters, the network sees only these if it looks for large ones. A
    smaller diameter counts if the particles that are found with it are as large as that.
    """
    looked_for = diameter
    for _ in range(1 + SEARCH.shrinks):
        fitted = fit_diameter(frame, model, looked_for)
        if fitted > SEARCH.smaller * looked_for:
            confirmed = looked_for < diameter and fitted < looked_for / SEARCH.smaller
            return fitted if confirmed else diameter
        looked_for = max(fitted, SMALLEST_DIAMETER)
    return diameter


def fit_diameter(frame, model, diameter) -> float:
    """Usual diameter, in pixels of the frame, of the particles that the network finds at the sampling of a diameter."""
    image = crop_middle(frame, diameter, SEARCH.fitted)[0]
    finds = merge_finds(locate(predict(model, image)[1], WORKING_DIAMETER), WORKING_DIAMETER)
    if len(finds) < SEARCH.enough:
        return diameter
    fit = FrameFit.start(image, finds, WORKING_DIAMETER)
    return diameter * float(fit.prior.usual[0].exp()) / WORKING_DIAMETER


def estimate_diameter(
    frame: np.ndarray, model: torch.nn.Module, given: float | None = None
) -> tuple[float, float, float]:
    """Particle diameter in pixels of a raw frame (y, x), its polarity, and how well both suit the frame.

    The network knows dark particles of `WORKING_DIAMETER` pixels. Of several magnifications, in both polarities, the
    one where it is surest of what it finds, and where that explains the frame best, is near the right one; the size of
    what it finds there corrects the diameter. A ``given`` diameter stays.
    """
    largest = max(min(frame.shape) / SEARCH.across, SEARCH.widest * SMALLEST_DIAMETER)
    trials = np.geomspace(SMALLEST_DIAMETER, largest, 2 + int(np.log(largest / SMALLEST_DIAMETER) / SEARCH.step))
    trials = trials if given is None else np.array([given])
    fits = [(measure_fit(sign * frame, model, d, largest), d, sign) for sign in (1.0, -1.0) for d in trials]
    suits, diameter, polarity = max(fits)
    if given is not None:
        return given, polarity, suits
    corrected = diameter
    for _ in range(SEARCH.corrections):
        measured = measure_diameter(*predict(model, crop_middle(polarity * frame, corrected)[0]))
        if measured is None:
            break
        corrected *= np.clip(measured / WORKING_DIAMETER, *SEARCH.correction)
    # The network sees too little of very dark or defocused particles: then what it finds is too small.
    refused = measure_fit(polarity * frame, model, corrected, largest) < SEARCH.worse * suits
    return float(diameter if refused else corrected), polarity, suits


def crop_middle(frame, diameter, side: int = SEARCH.view) -> tuple[np.ndarray, np.ndarray]:
    """The middle of a frame at the sampling that a diameter asks for, and the same region as it was recorded."""
    image = resample(frame, find_working_shape(frame.shape, diameter))
    inner = [slice(max((n - side) // 2, 0), max((n - side) // 2, 0) + side) for n in image.shape]
    zoom = np.array(frame.shape) / image.shape
    native = [slice(round(s.start * z), round(s.stop * z)) for s, z in zip(inner, zoom, strict=True)]
    return image[tuple(inner)], frame[tuple(native)]


def measure_fit(frame, model, diameter, widest) -> float:
    """How well a diameter suits a frame with dark particles: how sure finds stand out, times correlation.

    Sure finds count by the cube of their score, against the root of the number of all. The correlation is that of all
    finds with the frame's darkness, at the frame's own sampling, which is the same for all diameters; what is wider
    than the ``widest`` of them is taken off both.
    """
    image, native = crop_middle(frame, diameter)
    masks, centers = predict(model, image)
    finds = locate(centers, WORKING_DIAMETER)
    if finds.empty:
        return 0.0
    shown = gaussian_filter(native.astype(np.float32), SEARCH.smoothing), resample(masks.sum(axis=0), native.shape)
    coarse = [max(round(n / (2 * widest)), 1) for n in native.shape]
    seen, found = (one - resample(resample(one, coarse), one.shape) for one in shown)
    deviations = seen.std() * found.std()
    correlation = -np.mean((seen - seen.mean()) * found) / deviations if deviations > 0 else 0.0
    return float((finds["score"] ** 3).sum() / np.sqrt(len(finds)) * correlation)


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
