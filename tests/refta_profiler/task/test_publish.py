"""What is published of a run makes its report again and holds no path of the machine that made it."""

import importlib.util
import json
from pathlib import Path

import pytest

from refta_profiler.errors import ScenarioError
from refta_profiler.run_folder import RunFolder
from refta_profiler.task import store
from refta_profiler.task.store import Trained

SCRIPT = Path(__file__).parents[3] / "scenarios" / "accuracy" / "publish.py"


@pytest.fixture
def publish():
    found = importlib.util.spec_from_file_location("publish", SCRIPT)
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module.publish


@pytest.fixture
def run(tmp_path):
    folder = RunFolder.create(tmp_path / "runs", "name: claims-accuracy\nmodel: /home/me/accuracy/data/minilm\n")
    methods = [{"label": "head", "method": "head", "point": "p", "rates": [0.1], "files": ["p.lr0.1.seed0.json"]}]
    shared = {"metric": "accuracy", "items": {"train": 9, "validation": 3, "test": 2}, "truth": None, "seeds": [0], "lr_seeds": 1}
    store.write_shared(folder, {**shared, "steps": 1, "batch": 4, "to_loss": None, "methods": methods})
    store.write(folder, "p.lr0.1.seed0.json", Trained("p", "head", "head", 0.1, 0, (0.5,), 0.1, 0.1, 0.5, (1.0, 0.0), 10))
    folder.write_table()
    return folder


def test_what_is_published_holds_no_path(publish, run, tmp_path):
    publish(run.path, tmp_path / "out")
    texts = [path.read_text(encoding="utf-8") for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not any("/home/me" in text for text in texts)
    assert "scenarios/accuracy/data/minilm" in (tmp_path / "out" / "scenario.yaml").read_text()
    assert "50.0%" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_a_run_that_is_not_finished_is_refused(publish, run, tmp_path):
    content = json.loads((run.path / "training.json").read_text())
    content["methods"].append({"label": "x", "method": "full", "point": "q", "rates": [0.1], "files": ["q.json"]})
    (run.path / "training.json").write_text(json.dumps(content))
    with pytest.raises(ScenarioError, match="is not finished; go on with --resume"):
        publish(run.path, tmp_path / "out")
