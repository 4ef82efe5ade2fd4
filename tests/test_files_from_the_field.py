"""Files as users have them: each kind of trouble that they report in public, on a small input of our own."""

import logging
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cloudpickle
import dask.array as da
import numpy as np
import pytest
import tifffile
from movie_files import (
    DM3,
    DM4,
    as_signal,
    stack,
    write_4_bit_mrc,
    write_any,
    write_dm5,
    write_gif,
    write_mrc,
    write_ome_zarr,
    write_ser,
    write_tvips,
    write_video,
    write_zspy,
)
from PIL import Image
from rsciio import hspy

from moirelib.cli import main
from moirelib.movies import as_movie, pictures, read_movie
from moirelib.movies.formats import FORMATS, list_formats
from moirelib.units import NANOMETRES, convert_scale

ROOT = Path(__file__).resolve().parents[1]
IMOD = 1146047817


def read_frames(path, **given):
    movie = read_movie(path, **given)
    return np.stack([movie.frame(i) for i in range(len(movie))])


# --- MRC --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("fields", "dtype", "says"),
    [
        ([], "int8", "read as signed, as the standard says"),
        ([("2i", 152, IMOD, 1)], "int8", ""),
        ([("2i", 152, IMOD, 0)], "uint8", ""),
        ([("f", 80, 120.0)], "int8", "read as signed"),
        ([("f", 80, 209.0)], "uint8", "a maximum above 127"),  # no signed byte is
    ],
)
def test_bytes_of_an_mrc_file_are_signed_unless_its_header_says_otherwise(fields, dtype, says, order, tmp_path):
    frames = stack("uint8").view(dtype)
    movie = read_movie(write_mrc(tmp_path / "bytes.mrc", frames.view("uint8"), order=order, fields=fields))
    assert movie.data.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(movie.data.compute(), frames)
    assert says in " ".join(movie.notes)
    assert bool(says) == bool(movie.notes)


@pytest.mark.parametrize(
    ("angstrom", "says"), [(1.0, "1.000 Å per pixel"), (0.0, "no pixel size"), (np.inf, "no pixel")]
)
def test_mrc_scale_that_means_unknown_is_not_believed_and_it_is_said(angstrom, says, tmp_path):
    path = write_mrc(tmp_path / "movie.mrc", stack(), angstrom)
    movie = read_movie(path)
    assert movie.pixel_size is None
    assert says in movie.notes[0]
    assert read_movie(path, pixel_size=0.1).pixel_size == 0.1
    assert read_movie(path, pixel_size=0.1).notes == ()
    assert read_movie(write_mrc(path, stack(), 1.01)).pixel_size == pytest.approx(0.101)


@pytest.mark.parametrize("kind", [b"\0\0\0\0", b"FEI1", b"FEI2", b"SERI", b"AGAR"])
@pytest.mark.parametrize("length", [4, 768, 131072])
def test_extended_header_of_any_length_leaves_frames_and_pixel_size_alone(kind, length, tmp_path):
    movie = read_movie(write_mrc(tmp_path / "movie.mrc", stack(), extended=bytes(length), kind=kind))
    np.testing.assert_array_equal(movie.data.compute(), stack())
    assert (movie.pixel_size, movie.dose) == (pytest.approx(2.5), None)


@pytest.mark.parametrize("order", ["<", ">"])
def test_fei_and_serialem_headers_give_dose_and_fei_a_pixel_size_where_the_cell_has_none(order, tmp_path):
    fei = bytearray(768)
    struct.pack_into(f"{order}I", fei, 8, 1 << 6 | 1 << 14)  # dose and pixel size are set
    struct.pack_into(f"{order}d", fei, 92, 1.5e20)  # electrons/m²
    struct.pack_into(f"{order}d", fei, 156, 2.5e-9)  # m
    about = {"order": order, "extended": bytes(fei), "kind": b"FEI1"}
    movie = read_movie(write_mrc(tmp_path / "fei.mrc", stack(), 1.0, **about))
    assert (movie.dose, movie.pixel_size) == (pytest.approx(1.5), pytest.approx(2.5))
    assert read_movie(write_mrc(tmp_path / "fei.mrc", stack(), 40.0, **about)).pixel_size == pytest.approx(4.0)
    # SerialEM: flags 1 (tilt angle, 2 bytes) and 32 (dose in electrons/Å², a float)
    extended = struct.pack(f"{order}hf", 100, 0.75) * 6
    about = {"order": order, "extended": extended, "kind": b"SERI", "fields": [("2h", 128, 6, 1 | 32)]}
    assert read_movie(write_mrc(tmp_path / "serial.mrc", stack(), **about)).dose == pytest.approx(0.75)


@pytest.mark.parametrize("width", [6, 7])
def test_4_bit_mrc_is_two_pixels_a_byte_and_each_row_begins_with_a_new_byte(width, tmp_path):
    frames = stack("uint8", (3, 5, width)) % 16
    movie = read_movie(write_4_bit_mrc(tmp_path / "packed.mrc", frames))
    np.testing.assert_array_equal(movie.data.compute(), frames)
    assert movie.pixel_size == pytest.approx(2.5)


def test_4_bit_values_in_mrc_bytes_of_half_the_width_are_unpacked(tmp_path):
    frames = stack("uint8", (3, 5, 6)) % 16
    movie = read_movie(write_4_bit_mrc(tmp_path / "packed.mrc", frames, in_bytes=True))
    np.testing.assert_array_equal(movie.data.compute(), frames)
    assert movie.pixel_size == pytest.approx(2.5)


def test_mrc_without_machine_stamp_has_the_byte_order_in_which_its_pixel_type_makes_sense(tmp_path):
    path = write_mrc(tmp_path / "old.mrc", stack("float32"), order=">", fields=[("4B", 212, 0, 0, 0, 0)])
    np.testing.assert_array_equal(read_frames(path), stack())


@pytest.mark.parametrize(("mode", "says"), [(3, "complex"), (4, "complex"), (16, "colours")])
def test_mrc_pixels_that_are_no_images_are_refused_with_a_remedy(mode, says, tmp_path):
    path = write_mrc(tmp_path / "wave.mrc", stack("float32"), fields=[("i", 12, mode)])
    with pytest.raises(ValueError, match=rf"wave\.mrc holds {says}.*; give the recorded image"):
        read_movie(path)


def test_direct_electron_text_file_beside_an_mrc_gives_its_scale(tmp_path):
    write_mrc(tmp_path / "20250101_00012_movie.mrc", stack(), 1.0)
    text = "Specimen Pixel Size X (nanometers) = 2.5\nSpecimen Pixel Size Y (nanometers) = 2.5\nFrames Per Second = 4\n"
    (tmp_path / "20250101_00012_info.txt").write_text(text)
    movie = read_movie(tmp_path / "20250101_00012_movie.mrc")
    np.testing.assert_array_equal(movie.data.compute(), stack())
    assert (movie.pixel_size, movie.frame_time) == (pytest.approx(2.5), pytest.approx(0.25))


# --- TIFF -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_tiff_written_frame_by_frame_is_one_movie(compression, tmp_path):
    path = tmp_path / "movie.tif"
    for i, frame in enumerate(stack()):
        tifffile.imwrite(path, frame, append=i > 0, compression=compression)
    movie = read_movie(path)
    np.testing.assert_array_equal(movie.data.compute(), stack())
    assert "6 images of one size" in movie.notes[0]


@pytest.mark.parametrize("order", ["<", ">"])
def test_pages_that_lead_in_a_circle_are_noticed_at_once(order, tmp_path):
    path = tmp_path / "circle.tif"
    tifffile.imwrite(path, stack(), metadata=None, byteorder=order)
    with tifffile.TiffFile(path) as tiff:
        first, last = tiff.pages[0].offset, tiff.pages[-1].offset
        end = last + 2 + 12 * len(tiff.pages[-1].tags)
    with path.open("r+b") as file:
        file.seek(end)
        file.write(struct.pack(f"{order}I", first))
    with pytest.raises(ValueError, match=r"circle\.tif is damaged: its pages lead in a circle; copy"):
        read_movie(path)


def test_of_several_series_the_largest_movie_is_taken_whatever_lies_between(tmp_path):
    path = tmp_path / "movie.tif"
    for i, frame in enumerate(stack()):
        tifffile.imwrite(path, frame, append=i > 0)
        tifffile.imwrite(path, frame[:2, :2], append=True)
    movie = read_movie(path)
    np.testing.assert_array_equal(movie.data.compute(), stack())
    assert movie.name == "movie.tif [1 of 2]"


@pytest.mark.parametrize("order", ["preview first", "preview last"])
def test_colour_preview_in_a_tiff_is_left_out(order, tmp_path):
    path = tmp_path / "jeol.tif"
    preview = np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    images = [(preview, {"photometric": "rgb"}), (stack()[0], {"photometric": "minisblack"})]
    for i, (image, options) in enumerate(images if order == "preview first" else images[::-1]):
        tifffile.imwrite(path, image, append=i > 0, metadata=None, **options)
    movie = read_movie(path)
    assert movie.data.dtype == np.uint16
    np.testing.assert_array_equal(movie.data.compute(), stack()[:1])


def test_grey_thumbnail_of_a_colour_movie_is_not_taken_for_the_data(tmp_path):
    path = tmp_path / "colours.tif"
    grey = np.repeat(stack("uint8", (4, 12, 14))[..., None], 3, axis=-1)
    tifffile.imwrite(path, grey, photometric="rgb", metadata=None)
    tifffile.imwrite(path, stack("uint8")[0], append=True, metadata=None)
    np.testing.assert_array_equal(read_movie(path).data.compute(), grey[..., 0])


@pytest.mark.parametrize("samples", [1, 3, 4])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_grey_tiff_with_colours_or_alpha_is_grey(samples, planar, tmp_path):
    frames = stack("uint8", (4, 6, 8))
    channels = [frames] * samples + ([np.full_like(frames, 255)] if samples < 3 else [])
    if samples == 4:
        channels[3] = 255 - frames  # an alpha that is not even: it is not looked at
    path = tmp_path / "grey.tif"
    data = np.stack(channels, axis=-1 if planar == "contig" else 1)
    options = {"photometric": "rgb" if samples > 1 else "minisblack", "planarconfig": planar}
    extra = {} if samples == 3 else {"extrasamples": ["unassalpha"]}
    tifffile.imwrite(path, data, metadata=None, **options, **extra)
    movie = read_movie(path)
    np.testing.assert_array_equal(movie.data.compute(), frames)
    assert ("the alpha channel is left out" in movie.notes) == (samples != 3)


def test_colour_in_a_later_frame_is_found_when_that_frame_is_read(tmp_path):
    path = tmp_path / "late.tif"
    frames = np.repeat(stack("uint8", (4, 6, 8))[..., None], 3, axis=-1).copy()
    frames[2, 1, 1] = (255, 0, 0)
    tifffile.imwrite(path, frames, photometric="rgb")
    movie = read_movie(path)
    assert movie.frame(1).shape == (6, 8)
    with pytest.raises(OSError, match=r"frame 2 of late\.tif cannot be read \(is in colour.*export"):
        movie.frame(2)


def test_grey_palette_is_applied_and_a_coloured_one_refused_but_of_imagej(tmp_path):
    frame = stack("uint8", (6, 8))
    inverted = np.repeat((255 - np.arange(256, dtype="uint16"))[None] * 257, 3, axis=0)
    tifffile.imwrite(tmp_path / "grey.tif", frame, photometric="palette", colormap=inverted)
    np.testing.assert_array_equal(read_movie(tmp_path / "grey.tif").data.compute()[0], 255 - frame)
    fire = inverted.copy()
    fire[1] = 0
    tifffile.imwrite(tmp_path / "fire.tif", frame, photometric="palette", colormap=fire)
    with pytest.raises(ValueError, match=r"fire\.tif is in colour \(palette\); export the original"):
        read_movie(tmp_path / "fire.tif")
    tifffile.imwrite(tmp_path / "lut.tif", frame, imagej=True, photometric="palette", colormap=fire)
    movie = read_movie(tmp_path / "lut.tif")
    np.testing.assert_array_equal(movie.data.compute()[0], frame)
    assert "palette" in movie.notes[0]


def test_tiff_in_which_0_is_white_comes_as_it_looks(tmp_path):
    tifffile.imwrite(tmp_path / "white.tif", stack(), photometric="miniswhite")
    np.testing.assert_array_equal(read_movie(tmp_path / "white.tif").data.compute(), 65535 - stack())


def ome_xml(n, planes, root=None, **attributes):
    """OME-XML that announces `n` frames; ``planes`` lists (frame, page, file) of those it places."""
    scale = 'PhysicalSizeX="2.5" PhysicalSizeXUnit="nm" PhysicalSizeY="2.5" PhysicalSizeYUnit="nm" TimeIncrement="0.5"'
    data = "".join(
        f'<TiffData FirstT="{t}" IFD="{page}" PlaneCount="1">'
        + (f'<UUID FileName="{file}">urn:uuid:{file}</UUID>' if file else "")
        + "</TiffData>"
        for t, page, file in planes
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"'
        f'{f" UUID=^urn:uuid:{root}^" if root else ""}><Image ID="Image:0">'
        f'<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" SizeX="7" SizeY="5" '
        f'SizeC="1" SizeZ="1" SizeT="{n}" {scale}><Channel ID="Channel:0:0" '
        f'SamplesPerPixel="1"/>{data}</Pixels></Image></OME>'
    ).replace("^", '"')


def write_pages(path, frames, description):
    with tifffile.TiffWriter(path) as tiff:
        for i, frame in enumerate(frames):
            tiff.write(frame, metadata=None, description=description if i == 0 else None, contiguous=False)


def test_ome_recording_that_was_stopped_gives_the_frames_that_are_there(tmp_path):
    write_pages(tmp_path / "stopped.ome.tif", stack(), ome_xml(10, [(t, t, "") for t in range(10)]))
    movie = read_movie(tmp_path / "stopped.ome.tif")
    np.testing.assert_array_equal(movie.data.compute(), stack())
    assert (movie.pixel_size, movie.frame_time) == (2.5, 0.5)
    assert "6 of the 10 frames" in movie.notes[0]
    assert "6 to 9" in movie.notes[0]


def write_ome_set(folder):
    """Three files of two frames each, described in the first."""
    names = [f"set_{k}.ome.tif" for k in range(3)]
    planes = [(t, t % 2, names[t // 2]) for t in range(6)]
    for k, name in enumerate(names):
        write_pages(folder / name, stack()[2 * k : 2 * k + 2], ome_xml(6, planes, name))
    return [folder / name for name in names]


def test_ome_set_of_several_files_is_one_movie_whichever_is_given(tmp_path):
    files = write_ome_set(tmp_path)
    for given in (*files, tmp_path):
        movie = read_movie(given)
        np.testing.assert_array_equal(movie.data.compute(), stack())
        assert movie.notes == ()


def test_ome_set_with_a_part_missing_gives_the_others_and_says_which(tmp_path):
    files = write_ome_set(tmp_path)
    files[1].unlink()
    movie = read_movie(files[0])
    np.testing.assert_array_equal(movie.data.compute(), stack()[[0, 1, 4, 5]])
    assert "4 of the 6 frames" in movie.notes[0]
    assert "2 to 3" in movie.notes[0]


def test_ome_part_leads_to_the_file_that_describes_the_set(tmp_path):
    files = write_ome_set(tmp_path)
    part = '<OME UUID="urn:uuid:set_1.ome.tif"><BinaryOnly MetadataFile="set_0.ome.tif" UUID="x"/></OME>'
    write_pages(files[1], stack()[2:4], part)
    np.testing.assert_array_equal(read_movie(files[1]).data.compute(), stack())
    files[0].unlink()
    movie = read_movie(files[1])
    np.testing.assert_array_equal(movie.data.compute(), stack()[2:4])
    assert "set_0.ome.tif, which describes the set, is not beside it" in movie.notes[0]


@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        ("\\u00C5", 0.1),
        ("\\u00c5", 0.1),
        ("\\u212B", 0.1),
        ("\\u00B5m", 1e3),
        ("\\\\u00B5m", 1e3),
        ("\\u03bcm", 1e3),
        ("&#181;m", 1e3),
        ("&micro;m", 1e3),
        ("Âµm", 1e3),
        ("microns", 1e3),
        ("Angstroms", 0.1),
        ('"nm"', 1.0),
        ("(nm)", 1.0),
        (" NM ", 1.0),
        ("Nanometers", 1.0),
        ("pixel", None),
        ("", None),
        (None, None),
    ],
)
def test_units_are_known_however_they_are_written(unit, factor):
    assert convert_scale(2.0, unit, NANOMETRES) == (None if factor is None else pytest.approx(2 * factor))


@pytest.mark.parametrize("tag", ["XResolution", "YResolution"])
@pytest.mark.parametrize("other", ["absent", "1"])
def test_scale_of_one_axis_is_taken_for_both_and_it_is_said(tag, other, tmp_path):
    path = tmp_path / "movie.tif"
    both = (0.4, 1.0) if tag == "XResolution" else (1.0, 0.4)
    tifffile.imwrite(path, stack(), imagej=True, resolution=both, metadata={"axes": "TYX", "unit": "nm"})
    if other == "absent":
        gone = {"XResolution": 283, "YResolution": 282}[tag]
        with tifffile.TiffFile(path, mode="r+") as tiff:
            entry = tiff.pages[0].tags[gone]
            tiff.filehandle.seek(entry.offset)
            tiff.filehandle.write(struct.pack("<H", 65000))  # a tag that means nothing
    movie = read_movie(path)
    assert movie.pixel_size == pytest.approx(2.5)
    assert f"only the {tag[0].lower()} axis has a scale; its 2.5 nm" in movie.notes[0]


def test_one_calibrated_axis_of_a_gatan_file_is_taken_for_both(tmp_path):
    path = DM3.write(tmp_path / "movie.dm3", stack(), [(2.5, "nm"), (1.0, ""), (0.5, "s")])
    movie = read_movie(path)
    assert movie.pixel_size == pytest.approx(2.5)
    assert "only the x axis" in movie.notes[0]


# --- Pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "PA", "1", "I;16"])
def test_grey_picture_in_every_mode_is_one_grey_frame(mode, tmp_path):
    grey = stack("uint8", (6, 8)) * 5
    picture = Image.fromarray(grey.astype("uint16")) if mode == "I;16" else Image.fromarray(grey).convert("L")
    if mode == "PA":
        picture = picture.convert("LA").convert("PA")
        if picture.mode != "PA":
            pytest.skip("this Pillow writes no palette with alpha")
        picture = picture.convert("P")
    elif mode != "I;16":
        picture = picture.convert(mode, dither=Image.Dither.NONE)
    picture.save(tmp_path / "grey.png")
    movie = read_movie(tmp_path / "grey.png")
    assert movie.shape == (1, 6, 8)
    np.testing.assert_array_equal(movie.frame(0), grey > 127 if mode == "1" else grey)
    assert ("the alpha channel is left out" in movie.notes) == mode.endswith("A") or mode == "PA"


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".jpg", ".gif"])
def test_picture_in_real_colour_is_refused_with_a_remedy(suffix, tmp_path):
    colours = np.zeros((16, 16, 3), np.uint8)
    colours[:8, :, 0] = colours[8:, :, 2] = 255
    Image.fromarray(colours).save(tmp_path / f"figure{suffix}")
    with pytest.raises(
        ValueError, match=rf"figure\{suffix} is in colour \(RGB\).*export the original grey data, or conv"
    ):
        read_movie(tmp_path / f"figure{suffix}")


def test_grey_jpeg_in_colours_is_read_although_compression_tints_it(tmp_path):
    rng = np.random.default_rng(0)
    grey = np.kron(rng.integers(60, 200, (8, 8)), np.ones((8, 8))).astype(np.uint8)
    Image.fromarray(np.repeat(grey[..., None], 3, axis=-1)).save(tmp_path / "grey.jpg", quality=80)
    assert np.abs(read_movie(tmp_path / "grey.jpg").frame(0) - grey).mean() < 8


def test_animated_gif_is_a_movie_with_the_time_of_playback(tmp_path):
    frames = stack("uint8", (6, 12, 14)) // 4
    movie = read_movie(write_gif(tmp_path / "movie.gif", frames, 200))
    np.testing.assert_array_equal(movie.data.compute(), frames)
    assert movie.frame_time == pytest.approx(0.2)
    assert "playback" in movie.notes[0]
    for i in (4, 1, 1, 5, 0):  # in any order
        np.testing.assert_array_equal(movie.frame(i), frames[i])


def test_pictures_and_videos_leave_no_file_open_and_no_word_behind(tmp_path):
    save_single(tmp_path / "0.png", stack(shape=(6, 8)))
    write_video(tmp_path / "movie.avi", FRAMES)
    code = f"""
import os
from moirelib.movies import read_movie
movie = read_movie({str(tmp_path / "0.png")!r})
movie.frame(0)
os.unlink({str(tmp_path / "0.png")!r})  # Windows refuses this for an open file
video = read_movie({str(tmp_path / "movie.avi")!r})
print(video.frame(2).shape)
if os.path.isdir("/proc/self/fd"):
    assert not any("0.png" in os.path.realpath(f"/proc/self/fd/{{fd}}") for fd in os.listdir("/proc/self/fd"))
"""
    told = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert (told.stdout.strip(), told.stderr) == (str(FRAMES.shape[1:]), "")


def test_array_of_grey_colours_is_grey_and_one_of_colours_refused():
    grey = np.repeat(stack("uint8", (4, 6, 8))[..., None], 3, axis=-1)
    np.testing.assert_array_equal(as_movie(grey).data.compute(), grey[..., 0])
    np.testing.assert_array_equal(as_movie(da.from_array(grey)).frame(2), grey[2, ..., 0])
    np.testing.assert_array_equal(as_movie(grey[0]).frame(0), grey[0, ..., 0])
    grey[0, 0, 0, 0] += 100
    with pytest.raises(ValueError, match="array is in colour"):
        as_movie(grey)


# --- Videos -----------------------------------------------------------------------------------------------------------

FRAMES = (np.indices((12, 32, 48)).sum(axis=0) * 3 % 200 + 20).astype("uint8")


def test_uncompressed_avi_gives_every_frame_exactly_in_any_order(tmp_path):
    movie = read_movie(write_video(tmp_path / "movie.avi", FRAMES))
    assert movie.shape == FRAMES.shape
    for i in (*range(12), 7, 3, 3, 11, 0):
        np.testing.assert_array_equal(movie.frame(i), FRAMES[i])
    assert movie.frame_time == pytest.approx(0.2)
    assert "playback" in movie.notes[0]


@pytest.mark.parametrize(
    ("suffix", "codec", "pix_fmt"), [(".avi", "mjpeg", "yuvj420p"), (".mp4", "libx264", "yuv420p")]
)
def test_compressed_video_is_read_with_all_frames(suffix, codec, pix_fmt, tmp_path):
    movie = read_movie(write_video(tmp_path / f"movie{suffix}", FRAMES, codec, pix_fmt))
    assert movie.shape == FRAMES.shape
    for i in (0, 5, 11, 2):
        assert np.abs(movie.frame(i) - FRAMES[i]).mean() < 25
        others = [np.abs(movie.frame(i) - frame).mean() for frame in FRAMES]
        assert np.argmin(others) == i


@pytest.mark.parametrize(
    ("suffix", "codec", "pix_fmt"),
    [(".avi", "rawvideo", "gray"), (".avi", "mjpeg", "yuvj420p"), (".mkv", "ffv1", "gray")],
)
def test_cut_video_gives_its_whole_frames_and_says_so(suffix, codec, pix_fmt, tmp_path):
    path = write_video(tmp_path / f"movie{suffix}", FRAMES, codec, pix_fmt)
    whole = read_movie(path)
    assert not any("cut" in note for note in whole.notes)
    expected = [whole.frame(i) for i in range(len(whole))]
    path.write_bytes(path.read_bytes()[: int(0.6 * path.stat().st_size)])
    cut = read_movie(path)
    assert 1 < len(cut) < len(FRAMES)
    assert f"is cut or damaged: {len(cut)} whole frames are read" in cut.notes[0]
    for i in range(len(cut)):
        np.testing.assert_array_equal(cut.frame(i), expected[i])


def test_video_in_colour_is_refused_with_a_remedy(tmp_path):
    colours = np.repeat(FRAMES[..., None], 3, axis=-1).copy()
    colours[..., 0] = 250
    path = write_video(tmp_path / "movie.avi", colours, "rawvideo", "bgr24")
    with pytest.raises(ValueError, match=r"movie\.avi.* is in colour .*export the original"):
        read_movie(path)


def test_video_without_its_reader_names_the_package_to_install(tmp_path, monkeypatch):
    path = write_video(tmp_path / "movie.avi", FRAMES)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ValueError, match=r"movie\.avi is a video; run \"pip install 'moirelib\[video\]'\" to read it"):
        read_movie(path)


# --- HDF5, Zarr, TVIPS ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_of_both_versions_is_read_with_its_scales(version, tmp_path):
    movie = read_movie(write_ome_zarr(tmp_path / "movie.ome.zarr", stack(), version))
    np.testing.assert_array_equal(movie.data.compute(), stack())
    assert (movie.pixel_size, movie.frame_time, movie.name) == (2.5, 0.5, "movie.ome.zarr")


def test_ome_zarr_axes_of_length_one_are_left_out(tmp_path):
    path = write_ome_zarr(tmp_path / "movie.zarr", stack(), scale=(0.5, 2.5, 2.5))
    import zarr

    group = zarr.open_group(path, mode="r+")
    described = group.attrs["multiscales"]
    described[0]["axes"].insert(1, {"name": "c"})
    described[0]["datasets"][0] = {
        "path": "1",
        "coordinateTransformations": [{"type": "scale", "scale": [0.5, 1, 2.5, 2.5]}],
    }
    group.create_array("1", data=stack()[:, None])
    group.attrs["multiscales"] = described
    movie = read_movie(path)
    np.testing.assert_array_equal(movie.data.compute(), stack())
    assert movie.pixel_size == 2.5


def test_zarr_store_that_is_no_image_is_refused_in_one_line(tmp_path):
    import zarr

    zarr.open_group(tmp_path / "library.zarr", mode="w").create_array("images", data=stack())
    with pytest.raises(ValueError, match=r"library\.zarr is no OME-Zarr image; give"):
        read_movie(tmp_path / "library.zarr")


@pytest.mark.parametrize("zipped", [False, True])
def test_zspy_as_a_folder_and_as_a_file(zipped, tmp_path):
    movie = read_movie(write_zspy(tmp_path / "movie.zspy", stack(), zipped))
    np.testing.assert_array_equal(movie.data.compute(), stack())
    assert (movie.pixel_size, movie.frame_time) == (2.5, 0.5)


def test_hyperspy_signal_of_four_dimensions_is_refused_with_a_remedy(tmp_path):
    signal = as_signal(stack())
    signal["data"] = stack(shape=(2, 3, 5, 7))
    signal["axes"] = [{**signal["axes"][0], "size": 2}, {**signal["axes"][0], "size": 3}, *signal["axes"][1:]]
    hspy.file_writer(str(tmp_path / "movie.hspy"), signal)
    with pytest.raises(ValueError, match=r"movie\.hspy has 4 dimensions \(2 × 3 × 5 × 7\); export a stack"):
        read_movie(tmp_path / "movie.hspy")


@pytest.mark.parametrize("suffix", [".dm3", ".dm4", ".dm5"])
def test_gatan_files_whose_values_are_electrons_give_the_dose(suffix, tmp_path):
    frames = np.full((2, 6, 8), 130, "uint16")
    frames[:, ::2] += 50
    frames[:, 1::2] -= 50
    frames[1] += 50
    path, nm = tmp_path / f"movie{suffix}", [(2.5, "nm"), (2.5, "nm"), (0.5, "s")]

    def write(unit):
        intensity = (10.0, 0.2, unit)
        if suffix == ".dm5":
            return write_dm5(path, frames, nm, intensity)
        return {".dm3": DM3, ".dm4": DM4}[suffix].write(path, frames, nm, intensity=intensity)

    movie = read_movie(write("e-"))
    assert movie.dose == pytest.approx(0.2 * (130 - 10) / 25**2)  # electrons per pixel of 25 Å × 25 Å
    assert read_movie(path, pixel_size=5).dose == pytest.approx(0.2 * (130 - 10) / 50**2)
    assert "the camera counted in the first frame" in movie.notes[-1]
    counts = read_movie(write("counts"))
    assert (counts.dose, counts.notes) == (None, ())


def test_dm5_axes_without_a_calibration_have_no_scale(tmp_path):
    assert read_movie(write_dm5(tmp_path / "movie.dm5", stack(), [])).pixel_size is None


def test_tvips_recording_in_parts_is_one_movie(tmp_path):
    path = write_tvips(tmp_path / "run.tvips", stack(), max_file_size=500)
    assert len(list(tmp_path.glob("*.tvips"))) > 2
    movie = read_movie(path)
    np.testing.assert_array_equal(movie.data.compute(), stack())
    assert (movie.pixel_size, movie.frame_time) == (2.0, pytest.approx(0.5))
    assert read_movie(tmp_path).shape == movie.shape
    with pytest.raises(ValueError, match=r"run_001\.tvips is not the first part .* _000\.tvips"):
        read_movie(tmp_path / "run_001.tvips")
    with path.open("r+b") as file:
        file.seek(36)
        file.write(struct.pack("<I", 15600))
    assert (read_movie(path).pixel_size, "camera itself" in read_movie(path).notes[0]) == (None, True)
    write_tvips(tmp_path / "pattern.tvips", stack(), mode=2)
    with pytest.raises(ValueError, match="is a diffraction pattern"):
        read_movie(tmp_path / "pattern_000.tvips")


# --- Folders ----------------------------------------------------------------------------------------------------------


def save_single(path, frame):
    """One frame in the format of the path's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".dm3":
        DM3.write(path, frame[None], [(2.5, "nm"), (2.5, "nm"), (1.0, "")])
    elif path.suffix == ".mrc":
        write_mrc(path, frame[None])
    elif path.suffix == ".ser":
        write_ser(path, frame[None])
    elif path.suffix == ".tif":
        tifffile.imwrite(path, frame, imagej=True, resolution=(0.4, 0.4), metadata={"unit": "nm"})
    else:
        Image.fromarray(frame.astype("uint8")).save(path)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".dm3", ".mrc", ".ser"])
def test_folder_of_single_frames_is_a_movie_in_natural_order(suffix, tmp_path):
    folder = tmp_path / "run"
    for i, frame in enumerate(stack(shape=(12, 6, 8))):
        save_single(folder / f"frame {i}{suffix}", frame % 200)
    (folder / "notes.txt").write_text("grid 3")
    (folder / f".hidden{suffix}").write_bytes(b"")
    movie = read_movie(folder)
    np.testing.assert_array_equal(movie.data.compute(), stack(shape=(12, 6, 8)) % 200)
    assert movie.pixel_size == (None if suffix == ".png" else pytest.approx(2.5))
    assert movie.name == "run"
    assert "12 files are joined to one movie, frame 0" in movie.notes[-1]


def test_folder_of_pictures_in_grey_colours_is_a_movie_until_one_is_in_colour(tmp_path):
    frames = stack("uint8", (4, 6, 8))
    for i, frame in enumerate(frames):
        save_single(tmp_path / f"{i}.png", frame if i == 1 else np.repeat(frame[..., None], 3, axis=-1))
    movie = read_movie(tmp_path)
    np.testing.assert_array_equal(movie.data.compute(), frames)
    red = np.zeros((6, 8, 3), np.uint8)
    red[2, 2] = (255, 0, 0)
    save_single(tmp_path / "2.png", red)
    with pytest.raises(OSError, match=r"frame 2 of .* cannot be read \(is in colour"):
        read_movie(tmp_path).frame(2)
    save_single(tmp_path / "0.png", red)
    with pytest.raises(ValueError, match=r"is in colour \(RGB\).*export"):
        read_movie(tmp_path)


@pytest.mark.parametrize("tree", [True, False])
def test_oneview_frames_are_in_order_of_time_with_their_frame_time(tree, tmp_path):
    folder, frames = tmp_path / "run", stack(shape=(13, 6, 8))
    times = [
        (0, 59),
        *[(1, 0)] * 5,
        *[(1, 1)] * 5,
        *[(1, 2)] * 2,
    ]  # minute and second: 5 frames each, cut at both ends
    for i, (minute, second) in enumerate(times):
        number = times[:i].count((minute, second))
        joint = "/" if tree else "_"
        name = joint.join(["Hour_00", f"Minute_{minute:02d}", f"Second_{second:02d}", f"run_Frame_{number:04d}.dm3"])
        save_single(folder / name, frames[i])
    movie = read_movie(folder)
    np.testing.assert_array_equal(movie.data.compute(), frames)
    assert (movie.frame_time, movie.pixel_size) == (pytest.approx(0.2), pytest.approx(2.5))


def test_file_of_another_size_or_scale_is_named(tmp_path):
    for i in range(4):
        save_single(tmp_path / f"{i}.tif", stack(shape=(6, 8)))
    save_single(tmp_path / "2.tif", stack(shape=(6, 9)))
    with pytest.raises(ValueError, match=r"^2\.tif has 6 × 9 pixels, the other files 6 × 8; take it out"):
        read_movie(tmp_path)
    tifffile.imwrite(
        tmp_path / "2.tif", stack(shape=(6, 8)), imagej=True, resolution=(0.5, 0.5), metadata={"unit": "nm"}
    )
    with pytest.raises(ValueError, match=r"^2\.tif has 2 nm per pixel, the other files 2\.5; take"):
        read_movie(tmp_path)
    tifffile.imwrite(tmp_path / "2.tif", stack("uint8", shape=(6, 8)))
    with pytest.raises(ValueError, match=r"^2\.tif has uint8 values, the other files uint16"):
        read_movie(tmp_path)


@pytest.mark.parametrize("names", [("run.tif", "run_1.tif", "run_2.tif"), ("run 3.tif", "run 3-1.tif", "run 3-2.tif")])
def test_first_part_of_a_split_recording_may_have_no_number(names, tmp_path):
    frames = stack(shape=(12, 6, 8))
    for k, name in enumerate(names):
        tifffile.imwrite(tmp_path / name, frames[5 * k : 5 * k + 5])
    np.testing.assert_array_equal(read_movie(tmp_path).data.compute(), frames)


def test_parts_of_a_split_recording_are_one_movie_and_other_movies_are_listed(tmp_path):
    frames = stack(shape=(8, 6, 8))
    for k in range(3):
        write_mrc(tmp_path / f"run_{k:03d}.mrc", frames[3 * k : 3 * k + 3])
    np.testing.assert_array_equal(read_movie(tmp_path).data.compute(), frames)
    alone = read_movie(tmp_path / "run_000.mrc")
    assert len(alone) == 3
    assert "run_001.mrc beside it is not read" in alone.notes[-1]
    write_mrc(tmp_path / "other.mrc", frames)
    with pytest.raises(IsADirectoryError, match=r"4 movies: other\.mrc \(8 × 6 × 8\), run_000\.mrc .*; give one"):
        read_movie(tmp_path)
    np.testing.assert_array_equal(read_movie(tmp_path / "run_*.mrc").data.compute(), frames)
    with pytest.raises(FileNotFoundError, match="no movie or picture matches"):
        read_movie(tmp_path / "walk_*.mrc")


def test_folder_with_one_movie_is_that_movie(tmp_path):
    write_any("tif-imagej", tmp_path)
    movie = read_movie(tmp_path)
    np.testing.assert_array_equal(movie.data.compute(), stack())
    assert movie.notes == ()


def test_folders_that_are_no_movie_say_what_is_in_them(tmp_path):
    with pytest.raises(IsADirectoryError, match=r"is a folder without a movie; give .*\.dm4"):
        read_movie(tmp_path)
    for name in ("a.png", "b.tif"):
        save_single(tmp_path / name, stack(shape=(6, 8)))
    with pytest.raises(IsADirectoryError, match=r"files of several kinds \(1 \.\w+, 1 \.\w+\); give one, or '.*/\*\."):
        read_movie(tmp_path)
    for name in ("particles.csv", "summary.json", "layer_1.tif"):
        (tmp_path / name).touch()
    with pytest.raises(IsADirectoryError, match="holds results of moirelib; give the movie"):
        read_movie(tmp_path)


def test_frames_of_a_folder_are_read_when_asked_for(tmp_path):
    frames = stack(shape=(6, 6, 8))
    for i in range(6):
        save_single(tmp_path / f"{i}.mrc", frames[i])
    movie = read_movie(tmp_path)
    for i in (0, 1, 2, 4, 5):
        (tmp_path / f"{i}.mrc").unlink()
    np.testing.assert_array_equal(movie.frame(3), frames[3])
    with pytest.raises(OSError, match="frame 1 of .* cannot be read"):
        movie.frame(1)


# --- Laziness ---------------------------------------------------------------------------------------------------------


def bytes_read():
    """What this process has read so far, in bytes; Linux counts it."""
    told = Path("/proc/self/io")
    return int(told.read_text().split()[1]) if told.is_file() else pytest.skip("this system does not count reads")


@pytest.mark.parametrize("kind", ["mrc", "tif", "tif-pages", "ser", "dm5", "hspy", "zarr", "tvips", "folder"])
def test_opening_and_one_frame_read_a_small_part_of_a_long_file(kind, tmp_path):
    frames = np.random.default_rng(0).integers(0, 60000, (40, 200, 250), dtype=np.uint16)  # 4 MB
    path = tmp_path / f"movie.{kind.split('-')[0]}"
    if kind == "tif":
        tifffile.imwrite(path, frames)
    elif kind == "tif-pages":
        for i, frame in enumerate(frames):
            tifffile.imwrite(path, frame, append=i > 0, compression="zlib")
    elif kind == "hspy":
        hspy.file_writer(str(path), as_signal(frames), chunks=(1, 200, 250))
    elif kind == "folder":
        for i, frame in enumerate(frames):
            save_single(path / f"{i}.mrc", frame)
    else:
        write = {"mrc": write_mrc, "ser": write_ser, "zarr": write_ome_zarr, "tvips": write_tvips}.get(kind)
        path = write(path, frames) if write else write_dm5(path, frames, [(2.5, "nm")] * 3)
    read_movie(write_any("mrc", tmp_path / ".."))  # what Python itself reads comes before
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_movie(path)
        before = bytes_read()
        movie = read_movie(path)
        movie.frame(33)
    assert bytes_read() - before < 0.25 * frames.nbytes
    np.testing.assert_array_equal(movie.frame(33), frames[33])


def test_images_that_are_in_the_file_but_not_read_are_told(tmp_path):
    frames = stack("uint16", (6, 20, 30))
    for i in range(0, 6, 2):
        tifffile.imwrite(tmp_path / "stacks.tif", frames[i : i + 2, i:], append=i > 0)
    movie = read_movie(tmp_path / "stacks.tif")
    assert (len(movie), movie.notes[-1][:35]) == (2, "the file holds several images or st")
    tifffile.imwrite(tmp_path / "few.ome.tif", frames, metadata={"axes": "TYX"}, compression="zlib")
    raw = (tmp_path / "few.ome.tif").read_bytes()
    (tmp_path / "few.ome.tif").write_bytes(raw.replace(b'SizeT="6"', b'SizeT="3"'))
    movie = read_movie(tmp_path / "few.ome.tif")
    assert len(movie) == 3
    assert "the file holds 6 images but announces 3; the others are not read" in movie.notes


def test_16_bit_colours_are_refused_not_read_as_8_bits(tmp_path):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0))  # 8 x 8, 16 bits, red green blue
    rows = zlib.compress(b"".join(b"\0" + np.full((8, 3), 300 + y, ">u2").tobytes() for y in range(8)))
    path = tmp_path / "colours.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    with pytest.raises(ValueError, match=r"colours.png holds 16-bit colours; save it as a 16-bit grey"):
        read_movie(path)


def test_what_was_decided_about_a_file_is_told_on_the_command_line(tmp_path, capsys):
    path = write_mrc(tmp_path / "bytes.mrc", stack("uint8"))
    assert main(["decompose", str(path), "--pixel-size", "1000", "--out", str(tmp_path / "out")]) == 2
    assert "read as signed, as the standard says" in capsys.readouterr().err


def test_a_video_is_decoded_only_up_to_the_frame_asked_for(tmp_path, monkeypatch):
    decoded = []

    def count(path, shape, pixels, decode=pictures.decode_video):
        for frame in decode(path, shape, pixels):
            decoded.append(pixels)
            yield frame

    path = write_video(tmp_path / "movie.avi", FRAMES)
    monkeypatch.setattr(pictures, "decode_video", count)
    movie = read_movie(path)
    assert decoded == ["rgb24"]  # one look, whether it is in colour
    movie.frame(3)
    assert decoded[1:] == ["gray"] * 4
    movie.frame(4)
    assert decoded[1:] == ["gray"] * 5


def test_a_copy_of_a_video_goes_on_where_the_original_stood(tmp_path, monkeypatch):
    movie = read_movie(write_video(tmp_path / "movie.avi", FRAMES))
    movie.frame(3)
    monkeypatch.setattr(pictures.subprocess, "Popen", None)  # no decoder can be started
    np.testing.assert_array_equal(cloudpickle.loads(cloudpickle.dumps(movie)).frame(4), FRAMES[4])


def test_a_file_that_is_long_in_opening_holds_up_no_other(tmp_path, monkeypatch):
    slow_may_end, slow_began = threading.Event(), threading.Event()

    def read_slowly(path, read=pictures.read_picture):
        if path.name == "slow.png":
            slow_began.set()
            assert slow_may_end.wait(60)
        return read(path)

    monkeypatch.setattr(pictures, "read_picture", read_slowly)
    for name in ("slow.png", "quick.png"):
        Image.fromarray(FRAMES[0]).save(tmp_path / name)
    filters, level = list(warnings.filters), logging.getLogger("tifffile").level
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(read_movie, tmp_path / "slow.png", 1.0)
        assert slow_began.wait(60)
        quick = pool.submit(read_movie, tmp_path / "quick.png", 1.0)
        try:
            assert quick.result(timeout=60).shape == (1, *FRAMES[0].shape)
            assert logging.getLogger("tifffile").level > logging.CRITICAL  # for the other, still
        finally:
            slow_may_end.set()
        slow.result()
    assert (warnings.filters, logging.getLogger("tifffile").level) == (filters, level)


# --- What is said -----------------------------------------------------------------------------------------------------


def test_readme_and_help_list_the_formats_of_the_registry():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert list_formats("| {name} | {extensions} | {maker} |", "\n", "`") in readme
    command = [sys.executable, "-m", "moirelib", "decompose", "--help"]
    told = subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8").stdout
    assert list_formats() in " ".join(told.split())
    for known in FORMATS:
        assert set(known.extensions) <= set(
            " ".join(told.split()).replace("(", " ").replace(")", " ").replace(",", " ").split()
        )


def test_listing_the_formats_loads_no_reader():
    code = "import sys; from moirelib.movies.formats import list_formats; list_formats()"
    code += "; print({'numpy', 'dask'} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.strip() == "set()"
