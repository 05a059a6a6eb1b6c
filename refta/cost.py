"""What every order of a network costs, in closed form as functions of the token count t. No torch.

FLOPs are those of matrix products, 2 per multiply-add, by opt_einsum's count of each pair; they equal what torch's
FlopCounterMode sees beyond the frozen base. Elementwise work (Hadamard products, additions, the bias column) is counted apart.
Backward: as autograd derives it, one contraction of the same cost for each input that needs a gradient (fused_cost.py has the backwards
that are written by hand). Kept: each input that is neither a parameter nor a buffer and whose partner needs a gradient.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from refta.counting import NOTHING, Cost, Counter
from refta.fused_cost import fused_layer
from refta.lines import Line, Regime, highest_lines, moments, regimes, total
from refta.network import INPUT, PER_STEP, UNFOLDED, Network, Order, is_fold
from refta.operands import HAND_WRITTEN, Aim
from refta.traffic import moved_bytes

__all__ = [
    "NOTHING",
    "Cost",
    "Line",
    "Regime",
    "best_order",
    "best_orders",
    "layer_cost",
    "order_at",
    "order_cost",
    "rebuilt_axes",
    "regimes",
    "stack_cost",
    "summed",
    "total",
]

# What a machine computes while it moves a byte: an H100 20 in float32 (67 TFLOP/s, 3.35 TB/s: its datasheet), two cores about as many.
# At 3 to 100 `fused_fold` begins at 743 to 800 tokens for ViT-L's query at rank 15, `fused` at 86 to 11: the choice is not sensitive to it.
FLOPS_PER_BYTE = 20


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


def order_cost(
    network: Network,
    order: Order,
    *,
    layers: int = 1,
    inputs_without_gradient: int = 0,
    itemsize: int = 4,
    base_itemsize: int | None = None,
) -> Cost:
    """What a stack of `layers` costs in an order that need not be a named one, on a base of other numbers where `base_itemsize` says so."""
    free = min(inputs_without_gradient, layers)
    parts = ((layers - free, True), (free, False))
    costs = [_layer(Counter(network, itemsize, needed, base_itemsize), order).times(count) for count, needed in parts if count]
    if order.mode in PER_STEP:
        costs.append(Counter(network, itemsize, layers > free, base_itemsize).whole_stack(order, layers))
    return summed(costs)


def summed(costs: Iterable[Cost]) -> Cost:
    """Several costs in turn, such as a model's stacks: everything adds up but the largest temporary."""
    return sum(costs, start=NOTHING)


def best_order(
    network: Network,
    tokens: int,
    layers: int,
    *,
    aim: Aim = "memory",
    inputs_without_gradient: int = 0,
    itemsize: int = 4,
    base_itemsize: int | None = None,
) -> str:
    """The order that adds least to a step of that many tokens: to its memory, or to its time (see `best_orders`)."""
    sizes = {"itemsize": itemsize, "base_itemsize": base_itemsize}
    return order_at(best_orders(network, layers, aim=aim, inputs_without_gradient=inputs_without_gradient, **sizes), tokens)


def best_orders(
    network: Network,
    layers: int,
    *,
    aim: Aim = "memory",
    inputs_without_gradient: int = 0,
    itemsize: int = 4,
    base_itemsize: int | None = None,
) -> tuple[Regime, ...]:
    """Which order adds least to the whole step, forward and backward, from which token count on.

    `memory`: what is kept and one largest temporary; ties go to the fewer FLOPs, then to the name. `time`: FLOPs, elementwise ones among
    them, and the bytes moved at FLOPS_PER_BYTE; ties go to the lesser memory. ViT-L's query of rank 15: least memory is `fused` up to
    34,952 tokens, least time from 13 to 784, and `fused_fold` beyond. base_itemsize: bytes of the base's numbers where they are not the
    adapter's; `memory` then counts the casts between the two (`time` does not): with factors in float32 on a base in bfloat16 `fused`
    up to 756 tokens, `fused_fold` up to 1,009, `reconstruct_recompute` beyond.
    """
    given = {"inputs_without_gradient": inputs_without_gradient, "itemsize": itemsize}
    sizes = {**given, "base_itemsize": base_itemsize}
    costs = {name: order_cost(network, order, layers=layers, **sizes) for name, order in network.orders.items()}
    work = {name: _work(network, network.order(name), layers, one, given) for name, one in costs.items()} if aim == "time" else {}
    memory = {name: [one.kept_bytes + line for line in highest_lines(one.temporaries) or (Line(),)] for name, one in costs.items()}

    def key(name: str, tokens: int) -> tuple:
        used = max(line.at(tokens) for line in memory[name])
        return (work[name].at(tokens), used, name) if work else (used, costs[name].step_flops.at(tokens), name)

    lines = [*(line for own in memory.values() for line in own), *(work or {name: one.step_flops for name, one in costs.items()}).values()]
    found: list[Regime] = []
    for tokens in moments(lines):
        best = min(costs, key=lambda name: key(name, tokens))
        if not found or found[-1].order != best:
            found.append(Regime(tokens, best))
    return tuple(found)


def order_at(chosen: Sequence[Regime], tokens: int) -> str:
    """The order of the regime that a token count is in."""
    name = chosen[0].order
    for one in chosen:
        if one.tokens > tokens:
            break
        name = one.order
    return name


def _work(network: Network, order: Order, layers: int, cost: Cost, given: dict[str, int]) -> Line:
    return cost.step_flops + cost.elementwise_flops + moved_bytes(network, order, layers, **given) * FLOPS_PER_BYTE


def rebuilt_axes(network: Network, order: str) -> str:
    """The axes of the dense update that an order builds: `nd`, `knd` for a stack at once, `lmnd` for whole tables; none for features."""
    chosen = network.order(order)
    if not (isinstance(chosen.tree, tuple) and chosen.tree[0] == INPUT and (is_fold(chosen) or chosen.mode in UNFOLDED)):
        return ""
    leading = {"whole": network.table_axes, **dict.fromkeys(PER_STEP, "k")}
    return leading.get(chosen.mode, "") + network.fold_axes
