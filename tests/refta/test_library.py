"""Methods of the peft library, attached by it."""

import csv
import subprocess
import sys

import pytest
import torch
from model_shapes_on_meta import llama_3_2_3b, vit_large
from toy_models import DATA, gpt2, gradients, llama, pixels, relative_error, tokens, vit

import refta
from refta import library
from refta.errors import SettingError

PUBLISHED = DATA / "published" / "peft_trainable_parameters.csv"


def published() -> list:
    """Type, configuration and trainable parameters of each row; FourierFT draws its frequencies from all places of every weight."""
    with PUBLISHED.open() as file:
        rows = [(row["peft_type"], configuration(row["config"]), int(row["trainable"])) for row in csv.DictReader(file)]
    return [pytest.param(*row, marks=pytest.mark.slow if row[0] == "FOURIERFT" else ()) for row in rows]


def configuration(text: str) -> dict:
    """`r=32, use_dora=true` → {"r": 32, "use_dora": True}; words without `=` say that the rest is the library's default."""
    words = {"true": True, "false": False}
    pairs = [part.split("=") for part in text.split(", ") if "=" in part]
    return {key: words[value] if value in words else int(value) for key, value in pairs}


@pytest.mark.parametrize(("type_", "config", "count"), published(), ids=lambda value: str(value))
def test_published_counts(type_, config, count):
    adapted = refta.adapt(llama_3_2_3b(), "peft", targets=["query", "value"], type=type_, config=config)
    assert adapted.trainable_parameters == count
    assert len(adapted.sites) == 56


@pytest.mark.parametrize(("method", "rank", "count"), [("lora", 16, 1_572_864), ("pissa", 8, 786_432), ("refta", 15, 61_470)])
def test_counts_in_print_on_vit_large(method, rank, count):
    assert refta.adapt(vit_large(), method, targets=["query", "value"], rank=rank).trainable_parameters == count


@pytest.mark.parametrize("method", ["lora", "pissa"])
@pytest.mark.parametrize(
    ("build", "batch", "targets"), [(vit, pixels, ["query", "up"]), (llama, tokens, ["key", "down"]), (gpt2, tokens, ["qkv", "up"])]
)
def test_they_start_at_the_pretrained_model_and_train(method, build, batch, targets):
    wanted = build().eval()(batch()).logits.detach()
    adapted = refta.adapt(build().eval(), method, targets=targets, rank=3)
    y = adapted.model(batch()).logits
    assert relative_error(y.detach(), wanted) < 1e-5
    y.square().sum().backward()
    head = {"classifier.weight", "classifier.bias"}
    assert sum(gradients(adapted.model)[name].numel() for name in gradients(adapted.model).keys() - head) == adapted.trainable_parameters


@pytest.mark.parametrize(
    ("type_", "config"),
    [
        ("LORA", {"r": 2}),
        ("lora", {"r": 2, "use_dora": True}),
        ("VERA", {"r": 8}),
        ("LOHA", {"r": 2}),
        ("LOKR", {"r": 2}),
        ("FOURIERFT", {"n_frequency": 10}),
        ("IA3", {"feedforward_modules": []}),
        ("OFT", {"oft_block_size": 4}),
        ("HRA", {"r": 2}),
    ],
)
def test_many_types_by_name_train_exactly_their_own(type_, config):
    adapted = refta.adapt(vit(), "peft", targets=["query"], type=type_, config=config)
    adapted.model(pixels()).logits.square().sum().backward()
    trained = {name for name, one in adapted.model.named_parameters() if one.requires_grad}
    head = {"classifier.weight", "classifier.bias"}
    assert head < trained
    assert gradients(adapted.model).keys() == trained
    assert sum(dict(adapted.model.named_parameters())[name].numel() for name in trained - head) == adapted.trainable_parameters


def test_only_the_sites_are_adapted():
    adapted = refta.adapt(vit(), "lora", targets=["query"])
    changed = {name for name, module in adapted.model.named_modules() if hasattr(module, "lora_A")}
    assert changed == set(adapted.sites)


@pytest.mark.parametrize(
    ("base", "asked", "wanted"),
    [
        (torch.float32, None, torch.float32),
        (torch.bfloat16, None, torch.float32),
        (torch.bfloat16, "bfloat16", torch.bfloat16),
        (torch.float64, None, torch.float64),
    ],
)
def test_the_adapters_dtype(base, asked, wanted):
    adapted = refta.adapt(vit().to(base), "lora", targets=["query"], adapter_dtype=asked)
    assert adapted.attached is not None
    assert {parameter.dtype for parameter in adapted.attached.parameters} == {wanted}
    assert adapted.model(pixels().to(base)).logits.dtype == base


def test_dropout_is_off_in_an_evaluated_model_and_on_in_a_trained_one():
    adapted = refta.adapt(vit().eval(), "pissa", targets=["query"], rank=3, dropout=0.5)
    wanted = vit().eval()(pixels()).logits.detach()
    assert relative_error(adapted.model(pixels()).logits.detach(), wanted) < 1e-5
    assert relative_error(adapted.model.train()(pixels()).logits.detach(), wanted) > 1e-4


def test_alpha_scales_lora_and_options_reach_peft():
    adapted = refta.adapt(vit(), "lora", targets=["query"], rank=4, alpha=8, options={"use_dora": True})
    layer = adapted.model.get_submodule(adapted.sites[0])
    assert layer.scaling == {"default": 2.0}
    assert layer.use_dora == {"default": True}


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"type": "LORRA"}, "type: 'LORRA' is not a type of it .*LORA"),
        ({"type": "PROMPT_TUNING"}, "'PROMPT_TUNING' cannot be put into single layers"),
        ({"type": "LORA", "config": {"rank": 3}}, "peft LORA: .*unexpected keyword argument 'rank'"),
        ({"type": "LORA", "config": {"r": 0}}, "peft LORA: .*positive"),
        ({"type": "LORA", "config": {"target_modules": ["query"]}}, "target_modules is set by the scenario's targets"),
        ({"type": 3}, "type must be a peft type"),
    ],
)
def test_what_peft_refuses_is_said_with_its_reason(settings, fault):
    model = vit()
    with pytest.raises(SettingError, match=fault):
        refta.adapt(model, "peft", targets=["query"], **settings)
    assert all(one.requires_grad for one in model.parameters())


def test_what_is_loaded_beforehand_draws_nothing():
    before = torch.get_rng_state()
    library.load()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_an_adapter_then_imports_nothing_more():
    script = """
import sys, torch
from transformers import ViTConfig, ViTModel
import refta
from refta import library
library.load()
sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=16, patch_size=16)
model, before = ViTModel(ViTConfig(**sizes)), set(sys.modules)
refta.adapt(model, "lora", targets=["query"], rank=1)
print(sorted(name for name in set(sys.modules) - before if name.partition(".")[0] not in ("refta", "transformers")))
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("method", ["lora", "pissa"])
def test_orders_are_not_theirs_to_choose(method):
    with pytest.raises(SettingError, match=f"order: unknown order 'shared' of '{method}'"):
        refta.adapt(vit(), method, targets=["query"], order="shared")
