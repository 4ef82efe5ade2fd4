"""Particle tables as other programs and other countries write them."""

import csv

import numpy as np
import pandas as pd
import pytest
import trackpy

from moirelib.analysis import read_particles
from moirelib.cli import main

NEEDED = ["frame", "particle", "layer", "y_nm", "x_nm"]


@pytest.fixture(scope="module")
def particles():
    rng = np.random.default_rng(3)
    t, k = (i.ravel() for i in np.indices((5, 40)))
    y, x = 20.0 * (k // 8) + rng.normal(size=t.size), 20.0 * (k % 8) + rng.normal(size=t.size)
    return pd.DataFrame({"frame": t, "particle": k, "layer": k % 2 + 1, "y_nm": y, "x_nm": x})


def check_read(folder, particles, **given):
    pd.testing.assert_frame_equal(read_particles(folder, **given)[NEEDED], particles, check_dtype=False, rtol=1e-9)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1"])
@pytest.mark.parametrize(
    ("separator", "decimal"), [(",", "."), (";", "."), (";", ","), ("\t", "."), ("\t", ","), ("|", "."), (" ", ",")]
)
def test_separators_decimals_and_encodings_make_no_difference(separator, decimal, encoding, particles, tmp_path):
    noted = particles.assign(remark="5 µm grid" if separator != " " else "µm")  # a letter that differs by encoding
    noted.to_csv(tmp_path / "particles.csv", index=False, sep=separator, decimal=decimal, encoding=encoding)
    check_read(tmp_path, particles)
    assert set(read_particles(tmp_path)["remark"]) == set(noted["remark"])


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_spaces_quotes_remarks_and_a_last_separator_make_no_difference(end, particles, tmp_path):
    rows = [
        [f'"{value}"' if i % 2 else f"  {value} " for i, value in enumerate(row)]
        for row in particles.astype(str).values
    ]
    lines = [
        "sep=,",
        "",
        "# made by hand",
        ", ".join(f'"{name}"' for name in NEEDED),
        *(",".join(row) + "," for row in rows),
    ]
    (tmp_path / "particles.csv").write_bytes(end.join(lines).encode())
    check_read(tmp_path, particles)


def test_aligned_columns_of_spaces_are_read(particles, tmp_path):
    (tmp_path / "particles.txt").write_text(particles.to_string(index=False))
    got = read_particles(tmp_path)
    np.testing.assert_allclose(got[NEEDED], particles, atol=1e-5)


@pytest.mark.parametrize("write", [str.upper, str.title, lambda name: name.replace("_nm", " (nm)"), lambda n: f"# {n}"])
def test_names_of_columns_may_be_written_otherwise(write, particles, tmp_path):
    names = [write(name) if i == 0 or write("a") != "# a" else name for i, name in enumerate(NEEDED)]
    particles.to_csv(tmp_path / "particles.csv", index=False, header=names)
    check_read(tmp_path, particles)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_index_that_pandas_writes_does_not_matter(separator, particles, tmp_path):
    particles.to_csv(tmp_path / "particles.csv", sep=separator)
    check_read(tmp_path, particles)


@pytest.mark.parametrize("separator", [",", ";", "\t", " "])
def test_quoted_cells_may_hold_the_separator(separator, particles, tmp_path):
    noted = particles.rename(columns={"y_nm": "Y (nm)"})
    noted.insert(0, "remark", f"grid 3{separator}square 5{separator} left")
    noted.to_csv(tmp_path / "particles.csv", index=False, sep=separator, quoting=csv.QUOTE_NONNUMERIC)
    check_read(tmp_path, particles)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_decimal_commas_may_come_late(encoding, particles, tmp_path):
    particles = pd.concat([particles.assign(frame=t, y_nm=3.0, x_nm=7.0) for t in range(3)] + [particles])
    particles = particles.assign(remark="5 µm, left", y_nm=particles["y_nm"].round(3)).reset_index(drop=True)
    assert len(particles) > 600
    cells = particles.astype(str)
    for name in ("y_nm", "x_nm"):
        cells[name] = cells[name].str.removesuffix(".0").str.replace(".", ",")
    cells.to_csv(tmp_path / "particles.csv", index=False, sep=";", encoding=encoding)
    check_read(tmp_path, particles[NEEDED])


def test_layers_that_count_from_0_are_refused_with_a_remedy(particles, tmp_path):
    particles.assign(layer=particles["layer"] - 1).to_csv(tmp_path / "particles.csv", index=False)
    with pytest.raises(ValueError, match=r"layers are numbered from 1 on, and one is 0; add 1"):
        read_particles(tmp_path)


@pytest.mark.parametrize(
    ("unit", "nm"),
    [("micron", 1e3), ("µm", 1e3), ("nm", 1.0), ("pixel", 2.0), ("\\u00B5m", 1e3), ("nanometers", 1.0), ("mm", 1e6)],
)
@pytest.mark.parametrize(
    ("name", "encoding"), [("particles.csv", "utf-8"), ("spots.csv", "latin-1"), ("t.tsv", "utf-16")]
)
def test_trackmate_export_is_read_in_its_unit(name, encoding, unit, nm, particles, tmp_path):
    table = pd.DataFrame(
        {
            "LABEL": [f"ID{i}" for i in range(len(particles))],
            "ID": np.arange(len(particles)),
            "TRACK_ID": particles["particle"].where(particles["particle"] != 3).astype("Int64"),
            "POSITION_X": particles["x_nm"] / nm,
            "POSITION_Y": particles["y_nm"] / nm,
            "FRAME": particles["frame"],
        }
    )
    rows = [["Label", "Spot ID", "Track ID", "X", "Y", "Frame"], ["Label", "ID", "Track", "X", "Y", "Frame"]]
    rows += [["", "", "", f"({unit})", f"({unit})", ""]]
    head = pd.DataFrame(rows, columns=table.columns)
    pd.concat([head, table.astype(object)]).to_csv(tmp_path / name, index=False, encoding=encoding)
    expected = particles.assign(layer=1, particle=particles["particle"].where(particles["particle"] != 3, -1))
    check_read(tmp_path, expected, pixel_size=nm if unit == "pixel" else None)


def test_trackmate_export_without_units_says_what_to_do(tmp_path):
    (tmp_path / "particles.csv").write_text("FRAME,TRACK_ID,POSITION_X,POSITION_Y\n0,1,2.5,3.5\n1,1,2.5,3.5\n")
    with pytest.raises(ValueError, match=r"does not say in which unit POSITION_X is; export it with all rows"):
        read_particles(tmp_path)


def test_trackpy_tracks_need_a_pixel_size_and_have_one_layer(particles, tmp_path, capsys):
    tracks = particles.drop(columns="layer").rename(columns={"y_nm": "y", "x_nm": "x"})
    tracks[["y", "x"]] /= 2.5
    tracks[["y", "x", "frame", "particle"]].to_csv(tmp_path / "particles.csv")
    assert main(["analyze", str(tmp_path)]) == 2
    assert "say how large a pixel is, by --pixel-size NM" in capsys.readouterr().err
    check_read(tmp_path, particles.assign(layer=1), pixel_size=2.5)
    (tmp_path / "summary.json").write_text('{"pixel_size_nm": 2.5}')
    check_read(tmp_path, particles.assign(layer=1))
    tracks[["y", "x", "frame"]].to_csv(tmp_path / "particles.csv")  # found, not linked
    check_read(tmp_path, particles.assign(layer=1, particle=-1))


def test_empty_track_number_means_unlinked_and_trackpy_leaves_such_rows_out(particles, tmp_path):
    unlinked = particles["particle"] < 5
    written = particles.assign(particle=particles["particle"].astype("Int64").mask(unlinked), y=1.0, x=2.0)
    written.to_csv(tmp_path / "particles.csv", index=False)
    check_read(tmp_path, particles.assign(particle=particles["particle"].mask(unlinked, -1)))
    plain = pd.read_csv(tmp_path / "particles.csv")
    linked = plain.dropna()
    pd.testing.assert_series_equal(trackpy.emsd(plain, 1, 1, 3), trackpy.emsd(linked, 1, 1, 3))
    pd.testing.assert_frame_equal(trackpy.compute_drift(plain), trackpy.compute_drift(linked))


def test_missing_columns_are_named_with_those_found_and_the_separator(particles, tmp_path):
    particles.drop(columns=["layer", "x_nm"]).to_csv(tmp_path / "particles.csv", index=False, sep=";")
    with pytest.raises(
        ValueError,
        match=r"no column layer, x_nm; .* found are frame, particle, y_nm \(separated by semicolons\); rename",
    ):
        read_particles(tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"PK\x03\x04 and more", "is a spreadsheet, not a text file; save it as CSV"),
        (b"frame,particle,layer,y_nm,x_nm\n0,0,1,1,5,2,5\n", "has 7 fields in a row, but 5 names.*by semicolons"),
        (b"frame,frame,layer\n1,2,3\n", "has two columns frame"),
        (b"frame,particle,layer,y_nm,x_nm\n", "holds no particles"),
        (b"frame,particle,layer,y_nm,x_nm\n0,0,1,a,2\n", "y_nm in data row 1 is not a number"),
    ],
)
def test_what_is_no_table_is_refused_in_one_line_with_a_remedy(content, says, tmp_path):
    (tmp_path / "particles.csv").write_bytes(content)
    with pytest.raises(ValueError, match=says) as caught:
        read_particles(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_file_by_its_name_and_a_folder_of_several_tables(particles, tmp_path):
    for name in ("a.csv", "b.csv"):
        particles.to_csv(tmp_path / name, index=False)
    check_read(tmp_path / "a.csv", particles)
    with pytest.raises(FileNotFoundError, match=r"no particles\.csv in .* \(it holds a\.csv, b\.csv\); name"):
        read_particles(tmp_path)
