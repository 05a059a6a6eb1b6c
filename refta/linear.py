"""A frozen linear plus a network, run in one order, pair by pair."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from refta import autocast
from refta.network import INPUT, RELU, Network, Operand, Order, Tree, is_fold, leaf_axes, plan_pair, tree_axes
from refta.pairing import Pairing


@dataclass
class Tensor:
    """An intermediate: the tensor, its axes in memory order, and its part for x's constant-one column (the same axes without d), if any."""

    tensor: torch.Tensor
    axes: str
    constant: torch.Tensor | None = None


class AdaptedLinear(nn.Module):
    """A linear whose frozen weight (n, d) holds a residual and whose stack adds the method's update.

    `weight` and `bias` keep the names they had in the linear that this replaces. The stack is held unregistered: it is registered once,
    at the model's root.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, stack: Any, layer: int):
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.layer = layer
        self._stack = (stack,)

    @property
    def stack(self):
        """The stack whose factors this layer shares."""
        return self._stack[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., d) → (..., n)."""
        stack = self.stack
        order = stack.order_for(x.numel() // x.shape[-1])
        if order.mode == "stack":
            weight, bias = stack.folded(self.layer)
            return F.linear(x, weight, bias)
        operands = stack.operands(self.layer)
        if is_fold(order) and order.mode == "recompute":
            return _recomputed(stack.network, order, x, self.weight, self.bias, operands)
        if is_fold(order):
            weight, bias = fold(stack.network, order, self.weight, self.bias, operands)
            return F.linear(x, weight, bias)
        base = F.linear(x, self.weight, self.bias)
        if order.mode == "delta" and stack.network.dropout and self.training:
            return torch.add(base, dropped_delta(stack.network, order, x, operands).to(base.dtype), alpha=stack.network.scale)
        update = self._update(order, stack.drop(base if stack.network.serial else x), operands).to(base.dtype)
        return base + update if stack.network.scale == 1 else torch.add(base, update, alpha=stack.network.scale)

    def _update(self, order: Order, x: torch.Tensor, operands: dict[str, torch.Tensor]) -> torch.Tensor:
        stack = self.stack
        if order.mode == "delta_stack":
            return F.linear(x.to(next(iter(operands.values())).dtype), stack.folded(self.layer)[0])
        if order.mode == "whole":
            return F.linear(x.to(next(iter(operands.values())).dtype), whole(stack.network, order, stack.tables())[stack.row(self.layer)])
        if order.mode == "recompute":
            return _recomputed_features(stack.network, order, x, operands)
        return features(stack.network, order, x, operands)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, layer={self.layer}, order={self.stack.order_name}"


def features(network: Network, order: Order, x: torch.Tensor, operands: dict[str, torch.Tensor]) -> torch.Tensor:
    """The update of the output, x (..., d) → (..., n), without any n × d matrix."""
    flat = x.reshape(-1, x.shape[-1]).to(next(iter(operands.values())).dtype)
    run = _sliced if order.mode == "slices" else _tree
    return run(network, order, flat, operands).view(*x.shape[:-1], network.sizes["n"])


def _tree(network: Network, order: Order, flat: torch.Tensor, operands: dict[str, torch.Tensor]) -> torch.Tensor:
    shaped = flat.view(-1, *(network.sizes[axis] for axis in network.inputs))
    found = _Evaluation(network, {**operands, INPUT: shaped}).run(order.tree, network.output_axes)
    return arranged(found, network.output_axes).reshape(flat.shape[0], network.sizes["n"])


def _sliced(network: Network, order: Order, flat: torch.Tensor, operands: dict[str, torch.Tensor]) -> torch.Tensor:
    """`H[j] = ([x | 1] B_jᵀ) A_jᵀ` for every slice with components, then `H u`, u one coefficient a slice."""
    starts = list(accumulate(network.slice_ranks, initial=0))
    parts = []
    for start, size in zip(starts, network.slice_ranks, strict=False):
        part = {name: _narrowed(tensor, _axes_of(network, name), start, size) for name, tensor in operands.items()}
        parts.append(_tree(network, order, flat, part))
    stacked = torch.stack(parts)
    coefficients = operands["u"][starts[:-1]] if operands["u"].requires_grad else operands["slice_coefficients"]
    return (coefficients[None] @ stacked.flatten(1)).view_as(parts[0])


def _narrowed(tensor: torch.Tensor, axes: str, start: int, size: int) -> torch.Tensor:
    return tensor.narrow(axes.index("r"), start, size) if "r" in axes else tensor


def _axes_of(network: Network, name: str) -> str:
    return next((one.axes for one in network.operands if one.name == name), "")


def fold(
    network: Network, order: Order, weight: torch.Tensor, bias: torch.Tensor | None, operands: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The weight (n, d) and bias (n) with the update folded in."""
    assert isinstance(order.tree, tuple)
    update = _Evaluation(network, operands).run(order.tree[1], network.fold_axes, base=None if order.mode == "copies" else weight)
    folded = update.tensor if order.mode != "copies" else weight + (network.scale * _dense(update, network.fold_axes, weight)).to(weight.dtype)
    if update.constant is None:
        return folded, bias
    return folded, update.constant if bias is None else bias + update.constant.to(bias.dtype)


def fold_stack(network: Network, order: Order, weights: list[torch.Tensor], operands: dict[str, torch.Tensor]) -> Tensor:
    """All weights of a stack (k, n, d) with the update folded in, and the update of their biases (k, n), if any."""
    assert isinstance(order.tree, tuple)
    base = torch.stack([weight.detach() for weight in weights])
    return _Evaluation(network, operands, stacked=True).run(order.tree[1], "k" + network.fold_axes, base=base)


def dropped_delta(network: Network, order: Order, x: torch.Tensor, operands: dict[str, torch.Tensor]) -> torch.Tensor:
    """x times the rebuilt update with dropout on the update's own numbers, unscaled; the mask is kept as one byte a number."""
    assert isinstance(order.tree, tuple)
    update = arranged(_Evaluation(network, operands).run(order.tree[1], network.fold_axes), network.fold_axes).reshape(network.sizes["n"], network.sizes["d"])
    mask = torch.rand_like(update, requires_grad=False) >= network.dropout
    return F.linear(x.to(update.dtype), update * mask * (1 / (1 - network.dropout)))


def delta_stack(network: Network, order: Order, operands: dict[str, torch.Tensor]) -> torch.Tensor:
    """The updates of all weights of a stack (k, n, d), unscaled and not folded."""
    assert isinstance(order.tree, tuple)
    found = _Evaluation(network, operands, stacked=True).run(order.tree[1], "k" + network.fold_axes)
    return arranged(found, "k" + network.fold_axes).reshape(-1, network.sizes["n"], network.sizes["d"])


def whole(network: Network, order: Order, tables: dict[str, torch.Tensor]) -> torch.Tensor:
    """The updates of all layers and stacks that the tables have rows for (l, m, n, d), unscaled."""
    assert isinstance(order.tree, tuple)
    axes = network.table_axes + network.fold_axes
    found = _Evaluation(network, tables, whole=True).run(order.tree[1], axes)
    return arranged(found, axes).reshape(*(network.sizes[axis] for axis in network.table_axes), network.sizes["n"], network.sizes["d"])


def arranged(one: Tensor, axes: str) -> torch.Tensor:
    """The tensor with its axes in that order."""
    return one.tensor if one.axes == axes else one.tensor.permute([one.axes.index(axis) for axis in axes])


def _dense(one: Tensor, axes: str, like: torch.Tensor) -> torch.Tensor:
    return arranged(one, axes).reshape(like.shape)


@dataclass
class _Evaluation:
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
        return Tensor(torch.add(base, _dense(one, outside, base).to(base.dtype), alpha=self.network.scale), outside, constant)

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
                return torch.mv(_matrix(other, "", planned.rows, planned.inner), column.tensor).view([other.tensor.shape[other.axes.index(axis)] for axis in wanted])
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
        return torch.addmm(base.reshape(a.shape[0], b.shape[1]), a, b, alpha=scale).view(base.shape)
    if constant is not None and not planned.batch and not planned.swapped:
        return torch.addmm(constant.to(a.dtype), a, b).view([sizes[axis] for axis in planned.out])
    product = _product(a, b).view([sizes[axis] for axis in planned.out])
    return product if constant is None else product + constant


def _can_accumulate(base: torch.Tensor, product: torch.Tensor) -> bool:
    """Whether addmm can add straight into the base: one dtype, and no autocast that would change it on the way."""
    return base.dtype == product.dtype and not autocast.is_on(base)


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.mm(a, b) if a.dim() == 2 else torch.bmm(a, b)


def _matrix(one: Tensor, batch: str, first: str, second: str) -> torch.Tensor:
    """The tensor as a matrix (product of first, product of second), behind one batch axis where there is a batch."""
    sizes = dict(zip(one.axes, one.tensor.shape, strict=True))
    turned = one.tensor.permute([one.axes.index(axis) for axis in batch + first + second])
    return turned.reshape([_size(sizes, group) for group in ([batch] if batch else []) + [first, second]])


def _size(sizes: dict[str, int], axes: str) -> int:
    product = 1
    for axis in axes:
        product *= sizes[axis]
    return product


def _aligned(one: Tensor, axes: str) -> torch.Tensor:
    """The tensor permuted and expanded to broadcast over `axes`."""
    present = [axis for axis in axes if axis in one.axes]
    turned = one.tensor.permute([one.axes.index(axis) for axis in present])
    sizes = dict(zip(present, turned.shape, strict=True))
    return turned.reshape([sizes.get(axis, 1) for axis in axes])


class _RecomputedFold(torch.autograd.Function):
    """One linear on a folded weight that is folded again in backward, so that only x is kept."""

    @staticmethod
    def forward(ctx, network, order, names, x, weight, bias, *tensors):  # noqa: D102
        ctx.network, ctx.order, ctx.names = network, order, names
        ctx.has_bias = bias is not None
        ctx.save_for_backward(x, weight, *([bias] if bias is not None else []), *tensors)
        folded, folded_bias = fold(network, order, weight, bias, dict(zip(names, tensors, strict=True)))
        return F.linear(x, folded.to(x.dtype), None if folded_bias is None else folded_bias.to(x.dtype))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *gradients):  # noqa: D102
        (gradient,) = gradients
        x, weight, *rest = ctx.saved_tensors
        bias, tensors = (rest[0], rest[1:]) if ctx.has_bias else (None, rest)
        needed = ctx.needs_input_grad[6:]
        with torch.enable_grad():
            fresh = [one.detach().requires_grad_(need) for one, need in zip(tensors, needed, strict=True)]
            folded, folded_bias = fold(ctx.network, ctx.order, weight, bias, dict(zip(ctx.names, fresh, strict=True)))
        flat = gradient.reshape(-1, gradient.shape[-1])
        grad_x = (flat @ folded.detach().to(flat.dtype)).view_as(x) if ctx.needs_input_grad[3] else None
        outputs, incoming = [folded], [(flat.T @ x.reshape(-1, x.shape[-1])).to(folded.dtype)]
        if folded_bias is not None and folded_bias.requires_grad:
            outputs, incoming = [*outputs, folded_bias], [*incoming, flat.sum(0).to(folded_bias.dtype)]
        wanted = [one for one in fresh if one.requires_grad]
        found = iter(torch.autograd.grad(outputs, wanted, incoming) if wanted else ())
        return (None, None, None, grad_x, None, None, *(next(found) if one.requires_grad else None for one in fresh))


def _recomputed(network, order, x, weight, bias, operands: dict[str, torch.Tensor]) -> torch.Tensor:
    dtype = autocast.dtype_of(x)
    with autocast.off(x):
        return _RecomputedFold.apply(network, order, tuple(operands), x.to(dtype), weight, bias, *operands.values())


class _RecomputedFeatures(torch.autograd.Function):
    """An update that is computed again in backward, so that only its input is kept."""

    @staticmethod
    def forward(ctx, network, order, names, x, *tensors):  # noqa: D102
        ctx.network, ctx.order, ctx.names = network, order, names
        ctx.save_for_backward(x, *tensors)
        return features(network, order, x, dict(zip(names, tensors, strict=True)))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *gradients):  # noqa: D102
        needed = ctx.needs_input_grad[3:]
        with torch.enable_grad():
            fresh = [one.detach().requires_grad_(need) for one, need in zip(ctx.saved_tensors, needed, strict=True)]
            again = features(ctx.network, ctx.order, fresh[0], dict(zip(ctx.names, fresh[1:], strict=True)))
        wanted = [one for one in fresh if one.requires_grad]
        found = iter(torch.autograd.grad(again, wanted, gradients[0]) if wanted else ())
        return (None, None, None, *(next(found) if one.requires_grad else None for one in fresh))


def _recomputed_features(network: Network, order: Order, x: torch.Tensor, operands: dict[str, torch.Tensor]) -> torch.Tensor:
    with autocast.off(x):
        return _RecomputedFeatures.apply(network, order, tuple(operands), x.to(next(iter(operands.values())).dtype), *operands.values())
