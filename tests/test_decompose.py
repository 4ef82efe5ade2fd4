"""The main job: the sample, the real frame, semi-real Moiré, and bad input."""

import json
import os
import subprocess
import sys

import beer_lambert
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import tifffile
from trackpy.linking.utils import SubnetOversizeException

import moirelib
from moirelib import data
from moirelib.analysis.pipeline import read_particles
from moirelib.crystal import Lattice, hexagonal_lattice
from moirelib.decomposition import COLUMNS, Found, build_unet, decompose, pipeline, save_weights, summary
from moirelib.decomposition.frame_results import FoundInFrames
from moirelib.movies import Movie
from moirelib.output import output_folder
from moirelib.validation import score_particles, semi_real_moire


def crop(sample, frames, start, stop):
    """The first frames of a square part of the sample, with the particles that are in it."""
    movie, truth = sample
    data = movie.data[:frames, start:stop, start:stop]
    part = Movie(data, movie.pixel_size, movie.frame_time, movie.name)
    edges = start - 0.5, stop - 0.5
    seen = truth[(truth["frame"] < frames) & truth["y"].between(*edges) & truth["x"].between(*edges)]
    return part, seen.assign(**{f"{c}_nm": (seen[c] - start) * movie.pixel_size for c in ("y", "x")})


def score(result, truth):
    field = tuple(n * result.movie.pixel_size for n in result.movie.shape[1:])
    return score_particles(result.particles, truth, truth["diameter_nm"].median(), field)


@pytest.fixture(scope="module")
def whole_sample():
    return data.sample()


@pytest.fixture(scope="module")
def sample(whole_sample):
    return crop(whole_sample, 2, 0, 224)


@pytest.fixture(scope="module")
def result(sample):
    return decompose(sample[0], device="cpu")


@pytest.fixture(scope="module")
def small(whole_sample):
    """One frame of a few spacings: the particles found and those that are there."""
    movie, truth = crop(whole_sample, 1, 100, 260)
    return decompose(movie.frame(0), pixel_size=movie.pixel_size, device="cpu"), truth


def test_sample_comes_apart(sample, result):
    scores = score(result, sample[1])
    assert scores["f1"] > 0.98
    assert scores["assignment"] > 0.99
    assert scores["rmse_nm"] < 2.0


@pytest.mark.slow
def test_the_whole_sample_comes_apart(whole_sample):
    movie, truth = crop(whole_sample, 2, 0, max(whole_sample[0].shape[1:]))
    assert score(decompose(movie, device="cpu"), truth)["f1"] > 0.98


@pytest.mark.slow
def test_three_layers_come_apart(tmp_path):
    """Nothing given but the pixel size; drawn by a simulator that shares no code with moirelib."""
    sheets = [beer_lambert.Sheet(26.0, 18.0, (angle,)) for angle in (3.0, 14.0, 29.0)]
    image = beer_lambert.simulate_stack(np.random.default_rng(7), 256, sheets, absorption=0.5)
    found = decompose(image.frame, pixel_size=1.4, device="cpu")
    truth = pd.DataFrame(1.4 * image.positions, columns=["y_nm", "x_nm"])
    scores = score_particles(found.particles, truth.assign(frame=0, layer=image.layers), 1.4 * 18, (1.4 * 256,) * 2)
    assert scores["f1"] > 0.97
    assert found.layers.shape[:2] == (1, 3)
    found.save(tmp_path / "out")
    assert tifffile.imread(tmp_path / "out" / "layer_3.tif").shape[-2:] == (256, 256)
    assert set(found.summary["twists_deg"]) == {"layer_2", "layer_3"}


def test_weights_of_four_layers_are_refused(sample, tmp_path):
    save_weights(build_unet(4), tmp_path / "four.safetensors")
    with pytest.raises(ValueError, match="four.safetensors is a network of 4 layers"):
        decompose(sample[0], weights=tmp_path / "four.safetensors", device="cpu")


def test_table_has_the_promised_columns(result):
    assert list(result.particles.columns) == COLUMNS
    assert set(result.particles["layer"]) == {1, 2}
    assert result.particles["layer_confidence"].between(0.0, 1.0).all()
    assert (result.particles[["y_std_nm", "x_std_nm", "diameter_std_nm"]] > 0).all().all()


def test_tracks_span_both_frames_for_most_particles(result):
    linked = result.particles[result.particles["particle"] >= 0]
    assert len(linked) > 0.8 * len(result.particles)
    assert linked.groupby("particle")["frame"].nunique().eq(2).all()


def test_layers_are_lazy_uint8_and_agree_with_the_table(sample, result):
    assert isinstance(result.layers, da.Array)
    assert result.layers.shape == (2, 2, *sample[0].shape[1:])
    image = np.asarray(result.layers[0])
    assert image.dtype == np.uint8
    frame = result.particles[result.particles["frame"] == 0]
    height, width = image.shape[1:]
    inside = frame["y"].between(0, height - 1) & frame["x"].between(0, width - 1)
    for number in (1, 2):
        own = frame[inside & (frame["layer"] == number)]
        values = image[number - 1, own["y"].round().astype(int), own["x"].round().astype(int)]
        assert np.mean(values > 127) > 0.9


def test_summary_knows_spacing_and_twist(result):
    assert result.summary["spacing_nm"]["layer_1"] == pytest.approx(39.0, rel=0.03)
    assert result.summary["twist_deg"] == pytest.approx(9.0, abs=1.0)


def test_saved_files_open_with_their_scale(result, tmp_path):
    result.save(tmp_path / "out")
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == [
        "layer_1.tif",
        "layer_2.tif",
        "particles.csv",
        "particles.parquet",
        "summary.json",
    ]
    exact = read_particles(tmp_path / "out" / "particles.parquet")
    pd.testing.assert_frame_equal(exact, result.particles, check_dtype=False, check_exact=True)
    csv = read_particles(tmp_path / "out")
    pd.testing.assert_frame_equal(csv, exact, rtol=1e-5)
    layers = moirelib.read_movie(tmp_path / "out" / "layer_1.tif")
    assert layers.pixel_size == pytest.approx(result.movie.pixel_size, rel=1e-4)
    np.testing.assert_array_equal(np.asarray(layers.data), np.asarray(result.layers[:, 0]))
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["frames"] == 2


@pytest.mark.slow
def test_gain_offset_and_type_do_not_matter(sample, result):
    frame = sample[0].frame(0)
    other = decompose((frame * 0.5 + 32768).astype(np.float64), pixel_size=1.367, device="cpu")
    first = result.particles[result.particles["frame"] == 0]
    assert len(other.particles) == pytest.approx(len(first), rel=0.05)
    assert other.summary["spacing_nm"]["layer_1"] == pytest.approx(result.summary["spacing_nm"]["layer_1"], rel=0.01)


@pytest.mark.slow
def test_bright_particles_are_found_as_well(sample, result):
    inverted = decompose(1000.0 - sample[0].frame(0), pixel_size=1.367, device="cpu")
    first = result.particles[result.particles["frame"] == 0]
    counts = [table["layer"].value_counts().sort_index().to_list() for table in (inverted.particles, first)]
    np.testing.assert_allclose(*counts, rtol=0.06)


def test_a_field_of_a_few_spacings_keeps_two_layers(small):
    assert score(*small)["f1"] > 0.9


@pytest.mark.slow
def test_a_movie_may_begin_without_particles(sample):
    empty = np.random.default_rng(0).poisson(300, sample[0].shape[1:])
    late = decompose(np.stack([empty, sample[0].frame(0), sample[0].frame(1)]), pixel_size=1.367, device="cpu")
    assert late.summary["diameter_nm"] == pytest.approx(30.0, rel=0.2)
    assert (late.particles["frame"] == 0).sum() < 0.02 * len(late.particles)
    assert late.summary["twist_deg"] == pytest.approx(9.0, abs=1.0)


@pytest.mark.slow
def test_a_movie_may_lose_its_particles_and_regain_them(sample):
    frames = np.stack([np.asarray(sample[0].frame(t), float) for t in range(2)])
    noise = np.random.default_rng(0).poisson(300.0, frames.shape[1:]).astype(float)
    movie = np.stack([frames[0], noise, frames[1]])
    result = decompose(movie, pixel_size=sample[0].pixel_size, device="cpu")
    count = result.particles.groupby("frame").size().reindex(range(3), fill_value=0)
    assert count[1] < 0.2 * count[0]
    assert count[2] == pytest.approx(count[0], rel=0.1)


@pytest.mark.parametrize("seed", range(3))
def test_a_movie_without_any_particle_says_so(seed):
    noise = np.random.default_rng(seed).poisson(300.0, (2, 128, 128)).astype(float)
    result = decompose(noise, pixel_size=1.0, diameter=20.0, device="cpu")
    assert len(result.particles) == 0
    assert result.summary["note"] == "No particles found."
    assert not np.asarray(result.layers).any()


def test_a_particle_alone_is_found():
    y, x = np.indices((128, 128))
    height = np.sqrt(np.clip(1 - ((y - 50) ** 2 + (x - 60) ** 2) / 100, 0, None))
    frame = np.random.default_rng(1).poisson(300 * np.exp(-0.5 * height)).astype(float)
    particles = decompose(frame, pixel_size=1.0, diameter=20.0, device="cpu").particles
    assert np.hypot(particles["y_nm"] - 50, particles["x_nm"] - 60).tolist() == pytest.approx([0], abs=1)


def test_positions_are_inside_the_frame(sample, result):
    height, width = sample[0].shape[1:]
    assert result.particles["y"].between(-0.5, height - 0.5).all()
    assert result.particles["x"].between(-0.5, width - 0.5).all()


def test_no_error_bar_is_as_wide_as_a_particle(result):
    assert (result.particles["y_std_nm"] < 0.4 * result.particles["diameter_nm"].median()).all()


@pytest.mark.slow
def test_as_many_layers_are_found_as_are_given(whole_sample):
    movie, _ = crop(whole_sample, 1, 100, 196)
    one, two = (decompose(movie, diameter=30.0, layers=layers, device="cpu") for layers in (1, 2))
    assert set(one.particles["layer"]) == {1}
    assert one.summary["given"] == {"layers": 1, "diameter_nm": 30.0}
    assert "One layer" in one.summary["note"]
    assert "as given" in one.summary["note"]
    assert set(two.particles["layer"]) == {1, 2}
    with pytest.raises(ValueError, match="layers is 4: up to three are taken apart"):
        decompose(movie, layers=4, device="cpu")


def test_a_size_that_was_estimated_is_said_to_be(small):
    assert "give the diameter" in small[0].summary["note"]
    noise = np.random.default_rng(0).poisson(300.0, (128, 128)).astype(float)
    assert "diameter" not in decompose(noise, pixel_size=1.0, diameter=20.0, device="cpu").summary["note"]


def test_single_image_is_not_linked(small):
    single, _ = small
    assert single.layers.shape[0] == 1
    assert (single.particles["particle"] == -1).all()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({}, "pixel size is missing"),
        ({"pixel_size": 0}, "pixel size"),
        ({"pixel_size": -1.0}, "pixel size"),
        ({"pixel_size": float("nan")}, "pixel size"),
        ({"pixel_size": 1000.0}, "under 4 pixels wide"),
        ({"pixel_size": 60.0}, "no nanoparticles"),
        ({"pixel_size": 1.367, "diameter": 3.0}, "under 4 pixels wide"),
        ({"pixel_size": 1.367, "diameter": -3.0}, "diameter must be"),
        ({"pixel_size": 1.367, "diameter": 3000.0}, "larger than the frames"),
    ],
)
def test_absurd_sizes_are_refused(sample, kwargs, message):
    with pytest.raises(ValueError, match=message):
        decompose(sample[0].frame(0), device="cpu", **kwargs)


@pytest.mark.parametrize(("value", "message"), [(np.nan, "NaN"), (3.0, "constant")])
def test_a_single_image_without_content_is_refused(sample, value, message):
    frame = np.full_like(sample[0].frame(0), value)
    with pytest.raises(ValueError, match=message):
        decompose(frame, pixel_size=1.367, device="cpu")
    with pytest.raises(ValueError, match=f"no frame of array holds an image.*{message}"):
        decompose(np.stack([frame, frame]), pixel_size=1.367, device="cpu")


def write_half(target):
    with output_folder(target) as folder:
        (folder / "layer_1.tif").write_text("half")
        raise RuntimeError


def test_failed_output_leaves_nothing_behind(tmp_path):
    with pytest.raises(RuntimeError):
        write_half(tmp_path / "new" / "folder")
    assert not (tmp_path / "new").exists()


def test_a_result_that_cannot_be_replaced_stops_all_of_them(tmp_path):
    (tmp_path / "particles.csv").mkdir()
    (tmp_path / "layer_1.tif").write_text("old")
    with pytest.raises(OSError, match="cannot replace .* the new files are in"):
        write_two(tmp_path)
    assert (tmp_path / "layer_1.tif").read_text() == "old"
    (kept,) = tmp_path.glob("unsaved-*")
    assert sorted(f.name for f in kept.iterdir()) == ["layer_1.tif", "particles.csv"]


@pytest.mark.skipif(os.name != "posix", reason="Windows does not say whether a process runs")
def test_what_a_killed_run_left_is_removed_by_the_next_one(tmp_path):
    code = "import os, signal, sys; from moirelib.output import output_folder\n"
    code += "with output_folder(sys.argv[1]) as folder:\n"
    code += "    (folder / 'half').touch()\n    os.kill(os.getpid(), signal.SIGKILL)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    (left,) = tmp_path.glob(".partial-*")
    for other in (".partial-elsewhere-1-abc", ".partial-abc", f"{left.name.rpartition('-')[0]}x-abc"):
        (tmp_path / other).mkdir()  # of another computer, of an older version, of no number
    with output_folder(tmp_path) as running:
        write_two(tmp_path)
        assert running.exists()
    assert not left.exists()
    assert len(list(tmp_path.glob(".partial-*"))) == 3


def write_two(target):
    with output_folder(target) as folder:
        (folder / "layer_1.tif").write_text("new")
        (folder / "particles.csv").write_text("new")


def test_failed_output_keeps_what_was_there(tmp_path):
    (tmp_path / "layer_1.tif").write_text("old")
    with pytest.raises(RuntimeError):
        write_half(tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == ["layer_1.tif"]
    assert (tmp_path / "layer_1.tif").read_text() == "old"


def test_semi_real_moire_turns_the_second_layer_as_it_says():
    y, x = np.indices((400, 400))
    spot = 100 - 50 * np.exp(-((y - 200) ** 2 + (x - 260) ** 2) / 50)
    made = semi_real_moire(spot, 20.0, twist_angle=20.0, size=240)
    dark = made.transmissions[1].max() - made.transmissions[1]
    found = np.unravel_index(np.argmax(dark), dark.shape)
    expected = made.turn([[200 - made.origin[0], 260 - made.origin[1]]])[0]
    np.testing.assert_allclose(found, expected, atol=1.5)
    with pytest.raises(ValueError, match="leaves the frame"):
        semi_real_moire(spot, 20.0, size=399)


# --- After the last frame nothing is lost ---


def found_in_frame(lattice_shown):
    """Particles of two layers at a twist of 10°; the lattice of each layer only where ``lattice_shown`` says so."""
    tables = []
    for layer, angle in ((1, 5.0), (2, 15.0)):
        points = hexagonal_lattice(24.0, angle, (96.0, 96.0), 90.0 if layer == 1 else 60.0)
        tables.append(pd.DataFrame({"layer": layer, "grain": layer - 1, "y": points[:, 0], "x": points[:, 1]}))
    table = pd.concat(tables, ignore_index=True).assign(layer_confidence=0.9, score=0.9, diameter=16.0, opacity=0.5)
    table = table.assign(other_layer=0, **dict.fromkeys(["y_std", "x_std", "diameter_std"], 0.1))
    table = table.assign(aspect_ratio=1.0, aspect_ratio_std=0.01, orientation_deg=0.0, orientation_std_deg=45.0)
    table = table.assign(**{f"{name}_likeliest": table[name] for name in ("y", "x", "diameter", "y_std", "x_std")})
    lattices = [
        [Lattice(24.0, angle)] if shown else [] for angle, shown in zip((5.0, 15.0), lattice_shown, strict=True)
    ]
    return Found(table, lattices, None)


@pytest.fixture
def decompose_computed(monkeypatch):
    """`decompose` of a movie whose frames have been computed before: all that follows is real."""

    def run(*frames):
        monkeypatch.setattr(pipeline, "estimate_size_and_polarity", lambda frames, model, diameter: (16.0, 1.0))
        monkeypatch.setattr(pipeline, "find_working_shape", lambda shape, diameter: (192, 192))
        monkeypatch.setattr(pipeline, "find_in_all_frames", lambda *_: FoundInFrames.join(frames))
        images = np.random.default_rng(0).normal(100, 5, (len(frames), 192, 192))
        return decompose(images, pixel_size=1.0, device="cpu")

    return run


def test_layers_whose_lattices_never_show_in_one_frame_have_no_known_twist(decompose_computed, tmp_path):
    result = decompose_computed(found_in_frame((True, False)), found_in_frame((False, True)))
    assert result.summary["spacing_nm"] == {"layer_1": 24.0, "layer_2": 24.0}
    assert result.summary["twist_deg"] is None
    assert "never show in the same frame, so the twist is unknown" in result.summary["note"]
    assert result.summary["problems"] == []
    result.save(tmp_path)
    assert len(pd.read_csv(tmp_path / "particles.csv")) == len(result.particles) > 0


@pytest.mark.parametrize(
    ("module", "step"),
    [(pipeline, "number_tracks"), (pipeline, "vote"), (summary, "measure_lattices"), (summary, "write_note")],
)
def test_a_step_that_fails_after_the_last_frame_does_not_lose_the_result(
    decompose_computed, monkeypatch, tmp_path, module, step
):
    whole = decompose_computed(found_in_frame((True, True)), found_in_frame((True, True)))

    def fail(*_, **__):
        raise SubnetOversizeException("Subnetwork contains 40 points")

    monkeypatch.setattr(module, step, fail)
    with pytest.warns(RuntimeWarning, match="SubnetOversizeException"):
        result = decompose_computed(found_in_frame((True, True)), found_in_frame((True, True)))
    assert len(result.particles) == len(whole.particles)
    np.testing.assert_array_equal(result.layers, whole.layers)
    assert (result.particles["particle"] == -1).all() == (step == "number_tracks")
    assert (result.summary["twist_deg"] is None) == (step == "measure_lattices")
    assert len(result.summary["problems"]) == 1
    assert "Subnetwork contains 40 points" in result.summary["note"]
    result.save(tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text())["problems"] == result.summary["problems"]


@pytest.fixture(scope="module")
def real_frame():
    try:
        return data.fetch("np_lattice_2p593nm.tif")
    except OSError:
        pytest.skip("real frame not at hand: set MOIRELIB_DATA")


@pytest.fixture(scope="module")
def real_result(real_frame):
    return decompose(moirelib.read_movie(real_frame), device="cpu")


@pytest.mark.slow
def test_real_frame_is_one_layer_with_the_known_spacing(real_result):
    particles = real_result.particles
    assert np.mean(particles["layer"] == 1) > 0.98
    d10 = real_result.summary["spacing_nm"]["layer_1"] * np.sqrt(3) / 2
    assert 0.97 * 102 < d10 < 1.03 * 104
    # The lattice fills the left; the liquid at the top right holds no particles.
    left, empty = (particles["x"] < 450), (particles["x"] > 750) & (particles["y"] < 350)
    assert left.sum() > 150
    assert empty.sum() < 0.1 * left.sum()


@pytest.mark.slow
def test_real_particles_are_dark_where_they_were_found(real_frame, real_result):
    from scipy.ndimage import gaussian_filter

    frame = tifffile.imread(real_frame).astype(float)
    flat = gaussian_filter(frame, 5) - gaussian_filter(frame, 40)
    p = real_result.particles
    p = p[p["y"].between(0, 1023) & p["x"].between(0, 1023)]
    values = flat[p["y"].round().astype(int), p["x"].round().astype(int)]
    assert np.mean(values < 0) > 0.95


def test_particles_wider_than_they_are_apart_are_said_to_be():
    table = pd.DataFrame({"layer": [1, 1, 1, 2, 2], "diameter_nm": [10.0, 11.0, 12.0, 9.0, 9.2]})
    said = summary.find_impossible_sizes(table, {"layer_1": 10.0, "layer_2": 9.0})
    assert said == ["Particles of layer 1 come out 11.0 nm wide, which is more than they are apart."]
    assert summary.find_impossible_sizes(table, {"layer_1": None, "layer_2": 20.0}) == []


def test_a_single_layer_that_was_given_is_said_to_be_even_without_a_lattice():
    measured = {"spacing_nm": {"layer_1": None, "layer_2": None}, "twist_deg": None}
    note = summary.write_note({"layer_1": 9, "layer_2": 0}, measured, [], (96.0, 96.0), {"layers": 1})
    assert note == "One layer, as given; it shows no lattice."
