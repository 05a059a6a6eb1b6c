"""Step time without instruments: forward, backward and optimizer apart, raw samples kept, each with the machine's load meanwhile.

On a GPU phases are told apart by events that it passes by itself, and the step is waited for at its end alone: marks do not disturb it.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from refta_profiler.measure import load
from refta_profiler.statistics import interval_of_mean, interval_of_median, percentile
from refta_profiler.workload import PHASES, Workload, training_step

REST = "rest"  # beside a sample's phases, on a GPU: what they leave of the whole step, which is timed on the host


@dataclass
class Times:
    """What was timed in one process: seconds by phase of every step, which sum to the step's, and whole steps without phase marks.

    loads: of the machine, step by step; load: over all of them. The n-th bare step is the neighbour of the n-th sample.
    """

    samples: list[dict[str, float]] = field(default_factory=list)
    loads: list[dict[str, float | None]] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)
    load: dict[str, float | None] = field(default_factory=dict)


def times(work: Workload, *, warmup: int, steps: int, bare: int = 0) -> Times:
    """`steps` timed steps after `warmup` that are dropped; the first `bare` of them have a step beside them that has no marks inside.

    The two of a pair take turns at being first: what the first of two steps finds otherwise is no cost of the marks.
    """
    for _ in range(warmup):
        training_step(work)
    cuda = on_cuda(work)
    found, began = Times(), load.now()

    def without_marks() -> None:
        found.bare.append(seconds_of(lambda: training_step(work), cuda=cuda))

    for number in range(steps):
        paired, first = number < bare, number % 2 == 1
        if paired and first:
            without_marks()
        before = load.now()
        found.samples.append(_timed(work, cuda=cuda))
        found.loads.append(asdict(load.between(before, load.now())))
        if paired and not first:
            without_marks()
    found.load = asdict(load.between(began, load.now()))
    return found


def on_cuda(work: Workload) -> bool:
    """Whether the model is on a GPU."""
    return next(work.model.parameters()).device.type == "cuda"


def seconds_of(step: Callable[[], Any], *, cuda: bool) -> float:
    """Seconds of one call, waited for."""
    started = _now(cuda=cuda)
    step()
    return _now(cuda=cuda) - started


class TimedStep:
    """A workload's step as an instrument runs it, with a note of the seconds of each: what it takes while that instrument watches."""

    def __init__(self, work: Workload) -> None:
        self.work, self.cuda = work, on_cuda(work)
        self.seconds: list[float] = []

    def __call__(self, mark: Callable[[str], Any] = lambda phase: None) -> None:
        self.seconds.append(seconds_of(lambda: training_step(self.work, mark), cuda=self.cuda))


def _timed(work: Workload, *, cuda: bool) -> dict[str, float]:
    """Seconds of one step by phase; they sum to the step's."""
    return _timed_by_events(work) if cuda else _timed_by_the_clock(work)


def _timed_by_the_clock(work: Workload) -> dict[str, float]:
    spent: dict[str, float] = dict.fromkeys(PHASES, 0.0)
    last = time.perf_counter()

    def mark(phase: str) -> None:
        nonlocal last
        now = time.perf_counter()
        spent[phase] += now - last
        last = now

    training_step(work, mark)
    return spent


def _timed_by_events(work: Workload) -> dict[str, float]:
    """The phases by the GPU's clock, as it passes the marks, and REST: launching the first and being told of the last.

    Nothing is waited for between the beginning and the end, so that the host runs ahead of the GPU as it does in any loop.
    """
    passed: list[tuple[str, torch.cuda.Event]] = []

    def mark(phase: str) -> None:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        passed.append((phase, event))

    started = _now(cuda=True)
    mark("")
    training_step(work, mark)
    whole = _now(cuda=True) - started
    spent: dict[str, float] = dict.fromkeys(PHASES, 0.0)
    for (_, begins), (phase, ends) in itertools.pairwise(passed):
        spent[phase] += begins.elapsed_time(ends) / 1e3
    return {**spent, REST: whole - sum(spent.values())}


def marks_cost(samples: Sequence[dict[str, float]], bare: Sequence[float]) -> tuple[float, float, float] | None:
    """How much longer the marks make a step, as a fraction, and the ends of its 95% interval, from steps side by side.

    Marked steps of 1.01 and 1.03 s beside bare ones of 1 s: 0.02, from −0.1 to 0.16. One pair has no interval (NaN); of none, None.
    """
    pairs = zip(samples, bare, strict=False)  # the first samples alone have a bare step beside them
    found = interval_of_mean([math.log(sum(sample.values()) / seconds) for sample, seconds in pairs])
    return found and (math.expm1(found[0]), math.expm1(found[1]), math.expm1(found[2]))


def _now(*, cuda: bool) -> float:
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


def summary(processes: Sequence[Sequence[dict[str, float]]]) -> dict[str, float]:
    """Medians of the step and of its phases over all processes, the step's 10th and 90th percentile, and its median's 95% interval.

    On a GPU the phases' need not sum to the step's: see REST.
    """
    steps = [[sum(one.values()) for one in process] for process in processes]
    together = sorted(one for process in steps for one in process)
    result = {f"{phase}_seconds": statistics.median(one[phase] for process in processes for one in process) for phase in PHASES}
    result["step_seconds"] = statistics.median(together)
    result["step_seconds_p10"] = percentile(together, 0.1)
    result["step_seconds_p90"] = percentile(together, 0.9)
    if len(together) > 1:
        result["step_seconds_low"], result["step_seconds_high"] = interval_of_median(steps)
    return result
