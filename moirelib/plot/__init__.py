"""Figures of movies, particles and tables.

Many functions share parameters. They draw into ``ax``, by default the current axes, and return it, if they do not say
otherwise. ``pixel_size`` is in nm/pixel; for positions in nm it is optional: give it where ``ax`` shows a micrograph,
whose axes are in pixels; without it axes are in nm, y downwards. ``layer`` draws one layer only. ``title`` stands above
the axes, ``label`` at the colour bar. ``scale_bar`` (of a round length near a fifth of the width), ``colorbar`` and
``legend`` say whether to draw one. Arrows and ellipses are ``magnify`` times as long as what they show. ``size`` of
marks is in points squared. ``**style`` is passed on to what the docstring names.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
