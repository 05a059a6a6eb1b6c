"""fvcore's FLOPs beside ours: equal module by module where both have formulas, and every difference named."""

import importlib.util
import json

import pytest
import torch
from model_points import point
from real_steps import tiny

from refta_profiler import models, workload
from refta_profiler.flops import FlopCounter
from refta_profiler.measure import module_flops

needs_fvcore = pytest.mark.skipif(importlib.util.find_spec("fvcore") is None, reason="fvcore is not installed")
CASES = [
    ("vit-tiny", "refta/shared", {}),
    ("vit-tiny", "head", {"precision": "bf16"}),
    ("roberta-tiny", "lora", {"checkpointing": True}),
    ("roberta-tiny", "refta/reconstruct_stack", {"precision": "bf16"}),
    ("gpt2-tiny", "refta/reconstruct_recompute", {"checkpointing": True}),
    ("llama-tiny", "full", {"precision": "amp-bf16"}),
    ("llama-tiny", "refta/shared", {"checkpointing": True, "precision": "bf16"}),
]


def taken(point):
    work = workload.build(point, torch.device("cpu"))
    with models.without_packing():
        return work, module_flops.module_flops(work)


@needs_fvcore
@pytest.mark.parametrize(("model", "label", "changes"), CASES)
def test_the_counts_are_reconciled(model, label, changes):
    work, found = taken(tiny(model, label, batch=1, **changes))
    assert found["reason"] == ""
    explained = sum(one["ours"] - one["fvcore"] for one in found["difference"])
    assert found["total"]["ours"] - found["total"]["fvcore"] == explained
    assert all(one["why"] for one in found["difference"])
    whole = next(row for row in found["modules"] if row["module"] == "(model)")
    assert (whole["ours"], whole["fvcore"]) == (found["total"]["ours"], found["total"]["fvcore"])
    with FlopCounter() as counter, workload.precision(work):
        work.model(**work.batch)
    assert counter.total() == found["total"]["ours"]


@needs_fvcore
def test_linears_agree_one_by_one():
    _, found = taken(tiny("vit-tiny", "refta/shared", batch=1))
    rows = {row["module"]: row for row in found["modules"]}
    query, key = rows["vit.layers.*.attention.q_proj"], rows["vit.layers.*.attention.k_proj"]
    assert (query["modules"], key["modules"]) == (12, 12)
    assert key["ours"] == key["fvcore"] == 12 * 2 * 197 * 192 * 192
    assert query["ours"] == query["fvcore"] > key["ours"]
    norm = rows["vit.layers.*.layernorm_before"]
    assert (norm["ours"], norm["fvcore"]) == (0, 12 * 5 * 197 * 192)
    attention = {one["family"]: one for one in found["difference"]}["attention"]
    assert (attention["ours"], attention["fvcore"]) == (12 * 2 * 2 * 197 * 197 * 192, 0)
    assert found["uncounted"]["fvcore"] == {"scaled_dot_product_attention": 12}
    assert found["uncounted"]["ours"] == {"native_layer_norm": 25}
    assert found["uncounted"]["neither"]["gelu"] == 12


VISION = {
    "beit": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 32}
    | {"use_relative_position_bias": True},
    "resnet": {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic", "image_size": 32},
}


@needs_fvcore
@pytest.mark.parametrize(("model", "operation"), [("beit", "upsample_bilinear2d"), ("resnet", "adaptive_avg_pool2d")])
def test_what_fvcore_alone_estimates_is_a_difference_with_a_reason(model, operation, tmp_path):
    """BEiT interpolates its relative positions, ResNet pools: operations as fvcore counts them, not multiply-adds to be doubled."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model} | VISION[model]))
    _, found = taken(point(str(tmp_path), "image-classification", label="full", method="full", batch=1, attention="eager"))
    assert found["reason"] == ""
    estimated = {one["family"]: one for one in found["difference"]}[operation]
    assert (estimated["ours"], "torch, and so ours, counts none" in estimated["why"]) == (0, True)
    hand = {"upsample_bilinear2d": 2 * 4 * (2 * 3 * 3), "adaptive_avg_pool2d": 32 * 4 * 4}  # 4 a result of 2 heads in 2 layers; 1 an input
    assert estimated["fvcore"] == hand[operation]
    explained = sum(one["ours"] - one["fvcore"] for one in found["difference"])
    assert found["total"]["ours"] - found["total"]["fvcore"] == explained


def test_a_family_that_is_not_known_is_a_difference_with_a_reason_on_either_side():
    ours, theirs = module_flops.Count(), module_flops.Count()
    ours.by_operation.update({"new_product": 4, "both": 2, "_scaled_mm": 8})
    theirs.by_operation.update({"grid_sampler": 3, "both": 6})
    why = {one["family"]: one["why"] for one in module_flops.difference(ours, theirs)}
    assert why["new_product"] == module_flops.OURS_ALONE
    assert why["grid_sampler"] == module_flops.FVCORES_ALONE
    assert why["both"] == module_flops.UNLIKE
    assert why["matrix products"].startswith("products within")


@needs_fvcore
def test_what_fvcore_cannot_look_into_is_named():
    _, found = taken(tiny("roberta-tiny", "refta/reconstruct_recompute"))
    products = {one["family"]: one for one in found["difference"]}["matrix products"]
    assert "_RecomputedFold" in products["why"]
    assert "scaled_dot_product_attention" in products["why"]  # with dropout it is run by products of its own
    assert "mv" in found["uncounted"]["neither"]  # the update's bias: no formula of torch's, none of fvcore's


def test_without_fvcore_ours_stands_alone(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    _, found = taken(tiny("roberta-tiny", "lora"))
    assert "pip install fvcore" in found["reason"]
    assert found["total"]["fvcore"] is None
    assert found["total"]["ours"] > 0
    assert {row["fvcore"] for row in found["modules"]} == {None}


@needs_fvcore
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_a_model_that_cannot_be_traced_says_why(monkeypatch):
    import fvcore.nn

    def refuse(*arguments):
        raise RuntimeError("Tracer cannot infer type\nmore")

    monkeypatch.setattr(fvcore.nn, "FlopCountAnalysis", refuse)
    _, found = taken(tiny("roberta-tiny", "head"))
    assert found["reason"] == "fvcore cannot trace the model: RuntimeError: Tracer cannot infer type"


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("addmm", "matrix products"),
        ("conv", "convolutions"),
        ("convolution", "convolutions"),
        ("_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("_scaled_mm", "matrix products"),
        ("_slow_conv2d_forward", "convolutions"),
        ("_flash_attention_forward", "attention"),
        ("layer_norm", "norms"),
        ("gelu", "gelu"),
    ],
)
def test_families(operation, kind):
    assert module_flops.family(operation) == kind
