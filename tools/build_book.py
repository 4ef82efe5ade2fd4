"""Build the book: run its chapters, print what each of them took, and render the pages.

The same numbers go to ``_build/book_report.json``; ``make bench-book`` compares them with the book's budgets. The build
itself judges no times: it succeeds on a slow or busy machine. It fails if a chapter raises an error or stalls, or if
Jupyter Book warns, and says so in its last lines; the other chapters are then run, rendered and cached all the same.
``MOIRELIB_FAST=0`` builds the full mode.

Outputs are cached in ``_build/execution/KEY``. Jupyter's own cache looks only at a chapter's code cells, so ``KEY``
stands for everything else that a result depends on: the mode, moirelib, its data, the installed packages and the real
data at hand.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import psutil
import yaml
from jupyter_cache import get_cache
from real_data import notice, split_by_presence
from run_chapters import Outcome, add_to_cache, run_chapters

ROOT = Path(__file__).resolve().parents[1]
KEPT_CACHES = 4  # fast and full mode, with and without real data
BINDER_MB = 2000  # Binder's limit is 2 GB for the whole machine
NEAR_BINDER = 0.9  # of that limit; the notebook server beside the kernel uses 100 to 200 MB
FOR_KERNELS_AND_SPHINX = {
    "PYTHONUTF8": "1",
    "JUPYTER_PREFER_ENV_PATH": "1",  # the kernel of .venv, not one the user installed elsewhere
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # a debugger's notice at each kernel's start
    "TQDM_DISABLE": "1",
}


def main(root: Path = ROOT) -> int:
    fast = os.environ.get("MOIRELIB_FAST", "1") != "0"
    os.environ |= {**FOR_KERNELS_AND_SPHINX, "MOIRELIB_FAST": "1" if fast else "0"}
    if os.environ.get("MOIRELIB_DATA"):  # kernels run in book/
        os.environ["MOIRELIB_DATA"] = str(Path(os.environ["MOIRELIB_DATA"]).resolve())
    started = time.monotonic()
    present, absent = split_by_presence()
    missing = notice(absent)
    cache = root / "_build" / "execution" / cache_key(fast, present)
    cache.mkdir(parents=True, exist_ok=True)
    forget_old_caches(cache)
    # A page is only checked for warnings while it is read, so pages left from an earlier build could hide some.
    for left_over in ("html", ".doctrees", "jupyter_execute"):
        shutil.rmtree(root / "_build" / left_over, ignore_errors=True)

    outcomes = run_chapters(chapter_pages(root), cache / "jupyter_cache")
    with cache_for_rendering(cache / "jupyter_cache", outcomes, root) as folder:
        code = render(derived_config(root, cache, folder), root)

    errors = [f"{outcome.name} failed: {outcome.error}" for outcome in outcomes if outcome.error]
    if code and not errors:
        errors.append(f"Jupyter Book failed (exit code {code}); its messages stand above")
    elif code:
        errors.append("Jupyter Book warned as well; values and figures that a failed chapter did not make are missing")
    warnings = near_binder(outcomes) if fast else []
    print("\n" + table(outcomes, fast, time.monotonic() - started))
    write_report(root, outcomes, fast, time.monotonic() - started, errors, warnings, absent)
    for line in [missing, *(f"warning: {w}" for w in warnings), *(f"error: {e}" for e in errors)]:
        if line:
            print(line)
    index = root / "_build" / "html" / "index.html"
    if index.is_file():
        print(f"Open {index.relative_to(root).as_posix()} in a browser: {index.as_uri()}")
    return 1 if errors else 0


# --- what a result depends on ---------------------------------------------------------------------------------------


def cache_key(fast: bool, present: list[str], root: Path = ROOT) -> str:
    digest = hashlib.sha256()
    for path in sorted([*root.glob("moirelib/**/*.py"), *root.glob("data/**/*"), root / "constraints.txt"]):
        if path.is_file():
            digest.update(path.relative_to(root).as_posix().encode() + hashlib.sha256(path.read_bytes()).digest())
    settings = {k: v for k, v in os.environ.items() if k.startswith("MOIRELIB_") and k not in NOT_IN_RESULTS}
    gpu = shutil.which("nvidia-smi") is not None
    machine = [gpu, platform.platform()]  # pages name it
    digest.update(json.dumps([installed_packages(), sorted(settings.items()), present, own_data(), machine]).encode())
    return f"{'fast' if fast else 'full'}-py{sys.version_info.major}.{sys.version_info.minor}-{digest.hexdigest()[:16]}"


NOT_IN_RESULTS = {"MOIRELIB_DATA", "MOIRELIB_REPOSITORY"}  # the first by its content, the second only names a website
ONLY_FOR_PAGE_CHECK = {"playwright", "pyee", "greenlet"}  # installed by make pages, used by no chapter


@functools.cache
def installed_packages() -> list[tuple[str, str]]:
    packages = {d.metadata["Name"].lower(): d.version for d in importlib.metadata.distributions()}
    return sorted((name, version) for name, version in packages.items() if name not in ONLY_FOR_PAGE_CHECK)


def own_data() -> list[tuple[str, int]]:
    """Names and sizes of the files in the folder MOIRELIB_DATA."""
    folder = os.environ.get("MOIRELIB_DATA")
    if not folder or not Path(folder).is_dir():
        return []
    return sorted((p.relative_to(folder).as_posix(), p.stat().st_size) for p in Path(folder).rglob("*") if p.is_file())


def forget_old_caches(cache: Path) -> None:
    """Remove the results that were not used for longest."""
    os.utime(cache)
    by_age = sorted((p for p in cache.parent.iterdir() if p.is_dir()), key=lambda p: p.stat().st_mtime, reverse=True)
    for old in by_age[KEPT_CACHES:]:
        shutil.rmtree(old, ignore_errors=True)


# --- pages ----------------------------------------------------------------------------------------------------------


def chapter_pages(root: Path) -> list[Path]:
    """The pages that are run, in reading order."""
    toc = yaml.safe_load((root / "book" / "_toc.yml").read_text(encoding="utf-8"))
    entries = [*toc.get("chapters", []), *(chapter for part in toc.get("parts", []) for chapter in part["chapters"])]
    pages = [root / "book" / f"{name}.py" for name in [toc["root"], *(entry["file"] for entry in entries)]]
    return [page for page in pages if page.is_file()]


@contextlib.contextmanager
def cache_for_rendering(cache: Path, outcomes: list[Outcome], root: Path) -> Iterator[Path]:
    """The cache; where a chapter failed, a copy for this build that has it up to its error: no page is run twice."""
    failed = [outcome for outcome in outcomes if outcome.error]
    if not failed:
        yield cache
        return
    copy = cache.with_name("with_failures")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(cache, copy)
    for outcome in failed:
        add_to_cache(get_cache(copy), root / "book" / f"{outcome.name}.py", outcome)
    try:
        yield copy
    finally:
        shutil.rmtree(copy, ignore_errors=True)


def derived_config(root: Path, cache: Path, notebooks: Path) -> Path:
    """A copy of _config.yml that reads executed notebooks from this cache."""
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    config["execute"]["cache"] = str(notebooks)
    extensions = config["sphinx"].get("local_extensions", {})
    config["sphinx"]["local_extensions"] = {name: str(root / path) for name, path in extensions.items()}
    path = cache / "_config.yml"
    path.write_text(yaml.safe_dump(config, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return path


def render(config: Path, root: Path) -> int:
    """Exit code of Jupyter Book, for which every warning is an error."""
    jupyter_book = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]
    command = [*jupyter_book, "build", "book", "--config", str(config), "--path-output", "."]
    return subprocess.run([*command, "-W", "-n", "--keep-going"], cwd=root).returncode


# --- report ---------------------------------------------------------------------------------------------------------


def near_binder(outcomes: list[Outcome]) -> list[str]:
    """Warnings on the memory of chapters that ran now."""
    return [
        f"{o.name} used {o.cost.peak_mb:.0f} MB; Binder has {BINDER_MB} MB for the chapter and the notebook server"
        for o in outcomes
        if not o.cost.cached and o.cost.peak_mb > NEAR_BINDER * BINDER_MB
    ]


def table(outcomes: list[Outcome], fast: bool, build_s: float) -> str:
    lines = [f"{'chapter':<22}{'seconds':>9}{'CPU s':>8}{'peak MB':>9}"]
    for outcome in outcomes:
        cost = outcome.cost
        line = f"{outcome.name:<22}{cost.seconds:>9.1f}{cost.cpu_seconds:>8.1f}{cost.peak_mb:>9.0f}"
        lines.append(line + f"  cached, from {cost.measured}" * cost.cached + "  FAILED" * bool(outcome.error))
    seconds, cpu_seconds, peak, others = totals(outcomes)
    lines.append(f"{'all':<22}{seconds:>9.1f}{cpu_seconds:>8.1f}{peak:>9.0f}")
    lines.append(
        f"Mode: {'fast' if fast else 'full'}. Machine: {psutil.cpu_count()} cores, of which other programs used "
        f"{others:.1f} while chapters ran. Python {platform.python_version()}. This build: {build_s:.0f} s.\n"
    )
    return "\n".join(lines)


def totals(outcomes: list[Outcome]) -> tuple[float, float, float, float]:
    """Seconds, processor seconds, peak memory in MB and cores in other programs' use, of all chapters."""
    costs = [outcome.cost for outcome in outcomes]
    seconds = sum(cost.seconds for cost in costs)
    others = sum(cost.other_cores * cost.seconds for cost in costs) / max(seconds, 0.1)
    return seconds, sum(c.cpu_seconds for c in costs), max((c.peak_mb for c in costs), default=0.0), others


def write_report(
    root: Path,
    outcomes: list[Outcome],
    fast: bool,
    build_s: float,
    errors: list[str],
    warnings: list[str],
    absent: list[str],
) -> None:
    seconds, cpu_seconds, peak, others = totals(outcomes)
    content = {
        "mode": "fast" if fast else "full",
        "cores": psutil.cpu_count(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "build_seconds": round(build_s, 1),
        "execution_seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "other_cores": round(others, 2),
        "peak_mb": round(peak, 1),
        "chapters": {o.name: {**asdict(o.cost), "error": o.error} for o in outcomes},
        "errors": errors,
        "warnings": warnings,
        "real_data_absent": absent,
    }
    (root / "_build").mkdir(exist_ok=True)
    (root / "_build" / "book_report.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")  # a console may lack a letter of a traceback
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted; chapters that had finished are kept")
