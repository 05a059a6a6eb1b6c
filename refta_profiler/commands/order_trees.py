"""The lower envelope over every binary tree of a network, named orders and others, as data and in words. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from refta import cost, trees
from refta.cost import Line, Regime
from refta.network import Network
from refta.shapes import StackShape
from refta.trees import Candidate

QUICK = 5  # operands, x among them, up to which all trees are costed in a blink (105 trees; 6 operands take a second, 7 half a minute)
QUANTITIES = {
    "step_flops": "fewest training FLOPs (elementwise ones counted)",
    "kept_bytes": "least bytes kept",
    "memory_bytes": "least memory",
}


def is_quick(network: Network) -> bool:
    """Whether the trees are few, or so many that they are searched and not enumerated."""
    leaves = len(network.contracted) + 1
    return leaves <= QUICK or leaves > trees.ENUMERATED


def entries(network: Network, shape: StackShape) -> list[dict[str, Any]]:
    """Which tree is the least over one stack, from which token count on, in each quantity; with the words for it."""
    found = trees.candidates(network, shape.layers, inputs_without_gradient=shape.inputs_without_gradient)
    how = "all" if len(network.contracted) < trees.ENUMERATED else "opt_einsum's"
    return [_entry(network, shape, quantity, _envelope(found, quantity), how) for quantity in QUANTITIES]


def _envelope(found: Sequence[Candidate], quantity: str) -> list[Regime]:
    """Trees that sum nothing until late have few products and many elementwise FLOPs: both are counted here."""
    if quantity == "step_flops":
        return cost.regimes({one.name: one.cost.step_flops + _elementwise(one) for one in found})
    return trees.envelope(found, quantity)  # pyright: ignore[reportArgumentType]


def _elementwise(one: Candidate) -> Line:
    return one.cost.elementwise_flops


def _entry(network: Network, shape: StackShape, quantity: str, found: Sequence[Regime], how: str) -> dict[str, Any]:
    regimes = [{"tree": one.order, "named": one.order in network.orders, "first_token": one.tokens} for one in found]
    words = "; ".join(f"{'from ' + format(one.tokens, ',') + ' tokens ' if one.tokens > 1 else ''}`{one.order}`" for one in found)
    sentence = f"over {how} binary trees, one stack of {shape.role}: {QUANTITIES[quantity]}: {words}."
    return {"kind": "tree_regimes", "scope": "stack", "roles": [shape.role], "quantity": quantity, "regimes": regimes, "sentence": sentence}
