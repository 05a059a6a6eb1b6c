"""What networks are made of: operands, orders, and the values and steps of a contraction. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from refta.pairing import Pairing

Tree = str | tuple["Tree", "Tree"]
Aim = Literal["memory", "time"]
Mode = Literal["plain", "recompute", "stack", "slices", "copies", "delta", "delta_stack", "whole", "fused", "fused_fold"]

INPUT, INPUT_AXES, OUTPUT_AXES, FOLD_AXES = "x", "td", "tn", "nd"
RELU = "relu"
COMMON_ORDERS = ("published", "features", "reconstruct", "auto")
AUTOMATIC: dict[str, Aim] = {
    "auto": "memory",
    "auto_time": "time",
}  # orders that are chosen by the tokens at hand, and for the least of what
FOLDING = ("plain", "recompute", "stack", "copies", "fused_fold")
UNFOLDED = ("delta", "delta_stack", "whole")  # modes that build the update and leave the weight alone
PER_STEP = ("stack", "delta_stack")  # modes that build for all layers at once
HAND_WRITTEN = ("fused", "fused_fold")  # modes whose backward is not autograd's (fused.py)
AXES = "abcefghijopqrsuvwyzABCDEFGHIJKLMNOPQRSTUVWXYZ"  # the letters that a method may give its own axes


@dataclass(frozen=True)
class Operand:
    """One factor of a network.

    `shared`: one for the whole stack, otherwise one per layer; `across`: one for all stacks of the adapter whose shapes agree.
    `index`: a table with a row per layer (`l`), per stack (`m`) or both, of which a layer reads its own; a table is shared.
    `constant` names the operand that stands beside this one for x's constant-one column (ReFTA's β beside B).
    `added`: a bias, added to what it is paired with. `shape`: the parameter's own, where it is not that of its axes (the
    1s at the ends of a tensor train). `init` names how it starts (see tensor_adapter.py).
    `gathered_from` names the table that this operand's numbers are picked out of at every use (ReFTA's u out of a trained Φ): it is
    then an intermediate that trains the table, not a parameter.
    """

    name: str
    axes: str
    trainable: bool = True
    shared: bool = True
    constant: str | None = None
    across: bool = False
    index: str = ""
    added: bool = False
    shape: tuple[int, ...] | None = None
    init: str = "normal"
    gathered_from: str | None = None


@dataclass(frozen=True)
class Order:
    """One way to evaluate a network.

    mode `plain`: the tree, by plain autograd; a tree `("x", M)` folds M into the frozen weight and runs one linear.
    `recompute`: the fold again in backward instead of kept. `stack`: the folds of all layers at once, once per step.
    `slices`: one product per slice of axis r, stacked, then weighted by the per-layer operand u (the paper's H_int).
    `copies`: a fold that forms the dense update, its scaled copy and the sum with the weight one after the other.
    `delta`: M is rebuilt but not folded; x times M beside the base's own linear. `delta_stack`: the same, M of all layers once per step.
    `whole`: M of every layer and stack at every call, of which the layer takes its own.
    `fused`, `fused_fold`: base and update in one function with a backward written by hand, as features or on a folded weight.
    """

    tree: Tree
    mode: Mode = "plain"


@dataclass(frozen=True, eq=False)
class Value:
    """An operand or an intermediate of a contraction: its axes in memory order, whether it needs a gradient, outlives the step."""

    axes: str
    needs_gradient: bool
    is_static: bool
    is_input: bool = False
    has_constant: bool = False


@dataclass(frozen=True)
class Step:
    """One binary contraction; `is_product` where an axis is summed (a matrix product), otherwise an elementwise operation."""

    left: Value
    right: Value
    out: Value
    pairing: Pairing

    @property
    def equation(self) -> str:
        """The pair as an einsum equation, such as `td,rd->tr`."""
        return f"{self.left.axes},{self.right.axes}->{self.out.axes}"

    @property
    def is_product(self) -> bool:
        """Whether an axis is summed: torch then runs mm or bmm, which its FLOP counter counts."""
        return self.pairing.kind == "product"
