"""The dry run: the real training step on fake tensors, every live storage followed. No GPU, no weights."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from refta import registry
from refta.cost import folded_axes
from refta.shapes import StackShape
from refta_profiler import devices, models, workload
from refta_profiler.plan import Point
from refta_profiler.predict import fake
from refta_profiler.predict.allocator import CachingAllocator
from refta_profiler.predict.kernels import CudaKernels, cublas_workspace_bytes
from refta_profiler.predict.operands import CpuStorages
from refta_profiler.predict.replay import Memory, PlainMemory, replay
from refta_profiler.predict.storage import Block, LiveStorages, Stream
from refta_profiler.workload import Workload

RNG_STATE = 5056  # bytes of torch's CPU generator state, which checkpointing keeps per block


@dataclass
class DryRun:
    """What a dry run found. Bytes by category are those at the peak and sum to it."""

    peak_allocated_bytes: int
    peak_reserved_bytes: int | None  # None where the device has no caching allocator
    static_bytes: int
    kept_bytes: int
    flops_by_phase: dict[str, int]
    by_category: dict[str, int]
    trainable_parameters: int
    adapter_parameters: int
    shapes: list[StackShape]
    note: str = ""


def dry_run(point: Point, target: str, slice_ranks: Mapping[str, Sequence[int]] | None = None) -> DryRun:
    """The point's training step on `target` (a name of devices.yaml), predicted.

    Two steps run: the optimizer's state appears in the first, the second is followed.
    """
    device = devices.get(target)
    cuda = device.kind == "cuda"
    mode = FakeTensorMode()
    with warnings.catch_warnings(), _kernels(device), models.without_packing(), _random_state():
        warnings.simplefilter("ignore")
        work = fake.build(point, mode, foreach=cuda, slice_ranks=slice_ranks)
        with mode:
            initial = _initial(work)
            live = _followed_steps(work, LiveStorages() if cuda else CpuStorages())
            gradients = {id(one.grad.untyped_storage()) for one in work.model.parameters() if one.grad is not None}
            _mark_gradients(live, gradients)
    return _summary(work, initial, live, device)


@contextlib.contextmanager
def _kernels(device: devices.Device) -> Iterator[None]:
    if device.kind != "cuda":
        yield
        return
    with CudaKernels(device.compute_capability or (8, 0)):
        yield


@contextlib.contextmanager
def _random_state() -> Iterator[None]:
    """Checkpointing saves the CPU generator's state per block, a real tensor that a dispatch mode does not see: give it a fake one."""
    kept = torch.get_rng_state, torch.set_rng_state
    torch.get_rng_state = lambda: torch.empty(RNG_STATE, dtype=torch.uint8)
    torch.set_rng_state = lambda state: None
    try:
        yield
    finally:
        torch.get_rng_state, torch.set_rng_state = kept


def _followed_steps(work: Workload, live: LiveStorages) -> LiveStorages:
    live.know(one for tensors in work.static_tensors().values() for one in tensors)
    with live:
        live.phase = "warm forward"
        workload.training_step(work, _marker(live, work.point.accumulate, "warm "))
        work.optimizer.zero_grad(set_to_none=True)
        live.boundary, live.phase = len(live.stream.events), "forward"
        workload.training_step(work, _marker(live, work.point.accumulate, ""))
    return live


def _marker(live: LiveStorages, accumulate: int, prefix: str) -> Callable[[str], None]:
    """What tells the stream which phase comes next: forward and backward as often as gradients accumulate, then the optimizer."""
    passes = 0

    def mark(phase: str) -> None:
        nonlocal passes
        passes += phase == "backward"
        again = phase == "backward" and passes < accumulate
        following = {"forward": "backward", "backward": "forward" if again else "optimizer", "optimizer": "end"}
        live.phase = prefix + following[phase]

    return mark


def _initial(work: Workload) -> list[tuple[str, int]]:
    """What is live before the first step, by category; every storage once."""
    seen: dict[int, tuple[str, int]] = {}
    for category, tensors in work.static_tensors().items():
        for tensor in tensors:
            storage = tensor.untyped_storage()
            seen.setdefault(id(storage), (category, storage.nbytes()))
    return list(seen.values())


def _mark_gradients(live: LiveStorages, gradients: set[int]) -> None:
    for key, block in live.live_blocks():
        block.is_gradient = key in gradients


def _summary(work: Workload, initial: list[tuple[str, int]], live: LiveStorages, device: devices.Device) -> DryRun:
    stream, boundary, workspaces = live.stream, live.boundary, []
    make_memory: Callable[[], Memory] = PlainMemory
    if device.kind == "cuda":
        make_memory = CachingAllocator
        stream, boundary, places = _on_device(live)
        workspaces = [(place, cublas_workspace_bytes(device.compute_capability)) for place in places]
    shapes = work.adapted.shapes()
    rebuilt = _rebuilt_shapes(work, shapes)
    found = replay(make_memory, initial, stream, boundary, lambda block: _category(block, rebuilt), workspaces=workspaces)
    kept = [block for block in stream.blocks if block.phase == "forward" and block.died_phase != "forward"]
    return DryRun(
        peak_allocated_bytes=found.peak_allocated,
        peak_reserved_bytes=found.peak_reserved,
        static_bytes=found.static,
        kept_bytes=sum(block.nbytes for block in kept),
        flops_by_phase={phase: count for phase, count in live.flops_by_phase.items() if not phase.startswith("warm")},
        by_category=found.by_category,
        trainable_parameters=sum(one.numel() for one in work.model.parameters() if one.requires_grad),
        adapter_parameters=work.adapted.trainable_parameters,
        shapes=shapes,
        note="; ".join([*work.adapted.notes, *_branches(live)]),
    )


def _branches(live: LiveStorages) -> list[str]:
    return [f"{live.branches} branches on the numbers of a tensor were taken as true"] if live.branches else []


def _on_device(live: LiveStorages) -> tuple[Stream, int, list[int]]:
    """The stream without what stays on the host (generator states, Adam's step counts), its boundary, and where workspaces are taken.

    A workspace belongs to a thread's handle: the forward's is taken at the first matrix product, the backward's at its own.
    """
    host = {
        block.number for block in live.stream.blocks if block.shape == (RNG_STATE,) or (block.shape == () and "optimizer" in block.phase)
    }
    places = [live.boundary, live.first_products.get("warm forward", 0), live.first_products.get("warm backward", 0)]
    events, shifted = [], [0, 0, 0]
    for index, event in enumerate(live.stream.events):
        if event[0] not in host:
            events.append(event)
            shifted = [old + (index < place) for old, place in zip(shifted, places, strict=True)]
    return Stream(live.stream.blocks, events), shifted[0], shifted[1:]


def _rebuilt_shapes(work: Workload, shapes: list[StackShape]) -> set[tuple[int, ...]]:
    """Shapes that a rebuilt weight (or its gradient) can have, where the point's order rebuilds; empty for features."""
    found: set[tuple[int, ...]] = set()
    order = work.point.order
    for shape in shapes:
        network = registry.method(work.point.method).network(work.adapted.settings, shape)
        if network is not None and order not in (None, "auto") and folded_axes(network, order):
            n, d, k = shape.rows, shape.columns, shape.layers
            found |= {(n, d), (d, n), (k, n, d), (k * n, d)}
    return found


def _category(block: Block, rebuilt: set[tuple[int, ...]]) -> str:
    if block.phase.startswith("warm"):
        return "optimizer"  # what outlives the first step: the optimizer's state, which appears in it
    if block.is_gradient:
        return "gradients"
    if block.shape in rebuilt:
        return "reconstructed"
    kept = block.phase == "forward" and block.died_phase != "forward"
    return "activations" if kept else "temporary"
