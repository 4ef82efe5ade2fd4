"""Optics: conservation, wavelengths, and transmission of real gold particles."""

import numpy as np
import pytest

from moirelib.lattice import Layer, Scene, gold_particle
from moirelib.optics import (
    Transmission,
    clean_image,
    electron_wavelength,
    fresnel_propagate,
    particle_exit_wave,
    particle_mask,
)


def one_particle(shape="sphere", diameter=20.0, at=(50.0, 50.0), height=60.0):
    empty = Layer(np.empty((0, 2)), np.empty(0), 30.0, 0.0, z=60.0)
    layer = Layer(np.array([at]), np.array([diameter]), 30.0, 0.0)
    return Scene((layer, empty), (100.0, 100.0), shape, height)


@pytest.mark.parametrize(("energy", "wavelength"), [(200e3, 2.5079e-3), (300e3, 1.9687e-3)])
def test_wavelength_matches_textbook(energy, wavelength):
    assert electron_wavelength(energy) == pytest.approx(wavelength, rel=1e-4)


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


def test_nothing_in_the_beam_transmits_everything():
    scene = one_particle(at=(-500.0, -500.0))
    np.testing.assert_allclose(clean_image(scene, 1.0, defocus=1000.0), 1.0, atol=1e-5)


@pytest.mark.parametrize("shape", ["sphere", "rod"])
def test_mask_area_is_a_disk_at_the_particle_position(shape):
    mask = particle_mask(one_particle(shape, at=(40.3, 61.7)), 1, 1.0)
    assert mask.sum() == pytest.approx(np.pi * 10.0**2, rel=0.01)
    centre = [np.sum(c * mask) / mask.sum() for c in np.indices(mask.shape)]
    np.testing.assert_allclose(centre, [40.3 - 0.5, 61.7 - 0.5], atol=0.05)


def test_image_centroid_is_registered_to_the_mask():
    scene = one_particle(at=(40.3, 61.7))
    dark = 1 - clean_image(scene, 1.0, mean_free_path=35.0)
    centre = [np.sum(c * dark) / dark.sum() for c in np.indices(dark.shape)]
    np.testing.assert_allclose(centre, [39.8, 61.2], atol=0.1)


def test_sphere_centre_follows_beer_lambert_with_a_given_mean_free_path():
    image = clean_image(one_particle(at=(50.5, 50.5)), 1.0, mean_free_path=35.0)
    assert image[50, 50] == pytest.approx(np.exp(-20.0 / 35.0), rel=0.02)


def test_defocus_conserves_the_electrons_that_pass():
    images = [clean_image(one_particle(), 1.0, defocus=d, mean_free_path=35.0) for d in (0.0, 2000.0)]
    assert images[1].sum() == pytest.approx(images[0].sum(), rel=1e-5)
    assert np.abs(images[1] - images[0]).max() > 0.01


def test_shipped_transmission_falls_from_one_and_goes_on_exponentially():
    table = Transmission.load()
    intensity, phase = table([0.0, 2.0, 5.0, 30.0, 30.0 + table.mean_free_path])
    assert intensity[0] == 1
    assert np.all(np.diff(intensity) < 0)
    assert intensity[4] / intensity[3] == pytest.approx(np.exp(-1), rel=1e-6)
    assert np.all(np.diff(phase) > 0)


def test_multislice_of_a_real_gold_particle_agrees_with_the_table():
    wave = particle_exit_wave(gold_particle(3.0, np.random.default_rng(1)), sampling=0.15)
    n = wave.shape[0]
    y, x = (np.indices(wave.shape) - n / 2) * 5.0 / n
    vacuum, core = np.hypot(y, x) > 2.0, np.hypot(y, x) < 0.7
    assert np.mean(np.abs(wave[vacuum]) ** 2) == pytest.approx(1.0, abs=0.05)
    table = Transmission.load()
    expected = table(3.0)[0]
    spread = np.interp(3.0, table.thickness, table.intensity_std)
    assert np.mean(np.abs(wave[core]) ** 2) == pytest.approx(expected, abs=4 * spread)


def test_transmission_survives_saving(tmp_path):
    table = Transmission.load()
    table.save(tmp_path / "t.npz")
    again = Transmission.load(tmp_path / "t.npz")
    np.testing.assert_array_equal(again.amplitude, table.amplitude)
    assert again.energy == table.energy
