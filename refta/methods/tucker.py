"""A Tucker adapter (inferred from its count): y = base(x) + scale · ((x U_2) G_lᵀ) U_1ᵀ with G_l = G ×₃ u_l."""

from __future__ import annotations

from dataclasses import dataclass, field

from refta.errors import SettingError
from refta.network import Network, Operand, Order
from refta.registry import number_list, positive, share
from refta.shapes import StackShape

SUMMARY = "one Tucker form over outputs, inputs and adapted matrices (inferred)"
ORDERS = ("published", "features", "reconstruct", "reconstruct_recompute", "auto")

_FOLD = ("x", ("U_1", (("G", "u"), "U_2")))
_ORDERS = {
    "features": Order(((("x", "U_2"), ("G", "u")), "U_1")),
    "reconstruct": Order(_FOLD),
    "reconstruct_recompute": Order(_FOLD, mode="recompute"),
}


@dataclass(frozen=True)
class Settings:
    """`ranks` of the outputs, the inputs and the adapted matrices (three); `scale` a plain factor."""

    ranks: list[int] = field(default_factory=lambda: [8, 8, 8])
    scale: float = 1.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        number_list("ranks", self.ranks)
        if self.ranks is None or len(self.ranks) != 3:
            raise SettingError(
                f"ranks: {self.ranks!r}; it must be three whole numbers, for outputs, inputs and matrices, such as [8, 8, 8]"
            )
        positive("scale", self.scale)
        share("dropout", self.dropout)


def network(settings: Settings, shape: StackShape) -> Network:
    """The update `td,rd,srq,q,ns->tn` at one layer; only r_1 × r_2 is built. The core starts at zero: the output is unchanged."""
    operands = (
        Operand("U_1", "ns", across=True, init="orthogonal"),
        Operand("U_2", "rd", across=True, init="orthogonal"),
        Operand("u", "q", across=True, index="lm", init="orthogonal"),
        Operand("G", "srq", across=True, init="zeros"),
    )
    sizes = {**shape.sizes, **dict(zip("srq", settings.ranks, strict=True))}
    return Network(sizes, operands, _ORDERS, {"published": "features"}, scale=settings.scale)
