"""The book's time and memory against its budgets, from the report of the last build.

    make book && make bench-book

The budgets hold for the fast mode, which Binder runs: 8 minutes for all chapters on two quiet cores, and 2 GB of memory
for each. The full mode has none. This measures nothing itself, so it has no smaller sample (``QUICK``) either. The last
line is one JSON object of named numbers; a budget that is missed is no error.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

REPORT = Path(__file__).resolve().parents[1] / "_build" / "book_report.json"
TIME_BUDGET_S = 8 * 60  # of running the chapters; what a reader may be asked to wait for `make book`
MEMORY_BUDGET_MB = 2000  # Binder's limit is 2 GB
QUIET_CORES = 0.2  # other programs' use below which a time is a fair measure


def compare(report: dict) -> tuple[list[str], dict[str, float | int | None]]:
    """Lines to read, and numbers by name: positive margins are kept budgets, negative ones missed."""
    chapters, fast = report["chapters"], report["mode"] == "fast"
    failed = sorted(name for name, chapter in chapters.items() if chapter["error"])
    numbers = {
        "book_seconds": report["execution_seconds"],
        "book_cpu_seconds": report["cpu_seconds"],
        "book_other_cores": report["other_cores"],
        "book_peak_mb": report["peak_mb"],
        "book_chapters_failed": len(failed),
        "book_time_margin_s": None,
        "book_memory_margin_mb": None,
    }
    lines = [
        f"Build in {report['mode']} mode, {report['cores']} cores, Python {report['python']}, measured "
        f"{min(c['measured'] for c in chapters.values())} to {max(c['measured'] for c in chapters.values())}."
    ]
    if failed:
        lines.append(f"Failed chapters, whose numbers end at the error: {', '.join(failed)}.")
    if not fast:
        lines.append(
            f"The chapters took {report['execution_seconds']:.0f} s and up to {report['peak_mb']:.0f} MB. "
            "The full mode has no budget."
        )
        return lines, numbers

    numbers["book_time_margin_s"] = round(TIME_BUDGET_S - report["execution_seconds"], 1)
    lines.append(verdict("All chapters", report["execution_seconds"], TIME_BUDGET_S, "s"))
    if report["other_cores"] > QUIET_CORES:
        lines.append(
            f"  Other programs used {report['other_cores']:.1f} of {report['cores']} cores meanwhile, so this time "
            "says little: measure on a quiet machine (make clean, make book)."
        )
    for name, chapter in chapters.items():
        lines.append(verdict(name, chapter["peak_mb"], MEMORY_BUDGET_MB, "MB"))
    numbers["book_memory_margin_mb"] = round(MEMORY_BUDGET_MB - report["peak_mb"], 1)
    return lines, numbers


def verdict(name: str, used: float, budget: float, unit: str) -> str:
    """One line: by how much a budget is kept or missed."""
    kept = "kept by" if used <= budget else "MISSED by"
    return f"  {name:<24}{used:>7.0f} of {budget:.0f} {unit}  {kept} {abs(budget - used):.0f} {unit}"


if __name__ == "__main__":
    if not REPORT.is_file():
        sys.exit("no report of a build: run make book first")
    lines, numbers = compare(json.loads(REPORT.read_text(encoding="utf-8")))
    print("\n".join(lines))
    print(json.dumps(numbers))
