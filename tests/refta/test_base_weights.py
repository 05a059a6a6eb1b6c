"""Weights that no adapter can stand on are refused before the model is touched; sums are rounded once."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.two_tensor import TwoTensor
from toy_models import Parallel, parallel, relative_error, stack_of
from transformers.models.falcon.modeling_falcon import FalconLinear

import refta
from refta.base_weights import check_devices, computes_as_linear, residuals, widest
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


class Said(nn.Linear):
    """A linear that does something beside, and then as nn.Linear does."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        assert input.shape[-1] == self.in_features
        return super().forward(input)


class Halved(nn.Linear):
    """A linear of another function, with a plain weight."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) / 2


class Grouped(nn.Linear):
    """A linear that cannot compute with a weight of another size than its own."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input.view(-1, 6)).view(*input.shape[:-1], 8)


def of_class(linear: Callable[[int, int], nn.Module], device: str = "cpu") -> Any:
    torch.manual_seed(0)
    with torch.device(device):
        model: Any = Parallel(2, 8, 6)
        for layer in model.layers:
            layer.query = linear(6, 8)
    return model


def bit_linear(columns: int, rows: int, **settings) -> nn.Module:
    """BitNet's, whose weight is in bfloat16 and whose input is quantised."""
    with warnings.catch_warnings(action="ignore"):  # of parts of torch that its import reads
        from transformers.integrations.bitnet import AutoBitLinear
    return AutoBitLinear(columns, rows, dtype=torch.bfloat16, **settings)


def bit_linear_online(columns: int, rows: int) -> nn.Module:
    return bit_linear(columns, rows, online_quant=True, use_rms_norm=True)


@pytest.mark.parametrize(("method", "settings"), [("refta", {"rank": 8}), ("lotr", {})])
@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("linear", [bit_linear, bit_linear_online, Halved, Grouped])
def test_linears_that_compute_something_else_are_refused(linear, device, method, settings):
    model = of_class(linear, device)
    replaced = model.layers[0].query
    with pytest.raises(SettingError, match=r"layers\.0\.query \(.*\) does not compute x Wᵀ \+ b: its class has a forward of its own"):
        refta.adapt(model, method, targets=["query"], **settings)
    assert model.layers[0].query is replaced
    assert replaced.weight.shape == (8, 6)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("linear", [FalconLinear, Said, lambda columns, rows: FalconLinear(columns, rows, bias=False)])
def test_linears_of_other_classes_that_compute_the_same_are_adapted(linear, device):
    model = of_class(linear, device)
    x = torch.randn(3, 6, device=device)
    wanted = model(x).detach()
    before = torch.get_rng_state()
    assert computes_as_linear(model.layers[0].query)
    assert torch.equal(torch.get_rng_state(), before)
    refta.adapt(model, "refta", targets=["query"], rank=4)
    assert model(x).shape == wanted.shape
    assert device == "meta" or relative_error(model(x).detach(), wanted) < 1e-5


def test_a_linear_of_another_class_is_told_apart_under_a_fake_mode():
    with FakeTensorMode():
        assert computes_as_linear(FalconLinear(6, 8))
        assert not computes_as_linear(Halved(6, 8))


def test_a_peft_method_calls_a_linear_of_another_function():
    model, x = of_class(Halved), torch.randn(3, 6)
    wanted = model(x).detach()
    refta.adapt(model, "lora", targets=["query"], rank=2)
    assert relative_error(model(x).detach(), wanted) < 1e-6


@pytest.mark.parametrize(("method", "settings"), [("refta", {"rank": 8}), ("lotr", {})])
def test_weights_in_tensors_of_several_parts_are_refused(method, settings):
    """As torchao holds quantised weights, under the dtype that they had."""
    model = of_class(nn.Linear)
    for layer in model.layers:
        layer.query.weight = nn.Parameter(TwoTensor(torch.randn(8, 6), torch.randn(8, 6)))
    with pytest.raises(SettingError, match=r"layers\.0\.query \(Linear\) holds its weight in a TwoTensor, a tensor that is quantised"):
        refta.adapt(model, method, targets=["query"], **settings)


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
