"""Run benchmarks that measure named numbers, print them, and all of them as JSON in the last line."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable

import numpy as np

__all__ = ["run"]


def run(title: str, **parts: Callable[[bool], dict]) -> None:
    """Measure every part; ``--quick``, or QUICK=1 in the environment, takes a smaller sample."""
    parser = argparse.ArgumentParser(description=title.splitlines()[0])
    quick = os.environ.get("QUICK", "0") == "1"
    parser.add_argument("--quick", action="store_true", default=quick, help="a smaller sample")
    quick, result = parser.parse_args().quick, {}
    for name, measure in parts.items():
        start = time.perf_counter()
        # JSON knows no NaN: what a sample was too small to measure is null.
        numbers = {k: None if v is None or not np.isfinite(v) else v for k, v in measure(quick).items()}
        print(f"\n{name} ({time.perf_counter() - start:.0f} s)")
        for key, value in numbers.items():
            print(f"  {key:50} {'–' if value is None else format(value, '.4g')}")
        result |= numbers
    print(json.dumps(result, allow_nan=False))
