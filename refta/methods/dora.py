"""DoRA (arXiv 2402.09353), attached by the peft library: LoRA with the weight's column norms trained apart from its direction.

The norm of W + s B A is taken at every step, which is no contraction, so there is no closed form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from refta.registry import positive, share, whole_number
from refta.shapes import StackShape

SUMMARY = "low-rank update of the direction, a trained norm per output, by the peft library (2402.09353)"
ORDERS = ()


@dataclass(frozen=True)
class Settings:
    """`rank` r; `alpha` (default: the rank, so that the scale is 1); `dropout`; `options` go to peft's LoraConfig."""

    rank: int = 8
    alpha: float | None = None
    dropout: float = 0.0
    options: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        whole_number("rank", self.rank)
        positive("alpha", self.alpha)
        share("dropout", self.dropout)


def network(settings: Settings, shape: StackShape) -> None:
    """None: no closed form (see above)."""


def attach(model, stacks, settings: Settings, run):
    """peft's adapter on every site."""
    from refta.library import attach_library

    config = {
        "r": settings.rank,
        "lora_alpha": settings.alpha or settings.rank,
        "lora_dropout": settings.dropout,
        "use_dora": True,
        **(settings.options or {}),
    }
    return attach_library(model, stacks, "LORA", config, run)
