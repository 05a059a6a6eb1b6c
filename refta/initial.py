"""How a method's operands start, by name; a network's operands carry the name (Operand.init)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from refta.errors import SettingError


def _kaiming(tensor: torch.Tensor, *, slope: float) -> torch.Tensor:
    return nn.init.kaiming_uniform_(tensor, a=slope) if tensor.dim() > 1 else nn.init.uniform_(tensor, -1.0, 1.0)


def _normalised(tensor: torch.Tensor) -> torch.Tensor:
    """Kaiming with a = √8, divided by its norm (TT-LoRA's cores)."""
    _kaiming(tensor, slope=math.sqrt(8))
    return tensor.div_(tensor.norm() + 1e-6)


def _identity(tensor: torch.Tensor) -> torch.Tensor:
    """Ones where the last two places are equal (for every row of a table)."""
    return tensor.copy_(torch.eye(*tensor.shape[-2:], dtype=tensor.dtype, device=tensor.device).expand_as(tensor))


INITIALISERS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "zeros": nn.init.zeros_,
    "ones": nn.init.ones_,
    "normal": lambda tensor: nn.init.normal_(tensor, std=1 / math.sqrt(max(tensor.shape[-1], 1))),
    "small": lambda tensor: nn.init.normal_(tensor, std=0.02),
    "kaiming": lambda tensor: _kaiming(tensor, slope=math.sqrt(5)),
    "normalised": _normalised,
    "identity": _identity,
    "orthogonal": lambda tensor: nn.init.orthogonal_(tensor) if tensor.dim() > 1 else nn.init.normal_(tensor),
}


def fill(tensor: torch.Tensor, name: str) -> torch.Tensor:
    """The tensor, filled in place by the initialiser of that name."""
    if name not in INITIALISERS:
        raise SettingError(f"init: unknown '{name}'; there are {', '.join(INITIALISERS)}")
    with torch.no_grad():
        return INITIALISERS[name](tensor)
