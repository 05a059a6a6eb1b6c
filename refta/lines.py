"""Quantities that grow with the token count as straight lines, and which of several is least from which count on. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, order=False)
class Line:
    """`constant + per_token · t`, in whole FLOPs or bytes; Line(3, 2).at(10) is 23."""

    constant: int = 0
    per_token: int = 0

    def at(self, tokens: int) -> int:
        """The value at that many tokens."""
        return self.constant + self.per_token * tokens

    def __add__(self, other: Line) -> Line:
        return Line(self.constant + other.constant, self.per_token + other.per_token)

    def __mul__(self, factor: int) -> Line:
        return Line(self.constant * factor, self.per_token * factor)

    def starts_below(self, other: Line) -> bool:
        """Whether it is the lower up to where two lines meet, or throughout where they never do; Line(0, 2) is below Line(10, 1)."""
        tokens = self.crossover(other)
        at = Fraction(1) if tokens is None else tokens / 2
        return self.constant + self.per_token * at < other.constant + other.per_token * at

    def crossover(self, other: Line) -> Fraction | None:
        """The token count above zero where two lines meet, or None; Line(0, 2) and Line(10, 1) meet at 10."""
        slope = self.per_token - other.per_token
        if slope == 0:
            return None
        tokens = Fraction(other.constant - self.constant, slope)
        return tokens if tokens > 0 else None


def total(lines: Iterable[Line]) -> Line:
    """The sum of lines."""
    result = Line()
    for line in lines:
        result = result + line
    return result


def highest_lines(lines: Iterable[Line]) -> frozenset[Line]:
    """Those that do not lie under another at every token count."""
    different = set(lines)
    return frozenset(
        one
        for one in different
        if not any(other != one and other.constant >= one.constant and other.per_token >= one.per_token for other in different)
    )


@dataclass(frozen=True)
class Regime:
    """From that many tokens on (to the next regime), this order is the cheapest."""

    tokens: int
    order: str


def regimes(lines: dict[str, Line]) -> list[Regime]:
    """The lower envelope of lines over t ≥ 1: which is least from which token count; ties keep the line already least."""
    found, tokens = [], 1
    while True:
        least = min(line.at(tokens) for line in lines.values())
        candidates = [name for name, line in lines.items() if line.at(tokens) == least]
        name = min(candidates, key=lambda one: lines[one].per_token)
        found.append(Regime(tokens, name))
        later = [
            t for line in lines.values() if line.per_token < lines[name].per_token for t in [lines[name].crossover(line)] if t is not None
        ]
        later = [t for t in later if t >= tokens]
        if not later:
            return found
        tokens = math.floor(min(later)) + 1


def moments(lines: Iterable[Line]) -> list[int]:
    """The token counts, from 1 on, at which the order of lines by size may change: where two meet, and just beyond."""
    different = list(set(lines))
    meets = [one.crossover(other) for place, one in enumerate(different) for other in different[:place]]
    whole = {math.ceil(one) for one in meets if one is not None} | {math.floor(one) + 1 for one in meets if one is not None}
    return sorted({1, *whole})
