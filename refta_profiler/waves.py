"""How much of a GPU a matrix product keeps busy: its result is cut into tiles, which the multiprocessors take in waves. No torch.

The last wave is seldom full, nor are the tiles at the edges (NVIDIA, Matrix Multiplication Background User's Guide, "Tile Quantization" and
"Wave Quantization"). Known for float32, whose kernels in cuBLAS are named by their tiles, 128x128 down to 32x32 (sgemm_128x128_nn, …).
What smaller tiles reach of the FLOP/s of large ones is a guess that fits 20 phases of ViT-L and RoBERTa-L steps on an H100 (trust.yaml).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

TILES = {"float32": ((128, 1.0), (64, 0.75), (32, 0.5))}  # sides, and what their kernels reach of the FLOP/s


def filled(product: Sequence[int], dtype: str, multiprocessors: int | None) -> float:
    """What a product's kernel reaches of the FLOP/s of full waves, with the tiles that suit it best; 1 where its tiles are not known.

    product: the result's shape, (rows, columns) or (copies, rows, columns). 1576 × 1024 (ViT-L, batch 8) on 132 multiprocessors are
    104 tiles of 128 × 128 in one wave, 98.5 if they were all full: 0.746.
    """
    if not product or multiprocessors is None or dtype not in TILES:
        return 1.0
    *copies, rows, columns = product
    many = math.prod(copies)
    found = 0.0
    for side, reached in TILES[dtype]:
        waves = math.ceil(many * math.ceil(rows / side) * math.ceil(columns / side) / multiprocessors)
        found = max(found, reached * many * (rows / side) * (columns / side) / (waves * multiprocessors))
    return found


def square(flops: float) -> tuple[int, int]:
    """The shape of the result of a product of three equal sizes: 1024 × 1024 of 2 · 1024³ FLOPs."""
    width = round((flops / 2) ** (1 / 3))
    return width, width
