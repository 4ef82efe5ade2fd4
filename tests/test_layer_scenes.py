"""Scenes of the benchmark of layers told apart: both simulators draw what a family says; scores know any layers."""

import json
import sys
from pathlib import Path

import beer_lambert
import numpy as np
import pandas as pd
import pytest
from scipy.spatial import cKDTree

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("the benchmarks are only in a checkout", allow_module_level=True)
sys.path.insert(0, str(BENCHMARKS))

import layer_scenes  # noqa: E402
import layers_told_apart  # noqa: E402

from moirelib.validation import score_particles  # noqa: E402

SIMULATED = [family for family in layer_scenes.FAMILIES if family != layer_scenes.SEMI_REAL]
SEED = 990  # development; the table's seeds are 0 to 29


@pytest.fixture(scope="module", params=layer_scenes.SIMULATORS)
def scenes(request):
    """A scene of every simulated family by one simulator, drawn once."""
    return {family: layer_scenes.draw_scene(family, request.param, SEED) for family in SIMULATED}


def layers(problem):
    return [table[["y", "x"]].to_numpy() for _, table in problem.truth.groupby("layer")]


def spacing(points):
    """Median distance to the nearest neighbours (px)."""
    return np.median(cKDTree(points).query(points, k=4)[0][:, 1:])


def test_particles_are_dark_where_the_truth_says(scenes):
    for family, problem in scenes.items():
        assert problem.frame.dtype == np.float32
        yx = problem.truth[["y", "x"]].round().astype(int).to_numpy().clip(0, len(problem.frame) - 1)
        assert problem.frame[tuple(yx.T)].mean() < problem.frame.mean() - 0.2 * problem.frame.std(), family


def test_particles_of_one_layer_do_not_overlap(scenes):
    for family, problem in scenes.items():
        for _, table in problem.truth.groupby("layer"):
            pairs = cKDTree(table[["y", "x"]]).query_pairs(2 * table["diameter"].max(), output_type="ndarray")
            distance = np.hypot(*np.diff(table[["y", "x"]].to_numpy()[pairs], axis=1)[:, 0].T)
            assert np.all(distance > table["diameter"].to_numpy()[pairs].mean(axis=1)), family


def test_families_are_what_their_names_say(scenes):
    ratio = np.divide(*sorted(map(spacing, layers(scenes["unequal spacings"])), reverse=True))
    assert 1.13 < ratio < 1.37
    sizes = scenes["unequal sizes"].truth.groupby("layer")["diameter"].median()
    assert sizes.max() / sizes.min() == pytest.approx(4 / 3, rel=0.03)
    assert len(layers(scenes["three layers"])) == 3
    assert len(layers(scenes["one layer"])) == 1
    assert len(layers(scenes["islands"])[1]) < 0.4 * len(layers(scenes["islands"])[0])
    for family, low, high in (("small particles", 5.8, 8.2), ("large particles", 58, 92)):
        assert low < scenes[family].truth["diameter"].median() < high
    points = layers(scenes["vacancies and strain"])[0]
    sites = len(scenes["vacancies and strain"].frame) ** 2 / (np.sqrt(0.75) * spacing(points) ** 2)
    assert len(points) / sites == pytest.approx(0.85, abs=0.06)


@pytest.mark.parametrize("index", range(20))
def test_a_field_of_small_twist_holds_a_moire_period(index):
    specimen = layer_scenes.draw_specimen("small twist", np.random.default_rng(index))
    one, other = specimen.sheets
    twist = abs(other.angles[0] - one.angles[0])
    assert 0.8 <= twist <= 2.5
    beat = abs(1 / one.spacing - np.exp(1j * np.radians(twist)) / other.spacing)
    assert 1 / beat <= specimen.size


def test_a_scene_depends_on_its_seed_alone():
    frames = [layer_scenes.draw_scene("islands", "beer-lambert", seed).frame for seed in (SEED, SEED, SEED + 1)]
    assert np.array_equal(frames[0], frames[1])
    assert not np.array_equal(frames[0], frames[2])


def test_grains_of_the_other_simulator_meet_without_overlap():
    sheet = beer_lambert.Sheet(20.0, 15.0, (0.0, 20.0, 45.0), jitter=0.0)
    points = beer_lambert.draw_sheet(np.random.default_rng(2), 300, sheet)
    assert cKDTree(points).query(points, k=2)[0][:, 1].min() > 16
    assert len(points) > 0.9 * 300**2 / (np.sqrt(0.75) * 400)


def test_three_layers_are_scored_under_their_best_order():
    problem = layer_scenes.draw_scene("three layers", "beer-lambert", SEED)
    found = problem.truth.assign(layer=problem.truth["layer"].map({1: 2, 2: 3, 3: 1}), layer_confidence=1.0)
    row = layers_told_apart.score(found, problem)
    assert row["f1"] == row["assignment"] == row["f1_oracle"] == 1
    assert row["layers"] == row["true_layers"] == 3
    assert (row["recall"], row["false"]) == (1, 0)
    assert np.sum(row["tenths"], axis=1) == pytest.approx(np.sum(row["tenths"][0]))
    worse = layers_told_apart.score(found.iloc[len(found) // 2 :], problem)
    assert worse["recall"] < 0.6
    assert worse["false"] == 0
    merged = found.assign(layer=found["layer"].clip(upper=2))
    assert layers_told_apart.score(merged, problem)["assignment"] == pytest.approx(2 / 3, abs=0.05)
    assert layers_told_apart.score(merged, problem)["f1_oracle"] == 1


def test_a_find_too_many_costs_the_oracle_too():
    truth = pd.DataFrame({"frame": 0, "layer": [1, 2], "y_nm": [30.0, 60.0], "x_nm": [30.0, 60.0]})
    more = pd.concat([truth, truth.iloc[:1].assign(y_nm=60.0)], ignore_index=True)
    assert score_particles(more, truth, 10.0, (100.0, 100.0))["f1_agnostic"] == pytest.approx(0.8)


def test_a_stopped_run_goes_on(tmp_path, monkeypatch, capsys):
    rows = tmp_path / "rows.jsonl"
    told = {"f1": 1.0, "f1_agnostic": 1.0, "f1_oracle": 1.0, "assignment": 1.0, "layers": 1, "true_layers": 1}
    told |= dict.fromkeys(("diameter_ratio", "confidence", "recall", "recall_close", "false", "s"))
    told |= {"tenths": np.zeros((3, 10)).tolist()}
    row = {"family": "one layer", "simulator": "ours", "seed": 5, "tag": "now"} | told
    rows.write_text(json.dumps(row) + "\n" + json.dumps(row | {"tag": "before", "f1": 0.0}) + '\n{"family": "isl')
    monkeypatch.setattr(layers_told_apart, "score_scene", None)  # nothing is scored again
    words = ["layers", "--families", "one layer", "--simulator", "ours", "--seeds", "5:6", "--tag", "now"]
    monkeypatch.setattr(sys, "argv", [*words, "--rows", str(rows)])
    layers_told_apart.main()
    table = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert table["one layer"]["ours"]["f1"] == 1.0
