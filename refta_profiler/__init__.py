"""Does ReFTA pay off? Importing this loads no torch and no transformers (PEP 562)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from refta_profiler.measure.loop import profile
    from refta_profiler.measure.trainer import TrainerCallback

__all__ = ["TrainerCallback", "profile"]

_PLACES = {"profile": "refta_profiler.measure.loop", "TrainerCallback": "refta_profiler.measure.trainer"}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(importlib.import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'refta_profiler' has no attribute '{name}'")
