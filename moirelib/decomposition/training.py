"""Train the U-Net on a library, with a loss that ignores which channel is which layer (chapter 5, "U-Net")."""

import itertools
import json
import logging
import math
import platform
import subprocess
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from scipy.ndimage import gaussian_filter, map_coordinates
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, Sampler

from ..simulation.library import open_library
from .network import CENTER_WIDTH, WORKING_DIAMETER, build_unet, choose_device, load_weights, normalize, save_weights

CENTER_WEIGHT = 2.0  # of the centres' cross-entropy: they cover few pixels
CURVE = 200  # most points of the loss on a card, each the mean of a stretch
# By hand: share of the steps in which the rate rises; rate at the first and the last step, in parts of the peak
WARM_UP, FIRST_RATE, LAST_RATE = 0.1, 0.04, 1e-5
DECAY, STEEPEST, LOADERS = 1e-3, 1.0, 8  # by hand: of AdamW's weights; largest norm of a gradient; processes with CUDA


@dataclass(frozen=True)
class TrainingConfig:
    """How long and how fast to train."""

    steps: int = 8000
    batch: int = 16
    crop: int = 128  # pixels, at working sampling
    learning_rate: float = 2e-3  # peak of a one-cycle schedule
    window: int = 64  # pixels; channel names may differ from one such window to the next
    zoom: float = 1.3  # particles are shown at working diameter times 1/zoom to zoom
    stretch: float = 1.7  # and up to this factor longer along one direction than across it
    validation: float = 0.05  # fraction of scenes, the library's last, never trained on
    checkpoint_every: int = 200  # steps

    def __post_init__(self):
        if self.steps < 1 or self.batch < 1:
            raise ValueError(f"training needs at least 1 step and 1 image a batch, got {self.steps} and {self.batch}")

    @classmethod
    def fast(cls) -> "TrainingConfig":
        """A toy, for the book's fast mode: shows that the loss falls, decomposes nothing well."""
        return cls(steps=30, batch=4, crop=96, window=48, validation=0.2, checkpoint_every=30)

    @classmethod
    def full(cls) -> "TrainingConfig":
        """What trained the shipped weights."""
        return cls()


def permutation_loss(logits: torch.Tensor, truth: torch.Tensor, window: int = 64, layers: int = 2) -> torch.Tensor:
    """Binary cross-entropy plus Dice under the best assignment of channels to layers; 0 for a perfect prediction.

    The assignment is chosen twice, per image and per window, and both losses are averaged: the network must tell the
    layers apart everywhere, but name them consistently only as far as it sees. Each is the minimum over permutations of
    (cross-entropy above the truth's own entropy + 1 - Dice of the masks).

    Network output and truth, 0 to 1, are masks (batch, layers, y, x), perhaps with centres after them (batch, 2 ·
    layers, y, x); ``window`` is the edge of a window in pixels.
    """
    per_image = _assignment_loss(logits, truth, max(logits.shape[-2:]), layers)
    return 0.5 * (per_image + _assignment_loss(logits, truth, window, layers))


def _assignment_loss(logits, truth, window, layers) -> torch.Tensor:
    block_mean = partial(functional.avg_pool2d, kernel_size=window, ceil_mode=True)
    weight = torch.ones(logits.shape[1], 1, 1, device=logits.device)
    weight[layers:] = CENTER_WEIGHT
    probability = torch.sigmoid(logits[:, :layers])
    # The lowest cross-entropy of a soft mask is its own entropy; taking it off makes zero mean perfect. Written out, as
    # PyTorch refuses binary_cross_entropy in half precision, and logits may be.
    floor = block_mean(weight * -(torch.xlogy(truth, truth) + torch.xlogy(1 - truth, 1 - truth)))
    losses = []
    for order in itertools.permutations(range(layers)):
        channels = [k + start for start in range(0, logits.shape[1], layers) for k in order]
        target = truth[:, channels]
        entropy = block_mean(weight * functional.binary_cross_entropy_with_logits(logits, target, reduction="none"))
        overlap, size = block_mean(probability * target[:, :layers]), block_mean(probability + target[:, :layers])
        dice = (2 * overlap + 0.01) / (size + 0.01)
        losses.append((entropy - floor[:, channels]).sum(1) / layers + 1 - dice.mean(1))
    return torch.stack(losses).amin(dim=0).mean()


class LibraryCrops(Dataset):
    """Random crops of a library at working sampling; crop ``i`` is the same in every run with the same seed.

    Each is an image (1, y, x) and its truth (2 · layers, y, x): masks, then centres.
    """

    def __init__(self, library: Any, indices: Any, config: TrainingConfig, seed: int, augment: bool = True) -> None:
        self.library, self.indices, self.config = library, np.asarray(indices), config
        self.seed, self.augment, folder = seed, augment, Path(library.store.root).parent / "truth"
        truth = [json.loads((folder / f"{i}.json").read_text(encoding="utf-8")) for i in self.indices]
        # Every image's diameter in pixels sets its zoom; truth is used for that in training only.
        self.diameters = np.array([t["diameter_nm"] / t["pixel_size_nm"] for t in truth])
        self.particles = [np.array([t["particles"][c] for c in ("layer", "y", "x")], np.float32).T for t in truth]

    def __len__(self) -> int:
        return self.config.steps * self.config.batch if self.augment else len(self.indices)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng((self.seed, i))
        k = int(rng.integers(len(self.indices))) if self.augment else i % len(self.indices)
        image, truth = self._crop(k, self._view(k, rng), rng)
        image = disturb(image, rng) if self.augment else image
        return torch.from_numpy(normalize(image)[None]), torch.from_numpy(truth)

    def _view(self, k, rng) -> np.ndarray:
        """Matrix (2, 2) from offsets (y, x) in a crop to offsets in the source: turned, mirrored, zoomed, stretched."""
        scale = self.diameters[k] / WORKING_DIAMETER
        if not self.augment:
            return scale * np.eye(2)
        scale *= np.exp(rng.uniform(-1, 1) * np.log(self.config.zoom))
        # A tilted specimen or a drifting stage stretches a frame, mostly little.
        stretch = np.exp(0.5 * rng.random() ** 2 * np.log(self.config.stretch))
        along, turn = rotation(rng.uniform(0, np.pi)), rng.uniform(0, 2 * np.pi)
        mirror = np.diag([1, rng.choice([-1, 1])])
        view = scale * along @ np.diag([stretch, 1 / stretch]) @ along.T @ mirror
        # A turned square may not fit into the source; then it is turned by right angles only.
        for angle in (turn, np.round(turn / (np.pi / 2)) * np.pi / 2):
            turned = view @ rotation(angle)
            if (np.abs(turned).sum(axis=1) * self.config.crop < self.library["frame"].shape[1:]).all():
                break
        return turned

    def _crop(self, k, view, rng):
        """Image of a part of the source as one crop, and its truth: masks, then centres."""
        index, edge = int(self.indices[k]), self.config.crop
        shape, room = np.array(self.library["frame"].shape[1:]), 0.5 * np.abs(view).sum(axis=1) * edge
        middle = np.array([rng.uniform(min(r, n - r), max(r, n - r)) for r, n in zip(room, shape, strict=True)]) - 0.5
        low = np.clip(np.floor(middle - room - 4), 0, None).astype(int)
        high = np.minimum(np.ceil(middle + room + 5).astype(int), shape)
        window = (slice(None), *(slice(a, b) for a, b in zip(low, high, strict=True)))
        stored = (self.library["frame"][index][None], self.library["mask"][index])
        source = np.concatenate([images[window] for images in stored]).astype(np.float32)
        # Averages when pixels get larger, as `resample` does (its filter has this standard deviation).
        width = 0.41 * np.sqrt(max(abs(np.linalg.det(view)) - 1, 0))
        offset = np.indices((edge, edge)).reshape(2, -1) - (edge - 1) / 2
        at = (middle - low)[:, None] + view @ offset
        out = [map_coordinates(gaussian_filter(a, width, truncate=3), at, order=1, mode="reflect") for a in source]
        out = np.reshape(out, (-1, edge, edge))
        layer, yx = mirror_particles(self.particles[k][:, 0], self.particles[k][:, 1:], shape)
        yx = (yx - middle) @ np.linalg.inv(view).T + (edge - 1) / 2
        centers = [draw_peaks(yx[layer == n + 1], edge) for n in range(len(source) - 1)]
        return out[0], np.concatenate([np.clip(out[1:] / 255, 0, 1), centers], dtype=np.float32)


def mirror_particles(layer, yx, shape):
    """Particles and their images in the borders: a crop larger than its source shows the source mirrored."""
    for axis, n in enumerate(map(int, shape)):  # not of NumPy, or float32 would become float64
        images = [np.where(np.arange(2) == axis, 2 * border - yx, yx) for border in (-0.5, n - 0.5)]
        layer, yx = np.tile(layer, 3), np.concatenate([yx, *images])
    return layer, yx


def rotation(angle) -> np.ndarray:
    """Rotation matrix of an angle in radians."""
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def draw_peaks(yx, edge) -> np.ndarray:
    """Peaks of height 1 at the given pixels of a square image; where two meet, the higher counts."""
    reach = int(4 * CENTER_WIDTH)
    image, axis = np.zeros((edge + 4 * reach,) * 2, np.float32), np.arange(-reach, reach + 1)
    for center in yx[np.all((yx > -reach) & (yx < edge - 1 + reach), axis=1)]:
        pixel = np.rint(center).astype(int)
        row, column = np.exp(-0.5 * (((pixel - center)[:, None] + axis) / CENTER_WIDTH) ** 2)
        y, x = pixel + reach
        part = image[y : y + len(axis), x : x + len(axis)]
        np.maximum(part, np.outer(row, column), out=part)
    return image[2 * reach : -2 * reach, 2 * reach : -2 * reach]


def disturb(image, rng) -> np.ndarray:
    """The image with inverted contrast, slow gain, blur or more noise, each sometimes."""
    image = image if rng.random() >= 0.1 else image.mean() - image
    if rng.random() < 0.3:
        slow = gaussian_filter(rng.standard_normal(image.shape), WORKING_DIAMETER * rng.uniform(2, 6), mode="wrap")
        image = image * np.exp(rng.uniform(0, 0.3) * (slow - slow.mean()) / slow.std())
    if rng.random() < 0.2:
        image = gaussian_filter(image, rng.uniform(0.3, 1.2))
    if rng.random() < 0.2:
        noise = gaussian_filter(rng.standard_normal(image.shape), rng.uniform(0, 1))
        image = image + rng.uniform(0, 0.5) * image.std() * noise / noise.std()
    return image


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
    """U-Net with its loss and its schedule, for Lightning's loop."""

    def __init__(self, config: TrainingConfig, layers: int = 2, start: str | PathLike[str] | None = None):
        super().__init__()
        self.config, self.layers = config, layers
        self.curve: list[float] = []
        self.plans: list[dict] = []  # other lengths that earlier parts of this run were planned for
        # A quarter faster on CPUs; PyTorch's types do not know the argument.
        model = build_unet(layers) if start is None else grow_network(start, layers)
        self.model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def training_step(self, batch, _):
        """One optimiser step's loss."""
        image = batch[0].to(memory_format=torch.channels_last)
        logits = self.model(image).float()  # from half precision on CUDA
        loss = permutation_loss(logits, batch[1], self.config.window, self.layers)
        self.curve.append(float(loss.detach()))
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self):
        """AdamW under a one-cycle schedule."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.config.learning_rate, weight_decay=DECAY)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._one_cycle)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _one_cycle(self, step) -> float:
        """Learning rate over its peak: up during `WARM_UP`, then down to nearly none."""
        done = step / self.config.steps
        if done < WARM_UP:
            return FIRST_RATE + (1 - FIRST_RATE) * math.sin(0.5 * math.pi * done / WARM_UP) ** 2
        return max(math.cos(0.5 * math.pi * (done - WARM_UP) / (1 - WARM_UP)) ** 2, LAST_RATE)

    def on_save_checkpoint(self, checkpoint):
        """Keep the training curve with the weights."""
        config = asdict(self.config) | {"layers": self.layers}
        checkpoint |= {"curve": self.curve, "plans": self.plans, "config": config}

    def on_load_checkpoint(self, checkpoint):
        """Take the training curve up again; only the number of steps may have changed since."""
        before, now = checkpoint["config"], asdict(self.config) | {"layers": self.layers}
        if before | {"steps": self.config.steps} != now:
            message = "checkpoints beside --out are of another configuration; choose another --out or delete them"
            raise ValueError(message)
        self.curve, self.plans = checkpoint["curve"], checkpoint["plans"]
        if before["steps"] != self.config.steps:
            self.plans = [*self.plans, {"until_step": len(self.curve), "planned_steps": before["steps"]}]


def grow_network(weights: str | PathLike[str], layers: int) -> torch.nn.Module:
    """The network of some weights with channels for so many layers: new ones start at random, all else as it was."""
    model, trained = build_unet(layers), load_weights(weights, "cpu").state_dict()
    for name in ("final_conv.weight", "final_conv.bias"):
        old, new = trained.pop(name).unflatten(0, (2, -1)), model.state_dict()[name].unflatten(0, (2, -1))
        known = min(old.shape[1], layers)
        new[:, :known] = old[:, :known]
    model.load_state_dict(trained, strict=False)
    return model


def train(
    library: str | PathLike[str],
    out: str | PathLike[str],
    config: TrainingConfig | None = None,
    seed: int = 0,
    device: str = "auto",
    command: str = "",
    workers: int | None = None,
    start: str | PathLike[str] | None = None,
) -> dict:
    """Train the U-Net on a library and write weights and, beside them, a card, which it gives.

    ``library`` is a Zarr store of `moirelib.simulation.make_library`; its number of layers is the network's. Weights
    go into ``out`` (``.safetensors``), the card beside them as ``.json``, checkpoints into a folder ``OUT.checkpoints``
    from which an interrupted run resumes; it may do so with another number of steps: the learning rate then follows the
    new plan, and the card says so. ``config`` is ``TrainingConfig.full()`` by default, ``seed`` that of weights and
    crops, ``device`` as of `load_weights`, ``command`` what the card says. ``workers`` processes prepare crops beside
    the training, 8 with CUDA and none without by default; more than none asks a script on Windows or macOS to guard its
    start with ``if __name__ == "__main__"``. ``start`` names weights to go on from, perhaps of fewer layers.
    """
    config, out, commit, group = config or TrainingConfig.full(), Path(out), describe_commit(), open_library(library)
    count = group["frame"].shape[0]  # type: ignore[union-attr]  # an array
    split = count - max(1, round(config.validation * count))
    lightning.seed_everything(seed, verbose=False)
    module = LayerUNet(config, group["mask"].shape[1], start)  # type: ignore[union-attr]  # likewise
    hours = fit(module, LibraryCrops(group, range(split), config, seed), config, out, device, workers)
    scores = validate(module.model, LibraryCrops(group, range(split, count), config, seed, augment=False))
    stretches = np.array_split(module.curve, min(CURVE, len(module.curve)))
    card = {
        "command": command or f"moirelib.decomposition.train({str(library)!r}, ...)",
        "commit": commit,
        "seed": seed,
        "training": asdict(config) | ({"earlier_plans": module.plans} if module.plans else {}),
        "library": {"images": count, "validation_images": count - split, **dict(group.attrs)},
        "parameters": sum(p.numel() for p in module.model.parameters()),
        "hours": round(hours, 3),
        "hardware": f"{choose_device(device).type}, {torch.get_num_threads()} threads, {platform.machine()}",
        "torch": torch.__version__,
        "validation": scores,
        "curve": np.round([np.mean(stretch) for stretch in stretches], 4).tolist(),
    }
    save_weights(module.model, out)
    out.with_suffix(".json").write_text(json.dumps(card, indent=1), encoding="utf-8")
    return card


def describe_commit() -> str | None:
    """The checkout's commit, with a plus sign where files differ from it; None outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=12", "--dirty=+"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def fit(module, crops, config, out, device="auto", workers=None, longest: timedelta | None = None) -> float:
    """Run Lightning's loop, from the last checkpoint if any, until steps or time are over; hours over all runs."""
    folder, kind = out.with_name(out.name + ".checkpoints"), choose_device(device).type
    # An "epoch" is the stretch between two checkpoints: Lightning resumes cleanly only from the end of one.
    saver = lightning.pytorch.callbacks.ModelCheckpoint(folder, "last", save_top_k=1, enable_version_counter=False)
    clock = lightning.pytorch.callbacks.Timer(longest, interval="epoch")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    trainer = lightning.Trainer(
        max_steps=config.steps,
        accelerator={"cuda": "gpu"}.get(kind, kind),
        devices="auto" if kind == "cuda" else 1,
        precision="16-mixed" if kind == "cuda" else "32-true",
        gradient_clip_val=STEEPEST,
        callbacks=[saver, clock],
        logger=False,
        enable_model_summary=False,
    )
    workers = (LOADERS if kind == "cuda" else 0) if workers is None else workers
    sampler = CountingSampler(module, config)
    loader = DataLoader(crops, config.batch, sampler=sampler, num_workers=workers, persistent_workers=workers > 0)
    last = folder / "last.ckpt"
    trainer.fit(module, loader, ckpt_path=last if last.exists() else None)
    return clock.time_elapsed("train") / 3600


@torch.inference_mode()
def validate(model: torch.nn.Module, crops: LibraryCrops) -> dict:
    """Loss, mask IoU and binary pixel accuracy on crops never trained on, under the best assignment per crop."""
    model, layers = model.cpu().eval(), crops.library["mask"].shape[1]
    rows = []
    for image, truth in (crops[i] for i in range(len(crops))):
        logits = model(image[None])
        loss = permutation_loss(logits, truth[None], crops.config.window, layers).item()
        found, scores = logits[0, :layers] > 0, []
        for order in itertools.permutations(range(layers)):
            target = truth[list(order)] > 0.5
            iou = (found & target).sum().item() / max((found | target).sum().item(), 1)
            scores.append((iou, (found == target).float().mean().item()))
        rows.append((loss, *max(scores)))
    means = zip(("loss", "mask_iou", "pixel_accuracy"), np.mean(rows, axis=0), strict=True)
    return {"crops": len(rows)} | {name: round(float(value), 4) for name, value in means}
