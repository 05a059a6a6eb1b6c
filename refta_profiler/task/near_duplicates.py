"""Which texts belong together because they say nearly the same: a split that parts them would leak. No torch."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence

SIMILAR = 0.7  # the share of words that two texts have in common (Jaccard), from which they count as near-duplicates


def together(texts: Sequence[str], documents: Sequence[Hashable], *, similar: float = SIMILAR) -> list[int]:
    """A group number a text: texts of one document share it, and so do documents that hold near-duplicates of each other.

    Documents a: ["one two"], b: ["one two!"], c: ["three"] make groups 0, 0, 2: the number is the first text's.
    """
    parents = list(range(len(texts)))

    def root(place: int) -> int:
        while parents[place] != place:
            parents[place] = parents[parents[place]]
            place = parents[place]
        return place

    first: dict[Hashable, int] = {}
    same = [(first.setdefault(document, place), place) for place, document in enumerate(documents)]
    for one, other in [*same, *pairs(texts, similar=similar)]:
        low, high = sorted((root(one), root(other)))
        parents[high] = low
    return [root(place) for place in range(len(texts))]


def pairs(texts: Sequence[str], *, similar: float = SIMILAR) -> Iterator[tuple[int, int]]:
    """The places of texts whose sets of words overlap by at least `similar` (intersection over union).

    Prefix filtering: such two share one of the rarest |words| − ⌈similar · |words|⌉ + 1 words (Bayardo, Ma and Srikant, WWW 2007).
    """
    sets = [words(text) for text in texts]
    counts = Counter(word for one in sets for word in one)
    index: dict[str, list[int]] = defaultdict(list)
    for place, own in enumerate(sets):
        ordered = sorted(own, key=lambda word: (counts[word], word))
        rare = ordered[: len(own) - math.ceil(similar * len(own)) + 1]
        for other in {found for word in rare for found in index[word]}:
            if overlap(own, sets[other]) >= similar:
                yield other, place
        for word in rare:
            index[word].append(place)


def words(text: str) -> frozenset[str]:
    """The words of a text in lower case, without signs; of a text of signs alone, the text itself."""
    found = frozenset(re.findall(r"[a-z0-9']+", text.lower()))
    return found or frozenset([text.strip()])


def overlap(one: frozenset[str], other: frozenset[str]) -> float:
    """Intersection over union: {a, b} and {b, c} give 1/3."""
    return len(one & other) / len(one | other)


def draw(key: str) -> float:
    """A number in [0, 1) that the key alone determines, the same on every machine."""
    return int(hashlib.sha256(key.encode()).hexdigest()[:12], 16) / 16**12
