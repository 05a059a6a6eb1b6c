"""A point's workload on tensors without numbers: fake ones, which say they are on the CPU, or plain ones of the meta device.

A CPU's step is followed on fake tensors, so that torch takes the CPU's kernels. A GPU's kernels are stood in for anyway (kernels.py), and
meta tensors are followed two to three times faster; autocast needs fake ones, since it does not act on the meta device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from refta_profiler import models, workload
from refta_profiler.plan import Point
from refta_profiler.workload import Workload


def build_on_meta(point: Point, *, foreach: bool, slice_ranks: Mapping[str, Sequence[int]] | None = None) -> Workload:
    """The point's workload with tensors of the meta device throughout."""
    model = models.build_on_meta(point)
    with torch.device("meta"):
        adapted = workload.attach(model, point, slice_ranks)
        model.train()
        optimizer = workload.make_optimizer(model, point, foreach=foreach)
        batch = models.batch(point, "meta")
    return Workload(point, model, adapted, optimizer, batch)


def build(point: Point, mode: FakeTensorMode, *, foreach: bool, slice_ranks: Mapping[str, Sequence[int]] | None = None) -> Workload:
    """The point's workload with fake tensors in place of all parameters, buffers and the batch.

    Built and adapted on the meta device first: peft's injection does not work under the fake mode.
    """
    model = models.build_on_meta(point)
    with torch.device("meta"):
        adapted = workload.attach(model, point, slice_ranks)
    with mode:
        _replace(model)
        model.train()
        optimizer = workload.make_optimizer(model, point, foreach=foreach)
        batch = models.batch(point, "cpu")
    return Workload(point, model, adapted, optimizer, batch)


def _replace(model: nn.Module) -> None:
    """Give every parameter, buffer and plain tensor attribute a fake one; what was one tensor stays one (tied weights)."""
    made: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is not None:
                    table[name] = _fake(tensor, made)  # type: ignore[assignment]
        for name, value in list(vars(module).items()):
            if isinstance(value, torch.Tensor):
                setattr(module, name, _fake(value, made))
            elif isinstance(value, dict) and name not in ("_parameters", "_buffers", "_modules"):  # FourierFT keeps indices in a dict
                value.update({key: _fake(one, made) for key, one in value.items() if isinstance(one, torch.Tensor)})


def _fake(tensor: torch.Tensor, made: dict[int, torch.Tensor]) -> torch.Tensor:
    if id(tensor) not in made:
        empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
        if isinstance(tensor, nn.Parameter):
            empty = nn.Parameter(empty, requires_grad=tensor.requires_grad)
        made[id(tensor)] = empty
        made[-id(tensor)] = tensor  # keeps the identity from being given to another tensor
    return made[id(tensor)]
