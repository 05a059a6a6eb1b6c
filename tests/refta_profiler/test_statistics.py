"""Percentiles, intervals and noise by hand, and whether 95% is 95%."""

import math
import random

import numpy
import pytest

from refta_profiler import statistics
from refta_profiler.statistics import Noise


@pytest.mark.parametrize(("ordered", "fraction", "value"), [([1, 2, 4], 0.5, 2), ([1, 2, 4], 0.9, 3.6), ([5], 0.1, 5), ([1, 3], 0.1, 1.2)])
def test_percentiles(ordered, fraction, value):
    assert statistics.percentile(ordered, fraction) == pytest.approx(value)


@pytest.mark.parametrize(  # any printed table of Student's t
    ("share", "degrees", "t"),
    [
        (0.95, 1, 12.7062),
        (0.95, 2, 4.30265),
        (0.95, 3, 3.18245),
        (0.95, 4, 2.77645),
        (0.95, 10, 2.22814),
        (0.95, 30, 2.04227),
        (0.99, 7, 3.49948),
    ],
)
def test_students_t_is_the_tables(share, degrees, t):
    assert statistics.student(share, degrees) == pytest.approx(t, abs=1e-4)


def test_what_is_common_to_a_point_or_a_round_is_no_noise():
    drifting = {"a": {1: 1.0, 2: 1.1, 3: 1.3}, "b": {1: 2.0, 2: 2.2, 3: 2.6}}
    found = statistics.noise(drifting)
    assert found.spread == pytest.approx(0, abs=1e-12)
    assert found.degrees == 2  # (2 points − 1) × (3 rounds − 1)


def test_the_spread_of_two_points_in_two_rounds_by_hand():
    """Residuals of a 2 × 2 table are all ±q/4, q the interaction ln(1.04): one degree of freedom, so the spread is q/2."""
    found = statistics.noise({"a": {1: 1.0, 2: 1.0}, "b": {1: 1.0, 2: 1.04}})
    assert found == Noise(pytest.approx(math.log(1.04) / 2), 1)


def test_a_point_that_is_alone_has_all_its_variation_as_noise():
    assert statistics.noise({"a": {1: 1.0, 2: math.e}}) == Noise(pytest.approx(math.sqrt(0.5)), 1)


def test_a_round_that_lacks_a_point_is_used_for_the_others():
    found = statistics.noise({"a": {1: 1.0, 2: 1.0}, "b": {1: 1.0, 2: 1.04}, "c": {1: 5.0}})
    assert found == Noise(pytest.approx(math.log(1.04) / 2), 1)


@pytest.mark.parametrize("once", [{}, {"a": {1: 1.0}}, {"a": {1: 1.0}, "b": {1: 2.0}}])
def test_nothing_timed_twice_tells_no_noise(once):
    assert statistics.noise(once) is None


def test_pooled_noise_is_weighted_by_degrees():
    assert statistics.pooled([Noise(0.1, 3), Noise(0.2, 1)]) == Noise(pytest.approx(math.sqrt((3 * 0.01 + 0.04) / 4)), 4)
    assert statistics.pooled([]) is None


def test_the_floor_by_hand_and_wider_for_many_comparisons():
    """t = 2.2281 for 10 degrees; 2.2281 × 0.01 × √(1/3 + 1/3) = 0.01819; e to that is 1.01836."""
    noise = Noise(0.01, 10)
    assert noise.floor(3, 3) == pytest.approx(0.018359, abs=1e-6)
    assert noise.floor(3, 3, comparisons=10) > noise.floor(3, 3) > noise.floor(9, 9)


def test_two_measurements_of_one_thing_differ_by_more_than_the_floor_once_in_twenty():
    draw, beyond, tries = random.Random(7), 0, 2000
    for _ in range(tries):
        drift = {number: draw.gauss(0, 0.2) for number in (1, 2, 3)}
        medians = {name: {number: math.exp(drift[number] + draw.gauss(0, 0.03)) for number in drift} for name in "abcd"}
        floor = statistics.noise(medians).floor(3, 3)
        first, second = (sum(math.log(value) for value in medians[name].values()) / 3 for name in "ab")
        beyond += abs(first - second) > math.log1p(floor)
    assert 0.035 < beyond / tries < 0.065


def test_the_interval_holds_the_median_and_narrows_with_more_samples():
    draw = random.Random(3)
    few, many = ([[draw.gauss(10, 1) for _ in range(count)] for _ in range(3)] for count in (5, 200))
    low, high = statistics.interval_of_median(few)
    lower, higher = statistics.interval_of_median(many)
    assert low < 10 < high
    assert lower < 10 < higher
    assert higher - lower < (high - low) / 2
    assert statistics.interval_of_median(few) == (low, high)
    assert statistics.interval_of_median([[3.0]]) == (3.0, 3.0)


def test_processes_that_differ_widen_the_interval():
    """Ten equal steps in each of three processes: between processes the time varies, and steps alone would not show it."""
    low, high = statistics.interval_of_median([[1.0] * 10, [1.1] * 10, [1.2] * 10])
    assert (low, high) == (1.0, 1.2)


@pytest.mark.parametrize(("processes", "steps"), [(1, 2), (2, 1), (3, 10), (5, 3)])
def test_draws_made_at_once_are_those_made_one_after_the_other(processes, steps):
    samples = numpy.random.default_rng(processes).exponential(size=(processes, steps))
    assert statistics.drawn_medians(samples).tolist() == statistics.unequal_medians(list(samples))


def test_answers_of_another_device_than_the_first_are_left_out():
    answers = {number: {"where": {"device": device}, "samples": [{"forward": 1.0}]} for number, device in ((1, "a"), (2, "b"), (3, "a"))}
    assert list(statistics.alike(answers)) == list(statistics.medians(answers)) == [1, 3]
    assert list(statistics.alike({1: {}, 2: answers[2]})) == [1, 2]  # an answer from before they said it
    assert statistics.alike({}) == {}
