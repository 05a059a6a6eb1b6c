"""LoHa (arXiv 2108.06098), attached by the peft library: ΔW = scale · (B_1 A_1) ∘ (B_2 A_2), rebuilt at every step.

The library's backward is hand-written (it forms both products again), which the closed form of autograd's costs does not describe.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from refta.registry import positive, share, whole_number
from refta.shapes import StackShape

SUMMARY = "a Hadamard product of two low-rank products, by the peft library (2108.06098)"
ORDERS = ()


@dataclass(frozen=True)
class Settings:
    """`rank` r; `alpha` (default: the rank, so that the scale is 1); `dropout` of whole rank components; `options`: peft's LoHaConfig."""

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

    config = {"r": settings.rank, "alpha": settings.alpha or settings.rank, "rank_dropout": settings.dropout, **(settings.options or {})}
    return attach_library(model, stacks, "LOHA", config, run)
