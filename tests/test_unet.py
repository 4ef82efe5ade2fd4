"""The network: normalisation, registration, weights."""

import numpy as np
import pytest
import torch

from moirelib.unet import build_unet, load_weights, normalize, predict, resample, save_weights


@pytest.fixture(scope="module")
def image():
    rng = np.random.default_rng(0)
    return (rng.standard_normal((96, 112)) * 20 + 300).astype(np.float32)


def test_network_has_one_output_channel_per_layer():
    model = build_unet(2).eval()
    with torch.inference_mode():
        assert model(torch.zeros(1, 1, 64, 96)).shape == (1, 2, 64, 96)
    assert 1e6 < sum(p.numel() for p in model.parameters()) < 3e6


@pytest.mark.parametrize(("gain", "offset"), [(0.01, 0.0), (7.0, 32768.0), (1.0, -400.0)])
def test_normalisation_does_not_see_gain_and_offset(image, gain, offset):
    np.testing.assert_allclose(normalize(gain * image + offset), normalize(image), atol=0.02)


def test_normalisation_removes_a_slow_background(image):
    slope = np.linspace(0, 400, 96)[:, None]
    inner = (slice(40, 56), slice(40, 72))
    assert np.corrcoef(normalize(image + slope)[inner].ravel(), normalize(image)[inner].ravel())[0, 1] > 0.95


@pytest.mark.parametrize("shape", [(50, 61), (200, 240), (96, 112)])
def test_resampling_keeps_positions_to_a_twentieth_of_a_pixel(shape):
    y, x = np.indices((96, 112))
    spot = np.exp(-((y - 40.3) ** 2 + (x - 61.8) ** 2) / 60)
    out = resample(spot, shape)
    centre = [np.sum(c * out) / out.sum() for c in np.indices(shape)]
    expected = [(40.3 + 0.5) * shape[0] / 96 - 0.5, (61.8 + 0.5) * shape[1] / 112 - 0.5]
    np.testing.assert_allclose(centre, expected, atol=0.05)


def test_prediction_has_the_shape_of_the_image_and_is_a_probability(image):
    probability = predict(load_weights(device="cpu"), image[:93, :101])
    assert probability.shape == (2, 93, 101)
    assert 0 <= probability.min() <= probability.max() <= 1


def test_tiled_prediction_agrees_with_the_whole(image):
    model = load_weights(device="cpu")
    big = np.tile(image, (2, 2))
    whole, tiled = predict(model, big, tile=512), predict(model, big, tile=160)
    assert np.mean(np.abs(whole - tiled)) < 0.02


def test_weights_survive_saving(tmp_path):
    model = build_unet()
    save_weights(model, tmp_path / "w.safetensors")
    again = load_weights(tmp_path / "w.safetensors", "cpu")
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_wrong_or_missing_weights_are_named(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"not weights")
    with pytest.raises(ValueError, match="does not hold weights"):
        load_weights(tmp_path / "w.safetensors")
    with pytest.raises(FileNotFoundError, match="no such weights"):
        load_weights(tmp_path / "absent.safetensors")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="'cuda' is not available"):
        load_weights(device="cuda")
