"""Percentiles, intervals and noise by hand, and whether 95% is 95%."""

import math
import random

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


@pytest.mark.parametrize(("first", "second", "difference", "floor"), [(0.1, 0.1, 1, 0.1), (0.1, 0.1, -1, 1 / 11), (0.0, 0.1, 1, 0.06972)])
def test_two_floors_are_one_by_the_mean_of_their_squares(first, second, difference, floor):
    """ln 1.1 = 0.09531; the root of half its square is 0.06739, and e to that 1.06972."""
    assert statistics.floor_of_two(first, second, difference) == pytest.approx(floor, abs=1e-5)


def timed(draw, spreads, *, rounds, drift=0.0, steps=10):
    """A point a spread, by which both its steps and its processes vary, all equally fast on a machine whose rounds differ by `drift`."""
    moments = [draw.gauss(0, drift) for _ in range(rounds)]
    found = {}
    for number, spread in enumerate(spreads):
        centres = [moment + draw.gauss(0, spread) for moment in moments]
        samples = [[{"forward": math.exp(centre + draw.gauss(0, spread))} for _ in range(steps)] for centre in centres]
        found[number] = statistics.timed({index: {"samples": one} for index, one in enumerate(samples, start=1)})
    return found


def told_apart(found, first, second):
    """Whether the two equal points are, by the figures and floors that their rows would have."""
    floors = statistics.noise_of_points([found], dict.fromkeys(found, "one setting"))
    difference = math.expm1(statistics.level(found[first].medians.values()) - statistics.level(found[second].medians.values()))
    both = [floors[one].floor(*[len(found[one].medians)] * 2) for one in (first, second)]
    return abs(difference) > statistics.floor_of_two(*both, difference)


@pytest.mark.parametrize(
    ("spreads", "pair"),
    [((0.01,) * 4, (0, 1)), ((0.01, 0.01, 0.01, 0.1), (0, 1)), ((0.01, 0.01, 0.01, 0.1), (0, 3)), ((0.01, 0.01, 0.1, 0.1), (2, 3))],
)
def test_equal_points_are_told_apart_once_in_twenty_or_less_however_the_machine_drifts_and_unlike_their_noise(spreads, pair):
    """With one noise for all, a noisy one is told from a quiet one in a quarter of all tries, and from a noisy one in a sixth."""
    draw, tries = random.Random(7), 250
    wrong = sum(told_apart(timed(draw, spreads, rounds=3, drift=0.05), *pair) for _ in range(tries))
    assert wrong / tries < 0.09  # more has a chance of 1% at 5%


def test_quiet_methods_keep_their_noise_beside_a_noisy_one():
    found = timed(random.Random(1), (0.001, 0.001, 0.001, 0.1), rounds=3, drift=0.05)
    floors = statistics.noise_of_points([found], dict.fromkeys(found, "one setting"))
    assert [floors[quiet].degrees for quiet in range(3)] == [4, 4, 4]  # (3 points − 1) × (3 rounds − 1)
    assert max(floors[quiet].floor(3, 3) for quiet in range(3)) < 0.01 < floors[3].floor(3, 3)
    assert floors[0].words == "of the 3 methods whose steps vary alike, since the steps of others vary more or less"
    assert floors[3].words == "of its processes alone, since the steps of others vary more or less"


@pytest.mark.parametrize("steps", [1, statistics.STEPS - 1])
def test_few_steps_a_process_say_nothing_of_how_they_vary(steps):
    found = timed(random.Random(1), (0.001, 0.001, 0.1), rounds=3, steps=steps)
    floors = statistics.noise_of_points([found], dict.fromkeys(found, "one setting"))
    assert len({floor.spread for floor in floors.values()}) == 1


def test_a_burst_of_noise_in_one_process_makes_no_group_of_its_own():
    """A figure a process: two that were disturbed, of unlike points, are what distances vary by, and not twenty steps that say more."""
    distances = {"a": {1: 0.1, 2: 0.001, 3: 0.001}, "b": {1: 0.002, 2: 0.2, 3: 0.002}, "c": {1: 0.003, 2: 0.003, 3: 0.003}}
    burst = {name: statistics.Timed(dict.fromkeys(one, 1.0), one) for name, one in distances.items()}
    assert [sorted(group) for group in statistics.like_steps([burst], list(burst))] == [["a", "b", "c"]]
    steady = {
        name: statistics.Timed(dict.fromkeys((1, 2, 3), 1.0), dict.fromkeys((1, 2, 3), one))
        for name, one in zip("abc", (1, 2, 1), strict=True)
    }
    assert statistics.like_steps([steady], list(steady)) == [["a", "c"], ["b"]]


def test_two_points_share_what_their_ratio_varies_by():
    found = timed(random.Random(1), (0.001, 0.1), rounds=3)
    floors = statistics.noise_of_points([found], dict.fromkeys(found, "one setting"))
    assert floors[0] == floors[1]
    assert floors[0].degrees == 2


def test_drift_is_noise_for_a_point_that_lacks_a_round():
    """Round 3 is a tenth slower; a point without it would be called faster than equal ones."""
    whole = {1: 1.0, 2: 1.0, 3: 1.1}
    found = {name: statistics.Timed(dict(whole)) for name in "abc"} | {"d": statistics.Timed({1: 1.0, 2: 1.0})}
    floors = statistics.noise_of_points([found], dict.fromkeys(found, "one setting"))
    assert floors["a"].spread == pytest.approx(0, abs=1e-12)
    faster = 1 - math.exp(-statistics.level(whole.values()))
    assert statistics.floor_of_two(floors["a"].floor(3, 3), floors["d"].floor(2, 2), -1) > faster > 0.03
    assert "a round is lacking" in floors["d"].words


def test_the_interval_of_one_process_holds_its_median_and_narrows_with_more_samples():
    draw = random.Random(3)
    few, many = ([draw.gauss(10, 1) for _ in range(count)] for count in (5, 600))
    (low, high), (lower, higher) = statistics.interval_of_median(few), statistics.interval_of_median(many)
    assert low < 10 < high
    assert lower < 10 < higher
    assert higher - lower < (high - low) / 2
    assert statistics.interval_of_median(few) == (low, high)
    assert statistics.interval_of_median([3.0]) == (3.0, 3.0)


def test_the_interval_over_processes_by_hand():
    """Logarithms 0 and 2: mean 1, deviation √2, and √2 / √2 × 12.706 to both sides."""
    low, high = statistics.interval_of_level([1.0, math.exp(2)])
    assert (math.log(low), math.log(high)) == (pytest.approx(1 - 12.7062, abs=1e-4), pytest.approx(1 + 12.7062, abs=1e-4))


@pytest.mark.parametrize("processes", [2, 3, 5])
def test_an_interval_over_processes_holds_the_time_in_95_of_100(processes):
    """A bootstrap over processes, which cannot leave the least and the largest of them, does in 68, 75 and 92."""
    draw, tries, held = random.Random(processes), 1000, 0
    for _ in range(tries):
        low, high = statistics.interval_of_level([math.exp(draw.gauss(0, 0.05)) for _ in range(processes)])
        held += low <= 1 <= high
    assert 0.93 < held / tries < 0.97


def test_answers_of_another_device_than_the_first_are_left_out():
    answers = {number: {"where": {"device": device}, "samples": [{"forward": 1.0}]} for number, device in ((1, "a"), (2, "b"), (3, "a"))}
    assert list(statistics.alike(answers)) == list(statistics.timed(answers).medians) == [1, 3]
    assert list(statistics.alike({1: {}, 2: answers[2]})) == [1, 2]  # an answer from before they said it
    assert statistics.alike({}) == {}
