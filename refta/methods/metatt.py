"""MetaTT (arXiv 2506.09105): one tensor train over inputs, layers, roles and outputs: y = base(x) + alpha · ((x G_1) G_2[l]) G_3[m] G_4."""

from __future__ import annotations

from dataclasses import dataclass

from refta.network import Network, Operand, Order
from refta.registry import positive, share, whole_number
from refta.shapes import StackShape

SUMMARY = "one tensor train over inputs, layers, roles and outputs (2506.09105)"
ORDERS = ("published", "features", "reconstruct", "reconstruct_recompute", "auto")

_FOLD = ("x", ((("G_2", "G_3"), "G_4"), "G_1"))
_ORDERS = {
    "features": Order((((("x", "G_1"), "G_2"), "G_3"), "G_4")),
    "reconstruct": Order(_FOLD),
    "reconstruct_recompute": Order(_FOLD, mode="recompute"),
}


@dataclass(frozen=True)
class Settings:
    """`rank` r of the train; `alpha` a plain factor."""

    rank: int = 8
    alpha: float = 1.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        whole_number("rank", self.rank)
        positive("alpha", self.alpha)
        share("dropout", self.dropout)


def network(settings: Settings, shape: StackShape) -> Network:
    """The update `td,da,ab,bc,cn->tn` at one layer (inferred). G_1 starts at zero, the others at the identity: the output is unchanged."""
    operands = (
        Operand("G_1", "da", across=True, init="zeros"),
        Operand("G_2", "ab", across=True, index="l", init="identity"),
        Operand("G_3", "bc", across=True, index="m", init="identity"),
        Operand("G_4", "cn", across=True, init="identity"),
    )
    sizes = {**shape.sizes, **dict.fromkeys("abc", settings.rank)}
    return Network(sizes, operands, _ORDERS, {"published": "features"}, scale=settings.alpha)
