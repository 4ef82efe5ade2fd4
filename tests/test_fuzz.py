"""Damaged files and tables of every kind: one line or a result of the right shape, whatever the damage.

``FUZZ`` in the environment says how many are read in all (2,000 if not set): ``FUZZ=20000 make test-fuzz``.
"""

import contextlib
import math
import os
import signal
import sys
import tracemalloc
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, given, settings, strategies as st
from movie_files import OTHERS, TIMED, UNTIMED, stack, write_any, write_mrc

from moirelib.analysis import read_particles
from moirelib.movies import read_movie
from moirelib.movies.formats import FORMATS

pytestmark = pytest.mark.fuzz

DAMAGED = int(os.environ.get("FUZZ", 2000))
HANG = 120  # s for one file; none takes one second
GROWTH = 300_000_000  # bytes by which a process may grow over all damaged files of a kind
ROOM = 8_000_000  # bytes that reading may take besides four times the file: small buffers of the decoders
KINDS = ["mrc-extended", "mrc", "ser", "dm3", "dm5", "tif-imagej", "tif-compressed", "tif-ome", "tif-pages", "tvips"]
KINDS += ["emd-velox", "emd-berkeley", "hspy", "zspy", "png", "gif", "avi", "dm4", "mrc-4-bit", "emi", "jpg", "mp4"]
KINDS += ["zarr", "folder"]
# Part of their share: each takes longer than ten others.
SLOW = {"emd-velox": 0.2, "avi": 0.2, "mp4": 0.2, "zspy": 0.5, "zarr": 0.5, "folder": 0.3}
TABLES = ["commas", "semicolons", "tabs", "utf-16", "trackmate", "trackpy"]
share = math.ceil(DAMAGED / (sum(SLOW.get(kind, 1) for kind in KINDS) + len(TABLES)))

# What a file is spoiled with: numbers that are extreme or hardly wrong, in the byte orders and widths of headers.
numbers = st.sampled_from([0, 1, 2, 3, 7, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1])
integers = st.builds(
    lambda number, width, order: (number % 256**width).to_bytes(width, order),
    numbers,
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from(["little", "big"]),
)
places = st.floats(0, 1) | st.floats(0, 0.1)  # part of the file; headers come first
damages = st.one_of(
    st.tuples(st.just("overwrite"), places, integers | st.binary(min_size=1, max_size=8)),
    st.tuples(st.just("insert"), places, integers | st.binary(min_size=1, max_size=8)),
    st.tuples(st.just("remove"), places, st.binary(min_size=1, max_size=64)),
    st.tuples(st.just("truncate"), places, st.just(b"")),
)


def spoil(data, how):
    """`data` after each damage in turn."""
    for kind, place, piece in how:
        start = int(place * len(data))
        end = {"overwrite": start + len(piece), "insert": start, "remove": start + len(piece), "truncate": len(data)}[
            kind
        ]
        data = data[:start] + (piece if kind in ("overwrite", "insert") else b"") + data[end:]
    return data


def several(share):
    options = {"deadline": None, "derandomize": True, "database": None, "suppress_health_check": list(HealthCheck)}
    # Not made smaller: a file that hangs would hang many times.
    return settings(max_examples=max(share, 1), phases=[Phase.generate], **options)


def most_memory():
    """The most that this process has held so far, in bytes: also what HDF5 and the like take, unseen by Python."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@contextlib.contextmanager
def watched(path):
    """Fail where the work on a file hangs, or takes more memory than four times the file."""

    def stop(*_):
        raise AssertionError(f"reading {path} hangs")

    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, stop)
        signal.alarm(HANG)
    tracemalloc.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        if hasattr(signal, "SIGALRM"):
            signal.alarm(0)
    assert peak <= 4 * sum(file.stat().st_size for file in list_files(path)) + ROOM


def list_files(path):
    """The files of a movie: of a Zarr store, a folder, an .emi file."""
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    return [path, *path.parent.glob("*.ser")] if path.suffix == ".emi" else [path]


@contextlib.contextmanager
def one_line(*names):
    """An error is a ValueError or OSError of one line that names the file, or one of those that belong to it."""
    try:
        yield
    except (ValueError, OSError) as error:
        said = str(error)
        assert any(name in said for name in names)
        assert "\n" not in said


def read_all(path):
    """Open a movie and read its first and last frame, as far as the damage allows."""
    names = {path.name, *(file.name for file in list_files(path))}
    with watched(path), one_line(*names):
        movie = read_movie(path)
        for i in sorted({0, len(movie) - 1}):
            with one_line(*names):
                frame = movie.frame(i)
                assert frame.shape == movie.shape[1:]
                assert frame.dtype == np.float32


def write_whole(kind, folder):
    if kind == "mrc-extended":
        return write_mrc(folder / "whole.mrc", stack(), extended=bytes(range(256)) * 3, kind=b"FEI1")
    if kind == "tif-pages":
        import tifffile

        for i, frame in enumerate(stack()):
            tifffile.imwrite(folder / "whole.tif", frame, append=i > 0, compression="zlib" if i % 2 else None)
        return folder / "whole.tif"
    return write_any(kind, folder)


def test_every_kind_of_file_is_spoiled():
    assert set(KINDS) >= {*TIMED, *UNTIMED, *OTHERS} - {"de5"}  # an EMD file by another name
    spoilt = {f".{kind.split('-')[0]}" for kind in KINDS}
    assert all(spoilt & set(known.extensions) for known in FORMATS)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_movie_gives_one_line_or_frames_of_the_right_shape(kind, tmp_path):
    path = write_whole(kind, tmp_path)
    files = [(file, file.read_bytes()) for file in list_files(path)]
    read_movie(path).frame(0)  # what is imported for it takes memory once
    read_all(path)
    before = most_memory()

    @several(math.ceil(share * SLOW.get(kind, 1)))
    @given(st.sampled_from(files), st.lists(damages, min_size=1, max_size=4))
    def check(spoilt, how):
        file, whole = spoilt
        file.write_bytes(spoil(whole, how))
        read_all(path)
        file.write_bytes(whole)

    check()
    assert most_memory() - before < GROWTH


def write_table(kind, folder):
    rng = np.random.default_rng(0)
    t, k = (i.ravel() for i in np.indices((4, 12)))
    table = pd.DataFrame({"frame": t, "particle": k, "layer": k % 2 + 1, "y_nm": 10.0 * k, "x_nm": rng.normal(size=48)})
    path = folder / "particles.csv"
    if kind == "trackmate":
        rows = [["FRAME", "TRACK_ID", "POSITION_X", "POSITION_Y"], ["Frame", "Track ID", "X", "Y"]]
        rows += [["Frame", "Track", "X", "Y"], ["", "", "(micron)", "(micron)"]]
        rows += [[a, b, c / 1000, d / 1000] for a, b, c, d in zip(t, k, table["x_nm"], table["y_nm"], strict=True)]
        path.write_text("\n".join(",".join(map(str, row)) for row in rows))
    elif kind == "trackpy":
        table.rename(columns={"y_nm": "y", "x_nm": "x"}).drop(columns="layer").to_csv(path)
    else:
        separator = {"semicolons": ";", "tabs": "\t"}.get(kind, ",")
        decimal = "," if kind == "semicolons" else "."
        encoding = "utf-16" if kind == "utf-16" else "utf-8"
        table.to_csv(path, index=False, sep=separator, decimal=decimal, encoding=encoding)
    return path


@pytest.mark.parametrize("kind", TABLES)
def test_damaged_table_gives_one_line_or_particles(kind, tmp_path):
    path = write_table(kind, tmp_path)
    whole = path.read_bytes()
    assert len(read_particles(tmp_path, 1.0)) == 48

    @several(share)
    @given(st.lists(damages, min_size=1, max_size=4))
    def check(how):
        path.write_bytes(spoil(whole, how))
        with watched(path), one_line(path.name):
            table = read_particles(tmp_path, 1.0)
            assert np.isfinite(table[["frame", "particle", "layer", "y_nm", "x_nm"]].to_numpy(float)).all()

    check()
