"""LoRTA (arXiv 2410.04060): one CP form over inputs, head width, heads, roles and layers, for q, k, v and o always.

ΔW_{l,m} = concat_h B diag(C_H[h] C_M[m] C_L[l]) Aᵀ. The published code rebuilds the updates of all layers up front, once per step.
"""

from __future__ import annotations

from dataclasses import dataclass

from refta.network import Network, Operand, Order
from refta.registry import positive, share, whole_number
from refta.shapes import StackShape

SUMMARY = "one CP form over inputs, heads, roles and layers; q, k, v and o always (2410.04060)"
ORDERS = ("published", "features", "reconstruct", "reconstruct_recompute", "reconstruct_stack", "auto")
TARGETS = (("query", "key", "value", "output"), ("qkv", "output"))
NOTE = "lorta adapts query, key, value and output of attention (qkv and output where they are fused), always; targets are ignored"

_UPDATE = ((("C_L", "C_M"), ("C_H", "B")), "A")
_ORDERS = {
    "published": Order(("x", _UPDATE), mode="delta_stack"),
    "features": Order(((("x", "A"), ("C_L", "C_M")), ("C_H", "B"))),
    "reconstruct": Order(("x", _UPDATE)),
    "reconstruct_recompute": Order(("x", _UPDATE), mode="recompute"),
    "reconstruct_stack": Order(("x", _UPDATE), mode="stack"),
}


@dataclass(frozen=True)
class Settings:
    """`rank` r; `alpha` (default: the rank, so that the scale alpha / r is 1). The heads are the model's."""

    rank: int = 8
    alpha: float | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        whole_number("rank", self.rank)
        positive("alpha", self.alpha)
        share("dropout", self.dropout)


def network(settings: Settings, shape: StackShape) -> Network:
    """The update `td,dr,er,hr,r,r->the` at one layer; n is heads × head width. B starts at zero, so that the output is unchanged."""
    operands = (
        Operand("A", "dr", across=True, init="kaiming"),
        Operand("B", "er", across=True, init="zeros"),
        Operand("C_H", "hr", across=True, init="normal"),
        Operand("C_M", "r", across=True, index="m", init="normal"),
        Operand("C_L", "r", across=True, index="l", init="normal"),
    )
    sizes = {**shape.sizes, "r": settings.rank, "h": shape.heads, "e": shape.rows // shape.heads}
    return Network(sizes, operands, _ORDERS, outputs="he", scale=(settings.alpha or settings.rank) / settings.rank)
