"""Vibrations from tracks: displacements and amplitudes (y, x) in nm, spring constants in kT/nm² (chapter 8)."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.constants import Boltzmann
from scipy.fft import irfft, next_fast_len, rfft
from scipy.spatial import cKDTree
from scipy.stats import chi2, norm

from ..crystal.neighbours import bonds, nearest_spacing
from ..tables import check_particles
from .displacements import (
    AXES,
    MIN_FRAMES,
    SHARE_OF_MOVIE,
    Displacements,
    error_variance,
    make_smoother,
    pool_covariance,
    restore_mean,
    share_of_independent_samples,
    site_displacements,
    total_variance,
)

# By hand where no reason is given.
JITTER_WINDOW = 15  # frames; slower motion of the layer counts as drift
LARGEST_FOLLOWED = 0.9  # share of the jitter that the running parabola may follow, by which the rest is scaled up
NULL_MARGIN = 10  # layers are shuffled by shifts in time of at least a movie's length over this


def pn_per_um(spring_constant: float | np.ndarray, temperature: float = 298.15) -> float | np.ndarray:
    """Convert a spring constant from kT/nm² to pN/µm, at a temperature in kelvin: 1 kT/nm² is 4116 pN/µm at 25 °C."""
    return spring_constant * Boltzmann * temperature * 1e24  # J/nm² = 10¹⁸ N/m = 10²⁴ pN/µm


def site_vibrations(motion: Displacements, confidence: float = 0.95) -> pd.DataFrame:
    """Amplitude and spring constant of every site, along y and x, with the localization error's part subtracted.

    Intervals suppose Gaussian displacements (chi-square), and error bars that are right and independent from frame to
    frame. Without error bars the localization error is estimated (`localization_from_covariance`).

    The table has a row per particle: ``particle, layer, y_nm, x_nm, frames``; for each axis, here y: ``std_raw_y_nm``
    as measured, ``localization_y_nm``, ``std_y_nm`` of the motion alone (NaN where the error explains all of it), its
    interval ``std_y_low_nm, std_y_high_nm``, ``k_y_kt_nm2`` = kT/variance with ``k_y_low_kt_nm2, k_y_high_kt_nm2`` (may
    be infinite); ``cov_yx_nm2`` of the two axes; ``samples``, independent ones. ``attrs["note"]`` says what is missing.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    error, error_spread, note = error_variance(motion)
    total, samples, covariance = total_variance(motion)
    tail = 0.5 * (1 - confidence)
    low, high = (total * samples / chi2.ppf(share, samples) for share in (1 - tail, tail))
    z, variance = norm.ppf(0.5 + confidence / 2), total - error
    # interval of a difference from the intervals of its terms (MOVER)
    low, high = variance - np.hypot(total - low, z * error_spread), variance + np.hypot(high - total, z * error_spread)
    table = pd.DataFrame({"particle": motion.particles, "layer": motion.layer})
    table["y_nm"], table["x_nm"] = motion.sites.T
    table["frames"] = motion.seen
    for i, a in enumerate(AXES):
        table[f"std_raw_{a}_nm"] = np.sqrt(total[:, i])
        table[f"localization_{a}_nm"] = np.sqrt(error[:, i])
        table[f"std_{a}_nm"] = _root_if_positive(variance[:, i])
        for end, value in (("low", low), ("high", high)):
            table[f"std_{a}_{end}_nm"] = np.sqrt(np.maximum(value[:, i], 0))
        for end, value in (("", variance), ("_low", high), ("_high", low)):
            table[f"k_{a}{end}_kt_nm2"] = _stiffness(value[:, i])
    table = table.assign(cov_yx_nm2=covariance, samples=samples.min(axis=1))
    table.attrs["note"] = note
    return table


def _root_if_positive(variance):
    return np.sqrt(np.where(variance > 0, variance, np.nan))


def _stiffness(variance):
    """Equipartition: ½ k⟨u²⟩ = ½ kT; infinite where the variance is not positive."""
    with np.errstate(divide="ignore"):
        return 1 / np.maximum(variance, 0.0)


def measure_vibrations(tracks: pd.DataFrame, **options: Any) -> pd.DataFrame:
    """Amplitude and spring constant of every particle of every layer: the rows of ``vibrations.csv``.

    Takes what `site_displacements` does and gives what `site_vibrations` does, with a note on layers that allow less.
    """
    return measure_every_layer(tracks, lambda layer: site_vibrations(site_displacements(tracks, layer, **options)))


def measure_every_layer(tracks: pd.DataFrame, measure: Callable[[int], pd.DataFrame]) -> pd.DataFrame:
    """One table of all layers for which ``measure`` gives one, with a note on the others; ValueError for none."""
    tracks = check_particles(tracks, name="the track table")
    tables, notes = [], []
    for layer in sorted(tracks["layer"].unique()):
        try:
            table = measure(layer)
        except ValueError as error:
            notes.append(str(error))
            continue
        if table.attrs.get("note"):
            notes.append(f"layer {layer}: {table.attrs['note']}")
        tables.append(table)
    if not tables:
        raise ValueError(notes[0] if notes else "the table holds no tracks; link particles first")
    result = pd.concat(tables, ignore_index=True)
    result.attrs = {"note": "\n".join(notes)}
    return result


def layer_vibrations(motion: Displacements, spacing: float | None = None) -> dict:
    """Mean amplitude, anisotropy and Lindemann parameters of a layer, or of some of its particles.

    Standard errors come from the scatter of the frames' means, with their correlation in time. The mean amplitude grows
    with the size of a two-dimensional crystal; the relative Lindemann parameter does not, and melting is near 0.033
    (Zahn & Maret, Phys. Rev. Lett. 85, 3656 (2000)). The spacing ``a`` is by default the median one of the sites.

    The result has ``variance_y_nm2, variance_y_std_nm2`` (mean over the sites, error's part subtracted),
    ``std_raw_y_nm, std_y_nm, k_y_kt_nm2`` and the same along x; ``anisotropy, anisotropy_std``, the ratio of the
    largest to the smallest mean variance over directions, ``major_axis_deg`` from x towards y and its probability in
    isotropic motion, ``isotropy_p``; ``lindemann`` = √⟨|u|²⟩ / a; ``lindemann_relative`` = ⟨|u_i - u_j|²⟩ / (2a²) of
    neighbours; ``layer_jitter_y_nm, layer_jitter_x_nm``, fast motion of the layer; ``independent_frames``; ``note``.
    """
    error, error_spread, note = error_variance(motion)
    total, _, _ = total_variance(motion)
    raw, mean_error = total.mean(axis=0), error.mean(axis=0)
    variance = raw - mean_error
    tensor, spread, frames = _average_tensor(motion, total)  # yy, xx, yx
    tensor[:2] -= mean_error
    spread_total = np.hypot(np.sqrt(np.diag(spread))[:2], error_spread)
    spread = spread + np.diag([*np.nan_to_num(error_spread**2), 0.0])
    a = nearest_spacing(motion.sites) if spacing is None else spacing
    smooth, share = make_smoother(JITTER_WINDOW, len(motion.drift))  # about a running parabola
    jitter = np.sqrt(np.mean((motion.drift - smooth(motion.drift)) ** 2, axis=0) / (1 - min(share, LARGEST_FOLLOWED)))
    columns = {"variance_{}_nm2": variance, "variance_{}_std_nm2": spread_total, "layer_jitter_{}_nm": jitter}
    columns |= {"std_raw_{}_nm": np.sqrt(raw), "std_{}_nm": _root_if_positive(variance)}
    columns["k_{}_kt_nm2"] = _stiffness(variance)
    result = {name.format(x): values[i] for name, values in columns.items() for i, x in enumerate(AXES)}
    result |= _measure_anisotropy(tensor, spread)
    result["lindemann"] = _root_if_positive(variance.sum()) / a
    relative, count = 0.0, 0  # ⟨|u_i - u_j|²⟩ over bonds, mean over time restored as for uncorrelated frames
    for i, j in bonds(motion.sites, a):  # one by one: all bonds of a long movie would fill the memory
        step = motion.values[:, i] - motion.values[:, j]
        relative, count = relative + np.nansum(step**2), count + np.isfinite(step[:, 0]).sum()
    share = len(motion.values) / (len(motion.values) - motion.creep - 1)
    relative = relative / count * share if count else np.nan
    result["lindemann_relative"] = (relative - 2 * mean_error.sum()) / (2 * a**2)
    return {key: float(value) for key, value in result.items()} | {"independent_frames": frames, "note": note}


def _average_tensor(motion, total):
    """Mean over sites of (u_y², u_x², u_y u_x), its covariance (3, 3) from frame to frame, and independent frames."""
    u = motion.values / np.sqrt(motion.kept)
    per_frame = np.nanmean(np.stack([u[..., 0] ** 2, u[..., 1] ** 2, u[..., 0] * u[..., 1]], axis=-1), axis=1)
    mean = per_frame.mean(axis=0)
    scale = np.sqrt(total.mean(axis=0) / mean[:2])  # restores the variance that the mean over time removed
    factor = np.array([scale[0] ** 2, scale[1] ** 2, scale.prod()])
    # Frames / (1 + 2 Σ ρ), summed up to the first lag at which ρ falls below twice its own noise
    frames, length = len(u), next_fast_len(2 * len(u), real=True)
    power = np.abs(rfft(per_frame - mean, length, axis=0)) ** 2
    rho = irfft(power, length, axis=0)[: frames // SHARE_OF_MOVIE + 2]
    rho = rho / np.maximum(rho[0], 1e-300)
    connected = np.logical_and.accumulate(rho >= 2 / np.sqrt(frames), axis=0)
    shares = 1 / (1 + 2 * np.sum((rho * connected)[1:], axis=0))
    restored = restore_mean(pool_covariance(motion), frames, motion.creep)[0]
    independent = frames * min(shares.min(), share_of_independent_samples(restored, frames).min())
    spread = np.cov(per_frame.T) / independent
    return mean * factor, spread * np.outer(factor, factor), float(independent)


def _measure_anisotropy(tensor, spread) -> dict:
    """Principal axes of the mean variance, from the two components that are zero for isotropic motion."""
    trace = tensor[0] + tensor[1]
    parts = np.array([tensor[1] - tensor[0], 2 * tensor[2]])  # xx - yy and 2 xy turn by twice the angle
    mix = np.array([[-1.0, 1, 0], [0, 0, 2]])
    cov, size = mix @ spread @ mix.T, np.hypot(*parts)
    ratio = (trace + size) / (trace - size) if trace > size else np.nan
    along = parts / max(size, 1e-300)
    error = 2 * np.sqrt(max(along @ cov @ along, 0)) * trace / (trace - size) ** 2 if trace > size else np.nan
    return {
        "anisotropy": ratio,
        "anisotropy_std": error,
        "major_axis_deg": np.degrees(0.5 * np.arctan2(parts[1], parts[0])),
        "isotropy_p": np.exp(-0.5 * parts @ np.linalg.pinv(cov) @ parts) if np.isfinite(trace) else np.nan,
    }


def group_vibrations(table: pd.DataFrame, labels: Mapping[int, str] | ArrayLike) -> pd.DataFrame:
    """Mean amplitude of groups of sites: by coordination, or by registry on the other layer.

    Takes a table of `site_vibrations` and each particle's group, such as ``bulk`` or ``top``, as a mapping of its
    number or an array (n,). The result, indexed by group, has ``sites, variance_nm2`` (mean over sites and both axes,
    error's part subtracted), ``variance_std_nm2`` from the scatter of its sites, ``std_nm, k_kt_nm2``.
    """
    group = table["particle"].map(labels) if hasattr(labels, "keys") else pd.Series(np.asarray(labels), table.index)
    total = 0.5 * (table["std_raw_y_nm"] ** 2 + table["std_raw_x_nm"] ** 2)
    variance = total - 0.5 * (table["localization_y_nm"] ** 2 + table["localization_x_nm"] ** 2)
    grouped = variance.groupby(group.rename("group"))
    result = pd.DataFrame({"sites": grouped.size(), "variance_nm2": grouped.mean()})
    result["variance_std_nm2"] = grouped.std() / np.sqrt(result["sites"])
    result["std_nm"] = _root_if_positive(result["variance_nm2"])
    result["k_kt_nm2"] = _stiffness(result["variance_nm2"].to_numpy())
    return result


def interlayer_correlation(
    one: Displacements, other: Displacements, edges: ArrayLike | None = None, seed: int = 0, shuffles: int = 100
) -> pd.DataFrame:
    """Correlation of displacements of two layers' particles, by their distance.

    It is too small where a localization error is not known. Layers that move as wholes against each other show nothing,
    as their own drift and rotation are gone, and far particles of small layers (n) are anticorrelated by about 1/n.
    Correlated errors of two overlapping particles look like motion.

    Distances are binned between ``edges``, in nm; by default from 0 to 3 spacings in steps of half a spacing. The table
    has ``distance_nm``, ``pairs``, ``correlation`` (1 if both always move alike, 0 if independently), ``null_low,
    null_high``: the middle 95 % of it in so many ``shuffles``, in which the other layer's frames are shifted in time.
    """
    frames, i, j = np.intersect1d(one.frames, other.frames, return_indices=True)
    if len(frames) < MIN_FRAMES:
        raise ValueError(f"the layers share {len(frames)} frames; their correlation needs at least {MIN_FRAMES}")
    if shuffles < 1:
        raise ValueError(f"the null needs at least 1 shuffle, got {shuffles}")
    edges = nearest_spacing(one.sites) * np.arange(0, 3.01, 0.5) if edges is None else np.asarray(edges, float)
    pairs = cKDTree(one.sites).sparse_distance_matrix(cKDTree(other.sites), edges[-1], output_type="ndarray")
    moved, seen = [], []
    for motion, k in ((one, i), (other, j)):
        variance = (total_variance(motion)[0] - np.nan_to_num(error_variance(motion)[0])).mean()
        scaled = np.nan_to_num(motion.values[k]) / np.sqrt(variance if variance > 0 else np.nan)
        moved.append(rfft(scaled, axis=0))
        seen.append(rfft(np.isfinite(motion.values[k]).astype(float), axis=0))
    rng = np.random.default_rng(seed)
    # a shift in time keeps the correlation of each layer and breaks that between them
    shortest = len(frames) // NULL_MARGIN
    shifts = [0, *rng.integers(shortest, len(frames) - shortest, shuffles)]

    def sum_at_all_lags(a, b, near):  # over pairs and axes, for every cyclic shift in time
        spectrum = sum(np.sum(a[:, i].conj() * b[:, j], axis=1) for i, j in zip(near["i"], near["j"], strict=True))
        return irfft(spectrum, len(frames)) if len(near) else np.full(len(frames), np.nan)

    rows = []
    for low, high in pairwise(edges):
        near = pairs[(pairs["v"] >= low) & (pairs["v"] < high)]
        sums, together = (sum_at_all_lags(a, b, near)[shifts] for a, b in (moved, seen))
        product = np.where(together > 0.5, sums, np.nan) / together  # NaN for pairs never seen together
        rows.append((0.5 * (low + high), len(near), product[0], *np.quantile(product[1:], [0.025, 0.975])))
    return pd.DataFrame(rows, columns=["distance_nm", "pairs", "correlation", "null_low", "null_high"])
