"""What a run writes about where it ran."""

import json
import subprocess
from pathlib import Path

import pytest
import torch

from refta_profiler.measure import environment


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

    monkeypatch.setattr(environment.subprocess, "run", fail)
    assert "commit" not in environment.describe("cpu")


def test_variables_that_matter_are_kept(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert environment.describe("cpu")["variables"]["OMP_NUM_THREADS"] == "3"


def test_a_package_that_is_absent_is_said_to_be():
    assert environment._version("no-such-package-anywhere") == "not installed"


@pytest.mark.gpu
def test_the_gpu_is_described():
    found = environment.describe("cuda")
    assert found["device"].startswith("cuda: ")
    assert found["gpu"]["memory_bytes"] > 0
