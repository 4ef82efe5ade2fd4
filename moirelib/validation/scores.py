"""Scores of particles, layer images and growth events against a simulation's truth (chapters 6 and 10)."""

from itertools import permutations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ..crystal.matching import match
from ..tables import require_columns

MATCHING_RADIUS = 0.3  # diameters between a particle found and a true one, at most


def score_particles(
    found: pd.DataFrame,
    truth: pd.DataFrame,
    diameter_nm: float,
    field_nm: ArrayLike,
    matching_radius: float = MATCHING_RADIUS,
) -> dict:
    """Score a particle table against its truth: detection, layer assignment and position.

    Tables are of ``frame, layer, y_nm, x_nm``; a typical diameter, and height and width of the field, are in nm. True
    particles within half a diameter from the border do not count. Pairs lie within ``matching_radius`` diameters.

    Scores are ``f1`` (a particle counts only in its right layer), ``f1_agnostic`` (layers ignored), ``assignment``
    (fraction of matched particles in the right layer), ``rmse_nm`` (root mean square distance of the layer-resolved
    pairs). The layers may be exchanged once for the whole table: the order of the highest ``f1`` counts.
    """
    numbers = sorted({1, 2, *found["layer"], *truth["layer"]})
    orders = (dict(zip(numbers, order, strict=True)) for order in permutations(numbers))
    scores = (_score_order(found, truth, names, diameter_nm, field_nm, matching_radius) for names in orders)
    return max(scores, key=lambda score: score["f1"])


def _score_order(found, truth, names, diameter_nm, field_nm, matching_radius=MATCHING_RADIUS) -> dict:
    """Particle scores under one order of the layers."""
    reach, border = matching_radius * diameter_nm, diameter_nm / 2
    ordered = found.assign(layer=found["layer"].map(names))
    f1, _, rmse = _tally(ordered, truth, ["frame", "layer"], reach, border, field_nm)
    f1_agnostic, assignment, _ = _tally(ordered, truth, ["frame"], reach, border, field_nm)
    return {"f1": f1, "f1_agnostic": f1_agnostic, "assignment": assignment, "rmse_nm": rmse}


def _tally(found, truth, keys, reach, border, field) -> tuple[float, float, float]:
    """F1, share in the right layer and distance (nm) of pairs within groups of equal ``keys``, away from the border."""
    pairs = missed = false = right = 0
    squares = []
    groups = dict(list(found.groupby(keys))), dict(list(truth.groupby(keys)))
    for key in groups[0].keys() | groups[1].keys():
        f, t = groups[0].get(key, found.iloc[:0]), groups[1].get(key, truth.iloc[:0])
        fp, tp = (table[["y_nm", "x_nm"]].to_numpy(float) for table in (f, t))
        # Of two particles on top of each other the one in the right layer is taken first.
        wrong = f["layer"].to_numpy()[:, None] != t["layer"].to_numpy()
        i, j = match(fp, tp, reach, reach * wrong)
        f_in, t_in = (np.all((p >= border) & (p <= np.asarray(field) - border), axis=1) for p in (fp, tp))
        i_in, j_in = i[t_in[j]], j[t_in[j]]
        pairs += len(i_in)
        right += np.sum(~wrong[i_in, j_in])
        missed += t_in.sum() - len(j_in)
        false += np.delete(f_in, i).sum()
        squares.append(np.sum((fp[i_in] - tp[j_in]) ** 2, axis=1))
    f1 = float(2 * pairs / max(2 * pairs + missed + false, 1))
    if not pairs:
        return f1, float("nan"), float("nan")
    return f1, float(right / pairs), float(np.sqrt(np.concatenate(squares).mean()))


def score_layers(
    found: pd.DataFrame,
    layers: ArrayLike,
    truth: pd.DataFrame,
    masks: ArrayLike,
    diameter_nm: float,
    field_nm: ArrayLike,
) -> dict:
    """Score particles and layer images together, under one order of the layers.

    Takes found layer images and true masks, (t, layer, y, x) or (layer, y, x), 0 to 1 or 0 to 255, and the rest as
    `score_particles`. Gives its scores, ``mask_accuracy`` (fraction of pixels of all layers that are rightly covered or
    not) and ``mask_iou`` (intersection over union of each layer, averaged; it decides between equal ``f1``).
    """
    a, b = (_binary(x) for x in (layers, masks))
    scores = []
    for order, ordered in _list_orders(a):
        names = {number + 1: true for true, number in enumerate(order, start=1)}
        score = _score_order(found, truth, names, diameter_nm, field_nm)
        iou = np.mean([_iou(ordered[..., k, :, :], b[..., k, :, :]) for k in range(b.shape[-3])])
        scores.append(score | {"mask_accuracy": float(np.mean(ordered == b)), "mask_iou": float(iou)})
    return max(scores, key=lambda score: (score["f1"], score["mask_iou"]))


def mask_iou(layers: ArrayLike, masks: ArrayLike) -> float:
    """Intersection over union, 0 to 1, of images and masks of all layers as of `score_layers`, in their best order."""
    a, b = (_binary(x) for x in (layers, masks))
    return max(_iou(ordered, b) for _, ordered in _list_orders(a))


def _list_orders(layers) -> list[tuple[tuple[int, ...], np.ndarray]]:
    """Every order of the layers, and their images (..., layer, y, x) in it."""
    return [(order, layers[..., order, :, :]) for order in permutations(range(layers.shape[-3]))]


def _binary(x) -> np.ndarray:
    """Which pixels are covered: those above one half."""
    x = np.asarray(x)
    return x > 0.5 * (255 if x.dtype == np.uint8 else 1)


def _iou(a, b) -> float:
    union = np.sum(a | b)
    return float(np.sum(a & b) / union) if union else 1.0


def score_events(
    found: pd.DataFrame, truth: pd.DataFrame, reach_nm: float, frames: int = 2, counts: ArrayLike | None = None
) -> dict[str, float]:
    """Recall and precision of events against a simulation's truth: pairs are one to one, of one layer and kind.

    Takes tables of ``frame, layer, event, y_nm, x_nm``, positions in the first frame; the truth may say attach and
    detach. Pairs are no farther apart than ``reach_nm`` (half a spacing) and so many ``frames``. True events that
    ``counts`` (n,) leaves out do not count. Scores are ``recall, precision, true, found, matched, rmse_frames``.
    """
    for table, name in ((found, "the table of events found"), (truth, "the table of true events")):
        require_columns(table, ["frame", "layer", "event", "y_nm", "x_nm"], name)
    names = {"attach": "attachment", "detach": "detachment"}
    kind = truth["event"].replace(names).to_numpy(str)
    counts = np.ones(len(truth), bool) if counts is None else np.asarray(counts, bool)
    late = found["frame"].to_numpy(int)[:, None] - truth["frame"].to_numpy(int)
    alike = found["event"].to_numpy(str)[:, None] == kind
    alike &= found["layer"].to_numpy()[:, None] == truth["layer"].to_numpy()
    penalty = np.where(alike & (np.abs(late) <= frames), reach_nm * np.abs(late) / (frames + 1), np.inf)
    at, true_at = (table[["y_nm", "x_nm"]].to_numpy(float) for table in (found, truth))
    i, j = match(at, true_at, reach_nm, penalty)
    hit = np.isin(np.arange(len(truth)), j)
    return {
        "recall": float(hit[counts].mean()) if counts.any() else 1.0,
        "precision": len(i) / len(found) if len(found) else 1.0,
        "true": int(counts.sum()),
        "found": len(found),
        "matched": len(i),
        "rmse_frames": float(np.sqrt(np.mean(late[i, j] ** 2.0))) if len(i) else np.nan,
    }
