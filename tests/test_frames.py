"""Frames of a movie, each by itself: which hold an image, results that are kept, parts of a movie."""

import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies as st
from PIL import Image

from moirelib import data
from moirelib.analysis.pipeline import read_particles
from moirelib.crystal import Lattice
from moirelib.decomposition import Found, Imaging
from moirelib.decomposition.all_frames import FrameJob, choose_shared, find_image, find_in_all_frames
from moirelib.decomposition.frame_checks import check_frame, find_doubtful, find_picture, leave_noise_out
from moirelib.decomposition.frame_results import KEPT, FoundInFrames, FrameResults, read_found, write_found
from moirelib.decomposition.layer_count import SharedByFrames
from moirelib.decomposition.movie_motion import MovieMotion
from moirelib.decomposition.summary import describe_frames
from moirelib.movies import as_movie, cut_movie


def frames(count=3, shape=(40, 60)):
    return np.random.default_rng(0).poisson(200, (count, *shape)).astype(np.uint16)


def check_all(stack):
    """What is said of each frame."""
    movie, before, said = as_movie(stack, pixel_size=1.0), None, []
    for t in range(len(movie)):
        checked = check_frame(movie, t, before)
        said.append(checked.why)
        before = checked.image
    return said


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda frame: frame.fill(0), "constant"),
        (lambda frame: frame[:, :35].fill(65535), "saturated"),
        (lambda frame: frame[15:].fill(7), "25 of its 40 rows hold one value"),
    ],
)
def test_frames_without_an_image_are_left_out(spoil, message):
    stack = frames()
    spoil(stack[1])
    said = check_all(stack)
    assert message in said[1]
    assert said[1].startswith("frame 1 ")
    assert said[::2] == ["", ""]


@pytest.mark.parametrize(
    ("columns", "rows", "remedy"), [(35, 0, "record with less dose per frame"), (0, 15, "copy or export it again")]
)
def test_a_single_image_that_is_left_out_names_a_remedy(columns, rows, remedy):
    frame = frames()[0]
    frame[:, :columns], frame[40 - rows :] = 65535, 7
    with pytest.raises(ValueError, match=f"^frame 0 is .*; {remedy}"):
        find_image(as_movie(frame, pixel_size=1.0), 0)


def test_a_copied_frame_is_left_out():
    stack = frames()
    stack[2] = stack[1]
    assert [bool(why) for why in check_all(stack)] == [False, False, True]


def test_a_border_of_one_value_is_cut_off():
    stack = frames()
    stack[1, :4], stack[1, :, 55:] = 0, 0
    checked = check_frame(as_movie(stack, pixel_size=1.0), 1)
    assert checked.corner == (4, 0)
    np.testing.assert_array_equal(checked.image, stack[1, 4:, :55])


def test_a_border_of_nan_is_cut_off():
    stack = frames().astype(np.float32)
    stack[1, :4], stack[1, :, 55:], stack[2, 20, 30] = np.nan, np.nan, np.nan
    checked = check_frame(as_movie(stack, pixel_size=1.0), 1)
    assert checked.corner == (4, 0)
    np.testing.assert_array_equal(checked.image, stack[1, 4:, :55])
    assert "NaN" in check_all(stack)[2]


def test_an_information_strip_is_cut_off():
    stack = frames()
    stack[1, 34:] = 0
    stack[1, 36:39, 5:50:3] = 255  # text
    checked = check_frame(as_movie(stack, pixel_size=1.0), 1)
    np.testing.assert_array_equal(checked.image, stack[1, :34])


def as_jpeg(frame, quality=85):
    stream = io.BytesIO()
    Image.fromarray(frame).save(stream, "jpeg", quality=quality)
    return np.asarray(Image.open(stream))


def in_8_bits(low, high, gamma=1.0):
    """A simulated lattice between two percentiles of its values."""
    frame = data.sample()[0].frame(0)
    low, high = np.percentile(frame, (low, high))
    return (255 * np.clip((frame - low) / (high - low), 0, 1) ** gamma).astype(np.uint8)


@pytest.mark.parametrize("where", ["bottom", "top"])
@pytest.mark.parametrize("ground", [0, 60, 255])
@pytest.mark.parametrize("compressed", [False, True])
def test_a_strip_of_dense_text_is_cut_off_at_the_bottom_or_top_of_a_picture(where, ground, compressed):
    frame = in_8_bits(0, 100)
    strip = np.full((40, frame.shape[1]), ground, np.uint8)
    strip[10:28, np.arange(frame.shape[1]) % 6 < 4] = 255 - ground  # letters and lines, denser than the ground
    picture = np.concatenate([frame, strip] if where == "bottom" else [strip, frame])
    movie = as_movie(as_jpeg(picture) if compressed else picture, pixel_size=1.0)
    checked = check_frame(movie, 0)
    near = 8 if compressed else 0  # blocks of JPEG hold pixels of both
    assert abs(len(checked.image) - len(frame)) <= near
    assert abs(checked.corner[0] - (0 if where == "bottom" else 40)) <= near
    np.testing.assert_array_equal(
        checked.image, movie.frame(0)[checked.corner[0] :][: len(checked.image), : frame.shape[1]]
    )


@pytest.mark.parametrize("quality", [None, 95, 40])
@pytest.mark.parametrize(("low", "high"), [(0, 100), (2, 98), (10, 90), (0, 60), (40, 100), (20, 80)])
@pytest.mark.parametrize("gamma", [1.0, 0.4, 3.0])
def test_nothing_of_a_lattice_is_cut_off_as_a_strip(quality, low, high, gamma):
    frame = in_8_bits(low, high, gamma)
    faint = (100 + frame // 25).astype(np.uint8)
    for one in (frame, 255 - frame, faint):
        one = one if quality is None else as_jpeg(one, quality)
        assert find_picture(one.astype(np.float32)) == slice(0, None)


@pytest.mark.parametrize("fall", [0.0, 0.4, 0.8])
@pytest.mark.parametrize("noise", [1.5, 3.0, 6.0])
def test_nothing_of_an_uneven_image_is_cut_off_as_a_strip(fall, noise):
    rng, lattice = np.random.default_rng(4), in_8_bits(0, 100) / 255
    light = np.linspace(1, 1 - fall, len(lattice))[:, None]
    liquid = np.where(np.arange(len(lattice))[:, None] > 0.8 * len(lattice), 0.7, lattice)  # no particles at the bottom
    for one in (np.ones_like(lattice), lattice, liquid):
        frame = np.clip(30 + 140 * light * one + noise * rng.standard_normal(lattice.shape), 0, 255).astype(np.uint8)
        for turned in (frame, frame[::-1]):
            assert find_picture(turned.astype(np.float32)) == slice(0, None)


def test_what_was_cut_off_a_frame_is_told(tmp_path):
    one = replace(found(), cut="12 rows and 0 columns")
    write_found(tmp_path / "one.parquet", one)
    assert read_found(tmp_path / "one.parquet").cut == one.cut
    told = describe_frames([], [{"frame": 3, "cut": one.cut}], {}, MovieMotion.none(1), "Note.")
    assert told["cut"] == [{"frame": 3, "cut": "12 rows and 0 columns"}]
    assert told["note"] == "Note. Frames cut at a border or strip without an image: 3 (see cut)."


def test_a_counted_frame_of_few_electrons_has_no_information_strip():
    counted = np.random.default_rng(0).poisson(0.3, (1, 40, 60))
    assert check_frame(as_movie(counted, pixel_size=1.0), 0).image.shape == (40, 60)


def test_the_nearest_frame_with_an_image_is_looked_at():
    stack = frames(5)
    stack[2] = stack[3] = 9
    assert find_image(as_movie(stack, pixel_size=1.0), 2)[0] == 1
    with pytest.raises(ValueError, match="no frame of array holds an image; frame 0 "):
        find_image(as_movie(0 * stack + 5, pixel_size=1.0), 0)


def test_frames_with_suspiciously_few_particles_are_doubtful():
    assert find_doubtful({0: 100, 1: 98, 2: 20, 4: 103}) == [2]
    assert find_doubtful({0: 3, 1: 0}) == []


def test_a_frame_without_a_sure_particle_is_left_out_where_others_hold_many():
    movie, noise = [found(20), found(20), found(20)], found(4)
    noise.particles["score"] = 0.1
    kept = leave_noise_out(FoundInFrames.join([movie[0], noise, *movie[1:]]))
    assert [why[:26] for why in kept.why] == ["", "frame 1 holds only noise: ", "", ""]
    assert (kept.counts.tolist(), kept.used.tolist(), kept.lattices[1]) == ([20, 0, 20, 20], [0, 2, 3], [[], []])
    few = FoundInFrames.join([found(5), noise, found(5)])  # says nothing in a movie of few particles
    assert leave_noise_out(few) is few


def test_particles_of_all_frames_lie_in_one_table():
    empty = Found(pd.DataFrame(), [[], []], None, "frame 1 is black")
    joined = FoundInFrames.join([found(5), empty, found(3)])
    assert joined.counts.tolist() == [5, 0, 3]
    assert joined.why == ["", empty.why, ""]
    assert joined.particles["layer"].dtype == int
    for t, n in ((0, 5), (2, 3)):
        one = joined.particles[joined.particles["frame"] == t]
        for name in ("layer", "y", "x", "score"):
            np.testing.assert_array_equal(one[name], found(n).particles[name])
        assert joined.lattices[t] == found(n).lattices


def found(n=5):
    rng = np.random.default_rng(n)
    table = pd.DataFrame(rng.random((n, 3)), columns=["y", "x", "score"]).assign(layer=1, other_layer=0, shown=True)
    table["score"] = 0.3 + 0.7 * table["score"]
    return Found(table, [[Lattice(12.1, 7.3)], []], Imaging(exponent=1 / 3))


def test_what_was_found_in_a_frame_is_kept_to_the_last_bit(tmp_path):
    one = found()
    write_found(tmp_path / "one.parquet", one)
    back = read_found(tmp_path / "one.parquet")
    columns = [name for name in one.particles if name in KEPT]
    pd.testing.assert_frame_equal(back.particles[columns], one.particles[columns], check_exact=True)
    assert (back.lattices, back.imaging, back.why) == (one.lattices, one.imaging, "")
    left_out = Found(pd.DataFrame(), [[], []], None, "frame 3 is black")
    write_found(tmp_path / "two.parquet", left_out)
    assert read_found(tmp_path / "two.parquet").why == "frame 3 is black"


def test_a_frame_without_any_find_is_kept_too(tmp_path):
    none = found(4).particles.iloc[:0].assign(score=[])  # no row says what type this column has
    write_found(tmp_path / "none.parquet", Found(none.astype({"score": object}), [[], []], None))
    back = read_found(tmp_path / "none.parquet").particles
    assert (len(back), back["score"].dtype) == (0, float)


def test_the_frames_of_a_run_that_goes_on_can_be_read(tmp_path):
    results = FrameResults(tmp_path / "out" / "unfinished", {})
    for t in (3, 0):
        some = found(t + 5)
        nm = {"y_nm": 2 * some.particles["y"], "x_nm": 2 * some.particles["x"], "diameter_nm": 9.0}
        results.put(f"frame-{t:06d}", replace(some, particles=some.particles.assign(**nm)))
        results.put(f"_shared-{t:06d}", some)
    results.put("frame-000001", Found(pd.DataFrame(), [[], []], None, "frame 1 is black"))
    particles = read_particles(tmp_path / "out")
    assert particles["frame"].tolist() == [0] * 5 + [3] * 8
    np.testing.assert_array_equal(particles["y_nm"][-8:], 2 * found(8).particles["y"])
    assert len(pd.read_parquet(tmp_path / "out" / "unfinished")) == 13


def test_a_frame_that_fails_ends_no_run_and_is_tried_again(tmp_path, monkeypatch):
    def run(job, image):
        tried.append(int(image[0, 0]))
        if tried[-1] == movie.frame(2)[0, 0] and broken:
            raise ZeroDivisionError("no such luck")
        return found(6)

    movie, tried, broken = as_movie(frames(5), pixel_size=1.0), [], True
    job, results = FrameJob(None, "cpu", 1.0, (40, 60), (40, 60)), FrameResults(tmp_path / "kept", {})
    monkeypatch.setattr(FrameJob, "run", run)
    computed = find_in_all_frames(movie, job, results, None, False)
    assert computed.why == ["", "", "its particles could not be found (ZeroDivisionError: no such luck)", "", ""]
    assert computed.counts.tolist() == [6, 6, 0, 6, 6]
    tried, broken = [], False
    assert find_in_all_frames(movie, job, results, None, False).counts.tolist() == [6] * 5
    assert tried == [int(movie.frame(2)[0, 0])]


@pytest.mark.parametrize("broken", [b"", b"PK half a file", None])
def test_a_finished_frame_that_cannot_be_read_is_computed_again(tmp_path, broken):
    results = FrameResults(tmp_path / "kept", {})
    for name in ("frame-000000", "frame-000001"):
        results.put(name, found())
    file = tmp_path / "kept" / "frame-000001.parquet"
    file.write_bytes(file.read_bytes()[:-200] if broken is None else broken)
    results.drop_unreadable(["frame-000000", "frame-000001", "frame-000002"])
    assert [results.has(f"frame-{t:06d}") for t in range(3)] == [True, False, False]


def test_a_run_goes_on_where_no_kept_file_can_be_read(tmp_path, monkeypatch):
    monkeypatch.setattr(FrameJob, "run", lambda job, image: found(6))
    movie, results = as_movie(frames(3), pixel_size=1.0), FrameResults(tmp_path / "kept", {})
    job = FrameJob(None, "cpu", 1.0, (40, 60), (40, 60))
    for _ in range(2):
        assert find_in_all_frames(movie, job, results, None, False).counts.tolist() == [6] * 3
        for file in (tmp_path / "kept").glob("*.parquet"):
            file.write_bytes(b"")


def test_a_movie_of_which_every_frame_fails_is_an_error(monkeypatch):
    def run(job, image):
        raise MemoryError("too much")

    monkeypatch.setattr(FrameJob, "run", run)
    job, stack = FrameJob(None, "cpu", 1.0, (40, 60), (40, 60)), frames(3)
    stack[1] = 0  # left out before
    with pytest.raises(ValueError, match=r"no frame of .* could be computed; .*MemoryError: too much"):
        find_in_all_frames(as_movie(stack, pixel_size=1.0), job, FrameResults(None, {}), None, False)


def test_results_of_other_settings_are_not_taken(tmp_path):
    results = FrameResults(tmp_path / "kept", {"diameter": 30.0})
    results.put("frame-000000", found())
    assert FrameResults(tmp_path / "kept", {"diameter": 30.0}).has("frame-000000")
    assert not FrameResults(tmp_path / "kept", {"diameter": 31.0}).has("frame-000000")


def test_a_frame_takes_what_is_shared_from_the_nearest_known_one():
    first, last = SharedByFrames(Imaging(blur=0.1), 1), SharedByFrames(Imaging(blur=0.2), 2)
    given = SharedByFrames(given=2)
    shared = [choose_shared({0: first, 9: last}, t, given) for t in (0, 3, 6, 9)]
    assert [one.imaging.blur for one in shared] == [0.1, 0.1, 0.2, 0.2]
    assert [one.layers for one in shared] == [1, None, None, 2]
    assert choose_shared({}, 3, given) is given


def test_a_part_of_a_movie_counts_from_its_own_start():
    movie = replace(as_movie(frames(10), pixel_size=2.0, frame_time=0.5), dose=2.0)
    part = cut_movie(movie, "2:9:3", "5:25,10:50")
    assert part.shape == (3, 20, 40)
    assert (part.pixel_size, part.frame_time, part.dose) == (2.0, 1.5, 6.0)
    np.testing.assert_array_equal(part.frame(1), frames(10)[5, 5:25, 10:50])
    assert cut_movie(movie).shape == movie.shape


@pytest.mark.parametrize("text", ["5", "3:2", "a:b", "-3:4", "1:2:0", "20:30", "", "1:2:3:4"])
def test_ranges_that_hold_nothing_are_refused(text):
    movie = as_movie(frames(10), pixel_size=2.0)
    with pytest.raises(ValueError, match="frames"):
        cut_movie(movie, frames=text)
    with pytest.raises(ValueError, match="region|pixels"):
        cut_movie(movie, roi=text)


@given(st.integers(0, 12), st.integers(0, 12), st.integers(1, 4))
def test_frames_are_chosen_as_python_does(start, stop, step):
    movie, expected = as_movie(frames(10), pixel_size=2.0), list(range(10))[start:stop:step]
    if expected:
        part = cut_movie(movie, f"{start}:{stop}:{step}")
        np.testing.assert_array_equal(np.asarray(part.data), frames(10)[start:stop:step])
    else:
        with pytest.raises(ValueError, match="frames"):
            cut_movie(movie, f"{start}:{stop}:{step}")
