"""What CUDA's kernels keep where the CPU's differ: attention and dropout, for a dry run whose fake tensors live on the CPU.

Sources: torch's aten/src/ATen/native/transformers/cuda/sdp_utils.cpp (the choice of kernel), attention.cu and attention_backward.cu
(outputs, log-sum-exp, seeds, temporaries), native/cuda/Dropout.cu (a bool mask), cuda/CUDAContextLight and cuBLAS workspaces
(docs: "CUBLAS_WORKSPACE_CONFIG", default :4096:2:16:8, 32 MiB on Hopper). cuBLASLt, which adds biases, takes no workspace of its own:
TORCH_CUBLASLT_UNIFIED_WORKSPACE is on by default (torch/backends/cuda/__init__.py). Under autocast CUDA runs norms, softmax and losses in
float32 (torch's docs, "CUDA Ops that can autocast to float32"), the CPU does not. What the meta device gives is CUDA's own where the two
differ: mean and rstd of a layer norm in bfloat16 are float32 there (native/cuda/layer_norm_kernel.cu), bfloat16 on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import sdpa_backward_flop_count, sdpa_flop_count

from refta_profiler.predict.storage import dtype_of

MIB = 1 << 20
HALF = (torch.float16, torch.bfloat16)


def cublas_workspace_bytes(capability: tuple[int, int] | None) -> int:
    """Bytes of one cuBLAS workspace: 4096 KiB × 2 + 16 KiB × 8 = 8.125 MiB, 32 MiB on Hopper (compute capability 9.0).

    torch keeps one for each handle: the forward's thread has its own, the backward's another.
    """
    return 32 * MIB if capability == (9, 0) else 4096 * 1024 * 2 + 16 * 1024 * 8


Record = Callable[[str, int, int, str], None]  # name, FLOPs, bytes moved, dtype


# Functions of torch.nn.functional that CUDA's autocast runs in float32, with the numbers of their operands to cast
IN_FLOAT32 = {
    "layer_norm": 4,
    "rms_norm": 3,
    "group_norm": 4,
    "softmax": 1,
    "log_softmax": 1,
    "cross_entropy": 1,
    "nll_loss": 1,
    "mse_loss": 2,
}

# What takes memory on CUDA that is not predicted, by the operation that takes it: said in every row of a step that has it
NOT_COUNTED = {
    "aten.convolution": "cuDNN's workspace of the convolution",
    "aten.convolution_backward": "cuDNN's workspaces of the convolution's gradients",
    "aten.embedding_dense_backward": "the sorted indices of the embedding's gradient",
    "aten._grouped_mm": "the workspace of grouped matrix products",
    "aten.sort": "the sort's scratch",
    "aten.topk": "the sort's scratch",
}


def not_counted(names: Iterable[str]) -> list[str]:
    """What the operations of these names take on CUDA that is not predicted, in words."""
    there = set(names)
    return list(dict.fromkeys(words for name, words in NOT_COUNTED.items() if name in there))


class CudaKernels:
    """Within it, attention, dropout and what autocast casts run as on CUDA. `capability` decides which attention kernels the device has.

    Replaces the functions in torch.nn.functional rather than using a TorchFunctionMode: a mode does not hold within backward, where
    checkpointing recomputes a forward. `record` is told of every attention kernel, which no dispatch mode sees.
    """

    def __init__(self, capability: tuple[int, int], record: Record = lambda *work: None) -> None:
        self.capability, self.record = capability, record

    def __enter__(self) -> None:
        own = {"scaled_dot_product_attention": self._attention, "dropout": _dropout}
        self._kept = {name: getattr(F, name) for name in (*own, *IN_FLOAT32)}
        own |= {name: _in_float32(self._kept[name], count) for name, count in IN_FLOAT32.items()}
        for name, function in own.items():
            setattr(F, name, function)

    def __exit__(self, *exception: object) -> None:
        for name, function in self._kept.items():
            setattr(F, name, function)

    def _attention(self, query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False) -> torch.Tensor:
        if torch.is_autocast_enabled("cpu"):
            query, key, value = (one.to(torch.get_autocast_dtype("cpu")) for one in (query, key, value))
        kernel = choose_attention(query, key, attn_mask, self.capability)
        if kernel == "math":
            options: dict[str, Any] = {"attn_mask": attn_mask, "dropout_p": dropout_p, "is_causal": is_causal, "scale": scale}
            with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
                return self._kept["scaled_dot_product_attention"](query, key, value, enable_gqa=enable_gqa, **options)
        if enable_gqa and kernel == "efficient":
            repeats = query.shape[-3] // key.shape[-3]
            key, value = key.repeat_interleave(repeats, -3), value.repeat_interleave(repeats, -3)
        return _FusedAttention.apply(kernel, self.record, query, key, value, attn_mask)


def choose_attention(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, capability: tuple[int, int]) -> str:
    """The kernel that torch takes on CUDA: 'flash' (half precision, no mask, capability 8.0 on), else 'efficient', else 'math'.

    After sdp_utils.cpp, use_flash_attention and use_mem_efficient_attention; cuDNN's kernel is not chosen by default.
    """
    width = query.shape[-1]
    if query.dtype in HALF and mask is None and capability >= (8, 0) and width <= 256 and width % 8 == 0:
        return "flash"
    aligned = width % (16 // query.element_size()) == 0
    return "efficient" if capability >= (5, 0) and aligned and query.dtype in (*HALF, torch.float32) else "math"


class _FusedAttention(torch.autograd.Function):
    """Attention that keeps q, k, v, its output, the log-sum-exp and two seeds."""

    @staticmethod
    def forward(ctx, kernel, record, query, key, value, mask):
        batch, heads, tokens, _ = query.shape
        out = torch.empty(batch, tokens, heads, value.shape[-1], dtype=query.dtype, device=query.device).transpose(1, 2)
        rows = tokens if kernel == "flash" else -(-tokens // 32) * 32
        logsumexp = torch.empty(batch, heads, rows, dtype=torch.float32, device=query.device)
        seeds = [torch.empty(1, dtype=torch.int64, device=query.device) for _ in range(2)]
        ctx.kernel, ctx.record = kernel, record
        work = sdpa_flop_count(query.shape, key.shape, value.shape)
        record(f"attention ({kernel})", work, _bytes(query, key, value, out, mask), dtype_of([query]))
        ctx.save_for_backward(query, key, value, out, logsumexp, *seeds, *([mask] if mask is not None else []))
        return out

    @staticmethod
    def backward(ctx, *gradients):
        query, key, value, *_ = ctx.saved_tensors
        batch, heads, tokens, width = query.shape
        rows = tokens if ctx.kernel == "efficient" else -(-tokens // 128) * 128
        delta = torch.empty(batch, heads, rows, dtype=torch.float32, device=query.device)
        wide = None
        if ctx.kernel == "flash":
            wide = torch.empty(batch, heads, rows, -(-width // 32) * 32, dtype=torch.float32, device=query.device)
        found = tuple(torch.empty_like(one) for one in (query, key, value))
        del wide, delta
        work = sdpa_backward_flop_count(gradients[0].shape, query.shape, key.shape, value.shape)
        moved = 2 * _bytes(query, key, value) + 2 * _bytes(gradients[0])
        ctx.record(f"attention backward ({ctx.kernel})", work, moved, dtype_of([query]))
        return (None, None, *found, None)


def _bytes(*tensors: torch.Tensor | None) -> int:
    return sum(one.nbytes for one in tensors if one is not None)


def _in_float32(function: Callable[..., torch.Tensor], count: int) -> Callable[..., torch.Tensor]:
    """The function with its first operands in float32 where autocast is on and no dtype is asked for."""

    def run(*args: Any, **kwargs: Any) -> torch.Tensor:
        if not torch.is_autocast_enabled("cpu") or kwargs.get("dtype") is not None:
            return function(*args, **kwargs)
        wide = [one.float() if _is_half(one) else one for one in args[:count]]
        named = {name: one.float() if _is_half(one) else one for name, one in kwargs.items()}
        with torch.autocast("cpu", enabled=False):
            return function(*wide, *args[count:], **named)

    return run


def _is_half(one: Any) -> bool:
    return isinstance(one, torch.Tensor) and one.dtype in HALF


def _dropout(input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
    """Dropout by the kernel that CUDA uses: the output and a bool mask."""
    if not training or p == 0:
        return input
    return torch.native_dropout(input, p, True)[0]
