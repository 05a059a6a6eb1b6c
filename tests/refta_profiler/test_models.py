"""The models and batches of points: alike on the meta device, with fake tensors and for real."""

import json
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from model_points import KINDS, TINY, point
from torch._subclasses.fake_tensor import FakeTensorMode

from refta_profiler import models
from refta_profiler.errors import ScenarioError

# ---- the built model


@pytest.mark.parametrize("precision", ["fp32", "bf16", "amp-bf16"])
@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, kind in KINDS if name in TINY])
def test_meta_and_real_models_are_alike(name, kind, precision):
    """Parameters, buffers, dtypes, which parameters share storage, and training mode."""
    one = point(name, kind, precision=precision)
    real, meta = models.build(one, "cpu"), models.build_on_meta(one)
    for listed in ("named_parameters", "named_buffers"):
        alike = [
            [(key, x.shape, x.dtype) for key, x in getattr(model, listed)(remove_duplicate=duplicate)]
            for model in (real, meta)
            for duplicate in (False, True)
        ]
        assert alike[0] == alike[2] and alike[1] == alike[3]
    assert all(x.device.type == "meta" for x in [*meta.parameters(), *meta.buffers()])
    assert real.training and meta.training
    assert {x.dtype for x in real.parameters()} == {torch.bfloat16 if precision == "bf16" else torch.float32}
    assert models.build(one, "meta").get_parameter(next(iter(dict(real.named_parameters())))).device.type == "meta"


def is_tied(model: Any) -> bool:
    """Whether the head's weight is the embeddings' own."""
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


@pytest.mark.parametrize("name", ["gpt2", "gpt2-tiny", "llama-tiny", "qwen2.5-0.5b", "llama-3.2-1b"])
def test_tied_heads_stay_tied_on_meta(name):
    model = models.build_on_meta(point(name, "causal-lm"))
    assert is_tied(model)


def test_untied_heads_stay_untied_on_meta():
    model = models.build_on_meta(point("mistral-7b", "causal-lm"))
    assert not is_tied(model)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, kind in KINDS if name in TINY])
def test_a_step_runs_and_has_a_finite_loss(name, kind, attention):
    one = point(name, kind, attention=attention)
    model = models.build(one, "cpu")
    assert model.config._attn_implementation == attention
    loss = model(**models.batch(one, "cpu")).loss
    loss.backward()
    assert loss.isfinite() and all(x.grad is None or x.grad.isfinite().all() for x in model.parameters())
    assert not model.config.use_cache


def test_the_seed_decides_weights_and_batch():
    first, same, other = (models.build(point("roberta-tiny", seed=seed), "cpu").state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)
    torch.rand(5)
    batches = [models.batch(point("roberta-tiny", seed=seed), "cpu")["input_ids"] for seed in (3, 3, 4)]
    assert torch.equal(batches[0], batches[1]) and not torch.equal(batches[0], batches[2])


def test_one_label_is_regression():
    one = point("roberta-tiny", task={"kind": "sequence-classification", "num_labels": 1})
    batch = models.batch(one, "cpu")
    assert batch["labels"].dtype == torch.float32
    assert models.build(one, "cpu")(**batch).loss.isfinite()


# ---- batches


@pytest.mark.parametrize("precision", ["fp32", "bf16", "amp-bf16"])
@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, kind in KINDS if name in [*TINY, "dinov2-base", "deit-small"]])
def test_batches_are_the_same_shapes_under_fake_tensors(name, kind, precision):
    one = point(name, kind, precision=precision)
    real = models.batch(one, "cpu")
    with FakeTensorMode():
        fake = models.batch(one, torch.device("cpu"))
    assert [(key, x.shape, x.dtype, x.device) for key, x in real.items()] == [(key, x.shape, x.dtype, x.device) for key, x in fake.items()]
    assert "attention_mask" not in real


ENCODER_DECODERS = {
    "bart": {"decoder_layers": 1, "encoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 16}
    | {"encoder_ffn_dim": 16, "pad_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 16},
    "t5": {"num_layers": 1, "num_heads": 2, "d_kv": 8, "d_ff": 16, "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0},
}


@pytest.mark.parametrize("family", ENCODER_DECODERS)
@pytest.mark.parametrize("attention_mask", [False, True])
def test_an_encoder_decoder_finds_one_end_in_every_row(family, attention_mask, tmp_path):
    """It classifies by the state of <eos> tokens, of which every row must have as many; of 8 tokens some would have one by chance."""
    settings = {"model_type": family, "vocab_size": 8, "d_model": 16, "is_encoder_decoder": True, **ENCODER_DECODERS[family]}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    loop = {"keep_outputs": False, "use_cache": False, "attention_mask": attention_mask}
    one = point(str(tmp_path), "sequence-classification", batch=16, loop=loop)
    tokens = models.batch(one, "cpu")["input_ids"]
    found = tokens == settings["eos_token_id"]
    assert found[:, -1].all() and found.sum() == 16 and not (tokens == settings["pad_token_id"]).any()
    loss = models.build(one, "cpu")(**models.batch(one, "cpu")).loss
    loss.backward()
    assert loss.isfinite()


def test_a_padded_batch_has_a_mask_and_one_example_has_none():
    loop = {"keep_outputs": False, "use_cache": False, "attention_mask": True}
    found = [models.batch(point("roberta-tiny", batch=batch, loop=loop), "cpu") for batch in (1, 2)]
    assert "attention_mask" not in found[0] and found[1]["attention_mask"].sum() == 2 * 8 - 1


def test_a_mask_of_numbers_hides_what_the_padding_does():
    """transformers' RoBERTa passes it to every layer as it is, and finds what it finds with the mask of booleans."""
    told = [{"keep_outputs": False, "use_cache": False, "attention_mask": form} for form in (True, "additive")]
    points = [point("roberta-tiny", batch=2, loop=loop) for loop in told]
    plain, added = (models.batch(one, "cpu") for one in points)
    assert added["attention_mask"].shape == (2, 1, 8, 8) and added["attention_mask"].dtype == torch.float32
    model = models.build(points[0], "cpu").eval()
    torch.testing.assert_close(model(**added).logits, model(**plain).logits)


def kept_by_a_forward(one, mode=None):
    """Shapes and dtypes of what autograd keeps of a forward, with real tensors or fake ones."""
    kept, model = [], models.build(one, "cpu")
    tensors = {name: mode.from_tensor(x) if mode else x for name, x in [*model.named_parameters(), *model.named_buffers()]}
    with mode or nullcontext(), torch.autograd.graph.saved_tensors_hooks(lambda x: (kept.append((x.shape, x.dtype)), x)[1], lambda x: x):
        torch.func.functional_call(model, tensors, kwargs=models.batch(one, "cpu"))
    return kept


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, kind in KINDS if name in TINY])
def test_a_fake_step_keeps_what_a_real_step_keeps(name, kind):
    one = point(name, kind, seq=16)
    with models.without_packing():
        fake = kept_by_a_forward(one, FakeTensorMode())
    assert kept_by_a_forward(one) == fake


def test_packing_is_looked_for_again_afterwards():
    from transformers import masking_utils

    before = masking_utils.find_packed_sequence_indices
    with pytest.raises(KeyError), models.without_packing():
        assert masking_utils.find_packed_sequence_indices is not before
        raise KeyError
    assert masking_utils.find_packed_sequence_indices is before


def test_building_says_nothing(capfd):
    one = point("gpt2-tiny", "causal-lm")
    models.build(one, "cpu")(**models.batch(one, "cpu"))
    assert capfd.readouterr() == ("", "")


def test_images_are_in_the_weights_dtype():
    images = models.batch(point("vit-tiny", precision="bf16"), "cpu")
    assert images["pixel_values"].shape == (2, 3, 224, 224) and images["pixel_values"].dtype == torch.bfloat16
    assert models.batch(point("dinov2-base"), "meta")["pixel_values"].shape == (2, 3, 224, 224)


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, kind in KINDS if name.endswith("tiny") and name != "vit-tiny"])
def test_no_token_is_the_padding_token(name, kind):
    """A padding token would shift RoBERTa's positions and move a classifier's last token."""
    one = point(name, kind, batch=64, seq=32)
    tokens = models.batch(one, "cpu")["input_ids"]
    padding = models.build_on_meta(one).config.pad_token_id
    assert not (tokens == padding).any() if padding is not None else kind == "causal-lm"
    assert tokens.min() >= 0
    assert tokens.max() < models.presets()[name]["config"]["vocab_size"]


def test_labels_of_a_causal_model_are_its_input():
    batch = models.batch(point("gpt2-tiny", "causal-lm"), "cpu")
    assert batch["labels"] is batch["input_ids"]


# ---- pretrained weights


def test_pretrained_weights_of_a_folder(tmp_path):
    """All but the head come from the folder; the head is drawn under the seed and has the task's labels."""
    models.build(point("roberta-tiny", seed=7), "cpu").save_pretrained(tmp_path)
    one = point(str(tmp_path), weights="pretrained", task={"kind": "sequence-classification", "num_labels": 5})
    loaded, saved = models.build(one, "cpu").state_dict(), models.build(point("roberta-tiny", seed=7), "cpu").state_dict()
    assert all(torch.equal(loaded[key], saved[key]) for key in saved if not key.startswith("classifier.out_proj"))
    assert loaded["classifier.out_proj.weight"].shape == (5, 32)
    again = models.build(one, "cpu").state_dict()
    assert all(torch.equal(loaded[key], again[key]) for key in loaded)


def test_pretrained_weights_that_do_not_fit(tmp_path):
    models.build(point("roberta-tiny"), "cpu").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 4}))
    with pytest.raises(ScenarioError, match=r"the weights of .* lack \d+ of its layers', e.g. roberta.encoder.layer.3"):
        models.build(point(str(tmp_path), weights="pretrained"), "cpu")


def test_a_file_that_holds_no_weights(tmp_path):
    models.config("roberta-tiny").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    assert models.describe(str(tmp_path)).pretrained == str(tmp_path)
    with pytest.raises(ScenarioError, match=r"cannot be loaded"):
        models.build(point(str(tmp_path), weights="pretrained"), "cpu")
