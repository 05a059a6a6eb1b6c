"""A model is a preset, a folder or a hub name; what is wrong with one is said in a line."""

import json

import pytest
from model_points import point

from refta_profiler import model_source, models
from refta_profiler.errors import ScenarioError


def save(folder, name="roberta-tiny", **changes):
    """A folder with the config.json of a preset."""
    folder.mkdir(exist_ok=True)
    entry = models.presets()[name]
    (folder / "config.json").write_text(json.dumps({"model_type": entry["model_type"], **entry["config"], **changes}))
    return str(folder)


@pytest.mark.parametrize("name", ["roberta-tiny", "gpt2-tiny", "llama-tiny", "vit-tiny", "dinov2-base"])
def test_a_folder_that_save_pretrained_wrote_is_the_preset(name, tmp_path):
    models.config(name).save_pretrained(tmp_path)
    if name == "dinov2-base":
        processor = {"do_center_crop": True, "crop_size": {"height": 224, "width": 224}, "size": {"shortest_edge": 256}}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    folder = str(tmp_path)
    assert models.layers(folder) == models.layers(name)
    assert models.task_kinds(folder) == models.task_kinds(name)
    assert models.tokens_per_sequence(folder, None) == models.tokens_per_sequence(name, None)
    assert models.longest_sequence(folder) == models.longest_sequence(name)
    built, wanted = models.build_on_meta(point(folder)), models.build_on_meta(point(name))
    assert [(k, p.shape) for k, p in built.named_parameters()] == [(k, p.shape) for k, p in wanted.named_parameters()]


def test_an_architecture_that_is_not_described_is_still_built(tmp_path):
    config = {
        "model_type": "electra",
        "vocab_size": 50,
        "embedding_size": 16,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config |= {"intermediate_size": 32, "architectures": ["ElectraForSequenceClassification"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    folder = str(tmp_path)
    assert models.layers(folder) is None and models.roles(folder) is None and models.longest_sequence(folder) is None
    assert models.task_kinds(folder) == ("sequence-classification",)
    one = point(folder, "sequence-classification")
    assert models.build(one, "cpu")(**models.batch(one, "cpu")).loss.isfinite()


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        ({"max_position_embeddings": 512}, 512),
        ({"n_positions": 1024}, 1024),
        ({"n_positions": 512, "relative_attention_num_buckets": 32}, None),  # T5's are no limit
        ({"max_position_embeddings": 512, "relative_attention": True}, None),  # nor DeBERTa's
        ({"max_position_embeddings": -1}, None),
    ],
)
def test_positions_of_an_architecture_that_is_not_described(settings, most, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "unheard", **settings}))
    assert models.longest_sequence(str(tmp_path)) == most


@pytest.mark.parametrize(
    ("settings", "kinds"),
    [
        ({"architectures": ["SwinForImageClassification"]}, ("image-classification",)),
        ({"architectures": ["FalconForCausalLM"], "vocab_size": 9}, ("causal-lm", "sequence-classification")),
        ({"architectures": ["ElectraForMaskedLM"], "vocab_size": 9}, ("sequence-classification",)),
        ({"image_size": 224}, ("image-classification",)),
        ({"vocab_size": 9}, ()),
    ],
)
def test_task_of_an_architecture_that_is_not_described(settings, kinds, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "unheard", **settings}))
    assert models.task_kinds(str(tmp_path)) == kinds


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, r"has no config.json; give a folder that save_pretrained wrote"),
        ("{", r"config.json: cannot be read as JSON"),
        ("[1]", r"config.json: holds a list, not a mapping"),
        ("{}", r"config.json: there is no model_type"),
        ('{"model_type": "vit", "hidden_size": "wide"}', r"config.json: the shapes cannot be read"),
        ('{"model_type": "vit", "num_attention_heads": 0}', r"config.json: the shapes cannot be read"),
    ],
)
def test_a_broken_folder(text, says, tmp_path):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ScenarioError, match=says):
        models.layers(str(tmp_path))


def test_a_config_that_transformers_refuses(tmp_path):
    folder = save(tmp_path, "llama-tiny", hidden_size=63, head_dim=None)
    with pytest.raises(ScenarioError, match=r"transformers refuses its config"):
        models.config(folder)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "my-own", "auto_map": {"AutoConfig": "evil.Config"}}))
    (tmp_path / "evil.py").write_text("raise SystemExit('hub code was run')")
    with pytest.raises(ScenarioError, match=r"transformers refuses its config"):
        models.config(folder)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("vit-larg", r"unknown model 'vit-larg'; did you mean 'vit-large'\? \(presets: vit-tiny, "),
        ("xyzzy", r"unknown model 'xyzzy'; \(presets: .*hub name written owner/name\)"),
        ("./nowhere", r"there is no folder './nowhere'"),
        ("/no/where/at/all", r"there is no folder '/no/where/at/all'"),
        ("bad name!/model", r"'bad name!/model' is neither a folder nor a hub name"),
        (
            "owner/vit-large",
            r"the hub name 'owner/vit-large' cannot be reached: .*did you mean the preset 'vit-large'\?.*hf download owner/vit-large",
        ),
    ],
)
def test_a_model_that_is_not_there(name, says, monkeypatch):
    monkeypatch.setattr(model_source, "reachable", lambda: False)
    with pytest.raises(ScenarioError, match=says):
        models.layers(name)


def test_the_hubs_client_is_not_asked_without_a_connection(monkeypatch):
    """It would try six times, half a minute in all."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(model_source.os, "environ", {})
    monkeypatch.setattr(constants, "ENDPOINT", "https://127.0.0.1:9")
    assert not model_source.reachable()
    monkeypatch.setattr(model_source.os, "environ", {"HTTPS_PROXY": "http://proxy"})
    assert model_source.reachable()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert not model_source.reachable()


def test_what_the_hub_says_is_said_in_one_line(monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    class RepositoryNotFoundError(Exception):
        """Named like the hub's own, which wants a response."""

    def download(name, file, *, local_files_only=False, etag_timeout=0):
        if local_files_only:
            raise LocalEntryNotFoundError("not cached")
        raise RepositoryNotFoundError("404 Client Error\nmany\nlines")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(model_source, "reachable", lambda: True)
    with pytest.raises(ScenarioError, match=r"'a/b' cannot be reached: the hub knows no such model") as caught:
        models.layers("a/b")
    assert "\n" not in str(caught.value)


def test_a_cached_hub_name_is_read_without_a_connection(monkeypatch, tmp_path):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    save(tmp_path, "vit-tiny")

    def download(name, file, *, local_files_only=False, etag_timeout=0):
        if file == "config.json" and local_files_only:
            return str(tmp_path / "config.json")
        raise LocalEntryNotFoundError("not cached")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(model_source, "reachable", lambda: False)
    assert models.layers("someone/vit") == models.layers("vit-tiny")
    assert models.describe("someone/vit").pretrained == "someone/vit"


def test_fingerprint_changes_with_the_architecture(tmp_path):
    one = models.fingerprint(save(tmp_path))
    assert one == models.fingerprint(str(tmp_path)) and one != models.fingerprint(save(tmp_path, num_hidden_layers=4))
