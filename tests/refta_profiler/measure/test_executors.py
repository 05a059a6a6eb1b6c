"""The registry of executors, and what the command line says of one that cannot be had."""

import importlib
import subprocess

import pytest

from refta_profiler import cli
from refta_profiler.errors import HardwareError, ScenarioError
from refta_profiler.measure import executors
from refta_profiler.measure.executors import Settings, local, slurm


def test_the_folder_is_the_registry():
    assert executors.names() == ["local", "ray", "slurm"]
    assert isinstance(executors.make("local", Settings()), local.Local)


@pytest.mark.parametrize(("name", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_a_package_that_is_not_installed_is_named_with_its_extra(monkeypatch, name, package):
    real = importlib.import_module

    def missing(wanted):
        if wanted == package:
            raise ImportError(wanted)
        return real(wanted)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ScenarioError, match=rf"pip install 'refta-profiler\[{name}\]'") as caught:
        executors.make(name, Settings())
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(("text", "minutes"), [("90", 90), ("1:30:00", 90), ("5:00", 5), ("0:90", 2), ("1-0", 1440), ("1-0:30", 1470)])
def test_slurms_times_in_minutes(text, minutes):
    assert slurm.minutes(text) == minutes


@pytest.mark.parametrize("text", ["soon", "1:2:3:4", "-5", "1:x", ""])
def test_what_is_no_time(text):
    with pytest.raises(ScenarioError, match="--time"):
        slurm.minutes(text)


def test_partitions_without_gpus_are_named(monkeypatch):
    monkeypatch.setattr(slurm, "said", lambda command: "debug* (null)\nlong (null)\n")
    found = slurm.Slurm(None, "slurm", {"partition": "long"})
    assert (found.kind("auto"), found.kind("cpu")) == ("cpu", "cpu")
    with pytest.raises(HardwareError, match=r"no partition .* offers a GPU: debug\* \(null\); long \(null\)"):
        found.kind("cuda")
    monkeypatch.setattr(slurm, "said", lambda command: "gpu gpu:h100:8\n")
    assert found.kind("auto") == found.kind("cuda") == "cuda"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"address": "a:1"}, "--address: of use with --executor ray alone"),
        ({"cpus": 2}, "--cpus: of use with --executor ray or slurm alone"),
        ({"name": "slurm", "cpus": 0}, "--cpus 0: it must be at least 1"),
        ({"name": "ray", "slurm": {"time": "5"}}, "--partition, --time, --account and --slurm: of use with --executor slurm alone"),
    ],
)
def test_options_of_an_executor_that_is_not_chosen(options, words):
    given = {"name": "local", "address": None, "slurm": {}, "cpus": None, **options}
    with pytest.raises(ScenarioError, match=words), cli._executor(loaded=None, **given):
        pytest.fail("taken")


def test_the_command_that_goes_on_says_all_that_was_said(tmp_path):
    given = {"executor": "local", "address": None, "cpus": None, "only": None, "device": "auto", "format": "html"}
    path = tmp_path / "a"
    assert cli._again(path, [], given, {}) == f"python -m refta_profiler run {path / 'scenario.yaml'} --resume {path}"
    given |= {"executor": "ray", "address": "h:1", "cpus": 4, "only": "measure", "device": "cuda", "format": "html,md"}
    asked = "--allow-code --executor ray --address h:1 --cpus 4 --only measure --device cuda --format html,md --slurm 'constraint=a b'"
    assert cli._again(path, ["--allow-code"], given, {"constraint": "a b"}).endswith(f"--resume {path} {asked}")


def test_slurms_own_words_where_it_does_not_answer(monkeypatch):
    def fails(command, **options):
        raise subprocess.CalledProcessError(1, command, stderr="slurm_load_partitions:\n Unable to contact slurm controller")

    monkeypatch.setattr(subprocess, "run", fails)
    with pytest.raises(HardwareError, match="sinfo: slurm_load_partitions: Unable to contact slurm controller"):
        slurm.said(["sinfo"])
