"""What a loop must be like to be measured, looked at before there is a hook on it: one device, a torch optimizer, and which rank."""

from __future__ import annotations

import os
import sys
from typing import Any

import torch
from torch import nn

from refta_profiler.errors import ScenarioError

KINDS = ("cpu", "cuda")  # of devices whose clock and memory the instruments know


def check_optimizer(optimizer: Any, place: str) -> None:
    """Nothing; a ScenarioError where no hook can be put on its steps."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        kind = f"{type(optimizer).__module__}.{type(optimizer).__qualname__}"
        raise ScenarioError(f"{place}: the optimizer is a {kind}; it must be a torch.optim.Optimizer, or hold one as its `optimizer`")


def device_of(model: nn.Module, place: str) -> torch.device:
    """The one device that all of the model's parameters are on; a ScenarioError where there are several, none, or one of another kind."""
    _check_data_parallel(model, place)
    devices = sorted({one.device for one in model.parameters()}, key=str)
    if not devices:
        raise ScenarioError(f"{place}: the model has no parameters, so that it is on no device; give the model that the optimizer trains")
    found = ", ".join(map(str, devices))
    if any(one.type not in KINDS for one in devices):
        raise ScenarioError(f"{place}: the model's parameters are on {found}; a loop is measured on {' or '.join(KINDS)} alone")
    if len(devices) > 1:
        one = "put the whole model on one (CUDA_VISIBLE_DEVICES=0, no device_map), or spread the work over ranks with torchrun"
        raise ScenarioError(f"{place}: the model's parameters are on {found}; a loop is measured on one device: {one}")
    return devices[0]


def _check_data_parallel(model: nn.Module, place: str) -> None:
    """Nothing; a ScenarioError where one process runs the model on several GPUs, each in a thread of its own."""
    several = next((one for one in model.modules() if isinstance(one, nn.DataParallel) and len(one.device_ids) > 1), None)
    if several is not None:
        refuse_data_parallel(len(several.device_ids), place)


def refuse_data_parallel(count: int, place: str) -> None:
    """A ScenarioError that says what to do instead."""
    what = f"{place}: DataParallel runs the model on {count} GPUs in one process, which cannot be measured"
    raise ScenarioError(f"{what}; start it with torchrun (DistributedDataParallel), or on one GPU: CUDA_VISIBLE_DEVICES=0")


def ranks() -> tuple[int, int]:
    """(this process's rank, of how many): torch.distributed's where it is initialised, else what torchrun says, else (0, 1)."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    said = [os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE")]
    rank, world = (int(text) if text.isdigit() else None for text in said)
    return rank or 0, max(world or 1, (rank or 0) + 1)


def compiles() -> bool:
    """Whether torch.compile was asked for in this process: a hook on every module would then be traced, and stop what it compiles."""
    frames = sys.modules.get("torch._dynamo.eval_frame")
    return any(backend is not None for backend in getattr(frames, "cached_backends", {}).values())  # None: of torch.compiler.disable
