"""Run the chapters one after the other, measure them, and keep what they showed.

There is no time limit: a slow machine and a long cell are no faults. A kernel that stalls is told from a slow one by
the processor time of the kernel and of the processes below it. A chapter that fails or stalls is given up; the others
run.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import jupytext
import nbformat
import psutil
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

SAMPLE_INTERVAL_S = 0.1  # of memory and processor time
# A kernel has stalled when, for STALL_MINUTES of watching, it used less than STALL_SHARE of one core. An idle kernel
# uses 0.03 % (measured); a working one that shares its core with twenty other programs still gets 5 %. Not found is a
# stall inside a Dask cluster, whose idle processes use 13 % (measured): the line "still running" shows that share.
STALL_MINUTES = 10.0
STALL_SHARE = 0.01
NEWS_MINUTES = 5.0  # between two lines about a chapter that still runs
# How long to wait for a busy machine: for a kernel to start, and for output that a finished cell has sent.
PATIENCE_S = 900


@dataclass
class Cost:
    """What it took to run one chapter.

    ``seconds`` is time on the clock, ``cpu_seconds`` processor time of the kernel and the processes below it,
    ``peak_mb`` their memory in 10⁶ bytes, ``other_cores`` the mean number of cores that other programs used meanwhile.
    """

    seconds: float
    cpu_seconds: float
    other_cores: float
    peak_mb: float
    measured: str  # when
    cached: bool = False


@dataclass
class Outcome:
    """What became of one chapter: its notebook with outputs, its cost, and the error that ended it, if one did."""

    name: str
    notebook: nbformat.NotebookNode
    cost: Cost
    error: str | None = None  # one line
    traceback: str = ""


def run_chapters(pages: list[Path], cache_folder: Path, **stall: float) -> list[Outcome]:
    """Outcome of every page, from the cache where it holds the page's code, else by running it.

    Only what ran to its end goes into the cache, and at once, so an interrupted build goes on where it stopped.
    ``stall`` goes to `run_chapter`.
    """
    cache = get_cache(cache_folder)
    outcomes = []
    for page in pages:
        notebook = read_page(page)
        outcome = cached_outcome(cache, page.stem, notebook)
        if outcome is None:
            print(f"{page.stem}: running", flush=True)
            outcome = run_chapter(page.stem, notebook, page.parent, **stall)
            if outcome.error is None:
                add_to_cache(cache, page, outcome)
        print(f"{page.stem}: {in_words(outcome)}", flush=True)
        outcomes.append(outcome)
    return outcomes


def read_page(page: Path) -> nbformat.NotebookNode:
    return jupytext.reads(page.read_text(encoding="utf-8"), fmt="py:percent")


def in_words(outcome: Outcome) -> str:
    if outcome.error:
        return f"FAILED: {outcome.error}\n{outcome.traceback}".rstrip()
    cost = outcome.cost
    return f"{'from the cache' if cost.cached else 'done'}, {cost.seconds:.1f} s, {cost.peak_mb:.0f} MB"


# --- cache ----------------------------------------------------------------------------------------------------------


def cached_outcome(cache, name: str, notebook: nbformat.NotebookNode) -> Outcome | None:
    try:
        record = cache.match_cache_notebook(notebook)
        _, merged = cache.merge_match_into_notebook(notebook)
        return Outcome(name, merged, Cost(**{**record.data["cost"], "cached": True}))
    except (KeyError, TypeError, OSError):  # not there, or kept by another version of this file
        return None


def add_to_cache(cache, page: Path, outcome: Outcome) -> None:
    """Keep the outputs under the page's code, where MyST-NB finds them, and the cost beside them."""
    data = {"execution_seconds": outcome.cost.seconds, "cost": asdict(outcome.cost)}
    cache.cache_notebook_bundle(
        CacheBundleIn(outcome.notebook, str(page), data=data), check_validity=False, overwrite=True
    )


# --- one chapter ----------------------------------------------------------------------------------------------------


def run_chapter(
    name: str,
    notebook: nbformat.NotebookNode,
    folder: Path,
    stall_s: float = 60 * STALL_MINUTES,
    news_s: float = 60 * NEWS_MINUTES,
) -> Outcome:
    """Run a chapter in a kernel of its own, in ``folder``; on an error, the outputs before it are kept."""
    client = NotebookClient(
        notebook,
        timeout=None,
        startup_timeout=PATIENCE_S,
        iopub_timeout=PATIENCE_S,
        record_timing=False,  # times in the notebook would change the key that the cache finds it by
        resources={"metadata": {"path": str(folder)}},
        extra_arguments=["--log-level=40"],  # else each kernel notes that it talks over this machine's TCP
    )
    at = {"number": 0, "first_line": ""}

    def note_cell(cell: nbformat.NotebookNode, cell_index: int) -> None:
        if cell.cell_type != "code":
            return
        code_cells = [c for c in notebook.cells[: cell_index + 1] if c.cell_type == "code"]
        at["number"], at["first_line"] = len(code_cells), code_cells[-1].source.strip().split("\n")[0]

    client.on_cell_start = note_cell
    raised: list[BaseException] = []

    def execute() -> None:
        try:
            # The loop that ZeroMQ needs; Windows has another one by default.
            with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
                runner.run(client.async_execute())
        except BaseException as error:  # reported by the thread that waits for this one
            raised.append(error)

    # Not in the main thread: there nbclient would take Ctrl-C for itself.
    worker = threading.Thread(target=execute, daemon=True)
    watch = Watch(stall_s)
    started, busy = time.perf_counter(), busy_seconds()
    worker.start()
    next_news = started + news_s
    try:
        while worker.is_alive():
            worker.join(SAMPLE_INTERVAL_S)
            watch.sample(client.km)
            if watch.stalled:
                watch.kill()
            if time.perf_counter() > next_news:
                next_news += news_s
                share = f"{100 * watch.recent_share():.0f} % of a core"
                minutes = (time.perf_counter() - started) / 60
                print(f"{name}: still running after {minutes:.0f} min, {share}, cell {where(at)}", flush=True)
    except BaseException:
        watch.kill()
        worker.join(10)
        raise
    seconds = time.perf_counter() - started
    others = max(0.0, busy_seconds() - busy - watch.cpu_s) / max(seconds, 0.1)
    cost = Cost(seconds, watch.cpu_s, others, watch.peak / 1e6, time.strftime("%Y-%m-%d %H:%M:%S"))
    error, traceback = explain(raised[0], watch, at) if raised else (None, "")
    return Outcome(name, notebook, cost, error, traceback)


def where(at: dict) -> str:
    number, line = at["number"], at["first_line"]
    return f"{number}, which begins with `{line}`" if number else "0 (start of the kernel)"


def explain(error: BaseException, watch: Watch, at: dict) -> tuple[str, str]:
    """One line and the traceback, if there is one, of what ended a chapter."""
    if watch.stalled:
        return (
            f"the kernel stalled: less than {100 * STALL_SHARE:.0f} % of a core in {watch.stall_s / 60:.3g} min, "
            f"in cell {where(at)}",
            "",
        )
    if isinstance(error, DeadKernelError):
        return f"the kernel died (out of memory? it used {watch.peak / 1e6:.0f} MB), in cell {where(at)}", ""
    if isinstance(error, CellExecutionError):
        value = error.evalue.strip().split("\n")[0]
        return f"{error.ename}: {value}, in cell {where(at)}", re.sub(r"\x1b\[[0-9;]*m", "", error.traceback)
    return f"{type(error).__name__}: {error}, in cell {where(at)}", ""


# --- watching a kernel ----------------------------------------------------------------------------------------------


class Watch:
    """Memory and processor time of a kernel and of all processes below it, sampled."""

    def __init__(self, stall_s: float):
        self.stall_s = stall_s
        self.peak = 0  # bytes
        self.cpu_s = 0.0
        self.stalled = False
        self.kernel: psutil.Process | None = None
        self._cpu_of: dict[tuple[int, float], float] = {}  # seconds of each process seen, by id and start
        self._watched, self._window = 0.0, [(0.0, 0.0)]  # seconds watched; (seconds watched, processor seconds)

    def sample(self, manager) -> None:
        if self.kernel is None and not self.find_kernel(manager):
            return
        now = time.monotonic()
        # Of a pause between two samples only a second counts: a laptop that slept is not a kernel that stalled.
        self._watched += min(now - self._last, 1.0)
        self._last = now
        memory = 0
        for process in self.tree():
            try:
                with process.oneshot():
                    times = process.cpu_times()
                    self._cpu_of[process.pid, process.create_time()] = times.user + times.system
                    memory += process.memory_info().rss
            except psutil.Error:
                continue  # it has just ended
        self.cpu_s = sum(self._cpu_of.values())
        self.peak = max(self.peak, memory, own_peak(self.kernel))
        self._window.append((self._watched, self.cpu_s))
        while self._watched - self._window[1][0] >= self.stall_s:
            self._window.pop(0)
        if self._watched - self._window[0][0] >= self.stall_s and self.recent_share() < STALL_SHARE:
            self.stalled = True

    def find_kernel(self, manager) -> bool:
        pid = getattr(getattr(manager, "provisioner", None), "pid", None)
        with contextlib.suppress(psutil.Error):
            self.kernel = psutil.Process(pid) if pid else None
        self._last = time.monotonic()
        return self.kernel is not None

    def recent_share(self) -> float:
        """Cores in use, mean of the last ``stall_s`` seconds."""
        (start, before), (end, after) = self._window[0], self._window[-1]
        return (after - before) / (end - start) if end > start else 1.0

    def tree(self) -> list[psutil.Process]:
        try:
            return [self.kernel, *self.kernel.children(recursive=True)] if self.kernel else []
        except psutil.Error:
            return []

    def kill(self) -> None:
        for process in reversed(self.tree()):
            with contextlib.suppress(psutil.Error):
                process.kill()


def own_peak(process: psutil.Process) -> int:
    """Bytes; Linux and Windows keep a process's peak, which catches what happens between two samples."""
    try:
        if sys.platform == "linux":
            status = Path(f"/proc/{process.pid}/status").read_text()
            return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024
        return getattr(process.memory_info(), "peak_wset", 0)
    except (psutil.Error, OSError, TypeError):
        return 0


def busy_seconds() -> float:
    """Processor time that all programs of this machine have used."""
    times = psutil.cpu_times()
    return times.user + times.system
