"""A point's workload on tensors without numbers: fake ones, which say they are on the CPU, or plain ones of the meta device.

A CPU's step is followed on fake tensors, so that torch takes the CPU's kernels. A GPU's kernels are stood in for anyway (kernels.py), and
meta tensors are followed two to three times faster; autocast needs fake ones, since it does not act on the meta device.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from refta.adapter import Adapted
from refta.shapes import StackShape
from refta_profiler import models, own_code, workload
from refta_profiler.plan import Point
from refta_profiler.workload import Workload


def build_on_meta(point: Point, *, foreach: bool, slice_ranks: Mapping[str, Sequence[int]] | None = None) -> Workload:
    """The point's workload with tensors of the meta device throughout."""
    model = models.build_on_meta(point)
    before = moved(model)
    with torch.device("meta"):
        adapted = workload.attach(model, point, slice_ranks)
        model.train()
        optimizer = workload.make_optimizer(model, point, foreach=foreach)
        batch = models.batch(point, "meta")
    return Workload(point, model, adapted, optimizer, batch, before=before)


def moved(model: nn.Module) -> list[torch.UntypedStorage]:
    """The storages of the model in the order in which `Module.to` takes them to a device: children before what is a module's own."""
    found: dict[int, torch.UntypedStorage] = {}

    def move(module: nn.Module) -> None:
        for child in module.children():
            move(child)
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None:
                storage = tensor.untyped_storage()
                found.setdefault(id(storage), storage)

    move(model)
    return list(found.values())


def shapes(point: Point) -> list[StackShape]:
    """The stacks that the point's method adapts, from its model built without numbers, where they are not described as data."""
    model = models.build_on_meta(point)
    with torch.device("meta"):
        return workload.attach(model, point).shapes()


def build(point: Point, mode: FakeTensorMode, *, foreach: bool, slice_ranks: Mapping[str, Sequence[int]] | None = None) -> Workload:
    """The point's workload with fake tensors in place of all parameters, buffers and the batch.

    Built and adapted on the meta device first: peft's injection does not work under the fake mode.
    """
    model, adapted, before = _own_adapted(point, mode) or _adapted(point, mode, slice_ranks)
    with mode:
        model.train()
        optimizer = workload.make_optimizer(model, point, foreach=foreach)
        batch = models.batch(point, "cpu")
    return Workload(point, model, adapted, optimizer, batch, before=before)


Built = tuple[nn.Module, Adapted, list[torch.UntypedStorage]]


def _adapted(point: Point, mode: FakeTensorMode, slice_ranks: Mapping[str, Sequence[int]] | None) -> Built:
    """The model with the point's method put on it on the meta device, and only then on fake tensors."""
    model = models.build_on_meta(point)
    before = moved(model)
    with torch.device("meta"):
        adapted = workload.attach(model, point, slice_ranks)
    with mode:
        made = _replace(model)
        stand_in = {id(old.untyped_storage()): new.untyped_storage() for old, new in made.values()}
    return model, adapted, [stand_in.get(id(one), one) for one in before]


def _own_adapted(point: Point, mode: FakeTensorMode) -> Built | None:
    """The same for the user's own code, which runs on the fake tensors themselves, since it may hold one where `_replace` does not look.

    None for other methods, and where the code fails so: then it is tried as the others are, and what it raises there is said.
    """
    if point.method != own_code.NAME:
        return None
    model = models.build_on_meta(point)
    with mode:
        _replace(model)
        try:
            return model, workload.attach(model, point), []  # what it takes the place of, it may keep where nobody looks
        except Exception:
            return None


Made = dict[int, tuple[torch.Tensor, torch.Tensor]]  # by a tensor's identity: itself, so that it is given to no other, and its fake one


def _replace(model: nn.Module) -> Made:
    """Give every parameter, buffer and plain tensor attribute a fake one; what was one tensor stays one (tied weights)."""
    made: Made = {}
    for module in model.modules():
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is not None:
                    table[name] = _fake(tensor, made)  # type: ignore[assignment]
    workload.replace_plain(model, lambda one: _fake(one, made))
    return made


def _fake(tensor: torch.Tensor, made: Made) -> torch.Tensor:
    if id(tensor) not in made:
        empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
        if isinstance(tensor, nn.Parameter):
            empty = nn.Parameter(empty, requires_grad=tensor.requires_grad)
        made[id(tensor)] = tensor, empty
    return made[id(tensor)][1]


@contextlib.contextmanager
def nothing_remembered(model: nn.Module) -> Iterator[None]:
    """Within it the model's code remembers no tensors of before, and afterwards none of within.

    transformers keeps what depends on sizes alone between calls (BEiT's relative positions, DINOv3's coordinates, by functools.lru_cache):
    tensors of another dry run, or of a real step, which must not be mixed.
    """
    caches = [cache for name in {type(one).__module__ for one in model.modules()} for cache in _caches(name)]
    for cache in caches:
        cache.cache_clear()
    try:
        yield
    finally:
        for cache in caches:
            cache.cache_clear()


def _caches(name: str) -> Iterator[Any]:
    """The lru_caches around functions and methods of a module of transformers, which its own decorator hides in a closure."""
    if not name.startswith("transformers.models."):
        return
    for value in list(vars(sys.modules[name]).values()):
        for one in (value, *vars(value).values()) if isinstance(value, type) else (value,):
            function = getattr(one, "__func__", one)
            for cell in getattr(function, "__closure__", None) or ():
                with contextlib.suppress(ValueError):  # an empty cell
                    if hasattr(cell.cell_contents, "cache_clear"):
                        yield cell.cell_contents
