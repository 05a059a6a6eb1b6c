"""One point's measurement, in a process of its own: `python -m refta_profiler.measure.worker REQUEST ANSWER`.

REQUEST is a JSON file {point, device, warmup, steps, repeats}; ANSWER is written whole: {values, samples, operators, notes} or {failure}.
"""

from __future__ import annotations

import functools
import gc
import json
import os
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

from refta_profiler import orphans, own_code


def main(arguments: list[str]) -> int:
    """0 with the answer written, whatever the measurement came to."""
    orphans.die_with_parent()
    request = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    try:
        answer = measure(request)
    except Exception as error:  # every failure of a point is a row: the driver writes it with its reason
        answer = {"failure": describe_failure(error, request["point"]["settings"].get("call"))}
    temporary = Path(arguments[1] + ".part")
    temporary.write_text(json.dumps(answer), encoding="utf-8")
    os.replace(temporary, arguments[1])
    return 0


def describe_failure(error: BaseException, call: str | None = None) -> dict[str, str]:
    """Status and reason of a failure: out of memory, an unsupported setting, or an error with the end of its traceback.

    call: the user's own code that the point runs, if it does; the place is told in it.
    """
    from refta.errors import SettingError
    from refta_profiler.errors import OwnCodeError

    text = f"{type(error).__name__}: {error}"
    short = text.splitlines()[0]
    if (
        type(error).__name__ == "OutOfMemoryError"
        or isinstance(error, MemoryError)
        or "can't allocate memory" in text
        or "out of memory" in text
    ):
        return {"status": "oom", "note": short}
    if isinstance(error, SettingError):
        return {"status": "unsupported", "note": str(error)}
    return {
        "status": "error",
        "note": str(error) if isinstance(error, OwnCodeError) else own_code.told(error, call),
        "traceback": "".join(traceback.format_exception(error))[-4000:],
    }


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """The passes in turn: set-up, time, memory, FLOPs, operators."""
    warnings.simplefilter("ignore")
    import torch

    from refta_profiler import flops, models, workload
    from refta_profiler.measure import kernels, memory, timing
    from refta_profiler.plan import Point

    point = Point.from_json(json.dumps(request["point"]))
    device = torch.device(request["device"])
    model = models.build(point, device)
    started = time.perf_counter()
    adapted = workload.attach(model, point)
    setup = time.perf_counter() - started
    model.train()
    optimizer = workload.make_optimizer(model, point, foreach=device.type == "cuda")
    work = workload.Workload(point, model, adapted, optimizer, models.batch(point, device))
    gc.collect()
    with models.without_packing():
        found = [timing.samples(work, warmup=request["warmup"] if i == 0 else 0, steps=request["steps"]) for i in range(request["repeats"])]
        step = functools.partial(workload.training_step, work)
        peaks = (
            memory.cuda_peaks(work, step)
            if device.type == "cuda"
            else {"static_bytes": memory.static_bytes(work), "peak_allocated_bytes": memory.cpu_peak(work, step)}
        )
        counter = flops.FlopCounter()
        _count(work, counter)
        operators = kernels.top_operators(step)
    all_samples = [one for repeat in found for one in repeat]
    values = {
        **timing.summary(all_samples),
        **peaks,
        "setup_seconds": setup,
        "forward_flops": counter.by_phase.get("forward", 0),
        "step_flops": counter.total(),
        "trainable_parameters": sum(one.numel() for one in model.parameters() if one.requires_grad),
        "adapter_parameters": adapted.trainable_parameters,
    }
    return {"values": values, "samples": found, "operators": operators, "notes": adapted.notes, "load_average": list(os.getloadavg())}


def _count(work, counter) -> None:
    from refta_profiler import workload

    following = {"forward": "backward", "backward": "forward", "optimizer": "end"}

    def mark(phase: str) -> None:
        counter.phase = following[phase]

    with counter:
        workload.training_step(work, mark)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
