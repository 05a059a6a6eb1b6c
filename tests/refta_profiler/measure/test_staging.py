"""What travels to a node: both packages, own code where it is not installed, a model's description."""

import pytest
from user_module import ADAPTERS

from refta_profiler import own_sources
from refta_profiler.measure import staging


@pytest.fixture
def here(tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "adapters_to_stage.py").write_text(ADAPTERS + "\nfrom parts_to_stage import deep\n")
    (folder / "parts_to_stage").mkdir()
    (folder / "parts_to_stage" / "__init__.py").write_text("")
    (folder / "parts_to_stage" / "deep.py").write_text("")
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    (folder / "model" / "weights.safetensors").write_text("heavy")
    (folder / "unrelated.py").write_text("")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    return folder


def test_a_node_gets_what_a_scenario_needs_and_no_more(tmp_path, here):
    place = tmp_path / "staged"
    place.mkdir()
    staging.stage(["adapters_to_stage"], "model", place)
    inside = {
        str(path.relative_to(place)) for path in place.rglob("*") if path.is_file() and path.parts[len(place.parts)] not in staging.PACKAGES
    }
    assert inside == {"adapters_to_stage.py", "parts_to_stage/__init__.py", "parts_to_stage/deep.py", "model/config.json"}
    assert (place / "refta_profiler" / "measure" / "worker.py").exists()
    assert (place / "refta" / "__init__.py").exists()
    assert not list(place.rglob("__pycache__"))


def test_code_that_travelled_is_still_itself(tmp_path, here, monkeypatch):
    before = own_sources.fingerprint("adapters_to_stage")
    place = tmp_path / "staged"
    place.mkdir()
    staging.stage(["adapters_to_stage"], "", place)
    monkeypatch.syspath_prepend(str(place))
    assert own_sources.files("adapters_to_stage")[0].is_relative_to(place)
    assert own_sources.fingerprint("adapters_to_stage") == before


def test_what_is_installed_is_not_carried():
    assert staging.own_files(["pytest"]) == {}
    assert staging.own_files(["no_such_module_anywhere"]) == {}


@pytest.mark.parametrize("model", ["", "vit-tiny", "google/vit-base-patch16-224", "/absolute/folder", "../model"])
def test_models_that_a_node_finds_itself(here, model):
    assert staging.model_files(model) == {}
