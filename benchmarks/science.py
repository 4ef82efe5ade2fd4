"""What the lattice is doing: vibrations, order, defects, boundaries and growth measured on simulations of known truth.

    make bench-science            all of it; some ten minutes
    QUICK=1 make bench-science    a smaller sample; two minutes

Every part is a script of its own (`vibrations.py`, `defects.py`, `growth.py`). The last line is one JSON
object of named numbers.
"""

from __future__ import annotations

import defects
import growth
import vibrations
from measuring import run

if __name__ == "__main__":
    run(__doc__, vibrations=vibrations.measure, defects=defects.measure, growth=growth.measure)
