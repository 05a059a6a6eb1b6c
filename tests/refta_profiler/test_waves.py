"""Tiles and waves, counted by hand."""

import math

import pytest

from refta_profiler.waves import filled, square


@pytest.mark.parametrize(
    ("product", "inner", "expected"),
    [
        ((1576, 1024), 1024, 1576 * 1024 / (132 * 128**2)),  # 13 × 8 tiles in one wave of 132, 8 of them a third full
        ((1576, 4096), 1024, 1576 * 4096 / (4 * 132 * 128**2)),  # 416 tiles, four waves
        ((4096, 1024), 1024, 256 / 264),  # two waves, nearly full
        ((132 * 128, 128), 1024, 1.0),
        ((132 * 64, 64), 1024, 0.75),  # half of the large tiles' rows are full, all of the small ones' are
        ((2, 66 * 128, 128), 1024, 1.0),  # two products at once
        ((128, 128), 511, 0.5 * 16 / 132),  # too short to be split: small tiles spread best
        ((128, 128), 6304, 0.5 * 16 * 8 / 132),  # 16 tiles of 32 in 8 parts each; one of 128 gives 12 parts for 132
    ],
)
def test_a_product_fills_so_much_of_its_waves(product, inner, expected):
    assert filled(product, 2 * math.prod(product) * inner, "float32", 132) == pytest.approx(expected)


@pytest.mark.parametrize(("product", "dtype", "many"), [((), "float32", 132), ((64, 64), "bfloat16", 132), ((64, 64), "float32", None)])
def test_where_tiles_are_not_known_nothing_is_taken_off(product, dtype, many):
    assert filled(product, 10**9, dtype, many) == 1.0


def test_a_square_is_told_by_its_flops():
    assert [square(2.0 * width**3) for width in (512, 8192)] == [(512, 512), (8192, 8192)]
