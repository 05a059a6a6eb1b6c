"""The tensor methods against what is printed of them: trainable counts, published shapes, starts, messages."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from test_every_method import NETWORKS, Encoder, adapted_encoder
from torch._subclasses.fake_tensor import FakeTensorMode

import refta
from refta import cost, counting, registry
from refta.errors import SettingError
from refta.network import count_trainable
from refta.shapes import StackShape

PUBLISHED = Path(__file__).parents[1] / "data" / "published"
REBUILT_OR_NOT = ("features", "reconstruct", "reconstruct_recompute")
OWN = [name for name in NETWORKS if registry.orders(name) and name != "refta"]


def trained(name: str, roles: tuple[str, ...], *, width: int = 1024, layers: int = 24, head_size: int = 64, **settings) -> int:
    """The trainable count by formula on square layers of that width (ViT-Large and RoBERTa-large by default)."""
    shapes = [StackShape(role, role, layers, width, width, stacks=len(roles), head_size=head_size) for role in roles]
    return count_trainable([(registry.method(name).network(registry.settings(name, settings), shape), layers) for shape in shapes])


QV, QKV, QKVO, SERIAL = ("query", "value"), ("query", "key", "value"), ("query", "key", "value", "output"), ("output", "down")


@pytest.mark.parametrize(
    ("name", "roles", "settings", "printed"),
    [
        ("lora", QV, {"rank": 16}, 1_572_864),
        ("lora", QV, {"rank": 8}, 786_432),
        ("refta", QV, {"rank": 15}, 61_470),
        ("refta", QV, {"rank": 5}, 20_490),
        ("loretta_rep", QV, {"rank": 8, "tensor_rank": 5, "tensor_shape": [4, 8, 8, 8, 4]}, 61_440),
        ("loretta_rep", QV, {}, 61_440),
        ("loretta_adp", SERIAL, {"bottleneck": 64, "tensor_rank": 5, "tensor_shape": [4, 8, 8, 8, 8, 4]}, 132_864),
        ("loretta_adp", SERIAL, {}, 132_864),
        ("loretta_adp", SERIAL, {"width": 1280, "layers": 32, "head_size": 80}, 194_176),
        ("fedtt", SERIAL, {}, 132_864),
        ("lotr", QV, {"rank": 8}, 19_456),
        ("lotr", QV, {"rank": 16}, 45_056),
        ("tt_lora", QV, {"rank": 5, "input_factors": [16, 8, 8], "output_factors": [16, 8, 8]}, 46_080),
        ("tt_lora", QV, {}, 46_080),
        ("fact_tt", QV, {"rank": 16}, 45_056),
        ("fact_tk", QV, {"rank": 16}, 37_632),
        ("cara", QV, {"rank": 32}, 36_896),
        ("lorta", QKVO, {"rank": 8}, 9_056),
        ("tenslora", QKV, {"rank": 8}, 20_696),
        ("trac", QV, {"rank": 16, "ranks_a": [8, 12], "ranks_b": [24, 36]}, 40_704),
        ("trac", QV, {}, 40_704),
        ("metatt", QV, {"rank": 8}, 18_048),
        ("tucker", QV, {"ranks": [8, 8, 8]}, 17_280),
        ("vera", QV, {"rank": 256}, 61_440),
    ],
)
def test_trainable_counts_are_those_in_print(name, roles, settings, printed):
    """methods.md's counts, by hand for one: MetaTT r8 is 8 · (1024 + 1024) + (24 + 2) · 64 = 18,048."""
    assert trained(name, roles, **settings) == printed


@pytest.mark.parametrize(
    ("file", "width", "outputs", "stacks"), [("ttlora_gpt2_ptb.csv", 768, 2304, 1), ("ttlora_roberta_mrpc.csv", 768, 768, 3)]
)
def test_tt_lora_has_the_published_core_shapes_and_counts(file, width, outputs, stacks):
    with (PUBLISHED / file).open() as rows:
        for row in csv.DictReader(rows):
            factors = {key: [int(one) for one in row[key].split("x")] for key in ("input_factors", "output_factors", "tt_shape")}
            settings = registry.settings(
                "tt_lora", {"rank": 6, "alpha": 8, **{key: factors[key] for key in ("input_factors", "output_factors")}}
            )
            network = registry.method("tt_lora").network(settings, StackShape("s", "s", 12, outputs, width))
            assert [operand.shape[1] for operand in network.operands] == factors["tt_shape"]
            assert stacks * network.trainable_parameters(12) == int(row["trainable"])


def test_tt_lora_keeps_what_its_paper_s_two_forms_keep():
    """ViT-L, six cores: the copy W + ΔW is 4 MiB a call, 192 MiB over 48; features keep t × r × what is left, core by core."""
    network = registry.method("tt_lora").network(registry.settings("tt_lora", {}), StackShape("q", "query", 24, 1024, 1024))
    published = cost.layer_cost(network, "published").kept_bytes
    copy = 4 * 1024 * 1024
    chain = [16 * 5, 16 * 8 * 5, 16 * 8 * 8 * 5, 16 * 8 * 8 * 8 * 5, 16 * 8 * 8 * 8 * 8 * 5]
    assert published.constant == copy + 4 * sum(chain[1:]) and published.per_token == 0
    features = cost.layer_cost(network, "features").kept_bytes
    states = [64 * 5, 8 * 5, 5, 8 * 5, 64 * 5]
    assert features.per_token == 4 * sum(states)


UNCHANGED = ("lotr", "fact_tt", "fact_tk", "cara", "lorta", "tenslora", "trac", "metatt", "tucker", "vera", "refta")


@pytest.mark.parametrize("name", UNCHANGED)
def test_the_output_is_unchanged_at_the_start(name):
    torch.manual_seed(0)
    model, x = Encoder(), torch.randn(2, 5, 48)
    expected = model(x)
    refta.adapt(model, name, targets=["query", "value"])
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", OWN)
def test_merge_keeps_the_output_or_says_that_it_cannot(name):
    adapted = adapted_encoder(name, None)
    x = torch.randn(2, 5, 48)
    expected = adapted.model(x)
    if name in ("loretta_adp", "fedtt"):
        with pytest.raises(SettingError, match="serial"):
            refta.merge(adapted)
        return
    merged = refta.merge(adapted)
    torch.testing.assert_close(merged(x), expected, rtol=1e-4, atol=1e-4)
    assert all(type(module).__name__ != "AdaptedLinear" for module in merged.modules())
    assert [name for name, _ in merged.named_parameters()] == [name for name, _ in Encoder().named_parameters()]


@pytest.mark.parametrize("name", OWN)
def test_parameters_and_their_values_do_not_depend_on_the_order(name):
    def values(order):
        torch.manual_seed(3)
        return dict(refta.adapt(Encoder(), name, targets=["query", "value"], order=order).model.named_parameters())

    first, *others = (values(order) for order in registry.orders(name))
    for other in others:
        assert list(other) == list(first)
        assert all(torch.equal(other[key], first[key]) for key in first)


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("order", ["published", *(pytest.param(one, marks=pytest.mark.slow) for one in ("auto", *REBUILT_OR_NOT))])
def test_a_step_runs_on_fake_tensors(name, order):
    with torch.device("meta"):
        model = Encoder()
    with FakeTensorMode() as mode:
        for module in list(model.modules()):
            for key, parameter in list(module.named_parameters(recurse=False)):
                setattr(module, key, torch.nn.Parameter(torch.empty(parameter.shape)))
        adapted = refta.adapt(model, name, order=order)
        model(torch.empty(2, 5, 48)).sum().backward()
        assert mode and all(parameter.grad is not None for parameter in adapted.attached.parameters)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "peft"])
@pytest.mark.parametrize(("rows", "columns"), [(7, 11), (1, 5), (768, 3072), (640, 1280), (1152, 96)])
def test_the_defaults_work_for_layers_of_any_size(name, rows, columns):
    settings = registry.settings(name, {"rank": 1} if name == "refta" else {})
    network = registry.method(name).network(settings, StackShape("s", "s", 2, rows, columns, stacks=2))
    assert network is None or network.trainable_parameters(2) > 0


def test_serial_and_fixed_methods_say_that_they_ignore_targets():
    for name, sites in (("loretta_adp", 6), ("fedtt", 6), ("lorta", 12)):
        adapted = refta.adapt(Encoder(), name, targets=["query"])
        assert len(adapted.sites) == sites
        assert "targets are ignored" in adapted.notes[0]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("tt_lora", {"input_factors": [5, 8]}, "input_factors: 5·8 is 40, not the layer's 1024; possible are 1024 = 1024, 32·32, 16·8·8"),
        ("loretta_rep", {"tensor_shape": [4, 8, 8]}, "not 1024 × 8 = 8192; possible is 4·8·8·8·4"),
        ("loretta_adp", {"tensor_shape": [3, 8]}, "possible is 4·8·8·8·8·4"),
        ("trac", {"output_factors": [2, 2, 2]}, "possible are 1024"),
        ("trac", {"ranks_a": [8]}, "2 whole numbers"),
        ("tucker", {"ranks": [8, 8]}, "three whole numbers"),
        ("metatt", {"rank": 0}, "rank: 0; it must be a whole number of at least 1"),
        ("tenslora", {"decomposition": "svd"}, "there are tucker, cp"),
        ("cara", {"dropout": 1.0}, "from 0 up to, not including, 1"),
        ("lotr", {"alpha": -1}, "above 0"),
    ],
)
def test_impossible_settings_name_what_is_possible(name, settings, message):
    with pytest.raises(SettingError, match=message):
        registry.method(name).network(registry.settings(name, settings), StackShape("q", "query", 24, 1024, 1024))


def test_dropout_is_refused_where_a_folded_weight_has_no_features():
    with pytest.raises(SettingError, match="use `features`"):
        refta.adapt(Encoder(), "lotr", targets=["query"], order="reconstruct", dropout=0.1)
    with pytest.raises(SettingError, match="order 'published'"):
        refta.adapt(Encoder(), "tt_lora", targets=["query"], dropout=0.1)


def test_cara_s_dropout_keeps_a_copy_and_a_mask_of_the_update():
    """One byte a number for the mask, beside the dropped update itself."""
    network = registry.method("cara").network(registry.settings("cara", {"dropout": 0.5}), StackShape("q", "query", 3, 48, 48))
    plain = registry.method("cara").network(registry.settings("cara", {}), StackShape("q", "query", 3, 48, 48))
    assert cost.layer_cost(network, "published").kept_bytes.constant - cost.layer_cost(plain, "published").kept_bytes.constant == 48 * 48
    adapted = refta.adapt(Encoder(), "cara", targets=["query"], dropout=0.5)
    kept: list[torch.Tensor] = []
    x = torch.randn(4, 48, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda one: (kept.append(one), one)[1], lambda one: one):
        adapted.model.get_submodule("layers.0.attention.query")(x)
    masks = [one for one in kept if one.dtype == torch.bool]
    assert [mask.numel() for mask in masks] == [48 * 48]


@pytest.mark.parametrize("name", OWN)
def test_auto_is_never_above_the_best_fixed_order(name):
    network = registry.method(name).network(registry.settings(name, {}), StackShape("q", "query", 24, 1024, 1024, stacks=2, head_size=64))
    for tokens in (1, 64, 1024, 65536):
        chosen = cost.best_order(network, tokens, 24, inputs_without_gradient=1)
        costs = {order: cost.stack_cost(network, order, 24, inputs_without_gradient=1).memory_bytes(tokens) for order in network.orders}
        assert costs[chosen] == min(costs.values())


def test_a_wrong_count_or_order_is_seen(monkeypatch):
    """The drill: with one gradient product left out, or an operand left out of a tree, the registry's tests fail."""
    import test_every_method as tests

    with monkeypatch.context() as patched:
        patched.setattr(counting.Counter, "_gradients", staticmethod(lambda step: int(step.right.needs_gradient)))
        with pytest.raises(AssertionError):
            tests.test_forward_flops_backward_flops_and_kept_bytes_equal_the_counters_exactly("metatt", "features", 0)
    method = registry.method("cara")
    with monkeypatch.context() as patched:
        wrong = {**method._ORDERS, "features": method.Order(((("x", "b"), "a"), ("c", "e")))}  # without the weights of the components
        patched.setattr(method, "_ORDERS", wrong)
        with pytest.raises(AssertionError):
            tests.test_all_orders_give_the_same_output_and_gradients("cara", torch.float64, 1e-10)


def test_bytes_rebuilt_are_those_of_methods_md():
    """ViT-L, float32: LoRTA 384 MiB up front; TensLoRA 288 MiB a call; CaRA with dropout 15 MiB a layer (and thin factors)."""
    mib = 2**20

    def shape(stacks: int) -> StackShape:
        return StackShape("q", "query", 24, 1024, 1024, stacks=stacks, head_size=64)

    lorta = registry.method("lorta").network(registry.settings("lorta", {}), shape(4))
    kept = 4 * cost.stack_cost(lorta, "published", 24).kept_bytes.constant
    assert kept - 384 * mib == 4 * 4 * (24 * 1024 * 8 + 24 * 8 + 1024 * 8)  # with the thin factors of every role
    tenslora = registry.method("tenslora").network(registry.settings("tenslora", {}), shape(3))
    call = cost.layer_cost(tenslora, "published")
    assert call.temporary_bytes(1) == 2 * 288 * mib
    assert 288 * mib < call.kept_bytes.constant < 320 * mib
    cara = registry.method("cara").network(registry.settings("cara", {"dropout": 0.1}), shape(3))
    layer = 3 * cost.layer_cost(cara, "published").kept_bytes.constant
    assert layer - 15 * mib == 4 * 3 * (2 * 1024 * 32 + 32)  # two thin n × R factors and one of R for each


def _gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": 48, "n_layer": 2, "n_head": 4, "vocab_size": 50, "n_positions": 16, "bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(**sizes)), ["qkv"]


def _llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128}
    return LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=50, max_position_embeddings=16)), ["query", "value"]


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "peft"])
@pytest.mark.parametrize("build", [_gpt2, _llama])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_runs_on_models_with_fused_or_grouped_projections(name, build, dtype):
    """GPT-2's transposed, fused c_attn; Llama's values narrower than its queries; and half-precision bases."""
    torch.manual_seed(0)
    model, targets = build()
    model = model.to(dtype)
    if build is _gpt2 and name in ("loha", "lokr"):
        with pytest.raises(SettingError, match="Conv1D"):
            refta.adapt(model, name, targets=targets)
        return
    adapted = refta.adapt(model, name, targets=targets)
    model(input_ids=torch.randint(0, 50, (2, 8))).logits.float().square().sum().backward()
    assert adapted.attached is not None
    assert all(parameter.grad is not None for parameter in adapted.attached.parameters)
