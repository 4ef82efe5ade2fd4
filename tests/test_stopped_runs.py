"""Movies that are stopped, that move, that other machines compute: the same result, and no frame computed twice."""

import os
import signal
import threading

import beer_lambert
import numpy as np
import pandas as pd
import pytest

from moirelib.cli import main
from moirelib.decomposition import all_frames, decompose
from moirelib.decomposition.all_frames import FrameJob
from moirelib.movies import write_layer_movie
from moirelib.validation import score_particles

PIXEL_SIZE, SIZE, DIAMETER, SPACING = 2.0, 128, 12.6, 18.0


@pytest.fixture(scope="module")
def movie():
    """Four small frames that drift by half a spacing each; the third one is black."""
    shifts = 0.5 * SPACING * np.arange(4)[:, None] * np.array([0.6, 0.8])
    frames, truth = beer_lambert.simulate_movie(np.random.default_rng(3), shifts, SIZE, SPACING, DIAMETER)
    frames = np.clip(frames, 0, 255).astype(np.uint8)
    frames[2] = 0
    return frames, pd.DataFrame(truth, columns=["frame", "particle", "layer", "y", "x"])


@pytest.fixture(scope="module")
def result(movie):
    return decompose(movie[0], pixel_size=PIXEL_SIZE, device="cpu")


@pytest.mark.slow
def test_a_moving_movie_comes_apart_as_well_as_a_still_one(movie, result):
    truth = movie[1][movie[1]["frame"] != 2]
    truth = truth.assign(y_nm=truth["y"] * PIXEL_SIZE, x_nm=truth["x"] * PIXEL_SIZE)
    scores = score_particles(result.particles, truth, DIAMETER * PIXEL_SIZE, (SIZE * PIXEL_SIZE,) * 2)
    assert scores["f1"] > 0.98
    assert (result.particles["particle"] >= 0).mean() > 0.7  # others are in view once


@pytest.mark.slow
def test_a_black_frame_is_left_out_and_its_neighbours_are_linked(result):
    assert [one["frame"] for one in result.summary["left_out"]] == [2]
    assert "constant" in result.summary["left_out"][0]["why"]
    assert "left out: 2" in result.summary["note"]
    assert set(result.particles["frame"]) == {0, 1, 3}
    tracks = result.particles[result.particles["particle"] >= 0]
    assert tracks.groupby("particle")["frame"].agg(lambda t: {1, 3} <= set(t)).sum() > 10


def files(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_bytes(movie, result, tmp_path, monkeypatch):
    write_layer_movie(tmp_path / "movie.tif", movie[0], PIXEL_SIZE)
    command = ["decompose", str(tmp_path / "movie.tif"), "--device", "cpu", "--out"]
    assert main([*command, str(tmp_path / "whole")]) == 0
    run, names = FrameJob.run, []

    def stop(job, image):
        names.append(image[0, :3].tobytes())
        if len(names) == 4:
            raise KeyboardInterrupt
        return run(job, image)

    monkeypatch.setattr(FrameJob, "run", stop)
    assert main([*command, str(tmp_path / "stopped")]) == 130
    kept = {file.name for file in (tmp_path / "stopped" / "unfinished").iterdir()}
    assert kept >= {"_recipe.json", "_shared-000000.parquet"}
    computed = len([name for name in kept if name.startswith("frame-")])
    assert main([*command, str(tmp_path / "stopped")]) == 0
    assert len(names) <= 4 + 5 - computed
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")
    assert len(pd.read_csv(tmp_path / "whole" / "particles.csv")) == len(result.particles)


@pytest.mark.slow
def test_several_movies_have_a_folder_each_and_one_failure_stops_no_other(movie, tmp_path, capsys, monkeypatch):
    write_layer_movie(tmp_path / "good.tif", movie[0][:1], PIXEL_SIZE)
    (tmp_path / "bad.tif").write_bytes(b"no picture")
    paths = [str(tmp_path / name) for name in ("bad.tif", "good.tif")]
    command = ["decompose", *paths, "--device", "cpu", "--out", str(tmp_path / "out"), "--roi", "0:80,0:80"]
    assert main(command) == 2
    assert "1 of 2 movies failed" in capsys.readouterr().err
    written = files(tmp_path / "out" / "good")
    assert not (tmp_path / "out" / "bad").exists()
    # The same command computes no frame of the good one again, and leaves nothing but results once all are there.
    run, edges = FrameJob.run, []
    monkeypatch.setattr(FrameJob, "run", lambda job, image: edges.append(len(image)) or run(job, image))
    write_layer_movie(tmp_path / "bad.tif", movie[0][1:2, :70, :70], PIXEL_SIZE)
    assert main(command) == 0
    assert edges == [70]
    assert files(tmp_path / "out" / "good") == written
    assert set(written) == {"layer_1.tif", "layer_2.tif", "particles.csv", "particles.parquet", "summary.json"}


@pytest.mark.slow
def test_a_cluster_that_loses_a_worker_gives_the_same_result(movie, result):
    from dask.distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster:
        victim = next(iter(cluster.workers.values())).pid
        threading.Timer(5.0, os.kill, (victim, signal.SIGKILL)).start()
        other = decompose(movie[0], pixel_size=PIXEL_SIZE, device=cluster.scheduler_address)
    pd.testing.assert_frame_equal(other.particles, result.particles, check_exact=True)
    np.testing.assert_array_equal(other.layers, result.layers)


def test_a_scheduler_may_be_given_without_its_protocol(movie, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(all_frames, "PATIENCE", 0.5)
    write_layer_movie(tmp_path / "movie.tif", movie[0], PIXEL_SIZE)
    given = ["--diameter", str(DIAMETER * PIXEL_SIZE), "--scheduler", "127.0.0.1:1", "--out", str(tmp_path / "out")]
    assert main(["decompose", str(tmp_path / "movie.tif"), *given]) == 2
    assert "no Dask scheduler at tcp://127.0.0.1:1" in capsys.readouterr().err


def test_a_scheduler_that_is_not_there_is_named(movie, monkeypatch):
    monkeypatch.setattr(all_frames, "PATIENCE", 0.5)
    with pytest.raises(OSError, match="no Dask scheduler at tcp://127.0.0.1:1"):
        decompose(movie[0], pixel_size=PIXEL_SIZE, device="tcp://127.0.0.1:1", diameter=DIAMETER * PIXEL_SIZE)
