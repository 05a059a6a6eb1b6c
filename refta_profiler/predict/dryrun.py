"""The dry run: the real training step on fake tensors, every live storage followed. No GPU, no weights."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from refta.cost import folded_axes
from refta.shapes import StackShape
from refta_profiler import devices, models, workload
from refta_profiler.plan import Point
from refta_profiler.predict import fake
from refta_profiler.predict.kernels import CudaKernels, cublas_workspace_bytes
from refta_profiler.predict.storage import Block, LiveStorages, Stream
from refta_profiler.workload import Workload

CUDA_BLOCK = 512  # bytes: the caching allocator rounds every allocation up to a multiple (c10/cuda/CUDACachingAllocator.cpp, kMinBlockSize)
RNG_STATE = 5056  # bytes of torch's CPU generator state, which checkpointing keeps per block
CATEGORIES = ("weights", "adapter", "gradients", "optimizer", "activations", "reconstructed", "temporary", "workspace", "batch")


@dataclass
class DryRun:
    """What a dry run found. Bytes by category are those at the peak and sum to it."""

    peak_allocated_bytes: int
    static_bytes: int
    kept_bytes: int
    flops_by_phase: dict[str, int]
    by_category: dict[str, int]
    trainable_parameters: int
    adapter_parameters: int
    shapes: list[StackShape]
    note: str = ""
    blocks: list[Block] = field(default_factory=list)


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
            workload.training_step(work)
            work.optimizer.zero_grad(set_to_none=True)
            static = _static_blocks(work, cuda=cuda)
            live = _followed_step(work)
            gradients = {id(one.grad.untyped_storage()) for one in work.model.parameters() if one.grad is not None}
            _mark_gradients(live, gradients)
    return _summary(work, static, live, device, cuda=cuda)


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


def _followed_step(work: Workload) -> LiveStorages:
    live = LiveStorages()
    live.know(one for tensors in work.static_tensors().values() for one in tensors)
    following = {"forward": "backward", "backward": "optimizer", "optimizer": "end"}

    def mark(phase: str) -> None:
        last = phase != "backward" or live.passes + 1 == work.point.accumulate
        live.passes += phase == "backward"
        live.phase = following[phase] if last else "forward"

    with live:
        workload.training_step(work, mark)
    return live


def _static_blocks(work: Workload, *, cuda: bool) -> dict[str, int]:
    """Bytes live when the step starts, by category; every storage once."""
    seen: set[int] = set()
    result: dict[str, int] = {}
    for category, tensors in work.static_tensors().items():
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if id(storage) not in seen and not (
                cuda and category == "optimizer" and tensor.dim() == 0
            ):  # Adam's step counts stay on the CPU
                seen.add(id(storage))
                result[category] = result.get(category, 0) + _rounded(storage.nbytes(), cuda=cuda)
    return result


def _rounded(nbytes: int, *, cuda: bool) -> int:
    return -(-nbytes // CUDA_BLOCK) * CUDA_BLOCK if cuda else nbytes


def _mark_gradients(live: LiveStorages, gradients: set[int]) -> None:
    for key, block in live.live_blocks():
        block.is_gradient = key in gradients


def _summary(work: Workload, static: dict[str, int], live: LiveStorages, device: devices.Device, *, cuda: bool) -> DryRun:
    stream = live.stream
    if cuda:
        on_host = {block.number for block in stream.blocks if block.shape == (RNG_STATE,)}
        stream.events = [event for event in stream.events if event[0] not in on_host]
    peak, at = _peak(stream, cuda=cuda)
    categories = dict.fromkeys(CATEGORIES, 0) | static
    shapes = [one.shape(work.adapted.slice_ranks.get(one.name)) for one in work.adapted.stacks]
    rebuilt = _rebuilt_shapes(work, shapes)
    for number in _live_at(stream, at):
        block = stream.blocks[number]
        categories[_category(block, rebuilt)] += _rounded(block.nbytes, cuda=cuda)
    workspace = cublas_workspace_bytes(device.compute_capability) if cuda else 0
    categories["workspace"] = workspace
    total = sum(static.values())
    return DryRun(
        peak_allocated_bytes=total + peak + workspace,
        static_bytes=total,
        kept_bytes=sum(
            _rounded(block.nbytes, cuda=cuda) for block in stream.blocks if block.phase == "forward" and block.died_phase != "forward"
        ),
        flops_by_phase=live.flops_by_phase,
        by_category=categories,
        trainable_parameters=sum(one.numel() for one in work.model.parameters() if one.requires_grad),
        adapter_parameters=work.adapted.trainable_parameters,
        shapes=shapes,
        note="; ".join(work.adapted.notes),
        blocks=stream.blocks,
    )


def _peak(stream: Stream, *, cuda: bool) -> tuple[int, int]:
    """The highest running sum, and the event that reaches it."""
    running = peak = at = 0
    for index, (number, sign) in enumerate(stream.events):
        running += sign * _rounded(stream.blocks[number].nbytes, cuda=cuda)
        if running > peak:
            peak, at = running, index
    return peak, at


def _live_at(stream: Stream, at: int) -> list[int]:
    live: dict[int, None] = {}
    for number, sign in stream.events[: at + 1]:
        if sign > 0:
            live[number] = None
        else:
            live.pop(number, None)
    return list(live)


def _rebuilt_shapes(work: Workload, shapes: list[StackShape]) -> set[tuple[int, ...]]:
    """Shapes that a rebuilt weight (or its gradient) can have, where the point's order rebuilds; empty for features."""
    found: set[tuple[int, ...]] = set()
    networks = {name: module.network for name, module in _stacks(work).items()}
    for shape in shapes:
        network = networks.get(shape.name)
        if network is not None and work.adapted.order not in (None, "auto") and folded_axes(network, work.adapted.order):
            n, d, k = shape.rows, shape.columns, shape.layers
            found |= {(n, d), (d, n), (k, n, d), (k * n, d)}
    return found


def _stacks(work: Workload) -> dict:
    container = getattr(work.model, "refta_adapter", None)
    return {name: module for name, module in container.items() if hasattr(module, "network")} if container is not None else {}


def _category(block: Block, rebuilt: set[tuple[int, ...]]) -> str:
    if block.is_gradient:
        return "gradients"
    if block.shape in rebuilt:
        return "reconstructed"
    kept = block.phase == "forward" and block.died_phase != "forward"
    return "activations" if kept else "temporary"
