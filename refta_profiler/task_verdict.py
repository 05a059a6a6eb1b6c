"""The third verdict: is a method as accurate? From rows alone, and only where accuracy was measured. No torch."""

from __future__ import annotations

from collections.abc import Sequence

from refta_profiler.comparison import Verdict
from refta_profiler.evidence import BOUNDS, PEAKS, REFERENCES, setting_of
from refta_profiler.results import Row
from refta_profiler.task import bootstrap
from refta_profiler.task.bootstrap import Interval
from refta_profiler.task.words import points_words, score_words
from refta_profiler.units import format_percent

OUTCOMES = {
    bootstrap.BETTER: "pays",
    bootstrap.SAME: "same",
    bootstrap.NOT_WORSE: "same",
    bootstrap.WORSE: "costs",
    bootstrap.OPEN: "unknown",
}
SETTLED = (*REFERENCES, *BOUNDS)  # what others are compared with
EQUAL = "(equal parameters)"
UNKNOWN = "Accuracy was not measured, so whether it is the better choice for a task is not said here."


def task_verdicts(rows: Sequence[Row], target: str) -> list[Verdict]:
    """A verdict on every method compared at equal parameters, or on all where none was; one that says so where nothing was tested."""
    compared = [row for row in rows if row.metric == "score_difference" and row.method not in SETTLED]
    chosen = [row for row in compared if EQUAL in row.note] or compared
    if not chosen:
        tested = [row for row in rows if row.metric in ("test_accuracy", "test_correlation") and row.value is not None]
        words = "Methods were tested, but none beside a lora or pissa entry: the task section has their scores." if tested else UNKNOWN
        return [_verdict(None, rows[0].model if rows else "", target, "unknown", words)]
    return [_of_row(row, rows, target) for row in chosen]


def _of_row(row: Row, rows: Sequence[Row], target: str) -> Verdict:
    """The verdict that a row of a difference carries."""
    own = {one.metric: one.value for one in rows if one.point == row.point and one.value is not None}
    numbers = [own[name] for name in ("score_difference", "score_difference_low", "score_difference_high")]
    found = Interval(*numbers, over_seeds=own["training_seeds"] > 1)
    outcome = bootstrap.outcome(found)
    against = row.note.split("`")[1]
    metric = "accuracy" if "test_accuracy" in own else "correlation"
    score = score_words(metric, own.get(f"test_{metric}") or 0.0)
    sentence = f"`{row.label}`, {metric} {score}, {points_words(found)} {row.note}."
    if outcome in (bootstrap.BETTER, bootstrap.SAME, bootstrap.NOT_WORSE):
        sentence += cost_words(row, against, rows)
    return _verdict(row, row.model, target, OUTCOMES[outcome], sentence, against=against)


def cost_words(row: Row, against: str, rows: Sequence[Row]) -> str:
    """' Its peak is 3% lower.' where both peaks are known from one source; accuracy comes first, then cost."""
    for metric in PEAKS:
        for source in ("measured", "dryrun"):
            peaks = {
                one.label: one.value for one in rows if _alike(one, row) and (one.metric, one.source) == (metric, source) and one.value
            }
            if row.label in peaks and against in peaks:
                fraction = (peaks[row.label] or 0) / (peaks[against] or 1) - 1
                size = format_percent(abs(fraction))
                return " Its peak is the same." if size == "0%" else f" Its peak is {size} {'lower' if fraction < 0 else 'higher'}."
    return ""


def _alike(one: Row, row: Row) -> bool:
    return (setting_of(one), one.target) == (setting_of(row), row.target)


def _verdict(row: Row | None, model: str, target: str, outcome: str, sentence: str, *, against: str = "") -> Verdict:
    return Verdict(
        kind="task",
        model=model,
        target=target,
        batch=row.batch if row else 0,
        seq=row.seq if row else None,
        precision=row.precision if row else "",
        checkpointing=row.checkpointing if row else False,
        subject=row.label if row else "",
        against=against,
        memory_difference_fraction=None,
        memory_difference_bytes=None,
        time_difference_fraction=None,
        outcome=outcome,
        sentence=sentence,
        quantity="peak_allocated_bytes",
    )
