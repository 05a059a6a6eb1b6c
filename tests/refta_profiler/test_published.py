"""Runs that are put where they are committed: whole or as before, with a report and without paths; and the recording of GPU scenarios."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from refta_profiler.errors import ScenarioError
from refta_profiler.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
STORED = ROOT / "reports" / "published" / "gpu" / "roberta_l_rte"


def script(path):
    found = importlib.util.spec_from_file_location(Path(path).stem, ROOT / "scenarios" / path)
    module = importlib.util.module_from_spec(found)
    sys.modules[module.__name__] = module  # where dataclasses look for it
    found.loader.exec_module(module)
    return module


@pytest.fixture
def run(tmp_path):
    path = shutil.copytree(STORED, tmp_path / "runs" / "20260101T000000Z")
    folder = RunFolder.open(path)
    command = f"{ROOT}/refta_profiler/__main__.py run {ROOT}/scenarios/x.yaml --resume {path} --out {ROOT}"
    folder.write_environment({**folder.environment(), "command": command})
    (path / "traces").mkdir(exist_ok=True)
    (path / "traces" / "p.trace.json.gz").write_bytes(b"much")
    (path / ".lock").touch()
    return path


def test_paths_of_this_machine_and_large_files_stay_behind(run, tmp_path):
    out = tmp_path / "out"
    script("publish.py").publish(run, out)
    environment = json.loads((out / "environment.json").read_text())
    assert environment["command"] == "refta_profiler/__main__.py run scenarios/x.yaml --resume RUN --out ."
    assert not any(str(ROOT) in path.read_text() for path in out.rglob("*") if path.suffix in (".html", ".json", ".yaml", ".csv"))
    assert (out / "report.html").is_file()
    assert (out / "results.csv").read_text() == (run / "results.csv").read_text()
    assert not (out / "traces").exists() and not (out / ".lock").exists()


def test_what_was_there_stays_until_the_new_one_is_whole(run, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").touch()
    with pytest.raises(ScenarioError, match="none of the formats"):
        script("publish.py").publish(run, out, formats=("nothing",))
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == ["out"]
    assert (out / "old").exists()
    script("publish.py").publish(run, out, without=["points"])
    assert not (out / "old").exists() and not (out / "points").exists()


def test_a_run_that_is_not_finished_is_refused(run, tmp_path, capsys):
    (run / "results.csv").unlink()
    with pytest.raises(SystemExit) as ended:
        script("publish.py").main([str(run), str(tmp_path / "out")])
    assert ended.value.code == 2
    assert "is not finished; go on with: python -m refta_profiler run" in capsys.readouterr().err


@pytest.fixture
def scenarios(tmp_path):
    text = "model: vit-tiny\ntask: {num_labels: 3}\ntarget: cpu\nmethods: [{name: lora, rank: RANK}]\nbatch: [1]\n"
    text += "measure: {on_cpu: {batch: [1], repeats: 1, steps: 1}, instruments: []}\n"
    for name, rank in (("good", "2"), ("bad", "0")):
        (tmp_path / f"{name}.yaml").write_text(text.replace("RANK", rank))
    return tmp_path


@pytest.mark.slow
def test_scenarios_are_recorded_and_one_that_fails_stops_no_other(scenarios, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    out = tmp_path / "published" / "gpu"
    asked = [str(scenarios / "bad.yaml"), str(scenarios / "good.yaml"), "--out", str(out), "--device", "cpu"]
    assert script("gpu/record.py").main(asked) == 1
    said = capfd.readouterr().out
    assert "bad: " in said and "predicting ended with exit code 2" in said
    assert re.search(r"^good: \d+ s$", said, re.MULTILINE)
    assert (out / "good" / "report.html").is_file() and not (out / "bad").exists()
    assert "good" in (tmp_path / "published" / "index.html").read_text()
    assert script("gpu/record.py").main([*asked[1:]]) == 0


@pytest.fixture
def commands(monkeypatch):
    """What is run, in words; `codes` says how a command ends, and `measured` a session of each measuring that did."""
    ran, codes = [], {}

    def run(command, **more):
        ran.append(command)
        if "--resume" in command and codes.get("sessions", True):
            told = Path(command[command.index("--resume") + 1]) / "environment.json"
            worked = json.loads(told.read_text())["sessions"]
            told.write_text(json.dumps({"sessions": [*worked, {"ended": "now"}]}))
        return subprocess.CompletedProcess(command, codes.get("run", 0) if "run" in command else 0)

    monkeypatch.setattr(subprocess, "run", run)
    return ran, codes


def predicted(record, folder):
    """A recording whose run has its predictions."""
    one = record.Recording(Path("x.yaml"), folder, is_predicted=True)
    (folder / "20260101T000000Z").mkdir(parents=True)
    (folder / "20260101T000000Z" / "environment.json").write_text(json.dumps({"sessions": [{"ended": "before"}]}))
    return one


def names(ran):
    return [Path(command[1]).name if command[1] != "-m" else command[3] for command in ran]


@pytest.mark.parametrize(("card", "known"), [("h200", True), ("nvidia-h100-nvl", False)])
def test_another_card_is_predicted_and_has_a_folder_of_its_own(commands, monkeypatch, tmp_path, card, known):
    record = script("gpu/record.py")

    def predict(found, target):
        for one in found:
            predicted(record, one.folder)
            one.is_predicted = True

    monkeypatch.setattr(record, "card_at_hand", lambda device: (card, known))
    monkeypatch.setattr(record, "predict", predict)
    record.record([Path("x.yaml")], tmp_path / "gpu", "cuda", tmp_path / "work")
    ran, _ = commands
    told = ["--set", f"target={card}"] in [command[index : index + 2] for command in ran for index in range(len(command))]
    assert told == known
    assert any(str(tmp_path / f"gpu-{card}" / "x") in command for command in ran)


def test_the_card_at_hand_and_whether_devices_yaml_has_it():
    assert script("gpu/record.py").card_at_hand("cpu") == ("cpu", True)


def test_a_failed_point_does_not_keep_a_run_from_being_published(commands, tmp_path):
    record, (ran, codes) = script("gpu/record.py"), commands
    codes["run"] = 1
    one = predicted(record, tmp_path)
    record.measure(one, ["--device", "cuda"], tmp_path / "out")
    assert one.failures == ["measuring ended with exit code 1"]
    assert names(ran) == ["run", "publish.py", "validate"]


@pytest.mark.parametrize(("code", "sessions"), [(3, True), (1, False), (2, False)], ids=["no GPU", "a traceback", "a full disk"])
def test_what_was_not_measured_is_not_published(commands, tmp_path, code, sessions):
    record, (ran, codes) = script("gpu/record.py"), commands
    codes |= {"run": code, "sessions": sessions}
    record.measure(predicted(record, tmp_path), ["--device", "cuda"], tmp_path / "out")
    assert names(ran) == ["run"]
