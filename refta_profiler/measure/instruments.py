"""The instruments that look closer at a step than its peak and its time, each in a step of its own: what a point's details are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from refta_profiler.errors import FULL, ProfilerError, in_a_line, is_of
from refta_profiler.measure.cuda_history import write_history
from refta_profiler.measure.kernels import kernels
from refta_profiler.measure.memory import MarkedStep
from refta_profiler.measure.module_flops import module_flops
from refta_profiler.measure.out_of_memory import is_out_of_memory
from refta_profiler.measure.saved_tensors import saved_tensors
from refta_profiler.measure.timeline import timeline
from refta_profiler.workload import Workload


def details(
    work: Workload,
    step: MarkedStep,
    *,
    names: Iterable[str] | None = None,
    trace: Path | None = None,
    history: Path | None = None,
) -> dict[str, Any]:
    """What the named instruments (by default all of INSTRUMENTS) say of the step, by the names under which details are stored.

    Keys: timeline, saved, module_flops, operators, device_kernels (on CUDA), modules; trace and history, the names of the files that were
    asked for (a chrome trace, .json.gz, and on CUDA the allocator's history). An instrument that fails has {reason, status} under its own
    name: what it would have said is missing, and the point is measured all the same. step(mark) runs a step.
    """
    found: dict[str, Any] = {}
    for name in INSTRUMENTS if names is None else names:
        try:
            found |= INSTRUMENTS[name](work, step, {"trace": trace, "history": history})
        except Exception as error:  # an instrument looks into what torch does not promise; the measurement stands without it
            if is_of(error, FULL):
                raise  # of a full disk neither the point nor the instrument is to blame: the worker says it
            found[name] = {"reason": in_a_line(error), "status": status_of(error)}
    return found


def status_of(error: Exception) -> str:
    """What a row says of a thing that failed so: an instrument takes memory beside the step's."""
    return "oom" if is_out_of_memory(error) else "unsupported" if isinstance(error, ProfilerError) else "error"


def faults(found: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """{status, note} of every instrument that failed, by its name, of what `details` gave."""
    broken = {name: found[name] for name in INSTRUMENTS if isinstance(found.get(name), dict) and set(found[name]) == {"reason", "status"}}
    return {name: {"status": one["status"], "note": one["reason"]} for name, one in broken.items()}


Files = dict[str, Path | None]


def _kernels(work: Workload, step: MarkedStep, files: Files) -> dict[str, Any]:
    trace = files["trace"]
    found = kernels(work, lambda: step(_nothing), trace=trace)
    operators, on_device = found.pop("operators"), found.pop("kernels")
    return {
        "operators": operators,
        **({"device_kernels": on_device} if on_device else {}),
        "modules": found,
        **({"trace": trace.name} if trace else {}),
    }


def _history(work: Workload, step: MarkedStep, files: Files) -> dict[str, Any]:
    path = files["history"]
    if path is None or next(work.model.parameters()).device.type != "cuda":
        return {}
    return {"history": write_history(lambda: step(_nothing), path).name}


def _nothing(phase: str) -> None:
    """What a step is told to do at the end of a phase that nobody watches."""


INSTRUMENTS: dict[str, Callable[[Workload, MarkedStep, Files], dict[str, Any]]] = {
    "timeline": lambda work, step, files: {"timeline": timeline(work, step)},
    "saved": lambda work, step, files: {"saved": saved_tensors(work, step)},
    "kernels": _kernels,
    "history": _history,
    "module_flops": lambda work, step, files: {"module_flops": module_flops(work)},
}
