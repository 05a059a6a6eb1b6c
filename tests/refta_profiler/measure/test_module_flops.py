"""fvcore's FLOPs beside ours: equal module by module where both have formulas, and every difference named."""

import importlib.util

import pytest
import torch
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
        ("layer_norm", "norms"),
        ("gelu", "gelu"),
    ],
)
def test_families(operation, kind):
    assert module_flops.family(operation) == kind
