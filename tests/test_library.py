"""The training library: reproducible, resumable, honest about half-finished stores."""

from dataclasses import replace

import numpy as np
import pytest
import zarr

from moirelib import library
from moirelib.library import LibraryConfig, make_library, open_library, simulate_frame

SMALL = replace(LibraryConfig.fast(), images=4, shape=(96, 96))


def contents(path):
    group = open_library(path)
    truth = [(path / "truth" / f"{i}.json").read_text() for i in range(4)]
    return group["frame"][:], group["mask"][:], truth


def test_same_seed_gives_the_same_bytes_whatever_the_workers(tmp_path):
    make_library(tmp_path / "one", SMALL, seed=7, workers=1, progress=False)
    make_library(tmp_path / "two", SMALL, seed=7, workers=2, progress=False)
    for a, b in zip(contents(tmp_path / "one"), contents(tmp_path / "two"), strict=True):
        np.testing.assert_array_equal(a, b)


def test_interrupted_library_goes_on_and_repeats_nothing(tmp_path, monkeypatch):
    path = tmp_path / "library"
    whole = tmp_path / "whole"
    make_library(whole, SMALL, seed=7, workers=1, progress=False)
    library._create_store(path, SMALL, 7)
    library._write_images(str(path), [0, 2], SMALL, 7)
    with pytest.raises(ValueError, match="holds 2 of 4 images"):
        open_library(path)
    stamp = (path / "truth" / "0.json").stat().st_mtime_ns
    make_library(path, SMALL, seed=7, workers=1, progress=False)
    assert (path / "truth" / "0.json").stat().st_mtime_ns == stamp
    np.testing.assert_array_equal(contents(path)[0], contents(whole)[0])


def test_another_configuration_does_not_mix_in(tmp_path):
    library._create_store(tmp_path / "library", SMALL, 7)
    with pytest.raises(ValueError, match="another configuration or seed"):
        make_library(tmp_path / "library", SMALL, seed=8, workers=1, progress=False)


def test_a_folder_that_is_no_library_is_named(tmp_path):
    with pytest.raises(ValueError, match="is not a moirelib library"):
        open_library(tmp_path)


def test_masks_are_dark_in_the_frame():
    config = replace(SMALL, shape=(256, 256), dose=(200.0, 200.0), clouds=(0.0, 0.0), blur=(0.02, 0.02))
    image = simulate_frame(config, (1, 0))
    covered = image.masks.max(axis=0) > 200
    assert image.frame[covered].mean() < image.frame[image.masks.max(axis=0) == 0].mean()


def test_store_has_one_chunk_per_image(tmp_path):
    library._create_store(tmp_path / "library", SMALL, 7)
    group = zarr.open_group(str(tmp_path / "library" / "images.zarr"), mode="r")
    assert group["frame"].chunks[0] == group["mask"].chunks[0] == 1
    assert group["frame"].dtype == np.uint16
