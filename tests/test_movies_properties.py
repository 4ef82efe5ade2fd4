"""What holds for every layer movie and every damaged file, not only for chosen ones."""

import warnings

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from movie_files import TIMED, UNTIMED, write_any

from moirelib.movies import read_movie, write_layer_movie

KINDS = TIMED + UNTIMED
LONG = ("emd-velox", "emd-berkeley", "de5", "dm5", "hspy", "zspy")  # HDF5 and Zarr take up to half a second for each
quick = settings(max_examples=50, deadline=None, derandomize=True, database=None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("movies")


@pytest.fixture(scope="module")
def whole(folder):
    """Bytes of a small valid file of every kind."""
    return {kind: write_any(kind, folder).read_bytes() for kind in KINDS}


# Five pixels wide at least: an array three or four wide counts as colours.
shapes = st.tuples(st.integers(1, 5), st.integers(1, 12), st.integers(5, 12))


@quick
@given(
    frames=shapes.flatmap(lambda shape: arrays(np.uint8, shape)),
    pixel_size=st.floats(0.01, 1000),
    frame_time=st.none() | st.floats(1e-6, 1e6),
)
def test_layer_movie_is_read_as_it_was_written(folder, frames, pixel_size, frame_time):
    path = folder / "layer.tif"
    write_layer_movie(path, iter(frames), pixel_size, frame_time)
    movie = read_movie(path)
    assert movie.data.dtype == np.uint8
    assert movie.shape == frames.shape == tifffile.imread(path).shape
    np.testing.assert_array_equal(movie.data.compute(scheduler="synchronous"), frames)
    assert movie.pixel_size == pytest.approx(pixel_size, rel=1e-6)
    assert movie.frame_time == (None if frame_time is None else pytest.approx(frame_time, rel=1e-6))


def read_all(path):
    """Read every frame that the file allows; an error must be one line that names the file."""
    said = path.name
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            movie = read_movie(path)
            for i in range(len(movie)):
                movie.frame(i)
        except (ValueError, OSError) as error:
            said = str(error)
    assert path.name in said
    assert "\n" not in said


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_file_raises_nothing_but_value_and_os_errors(kind, folder, whole):
    path = folder / f"cut.{kind.split('-')[0]}"

    @quick
    @given(st.integers(0, len(whole[kind]) - 1))
    def check(length):
        path.write_bytes(whole[kind][:length])
        read_all(path)

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_byte_raises_nothing_but_value_and_os_errors(kind, folder, whole):
    path = folder / f"wrong.{kind.split('-')[0]}"

    @settings(quick, max_examples=10 if kind in LONG else 50)
    @given(st.integers(0, len(whole[kind]) - 1), st.integers(1, 255))
    def check(place, change):
        data = bytearray(whole[kind])
        data[place] ^= change
        path.write_bytes(data)
        read_all(path)

    check()
