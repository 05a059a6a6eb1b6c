"""The orders of a method in words: tables of costs, and sentences on where which is least."""

from __future__ import annotations

import math
from collections.abc import Sequence

from refta.cost import Line
from refta.network import INPUT, Network, walk
from refta_profiler.commands import order_table
from refta_profiler.commands.answer import table
from refta_profiler.commands.order_table import LINES, Crossover, OrderTable, Regime, Scope
from refta_profiler.verdict_words import listing

VERBS = {
    "kept_bytes": "keeps less than",
    "step_flops": "needs fewer training FLOPs than",
    "forward_flops": "needs fewer forward FLOPs than",
}
LEAST = {
    "kept_bytes": "least bytes kept",
    "step_flops": "fewest training FLOPs",
    "forward_flops": "fewest forward FLOPs",
    "memory_bytes": "least memory (kept, and one largest temporary)",
}
AS_DERIVED = (
    "the envelope is over backwards as autograd derives them (and the recomputations and hand-written ones named here); another "
    "hand-written backward may use another tree and cost less."
)


def text(found: OrderTable, more: Sequence[str] = ()) -> str:
    """The whole answer, `more` sentences at its end."""
    settings = ", ".join(f"{key} {value}" for key, value in found.settings.items())
    head = f"{found.method} ({settings}) on {found.model}: {found.network.equation}, beyond the frozen base, t tokens, float32"
    tables = [f"{_title(scope)}\n{_costs(found, scope)}" for scope in found.scopes]
    return "\n\n".join([head, *tables, "\n".join(f"- {one}" for one in [*statements(found), *more])])


def _title(scope: Scope) -> str:
    size = f" of {scope.shape[0]:,} × {scope.shape[1]:,}" if scope.shape else ""
    if scope.name == "layer":
        return f"One layer ({' or '.join(scope.roles)}){size}"
    if scope.name == "stack":
        return f"One stack ({' or '.join(scope.roles)}): {scope.layers} layers{size}"
    return f"The model ({' + '.join(scope.roles)}): {scope.layers} layers{size}"


def _costs(found: OrderTable, scope: Scope) -> str:
    rows = [["order", "forward FLOPs", "backward FLOPs", "step FLOPs", "kept bytes", "largest temporary, bytes"]]
    for order, cost in scope.costs.items():
        aliases = f" ({', '.join(found.aliases[order])})" if found.aliases[order] else ""
        largest = order_table.largest_lines(cost.temporaries)
        temporary = f"max({'; '.join(map(line_words, largest))})" if len(largest) > 1 else line_words(largest[0]) if largest else "0"
        rows.append([order + aliases, *(line_words(line(cost)) for line in LINES.values()), temporary])
    stacked = [order for order in scope.costs if found.is_stacked(order)] if scope.name == "layer" else []
    aside = f"\n  ({_names(stacked)}: the layer's part alone; what is built once a step stands in the stack's costs)" if stacked else ""
    return table(rows, indent="  ") + aside


def line_words(line: Line) -> str:
    """'2,097,152 + 60·t', '60·t', '0'."""
    parts = [f"{line.constant:,}"] if line.constant else []
    return " + ".join([*parts, f"{line.per_token:,}·t"] if line.per_token else parts) or "0"


def statements(found: OrderTable) -> list[str]:
    """What the tables come to, a sentence each."""
    said = [one for quantity in order_table.COMPARED for one in _crossover_sentences(found, quantity)]
    said += [one for quantity in LEAST for one in _least(found, quantity)]
    said += [one for name in found.network.orders for one in _recompute(found, name)]
    if found.kept_inputs.per_token:
        said.append(f"every order keeps x beside that, once per layer input: {line_words(found.kept_inputs)} bytes over the model.")
    if any(order.mode == "slices" for order in found.network.orders.values()):
        said.append(f"slice ranks depend on the weights; here {len(found.network.slice_ranks)} slices with components are assumed.")
    return [*said, AS_DERIVED]


def _crossover_sentences(found: OrderTable, quantity: str) -> list[str]:
    """A sentence per pair of orders that cross somewhere, over layer and model; orders of equal cost stand together."""
    scopes = [*found.scope("layer"), *found.scope("model")]
    groups = _alike(found, scopes, quantity)
    by_pair: dict[frozenset[str], list[Crossover]] = {}
    for scope in scopes:
        for one in order_table.crossovers(found, scope, quantity):
            if one.lower in groups and one.higher in groups:
                by_pair.setdefault(frozenset((one.lower, one.higher)), []).append(one)
    crossing = [pair for pair in by_pair.values() if any(one.tokens is not None and one.tokens >= 1 for one in pair)]
    if not crossing and len(found.network.orders) > 1:
        words = {"kept_bytes": "bytes kept", "step_flops": "training FLOPs", "forward_flops": "forward FLOPs"}[quantity]
        return [f"no two orders cross in {words} at any batch."]
    return [_sentence(found, pair, groups) for pair in crossing]


def _alike(found: OrderTable, scopes: Sequence[Scope], quantity: str) -> dict[str, list[str]]:
    """By the first of the orders that cost the same in every scope, the others; one with a stack-wide part is not like one without."""
    groups: dict[tuple[object, ...], list[str]] = {}
    for order in scopes[0].costs:
        lines = tuple(LINES[quantity](scope.costs[order]) for scope in scopes)
        groups.setdefault((found.is_stacked(order), *lines), []).append(order)
    return {names[0]: names[1:] for names in groups.values()}


def _sentence(found: OrderTable, pair: Sequence[Crossover], groups: dict[str, list[str]]) -> str:
    """'per layer `a` keeps less than `b` up to 70,929 tokens (…), over the model up to 68,016 tokens (…); `c` is like `a`.'"""
    parts = []
    for place, one in enumerate(pair):
        names = f" `{one.lower}` {VERBS[one.quantity]} `{one.higher}`"
        same = place and (one.lower, one.higher) == (pair[0].lower, pair[0].higher)
        parts.append(f"{_where(pair, one.scope)}{'' if same else names} {_up_to(one, found.seq)}")
    ends = [name for name in (pair[0].lower, pair[0].higher) if groups[name]]
    like = [f"{_names(groups[name])} {'is' if len(groups[name]) == 1 else 'are'} like `{name}`" for name in ends]
    return "; ".join([", ".join(parts), *like]) + "."


def _where(pair: Sequence[Crossover], scope: Scope) -> str:
    """'over the model', 'per layer', and of which role where layers differ."""
    if scope.name == "model":
        return "over the model"
    alone = sum(other.scope.name == "layer" for other in pair) == 1
    return "per layer" if alone else f"per layer of {' or '.join(scope.roles)}"


def _names(orders: Sequence[str]) -> str:
    return listing([f"`{one}`" for one in orders])


def _up_to(one: Crossover, seq: int) -> str:
    if one.tokens is None or one.tokens < 1:
        return "at every batch"
    return f"up to {size_words(math.floor(one.tokens), seq)}"


def size_words(tokens: int, seq: int) -> str:
    """'70,929 tokens (batch 360 of 197)'; less than one example is 'tokens' alone."""
    batch = f"batch {tokens // seq:,} of {seq:,}" if tokens >= seq else f"less than one example of {seq:,}"
    return f"{tokens:,} token{'' if tokens == 1 else 's'} ({batch})"


def _least(found: OrderTable, quantity: str) -> list[str]:
    """'least bytes kept over the model: `reconstruct_recompute` at every batch.'"""
    if len(found.network.orders) < 2:
        return []
    scope = found.scope("model")[0]
    regimes = order_table.scope_regimes(found, scope)[quantity]
    return [f"{LEAST[quantity]} over the model: {'; '.join(_regime(one, found.seq) for one in regimes)}."]


def _regime(one: Regime, seq: int) -> str:
    names = _names(one.orders)
    if one.first == 1:
        return f"{names} at every batch" if one.last is None else f"{names} up to {size_words(one.last, seq)}"
    return f"from there {names}" if one.last is None else f"then {names} up to {size_words(one.last, seq)}"


def _recompute(found: OrderTable, name: str) -> list[str]:
    """What recomputing costs beside the order with the same tree that keeps: '`reconstruct_recompute` keeps nothing …'."""
    network, scope = found.network, found.scope("layer")[0]
    order = network.orders[name]
    keeping = [other for other, one in network.orders.items() if one.tree == order.tree and one.mode == "plain"]
    if order.mode not in ("recompute", "fused") or not keeping:
        return []
    again = scope.costs[name].step_flops + scope.costs[keeping[0]].step_flops * -1
    kept = scope.costs[name].kept_bytes
    keeps = "nothing" if kept == Line() else f"{line_words(kept)} bytes a layer"
    return [f"`{name}` keeps {keeps} at any batch and costs {_amount(network, again, order.tree)} more FLOPs a layer than `{keeping[0]}`."]


def _amount(network: Network, again: Line, tree) -> str:
    """The number of FLOPs, with the formula where it is one product over rank and the layer's sizes: '2Rnd (31,457,280)'."""
    inner = tree[1] if isinstance(tree, tuple) and tree[0] == INPUT else tree
    steps = [step for step in walk(network, inner, network.fold_axes, x_needs_gradient=False, stacked=False) if step.is_product]
    axes = {axis for step in steps for axis in step.left.axes + step.right.axes}
    if len(steps) == 1 and axes == set("rnd") and again == Line(2 * network.elements("rnd")):
        return f"2Rnd ({line_words(again)})"
    return line_words(again)
