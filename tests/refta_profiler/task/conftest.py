"""A tiny text classifier with random weights and a tokenizer of its own, and sentences whose label a few words tell."""

import csv
import random

import pytest

GOOD, BAD = ("fine", "lovely", "bright", "warm"), ("awful", "grim", "cold", "broken")
PLAIN = ("the", "film", "was", "a", "day", "and", "some", "tea", "then", "we", "saw", "it")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The folder of the model."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

    folder = tmp_path_factory.mktemp("tiny")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *PLAIN, *GOOD, *BAD]
    BertTokenizer(vocab={word: place for place, word in enumerate(words)}).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 32}
    model = BertForSequenceClassification(
        BertConfig(vocab_size=len(words), hidden_dropout_prob=0.0, initializer_range=0.1, num_labels=2, **sizes)
    )
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sentences(tmp_path_factory):
    """A folder with train.csv (240 rows) and test.csv (120), columns text, label and group."""
    folder = tmp_path_factory.mktemp("sentences")
    draw = random.Random(0)
    for name, count in (("train", 240), ("test", 120)):
        with open(folder / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["text", "label", "group"])
            for number in range(count):
                label = number % 2
                words = [draw.choice(PLAIN) for _ in range(2)] + [draw.choice((BAD, GOOD)[label]) for _ in range(4)]
                draw.shuffle(words)
                table.writerow([" ".join(words), ("bad", "good")[label], f"{name}{number // 3}"])
    return folder
