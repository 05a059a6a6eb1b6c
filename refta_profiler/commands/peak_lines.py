"""A peak as a function of the batch from few dry runs: it is a maximum of straight lines, so two points a piece give all of it. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

LAST = 4096  # the largest batch that is tried
ALIKE = 1e-3  # of a peak: what the rounding of many allocations to 512 bytes may amount to


@dataclass
class PeakLines:
    """Peaks by batch; between two known batches the straight line, which lies above a maximum of lines and meets it at both ends."""

    peaks: dict[int, int] = field(default_factory=dict)

    def wanted(self) -> list[int]:
        """The batches to be known next; none once every gap lies on the line of a neighbouring piece.

        The pieces at both ends come first, then the batches where the pieces beside a gap would meet.
        """
        ends = [batch for batch in (1, 2, LAST - 1, LAST) if batch not in self.peaks]
        if ends:
            return ends
        batches = sorted(self.peaks)
        found = []
        for place in range(1, len(batches) - 2):
            found += self._inside(*batches[place - 1 : place + 3])
        return [batch for batch in dict.fromkeys(found) if batch not in self.peaks]

    def _inside(self, before: int, left: int, right: int, after: int) -> list[int]:
        """Where the line before a gap meets the line after it; nothing where one of the two goes through the gap."""
        if right - left < 2 or self._goes_on(before, left, right) or self._goes_on(right, after, left):
            return []
        slope, other = self._slope(before, left), self._slope(right, after)
        if other <= slope:
            return [(left + right) // 2]
        meet = (self.peaks[left] - self.peaks[right] + other * right - slope * left) / (other - slope)
        first = min(max(int(meet), left), right - 1)
        return [first, first + 1]

    def _slope(self, one: int, other: int) -> float:
        return (self.peaks[other] - self.peaks[one]) / (other - one)

    def _goes_on(self, one: int, other: int, beyond: int) -> bool:
        drawn = self.peaks[one] + self._slope(one, other) * (beyond - one)
        return abs(drawn - self.peaks[beyond]) <= ALIKE * self.peaks[beyond]

    def at(self, batch: int) -> float:
        """The peak at a batch, known or on the straight line between the known ones beside it."""
        if batch in self.peaks:
            return self.peaks[batch]
        left = max(one for one in self.peaks if one < batch)
        right = min(one for one in self.peaks if one > batch)
        return self.peaks[left] + self._slope(left, right) * (batch - left)


def largest_run(holds: Callable[[int], bool], start: int) -> int:
    """The last batch of the run of batches from `start` on for which it holds; 0 where it does not hold there, LAST where it has no end."""
    if not holds(start):
        return 0
    return next((batch - 1 for batch in range(start + 1, LAST + 1) if not holds(batch)), LAST)


def edges(batch: int) -> Iterable[int]:
    """The batches that a statement "up to this one" stands on."""
    return [one for one in (batch, batch + 1) if 1 <= one <= LAST]
