"""CaRA (ICML 2025): one CP form over adapted matrices, inputs, heads and head width: ΔW = scale · Σ λ a ∘ b ∘ c ∘ e.

The published code rebuilds ΔW at every call and runs a linear on it beside the base's own; its dropout acts on ΔW, which adds a
copy and a mask of its size.
"""

from __future__ import annotations

from dataclasses import dataclass

from refta.network import Network, Operand, Order
from refta.registry import positive, share, whole_number
from refta.shapes import StackShape

SUMMARY = "one CP form over matrices, inputs, heads and head width (ICML 2025)"
ORDERS = ("published", "features", "reconstruct", "reconstruct_recompute", "auto")

_UPDATE = ((("weight", "a"), ("c", "e")), "b")
_ORDERS = {
    "published": Order(("x", _UPDATE), mode="delta"),
    "features": Order(((("x", "b"), ("weight", "a")), ("c", "e"))),
    "reconstruct": Order(("x", _UPDATE)),
    "reconstruct_recompute": Order(("x", _UPDATE), mode="recompute"),
}


@dataclass(frozen=True)
class Settings:
    """`rank` R; `scale` a plain factor; `dropout` of ΔW's numbers in `published`, of the input in `features`. The heads are the model's."""

    rank: int = 32
    scale: float = 1.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        whole_number("rank", self.rank)
        positive("scale", self.scale)
        share("dropout", self.dropout)


def network(settings: Settings, shape: StackShape) -> Network:
    """The update `td,r,r,dr,hr,er->the` at one layer (inferred from the count); e starts at zero, so that the output is unchanged."""
    operands = (
        Operand("weight", "r", across=True, init="ones"),
        Operand("a", "r", across=True, index="lm", init="normal"),
        Operand("b", "dr", across=True, init="kaiming"),
        Operand("c", "hr", across=True, init="normal"),
        Operand("e", "er", across=True, init="zeros"),
    )
    sizes = {**shape.sizes, "r": settings.rank, "h": shape.heads, "e": shape.rows // shape.heads}
    return Network(sizes, operands, _ORDERS, outputs="he", scale=settings.scale, dropout=settings.dropout)
