"""The closed form: hand-checked examples, then torch's own counters, exactly; crossovers that are in print."""

from fractions import Fraction
from functools import partial

import pytest
import torch
from counted import beyond_base, inputs, kept_bytes
from toy_models import REFTA_ORDERS, parallel, stack_of

import refta
from refta import registry
from refta.cost import (
    FLOPS_PER_BYTE,
    Line,
    Regime,
    best_order,
    best_orders,
    layer_cost,
    order_at,
    order_cost,
    rebuilt_axes,
    regimes,
    stack_cost,
    total,
)
from refta.network import Network
from refta.shapes import StackShape
from refta.traffic import moved_bytes

VIT_LARGE = StackShape("query", "query", 24, 1024, 1024, bias=True, inputs_without_gradient=1)


def refta_network(rank: int = 15, shape: StackShape = VIT_LARGE) -> Network:
    return registry.method("refta").network(registry.settings("refta", {"rank": rank}), shape)


SMALL = refta_network(3, StackShape("query", "query", 4, 5, 7, slice_ranks=(2, 0, 1, 0)))


def test_lines_by_hand():
    assert Line(3, 2).at(10) == 23
    assert Line(1, 2) + Line(3, 4) == Line(4, 6)
    assert Line(1, 2) * 3 == Line(3, 6)
    assert total([Line(1, 1), Line(2, 0)]) == Line(3, 1)
    assert Line(0, 2).crossover(Line(10, 1)) == 10
    assert Line(0, 2).crossover(Line(5, 2)) is None
    assert Line(10, 2).crossover(Line(0, 1)) is None
    assert Line(0, 3).crossover(Line(1, 1)) == Fraction(1, 2)


def test_regimes_by_hand():
    """3t is least up to 4, t + 8 from 5 to 11 (at 4 both are 12), 20 from 13 (at 12 both are 20)."""
    lines = {"steep": Line(0, 3), "middle": Line(8, 1), "flat": Line(20, 0)}
    assert regimes(lines) == [Regime(1, "steep"), Regime(5, "middle"), Regime(13, "flat")]
    assert regimes({"one": Line(1, 1), "never": Line(2, 1)}) == [Regime(1, "one")]


@pytest.mark.parametrize("order", ["first", "second", "third", "fourth"])
def test_regimes_are_the_least_line_at_every_token_count(order):
    lines = {"first": Line(0, 7), "second": Line(13, 5), "third": Line(90, 2), "fourth": Line(91, 2)}
    found = regimes(lines)
    for tokens in range(1, 120):
        name = next(one.order for one in reversed(found) if one.tokens <= tokens)
        assert lines[name].at(tokens) <= lines[order].at(tokens)


# R = 3, n = 5, d = 7, slices of 2 and 1 components; numbers are 4 bytes.
BY_HAND = {
    # forward 2tR(n + d), backward: x B has two gradients or one, (xB∘u) A two
    ("shared", True): (Line(0, 2 * 3 * 12), Line(0, 4 * 3 * 12), Line(0, 3 * 4)),
    ("shared", False): (Line(0, 2 * 3 * 12), Line(0, 2 * 3 * 7 + 4 * 3 * 5), Line(0, 3 * 4)),
    # and H u: 2tnG forward, 2tnG backward, G = 2
    ("slices", True): (Line(0, 2 * 3 * 12 + 2 * 5 * 2), Line(0, 4 * 3 * 12 + 2 * 5 * 2), Line(0, 3 * 4)),
    # forward 2Rnd, backward 2tnd + 4Rnd; n·d + n·R kept
    ("reconstruct", True): (Line(2 * 3 * 35), Line(4 * 3 * 35, 2 * 35), Line((35 + 15) * 4)),
    ("reconstruct", False): (Line(2 * 3 * 35), Line(4 * 3 * 35, 2 * 35), Line(15 * 4)),
    # the fold once more in backward; nothing kept
    ("reconstruct_recompute", True): (Line(2 * 3 * 35), Line(6 * 3 * 35, 2 * 35), Line()),
    # the features once more in backward; nothing kept
    ("fused", True): (Line(0, 2 * 3 * 12), Line(0, 4 * 3 * 5 + 6 * 3 * 7), Line()),
    ("fused", False): (Line(0, 2 * 3 * 12), Line(0, 4 * 3 * 5 + 4 * 3 * 7), Line()),
    # the fold once more for ∂L/∂x, the factors' gradients from the features; nothing kept
    ("fused_fold", True): (Line(2 * 3 * 35), Line(2 * 3 * 35, 4 * 3 * 12), Line()),
    ("fused_fold", False): (Line(2 * 3 * 35), Line(0, 4 * 3 * 12), Line()),
    # the layer's part alone
    ("reconstruct_stack", True): (Line(), Line(0, 2 * 35), Line()),
}


@pytest.mark.parametrize(("order", "x_needs_gradient"), BY_HAND)
def test_refta_by_hand(order, x_needs_gradient):
    cost = layer_cost(SMALL, order, x_needs_gradient=x_needs_gradient)
    # β costs additions and a matrix-vector product, which torch's counter leaves out, and so does this
    assert (cost.forward_flops, cost.backward_flops, cost.kept_bytes) == BY_HAND[order, x_needs_gradient]


def test_the_docstrings_example_of_refta():
    cost = layer_cost(refta_network(), "shared")
    assert cost.forward_flops == Line(0, 2 * 15 * 2048)
    assert cost.backward_flops == Line(0, 4 * 15 * 2048)
    assert cost.kept_bytes == Line(0, 15 * 4)


def test_a_stack_adds_its_layers_and_its_own_part():
    """K = 4 layers, one of them with an input that needs no gradient."""
    stack = stack_cost(SMALL, "reconstruct", 4, inputs_without_gradient=1)
    assert stack.kept_bytes == Line((3 * 35 + 4 * 15) * 4)
    stack = stack_cost(SMALL, "reconstruct_stack", 4, inputs_without_gradient=1)
    assert stack.kept_bytes == Line((4 * 35 + 4 * 15) * 4)
    assert stack.forward_flops == Line(4 * 2 * 3 * 35)
    assert stack.backward_flops == Line(4 * 4 * 3 * 35, 4 * 2 * 35)
    stack = stack_cost(SMALL, "reconstruct_stack", 1, inputs_without_gradient=1)
    assert stack.kept_bytes == Line(15 * 4)


def test_bytes_follow_the_item_size():
    assert layer_cost(SMALL, "shared", itemsize=8).kept_bytes == layer_cost(SMALL, "shared").kept_bytes * 2


# R = 3, n = 5, d = 7, factors of 4 bytes on a base of 2; kept beside the factors' own, and the largest temporary at 10 tokens
CASTS = {
    "shared": (Line(0, 3 * 4 + 7 * 2), 10 * 7 * (4 + 2)),  # x in both instead of in one, of which 2 bytes are x's own
    "reconstruct": (Line(35 * 2 + 15 * 4), 35 * (4 + 2)),  # the folded weight in the base's dtype
    "reconstruct_recompute": (Line(), 35 * (4 + 2 + 2)),
    "fused": (Line(), 10 * (2 * 3 + 5 + 7) * 4),  # features, their gradient, and x and ∂L/∂y cast
    "fused_fold": (Line(), 10 * (2 * 3 + 5 + 7) * 4),
}


@pytest.mark.parametrize("order", CASTS)
def test_casts_between_base_and_factors_by_hand(order):
    cost = order_cost(SMALL, SMALL.order(order), itemsize=4, base_itemsize=2)
    assert (cost.kept_bytes, cost.temporary_bytes(10)) == CASTS[order]


@pytest.mark.parametrize("order", REFTA_ORDERS)
def test_a_base_of_numbers_as_long_changes_nothing(order):
    given = {"layers": 4, "inputs_without_gradient": 1}
    assert order_cost(SMALL, SMALL.order(order), **given, base_itemsize=4) == stack_cost(SMALL, order, 4, inputs_without_gradient=1)


def test_shorter_factors_take_nothing_off_x():
    """Another role may keep x itself."""
    cost = order_cost(SMALL, SMALL.order("shared"), itemsize=2, base_itemsize=4)
    assert cost.kept_bytes == Line(0, 3 * 2)


def test_temporaries_of_slices_grow_with_tokens_outputs_and_slices():
    """H is t·n·G numbers, and what it is stacked from as many."""
    assert layer_cost(SMALL, "slices").temporary_bytes(10) >= 10 * 5 * 2 * 4
    assert layer_cost(SMALL, "shared").temporary_bytes(10) < layer_cost(SMALL, "slices").temporary_bytes(10)


def test_the_axes_of_what_is_folded():
    assert rebuilt_axes(SMALL, "shared") == ""
    assert rebuilt_axes(SMALL, "reconstruct") == "nd"
    assert rebuilt_axes(SMALL, "reconstruct_stack") == "knd"


def test_elementwise_operations_are_counted_apart():
    """shared: x B ∘ u is t·R forward and as many for ∂L/∂(x B)."""
    assert layer_cost(SMALL, "shared").elementwise_flops == Line(0, 2 * 3)


# ---- crossovers (refta.md, "The same sum in five orders"): ViT-Large, R = 15


def test_crossover_of_kept_bytes_per_layer():
    """t·R = n·d + n·R: 1,063,936 / 15 = 70,929 1/15 tokens, batch 361 of 197 tokens."""
    features, fold = (layer_cost(refta_network(), order).kept_bytes for order in ("shared", "reconstruct"))
    found = features.crossover(fold)
    assert found is not None
    assert found == Fraction(1063936, 15)
    assert int(found) == 70929
    assert -(-int(found) // 197) == 361


def test_crossover_of_kept_bytes_over_the_model():
    """t·R·K = n·d(K − 1) + n·R·K: 68,016 tokens, batch 345."""
    features, fold = (stack_cost(refta_network(), order, 24, inputs_without_gradient=1).kept_bytes for order in ("shared", "reconstruct"))
    found = features.crossover(fold)
    assert found is not None
    assert found == Fraction(1024 * 1024 * 23 + 1024 * 15 * 24, 15 * 24)
    assert int(found) == 68016
    assert int(found) // 197 == 345


@pytest.mark.parametrize("rank", [1, 15, 360])
def test_crossover_of_forward_flops_is_512_at_every_rank(rank):
    shared, fold = (layer_cost(refta_network(rank), order).forward_flops for order in ("shared", "reconstruct"))
    assert shared.crossover(fold) == 512


def test_crossover_of_step_flops():
    """t = 3Rd / (6R − d): 973 at R = 360, none at 15 (nor at any R ≤ d / 6)."""
    found = {rank: _step_crossover(rank) for rank in (15, 170, 171, 360)}
    assert found[15] is None
    assert found[170] is None
    assert found[171] == Fraction(3 * 171 * 1024, 6 * 171 - 1024)
    assert found[360] == Fraction(3 * 360 * 1024, 6 * 360 - 1024)
    assert int(Fraction(3 * 360 * 1024, 6 * 360 - 1024)) == 973


def _step_crossover(rank: int) -> Fraction | None:
    shared, fold = (layer_cost(refta_network(rank), order).step_flops for order in ("shared", "reconstruct"))
    return shared.crossover(fold)


def test_measured_ratios_in_print():
    """refta.md: features/reconstruct with the base's own at t = 4096: 1.03 forward, 0.69 step at R = 15; 1.57, 1.26 at R = 360."""
    assert [_ratios(rank) for rank in (15, 360)] == [(1.03, 0.69), (1.57, 1.26)]


def _ratios(rank: int, tokens: int = 4096) -> tuple[float, float]:
    base = 2 * tokens * 1024 * 1024
    shared, fold = (layer_cost(refta_network(rank), order) for order in ("shared", "reconstruct"))
    forward = (base + shared.forward_flops.at(tokens)) / (base + fold.forward_flops.at(tokens))
    step = (2 * base + shared.step_flops.at(tokens)) / (2 * base + fold.step_flops.at(tokens))
    return round(forward, 2), round(step, 2)


def test_auto_chooses_features_for_few_tokens_and_the_fold_for_many():
    """Nothing is kept, so the temporaries decide: 2tR numbers, n·d + where they are fewer, and a fold and its gradient, 2nd, beyond."""
    chosen = {tokens: best_order(refta_network(), tokens, 24, inputs_without_gradient=1) for tokens in (197, 34_952, 34_953, 69_906)}
    assert chosen == {197: "fused", 34_952: "fused", 34_953: "fused_fold", 69_906: "reconstruct_recompute"}


def test_auto_counts_casts_on_a_base_in_half_precision():
    """A float32 copy of x and of ∂L/∂y is soon more than the fold, which stands in both dtypes."""
    chosen = best_orders(refta_network(), 24, inputs_without_gradient=1, base_itemsize=2)
    assert chosen == (Regime(1, "fused"), Regime(757, "fused_fold"), Regime(1010, "reconstruct_recompute"))
    assert best_orders(refta_network(), 24, inputs_without_gradient=1, itemsize=2, base_itemsize=2)[1] == Regime(34_953, "fused_fold")


@pytest.mark.parametrize(("method", "settings"), [("refta", {"rank": 5}), ("lotr", {})])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_adapters_choose_by_the_dtype_of_their_base(method, settings, dtype):
    weight, biases = stack_of("random", rows=40, columns=40, dtype=dtype)
    adapted = refta.adapt(parallel(weight, biases), method, targets=["query"], order="auto", **settings)
    (stack,) = adapted.stacks
    network = registry.method(method).network(adapted.settings, stack.shape(adapted.slice_ranks.get("query")))
    chosen = best_orders(network, 4, inputs_without_gradient=stack.inputs_without_gradient, base_itemsize=dtype.itemsize)
    module = adapted.model.get_submodule(adapted.sites[0]).stack
    for tokens in (1, 20, 40, 80, 160, 2000, 100_000):
        assert module.order_for(tokens) is module.network.order(order_at(chosen, tokens))
    assert len(chosen) > 1


def test_the_least_time_weighs_flops_and_bytes_moved():
    """Features with the fewest FLOPs for a handful of tokens, with the fewest passes up to about n·d/(n + d) · 3/2, then the fold."""
    chosen = best_orders(refta_network(), 24, aim="time", inputs_without_gradient=1)
    assert [one.order for one in chosen] == ["shared", "fused", "fused_fold"]
    assert chosen[1].tokens < 50
    assert 683 < chosen[2].tokens < 1024
    assert best_order(refta_network(360), 10_000, 24, aim="time") == "reconstruct"  # R > d / 4: its one dense product is less


@pytest.mark.parametrize("aim", ["memory", "time"])
@pytest.mark.parametrize("rank", [1, 3, 12])
def test_the_choice_is_the_least_at_every_token_count(aim, rank):
    network = refta_network(rank, StackShape("query", "query", 4, 24, 20, inputs_without_gradient=1))
    chosen = best_orders(network, 4, aim=aim, inputs_without_gradient=1)
    costs = {name: stack_cost(network, name, 4, inputs_without_gradient=1) for name in network.orders}
    for tokens in range(1, 400):
        value = {name: one.memory_bytes(tokens) for name, one in costs.items()}
        if aim == "time":
            moved = {name: moved_bytes(network, order, 4, inputs_without_gradient=1).at(tokens) for name, order in network.orders.items()}
            flops = {name: (one.step_flops + one.elementwise_flops).at(tokens) for name, one in costs.items()}
            value = {name: flops[name] + FLOPS_PER_BYTE * moved[name] for name in costs}
        assert value[order_at(chosen, tokens)] == min(value.values())


def test_bytes_moved_by_hand():
    """R = 3, n = 5, d = 7, 4 bytes a number; factors 36 numbers."""

    def layer(order: str) -> Line:
        return moved_bytes(SMALL, SMALL.order(order), 1)

    # x three times, y and its gradient twice each, ∂L/∂x twice; 14 of the features and their gradient
    assert layer("fused") == Line(4 * 36, 3 * 7 + 4 * 5 + 2 * 7 + 14 * 3) * 4
    # W and the folded weight in both folds; x and ∂L/∂y twice each
    assert layer("fused_fold") == Line(4 * 35 + 4 * 36, 2 * 7 + 2 * 5 + 9 * 3) * 4
    # forward x B, ∘ u, · A; backward two gradients of each product and one of ∘ u; the two sums
    forward = (7 + 3) + (3 + 3) + (3 + 5)
    backward = (7 + 3) + (7 + 3) + (3 + 3) + (3 + 5) + (3 + 5)
    constant = (21 + 3 + 15) + (21 + 21) + 3 + (15 + 15)
    assert layer("shared") == Line(constant, forward + backward + 3 * 5 + 3 * 7) * 4


def test_the_hand_written_fold_needs_fewer_flops_than_features_from_n_tokens_on():
    """`shared` 12tRd against 4Rd² + 8tRd for n = d; `fused` 14tRd."""
    costs = {order: layer_cost(refta_network(), order).step_flops for order in ("shared", "fused", "fused_fold")}
    assert costs["shared"].crossover(costs["fused_fold"]) == 1024
    assert costs["fused"].crossover(costs["fused_fold"]) == Fraction(2 * 1024, 3)


# ---- torch's own counters

# Layers whose x needs no gradient; with one of them both kinds of layers are there
FREE = [pytest.param(0, marks=pytest.mark.slow), 1, pytest.param(4, marks=pytest.mark.slow)]
SHAPES = {"wide": (5, 7), "tall": (9, 6), "square": (8, 8)}


def adapted_pair(
    method: str, shape: str, *, bias: bool = True, dtype: torch.dtype = torch.float32, layers: int = 4, order: str | None = None, **settings
):
    """An adapted model, the plain one, and the network of the slice ranks that the weights have."""
    rows, columns = SHAPES[shape]
    weight, biases = stack_of("random", layers=layers, rows=rows, columns=columns, dtype=dtype)
    plain, model = (parallel(weight, biases if bias else None) for _ in range(2))
    adapted = refta.adapt(model, method, targets=["query"], order=order, **settings)
    (stack,) = adapted.stacks
    network = registry.method(method).network(adapted.settings, stack.shape(adapted.slice_ranks.get("query")))
    return model, plain, network, columns


@pytest.mark.parametrize("order", REFTA_ORDERS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("free", FREE)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
def test_refta_flops_equal_torchs_counter(order, shape, free, bias):
    model, plain, network, columns = adapted_pair("refta", shape, bias=bias, order=order, rank=5)
    assert len(network.slice_ranks) > 1
    assert len(set(network.slice_ranks)) > 1  # ragged
    for tokens in (2, 11):
        cost = stack_cost(network, order, 4, inputs_without_gradient=free)
        found = beyond_base(model, plain, partial(inputs, tokens, columns, 4, free))
        assert found == (cost.forward_flops.at(tokens), cost.step_flops.at(tokens))


@pytest.mark.parametrize("order", REFTA_ORDERS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("free", [0, 1, 4])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_refta_kept_bytes_equal_what_autograd_keeps(order, shape, free, bias, dtype):
    model, _, network, columns = adapted_pair("refta", shape, bias=bias, dtype=dtype, order=order, rank=5)
    for tokens in (2, 11):
        cost = stack_cost(network, order, 4, inputs_without_gradient=free, itemsize=dtype.itemsize)
        assert kept_bytes(model, inputs(tokens, columns, 4, free, dtype)) == cost.kept_bytes.at(tokens)


@pytest.mark.parametrize("order", REFTA_ORDERS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("free", [0, 1])
def test_refta_keeps_those_bytes_on_a_base_in_half_precision(order, shape, free):
    model, _, network, columns = adapted_pair("refta", shape, dtype=torch.bfloat16, order=order, rank=5)
    for tokens in (2, 11):
        cost = order_cost(network, network.order(order), layers=4, inputs_without_gradient=free, base_itemsize=2)
        instead_of_x = 4 * tokens * columns * 2 if order in ("shared", "slices") else 0
        assert kept_bytes(model, inputs(tokens, columns, 4, free, torch.bfloat16)) == cost.kept_bytes.at(tokens) + instead_of_x


@pytest.mark.parametrize("order", REFTA_ORDERS)
@pytest.mark.parametrize("layers", [1, 2])
def test_one_component_and_few_layers(order, layers):
    """Matrices of one column or row, where torch would take other kernels."""
    model, plain, network, columns = adapted_pair("refta", "wide", layers=layers, order=order, rank=1)
    cost = stack_cost(network, order, layers, inputs_without_gradient=1)
    for tokens in (1, 3):
        found = beyond_base(model, plain, partial(inputs, tokens, columns, layers, 1))
        assert found == (cost.forward_flops.at(tokens), cost.step_flops.at(tokens))
        assert kept_bytes(model, inputs(tokens, columns, layers, 1)) == cost.kept_bytes.at(tokens)


@pytest.mark.parametrize("method", ["lora", "pissa"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("free", FREE)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
def test_lora_through_peft_equals_torchs_counters(method, shape, free, bias):
    model, plain, network, columns = adapted_pair(method, shape, bias=bias, rank=3)
    for order in ("features", "published"):
        cost = stack_cost(network, order, 4, inputs_without_gradient=free)
        for tokens in (2, 11):
            found = beyond_base(model, plain, partial(inputs, tokens, columns, 4, free))
            assert found == (cost.forward_flops.at(tokens), cost.step_flops.at(tokens))
            assert kept_bytes(model, inputs(tokens, columns, 4, free)) == cost.kept_bytes.at(tokens)


def test_lora_by_hand():
    """r = 3, n = 5, d = 7: forward 2tr(n + d), backward 4tr(n + d), t·r numbers kept."""
    network = registry.method("lora").network(registry.settings("lora", {"rank": 3}), StackShape("query", "query", 4, 5, 7))
    cost = layer_cost(network, "features")
    assert (cost.forward_flops, cost.backward_flops, cost.kept_bytes) == (Line(0, 72), Line(0, 144), Line(0, 12))
    assert layer_cost(network, "features", x_needs_gradient=False).backward_flops == Line(0, 144 - 2 * 3 * 7)
