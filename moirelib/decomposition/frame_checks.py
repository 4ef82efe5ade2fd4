"""Which frames of a movie hold an image: borders are cut off, broken frames left out (chapter 11, "Your movie")."""

import itertools
from dataclasses import dataclass

import numpy as np

from ..movies.movie import Movie
from ..movies.stored import COLOUR_TOLERANCE
from .frame_results import FoundInFrames
from .layer_count import LayerCountRules

# Set by hand: what is left of a frame must show a lattice.
MOST_CUT = 0.3  # of the height or width; a frame with a wider border of one value was not written to its end
SATURATED = 0.5  # share of the pixels that hold the highest value
FEW = 0.3  # of the movie's median number of particles; frames with fewer are doubtful
STRIP = 0.5  # share of the ground's value in an information strip
SMOOTH, LINE = 1, 0.98  # grey values by which the ground varies in a line without text; its share of that line
# Stored exactly, or with losses: grey values by which the ground varies, rows at its edge that do not count (a block of
# JPEG), and most share of the ground's value in the rows of the image
EXACT, LOSSY = (0, 0, 0.1), (COLOUR_TOLERANCE, 8, 0.25)
ENOUGH = 10  # particles in the median frame, below which fewer say nothing


@dataclass(frozen=True)
class CheckedFrame:
    """A frame without its border, or why it is left out."""

    image: np.ndarray | None  # (y, x) float32; None where the frame is left out
    corner: tuple[int, int] = (0, 0)  # (y, x) of the image's first pixel in the frame
    why: str = ""  # the frame is left out


def check_frame(movie: Movie, t: int, before: np.ndarray | None = None) -> CheckedFrame:
    """Read frame ``t`` and look whether it holds an image of its own; ``before`` is the image of the frame before it.

    A border of one value, as alignment leaves it, is cut off; so is an information strip under or above the image.
    """
    try:
        frame = movie.frame(t)
    except (ValueError, OSError) as error:
        return CheckedFrame(None, why=str(error))
    if np.mean(frame == frame.max()) > SATURATED:
        why = f"frame {t} is saturated: more than half of its pixels hold {frame.max():g}"
        return CheckedFrame(None, why=f"{why}; record with less dose per frame, or leave this frame out")
    picture = find_picture(frame)
    frame = frame[picture]
    rows, columns = (find_inner(np.ptp(frame, axis=axis) > 0) for axis in (1, 0))
    for axis, inner, n in zip(("rows", "columns"), (rows, columns), movie.shape[1:], strict=True):
        if inner.stop - inner.start < (1 - MOST_CUT) * n:
            left = n - (inner.stop - inner.start)
            why = f"frame {t} is incomplete: {left} of its {n} {axis} hold one value each"
            return CheckedFrame(None, why=f"{why}; copy or export it again, or leave this frame out")
    image = frame[rows, columns]
    if before is not None and image.shape == before.shape and np.array_equal(image, before):
        return CheckedFrame(None, why=f"frame {t} is a copy of the frame before it")
    return CheckedFrame(image, (picture.start + rows.start, columns.start))


def find_picture(frame: np.ndarray) -> slice:
    """Rows without an information strip: text on a ground of one value, which no other row holds, at bottom or top.

    In pictures that were compressed with losses, the ground varies a little, and more in the blocks at its edge.
    """
    for (tolerance, edge, elsewhere), step in itertools.product((EXACT, LOSSY), (1, -1)):
        rows = frame[::step]
        apart = np.abs(rows - np.median(rows[-1]))
        share = np.mean(apart <= tolerance, axis=1)
        n = int(np.argmax(share > STRIP))  # rows of the image, before the first of the strip
        alone = (share[: max(n - edge, 0)] < elsewhere).all()
        smooth = (apart[n:] <= SMOOTH).mean(axis=1).max() > LINE  # noise is not
        if n >= (1 - MOST_CUT) * len(frame) and alone and smooth and share[n:].mean() > STRIP:
            return slice(0, n) if step > 0 else slice(len(frame) - n, None)
    return slice(0, None)


def find_inner(varied: np.ndarray) -> slice:
    """From the first to the last row (or column) whose values differ."""
    inside = np.flatnonzero(varied)
    return slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else slice(0, 0)


def leave_noise_out(found: FoundInFrames) -> FoundInFrames:
    """The frames of a movie; one without a sure particle is left out where the usual frame holds `ENOUGH` of them."""
    particles, used = found.particles, found.used
    frame_of_sure = particles.loc[particles["score"] >= LayerCountRules.sure, "frame"]
    sure = np.bincount(frame_of_sure, minlength=len(found.why))[used]
    usual = float(np.median(sure)) if len(used) else 0.0
    if usual < ENOUGH:
        return found
    why = "frame {} holds only noise: none of its particles is sure, while the usual frame holds {:.0f} that are"
    return found.leave_out({int(t): why.format(t, usual) for t in used[sure == 0]})


def find_doubtful(counts: dict[int, int]) -> list[int]:
    """Frames in which suspiciously little was found, by the number of particles of each frame that was not left out."""
    usual = float(np.median(list(counts.values()))) if counts else 0.0
    return [t for t, n in counts.items() if usual >= ENOUGH and n < FEW * usual]
