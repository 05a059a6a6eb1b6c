"""ReFTA adapters as safetensors files: factors, Φ, the initial factors that define the residual, and what moved beside them.

The residual itself is not stored: it is W − Σ Φ A₀B₀, so a file fits wherever the same base weights are. A fingerprint of the base
weights (a few projections per layer) refuses other ones.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from refta.adapter import Adapted, adapt, refuse_adapted
from refta.base_weights import is_hollow, widest
from refta.errors import SettingError
from refta.sites import find_stacks, is_conv1d
from refta.stacking import CONTAINER, ReftaStack

FORMAT = "refta-adapter-1"
_HEAD = "head."  # before the names of the parameters that were trained beside the adapter
_STATISTICS = "buffers."  # before the names of running statistics, which move in training though all is frozen
_TOLERANCE = 2e-2  # of a projection's usual size: half-precision copies of the same weights differ by about 2e-3


def save(adapted: Adapted, path: Path) -> None:
    """Write the adapter, the head that it was given, whatever else of the model is thawed, and its running statistics.

    Raises SettingError for another method, a model without values, and a thawed weight under the adapter, which a file does not hold.
    """
    if adapted.method != "refta" or adapted.attached is None:
        raise SettingError(f"save: '{adapted.method}' is not ReFTA (or merged already); save it with the peft library, or the whole model")
    container = getattr(adapted.model, CONTAINER)
    if any(is_hollow(parameter) for parameter in container.parameters()):
        raise SettingError("save: the model has no values (it is on the meta device, or fake)")
    tensors: dict[str, torch.Tensor] = {}
    described = {}
    for name, stack in container.items():
        _refuse_thawed(stack)
        tensors |= {f"{name}.{key}": _stored(value) for key, value in (*stack.named_parameters(), *stack.named_buffers())}
        tensors[f"{name}.residual_coefficients"] = stack.residual_coefficients.cpu().contiguous()
        tensors[f"{name}.slice_ranks"] = torch.tensor(stack.slice_ranks)
        tensors |= {f"{name}.initial.{key}": value for key, value in stack.initial.items()}
        fingerprints = [_fingerprint(weight) for weight in _base_weights(stack)]
        described[name] = {"sites": stack.paths, "slice_ranks": list(stack.slice_ranks), "fingerprint": fingerprints}
    for key, parameter in adapted.model.named_parameters():
        if (key in adapted.head or parameter.requires_grad) and not key.startswith(f"{CONTAINER}."):
            tensors[f"{_HEAD}{key}"] = _stored(parameter)
    tensors |= {f"{_STATISTICS}{key}": _stored(buffer) for key, buffer in _running_statistics(adapted.model).items()}
    settings = dataclasses.asdict(adapted.settings)
    if not isinstance(settings["transform"], str):
        settings["transform"] = torch.as_tensor(settings["transform"]).tolist()
    header = {"format": FORMAT, "targets": adapted.targets, "settings": settings, "stacks": described}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"refta": json.dumps(header)})


def _running_statistics(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The running means, variances and counts of batch norms and their like, by their name in the model."""
    keeping = ((path, module) for path, module in model.named_modules() if getattr(module, "track_running_stats", False))
    return {f"{path}.{name}": buffer for path, module in keeping for name, buffer in module.named_buffers(recurse=False)}


def _stored(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().contiguous()


def _refuse_thawed(stack: ReftaStack) -> None:
    for path, member in zip(stack.paths, stack.members, strict=True):
        if member.weight.requires_grad:
            there = f"save: {path}.weight is trained beside its adapter"
            raise SettingError(f"{there}, and a file holds no base weight; merge, and save the model")


def load(model: torch.nn.Module, path: Path, *, order: str | None = None) -> Adapted:
    """The model with the file's adapter (and head) on it, all that the file has of parameters thawed.

    Running statistics are the file's too; a file without them (of an earlier version) leaves the model's. Raises SettingError where the
    file is not for this model.
    """
    header, tensors = _read(path)
    refuse_adapted(model)
    _check_shapes(model, path, header, tensors)
    _check_weights(model, path, header)
    _check_beside(model, path, tensors)
    dtype = tensors[f"{next(iter(header['stacks']))}.A"].dtype
    run = {"order": order, "adapter_dtype": dtype, "train_head": False, "stored": tensors}
    adapted = adapt(model, "refta", targets=header["targets"], **run, **header["settings"])
    _fill_beside(adapted, tensors)
    return adapted


def _read(path: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("refta", "null"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a mapping: it has no iterator)
    except (OSError, SafetensorError, ValueError) as error:
        raise SettingError(f"{path}: cannot be read as a safetensors file: {error}") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise SettingError(f"{path}: not a ReFTA adapter (no '{FORMAT}' in its header)")
    return header, tensors


def _check_shapes(model: torch.nn.Module, path: Path, header: dict, tensors: dict[str, torch.Tensor]) -> None:
    """The file's stacks and the model's are of the same linears, shapes and biases."""
    where = f"{path}: is for another model: this {type(model).__name__}"
    modules = dict(model.named_modules())
    for name, stack in header["stacks"].items():
        for site, wanted in zip(stack["sites"], stack["fingerprint"], strict=True):
            if not isinstance(getattr(modules.get(site), "weight", None), torch.Tensor):
                raise SettingError(f"{where} has no linear '{site}'")
            shape = list(_turned(modules[site]).shape)
            if shape != wanted["shape"]:
                raise SettingError(f"{where} has '{site}' {shape[0]} × {shape[1]}, the file {wanted['shape'][0]} × {wanted['shape'][1]}")
            if (getattr(modules[site], "bias", None) is None) == (f"{name}.beta" in tensors):
                raise SettingError(f"{where} and the file differ in whether '{site}' has a bias")
    there = {stack.name: [site.path for site in stack.sites] for stack in find_stacks(model, header["targets"])}
    if there != {name: stack["sites"] for name, stack in header["stacks"].items()}:
        count = sum(len(sites) for sites in there.values())
        raise SettingError(f"{where} has {count} linears {', '.join(header['targets'])} in {len(there)} stacks, not those of the file")


def _check_weights(model: torch.nn.Module, path: Path, header: dict) -> None:
    """The base weights are those that the file was made on."""
    for name, stack in header["stacks"].items():
        for site, wanted in zip(stack["sites"], stack["fingerprint"], strict=True):
            weight = _turned(model.get_submodule(site))
            if is_hollow(weight):
                raise SettingError(f"{path}: cannot be loaded on a model without values (the residual is made from them)")
            found = _fingerprint(weight)
            if any(abs(a - b) > _TOLERANCE * wanted["norm"] for a, b in zip(found["projections"], wanted["projections"], strict=True)):
                raise SettingError(f"{path}: was made on other base weights: '{site}' ({name}) has the same shape and different values")


def _check_beside(model: torch.nn.Module, path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """The model has what stands beside the adapter in the file."""
    beside = ((_HEAD, "a trained head", dict(model.named_parameters())), (_STATISTICS, "running statistics", _running_statistics(model)))
    for prefix, what, there in beside:
        for key, value in _named(tensors, prefix).items():
            if key not in there or there[key].shape != value.shape:
                raise SettingError(f"{path}: holds {what} '{key}' of {list(value.shape)} that this model does not have")


def _named(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """What stands in a file under a prefix, by its name in the model."""
    return {key.removeprefix(prefix): value for key, value in sorted(tensors.items(), reverse=True) if key.startswith(prefix)}


def _turned(module: torch.nn.Module) -> torch.Tensor:
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    return weight.detach().T if is_conv1d(module) else weight.detach()


def _base_weights(stack: ReftaStack) -> list[torch.Tensor]:
    wide = widest(stack.members[0].weight, stack.initial["A"])
    left, right = stack.initial["A"].to(wide), stack.initial["B"].to(wide)
    coefficients = stack.residual_coefficients.cpu().to(wide)
    return [member.weight.detach().cpu().to(wide) + (left * u) @ right for member, u in zip(stack.members, coefficients, strict=True)]


def _fingerprint(weight: torch.Tensor) -> dict:
    """The shape, the root mean square and four projections of a weight (n, d) on fixed unit vectors of cosines.

    A projection of an unstructured weight is about as large as its root mean square.
    """
    weight = weight.cpu().double()
    rows, columns = weight.shape
    projections = []
    for seed in (1.0, 2.0, 3.0, 5.0):
        left = torch.cos(seed * (torch.arange(rows, dtype=torch.float64) + 1) ** 2)
        right = torch.cos(math.sqrt(seed + 1) * (torch.arange(columns, dtype=torch.float64) + 1) ** 2)
        projections.append(float(left / left.norm() @ weight @ (right / right.norm())))
    return {"shape": [rows, columns], "norm": float(weight.norm()) / math.sqrt(rows * columns), "projections": projections}


def _fill_beside(adapted: Adapted, tensors: dict[str, torch.Tensor]) -> None:
    parameters, statistics = dict(adapted.model.named_parameters()), _running_statistics(adapted.model)
    head = _named(tensors, _HEAD)
    adapted.head = list(head)
    with torch.no_grad():
        for key, value in head.items():
            parameters[key].requires_grad_(True).copy_(value)
        for key, value in _named(tensors, _STATISTICS).items():
            statistics[key].copy_(value)
