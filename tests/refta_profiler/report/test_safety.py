"""What lies in a run's folder is data: a report made from it runs nothing of it."""

import pickle
import re

import pytest

import refta_profiler.report
from refta_profiler import report
from refta_profiler.errors import ScenarioError
from refta_profiler.results import Row
from refta_profiler.run_folder import RunFolder


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture
def folder(tmp_path):
    found = RunFolder.create(tmp_path, "name: !!python/object/apply:os.system ['touch harmed']\n")
    fields = ("p", "m", "refta/shared", "refta", "shared", 4, 1, None, "fp32", False, "cpu", "dryrun", "peak_allocated_bytes", "B")
    found.write_point("p", "dryrun", [Row(*fields, 1000)])
    return found


def test_a_scenario_that_would_run_something_is_text(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (path,) = report.write(folder)
    assert "!!python/object/apply" in path.read_text()
    assert not (tmp_path / "harmed").exists()


def test_pickles_in_the_folder_are_left_alone(folder, tmp_path):
    for name in ("steps/x.pkl", "points/x.pkl", "details/x.pt", "results.pkl"):
        place = folder.path / name
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(pickle.dumps(Bomb(tmp_path / "harmed")))
    report.write(folder)
    assert not (tmp_path / "harmed").exists()


def test_steps_that_are_no_json_are_named(folder):
    (folder.path / "steps").mkdir()
    (folder.path / "steps" / "x.json").write_bytes(pickle.dumps(1))
    with pytest.raises(ScenarioError, match=r"x\.json: cannot be read"):
        report.write(folder)


def test_nothing_in_the_report_can_run_what_it_reads():
    folder = next(iter(refta_profiler.report.__path__))
    for path in RunFolder(folder).path.rglob("*.py"):
        assert not re.search(r"\b(pickle|marshal|shelve|exec|eval|torch\.load|yaml\.load|subprocess)\b", path.read_text()), path
    for path in RunFolder(folder).path.rglob("*.js"):
        assert not re.search(
            r"\b(eval|Function|innerHTML|outerHTML|insertAdjacentHTML|document\.write|fetch|XMLHttpRequest)\b", path.read_text()
        ), path
