"""What tests of predictions share: methods on tiny models, and a real step of a point under the instruments, in this process."""

import gc
from dataclasses import dataclass
from typing import Any

import torch
from model_points import point

from refta_profiler import models, workload
from refta_profiler.flops import FlopCounter
from refta_profiler.measure import memory, worker
from refta_profiler.plan import Point

ORDERS = ("shared", "slices", "reconstruct", "reconstruct_recompute", "reconstruct_stack", "fused", "fused_fold")
TARGETS = {name: ["qkv"] if name == "gpt2-tiny" else ["query", "value"] for name in ("vit-tiny", "roberta-tiny", "gpt2-tiny", "llama-tiny")}
torch.set_num_threads(1)  # tests run on busy machines; memory does not depend on it
METHODS: dict[str, dict[str, Any]] = {
    "head": {"method": "head"},
    "full": {"method": "full"},
    "lora": {"method": "lora", "settings": {"rank": 4}, "rank": 4},
    "pissa": {"method": "pissa", "settings": {"rank": 4}, "rank": 4},
    **{f"refta/{order}": {"method": "refta", "settings": {"rank": 5, "transform": "dct"}, "rank": 5, "order": order} for order in ORDERS},
}


@dataclass(frozen=True)
class Measured:
    """What the instruments say of one step."""

    static_bytes: int
    peak_allocated_bytes: int
    peak_by_phase: dict[str, int]
    flops_by_phase: dict[str, int]
    trainable_parameters: int


def tiny(model: str, label: str, **changes: Any) -> Point:
    """A point of a tiny model with one of METHODS on it."""
    return point(model, **{"label": label, "targets": TARGETS[model], **METHODS[label], **changes})


def measured(one: Point) -> Measured:
    """A real step of the point, after one that makes the optimizer's state."""
    work = workload.build(one, torch.device("cpu"))
    gc.collect()
    with models.without_packing():
        workload.training_step(work)
        memory.see_outputs(work)
        static = memory.static_bytes(work)
        peaks = memory.cpu_peaks(work, lambda mark: workload.training_step(work, mark))
        counter = FlopCounter()
        worker._count(lambda mark: workload.training_step(work, mark), counter)
    trainable = sum(parameter.numel() for parameter in work.model.parameters() if parameter.requires_grad)
    by_phase = {phase: peaks[f"{phase}_peak_bytes"] for phase in workload.PHASES}
    return Measured(static, peaks["peak_allocated_bytes"], by_phase, counter.by_phase, trainable)
