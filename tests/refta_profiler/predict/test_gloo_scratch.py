"""What gloo and padding take beside FSDP2's own buffers, by hand."""

import torch
import torch.distributed.fsdp  # defines torch.ops.fsdp

from refta_profiler.predict import gloo

HUNDRED, FIFTY = torch.zeros(100), torch.zeros(50)


def test_a_gather_has_a_copy_of_the_whole_and_a_scatter_a_clone_and_a_number():
    assert gloo.scratch(torch.ops.c10d._allgather_base_.default, (HUNDRED, FIFTY), {}) == [400]
    assert gloo.scratch(torch.ops.c10d._reduce_scatter_base_.default, (FIFTY, HUNDRED), {}) == [400, 8, 4]
    assert gloo.scratch(torch.ops.c10d.broadcast_.default, ([HUNDRED],), {}) == []


def test_gradients_that_do_not_divide_are_padded():
    tensors = [torch.zeros(3, 32), torch.zeros(4, 32), torch.zeros(5)]
    copy_in = torch.ops.fsdp.chunk_cat.default
    assert gloo.scratch(copy_in, (tensors, 0, 2), {}) == [4 * 32 * 4, 6 * 4]
    assert gloo.scratch(copy_in, (tensors,), {"dim": 0, "num_chunks": 5}) == [5 * 32 * 4, 5 * 32 * 4]
