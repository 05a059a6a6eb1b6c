"""Numbers as people read them."""

import pytest

from refta_profiler.errors import ScenarioError
from refta_profiler.units import format_bytes, format_count, format_flops, format_percent, format_seconds, parse_bytes, significant


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (512, "512 B"),
        (1023, "1,023 B"),
        (14 * 1024, "14 KiB"),
        (312 * 2**20, "312 MiB"),
        (1_771_674_009, "1.65 GiB"),
        (1024**2 - 1, "1 MiB"),
        (1686 * 2**20, "1.65 GiB"),
        (80 * 2**30, "80 GiB"),
        (-14336, "-14 KiB"),
    ],
)
def test_bytes_are_binary(count, text):
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("text", "count"),
    [("24GiB", 24 * 2**30), ("24 GB", 24 * 10**9), ("1.5 MiB", 3 * 2**19), ("512", 512), (512, 512), ("0B", 0), ("24gib", 24 * 2**30)],
)
def test_bytes_are_read_back(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["24G", "much", "", "-1 GiB", "1e9", -1, True, "1 GiB 2"])
def test_what_is_no_amount_says_what_would_be(text):
    with pytest.raises(ScenarioError, match="24GiB"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(0.134, "13%"), (0.0612, "6.1%"), (0.06, "6%"), (0.0004, "0.04%"), (0, "0%"), (-0.05, "-5%"), (1.5, "150%"), (0.000004, "0.0004%")],
)
def test_percent(fraction, text):
    assert format_percent(fraction) == text


@pytest.mark.parametrize(
    ("fraction", "text"), [(0.0496, "4.96%"), (0.04999, "4.999%"), (0.05, "5%"), (0.00996, "0.996%"), (0.0201, "2.01%"), (0.0501, "5%")]
)
def test_percent_never_rounds_up_to_a_threshold(fraction, text):
    assert format_percent(fraction) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (12.3e-6, "12.3 µs"), (0.0456, "45.6 ms"), (0.9999, "1 s"), (1.234, "1.23 s"), (100, "100 s"), (245, "4 min 05 s")],
)
def test_seconds(seconds, text):
    assert format_seconds(seconds) == text


def test_counts_and_flops():
    assert format_count(61470) == "61,470"
    assert format_flops(2_939_200_000_000) == "2,939 GFLOP"
    assert format_flops(0) == "0 GFLOP"
    assert significant(0.01234) == "0.0123"
    assert significant(12345.6) == "12,346"
