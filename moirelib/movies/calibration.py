"""Pixel size and frame time from the units that files carry."""

import math
import re

from ..units import NANOMETRES, convert_scale, normalize_unit
from .stored import StoredImage

_RECIPROCAL = re.compile(r"^1\s*/|\^\s*-\s*1|⁻¹|\brad\b|mrad")


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
DOSE = ("dose", "electrons/Å² in each frame", "dose=...")


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
