"""What counts as the head of a model: of many tasks' models, in wrappers, and of models where none is known."""

import pytest
import torch
import transformers
from torch import nn
from toy_models import Parallel, gpt2, llama, vit

import refta
from refta.errors import SettingError
from refta.heads import has_language_head, head_parameters

SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 50}
CONVOLUTIONS = {"conv_dim": (8,), "conv_stride": (2,), "conv_kernel": (2,), "num_feat_extract_layers": 1, "num_conv_pos_embeddings": 4}
# model class without its task, its task, sizes, the modules of its head
TASKS = {
    "distilbert": (
        "DistilBert",
        "ForSequenceClassification",
        {"dim": 32, "n_layers": 1, "n_heads": 4, "hidden_dim": 64, "vocab_size": 50},
        {"pre_classifier", "classifier"},
    ),
    "deberta": ("DebertaV2", "ForSequenceClassification", SIZES, {"pooler", "classifier"}),
    "wav2vec2": ("Wav2Vec2", "ForSequenceClassification", {**SIZES, **CONVOLUTIONS}, {"projector", "classifier"}),
    "roberta": ("Roberta", "ForSequenceClassification", SIZES, {"classifier"}),
    "xlnet": (
        "XLNet",
        "ForSequenceClassification",
        {"d_model": 32, "n_layer": 1, "n_head": 4, "d_inner": 64, "vocab_size": 50},
        {"sequence_summary", "logits_proj"},
    ),
    "bert answers": ("Bert", "ForQuestionAnswering", SIZES, {"qa_outputs"}),
    "bert's words": ("Bert", "ForMaskedLM", SIZES, set()),
    "bert": ("Bert", "Model", SIZES, set()),
}


def head_of(model: nn.Module) -> set[str]:
    """The head's parameters by name."""
    found = {id(one) for one in head_parameters(model, None)}
    return {name for name, one in model.named_parameters() if id(one) in found}


@pytest.mark.parametrize("family", TASKS)
def test_the_head_is_what_stands_beside_the_base_model(family):
    name, task, sizes, head = TASKS[family]
    with torch.device("meta"):
        model = getattr(transformers, name + task)(getattr(transformers, f"{name}Config")(**sizes))
    assert {one.partition(".")[0] for one in head_of(model)} == head


class Wrapper(nn.Module):
    """A model within a user's own, perhaps with a head of the user's."""

    def __init__(self, encoder: nn.Module, *, labels: int | None = None):
        super().__init__()
        self.encoder = encoder
        if labels is not None:
            self.classifier = nn.Linear(3, labels)


def test_the_head_is_found_in_wrappers():
    inner = {"encoder.classifier.weight", "encoder.classifier.bias"}
    own = {"classifier.weight", "classifier.bias"}
    assert head_of(Wrapper(vit())) == inner
    assert head_of(Wrapper(vit(), labels=2)) == inner | own
    assert head_of(Wrapper(llama(), labels=2)) == own
    assert head_of(torch.compile(vit(), backend="eager")) == {"_orig_mod.classifier.weight", "_orig_mod.classifier.bias"}  # type: ignore[arg-type]
    assert head_of(nn.DataParallel(Wrapper(nn.Identity(), labels=2))) == {"module.classifier.weight", "module.classifier.bias"}


def test_the_head_of_a_language_model_is_trained_where_that_is_asked():
    for model in (gpt2(), llama(), torch.compile(llama(), backend="eager")):
        assert has_language_head(model)  # type: ignore[arg-type]
        assert head_of(model) == set()  # type: ignore[arg-type]
    model = llama()
    assert [id(one) for one in head_parameters(model, True)] == [id(model.lm_head.weight)]
    with pytest.raises(SettingError, match="GPT2LMHeadModel has no head that is known by name"):
        head_parameters(gpt2(), True)  # it is tied to the embeddings


def test_a_model_without_a_known_head_says_so_in_a_note():
    assert refta.adapt(Parallel(2, 8, 6), "refta", targets=["query"], rank=2).notes == [
        "Parallel has no head that is known by name: none is trained"
    ]
    assert refta.adapt(Parallel(2, 8, 6), "refta", targets=["query"], rank=2, train_head=False).notes == []
    assert refta.adapt(gpt2(), "refta", targets=["qkv"], rank=2).notes == []
    adapted = refta.adapt(vit(), "refta", targets=["query"], rank=2)
    assert (adapted.notes, adapted.head) == ([], ["classifier.weight", "classifier.bias"])
