"""What CUDA's kernels keep where the CPU's differ, for a dry run on fake tensors: attention, dropout, clipping, autocast, workspaces.

Sources: attention.py, autocast.py, releases.py; torch's native/cuda/Dropout.cu (a bool mask), native/cuda/ForeachReduceOp.cu (the norms of
many tensors at once) and aten/src/ATen/cuda/CublasHandlePool.cpp (cuBLAS's workspaces). What the meta device gives is CUDA's own where the
two differ: mean and rstd of a layer norm in bfloat16 are float32 there (native/cuda/layer_norm_kernel.cu), bfloat16 on the CPU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.utils import clip_grad

from refta_profiler import workload
from refta_profiler.predict.attention import Capability, Record, attend
from refta_profiler.predict.autocast import CudaAutocast
from refta_profiler.predict.releases import Release, release

MIB = 1 << 20
CHUNK = 65536  # numbers of a tensor that a kernel over many tensors gives one block (MultiTensorApply.cuh, kChunkSize)

# What takes memory on CUDA that is not predicted, by the operation that takes it: said in every row of a step that has it
NOT_COUNTED = {
    "aten.convolution": "cuDNN's workspace of the convolution",
    "aten.convolution_backward": "cuDNN's workspaces of the convolution's gradients",
    "aten.embedding_dense_backward": "the sorted indices of the embedding's gradient",
    "aten._grouped_mm": "the workspace of grouped matrix products",
    "aten.sort": "the sort's scratch",
    "aten.topk": "the sort's scratch",
    "attention (cudnn)": "cuDNN's own workspace of attention",
}


def cublas_workspace_bytes(capability: Capability | None, torch_release: Release | None = None) -> int:
    """Bytes of one cuBLAS workspace: 4096 KiB × 2 + 16 KiB × 8 = 8.125 MiB; 32 MiB on Hopper (9.x), and later on Blackwell (10.x, 12.x).

    After CublasHandlePool.cpp, parseChosenWorkspaceSize, where CUBLAS_WORKSPACE_CONFIG is not set.
    """
    large = (torch_release or release()).large_workspaces
    return 32 * MIB if capability is not None and capability[0] in large else 4096 * 1024 * 2 + 16 * 1024 * 8


def workspace_places(products: Sequence[int], torch_release: Release | None = None) -> Sequence[int]:
    """Before which events a workspace is taken, of those that follow the results of the first products of forward and backward.

    torch keeps one for each handle: the forward's thread has its own, the backward's another. Where every product has one for itself
    alone (2.15), one from the first product on stands for it: at most one is there at a time.
    """
    return products if (torch_release or release()).keeps_workspaces else products[:1]


def not_counted(names: Iterable[str]) -> list[str]:
    """What the operations of these names take on CUDA that is not predicted, in words."""
    there = set(names)
    return list(dict.fromkeys(words for name, words in NOT_COUNTED.items() if name in there))


class CudaKernels:
    """Within it, attention, dropout, clipping and what autocast casts run as on CUDA. `capability`: of which attention kernels depend.

    Replaces the functions in their modules rather than using a TorchFunctionMode: a mode does not hold within backward, where
    checkpointing recomputes a forward. `record` is told of every attention kernel, which no dispatch mode sees.
    """

    def __init__(self, capability: Capability, record: Record = lambda *work: None) -> None:
        self.capability, self.record = capability, record
        self._autocast = CudaAutocast()

    def __enter__(self) -> None:
        self._autocast.__enter__()
        own = {
            (F, "scaled_dot_product_attention"): self._attention,
            (F, "dropout"): _dropout,
            (clip_grad, "_has_foreach_support"): _clips_together,
            (torch, "_foreach_norm"): _norms(torch._foreach_norm),  # pyright: ignore[reportPrivateImportUsage]
        }
        self._kept = {(module, name): getattr(module, name) for module, name in own}
        for (module, name), function in own.items():
            setattr(module, name, function)

    def __exit__(self, *exception: object) -> None:
        for (module, name), function in self._kept.items():
            setattr(module, name, function)
        self._autocast.__exit__(*exception)

    def _attention(self, query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False) -> torch.Tensor:
        casts = torch.is_autocast_enabled("cpu")
        if casts:  # scaled_dot_product_attention is on the list of what runs in autocast's dtype, a mask of numbers with it
            query, key, value = (_lowered(one) for one in (query, key, value))
            attn_mask = None if attn_mask is None else _lowered(attn_mask)
        with torch.autocast("cpu", enabled=False) if casts else contextlib.nullcontext():
            return attend(
                query,
                key,
                value,
                attn_mask,
                dropout_p=dropout_p,
                is_causal=is_causal,
                scale=scale,
                capability=self.capability,
                record=self.record,
            )


def _lowered(one: torch.Tensor) -> torch.Tensor:
    """The tensor in autocast's dtype where it has numbers."""
    return one.to(torch.get_autocast_dtype("cpu")) if one.dtype.is_floating_point else one


def _dropout(input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
    """Dropout by the kernel that CUDA uses: the output and a bool mask."""
    if not training or p == 0:
        return input
    return torch.native_dropout(input, p, True)[0]


def _clips_together(tensors: Sequence[torch.Tensor], device: torch.device) -> bool:
    """Whether clip_grad_norm_ takes all gradients in one call, as it does on CUDA; of fake and meta tensors torch says that it does not."""
    return True


def _norms(own: Callable[..., Any]) -> Callable[..., Any]:
    """`torch._foreach_norm` as CUDA runs it: with a sum for each chunk of the longest tensor, of every tensor, while it runs."""

    def norms(tensors: Sequence[torch.Tensor], *args: Any, **kwargs: Any) -> Any:
        here = [workload.local(one) for one in tensors]
        chunks = max(-(-one.numel() // CHUNK) for one in here)
        sums = here[0].new_zeros(len(here) * chunks, dtype=torch.promote_types(here[0].dtype, torch.float32))
        found = own(tensors, *args, **kwargs)
        del sums
        return found

    return norms
