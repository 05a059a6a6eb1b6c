"""A frozen linear plus a network, run in one order, pair by pair."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from refta.network import FOLD_AXES, INPUT, INPUT_AXES, OUTPUT_AXES, Network, Order, is_fold


@dataclass
class Tensor:
    """An intermediate: the tensor, its axes, and its part for x's constant-one column (the same axes without d), if any."""

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
        operands = stack.operands(self.layer)
        if order.mode == "stack":
            weight, bias = stack.folded(self.layer)
            return F.linear(x, weight, bias)
        if order.mode == "recompute":
            return _recomputed(stack.network, order, x, self.weight, self.bias, operands)
        if is_fold(order):
            weight, bias = fold(stack.network, order, self.weight, self.bias, operands)
            return F.linear(x, weight, bias)
        base = F.linear(x, self.weight, self.bias)
        return base + features(stack.network, order, stack.drop(x), operands).to(base.dtype)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, layer={self.layer}, order={self.stack.order_name}"


def features(network: Network, order: Order, x: torch.Tensor, operands: dict[str, torch.Tensor]) -> torch.Tensor:
    """The update of the output, x (..., d) → (..., n), without any n × d matrix."""
    flat = x.reshape(-1, x.shape[-1]).to(next(iter(operands.values())).dtype)
    run = _sliced if order.mode == "slices" else _tree
    return run(network, order, flat, operands).reshape(*x.shape[:-1], -1)


def _tree(network: Network, order: Order, flat: torch.Tensor, operands: dict[str, torch.Tensor]) -> torch.Tensor:
    return _evaluate(network, order.tree, OUTPUT_AXES, {**operands, INPUT: flat}, stacked=False).tensor


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
    update = _evaluate(network, order.tree[1], FOLD_AXES, operands, stacked=False, base=weight)
    if update.constant is None:
        return update.tensor, bias
    return update.tensor, update.constant if bias is None else bias + update.constant.to(bias.dtype)


def fold_stack(network: Network, order: Order, weights: list[torch.Tensor], operands: dict[str, torch.Tensor]) -> Tensor:
    """All weights of a stack (k, n, d) with the update folded in, and the update of their biases (k, n), if any."""
    assert isinstance(order.tree, tuple)
    return _evaluate(network, order.tree[1], "k" + FOLD_AXES, operands, stacked=True, base=torch.stack([weight.detach() for weight in weights]))


def _evaluate(network, tree, outside: str, values: dict[str, torch.Tensor], *, stacked: bool, base: torch.Tensor | None = None) -> Tensor:
    """A tree, contracted pair by pair as `network.walk` lists it; `base` is added in the last pair where that saves a tensor."""
    if isinstance(tree, str):
        return _leaf(network, tree, values, stacked=stacked)
    left_tree, right_tree = tree
    left = _evaluate(network, left_tree, outside + _tree_axes(network, right_tree, stacked), values, stacked=stacked)
    right = _evaluate(network, right_tree, outside + _tree_axes(network, left_tree, stacked), values, stacked=stacked)
    kept = [axis for axis in dict.fromkeys(left.axes + right.axes) if axis in outside]
    axes = "".join(sorted(kept, key=outside.index) if set(kept) == set(outside) else kept)
    constant = _constant(left, right, axes)
    if constant is not None and INPUT_AXES in (left.axes, right.axes):
        return Tensor(_pair(left, right, axes, constant=constant), axes)
    return Tensor(_pair(left, right, axes, base=base), axes, constant)


def _leaf(network: Network, name: str, values: dict[str, torch.Tensor], *, stacked: bool) -> Tensor:
    if name == INPUT:
        return Tensor(values[INPUT], INPUT_AXES)
    operand = network.operand(name)
    axes = operand.axes if operand.shared or not stacked else "k" + operand.axes
    return Tensor(values[name], axes, values[operand.constant] if operand.constant else None)


def _tree_axes(network: Network, tree, stacked: bool) -> str:
    if isinstance(tree, str):
        if tree == INPUT:
            return INPUT_AXES
        operand = network.operand(tree)
        return operand.axes if operand.shared or not stacked else "k" + operand.axes
    return "".join(dict.fromkeys(_tree_axes(network, tree[0], stacked) + _tree_axes(network, tree[1], stacked)))


def _constant(left: Tensor, right: Tensor, axes: str) -> torch.Tensor | None:
    """The pair's part for x's constant-one column."""
    for one, other in ((left, right), (right, left)):
        if one.constant is None:
            continue
        if other.axes == INPUT_AXES:
            return one.constant
        column = Tensor(one.constant, one.axes.replace("d", ""))
        return _pair(other, column, axes.replace("d", ""))
    return None


def _pair(left: Tensor, right: Tensor, axes: str, *, constant: torch.Tensor | None = None, base: torch.Tensor | None = None) -> torch.Tensor:
    """One binary contraction by a multiplication, mm or bmm; plus a constant row or a base of the result's shape."""
    summed = set(left.axes) & set(right.axes) - set(axes)
    if not summed:
        product = _aligned(left, axes) * _aligned(right, axes)
        return product if base is None else base + product.to(base.dtype)
    if constant is not None and right.axes[0] not in summed and len(right.axes) == 2:
        return F.linear(left.tensor, right.tensor, constant)
    batch = [axis for axis in axes if axis in left.axes and axis in right.axes]
    rows = [axis for axis in left.axes if axis not in right.axes]
    columns = [axis for axis in right.axes if axis not in left.axes]
    inner = [axis for axis in left.axes if axis in summed]
    a, b = _matrix(left, batch, rows, inner), _matrix(right, batch, inner, columns)
    sizes = {**dict(zip(left.axes, left.tensor.shape, strict=True)), **dict(zip(right.axes, right.tensor.shape, strict=True))}
    found = "".join(batch + rows + columns)
    direct = base is not None and found == axes and not batch and _can_accumulate(base, a)
    product = _accumulated(base, a, b) if direct else _product(a, b)
    product = product.view([sizes[axis] for axis in found]).permute([found.index(axis) for axis in axes])
    if constant is not None:
        product = product + constant
    return product if base is None or direct else base + product.to(base.dtype)


def _can_accumulate(base: torch.Tensor, product: torch.Tensor) -> bool:
    """Whether addmm can add straight into the base: one dtype, and no autocast that would change it on the way."""
    return base.dtype == product.dtype and not torch.is_autocast_enabled(base.device.type)


def _accumulated(base: torch.Tensor | None, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    assert base is not None
    if b.shape[1] == 1:  # a matrix-vector product
        return base.view(-1, 1) + a @ b
    return torch.addmm(base.reshape(a.shape[0], b.shape[1]), a, b)


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    if a.dim() == 2 and b.shape[1] == 1:
        return torch.mv(a, b[:, 0])
    return a @ b


def _matrix(one: Tensor, batch: list[str], first: list[str], second: list[str]) -> torch.Tensor:
    """The tensor as a matrix (product of first, product of second), behind one batch axis where there is a batch."""
    sizes = dict(zip(one.axes, one.tensor.shape, strict=True))
    turned = one.tensor.permute([one.axes.index(axis) for axis in [*batch, *first, *second]])
    groups = ([batch] if batch else []) + [first, second]
    return turned.reshape([_size(sizes, group) for group in groups])


def _size(sizes: dict[str, int], axes: list[str]) -> int:
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
        found = iter(torch.autograd.grad(outputs, wanted, incoming))
        return (None, None, None, grad_x, None, None, *(next(found) if one.requires_grad else None for one in fresh))


def _recomputed(network, order, x, weight, bias, operands: dict[str, torch.Tensor]) -> torch.Tensor:
    dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
    with torch.autocast(x.device.type, enabled=False):
        return _RecomputedFold.apply(network, order, tuple(operands), x.to(dtype), weight, bias, *operands.values())
