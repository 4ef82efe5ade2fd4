"""How layers move: drift, turn and dose, their motion on each other, and its relaxation (chapters 9 and 10)."""

import contextlib
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.optimize import curve_fit

from ..crystal.neighbours import to_complex, to_points
from .occupancy import Occupancy

FEWEST_VALUES, FEWEST_TIMES = 8, 4  # for three parameters (by hand)
TIME_KNOWN = 0.5  # of the time constant (by hand): largest standard error of one that is known
EVIDENCE = 6.0  # by which Akaike's criterion must prefer an exponential (by hand; a likelihood ratio of 20)
END_SHARE = 8  # the first and the last 1/8 of the values show where the fit starts (by hand)
SHORTEST_TIME, LONGEST_TIME = 0.2, 20  # bounds of the time constant, in median steps and in lengths of the data
FIRST_TIMES = 0.1, 0.3  # of the data's length, from which the fit starts (by hand): a fast and a slow one
MOST_EVALUATIONS = 2000  # of the model; a fit that needs more has failed (by hand)
LARGEST_CORRELATION = 0.9  # of successive residuals (by hand); the sum over a movie's lags says no more


def motion_table(occupancy: dict[int, Occupancy], dose: float | None = None) -> pd.DataFrame:
    """Drift and turn of every layer in every frame, from what `site_occupancy` returns, and the dose so far.

    The table has ``frame, layer``; ``y_nm, x_nm``, shift of the middle of the layer's sites since the first frame;
    ``turn_deg``, its rotation, from x towards y; with ``dose``, that of a frame in electrons/Å², also
    ``cumulative_dose_e_per_A2`` up to the frame's end, counted from frame 0.
    """
    if not occupancy:
        raise ValueError("no layer has a lattice whose motion could be followed")
    tables = []
    for layer, one in occupancy.items():
        y, x = one.drift.T
        columns = {"frame": one.frames, "layer": layer, "y_nm": y, "x_nm": x, "turn_deg": one.rotation}
        tables.append(pd.DataFrame(columns))
    table = pd.concat(tables, ignore_index=True).sort_values(["frame", "layer"], ignore_index=True)
    return table if dose is None else table.assign(cumulative_dose_e_per_A2=dose * (table["frame"] + 1.0))


def relative_motion(occupancy: dict[int, Occupancy]) -> pd.DataFrame:
    """Motion of layer 2 against layer 1 since the first frame, from what `site_occupancy` returns.

    Unlike the offset of a Moiré lattice, sliding is not only known up to a lattice vector. It is zero where one layer
    had too few particles for a motion of its own. The table has ``frame, twist_change_deg`` (rotation of layer 2
    against layer 1, from x towards y) and ``offset_y_nm, offset_x_nm``, how far the middle of layer 2 has slid on layer
    1, along the axes of the first frame; one standard deviation of each frame, ``twist_std_deg, offset_std_nm``.
    """
    if not {1, 2} <= set(occupancy):
        raise ValueError(f"relative motion needs layers 1 and 2, got {sorted(occupancy)}; pass the occupancy of both")
    one, two = occupancy[1], occupancy[2]
    if not (len(one.sites) and len(two.sites)):
        raise ValueError("relative motion needs two layers with particles; one of them has no site")
    middle = to_complex(two.sites).mean()
    at = (two.turn * middle + two.shift - one.shift) * np.conj(one.turn)  # as layer 1 sees it
    y, x = to_points(at - middle).T
    twist = np.degrees(np.unwrap(np.angle(two.turn * np.conj(one.turn))))
    table = pd.DataFrame({"frame": one.frames, "twist_change_deg": twist, "offset_y_nm": y, "offset_x_nm": x})
    turn_variance, shift_variance = 0.0, 0.0  # of each frame's rotation, in rad², and of the middle's shift, in nm²
    for own in (one, two):
        step, count = to_complex(own.sites), np.maximum(own.seen.sum(axis=1), 1e-9)
        center = own.seen @ step / count
        square = np.maximum(np.sum(own.seen * np.abs(step - center[:, None]) ** 2, axis=1), 1e-300)
        turn_variance += own.scatter**2 / square
        shift_variance += own.scatter**2 * (1 / count + 0.5 * np.abs(center - middle) ** 2 / square)
    return table.assign(twist_std_deg=np.degrees(np.sqrt(turn_variance)), offset_std_nm=np.sqrt(shift_variance))


@dataclass(frozen=True)
class Relaxation:
    """Exponential approach to a final value, y = final + amplitude exp(-(t - first t)/time), in the units of the fit.

    Where ``supported`` is False, the data do not show one: ``final`` is the mean, and amplitude and time are NaN.
    """

    supported: bool
    final: float  # in the units of the values, as are final_std, amplitude and amplitude_std
    final_std: float
    amplitude: float
    amplitude_std: float
    time: float  # time constant, in the units of the times, as is time_std
    time_std: float
    evidence: float  # by how much Akaike's criterion prefers the exponential to the better of constant and line

    def at(self, t: ArrayLike, start: float = 0.0) -> np.ndarray:
        """The fitted value at times t, in the units of the fit; ``start`` is the first time of the data."""
        t = np.asarray(t, float)
        if not self.supported:
            return np.full(t.shape, self.final)
        return self.final + self.amplitude * np.exp(-(t - start) / self.time)


def fit_relaxation(t: ArrayLike, values: ArrayLike, std: ArrayLike | None = None) -> Relaxation:
    """Fit an exponential relaxation where the data support one.

    Times are in any unit and order, values (n,) of any quantity, their NaN left out; ``std`` are relative weights:
    errors come from the scatter. Not supported where the corrected Akaike criterion (Hurvich & Tsai, Biometrika 76, 297
    (1989)) does not prefer it by `EVIDENCE`, the time constant is longer than the data or not known to within half of
    itself, or there are fewer than 8 values or 4 different times. Correlated residuals make errors larger.
    """
    x, y = np.asarray(t, float), np.asarray(values, float)
    error = np.ones_like(y) if std is None else np.asarray(std, float)
    if not x.shape == y.shape == error.shape:
        raise ValueError(f"times, values and errors must be as many, got {x.shape}, {y.shape} and {error.shape}")
    good = np.isfinite(x) & np.isfinite(y) & np.isfinite(error) & (error > 0)
    if not good.any():
        raise ValueError("a relaxation needs finite values with positive errors, got none")
    order = np.argsort(x[good], kind="stable")  # the correlation of residuals is that of successive times
    x, y, error = (v[good][order] for v in (x - x[good].min(), y, error))
    weight = error**-2.0 / np.sum(error**-2.0)
    mean = float(weight @ y)
    spread = np.sqrt(weight @ (y - mean) ** 2 * np.sum(weight**2)) * _error_inflation((y - mean) / error)
    none = Relaxation(False, mean, float(spread), np.nan, np.nan, np.nan, np.nan, -np.inf)
    if len(y) < FEWEST_VALUES or len(np.unique(x)) < FEWEST_TIMES:
        return none
    best = _fit_exponential(x, y, error)
    if best is None:
        return none
    value, value_std, left = best
    n = len(y) / _error_inflation(left) ** 2  # independent values, as the best model leaves them

    def criterion(left, parameters):
        """Akaike's, corrected, of residuals with unknown scatter."""
        return n * np.log(max(np.mean(left**2), 1e-300)) + 2 * parameters * n / max(n - parameters - 1, 1)

    plain = [(y - np.polyval(np.polyfit(x, y, degree, w=1 / error), x)) / error for degree in (0, 1)]
    gain = float(min(criterion(plain[0], 2), criterion(plain[1], 3)) - criterion(left, 4))
    if not (gain > EVIDENCE and value[2] < np.ptp(x) and value_std[2] < TIME_KNOWN * value[2]):
        return replace(none, evidence=gain)
    (final, amplitude, time), (final_std, amplitude_std, time_std) = value.tolist(), value_std.tolist()
    return Relaxation(True, final, final_std, amplitude, amplitude_std, time, time_std, gain)


def _fit_exponential(t, y, std):
    """Final value, amplitude and time constant, their errors, and residuals; None if the fit fails."""

    def model(t, final, amplitude, log_time):
        return final + amplitude * np.exp(-t / np.exp(log_time))

    few, fits = max(len(y) // END_SHARE, 2), []
    low = np.log(SHORTEST_TIME * np.median(np.diff(np.unique(t))))
    high = np.log(LONGEST_TIME * np.ptp(t))
    bounds = ([-np.inf, -np.inf, low], [np.inf, np.inf, high])
    for share in FIRST_TIMES:
        start = (y[-few:].mean(), y[:few].mean() - y[-few:].mean(), np.log(share * np.ptp(t)))
        with contextlib.suppress(RuntimeError):
            value, covariance = curve_fit(model, t, y, start, std, bounds=bounds, max_nfev=MOST_EVALUATIONS)
            fits.append((value, covariance, (y - model(t, *value)) / std))
    if not fits:
        return None
    value, covariance, left = min(fits, key=lambda fit: np.sum(fit[2] ** 2))
    error = np.sqrt(np.diag(covariance)) * _error_inflation(left)
    time = np.exp(value[2])
    return np.append(value[:2], time), error * [1, 1, time], left


def _error_inflation(left) -> float:
    """Factor of the errors for residuals correlated from one time to the next."""
    power = np.sum(left**2)
    r = float(np.clip(np.sum(left[1:] * left[:-1]) / power, 0, LARGEST_CORRELATION)) if power > 0 else 0.0
    return float(np.sqrt((1 + r) / (1 - r)))
