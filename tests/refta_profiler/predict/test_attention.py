"""Attention as CUDA runs it: the choice of the kernel, what each keeps and holds, attention in plain operations against torch's own."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from refta_profiler.predict import attention
from refta_profiler.predict.attention import choose_attention
from refta_profiler.predict.kernels import CudaKernels
from refta_profiler.predict.releases import release
from refta_profiler.predict.storage import LiveStorages

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


def shaped(tokens, width):
    return torch.empty(2, 3, tokens, width, dtype=BF16, device="meta")


@pytest.mark.parametrize(
    ("tokens", "width", "is_causal", "forward", "backward"),
    [
        (257, 80, False, 257 * 257 * 80 / (5 * 3 * 64 * 128 * 128), 257 * 257 * 80 / (5 * 5 * 64 * 64 * 128)),
        (1024, 64, True, 128 / 72, 256 / 136),
    ],
)
def test_cudnn_computes_whole_tiles_on_hopper_and_none_above_the_diagonal(tokens, width, is_causal, forward, backward):
    query = shaped(tokens, width)
    shares = [share for _, share in attention.HOPPER_CUDNN]
    found = attention.reached("cudnn", query, query, (9, 0), is_causal=is_causal)
    assert found == pytest.approx((shares[0] * forward, shares[1] * backward))


@pytest.mark.parametrize(("kernel", "capability"), [("flash", (9, 0)), ("efficient", (9, 0)), ("cudnn", (10, 0))])
def test_what_other_kernels_reach_is_not_known(kernel, capability):
    assert attention.reached(kernel, shaped(8, 64), shaped(8, 64), capability, is_causal=False) == (1.0, 1.0)


def chosen(dtype, width, capability, *, mask=None, keys=2, version="2.13.0", dropout_p=0.0):
    query, key = torch.empty(1, 2, 4, width, dtype=dtype), torch.empty(1, keys, 4, width, dtype=dtype)
    return choose_attention(query, key, key, mask, capability, dropout_p=dropout_p, torch_release=release(version))


@pytest.mark.parametrize(
    ("dtype", "width", "masked", "capability", "kernel"),
    [
        (FP16, 64, False, (8, 0), "flash"),
        (FP16, 64, False, (7, 5), "efficient"),  # T4: no flash kernel
        (BF16, 64, False, (7, 5), "math"),  # nor a memory-efficient one in bfloat16
        (BF16, 64, False, (9, 0), "cudnn"),
        (BF16, 64, True, (9, 0), "cudnn"),
        (BF16, 64, True, (8, 0), "efficient"),  # flash takes no mask
        (BF16, 256, False, (9, 0), "cudnn"),
        (BF16, 256, False, (10, 0), "flash"),  # cuDNN's heads are up to 128 wide there
        (BF16, 320, False, (9, 0), "efficient"),  # heads up to 256 wide
        (BF16, 18, False, (8, 0), "flash"),  # with padded heads
        (FP32, 64, False, (9, 0), "efficient"),  # the others take half precision alone
        (FP32, 18, False, (9, 0), "math"),  # rows of 72 bytes are not aligned to 16
        (FP32, 18, False, (7, 0), "efficient"),  # nor need be before capability 8.0
        (torch.float64, 64, False, (9, 0), "math"),
    ],
)
def test_the_kernel_is_chosen_as_torch_chooses(dtype, width, masked, capability, kernel):
    assert chosen(dtype, width, capability, mask=torch.empty(4, 4) if masked else None) == kernel


@pytest.mark.parametrize(
    ("version", "kernel", "dropped"),
    [
        ("2.8.0", "flash", "flash"),
        ("2.9.1", "cudnn", "cudnn"),
        ("2.10.0", "flash", "flash"),
        ("2.11.0", "cudnn", "cudnn"),
        ("2.12.0", "cudnn", "flash"),  # a probability of 0.1 is no multiple of 1/16
    ],
)
def test_cudnn_is_asked_first_by_some_releases(version, kernel, dropped):
    assert chosen(BF16, 64, (9, 0), version=version) == kernel
    assert chosen(BF16, 64, (9, 0), version=version, dropout_p=0.1) == dropped
    assert chosen(BF16, 64, (9, 0), version=version, dropout_p=0.125) == kernel


def test_grouped_queries_in_float32_are_attended_plainly_before_torch_2_14():
    assert chosen(FP32, 64, (8, 9), keys=1) == "math"
    assert chosen(FP32, 64, (8, 9), keys=1, version="2.14.0") == "efficient"
    assert chosen(BF16, 64, (8, 9), keys=1) == "flash"


def test_heads_of_three_axes_are_attended_plainly():
    query = torch.empty(2, 4, 64)
    assert choose_attention(query, query, query, None, (9, 0)) == "math"


def kept(dtype, *, capability, tokens=197, heads=3, keys=3, mask=None, width=16, attend=None, **options):
    """Bytes of each block that attention's forward leaves live, the output among them."""
    with FakeTensorMode():
        shapes = [(2, heads, tokens, width), (2, keys, tokens, width), (2, keys, tokens, width)]
        inputs = [torch.empty(shape, dtype=dtype, requires_grad=True) for shape in shapes]
        given = torch.empty(mask, dtype=torch.bool) if mask else None
        live = LiveStorages()
        live.know([*inputs, *([given] if given is not None else [])])
        with CudaKernels(capability), live:
            out = (attend or F.scaled_dot_product_attention)(*inputs, attn_mask=given, **options)
            found = sorted(block.nbytes for _, block in live.live_blocks())
            del out
    return found


def test_efficient_attention_keeps_its_output_and_a_padded_logsumexp_and_its_seeds_on_the_host():
    out, logsumexp = 2 * 3 * 197 * 16 * 4, 2 * 3 * 224 * 4  # rows of the log-sum-exp in blocks of 32
    assert kept(FP32, capability=(9, 0)) == sorted([out, logsumexp])


@pytest.mark.parametrize("capability", [(8, 0), (9, 0)], ids=["flash", "cudnn"])
def test_flash_and_cudnn_keep_their_output_the_logsumexp_and_two_seeds(capability):
    out, logsumexp = 2 * 3 * 197 * 16 * 2, 2 * 3 * 197 * 4
    assert kept(BF16, capability=capability) == sorted([8, 8, out, logsumexp])


def test_a_mask_of_booleans_is_kept_as_numbers_by_every_call_and_padded_by_the_efficient_kernel():
    mask = (2, 1, 197, 197)
    assert kept(FP32, capability=(8, 0), mask=mask)[-2:] == sorted([2 * 3 * 197 * 16 * 4, 2 * 197 * 200 * 4])
    assert 2 * 197 * 197 * 2 in kept(BF16, capability=(9, 0), mask=mask)  # cuDNN's is not padded
    aligned = kept(FP32, capability=(8, 0), tokens=200, mask=(2, 1, 200, 200))
    assert 2 * 200 * 200 * 4 in aligned


def test_flash_pads_heads_that_are_no_multiple_of_8_and_keeps_the_padded_ones():
    padded, logsumexp = 2 * 3 * 197 * 24 * 2, 2 * 3 * 197 * 4
    assert kept(BF16, capability=(8, 0), width=18) == sorted([8, 8, *[padded] * 4, logsumexp])  # q, k, v and the output


def test_the_output_lies_as_the_kernels_lay_it():
    across = torch.randn(2, 3, 5, 16)  # the tokens of a head side by side
    along = torch.randn(2, 5, 3, 16).transpose(1, 2)  # the heads of a token side by side
    with CudaKernels((8, 0)):
        assert F.scaled_dot_product_attention(across, across, across).transpose(1, 2).is_contiguous()
        for half in (across.bfloat16(), along.bfloat16()):
            assert F.scaled_dot_product_attention(half, half, half).stride() == half.stride()


def test_attention_gives_a_gradient_to_each_input():
    for dtype, capability in itertools.product((FP32, BF16), [(7, 5), (8, 0), (9, 0)]):
        inputs = [torch.randn(1, heads, 4, 18, dtype=dtype, requires_grad=True) for heads in (4, 2, 2)]
        with CudaKernels(capability):
            F.scaled_dot_product_attention(*inputs, enable_gqa=True).sum().backward()
        assert all(one.grad is not None and one.grad.shape == one.shape for one in inputs)


def given_to_a_mask(shape, *, dtype=FP32, capability=(8, 0), keys=5):
    """The gradient of a trained mask of that shape, and the bytes of the blocks that the backward with it made."""
    with FakeTensorMode():
        query, key = (torch.empty(2, 3, tokens, 16, dtype=dtype, requires_grad=True) for tokens in (4, keys))
        mask = torch.empty(shape, dtype=dtype, requires_grad=True)
        live = LiveStorages()
        with CudaKernels(capability), live:
            out = F.scaled_dot_product_attention(query, key, key, attn_mask=mask)
            live.phase = "backward"
            out.sum().backward()
        return mask.grad, [block.nbytes for block in live.stream.blocks if block.phase == "backward"]


@pytest.mark.parametrize("shape", [(4, 5), (1, 3, 4, 5), (2, 1, 1, 5), (2, 3, 4, 5)])
@pytest.mark.parametrize(("dtype", "capability"), [(FP32, (9, 0)), (BF16, (8, 0)), (BF16, (9, 0)), (torch.float64, (9, 0))])
def test_a_trained_mask_gets_a_gradient(shape, dtype, capability):
    gradient, _ = given_to_a_mask(shape, dtype=dtype, capability=capability)
    assert gradient is not None and gradient.shape == shape


@pytest.mark.parametrize(("keys", "row"), [(5, 16), (16, 16), (17, 32)])
def test_a_trained_masks_gradient_is_made_for_every_example_in_rows_of_whole_16_numbers(keys, row):
    """attention_backward.cu, grad_bias; summed over the examples afterwards, as the mask was expanded over them."""
    _, made = given_to_a_mask((1, 3, 4, keys), keys=keys)
    assert 2 * 3 * 4 * row * 4 in made and 3 * 4 * keys * 4 in made


def test_that_gradient_is_the_one_of_torchs_own_meta_kernel():
    query, key, mask = (torch.empty(shape, device="meta") for shape in ((2, 3, 4, 16), (2, 3, 5, 16), (2, 3, 4, 5)))
    out, logsumexp, seed, offset = torch.ops.aten._scaled_dot_product_efficient_attention(query, key, key, mask, True)
    mine = attention._mask_gradient(mask)
    *_, torchs = torch.ops.aten._scaled_dot_product_efficient_attention_backward(
        out, query, key, key, mask, out, logsumexp, seed, offset, 0.0, [True] * 4
    )
    assert (mine.shape, mine.stride(), mine.untyped_storage().nbytes()) == (
        torchs.shape,
        torchs.stride(),
        torchs.untyped_storage().nbytes(),
    )


# ---- what backwards hold


def held(kernel, *, width=64, keys=3, capability=(8, 0)):
    """Bytes that the backward of 197 tokens of 2 × 3 heads holds beside the gradients."""
    query, key = torch.empty(2, 3, 197, width, dtype=BF16), torch.empty(2, keys, 197, width, dtype=BF16)
    return [torch.empty(shape, dtype=dtype).nbytes for shape, dtype in attention._held(kernel, query, key, capability)]


def test_flash_adds_up_the_gradient_of_q_in_blocks_of_128_tokens():
    assert held("flash") == [2 * 3 * 256 * 4, 2 * 3 * 256 * 64 * 4]
    assert held("flash", keys=1)[2:] == [2 * 3 * 197 * 64 * 2] * 2  # gradients of k and v for each head of q


def test_cudnn_adds_it_up_token_by_token():
    assert held("cudnn") == [2 * 3 * 197 * 4, 2 * 3 * 197 * 64 * 4]


def test_the_efficient_kernel_adds_it_up_in_tiles_from_capability_7_on():
    assert held("efficient") == [2 * 3 * 197 * 4, 2 * 3 * 4 * (64 * 64 * 4 + 16)]
    assert held("efficient", width=80) == [2 * 3 * 197 * 4, 2 * 3 * 2 * 2 * (128 * 64 * 4 + 16)]
    assert held("efficient", width=80, capability=(7, 5)) == [2 * 3 * 197 * 4, 2 * 3 * 4 * 2 * (64 * 64 * 4 + 16)]
    assert held("efficient", capability=(6, 0)) == [2 * 3 * 197 * 4, 0]


# ---- attention in plain operations

PLAIN = {
    "plain": {},
    "causal": {"is_causal": True},
    "scaled": {"scale": 0.3},
    "grouped": {"keys": 1, "enable_gqa": True},
    "masked": {"mask": (2, 1, 197, 197)},
}


TORCHS_OWN = F.scaled_dot_product_attention


def torchs_own(*inputs, **options):
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        return TORCHS_OWN(*inputs, **options)


@pytest.mark.parametrize("dtype", [torch.float64, BF16])
@pytest.mark.parametrize("case", PLAIN)
def test_plain_attention_keeps_what_torchs_own_keeps(dtype, case):
    ours = kept(dtype, capability=(7, 5), **PLAIN[case])
    assert ours == kept(dtype, capability=(7, 5), attend=torchs_own, **PLAIN[case])


@pytest.mark.parametrize("case", ["plain", "causal", "scaled", "grouped"])
def test_plain_attention_gives_what_torchs_own_gives(case):
    options = dict(PLAIN[case])
    keys = options.pop("keys", 3)
    inputs = [torch.randn(2, heads, 5, 8, dtype=torch.float64) for heads in (3, keys, keys)]
    with CudaKernels((9, 0)):
        ours = F.scaled_dot_product_attention(*inputs, **options)
    assert torch.allclose(ours, torchs_own(*inputs, **options))


def test_plain_attention_masks_as_torchs_own_does():
    query, mask = torch.randn(2, 3, 5, 8, dtype=torch.float64), torch.rand(2, 1, 5, 5) > 0.3
    with CudaKernels((9, 0)):
        ours = F.scaled_dot_product_attention(query, query, query, attn_mask=mask)
    assert torch.allclose(ours, torchs_own(query, query, query, attn_mask=mask))


def test_plain_attention_drops_out_by_a_mask_of_one_byte():
    without, dropped = kept(torch.float64, capability=(9, 0)), kept(torch.float64, capability=(9, 0), dropout_p=0.1)
    softmax = 2 * 3 * 197 * 197
    assert sum(dropped) - sum(without) == softmax * (8 + 1)  # its result and a bool mask


def flops_of_attention(dtype, capability, keys=3):
    with FakeTensorMode():
        query, key, value = (torch.empty(2, heads, 197, 16, dtype=dtype, requires_grad=True) for heads in (3, keys, keys))
        live = LiveStorages()
        with CudaKernels(capability, live.record), live:
            out = F.scaled_dot_product_attention(query, key, value)
            live.phase = "backward"
            out.sum().backward()
    return live.flops_by_phase


@pytest.mark.parametrize(("dtype", "keys"), [(FP32, 3), (BF16, 3), (BF16, 1)])
@pytest.mark.parametrize("capability", [(8, 0), (9, 0)])
def test_attentions_flops_are_counted_forward_and_backward(dtype, keys, capability):
    """Two products of 2·197²·16 FLOPs a head forward, five backward, whichever fused kernel runs; as torch's FLOP counter has them."""
    product = 2 * 3 * 2 * 197 * 197 * 16
    assert flops_of_attention(dtype, capability, keys) == {"forward": 2 * product, "backward": 5 * product}
