"""Regions that can be named two ways: found, listed, and kept beside the likeliest naming."""

import numpy as np
import pandas as pd
from scipy import sparse

from moirelib.crystal.lattice import hexagonal_lattice
from moirelib.decomposition import layers_by_points
from moirelib.decomposition.alternatives import describe_regions, find_alternatives, list_regions

D = 20.0  # nm


def draw_islands():
    """Two layers of two islands far apart; only the second island's particles have another layer."""
    tables = []
    for k, middle in enumerate([(0.0, 0.0), (0.0, 900.0)]):
        for layer, angle in ((1, 5.0), (2, 15.0)):
            y, x = hexagonal_lattice(26.0, angle, middle, 120.0).T
            tables.append(pd.DataFrame({"layer": layer, "y_nm": y, "x_nm": x, "other_layer": k * (3 - layer)}))
    table = pd.concat(tables, ignore_index=True)
    return table.assign(frame=4, layer_confidence=0.7, diameter_nm=D, score=0.9)


def test_regions_are_contiguous_and_numbered_in_each_frame():
    one = draw_islands()
    both = one.assign(frame=7, other_layer=3 - one["layer"])
    none = one.assign(frame=9, other_layer=0)
    table = pd.concat([one, both, none], ignore_index=True)
    found = find_alternatives(table)
    assert (found["layer"] + found["other_layer"] == 3).all()
    np.testing.assert_array_equal(found.index, table.index[table["other_layer"] > 0])
    here = found[found["frame"] == 7]
    assert here.groupby("region")["x_nm"].agg(np.ptp).max() < 250
    assert sorted(set(zip(found["frame"], found["region"], strict=True))) == [(4, 1), (7, 1), (7, 2)]
    regions = list_regions(found)
    half = len(one) // 2
    assert [(one["frame"], one["region"], one["particles"]) for one in regions] == [
        (4, 1, half),
        (7, 1, half),
        (7, 2, half),
    ]
    assert abs(regions[0]["x_nm"] - 900) < 5
    assert {one["probability"] for one in regions} == {0.3}
    assert f"3 regions of 2 frames, of {3 * half} particles" in describe_regions(regions)
    assert f"In a region, of {half} particles" in describe_regions(regions[:1])


def test_where_nothing_can_be_named_otherwise_nothing_is_said():
    table = draw_islands().assign(other_layer=0)
    assert find_alternatives(table).empty
    assert list_regions(find_alternatives(table)) == []
    assert describe_regions([]) == ""
    empty = find_alternatives(table.iloc[:0])
    assert list(empty) == ["frame", "region", "layer", "other_layer", "probability", "y_nm", "x_nm"]


def test_islands_that_nothing_joins_can_be_named_either_way(monkeypatch):
    table = draw_islands()
    island, layer = table["x_nm"].to_numpy() > 450, table["layer"].to_numpy()
    joined = np.equal.outer(island, island) * np.where(np.equal.outer(layer, layer), 2.0, -2.0)
    np.fill_diagonal(joined, 0)
    monkeypatch.setattr(layers_by_points, "draw_graph", lambda *_: (sparse.csr_matrix(joined), None))
    seen = table.rename(columns={"y_nm": "y", "x_nm": "x", "diameter_nm": "diameter"}).assign(channel=0, shown=False)
    named, _ = layers_by_points.name_by_points(seen.drop(columns=["layer", "other_layer"]), D)
    assert len(named) == len(table)
    for one in (island, ~island):
        right = named["layer"].to_numpy()[one] == layer[one]
        assert right.all() or not right.any()
    doubted = named["other_layer"] > 0
    np.testing.assert_allclose(named.loc[doubted, "layer_confidence"], 0.5)
    assert (named["layer"] + named["other_layer"])[doubted].eq(3).all()
    assert (doubted[island].all(), doubted[~island].all()) in [(True, False), (False, True), (True, True)]
