"""Which module keeps how many bytes for backward: autograd's saved tensors, matched with the blocks that outlive a forward pass.

What outlives the forward is exactly what the dry run calls kept. Most of it autograd saves, and belongs to the module that first saved it.
The rest is held otherwise and is named by the operation and the module that made it: the loss, Python numbers that operations keep (torch
shows those to no hook), tensors that Python objects hold (a stack's folded biases), and under checkpointing the generator's states, what
blocks take beside their first input, and rebuilt weights that all blocks share. What a checkpointed block saves goes to torch's own hooks,
which drop it, and is not kept; its input is, and counts for the block.
"""

from __future__ import annotations

import contextlib
import itertools
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from refta_profiler.measure.events import Block, record
from refta_profiler.measure.memory import MarkedStep
from refta_profiler.measure.modules import ROOT, ModuleStack, marked, pattern
from refta_profiler.workload import Workload


def saved_tensors(work: Workload, step: MarkedStep) -> dict[str, Any]:
    """What the first forward pass of a step keeps: {kept_bytes, saved_bytes, held_bytes, layers, modules, held, references}.

    kept_bytes = saved_bytes + held_bytes. modules: [{module, bytes, tensors}], each block once, where it was first saved; layers: the same
    over modules whose names differ in numbers alone, with `modules`, how many. held: [{what, module, bytes, blocks}] likewise.
    references: bytes of parameters, buffers and the batch that autograd refers to, by module, which were there before and are not kept.
    Blocks are counted as the allocator gave them. step(mark) runs a step and calls mark(phase) at the end of each phase.
    """
    saved = SavedStorages()
    ending: list[dict[int, str]] = []

    def observed(mark: Callable[[str], Any]) -> None:
        def end(phase: str) -> None:
            mark(phase)
            if not ending:
                ending.append(saved.owners())

        with saved.following(work.model), marked(work.model):
            step(end)

    recording = record(work, observed)
    kept = recording.live_at(recording.end_of("forward"))
    return {**split(kept, ending[0]), "references": references(work, ending[0])}


class SavedStorages:
    """Who saved which storage first, as long as autograd keeps it."""

    def __init__(self) -> None:
        self.stack = ModuleStack()
        self._count = itertools.count()
        self._live: weakref.WeakSet[_Saved] = weakref.WeakSet()

    @contextlib.contextmanager
    def following(self, model: torch.nn.Module) -> Iterator[None]:
        """Within it every tensor that autograd saves is seen."""
        with self.stack.following(model), torch.autograd.graph.saved_tensors_hooks(self._pack, _unpack):
            yield

    def _pack(self, tensor: torch.Tensor) -> _Saved:
        saved = _Saved(tensor, self.stack.innermost, next(self._count))
        self._live.add(saved)
        return saved

    def owners(self) -> dict[int, str]:
        """The module that first saved each storage that is saved now, by the storage's address."""
        found: dict[int, str] = {}
        for saved in sorted(self._live, key=lambda one: one.place):
            found.setdefault(saved.tensor.untyped_storage().data_ptr(), saved.module)
        return found


class _Saved:
    """A tensor in autograd's hands, gone when autograd lets go of it."""

    def __init__(self, tensor: torch.Tensor, module: str, place: int) -> None:
        self.tensor, self.module, self.place = tensor, module, place


def _unpack(saved: _Saved) -> torch.Tensor:
    return saved.tensor


def split(kept: Iterable[Block], owners: dict[int, str]) -> dict[str, Any]:
    """The kept blocks by the module that saved them, and those that nobody saved by what made them."""
    saved, held = [], []
    for block in kept:
        (saved if block.pointer in owners else held).append(block)
    modules = _by(saved, lambda block: owners[block.pointer])
    others = _by(held, lambda block: (what(block), pattern(block.module or ROOT)))
    return {
        "kept_bytes": sum(block.nbytes for block in [*saved, *held]),
        "saved_bytes": sum(block.nbytes for block in saved),
        "held_bytes": sum(block.nbytes for block in held),
        "layers": over_layers(modules),
        "modules": [{"module": name, "bytes": nbytes, "tensors": count} for name, nbytes, count in modules],
        "held": [{"what": name[0], "module": name[1], "bytes": nbytes, "blocks": count} for name, nbytes, count in others],
    }


def what(block: Block) -> str:
    """What a block is that autograd did not save: the operation that made it, or what is made outside operations, by its size."""
    if block.operation:
        return f"result of {block.operation}"
    return OUTSIDE.get(block.nbytes, "made outside of operations")


OUTSIDE = {torch.get_rng_state().nbytes: "state of the random generator, for checkpointing", 8: "a Python number"}


def over_layers(modules: Iterable[tuple[str, int, int]]) -> list[dict[str, Any]]:
    """(module, bytes, tensors) summed over the names that differ in numbers alone, most bytes first."""
    nbytes, tensors, members = Counter(), Counter(), Counter()
    for name, size, count in modules:
        nbytes[pattern(name)] += size
        tensors[pattern(name)] += count
        members[pattern(name)] += 1
    return [{"module": name, "modules": members[name], "bytes": size, "tensors": tensors[name]} for name, size in nbytes.most_common()]


def _by(blocks: Iterable[Block], key: Callable[[Block], Any]) -> list[tuple[Any, int, int]]:
    """(key, bytes, blocks), most bytes first."""
    nbytes, counts = Counter(), Counter()
    for block in blocks:
        nbytes[key(block)] += block.nbytes
        counts[key(block)] += 1
    return [(name, size, counts[name]) for name, size in nbytes.most_common()]


def references(work: Workload, owners: dict[int, str]) -> list[dict[str, Any]]:
    """[{module, bytes}] of what autograd refers to that was there before the step, over layers, most bytes first."""
    found = Counter()
    storages = {one.untyped_storage().data_ptr(): one.untyped_storage() for tensors in work.static_tensors().values() for one in tensors}
    for pointer, storage in storages.items():
        if pointer in owners:
            found[pattern(owners[pointer])] += storage.nbytes()
    return [{"module": name, "bytes": size} for name, size in found.most_common()]
