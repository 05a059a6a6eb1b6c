"""CUDA's kernels as the dry run has them: dropout's mask, workspaces, attention under autocast, what is put back afterwards."""

import contextlib

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from refta_profiler.predict.kernels import CudaKernels, cublas_workspace_bytes, not_counted, workspace_places
from refta_profiler.predict.releases import release
from refta_profiler.predict.storage import LiveStorages, MetaStorages

MIB = 2**20


def test_workspaces():
    assert cublas_workspace_bytes((9, 0)) == 32 * MIB
    assert cublas_workspace_bytes((8, 0)) == 8.125 * MIB
    assert cublas_workspace_bytes(None) == 8.125 * MIB
    assert [cublas_workspace_bytes((10, 0), release(version)) / MIB for version in ("2.11.0", "2.13.0")] == [8.125, 32]


def test_a_workspace_is_kept_for_each_thread_until_torch_2_15():
    assert workspace_places((3, 40), release("2.13.0")) == (3, 40)
    assert workspace_places((3, 40), release("2.15.0")) == (3,)


def test_dropout_keeps_a_mask_of_one_byte_an_element():
    with FakeTensorMode():
        x = torch.empty(100, requires_grad=True)
        live = LiveStorages()
        live.know([x])
        with CudaKernels((9, 0)), live:
            out = F.dropout(x, 0.1, True)
            assert sorted(block.nbytes for _, block in live.live_blocks()) == [100, 400]
            assert F.dropout(x, 0.1, False) is x
            assert F.dropout(x, 0.0, True) is x
            del out


def test_the_functions_are_themselves_again_even_after_an_error():
    def now():
        return F.scaled_dot_product_attention, F.dropout, torch.nn.utils.clip_grad._has_foreach_support, torch._foreach_norm

    before = now()
    with pytest.raises(RuntimeError), CudaKernels((8, 0)):
        raise RuntimeError
    assert now() == before


def clipped(kernels, mode):
    """The operations that clipping the gradients of 3 and of 70,000 numbers runs, and the bytes of the blocks that it makes."""
    with mode:
        live = (LiveStorages if isinstance(mode, FakeTensorMode) else MetaStorages)()
        parameters = [torch.nn.Parameter(torch.empty(size)) for size in (3, 70_000)]
        for one in parameters:
            one.grad = torch.empty_like(one)
        live.know(tensor for one in parameters for tensor in (one, one.grad))
        with kernels, live:
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    return [one.name for one in live.operations], [block.nbytes for block in live.stream.blocks]


@pytest.mark.parametrize("mode", [FakeTensorMode(), torch.device("meta")], ids=["fake", "meta"])
def test_clipping_takes_all_gradients_at_once(mode):
    """As torch does on CUDA: one operation for the norms, one to scale; two sums a tensor, since the longer has two chunks of 65,536."""
    together, blocks = clipped(CudaKernels((9, 0)), mode)
    one_by_one, without = clipped(contextlib.nullcontext(), mode)
    assert (together.count("aten._foreach_norm"), together.count("aten._foreach_mul_")) == (1, 1)
    assert "aten._foreach_norm" not in one_by_one and one_by_one.count("aten.mul_") == 2
    assert sorted(blocks) == sorted([*without, 2 * 2 * 4])


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_bfloat16_layer_norm_keeps_its_statistics_in_float32_on_the_meta_device_as_on_cuda(device):
    x, weight = torch.empty(4, 16, dtype=torch.bfloat16, device=device), torch.empty(16, dtype=torch.bfloat16, device=device)
    _, mean, rstd = torch.native_layer_norm(x, [16], weight, weight, 1e-5)
    assert mean.dtype == rstd.dtype == (torch.bfloat16 if device == "cpu" else torch.float32)


def test_under_autocast_attention_is_in_its_dtype_and_so_is_a_mask_of_numbers():
    with FakeTensorMode():
        query, mask = torch.empty(2, 3, 8, 16, requires_grad=True), torch.empty(2, 1, 8, 8)
        live = LiveStorages()
        live.know([query, mask])
        with CudaKernels((8, 0)), torch.autocast("cpu", dtype=torch.bfloat16), live:
            out = F.scaled_dot_product_attention(query, query, query, attn_mask=mask)
            found = [block.nbytes for _, block in live.live_blocks()]
        assert out.dtype == torch.bfloat16
        assert mask.numel() * 2 in found and mask.nbytes not in found


def gelu_new(x):
    """GPT-2's activation, as transformers writes it."""
    return 0.5 * x * (1.0 + torch.tanh(0.7978845608028654 * (x + 0.044715 * torch.pow(x, 3.0))))


def test_autocast_widens_gpt2s_activation():
    """pow is run in float32 on CUDA, and what follows from it is too. Bytes an element: pow's operand 4 (on the CPU x itself), tanh's
    result 4 (2), the last product's operands 2 and 4 (2 and 2), and what comes out 4 (2).
    """
    kept = []
    for kernels in (contextlib.nullcontext(), CudaKernels((8, 0))):
        with FakeTensorMode():
            x = torch.empty(1024, dtype=torch.bfloat16, requires_grad=True)
            live = LiveStorages()
            live.know([x])
            with kernels, torch.autocast("cpu", dtype=torch.bfloat16), live:
                out = gelu_new(x)
                kept.append(sum(block.nbytes for _, block in live.live_blocks()) / 1024)
            del out
    assert kept == [8, 18]


def test_what_is_not_counted_is_said():
    assert not_counted(["aten.mm", "aten.convolution"]) == ["cuDNN's workspace of the convolution"]
    assert not_counted(["aten.mm"]) == []
    assert not_counted(["attention (cudnn)"]) == ["cuDNN's own workspace of attention"] and not_counted(["attention (flash)"]) == []
    every = ["cuDNN's workspace of the convolution", "the sort's scratch"]
    assert not_counted(iter(["aten.sort", "aten.convolution", "aten.topk"])) == every
