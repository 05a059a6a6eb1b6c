"""Numbers to predict, and images: the other kinds of a task, from a file to a score."""

import csv

import pytest
import torch

from refta_profiler import plan, scenario
from refta_profiler.errors import ScenarioError
from refta_profiler.task import train
from refta_profiler.task.inputs import Encoder, image


def job(values):
    loaded = scenario.from_values({"weights": "pretrained", "measure": {"when": "never"}, "batch": 8, **values}, "test")
    return train.Job(plan.points(loaded)[0], loaded.data, loaded.train, 1e-2, 0, 0)


def test_a_number_is_predicted_and_scored_by_its_correlation(tiny, sentences, tmp_path):
    for name in ("train", "test"):
        with open(sentences / f"{name}.csv", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        with open(tmp_path / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerows([["text", "label"], *([row["text"], {"bad": -1.5, "good": 2.0}[row["label"]]] for row in rows)])
    data = {"train": str(tmp_path / "train.csv"), "test": str(tmp_path / "test.csv")}
    values = {"model": str(tiny), "task": {"num_labels": 1}, "methods": [{"name": "full"}], "data": data, "train": {"steps": 40}}
    found = train.run(job(values))
    assert found.failure == ""
    assert found.validation > 0.8
    assert set(found.outcomes) - {0.0, 1.0}  # predictions, not right and wrong


@pytest.fixture
def images(tmp_path):
    """The folder of a tiny ViT, and one of 40 images, red or blue."""
    from PIL import Image
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": 16,
        "patch_size": 8,
    }
    ViTForImageClassification(ViTConfig(**sizes, num_labels=2)).save_pretrained(tmp_path / "vit")
    for kind, colour in (("blue", (0, 0, 200)), ("red", (200, 0, 0))):
        (tmp_path / "all" / kind).mkdir(parents=True)
        for number in range(20):
            Image.new("RGB", (20, 12), tuple(min(255, value + number) for value in colour)).save(tmp_path / "all" / kind / f"{number}.png")
    return tmp_path


def test_images_are_read_as_the_model_takes_them(images):
    path = images / "all" / "red" / "0.png"
    pixels = image(path, (16, 16))
    assert pixels.shape == (3, 16, 16)
    assert pixels[:, 0, 0].tolist() == pytest.approx([200 / 127.5 - 1, -1.0, -1.0])
    assert Encoder.of(str(images / "vit"), None, images=True).pixels == (16, 16)


def test_a_folder_of_images_is_learned(images):
    data = {"train": str(images / "all"), "test": str(images / "all"), "validation": str(images / "all")}
    found = train.run(
        job({"model": str(images / "vit"), "task": {"num_labels": 2}, "methods": [{"name": "full"}], "data": data, "train": {"steps": 20}})
    )
    assert found.failure == ""
    assert sum(found.outcomes) / 40 > 0.9


def test_a_folder_without_a_tokenizer_is_named(sentences, tiny, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((tiny / name).read_bytes())
    data = {"train": f"{sentences}/train.csv", "test": f"{sentences}/test.csv"}
    with pytest.raises(
        ScenarioError, match=r"test: model: the folder '.*' holds no tokenizer, so texts cannot be read; save its tokenizer there"
    ):
        job({"model": str(tmp_path), "methods": [{"name": "head"}], "data": data})
