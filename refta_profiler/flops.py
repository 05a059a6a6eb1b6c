"""Floating-point operations of traced operations, by torch's own formulas: also of attention on the CPU, which torch counts as 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

aten = torch.ops.aten

ATTENTION = {  # the fused kernels, q, k and v first; torch's own registry has all but the CPU's
    aten._scaled_dot_product_flash_attention_for_cpu,
    aten._scaled_dot_product_flash_attention,
    aten._scaled_dot_product_efficient_attention,
    aten._scaled_dot_product_cudnn_attention,
}
ATTENTION_BACKWARD = {  # the gradient of the output first, then q, k and v
    aten._scaled_dot_product_flash_attention_for_cpu_backward,
    aten._scaled_dot_product_flash_attention_backward,
    aten._scaled_dot_product_efficient_attention_backward,
    aten._scaled_dot_product_cudnn_attention_backward,
}


def of_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> int:
    """FLOPs of attention: two products of every head of the query (b, h, t, d), the scores and the weighted values."""
    return sdpa_flop_count(query.shape, *_of_heads(query.shape[1], key, value))


def of_attention_backward(gradient: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> int:
    """FLOPs of attention's backward: five products of every head of the query, the scores again and four gradients."""
    return sdpa_backward_flop_count(gradient.shape, query.shape, *_of_heads(query.shape[1], key, value))


def _of_heads(heads: int, *tensors: torch.Tensor) -> Sequence[tuple[int, ...]]:
    """The tensors' shapes with that many heads: what torch's FLOP counts ask for before 2.13, where keys have fewer than queries."""
    return [(one.shape[0], heads, *one.shape[2:]) for one in tensors]


def count(operation: Any, args: tuple, kwargs: dict, out: Any) -> int:
    """FLOPs of one operation, 2 per multiply-add; 0 for what is not a matrix product, a convolution or attention."""
    packet = operation._overloadpacket
    if packet in ATTENTION:
        return of_attention(*args[:3])
    if packet in ATTENTION_BACKWARD:
        return of_attention_backward(*args[:4])
    if packet in flop_registry:
        return flop_registry[packet](*args, **kwargs, out_val=out)
    return 0


class FlopCounter(TorchDispatchMode):
    """Counts the FLOPs of what runs under it, by phase (`phase` is set from outside)."""

    def __init__(self) -> None:
        super().__init__()
        self.phase = "forward"
        self.by_phase: dict[str, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.by_phase[self.phase] = self.by_phase.get(self.phase, 0) + count(func, args, kwargs or {}, out)
        return out

    def total(self) -> int:
        """FLOPs of all phases."""
        return sum(self.by_phase.values())
