"""PiSSA (arXiv 2404.02948), attached by the peft library: LoRA that starts at the principal components, W ← W − sBA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from refta.network import Network, Operand, Order
from refta.registry import whole_number
from refta.shapes import StackShape

SUMMARY = "principal components as a low-rank update, by the peft library (2404.02948)"
ORDERS = ()

_ORDERS = {"features": Order((("x", "A"), "B"))}


@dataclass(frozen=True)
class Settings:
    """`rank` r; `alpha` (default: the rank, so that the scale is 1); `dropout`; `options` go to peft's LoraConfig as they are.

    `initialise` is peft's: pissa, or pissa_niter_N for a quick SVD.
    """

    rank: int = 8
    alpha: float | None = None
    dropout: float = 0.0
    initialise: str = "pissa"
    options: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        whole_number("rank", self.rank)


def network(settings: Settings, shape: StackShape) -> Network:
    """PiSSA's update (LoRA's) `td,rd,nr->tn` at one layer; A and B are the layer's own."""
    operands = (Operand("A", "rd", shared=False), Operand("B", "nr", shared=False))
    return Network({**shape.sizes, "r": settings.rank}, operands, _ORDERS, {"published": "features"})


def attach(model, stacks, settings: Settings, run):
    """peft's PiSSA on every site."""
    from refta.library import attach_library

    config = {
        "r": settings.rank,
        "lora_alpha": settings.alpha or settings.rank,
        "lora_dropout": settings.dropout,
        "init_lora_weights": settings.initialise,
        **(settings.options or {}),
    }
    return attach_library(model, stacks, "LORA", config, run)
