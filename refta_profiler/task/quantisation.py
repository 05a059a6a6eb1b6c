"""Small quantisers of our own, to ask what rounding costs: each gives back the values that it would store, in floating point.

int8 has one scale a row, int4 and nf4 one a block of 64 numbers of a row, as is usual. Symmetric, by the largest value (absmax).
"""

from __future__ import annotations

from collections.abc import Callable

import torch

BLOCK = 64
# The 16 levels of NF4: quantiles of a normal distribution, scaled to [−1, 1] (QLoRA, arXiv 2305.14314, appendix E).
NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)


def int8(weight: torch.Tensor) -> torch.Tensor:
    """The values (…, d) rounded to 255 levels, one scale a row: [1.27, 0.634] becomes [1.27, 0.63]."""
    return _rounded(weight, levels=127, block=weight.shape[-1])


def int4(weight: torch.Tensor) -> torch.Tensor:
    """The values (…, d) rounded to 15 levels, one scale a block of 64: [7, 3.4] becomes [7, 3]."""
    return _rounded(weight, levels=7, block=BLOCK)


def nf4(weight: torch.Tensor) -> torch.Tensor:
    """The values (…, d) at the nearest of NF4's levels, one scale a block of 64: [2, 0.3] becomes [2, 2 · 0.16093…]."""
    blocks, scale, restore = _blocks(weight, BLOCK)
    levels = torch.tensor(NF4, dtype=weight.dtype, device=weight.device)
    middles = (levels[1:] + levels[:-1]) / 2
    return restore(levels[torch.bucketize(blocks / scale, middles)] * scale)


QUANTISERS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"int8": int8, "int4": int4, "nf4": nf4}


def squared_error(weight: torch.Tensor, quantiser: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """‖W − Q(W)‖², summed in float64."""
    return float((weight.double() - quantiser(weight).double()).square().sum())


def _rounded(weight: torch.Tensor, *, levels: int, block: int) -> torch.Tensor:
    blocks, scale, restore = _blocks(weight, block)
    return restore(torch.round(blocks / scale * levels) * scale / levels)


def _blocks(weight: torch.Tensor, block: int) -> tuple[torch.Tensor, torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
    """The rows in blocks (…, blocks, block), the last one filled up with zeros; each block's largest size; and the way back."""
    width = weight.shape[-1]
    filled = torch.nn.functional.pad(weight, (0, -width % block))
    blocks = filled.unflatten(-1, (-1, block))
    scale = blocks.abs().amax(-1, keepdim=True)
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    return blocks, scale, lambda found: found.flatten(-2)[..., :width]
