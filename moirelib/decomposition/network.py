"""The network: a U-Net with one output channel per layer, in which peaks are particles (chapter 5, "U-Net")."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from monai.inferers import sliding_window_inference
from monai.networks.nets import BasicUNet
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree
from skimage.feature import peak_local_max

WORKING_DIAMETER = 12.0  # pixels, particle diameter that the network is trained for; every input is resampled to it
CENTER_WIDTH = 1.5  # working pixels, standard deviation of the peaks that mark particle centres

# Peaks that are particles. Set by hand on simulated scenes of development seeds; lengths in diameters.
LOWEST_PEAK = 0.08  # height, where a particle that the network is sure of reaches 1
PEAK_SMOOTHING = 1 / 20  # standard deviation: less than half of the network's own peak width
SEPARATION = 0.3  # of two peaks of one channel
CENTER_REACH, FLOOR = 0.35, 0.02  # of pixels that count for a peak's centre: distance at most, height at least

# What the network sees, by hand: the shipped weights were trained with these numbers.
BACKGROUND, CONTRAST = 1.4, 2  # working diameters, standard deviations of the local mean and of the local contrast
LEAST_CONTRAST = 0.25  # of the whole image's variance, added to the local one: contrast grows at most twofold
GREATEST = 6  # local standard deviations; brighter and darker pixels are cut off
OVERLAP = 0.25  # of neighbouring tiles, share of their edge; by hand


def build_unet(layers: int = 2) -> torch.nn.Module:
    """Build the U-Net (MONAI's ``BasicUNet``; Ronneberger et al., MICCAI (2015)) with random weights.

    It maps normalised images (batch, 1, y, x) to logits (batch, 2 · layers, y, x): the masks of all nanoparticle
    layers, where their particles are, then their centres. y and x are multiples of 16.
    """
    kind: dict = {"act": ("LeakyReLU", {"negative_slope": 0.1, "inplace": True}), "norm": "batch", "upsample": "deconv"}
    channels: dict = {"in_channels": 1, "out_channels": 2 * layers, "features": (24, 32, 64, 128, 256, 24)}
    return BasicUNet(spatial_dims=2, **channels, **kind)


def save_weights(model: torch.nn.Module, path: str | PathLike[str]) -> None:
    """Write weights as ``.safetensors``."""
    from safetensors.torch import save_file

    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, str(path))


def load_weights(path: str | PathLike[str] | None = None, device: str = "auto") -> torch.nn.Module:
    """Read a trained network, ready to predict; its number of layers is that of the weights.

    ``path`` names a ``.safetensors`` file, by default the shipped weights; ``device`` is ``"auto"``, ``"cpu"``,
    ``"cuda"`` or ``"mps"``.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if path is None:
        from ..data import weights_path

        path = weights_path()
    if not Path(path).is_file():
        raise FileNotFoundError(f"no such weights: {path}; train some with moirelib train, or leave weights out")
    try:
        weights = load_file(str(path))
        model = build_unet(len(weights["final_conv.bias"]) // 2)
        model.load_state_dict(weights)
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise ValueError(f"{path} does not hold weights of this network; train some with moirelib train") from error
    return model.to(choose_device(device)).eval()


def choose_device(device: str = "auto") -> torch.device:
    """CUDA, else Apple's MPS, else the CPU, unless a device is named."""
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not here.get(device, True):
        raise ValueError(f"device {device!r} is not available on this machine; leave device out or pass 'cpu'")
    if device != "auto":
        return torch.device(device)
    return torch.device(next((name for name, present in here.items() if present), "cpu"))


def normalize(image: np.ndarray) -> np.ndarray:
    """Remove background, gain and offset from an image (y, x) at working sampling, in any units.

    Local mean 0 and local standard deviation near 1, over windows of about three spacings; regions without contrast are
    not blown up beyond twice what the whole image's contrast gives. ``gain * image + offset`` with a positive gain
    gives the same.
    """
    image = np.asarray(image, dtype=np.float32)
    image = image - image.mean()
    flat = image - gaussian_filter(image, BACKGROUND * WORKING_DIAMETER, mode="reflect", truncate=3)
    variance = gaussian_filter(flat * flat, CONTRAST * WORKING_DIAMETER, mode="reflect", truncate=3)
    floor = LEAST_CONTRAST * np.mean(flat * flat) + np.finfo(np.float32).tiny
    return np.clip(flat / np.sqrt(variance + floor), -GREATEST, GREATEST)


def resample(image: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Resample an image or stack (..., y, x) to another shape (y', x') over the same field of view.

    Averages when the pixels get larger. A point at pixel coordinate c of the input lies at ``(c + 0.5) * y' / y - 0.5``
    of the output.
    """
    tensor = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))
    stack = tensor.reshape(1, -1, *tensor.shape[-2:])
    out = torch.nn.functional.interpolate(stack, tuple(shape), mode="bilinear", antialias=True, align_corners=False)
    return out.reshape(*tensor.shape[:-2], *shape).numpy()


@torch.inference_mode()
def predict(model: torch.nn.Module, image: np.ndarray, tile: int = 512) -> tuple[np.ndarray, np.ndarray]:
    """Where the particles of each channel are in a raw image (y, x) at working sampling, and where their centres are.

    Both are (layers, y, x), float32: the probability that a pixel is covered by a particle of a channel, and a peak of
    height 1 and standard deviation `CENTER_WIDTH` at every centre, as far as it is certain. Channels are no layers yet:
    which is which may change from place to place, see `moirelib.decomposition.assign_layers`. Images larger than
    ``tile`` pixels are predicted in overlapping tiles (MONAI).
    """
    height, width = image.shape
    pad = [(0, -height % 16), (0, -width % 16)]
    padded = np.pad(normalize(image), pad, mode="reflect" if min(image.shape) > 16 else "edge")
    batch = torch.from_numpy(padded)[None, None].to(next(model.parameters()).device)
    if max(padded.shape) <= tile:
        logits = model(batch)
    else:
        roi = tuple(min(tile, n) for n in padded.shape)
        logits = sliding_window_inference(batch, roi, 2, model, overlap=OVERLAP, mode="gaussian")
    masks, centers = torch.sigmoid(logits)[0, :, :height, :width].float().cpu().numpy().reshape(2, -1, height, width)
    return masks, centers


def locate(centers: np.ndarray, diameter: float, threshold: float = LOWEST_PEAK) -> pd.DataFrame:
    """Find particles in the network's output: ``channel`` (0-based), ``y, x`` (px) and ``score`` (height, 0 to 1).

    ``shown`` is False: no fit has shown yet that two of them lie upon each other (`settle_overlaps`); nor any
    ``diameter``, which is NaN.
    Takes the peaks (channels, y, x) of `predict`, the expected diameter (px) and the lowest height of a peak. That is
    low by default: false peaks are removed later by the fit to the frame (`moirelib.decomposition.complete`), missed
    particles are harder to add.
    """
    tables = []
    for channel, peaks in enumerate(centers):
        smooth = gaussian_filter(peaks, PEAK_SMOOTHING * diameter, mode="nearest")
        apart = max(int(SEPARATION * diameter), 1)
        yx = peak_local_max(smooth, min_distance=apart, threshold_abs=threshold, exclude_border=False)
        score = peaks[tuple(yx.T)]
        _, yx = measure_shares(peaks, yx, CENTER_REACH * diameter, FLOOR)
        tables.append(pd.DataFrame({"channel": channel, "y": yx[:, 0], "x": yx[:, 1], "score": score}))
    return pd.concat(tables, ignore_index=True).assign(shown=False, diameter=np.nan)


def measure_shares(image, yx, reach, floor) -> tuple[np.ndarray, np.ndarray]:
    """Mass (n,) and centre (n, 2) of each particle's share of an image: pixels over a floor, near, nearest to it."""
    covered = np.argwhere(image > floor)
    distance, owner = cKDTree(yx).query(covered, distance_upper_bound=reach)
    near = np.isfinite(distance)
    covered, owner = covered[near], owner[near]
    weight = image[tuple(covered.T)]
    mass = np.bincount(owner, weight, len(yx))
    return mass, np.stack([np.bincount(owner, weight * c, len(yx)) / mass for c in covered.T], axis=1)
