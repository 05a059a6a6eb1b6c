"""LoKr (arXiv 2309.14859), attached by the peft library: ΔW = scale · C ⊗ (B A), rebuilt at every step.

The library chooses per shape and rank whether the factors are themselves factored, so no closed form is stated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from refta.registry import positive, share, whole_number
from refta.shapes import StackShape

SUMMARY = "a Kronecker product with a low-rank factor, by the peft library (2309.14859)"
ORDERS = ()


@dataclass(frozen=True)
class Settings:
    """`rank` r; `alpha` (default: the rank, so that the scale is 1); `dropout`; `options` go to peft's LoKrConfig.

    `factor` of the Kronecker split; -1 is as even as can be.
    """

    rank: int = 8
    alpha: float | None = None
    factor: int = -1
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
        "alpha": settings.alpha or settings.rank,
        "decompose_factor": settings.factor,
        "rank_dropout": settings.dropout,
        **(settings.options or {}),
    }
    return attach_library(model, stacks, "LOKR", config, run)
