"""LoTR (arXiv 2402.01376): y = base(x) + (alpha / rank) · ((x R) M_l) L, with R and L shared by all adapted matrices of equal shape."""

from __future__ import annotations

from dataclasses import dataclass

from refta.network import Network, Operand, Order
from refta.registry import positive, share, whole_number
from refta.shapes import StackShape

SUMMARY = "shared outer factors, a private r × r core per layer (2402.01376)"
ORDERS = ("published", "features", "reconstruct", "reconstruct_recompute", "auto")

_FOLD = ("x", (("M", "L"), "R"))
_ORDERS = {
    "features": Order(((("x", "R"), "M"), "L")),
    "reconstruct": Order(_FOLD),
    "reconstruct_recompute": Order(_FOLD, mode="recompute"),
}


@dataclass(frozen=True)
class Settings:
    """`rank` r; `alpha` (default: the rank, so that the scale is 1)."""

    rank: int = 8
    alpha: float | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        whole_number("rank", self.rank)
        positive("alpha", self.alpha)
        share("dropout", self.dropout)


def network(settings: Settings, shape: StackShape) -> Network:
    """The update `td,dr,rs,sn->tn` at one layer; M is the layer's own and starts at zero, so that the output is unchanged."""
    operands = (
        Operand("R", "dr", across=True, init="kaiming"),
        Operand("M", "rs", shared=False, init="zeros"),
        Operand("L", "sn", across=True, init="kaiming"),
    )
    sizes = {**shape.sizes, "r": settings.rank, "s": settings.rank}
    return Network(sizes, operands, _ORDERS, {"published": "features"}, scale=(settings.alpha or settings.rank) / settings.rank)
