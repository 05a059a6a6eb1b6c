"""CUDA's kernels as the dry run has them: the choice of attention, what it keeps, dropout's mask, workspaces."""

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from refta_profiler.predict.kernels import CudaKernels, choose_attention, cublas_workspace_bytes, not_counted
from refta_profiler.predict.storage import LiveStorages

MIB = 2**20


def test_workspaces():
    assert cublas_workspace_bytes((9, 0)) == 32 * MIB
    assert cublas_workspace_bytes((8, 0)) == 8.125 * MIB
    assert cublas_workspace_bytes(None) == 8.125 * MIB


@pytest.mark.parametrize(
    ("dtype", "width", "mask", "capability", "kernel"),
    [
        (torch.bfloat16, 64, False, (9, 0), "flash"),
        (torch.float16, 64, False, (8, 0), "flash"),
        (torch.float16, 64, False, (7, 5), "efficient"),  # T4: no flash kernel
        (torch.bfloat16, 64, True, (9, 0), "efficient"),  # flash takes no mask
        (torch.float32, 64, False, (9, 0), "efficient"),  # flash takes half precision alone
        (torch.bfloat16, 320, False, (9, 0), "efficient"),  # flash takes heads up to 256 wide
        (torch.float32, 18, False, (9, 0), "math"),  # rows of 72 bytes are not aligned to 16
        (torch.float64, 64, False, (9, 0), "math"),
    ],
)
def test_the_kernel_is_chosen_as_torch_chooses(dtype, width, mask, capability, kernel):
    query = torch.empty(1, 2, 4, width, dtype=dtype)
    assert choose_attention(query, query, torch.empty(4, 4) if mask else None, capability) == kernel


def kept_by_attention(dtype, tokens):
    """Bytes of each block that attention's forward leaves live."""
    with FakeTensorMode():
        query, key, value = (torch.empty(2, 3, tokens, 16, dtype=dtype, requires_grad=True) for _ in range(3))
        live = LiveStorages()
        live.know([query, key, value])
        with CudaKernels((9, 0)), live:
            out = F.scaled_dot_product_attention(query, key, value)
            found = sorted(block.nbytes for _, block in live.live_blocks())
            del out
    return found


def test_efficient_attention_keeps_its_output_a_padded_logsumexp_and_two_seeds():
    out, logsumexp = 2 * 3 * 197 * 16 * 4, 2 * 3 * 224 * 4  # rows of the log-sum-exp in blocks of 32
    assert kept_by_attention(torch.float32, 197) == sorted([8, 8, out, logsumexp])


def test_flash_attention_keeps_its_output_the_logsumexp_and_two_seeds():
    out, logsumexp = 2 * 3 * 197 * 16 * 2, 2 * 3 * 197 * 4
    assert kept_by_attention(torch.bfloat16, 197) == sorted([8, 8, out, logsumexp])


def test_the_output_lies_as_the_kernels_lay_it():
    query = torch.randn(2, 3, 5, 16)
    with CudaKernels((9, 0)):
        out = F.scaled_dot_product_attention(query, query, query)
    assert out.shape == (2, 3, 5, 16)
    assert out.transpose(1, 2).is_contiguous()


def test_attention_gives_a_gradient_to_each_input():
    inputs = [torch.randn(1, 2, 4, 8, requires_grad=True) for _ in range(3)]
    with CudaKernels((9, 0)):
        F.scaled_dot_product_attention(*inputs).sum().backward()
    assert all(one.grad is not None and one.grad.shape == one.shape for one in inputs)


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
    before = F.scaled_dot_product_attention, F.dropout
    with pytest.raises(RuntimeError), CudaKernels((8, 0)):
        raise RuntimeError
    assert (F.scaled_dot_product_attention, F.dropout) == before


def flops_of_attention(dtype, capability):
    with FakeTensorMode():
        query, key, value = (torch.empty(2, 3, 197, 16, dtype=dtype, requires_grad=True) for _ in range(3))
        live = LiveStorages()
        with CudaKernels(capability, live.record), live:
            out = F.scaled_dot_product_attention(query, key, value)
            live.phase = "backward"
            out.sum().backward()
    return live.flops_by_phase


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attentions_flops_are_counted_forward_and_backward(dtype):
    """Two products of 2·197²·16 FLOPs a head forward, five backward, whichever kernel runs; as torch's FLOP counter has them."""
    product = 2 * 3 * 2 * 197 * 197 * 16
    assert flops_of_attention(dtype, (9, 0)) == {"forward": 2 * product, "backward": 5 * product}


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_bfloat16_layer_norm_keeps_its_statistics_in_float32_on_the_meta_device_as_on_cuda(device):
    x, weight = torch.empty(4, 16, dtype=torch.bfloat16, device=device), torch.empty(16, dtype=torch.bfloat16, device=device)
    _, mean, rstd = torch.native_layer_norm(x, [16], weight, weight, 1e-5)
    assert mean.dtype == rstd.dtype == (torch.bfloat16 if device == "cpu" else torch.float32)


def test_autocast_runs_norms_softmax_and_losses_in_float32_as_cuda_does():
    half = torch.ones(4, 16, dtype=torch.bfloat16, requires_grad=True)
    labels = torch.zeros(4, dtype=torch.int64)
    norm = torch.nn.LayerNorm(16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert norm(half).dtype == torch.bfloat16  # the CPU's own list
        with CudaKernels((9, 0)):
            assert norm(half).dtype == F.softmax(half, dim=-1).dtype == F.log_softmax(half, dim=-1).dtype == torch.float32
            assert F.cross_entropy(half, labels).dtype == torch.float32
            assert F.softmax(half, dim=-1, dtype=torch.bfloat16).dtype == torch.bfloat16  # what is asked for stays
            assert F.linear(half, torch.ones(8, 16)).dtype == torch.bfloat16
    with CudaKernels((9, 0)):
        assert F.softmax(half, dim=-1).dtype == torch.bfloat16  # without autocast nothing is cast
    assert norm(half.float()).dtype == torch.float32 and F.softmax.__module__ == "torch.nn.functional"


def test_what_is_not_counted_is_said():
    assert not_counted(["aten.mm", "aten.convolution"]) == ["cuDNN's workspace of the convolution"]
    assert not_counted(["aten.mm"]) == []
    every = ["cuDNN's workspace of the convolution", "the sort's scratch"]
    assert not_counted(iter(["aten.sort", "aten.convolution", "aten.topk"])) == every
