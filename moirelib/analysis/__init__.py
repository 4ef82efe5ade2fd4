"""From tracks to vibrations, order, defects and growth (part 3 of the book).

Many functions share these parameters; their own docstrings explain the others.

points, spacing, grain : array_like, shape (n, 2); float; array_like of int, shape (n,)
    Positions (y, x) of one layer in one frame, and their nearest-neighbour distance, measured by default; in nm. Grain
    of each of the points, -1 for none; found by default.
tracks : pandas.DataFrame
    ``frame, particle, layer, y_nm, x_nm`` and, if known, ``y_std_nm, x_std_nm``; particle is the track's number, -1 for
    none. Functions of single frames take ``particles``, which need no such number.
motion, occupancy : Displacements, dict of int to Occupancy
    Of one layer, from `site_displacements`; of each layer, from `site_occupancy`.
frame_time : float
    In s.

Functions raise ValueError, with one line that says what is wrong and what to do, where a column is missing, positions
are not finite or fewer than four off a line, an option makes no sense, or frames and particles are too few for what is
asked: the message then says how many are needed. Errors and standard deviations are one sigma.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
