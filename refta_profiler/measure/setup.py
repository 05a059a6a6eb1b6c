"""What attaching a method costs: the most bytes live meanwhile. Paid once, before the first step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from refta_profiler.measure.memory import _silent

MARK = "refta_profiler: attach"
Built = TypeVar("Built")
Attached = TypeVar("Attached")


def cuda_peak(build: Callable[[], Built], attach: Callable[[Built], Attached]) -> tuple[Built, Attached, int]:
    """The built model, what attaching gave, and the allocator's peak while it attached."""
    model = build()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    attached = attach(model)
    torch.cuda.synchronize()
    return model, attached, torch.cuda.max_memory_allocated()


def cpu_peak(build: Callable[[], Built], attach: Callable[[Built], Attached]) -> tuple[Built, Attached, int]:
    """The same from the CPU profiler's events.

    The model is built in the profiler's sight: it drops frees of what was there before it, and a method may replace the weights.
    """
    with _silent(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        model = build()
        with record_function(MARK):
            attached = attach(model)
    return model, attached, peak_after_mark(profiler)


def peak_after_mark(profiler: profile) -> int:
    """The highest running sum of the profiler's CPU allocations and frees from the mark on, what was live at it included."""
    results: Any = profiler.profiler.kineto_results if profiler.profiler else None
    events = sorted(results.events(), key=lambda event: event.start_ns()) if results else []
    running, peak = 0, -1
    for event in events:
        if event.name() == MARK:
            peak = running
        elif event.name() == "[memory]" and str(event.device_type()).endswith("CPU"):
            running += event.nbytes()
            peak = max(peak, running) if peak >= 0 else -1
    return max(peak, 0)
