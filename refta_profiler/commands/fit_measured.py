"""`fit --measure`: the largest batch again, by real steps on the device at hand, from the predicted one on."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from refta_profiler import devices
from refta_profiler.commands import fit_solve
from refta_profiler.commands.answer import table
from refta_profiler.commands.fit_solve import Budget, Fit, Question
from refta_profiler.commands.largest_fit import Search
from refta_profiler.errors import ProfilerError, ScenarioError
from refta_profiler.plan import Point
from refta_profiler.units import format_bytes

LIMIT_S = 900.0  # for one real step, in a process of its own
FROM = 1  # the batch that is tried first where none is predicted to fit
WIDE = 4  # times the predicted batch, beyond which nothing is tried


@dataclass(frozen=True)
class MeasuredFit:
    """The largest batch whose real step fitted, its peak and the next one's; 0 where none did, None where a step failed otherwise."""

    label: str
    checkpointing: bool
    predicted: int | None
    largest: int | None
    peak_bytes: int | None
    next_peak_bytes: int | None  # None where the next ran out of memory
    quantity: str
    steps: int  # real steps' processes that it took
    reason: str = ""
    note: str = ""  # who else used the GPU, or that it is not known


class StepFailedError(ProfilerError):
    """A real step failed for another reason than memory."""


def measure_all(points: Sequence[Point], fits: Sequence[Fit], budget: Budget) -> list[MeasuredFit]:
    """An answer for every point, by bisection over real steps, also where nothing is predicted to fit, or no prediction could be made."""
    device, _ = at_hand()
    return [measure(point, fit, budget, device) for point, fit in zip(points, fits, strict=True)]


def check(question: Question) -> None:
    """Nothing; a ScenarioError before anything is predicted: real steps say nothing of another device, and look for a batch alone."""
    _, key = at_hand()
    if question.solve != "batch":
        raise ScenarioError(f"fit --measure: real steps look for the largest batch, not for {question.solve}; leave one of the two out")
    if question.target is None or devices.get(question.target).name != key:
        asked = f"not on {question.target}; " if question.target else ""
        raise ScenarioError(
            f"fit --measure: this machine measures on {key}, {asked}give --target {key}, and --memory where it is not the card's"
        )


def at_hand() -> tuple[str, str]:
    """The device at hand: 'cuda' or 'cpu', and its name in devices.yaml."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return device, devices.device_key(device)


def measure(point: Point, fit: Fit, budget: Budget, device: str) -> MeasuredFit:
    """One method's answer."""
    from refta_profiler.measure import gpu, isolate

    first_tried, last = fit.largest or FROM, WIDE * fit.largest if fit.largest else fit_solve.LAST["batch"]
    quantity = "peak_reserved_bytes" if device == "cuda" else "peak_allocated_bytes"
    note = gpu.settle("warn")[1] if device == "cuda" else ""
    refused: set[int] = set()

    def peak(batch: int) -> int:
        found = isolate.measure(replace(point, batch=batch), device, warmup=1, steps=1, passes=("time", "memory"), limit_s=LIMIT_S)
        failure = found.get("failure", {})
        if failure.get("status") == "oom":
            refused.add(batch)
            return budget.for_tensors + 1
        if failure:
            raise StepFailedError(failure["note"])
        return int(found["values"][quantity])

    looking = Search(peak, budget.for_tensors, last)
    named = {"label": point.label, "checkpointing": point.checkpointing, "predicted": fit.largest, "quantity": quantity, "note": note}
    none = functools.partial(MeasuredFit, **named, peak_bytes=None, next_peak_bytes=None)
    if point.unsupported:
        return none(largest=None, steps=0, reason=point.unsupported)
    try:
        looking.peaks[first_tried] = first = peak(first_tried)
        largest = looking.run(max(first_tried + (1 if first <= budget.for_tensors else -1), 1))
    except StepFailedError as fault:
        return none(largest=None, steps=len(looking.peaks), reason=str(fault))
    if not largest:
        return none(largest=0, steps=len(looking.peaks), reason="batch 1 does not fit")
    after = None if largest + 1 in refused else looking.peaks.get(largest + 1)
    there = {"largest": largest, "peak_bytes": looking.peaks.get(largest), "next_peak_bytes": after}
    return MeasuredFit(**named, **there, steps=len(looking.peaks))


def text(found: Sequence[MeasuredFit], budget: Budget) -> str:
    """The table of real steps."""
    cells = [["method", "checkpointing", "predicted", "measured", "peak", "the next one's", "steps"]]
    for one in found:
        after = "out of memory" if one.next_peak_bytes is None else format_bytes(one.next_peak_bytes)
        peaks = ["–", one.reason] if not one.largest else [format_bytes(one.peak_bytes or 0), after]
        largest = "–" if one.largest is None else f"{one.largest:,}"
        predicted = "–" if one.predicted is None else f"{one.predicted:,}"
        cells.append([one.label, "on" if one.checkpointing else "off", predicted, largest, *peaks, str(one.steps)])
    right = sum(one.largest is not None and one.largest == one.predicted for one in found)
    head = f"Measured on {budget.target}: the predicted batch is the largest that fits for {right} of {len(found)}"
    return "\n".join([head, table(cells, indent="  "), *dict.fromkeys(one.note for one in found if one.note)])
