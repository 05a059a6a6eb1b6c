"""The same points timed in two runs: is anything faster or slower, beyond what the machine does by itself? From the runs' raw samples.

Two runs are never at the same time, so a machine that drifts makes the whole second run slower or faster. That common part is told apart
from what one point differs by: each point is held against the middle of all, and the whole against how much the rounds of one run differ.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from refta_profiler.evidence import setting_of
from refta_profiler.results import Row
from refta_profiler.run_folder import RunFolder
from refta_profiler.statistics import LEVEL, Noise, Timed, level, noise_of_points, student, timed

FEWEST = 3  # points, from which on the middle of all says what the machine did
MIDDLE = math.pi / 2  # variance of a median of many against that of their mean (normal distribution)


@dataclass(frozen=True)
class Repeat:
    """One point in two runs: its fractions are of the first run, `relative` with the whole run's drift taken off.

    `floor_fraction` is what chance alone does to one of so many points at 95%; None where that cannot be told.
    """

    place: tuple
    fraction: float
    relative_fraction: float
    floor_fraction: float | None

    @property
    def outcome(self) -> str:
        """'same', 'slower' or 'faster'; 'unknown' where no point was timed in two processes."""
        if self.floor_fraction is None:
            return "unknown"
        if abs(math.log1p(self.relative_fraction)) <= math.log1p(self.floor_fraction):
            return "same"
        return "slower" if self.relative_fraction > 0 else "faster"


@dataclass(frozen=True)
class Repeats:
    """All points of two runs. `drift_fraction`: the whole second run against the first, which is chance below `drift_floor_fraction`."""

    points: list[Repeat]
    drift_fraction: float
    drift_floor_fraction: float | None
    processes: tuple[int, int]  # least of a point, in the first run and in the second

    @property
    def drifted(self) -> bool:
        """Whether the second run as a whole differs by more than its rounds do among themselves."""
        floor = self.drift_floor_fraction
        return floor is not None and abs(math.log1p(self.drift_fraction)) > math.log1p(floor)


def repeats(first: RunFolder, second: RunFolder, places: Mapping[tuple, tuple[Row, Row]]) -> Repeats | None:
    """The points at those places (each with its step_seconds row of both runs), as their processes timed them; None where none was kept."""
    pairs = {place: (timed(first.processes(one.point)), timed(second.processes(other.point))) for place, (one, other) in places.items()}
    pairs = {place: pair for place, pair in pairs.items() if all(one.medians for one in pair)}
    if not pairs:
        return None
    settings = {place: (setting_of(places[place][0]), places[place][0].target) for place in pairs}
    found = {place: level(other.medians.values()) - level(one.medians.values()) for place, (one, other) in pairs.items()}
    middle = statistics.median(found.values()) if len(found) >= FEWEST else 0.0
    runs = [{place: pair[run] for place, pair in pairs.items()} for run in (0, 1)]
    noises = noise_of_points(runs, settings)
    points = [
        Repeat(place, math.expm1(difference), math.expm1(difference - middle), floor(noises[place], pairs[place], len(found)))
        for place, difference in found.items()
    ]
    least = tuple(min(len(pair[run].medians) for pair in pairs.values()) for run in (0, 1))
    drift_floor = drift_of(runs)
    return Repeats(points, math.expm1(middle), drift_floor if len(found) >= FEWEST else None, (least[0], least[1]))


def floor(found: Noise | None, pair: tuple[Timed, Timed], count: int) -> float | None:
    """What chance does to one of `count` points at 95%, all together (Bonferroni), the middle of all being itself uncertain."""
    if found is None:
        return None
    wider = math.sqrt(1 + MIDDLE / count) if count >= FEWEST else 1.0
    return math.expm1(wider * math.log1p(found.floor(len(pair[0].medians), len(pair[1].medians), comparisons=count)))


def drift_of(runs: Sequence[Mapping[tuple, Timed]]) -> float | None:
    """What two runs as a whole differ by if the machine does between them what it does between rounds; None with one round."""
    squares, degrees, share = 0.0, 0, 0.0
    for run in runs:
        rounds = [level_of_round(run, number) for number in sorted(set.intersection(*(set(found.medians) for found in run.values())))]
        if len(rounds) < 2:
            return None
        squares += sum((one - statistics.fmean(rounds)) ** 2 for one in rounds)
        degrees += len(rounds) - 1
        share += 1 / len(rounds)
    return math.expm1(student(LEVEL, degrees) * math.sqrt(squares / degrees * share))


def level_of_round(run: Mapping[tuple, Timed], number: int) -> float:
    """The mean of the logarithms of all points' medians in one round."""
    return level(found.medians[number] for found in run.values())
