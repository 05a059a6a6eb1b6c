"""What CUDA takes while it sums over rows, by hand after Reduce.cuh, one of them what an H100 took; and where it is in a step."""

from dataclasses import replace

import pytest
import torch
from model_points import point
from transformers import ViTConfig

from refta_profiler import devices
from refta_profiler.predict import dryrun, row_sums
from refta_profiler.predict.row_sums import RowSum
from refta_profiler.predict.trace import between, with_scratch

H100 = (132, 2048)


def of(x, dims):
    return row_sums.row_sum((x, dims), 7, "backward")


@pytest.mark.parametrize(
    ("rows", "columns", "dtype", "expected"),
    [
        # 48 fours of outputs over 32 threads and 4 rows of them: 1576 numbers each, which at 16 a thread are 99 blocks
        (6304, 192, torch.float32, (4 * 192 * 99 * 32 * 4, 8)),  # the counters in a block of 512: the 9,732,608 bytes of an H100
        (6304, 768, torch.bfloat16, (4 * 768 * 99 * 32 * 4, 24)),  # added up in float32
        (2048, 768, torch.float32, (4 * 768 * 32 * 32 * 4, 24)),
        (1020, 768, torch.float32, ()),  # 255 numbers for each of 4 rows of threads: too few to be shared
        (1024, 768, torch.float32, (4 * 768 * 16 * 32 * 4, 24)),
        (300_000, 768, torch.float32, (4 * 768 * 352 * 32 * 4, 24)),  # no more blocks than find room at once: 2112 for 6 columns of them
        (6304, 50, torch.float32, (4 * 50 * 25 * 16 * 2, 8)),  # read by twos: 25 pairs over 16 threads, 16 rows of threads
        (6304, 192, torch.float64, (8 * 192 * 99 * 32 * 4, 8)),
    ],
)
def test_the_partial_sums_of_a_bias_gradient(rows, columns, dtype, expected):
    found = of(torch.empty(rows, columns, dtype=dtype, device="meta"), [0])
    assert (found.place, found.phase, found.inputs, found.outputs) == (7, "backward", rows, columns)
    assert found.scratch(*H100) == expected


def test_axes_that_lie_in_each_other_are_one():
    together = of(torch.empty(32, 197, 192, device="meta"), [0, 1])
    assert together == of(torch.empty(6304, 192, device="meta"), [0])
    apart = of(torch.empty(32, 197, 256, device="meta")[..., :192], [0, 1])
    assert (apart.inputs, apart.outputs, apart.vector) == (6304, 192, 4)
    assert of(torch.empty(32, 197, 193, device="meta")[..., :192], [0, 1]).vector == 1  # rows begin at odd places
    assert of(torch.empty(32, 194, device="meta")[:, 2:], [0]).vector == 2


def test_sums_along_rows_and_over_everything_take_next_to_nothing():
    x = torch.empty(6304, 192, device="meta")
    assert of(x, [1]) is None and of(x, None) is None and of(x, []) is None and of(x.t(), [0]) is None
    assert None not in [of(torch.empty(1, device="meta").expand(batch, 3), [0]) for batch in (2, 4)]  # which lies neither way
    assert of(torch.empty(1, 192, device="meta"), [0]) is None and of(torch.empty(0, 192, device="meta"), [0]) is None


def test_what_is_too_large_for_32_bits_is_cut_in_two():
    large = RowSum(0, "backward", 1_500_000, 768, 4, 4)
    assert large.scratch(*H100) == RowSum(0, "backward", 375_000, 768, 4, 4).scratch(*H100)
    just = RowSum(0, "backward", 131_072, 4096, 4, 4)  # 2³¹ bytes, the last of which begins at one that 32 bits can count
    assert just.scratch(*H100) == (4 * 4096 * 128 * 32 * 4, 128)
    assert replace(just, inputs=131_073).scratch(*H100) == replace(just, inputs=65_537).scratch(*H100) == (4 * 4096 * 66 * 32 * 4, 128)


@pytest.mark.parametrize(
    ("device", "expected"), [("h100", (132, 2048)), ("l4", (58, 1536)), ("t4", (40, 1024)), ("a100", (108, 2048)), ("cpu", None)]
)
def test_the_threads_of_a_card(device, expected):
    assert row_sums.threads_of(devices.get(device)) == expected


@pytest.fixture
def trained_whole(tmp_path):
    """A ViT of one layer and 197 tokens."""
    settings = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 128}
    ViTConfig(**settings, architectures=["ViTForImageClassification"]).save_pretrained(tmp_path)
    return point(str(tmp_path), "image-classification", label="full", method="full", batch=16)


def test_a_step_takes_them_and_frees_them_at_once(trained_whole):
    """At any batch the line through two gives what a dry run of it does, though the scratch itself lies on none."""
    traces = {batch: dryrun.follow(replace(trained_whole, batch=batch), "h100") for batch in (2, 3, 16)}
    plain = dryrun.on_device(traces[16])
    assert between(traces[2], traces[3], 16).row_sums == traces[16].row_sums
    found = with_scratch(plain, devices.get("h100"))
    more = found.stream.blocks[len(plain.stream.blocks) :]
    sums = [sizes for one in plain.row_sums if (sizes := one.scratch(*H100))]
    assert [block.nbytes for block in more] == [size for sizes in sums for size in sizes] and len(sums) == 6
    assert {block.operation for block in more} == {row_sums.SCRATCH}
    places = {number: place for place, (number, sign) in enumerate(found.stream.events) if sign > 0}
    for block in more:
        ends = next(place for place, event in enumerate(found.stream.events) if event == (block.number, -1))
        assert 0 < ends - places[block.number] <= 3
        assert [event for event in found.stream.events if event[0] < len(plain.stream.blocks)] == plain.stream.events
    for before, after in zip((*plain.products, *plain.biased), (*found.products, *found.biased), strict=True):
        kept = [event for event in found.stream.events[:after] if event[0] < len(plain.stream.blocks)]
        assert kept == plain.stream.events[:before]
    assert with_scratch(traces[16], devices.get("cpu")) is traces[16]


def test_they_count_as_workspace(trained_whole):
    of_a_gpu = dryrun.dry_run(trained_whole, "h100", None)
    without = dryrun._summary(replace(dryrun.follow(trained_whole, "h100"), row_sums=()), devices.get("h100"))
    assert of_a_gpu.peak_by_phase["backward"] > without.peak_by_phase["backward"]
    assert of_a_gpu.by_category["workspace"] > without.by_category["workspace"]
    assert sum(of_a_gpu.by_category.values()) == of_a_gpu.peak_allocated_bytes
