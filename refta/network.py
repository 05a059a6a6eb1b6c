"""A method's update of a layer's output as data: operands, their shapes, and named orders. No torch.

A network is an einsum over x and the method's operands, such as ReFTA's `td,rd,r,nr->tn`. An order is a binary contraction
tree over it. `linear.py` runs the steps of a tree one pair at a time, `cost.py` counts the same steps.

Axes: t tokens, d inputs, n outputs, k layers of the stack; every other letter is the method's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from refta.errors import SettingError

Tree = str | tuple["Tree", "Tree"]
Mode = Literal["plain", "recompute", "stack", "slices"]

INPUT, INPUT_AXES, OUTPUT_AXES, FOLD_AXES = "x", "td", "tn", "nd"
COMMON_ORDERS = ("published", "features", "reconstruct", "auto")


@dataclass(frozen=True)
class Operand:
    """One factor of a network.

    `shared`: one for the whole stack, otherwise one per layer. `constant` names the operand that stands beside this one
    for x's constant-one column (ReFTA's β beside B).
    """

    name: str
    axes: str
    trainable: bool = True
    shared: bool = True
    constant: str | None = None


@dataclass(frozen=True)
class Order:
    """One way to evaluate a network.

    mode `plain`: the tree, by plain autograd; a tree `("x", M)` folds M into the frozen weight and runs one linear.
    `recompute`: the fold again in backward instead of kept. `stack`: the folds of all layers at once, once per step.
    `slices`: one product per slice of axis r, stacked, then weighted by the per-layer operand u (the paper's H_int).
    """

    tree: Tree
    mode: Mode = "plain"


@dataclass(frozen=True)
class Value:
    """An operand or an intermediate of a contraction: its axes, whether it needs a gradient, whether it outlives the step."""

    axes: str
    needs_gradient: bool
    is_static: bool
    is_input: bool = False
    has_constant: bool = False


@dataclass(frozen=True)
class Step:
    """One binary contraction; `is_product` where an axis is summed (a matrix product), otherwise an elementwise multiplication."""

    left: Value
    right: Value
    out: Value

    @property
    def equation(self) -> str:
        """The pair as an einsum equation, such as `td,rd->tr`."""
        return f"{self.left.axes},{self.right.axes}->{self.out.axes}"

    @property
    def is_product(self) -> bool:
        """Whether an axis is summed: torch then runs mm or bmm, which its FLOP counter counts."""
        return bool((set(self.left.axes) | set(self.right.axes)) - set(self.out.axes))


@dataclass(frozen=True)
class Network:
    """A method's update at one layer of a stack, with its named orders.

    sizes: the length of every axis but t. slice_ranks: R_j of the slices that have components (their sum is axis r).
    """

    sizes: dict[str, int]
    operands: tuple[Operand, ...]
    orders: dict[str, Order]
    aliases: dict[str, str] = field(default_factory=dict)
    slice_ranks: tuple[int, ...] = ()

    @property
    def equation(self) -> str:
        """The whole update as an einsum equation, such as `td,rd,r,nr->tn`."""
        return ",".join([INPUT_AXES, *(operand.axes for operand in self.contracted)]) + f"->{OUTPUT_AXES}"

    @property
    def contracted(self) -> tuple[Operand, ...]:
        """The operands that stand in the equation: all but those that are another's constant column."""
        constants = {operand.constant for operand in self.operands}
        return tuple(operand for operand in self.operands if operand.name not in constants)

    def operand(self, name: str) -> Operand:
        """The operand of that name."""
        return next(operand for operand in self.operands if operand.name == name)

    def order(self, name: str) -> Order:
        """The order of that name; raises SettingError that lists the orders there are."""
        name = self.aliases.get(name, name)
        if name not in self.orders:
            raise SettingError(f"order: unknown order '{name}'; there are {', '.join([*self.orders, *self.aliases, 'auto'])}")
        return self.orders[name]

    def elements(self, axes: str) -> int:
        """How many numbers a tensor of these axes has, t left out; `rd` with r = 15, d = 1024 has 15,360."""
        product = 1
        for axis in axes:
            product *= 1 if axis == "t" else self.sizes[axis]
        return product

    def trainable_parameters(self, layers: int) -> int:
        """Numbers trained for a stack of that many layers; ReFTA: R(n + d + 1)."""
        return sum(self.elements(one.axes) * (1 if one.shared else layers) for one in self.operands if one.trainable)


def is_fold(order: Order) -> bool:
    """Whether an order ends in x times an n × d matrix, which is folded into the frozen weight."""
    return order.mode in ("recompute", "stack") or (order.mode == "plain" and isinstance(order.tree, tuple) and order.tree[0] == INPUT)


def leaf(network: Network, name: str, *, x_needs_gradient: bool, stacked: bool) -> Value:
    """The value of a leaf: x, or an operand (with the layer axis k in front where the whole stack is contracted)."""
    if name == INPUT:
        return Value(INPUT_AXES, x_needs_gradient, is_static=False, is_input=True)
    operand = network.operand(name)
    axes = operand.axes if operand.shared or not stacked else "k" + operand.axes
    return Value(axes, operand.trainable, is_static=True, has_constant=operand.constant is not None)


def walk(network: Network, tree: Tree, outside: str, *, x_needs_gradient: bool, stacked: bool) -> Iterator[Step]:
    """The steps of a tree, inner pairs first; `outside` are the axes that must survive it."""
    if isinstance(tree, str):
        return
    left_tree, right_tree = tree
    left = root(network, left_tree, outside + _axes(network, right_tree, stacked), x_needs_gradient=x_needs_gradient, stacked=stacked)
    right = root(network, right_tree, outside + _axes(network, left_tree, stacked), x_needs_gradient=x_needs_gradient, stacked=stacked)
    for sub, other in ((left_tree, right_tree), (right_tree, left_tree)):
        yield from walk(network, sub, outside + _axes(network, other, stacked), x_needs_gradient=x_needs_gradient, stacked=stacked)
    yield Step(left, right, _joined(left, right, outside))


def root(network: Network, tree: Tree, outside: str, *, x_needs_gradient: bool, stacked: bool) -> Value:
    """What a tree evaluates to."""
    if isinstance(tree, str):
        return leaf(network, tree, x_needs_gradient=x_needs_gradient, stacked=stacked)
    *_, last = walk(network, tree, outside, x_needs_gradient=x_needs_gradient, stacked=stacked)
    return last.out


def _joined(left: Value, right: Value, outside: str) -> Value:
    kept = [axis for axis in dict.fromkeys(left.axes + right.axes) if axis in outside]
    axes = "".join(sorted(kept, key=outside.index) if set(kept) == set(outside) else kept)
    constant = (left.has_constant or right.has_constant) and not (left.is_input or right.is_input)
    return Value(axes, left.needs_gradient or right.needs_gradient, is_static=False, has_constant=constant)


def _axes(network: Network, tree: Tree, stacked: bool) -> str:
    if isinstance(tree, str):
        return leaf(network, tree, x_needs_gradient=False, stacked=stacked).axes
    return "".join(dict.fromkeys(_axes(network, tree[0], stacked) + _axes(network, tree[1], stacked)))
