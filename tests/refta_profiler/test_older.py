"""GPT-2's step as transformers 4.46 makes it: the same numbers as today's, other memory."""

import pytest
import torch
from model_points import point

from refta_profiler import models, workload

LOOP = {"keep_outputs": False, "use_cache": True, "attention_mask": False}


def built(**loop: str):
    return workload.build(
        point("gpt2-tiny", seq=24, method="lora", settings={"rank": 4}, targets=["qkv"], loop=LOOP | loop), torch.device("cpu")
    )


def step(work):
    work.model.eval()  # dropout is drawn in another order where shapes differ
    with models.without_packing():
        outputs = work.model(**work.batch)
    outputs.loss.backward()
    return outputs, [one.grad for one in work.model.parameters() if one.grad is not None]


def test_loss_logits_and_gradients_are_those_of_the_installed_version():
    (new, gradients), (old, others) = step(built()), step(built(transformers="4.46"))
    assert torch.equal(new.logits, old.logits)
    assert old.loss.item() == pytest.approx(new.loss.item(), rel=1e-6)
    assert len(gradients) == len(others) > 0
    for one, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(other, one)


def test_its_cache_holds_what_the_layers_made_uncopied():
    (new, _), (old, _) = step(built()), step(built(transformers="4.46"))
    for mine, theirs in zip(old.past_key_values.layers, new.past_key_values.layers, strict=True):
        assert torch.equal(mine.keys, theirs.keys) and torch.equal(mine.values, theirs.values)
        assert mine.keys.untyped_storage().data_ptr() == mine.values.untyped_storage().data_ptr()
        assert theirs.keys.untyped_storage().data_ptr() != theirs.values.untyped_storage().data_ptr()


def test_without_a_cache_none_is_made():
    outputs, _ = step(built(transformers="4.46", use_cache=False))
    assert outputs.past_key_values is None


@pytest.mark.parametrize("build", [models.build_on_meta, lambda one: models.build(one, "cpu")], ids=["meta", "cpu"])
def test_its_masks_are_buffers_of_booleans_that_are_not_saved(build):
    model = build(point("gpt2-tiny", loop=LOOP | {"transformers": "4.46"}))
    positions, layers = model.config.max_position_embeddings, model.config.num_hidden_layers
    found = [one for name, one in model.named_buffers() if name.endswith(".attn.bias")]
    assert [(one.nbytes, one.dtype) for one in found] == [(positions**2, torch.bool)] * layers
    assert len([name for name, _ in model.named_buffers() if name.endswith(".attn.masked_bias")]) == layers
    assert not [name for name in model.state_dict() if name.endswith(".attn.bias")]
