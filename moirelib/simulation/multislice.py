"""Full-atom multislice with abTEM, seconds to minutes each: waves behind particles, slabs, small scenes (chapter 2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from numpy.typing import ArrayLike
from scipy.fft import fft2, fftfreq, ifft2
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation
from tqdm import tqdm

from .optics import Lens, block_mean, electron_wavelength
from .shapes import lattice_constant

# Root-mean-square displacement of gold atoms along one axis at 295 K, nm: sqrt(B / 8π²) with B = 0.62 Å²
# (Gao & Peng, Acta Cryst. A 55, 926, 1999).
GOLD_VIBRATION = 0.00886
SLICE = 2.0  # Å, multislice step: about one atomic layer of gold
PARTICLE_MARGIN = 1.0  # nm, empty border around a particle
CLOSEST_ATOMS = 2.0  # Å; atoms nearer than this overlap (gold's neighbours are 2.88 Å apart)


def vibrate(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    """One frozen-phonon snapshot: a copy of the atoms (in Å), every one displaced at random by `GOLD_VIBRATION`."""
    snapshot = atoms.copy()
    snapshot.rattle(stdev=10 * GOLD_VIBRATION, rng=rng)
    return snapshot


def exit_waves(
    atoms: Atoms, energy: float = Lens.energy, sampling: float = 0.01, slices: Sequence[int] | None = None
) -> np.ndarray:
    """Multislice a plane wave through atoms: complex64 waves of shape (len(slices), y, x).

    abTEM (Madsen & Susi, Open Res. Europe 1, 24 (2021)) limits their band to two thirds of the sampling's. Atoms are in
    Å, in an orthorhombic cell, periodic across the beam, which runs along z. It is kept after each of the ``slices``,
    by default the last.
    """
    import abtem

    edge = atoms.cell.lengths()
    count = max(round(edge[2] / SLICE), 1)
    wanted = (count - 1,) if slices is None else tuple(int(s) for s in slices)
    gpts = tuple(round(length / (10 * sampling)) for length in edge[:2])
    grid: dict = {"gpts": gpts, "slice_thickness": edge[2] / count, "exit_planes": wanted}
    potential = abtem.Potential(atoms, parametrization="lobato", **grid)
    result: Any = abtem.PlaneWave(energy=energy).multislice(potential)
    wave = np.asarray(result.compute(progress_bar=False).array)
    return np.swapaxes(wave.reshape(-1, *wave.shape[-2:])[-len(wanted) :], -1, -2)  # abTEM indexes (x, y)


def fresnel_propagate(wave: np.ndarray, distance: float, sampling: float, wavelength: float) -> np.ndarray:
    """Free-space propagation over a distance in the Fresnel approximation: exp(-iπλz k²); all lengths in nm."""
    if distance == 0:
        return wave
    ky, kx = (fftfreq(n, sampling) for n in wave.shape)
    phase = np.pi * wavelength * distance * (ky[:, None] ** 2 + kx[None, :] ** 2)
    return ifft2(fft2(wave, workers=-1) * np.exp(-1j * phase).astype(np.complex64), workers=-1)


def through_lens(wave: np.ndarray, sampling: float, lens: Lens) -> np.ndarray:
    """Exit wave in the image plane of abTEM's lens, complex64 (y, x); the focal spread is its temporal envelope."""
    import abtem

    ctf = abtem.CTF(energy=lens.energy, semiangle_cutoff=lens.aperture, soft=False)
    ctf.defocus, ctf.Cs, ctf.focal_spread = 10 * lens.defocus, 1e7 * lens.spherical_aberration, 10 * lens.focal_spread
    waves = abtem.Waves(np.swapaxes(wave, -1, -2).astype(np.complex64), energy=lens.energy, sampling=10 * sampling)
    return np.swapaxes(np.asarray(waves.apply_ctf(ctf).array), -1, -2)


def particle_exit_wave(
    atoms: Atoms, energy: float = Lens.energy, aperture: float = Lens.aperture, sampling: float = 0.01
) -> np.ndarray:
    """Full-atom multislice of one particle (in Å) behind an aperture, in focus, without aberrations; complex (y, x)."""
    return through_lens(exit_waves(atoms, energy, sampling)[0], sampling, Lens.ideal(energy, aperture))


def crystal_slab(width: float, thickness: float, rng: np.random.Generator, material: str = "Au") -> Atoms:
    """Fill a box, in nm across and along the beam, with an fcc metal in one random orientation; atoms in Å.

    The box repeats across the beam; one of two atoms that its repetition brings closer than 0.2 nm is left out.
    """
    edge = 10 * lattice_constant(material)
    cell, box = bulk(material, "fcc", a=edge, cubic=True), 10 * np.array([width, width, thickness])
    n = int(np.ceil(np.linalg.norm(box) / edge)) + 2
    corner, turn = np.arange(n) - n / 2, Rotation.random(random_state=rng)
    plane, found = np.stack(np.meshgrid(corner, corner, indexing="ij"), axis=-1).reshape(-1, 2), []
    for i in corner:  # plane by plane: of all cells of the cube few reach a slim box
        at = edge * turn.apply(np.insert(plane, 0, i, axis=1)) + box / 2
        near = at[np.all((at > -6) & (at < box + 6), axis=1)]
        points = (near[:, None] + turn.apply(cell.positions)).reshape(-1, 3)
        found.append(points[np.all((points >= 0) & (points < box), axis=1)])
    points = np.concatenate(found)
    tree = cKDTree(points, boxsize=[box[0], box[1], 10 * box[2]])
    close = tree.query_pairs(CLOSEST_ATOMS, output_type="ndarray")
    points = np.delete(points, np.unique(close.max(axis=1)), axis=0) if len(close) else points
    return Atoms(f"{material}{len(points)}", positions=points, cell=box, pbc=False)


@dataclass(frozen=True)
class TransmissionConfig:
    """What a table of transmissions is made from: randomly oriented slabs of an fcc metal."""

    orientations: int = 32  # random crystal orientations, each with its own frozen-phonon snapshot
    energies: tuple[float, ...] = (200e3, 300e3)  # eV
    apertures: tuple[float, ...] = (5.0, 10.0, 20.0)  # mrad, semi-angles
    thickness: float = 120.0  # nm, the greatest; tabulated every nanometre
    width: float = 6.0  # nm, lateral edge of the slab
    sampling: float = 0.0125  # nm, of the wave
    material: str = "Au"  # symbol of an fcc metal; atoms vibrate as gold's do


def tabulate_transmission(
    path: str | PathLike[str], config: TransmissionConfig | None = None, seed: int = 0, progress: bool = True
) -> None:
    """Tabulate what a metal transmits against its thickness, from full-atom multislice.

    At every depth the ``.npz``, for `Transmission.load`, holds the wave's mean, which stays coherent with the incident
    plane wave, and the intensity that passes each aperture. By default the configuration is that of the shipped table.
    """
    c, rng = config or TransmissionConfig(), np.random.default_rng(seed)
    depths = np.arange(0, int(c.thickness) + 1, dtype=np.float32)
    slices = (round(10 / SLICE) * np.arange(1, depths.size) - 1).tolist()  # the last one of every nanometre
    wave = np.ones((len(c.energies), c.orientations, depths.size), np.complex64)
    intensity = np.ones((len(c.energies), len(c.apertures), c.orientations, depths.size), np.float32)
    k = fftfreq(round(c.width / c.sampling), c.sampling)
    for i in tqdm(range(c.orientations), disable=not progress, desc="transmission", unit="slab"):
        slab = vibrate(crystal_slab(c.width, float(depths[-1]), rng, c.material), rng)
        for j, energy in enumerate(c.energies):
            waves = exit_waves(slab, energy, c.sampling, slices)
            wave[j, i, 1:] = waves.mean(axis=(1, 2))
            angle = 1e3 * electron_wavelength(energy) * np.hypot(k[:, None], k)  # mrad
            power = np.abs(fft2(waves, workers=-1) / waves[0].size) ** 2
            intensity[j, :, i, 1:] = [power[:, angle <= a].sum(axis=1) for a in c.apertures]
    choices: dict = {"energies": np.asarray(c.energies, float), "apertures": np.asarray(c.apertures, float)}
    np.savez_compressed(path, thickness=depths, wave=wave, intensity=intensity, **choices)


@dataclass(frozen=True)
class ParticleTransmission:
    """Complex transmission of one particle at atomic sampling, in one or more planes."""

    corner: tuple[int, int]  # first sample (row, column) of the window in the scene's grid
    heights: tuple[float, ...]  # nm, of the planes along the beam
    values: np.ndarray  # (planes, y, x) complex64; their product, with propagation between, is the exit wave


def particle_transmission(
    atoms: Atoms, center: ArrayLike, extent: tuple, energy: float = Lens.energy, sampling: float = 0.01, planes: int = 1
) -> ParticleTransmission:
    """Full-atom multislice of one particle of a scene, turned into a multiplicative transmission.

    It has so many ``planes``, one for each of equal parts of the height: the wave behind a part over the wave before
    it, both propagated to the part's mid-plane. Behind an earlier layer one is not enough. Atoms (in Å) are at their
    place in the scene; the particle's centre (y, x, z) and extent (lateral diameter, height) in nm.
    """
    center, step, wavelength = np.asarray(center, float), SLICE / 10, electron_wavelength(energy)
    half = np.array([extent[0], extent[0], extent[1]]) / 2 + PARTICLE_MARGIN
    grain = np.array([sampling, sampling, step])
    low = np.round((center - half) / grain) * grain
    size, window = np.ceil(2 * half / grain) * grain, atoms.copy()
    window.set_cell(10 * size[[1, 0, 2]])
    window.positions -= 10 * low[[1, 0, 2]]
    bounds = center[2] + extent[1] * (np.arange(planes + 1) / planes - 0.5)
    ends = np.round((bounds[1:] - low[2]) / step).astype(int)
    ends[-1] = round(size[2] / step)
    waves, heights = exit_waves(window, energy, sampling, ends - 1), 0.5 * (bounds[:-1] + bounds[1:])
    values, before, at = [], None, 0.0
    for wave, end, height in zip(waves, low[2] + ends * step, heights, strict=True):
        value = fresnel_propagate(wave, height - end, sampling, wavelength)
        earlier = 1 if before is None else fresnel_propagate(before, height - at, sampling, wavelength)
        values.append(value / earlier)
        before, at = wave, end
    row, column = np.round(low[:2] / sampling).astype(int).tolist()
    return ParticleTransmission((row, column), tuple(heights), np.stack(values))


def compose_wave(
    layers: Sequence[Sequence], shape: tuple[int, int], sampling: float, energy: float = Lens.energy
) -> np.ndarray:
    """Wave behind stacked layers from their particles' transmissions, in the mid-plane of the last layer; complex64.

    Layers, in the beam's order, are sequences of `ParticleTransmission` that share their planes; the shape is (y, x).
    """
    wave, wavelength, at = np.ones(shape, np.complex64), electron_wavelength(energy), layers[0][0].heights[0]
    for particles in layers:
        for plane, height in enumerate(particles[0].heights):
            wave = fresnel_propagate(wave, height - at, sampling, wavelength)
            at = height
            for p in particles:
                (y, x), (h, w) = p.corner, p.values.shape[1:]
                wave[y : y + h, x : x + w] *= p.values[plane]
    middle = float(np.mean(layers[-1][0].heights))
    return fresnel_propagate(wave, middle - at, sampling, wavelength)


def reduce_transmission(
    wave: np.ndarray, sampling: float, coarse: float, energy: float, aperture: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Reduce a layer's complex transmission from atomic to coarser sampling (both in nm) without losing electrons.

    The ratio of the samplings is whole and divides the shape. Returns a pair as `compose` takes it: low frequencies,
    complex64, and the intensity that the aperture passes but they do not carry, float32.
    """
    factor = round(coarse / sampling)
    if abs(factor * sampling - coarse) > 1e-6 * coarse or any(size % factor for size in wave.shape):
        raise ValueError(f"{wave.shape} samples of {sampling} nm do not make whole samples of {coarse} nm")
    n = tuple(size // factor for size in wave.shape)
    rows, columns = (np.r_[0 : (m + 1) // 2, (m + 1) // 2 - m : 0] for m in n)
    # A coarse sample sits in the middle of the fine ones it stands for.
    shift = [np.exp(2j * np.pi * np.fft.fftfreq(m, coarse) * 0.5 * (coarse - sampling)) for m in n]
    low = fft2(wave, workers=-1)[np.ix_(rows, columns)] * shift[0][:, None] * shift[1]
    low, lens = ifft2(low) * (np.prod(n) / wave.size), Lens.ideal(energy, aperture)
    passed, carried = np.abs(through_lens(wave, sampling, lens)) ** 2, np.abs(through_lens(low, coarse, lens)) ** 2
    remainder = block_mean(passed, factor) - carried
    return torch.from_numpy(low.astype(np.complex64)), torch.from_numpy(remainder.astype(np.float32))
