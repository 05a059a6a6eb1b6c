"""ReFTA adapters as safetensors files: factors, Φ, and the initial factors that define the residual.

The residual itself is not stored: it is W − Σ Φ A₀B₀, so a file fits wherever the same base weights are. A fingerprint of the base
weights (a few projections per layer) refuses other ones.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from refta import registry
from refta.adapter import Adapted, adapt
from refta.errors import SettingError
from refta.stacking import CONTAINER, ReftaStack

FORMAT = "refta-adapter-1"
_TOLERANCE = 2e-2  # of a layer's norm: half-precision copies of the same weights differ by about 4e-3


def save(adapted: Adapted, path: Path) -> None:
    """Write the adapter, and the head where it was trained."""
    if adapted.method != "refta" or adapted.attached is None:
        raise SettingError(f"save: '{adapted.method}' is not ReFTA (or merged already); save it with the peft library, or the whole model")
    tensors: dict[str, torch.Tensor] = {}
    described = {}
    for name, stack in getattr(adapted.model, CONTAINER).items():
        tensors |= {f"{name}.{key}": value.detach().cpu().contiguous() for key, value in stack.state_dict().items()}
        tensors[f"{name}.residual_coefficients"] = stack.residual_coefficients.cpu().contiguous()
        tensors[f"{name}.slice_ranks"] = torch.tensor(stack.slice_ranks)
        tensors |= {f"{name}.initial.{key}": value for key, value in stack.initial.items()}
        described[name] = {"sites": stack.paths, "slice_ranks": list(stack.slice_ranks), "fingerprint": [_fingerprint(one) for one in _base_weights(stack)]}
    own = {id(parameter) for parameter in adapted.attached.parameters}
    for key, parameter in adapted.model.named_parameters():
        if parameter.requires_grad and id(parameter) not in own:
            tensors[f"head.{key}"] = parameter.detach().cpu().contiguous()
    settings = {"rank": adapted.settings.rank, "convention": adapted.settings.convention, "dropout": adapted.settings.dropout}
    header = {"format": FORMAT, "targets": adapted.targets, "settings": settings, "stacks": described}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"refta": json.dumps(header)})


def load(model: torch.nn.Module, path: Path, *, order: str | None = None) -> Adapted:
    """The model with the file's adapter (and head) on it; raises SettingError where the file is not for this model."""
    header, tensors = _read(path)
    _check_fits(model, path, header)
    registry.settings("refta", header["settings"])
    dtype = tensors[f"{next(iter(header['stacks']))}.A"].dtype
    with_head = any(key.startswith("head.") for key in tensors)
    adapted = adapt(
        model,
        "refta",
        targets=header["targets"],
        order=order,
        adapter_dtype=dtype,
        train_head=with_head,
        stored=tensors,
        **header["settings"],
    )
    _fill_head(model, path, tensors)
    return adapted


def _read(path: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("refta", "null"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a mapping)
    except (OSError, SafetensorError, ValueError) as error:
        raise SettingError(f"{path}: cannot be read as a safetensors file: {error}") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise SettingError(f"{path}: not a ReFTA adapter (no '{FORMAT}' in its header)")
    return header, tensors


def _check_fits(model: torch.nn.Module, path: Path, header: dict) -> None:
    modules = dict(model.named_modules())
    for name, stack in header["stacks"].items():
        for site, wanted in zip(stack["sites"], stack["fingerprint"], strict=True):
            if site not in modules or not hasattr(modules[site], "weight"):
                raise SettingError(f"{path}: is for another model: this {type(model).__name__} has no linear '{site}'")
            weight = _turned(modules[site])
            if list(weight.shape) != wanted["shape"]:
                raise SettingError(f"{path}: is for another model: '{site}' is {list(weight.shape)} here, {wanted['shape']} in the file")
            found = _fingerprint(weight)
            if any(abs(a - b) > _TOLERANCE * wanted["norm"] for a, b in zip(found["projections"], wanted["projections"], strict=True)):
                raise SettingError(f"{path}: was made on other base weights: '{site}' ({name}) has the same shape and different values")


def _turned(module: torch.nn.Module) -> torch.Tensor:
    from refta.sites import is_conv1d  # noqa: PLC0415

    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    return weight.detach().T if is_conv1d(module) else weight.detach()


def _base_weights(stack: ReftaStack) -> list[torch.Tensor]:
    left, right = stack.initial["A"], stack.initial["B"]
    coefficients = stack.residual_coefficients.cpu()
    return [
        member.weight.detach().cpu().to(left.dtype) + (left * u) @ right for member, u in zip(stack.members, coefficients, strict=True)
    ]


def _fingerprint(weight: torch.Tensor) -> dict:
    """The shape, the norm and four projections of a weight (n, d) on fixed unit vectors of cosines."""
    weight = weight.cpu().double()
    rows, columns = weight.shape
    projections = []
    for seed in (1.0, 2.0, 3.0, 5.0):
        left = torch.cos(seed * (torch.arange(rows, dtype=torch.float64) + 1) ** 2)
        right = torch.cos(math.sqrt(seed + 1) * (torch.arange(columns, dtype=torch.float64) + 1) ** 2)
        projections.append(float(left / left.norm() @ weight @ (right / right.norm())))
    return {"shape": [rows, columns], "norm": float(weight.norm()) / math.sqrt(min(rows, columns)), "projections": projections}


def _fill_head(model: torch.nn.Module, path: Path, tensors: dict[str, torch.Tensor]) -> None:
    parameters = dict(model.named_parameters())
    for key, value in tensors.items():
        if not key.startswith("head."):
            continue
        target = parameters.get(key.removeprefix("head."))
        if target is None or target.shape != value.shape:
            raise SettingError(f"{path}: holds a trained head '{key.removeprefix('head.')}' of {list(value.shape)} that this model does not have")
        with torch.no_grad():
            target.copy_(value)

