"""What the steps of a loop were fed: the sizes of each forward, and how many forwards make a step, as numbers and in a note's words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from refta_profiler.measure.rows import counted

Shape = tuple[int, int | None]  # examples of a forward, tokens of one
Step = Sequence[Shape]


def largest(steps: Sequence[Step]) -> Shape:
    """The forward of most examples times tokens: of (8, 12), (2, 96) and (8, 24) it is (8, 24); of as many, that of more examples."""
    return max((shape for step in steps for shape in step), key=lambda shape: (shape[0] * (shape[1] or 1), shape[0]))


def usual_forwards(steps: Iterable[Step]) -> int:
    """How many forwards most steps have: 2 of 2, 2 and 3; where as many steps have more, that."""
    counts = Counter(len(step) for step in steps)
    return max(counts, key=lambda number: (counts[number], number))


def forwards_words(steps: Iterable[Step]) -> str:
    """'4 forwards in a step', '1 to 3 forwards in a step'; '' where each has one."""
    counts = {len(step) for step in steps}
    return "" if counts <= {1} else f"{_range(counts)} forwards in a step"


def words(shape: Shape) -> str:
    """'8 examples of 96 tokens', '8 examples'."""
    batch, seq = shape
    examples = counted(batch, "example")
    return examples if seq is None else f"{examples} of {seq} tokens"


def sizes_words(steps: Iterable[Step], named: Shape) -> str:
    """'its forwards had 8 examples, 12 to 96 tokens, and the row names the largest of all measured steps'; '' where all are as named."""
    shapes = {shape for step in steps for shape in step}
    if shapes <= {named}:
        return ""
    examples, tokens = {batch for batch, _ in shapes}, {seq for _, seq in shapes if seq is not None}
    parts = [f"{_range(examples)} examples", *([f"{_range(tokens)} tokens"] if tokens else [])]
    return f"its forwards had {', '.join(parts)}, and the row names the largest of all measured steps"


def _range(numbers: set[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"
