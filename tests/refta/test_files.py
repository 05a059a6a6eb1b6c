"""Adapters as files: what is loaded is what was saved, on any copy of the same base weights and no other."""

import copy
import dataclasses
import json
from collections import OrderedDict

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from toy_models import REFTA_ORDERS, Parallel, gpt2, gradients, llama, moved, parallel, pixels, relative_error, stack_of, tokens, vit

import refta
from refta.errors import SettingError

MODELS = {"vit": (vit, pixels, ["query", "value"]), "llama": (llama, tokens, ["query", "value"]), "gpt2": (gpt2, tokens, ["qkv"])}


def saved(path, name: str = "vit", **settings):
    """A trained adapter, its file, and what the model says."""
    build, batch, targets = MODELS[name]
    adapted = refta.adapt(build().eval(), "refta", targets=targets, **{"rank": 4, **settings})
    moved(adapted.model)
    refta.save(adapted, path)
    return adapted, adapted.model(batch()).logits.detach()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("order", [None, *REFTA_ORDERS])
def test_a_loaded_adapter_gives_the_same_output(tmp_path, name, order):
    path = tmp_path / "deep" / "adapter.safetensors"
    source, wanted = saved(path, name)
    build, batch, _ = MODELS[name]
    loaded = refta.load(build().eval(), path, order=order)
    assert relative_error(loaded.model(batch()).logits.detach(), wanted) < 1e-6
    assert loaded.trainable_parameters == source.trainable_parameters
    assert loaded.sites == source.sites
    assert loaded.slice_ranks == source.slice_ranks
    assert [n for n, one in loaded.model.named_parameters() if one.requires_grad] == [
        n for n, one in source.model.named_parameters() if one.requires_grad
    ]


@pytest.mark.parametrize("transform", ["lsm", torch.linalg.qr(torch.randn(2, 2, generator=torch.Generator().manual_seed(1)))[0]])
@pytest.mark.parametrize("convention", ["exact", "public_code"])
def test_any_transform_and_convention(tmp_path, transform, convention):
    path = tmp_path / "adapter.safetensors"
    _, wanted = saved(path, transform=transform, convention=convention)
    loaded = refta.load(vit().eval(), path)
    assert relative_error(loaded.model(pixels()).logits.detach(), wanted) < 1e-6
    assert loaded.settings.convention == convention
    assert loaded.settings.transform == (transform if isinstance(transform, str) else transform.tolist())


def test_saved_again_it_is_the_same_file(tmp_path):
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    saved(first)
    refta.save(refta.load(vit(), first), second)
    one, other = load_file(first), load_file(second)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_file_holds_no_weight_of_the_base(tmp_path):
    path = tmp_path / "adapter.safetensors"
    saved(path)
    assert max(tensor.numel() for tensor in load_file(path).values()) <= 4 * 33


def test_a_loaded_adapter_trains_on(tmp_path):
    path = tmp_path / "adapter.safetensors"
    source, _ = saved(path)
    loaded = refta.load(vit().eval(), path)
    for adapted in (source, loaded):
        adapted.model(pixels()).logits.square().sum().backward()
    wanted, found = (gradients(adapted.model)["refta_adapter.query.A"] for adapted in (source, loaded))
    assert relative_error(found, wanted) < 1e-5


def test_a_loaded_adapter_merges(tmp_path):
    path = tmp_path / "adapter.safetensors"
    _, wanted = saved(path)
    assert relative_error(refta.merge(refta.load(vit().eval(), path))(pixels()).logits.detach(), wanted) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_file_fits_another_precision_of_the_same_weights(tmp_path, dtype):
    path = tmp_path / "adapter.safetensors"
    _, wanted = saved(path)
    loaded = refta.load(vit().to(dtype).eval(), path)
    found = loaded.model(pixels().to(dtype)).logits.detach()
    assert relative_error(found, wanted) < (2e-2 if dtype == torch.bfloat16 else 1e-5)


def test_a_file_of_bfloat16_weights_fits_float32_ones(tmp_path):
    path = tmp_path / "adapter.safetensors"
    adapted = refta.adapt(vit().bfloat16(), "refta", targets=["query"], rank=4)
    refta.save(adapted, path)
    refta.load(vit(), path)


def test_the_adapter_dtype_is_kept(tmp_path):
    path = tmp_path / "adapter.safetensors"
    saved(path, adapter_dtype="bfloat16")
    assert dict(refta.load(vit(), path).model.named_parameters())["refta_adapter.query.A"].dtype == torch.bfloat16


@pytest.mark.parametrize("model_dtype", [torch.float32, torch.float64])
def test_narrower_factors_round_no_base_weight(tmp_path, model_dtype):
    path = tmp_path / "adapter.safetensors"
    weight, bias = stack_of("random", dtype=model_dtype)
    narrow = "bfloat16" if model_dtype == torch.float32 else "float32"
    adapted = refta.adapt(parallel(weight, bias), "refta", targets=["query"], rank=5, adapter_dtype=narrow)
    refta.save(adapted, path)
    loaded = refta.load(parallel(weight, bias), path)
    for one, other in zip(adapted.model.modules(), loaded.model.modules(), strict=True):
        assert not hasattr(one, "layer") or torch.equal(one.weight, other.weight)
    for model in (refta.merge(loaded), refta.merge(adapted)):
        found = torch.stack([torch.cat([layer.query.weight, layer.query.bias[:, None]], dim=1) for layer in model.layers])
        assert relative_error(found, torch.cat([weight, bias[:, :, None]], dim=2)) < (1e-6 if model_dtype == torch.float32 else 1e-14)


def test_a_model_that_was_made_wider_is_saved(tmp_path):
    path = tmp_path / "adapter.safetensors"
    adapted = refta.adapt(vit().eval(), "refta", targets=["query"], rank=4)
    adapted.model.double()
    refta.save(adapted, path)
    found = refta.load(vit().double().eval(), path).model(pixels().double()).logits.detach()
    assert relative_error(found, vit().eval()(pixels()).logits.detach()) < 1e-5


def test_a_head_that_was_frozen_after_training_is_in_the_file(tmp_path):
    path = tmp_path / "adapter.safetensors"
    adapted = refta.adapt(vit().eval(), "refta", targets=["query"], rank=4)
    moved(adapted.model)
    adapted.model.requires_grad_(False)
    refta.save(adapted, path)
    loaded = refta.load(vit().eval(), path)
    assert relative_error(loaded.model(pixels()).logits.detach(), adapted.model(pixels()).logits.detach()) < 1e-6


@pytest.mark.parametrize("build", [gpt2, llama])
def test_what_else_was_thawed_is_in_the_file_and_comes_back_thawed_alone(tmp_path, build):
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    adapted = refta.adapt(build().eval(), "refta", targets=["qkv" if build is gpt2 else "query"], rank=4)
    norm = adapted.model.transformer.ln_f if build is gpt2 else adapted.model.model.norm
    norm.requires_grad_(True)
    moved(adapted.model)
    refta.save(adapted, first)
    loaded = refta.load(build().eval(), first)
    assert relative_error(loaded.model(tokens()).logits.detach(), adapted.model(tokens()).logits.detach()) < 1e-6
    trained = [[name for name, one in model.named_parameters() if one.requires_grad] for model in (adapted.model, loaded.model)]
    assert trained[0] == trained[1]
    refta.save(loaded, second)
    assert load_file(first).keys() == load_file(second).keys()


@pytest.mark.parametrize("name", ["values", "head", "buffers_", "running"])
def test_a_file_of_linears_named_like_parts_of_a_container_or_of_a_file(tmp_path, name):
    path, x = tmp_path / "adapter.safetensors", torch.randn(3, 6)

    def build() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(*(nn.Sequential(OrderedDict({name: nn.Linear(6, 6)})) for _ in range(2)))

    adapted = refta.adapt(build(), "refta", targets=[name], rank=3, train_head=False)
    moved(adapted.model)
    refta.save(adapted, path)
    assert relative_error(refta.load(build(), path).model(x).detach(), adapted.model(x).detach()) < 1e-6


class Normed(Parallel):
    """Layers behind a batch norm, whose running statistics move in training though all of it is frozen."""

    def __init__(self, features: int = 7):
        super().__init__(2, 7, 7)
        self.norm = nn.BatchNorm1d(features)
        self.forgetful = nn.BatchNorm1d(7, track_running_stats=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(self.forgetful(self.norm(x)))


def trained_normed(path) -> tuple[refta.Adapted, torch.Tensor, torch.Tensor]:
    """An adapted `Normed` after a few batches, its file, an input and its output in evaluation."""
    torch.manual_seed(0)
    adapted = refta.adapt(Normed(), "refta", targets=["query"], rank=3, train_head=False)
    for _ in range(3):
        adapted.model.train()(3 + 2 * torch.randn(16, 7))
    moved(adapted.model)
    refta.save(adapted, path)
    x = torch.randn(5, 7)
    return adapted, x, adapted.model.eval()(x).detach()


def test_running_statistics_come_back(tmp_path):
    path = tmp_path / "adapter.safetensors"
    adapted, x, wanted = trained_normed(path)
    torch.manual_seed(0)
    loaded = refta.load(Normed(), path)
    assert relative_error(loaded.model.eval()(x).detach(), wanted) < 1e-6
    assert loaded.model.norm.num_batches_tracked == adapted.model.norm.num_batches_tracked == 3
    assert loaded.head == []
    assert not loaded.model.norm.weight.requires_grad


def test_a_file_without_running_statistics_leaves_the_models(tmp_path):
    """As earlier versions wrote them."""
    path = tmp_path / "adapter.safetensors"
    trained_normed(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    kept = {key: value for key, value in load_file(path).items() if not key.startswith("buffers.")}
    assert len(kept) == len(load_file(path)) - 3
    save_file(kept, path, metadata=metadata)
    torch.manual_seed(0)
    loaded = refta.load(Normed(), path)
    assert torch.equal(loaded.model.norm.running_mean, torch.zeros(7))


def test_running_statistics_that_the_model_does_not_have_are_refused_before_it_is_touched(tmp_path):
    path = tmp_path / "adapter.safetensors"
    trained_normed(path)
    torch.manual_seed(0)
    other = Normed(features=1)
    with pytest.raises(SettingError, match=r"holds running statistics 'norm\.running_var' of \[7\] that this model does not have"):
        refta.load(other, path)
    assert not hasattr(other, "refta_adapter")


def test_a_thawed_weight_under_an_adapter_cannot_be_saved(tmp_path):
    adapted = refta.adapt(vit(), "refta", targets=["query"], rank=4)
    adapted.model.get_submodule(adapted.sites[1]).weight.requires_grad_(True)
    with pytest.raises(SettingError, match=rf"save: {adapted.sites[1]}\.weight is trained beside its adapter"):
        refta.save(adapted, tmp_path / "adapter.safetensors")


def test_a_copy_and_assigned_parameters_are_saved_as_they_are_now(tmp_path):
    path = tmp_path / "adapter.safetensors"
    source, wanted = saved(path)
    with torch.device("meta"):
        hollow = refta.adapt(vit().eval(), "refta", targets=["query", "value"], rank=4)
    hollow.model.load_state_dict(source.model.state_dict(), assign=True)
    for name, one in (("copy", dataclasses.replace(source, model=copy.deepcopy(source.model))), ("assigned", hollow)):
        refta.save(one, tmp_path / name)
        assert load_file(tmp_path / name).keys() == load_file(path).keys()
        assert relative_error(refta.load(vit().eval(), tmp_path / name).model(pixels()).logits.detach(), wanted) < 1e-6


def test_a_file_can_be_saved_over_after_it_was_loaded(tmp_path):
    path = tmp_path / "adapter.safetensors"
    saved(path)
    loaded = refta.load(vit().eval(), path)
    moved(loaded.model)
    refta.save(loaded, path)
    found = refta.load(vit().eval(), path).model(pixels()).logits.detach()
    assert relative_error(found, loaded.model(pixels()).logits.detach()) < 1e-6


def test_a_file_without_head_leaves_the_head_alone(tmp_path):
    path = tmp_path / "adapter.safetensors"
    saved(path, train_head=False)
    model = vit()
    refta.load(model, path)
    assert not model.classifier.weight.requires_grad
    assert torch.equal(model.classifier.weight, vit().classifier.weight)


def test_another_models_file_is_refused_and_the_model_left_alone(tmp_path):
    path = tmp_path / "adapter.safetensors"
    saved(path)
    for other, fault in [
        (llama(), "is for another model: this LlamaForCausalLM has no linear"),
        (vit(layers=1), "has no linear"),
        (vit(width=64), "is for another model: .* 64 × 64, the file 32 × 32"),
        (vit(seed=1), "was made on other base weights"),
        (vit(qkv_bias=False), "differ in whether .* has a bias"),
    ]:
        with pytest.raises(SettingError, match=fault):
            refta.load(other, path)
        assert all(one.requires_grad for one in other.parameters())
        assert not hasattr(other, "refta_adapter")


def test_more_layers_than_the_file_has_are_refused(tmp_path):
    path = tmp_path / "adapter.safetensors"
    saved(path)
    deeper = vit(layers=3)
    deeper.load_state_dict(vit().state_dict(), strict=False)
    with pytest.raises(SettingError, match=r"is for another model: .* 6 linears query, value in 2 stacks"):
        refta.load(deeper, path)


def test_one_small_layer_of_other_weights_is_told_apart(tmp_path):
    """The fingerprint is of each layer's own size, so a fifth of a weight changed is seen."""
    path = tmp_path / "adapter.safetensors"
    weight, bias = stack_of("random", layers=1, rows=64, columns=64)
    refta.save(refta.adapt(parallel(weight, bias), "refta", targets=["query"], rank=2), path)
    other = weight + 0.2 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(9))
    with pytest.raises(SettingError, match="other base weights"):
        refta.load(parallel(other, bias), path)


def test_an_adapted_model_is_refused(tmp_path):
    path = tmp_path / "adapter.safetensors"
    source, _ = saved(path)
    with pytest.raises(SettingError, match="already carries 'refta'"):
        refta.load(source.model, path)


def test_what_is_no_file_of_an_adapter_is_refused(tmp_path):
    missing, text, foreign, newer = (tmp_path / name for name in ("missing", "text", "foreign", "newer"))
    text.write_text("hello")
    save_file({"a": torch.zeros(1)}, foreign)
    save_file({"a": torch.zeros(1)}, newer, metadata={"refta": json.dumps({"format": "refta-adapter-9"})})
    for path, fault in [
        (missing, "cannot be read"),
        (text, "cannot be read"),
        (foreign, "not a ReFTA adapter"),
        (newer, "not a ReFTA adapter"),
    ]:
        with pytest.raises(SettingError, match=fault):
            refta.load(vit(), path)


def test_what_cannot_be_saved_is_refused(tmp_path):
    with pytest.raises(SettingError, match="'lora' is not ReFTA"):
        refta.save(refta.adapt(vit(), "lora", targets=["query"]), tmp_path / "lora")
    merged = refta.adapt(vit(), "refta", targets=["query"], rank=4)
    refta.merge(merged)
    with pytest.raises(SettingError, match="merged already"):
        refta.save(merged, tmp_path / "merged")
    with torch.device("meta"):
        hollow = vit()
    with pytest.raises(SettingError, match="no values"):
        refta.save(refta.adapt(hollow, "refta", targets=["query"], rank=4), tmp_path / "hollow")


def test_a_trained_head_that_the_model_does_not_have_is_refused_before_the_model_is_touched(tmp_path):
    path = tmp_path / "adapter.safetensors"
    saved(path)
    other = vit()
    other.classifier = torch.nn.Linear(32, 5)
    with pytest.raises(SettingError, match=r"holds a trained head 'classifier\.weight'"):
        refta.load(other, path)
    assert not hasattr(other, "refta_adapter")


def test_a_model_without_values_is_refused(tmp_path):
    path = tmp_path / "adapter.safetensors"
    saved(path)
    with torch.device("meta"):
        hollow = vit()
    with pytest.raises(SettingError, match="without values"):
        refta.load(hollow, path)
