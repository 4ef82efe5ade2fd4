"""Which sites arriving particles prefer (chapter 10, "Growth")."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from .growth import occupancy_changes, poisson_interval, possible_sites, registry_at
from .moire import REGISTRY
from .occupancy import Occupancy, adjacency

DRAWS = 5000  # of the exact test


@dataclass(frozen=True)
class SitePreference:
    """Whether attachment depends on registry."""

    table: pd.DataFrame  # registry, attached, expected, expected_std, ratio, low, high, share_free, share_layer
    statistic: float  # chi-square of attached against expected
    p_value: float  # exact, by drawing as many attachments without preference; NaN where none had a choice
    events: int  # attachments that count


def site_preference(occupancy: dict[int, Occupancy]) -> SitePreference:
    """Test whether particles of layer 2 attach more often on top, bridge or hollow sites than free edge sites offer.

    Each attachment is one choice among the free lattice sites that had as many taken neighbours in the frame before,
    whether or not the movie ever fills them: a conditional (matched) test (McFadden, in Frontiers in Econometrics, ed.
    Zarembka, 105 (1974)). So a preference for well coordinated sites is not taken for one.

    ``table`` of the result has ``registry`` on layer 1; ``attached``, counted; ``expected`` and its standard deviation,
    without preference; their ``ratio`` with a 95 % interval (``low, high``); ``share_free``, share of the registry
    among all free edge sites on offer; ``share_layer``, among all sites of the layer.
    """
    if not {1, 2} <= set(occupancy):
        raise ValueError(f"a preference needs both layers, got {sorted(occupancy)}; pass the occupancy of two")
    one, kinds = occupancy[2], list(REGISTRY)
    chosen, chance, offered = _list_choices(one, occupancy, kinds)
    attached, expected = chosen.sum(axis=0), chance.sum(axis=0)
    spread = np.sqrt(np.sum(chance * (1 - chance), axis=0))
    statistic, p_value = _test_choices(chosen, chance, DRAWS, np.random.default_rng(0))
    with np.errstate(divide="ignore", invalid="ignore"):
        interval = np.array([poisson_interval(int(n)) for n in attached]) / expected[:, None]
        ratio = attached / expected
    last = len(one.frames) - 1
    everywhere = registry_at(one, occupancy, np.full(len(one.sites), last), one.sites)["registry"]
    share = np.array([(everywhere == kind).sum() for kind in kinds]) / max((everywhere != "").sum(), 1)
    table = pd.DataFrame({"registry": kinds, "attached": attached.astype(int), "expected": expected})
    table = table.assign(expected_std=spread, ratio=ratio, low=interval[:, 0], high=interval[:, 1])
    table = table.assign(share_free=offered / max(offered.sum(), 1), share_layer=share)
    return SitePreference(table, statistic, p_value, len(chosen))


def _list_choices(one, occupancy, kinds):
    """Of every attachment: what was chosen (m, 3), its chance without preference (m, 3); all that was on offer (3,)."""
    places = possible_sites(one)
    near = adjacency(places, one.spacing)
    rows, k = occupancy_changes(one)
    came = one.occupied[rows, k]
    rows, k = rows[came], k[came]
    chosen, chance, offered = [], [], np.zeros(len(kinds))
    for row in np.unique(rows):
        there = np.zeros(len(places), bool)
        there[: len(one.sites)] = one.occupied[row - 1]
        touching = near @ there.astype(float)
        free = np.flatnonzero(~there & (touching > 0) & one.in_view(places, row) & one.in_view(places, row - 1))
        on = registry_at(one, occupancy, np.full(len(free), row), places[free])["registry"].to_numpy(object)
        is_kind = np.stack([on == kind for kind in kinds], axis=1).astype(float)
        offered += is_kind.sum(axis=0)
        for event in k[rows == row]:
            own, like = free == event, (touching[free] == touching[event]) & (on != "")
            if like.sum() > 1 and (own & like).any():
                chosen.append(is_kind[own][0])
                chance.append(is_kind[like].mean(axis=0))
    return np.reshape(chosen, (-1, len(kinds))), np.reshape(chance, (-1, len(kinds))), offered


def _test_choices(chosen, chance, draws, rng) -> tuple[float, float]:
    """Score test of a conditional choice: (observed - expected) in units of its covariance; p by drawing choices."""
    if len(chosen) == 0:
        return np.nan, np.nan
    covariance = np.diag(chance.sum(axis=0)) - chance.T @ chance
    inverse = np.linalg.pinv(covariance, rcond=1e-9)
    if np.abs(covariance).max() < 1e-9:  # no attachment had a choice
        return np.nan, np.nan
    left = np.sum(chosen - chance, axis=0)
    statistic = float(left @ inverse @ left)
    edge = np.cumsum(chance, axis=1)[:, None, :-1]
    pick = (rng.random((len(chance), draws))[:, :, None] > edge).sum(axis=-1)
    counts = np.stack([(pick == kind).sum(axis=0) for kind in range(chance.shape[1])], axis=1) - chance.sum(axis=0)
    drawn = np.einsum("di,ij,dj->d", counts, inverse, counts)
    return statistic, float((1 + np.sum(drawn >= statistic - 1e-9)) / (draws + 1))
