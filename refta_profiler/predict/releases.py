"""What of CUDA's memory depends on torch's release: a prediction is of the torch that is installed where it is made.

Each row holds from its release on, by torch's release notes and by its sources of those dates. Within a release the wheels of another CUDA
may have another cuDNN; the rows stand for the wheels on PyPI. cuBLASLt, which adds biases, has 1 MiB a thread of its own
before 2.12 (seen on an H100 with 2.11), where CUBLASLT_WORKSPACE_SIZE says nothing else, and shares cuBLAS's from then on (pytorch #168175,
#175879).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

MIB = 1 << 20


@dataclass(frozen=True)
class Release:
    """What torch does on CUDA in one release."""

    cudnn_first: bool = False  # cuDNN's attention is asked before flash's on compute capabilities 9 and 10
    cudnn_any_dropout: bool = True  # whatever the probability; otherwise multiples of 1/16 alone
    cudnn_wide_heads: bool = False  # heads of 256 on compute capabilities 9 and 10; otherwise up to 256 on 9 alone
    efficient_groups: bool = False  # the memory-efficient kernel takes fewer heads of keys than of queries
    large_workspaces: tuple[int, ...] = (9,)  # major compute capabilities for which cuBLAS is given 32 MiB
    keeps_workspaces: bool = True  # cuBLAS's workspaces stay allocated from their first product on
    biased_workspace_bytes: int = 0  # of its own that cuBLASLt has for a thread that adds biases


FROM = {
    (2, 8): Release(biased_workspace_bytes=MIB),
    (2, 9): Release(cudnn_first=True, biased_workspace_bytes=MIB),  # pytorch #162073
    (2, 10): Release(biased_workspace_bytes=MIB),  # since #171627 behind a cuDNN later than 9.15.0, which wheels for CUDA 12 do not have
    (2, 11): Release(cudnn_first=True, biased_workspace_bytes=MIB),  # whose wheels have cuDNN 9.19 (huggingface/transformers #48163)
    (2, 12): Release(cudnn_first=True, cudnn_any_dropout=False, large_workspaces=(9, 10, 12)),  # #174245, #175344
    (2, 14): Release(
        cudnn_first=True,
        cudnn_any_dropout=False,
        cudnn_wide_heads=True,  # sdp_utils.cpp, check_cudnn_d256_bprop_head_dim, with a cuDNN later than 9.22
        efficient_groups=True,  # #191085
        large_workspaces=(9, 10, 11, 12),  # #189312
    ),
    (2, 15): Release(
        cudnn_first=True,
        cudnn_any_dropout=False,
        cudnn_wide_heads=True,
        efficient_groups=True,
        large_workspaces=(9, 10, 11, 12),
        keeps_workspaces=False,  # #194311: TORCH_CUBLAS_WORKSPACE_CACHE is off by default
    ),
}


def release(version: str = torch.__version__) -> Release:
    """What holds in a version of torch, the installed one by default: that of the last release of the table that is not later."""
    major, minor = (int(part) for part in version.split(".")[:2])
    return next((FROM[known] for known in sorted(FROM, reverse=True) if known <= (major, minor)), FROM[min(FROM)])
