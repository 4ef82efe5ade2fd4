"""Liquid and camera: Poisson statistics, MTF, backgrounds."""

import numpy as np
import pytest

from moirelib.liquid import CameraConfig, LiquidConfig, camera_mtf, liquid_background, record

CLEAR = LiquidConfig(water=0.0, windows=0.0, beam=0.0, clouds=0.0, blur=0.0)
PERFECT = CameraConfig(dose=10.0, mtf=(1.0, 1.0, 1.0), readout_noise=0.0, offset=0.0)


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


def test_liquid_and_windows_take_their_share():
    liquid = LiquidConfig(beam=0.0, clouds=0.0)
    background = liquid_background((64, 64), 1.0, liquid, np.random.default_rng(0))
    np.testing.assert_allclose(background, np.exp(-250 / 185 - 100 / 144), rtol=1e-5)


@pytest.mark.parametrize("size", [5.0, 40.0, 200.0])
def test_clouds_have_the_asked_strength(size):
    liquid = LiquidConfig(water=0.0, windows=0.0, beam=0.0, clouds=0.1, cloud_size=size)
    fields = [np.log(liquid_background((512, 512), 1.0, liquid, np.random.default_rng(s))) for s in range(30)]
    assert np.std(fields) == pytest.approx(0.1, rel=0.25)


def test_counts_saturate_instead_of_wrapping():
    camera = CameraConfig(dose=1e4, gain=10.0)
    assert record(np.ones((32, 32)), 1.0, CLEAR, camera, np.random.default_rng(0)).min() == 65535


def test_same_seed_same_frame():
    frames = [record(np.ones((64, 64)), 1.0, LiquidConfig(), CameraConfig(), np.random.default_rng(4)) for _ in "ab"]
    np.testing.assert_array_equal(*frames)
