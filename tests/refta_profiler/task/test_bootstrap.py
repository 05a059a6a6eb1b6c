import math

import numpy
import pytest

from refta_profiler.task import bootstrap
from refta_profiler.task.bootstrap import Interval, Scored, draw_items


def scored(*rows, truth=None):
    return Scored(numpy.array(rows, dtype=float), None if truth is None else numpy.array(truth, dtype=float))


def test_a_score_is_the_mean_over_seeds_and_items():
    assert bootstrap.score(scored([1, 0], [1, 1])) == 0.75


def test_replicates_by_hand():
    """Item 0 once and item 1 twice: (1 + 0 + 0) / 3 for seed 0 and all right for seed 1; then item 0 alone."""
    draws = numpy.array([[1.0, 2.0], [2.0, 0.0]])
    assert bootstrap.replicates(scored([1, 0], [1, 1]), draws) == pytest.approx(numpy.array([[1 / 3, 1.0], [1.0, 1.0]]))


def test_correlation_is_numpys():
    predictions, truth = [[0.1, 0.9, 0.4, 0.3], [0.5, 0.2, 0.8, 0.9]], [1.0, 4.0, 2.0, 3.0]
    wanted = numpy.mean([numpy.corrcoef(row, truth)[0, 1] for row in predictions])
    assert bootstrap.score(scored(*predictions, truth=truth)) == pytest.approx(wanted)


def test_correlation_in_a_replicate_is_that_of_the_drawn_items():
    truth, row = [1.0, 4.0, 2.0], [0.1, 0.9, 0.5]
    wanted = numpy.corrcoef([0.1, 0.1, 0.9, 0.5], [1.0, 1.0, 4.0, 2.0])[0, 1]
    assert bootstrap.replicates(scored(row, truth=truth), numpy.array([[2.0, 1.0, 1.0]])) == pytest.approx(numpy.array([[wanted]]))


def test_predictions_that_do_not_vary_correlate_with_nothing():
    assert bootstrap.score(scored([2.0, 2.0, 2.0], truth=[1.0, 2.0, 3.0])) == 0.0


def test_the_interval_of_one_seed_is_the_binomial_one():
    """300 of 400 right: 0.75 ± 1.96 · √(0.75 · 0.25 / 400) = 0.7076 to 0.7924."""
    found = bootstrap.interval(scored([1.0] * 300 + [0.0] * 100), draw_items(400))
    assert (found.low, found.high) == pytest.approx((0.7076, 0.7924), abs=0.006)


def test_a_paired_difference_is_narrower_than_the_scores():
    """Two methods that differ in 8 of 400 items: ± 1.96 · √(0.02 · 0.98 / 400), a third of either score's interval."""
    base = [1.0] * 300 + [0.0] * 100
    better = [1.0] * 308 + [0.0] * 92
    found = bootstrap.difference(scored(better, better), scored(base, base), draw_items(400))
    assert found.value == pytest.approx(0.02)
    assert (found.low, found.high) == pytest.approx((0.02 - 0.0137, 0.02 + 0.0137), abs=0.004)
    assert bootstrap.outcome(found) == "better"


def test_one_seed_says_nothing_of_others():
    found = bootstrap.difference(scored([1.0] * 400), scored([0.0] * 400), draw_items(400))
    assert (found.value, found.over_seeds, bootstrap.outcome(found)) == (1.0, False, "not told apart")


def test_the_same_outcomes_differ_by_nothing():
    one = scored([1, 0, 1, 1], [0, 0, 1, 1])
    assert bootstrap.difference(one, one, draw_items(4)) == Interval(0.0, 0.0, 0.0)
    assert bootstrap.outcome(Interval(0.0, 0.0, 0.0)) == "the same"


def rights(*counts, items=200):
    """Seeds that are right on so many of the items, whichever comes first: items alike for all that a draw tells."""
    return scored(*([1.0] * count + [0.0] * (items - count) for count in counts))


def test_seeds_that_disagree_widen_the_interval_by_students_t():
    """Three seeds 0, 20 and 10 points behind another method: −10 ± 4.303 · 10 / √3; of 10,000 items there is hardly any chance beside."""
    items = 10_000
    found = bootstrap.difference(
        rights(items, 8_000, 9_000, items=items), rights(items, items, items, items=items), draw_items(items, resamples=100)
    )
    half = 4.3027 * 0.1 / math.sqrt(3)
    assert (found.value, found.low, found.high) == pytest.approx((-0.1, -0.1 - half, -0.1 + half), abs=2e-4)
    assert bootstrap.outcome(found) == "not told apart"


def test_an_interval_ends_where_scores_do():
    found = bootstrap.interval(rights(200, 0), draw_items(200))
    assert (found.value, found.low, found.high) == (0.5, 0.0, 1.0)
    assert bootstrap.interval(rights(200, 200), draw_items(200)) == Interval(1.0, 1.0, 1.0)


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("spread", [0.0, 0.1])
def test_two_equal_methods_are_told_apart_in_no_more_than_one_run_of_twenty(seeds, spread):
    """400 runs of 300 items, right at 0.7 and by seed `spread` more or less: at 5%, 28 at most in 49 of 50 trials. Drawn seeds: 85."""
    draw, draws, told = numpy.random.default_rng(seeds), draw_items(300, resamples=400), 0
    for _ in range(400):
        chance = 0.7 + spread * draw.standard_normal((2, seeds, 1))
        pair = [Scored((draw.random((seeds, 300)) < one).astype(float)) for one in chance]
        told += bootstrap.outcome(bootstrap.difference(*pair, draws)) in ("better", "worse")
    assert told <= 28


def test_the_draws_are_the_same_every_time():
    first, second = draw_items(10), draw_items(10)
    assert (first == second).all() and (first.sum(1) == 10).all()


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (0.001, 0.02, "better"),
        (-0.004, 0.003, "the same"),
        (-0.004, 0.02, "not worse"),
        (-0.004, -0.001, "the same"),
        (-0.03, -0.001, "worse"),
        (-0.03, 0.02, "not told apart"),
        (-0.005, 0.003, "not told apart"),
        (0.0, 0.02, "not worse"),
    ],
)
def test_what_is_said_is_what_the_interval_allows(low, high, wanted):
    assert bootstrap.outcome(Interval((low + high) / 2, low, high)) == wanted
