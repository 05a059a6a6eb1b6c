"""What every order of a network costs, in closed form as functions of the token count t. No torch.

FLOPs are those of matrix products, 2 per multiply-add, by opt_einsum's count of each pair; they equal what torch's
FlopCounterMode sees beyond the frozen base. Elementwise work (Hadamard products, additions, the bias column) is counted apart.
Backward: as autograd derives it, one contraction of the same cost for each input that needs a gradient (fused_cost.py has the backwards
that are written by hand). Kept: each input that is neither a parameter nor a buffer and whose partner needs a gradient.
"""

from __future__ import annotations

from collections.abc import Iterable

from refta.counting import NOTHING, Cost, Counter
from refta.fused_cost import fused_layer
from refta.lines import Line, Regime, regimes, total
from refta.network import INPUT, PER_STEP, UNFOLDED, Network, Order, is_fold
from refta.operands import HAND_WRITTEN

__all__ = [
    "NOTHING",
    "Cost",
    "Line",
    "Regime",
    "best_order",
    "layer_cost",
    "order_cost",
    "rebuilt_axes",
    "regimes",
    "stack_cost",
    "summed",
    "total",
]


def layer_cost(network: Network, order: str, *, x_needs_gradient: bool = True, itemsize: int = 4) -> Cost:
    """What one layer costs in that order, its share of a stack-wide part left out.

    ReFTA of rank R, `shared`: 2tR(n + d) forward, 4tR(n + d) backward, t·R numbers kept.
    `reconstruct`: 2Rnd forward, 2tnd + 4Rnd backward, n·d + n·R kept.
    `fused`: 2tR(n + d) forward, 4tnR + 6tdR backward, nothing kept. `fused_fold`: 2Rnd forward, 2Rnd + 4tR(n + d) backward, nothing kept.
    """
    return _layer(Counter(network, itemsize, x_needs_gradient), network.order(order))


def _layer(counter: Counter, order: Order) -> Cost:
    return fused_layer(counter, order) if order.mode in HAND_WRITTEN else counter.layer(order)


def stack_cost(network: Network, order: str, layers: int, *, inputs_without_gradient: int = 0, itemsize: int = 4) -> Cost:
    """What a stack of `layers` costs in that order; for `inputs_without_gradient` of them x needs no gradient (usually the first)."""
    return order_cost(network, network.order(order), layers=layers, inputs_without_gradient=inputs_without_gradient, itemsize=itemsize)


def order_cost(network: Network, order: Order, *, layers: int = 1, inputs_without_gradient: int = 0, itemsize: int = 4) -> Cost:
    """What a stack of `layers` costs in an order that need not be a named one."""
    free = min(inputs_without_gradient, layers)
    parts = ((layers - free, True), (free, False))
    costs = [_layer(Counter(network, itemsize, needed), order).times(count) for count, needed in parts if count]
    if order.mode in PER_STEP:
        costs.append(Counter(network, itemsize, layers > free).whole_stack(order, layers))
    return summed(costs)


def summed(costs: Iterable[Cost]) -> Cost:
    """Several costs in turn, such as a model's stacks: everything adds up but the largest temporary."""
    return sum(costs, start=NOTHING)


def best_order(network: Network, tokens: int, layers: int, *, inputs_without_gradient: int = 0, itemsize: int = 4) -> str:
    """The order that adds least to the step's memory at that many tokens; ties go to the fewer FLOPs, then to the name."""

    def key(name: str):
        cost = stack_cost(network, name, layers, inputs_without_gradient=inputs_without_gradient, itemsize=itemsize)
        return cost.memory_bytes(tokens), cost.step_flops.at(tokens), name

    return min(network.orders, key=key)


def rebuilt_axes(network: Network, order: str) -> str:
    """The axes of the dense update that an order builds: `nd`, `knd` for a stack at once, `lmnd` for whole tables; none for features."""
    chosen = network.order(order)
    if not (isinstance(chosen.tree, tuple) and chosen.tree[0] == INPUT and (is_fold(chosen) or chosen.mode in UNFOLDED)):
        return ""
    leading = {"whole": network.table_axes, **dict.fromkeys(PER_STEP, "k")}
    return leading.get(chosen.mode, "") + network.fold_axes
