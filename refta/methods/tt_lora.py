"""TT-LoRA (arXiv 2408.01008): y = base(x) + alpha · x TT, a tensor train over the input factors, then the reversed output factors.

Cores are (r_{i-1}, k_i, r_i). x is seen as its input factors in reverse, so that the first core takes the last axis; the output's
axes come in the cores' order. Two forms are published: a dense ΔW by a chain of products and a copy W + alpha · ΔW
(`published`), and x through one core at a time (`features`).
"""

from __future__ import annotations

from dataclasses import dataclass

from refta.network import AXES, Network, Order
from refta.registry import number_list, positive, share, whole_number
from refta.shapes import StackShape
from refta.tensor_train import balanced_factors, chain, checked_factors, cores, middle_out

SUMMARY = "a tensor train over the factors of d and n (2408.01008)"
ORDERS = ("published", "features", "reconstruct", "reconstruct_recompute", "auto")


@dataclass(frozen=True)
class Settings:
    """`rank` of the train; `alpha` multiplies the update; `input_factors` of d and `output_factors` of n (found where left out)."""

    rank: int = 5
    alpha: float = 1.0
    input_factors: list[int] | None = None
    output_factors: list[int] | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        whole_number("rank", self.rank)
        positive("alpha", self.alpha)
        number_list("input_factors", self.input_factors)
        number_list("output_factors", self.output_factors)
        share("dropout", self.dropout)


def network(settings: Settings, shape: StackShape) -> Network:
    """The update at one layer: cores of the input factors, then of the reversed output factors; all are the layer's own."""
    inputs = checked_factors("input_factors", settings.input_factors or balanced_factors(shape.columns), shape.columns)
    outputs = checked_factors("output_factors", settings.output_factors or balanced_factors(shape.rows), shape.rows)
    factors = [*inputs, *reversed(outputs)]
    axes, bonds = AXES[: len(factors)], AXES[len(factors) : 2 * len(factors) - 1]
    operands = cores(factors, settings.rank, axes, bonds, init="normalised")
    names = [one.name for one in operands]
    first, second = names[: len(inputs)], names[len(inputs) :]
    fold = ("x", (middle_out(second), chain(first[0], first[1:])))
    orders = {
        "published": Order(("x", chain(names[0], names[1:])), mode="copies"),
        "features": Order(chain("x", names)),
        "reconstruct": Order(fold),
        "reconstruct_recompute": Order(fold, mode="recompute"),
    }
    sizes = {
        **shape.sizes,
        **dict(zip(axes, factors, strict=True)),
        **dict.fromkeys(bonds, settings.rank),
    }
    return Network(sizes, tuple(operands), orders, inputs=axes[: len(inputs)][::-1], outputs=axes[len(inputs) :], scale=settings.alpha)
