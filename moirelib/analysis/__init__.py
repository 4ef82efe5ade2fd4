"""From tracks to vibrations, order, defects and growth (part 3 of the book).

Functions raise ValueError, with one line that says what is wrong and what to do, where a column is missing, positions
are not finite or fewer than four off a line, an option makes no sense, or frames and particles are too few for what is
asked: the message then says how many are needed.

Names are listed in ``__init__.pyi`` and loaded when they are first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
