"""A simple image simulator for tests only, sharing no code with moirelib: Beer-Lambert's law on twisted lattices.

Conventions: pixel centres at integer coordinates, points (y, x), lengths in pixels, angles in degrees from x to y.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.signal import fftconvolve


@dataclass(frozen=True)
class Image:
    """A simulated frame and its truth."""

    frame: np.ndarray  # (y, x) counts
    masks: np.ndarray  # (layer, y, x) bool
    positions: np.ndarray  # (n, 2) px
    layers: np.ndarray  # (n,) 1, 2, ...
    diameters: np.ndarray  # (n,) px


def hexagonal_points(spacing, angle, origin, size, margin):
    """Points of a hexagonal lattice through an origin, within a margin of a square image."""
    reach = int(2 * size / spacing) + 2
    i, j = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1)
    along = spacing * (i + 0.5 * j), spacing * np.sqrt(0.75) * j  # x and y before the turn
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    x, y = c * along[0] - s * along[1] + origin[1], s * along[0] + c * along[1] + origin[0]
    points = np.stack([y, x], axis=1)
    return points[np.all((points > -margin) & (points < size - 1 + margin), axis=1)]


def thickness_map(points, diameter, shape, size, samples=4):
    """Thickness of spheres (a diameter high in the middle) or standing rods (1 high).

    On ``samples`` × ``samples`` points per pixel, placed evenly about the pixel's centre.
    """
    axis = (np.arange(size * samples) + 0.5) / samples - 0.5
    total = np.zeros((size * samples, size * samples))
    for (y, x), radius in zip(points, np.broadcast_to(diameter / 2, len(points)), strict=True):
        rows, columns = (slice(*np.searchsorted(axis, [c - radius, c + radius])) for c in (y, x))
        squared = (axis[rows, None] - y) ** 2 + (axis[None, columns] - x) ** 2
        inside = np.clip(radius**2 - squared, 0, None)
        height = 2 * np.sqrt(inside) if shape == "sphere" else np.where(inside > 0, 1.0, 0.0)
        total[rows, columns] = np.maximum(total[rows, columns], height)
    return total


def simulate(
    rng,
    size=384,
    spacing=26.0,
    ratio=0.7,
    twist=12.0,
    shape="sphere",
    absorption=1.0,
    blur=0.06,
    electrons=120.0,
    readout=1.5,
    jitter=0.02,
    vacancies=0.03,
    island=True,
    background=0.15,
    inverted=False,
    soft=0.0,
):
    """Draw one image of two layers.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    size : int
        Edge of the image, px.
    spacing, ratio : float
        Nearest-neighbour distance in px; diameter in spacings.
    twist : float
        Degrees.
    shape : {"sphere", "rod"}
        Rods stand.
    absorption : float
        Thickness at the middle over mean free path: exp(-absorption) of the light passes one particle's middle.
    blur : float
        Standard deviation / diameter.
    electrons, readout : float
        Per pixel without particles; standard deviation of the readout noise.
    jitter, vacancies : float
        Displacements (standard deviation / spacing); empty fraction of the sites.
    island : bool
        Whether layer 2 is a disk in the middle instead of all over.
    background : float
        Relative standard deviation of the slow background.
    inverted : bool
        Bright particles on a dark ground.
    soft : float
        Radius, in px, of a disk that blurs the thickness before light passes.

    Returns
    -------
    Image
    """
    specimen = make_specimen(rng, size, spacing, ratio * spacing, twist, jitter, vacancies, island)
    optics = shape, absorption, blur, electrons, readout, slow_light(rng, size, background)
    frame, masks = expose(rng, specimen, ratio * spacing, size, *optics, soft=soft)
    frame = frame.max() - frame if inverted else frame
    return with_truth(frame, masks, specimen, [np.full(len(points), ratio * spacing) for points in specimen])


def with_truth(frame, masks, specimen, widths):
    """An image and its truth: all particles whose centre is in the frame."""
    positions, diameters = np.concatenate(specimen), np.concatenate(widths)
    layers = np.repeat(np.arange(len(specimen)) + 1, [len(points) for points in specimen])
    inside = np.all((positions >= -0.5) & (positions < frame.shape[0] - 0.5), axis=1)
    return Image(frame, masks, positions[inside], layers[inside], diameters[inside])


@dataclass(frozen=True)
class Sheet:
    """One layer of a stack; lengths in px."""

    spacing: float
    diameter: float
    angles: tuple[float, ...]  # degrees, a row's direction in each grain
    vacancies: float = 0.0  # empty fraction of the sites
    strain: float = 0.0  # spacings, by which a slow displacement differs over the image
    jitter: float = 0.02  # standard deviation / spacing
    scatter: float = 0.02  # of the diameters, relative standard deviation
    island: float | None = None  # mean radius / size of the image; None: all over


def simulate_stack(
    rng, size, sheets, shape="sphere", absorption=1.0, blur=0.06, electrons=120.0, readout=1.5, background=0.15
):
    """Draw one image of any number of layers with grains, strain, islands and particles of several sizes.

    Parameters
    ----------
    sheets : sequence of Sheet
        The base first.
    rng, size, shape, absorption, blur, electrons, readout, background
        As for `simulate`; the absorption is that of a particle of the mean diameter.

    Returns
    -------
    Image
    """
    specimen = [draw_sheet(rng, size, sheet) for sheet in sheets]
    scatter = [np.clip(rng.standard_normal(len(points)), -2.5, 2.5) for points in specimen]
    widths = []
    for sheet, points, e in zip(sheets, specimen, scatter, strict=True):
        room = np.sort(distances(points, points), axis=1)[:, 1]  # particles of one layer do not overlap
        widths.append(np.minimum(sheet.diameter * (1 + sheet.scatter * e), 0.99 * room))
    optics = shape, absorption, blur, electrons, readout, slow_light(rng, size, background)
    mean = np.mean([sheet.diameter for sheet in sheets])
    frame, masks = expose(rng, specimen, mean, size, *optics, widths=widths)
    return with_truth(frame, masks, specimen, widths)


def draw_sheet(rng, size, sheet):
    """Points of one layer, within a margin of a square image: grains are the cells of random points."""
    cells = rng.uniform(0, size, (len(sheet.angles), 2))
    points, closest = np.empty((0, 2)), max(0.85 * sheet.spacing, 1.03 * sheet.diameter)
    for number, angle in enumerate(sheet.angles):
        origin = size / 2 + rng.uniform(-0.5, 0.5, 2) * sheet.spacing
        grain = hexagonal_points(sheet.spacing, angle, origin, size, 2 * sheet.spacing)
        grain = grain[np.argmin(distances(grain, cells), axis=1) == number]
        points = np.concatenate([points, grain[np.all(distances(grain, points) > closest, axis=1)]])
    points = points[rng.random(len(points)) >= sheet.vacancies]
    if sheet.island is not None:
        middle, turn = size * rng.uniform(0.35, 0.65, 2), rng.uniform(0, 2 * np.pi)
        y, x = (points - middle).T
        points = points[np.hypot(y, x) < sheet.island * size * (1 + 0.2 * np.cos(3 * np.arctan2(y, x) + turn))]
    direction = rng.standard_normal(2)
    waves = points @ direction / np.hypot(*direction) * np.pi / (size * rng.uniform(0.8, 1.6))
    bent = np.sin(waves[:, None] + rng.uniform(0, 2 * np.pi, 2))
    return points + sheet.spacing * (0.5 * sheet.strain * bent + sheet.jitter * rng.standard_normal(points.shape))


def distances(one, other):
    """Distance (n, m) of every point (n, 2) from every other (m, 2)."""
    return np.hypot(*(one[:, None] - other[None]).transpose(2, 0, 1))


def make_specimen(rng, size, spacing, diameter, twist, jitter, vacancies, island, margin=None):
    """Points of both layers, within a margin of a square image (one diameter by default)."""
    turn, layers = rng.uniform(0, 60), []
    for layer in (1, 2):
        origin = size / 2 + rng.uniform(-0.5, 0.5, 2) * spacing
        points = hexagonal_points(spacing, turn + (layer - 1) * twist, origin, size, margin or diameter)
        points = points[rng.random(len(points)) >= vacancies]
        if island and layer == 2:
            points = points[np.hypot(*(points - size / 2).T) < 0.42 * size]
        layers.append(points + jitter * spacing * rng.standard_normal(points.shape))
    return layers


def slow_light(rng, size, background):
    """Light that changes slowly over the image, about 1."""
    slow = gaussian_filter(rng.standard_normal((size, size)), size / 6, mode="wrap")
    return np.exp(background * slow / slow.std())


def expose(rng, specimen, diameter, size, shape, absorption, blur, electrons, readout, light, widths=None, soft=0.0):
    """Counts and masks of an image; parameters as of `simulate`, ``light`` from `slow_light`.

    ``widths`` are the particles' own diameters, layer by layer; the absorption is that of the given diameter.
    """
    samples, passed, masks = 4, 0.0, []
    for points, width in zip(specimen, widths or [diameter] * len(specimen), strict=True):
        height = thickness_map(points, width, shape, size, samples)
        passed = passed + absorption * height / (diameter if shape == "sphere" else 1.0)
        cover = (height > 0).reshape(size, samples, size, samples).mean(axis=(1, 3))
        masks.append(cover > 0.5)
    if soft:
        passed = average_over_disk(passed, soft * samples)
    seen = gaussian_filter(np.exp(-passed), blur * diameter * samples)
    expected = electrons * light * seen.reshape(size, samples, size, samples).mean(axis=(1, 3))
    return rng.poisson(expected) + readout * rng.standard_normal(expected.shape), np.stack(masks)


def average_over_disk(image, radius):
    """Each pixel's mean over a disk around it, radius in pixels."""
    y, x = np.ogrid[-int(radius) - 1 : int(radius) + 2, -int(radius) - 1 : int(radius) + 2]
    disk = np.clip(radius + 0.5 - np.hypot(y, x), 0, 1)
    return fftconvolve(np.pad(image, len(y) // 2, mode="reflect"), disk / disk.sum(), mode="valid")


def simulate_movie(
    rng,
    shifts,
    size=288,
    spacing=24.0,
    diameter=16.8,
    twist=12.0,
    vibration=0.02,
    arrival=None,
    displace=None,
    reach=0.0,
):
    """Film two layers of spheres that move together: frames (t, y, x) and the truth.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    shifts : array_like, shape (t, 2)
        Of the specimen (y, x) in every frame, px.
    vibration : float
        Displacement of each particle in each frame, standard deviation / spacing.
    arrival : callable, optional
        Gives the first frame (n,) of each particle of layer 2, of which it takes the places (n, 2) in px; all are there
        from the start by default.
    displace : callable, optional
        Gives the displacements (t, n, 2) of a layer's particles, of which it takes the places (n, 2), in px; by default
        they are independent.
    reach : float
        How far the specimen could move, px; further where ``shifts`` ask for it.
    size, spacing, diameter, twist
        As for `simulate`, the diameter in px.

    Returns
    -------
    frames : ndarray, shape (t, y, x)
    truth : list of tuple
        Of every particle in view: frame, particle, layer, y, x (px).
    """
    margin = max(np.abs(shifts).max(), reach) + 2 * diameter
    specimen = make_specimen(rng, size, spacing, diameter, twist, 0.01, 0.0, False, margin)
    moved = None if displace is None else [displace(points) for points in specimen]
    first = [np.zeros(len(specimen[0])), np.zeros(len(specimen[1])) if arrival is None else arrival(specimen[1])]
    light, frames, truth = slow_light(rng, size, 0.1), [], []
    for t, shift in enumerate(np.asarray(shifts)):
        now = [
            points + shift + (vibration * spacing * rng.standard_normal(points.shape) if moved is None else moved[k][t])
            for k, points in enumerate(specimen)
        ]
        there = [points[came <= t] for points, came in zip(now, first, strict=True)]
        frames.append(expose(rng, there, diameter, size, "sphere", 0.9, 0.06, 120.0, 1.5, light)[0])
        number = 0
        for layer, (points, came) in enumerate(zip(now, first, strict=True), start=1):
            for (y, x), when in zip(points, came, strict=True):
                if when <= t and -0.5 <= min(y, x) and max(y, x) < size - 0.5:
                    truth.append((t, number, layer, y, x))
                number += 1
    return np.array(frames), truth
