import numpy
import pytest

from refta_profiler.task import bootstrap
from refta_profiler.task.bootstrap import Draws, Interval, Scored


def scored(*rows, truth=None):
    return Scored(numpy.array(rows, dtype=float), None if truth is None else numpy.array(truth, dtype=float))


def test_a_score_is_the_mean_over_seeds_and_items():
    assert bootstrap.score(scored([1, 0], [1, 1])) == 0.75


def test_replicates_by_hand():
    """Seed 0 twice and seed 1 not at all; item 0 once, item 1 twice: (1 + 0 + 0) / 3."""
    draws = Draws(numpy.array([[2.0, 0.0]]), numpy.array([[1.0, 2.0]]))
    assert bootstrap.replicates(scored([1, 0], [1, 1]), draws) == pytest.approx([1 / 3])


def test_both_seeds_and_items_are_drawn():
    """Seeds 0 and 1 once, item 0 alone: mean of the two seeds' outcomes on it."""
    draws = Draws(numpy.array([[1.0, 1.0]]), numpy.array([[2.0, 0.0]]))
    assert bootstrap.replicates(scored([1, 0], [0, 1]), draws) == pytest.approx([0.5])


def test_correlation_is_numpys():
    predictions, truth = [[0.1, 0.9, 0.4, 0.3], [0.5, 0.2, 0.8, 0.9]], [1.0, 4.0, 2.0, 3.0]
    wanted = numpy.mean([numpy.corrcoef(row, truth)[0, 1] for row in predictions])
    assert bootstrap.score(scored(*predictions, truth=truth)) == pytest.approx(wanted)


def test_correlation_in_a_replicate_is_that_of_the_drawn_items():
    truth, row = [1.0, 4.0, 2.0], [0.1, 0.9, 0.5]
    draws = Draws(numpy.array([[1.0]]), numpy.array([[2.0, 1.0, 1.0]]))
    wanted = numpy.corrcoef([0.1, 0.1, 0.9, 0.5], [1.0, 1.0, 4.0, 2.0])[0, 1]
    assert bootstrap.replicates(scored(row, truth=truth), draws) == pytest.approx([wanted])


def test_predictions_that_do_not_vary_correlate_with_nothing():
    assert bootstrap.score(scored([2.0, 2.0, 2.0], truth=[1.0, 2.0, 3.0])) == 0.0


def test_the_interval_of_one_seed_is_the_binomial_one():
    """300 of 400 right: 0.75 ± 1.96 · √(0.75 · 0.25 / 400) = 0.7076 to 0.7924."""
    found = bootstrap.interval(scored([1.0] * 300 + [0.0] * 100), Draws.of(1, 400))
    assert (found.low, found.high) == pytest.approx((0.7076, 0.7924), abs=0.006)


def test_a_paired_difference_is_narrower_than_the_scores():
    """Two methods that differ in 8 of 400 items: ± 1.96 · √(0.02 · 0.98 / 400), a third of either score's interval."""
    base = [1.0] * 300 + [0.0] * 100
    found = bootstrap.difference(scored([1.0] * 308 + [0.0] * 92), scored(base), Draws.of(1, 400))
    assert found.value == pytest.approx(0.02)
    assert (found.low, found.high) == pytest.approx((0.02 - 0.0137, 0.02 + 0.0137), abs=0.004)
    assert bootstrap.outcome(found) == "better"


def test_the_same_outcomes_differ_by_nothing():
    one = scored([1, 0, 1, 1], [0, 0, 1, 1])
    assert bootstrap.difference(one, one, Draws.of(2, 4)) == Interval(0.0, 0.0, 0.0)
    assert bootstrap.outcome(Interval(0.0, 0.0, 0.0)) == "the same"


def test_seeds_that_disagree_widen_the_interval():
    items = numpy.ones(200)
    alike, unlike = scored(items, items), scored(items, 0 * items)
    draws = Draws.of(2, 200)
    assert bootstrap.interval(alike, draws) == Interval(1.0, 1.0, 1.0)
    assert (bootstrap.interval(unlike, draws).low, bootstrap.interval(unlike, draws).high) == (0.0, 1.0)


def test_the_draws_are_the_same_every_time():
    first, second = Draws.of(3, 10), Draws.of(3, 10)
    assert (first.items == second.items).all() and (first.seeds == second.seeds).all()
    assert (first.items.sum(1) == 10).all() and (first.seeds.sum(1) == 3).all()


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
