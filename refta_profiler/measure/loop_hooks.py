"""Hooks that stay with the model that they were put on: a copy of it, or one that is read back from a file, has none that does anything."""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def nothing(*_: Any) -> None:
    """What stands in a copy of the model for a hook of the model's own."""


def hook_of(model: nn.Module, call: Callable[..., None]) -> Callable[..., None]:
    """`call` as a hook on that model alone. Where the model is compiled it runs as it is, outside of what is compiled."""
    return _kind()(model, call)


@functools.cache
def _kind() -> type:
    """The class of such hooks; torch.compile is loaded to make it, which takes a second."""

    class Hook:
        def __init__(self, model: nn.Module, call: Callable[..., None]) -> None:
            self.model, self.call = weakref.ref(model), call

        def run(self, module: nn.Module, *given: Any) -> None:
            if module is self.model():  # a shallow copy shares the model's hooks
                self.call(module, *given)

        __call__ = torch.compiler.disable(run)

        def __deepcopy__(self, _: dict[int, Any]) -> Callable[..., None]:
            return nothing

        def __reduce__(self) -> tuple[Any, ...]:
            return getattr, (contextlib.nullcontext(), "__exit__")  # takes anything and gives None, wherever the file is read

    return Hook
