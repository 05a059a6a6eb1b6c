"""The time of a step, on operations counted by hand."""

from dataclasses import replace

import pytest

from refta_profiler.predict.roofline import RateMissingError, estimate
from refta_profiler.predict.storage import ODD, ON_THE_HOST, Operation
from refta_profiler.rates import Rates


def rates(**changes):
    values = {
        "matmul_flops": {"float32": [(0.0, 1e12)]},
        "bandwidth": 1e11,
        "kernel_seconds": 1e-5,
        "host_seconds": {},
        "view_seconds": 0.0,
    }
    return Rates(**{**values, "overlaps": True, "note": "by hand", **changes})


PRODUCT = Operation("forward", "aten.mm", "float32", 2_000_000_000, 1_000_000)  # 2 ms of FLOPs, 10 µs of bytes
COPY = Operation("forward", "aten.add", "float32", 0, 300_000_000)  # 3 ms
TINY = Operation("backward", "aten.mul", "float32", 0, 64)  # nothing but its launch
VIEW = Operation("backward", "aten.view", "float32", 0, 0)


def test_each_operation_takes_the_longest_of_its_three():
    found = estimate([PRODUCT, COPY, TINY, VIEW], rates())
    assert found.by_phase == pytest.approx({"forward": 5e-3, "backward": 1e-5})
    assert found.by_bound == pytest.approx({"compute": 2e-3, "bandwidth": 3e-3, "launch": 1e-5})
    assert found.seconds == pytest.approx(5.01e-3)
    assert [(one.name, one.bound, one.count) for one in found.longest[:2]] == [("aten.add", "bandwidth", 1), ("aten.mm", "compute", 1)]


def test_a_gpu_waits_for_its_host_only_where_the_host_is_slower():
    host = {"forward": 3e-3, "backward": 1e-3}
    found = estimate([PRODUCT, COPY, TINY, TINY], rates(host_seconds=host))
    assert found.by_phase == pytest.approx({"forward": 6e-3, "backward": 2e-3})  # two launches of 3 ms hide 5 ms of work, of 1 ms 20 µs
    assert found.by_bound["launch"] == pytest.approx(1e-3 + 2e-3)


def test_a_host_that_is_ahead_issues_what_follows_while_the_gpu_computes():
    host = {"forward": 1e-3, "backward": 1e-3, "optimizer": 4e-3}
    operations = [PRODUCT, COPY, TINY, TINY, replace(TINY, phase="optimizer")]
    found = estimate(operations, rates(host_seconds=host))
    assert found.by_phase == pytest.approx({"forward": 5e-3, "backward": 2e-5, "optimizer": 8e-3 - 5.02e-3})
    assert found.seconds == pytest.approx(8e-3)  # the host's 2 + 2 + 4 ms


def test_products_that_read_number_by_number_reach_less_on_a_gpu():
    odd = replace(COPY, name="aten.mm", reached=ODD)
    found = estimate([PRODUCT, odd], rates())
    assert found.seconds == pytest.approx(2e-3 + 3e-3 / ODD[1])
    assert estimate([PRODUCT, odd], rates(overlaps=False)).seconds == pytest.approx(5e-3)


def test_what_the_host_does_by_itself_takes_no_time_of_a_gpu():
    read = replace(TINY, reached=ON_THE_HOST)
    assert estimate([COPY, read, read], rates()).seconds == pytest.approx(3e-3)
    assert estimate([COPY, read, read], rates(host_seconds={"backward": 2e-3})).seconds == pytest.approx(4e-3)


def test_a_cpu_issues_and_computes_in_turn():
    found = estimate([PRODUCT, COPY, VIEW], rates(host_seconds={"forward": 1e-3}, view_seconds=5e-4, kernel_seconds=0.0, overlaps=False))
    assert found.by_phase == pytest.approx({"forward": 7e-3, "backward": 5e-4})


def test_a_product_takes_longer_where_its_tiles_leave_multiprocessors_idle():
    most = replace(PRODUCT, product=(1280, 1280))  # 100 tiles for 132
    assert estimate([most], rates(multiprocessors=132)).seconds == pytest.approx(1.32 * 2e-3)
    assert estimate([most], rates()).seconds == pytest.approx(2e-3)
    half = replace(PRODUCT, product=(66 * 128, 128))  # for which smaller tiles are better: two waves that are full
    assert estimate([half], rates(multiprocessors=132)).seconds == pytest.approx(2e-3 / 0.75)


def test_what_timed_squares_left_idle_is_not_taken_off_twice():
    width = 1280  # 100 tiles of 132
    known = rates(multiprocessors=132, calibrated=True, matmul_flops={"float32": [(2.0 * width**3, 1e12)]})
    again = replace(PRODUCT, flops=2 * width**3, product=(width, width))
    assert estimate([again], known).seconds == pytest.approx(2 * width**3 / 1e12)
    full = replace(again, product=(132 * 128, 128))
    assert estimate([full], known).seconds == pytest.approx(2 * width**3 / 1e12 * 100 / 132)


def test_a_dtype_without_a_rate_is_no_guess():
    with pytest.raises(RateMissingError, match="float64"):
        estimate([Operation("forward", "aten.mm", "float64", 10, 10)], rates())
