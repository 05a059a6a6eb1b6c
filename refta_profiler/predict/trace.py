"""What one followed step tells of a point: blocks and events whose sizes are affine in the batch, so that few dry runs serve many batches.

A step's operations do not depend on its batch, only their sizes do, and those are affine in it. Between two traces of one variant that list
the same operations in the same order, a block of a third batch is on the line through the two; a third trace proves it before any is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from refta.shapes import StackShape
from refta_profiler.devices import Device
from refta_profiler.predict.row_sums import SCRATCH, RowSum, threads_of
from refta_profiler.predict.storage import Block, Operation, Stream


@dataclass
class Trace:
    """One followed step of a point, with the optimizer's state appearing in it.

    initial: (category, bytes) of what is live before; without a category, of what went when the method was put on. persistent: numbers of
    the blocks that outlive the step (the optimizer's state). held: numbers of the kept outputs' blocks, which go when the next step's first
    forward has returned: before event `replaced` of a step. products: how many events there were when the first matrix product of the
    forward and of the backward had its result; biased: the first that adds a bias, of the phases that have one. row_sums: what takes
    scratch on a GPU. operations: all that ran.
    """

    batch: int
    initial: list[tuple[str, int]]
    stream: Stream
    persistent: set[int]
    products: tuple[int, int]
    flops_by_phase: dict[str, int]
    operations: list[Operation]
    trainable_parameters: int
    adapter_parameters: int
    shapes: list[StackShape]
    rebuilt: set[tuple[int, ...]]
    sent_bytes: int = 0  # that the rank sends to others (collectives.py); 0 for one process
    biased: tuple[int, ...] = ()
    row_sums: tuple[RowSum, ...] = ()
    held: tuple[int, ...] = ()
    replaced: int = 0
    branches: int = 0  # on the numbers of a tensor, all taken as true
    note: str = ""
    repeated: str = ""  # an adapted module that runs more than once in a forward, in words; '' where none does

    def signature(self) -> tuple:
        """What two traces must agree in for a third to lie between them: operations, order, phases; everything but sizes."""
        blocks = tuple(
            (block.phase, block.operation, block.died_phase, block.is_gradient, len(block.shape)) for block in self.stream.blocks
        )
        operations = tuple((one.phase, one.name, one.dtype, len(one.product)) for one in self.operations)
        initial = tuple(name for name, _ in self.initial)
        kept = self.held, self.replaced
        sums = tuple((one.place, one.phase, one.itemsize) for one in self.row_sums)
        return blocks, tuple(self.stream.events), initial, tuple(self.flops_by_phase), self.products, self.biased, kept, operations, sums

    def moved(self, stream: Stream, place: Callable[[int], int]) -> Trace:
        """The trace with another stream, in which what was at a place is where `place` says."""
        products, sums = self.products, self.row_sums
        return replace(
            self,
            stream=stream,
            products=(place(products[0]), place(products[1])),
            biased=tuple(map(place, self.biased)),
            row_sums=tuple(replace(one, place=place(one.place)) for one in sums),
            replaced=place(self.replaced),
        )


class NotAffineError(Exception):
    """Two traces of one variant do not determine a third."""


def between(first: Trace, second: Trace, batch: int) -> Trace:
    """The trace of another batch on the line through two; NotAffineError where they differ in more than sizes.

    Blocks of 30 and 50 bytes at batches 2 and 4 have 90 at batch 8.
    """
    if first.signature() != second.signature():
        raise NotAffineError

    def line(one: int, other: int) -> int:
        total, rest = divmod((other - one) * (batch - first.batch), second.batch - first.batch)
        if rest:
            raise NotAffineError
        return one + total

    blocks = [
        replace(one, nbytes=line(one.nbytes, other.nbytes)) for one, other in zip(first.stream.blocks, second.stream.blocks, strict=True)
    ]
    initial = [(name, line(one, other)) for (name, one), (_, other) in zip(first.initial, second.initial, strict=True)]
    flops = {phase: line(one, second.flops_by_phase[phase]) for phase, one in first.flops_by_phase.items()}
    operations = [
        replace(
            one,
            flops=line(one.flops, other.flops),
            nbytes=line(one.nbytes, other.nbytes),
            product=tuple(line(*sizes) for sizes in zip(one.product, other.product, strict=True)),
        )
        for one, other in zip(first.operations, second.operations, strict=True)
    ]
    sums = tuple(
        replace(one, inputs=line(one.inputs, other.inputs), outputs=line(one.outputs, other.outputs))
        for one, other in zip(first.row_sums, second.row_sums, strict=True)
    )
    stream = Stream(blocks, first.stream.events)
    return replace(first, batch=batch, initial=initial, stream=stream, flops_by_phase=flops, operations=operations, row_sums=sums)


def same_sizes(one: Trace, other: Trace) -> bool:
    """Whether two traces of one batch agree in all that a prediction uses but how fast kernels run, which is no line in the batch."""
    return (
        one.signature() == other.signature()
        and [block.nbytes for block in one.stream.blocks] == [block.nbytes for block in other.stream.blocks]
        and one.initial == other.initial
        and one.flops_by_phase == other.flops_by_phase
        and [operation.sizes for operation in one.operations] == [operation.sizes for operation in other.operations]
        and one.sent_bytes == other.sent_bytes
        and one.row_sums == other.row_sums
    )


@dataclass
class Sweep:
    """The traces of one variant over batches; followed where needed, on the proven line where possible.

    Batch 1 is always followed: torch treats axes of length 1 apart (a transposed tensor is then contiguous, and is not copied).
    """

    follow: Callable[[int], Trace]
    followed: dict[int, Trace] = field(default_factory=dict)
    proven: bool | None = None  # that the batches lie on a line; None: not yet tried

    def trace(self, batch: int) -> Trace:
        """The trace of that batch."""
        if batch in self.followed:
            return self.followed[batch]
        bases = [self.followed[known] for known in sorted(self.followed) if known > 1][:2]
        if batch > 1 and len(bases) == 2 and self.proven:
            try:
                return between(bases[0], bases[1], batch)
            except NotAffineError:
                self.proven = False
        found = self.follow(batch)
        if batch > 1 and len(bases) == 2 and self.proven is None:
            self.proven = self._proves(bases, found)
        self.followed[batch] = found
        return found

    @staticmethod
    def _proves(bases: list[Trace], found: Trace) -> bool:
        try:
            return same_sizes(between(bases[0], bases[1], found.batch), found)
        except NotAffineError:
            return False


def with_scratch(trace: Trace, device: Device) -> Trace:
    """The trace with the blocks that its sums over rows take and free at once; as it is where the GPU's multiprocessors are not known."""
    threads = threads_of(device)
    taken = [(one, sizes) for one in trace.row_sums if threads and (sizes := one.scratch(*threads))]
    if not taken:
        return trace
    blocks, events, start = list(trace.stream.blocks), [], 0
    for one, sizes in taken:
        numbers = range(len(blocks), len(blocks) + len(sizes))
        named = zip(numbers, sizes, strict=True)
        blocks += [Block(number, size, one.phase, SCRATCH, (size,), one.place, one.place, one.phase) for number, size in named]
        events += trace.stream.events[start : one.place]
        events += [*((number, 1) for number in numbers), *((number, -1) for number in reversed(numbers))]
        start = one.place
    events += trace.stream.events[start:]
    return trace.moved(Stream(blocks, events), lambda place: place + sum(2 * len(sizes) for one, sizes in taken if one.place < place))


STEPS = 4  # that are replayed where a step finds another's outputs: the blocks of two steps take turns, and have settled by then


def steps(trace: Trace) -> tuple[Stream, int]:
    """The stream of several steps, and where those that count start: with the second, each being the first without what outlives it.

    Two, or four where a step's outputs live until they are replaced in the next one.
    """
    events = trace.stream.events
    again = [event for event in events if event[0] not in trace.persistent]
    if not trace.held:
        return Stream(trace.stream.blocks, [*events, *again]), len(events)
    place = sum(number not in trace.persistent for number, _ in events[: trace.replaced])
    blocks, found, old = list(trace.stream.blocks), list(events), trace.held
    for _ in range(STEPS - 1):
        new = {number: len(blocks) + index for index, number in enumerate(trace.held)}
        blocks += [replace(blocks[number], number=copy) for number, copy in new.items()]
        step = [(new.get(number, number), sign) for number, sign in again]
        found += [*step[:place], *((number, -1) for number in old), *step[place:]]
        old = tuple(new.values())
    return Stream(blocks, found), len(events)
