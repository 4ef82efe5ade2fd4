"""The fit: unbiased positions, error bars that mean what they say, and what cannot be seen."""

from dataclasses import astuple, fields, replace

import beer_lambert
import numpy as np
import pandas as pd
import pytest
import torch
from drawn_frames import D, disks, rendered, square_of_points
from scipy.signal import fftconvolve

from moirelib.crystal import hexagonal_lattice, rows_of_three
from moirelib.decomposition import FrameFit, Imaging
from moirelib.decomposition.image_model import ImageModel
from moirelib.decomposition.particle_prior import ParticlePrior
from moirelib.decomposition.profile_and_blur import IMAGING, SHARED
from moirelib.decomposition.soft_thickness import half_depth, soften


def noisy_frame(points, rng, noise, contrast=0.5):
    y, _ = np.indices((160, 160))
    clean = 300 + 0.3 * y
    for point in points:
        clean = clean * (1 - contrast * (1 - disks([point], (160, 160))))
    return clean + noise * rng.standard_normal(clean.shape)


def fit_freely(frame, start):
    return FrameFit.start(frame, start, D).fit(2).result(start)


def test_fitted_positions_are_unbiased_and_errors_are_true():
    z, errors = [], []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        points = square_of_points(rng=rng)
        start = pd.DataFrame(points + rng.normal(0, 0.5, points.shape), columns=["y", "x"])
        table = fit_freely(noisy_frame(points, rng, 30.0), start)
        error = table[["y", "x"]].to_numpy() - points
        errors.append(error)
        z.append(error / table[["y_std", "x_std"]].to_numpy())
    z, errors = np.concatenate(z), np.concatenate(errors)
    assert np.abs(errors.mean(axis=0)).max() < 4 * errors.std() / np.sqrt(len(errors))
    assert 0.8 < np.std(z) < 1.25
    assert errors.std() < 0.3


def test_fitted_errors_grow_with_the_noise():
    rng = np.random.default_rng(0)
    points = square_of_points(rng=rng)
    start = pd.DataFrame(points, columns=["y", "x"])
    std = [fit_freely(noisy_frame(points, rng, noise), start)["y_std"].median() for noise in (10.0, 40.0)]
    assert std[1] / std[0] == pytest.approx(4.0, rel=0.3)


def test_fitted_diameter_follows_the_true_one():
    rng = np.random.default_rng(0)
    points = square_of_points(spacing=20.0, rng=rng)
    start = pd.DataFrame(points, columns=["y", "x"])
    sizes = []
    for diameter in (11.0, 13.0):
        frame = 300 * (0.4 + 0.6 * disks(points, (160, 160), diameter)) + 3 * rng.standard_normal((160, 160))
        sizes.append(fit_freely(frame, start)["diameter"].median())
    assert sizes[1] / sizes[0] == pytest.approx(13 / 11, rel=0.05)


def test_a_particle_under_another_is_fitted_too():
    rng = np.random.default_rng(2)
    points = np.array([[60.0, 60.0], [60.0, 67.0], [110.0, 100.0]])
    start = pd.DataFrame(points + 0.5, columns=["y", "x"])
    table = fit_freely(noisy_frame(points, rng, 2.0), start)
    assert np.abs(table[["y", "x"]].to_numpy() - points).max() < 0.3


def test_frames_below_zero_are_fitted_as_well():
    rng = np.random.default_rng(0)
    points = square_of_points(rng=rng)
    start = pd.DataFrame(points + 0.4, columns=["y", "x"])
    frame = noisy_frame(points, rng, 10.0)
    for offset in (-1000.0, 30000.0):
        error = fit_freely(frame + offset, start)[["y", "x"]].to_numpy() - points
        assert error.std() < 0.2


def test_the_table_of_shared_parameters_describes_imaging():
    assert [*[p.name for p in IMAGING], "powers"] == [f.name for f in fields(Imaging)]
    assert all(p.lower <= getattr(Imaging(), p.name) <= p.upper for p in IMAGING)
    assert all(p.step < 0.2 * p.std for p in SHARED if p.derivative in ("transfer", "stretch"))
    far = {p.name: 100.0 for p in IMAGING}
    assert astuple(Imaging(powers=0.2).add_step(far)) == (*[p.upper for p in IMAGING], 0.2)


def test_a_fit_stays_as_it_is_whatever_is_done_with_it():
    rng = np.random.default_rng(0)
    points = square_of_points(spacing=24.0, rng=rng)
    table = pd.DataFrame(points, columns=["y", "x"]).assign(layer=1)
    fit = FrameFit.start(noisy_frame(points, rng, 10.0), table, D)
    before = fit.theta.clone(), fit.imaging, fit.prior.std.clone(), fit.model.noise, fit.evidence()
    one = fit.fit(1)
    fit.with_particles(table[:-1], in_rows=True).fit(1, shared=False)
    other = fit.fit(1)
    after = fit.theta, fit.imaging, fit.prior.std, fit.model.noise, fit.evidence()
    for was, now in zip(before, after, strict=True):
        assert was is now or np.array_equal(was, now)
    assert one.imaging == other.imaging
    assert torch.equal(one.theta, other.theta)


@pytest.mark.parametrize("exponent", [0.05, 0.5])
def test_what_particles_share_is_recovered(exponent):
    rng = np.random.default_rng(3)
    points = square_of_points(spacing=18.0, rng=rng)
    table = pd.DataFrame(points, columns=["y", "x"]).assign(diameter=11.5, depth=0.8)
    true = Imaging(exponent, blur=0.1, disk=0.2, tail=0.0)
    frame = rendered(table, true, rng)
    fit = FrameFit.start(frame, table[["y", "x"]] + 0.3, D).fit(2).search()
    assert fit.imaging.exponent == pytest.approx(exponent, abs=0.12)
    assert fit.table(table)["diameter"].median() == pytest.approx(11.5, rel=0.02)


def test_a_search_leaves_the_wrong_solid():
    rng = np.random.default_rng(3)
    points = square_of_points(spacing=18.0, rng=rng)
    table = pd.DataFrame(points, columns=["y", "x"]).assign(diameter=11.5, depth=0.8)
    frame = rendered(table, Imaging(0.5, blur=0.1, disk=0.2, tail=0.0), rng)
    fit = FrameFit.start(frame, table[["y", "x"]] + 0.3, D).fit(2)
    flat = fit.model.render(fit.theta, replace(fit.imaging, exponent=0.05))
    searched = replace(fit, predicted=flat, solid=0.05).search()  # as where particles were missing when it chose
    assert searched.solid == 0.5
    assert searched.imaging.exponent == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("exponent", [0.08, 0.5])
def test_a_dark_level_is_told_from_thin_particles_under_a_strong_blur(exponent):
    rng = np.random.default_rng(5)
    points = np.concatenate([square_of_points(spacing=18.0, rng=rng), square_of_points(spacing=19.0, rng=rng) + 7])
    size = 11.5 * np.exp(rng.normal(0, 0.03, len(points)))
    table = pd.DataFrame(points, columns=["y", "x"]).assign(diameter=size, depth=3.0)
    true = Imaging(exponent, blur=0.21, disk=0.98, tail=0.0, offset=0.5)
    # At twice the noise, rods and spheres of unlike diameters explain the frame equally well.
    fit = FrameFit.start(rendered(table, true, rng, noise=4.0), table[["y", "x"]] + 0.2, D).fit(2).search()
    assert fit.imaging.offset * np.median(fit.model.frame) == pytest.approx(0.5, abs=0.08)
    assert np.median(fit.table(table)["diameter"] / size) == pytest.approx(1.0, abs=0.03)


def test_coma_and_elongation_are_recovered_and_leave_positions_unbiased():
    rng = np.random.default_rng(4)
    points = square_of_points(spacing=18.0, rng=rng)
    table = pd.DataFrame(points, columns=["y", "x"]).assign(diameter=11.5, depth=0.5)
    true = Imaging(0.5, blur=0.12, disk=0.9, tail=0.0, coma_y=-0.4, coma_x=0.1, long_y=-0.2, long_diagonal=0.1)
    fit = FrameFit.start(rendered(table, true, rng), table[["y", "x"]] + 0.3, D).fit(2).search()
    assert (fit.imaging.coma_y, fit.imaging.coma_x) == pytest.approx((-0.4, 0.1), abs=0.06)
    assert (fit.imaging.long_y, fit.imaging.long_diagonal) == pytest.approx((-0.2, 0.1), abs=0.04)
    error = fit.table(table)[["y", "x"]].to_numpy() - points
    assert np.abs(np.median(error, axis=0)).max() < 0.1
    assert fit.table(table)["diameter"].median() == pytest.approx(11.5, rel=0.03)


@pytest.mark.parametrize(("exponent", "soft"), [(0.02, 0.03), (0.02, 0.15), (0.3, 0.1), (0.5, 0.25)])
def test_a_soft_thickness_is_the_mean_over_a_disk(exponent, soft):
    axis = np.linspace(-2, 2, 801)
    rho2 = axis[:, None] ** 2 + axis**2
    disk = (rho2 <= (4 * soft) ** 2).astype(float)
    expected = fftconvolve(np.clip(1 - rho2, 0, None) ** exponent * (rho2 < 1), disk / disk.sum(), mode="same")[400]
    found = soften(exponent, soft).look_up(torch.from_numpy(axis**2))[0].numpy()
    assert np.abs(found - expected).max() < 0.02
    assert np.abs(found - expected).mean() < 0.004


@pytest.mark.parametrize(
    ("exponent", "soft", "expected"),
    [
        (0.5, 0.0, np.sqrt(0.75)),
        (0.05, 0.0, 0.99),
        (0.02, 0.1, 0.964),
        (0.02, 0.2, 0.88),
        (0.5, 0.2, 0.78),
        (0.3, 0.1, 0.856),
    ],
)
def test_half_the_depth_is_reached_at(exponent, soft, expected):
    assert half_depth(exponent, soft) == pytest.approx(expected, abs=0.008)


@pytest.mark.parametrize(("soft", "blur"), [(2.8, 0.02), (0.0, 0.12)])
def test_a_soft_outline_is_told_from_a_blurred_image(soft, blur):
    options = {"size": 200, "spacing": 17.0, "ratio": 0.7, "twist": 14.0, "shape": "rod", "island": False}
    image = beer_lambert.simulate(np.random.default_rng(8), **options, soft=soft, blur=blur, electrons=1500.0)
    fit = FrameFit.start(image.frame, pd.DataFrame(image.positions + 0.3, columns=["y", "x"]), D).fit(2).search().fit(2)
    assert fit.imaging.soft == pytest.approx(soft / 2 / 11.9, abs=0.02)  # a disk of radius r has the variance r²/4
    inner = np.all((image.positions > 12) & (image.positions < 187), axis=1)
    assert np.exp(fit.theta[inner, 2]).median() == pytest.approx(11.9, rel=0.02)


def test_a_coma_moves_no_centre_of_mass():
    spot = torch.zeros(64, 64)
    spot[32, 32] = 1.0
    transfer = Imaging(blur=0.2, coma_y=-0.5, coma_x=0.3).transfer(spot.shape, D)
    blurred = torch.fft.irfft2(torch.fft.rfft2(spot) * transfer, s=spot.shape).numpy()
    y, x = np.indices(blurred.shape)
    assert ((blurred * y).sum(), (blurred * x).sum()) == pytest.approx((32.0, 32.0), abs=0.02)
    assert np.hypot(*np.subtract(np.unravel_index(blurred.argmax(), blurred.shape), 32)) > 1


@pytest.mark.parametrize("soft", [0.0, 0.01, 0.1])
def test_jacobian_is_the_derivative_of_the_frame(soft):
    points = square_of_points(spacing=20.0, rng=np.random.default_rng(0))
    table = pd.DataFrame(points, columns=["y", "x"]).assign(diameter=12.3, depth=1.1)
    imaging = Imaging(0.3, soft, 0.15, 0.5, 0.0, 0.0, -0.3, 0.2, 0.15, -0.1)
    frame = rendered(table, imaging, np.random.default_rng(1))
    fit = FrameFit.start(frame, table, D, imaging).with_shapes()
    fit = replace(fit, model=replace(fit.model, margin=4))
    background, bent = fit.predicted.background, fit.predicted.bent
    fit.model.background.fit = lambda *_: (background, bent)  # the derivatives are taken with the background held
    for k, size in enumerate((1e-2, 1e-2, 1e-3, 1e-2, 1e-2, 1e-2, 1e-2)):
        step = fit.theta * 0
        step[:, k] = size
        change = fit.residual - fit.model.residual(fit.model.render(fit.theta + step, imaging).image)
        expected = step.flatten().numpy() @ fit.jacobian.matrix()
        assert np.linalg.norm(change.numpy().ravel() - expected) < 0.03 * np.linalg.norm(expected)


@pytest.mark.parametrize("imaging", [Imaging(0.1, blur=0.1, tail=0.0), Imaging(0.02, 0.12, 0.05, 0.3, 0.04)])
def test_the_gradient_is_the_costs_own_background_and_border_included(imaging):
    rng = np.random.default_rng(3)
    points = square_of_points(spacing=14.0, rng=rng)
    table = pd.DataFrame(points, columns=["y", "x"]).assign(diameter=11.5, depth=1.5)
    model = ImageModel.look_at(rendered(table, Imaging(0.3), rng), D)
    start = table.assign(diameter=np.log(12.0), depth=np.log(1.0), power=0.1, long_y=0.1, long_diagonal=-0.05)
    theta = torch.from_numpy(start.to_numpy(np.float32))
    model = model.place(theta).weigh(imaging)
    gradient = model.jacobian(model.render(theta, imaging)).gradient
    for k, size in enumerate((0.02, 0.02, 0.005, 0.005, 0.005, 0.005, 0.005)):
        expected = []
        for i in range(0, len(theta), 9):
            step = torch.zeros_like(theta)
            step[i, k] = size
            costs = [model.cost(model.render(theta + sign * step, imaging)) for sign in (1, -1)]
            expected.append((costs[1] - costs[0]) / (4 * size))  # downhill, of half the cost
        assert gradient[::9, k].numpy() == pytest.approx(np.array(expected), abs=0.02 * np.abs(expected).max())


@pytest.mark.parametrize("soft", [0.0, 0.015, 0.1])
def test_derivatives_by_what_is_shared_are_the_frames_own(soft):
    rng = np.random.default_rng(0)
    points = square_of_points(spacing=18.0, rng=rng)
    table = pd.DataFrame(points, columns=["y", "x"]).assign(diameter=rng.normal(11.5, 0.3, len(points)), depth=0.8)
    imaging = Imaging(0.2, soft, 0.15, 0.5, 0.03, 0.1, 0.1, -0.1, 0.05, 0.03)
    fit = FrameFit.start(rendered(table, Imaging(), rng), table, D, imaging)
    fit = fit.with_particles(table.assign(power=rng.uniform(0.9, 1.2, len(points))))
    model, theta = fit.model.weigh(imaging), fit.theta
    assert model.margin == np.ceil(max(0.15, 2 * soft) * D)
    derivatives = model.linearise(fit.predicted)[1]
    assert derivatives.shape == (160 * 160, len(SHARED))
    for k, (derivative, shared) in enumerate(zip(derivatives.T, SHARED, strict=True)):
        if shared.name == "soft" and soft == 0:  # a sharp outline stays sharp: the search tries a soft one
            assert not derivative.any()
            continue
        step, size, images = np.zeros(len(SHARED)), 0.001 if shared.name == "soft" else 0.005, []
        for step[k] in (size, -size):
            moved = theta + torch.tensor([0.0, 0.0, *step[:2], *(fit.theta.shape[1] - 4) * [0.0]], dtype=torch.float32)
            images.append(model.render(moved, Imaging(*np.add(astuple(imaging)[:-1], step[2:]).tolist())).image)
        expected = model.counted() * (images[0] - images[1]) / (2 * size) / model.noise
        error = derivative - expected.numpy().ravel()
        assert np.sqrt(np.mean(error**2)) < 0.03 * float(expected.square().mean().sqrt())


def test_evidence_speaks_for_particles_that_are_there_and_against_others():
    rng = np.random.default_rng(0)
    points = square_of_points(spacing=24.0, rng=rng)
    table = pd.DataFrame(points, columns=["y", "x"])
    fit = FrameFit.start(noisy_frame(points[1:], rng, 10.0), table.iloc[1:], D).fit(2)
    assert (fit.evidence() > 5).all()
    assert fit.evidence(table.iloc[:1])[0] < -5
    missing = FrameFit.start(noisy_frame(points, rng, 10.0), table.iloc[1:], D).fit(2)
    assert missing.evidence(table.iloc[:1])[0] > 5


def test_rows_join_opposite_neighbours_of_one_layer():
    points = square_of_points(spacing=16.0, jitter=0.0)
    rows = rows_of_three(points, np.ones(len(points)), 16.0)
    np.testing.assert_allclose(points[rows[:, 0]] + points[rows[:, 2]], 2 * points[rows[:, 1]], atol=1e-6)
    inner = np.all((points > 40) & (points < 120), axis=1)
    assert (np.bincount(rows[:, 1], minlength=len(points))[inner] == 3).all()
    assert len(rows_of_three(points, np.arange(len(points)), 16.0)) == 0


def fit_freely_and_in_rows(frame, start):
    """Particles where the frame says, and where it and their rows say."""
    fit = FrameFit.start(frame, start, D).fit()
    fit = fit.with_particles(start).fit(2, shared=False)
    free = fit.table(start).assign(layer=1)
    return free, fit.with_particles(free, in_rows=True).fit(2, shared=False).table(start)


def test_a_known_crystal_steadies_what_the_frame_shows_badly():
    rng = np.random.default_rng(5)
    points = square_of_points(spacing=16.0, rng=rng, jitter=0.1)
    start = pd.DataFrame(points + rng.normal(0, 0.5, points.shape), columns=["y", "x"])
    frame = noisy_frame(points, rng, 120.0)
    free, steadied = fit_freely_and_in_rows(frame, start)
    error = [np.sqrt(np.mean((t[["y", "x"]].to_numpy() - points) ** 2)) for t in (free, steadied)]
    assert error[1] < 0.8 * error[0]


def two_layers(rng):
    """Two square lattices of one spacing, turned by 15° against each other: half of the particles overlap."""
    return np.concatenate([square_of_points(spacing=16.0, angle=angle, rng=rng) for angle in (7.0, 22.0)])


@pytest.mark.slow
def test_error_bars_stay_true_where_every_other_pixel_is_fitted():
    z = []
    for seed in range(20, 24):
        rng = np.random.default_rng(seed)
        points = two_layers(rng)
        frame = noisy_frame(points, rng, 25.0)
        table = fit_freely(frame, pd.DataFrame(points, columns=["y", "x"]))
        inner = np.all((points > 8) & (points < 152), axis=1)
        z.append(((table[["y", "x"]].to_numpy() - points) / table[["y_std", "x_std"]].to_numpy())[inner])
    z = np.concatenate(z)
    assert 0.85 < 1.48 * np.median(np.abs(z)) < 1.15


def test_the_crystal_does_not_pull_on_a_particle_that_left_its_row():
    rng = np.random.default_rng(6)
    points = square_of_points(spacing=16.0, rng=rng, jitter=0.1)
    middle = int(np.argmin(np.hypot(*(points - 80).T)))
    points[middle] += (0.0, 4.0)
    start = pd.DataFrame(points, columns=["y", "x"])
    _, steadied = fit_freely_and_in_rows(noisy_frame(points, rng, 20.0), start)
    assert np.hypot(*(steadied[["y", "x"]].to_numpy()[middle] - points[middle])) < 0.4


def test_rows_do_not_make_a_crystal_straighter_than_it_is():
    rng = np.random.default_rng(11)
    sites = hexagonal_lattice(18.0, 7.0, (120, 120), 150)
    points = sites + rng.normal(0, 1.0, sites.shape)
    points = points[((points > -6) & (points < 246)).all(axis=1)]
    table = pd.DataFrame(points, columns=["y", "x"]).assign(diameter=11.5, depth=0.5, layer=1)
    frame = rendered(table, Imaging(0.5, blur=0.1), rng, noise=60.0, shape=(240, 240))
    fit = FrameFit.start(frame, table[["y", "x", "layer"]], D).fit()
    for _ in range(5):
        fit = fit.with_particles(fit.table(table), in_rows=True).fit()
    rows = rows_of_three(points, np.ones(len(points)), 18.0)
    rows = rows[((points > 10) & (points < 230)).all(axis=1)[rows].all(axis=1)]
    bend = [
        x[rows[:, 0]] + x[rows[:, 2]] - 2 * x[rows[:, 1]] for x in (points, fit.table(table)[["y", "x"]].to_numpy())
    ]
    assert bend[1].std() == pytest.approx(bend[0].std(), rel=0.1)


def test_the_border_that_does_not_count_is_held_while_the_blur_is_fitted(monkeypatch):
    points = square_of_points(spacing=18.0, rng=np.random.default_rng(0))
    table = pd.DataFrame(points, columns=["y", "x"]).assign(diameter=11.5, depth=0.8)
    frame = rendered(table, Imaging(blur=0.1), np.random.default_rng(1))
    counted, original = [], ImageModel.residual
    monkeypatch.setattr(
        ImageModel, "residual", lambda model, image: counted.append(model.margin) or original(model, image)
    )
    fit = FrameFit.start(frame, table, D)
    assert len(counted) > 10
    assert len(set(counted)) == 1
    blurred = replace(fit.imaging, blur=0.2)
    far = replace(fit, predicted=fit.model.render(fit.theta, blurred))
    counted.clear()
    near = far.fit(1)
    assert near.imaging.blur < 0.15
    assert len(counted) > 5
    assert len(set(counted)) == 1


def test_each_particle_has_a_profile_of_its_own_where_that_of_all_is_known():
    rng = np.random.default_rng(4)
    points = square_of_points(rng=rng)
    power = np.exp(0.15 * rng.standard_normal(len(points)))
    table = pd.DataFrame(points, columns=["y", "x"]).assign(diameter=11.5, depth=1.2, power=power)
    shared = Imaging(0.5, blur=0.1, powers=0.1)
    frame = rendered(table, shared, rng)
    known = FrameFit.start(frame, table[["y", "x"]], D, shared).fit(5)
    found = known.table(table)
    off = np.log(found["power"] / power)
    assert (off - off.median()).abs().median() < 0.03
    assert abs(off.median()) < 0.1  # as of the sizes: what all have in common is the last to be told
    assert found["diameter"].median() == pytest.approx(11.5, rel=0.02)
    assert known.imaging == shared
    # One frame alone tells only the profile of all.
    assert "power" not in FrameFit.start(frame, table[["y", "x"]], D).table(table[["y", "x"]])


@pytest.mark.parametrize(("pairs", "alone", "usual"), [(100, 30, 1.0), (10, 40, 2.0)])
def test_neither_two_taken_for_one_nor_one_for_two_are_the_usual_ones(pairs, alone, usual):
    # Those of pairs have an optical depth of 1, those alone of 2.
    places = 3 * D * np.stack(np.unravel_index(np.arange(pairs + alone), (12, 12)), axis=1)
    yx = np.concatenate([places, places[:pairs] + [0.0, 0.3 * D]])
    depth = np.where(np.arange(len(yx)) < pairs, 1.0, 2.0)
    depth[pairs + alone :] = 1.0
    theta = torch.tensor(np.column_stack([yx, np.full(len(yx), np.log(D)), np.log(depth)]), dtype=torch.float32)
    prior = ParticlePrior(theta[:, :2].clone(), D, torch.zeros(2), torch.ones(4))
    assert prior.with_population(theta).usual.exp().numpy() == pytest.approx([D, usual])


def draw_ellipses(rng, ratio, depth=1.0, fine=5):
    """A frame of elliptic plates, turned at random; their centres (n, 2), and degrees of turn from x towards y."""
    points = square_of_points(spacing=20.0, rng=rng)
    turn, (y, x), light = rng.uniform(0, 180, len(points)), (np.indices((160 * fine,) * 2) + 0.5) / fine - 0.5, 1.0
    for (py, px), angle in zip(points, np.radians(turn), strict=True):
        along = (x - px) * np.cos(angle) + (y - py) * np.sin(angle)
        across = (y - py) * np.cos(angle) - (x - px) * np.sin(angle)
        inside = along**2 / ratio + across**2 * ratio < (D / 2) ** 2
        light = light * np.exp(-depth * inside)
    light = np.reshape(light, (160, fine, 160, fine)).mean(axis=(1, 3))
    return rng.poisson(400 * light).astype(float), points, turn


def test_each_particle_has_an_aspect_ratio_and_a_direction_of_its_own():
    frame, points, turn = draw_ellipses(np.random.default_rng(1), ratio=1.3)
    table = pd.DataFrame(points, columns=["y", "x"])
    found = FrameFit.start(frame, table, D).fit(1).with_shapes().fit(2).result(table)
    assert found["aspect_ratio"].median() == pytest.approx(1.3, rel=0.02)
    off = (found["orientation_deg"] - turn + 90) % 180 - 90
    assert off.abs().median() < 2.0
    assert 0.7 < (off / found["orientation_std_deg"]).std() < 1.3
    assert found["diameter"].median() == pytest.approx(D, rel=0.02)


def test_round_particles_come_out_round_within_their_errors():
    frame, points, _ = draw_ellipses(np.random.default_rng(2), ratio=1.0)
    table = pd.DataFrame(points, columns=["y", "x"])
    found = FrameFit.start(frame, table, D).fit(1).with_shapes().fit(2).result(table)
    assert found["aspect_ratio"].max() < 1.05
    assert (found["aspect_ratio"] - 1 < 4 * found["aspect_ratio_std"]).all()
