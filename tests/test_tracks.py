"""Tracks: layers are linked on their own, lone sightings stay unlinked."""

import numpy as np
import pandas as pd

from moirelib.tracking import link_particles


def table(frames, jitter=0.3):
    rng = np.random.default_rng(0)
    rows = []
    for t in range(frames):
        for layer, (y, x) in enumerate([(10.0, 10.0), (10.5, 10.5)], start=1):
            rows.append((t, layer, y + jitter * rng.standard_normal(), x + jitter * rng.standard_normal()))
    return pd.DataFrame(rows, columns=["frame", "layer", "y", "x"])


def test_overlapping_particles_of_two_layers_keep_two_tracks():
    linked = link_particles(table(10), 5.0)
    assert linked.groupby("layer")["particle"].nunique().tolist() == [1, 1]
    assert linked["particle"].nunique() == 2


def test_a_single_frame_is_not_linked():
    assert (link_particles(table(1), 5.0)["particle"] == -1).all()


def test_a_particle_seen_once_is_not_linked():
    lone = pd.DataFrame({"frame": [3], "layer": [1], "y": [90.0], "x": [90.0]})
    linked = link_particles(pd.concat([table(6), lone], ignore_index=True), 5.0)
    assert linked.loc[linked["y"] > 80, "particle"].tolist() == [-1]
    assert (linked.loc[linked["y"] < 80, "particle"] >= 0).all()


def test_a_gap_within_memory_does_not_break_a_track():
    frames = table(10)
    linked = link_particles(frames[~((frames["frame"] == 4) & (frames["layer"] == 1))], 5.0, memory=2)
    assert linked["particle"].nunique() == 2
