"""Measure vibrations and phonons on simulated crystals of known springs and on published tracks.

Every simulated table has drift, rotation, missing particles and unequal error bars. Prints its numbers as JSON in
the last line. ``--quick`` takes smaller samples. The seeds are used only here.
"""

import numpy as np
import pandas as pd
from measuring import run

from moirelib import data
from moirelib.analysis import (
    coordination_labels,
    dispersion,
    elastic_constants,
    find_normal_modes,
    fit_springs,
    layer_vibrations,
    localization_bound,
    localization_from_covariance,
    site_displacements,
    site_vibrations,
)
from moirelib.crystal import hexagonal_lattice
from moirelib.simulation import dynamical_matrix, stiffness_matrix, thermal_displacements

SEED = 271828
SPACING, ANGLE, SPRING, HOLD = 20.0, 13.0, 1.5, 0.06  # nm, degrees, kT/nm², kT/nm²
LAME = np.sqrt(3) / 4 * SPRING  # λ = μ of the crystal


def measure(quick: bool = False) -> dict:
    """All numbers by name; percentages are of the true value."""
    repeats = 3 if quick else 20
    numbers = independent(repeats) | elastic(repeats) | without_error_bars(repeats)
    numbers |= whole_motion(2 if quick else 8) | phonons(1 if quick else 4) | modes()
    for name in ("rod", "prism"):
        try:
            numbers |= real(name)
        except OSError as error:
            print(f"{name}: not at hand;", error)
    return numbers


# --- Simulated tables ---


def table(sites, u, error, rng, drift=True, missing=0.05) -> pd.DataFrame:
    """Track table of particles displaced by u (t, n, 2), with drift, rotation, misses and errors (n,) in nm."""
    frames, n, _ = u.shape
    angle = np.radians(np.cumsum(rng.normal(0, 0.05, frames))) * drift
    angle -= angle.mean()  # the mean direction of the lattice stays that of the truth
    shift = np.cumsum(rng.normal(0, 1.0, (frames, 2)), axis=0) * drift
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    middle = sites.mean(axis=0)
    seen = np.einsum("ijt,tnj->tni", turn, sites + u - middle) + middle + shift[:, None]
    seen += error[:, None] * rng.standard_normal(seen.shape)
    t, k = np.nonzero(rng.random((frames, n)) >= missing)
    y, x = seen[t, k].T
    return pd.DataFrame(
        {"frame": t, "particle": k, "layer": 1, "y_nm": y, "x_nm": x, "y_std_nm": error[k], "x_std_nm": error[k]}
    )


def unequal(size, n, rng) -> np.ndarray:
    """Error bars (n,) that scatter by a third about the given size (root mean square)."""
    error = rng.uniform(0.5, 1.5, n)
    return size * error / np.sqrt(np.mean(error**2))


def relative_variance(sites, kept, stiffness) -> np.ndarray:
    """Exact variances (n, 2) of a crystal about its own position and orientation, over the share that is kept."""
    r = sites - sites.mean(axis=0)
    rigid = np.stack([np.tile([1.0, 0], len(r)), np.tile([0.0, 1], len(r)), np.stack([r[:, 1], -r[:, 0]], 1).ravel()])
    rigid = np.linalg.qr(rigid.T)[0]
    covariance = np.linalg.inv(stiffness)
    covariance = covariance - rigid @ (rigid.T @ covariance)
    covariance = covariance - (covariance @ rigid) @ rigid.T
    return np.diag(covariance).reshape(-1, 2) / kept


def compare(motion, truth):
    """Mean variance over true mean variance, and the share of intervals of k that hold the true k."""
    sites = site_vibrations(motion)
    names = [f"std_raw_{a}_nm" for a in "yx"], [f"localization_{a}_nm" for a in "yx"]
    variance = sites[names[0]].to_numpy() ** 2 - sites[names[1]].to_numpy() ** 2
    low, high = (sites[[f"k_{a}_{end}_kt_nm2" for a in "yx"]].to_numpy() for end in ("low", "high"))
    return variance.mean() / truth.mean(), np.mean((low <= 1 / truth) & (1 / truth <= high))


def summary(name, pairs) -> dict:
    """Error of the mean over movies, the largest of one movie, and coverage."""
    ratio, coverage = np.array(pairs).T
    return {
        f"{name}_variance_error_percent": 100 * float(ratio.mean() - 1),
        f"{name}_variance_error_worst_movie_percent": 100 * float(np.abs(ratio - 1).max()),
        f"{name}_interval_coverage_percent": 100 * float(coverage.mean()),
        f"{name}_interval_coverage_worst_movie_percent": 100 * float(coverage.min()),
    }


def independent(repeats, frames=300) -> dict:
    """Particles that vibrate independently; the localization error equals the vibration."""
    sites, pairs = hexagonal_lattice(SPACING, ANGLE, (0, 0), 160.0), []
    for i in range(repeats):
        rng = np.random.default_rng((SEED, 1, i))
        u = rng.standard_normal((frames, len(sites), 2))
        motion = site_displacements(table(sites, u, unequal(1.0, len(sites), rng), rng))
        pairs.append(compare(motion, np.ones((len(sites), 2))))
    return summary("independent", pairs)


def elastic(repeats) -> dict:
    """An elastic crystal with independent and with correlated frames; the error equals the vibration.

    The slowest waves of the correlated one, of stiffness 0.1 to 0.2 kT/nm², relax over 25 to 50 frames.
    """
    sites, numbers = hexagonal_lattice(SPACING, ANGLE, (0, 0), 160.0), {}
    stiffness = stiffness_matrix(sites, SPACING, SPRING, HOLD).toarray()
    for name, time, frames in (("elastic", 0.0, 300), ("elastic_correlated", 1.0, 600)):
        pairs = []
        for i in range(repeats):
            rng = np.random.default_rng((SEED, 2, int(time), i))
            u = thermal_displacements(sites, SPACING, SPRING, frames, rng, HOLD, time)
            motion = site_displacements(table(sites, u, unequal(u.std(), len(sites), rng), rng))
            pairs.append(compare(motion, relative_variance(sites, motion.kept, stiffness)))
        numbers |= summary(name, pairs)
    return numbers


def without_error_bars(repeats, frames=1000) -> dict:
    """The error, equal to the vibration, estimated from motion that is correlated from frame to frame."""
    sites, pairs, found = hexagonal_lattice(SPACING, ANGLE, (0, 0), 120.0), [], []
    stiffness = stiffness_matrix(sites, SPACING, SPRING, HOLD).toarray()
    for i in range(repeats):
        rng = np.random.default_rng((SEED, 3, i))
        u = thermal_displacements(sites, SPACING, SPRING, frames, rng, HOLD, 2.0)
        tracks = table(sites, u, np.full(len(sites), u.std()), rng).drop(columns=["y_std_nm", "x_std_nm"])
        motion = site_displacements(tracks)
        found.append(localization_from_covariance(motion).std.mean() / u.std())
        pairs.append(compare(motion, relative_variance(sites, motion.kept, stiffness)))
    return summary("estimated_error", pairs) | {"estimated_localization_error_percent": 100 * float(np.mean(found) - 1)}


def whole_motion(repeats, frames=600) -> dict:
    """The whole variance, including thermal motion of the whole layer, for a stage that moves smoothly."""
    sites, ratios, rigid = hexagonal_lattice(SPACING, ANGLE, (0, 0), 160.0), [], []
    truth = np.diag(np.linalg.inv(stiffness_matrix(sites, SPACING, SPRING, HOLD).toarray())).mean()
    for i in range(repeats):
        rng = np.random.default_rng((SEED, 4, i))
        u = thermal_displacements(sites, SPACING, SPRING, frames, rng, HOLD)
        drift = np.linspace(0, 1, frames)[:, None] * [30.0, -20.0]
        tracks = table(sites, u + drift[:, None], np.full(len(sites), u.std()), rng, drift=False)
        for window, results in ((51, ratios), (1, rigid)):
            motion = site_displacements(tracks, drift_window=window)
            results.append(compare(motion, np.full((len(sites), 2), truth))[0])
    return {
        "smooth_drift_variance_error_percent": 100 * float(np.mean(ratios) - 1),
        "share_of_variance_removed_as_drift_percent": 100 * float(1 - np.mean(rigid)),
    }


def phonons(repeats, frames=2000) -> dict:
    """Dispersion and moduli against the dynamical matrix, without and with an error equal to the vibration."""
    sites, numbers = hexagonal_lattice(SPACING, ANGLE, (0, 0), 320.0), {}
    for name, size in (("", 0.0), ("_error_equals_vibration", 1.0)):
        points, lines, scores, moduli = [], [], [], []
        for i in range(repeats):
            rng = np.random.default_rng((SEED, 5, i))
            u = thermal_displacements(sites, SPACING, SPRING, frames, rng, HOLD)
            tracks = table(sites, u, unequal(size * u.std() + 1e-9, len(sites), rng), rng, missing=0.0)
            motion = site_displacements(tracks)
            model = fit_springs(motion)
            waves = dispersion(motion, model=model).dropna()
            exact = np.linalg.eigvalsh(
                dynamical_matrix(waves[["q_y_per_nm", "q_x_per_nm"]].to_numpy(), SPACING, ANGLE, SPRING, HOLD)
            )
            truth = np.where(waves["branch"] == "longitudinal", exact[:, 1], exact[:, 0])
            points.append(waves["stiffness_kt_nm2"] / truth - 1)
            lines.append(waves["model_kt_nm2"] / truth - 1)
            scores.append((waves["stiffness_kt_nm2"] - truth) / waves["stiffness_std_kt_nm2"])
            moduli.append(elastic_constants(model))
        points, lines, scores = (np.concatenate(x) for x in (points, lines, scores))
        numbers |= {
            f"dispersion_error_percent{name}": 100 * float(np.sqrt(np.mean(points**2))),
            f"dispersion_worst_point_percent{name}": 100 * float(np.abs(points).max()),
            f"dispersion_z_score_width{name}": float(np.sqrt(np.mean(scores**2))),
            f"dispersion_fit_error_percent{name}": 100 * float(np.sqrt(np.mean(lines**2))),
            f"dispersion_fit_worst_point_percent{name}": 100 * float(np.abs(lines).max()),
            f"shear_modulus_error_percent{name}": 100 * float(np.mean([m.shear for m in moduli]) / LAME - 1),
            f"bulk_modulus_error_percent{name}": 100 * float(np.mean([m.bulk for m in moduli]) / (2 * LAME) - 1),
            f"poisson_ratio_error{name}": float(np.mean([m.poisson_ratio for m in moduli]) - 1 / 3),
            f"dispersion_shortest_q_times_spacing{name}": float(
                SPACING * np.hypot(*waves[["q_y_per_nm", "q_x_per_nm"]].to_numpy().T).min()
            ),
        }
    return numbers


def modes(frames=2000) -> dict:
    """Normal modes of a small crystal: the stiffer half, with and without the correction for few frames."""
    sites = hexagonal_lattice(SPACING, ANGLE, (0, 0), 80.0)
    rng = np.random.default_rng((SEED, 6))
    u = thermal_displacements(sites, SPACING, SPRING, frames, rng, HOLD)
    tracks = table(sites, u, np.full(len(sites), 1e-9), rng, drift=False, missing=0.0)
    found = find_normal_modes(site_displacements(tracks, drift_window=51))
    truth = np.linalg.eigvalsh(stiffness_matrix(sites, SPACING, SPRING, HOLD).toarray())
    half = slice(len(truth) // 2, None)
    return {
        "normal_mode_error_percent": 100 * float(np.mean(np.abs(found.stiffness / truth - 1)[half])),
        "normal_mode_error_uncorrected_percent": 100 * float(np.mean(np.abs(found.stiffness_raw / truth - 1)[half])),
    }


# --- Published trajectories ---


def real(name) -> dict:
    """Amplitudes of bulk particles with the stated tracking error, and bounds of this error from the tracks."""
    tracks = data.trajectories(name)
    motion = site_displacements(tracks)
    bound = localization_bound(motion)
    motion = motion.select(coordination_labels(motion.sites) == "bulk")
    stated, sites = layer_vibrations(motion), site_vibrations(motion)
    free = localization_from_covariance(motion)
    raw = np.sqrt(0.5 * (stated["std_raw_y_nm"] ** 2 + stated["std_raw_x_nm"] ** 2))
    variance = 0.5 * (stated["variance_y_nm2"] + stated["variance_x_nm2"])
    bounded = np.isfinite(sites[["k_y_high_kt_nm2", "k_x_high_kt_nm2"]].to_numpy())
    return {
        f"{name}_stated_error_nm": float(tracks["y_std_nm"].iloc[0]),
        f"{name}_std_raw_nm": float(raw),
        f"{name}_variance_raw_nm2": float(raw**2),
        f"{name}_variance_corrected_nm2": float(variance),
        f"{name}_k_raw_kt_nm2": float(1 / raw**2),
        f"{name}_k_corrected_kt_nm2": float(1 / variance) if variance > 0 else None,
        f"{name}_largest_error_by_covariance_y_nm": float(free.largest[0]),
        f"{name}_largest_error_by_covariance_x_nm": float(free.largest[1]),
        f"{name}_largest_error_by_spectrum_y_nm": float(bound[0]),
        f"{name}_largest_error_by_spectrum_x_nm": float(bound[1]),
        f"{name}_sites_with_upper_bound_of_k_percent": 100 * float(bounded.mean()),
    }


if __name__ == "__main__":
    run(__doc__, vibrations=measure)
