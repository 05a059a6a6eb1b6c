"""Every method of the registry in every one of its orders: equal outputs and gradients, and costs equal to torch's own counters.

A new method is covered by being in the registry; nothing here names one.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import refta
from refta import cost, registry
from refta.network import count_trainable
from refta.operands import AUTOMATIC

WIDTH, KEYS, INNER, LAYERS, TOKENS = 48, 24, 96, 3, (2, 5)
TARGETS = ("query", "value", "down")
NETWORKS = [name for name in registry.names() if name not in ("full", "head")]
WITH_ORDERS = [(name, order) for name in NETWORKS for order in registry.orders(name)]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, KEYS), nn.Linear(WIDTH, KEYS, bias=False)
        self.output = nn.ModuleDict({"dense": nn.Linear(WIDTH, WIDTH)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed = torch.tanh(self.query(x)) + torch.cat([self.key(x), self.value(x)], dim=-1)
        return self.output["dense"](mixed)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.up = Attention(), nn.ModuleDict({"up_proj": nn.Linear(WIDTH, INNER)})
        self.output = nn.ModuleDict({"dense": nn.Linear(INNER, WIDTH)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(x)
        return x + self.output["dense"](torch.tanh(self.up["up_proj"](x)))


class Encoder(nn.Module):
    """Three blocks with the names that the roles are known by; keys and values narrower than queries."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block() for _ in range(LAYERS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def adapted_encoder(name: str, order: str | None, dtype: torch.dtype = torch.float32, **settings: Any) -> refta.Adapted:
    """The encoder with the method on it, its adapter filled with values that no initialisation would hide an order behind."""
    torch.manual_seed(0)
    adapted = refta.adapt(Encoder().to(dtype), name, targets=TARGETS, order=order, **settings)
    generator = torch.Generator().manual_seed(1)
    assert adapted.attached is not None
    with torch.no_grad():
        for parameter in adapted.attached.parameters:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=dtype))
    return adapted


def run(adapted: refta.Adapted, dtype: torch.dtype) -> list[torch.Tensor]:
    """The encoder's output, the input's gradient, and the adapter's gradients."""
    x = torch.randn(*TOKENS, WIDTH, generator=torch.Generator().manual_seed(2), dtype=dtype).requires_grad_()
    out = adapted.model(x)
    out.square().sum().backward()
    assert adapted.attached is not None
    gradients = [parameter.grad for parameter in adapted.attached.parameters]
    return [out.detach(), *(one for one in (x.grad, *gradients) if one is not None)]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("name", [name for name in NETWORKS if registry.orders(name)])
def test_all_orders_give_the_same_output_and_gradients(name, dtype, tolerance):
    assert_orders_agree(name, dtype, tolerance)


@pytest.mark.parametrize("name", [name for name in NETWORKS if registry.orders(name) and "alpha" in registry.setting_names(name)])
def test_so_they_do_where_the_update_is_scaled(name):
    """By default alpha is the rank and nothing is scaled: an order that forgets the scale would pass."""
    scaled = {"alpha": 13.0}
    network = registry.method(name).network(registry.settings(name, scaled), adapted_encoder(name, None).shapes()[0])
    assert network.scale != 1
    assert_orders_agree(name, torch.float64, 1e-10, **scaled)


def assert_orders_agree(name: str, dtype: torch.dtype, tolerance: float, **settings: Any) -> None:
    """Every order gives the output and the gradients of the first."""
    first, *others = registry.orders(name)
    expected = run(adapted_encoder(name, first, dtype, **settings), dtype)
    for order in others:
        found = run(adapted_encoder(name, order, dtype, **settings), dtype)
        assert len(found) == len(expected)
        for one, wanted in zip(found, expected, strict=True):
            error = (one - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30)
            assert error < tolerance, (order, tuple(wanted.shape), float(error))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_formula_of_the_trainable_count_equals_the_count(name):
    adapted = adapted_encoder(name, None)
    networks = [(registry.method(name).network(adapted.settings, shape), shape.layers) for shape in adapted.shapes()]
    if any(network is None for network, _ in networks):
        pytest.skip("no closed form")
    assert count_trainable(networks) == adapted.trainable_parameters


def _storages(tensors) -> dict[int, int]:
    return {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}


def _measured(adapted: refta.Adapted, free: int) -> tuple[int, int, int]:
    """(forward FLOPs, backward FLOPs, kept bytes) of all adapted layers beyond the frozen base, by torch's counters.

    Every layer reads an input of its own; those of the first `free` layers of a stack need no gradient.
    """
    calls, base_forward, base_backward = [], 0, 0
    for stack in adapted.stacks:
        base = 2 * TOKENS[0] * TOKENS[1] * stack.sites[0].rows * stack.sites[0].columns
        for k, site in enumerate(stack.sites):
            calls.append((adapted.model.get_submodule(site.path), torch.randn(*TOKENS, site.columns).requires_grad_(k >= free)))
            base_forward, base_backward = base_forward + base, base_backward + base * (k >= free)
    adapted.model.forward = lambda: sum(module(x).sum() for module, x in calls)  # its hooks build what is built once per step
    excluded = _storages([*adapted.model.parameters(), *adapted.model.buffers(), *(x for _, x in calls)])
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: (kept.append(one), one)[1], lambda one: one):
        with FlopCounterMode(display=False) as forward:
            loss = adapted.model()
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    own = {place: size for place, size in _storages(kept).items() if place not in excluded}
    return forward.get_total_flops() - base_forward, backward.get_total_flops() - base_backward, sum(own.values())


def _predicted(adapted: refta.Adapted, order: str | None, free: int) -> tuple[int, int, int]:
    tokens, result = TOKENS[0] * TOKENS[1], [0, 0, 0]
    for shape in adapted.shapes():
        network = registry.method(adapted.method).network(adapted.settings, shape)
        if network is None:
            pytest.skip("no closed form")
        chosen = order or "published"
        if chosen in AUTOMATIC:
            chosen = cost.best_order(
                network, tokens, shape.layers, aim=AUTOMATIC[chosen], inputs_without_gradient=shape.inputs_without_gradient
            )
        found = cost.stack_cost(network, chosen, shape.layers, inputs_without_gradient=free)
        for place, line in enumerate((found.forward_flops, found.backward_flops, found.kept_bytes)):
            result[place] += line.at(tokens)
    return tuple(result)


# Layers whose x needs no gradient; with one of them both kinds of layers are there
FREE = [pytest.param(0, marks=pytest.mark.slow), 1, pytest.param(LAYERS, marks=pytest.mark.slow)]
COUNTED = [*WITH_ORDERS, *((name, None) for name in NETWORKS if not registry.orders(name))]


@pytest.mark.parametrize("free", FREE)
@pytest.mark.parametrize(("name", "order"), COUNTED)
def test_forward_flops_backward_flops_and_kept_bytes_equal_the_counters_exactly(name, order, free):
    adapted = adapted_encoder(name, order)
    assert _predicted(adapted, order, free) == _measured(adapted, free)


@pytest.mark.parametrize("name", NETWORKS)
def test_adapt_takes_a_model_without_values(name):
    if name in ("pissa", "dora", "peft"):
        pytest.skip("the peft library decomposes the weights here")
    with torch.device("meta"):
        hollow = Encoder()
    adapted = refta.adapt(hollow, name, targets=TARGETS)
    assert adapted.trainable_parameters == adapted_encoder(name, None).trainable_parameters


@pytest.mark.parametrize("name", [name for name in NETWORKS if registry.orders(name)])
def test_reconstructing_builds_a_dense_update_and_features_do_not(name):
    adapted = adapted_encoder(name, None)
    network = registry.method(name).network(adapted.settings, adapted.shapes()[0])
    assert cost.rebuilt_axes(network, "features") == ""
    assert network.serial or cost.rebuilt_axes(network, "reconstruct").endswith(network.fold_axes)


def test_every_method_with_a_network_answers_to_the_common_orders():
    for name, common in itertools.product(NETWORKS, ("published", "features", "reconstruct", "auto")):
        assert not registry.orders(name) or common in registry.orders(name), name
