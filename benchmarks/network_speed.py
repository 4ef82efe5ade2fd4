"""Frames per second of the shipped network alone, on 512 px frames at working sampling: on CUDA if there is one.

    python benchmarks/network_speed.py

One line for every batch size; the last line is the same as JSON.
"""

import json
import os
import platform
import time

import torch

from moirelib.decomposition import load_weights

PIXELS = 512


def main() -> None:
    """Measure and print."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cuda = device.type == "cuda"
    model = load_weights(device=device.type).to(memory_format=torch.channels_last)
    name = torch.cuda.get_device_name() if cuda else f"{platform.machine()}, {os.cpu_count()} cores"
    speeds = {batch: frames_per_second(model, batch, device) for batch in ((1, 16) if cuda else (1,))}
    for batch, speed in speeds.items():
        print(f"{name}, batch of {batch}: {speed:.3g} frames per second")
    print(json.dumps({"device": name, "frames_per_s": speeds}))


@torch.inference_mode()
def frames_per_second(model, batch: int, device: torch.device, repeats: int = 20) -> float:
    """Frames per second, after two runs that do not count."""
    frames = torch.randn(batch, 1, PIXELS, PIXELS, device=device).to(memory_format=torch.channels_last)
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    for repeat in range(2 + repeats):
        if repeat == 2:
            wait()
            start = time.perf_counter()
        model(frames)
    wait()
    return repeats * batch / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
