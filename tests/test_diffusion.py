"""Mean squared displacement against trackpy and known motion; drift, turn and dose of each layer."""

import numpy as np
import pandas as pd
import pytest
import trackpy

from moirelib.analysis import mean_squared_displacement, motion_table, site_occupancy
from moirelib.crystal import hexagonal_lattice


def walks(frames, particles, step, error=0.0, seed=0, missed=0.0):
    """Free diffusion: steps and errors in nm along each axis; y and x error bars of 0.8 and 1.2 times the error."""
    rng = np.random.default_rng(seed)
    at = np.cumsum(step * rng.standard_normal((frames, particles, 2)), axis=0)
    bars = error * np.array([0.8, 1.2])
    at += bars * rng.standard_normal(at.shape)
    t, k = np.nonzero(rng.random((frames, particles)) >= missed)
    y, x = at[t, k].T
    table = pd.DataFrame({"frame": t, "particle": k, "layer": 1, "y_nm": y, "x_nm": x})
    return table.assign(y_std_nm=bars[0], x_std_nm=bars[1]) if error else table


def as_trackpy(table, lags):
    """Ensemble average of trackpy after its own removal of drift; lengths stay in nm."""
    own = table[["frame", "particle", "y_nm", "x_nm"]].rename(columns={"y_nm": "y", "x_nm": "x"})
    own = trackpy.subtract_drift(own.copy()).reset_index(drop=True)
    return trackpy.emsd(own, mpp=1.0, fps=1.0, max_lagtime=lags)


def test_tracks_without_gaps_give_what_trackpy_gives():
    table = walks(60, 90, 1.0, error=0.5)
    begin, end = (np.clip(np.random.default_rng(k).integers(-15, 45, 90), 0, 29) for k in (1, 2))
    end = 59 - end
    table = table[(table["frame"] >= begin[table["particle"]]) & (table["frame"] <= end[table["particle"]])]
    table["y_nm"] += 3.0 * table["frame"]
    msd = mean_squared_displacement(table.sample(frac=1.0, random_state=0), frame_time=0.5, lags=25)
    assert msd["msd_raw_nm2"].to_numpy() == pytest.approx(as_trackpy(table, 25).to_numpy(), rel=1e-10)
    assert msd["lag_s"].to_numpy() == pytest.approx(0.5 * np.arange(1, 26))


def test_localization_error_is_taken_off_and_diffusion_stays():
    table = walks(400, 150, 1.0, error=1.5, seed=3)
    msd = mean_squared_displacement(table, lags=20, motion={})
    part = (msd["msd_raw_nm2"] - msd["msd_nm2"]).to_numpy()
    assert part == pytest.approx(2 * 1.5**2 * (0.8**2 + 1.2**2), rel=1e-9)  # 4σ² with σ² the mean of both axes
    expected = 2.0 * msd["lag_frames"] * (1 - 1 / 150)  # two axes of 1 nm² a frame; 1/n goes with the drift
    assert (np.abs(msd["msd_nm2"] - expected) < 4 * msd["msd_std_nm2"]).all()
    assert msd["msd_std_nm2"].iloc[0] < 0.1


def test_pairs_over_gaps_count_as_often_as_both_ends_are_seen():
    table = walks(40, 30, 1.0, seed=5, missed=0.3)
    msd = mean_squared_displacement(table, lags=10).set_index("lag_frames")
    seen = np.zeros((40, 30), bool)
    seen[table["frame"], table["particle"]] = True
    for lag in (1, 4, 10):
        assert msd.loc[lag, "pairs"] == np.sum(seen[lag:] & seen[:-lag])


def test_numbers_that_both_layers_use_are_two_tracks():
    first, second = walks(50, 20, 1.0, seed=6), walks(50, 20, 3.0, seed=7).assign(layer=2)
    msd = mean_squared_displacement(pd.concat([first, second], ignore_index=True), lags=5)
    alone = mean_squared_displacement(second, lags=5)
    assert msd.loc[msd["layer"] == 2, "msd_nm2"].to_numpy() == pytest.approx(alone["msd_nm2"].to_numpy())


def test_a_lone_particle_keeps_its_own_motion():
    line = pd.DataFrame({"frame": range(20), "particle": 0, "layer": 1, "y_nm": 2.0 * np.arange(20), "x_nm": 0.0})
    msd = mean_squared_displacement(line, lags=3)
    assert msd["msd_nm2"].to_numpy() == pytest.approx(4.0 * np.arange(1, 4) ** 2)
    assert msd["msd_std_nm2"].isna().all()
    assert "no error bars" in msd.attrs["note"]


def test_unlinked_particles_are_refused_with_what_is_needed():
    with pytest.raises(ValueError, match="at least 2 frames"):
        mean_squared_displacement(walks(5, 4, 1.0).assign(particle=-1))
    with pytest.raises(ValueError, match="lags must be 1 or more"):
        mean_squared_displacement(walks(5, 4, 1.0), lags=0)


@pytest.fixture(scope="module")
def turning():
    """A layer of 0.2 nm amplitude per axis that drifts and turns, with its true motion."""
    rng, sites = np.random.default_rng(8), hexagonal_lattice(10.0, 3.0, (60.0, 40.0), 55.0)
    shift, turn = np.cumsum(rng.normal(0, 1.5, (60, 2)), axis=0), np.radians(np.cumsum(rng.normal(0, 0.1, 60)))
    shift, turn = shift - shift[0], turn - turn[0]
    z = sites @ [1j, 1] + 0.2 * rng.standard_normal((60, len(sites), 2)) @ [1j, 1]
    z = (z - (40 + 60j)) * np.exp(1j * turn)[:, None] + (40 + 60j) + (shift @ [1j, 1])[:, None]
    t, k = np.indices(z.shape).reshape(2, -1)
    table = pd.DataFrame({"frame": t, "particle": k, "layer": 1, "y_nm": z.imag.ravel(), "x_nm": z.real.ravel()})
    return table, shift, np.degrees(turn)


def test_drift_and_turn_of_a_layer_are_those_simulated(turning):
    table, shift, turn = turning
    motion = motion_table(site_occupancy(table), dose=2.5)
    assert np.abs(motion[["y_nm", "x_nm"]].to_numpy() - shift).max() < 0.2
    assert np.abs(motion["turn_deg"] - turn).max() < 0.1
    assert motion["cumulative_dose_e_per_A2"].to_numpy() == pytest.approx(2.5 * np.arange(1, 61))
    assert "cumulative_dose_e_per_A2" not in motion_table(site_occupancy(table))


def test_vibrating_particles_reach_twice_the_variance_over_both_axes(turning):
    table, *_ = turning
    msd = mean_squared_displacement(table, lags=20, motion=site_occupancy(table))
    sites = table["particle"].nunique()
    expected = 4 * 0.2**2 * (1 - 3 / (2 * sites))  # three of 2n degrees of freedom are the layer's motion
    assert msd["msd_nm2"].mean() == pytest.approx(expected, rel=0.03)
    assert mean_squared_displacement(table, lags=20)["msd_nm2"].iloc[-1] > 1.3 * expected  # the turn is left in
