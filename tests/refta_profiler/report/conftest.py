"""A run folder with made-up numbers, and its document, made once for all tests of the report."""

import runpy
from pathlib import Path

import pytest

from refta_profiler.report.document import build

FIXTURE = Path(__file__).parent / "fixture" / "vit_l.py"


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    return runpy.run_path(str(FIXTURE))["make"](tmp_path_factory.mktemp("reports"))


@pytest.fixture(scope="session")
def document(run):
    return build(run)
