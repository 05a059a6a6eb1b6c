"""The dry run against a real step of the same point under the CPU profiler: equal to the byte, and FLOP for FLOP."""

import itertools
import math
import warnings
from dataclasses import replace

import pytest
import torch
from model_points import point
from real_steps import METHODS, ORDERS, TARGETS, measured, tiny
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import BeitConfig

from refta import registry
from refta.operands import AUTOMATIC
from refta_profiler import devices, models
from refta_profiler.predict import dryrun, slice_ranks

ON_VIT = ("head", "lora", "refta/shared", "refta/reconstruct_stack")  # the others are slow there, and tried on the text models
CASES = [
    pytest.param(model, label, marks=pytest.mark.slow if model == "vit-tiny" and label not in ON_VIT else ())
    for model in TARGETS
    for label in METHODS
    if label != "head" or "causal-lm" not in models.task_kinds(model)
]
LOOP = {"keep_outputs": False, "use_cache": False, "attention_mask": False}
VARIANTS = {
    "eager": {"attention": "eager"},
    "sgd": {"optimizer": "sgd"},
    "clipped": {"clip": 1.0},
    "accumulated": {"accumulate": 2},
    "padded": {"loop": {**LOOP, "attention_mask": True}},
    "padded, a mask of numbers": {"loop": {**LOOP, "attention_mask": "additive"}},
    "outputs kept": {"loop": {**LOOP, "keep_outputs": True}},
    "outputs kept into the next step": {"loop": {**LOOP, "keep_outputs": "next"}},
    "outputs kept into the next of two forwards": {"loop": {**LOOP, "keep_outputs": "next"}, "accumulate": 2},
    "checkpointed and accumulated": {"checkpointing": True, "accumulate": 2},
    "factors in float64": {"adapter_dtype": "float64"},
}


def predicted(point):
    return dryrun.dry_run(point, "cpu", slice_ranks.known(point))


def assert_exact(point):
    dry, real = predicted(point), measured(point)
    assert dry.static_bytes == real.static_bytes
    assert dry.peak_allocated_bytes == real.peak_allocated_bytes
    assert dry.peak_by_phase == real.peak_by_phase
    assert max(dry.peak_by_phase.values()) == dry.peak_allocated_bytes
    assert sum(dry.by_category.values()) == dry.peak_allocated_bytes
    assert {phase: dry.flops_by_phase.get(phase, 0) for phase in real.flops_by_phase} == real.flops_by_phase
    assert dry.trainable_parameters == real.trainable_parameters


WITH_OR_WITHOUT = [False, pytest.param(True, marks=pytest.mark.slow)]


@pytest.mark.parametrize(("model", "label"), CASES)
@pytest.mark.parametrize("checkpointing", WITH_OR_WITHOUT, ids=["", "checkpointing"])
def test_peak_and_flops_are_the_measured_ones(model, label, checkpointing):
    if (model, label, checkpointing) == ("vit-tiny", "full", True):
        pytest.skip("the peak is in the patch embedding's gradient: see test_a_convolutions_scratch_is_not_predicted")
    assert_exact(tiny(model, label, batch=1 if model == "vit-tiny" else 2, checkpointing=checkpointing))


WITHOUT_ONEDNN = ("lora", "refta/shared", "refta/reconstruct_recompute", "refta/fused", "refta/fused_fold", "full")


@pytest.fixture
def without_onednn():
    """oneDNN's kernels take scratch of their own, which depends on the processor and is not predicted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of TF32 on Intel's GPUs whenever the flags are set
        with torch.backends.mkldnn.flags(enabled=False):
            yield


HALF = [
    pytest.param(*one, marks=() if one[0] == "gpt2-tiny" and one[3] == (one[1] == "refta/fused") else pytest.mark.slow)
    for one in itertools.product(TARGETS, WITHOUT_ONEDNN, ("bf16", "amp-bf16"), (False, True))
]


@pytest.mark.usefixtures("without_onednn")
@pytest.mark.parametrize(("model", "label", "precision", "checkpointing"), HALF)
def test_in_half_precision_too_where_onednn_takes_no_scratch(model, label, precision, checkpointing):
    """What predictions in bfloat16 fall short by on the CPU is oneDNN's scratch and nothing else: without it they are exact."""
    point = tiny(model, label, precision=precision, checkpointing=checkpointing)
    dry, real = predicted(point), measured(point)
    assert (dry.static_bytes, dry.peak_allocated_bytes) == (real.static_bytes, real.peak_allocated_bytes)


@pytest.mark.slow
@pytest.mark.usefixtures("without_onednn")
def test_the_patch_embeddings_gradient_is_exact_where_onednn_takes_no_scratch():
    assert_exact(tiny("vit-tiny", "full", batch=1, checkpointing=True))


@pytest.mark.slow
def test_a_convolutions_scratch_is_not_predicted():
    """All trained and checkpointed, a small batch peaks in the patch embedding's gradient, for which oneDNN takes scratch."""
    point = tiny("vit-tiny", "full", batch=1, checkpointing=True)
    dry, real = predicted(point), measured(point)
    assert 0.97 * real.peak_allocated_bytes <= dry.peak_allocated_bytes <= real.peak_allocated_bytes
    assert_exact(tiny("vit-tiny", "full", batch=2, checkpointing=True))  # larger activations have the peak elsewhere


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("model", "label"), [("roberta-tiny", "refta/shared"), pytest.param("gpt2-tiny", "lora", marks=pytest.mark.slow)])
def test_so_they_are_in_every_kind_of_loop(model, label, variant):
    assert_exact(tiny(model, label, **VARIANTS[variant]))


@pytest.mark.parametrize("older", [{}, {"transformers": "4.46"}], ids=["", "4.46"])
@pytest.mark.parametrize("keep", [pytest.param(False, marks=pytest.mark.slow), pytest.param(True, marks=pytest.mark.slow), "next"])
@pytest.mark.parametrize(("accumulate", "checkpointing"), [(1, False), (2, False), (1, True)])
def test_so_they_are_of_a_decoder_with_its_cache(older, keep, accumulate, checkpointing):
    loop = {**LOOP, "use_cache": True, "keep_outputs": keep, **older}
    assert_exact(tiny("gpt2-tiny", "lora", seq=24, loop=loop, accumulate=accumulate, checkpointing=checkpointing))


@pytest.mark.parametrize("checkpointing", WITH_OR_WITHOUT, ids=["", "checkpointing"])
@pytest.mark.parametrize("order", ORDERS)
def test_so_they_are_with_a_trained_transform_and_its_penalty(order, checkpointing):
    settings = {"rank": 5, "transform": "dct", "train_transform": True, "transform_penalty": 0.1}
    assert_exact(tiny("roberta-tiny", f"refta/{order}", settings=settings, checkpointing=checkpointing))


@pytest.mark.parametrize("order", ORDERS)
def test_so_they_are_where_a_slice_has_no_component(order):
    point = tiny("roberta-tiny", f"refta/{order}", settings={"rank": 3, "transform": "dct"}, rank=3, seed=1)
    known = slice_ranks.known(point)
    assert known is not None and any(0 in ranks for ranks in known.values())
    assert_exact(point)


@pytest.mark.parametrize("batch", [1, 4, 16])
def test_so_they_are_at_every_batch(batch):
    assert_exact(tiny("llama-tiny", "refta/reconstruct_stack", batch=batch, seq=24))


@pytest.mark.parametrize("method", ["lorta", "tenslora", "cara", "tt_lora"])
def test_what_a_method_rebuilds_is_told_from_what_it_keeps(method):
    """lorta builds the updates of all layers once a step, tenslora all of them at every call, cara one at a time, tt_lora copies too."""
    point = replace(tiny("roberta-tiny", "head"), method=method, order="published", label=method)
    features = predicted(replace(point, order="features"))
    assert predicted(point).by_category["reconstructed"] > 0
    assert features.by_category.get("reconstructed", 0) == 0


@pytest.mark.slow
@pytest.mark.parametrize("label", [label for label in METHODS if label != "full"])
def test_so_they_are_on_vit_base(label):
    assert_exact(replace(tiny("vit-tiny", label, batch=2), model="vit-base"))


@pytest.mark.slow
def test_so_is_a_vit_base_trained_whole_without_onednn(without_onednn):
    """With it, its scratch for the patch embedding's gradient is in backward's peak: on some processors and not on others."""
    assert_exact(replace(tiny("vit-tiny", "full", batch=2), model="vit-base"))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "amp-bf16"])
def test_half_precision_falls_short_by_the_scratch_of_the_processors_kernels(precision):
    """oneDNN's bfloat16 kernels take scratch of their own that depends on the processor: below the measurement, by under 1% on ViT."""
    point = tiny("vit-tiny", "refta/shared", batch=1, precision=precision)
    dry, real = predicted(point), measured(point)
    assert dry.static_bytes == real.static_bytes
    assert 0.99 * real.peak_allocated_bytes <= dry.peak_allocated_bytes <= real.peak_allocated_bytes


ALWAYS = ("full", "head", "lora", "pissa", "lotr", "tt_lora", "loretta_adp")
ON_META = [
    pytest.param(name, order, marks=() if name == "refta" or (order in ("published", None) and name in ALWAYS) else pytest.mark.slow)
    for name in registry.names()
    for order in (registry.orders(name) or [None])
    if order not in AUTOMATIC and name != "loha"  # whose scale is a tensor on the host, which fake tensors count as the card's
]


@pytest.mark.parametrize(("method", "order"), ON_META)
def test_the_meta_device_gives_what_fake_tensors_give(method, order):
    """A GPU's step is followed on meta tensors, with shortcuts for elementwise operations and products: the same trace, faster."""
    settings = {"type": "LORA", "config": {"r": 4}} if method == "peft" else {}
    point = replace(
        tiny("roberta-tiny", "head"), method=method, order=order, settings=settings, checkpointing=order in ("published", "shared")
    )
    device = devices.get("h100")
    fake, meta = (dryrun._follow(point, device, None, mode) for mode in (FakeTensorMode(), torch.device("meta")))
    assert_same(dryrun._summary(meta, device), dryrun._summary(fake, device))


@pytest.mark.parametrize("model", ["vit-tiny", "gpt2-tiny", "llama-tiny"])
@pytest.mark.parametrize("changes", [{"checkpointing": True}, {"clip": 1.0, "accumulate": 2, "optimizer": "sgd"}])
def test_so_it_does_on_every_architecture(model, changes):
    point, device = tiny(model, "refta/shared", **changes), devices.get("a100-80")
    fake, meta = (dryrun._follow(point, device, None, mode) for mode in (FakeTensorMode(), torch.device("meta")))
    assert_same(dryrun._summary(meta, device), dryrun._summary(fake, device))


def test_a_padded_batch_keeps_its_mask():
    """On meta tensors transformers would ask whether the mask is all ones, and drop it: such a step is followed on fake ones."""
    point, device = tiny("roberta-tiny", "lora", loop={**LOOP, "attention_mask": True}), devices.get("h100")
    asked = dryrun._follow(point, device, None, torch.device("meta"))
    assert asked.branches
    fake = dryrun._follow(point, device, None, FakeTensorMode())
    assert dryrun._summary(dryrun.follow(point, "h100"), device) == dryrun._summary(fake, device)
    assert dryrun._summary(fake, device).kept_bytes > dryrun._summary(asked, device).kept_bytes


@pytest.mark.parametrize(("form", "made"), [(True, 3), ("additive", 0)])
def test_every_layer_makes_and_keeps_a_mask_of_numbers_where_it_is_given_one_of_booleans(form, made):
    """torch makes each layer its own (attention.cpp, convert_boolean_attn_mask); one of numbers it takes as it is."""
    point = tiny("roberta-tiny", "lora", loop={**LOOP, "attention_mask": form})
    wanted = (point.batch, 1, point.seq, point.seq)
    blocks = [block for block in dryrun.follow(point, "a100-80").stream.blocks if block.shape == wanted]
    kept = [block.nbytes for block in blocks if block.phase == "forward" and block.died_phase == "backward"]
    assert kept == [4 * math.prod(wanted)] * made


@pytest.fixture
def beit(tmp_path):
    """A folder with the config of a small BEiT of 3 × 3 patches, whose relative positions are added to the scores as a mask."""
    settings = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64, "image_size": 48}
    BeitConfig(**settings, use_relative_position_bias=True).save_pretrained(tmp_path)
    return str(tmp_path)


def test_a_trained_bias_of_attention_gets_its_gradient_on_a_gpu_too(beit):
    """With method `full` they are trained: 28 of them for 3 × 3 patches."""
    blocks = dryrun.follow(point(beit, "image-classification", label="full", method="full"), "h100").stream.blocks
    assert [block.shape for block in blocks if block.is_gradient].count((28, 4)) == 3


def test_what_a_models_code_remembers_of_one_step_is_not_in_another(beit):
    """transformers keeps BEiT's indices of relative positions between calls: of a real step, on fake tensors, on the meta device."""
    one = point(beit, "image-classification", label="full", method="full", batch=1)
    found = [dryrun.follow(replace(one, batch=batch), target) for target in ("cpu", "h100", "cpu") for batch in (1, 2)]
    assert [len(trace.stream.blocks) for trace in found[:2]] == [len(trace.stream.blocks) for trace in found[4:]]
    models.build(one, "cpu")(**models.batch(one, "cpu")).loss.backward()
    assert dryrun.follow(one, "cpu").signature() == found[0].signature()


@pytest.mark.parametrize("mode", [FakeTensorMode(), torch.device("meta")], ids=["fake", "meta"])
def test_clipping_on_a_gpu_has_a_norm_for_every_gradient_and_sums_of_chunks_there(mode):
    """On the host are the optimizer's counts of steps alone, which are no larger."""
    trace = dryrun.on_device(dryrun._follow(tiny("gpt2-tiny", "lora", clip=1.0), devices.get("h100"), None, mode))
    made = [trace.stream.blocks[number] for number, sign in trace.stream.events if sign > 0]
    by = [block.operation for block in made if block.phase == "optimizer"]
    gradients = sum(block.is_gradient for block in made)
    assert by.count("aten._foreach_norm.Scalar") == gradients > 0
    assert "aten.new_zeros.default" in by and dryrun.NUMBER not in by


def test_one_example_has_no_padding_and_is_predicted_without_a_mask():
    points = [tiny("roberta-tiny", "lora", batch=1, loop={**LOOP, "attention_mask": asked}) for asked in (True, False)]
    masked, plain = (dryrun.dry_run(one, "a100-80") for one in points)
    assert masked == plain


def assert_same(one, other):
    """Equal in all but the time, to which checkpointing's generator states add a few operations that only fake tensors show."""
    assert replace(one, time=None) == replace(other, time=None)
    assert one.time.seconds == pytest.approx(other.time.seconds, rel=0.02)


def test_batches_that_are_measured_here_and_those_that_are_not_share_their_traces():
    point = tiny("roberta-tiny", "lora", batch=2)
    first = dryrun.sweep(replace(point, measure_on_cpu=True), "h100", None)
    assert dryrun.sweep(replace(point, batch=8, measure_on_cpu=False, label="another"), "h100", None) is first


def test_checkpointing_keeps_a_generator_state_per_layer(monkeypatch):
    assert torch.get_rng_state().nbytes == dryrun.RNG_STATE
    point = tiny("roberta-tiny", "head", checkpointing=True)
    counted = predicted(point).peak_allocated_bytes
    monkeypatch.setattr(dryrun, "RNG_STATE", 0)
    dryrun._sweep_of.cache_clear()
    layers = 3
    assert counted - predicted(point).peak_allocated_bytes == (layers + 1) * 5056  # and the one that recomputing puts aside
    dryrun._sweep_of.cache_clear()


def test_categories_say_what_an_order_holds():
    shared, rebuilt = (predicted(tiny("vit-tiny", f"refta/{order}", batch=1)).by_category for order in ("shared", "reconstruct_stack"))
    assert shared["reconstructed"] == 0
    assert rebuilt["reconstructed"] >= 2 * 12 * 192 * 192 * 4  # both roles' stacks of 12 layers in float32
    assert shared["weights"] == rebuilt["weights"]
    assert shared["adapter"] == rebuilt["adapter"]


def test_a_cuda_target_counts_blocks_of_512_bytes_and_a_reserve():
    found = dryrun.dry_run(tiny("roberta-tiny", "refta/shared"), "h100")
    assert found.peak_allocated_bytes % 512 == found.static_bytes % 512 == 0
    assert found.peak_reserved_bytes is not None
    assert found.peak_reserved_bytes >= found.peak_allocated_bytes
    assert sum(found.by_category.values()) == found.peak_allocated_bytes
    assert found.by_category["workspace"] == 2 * 32 * 2**20


def test_the_generators_and_functions_are_themselves_again_afterwards():
    before = torch.get_rng_state, torch.set_rng_state, torch.nn.functional.dropout
    predicted(tiny("roberta-tiny", "head"))
    assert (torch.get_rng_state, torch.set_rng_state, torch.nn.functional.dropout) == before
