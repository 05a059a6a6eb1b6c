"""The closed form of a scenario's methods as data for the report: lines, and where the lines of two orders cross."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import combinations
from typing import Any

from refta import cost
from refta.cost import Line
from refta_profiler.plan import Point
from refta_profiler.predict import closed_form as forms
from refta_profiler.predict import maps
from refta_profiler.predict.closed_form import StackCost

QUANTITIES = {
    "kept_bytes": "keeps less than",
    "step_flops": "needs fewer training FLOPs than",
    "forward_flops": "needs fewer forward FLOPs than",
}


def closed_form(points: Sequence[Point]) -> list[dict[str, Any]]:
    """A line per method, order and role, and a crossover per pair of one method's orders; for the shapes that are known as data."""
    entries: list[dict[str, Any]] = []
    families: dict[tuple, dict[str, list[StackCost]]] = {}
    for point in _variants(points):
        shapes = forms.shapes(point.model, forms.sites(point.model, point.method, point.targets))
        found = forms.stack_costs(point.method, point.settings, point.order, shapes) if shapes else None
        if not found:
            continue
        entries += [_entry(point, one) for one in found]
        if point.order is not None:
            family = (point.method, str(point.settings), point.seq)
            families.setdefault(family, {})[point.order] = found
    for (_, _, seq), orders in families.items():
        entries += [{"crossover": one} for one in crossovers(orders, seq)]
    return entries + maps.maps(points)


def _variants(points: Iterable[Point]) -> list[Point]:
    seen: dict[tuple, Point] = {}
    for point in points:
        seen.setdefault((point.label, point.order, point.seq), point)
    return list(seen.values())


def _entry(point: Point, one: StackCost) -> dict[str, Any]:
    lines = {"forward_flops": one.cost.forward_flops, "step_flops": one.cost.step_flops, "kept_bytes": one.cost.kept_bytes}
    shape = {"role": one.shape.role, "layers": one.shape.layers, "n": one.shape.rows, "d": one.shape.columns}
    named = {"label": point.label, "method": point.method, "order": one.order, "rank": point.rank, "seq": point.seq}
    return named | shape | {name: [line.constant, line.per_token] for name, line in lines.items()}


def crossovers(orders: dict[str, list[StackCost]], seq: int | None) -> list[dict[str, Any]]:
    """Where the model-wide lines of each pair of orders cross, by quantity, as data and as a sentence."""
    found = []
    for (first, one), (second, other) in combinations(orders.items(), 2):
        for quantity in QUANTITIES:
            tokens = _line(one, quantity).crossover(_line(other, quantity))
            if tokens is not None and tokens >= 1:
                found.append(_crossover(quantity, first, second, tokens, one, other, seq))
    return found


def _line(stacks: Sequence[StackCost], quantity: str) -> Line:
    return cost.total(getattr(one.cost, quantity) for one in stacks)


def _crossover(quantity: str, first: str, second: str, tokens: Fraction, one, other, seq: int | None) -> dict[str, Any]:
    lower, higher = (first, second) if _line(one, quantity).at(1) <= _line(other, quantity).at(1) else (second, first)
    batch = None if not seq else int(tokens / seq)
    sized = f" (batch {batch:,} of {seq:,})" if batch else ""
    sentence = f"Over the model `{lower}` {QUANTITIES[quantity]} `{higher}` up to {int(tokens):,} tokens{sized}."
    roles = "+".join(dict.fromkeys(stack.shape.role for stack in one))
    return {
        "quantity": quantity,
        "first": lower,
        "second": higher,
        "role": roles,
        "tokens": float(tokens),
        "batch": batch,
        "scope": "model",
        "sentence": sentence,
    }
