"""The largest whole number whose peak fits, in few looks: a line through the two nearest ones says where to look next. No torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

LINES_TRUSTED = 8  # looks after which halving takes over from lines


@dataclass
class Search:
    """Looks at `peak` for whole numbers from 1 to `last`; `peaks` are those that were seen."""

    peak: Callable[[int], int]
    budget: int
    last: int
    peaks: dict[int, int] = field(default_factory=dict)

    def run(self, start: int) -> int:
        """The largest that fits, seen with the next one that does not (unless it is `last`); 0 where 1 does not fit."""
        low, high = 0, self.last + 1
        look = min(start, self.last)
        while high - low > 1:
            if self._seen(look) <= self.budget:
                low = look
            else:
                high = look
            look = self._next(low, high)
        return low

    def _seen(self, number: int) -> int:
        if number not in self.peaks:
            self.peaks[number] = self.peak(number)
        return self.peaks[number]

    def _next(self, low: int, high: int) -> int:
        """Where the line through the two looks nearest to the edge meets the budget, inside the bracket; twice as far while all fit."""
        nearest = sorted(self.peaks, key=lambda number: (min(abs(number - low), abs(number - high)), number))[:2]
        if len(nearest) < 2 or len(self.peaks) > LINES_TRUSTED:
            return low * 4 if high > self.last and low * 4 <= self.last and len(self.peaks) < LINES_TRUSTED else (low + high) // 2
        one, other = nearest
        slope = (self.peaks[other] - self.peaks[one]) / (other - one)
        meets = one + (self.budget - self.peaks[one]) / slope if slope > 0 else high
        inside = min(max(int(meets), low), high - 1)
        return inside + 1 if inside == low else inside
