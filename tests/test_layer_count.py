"""How many layers a frame shows: the choice between hypotheses."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from drawn_frames import square_of_points

from moirelib.crystal import Lattice
from moirelib.decomposition import Hypothesis, Imaging, SharedByFrames, choose_hypothesis, layer_count

PRICE = 9.5  # nats, of a particle at working sampling


def fitted(unexplained):
    """A fit that leaves so many nats of the frame unexplained."""
    gain = lambda other: other.unexplained - unexplained  # noqa: E731
    return SimpleNamespace(unexplained=unexplained, particle_price=PRICE, gain_over=gain)


@pytest.mark.parametrize(
    ("one", "two", "gain", "one_layer"),
    [
        (456, 691, 1091.0, True),  # the real frame of one layer, whose long particles are found twice
        (456, 685, 818.0, True),
        (1266, 1882, 13182.0, False),  # two simulated layers at a twist under 2.5°, noisy
        (100, 99, -5.0, False),  # fewer particles, that explain hardly less
    ],
)
def test_one_layer_of_long_particles_is_told_from_two_layers(one, two, gain, one_layer):
    # Particles of fits with one layer and with two, and by how much the second explains the frame better, as measured.
    fewer, more = (
        Hypothesis(k, fitted(left), pd.DataFrame(index=range(n)), []) for k, n, left in ((1, one, gain), (2, two, 0.0))
    )
    assert fewer.is_enough(more) is one_layer


def layers_at(angles, unexplained, found=0.0):
    """Layers upon each other, one for each angle; of the upper ones only the share ``found`` of the particles.

    The fit leaves ``unexplained`` nats for each particle of a whole layer.
    """
    tables = [pd.DataFrame(square_of_points(angle=angle), columns=["y", "x"]) for angle in angles]
    whole = len(tables[0])
    tables = [table if k == 0 else table.iloc[: int(found * len(table))] for k, table in enumerate(tables)]
    particles = pd.concat([table.assign(layer=k) for k, table in enumerate(tables, start=1)], ignore_index=True)
    lattices = [[Lattice(16.0, angle)] for angle in angles]
    return Hypothesis(len(angles), fitted(whole * unexplained), particles, lattices)


@pytest.mark.parametrize(
    ("angles", "shares", "unexplained", "layers"),
    [
        ([7.0], [0.0], [0.0], 1),  # nothing to choose between
        ([7.0, 8.0], [0.0, 1.0], [20.0, 0.0], 2),  # the second layer explains clearly more
        ([7.0, 8.0], [0.0, 0.9], [5.0, 0.0], 1),  # one layer needs half the particles and leaves hardly more
        ([7.0, 8.0, 9.0], [0.0, 1.0, 1.0], [40.0, 20.0, 0.0], 3),  # each layer explains clearly more
        ([7.0, 8.0, 9.0], [0.0, 1.0, 0.8], [20.0, 0.0, 0.0], 2),  # the third explains nothing
    ],
)
def test_the_fewest_layers_that_explain_the_frame_are_chosen(angles, shares, unexplained, layers):
    hypotheses = [
        layers_at(angles[: k + 1], left, share) for k, (share, left) in enumerate(zip(shares, unexplained, strict=True))
    ]
    assert choose_hypothesis(hypotheses[::-1]).asked == layers


def test_a_second_layer_that_is_not_alike_is_no_alternative_to_one():
    # In general position its lattice would have shown; here it is an artefact of asking for two.
    one, two = layers_at([7.0], 20.0), layers_at([7.0, 25.0], 0.0, found=1.0)
    assert choose_hypothesis([two, one]) is one


@pytest.mark.parametrize(
    ("angle", "unexplained", "found", "layers"),
    [
        (25.0, 20.0, 1.0, 2),  # the second layer explains clearly more
        (25.0, 0.0, 0.6, 1),  # one layer explains as much
        (8.0, 20.0, 1.0, 1),  # layers nearly alike are judged by their lattices
        (25.0, 20.0, 0.0, 1),  # the cut found a single layer
    ],
)
def test_unlike_layers_are_chosen_where_they_explain_more(angle, unexplained, found, layers):
    one, two = layers_at([7.0], unexplained), replace(layers_at([7.0, angle], 0.0, found), by_points=True)
    assert choose_hypothesis([one, two]).found == layers


@pytest.mark.parametrize("found", [0.0, 0.6])
def test_the_number_that_is_given_needs_no_evidence(found):
    one, two = layers_at([7.0], 0.0), replace(layers_at([7.0, 8.0], 0.0, found), by_points=True)
    asked = replace(one, asked=2)
    assert choose_hypothesis([asked, two], given=2) is (two if found else asked)
    assert choose_hypothesis([one, two]) is one


@pytest.fixture
def tried(monkeypatch):
    """What was fitted, in order; every fit finds one layer, that of unlike layers two."""

    def fit(frame, detections, diameter, asked, like, by_points=False):
        fitted.append("by points" if by_points else asked)
        return replace(layers_at([7.0, 30.0] if by_points else [7.0], 0.0, found=1.0), asked=asked)

    fitted = []
    monkeypatch.setattr(layer_count, "fit_hypothesis", fit)
    return fitted


@pytest.mark.parametrize(("layers", "asked"), [(1, [1]), (2, [2, "by points"])])
def test_where_layers_are_given_no_other_number_is_tried(layers, asked, tried, monkeypatch):
    monkeypatch.setattr(layer_count, "count_layers_around", lambda *_: pytest.fail("nobody asked"))
    hypotheses = layer_count.propose_hypotheses(None, None, None, 12.0, SharedByFrames(given=layers))
    assert (tried, choose_hypothesis(hypotheses, layers).found) == (asked, layers)


@pytest.mark.parametrize(
    ("shared", "shown", "asked"),
    [
        (SharedByFrames(), False, [None]),
        (SharedByFrames(), True, [None, "by points"]),
        (SharedByFrames(Imaging(), layers=1), True, [None]),  # the frames that a movie learns from have decided
        (SharedByFrames(Imaging(), layers=2), True, [2]),
        (SharedByFrames(Imaging(), layers=2, by_points=True), True, ["by points"]),
    ],
)
def test_a_fit_is_made_only_where_it_can_change_the_choice(shared, shown, asked, tried, monkeypatch):
    monkeypatch.setattr(layer_count, "count_layers", lambda *_: None)
    monkeypatch.setattr(layer_count, "merge_finds", lambda finds, _: finds)
    monkeypatch.setattr(layer_count, "count_layers_around", lambda *_: (shown, 0.0))
    layer_count.propose_hypotheses(None, None, None, 12.0, shared)
    assert tried == asked


@pytest.mark.parametrize(
    ("shared", "around", "tried_three", "kept"),
    [
        (SharedByFrames(), [0.05], False, False),  # as in two layers
        (SharedByFrames(), [0.3, 0.9], True, True),
        (SharedByFrames(), [0.3, 0.1], True, False),  # once all particles are there, they show two
        (SharedByFrames(given=2), [], False, False),
        (SharedByFrames(given=3), [], True, True),
        (SharedByFrames(Imaging(), layers=3, by_points=True), [], True, True),
        (SharedByFrames(Imaging(), layers=2), [], False, False),
    ],
)
def test_three_layers_are_tried_where_the_points_may_show_them(shared, around, tried_three, kept, tried, monkeypatch):
    monkeypatch.setattr(layer_count, "count_layers", lambda *_: None)
    monkeypatch.setattr(layer_count, "merge_finds", lambda finds, _: finds)
    said = iter(around)
    monkeypatch.setattr(layer_count, "count_layers_around", lambda *_: (False, next(said)))
    looked = []
    hypotheses = layer_count.propose_hypotheses(None, None, lambda: looked.append(3), 12.0, shared)
    assert looked == [3] * tried_three
    assert [one for one in hypotheses if one.asked == 3] == (hypotheses[-1:] if kept else [])


def test_second_peaks_of_unlike_layers_are_kept_where_frames_beside_show_one_layer(monkeypatch):
    # Of one layer a weak peak beside a sure one is a part of the same long particle; of two it may be the other's.
    one = pd.DataFrame(square_of_points(), columns=["y", "x"]).assign(channel=0, score=0.9)
    detections = pd.concat([one, one.assign(channel=1, x=one["x"] + 4.0, score=0.2)], ignore_index=True)
    monkeypatch.setattr(layer_count, "count_layers", lambda *_: 1)
    monkeypatch.setattr(layer_count, "merge_finds", lambda finds, diameter: kept.append(len(finds)) or finds)
    monkeypatch.setattr(layer_count, "find_particles", lambda fit, particles, *_, **__: (fit, particles))
    monkeypatch.setattr(layer_count, "split_particles", lambda fit, particles: (fit, particles))
    named = lambda finds, diameter, layers: (finds.assign(layer=1), [[], []])  # noqa: E731
    monkeypatch.setattr(layer_count, "name_by_points", named)
    monkeypatch.setattr(layer_count.FrameFit, "start", lambda *_: SimpleNamespace(fit=lambda rounds: None))
    kept = []
    layer_count.propose_hypotheses(np.ones((64, 64)), detections, None, 12.0, SharedByFrames(Imaging(), by_points=True))
    assert kept == [len(detections)]


def test_lattices_are_alike_whatever_the_shift_between_them():
    two = layers_at([7.0, 8.0], 0.0, found=1.0)
    shift = np.where(two.particles["layer"] == 2, 0.57 * 16.0, 0.0)  # as far from the other layer's sites as can be
    turned = np.radians(7.0 + 30.0)
    moved = two.particles.assign(
        y=two.particles["y"] + shift * np.sin(turned), x=two.particles["x"] + shift * np.cos(turned)
    )
    assert replace(two, particles=moved).alike
    assert not layers_at([7.0, 25.0], 0.0, found=1.0).alike
