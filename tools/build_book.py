"""Build the book, measure what its chapters cost, and hold them to their limits.

Runs Jupyter Book with every warning an error, samples the memory of each chapter's kernel while it runs, prints a
table, and writes the same numbers to ``_build/book_report.json``. ``MOIRELIB_FAST=0`` builds the full mode.

Execution is cached in ``_build/execution/KEY``. Jupyter's own cache looks only at a chapter's code cells, so ``KEY``
stands for everything else that a result depends on: moirelib, its data, the installed packages, the mode and the real
data at hand.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import yaml

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "_build"
KEPT_CACHES = 4  # fast and full mode, with and without real data
MEMORY_LIMIT_MB = 2000  # Binder's limit is 2 GB for the whole machine
TIME_LIMIT_S = 8 * 60  # of execution, fast mode
SAMPLE_INTERVAL_S = 0.1


@dataclass
class Cost:
    """What running one chapter took."""

    seconds: float
    peak_mb: float
    measured: str  # when
    cached: bool = False


def main() -> int:
    fast = os.environ.get("MOIRELIB_FAST", "1") != "0"
    os.environ["MOIRELIB_FAST"] = "1" if fast else "0"
    cache = BUILD / "execution" / cache_key(fast)
    cache.mkdir(parents=True, exist_ok=True)
    prune(cache)
    # A page is only checked for warnings while it is read, so pages left from an earlier build could hide some.
    for left_over in (BUILD / "html", BUILD / ".doctrees", BUILD / "jupyter_execute"):
        shutil.rmtree(left_over, ignore_errors=True)

    recorder = Recorder(cache / "costs.json")
    started = time.monotonic()
    code = run_jupyter_book(derived_config(cache), recorder)
    problems = [f"Jupyter Book failed (exit code {code}); its messages stand above"] if code else []
    chapters = [name for name in toc_files() if (ROOT / "book" / f"{name}.py").is_file()]
    costs = {name: recorder.costs[name] for name in chapters if name in recorder.costs}
    problems += broken_limits(costs, fast)
    if not code:
        unmeasured = [name for name in chapters if name not in costs]
        problems += [f"{name}: never measured; run make clean, then make book" for name in unmeasured]
    report(costs, problems, fast, time.monotonic() - started)
    return 1 if problems else 0


# --- what a result depends on ---------------------------------------------------------------------------------------


def cache_key(fast: bool) -> str:
    digest = hashlib.sha256()
    for path in sorted([*ROOT.glob("moirelib/**/*.py"), *ROOT.glob("data/**/*"), ROOT / "constraints.txt"]):
        if path.is_file():
            digest.update(path.relative_to(ROOT).as_posix().encode() + hashlib.sha256(path.read_bytes()).digest())
    packages = {d.metadata["Name"].lower(): d.version for d in importlib.metadata.distributions()}
    packages = sorted((name, version) for name, version in packages.items() if name not in ONLY_FOR_PAGE_CHECK)
    settings = {k: v for k, v in os.environ.items() if k.startswith("MOIRELIB_") and k not in NOT_IN_RESULTS}
    gpu = shutil.which("nvidia-smi") is not None
    machine = [gpu, platform.platform()]  # pages name it
    digest.update(json.dumps([packages, sorted(settings.items()), real_data(), machine]).encode())
    return f"{'fast' if fast else 'full'}-py{sys.version_info.major}.{sys.version_info.minor}-{digest.hexdigest()[:16]}"


NOT_IN_RESULTS = {"MOIRELIB_DATA", "MOIRELIB_REPOSITORY"}  # the first by its content, the second only names a website
ONLY_FOR_PAGE_CHECK = {"playwright", "pyee", "greenlet"}  # installed by make pages, used by no chapter


def real_data() -> list[tuple[str, int]]:
    """Names and sizes of the files that chapters find through MOIRELIB_DATA."""
    folder = os.environ.get("MOIRELIB_DATA")
    if not folder or not Path(folder).is_dir():
        return []
    return sorted((p.relative_to(folder).as_posix(), p.stat().st_size) for p in Path(folder).rglob("*") if p.is_file())


def prune(cache: Path) -> None:
    """Forget the results that were not used for longest."""
    os.utime(cache)
    by_age = sorted((p for p in cache.parent.iterdir() if p.is_dir()), key=lambda p: p.stat().st_mtime, reverse=True)
    for old in by_age[KEPT_CACHES:]:
        shutil.rmtree(old, ignore_errors=True)


def derived_config(cache: Path) -> Path:
    """A copy of _config.yml that keeps executed notebooks in this cache."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    config["execute"]["cache"] = str(cache / "jupyter_cache")
    extensions = config["sphinx"]["local_extensions"]
    config["sphinx"]["local_extensions"] = {name: str(ROOT / path) for name, path in extensions.items()}
    path = cache / "_config.yml"
    path.write_text(yaml.safe_dump(config, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return path


def toc_files() -> list[str]:
    """Pages of the book in reading order."""
    toc = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text(encoding="utf-8"))
    return [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]


# --- running and measuring ------------------------------------------------------------------------------------------


def run_jupyter_book(config: Path, recorder: Recorder) -> int:
    jupyter_book = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]
    command = [*jupyter_book, "build", "book", "--config", str(config), "--path-output", "."]
    environment = {
        **os.environ,
        "PYTHONUNBUFFERED": "1",  # the lines below are read as they come
        "PYTHONUTF8": "1",
        "JUPYTER_PREFER_ENV_PATH": "1",  # the kernel of .venv, not one the user installed elsewhere
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # a debugger's notice at each kernel's start
        "TQDM_DISABLE": "1",
    }
    process = subprocess.Popen(
        [*command, "-W", "-n", "--keep-going"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    sampler = threading.Thread(target=recorder.sample, args=(process,), daemon=True)
    sampler.start()
    try:
        for line in process.stdout:
            if not line.startswith("[IPKernelApp]"):  # each kernel notes that it talks over this machine's TCP
                print(line, end="", flush=True)
            recorder.hear(line)
        return process.wait()
    except KeyboardInterrupt:
        process.terminate()
        raise SystemExit("interrupted") from None
    finally:
        sampler.join(timeout=5)


class Recorder:
    """Puts kernels and chapters together.

    Chapters are executed one after the other, and MyST-NB announces each before it starts the kernel. A kernel
    therefore belongs to the chapter announced last.
    """

    def __init__(self, file: Path):
        self.file = file
        recorded = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        self.costs = {name: Cost(**{**cost, "cached": True}) for name, cost in recorded.items()}
        self.chapter: str | None = None
        self.peak = 0

    def hear(self, line: str) -> None:
        """Follow Jupyter Book's messages."""
        line = re.sub(r"\x1b\[[0-9;]*m", "", line)
        if found := re.search(r"([^\\/\s]+)\.py: Executing notebook", line):
            self.chapter, self.peak = found[1], 0
        elif self.chapter and (found := re.search(r"Executed notebook in ([\d.]+) seconds", line)):
            self.costs[self.chapter] = Cost(float(found[1]), self.peak / 1e6, time.strftime("%Y-%m-%d %H:%M:%S"))
            self.chapter = None
            self.write()

    def write(self) -> None:
        temporary = self.file.with_suffix(".tmp")
        temporary.write_text(json.dumps({k: asdict(v) for k, v in self.costs.items()}, indent=1), encoding="utf-8")
        temporary.replace(self.file)

    def sample(self, process: subprocess.Popen) -> None:
        """Watch the kernels below Jupyter Book until it ends."""
        while process.poll() is None:
            used = kernel_memory(process.pid)
            if self.chapter:
                self.peak = max(self.peak, used)
            time.sleep(SAMPLE_INTERVAL_S)


def kernel_memory(parent: int) -> int:
    """Resident bytes of the running kernel and of all processes that it started.

    Pages that processes share are counted for each of them, so the sum is never too small. The kernel's own peak, which
    Linux and Windows keep, catches what happens between two samples.
    """
    kernels = []
    try:
        below = psutil.Process(parent).children(recursive=True)
    except psutil.Error:
        return 0
    for process in below:
        try:
            if "ipykernel_launcher" in " ".join(process.cmdline()):
                kernels.append(process)
        except psutil.Error:
            continue  # it has just ended
    return max((tree_memory(kernel) for kernel in kernels), default=0)


def tree_memory(kernel: psutil.Process) -> int:
    try:
        tree = [kernel, *kernel.children(recursive=True)]
    except psutil.Error:
        return 0
    total = 0
    for process in tree:
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue
    return max(total, own_peak(kernel))


def own_peak(process: psutil.Process) -> int:
    try:
        if sys.platform == "linux":
            status = Path(f"/proc/{process.pid}/status").read_text()
            return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024
        return getattr(process.memory_info(), "peak_wset", 0)
    except (psutil.Error, OSError, TypeError):
        return 0


# --- limits and report ----------------------------------------------------------------------------------------------


def broken_limits(costs: dict[str, Cost], fast: bool) -> list[str]:
    problems = [
        f"{name}: peak memory {cost.peak_mb:.0f} MB, allowed are {MEMORY_LIMIT_MB} MB"
        for name, cost in costs.items()
        if cost.peak_mb > MEMORY_LIMIT_MB
    ]
    total = sum(cost.seconds for cost in costs.values())
    if fast and total > TIME_LIMIT_S:
        problems.append(f"the chapters ran for {total:.0f} s, allowed are {TIME_LIMIT_S} s in fast mode")
    return problems


def report(costs: dict[str, Cost], problems: list[str], fast: bool, wall: float) -> None:
    total = sum(cost.seconds for cost in costs.values())
    peak = max((cost.peak_mb for cost in costs.values()), default=0.0)
    print(f"\n{'chapter':<22}{'seconds':>9}{'peak MB':>9}")
    for name, cost in costs.items():
        print(f"{name:<22}{cost.seconds:>9.1f}{cost.peak_mb:>9.0f}" + (f"  cached, from {cost.measured}" * cost.cached))
    print(f"{'all':<22}{total:>9.1f}{peak:>9.0f}")
    mode, cores = ("fast" if fast else "full"), psutil.cpu_count()
    print(f"Mode: {mode}. Machine: {cores} cores, Python {platform.python_version()}. This build: {wall:.0f} s.\n")
    BUILD.mkdir(exist_ok=True)
    content = {
        "mode": mode,
        "cores": cores,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "build_seconds": round(wall, 1),
        "execution_seconds": round(total, 1),
        "peak_mb": round(peak, 1),
        "limits": {"peak_mb": MEMORY_LIMIT_MB, "execution_seconds": TIME_LIMIT_S if fast else None},
        "chapters": {name: asdict(cost) for name, cost in costs.items()},
        "problems": problems,
    }
    (BUILD / "book_report.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    for problem in problems:
        print(f"error: {problem}")
    index = BUILD / "html" / "index.html"
    if index.is_file():
        print(f"Open {index.relative_to(ROOT).as_posix()} in a browser: {index.as_uri()}")


if __name__ == "__main__":
    sys.exit(main())
