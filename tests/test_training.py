"""Training: what the loss asks for, what the crops show, and that a run resumes and writes its card."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import center_of_mass, label

from moirelib.decomposition import (
    CENTER_WIDTH,
    WORKING_DIAMETER,
    TrainingConfig,
    load_weights,
    permutation_loss,
    predict,
    train,
)
from moirelib.decomposition.training import CENTER_WEIGHT, LayerUNet, LibraryCrops
from moirelib.simulation import LibraryConfig, make_library, open_library

# --- The loss ---


@pytest.fixture
def masks():
    return (torch.rand(2, 2, 64, 64, generator=torch.Generator().manual_seed(0)) > 0.6).float()


@pytest.fixture
def truth(masks):
    """Masks, and centres as peaks on a grid of places: one of them in layer 1, the next in layer 2."""
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    peaks = torch.exp(-0.5 * (((y % 16 - 8) ** 2 + (x % 16 - 8) ** 2) / CENTER_WIDTH**2))
    first = (y // 16 + x // 16) % 2 == 0
    return torch.cat([masks, torch.stack([peaks * first, peaks * ~first]).expand(2, -1, -1, -1)], dim=1)


def logits_of(truth):
    return torch.logit(truth, eps=1e-6)


def exchanged(truth):
    """The other names: masks and centres of layer 2 first."""
    return truth[:, [1, 0, 3, 2][: truth.shape[1]]]


def test_perfect_prediction_costs_nothing_in_either_order(truth, masks):
    for perfect in (truth, masks):
        assert permutation_loss(logits_of(perfect), perfect, 32) == pytest.approx(0.0, abs=1e-3)
        assert permutation_loss(logits_of(exchanged(perfect)), perfect, 32) == pytest.approx(0.0, abs=1e-3)


def test_masks_and_centres_go_by_one_name(truth):
    torn = truth[:, [0, 1, 3, 2]]  # masks in one order, centres in the other
    cost = float(permutation_loss(logits_of(torn), truth, 64))
    # Choosing the masks' order leaves the centres wrong: their weighted cross-entropy, nothing for the masks.
    wrong = torch.nn.functional.binary_cross_entropy_with_logits(logits_of(torn[:, 2:]), truth[:, 2:])
    own = torch.nn.functional.binary_cross_entropy(truth[:, 2:], truth[:, 2:])
    assert cost == pytest.approx(float(CENTER_WEIGHT * (wrong - own)), rel=1e-2)
    assert cost > 0.05


@pytest.mark.parametrize("mistake", ["missing", "false"])
def test_a_centre_that_is_missing_or_false_costs(truth, mistake):
    wrong, corner = truth.clone(), (..., slice(0, 16), slice(0, 16))
    peak = truth[:, 2][corner]
    wrong[:, 2 if mistake == "missing" else 3][corner] = 0 if mistake == "missing" else peak
    cost = permutation_loss(logits_of(wrong), truth, 64)
    # All else is perfect: the cross-entropy of one peak of 2πσ² pixels in two channels of 64 × 64.
    assert cost > CENTER_WEIGHT * 2 * np.pi * CENTER_WIDTH**2 / 64**2 / 2


def test_names_may_change_between_windows_but_not_within_one(truth):
    between, within = truth.clone(), truth.clone()
    between[..., :32] = exchanged(truth)[..., :32]
    within[..., :16] = exchanged(truth)[..., :16]

    def cost(image, window):
        return float(permutation_loss(logits_of(image), truth, window))

    # Both images hold a swap; only the first keeps every window of 32 pixels in one naming.
    assert cost(between, 64) > 0.2
    assert cost(between, 32) == pytest.approx(cost(between, 64) / 2, rel=0.02)
    assert cost(within, 32) > 0.6 * cost(within, 64)


def test_everything_in_both_channels_costs_more_than_the_truth(masks):
    union = masks.amax(dim=1, keepdim=True).expand(-1, 2, -1, -1)
    assert permutation_loss(logits_of(union), masks, 32) > 0.2


# --- The crops ---


CLEAR = replace(
    LibraryConfig.fast(),
    images=3,
    shape=(224, 224),
    diameter_px=(12.0, 15.0),
    lattice=replace(LibraryConfig().lattice, shapes=("sphere",), diameter_ratio=(0.6, 0.7), single_layer=0.0, edge=0.0),
    defocus=(0.0, 0.0),
    dose=(300.0, 300.0),
    zero_loss=1.0,
    wedge=(0.0, 0.0),
    blur=(0.02, 0.02),
    disk_blurred=0.0,
    clouded=0.0,
    beam=(0.0, 0.0),
    shadowed=0.0,
    hot_pixels=(0.0, 0.0),
    dead_pixels=(0.0, 0.0),
)


@pytest.fixture(scope="module")
def clear_library(tmp_path_factory):
    """Sharp, bright images whose particles are far enough apart within a layer to be told apart in its mask."""
    path = tmp_path_factory.mktemp("library") / "clear"
    make_library(path, CLEAR, seed=1, workers=1, progress=False)
    return open_library(path)


VIEWS = pytest.mark.parametrize("augment", [False, True], ids=["straight", "turned and zoomed"])


def crops_of(library, augment, count=12):
    """Images and truth (masks, centres) of some crops, as arrays."""
    crops = LibraryCrops(library, range(3), replace(TrainingConfig(), crop=96), 5, augment)
    return [(image[0].numpy(), truth.numpy()) for image, truth in (crops[i] for i in range(count if augment else 3))]


@VIEWS
def test_a_crops_masks_are_registered_to_its_image(clear_library, augment):
    shifts = []
    for image, truth in crops_of(clear_library, augment):
        assert image.shape == (96, 96)
        assert truth.shape == (4, 96, 96)
        union = truth[:2].max(axis=0)[8:-8, 8:-8]
        # image(r) ≈ c + a union(r - s) = c + a union(r) - a s·∇union(r); a is negative, or positive if inverted.
        design = np.stack([np.ones_like(union), union, *np.gradient(union)], axis=-1).reshape(-1, 4)
        c, a, *slopes = np.linalg.lstsq(design, image[8:-8, 8:-8].ravel(), rcond=None)[0]
        fitted = design @ [c, a, *slopes]
        assert np.corrcoef(fitted, image[8:-8, 8:-8].ravel())[0, 1] > 0.7
        shifts.append(-np.array(slopes) / a)
    assert np.abs(shifts).max() < 0.15
    assert np.abs(np.mean(shifts, axis=0)).max() < 0.05


def peak_near(centers, yx):
    """Place of the peak near a point: of a Gaussian, the logarithm's difference over two pixels gives it exactly."""
    y, x = np.rint(yx).astype(int)
    around = centers[y - 3 : y + 4, x - 3 : x + 4]
    y, x = np.array(np.unravel_index(around.argmax(), around.shape)) + (y - 3, x - 3)
    up, down, left, right = centers[y + 1, x], centers[y - 1, x], centers[y, x - 1], centers[y, x + 1]
    return np.array([y, x]) + 0.5 * CENTER_WIDTH**2 * np.log([up / down, right / left]), centers[y, x]


def whole_particles(mask):
    """Centroids of a mask's particles that neither the crop's border nor another particle touches."""
    pieces, count = label(mask > 0.05)
    area = np.bincount(pieces.ravel(), minlength=count + 1)
    inside = np.pad(np.ones(np.array(mask.shape) - 10, bool), 5)
    whole = np.setdiff1d(np.arange(1, count + 1), pieces[~inside])
    return center_of_mass(mask, pieces, whole[area[whole] < 1.6 * np.median(area[1:])])


@VIEWS
def test_centres_peak_at_the_centroids_of_the_masks(clear_library, augment):
    errors = []
    for _, truth in crops_of(clear_library, augment):
        for mask, centers in zip(truth[:2], truth[2:], strict=True):
            for yx in whole_particles(mask):
                place, height = peak_near(centers, yx)
                assert height > 0.85  # 1 at the peak; the nearest pixel is up to 0.7 pixels away
                errors.append(place - yx)
    errors = np.array(errors)
    assert len(errors) > 50
    assert np.abs(errors.mean(axis=0)).max() < 0.02
    assert np.sqrt(np.mean(errors**2)) < 0.1


def test_a_crop_larger_than_its_source_shows_mirrored_particles_with_their_centres(clear_library):
    crops = LibraryCrops(clear_library, range(3), replace(TrainingConfig(), crop=240), 5, augment=False)
    scale = crops.diameters / WORKING_DIAMETER
    assert (240 * scale > clear_library["frame"].shape[1]).any()
    covered = [float(centers[mask > 0.95].max()) for i in range(3) for mask, centers in _quarters(crops[i][1].numpy())]
    assert len(covered) > 20
    assert min(covered) > 0.85


def _quarters(truth):
    """The crop's four corners, each layer's mask and centres, where the mask holds something."""
    for rows in (slice(0, 40), slice(-40, None)):
        for columns in (slice(0, 40), slice(-40, None)):
            for mask, centers in zip(truth[:2, rows, columns], truth[2:, rows, columns], strict=True):
                if (mask > 0.95).sum() > 200:
                    yield mask, centers


@VIEWS
def test_nothing_but_particles_has_a_peak(clear_library, augment):
    for _, truth in crops_of(clear_library, augment):
        for mask, centers in zip(truth[:2], truth[2:], strict=True):
            assert centers.max() > 0.9
            assert mask[centers > 0.9].min() > 0.9


def test_particles_are_shown_at_working_diameter_give_or_take_the_zoom(clear_library):
    config = TrainingConfig()
    for augment, low, high in ((False, 0.9, 1.1), (True, 0.9 / config.zoom, 1.1 * config.zoom)):
        diameters = []
        for _, truth in crops_of(clear_library, augment):
            peaks = truth[2].sum() / (2 * np.pi * CENTER_WIDTH**2)
            diameters.append(np.sqrt(4 / np.pi * truth[0].sum() / peaks) / WORKING_DIAMETER)
        assert low < min(diameters) <= max(diameters) < high
        assert np.ptp(diameters) > (0.2 if augment else 0.0)


def test_a_crop_is_the_same_in_every_run_with_its_seed(clear_library):
    config = replace(TrainingConfig(), crop=64)

    def crop(i, seed=5, augment=True):
        return torch.cat(LibraryCrops(clear_library, range(3), config, seed, augment)[i])

    torch.testing.assert_close(crop(3), crop(3), rtol=0, atol=0)
    assert not torch.equal(crop(3), crop(4))
    assert not torch.equal(crop(3), crop(3, seed=6))


# --- Runs ---


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    path = tmp_path_factory.mktemp("library") / "library"
    config = replace(LibraryConfig.fast(), images=5, shape=(128, 128))
    make_library(path, config, seed=3, workers=1, progress=False)
    return path


TOY = replace(TrainingConfig.fast(), steps=8, batch=2, crop=64, window=32, checkpoint_every=4)


def test_training_writes_weights_and_card(library, tmp_path):
    out = tmp_path / "toy.safetensors"
    train(library, out, TOY, seed=1, device="cpu")
    card = json.loads(out.with_suffix(".json").read_text())
    assert card["seed"] == 1
    assert card["training"]["steps"] == 8
    assert card["library"]["config"]["images"] == 5
    assert set(card["validation"]) == {"loss", "mask_iou", "pixel_accuracy", "crops"}
    assert len(card["curve"]) == 8
    load_weights(out, "cpu")
    with pytest.raises(ValueError, match="another configuration"):
        train(library, out, replace(TOY, learning_rate=1e-3), seed=1, device="cpu")


def test_a_library_of_three_layers_trains_a_network_of_three(library, tmp_path):
    config = LibraryConfig.fast()
    config = replace(config, images=3, shape=(128, 128), lattice=replace(config.lattice, layers=3))
    make_library(tmp_path / "three", config, seed=3, workers=1, progress=False)
    out, toy = tmp_path / "toy.safetensors", replace(TOY, steps=2, checkpoint_every=2)
    card = train(tmp_path / "three", out, toy, seed=1, device="cpu")
    assert 0 <= card["validation"]["mask_iou"] <= 1
    masks, centers = predict(load_weights(out, "cpu"), np.random.default_rng(0).normal(300, 20, (64, 64)))
    assert masks.shape == centers.shape == (3, 64, 64)
    with pytest.raises(ValueError, match="another configuration"):
        train(library, out, toy, seed=1, device="cpu")


def test_a_run_may_go_on_for_longer_and_its_card_says_so(library, tmp_path):
    out = tmp_path / "toy.safetensors"
    first = train(library, out, TOY, seed=1, device="cpu")
    longer = train(library, out, replace(TOY, steps=12), seed=1, device="cpu")
    assert "earlier_plans" not in first["training"]
    assert longer["training"]["earlier_plans"] == [{"until_step": 8, "planned_steps": 8}]
    assert len(longer["curve"]) == 12
    np.testing.assert_allclose(longer["curve"][:8], first["curve"], atol=1e-3)


def test_learning_rate_rises_to_its_peak_and_falls_to_nearly_nothing():
    module = LayerUNet(replace(TOY, steps=1000))
    rate = np.array([module._one_cycle(step) for step in range(1000)])
    assert rate.argmax() == 100  # a tenth of the steps
    assert rate.max() == pytest.approx(1.0)
    assert (np.diff(rate[:100]) > 0).all()
    assert (np.diff(rate[100:]) < 0).all()
    assert rate[-1] < 1e-4


def test_a_killed_run_resumes_to_the_same_weights(library, tmp_path, monkeypatch):
    whole = train(library, tmp_path / "whole.safetensors", TOY, seed=1, device="cpu")
    step = LayerUNet.training_step

    def dying(self, batch, index):
        if self.global_step == 6:
            raise RuntimeError("killed")
        return step(self, batch, index)

    monkeypatch.setattr(LayerUNet, "training_step", dying)
    with pytest.raises(RuntimeError, match="killed"):
        train(library, tmp_path / "cut.safetensors", TOY, seed=1, device="cpu")
    steps = []
    monkeypatch.setattr(LayerUNet, "training_step", lambda *a: (steps.append(a[0].global_step), step(*a))[1])
    resumed = train(library, tmp_path / "cut.safetensors", TOY, seed=1, device="cpu")
    assert steps == [4, 5, 6, 7]  # from the checkpoint on, not from the start
    np.testing.assert_allclose(resumed["curve"], whole["curve"], atol=1e-3)


def test_loss_falls_on_one_image(library, tmp_path):
    config = replace(TOY, steps=30, learning_rate=5e-3, zoom=1.0)
    card = train(library, tmp_path / "toy.safetensors", config, seed=0, device="cpu")
    assert np.mean(card["curve"][-5:]) < np.mean(card["curve"][:5]) - 0.05
