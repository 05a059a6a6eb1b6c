"""Every live storage of a run, followed by weak reference, as a stream of allocations and frees."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterable, Sequence
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


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation that the device runs: its FLOPs, and the bytes that it reads and writes (0 for a view, which runs nothing)."""

    phase: str
    name: str
    dtype: str
    flops: int
    nbytes: int


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
        self.operations: list[Operation] = []
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
        if func.namespace != "prim":
            self.record(str(func._overloadpacket), work, moved_bytes(func, args, out), dtype_of(args, out))
        self._follow(func, out)
        return out

    def record(self, name: str, work: int, nbytes: int, dtype: str) -> None:
        """Count an operation of that many FLOPs and bytes moved in the phase at hand."""
        if work:
            self.flops_by_phase[self.phase] = self.flops_by_phase.get(self.phase, 0) + work
        self.operations.append(Operation(self.phase, name, dtype, work, nbytes))

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


def moved_bytes(func: Any, args: Sequence[Any], out: Any) -> int:
    """Bytes that an operation reads and writes, each operand once; 0 for views and for memory that is only taken (`empty`)."""
    if _runs_nothing(func):
        return 0
    return sum(touched_bytes(one) for one in tree_leaves((args, out)) if isinstance(one, torch.Tensor))


@functools.cache
def _runs_nothing(func: Any) -> bool:
    """Whether an operation makes a view (its result aliases an operand that it does not write), or takes memory and fills nothing."""
    aliases = [one.alias_info for one in func._schema.returns]
    view = any(one is not None and not one.is_write for one in aliases)
    return (
        view
        or func._overloadpacket.__name__ in ("_unsafe_view", "lift_fresh")
        or func._overloadpacket.__name__.startswith(("empty", "new_empty"))
    )


def touched_bytes(tensor: torch.Tensor) -> int:
    """Bytes of a tensor's numbers, an expanded axis once: 1024 × 8 in float32 expanded from 1024 × 1 is 4,096."""
    count = tensor.itemsize
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride or size == 0 else 1
    return count


def dtype_of(args: Sequence[Any], out: Any) -> str:
    """The dtype that an operation computes in: its first floating-point operand's, else its result's; '' where it has none."""
    for one in tree_leaves((args, out)):
        if isinstance(one, torch.Tensor) and one.is_floating_point():
            return str(one.dtype).removeprefix("torch.")
    return ""
