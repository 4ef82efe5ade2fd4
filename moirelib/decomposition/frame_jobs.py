"""Find the particles of many frames, side by side: on this machine's cores, or on a Dask cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from .frame import Found, find
from .layer_count import SharedByFrames
from .network import WORKING_DIAMETER, load_weights, predict, resample

WAITING = 2  # frames that are read ahead, per worker
PATIENCE = 10.0  # s, for a Dask scheduler to answer


@dataclass(frozen=True)
class FrameJob:
    """All that is needed to find the particles of a frame but the frame itself."""

    weights: str | None  # file; None for the shipped ones
    device: str
    polarity: float  # 1 for dark particles, -1 for bright ones
    shape: tuple[int, int]  # (y, x) of the whole frame
    working: tuple[int, int]  # the same at working sampling
    layers: int | None = None  # where their number is given
    corner: tuple[int, int] = (0, 0)  # (y, x) of the image's first pixel in the whole frame
    shared: SharedByFrames | None = None

    def run(self, image: np.ndarray) -> Found:
        """Find the particles of a frame, or of the part of it that holds an image; places are those of the whole."""
        zoom = np.array(self.working) / self.shape
        inner = tuple(max(round(n * z), 4) for n, z in zip(image.shape, zoom, strict=True))
        sampled = resample(self.polarity * image, inner)
        centers = predict(load_model(self.weights, self.device), sampled)[1]
        found = find(sampled, centers, WORKING_DIAMETER, self.shared, self.layers)
        if image.shape == self.shape:
            return found
        for axis, name in enumerate("yx"):
            for column in (name, f"{name}_likeliest"):
                native = (found.particles[column] + 0.5) * image.shape[axis] / inner[axis] + self.corner[axis]
                found.particles[column] = native * zoom[axis] - 0.5
        return found


@lru_cache(maxsize=1)
def load_model(weights: str | None, device: str) -> torch.nn.Module:
    """The network, read once in every process."""
    return load_weights(weights, device)


def run_alone(job: FrameJob, image: np.ndarray) -> Found:
    """Run a job on one thread, as one of several side by side: the result does not depend on how many these are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return job.run(image)
    finally:
        torch.set_num_threads(threads)


class Workers:
    """Those who run jobs: this process's threads, or a Dask cluster's workers.

    Parameters
    ----------
    scheduler : str, optional
        Address of a Dask scheduler, such as ``tcp://host:8786``; its workers need moirelib and the weights' file.
    """

    def __init__(self, scheduler: str | None = None):
        self._scheduler, self._close = scheduler, contextlib.ExitStack()
        self._threads = torch.get_num_threads()

    def __enter__(self) -> Workers:
        if self._scheduler is None:
            self.count = self._threads
            # One thread for each of several frames is faster than several threads for each frame.
            pool = ThreadPoolExecutor(self.count, initializer=torch.set_num_threads, initargs=(1,))
            self._submit: Callable[..., Any] = self._close.enter_context(pool).submit
            self._wait = lambda pending: wait(pending, return_when=FIRST_COMPLETED).done
        else:
            from dask import distributed

            try:
                client = self._close.enter_context(distributed.Client(self._scheduler, timeout=PATIENCE))
            except (OSError, TimeoutError, ValueError) as error:
                raise OSError(f"no Dask scheduler at {self._scheduler}; start one with 'dask scheduler'") from error
            self.count = max(sum(client.nthreads().values()), 1)
            self._submit = lambda *work: client.submit(*work, pure=False)
            self._wait = lambda pending: distributed.wait(pending, return_when="FIRST_COMPLETED").done
        return self

    def __exit__(self, *error) -> None:
        self._close.close()
        torch.set_num_threads(self._threads)

    def run(self, jobs: Iterator[tuple[str, FrameJob, np.ndarray]]) -> Iterator[tuple[str, Found]]:
        """Run jobs, each with a name and an image, and give what is found as it comes."""
        pending: dict[Future, str] = {}
        for name, job, image in jobs:
            pending[self._submit(run_alone, job, image)] = name
            while len(pending) >= WAITING * self.count:
                yield from self._collect(pending)
        while pending:
            yield from self._collect(pending)

    def _collect(self, pending) -> Iterator[tuple[str, Found]]:
        for future in self._wait(list(pending)):
            yield pending.pop(future), future.result()
