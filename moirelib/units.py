"""Lengths in nm and times in s from the units that files and tables carry."""

import html
import math
import re
from typing import SupportsFloat

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
COARSEST = 1000  # nm per pixel; coarser ones are settings for printing, or the camera's own pixels


def convert_scale(scale: SupportsFloat | str | None, unit: str | None, factors: dict[str, float]) -> float | None:
    """Convert `scale` to nm or s; None where the file gives no usable number or unit."""
    name = normalize_unit(unit).lower()
    try:
        value = float(scale) * factors[name]  # type: ignore[arg-type]
    except (TypeError, ValueError, KeyError):
        return None
    printed = name in ("inch", "in", "cm") and value > COARSEST  # 72 dots per inch and the like
    return value if math.isfinite(value) and value > 0 and not printed else None


def normalize_unit(unit: object) -> str:
    """Give a unit in one spelling."""
    text = str(unit or "").strip(" \t\r\n\x00\"'()")
    # ImageJ and others escape the micro sign and the Å, once or twice, or as in XML.
    unit = re.sub(r"\\+u([0-9a-fA-F]{4})", lambda code: chr(int(code[1], 16)), text)
    unit = html.unescape(unit).replace("Â", "").replace("Ã…", "Å")  # UTF-8 that was read as Latin-1
    return unit.replace("\u03bc", "µ").replace("\u212b", "Å").replace("A\u030a", "Å")  # two signs each in Unicode
