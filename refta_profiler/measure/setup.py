"""What attaching a method costs: the most bytes live meanwhile. Paid once, before the first step."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from refta_profiler.measure.memory import _silent, mark_end, marked_events, memory_profiler, phase_sums

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
    with _silent(), memory_profiler() as profiler:
        model = build()
        mark_end("build")
        attached = attach(model)
        mark_end("attach")
    return model, attached, phase_sums(marked_events(profiler))["attach"]
