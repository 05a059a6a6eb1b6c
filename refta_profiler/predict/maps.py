"""Which order is least at every batch × rank and batch × sequence, from the closed form, as data for the report. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from refta import cost
from refta.cost import Cost
from refta.errors import SettingError
from refta.operands import AUTOMATIC
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

    @property
    def edges(self) -> list[float]:
        """Where the map's columns begin and end, evenly on a logarithmic axis from batch 1."""
        top = max(LEAST_BATCHES, 2 * self.batches[-1])
        return [top ** (index / COLUMNS) for index in range(COLUMNS + 1)]

    def costs(self, rank: int | None) -> dict[str, Cost] | None:
        """Every order's cost over the model at a rank; None where the method cannot have it."""
        settings = self.point.settings if rank is None else {**self.point.settings, "rank": rank}
        try:
            found = {order: forms.stack_costs(self.point.method, settings, order, self.shapes) for order in self.labels}
        except SettingError:
            return None
        return {order: cost.summed(one.cost for one in stacks) for order, stacks in found.items() if stacks}


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
        if point.order not in (None, *AUTOMATIC) and point.seq:
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
    rows = [(rank, one, seq) for rank, one in costs.items()]
    return [_entry(family, quantity, "rank", rows, at=family.point.rank, seq=seq) for quantity in _mapped(family)] if rows else []


def over_sequence(family: Family) -> list[dict[str, Any]]:
    """Batch × tokens of an example, at the first point's rank."""
    costs = family.costs(family.point.rank)
    if not costs:
        return []
    lengths = sorted({*spaced(16, max(LONGEST, *family.sequences), ROWS), *family.sequences})
    rows = [(length, costs, length) for length in lengths]
    return [_entry(family, quantity, "seq", rows, at=family.sequences[0], rank=family.point.rank) for quantity in _mapped(family)]


def _mapped(family: Family) -> list[str]:
    """The quantities in which at least two orders can differ; without recomputation only where there is some to leave out."""
    plain = [order for order in family.labels if RECOMPUTES not in order]
    return [one for one in QUANTITIES if one != PLAIN or 2 <= len(plain) < len(family.labels)]


def spaced(low: int, high: int, count: int) -> list[int]:
    """Up to `count` whole numbers from low to high, evenly on a logarithmic axis."""
    return sorted({round(low * (high / low) ** (index / (count - 1))) for index in range(count)})


def least(costs: dict[str, Cost], quantity: str, tokens: int) -> str:
    """The order of least memory (kept, and one largest temporary) or training FLOPs over the model; ties go to the fewer FLOPs."""

    def key(order: str) -> tuple[int, int]:
        memory, flops = costs[order].memory_bytes(tokens), costs[order].step_flops.at(tokens)
        return (flops, memory) if quantity == "step_flops" else (memory, flops)

    return min((order for order in costs if quantity != PLAIN or RECOMPUTES not in order), key=key)


def _entry(family: Family, quantity: str, y: str, rows: Sequence[tuple[int, dict[str, Cost], int]], **fixed: int | None) -> dict[str, Any]:
    """One map: for each value of y, stretches of batches with the same least order, as [from, to, order]; `at` is the scenario's own y.

    rows: (the value of y, every order's cost, tokens of an example). A column has the order that is least in its middle.
    """
    stretches = []
    for value, costs, seq in rows:
        row: list[list[Any]] = []
        for low, high in pairwise(family.edges):
            order = least(costs, quantity, max(1, math.floor(math.sqrt(low * high) * seq)))
            if row and row[-1][2] == order:
                row[-1][1] = high
            else:
                row.append([low, high, order])
        stretches.append([value, row])
    named = {"method": family.point.method, "model": family.point.model, "labels": family.labels, "quantity": quantity, "y": y}
    return {"map": named | fixed | {"rows": stretches}}
