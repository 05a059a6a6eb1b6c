"""A point's measurement as rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from refta_profiler.measure import isolate
from refta_profiler.plan import Point
from refta_profiler.results import Row

FAILED_METRICS = ("peak_allocated_bytes", "step_seconds")


def measure(
    point: Point,
    key: str,
    device: str,
    *,
    warmup: int,
    steps: int,
    repeats: int,
    limit_s: float,
    keep: Callable[[dict[str, Any]], Any] = lambda details: None,
) -> list[Row]:
    """The rows of the point measured on this device; rows with the reason where it failed.

    keep takes what rows have no place for: raw samples, the operators that took most time, the end of a traceback.
    """
    answer = isolate.measure(point, device, warmup=warmup, steps=steps, repeats=repeats, limit_s=limit_s)
    keep({name: value for name, value in answer.items() if name != "values"})
    if "failure" in answer:
        return failed(point, key, answer["failure"]["status"], answer["failure"]["note"])
    taken = f"median of {repeats} × {steps} steps"
    return [
        _row(point, key, metric, value, note=taken if metric.startswith("step_seconds") else "")
        for metric, value in answer["values"].items()
    ]


def failed(point: Point, key: str, status: str, note: str) -> list[Row]:
    """Rows that say why there are no values."""
    return [_row(point, key, metric, None, status=status, note=note) for metric in FAILED_METRICS]


def _row(point: Point, key: str, metric: str, value: Any, *, status: str = "ok", note: str = "") -> Row:
    return Row.of(point, key, "measured", metric, value, status=status, note=note)
