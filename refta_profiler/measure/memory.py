"""Peak memory of one real training step: from the profiler's events on the CPU, from the caching allocator on CUDA."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from refta_profiler.measure import group
from refta_profiler.workload import Workload, training_step

MARK = "refta_profiler: end of "  # and a phase: the name of the events that stand where phases end
ROUNDING = 512  # bytes that every block of the CUDA caching allocator is a multiple of
MarkedStep = Callable[[Callable[[str], Any]], Any]


def static_bytes(work: Workload) -> int:
    """Bytes of weights, buffers, optimizer state, batch and outputs that the loop keeps, every storage on the model's device once; with DDP
    its buckets."""
    device = next(work.model.parameters()).device
    storages = {
        one.untyped_storage().data_ptr(): one.untyped_storage().nbytes()
        for tensors in work.static_tensors().values()
        for one in tensors
        if one.device == device
    }
    return sum(storages.values()) + work.unseen_bytes() + work.beside_outputs


def cpu_peak(work: Workload, step: Callable[[], None]) -> int:
    """Bytes live when the step starts plus the highest running sum of the profiler's allocations and frees within it.

    Gradients are None when the step starts, so every block that is freed within it was allocated within it, or is of kept outputs.
    """
    return cpu_peaks(work, lambda mark: step())["peak_allocated_bytes"]


def cpu_peaks(work: Workload, step: MarkedStep) -> dict[str, int]:
    """The peak of the step and of each of its phases, in bytes: what is live when it starts plus the highest running sum.

    step(mark) runs it and calls mark(phase) at the end of each phase. A phase that comes several times has its highest peak.
    """
    see_outputs(work)
    work.optimizer.zero_grad(set_to_none=True)
    gc.collect()
    before = static_bytes(work)
    with _watching(work) as profiler:
        step(mark_end)
    changes = marked_events(profiler)
    whole = highest_sum([change for change in changes if isinstance(change, int)])
    phases = {f"{phase}_peak_bytes": before + highest for phase, highest in phase_sums(changes).items()}
    return {"peak_allocated_bytes": before + whole, **phases}


def see_outputs(work: Workload) -> None:
    """A step under the profiler, where the loop keeps its outputs into the next, on the CPU; finds what their graph holds beside them.

    The profiler tells of no free of what it has not seen allocated (torch's CPUAllocator.cpp, ProfiledCPUMemoryReporter).
    """
    if work.outputs is None or work.device.type != "cpu":
        return
    work.outputs, work.beside_outputs = None, 0
    work.optimizer.zero_grad(set_to_none=True)
    gc.collect()
    without = static_bytes(work)
    with _watching(work) as profiler:
        training_step(work)
        work.optimizer.zero_grad(set_to_none=True)
    work.beside_outputs = sum(memory_events(profiler)) - (static_bytes(work) - without)


@contextlib.contextmanager
def _watching(work: Workload) -> Iterator[profile]:
    """The profiler of allocations over steps of the work; of a rank's, what gloo's thread frees is given back first."""
    watched = group.given_back() if work.point.parallel else contextlib.nullcontext()
    with watched, _silent(), memory_profiler() as profiler:
        yield profiler


def memory_profiler() -> profile:
    """torch's profiler of allocations. One cycle is all there is: told to keep the events of all, torch before 2.13 warns of none lost."""
    return profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True)


def mark_end(phase: str) -> None:
    """Sets a mark where a phase ends, among the profiler's events and on its clock; allocates nothing."""
    with record_function(MARK + phase):
        pass


def memory_events(profiler: profile) -> list[int]:
    """The profiler's CPU allocations (+) and frees (−) in order of time, in bytes."""
    return [change for change in marked_events(profiler) if isinstance(change, int)]


def marked_events(profiler: profile) -> list[int | str]:
    """The profiler's CPU allocations (+) and frees (−) in bytes, and the phases that end, in order of time."""
    results: Any = profiler.profiler.kineto_results if profiler.profiler else None
    found: list[tuple[int, int | str]] = []
    for event in results.events():
        name = event.name()
        if name == "[memory]" and str(event.device_type()).endswith("CPU"):
            found.append((event.start_ns(), event.nbytes()))
        elif name.startswith(MARK):
            found.append((event.start_ns(), name.removeprefix(MARK)))
    return [change for _, change in sorted(found, key=lambda one: one[0])]


def highest_sum(changes: Sequence[int]) -> int:
    """The highest running sum, at least 0; [3, -1, 2] has 4."""
    running = peak = 0
    for change in changes:
        running += change
        peak = max(peak, running)
    return peak


def phase_sums(changes: Sequence[int | str]) -> dict[str, int]:
    """The highest running sum of each phase, its start included; a string ends the phase of that name.

    [3, -1, "forward", 1, "backward", -1, 2, "optimizer"] has forward 3, backward 3 and optimizer 4.
    """
    running = highest = 0
    found: dict[str, int] = {}
    for change in changes:
        if isinstance(change, str):
            found[change] = max(found.get(change, 0), highest)
            highest = running
        else:
            running += change
            highest = max(highest, running)
    return found


def cuda_peaks(work: Workload, step: MarkedStep) -> dict[str, int]:
    """Peaks of one step and of its phases: allocated, reserved and active bytes, and the allocator's retries and refusals.

    step(mark) runs it and calls mark(phase) at the end of each phase, where the peaks are read and reset. The allocator counts on the host,
    in the order of calls, so nothing need be waited for there.
    """
    work.optimizer.zero_grad(set_to_none=True)
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    first = torch.cuda.memory_stats()
    read: list[tuple[str, dict[str, int]]] = []

    def mark(phase: str) -> None:
        read.append((phase, torch.cuda.memory_stats()))
        torch.cuda.reset_peak_memory_stats()

    step(mark)
    torch.cuda.synchronize()
    last = torch.cuda.memory_stats()
    return {"static_bytes": first["allocated_bytes.all.current"], **cuda_summary([*read, ("", last)]), **cuda_counts(first, last)}


CUDA_PEAKS = {
    "peak_allocated_bytes": "allocated_bytes.all.peak",
    "peak_reserved_bytes": "reserved_bytes.all.peak",
    "peak_active_bytes": "active_bytes.all.peak",
}


def cuda_summary(read: Sequence[tuple[str, Mapping[str, int]]]) -> dict[str, int]:
    """The highest peaks of all readings, and the highest allocated peak of each phase ('' is no phase: what follows the last)."""
    found = {metric: max(stats[key] for _, stats in read) for metric, key in CUDA_PEAKS.items()}
    for phase, stats in read:
        if phase:
            name = f"{phase}_peak_bytes"
            found[name] = max(found.get(name, 0), stats[CUDA_PEAKS["peak_allocated_bytes"]])
    return found


def cuda_counts(first: Mapping[str, int], last: Mapping[str, int]) -> dict[str, int]:
    """How often within the step the allocator had to give back its cache and ask again, and how often it was refused for good."""
    return {name: last[key] - first[key] for name, key in (("allocator_retries", "num_alloc_retries"), ("allocator_refusals", "num_ooms"))}


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
