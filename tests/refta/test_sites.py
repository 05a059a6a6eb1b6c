"""Roles of many families, stacks by shape and place, and refusals."""

import importlib
import warnings

import pytest
import torch
from torch import nn
from toy_models import Layer, Parallel, gpt2, llama, vit

from refta.errors import SettingError
from refta.sites import Site, all_sites, find_stacks

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
TEXT = {**SIZES, "vocab_size": 50}
GROUPED = {**TEXT, "num_key_value_heads": 2}
SEPARATE = {"query": 2, "key": 2, "value": 2, "output": 2, "up": 2, "down": 2}
FUSED = {"qkv": 2, "output": 2, "up": 2, "down": 2}
GATED = {**SEPARATE, "gate": 2}
ONE_ENCODER_AND_DECODER = {"query": 6, "key": 6, "value": 6, "output": 6, "up": 4, "down": 4}  # a decoder layer attends twice

# family: config class, model class, sizes, linears of each role in two layers
FAMILIES = {
    "vit": ("ViTConfig", "ViTModel", SIZES, SEPARATE),
    "deit": ("DeiTConfig", "DeiTModel", SIZES, SEPARATE),
    "dinov2": ("Dinov2Config", "Dinov2Model", SIZES, SEPARATE),
    "bert": ("BertConfig", "BertModel", TEXT, SEPARATE),
    "bert-decoder": (
        "BertConfig",
        "BertModel",
        {**TEXT, "is_decoder": True, "add_cross_attention": True},
        {"query": 4, "key": 4, "value": 4, "output": 4, "up": 2, "down": 2},  # every layer attends twice
    ),
    "roberta": ("RobertaConfig", "RobertaModel", TEXT, SEPARATE),
    "electra": ("ElectraConfig", "ElectraModel", {**TEXT, "embedding_size": 32}, SEPARATE),
    "deberta-v2": ("DebertaV2Config", "DebertaV2Model", TEXT, SEPARATE),
    "distilbert": (
        "DistilBertConfig",
        "DistilBertModel",
        {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "vocab_size": 50},
        SEPARATE,
    ),
    "albert": (
        "AlbertConfig",
        "AlbertModel",
        {**TEXT, "embedding_size": 16},
        dict.fromkeys(SEPARATE, 1),
    ),  # its layers share one set of weights
    "t5": (
        "T5Config",
        "T5Model",
        {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 50},
        ONE_ENCODER_AND_DECODER,
    ),
    "bart": (
        "BartConfig",
        "BartModel",
        {
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "vocab_size": 50,
        },
        ONE_ENCODER_AND_DECODER,
    ),
    "opt": ("OPTConfig", "OPTModel", {**SIZES, "ffn_dim": 64, "word_embed_proj_dim": 32, "vocab_size": 50}, SEPARATE),
    "gpt2": ("GPT2Config", "GPT2Model", {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 50}, FUSED),
    "gptj": ("GPTJConfig", "GPTJModel", {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "vocab_size": 50}, SEPARATE),
    "gpt_neox": ("GPTNeoXConfig", "GPTNeoXModel", TEXT, FUSED),
    "falcon": ("FalconConfig", "FalconModel", TEXT, FUSED),
    "bloom": ("BloomConfig", "BloomModel", {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 50}, FUSED),
    "mpt": ("MptConfig", "MptModel", {"d_model": 32, "n_layers": 2, "n_heads": 4, "vocab_size": 50}, FUSED),
    "phi3": ("Phi3Config", "Phi3Model", {**GROUPED, "pad_token_id": 0}, FUSED),  # gate and up in one linear, gate_up_proj
    "llama": ("LlamaConfig", "LlamaModel", GROUPED, GATED),
    "mistral": ("MistralConfig", "MistralModel", GROUPED, GATED),
    "qwen2": ("Qwen2Config", "Qwen2Model", GROUPED, GATED),
    "gemma2": ("Gemma2Config", "Gemma2Model", {**GROUPED, "head_dim": 8}, GATED),
    "modernbert": ("ModernBertConfig", "ModernBertModel", {**TEXT, "pad_token_id": 0}, FUSED),  # gate and up in one linear, Wi
    "clip": ("CLIPVisionConfig", "CLIPVisionModel", SIZES, SEPARATE),
    "swin": ("SwinConfig", "SwinModel", {"embed_dim": 8, "depths": [2, 2], "num_heads": [2, 4]}, dict.fromkeys(SEPARATE, 4)),
}


def on_meta(family: str) -> nn.Module:
    configuration, model, sizes, _ = FAMILIES[family]
    transformers = importlib.import_module("transformers")
    with torch.device("meta"):
        return getattr(transformers, model)(getattr(transformers, configuration)(**sizes))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_linear_of_a_layer_has_its_role(family):
    sites = all_sites(on_meta(family))
    counts = {role: sum(site.role == role for site in sites) for role in {site.role for site in sites} - {""}}
    assert counts == FAMILIES[family][3]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_role_of_a_family_makes_stacks_of_equal_shape(family):
    model = on_meta(family)
    for role, count in FAMILIES[family][3].items():
        stacks = find_stacks(model, [role])
        assert sum(len(stack.sites) for stack in stacks) == count
        assert all(len({(site.rows, site.columns, site.bias) for site in stack.sites}) == 1 for stack in stacks)
        assert len({stack.name for stack in stacks}) == len(stacks)


def test_the_linears_that_have_no_role_are_these():
    """Named here so that a role that a family loses is seen: none of them is a part of a layer's attention or MLP."""
    nameless = {family: {site.path for site in all_sites(on_meta(family)) if not site.role} for family in FAMILIES}
    assert {family: paths for family, paths in nameless.items() if paths} == {"swin": {"encoder.layers.0.downsample.reduction"}}


def test_conv1d_shapes_are_turned():
    (stack,) = find_stacks(gpt2(), ["qkv"])
    assert (stack.sites[0].rows, stack.sites[0].columns) == (96, 32)


def test_grouped_query_stacks():
    stacks = find_stacks(llama(), ["query", "value"])
    assert [(stack.name, stack.sites[0].rows, stack.sites[0].columns, stack.sites[0].bias) for stack in stacks] == [
        ("query", 32, 32, False),
        ("value", 16, 32, False),
    ]


def test_unequal_shapes_form_separate_stacks():
    model = Parallel(5, 8, 6)
    for k in (1, 3):
        model.layers[k].query = nn.Linear(6, 4)
    model.layers[4].query = nn.Linear(6, 8, bias=False)
    stacks = find_stacks(model, ["query"])
    assert [[site.path for site in stack.sites] for stack in stacks] == [
        ["layers.0.query", "layers.2.query"],
        ["layers.1.query", "layers.3.query"],
        ["layers.4.query"],
    ]
    assert [stack.name for stack in stacks] == ["query_0", "query_1", "query_2"]


@pytest.mark.parametrize(
    ("path", "template"),
    [
        ("vit.layers.3.attention.q_proj", "vit.layers.*.attention.q_proj"),
        ("3.query", "*.query"),
        ("swinv2.layers.1.blocks.0.query", "swinv2.layers.*.blocks.*.query"),
        ("encoder.layers.encoder_layer_11.mlp.0", "encoder.layers.encoder_layer_*.mlp.0"),
        ("layers.3.attention_2.query", "layers.*.attention_2.query"),
        ("tower_1.layers.3.query", "tower_1.layers.*.query"),
        ("layer_3.attention_2.query.0", "layer_*.attention_2.query.0"),
        ("layers.3.layer_norm_1", "layers.*.layer_norm_1"),
        ("layer_3.fc_1", "layer_*.fc_1"),
        ("conv2d.proj", "conv2d.proj"),
    ],
)
def test_the_numbers_of_layers_are_starred_and_no_others(path, template):
    assert Site(path, "", nn.Identity(), 1, 1, bias=False).template == template


def test_layers_of_a_sequential_at_the_root_are_one_stack():
    (stack,) = find_stacks(nn.Sequential(Layer(6, 6), Layer(6, 6), Layer(6, 6)), ["query"])
    assert [site.path for site in stack.sites] == ["0.query", "1.query", "2.query"]


def test_layers_that_are_numbered_at_the_ends_of_their_names_are_one_stack_a_place():
    """As torchvision's encoder names them; the two attentions of a layer stay apart."""
    model = nn.Module()
    for layer in range(3):
        block = nn.Module()
        block.mlp = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6))
        block.attention_1, block.attention_2 = nn.Sequential(nn.Linear(6, 6)), nn.Sequential(nn.Linear(6, 6))
        model.add_module(f"encoder_layer_{layer}", block)
    (stack,) = find_stacks(model, ["mlp.0"])
    assert [site.path for site in stack.sites] == [f"encoder_layer_{layer}.mlp.0" for layer in range(3)]
    attentions = find_stacks(model, ["attention_1.0", "attention_2.0"])
    assert [(stack.name, len(stack.sites)) for stack in attentions] == [("attention_1_0", 3), ("attention_2_0", 3)]


def test_a_digit_in_a_models_name_is_no_layer():
    """Swin v2's is `swinv2.encoder.layers.1.blocks.0`: its first adapted layer is the first of the list, not layer 2 of all stages."""
    model = nn.Module()
    model.swinv2 = Parallel(3, 8, 6)
    model.swinv2.layers[1].query = nn.Linear(6, 4)
    stacks = find_stacks(model, ["query"])
    assert {stack.sites[0].path: stack.inputs_without_gradient for stack in stacks} == {
        "swinv2.layers.0.query": 1,
        "swinv2.layers.1.query": 0,
    }


def test_a_target_may_be_the_end_of_a_path():
    (by_role,), (by_name,) = find_stacks(llama(), ["query"]), find_stacks(llama(), ["self_attn.q_proj"])
    assert [site.path for site in by_role.sites] == [site.path for site in by_name.sites]
    assert (by_name.role, by_name.name) == ("query", "self_attn_q_proj")


def test_stacks_come_in_forward_order_whatever_the_order_of_the_targets():
    names = [[stack.name for stack in find_stacks(vit(), targets)] for targets in (["value", "query", "down"], ["down", "value", "query"])]
    assert names == [["query", "value", "down"]] * 2


@pytest.mark.parametrize(
    ("targets", "free"),
    [
        (["query"], {"query": 1}),
        (["query", "value", "down"], {"query": 1, "value": 1, "down": 0}),
        (["output", "up"], {"output": 1, "up": 0}),
        (["down"], {"down": 1}),
    ],
)
def test_the_first_adapted_input_needs_no_gradient(targets, free):
    assert {stack.role: stack.inputs_without_gradient for stack in find_stacks(vit(), targets)} == free


@pytest.mark.parametrize("family", ["bart", "t5"])
def test_encoder_and_decoder_both_start_at_frozen_embeddings(family):
    """Their self-attention reads them; the decoder's cross-attention and MLP read what the adapted encoder gives."""
    stacks = find_stacks(on_meta(family), ["query", "value", "up"])
    free = {(stack.role, stack.sites[0].path) for stack in stacks if stack.inputs_without_gradient}
    assert {role for role, _ in free} == {"query", "value"}
    assert {path.split(".")[0] for _, path in free} == {"encoder", "decoder"}
    assert not any("encoder_attn" in path or "EncDecAttention" in path for _, path in free)
    only_up = find_stacks(on_meta(family), ["up"])
    assert {stack.sites[0].path.split(".")[0]: stack.inputs_without_gradient for stack in only_up} == {"encoder": 1, "decoder": 0}


def test_the_output_of_cross_attention_is_no_part_of_the_mlp():
    outputs, downs = (find_stacks(on_meta("bert-decoder"), [role]) for role in ("output", "down"))
    assert [[site.path for site in stack.sites] for stack in outputs] == [
        [f"encoder.layer.{layer}.{attention}.output.dense" for layer in range(2)] for attention in ("attention", "crossattention")
    ]
    assert [[site.path for site in stack.sites] for stack in downs] == [[f"encoder.layer.{layer}.output.dense" for layer in range(2)]]


@pytest.mark.parametrize(("family", "read"), [("vit", 2), ("bart", 2 + 2 + 2 + 1), ("t5", 2 + 2 + 2 + 1), ("swin", 4)])
def test_linears_that_read_the_same_x_name_it_alike(family, read):
    """Query and value share theirs; cross-attention's values read what the encoder gives, one x for both layers of the decoder."""
    stacks = find_stacks(on_meta(family), ["query", "value"])
    assert len({name for stack in stacks for name in stack.shape().inputs}) == read


@pytest.mark.parametrize(
    ("targets", "fault"),
    [
        (["qeury"], "ViTForImageClassification has no 'qeury'; did you mean 'query'"),
        (["gate"], "has no 'gate'; .*its roles are query, key, value, output, up, down"),
        (["qkv"], "its roles are query"),
        ([], "targets: .*it must be a list of roles"),
        ("query", "targets: 'query'; it must be a list"),
        (["query", "attention.q_proj"], "both name vit.layers.0"),
    ],
)
def test_targets_that_cannot_be_are_refused(targets, fault):
    model = vit()
    if targets == ["query", "attention.q_proj"]:
        targets = ["query", ".".join(find_stacks(model, ["query"])[0].sites[0].path.rsplit(".", 2)[1:])]
    with pytest.raises(SettingError, match=fault):
        find_stacks(model, targets)


BYPASSED = {
    "WavLM": (["query", "value"], r"encoder\.layers\.0\.attention\.q_proj: WavLMAttention computes with its weight"),
    "Mamba": (["output"], r"layers\.0\.mixer\.out_proj: MambaMixer"),
    "torch": (["output"], r"layers\.0\.self_attn\.out_proj: MultiheadAttention"),
    "torch's MLP": (["linear1"], r"layers\.0\.linear1: TransformerEncoderLayer"),
}


@pytest.mark.parametrize("name", BYPASSED)
def test_linears_whose_weight_is_read_and_that_are_never_called_are_refused(name):
    import transformers

    wavlm = {"conv_dim": (8,), "conv_stride": (2,), "conv_kernel": (2,), "num_feat_extract_layers": 1, "num_conv_pos_embeddings": 4}
    with torch.device("meta"):
        if name == "WavLM":
            model: nn.Module = transformers.WavLMModel(transformers.WavLMConfig(**TEXT, **wavlm, num_conv_pos_embedding_groups=2))
        elif name == "Mamba":
            model = transformers.MambaModel(transformers.MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=50))
        else:
            model = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64), 2, enable_nested_tensor=False)
    targets, fault = BYPASSED[name]
    with pytest.raises(SettingError, match=fault):
        find_stacks(model, targets)


def test_a_model_without_numbered_layers_is_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(SettingError, match="its roles are none, its linears none"):
            find_stacks(nn.Linear(3, 3), ["query"])
