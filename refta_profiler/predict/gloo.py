"""What collectives of FSDP2 take on a CPU while they run: gloo's copies, through torch's allocator, and padding. NCCL takes none of it.

Found in the CPU profiler's events of two processes, and in torch's source: AsyncAllgatherWork gathers into a flat copy of its output
(ProcessGroupGloo.cpp, newLikeFlat); a reduce-scatter all-reduces a clone of its input and divides it by a number (reduce_scatter of AVG);
_chunk_cat without a CUDA kernel pads every gradient whose first axis the ranks do not divide (TensorShape.cpp, _pad_chunk).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from refta_profiler.collectives import nbytes

NUMBER = 8  # bytes of a Python number as a tensor, beside a copy of it in the buffer's dtype


def scratch(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> list[int]:
    """Bytes of the blocks that live together while the operation runs; [] for most.

    A gradient of 3 × 32 numbers that two ranks share is padded to 4 × 32: [512].
    """
    name = func.namespace, func._overloadpacket.__name__
    if name == ("c10d", "_allgather_base_"):
        return [nbytes(args[0])]
    if name == ("c10d", "_reduce_scatter_base_"):
        return [nbytes(args[1]), NUMBER, args[1].element_size()]
    if name == ("fsdp", "chunk_cat"):
        chunks = kwargs.get("num_chunks", args[2] if len(args) > 2 else 1)
        return [padded(one, chunks) for one in args[0] if one.shape[0] % chunks]
    return []


def padded(tensor: Any, chunks: int) -> int:
    """Bytes of the tensor with its first axis filled up to a multiple of the chunks."""
    return math.ceil(tensor.shape[0] / chunks) * chunks * math.prod(tensor.shape[1:]) * tensor.element_size()
