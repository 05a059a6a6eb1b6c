"""What a stack builds for all of its layers once per step: when it is made, how long it lives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from refta import autocast

Part = tuple[torch.Tensor, torch.Tensor | None]  # a layer's weight and bias


class BuiltPerStep(nn.Module):
    """A stack that builds something for all of its layers at the start of the model's forward.

    It is dropped when its gradient is complete, and at the end of a forward that records none; the next forward builds anew in any
    case. It is not built at first use, which may lie inside a checkpointed block: there autograd would throw it away and build it again.
    A forward of a part of the model builds at first use all the same, out of a checkpoint's sight.
    """

    _built: tuple[Any, list[Part]] | None = None
    _thawed: Sequence[torch.Tensor] = ()  # of the base weights and biases that were built from those that are trained too
    _handles: tuple = ()
    _in_forward = False

    def build(self) -> tuple[torch.Tensor, list[Part]]:
        """The tensor whose gradient is the last thing wanted of what is built, and each layer's part."""
        raise NotImplementedError

    def sources(self) -> list[torch.Tensor]:
        """The adapter's tensors that it is built from and that training changes."""
        raise NotImplementedError

    def base(self) -> list[torch.Tensor]:
        """The frozen layers' own tensors that it is built from; a user may thaw them."""
        raise NotImplementedError

    def watch(self, model: nn.Module) -> None:
        """Build at the start of every forward of the model."""
        self._handles = (model.register_forward_pre_hook(self._begin), model.register_forward_hook(self._end, always_call=True))

    def unwatch(self) -> None:
        """Leave the model alone again."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._built = (), None

    def part(self, layer: int, layers: int) -> Part:
        """A layer's part of what is built, of that many layers."""
        if not self._is_current():
            with saved_tensors_hooks(torch.Tensor.detach, lambda kept: kept):
                self._make()
        assert self._built is not None
        found = self._built[1][layer]
        if layer == layers - 1 and not torch.is_grad_enabled() and not self._in_forward:
            self._built = None
        return found

    def _begin(self, *_: Any) -> None:
        self._in_forward = True
        self._make()

    def _end(self, *_: Any) -> None:
        self._in_forward = False
        if not torch.is_grad_enabled():
            self._built = None

    def _make(self) -> None:
        self._built = None  # the old one's memory goes before the new one's comes
        self._thawed = [one for one in self.base() if one.requires_grad]
        whole, parts = self.build()
        if whole.requires_grad:
            whole.register_hook(self._forget)
        self._built = (self._state(), parts)

    def _is_current(self) -> bool:
        """Whether what is built is of the sources as they are, and has a graph where one is wanted."""
        if self._built is None or self._built[0] != self._state():
            return False
        wanted = torch.is_grad_enabled() and any(source.requires_grad for source in (*self.sources(), *self._thawed))
        return not wanted or any(one is not None and one.requires_grad for one in self._built[1][0])

    def _state(self) -> tuple:
        sources = [*self.sources(), *self._thawed]
        return *((id(one), one._version) for one in sources), autocast.is_on(sources[0])

    def _forget(self, gradient: torch.Tensor) -> None:
        self._built = None

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_built": None, "_thawed": ()}
