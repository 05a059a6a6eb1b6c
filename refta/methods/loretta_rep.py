"""LoRETTA-rep (arXiv 2402.11417): y = base(x) + scale · (x TT_A) TT_B, with the thin factors A (d × r) and B (r × n) each a tensor train.

The published code rebuilds A and B at every step. Both start random, so the output is not that of the base model.
"""

from __future__ import annotations

from dataclasses import dataclass

from refta.matrix_train import checked_shape, matched_shape, two_trains
from refta.network import AXES, Network, Order
from refta.registry import number_list, positive, share, whole_number
from refta.shapes import StackShape
from refta.tensor_train import chain

SUMMARY = "LoRA whose two factors are tensor trains (2402.11417)"
ORDERS = ("published", "features", "reconstruct", "reconstruct_recompute", "auto")


@dataclass(frozen=True)
class Settings:
    """`rank` r of the update; `tensor_rank` of the trains; `tensor_shape` of A's d · r (B's mirrors it; found where left out).

    `alpha` / rank is the scale; alpha is the rank by default.
    """

    rank: int = 8
    tensor_rank: int = 5
    tensor_shape: list[int] | None = None
    alpha: float | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        whole_number("rank", self.rank)
        whole_number("tensor_rank", self.tensor_rank)
        number_list("tensor_shape", self.tensor_shape)
        positive("alpha", self.alpha)
        share("dropout", self.dropout)


def network(settings: Settings, shape: StackShape) -> Network:
    """The update at one layer: the cores of A, then those of B, all the layer's own."""
    rank = settings.rank
    first = checked_shape("tensor_shape", settings.tensor_shape, shape.columns, rank)
    second = matched_shape("tensor_shape", settings.tensor_shape, first, rank, shape.rows)
    a, b, sizes = two_trains(first, second, settings.tensor_rank, outer=shape.columns, inner=rank, names=("A", "B"), letters=iter(AXES))
    thin_a, thin_b = chain(a.names[0], a.names[1:]), chain(b.names[0], b.names[1:])
    fold = ("x", (thin_b, thin_a))
    orders = {
        "published": Order((("x", thin_a), thin_b)),
        "features": Order(chain("x", [*a.names, *b.names])),
        "reconstruct": Order(fold),
        "reconstruct_recompute": Order(fold, mode="recompute"),
    }
    scale = (settings.alpha or rank) / rank
    return Network({**shape.sizes, **sizes}, (*a.operands, *b.operands), orders, inputs=a.left[::-1], outputs=b.right, scale=scale)
