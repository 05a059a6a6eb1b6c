"""FacT-TK (arXiv 2212.03145): as FacT-TT with S_l = C ×₃ p_l, a shared core C (r × r × r) and a table of vectors p, one per matrix."""

from __future__ import annotations

from dataclasses import dataclass

from refta.network import Network, Operand, Order
from refta.registry import positive, share, whole_number
from refta.shapes import StackShape

SUMMARY = "FacT as a Tucker form: shared U, V and core, one vector per adapted matrix (2212.03145)"
ORDERS = ("published", "features", "reconstruct", "reconstruct_recompute", "auto")

_FOLD = ("x", ((("C", "p"), "V"), "U"))
_ORDERS = {
    "features": Order(((("x", "U"), ("C", "p")), "V")),
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
    """The update `td,rd,srq,q,ns->tn` at one layer; only the r × r core is built (as published). V starts at zero."""
    operands = (
        Operand("U", "rd", across=True, init="kaiming"),
        Operand("C", "srq", across=True, init="kaiming"),
        Operand("p", "q", across=True, index="lm", init="kaiming"),
        Operand("V", "ns", across=True, init="zeros"),
    )
    sizes = {**shape.sizes, **dict.fromkeys("rsq", settings.rank)}
    return Network(sizes, operands, _ORDERS, {"published": "features"}, scale=settings.scale)
