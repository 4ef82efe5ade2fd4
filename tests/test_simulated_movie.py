"""Simulated movies: tracks, vibrations, drift, rotation and growth are what the truth says."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from moirelib.crystal import hexagonal_lattice
from moirelib.data import path
from moirelib.movies import read_movie
from moirelib.simulation import (
    CameraConfig,
    LatticeConfig,
    Layer,
    LiquidConfig,
    MovieConfig,
    Scene,
    dynamical_matrix,
    make_sample,
    scene_with_margin,
    simulate_movie,
)

FIELD = (120.0, 150.0)
CLEAR = LiquidConfig(water=0.0, windows=0.0, beam=0.0, clouds=0.0, blur=0.0)
BRIGHT = CameraConfig(dose=300.0, readout_noise=0.0)


def hexagons(spacing=20.0, diameter=14.0, layers=2) -> Scene:
    built, first = [], 0
    for i in range(layers):
        at = hexagonal_lattice(spacing, 10.0 * i, (60.0, 75.0), 110.0)
        at = at[np.all((at > -spacing) & (at < np.array(FIELD) + spacing), axis=1)]
        ids = first + np.arange(len(at))
        built.append(Layer(at, np.full(len(at), diameter), spacing, 10.0 * i, 20.0 * i, ids=ids))
        first += len(at)
    return Scene(tuple(built), FIELD)


def film(config, scene=None, seed=1):
    return simulate_movie(scene or hexagons(), 1.0, config, seed, CLEAR, BRIGHT, mean_free_path=20.0)


def tracks(movie):
    return movie.truth.set_index(["frame", "particle"])[["y_nm", "x_nm"]]


def test_drift_moves_every_particle_by_the_drift():
    movie = film(MovieConfig(frames=4, drift=(1.5, -0.5), drift_walk=0.3))
    at = tracks(movie)
    for t in range(1, 4):
        both = at.loc[t].join(at.loc[0], rsuffix="_0").dropna()
        moved = both[["y_nm", "x_nm"]].to_numpy() - both[["y_nm_0", "x_nm_0"]].to_numpy()
        np.testing.assert_allclose(moved, np.broadcast_to(movie.drift[t], moved.shape), atol=1e-6)
    assert not np.allclose(np.diff(movie.drift, axis=0), (1.5, -0.5))


def test_rotation_keeps_distances_and_turns_by_the_angle():
    movie = film(MovieConfig(frames=3, rotation=2.0), hexagons(layers=1))
    at = tracks(movie)
    both = at.loc[2].join(at.loc[0], rsuffix="_0").dropna().to_numpy() + 0.5  # truth counts from the pixel's middle
    now, first = both[:, :2] - np.array(FIELD) / 2, both[:, 2:] - np.array(FIELD) / 2
    angle = np.degrees(np.arctan2(now[:, 0], now[:, 1]) - np.arctan2(first[:, 0], first[:, 1]))
    far = np.hypot(*first.T) > 10
    np.testing.assert_allclose((angle[far] + 180) % 360 - 180, 4.0, atol=1e-6)
    np.testing.assert_allclose(np.hypot(*now.T), np.hypot(*first.T), atol=1e-6)


def test_independent_vibration_has_the_asked_variance():
    movie = film(MovieConfig(frames=60, vibration=0.7))
    spread = movie.truth.groupby("particle")[["y_nm", "x_nm"]].var().dropna().mean()
    np.testing.assert_allclose(spread, 0.49, rtol=0.05)


@pytest.mark.slow
def test_elastic_movie_carries_the_phonons_of_its_dynamical_matrix():
    """Mean power of the displacement waves u(q) in the truth table against kT over the dynamical matrix."""
    spacing, spring, site = 20.0, 3.0, 3.0  # a stiff site makes the finite cluster's middle like an endless crystal
    movie = film(MovieConfig(frames=400, spring_constant=spring, site_stiffness=site), hexagons(layers=1))
    moved = movie.truth.merge(movie.sites, on=["particle", "layer"], suffixes=("", "_site"))
    moved[["u_y", "u_x"]] = moved[["y_nm", "x_nm"]].to_numpy() - moved[["y_nm_site", "x_nm_site"]].to_numpy()
    whole = moved.groupby("particle")["frame"].transform("count") == 400
    u = moved[whole].pivot(index="frame", columns="particle", values=["u_y", "u_x"])
    sites = movie.sites.set_index("particle").loc[u["u_y"].columns, ["y_nm", "x_nm"]].to_numpy()
    k = 4 * np.pi / (np.sqrt(3) * spacing)
    for q in k * np.array([[0.25, 0.0], [0.0, 0.3], [0.35, 0.2]]):
        wave = np.exp(-1j * sites @ q) / np.sqrt(len(sites))
        modes = np.stack([u["u_y"].to_numpy() @ wave, u["u_x"].to_numpy() @ wave])
        power = np.trace(modes @ modes.conj().T).real / 400
        expected = np.trace(np.linalg.inv(dynamical_matrix(q, spacing, 0.0, spring, site)))
        assert power == pytest.approx(expected, rel=0.12)


def test_events_explain_every_change_of_the_number_of_particles():
    scene = replace(hexagons(), field=(400.0, 400.0))  # all particles in view
    layers = tuple(layer.shift((100.0, 100.0)) for layer in scene.layers)
    config = MovieConfig(frames=6, growth=((1.0, 1.0), (0.3, 0.9)), detachment=0.05)
    movie = simulate_movie(replace(scene, layers=layers), 4.0, config, 3, CLEAR, BRIGHT)
    counts = movie.truth.groupby(["layer", "frame"]).size()
    assert len(movie.events) > 0
    assert set(movie.events["event"]) == {"attach", "detach"}
    for number in (1, 2):
        sign = movie.events.query("layer == @number").assign(n=lambda e: np.where(e["event"] == "attach", 1, -1))
        change = sign.groupby("frame")["n"].sum().reindex(range(1, 6), fill_value=0).to_numpy()
        np.testing.assert_array_equal(np.diff(counts.loc[number]), change)


def test_images_show_particles_where_the_truth_says():
    movie = film(MovieConfig(frames=3, drift=(2.0, 1.0), vibration=0.5), hexagons(spacing=30.0, layers=1))
    for p in movie.truth.itertuples():
        if 8 < p.y < FIELD[0] - 9 and 8 < p.x < FIELD[1] - 9:
            y, x = round(p.y), round(p.x)
            window = movie.frames[p.frame, y - 8 : y + 9, x - 8 : x + 9].astype(float)
            dark = np.clip(np.quantile(window, 0.9) - window, 0, None)
            rows, columns = np.indices(window.shape)
            at = np.array([np.sum(c * dark) / dark.sum() for c in (rows, columns)]) - 8 + [y, x]
            assert np.hypot(*(at - [p.y, p.x])) < 0.6


def test_flicker_is_in_the_frames():
    movie = film(MovieConfig(frames=8, flicker=0.1))
    mean = movie.frames.mean(axis=(1, 2)) - BRIGHT.offset
    np.testing.assert_allclose(mean / mean.mean(), movie.brightness / movie.brightness.mean(), rtol=0.01)


def test_same_seed_same_movie_another_seed_another():
    config = MovieConfig(frames=2, vibration=0.5)
    a, b, c = (film(config, seed=s).frames for s in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert np.any(a != c)


def test_growth_must_be_given_for_every_layer():
    with pytest.raises(ValueError, match="one .start, end. per layer: 2, got 1"):
        film(MovieConfig(frames=3, growth=((0.5, 1.0),)))


def test_margin_reaches_beyond_the_field_with_defects_in_place():
    config = LatticeConfig(shapes=("sphere",), edge=0.0, island=0.0, single_layer=0.0, vacancies=(0.1, 0.1))
    scene = scene_with_margin(config, (200.0, 200.0), np.random.default_rng(0), 60.0, 20.0)
    for layer in scene.layers:
        assert layer.positions.min() < -40
        assert layer.positions.max() > 240
        gaps = np.array([d.position for d in layer.defects if d.kind == "vacancy"])
        distance = np.hypot(*(gaps[:, None] - layer.positions[None]).transpose(2, 0, 1)).min(axis=1)
        assert np.median(distance) > 0.7 * layer.spacing


def test_saved_movie_is_read_back_with_its_calibration(tmp_path):
    movie = film(MovieConfig(frames=3, frame_time=0.25))
    movie.save(tmp_path, "m")
    again = read_movie(tmp_path / "m.tif")
    np.testing.assert_array_equal(np.asarray(again.data), movie.frames)
    assert again.pixel_size == pytest.approx(1.0, rel=1e-3)
    assert again.frame_time == pytest.approx(0.25)
    assert len(pd.read_csv(tmp_path / "m_truth.csv")) == len(movie.truth)


def test_shipped_sample_is_what_its_command_makes(tmp_path):
    make_sample(tmp_path)
    truth, again = (pd.read_csv(folder / "sample_truth.csv") for folder in (path("sample.tif").parent, tmp_path))
    pd.testing.assert_frame_equal(truth, again, atol=2e-4)
    shipped, remade = (np.asarray(read_movie(f / "sample.tif").data) for f in (path("sample.tif").parent, tmp_path))
    # On another processor a few Poisson means are rounded differently, and all that is drawn after them is other noise.
    difference = shipped.astype(float) - remade
    blocks = difference.reshape(len(difference), 48, 8, 48, 8).mean(axis=(2, 4))
    assert blocks.std() <= 1.2 * difference.std() / 8
    assert difference.std() < 0.1 * shipped.std()
