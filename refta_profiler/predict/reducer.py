"""DDP's reducer on tensors without numbers: its buckets and what it does with gradients. The real one is C++ and wants real storages.

After torch/csrc/distributed/c10d/reducer.cpp and torch/nn/parallel/distributed.py: flat buckets that are always there, in the order in
which gradients were ready in the first backward, up to 1 MiB in the first and 25 MiB in the others; every gradient is divided while it is
copied into its bucket (mark_variable_ready_dense), which is all-reduced when it is full; in the end the averages are copied back
(finalize_bucket_dense), or with gradient_as_bucket_view the gradients are views of the buckets. Buffers are broadcast before each forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from refta_profiler.collectives import Sent, nbytes
from refta_profiler.parallel import Parallel

FIRST_BUCKET_BYTES = 1024 * 1024  # dist._DEFAULT_FIRST_BUCKET_BYTES
BUCKET_BYTES = 25 * 1024 * 1024  # DistributedDataParallel's bucket_cap_mb by default
BROADCAST_BYTES = 250 * 1024 * 1024  # its broadcast_bucket_size


@dataclass(frozen=True)
class Size:
    """What a bucket assignment needs to know of a tensor."""

    nbytes: int
    dtype: Any


def assign(sizes: Sequence[Size], limits: Sequence[int]) -> list[list[int]]:
    """Which tensors go into which bucket, by their indices, each bucket of one dtype.

    As compute_bucket_assignment_by_size: a bucket is closed when it has reached its limit, the last limit holds for all that follow.
    [600, 600, 600, 600] bytes with limits [1000, 2000] are [[0, 1], [2, 3]].
    """
    done: list[list[int]] = []
    open_: dict[Any, list[int]] = {}
    closed: dict[Any, int] = {}
    for index, one in enumerate(sizes):
        bucket = open_.setdefault(one.dtype, [])
        bucket.append(index)
        limit = limits[min(closed.get(one.dtype, 0), len(limits) - 1)]
        if sum(sizes[inner].nbytes for inner in bucket) >= limit:
            done.append(open_.pop(one.dtype))
            closed[one.dtype] = closed.get(one.dtype, 0) + 1
    return done + [bucket for bucket in open_.values() if bucket]


class Reducer:
    """The reducer of a model whose gradients become ready in that order; `forward` runs the model as DDP does."""

    def __init__(self, model: nn.Module, ready: Sequence[torch.Tensor], how: Parallel, sent: Sent) -> None:
        self.model, self.how, self.sent = model, how, sent
        self.buckets: list[torch.Tensor] = []
        self.views: dict[int, torch.Tensor] = {}
        self.members: list[list[torch.Tensor]] = []
        sizes = [Size(nbytes(one), one.dtype) for one in ready]
        for indices in assign(sizes, (FIRST_BUCKET_BYTES, BUCKET_BYTES)):
            self._make([ready[index] for index in indices])
        self._waiting = len(ready)
        for one in ready:
            one.register_post_accumulate_grad_hook(self._ready)
        self._ready_ones = list(ready)

    def _make(self, members: list[torch.Tensor]) -> None:
        bucket = torch.empty(sum(one.numel() for one in members), dtype=members[0].dtype, device=members[0].device)
        offset = 0
        for one in members:
            self.views[id(one)] = bucket.narrow(0, offset, one.numel()).view(one.shape)
            offset += one.numel()
        self.buckets.append(bucket)
        self.members.append(members)

    def forward(self, **batch: Any) -> Any:
        """The model's outputs, its buffers broadcast before."""
        self._broadcast(list(self.model.buffers()))
        self._waiting = len(self._ready_ones)
        return self.model(**batch)

    @torch.no_grad()
    def _broadcast(self, buffers: list[torch.Tensor]) -> None:
        """As comm.cpp's broadcast_coalesced: flat copies, of which two are under way at most, and back."""
        under_way: list[tuple[list[torch.Tensor], torch.Tensor]] = []
        for indices in assign([Size(nbytes(one), one.dtype) for one in buffers], (BROADCAST_BYTES,)):
            members = [buffers[index] for index in indices]
            flat = [one.contiguous().view(-1) for one in members]
            whole = torch.cat(flat) if len(flat) > 1 else flat[0]
            self.sent.moved += nbytes(whole)
            under_way.append((members, whole))
            if len(under_way) == 2:
                _copy_back(*under_way.pop(0))
            del flat, whole
        while under_way:
            _copy_back(*under_way.pop(0))

    @torch.no_grad()
    def _ready(self, parameter: torch.Tensor) -> None:
        """A gradient is complete: it goes into its bucket, and when all are in, what was reduced comes back."""
        gradient, view = parameter.grad, self.views[id(parameter)]
        assert gradient is not None
        if gradient.untyped_storage()._cdata != view.untyped_storage()._cdata:
            torch.mul(gradient, 1.0 / self.how.world, out=view)
            if self.how.gradient_as_bucket_view:
                parameter.grad = view
        del gradient
        self._waiting -= 1
        if self._waiting == 0:
            self._finish()

    def _finish(self) -> None:
        self.sent.reduced += sum(nbytes(one) for one in self.buckets)
        if not self.how.gradient_as_bucket_view:
            for one in self._ready_ones:
                assert one.grad is not None
                one.grad.copy_(self.views[id(one)])


def _copy_back(members: list[torch.Tensor], flat: torch.Tensor) -> None:
    offset = 0
    for one in members:
        one.copy_(flat.narrow(0, offset, one.numel()).view(one.shape))
        offset += one.numel()
