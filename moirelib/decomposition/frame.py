"""Find every particle of a frame: where the network sees one, where its lattice expects one, where the frame says so.

Explained in chapter 7, "Particles".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from ..crystal.lattice import Lattice, fold_hexagonal
from ..crystal.neighbours import SPACING_PER_DIAMETER, typical_spacing
from .completion import complete, settle_overlaps
from .fit import FrameFit
from .imaging import Imaging
from .layers import assign_layers
from .peaks import locate

__all__ = ["Found", "find"]


@dataclass(frozen=True)
class Found:
    """All particles of a frame.

    Attributes
    ----------
    particles : pandas.DataFrame
        ``layer`` (1 or 2), ``grain``, ``layer_confidence``, ``lattice_fit``, ``score``; ``y, x, diameter`` (px),
        ``opacity``, ``depth``, one-sigma errors ``y_std, x_std, diameter_std, depth_std``, fitted to the frame alone;
        ``y_likeliest, x_likeliest, diameter_likeliest`` and ``y_std_likeliest, x_std_likeliest`` (px): the same if the
        crystal's regularity counts as well.
    lattices : list of list of Lattice
        Of layer 1 and of layer 2, largest grain first.
    imaging : Imaging or None
        What the particles share: profile, blur, dark level; None where there are too few particles to tell.
    """

    particles: pd.DataFrame
    lattices: list[list[Lattice]]
    imaging: Imaging | None


def find(frame: np.ndarray, centers: np.ndarray, diameter: float, before: Found | None = None) -> Found:
    """Find, assign and fit all particles of a frame.

    Parameters
    ----------
    frame : ndarray, shape (y, x)
        Raw frame at working sampling; particles darker than the background.
    centers : ndarray, shape (channels, y, x)
        Peaks at particle centres, from `moirelib.decomposition.predict`.
    diameter : float
        Expected particle diameter, in pixels.
    before : Found, optional
        A frame shortly before in a movie: its imaging is kept, and its particles are looked for again.

    Returns
    -------
    Found
        Particles, lattices, imaging.

    Notes
    -----
    Detection, layers and fit help each other: layers say which sites should hold a particle, the fit says whether
    they do, and better positions make better layers. Up to three rounds settle it; one where an earlier frame is
    known. Where two layers would be nearly alike, one layer is fitted as well, and what each leaves of the frame
    decides; in a movie its first frame, as long as the particles themselves do not say otherwise.
    Explained in chapter 7, "Particles".
    """
    table = locate(centers, diameter)
    if (table["score"] >= SURE).mean() < 0.25:  # where next to nothing is sure, weak peaks are noise
        table = table[table["score"] >= SURE].reset_index(drop=True)
    if len(table) < 3:
        return _too_few(frame, table, diameter)
    known = before is not None and before.imaging is not None and len(before.particles) > 2
    layers = 2 if known and before.particles["layer"].nunique() == 2 else _layers_seen(table, diameter)
    before = before if known else None
    answer = _named(frame, table, diameter, before, layers)
    # In a movie the first frame's answer stands; asked in every frame it would flicker, and take twice as long.
    as_before = known and answer[1]["layer"].nunique() == before.particles["layer"].nunique()
    if not as_before and (layers == 1 or _nearly_alike(*answer[1:])):
        other = _named(frame, table, diameter, before, 2 if layers == 1 else 1, like=answer[0])
        one, two = (answer, other) if layers == 1 else (other, answer)
        answer = two if _nearly_alike(*two[1:]) and not _drawn_out(one, two) else one
    fit, named, lattices = answer
    if len(named) < 3:
        return _too_few(frame, named, diameter)
    fit = fit.with_particles(named).fit(1)
    free = fit.result(named)
    likeliest = fit.with_particles(free, in_rows=True).fit(1, shared=False).result(free)
    return Found(_with_likeliest(free, likeliest), lattices, fit.imaging)


def _named(frame, table, diameter, before, layers, like=None):
    """Fit, particles with their layers, and lattices, given how many layers there are (None: open).

    What particles share is fitted from another fit of the frame on, where one is given and none is known ``before``.
    """
    table = _without_crowding(table, diameter) if layers == 1 else table
    if before is not None:
        table = _with_earlier(table, before.particles, diameter)
        fit, table = _settled_once(frame, table, diameter, before.imaging, layers)
    else:
        fit, table = _settled(frame, table, diameter, layers, like)
    return fit, *assign_layers(table, diameter, layers=layers)


def _nearly_alike(named, lattices) -> bool:
    """Whether two layers' lattices differ so little that they may be one, each particle drawn out and taken for two.

    Little twist, little misfit, and most particles less than half a spacing from one of the other layer.
    """
    if not all(lattices) or named["layer"].nunique() < 2:
        return False
    one, other = (found[0] for found in lattices)
    twist = abs(fold_hexagonal(one.angle - other.angle))
    upper, lower = (named.loc[named["layer"] == k, ["y", "x"]].to_numpy() for k in (1, 2))
    apart = np.median(cKDTree(upper).query(lower)[0])
    return twist < 4 and abs(np.log(one.spacing / other.spacing)) < 0.08 and apart < 0.5 * one.spacing


def _drawn_out(one, two) -> bool:
    """Whether a frame shows one layer of particles that are longer one way, not two layers nearly upon each other.

    Then many particles were found twice, and one layer leaves little more of the frame unexplained than two, or even
    less: in parts of a real frame 0.5 to 0.55 as many particles leave 1.0 to 1.4 times as much, and 0.7 to 0.77 as many
    0.9 to 1.0 times. Of two simulated layers at twists of 1 to 3° 0.7 to 0.95 as many leave 1.15 to 1.95 times as much.
    """
    (fit_one, named_one, _), (fit_two, named_two, _) = one, two
    fewer, left = len(named_one) / len(named_two), fit_one.unexplained() / fit_two.unexplained()
    return (fewer < 0.7 and left < 1.45) or (fewer < 0.8 and left < 1.07)


def _too_few(frame, table, diameter) -> Found:
    """One or two particles, or none: no lattice speaks for them, and the frame has to be clear about each."""
    table = assign_layers(table, diameter)[0]
    while len(table):
        fit = FrameFit.start(frame, table, diameter).fit(3)
        borne_out = fit.evidence() > ALONE
        if borne_out.all():
            table = fit.result(table)
            break
        table = table[borne_out].reset_index(drop=True)
    else:
        fitted = ("diameter", "depth", "opacity", "y_std", "x_std", "diameter_std", "depth_std")
        table = table.assign(**dict.fromkeys(fitted, 0.0))
    return Found(_with_likeliest(table, table), [[], []], None)


ALONE = 20.0  # logarithm of the likelihood that a particle without a lattice must add; noise reaches some 10
LIKELIEST = ["y", "x", "diameter", "y_std", "x_std"]
SURE = 0.3  # peaks from this height on are particles, whatever their neighbours say
FITTED = ["channel", "y", "x", "score", "diameter", "depth"]


def _settled(frame, table, diameter, layers, like):
    """Fit and particles of a frame of which nothing is known but what the network found."""
    # A particle that the network put into both channels is one until the frame shows two: fitted as two, it would
    # fall apart along whatever the model of a particle does not have.
    table = assign_layers(table, diameter, layers=layers)[0][list(table)]
    fit = FrameFit.start(frame, table, diameter, like=like).fit(2)
    table = fit.table(table)
    for _ in range(3):
        known = table[["y", "x"]].to_numpy()
        fit, table, spacing = _completed(fit, table, layers)
        if len(table) < 3:
            break
        fit, table = settle_overlaps(fit, table, spacing)
        table = _channels_of_new(table, spacing)
        fit = fit.with_particles(table, in_rows=True).fit(1)
        table = fit.table(table)[[*FITTED, "shown"]]
        if len(table) == len(known) and cKDTree(known).query(table[["y", "x"]])[0].max() < 0.3 * diameter:
            break  # the same particles as before
    return fit, table


def _layers_seen(table, diameter) -> int | None:
    """How many layers there are, by what is sure: two; one that the network found in both channels; None if open."""
    sure = table[table["score"] >= SURE]
    named = assign_layers(sure, diameter)[0]
    if named["layer"].nunique() == 2:
        return 2
    return 1 if len(named) < 0.85 * len(sure) else None


def _without_crowding(table, diameter) -> pd.DataFrame:
    """Of a single layer: what is sure, and the rest where it would not lie upon it.

    Elongated particles, such as columns seen at a slant, have a second, lower peak each.
    """
    sure = table["score"] >= SURE
    tree = cKDTree(table.loc[sure, ["y", "x"]])
    alone = tree.query(table[["y", "x"]])[0] > 0.9 * diameter if sure.any() else ~sure
    return table[sure | alone].reset_index(drop=True)


def _settled_once(frame, table, diameter, imaging, layers):
    """Fit and particles of a frame whose predecessor's are known: they are nearly where they were."""
    fit = FrameFit.start(frame, table, diameter, imaging)
    fit, table, spacing = _completed(fit, table, layers)
    return fit, _channels_of_new(table, spacing)[FITTED]


def _completed(fit, table, layers) -> tuple[FrameFit, pd.DataFrame, float]:
    """Layers, then what is missing or too much, then the fit again: fit, particles and spacing."""
    diameter = fit.model.diameter
    named, _ = assign_layers(table, diameter, layers=layers)
    spacing = typical_spacing(named[["y", "x"]].to_numpy(), named["layer"].to_numpy(), diameter)
    fit = fit.with_particles(named, in_rows=True).fit(1)
    table = complete(fit, fit.table(named), spacing)
    if len(table) > 2:
        fit = fit.with_particles(table, in_rows=True).fit(1)
        table = fit.table(table)
    return fit, table, spacing


def _with_earlier(table, earlier, diameter) -> pd.DataFrame:
    """Detections with the sizes they had in the frame before, and the particles of that frame that are not among them.

    The stage may have drifted by up to half a diameter.
    """
    if table.empty:
        return table
    here, there = cKDTree(table[["y", "x"]]), earlier[["y", "x"]].to_numpy()
    distance, nearest = here.query(there)
    near = distance < 0.5 * diameter
    drift = np.median(table[["y", "x"]].to_numpy()[nearest[near]] - there[near], axis=0) if near.any() else np.zeros(2)
    distance, nearest = here.query(there + drift)
    back = cKDTree(there + drift).query(here.data)[1]
    same = (distance < 0.35 * diameter) & (back[nearest] == np.arange(len(there)))
    table = table.reindex(columns=[*table.columns, "diameter", "depth"])
    table.loc[table.index[nearest[same]], ["diameter", "depth"]] = earlier.loc[same, ["diameter", "depth"]].to_numpy()
    lost = earlier.loc[~same, ["layer", "y", "x", "score", "diameter", "depth"]].assign(channel=-1)
    lost[["y", "x"]] += drift
    seen = table.iloc[nearest[same]].assign(layer=earlier.loc[same, "layer"].to_numpy())
    lost = _channels_of_new(pd.concat([seen, lost], ignore_index=True), SPACING_PER_DIAMETER * diameter).iloc[
        len(seen) :
    ]
    return pd.concat([table, lost.drop(columns="layer")], ignore_index=True)


def _with_likeliest(particles, likeliest) -> pd.DataFrame:
    return particles.assign(**{f"{c}_likeliest": likeliest[c].to_numpy() for c in LIKELIEST})


def _channels_of_new(particles, spacing) -> pd.DataFrame:
    """Particles that the network did not see are given the channel of their layer's particles around them."""
    channel = particles["channel"].to_numpy().copy()
    new = np.flatnonzero(channel < 0)
    yx, layer, known = particles[["y", "x"]].to_numpy(), particles["layer"].to_numpy(), channel >= 0
    for i, near in zip(new, cKDTree(yx).query_ball_point(yx[new], 2.2 * spacing), strict=True):
        near = [j for j in near if known[j] and layer[j] == layer[i]]
        channel[i] = round(np.mean(channel[near])) if near else 0
    return particles.assign(channel=channel)
