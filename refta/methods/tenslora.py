"""TensLoRA (arXiv 2509.19391): one Tucker or CP form over inputs, outputs, roles and layers (its `qkv_depth` variant).

The published code rebuilds the whole tensor, all roles and layers, at every call of an adapter, and takes its own slice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from refta.errors import SettingError
from refta.network import Network, Operand, Order, Tree
from refta.registry import positive, share, whole_number
from refta.shapes import StackShape

SUMMARY = "one Tucker or CP form over inputs, outputs, roles and layers (2509.19391)"
ORDERS = ("published", "features", "reconstruct", "reconstruct_recompute", "auto")
Decomposition = Literal["tucker", "cp"]


@dataclass(frozen=True)
class Settings:
    """`rank` r of every axis; `decomposition` tucker or cp; `alpha` a plain factor."""

    rank: int = 8
    decomposition: Decomposition = "tucker"
    alpha: float = 1.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        whole_number("rank", self.rank)
        if self.decomposition not in get_args(Decomposition):
            raise SettingError(f"decomposition: '{self.decomposition}'; there are {', '.join(get_args(Decomposition))}")
        positive("alpha", self.alpha)
        share("dropout", self.dropout)


def network(settings: Settings, shape: StackShape) -> Network:
    """The update `td,da,nb,c,e,abce->tn` (tucker) or `td,dr,nr,r,r->tn` (cp) at one layer. The core (cp: outputs) starts at zero."""
    return _tucker(settings, shape) if settings.decomposition == "tucker" else _cp(settings, shape)


def _tucker(settings: Settings, shape: StackShape) -> Network:
    operands = (
        Operand("inputs", "da", across=True, init="orthogonal"),
        Operand("outputs", "nb", across=True, init="orthogonal"),
        Operand("role", "c", across=True, index="m", init="orthogonal"),
        Operand("depth", "e", across=True, index="l", init="orthogonal"),
        Operand("core", "abec", across=True, init="zeros"),
    )
    sizes = {**shape.sizes, **dict.fromkeys("abce", settings.rank)}
    small = (("core", "role"), "depth")
    update = (("outputs", small), "inputs")
    features = ((("x", "inputs"), small), "outputs")
    return Network(sizes, operands, _orders(features, update), scale=settings.alpha)


def _cp(settings: Settings, shape: StackShape) -> Network:
    operands = (
        Operand("inputs", "dr", across=True, init="kaiming"),
        Operand("outputs", "nr", across=True, init="zeros"),
        Operand("role", "r", across=True, index="m", init="normal"),
        Operand("depth", "r", across=True, index="l", init="normal"),
    )
    update = ((("depth", "role"), "outputs"), "inputs")
    features = ((("x", "inputs"), ("depth", "role")), "outputs")
    return Network({**shape.sizes, "r": settings.rank}, operands, _orders(features, update), scale=settings.alpha)


def _orders(features: Tree, update: Tree) -> dict[str, Order]:
    return {
        "published": Order(("x", update), mode="whole"),
        "features": Order(features),
        "reconstruct": Order(("x", update)),
        "reconstruct_recompute": Order(("x", update), mode="recompute"),
    }
