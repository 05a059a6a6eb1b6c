"""The memory of a stretch of somebody else's code: from its start to its end, whatever was alive before.

The CPU profiler reports a free only of blocks that were allocated while it ran. A loop of one's own may free older ones within its step:
gradients that are dropped after the forward, the loss and the outputs of the step before, a batch. So every storage that Python can see
is counted when the window opens and followed by weak reference; one that goes leaves a mark among the profiler's events, in their order.
"""

from __future__ import annotations

import functools
import gc
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch._C._profiler import _EventType
from torch.profiler import record_function

from refta_profiler.measure.memory import ROUNDING, _silent, highest_sum, memory_profiler

FREED = "refta_profiler: freed bytes "  # the mark's name, before the bytes


class CpuWindow:
    """Peak memory on the CPU between `start` and `stop`."""

    def __init__(self) -> None:
        self.live_bytes = 0
        self._watched: list[weakref.ref] = []
        self._profiler = memory_profiler()

    def start(self, known: Iterable[torch.Tensor]) -> None:
        """Count what is alive, and follow what comes and goes; `known` counts whatever the garbage collector lists."""
        gc.collect()
        found = live_storages(torch.device("cpu"), known)
        self.live_bytes = sum(storage.nbytes() for storage in found)
        self._watched = [weakref.ref(storage, functools.partial(_mark, storage.nbytes())) for storage in found]
        older = torch.empty(1)
        with _silent():
            self._profiler.start()
            del older  # the first free of an older block in a process makes torch print a warning: here, where it is not seen

    def stop(self) -> dict[str, int]:
        """static_bytes (live at the start) and peak_allocated_bytes."""
        self.abandon()
        assert self._profiler.profiler and self._profiler.profiler.kineto_results
        found = changes(self._profiler.profiler.kineto_results.experimental_event_tree())
        return {"static_bytes": self.live_bytes, "peak_allocated_bytes": self.live_bytes + highest_sum(found)}

    def abandon(self) -> None:
        """Follow nothing any more."""
        self._watched.clear()
        with _silent():
            self._profiler.stop()


class CudaWindow:
    """Peaks on a CUDA device between `start` and `stop`, from the caching allocator."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.live_bytes = 0

    def start(self, known: Iterable[torch.Tensor]) -> None:
        """Count what is alive, and set the allocator's peaks back."""
        gc.collect()
        torch.cuda.synchronize(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        self.live_bytes = torch.cuda.memory_allocated(self.device)

    def stop(self) -> dict[str, int]:
        """static_bytes (live at the start), peak_allocated_bytes and peak_reserved_bytes."""
        torch.cuda.synchronize(self.device)
        return {
            "static_bytes": self.live_bytes,
            "peak_allocated_bytes": torch.cuda.max_memory_allocated(self.device),
            "peak_reserved_bytes": torch.cuda.max_memory_reserved(self.device),
        }

    def abandon(self) -> None:
        """Nothing: the allocator counts anyway."""


def live_storages(device: torch.device, held: Iterable[torch.Tensor] = ()) -> list[torch.UntypedStorage]:
    """Every storage on the device that a Python object or its gradient holds, once; `held` is for what the collector does not list.

    What only C++ holds is not seen: tensors that a graph saved for a backward that never ran.
    """
    found = {}
    with torch._C.DisableTorchFunctionSubclass():
        for one in [*held, *(one for one in gc.get_objects() if issubclass(type(one), torch.Tensor))]:
            for tensor in (one, one.grad if one.is_leaf else None):
                storage = None if tensor is None else _storage(tensor, device)
                if storage is not None:
                    found[storage._cdata] = storage
    return list(found.values())


def _storage(tensor: torch.Tensor, device: torch.device) -> torch.UntypedStorage | None:
    """The tensor's memory on the device; None where it has none (sparse, fake, a wrapper around tensors that are listed themselves)."""
    try:
        storage = tensor.untyped_storage()
        return storage if storage.device == device and storage.data_ptr() else None
    except RuntimeError:  # what torch says of a tensor without storage
        return None


def nbytes(tensors: Iterable[torch.Tensor], device: torch.device) -> int:
    """Bytes of the tensors' memory on the device, every storage once, in the allocator's blocks on CUDA."""
    found = {storage._cdata: storage.nbytes() for one in tensors if (storage := _storage(one, device)) is not None}
    block = 1 if device.type == "cpu" else ROUNDING
    return sum(-(-size // block) * block for size in found.values())


def _mark(size: int, _: weakref.ref) -> None:
    """Writes among the profiler's events that an older block of that size went now."""
    with record_function(f"{FREED}{size}"):
        pass


def changes(roots: Sequence[Any]) -> list[int]:
    """Allocations (+) and frees (−) of the profiler's event tree in order of time, in bytes, marks of older blocks among them.

    A free at an address that was not allocated in the tree is left out: the profiler knows it from an earlier window, perhaps with the
    size of a block that went since, and an older block has its mark.
    """
    live: set[int] = set()
    found = []
    for node in sorted(_nodes(roots), key=lambda node: node.start_time_ns):
        if node.name.startswith(FREED):
            found.append(-int(node.name.removeprefix(FREED)))
        elif node.tag == _EventType.Allocation and node.extra_fields.device.type == "cpu":
            place, size = node.extra_fields.ptr, node.extra_fields.alloc_size
            if size > 0:
                live.add(place)
            elif place not in live:
                continue
            else:
                live.remove(place)
            found.append(size)
    return found


def _nodes(roots: Sequence[Any]) -> Iterator[Any]:
    """Every node of a tree of events."""
    waiting = list(roots)
    while waiting:
        node = waiting.pop()
        waiting += node.children
        yield node
