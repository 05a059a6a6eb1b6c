"""Step time without instruments: forward, backward and optimizer apart, raw samples kept."""

from __future__ import annotations

import statistics
import time

import torch

from refta_profiler.workload import PHASES, Workload, training_step


def samples(work: Workload, *, warmup: int, steps: int) -> list[dict[str, float]]:
    """Seconds of each phase of `steps` steps, after `warmup` steps that are dropped."""
    for _ in range(warmup):
        training_step(work)
    cuda = next(work.model.parameters()).device.type == "cuda"
    return [_timed(work, cuda=cuda) for _ in range(steps)]


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


def summary(found: list[dict[str, float]]) -> dict[str, float]:
    """Medians of the step and of its phases, and the step's 10th and 90th percentile."""
    steps = sorted(sum(one.values()) for one in found)
    result = {f"{phase}_seconds": statistics.median(one[phase] for one in found) for phase in PHASES}
    result["step_seconds"] = statistics.median(steps)
    result["step_seconds_p10"] = _percentile(steps, 0.1)
    result["step_seconds_p90"] = _percentile(steps, 0.9)
    return result


def _percentile(ordered: list[float], fraction: float) -> float:
    """By linear interpolation; the median of [1, 2, 4] is 2, its 0.9 percentile 3.6."""
    place = fraction * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
