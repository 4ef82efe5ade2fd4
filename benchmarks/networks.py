"""Networks that moirelib is compared with, and their training on the library of chapter 4.

    python benchmarks/networks.py --train "published U-Net" --library FOLDER --steps 8000 --hours 6

trains one of them from its last checkpoint, and writes weights and a card into `_build/bench-layers`.
All see the same crops as `moirelib train` with the same settings and library; the book's were trained for other numbers
of steps, which chapter 6 lists. To be scored, each is given the true particle diameter
for resampling. Its channels are the layers, and its particles are the maxima of its masks, without lattice logic.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from functools import lru_cache
from pathlib import Path

import lightning
import numpy as np
import torch
from methods import centers_of_mass, particle_table
from monai.networks.nets.basic_unet import Down, TwoConv, UpCat
from safetensors.torch import load_file
from scipy.ndimage import gaussian_filter
from skimage.feature import peak_local_max
from torch import nn
from torch.nn import functional

from moirelib.decomposition import (
    WORKING_DIAMETER,
    TrainingConfig,
    build_unet,
    choose_device,
    normalize,
    permutation_loss,
    resample,
    save_weights,
)
from moirelib.decomposition.training import LibraryCrops, fit
from moirelib.simulation import LibraryConfig, make_library, open_library

__all__ = ["NETWORKS", "Decomposer", "Network", "decompose_with", "train", "weights_file"]

BUILD = Path(__file__).parents[1] / "_build" / "bench-layers"


class ClassicUNet(nn.Module):
    """U-Net of Ronneberger et al., MICCAI (2015), padded, with dropout at the two deepest levels.

    64 to 1024 filters, biases, no batch norm: 31,030,658 parameters for one input and two output channels, as in
    published work on liquid-phase TEM of Moiré lattices.
    """

    def __init__(self, filters=(64, 128, 256, 512, 1024), outputs: int = 2, dropout: float = 0.5):
        super().__init__()
        inputs = (1, *filters[:-1])
        self.down = nn.ModuleList(self._two_convolutions(i, o) for i, o in zip(inputs, filters, strict=True))
        self.dropout = nn.Dropout(dropout)
        pairs = list(zip(filters[::-1], filters[-2::-1], strict=False))
        self.transposed = nn.ModuleList(nn.ConvTranspose2d(i, o, 2, stride=2) for i, o in pairs)
        self.up = nn.ModuleList(self._two_convolutions(i, o) for i, o in pairs)
        self.out = nn.Conv2d(filters[0], outputs, 1)

    @staticmethod
    def _two_convolutions(inputs, outputs):
        convolutions = nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1)
        return nn.Sequential(convolutions[0], nn.ReLU(inplace=True), convolutions[1], nn.ReLU(inplace=True))

    def forward(self, x):
        """(batch, 1, y, x) to logits (batch, 2, y, x); y and x are multiples of 16."""
        skips = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else functional.max_pool2d(x, 2))
            x = self.dropout(x) if level >= len(self.down) - 2 else x
            skips.append(x)
        for transposed, block, skip in zip(self.transposed, self.up, skips[-2::-1], strict=True):
            x = block(torch.cat([skip, transposed(x)], dim=1))
        return self.out(x)


class TwoDecoders(nn.Module):
    """One encoder and a decoder for each layer, all of MONAI's U-Net blocks."""

    def __init__(self, features=(16, 32, 64, 96, 160), layers: int = 2):
        super().__init__()
        norm = {"act": "ReLU", "norm": "batch", "bias": True, "dropout": 0.0}
        self.first = TwoConv(2, 1, features[0], **norm)
        steps = list(zip(features, features[1:], strict=False))
        self.down = nn.ModuleList(Down(2, i, o, **norm) for i, o in steps)
        self.decoders = nn.ModuleList(
            nn.ModuleList(UpCat(2, i, o, o, upsample="deconv", halves=False, **norm) for o, i in steps[::-1])
            for _ in range(layers)
        )
        self.heads = nn.ModuleList(nn.Conv2d(features[0], 1, 1) for _ in range(layers))

    def forward(self, x):
        """(batch, 1, y, x) to logits (batch, layers, y, x); y and x are multiples of 16."""
        skips = [self.first(x)]
        for block in self.down:
            skips.append(block(skips[-1]))
        out = []
        for decoder, head in zip(self.decoders, self.heads, strict=True):
            x = skips[-1]
            for block, skip in zip(decoder, skips[-2::-1], strict=True):
                x = block(x, skip)
            out.append(head(x))
        return torch.cat(out, dim=1)


def dice(probability, masks) -> torch.Tensor:
    """Dice coefficient of every image, (batch,)."""
    overlap, size = ((probability * masks).sum((-2, -1)), (probability + masks).sum((-2, -1)))
    return (2 * overlap + 1.0) / (size + 1.0)


def fixed_entropy(logits, masks) -> torch.Tensor:
    """Binary cross-entropy, channel 1 for layer 1: the loss of the published U-Net."""
    return functional.binary_cross_entropy_with_logits(logits, masks)


def fixed_channels(logits, masks) -> torch.Tensor:
    """Binary cross-entropy and 1 - Dice, channel 1 for layer 1."""
    return fixed_entropy(logits, masks) + 1 - dice(torch.sigmoid(logits), masks).mean()


def soft_minimum(logits, masks) -> torch.Tensor:
    """Soft minimum over both channel orders of the Dice loss, per image.

    1 / (1 / (L01 + L10) + 1 / (L00 + L11)), where Lij is 1 - Dice of channel i and layer j: Houston et al., Nano
    Letters 25, 9277 (2025), arXiv:2502.09791 (Gomb-Net), from the formula.
    """
    loss = 1 - torch.stack([dice(torch.sigmoid(logits), order) for order in (masks, masks.flip(1))])
    inverse = 1 / (loss.sum(dim=-1) + 1e-6)
    return (1 / inverse.sum(dim=0)).mean()


def adam(module, steps):
    """Adam at 1e-4 throughout."""
    return torch.optim.Adam(module.parameters(), lr=1e-4)


def one_cycle(module, steps):
    """AdamW with a one-cycle schedule and our peak rate."""
    rate = TrainingConfig.full().learning_rate
    optimizer = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@dataclass(frozen=True)
class Network:
    """A network with its loss and its optimiser; the first two output channels are the layers' masks."""

    build: Callable[[], nn.Module]
    loss: Callable
    optimizer: Callable

    @property
    def parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(p.numel() for p in self.build().parameters())


NETWORKS = {
    "published U-Net": Network(ClassicUNet, fixed_entropy, adam),
    "two decoders, soft minimum": Network(TwoDecoders, soft_minimum, one_cycle),
    "fixed channels": Network(build_unet, fixed_channels, one_cycle),
    "soft minimum": Network(build_unet, soft_minimum, one_cycle),
    "hard minimum": Network(build_unet, permutation_loss, one_cycle),
}


class Training(lightning.LightningModule):
    """A network in Lightning's loop."""

    def __init__(self, network: Network, steps: int):
        super().__init__()
        self.network, self.steps, self.curve = network, steps, []
        self.model = network.build().to(memory_format=torch.channels_last)

    def training_step(self, batch, _):
        """Loss of the masks; other content of the crops is not used."""
        image, truth = batch
        logits = self.model(image.to(memory_format=torch.channels_last))[:, :2]
        loss = self.network.loss(logits.float(), truth[:, :2])
        self.curve.append(float(loss.detach()))
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self):
        """The optimiser (and schedule) of the network."""
        return self.network.optimizer(self, self.steps)

    def on_save_checkpoint(self, checkpoint):
        """Keep the training curve with the weights."""
        checkpoint["curve"] = self.curve

    def on_load_checkpoint(self, checkpoint):
        """Continue the training curve."""
        self.curve = checkpoint["curve"]


def weights_file(name: str, folder: Path = BUILD) -> Path:
    """File of the weights of a network; the card lies beside it."""
    return folder / (re.sub(r"\W+", "-", name.lower()) + ".safetensors")


def train(
    name: str, library, steps: int, hours: float, seed: int = 0, folder: Path = BUILD, workers: int | None = None
) -> dict:
    """Train one of `NETWORKS`, from its last checkpoint on, until the steps or the hours (of all runs) are over.

    Parameters
    ----------
    name : str
        Key of `NETWORKS`.
    library : path-like
        Made by `moirelib library`; where there is none, the one of ``LibraryConfig.training()`` is made first.
    steps : int
        Optimiser steps.
    hours : float
        Longest time.
    seed : int
        Seeds weights and crops.
    folder : Path
        For weights, card and checkpoints.
    workers : int, optional
        Processes that prepare crops.

    Returns
    -------
    dict
        The card.
    """
    library = Path(library)
    if not (library / "images.zarr").exists():
        make_library(library, LibraryConfig.training(), seed=seed)
    group, config = open_library(library), replace(TrainingConfig.full(), steps=steps)
    split = round((1 - config.validation) * group["frame"].shape[0])  # the library's last are never trained on
    lightning.seed_everything(seed, verbose=False)
    module, out = Training(NETWORKS[name], steps), weights_file(name, folder)
    crops = LibraryCrops(group, range(split), config, seed)
    spent = fit(module, crops, config, out, workers=workers, longest=timedelta(hours=hours))
    card = {
        "method": name,
        "steps": len(module.curve),
        "images": len(module.curve) * config.batch,
        "planned_steps": steps,
        "hours": round(spent, 3),
        "seed": seed,
        "parameters": NETWORKS[name].parameters,
        "training": asdict(config),
        "library": {"images": split, **dict(group.attrs)},
        "hardware": f"{choose_device().type}, {torch.get_num_threads()} threads, {platform.machine()}",
        "curve": [round(float(np.mean(part)), 4) for part in np.array_split(module.curve, 100) if len(part)],
    }
    save_weights(module.model.cpu(), out)
    out.with_suffix(".json").write_text(json.dumps(card, indent=1), encoding="utf-8")
    return card


@lru_cache(maxsize=4)
def load(name: str, folder: Path = BUILD) -> nn.Module:
    """A trained network, ready to predict."""
    model = NETWORKS[name].build()
    model.load_state_dict(load_file(str(weights_file(name, folder))))
    return model.eval()


@dataclass(frozen=True)
class Decomposer:
    """A trained network as a method of the benchmark: its channels are the layers."""

    name: str  # key of NETWORKS

    def __call__(self, frame, pixel_size, diameter, truth=None):
        """Masks (2, y, x) and table of particles; resampled by the true diameter; the truth is not used."""
        return decompose_with(load(self.name), frame, pixel_size, diameter)


def decompose_with(model, frame, pixel_size, diameter):
    """Masks and particles of a network alone, as a method of the benchmark gives them."""
    zoom = WORKING_DIAMETER * pixel_size / diameter
    probability = predict(model, resample(frame, [round(n * zoom) for n in frame.shape]))
    zooms = np.array(probability.shape[1:]) / frame.shape
    points = [mask_maxima(p, WORKING_DIAMETER) for p in probability]
    native = (np.concatenate(points) + 0.5) / zooms - 0.5
    layers = np.repeat([1, 2], [len(p) for p in points])
    return resample(probability, frame.shape), particle_table(native, layers, pixel_size)


@torch.inference_mode()
def predict(model, image) -> np.ndarray:
    """Probabilities (2, y, x) of an image at working sampling."""
    (height, width), pad = image.shape, [(0, -n % 16) for n in image.shape]
    padded = np.pad(normalize(image), pad, mode="reflect")
    logits = model(torch.from_numpy(padded)[None, None])[0, :2, :height, :width]
    return torch.sigmoid(logits).numpy()


def mask_maxima(probability, diameter, threshold: float = 0.4) -> np.ndarray:
    """Particles (y, x) in a mask's probability: maxima of a band-pass one particle wide, then centres of mass."""
    core = gaussian_filter(probability, diameter / 5, mode="nearest")
    peaks = core - gaussian_filter(probability, diameter / 2, mode="nearest")
    yx = peak_local_max(peaks, min_distance=int(0.45 * diameter), threshold_abs=0.02, exclude_border=False)
    return centers_of_mass(probability, yx[core[tuple(yx.T)] >= threshold], 0.5 * diameter)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", choices=NETWORKS, required=True, help="which network")
    parser.add_argument("--library", default=BUILD / "library", help="training library; made where there is none")
    parser.add_argument("--steps", type=int, default=TrainingConfig.full().steps, help="as many as ours by default")
    parser.add_argument("--hours", type=float, default=6.0, help="longest time, all runs together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, help="processes that prepare crops")
    args = parser.parse_args()
    card = train(args.train, args.library, args.steps, args.hours, args.seed, workers=args.workers)
    print(json.dumps({k: card[k] for k in ("method", "steps", "images", "hours", "parameters")}))
