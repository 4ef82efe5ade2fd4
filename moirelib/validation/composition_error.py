"""Composed images against full-atom multislice of the same scene (chapter 2; printed by ``make bench-optics``)."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from ase import Atoms

from ..crystal.lattice import unit_vectors
from ..simulation import multislice
from ..simulation.optics import OVERSAMPLING, Lens, Transmission, block_mean, clean_image, compose, electron_wavelength
from ..simulation.scene import Layer, Scene
from ..simulation.shapes import nanoparticle

SCENE_MARGIN = 1.0  # nm of vacuum before the first and behind the last layer
CLUSTER_SPACING = 1.3  # of the clusters' particles, over their diameter


@dataclass(frozen=True)
class Comparison:
    """Images of one scene, computed from all atoms and composed, and how far they differ.

    The table has one row per method, pixel size, aperture and defocus: ``method, pixel_size_nm, aperture_mrad,
    defocus_nm, rms_over_std, rms_over_mean``. Methods: ``particle`` (each particle's own transmission, composed at
    atomic sampling), ``library`` (the same particles, composed at camera sampling as the library does), ``table`` (what
    the library draws for a particle whose crystal orientation is not known).
    """

    table: pd.DataFrame
    images: dict  # (method, pixel size, aperture, defocus) to (y, x); the method ``full`` is all atoms
    full_s: float  # seconds that the full-atom wave took
    area: float  # nm², of the scene


def overlapping_clusters(diameter: float = 4.0, field: float = 21.6) -> Scene:
    """Two hexagonal clusters of seven spheres each, one on top of the other, with 1 nm between their surfaces.

    Diameter and edge of the square field are in nm: the clusters need 3.6 diameters and 3 nm.
    """
    layers = []
    for i, (angle, shift) in enumerate([(3.0, (-0.075, -0.075)), (18.0, (0.15, 0.125))]):
        ring = CLUSTER_SPACING * diameter * unit_vectors(angle + 60 * np.arange(6))
        at = np.concatenate([[[0.0, 0.0]], ring]) + field / 2 + diameter * np.array(shift)
        z = SCENE_MARGIN + diameter / 2 + i * (diameter + 1.0)
        layers.append(Layer(at, np.full(7, diameter), CLUSTER_SPACING * diameter, angle, z))
    return Scene(tuple(layers), (field, field))


def compare_with_multislice(
    scene: Scene,
    pixel_sizes: Sequence[float] = (0.9,),
    lenses: Sequence[Lens] | None = None,
    planes: int = 5,
    oversampling: int = OVERSAMPLING,
    sampling: float = 0.01,
) -> Comparison:
    """Compute one small scene atom by atom and from its particles, in one run.

    Both sides hold the same atoms at the same displaced places. Every ``pixel size / (oversampling · sampling)`` (nm)
    must be whole and divide the field. Lenses are of one energy, no two of the same aperture and defocus; by default
    without aberrations at 200 keV, with apertures of 5 and 10 mrad and a defocus of 0, 200 and 1000 nm. Particles above
    the first layer have so many ``planes`` in the method ``particle``; ``oversampling`` is that of ``library`` and
    ``table``, ``sampling`` that of the full-atom wave, in nm.
    """
    if lenses is None:
        lenses = [Lens.ideal(aperture=a, defocus=d) for a in (5.0, 10.0) for d in (0.0, 200.0, 1000.0)]
    _check(scene, pixel_sizes, lenses, oversampling, sampling)
    energy = lenses[0].energy
    lift = SCENE_MARGIN + scene.layers[0].diameters.max() / 2 - scene.layers[0].z  # the atoms' cell begins at height 0
    scene = replace(scene, layers=tuple(replace(layer, z=layer.z + lift) for layer in scene.layers))
    placed = _place_atoms(scene, np.random.default_rng(0))
    lone = Atoms("Au", cell=10 * np.array([*scene.field[::-1], 0.4]))
    multislice.exit_waves(lone, energy, sampling)  # plans transforms once
    start, last = time.perf_counter(), scene.layers[-1]
    positions = np.concatenate([atoms.positions for particles in placed for atoms, *_ in particles])
    depth = np.ceil(10 * (last.z + last.diameters.max() / 2 + SCENE_MARGIN) / multislice.SLICE) * multislice.SLICE / 10
    everything = Atoms(f"Au{len(positions)}", positions=positions, cell=10 * np.array([*scene.field[::-1], depth]))
    behind = multislice.exit_waves(everything, energy, sampling)[0]
    full = multislice.fresnel_propagate(behind, last.z - depth, sampling, electron_wavelength(energy))
    full_s = time.perf_counter() - start

    def transmit(particles, planes):
        return [multislice.particle_transmission(*particle, energy, sampling, planes) for particle in particles]

    single = [transmit(particles, 1) for particles in placed]
    several = [single[0], *(transmit(particles, planes) for particles in placed[1:])]
    waves = {"full": full, "particle": multislice.compose_wave(several, full.shape, sampling, energy)}
    layers = [multislice.compose_wave([particles], full.shape, sampling, energy) for particles in single]
    images: dict = {}
    for lens in lenses:
        for name, wave in waves.items():
            seen, key = np.abs(multislice.through_lens(wave, sampling, lens)) ** 2, (lens.aperture, lens.defocus)
            images |= {(name, p, *key): block_mean(seen, round(p / sampling)) for p in pixel_sizes}
    for p in pixel_sizes:
        images |= _compose_as_library(scene, layers, p, lenses, oversampling, sampling)
    rows = []
    for (name, *key), image in images.items():
        if name != "full":
            truth = images["full", *key]
            rms = float(np.sqrt(np.mean((image - truth) ** 2)))
            rows.append((name, *key, float(rms / truth.std()), float(rms / truth.mean())))
    columns = ["method", "pixel_size_nm", "aperture_mrad", "defocus_nm", "rms_over_std", "rms_over_mean"]
    return Comparison(pd.DataFrame(rows, columns=columns), images, full_s, float(np.prod(scene.field)))


def _check(scene, pixel_sizes, lenses, oversampling, sampling) -> None:
    if len({lens.energy for lens in lenses}) != 1:
        raise ValueError(f"lenses of one energy can be compared, got {[lens.energy for lens in lenses]} eV")
    if scene.shape != "sphere":
        raise ValueError(f"scenes of spheres can be compared with multislice, not of {scene.shape}s")
    for number, layer in enumerate(scene.layers, start=1):
        if len(layer) == 0:
            raise ValueError(f"layer {number} is empty; leave it out of the comparison")
        border = layer.diameters[:, None] / 2 + SCENE_MARGIN
        if np.any(layer.positions < border) or np.any(layer.positions > np.asarray(scene.field) - border):
            raise ValueError(f"particles of layer {number} lie closer than {SCENE_MARGIN} nm to the field's border")
    for p in pixel_sizes:
        steps = [p / (oversampling * sampling), *(f / p for f in scene.field)]
        if any(abs(n - round(n)) > 1e-6 for n in steps):
            raise ValueError(
                f"pixels of {p} nm in {oversampling} samples each do not fit waves sampled at {sampling} nm in a field "
                f"of {scene.field} nm; choose numbers that divide each other"
            )


def _place_atoms(scene, rng) -> list[list[tuple]]:
    """Displaced atoms, in Å, of every particle by layer, with its centre (y, x, z) and extent in nm."""

    def place(layer, at, d):
        atoms = multislice.vibrate(nanoparticle(scene.shape, d, rng, scene.height, rounding=scene.rounding), rng)
        atoms.positions += 10 * np.array([*at[::-1], layer.z]) - atoms.cell.lengths() / 2
        return atoms, (*at, layer.z), (d, d)

    return [[place(k, at, d) for at, d in zip(k.positions, k.diameters, strict=True)] for k in scene.layers]


def _compose_as_library(scene, layers, pixel_size, lenses, oversampling, sampling) -> dict:
    """Images of the methods ``library`` and ``table`` at one pixel size."""
    heights, coarse, images = [layer.z for layer in scene.layers], pixel_size / oversampling, {}
    for energy, aperture in dict.fromkeys((lens.energy, lens.aperture) for lens in lenses):
        reduced = [multislice.reduce_transmission(layer, sampling, coarse, energy, aperture) for layer in layers]
        gold = Transmission.load(energy=energy, aperture=aperture)
        # the mean over orientations, as a table of one orientation
        wave = np.sqrt(np.mean(np.abs(gold.wave) ** 2, axis=0)) * np.exp(1j * gold.phase)
        average = replace(gold, wave=wave[None], intensity=gold.mean_intensity[None])
        for lens in [each for each in lenses if each.aperture == aperture]:
            key = pixel_size, aperture, lens.defocus
            images["library", *key] = compose(reduced, heights, pixel_size, oversampling, lens).numpy()
            images["table", *key] = clean_image(scene, pixel_size, average, lens, oversampling=oversampling)
    return images
