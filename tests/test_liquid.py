"""Liquid and camera: losses, chromatic blur, backgrounds, Poisson statistics, MTF, faulty pixels."""

from dataclasses import replace

import numpy as np
import pytest

from moirelib.simulation import (
    CameraConfig,
    Lens,
    LibraryConfig,
    LiquidConfig,
    brightness_flicker,
    camera_mtf,
    chromatic_blur,
    elastic_mean_free_path,
    liquid_background,
    optical_transfer,
    record,
    simulate_frame,
)

CLEAR = LiquidConfig(water=0.0, windows=0.0, beam=0.0, clouds=0.0, blur=0.0)
PERFECT = CameraConfig(dose=10.0, mtf=(1.0, 1.0, 1.0), readout_noise=0.0, offset=0.0, hot_pixels=0.0, dead_pixels=0.0)


def autocorrelation(image, lag):
    d = image - image.mean()
    return np.mean(d[:, lag:] * d[:, :-lag]) / np.mean(d**2)


def test_mtf_passes_through_its_three_values():
    np.testing.assert_allclose(camera_mtf([0.0, 0.1, 0.2, 0.5]), [1.0, 0.81, 0.62, 0.28])
    assert np.all(np.diff(camera_mtf(np.linspace(0, 0.8, 50))) < 0)


def test_mean_counts_are_dose_times_pixel_area():
    frame = record(np.ones((128, 128)), 0.5, CLEAR, PERFECT, np.random.default_rng(0))
    assert frame.mean() == pytest.approx(10.0 * 25.0, rel=0.01)


def test_variance_equals_mean_for_a_perfect_camera():
    frame = record(np.ones((256, 256)), 0.5, CLEAR, PERFECT, np.random.default_rng(0)).astype(float)
    assert frame.var() == pytest.approx(frame.mean(), rel=0.03)
    assert abs(autocorrelation(frame, 1)) < 0.02


def test_mtf_correlates_shot_noise_as_its_square_predicts():
    camera = CameraConfig(dose=10.0, readout_noise=0.0)
    frame = record(np.ones((512, 512)), 0.5, CLEAR, camera, np.random.default_rng(0)).astype(float)
    k = np.hypot(np.fft.fftfreq(512)[:, None], np.fft.fftfreq(512)[None, :])
    expected = np.fft.ifft2(camera_mtf(k) ** 2).real
    for lag in (1, 2, 3):
        assert autocorrelation(frame, lag) == pytest.approx(expected[0, lag] / expected[0, 0], abs=0.01)


def test_readout_noise_comes_after_the_mtf_and_is_white():
    camera = CameraConfig(dose=1e-6, readout_noise=30.0, offset=500.0)
    frame = record(np.ones((256, 256)), 0.5, CLEAR, camera, np.random.default_rng(0)).astype(float)
    assert frame.std() == pytest.approx(30.0, rel=0.03)
    assert frame.mean() == pytest.approx(500.0, abs=1.0)
    assert abs(autocorrelation(frame, 1)) < 0.02


def test_published_recipe_lets_an_eighth_of_the_electrons_through():
    liquid = replace(LiquidConfig.published(), beam=0.0)
    background = liquid_background((64, 64), 1.0, liquid, np.random.default_rng(0))
    np.testing.assert_allclose(background, np.exp(-250 / 185 - 100 / 144), rtol=1e-5)
    assert liquid.mean_transmission == pytest.approx(np.exp(-250 / 185 - 100 / 144))
    assert liquid.liquid_mean_free_path == pytest.approx(185.0)
    assert 8 * 1.367 <= liquid.disk_blur <= 10 * 1.367


def test_an_energy_filter_stops_the_electrons_that_lost_energy():
    filtered, open_ = LiquidConfig(zero_loss=True), LiquidConfig()
    assert open_.energy_losses == pytest.approx(250 / 185 + 100 / 144)
    assert filtered.mean_transmission == pytest.approx(open_.mean_transmission * np.exp(-open_.energy_losses))
    assert 1 / filtered.liquid_mean_free_path == pytest.approx(1 / open_.liquid_mean_free_path + 1 / 185)


def test_liquid_that_stops_no_electron_is_transparent():
    liquid = replace(LiquidConfig.published(), zero_loss=False)  # no elastic loss, and electrons that lost energy count
    assert liquid.mean_transmission == 1.0
    frame = simulate_frame(replace(LibraryConfig.published(), shape=(64, 64), zero_loss=0.0), 0).frame
    assert np.isfinite(frame).all()


@pytest.mark.parametrize("aperture", [5.0, 10.0])
@pytest.mark.parametrize("energy", [200e3, 300e3])
@pytest.mark.parametrize(
    ("material", "formula_units", "atoms"),
    [("water", 1.0 / 18.015, {"H": 2, "O": 1}), ("silicon nitride", 3.17 / 140.28, {"Si": 3, "N": 4})],
)
def test_elastic_mean_free_path_agrees_with_scattering_factors(material, formula_units, atoms, energy, aperture):
    from abtem.parametrizations import LobatoParametrization

    from moirelib.simulation import electron_wavelength

    angle = np.geomspace(1e-3 * aperture, 0.5, 3000)
    gamma = 1 + energy / 510999
    cross_section = 0.0  # Å² per formula unit
    for symbol, n in atoms.items():
        f = LobatoParametrization().scattering_factor(symbol)((0.1 * angle / electron_wavelength(energy)) ** 2)
        cross_section += n * gamma**2 * np.trapezoid(2 * np.pi * angle * np.asarray(f) ** 2, angle)
    density = formula_units * 0.602214  # per Å³
    assert elastic_mean_free_path(material, energy, aperture) == pytest.approx(
        0.1 / (density * cross_section), rel=0.05
    )


def test_chromatic_blur_by_hand():
    gamma = 1 + 200e3 / 510998.95
    by_hand = 0.010 * 1.4e6 * 22.0 / 200e3 * 2 * gamma / (1 + gamma)  # nm; (1 + E/mc²) / (1 + E/2mc²) = 2γ / (1 + γ)
    assert chromatic_blur(22.0, Lens(200e3, 10.0, chromatic_aberration=1.4)) == pytest.approx(by_hand, rel=1e-6)
    assert chromatic_blur(44.0) == pytest.approx(2 * chromatic_blur(22.0))


def test_chromatic_blur_of_an_image_has_the_variance_of_the_energy_losses():
    # At small k a disk of radius r transfers 1 - (π k r)²/2; the variance of a Poisson number is its mean.
    liquid = LiquidConfig(blur=0.0)
    k = 1e-3  # 1/nm
    expected = liquid.energy_losses * chromatic_blur() ** 2
    assert 2 * (1 - optical_transfer(k, liquid)) / (np.pi * k) ** 2 == pytest.approx(expected, rel=1e-3)
    assert optical_transfer(k, replace(liquid, zero_loss=True)) == pytest.approx(1.0)


def test_thicker_liquid_blurs_more_and_loses_no_electron_by_blurring():
    clean = np.ones((128, 128))
    clean[:, :64] = 0.2
    steep = []
    for water in (0.0, 200.0, 800.0):
        liquid = replace(CLEAR, water=water)
        frame = record(clean, 1.0, liquid, replace(PERFECT, dose=5000.0, gain=0.1), np.random.default_rng(0))
        rows = frame.mean(axis=0) / (0.1 * 5000 * 100 * liquid.mean_transmission)
        assert rows.mean() == pytest.approx(0.6, rel=2e-3)
        steep.append(np.max(np.diff(rows)))
    assert steep[0] > 1.5 * steep[1] > 1.5 * steep[2]


def test_wedge_follows_the_law_of_absorption():
    liquid = LiquidConfig(wedge=0.4, wedge_angle=0.0, beam=0.0, clouds=0.0)
    row = liquid_background((32, 32), 1.0, liquid, np.random.default_rng(0))[16]
    assert row[0] / row[-1] == pytest.approx(np.exp(0.4 * 250 / liquid.liquid_mean_free_path), rel=1e-4)
    assert np.exp(np.log(row).mean()) == pytest.approx(liquid.mean_transmission, rel=1e-4)
    down = liquid_background((32, 32), 1.0, replace(liquid, wedge_angle=90.0), np.random.default_rng(0))
    np.testing.assert_allclose(down[:, 5], row, rtol=1e-5)  # 90 degrees: thicker towards +y


def test_shadow_darkens_one_side_only():
    liquid = replace(CLEAR, shadow=0.7)
    for seed in range(5):
        background = liquid_background((64, 64), 1.0, liquid, np.random.default_rng(seed))
        assert 0.3 - 1e-6 <= background.min() < 0.8
        assert background.max() == pytest.approx(1.0, abs=0.02)
        dark = np.argwhere(background < 0.9).mean(axis=0)
        bright = np.argwhere(background > 0.98).mean(axis=0)
        assert np.hypot(*(dark - bright)) > 16  # a quarter of the field or more apart


@pytest.mark.parametrize("size", [5.0, 40.0, 200.0])
def test_clouds_have_the_asked_strength(size):
    liquid = LiquidConfig(water=0.0, windows=0.0, beam=0.0, clouds=0.1, cloud_size=size)
    fields = [np.log(liquid_background((512, 512), 1.0, liquid, np.random.default_rng(s))) for s in range(30)]
    assert np.std(fields) == pytest.approx(0.1, rel=0.25)


def test_clouds_have_the_asked_spectrum():
    exponent, size = 3.0, 12.0
    liquid = replace(CLEAR, clouds=1.0, cloud_size=size, cloud_exponent=exponent)
    fields = [np.log(liquid_background((256, 256), 1.0, liquid, np.random.default_rng(s))) for s in range(6)]
    window = np.outer(np.hanning(256), np.hanning(256))
    power = np.mean([np.abs(np.fft.fft2(f * window)) ** 2 for f in fields], axis=0) / np.sum(window**2)
    k = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.fftfreq(256)[None, :])
    for low, high in ((0.008, 0.012), (0.02, 0.025), (0.04, 0.05)):
        ring = (k > low) & (k < high)
        x2 = (2 * np.pi * size * k[ring]) ** 2
        expected = 4 * np.pi * size**2 * (exponent - 1) / exponent * (1 + x2 / exponent) ** -exponent
        assert power[ring].mean() == pytest.approx(expected.mean(), rel=0.35)


def test_counts_saturate_instead_of_wrapping():
    camera = CameraConfig(dose=1e4, gain=10.0, dead_pixels=0.0)
    assert record(np.ones((32, 32)), 1.0, CLEAR, camera, np.random.default_rng(0)).min() == 65535
    frame = record(np.ones((32, 32)), 1.0, CLEAR, replace(camera, saturation=4095.0), np.random.default_rng(0))
    assert frame.min() == frame.max() == 4095


def test_hot_and_dead_pixels_stay_through_a_movie_and_belong_to_the_camera():
    camera = CameraConfig(dose=10.0, readout_noise=2.0, hot_pixels=0.01, dead_pixels=0.01, hot_signal=2000.0)
    rng = np.random.default_rng(0)
    first, second = (record(np.ones((128, 128)), 1.0, CLEAR, camera, rng).astype(float) for _ in "ab")
    dead = [np.abs(f - 100) < 12 for f in (first, second)]
    np.testing.assert_array_equal(*dead)
    assert 80 < dead[0].sum() < 250  # 164 expected
    hot = [f > 1000 + 100 + 6 * np.sqrt(1000) for f in (first, second)]
    assert 100 < hot[0].sum() < 200  # of 164 those whose signal exceeds 190
    assert np.mean(hot[0] == hot[1]) > 0.998
    other = record(np.ones((128, 128)), 1.0, CLEAR, replace(camera, pixel_seed=1), rng)
    assert np.mean(dead[0] & (np.abs(other.astype(float) - 100) < 12)) < 0.1 * dead[0].mean()


def test_a_brighter_beam_brings_more_electrons():
    frames = [record(np.ones((64, 64)), 1.0, CLEAR, PERFECT, np.random.default_rng(0), brightness=b) for b in (1, 1.2)]
    assert frames[1].mean() / frames[0].mean() == pytest.approx(1.2, rel=0.005)


def test_flicker_has_mean_one_and_the_asked_correlation():
    flicker = brightness_flicker(20000, 0.1, correlation=4.0, rng=np.random.default_rng(0))
    assert flicker.mean() == pytest.approx(1.0, abs=0.01)
    assert flicker.std() == pytest.approx(0.1, rel=0.05)
    d = flicker - flicker.mean()
    assert np.mean(d[4:] * d[:-4]) / np.mean(d**2) == pytest.approx(np.exp(-1), abs=0.05)
    independent = brightness_flicker(20000, 0.1, rng=np.random.default_rng(0)) - 1
    assert abs(np.mean(independent[1:] * independent[:-1])) < 3e-4
    np.testing.assert_array_equal(brightness_flicker(5, 0.0, rng=np.random.default_rng(0)), np.ones(5))


@pytest.mark.parametrize("wrong", [{"water": -1.0}, {"shadow": 1.5}, {"wedge": 3.0}, {"clouds": -0.1}])
def test_impossible_liquids_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LiquidConfig(**wrong)


@pytest.mark.parametrize("wrong", [{"dose": -1.0}, {"saturation": 1e6}, {"readout_noise": -1.0}, {"hot_pixels": 2.0}])
def test_impossible_cameras_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong)).split("_")[0]):
        CameraConfig(**wrong)


def test_same_seed_same_frame():
    frames = [record(np.ones((64, 64)), 1.0, LiquidConfig(), CameraConfig(), np.random.default_rng(4)) for _ in "ab"]
    np.testing.assert_array_equal(*frames)


def test_wide_blur_does_not_reach_round_to_the_other_edge():
    clean = np.ones((64, 256))
    clean[:, :40] = 0.1
    liquid, bright = replace(CLEAR, blur=10.0), CameraConfig(dose=1e5, mtf=(1.0, 1.0, 1.0), readout_noise=0.0)
    frame = record(clean, 1.0, liquid, replace(bright, gain=1e-3, hot_pixels=0.0), np.random.default_rng(0))
    right = frame[:, -20:].astype(float)
    assert right[:, -1].mean() == pytest.approx(right[:, 0].mean(), rel=0.002)


def test_records_of_a_liquid_hold_every_number_by_name():
    numbers = LiquidConfig(lens=Lens(300e3, 5.0, defocus=100.0)).parameters()
    assert (numbers["energy"], numbers["aperture"], numbers["chromatic_aberration"]) == (300e3, 5.0, 1.4)
    assert not any(isinstance(value, dict) for value in numbers.values())


def test_faster_electrons_lose_energy_less_often():
    slow, fast = LiquidConfig(), LiquidConfig(lens=Lens(300e3))
    assert slow.energy_losses == pytest.approx(250 / 185 + 100 / 144)
    # Malis et al. (1988) with E_m = 16 eV and 10 mrad: 22.4 against 26.0 units
    assert fast.energy_losses / slow.energy_losses == pytest.approx(1 / 1.163, rel=0.01)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LiquidConfig(water_mean_free_path=0.0), "water_mean_free_path of a liquid must be positive"),
        (lambda: LiquidConfig(water_elastic_path=0.0), "water_elastic_path of a liquid must be positive"),
        (lambda: CameraConfig(mtf=(0.5, 0.2, 0.0)), "MTF is positive"),
        (lambda: elastic_mean_free_path("ice"), "'ice'; choose one of water"),
    ],
)
def test_impossible_liquids_and_cameras_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
