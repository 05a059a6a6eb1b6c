"""Adapters as files: what is loaded is what was saved, on any copy of the same base weights and no other."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy_models import REFTA_ORDERS, gpt2, gradients, llama, moved, parallel, pixels, relative_error, stack_of, tokens, vit

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
