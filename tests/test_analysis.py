"""Tables of a known crystal, what is left out and why, and the page that holds it all."""

import contextlib
import io
import json
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from moirelib.analysis import (
    NEEDED,
    TABLES,
    analyze,
    pipeline,
    read_particles,
    read_recording,
    render_report,
    report,
    write_analysis,
)
from moirelib.analysis.report import SECTIONS
from moirelib.cli import main
from moirelib.crystal import hexagonal_lattice, moire_period
from moirelib.simulation import grain_boundary, thermal_displacements

SPACING, TWIST, FRAMES = 40.0, 9.0, 12


def crystals(frames, seed=0, vacancy=True):
    """Two elastic layers twisted by nine degrees, the upper one smaller and without its middle particle."""
    rng, tables = np.random.default_rng(seed), []
    for layer, angle, radius in ((1, 5.0, 230.0), (2, 5.0 + TWIST, 190.0)):
        sites = hexagonal_lattice(SPACING, angle, (300.0, 300.0), radius)
        if layer == 2 and vacancy:
            sites = sites[np.hypot(*(sites - 300.0).T) > 1.0]
        u = thermal_displacements(sites, SPACING, 3.0, frames, rng) if frames > 1 else np.zeros((1, len(sites), 2))
        places = sites + u + 0.2 * rng.standard_normal(u.shape)
        t, particle = np.indices(places.shape[:2]).reshape(2, -1)
        columns = {"frame": t, "particle": particle + 1000 * layer, "layer": layer}
        columns |= {"y_nm": places[..., 0].ravel(), "x_nm": places[..., 1].ravel(), "y_std_nm": 0.2, "x_std_nm": 0.2}
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


@pytest.fixture(scope="module")
def movie():
    return crystals(FRAMES)


@pytest.fixture(scope="module")
def folder(movie, tmp_path_factory):
    """A folder that was analysed by the command."""
    folder = tmp_path_factory.mktemp("movie_layers")
    movie.to_csv(folder / "particles.csv", index=False)
    assert main(["analyze", str(folder)]) == 0
    return folder


def test_every_table_is_written_with_its_columns(folder):
    expected = {
        "vibrations": "particle layer y_nm x_nm std_y_nm std_x_nm std_raw_y_nm std_raw_x_nm k_y_kt_nm2 k_x_kt_nm2",
        "lattice": "frame layer grain spacing_nm angle_deg",
        "moire": "frame twist_deg period_nm",
        "defects": "frame layer kind y_nm x_nm burgers_y_nm burgers_x_nm",
        "boundaries": "frame layer kind y0_nm x0_nm y1_nm x1_nm misorientation_deg inclination_deg sigma",
        "phonons": "layer branch q_y_per_nm q_x_per_nm stiffness_kt_nm2",
        "growth": "frame layer event particle y_nm x_nm coordination registry",
        "motion": "frame layer y_nm x_nm turn_deg",
        "msd": "layer lag_frames lag_s msd_nm2 msd_std_nm2 pairs",
    }
    assert set(expected) == set(TABLES)
    for name, columns in expected.items():
        table = pd.read_csv(folder / "analysis" / f"{name}.csv")
        assert set(columns.split()) <= set(table.columns), name
    assert (folder / "analysis" / "tracks.gif").stat().st_size > 0


def test_twist_period_and_spacing_are_those_of_the_crystals(folder):
    moire = pd.read_csv(folder / "analysis" / "moire.csv")
    assert moire["twist_deg"].median() == pytest.approx(TWIST, abs=0.1)
    assert moire["period_nm"].median() == pytest.approx(moire_period(SPACING, TWIST), rel=0.02)
    lattice = pd.read_csv(folder / "analysis" / "lattice.csv")
    assert lattice.groupby("layer")["spacing_nm"].median().to_numpy() == pytest.approx([SPACING] * 2, rel=2e-3)


def test_the_planted_vacancy_is_in_every_frame(folder):
    defects = pd.read_csv(folder / "analysis" / "defects.csv")
    near = np.hypot(defects["y_nm"] - 300, defects["x_nm"] - 300) < 0.3 * SPACING
    here = defects[near & (defects["kind"] == "vacancy") & (defects["layer"] == 2)]
    assert here["frame"].nunique() == FRAMES


def test_a_crystal_that_neither_grows_nor_dissolves_has_no_events(folder):
    assert pd.read_csv(folder / "analysis" / "growth.csv").empty


def test_layers_as_a_whole_are_summarised(movie):
    summaries = analyze(movie).summaries
    layers = summaries["vibrations"]["Layers as a whole"].set_index("layer")
    assert (layers["lindemann"] > 0).all()
    assert (layers["lindemann"] < 0.05).all()
    around = summaries["vibrations"]["By coordination"].set_index(["layer", "group"])["sites"]
    assert around[2, "vacancy"] == 6  # those around the one that was taken out
    followed = summaries["defects"]["Followed through the frames"].set_index(["layer", "kind"])
    assert followed.loc[(2, "vacancy"), "longest_frames"] == FRAMES
    rates = summaries["growth"]["Rates per frame"]
    assert (rates["count"] == 0).all()
    places = summaries["vibrations"]["By place on the other layer"]
    assert set(places["group"]) == {"top", "bridge", "hollow"}
    assert places.groupby("layer")["sites"].sum()[2] == (movie["layer"] == 2).sum() / FRAMES
    assert "Turning and sliding of layer 2 on layer 1" in summaries["growth"]


def test_directions_of_rows_beside_zero_are_not_averaged_to_thirty():
    table = pd.DataFrame({"frame": range(4), "layer": 1, "n": 90, "spacing_nm": 40.0, "spacing_std_nm": 0.1})
    table = table.assign(angle_deg=[59.9, 0.1, 59.8, 0.3], angle_std_deg=0.1)
    angle = SECTIONS["lattice"][1](table)["angle_deg"][0]
    assert min(angle, 60 - angle) < 0.1


def test_boundaries_are_followed_and_summed_up():
    points, truth = grain_boundary(SPACING, 3.0, 21.0, 40.0, (300.0, 300.0), 300.0)
    frames = []
    for t in range(5):
        seen = points + 0.4 * np.random.default_rng(t).standard_normal(points.shape) + [3.0 * t, 2.0 * t]
        frames.append(pd.DataFrame(seen, columns=["y_nm", "x_nm"]).assign(frame=t, particle=range(len(seen)), layer=1))
    followed = analyze(pd.concat(frames, ignore_index=True)).summaries["boundaries"]["Followed through the frames"]
    row = followed.iloc[0]
    assert row["frames"] == 5
    assert row["misorientation_deg"] == pytest.approx(truth.misorientation, abs=0.1)
    assert abs(row["migration_nm"]) < 3.0  # the field drifts by 14 nm


def test_a_layer_without_a_lattice_still_gets_its_report(tmp_path):
    tracks = pd.DataFrame({"frame": range(4), "particle": 0, "layer": 1, "y_nm": 10.0, "x_nm": 20.0})
    write_analysis(analyze(tracks), tmp_path, movie=False)
    assert "too few particles" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_report_needs_no_other_file_and_names_every_section(folder):
    page = (folder / "analysis" / "report.html").read_text(encoding="utf-8")
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', page)
    assert len(sources) >= 6
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    titles = "Lattices", "Moiré", "Vibrations", "Phonons", "Growth", "twin boundaries", "By coordination", "Rates"
    for title in titles:
        assert title in page


@pytest.fixture(scope="module")
def still(tmp_path_factory):
    """Results of one frame without tracks, beside what was there before, and the lines that the command printed."""
    folder, printed = tmp_path_factory.mktemp("frame_layers"), io.StringIO()
    crystals(1).assign(particle=-1).to_csv(folder / "particles.csv", index=False)
    (folder / "analysis").mkdir()
    (folder / "analysis" / "vibrations.csv").write_text("old", encoding="utf-8")
    (folder / "analysis" / "my_notes.txt").write_text("mine", encoding="utf-8")
    with contextlib.redirect_stdout(printed):
        assert main(["analyze", str(folder)]) == 0
    return folder / "analysis", printed.getvalue().splitlines()


def test_one_frame_gets_what_it_supports_and_a_line_on_each_that_it_does_not(still):
    folder, lines = still
    written = {file.name for file in folder.iterdir()}
    assert {"lattice.csv", "moire.csv", "defects.csv", "boundaries.csv", "report.html"} <= written
    assert not written & {"vibrations.csv", "phonons.csv", "growth.csv", "tracks.gif"}
    for name in ("vibrations", "phonons", "growth"):
        assert sum(line.startswith(f"{name}: ") for line in lines) == 1


def test_what_an_earlier_analysis_left_does_not_stay_beside_the_new(still):
    folder, _ = still
    assert not (folder / "vibrations.csv").exists()
    assert (folder / "my_notes.txt").read_text(encoding="utf-8") == "mine"


def test_only_the_named_tables_are_made(movie):
    few = movie[movie["frame"] < 4]
    result = analyze(few, only={"vibrations", "defects"})
    assert list(result.tables) == ["defects"]  # 4 frames give no vibrations
    assert list(result.notes) == ["vibrations"]
    assert list(result.summaries["defects"]) == ["Followed through the frames"]
    pd.testing.assert_frame_equal(result.tables["defects"], analyze(few).tables["defects"])


def test_only_replaces_its_own_files_and_shows_every_stage(movie, tmp_path, capsys):
    movie[movie["frame"] < 4].to_csv(tmp_path / "particles.csv", index=False)
    (tmp_path / "analysis").mkdir()
    for name in ("growth.csv", "tracks.gif", "moire.csv"):
        (tmp_path / "analysis" / name).write_text("old", encoding="utf-8")
    assert main(["analyze", str(tmp_path), "--only", "moire, msd"]) == 0
    written = {file.name for file in (tmp_path / "analysis").iterdir()}
    assert written == {
        "growth.csv",
        "tracks.gif",
        "moire.csv",
        "msd.csv",
        "registry.png",
        "moire.png",
        "msd.png",
        "report.html",
    }
    assert (tmp_path / "analysis" / "growth.csv").read_text(encoding="utf-8") == "old"
    assert len(pd.read_csv(tmp_path / "analysis" / "moire.csv")) == 4
    bars = capsys.readouterr().err
    for stage in ("frames", "sites", "msd", "figures"):
        assert f"{stage}: 100%" in bars or f"{stage}: 3figure" in bars
    assert "growth" not in bars


def test_unknown_tables_are_refused_before_any_work(movie, tmp_path, capsys):
    movie.to_csv(tmp_path / "particles.csv", index=False)
    assert main(["analyze", str(tmp_path), "--only", "phonon,growth"]) == 2
    error = capsys.readouterr().err
    assert "phonon;" in error
    assert all(name in error for name in TABLES)
    assert error.count("\n") == 1


def test_two_processes_give_what_one_gives(movie, monkeypatch):
    monkeypatch.setattr(pipeline, "ROWS_PER_PROCESS", 100)
    monkeypatch.setattr(pipeline, "FRAMES_AT_ONCE", 2)
    few = movie[movie["frame"] < 5]
    one, two = (analyze(few, only=["lattice", "moire"], workers=n).tables for n in (1, 2))
    for name in one:
        pd.testing.assert_frame_equal(one[name], two[name])


def test_a_long_movie_of_tracks_is_thinned_evenly_and_says_so(movie, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "MOVIE_FRAMES", 4)
    result = analyze(movie, only=["lattice"])
    write_analysis(result, tmp_path)
    with Image.open(tmp_path / "tracks.gif") as gif:
        assert gif.n_frames == 4
    assert "tracks.gif: shows 4 of the 12 frames" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_dose_and_frame_time_are_those_of_the_decomposition(movie, tmp_path):
    assert read_recording(tmp_path) == {"field_nm": None, "frame_time": None, "dose": None}
    (tmp_path / "summary.json").write_text('{"frame_time_s": 0.2, "dose_e_per_A2": 3}', encoding="utf-8")
    recording = read_recording(tmp_path)
    assert recording == {"field_nm": None, "frame_time": 0.2, "dose": 3.0}
    tables = analyze(movie, only=["motion", "msd"], **recording).tables
    assert tables["motion"].groupby("frame")["cumulative_dose_e_per_A2"].max()[11] == pytest.approx(36.0)
    assert tables["msd"]["lag_s"].max() == pytest.approx(0.2 * 11)
    (tmp_path / "summary.json").write_text('{"frame_time_s": null, "dose_e_per_A2": "?"}', encoding="utf-8")
    assert read_recording(tmp_path)["dose"] is None


def test_dose_and_frame_time_of_the_command_are_taken_instead(movie, tmp_path, capsys):
    movie.to_csv(tmp_path / "particles.csv", index=False)
    (tmp_path / "summary.json").write_text('{"frame_time_s": 0.2, "dose_e_per_A2": 3}', encoding="utf-8")
    options = ["--only", "motion,msd", "--dose", "5", "--frame-time", "0.1"]
    assert main(["analyze", str(tmp_path), *options]) == 0
    tables = {name: pd.read_csv(tmp_path / "analysis" / f"{name}.csv") for name in ("motion", "msd")}
    assert tables["motion"]["cumulative_dose_e_per_A2"].max() == pytest.approx(5.0 * 12)
    assert tables["msd"]["lag_s"].max() == pytest.approx(0.1 * 11)
    assert main(["analyze", str(tmp_path), "--dose", "-1"]) == 2
    assert "dose must be a positive number of electrons/Å² in each frame, got -1" in capsys.readouterr().err


def test_one_layer_alone_has_no_moire(movie):
    result = analyze(movie[(movie["layer"] == 1) & (movie["frame"] < 2)])
    assert "moire" not in result.tables
    assert "two layers" in result.notes["moire"]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda t: t.drop(columns="x_nm"), "has no column x_nm"),
        (lambda t: t.assign(y_nm=t["y_nm"].where(t.index != 3)), "y_nm in data row 4 is not a number"),
        (lambda t: t.assign(frame=t["frame"] + 0.5), "whole numbers"),
        (lambda t: t.iloc[:0], "no particles"),
    ],
)
def test_a_table_that_is_none_is_refused_in_one_line(movie, spoil, says, tmp_path, capsys):
    spoil(movie.iloc[:50]).to_csv(tmp_path / "particles.csv", index=False)
    assert main(["analyze", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not (tmp_path / "analysis").exists()


def test_field_of_view_is_that_of_the_decomposition(tmp_path):
    assert read_recording(tmp_path)["field_nm"] is None
    (tmp_path / "summary.json").write_text('{"shape_px": [100, 200], "pixel_size_nm": 0.5}', encoding="utf-8")
    assert read_recording(tmp_path)["field_nm"] == (50.0, 100.0)
    (tmp_path / "summary.json").write_text('{"shape_px": null}', encoding="utf-8")
    assert read_recording(tmp_path)["field_nm"] is None


def test_a_folder_without_particles_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no particles\.csv"):
        read_particles(tmp_path)


def test_particles_on_a_line_give_a_report_without_maps(tmp_path):
    line = pd.DataFrame({"frame": 0, "particle": -1, "layer": 1, "y_nm": 50.0, "x_nm": SPACING * np.arange(9)})
    line.to_csv(tmp_path / "particles.csv", index=False)
    assert main(["analyze", str(tmp_path), "--no-movie"]) == 0
    assert "no lattice" in (tmp_path / "analysis" / "report.html").read_text(encoding="utf-8")
    assert not list((tmp_path / "analysis").glob("layer_*.png"))


def test_notes_are_shown_as_text_not_as_markup(movie):
    result = analyze(movie[movie["frame"] == 0])
    result.notes["growth"] = "<b>&"
    assert "&lt;b&gt;&amp;" in render_report(result, [], "x < y")
    assert "x &lt; y" in render_report(result, [], "x < y")


def test_the_needed_columns_are_enough(movie):
    result = analyze(movie.loc[(movie["layer"] == 1) & (movie["frame"] < 10), list(NEEDED)])
    assert "vibrations" in result.tables or "vibrations" in result.notes
    assert json.dumps(result.notes)


def test_other_processes_are_given_only_some_frames_ahead(monkeypatch):
    frames = 2000
    drawn = []

    def layers_by_frame(table):
        for t in range(frames):
            drawn.append(t)
            yield t, {1: np.zeros((0, 2))}

    monkeypatch.setattr(pipeline, "layers_by_frame", layers_by_frame)
    monkeypatch.setattr(pipeline, "ProcessPoolExecutor", lambda workers, *_: ThreadPoolExecutor(workers))
    tables = pipeline._tabulate_batches(None, ["lattice"], workers=2)
    next(tables)
    assert len(drawn) < 100
    assert len(list(tables)) + 1 == frames / pipeline.FRAMES_AT_ONCE
