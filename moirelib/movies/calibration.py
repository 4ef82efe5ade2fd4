"""Pixel size and frame time from the units that files carry."""

from __future__ import annotations

import math
import re

from .stored import StoredImage

NANOMETRES = {
    **dict.fromkeys(("nm", "nanometer", "nanometers", "nanometre"), 1.0),
    **dict.fromkeys(("å", "a", "ang", "angstrom", "angstroms", "ångström"), 0.1),
    **dict.fromkeys(("µm", "um", "micron", "microns", "micrometer", "micrometers", "micrometre"), 1e3),
    **dict.fromkeys(("pm", "picometer"), 1e-3),
    **dict.fromkeys(("m", "meter", "meters", "metre"), 1e9),
    **{"mm": 1e6, "cm": 1e7, "inch": 2.54e7, "in": 2.54e7},
}
SECONDS = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("ms", "msec", "millisecond", "milliseconds"), 1e-3),
    **dict.fromkeys(("µs", "us", "usec", "microsecond", "microseconds"), 1e-6),
    **dict.fromkeys(("min", "minute", "minutes"), 60.0),
    **{"ns": 1e-9, "h": 3600.0, "hour": 3600.0},
}
_RECIPROCAL = re.compile(r"^1\s*/|\^\s*-\s*1|⁻¹|\brad\b|mrad")


def convert_scale(scale, unit: str | None, factors: dict[str, float]) -> float | None:
    """`scale` in nm or s, or None if it or its unit says nothing."""
    factor = factors.get(plain_unit(unit).lower())
    try:
        value = float(scale) * factor
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) and value > 0 else None


def plain_unit(unit) -> str:
    """A unit in one spelling."""
    # ImageJ escapes the micro sign; there are two of them in Unicode, and two ways to write the Å.
    unit = str(unit or "").strip().strip("\x00").replace("\\u00B5", "µ").replace("\\u00b5", "µ")
    return unit.replace("\u03bc", "µ").replace("\u212b", "Å")


def find_pixel_size(image: StoredImage, name: str) -> float | None:
    """Pixel size in nm, the same on both axes; None where the file carries none."""
    if any(_RECIPROCAL.search(plain_unit(unit)) for _, unit in (image.y, image.x)):
        raise ValueError(
            f"{name} is a diffraction pattern (its pixels are in {plain_unit(image.x[1])}); give an image, "
            "or pass pixel_size=... (nm) if this is wrong"
        )
    y, x = (convert_scale(*axis, NANOMETRES) for axis in (image.y, image.x))
    if y is None or x is None:
        return None
    if abs(y - x) > 0.01 * max(y, x):
        raise ValueError(
            f"the pixels of {name} are not square ({y:.4g} nm high, {x:.4g} nm wide); "
            "resample it, or pass pixel_size=... (nm) if this is wrong"
        )
    return (y + x) / 2


PIXEL_SIZE = ("pixel size", "nm/pixel", "pixel_size=... (nm)")
FRAME_TIME = ("frame time", "seconds", "frame_time=... (s)")


def positive_or(default: float | None, value, quantity: tuple[str, str, str], name: str) -> float | None:
    """`value` as a positive float, `default` where it is None."""
    if value is None:
        return default
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        what, unit, remedy = quantity
        raise ValueError(f"{what} must be a positive number of {unit}, got {value} for {name}; pass {remedy}")
    return number
