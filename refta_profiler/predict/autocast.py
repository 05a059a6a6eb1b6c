"""What CUDA's autocast casts, for a dry run whose fake tensors live on the CPU, whose own autocast leaves most of these functions alone.

The lists are those of the header of torch 2.13, aten/src/ATen/autocast_mode.h (AT_FORALL_…), by which AutocastCUDA is registered. What the
CPU's autocast has a kernel of its own for stays with that: matrix products in bfloat16, losses in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

KEY = "AutocastCPU"

# AT_FORALL_LOWER_PRECISION_FP: run in autocast's dtype. Left out: convolutions and recurrent cells
LOWER = ("prelu", "addmm", "addmv", "addr", "matmul", "einsum", "mm", "mv", "linalg_vecdot", "linear", "addbmm", "baddbmm", "bmm")
LOWER += ("chain_matmul", "linalg_multi_dot")

# AT_FORALL_FP32: run in float32
FLOAT32 = ("acos", "asin", "cosh", "erfinv", "exp", "expm1", "log", "log10", "log2", "log1p", "reciprocal", "rsqrt", "sinh", "tan")
FLOAT32 += ("pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow.Scalar", "softplus", "layer_norm", "native_layer_norm", "rms_norm", "group_norm")
FLOAT32 += ("frobenius_norm.dim", "nuclear_norm", "nuclear_norm.dim", "cosine_similarity", "poisson_nll_loss", "cosine_embedding_loss")
FLOAT32 += ("nll_loss", "nll_loss2d", "hinge_embedding_loss", "kl_div", "l1_loss", "smooth_l1_loss", "huber_loss", "mse_loss")
FLOAT32 += ("margin_ranking_loss", "multilabel_margin_loss", "soft_margin_loss", "triplet_margin_loss", "multi_margin_loss")
FLOAT32 += ("binary_cross_entropy_with_logits", "dist", "pdist", "cdist", "renorm", "logsumexp", "upsample_nearest1d")
FLOAT32 += ("_upsample_nearest_exact1d", "upsample_nearest2d", "_upsample_nearest_exact2d", "upsample_nearest3d")
FLOAT32 += ("_upsample_nearest_exact3d", "upsample_linear1d", "upsample_bilinear2d", "_upsample_bilinear2d_aa", "upsample_trilinear3d")
FLOAT32 += ("upsample_bicubic2d", "_upsample_bicubic2d_aa")

# AT_FORALL_FP32_SET_OPT_DTYPE: asked for their result in float32 where no dtype is asked for
RESULT = ("prod", "prod.dim_int", "softmax.int", "log_softmax.int", "cumprod", "cumsum", "linalg_vector_norm", "linalg_matrix_norm")
RESULT += ("linalg_matrix_norm.str_ord", "sum", "sum.dim_IntList")

# AT_FORALL_DIFFERENT_REDISPATCH_SIGNATURE: other overloads, which take a dtype
WITH_DTYPE = {"norm.Scalar": "norm.ScalarOpt_dtype", "norm.ScalarOpt_dim": "norm.ScalarOpt_dim_dtype"}

# AT_FORALL_PROMOTE: run in the widest dtype of their operands
PROMOTE = ("addcdiv", "addcmul", "atan2", "bilinear", "cross", "dot", "vdot", "grid_sampler", "index_put", "tensordot", "scatter_add")


Cast = Callable[[torch.Tensor, torch.dtype], torch.Tensor]
Policy = Callable[[Any, tuple, dict[str, Any], Cast], Any]


class CudaAutocast:
    """Within it the CPU's autocast casts what CUDA's does. Kernels are registered with torch's dispatcher, so that whichever way a function
    is called, and in whichever thread, it is cast; outside of autocast torch does not ask them.

    A trained parameter is cast once until autocast is left (`cached_cast` in autocast_mode.cpp), as many functions as may ask for it.
    """

    def __enter__(self) -> None:
        self._casts: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # by identity, with the parameter, so that it stays its own
        self._clear, torch.clear_autocast_cache = torch.clear_autocast_cache, self._cleared
        self._library = torch.library.Library("aten", "IMPL")
        for names, policy in ((LOWER, _lower), (FLOAT32, _float32), (RESULT, _result), (PROMOTE, _promote)):
            for name in names:
                self._register(name, policy, _operator(name))
        for name, other in WITH_DTYPE.items():
            self._register(name, _result, _operator(other))

    def __exit__(self, *exception: object) -> None:
        self._library._destroy()
        torch.clear_autocast_cache = self._clear
        self._casts.clear()

    def _register(self, name: str, policy: Policy, operator: Any) -> None:
        if torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", KEY):
            return

        def kernel(*args: Any, **kwargs: Any) -> Any:
            with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)):
                return policy(operator, args, kwargs, self._cast)

        self._library.impl(name, kernel, KEY)

    def _cast(self, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        if not (_is_cached(tensor, dtype) and torch.is_autocast_cache_enabled()):
            return tensor.to(dtype)
        if id(tensor) not in self._casts:
            self._casts[id(tensor)] = tensor, tensor.to(dtype)
        return self._casts[id(tensor)][1]

    def _cleared(self) -> None:
        """What autocast calls when it is left."""
        self._casts.clear()
        self._clear()


def _operator(name: str) -> Any:
    packet, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, packet), overload or "default")


def _lower(operator: Any, args: tuple, kwargs: dict[str, Any], cast: Cast) -> Any:
    return _cast_to(torch.get_autocast_dtype("cpu"), operator, args, kwargs, cast)


def _float32(operator: Any, args: tuple, kwargs: dict[str, Any], cast: Cast) -> Any:
    return _cast_to(torch.float32, operator, args, kwargs, cast)


def _result(operator: Any, args: tuple, kwargs: dict[str, Any], cast: Cast) -> Any:
    asked = any(isinstance(one, torch.dtype) for one in (*args, *kwargs.values()))
    return operator(*args, **kwargs) if asked or not _is_cast(args[0]) else operator(*args, **kwargs, dtype=torch.float32)


def _promote(operator: Any, args: tuple, kwargs: dict[str, Any], cast: Cast) -> Any:
    wide = any(one.dtype == torch.float32 for one in args if _is_cast(one))
    return _cast_to(torch.float32 if wide else torch.get_autocast_dtype("cpu"), operator, args, kwargs, cast)


def _cast_to(dtype: torch.dtype, operator: Any, args: tuple, kwargs: dict[str, Any], cast: Cast) -> Any:
    def one(value: Any) -> Any:
        """The value, a tensor that autocast casts in another dtype, and so those of a list."""
        if isinstance(value, list | tuple):
            return [one(each) for each in value]
        return cast(value, dtype) if _is_cast(value) else value

    return operator(*map(one, args), **{name: one(value) for name, value in kwargs.items()})


def _is_cast(value: Any) -> bool:
    """Whether autocast casts the value: a tensor of floating-point numbers other than doubles (is_eligible in autocast_mode.h)."""
    return isinstance(value, torch.Tensor) and value.dtype.is_floating_point and value.dtype != torch.float64


def _is_cached(tensor: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether autocast keeps what the tensor becomes in the dtype (can_try_cache in autocast_mode.cpp)."""
    lower = dtype == torch.get_autocast_dtype("cpu")
    return lower and tensor.dtype == torch.float32 and tensor.requires_grad and tensor.is_leaf and not tensor._is_view()
