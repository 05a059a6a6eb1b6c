"""One cell of the comparison: a model at a batch, all contenders in one process, their steps interleaved."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch.autograd.graph import saved_tensors_hooks

from benchmarks.contenders import Contender
from refta_profiler.flops import FlopCounter
from refta_profiler.measure import memory


@dataclass
class Measured:
    """What was measured of one contender in a cell; `peak_bytes` are of its own step: static and the highest sum of what it allocates.

    `kept_bytes` of the adapted layers alone: beyond x, and x itself. `samples`: seconds of each step, in the order of the rounds.
    """

    label: str
    peak_bytes: int
    kept_bytes: int
    kept_inputs: int
    flops: int
    trained: int
    setup_seconds: float | None
    samples: list[float] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """The median step."""
        return statistics.median(self.samples)

    def ratio(self, other: Measured) -> float:
        """The median of this one's steps over the other's of the same round, which a drift of the machine does not move."""
        return statistics.median(one / two for one, two in zip(self.samples, other.samples, strict=True))


def measure(found: Sequence[Contender], *, steps: int, budget_seconds: float) -> list[Measured]:
    """Every contender's memory and FLOPs, then the rounds: at most `steps`, at least 3, as many as the budget pays for."""
    results = [_instrumented(one) for one in found]
    for one in found:  # memory was watched; now without instruments
        one.prepare()
        one.step()
    rounds, spent = 0, 0.0
    while rounds < steps and (rounds < 3 or spent < budget_seconds):
        began = time.perf_counter()
        for place in range(len(found)):
            _time(found[(place + rounds) % len(found)], results[(place + rounds) % len(found)])
        spent += time.perf_counter() - began
        rounds += 1
    return results


def _time(one: Contender, result: Measured) -> None:
    one.prepare()
    device = next(one.work.model.parameters()).device
    _finish(device)
    start = time.perf_counter()
    one.step()
    _finish(device)
    result.samples.append(time.perf_counter() - start)
    one.work.optimizer.zero_grad(set_to_none=True)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _instrumented(one: Contender) -> Measured:
    """Kept bytes and FLOPs of a first step, in which the optimizer's state appears, and the peak of a second."""
    one.prepare()
    kept, inputs, flops = _watched(one)
    peak = _peak(one)
    trained = sum(parameter.numel() for parameter in one.work.model.parameters() if parameter.requires_grad)
    return Measured(one.label, peak, kept, inputs, flops, trained, one.setup_seconds)


def _peak(one: Contender) -> int:
    """Bytes of weights, optimizer and batch, and the highest sum of what the step allocates beside them."""
    work = one.work
    if next(work.model.parameters()).device.type != "cuda":
        return memory.cpu_peak(work, one.step)
    found = memory.cuda_peaks(work, lambda mark: one.step())  # of all contenders' weights together: what the step adds is its own
    return memory.static_bytes(work) + found["peak_allocated_bytes"] - found["static_bytes"]


def _watched(one: Contender) -> tuple[int, int, int]:
    """Bytes that autograd keeps within the adapted layers beyond x, those of x, and FLOPs of the step."""
    watch, counter = _Watch(one), FlopCounter()
    with counter:
        one.step()
    watch.stop()
    one.work.optimizer.zero_grad(set_to_none=True)
    gc.collect()
    return watch.kept_bytes(), watch.input_bytes(), counter.total()


class _Watch:
    """Distinct storages that are saved for backward while an adapted layer runs forward, told apart: layer inputs, and the rest."""

    def __init__(self, one: Contender):
        model = one.work.model
        self.own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
        self.inputs: dict[int, torch.UntypedStorage] = {}
        self.saved: dict[int, torch.UntypedStorage] = {}
        self.handles = []
        for path in one.sites:
            module = model.get_submodule(path)
            self.handles += [module.register_forward_pre_hook(self._enter), module.register_forward_hook(self._leave)]

    def _enter(self, module, inputs) -> None:
        storage = inputs[0].untyped_storage()
        self.inputs[storage.data_ptr()] = storage
        self.hooks = saved_tensors_hooks(self._pack, lambda tensor: tensor)
        self.hooks.__enter__()

    def _leave(self, module, inputs, output) -> None:
        self.hooks.__exit__(None, None, None)

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.own:
            self.saved[storage.data_ptr()] = storage
        return tensor

    def stop(self) -> None:
        """Leave the model alone again."""
        for handle in self.handles:
            handle.remove()

    def kept_bytes(self) -> int:
        """Of what is no layer input."""
        return sum(storage.nbytes() for place, storage in self.saved.items() if place not in self.inputs)

    def input_bytes(self) -> int:
        """Of layer inputs."""
        return sum(storage.nbytes() for place, storage in self.saved.items() if place in self.inputs)


def by_label(found: Sequence[Measured]) -> dict[str, Measured]:
    """The results by label."""
    return {one.label: one for one in found}
