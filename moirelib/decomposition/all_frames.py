"""Find the particles of every frame of a movie, each by itself (chapter 6, "Decompose").

What particles share, their profile and the blur, is learnt from a few frames. Then no frame depends on another one: all
are computed in any order, on any number of machines, and a run that was stopped goes on.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd

from ..data import weights_path
from ..movies.movie import Movie
from .frame import Found
from .frame_checks import check_frame
from .frame_jobs import FrameJob, Workers
from .frame_results import FrameResults, share_table
from .layer_count import SharedByFrames, has_unlike_lattices

SHORT, LONG = 20, 100  # frames; shorter movies learn from one frame, longer ones from three, others from two


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


def describe_run(movie: Movie, job: FrameJob, weights) -> dict:
    """All that the results of a run depend on."""
    from .. import __version__

    digest = hashlib.sha256(b"".join(image.tobytes() for image in look_at(movie)))
    file = Path(weights) if weights is not None else weights_path()
    weights_sha = hashlib.sha256(file.read_bytes()).hexdigest()
    about = {k: v for k, v in asdict(job).items() if k not in ("weights", "shared", "corner")}
    return {"moirelib": __version__, "movie": digest.hexdigest(), "frames": len(movie), "weights": weights_sha} | {
        key: list(value) if isinstance(value, tuple) else value for key, value in about.items()
    }


def find_in_all_frames(movie: Movie, job: FrameJob, results: FrameResults, scheduler, progress: bool) -> list[Found]:
    """Particles of all frames; those of frames that were computed before are taken from the results."""
    from tqdm import tqdm

    if len(movie) == 1:
        _, image, corner = find_image(movie, 0)
        return [replace(job, corner=corner).run(image)]
    look = {"total": len(movie), "disable": not progress, "desc": "decompose", "unit": "frame"}
    particles = 0
    with Workers(scheduler) as workers, tqdm(**look) as bar:
        learnt = learn_shared(movie, job, results, workers)
        bar.update(sum(results.has(name_of(t)) for t in range(len(movie))))
        for name, found in workers.run(list_jobs(movie, job, results, learnt, bar)):
            results.put(name, found)
            particles += len(found.particles)
            bar.set_postfix(particles=particles, refresh=False)
            bar.update()
    return share_table(results.get(name_of(t)) for t in range(len(movie)))


def name_of(t: int) -> str:
    """Name under which the result of a frame is kept."""
    return f"frame-{t:06d}"


def list_jobs(movie, job, results, learnt, bar) -> Iterator[tuple[str, FrameJob, np.ndarray]]:
    """A job for each frame that is not computed yet; frames without an image of their own are left out."""
    before = None
    for t in range(len(movie)):
        name = name_of(t)
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
        yield name, replace(job, corner=checked.corner, shared=choose_shared(learnt, t)), checked.image


def learn_shared(movie, job, results, workers) -> dict[int, SharedByFrames]:
    """What the particles of some frames share, by frame."""
    n, learnt = len(movie), {}
    wanted = [0] if n < SHORT else [0, n - 1] if n < LONG else [0, n // 2, n - 1]
    for places in (wanted, [n // 2, n // 4, 3 * n // 4]):  # the second where the first hold no particles
        jobs = {}
        for t in places:
            near, image, corner = find_image(movie, t)
            jobs[f"shared-{near:06d}"] = replace(job, corner=corner), image
        missing = ((name, *work) for name, work in jobs.items() if not results.has(name))
        for name, found in workers.run(missing):
            results.put(name, found)
        for name in sorted(jobs):
            found = results.get(name)
            if found.imaging is not None:
                layers, unlike = found.particles["layer"].nunique(), has_unlike_lattices(found.lattices)
                learnt[int(name[-6:])] = SharedByFrames(found.imaging, layers, unlike)
        if learnt:
            break
    return learnt


def choose_shared(learnt: dict[int, SharedByFrames], t: int) -> SharedByFrames | None:
    """What is shared, of the nearest frame that it is known of; layers as on both sides of it, if these agree."""
    if not learnt:
        return None
    nearest = learnt[min(learnt, key=lambda k: abs(k - t))]
    sides = [[k for k in learnt if k <= t][-1:], [k for k in learnt if k >= t][:1]]
    layers = {learnt[k].layers for side in sides for k in side}
    return replace(nearest, layers=layers.pop() if len(layers) == 1 else None)
