"""A method's update of a layer's output as data: operands, their shapes, and named orders. No torch.

A network is an einsum over x and the method's operands, such as ReFTA's `td,rd,r,nr->tn`. An order is a binary contraction
tree over it. `linear.py` runs the steps of a tree one pair at a time, `cost.py` counts the same steps.

Axes: t tokens, d inputs, n outputs, k layers of the stack, l and m a table's layers and stacks; every other letter is the method's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from refta.errors import SettingError
from refta.operands import AXES, COMMON_ORDERS, FOLDING, INPUT, PER_STEP, RELU, UNFOLDED, Mode, Operand, Order, Step, Tree, Value
from refta.pairing import Pairing, pair

__all__ = [
    "AXES",
    "COMMON_ORDERS",
    "INPUT",
    "PER_STEP",
    "RELU",
    "UNFOLDED",
    "Mode",
    "Network",
    "Operand",
    "Order",
    "Step",
    "Tree",
    "Value",
    "across_key",
    "count_trainable",
    "is_fold",
    "leaf",
    "leaf_axes",
    "plan_pair",
    "tree_axes",
    "walk",
]


@dataclass(frozen=True)
class Network:
    """A method's update at one layer of a stack, with its named orders.

    sizes: the length of every axis but t. slice_ranks: R_j of the slices that have components (their sum is axis r).
    inputs, outputs: the axes that d and n are split into, as a tensor train does. scale multiplies the whole update.
    serial: the network reads the layer's output z (inputs are z's axes) and adds to it, instead of reading the layer's input.
    dropout: of the rebuilt update in a `delta` order (elsewhere dropout acts on the network's input and is no part of the costs).
    """

    sizes: dict[str, int]
    operands: tuple[Operand, ...]
    orders: dict[str, Order]
    aliases: dict[str, str] = field(default_factory=dict)
    slice_ranks: tuple[int, ...] = ()
    inputs: str = "d"
    outputs: str = "n"
    scale: float = 1.0
    serial: bool = False
    dropout: float = 0.0
    plans: dict[Any, Any] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )  # what pairs were planned: they run at every call

    @property
    def input_axes(self) -> str:
        """The axes of x: `td`, or `tabc` where d is split."""
        return "t" + self.inputs

    @property
    def output_axes(self) -> str:
        """The axes of the update of the output: `tn`, or `tefg` where n is split."""
        return "t" + self.outputs

    @property
    def fold_axes(self) -> str:
        """The axes of the update of the weight: `nd`, or those that n and d are split into."""
        return self.outputs + self.inputs

    @property
    def equation(self) -> str:
        """The whole update as an einsum equation, such as `td,rd,r,nr->tn`."""
        return ",".join([self.input_axes, *(operand.axes for operand in self.contracted)]) + f"->{self.output_axes}"

    @property
    def contracted(self) -> tuple[Operand, ...]:
        """The operands that stand in the equation: all but biases, another's constant column, and tables that others are gathered from."""
        apart = {operand.constant for operand in self.operands} | {operand.gathered_from for operand in self.operands}
        return tuple(operand for operand in self.operands if operand.name not in apart and not operand.added)

    @property
    def table_axes(self) -> str:
        """The axes of the tables: `l` where some operand has a row per layer, `m` per stack."""
        return "".join(axis for axis in "lm" if any(axis in operand.index for operand in self.operands))

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
        """Numbers trained for a stack of that many layers, alone; ReFTA: R(n + d + 1)."""
        return count_trainable([(self, layers)])


def count_trainable(stacks: Sequence[tuple[Network, int]]) -> int:
    """Numbers trained by an adapter on stacks of that many layers each; what stands across stacks of equal shape counts once."""
    counted: set[tuple] = set()
    result = 0
    for place, (network, layers) in enumerate(stacks):
        for one in network.operands:
            key = across_key(network, one, layers) if one.across else (place, one.name)
            if not one.trainable or one.gathered_from or key in counted:
                continue
            counted.add(key)
            rows = (layers if "l" in one.index else 1) * (len(stacks) if "m" in one.index else 1)
            result += network.elements(one.axes) * rows * (1 if one.shared else layers)
    return result


def across_key(network: Network, operand: Operand, layers: int) -> tuple:
    """What two stacks must agree in to read one operand: its name, its shape and, for a table of layers, their number."""
    return operand.name, tuple(network.sizes[axis] for axis in operand.axes), layers if "l" in operand.index else 0


def is_fold(order: Order) -> bool:
    """Whether an order ends in x times an n × d matrix, which is folded into the frozen weight."""
    return order.mode in FOLDING and isinstance(order.tree, tuple) and order.tree[0] == INPUT


def leaf(network: Network, name: str, *, x_needs_gradient: bool, stacked: bool, whole: bool = False) -> Value:
    """The value of a leaf: x, or an operand (with the layers' axis k in front for a whole stack, or with a whole table's axes)."""
    if name == INPUT:
        return Value(network.input_axes, x_needs_gradient, is_static=False, is_input=not network.serial)
    operand = network.operand(name)
    return Value(
        leaf_axes(operand, stacked=stacked, whole=whole),
        operand.trainable,
        is_static=operand.gathered_from is None,
        has_constant=operand.constant is not None,
    )


def leaf_axes(operand: Operand, *, stacked: bool, whole: bool = False) -> str:
    """An operand's axes as a leaf: its own, the layers of a stack in front, or a whole table's."""
    if whole:
        return operand.index + operand.axes
    per_layer = not operand.shared or "l" in operand.index
    return "k" + operand.axes if stacked and per_layer else operand.axes


def walk(network: Network, tree: Tree, outside: str, *, x_needs_gradient: bool, stacked: bool, whole: bool = False) -> list[Step]:
    """The steps of a tree, inner pairs first; `outside` are the axes that must survive it."""
    return _Walk(network, x_needs_gradient=x_needs_gradient, stacked=stacked, whole=whole).run(tree, outside)[0]


@dataclass
class _Walk:
    network: Network
    x_needs_gradient: bool
    stacked: bool
    whole: bool

    def run(self, tree: Tree, outside: str) -> tuple[list[Step], Value]:
        if isinstance(tree, str):
            return [], leaf(self.network, tree, x_needs_gradient=self.x_needs_gradient, stacked=self.stacked, whole=self.whole)
        left_tree, right_tree = tree
        before, left = self.run(left_tree, outside + self.axes(right_tree))
        if right_tree == RELU:
            step = Step(left, left, replace(left), Pairing("relu", left.axes))
            return [*before, step], step.out
        after, right = self.run(right_tree, outside + self.axes(left_tree))
        step = self.step(left, right, right_tree, outside)
        return [*before, *after, step], step.out

    def step(self, left: Value, right: Value, right_tree: Tree, outside: str) -> Step:
        planned = plan_pair(self.network, left.axes, right.axes, right_tree, outside)
        constant = (left.has_constant or right.has_constant) and not (left.is_input or right.is_input)
        out = Value(planned.out, left.needs_gradient or right.needs_gradient, is_static=False, has_constant=constant)
        return Step(left, right, out, planned)

    def axes(self, tree: Tree) -> str:
        return tree_axes(self.network, tree, stacked=self.stacked, whole=self.whole)


def plan_pair(network: Network, left: str, right: str, right_tree: Tree, outside: str) -> Pairing:
    """How two values of a tree are contracted, `outside` the axes that must survive; a bias is added."""
    key = left, right, right_tree, outside
    if key not in network.plans:
        network.plans[key] = _planned_pair(network, left, right, right_tree, outside)
    return network.plans[key]


def _planned_pair(network: Network, left: str, right: str, right_tree: Tree, outside: str) -> Pairing:
    if isinstance(right_tree, str) and right_tree != INPUT and network.operand(right_tree).added:
        return Pairing("add", left)
    kept = [axis for axis in dict.fromkeys(left + right) if axis in outside]
    wanted = "".join(sorted(kept, key=outside.index) if set(kept) == set(outside) else kept)
    return pair(left, right, wanted, network.sizes)


def tree_axes(network: Network, tree: Tree, *, stacked: bool, whole: bool = False) -> str:
    """All axes that stand anywhere in a tree."""
    key = tree, stacked, whole
    if key not in network.plans:
        network.plans[key] = _axes_of_tree(network, tree, stacked=stacked, whole=whole)
    return network.plans[key]


def _axes_of_tree(network: Network, tree: Tree, *, stacked: bool, whole: bool) -> str:
    if isinstance(tree, str):
        if tree == RELU:
            return ""
        return network.input_axes if tree == INPUT else leaf_axes(network.operand(tree), stacked=stacked, whole=whole)
    parts = (tree_axes(network, one, stacked=stacked, whole=whole) for one in tree)
    return "".join(dict.fromkeys("".join(parts)))
