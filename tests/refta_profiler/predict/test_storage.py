"""Live storages by hand."""

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from refta_profiler.predict.storage import LiveStorages


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
    assert live.first_products == {"backward": 2}


def test_a_block_knows_its_phase_and_when_it_went():
    with FakeTensorMode(), LiveStorages() as live:
        a = torch.empty(2, 3)
        live.phase = "backward"
        del a
    block = live.stream.blocks[0]
    assert (block.phase, block.died_phase, block.shape, block.operation) == ("forward", "backward", (2, 3), "aten.empty.memory_format")
    assert live.live_blocks() == []
