"""What may be said of two methods' scores on one test set: a paired bootstrap over its items and the seeds. No torch.

Every replicate draws seeds and items with replacement, the same for all methods, so that what they share (a hard item, a lucky order of the
training examples) is in both and falls out of their difference: Owen's pigeonhole bootstrap of two crossed factors (Annals of Applied
Statistics 1, 2007), whose variance is never too small but for the few seeds, of which it is that of S draws from S.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

from refta_profiler.statistics import LEVEL, RESAMPLES

MARGIN = 0.005  # half a point: a loss below it counts as none
BETTER, WORSE, SAME, NOT_WORSE, OPEN = "better", "worse", "the same", "not worse", "not told apart"
Array = NDArray[numpy.float64]


@dataclass(frozen=True)
class Scored:
    """What one method gave on the test items: outcomes (seeds, items), 1 where right, or predictions where `truth` (items,) is given."""

    outcomes: Array
    truth: Array | None = None


@dataclass(frozen=True)
class Draws:
    """How often each seed (resamples, seeds) and each item (resamples, items) is in each replicate."""

    seeds: Array
    items: Array

    @classmethod
    def of(cls, seeds: int, items: int, *, resamples: int = RESAMPLES) -> Draws:
        """The same draws every time, so that one set of scores has one interval."""
        draw = numpy.random.default_rng(0)
        counts = [draw.multinomial(size, numpy.full(size, 1 / size), size=resamples).astype(float) for size in (seeds, items)]
        return cls(*counts)


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95% interval."""

    value: float
    low: float
    high: float


def score(scored: Scored) -> float:
    """The mean over seeds of the share of right items, or of Pearson's correlation: outcomes [[1, 0], [1, 1]] give 0.75."""
    ones = Draws(numpy.ones((1, len(scored.outcomes))), numpy.ones((1, scored.outcomes.shape[1])))
    return float(replicates(scored, ones)[0])


def replicates(scored: Scored, draws: Draws) -> Array:
    """The score in every replicate (resamples,)."""
    by_seed = _accuracies(scored, draws.items) if scored.truth is None else _correlations(scored.outcomes, scored.truth, draws.items)
    return (by_seed * draws.seeds).sum(1) / draws.seeds.sum(1)


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


def interval(scored: Scored, draws: Draws) -> Interval:
    """The score with its interval."""
    return _around(score(scored), replicates(scored, draws))


def difference(subject: Scored, against: Scored, draws: Draws) -> Interval:
    """The subject's score less the other's, with its interval: two of the same outcomes give exactly 0 throughout."""
    return _around(score(subject) - score(against), replicates(subject, draws) - replicates(against, draws))


def _around(value: float, found: Array) -> Interval:
    low, high = numpy.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))


def outcome(found: Interval, *, margin: float = MARGIN) -> str:
    """'better' where the whole interval is above 0; 'not worse' where it is above −margin, 'the same' where it is below margin as well;
    'worse' where it is below 0; otherwise 'not told apart'.

    [0.001, 0.02] is better, [−0.004, 0.003] the same, [−0.004, 0.02] not worse, [−0.03, −0.001] worse, [−0.03, 0.02] not told apart.
    """
    if found.low > 0:
        return BETTER
    if found.low > -margin:
        return SAME if found.high < margin else NOT_WORSE
    return WORSE if found.high < 0 else OPEN


def mean_and_range(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, least and most of some seeds' numbers."""
    return sum(values) / len(values), min(values), max(values)
