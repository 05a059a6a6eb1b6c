"""What torch itself counts for a stack's step: FLOPs beyond the frozen base, and the bytes that autograd keeps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode
from toy_models import Parallel


def inputs(tokens: int, columns: int, layers: int, free: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """An input for each layer, the first `free` of them without a gradient."""
    return [torch.randn(tokens, columns, dtype=dtype).requires_grad_(k >= free) for k in range(layers)]


def flops(model: nn.Module, xs: list[torch.Tensor], *, backward: bool) -> int:
    """All FLOPs of a forward, or of forward and backward."""
    with FlopCounterMode(display=False) as counter:
        y = model(xs)
        if backward and y.requires_grad:
            y.sum().backward()
    return counter.get_total_flops()


def beyond_base(adapted: nn.Module, plain: Parallel, make: Callable[[], list[torch.Tensor]]) -> tuple[int, int]:
    """FLOPs of a forward, and of forward and backward, that the adapted model has more than the frozen plain one."""
    plain.requires_grad_(False)
    return tuple(flops(adapted, make(), backward=backward) - flops(plain, make(), backward=backward) for backward in (False, True))  # type: ignore[return-value]


def kept_bytes(model: nn.Module, xs: list[torch.Tensor]) -> int:
    """Bytes of distinct storages that autograd keeps for the backward, parameters, buffers and the inputs left out."""
    own = {one.untyped_storage().data_ptr() for one in [*model.parameters(), *model.buffers(), *xs]}
    kept: dict[int, torch.UntypedStorage] = {}  # held, so that no address comes twice

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor.detach()

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        y = model(xs)
    y.sum().backward()
    return sum(storage.nbytes() for storage in kept.values())
