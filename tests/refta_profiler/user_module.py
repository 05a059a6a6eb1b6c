"""What tests of the user's own code share: a folder that a user works in, with a module of adapters written by hand."""

import sys
from pathlib import Path
from typing import Any

import pytest
from model_points import point

from refta_profiler import own_code
from refta_profiler.plan import Point

ADAPTERS = '''
"""LoRA written by hand, and what can go wrong."""
import math
import sys

import torch
from torch import nn

SCALE = torch.tensor([2.0])


class LoraLinear(nn.Module):
    def __init__(self, base, rank):
        super().__init__()
        self.base, weight = base, base.weight
        self.A = nn.Parameter(torch.empty(rank, weight.shape[1], dtype=weight.dtype))
        self.B = nn.Parameter(torch.zeros(weight.shape[0], rank, dtype=weight.dtype))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))

    def forward(self, x):
        return self.base(x) + x @ self.A.T @ self.B.T * 2.0


def sites(model, targets):
    return [(name, one) for name, one in model.named_modules() if isinstance(one, nn.Linear) and name.rsplit(".", 1)[-1] in targets]


def lora(model, rank=4, targets=("query", "value")):
    print("attaching")
    for name, module in sites(model, targets):
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, LoraLinear(module, rank))


def hooks(model, rank=4):
    """The factors are held by a closure, and a tensor of this module's is used."""
    for _, module in sites(model, ("query", "value")):
        A = nn.Parameter(torch.randn(rank, module.in_features) / 10)
        B = nn.Parameter(torch.zeros(module.out_features, rank))
        module.register_parameter("A", A)
        module.register_parameter("B", B)
        module.register_forward_hook(lambda module, inputs, output, A=A, B=B: output + inputs[0] @ A.T @ B.T * SCALE)
    return model


def by_peft(model, rank=4):
    from peft import LoraConfig, inject_adapter_in_model
    inject_adapter_in_model(LoraConfig(r=rank, target_modules=["query", "value"]), model)


def numbers(model, rank=4):
    if max(one.abs().max().item() for one in model.parameters()) > 0:
        lora(model, rank)


def broken(model):
    raise ValueError("no <b>such</b> thing")


def breaks_later(model):
    lora(model)
    model.register_forward_pre_hook(lambda module, arguments: torch.ones(2) @ torch.ones(3))


def wraps(model):
    return nn.Sequential(model)


def trains_nothing(model):
    model.requires_grad_(False)


def head_alone(model):
    return None


def leaves(model):
    sys.exit(3)
'''


def folder(path: Path, monkeypatch: pytest.MonkeyPatch, name: str = "adapters_of_mine", text: str = ADAPTERS) -> Path:
    """The folder, made the current one, with the module in it; Python forgets the module and the folder afterwards."""
    (path / f"{name}.py").write_text(text)
    monkeypatch.chdir(path)
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one != ""])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a file changed within the second would be taken for the one before
    forget(name)
    return path


def forget(*names: str) -> None:
    """Python imports these anew, with what is below them."""
    for module in [one for one in sys.modules if one.partition(".")[0] in names]:
        del sys.modules[module]


def own(function: str, model: str = "roberta-tiny", *, arguments: dict[str, Any] | None = None, **changes: Any) -> Point:
    """A point of a tiny model whose method is that function of the module."""
    call = f"adapters_of_mine:{function}"
    settings = own_code.settings({"call": call, "arguments": arguments or {}})
    return point(model, method="python", label=f"python/{function}", settings=settings, **changes)
