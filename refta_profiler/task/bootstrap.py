"""What may be said of two methods' scores on one test set: the chance of its items by a paired bootstrap, that of the seeds by Student's t.

Every replicate draws items with replacement, the same for all methods, and seeds are paired too, so that what methods share (a hard item,
a lucky order of the training examples) is in both and falls out of their difference. Seeds are too few to be drawn: of three, a
bootstrap's 95% interval is that from the least to the largest, and two equal methods would be told apart in a quarter of all runs. Their
mean has Student's interval instead. The two half-widths are added as squares (Zou and Donner, Statistics in Medicine 27, 2008). What
differs with seed and item at once is in both: rather too wide than too narrow. One seed says nothing of others. No torch.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

from refta_profiler.statistics import LEVEL, RESAMPLES, student

MARGIN = 0.005  # half a point: a loss below it counts as none
BETTER, WORSE, SAME, NOT_WORSE, OPEN = "better", "worse", "the same", "not worse", "not told apart"
Array = NDArray[numpy.float64]


@dataclass(frozen=True)
class Scored:
    """What one method gave on the test items: outcomes (seeds, items), 1 where right, or predictions where `truth` (items,) is given."""

    outcomes: Array
    truth: Array | None = None


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95% interval, over test items and seeds; over items alone where there was one seed."""

    value: float
    low: float
    high: float
    over_seeds: bool = True


def draw_items(items: int, *, resamples: int = RESAMPLES) -> Array:
    """How often each item is in each replicate (resamples, items). The same every time, so that one set of scores has one interval."""
    return numpy.random.default_rng(0).multinomial(items, numpy.full(items, 1 / items), size=resamples).astype(float)


def score(scored: Scored) -> float:
    """The mean over seeds of the share of right items, or of Pearson's correlation: outcomes [[1, 0], [1, 1]] give 0.75."""
    return float(of_seeds(scored).mean())


def of_seeds(scored: Scored) -> Array:
    """Every seed's score (seeds,)."""
    return replicates(scored, numpy.ones((1, scored.outcomes.shape[1])))[0]


def replicates(scored: Scored, draws: Array) -> Array:
    """Every seed's score in every replicate (resamples, seeds)."""
    return _accuracies(scored, draws) if scored.truth is None else _correlations(scored.outcomes, scored.truth, draws)


def _accuracies(scored: Scored, weights: Array) -> Array:
    """(resamples, seeds)"""
    return weights @ scored.outcomes.T / weights.sum(1, keepdims=True)


def _correlations(predictions: Array, truth: Array, weights: Array) -> Array:
    """Pearson's correlation of every seed's predictions in every replicate (resamples, seeds); 0 where either does not vary."""
    total = weights.sum(1, keepdims=True)
    mean_p, mean_t = weights @ predictions.T / total, (weights @ truth)[:, None] / total
    product = weights @ (predictions * truth).T / total - mean_p * mean_t
    spread_p = weights @ (predictions**2).T / total - mean_p**2
    spread_t = (weights @ truth**2)[:, None] / total - mean_t**2
    scale = numpy.sqrt(numpy.clip(spread_p, 0, None) * numpy.clip(spread_t, 0, None))
    return numpy.divide(product, scale, out=numpy.zeros_like(product), where=scale > 1e-12)


def interval(scored: Scored, draws: Array) -> Interval:
    """The score with its interval."""
    least = 0.0 if scored.truth is None else -1.0
    return _around(of_seeds(scored), replicates(scored, draws), least, 1.0)


def difference(subject: Scored, against: Scored, draws: Array) -> Interval:
    """The subject's score less the other's, with its interval: two of the same outcomes give exactly 0 throughout."""
    most = 1.0 if subject.truth is None else 2.0
    return _around(of_seeds(subject) - of_seeds(against), replicates(subject, draws) - replicates(against, draws), -most, most)


def _around(seeds: Array, found: Array, least: float, most: float) -> Interval:
    """The interval from seeds' numbers (seeds,) and their replicates (resamples, seeds), as far as such numbers go."""
    value = float(seeds.mean())
    ends = numpy.quantile(found.mean(1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    below, above = (math.hypot(value - float(end), of_the_seeds(seeds)) for end in ends)
    return Interval(value, max(value - below, least), min(value + above, most), over_seeds=len(seeds) > 1)


def of_the_seeds(seeds: Array) -> float:
    """The half-width of Student's 95% interval of the mean: 2.48 for seeds of −1, 0 and 1; 0 where there is one, which shows no spread."""
    count = len(seeds)
    return student(LEVEL, count - 1) * statistics.stdev(seeds.tolist()) / math.sqrt(count) if count > 1 else 0.0


def outcome(found: Interval, *, margin: float = MARGIN) -> str:
    """'better' where the whole interval is above 0; 'not worse' where it is above −margin, 'the same' where it is below margin as well;
    'worse' where it is below 0; otherwise 'not told apart', as everything is where the chance of seeds is not in the interval.

    [0.001, 0.02] is better, [−0.004, 0.003] the same, [−0.004, 0.02] not worse, [−0.03, −0.001] worse, [−0.03, 0.02] not told apart.
    """
    if not found.over_seeds:
        return OPEN
    if found.low > 0:
        return BETTER
    if found.low > -margin:
        return SAME if found.high < margin else NOT_WORSE
    return WORSE if found.high < 0 else OPEN


def mean_and_range(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, least and most of some seeds' numbers."""
    return sum(values) / len(values), min(values), max(values)
