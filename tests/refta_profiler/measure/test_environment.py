"""What a run writes about where it ran."""

import json
import subprocess
from pathlib import Path

import pytest
import torch

from refta_profiler.measure import checkout, environment


def test_versions_processor_and_time_are_there():
    found = environment.describe("cpu")
    assert found["versions"]["torch"] == torch.__version__
    assert found["device"].startswith("cpu: ")
    assert found["cpu"]["cores"] >= 1
    assert found["gpu"] is None
    json.dumps(found)


def test_the_commit_is_the_checkouts():
    here = Path(environment.__file__).parent
    inside = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True)
    expected = inside.stdout.strip() if inside.returncode == 0 else None
    assert environment.describe("cpu").get("commit") == expected


def test_outside_a_checkout_no_commit_is_made_up(monkeypatch):
    def fail(*_, **__):
        raise FileNotFoundError("git")

    monkeypatch.setattr(checkout, "installed", dict)
    monkeypatch.setattr(checkout.subprocess, "run", fail)
    found = environment.describe("cpu")
    assert "commit" not in found
    assert found["commit_unknown"] == "git could not be asked: git"


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "NVIDIA_TF32_OVERRIDE", "CUDA_LAUNCH_BLOCKING", "KMP_BLOCKTIME", "MALLOC_ARENA_MAX"])
def test_variables_that_matter_are_kept(monkeypatch, name):
    monkeypatch.setenv(name, "3")
    assert environment.describe("cpu")["variables"][name] == "3"


def test_variables_that_say_where_something_lies_are_not_kept(monkeypatch):
    monkeypatch.setenv("CUDA_HOME", "/home/me/cuda")
    assert "CUDA_HOME" not in environment.variables()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["/home/me/refta_profiler/__main__.py", "run", "my file.yaml"], "python -m refta_profiler run 'my file.yaml'"),
        (["/home/me/.venv/bin/refta-profiler", "run", "a.yaml"], "refta-profiler run a.yaml"),
        (["train.py"], "train.py"),
    ],
)
def test_the_command_can_be_given_to_a_shell_and_says_not_where_the_code_lies(arguments, expected):
    assert environment.command(arguments) == expected


def test_libraries_that_torch_was_built_with_are_told(monkeypatch):
    shown = "  - Intel(R) oneAPI Math Kernel Library Version 2024.2-Product Build 1\n  - Intel(R) MKL-DNN v3.12.0 (Git Hash 8)\n"
    monkeypatch.setattr(torch.__config__, "show", lambda: shown)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert environment.libraries() == {"mkl": "2024.2-Product", "onednn": "3.12.0"}
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
    assert environment.libraries()["cudnn"] == "91002"


def test_where_something_was_measured_says_with_what():
    found = environment.where("cpu")
    assert found["versions"]["torch_build"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert found["torch_settings"]["cudnn_benchmark"] is False


def test_a_package_that_is_absent_is_said_to_be():
    assert environment._version("no-such-package-anywhere") == "not installed"


@pytest.mark.gpu
def test_the_gpu_is_described():
    found = environment.describe("cuda")
    assert found["device"].startswith("cuda: ")
    assert found["gpu"]["memory_bytes"] > 0
