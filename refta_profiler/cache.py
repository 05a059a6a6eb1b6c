"""Where what is computed once is kept between runs: $XDG_CACHE_HOME/refta_profiler, by default ~/.cache/refta_profiler."""

from __future__ import annotations

import os
from pathlib import Path


def folder(name: str) -> Path:
    """The cache's folder of that name; it need not exist."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "refta_profiler" / name
