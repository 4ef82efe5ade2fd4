"""Full-atom multislice: conservation, exactness of single particles, and composed images against all atoms."""

from dataclasses import replace

import numpy as np
import pytest

from moirelib.simulation import (
    GOLD_VIBRATION,
    Layer,
    Lens,
    Scene,
    Transmission,
    TransmissionConfig,
    compose_wave,
    crystal_slab,
    electron_wavelength,
    exit_waves,
    fresnel_propagate,
    lattice_constant,
    nanoparticle,
    particle_exit_wave,
    particle_transmission,
    reduce_transmission,
    tabulate_transmission,
    through_lens,
    vibrate,
)
from moirelib.validation import compare_with_multislice, overlapping_clusters


def test_fresnel_propagation_conserves_intensity_and_undoes_itself():
    rng = np.random.default_rng(0)
    wave = rng.standard_normal((64, 64)) + 1j * rng.standard_normal((64, 64))
    there = fresnel_propagate(wave, 500.0, 0.5, 2.5e-3)
    assert np.sum(np.abs(there) ** 2) == pytest.approx(np.sum(np.abs(wave) ** 2), rel=1e-5)
    np.testing.assert_allclose(fresnel_propagate(there, -500.0, 0.5, 2.5e-3), wave, atol=1e-4)


def test_fresnel_propagation_multiplies_a_plane_wave_by_its_phase():
    x = np.arange(64) * 0.5
    k = 4 / 32.0  # 1/nm, on the grid
    wave = np.tile(np.exp(2j * np.pi * k * x), (64, 1))
    expected = wave * np.exp(-1j * np.pi * 2.5e-3 * 800.0 * k**2)
    np.testing.assert_allclose(fresnel_propagate(wave, 800.0, 0.5, 2.5e-3), expected, atol=1e-4)


def test_vibrating_atoms_have_the_asked_displacement():
    atoms = crystal_slab(3.0, 3.0, np.random.default_rng(0))
    moved = vibrate(atoms, np.random.default_rng(1)).positions - atoms.positions
    np.testing.assert_allclose(moved.std(axis=0), 10 * GOLD_VIBRATION, rtol=0.05)


def test_slab_has_the_density_of_gold_and_no_atoms_on_top_of_each_other():
    slab = crystal_slab(4.0, 6.0, np.random.default_rng(3))
    expected = 4.0 * 4.0 * 6.0 / (lattice_constant() ** 3 / 4)
    assert 0.95 * expected < len(slab) <= 1.01 * expected
    slab.set_pbc((True, True, False))
    distances = slab.get_distances(0, range(1, len(slab)), mic=True)
    assert distances.min() > 2.0


def test_light_scattered_out_of_the_aperture_is_all_that_is_lost():
    atoms = nanoparticle("sphere", 2.5, np.random.default_rng(1))
    wave = exit_waves(atoms, sampling=0.0125)[0]
    assert np.mean(np.abs(wave) ** 2) == pytest.approx(1.0, abs=2e-3)  # abTEM's band limit takes a little
    seen = [np.mean(np.abs(particle_exit_wave(atoms, aperture=a, sampling=0.0125)) ** 2) for a in (5.0, 20.0, 60.0)]
    assert seen[0] < seen[1] < seen[2] < 1


def test_table_agrees_with_a_sphere_in_the_middle():
    rng = np.random.default_rng(4)
    table, passed = Transmission.load(aperture=10.0), []
    for _ in range(4):
        wave = particle_exit_wave(vibrate(nanoparticle("sphere", 4.0, rng), rng), sampling=0.0125)
        y, x = (np.indices(wave.shape) - wave.shape[0] / 2) * 0.0125
        passed.append(np.mean(np.abs(wave[np.hypot(y, x) < 0.7]) ** 2))  # 3.75 to 4 nm thick
    spread = float(table.intensity[:, 4].std())
    assert np.mean(passed) == pytest.approx(table.mean_intensity[4], abs=3 * spread / 2)


@pytest.mark.parametrize("planes", [1, 3])
def test_a_lone_particles_transmission_reproduces_its_exit_wave(planes):
    atoms = nanoparticle("sphere", 2.0, np.random.default_rng(2))
    atoms.set_cell([50.0, 50.0, 40.0])
    atoms.positions += 25.0 - atoms.positions.mean(axis=0)
    atoms.positions[:, 2] -= 5.0
    full = exit_waves(atoms, sampling=0.0125)[0]
    stamp = particle_transmission(atoms, (2.5, 2.5, 2.0), (2.0, 2.0), sampling=0.0125, planes=planes)
    wave = compose_wave([[stamp]], full.shape, 0.0125)
    full = fresnel_propagate(full, -2.0, 0.0125, electron_wavelength(200e3))
    assert np.sqrt(np.mean(np.abs(wave - full) ** 2)) < 2e-3


@pytest.mark.slow
def test_composed_images_agree_with_all_atoms():
    spheres = np.full(2, 2.0)
    layers = (
        Layer(np.array([[2.6, 2.6], [2.6, 5.0]]), spheres, 2.4, 0.0, z=2.0),
        Layer(np.array([[3.4, 3.2], [4.6, 4.8]]), spheres, 2.4, 20.0, z=5.0),
    )
    scene = Scene(layers, (7.2, 7.2))
    result = compare_with_multislice(
        scene, (0.4,), [Lens.ideal(), Lens.ideal(defocus=200.0)], planes=3, sampling=0.0125, oversampling=4
    )
    worst = result.table.groupby("method")["rms_over_std"].max()
    assert worst["particle"] < 0.02
    assert worst["library"] < 0.05
    assert worst["particle"] < worst["library"] < worst["table"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": "cube"}, "spheres can be compared"),
        ({"field": (21.7, 21.7)}, "choose numbers that divide"),
        ({"field": (9.0, 9.0)}, "closer than 1.0 nm to the field's border"),
    ],
)
def test_comparison_refuses_what_it_cannot_compare(change, message):
    with pytest.raises(ValueError, match=message):
        compare_with_multislice(replace(overlapping_clusters(), **change))


def test_comparison_needs_one_energy():
    with pytest.raises(ValueError, match="lenses of one energy"):
        compare_with_multislice(overlapping_clusters(), lenses=[Lens(), Lens(300e3)])


def test_clusters_overlap_without_touching_within_a_layer():
    scene = overlapping_clusters(4.0)
    assert sum(len(layer) for layer in scene.layers) >= 7
    gaps = [np.hypot(*(layer.positions[:, None] - layer.positions[None]).transpose(2, 0, 1)) for layer in scene.layers]
    assert all(np.min(g[g > 0]) > 4.0 for g in gaps)
    across = np.hypot(*(scene.layers[0].positions[:, None] - scene.layers[1].positions[None]).transpose(2, 0, 1))
    assert np.all(across.min(axis=0) < 4.0)


def test_reduced_transmission_keeps_every_electron_and_its_place():
    atoms = vibrate(nanoparticle("sphere", 2.0, np.random.default_rng(5)), np.random.default_rng(6))
    wave = exit_waves(atoms, sampling=0.0125)[0][:300, :300]
    coherent, remainder = reduce_transmission(wave, 0.0125, 0.125, 200e3, 20.0)
    lens = Lens.ideal(aperture=20.0)
    passed = np.mean(np.abs(through_lens(wave, 0.0125, lens)) ** 2)
    kept = np.mean(np.abs(through_lens(coherent.numpy(), 0.125, lens)) ** 2) + float(remainder.mean())
    assert kept == pytest.approx(passed, rel=1e-5)
    phase, expected = np.angle(coherent.numpy()), np.angle(wave).reshape(30, 10, 30, 10).mean(axis=(1, 3))
    centre = [np.array([np.sum(c * p) for c in np.indices(p.shape)]) / p.sum() for p in (phase, expected)]
    np.testing.assert_allclose(*centre, atol=0.1)
    with pytest.raises(ValueError, match="do not make whole samples"):
        reduce_transmission(wave, 0.0125, 0.11, 200e3, 20.0)


def test_other_fcc_metals_have_their_own_density():
    silver = crystal_slab(3.0, 3.0, np.random.default_rng(0), "Ag")
    assert set(silver.get_chemical_symbols()) == {"Ag"}
    assert len(silver) == pytest.approx(27 / (0.409**3 / 4), rel=0.05)
    with pytest.raises(ValueError, match="not the symbol of an fcc metal"):
        nanoparticle("sphere", 3.0, np.random.default_rng(0), material="Fe")


def test_table_remade_small_is_seeded(tmp_path):
    config = TransmissionConfig(orientations=1, energies=(200e3,), apertures=(10.0,), thickness=3, width=2.0)
    for name in "ab":
        tabulate_transmission(tmp_path / f"{name}.npz", config, seed=3, progress=False)
    a, b = (np.load(tmp_path / f"{name}.npz") for name in "ab")
    np.testing.assert_array_equal(a["wave"], b["wave"])
    assert a["intensity"].shape == (1, 1, 1, 4)
