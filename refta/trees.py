"""Every binary contraction tree of a network, what each costs, and which is the cheapest from which token count on. No torch.

Up to seven operands (x among them) all trees are enumerated, (2n − 3)!! of them: 15 for ReFTA's four. Beyond seven they are those
that opt_einsum's dynamic programming finds at several token counts, beside the network's own named orders.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Literal

from refta.cost import order_cost
from refta.counting import Cost
from refta.enumeration import Enumeration, Partial
from refta.lines import Line, Regime, highest_lines, regimes
from refta.network import INPUT, Network, Order, Tree

ENUMERATED = 7
QUANTITIES = ("step_flops", "kept_bytes", "memory_bytes")
Quantity = Literal["step_flops", "kept_bytes", "memory_bytes"]
_SAMPLED_TOKENS = (1, 64, 1024, 65536)


@dataclass(frozen=True)
class Candidate:
    """An order, named or not, and what it costs over a stack. `name` is the named order's, or the tree written out."""

    name: str
    order: Order
    cost: Cost


def all_trees(leaves: Sequence[str]) -> Iterator[Tree]:
    """Every binary tree over the leaves, (2n − 3)!! of them: 1, 3, 15, 105, 945, 10395 for 2 to 7."""
    return iter(_trees(tuple(leaves)))


@cache
def _trees(leaves: tuple[str, ...]) -> tuple[Tree, ...]:
    if len(leaves) == 1:
        return leaves
    first, rest = leaves[0], leaves[1:]
    found: list[Tree] = []
    for chosen in range(2 ** len(rest) - 1):  # which of the rest go with the first; never all of them
        beside = tuple(one for place, one in enumerate(rest) if chosen >> place & 1)
        others = tuple(one for place, one in enumerate(rest) if not chosen >> place & 1)
        found += [(left, right) for left in _trees((first, *beside)) for right in _trees(others)]
    return tuple(found)


def written(tree: Tree) -> str:
    """A tree as text: `((x B) u) A`."""
    if isinstance(tree, str):
        return tree
    left, right = (written(one) if isinstance(one, str) else f"({written(one)})" for one in tree)
    return f"{left} {right}"


def candidates(network: Network, layers: int = 1, *, inputs_without_gradient: int = 0, itemsize: int = 4) -> list[Candidate]:
    """The named orders, and every other tree, both kept and recomputed where it folds; costs over a stack of `layers`.

    Trees that another one equals or beats in every count are left out; a named order comes first.
    A network with a relu has its named orders alone.
    """
    given = {"layers": layers, "inputs_without_gradient": inputs_without_gradient, "itemsize": itemsize}
    found = {name: Candidate(name, order, order_cost(network, order, **given)) for name, order in network.orders.items()}
    seen = {_signature(one.cost) for one in found.values()}
    for one in _unnamed(network, given):
        signature = _signature(one.cost)
        if signature not in seen:
            seen.add(signature)
            found[one.name] = one
    return list(found.values())


def _signature(cost: Cost) -> tuple:
    return cost.forward_flops, cost.step_flops, cost.elementwise_flops, cost.kept_bytes, highest_lines(cost.temporaries)


def _named(order: Order, cost: Cost) -> Candidate:
    mode = {"plain": "", "delta": ", not folded", "recompute": ", recomputed"}[order.mode]
    return Candidate(written(order.tree) + mode, order, cost)


def _unnamed(network: Network, given: dict[str, int]) -> Iterator[Candidate]:
    if network.serial:
        return
    if len(network.contracted) + 1 > ENUMERATED:
        for tree in _dynamic(network, (INPUT, *(operand.name for operand in network.contracted))):
            orders = [Order(tree), Order(tree, mode="recompute")] if tree[0] == INPUT else [Order(tree)]
            yield from (_named(order, order_cost(network, order, **given)) for order in orders)
        return
    trees = Enumeration(network, given["layers"], min(given["inputs_without_gradient"], given["layers"]), given["itemsize"])
    for one in trees.features():
        yield _named(Order(one.tree, mode="delta" if one.tree[0] == INPUT else "plain"), one.cost())
    for one in trees.folds():
        yield from _folded(trees, one)


def _folded(trees: Enumeration, update: Partial) -> Iterator[Candidate]:
    """A tree of the update folded into the weight, kept and recomputed."""
    tree = (INPUT, update.tree)
    for mode in ("plain", "recompute"):
        order = Order(tree, mode=mode)
        yield _named(order, trees.folded(update, order))


def _dynamic(network: Network, leaves: Sequence[str]) -> list[Tree]:
    """The trees of opt_einsum's dynamic programming at several token counts."""
    import opt_einsum

    axes = network.equation.split("->")[0].split(",")
    found = {}
    for tokens in _SAMPLED_TOKENS:
        shapes = [tuple(tokens if axis == "t" else network.sizes[axis] for axis in one) for one in axes]
        path, _ = opt_einsum.contract_path(network.equation, *shapes, shapes=True, optimize="dp")
        trees: list[Tree] = list(leaves)
        for pair in path:
            left, right = (trees.pop(place) for place in sorted(pair, reverse=True))
            trees.append((left, right) if _holds_input(left) or not _holds_input(right) else (right, left))
        found[written(trees[0])] = trees[0]
    return list(found.values())


def _holds_input(tree: Tree) -> bool:
    return tree == INPUT if isinstance(tree, str) else any(_holds_input(one) for one in tree)


def envelope(found: Sequence[Candidate], quantity: Quantity) -> list[Regime]:
    """Which candidate is the least in that quantity, from which token count on; ties stay with the earlier regime.

    `step_flops` is all work, elementwise included (a tree could else hide its work in outer products); memory as `Cost.memory_bytes`.
    """
    if quantity == "memory_bytes":
        return _memory_envelope(found)
    lines = {
        one.name: one.cost.kept_bytes if quantity == "kept_bytes" else one.cost.step_flops + one.cost.elementwise_flops for one in found
    }
    return regimes(lines)


def _memory_lines(cost: Cost) -> tuple[Line, ...]:
    """The lines whose highest is kept bytes and the largest temporary."""
    return tuple(cost.kept_bytes + one for one in highest_lines(cost.temporaries)) or (cost.kept_bytes,)


def _memory_envelope(found: Sequence[Candidate]) -> list[Regime]:
    lines = {one.name: _memory_lines(one.cost) for one in found}
    heights = {name: (max(one.constant for one in own), max(one.per_token for one in own)) for name, own in lines.items()}
    kept = {name: own for name, own in lines.items() if not any(_is_lower(lines[other], own) for other in _nearer(heights, name))}
    result, tokens = [], 1
    while True:
        best = min(kept, key=lambda name: (_highest(kept[name], tokens), max(one.per_token for one in kept[name])))
        if not result or result[-1].order != best:
            result.append(Regime(tokens, best))
        later = [moment for name, own in kept.items() if name != best for moment in _overtakes(own, kept[best], tokens)]
        if not later:
            return result
        tokens = min(later)


def _nearer(heights: dict[str, tuple[int, int]], name: str) -> Iterator[str]:
    """Those that may be lower everywhere."""
    own = heights[name]
    return (other for other, height in heights.items() if height != own and height[0] <= own[0] and height[1] <= own[1])


def _is_lower(one: Sequence[Line], other: Sequence[Line]) -> bool:
    """Whether each line of the one lies under some line of the other, so that its highest does at every token count."""
    return all(any(line.constant <= above.constant and line.per_token <= above.per_token for above in other) for line in one)


def _highest(lines: Sequence[Line], tokens: int | Fraction) -> int | Fraction:
    return max(one.constant + one.per_token * tokens for one in lines)


def _overtakes(lines: Sequence[Line], best: Sequence[Line], tokens: int) -> Iterator[int]:
    """The first whole token counts after `tokens`, one for each crossing, at which the one is lower than the best."""
    for one in lines:
        for other in best:
            moment = one.crossover(other)
            after = None if moment is None else moment.numerator // moment.denominator + 1
            if after is not None and after > tokens and _highest(lines, after) < _highest(best, after):
                yield after
