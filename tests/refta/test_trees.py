"""The enumeration of all trees against counts by hand and against the costs of single orders."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from opt_einsum.helpers import flop_count

from refta import cost, registry, trees
from refta.counting import Counter
from refta.network import Order, walk
from refta.operands import HAND_WRITTEN
from refta.shapes import StackShape

SMALL = StackShape("q", "query", 3, 48, 48, stacks=2, head_size=8)
ENUMERABLE = ["refta", "lotr", "fact_tt", "fact_tk", "tucker", "metatt", "tenslora", "lorta", "cara"]


def network_of(name: str, shape: StackShape = SMALL, **settings):
    return registry.method(name).network(registry.settings(name, settings), shape)


def large(name: str, **settings):
    return network_of(name, StackShape("query", "query", 24, 1024, 1024, stacks=2, head_size=64), **settings)


@pytest.mark.parametrize(("leaves", "count"), [("ab", 1), ("abc", 3), ("abcd", 15), ("abcde", 105), ("abcdef", 945), ("abcdefg", 10395)])
def test_there_are_all_binary_trees(leaves, count):
    found = list(trees.all_trees(leaves))
    assert len(found) == len({trees.written(one) for one in found}) == count


@pytest.mark.parametrize("name", ENUMERABLE)
@pytest.mark.parametrize("free", [0, 1, 3])
def test_every_candidate_costs_what_its_order_costs(name, free):
    network = network_of(name)
    for one in trees.candidates(network, 3, inputs_without_gradient=free):
        assert one.cost == cost.order_cost(network, one.order, layers=3, inputs_without_gradient=free) or _same(
            one.cost, cost.order_cost(network, one.order, layers=3, inputs_without_gradient=free)
        ), one.name


def _same(one, other) -> bool:
    lines = ("forward_flops", "backward_flops", "elementwise_flops", "kept_bytes")
    return all(getattr(one, line) == getattr(other, line) for line in lines) and set(one.temporaries) == set(other.temporaries)


@pytest.mark.parametrize("name", ENUMERABLE)
def test_a_pair_is_counted_as_opt_einsum_counts_it(name):
    network = network_of(name)
    sizes = {**network.sizes, "t": 1}
    counter = Counter(network, 4, x_needs_gradient=True)
    for order in network.orders.values():
        for step in walk(network, order.tree, network.output_axes, x_needs_gradient=True, stacked=False):
            line = counter._flops(step)
            axes = set(step.left.axes + step.right.axes)
            assert line.constant + line.per_token == flop_count(axes, step.is_product, 2, sizes)


@pytest.mark.parametrize("name", ENUMERABLE)
@pytest.mark.parametrize("quantity", trees.QUANTITIES)
def test_the_envelope_is_the_least_of_all_candidates_at_every_token_count(name, quantity):
    found = trees.candidates(network_of(name), 3, inputs_without_gradient=1)
    regimes = trees.envelope(found, quantity)
    assert regimes[0].tokens == 1

    def value(one: trees.Candidate, tokens: int) -> int:
        if quantity == "memory_bytes":
            return one.cost.memory_bytes(tokens)
        return (one.cost.kept_bytes if quantity == "kept_bytes" else one.cost.step_flops + one.cost.elementwise_flops).at(tokens)

    by_name = {one.name: one for one in found}
    for tokens in [*range(1, 130, 7), 500, 1000, 5000, 100_000, *(regime.tokens for regime in regimes)]:
        current = [regime for regime in regimes if regime.tokens <= tokens][-1]
        assert value(by_name[current.order], tokens) == min(value(one, tokens) for one in found), (tokens, current)


@pytest.mark.parametrize("name", ["refta", "lotr", "fact_tk", "metatt"])
def test_no_tree_at_all_is_below_the_envelope(name):
    """Against every tree of `all_trees`, costed one by one: leaving trees out while putting them together loses nothing."""
    network = network_of(name)
    leaves = ("x", *(operand.name for operand in network.contracted))
    modes = [
        (tree, mode) for tree in trees.all_trees(leaves) for mode in (("plain", "delta", "recompute") if tree[0] == "x" else ("plain",))
    ]
    everything = [cost.order_cost(network, Order(tree, mode=mode), layers=3, inputs_without_gradient=1) for tree, mode in modes]
    found = [one for one in trees.candidates(network, 3, inputs_without_gradient=1) if one.order.mode not in HAND_WRITTEN]
    for tokens in (1, 3, 10, 40, 100, 300, 1000, 10_000):
        work = min((one.step_flops + one.elementwise_flops).at(tokens) for one in everything)
        assert work == min((one.cost.step_flops + one.cost.elementwise_flops).at(tokens) for one in found)
        memory = min(one.memory_bytes(tokens) for one in everything)
        assert memory == min(one.cost.memory_bytes(tokens) for one in found)


def test_refta_s_envelope_by_hand():
    """ViT-L, R = 15: `shared` takes least work up to t = d and least memory while t × r kept is below two folded weights.

    By autograd, that is; of the backwards written by hand `fused` takes the least memory, and `fused_fold` work above t = d.
    """
    found = trees.candidates(large("refta", rank=15), 24, inputs_without_gradient=1)
    assert trees.envelope(found, "memory_bytes")[0].order == "fused"
    assert trees.envelope(found, "step_flops")[0].order == "shared"
    assert trees.envelope(found, "step_flops")[-1].order == "fused_fold"
    found = [one for one in found if one.order.mode not in HAND_WRITTEN]
    assert trees.envelope(found, "kept_bytes")[0].order == "reconstruct_recompute"
    assert trees.envelope(found, "memory_bytes")[0].order == "shared"
    assert [one.tokens for one in trees.envelope(found, "step_flops")] == [1, 1025]


@pytest.mark.parametrize("name", ["trac", "tt_lora", "loretta_rep"])
def test_beyond_seven_operands_the_dynamic_programme_offers_trees(name):
    settings = {"input_factors": [16, 8, 8], "output_factors": [4, 4, 8, 8]} if name == "tt_lora" else {}
    network = large(name, **settings)
    assert len(network.contracted) + 1 > trees.ENUMERATED
    found = trees.candidates(network, 24, inputs_without_gradient=1)
    assert set(network.orders) < {one.name for one in found}


def test_a_network_with_a_relu_has_its_named_orders_alone():
    found = trees.candidates(large("fedtt"), 24)
    assert {one.name for one in found} == set(large("fedtt").orders)


def test_refta_takes_milliseconds_and_no_torch():
    network = large("refta", rank=15)
    trees.candidates(network, 24)
    start = time.perf_counter()
    trees.envelope(trees.candidates(network, 24), "memory_bytes")
    assert time.perf_counter() - start < 0.1
    code = (
        "import sys; from refta import registry, trees; from refta.shapes import StackShape; "
        "m = registry.method('refta'); trees.candidates(m.network(m.Settings(), StackShape('q', 'query', 4, 48, 48)), 4); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
