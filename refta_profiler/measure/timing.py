"""Step time without instruments: forward, backward and optimizer apart, raw samples kept, each with the machine's load meanwhile."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from refta_profiler.measure import load
from refta_profiler.statistics import interval_of_level, interval_of_median, level, percentile
from refta_profiler.workload import PHASES, Workload, training_step


@dataclass
class Times:
    """What was timed in one process: seconds by phase of every step, the load meanwhile, and whole steps without phase marks."""

    samples: list[dict[str, float]] = field(default_factory=list)
    loads: list[dict[str, float | None]] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)


def times(work: Workload, *, warmup: int, steps: int, bare: int = 0) -> Times:
    """`steps` timed steps after `warmup` that are dropped; the first `bare` of them take turns with a step that has no marks inside."""
    for _ in range(warmup):
        training_step(work)
    cuda = on_cuda(work)
    found = Times()
    for number in range(steps):
        before = load.now()
        found.samples.append(_timed(work, cuda=cuda))
        found.loads.append(asdict(load.between(before, load.now())))
        if number < bare:
            found.bare.append(seconds_of(lambda: training_step(work), cuda=cuda))
    return found


def on_cuda(work: Workload) -> bool:
    """Whether the model is on a GPU."""
    return next(work.model.parameters()).device.type == "cuda"


def seconds_of(step: Callable[[], Any], *, cuda: bool) -> float:
    """Seconds of one call, waited for."""
    started = _now(cuda=cuda)
    step()
    return _now(cuda=cuda) - started


def _timed(work: Workload, *, cuda: bool) -> dict[str, float]:
    spent: dict[str, float] = dict.fromkeys(PHASES, 0.0)
    last = _now(cuda=cuda)

    def mark(phase: str) -> None:
        nonlocal last
        now = _now(cuda=cuda)
        spent[phase] += now - last
        last = now

    training_step(work, mark)
    return spent


def _now(*, cuda: bool) -> float:
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


def summary(processes: Sequence[Sequence[dict[str, float]]]) -> dict[str, float]:
    """The time of the step and its 95% interval, medians of its phases over all steps, and the 10th and 90th percentile of the step.

    The time is the geometric mean of the processes' medians, in which drift cancels when two points timed in the same rounds are compared.
    The interval is over processes (Student's t); of one process over its steps (bootstrap); of a single step there is none.
    """
    steps = [[sum(one.values()) for one in process] for process in processes]
    together = sorted(one for process in steps for one in process)
    medians = [statistics.median(process) for process in steps]
    result = {f"{phase}_seconds": statistics.median(one[phase] for process in processes for one in process) for phase in PHASES}
    result["step_seconds"] = math.exp(level(medians)) if len(medians) > 1 else medians[0]
    result["step_seconds_p10"] = percentile(together, 0.1)
    result["step_seconds_p90"] = percentile(together, 0.9)
    if len(together) > 1:
        ends = interval_of_level(medians) if len(medians) > 1 else interval_of_median(together)
        result["step_seconds_low"], result["step_seconds_high"] = ends
    return result
