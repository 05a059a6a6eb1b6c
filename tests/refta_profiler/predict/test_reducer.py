"""DDP's buckets as data against torch's own assignment, and a dry run under DDP against one without."""

import random
from dataclasses import replace

import pytest
import torch
from real_steps import tiny

from refta_profiler.predict.dryrun import dry_run
from refta_profiler.predict.reducer import BUCKET_BYTES, FIRST_BUCKET_BYTES, Size, assign


def test_buckets_by_hand():
    sizes = [Size(600, "a"), Size(600, "a"), Size(600, "a"), Size(600, "b"), Size(600, "a"), Size(2000, "a"), Size(1, "a")]
    assert assign(sizes, [1000, 1500]) == [[0, 1], [2, 4, 5], [3], [6]]


@pytest.mark.parametrize("seed", range(5))
def test_buckets_are_those_of_torch(seed):
    draw = random.Random(seed)
    dtypes = [torch.float32, torch.bfloat16]
    tensors = [torch.empty(draw.randrange(1, 3_000_000), dtype=draw.choice(dtypes), device="meta") for _ in range(40)]
    limits = [FIRST_BUCKET_BYTES, BUCKET_BYTES]
    sizes = [Size(one.numel() * one.element_size(), one.dtype) for one in tensors]
    theirs, _ = torch.distributed._compute_bucket_assignment_by_size(tensors, limits)
    assert sorted(assign(sizes, limits)) == sorted(theirs)


@pytest.mark.parametrize("label", ["refta/shared", "lora"])
def test_a_rank_has_the_buckets_beside_what_one_process_has(label):
    """Buckets are as large as the gradients and always there; as views they take the gradients' place when the peak has passed."""
    one = tiny("roberta-tiny", label)
    alone, under, view = (dry_run(replace(one, parallel=how), "cpu") for how in ("", "ddp:2", "ddp:2:view"))
    buckets = 4 * alone.trainable_parameters
    assert under.static_bytes == view.static_bytes == alone.static_bytes + buckets
    assert under.peak_allocated_bytes == alone.peak_allocated_bytes + buckets
    assert under.by_category["gradients"] >= buckets
    assert under.peak_by_phase["optimizer"] - view.peak_by_phase["optimizer"] == buckets
    assert under.flops_by_phase == alone.flops_by_phase


def test_a_shared_factor_is_reduced_once():
    """Over two ranks an all-reduce of S bytes sends S: ReFTA's gradients once for all layers; its small buffers are broadcast beside."""
    found = dry_run(replace(tiny("roberta-tiny", "refta/shared"), parallel="ddp:2"), "cpu")
    alone = dry_run(replace(tiny("roberta-tiny", "refta/shared"), parallel="ddp:4"), "cpu")
    gradients = 4 * found.trainable_parameters
    assert found.sent_bytes is not None and alone.sent_bytes is not None
    broadcast = found.sent_bytes - gradients  # half of the buffers
    assert 0 < broadcast < gradients
    assert alone.sent_bytes == 1.5 * gradients + 1.5 * broadcast


def test_every_backward_reduces():
    once, twice = (dry_run(replace(tiny("roberta-tiny", "lora"), parallel="ddp:2", accumulate=count), "cpu") for count in (1, 2))
    assert twice.sent_bytes == 2 * (once.sent_bytes or 0)
