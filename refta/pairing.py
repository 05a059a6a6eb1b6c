"""How two tensors are contracted: which axes are rows, columns, batch and inner, and which side has to be copied for it. No torch.

Axes are given in memory order: a tensor of axes `tbr` is contiguous as (t, b, r). `linear.py` runs what is planned here and `cost.py`
counts it, so that a copy that autograd keeps is counted exactly where it is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Literal

TOKENS_ASSUMED = 1024  # only to weigh a copy that has tokens against one that has none

Kind = Literal["product", "multiply", "add", "relu"]


@dataclass(frozen=True)
class Pairing:
    """One binary contraction as a matrix product (batch × rows × inner) · (batch × inner × columns), or an elementwise one.

    `out` is the result's memory order. `swapped`: the right tensor gives the rows. A copied side is made contiguous first.
    """

    kind: Kind
    out: str
    batch: str = ""
    rows: str = ""
    inner: str = ""
    columns: str = ""
    swapped: bool = False
    left_copied: bool = False
    right_copied: bool = False


def pair(left: str, right: str, wanted: str, sizes: Mapping[str, int]) -> Pairing:
    """The pairing that copies least; `wanted` are the axes that must survive, in their order where nothing else does.

    `td,rd->tr` has rows t, inner d, columns r and copies nothing; `tabr,bra->t` wants its inner axes in one order on both sides, so
    the smaller side is copied.
    """
    summed = (set(left) | set(right)) - set(wanted)
    if not summed:
        return _multiplied(left, right, sizes)
    best, least = None, None
    for one in _products(left, right, wanted, sizes):  # not min with a key, at which torch.compile would break the graph
        weight = _weight(one, left, right, wanted, sizes)
        if least is None or weight < least:
            best, least = one, weight
    assert best is not None
    return best


def _multiplied(left: str, right: str, sizes: Mapping[str, int]) -> Pairing:
    """The elementwise (or outer) product: the left tensor's axes, the right one's own put in where they keep its order."""
    out, place, common = left, 0, set(left) & set(right)
    for position, axis in enumerate(right):
        if axis in common:
            place = max(place, out.index(axis) + 1)
            continue
        following = next((one for one in right[position:] if one in common), None)
        place = out.index(following) if following else (place if any(one in common for one in right[:position]) else len(out))
        out = out[:place] + axis + out[place:]
        place += 1
    ordered = "".join(axis for axis in out if axis in right)
    return Pairing("multiply", out, right_copied=not viewable(right, [ordered], sizes))


def _products(left: str, right: str, wanted: str, sizes: Mapping[str, int]) -> Iterator[Pairing]:
    """Every layout of the product: either side first, batch and inner axes in either side's order."""
    shared = set(left) & set(right)
    for swapped in (False, True):
        first, second = (right, left) if swapped else (left, right)
        rows = "".join(axis for axis in first if axis not in shared)
        columns = "".join(axis for axis in second if axis not in shared)
        for batch_side, inner_side in product((first, second), repeat=2):
            batch = "".join(axis for axis in batch_side if axis in shared and axis in wanted)
            inner = "".join(axis for axis in inner_side if axis in shared and axis not in wanted)
            first_copied = not viewable(first, [batch, rows, inner], sizes)
            second_copied = not viewable(second, [batch, inner, columns], sizes)
            copied = (second_copied, first_copied) if swapped else (first_copied, second_copied)
            yield Pairing("product", batch + rows + columns, batch, rows, inner, columns, swapped, *copied)


def _weight(one: Pairing, left: str, right: str, wanted: str, sizes: Mapping[str, int]) -> tuple[int, bool]:
    copies = one.left_copied * _elements(left, sizes) + one.right_copied * _elements(right, sizes)
    turned = set(one.out) == set(wanted) and not viewable(one.out, [wanted], sizes)
    return copies + turned * _elements(one.out, sizes), one.swapped


def viewable(memory: str, groups: list[str], sizes: Mapping[str, int]) -> bool:
    """Whether a contiguous tensor can be seen as a tensor of these groups of axes without a copy: each group adjacent and in order."""
    plain = "".join(axis for axis in memory if axis == "t" or sizes[axis] != 1)
    return all("".join(axis for axis in group if axis in plain) in plain for group in groups)


def _elements(axes: str, sizes: Mapping[str, int]) -> int:
    result = 1
    for axis in axes:
        result *= TOKENS_ASSUMED if axis == "t" else sizes[axis]
    return result
