"""TRAC (ICLR 2026): LoRA whose A (d × r) and B (n × r) are trains of three cores.

G_1 is a layer's own, G_2 frozen, random and shared, G_3 shared per role. A layer scales the shared cores by vectors over r_2 and the last
factor. The published code rebuilds A and B; an einsum form exists (`features`). The digits of d and n are read with the first core's
factor fastest, so that no copy arises.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from refta.errors import SettingError
from refta.network import Network, Operand, Order
from refta.registry import number_list, positive, share, whole_number
from refta.shapes import StackShape
from refta.tensor_train import checked_factors, grouped_factors

SUMMARY = "LoRA as two 3-core trains with shared cores and per-layer scales (ICLR 2026)"
ORDERS = ("published", "features", "reconstruct", "reconstruct_recompute", "auto")

_LAST_A, _LAST_B = (("G3_A", "scale_A"), "tail_A"), (("G3_B", "scale_B"), "tail_B")
_A, _B = (("G1_A", "G2_A"), _LAST_A), (("G1_B", "G2_B"), _LAST_B)
_ORDERS = {
    "published": Order((("x", _A), _B)),
    "features": Order(((((((("x", "G1_A"), "G2_A")), _LAST_A), _LAST_B), "G2_B"), "G1_B")),
    "reconstruct": Order(("x", (_B, _A))),
    "reconstruct_recompute": Order(("x", (_B, _A)), mode="recompute"),
}
_CORES = 3


@dataclass(frozen=True)
class Settings:
    """`rank` r; `ranks_a` and `ranks_b` the inner ranks (r_1, r_2) of A and B; `alpha` / rank is the scale.

    Three `input_factors` of d and `output_factors` of n, found where left out.
    """

    rank: int = 16
    ranks_a: list[int] = field(default_factory=lambda: [8, 12])
    ranks_b: list[int] = field(default_factory=lambda: [24, 36])
    input_factors: list[int] | None = None
    output_factors: list[int] | None = None
    alpha: float | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        whole_number("rank", self.rank)
        for name, count in (("ranks_a", _CORES - 1), ("ranks_b", _CORES - 1), ("input_factors", _CORES), ("output_factors", _CORES)):
            given = getattr(self, name)
            number_list(name, given)
            if given is not None and len(given) != count:
                raise SettingError(f"{name}: {given!r}; it must be {count} whole numbers")
        positive("alpha", self.alpha)
        share("dropout", self.dropout)


def network(settings: Settings, shape: StackShape) -> Network:
    """The update at one layer: A's digits a, b, c with bonds p, q; B's e, f, g with bonds u, w. B's G_3 starts at zero."""
    operands = (
        Operand("G1_A", "ap", shared=False, init="kaiming"),
        Operand("scale_A", "q", shared=False, init="ones"),
        Operand("tail_A", "c", shared=False, init="ones"),
        Operand("G1_B", "eu", shared=False, init="kaiming"),
        Operand("scale_B", "w", shared=False, init="ones"),
        Operand("tail_B", "g", shared=False, init="ones"),
        Operand("G2_A", "pbq", trainable=False, across=True, init="kaiming"),
        Operand("G2_B", "fuw", trainable=False, across=True, init="kaiming"),
        Operand("G3_A", "qcr", init="kaiming"),
        Operand("G3_B", "gwr", init="zeros"),
    )
    inputs = _factors("input_factors", settings.input_factors, shape.columns)
    outputs = _factors("output_factors", settings.output_factors, shape.rows)
    bonds = zip("pquwr", (*settings.ranks_a, *settings.ranks_b, settings.rank), strict=True)
    sizes = {**shape.sizes, **dict(zip("abcefg", (*inputs, *outputs), strict=True)), **dict(bonds)}
    scale = (settings.alpha or settings.rank) / settings.rank
    return Network(sizes, operands, _ORDERS, inputs="cba", outputs="gfe", scale=scale)


def _factors(name: str, given: Sequence[int] | None, size: int) -> tuple[int, ...]:
    return checked_factors(name, given or grouped_factors(size, _CORES), size)
