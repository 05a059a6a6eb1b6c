"""A workload as one of several ranks runs it: under torch's DDP, or sharded by FSDP2 (`fully_shard` of every block, and of the rest)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from refta.errors import SettingError
from refta.operands import AUTOMATIC
from refta.stacking import ReftaStack
from refta_profiler import parallel, workload
from refta_profiler.errors import first_line
from refta_profiler.workload import Workload

WITHOUT_GRADIENT = "ddp: trained parameters get no gradient, which torch's DDP refuses at its next forward; freeze them, or use fsdp"
OUTSIDE = "fsdp: the method reads weights outside of their block's forward, where FSDP2 has them sharded; use ddp, or another order"
REFUSALS = {  # what torch says in a forward, and what is meant
    "Expected to have finished reduction": WITHOUT_GRADIENT,
    "mixed torch.Tensor and DTensor": OUTSIDE,  # a weight that is sharded at that moment is used with one that is not
}


def spread(work: Workload) -> Workload:
    """The workload of this rank, changed in place; the process group is there already. SettingError for what cannot be spread."""
    found = parallel.read(work.point.parallel)
    if found is None:
        return work
    if found.kind == "fsdp":
        shard(work, mesh_of(work, found.world))
        return work
    wrapped = _wrapped(work.model, view=found.gradient_as_bucket_view)
    work.forward, work.unseen_bytes = explained(wrapped), lambda: bucket_bytes(wrapped)
    return work


def _wrapped(model: nn.Module, *, view: bool) -> nn.parallel.DistributedDataParallel:
    """DDP's wrapper; SettingError for what it refuses. A RuntimeError is none: its first collectives failed, or memory ran out."""
    check_trained(model)
    try:
        return nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=view)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise SettingError(f"ddp: torch cannot wrap this model: {first_line(error)}") from error


def check_trained(model: nn.Module) -> None:
    """Nothing; SettingError where nothing is trained, so that there is nothing to reduce."""
    if not any(one.requires_grad for one in model.parameters()):
        raise SettingError("ddp: the model trains nothing, so that DDP has no gradient to reduce")


def bucket_bytes(wrapped: nn.parallel.DistributedDataParallel) -> int:
    """Bytes of the reducer's buckets, by its own account (torch's DDPLoggingData)."""
    told: Any = wrapped._get_ddp_logging_data()
    sizes = told.get("rebuilt_bucket_sizes") or told.get("bucket_sizes") or ""
    return sum(int(one) for one in str(sizes).split(",") if one.strip())


def mesh_of(work: Workload, world: int) -> Any:
    """The ranks of the default process group on the batch's kind of device, to which sharding takes the model."""
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(work.device.type, (world,))


def shard(work: Workload, mesh: Any) -> None:
    """The model sharded over the mesh of ranks, with an optimizer of the shards.

    fully_shard takes a block to the mesh's device, keeps this rank's shard and frees the rest (torch's _fsdp_init._move_states_to_device,
    FSDPParam._init_sharded_param), so that no device need hold the whole model. What still refers to a whole parameter, keeps all of it.
    """
    from torch.distributed.fsdp import fully_shard

    check_shardable(work.model)
    foreach = bool(work.optimizer.defaults.get("foreach"))
    own = let_go(work)
    try:
        for block in blocks(work.model):
            fully_shard(block, mesh=mesh)
        fully_shard(work.model, mesh=mesh)
    except (AssertionError, NotImplementedError, ValueError) as error:
        raise SettingError(f"fsdp: fully_shard refuses this model: {first_line(error)}") from error
    take_along(work.model, work.device)
    work.optimizer = workload.make_optimizer(work.model, work.point, foreach=foreach)
    if work.adapted.attached is not None:
        work.adapted.attached.parameters = [one for name, one in work.model.named_parameters() if name in own]
    work.forward = explained(work.model)


def let_go(work: Workload) -> set[str]:
    """The names of the adapter's parameters, to which neither its own list nor the optimizer refers any more."""
    work.optimizer.param_groups.clear()
    if work.adapted.attached is None:
        return set()
    own = {id(one) for one in work.adapted.attached.parameters}
    work.adapted.attached.parameters = []
    return {name for name, one in work.model.named_parameters() if id(one) in own}


def take_along(model: nn.Module, device: torch.device) -> None:
    """Modules' plain tensors go to the device too, of which fully_shard knows nothing; what was one tensor stays one."""
    moved: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # with the first itself, so that its identity is not given to another

    def there(one: torch.Tensor) -> torch.Tensor:
        if id(one) not in moved:
            moved[id(one)] = one, one.to(device)
        return moved[id(one)][1]

    workload.replace_plain(model, there)


def explained(run: Callable[..., Any]) -> Callable[..., Any]:
    """The forward; what torch refuses in it, since the step is spread, is a SettingError that says what is meant."""

    def forward(**batch: Any) -> Any:
        try:
            return run(**batch)
        except RuntimeError as error:
            meant = next((words for said, words in REFUSALS.items() if said in str(error)), None)
            if meant is None:
                raise
            raise SettingError(meant) from error

    return forward


def check_shardable(model: nn.Module) -> None:
    """Nothing; a SettingError for what FSDP2 cannot do, before the model is changed."""
    for stack in (one for one in model.modules() if isinstance(one, ReftaStack)):
        if stack.order_name not in AUTOMATIC and stack.order_for(1).mode == "stack":
            reason = f"order '{stack.order_name}' folds the weights of all blocks at once, of which FSDP2 has one whole at a time"
            raise SettingError(f"fsdp: {reason}; use another order, or ddp")
    within = {id(one) for block in blocks(model) for one in block.parameters()}
    for group in [*(list(block.parameters()) for block in blocks(model)), [one for one in model.parameters() if id(one) not in within]]:
        dtypes = sorted({str(one.dtype).removeprefix("torch.") for one in group if one.requires_grad})
        if len(dtypes) > 1:
            raise SettingError(f"fsdp: what is gathered together is trained in {' and '.join(dtypes)}; make adapter_dtype the model's own")


def blocks(model: nn.Module) -> list[nn.Module]:
    """The model's blocks: what stands in its outermost lists of modules and has parameters (a ViT's layers, GPT-2's h)."""
    found: list[nn.Module] = []
    seen: set[int] = set()
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and id(module) not in seen:
            seen |= {id(one) for one in module.modules()}
            found += [one for one in module if any(True for _ in one.parameters())]
    return found
