"""A tree contracted pair by pair, by matrix products whose layout is planned (see pairing.py), so that `cost.py` counts what runs here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from refta import autocast
from refta.network import INPUT, RELU, Network, Operand, Tree, leaf_axes, plan_pair, tree_axes
from refta.pairing import Pairing


@dataclass
class Tensor:
    """An intermediate: the tensor, its axes in memory order, and its part for x's constant-one column (the same axes without d), if any."""

    tensor: torch.Tensor
    axes: str
    constant: torch.Tensor | None = None


def arranged(one: Tensor, axes: str) -> torch.Tensor:
    """The tensor with its axes in that order."""
    return one.tensor if one.axes == axes else one.tensor.permute([one.axes.index(axis) for axis in axes])


def dense(one: Tensor, axes: str, like: torch.Tensor) -> torch.Tensor:
    return _seen_as(arranged(one, axes), like.shape)


@dataclass
class Evaluation:
    """Contracts a tree pair by pair, as `network.walk` lists and lays it out."""

    network: Network
    values: dict[str, torch.Tensor]
    stacked: bool = False
    whole: bool = False

    def run(self, tree: Tree, outside: str, *, base: torch.Tensor | None = None) -> Tensor:
        """What the tree evaluates to; a base is added to it (scaled), in the last pair where that saves a tensor."""
        if isinstance(tree, str):
            return self.based(self.leaf(tree), outside, base)
        left_tree, right_tree = tree
        left = self.run(left_tree, outside + self.axes(right_tree))
        if right_tree == RELU:
            return Tensor(torch.relu(left.tensor), left.axes)
        right = self.run(right_tree, outside + self.axes(left_tree))
        planned = plan_pair(self.network, left.axes, right.axes, right_tree, outside)
        constant = self.constant(left, right, planned.out)
        if constant is not None and "t" in left.axes + right.axes:
            return Tensor(_pair(left, right, planned, constant=constant), planned.out)
        if base is None or planned.kind != "product" or planned.batch or planned.out != outside or not _can_accumulate(base, left.tensor):
            return self.based(Tensor(_pair(left, right, planned), planned.out, constant), outside, base)
        return Tensor(_pair(left, right, planned, base=base, scale=self.network.scale), outside, constant)

    def based(self, one: Tensor, outside: str, base: torch.Tensor | None) -> Tensor:
        if base is None:
            return one
        constant = one.constant
        if constant is not None:
            constant = arranged(Tensor(constant, one.axes.replace("d", "")), outside.replace("d", ""))
        return Tensor(torch.add(base, dense(one, outside, base).to(base.dtype), alpha=self.network.scale), outside, constant)

    def leaf(self, name: str) -> Tensor:
        if name == INPUT:
            return Tensor(self.values[INPUT], self.network.input_axes)
        operand = self.network.operand(name)
        axes = leaf_axes(operand, stacked=self.stacked, whole=self.whole)
        return Tensor(self.seen(operand, axes), axes, self.values[operand.constant] if operand.constant else None)

    def seen(self, operand: Operand, axes: str) -> torch.Tensor:
        """The operand's tensor with one dimension an axis (a parameter may have its own shape)."""
        tensor = self.values[operand.name]
        return tensor if operand.shape is None else tensor.view([self.network.sizes[axis] for axis in axes])

    def constant(self, left: Tensor, right: Tensor, out: str) -> torch.Tensor | None:
        """The pair's part for x's constant-one column."""
        for one, other in ((left, right), (right, left)):
            if one.constant is None:
                continue
            if other.axes == self.network.input_axes:
                return one.constant
            column, wanted = Tensor(one.constant, one.axes.replace("d", "")), out.replace("d", "")
            planned = plan_pair(self.network, other.axes, column.axes, INPUT, wanted)
            if planned.kind == "product" and not planned.batch:  # a matrix-vector product, which no FLOP counter counts
                return torch.mv(_matrix(other, "", planned.rows, planned.inner), column.tensor).view(
                    [other.tensor.shape[other.axes.index(axis)] for axis in wanted]
                )
            return arranged(Tensor(_pair(other, column, planned), planned.out), wanted)
        return None

    def axes(self, tree: Tree) -> str:
        return tree_axes(self.network, tree, stacked=self.stacked, whole=self.whole)


def _pair(
    left: Tensor,
    right: Tensor,
    planned: Pairing,
    *,
    constant: torch.Tensor | None = None,
    base: torch.Tensor | None = None,
    scale: float = 1.0,
) -> torch.Tensor:
    """One binary contraction; plus a constant row, or scaled and plus a base of the result's shape."""
    if planned.kind == "add":
        return left.tensor + _aligned(right, planned.out)
    if planned.kind == "multiply":
        right_tensor = _aligned(right, planned.out)
        return _aligned(left, planned.out) * (right_tensor.contiguous() if planned.right_copied else right_tensor)
    first, second = (right, left) if planned.swapped else (left, right)
    sizes = {**dict(zip(left.axes, left.tensor.shape, strict=True)), **dict(zip(right.axes, right.tensor.shape, strict=True))}
    a, b = _matrix(first, planned.batch, planned.rows, planned.inner), _matrix(second, planned.batch, planned.inner, planned.columns)
    if base is not None:
        return _seen_as(torch.addmm(_seen_as(base, (a.shape[0], b.shape[1])), a, b, alpha=scale), base.shape)
    shape = tuple(sizes[axis] for axis in planned.out)
    if constant is not None and not planned.batch and not planned.swapped:
        return _seen_as(torch.addmm(constant.to(a.dtype), a, b), shape)
    product = _seen_as(_product(a, b), shape)
    return product if constant is None else product + constant


def _seen_as(tensor: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """The tensor in that shape; itself where it has it."""
    return tensor if tensor.shape == tuple(shape) else tensor.reshape(shape)


def _can_accumulate(base: torch.Tensor, product: torch.Tensor) -> bool:
    """Whether addmm can add straight into the base: one dtype, and no autocast that would change it on the way."""
    return base.dtype == product.dtype and not autocast.is_on(base)


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.mm(a, b) if a.dim() == 2 else torch.bmm(a, b)


def _matrix(one: Tensor, batch: str, first: str, second: str) -> torch.Tensor:
    """The tensor as a matrix (product of first, product of second), behind one batch axis where there is a batch."""
    if one.axes == first + second and len(first) == len(second) == 1:
        return one.tensor  # as it is: every view costs the host a microsecond or two
    sizes = dict(zip(one.axes, one.tensor.shape, strict=True))
    turned = arranged(one, batch + first + second)
    return turned.reshape([_size(sizes, group) for group in ([batch] if batch else []) + [first, second]])


def _size(sizes: dict[str, int], axes: str) -> int:
    product = 1
    for axis in axes:
        product *= sizes[axis]
    return product


def _aligned(one: Tensor, axes: str) -> torch.Tensor:
    """The tensor permuted and expanded to broadcast over `axes`."""
    present = "".join(axis for axis in axes if axis in one.axes)
    turned = arranged(one, present)
    if present == axes:
        return turned
    sizes = dict(zip(present, turned.shape, strict=True))
    return turned.reshape([sizes.get(axis, 1) for axis in axes])
