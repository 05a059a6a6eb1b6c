"""Step FLOPs as a line in the batch, from dry runs, and where two of them cross. No torch.

Of one order they are a constant (weights that are rebuilt) and a multiple of the batch, checkpointing's second forward included.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from refta.lines import Line


@dataclass(frozen=True)
class Fewer:
    """The label that needs fewer step FLOPs up to batch `last`, None for at every batch; no label where both need the same at every one."""

    label: str | None
    last: int | None


def fewer(known: Mapping[str, Mapping[int, int]]) -> Fewer | None:
    """Of two labels, each with its step FLOPs by batch; None where one is not a line: of 10 + 2·b and 4·b the second, up to batch 4."""
    (first, one), (second, other) = ((label, line(values)) for label, values in known.items())
    if one is None or other is None:
        return None
    if one == other:
        return Fewer(None, None)
    meet, lower = one.crossover(other), first if one.starts_below(other) else second
    if meet is None:
        return Fewer(lower, None)
    if meet <= 1:
        return Fewer(first if lower == second else second, None)
    return Fewer(lower, math.ceil(meet) - 1)


def line(values: Mapping[int, int]) -> Line | None:
    """The line in the batch through all of these; None of fewer than two batches, and where one lies beside it: of {1: 5, 3: 9} 3 + 2·b."""
    if len(values) < 2:
        return None
    least, most = min(values), max(values)
    slope, rest = divmod(values[most] - values[least], most - least)
    found = Line(values[least] - slope * least, slope)
    return found if not rest and all(found.at(batch) == value for batch, value in values.items()) else None
