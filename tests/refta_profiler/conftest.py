"""Tests of the profiler leave no trace in a person's home: slice ranks are kept in a folder of the session."""

import os

import pytest

from refta_profiler import scenario as scenarios
from refta_profiler.run_folder import RunFolder


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("XDG_CACHE_HOME")
    if before is not None:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture
def scenario(request, tmp_path):
    """The scenario that the test's module has as SCENARIO."""
    path = tmp_path / "tiny.yaml"
    path.write_text(request.module.SCENARIO)
    return scenarios.load(path, [])


@pytest.fixture
def folder(tmp_path, scenario):
    """A new run's folder of the scenario."""
    return RunFolder.create(tmp_path / "out", scenario.text)
