"""What may be said of step times that vary: percentiles, intervals, and the noise floor below which two cannot be told apart. No torch.

Every point is timed in several processes that take turns (round 1 of all points, round 2 of all points, …). A process's figure is its
median step; what is left of those figures once each point has its own level and each round its own (the machine drifts for all alike) is
noise: the analysis of variance of a randomised block design (Box, Hunter and Hunter, Statistics for Experimenters, chapter 4).

What is compared is `level`, the mean of the logarithms of these figures: of two points timed in the same rounds the drift cancels in it,
as it does not in a median of all steps, which is some one round's. Points share one noise where their steps vary alike. A method whose
steps vary more has its own, and so two quiet methods are not told to be as noisy as a third, nor noisy ones as quiet as the rest: with one
noise for all, two equal methods of which one or both are ten times noisier than the rest are told apart up to one time in four.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, TypeVar

import numpy

Answer = TypeVar("Answer", bound=Mapping[str, Any])

RESAMPLES = 2000
LEVEL = 0.95
OWN_CODE = "refta_profiler"  # among an answer's versions
FEW = 3  # degrees of freedom, below which the noise of a setting is taken from all
STEPS = 5  # of a process, from which on they say how much the steps of its point vary
HUGE = 50.0  # of a logarithm: more than any two times differ by, less than a number holds
STRICT = 0.99  # the level at which steps vary unlike each other: one that is wrong costs degrees of freedom


def percentile(ordered: Sequence[float], fraction: float) -> float:
    """By linear interpolation; the median of [1, 2, 4] is 2, its 0.9 percentile 3.6."""
    place = fraction * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def interval_of_median(samples: Sequence[float]) -> tuple[float, float]:
    """The 95% interval of the median of one process's samples, by a bootstrap; it says nothing of other processes.

    The draws are the same every time (seed 0), so that one set of samples has one interval. A single sample is its own interval.
    """
    known = numpy.asarray(samples, dtype=float)
    medians = numpy.median(known[numpy.random.default_rng(0).integers(len(known), size=(RESAMPLES, len(known)))], axis=1)
    low, high = numpy.quantile(medians, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def level(figures: Iterable[float]) -> float:
    """The mean of the logarithms of the processes' figures: ln 2 of 1 and 4."""
    return statistics.fmean(math.log(one) for one in figures)


def interval_of_level(figures: Sequence[float]) -> tuple[float, float]:
    """The 95% interval of exp(level) by Student's t over two processes or more: few make it wide. Of 1 and e², e times e^∓12.706."""
    _, low, high = interval_of_mean([math.log(one) for one in figures]) or (math.nan,) * 3
    return math.exp(low), math.exp(high)


@dataclass(frozen=True)
class Noise:
    """How much one process's median step varies: `spread`, the standard deviation of its logarithm, from `degrees` degrees of freedom.

    `words`: what is to be said of where it is from.
    """

    spread: float
    degrees: int
    words: str = field(default="", compare=False)

    def floor(self, first: int, second: int, *, comparisons: int = 1, share: float = LEVEL) -> float:
        """The fraction below which two points timed in `first` and `second` processes are not told apart at `share`.

        `comparisons` of them made together are all right at that (Bonferroni). A spread of 0.01 from 10 degrees, 3 processes each: 1.84%.
        """
        size = student(1 - (1 - share) / comparisons, self.degrees) * self.spread * math.sqrt(1 / first + 1 / second)
        return math.expm1(min(size, HUGE))


def noise(medians: Mapping[str, Mapping[int, float]]) -> Noise | None:
    """The noise of points timed under one setting, from each point's medians by round; None where nothing was timed twice.

    A point that is alone has no others to share a round's drift with: all that it varies is noise. Rounds may lack points.
    """
    cells = [(point, number, math.log(value)) for point, rounds in medians.items() for number, value in rounds.items()]
    points, rounds = sorted({cell[0] for cell in cells}), sorted({cell[1] for cell in cells})
    design = numpy.zeros((len(cells), len(points) + (len(rounds) if len(points) > 1 else 0)))
    for index, (point, number, _) in enumerate(cells):
        design[index, points.index(point)] = 1
        if len(points) > 1:
            design[index, len(points) + rounds.index(number)] = 1
    degrees = len(cells) - int(numpy.linalg.matrix_rank(design)) if cells else 0
    if degrees < 1:
        return None
    values = numpy.array([cell[2] for cell in cells])
    fitted = design @ numpy.linalg.lstsq(design, values, rcond=None)[0]
    return Noise(math.sqrt(float(((values - fitted) ** 2).sum()) / degrees), degrees)


@dataclass(frozen=True)
class Timed:
    """A point's times by round: seconds of each process's median step, and the mean distance of its steps from it in logarithms.

    Of processes with fewer than STEPS steps, or whose steps are all equal, no distance is known.
    """

    medians: Mapping[int, float]
    distances: Mapping[int, float] = field(default_factory=dict)


def timed(answers: Mapping[int, Mapping[str, Any]]) -> Timed:
    """The times of a point's measuring processes, by their number, that are from the first one's device; steps are seconds by phase."""
    steps = {number: [sum(sample.values()) for sample in one["samples"]] for number, one in alike(answers).items() if one.get("samples")}
    middles = {number: statistics.median(found) for number, found in steps.items()}
    far = {
        number: statistics.fmean(abs(math.log(one / middles[number])) for one in found)
        for number, found in steps.items()
        if len(found) >= STEPS
    }
    return Timed(middles, {number: one for number, one in far.items() if one})


def noise_of_points(runs: Sequence[Mapping[Any, Timed]], settings: Mapping[Any, Hashable]) -> dict[Any, Noise | None]:
    """The noise of every point over the runs that it was timed in; `settings` says what each is compared under. None where unknown.

    Points of a setting whose steps vary alike share theirs. A setting that is not so divided, and that alone has fewer than FEW degrees of
    freedom, takes that of all settings.
    """
    members: dict[Hashable, list[Any]] = {}
    for point, setting in settings.items():
        members.setdefault(setting, []).append(point)
    whole = {setting: pooled([one for run in runs if (one := noise(medians_of(run, points)))]) for setting, points in members.items()}
    everywhere = pooled([one for one in whole.values() if one])
    found: dict[Any, Noise | None] = {}
    for setting, points in members.items():
        groups = like_steps(runs, points)
        own = whole[setting]
        shared = own if own and own.degrees >= FEW else everywhere
        for group in groups:
            other = next((other for other in groups if other is not group), [])
            found |= dict.fromkeys(group, noise_of_group(runs, group, other) if other else shared)
        found |= incomplete(runs, points)
    return found


def medians_of(run: Mapping[Any, Timed], points: Iterable[Any]) -> dict[str, Mapping[int, float]]:
    """The medians by round of those points that the run timed."""
    return {str(point): run[point].medians for point in points if point in run}


def like_steps(runs: Sequence[Mapping[Any, Timed]], points: Sequence[Any]) -> list[list[Any]]:
    """The points in groups whose steps vary alike, the quietest first; all in one where too little is known, or where there are two.

    A point is of a group where the distances of its steps are not told from those of the group's quietest. They are judged as times are, a
    figure a process, so that a burst of noise in one of them is one figure and not ten. Distances within processes know nothing of how
    processes differ: the noise of a group chosen by them is as good as any. Two points need no groups: how their ratio varies from round to
    round is all there is to know.
    """
    found = {point: [one for run in runs if point in run for one in run[point].distances.values()] for point in points}
    by_run = [noise({str(point): run[point].distances for point in points if point in run}) for run in runs]
    spread = pooled([one for one in by_run if one])
    if len(points) < 3 or spread is None or not all(found.values()):
        return [list(points)]
    ordered = sorted(points, key=lambda point: level(found[point]))
    groups = [[ordered[0]]]
    for point in ordered[1:]:
        least = groups[-1][0]
        if level(found[point]) - level(found[least]) > math.log1p(spread.floor(len(found[point]), len(found[least]), share=STRICT)):
            groups.append([point])
        else:
            groups[-1].append(point)
    return groups


def noise_of_group(runs: Sequence[Mapping[Any, Timed]], group: Sequence[Any], other: Sequence[Any]) -> Noise | None:
    """The noise of the points of a group; of one that is alone, of its ratio to the mean of another group, which drifts as it does."""
    found = []
    for run in runs:
        medians = medians_of(run, group)
        if len(medians) == 1:
            ((name, rounds),) = medians.items()
            others = list(medians_of(run, other).values())
            shared = [number for number in rounds if all(number in one for one in others)]
            medians = {name: {number: rounds[number] / math.exp(level(one[number] for one in others)) for number in shared}}
        found.append(noise(medians))
    whose = "its processes alone" if len(group) == 1 else f"the {len(group)} methods whose steps vary alike"
    together = pooled([one for one in found if one])
    return together and replace(together, words=f"of {whose}, since the steps of others vary more or less")


def incomplete(runs: Sequence[Mapping[Any, Timed]], points: Sequence[Any]) -> dict[Any, Noise | None]:
    """The noise of points of one setting that lack a round which others have: drift does not cancel, so it is noise for them."""
    rounds = [{number for point in points if point in run for number in run[point].medians} for run in runs]
    whole = list(zip(runs, rounds, strict=True))
    lacking = [point for point in points if any(set(run[point].medians) != numbers for run, numbers in whole if point in run)]
    alone = pooled([one for run in runs for point in points if point in run and (one := noise({"": run[point].medians}))])
    degrees = sum(max(len(numbers) - 1, 0) for numbers in rounds)
    drifting = Noise(alone.spread, degrees, "with the machine's drift, since a round is lacking that others have") if alone else None
    return dict.fromkeys(lacking, drifting)


def make(answer: Mapping[str, Any]) -> dict[str, str]:
    """What an answer's figures depend on, as far as it says it: {device, python, torch, …}. Our own code's state is not in it."""
    where = answer.get("where", {})
    told = {"device": where.get("device"), **where.get("versions", {})}
    return {name: one for name, one in told.items() if one and name != OWN_CODE}


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two makes, or what two processes were asked, are the same in all that both say."""
    return all(one[name] == other[name] for name in one.keys() & other.keys())


def alike(answers: Mapping[int, Answer]) -> dict[int, Answer]:
    """Of a point's answers those that are from the first one's device and versions, where both say them: no figure is of two."""
    makes = {number: make(one) for number, one in sorted(answers.items())}
    first = next(iter(makes.values()), {})
    return {number: one for number, one in answers.items() if same(first, makes[number])}


def floor_of_two(first: float, second: float, difference: float) -> float:
    """What two points whose own floors are these fractions are not told apart below, a fraction in the direction of their difference.

    In logarithms the root of the mean of both squares: never less than Cochran and Cox's test of two means of unlike variance allows, and
    the floor itself where both are the same. Of 10% and 10%: 10% where the difference is more, 9.09% where it is less.
    """
    together = math.sqrt((math.log1p(first) ** 2 + math.log1p(second) ** 2) / 2)
    return math.expm1(together) if difference >= 0 else -math.expm1(-together)


def interval_of_mean(values: Sequence[float]) -> tuple[float, float, float] | None:
    """The mean and the ends of its 95% interval by Student's t, NaN of a single value; None of none.

    (1, 3) has 2 and 2 ± 12.706.
    """
    if not values:
        return None
    middle = statistics.fmean(values)
    if len(values) == 1:
        return middle, math.nan, math.nan
    half = student(LEVEL, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return middle, middle - half, middle + half


def pooled(found: Sequence[Noise]) -> Noise | None:
    """One noise of several of the same kind, weighted by their degrees of freedom; None of none."""
    degrees = sum(one.degrees for one in found)
    return Noise(math.sqrt(sum(one.degrees * one.spread**2 for one in found) / degrees), degrees) if degrees else None


@lru_cache
def student(share: float, degrees: int) -> float:
    """The t below which, in size, `share` of Student's distribution lies: 2.2281 for 0.95 and 10 degrees, 12.706 for 1.

    By bisection of the distribution's finite series for whole degrees (Abramowitz and Stegun, 26.7.3 and 26.7.4).
    """
    low, high = 0.0, 1.0
    while within(high, degrees) < share:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle, degrees) < share else (low, middle)
    return (low + high) / 2


def within(t: float, degrees: int) -> float:
    """The share of Student's distribution between −t and t: 0.5 at t = 1 with one degree of freedom."""
    angle = math.atan(t / math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    term = total = 1.0 if degrees % 2 == 0 else cosine
    for step in range(2 + degrees % 2, degrees - 1, 2):
        term *= cosine**2 * (step - 1) / step
        total += term
    if degrees % 2 == 0:
        return sine * total
    return 2 / math.pi * (angle + (sine * total if degrees > 1 else 0.0))
