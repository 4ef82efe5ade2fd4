"""Methods that moirelib is compared with: Bragg filtering, trackpy with the true lattices, a floor, our fit from truth.

Every method takes (frame, pixel size in nm, true median diameter in nm, truth) and gives the layers' masks,
(2, y, x) from 0 to 1, and a table ``layer, y_nm, x_nm``. All but moirelib are given the true diameter and that
particles are dark; only the oracles (trackpy with the true lattices, our fit from the truth) use the truth.
"""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import trackpy
from scipy.fft import fft2, fftfreq, ifft2
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial import cKDTree
from skimage.feature import peak_local_max

import moirelib
from moirelib.decomposition import WORKING_DIAMETER, FrameFit, resample
from moirelib.decomposition.pipeline import draw_layers

__all__ = [
    "bragg_filtering",
    "everything_in_both",
    "fit_told_all_particles",
    "fit_told_all_particles_and_sizes",
    "moirelib_decompose",
    "trackpy_true_lattices",
]


def moirelib_decompose(frame, pixel_size, diameter=None, truth=None, weights=None):
    """moirelib, given only the pixel size."""
    result = moirelib.decompose(frame, pixel_size=pixel_size, weights=weights)
    return np.asarray(result.layers[0]) / 255, result.particles[["layer", "y_nm", "x_nm"]]


def fit_told_all_particles(frame, pixel_size, diameter, truth, sizes: bool = False):
    """Our fit of the frame, started from the true positions in the true layers: about the best possible result.

    Its errors of positions and outlines come from noise and blur alone, since particles and layers are known. With
    ``sizes``, outlines are drawn with the true diameters at the fitted positions.
    """
    zoom = WORKING_DIAMETER * pixel_size / diameter
    shape = [round(n * zoom) for n in frame.shape]
    zooms = np.array(shape) / frame.shape
    known = truth[["layer"]].assign(**{c: (truth[c] + 0.5) * z - 0.5 for c, z in zip("yx", zooms, strict=True)})
    fit = FrameFit.start(resample(frame, shape), known, WORKING_DIAMETER).fit(2)
    # In rows, to use the regularity of the lattice.
    fitted = fit.with_particles(fit.table(known), in_rows=True).search().table(known)
    if sizes:
        fitted["diameter"] = truth["diameter_nm"] / pixel_size * np.sqrt(zooms.prod())
    outlines = fitted.assign(frame=0, **{f"{c}_likeliest": fitted[c] for c in ("y", "x", "diameter")})
    native = (fitted[["y", "x"]].to_numpy() + 0.5) / zooms - 0.5
    layers = np.asarray(draw_layers(outlines, shape, (1, *frame.shape))[0]) / 255
    return layers, particle_table(native, fitted["layer"].to_numpy(), pixel_size)


def fit_told_all_particles_and_sizes(frame, pixel_size, diameter, truth):
    """The same with outlines of the true diameters: the effect of position errors alone."""
    return fit_told_all_particles(frame, pixel_size, diameter, truth, sizes=True)


def darkness(frame, diameter_px) -> np.ndarray:
    """Darkness as a fraction of the background (a wide mean), with pixel noise smoothed."""
    frame = np.asarray(frame, float)
    background = gaussian_filter(frame, 2.0 * diameter_px)
    return 1 - gaussian_filter(frame, 0.1 * diameter_px) / background


def disks(points, diameter_px, shape) -> np.ndarray:
    """Image (y, x) that is 1 within half a diameter of any of the points (y, x)."""
    grid = np.stack(np.indices(shape), axis=-1).reshape(-1, 2)
    if len(points) == 0:
        return np.zeros(shape)
    return (
        np.isfinite(cKDTree(points).query(grid, distance_upper_bound=diameter_px / 2)[0]).reshape(shape).astype(float)
    )


def particle_table(points, layers, pixel_size) -> pd.DataFrame:
    """Points (n, 2) in pixels and their layers as ``layer, y_nm, x_nm``."""
    return pd.DataFrame({"layer": layers, "y_nm": points[:, 0] * pixel_size, "x_nm": points[:, 1] * pixel_size})


def disks_and_table(points, layers, frame, pixel_size, diameter):
    """Points (n, 2) in pixels, each in a layer, as masks of disks and as a table."""
    masks = np.stack([disks(points[layers == k], diameter / pixel_size, frame.shape) for k in (1, 2)])
    return masks, particle_table(points, layers, pixel_size)


def centers_of_mass(image, yx, reach):
    """Centre of mass of the positive image within a reach of each maximum."""
    half = int(np.ceil(reach))
    dy, dx = np.mgrid[-half : half + 1, -half : half + 1]
    disk = np.hypot(dy, dx) <= reach
    padded = np.pad(np.maximum(image, 0), half)
    out = []
    for y, x in yx:
        weight = padded[y : y + 2 * half + 1, x : x + 2 * half + 1] * disk
        out.append((y + np.sum(weight * dy) / weight.sum(), x + np.sum(weight * dx) / weight.sum()))
    return np.reshape(out, (-1, 2))


TRACKPY_SIZE, TRACKPY_SEPARATION, TRACKPY_MASS = 1.0, 0.4, 0.35  # diameters; lowest mass over the typical one


def trackpy_finds(frame, diameter_px) -> np.ndarray:
    """Particles that trackpy finds, (n, 2) in pixels; its smallest mass comes from the development seed."""
    trackpy.quiet()
    size = 2 * int(TRACKPY_SIZE * diameter_px / 2) + 1  # odd
    found = trackpy.locate(
        1000 * darkness(frame, diameter_px).clip(-1, 1), size, minmass=0, separation=TRACKPY_SEPARATION * diameter_px
    )
    return found.loc[found["mass"] > TRACKPY_MASS * found["mass"].median(), ["y", "x"]].to_numpy()


def trackpy_true_lattices(frame, pixel_size, diameter, truth):
    """Finds of trackpy, each in the layer of the nearest true particle: the limit set by detection alone."""
    points = trackpy_finds(frame, diameter / pixel_size)
    nearest = cKDTree(truth[["y", "x"]]).query(points)[1]
    return disks_and_table(points, truth["layer"].to_numpy()[nearest], frame, pixel_size, diameter)


def everything_in_both(frame, pixel_size, diameter, truth=None):
    """Finds of trackpy, each in both layers: the floor, without knowledge of layers."""
    points = trackpy_finds(frame, diameter / pixel_size)
    layers = np.repeat([1, 2], len(points))
    return disks_and_table(np.concatenate([points, points]), layers, frame, pixel_size, diameter)


def bragg_filtering(frame, pixel_size, diameter, truth=None):
    """Fourier filtering by hand: an image from each hexagonal set of Bragg peaks, whose maxima are particles.

    There is one set per layer, or a third if a layer has two grains; the two sets that overlap least in the field then
    form one layer. Each set passes its peaks of first, second (√3) and third (2) order. Half-way between peaks of two
    sets, the spectrum is divided. Several choices of peaks are tried; the one whose particles match the frame best is
    kept.
    """
    d = diameter / pixel_size
    image = darkness(frame, d)
    image -= image.mean()
    trials = [filtered_particles(image, hexagons, d) for hexagons in choices_of_peaks(image, d)]
    points, layers = max(trials, key=lambda trial: likeness(image, trial[0], d))
    return disks_and_table(points, layers, frame, pixel_size, diameter)


def filtered_particles(image, hexagons, diameter_px) -> tuple[np.ndarray, np.ndarray]:
    """Points (y, x) and layers by filtering with the given sets of Bragg peaks."""
    spectrum = fft2(image)
    filtered = np.stack([ifft2(spectrum * passed).real for passed in band_passes(image.shape, hexagons)])
    layer = group_grains(filtered, hexagons)
    of_layer = [filtered[layer == k].max(axis=0) for k in (1, 2)]
    points = [filtered_maxima(f, image, diameter_px, hexagons[0][0]) for f in of_layer]
    return np.concatenate(points), np.repeat([1, 2], [len(p) for p in points])


def likeness(image, points, diameter_px) -> float:
    """Correlation of the image with the sum of softened disks at the points."""
    model = np.zeros(image.shape)
    yx = np.rint(points).astype(int)
    inside = np.all((yx >= 0) & (yx < image.shape), axis=1)
    np.add.at(model, tuple(yx[inside].T), 1.0)
    model = gaussian_filter(model, 0.3 * diameter_px)  # about as wide as a disk
    return float(np.corrcoef(model.ravel(), gaussian_filter(image, 0.15 * diameter_px).ravel())[0, 1])


def group_grains(filtered, hexagons) -> np.ndarray:
    """Layer (1 or 2) of each set of peaks; of three sets, the two whose amplitudes overlap least share a layer."""
    if len(filtered) < 3:
        return np.array([1, 2])
    amplitude = [np.sqrt(gaussian_filter(f**2, 1.0 * s)) for f, (s, _) in zip(filtered, hexagons, strict=True)]
    amplitude = np.stack([a / np.sqrt(np.mean(a**2)) for a in amplitude])
    pairs = {(0, 1): 2, (0, 2): 1, (1, 2): 0}
    overlap = {pair: np.mean(amplitude[pair[0]] * amplitude[pair[1]]) for pair in pairs}
    alone = pairs[min(overlap, key=overlap.get)]
    return np.where(np.arange(3) == alone, 2, 1)


ORDERS = 1.0, np.sqrt(3), 2.0  # of a lattice's Bragg peaks, as lengths relative to the first


def hexagon(spacing, angle, order=1.0) -> np.ndarray:
    """Six reciprocal lattice vectors (y, x) of relative length 1, √3 or 2, in cycles per pixel."""
    turn = 0.0 if order == ORDERS[1] else 30.0
    t = np.radians(angle + turn + 60.0 * np.arange(6))
    return order * 2 / (np.sqrt(3) * spacing) * np.stack([np.sin(t), np.cos(t)], axis=1)


def choices_of_peaks(image, diameter_px) -> list[list[tuple[float, float]]]:
    """Choices of two or three hexagonal sets of peaks, each a list of spacing (px) and row angle (degrees).

    Each choice is the strongest pair, alone or with the next strongest set. The peaks of a set are removed, with two
    widths, before the next set is searched. The sets of both layers have similar spacings, because the particles are
    the same; the peaks of the Moiré pattern do not.
    """
    size = 2 * max(image.shape)
    window = np.outer(*(np.hanning(n) for n in image.shape))
    power = np.abs(fft2(image * window, (size, size))) ** 2
    choices = []
    for blot in BLOTS:
        candidates, rest = [], power
        for _ in range(CANDIDATES):
            candidates.append(strongest_hexagon(rest, diameter_px))
            rest = without_peaks(rest, candidates[-1][1:], blot * size / max(image.shape))
        alike = [(a, b) for a, b in itertools.combinations(candidates, 2) if abs(np.log(a[1] / b[1])) < ALIKE]
        pair = max(alike, key=lambda pair: pair[0][0] + pair[1][0], default=tuple(candidates[:2]))
        third = [c for c in candidates if c not in pair and abs(np.log(c[1] / pair[0][1])) < ALIKE]
        choices += [[c[1:] for c in pair], [c[1:] for c in (*pair, *third[:1])]]
    return choices


BLOTS = 1.6, 2.5  # frequency steps of the field around a peak that belong to it
CANDIDATES, ALIKE = 5, 0.15  # sets of peaks looked at; difference of spacings, as a logarithm


def strongest_hexagon(power, diameter_px) -> tuple[float, float, float]:
    """Logarithm of the mean peak power, spacing (px) and row angle (degrees) of the strongest first-order peaks."""
    spacing, angle = np.meshgrid(diameter_px * np.geomspace(1.0, 2.3, 160), np.arange(0, 60, 0.25), indexing="ij")
    t = np.radians(angle[..., None] + 30 + 60 * np.arange(3))
    q = 2 / (np.sqrt(3) * spacing[..., None]) * np.stack([np.sin(t), np.cos(t)]) * len(power)
    # The geometric mean is large only if all three peaks of a set are.
    strength = np.log(map_coordinates(power, q, order=1, mode="grid-wrap") + 1e-12).mean(axis=-1)
    best = np.unravel_index(np.argmax(strength), strength.shape)
    return float(strength[best]), float(spacing[best]), float(angle[best])


def without_peaks(power, lattice, radius):
    """The power spectrum with the first-order peaks of a lattice removed."""
    power, reach = power.copy(), int(radius) + 1
    for peak in hexagon(*lattice) * len(power):
        near = np.rint(peak).astype(int) + np.stack(np.mgrid[-reach : reach + 1, -reach : reach + 1], axis=-1)
        near = near[np.hypot(*np.moveaxis(near - peak, -1, 0)) < radius]
        power[tuple((near % len(power)).T)] = 0
    return power


WIDTH = 0.18  # of a Bragg peak's mask, relative to the first order's length


def band_passes(shape, lattices) -> list[np.ndarray]:
    """Filter of each lattice: Gaussians on its peaks, zero where a peak of another lattice is nearer."""
    q = np.stack(np.meshgrid(*(fftfreq(n) for n in shape), indexing="ij"), axis=-1).reshape(-1, 2)
    peaks = [np.concatenate([hexagon(*lattice, order) for order in ORDERS]) for lattice in lattices]
    reach = 5 * WIDTH * np.linalg.norm(peaks[0][0])
    nearest = [cKDTree(own).query(q, distance_upper_bound=reach)[0] for own in peaks]
    passes = []
    for own, (spacing, _) in zip(nearest, lattices, strict=True):
        width = WIDTH * 2 / (np.sqrt(3) * spacing)
        passes.append((np.exp(-0.5 * (own / width) ** 2) * (own <= np.min(nearest, axis=0))).reshape(shape))
    return passes


STRONG, DARK = 0.4, 0.1  # lowest values at a particle, relative to those of the clearest


def filtered_maxima(filtered, image, diameter_px, spacing) -> np.ndarray:
    """Maxima (y, x) of a filtered image, to a fraction of a pixel, where both images are dark enough."""
    yx = peak_local_max(filtered, min_distance=max(int(0.35 * spacing), 1), exclude_border=False)
    core = gaussian_filter(image, 0.25 * diameter_px)
    strength, dark = filtered[tuple(yx.T)], core[tuple(yx.T)]
    yx = yx[(strength > STRONG * np.percentile(strength, 90)) & (dark > DARK * np.percentile(dark, 90))]
    return centers_of_mass(filtered, yx, 0.3 * spacing)
