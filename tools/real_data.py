"""The real data that chapters show: which of it is at hand, and how to get the rest."""

from __future__ import annotations

from pathlib import Path

import pooch

from moirelib import data

# What the chapters fetch; tests/test_tools.py compares it with their code.
CHAPTER_DATA = ("np_lattice_2p593nm.tif", "trajectories_Prism_raw.mat", "trajectories_Rod_raw.mat")


def split_by_presence(names=CHAPTER_DATA) -> tuple[list[str], list[str]]:
    """Names of the files at hand (after a download, where there is a network), and of those that are not."""
    pooch.get_logger().setLevel("WARNING")  # not a line for every attempt to download
    present, absent = [], []
    for name in names:
        try:
            file: Path | None = data.fetch(name)
        except OSError:
            file = None
        except ValueError as error:  # a file of that name with other content
            print(error)
            file = None
        (present if file else absent).append(name)
    return present, absent


def notice(absent: list[str]) -> str:
    """One line on what is missing and how to get it; empty where nothing is."""
    if not absent:
        return ""
    return (
        f"Real data not at hand: {', '.join(absent)}. The chapters say what would be seen in their place. To see the "
        "real data, build again with a network (the files are downloaded), or with MOIRELIB_DATA=FOLDER make book, "
        "where FOLDER holds files of these names; moirelib.data.REGISTRY says where they are published."
    )
