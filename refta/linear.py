"""A frozen linear plus a network, run in one order, pair by pair."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from refta import autocast
from refta.contraction import Evaluation, Tensor, arranged, dense
from refta.errors import SettingError
from refta.fused import fused
from refta.network import INPUT, Network, Order, is_fold
from refta.operands import HAND_WRITTEN


class AdaptedLinear(nn.Module):
    """A linear whose frozen weight (n, d) holds a residual and whose stack adds the method's update.

    `weight` and `bias` keep the names they had in the linear that this replaces. The stack is held unregistered: it is registered once,
    at the model's root.
    """

    adapter: nn.ParameterDict  # the layer's own operands, where its method has some
    was_conv1d: bool
    _is_replica = False  # nn.DataParallel sets it on its copies, which share no factors with one another

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
        if self._is_replica:
            raise SettingError("nn.DataParallel copies a layer without the factors that it shares; use DistributedDataParallel")
        stack = self.stack
        order = stack.order_for(x.numel() // x.shape[-1])
        if order.mode == "stack":
            weight, bias = stack.folded(self.layer)
            return F.linear(x, weight, bias)
        operands = stack.operands(self.layer, order)
        if order.mode in HAND_WRITTEN:
            return fused(order.mode, x, self.weight, self.bias, operands)
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
    found = Evaluation(network, {**operands, INPUT: shaped}).run(order.tree, network.output_axes)
    return arranged(found, network.output_axes).reshape(flat.shape[0], network.sizes["n"])


def _sliced(network: Network, order: Order, flat: torch.Tensor, operands: dict[str, torch.Tensor]) -> torch.Tensor:
    """`H[j] = ([x | 1] B_jᵀ) A_jᵀ` for every slice with components, then `H u`, u one coefficient a slice."""
    starts = list(accumulate(network.slice_ranks, initial=0))
    parts = []
    for start, size in zip(starts, network.slice_ranks, strict=False):
        part = {name: _narrowed(tensor, _axes_of(network, name), start, size) for name, tensor in operands.items()}
        parts.append(_tree(network, order, flat, part))
    stacked = torch.stack(parts)
    return (operands["slice_coefficients"][None] @ stacked.flatten(1)).view_as(parts[0])


def _narrowed(tensor: torch.Tensor, axes: str, start: int, size: int) -> torch.Tensor:
    return tensor.narrow(axes.index("r"), start, size) if "r" in axes else tensor


def _axes_of(network: Network, name: str) -> str:
    return next((one.axes for one in network.operands if one.name == name), "")


def fold(
    network: Network, order: Order, weight: torch.Tensor, bias: torch.Tensor | None, operands: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The weight (n, d) and bias (n) with the update folded in."""
    assert isinstance(order.tree, tuple)
    update = Evaluation(network, operands).run(order.tree[1], network.fold_axes, base=None if order.mode == "copies" else weight)
    folded = (
        update.tensor if order.mode != "copies" else weight + (network.scale * dense(update, network.fold_axes, weight)).to(weight.dtype)
    )
    if update.constant is None:
        return folded, bias
    return folded, update.constant if bias is None else bias + update.constant.to(bias.dtype)


def fold_stack(network: Network, order: Order, weights: Sequence[torch.Tensor], operands: dict[str, torch.Tensor]) -> Tensor:
    """All weights of a stack (k, n, d) with the update folded in, and the update of their biases (k, n), if any."""
    assert isinstance(order.tree, tuple)
    base = torch.stack(tuple(weights))
    return Evaluation(network, operands, stacked=True).run(order.tree[1], "k" + network.fold_axes, base=base)


def dropped_delta(network: Network, order: Order, x: torch.Tensor, operands: dict[str, torch.Tensor]) -> torch.Tensor:
    """x times the rebuilt update with dropout on the update's own numbers, unscaled; the mask is kept as one byte a number."""
    assert isinstance(order.tree, tuple)
    update = arranged(Evaluation(network, operands).run(order.tree[1], network.fold_axes), network.fold_axes).reshape(
        network.sizes["n"], network.sizes["d"]
    )
    mask = torch.rand_like(update, requires_grad=False) >= network.dropout
    return F.linear(x.to(update.dtype), update * mask * (1 / (1 - network.dropout)))


def delta_stack(network: Network, order: Order, operands: dict[str, torch.Tensor]) -> torch.Tensor:
    """The updates of all weights of a stack (k, n, d), unscaled and not folded."""
    assert isinstance(order.tree, tuple)
    found = Evaluation(network, operands, stacked=True).run(order.tree[1], "k" + network.fold_axes)
    return arranged(found, "k" + network.fold_axes).reshape(-1, network.sizes["n"], network.sizes["d"])


def whole(network: Network, order: Order, tables: dict[str, torch.Tensor]) -> torch.Tensor:
    """The updates of all layers and stacks that the tables have rows for (l, m, n, d), unscaled."""
    assert isinstance(order.tree, tuple)
    axes = network.table_axes + network.fold_axes
    found = Evaluation(network, tables, whole=True).run(order.tree[1], axes)
    return arranged(found, axes).reshape(*(network.sizes[axis] for axis in network.table_axes), network.sizes["n"], network.sizes["d"])


class _RecomputedFold(torch.autograd.Function):
    """One linear on a folded weight that is folded again in backward, so that only x is kept."""

    @staticmethod
    def forward(ctx, network, order, names, x, weight, bias, *tensors):
        ctx.network, ctx.order, ctx.names = network, order, names
        ctx.has_bias = bias is not None
        ctx.save_for_backward(x, weight, *([bias] if bias is not None else []), *tensors)
        folded, folded_bias = fold(network, order, weight, bias, dict(zip(names, tensors, strict=True)))
        return F.linear(x, folded.to(x.dtype), None if folded_bias is None else folded_bias.to(x.dtype))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *gradients):  # type: ignore[override]
        (gradient,) = gradients
        x, weight, *rest = ctx.saved_tensors
        own = (weight, *rest) if ctx.has_bias else (weight, None, *rest)
        needs_x, *needed = ctx.needs_input_grad[3:]
        with torch.enable_grad():
            fresh: list[Any] = [None if one is None else one.detach().requires_grad_(need) for one, need in zip(own, needed, strict=True)]
            folded, folded_bias = fold(ctx.network, ctx.order, fresh[0], fresh[1], dict(zip(ctx.names, fresh[2:], strict=True)))
        flat = gradient.reshape(-1, gradient.shape[-1])
        grad_x = (flat @ folded.detach().to(flat.dtype)).view_as(x) if needs_x else None
        outputs, incoming = [], []
        if folded.requires_grad:
            outputs, incoming = [folded], [(flat.T @ x.reshape(-1, x.shape[-1])).to(folded.dtype)]
        if folded_bias is not None and folded_bias.requires_grad:
            outputs, incoming = [*outputs, folded_bias], [*incoming, flat.sum(0).to(folded_bias.dtype)]
        trained = [one is not None and one.requires_grad for one in fresh]  # of a thawed base its weight and bias, too
        wanted = [one for one, is_trained in zip(fresh, trained, strict=True) if is_trained]
        found = iter(torch.autograd.grad(outputs, wanted, incoming) if wanted else ())
        return (None, None, None, grad_x, *(next(found) if is_trained else None for is_trained in trained))


def _recomputed(network, order, x, weight, bias, operands: dict[str, torch.Tensor]) -> torch.Tensor:
    dtype = autocast.dtype_of(x)
    with autocast.off(x):
        return _RecomputedFold.apply(network, order, tuple(operands), x.to(dtype), weight, bias, *operands.values())


class _RecomputedFeatures(torch.autograd.Function):
    """An update that is computed again in backward, so that only its input is kept."""

    @staticmethod
    def forward(ctx, network, order, names, x, *tensors):
        ctx.network, ctx.order, ctx.names = network, order, names
        ctx.save_for_backward(x, *tensors)
        return features(network, order, x, dict(zip(names, tensors, strict=True)))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *gradients):  # type: ignore[override]
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
