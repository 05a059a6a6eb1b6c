"""What CUDA takes beside the result while it sums over rows, as for the gradient of a bias: partial sums of blocks that share an output.

After torch's native/cuda/Reduce.cuh (`setReduceConfig`, `global_memory_size`, `semaphore_size`): where there is much to add up for few
outputs, several blocks of threads share each, and their sums and a counter for each row of blocks are in memory that is taken for it. Sums
along rows, where threads share an output within a warp, take next to nothing and are left out. Held against an H100: 9,732,608 bytes for
6304 × 192 numbers in float32 (tests/data/h100/beit.jsonl).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from refta_profiler.devices import Device

ATEN = torch.ops.aten
SUMS = frozenset({ATEN.sum.dim_IntList, ATEN.mean.dim})
SCRATCH = "partial sums of a sum over rows"  # the operation of its blocks
# Reduce.cuh: threads of a block, numbers of an output's row that a thread reads together, what a thread is to add up at least and at most
THREADS, TOGETHER, WARP, LEAST, MOST = 512, 4, 32, 16, 256
LARGEST = 2**31 - 1  # bytes that a kernel counts by 32 bits; larger ones are cut in two
RESIDENT = {(7, 5): 1024, (8, 6): 1536, (8, 7): 1536, (8, 9): 1536, (12, 0): 1536}  # threads of a multiprocessor, CUDA's guide; others 2048


@dataclass(frozen=True, slots=True)
class RowSum:
    """A sum of `inputs` numbers of `itemsize` bytes for each of `outputs`, whose result is there before event `place`.

    vector: how many neighbouring outputs a thread adds up at once.
    """

    place: int
    phase: str
    inputs: int
    outputs: int
    itemsize: int
    vector: int

    def scratch(self, multiprocessors: int, resident: int) -> tuple[int, ...]:
        """(bytes of the partial sums, of the counters) on a GPU of so many multiprocessors with so many threads each; () for none."""
        inputs = self.inputs
        while (inputs * self.outputs - 1) * self.itemsize + 1 > LARGEST:
            inputs = -(-inputs // 2)
        outputs, most = self.outputs // self.vector, THREADS // self.vector
        across, along = (min(_power(size), most) for size in (outputs, inputs))
        height = min(along, most // min(across, WARP))
        width = min(across, most // height)
        if inputs < min(height * LEAST, MOST):
            return ()
        each = -(-inputs // height)
        grid, target = -(-outputs // width), multiprocessors * (resident // (width * height))
        if each < MOST or grid > target:
            return ()
        blocks = max(min(-(-target // grid), -(-each // LEAST)), -(-each // MOST))
        if blocks < 2:
            return ()
        accumulator = 8 if self.itemsize == 8 else 4
        return accumulator * self.outputs * blocks * width * self.vector, 4 * grid


def _power(size: int) -> int:
    """The largest power of two up to a size: 32 of 48."""
    return 1 << (max(size, 1).bit_length() - 1)


def row_sum(args: Sequence[Any], place: int, phase: str) -> RowSum | None:
    """The sum that SUMS make of these operands; None of one along rows, or over nothing."""
    x, dims = args[0], args[1] if len(args) > 1 else None
    over = {dim % max(x.dim(), 1) for dim in dims} if dims else set(range(x.dim()))
    axes = [(stride, size, dim in over) for dim, (size, stride) in enumerate(zip(x.shape, x.stride(), strict=True)) if size != 1]
    summed, kept = ([(stride, size) for stride, size, mine in axes if mine is which] for which in (True, False))
    if not summed or not kept or x.numel() == 0:
        return None
    if min(stride for stride, _ in summed) < min(stride for stride, _ in kept):
        return None
    inputs, outputs = (math.prod(size for _, size in some) for some in (summed, kept))
    return RowSum(place, phase, inputs, outputs, x.element_size(), _vector(x, _joined(summed), _joined(kept)))


def _joined(axes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """(stride, size) of axes by their stride, those that lie one in the other as one: (1, 8) and (8, 3) are (1, 24)."""
    found: list[tuple[int, int]] = []
    for stride, size in sorted(axes):
        if found and found[-1][0] * found[-1][1] == stride:
            found[-1] = found[-1][0], found[-1][1] * size
        else:
            found.append((stride, size))
    return found


def _vector(x: torch.Tensor, summed: Sequence[tuple[int, int]], kept: Sequence[tuple[int, int]]) -> int:
    """How many neighbouring outputs are read together: all places that a row begins at are multiples of it."""
    if kept[0][0] != 1:
        return 1
    places = [x.storage_offset(), kept[0][1], *(stride for stride, _ in (*summed, *kept[1:]))]
    return next(size for size in (TOGETHER, 2, 1) if all(place % size == 0 for place in places))


def threads_of(device: Device) -> tuple[int, int] | None:
    """(multiprocessors, threads of each) of a GPU; None of another device, and where they are not known."""
    if device.multiprocessors is None or device.compute_capability is None:
        return None
    return device.multiprocessors, RESIDENT.get(device.compute_capability, 2048)
