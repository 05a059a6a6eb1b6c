"""ReFTA and the adapters it is compared with, for any transformers model. Importing this loads no torch (PEP 562)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from refta.adapter import Adapted, adapt, load, merge, save

__version__ = "0.1.0"
__all__ = ["Adapted", "adapt", "load", "merge", "methods", "save"]

_ADAPTER = ("Adapted", "adapt", "load", "merge", "save")


importlib.import_module("refta.methods")  # binds the folder's name here, once; the function below is to have it


def methods() -> list[str]:
    """The names of all methods, sorted."""
    from refta import registry

    return registry.names()


def __getattr__(name: str) -> Any:
    if name in _ADAPTER:
        return getattr(importlib.import_module("refta.adapter"), name)
    if name in ("tensor_svd", "cost", "network", "sites", "registry", "transforms", "linear", "files"):
        return importlib.import_module(f"refta.{name}")
    raise AttributeError(f"module 'refta' has no attribute '{name}'")
