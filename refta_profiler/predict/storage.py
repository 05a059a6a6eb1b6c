"""Every live storage of a run, followed by weak reference, as a stream of allocations and frees."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from refta_profiler import flops


@dataclass
class Block:
    """One storage: its bytes, where it came from, and when it went (indices into the stream; None while live)."""

    number: int
    nbytes: int
    phase: str
    operation: str
    shape: tuple[int, ...]
    born: int
    died: int | None = None
    died_phase: str | None = None
    is_gradient: bool = False


@dataclass
class Stream:
    """The allocations (+) and frees (−) of one step, in order, as (block number, sign)."""

    blocks: list[Block] = field(default_factory=list)
    events: list[tuple[int, int]] = field(default_factory=list)


class LiveStorages(TorchDispatchMode):
    """Follows storages that operations make, and counts FLOPs by phase. `phase` is set from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.phase = "forward"
        self.stream = Stream()
        self.flops_by_phase: dict[str, int] = {}
        self.branches = 0  # on the numbers of a tensor, all taken as true
        self.first_products: dict[str, int] = {}  # by phase: how many events stood before its first matrix product
        self._known: dict[int, weakref.ref] = {}
        self._live: dict[int, Block] = {}

    def know(self, tensors: Iterable[torch.Tensor]) -> None:
        """Take storages for granted: they are live before the stream begins."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._known[id(storage)] = weakref.ref(storage, lambda _, key=id(storage): self._known.pop(key, None))

    def close(self) -> None:
        """Follow no more: what goes from now on, goes because the model does."""
        self._known.clear()
        self._live.clear()

    def live_blocks(self) -> list[tuple[int, Block]]:
        """What is live now, by the identity of its storage."""
        return list(self._live.items())

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default and args[0].dtype == torch.bool:
            self.branches += 1  # e.g. LoHa's `torch.rand(1) > module_dropout`: fake tensors have no numbers to decide by
            return True
        out = func(*args, **(kwargs or {}))
        work = flops.count(func, args, kwargs or {}, out)
        if work:
            self.first_products.setdefault(self.phase, len(self.stream.events))
            self.flops_by_phase[self.phase] = self.flops_by_phase.get(self.phase, 0) + work
        self._follow(func, out)
        return out

    def _follow(self, func: Any, out: Any) -> None:
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._see(tensor, str(func))

    def _see(self, tensor: torch.Tensor, operation: str) -> None:
        storage = tensor.untyped_storage()
        key = id(storage)
        if key in self._known or storage.nbytes() == 0:
            return
        block = Block(len(self.stream.blocks), storage.nbytes(), self.phase, operation, tuple(tensor.shape), len(self.stream.events))
        self.stream.blocks.append(block)
        self.stream.events.append((block.number, 1))
        self._live[key] = block
        self._known[key] = weakref.ref(storage, lambda _, key=key, block=block: self._gone(key, block))

    def _gone(self, key: int, block: Block) -> None:
        self._known.pop(key, None)
        self._live.pop(key, None)
        block.died, block.died_phase = len(self.stream.events), self.phase
        self.stream.events.append((block.number, -1))
