"""The base weights of stacks: read as n × d, checked for what no adapter can stand on, and with their components taken out."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

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
    """Nothing; SettingError for weights that are no plain numbers, linears that compute something else, and weights that are offloaded."""
    for stack in stacks:
        for site in stack.sites:
            _check_plain(site)
        hollow = [site for site in stack.sites if is_hollow(_weight(site))]
        offloaded = hollow if len(hollow) < len(stack.sites) else [site for site in hollow if hasattr(site.module, "_hf_hook")]
        if offloaded:
            there = f"targets: {offloaded[0].path} has no values while the model has (weights offloaded by device_map have none)"
            raise SettingError(f"{there}; load the model whole onto one device")


def _check_plain(site: Site) -> None:
    weight, there = _weight(site), f"targets: {site.path} ({type(site.module).__name__})"
    if weight.dtype not in _PLAIN:
        there = f"{there} holds {str(weight.dtype).removeprefix('torch.')} numbers"
        raise SettingError(f"{there}: a quantised weight has no residual; load the model unquantised, or use a method of peft")
    if is_traceable_wrapper_subclass(weight):
        there = f"{there} holds its weight in a {type(weight).__name__}, a tensor that is quantised or in parts"
        raise SettingError(f"{there}; load the model with plain tensors, or use a method of peft")
    if not computes_as_linear(site.module):
        there = f"{there} does not compute x Wᵀ + b: its class has a forward of its own, which the adapter would replace"
        raise SettingError(f"{there}; leave it out, or use a method of peft, which calls it")


def computes_as_linear(module: nn.Module) -> bool:
    """Whether a linear's forward is x Wᵀ + b: nn.Linear's own or Conv1D's, or one that gives the same (FalconLinear's).

    Another class's is asked on a copy with a weight of 3 × 4, so that it costs nothing and models without values answer, too; one that
    cannot compute with that, such as one with a norm of the real width, is another function.
    """
    if is_conv1d(module) or type(module).forward is nn.Linear.forward:
        return True
    from torch._subclasses.fake_tensor import unset_fake_temporarily

    with unset_fake_temporarily(), torch.device("cpu"), torch.no_grad(), torch.compiler.set_stance("force_eager"):
        x, weight, bias = (torch.cos(torch.arange(1.0, 1 + size)) for size in (24, 12, 3))
        given = {"weight": weight.view(3, 4), "bias": None if module.bias is None else bias}
        wanted = F.linear(x.view(2, 3, 4), **given)
        try:
            found = type(module).forward(_small(module, given), x.view(2, 3, 4))
            return found.shape == wanted.shape and torch.allclose(found, wanted, rtol=1e-5, atol=1e-6)
        except Exception:  # whatever a stranger's code raises
            return False


def _small(module: nn.Module, given: dict[str, torch.Tensor | None]) -> nn.Module:
    """A copy that shares all with the module but its weight and bias."""
    twin = copy.copy(module)
    parameters = {name: None if one is None else nn.Parameter(one) for name, one in given.items()}
    vars(twin).update(_parameters={**module._parameters, **parameters}, out_features=3, in_features=4)
    return twin


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
