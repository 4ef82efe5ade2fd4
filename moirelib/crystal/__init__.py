"""Crystal geometry that simulation, decomposition and analysis share: lattices, neighbours, matching.

Points (n, 2) and vectors are (y, x), angles in degrees from x towards y, a lattice's ``angle`` that of a close-packed
row. Functions raise ValueError where positions are not finite or, for a spacing, fewer than four off a line.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
