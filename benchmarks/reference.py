"""What ReFTA is held against and the peft library does not have: a naive rebuild of every weight in every step, and the floor.

Written as plainly as can be; nothing of `refta`'s own contraction code runs here.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from refta.linear import AdaptedLinear


class NaiveLinear(nn.Module):
    """W_k = residual_k + (A ∘ u_k) B rebuilt at every call by plain autograd, then one linear."""

    def __init__(self, adapted: AdaptedLinear):
        super().__init__()
        self.weight, self.bias = adapted.weight, adapted.bias
        self._stack, self.layer = (adapted.stack,), adapted.layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stack = self._stack[0]
        weighted = stack.A * stack.coefficients[self.layer]
        bias = self.bias if self.bias is None else self.bias + weighted @ stack.beta
        return F.linear(x, self.weight + weighted @ stack.B, bias)


class _Kept(torch.autograd.Function):
    """A frozen linear that keeps x for a gradient which nobody takes."""

    @staticmethod
    def forward(ctx, x, weight, bias, source):
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):  # type: ignore[override]
        _, weight = ctx.saved_tensors
        return gradient @ weight if ctx.needs_input_grad[0] else None, None, None, None


class FloorLinear(nn.Module):
    """What any adapter of this linear must spend: the frozen product, ∂L/∂x through it, and x kept for the adapter's own gradient.

    `source` has no numbers and asks for a gradient, as an adapter would: the first layer's output needs one where its x does not.
    """

    def __init__(self, plain: Any):
        super().__init__()
        self.weight, self.bias = plain.weight, plain.bias
        self.source = torch.empty(0, device=plain.weight.device, requires_grad=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _Kept.apply(x, self.weight, self.bias, self.source)


def naive(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A copy of a ReFTA-adapted model that rebuilds; what `memo` lists is shared with it."""
    copied = copy.deepcopy(model, memo)
    return _replaced(copied, [name for name, one in copied.named_modules() if isinstance(one, AdaptedLinear)], NaiveLinear)


def floor(model: nn.Module, sites: list[str]) -> nn.Module:
    """The plain model with its sites replaced: everything frozen but the head, which trains as in every method."""
    return _replaced(model, sites, FloorLinear)


def _replaced(model: nn.Module, sites: list[str], make) -> nn.Module:
    for site in sites:
        parent, _, name = site.rpartition(".")
        setattr(model.get_submodule(parent), name, make(model.get_submodule(site)))
    return model
