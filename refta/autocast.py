"""Autocast on any device, the meta device included, which has none."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def is_on(tensor: torch.Tensor) -> bool:
    """Whether autocast is on where the tensor is."""
    return not tensor.is_meta and torch.is_autocast_enabled(tensor.device.type)


def dtype_of(tensor: torch.Tensor) -> torch.dtype:
    """The dtype in which a product with the tensor runs: autocast's where it is on, else the tensor's own."""
    return torch.get_autocast_dtype(tensor.device.type) if is_on(tensor) else tensor.dtype


def off(tensor: torch.Tensor) -> AbstractContextManager:
    """A context without autocast where the tensor is; nothing is entered where there is none, which costs the host microseconds."""
    return torch.autocast(tensor.device.type, enabled=False) if is_on(tensor) else nullcontext()
