"""Train the U-Net on a library, with a loss that does not ask for channel names the pixels do not hold.

Explained in chapter 5, "U-Net".
"""

from __future__ import annotations

import json
import logging
import platform
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

import lightning
import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, Sampler

from .library import open_library
from .unet import WORKING_DIAMETER, build_unet, choose_device, normalize, save_weights

__all__ = ["TrainingConfig", "permutation_loss", "train"]


@dataclass(frozen=True)
class TrainingConfig:
    """How long and how fast to train."""

    steps: int = 2800
    batch: int = 8
    crop: int = 128  # pixels, at working sampling
    learning_rate: float = 2e-3  # peak of a one-cycle schedule
    window: int = 64  # pixels; channel names may differ from one such window to the next
    zoom: float = 1.3  # particles are shown at working diameter times 1/zoom to zoom
    validation: float = 0.05  # fraction of scenes, the library's last, never trained on
    checkpoint_every: int = 200  # steps

    def __post_init__(self):
        if self.steps < 1 or self.batch < 1:
            raise ValueError(f"training needs at least 1 step and 1 image a batch, got {self.steps} and {self.batch}")

    @classmethod
    def fast(cls) -> TrainingConfig:
        """A toy, for the book's fast mode: shows that the loss falls, decomposes nothing well."""
        return cls(steps=30, batch=4, crop=96, window=48, validation=0.2, checkpoint_every=30)

    @classmethod
    def full(cls) -> TrainingConfig:
        """What trained the shipped weights."""
        return cls()


def permutation_loss(logits: torch.Tensor, masks: torch.Tensor, window: int = 64) -> torch.Tensor:
    """Binary cross-entropy plus Dice under the better of the two channel assignments.

    The assignment is chosen twice, per image and per window, and both losses are averaged: the network is asked to
    tell the layers apart everywhere, but to name them consistently only as far as it can see.

    Parameters
    ----------
    logits : Tensor, shape (batch, 2, y, x)
        Network output.
    masks : Tensor, shape (batch, 2, y, x)
        Truth, 0 to 1.
    window : int
        Edge of a window, in pixels.

    Returns
    -------
    Tensor, scalar
        0 for a perfect prediction, whatever the channels' order.

    Notes
    -----
    min over permutations of (BCE + 1 - Dice). Explained in chapter 5, "U-Net".
    """
    per_image = _assignment_loss(logits, masks, max(logits.shape[-2:]))
    return 0.5 * (per_image + _assignment_loss(logits, masks, window))


def _assignment_loss(logits, masks, window) -> torch.Tensor:
    def block_mean(x):
        return functional.avg_pool2d(x, window, ceil_mode=True)

    losses = []
    probability = torch.sigmoid(logits)
    for target in (masks, masks.flip(1)):
        entropy = block_mean(functional.binary_cross_entropy_with_logits(logits, target, reduction="none")).mean(1)
        overlap, size = block_mean(probability * target), block_mean(probability + target)
        dice = (2 * overlap + 0.01) / (size + 0.01)
        losses.append(entropy + 1 - dice.mean(1))
    # The lowest cross-entropy of a soft mask is its own entropy; taking it off makes zero mean perfect.
    floor = block_mean(functional.binary_cross_entropy(masks, masks, reduction="none")).mean(1)
    return (torch.minimum(*losses) - floor).mean()


class LibraryCrops(Dataset):
    """Random crops of a library at working sampling; crop ``i`` is the same in every run with the same seed."""

    def __init__(self, library, indices, config: TrainingConfig, seed: int, augment: bool = True):
        self.library, self.indices, self.config = library, np.asarray(indices), config
        self.seed, self.augment = seed, augment
        # Every image's diameter in pixels sets its zoom; truth is used for that in training only.
        folder = Path(library.store.root).parent / "truth"
        truth = [json.loads((folder / f"{i}.json").read_text(encoding="utf-8")) for i in self.indices]
        self.diameters = np.array([t["diameter_nm"] / t["pixel_size_nm"] for t in truth])

    def __len__(self) -> int:
        return self.config.steps * self.config.batch if self.augment else len(self.indices)

    def __getitem__(self, i: int):
        rng = np.random.default_rng((self.seed, i))
        k = int(rng.integers(len(self.indices))) if self.augment else i % len(self.indices)
        zoom = np.exp(rng.uniform(-1, 1) * np.log(self.config.zoom)) if self.augment else 1.0
        source = self._crop_source(k, WORKING_DIAMETER * zoom / self.diameters[k], rng)
        tensor = torch.from_numpy(np.ascontiguousarray(source))[None]
        crop = (self.config.crop, self.config.crop)
        out = functional.interpolate(tensor, crop, mode="bilinear", antialias=True, align_corners=False)[0].numpy()
        if self.augment:
            out = np.rot90(out, int(rng.integers(4)), axes=(1, 2))
            out = out[:, ::-1] if rng.random() < 0.5 else out
        sign = -1.0 if self.augment and rng.random() < 0.1 else 1.0
        image = normalize(sign * out[0])[None]
        return torch.from_numpy(image), torch.from_numpy(np.ascontiguousarray(out[1:] / 255).clip(0, 1))

    def _crop_source(self, k, zoom, rng) -> np.ndarray:
        """Frame and masks of a square of the source that becomes one crop, as (1 + layers, y, x) float32."""
        index = int(self.indices[k])
        frame, masks = self.library["frame"][index], self.library["mask"][index]
        size = min(round(self.config.crop / zoom), *frame.shape)
        y, x = (int(rng.integers(n - size + 1)) for n in frame.shape)
        window = (slice(y, y + size), slice(x, x + size))
        return np.concatenate([frame[window][None], masks[(slice(None), *window)]]).astype(np.float32)


class CountingSampler(Sampler):
    """Numbers crops on from the module's step, so that a resumed run draws the crops that were still to come."""

    def __init__(self, module: lightning.LightningModule, config: TrainingConfig):
        self.module, self.config = module, config

    def __len__(self) -> int:
        return self.config.checkpoint_every * self.config.batch

    def __iter__(self):
        start = self.module.global_step * self.config.batch
        return iter(range(start, start + len(self)))


class LayerUNet(lightning.LightningModule):
    """U-Net, loss and schedule for Lightning's loop."""

    def __init__(self, config: TrainingConfig):
        super().__init__()
        self.config, self.curve = config, []
        self.model = build_unet().to(memory_format=torch.channels_last)  # a quarter faster on CPUs

    def training_step(self, batch, _):
        """One optimiser step's loss."""
        image = batch[0].to(memory_format=torch.channels_last)
        loss = permutation_loss(self.model(image), batch[1], self.config.window)
        self.curve.append(float(loss.detach()))
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self):
        """AdamW under a one-cycle schedule."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.config.learning_rate, weight_decay=1e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.config.learning_rate, total_steps=self.config.steps, pct_start=0.1
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint):
        """Keep the training curve with the weights."""
        checkpoint["curve"], checkpoint["config"] = self.curve, asdict(self.config)

    def on_load_checkpoint(self, checkpoint):
        """Take the training curve up again."""
        if checkpoint["config"] != asdict(self.config):
            raise ValueError(
                "checkpoints beside --out are of another configuration; choose another --out or delete them"
            )
        self.curve = checkpoint["curve"]


def train(library, out, config: TrainingConfig | None = None, seed: int = 0, device: str = "auto", command: str = ""):
    """Train the U-Net and write weights and model card.

    Parameters
    ----------
    library : path-like
        Zarr store made by `moirelib.library.make_library`.
    out : path-like
        Weights to write (``.safetensors``); the model card goes beside them as ``.json``, checkpoints into a folder
        ``OUT.checkpoints`` from which an interrupted run goes on.
    config : TrainingConfig, optional
        ``TrainingConfig.full()`` by default.
    seed : int
        Seeds weights and crops.
    device : str
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
    command : str
        Command line to record on the card.

    Returns
    -------
    dict
        The model card: what trained the weights, hours, hardware, curve and validation scores.

    Notes
    -----
    Explained in chapter 5, "U-Net".
    """
    config, out = config or TrainingConfig.full(), Path(out)
    group = open_library(library)
    count = group["frame"].shape[0]
    split = count - max(1, round(config.validation * count))
    lightning.seed_everything(seed, verbose=False)
    module = LayerUNet(config)
    hours = _fit(module, LibraryCrops(group, range(split), config, seed), config, out, device)
    scores = validate(module.model, LibraryCrops(group, range(split, count), config, seed, augment=False))
    card = {
        "command": command or f"moirelib.training.train({str(library)!r}, ...)",
        "commit": _commit(),
        "seed": seed,
        "training": asdict(config),
        "library": {"images": count, "validation_images": count - split, **dict(group.attrs)},
        "parameters": sum(p.numel() for p in module.model.parameters()),
        "hours": round(hours, 3),
        "hardware": f"{choose_device(device).type}, {torch.get_num_threads()} threads, {platform.machine()}",
        "torch": torch.__version__,
        "validation": scores,
        "curve": np.round(_smooth(module.curve), 4).tolist(),
    }
    save_weights(module.model, out)
    out.with_suffix(".json").write_text(json.dumps(card, indent=1), encoding="utf-8")
    return card


def _commit() -> str | None:
    """The checkout's commit, with a plus sign where files differ from it; None outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=12", "--dirty=+"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _fit(module, crops, config, out, device) -> float:
    """Run Lightning's loop, from the last checkpoint when there is one; hours over all runs of this training."""
    folder = out.with_name(out.name + ".checkpoints")
    kind = choose_device(device).type
    # An "epoch" is the stretch between two checkpoints: Lightning resumes cleanly only from the end of one.
    saver = lightning.pytorch.callbacks.ModelCheckpoint(folder, "last", save_top_k=1, enable_version_counter=False)
    clock = lightning.pytorch.callbacks.Timer()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    trainer = lightning.Trainer(
        max_steps=config.steps,
        accelerator={"cuda": "gpu"}.get(kind, kind),
        devices="auto" if kind == "cuda" else 1,
        precision="16-mixed" if kind == "cuda" else "32-true",
        gradient_clip_val=1.0,
        callbacks=[saver, clock],
        logger=False,
        enable_model_summary=False,
    )
    sampler = CountingSampler(module, config)
    loader = DataLoader(crops, config.batch, sampler=sampler, num_workers=8 if kind == "cuda" else 0)
    last = folder / "last.ckpt"
    trainer.fit(module, loader, ckpt_path=last if last.exists() else None)
    return clock.time_elapsed("train") / 3600


@torch.inference_mode()
def validate(model: torch.nn.Module, crops: Dataset) -> dict:
    """Loss, mask IoU and binary pixel accuracy on crops never trained on, under the better assignment per crop."""
    model = model.cpu().eval()
    rows = []
    for i in range(len(crops)):
        image, mask = crops[i]
        logits = model(image[None])
        p, t = logits[0] > 0, mask > 0.5
        scores = []
        for target in (t, t.flip(0)):
            union = (p | target).sum().item()
            scores.append(((p & target).sum().item() / max(union, 1), (p == target).float().mean().item()))
        rows.append((permutation_loss(logits, mask[None], crops.config.window).item(), *max(scores)))
    loss, iou, accuracy = np.mean(rows, axis=0)
    names = ("loss", "mask_iou", "pixel_accuracy")
    return {"crops": len(rows)} | {
        name: round(float(v), 4) for name, v in zip(names, (loss, iou, accuracy), strict=True)
    }


def _smooth(curve, points: int = 200) -> np.ndarray:
    """Mean loss of successive stretches of the curve, at most ``points`` of them."""
    return np.array([np.mean(part) for part in np.array_split(curve, min(points, len(curve)))])
