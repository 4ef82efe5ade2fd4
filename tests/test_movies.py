"""Reading movies of every format, writing layer movies, and what is said about bad input."""

import gc
import importlib.util
import os
import struct
import warnings
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import tifffile
from movie_files import (
    DM3,
    NM_TYX,
    SHAPE,
    TIMED,
    UNTIMED,
    stack,
    write_any,
    write_berkeley,
    write_mrc,
    write_ser,
    write_velox,
)
from rsciio import emd, tia, tiff as rsciio_tiff

from moirelib.movies import Movie, as_movie, read_movie, write_layer_movie
from moirelib.movies.formats import FORMATS

# --- Every format -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TIMED + UNTIMED)
def test_every_format_gives_frames_pixel_size_and_frame_time(kind, tmp_path):
    movie = read_movie(write_any(kind, tmp_path))
    assert isinstance(movie.data, da.Array)
    assert movie.shape == SHAPE
    assert len(movie) == SHAPE[0]
    assert movie.data.chunks[0] == (1,) * SHAPE[0]
    assert movie.data.dtype == np.uint16
    np.testing.assert_array_equal(movie.data.compute(), stack())
    assert movie.pixel_size == pytest.approx(2.5, rel=1e-6)
    assert movie.frame_time == (None if kind in UNTIMED else pytest.approx(0.5))
    assert movie.name.startswith("movie.")
    frame = movie.frame(2)
    assert frame.dtype == np.float32
    np.testing.assert_array_equal(frame, stack()[2])


@pytest.mark.parametrize("kind", TIMED + UNTIMED)
def test_truncated_file_is_reported_in_one_line_or_gives_its_whole_frames_and_says_so(kind, tmp_path, capfd, caplog):
    whole = write_any(kind, tmp_path).read_bytes()
    cut = tmp_path / f"cut.{kind.split('-')[0]}"
    messages = []
    for length in [int(len(whole) * part / 24) for part in range(24)] + [len(whole) - 1, len(whole) - 40]:
        cut.write_bytes(whole[:length])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                movie = read_movie(cut)
            except ValueError as error:
                messages.append(str(error))
            else:  # all frames where a time stamp, padding or description of later pages is lost
                np.testing.assert_array_equal(movie.data.compute(), stack()[: len(movie)])
                said = [f"cut.{note}" for note in " ".join(movie.notes).split("cut.") if "the rest is not read" in note]
                assert len(movie) == SHAPE[0] or said
                messages += said
    assert len(messages) >= 7
    assert all(message.startswith("cut.") and "\n" not in message for message in messages)
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", [".dm3", ".dm4", ".mrc", ".tif", ".emd", ".ser", ".png"])
def test_text_under_an_image_name_is_turned_down(suffix, tmp_path, capfd, caplog):
    path = tmp_path / f"notes{suffix}"
    path.write_text("Grid 3, square 5: beautiful lattices, 200 kV, low dose.\n" * 60)
    with pytest.raises(ValueError, match=rf"^notes\{suffix} cannot be read as .*") as error:
        read_movie(path)
    assert "\n" not in str(error.value)
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_missing_file_folder_empty_file_and_unknown_format_are_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file: .*gone.tif"):
        read_movie(tmp_path / "gone.tif")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        read_movie(tmp_path)
    (tmp_path / "none.mrc").touch()
    with pytest.raises(ValueError, match=r"none\.mrc is empty"):
        read_movie(tmp_path / "none.mrc")
    (tmp_path / "movie.xyz").write_bytes(b"RIFF")
    with pytest.raises(
        ValueError, match=r"movie\.xyz has an unknown format; supported are .*\.dm4.*\.ser.*: export it"
    ):
        read_movie(tmp_path / "movie.xyz")


def test_suffix_in_capitals_and_a_path_as_string_work(tmp_path):
    path = write_any("mrc", tmp_path).rename(tmp_path / "MOVIE.MRC")
    assert read_movie(str(path)).shape == SHAPE


# --- Laziness ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mrc", "dm3", "ser", "tif-imagej", "emd-berkeley"])
def test_pixels_are_read_when_asked_for_not_when_opened(kind, tmp_path):
    path = write_any(kind, tmp_path)
    movie = read_movie(path)
    pixels = stack()[3].tobytes()[: 2 * SHAPE[2]]  # the first row of the last frame
    raw = path.read_bytes()
    assert raw.count(pixels) == 1
    path.write_bytes(raw.replace(pixels, np.full(SHAPE[2], 999, np.uint16).tobytes()))
    np.testing.assert_array_equal(movie.frame(3)[0], 999)
    np.testing.assert_array_equal(movie.frame(2), stack()[2])


def test_movie_beyond_memory_opens_at_once(tmp_path):
    path = tmp_path / "long.mrc"
    n, side = 5000, 2048  # 42 GB if it were not a hole in the file system
    write_mrc(path, np.ones((1, side, side), np.int16))
    with path.open("r+b") as file:
        file.seek(8)
        file.write(struct.pack("<i", n))
        try:
            file.truncate(1024 + 2 * n * side**2)
        except OSError:
            pytest.skip("this file system has no sparse files of that size")
        last = np.arange(side**2, dtype=np.int16)
        file.seek(1024 + 2 * (n - 1) * side**2)
        file.write(last.tobytes())
    movie = read_movie(path)
    assert movie.shape == (n, side, side)
    np.testing.assert_array_equal(movie.frame(n - 1).ravel(), last)


def test_damage_in_one_compressed_frame_is_reported_with_its_number_and_spares_the_others(tmp_path):
    path = tmp_path / "damaged.tif"
    tifffile.imwrite(path, stack(shape=(6, 32, 32)), compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[2].dataoffsets[0]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 20)
    movie = read_movie(path)
    np.testing.assert_array_equal(movie.frame(3), stack(shape=(6, 32, 32))[3])
    with pytest.raises(OSError, match=r"frame 2 of damaged\.tif cannot be read"):
        movie.frame(2)


@pytest.mark.parametrize("kind", TIMED + UNTIMED)
def test_opened_file_is_not_kept_open(kind, tmp_path):
    gc.disable()  # or chance would close it
    try:
        path = write_any(kind, tmp_path)
        movie = read_movie(path)
        movie.frame(0)
        write_any(kind, tmp_path)  # HDF5 refuses to replace a file that is open
        mapped = kind in ("dm3", "dm4")  # by RosettaSciIO into memory; Dask lets go of that in its own time
        if Path("/proc/self/fd").is_dir() and not mapped:  # Linux lists what is open
            assert path.resolve() not in [link.resolve() for link in Path("/proc/self/fd").iterdir()]
    finally:
        gc.enable()


def test_compression_that_needs_another_package_names_it(tmp_path):
    from PIL import Image

    Image.fromarray(stack("uint8")[0]).save(tmp_path / "lzw.tif", compression="tiff_lzw")
    if importlib.util.find_spec("imagecodecs"):
        np.testing.assert_array_equal(read_movie(tmp_path / "lzw.tif").frame(0), stack()[0])
    else:
        with pytest.raises(ValueError, match=r"lzw\.tif is compressed \(LZW\); run 'pip install imagecodecs'"):
            read_movie(tmp_path / "lzw.tif")


def test_movies_travel_to_other_processes(tmp_path):
    import cloudpickle

    for kind in ("mrc", "ser", "tif-compressed", "emd-velox", "emd-berkeley"):
        movie = cloudpickle.loads(cloudpickle.dumps(read_movie(write_any(kind, tmp_path))))
        np.testing.assert_array_equal(movie.frame(1), stack()[1])


# --- Pixel types ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "float16", "float32", "float64"]
)
def test_every_real_pixel_type_is_kept(dtype, tmp_path):
    path = tmp_path / "movie.tif"
    tifffile.imwrite(path, stack(dtype))
    for movie in (read_movie(path), as_movie(stack(dtype))):
        assert movie.data.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(movie.data.compute(), stack(dtype))


def test_offset_of_16_bit_data_is_left_in(tmp_path):
    path = tmp_path / "camera.tif"
    tifffile.imwrite(path, stack() + np.uint16(32768))
    movie = read_movie(path)
    assert movie.data.dtype == np.uint16
    assert movie.frame(0)[0, 0] == 32768


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_big_endian_files_come_in_native_order(tmp_path, compression):
    tifffile.imwrite(tmp_path / "big.tif", stack(), byteorder=">", compression=compression)
    write_mrc(tmp_path / "big.mrc", stack("float32"), order=">")
    for name in ("big.tif", "big.mrc"):
        movie = read_movie(tmp_path / name)
        assert movie.data.dtype.isnative
        np.testing.assert_array_equal(movie.data.compute(), stack())
    assert as_movie(stack(">u2")).data.dtype.isnative


def test_black_and_white_becomes_0_and_1(tmp_path):
    mask = stack() % 3 == 0
    movie = as_movie(mask)
    assert movie.data.dtype == np.uint8
    np.testing.assert_array_equal(movie.data.compute(), mask)


def test_complex_and_text_values_are_turned_down():
    with pytest.raises(ValueError, match="array holds complex numbers"):
        as_movie(stack("complex64"))
    with pytest.raises(ValueError, match="array holds <U3 values"):
        as_movie(np.full(SHAPE, "abc"))


def test_frames_with_nan_infinity_or_one_value_are_turned_down_by_number():
    data = stack("float64")
    data[1, 2, 2], data[2, 0, 0], data[3] = np.nan, 1e300, 7
    movie = as_movie(data)
    assert movie.frame(0).max() == 34
    for i, complaint in ((1, "NaN or infinite"), (2, "NaN or infinite"), (3, "constant .every pixel is 7")):
        with pytest.raises(ValueError, match=f"frame {i} of array .*{complaint}"):
            movie.frame(i)
    with pytest.raises(IndexError):
        movie.frame(6)


# --- Shapes -----------------------------------------------------------------------------------------------------------


def test_single_image_is_a_movie_of_one_frame(tmp_path):
    tifffile.imwrite(tmp_path / "image.tif", stack()[0])
    write_mrc(tmp_path / "image.mrc", stack()[:1])
    write_velox(tmp_path / "image.emd", {"a": stack()[:1]})
    write_ser(tmp_path / "image.ser", stack()[:1])
    inputs = [tmp_path / f"image.{suffix}" for suffix in ("tif", "mrc", "emd", "ser")]
    for given in [*inputs, stack()[0], da.from_array(stack()[0])]:
        movie = as_movie(given)
        assert movie.shape == (1, *SHAPE[1:])
        np.testing.assert_array_equal(movie.frame(0), stack()[0])


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_colour_is_turned_down(tmp_path, planar):
    shape = (5, 7, 3) if planar == "contig" else (3, 5, 7)
    path = tmp_path / "figure.tif"
    tifffile.imwrite(path, stack("uint8", shape), photometric="rgb", planarconfig=planar)
    with pytest.raises(ValueError, match=r"figure\.tif is in colour \(RGB\)"):
        read_movie(path)


def test_colour_screenshot_and_array_are_turned_down_and_grey_picture_is_read(tmp_path):
    from skimage.io import imsave

    imsave(tmp_path / "colour.png", stack("uint8", (5, 7, 3)), check_contrast=False)
    imsave(tmp_path / "grey.png", stack("uint8")[0], check_contrast=False)
    with pytest.raises(ValueError, match=r"colour\.png is in colour"):
        read_movie(tmp_path / "colour.png")
    with pytest.raises(ValueError, match="array is in colour"):
        as_movie(stack("uint8", (2, 5, 7, 4)))
    np.testing.assert_array_equal(read_movie(tmp_path / "grey.png").frame(0), stack()[0])


def test_more_than_one_stack_axis_is_turned_down_with_its_shape(tmp_path):
    path = tmp_path / "channels.tif"
    tifffile.imwrite(path, stack(shape=(4, 2, 5, 7)), imagej=True, metadata={"axes": "TCYX"})
    with pytest.raises(ValueError, match=r"channels\.tif has 4 dimensions \(T 4, C 2, Y 5, X 7\)"):
        read_movie(path)
    with pytest.raises(ValueError, match="array has 4 dimensions .4 × 2 × 5 × 7."):
        as_movie(stack(shape=(4, 2, 5, 7)))
    with pytest.raises(ValueError, match="array has 1 dimensions"):
        as_movie(np.arange(5))


def test_stack_saved_as_channels_is_still_a_movie(tmp_path):
    path = tmp_path / "movie.tif"
    tifffile.imwrite(path, stack(), imagej=True)  # without axes, tifffile calls them channels
    with tifffile.TiffFile(path) as tiff:
        assert tiff.series[0].axes == "CYX"
    np.testing.assert_array_equal(read_movie(path).data.compute(), stack())


def test_movie_without_frames_is_turned_down(tmp_path):
    write_mrc(tmp_path / "none.mrc", stack()[:0])
    write_berkeley(tmp_path / "none.emd", stack()[:0], NM_TYX)
    for name in ("none.mrc", "none.emd"):
        with pytest.raises(ValueError, match=rf"{name} holds no frames"):
            read_movie(tmp_path / name)
    with pytest.raises(ValueError, match="array holds no frames"):
        as_movie(np.empty((0, 5, 7)))


def test_largest_image_of_a_file_is_taken_and_named(tmp_path):
    path = write_velox(tmp_path / "many.emd", {"a": stack()[:1], "b": stack(), "c": stack()[:2]})
    movie = read_movie(path)
    assert movie.name == "many.emd [2 of 3]"
    np.testing.assert_array_equal(movie.data.compute(), stack())
    tifffile.imwrite(tmp_path / "two.tif", stack()[0, :2])
    tifffile.imwrite(tmp_path / "two.tif", stack(), append=True)
    movie = read_movie(tmp_path / "two.tif")
    assert movie.name == "two.tif [2 of 2]"
    np.testing.assert_array_equal(movie.data.compute(), stack())


# --- Axes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["tyx", "yxt", "xyt", "xty"])
def test_berkeley_axes_are_found_by_their_names(order, tmp_path):
    axes = {"t": NM_TYX[0], "y": NM_TYX[1], "x": NM_TYX[2]}
    stored = np.einsum(f"tyx->{order}", stack())
    movie = read_movie(write_berkeley(tmp_path / "movie.emd", stored, [axes[axis] for axis in order]))
    np.testing.assert_array_equal(movie.data.compute(), stack())
    assert movie.pixel_size == pytest.approx(2.5)
    assert movie.frame_time == pytest.approx(0.5)


def test_berkeley_file_of_rosettasciio_is_read_as_it_was_written(tmp_path):
    steps = [("time", 0.5, "s"), ("y", 2.5, "nm"), ("x", 2.5, "nm")]
    axes = [
        {"name": name, "scale": step, "units": unit, "offset": 0.0, "size": n, "navigate": name == "time"}
        for (name, step, unit), n in zip(steps, SHAPE, strict=True)
    ]
    signal = {
        "data": stack(),
        "axes": axes,
        "metadata": {"General": {"title": "movie"}, "Signal": {}},
        "original_metadata": {},
    }
    emd.file_writer(str(tmp_path / "movie.emd"), signal)
    movie = read_movie(tmp_path / "movie.emd")
    np.testing.assert_array_equal(movie.data.compute(), stack())
    assert (movie.pixel_size, movie.frame_time) == (pytest.approx(2.5), pytest.approx(0.5))


def test_stack_along_something_else_than_time_has_no_frame_time(tmp_path):
    path = DM3.write(tmp_path / "focus.dm3", stack(), [(2.5, "nm"), (2.5, "nm"), (10.0, "eV")])
    movie = read_movie(path)
    assert movie.shape == SHAPE
    assert movie.frame_time is None


def test_ser_is_read_as_rosettasciio_reads_it(tmp_path):
    path = write_ser(tmp_path / "movie.ser", stack("float32"), kind=7)
    reference = tia.file_reader(str(path))[0]
    movie = read_movie(path)
    np.testing.assert_array_equal(movie.data.compute(), reference["data"])
    assert movie.pixel_size == pytest.approx(reference["axes"][-1]["scale"])
    assert reference["axes"][-1]["units"] == "nm"


def test_emi_leads_to_its_largest_ser(tmp_path):
    (tmp_path / "run.emi").write_bytes(b"<ObjectInfo></ObjectInfo>")
    with pytest.raises(ValueError, match=r"run\.emi needs its data files run_1\.ser"):
        read_movie(tmp_path / "run.emi")
    write_ser(tmp_path / "run_1.ser", stack()[:1])
    write_ser(tmp_path / "run_2.ser", stack())
    movie = read_movie(tmp_path / "run.emi")
    assert movie.name == "run.emi [2 of 2]"
    np.testing.assert_array_equal(movie.data.compute(), stack())


# --- Scales -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "step"),
    [
        ("nm", 2.5),
        ("um", 0.0025),
        ("µm", 0.0025),
        ("\\u00B5m", 0.0025),
        ("micron", 0.0025),
        ("pm", 2500.0),
        ("A", 25.0),
    ],
)
def test_imagej_units_become_nanometres(unit, step, tmp_path):
    path = tmp_path / "movie.tif"
    tifffile.imwrite(path, stack(), imagej=True, resolution=(1 / step, 1 / step), metadata={"unit": "nm"})
    escaped = unit.replace("µ", "\\u00B5")
    with tifffile.TiffFile(path, mode="r+") as tiff:
        description = tiff.pages[0].description.replace("unit=nm", f"unit={escaped}")
        tiff.pages[0].tags["ImageDescription"].overwrite(description)
    assert read_movie(path).pixel_size == pytest.approx(2.5, rel=1e-5)


@pytest.mark.parametrize(
    ("unit", "step"),
    [("nm", 2.5), ("Å", 25.0), ("µm", 0.0025), ("μm", 0.0025), ("um", 0.0025), ("pm", 2500.0), ("m", 2.5e-9)],
)
def test_dm_units_become_nanometres(unit, step, tmp_path):
    path = DM3.write(tmp_path / "movie.dm3", stack(), [(step, unit), (step, unit), (1.0, "")])
    assert read_movie(path).pixel_size == pytest.approx(2.5, rel=1e-6)


@pytest.mark.parametrize(("unit", "step"), [("s", 0.04), ("ms", 40.0), ("µs", 4e4), ("min", 0.04 / 60)])
def test_time_units_become_seconds(unit, step, tmp_path):
    path = DM3.write(tmp_path / "movie.dm3", stack(), [(2.5, "nm"), (2.5, "nm"), (step, unit)])
    assert read_movie(path).frame_time == pytest.approx(0.04, rel=1e-6)


@pytest.mark.parametrize(("unit", "nm"), [("centimeter", 1e7), ("inch", 2.54e7)])
def test_plain_tiff_resolution_counts_unless_it_is_a_print_setting(unit, nm, tmp_path):
    tifffile.imwrite(tmp_path / "fine.tif", stack(), resolution=(nm / 2.5, nm / 2.5), resolutionunit=unit)
    tifffile.imwrite(tmp_path / "print.tif", stack(), resolution=(300, 300), resolutionunit=unit)
    tifffile.imwrite(tmp_path / "none.tif", stack())
    assert read_movie(tmp_path / "fine.tif").pixel_size == pytest.approx(2.5, rel=1e-5)
    assert read_movie(tmp_path / "print.tif").pixel_size is None
    assert read_movie(tmp_path / "none.tif").pixel_size is None


def test_scale_in_digitalmicrograph_tags_of_a_tiff_is_found(tmp_path):
    tags = [(code, "s", 0, "nm", True) for code in (65003, 65004)]
    tags += [(code, "d", 1, 2.5, True) for code in (65009, 65010)] + [(65006, "d", 1, 0.0, True)]
    tags += [(65007, "d", 1, 0.0, True)]
    tifffile.imwrite(tmp_path / "gatan.tif", stack()[0], extratags=tags)
    axes = rsciio_tiff.file_reader(str(tmp_path / "gatan.tif"))[0]["axes"]
    assert [axis["scale"] for axis in axes] == [2.5, 2.5]
    assert read_movie(tmp_path / "gatan.tif").pixel_size == pytest.approx(2.5)


def test_scale_of_zero_in_a_file_counts_as_missing(tmp_path):
    assert read_movie(write_mrc(tmp_path / "movie.mrc", stack(), angstrom=0.0)).pixel_size is None
    assert read_movie(write_ser(tmp_path / "movie.ser", stack(), step=0.0)).pixel_size is None


def test_pixels_that_are_not_square_are_turned_down_unless_corrected(tmp_path):
    path = DM3.write(tmp_path / "movie.dm3", stack(), [(2.5, "nm"), (3.0, "nm"), (1.0, "s")])
    with pytest.raises(ValueError, match=r"pixels of movie\.dm3 are not square \(3 nm high, 2\.5 nm wide\)"):
        read_movie(path)
    assert read_movie(path, pixel_size=2.7).pixel_size == 2.7


@pytest.mark.parametrize("unit", ["1/nm", "1 / nm", "nm^-1", "mrad"])
def test_diffraction_pattern_is_turned_down_unless_corrected(unit, tmp_path):
    path = DM3.write(tmp_path / "movie.dm3", stack(), [(0.1, unit), (0.1, unit), (1.0, "s")])
    with pytest.raises(ValueError, match=r"movie\.dm3 is a diffraction pattern"):
        read_movie(path)
    assert read_movie(path, pixel_size=2.5).pixel_size == 2.5


def test_diffraction_mode_in_an_emi_file_is_heeded(tmp_path):
    path = write_ser(tmp_path / "run_1.ser", stack())
    (tmp_path / "run.emi").write_bytes(b"<Label>Mode</Label><Value>TEM Diffraction</Value>")
    with pytest.raises(ValueError, match=r"run_1\.ser is a diffraction pattern"):
        read_movie(path)


@pytest.mark.parametrize("value", [0, -1.5, float("nan"), float("inf"), "big"])
def test_absurd_pixel_size_or_frame_time_is_turned_down(value, tmp_path):
    path = write_any("tif-imagej", tmp_path)
    for given in (path, stack(), as_movie(stack())):
        with pytest.raises(ValueError, match="pixel size must be a positive number of nm/pixel, got .* for .*; pass"):
            as_movie(given, pixel_size=value)
        with pytest.raises(ValueError, match="frame time must be a positive number of seconds, got .* for .*; pass"):
            as_movie(given, frame_time=value)


def test_given_scales_override_those_of_the_file_and_of_a_movie(tmp_path):
    movie = read_movie(write_any("tif-imagej", tmp_path), pixel_size=1.2, frame_time=3)
    assert (movie.pixel_size, movie.frame_time) == (1.2, 3.0)
    again = as_movie(movie, pixel_size=1.3)
    assert (again.pixel_size, again.frame_time) == (1.3, 3.0)
    assert again.data is movie.data
    assert (movie.pixel_size, as_movie(movie).pixel_size) == (1.2, 1.2)


def test_array_has_no_scale_of_its_own():
    movie = as_movie(stack())
    assert isinstance(movie, Movie)
    assert (movie.name, movie.pixel_size, movie.frame_time) == ("array", None, None)


def test_lazy_array_stays_lazy_and_is_cut_into_frames():
    calls = []

    def block(block_id=None):
        calls.append(block_id)
        return stack()[block_id[0], None]

    lazy = da.map_blocks(block, chunks=((1,) * 6, (5,), (7,)), dtype="uint16", meta=np.empty((0, 0, 0), "uint16"))
    movie = as_movie(lazy.rechunk((1, 2, 7)))
    assert movie.data.chunks == ((1,) * 6, (5,), (7,))
    assert not calls
    movie.frame(2)
    assert {call[0] for call in calls} == {2}


# --- Layer movies -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 5])
def test_layer_movie_opens_with_its_frames_and_scales(n, tmp_path):
    frames = stack("uint8", (n, 5, 7))
    path = tmp_path / "layer_1.tif"
    write_layer_movie(path, frames, pixel_size=2.593, frame_time=0.25)
    np.testing.assert_array_equal(tifffile.imread(path), frames)  # (t, y, x) even for one frame
    movie = read_movie(path)
    np.testing.assert_array_equal(movie.data.compute(), frames)
    assert movie.pixel_size == pytest.approx(2.593, rel=1e-7)
    assert movie.frame_time == pytest.approx(0.25)
    assert os.listdir(tmp_path) == ["layer_1.tif"]


@pytest.mark.parametrize("n", [1, 3])
def test_layer_movie_tells_imagej_its_unit_and_frames(n, tmp_path):
    path = tmp_path / "layer_1.tif"
    write_layer_movie(path, stack("uint8", (n, 5, 7)), pixel_size=2.0, frame_time=0.25)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        # ImageJ heeds the last ImageDescription that starts with its name.
        lines = [tag.value for tag in page.tags if tag.code == 270][-1].split("\n")
        width, units = page.tags["XResolution"].value
        assert lines[0].startswith("ImageJ=")
        assert {"unit=nm", "finterval=0.25"} <= set(lines)
        assert ("frames=3" in lines) == (n == 3)
        assert units / width == pytest.approx(2.0)
        assert page.tags["ResolutionUnit"].value == 1
        assert page.compression == 1
        assert page.dataoffsets[0] + n * 35 <= path.stat().st_size  # frames lie one after the other


def test_layer_movie_is_written_from_a_generator_one_frame_at_a_time(tmp_path):
    alive, most = 0, 0

    class Frame(np.ndarray):
        def __del__(self):
            nonlocal alive
            alive -= 1

    def frames():
        nonlocal alive, most
        for i in range(50):
            frame = np.full((5, 7), i, np.uint8).view(Frame)
            alive += 1
            most = max(most, alive)
            yield frame

    write_layer_movie(tmp_path / "layer.tif", frames(), pixel_size=2.0)
    assert tifffile.imread(tmp_path / "layer.tif").shape == (50, 5, 7)
    assert most <= 3


def test_imagej_stack_beyond_4_gb_is_read_whole(tmp_path):
    # Above 4 GB ImageJ and write_layer_movie describe the first page only; tifffile does so on request at any size.
    path = tmp_path / "long.tif"
    metadata = {"axes": "TYX", "unit": "nm"}
    tifffile.imwrite(path, stack("uint8"), imagej=True, truncate=True, resolution=(0.4, 0.4), metadata=metadata)
    with tifffile.TiffFile(path) as tiff:
        assert len(tiff.pages) == 1
    movie = read_movie(path)
    np.testing.assert_array_equal(movie.data.compute(), stack("uint8"))
    assert movie.pixel_size == pytest.approx(2.5)


def test_failed_layer_movie_leaves_nothing_behind_and_the_old_file_alone(tmp_path):
    path = tmp_path / "layer.tif"
    path.write_bytes(b"old")

    def frames():
        yield from stack("uint8")
        raise RuntimeError("the network failed")

    with pytest.raises(RuntimeError, match="the network failed"):
        write_layer_movie(path, frames(), pixel_size=2.0)
    assert path.read_bytes() == b"old"
    for bad in ([], stack("float32"), [np.zeros((5, 7), np.uint8), np.zeros((5, 8), np.uint8)]):
        with pytest.raises(ValueError, match=r"layer\.tif (would hold no frames)?"):
            write_layer_movie(path, bad, pixel_size=2.0)
    assert os.listdir(tmp_path) == ["layer.tif"]


@pytest.mark.parametrize("pixel_size", [None, 0, -2, float("nan")])
def test_layer_movie_needs_a_pixel_size(pixel_size, tmp_path):
    with pytest.raises(ValueError, match="pixel size .* for layer.tif"):
        write_layer_movie(tmp_path / "layer.tif", stack("uint8"), pixel_size)
    assert not list(tmp_path.iterdir())


def test_layers_of_a_lazy_movie_are_drawn_when_they_are_written(tmp_path):
    drawn = []

    def block(block_id=None):
        drawn.append(block_id[0])
        frame = stack("uint8")[block_id[0]]
        return np.stack([frame, 255 - frame])[None]

    layers = da.map_blocks(block, chunks=((1,) * 6, (2,), (5,), (7,)), dtype="uint8", meta=np.empty((0,) * 4, "uint8"))
    assert not drawn
    for k in (0, 1):
        write_layer_movie(tmp_path / f"{k + 1}.tif", layers[:, k], 2.0)
        assert drawn == [*range(6)] * (k + 1)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "1.tif"), stack("uint8"))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "2.tif"), 255 - stack("uint8"))


def test_folder_that_is_not_there_is_an_os_error(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        write_layer_movie(tmp_path / "nowhere" / "layer.tif", stack("uint8"), 2.0)


# --- Real files -------------------------------------------------------------------------------------------------------


def real(name):
    path = Path(os.environ.get("MOIRELIB_DATA", "nowhere")) / name
    return path if path.is_file() else pytest.skip(f"{name} is not in MOIRELIB_DATA")


def test_real_frame_has_the_published_scale():
    movie = read_movie(real("np_lattice_2p593nm.tif"))
    assert movie.shape == (1, 1024, 1024)
    assert movie.data.dtype == np.uint16
    assert movie.pixel_size == pytest.approx(2.593, abs=5e-4)
    assert 32768 < np.median(movie.frame(0)) < 32768 + 1000  # the camera's offset is left in


@pytest.mark.parametrize(
    ("name", "shape", "pixel_size"),
    [
        ("gatan_image.dm3", (1, 68, 68), 0.248538),
        ("gatan_image.dm4", (1, 2, 2), 18325.35),
        ("gatan_stack.dm4", (2048, 2, 2), 1.992074),
    ],
)
def test_real_gatan_files(name, shape, pixel_size):
    movie = read_movie(real(name))
    assert movie.shape == shape
    assert movie.pixel_size == pytest.approx(pixel_size, rel=1e-5)
    assert movie.frame_time is None  # the stack's axis is an energy
    assert (movie.dose is not None) == (name == "gatan_stack.dm4")  # its values are electrons
    assert np.isfinite(movie.data[0].compute()).all()


def test_truncated_real_gatan_file(tmp_path):
    whole = real("gatan_stack.dm4").read_bytes()
    for length in (100, len(whole) // 2, len(whole) - 1000):
        (tmp_path / "cut.dm4").write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"^cut\.dm4 cannot be read as Gatan"):
            read_movie(tmp_path / "cut.dm4")


def test_supported_formats_of_the_documentation_are_all_there():
    supported = [extension for known in FORMATS for extension in known.extensions]
    assert len(supported) == len(set(supported))
    for suffix in (".dm3", ".dm4", ".mrc", ".tif", ".emd", ".ser", ".emi", ".png", ".jpg"):
        assert f"``{suffix}``" in read_movie.__doc__
        assert suffix in supported
    assert all(f"``{extension}``" in read_movie.__doc__ for extension in supported)
