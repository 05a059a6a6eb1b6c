"""CUDA's caching allocator, replayed: what `max_memory_allocated` and `max_memory_reserved` would say.

After torch's c10/cuda/CUDACachingAllocator.cpp (2.8 to 2.13), one stream, default settings: sizes are rounded up to 512 bytes; up to
1 MiB comes from the small pool (segments of 2 MiB), more from the large pool (segments of 20 MiB below 10 MiB, else the size rounded up
to 2 MiB); the smallest free block that fits is taken; its remainder is split off only where it is at least 512 bytes (small pool) or
more than 1 MiB (large pool), so a block counts whole as allocated; freed blocks merge with free neighbours. With `expandable_segments:True`
a pool is one segment that grows at its end, and every remainder of 512 bytes is split off.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field

KIB, MIB = 1 << 10, 1 << 20
MIN_BLOCK = 512
SMALL_SIZE = 1 * MIB
SMALL_SEGMENT = 2 * MIB
LARGE_SEGMENT = 20 * MIB
MIN_LARGE = 10 * MIB
ROUND_LARGE = 2 * MIB


@dataclass(eq=False)
class Block:
    """A part of a segment; neighbours are linked in address order."""

    size: int
    address: int
    small: bool
    free: bool = False
    before: Block | None = None
    after: Block | None = None


def rounded(nbytes: int) -> int:
    """The bytes an allocation takes, rounded up to 512; 1 takes 512, 513 takes 1,024."""
    return max(MIN_BLOCK, -(-nbytes // MIN_BLOCK) * MIN_BLOCK)


def segment_size(size: int) -> int:
    """The bytes asked of the device for a rounded size: 512 takes 2 MiB, 2 MiB takes 20 MiB, 11 MiB takes 12 MiB."""
    if size <= SMALL_SIZE:
        return SMALL_SEGMENT
    if size < MIN_LARGE:
        return LARGE_SEGMENT
    return -(-size // ROUND_LARGE) * ROUND_LARGE


@dataclass
class CachingAllocator:
    """The allocator's state; `allocated` and `reserved` are in bytes, with their peaks since the last `reset_peaks`."""

    allocated: int = 0
    reserved: int = 0
    peak_allocated: int = 0
    peak_reserved: int = 0
    segments: int = 0
    _address: int = 0
    _pools: dict[bool, list[tuple[int, int, Block]]] = field(default_factory=lambda: {True: [], False: []})

    def reset_peaks(self) -> None:
        """Start the peaks at what is held now, as torch.cuda.reset_peak_memory_stats does."""
        self.peak_allocated, self.peak_reserved = self.allocated, self.reserved

    def allocate(self, nbytes: int) -> Block:
        """The block that serves an allocation of that many bytes."""
        size = rounded(nbytes)
        block = self._best_fit(size) or self._new_segment(size)
        self._split(block, size)
        block.free = False
        self.allocated += block.size
        self.peak_allocated = max(self.peak_allocated, self.allocated)
        return block

    def release(self, block: Block) -> None:
        """Free a block; it merges with its free neighbours and stays reserved."""
        self.allocated -= block.size
        block.free = True
        for neighbour in (block.before, block.after):
            if neighbour is not None and neighbour.free:
                self._remove(neighbour)
                block = _merged(block, neighbour)
        bisect.insort(self._pools[block.small], (block.size, block.address, block))

    def empty_cache(self) -> None:
        """Give back the segments of which nothing is used, as torch.cuda.empty_cache does; the peaks start anew."""
        for small, pool in self._pools.items():
            whole = [block for *_, block in pool if block.before is None and block.after is None]
            self.reserved -= sum(block.size for block in whole)
            self.segments -= len(whole)
            self._pools[small] = [one for one in pool if one[2] not in whole]
        self.reset_peaks()

    def _best_fit(self, size: int) -> Block | None:
        pool = self._pools[size <= SMALL_SIZE]
        place = self._place(pool, size)
        return pool.pop(place)[2] if place < len(pool) else None

    def _place(self, pool: list[tuple[int, int, Block]], size: int) -> int:
        """Where in the pool the smallest block stands that fits; its length where none does."""
        return bisect.bisect_left(pool, (size, -1))

    def _new_segment(self, size: int) -> Block:
        whole = segment_size(size)
        block = Block(whole, self._address, size <= SMALL_SIZE)
        self._address += whole + LARGE_SEGMENT  # segments never touch
        self.segments += 1
        self.reserved += whole
        self.peak_reserved = max(self.peak_reserved, self.reserved)
        return block

    def _splits_off(self, remaining: int, *, small: bool) -> bool:
        """Whether a remainder of that size becomes a block of its own."""
        return remaining >= MIN_BLOCK if small else remaining > SMALL_SIZE

    def _split(self, block: Block, size: int) -> None:
        remaining = block.size - size
        if not self._splits_off(remaining, small=block.small):
            return
        rest = Block(remaining, block.address + size, block.small, free=True, before=block, after=block.after)
        if block.after is not None:
            block.after.before = rest
        block.after, block.size = rest, size
        bisect.insort(self._pools[block.small], (rest.size, rest.address, rest))

    def _remove(self, block: Block) -> None:
        pool = self._pools[block.small]
        del pool[bisect.bisect_left(pool, (block.size, block.address))]


@dataclass
class ExpandableAllocator(CachingAllocator):
    """The allocator under `expandable_segments:True`: a pool's segment grows at its end in steps of 2 MiB (small pool) or 20 MiB.

    It is never unmapped, as it is in a process only where memory runs out.
    """

    _starts: dict[bool, Block] = field(default_factory=dict)  # the first block of each pool, which merging never replaces

    def empty_cache(self) -> None:
        """New peaks alone. torch also unmaps the whole pages of free blocks, which is not followed."""
        self.reset_peaks()

    def _splits_off(self, remaining: int, *, small: bool) -> bool:
        return remaining >= MIN_BLOCK

    def _place(self, pool: list[tuple[int, int, Block]], size: int) -> int:
        """The smallest that fits; the one at the segment's end, which could grow, only where no other does (get_free_block)."""
        place = super()._place(pool, size)
        return place + 1 if place + 1 < len(pool) and pool[place][2].after is None else place

    def _new_segment(self, size: int) -> Block:
        small = size <= SMALL_SIZE
        last = self._last(small=small)
        held = last.size if last is not None and last.free else 0
        step = SMALL_SEGMENT if small else LARGE_SEGMENT
        mapped = -(-(size - held) // step) * step
        self.reserved += mapped
        self.peak_reserved = max(self.peak_reserved, self.reserved)
        if last is not None and held:
            self._remove(last)
            last.size += mapped
            return last
        block = Block(mapped, 0 if last is None else last.address + last.size, small, before=last)
        if last is None:
            self._starts[small] = block
            self.segments += 1
        else:
            last.after = block
        return block

    def _last(self, *, small: bool) -> Block | None:
        block = self._starts.get(small)
        while block is not None and block.after is not None:
            block = block.after
        return block


def _merged(block: Block, neighbour: Block) -> Block:
    """One free block of two neighbours, linked to what stood around them."""
    first, second = (neighbour, block) if neighbour.address < block.address else (block, neighbour)
    first.size += second.size
    first.after = second.after
    if second.after is not None:
        second.after.before = first
    first.free = True
    return first
