"""What a training loop of one's own trains, as far as it can be seen: model, method, precision, and the sizes of what it is fed."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from refta_profiler import plan
from refta_profiler.errors import ScenarioError
from refta_profiler.workload import tensors_in

PRECISIONS = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.float64: "fp64"}
OWN = "own code"


@dataclass(frozen=True)
class Subject:
    """The fields of a row that say what was measured."""

    model: str
    label: str
    method: str
    order: str | None
    rank: int | None
    batch: int  # examples of one forward
    seq: int | None  # tokens of an example; None where that cannot be seen
    precision: str
    checkpointing: bool

    @property
    def id(self) -> str:
        """Words a person can read in a file name, then eight hex digits of a hash of all of it, as a scenario's points have."""
        return plan.readable_id(asdict(self), asdict(self))


def base_of(model: nn.Module) -> nn.Module:
    """The model inside what wraps it: torch.compile's `_orig_mod`, a parallel wrapper's `module`, a peft model's base."""
    inner = getattr(model, "_orig_mod", getattr(model, "module", None))
    if isinstance(inner, nn.Module):
        return base_of(inner)
    unwrap = getattr(model, "get_base_model", None)
    return unwrap() if callable(unwrap) else model  # pyright: ignore[reportReturnType]


def model_name(model: nn.Module) -> str:
    """What its config calls it (a hub name or a folder), or its class."""
    base = base_of(model)
    return str(getattr(getattr(base, "config", None), "name_or_path", "") or type(base).__name__)


def method_of(model: nn.Module) -> tuple[str, str | None, int | None]:
    """Method, order and rank of what refta or peft put on the model; 'own code' where neither did."""
    modules = list(model.modules())
    known = next((name for one in modules if (name := getattr(one, "_refta_method", None))), None)
    orders = {str(one.order_name) for one in modules if isinstance(getattr(one, "order_name", None), str)}
    order = orders.pop() if known and len(orders) == 1 else None
    configs = next((found for one in modules if isinstance(found := getattr(one, "peft_config", None), Mapping) and found), {})
    config = next(iter(configs.values()), None)
    kind = getattr(config, "peft_type", None)
    method = known or (str(getattr(kind, "value", kind)).lower() if kind else OWN)
    rank = getattr(config, "r", None)
    return method, order, rank if isinstance(rank, int) else None


def precision_of(model: nn.Module, autocast: torch.dtype | None) -> str:
    """fp32, bf16 and so on by the dtype of most parameters; amp-bf16 where autocast was active within the forward."""
    if autocast is not None:
        return f"amp-{PRECISIONS.get(autocast, str(autocast).removeprefix('torch.'))}"
    counts: dict[torch.dtype, int] = {}
    for one in model.parameters():
        counts[one.dtype] = counts.get(one.dtype, 0) + one.numel()
    most = max(counts, key=lambda dtype: counts[dtype])
    return PRECISIONS.get(most, str(most).removeprefix("torch."))


def autocast_within(model: nn.Module) -> torch.dtype | None:
    """The dtype of an autocast that decorates the model's forward, as accelerate puts it there; None where none does."""
    forward = getattr(base_of(model), "forward", None)
    while forward is not None:
        for cell in getattr(forward, "__closure__", None) or ():
            with contextlib.suppress(ValueError):  # a cell that is empty
                if isinstance(cell.cell_contents, torch.autocast) and cell.cell_contents._enabled:
                    return cell.cell_contents.fast_dtype
        forward = getattr(forward, "__wrapped__", None)
    return None


def checkpointing_of(model: nn.Module) -> bool:
    """Whether a module says that it checkpoints (transformers); calls of torch.utils.checkpoint in a model's own forward are not seen."""
    return any(getattr(one, "gradient_checkpointing", False) is True for one in model.modules())


def sizes(args: tuple, kwargs: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """(examples, tokens of an example) of a forward's inputs, None for what they do not tell.

    Examples are the first tensor's first size; tokens are the second size of input_ids, inputs_embeds, or the first table of integers.
    """
    text = next((kwargs[name] for name in ("input_ids", "inputs_embeds") if isinstance(kwargs.get(name), torch.Tensor)), None)
    found = [one for one in tensors_in((args, kwargs)) if one.dim()]
    if text is not None and text.dim() >= 2:
        return text.shape[0], text.shape[1]
    table = next((one for one in found if one.dim() == 2 and not one.dtype.is_floating_point and one.dtype != torch.bool), None)
    return (found[0].shape[0] if found else None), (None if table is None else table.shape[1])


def need_batch(batch: int | None) -> int:
    """The batch; a ScenarioError where it is not known."""
    if batch is None:
        raise ScenarioError("profile: the model's forward takes no tensor that tells the batch; say it: profile(…, batch=8)")
    return batch
