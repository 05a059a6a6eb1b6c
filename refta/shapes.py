"""The shape of a stack of layers, as data. No torch."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

INPUT_PLACES = {"query": 0, "key": 0, "value": 0, "qkv": 0, "output": 1, "gate": 2, "up": 2, "down": 3}


@dataclass(frozen=True)
class StackShape:
    """K layers of one role, each n outputs × d inputs.

    `bias`: whether they have one. `inputs_without_gradient`: for how many of the layers x needs no gradient (the first adapted
    layer under frozen embeddings). `slice_ranks`: R_j where they are known from the weights. `stacks`: how many stacks the
    adapter has, this one among them. `head_size`: the width of one attention head of the model. `reads`: a name for each layer's x,
    the same for all linears that read the same x.
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
    reads: tuple[Hashable, ...] = ()

    @property
    def inputs(self) -> tuple[Hashable, ...]:
        """`reads`, and where it is not given the inputs of layers 0 to K − 1."""
        return self.reads or layer_inputs(self.role, range(self.layers))

    @property
    def heads(self) -> int:
        """How many attention heads the outputs divide into, by the model's head size (64 where it is not known); 1 where they do not."""
        size = self.head_size or 64
        return self.rows // size if self.rows % size == 0 else 1

    @property
    def sizes(self) -> dict[str, int]:
        """The lengths of the axes n, d and k, and of l and m, a table's rows for layers and stacks."""
        return {"n": self.rows, "d": self.columns, "k": self.layers, "l": self.layers, "m": self.stacks}


def layer_inputs(role: str, layers: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """A name for what the linears of a role read in the layers of these numbers, such that the earlier input is the lesser.

    query, key, value and qkv read the same, as do gate and up. `up` of layers 22 and 23: (22, 2), (23, 2).
    """
    return tuple((number, INPUT_PLACES.get(role, 0)) for number in layers)


def mark_first_inputs(stacks: Sequence[StackShape]) -> list[StackShape]:
    """The stacks of one run of layers, with `inputs_without_gradient` 1 for those whose first layer reads the earliest input of all.

    No adapter stands before that one, since embeddings are taken to be frozen. Their `reads` are those of `layer_inputs`.
    """
    earliest = min((one.inputs[0] for one in stacks), default=None)  # pyright: ignore[reportArgumentType]
    return [replace(one, inputs_without_gradient=int(one.inputs[0] == earliest)) for one in stacks]
