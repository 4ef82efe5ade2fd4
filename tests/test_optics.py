"""Optics: conservation, wavelengths, transmission of gold, composed images."""

from dataclasses import replace

import abtem
import numpy as np
import pytest
import torch

from moirelib.simulation import (
    SHAPES,
    Layer,
    Lens,
    Scene,
    Transmission,
    clean_image,
    compose,
    electron_wavelength,
    fresnel_propagate,
    layer_thickness,
    optics,
    particle_mask,
    through_lens,
)

GOLD = Transmission.load()


def one_particle(shape="sphere", diameter=20.0, at=(50.0, 50.0), height=60.0, **layer):
    empty = Layer(np.empty((0, 2)), np.empty(0), 30.0, 0.0, z=60.0)
    return Scene(
        (Layer(np.array([at]), np.array([diameter]), 30.0, 0.0, **layer), empty), (100.0, 100.0), shape, height
    )


@pytest.mark.parametrize(("energy", "wavelength"), [(200e3, 2.5079e-3), (300e3, 1.9687e-3)])
def test_wavelength_matches_textbook(energy, wavelength):
    assert electron_wavelength(energy) == pytest.approx(wavelength, rel=1e-4)


def test_nothing_in_the_beam_transmits_everything():
    scene = one_particle(at=(-500.0, -500.0))
    np.testing.assert_allclose(clean_image(scene, 1.0, lens=Lens(defocus=1000.0)), 1.0, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_mask_area_is_the_equivalent_disk_at_the_particle_position(shape):
    mask = particle_mask(one_particle(shape, at=(40.3, 61.7)), 1, 1.0, oversampling=5)
    assert mask.sum() == pytest.approx(np.pi * 10.0**2, rel=0.015)
    centre = [np.sum(c * mask) / mask.sum() for c in np.indices(mask.shape)]
    np.testing.assert_allclose(centre, [40.3 - 0.5, 61.7 - 0.5], atol=0.05)


def test_rotation_turns_a_particle_in_the_plane():
    upright, turned = (
        particle_mask(one_particle("cube", at=(50.0, 50.0), rotations=np.array([r])), 1, 1.0) for r in (0.0, 45.0)
    )
    assert upright[50 - 8, 50 - 8] > 0.9  # the corner of a square of edge 17.7 nm
    assert turned[50 - 8, 50 - 8] < 0.1
    np.testing.assert_allclose(turned, turned[::-1, ::-1], atol=0.01)


def test_particles_at_the_border_are_cut_not_wrapped():
    thickness = layer_thickness(one_particle(at=(0.0, 50.0)), 1, 1.0)
    assert thickness[0].max() > 19
    assert thickness[-30:].max() == 0


def test_defocused_images_do_not_wrap_round_the_field():
    image = clean_image(one_particle(at=(50.0, 1.0)), 1.0, mean_free_path=20.0, lens=Lens(defocus=2000.0))
    np.testing.assert_allclose(image[:, -10:], 1.0, atol=0.02)
    assert image[50, 0] < 0.8


def test_an_empty_layer_on_top_does_not_move_the_focus():
    scene = one_particle()
    images = [clean_image(s, 1.0, lens=Lens(defocus=300.0)) for s in (scene, replace(scene, layers=scene.layers[:1]))]
    np.testing.assert_array_equal(*images)


@pytest.mark.parametrize("options", [{"mean_free_path": 0.0}, {"liquid_mean_free_path": -5.0}])
def test_mean_free_paths_must_be_positive(options):
    with pytest.raises(ValueError, match="mean_free_path must be positive"):
        clean_image(one_particle(), 1.0, **options)


def test_a_field_smaller_than_a_pixel_is_refused():
    with pytest.raises(ValueError, match="smaller than a pixel"):
        clean_image(one_particle(), 500.0)


def test_image_centroid_is_registered_to_the_mask():
    scene = one_particle(at=(40.3, 61.7))
    dark = 1 - clean_image(scene, 1.0, mean_free_path=35.0)
    centre = [np.sum(c * dark) / dark.sum() for c in np.indices(dark.shape)]
    np.testing.assert_allclose(centre, [39.8, 61.2], atol=0.1)


def test_sphere_centre_follows_beer_lambert_with_a_given_mean_free_path():
    image = clean_image(one_particle(at=(50.5, 50.5)), 1.0, mean_free_path=35.0)
    assert image[50, 50] == pytest.approx(np.exp(-20.0 / 35.0), rel=0.02)


def test_displaced_liquid_brightens_a_particle_by_its_own_loss():
    scene = one_particle("rod", at=(50.5, 50.5))
    plain, wet = (clean_image(scene, 1.0, mean_free_path=35.0, liquid_mean_free_path=w) for w in (None, 185.0))
    assert wet[50, 50] / plain[50, 50] == pytest.approx(np.exp(60.0 / 185.0), rel=0.02)
    np.testing.assert_allclose(wet[:10], plain[:10], atol=0.01)


@pytest.mark.parametrize("options", [{"mean_free_path": 35.0}, {}])
def test_defocus_and_aberrations_conserve_the_electrons_that_pass(options):
    focused = clean_image(one_particle(), 1.0, lens=Lens.ideal(), **options)
    blurred = clean_image(one_particle(), 1.0, lens=Lens(defocus=2000.0, focal_spread=50.0), **options)
    assert blurred.sum() == pytest.approx(focused.sum(), rel=1e-5)
    assert np.abs(blurred - focused).max() > 0.01


def test_conservation_holds_where_torch_inverts_2048_samples_wrongly():
    scene = replace(one_particle(), field=(512.0, 512.0))
    image = clean_image(scene, 1.0, mean_free_path=35.0, lens=Lens(defocus=500.0), oversampling=4)
    assert image[300:, 300:].mean() == pytest.approx(1.0, abs=1e-3)


def test_lens_agrees_with_abtem():
    rng = np.random.default_rng(0)
    wave = (1 + 0.3 * rng.standard_normal((96, 96)) + 0.3j * rng.standard_normal((96, 96))).astype(np.complex64)
    lens = Lens(aperture=8.0, defocus=150.0, spherical_aberration=1.2)
    expected = np.abs(through_lens(wave, 0.1, lens)) ** 2
    image = compose([(torch.from_numpy(wave), None)], [0.0], 0.1, 1, lens)
    np.testing.assert_allclose(image, expected, atol=2e-4)


def test_gap_propagates_like_abtem():
    rng = np.random.default_rng(1)
    wave = (1 + 0.3 * rng.standard_normal((64, 64))).astype(np.complex64)
    waves = abtem.Waves(wave, energy=200e3, sampling=2.0)
    expected = np.asarray(waves.apply_ctf(abtem.CTF(energy=200e3, defocus=-1000.0)).array)
    np.testing.assert_allclose(fresnel_propagate(wave, 100.0, 0.2, electron_wavelength(200e3)), expected, atol=1e-4)
    empty = (torch.ones(64, 64, dtype=torch.complex64), None)
    image = compose([(torch.from_numpy(wave), None), empty], [0.0, 100.0], 0.2, 1, Lens.ideal(aperture=100.0))
    np.testing.assert_allclose(image, np.abs(expected) ** 2, atol=1e-3)


def test_focal_spread_dims_a_fine_fringe_as_its_envelope_predicts():
    # A weak phase grating of frequency k has contrast sin(πλk²Δf); a Gaussian focal spread δ multiplies it by
    # exp(-(πλk²δ)²/2) (Kirkland, eq. 3.42, for the linear image).
    k, sampling, spread = 1.0, 0.125, 60.0  # 1/nm, nm, nm
    x = np.arange(64) * sampling
    grating = torch.from_numpy(np.tile(np.exp(0.01j * np.cos(2 * np.pi * k * x)), (64, 1)).astype(np.complex64))
    width = np.pi * electron_wavelength(200e3) * k**2
    steady = Lens.ideal(defocus=0.5 * np.pi / width)
    lenses = steady, replace(steady, focal_spread=spread)
    sharp, dim = (compose([(grating, None)], [0.0], sampling, 1, lens).std() for lens in lenses)
    assert float(dim / sharp) == pytest.approx(np.exp(-((width * spread) ** 2) / 2), rel=0.01)


def test_remainder_is_carried_as_electrons_and_spread_over_the_aperture():
    remainder = torch.zeros(64, 64)
    remainder[32, 32] = 1.0
    opaque = torch.zeros(64, 64, dtype=torch.complex64)
    image = compose([(opaque, remainder)], [0.0], 1.0, 1, Lens(defocus=1000.0))
    assert float(image.sum()) == pytest.approx(1.0, rel=1e-4)
    y, x = np.indices(image.shape) - 32
    assert float((image * torch.from_numpy(np.hypot(y, x) <= 11)).sum()) > 0.95  # a disk of 10 nm


def test_each_layers_remainder_is_spread_by_its_own_distance_from_focus():
    remainder = torch.zeros(64, 64)
    remainder[32, 32] = 1.0
    clear = (torch.ones(64, 64, dtype=torch.complex64), None)
    opaque = torch.zeros(64, 64, dtype=torch.complex64)
    layers = [(opaque, remainder), clear]
    lenses = Lens(aperture=20.0, defocus=500.0), Lens(aperture=20.0)
    sharp, spread = (compose(layers, [0.0, 500.0], 1.0, 1, lens) for lens in lenses)
    assert float(sharp[32, 32]) > 0.99  # underfocus by 500 nm images the first layer
    assert float(spread[32, 32]) < 0.01


def test_later_layers_dim_what_earlier_ones_scattered():
    empty = torch.ones(8, 8, dtype=torch.complex64)
    image = compose([(0 * empty, torch.full((8, 8), 0.5)), (0.6 * empty, None)], [0.0, 0.0], 1.0, 1, Lens())
    np.testing.assert_allclose(image, 0.5 * 0.36, rtol=1e-4)


def test_shipped_transmission_starts_at_one_and_falls():
    assert np.all(GOLD.intensity[:, 0] == 1)
    assert np.all(np.diff(GOLD.mean_intensity[:10]) < 0)  # thicker crystals pass electrons back and forth
    assert np.all(np.diff(GOLD.mean_intensity[::20]) < 0)
    assert np.all(np.diff(GOLD.phase[:40]) > 0)
    assert np.all(np.abs(GOLD.wave) ** 2 <= GOLD.intensity + 1e-6)


def test_a_wider_aperture_and_a_higher_energy_let_more_electrons_pass():
    passed = [Transmission.load(energy=e, aperture=a).mean_intensity for e, a in [(200e3, 5.0), (200e3, 20.0)]]
    assert np.all(passed[1][1:] > passed[0][1:])
    assert np.all(Transmission.load(energy=300e3, aperture=5.0).mean_intensity[1:40] > passed[0][1:40])


def test_lookup_continues_the_table_with_the_loss_of_its_last_half():
    wave, remainder = GOLD.lookup(greatest=200.0, step=1.0)
    total = np.abs(wave) ** 2 + remainder
    np.testing.assert_allclose(total[:, :121], GOLD.intensity, rtol=1e-3)
    ratio = total[:, 161:200] / total[:, 160:199]
    assert np.all(ratio < 1)
    by_nm = np.exp(-1 / GOLD.mean_free_path(60.0, 120.0))
    assert np.median(ratio) == pytest.approx(by_nm, abs=0.01)


def test_orientation_decides_a_particles_darkness():
    rows = np.argsort(GOLD.intensity[:, 20])[[0, -1]]
    dark, bright = (clean_image(one_particle(orientations=np.array([r])), 1.0).min() for r in rows)
    assert dark < 0.8 * bright


def test_unknown_energy_is_refused_with_what_there_is():
    with pytest.raises(ValueError, match=r"200000.*300000.*not 80000 eV"):
        Transmission.load(energy=80e3)


def test_lens_and_table_must_be_for_the_same_electrons():
    table = Transmission.load(energy=300e3, aperture=20.0)
    with pytest.raises(ValueError, match="300000 eV and 20 mrad, the lens for 200000 eV and 10 mrad"):
        clean_image(one_particle(), 1.0, table, Lens())
    np.testing.assert_array_equal(  # without a lens the table's energy and aperture count
        clean_image(one_particle(), 1.0, table), clean_image(one_particle(), 1.0, lens=Lens(300e3, 20.0))
    )
    with pytest.raises(ValueError, match="positive energy and aperture"):
        Lens(aperture=0.0)


def test_composing_is_the_same_on_every_number_of_threads():
    before = torch.get_num_threads()
    images = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        images.append(clean_image(one_particle(), 1.0, lens=Lens(defocus=500.0)))
    torch.set_num_threads(before)
    np.testing.assert_allclose(images[0], images[1], atol=1e-6)


def test_batches_of_particles_give_the_same_layer(monkeypatch):
    rng = np.random.default_rng(0)
    layer = Layer(rng.uniform(0, 100, (40, 2)), rng.uniform(8, 12, 40), 12.0, 0.0)
    scene = Scene((layer,), (100.0, 100.0))
    whole = optics._rasterize(scene, 1, 1.0, 3)
    monkeypatch.setattr(optics, "SAMPLES_AT_ONCE", 5000)
    for a, b in zip(whole, optics._rasterize(scene, 1, 1.0, 3), strict=True):
        torch.testing.assert_close(a, b)


def test_a_soft_outline_is_thickness_averaged_over_a_disk():
    sharp = replace(one_particle("rod"), rounding=0.0)
    soft = replace(sharp, soft=4.0)
    before, after = (layer_thickness(scene, 1, 1.0) for scene in (sharp, soft))
    assert after.sum() == pytest.approx(before.sum(), rel=2e-3)
    y, x = (np.indices(before.shape) + 0.5) / 3 - 50.0
    r = np.hypot(y, x)
    assert after[r < 5.5] == pytest.approx(60.0, rel=0.01)  # radius 10 nm, less the disk's
    assert not after[r > 14.5].any()
    # A straight edge halves a disk; the rod's is bent, so that less of the disk lies inside.
    assert after[np.abs(r - 10) < 0.3].mean() / 60 == pytest.approx(0.46, abs=0.03)
    np.testing.assert_array_equal(particle_mask(sharp, 1, 1.0), particle_mask(soft, 1, 1.0))
