"""Pixel size and frame time from the units that files carry."""

import html
import math
import re
from typing import SupportsFloat

from .stored import StoredImage

NANOMETRES = {
    **dict.fromkeys(("nm", "nanometer", "nanometers", "nanometre", "nanometres"), 1.0),
    **dict.fromkeys(("å", "a", "ang", "angstrom", "angstroms", "ångström", "ångströms", "angström"), 0.1),
    **dict.fromkeys(("µm", "um", "micron", "microns", "micrometer", "micrometers", "micrometre", "micrometres"), 1e3),
    **dict.fromkeys(("pm", "picometer", "picometers", "picometre", "picometres"), 1e-3),
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), 1e9),
    **{"mm": 1e6, "millimeter": 1e6, "cm": 1e7, "centimeter": 1e7, "inch": 2.54e7, "in": 2.54e7},
}
SECONDS = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("ms", "msec", "millisecond", "milliseconds"), 1e-3),
    **dict.fromkeys(("µs", "us", "usec", "microsecond", "microseconds"), 1e-6),
    **dict.fromkeys(("min", "minute", "minutes"), 60.0),
    **{"ns": 1e-9, "h": 3600.0, "hour": 3600.0},
}
_RECIPROCAL = re.compile(r"^1\s*/|\^\s*-\s*1|⁻¹|\brad\b|mrad")


def convert_scale(scale: SupportsFloat | str | None, unit: str | None, factors: dict[str, float]) -> float | None:
    """Convert `scale` to nm or s; None where the file gives no usable number or unit."""
    try:
        value = float(scale) * factors[normalize_unit(unit).lower()]  # type: ignore[arg-type]
    except (TypeError, ValueError, KeyError):
        return None
    return value if math.isfinite(value) and value > 0 else None


def normalize_unit(unit: object) -> str:
    """Give a unit in one spelling."""
    text = str(unit or "").strip(" \t\r\n\x00\"'()")
    # ImageJ and others escape the micro sign and the Å, once or twice, or as in XML.
    unit = re.sub(r"\\+u([0-9a-fA-F]{4})", lambda code: chr(int(code[1], 16)), text)
    unit = html.unescape(unit).replace("Â", "").replace("Ã…", "Å")  # UTF-8 that was read as Latin-1
    return unit.replace("\u03bc", "µ").replace("\u212b", "Å").replace("A\u030a", "Å")  # two signs each in Unicode


def find_pixel_size(image: StoredImage, name: str) -> tuple[float | None, tuple[str, ...]]:
    """Pixel size of a file in nm, of one axis where the other has no scale, and what to say about it; None for none."""
    if any(_RECIPROCAL.search(normalize_unit(unit)) for _, unit in (image.y, image.x)):
        raise ValueError(
            f"{name} is a diffraction pattern (its pixels are in {normalize_unit(image.x[1])}); give an image, "
            "or pass pixel_size=... (nm) if this is wrong"
        )
    y, x = (convert_scale(*axis, NANOMETRES) for axis in (image.y, image.x))
    notes = (f"no pixel size is taken from the file: {image.scale_note}",) if image.scale_note else ()
    if y is None and x is None:
        return None, notes
    if y is None or x is None or (abs(y - x) > 0.01 * max(y, x) and 1.0 in (image.y[0], image.x[0])):
        axis, size = ("y", y) if x is None or image.x[0] == 1 else ("x", x)  # 1 stands where nobody set a scale
        return size, (*notes, f"only the {axis} axis has a scale; its {size:.4g} nm per pixel are taken for both axes")
    if abs(y - x) > 0.01 * max(y, x):
        raise ValueError(
            f"the pixels of {name} are not square ({y:.4g} nm high, {x:.4g} nm wide); "
            "resample it, or pass pixel_size=... (nm) if this is wrong"
        )
    return (y + x) / 2, notes


# Name, unit and option of a number that the user gives, for messages
PIXEL_SIZE = ("pixel size", "nm/pixel", "pixel_size=... (nm)")
FRAME_TIME = ("frame time", "seconds", "frame_time=... (s)")


def override_scale(stored: float | None, given: object, quantity: tuple[str, str, str], name: str) -> float | None:
    """Take the `given` scale, which must be a positive number, or the `stored` one where none is given."""
    if given is None:
        return stored
    try:
        number = float(given)  # type: ignore[arg-type]  # whatever the user gave
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        what, unit, option = quantity
        raise ValueError(f"{what} must be a positive number of {unit}, got {given} for {name}; pass {option}")
    return number
