"""Tensor trains as operands and trees, and the factors of a size that they are built on. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

from refta.errors import SettingError
from refta.network import Operand, Tree


def prime_factors(number: int) -> list[int]:
    """The prime factors, ascending; 12 has 2, 2, 3."""
    found, divisor = [], 2
    while divisor * divisor <= number:
        while number % divisor == 0:
            found.append(divisor)
            number //= divisor
        divisor += 1
    return [*found, number] if number > 1 else found


def balanced_factors(size: int, largest: int = 16) -> tuple[int, ...]:
    """The size as a product of few factors of at most `largest` where its primes allow: 1024 is 16 · 8 · 8, 768 is 12 · 8 · 8."""
    primes = prime_factors(size)
    count = max(1, math.ceil(math.log(size) / math.log(largest) - 1e-9)) if size > 1 else 1
    count = count if count < 2 or size >= 64 else 2
    parts = [1] * count
    for prime in reversed(primes):
        least = parts.index(min(parts))
        parts[least] *= prime
    return tuple(sorted(parts, reverse=True))


def grouped_factors(size: int, count: int) -> tuple[int, ...]:
    """The size as exactly that many factors, as even as its primes allow, ascending: 1024 in three is 8 · 8 · 16."""
    parts = [1] * count
    for prime in reversed(prime_factors(size)):
        parts[parts.index(min(parts))] *= prime
    return tuple(sorted(parts))


def splits(size: int) -> str:
    """Factorisations of a size that a message can offer: `1024 = 1024, 32·32, 16·8·8`."""
    primes = prime_factors(size)
    halves = grouped_factors(size, 2)
    offered = dict.fromkeys([(size,), halves, balanced_factors(size), tuple(reversed(primes)) or (1,)])
    return f"{size} = " + ", ".join("·".join(map(str, one)) for one in offered)


def checked_factors(name: str, factors: Sequence[int], size: int) -> tuple[int, ...]:
    """The factors; raises SettingError that offers factorisations where they do not multiply to the size."""
    if math.prod(factors) != size:
        raise SettingError(
            f"{name}: {'·'.join(map(str, factors))} is {math.prod(factors)}, not the layer's {size}; possible are {splits(size)}"
        )
    return tuple(factors)


def train_size(factors: Sequence[int], rank: int) -> int:
    """How many numbers a tensor train has: Σ r_{i-1} k_i r_i with ends of 1; (4, 8, 4) of rank 5 has 20 + 200 + 20."""
    ranks = [1, *[rank] * (len(factors) - 1), 1]
    return sum(ranks[i] * factor * ranks[i + 1] for i, factor in enumerate(factors))


def cores(
    factors: Sequence[int],
    rank: int,
    axes: Sequence[str],
    bonds: Sequence[str],
    *,
    name: str = "core",
    init: str = "normal",
    shared: bool = False,
) -> list[Operand]:
    """The cores of a tensor train, parameters of shape (r_{i-1}, k_i, r_i); `axes` are those of each core's k_i (one letter or more)."""
    ranks = [1, *[rank] * (len(factors) - 1), 1]
    edges = ["", *bonds, ""]
    return [
        Operand(f"{name}_{i}", edges[i] + axes[i] + edges[i + 1], shared=shared, shape=(ranks[i], factor, ranks[i + 1]), init=init)
        for i, factor in enumerate(factors)
    ]


def chain(start: Tree, rest: Sequence[Tree]) -> Tree:
    """One after the other from the left: ((start, a), b)."""
    tree = start
    for one in rest:
        tree = (tree, one)
    return tree


def middle_out(names: Sequence[str]) -> Tree:
    """A chain contracted from the right: (a, (b, c))."""
    return names[0] if len(names) == 1 else (names[0], middle_out(names[1:]))
