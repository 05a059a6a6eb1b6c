"""A rank's place among the others: its process group, its device, and the collectives' buffers given back where the profiler sees it."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

WAIT_S = 1.0  # at most, for gloo's thread to let go of a buffer
SETTLE_S = 0.003  # after that, for the same thread to free its own copies, to which there is no reference to wait for
CALLS = ("all_gather_single", "reduce_scatter_single", "all_gather_into_tensor", "reduce_scatter_tensor")  # by version of torch
BROADCAST = "_broadcast_coalesced"  # of DDP's buffers, whose flat copy only C++ holds


@contextlib.contextmanager
def joined(request: dict[str, Any]) -> Iterator[torch.device]:
    """Within it the process is the rank that the request says; its device. A request without a group is one process."""
    group = request.get("group")
    if group is None:
        yield torch.device(request["device"])
        return
    device = torch.device(request["device"], group["rank"]) if request["device"] == "cuda" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=f"file://{group['store']}",
        rank=group["rank"],
        world_size=group["world"],
        timeout=timedelta(seconds=group["limit_s"]),
    )
    yield device
    dist.destroy_process_group()  # not where a rank failed: it would wait for ranks that do not come, and the process ends anyway


@contextlib.contextmanager
def given_back() -> Iterator[None]:
    """Within it a collective of FSDP, and DDP's broadcast of buffers, returns once gloo's thread holds its tensors no more.

    That thread drops its references shortly after the collective is done. Where it is the last to do so, the memory is freed on a thread
    that the CPU profiler does not watch, and would be counted as live for the rest of the step.
    """
    kept = {name: getattr(dist, name) for name in (*CALLS, BROADCAST) if hasattr(dist, name)}
    for name, call in kept.items():
        setattr(dist, name, (_holding if name == BROADCAST else _waiting)(call))
    try:
        yield
    finally:
        for name, call in kept.items():
            setattr(dist, name, call)


def _waiting(call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        tensors = [one for one in (*args, *kwargs.values()) if isinstance(one, torch.Tensor)]
        before = holders(tensors)
        work = call(*args, **kwargs)
        ends = time.monotonic() + WAIT_S
        while work is None and holders(tensors) > before and time.monotonic() < ends:
            time.sleep(0.0002)
        time.sleep(SETTLE_S)
        return work

    return wrapped


class _Held(TorchDispatchMode):
    """Keeps the tensors that collectives are called with."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: list[torch.Tensor] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "c10d":
            self.tensors += [one for part in args if isinstance(part, list) for one in part if isinstance(one, torch.Tensor)]
        return func(*args, **(kwargs or {}))


def _holding(call: Callable[..., Any]) -> Callable[..., Any]:
    """The call, with its own tensors kept until nobody else has them."""

    @functools.wraps(call)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with _Held() as held:
            done = call(*args, **kwargs)
        each: Any = torch.Tensor
        ends = time.monotonic() + WAIT_S
        while any(each._use_count(one) > 1 for one in held.tensors) and time.monotonic() < ends:
            time.sleep(0.0002)
        return done

    return wrapped


def holders(tensors: Sequence[torch.Tensor]) -> int:
    """How many references there are to the tensors and to their storages, from C++ and from Python."""
    each: Any = torch.Tensor
    return sum(each._use_count(one) + torch._C._storage_Use_Count(one.untyped_storage()._cdata) for one in tensors)
