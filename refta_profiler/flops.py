"""Floating-point operations of traced operations, by torch's own formulas, and the CPU attention kernels that torch counts as 0."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

aten = torch.ops.aten

CPU_ATTENTION = {
    aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q.shape, k.shape, v.shape),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda g, q, k, v, *_, **__: sdpa_backward_flop_count(
        g.shape, q.shape, k.shape, v.shape
    ),
}


def count(operation: Any, args: tuple, kwargs: dict, out: Any) -> int:
    """FLOPs of one operation, 2 per multiply-add; 0 for what is not a matrix product, a convolution or attention."""
    packet = operation._overloadpacket
    if packet in CPU_ATTENTION:
        return CPU_ATTENTION[packet](*args, **kwargs)
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
