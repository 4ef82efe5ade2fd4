"""What was run and what came out: ``summary.json`` and its note (chapter 6, "Decompose")."""

import hashlib
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from ..crystal.lattice import Lattice, fold_hexagonal, moire_period
from ..data import weights_path
from .alternatives import describe_regions, find_alternatives, list_regions
from .frame_checks import find_doubtful
from .layer_voting import count_layers
from .movie_motion import MovieMotion
from .network import choose_device

#: Smallest share of the particles in layer 2 (set by hand): fewer are false finds upon a single layer.
SMALLEST_LAYER = 0.03
SIZE_ESTIMATED = "The particles' size was estimated: if circles do not fit, give the diameter."
TOO_WIDE = 1.03  # spacings, by hand: particles of a layer may touch, and both lengths have errors
LISTED = 8  # frames that a note names


def keep_going(problems: list[str], lost: str, instead, step: Callable):
    """Result of a step or, if it fails, ``instead``: once all frames are computed, no error may lose them.

    What is ``lost`` and why is added to ``problems`` and given as a warning.
    """
    try:
        return step()
    except Exception as error:  # any: hours of work may have gone before
        problems.append(f"{lost}: {type(error).__name__}: {str(error).strip()}")
        warnings.warn(problems[-1], RuntimeWarning, stacklevel=3)
        return instead


def summarize(movie, table: pd.DataFrame, lattices: list, nm: float, given: dict, weights, device, problems) -> dict:
    """What goes into ``summary.json``; ``nm`` is the size of a working pixel, ``lattices`` those of every frame."""
    from .. import __version__

    layers = count_layers(table)
    path = Path(weights) if weights is not None else weights_path(layers)
    counts = {f"layer_{k + 1}": int((table["layer"] == k + 1).sum()) for k in range(layers)}
    field = np.array(movie.shape[1:]) * movie.pixel_size / nm
    unknown = {"spacing_nm": dict.fromkeys(counts), "twist_deg": None, "twists_deg": dict.fromkeys(list(counts)[1:])}
    lost = "Spacings and twist are missing"
    measured = keep_going(problems, lost, unknown, lambda: measure_lattices(lattices, nm, layers))
    note = keep_going(problems, "The note is missing", "", lambda: write_note(counts, measured, lattices, field, given))
    lost = "Regions that can be named two ways are not listed"
    regions = keep_going(problems, lost, [], lambda: list_regions(find_alternatives(table)))
    note = " ".join(filter(None, [note, describe_regions(regions)]))
    lost = "The weights' checksum is missing"
    sha256 = keep_going(problems, lost, None, lambda: hashlib.sha256(path.read_bytes()).hexdigest())
    size = SIZE_ESTIMATED if given["diameter_nm"] is None and len(table) else ""
    size = " ".join([*find_impossible_sizes(table, measured["spacing_nm"]), size]).strip()
    return {
        "moirelib": __version__,
        "movie": movie.name,
        "frames": len(movie),
        "shape_px": list(movie.shape[1:]),
        "pixel_size_nm": movie.pixel_size,
        "frame_time_s": movie.frame_time,
        "dose_e_per_A2": movie.dose,
        "notes": list(movie.notes),
        "weights": {"file": path.name, "sha256": sha256},
        "device": str(choose_device(device)),
        "given": given,
        "particles": counts,
        "diameter_nm": round_median(table["diameter_nm"]) if len(table) else None,
        "working_pixel_size_nm": float(nm),
        **measured,
        "undecided_regions": regions,
        "note": " ".join(filter(None, [note, size, *(f"{problem}." for problem in problems)])),
        "problems": problems,
    }


def find_impossible_sizes(table: pd.DataFrame, spacings: dict) -> list[str]:
    """A sentence for each layer whose particles come out wider than they are apart."""
    said = []
    for k, spacing in enumerate(spacings.values(), start=1):
        width = table.loc[table["layer"] == k, "diameter_nm"].median()
        if spacing is not None and width > TOO_WIDE * spacing:
            said.append(f"Particles of layer {k} come out {width:.1f} nm wide, which is more than they are apart.")
    return said


def describe_frames(left_out: list[dict], cut: list[dict], counts: dict, motion: MovieMotion, note: str) -> dict:
    """Frames left out, frames cut, those that hold suspiciously little, before which the motion is not sure; the note.

    ``counts`` is the number of particles of each frame.
    """
    doubtful, undecided = find_doubtful(counts), list(motion.undecided)
    other = "before which the specimen may have moved by other lattice vectors"
    said = {
        f"left out: {join_numbers([one['frame'] for one in left_out])} (see left_out)": left_out,
        f"cut at a border or strip without an image: {join_numbers([one['frame'] for one in cut])} (see cut)": cut,
        f"with suspiciously few particles: {join_numbers(doubtful)}": doubtful,
        f"{other}: {join_numbers(undecided)}": undecided,
    }
    note = " ".join([note, *(f"Frames {text}." for text, there in said.items() if there)])
    return {"left_out": left_out, "cut": cut, "doubtful": doubtful, "motion_undecided": undecided, "note": note}


def join_numbers(numbers) -> str:
    """Some numbers in words, at most `LISTED`."""
    more = f" and {len(numbers) - LISTED} more" if len(numbers) > LISTED else ""
    return ", ".join(str(n) for n in numbers[:LISTED]) + more


def measure_lattices(lattices: list, nm: float, layers: int = 2) -> dict:
    """Spacing of each layer, twist of each against the first: medians over frames, None where none shows lattices."""
    spacing, twists = {}, {}
    for k in range(layers):
        name = f"layer_{k + 1}"
        spacing[name] = round_median([f[k][0].spacing * nm for f in lattices if f[k]])
        twists[name] = round_median([fold_hexagonal(f[k][0].angle - f[0][0].angle) for f in lattices if f[0] and f[k]])
    del twists["layer_1"]
    return {"spacing_nm": spacing, "twist_deg": twists["layer_2"], "twists_deg": twists}


def round_median(values) -> float | None:
    """Median to four decimals; None of nothing."""
    return round(float(np.median(values)), 4) if len(values) else None


def write_note(counts: dict, measured: dict, lattices: list, field, given: dict) -> str:
    """One line that says what was found and how far it can be trusted; ``field`` in working pixels."""
    spacing, twist, total = list(measured["spacing_nm"].values()), measured["twist_deg"], sum(counts.values())
    if total == 0:
        return "No particles found."
    if spacing[0] is None and given["layers"] == 1:
        return "One layer, as given; it shows no lattice."
    if spacing[0] is None:
        return "No lattice found: the layers are the network's channels (layer_confidence 0.5)."
    if counts["layer_2"] < SMALLEST_LAYER * total:
        why = "as given" if given["layers"] == 1 else "no second lattice found in this field of view"
        return f"One layer, spacing {spacing[0]:.1f} nm: {why}."
    if spacing[1] is None:
        upper = f"{counts['layer_2']} particles upon it that show no lattice of their own"
        return f"One layer, spacing {spacing[0]:.1f} nm, and {upper}."
    if len(spacing) > 2:
        known = [f"{s:.1f}" for s in spacing if s is not None]
        twists = [f"{t:.2f}°" for t in measured["twists_deg"].values() if t is not None]
        turned = f", twisted by {' and '.join(twists)} against the first" if twists else ""
        return f"Three layers, spacings {', '.join(known)} nm{turned}."
    note = f"Two layers, spacings {spacing[0]:.1f} and {spacing[1]:.1f} nm"
    if twist is None:
        return f"{note}. Their lattices never show in the same frame, so the twist is unknown."
    note = f"{note}, twist {twist:.2f}°."
    doubts = [twist_note(f[0][0], f[1][0], field) for f in lattices if f[0] and f[1]]
    return f"{note} {sorted(doubts)[len(doubts) // 2]}".strip()  # what most frames say


def twist_note(first: Lattice, second: Lattice, field: Iterable[float]) -> str:
    """Say how far the field of view allows to tell two layers apart; empty where they are told apart well.

    Two lattices are told apart by their waves alone where the field holds a Moiré period. In a smaller field only pairs
    too near for one layer and the network's channels tell them apart. ``first`` and ``second`` are the largest lattice
    of each layer; ``field`` is the height and width of the field of view, in the lattices' unit.
    """
    period, view = moire_period(first.spacing, second.angle - first.angle, second.spacing), min(field)
    if period <= view:
        return ""
    twist = fold_hexagonal(second.angle - first.angle)
    return (
        f"At a twist of {twist:.1f}° the Moiré period ({period / first.spacing:.0f} spacings) is longer than the field "
        f"of view ({view / first.spacing:.0f} spacings): which particle is in which layer is uncertain."
    )
