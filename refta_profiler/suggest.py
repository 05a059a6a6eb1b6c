"""The words of "did you mean", for messages about a name that is not there."""

from collections.abc import Iterable
from difflib import get_close_matches


def closest(word: object, names: Iterable[str]) -> str | None:
    """The one of `names` that `word` is most likely a slip of, or None.

    >>> closest("rnk", ["rank", "order"])
    'rank'
    """
    by_lower = {name.lower(): name for name in names}
    found = get_close_matches(str(word).lower(), list(by_lower), n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None
