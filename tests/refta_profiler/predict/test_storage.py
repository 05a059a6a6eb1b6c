"""Live storages by hand."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from refta_profiler.predict.storage import FULLY, ODD, ON_THE_HOST, LiveStorages


def sizes(live):
    return [sign * live.stream.blocks[number].nbytes for number, sign in live.stream.events]


def test_allocations_and_frees_in_order():
    with FakeTensorMode(), LiveStorages() as live:
        a = torch.empty(10)
        b = torch.empty(5, dtype=torch.float64)
        del a
        c = torch.neg(b)
        del b, c
    assert sizes(live) == [40, 40, -40, 40, -40, -40]


def test_a_view_is_no_allocation_and_keeps_its_base():
    with FakeTensorMode(), LiveStorages() as live:
        base = torch.empty(4, 4)
        view = base.t()[1:]
        del base
        assert sizes(live) == [64]
        del view
    assert sizes(live) == [64, -64]


def test_what_is_told_outside_is_not_counted():
    """A warm-up's kernels and resizes are reported whether or not the mode is on."""
    live, storage = LiveStorages(), torch.empty(10).untyped_storage()
    live.record("attention", 5, 40, "float32")
    live.resized(storage)
    assert (live.operations, live.flops_by_phase, sizes(live)) == ([], {}, [])
    with live:
        live.record("attention", 5, 40, "float32")
        live.resized(storage)
    assert live.flops_by_phase == {"forward": 5} and sizes(live) == [40]


@pytest.mark.parametrize(
    ("dtype", "rows", "inner", "columns", "reached"),
    [
        (torch.bfloat16, 7, 16, 8, FULLY),  # 7 rows of 16 numbers
        (torch.bfloat16, 8, 15, 16, ODD),
        (torch.float16, 8, 16, 15, ODD),
        (torch.float32, 8, 15, 16, FULLY),
        (torch.bfloat16, 8, 15, 1, FULLY),
    ],
)
def test_half_precision_in_odd_rows_is_read_number_by_number(dtype, rows, inner, columns, reached):
    with FakeTensorMode(), LiveStorages() as live:
        torch.empty(rows, inner, dtype=dtype) @ torch.empty(inner, columns, dtype=dtype)
        torch.empty(3, rows, inner, dtype=dtype) @ torch.empty(3, inner, columns, dtype=dtype)
    found = {one.product: one.reached for one in live.operations if one.product}
    assert found == {(rows, columns): reached, (3, rows, columns): reached}


def test_an_odd_product_is_as_wide_as_its_sizes():
    with FakeTensorMode(), LiveStorages() as live:
        torch.empty(8, 15, dtype=torch.bfloat16) @ torch.empty(15, 16, dtype=torch.bfloat16)
    (one,) = [one for one in live.operations if one.product]
    assert [one.is_odd(width) for width in (8, 15, 16, 5, None)] == [True, True, True, False, False]


def test_a_number_read_on_the_host_is_no_work_of_the_device():
    with FakeTensorMode(allow_non_fake_inputs=True), LiveStorages() as live:
        torch.ops.aten._local_scalar_dense(torch.tensor(3.0))
    assert [one.reached for one in live.operations if one.name == "aten._local_scalar_dense"] == [ON_THE_HOST]


def test_what_is_known_is_not_counted():
    with FakeTensorMode():
        weight = torch.empty(8)
        live = LiveStorages()
        live.know([weight])
        with live:
            weight.mul_(2)
            del weight
    assert sizes(live) == []


def test_flops_and_first_products_by_phase():
    with FakeTensorMode(), LiveStorages() as live:
        x = torch.empty(3, 4)
        live.phase = "backward"
        y = torch.empty(4, 5)
        z = x @ y
        del z
    assert live.flops_by_phase == {"backward": 2 * 3 * 4 * 5}
    assert live.first_products == {"backward": 3}  # with its result


def test_a_block_knows_its_phase_and_when_it_went():
    with FakeTensorMode(), LiveStorages() as live:
        a = torch.empty(2, 3)
        live.phase = "backward"
        del a
    block = live.stream.blocks[0]
    assert (block.phase, block.died_phase, block.shape, block.operation) == ("forward", "backward", (2, 3), "aten.empty.memory_format")
    assert live.live_blocks() == []


def test_operations_know_the_bytes_they_move_and_views_move_none():
    with FakeTensorMode():
        a, b, row = torch.empty(4, 8), torch.empty(8, 2), torch.empty(1, 2)
        live = LiveStorages()
        with live:
            c = torch.mm(a, b)  # 32 + 16 read, 8 written
            d = c.t()
            torch.add(c, row.expand(4, 2))  # the expanded row is read once: 8 + 2 + 8
            torch.empty(100)
            d.add_(1.0)  # in place: read and written
    moved = {one.name: (one.flops, one.nbytes, one.dtype) for one in live.operations}
    assert moved["aten.mm"] == (2 * 4 * 8 * 2, (32 + 16 + 8) * 4, "float32")
    assert {one.name: one.product for one in live.operations if one.product} == {"aten.mm": (4, 2)}
    assert moved["aten.add"] == (0, (8 + 2 + 8) * 4, "float32")
    assert moved["aten.t"][1] == moved["aten.expand"][1] == moved["aten.empty"][1] == 0
    assert moved["aten.add_"][1] == 2 * 8 * 4
