"""The shape of a stack of layers, as data. No torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StackShape:
    """K layers of one role, each n outputs × d inputs.

    `bias`: whether they have one. `inputs_without_gradient`: for how many of the layers x needs no gradient (the first adapted
    layer under frozen embeddings). `slice_ranks`: R_j where they are known from the weights.
    """

    name: str
    role: str
    layers: int
    rows: int
    columns: int
    bias: bool = True
    inputs_without_gradient: int = 0
    slice_ranks: tuple[int, ...] | None = None

    @property
    def sizes(self) -> dict[str, int]:
        """The lengths of the axes n, d and k."""
        return {"n": self.rows, "d": self.columns, "k": self.layers}
