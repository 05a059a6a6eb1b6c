"""The dry run: the real training step on fake tensors, every live storage followed. No GPU, no weights."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode

from refta.errors import SettingError
from refta.operands import AUTOMATIC
from refta.shapes import StackShape
from refta_profiler import devices, models, own_code, parallel, rates, workload
from refta_profiler.categories import category_of, rebuilt_shapes
from refta_profiler.plan import Point
from refta_profiler.predict import fake, ranks
from refta_profiler.predict.allocator import CachingAllocator, ExpandableAllocator
from refta_profiler.predict.kernels import CudaKernels, cublas_workspace_bytes, not_counted, workspace_places
from refta_profiler.predict.operands import CpuStorages
from refta_profiler.predict.releases import release
from refta_profiler.predict.replay import Memory, PlainMemory, replay
from refta_profiler.predict.roofline import Estimate, RateMissingError, estimate
from refta_profiler.predict.row_sums import SCRATCH
from refta_profiler.predict.storage import FULLY, Block, LiveStorages, MetaStorages, Operation, Stream
from refta_profiler.predict.trace import Sweep, Trace, steps, with_scratch
from refta_profiler.workload import Workload

RNG_STATE = 5056  # bytes of torch's CPU generator state, which checkpointing keeps per block
NUMBER = "aten.lift_fresh.default"  # what makes a tensor of a number: the optimizer's counts of steps, on the host whatever the device


@dataclass
class DryRun:
    """What a dry run found. Bytes by category are those at the peak and sum to it."""

    peak_allocated_bytes: int
    peak_reserved_bytes: int | None  # None where the device has no caching allocator
    static_bytes: int
    kept_bytes: int
    flops_by_phase: dict[str, int]
    by_category: dict[str, int]
    peak_by_phase: dict[str, int]
    trainable_parameters: int
    adapter_parameters: int
    shapes: list[StackShape]
    time: Estimate | None = None
    no_time: str = ""  # why there is no time
    note: str = ""
    sent_bytes: int | None = None  # by one rank to the others; None for one process
    repeated: str = ""  # as a trace has it


def dry_run(point: Point, target: str, slice_ranks: Mapping[str, Sequence[int]] | None = None) -> DryRun:
    """The point's training step on `target` (a name of devices.yaml), predicted.

    One step is followed on fake tensors, in which the optimizer's state appears; the step that counts is the one after it.
    Points that differ in their batch alone share what they can (see trace.py).
    """
    trace = sweep(point, target, slice_ranks).trace(point.batch)
    return _summary(trace, devices.get(target), allocator=point.allocator, rank=point.rank)


@functools.lru_cache(maxsize=4)
def _sweep_of(key: str, target: str, ranks: str) -> Sweep:
    """The sweep over batches of one variant, kept while its points are asked for."""
    point, slice_ranks = Point.from_json(key), json.loads(ranks)
    return Sweep(lambda batch: follow(replace(point, batch=batch), target, slice_ranks))


def sweep(point: Point, target: str, slice_ranks: Mapping[str, Sequence[int]] | None) -> Sweep:
    """The traces of the point's variant over batches."""
    if point.order in AUTOMATIC:  # the order it takes changes with the batch
        return Sweep(lambda batch: follow(replace(point, batch=batch), target, slice_ranks))
    ranks = {name: list(one) for name, one in slice_ranks.items()} if slice_ranks is not None else None
    same = replace(point, batch=1, id="", label="", target="", measure_on_cpu=False)
    return _sweep_of(same.to_json(), target, json.dumps(ranks))


def follow(point: Point, target: str, slice_ranks: Mapping[str, Sequence[int]] | None = None) -> Trace:
    """One training step of the point on tensors without numbers, every live storage followed; SettingError where it asks for numbers."""
    device = devices.get(target)
    if point.method == own_code.NAME:
        own_code.function(point.settings["call"])  # its module is imported here: tensors that it makes must not become fake ones
    if device.kind == "cuda" and point.precision != "amp-bf16" and not ranks.needs_fake(point):
        with contextlib.suppress(
            RuntimeError, NotImplementedError
        ):  # what has no meta kernel, or asks for numbers, may run on fake tensors
            found = _follow(point, device, slice_ranks, torch.device("meta"))
            if not found.branches:  # transformers decides by a mask's numbers, and knows of fake tensors that they have none
                return found
    try:
        return _follow(point, device, slice_ranks, FakeTensorMode(allow_non_fake_inputs=point.method == own_code.NAME))
    except DynamicOutputShapeException as error:
        if point.method == own_code.NAME:  # whose author is told where
            raise
        raise SettingError(_asks_for_numbers(point, str(error.func))) from None


def _asks_for_numbers(point: Point, operation: str) -> str:
    """Why a step cannot be followed, one of whose operations gives a result of a size that depends on a tensor's numbers."""
    of_all = f"the size of a result of {operation} depends on the numbers of a tensor, and a prediction has none; it can be measured"
    classifies = point.task["kind"] == models.SEQUENCES and models.config(point.model).is_encoder_decoder
    why = " (encoder-decoders classify by the <eos> tokens that they find in their input)" if classifies else ""
    return f"model '{point.model}': its step cannot be predicted: {of_all}{why}"


def _follow(
    point: Point, device: devices.Device, slice_ranks: Mapping[str, Sequence[int]] | None, mode: FakeTensorMode | torch.device
) -> Trace:
    cuda = device.kind == "cuda"
    live = (LiveStorages if isinstance(mode, FakeTensorMode) else MetaStorages)() if cuda else CpuStorages()
    with warnings.catch_warnings(), _kernels(device, live), models.without_packing(), _random_state(), ranks.group(point, live):
        warnings.simplefilter("ignore")
        if isinstance(mode, FakeTensorMode):
            work = fake.build(point, mode, foreach=cuda, slice_ranks=slice_ranks)
        else:
            work = fake.build_on_meta(point, foreach=cuda, slice_ranks=slice_ranks)
        with mode, fake.nothing_remembered(work.model):
            ranks.spread(work, live, mode, foreach=cuda)
            initial = _initial(work)
            live.know(one for tensors in work.static_tensors().values() for one in tensors)
            with live, _calls(work, live) as calls:
                replaced = _replaced(work, live)
                workload.training_step(work, _marker(live, point.accumulate))
                _mark_gradients(live, gradients_of(work))
                work.optimizer.zero_grad(set_to_none=True)
                held = _held(work, live)
                live.close()
    return Trace(
        batch=point.batch,
        initial=initial,
        stream=live.stream,
        persistent={block.number for block in live.stream.blocks if block.died is None},
        held=held,
        replaced=replaced[0],
        products=(live.first_products.get("forward", 0), live.first_products.get("backward", 0)),
        biased=tuple(live.first_biased[phase] for phase in ("forward", "backward") if phase in live.first_biased),
        row_sums=tuple(live.row_sums) if cuda else (),
        flops_by_phase=live.flops_by_phase,
        operations=_of_later_steps(live),
        trainable_parameters=sum(one.numel() for one in work.model.parameters() if one.requires_grad),
        adapter_parameters=work.adapted.trainable_parameters,
        shapes=work.adapted.shapes(),
        rebuilt=rebuilt_shapes(work),
        sent_bytes=live.sent.bytes(parallel.world(point.parallel)),
        branches=live.branches,
        repeated=_repeated(calls, point.accumulate),
        note="; ".join([*work.adapted.notes, *ranks.notes(point, kind=device.kind), *_branches(live), *(_coverage(live) if cuda else [])]),
    )


@contextlib.contextmanager
def _kernels(device: devices.Device, live: LiveStorages) -> Iterator[None]:
    if device.kind != "cuda":
        yield
        return
    with CudaKernels(device.compute_capability or (8, 0), live.record):
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


@contextlib.contextmanager
def _calls(work: Workload, live: LiveStorages) -> Iterator[Counter[str]]:
    """How often each adapted module is called in the forward passes within it (what checkpointing runs again in backward apart)."""
    calls: Counter[str] = Counter()

    def counting(path: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            calls[path] += live.phase == "forward"

        return hook

    sites = [site for stack in work.adapted.stacks for site in stack.sites]
    handles = [site.module.register_forward_pre_hook(counting(site.path)) for site in sites]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _repeated(calls: Counter[str], passes: int) -> str:
    """'albert.….query runs 12 times in a forward' of the module that is called most; '' where none runs more than once."""
    (path, count), *_ = calls.most_common(1) or [("", 0)]
    return f"{path} runs {count // passes} times in a forward" if count > passes else ""


def _marker(live: LiveStorages, accumulate: int) -> Callable[[str], None]:
    """What tells the stream which phase comes next: forward and backward as often as gradients accumulate, then the optimizer."""

    def mark(phase: str) -> None:
        live.passes += phase == "backward"
        again = phase == "backward" and live.passes < accumulate
        following = {"forward": "backward", "backward": "forward" if again else "optimizer", "optimizer": "end"}
        live.phase = following[phase]

    return mark


def _of_later_steps(live: LiveStorages) -> list[Operation]:
    """What ran but the operations of the optimizer that made its state, which only the first step does."""
    state = [block for block in live.stream.blocks if block.died is None and block.phase == "optimizer"]
    made, found = Counter(block.operation.rpartition(".")[0] for block in state), []
    for one in live.operations:
        if one.phase == "optimizer" and made[one.name] > 0:
            made[one.name] -= 1
        else:
            found.append(one)
    return found


class _Earlier:
    """Stands for the outputs of an earlier step."""


def _replaced(work: Workload, live: LiveStorages) -> list[int]:
    """Filled, when the step first replaces the outputs of an earlier one, with how many events there were then; [0] where none are kept."""
    if work.point.loop["keep_outputs"] != "next":
        return [0]
    work.outputs, found = _Earlier(), []
    weakref.finalize(work.outputs, lambda: found.append(len(live.stream.events)))
    return found


def _held(work: Workload, live: LiveStorages) -> tuple[int, ...]:
    """The blocks that only the kept outputs hold, which go within the next step's forward: their ends are taken out of the stream."""
    events, live.phase = len(live.stream.events), "forward"
    work.outputs = None
    held = tuple(number for number, _ in live.stream.events[events:])
    del live.stream.events[events:]
    return held


def _initial(work: Workload) -> list[tuple[str, int]]:
    """What is live before the first step, by category, in the order in which it came; every storage once.

    Without a category: what was the model's before the method was put on and is no more (ReFTA's residuals stand in place of weights).
    """
    seen: dict[int, tuple[str, int]] = {}
    for category, tensors in work.static_tensors().items():
        for tensor in tensors:
            storage = tensor.untyped_storage()
            seen.setdefault(id(storage), (category, storage.nbytes()))
    before = [] if parallel.is_sharded(work.point.parallel) else work.before  # whole weights of a sharded model stay on the host
    first = [seen.pop(id(one), ("", one.nbytes())) for one in before]
    return [*first, *seen.values()]


def gradients_of(work: Workload) -> set[int]:
    """The identities of the gradients' storages."""
    return {id(workload.local(one.grad).untyped_storage()) for one in work.model.parameters() if one.grad is not None}


def _mark_gradients(live: LiveStorages, gradients: set[int]) -> None:
    for key, block in live.live_blocks():
        block.is_gradient = key in gradients


ALLOCATORS: dict[str, Callable[[], Memory]] = {"default": CachingAllocator, "expandable_segments": ExpandableAllocator}


def _summary(trace: Trace, device: devices.Device, *, allocator: str = "default", rank: int | None = None) -> DryRun:
    workspaces: list[tuple[int, int]] = []
    make_memory: Callable[[], Memory] = PlainMemory
    if device.kind == "cuda":
        make_memory = ALLOCATORS[allocator]
        trace = with_scratch(on_device(trace), device)
        workspaces = [(place, cublas_workspace_bytes(device.compute_capability)) for place in workspace_places(trace.products)]
        workspaces += [(place, release().biased_workspace_bytes) for place in trace.biased if release().biased_workspace_bytes]
    stream, boundary = steps(trace)

    def category(block: Block) -> str:
        return "optimizer" if block.number in trace.persistent else _category(block, trace.rebuilt)

    found = replay(make_memory, trace.initial, stream, boundary, category, workspaces=workspaces)
    first = [block for block in trace.stream.blocks if block.phase == "forward" and not block.passes]
    kept = [block for block in first if block.is_held or block.died_phase != "forward"]
    time, no_time = _time(trace, device, rank)
    return DryRun(
        peak_allocated_bytes=found.peak_allocated,
        peak_reserved_bytes=found.peak_reserved,
        static_bytes=found.static,
        kept_bytes=sum(block.nbytes for block in kept),
        flops_by_phase=trace.flops_by_phase,
        by_category=found.by_category,
        peak_by_phase=found.by_phase,
        trainable_parameters=trace.trainable_parameters,
        adapter_parameters=trace.adapter_parameters,
        shapes=trace.shapes,
        time=time,
        no_time=no_time,
        note=trace.note,
        sent_bytes=trace.sent_bytes,
        repeated=trace.repeated,
    )


def _time(trace: Trace, device: devices.Device, rank: int | None) -> tuple[Estimate | None, str]:
    """The step's time by the roofline, or why there is none."""
    found = rates.of(device.name)
    if found is None:
        return None, f"no rates are known for {device.name}: `refta-profiler calibrate` measures the device at hand"
    try:
        operations = [one for one in trace.operations if one.phase in workload.PHASES]
        time = estimate(operations, found)
        even = [replace(one, reached=FULLY) if one.is_odd(rank) else one for one in operations]
        return (time if even == operations else replace(time, odd_seconds=time.seconds - estimate(even, found).seconds)), ""
    except RateMissingError as missing:
        return None, f"{device.name} has no known rate for matrix products in {missing}"


def _branches(live: LiveStorages) -> list[str]:
    return [f"{live.branches} branches on the numbers of a tensor were taken as true"] if live.branches else []


def _coverage(live: LiveStorages) -> list[str]:
    """What of the step's memory on CUDA is not predicted."""
    found = not_counted(one.name for one in live.operations)
    return [f"not counted: {', '.join(found)}"] if found else []


def on_device(trace: Trace) -> Trace:
    """The trace without what stays on the host: generator states, Adam's step counts.

    `products` and `biased` stay where cuBLAS and cuBLASLt take their workspaces: one belongs to a thread's handle, the forward's is taken
    once its first matrix product has its result, the backward's once its own has.
    """
    blocks = trace.stream.blocks
    host = {block.number for block in blocks if block.shape == (RNG_STATE,) or (block.operation == NUMBER and block.phase == "optimizer")}
    events = [event for event in trace.stream.events if event[0] not in host]
    stay = list(itertools.accumulate((event[0] not in host for event in trace.stream.events), initial=0))
    stream, held = Stream(blocks, events), tuple(number for number in trace.held if number not in host)
    return replace(trace.moved(stream, stay.__getitem__), held=held)


def _category(block: Block, rebuilt: set[tuple[int, ...]]) -> str:
    if block.operation == SCRATCH:
        return "workspace"
    known = "gradients" if block.is_gradient else "weights" if block.is_weight else ""
    return known or category_of(block.shape, (block.phase, block.died_phase), rebuilt, is_held=block.is_held)
