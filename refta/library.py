"""Methods of the peft library, attached by that library itself."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from refta.base_weights import is_hollow, turned_weight
from refta.errors import SettingError
from refta.sites import Site, Stack
from refta.stacking import Attached, Run, set_module

ADAPTER = "default"
_REFUSED = (TypeError, ValueError, KeyError, AttributeError, NotImplementedError, torch.linalg.LinAlgError)  # type: ignore[attr-defined]


def attach_library(model: nn.Module, stacks: list[Stack], type_: str, config: dict[str, Any], run: Run) -> Attached:
    """A peft adapter on exactly the sites of the stacks; `type_` is a peft type such as LORA, `config` its configuration.

    Raises SettingError for a type that peft does not have or cannot inject, and for configuration keys and weights that it refuses.
    """
    sites = [site for stack in stacks for site in stack.sites]
    if all(is_hollow(turned_weight(site)) for site in sites):
        config = {key: value for key, value in config.items() if key != "init_lora_weights"}  # PiSSA and its like read the weights' values
    training = {site.path: site.module.training for site in sites}
    frozen = {id(parameter) for parameter in model.parameters()}
    with _undone_by_an_error(model, sites):
        try:
            _inject(model, type_, {"target_modules": list(training), **config})
        except _REFUSED as error:
            raise SettingError(f"peft {type_}: {error}") from error
        own = [parameter for parameter in model.parameters() if id(parameter) not in frozen and parameter.requires_grad]
        if not own:
            raise SettingError(f"peft {type_}: put nothing trainable into the model; it cannot be injected into single layers")
    _to_dtype(own, model, run)
    for path, mode in training.items():
        model.get_submodule(path).train(mode)
    return Attached(own, list(training), _merge)


def load() -> None:
    """What attaching by peft imports and builds once in a process is there: who times it pays for that in no method's place.

    Some of it (transformers' table of checkpoints' names, 0.2 s) comes only with an adapter on a model that has a configuration as
    transformers has, so that LoRA is put into such a one of one layer. torch's generator is left as it was.
    """
    import peft
    from transformers import PretrainedConfig

    with torch.random.fork_rng(devices=[]):
        model = nn.Sequential(nn.Linear(1, 1))
        model.config = PretrainedConfig()  # type: ignore[assignment]
        peft.inject_adapter_in_model(peft.LoraConfig(r=1, target_modules=["0"]), model)


@contextlib.contextmanager
def _undone_by_an_error(model: nn.Module, sites: Sequence[Site]) -> Iterator[None]:
    """An error gives the model its modules back. PiSSA and its like leave a residual in them, to which their adapter is added again."""
    before = [_storage(site) for site in sites]
    had_config = hasattr(model, "peft_config")
    try:
        yield
    except BaseException:
        for site, storage in zip(sites, before, strict=True):
            layer = model.get_submodule(site.path)
            if layer is not site.module and _storage(site) != storage:
                with torch.no_grad():
                    layer.merge()  # type: ignore[operator]
            set_module(model, site.path, site.module)
        if hasattr(model, "peft_config") and not had_config:
            del model.peft_config
        raise


def _storage(site: Site) -> int:
    """Which memory a site's weight is in."""
    return turned_weight(site).untyped_storage()._cdata


def _inject(model: nn.Module, type_: str, settings: dict[str, Any]) -> None:
    """Put the adapter in by peft's own tuner of the type, whose layers keep what state they share (VeRA's A and B)."""
    import peft
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

    known = {str(getattr(one, "value", one)): one for one in PEFT_TYPE_TO_CONFIG_MAPPING}
    layered = sorted(
        name for name, one in known.items() if one in PEFT_TYPE_TO_TUNER_MAPPING and _names_modules(PEFT_TYPE_TO_CONFIG_MAPPING[one])
    )
    if type_ not in layered:
        fault = "cannot be put into single layers" if type_ in known else "is not a type of it"
        raise SettingError(f"type: '{type_}' {fault} (peft {peft.__version__}); there are {', '.join(layered)}")
    config = PEFT_TYPE_TO_CONFIG_MAPPING[known[type_]](**settings)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")  # peft sees for itself which layers are Conv1D
        PEFT_TYPE_TO_TUNER_MAPPING[known[type_]](model, config, adapter_name=ADAPTER)


def _names_modules(config: type) -> bool:
    """Whether a type's configuration says which modules it is put into."""
    return any(one.name == "target_modules" for one in dataclasses.fields(config))


def _to_dtype(own: list[nn.Parameter], model: nn.Module, run: Run) -> None:
    """Give the adapter its dtype: what peft made, float32 for half-precision bases (its own default), float64 for float64."""
    wide = any(parameter.dtype == torch.float64 for parameter in model.parameters())
    dtype = run.adapter_dtype or (torch.float64 if wide else torch.float32)
    for parameter in own:
        parameter.data = parameter.data.to(dtype)


@torch.no_grad()
def _merge(model: nn.Module) -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer

    for path, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()  # type: ignore[operator]
            set_module(model, path, module.get_base_layer())
    del model.peft_config
