"""The costs of every order of a method as data: lines in the token count, regimes, crossovers. No torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from typing import Any

from refta import cost, registry
from refta.cost import Cost, Line
from refta.errors import SettingError
from refta.network import Network
from refta.shapes import StackShape
from refta_profiler.errors import ScenarioError
from refta_profiler.predict import closed_form

LINES: dict[str, Callable[[Cost], Line]] = {
    "forward_flops": lambda one: one.forward_flops,
    "backward_flops": lambda one: one.backward_flops,
    "step_flops": lambda one: one.step_flops,
    "kept_bytes": lambda one: one.kept_bytes,
}
COMPARED = ("kept_bytes", "step_flops", "forward_flops")


@dataclass(frozen=True)
class Scope:
    """The costs of all orders over one part of the model: one layer, one stack of layers, or all that is adapted."""

    name: str  # layer, stack or model
    roles: tuple[str, ...]
    layers: int  # how many layers this is over
    shape: tuple[int, int] | None  # n × d, None where the model's stacks differ
    costs: dict[str, Cost]


@dataclass(frozen=True)
class OrderTable:
    """Everything about a method's orders on a model."""

    method: str
    model: str
    settings: dict[str, Any]
    network: Network
    aliases: dict[str, list[str]]
    scopes: list[Scope]
    kept_inputs: Line
    seq: int

    def scope(self, name: str) -> list[Scope]:
        """The scopes of that name."""
        return [one for one in self.scopes if one.name == name]

    def is_stacked(self, order: str) -> bool:
        """Whether the order has a part that is built once a step for all layers of a stack."""
        return self.network.order(order).mode in ("stack", "delta_stack")


@dataclass(frozen=True)
class Regime:
    """These orders are the least, alike, from `first` tokens to `last` (None: without end)."""

    orders: tuple[str, ...]
    first: int
    last: int | None


@dataclass(frozen=True)
class Crossover:
    """`lower` needs less than `higher` up to `tokens`; at every token count where that is None."""

    quantity: str
    scope: Scope
    lower: str
    higher: str
    tokens: Fraction | None


def of(method: str, settings: dict[str, Any], stacks: Sequence[StackShape], *, seq: int, model: str, precision: str = "fp32") -> OrderTable:
    """The table; raises SettingError or ScenarioError for what the method or the shapes cannot be."""
    chosen = registry.settings(method, settings)
    networks = [registry.method(method).network(chosen, shape) for shape in stacks]
    if not networks or None in networks:
        raise ScenarioError(f"'{method}' states no network, so it has no orders; those that do: {', '.join(with_networks())}")
    first: Network = networks[0]
    aliases = {name: [alias for alias, of in first.aliases.items() if of == name] for name in first.orders}
    itemsizes = {order: closed_form.itemsize_of(order, precision) for order in first.orders}
    scopes = _scopes(method, settings, list(zip(stacks, networks, strict=True)), itemsizes)
    reading_x = [] if first.serial else stacks  # a serial adapter reads the layer's output, which counts among what it keeps
    kept = closed_form.inputs_kept(reading_x, itemsize=closed_form.itemsize_of(None, precision), shared=precision == "fp32")
    shown = {key: value for key, value in vars(chosen).items() if value is not None}
    return OrderTable(method, model, shown, first, aliases, scopes, kept, seq)


def with_networks() -> list[str]:
    """The methods that state a network."""
    shape, found = StackShape("query", "query", 4, 64, 64), []
    for name in registry.names():
        try:
            if registry.method(name).network(registry.settings(name, {}), shape) is not None:
                found.append(name)
        except SettingError:
            found.append(name)
    return found


def _scopes(method: str, settings: dict[str, Any], stacks: list[tuple[StackShape, Network]], itemsizes: Mapping[str, int]) -> list[Scope]:
    """Layers and stacks of each shape there is, then the model."""
    shapes = [shape for shape, _ in stacks]
    whole = {
        order: closed_form.stack_costs(method, settings, order, shapes, itemsize=itemsize) or [] for order, itemsize in itemsizes.items()
    }
    found: list[Scope] = []
    for place, (shape, network) in enumerate(stacks):
        size = (shape.rows, shape.columns)
        same = _alike(shapes, shape)
        if shape is same[0]:
            layer = {order: cost.layer_cost(network, order, itemsize=itemsize) for order, itemsize in itemsizes.items()}
            found.append(Scope("layer", _roles(same), 1, size, layer))
        marked = [one for one in same if one.inputs_without_gradient == shape.inputs_without_gradient]
        if shape is marked[0]:
            found.append(Scope("stack", _roles(marked), shape.layers, size, {order: costs[place].cost for order, costs in whole.items()}))
    sizes = {(shape.rows, shape.columns) for shape in shapes}
    costs = {order: cost.summed(one.cost for one in costs) for order, costs in whole.items()}
    layers = sum(shape.layers for shape in shapes)
    return [*found, Scope("model", _roles(shapes), layers, sizes.pop() if len(sizes) == 1 else None, costs)]


def _alike(shapes: Sequence[StackShape], shape: StackShape) -> list[StackShape]:
    """The stacks whose layers cost what those of this one do."""
    alike = (shape.rows, shape.columns, shape.layers, shape.bias)
    return [one for one in shapes if (one.rows, one.columns, one.layers, one.bias) == alike]


def _roles(shapes: Sequence[StackShape]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(one.role for one in shapes))


def largest_lines(lines: Iterable[Line]) -> list[Line]:
    """Those of the lines that are the largest somewhere at t ≥ 1, the first of them first: of 8, 3·t and 2·t + 1 they are 8 and 3·t."""
    chosen = list(dict.fromkeys(lines))
    breaks = _breaks(chosen)
    found: list[Line] = []
    for start, end in _intervals(breaks):
        middle = (start + end) / 2 if end is not None else start + 1
        largest = max(chosen, key=lambda line: line.constant + line.per_token * middle) if chosen else None
        if largest is not None and largest not in found:
            found.append(largest)
    return found


def _breaks(lines: Sequence[Line]) -> list[Fraction]:
    meets = {one.crossover(other) for one, other in combinations(lines, 2)}
    return sorted(one for one in meets if one is not None and one > 1)


def _intervals(breaks: Sequence[Fraction]) -> list[tuple[Fraction, Fraction | None]]:
    edges = [Fraction(1), *breaks]
    return [(edge, edges[place + 1] if place + 1 < len(edges) else None) for place, edge in enumerate(edges)]


def regimes(bundles: Mapping[str, Sequence[Line]]) -> list[Regime]:
    """Which of several functions, each the largest of its lines, are least from which token count on; ties throughout stand together."""
    bundles = {name: largest_lines(lines) or [Line()] for name, lines in bundles.items()}
    found: list[Regime] = []
    for start, end in _intervals(_breaks(list(dict.fromkeys(line for lines in bundles.values() for line in lines)))):
        middle = (start + end) / 2 if end is not None else start + 1
        values = {name: max(line.constant + line.per_token * middle for line in lines) for name, lines in bundles.items()}
        least = tuple(name for name, value in values.items() if value == min(values.values()))
        first = 1 if start == 1 else math.floor(start) + 1
        if end is not None and math.floor(end) < first:
            continue
        if found and found[-1].orders == least:
            found[-1] = Regime(least, found[-1].first, None)
        else:
            found = [*found[:-1], Regime(found[-1].orders, found[-1].first, first - 1)] if found else []
            found.append(Regime(least, first, None))
    return found


def scope_regimes(table: OrderTable, scope: Scope) -> dict[str, list[Regime]]:
    """The regimes of every compared quantity, and of memory: what is kept and one largest temporary."""
    costs = {order: one for order, one in scope.costs.items() if scope.name != "layer" or not table.is_stacked(order)}
    found = {name: regimes({order: [LINES[name](one)] for order, one in costs.items()}) for name in COMPARED}
    memory = {order: [one.kept_bytes + line for line in one.temporaries or (Line(),)] for order, one in costs.items()}
    return {**found, "memory_bytes": regimes(memory)}


def crossovers(table: OrderTable, scope: Scope, quantity: str) -> list[Crossover]:
    """Every pair of orders whose costs differ: which is the lower for few tokens, and up to where.

    At one layer an order that builds for the whole stack has no cost that could be compared.
    """
    found = []
    comparable = [order for order in scope.costs if scope.name != "layer" or not table.is_stacked(order)]
    for first, second in combinations(comparable, 2):
        one, other = (LINES[quantity](scope.costs[order]) for order in (first, second))
        if one == other:
            continue
        pair = (first, second) if one.starts_below(other) else (second, first)
        found.append(Crossover(quantity, scope, *pair, one.crossover(other)))
    return found


def entries(table: OrderTable) -> list[dict[str, Any]]:
    """The table as JSON takes it."""
    from refta_profiler.commands import order_words

    costs = [_cost_entry(table, scope, order, one) for scope in table.scopes for order, one in scope.costs.items()]
    least = [
        _regime_entry(scope, quantity, one)
        for scope in table.scopes
        for quantity, found in scope_regimes(table, scope).items()
        for one in found
    ]
    crossed = [_crossover_entry(table, one) for scope in table.scopes for name in COMPARED for one in crossovers(table, scope, name)]
    said = [{"kind": "statement", "sentence": one} for one in order_words.statements(table)]
    return [*costs, *least, *crossed, *said]


def _place(scope: Scope) -> dict[str, Any]:
    n, d = scope.shape or (None, None)
    return {"scope": scope.name, "roles": list(scope.roles), "layers": scope.layers, "n": n, "d": d}


def _regime_entry(scope: Scope, quantity: str, one: Regime) -> dict[str, Any]:
    tokens = {"first_token": one.first, "last_token": one.last}
    return {"kind": "regime", **_place(scope), "quantity": quantity, "orders": list(one.orders), **tokens}


def _cost_entry(table: OrderTable, scope: Scope, order: str, one: Cost) -> dict[str, Any]:
    lines = {name: [line(one).constant, line(one).per_token] for name, line in LINES.items()}
    temporaries = [[line.constant, line.per_token] for line in largest_lines(one.temporaries)]
    named = {"kind": "cost", "method": table.method, "model": table.model, "order": order, "aliases": table.aliases[order]}
    return {**named, **_place(scope), "rank": table.settings.get("rank"), **lines, "temporary_bytes_largest_of": temporaries}


def _crossover_entry(table: OrderTable, one: Crossover) -> dict[str, Any]:
    tokens = None if one.tokens is None else math.floor(one.tokens)
    return {
        "kind": "crossover",
        **_place(one.scope),
        "quantity": one.quantity,
        "lower": one.lower,
        "higher": one.higher,
        "tokens": tokens,
        "exact_tokens": None if one.tokens is None else str(one.tokens),
        "batch": None if tokens is None else tokens // table.seq,
        "seq": table.seq,
    }
