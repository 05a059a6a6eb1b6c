"""How many bytes a rank sends in the collectives that it calls, from the operations that a dispatch mode sees.

By ring algorithms, which send the least a rank can (Patarasuk and Yuan, Bandwidth optimal all-reduce algorithms for clusters of
workstations, 2009; NCCL's performance notes count so too): an all-reduce of S bytes over N ranks sends 2(N−1)/N · S from each, an
all-gather or reduce-scatter of S in all (N−1)/N · S, a broadcast (N−1)/N · S on average. S = 1,000 over 4: 1,500 and 750.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

TWICE = ("allreduce_", "all_reduce", "all_reduce_")
OF_FIRST = ("_allgather_base_", "broadcast_", "broadcast")  # the first operand is the whole
OF_SECOND = ("_reduce_scatter_base_",)  # the second is
OF_INPUT = ("reduce_scatter_tensor",)
TIMES_WORLD = ("all_gather_into_tensor",)  # the first operand is one rank's part
SILENT = ("barrier", "wait_tensor", "monitored_barrier_", "_wrap_tensor_autograd")
NAMESPACES = ("c10d", "_c10d_functional")


class Sent:
    """Adds up what collectives move; which of them it does not know, it names."""

    def __init__(self) -> None:
        self.reduced = self.moved = self.parts = 0  # bytes: all-reduced; gathered, scattered or broadcast; of parts that are gathered
        self.unknown: list[str] = []

    def see(self, func: Any, args: Sequence[Any]) -> None:
        """Count the operation if it is a collective."""
        if func.namespace not in NAMESPACES:
            return
        name = func._overloadpacket.__name__
        if name in TWICE:
            self.reduced += nbytes(args[0])
        elif name in OF_FIRST or name in OF_INPUT:
            self.moved += nbytes(args[0])
        elif name in OF_SECOND:
            self.moved += nbytes(args[1])
        elif name in TIMES_WORLD:
            self.parts += nbytes(args[0])
        elif name not in SILENT:
            self.unknown.append(name)

    def bytes(self, world: int) -> int:
        """What one of so many ranks sends, rounded to whole bytes."""
        return round((2 * self.reduced + self.moved) * (world - 1) / world + self.parts * (world - 1))


def nbytes(value: Any) -> int:
    """Bytes of a tensor, or of all in a list."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    return sum(nbytes(one) for one in value)


class Counted(TorchDispatchMode):
    """Counts the collectives that a real step calls, in `sent`."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = Sent()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(one.__name__ == "DTensor" for one in types):
            return NotImplemented  # a sharded tensor takes itself apart first
        self.sent.see(func, args)
        return func(*args, **(kwargs or {}))
