"""The command line: what it writes, and one clear line when the input is bad."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import tifffile

from moirelib import data
from moirelib.cli import main


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """One frame of the sample, cropped, without any scale in the file."""
    path = tmp_path_factory.mktemp("movie") / "small.tif"
    tifffile.imwrite(path, tifffile.imread(data.path("sample.tif"))[0, :160, :160], photometric="minisblack")
    return path


def test_decompose_writes_its_four_files(small, tmp_path, capsys):
    out = tmp_path / "deep" / "out"
    assert main(["decompose", str(small), "--pixel-size", "1.367", "--layers", "2", "--out", str(out)]) == 0
    files = ["layer_1.tif", "layer_2.tif", "particles.csv", "particles.parquet", "summary.json"]
    assert sorted(f.name for f in out.iterdir()) == files
    assert tifffile.imread(out / "layer_2.tif").shape == (1, 160, 160)
    table = pd.read_csv(out / "particles.csv")
    assert table["particle"].isna().all()  # one frame: no tracks
    summary = json.loads((out / "summary.json").read_text())
    assert summary["given"] == {"layers": 2, "diameter_nm": None}
    counts = summary["particles"]
    assert counts["layer_1"] + counts["layer_2"] == len(table)
    assert "particles" in capsys.readouterr().out


def bad_inputs(tmp_path):
    def file(name, array=None, raw=None):
        if raw is None:
            tifffile.imwrite(tmp_path / name, array, photometric="minisblack")
        else:
            (tmp_path / name).write_bytes(raw)
        return name

    rng = np.random.default_rng(0)
    good = rng.integers(0, 1000, (128, 128)).astype(np.uint16)
    whole = tmp_path / "whole.tif"
    tifffile.imwrite(whole, good)
    rgb = tmp_path / "rgb.tif"
    tifffile.imwrite(rgb, rng.integers(0, 255, (64, 64, 3)).astype(np.uint8), photometric="rgb")
    nan = good.astype(np.float32)
    nan[3, 3] = np.nan
    return {
        "absent": ["absent.tif", "1"],
        "text": [file("text.tif", raw=b"not an image"), "1"],
        "unknown": [file("movie.xyz", raw=b"123"), "1"],
        "truncated": [file("cut.tif", raw=whole.read_bytes()[:9000]), "1"],
        "empty": [file("empty.mrc", raw=b""), "1"],
        "rgb": ["rgb.tif", "1"],
        "nan": [file("nan.tif", nan), "1"],
        "constant": [file("constant.tif", np.full((128, 128), 7, np.uint16)), "1"],
        "no pixel size": ["whole.tif", None],
        "zero pixel size": ["whole.tif", "0"],
        "negative pixel size": ["whole.tif", "-2"],
        "huge pixel size": ["whole.tif", "5000"],
    }


@pytest.mark.parametrize(
    "case",
    ["absent", "text", "unknown", "truncated", "empty", "rgb", "nan", "constant", "no pixel size", "zero pixel size"]
    + ["negative pixel size", "huge pixel size"],
)
def test_bad_input_gets_one_line_and_exit_code_2(case, tmp_path, capsys):
    name, size = bad_inputs(tmp_path)[case]
    out = tmp_path / "out"
    arguments = ["decompose", str(tmp_path / name), "--out", str(out)] + (["--pixel-size", size] if size else [])
    assert main(arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("moirelib: ")
    assert not out.exists()


def test_an_output_that_is_a_file_is_refused_before_any_work(small, tmp_path, capsys):
    target = tmp_path / "taken"
    target.write_text("mine")
    assert main(["decompose", str(small), "--pixel-size", "1.4", "--out", str(target)]) == 2
    assert "not a folder" in capsys.readouterr().err
    assert target.read_text() == "mine"


def test_an_output_below_a_file_is_refused(small, tmp_path, capsys):
    (tmp_path / "taken").write_text("mine")
    assert main(["decompose", str(small), "--pixel-size", "1.4", "--out", str(tmp_path / "taken" / "out")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_module_and_help_work_from_a_shell(encoding):
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    for command in (["--help"], ["decompose", "--help"], ["--version"]):
        done = subprocess.run(
            [sys.executable, "-m", "moirelib", *command], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0
        assert done.stderr == ""
    assert "moirelib" in done.stdout


def test_a_library_that_cannot_be_is_refused_in_one_line(tmp_path, capsys):
    assert main(["library", "--images", "0", "--out", str(tmp_path / "absent" / "x.zarr")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
