"""Frame statistics against images whose statistics are known, and the real frame against its simulated twin."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from moirelib.crystal import hexagonal_lattice
from moirelib.data import fetch
from moirelib.movies import read_movie
from moirelib.simulation import CameraConfig, LiquidConfig, camera_mtf, random_scene, record
from moirelib.validation import (
    REAL_PIXEL_SIZE,
    REAL_SPACING,
    average_particle,
    background_spectrum,
    frame_statistics,
    leaning_columns,
    noise_autocorrelation,
    noise_spectra,
    particle_contrast,
    real_frame_lattice,
    real_frame_twin,
)

SPACING = 30.0  # pixels
DEPTH = 0.4


def dark_spots(n=300, sigma=4.0):
    """Gaussian spots on a hexagonal lattice, DEPTH deep."""
    y, x = np.mgrid[:n, :n]
    image = np.ones((n, n))
    for py, px in hexagonal_lattice(SPACING, 10.0, (n / 2, n / 2), n):
        image -= DEPTH * np.exp(-((y - py) ** 2 + (x - px) ** 2) / (2 * sigma**2))
    return image


def test_white_noise_is_uncorrelated():
    noise = np.random.default_rng(0).standard_normal((512, 512))
    np.testing.assert_allclose(noise_autocorrelation(noise, (1, 2, 3, 7)), 0, atol=0.015)


def test_autocorrelation_of_filtered_noise_is_the_filters():
    # A Gaussian filter of width s leaves white noise with the correlation exp(-lag² / 4 s²).
    noise = gaussian_filter(np.random.default_rng(0).standard_normal((512, 512)), 1.0)
    measured = noise_autocorrelation(noise, (1, 2, 3), smoothing=20.0)
    np.testing.assert_allclose(measured, np.exp(-(np.arange(1, 4) ** 2) / 4), atol=0.02)


def test_slow_background_does_not_count_as_noise():
    rng, x = np.random.default_rng(0), np.arange(512)
    slow = 10 * np.sin(2 * np.pi * x / 400)[:, None] * np.cos(2 * np.pi * x / 500)
    np.testing.assert_allclose(noise_autocorrelation(slow + rng.standard_normal((512, 512))), 0, atol=0.02)


def test_noise_spectra_give_gain_mtf_and_offset_back():
    camera = CameraConfig(dose=0.2, readout_noise=0.0, gain=20.0, offset=50.0)
    liquid = LiquidConfig(water=0, windows=0, beam=0, clouds=0, blur=0)
    ramp = np.linspace(0.2, 1.0, 512)[:, None] * np.ones((1, 512))
    frame = record(ramp, 1.0, liquid, camera, np.random.default_rng(0))
    mean, k, power = noise_spectra(frame)
    for low, high in ((0.15, 0.2), (0.3, 0.4), (0.5, 0.6)):
        band = (k > low) & (k < high)
        slope, intercept = np.polyfit(mean, power[:, band].mean(axis=1), 1)
        assert slope == pytest.approx(20.0 * np.mean(camera_mtf(k[band]) ** 2), rel=0.1)
        assert -intercept / slope == pytest.approx(50.0, abs=25.0)


def test_spectrum_of_white_noise_is_flat_at_its_variance():
    image = 10 + np.random.default_rng(0).standard_normal((512, 512))
    frequency, power = background_spectrum(image, 2.0)
    assert np.all(np.diff(frequency) > 0)
    assert frequency[-1] <= 0.25
    fine = frequency > 0.02
    np.testing.assert_allclose(power[fine], 0.01 * 2.0**2, rtol=0.12)


def test_spectrum_passes_a_lattice_by():
    rng = np.random.default_rng(0)
    noise = 0.1 * rng.standard_normal((300, 300))
    f, plain = background_spectrum(1 + noise, 1.0)
    _, with_lattice = background_spectrum(dark_spots() + noise, 1.0)
    # The first reflections stand at 2 / (√3 · 30) = 0.038; the mean over their ring would be hundreds of times higher.
    ring = (f > 0.03) & (f < 0.05)
    assert np.all(with_lattice[ring] < 3 * plain[ring] / 0.9**2)


def test_contrast_of_known_spots():
    image = dark_spots()
    within_3_pixels = DEPTH * (1 - np.exp(-9 / 32)) * 32 / 9  # mean of the Gaussian spot over that disk
    assert particle_contrast(image, SPACING) == pytest.approx(within_3_pixels, abs=0.02)
    noisy = image * (1 + 0.1 * np.random.default_rng(0).standard_normal(image.shape))
    assert particle_contrast(noisy, SPACING) == pytest.approx(within_3_pixels, abs=0.03)


def test_contrast_does_not_depend_on_gain_or_slow_brightness():
    image = dark_spots()
    uneven = 500 * image * np.linspace(0.7, 1.3, 300)
    assert particle_contrast(uneven, SPACING) == pytest.approx(particle_contrast(image, SPACING), rel=0.03)


def test_average_particle_is_centred_and_counts_what_it_averaged():
    particle, count = average_particle(dark_spots(), SPACING)
    assert np.unravel_index(particle.argmin(), particle.shape) == (30, 30)
    assert count == pytest.approx(240**2 / (np.sqrt(0.75) * SPACING**2), rel=0.15)


def test_an_image_too_small_for_particles_says_so():
    with pytest.raises(ValueError, match="no dark spots"):
        average_particle(np.ones((40, 40)), SPACING)


def test_leaning_columns_keep_height_and_centre_and_lean_along_a_row():
    scene = random_scene(real_frame_lattice(), (800.0, 800.0), np.random.default_rng(0))
    columns = leaning_columns(scene, 48.0, particles=3)
    assert 3 * columns.height == pytest.approx(scene.height)
    bottom, middle, top = (layer.positions for layer in columns.layers)
    np.testing.assert_allclose(middle, scene.layers[0].positions)
    t = np.radians(scene.layers[0].angle)
    np.testing.assert_allclose(top - bottom, np.tile([48 * np.sin(t), 48 * np.cos(t)], (len(top), 1)))
    assert columns.layers[2].z - columns.layers[0].z == pytest.approx(2 * columns.height)


def test_twin_is_the_same_for_the_same_seed_and_shows_one_layer():
    first, second = (real_frame_twin(3, size=256) for _ in "ab")
    np.testing.assert_array_equal(first[0], second[0])
    assert len(first[1].layers[1]) == 0
    assert not np.array_equal(first[0], real_frame_twin(4, size=256)[0])


def test_twin_has_the_real_frames_statistics():
    try:
        real = read_movie(fetch("np_lattice_2p593nm.tif")).frame(0).astype(float) - 32768
    except OSError:
        pytest.skip("real frame not at hand: set MOIRELIB_DATA")
    spacing = REAL_SPACING / REAL_PIXEL_SIZE
    expected = frame_statistics(real, spacing, np.s_[400:912, 100:612])
    twin, _ = real_frame_twin()
    found = frame_statistics(twin, spacing, np.s_[350:862, 60:572])
    for name, value in expected.items():
        tolerance = {"abs": 0.03} if name.startswith("autocorrelation") else {"rel": 0.15}
        assert found[name] == pytest.approx(value, **tolerance), name
    _, wanted = background_spectrum(real, REAL_PIXEL_SIZE)
    twins = [background_spectrum(real_frame_twin(s)[0], REAL_PIXEL_SIZE)[1] for s in range(60, 64)]
    ratio = np.exp(np.mean(np.log(twins), axis=0)) / wanted
    assert np.all((ratio[1:] > 1 / 1.6) & (ratio[1:] < 1.6))  # the lowest frequency has twelve samples
