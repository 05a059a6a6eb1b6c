"""Peak memory of one real training step: from the profiler's events on the CPU, from the caching allocator on CUDA."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from refta_profiler.workload import Workload


def static_bytes(work: Workload) -> int:
    """Bytes of weights, buffers, optimizer state and batch, every storage on the model's device once."""
    device = next(work.model.parameters()).device
    storages = {
        one.untyped_storage().data_ptr(): one.untyped_storage().nbytes()
        for tensors in work.static_tensors().values()
        for one in tensors
        if one.device == device
    }
    return sum(storages.values())


def cpu_peak(work: Workload, step: Callable[[], None]) -> int:
    """Bytes live when the step starts plus the highest running sum of the profiler's allocations and frees within it.

    Gradients are None when the step starts, so every block that is freed within it was allocated within it.
    """
    work.optimizer.zero_grad(set_to_none=True)
    gc.collect()
    before = static_bytes(work)
    with _silent(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    return before + highest_sum(memory_events(profiler))


def memory_events(profiler: profile) -> list[int]:
    """The profiler's CPU allocations (+) and frees (−) in order of time, in bytes."""
    results: Any = profiler.profiler.kineto_results if profiler.profiler else None
    events = [
        (event.start_ns(), event.nbytes())
        for event in results.events()
        if event.name() == "[memory]" and str(event.device_type()).endswith("CPU")
    ]
    return [nbytes for _, nbytes in sorted(events, key=lambda event: event[0])]


def highest_sum(changes: list[int]) -> int:
    """The highest running sum, at least 0; [3, -1, 2] has 4."""
    running = peak = 0
    for change in changes:
        running += change
        peak = max(peak, running)
    return peak


def cuda_peaks(work: Workload, step: Callable[[], None]) -> dict[str, int]:
    """Peaks allocated and reserved of one step, after a reset, and allocator retries."""
    work.optimizer.zero_grad(set_to_none=True)
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return {
        "static_bytes": before,
        "peak_allocated_bytes": torch.cuda.max_memory_allocated(),
        "peak_reserved_bytes": torch.cuda.max_memory_reserved(),
    }


class _silent:
    """Sends what kineto prints on file descriptors 1 and 2 to nowhere."""

    def __enter__(self) -> None:
        self._kept = os.dup(1), os.dup(2)
        self._nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(self._nowhere, 1)
        os.dup2(self._nowhere, 2)

    def __exit__(self, *exception: object) -> None:
        os.dup2(self._kept[0], 1)
        os.dup2(self._kept[1], 2)
        for descriptor in (*self._kept, self._nowhere):
            os.close(descriptor)
