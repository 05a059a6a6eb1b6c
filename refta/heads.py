"""Which parameters of a model are its head: what a task draws anew, and what is trained beside an adapter."""

from __future__ import annotations

import re

from torch import nn

from refta.errors import SettingError

_NAMES = re.compile(r"^(classifier|score|lm_head|head|qa_outputs|classification_head|cls_classifier|distillation_classifier)(\.|$)")
_WRAPPERS = ({"_orig_mod"}, {"module"})  # the only child of torch.compile's wrapper, and of DataParallel's and DDP's


def head_parameters(model: nn.Module, train_head: bool | None) -> list[nn.Parameter]:
    """The head's parameters that are to be trained: a task's head by default, none of a language model's.

    A head is what transformers' model has beside its base model, in a wrapper too; and what is named like one.
    """
    model = _unwrapped(model)
    if train_head is False or (train_head is None and has_language_head(model)):
        return []
    beside = _beside_the_base(model)
    head = [parameter for name, parameter in model.named_parameters() if id(parameter) in beside or _NAMES.match(name)]
    if train_head and not head:
        raise SettingError(f"train_head: {type(model).__name__} has no head that is known by name")
    return head


def has_language_head(model: nn.Module) -> bool:
    """Whether the model's head predicts words; it is as pretrained as the rest, and often tied to the embeddings."""
    model = _unwrapped(model)
    output_embeddings = getattr(model, "get_output_embeddings", None)
    return "lm_head" in dict(model.named_children()) or (output_embeddings is not None and output_embeddings() is not None)


def _unwrapped(model: nn.Module) -> nn.Module:
    children = dict(model.named_children())
    return _unwrapped(next(iter(children.values()))) if set(children) in _WRAPPERS else model


def _beside_the_base(model: nn.Module) -> set[int]:
    """The identities of the parameters that the outermost model with a base model has beside it; none where it is a language model."""
    for module in model.modules():
        prefix = getattr(module, "base_model_prefix", "")
        base = getattr(module, prefix, None) if prefix else None
        if isinstance(base, nn.Module) and base is not module:
            inside = {id(one) for one in base.parameters()}
            return set() if has_language_head(module) else {id(one) for one in module.parameters()} - inside
    return set()
