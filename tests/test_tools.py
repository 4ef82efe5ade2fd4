"""The book's build: slow is told from stalled, one failing chapter leaves the others whole, and no time is judged."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

if not (ROOT / "tools").is_dir():
    pytest.skip("needs a checkout of the repository", allow_module_level=True)
for package in ("nbclient", "jupyter_cache", "ipykernel"):
    pytest.importorskip(package, reason="needs moirelib[book]")

sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "benchmarks")]

import build_book  # noqa: E402
import real_data  # noqa: E402
import run_chapters  # noqa: E402
from run_chapters import Cost, Outcome  # noqa: E402

import book  # noqa: E402

HEADER = """\
# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---
"""
GOOD = "value = 6 * 7\nprint('the answer is', value)"
FAILING = "print('before')\n\n# %%\n1 / 0"


def page(folder, name, code):
    file = folder / f"{name}.py"
    file.write_text(f"{HEADER}\n# %% [markdown]\n# # {name.capitalize()}\n\n# %%\n{code}\n", encoding="utf-8")
    return file


def printed(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.text for output in outputs if output.output_type == "stream")


def outcome(name="01_a", cached=False, error=None, **cost):
    cost = {"seconds": 10.0, "cpu_seconds": 9.0, "other_cores": 0.0, "peak_mb": 500.0, "measured": "then"} | cost
    return Outcome(name, None, Cost(**cost, cached=cached), error)


# --- running chapters -------------------------------------------------------------------------------------------------


def test_failing_chapter_is_named_and_the_others_are_run_and_cached(tmp_path, capsys):
    pages = [page(tmp_path, "failing", FAILING), page(tmp_path, "good", GOOD)]
    failing, good = run_chapters.run_chapters(pages, tmp_path / "cache")
    assert failing.error == "ZeroDivisionError: division by zero, in cell 2, which begins with `1 / 0`"
    assert printed(failing.notebook) == "before\n"
    assert good.error is None
    assert printed(good.notebook) == "the answer is 42\n"
    assert good.cost.peak_mb > 20
    assert good.cost.cpu_seconds > 0
    shown = capsys.readouterr().out
    assert "failing: FAILED: ZeroDivisionError" in shown
    assert "----> 1 1 / 0" in shown

    # Only code decides what is run again.
    page(tmp_path, "failing", FAILING.replace("1 / 0", "1 / 2"))
    pages[1].write_text(pages[1].read_text(encoding="utf-8").replace("# # Good", "# # Better"), encoding="utf-8")
    repaired, reworded = run_chapters.run_chapters(pages, tmp_path / "cache")
    assert repaired.error is None
    assert not repaired.cost.cached
    assert reworded.cost == Cost(**{**vars(good.cost), "cached": True})
    assert printed(reworded.notebook) == "the answer is 42\n"


@pytest.mark.slow
def test_stalled_kernel_is_given_up_and_a_slow_one_is_not(tmp_path, capsys):
    stalled = page(tmp_path, "stalled", "import threading\n\n# %%\nthreading.Event().wait(600)")
    slow = page(tmp_path, "slow", "import time\n\nstart = time.time()\nwhile time.time() < start + 6:\n    pass")
    stalled, slow = run_chapters.run_chapters([stalled, slow], tmp_path / "cache", stall_s=3.0, news_s=4.0)
    assert slow.error is None
    assert slow.cost.seconds > 6
    assert re.search(r"slow: still running after 0 min, \d+ % of a core, cell \d", capsys.readouterr().out)
    assert stalled.error.startswith("the kernel stalled: less than 1 % of a core in 0.05 min, in cell 2, which begins")


def test_kernel_that_dies_is_told_from_an_error(tmp_path):
    notebook = run_chapters.read_page(page(tmp_path, "dying", "import os\n\nos._exit(1)"))
    dying = run_chapters.run_chapter("dying", notebook, tmp_path)
    assert re.fullmatch(r"the kernel died \(out of memory\? it used \d+ MB\), in cell 1, .* `import os`", dying.error)


# --- what a result depends on -----------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "moirelib" / "inner").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    for name in ("moirelib/inner/lattice.py", "data/sample.tif", "constraints.txt"):
        (tmp_path / name).write_text("1", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("name", ["moirelib/inner/lattice.py", "data/sample.tif", "constraints.txt"])
def test_cache_is_another_when_code_data_or_environment_change(tree, name):
    before = build_book.cache_key(True, [], tree)
    assert build_book.cache_key(True, [], tree) == before
    (tree / name).write_text("2", encoding="utf-8")
    assert build_book.cache_key(True, [], tree) != before


def test_cache_is_another_in_each_mode_and_with_real_data(tree, monkeypatch):
    keys = [build_book.cache_key(True, [], tree), build_book.cache_key(False, [], tree)]
    assert [key.split("-")[0] for key in keys] == ["fast", "full"]
    keys.append(build_book.cache_key(True, ["np_lattice_2p593nm.tif"], tree))
    monkeypatch.setenv("MOIRELIB_DATA", str(tree / "data"))
    keys.append(build_book.cache_key(True, [], tree))
    assert len({key.split("-", 1)[1] for key in keys}) >= 3
    assert len(set(keys)) == 4


# --- real data --------------------------------------------------------------------------------------------------------


def test_list_of_real_files_is_what_the_chapters_fetch():
    code = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "book").glob("*.py"))
    fetched = set(re.findall(r"fetch\(\"([^\"]+)\"\)", code))
    if "trajectories(" in code:
        fetched |= {name for name in real_data.data.REGISTRY if name.startswith("trajectories_")}
    assert set(real_data.CHAPTER_DATA) == fetched


def test_absent_real_data_are_named_in_one_line_with_the_way_to_get_them(tmp_path, monkeypatch):
    def download(*_):
        raise OSError("no network")

    monkeypatch.setattr(real_data.data.pooch, "retrieve", download)
    monkeypatch.setenv("MOIRELIB_DATA", str(tmp_path))
    present, absent = real_data.split_by_presence()
    assert present == []
    line = real_data.notice(absent)
    assert "\n" not in line
    for part in (*real_data.CHAPTER_DATA, "MOIRELIB_DATA=", "network"):
        assert part in line
    assert real_data.notice([]) == ""


def test_make_finds_real_data_beside_the_checkout(tmp_path):
    if not shutil.which("make"):
        pytest.skip("needs make")
    checkout, beside = tmp_path / "moirelib", tmp_path / "shared" / "data" / "real"
    checkout.mkdir()
    shutil.copy(ROOT / "Makefile", checkout)
    (checkout / "show.mk").write_text("show:\n\t@echo [$$MOIRELIB_DATA]\n", encoding="utf-8")

    def shown(**environment):
        command = ["make", "-s", "-C", str(checkout), "-f", "Makefile", "-f", "show.mk", "show"]
        clean = {k: v for k, v in os.environ.items() if k not in ("MOIRELIB_DATA", "MAKEFLAGS", "MAKELEVEL")}
        return subprocess.run(command, env=clean | environment, capture_output=True, text=True).stdout.strip()

    assert shown() == "[]"
    beside.mkdir(parents=True)
    (beside / "README.md").touch()
    assert Path(shown().strip("[]")).resolve() == beside.resolve()
    assert shown(MOIRELIB_DATA="elsewhere") == "[elsewhere]"


# --- report -----------------------------------------------------------------------------------------------------------


def test_memory_is_warned_of_near_binders_limit_and_never_from_the_cache():
    large = outcome("04_b", peak_mb=2100.0)
    (warning,) = build_book.near_binder([outcome(), large])
    assert warning.startswith("04_b used 2100 MB; Binder has 2000 MB")
    assert build_book.near_binder([outcome(cached=True, peak_mb=2100.0)]) == []


def test_table_tells_cached_and_failed_chapters(capsys):
    text = build_book.table([outcome(), outcome("02_b", cached=True), outcome("03_c", error="x")], True, 12.0)
    lines = text.splitlines()
    assert lines[1].split() == ["01_a", "10.0", "9.0", "500"]
    assert lines[2].endswith("cached, from then")
    assert lines[3].endswith("FAILED")
    assert lines[4].split() == ["all", "30.0", "27.0", "500"]


def report(tmp_path, outcomes, fast=True):
    build_book.write_report(tmp_path, outcomes, fast, 60.0, [], [], [])
    return json.loads((tmp_path / "_build" / "book_report.json").read_text(encoding="utf-8"))


def test_benchmark_says_by_how_much_each_budget_is_kept_or_missed(tmp_path):
    built = report(tmp_path, [outcome(seconds=400.0), outcome("02_b", seconds=180.0, peak_mb=2150.0)])
    lines, numbers = book.compare(built)
    assert numbers["book_time_margin_s"] == -100.0
    assert numbers["book_memory_margin_mb"] == -150.0
    text = "\n".join(lines)
    assert "580 of 480 s  MISSED by 100 s" in text
    assert "500 of 2000 MB  kept by 1500 MB" in text
    assert "other programs" not in text.lower()


def test_benchmark_distrusts_a_time_from_a_busy_machine_and_leaves_the_full_mode_alone(tmp_path):
    lines, _ = book.compare(report(tmp_path, [outcome(seconds=1443.0, other_cores=1.6)]))
    assert any("Other programs used 1.6 of" in line for line in lines)
    lines, numbers = book.compare(report(tmp_path, [outcome(seconds=9000.0, peak_mb=3586.0)], fast=False))
    assert "no budget" in lines[-1]
    assert numbers["book_time_margin_s"] is None
    assert numbers["book_memory_margin_mb"] is None


# --- all of it --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_book_with_a_failing_chapter_is_rendered_and_once_repaired_passes(tmp_path, capfd, monkeypatch):
    chapters = tmp_path / "book"
    chapters.mkdir()
    (chapters / "_toc.yml").write_text("format: jb-book\nroot: good\nchapters:\n- file: bad\n", encoding="utf-8")
    shutil.copy(ROOT / "_config.yml", tmp_path)
    shutil.copytree(ROOT / "book" / "_ext", chapters / "_ext")
    (chapters / "references.bib").touch()
    page(chapters, "good", GOOD)
    page(chapters, "bad", FAILING)
    monkeypatch.delenv("MOIRELIB_REPOSITORY", raising=False)
    monkeypatch.setattr(build_book, "split_by_presence", lambda: ([], ["a.tif"]))  # no download
    for name in (*build_book.FOR_KERNELS_AND_SPHINX, "MOIRELIB_FAST"):
        monkeypatch.setenv(name, "1")  # so that what the build sets is undone

    assert build_book.main(tmp_path) == 1
    shown = capfd.readouterr().out
    assert "error: bad failed: ZeroDivisionError: division by zero, in cell 2" in shown
    assert "Real data not at hand: a.tif." in shown
    assert "Executing notebook" not in shown  # Jupyter Book runs no chapter a second time
    html = tmp_path / "_build" / "html"
    assert "the answer is 42" in (html / "good.html").read_text(encoding="utf-8")
    assert "ZeroDivisionError" in (html / "bad.html").read_text(encoding="utf-8")

    page(chapters, "bad", "print('repaired')")
    # However slow: a time, from the cache or not, is no error.
    assert build_book.main(tmp_path) == 0
    shown = capfd.readouterr().out
    assert "good: from the cache" in shown
    assert "repaired" in (html / "bad.html").read_text(encoding="utf-8")
    assert json.loads((html.parent / "book_report.json").read_text(encoding="utf-8"))["errors"] == []
