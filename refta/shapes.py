"""The shape of a stack of layers, as data. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class StackShape:
    """K layers of one role, each n outputs × d inputs.

    `bias`: whether they have one. `inputs_without_gradient`: for how many of the layers x needs no gradient (the first adapted
    layer under frozen embeddings). `slice_ranks`: R_j where they are known from the weights. `stacks`: how many stacks the
    adapter has, this one among them. `head_size`: the width of one attention head of the model.
    """

    name: str
    role: str
    layers: int
    rows: int
    columns: int
    bias: bool = True
    inputs_without_gradient: int = 0
    slice_ranks: tuple[int, ...] | None = None
    stacks: int = 1
    head_size: int | None = None

    @property
    def heads(self) -> int:
        """How many attention heads the outputs divide into, by the model's head size (64 where it is not known); 1 where they do not."""
        size = self.head_size or 64
        return self.rows // size if self.rows % size == 0 else 1

    @property
    def sizes(self) -> dict[str, int]:
        """The lengths of the axes n, d and k, and of l and m, a table's rows for layers and stacks."""
        return {"n": self.rows, "d": self.columns, "k": self.layers, "l": self.layers, "m": self.stacks}


INPUT_PLACES = {"query": 0, "key": 0, "value": 0, "qkv": 0, "output": 1, "gate": 2, "up": 2, "down": 3}


def mark_first_inputs(stacks: Sequence[StackShape]) -> list[StackShape]:
    """The stacks of one run of layers, with `inputs_without_gradient` 1 for those whose first layer reads an input before any adapter.

    query, key, value and qkv read the same input, as do gate and up. Frozen embeddings are assumed.
    """
    earliest = min((INPUT_PLACES.get(one.role, 0) for one in stacks), default=0)
    return [replace(one, inputs_without_gradient=int(INPUT_PLACES.get(one.role, 0) == earliest)) for one in stacks]
