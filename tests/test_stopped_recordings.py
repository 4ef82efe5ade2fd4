"""Recordings that stopped early, stacks in one file, and files that a program left without what others write."""

import struct

import numpy as np
import pytest
import tifffile
import zarr
from movie_files import (
    TIMED,
    UNTIMED,
    stack,
    write_4_bit_mrc,
    write_any,
    write_mrc,
    write_ome_zarr,
    write_ser,
    write_tvips,
)
from PIL import Image

from moirelib.decomposition.frame_checks import check_frame
from moirelib.movies import read_movie

FRAMES = stack(shape=(6, 20, 30))
FRAME = FRAMES[0].nbytes


def cut(path, size):
    """The same file without what lies behind `size` bytes; from its end, if that is negative."""
    path.write_bytes(path.read_bytes()[:size])
    return path


def check_stopped(path, n, frames=FRAMES):
    """The first `n` frames are read, and one note says of how many."""
    movie = read_movie(path)
    np.testing.assert_array_equal(movie.data.compute(), frames[:n])
    said = f"{path.name} holds {n} whole frame{'s' * (n > 1)} of the {len(frames)} that its header announces"
    assert [note for note in movie.notes if "whole" in note] == [f"{said}; the rest is not read"]


# --- Stopped early ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mrc", "ser", "ome", "imagej", "hyperstack", "plain", "shaped"])
@pytest.mark.parametrize("n", [1, 4, 5])
def test_whole_frames_of_a_stopped_recording_are_read_and_counted(kind, n, tmp_path):
    path = tmp_path / f"run.{kind if kind in ('mrc', 'ser') else 'tif'}"
    start = 1024
    if kind in ("mrc", "ser"):
        (write_mrc if kind == "mrc" else write_ser)(path, FRAMES)
    else:
        axes = {"hyperstack": "ZYX"}.get(kind, "TYX")
        how = {"ome": {"ome": True}, "imagej": {"imagej": True}, "hyperstack": {"imagej": True}}.get(kind, {})
        tifffile.imwrite(path, FRAMES, metadata=None if kind == "plain" else {"axes": axes}, **how)
        with tifffile.TiffFile(path) as tiff:
            start = tiff.pages[0].dataoffsets[0]
    if kind == "ser":
        check_stopped(cut(path, path.read_bytes().index(FRAMES[n][::-1].tobytes()) + 50), n)
    else:
        check_stopped(cut(path, start + n * FRAME + 50), n)


def test_imagej_stack_beyond_4_gb_that_was_stopped_is_read(tmp_path):
    path = tmp_path / "long.tif"  # one page describes all frames, and there is no other
    tifffile.imwrite(path, FRAMES, imagej=True, truncate=True, metadata={"axes": "TYX"})
    check_stopped(cut(path, -FRAME // 2), 5)


def test_what_follows_the_frames_of_an_imagej_file_is_not_taken_for_frames(tmp_path):
    path = tmp_path / "run.tif"
    tifffile.imwrite(path, FRAMES, imagej=True, metadata={"axes": "TYX"})
    path.write_bytes(
        path.read_bytes().replace(b"images=6", b"images=9").replace(b"frames=6", b"frames=9") + bytes(3000)
    )
    movie = read_movie(path)
    np.testing.assert_array_equal(movie.data.compute(), FRAMES)
    assert movie.notes == ("run.tif holds 6 whole frames of the 9 that its header announces; the rest is not read",)


def test_compressed_imagej_pages_that_were_stopped_are_counted(tmp_path):
    path = tmp_path / "run.tif"
    tifffile.imwrite(path, FRAMES, imagej=True, compression="zlib", metadata={"axes": "TYX"})
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[3]
        places = [page.offset + 3, page.offset + 60, page.dataoffsets[0] + 5]  # within the page's tags, its pixels
    whole = path.read_bytes()
    for place in places:
        path.write_bytes(whole[:place])
        check_stopped(path, 3)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("where", ["tags", "pixels", "before"])
def test_pages_before_the_one_that_is_cut_off_are_frames(compression, where, tmp_path):
    path = tmp_path / "run.tif"
    for i, frame in enumerate(FRAMES):
        tifffile.imwrite(path, frame, append=i > 0, compression=compression)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[4]
        place = {"tags": page.offset + 30, "pixels": page.dataoffsets[0] + 9, "before": page.offset}[where]
    movie = read_movie(cut(path, place))
    np.testing.assert_array_equal(movie.data.compute(), FRAMES[:4])
    assert movie.notes[0] == "run.tif holds 4 whole frames; the rest is not read"


def test_channels_of_a_stopped_recording_are_not_taken_for_frames(tmp_path):
    channels = stack(shape=(4, 2, 20, 30))
    tifffile.imwrite(tmp_path / "a.tif", channels, imagej=True, metadata={"axes": "TCYX"})
    size = 'SizeX="30" SizeY="20" SizeC="2" SizeZ="1" SizeT="4"'
    ome = f'<OME><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" {size}>'
    ome = f'<?xml version="1.0"?>{ome}<TiffData/></Pixels></Image></OME>'
    tifffile.imwrite(tmp_path / "b.ome.tif", channels.reshape(8, 20, 30), metadata=None, description=ome)
    for name in ("a.tif", "b.ome.tif"):
        size = (tmp_path / name).stat().st_size
        with pytest.raises(ValueError, match=r"has \d dimensions \(T 4, .*C 2"):
            read_movie(cut(tmp_path / name, size * 2 // 3))


def test_4_bit_frames_of_a_stopped_recording_are_read(tmp_path):
    frames = stack("uint8", (5, 6, 7)) % 16
    check_stopped(cut(write_4_bit_mrc(tmp_path / "run.mrc", frames), -3), 4, frames)


def test_places_of_frames_that_a_ser_file_has_not_written_are_left_out(tmp_path):
    path = write_ser(tmp_path / "run.ser", FRAMES)
    raw = path.read_bytes()
    table = struct.unpack_from("<I", raw, 22)[0]
    path.write_bytes(raw[: table + 16] + bytes(8) + raw[table + 24 :])  # the last two of six
    check_stopped(path, 4)


def test_last_part_of_a_tvips_frame_is_not_dropped_in_silence(tmp_path):
    path = write_tvips(tmp_path / "run.tvips", FRAMES)
    assert read_movie(path).notes == ()
    movie = read_movie(cut(path, -100))
    np.testing.assert_array_equal(movie.data.compute(), FRAMES[:5])
    assert movie.notes == ("run_000.tvips holds 5 whole frames; the rest is not read",)


@pytest.mark.parametrize("kind", ["mrc", "ser", "tif"])
def test_a_file_without_a_whole_frame_is_refused(kind, tmp_path):
    path = tmp_path / f"run.{kind}"
    {"mrc": write_mrc, "ser": write_ser, "tif": tifffile.imwrite}[kind](path, FRAMES[:1])
    with pytest.raises(ValueError, match=rf"run\.{kind} is truncated: it holds no whole frame; copy"):
        read_movie(cut(path, -FRAME // 2))


def test_notes_of_every_part_of_a_recording_are_told(tmp_path):
    for k in range(2):
        write_mrc(tmp_path / f"run_{k}.mrc", FRAMES[3 * k : 3 * k + 3])
    cut(tmp_path / "run_1.mrc", -1)
    movie = read_movie(tmp_path)
    np.testing.assert_array_equal(movie.data.compute(), FRAMES[:5])
    assert "run_1.mrc holds 2 whole frames of the 3" in movie.notes[0]


# --- Stacks, one after the other --------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{}, {"compression": "zlib"}, {"photometric": "miniswhite"}])
def test_stacks_of_one_size_in_a_tiff_are_one_movie(how, tmp_path):
    path = tmp_path / "stacks.tif"
    for part in (FRAMES[:2], FRAMES[2:5], FRAMES[5:]):
        options = {"photometric": "minisblack", "resolution": (0.4, 0.4)} | how
        tifffile.imwrite(path, part, append=path.exists(), **options)
    movie = read_movie(path)
    np.testing.assert_array_equal(movie.data.compute(), 65535 - FRAMES if "photometric" in how else FRAMES)
    assert "3 stacks of images of one size are taken for the frames of one movie" in movie.notes


def test_stacks_of_another_scale_and_previews_are_not_joined(tmp_path):
    path = tmp_path / "stacks.tif"
    grey = {"photometric": "minisblack"}
    tifffile.imwrite(path, FRAMES[:4], resolution=(0.4, 0.4), **grey)
    tifffile.imwrite(path, FRAMES[:, :5, :7], append=True, resolution=(0.4, 0.4), **grey)  # previews
    tifffile.imwrite(path, FRAMES[4:], append=True, resolution=(1, 1), **grey)  # says nothing
    movie = read_movie(path)
    np.testing.assert_array_equal(movie.data.compute(), FRAMES)
    assert movie.name == "stacks.tif [1 of 2]"
    tifffile.imwrite(path, FRAMES[:2], append=True, resolution=(0.8, 0.8), **grey)
    movie = read_movie(path)
    np.testing.assert_array_equal(movie.data.compute(), FRAMES[:4])
    assert "the file holds several images or stacks, of which one is read" in movie.notes[-1]


def test_images_of_an_ome_file_are_of_several_places_and_not_joined(tmp_path):
    with tifffile.TiffWriter(tmp_path / "places.ome.tif", ome=True) as tiff:
        for k in range(2):
            tiff.write(FRAMES[3 * k : 3 * k + 3], metadata={"axes": "TYX"})
    movie = read_movie(tmp_path / "places.ome.tif")
    np.testing.assert_array_equal(movie.data.compute(), FRAMES[:3])
    assert "of which one is read: [1 of 2]" in movie.notes[-1]


# --- Folders ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".tif", ".mrc"])
@pytest.mark.parametrize("bad", [0, 2, 5])
def test_an_empty_file_among_pictures_is_a_frame_that_cannot_be_read(suffix, bad, tmp_path):
    frames = FRAMES.astype("uint8") if suffix == ".png" else FRAMES
    for i, frame in enumerate(frames):
        path = tmp_path / f"{i}{suffix}"
        if suffix == ".png":
            Image.fromarray(frame).convert("P").save(path)  # not said to be grey
        else:
            tifffile.imwrite(path, frame) if suffix == ".tif" else write_mrc(path, frame[None])
    (tmp_path / f"{bad}{suffix}").write_bytes(b"")
    movie = read_movie(tmp_path, pixel_size=1.0)
    assert len(movie) == 6
    for i in range(6):
        if i == bad:
            assert f"{bad}{suffix} is empty" in check_frame(movie, i).why
        else:
            np.testing.assert_array_equal(movie.frame(i), frames[i])
    (said,) = [note for note in movie.notes if "cannot be read" in note]
    assert said.startswith(f"1 of the 6 files cannot be read ({bad}{suffix} is empty (0 bytes); copy or export it")


def test_a_folder_of_which_no_file_can_be_read_is_refused(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"0\.png is empty"):
        read_movie(tmp_path)
    write_mrc(tmp_path / "movie.mrc", FRAMES)
    (tmp_path / "movie_2.mrc").write_bytes(b"")
    with pytest.raises(ValueError, match=r"movie_2\.mrc is empty"):  # it may have held any number of frames
        read_movie(tmp_path / "movie*.mrc")


# --- OME-Zarr ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["0.1", "0.2", "0.3"])
def test_old_ome_zarr_is_read_without_scales(version, tmp_path):
    path = tmp_path / "old.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=2)
    data = FRAMES if version == "0.3" else FRAMES[:, None, None]  # before, the axes were t, c, z, y, x
    group.create_array("0", data=data, chunks=(1, *data.shape[1:]))
    described = {"version": version, "datasets": [{"path": "0"}, {"path": "1"}]}
    group.attrs["multiscales"] = [described | ({"axes": ["t", "y", "x"]} if version == "0.3" else {})]
    movie = read_movie(path)
    np.testing.assert_array_equal(movie.data.compute(), FRAMES)
    assert (movie.pixel_size, movie.frame_time) == (None, None)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_image_in_a_group_of_the_store_or_given_itself_is_found(version, tmp_path):
    root = tmp_path / "store.zarr"
    zarr.open_group(root, mode="w", zarr_format=2 if version == "0.4" else 3).attrs["bioformats2raw.layout"] = 3
    write_ome_zarr(root / "0", FRAMES[:2], version)
    write_ome_zarr(root / "plate" / "1", FRAMES, version)
    zarr.open_group(root / "plate", mode="a", zarr_format=2 if version == "0.4" else 3)
    for given, name in ((root, "store.zarr [2 of 2]"), (root / "plate", "plate"), (root / "plate" / "1", "1")):
        movie = read_movie(given)
        np.testing.assert_array_equal(movie.data.compute(), FRAMES)
        assert (movie.name, movie.pixel_size, movie.frame_time) == (name, 2.5, 0.5)
    with pytest.raises(ValueError, match="0 is one array of a Zarr store; give the folder above it"):
        read_movie(root / "plate" / "1" / "0")


def test_zarr_that_promises_more_than_it_can_hold_is_refused(tmp_path):
    path = write_ome_zarr(tmp_path / "movie.zarr", FRAMES)
    header = path / "0" / ".zarray"
    header.write_text(header.read_text().replace("20", "2000000").replace("30", "3000000"))
    with pytest.raises(ValueError, match=r"movie\.zarr is damaged: it promises more than it can hold"):
        read_movie(path)


# --- Scales -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("other", [1.0, 28.0])  # per cm: not set, and 72 dpi
def test_one_axis_in_cm_is_enough(axis, other, tmp_path):
    resolution = [4e6, 4e6]
    resolution[axis] = other
    tifffile.imwrite(tmp_path / "movie.tif", FRAMES, resolution=resolution, resolutionunit="centimeter")
    movie = read_movie(tmp_path / "movie.tif")
    assert movie.pixel_size == pytest.approx(2.5)
    assert f"only the {'yx'[axis]} axis has a scale" in movie.notes[0]


@pytest.mark.parametrize(("unit", "dots"), [("inch", 72), ("cm", 28), ("in", 96), ("inch", 1)])
def test_imagej_resolution_for_printing_is_no_calibration(unit, dots, tmp_path):
    path = tmp_path / "movie.tif"
    tifffile.imwrite(path, FRAMES, imagej=True, resolution=(dots, dots), metadata={"axes": "TYX", "unit": unit})
    assert read_movie(path).pixel_size is None
    fine = 1e7 if unit == "cm" else 2.54e7
    tifffile.imwrite(path, FRAMES, imagej=True, resolution=(fine, fine), metadata={"axes": "TYX", "unit": unit})
    assert read_movie(path).pixel_size == pytest.approx(1.0)


def test_imagej_diffraction_pattern_is_still_turned_down(tmp_path):
    path = tmp_path / "movie.tif"
    tifffile.imwrite(path, FRAMES, imagej=True, resolution=(10, 10), metadata={"axes": "TYX", "unit": "1/nm"})
    with pytest.raises(ValueError, match=r"movie\.tif is a diffraction pattern"):
        read_movie(path)


# --- Every format -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mrc", "ser", "tif-imagej", "tif-compressed", "tif-ome"])
def test_every_length_gives_the_first_frames_or_one_line(kind, tmp_path):
    assert kind in (*TIMED, *UNTIMED)
    path = write_any(kind, tmp_path)
    whole, most, said = path.read_bytes(), 0, set()
    for size in range(8, len(whole), 7):
        path.write_bytes(whole[:size])
        try:
            movie = read_movie(path)
        except ValueError as error:
            said.add("\n" in str(error))
            continue
        np.testing.assert_array_equal(movie.data.compute(), stack()[: len(movie)])
        assert len(movie) == 6 or "the rest is not read" in movie.notes[0]
        assert len(movie) >= most  # more bytes, more frames
        most = len(movie)
    assert most >= 5
    assert said == {False}
