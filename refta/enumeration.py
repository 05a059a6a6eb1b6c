"""All contraction trees of a network with their costs over a stack, each pair of values costed once. No torch.

A pair costs the same wherever it stands in a tree, so the trees over a set of operands are put together from those over its parts.
Of trees whose result has the same layout those that another one equals or beats in every count are left out as they arise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from refta.counting import Cost, Counter
from refta.lines import Line
from refta.network import INPUT, Network, Order, Step, Tree, Value, leaf, plan_pair

Tally = tuple[int, ...]  # constants and slopes of forward, backward, elementwise and kept, in that order


@dataclass(frozen=True)
class Partial:
    """A tree over some of the operands: its result's axes in memory order, and what it has cost so far."""

    tree: Tree
    axes: str
    tally: Tally
    temporaries: frozenset[Line]

    def cost(self) -> Cost:
        """The tally as a cost."""
        forward, backward, elementwise, kept = (Line(*self.tally[place : place + 2]) for place in range(0, len(self.tally), 2))
        temporaries = tuple(sorted(self.temporaries, key=lambda line: (line.constant, line.per_token)))
        return Cost(forward, backward, elementwise, kept, temporaries)


@dataclass
class Enumeration:
    """The trees over a network's operands, for a stack of `layers` of which `free` read an x that needs no gradient."""

    network: Network
    layers: int
    free: int
    itemsize: int
    _found: dict[tuple[int, str], list[Partial]] = field(default_factory=dict)
    _outsides: dict[tuple[int, bool], str] = field(default_factory=dict)
    _pairs: dict[tuple, tuple[str, Tally, frozenset[Line]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.leaves = (INPUT, *(operand.name for operand in self.network.contracted))
        self._leaf_axes = {name: leaf(self.network, name, x_needs_gradient=True, stacked=False).axes for name in self.leaves}
        self.everything = 2 ** len(self.leaves) - 1
        self.counters = [
            (Counter(self.network, self.itemsize, needed), needed, count)
            for needed, count in ((True, self.layers - self.free), (False, self.free))
            if count
        ]

    def features(self) -> list[Partial]:
        """Every tree of the whole network, x times a whole update beside the base's linear among them."""
        return self.over(self.everything, self.network.output_axes)

    def folds(self) -> list[Partial]:
        """Every tree of the update of the weight, by itself."""
        return self.over(self.everything & ~1, self.network.fold_axes)

    def folded(self, update: Partial, order: Order) -> Cost:
        """What the stack costs with that update folded into its weights, kept or recomputed."""
        fold = update.cost()
        additions = Line(self.network.elements(self.network.fold_axes) * self.layers)
        fold = replace(
            fold, elementwise_flops=fold.elementwise_flops + additions, temporaries=(self.counters[0][0].bytes(self.network.fold_axes),)
        )
        return self.counters[0][0].on_fold(fold, order, layers=self.layers, free=self.free)

    def over(self, mask: int, outside: str) -> list[Partial]:
        """Every tree over the operands of the mask; `outside` are the axes that must survive."""
        key = (mask, outside)
        if key not in self._found:
            self._found[key] = self._leaf(mask) if mask & (mask - 1) == 0 else self._joined(mask, outside)
        return self._found[key]

    def _leaf(self, mask: int) -> list[Partial]:
        name = self.leaves[mask.bit_length() - 1]
        return [Partial(name, self._leaf_axes[name], (0,) * 8, frozenset())]

    def _joined(self, mask: int, outside: str) -> list[Partial]:
        found: dict[tuple, Partial] = {}
        for first, second in _splits(mask):
            lefts, rights = self.over(first, self._around(first, outside)), self.over(second, self._around(second, outside))
            for left in lefts:
                for right in rights:
                    axes, tally, temporaries = self._pair(first, left.axes, second, right.axes, outside)
                    total = tuple(map(sum, zip(left.tally, right.tally, tally, strict=True)))
                    all_temporaries = left.temporaries | right.temporaries | temporaries
                    key = (axes, total, all_temporaries)
                    if key not in found:
                        found[key] = Partial((left.tree, right.tree), axes, total, all_temporaries)
        return _undominated(found.values())

    def _around(self, mask: int, outside: str) -> str:
        """The axes that must survive a set of operands: the whole network's, then those of all others (x aside where a fold is made)."""
        folding = outside.startswith(self.network.fold_axes)
        key = (mask, folding)
        if key not in self._outsides:
            others = self.everything & ~mask & (~1 if folding else ~0)
            names = (name for place, name in enumerate(self.leaves) if others >> place & 1)
            axes = "".join(self._leaf_axes[name] for name in names)
            self._outsides[key] = "".join(dict.fromkeys((self.network.fold_axes if folding else self.network.output_axes) + axes))
        return self._outsides[key]

    def _pair(self, first: int, left: str, second: int, right: str, outside: str) -> tuple[str, Tally, frozenset[Line]]:
        key = (first, left, second, right, outside)
        if key not in self._pairs:
            planned = plan_pair(self.network, left, right, INPUT, outside)
            costs = []
            for counter, needed, count in self.counters:
                one, other = self._value(first, left, needed=needed), self._value(second, right, needed=needed)
                out = Value(planned.out, one.needs_gradient or other.needs_gradient, is_static=False)
                costs.append(counter.steps([Step(one, other, out, planned)]).times(count))
            self._pairs[key] = (planned.out, _tally(costs), frozenset(line for cost in costs for line in cost.temporaries))
        return self._pairs[key]

    def _value(self, mask: int, axes: str, *, needed: bool) -> Value:
        names = [name for place, name in enumerate(self.leaves) if mask >> place & 1]
        if len(names) == 1:
            return replace(leaf(self.network, names[0], x_needs_gradient=needed, stacked=False), axes=axes)
        trained = any(self.network.operand(name).trainable for name in names if name != INPUT)
        return Value(axes, trained or (needed and INPUT in names), is_static=False)


def _undominated(found: Iterable[Partial]) -> list[Partial]:
    """Those that no other of the same layout equals or beats in every count and temporary: no quantity can want the rest."""
    kept: dict[str, list[Partial]] = {}
    for one in sorted(found, key=lambda partial: sum(partial.tally)):
        group = kept.setdefault(one.axes, [])
        if not any(_is_covered(one, other) for other in group):
            group.append(one)
    return [one for group in kept.values() for one in group]


def _is_covered(one: Partial, other: Partial) -> bool:
    if any(mine < theirs for mine, theirs in zip(one.tally, other.tally, strict=True)):
        return False
    return other.temporaries <= one.temporaries or all(
        any(low.constant <= high.constant and low.per_token <= high.per_token for high in one.temporaries) for low in other.temporaries
    )


def _splits(mask: int) -> Iterator[tuple[int, int]]:
    """The ways to part a set in two, its lowest member always in the first part."""
    lowest = mask & -mask
    rest = mask & ~lowest
    chosen = rest
    while chosen:
        chosen = (chosen - 1) & rest
        yield chosen | lowest, rest & ~chosen


def _tally(costs: list[Cost]) -> Tally:
    rows = [
        [
            part
            for line in (one.forward_flops, one.backward_flops, one.elementwise_flops, one.kept_bytes)
            for part in (line.constant, line.per_token)
        ]
        for one in costs
    ]
    return tuple(map(sum, zip(*rows, strict=True)))
