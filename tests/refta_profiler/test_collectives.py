"""Bytes that a rank sends, counted by hand."""

import pytest
import torch

from refta_profiler.collectives import Counted, Sent, nbytes

HUNDRED = torch.zeros(25)  # 100 bytes


@pytest.mark.parametrize(("world", "sent"), [(1, 0), (2, 200), (4, 300)])
def test_an_all_reduce_goes_round_twice_and_a_gather_once(world, sent):
    """2·3/4 of 100 bytes and 3/4 of two times 100 over 4 ranks: 150 + 150."""
    found = Sent()
    found.reduced, found.moved = 100, 200
    assert found.bytes(world) == sent


def test_bytes_of_lists():
    assert nbytes([HUNDRED, [HUNDRED]]) == 200


def test_a_real_process_group_is_counted(tmp_path):
    dist = torch.distributed
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        with Counted() as counted:
            dist.all_reduce(HUNDRED.clone())
            dist.broadcast(HUNDRED.clone(), 0)
            gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # by version of torch
            scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
            gather(torch.zeros(25), HUNDRED.clone())
            scatter(torch.zeros(25), HUNDRED.clone())
            dist.barrier()
        with Counted() as other:
            dist.all_to_all_single(torch.zeros(25), HUNDRED.clone())
    finally:
        dist.destroy_process_group()
    assert (counted.sent.reduced, counted.sent.moved, counted.sent.unknown) == (100, 300, [])
    assert counted.sent.bytes(2) == 100 + 150
    assert other.sent.unknown  # what is not known is named, not left out
