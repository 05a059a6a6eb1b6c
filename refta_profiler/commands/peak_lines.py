"""A peak as a function of the batch from few dry runs. No torch.

A peak is a maximum of lines in the batch, but for what the caching allocator rounds up, which makes it uneven by up to a few
per cent: lines through some dry runs say about where two peaks cross, and dry runs there say exactly where.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

LAST = 1024  # the largest batch that is tried
FIRST_TRIED = (1, 32, LAST)
ALIKE = 0.01  # of a peak: how near a dry run must be to the line for the line to be believed
MOST = 9  # dry runs on one line, if it is never believed


@dataclass
class PeakLines:
    """Peaks by batch, and between two known batches the straight line."""

    peaks: dict[int, int] = field(default_factory=dict)
    settled: set[tuple[int, int]] = field(default_factory=set)

    def wanted(self) -> list[int]:
        """The batches to be known next: the first ones, then the middle of every gap that has not been seen to be straight."""
        if first := [batch for batch in FIRST_TRIED if batch not in self.peaks]:
            return first
        batches = sorted(self.peaks)
        for left, middle, right in zip(batches, batches[1:], batches[2:], strict=False):
            if abs(self.line(left, right, middle) - self.peaks[middle]) <= ALIKE * self.peaks[middle]:
                self.settled |= {(left, middle), (middle, right)}
        gaps = [gap for gap in pairwise(batches) if gap not in self.settled and gap[1] - gap[0] > 1]
        return [middle_of(*gap) for gap in gaps] if len(batches) < MOST else []

    def line(self, left: int, right: int, batch: int) -> float:
        """The straight line through two known batches, at a third."""
        return self.peaks[left] + (self.peaks[right] - self.peaks[left]) * (batch - left) / (right - left)

    def at(self, batch: int) -> float:
        """The peak at a batch up to LAST, known or on the line between the known ones beside it."""
        if batch in self.peaks:
            return self.peaks[batch]
        return self.line(max(one for one in self.peaks if one < batch), min(one for one in self.peaks if one > batch), batch)


def middle_of(left: int, right: int) -> int:
    """The batch between two in proportion: 5 for 1 and 32, and never one of the two."""
    return min(max(int((left * right) ** 0.5), left + 1), right - 1)


def largest(fits: Callable[[int], bool], last: int) -> int:
    """The largest whole number up to `last` for which it holds, taken to hold below one for which it does; 0 where it never does."""
    low, high = 0, last + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def edges(batch: int) -> list[int]:
    """The batches that a statement "up to this one" stands on."""
    return [one for one in (batch, batch + 1) if 1 <= one <= LAST]
