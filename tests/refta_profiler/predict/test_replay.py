"""A stream replayed by hand: peak, start of the step, categories, workspaces."""

from refta_profiler.predict.allocator import MIB, CachingAllocator
from refta_profiler.predict.replay import PlainMemory, replay
from refta_profiler.predict.storage import Block, Stream


def stream(sizes: list[int], events: list[tuple[int, int]]) -> Stream:
    blocks = [Block(number, size, "forward", "op", (size,), 0) for number, size in enumerate(sizes)]
    return Stream(blocks, events)


def test_peak_of_the_step_that_counts():
    steps = stream([100, 30, 50], [(0, 1), (0, -1), (1, 1), (2, 1), (2, -1), (1, -1)])
    found = replay(PlainMemory, [("weights", 1000), ("batch", 7)], steps, 2, lambda block: "temporary")
    assert (found.static, found.peak_allocated, found.peak_reserved) == (1007, 1087, None)
    assert found.by_category["weights"] == 1000
    assert found.by_category["temporary"] == 80
    assert sum(found.by_category.values()) == found.peak_allocated


def test_what_outlives_the_first_step_is_there_when_the_second_starts():
    steps = stream([40, 5], [(0, 1), (1, 1), (1, -1)])
    found = replay(PlainMemory, [], steps, 1, lambda block: "optimizer" if block.number == 0 else "temporary")
    assert (found.static, found.peak_allocated) == (40, 45)
    assert (found.by_category["optimizer"], found.by_category["temporary"]) == (40, 5)


def test_a_step_that_allocates_nothing_peaks_at_its_start():
    found = replay(PlainMemory, [("weights", 9)], stream([], []), 0, lambda block: "temporary")
    assert (found.static, found.peak_allocated) == (9, 9)


def test_on_a_caching_allocator_blocks_count_whole_and_workspaces_stay():
    steps = stream([3 * MIB, 100], [(0, 1), (0, -1), (1, 1)])
    found = replay(CachingAllocator, [("weights", 700)], steps, 2, lambda block: "temporary", workspaces=[(1, 8 * MIB)])
    assert found.static == 1024 + 8 * MIB
    assert found.peak_allocated == 1024 + 8 * MIB + 512
    assert found.peak_reserved == 2 * MIB + 20 * MIB
    assert found.by_category["workspace"] == 8 * MIB


def test_every_phase_has_its_peak_with_what_it_starts_with():
    steps = stream([100, 30, 50], [(0, 1), (1, 1), (1, -1), (2, 1), (2, -1), (0, -1)])
    first, second, third = steps.blocks
    first.died_phase, second.died_phase = "backward", "forward"
    third.phase = third.died_phase = "backward"
    found = replay(PlainMemory, [("weights", 1000)], steps, 0, lambda block: "temporary")
    assert found.by_phase == {"forward": 1130, "backward": 1150, "optimizer": 1000}


def test_a_phase_without_an_event_has_what_the_one_before_it_left():
    steps = stream([100], [(0, 1), (0, -1)])
    steps.blocks[0].died_phase = "end"  # a gradient, while the optimizer allocates nothing
    found = replay(PlainMemory, [("weights", 1000)], steps, 0, lambda block: "gradients")
    assert found.by_phase == {"forward": 1100, "backward": 1100, "optimizer": 1100}
