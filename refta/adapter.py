"""`adapt`, `merge`, `save`, `load`: a method on a model, in place."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from refta import registry
from refta.errors import SettingError
from refta.heads import has_language_head, head_parameters
from refta.network import Network, is_fold
from refta.operands import AUTOMATIC, HAND_WRITTEN
from refta.shapes import StackShape
from refta.sites import Stack, find_stacks, head_size
from refta.stacking import CONTAINER, Attached, ReftaStack, Run

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}
_SITELESS = ("full", "head")


@dataclass
class Adapted:
    """A model with a method on it: `sites` are the adapted modules' names, `trainable_parameters` counts the adapter alone.

    `head` names the parameters beside the adapter that were given to be trained: what `save` keeps, with all that is thawed then.
    """

    model: nn.Module
    method: str
    order: str | None
    settings: Any
    targets: list[str]
    sites: list[str]
    trainable_parameters: int
    stacks: list[Stack]
    notes: list[str] = field(default_factory=list)
    attached: Attached | None = None
    head: list[str] = field(default_factory=list)

    def shapes(self) -> list[StackShape]:
        """The shapes of the stacks, as the method's `network` takes them."""
        ranks = self.slice_ranks
        size = head_size(self.model)
        return [replace(stack.shape(ranks.get(stack.name)), stacks=len(self.stacks), head_size=size) for stack in self.stacks]

    def use_order(self, order: str) -> None:
        """Run ReFTA in another order from the next forward on: its parameters, and an optimizer's state of them, are the same in all."""
        stacks = [one for one in self.model.modules() if isinstance(one, ReftaStack)] if self.method == "refta" else []
        if not stacks:
            raise SettingError(f"use_order: '{self.method}' does not change its order once attached; adapt a fresh model")
        _check_order(self.method, order)
        for stack in stacks:
            _check_dropout(stack.network, self.settings, order)
        for stack in stacks:
            stack.use_order(order, self.model)
        self.order = order

    def penalty(self) -> torch.Tensor | None:
        """What the method asks to be added to the loss: ReFTA's for a trained Φ, summed over the stacks; None where nothing is."""
        stacks = [one for one in self.model.modules() if isinstance(one, ReftaStack)] if self.method == "refta" else []
        terms = [one.penalty() for one in stacks if one.penalty_weight]
        return torch.stack(terms).sum() if terms else None

    @property
    def slice_ranks(self) -> dict[str, tuple[int, ...]]:
        """R_j of every stack of a method that has slices, by the stack's name."""
        if self.method != "refta" or self.attached is None:
            return {}
        return {name: stack.slice_ranks for name, stack in getattr(self.model, CONTAINER).items()}


def adapt(
    model: nn.Module,
    method: str,
    *,
    targets: Sequence[str] = ("query", "value"),
    order: str | None = None,
    train_head: bool | None = None,
    adapter_dtype: str | torch.dtype | None = None,
    slice_ranks: Mapping[str, Sequence[int]] | None = None,
    progress: Callable[[str], None] | None = None,
    stored: dict[str, torch.Tensor] | None = None,
    cache: str | Path | None = None,
    **settings: Any,
) -> Adapted:
    """The model, changed in place: everything frozen but the method's adapter and the head of a task.

    targets: roles (query, key, value, qkv, output, gate, up, down) or ends of module paths; a method with sites of its own ignores
    them and says so in a note. order: one of the method's orders. train_head: by default a task's head is trained, which is what
    stands beside the base model, and a language model's is not. slice_ranks: per stack, for models without values. stored: a file's
    tensors instead of a decomposition (`load` gives them). cache: a folder where ReFTA's factors are kept by the hash of the weights,
    so that the same weights are decomposed once. progress: hears a line for every stack and slice. Raises SettingError for what does
    not fit, before the model is touched.
    """
    module = registry.method(method)
    chosen = registry.settings(method, settings)
    _check_order(method, order)
    refuse_adapted(model)
    stacks = [] if method in _SITELESS else _stacks(module, model, targets)
    for stack in stacks:
        _check_dropout(module.network(chosen, stack.shape()), chosen, order or next(iter(module.ORDERS), None))
    head = head_parameters(model, train_head)
    run = Run(order, _dtype(adapter_dtype), slice_ranks or {}, progress, stored, None if cache is None else Path(cache))
    with _frozen(model):
        attached = _attach(module, model, stacks, chosen, run)
    _take_modules(model, stacks)
    for parameter in [*head, *attached.parameters]:
        parameter.requires_grad_(True)
    model._refta_method = method  # type: ignore[assignment]
    own = {id(parameter): parameter.numel() for parameter in attached.parameters}
    run_order = order or (module.ORDERS[0] if module.ORDERS else None)
    named = _targets(module, targets, stacks)
    notes = [*attached.notes, *_notes_of_head(model, method, head, train_head)]
    names = _names(model, head)
    return Adapted(model, method, run_order, chosen, named, attached.sites, sum(own.values()), stacks, notes, attached, names)


def _take_modules(model: nn.Module, stacks: list[Stack]) -> None:
    """Give the sites the modules that stand at their paths now: those that were replaced must not be held, or their weights would stay."""
    for stack in stacks:
        stack.sites = [replace(site, module=model.get_submodule(site.path)) for site in stack.sites]


def _notes_of_head(model: nn.Module, method: str, head: list[nn.Parameter], train_head: bool | None) -> list[str]:
    if head or train_head is False or method == "full" or has_language_head(model):
        return []
    return [f"{type(model).__name__} has no head that is known by name: none is trained"]


def _names(model: nn.Module, parameters: list[nn.Parameter]) -> list[str]:
    wanted = {id(parameter) for parameter in parameters}
    return [name for name, parameter in model.named_parameters() if id(parameter) in wanted]


def refuse_adapted(model: nn.Module) -> None:
    """Nothing; raises SettingError for a model that carries a method."""
    if getattr(model, "_refta_method", None):
        raise SettingError(f"the model already carries '{model._refta_method}'; merge it, or adapt a fresh model")


def _stacks(module: ModuleType, model: nn.Module, targets: Sequence[str]) -> list[Stack]:
    """The stacks of the targets, or of the first of the method's own sites that the model has."""
    own = getattr(module, "TARGETS", None)
    if own is None:
        return find_stacks(model, list(targets) if not isinstance(targets, str) else targets)
    for choice in own[1:]:
        with contextlib.suppress(SettingError):
            return find_stacks(model, own[0])
        own = (choice,)
    return find_stacks(model, own[0])


def _targets(module: ModuleType, targets: Sequence[str], stacks: list[Stack]) -> list[str]:
    return list(dict.fromkeys(stack.role for stack in stacks)) if hasattr(module, "TARGETS") else list(targets)


def _attach(module: ModuleType, model: nn.Module, stacks: list[Stack], chosen: Any, run: Run) -> Attached:
    """The method's own attach, or the generic one for a method that is its networks and nothing more."""
    if hasattr(module, "attach"):
        return module.attach(model, stacks, chosen, run)
    from refta.tensor_adapter import attach_tensor

    return attach_tensor(model, stacks, chosen, run, module)


@contextlib.contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Every parameter frozen, for good if all goes well; an error gives them back as they were."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.requires_grad_(False)
    try:
        yield
    except BaseException:
        for parameter, trained in before:
            parameter.requires_grad_(trained)
        raise


def _dtype(given: str | torch.dtype | None) -> torch.dtype | None:
    if given is None or isinstance(given, torch.dtype):
        return given
    if given not in DTYPES:
        raise SettingError(f"adapter_dtype: unknown dtype {given!r}; there are {', '.join(DTYPES)}")
    return DTYPES[given]


def _check_dropout(network: Network | None, settings: Any, order: str | None) -> None:
    if network is None or order is None or not getattr(settings, "dropout", 0.0):
        return
    if order in AUTOMATIC or is_fold(network.order(order)):
        there = f"dropout: {settings.dropout} with order '{order}'"
        raise SettingError(f"{there}: it acts on the features, which a folded weight does not have; use `features`")
    if network.order(order).mode in HAND_WRITTEN:
        there = f"dropout: {settings.dropout} with order '{order}'"
        raise SettingError(f"{there}: base and adapter read one x there, which is all that is kept; use `features`")


def _check_order(method: str, order: str | None) -> None:
    orders = registry.orders(method)
    if order is not None and order not in orders:
        there = f"there are {', '.join(orders)}" if orders else f"'{method}' has none"
        raise SettingError(f"order: unknown order '{order}' of '{method}'; {there}")


def merge(adapted: Adapted) -> nn.Module:
    """The model with the adapter folded into its weights: plain layers again, the output unchanged."""
    if adapted.attached is None:
        raise SettingError(f"'{adapted.method}' has nothing to merge")
    adapted.attached.merge(adapted.model)
    adapted.attached = None
    _take_modules(adapted.model, adapted.stacks)
    adapted.model._refta_method = None  # type: ignore[assignment]
    return adapted.model


def save(adapted: Adapted, path: str | Path) -> None:
    """Write the adapter to a safetensors file (see refta/files.py)."""
    from refta import files

    files.save(adapted, Path(path))


def load(model: nn.Module, path: str | Path, *, order: str | None = None) -> Adapted:
    """The model with the adapter of a file on it; raises SettingError where the file is for another model."""
    from refta import files

    return files.load(model, Path(path), order=order)
