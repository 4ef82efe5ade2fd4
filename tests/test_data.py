"""Where shipped and fetched data comes from, and what is said when it is not there."""

import hashlib
import http.server
import os
import re
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from moirelib import data
from moirelib.data import REGISTRY, RealData, fetch
from moirelib.movies import write_layer_movie

CONTENT = b"particles " * 50
TRUTH_COLUMNS = ["frame", "particle", "layer", "y", "x", "y_nm", "x_nm", "diameter_nm"]


def entry(url, content=CONTENT):
    sha256 = None if content is None else hashlib.sha256(content).hexdigest()
    return RealData(url=url, sha256=sha256, licence="MIT", source="a test")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and no folder of real data."""
    monkeypatch.delenv("MOIRELIB_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(data.pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    return tmp_path / "cache" / "moirelib"


@pytest.fixture
def server():
    """Address of a server on this machine that gives CONTENT, and the list of what it was asked for."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}", asked
        httpd.shutdown()


# --- Shipped data -----------------------------------------------------------------------------------------------------


def test_shipped_data_lies_in_the_package_if_installed_else_beside_it(tmp_path, monkeypatch):
    package = tmp_path / "site" / "moirelib"
    package.mkdir(parents=True)
    monkeypatch.setattr(data, "__file__", str(package / "data.py"))
    assert data.data_dir() == tmp_path / "site" / "data"
    (package / "_data").mkdir()
    assert data.data_dir() == package / "_data"


def test_shipped_file_is_found_and_a_missing_one_named(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "data_dir", lambda: tmp_path)
    for name in ("unet.safetensors", "unet_three.safetensors"):
        (tmp_path / name).touch()
    assert data.weights_path() == data.path("unet.safetensors") == tmp_path / "unet.safetensors"
    assert data.weights_path(3) == tmp_path / "unet_three.safetensors"
    with pytest.raises(FileNotFoundError, match="sample.tif is missing from .*; reinstall moirelib"):
        data.sample()


def test_sample_is_a_movie_and_its_truth(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "data_dir", lambda: tmp_path)
    frames = np.arange(3 * 5 * 7, dtype=np.uint8).reshape(3, 5, 7)
    write_layer_movie(tmp_path / "sample.tif", frames, pixel_size=2.5, frame_time=0.1)
    pd.DataFrame([[0, 1, 2, 3.5, 4.5, 8.75, 11.25, 30.0]], columns=TRUTH_COLUMNS).to_csv(
        tmp_path / "sample_truth.csv", index=False
    )
    movie, truth = data.sample()
    np.testing.assert_array_equal(movie.data.compute(), frames)
    assert movie.pixel_size == pytest.approx(2.5)
    assert list(truth.columns) == TRUTH_COLUMNS
    assert truth.loc[0, "x_nm"] == 11.25


def test_truth_of_the_shipped_sample_lies_in_its_frames():
    if not (data.data_dir() / "sample_truth.csv").exists():
        pytest.skip("the sample is not made yet")
    movie, truth = data.sample()
    assert set(TRUTH_COLUMNS) <= set(truth.columns)
    assert set(truth["frame"]) == set(range(len(movie)))
    assert set(truth["layer"]) == {1, 2}
    # Pixel and nanometre columns are the same places.
    np.testing.assert_allclose(truth[["y", "x"]] * movie.pixel_size, truth[["y_nm", "x_nm"]], atol=0.01)
    inside = truth["y"].between(0, movie.shape[1] - 1) & truth["x"].between(0, movie.shape[2] - 1)
    assert inside.mean() > 0.8  # some hang over the edge


# --- Real data --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REGISTRY)
def test_registry_pins_a_commit_and_says_whose_data_it_is(name):
    registered = REGISTRY[name]
    assert re.fullmatch(r"https://raw\.githubusercontent\.com/[\w-]+/[\w-]+/[0-9a-f]{40}/\S+", registered.url)
    assert registered.sha256 is None or re.fullmatch("[0-9a-f]{64}", registered.sha256)
    assert re.match(r"MIT|GPL-3\.0", registered.licence)
    assert registered.source


def test_registry_agrees_with_the_hashes_beside_the_real_data():
    sums = Path(os.environ.get("MOIRELIB_DATA", "nowhere")) / "SHA256SUMS"
    if not sums.is_file():
        pytest.skip("no SHA256SUMS in MOIRELIB_DATA")
    published = dict(reversed(line.split()) for line in sums.read_text().splitlines())
    assert published == {name: known.sha256 for name, known in REGISTRY.items() if known.sha256}
    for name in published:
        assert fetch(name) == sums.parent / name


def test_unknown_name_is_turned_down_with_the_known_ones():
    with pytest.raises(ValueError, match="no real data file is called 'movie.tif'; there are np_lattice_2p593nm.tif"):
        fetch("movie.tif")


def test_file_in_the_folder_is_taken_without_the_network(tmp_path, monkeypatch, cache):
    monkeypatch.setenv("MOIRELIB_DATA", str(tmp_path))
    monkeypatch.setitem(REGISTRY, "a.tif", entry("http://127.0.0.1:9/a.tif"))
    monkeypatch.setitem(REGISTRY, "unchecked.tif", entry("http://127.0.0.1:9/unchecked.tif", content=None))
    for name in ("a.tif", "unchecked.tif"):
        (tmp_path / name).write_bytes(CONTENT)
        assert fetch(name) == tmp_path / name
    assert not cache.exists()


def test_file_in_the_folder_that_is_another_one_is_turned_down(tmp_path, monkeypatch):
    monkeypatch.setenv("MOIRELIB_DATA", str(tmp_path))
    (tmp_path / "np_lattice_2p593nm.tif").write_bytes(CONTENT)
    with pytest.raises(ValueError, match="np_lattice_2p593nm.tif is not the published file .its SHA-256 differs"):
        fetch("np_lattice_2p593nm.tif")


def test_offline_error_is_one_line_that_names_the_folder_variable(monkeypatch, cache):
    monkeypatch.setitem(REGISTRY, "a.tif", entry("http://127.0.0.1:9/a.tif"))
    with pytest.raises(OSError, match=r"a\.tif is not in the folder named by MOIRELIB_DATA and cannot be") as error:
        fetch("a.tif")
    assert "\n" not in str(error.value)
    assert type(error.value) is OSError


@pytest.mark.parametrize("content", [CONTENT, None])
def test_file_is_downloaded_once_and_then_comes_from_the_cache(content, monkeypatch, cache, server, tmp_path):
    url, asked = server
    monkeypatch.setenv("MOIRELIB_DATA", str(tmp_path))  # a folder without the file
    monkeypatch.setitem(REGISTRY, "a.tif", entry(f"{url}/there/b.tif", content))
    assert fetch("a.tif") == fetch("a.tif") == cache / "a.tif"
    assert (cache / "a.tif").read_bytes() == CONTENT
    assert asked == ["/there/b.tif"]


def test_download_that_is_not_the_published_file_is_turned_down(monkeypatch, cache, server):
    url, _ = server
    monkeypatch.setitem(REGISTRY, "a.tif", entry(f"{url}/a.tif", b"something else"))
    with pytest.raises(ValueError, match="is not the published file any more"):
        fetch("a.tif")
    assert not (cache / "a.tif").exists()


def test_the_example_of_the_benchmark_holds_layers_of_every_method_that_it_scores():
    images, about = data.benchmark_example()
    size = images["frame"].shape
    assert {"frame", "truth", *about["scores"]} == set(images)
    assert all(images[name].shape == (2, *size) for name in images if name != "frame")
    covered = images["truth"] > 127
    share = {name: np.mean((images[name] > 127) == covered) for name in about["scores"]}
    assert share["moirelib"] == max(share.values()) > 0.97
