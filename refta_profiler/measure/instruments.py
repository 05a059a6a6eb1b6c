"""The instruments that look closer at a step than its peak and its time, each in a step of its own: what a point's details are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from refta_profiler.measure.kernels import kernels
from refta_profiler.measure.memory import MarkedStep
from refta_profiler.measure.module_flops import module_flops
from refta_profiler.measure.saved_tensors import saved_tensors
from refta_profiler.measure.timeline import timeline
from refta_profiler.workload import Workload


def details(work: Workload, step: MarkedStep, *, names: Iterable[str] | None = None, trace: Path | None = None) -> dict[str, Any]:
    """What the named instruments (by default all of INSTRUMENTS) say of the step, by the names under which details are stored.

    Keys: timeline, saved, module_flops, operators, modules, trace (the file's name, where one was asked for). An instrument that fails has
    {reason}: what it would have said is missing, and the point is measured all the same. step(mark) runs a step.
    """
    found: dict[str, Any] = {}
    for name in INSTRUMENTS if names is None else names:
        try:
            found |= INSTRUMENTS[name](work, step, trace)
        except Exception as error:  # an instrument looks into what torch does not promise; the measurement stands without it
            found[name] = {"reason": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
    return found


def _kernels(work: Workload, step: MarkedStep, trace: Path | None) -> dict[str, Any]:
    found = kernels(work, lambda: step(lambda phase: None), trace=trace)
    operators = found.pop("operators")
    return {"operators": operators, "modules": found} | ({"trace": trace.name} if trace else {})


INSTRUMENTS: dict[str, Callable[[Workload, MarkedStep, Path | None], dict[str, Any]]] = {
    "timeline": lambda work, step, trace: {"timeline": timeline(work, step)},
    "saved": lambda work, step, trace: {"saved": saved_tensors(work, step)},
    "kernels": _kernels,
    "module_flops": lambda work, step, trace: {"module_flops": module_flops(work)},
}
