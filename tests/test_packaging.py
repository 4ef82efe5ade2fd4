"""The files that say what moirelib is and needs agree with each other, and nothing unfit is published."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import moirelib

ROOT = Path(__file__).resolve().parents[1]
MEGABYTE = 1_000_000

if not (ROOT / "constraints.txt").is_file():
    pytest.skip("needs a checkout of the repository", allow_module_level=True)

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
# conda-forge's name for what the Python index calls otherwise, and the packages that stand for an extra
CONDA_NAMES = {
    "torch": {"pytorch", "pytorch-cpu"},
    "matplotlib": {"matplotlib-base"},
    "freud-analysis": {"freud"},
    "igraph": {"python-igraph"},
}
CONDA_EXTRAS = {("dask", "distributed"): "distributed", ("rosettasciio", "hdf5"): "h5py"}


def requirements(*extras):
    lines = list(PROJECT["dependencies"])
    for extra in extras:
        lines += EXTRAS[extra]
    return [Requirement(line) for line in lines]


def constraints():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line.strip() and not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def conda_packages(path):
    """Name to version bound of every entry, those under ``pip:`` included."""
    entries = re.findall(r"^ +- ([\w.-]+)((?:[<>=][^#\s]*)?)", (ROOT / path).read_text(encoding="utf-8"), re.M)
    return {canonicalize_name(name): bound for name, bound in entries}


@pytest.mark.parametrize("requirement", requirements("book", "test", "browser"), ids=lambda r: r.name)
def test_every_dependency_is_pinned_to_a_version_it_allows(requirement):
    pinned = constraints()[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(pinned, prereleases=True)


def test_torch_is_pinned_to_the_tested_release():
    assert constraints()["torch"] == Version("2.13.0")


def test_constraints_name_no_local_build():
    # "2.13.0+cpu" exists on one machine's index only
    assert [name for name, version in constraints().items() if version.local] == []


@pytest.mark.parametrize("path", ["environment.yml", ".binder/environment.yml"])
def test_conda_environment_has_every_dependency_with_the_same_bound(path):
    packages = conda_packages(path)
    wanted = requirements("book", "test") if path == "environment.yml" else requirements()
    for requirement in wanted:
        name = canonicalize_name(requirement.name)
        (found,) = CONDA_NAMES.get(name, {name}) & packages.keys()
        assert sorted(packages[found].split(",")) == sorted(str(requirement.specifier).split(",")), name
        for extra in requirement.extras:
            assert CONDA_EXTRAS[name, extra] in packages


def test_only_lower_bounds_so_that_colab_keeps_its_numpy_and_torch():
    operators = {specifier.operator for requirement in requirements() for specifier in requirement.specifier}
    assert operators == {">="}


def test_one_version_everywhere():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = {
        "pyproject.toml": PROJECT["version"],
        "CITATION.cff": re.search(r'^version: "?([^"\s]+)', citation, re.M)[1],
        "CHANGELOG.md": re.search(r"^## \[?(\d[^\]\s]*)", changelog, re.M)[1],
        "moirelib.__version__": moirelib.__version__,
    }
    assert len(set(versions.values())) == 1, versions


def test_release_date_is_the_same_in_citation_and_changelog():
    citation = re.search(r'^date-released: "?([\d-]+)', (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.M)[1]
    changelog = re.search(r"^## .*?(\d{4}-\d\d-\d\d)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)[1]
    assert citation == changelog


# --- what is published ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published_files():
    """Files in the repository, and those that the next commit could add."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, check=True).stdout.decode()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs git and a checkout")
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_a_clone_is_small(published_files):
    sizes = {path.relative_to(ROOT).as_posix(): path.stat().st_size for path in published_files}
    assert {name: size for name, size in sizes.items() if size > 12 * MEGABYTE} == {}
    assert sum(sizes.values()) < 30 * MEGABYTE


def test_no_path_of_one_machine_and_no_package_index_is_named(published_files):
    folders = "|".join(["work", "root", "tmp/bash_jobs"])
    hosts = "|".join(re.escape(".".join(parts)) for parts in [("pypi", "org"), ("files", "pythonhosted", "org")])
    private = re.compile(rf"(?<![\w./:-])/(?:{folders})/|{hosts}")
    found = []
    for path in published_files:
        text = path.read_bytes()
        if b"\0" not in text[:8000]:
            found += [(path.name, match[0]) for match in private.finditer(text.decode("utf-8", errors="replace"))]
    assert found == []


def test_text_files_have_unix_line_ends_in_the_repository():
    # A checkout on Windows may have others; what git stores may not.
    command = ["git", "-C", str(ROOT), "ls-files", "--eol"]
    try:
        listed = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs git and a checkout")
    assert [line for line in listed.splitlines() if line.startswith(("i/crlf", "i/mixed"))] == []


@pytest.mark.parametrize(("before", "after"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_wait_asleep_unless_the_user_says_otherwise(before, after):
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    environment |= {} if before is None else {"OMP_WAIT_POLICY": before}
    code = "import sys, os, moirelib; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    out = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert out.split() == [after, "False"]  # set in time: PyTorch is not loaded yet
