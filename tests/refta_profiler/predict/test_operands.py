"""Python numbers and copies of operands: event by event what the CPU profiler sees."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile

from refta_profiler.measure.memory import _silent, memory_events
from refta_profiler.predict.operands import CpuStorages

OPERATIONS = {
    "x * 0.5": lambda x, half, whole: x * 0.5,
    "x * 2": lambda x, half, whole: x * 2,
    "x / 3": lambda x, half, whole: x / 3,
    "x + 1": lambda x, half, whole: x + 1,
    "1 - x": lambda x, half, whole: 1 - x,
    "x ** 3": lambda x, half, whole: x**3,
    "x * half": lambda x, half, whole: x * half,
    "half + x": lambda x, half, whole: half + x,
    "half * 0.5": lambda x, half, whole: half * 0.5,
    "whole + 1": lambda x, half, whole: whole + 1,
    "whole * 1.5": lambda x, half, whole: whole * 1.5,
    "half == 0": lambda x, half, whole: half == 0,
    "x in place": lambda x, half, whole: x.detach().mul_(0.5),
    "gelu": lambda x, half, whole: 0.5 * x * (1 + torch.tanh(0.8 * (x + 0.04 * torch.pow(x, 3)))),
}


def operands():
    return torch.nn.Parameter(torch.empty(100)), torch.empty(100, dtype=torch.bfloat16), torch.empty(100, dtype=torch.int64)


def followed(call):
    """Allocations and frees of the call as the dry run has them, while its result is held."""
    with FakeTensorMode():
        inputs = operands()
        live = CpuStorages()
        live.know(inputs)
        with live:
            result = call(*inputs)
            torch.empty(0)  # the next operation, before which a kept number finds its node
        found = [sign * live.stream.blocks[number].nbytes for number, sign in live.stream.events]
        del result
    return found


def profiled(call):
    inputs = operands()
    with _silent(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = call(*inputs)
    found = memory_events(profiler)
    del result
    return found


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_takes_and_frees_what_the_profiler_sees(name):
    call = OPERATIONS[name]
    profiled(lambda *inputs: None)
    expected = profiled(call)
    assert sorted(followed(call)) == sorted(expected)
    assert [one for one in followed(call) if one > 0] == [one for one in expected if one > 0]  # in this order


def test_a_kept_number_goes_with_its_node():
    with FakeTensorMode(), CpuStorages() as live:
        x = torch.nn.Parameter(torch.empty(4))
        total = (x * 0.5).sum()
        number = next(block for block in live.stream.blocks if block.operation == "number of aten.mul.Tensor")
        assert number.nbytes == 8
        assert number.died is None
        total.backward()
        assert number.died is not None


def test_a_kept_number_goes_with_a_graph_that_is_dropped():
    with FakeTensorMode(), CpuStorages() as live:
        x = torch.nn.Parameter(torch.empty(4))
        result = x * 0.5
        torch.empty(1)
        number = next(block for block in live.stream.blocks if block.operation == "number of aten.mul.Tensor")
        assert number.died is None
        del result
        assert number.died is not None
