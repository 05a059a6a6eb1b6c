"""One point's measurement, in a process of its own: `python -m refta_profiler.measure.worker REQUEST ANSWER`.

REQUEST is a JSON file {parent, point, device, warmup, steps, passes, instruments, trace, history}; ANSWER is written whole.
Passes: `time` is always made; `setup_memory` watches the set-up, `memory` brings the instruments, each on a step of its own.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import os
import statistics
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refta_profiler import models, orphans, own_code
from refta_profiler.errors import STORAGE, is_of
from refta_profiler.measure import environment, isolate
from refta_profiler.measure.executors import EXECUTOR
from refta_profiler.measure.out_of_memory import is_out_of_memory

if TYPE_CHECKING:
    import torch

    from refta_profiler.flops import FlopCounter
    from refta_profiler.measure.memory import MarkedStep
    from refta_profiler.measure.timing import Times
    from refta_profiler.plan import Point
    from refta_profiler.workload import Workload

BARE_STEPS = 5  # timed as a whole, between marked ones, to show that the marks cost nothing

Build = Callable[["Point", "torch.device | str"], Any]  # makes a point's model on a device


def main(arguments: list[str], build: Build = models.build) -> int:
    """0 with the answer written, whatever the measurement came to; NOT_WRITTEN where it cannot be.

    build: what makes the model, or has it already (nursery.py).
    """
    request = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    orphans.die_with_parent(request["parent"])
    try:
        answer = measure(request, build)
    except Exception as error:  # every failure of a point is a row: the driver writes it with its reason
        answer = {"failure": {**describe_failure(error, request["point"]["settings"].get("call")), "at": time.time()}}
        with contextlib.suppress(Exception):  # where CUDA does not start, or has broken down, that is the failure, which is told already
            answer |= {"where": environment.where(request["device"])} if "torch" in sys.modules else {}
    return write(answer, Path(arguments[1]))


def write(answer: dict[str, Any], path: Path) -> int:
    """0 with the answer at the path, whole; NOT_WRITTEN with the reason on the error output where it cannot be written."""
    temporary = path.with_name(path.name + ".part")
    try:
        temporary.write_text(json.dumps(answer), encoding="utf-8")
        os.replace(temporary, path)
    except OSError as fault:  # a full disk says nothing of the point: the driver has it measured again on resuming
        print(f"{path.parent}: {fault.strerror}", file=sys.stderr)
        return isolate.NOT_WRITTEN
    return 0


def describe_failure(error: BaseException, call: str | None = None) -> dict[str, str]:
    """Status and reason of a failure: out of memory, an unsupported setting, or an error with the end of its traceback.

    call: the user's own code that the point runs, if it does; the place is told in it.
    """
    from refta.errors import SettingError
    from refta_profiler.errors import OwnCodeError

    if is_out_of_memory(error):
        return {"status": "oom", "note": f"{type(error).__name__}: {error}".splitlines()[0]}
    if isinstance(error, SettingError):
        return {"status": "unsupported", "note": str(error)}
    return {
        "status": "error",
        "note": str(error) if isinstance(error, OwnCodeError) else own_code.told(error, call),
        "traceback": "".join(traceback.format_exception(error))[-isolate.TOLD :],
        **({"by": EXECUTOR} if is_of(error, STORAGE) else {}),
    }


def measure(request: dict[str, Any], build: Build) -> dict[str, Any]:
    """The passes that were asked for, each in steps of its own: set-up, time, memory, FLOPs, operators."""
    warnings.simplefilter("ignore")

    from refta_profiler.measure import group
    from refta_profiler.plan import Point

    point = Point.from_json(json.dumps(request["point"]))
    with group.joined(request) as device:
        return _measured(point, device, request, build)


def _measured(point: Point, device: torch.device, request: dict[str, Any], build: Build) -> dict[str, Any]:
    import torch

    from refta_profiler.measure import afterwards, gpu, timing

    passes = request["passes"]
    work, answer = _set_up(point, device, build, memory="setup_memory" in passes)
    gc.collect()
    if device.type == "cuda":  # what the allocator keeps of set-up's temporaries would count into the bytes that the step reserves
        torch.cuda.empty_cache()
    whole = "memory" in passes
    with models.without_packing():
        steps, before = request["steps"], _gpu(device)
        times = timing.times(work, warmup=request["warmup"], steps=steps, bare=min(steps, BARE_STEPS) if whole else 0)
        answer |= {"samples": times.samples, "loads": times.loads, "load": times.load, "bare": times.bare}
        answer["gpu"] = gpu.over(before, _gpu(device))
        answer["where"] = environment.where(device.type)
        if whole:
            found = _instruments(work, times, request)
            answer = {**answer, **found, "values": {**answer["values"], **found["values"]}}
            answer["afterwards"] = afterwards.measure(work)  # last: it leaves the model without its adapter
    return answer


def _set_up(point: Point, device: torch.device, build: Build, *, memory: bool) -> tuple[Workload, dict[str, Any]]:
    """The workload, and what attaching the method took; its peak is measured in a process that is not asked for its time alone."""
    import torch

    from refta_profiler import distributed, parallel, workload
    from refta_profiler.measure import setup, timing

    _load_what_attaching_takes(point)
    place = torch.device("cpu") if parallel.is_sharded(point.parallel) else device  # a sharded model may be too large for one device
    seconds = 0.0

    def attach(model: Any) -> Any:
        nonlocal seconds
        adapted: list[Any] = []
        seconds = timing.seconds_of(lambda: adapted.append(workload.attach(model, point)), cuda=place.type == "cuda")
        return adapted[0]

    answer: dict[str, Any] = {"notes": [], "values": {}}
    if memory:
        peak_of = setup.cuda_peak if place.type == "cuda" else setup.cpu_peak
        model, adapted, answer["values"]["setup_peak_bytes"] = peak_of(lambda: build(point, place), attach)
    else:
        model = build(point, place)
        adapted = attach(model)
    model.train()
    optimizer = workload.make_optimizer(model, point, foreach=device.type == "cuda")
    work = distributed.spread(workload.Workload(point, model, adapted, optimizer, models.batch(point, device)))
    answer |= {"setup_seconds": seconds, "setup_watched": memory and place.type == "cpu", "notes": adapted.notes}
    return work, answer


def _load_what_attaching_takes(point: Point) -> None:
    """The libraries that methods are attached by, and the user's own module: loading them is no part of any method's set-up.

    peft is loaded for every method, as in the nursery, so that all are set up in processes that have the same loaded.
    """
    from refta import library
    from refta_profiler import own_adapter

    library.load()
    if point.method == own_code.NAME:
        own_adapter.function_of(point)


def _instruments(work: Workload, times: Times, request: dict[str, Any]) -> dict[str, Any]:
    """What the instruments say, each on a step of its own, and what each took, in timed steps.

    overhead: of the whole pass, with what the instrument does before and after its step; step_overhead: of the step while it watches.
    faults: by the name of an instrument that failed, its status and note.
    """
    from refta_profiler import flops
    from refta_profiler.measure import instruments, memory, timeline, timing

    cuda, step = timing.on_cuda(work), timing.TimedStep(work)
    counter = flops.FlopCounter()
    files = {name: Path(request[name]) if request.get(name) else None for name in ("trace", "history")}
    passes: dict[str, Callable[[], dict[str, Any]]] = {
        "memory": lambda: {"peaks": memory.cuda_peaks(work, step) if cuda else _cpu_peaks(work, step)},
        "flops": lambda: _count(step, counter) or {},
        **({"communication": lambda: {"sent": _sent(work, step)}} if work.point.parallel else {}),
        **{name: functools.partial(instruments.details, work, step, names=[name], **files) for name in request["instruments"]},
    }
    found: dict[str, Any] = {}
    usual = statistics.median(sum(one.values()) for one in times.samples)
    overhead, of_steps = {"time": usual / statistics.median(times.bare)}, {}
    for name, run in passes.items():
        step.seconds.clear()
        overhead[name] = timing.seconds_of(lambda run=run: found.update(run()), cuda=cuda) / usual
        if step.seconds:
            of_steps[name] = statistics.median(step.seconds) / usual
    values = {
        **found.pop("peaks"),
        **({"communicated_bytes": found.pop("sent")} if "sent" in found else {}),
        **(timeline.peak_values(found["timeline"]) if "at_peak" in found.get("timeline", {}) else {}),
        "forward_flops": counter.by_phase.get("forward", 0),
        "step_flops": counter.total(),
        "trainable_parameters": sum(one.numel() for one in work.model.parameters() if one.requires_grad),
        "adapter_parameters": work.adapted.trainable_parameters,
    }
    faults = instruments.faults(found)
    return {**found, "values": values, "overhead": overhead, "step_overhead": of_steps, "faults": faults}


def _cpu_peaks(work: Workload, step: Callable[..., Any]) -> dict[str, int]:
    from refta_profiler.measure import memory

    peaks = memory.cpu_peaks(work, step)  # which finds what kept outputs hold
    return {"static_bytes": memory.static_bytes(work), **peaks}


def _gpu(device: torch.device) -> dict[str, Any] | None:
    """The clocks and heat of this rank's GPU, now."""
    from refta_profiler.measure import gpu

    return gpu.conditions(device.index or 0) if device.type == "cuda" else None


def _sent(work: Workload, step: Callable[[], Any]) -> int:
    """Bytes that the rank sends in a step."""
    from refta_profiler import collectives, parallel

    with collectives.Counted() as counted:
        step()
    if counted.sent.unknown:
        raise RuntimeError(f"collectives that are not counted: {', '.join(counted.sent.unknown)}")
    return counted.sent.bytes(parallel.world(work.point.parallel))


def _count(step: MarkedStep, counter: FlopCounter) -> None:
    """The step's FLOPs, by phase, in the counter."""
    following = {"forward": "backward", "backward": "forward", "optimizer": "end"}

    def mark(phase: str) -> None:
        counter.phase = following[phase]

    with counter:
        step(mark)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
