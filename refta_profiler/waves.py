"""How much of a GPU a matrix product keeps busy: its result is cut into tiles, which the multiprocessors take in waves. No torch.

The last wave is seldom full, nor are the tiles at the edges (NVIDIA, Matrix Multiplication Background User's Guide, "Tile Quantization" and
"Wave Quantization"). Known for float32, whose kernels in cuBLAS are named by their tiles, 128x128 down to 32x32 (sgemm_128x128_nn, …).
Where a product has few tiles and a long inner axis, that is split over the idle ones (cuBLAS's splitKreduce_kernel adds the parts up).
What smaller tiles reach of the FLOP/s of large ones, and how long a part is at least, are guesses: they fit an H100 (trust.yaml).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

TILES = {"float32": ((128, 1.0), (64, 0.75), (32, 0.5))}  # sides, and what their kernels reach of the FLOP/s
PART = 512  # of the inner axis at least, where it is split


def filled(product: Sequence[int], flops: float, dtype: str, multiprocessors: int | None) -> float:
    """What a product's kernel reaches of the FLOP/s of full waves, with the tiles that suit it best; 1 where its tiles are not known.

    product: the result's shape, (rows, columns) or (copies, rows, columns). 1576 × 1024 (ViT-L, batch 8) on 132 multiprocessors are
    104 tiles of 128 × 128 in one wave, 98.5 if they were all full: 0.746. Of one tile, over 6,304, 12 parts are made.
    """
    if not product or multiprocessors is None or dtype not in TILES:
        return 1.0
    *copies, rows, columns = product
    many = math.prod(copies)
    inner = flops / (2 * many * rows * columns)
    found = 0.0
    for side, reached in TILES[dtype]:
        tiles = many * math.ceil(rows / side) * math.ceil(columns / side)
        parts = max(1, min(int(inner // PART), multiprocessors // tiles))
        waves = math.ceil(tiles * parts / multiprocessors)
        found = max(found, reached * many * (rows / side) * (columns / side) * parts / (waves * multiprocessors))
    return found


def square(flops: float) -> tuple[int, int]:
    """The shape of the result of a product of three equal sizes: 1024 × 1024 of 2 · 1024³ FLOPs."""
    width = round((flops / 2) ** (1 / 3))
    return width, width
