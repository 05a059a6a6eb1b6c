"""VeRA (arXiv 2310.11454), attached by the peft library: y = base(x) + λ_b ∘ ((λ_d ∘ (x Aᵀ)) Bᵀ), A and B frozen, random and shared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from refta.network import Network, Operand, Order
from refta.registry import positive, share, whole_number
from refta.shapes import StackShape

SUMMARY = "two trained vectors around frozen random factors, by the peft library (2310.11454)"
ORDERS = ()

_ORDERS = {"features": Order(((((("x", "A"), "lambda_d")), "B"), "lambda_b"))}


@dataclass(frozen=True)
class Settings:
    """`rank` r; `d_initial` the first value of λ_d; `dropout`; `options` go to peft's VeraConfig as they are."""

    rank: int = 256
    d_initial: float = 0.1
    dropout: float = 0.0
    options: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        whole_number("rank", self.rank)
        positive("d_initial", self.d_initial)
        share("dropout", self.dropout)


def network(settings: Settings, shape: StackShape) -> Network:
    """VeRA's update `td,rd,r,nr,n->tn` at one layer; the vectors are the layer's own, λ_b starts at zero."""
    operands = (
        Operand("A", "rd", trainable=False, across=True),
        Operand("lambda_d", "r", shared=False),
        Operand("B", "nr", trainable=False, across=True),
        Operand("lambda_b", "n", shared=False),
    )
    return Network({**shape.sizes, "r": settings.rank}, operands, _ORDERS, {"published": "features"})


def attach(model, stacks, settings: Settings, run):
    """peft's VeRA on every site; the frozen A and B take the dtype of the trained vectors, which peft leaves at the base's."""
    from refta.library import attach_library

    config = {"r": settings.rank, "d_initial": settings.d_initial, "vera_dropout": settings.dropout, **(settings.options or {})}
    attached = attach_library(model, stacks, "VERA", config, run)
    for module in model.modules():
        for frozen in (getattr(module, "vera_A", None), getattr(module, "vera_B", None)):
            if frozen is not None:
                frozen.to(attached.parameters[0].dtype)
    return attached
