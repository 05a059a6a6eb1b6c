"""Which module is at work: hooks around every module's forward, and names that layers have in common."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn
from torch.profiler import record_function

OURS = "refta_profiler: "  # how the names of our own events among the profiler's begin
MODULE = f"{OURS}module "  # and its name: the events that stand around a module's forward
ROOT = "(model)"


def pattern(name: str) -> str:
    """The name with every number that is a part of its own as `*`: vit.layers.3.attention.q_proj → vit.layers.*.attention.q_proj."""
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", name)


@contextlib.contextmanager
def around_forwards(model: nn.Module, enter: Callable[[str], Any], leave: Callable[[str], Any]) -> Iterator[None]:
    """Within it enter(name) and leave(name) are called around every module's forward, also where it raises; the model is ROOT.

    A module that the model has under several names goes by the first. Checkpointing runs forwards again in backward, and they count too.
    """
    handles = []
    for found, module in model.named_modules():
        name = found or ROOT
        handles.append(module.register_forward_pre_hook(lambda module, inputs, name=name: enter(name)))
        handles.append(module.register_forward_hook(lambda module, inputs, outputs, name=name: leave(name), always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class ModuleStack:
    """The names of the modules that are at work, the innermost last."""

    def __init__(self) -> None:
        self.names: list[str] = []

    @property
    def innermost(self) -> str:
        """The module at work; ROOT where none is."""
        return self.names[-1] if self.names else ROOT

    def following(self, model: nn.Module) -> contextlib.AbstractContextManager[None]:
        """Within it the stack follows the model's forwards."""
        return around_forwards(model, enter=self._enter, leave=self._leave)

    def _enter(self, name: str) -> None:
        self.names.append(name)

    def _leave(self, name: str) -> None:
        self.names.pop()


@contextlib.contextmanager
def marked(model: nn.Module) -> Iterator[None]:
    """Within it the profiler has an event named MODULE and the module's name around every forward."""
    open_marks: list[Any] = []

    def enter(name: str) -> None:
        mark = record_function(MODULE + name)
        mark.__enter__()
        open_marks.append(mark)

    def leave(name: str) -> None:
        open_marks.pop().__exit__(None, None, None)

    with around_forwards(model, enter, leave):
        yield
