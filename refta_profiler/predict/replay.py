"""A followed stream of allocations replayed on a device's memory: peaks, what a step starts with, bytes by category."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from refta_profiler.categories import CATEGORIES
from refta_profiler.predict.allocator import CachingAllocator, rounded
from refta_profiler.predict.storage import Block, Stream
from refta_profiler.workload import PHASES


class Held(Protocol):
    """What an allocation holds."""

    size: int


class Memory(Protocol):
    """A device's memory."""

    allocated: int
    reserved: int
    peak_reserved: int

    def allocate(self, nbytes: int) -> Held:
        """Take that many bytes."""
        ...

    def release(self, block: Any) -> None:
        """Give them back."""
        ...

    def empty_cache(self) -> None:
        """Give the device back what is reserved and not used; peaks start anew."""
        ...


@dataclass
class Piece:
    """Bytes taken as they are."""

    size: int


class PlainMemory:
    """Memory that takes exactly what is asked, as the CPU's allocator is counted."""

    def __init__(self) -> None:
        self.allocated = self.reserved = self.peak_reserved = 0

    def allocate(self, nbytes: int) -> Piece:
        """Take that many bytes."""
        self.allocated += nbytes
        return Piece(nbytes)

    def release(self, block: Held) -> None:
        """Give them back."""
        self.allocated -= block.size

    def empty_cache(self) -> None:
        """Nothing: it reserves nothing."""


@dataclass(frozen=True)
class Replayed:
    """Bytes: the step's peak, what the allocator reserved at most (None for plain memory), what was held when the step started."""

    peak_allocated: int
    peak_reserved: int | None
    static: int
    by_category: dict[str, int]
    by_phase: dict[str, int]  # the highest of each phase, what it starts with included


def replay(
    make_memory: Callable[[], Memory],
    initial: Sequence[tuple[str, int]],
    stream: Stream,
    boundary: int,
    category: Callable[[Block], str],
    *,
    workspaces: Sequence[tuple[int, int]] = (),
) -> Replayed:
    """The stream's peak from event `boundary` on, where the steps that count start.

    initial: (category, bytes) of what is there before the stream; without a category: of what goes when the method is put on. category:
    of a block of the stream at the peak; what one that was there before the step holds beyond its bytes counts as workspace, since it is
    no tensor's: 1 MiB of a weight of 25 MiB, for which CUDA's allocator takes a segment of 26 MiB that it does not split.
    workspaces: (event, bytes) that the device's libraries take before that event and keep.
    """
    run = _Pass(make_memory(), initial, stream, workspaces)
    static = peak = top = 0
    phases = PhasePeaks()
    for index in range(len(stream.events) + 1):
        if index == boundary:
            static, peak, top = run.memory.allocated, run.memory.allocated, index
        if index >= boundary:
            phases.see(_phase_of(stream, index), run.memory.allocated)
        if index < len(stream.events):
            run.advance(index)
        if index >= boundary:
            phases.see(_phase_of(stream, index), run.memory.allocated)
            if run.memory.allocated > peak:
                peak, top = run.memory.allocated, index + 1
    reserved = run.memory.peak_reserved if isinstance(run.memory, CachingAllocator) else None
    return Replayed(peak, reserved, static, run.by_category(boundary, top, category), phases.found)


def _phase_of(stream: Stream, index: int) -> str:
    """The phase in which the event of that index happens; 'end' after the last."""
    if index >= len(stream.events):
        return "end"
    number, sign = stream.events[index]
    block = stream.blocks[number]
    return block.phase if sign > 0 else block.died_phase or "end"


class PhasePeaks:
    """The highest of each phase; a phase without an event has what the one before it left."""

    def __init__(self) -> None:
        self.found: dict[str, int] = {}

    def see(self, phase: str, allocated: int) -> None:
        """That many bytes are live before or after an event of that phase."""
        if allocated <= self.found.get(phase, -1):
            return
        until = PHASES.index(phase) if phase in PHASES else len(PHASES)
        for passed in PHASES[:until]:
            self.found.setdefault(passed, allocated)
        if phase in PHASES:
            self.found[phase] = max(self.found.get(phase, 0), allocated)


class _Pass:
    """One run over the stream."""

    def __init__(self, memory: Memory, initial: Sequence[tuple[str, int]], stream: Stream, workspaces: Sequence[tuple[int, int]]) -> None:
        self.memory, self.stream = memory, stream
        self.held: dict[str, int] = dict.fromkeys(CATEGORIES, 0)
        self.live: dict[int, Held] = {}
        self.taken: list[int] = []  # bytes that each event took, as the memory counts them
        self.workspaces: list[tuple[int, int]] = []  # (event, bytes)
        self.waiting = sorted(workspaces)
        gone: list[Held] = []
        for name, nbytes in initial:
            held = memory.allocate(nbytes)
            if name:
                self.hold(self.held, name, nbytes, held.size)
            else:
                gone.append(held)
        for held in gone:
            memory.release(held)
        memory.empty_cache()

    def advance(self, index: int) -> None:
        """The event of that index, and the workspaces that are taken before it."""
        while self.waiting and self.waiting[0][0] <= index:
            self.workspaces.append((index, self.memory.allocate(self.waiting.pop(0)[1]).size))
        number, sign = self.stream.events[index]
        if sign > 0:
            held = self.live[number] = self.memory.allocate(self.stream.blocks[number].nbytes)
            self.taken.append(held.size)
        else:
            self.memory.release(self.live.pop(number))
            self.taken.append(0)

    def hold(self, found: dict[str, int], category: str, nbytes: int, size: int) -> None:
        """Count what is there before the step: its bytes, as the memory rounds them, and the rest of what it holds as workspace."""
        own = rounded(nbytes) if isinstance(self.memory, CachingAllocator) else nbytes
        found[category] += own
        found["workspace"] += size - own

    def by_category(self, boundary: int, top: int, category: Callable[[Block], str]) -> dict[str, int]:
        """Bytes held after the first `top` events, by category; from event `boundary` on it is the step's."""
        found = dict(self.held)
        found["workspace"] += sum(size for index, size in self.workspaces if index < top)
        live: dict[int, tuple[int, int]] = {}  # by block: the event that took it, and how much
        for index, (number, sign) in enumerate(self.stream.events[:top]):
            if sign > 0:
                live[number] = index, self.taken[index]
            else:
                del live[number]
        for number, (index, size) in live.items():
            block = self.stream.blocks[number]
            if index < boundary:
                self.hold(found, category(block), block.nbytes, size)
            else:
                found[category(block)] += size
        return found
