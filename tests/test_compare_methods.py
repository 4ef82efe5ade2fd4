"""The layer benchmark: methods keep their contract, metrics count right, losses and networks are the published ones."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import beer_lambert
import numpy as np
import pandas as pd
import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("the benchmarks are only in a checkout", allow_module_level=True)
sys.path.insert(0, str(BENCHMARKS))

import compare_methods  # noqa: E402
import families  # noqa: E402
import methods  # noqa: E402
import networks  # noqa: E402

from moirelib.decomposition import TrainingConfig  # noqa: E402
from moirelib.simulation import LibraryConfig, make_library  # noqa: E402
from moirelib.validation import score_layers  # noqa: E402


@pytest.fixture(scope="module")
def problem():
    """A small scene of the benchmark's own kind, of a development seed."""
    config = replace(families.FAMILIES["spheres"], shape=(160, 160))
    return families.make_problem("spheres", config, 990, 1, 0)


def check_contract(solved, problem):
    masks, particles = solved
    assert masks.shape == problem.masks.shape
    assert masks.min() >= 0
    assert masks.max() <= 1
    assert set(particles["layer"]) <= {1, 2}
    assert {"y_nm", "x_nm"} <= set(particles.columns)
    assert np.isfinite(particles[["y_nm", "x_nm"]].to_numpy()).all()


CLASSICAL = [name for name in compare_methods.METHODS if name not in networks.NETWORKS]


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSICAL)
def test_methods_give_masks_and_particles(name, problem):
    solved = compare_methods.METHODS[name](problem.frame, problem.pixel_size, problem.diameter, problem.truth)
    check_contract(solved, problem)
    assert len(solved[1]) > 0.3 * len(problem.truth)


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_networks_give_masks_and_particles(name, problem):
    torch.manual_seed(0)
    model = networks.NETWORKS[name].build().eval()
    check_contract(networks.decompose_with(model, problem.frame, problem.pixel_size, problem.diameter), problem)


def test_published_network_has_the_published_number_of_parameters():
    assert networks.NETWORKS["published U-Net"].parameters == 31_030_658


def test_two_decoders_are_small():
    assert 1e6 < networks.NETWORKS["two decoders, soft minimum"].parameters < 2e6


def test_a_network_finds_particles_where_its_masks_are():
    # A "network" that answers with the masks themselves, at working sampling and in the other order.
    y, x = np.meshgrid(20.0 + 40 * np.arange(4), 22.0 + 40 * np.arange(4), indexing="ij")
    points = np.stack([y.ravel(), x.ravel()], axis=1)
    mask = torch.from_numpy(methods.disks(points / 2 - 0.25, 12, (90, 90)).astype(np.float32))
    padded = torch.nn.functional.pad(torch.stack([0 * mask, mask]), (0, 6, 0, 6))
    masks, particles = networks.decompose_with(
        lambda batch: 20 * padded[None] - 10, np.random.default_rng(0).random((180, 180)), 1.0, 24.0
    )
    assert set(particles["layer"]) == {2}
    np.testing.assert_allclose(particles[["y_nm", "x_nm"]].sort_values(["y_nm", "x_nm"]), points, atol=0.3)
    assert masks[1, 20, 22] > 0.9


def random_masks(batch=3):
    rng = np.random.default_rng(1)
    return torch.from_numpy((rng.random((batch, 2, 32, 32)) < 0.5).astype(np.float32))


def test_soft_minimum_is_zero_for_either_order_only():
    masks = random_masks()
    for order in (masks, masks.flip(1)):
        assert networks.soft_minimum(40 * order - 20, masks) < 1e-3
    assert networks.fixed_channels(40 * masks.flip(1) - 20, masks) > 1
    # The trap: everything in both channels. Layers of half the pixels overlap by a quarter, so Dice is 0.8.
    union = masks.amax(dim=1, keepdim=True).expand_as(masks)
    each = 1 - networks.dice(union, masks).mean()
    assert networks.soft_minimum(40 * union - 20, masks) == pytest.approx(float(each), abs=0.01)
    assert float(each) == pytest.approx(0.2, abs=0.02)


def test_bragg_filtering_separates_two_clean_lattices():
    clean = {"twist": 15.0, "electrons": 1e6, "background": 0.0, "vacancies": 0.0, "jitter": 0.0, "blur": 0.03}
    image = beer_lambert.simulate(np.random.default_rng(3), island=False, **clean)
    masks, found = methods.bragg_filtering(image.frame, 1.0, 18.2)
    assert score_image(image, found, masks)["f1"] > 0.9


def test_everything_in_both_layers_scores_two_thirds():
    clean = {"twist": 15.0, "electrons": 1e6, "background": 0.0, "ratio": 0.5}
    image = beer_lambert.simulate(np.random.default_rng(3), island=False, **clean)
    nm = np.concatenate([image.positions, image.positions])
    both = pd.DataFrame({"layer": np.repeat([1, 2], len(nm) // 2), "y_nm": nm[:, 0], "x_nm": nm[:, 1]})
    masks = np.repeat(image.masks.any(axis=0)[None], 2, axis=0)
    assert score_image(image, both, masks, 13.0)["f1"] == pytest.approx(2 / 3, abs=0.01)


def score_image(image, found, masks, diameter=18.2):
    nm = image.positions
    truth = pd.DataFrame({"frame": 0, "layer": image.layers, "y_nm": nm[:, 0], "x_nm": nm[:, 1]})
    return score_layers(found.assign(frame=0), masks, truth, image.masks, diameter, image.frame.shape)


def test_semi_real_truth_lies_on_its_masks():
    try:
        problem = families.make_problem(families.SEMI_REAL, None, 990, 8, 0)
    except OSError as error:
        pytest.skip(str(error))
    yx = problem.truth[["y", "x"]].round().astype(int).clip(0, 511).to_numpy()
    covered = problem.masks[problem.truth["layer"] - 1, yx[:, 0], yx[:, 1]] > 0
    assert covered.mean() > 0.97
    other = problem.masks[2 - problem.truth["layer"], yx[:, 0], yx[:, 1]] > 0
    assert other.mean() < 0.6  # the layers are not copies of one another


def test_every_cell_has_seeds_of_its_own():
    cells = compare_methods.sweep_cells(tuple(compare_methods.METHODS), 3)
    doses = compare_methods.sweep_cells(tuple(compare_methods.METHODS), 3, ["dose"])
    assert doses == [cell for cell in cells if cell.name.startswith("dose=")]
    numbers = [cell.number for cell in cells] + list(range(1, len(families.FAMILIES) + 1))
    assert len(set(numbers)) == len(numbers)
    assert compare_methods.SEED not in (0, 990)


@pytest.fixture
def cell(monkeypatch, tmp_path):
    """A small cell whose results are kept in a folder of its own."""
    monkeypatch.setattr(networks, "BUILD", tmp_path)
    config = replace(families.FAMILIES["spheres"], shape=(128, 128))
    return compare_methods.Cell("spheres", config, 1, ("everything in both", "trackpy + true lattices"), 2)


def test_an_interrupted_run_goes_on(cell, monkeypatch):
    rows = compare_methods.score_scene(cell, 0, 990)
    assert set(rows) == set(cell.methods)
    monkeypatch.setattr(compare_methods, "make_problem", None)  # nothing is simulated again
    assert compare_methods.score_scene(cell, 0, 990) == rows
    with pytest.raises(TypeError):
        compare_methods.score_scene(cell, 0, 991)


def test_a_refused_frame_counts_as_nothing_found(problem):
    def refuse(*_):
        raise ValueError("no")

    row = compare_methods.score(refuse, problem)
    assert row["f1"] == 0
    assert row["error"] == "no"
    assert np.isnan(row["rmse_nm"])


def test_intervals_hold_the_mean_and_missing_values_are_left_out():
    value = compare_methods.mean_interval([0.9, 0.95, float("nan"), 1.0, None])
    assert value["mean"] == pytest.approx(0.95)
    assert 0.9 <= value["low"] < value["mean"] < value["high"] <= 1.0
    assert compare_methods.mean_interval([float("nan")])["mean"] is None


def test_the_last_line_is_one_json_object():
    row = dict.fromkeys(compare_methods.METRICS, 0.5) | {"rmse_nm": float("nan")}
    table = {"spheres": {"moirelib": compare_methods.average([row, row])}}
    line = compare_methods.last_line(table)
    assert "\n" not in line
    assert json.loads(line) == {
        "spheres": {"moirelib": dict.fromkeys(compare_methods.METRICS, 0.5) | {"rmse_nm": None}}
    }


def test_a_training_stopped_by_the_clock_goes_on(tmp_path, monkeypatch):
    config = TrainingConfig(batch=2, crop=32, checkpoint_every=2)
    monkeypatch.setattr(TrainingConfig, "full", classmethod(lambda cls: config))
    library = LibraryConfig(images=2, shape=(64, 64), diameter_px=(12.0, 13.0))
    make_library(tmp_path / "library", library, workers=1, progress=False)
    name = "two decoders, soft minimum"
    stopped = networks.train(name, tmp_path / "library", steps=4, hours=1e-8, folder=tmp_path)
    assert stopped["steps"] == 2
    done = networks.train(name, tmp_path / "library", steps=4, hours=1.0, folder=tmp_path)
    assert (done["steps"], done["images"]) == (4, 8)
    assert networks.load(name, tmp_path)(torch.zeros(1, 1, 32, 32)).shape == (1, 2, 32, 32)
