"""The network: normalisation, registration, weights."""

import numpy as np
import pytest
import torch

from moirelib.decomposition import build_unet, load_weights, normalize, predict, resample, save_weights


@pytest.fixture(scope="module")
def image():
    rng = np.random.default_rng(0)
    return (rng.standard_normal((96, 112)) * 20 + 300).astype(np.float32)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_network_has_masks_and_centres_of_every_layer(layers):
    model = build_unet(layers).eval()
    with torch.inference_mode():
        assert model(torch.zeros(1, 1, 64, 96)).shape == (1, 2 * layers, 64, 96)
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


class PixelByPixel(torch.nn.Module):
    """A "network" whose four logits are multiples of the pixel's own value: registration and order show exactly."""

    def __init__(self):
        super().__init__()
        self.factors = torch.nn.Parameter(torch.tensor([1.0, -1.0, 2.0, -3.0]))

    def forward(self, batch):
        """(batch, 1, y, x) to (batch, 4, y, x)."""
        assert all(n % 16 == 0 for n in batch.shape[-2:])
        return batch * self.factors[:, None, None]


@pytest.mark.parametrize("shape", [(96, 112), (93, 101), (10, 40)])
@pytest.mark.parametrize("tile", [512, 64])
def test_prediction_is_masks_then_centres_registered_to_the_image(image, shape, tile):
    part = image[: shape[0], : shape[1]]
    masks, centers = predict(PixelByPixel(), part, tile)
    assert masks.shape == centers.shape == (2, *shape)
    value = normalize(part).astype(float)
    expected = [1 / (1 + np.exp(-factor * value)) for factor in (1, -1, 2, -3)]
    np.testing.assert_allclose(np.concatenate([masks, centers]), expected, atol=1e-5)


def test_predictions_of_the_network_are_probabilities_and_tiles_agree_with_the_whole(image):
    model = load_weights(device="cpu")
    big = np.tile(image, (2, 2))
    whole, tiled = (np.stack(predict(model, big, tile)) for tile in (512, 160))
    assert 0 <= whole.min() < whole.max() <= 1
    assert np.mean(np.abs(whole - tiled)) < 0.02


def test_an_image_without_contrast_is_nothing_to_the_network():
    assert np.abs(normalize(np.full((64, 64), 300.0))).max() == 0


@pytest.mark.parametrize("layers", [2, 3])
def test_weights_survive_saving(tmp_path, layers):
    model = build_unet(layers)
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
