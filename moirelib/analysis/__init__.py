"""From tracks to vibrations, order, defects and growth (part 3 of the book).

Many functions share parameters. ``points`` (n, 2) are positions (y, x) of one layer in one frame, ``spacing`` is their
nearest-neighbour distance, both in nm; ``grain`` (n,) is the grain of each, -1 for none. Spacing and grain are measured
by default. ``tracks`` have ``frame, particle, layer, y_nm, x_nm`` and, if known, ``y_std_nm, x_std_nm``; particle is
the track's number, -1 for none. Functions of single frames take ``particles``, which need no such number. ``motion``
of one layer is from `site_displacements`, ``occupancy`` of each from `site_occupancy`; ``frame_time`` is in s.

Functions raise ValueError, with one line that says what is wrong and what to do, where a column is missing, positions
are not finite or fewer than four off a line, an option makes no sense, or frames and particles are too few for what is
asked: the message then says how many are needed. Errors and standard deviations are one sigma.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
