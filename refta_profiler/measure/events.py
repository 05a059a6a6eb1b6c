"""What one real step allocates and frees, block by block, from the profiler's event tree: the same for the CPU and for CUDA.

The tree's allocation events carry the address and the bytes that the allocator gave (on CUDA the whole block, as memory_allocated counts
it), which the allocator's own history lacks: that one has the bytes asked for.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.profiler import profile, record_function

from refta_profiler.errors import ProfilerError
from refta_profiler.measure.memory import MARK, MarkedStep, _silent, mark_end, memory_profiler
from refta_profiler.measure.modules import MODULE
from refta_profiler.workload import Workload

MADE = "refta_profiler: made "  # and a number: the events that stand behind an operation, see `record`
# around the step: what CUDA's allocator does within no event of the CPU is not in the tree (profiler_kineto.cpp, materializeOpEvents)
WHOLE = "refta_profiler: step"
Made = Sequence[tuple[int, tuple[int, ...]]]  # what an operation made: (address, shape)


@dataclass(eq=False)
class Block:
    """One block of memory: the phase, operation and module in which it was allocated, and the phase in which it was freed.

    died is the index of the change that freed it, None where it outlives the step. phase is 'before' where it was there already. passes:
    how many backward passes of the step had ended when it came; is_held: it came in a forward and went in a later one, as kept outputs do.
    """

    pointer: int
    nbytes: int
    phase: str = "before"
    operation: str = ""
    module: str = ""
    shape: tuple[int, ...] | None = None
    died: int | None = None
    died_phase: str | None = None
    passes: int = 0
    is_held: bool = False


@dataclass(frozen=True)
class Change:
    """A block allocated (sign 1) or freed (−1), so many seconds after the step's first event."""

    block: Block
    sign: int
    seconds: float
    phase: str


@dataclass
class Recording:
    """A step's changes in order of time; the phases that end, each with how many changes stood before; how long it took."""

    changes: list[Change] = field(default_factory=list)
    ends: list[tuple[str, int]] = field(default_factory=list)
    seconds: float = 0.0

    def live_at(self, count: int) -> list[Block]:
        """The blocks that the step allocated and that are live after the first `count` changes."""
        begun = [change.block for change in self.changes[:count] if change.sign > 0]
        return [block for block in begun if block.died is None or block.died >= count]

    def end_of(self, phase: str) -> int:
        """How many changes stood before the first end of that phase."""
        return next(count for name, count in self.ends if name == phase)

    def highest(self) -> tuple[int, int]:
        """The highest running sum of the changes' bytes, at least 0, and after how many changes it is first reached."""
        running = peak = top = 0
        for index, change in enumerate(self.changes):
            running += change.sign * change.block.nbytes
            if running > peak:
                peak, top = running, index + 1
        return peak, top


def record(work: Workload, step: MarkedStep, *, made: Sequence[Made] = ()) -> Recording:
    """A step's allocations and frees on the model's device. step(mark) runs it and calls mark(phase) at the end of each phase.

    made: by the number of a MADE event, what the operation before it made; filled while the step runs.
    Raises ProfilerError where torch's profiler has no event tree.
    """
    kind = next(work.model.parameters()).device.type
    work.optimizer.zero_grad(set_to_none=True)
    gc.collect()
    with _silent(), memory_profiler() as profiler, record_function(WHOLE):
        step(mark_end)
    return recording_of(in_time(event_tree(profiler)), kind, made)


def event_tree(profiler: profile) -> list[Any]:
    """The roots of the profiler's event tree; a ProfilerError where this torch has none."""
    results: Any = profiler.profiler.kineto_results if profiler.profiler else None
    if not hasattr(results, "experimental_event_tree"):
        raise ProfilerError(f"torch {torch.__version__} has no experimental_event_tree in its profiler, which says what each block is for")
    return results.experimental_event_tree()


def in_time(roots: Sequence[Any]) -> list[tuple[Any, str, str]]:
    """Every event with the operation and the module that it stands in, in order of time."""
    return sorted(_walk(roots), key=lambda one: one[0].start_time_ns)


def _walk(roots: Sequence[Any]) -> Iterator[tuple[Any, str, str]]:
    waiting = [(event, "", "") for event in reversed(roots)]
    while waiting:
        event, operation, module = waiting.pop()
        yield event, operation, module
        if event.name.startswith(MODULE):
            module = event.name.removeprefix(MODULE)
        elif not event.name.startswith((MADE, MARK, WHOLE)):
            operation = event.name
        waiting += [(child, operation, module) for child in reversed(event.children)]


def recording_of(events: Sequence[tuple[Any, str, str]], kind: str, made: Sequence[Made] = ()) -> Recording:
    """The recording that events in order of time make; kind is the device whose memory counts, 'cpu' or 'cuda'."""
    reader = _Reader(events[0][0].start_time_ns if events else 0)
    for event, operation, module in events:
        if event.name.startswith(MARK):
            reader.end(event.name.removeprefix(MARK))
        elif event.name.startswith(MADE):
            reader.shape(made[int(event.name.removeprefix(MADE))])
        elif event.name == "[memory]" and event.extra_fields.device.type == kind:
            reader.change(event, operation, module)
    reader.end("end")
    reader.found.ends.pop()
    reader.found.seconds = (events[-1][0].start_time_ns - reader.start) / 1e9 if events else 0.0
    return reader.found


class _Reader:
    """Follows addresses through the events. A change's phase is known once the phase ends."""

    def __init__(self, start: int) -> None:
        self.start, self.found = start, Recording()
        self.live: dict[int, Block] = {}
        self.waiting: list[tuple[Block, int, float]] = []
        self.passes = 0

    def change(self, event: Any, operation: str, module: str) -> None:
        size, pointer = event.extra_fields.alloc_size, event.extra_fields.ptr
        if size > 0:
            block = self.live[pointer] = Block(pointer, size, operation=operation, module=module)
        else:
            block = self.live.pop(pointer, None) or Block(pointer, -size)
        self.waiting.append((block, 1 if size > 0 else -1, (event.start_time_ns - self.start) / 1e9))

    def shape(self, made: Made) -> None:
        for pointer, shape in made:
            block = self.live.get(pointer)
            if block is not None and block.shape is None:
                block.shape = shape

    def end(self, phase: str) -> None:
        for block, sign, seconds in self.waiting:
            if sign > 0:
                block.phase, block.passes = phase, self.passes
            else:
                block.died, block.died_phase = len(self.found.changes), phase
                block.is_held = block.phase == phase == "forward" and block.passes < self.passes
            self.found.changes.append(Change(block, sign, seconds, phase))
        self.waiting = []
        self.passes += phase == "backward"
        self.found.ends.append((phase, len(self.found.changes)))
