"""Attention as CUDA runs it: which kernel torch takes, what that keeps, and what it holds meanwhile, on tensors of any device.

Sources, read in torch of 2025 and 2026 and switched by release where they differ (releases.py): aten/src/ATen/native/transformers/
cuda/sdp_utils.cpp (the choice), attention.cpp (masks, padded heads, attention in plain operations), cuda/flash_attn/flash_api.cpp,
cuda/attention_backward.cu with cuda/mem_eff_attention/kernel_backward.h, native/cudnn/MHA.cpp with NVIDIA's cudnn-frontend (outputs,
log-sum-exps, temporaries). What a kernel puts out is also what torch's own meta kernels say (torch/_meta_registrations.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

from refta_profiler import flops
from refta_profiler.predict.releases import Release, release
from refta_profiler.predict.storage import HALF, dtype_of, touched_bytes

ALIGNED = 8  # numbers: flash's heads and the memory-efficient kernel's masks are padded to a multiple of it

# The keys in a tile of cuDNN's attention on Hopper, forward and backward, beside 64 rows of queries and heads in steps of 64 (its kernels
# are named …_sm90_flash_fprop_wgmma_f16_…_64x128x128), and what it reaches there of the FLOP/s of large products. These shares were chosen
# with what an H100 took for ViT-H (257 tokens, heads of 80) and Llama-3.2-1B (1,024 tokens, causal, heads of 64), to within 15%.
HOPPER_CUDNN = ((128, 0.5), (64, 0.33))
QUERY_ROWS = 64

Record = Callable[[str, int, int, str, tuple[int, ...], tuple[float, float]], None]  # as LiveStorages.record takes it
Capability = tuple[int, int]


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
    capability: Capability,
    record: Record,
) -> torch.Tensor:
    """What scaled_dot_product_attention gives on a device of that capability; `record` is told of kernels that no dispatch mode sees."""
    kernel = choose_attention(query, key, value, mask, capability, dropout_p=dropout_p)
    if mask is not None and mask.dtype == torch.bool:
        mask = _additive(mask, query.dtype)
    if kernel == "math":
        return _plain(query, key, value, mask, dropout_p=dropout_p, is_causal=is_causal, scale=scale)
    if kernel == "efficient" and mask is not None:
        mask = _aligned(mask).expand(*query.shape[:-1], key.shape[-2])
    width = value.shape[-1]
    if kernel == "flash" and width % ALIGNED:
        query, key, value = (F.pad(one, (0, -width % ALIGNED)) for one in (query, key, value))
        return _FusedAttention.apply(kernel, record, capability, is_causal, query, key, value, mask)[..., :width]
    return _FusedAttention.apply(kernel, record, capability, is_causal, query, key, value, mask)


def choose_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    capability: Capability,
    *,
    dropout_p: float = 0.0,
    torch_release: Release | None = None,
) -> str:
    """The kernel that torch takes on CUDA: the first of 'cudnn', 'flash', 'efficient' and 'math' that takes these inputs.

    After sdp_utils.cpp, select_sdp_backend and what can_use_…_attention asks there of dense tensors.
    """
    found = torch_release or release()
    if query.dim() != 4:
        return "math"
    if _cudnn_takes(query, value, mask, capability, dropout_p, found):
        return "cudnn"
    same = query.shape[-1] == value.shape[-1] <= 256
    if query.dtype in HALF and mask is None and capability >= (8, 0) and same:
        return "flash"
    return "efficient" if _efficient_takes(query, key, value, capability, found) else "math"


def _cudnn_takes(
    query: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, capability: Capability, dropout_p: float, found: Release
) -> bool:
    """Whether torch asks cuDNN first, and its attention takes these inputs, masked ones too (check_cudnn_tensor_shapes and others)."""
    widths = {query.shape[-1], value.shape[-1]}
    wide = widths == {256} if found.cudnn_wide_heads else capability[0] == 9 and max(widths) <= 256
    return (
        found.cudnn_first
        and capability[0] in (9, 10)
        and query.dtype in HALF
        and all(width % 8 == 0 for width in widths)
        and (max(widths) <= 128 or wide)
        and value.shape[-2] > 1
        and (found.cudnn_any_dropout or float(dropout_p * 16).is_integer())
        and not (mask is not None and mask.requires_grad)
    )


def _efficient_takes(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, capability: Capability, found: Release) -> bool:
    """Whether the memory-efficient kernel takes them: bfloat16 from capability 8.0 on, heads of 16 bytes (minimum_gemm_alignment)."""
    if query.shape[-3] != key.shape[-3] and not found.efficient_groups:
        return False
    ampere, half = capability >= (8, 0), query.dtype in HALF
    dtypes = (torch.float16, torch.float32, torch.bfloat16) if ampere else (torch.float16, torch.float32)
    alignment = 16 // query.element_size() if ampere or half else 1
    aligned = query.shape[-1] % alignment == value.shape[-1] % alignment == 0
    return capability >= (5, 0) and query.dtype in dtypes and aligned


def _additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A mask of booleans as numbers to add, 0 where true; made in every call (attention.cpp, convert_boolean_attn_mask)."""
    return torch.where(mask, torch.zeros((), dtype=dtype, device=mask.device), -math.inf)


def _aligned(mask: torch.Tensor) -> torch.Tensor:
    """The mask itself, or a padded copy where one of its axes does not begin on every 8th number (attention.cpp, preprocess_mask)."""
    if mask.stride(-1) == 1 and all(stride % ALIGNED == 0 for stride in mask.stride()[:-1]):
        return mask
    return F.pad(mask, (0, ALIGNED - mask.shape[-1] % ALIGNED))[..., : mask.shape[-1]]


def _plain(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
) -> torch.Tensor:
    """Attention in plain operations, in float32 where the inputs are of half precision; after _scaled_dot_product_attention_math.

    torch's own on the CPU is not called: it drops out by a mask of numbers, where CUDA's keeps one byte each. Names keep alive what those
    of C++ do.
    """
    dtype = query.dtype
    wide_query, wide_key, wide_value = (one.float() if dtype in HALF else one for one in (query, key, value))
    factor = math.sqrt(1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    scaled = wide_query * factor
    if is_causal:
        square = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device)
        mask = _additive(square.tril(), scaled.dtype)
    keys, values = _repeated(wide_key, query), _repeated(wide_value, query)
    scores = scaled @ (keys.transpose(-2, -1) * factor)
    if mask is not None:
        scores.add_(mask)
    weights = torch.ops.aten._safe_softmax(scores, -1)
    torch.isneginf(scores)  # which rows are masked altogether is found beside the result
    del scores
    if dropout_p > 0:
        weights = torch.native_dropout(weights, dropout_p, True)[0]
    out = (weights @ values).to(dtype)
    weights.to(dtype)  # is returned there too, and dropped by the caller
    return out


def _repeated(one: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """Keys or values with each of their heads repeated, so that there are as many as the query has."""
    if one.dim() < 3 or one.shape[-3] == query.shape[-3]:
        return one
    return one.repeat_interleave(query.shape[-3] // one.shape[-3], -3)


class _FusedAttention(torch.autograd.Function):
    """Attention that keeps q, k, v, its output, the log-sum-exp, two seeds and the mask.

    The memory-efficient kernel's seeds are on the host (attention.cu, _efficient_attention_forward); meta kernels say otherwise.
    """

    @staticmethod
    def forward(ctx, kernel, record, capability, is_causal, query, key, value, mask):
        batch, heads, tokens, _ = query.shape
        ctx.kernel, ctx.record, ctx.capability = kernel, record, capability
        layout = (0, 2, 1, 3) if kernel == "efficient" else (*sorted(range(3), key=query.stride, reverse=True), 3)  # the others': q's own
        out = torch.empty_permuted((batch, heads, tokens, value.shape[-1]), layout, dtype=query.dtype, device=query.device)
        rows = _up(tokens, 32) if kernel == "efficient" else tokens
        logsumexp = torch.empty(batch, heads, rows, dtype=torch.float32, device=query.device)
        seeds = [torch.empty(1, dtype=torch.int64, device=query.device) for _ in range(0 if kernel == "efficient" else 2)]
        work = flops.of_attention(query, key, value)
        speed, ctx.speed = reached(kernel, query, key, capability, is_causal=is_causal)
        record(f"attention ({kernel})", work, _bytes(query, key, value, out, mask), dtype_of([query]), (), (speed, 1.0))
        ctx.save_for_backward(query, key, value, out, logsumexp, *seeds, *([mask] if mask is not None else []))
        return out

    @staticmethod
    def backward(ctx, *gradients):
        query, key, value, *_ = ctx.saved_tensors
        found = tuple(torch.empty_like(one) for one in (query, key, value))
        added = _mask_gradient(ctx.saved_tensors[-1]) if ctx.needs_input_grad[-1] else None
        held = [torch.empty(shape, dtype=dtype, device=query.device) for shape, dtype in _held(ctx.kernel, query, key, ctx.capability)]
        del held
        work = flops.of_attention_backward(gradients[0], query, key, value)
        moved = 2 * _bytes(query, key, value) + 2 * _bytes(gradients[0]) + _bytes(added)
        ctx.record(f"attention backward ({ctx.kernel})", work, moved, dtype_of([query]), (), (ctx.speed, 1.0))
        return (None, None, None, None, *found, added)


def reached(kernel: str, query: torch.Tensor, key: torch.Tensor, capability: Capability, *, is_causal: bool) -> tuple[float, float]:
    """What a kernel reaches of the FLOP/s of products forward and backward, of the FLOPs that are counted; 1 where that is not known.

    257 tokens are 5 × 3 tiles of 64 × 128, and heads of 80 are computed as 128: 2.98 times the FLOPs. Of a causal mask the tiles above the
    diagonal are left out, which the count of FLOPs does not: 1,024 tokens have 72 of 128.
    """
    if kernel != "cudnn" or capability[0] != 9:
        return 1.0, 1.0
    (tokens, width), keys = query.shape[-2:], key.shape[-2]
    found = []
    for columns, share in HOPPER_CUDNN:
        across = -(-keys // columns)
        rows = range(1, -(-tokens // QUERY_ROWS) + 1)
        tiles = sum(min(-(-row * QUERY_ROWS // columns), across) if is_causal else across for row in rows)
        found.append(share * tokens * keys * width / (tiles * QUERY_ROWS * columns * _up(width, 64)))
    return found[0], found[1]


def _mask_gradient(mask: torch.Tensor) -> torch.Tensor:
    """The gradient of a trained mask (batch, heads, t, keys), rows of whole 16 numbers: expanding it adds up what a smaller one gets.

    Only the memory-efficient kernel makes one (attention_backward.cu, grad_bias), of the mask as attention.cpp has expanded it.
    """
    rows = torch.empty(*mask.shape[:-1], _up(mask.shape[-1], 16), dtype=mask.dtype, device=mask.device)
    return rows[..., : mask.shape[-1]]


def _held(kernel: str, query: torch.Tensor, key: torch.Tensor, capability: Capability) -> list[tuple[tuple[int, ...], torch.dtype]]:
    """Shapes and dtypes of what a backward holds beside the gradients: sums over rows, and gradients of q added up in float32.

    Flash, mha_bwd: softmax_d, dq_accum, and with grouped queries gradients of k and v for each head of q. cuDNN: what its frontend lays
    into the workspace (softmax_sum, dQ_accum). Memory-efficient: delta, and from capability 7.0 on tiles of 64 × 64 numbers with 16 bytes
    each, in every dtype (kEnableSplitKeys; 128 rows for heads wider than 64 from 8.0 on, by generate_kernels.py).
    """
    (batch, heads, tokens, width), keys = query.shape, key.shape[2]
    if kernel == "efficient":
        tile = 128 if width > 64 and capability >= (8, 0) else 64
        count = _up(tokens, tile) // tile * _up(width, 64) // 64 if capability >= (7, 0) else 0
        return [((batch, heads, tokens), torch.float32), ((batch * heads * count * (16 + tile * 64 * 4),), torch.uint8)]
    if kernel == "cudnn":
        return [((batch, heads, tokens), torch.float32), ((batch, heads, tokens, width), torch.float32)]
    rows = _up(tokens, 128)
    expanded = [((batch, keys, heads, width), query.dtype)] * 2 if key.shape[1] != heads else []
    return [((batch, heads, rows), torch.float32), ((batch, rows, heads, _up(width, 32)), torch.float32), *expanded]


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def _bytes(*tensors: torch.Tensor | None) -> int:
    return sum(touched_bytes(one) for one in tensors if one is not None)
