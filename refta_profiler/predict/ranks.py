"""One rank's view of a step on several, without the others: DDP's reducer as data, FSDP2 itself on a fake process group."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from refta.errors import SettingError
from refta_profiler import distributed, parallel, workload
from refta_profiler.plan import Point
from refta_profiler.predict.reducer import Reducer
from refta_profiler.predict.storage import LiveStorages
from refta_profiler.workload import Workload


def needs_fake(point: Point) -> bool:
    """Whether the step must be followed on fake tensors: FSDP2 refuses those of the meta device."""
    return parallel.is_sharded(point.parallel)


def notes(point: Point, *, kind: str) -> list[str]:
    """What is to be said of a step on several ranks, on that kind of device."""
    if not point.parallel:
        return []
    streams = "; its four streams reserve memory each for itself, which is counted as one stream's"
    return [f"of one rank: {parallel.words(point.parallel)}{streams if needs_fake(point) and kind == 'cuda' else ''}"]


@contextlib.contextmanager
def group(point: Point, live: LiveStorages) -> Iterator[None]:
    """Within it FSDP2 finds a process group of that many ranks, of which this is the first, and its resized storages are seen."""
    if not needs_fake(point):
        yield
        return
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if dist.is_initialized():
        raise SettingError("fsdp: this process has a process group already, and a prediction needs one of its own; predict in another")
    dist.init_process_group("fake", rank=0, world_size=parallel.world(point.parallel), store=FakeStore())
    try:
        with _resizes_seen(live):
            yield
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def _resizes_seen(live: LiveStorages) -> Iterator[None]:
    """Tells `live` of every storage that is given other bytes, which no dispatch mode sees."""
    resize: Any = torch.UntypedStorage.resize_

    def seen(self: torch.UntypedStorage, size: int) -> Any:
        done = resize(self, size)
        live.resized(self)
        return done

    torch.UntypedStorage.resize_ = seen
    try:
        yield
    finally:
        torch.UntypedStorage.resize_ = resize


def spread(work: Workload, live: LiveStorages, mode: Any, *, foreach: bool) -> None:
    """The workload as its first rank runs it once it is warm (after a first backward DDP's buckets are made anew), changed in place."""
    how = parallel.read(work.point.parallel)
    if how is None:
        return
    if how.kind == "fsdp":
        with unset_fake_temporarily():  # a mesh is of real numbers
            mesh = distributed.mesh_of(work, how.world)
        distributed.shard(work, mesh)
        live.own_mode = mode if isinstance(mode, FakeTensorMode) else None
        # with an optimizer that is dropped: it has DTensor work out its shapes, which it does on tensors of whole size, once
        workload.training_step(replace(work, optimizer=workload.make_optimizer(work.model, work.point, foreach=foreach)))
        work.optimizer.zero_grad(set_to_none=True)
        return
    distributed.check_trained(work.model)
    ready = _in_order_of_gradients(work)
    reducer = Reducer(work.model, ready, how, live.sent)
    work.forward, work.buckets = reducer.forward, reducer.buckets


def _in_order_of_gradients(work: Workload) -> list[torch.Tensor]:
    """The trained parameters in the order in which a backward completes their gradients; SettingError for one that gets none."""
    ready: list[torch.Tensor] = []
    trained = [one for one in work.model.parameters() if one.requires_grad]
    handles = [one.register_post_accumulate_grad_hook(ready.append) for one in trained]
    _warm_up(work)
    for handle in handles:
        handle.remove()
    if len(ready) < len(trained):
        without = len(trained) - len(ready)
        raise SettingError(f"{distributed.WITHOUT_GRADIENT}: {without} of {len(trained)}")
    return ready


def _warm_up(work: Workload) -> None:
    """One forward and backward."""
    with workload.precision(work):
        loss = (work.forward or work.model)(**work.batch).loss
    penalty = work.adapted.penalty()
    (loss if penalty is None else loss + penalty).backward()
    work.optimizer.zero_grad(set_to_none=True)
