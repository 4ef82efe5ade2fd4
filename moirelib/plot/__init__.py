"""Figures of movies, particles and tables.

Many functions share these parameters; their own docstrings explain the others.

ax : matplotlib.axes.Axes, optional
    Drawn into; the current axes by default.
pixel_size : float
    In nm/pixel. Functions that draw positions in nm (``y_nm, x_nm``) take it as optional: give it where ``ax`` shows a
    micrograph, whose axes are in pixels; without it they draw in nm, y downwards.
layer : int, optional
    Draw this layer only.
title, label : str
    Above the axes; of the colour bar.
scale_bar, colorbar, legend : bool
    Draw one. A scale bar has a round length near a fifth of the width.
magnify : float
    Arrows and ellipses are so many times as long as what they show.
size : float
    Of marks, in points squared.
**style
    Passed on to what the docstring names.

Functions return the axes that they drew into, if they do not say otherwise.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
