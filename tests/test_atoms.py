"""Particles as sites in three dimensions."""

import ase.io
import numpy as np
import pandas as pd
import pytest

from moirelib.cli import main
from moirelib.decomposition import to_atoms


def particles():
    return pd.DataFrame(
        {
            "frame": [0, 0, 0, 2],
            "particle": [4, 5, -1, 4],
            "layer": [1, 2, 3, 1],
            "y_nm": [10.0, 20.0, 30.0, 11.0],
            "x_nm": [1.0, 2.0, 3.0, 1.5],
            "diameter_nm": [30.0, 32.0, 34.0, 30.0],
            "layer_confidence": [0.9, 0.8, 0.7, 0.9],
        }
    )


def test_layers_are_stacked_and_lengths_are_in_angstrom():
    first, second = to_atoms(particles(), gap=25.0)
    np.testing.assert_allclose(first.positions, [[10, -100, 0], [20, -200, 250], [30, -300, 500]])
    assert first.get_array("layer").tolist() == [1, 2, 3]
    assert first.get_array("particle").tolist() == [4, 5, -1]
    np.testing.assert_allclose(first.get_array("diameter"), [300, 320, 340])
    assert (first.info["frame"], second.info["frame"]) == (0, 2)
    assert len(second) == 1


def test_the_gap_is_the_usual_diameter_unless_it_is_given():
    assert to_atoms(particles())[0].positions[1, 2] == pytest.approx(310.0)  # median of 30, 30, 32, 34 nm


def test_particles_without_a_diameter_need_a_gap():
    table = particles().drop(columns="diameter_nm")
    with pytest.raises(ValueError, match="no column diameter_nm, so the gap .* must be given"):
        to_atoms(table)
    assert to_atoms(table, gap=25.0)[0].positions[1, 2] == pytest.approx(250.0)


@pytest.mark.parametrize(("table", "gap"), [(particles().iloc[:0], None), (particles(), 0.0), (particles(), -3.0)])
def test_nothing_and_impossible_gaps_are_refused(table, gap):
    with pytest.raises(ValueError, match="no particles|positive"):
        to_atoms(table, gap)


def test_export_writes_what_ase_reads(tmp_path, capsys):
    particles().to_csv(tmp_path / "particles.csv", index=False)
    out = tmp_path / "particles.extxyz"
    assert main(["export", str(tmp_path), "--out", str(out), "--gap", "25"]) == 0
    assert "2 frame(s), 4 particles" in capsys.readouterr().out
    frames = ase.io.read(out, ":")
    np.testing.assert_allclose(frames[0].positions, to_atoms(particles(), 25.0)[0].positions)
    assert frames[0].get_array("layer").tolist() == [1, 2, 3]
    assert [path.name for path in tmp_path.iterdir() if "part" in path.suffix] == []
