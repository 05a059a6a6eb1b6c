"""The caching allocator against sequences worked by hand from c10/cuda/CUDACachingAllocator.cpp."""

import random

import pytest

from refta_profiler.predict.allocator import MIB, CachingAllocator, ExpandableAllocator, rounded, segment_size


@pytest.mark.parametrize(("asked", "taken"), [(1, 512), (512, 512), (513, 1024), (MIB, MIB), (MIB + 1, MIB + 512)])
def test_sizes_are_rounded_up_to_512_bytes(asked, taken):
    assert rounded(asked) == taken


@pytest.mark.parametrize(
    ("size", "segment"),
    [(512, 2 * MIB), (MIB, 2 * MIB), (MIB + 512, 20 * MIB), (10 * MIB - 512, 20 * MIB), (10 * MIB, 10 * MIB), (11 * MIB, 12 * MIB)],
)
def test_segments_by_size_class(size, segment):
    assert segment_size(size) == segment


def test_small_blocks_share_a_segment_and_large_ones_another():
    allocator = CachingAllocator()
    for _ in range(4):
        allocator.allocate(512 * 1024)
    assert (allocator.allocated, allocator.reserved, allocator.segments) == (2 * MIB, 2 * MIB, 1)
    allocator.allocate(3 * MIB)
    assert (allocator.allocated, allocator.reserved, allocator.segments) == (5 * MIB, 22 * MIB, 2)


def test_a_remainder_of_one_mebibyte_or_less_is_not_split_off_in_the_large_pool():
    allocator = CachingAllocator()
    allocator.release(allocator.allocate(12 * MIB))
    assert allocator.allocate(11 * MIB).size == 12 * MIB  # 1 MiB is left: too small to split
    assert allocator.allocated == 12 * MIB
    assert allocator.reserved == 12 * MIB


def test_a_larger_remainder_is_split_off_and_used():
    allocator = CachingAllocator()
    allocator.release(allocator.allocate(20 * MIB))
    allocator.allocate(4 * MIB)
    allocator.allocate(16 * MIB)
    assert (allocator.allocated, allocator.reserved) == (20 * MIB, 20 * MIB)


def test_the_smallest_block_that_fits_is_taken():
    allocator = CachingAllocator()
    large, small = allocator.allocate(40 * MIB), allocator.allocate(24 * MIB)
    allocator.release(large)
    allocator.release(small)
    allocator.allocate(23 * MIB + 512 * 1024)
    allocator.allocate(40 * MIB)
    assert allocator.reserved == 64 * MIB


def test_freed_neighbours_merge():
    allocator = CachingAllocator()
    blocks = [allocator.allocate(5 * MIB) for _ in range(4)]
    assert allocator.reserved == 20 * MIB
    for block in (blocks[1], blocks[3], blocks[2], blocks[0]):
        allocator.release(block)
    assert allocator.allocate(20 * MIB).size == 20 * MIB
    assert allocator.reserved == 20 * MIB


def test_a_fragmented_pool_reserves_more():
    allocator = CachingAllocator()
    blocks = [allocator.allocate(5 * MIB) for _ in range(4)]
    allocator.release(blocks[0])
    allocator.release(blocks[2])
    allocator.allocate(10 * MIB)
    assert (allocator.allocated, allocator.reserved) == (20 * MIB, 30 * MIB)


def test_peaks_restart_at_what_is_held():
    allocator = CachingAllocator()
    first = allocator.allocate(30 * MIB)
    allocator.release(first)
    allocator.reset_peaks()
    allocator.allocate(2 * MIB)
    assert (allocator.peak_allocated, allocator.peak_reserved) == (2 * MIB, 30 * MIB)


def test_any_order_of_frees_leaves_whole_segments():
    generator = random.Random(0)
    allocator = CachingAllocator()
    live = []
    for _ in range(3000):
        if live and generator.random() < 0.5:
            allocator.release(live.pop(generator.randrange(len(live))))
        else:
            live.append(allocator.allocate(generator.choice([100, 5000, 300_000, MIB, 3 * MIB, 12 * MIB])))
    assert allocator.allocated == sum(block.size for block in live)
    for block in live:
        allocator.release(block)
    assert allocator.allocated == 0
    assert sum(size for pool in allocator._pools.values() for size, _, _ in pool) == allocator.reserved


def test_expandable_segments_grow_in_steps_at_their_end():
    allocator = ExpandableAllocator()
    first = allocator.allocate(30 * MIB)  # two steps of 20 MiB, 10 MiB of them free
    assert (allocator.allocated, allocator.reserved, allocator.segments) == (30 * MIB, 40 * MIB, 1)
    allocator.allocate(25 * MIB)  # the free 10 MiB and one step more
    assert (allocator.allocated, allocator.reserved, allocator.segments) == (55 * MIB, 60 * MIB, 1)
    allocator.release(first)
    allocator.allocate(29 * MIB + 512 * 1024)  # in the hole, split to the byte: 512 KiB are left
    assert (allocator.allocated, allocator.reserved) == (54 * MIB + 512 * 1024, 60 * MIB)
    allocator.allocate(512 * 1024)  # small blocks have a segment of their own, in steps of 2 MiB
    assert (allocator.reserved, allocator.segments) == (62 * MIB, 2)


def test_expandable_segments_reserve_less_for_growing_tensors():
    """The default allocator can use none of the freed segments for the next larger tensor; one that grows can use all."""
    default, expandable = CachingAllocator(), ExpandableAllocator()
    for allocator in (default, expandable):
        for size in range(20, 200, 20):
            allocator.release(allocator.allocate(size * MIB))
    assert expandable.reserved == 180 * MIB < default.reserved


def test_expandable_segments_stay_consistent_whatever_comes():
    draw, allocator, live = random.Random(0), ExpandableAllocator(), []
    for _ in range(3000):
        if live and draw.random() < 0.48:
            allocator.release(live.pop(draw.randrange(len(live))))
        else:
            live.append(allocator.allocate(draw.choice([300, 5_000, 700_000, 3 * MIB, 24 * MIB])))
        assert allocator.allocated == sum(block.size for block in live) <= allocator.reserved
    for block in live:
        allocator.release(block)
    whole = [allocator._pools[small] for small in (True, False)]
    assert allocator.allocated == 0 and [len(pool) for pool in whole] == [1, 1]  # each segment is one free block again
    assert sum(pool[0][0] for pool in whole) == allocator.reserved
