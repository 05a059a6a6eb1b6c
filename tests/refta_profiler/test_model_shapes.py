"""Presets hold the published dimensions, and shapes as data equal what transformers builds."""

import json
import subprocess
import sys

import pytest
from model_points import KINDS, PRESETS, linears, point

from refta_profiler import models
from refta_profiler.errors import ScenarioError
from refta_profiler.model_families import FAMILIES

# ---- published dimensions

PUBLISHED = {  # parameters in all with the head built here; the sums are written out where a model card counts another head
    "vit-tiny": 5_717_416 - 193 * 1000 + 193 * 3,  # timm's vit_tiny_patch16_224 has 1,000 classes
    "vit-small": 22_050_664 - 385 * 1000 + 385 * 3,
    "vit-base": 86_567_656 - 769 * 1000 + 769 * 3,
    "vit-large": 304_326_632 - 1025 * 1000 + 1025 * 3,
    "vit-huge": 632_045_800 - 1281 * 1000 + 1281 * 3,
    "deit-small": 22_436_432 - 2 * 385 * 1000 + 385 * 3,  # timm's deit_small_distilled_patch16_224 has two heads
    "dinov2-base": 86_580_480 + 1537 * 3,  # the backbone of facebook/dinov2-base; the head reads class token and mean
    "dinov2-large": 304_368_640 + 2049 * 3,
    "roberta-base": 124_645_632 - 590_592 + 590_592 + 769 * 3,  # the head's dense layer is as large as the pooler
    "roberta-large": 355_359_744 + 1025 * 3,
    "bert-base": 109_482_240 + 769 * 3,
    "bert-large": 335_141_888 + 1025 * 3,
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "llama-3-8b": 8_030_261_248,
    "qwen2.5-0.5b": 494_032_768,
    "mistral-7b": 7_241_732_096,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_in_all_are_the_published_count(name):
    built = models.build_on_meta(point(name))
    assert sum(parameter.numel() for parameter in built.parameters()) == PUBLISHED[name]


def test_every_preset_cites_its_source():
    for name, entry in models.presets().items():
        assert set(entry) <= {"model_type", "hub", "source", "config", "input_size"}, name
        assert entry["source"] and (entry["hub"] is None) == ("made up" in entry["source"]), name
        assert entry["model_type"] in FAMILIES, name


@pytest.mark.parametrize("name", PRESETS)
def test_the_config_takes_every_key_and_value(name):
    """A misspelt key would be kept as an attribute that nothing reads."""
    from transformers import AutoConfig

    entry = models.presets()[name]
    plain = AutoConfig.for_model(entry["model_type"])
    made = models.config(name)
    for key, value in entry["config"].items():
        assert hasattr(plain, key), key
        unused = key == "sliding_window" and not made.to_dict().get("use_sliding_window", True)  # Qwen2 forgets one that is off
        assert getattr(made, key) == (None if unused else value), key


def test_rope_scaling_of_llama():
    small, big = models.config("llama-3.2-1b"), models.config("llama-3-8b")
    assert small.rope_parameters["rope_type"] == "llama3" and small.rope_parameters["factor"] == 32.0
    assert big.rope_parameters == {"rope_type": "default", "rope_theta": 500000.0}


# ---- shapes as data


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_layers_are_what_transformers_builds(name, kind):
    """Every linear of the built model's layers is in one group, with its shape and bias; only heads and poolers are in none."""
    built = linears(models.build_on_meta(point(name, kind)))
    groups = models.layers(name)
    assert groups is not None
    described = {module: (x.n, x.d, x.bias) for x in groups for module in x.names}
    assert described == {module: built[module] for module in described}
    rest = set(built) - set(described)
    assert not [module for module in rest if any(part.isdigit() for part in module.split("."))]


@pytest.mark.parametrize("name", ["vit-tiny", "deit-small", "dinov2-base", "roberta-tiny", "bert-base", "gpt2-tiny", "llama-tiny"])
def test_groups_are_in_the_order_of_a_forward(name):
    """The order in which the linears of the first layer really run (an MLP's gate before its up)."""
    model, ran = models.build_on_meta(point(name)), []
    groups = models.layers(name) or []
    for group in groups:
        model.get_submodule(group.names[0]).register_forward_hook(lambda *_, role=group.role: ran.append(role))
    with models.without_packing():
        model(**models.batch(point(name), "meta"))
    assert ran == [group.role for group in groups]


ROLES_OF = {
    "vit-tiny": "query key value output up down",
    "deit-small": "query key value output up down",
    "dinov2-base": "query key value output up down",
    "bert-base": "query key value output up down",
    "roberta-base": "query key value output up down",
    "gpt2": "qkv output up down",
    "llama-3.2-1b": "query key value output gate up down",
    "qwen2.5-0.5b": "query key value output gate up down",
    "mistral-7b": "query key value output gate up down",
}


@pytest.mark.parametrize("name", ROLES_OF)
def test_roles(name):
    assert models.roles(name) == ROLES_OF[name].split()


def test_roles_by_hand_for_vit_large():
    groups = models.layers("vit-large", ["value", "query"])
    assert groups is not None
    assert [(x.role, x.layers, x.n, x.d, x.bias, x.template) for x in groups] == [
        ("query", 24, 1024, 1024, True, "vit.layers.{}.attention.q_proj"),
        ("value", 24, 1024, 1024, True, "vit.layers.{}.attention.v_proj"),
    ]
    assert groups[0].names[23] == "vit.layers.23.attention.q_proj"
    assert groups[0].largest_rank == 24 * 1024


def test_grouped_query_attention_by_hand():
    """Llama-3.2-3B: 24 query heads and 8 key heads of 128, so value is 3072 to 1024."""
    (value,) = models.layers("llama-3.2-3b", ["value"]) or []
    assert (value.layers, value.n, value.d, value.bias) == (28, 1024, 3072, False)
    assert value.largest_rank == 28 * 1024  # no bias: no extra column


def test_wide_bias_column_counts():
    """48 → 144 with bias: [W | b] is 144 × 49, so each of 3 layers has 49 components."""
    (qkv,) = models.layers("gpt2-tiny", ["qkv"]) or []
    assert (qkv.n, qkv.d, qkv.largest_rank) == (144, 48, 3 * 49)


def test_raw_ends_of_module_names_name_groups():
    assert [x.role for x in models.layers("vit-tiny", ["v_proj", "mlp.fc1"]) or []] == ["value", "up"]
    assert [x.role for x in models.layers("bert-base", ["output.dense"]) or []] == ["output", "down"]
    assert [x.role for x in models.layers("bert-base", ["attention.output.dense"]) or []] == ["output"]


def test_a_name_with_a_layers_number_is_one_linear():
    (one,) = models.layers("vit-tiny", ["3.attention.q_proj"]) or []
    assert (one.role, one.layers, one.names) == ("query", 1, ["vit.layers.3.attention.q_proj"])


@pytest.mark.parametrize("wanted", [["query", "q_proj"], ["q_proj", "layers.2.attention.q_proj"]])
def test_a_linear_is_adapted_once(wanted):
    with pytest.raises(ScenarioError, match=rf"'{wanted[0]}' and '{wanted[1]}' both mean vit.layers.\d.attention.q_proj of vit-tiny"):
        models.layers("vit-tiny", wanted)


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_the_adapter_library_finds_the_same_stacks(name, kind):
    """refta.sites reads roles from a built model's names: the same linears, roles and shapes, in the same order."""
    from refta.sites import find_stacks

    groups = models.layers(name) or []
    stacks = find_stacks(models.build_on_meta(point(name, kind)), [group.role for group in groups])
    found = [(x.role, [site.path for site in x.sites], x.shape().rows, x.shape().columns, x.shape().bias) for x in stacks]
    assert found == [(x.role, x.names, x.n, x.d, x.bias) for x in groups]


@pytest.mark.parametrize(
    ("name", "target", "says"),
    [
        ("gpt2", "query", r"gpt2 has no role 'query'.*\(it has qkv, output, up, down\)"),
        ("vit-tiny", "gate", r"vit-tiny has no role 'gate'.*\(it has query, key, value, output, up, down\)"),
        ("vit-tiny", "qurey", r"no role or linear 'qurey' in its layers; did you mean 'query'\?"),
        ("llama-tiny", "c_attn", r"no role or linear 'c_attn' in its layers"),
    ],
)
def test_a_role_that_the_model_lacks(name, target, says):
    with pytest.raises(ScenarioError, match=says):
        models.layers(name, [target])


@pytest.mark.parametrize(
    ("name", "tokens"), [("vit-large", 197), ("vit-tiny", 197), ("vit-huge", 257), ("deit-small", 198), ("dinov2-base", 257)]
)
def test_tokens_of_an_image(name, tokens):
    """ViT-L/16 at 224 pixels: (224/16)² + 1; DeiT has a second special token; DINOv2 is fed 224 pixels, not the 518 of its config."""
    assert models.tokens_per_sequence(name, None) == tokens


def test_tokens_of_an_image_are_what_the_model_computes_with():
    for name in ("vit-tiny", "deit-small", "dinov2-base"):
        model, seen = models.build_on_meta(point(name)), []
        first = (models.layers(name) or [])[0].names[0]
        model.get_submodule(first).register_forward_hook(lambda _, inputs, __, seen=seen: seen.append(inputs[0].shape[1]))
        images = models.batch(point(name), "meta")
        model(**images)
        assert seen == [models.tokens_per_sequence(name, None)]


@pytest.mark.parametrize(
    ("name", "most"), [("roberta-base", 512), ("bert-base", 512), ("gpt2", 1024), ("llama-3-8b", 8192), ("vit-tiny", None)]
)
def test_longest_sequence(name, most):
    assert models.longest_sequence(name) == most


@pytest.mark.parametrize("model_type", FAMILIES)
def test_family_defaults_are_the_librarys(model_type):
    from transformers import AutoConfig

    plain = AutoConfig.for_model(model_type)
    for key, value in FAMILIES[model_type].defaults.items():
        found = getattr(plain, key, None)
        assert found == value or (value is None and key in ("head_dim", "num_key_value_heads")), key
    for alias, key in FAMILIES[model_type].aliases.items():
        assert plain.attribute_map[alias] == key


def test_swiglu_and_cross_attention(tmp_path):
    """dinov2-giant's MLP is gated, 2/3 wide in a multiple of 8; cross-attention is not described, so nothing is claimed."""
    folder = tmp_path / "giant"
    folder.mkdir()
    config = {"model_type": "dinov2", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "use_swiglu_ffn": True}
    (folder / "config.json").write_text(json.dumps(config))
    groups = models.layers(str(folder))
    assert groups is not None and [(x.role, x.n) for x in groups[-3:]] == [("gate", 176), ("up", 176), ("down", 64)]
    built = linears(models.build_on_meta(point(str(folder))))
    assert all(built[name] == (x.n, x.d, x.bias) for x in groups for name in x.names)
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2", "add_cross_attention": True}))
    assert models.layers(str(folder)) is None


# ---- start-up


def test_asking_for_shapes_imports_no_torch():
    code = (
        "import sys; from refta_profiler import models, devices\n"
        "models.layers('vit-large', ['query']); models.tokens_per_sequence('vit-large', None); devices.get('h100')\n"
        "print([x for x in ('torch', 'transformers', 'pandas', 'matplotlib', 'huggingface_hub') if x in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
