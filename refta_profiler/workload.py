"""A point as something that can be run: the model with its method on it, a batch, an optimizer, and the training step.

The dry run and the measurement build it here and run the same `training_step`; that is what makes the prediction exact.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from refta.adapter import Adapted, adapt
from refta_profiler import models, optimizers, own_adapter, own_code
from refta_profiler.plan import Point

if TYPE_CHECKING:
    from torch import nn

PHASES = ("forward", "backward", "optimizer")


@dataclass
class Workload:
    """What a training step needs; of a step that is spread over ranks, one rank's.

    forward: what the step calls in the model's place (DDP's wrapper). buckets: what a rank's gradients are copied to, where that is known
    as tensors; unseen_bytes tells their size where only C++ holds them. before: the storages of the model without the method, in the order
    in which a device takes them; for predictions. outputs: of the last forward, where the loop keeps them until the next has returned;
    beside_outputs: bytes that their graph holds beside them (checkpointing's first input), as measured.
    """

    point: Point
    model: nn.Module
    adapted: Adapted
    optimizer: torch.optim.Optimizer
    batch: dict[str, torch.Tensor]
    forward: Callable[..., Any] | None = None
    buckets: list[torch.Tensor] = field(default_factory=list)
    unseen_bytes: Callable[[], int] = lambda: 0
    before: list[torch.UntypedStorage] = field(default_factory=list)
    outputs: Any = None
    beside_outputs: int = 0

    @property
    def device(self) -> torch.device:
        """Where the step runs: the batch is there from the beginning."""
        return next(iter(self.batch.values())).device

    def static_tensors(self) -> dict[str, list[torch.Tensor]]:
        """What is live when a step starts, by category: weights, adapter, optimizer, batch, gradients (DDP's buckets), kept outputs.

        A storage counts once, where first named."""
        trained: list[torch.Tensor] = [local(one) for one in self.model.parameters() if one.requires_grad]
        frozen = [local(one) for one in self.model.parameters() if not one.requires_grad]
        state = [local(one) for entry in self.optimizer.state.values() for one in entry.values() if isinstance(one, torch.Tensor)]
        loose = [one for module in self.model.modules() for one in vars(module).values() if isinstance(one, torch.Tensor)]
        return {
            "adapter": trained,
            "weights": [*frozen, *self.model.buffers(), *loose],
            "optimizer": state,
            "batch": list(self.batch.values()),
            "gradients": self.buckets,
            "activations": list(_kept(self.outputs)),
        }


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Every tensor in nested mappings, lists and tuples."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from tensors_in(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from tensors_in(one)


def _kept(outputs: Any) -> Iterator[torch.Tensor]:
    """The tensors of a model's outputs, with the keys and values of their cache."""
    yield from tensors_in(outputs)
    for cache in outputs.values() if isinstance(outputs, Mapping) else ():
        for layer in getattr(cache, "layers", ()):
            yield from tensors_in((getattr(layer, "keys", None), getattr(layer, "values", None)))


def replace_plain(model: nn.Module, new: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Give a model another tensor for each that modules hold as a plain attribute, or in a dict of theirs as FourierFT its indices."""
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, torch.Tensor):
                setattr(module, name, new(value))
            elif isinstance(value, dict) and name not in ("_parameters", "_buffers", "_modules"):
                value.update({key: new(one) for key, one in value.items() if isinstance(one, torch.Tensor)})


def local(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, of a sharded one (a DTensor) this rank's shard; its storage has FSDP's padding too."""
    return getattr(tensor, "_local_tensor", tensor)


def attach(model: nn.Module, point: Point, slice_ranks: Mapping[str, Sequence[int]] | None = None) -> Adapted:
    """The point's method on its model, and gradient checkpointing where the point asks for it."""
    adapted = own_adapter.attach(model, point) if point.method == own_code.NAME else _adapt(model, point, slice_ranks)
    if point.checkpointing:
        _checkpoint(model)
    return adapted


def _adapt(model: nn.Module, point: Point, slice_ranks: Mapping[str, Sequence[int]] | None) -> Adapted:
    return adapt(
        model,
        point.method,
        targets=point.targets,
        order=point.order,
        train_head=point.task.get("train_head"),
        adapter_dtype=point.adapter_dtype,
        slice_ranks=slice_ranks,
        **point.settings,
    )


def _checkpoint(model: nn.Module) -> None:
    """Gradient checkpointing of every block, by the name that this version of transformers has for it (5.24 deprecates the older)."""
    enable: Any = getattr(model, "activation_checkpointing_enable", None)
    if enable is not None:
        enable({"use_reentrant": False})
        return
    older: Any = model.gradient_checkpointing_enable
    older({"use_reentrant": False})


def make_optimizer(model: nn.Module, point: Point, *, foreach: bool) -> torch.optim.Optimizer:
    """The point's optimizer over what is trained; `foreach` as torch chooses for a CUDA device and not for the CPU."""
    trained = [one for one in model.parameters() if one.requires_grad]
    if point.optimizer == "sgd":
        return torch.optim.SGD(trained, lr=optimizers.LEARNING_RATES["sgd"], foreach=foreach)
    return torch.optim.AdamW(trained, lr=optimizers.LEARNING_RATES["adamw"], foreach=foreach)


def build(point: Point, device: torch.device) -> Workload:
    """The point on a real device: weights, adapter, optimizer and batch."""
    model = models.build(point, device)
    adapted = attach(model, point)
    model.train()
    return Workload(point, model, adapted, make_optimizer(model, point, foreach=device.type == "cuda"), models.batch(point, device))


def training_step(work: Workload, mark: Callable[[str], Any] = lambda phase: None) -> None:
    """One training step: gradients dropped, forward and loss, backward (as often as gradients accumulate), clipping, optimizer.

    `mark` is called with a phase's name when it ends.
    """
    work.optimizer.zero_grad(set_to_none=True)
    keeps = work.point.loop["keep_outputs"]
    for _ in range(work.point.accumulate):
        with precision(work):
            outputs = (work.forward or work.model)(**work.batch)
        work.outputs = outputs if keeps == "next" else None  # those of the forward before it go here
        loss = outputs.loss
        penalty = work.adapted.penalty()
        if penalty is not None:
            loss = loss + penalty
        if not keeps:
            del outputs
        mark("forward")
        loss.backward()
        outputs = loss = None
        mark("backward")
    if work.point.clip is not None:
        torch.nn.utils.clip_grad_norm_([one for one in work.model.parameters() if one.requires_grad], work.point.clip)
    work.optimizer.step()
    mark("optimizer")


def precision(work: Workload) -> contextlib.AbstractContextManager[Any]:
    """What a forward pass of the point runs in: autocast where it mixes precisions, otherwise nothing."""
    if work.point.precision != "amp-bf16":
        return contextlib.nullcontext()
    return torch.autocast(work.device.type, dtype=torch.bfloat16)
