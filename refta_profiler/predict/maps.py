"""Which order is least at every batch × rank and batch × sequence, from the closed form, as data for the report. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from refta import cost
from refta.cost import Cost
from refta.errors import SettingError
from refta.shapes import StackShape
from refta_profiler.plan import Point
from refta_profiler.predict import closed_form as forms

RECOMPUTES = "recompute"
PLAIN = "memory_bytes without recomputation"  # the comparison the paper makes: with backwards as autograd derives them
QUANTITIES = ("memory_bytes", PLAIN, "step_flops")
COLUMNS, ROWS = 120, 24
LEAST_BATCHES, LONGEST = 1024, 4096  # how far a map reaches: batches at least, tokens of an example


@dataclass(frozen=True)
class Family:
    """The orders of one method in a scenario that differ in nothing but order and rank."""

    point: Point  # the first of them
    labels: dict[str, str]  # by order, those at the first point's rank
    shapes: list[StackShape]
    batches: list[int]
    ranks: list[int]
    sequences: list[int]

    def costs(self, rank: int | None) -> dict[str, list[Cost]] | None:
        """Every order's costs of each stack at a rank; None where the method cannot have it."""
        settings = self.point.settings if rank is None else {**self.point.settings, "rank": rank}
        try:
            found = {order: forms.stack_costs(self.point.method, settings, order, self.shapes) for order in self.labels}
        except SettingError:
            return None
        return {order: [one.cost for one in stacks] for order, stacks in found.items() if stacks}


def maps(points: Sequence[Point]) -> list[dict[str, Any]]:
    """Maps over batch × rank (at the first sequence) and batch × sequence, for every method that the scenario has in several orders."""
    entries = []
    for family in families(points):
        if family.point.rank is not None:
            entries += over_rank(family)
        entries += over_sequence(family)
    return entries


def families(points: Sequence[Point]) -> list[Family]:
    """The families of two orders or more whose shapes are known as data."""
    groups: dict[str, list[Point]] = {}
    for point in points:
        if point.order not in (None, "auto") and point.seq:
            settings = {key: value for key, value in point.settings.items() if key != "rank"}
            groups.setdefault(repr((point.model, point.method, sorted(settings.items()))), []).append(point)
    found = []
    for group in groups.values():
        first = group[0]
        labels = {point.order: point.label for point in group if point.rank == first.rank and point.order is not None}
        shapes = forms.shapes(first.model, forms.sites(first.model, first.method, first.targets)) if len(labels) > 1 else None
        if shapes:
            batches, ranks = sorted({one.batch for one in group}), sorted({one.rank for one in group if one.rank is not None})
            found.append(Family(first, labels, shapes, batches, ranks, sorted({one.seq for one in group if one.seq})))
    return found


def over_rank(family: Family) -> list[dict[str, Any]]:
    """Batch × rank at the first sequence length."""
    seq = family.sequences[0]
    width = min(min(one.rows, one.columns) for one in family.shapes)
    ranks = sorted({*spaced(1, min(width, max(64, 16 * max(family.ranks))), ROWS), *family.ranks})
    costs = {rank: found for rank in ranks if (found := family.costs(rank))}
    rows = [(rank, one, [batch * seq for batch in columns(family)]) for rank, one in costs.items()]
    return [_entry(family, quantity, "rank", rows, at=family.point.rank, seq=seq) for quantity in _mapped(family)] if rows else []


def over_sequence(family: Family) -> list[dict[str, Any]]:
    """Batch × tokens of an example, at the first point's rank."""
    costs = family.costs(family.point.rank)
    if not costs:
        return []
    lengths = sorted({*spaced(16, max(LONGEST, *family.sequences), ROWS), *family.sequences})
    rows = [(length, costs, [batch * length for batch in columns(family)]) for length in lengths]
    return [_entry(family, quantity, "seq", rows, at=family.sequences[0], rank=family.point.rank) for quantity in _mapped(family)]


def _mapped(family: Family) -> list[str]:
    """The quantities in which at least two orders can differ; without recomputation only where there is some to leave out."""
    plain = [order for order in family.labels if RECOMPUTES not in order]
    return [one for one in QUANTITIES if one != PLAIN or 2 <= len(plain) < len(family.labels)]


def columns(family: Family) -> list[float]:
    """The middles of the map's columns, evenly on a logarithmic axis from batch 1."""
    top = max(LEAST_BATCHES, 2 * family.batches[-1])
    return [top ** ((index + 0.5) / COLUMNS) for index in range(COLUMNS)]


def spaced(low: int, high: int, count: int) -> list[int]:
    """Up to `count` whole numbers from low to high, evenly on a logarithmic axis."""
    return sorted({round(low * (high / low) ** (index / (count - 1))) for index in range(count)})


def least(costs: dict[str, list[Cost]], quantity: str, tokens: int) -> str:
    """The order of least memory (kept, and one largest temporary) or training FLOPs over the model; ties go to the fewer FLOPs."""

    def flops(stacks: list[Cost]) -> int:
        return cost.total(one.step_flops for one in stacks).at(tokens)

    def key(order: str) -> tuple[int, int]:
        stacks = costs[order]
        memory = sum(one.kept_bytes.at(tokens) for one in stacks) + max(one.temporary_bytes(tokens) for one in stacks)
        return (flops(stacks), memory) if quantity == "step_flops" else (memory, flops(stacks))

    return min((order for order in costs if quantity != PLAIN or RECOMPUTES not in order), key=key)


def _entry(
    family: Family, quantity: str, y: str, rows: Sequence[tuple[int, dict[str, list[Cost]], list[float]]], **fixed: int | None
) -> dict[str, Any]:
    """One map: for each value of y, stretches of batches with the same least order, as [from, to, order]; `at` is the scenario's own y."""
    top = max(LEAST_BATCHES, 2 * family.batches[-1])
    edges = [top ** (index / COLUMNS) for index in range(COLUMNS + 1)]
    stretches = []
    for value, costs, tokens in rows:
        orders = [least(costs, quantity, max(1, math.floor(one))) for one in tokens]
        row: list[list[Any]] = []
        for place, order in enumerate(orders):
            if row and row[-1][2] == order:
                row[-1][1] = edges[place + 1]
            else:
                row.append([edges[place], edges[place + 1], order])
        stretches.append([value, row])
    named = {"method": family.point.method, "model": family.point.model, "labels": family.labels, "quantity": quantity, "y": y}
    return {"map": named | fixed | {"rows": stretches}}
