"""Methods of the peft library, attached by that library itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from refta.errors import SettingError
from refta.sites import Stack
from refta.stacking import Attached, Run, set_module

ADAPTER = "default"


def attach_library(model: nn.Module, stacks: list[Stack], type_: str, config: dict[str, Any], run: Run) -> Attached:
    """A peft adapter on exactly the sites of the stacks; `type_` is a peft type such as LORA, `config` its configuration.

    Raises SettingError for a type that peft does not have or cannot inject, and for configuration keys that it refuses.
    """
    import peft  # noqa: PLC0415  (seconds of import, only for its methods)
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING  # noqa: PLC0415

    known = {str(getattr(one, "value", one)): cls for one, cls in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    if type_ not in known:
        raise SettingError(f"type: peft {peft.__version__} has no type '{type_}'; it has {', '.join(sorted(known))}")
    sites = [site.path for stack in stacks for site in stack.sites]
    frozen = {id(parameter) for parameter in model.parameters()}
    try:
        made = known[type_](target_modules=sites, **config)
        automatic = run.adapter_dtype is None or run.adapter_dtype == torch.float32
        _inject(made, model, type_, automatic=automatic)
    except (TypeError, ValueError, KeyError, AttributeError, NotImplementedError) as error:
        raise SettingError(f"peft {type_}: {error}") from error
    own = [parameter for parameter in model.parameters() if id(parameter) not in frozen and parameter.requires_grad]
    if not own:
        raise SettingError(f"peft {type_}: put nothing trainable into the model; it cannot be injected into single layers")
    _to_dtype(own, model, run)
    return Attached(own, sites, _merge)


def _inject(config, model: nn.Module, type_: str, *, automatic: bool) -> None:
    """Put the adapter in; a type that keeps state on its tuner (VeRA's shared A and B) by that tuner, which its layers share it with."""
    import peft  # noqa: PLC0415
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING  # noqa: PLC0415

    if type_ == "VERA":
        PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type](model, {ADAPTER: config}, ADAPTER)
        return
    peft.inject_adapter_in_model(config, model, adapter_name=ADAPTER, **({} if automatic else {"low_cpu_mem_usage": False}))


def _to_dtype(own: list[nn.Parameter], model: nn.Module, run: Run) -> None:
    """Give the adapter its dtype: what peft made, float32 for half-precision bases (its own default), float64 for float64."""
    wide = any(parameter.dtype == torch.float64 for parameter in model.parameters())
    dtype = run.adapter_dtype or (torch.float64 if wide else torch.float32)
    for parameter in own:
        parameter.data = parameter.data.to(dtype)


@torch.no_grad()
def _merge(model: nn.Module) -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer  # noqa: PLC0415

    for path, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()  # type: ignore[operator]
            set_module(model, path, module.get_base_layer())
