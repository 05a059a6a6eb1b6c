"""A method's training as rows of the long table. No torch."""

from __future__ import annotations

import statistics
from typing import Any

from refta_profiler.results import Row
from refta_profiler.task.bootstrap import Interval
from refta_profiler.task.summary import WINDOW, Difference, Method, Summary


def of_method(point: Any, key: str, summary: Summary, method: Method) -> list[Row]:
    """The rows of one label on the device that trained it; where there is no score, the score's row with the reason."""
    name = f"test_{summary.metric}"
    if method.label not in summary.scored:
        note = method.failure or "training runs of it are missing; --resume makes them"
        return [Row.of(point, key, "measured", name, None, status="error" if method.failure else "skipped", note=note)]
    seeds = len(method.seeds)
    over = "interval over both" if seeds > 1 else "interval over the items alone: one seed says nothing of others"
    sure = f"{summary.counted_seeds}, {summary.items:,} test items; {over}"
    values: dict[str, tuple[float | None, str]] = {
        **_interval(name, summary.intervals[method.label], sure),
        f"validation_{summary.metric}": (
            _validation(method),
            f"at the chosen learning rate, {summary.shared['items']['validation']} items",
        ),
        "learning_rate": (method.rate, _rate_note(method)),
        "training_seeds": (seeds, ""),
        "test_items": (summary.items, ""),
        "training_steps": (summary.shared["steps"], ""),
        "training_loss": (method.losses[-1], f"mean of the last {WINDOW} steps and of {summary.counted_seeds}"),
        "training_step_seconds": (method.median("step_seconds"), "in training, where processes of one thread run side by side"),
        "training_seconds": (method.median("seconds"), f"median of {summary.counted_seeds}"),
        "training_peak_bytes": (method.median("peak_bytes"), ""),
        **_to_loss(summary, method),
        **_difference(summary.decisive(method.label), sure),
    }
    return [Row.of(point, key, "measured", metric, value, note=note) for metric, (value, note) in values.items() if value is not None]


def _interval(name: str, found: Interval, note: str) -> dict[str, tuple[float | None, str]]:
    return {name: (found.value, note), f"{name}_low": (found.low, ""), f"{name}_high": (found.high, "")}


def _validation(method: Method) -> float:
    return statistics.fmean(run.validation or 0.0 for run in method.chosen)


def _rate_note(method: Method) -> str:
    """What it was chosen from, and whether it is the least or the largest of them."""
    tried = ", ".join(f"{rate:g}" for rate in method.rates)
    edge = "; it is at the edge of them, another might be better still" if method.at_edge else ""
    return f"of {tried}, by the validation split, {len(method.lr_seeds)} seed{'s' if len(method.lr_seeds) > 1 else ''}{edge}"


def _to_loss(summary: Summary, method: Method) -> dict[str, tuple[float | None, str]]:
    """Steps and seconds to the scenario's training loss: the median over the seeds, where all reach it."""
    limit = summary.shared["to_loss"]
    if limit is None:
        return {}
    found = method.steps_to(limit)
    if len(found) < len(method.seeds):
        return {}
    steps = statistics.median(found)
    return {
        "steps_to_loss": (steps, f"training loss {limit:g}, mean of {WINDOW} steps"),
        "seconds_to_loss": (steps * (method.median("step_seconds") or 0.0), f"training loss {limit:g}"),
    }


def _difference(found: Difference | None, note: str) -> dict[str, tuple[float | None, str]]:
    if found is None:
        return {}
    words = f"against `{found.against}` ({found.comparison}): {found.outcome}; {note}"
    return _interval("score_difference", found.interval, words)
