"""FacT-TT (arXiv 2212.03145): y = base(x) + scale · V(S_l(U x)), U and V shared by all adapted matrices of equal shape."""

from __future__ import annotations

from dataclasses import dataclass

from refta.network import Network, Operand, Order
from refta.registry import positive, share, whole_number
from refta.shapes import StackShape

SUMMARY = "FacT as a tensor train: shared U and V, a private r × r core per layer (2212.03145)"
ORDERS = ("published", "features", "reconstruct", "reconstruct_recompute", "auto")

_FOLD = ("x", (("S", "V"), "U"))
_ORDERS = {
    "features": Order(((("x", "U"), "S"), "V")),
    "reconstruct": Order(_FOLD),
    "reconstruct_recompute": Order(_FOLD, mode="recompute"),
}


@dataclass(frozen=True)
class Settings:
    """`rank` r; `scale` s, a plain factor."""

    rank: int = 16
    scale: float = 1.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        whole_number("rank", self.rank)
        positive("scale", self.scale)
        share("dropout", self.dropout)


def network(settings: Settings, shape: StackShape) -> Network:
    """The update `td,rd,sr,ns->tn` at one layer; S is the layer's own, V starts at zero, so that the output is unchanged."""
    operands = (
        Operand("U", "rd", across=True, init="kaiming"),
        Operand("S", "sr", shared=False, init="kaiming"),
        Operand("V", "ns", across=True, init="zeros"),
    )
    sizes = {**shape.sizes, "r": settings.rank, "s": settings.rank}
    return Network(sizes, operands, _ORDERS, {"published": "features"}, scale=settings.scale)
