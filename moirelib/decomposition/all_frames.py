"""Find the particles of every frame of a movie, each by itself, side by side (chapter 6, "Decompose").

What particles share, their profile and the blur, is learnt from a few frames. Then no frame depends on another one: all
are computed in any order, on this machine's cores or a Dask cluster, and a run that was stopped goes on.
"""

import contextlib
import hashlib
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from threadpoolctl import threadpool_limits

from ..data import weights_path
from ..movies.movie import Movie
from .frame import Found, find
from .frame_checks import check_frame
from .frame_results import FoundInFrames, FrameResults
from .layer_count import SharedByFrames, are_told_by_points
from .network import WORKING_DIAMETER, load_weights, predict, resample

SHORT, LONG = 20, 100  # frames; shorter movies learn from one frame, longer ones from three, others from two
WAITING = 2  # frames that are read ahead, per worker
FAILED = "its particles could not be found"  # how the reason begins why a frame is left out
PATIENCE = 60.0  # s, for a Dask scheduler to answer, on a slow machine too


@dataclass(frozen=True)
class FrameJob:
    """All that is needed to find the particles of a frame but the frame itself."""

    weights: str | None  # file of the network of two layers; None for the shipped one
    device: str
    polarity: float  # 1 for dark particles, -1 for bright ones
    shape: tuple[int, int]  # (y, x) of the whole frame
    working: tuple[int, int]  # the same at working sampling
    corner: tuple[int, int] = (0, 0)  # (y, x) of the image's first pixel in the whole frame
    shared: SharedByFrames = SharedByFrames()
    pixel_size: float = 1.0  # nm, of the whole frame
    three: str | None = None  # file of the network of three layers

    def run(self, image: np.ndarray) -> Found:
        """Find the particles of a frame, or of the part of it that holds an image; places are those of the whole."""
        zoom = np.array(self.working) / self.shape
        inner = tuple(max(round(n * z), 4) for n, z in zip(image.shape, zoom, strict=True))
        sampled = resample(self.polarity * image, inner)

        def look(layers: int = 3) -> np.ndarray:
            weights = (self.weights if layers == 2 else self.three) or str(weights_path(layers))
            return predict(load_model(weights, self.device), sampled)[1]

        found = find(sampled, look(2), WORKING_DIAMETER, self.shared, look)
        particles, cut = found.particles, ""
        if image.shape != self.shape:
            for axis, name in enumerate("yx"):
                for column in (name, f"{name}_likeliest"):
                    native = (particles[column] + 0.5) * image.shape[axis] / inner[axis] + self.corner[axis]
                    particles = particles.assign(**{column: native * zoom[axis] - 0.5})
            cut = "{} rows and {} columns".format(*np.subtract(self.shape, image.shape))
        y, x = (((particles[c] + 0.5) / zoom[k] - 0.5) * self.pixel_size for k, c in enumerate("yx"))
        size = particles["diameter"] * self.pixel_size / np.sqrt(zoom.prod())
        return replace(found, particles=particles.assign(y_nm=y, x_nm=x, diameter_nm=size), cut=cut)


load_model = lru_cache(maxsize=2)(load_weights)  # the networks, read once in every process
#: Linear algebra on one thread: on several, sums are taken in another order, and last digits differ.
one_thread = partial(threadpool_limits, 1, user_api="blas")


def run_alone(job: FrameJob, image: np.ndarray) -> Found:
    """Run a job on one thread, as one of several side by side: the result does not depend on how many these are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    one_thread()  # for the whole process, a Dask worker's too; `start_workers` undoes it in this one
    try:
        return job.run(image)
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def start_workers(scheduler: str | None) -> Iterator[Callable]:
    """A function that runs jobs, each with a name and an image, and gives what is found as it comes.

    They run in this process's threads or, with the address of a Dask scheduler such as ``tcp://host:8786``, on its
    workers, which need moirelib and the weights' file.
    """
    with contextlib.ExitStack() as close:
        close.enter_context(one_thread())
        count = torch.get_num_threads()
        close.callback(torch.set_num_threads, count)
        if scheduler is None:
            # One thread for each of several frames is faster than several threads for each frame.
            pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))
            close.callback(pool.shutdown, cancel_futures=True)  # a stopped run does not wait for jobs in the queue
            submit: Callable[..., Any] = pool.submit
            wait_for_one: Callable[..., Any] = partial(wait, return_when=FIRST_COMPLETED)
        else:
            from dask import distributed

            try:
                client = close.enter_context(distributed.Client(scheduler, timeout=PATIENCE))
            except (OSError, TimeoutError, ValueError) as error:
                raise OSError(f"no Dask scheduler at {scheduler}; start one with 'dask scheduler'") from error
            count = max(sum(client.nthreads().values()), 1)
            submit = partial(client.submit, pure=False)
            wait_for_one = partial(distributed.wait, return_when="FIRST_COMPLETED")

        def run(jobs: Iterator[tuple[str, FrameJob, np.ndarray]]) -> Iterator[tuple[str, Found]]:
            pending: dict[Future, str] = {}
            while True:
                for name, *work in itertools.islice(jobs, WAITING * count - len(pending)):
                    pending[submit(run_alone, *work)] = name
                if not pending:
                    return
                for future in wait_for_one(list(pending)).done:
                    try:
                        found = future.result()
                    except Exception as error:  # any, a lost worker too: one frame must not end a run of thousands
                        why = f"{FAILED} ({type(error).__name__}: {' '.join(str(error).split())})"
                        found = Found(pd.DataFrame(), [[], []], None, why)
                    yield pending.pop(future), found

        yield run


def look_at(movie: Movie) -> list[np.ndarray]:
    """Images of up to three frames all over a movie; ValueError if no frame holds an image."""
    return [find_image(movie, t)[1] for t in sorted({0, len(movie) // 2, len(movie) - 1})]


def find_image(movie: Movie, t: int) -> tuple[int, np.ndarray, tuple[int, int]]:
    """Of the frame nearest to ``t`` that holds an image: its number, the image, and the image's corner (y, x)."""
    for near in sorted(range(len(movie)), key=lambda k: abs(k - t)):
        checked = check_frame(movie, near)
        if checked.image is not None:
            return near, checked.image, checked.corner
        if near == t:
            why = checked.why
    raise ValueError(why if len(movie) == 1 else f"no frame of {movie.name} holds an image; {why}")


def describe_run(movie: Movie, job: FrameJob) -> dict:
    """All that the results of a run depend on."""
    from .. import __version__

    digest = hashlib.sha256(b"".join(image.tobytes() for image in look_at(movie)))
    files = [Path(job.weights or weights_path(2)), Path(job.three or weights_path(3))]
    weights_sha = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    about = {k: v for k, v in asdict(job).items() if k not in ("weights", "three", "shared", "corner", "pixel_size")}
    about |= {"moirelib": __version__, "movie": digest.hexdigest(), "frames": len(movie), "weights": weights_sha}
    return about | {"layers": job.shared.given}


def find_in_all_frames(movie: Movie, job: FrameJob, results: FrameResults, scheduler, progress: bool) -> FoundInFrames:
    """Particles of all frames; those of frames that were computed before are taken from the results."""
    from tqdm import tqdm

    names, failed = [f"frame-{t:06d}" for t in range(len(movie))], {}
    finished = results.drop_unreadable(names)
    if len(movie) == 1:
        if not results.has(names[0]):
            _, image, corner = find_image(movie, 0)
            with one_thread():
                results.put(names[0], replace(job, corner=corner).run(image))
        return FoundInFrames.join(map(results.get, names))
    look = {"total": len(movie), "disable": not progress, "desc": "decompose", "unit": "frame"}
    particles = sum(finished)
    with start_workers(scheduler) as run, tqdm(**look, initial=len(finished)) as bar:
        learnt = learn_shared(movie, job, results, run)
        for name, found in run(list_jobs(movie, names, job, results, learnt, bar)):
            if found.why:  # not kept: the next run tries again
                failed[name] = found
            else:
                results.put(name, found)
            particles += len(found.particles)
            bar.set_postfix(particles=particles, refresh=False)
            bar.update()
    every = FoundInFrames.join(failed.get(name) or results.get(name) for name in names)
    if failed and all(every.why):
        raise ValueError(f"no frame of {movie.name} could be computed; {next(iter(failed.values())).why}")
    return every


def list_jobs(movie, names, job, results, learnt, bar) -> Iterator[tuple[str, FrameJob, np.ndarray]]:
    """A job for each frame that is not computed yet; frames without an image of their own are left out."""
    before = None
    for t, name in enumerate(names):
        if results.has(name):
            before = None
            continue
        if before is None and t > 0:  # read again, so that a run that goes on says the same of a copy
            before = check_frame(movie, t - 1).image
        checked = check_frame(movie, t, before)
        before = checked.image
        if checked.image is None:
            results.put(name, Found(pd.DataFrame(), [[], []], None, checked.why))
            bar.update()
            continue
        yield name, replace(job, corner=checked.corner, shared=choose_shared(learnt, t, job.shared)), checked.image


def learn_shared(movie, job, results, run) -> dict[int, SharedByFrames]:
    """What the particles of some frames share, by frame."""
    n, learnt = len(movie), {}
    wanted = [0] if n < SHORT else [0, n - 1] if n < LONG else [0, n // 2, n - 1]
    for places in (wanted, [n // 2, n // 4, 3 * n // 4]):  # the second where the first hold no particles
        jobs = {}
        for t in places:
            near, image, corner = find_image(movie, t)
            jobs[f"_shared-{near:06d}"] = replace(job, corner=corner), image
        results.drop_unreadable(jobs)
        for name, found in run((name, *work) for name, work in jobs.items() if not results.has(name)):
            if not found.why:
                results.put(name, found)
        for name in filter(results.has, sorted(jobs)):
            found = results.get(name)
            if found.imaging is not None:
                layers, by_points = found.particles["layer"].nunique(), are_told_by_points(found.lattices)
                learnt[int(name[-6:])] = SharedByFrames(found.imaging, layers, by_points, job.shared.given)
        if learnt:
            break
    return learnt


def choose_shared(learnt: dict[int, SharedByFrames], t: int, given: SharedByFrames) -> SharedByFrames:
    """What is shared, of the nearest frame that it is known of; layers as on both sides of it, if these agree."""
    if not learnt:
        return given
    nearest = learnt[min(learnt, key=lambda k: abs(k - t))]
    sides = [[k for k in learnt if k <= t][-1:], [k for k in learnt if k >= t][:1]]
    layers = {learnt[k].layers for side in sides for k in side}
    return replace(nearest, layers=layers.pop() if len(layers) == 1 else None)
