"""The two searches that dry runs are saved by, and the causes of a difference: on functions, without any dry run."""

import pytest

from refta_profiler import causes
from refta_profiler.commands import peak_lines
from refta_profiler.commands.largest_fit import Search
from refta_profiler.commands.peak_lines import LAST, PeakLines


@pytest.mark.parametrize(
    ("peak", "budget", "last", "expected"),
    [
        (lambda n: 1_300 + 220 * n, 24_000, 65_536, 103),
        (lambda n: 1_300 + 220 * n + n * 7919 % 97, 24_000, 65_536, None),  # as uneven as an allocator
        (lambda n: 10 + n * n, 1_000_000, 100_000, 999),
        (lambda n: 5, 10, 512, 512),
        (lambda n: 50, 10, 512, 0),
    ],
)
def test_the_largest_that_fits_was_seen_and_so_was_the_next(peak, budget, last, expected):
    looking = Search(peak, budget, last)
    found = looking.run(16)
    assert expected is None or found == expected
    assert found == 0 or looking.peaks[found] <= budget
    assert found == last or looking.peaks[found + 1] > budget


@pytest.mark.parametrize(("beyond", "expected"), [(300, 300), (7, 7), (0, 0)])
def test_what_cannot_be_had_is_a_limit(beyond, expected):
    """A model of so many positions, of which nothing said how many they are."""
    looking = Search(lambda n: None if n > beyond else n, 10**9, 1 << 20)
    assert looking.run(128) == expected
    assert expected + 1 in looking.peaks and len(looking.peaks) < 30


def test_a_straight_peak_needs_few_looks():
    looking = Search(lambda n: 1_300_000 + 220_000 * n, 24_000_000, 65_536)
    looking.run(16)
    assert len(looking.peaks) <= 6


def test_lines_follow_a_peak_with_a_kink():
    def peak(batch):
        return max(1_000_000 + 100_000 * batch, 400_000 + 150_000 * batch)

    lines = PeakLines()
    while wanted := lines.wanted():
        lines.peaks |= {batch: peak(batch) for batch in wanted}
    assert len(lines.peaks) <= peak_lines.MOST + 4
    assert all(abs(lines.at(batch) - peak(batch)) <= 0.02 * peak(batch) for batch in range(1, LAST + 1))


def test_the_largest_for_which_it_holds():
    assert peak_lines.largest(lambda one: one <= 37, LAST) == 37
    assert peak_lines.largest(lambda one: True, LAST) == LAST
    assert peak_lines.largest(lambda one: False, LAST) == 0


def test_causes_sum_to_the_difference_whatever_is_known():
    first, second = {"whole": 100, "a": 60, "b": 40}, {"whole": 130, "a": 80, "b": 30, "c": 5}
    found = causes.causes(first, second, "whole", {"a": "A", "b": "B", "c": "C"})
    assert [(one.name, one.difference) for one in found] == [("A", 20), ("B", -10), (causes.REST, 20)]
    assert sum(one.difference for one in found) == 30
