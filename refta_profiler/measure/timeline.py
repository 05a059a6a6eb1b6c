"""A step's memory over time by category: every block of the profiler's recording sorted by the dry run's own rule."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import record_function
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from refta_profiler.categories import CATEGORIES, category_of, rebuilt_shapes
from refta_profiler.measure.events import MADE, Block, Made, Recording, record
from refta_profiler.measure.memory import ROUNDING, MarkedStep, see_outputs
from refta_profiler.workload import Workload

SAMPLES = 400


def timeline(work: Workload, step: MarkedStep, *, samples: int = SAMPLES) -> dict[str, Any]:
    """The step's memory over time: {seconds, phase, bytes: {category: […]}, ends, peak_index, peak_bytes, at_peak: {category: bytes}}.

    At every moment the categories sum to what is live. At most about `samples` moments, among them the peak and the ends of phases.
    step(mark) runs the step and calls mark(phase) at the end of each phase. Seconds are those under the profiler, which slows a step.
    Raises ProfilerError where torch's profiler has no event tree.
    """
    see_outputs(work)
    work.optimizer.zero_grad(set_to_none=True)
    gc.collect()
    before, rebuilt, shapes = static_by_category(work), rebuilt_shapes(work), Shapes()
    outliving: dict[str, set[int]] = {}

    def observed(mark: Callable[[str], Any]) -> None:
        def end(phase: str) -> None:
            mark(phase)
            outliving.update(outliving_pointers(work))

        with shapes if rebuilt else contextlib.nullcontext():  # shapes tell rebuilt weights alone
            step(end)

    keeps = work.outputs is not None

    def category(block: Block) -> str:
        if keeps and block.phase == "before":  # of the outputs of the step before
            return "activations"
        return sort(block, outliving, rebuilt)

    recording = record(work, observed, made=shapes.made)
    if keeps:
        before = with_beside(before, recording)
    return sampled(recording, before, category, samples=samples)


class Shapes(TorchDispatchMode):
    """Writes down what every operation makes, as (address, shape), with an event of that number among the profiler's; keeps no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[Made] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [one for one in tree_leaves(out) if isinstance(one, torch.Tensor)]
        if tensors:
            self.made.append([(one.untyped_storage().data_ptr(), tuple(one.shape)) for one in tensors])
            with record_function(f"{MADE}{len(self.made) - 1}"):
                pass
        return out


def static_by_category(work: Workload) -> dict[str, int]:
    """Bytes live before the step by category; on CUDA in whole blocks, with what belongs to no tensor of the step as workspace."""
    device = next(work.model.parameters()).device
    found: dict[str, int] = dict.fromkeys(CATEGORIES, 0)
    seen: set[int] = set()
    for category, tensors in work.static_tensors().items():
        for storage in (one.untyped_storage() for one in tensors if one.device == device):
            if storage.data_ptr() not in seen:
                seen.add(storage.data_ptr())
                found[category] += storage.nbytes() if device.type == "cpu" else -(-storage.nbytes() // ROUNDING) * ROUNDING
    found["activations"] += work.beside_outputs
    if device.type == "cuda":
        found["workspace"] = torch.cuda.memory_allocated() - sum(found.values())
    return found


def with_beside(before: dict[str, int], recording: Recording) -> dict[str, int]:
    """The bytes before a step that finds the outputs of the one before, with what their graph holds beside them as activations too.

    On CUDA nobody counted it, and it stands among the workspace until here; the step frees it with the outputs. On the CPU the profiler
    tells of no such free, and `work.beside_outputs` has it.
    """
    held = sum(change.block.nbytes for change in recording.changes if change.sign < 0 and change.block.phase == "before")
    beside = max(0, held - before["activations"])
    return {**before, "workspace": before["workspace"] - beside, "activations": before["activations"] + beside}


def outliving_pointers(work: Workload) -> dict[str, set[int]]:
    """The addresses of gradients and of the optimizer's state, of which a step may leave behind what it allocated."""
    gradients = [one.grad for one in work.model.parameters() if one.grad is not None]
    return {
        name: {one.untyped_storage().data_ptr() for one in tensors}
        for name, tensors in (("gradients", gradients), ("optimizer", work.static_tensors()["optimizer"]))
    }


def sort(block: Block, outliving: dict[str, set[int]], rebuilt: set[tuple[int, ...]]) -> str:
    """The category of a block that the step allocated; outliving: the addresses, by category, of what is there when it ends."""
    if block.died is None:
        for category, addresses in outliving.items():
            if block.pointer in addresses:
                return category
    return category_of(block.shape, (block.phase, block.died_phase), rebuilt, is_held=block.is_held)


def sampled(recording: Recording, before: dict[str, int], category: Callable[[Block], str], *, samples: int) -> dict[str, Any]:
    """The timeline of a recording; before: bytes by category when it starts."""
    _, top = recording.highest()
    chosen = moments(recording, top, samples=samples)
    values = dict(before)
    rows = {0: dict(before)}
    for index, change in enumerate(recording.changes):
        values[category(change.block)] += change.sign * change.block.nbytes
        if index + 1 in chosen:
            rows[index + 1] = dict(values)
    seconds = [recording.changes[count - 1].seconds if count else 0.0 for count in rows]
    return {
        "seconds": seconds,
        "phase": [recording.changes[max(count - 1, 0)].phase for count in rows] if recording.changes else ["forward"],
        "bytes": {name: [row[name] for row in rows.values()] for name in CATEGORIES},
        "ends": [[phase, list(rows).index(count)] for phase, count in recording.ends],
        "peak_index": list(rows).index(top),
        "peak_bytes": sum(rows[top].values()),
        "at_peak": rows[top],
    }


def moments(recording: Recording, top: int, *, samples: int) -> set[int]:
    """After how many changes to look: the peak, the ends of phases, and the highest and the last moment of equal spans of time."""
    spans = max(1, (samples - len(recording.ends) - 2) // 2)
    width = (recording.changes[-1].seconds if recording.changes else 0.0) / spans or 1.0
    highest: dict[int, tuple[int, int]] = {}  # by span: (live bytes, count)
    last: dict[int, int] = {}
    running = 0
    for index, change in enumerate(recording.changes):
        running += change.sign * change.block.nbytes
        span = min(int(change.seconds / width), spans - 1)
        highest[span] = max(highest.get(span, (running, index + 1)), (running, index + 1), key=lambda one: one[0])
        last[span] = index + 1
    return {top, *(count for _, count in recording.ends), *(count for _, count in highest.values()), *last.values()}


def peak_values(found: dict[str, Any]) -> dict[str, int]:
    """The categories at a timeline's peak by the names of their metrics."""
    return {f"peak_{category}_bytes": value for category, value in found["at_peak"].items()}
