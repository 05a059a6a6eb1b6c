"""Where the time goes: the torch profiler's operators of one step, and the modules that they belong to, in a pass of its own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from refta_profiler.measure import module_times, modules
from refta_profiler.measure.memory import _silent
from refta_profiler.workload import Workload


def kernels(work: Workload, step: Callable[[], Any], *, trace: Path | None = None, count: int = 15) -> dict[str, Any]:
    """One step under the profiler: {operators, rows, unattributed_seconds, clock}; its chrome trace in the file `trace` (.json.gz).

    clock says what seconds are of: 'device' (kernels on CUDA) or 'host'. operators: [{operator, calls, seconds}], those with most of their
    own time. rows: the modules, see module_times. What the profiler itself takes is in them: they are shares of a step, not its time.
    """
    with _profiled() as profiler, modules.marked(work.model):
        step()
    # on CUDA the device has events by the names of our marks too, whose kernels are counted already
    events = [one for one in profiler.events() or [] if str(one.device_type).endswith("CPU")]
    found = module_times.of(events, time=_time_total)
    if trace is not None:
        write_trace(profiler, trace)
    return {"operators": operators(profiler, count=count), "clock": "device" if torch.cuda.is_available() else "host", **found}


def operators(profiler: profile, *, count: int) -> list[dict[str, Any]]:
    """The operators that took most time of their own: name, calls, seconds; without our own marks."""
    key = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    found = [one for one in profiler.key_averages() if not one.key.startswith(modules.OURS)]
    found.sort(key=lambda one: -getattr(one, key))
    return [{"operator": one.key, "calls": one.count, "seconds": getattr(one, key) / 1e6} for one in found[:count]]


def write_trace(profiler: profile, path: Path) -> Path:
    """The profiler's chrome trace at `path` (.json.gz), for chrome://tracing or ui.perfetto.dev; the file appears whole or not at all."""
    if not path.name.endswith(".json.gz"):
        raise ValueError(f"{path}: a chrome trace is written packed; give a name that ends in .json.gz")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.json.gz")
    try:
        profiler.export_chrome_trace(str(temporary))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


@contextlib.contextmanager
def _profiled() -> Iterator[profile]:
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    with _silent(), profile(activities=activities, acc_events=True) as profiler:  # as memory_profiler does
        yield profiler


def _time_total(event: Any) -> float:
    """Seconds of an event with all within it, on the clock that counts."""
    return (event.device_time_total if torch.cuda.is_available() else event.cpu_time_total) / 1e6
