"""Weights that no adapter can stand on are refused before the model is touched; sums are rounded once."""

from typing import Any

import pytest
import torch
from torch import nn
from toy_models import Parallel, parallel, stack_of

import refta
from refta.base_weights import check_devices, residuals, widest
from refta.errors import SettingError
from refta.sites import find_stacks


class Packed(nn.Linear):
    """A linear as bitsandbytes has it in 4 bits: two numbers a byte, in one column."""

    def __init__(self, columns: int, rows: int):
        super().__init__(columns, rows)
        self.weight = nn.Parameter(torch.zeros(rows * columns // 2, 1, dtype=torch.uint8), requires_grad=False)


def packed() -> Any:
    model: Any = Parallel(2, 8, 6)
    for layer in model.layers:
        layer.query = Packed(6, 8)
    return model


@pytest.mark.parametrize(("method", "settings"), [("refta", {"rank": 8}), ("lotr", {})])
def test_quantised_weights_are_refused(method, settings):
    model = packed()
    with pytest.raises(SettingError, match=r"layers\.0\.query \(Packed\) holds uint8 numbers: a quantised weight has no residual"):
        refta.adapt(model, method, targets=["query"], **settings)
    assert type(model.layers[0].query) is Packed


def test_the_shape_of_a_quantised_linear_is_what_it_says_of_itself():
    (stack,) = find_stacks(packed(), ["query"])
    assert (stack.shape().rows, stack.shape().columns) == (8, 6)


@pytest.mark.parametrize("offloaded", [1, 4])
def test_offloaded_weights_are_refused(offloaded):
    model = parallel(*stack_of("random"))
    for layer in list(model.layers)[:offloaded]:
        layer.query.to("meta")
        layer.query._hf_hook = object()  # as accelerate marks what it offloads
    with pytest.raises(SettingError, match=r"layers\.0\.query has no values while the model has"):
        refta.adapt(model, "refta", targets=["query"], rank=5)
    assert isinstance(model.layers[3].query, nn.Linear)


def test_a_stack_on_two_devices_is_refused():
    model = parallel(*stack_of("random"))
    model.layers[2].query.to("meta")
    with pytest.raises(SettingError, match="the 4 layers of query are on cpu and meta, and share their factors"):
        check_devices(find_stacks(model, ["query"]))


def test_a_residual_is_rounded_once():
    """1.001 − 1 · 0.5 · 0.25 = 0.876: in bfloat16, in which 1.001 is 1, it would be 0.875."""
    half = torch.tensor([[0.5]], dtype=torch.bfloat16)
    (found,) = residuals([torch.tensor([[1.001]])], torch.ones_like(half), half, half / 2)
    assert found.item() == pytest.approx(0.876, abs=1e-6)
    assert found.dtype == torch.float32
    assert widest(half) == torch.float32
    assert widest(half, torch.ones(1, dtype=torch.float64)) == torch.float64
