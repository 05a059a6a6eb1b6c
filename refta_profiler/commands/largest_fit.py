"""The largest whole number whose peak fits, in few looks: a line through the two nearest ones says where to look next. No torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

LINES_TRUSTED = 8  # looks after which halving takes over from lines


@dataclass
class Search:
    """Looks at `peak` for whole numbers from 1 to `last`; `peaks` are those that were seen, None for a number that cannot be had."""

    peak: Callable[[int], int | None]
    budget: int
    last: int
    peaks: dict[int, int | None] = field(default_factory=dict)

    def run(self, start: int) -> int:
        """The largest that fits, seen with the next one that does not (unless it is `last`); 0 where 1 does not fit."""
        low, high = 0, self.last + 1
        look = min(start, self.last)
        while high - low > 1:
            peak = self._seen(look)
            if peak is not None and peak <= self.budget:
                low = look
            else:
                high = look
            look = self._next(low, high)
        return low

    def _seen(self, number: int) -> int | None:
        if number not in self.peaks:
            self.peaks[number] = self.peak(number)
        return self.peaks[number]

    def _next(self, low: int, high: int) -> int:
        """Where the line through the two looks nearest to the edge meets the budget, inside the bracket; twice as far while all fit.

        Below a number that cannot be had there is no line to follow: 1 first, to see whether any can, then halves.
        """
        if self.peaks.get(high, 0) is None:
            return (low + high) // 2 if low else 1
        peaks = {number: peak for number, peak in self.peaks.items() if peak is not None}
        nearest = sorted(peaks, key=lambda number: (min(abs(number - low), abs(number - high)), number))[:2]
        if len(nearest) < 2 or len(self.peaks) > LINES_TRUSTED:
            return low * 4 if high > self.last and low * 4 <= self.last and len(self.peaks) < LINES_TRUSTED else (low + high) // 2
        one, other = nearest
        slope = (peaks[other] - peaks[one]) / (other - one)
        meets = one + (self.budget - peaks[one]) / slope if slope > 0 else high
        inside = min(max(int(meets), low), high - 1)
        return inside + 1 if inside == low else inside
