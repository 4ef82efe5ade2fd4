"""Vibrations from tracks: common motion and noise are removed, and intervals have their nominal coverage."""

import numpy as np
import pandas as pd
import pytest

from moirelib import data, plot
from moirelib.analysis import (
    autocovariance,
    coordination_labels,
    group_vibrations,
    interlayer_correlation,
    layer_vibrations,
    localization_from_covariance,
    measure_vibrations,
    pn_per_um,
    registry,
    site_displacements,
    site_vibrations,
)
from moirelib.crystal import hexagonal_lattice
from moirelib.simulation import stiffness_matrix, thermal_displacements

SPACING, ANGLE = 20.0, 13.0


def crystal(radius=110.0):
    return hexagonal_lattice(SPACING, ANGLE, (200.0, 300.0), radius)


def tracks_of(positions, error=None, layer=1, seen=None):
    """Track table of positions (t, n, 2); error bars (n, 2) are written to the table, but no noise is added."""
    seen = np.ones(positions.shape[:2], bool) if seen is None else seen
    t, k = np.nonzero(seen)
    table = pd.DataFrame({"frame": t, "particle": k + 1000 * layer, "layer": layer})
    table["y_nm"], table["x_nm"] = positions[t, k].T
    if error is not None:
        table["y_std_nm"], table["x_std_nm"] = np.broadcast_to(error, positions.shape[1:])[k].T
    return table


def carried(positions, angle, shift):
    """Positions turned by angle (t,) in degrees from x towards y about their middle, and shifted (t, 2)."""
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    middle = positions.mean(axis=(0, 1))
    turn = np.array([[c, s], [-s, c]])
    return np.einsum("ijt,tnj->tni", turn, positions - middle) + middle + shift[:, None]


def relative_variance(sites, covariance):
    """Variance of an elastic crystal about its own position and orientation."""
    r = sites - sites.mean(axis=0)
    rigid = [np.tile([1.0, 0], len(r)), np.tile([0.0, 1], len(r)), np.stack([r[:, 1], -r[:, 0]], axis=1).ravel()]
    rigid = np.linalg.qr(np.stack(rigid, axis=1))[0]
    inner = np.eye(len(covariance)) - rigid @ rigid.T
    return np.diag(inner @ covariance @ inner).reshape(-1, 2)


# --- Motion that is not vibration ---


def test_rigid_motion_and_steady_strain_are_invisible():
    sites, t = crystal(), np.linspace(0, 1, 40)
    stretched = sites + t[:, None, None] * ((sites - sites.mean(axis=0)) @ [[0.01, 0.002], [0.002, -0.004]])
    rng = np.random.default_rng(1)
    shift, angle = np.cumsum(rng.normal(0, 5, (40, 2)), axis=0), np.cumsum(rng.normal(0, 0.5, 40))
    motion = site_displacements(tracks_of(carried(stretched, angle, shift)))
    assert np.abs(motion.values).max() < 1e-2  # of strains of 1 % over 220 nm
    still = site_displacements(tracks_of(carried(np.broadcast_to(sites, (40, *sites.shape)), angle, shift)))
    assert np.abs(still.values).max() < 1e-6
    np.testing.assert_allclose(still.rotation, angle - angle.mean(), atol=1e-6)
    np.testing.assert_allclose(still.drift, shift - shift.mean(axis=0), atol=1e-5)


def test_a_movie_run_backwards_gives_the_same_displacements_backwards():
    rng, sites = np.random.default_rng(2), crystal(60.0)
    positions = carried(
        sites + rng.normal(0, 0.5, (40, len(sites), 2)), np.linspace(0, 3, 40), rng.normal(0, 2, (40, 2))
    )
    tracks = tracks_of(positions, seen=rng.random((40, len(sites))) > 0.1)
    forward, backward = (
        site_displacements(table, creep=1) for table in (tracks, tracks.assign(frame=39 - tracks["frame"]))
    )
    np.testing.assert_allclose(backward.values[::-1], forward.values, atol=1e-10)
    np.testing.assert_allclose(backward.kept, forward.kept, rtol=1e-12)


def test_missing_frames_do_not_pull_sites_along_with_the_drift():
    sites, frames = crystal(70.0), 60
    path = np.linspace(0, 80, frames)[:, None] * [1.0, 0.5]
    seen = np.ones((frames, len(sites)), bool)
    seen[:25, ::3] = False  # every third particle appears only later, when all have drifted by 33 nm
    motion = site_displacements(tracks_of(sites + path[:, None], seen=seen))
    np.testing.assert_allclose(motion.sites - sites, np.broadcast_to(path.mean(axis=0), sites.shape), atol=1e-3)
    assert np.isnan(motion.values[:25, ::3]).all()
    assert np.nanmax(np.abs(motion.values)) < 1e-3


def test_removing_drift_and_rotation_costs_three_degrees_of_freedom():
    sites = crystal(60.0)
    motion = site_displacements(tracks_of(np.broadcast_to(sites, (12, *sites.shape))))
    assert np.sum(1 - motion.kept) == pytest.approx(3)


def test_a_smooth_stage_leaves_the_layers_own_motion():
    sites, frames = crystal(60.0), 800
    covariance = np.linalg.inv(stiffness_matrix(sites, SPACING, 1.5, 0.1).toarray())
    u = thermal_displacements(sites, SPACING, 1.5, frames, np.random.default_rng(2), 0.1)
    tracks = tracks_of(sites + u + np.linspace(0, 40, frames)[:, None, None] * [1.0, -1.0], error=1e-9)
    variance = {w: 0.0 for w in (1, 51)}
    for window in variance:
        table = site_vibrations(site_displacements(tracks, drift_window=window))
        variance[window] = (table["std_y_nm"] ** 2 + table["std_x_nm"] ** 2).mean() / 2
    assert variance[51] == pytest.approx(np.diag(covariance).mean(), rel=0.05)
    assert variance[1] == pytest.approx(relative_variance(sites, covariance).mean(), rel=0.05)
    assert variance[1] < 0.8 * variance[51]


# --- Amplitudes ---


@pytest.mark.parametrize("seed", [11, 12])
def test_injected_vibration_is_recovered_when_the_error_equals_it(seed):
    rng, sites, frames = np.random.default_rng(seed), crystal(), 250
    amplitude = np.array([1.5, 0.8])  # along y and x
    error = amplitude * rng.uniform(0.5, 1.5, (len(sites), 1))
    moved = sites + amplitude * rng.standard_normal((frames, len(sites), 2))
    shift = np.cumsum(rng.normal(0, 2, (frames, 2)), axis=0)
    moved = carried(moved, np.cumsum(rng.normal(0, 0.02, frames)), shift)
    moved = moved + error * rng.standard_normal(moved.shape)
    seen = rng.random(moved.shape[:2]) > 0.1
    motion = site_displacements(tracks_of(moved, error, seen=seen))
    mean = layer_vibrations(motion)
    assert mean["variance_y_nm2"] == pytest.approx(1.5**2, rel=0.05)
    assert mean["variance_x_nm2"] == pytest.approx(0.8**2, rel=0.05)
    assert abs(mean["variance_y_nm2"] - 1.5**2) < 4 * mean["variance_y_std_nm2"]
    # without correction, the variance is larger by that of the error
    assert mean["std_raw_y_nm"] ** 2 - mean["variance_y_nm2"] == pytest.approx(np.mean(error[:, 0] ** 2), rel=1e-6)


@pytest.mark.parametrize(("frames", "correlation_time"), [(60, 0.0), (600, 1.0)])
def test_intervals_cover_the_spring_constant(frames, correlation_time):
    sites, hits = crystal(), []
    covariance = np.linalg.inv(stiffness_matrix(sites, SPACING, 1.5, 0.3).toarray())
    for seed in (21, 22):
        rng = np.random.default_rng(seed)
        u = thermal_displacements(sites, SPACING, 1.5, frames, rng, 0.3, correlation_time)
        error = u.std() * np.ones((len(sites), 2))  # as large as the vibration
        moved = sites + u + error * rng.standard_normal(u.shape)
        motion = site_displacements(tracks_of(moved, error))
        table = site_vibrations(motion)
        k = 1 / (relative_variance(sites, covariance) / motion.kept)
        for i, axis in enumerate("yx"):
            hits.append(table[f"k_{axis}_low_kt_nm2"].le(k[:, i]) & table[f"k_{axis}_high_kt_nm2"].ge(k[:, i]))
    assert 0.90 <= np.mean(hits) <= 0.99


def test_correlated_frames_count_less():
    """Of an Ornstein-Uhlenbeck process, the variance has T tanh(1/τ) independent samples."""
    rng, frames, tau = np.random.default_rng(3), 2000, 4.0
    sites, memory = crystal(70.0), np.exp(-1 / 4.0)
    u = rng.standard_normal((frames, len(sites), 2))
    for t in range(1, frames):
        u[t] = memory * u[t - 1] + np.sqrt(1 - memory**2) * u[t]
    motion = site_displacements(tracks_of(sites + u, error=1e-9))
    samples = site_vibrations(motion)["samples"].mean()
    assert samples == pytest.approx(frames * np.tanh(1 / tau), rel=0.1)
    np.testing.assert_allclose(autocovariance(motion, 6), np.exp(-np.arange(7) / tau)[:, None] * [1, 1], atol=0.05)


@pytest.mark.parametrize(("frames", "tau"), [(12, 0.0), (80, 3.0)])
def test_few_frames_do_not_shrink_the_variance(frames, tau):
    """The estimated sites absorb 1/T of the variance, or 2τ/T for correlated motion: 8 % here."""
    sites, memory, found = crystal(), np.exp(-1 / tau) if tau else 0.0, []
    for seed in range(71, 81):
        u = np.random.default_rng(seed).standard_normal((frames, len(sites), 2))
        for t in range(1, frames):
            u[t] = memory * u[t - 1] + np.sqrt(1 - memory**2) * u[t]
        table = site_vibrations(site_displacements(tracks_of(sites + u, error=1e-9), strain=None))
        found.append((table["std_y_nm"] ** 2 + table["std_x_nm"] ** 2).mean() / 2)
    assert np.mean(found) == pytest.approx(1, abs=0.035)


def test_upper_bound_of_k_is_infinite_when_noise_explains_everything():
    rng, sites = np.random.default_rng(4), crystal(60.0)
    moved = sites + rng.standard_normal((100, len(sites), 2))
    table = site_vibrations(site_displacements(tracks_of(moved, error=1.0)))
    assert np.mean(np.isinf(table["k_y_high_kt_nm2"])) > 0.9
    assert table["k_y_low_kt_nm2"].gt(1).all()  # but the lower bound shows that it is stiff
    gone = np.isinf(table["k_y_kt_nm2"])
    assert 0.2 < gone.mean() < 0.8
    assert table["std_y_nm"].isna().equals(gone)


def test_equipartition_in_piconewton():
    # 1 kT at 25 °C is 4.116 pN nm; a trap of 100 pN/µm holds a particle to 6.4 nm
    assert pn_per_um(1.0) == pytest.approx(4116, rel=1e-3)
    assert np.sqrt(1 / (100 / pn_per_um(1.0))) == pytest.approx(6.42, rel=1e-2)
    assert pn_per_um(1.0, 2 * 298.15) == pytest.approx(2 * pn_per_um(1.0))


# --- Localization error from the data ---


def test_localization_error_is_found_from_correlated_motion():
    sites, rng = crystal(), np.random.default_rng(31)
    u = thermal_displacements(sites, SPACING, 1.5, 800, rng, 0.3, 2.0)
    error = u.std() * np.array([1.0, 0.5])
    motion = site_displacements(tracks_of(sites + u + error * rng.standard_normal(u.shape)))
    assert motion.localization_std is None
    found = localization_from_covariance(motion)
    assert found.note == ""
    np.testing.assert_allclose(found.std, error, rtol=0.1)
    assert np.all(found.largest > error)
    mean = layer_vibrations(motion)
    kept = relative_variance(sites, np.linalg.inv(stiffness_matrix(sites, SPACING, 1.5, 0.3).toarray())).mean()
    assert mean["variance_y_nm2"] == pytest.approx(kept, rel=0.1)


def test_uncorrelated_frames_give_no_localization_error_rather_than_a_wrong_one():
    rng, sites = np.random.default_rng(32), crystal(70.0)
    motion = site_displacements(tracks_of(sites + rng.standard_normal((200, len(sites), 2))))
    found = localization_from_covariance(motion)
    assert np.isnan(found.std).all()
    assert "cannot be told apart" in found.note
    table = site_vibrations(motion)
    assert "cannot be told apart" in table.attrs["note"]
    assert table[["std_y_nm", "k_y_kt_nm2", "k_x_low_kt_nm2"]].isna().all(axis=None)
    np.testing.assert_allclose(table["std_raw_y_nm"], 1.0, atol=0.25)


# --- Layer, groups, two layers ---


def test_anisotropy_and_its_axis():
    rng, sites = np.random.default_rng(41), crystal()
    along = np.radians(30.0)  # from x towards y
    major, minor = np.array([np.sin(along), np.cos(along)]), np.array([np.cos(along), -np.sin(along)])
    z = rng.standard_normal((300, len(sites), 2))
    u = 1.2 * z[..., :1] * major + 0.9 * z[..., 1:] * minor
    mean = layer_vibrations(site_displacements(tracks_of(sites + u + 0.5 * rng.standard_normal(u.shape), error=0.5)))
    assert mean["anisotropy"] == pytest.approx((1.2 / 0.9) ** 2, abs=4 * mean["anisotropy_std"])
    assert mean["anisotropy_std"] < 0.1
    assert mean["major_axis_deg"] == pytest.approx(30, abs=3)
    assert mean["isotropy_p"] < 1e-6
    round_motion = layer_vibrations(site_displacements(tracks_of(sites + z, error=1e-9)))
    assert round_motion["isotropy_p"] > 1e-3


def test_lindemann_parameters_of_independent_particles():
    rng, sites = np.random.default_rng(42), crystal()
    motion = site_displacements(tracks_of(sites + rng.normal(0, 1.0, (400, len(sites), 2)), error=1e-9))
    mean = layer_vibrations(motion)
    assert mean["lindemann"] == pytest.approx(np.sqrt(2) / SPACING, rel=0.02)
    assert mean["lindemann_relative"] == pytest.approx(2 / SPACING**2, rel=0.03)  # ⟨|u_i - u_j|²⟩ = 4


def test_edges_and_vacancies_are_told_apart_and_edges_are_softer():
    sites = crystal()
    middle = np.argmin(np.linalg.norm(sites - sites.mean(axis=0), axis=1))
    neighbours = np.linalg.norm(sites - sites[middle], axis=1)
    around = np.delete((neighbours > 1) & (neighbours < 1.1 * SPACING), middle)
    rim = np.linalg.norm(sites - sites.mean(axis=0), axis=1)
    sites, rim = np.delete(sites, middle, axis=0), np.delete(rim, middle)
    labels = coordination_labels(sites)
    assert np.array_equal(labels == "vacancy", around)
    assert np.all(labels[rim > 108 - 0.5 * SPACING] == "edge")
    assert np.all(labels[(rim < 85) & ~around] == "bulk")
    u = thermal_displacements(sites, SPACING, 1.5, 400, np.random.default_rng(43), 0.1)
    table = site_vibrations(site_displacements(tracks_of(sites + u, error=1e-9)))
    groups = group_vibrations(table, dict(zip(table["particle"], labels, strict=True)))
    assert groups.loc["edge", "variance_nm2"] > 1.3 * groups.loc["bulk", "variance_nm2"]
    assert groups.loc["vacancy", "variance_nm2"] > 1.05 * groups.loc["bulk", "variance_nm2"]
    assert groups["sites"].sum() == len(sites)


def test_particles_in_hollows_of_the_other_layer_are_found_to_vibrate_less():
    rng, base = np.random.default_rng(47), crystal(130.0)
    upper = hexagonal_lattice(SPACING, ANGLE + 7.0, (200.0, 300.0), 110.0)
    place = registry(upper, base)["registry"].to_numpy()
    amplitude = np.where(place == "hollow", 0.5, 1.0)[:, None]
    seen = upper + amplitude * rng.standard_normal((300, len(upper), 2)) + 0.7 * rng.standard_normal((300, 1, 2))
    motion = site_displacements(tracks_of(seen, error=1e-9))
    groups = group_vibrations(site_vibrations(motion), registry(motion.sites, base)["registry"].to_numpy())
    assert groups.loc["hollow", "variance_nm2"] == pytest.approx(0.25, rel=0.05)
    for other in ("top", "bridge"):
        assert groups.loc[other, "variance_nm2"] == pytest.approx(1.0, rel=0.05)


def test_coupled_layers_correlate_and_others_do_not():
    rng, sites = np.random.default_rng(44), crystal(90.0)
    first = rng.standard_normal((400, len(sites), 2))
    second = 0.6 * first + 0.8 * rng.standard_normal(first.shape)
    noise = rng.standard_normal((2, *first.shape))  # as large as the vibration: it must not dilute the correlation
    one = site_displacements(tracks_of(sites + first + noise[0], error=1.0))
    for moved, expected in ((second, 0.6), (rng.standard_normal(first.shape), 0.0)):
        other = site_displacements(tracks_of(sites + 3.0 + moved + noise[1], error=1.0, layer=2), layer=2)
        table = interlayer_correlation(one, other, edges=[0, 8, 20, 40])
        assert table["correlation"][0] == pytest.approx(expected, abs=0.05)
        inside = (table["null_low"] <= table["correlation"]) & (table["correlation"] <= table["null_high"])
        assert inside[0] == (expected == 0)
        assert abs(table["correlation"][2]) < 0.05


def test_missed_particles_do_not_dilute_the_correlation_of_layers():
    rng, sites = np.random.default_rng(45), crystal(90.0)
    moved = rng.standard_normal((600, len(sites), 2))
    layers = []
    for layer in (1, 2):
        table = tracks_of(sites + 3.0 * layer + moved, error=1e-6, layer=layer)
        layers.append(site_displacements(table[rng.random(len(table)) > 0.2], layer=layer))
    assert interlayer_correlation(*layers, edges=[0, 8])["correlation"][0] == pytest.approx(1, abs=0.03)


# --- Tables and errors ---


def test_both_layers_come_in_one_table_with_the_agreed_columns():
    rng, sites = np.random.default_rng(51), crystal(50.0)
    layers = [tracks_of(sites + rng.normal(0, k, (30, len(sites), 2)), error=0.1, layer=k) for k in (1, 2)]
    alone = tracks_of(sites[None, :4], layer=3)  # one frame of a third
    table = measure_vibrations(pd.concat([*layers, alone]))
    agreed = "particle layer y_nm x_nm std_y_nm std_x_nm std_raw_y_nm std_raw_x_nm k_y_kt_nm2 k_x_kt_nm2"
    assert set(agreed.split()) <= set(table)
    mean = table.groupby("layer")["std_y_nm"].mean()
    assert list(mean.index) == [1, 2]
    np.testing.assert_allclose(mean, [1, 2], rtol=0.15)
    assert table.attrs["note"].startswith("layer 3 has tracks in 1 frames")
    assert table["k_y_low_kt_nm2"].lt(table["k_y_kt_nm2"]).all()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: t.drop(columns="particle"), "no column particle"),
        (lambda t: t[t["frame"] < 5], "tracks in 5 frames; vibrations need at least 10"),
        (lambda t: pd.concat([t, t.head(1)]), "stands twice in frame 0"),
        (lambda t: t[t["particle"] < 1002], "has 2 particles"),
        (lambda t: t.assign(particle=-1), "tracks in 0 frames"),
        (lambda t: t.assign(x_nm=t["x_nm"].where(t["particle"] != 1003)), "x_nm in data row 4 is not a number"),
        (
            lambda t: t[(t["particle"] - 1000 + t["frame"]) % 3 > 0].query("particle < 1003"),
            "at least 3 particles in 0",
        ),
    ],
)
def test_bad_tables_are_refused_in_one_line(spoil, message):
    sites = crystal(30.0)
    good = tracks_of(np.broadcast_to(sites, (12, *sites.shape)))
    with pytest.raises(ValueError, match=message) as caught:
        site_displacements(spoil(good))
    assert "\n" not in str(caught.value)


def test_a_particle_seen_only_beside_too_few_others_is_left_out():
    sites = crystal(30.0)
    seen = np.ones((30, len(sites)), bool)
    seen[15:, 0] = False  # and in the first half only one other particle is seen
    seen[:15, 2:] = False
    motion = site_displacements(tracks_of(np.broadcast_to(sites, (30, *sites.shape)), seen=seen))
    assert motion.frames.tolist() == list(range(15, 30))
    assert motion.particles.tolist() == list(range(1001, 1000 + len(sites)))
    assert np.abs(motion.values).max() < 1e-6


def test_too_little_is_refused_in_one_line():
    rng, sites = np.random.default_rng(53), crystal(30.0)
    motion = site_displacements(tracks_of(sites + rng.normal(0, 1, (40, len(sites), 2)), error=0.5))
    cases = [
        (lambda: motion.select(np.zeros(len(sites), bool)), "leaves no particle of layer 1"),
        (lambda: layer_vibrations(motion.select([0])), "at least 2 points, got 1; pass spacing"),
        (lambda: autocovariance(motion, 0), "lags must be 1 or more"),
        (lambda: interlayer_correlation(motion, motion, shuffles=0), "at least 1 shuffle"),
        (lambda: site_vibrations(motion, 95.0), "confidence must be between 0 and 1"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
    assert np.isnan(layer_vibrations(motion.select([0]), SPACING)["lindemann_relative"])  # no neighbour
    assert coordination_labels(np.empty((0, 2))).tolist() == []
    assert coordination_labels(np.zeros((1, 2))).tolist() == ["edge"]


def test_published_trajectories_become_a_track_table():
    try:
        rod = data.trajectories("rod")
    except OSError as error:
        pytest.skip(str(error))
    assert rod["particle"].nunique() == 271
    assert rod["frame"].nunique() == 137
    assert (rod["y_std_nm"] == 1.0).all()
    motion = site_displacements(rod)
    assert motion.values.std(axis=0).max() < 10  # nm: tracks are not mixed up
    with pytest.raises(ValueError, match="rod, prism"):
        data.trajectories("cube")


# --- Figures ---


def test_ellipses_show_the_principal_axes():
    import matplotlib.pyplot as plt

    _, ax = plt.subplots()
    table = pd.DataFrame({"y_nm": [0.0, 0.0], "x_nm": [0.0, 20.0], "std_y_nm": [1.0, np.nan], "std_x_nm": [1.0, 1.0]})
    table["cov_yx_nm2"] = 0.6
    assert plot.show_amplitudes(table, ax, magnify=2.0) is ax
    (ellipse,) = ax.collections
    assert ellipse.get_angles() % 180 == pytest.approx(45)  # y and x move alike
    assert ellipse.get_widths() == pytest.approx(2 * 2 * np.sqrt(1.6))
    assert ellipse.get_heights() == pytest.approx(2 * 2 * np.sqrt(0.4))
    plt.close()


def test_arrows_point_from_the_sites_along_the_displacements():
    import matplotlib.pyplot as plt

    _, ax = plt.subplots()
    rng, sites = np.random.default_rng(61), crystal(30.0)
    motion = site_displacements(tracks_of(sites + rng.normal(0, 1, (12, len(sites), 2))))
    assert plot.show_displacements(motion, 3, ax, magnify=5.0) is ax
    (arrows,) = ax.collections
    np.testing.assert_allclose(arrows.get_offsets(), motion.sites[:, ::-1])
    np.testing.assert_allclose(np.stack([arrows.V, arrows.U], axis=1), 5 * motion.values[3])
    plt.close()
