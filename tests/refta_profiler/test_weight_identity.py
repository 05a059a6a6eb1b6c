"""What tells one set of pretrained weights from another, and that a run measures changed ones anew."""

import json
import shutil

import pytest
from fake_executor import Fake

from refta_profiler import plan, weight_identity
from refta_profiler import scenario as scenarios
from refta_profiler.measure import stage
from refta_profiler.run_folder import RunFolder

CONFIG = {"model_type": "roberta", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
CONFIG |= {"vocab_size": 50, "max_position_embeddings": 20, "architectures": ["RobertaForMaskedLM"]}


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "model.safetensors").write_bytes(bytes(3 << 20))
    return folder


def change(path, place):
    content = bytearray(path.read_bytes())
    content[place : place + 20_000] = b"x" * 20_000
    path.write_bytes(content)


@pytest.mark.parametrize("place", [10, 2_000_000, 3 * (1 << 20) - 20_000])
def test_changed_weights_are_others_wherever_they_changed(model, place):
    before = weight_identity.of(str(model))
    change(model / "model.safetensors", place)
    assert before.startswith("sample ")
    assert weight_identity.of(str(model)) != before


def test_a_copy_has_the_same_and_what_is_no_weight_does_not_count(model, tmp_path):
    shutil.copytree(model, tmp_path / "copy")
    (tmp_path / "copy" / "README.md").write_text("a copy")
    assert weight_identity.of(str(tmp_path / "copy")) == weight_identity.of(str(model))


def test_a_model_without_weights_has_none(model):
    (model / "model.safetensors").unlink()
    assert weight_identity.of(str(model)) == ""


def test_the_hubs_weights_are_told_by_their_commit(monkeypatch):
    cached = {"pytorch_model.bin": "/home/me/.cache/hub/models--a--b/snapshots/abc/pytorch_model.bin"}
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: cached.get(file))
    assert weight_identity.revision("a/b") == "a/b at abc"
    cached.clear()
    assert weight_identity.revision("a/b") == ""


class Silent:
    def start(self, what, total):
        pass

    def done(self, point, note=""):
        pass


def test_changed_weights_are_measured_anew_and_answers_that_do_not_tell_theirs_stand(model, tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(
        f"model: {model}\nweights: pretrained\ntask: {{kind: sequence-classification, num_labels: 3}}\nseq: [8]\ntarget: cpu\nbatch: [1]\n"
        "methods: [{name: head}]\nmeasure: {on_cpu: {batch: [1], warmup: 0, steps: 1, repeats: 2}}\n"
    )
    scenario = scenarios.load(path, [])
    folder = RunFolder.create(tmp_path / "out", scenario.text)

    def measured():
        fake = Fake({"cpu: x": 1})
        stage.measure_all(scenario, plan.points(scenario), folder, "cpu", "cpu", Silent(), fake)
        return len(fake.started)

    assert (measured(), measured()) == (2, 0)
    change(model / "model.safetensors", 2_000_000)
    assert (measured(), measured()) == (2, 0)
    for process in (folder.path / "processes").iterdir():
        content = json.loads(process.read_text())
        del content["asked"]["weights"]
        process.write_text(json.dumps(content))
    change(model / "model.safetensors", 1_000_000)
    assert measured() == 0
