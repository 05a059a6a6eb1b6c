"""The base weights of stacks: read as n × d, checked for what no adapter can stand on, and with their components taken out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from refta.errors import SettingError
from refta.sites import Site, Stack, is_conv1d

_PLAIN = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def turned_weight(site: Site) -> torch.Tensor:
    """The site's weight as n × d."""
    weight = _weight(site)
    return weight.T if is_conv1d(site.module) else weight


def is_hollow(weight: torch.Tensor) -> bool:
    """Whether a tensor has a shape but no values: on the meta device, or fake."""
    from torch._subclasses.fake_tensor import FakeTensor

    return weight.is_meta or isinstance(weight, FakeTensor) or isinstance(getattr(weight, "data", None), FakeTensor)


def check_values(stacks: Iterable[Stack]) -> None:
    """Nothing; SettingError for weights that are quantised, and for stacks of which some layers' weights are offloaded."""
    for stack in stacks:
        for site in stack.sites:
            dtype = _weight(site).dtype
            if dtype not in _PLAIN:
                there = f"targets: {site.path} ({type(site.module).__name__}) holds {str(dtype).removeprefix('torch.')} numbers"
                raise SettingError(f"{there}: a quantised weight has no residual; load the model unquantised, or use a method of peft")
        hollow = [site for site in stack.sites if is_hollow(_weight(site))]
        offloaded = hollow if len(hollow) < len(stack.sites) else [site for site in hollow if hasattr(site.module, "_hf_hook")]
        if offloaded:
            there = f"targets: {offloaded[0].path} has no values while the model has (weights offloaded by device_map have none)"
            raise SettingError(f"{there}; load the model whole onto one device")


def check_devices(stacks: Iterable[Stack]) -> None:
    """Nothing; SettingError for stacks whose weights are not all on one device, where the factors that they share are."""
    for stack in stacks:
        devices = list(dict.fromkeys(str(_weight(site).device) for site in stack.sites))
        if len(devices) > 1:
            there = f"targets: the {len(stack.sites)} layers of {stack.name} are on {' and '.join(devices)}, and share their factors"
            raise SettingError(f"{there}; load the model onto one device")


def _weight(site: Site) -> torch.Tensor:
    weight = site.module.weight
    assert isinstance(weight, torch.Tensor)
    return weight


def widest(*tensors: torch.Tensor) -> torch.dtype:
    """The dtype in which weights and components are summed: the widest of theirs, at least float32, so that only the result is rounded."""
    dtype = torch.float32
    for one in tensors:
        dtype = torch.promote_types(dtype, one.dtype)
    return dtype


def residuals(tensors: Sequence[torch.Tensor], left: torch.Tensor, coefficients: torch.Tensor, right: torch.Tensor) -> list[torch.Tensor]:
    """Each layer's weight (or bias) without its components: T_k − (A ∘ u_k) B, in its own dtype; u (K, R), B (R, d) or β (R)."""
    wide = widest(tensors[0], left)
    left, coefficients, right = left.to(wide), coefficients.to(wide), right.to(wide)
    return [(one.detach().to(wide) - (left * u) @ right).to(one.dtype).contiguous() for one, u in zip(tensors, coefficients, strict=True)]
