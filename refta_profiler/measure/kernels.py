"""Where the time goes: the torch profiler's operators of one step, and the modules that they belong to, in a pass of its own."""

from __future__ import annotations

import contextlib
import errno
import gzip
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile

from refta_profiler.measure import module_times, modules, scratch
from refta_profiler.measure.memory import _silent
from refta_profiler.measure.timing import on_cuda
from refta_profiler.workload import Workload

LITTLE = 16 * 2**20  # bytes: a disk with less left is one that a trace did not fit on


def kernels(work: Workload, step: Callable[[], Any], *, trace: Path | None = None, count: int = 15) -> dict[str, Any]:
    """One step under the profiler: {operators, kernels, rows, unattributed_seconds, clock}; its trace in the file `trace` (.json.gz).

    clock says what seconds are of: 'device' (of a model on CUDA) or 'host'. operators: [{operator, calls, seconds}], those with most of
    their own time, on CUDA the time of the kernels that they launch. kernels: [{kernel, calls, seconds}] of CUDA, the same time once more
    by what ran; none on the CPU. rows: the modules, see module_times. What the profiler itself takes is in them: they are shares of a step,
    not its time.
    """
    cuda = on_cuda(work)
    with _profiled(cuda=cuda) as profiler, modules.marked(work.model):
        step()
    # on CUDA the device has events by the names of our marks too, whose kernels are counted already
    events = [one for one in profiler.events() or [] if _is_of_the_host(one)]
    found = module_times.of(events, time=lambda event: (event.device_time_total if cuda else event.cpu_time_total) / 1e6)
    if trace is not None:
        write_trace(profiler, trace)
    averages = profiler.key_averages()
    tables = {"operators": operators(averages, cuda=cuda, count=count), "kernels": device_kernels(averages, count=count) if cuda else []}
    return {**tables, "clock": "device" if cuda else "host", **found}


def operators(averages: Iterable[Any], *, cuda: bool, count: int) -> list[dict[str, Any]]:
    """The operators that took most time of their own: name, calls, seconds; without our own marks."""
    key = "self_device_time_total" if cuda else "self_cpu_time_total"
    return _most([one for one in averages if _is_of_the_host(one)], "operator", key, count)


def device_kernels(averages: Iterable[Any], *, count: int) -> list[dict[str, Any]]:
    """The kernels and copies that took most time on the device; without the spans that annotations of the host have there."""
    found = [one for one in averages if not _is_of_the_host(one) and not getattr(one, "is_user_annotation", False)]
    return _most(found, "kernel", "self_device_time_total", count)


def _most(found: Iterable[Any], what: str, key: str, count: int) -> list[dict[str, Any]]:
    chosen = sorted((one for one in found if not one.key.startswith(modules.OURS)), key=lambda one: -getattr(one, key))
    return [{what: one.key, "calls": one.count, "seconds": getattr(one, key) / 1e6} for one in chosen[:count]]


def _is_of_the_host(event: Any) -> bool:
    return str(event.device_type).endswith("CPU")


def write_trace(profiler: profile, path: Path) -> Path:
    """The profiler's chrome trace at `path` (.json.gz), for chrome://tracing or ui.perfetto.dev; the file appears whole or not at all.

    An OSError where a disk is full, RuntimeError where the profiler wrote none: what writes it (kineto) only logs that it could not.
    """
    if not path.name.endswith(".json.gz"):
        raise ValueError(f"{path}: a chrome trace is written packed; give a name that ends in .json.gz")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.json.gz")
    try:
        with scratch.folder() as folder:
            plain = folder / "trace.json"
            profiler.export_chrome_trace(str(plain))
            if not is_whole(plain):
                if shutil.disk_usage(folder).free < LITTLE:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
                raise RuntimeError(f"the profiler wrote no whole trace in {folder.parent}")
            with open(plain, "rb") as file, gzip.open(temporary, "wb") as packed:
                shutil.copyfileobj(file, packed)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def is_whole(path: Path) -> bool:
    """Whether the file is JSON that was written to its end, by its last character."""
    if not path.is_file() or not (size := path.stat().st_size):
        return False
    with open(path, "rb") as file:
        file.seek(-min(size, 64), os.SEEK_END)
        return file.read().rstrip().endswith(b"}")


@contextlib.contextmanager
def _profiled(*, cuda: bool) -> Iterator[profile]:
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with _silent(), profile(activities=activities, acc_events=True) as profiler:  # as memory_profiler does
        yield profiler
