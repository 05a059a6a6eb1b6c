"""A thin matrix as a tensor train whose factors need not end where its rows do, as LoRETTA's do. No torch.

A train over (left × right) runs over the digits of left, then of right. A factor that reaches over the border is one core with two
digits: 4·8·8·8·4 over 1024 × 8 has digits 4, 8, 8, 4 | 2, 4. Left digits are read from the last (fastest) one on, as x is consumed
without a copy; right digits come out in the cores' order.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from refta.errors import SettingError
from refta.network import Operand
from refta.tensor_train import balanced_factors


@dataclass(frozen=True)
class MatrixTrain:
    """The cores of a thin matrix, and the axes of its left and right digits in the cores' order."""

    operands: tuple[Operand, ...]
    left: str
    right: str

    @property
    def names(self) -> list[str]:
        """The cores' names, first to last."""
        return [one.name for one in self.operands]


def default_factors(left: int, right: int) -> tuple[int, ...]:
    """Eights between two smaller ends where they fit the border, as LoRETTA's shapes: 1024 × 8 has 4·8·8·8·4, 1280 × 64 has 5·8·8·8·8·4."""
    size = left * right
    eights = 0
    while size % 8 ** (eights + 1) == 0 and size // 8 ** (eights + 1) >= 9:
        eights += 1
    for count in range(eights, 0, -1):
        small, large = _halves(size // 8**count)
        for first, last in ((small, large), (large, small)):
            shape = (first, *[8] * count, last)
            if max(large, 8) <= 4 * 8 and _fits(shape, [left]):
                return shape
    return (*balanced_factors(left), *balanced_factors(right))


def _halves(number: int) -> tuple[int, int]:
    small = next(one for one in range(math.isqrt(number), 0, -1) if number % one == 0)
    return small, number // small


def _cuts(factors: Sequence[int]) -> list[int]:
    return list(itertools.accumulate(factors, lambda a, b: a * b))


def _fits(factors: Sequence[int], borders: Iterable[int]) -> bool:
    cuts = sorted({1, *_cuts(factors), *borders})
    return all(upper % lower == 0 for lower, upper in itertools.pairwise(cuts))


def checked_shape(name: str, factors: Sequence[int] | None, left: int, right: int) -> tuple[int, ...]:
    """The factors of a train over left × right, found where none are given; raises SettingError that names a shape that is possible."""
    possible = default_factors(left, right)
    if factors is None:
        return possible
    shown = "·".join(map(str, factors))
    if math.prod(factors) != left * right:
        raise SettingError(
            f"{name}: {shown} is {math.prod(factors)}, not {left} × {right} = {left * right}; possible is {'·'.join(map(str, possible))}"
        )
    if not _fits(factors, [left]):
        raise SettingError(f"{name}: {shown} does not divide at {left} (of {left} × {right}); possible is {'·'.join(map(str, possible))}")
    return tuple(factors)


def matched_shape(name: str, factors: Sequence[int] | None, first: Sequence[int], left: int, right: int) -> tuple[int, ...]:
    """The second train's factors (over left × right) after a first one over (… × left): the mirrored shape where that fits."""
    mirrored = tuple(reversed(first))
    if math.prod(mirrored) == left * right and _fits(mirrored, [left]):
        return mirrored
    if factors is not None and math.prod(factors) == left * right:
        return checked_shape(name, factors, left, right)
    return (*_tail(first, left), *balanced_factors(right))


def _tail(factors: Sequence[int], size: int) -> tuple[int, ...]:
    """The digits of `size` at the end of a train, last one first."""
    found, rest = [], size
    for factor in reversed(factors):
        if rest == 1:
            break
        found.append(math.gcd(factor, rest))
        rest //= found[-1]
    return tuple(found)


def inner_digits(first: Sequence[int], outer: int, second: Sequence[int], inner: int) -> list[int]:
    """The digits of the inner size between two trains, outer × inner and inner × …, that suit both; in the first one's order.

    Raises SettingError where they have no common digits.
    """
    cuts = {cut // outer for cut in _cuts(first) if cut >= outer and cut % outer == 0}
    cuts |= {inner // cut for cut in _cuts(second) if cut <= inner and inner % cut == 0}
    chain = sorted({1, inner, *cuts})
    if any(upper % lower for lower, upper in itertools.pairwise(chain)):
        raise SettingError(f"tensor_shape: {'·'.join(map(str, first))} and {'·'.join(map(str, second))} share no digits of {inner}")
    return [upper // lower for lower, upper in itertools.pairwise(chain)]


def matrix_train(
    factors: Sequence[int],
    rank: int,
    name: str,
    *,
    left: int,
    inner: Sequence[int],
    inner_is_left: bool,
    letters: Iterator[str],
    inner_axes: str,
) -> tuple[MatrixTrain, dict[str, int]]:
    """The train over left × right and the sizes of its axes; the inner side's digits (in the cores' order) and their axes are given."""
    size = math.prod(factors)
    given = list(itertools.accumulate(inner, lambda a, b: a * b, initial=1))
    cuts = sorted({1, left, *_cuts(factors), *(given if inner_is_left else (left * one for one in given))})
    starts = {cut: place for place, cut in enumerate(cuts[:-1])}
    border = starts.get(left, len(cuts) - 1)
    digits = [upper // lower for lower, upper in itertools.pairwise(cuts)]
    outer = "".join(next(letters) for _ in range(len(digits) - len(inner)))
    axes = inner_axes + outer if inner_is_left else outer + inner_axes
    bonds = ["", *(next(letters) for _ in factors[1:]), ""]
    ranks = [1, *[rank] * (len(factors) - 1), 1]
    operands, begin = [], 0
    for i, end in enumerate(_cuts(factors)):
        stop = starts.get(end, len(digits)) if end < size else len(digits)
        axis = bonds[i] + axes[begin:stop] + bonds[i + 1]
        operands.append(Operand(f"{name}_{i}", axis, shared=False, shape=(ranks[i], factors[i], ranks[i + 1]), init="normalised"))
        begin = stop
    sizes = {**dict(zip(axes, digits, strict=True)), **{bond: rank for bond in bonds if bond}}
    return MatrixTrain(tuple(operands), axes[:border], axes[border:]), sizes


def two_trains(
    first: Sequence[int], second: Sequence[int], rank: int, *, outer: int, inner: int, names: tuple[str, str], letters: Iterator[str]
) -> tuple[MatrixTrain, MatrixTrain, dict[str, int]]:
    """Two trains, outer × inner and inner × …, that share the axes of the inner size; and the sizes of all axes."""
    digits = inner_digits(first, outer, second, inner)
    axes = "".join(next(letters) for _ in digits)
    one, sizes = matrix_train(first, rank, names[0], left=outer, inner=digits, inner_is_left=False, letters=letters, inner_axes=axes)
    other, more = matrix_train(
        second, rank, names[1], left=inner, inner=digits[::-1], inner_is_left=True, letters=letters, inner_axes=axes[::-1]
    )
    return one, other, {**sizes, **more}
