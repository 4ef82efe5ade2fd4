"""Scores of the analysis: vibrations, order, defects, boundaries and growth on simulations with known truth.

    make bench-science            all of it; some twenty minutes
    QUICK=1 make bench-science    a smaller sample; under two minutes

Every part is a script of its own (`vibrations.py`, `defects.py`, `whole_road.py`, `growth.py`). The last line is one
JSON object of named numbers.
"""

from __future__ import annotations

import defects
import growth
import vibrations
import whole_road
from measuring import run

if __name__ == "__main__":
    run(
        __doc__,
        vibrations=vibrations.measure,
        defects=defects.measure,
        whole_road=whole_road.measure,
        growth=growth.measure,
    )
