"""What may be said of step times that vary: percentiles, intervals, and the noise floor below which two cannot be told apart. No torch.

Every point is timed in several processes that take turns (round 1 of all points, round 2 of all points, …). A process's figure is its
median step; what is left of those figures once each point has its own level and each round its own (the machine drifts for all alike) is
noise: the analysis of variance of a randomised block design (Box, Hunter and Hunter, Statistics for Experimenters, chapter 4).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy

Answer = TypeVar("Answer", bound=Mapping[str, Any])

RESAMPLES = 2000
LEVEL = 0.95
FEW = 3  # degrees of freedom, below which the noise of a setting is taken from all


def percentile(ordered: Sequence[float], fraction: float) -> float:
    """By linear interpolation; the median of [1, 2, 4] is 2, its 0.9 percentile 3.6."""
    place = fraction * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def interval_of_median(processes: Sequence[Sequence[float]]) -> tuple[float, float]:
    """The 95% interval of the median of all samples, by a bootstrap in two stages: processes are drawn, then steps of each.

    The draws are the same every time (seed 0), so that one set of samples has one interval. A single sample is its own interval.
    """
    samples = [numpy.asarray(one, dtype=float) for one in processes if len(one)]
    medians = drawn_medians(numpy.stack(samples)) if len({len(one) for one in samples}) == 1 else unequal_medians(samples)
    low, high = numpy.quantile(medians, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def unequal_medians(samples: Sequence[numpy.ndarray]) -> list[float]:
    """The medians of RESAMPLES draws of processes with unlike numbers of steps, one draw after the other."""
    draw, medians = numpy.random.default_rng(0), []
    for _ in range(RESAMPLES):
        chosen = [samples[index] for index in draw.integers(len(samples), size=len(samples))]
        medians.append(float(numpy.median(numpy.concatenate([one[draw.integers(len(one), size=len(one))] for one in chosen]))))
    return medians


def drawn_medians(samples: numpy.ndarray) -> numpy.ndarray:
    """The same medians of samples (processes, steps), all drawn at once: of thousands of points these draws are the driver's work."""
    processes, steps = samples.shape
    bounds = [processes] * processes + [steps] * (processes * steps)
    drawn = numpy.random.default_rng(0).integers(numpy.tile(bounds, (RESAMPLES, 1)))
    chosen, places = drawn[:, :processes, None], drawn[:, processes:].reshape(RESAMPLES, processes, steps)
    return numpy.median(samples[chosen, places].reshape(RESAMPLES, -1), axis=1)


@dataclass(frozen=True)
class Noise:
    """How much one process's median step varies: `spread`, the standard deviation of its logarithm, from `degrees` degrees of freedom."""

    spread: float
    degrees: int

    def floor(self, first: int, second: int, *, comparisons: int = 1) -> float:
        """The fraction below which two points timed in `first` and `second` processes are not told apart at 95%.

        `comparisons` of them made together are all right at 95% (Bonferroni). A spread of 0.01 from 10 degrees, 3 processes each: 1.84%.
        """
        share = 1 - (1 - LEVEL) / comparisons
        return math.expm1(student(share, self.degrees) * self.spread * math.sqrt(1 / first + 1 / second))


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


def noise_by_setting(runs: Sequence[Mapping[Any, Mapping[int, float]]], settings: Mapping[Any, Hashable]) -> dict[Hashable, Noise | None]:
    """The noise of every setting over the runs, each of which has medians by point and round; `settings` says which one a point is of.

    A setting that alone has fewer than FEW degrees of freedom takes that of all settings.
    """
    own: dict[Hashable, list[Noise]] = {setting: [] for setting in settings.values()}
    for run in runs:
        members: dict[Hashable, dict[str, Mapping[int, float]]] = {}
        for point, rounds in run.items():
            members.setdefault(settings[point], {})[str(point)] = rounds
        for setting, found in members.items():
            own[setting] += [one for one in [noise(found)] if one]
    whole = pooled([one for found in own.values() for one in found])
    return {setting: one if (one := pooled(found)) and one.degrees >= FEW else whole for setting, found in own.items()}


def alike(answers: Mapping[int, Answer]) -> dict[int, Answer]:
    """Of a point's answers those that are from the first one's device, where both say which it was: no figure is of two devices."""
    devices = {number: one.get("where", {}).get("device") for number, one in sorted(answers.items())}
    first = next(iter(devices.values()), None)
    return {number: one for number, one in answers.items() if None in (first, devices[number]) or devices[number] == first}


def medians(answers: Mapping[int, Mapping[str, Any]]) -> dict[int, float]:
    """The median step of each measuring process that was timed on the first one's device, by its number; steps are seconds by phase."""
    timed = {number: one["samples"] for number, one in alike(answers).items() if one.get("samples")}
    return {number: statistics.median(sum(sample.values()) for sample in samples) for number, samples in timed.items()}


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
