"""Which versions a measurement depends on, and whether a node has the driver's. No torch."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path

PACKAGES = ("torch", "transformers", "peft")
ABSENT = "not installed"


@cache
def here() -> dict[str, str]:
    """{python, torch, transformers, peft, refta_profiler} of this process; of our own code, which travels, a hash of its sources."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    return found | {name: version(name) for name in PACKAGES} | {"refta_profiler": sources()}


def version(name: str) -> str:
    """The installed version without what says how it was built: of 2.13.0+cpu 2.13.0."""
    try:
        return importlib.metadata.version(name).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return ABSENT


def sources() -> str:
    """Eight hex digits of a hash of the text of both packages."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[2]
    for path in sorted(path for package in ("refta", "refta_profiler") for path in (root / package).rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:8]


def unlike(driver: Mapping[str, str], node: Mapping[str, str]) -> str:
    """'torch 2.12.0, the driver has 2.13.0; …': what a node has otherwise; '' where it has all that the driver has."""
    parts = [f"{name} {node.get(name, ABSENT)}, the driver has {wanted}" for name, wanted in driver.items() if node.get(name) != wanted]
    return "; ".join(parts)
