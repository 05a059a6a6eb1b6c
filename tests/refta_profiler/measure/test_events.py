"""What a step allocates and frees, read from events made by hand and from the profiler's own."""

import re
from types import SimpleNamespace

import pytest
import torch
from real_steps import tiny

from refta_profiler import workload
from refta_profiler.errors import ProfilerError
from refta_profiler.measure import events, memory, modules


def event(name, start, *children, **extra):
    return SimpleNamespace(name=name, start_time_ns=start, children=list(children), extra_fields=SimpleNamespace(**extra))


def allocation(start, pointer, size, kind="cpu"):
    return event("[memory]", start, alloc_size=size, ptr=pointer, device=torch.device(kind))


TREE = [
    event(modules.MODULE + "block.0", 10, event("aten::mm", 20, allocation(30, 1, 100), allocation(35, 2, 7), allocation(40, 2, -7))),
    event(events.MADE + "0", 50),
    event(memory.MARK + "forward", 60),
    allocation(70, 2, 50),
    allocation(75, 9, 8, kind="cuda"),
    allocation(80, 1, -100),
    allocation(85, 5, -3),
    event(memory.MARK + "backward", 90),
]


@pytest.fixture
def recording():
    return events.recording_of(events.in_time(TREE), "cpu", [[(1, (5, 5)), (4, (1,))]])


def test_blocks_know_where_they_came_from_and_when_they_went(recording):
    first = recording.changes[0].block
    assert (first.nbytes, first.operation, first.module, first.shape) == (100, "aten::mm", "block.0", (5, 5))
    assert (first.phase, first.died_phase, first.died) == ("forward", "backward", 4)


def test_an_address_that_comes_again_is_another_block(recording):
    second, third = recording.changes[1].block, recording.changes[3].block
    assert second.pointer == third.pointer
    assert (second.nbytes, second.phase, second.died_phase) == (7, "forward", "forward")
    assert (third.nbytes, third.phase, third.died) == (50, "backward", None)
    assert second.shape is None  # it was gone when the operation was over


def test_only_the_devices_own_memory_counts(recording):
    assert [change.sign * change.block.nbytes for change in recording.changes] == [100, 7, -7, 50, -100, -3]
    assert [change.sign * change.block.nbytes for change in events.recording_of(events.in_time(TREE), "cuda", [[]]).changes] == [8]


def test_what_was_there_before_says_so(recording):
    assert recording.changes[-1].block.phase == "before"


def test_what_is_live_and_where_it_is_highest(recording):
    assert [block.nbytes for block in recording.live_at(recording.end_of("forward"))] == [100]
    assert [block.nbytes for block in recording.live_at(4)] == [100, 50]
    assert recording.highest() == (150, 4)
    assert recording.ends == [("forward", 3), ("backward", 6)]


def test_a_torch_without_an_event_tree_is_named():
    with pytest.raises(ProfilerError, match=rf"torch {re.escape(torch.__version__)} has no experimental_event_tree"):
        events.event_tree(SimpleNamespace(profiler=SimpleNamespace(kineto_results=object())))


def test_a_real_steps_highest_sum_is_the_profilers():
    work = workload.build(tiny("roberta-tiny", "refta/shared", checkpointing=True), torch.device("cpu"))
    workload.training_step(work)
    peak = memory.cpu_peak(work, lambda: workload.training_step(work))
    with modules.marked(work.model):
        recording = events.record(work, lambda mark: workload.training_step(work, mark))
    assert memory.static_bytes(work) + recording.highest()[0] == peak  # marks around modules allocate nothing
    assert {change.phase for change in recording.changes} == {"forward", "backward", "optimizer"}
    assert "roberta.encoder.layer.2.attention.self.query" in {change.block.module for change in recording.changes}
