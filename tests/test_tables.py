"""Tables: what is bad is named with its place, and what is good comes through unchanged."""

import numpy as np
import pandas as pd
import pytest

from moirelib.analysis import (
    boundary_table,
    defect_table,
    lattice_table,
    measure_phonons,
    measure_vibrations,
    moire_table,
    site_occupancy,
)
from moirelib.tables import PARTICLE_COLUMNS, check_particles, layers_by_frame, require_unique_tracks


def tracks():
    t, k = (i.ravel() for i in np.indices((3, 4)))
    return pd.DataFrame({"frame": t + 5, "particle": k, "layer": 1, "y_nm": 10.0 * k, "x_nm": 0.5 * t, "kind": "rod"})


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda t: t.drop(columns=["layer", "y_nm"]), "table has no column layer, y_nm; needed are frame, particle"),
        (lambda t: t.assign(x_nm=t["x_nm"].where(t.index != 6)), "x_nm in data row 7 is not a number"),
        (lambda t: t.assign(y_nm=t["y_nm"].where(t.index != 6, np.inf)), "y_nm in data row 7 is not a number"),
        (lambda t: t.assign(frame=t["frame"].where(t.index != 0)), "frame in data row 1 is not a number"),
        (lambda t: t.assign(layer="base"), "layer in data row 1 is not a number"),
        (lambda t: t.assign(frame=t["frame"] + 0.5), "must be whole numbers"),
        (lambda t: t.assign(frame=t["frame"].where(t.index != 0, 10**9)), "frame holds a number that cannot be"),
        (lambda t: t.assign(particle=1e300), "particle holds a number that cannot be"),
        (lambda t: t.assign(frame=t["frame"] - 6), "frames from 0 on"),
    ],
)
@pytest.mark.parametrize("analysis", [check_particles, site_occupancy, measure_vibrations, measure_phonons])
def test_bad_tables_are_refused_in_one_line_by_every_analysis_of_tracks(analysis, spoil, says):
    with pytest.raises(ValueError, match=says) as caught:
        analysis(spoil(tracks()))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("analysis", [lattice_table, moire_table, defect_table, boundary_table])
def test_analyses_of_frames_need_no_tracks_but_finite_positions(analysis):
    assert analysis(tracks().drop(columns="particle")).empty  # four particles on a line
    with pytest.raises(ValueError, match="y_nm in data row 3 is not a number"):
        analysis(tracks().assign(y_nm=lambda t: t["y_nm"].where(t.index != 2)))


@pytest.mark.parametrize("analysis", [site_occupancy, measure_vibrations])
def test_a_track_in_two_places_at_once_is_refused(analysis):
    twelve = pd.concat([tracks().assign(frame=lambda t, k=k: t["frame"] + 3 * k) for k in range(4)], ignore_index=True)
    twice = pd.concat([twelve, twelve[twelve["frame"] == 6].tail(1)])
    with pytest.raises(ValueError, match="particle 3 of layer 1 stands twice in frame 6; link the tracks again"):
        analysis(twice)
    require_unique_tracks(twice.assign(particle=-1))  # of no track


def test_a_good_table_keeps_its_rows_and_columns_and_gets_whole_numbers():
    given = tracks().astype({"frame": float, "particle": str}).set_index(pd.Index(np.arange(12) + 100))
    table = check_particles(given)
    assert table.columns.tolist() == given.columns.tolist()
    assert table.index.equals(given.index)
    assert table["frame"].dtype == table["particle"].dtype == int
    assert check_particles(given.iloc[:0], PARTICLE_COLUMNS).empty


def test_layers_come_frame_by_frame_in_order():
    table = pd.concat([tracks(), tracks().head(4).assign(layer=2)]).iloc[::-1]
    found = dict(layers_by_frame(table))
    assert list(found) == [5, 6, 7]
    assert sorted(found[5]) == [1, 2]
    assert sorted(found[6]) == [1]
    np.testing.assert_array_equal(np.sort(found[6][1], axis=0), [[0, 0.5], [10, 0.5], [20, 0.5], [30, 0.5]])
