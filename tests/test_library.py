"""The training library: reproducible, resumable, honest about half-finished stores."""

import inspect
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import zarr

from moirelib.simulation import LibraryConfig, library, make_library, open_library, simulate_frame

WITH_INTERSTITIALS = replace(
    LibraryConfig.fast().lattice,
    shapes=("sphere",),
    diameter_ratio=(0.5, 0.5),
    diameter_std=(0.0, 0.0),
    single_layer=0.0,
    interstitials=(0.1, 0.1),
    position_std=(0.0, 0.0),
)
SMALL = replace(LibraryConfig.fast(), images=4, shape=(96, 96))


def contents(path):
    group = open_library(path)
    truth = [(path / "truth" / f"{i}.json").read_text() for i in range(4)]
    return group["frame"][:], group["mask"][:], truth


@pytest.mark.slow
def test_same_seed_gives_the_same_bytes_whatever_the_workers(tmp_path):
    make_library(tmp_path / "one", SMALL, seed=7, workers=1, progress=False)
    make_library(tmp_path / "two", SMALL, seed=7, workers=2, progress=False)
    for a, b in zip(contents(tmp_path / "one"), contents(tmp_path / "two"), strict=True):
        np.testing.assert_array_equal(a, b)


def test_as_many_workers_are_started_as_asked_for(tmp_path, monkeypatch):
    from dask import distributed

    class Refused(Exception):
        """Instead of starting any worker."""

    def look(*args, **kwargs):
        raise Refused(inspect.signature(cluster).bind(*args, **kwargs).arguments["n_workers"])

    cluster = distributed.LocalCluster
    monkeypatch.setattr(distributed, "LocalCluster", look)
    with pytest.raises(Refused, match="^5$"):
        make_library(tmp_path / "library", SMALL, seed=7, workers=5, progress=False)


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


@pytest.mark.slow
def test_killed_library_goes_on_to_the_same_bytes(tmp_path):
    path, whole = tmp_path / "library", tmp_path / "whole"
    config = replace(LibraryConfig.fast(), images=12, shape=(96, 96))
    command = [sys.executable, "-m", "moirelib", "library", "--fast", "--images", "12", "--size", "96", "--seed", "7"]
    run = subprocess.Popen([*command, "--out", str(path)], stderr=subprocess.DEVNULL, start_new_session=True)
    truth = path / "truth"
    while not (truth.exists() and len(list(truth.iterdir())) >= 2):
        assert run.poll() is None, "finished or failed before it could be killed"
        time.sleep(0.01)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    done = zarr.open_group(str(path / "images.zarr"), mode="r")["done"][:]
    assert 0 < done.sum() < 12
    make_library(path, config, seed=7, workers=2, progress=False)
    make_library(whole, config, seed=7, workers=1, progress=False)
    for name in ("frame", "mask", "pixel_size"):
        np.testing.assert_array_equal(open_library(path)[name][:], open_library(whole)[name][:])
    assert sorted(f.name for f in truth.iterdir()) == sorted(f"{i}.json" for i in range(12))


def test_another_configuration_does_not_mix_in(tmp_path):
    library._create_store(tmp_path / "library", SMALL, 7)
    with pytest.raises(ValueError, match="another configuration or seed"):
        make_library(tmp_path / "library", SMALL, seed=8, workers=1, progress=False)


def test_a_folder_that_is_no_library_is_named(tmp_path):
    with pytest.raises(ValueError, match="is not a moirelib library"):
        open_library(tmp_path)


def test_truth_of_an_image_says_everything_that_was_drawn(tmp_path):
    config = replace(SMALL, images=1, shape=(256, 256), lattice=WITH_INTERSTITIALS)
    make_library(tmp_path / "library", config, seed=7, workers=1, progress=False)
    truth = json.loads((tmp_path / "library" / "truth" / "0.json").read_text())
    again = simulate_frame(config, (7, 0))
    assert truth["pixel_size_nm"] == again.pixel_size
    assert truth["twist_deg"] == again.scene.twist_angle
    assert truth["seed"] == [7, 0]
    assert truth["liquid"]["wedge_angle"] is not None
    at = np.array([truth["particles"]["y_nm"], truth["particles"]["x_nm"]]).T
    planted = [d for layer in truth["defects"] for d in layer if d["kind"] == "interstitial"]
    extra = [np.hypot(*(at - d["position"]).T).min() for d in planted]
    assert np.median(extra) < 1e-6  # one origin for all; neighbours may push one of them a little
    assert {"shape", "energy_eV", "aperture_mrad", "defocus_nm", "liquid", "camera", "defects"} <= set(truth)
    assert set(truth["particles"]) >= {"layer", "y_nm", "x_nm", "diameter_nm"}


def test_more_layers_give_more_masks(tmp_path):
    lattice = replace(SMALL.lattice, layers=3, single_layer=0.0, twist_angle=(10.0, 10.0))
    make_library(tmp_path / "library", replace(SMALL, lattice=lattice), seed=7, workers=1, progress=False)
    masks = open_library(tmp_path / "library")["mask"]
    assert masks.shape == (4, 3, 96, 96)
    assert masks[:].max(axis=(0, 2, 3)).min() == 255


def test_published_recipe_is_within_the_librarys_ranges():
    wide, published = LibraryConfig(), LibraryConfig.published()
    for name in ("mean_free_path", "defocus", "dose", "water", "wedge", "beam", "blur", "mtf_power", "readout_noise"):
        low, high = getattr(published, name)
        assert getattr(wide, name)[0] <= low <= high <= getattr(wide, name)[1], name
    assert published.lattice.height == 112.1
    frame = simulate_frame(published, (1, 2))
    assert frame.frame.shape == (512, 512)
    assert frame.pixel_size == pytest.approx(700 / 512, abs=1e-3)
    assert 26.5 <= frame.parameters["diameter_nm"] <= 42.5
    assert 8 <= frame.parameters["liquid"]["disk_blur"] / frame.pixel_size <= 10
    assert published.disk_radius[1] * published.pixel_size / 27 <= wide.disk_blur[1] + 0.01


def test_a_quarter_of_the_training_library_follows_the_published_recipe():
    assert LibraryConfig.training().recipe == 0.25
    mixed, published = replace(LibraryConfig.fast(), shape=(32, 32), recipe=0.25), LibraryConfig.published()
    sizes = np.array([simulate_frame(mixed, (3, i)).pixel_size for i in range(60)])
    assert 0.1 < np.mean(sizes == published.pixel_size) < 0.4


def test_images_of_the_recipe_are_published_in_all_but_their_number_of_pixels():
    published = LibraryConfig.published()
    for seed in range(3):
        image = simulate_frame(replace(SMALL, recipe=1.0), (1, seed))
        liquid, camera = image.parameters["liquid"], image.parameters["camera"]
        assert image.frame.shape == SMALL.shape != published.shape
        assert image.pixel_size == published.pixel_size
        assert (image.scene.shape, image.scene.height) == ("rod", 112.1)
        assert 26.5 <= image.parameters["diameter_nm"] <= 42.5
        assert [image.parameters[k] for k in ("energy_eV", "aperture_mrad", "defocus_nm")] == [200e3, 10.0, 0.0]
        assert image.parameters["mean_free_path_nm"] == 35.0
        assert liquid["zero_loss"]
        assert (liquid["water"], liquid["wedge"], liquid["clouds"], liquid["blur"]) == (250.0, 0.0, 0.0, 0.0)
        assert 8 <= liquid["disk_blur"] / image.pixel_size <= 10
        assert camera["dose"] == 10.6
        # The same as the recipe's own draw: what was drawn to choose it apart, nothing differs.
        own = simulate_frame(replace(published, shape=SMALL.shape), (1, seed)).parameters
        assert set(own["liquid"]) == set(liquid)
        fixed = [k for k, v in own["liquid"].items() if v == liquid[k]]
        assert set(liquid) - set(fixed) <= {"wedge_angle", "disk_blur", "cloud_size"}


def test_a_library_without_the_recipe_is_what_it_was():
    # No random number is drawn to choose a recipe that has no share.
    rng = np.random.default_rng((1, 0))
    spacing = np.exp(rng.uniform(*np.log(SMALL.lattice.spacing)))
    assert simulate_frame(SMALL, (1, 0)).scene.layers[0].spacing == pytest.approx(spacing)


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
