"""Training: what the loss asks for, and that a run resumes and writes its card."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from moirelib.library import LibraryConfig, make_library
from moirelib.training import LayerUNet, TrainingConfig, permutation_loss, train
from moirelib.unet import load_weights


@pytest.fixture
def masks():
    return (torch.rand(2, 2, 64, 64, generator=torch.Generator().manual_seed(0)) > 0.6).float()


def logits_of(masks):
    return 20 * (2 * masks - 1)


def test_perfect_prediction_costs_nothing_in_either_order(masks):
    assert permutation_loss(logits_of(masks), masks, 32) == pytest.approx(0.0, abs=1e-3)
    assert permutation_loss(logits_of(masks.flip(1)), masks, 32) == pytest.approx(0.0, abs=1e-3)


def test_names_may_change_between_windows_but_not_within_one(masks):
    between, within = masks.clone(), masks.clone()
    between[..., :32] = masks.flip(1)[..., :32]
    within[..., :16] = masks.flip(1)[..., :16]

    def cost(image, window):
        return float(permutation_loss(logits_of(image), masks, window))

    # Both images hold a swap; only the first keeps every window of 32 pixels in one naming.
    assert cost(between, 64) > 0.2
    assert cost(between, 32) == pytest.approx(cost(between, 64) / 2, rel=0.02)
    assert cost(within, 32) > 0.6 * cost(within, 64)


def test_everything_in_both_channels_costs_more_than_the_truth(masks):
    union = masks.amax(dim=1, keepdim=True).expand(-1, 2, -1, -1)
    assert permutation_loss(logits_of(union), masks, 32) > 0.2


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
        train(library, out, replace(TOY, steps=12), seed=1, device="cpu")


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
