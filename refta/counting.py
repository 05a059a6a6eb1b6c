"""Counts the steps of one order for one network: FLOPs, kept bytes, temporaries (see cost.py, whose functions are the way in). No torch."""

from __future__ import annotations

from dataclasses import dataclass, replace

from refta.lines import Line, total
from refta.network import Network, Order, Step, Value, is_fold, walk


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
            self.forward_flops * layers,
            self.backward_flops * layers,
            self.elementwise_flops * layers,
            self.kept_bytes * layers,
            self.temporaries,
        )


NOTHING = Cost(Line(), Line(), Line(), Line(), ())


class Counter:
    """Counts the steps of an order for one network, item sizes (of the adapter's numbers, and the base's) and need of ∂L/∂x."""

    def __init__(self, network: Network, itemsize: int, x_needs_gradient: bool, base_itemsize: int | None = None):
        self.network, self.itemsize, self.x_needs_gradient = network, itemsize, x_needs_gradient
        self.base_itemsize = base_itemsize or itemsize

    def layer(self, order: Order) -> Cost:
        """One layer; where the dtypes differ, with the casts between the base's numbers and the adapter's."""
        cost = self._layer(order)
        return cost if self.is_uniform or is_fold(order) else self._with_casts(cost)

    def _layer(self, order: Order) -> Cost:
        network = self.network
        if order.mode == "stack":
            return self.linear_on_fold(kept=Line())
        if order.mode == "delta_stack":
            return self._linear_beside(kept=Line())
        if order.mode == "whole":
            return self._whole(order)
        if order.mode == "slices":
            return self._slices(order)
        if not is_fold(order):
            cost = self.steps(walk(network, order.tree, network.output_axes, x_needs_gradient=self.x_needs_gradient, stacked=False))
            cost = self._dropped(cost) if order.mode == "delta" and network.dropout else cost
            return self._again(cost) if order.mode == "recompute" else cost
        assert isinstance(order.tree, tuple)
        fold = self.fold(order.tree[1], network.fold_axes, stacked=False)
        return self.on_fold(fold, order, layers=1, free=int(not self.x_needs_gradient))

    @property
    def is_uniform(self) -> bool:
        """Whether base and adapter have numbers of one size."""
        return self.itemsize == self.base_itemsize

    def _with_casts(self, cost: Cost) -> Cost:
        """Features beside the base: a cast x is kept instead of x, and y, ∂L/∂y and ∂L/∂x stand in both dtypes for a while.

        Where the cast x is the shorter nothing is taken off, since another role may keep x itself.
        """
        network = self.network
        x = Line(0, network.elements(network.input_axes) * max(self.itemsize - self.base_itemsize, 0))
        of_x = (self.rounded(network.input_axes),) if self.x_needs_gradient else ()
        return replace(
            cost,
            kept_bytes=cost.kept_bytes + (Line() if network.serial else x),
            temporaries=(*cost.temporaries, self.rounded(network.output_axes), *of_x),
        )

    def on_fold(self, fold: Cost, order: Order, *, layers: int, free: int) -> Cost:
        """The fold of that many layers, and a linear on each; the `free` ones' x needs no gradient, so they keep no folded weight."""
        axes = self.network.fold_axes
        if order.mode == "recompute":
            return self.recomputed(fold, layers=layers)
        copies = (self.bytes(axes) * 3,) if order.mode == "copies" else ()
        linear = replace(self.linear_on_fold(kept=Line()).times(layers), kept_bytes=self.base_bytes(axes) * (layers - free))
        return replace(fold + linear, temporaries=(*fold.temporaries, *copies))

    def whole_stack(self, order: Order, layers: int) -> Cost:
        """The stack part: all folds at once; the fold stays for the step if any layer needs ∂L/∂x, and has a gradient of its size."""
        assert isinstance(order.tree, tuple)
        counter = Counter(self.resized(k=layers), self.itemsize, self.x_needs_gradient, self.base_itemsize)
        fold = counter.fold(order.tree[1], "k" + self.network.fold_axes, stacked=True)
        folded = counter.base_bytes("k" + self.network.fold_axes)
        kept = folded if self.x_needs_gradient else Line()
        return fold + Cost(Line(), Line(), Line(), kept, (folded + counter.bytes("k" + self.network.fold_axes),))

    def _whole(self, order: Order) -> Cost:
        """The updates of all layers and stacks, of which one is taken: all stay kept where x needs a gradient, the slice being a view."""
        assert isinstance(order.tree, tuple)
        axes = self.network.table_axes + self.network.fold_axes
        built = self.steps(walk(self.network, order.tree[1], axes, x_needs_gradient=False, stacked=False, whole=True))
        kept = self.bytes(axes) if self.x_needs_gradient else Line()
        return built + replace(self._linear_beside(kept=kept), temporaries=(self.bytes(axes) * 2,))

    def _linear_beside(self, *, kept: Line) -> Cost:
        """x times a rebuilt update beside the base's own linear."""
        product = Line(0, 2 * self.network.elements(self.network.fold_axes))
        return Cost(product, product * (1 + self.x_needs_gradient), Line(), kept, (self.bytes(self.network.fold_axes),))

    def _dropped(self, cost: Cost) -> Cost:
        """A dropout of the rebuilt update: its mask, one byte a number, is kept, and the copy stands beside the update for a while."""
        mask = Line(self.network.elements(self.network.fold_axes))
        return replace(cost, kept_bytes=cost.kept_bytes + mask, temporaries=(*cost.temporaries, self.bytes(self.network.fold_axes) * 2))

    def _again(self, cost: Cost) -> Cost:
        """The whole update computed again in backward from its input alone."""
        kept = self.bytes(self.network.input_axes) if self.network.serial else Line()
        return replace(
            cost, backward_flops=cost.forward_flops + cost.backward_flops, kept_bytes=kept, temporaries=(*cost.temporaries, cost.kept_bytes)
        )

    def steps(self, steps: list[Step]) -> Cost:
        forward = total(self._flops(step) for step in steps if step.is_product)
        backward = total(self._flops(step) * self._gradients(step) for step in steps if step.is_product)
        elementwise = total(self._flops(step) * (1 + self._gradients(step)) for step in steps if not step.is_product)
        return Cost(forward, backward, elementwise, self._kept(steps), self._temporaries(steps))

    def _flops(self, step: Step) -> Line:
        """opt_einsum's count of a pair: its axes' lengths multiplied, twice where an axis is summed (`td,rd->tr`: 2tdr)."""
        axes = "".join(dict.fromkeys(step.left.axes + step.right.axes))
        count = self.network.elements(axes) * (2 if step.is_product else 1)
        return Line(0, count) if "t" in axes else Line(count, 0)

    @staticmethod
    def _gradients(step: Step) -> int:
        return step.left.needs_gradient + step.right.needs_gradient

    def _kept(self, steps: list[Step]) -> Line:
        kept: dict[object, Line] = {}
        for step in steps:
            for storage, axes in _saved(step):
                kept[storage] = self.bytes(axes)
        return total(kept.values())

    def _temporaries(self, steps: list[Step]) -> tuple[Line, ...]:
        forward = [self.bytes(step.out.axes) for step in steps] + [
            self.bytes(one.axes) for step in steps for one, _, copied in _sides(step) if copied
        ]
        backward = [
            total(self.bytes(one.axes) for one in (step.out, step.left, step.right) if one.needs_gradient and not one.is_static)
            for step in steps
        ]
        return (*forward, *backward)

    def bytes(self, axes: str) -> Line:
        size = self.network.elements(axes) * self.itemsize
        return Line(0, size) if "t" in axes else Line(size, 0)

    def base_bytes(self, axes: str) -> Line:
        """Bytes of a tensor in the base's dtype, such as a folded weight."""
        size = self.network.elements(axes) * self.base_itemsize
        return Line(0, size) if "t" in axes else Line(size, 0)

    def rounded(self, axes: str) -> Line:
        """Bytes of a tensor while it is cast from one dtype to the other: those of both, or of one tensor where the dtypes are one."""
        return self.bytes(axes) if self.is_uniform else self.bytes(axes) + self.base_bytes(axes)

    def cast(self, axes: str) -> Line:
        """Bytes of a copy of one of the base's tensors in the adapter's dtype; none where the dtypes are one."""
        return Line() if self.is_uniform else self.bytes(axes)

    def resized(self, **sizes: int) -> Network:
        """The network with other lengths of these axes."""
        return replace(self.network, sizes={**self.network.sizes, **sizes})

    def fold(self, tree, outside: str, *, stacked: bool) -> Cost:
        steps = walk(self.network, tree, outside, x_needs_gradient=False, stacked=stacked)
        cost = self.steps(steps)
        additions = Line(self.network.elements(outside))
        return Cost(cost.forward_flops, cost.backward_flops, cost.elementwise_flops + additions, cost.kept_bytes, (self.rounded(outside),))

    def linear_on_fold(self, *, kept: Line) -> Cost:
        """One linear on a folded weight: ∂L/∂ΔW is the only product that the frozen base does not have."""
        gradient = Line(0, 2 * self.network.elements(self.network.fold_axes))
        return Cost(Line(), gradient, Line(), kept, (self.rounded(self.network.fold_axes),))

    def recomputed(self, fold: Cost, *, layers: int) -> Cost:
        again = fold.forward_flops + fold.backward_flops
        linear = self.linear_on_fold(kept=Line()).times(layers)
        both = self.rounded(self.network.fold_axes) + self.base_bytes(self.network.fold_axes)
        return Cost(fold.forward_flops, again + linear.backward_flops, fold.elementwise_flops, self.gathered() * layers, (both,))

    def gathered(self) -> Line:
        """Bytes of what one layer picks out of tables: no parameter, so a recomputation keeps it."""
        return total(self.bytes(one.axes) for one in self.network.operands if one.gathered_from)

    def _slices(self, order: Order) -> Cost:
        groups = len(self.network.slice_ranks)
        result = NOTHING
        for size in self.network.slice_ranks:
            part = Counter(self.resized(r=size), self.itemsize, self.x_needs_gradient, self.base_itemsize)
            steps = walk(part.network, order.tree, self.network.output_axes, x_needs_gradient=self.x_needs_gradient, stacked=False)
            result = result + part.steps(steps)
        trained = self.network.operand("u").trainable
        weigh = Line(0, 2 * self.network.elements("n") * groups)  # H u, its ∂L/∂H, and ∂L/∂u where Φ is trained
        stacked = self.bytes(self.network.output_axes)
        products = (stacked * (2 * groups), stacked * (2 * groups + 1))
        kept = result.kept_bytes + (stacked * groups + Line(groups * self.itemsize) if trained else Line())
        backward = result.backward_flops + weigh * (1 + trained)
        return Cost(result.forward_flops + weigh, backward, result.elementwise_flops, kept, products)


def _sides(step: Step) -> tuple[tuple[Value, Value, bool], tuple[Value, Value, bool]]:
    return (step.left, step.right, step.pairing.left_copied), (step.right, step.left, step.pairing.right_copied)


def _saved(step: Step) -> list[tuple[object, str]]:
    """What autograd keeps of a step, as (storage, axes): each input whose partner needs a gradient, parameters, buffers and x left out.

    A copy that the layout asks for is a storage of its own, whatever it was made of. relu keeps its result; an addition keeps nothing.
    """
    if step.pairing.kind == "add":
        return []
    if step.pairing.kind == "relu":
        return [(id(step.out), step.out.axes)]
    sides = [(one, copied) for one, partner, copied in _sides(step) if partner.needs_gradient]
    return [
        ((id(step), place) if copied else id(one), one.axes)
        for place, (one, copied) in enumerate(sides)
        if copied or not (one.is_static or one.is_input)
    ]
