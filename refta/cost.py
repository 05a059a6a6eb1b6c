"""What every order of a network costs, in closed form as functions of the token count t. No torch.

FLOPs are those of matrix products, 2 per multiply-add, by opt_einsum's count of each pair; they equal what torch's
FlopCounterMode sees beyond the frozen base. Elementwise work (Hadamard products, additions, the bias column) is counted apart.
Backward: as autograd derives it, one contraction of the same cost for each input that needs a gradient. Kept: each input
that is neither a parameter nor a buffer and whose partner needs a gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction

from refta.network import Network, Order, Step, Value, is_fold, walk


@dataclass(frozen=True, order=False)
class Line:
    """`constant + per_token · t`, in whole FLOPs or bytes; Line(3, 2).at(10) is 23."""

    constant: int = 0
    per_token: int = 0

    def at(self, tokens: int) -> int:
        """The value at that many tokens."""
        return self.constant + self.per_token * tokens

    def __add__(self, other: Line) -> Line:
        return Line(self.constant + other.constant, self.per_token + other.per_token)

    def __mul__(self, factor: int) -> Line:
        return Line(self.constant * factor, self.per_token * factor)

    def crossover(self, other: Line) -> Fraction | None:
        """The token count above zero where two lines meet, or None; Line(0, 2) and Line(10, 1) meet at 10."""
        slope = self.per_token - other.per_token
        if slope == 0:
            return None
        tokens = Fraction(other.constant - self.constant, slope)
        return tokens if tokens > 0 else None


def total(lines: Iterable[Line]) -> Line:
    """The sum of lines."""
    result = Line()
    for line in lines:
        result = result + line
    return result


@dataclass(frozen=True)
class Cost:
    """What the adapters of a layer or of a stack cost beyond the frozen base, x's own bytes left out.

    kept_bytes: what autograd keeps beyond x. temporaries: lines (bytes) of which the largest at t is the largest temporary.
    """

    forward_flops: Line
    backward_flops: Line
    elementwise_flops: Line
    kept_bytes: Line
    temporaries: tuple[Line, ...]

    @property
    def step_flops(self) -> Line:
        """Forward and backward."""
        return self.forward_flops + self.backward_flops

    def temporary_bytes(self, tokens: int) -> int:
        """The largest temporary, in bytes, at that many tokens."""
        return max((line.at(tokens) for line in self.temporaries), default=0)

    def memory_bytes(self, tokens: int) -> int:
        """What the adapters add to the step's memory: all that is kept, and one largest temporary."""
        return self.kept_bytes.at(tokens) + self.temporary_bytes(tokens)

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.forward_flops + other.forward_flops,
            self.backward_flops + other.backward_flops,
            self.elementwise_flops + other.elementwise_flops,
            self.kept_bytes + other.kept_bytes,
            self.temporaries + other.temporaries,
        )

    def times(self, layers: int) -> Cost:
        """That many layers in turn: everything adds up but the largest temporary."""
        return Cost(
            self.forward_flops * layers, self.backward_flops * layers, self.elementwise_flops * layers, self.kept_bytes * layers, self.temporaries
        )


NOTHING = Cost(Line(), Line(), Line(), Line(), ())


def layer_cost(network: Network, order: str, *, x_needs_gradient: bool = True, itemsize: int = 4) -> Cost:
    """What one layer costs in that order, its share of a stack-wide part left out.

    ReFTA of rank R, `shared`: 2tR(n + d) forward, 4tR(n + d) backward, t·R numbers kept.
    `reconstruct`: 2Rnd forward, 2tnd + 4Rnd backward, n·d + n·R kept.
    """
    return _Counter(network, itemsize, x_needs_gradient).layer(network.order(order))


def stack_cost(network: Network, order: str, layers: int, *, inputs_without_gradient: int = 0, itemsize: int = 4) -> Cost:
    """What a stack of `layers` costs in that order; for `inputs_without_gradient` of them x needs no gradient (usually the first)."""
    free = min(inputs_without_gradient, layers)
    bound = layer_cost(network, order, x_needs_gradient=True, itemsize=itemsize).times(layers - free)
    first = layer_cost(network, order, x_needs_gradient=False, itemsize=itemsize).times(free)
    result = (bound if layers > free else NOTHING) + (first if free else NOTHING)
    if network.order(order).mode in ("stack", "delta_stack"):
        return result + _Counter(network, itemsize, layers > free).whole_stack(network.order(order), layers)
    return result


def best_order(network: Network, tokens: int, layers: int, *, inputs_without_gradient: int = 0, itemsize: int = 4) -> str:
    """The order that adds least to the step's memory at that many tokens; ties go to the fewer FLOPs, then to the name."""

    def key(name: str):
        cost = stack_cost(network, name, layers, inputs_without_gradient=inputs_without_gradient, itemsize=itemsize)
        return cost.memory_bytes(tokens), cost.step_flops.at(tokens), name

    return min(network.orders, key=key)


@dataclass(frozen=True)
class Regime:
    """From that many tokens on (to the next regime), this order is the cheapest."""

    tokens: int
    order: str


def regimes(lines: dict[str, Line]) -> list[Regime]:
    """The lower envelope of lines over t ≥ 1: which is least from which token count; ties keep the line already least."""
    found, tokens = [], 1
    while True:
        least = min(line.at(tokens) for line in lines.values())
        candidates = [name for name, line in lines.items() if line.at(tokens) == least]
        name = min(candidates, key=lambda one: lines[one].per_token)
        found.append(Regime(tokens, name))
        later = [t for line in lines.values() if line.per_token < lines[name].per_token for t in [lines[name].crossover(line)] if t is not None]
        later = [t for t in later if t >= tokens]
        if not later:
            return found
        tokens = math.floor(min(later)) + 1


class _Counter:
    """Counts the steps of an order for one network, item size and need of ∂L/∂x."""

    def __init__(self, network: Network, itemsize: int, x_needs_gradient: bool):
        self.network, self.itemsize, self.x_needs_gradient = network, itemsize, x_needs_gradient

    def layer(self, order: Order) -> Cost:
        network = self.network
        if order.mode == "stack":
            return self._linear_on_fold(kept=Line())
        if order.mode == "delta_stack":
            return self._linear_beside(kept=Line())
        if order.mode == "whole":
            return self._whole(order)
        if order.mode == "slices":
            return self._slices(order)
        if not is_fold(order):
            cost = self._steps(walk(network, order.tree, network.output_axes, x_needs_gradient=self.x_needs_gradient, stacked=False))
            return self._again(cost) if order.mode == "recompute" else cost
        assert isinstance(order.tree, tuple)
        fold = self._fold(order.tree[1], network.fold_axes, stacked=False)
        if order.mode == "recompute":
            return self._recomputed(fold)
        folded = self._bytes(network.fold_axes) if self.x_needs_gradient else Line()
        copies = (self._bytes(network.fold_axes) * 3,) if order.mode == "copies" else ()
        return replace(fold + self._linear_on_fold(kept=folded), temporaries=(*fold.temporaries, *copies))

    def whole_stack(self, order: Order, layers: int) -> Cost:
        """The stack part: all folds at once; the fold stays for the step if any layer needs ∂L/∂x, and has a gradient of its size."""
        assert isinstance(order.tree, tuple)
        counter = _Counter(_with_layers(self.network, layers), self.itemsize, self.x_needs_gradient)
        fold = counter._fold(order.tree[1], "k" + self.network.fold_axes, stacked=True)
        folded = counter._bytes("k" + self.network.fold_axes)
        kept = folded if self.x_needs_gradient else Line()
        return fold + Cost(Line(), Line(), Line(), kept, (folded * 2,))

    def _whole(self, order: Order) -> Cost:
        """The updates of all layers and stacks, of which one is taken: all stay kept where x needs a gradient, the slice being a view."""
        assert isinstance(order.tree, tuple)
        axes = self.network.table_axes + self.network.fold_axes
        built = self._steps(walk(self.network, order.tree[1], axes, x_needs_gradient=False, stacked=False, whole=True))
        kept = self._bytes(axes) if self.x_needs_gradient else Line()
        return built + replace(self._linear_beside(kept=kept), temporaries=(self._bytes(axes) * 2,))

    def _linear_beside(self, *, kept: Line) -> Cost:
        """x times a rebuilt update beside the base's own linear."""
        product = Line(0, 2 * self.network.elements(self.network.fold_axes))
        return Cost(product, product * (1 + self.x_needs_gradient), Line(), kept, (self._bytes(self.network.fold_axes),))

    def _again(self, cost: Cost) -> Cost:
        """The whole update computed again in backward from its input alone."""
        kept = self._bytes(self.network.input_axes) if self.network.serial else Line()
        return replace(cost, backward_flops=cost.forward_flops + cost.backward_flops, kept_bytes=kept, temporaries=(*cost.temporaries, cost.kept_bytes))

    def _steps(self, steps: list[Step]) -> Cost:
        forward = total(self._flops(step) for step in steps if step.is_product)
        backward = total(self._flops(step) * self._gradients(step) for step in steps if step.is_product)
        elementwise = total(self._flops(step) * (1 + self._gradients(step)) for step in steps if not step.is_product)
        return Cost(forward, backward, elementwise, self._kept(steps), self._temporaries(steps))

    def _flops(self, step: Step) -> Line:
        from opt_einsum.helpers import flop_count  # noqa: PLC0415  (start-up: only counting needs it)

        axes = set(step.left.axes) | set(step.right.axes)
        sizes = {**self.network.sizes, "t": 1}
        count = int(flop_count(axes, step.is_product, 2, sizes))
        return Line(0, count) if "t" in axes else Line(count, 0)

    @staticmethod
    def _gradients(step: Step) -> int:
        return step.left.needs_gradient + step.right.needs_gradient

    def _kept(self, steps: list[Step]) -> Line:
        kept: dict[int, Line] = {}
        for step in steps:
            for storage, axes in _saved(step):
                kept[storage] = self._bytes(axes)
        return total(kept.values())

    def _temporaries(self, steps: list[Step]) -> tuple[Line, ...]:
        forward = [self._bytes(step.out.axes) for step in steps] + [self._bytes(one.axes) for step in steps for one, _, copied in _sides(step) if copied]
        backward = [
            total(self._bytes(one.axes) for one in (step.out, step.left, step.right) if one.needs_gradient and not one.is_static) for step in steps
        ]
        return (*forward, *backward)

    def _bytes(self, axes: str) -> Line:
        size = self.network.elements(axes) * self.itemsize
        return Line(0, size) if "t" in axes else Line(size, 0)

    def _fold(self, tree, outside: str, *, stacked: bool) -> Cost:
        steps = walk(self.network, tree, outside, x_needs_gradient=False, stacked=stacked)
        cost = self._steps(steps)
        additions = Line(self.network.elements(outside))
        return Cost(cost.forward_flops, cost.backward_flops, cost.elementwise_flops + additions, cost.kept_bytes, (self._bytes(outside),))

    def _linear_on_fold(self, *, kept: Line) -> Cost:
        """One linear on a folded weight: ∂L/∂ΔW is the only product that the frozen base does not have."""
        gradient = Line(0, 2 * self.network.elements(self.network.fold_axes))
        return Cost(Line(), gradient, Line(), kept, (self._bytes(self.network.fold_axes),))

    def _recomputed(self, fold: Cost) -> Cost:
        again = fold.forward_flops + fold.backward_flops
        linear = self._linear_on_fold(kept=Line())
        both = self._bytes(self.network.fold_axes) * 2
        return Cost(fold.forward_flops, again + linear.backward_flops, fold.elementwise_flops, Line(), (both,))

    def _slices(self, order: Order) -> Cost:
        groups = len(self.network.slice_ranks)
        result = NOTHING
        for size in self.network.slice_ranks:
            part = _Counter(_resized(self.network, r=size), self.itemsize, self.x_needs_gradient)
            steps = walk(part.network, order.tree, self.network.output_axes, x_needs_gradient=self.x_needs_gradient, stacked=False)
            result = result + part._steps(steps)
        weigh = Line(0, 2 * self.network.elements("n") * groups)  # H u, and its ∂L/∂H
        stacked = self._bytes(self.network.output_axes)
        products = (stacked * (2 * groups), stacked * (2 * groups + 1))
        return Cost(result.forward_flops + weigh, result.backward_flops + weigh, result.elementwise_flops, result.kept_bytes, products)


def _sides(step: Step) -> tuple[tuple[Value, Value, bool], tuple[Value, Value, bool]]:
    return (step.left, step.right, step.pairing.left_copied), (step.right, step.left, step.pairing.right_copied)


def _saved(step: Step) -> list[tuple[int, str]]:
    """What autograd keeps of a step, as (storage, axes): each input whose partner needs a gradient, unless it is a parameter, a buffer or x.

    A copy that the layout asks for is a storage of its own, whatever it was made of. relu keeps its result; an addition keeps nothing.
    """
    if step.pairing.kind == "add":
        return []
    if step.pairing.kind == "relu":
        return [(id(step.out), step.out.axes)]
    sides = [(one, copied) for one, partner, copied in _sides(step) if partner.needs_gradient]
    return [(id(step) + place if copied else id(one), one.axes) for place, (one, copied) in enumerate(sides) if copied or not (one.is_static or one.is_input)]


def _resized(network: Network, **sizes: int) -> Network:
    return replace(network, sizes={**network.sizes, **sizes})


def _with_layers(network: Network, layers: int) -> Network:
    return _resized(network, k=layers)


def folded_axes(network: Network, order: str) -> str:
    """The axes of what an order builds in place of a weight: `nd`, `knd` for a stack, none for features."""
    chosen = network.order(order)
    if not is_fold(chosen):
        return ""
    return ("k" if chosen.mode == "stack" else "") + network.fold_axes
