"""Predictions on the line through two batches equal those that are followed, to the byte."""

import pytest
from real_steps import tiny

from refta_profiler.predict import dryrun
from refta_profiler.predict.storage import Block, Operation, Stream
from refta_profiler.predict.trace import NotAffineError, Sweep, Trace, between, steps


def trace(batch: int, sizes: list[int], events: list[tuple[int, int]] | None = None, persistent: set[int] | None = None) -> Trace:
    blocks = [Block(number, size, "forward", "op", (size,), 0) for number, size in enumerate(sizes)]
    stream = Stream(blocks, events or [(number, 1) for number in range(len(sizes))])
    initial = [("weights", 100), ("batch", 10 * batch)]
    operations = [Operation("forward", "aten.mm", "float32", 7 * batch, 3 + 2 * batch, (5 * batch, 9))]
    return Trace(batch, initial, stream, persistent or set(), (0, 0), {"forward": 7 * batch}, operations, 1, 1, [], set())


def test_sizes_lie_on_the_line_through_two_batches():
    found = between(trace(2, [30, 8]), trace(4, [50, 8]), 8)
    assert [block.nbytes for block in found.stream.blocks] == [90, 8]
    assert found.initial == [("weights", 100), ("batch", 80)]
    assert found.flops_by_phase == {"forward": 56}
    assert found.operations == [Operation("forward", "aten.mm", "float32", 56, 19, (40, 9))]


@pytest.mark.parametrize("other", [trace(4, [50]), trace(4, [50, 8], [(1, 1), (0, 1)]), trace(5, [52, 8])])
def test_other_operations_or_fractions_are_refused(other):
    with pytest.raises(NotAffineError):
        between(trace(2, [30, 8]), other, 3)


def test_a_sweep_follows_until_the_line_is_proven():
    asked = []

    def follow(batch: int) -> Trace:
        asked.append(batch)
        return trace(batch, [10 + 5 * batch])

    sweep = Sweep(follow)
    sizes = [sweep.trace(batch).stream.blocks[0].nbytes for batch in (1, 2, 4, 8, 16, 32, 2)]
    assert sizes == [15, 20, 30, 50, 90, 170, 20]
    assert asked == [1, 2, 4, 8]


def test_a_sweep_that_is_no_line_is_followed_to_the_end():
    asked = []

    def follow(batch: int) -> Trace:
        asked.append(batch)
        return trace(batch, [batch * batch])

    sweep = Sweep(follow)
    assert [sweep.trace(batch).stream.blocks[0].nbytes for batch in (2, 4, 8, 16)] == [4, 16, 64, 256]
    assert asked == [2, 4, 8, 16]


def test_the_second_step_is_the_first_without_what_outlives_it():
    two = trace(1, [5, 9], [(0, 1), (1, 1), (0, -1)], persistent={1})
    stream, boundary = steps(two)
    assert (stream.events, boundary) == ([(0, 1), (1, 1), (0, -1), (0, 1), (0, -1)], 3)


def test_outputs_of_a_step_go_where_the_next_replaces_them():
    found = trace(1, [5, 9, 2], [(0, 1), (1, 1), (2, 1), (2, -1)], persistent={1})  # block 0: the outputs, 1: the optimizer's state
    found.held, found.replaced = (0,), 1
    stream, boundary = steps(found)
    assert boundary == 4
    second, third = [(3, 1), (0, -1), (2, 1), (2, -1)], [(4, 1), (3, -1), (2, 1), (2, -1)]
    fourth = [(5, 1), (4, -1), (2, 1), (2, -1)]
    assert stream.events == [*found.stream.events, *second, *third, *fourth]
    assert [block.nbytes for block in stream.blocks] == [5, 9, 2, 5, 5, 5]


@pytest.mark.parametrize("target", ["cpu", "h100"])
@pytest.mark.parametrize("label", ["refta/shared", "refta/reconstruct_stack", "lora"])
@pytest.mark.parametrize(
    "model", ["roberta-tiny", "llama-tiny", *(pytest.param(one, marks=pytest.mark.slow) for one in ("vit-tiny", "gpt2-tiny"))]
)
def test_predictions_on_the_line_are_those_that_are_followed(model, label, target):
    points = [tiny(model, label, batch=batch) for batch in (2, 3, 5, 17)]
    swept = [dryrun.dry_run(point, target) for point in points]
    alone = dryrun._summary(dryrun.follow(points[-1], target), dryrun.devices.get(target))
    assert swept[-1] == alone


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_what_makes_the_optimizers_state_is_no_part_of_a_steps_time(optimizer):
    found = dryrun.sweep(tiny("roberta-tiny", "lora", optimizer=optimizer), "h100", None).trace(2)
    names = {one.name for one in found.operations if one.phase == "optimizer"}
    assert names and "aten.zeros_like" not in names
    assert any(block.phase == "optimizer" for block in found.stream.blocks) is (optimizer == "adamw")
