"""What the lattice is doing: vibrations, order, defects, boundaries and growth measured on simulations of known truth.

    make bench-science            all of it; some ten minutes
    QUICK=1 make bench-science    a smaller sample; two minutes

Every part is a script of its own (`vibrations.py`, `defects.py`, `growth.py`). The last line is one JSON
object of named numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import time

import defects
import growth
import vibrations

PARTS = {"vibrations": vibrations.measure, "defects": defects.measure, "growth": growth.measure}


def main() -> None:
    """Measure every part, print its numbers, and all of them as the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    quick = os.environ.get("QUICK", "0") == "1"
    parser.add_argument("--quick", action="store_true", default=quick, help="a smaller sample")
    args = parser.parse_args()
    result = {}
    for name, measure in PARTS.items():
        start = time.perf_counter()
        numbers = measure(args.quick)
        print(f"\n{name} ({time.perf_counter() - start:.0f} s)")
        for key, value in numbers.items():
            print(f"  {key}: {value}")
        result |= numbers
    print(json.dumps(result, allow_nan=False))


if __name__ == "__main__":
    main()
